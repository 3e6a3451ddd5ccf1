#include "build_config.h"

#include <string.h>

#include "store/store_embedded.h"

/* The schedule of the embedded store. A claim first marks what has come due since the last one,
 * then takes the ready ones with the earliest deadline: both by an index, so that a claim costs
 * what it gives, however many jobs wait. */

enum {
    MARK_MOST = 4096, /* rows that one claim marks; after a long outage several claims do it */
    CLAIM_MOST = STORE_LIST_MAXIMUM,
};

static uint64_t fence_after(const struct embedded_work *work, uint64_t fence)
{
    uint64_t now_us = work->now_ms * 1000;

    return fence >= now_us ? fence + 1 : now_us;
}

/* A row that isn't podgate's would be claimed for ever: off the schedule with it. */
static void put_aside(struct embedded_work *work, int64_t id)
{
    work->broken = true;
    EMBEDDED_RUN(work->connection, "UPDATE jobs SET due_ms=NULL,ready=0 WHERE id=?1",
                 embedded_row_id(id));
}

static void mark_ready(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    uint64_t furthest_ms =
        question->max_poll_ms > question->lease_ms ? question->max_poll_ms : question->lease_ms;

    EMBEDDED_RUN(work->connection,
                 "UPDATE jobs SET ready=1,lease_instance=NULL WHERE id IN (SELECT id FROM jobs"
                 " WHERE endpoint=?1 AND due_ms IS NOT NULL AND ready=0 AND due_ms<=?2"
                 " ORDER BY due_ms LIMIT ?3)",
                 embedded_text(question->endpoint), embedded_number(work->now_ms),
                 embedded_number(MARK_MOST));
    if (question->max_poll_ms > 0) {
        /* Nothing is ever put off that far: the clock was set back since. */
        EMBEDDED_RUN(work->connection,
                     "UPDATE jobs SET ready=1,lease_instance=NULL WHERE id IN (SELECT id FROM jobs"
                     " WHERE endpoint=?1 AND due_ms IS NOT NULL AND ready=0 AND due_ms>?2"
                     " LIMIT ?3)",
                     embedded_text(question->endpoint),
                     embedded_number(embedded_add(work->now_ms, furthest_ms)),
                     embedded_number(MARK_MOST));
    }
}

struct claim {
    int64_t id;
    uint64_t fence;
};

/* Puts up to `limit` ready jobs into the reply. A LOST one that was looked for long enough leaves
 * the schedule instead, by a claim with fence 0. */
static size_t choose(struct embedded_work *work, sqlite3_stmt *statement, struct claim *claims,
                     size_t count, size_t limit)
{
    struct embedded_row row;

    while (statement && count < limit) {
        int64_t id = sqlite3_column_int64(statement, 0);

        if (!embedded_read_row(statement, &row)) {
            claims[count++] = (struct claim){id, UINT64_MAX};
        } else if (row.job.state == JOB_LOST && row.poll_until_ms <= work->now_ms) {
            claims[count++] = (struct claim){id, 0};
        } else {
            row.job.fence = fence_after(work, row.job.fence);
            row.job.due_ms = embedded_add(work->now_ms, work->question->lease_ms);
            claims[count++] = (struct claim){id, row.job.fence};
            embedded_reply_add_job(work, &row);
        }
        if (!embedded_next(work->connection, statement)) {
            return count;
        }
    }
    if (statement) {
        embedded_done(statement);
    }
    return count;
}

static void leave_schedule(struct embedded_work *work, int64_t id)
{
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement =
        EMBEDDED_QUERY(work->connection, "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs WHERE id=?1",
                       embedded_row_id(id));

    if (statement && embedded_read_row(statement, &row)) {
        before = row;
        row.scheduled = false;
        row.poll_until_ms = 0;
        embedded_save_row(work, &before, &row);
    }
    if (statement) {
        embedded_done(statement);
    }
}

