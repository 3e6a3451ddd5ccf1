#include "build_config.h"

#include <string.h>

#include "store/store_embedded.h"

/* What the embedded store knows beyond its own operations when it is the spool of a Redis that is
 * away: which of its rows Redis hasn't got. */

/* ---- news ------------------------------------------------------------------------------------ */

bool embedded_is_news(const struct embedded_work *work)
{
    if (!work->embedded->is_spool) {
        return false;
    }
    switch ((unsigned)work->question->operation) {
    case STORE_SETTLE_SUBMIT:
    case STORE_ADOPT_JOB:
    case STORE_PUT_RESULT:
    case STORE_RETRY_JOB:
    case STORE_DELETE_RESULT:
    case STORE_SHORTEN:
    case STORE_APPEND_CHUNKS:
    case STORE_SET_CURSOR: return true;
    case EMBEDDED_IMPORT_JOB: return work->question->ended;
    default: return false;
    }
}

void embedded_note_news(struct embedded_work *work, int64_t row)
{
    if (embedded_is_news(work)) {
        EMBEDDED_RUN(work->connection, "UPDATE jobs SET spool_order=?2,drained_ms=NULL WHERE id=?1",
                     embedded_row_id(row), embedded_number(++work->embedded->last_order));
    }
}

/* ---- what Redis knows ------------------------------------------------------------------------ */

static void take_facts(const struct embedded_work *work, struct embedded_row *row)
{
    const struct store_question *question = work->question;
    struct store_job *job = &row->job;

    job->generation = question->generation;
    job->submitted_ms = question->since_ms > 0 ? question->since_ms : work->now_ms;
    job->missing_count = question->missing;
    job->missing_since_ms = question->missing > 0 && question->missing_since_ms < work->now_ms
                                ? work->now_ms - question->missing_since_ms
                                : 0;
    job->failure_count = question->failures;
    if (question->upstream_id.length > 0) {
        job->upstream_id = question->upstream_id;
    }
    job->chunk_count = question->from;
}

enum store_result embedded_import_job(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result == STORE_ABSENT) {
        embedded_new_row(work, &row);
        take_facts(work, &row);
        embedded_insert_row(work, &row, NULL);
        EMBEDDED_RUN(work->connection, "UPDATE jobs SET chunk_count=?2 WHERE id=?1",
                     embedded_row_id(row.id), embedded_number(row.job.chunk_count));
        return STORE_OK;
    }
    if (result != STORE_OK) {
        return result;
    }
    before = row;
    if (row.job.generation < question->generation) {
        embedded_begin_again(work, &row);
        take_facts(work, &row);
        row.job.state = question->state;
    } else if (row.job.generation == question->generation &&
               !job_state_is_terminal(row.job.state)) {
        /* What the spool holds of it is as new as what Redis said, or newer. */
        row.job.state = question->state;
        row.job.due_ms = embedded_add(work->now_ms, question->due_ms);
        row.job.deadline_ms = embedded_add(work->now_ms, question->deadline_ms);
        row.scheduled = true;
        row.ready = false;
        if (row.job.chunk_count < question->from) {
            row.job.chunk_count = question->from;
        }
    }
    embedded_save_row(work, &before, &row);
    embedded_done(statement);
    return STORE_OK;
}

/* ---- what it doesn't ------------------------------------------------------------------------- */

/* The submit that a job came of, when the spool still has it; else its name alone. */
static void list_job(struct embedded_work *work, const struct embedded_row *row, uint64_t order)
{
    struct embedded_submit found;
    struct store_submit name = {.id = row->submit_id};
    sqlite3_stmt *statement = NULL;
    bool is_found = false;

    if (row->submit_id.length > 0) {
        statement = EMBEDDED_QUERY(work->connection,
                                   "SELECT " EMBEDDED_SUBMIT_COLUMNS " FROM submits WHERE id=?1",
                                   embedded_text(row->submit_id));
        is_found = statement && embedded_read_submit(statement, &found);
        if (!is_found) {
            name.operation = row->job.generation > 1               ? STORE_SUBMIT_RETRY
                             : row->job.kind == STORE_KIND_RUNSYNC ? STORE_SUBMIT_RUNSYNC
                                                                   : STORE_SUBMIT_RUN;
        }
    }
    embedded_reply_add_spooled(work, row,
                               is_found                    ? &found.submit
                               : row->submit_id.length > 0 ? &name
                                                           : NULL,
                               order);
    if (statement) {
        embedded_done(statement);
    }
}

