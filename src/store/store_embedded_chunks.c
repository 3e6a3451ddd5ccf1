#include "build_config.h"

#include "store/store_embedded.h"

/* The log of a job's stream in the embedded store: one row a chunk, and how far each key has read.
 */

enum { READ_MOST_CHUNKS = 10000, READ_MOST_BYTES = 16 * 1024 * 1024 };

/* A stream of a job whose result has gone is gone with it. */
static bool takes_chunks(const struct embedded_work *work, const struct store_job *job)
{
    return (job->fate == STORE_FATE_NONE || job->fate == STORE_FATE_KEPT ||
            job->fate == STORE_FATE_TOO_LARGE) &&
           !embedded_has_expired(work, job);
}

enum store_result embedded_append_chunks(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct view bytes = body_view(question->chunks);
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result != STORE_OK) {
        return result;
    }
    before = row;
    if (work->embedded->is_spool && row.job.generation == question->generation &&
        row.job.chunk_count < question->from) {
        row.job.chunk_count = question->from; /* Redis has what came before */
    }
    if (row.job.generation != question->generation || row.job.chunk_count != question->from ||
        !takes_chunks(work, &row.job)) {
        embedded_reply_job(work, &row);
        embedded_done(statement);
        return STORE_CONFLICT;
    }
    for (uint32_t i = 0; i < question->chunk_count; i++) {
        struct view chunk = view_first(bytes, question->chunk_lengths[i]);

        EMBEDDED_RUN(
            work->connection, "INSERT OR REPLACE INTO chunks(row,number,body) VALUES(?1,?2,?3)",
            embedded_row_id(row.id), embedded_number(row.job.chunk_count), embedded_blob(chunk));
        bytes = view_skip(bytes, chunk.length);
        row.job.chunk_count++;
        row.chunk_bytes += chunk.length;
    }
    embedded_save_row(work, &before, &row);
    embedded_reply_job(work, &row);
    embedded_done(statement);
    return STORE_OK;
}

/* Appends what fits; at least one chunk, however long, so that a reader gets on. */
static enum store_result collect(struct embedded_work *work, int64_t row, uint64_t limit,
                                 uint64_t limit_bytes)
{
    uint64_t bytes = 0;
    sqlite3_stmt *statement = EMBEDDED_QUERY(
        work->connection,
        "SELECT number,body FROM chunks WHERE row=?1 AND number>=?2"
        " ORDER BY number LIMIT ?3",
        embedded_row_id(row), embedded_number(work->question->from), embedded_number(limit));

    while (statement) {
        struct view chunk = embedded_column_bytes(statement, 1);
        uint64_t number = embedded_column_number(statement, 0, UINT64_MAX);

        if (number != work->question->from + work->reply->chunk_count) {
            work->broken = true; /* one is missing */
            embedded_done(statement);
            return STORE_BROKEN;
        }
        bytes += chunk.length;
        if (bytes > limit_bytes && work->reply->chunk_count > 0) {
            embedded_done(statement);
            break;
        }
        if (!body_append(work->reply->body, chunk)) {
            embedded_done(statement);
            return STORE_NO_MEMORY;
        }
        embedded_reply_add_length(work, (uint32_t)chunk.length);
        if (!embedded_next(work->connection, statement)) {
            break;
        }
    }
    return STORE_OK;
}

enum store_result embedded_read_chunks(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    uint64_t limit = question->limit > 0 ? question->limit : READ_MOST_CHUNKS;
    uint64_t limit_bytes = question->limit_bytes > 0 ? question->limit_bytes : READ_MOST_BYTES;
    struct embedded_row row;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result != STORE_OK) {
        return result;
    }
    embedded_reply_job(work, &row);
    if (takes_chunks(work, &row.job) && question->from < row.job.chunk_count) {
        work->reply->body = body_create(work->embedded->store->budget, 0);
        result = work->reply->body ? collect(work, row.id, limit, limit_bytes) : STORE_NO_MEMORY;
    }
    embedded_done(statement);
    return result;
}

enum store_result embedded_get_cursor(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    sqlite3_stmt *statement;
    sqlite3_stmt *cursor;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result != STORE_OK) {
        return result;
    }
    embedded_reply_job(work, &row);
    cursor = EMBEDDED_QUERY(work->connection,
                            "SELECT position,ended FROM cursors WHERE row=?1 AND consumer=?2",
                            embedded_row_id(row.id), embedded_text(question->consumer));
    if (cursor) {
        work->reply->cursor_position = embedded_column_number(cursor, 0, 0);
        work->reply->cursor_ended = embedded_column_number(cursor, 1, 0) != 0;
        embedded_done(cursor);
    }
    embedded_done(statement);
    return STORE_OK;
}

enum store_result embedded_set_cursor(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result != STORE_OK) {
        return result;
    }
    if (question->generation > 0 && row.job.generation != question->generation) {
        embedded_reply_job(work, &row); /* a late write must not skip chunks of a retried run */
        embedded_done(statement);
        return STORE_CONFLICT;
    }
    EMBEDDED_RUN(work->connection,
                 "INSERT OR REPLACE INTO cursors(row,consumer,position,ended) VALUES(?1,?2,?3,?4)",
                 embedded_row_id(row.id), embedded_text(question->consumer),
                 embedded_number(question->from), embedded_number(question->ended));
    embedded_note_news(work, row.id);
    embedded_reply_job(work, &row);
    embedded_done(statement);
    return STORE_OK;
}
