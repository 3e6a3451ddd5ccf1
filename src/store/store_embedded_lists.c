#include "build_config.h"

#include <string.h>

#include "store/store_embedded.h"

/* What the embedded store says of many jobs at once: lists, counts, and the end of what is over. */

enum {
    /* Rows that one question looks at: a filter that fits nothing must not keep the reader from
     * others. The cursor then says where to go on, though fewer than `limit` came. */
    LOOK_MOST = 5000,
    EXPIRE_MOST = 1000,
};

static bool fits(const struct embedded_work *work, const struct embedded_row *row)
{
    const struct store_question *question = work->question;
    enum store_fate fate =
        embedded_has_expired(work, &row->job) ? STORE_FATE_EXPIRED : row->job.fate;

    return (question->endpoint.length == 0 || view_equal(question->endpoint, row->job.endpoint)) &&
           (!question->has_state || question->state == row->job.state) &&
           (!question->has_fate || question->fate == fate) &&
           row->job.submitted_ms >= question->since_ms;
}

static sqlite3_stmt *begin_list(struct embedded_work *work, int64_t before)
{
    const struct store_question *question = work->question;
    bool is_gone =
        question->has_state && (question->state == JOB_LOST || question->state == JOB_TTL_EXPIRED);

    if (question->team.length > 0) {
        return EMBEDDED_QUERY(work->connection,
                              "SELECT " EMBEDDED_JOB_COLUMNS
                              " FROM jobs WHERE team=?1 AND id<?2 ORDER BY id DESC",
                              embedded_text(question->team), embedded_row_id(before));
    }
    if (is_gone) {
        return EMBEDDED_QUERY(work->connection,
                              "SELECT " EMBEDDED_JOB_COLUMNS
                              " FROM jobs WHERE state IN ('LOST','TTL_EXPIRED') AND state=?1"
                              " AND id<?2 ORDER BY id DESC",
                              embedded_word(job_state_text(question->state)),
                              embedded_row_id(before));
    }
    return EMBEDDED_QUERY(work->connection,
                          "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs WHERE id<?1 ORDER BY id DESC",
                          embedded_row_id(before));
}

enum store_result embedded_list_jobs(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    size_t limit = question->limit > 0 && question->limit < STORE_LIST_MAXIMUM ? question->limit
                                                                               : STORE_LIST_MAXIMUM;
    struct embedded_row row;
    sqlite3_stmt *statement;
    int64_t before;
    size_t looked = 0;

    if (!embedded_read_cursor(question->cursor, INT64_MAX, &before)) {
        return STORE_BAD_CURSOR;
    }
    statement = begin_list(work, before);
    while (statement) {
        if (work->reply->count == limit || looked++ == LOOK_MOST) {
            embedded_reply_cursor(work, before);
            embedded_done(statement);
            break;
        }
        before = sqlite3_column_int64(statement, 0);
        if (!embedded_read_row(statement, &row)) {
            work->broken = true;
        } else if (fits(work, &row)) {
            embedded_reply_add_job(work, &row);
        }
        if (!embedded_next(work->connection, statement)) {
            break;
        }
    }
    return STORE_OK;
}

enum store_result embedded_count(struct embedded_work *work)
{
    struct store_counts *counts = &work->reply->counts;
    sqlite3_stmt *statement = embedded_query(
        work->connection,
        "SELECT jobs,outstanding,bytes,unknown_submits,lost,ttl_expired,fate_none,fate_kept,"
        "fate_too_large,fate_expired,fate_evicted,fate_deleted FROM totals",
        NULL, 0);

    if (!statement) {
        return STORE_BROKEN;
    }
    counts->jobs = embedded_column_number(statement, EMBEDDED_TOTAL_JOBS, 0);
    counts->outstanding = embedded_column_number(statement, EMBEDDED_TOTAL_OUTSTANDING, 0);
    counts->result_bytes = embedded_column_number(statement, EMBEDDED_TOTAL_BYTES, 0);
    counts->unknown_submits = embedded_column_number(statement, EMBEDDED_TOTAL_UNKNOWN, 0);
    counts->lost = embedded_column_number(statement, EMBEDDED_TOTAL_LOST, 0);
    counts->ttl_expired = embedded_column_number(statement, EMBEDDED_TOTAL_TTL_EXPIRED, 0);
    for (size_t i = 0; i < STORE_FATES; i++) {
        counts->by_fate[i] = embedded_column_number(statement, (int)(EMBEDDED_TOTAL_FATE + i), 0);
    }
    counts->results = counts->by_fate[STORE_FATE_KEPT];
    embedded_done(statement);
    /* Those that nobody settled in time are unknown, though nobody has listed them yet. */
    statement = EMBEDDED_QUERY(work->connection,
                               "SELECT count(*) FROM submits WHERE state='SENT' AND until_ms<=?1",
                               embedded_number(work->now_ms));
    if (!statement) {
        return STORE_BROKEN;
    }
    counts->unknown_submits += embedded_column_number(statement, 0, 0);
    embedded_done(statement);
    return STORE_OK;
}