static void list_jobs(struct embedded_work *work, size_t limit)
{
    sqlite3_stmt *statement =
        EMBEDDED_QUERY(work->connection,
                       "SELECT " EMBEDDED_JOB_COLUMNS ",spool_order FROM jobs"
                       " WHERE spool_order IS NOT NULL ORDER BY spool_order LIMIT ?1",
                       embedded_number(limit));
    int order_column = statement ? sqlite3_column_count(statement) - 1 : 0;
    struct embedded_row row;

    while (statement) {
        if (embedded_read_row(statement, &row)) {
            list_job(work, &row, embedded_column_number(statement, order_column, 0));
        } else {
            work->broken = true;
        }
        if (!embedded_next(work->connection, statement)) {
            break;
        }
    }
}

static void list_submits(struct embedded_work *work, size_t limit)
{
    sqlite3_stmt *statement =
        EMBEDDED_QUERY(work->connection,
                       "SELECT " EMBEDDED_SUBMIT_COLUMNS " FROM submits"
                       " WHERE state='UNKNOWN' AND drained_ms IS NULL ORDER BY row LIMIT ?1",
                       embedded_number(limit));
    struct embedded_submit submit;

    while (statement) {
        if (embedded_read_submit(statement, &submit)) {
            embedded_reply_add_spooled(work, NULL, &submit.submit, 0);
        } else {
            work->broken = true;
        }
        if (!embedded_next(work->connection, statement)) {
            break;
        }
    }
}

static const char count_spooled[] =
    "SELECT (SELECT count(*) FROM jobs WHERE spool_order IS NOT NULL)"
    "+(SELECT count(*) FROM submits WHERE state='UNKNOWN' AND drained_ms IS NULL)";

bool embedded_visit_spooled(struct embedded *embedded,
                            void (*visit)(void *argument, const struct store_job *job),
                            void *argument, uint64_t *count)
{
    struct embedded_connection *reader = &embedded->reader;
    sqlite3_stmt *statement = embedded_query(
        reader, "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs WHERE spool_order IS NOT NULL", NULL, 0);
    struct embedded_row row;

    while (statement) {
        if (embedded_read_row(statement, &row)) {
            visit(argument, &row.job);
        }
        if (!embedded_next(reader, statement)) {
            break;
        }
    }
    *count = embedded_query_number(reader, count_spooled, NULL, 0, 0);
    return reader->error == SQLITE_OK;
}

enum store_result embedded_list_spooled(struct embedded_work *work)
{
    size_t limit = work->question->limit;

    list_jobs(work, limit);
    if (work->reply->count < limit) {
        list_submits(work, limit - work->reply->count);
    }
    work->reply->counts.spooled =
        embedded_query_number(work->connection, count_spooled, NULL, 0, 0);
    return STORE_OK;
}

enum store_result embedded_get_answer(struct embedded_work *work)
{
    const struct embedded_value id = embedded_text(work->question->submit.id);
    uint64_t row = embedded_query_number(
        work->connection, "SELECT row FROM submits WHERE id=?1 AND answer IS NOT NULL", &id, 1, 0);

    return row == 0 ? STORE_ABSENT : embedded_reply_blob(work, "submits", "answer", (int64_t)row);
}

enum store_result embedded_next_cursor(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct store_submit found = {.key = VIEW("")};
    sqlite3_stmt *statement =
        EMBEDDED_QUERY(work->connection,
                       "SELECT consumer,position,ended FROM cursors JOIN jobs ON row=id"
                       " WHERE endpoint=?1 AND job=?2 AND consumer>?3 ORDER BY consumer LIMIT 1",
                       embedded_text(question->endpoint), embedded_text(question->job),
                       embedded_text(question->consumer));

    if (!statement) {
        return STORE_ABSENT;
    }
    found.key = embedded_column_bytes(statement, 0);
    embedded_reply_submit(work, &found);
    work->reply->cursor_position = embedded_column_number(statement, 1, 0);
    work->reply->cursor_ended = embedded_column_number(statement, 2, 0) != 0;
    embedded_done(statement);
    return STORE_OK;
}

/* ---- what it has got ------------------------------------------------------------------------- */