static void take_claims(struct embedded_work *work, const struct claim *claims, size_t count)
{
    struct view instance = store_instance(work->embedded->store);
    uint64_t until_ms = embedded_add(work->now_ms, work->question->lease_ms);

    for (size_t i = 0; i < count; i++) {
        if (claims[i].fence == UINT64_MAX) {
            put_aside(work, claims[i].id);
        } else if (claims[i].fence == 0) {
            leave_schedule(work, claims[i].id);
        } else {
            EMBEDDED_RUN(work->connection,
                         "UPDATE jobs SET ready=0,due_ms=?2,fence=?3,lease_instance=?4 WHERE id=?1",
                         embedded_row_id(claims[i].id), embedded_number(until_ms),
                         embedded_number(claims[i].fence), embedded_text(instance));
        }
    }
}

static uint64_t next_due(struct embedded_work *work)
{
    const struct embedded_value endpoint = embedded_text(work->question->endpoint);
    uint64_t ready = embedded_query_number(
        work->connection, "SELECT 1 FROM jobs WHERE endpoint=?1 AND ready=1 LIMIT 1", &endpoint, 1,
        0);

    if (ready > 0) {
        return work->now_ms;
    }
    return embedded_query_number(work->connection,
                                 "SELECT due_ms FROM jobs WHERE endpoint=?1 AND due_ms IS NOT NULL"
                                 " AND ready=0 ORDER BY due_ms LIMIT 1",
                                 &endpoint, 1, UINT64_MAX);
}

enum store_result embedded_claim_due(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    size_t limit =
        question->limit > 0 && question->limit < CLAIM_MOST ? question->limit : CLAIM_MOST;
    struct claim claims[CLAIM_MOST];
    size_t count = 0;

    mark_ready(work);
    count = choose(work,
                   EMBEDDED_QUERY(work->connection,
                                  "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs WHERE endpoint=?1"
                                  " AND ready=1 AND deadline_ms>?2 ORDER BY deadline_ms",
                                  embedded_text(question->endpoint), embedded_number(work->now_ms)),
                   claims, count, limit);
    if (count < limit) {
        count =
            choose(work,
                   EMBEDDED_QUERY(work->connection,
                                  "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs WHERE endpoint=?1"
                                  " AND ready=1 AND deadline_ms<=?2 ORDER BY deadline_ms",
                                  embedded_text(question->endpoint), embedded_number(work->now_ms)),
                   claims, count, limit);
    }
    take_claims(work, claims, count);
    work->reply->next_ms = next_due(work);
    return STORE_OK;
}

enum store_result embedded_claim_job(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct view instance = store_instance(work->embedded->store);
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->endpoint, question->job, &row, &statement);
    bool is_leased;

    if (result != STORE_OK) {
        return result;
    }
    is_leased = row.lease_instance.length > 0 && row.job.due_ms > work->now_ms;
    if (job_state_is_terminal(row.job.state) || !row.scheduled) {
        result = STORE_CONFLICT;
    } else if (is_leased && !view_equal(row.lease_instance, instance)) {
        result = STORE_BUSY;
    } else {
        before = row;
        if (!is_leased) {
            row.job.fence = fence_after(work, row.job.fence);
        }
        row.ready = false;
        row.lease_instance = instance;
        row.job.due_ms = embedded_add(work->now_ms, question->lease_ms);
        embedded_save_row(work, &before, &row);
    }
    embedded_reply_job(work, &row);
    embedded_done(statement);
    return result;
}

static void put_back(struct embedded_work *work, struct embedded_row *row)
{
    const struct store_question *question = work->question;
    struct store_job *job = &row->job;

    if (job->state == JOB_LOST && !job_state_is_terminal(question->state)) {
        /* Found again. */
        job->ended_ms = 0;
        row->forget_ms = 0;
        row->poll_until_ms = 0;
    }
    job->state = question->state;
    job->due_ms = embedded_add(work->now_ms, question->due_ms);
    if (question->deadline_ms > 0) {
        job->deadline_ms = embedded_add(work->now_ms, question->deadline_ms);
    }
    job->missing_count = question->missing;
    job->missing_since_ms = question->missing == 0 ? 0
                            : question->missing_since_ms < work->now_ms
                                ? work->now_ms - question->missing_since_ms
                                : 1;
    job->failure_count = question->failures;
    row->lease_instance = view_make(NULL, 0);
    row->ready = false;
    if (job->state == JOB_LOST && job->due_ms > row->poll_until_ms) {
        row->scheduled = false;
    }
}

