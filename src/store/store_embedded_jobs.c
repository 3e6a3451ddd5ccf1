#include "build_config.h"

#include <string.h>

#include "store/store_embedded.h"

/* Jobs and their results in the embedded store. Each change loads the job's row, changes it in
 * memory and writes it back whole; see embedded_save_row(). */

/* A lost job is looked for so often, unless the question says when. */
enum { LOST_DUE_MS = 10 * 1000 };

bool embedded_has_expired(const struct embedded_work *work, const struct store_job *job)
{
    return job->fate == STORE_FATE_KEPT && job->expires_ms <= work->now_ms &&
           !atomic_load_explicit(&work->embedded->expiry_held, memory_order_relaxed);
}

void embedded_new_row(const struct embedded_work *work, struct embedded_row *row)
{
    const struct store_question *question = work->question;

    memset(row, 0, sizeof *row);
    row->job.endpoint = question->endpoint;
    row->job.id = question->job;
    row->job.upstream_id = question->job;
    row->job.team = question->team;
    row->job.key = question->key;
    row->job.kind = question->kind;
    row->job.state = question->state;
    row->job.generation = 1;
    row->job.submitted_ms = work->now_ms;
    row->job.ttl_ms = question->ttl_ms;
    row->job.execution_ms = UINT64_MAX;
    row->job.delay_ms = UINT64_MAX;
    row->job.due_ms = embedded_add(work->now_ms, question->due_ms);
    row->job.deadline_ms = embedded_add(work->now_ms, question->deadline_ms);
    row->scheduled = true;
}

void embedded_end_job(struct embedded_work *work, struct embedded_row *row)
{
    const struct store_question *question = work->question;
    struct store_job *job = &row->job;
    bool is_kept = question->fate == STORE_FATE_KEPT;
    uint64_t due_ms = question->due_ms > 0 ? question->due_ms : LOST_DUE_MS;

    job->state = question->state;
    job->fate = question->fate;
    job->ended_ms = work->now_ms;
    job->execution_ms = question->execution_ms;
    job->delay_ms = question->delay_ms;
    job->result_bytes = is_kept ? question->result_bytes : 0;
    job->stored_bytes = is_kept ? body_view(question->result).length : 0;
    job->encoding = is_kept ? question->encoding : STORE_ENCODING_IDENTITY;
    if (is_kept) {
        memcpy(job->digest, question->digest, STORE_DIGEST_BYTES);
    }
    job->expires_ms = is_kept ? embedded_add(work->now_ms, question->keep_ms) : 0;
    row->forget_ms = is_kept ? 0 : embedded_add(work->now_ms, STORE_TOMBSTONE_MS);
    row->cancel_due_ms = 0;
    row->lease_instance = view_make(NULL, 0);
    row->ready = false;
    row->scheduled = question->state == JOB_LOST && question->poll_on_ms > 0;
    row->poll_until_ms = row->scheduled ? embedded_add(work->now_ms, question->poll_on_ms) : 0;
    job->due_ms = row->scheduled ? embedded_add(work->now_ms, due_ms) : 0;
}

void embedded_store_result(struct embedded_work *work, const struct embedded_row *row)
{
    if (row->job.fate == STORE_FATE_KEPT) {
        EMBEDDED_RUN(work->connection, "INSERT OR REPLACE INTO results(row,body) VALUES(?1,?2)",
                     embedded_row_id(row->id), embedded_blob(body_view(work->question->result)));
    }
}

void embedded_begin_again(struct embedded_work *work, struct embedded_row *row)
{
    const struct store_question *question = work->question;
    struct store_job *job = &row->job;

    embedded_drop_result(work, row);
    embedded_drop_chunks(work, row);
    job->generation++;
    job->kind = question->kind;
    job->state = JOB_IN_QUEUE;
    job->fate = STORE_FATE_NONE;
    job->submitted_ms = work->now_ms;
    job->ended_ms = 0;
    job->execution_ms = UINT64_MAX;
    job->delay_ms = UINT64_MAX;
    job->purged = false;
    job->missing_since_ms = 0;
    job->missing_count = 0;
    job->failure_count = 0;
    job->due_ms = embedded_add(work->now_ms, question->due_ms);
    job->deadline_ms = embedded_add(work->now_ms, question->deadline_ms);
    if (question->upstream_id.length > 0) {
        job->upstream_id = question->upstream_id;
    }
    row->forget_ms = 0;
    row->cancel_due_ms = 0;
    row->poll_until_ms = 0;
    row->lease_instance = view_make(NULL, 0);
    row->scheduled = true;
    row->ready = false;
}

/* ---- reading --------------------------------------------------------------------------------- */