static enum store_result mark_submit(struct embedded_work *work)
{
    EMBEDDED_RUN(work->connection,
                 "UPDATE submits SET drained_ms=?2,forget_ms=?3 WHERE id=?1 AND state='UNKNOWN'",
                 embedded_text(work->question->submit.id), embedded_number(work->now_ms),
                 embedded_number(embedded_add(work->now_ms, EMBEDDED_KEEP_DRAINED_MS)));
    return embedded_changed(work->connection) > 0 ? STORE_OK : STORE_CONFLICT;
}

enum store_result embedded_mark_drained(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result;

    if (question->job.length == 0) {
        return mark_submit(work);
    }
    EMBEDDED_RUN(work->connection,
                 "UPDATE jobs SET spool_order=NULL,drained_ms=?4"
                 " WHERE endpoint=?1 AND job=?2 AND spool_order=?3",
                 embedded_text(question->endpoint), embedded_text(question->job),
                 embedded_number(question->fence), embedded_number(work->now_ms));
    if (embedded_changed(work->connection) == 0) {
        return STORE_CONFLICT;
    }
    /* Redis's schedule has it now. */
    result = embedded_find_job(work, question->endpoint, question->job, &row, &statement);
    if (result == STORE_OK) {
        before = row;
        row.scheduled = false;
        row.ready = false;
        row.lease_instance = view_make(NULL, 0);
        embedded_save_row(work, &before, &row);
        /* Callers read on there: what stands here is soon too old to be told again. */
        EMBEDDED_RUN(work->connection, "DELETE FROM cursors WHERE row=?1", embedded_row_id(row.id));
        embedded_done(statement);
    }
    return result;
}

enum store_result embedded_reassert(struct embedded_work *work)
{
    uint64_t first = work->embedded->last_order + 1;

    EMBEDDED_RUN(work->connection,
                 "UPDATE jobs SET spool_order=?1+id,drained_ms=NULL WHERE drained_ms IS NOT NULL"
                 " AND spool_order IS NULL",
                 embedded_number(first));
    work->reply->count = embedded_changed(work->connection);
    work->embedded->last_order = embedded_query_number(
        work->connection, "SELECT max(spool_order) FROM jobs WHERE spool_order IS NOT NULL", NULL,
        0, first);
    if (work->embedded->last_order < first) {
        work->embedded->last_order = first;
    }
    EMBEDDED_RUN(work->connection,
                 "UPDATE submits SET drained_ms=NULL,forget_ms=NULL WHERE state='UNKNOWN'"
                 " AND drained_ms<=?1",
                 embedded_number(work->now_ms));
    work->reply->count += embedded_changed(work->connection);
    return STORE_OK;
}

enum store_result embedded_clean_spool(struct embedded_work *work)
{
    uint64_t oldest_ms =
        work->now_ms > EMBEDDED_KEEP_DRAINED_MS ? work->now_ms - EMBEDDED_KEEP_DRAINED_MS : 0;

    EMBEDDED_RUN(work->connection, "DELETE FROM jobs WHERE drained_ms<=?1 AND spool_order IS NULL",
                 embedded_number(oldest_ms));
    EMBEDDED_RUN(work->connection,
                 "DELETE FROM submits WHERE forget_ms<=?1 AND"
                 " (state!='UNKNOWN' OR drained_ms IS NOT NULL)",
                 embedded_number(work->now_ms));
    if (work->question->ended) {
        embedded_script(work->connection,
                        "DELETE FROM jobs WHERE spool_order IS NULL AND drained_ms IS NULL;"
                        "UPDATE jobs SET due_ms=NULL,ready=0,lease_instance=NULL"
                        " WHERE spool_order IS NULL AND due_ms IS NOT NULL;");
    }
    embedded_script(work->connection,
                    "DELETE FROM results WHERE row NOT IN (SELECT id FROM jobs);"
                    "DELETE FROM inputs WHERE row NOT IN (SELECT id FROM jobs);"
                    "DELETE FROM chunks WHERE row NOT IN (SELECT id FROM jobs);"
                    "DELETE FROM cursors WHERE row NOT IN (SELECT id FROM jobs);");
    embedded_recount(work->connection);
    work->reply->count =
        embedded_query_number(work->connection, "SELECT count(*) FROM jobs", NULL, 0, 0);
    return STORE_OK;
}
