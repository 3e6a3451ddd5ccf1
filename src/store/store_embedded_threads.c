#include "build_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "model/metric_catalogue.h"
#include "store/store_embedded.h"

/* The embedded store's threads: who takes which question, how many share a commit and a sync. */

enum {
    GROUP_MOST_CALLS = 512,
    GROUP_MOST_BYTES = 8 * 1024 * 1024,
    SAVE_WALL_MS = 1000,
};

/* What an operation needs: whose it is, and whether its reply waits for the disk. */
static const struct operation {
    embedded_operation *run;
    enum embedded_hand hand;
    bool is_durable;
} operations[EMBEDDED_OPERATIONS] = {
    [STORE_CLAIM_SUBMIT] = {embedded_claim_submit, EMBEDDED_WRITER, false},
    [STORE_MARK_SENT] = {embedded_mark_sent, EMBEDDED_WRITER, true}, /* when it has a key */
    [STORE_SETTLE_SUBMIT] = {embedded_settle_submit, EMBEDDED_WRITER, true},
    [STORE_LIST_UNKNOWN] = {embedded_list_unknown, EMBEDDED_WRITER, false},
    [STORE_RESOLVE_SUBMIT] = {embedded_resolve_submit, EMBEDDED_WRITER, true},
    [STORE_FIND_DUPLICATE] = {embedded_find_duplicate, EMBEDDED_READER, false},
    [STORE_GET_JOB] = {embedded_get_job, EMBEDDED_READER, false},
    [STORE_ADOPT_JOB] = {embedded_adopt_job, EMBEDDED_WRITER, true},
    [STORE_PUT_RESULT] = {embedded_put_result, EMBEDDED_WRITER, true},
    [STORE_RETRY_JOB] = {embedded_retry_job, EMBEDDED_WRITER, true},
    [STORE_DELETE_RESULT] = {embedded_delete_result, EMBEDDED_WRITER, true},
    [STORE_SHORTEN] = {embedded_shorten, EMBEDDED_WRITER, false},
    [STORE_LIST_JOBS] = {embedded_list_jobs, EMBEDDED_READER, false},
    [STORE_CLAIM_DUE] = {embedded_claim_due, EMBEDDED_WRITER, false},
    [STORE_CLAIM_JOB] = {embedded_claim_job, EMBEDDED_WRITER, false},
    [STORE_RESCHEDULE] = {embedded_reschedule, EMBEDDED_WRITER, false},
    [STORE_LIST_ENDPOINTS] = {embedded_list_endpoints, EMBEDDED_READER, false},
    [STORE_MARK_PURGED] = {embedded_mark_purged, EMBEDDED_WRITER, true},
    [STORE_CLAIM_CANCELS] = {embedded_claim_cancels, EMBEDDED_WRITER, false},
    [STORE_CLEAR_CANCEL] = {embedded_clear_cancel, EMBEDDED_WRITER, false},
    [STORE_APPEND_CHUNKS] = {embedded_append_chunks, EMBEDDED_WRITER, true},
    [STORE_READ_CHUNKS] = {embedded_read_chunks, EMBEDDED_READER, false},
    [STORE_GET_CURSOR] = {embedded_get_cursor, EMBEDDED_READER, false},
    [STORE_SET_CURSOR] = {embedded_set_cursor, EMBEDDED_WRITER, false},
    [STORE_EXPIRE] = {embedded_expire, EMBEDDED_WRITER, false},
    [STORE_COUNT] = {embedded_count, EMBEDDED_READER, false},
    [EMBEDDED_IMPORT_JOB] = {embedded_import_job, EMBEDDED_WRITER, false},
    [EMBEDDED_LIST_SPOOLED] = {embedded_list_spooled, EMBEDDED_READER, false},
    [EMBEDDED_GET_ANSWER] = {embedded_get_answer, EMBEDDED_READER, false},
    [EMBEDDED_NEXT_CURSOR] = {embedded_next_cursor, EMBEDDED_READER, false},
    [EMBEDDED_MARK_DRAINED] = {embedded_mark_drained, EMBEDDED_WRITER, false},
    [EMBEDDED_REASSERT] = {embedded_reassert, EMBEDDED_WRITER, false},
    [EMBEDDED_CLEAN_SPOOL] = {embedded_clean_spool, EMBEDDED_WRITER, false},
};