enum store_result embedded_find_duplicate(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    sqlite3_stmt *statement = EMBEDDED_QUERY(
        work->connection,
        "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs"
        " WHERE team=?1 AND endpoint=?2 AND dedupe_digest=?3"
        " AND (ended_ms IS NULL OR (state='COMPLETED' AND fate='KEPT')) ORDER BY id DESC",
        embedded_text(question->team), embedded_text(question->endpoint),
        embedded_hex(question->dedupe_digest, STORE_DIGEST_BYTES));

    while (statement) {
        if (!embedded_read_row(statement, &row)) {
            work->broken = true;
        } else if (!embedded_has_expired(work, &row.job)) {
            embedded_reply_job(work, &row);
            embedded_done(statement);
            return STORE_OK;
        }
        if (!embedded_next(work->connection, statement)) {
            break;
        }
    }
    return STORE_ABSENT;
}

enum store_result embedded_get_job(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result != STORE_OK) {
        return result;
    }
    embedded_reply_job(work, &row);
    work->reply->input_encoding = row.input_encoding;
    if (question->with_result && row.job.fate == STORE_FATE_KEPT &&
        !embedded_has_expired(work, &row.job)) {
        result = embedded_reply_blob(work, "results", "body", row.id);
        if (result == STORE_OK && body_view(work->reply->body).length != row.job.stored_bytes) {
            work->broken = true;
            result = STORE_BROKEN;
        }
    } else if (question->with_input && row.job.input_bytes > 0) {
        result = embedded_reply_blob(work, "inputs", "body", row.id);
    }
    embedded_done(statement);
    return result;
}

/* ---- changing -------------------------------------------------------------------------------- */

enum store_result embedded_adopt_job(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result == STORE_OK) {
        embedded_reply_job(work, &row);
        embedded_done(statement);
        return STORE_OWNED;
    }
    if (result == STORE_ABSENT) {
        embedded_new_row(work, &row);
        embedded_insert_row(work, &row, NULL);
        result = STORE_OK;
    }
    return result;
}

enum store_result embedded_put_result(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);
    bool is_open;

    if (result != STORE_OK) {
        return result;
    }
    /* What is lost may still be found, or is looked for no longer; nothing else that has ended
     * changes. */
    is_open = !job_state_is_terminal(row.job.state) || row.job.state == JOB_LOST;
    if (!is_open || row.job.generation != question->generation ||
        !job_state_is_terminal(question->state)) {
        embedded_reply_job(work, &row);
        embedded_done(statement);
        return STORE_CONFLICT;
    }
    before = row;
    embedded_end_job(work, &row);
    embedded_save_row(work, &before, &row);
    embedded_store_result(work, &row);
    embedded_reply_job(work, &row);
    embedded_done(statement);
    return STORE_OK;
}

enum store_result embedded_retry_job(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result != STORE_OK) {
        return result;
    }
    if (row.job.generation != question->generation) {
        result = STORE_CONFLICT;
    } else {
        before = row;
        embedded_begin_again(work, &row);
        embedded_save_row(work, &before, &row);
    }
    embedded_reply_job(work, &row);
    embedded_done(statement);
    return result;
}

enum store_result embedded_delete_result(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);

    if (result != STORE_OK) {
        return result;
    }
    if (row.job.fate != STORE_FATE_KEPT || embedded_has_expired(work, &row.job)) {
        result = STORE_CONFLICT;
    } else {
        before = row;
        embedded_bury_result(work, &row, STORE_FATE_DELETED);
        embedded_save_row(work, &before, &row);
    }
    embedded_reply_job(work, &row);
    embedded_done(statement);
    return result;
}

void embedded_bury_result(struct embedded_work *work, struct embedded_row *row,
                          enum store_fate fate)
{
    embedded_drop_result(work, row);
    embedded_drop_input(work, row);
    embedded_drop_chunks(work, row);
    row->job.fate = fate;
    row->forget_ms = embedded_add(work->now_ms, STORE_TOMBSTONE_MS);
    EMBEDDED_RUN(work->connection,
                 "UPDATE jobs SET dedupe_digest=NULL WHERE id=?1 AND dedupe_digest IS NOT NULL",
                 embedded_row_id(row->id));
}

enum store_result embedded_shorten(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);
    uint64_t expires_ms = embedded_add(work->now_ms, question->keep_ms);

    if (result != STORE_OK) {
        return result;
    }
    if (row.job.fate != STORE_FATE_KEPT || embedded_has_expired(work, &row.job)) {
        result = STORE_CONFLICT;
    } else if (expires_ms < row.job.expires_ms) {
        before = row;
        row.job.expires_ms = expires_ms;
        embedded_save_row(work, &before, &row);
    }
    embedded_reply_job(work, &row);
    embedded_done(statement);
    return result;
}