/* ---- what is over ---------------------------------------------------------------------------- */

/* The rows that a statement names, at most `limit`, which is at most EXPIRE_MOST. */
static size_t collect_rows(struct embedded_work *work, const char *sql, uint64_t number,
                           size_t limit, int64_t *ids)
{
    size_t count = 0;
    sqlite3_stmt *statement =
        EMBEDDED_QUERY(work->connection, sql, embedded_number(number), embedded_number(limit));

    while (statement && count < limit) {
        ids[count++] = sqlite3_column_int64(statement, 0);
        if (!embedded_next(work->connection, statement)) {
            return count;
        }
    }
    if (statement) {
        embedded_done(statement);
    }
    return count;
}

/* The result goes, or (FATE_NONE) the whole row. False when the row can't be read: it is taken off
 * the index, so that it doesn't come again. */
static bool end_row(struct embedded_work *work, int64_t id, enum store_fate fate, bool tell)
{
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement =
        EMBEDDED_QUERY(work->connection, "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs WHERE id=?1",
                       embedded_row_id(id));
    bool is_sound = statement && embedded_read_row(statement, &row);

    if (is_sound && fate == STORE_FATE_NONE) {
        before = row;
        embedded_drop_input(work, &row);
        embedded_drop_chunks(work, &row);
        embedded_delete_row(work, &before);
    } else if (is_sound) {
        before = row;
        embedded_bury_result(work, &row, fate);
        embedded_save_row(work, &before, &row);
        if (tell) {
            embedded_reply_add_job(work, &row);
        }
    } else if (statement) {
        work->broken = true;
        EMBEDDED_RUN(work->connection,
                     "UPDATE jobs SET expires_ms=NULL,forget_ms=NULL,ended_ms=NULL WHERE id=?1",
                     embedded_row_id(id));
    }
    if (statement) {
        embedded_done(statement);
    }
    return is_sound;
}

static void expire(struct embedded_work *work, size_t limit)
{
    int64_t ids[EXPIRE_MOST];
    size_t count =
        collect_rows(work, "SELECT id FROM jobs WHERE expires_ms<=?1 ORDER BY expires_ms LIMIT ?2",
                     work->now_ms, limit, ids);

    for (size_t i = 0; i < count; i++) {
        work->reply->expired += end_row(work, ids[i], STORE_FATE_EXPIRED, false);
    }
    count =
        collect_rows(work, "SELECT id FROM jobs WHERE forget_ms<=?1 ORDER BY forget_ms LIMIT ?2",
                     work->now_ms, limit, ids);
    for (size_t i = 0; i < count; i++) {
        (void)end_row(work, ids[i], STORE_FATE_NONE, false);
    }
    EMBEDDED_RUN(work->connection,
                 "DELETE FROM submits WHERE row IN (SELECT row FROM submits WHERE forget_ms<=?1"
                 " AND state!='UNKNOWN' ORDER BY forget_ms LIMIT ?2)",
                 embedded_number(work->now_ms), embedded_number(limit));
}

static void evict(struct embedded_work *work, size_t limit)
{
    uint64_t bytes =
        embedded_query_number(work->connection, "SELECT bytes FROM totals", NULL, 0, 0);
    int64_t ids[EXPIRE_MOST];
    size_t count;

    /* What has just expired is not in the table yet. */
    bytes = (uint64_t)((int64_t)bytes + work->totals[EMBEDDED_TOTAL_BYTES]);
    if (bytes <= work->question->max_total_bytes) {
        return;
    }
    count = collect_rows(work,
                         "SELECT id FROM jobs WHERE fate='KEPT' AND ended_ms>=?1"
                         " ORDER BY ended_ms LIMIT ?2",
                         0, limit, ids);
    for (size_t i = 0; i < count && bytes > work->question->max_total_bytes; i++) {
        int64_t before = work->totals[EMBEDDED_TOTAL_BYTES];

        work->reply->evicted += end_row(work, ids[i], STORE_FATE_EVICTED, true);
        bytes = (uint64_t)((int64_t)bytes + work->totals[EMBEDDED_TOTAL_BYTES] - before);
    }
}

enum store_result embedded_expire(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    size_t limit =
        question->limit > 0 && question->limit < EXPIRE_MOST ? question->limit : EXPIRE_MOST;

    embedded_give_up_overdue(work);
    if (!atomic_load_explicit(&work->embedded->expiry_held, memory_order_relaxed)) {
        expire(work, limit);
    }
    if (question->max_total_bytes > 0 && work->reply->expired < limit) {
        evict(work, limit - work->reply->expired);
    }
    return STORE_OK;
}