static bool is_durable(const struct store_call *call)
{
    if (call->question.operation == STORE_MARK_SENT) {
        return call->question.fence > 0;
    }
    return operations[call->question.operation].is_durable;
}

/* ---- one question ---------------------------------------------------------------------------- */

/* Hands a call back to its loop. It may be gone when this returns. */
static void answer(struct embedded *embedded, struct store_call *call)
{
    store_call_post(call);
    if (atomic_load(&embedded->closing) > 0) {
        pthread_mutex_lock(&embedded->ended_lock);
        embedded->ended_count++;
        pthread_cond_broadcast(&embedded->ended);
        pthread_mutex_unlock(&embedded->ended_lock);
    }
}

static void answer_all(struct embedded *embedded, struct store_call *call)
{
    while (call) {
        struct store_call *next = call->next;

        call->next = NULL;
        answer(embedded, call);
        call = next;
    }
}

/* A reply that says nothing but that it failed. */
static void fail_call(struct store_call *call, enum store_result result)
{
    body_unref(call->reply.body);
    free(call->reply_memory);
    call->reply_memory = NULL;
    memset(&call->reply, 0, sizeof call->reply);
    call->reply.now_ms = clock_wall_ms();
    call->reply.result = result;
}

static void add_totals(struct embedded_work *work)
{
    bool changed = false;

    for (size_t i = 0; i < EMBEDDED_TOTALS; i++) {
        changed = changed || work->totals[i] != 0;
    }
    if (changed) {
        const int64_t *by = work->totals;

        EMBEDDED_RUN(work->connection,
                     "UPDATE totals SET jobs=jobs+?1,outstanding=outstanding+?2,bytes=bytes+?3,"
                     "unknown_submits=unknown_submits+?4,lost=lost+?5,ttl_expired=ttl_expired+?6,"
                     "fate_none=fate_none+?7,fate_kept=fate_kept+?8,"
                     "fate_too_large=fate_too_large+?9,fate_expired=fate_expired+?10,"
                     "fate_evicted=fate_evicted+?11,fate_deleted=fate_deleted+?12",
                     embedded_row_id(by[0]), embedded_row_id(by[1]), embedded_row_id(by[2]),
                     embedded_row_id(by[3]), embedded_row_id(by[4]), embedded_row_id(by[5]),
                     embedded_row_id(by[6]), embedded_row_id(by[7]), embedded_row_id(by[8]),
                     embedded_row_id(by[9]), embedded_row_id(by[10]), embedded_row_id(by[11]));
    }
}
_Static_assert(EMBEDDED_TOTALS == 12, "a column of `totals` for each");

static void note_broken(struct embedded *embedded, const struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct log_line *line =
        log_begin(embedded->hands[work->hand].log, LOG_LEVEL_ERROR, "store_row_broken");

    log_string(line, "operation",
               question->operation < STORE_OPERATIONS ? store_operation_texts[question->operation]
                                                      : "spool");
    log_text(line, "endpoint", question->endpoint);
    log_text(line, "job", question->job);
    log_end(line);
    metrics_add(embedded->hands[work->hand].metrics, METRIC_FAULTS, METRIC_PART_STORE,
                METRIC_STORE_FAULT_MALFORMED, 1);
}

/* Works on one question; its result is in the reply. False: SQLite failed, the connection says how.
 */