enum store_result embedded_reschedule(struct embedded_work *work)
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
    if (!row.scheduled || row.job.fence != question->fence ||
        (job_state_is_terminal(question->state) &&
         !(row.job.state == JOB_LOST && question->state == JOB_LOST))) {
        embedded_reply_job(work, &row);
        result = STORE_CONFLICT;
    } else {
        before = row;
        put_back(work, &row);
        embedded_save_row(work, &before, &row);
    }
    embedded_done(statement);
    return result;
}

enum store_result embedded_list_endpoints(struct embedded_work *work)
{
    sqlite3_stmt *statement = embedded_query(
        work->connection, "SELECT endpoint,outstanding,runsync FROM endpoints WHERE outstanding>0",
        NULL, 0);

    while (statement) {
        struct store_endpoint_count endpoint = {
            .endpoint = embedded_column_bytes(statement, 0),
            .outstanding = embedded_column_number(statement, 1, 0),
            .runsync = embedded_column_number(statement, 2, 0),
        };

        embedded_reply_add_endpoint(work, &endpoint);
        if (!embedded_next(work->connection, statement)) {
            break;
        }
    }
    return STORE_OK;
}

/* ---- purge ----------------------------------------------------------------------------------- */

enum store_result embedded_mark_purged(struct embedded_work *work)
{
    /* Both indexes of the schedule together hold all jobs that run. */
    static const char *const marks[] = {
        "UPDATE jobs SET purged=1,cancel_due_ms=?3 WHERE endpoint=?1 AND due_ms IS NOT NULL"
        " AND ready=0 AND team=?2 AND state='IN_QUEUE' AND cancel_due_ms IS NULL",
        "UPDATE jobs SET purged=1,cancel_due_ms=?3 WHERE endpoint=?1 AND ready=1 AND team=?2"
        " AND state='IN_QUEUE' AND cancel_due_ms IS NULL",
    };
    struct embedded_value cancel_due =
        work->question->ended ? embedded_null() : embedded_number(work->now_ms);

    for (size_t i = 0; i < ARRAY_LENGTH(marks); i++) {
        EMBEDDED_RUN(work->connection, marks[i], embedded_text(work->question->endpoint),
                     embedded_text(work->question->team), cancel_due);
        work->reply->count += embedded_changed(work->connection);
    }
    return STORE_OK;
}

enum store_result embedded_claim_cancels(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    size_t limit =
        question->limit > 0 && question->limit < CLAIM_MOST ? question->limit : CLAIM_MOST;
    int64_t ids[CLAIM_MOST];
    size_t count = 0;
    struct embedded_row row;
    sqlite3_stmt *statement =
        EMBEDDED_QUERY(work->connection,
                       "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs"
                       " WHERE cancel_due_ms<=?1 ORDER BY cancel_due_ms LIMIT ?2",
                       embedded_number(work->now_ms), embedded_number(limit));

    while (statement && count < limit) {
        ids[count++] = sqlite3_column_int64(statement, 0);
        if (embedded_read_row(statement, &row)) {
            embedded_reply_add_job(work, &row);
        } else {
            work->broken = true;
        }
        if (!embedded_next(work->connection, statement)) {
            statement = NULL;
        }
    }
    if (statement) {
        embedded_done(statement);
    }
    for (size_t i = 0; i < count; i++) {
        EMBEDDED_RUN(work->connection, "UPDATE jobs SET cancel_due_ms=?2 WHERE id=?1",
                     embedded_row_id(ids[i]),
                     embedded_number(embedded_add(work->now_ms, question->lease_ms)));
    }
    return STORE_OK;
}

enum store_result embedded_clear_cancel(struct embedded_work *work)
{
    EMBEDDED_RUN(work->connection,
                 "UPDATE jobs SET cancel_due_ms=NULL WHERE endpoint=?1 AND job=?2",
                 embedded_text(work->question->endpoint), embedded_text(work->question->job));
    return embedded_changed(work->connection) > 0 ? STORE_OK : STORE_ABSENT;
}