static bool run_call(struct embedded *embedded, enum embedded_hand hand, struct store_call *call)
{
    struct embedded_work work;
    enum store_result result;
    bool is_done;

    embedded_begin_work(&work, embedded, hand, call);
    result = operations[call->question.operation].run(&work);
    if (hand == EMBEDDED_WRITER) {
        add_totals(&work);
    }
    if (work.connection->error == SQLITE_OK && !embedded_seal_reply(&work)) {
        work.connection->error = SQLITE_NOMEM;
    }
    is_done = work.connection->error == SQLITE_OK;
    if (is_done) {
        call->reply.result = result;
        if (work.broken) {
            note_broken(embedded, &work);
        }
    }
    embedded_clear_work(&work);
    return is_done;
}

static bool is_late(const struct store_call *call)
{
    return clock_mono_ms() > call->deadline_ms;
}

/* ---- durability ------------------------------------------------------------------------------ */

/* After a failed fsync() the kernel may have dropped what it couldn't write and taken the pages for
 * clean, so that a later success proves nothing: only what was copied into the file and synced
 * there is known to be safe. */
static bool make_durable(struct embedded *embedded, enum embedded_hand hand)
{
    uint64_t committed = atomic_load(&embedded->committed);

    if (atomic_load(&embedded->troubles) & EMBEDDED_TROUBLE_SYNC) {
        if (!embedded_checkpoint(embedded, hand, true)) {
            return false;
        }
        embedded_set_trouble(embedded, hand, EMBEDDED_TROUBLE_SYNC, false);
        return true;
    }
    if (atomic_load(&embedded->synced) >= committed) {
        return true;
    }
    metrics_add(embedded->hands[hand].metrics, METRIC_STORE_SYNCS, 0, 0, 1);
    if (FAULT_POINT("store.sync") || fdatasync(embedded->wal_descriptor) != 0) {
        metrics_add(embedded->hands[hand].metrics, METRIC_FAULTS, METRIC_PART_STORE,
                    METRIC_STORE_FAULT_IO, 1);
        embedded_set_trouble(embedded, hand, EMBEDDED_TROUBLE_SYNC, true);
        return false;
    }
    atomic_store(&embedded->synced, committed);
    return true;
}

static void confirm(struct embedded *embedded, enum embedded_hand hand, struct store_call *calls)
{
    if (!make_durable(embedded, hand)) {
        for (struct store_call *call = calls; call; call = call->next) {
            fail_call(call, STORE_FULL);
        }
    }
    answer_all(embedded, calls);
}

void *embedded_syncer_main(void *argument)
{
    struct embedded *embedded = argument;
    struct store_call *calls;

    while (embedded_queue_take(&embedded->syncs, -1, &calls)) {
        if (calls) {
            confirm(embedded, EMBEDDED_SYNCER, calls);
        }
        atomic_store(&embedded->syncer_works, false);
    }
    return NULL;
}

/* ---- the writer ------------------------------------------------------------------------------ */

static bool begin(struct embedded *embedded)
{
    struct embedded_connection *connection = &embedded->writer;

    connection->error = FAULT_POINT("store.begin") ? SQLITE_BUSY : SQLITE_OK;
    embedded_run(connection, "BEGIN IMMEDIATE", NULL, 0);
    return connection->error == SQLITE_OK;
}

static void roll_back(struct embedded *embedded)
{
    int error = embedded->writer.error;

    embedded->writer.error = SQLITE_OK;
    /* SQLite has done so already after some errors. */
    if (!sqlite3_get_autocommit(embedded->writer.database)) {
        embedded_run(&embedded->writer, "ROLLBACK", NULL, 0);
    }
    embedded->writer.error = error;
}

/* The highest wall time that podgate has seen, for the next start. */
static uint64_t save_wall(struct embedded *embedded, bool must)
{
    uint64_t now_ms = clock_wall_ms();
    uint64_t step_ms = atomic_exchange(&embedded->step_wall_ms, 0);
    const char *sql = "INSERT OR REPLACE INTO meta(name,value) VALUES(?1,?2)";

    if (step_ms > 0) {
        EMBEDDED_RUN(&embedded->writer, sql, embedded_word("clock_step_ms"),
                     embedded_number(step_ms));
    } else if (!must && now_ms < embedded->saved_wall_ms + SAVE_WALL_MS) {
        return embedded->saved_wall_ms;
    }
    EMBEDDED_RUN(&embedded->writer, sql, embedded_word("highest_wall_ms"), embedded_number(now_ms));
    return now_ms;
}

static bool commit(struct embedded *embedded, bool must_save_wall)
{
    struct embedded_connection *connection = &embedded->writer;
    uint64_t wall_ms = save_wall(embedded, must_save_wall);

    if (connection->error == SQLITE_OK && FAULT_POINT("store.commit")) {
        connection->error = errno == ENOSPC ? SQLITE_FULL : SQLITE_IOERR;
    }
    embedded_run(connection, "COMMIT", NULL, 0);
    if (connection->error != SQLITE_OK) {
        return false;
    }
    embedded->saved_wall_ms = wall_ms;
    atomic_fetch_add(&embedded->committed, 1);
    embedded_set_trouble(embedded, EMBEDDED_WRITER, EMBEDDED_TROUBLE_WRITE, false);
    return true;
}

static void fail_group(struct embedded *embedded, struct store_call *calls)
{
    int error = embedded->writer.error;

    embedded_note_error(embedded, EMBEDDED_WRITER, error);
    for (struct store_call *call = calls; call; call = call->next) {
        fail_call(call, embedded_result_of_error(error));
    }
}

/* All calls as one transaction. False: nothing was written. */
static bool run_transaction(struct embedded *embedded, struct store_call *calls)
{
    for (struct store_call *call = calls; call; call = call->next) {
        if (!run_call(embedded, EMBEDDED_WRITER, call)) {
            return false;
        }
    }
    return commit(embedded, false);
}

/* One bad row must not fail those that share its transaction. */
static void run_one_by_one(struct embedded *embedded, struct store_call *calls)
{
    struct store_call *next;

    for (struct store_call *call = calls; call; call = next) {
        next = call->next;
        call->next = NULL;
        if (!begin(embedded) || !run_transaction(embedded, call)) {
            roll_back(embedded);
            fail_group(embedded, call);
        }
        call->next = next;
    }
}

static void hand_on(struct embedded *embedded, struct store_call *calls, bool calls_after)
{
    struct store_call *waiting = NULL;
    struct store_call **last = &waiting;
    struct store_call *next;

    for (struct store_call *call = calls; call; call = next) {
        next = call->next;
        call->next = NULL;
        if (is_durable(call) && !store_failed(call->reply.result)) {
            *last = call;
            last = &call->next;
        } else {
            answer(embedded, call);
        }
    }
    if (!waiting) {
        return;
    }
    if (!calls_after && !atomic_load(&embedded->syncer_works) &&
        embedded_queue_is_empty(&embedded->writes)) {
        /* Nobody else waits for the writer: one thread less to wake. */
        confirm(embedded, EMBEDDED_WRITER, waiting);
    } else {
        atomic_store(&embedded->syncer_works, true);
        embedded_queue_put(&embedded->syncs, waiting);
    }
}

static void shorten_log(struct embedded *embedded)
{
    unsigned most = atomic_load(&embedded->log_most_pages);

    if (atomic_load(&embedded->wal_pages) >= most && embedded_log_is_long(embedded, most / 8)) {
        /* The keeper can't finish while we write: now nobody does. */
        (void)!embedded_checkpoint(embedded, EMBEDDED_WRITER, false);
    } else if (embedded_log_is_long(embedded, most / 4)) {
        embedded_queue_nudge(&embedded->chores);
    }
}

/* The log gives back what it takes: on a small disk it may be what filled it. */
static void make_room(struct embedded *embedded)
{
    int error = embedded->writer.error;

    embedded_note_error(embedded, EMBEDDED_WRITER, error);
    if ((error & 0xff) == SQLITE_FULL) {
        (void)!embedded_checkpoint(embedded, EMBEDDED_WRITER, true);
    }
}

/* `calls_after`: another group waits. */
static void run_group(struct embedded *embedded, struct store_call *calls, bool calls_after)
{
    if (!begin(embedded)) {
        roll_back(embedded);
        fail_group(embedded, calls);
    } else if (!run_transaction(embedded, calls)) {
        roll_back(embedded);
        if (calls->next || embedded_result_of_error(embedded->writer.error) == STORE_FULL) {
            /* Also when the disk was full: the reserve has been freed since. */
            make_room(embedded);
            run_one_by_one(embedded, calls);
        } else {
            fail_group(embedded, calls);
        }
    }
    hand_on(embedded, calls, calls_after);
    shorten_log(embedded);
}

static size_t bytes_of(const struct store_call *call)
{
    const struct store_question *question = &call->question;

    return body_view(question->result).length + body_view(question->input).length +
           body_view(question->chunks).length + body_view(question->answer).length;
}

/* Takes a group off the list; those that are too late are ended instead. */
static struct store_call *cut_group(struct embedded *embedded, struct store_call **list)
{
    struct store_call *first = NULL;
    struct store_call **last = &first;
    size_t count = 0;
    size_t bytes = 0;

    while (*list && count < GROUP_MOST_CALLS && bytes < GROUP_MOST_BYTES) {
        struct store_call *call = *list;

        *list = call->next;
        call->next = NULL;
        if (is_late(call)) {
            fail_call(call, STORE_TIMED_OUT);
            answer(embedded, call);
            continue;
        }
        *last = call;
        last = &call->next;
        count++;
        bytes += bytes_of(call);
    }
    return first;
}

void embedded_probe(struct embedded *embedded)
{
    if (atomic_load(&embedded->troubles) & EMBEDDED_TROUBLE_WRITE) {
        (void)!embedded_checkpoint(embedded, EMBEDDED_WRITER, true);
    }
    if (!begin(embedded) || !commit(embedded, true)) {
        roll_back(embedded);
    }
}

int embedded_on_commit(void *argument, UNUSED sqlite3 *database, UNUSED const char *name, int pages)
{
    struct embedded *embedded = argument;

    atomic_store(&embedded->wal_pages, pages > 0 ? (unsigned)pages : 0);
    return SQLITE_OK;
}

void *embedded_writer_main(void *argument)
{
    struct embedded *embedded = argument;
    struct store_call *calls;

    while (embedded_queue_take(&embedded->writes, -1, &calls)) {
        if (atomic_exchange(&embedded->must_probe, false)) {
            embedded_probe(embedded);
        }
        while (calls) {
            struct store_call *group = cut_group(embedded, &calls);

            if (group) {
                run_group(embedded, group, calls != NULL);
            }
        }
    }
    return NULL;
}

/* ---- the reader ------------------------------------------------------------------------------ */

static void read_one(struct embedded *embedded, struct store_call *call)
{
    struct embedded_connection *connection = &embedded->reader;

    if (is_late(call)) {
        fail_call(call, STORE_TIMED_OUT);
        return;
    }
    connection->error = FAULT_POINT("store.read") ? SQLITE_IOERR_READ : SQLITE_OK;
    if (!run_call(embedded, EMBEDDED_READER, call)) {
        enum store_result result = embedded_result_of_error(connection->error);

        embedded_note_error(embedded, EMBEDDED_READER, connection->error);
        fail_call(call, result == STORE_FULL ? STORE_BROKEN : result);
    }
}

void *embedded_reader_main(void *argument)
{
    struct embedded *embedded = argument;
    struct store_call *calls;

    while (embedded_queue_take(&embedded->reads, -1, &calls)) {
        for (struct store_call *call = calls; call; call = call->next) {
            read_one(embedded, call);
        }
        answer_all(embedded, calls);
    }
    return NULL;
}

/* ---- handing over ---------------------------------------------------------------------------- */

void embedded_start_call(struct embedded *embedded, struct store_call *call)
{
    bool is_read = operations[call->question.operation].hand == EMBEDDED_READER;

    call->next = NULL;
    embedded_queue_put(is_read ? &embedded->reads : &embedded->writes, call);
}
