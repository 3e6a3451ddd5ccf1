#include "build_config.h"

#include <string.h>

#include "store/store_embedded.h"

/* Submits in the embedded store: INTENT -> SENT -> KNOWN | REFUSED | UNKNOWN. A submit without an
 * Idempotency-Key that has become a job, or nothing, leaves no row: its job's row names it. */

/* Moves an UNKNOWN's count along with its state. */
static void count_unknown(struct embedded_work *work, enum store_submit_state before,
                          enum store_submit_state after)
{
    work->totals[EMBEDDED_TOTAL_UNKNOWN] +=
        (after == STORE_SUBMIT_UNKNOWN) - (before == STORE_SUBMIT_UNKNOWN);
}

/* STORE_OK: `*statement` is to be given to embedded_done(). */
static enum store_result take_submit(struct embedded_work *work, sqlite3_stmt *found,
                                     struct embedded_submit *submit, sqlite3_stmt **statement)
{
    *statement = found;
    if (!found) {
        return STORE_ABSENT;
    }
    if (!embedded_read_submit(found, submit)) {
        embedded_done(found);
        *statement = NULL;
        work->broken = true;
        return STORE_BROKEN;
    }
    return STORE_OK;
}

static enum store_result find_by_id(struct embedded_work *work, struct view id,
                                    struct embedded_submit *submit, sqlite3_stmt **statement)
{
    return take_submit(work,
                       EMBEDDED_QUERY(work->connection,
                                      "SELECT " EMBEDDED_SUBMIT_COLUMNS " FROM submits WHERE id=?1",
                                      embedded_text(id)),
                       submit, statement);
}

static enum store_result find_by_key(struct embedded_work *work, struct embedded_submit *submit,
                                     sqlite3_stmt **statement)
{
    const struct store_submit *asked = &work->question->submit;

    return take_submit(
        work,
        EMBEDDED_QUERY(work->connection,
                       "SELECT " EMBEDDED_SUBMIT_COLUMNS " FROM submits"
                       " WHERE team=?1 AND endpoint=?2 AND operation=?3 AND idempotency_key=?4",
                       embedded_text(asked->team), embedded_text(asked->endpoint),
                       embedded_word(embedded_operation_word(asked->operation)),
                       embedded_text(asked->idempotency_key)),
        submit, statement);
}

static void delete_submit(struct embedded_work *work, int64_t row, enum store_submit_state state)
{
    EMBEDDED_RUN(work->connection, "DELETE FROM submits WHERE row=?1", embedded_row_id(row));
    count_unknown(work, state, STORE_SUBMIT_REFUSED);
}

/* A new row, whose members beyond the question's are given. `keyed`: it takes the key's place. */
static void insert_submit(struct embedded_work *work, enum store_submit_state state, bool keyed,
                          uint64_t fence, uint64_t until_ms, struct view job)
{
    const struct store_submit *asked = &work->question->submit;
    struct view instance =
        asked->instance.length > 0 ? asked->instance : store_instance(work->embedded->store);
    bool was_sent = state != STORE_SUBMIT_INTENT;

    EMBEDDED_RUN(
        work->connection,
        "INSERT INTO submits(id,team,key,endpoint,operation,job,idempotency_key,instance,state,"
        "digest,sent_ms,changed_ms,until_ms,fence,note)"
        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)",
        embedded_text(asked->id), embedded_text(asked->team), embedded_text(asked->key),
        embedded_text(asked->endpoint), embedded_word(embedded_operation_word(asked->operation)),
        embedded_text_or_null(job),
        keyed ? embedded_text_or_null(asked->idempotency_key) : embedded_null(),
        embedded_text(instance), embedded_word(embedded_submit_state_word(state)),
        embedded_hex(asked->digest, STORE_DIGEST_BYTES),
        was_sent ? embedded_number(work->now_ms) : embedded_null(), embedded_number(work->now_ms),
        embedded_number_or_null(until_ms, 0), embedded_number(fence),
        embedded_text_or_null(work->question->note));
    count_unknown(work, STORE_SUBMIT_INTENT, state);
}

/* ---- claims ---------------------------------------------------------------------------------- */

/* What a claim finds under its key. */
enum standing { STANDING_FREE, STANDING_OURS, STANDING_FORGOTTEN, STANDING_TAKEN };

static enum standing look_at(const struct embedded_work *work, const struct embedded_submit *found)
{
    const struct store_submit *asked = &work->question->submit;
    uint64_t age_ms =
        work->now_ms > found->submit.changed_ms ? work->now_ms - found->submit.changed_ms : 0;
    bool is_old = age_ms >= STORE_IDEMPOTENCY_LIFE_MS &&
                  !atomic_load_explicit(&work->embedded->expiry_held, memory_order_relaxed);

    switch (found->submit.state) {
    case STORE_SUBMIT_INTENT:
        if (view_equal(found->submit.id, asked->id)) {
            return STANDING_OURS;
        }
        return found->until_ms <= work->now_ms ? STANDING_FREE : STANDING_TAKEN;
    case STORE_SUBMIT_SENT: return STANDING_TAKEN;
    case STORE_SUBMIT_REFUSED: return STANDING_FREE;
    case STORE_SUBMIT_KNOWN: return is_old ? STANDING_FREE : STANDING_TAKEN;
    case STORE_SUBMIT_UNKNOWN: return is_old ? STANDING_FORGOTTEN : STANDING_TAKEN;
    }
    return STANDING_TAKEN;
}

/* The answer that the key's first submit got. */
static enum store_result replay(struct embedded_work *work, const struct embedded_submit *found)
{
    enum store_result result = STORE_OK;

    embedded_reply_submit(work, &found->submit);
    if (found->submit.answer_status > 0) {
        result = embedded_reply_blob(work, "submits", "answer", found->row);
    }
    return result == STORE_OK ? STORE_REPLAY : result;
}

static enum store_result refuse_claim(struct embedded_work *work, struct embedded_submit *found)
{
    const struct store_submit *asked = &work->question->submit;

    if (memcmp(found->submit.digest, asked->digest, STORE_DIGEST_BYTES) != 0 ||
        (asked->operation == STORE_SUBMIT_RETRY && asked->job.length > 0 &&
         !view_equal(found->submit.job, asked->job))) {
        return STORE_MISMATCH;
    }
    if (found->submit.state == STORE_SUBMIT_KNOWN) {
        return replay(work, found);
    }
    if (found->submit.state == STORE_SUBMIT_UNKNOWN) {
        embedded_reply_submit(work, &found->submit);
        return STORE_UNKNOWN;
    }
    return STORE_BUSY;
}

/* The unknown one stays listed, but no longer stands in the key's way. */
static void take_key_from(struct embedded_work *work, int64_t row)
{
    EMBEDDED_RUN(work->connection, "UPDATE submits SET idempotency_key=NULL WHERE row=?1",
                 embedded_row_id(row));
}

/* A SENT one whose time is over. */
static void give_up(struct embedded_work *work, struct embedded_submit *submit)
{
    EMBEDDED_RUN(work->connection,
                 "UPDATE submits SET state='UNKNOWN',changed_ms=?2,until_ms=NULL,"
                 "note='no outcome was recorded in time' WHERE row=?1",
                 embedded_row_id(submit->row), embedded_number(work->now_ms));
    count_unknown(work, submit->submit.state, STORE_SUBMIT_UNKNOWN);
    submit->submit.state = STORE_SUBMIT_UNKNOWN;
    submit->submit.changed_ms = work->now_ms;
}

enum store_result embedded_claim_submit(struct embedded_work *work)
{
    struct embedded_submit found;
    sqlite3_stmt *statement;
    enum store_result result = find_by_key(work, &found, &statement);
    uint64_t fence = work->now_ms * 1000;

    if (result == STORE_BROKEN) {
        return result;
    }
    if (result == STORE_OK) {
        enum standing standing;
        bool again = work->question->accept_duplicate;

        if (found.submit.state == STORE_SUBMIT_SENT && found.until_ms <= work->now_ms) {
            give_up(work, &found);
        }
        standing = look_at(work, &found);
        if (standing == STANDING_TAKEN) {
            result = refuse_claim(work, &found);
            /* Known to be unknown, and wanted all the same. */
            if (result != STORE_UNKNOWN || !again) {
                embedded_done(statement);
                return result;
            }
            work->has_submit = false;
            work->reply->submit = (struct store_submit){.id = view_make(NULL, 0)};
        }
        if (found.fence >= fence) {
            fence = found.fence + 1;
        }
        embedded_done(statement);
        if (found.submit.state == STORE_SUBMIT_UNKNOWN) {
            take_key_from(work, found.row);
        } else {
            delete_submit(work, found.row, found.submit.state);
        }
    }
    insert_submit(work, STORE_SUBMIT_INTENT, true, fence,
                  embedded_add(work->now_ms, STORE_LEASE_MS), work->question->submit.job);
    work->reply->fence = fence;
    return STORE_OK;
}

enum store_result embedded_mark_sent(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_submit found;
    sqlite3_stmt *statement;
    enum store_result result = find_by_id(work, question->submit.id, &found, &statement);
    uint64_t until_ms = embedded_add(work->now_ms, question->until_ms);
    bool may;

    if (result == STORE_BROKEN) {
        return result;
    }
    if (result == STORE_ABSENT) {
        if (question->fence > 0) {
            return STORE_CONFLICT;
        }
        insert_submit(work, STORE_SUBMIT_SENT, false, 0, until_ms, question->submit.job);
        return STORE_OK;
    }
    embedded_done(statement);
    may = found.submit.state == STORE_SUBMIT_SENT ||
          (found.submit.state == STORE_SUBMIT_INTENT && found.until_ms > work->now_ms);
    if (!may || found.fence != question->fence) {
        return STORE_CONFLICT;
    }
    EMBEDDED_RUN(work->connection,
                 "UPDATE submits SET state='SENT',sent_ms=?2,changed_ms=?2,until_ms=?3"
                 " WHERE row=?1",
                 embedded_row_id(found.row), embedded_number(work->now_ms),
                 embedded_number(until_ms));
    return STORE_OK;
}

/* ---- outcomes -------------------------------------------------------------------------------- */

/* Writes the outcome into the submit's row; makes one when there is none. */
static void note_outcome(struct embedded_work *work, const struct embedded_submit *found,
                         enum store_submit_state state, struct view job, struct view note,
                         bool forget)
{
    const struct store_question *question = work->question;
    bool has_answer = state == STORE_SUBMIT_KNOWN && question->answer_status > 0;
    uint64_t forget_ms = forget ? embedded_add(work->now_ms, STORE_IDEMPOTENCY_LIFE_MS) : 0;

    if (!found) {
        struct embedded_submit holder;
        sqlite3_stmt *statement;
        bool is_free = question->submit.idempotency_key.length == 0 ||
                       find_by_key(work, &holder, &statement) == STORE_ABSENT;

        if (!is_free && statement) {
            embedded_done(statement);
        }
        insert_submit(work, state, is_free, 0, 0, job);
    } else {
        count_unknown(work, found->submit.state, state);
    }
    EMBEDDED_RUN(work->connection,
                 "UPDATE submits SET state=?2,job=coalesce(?3,job),changed_ms=?4,until_ms=NULL,"
                 "note=?5,forget_ms=?6,answer_status=?7,answer=?8 WHERE id=?1",
                 embedded_text(question->submit.id),
                 embedded_word(embedded_submit_state_word(state)), embedded_text_or_null(job),
                 embedded_number(work->now_ms), embedded_text_or_null(note),
                 embedded_number_or_null(forget_ms, 0),
                 embedded_number(has_answer ? question->answer_status : 0),
                 has_answer ? embedded_blob(body_view(question->answer)) : embedded_null());
}

static bool is_keyed(const struct embedded_work *work, const struct embedded_submit *found)
{
    return work->question->submit.idempotency_key.length > 0 ||
           (found && found->submit.idempotency_key.length > 0);
}

/* The job that came of a submit. */
static void insert_job(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;

    embedded_new_row(work, &row);
    row.job.endpoint = question->submit.endpoint;
    row.job.id = question->submit.job;
    row.job.upstream_id =
        question->upstream_id.length > 0 ? question->upstream_id : question->submit.job;
    row.job.team = question->submit.team;
    row.job.key = question->submit.key;
    row.submit_id = question->submit.id;
    if (job_state_is_terminal(question->state)) {
        embedded_end_job(work, &row);
    }
    if (question->input) {
        row.job.input_bytes = question->input_bytes;
        row.input_stored_bytes = body_view(question->input).length;
        row.input_encoding = question->input_encoding;
    }
    embedded_insert_row(work, &row, question->has_dedupe ? question->dedupe_digest : NULL);
    embedded_store_result(work, &row);
    if (question->input) {
        EMBEDDED_RUN(work->connection, "INSERT OR REPLACE INTO inputs(row,body) VALUES(?1,?2)",
                     embedded_row_id(row.id), embedded_blob(body_view(question->input)));
    }
}

/* The job's part of a KNOWN submit. STORE_OK also when it was written before. */
static enum store_result settle_job(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, question->submit.endpoint, question->submit.job, &row, &statement);

    if (result == STORE_ABSENT && question->submit.operation != STORE_SUBMIT_RETRY) {
        insert_job(work);
        return STORE_OK;
    }
    if (result != STORE_OK) {
        return result;
    }
    if (view_equal(row.submit_id, question->submit.id)) {
        result = STORE_OK;
    } else if (question->submit.operation != STORE_SUBMIT_RETRY) {
        embedded_reply_job(work, &row);
        result = STORE_OWNED;
    } else if (!view_equal(row.job.team, question->submit.team) ||
               row.job.generation != question->generation) {
        embedded_reply_job(work, &row);
        result = STORE_CONFLICT;
    } else {
        before = row;
        embedded_begin_again(work, &row);
        row.submit_id = question->submit.id;
        embedded_save_row(work, &before, &row);
    }
    embedded_done(statement);
    return result;
}

static enum store_result settle_known(struct embedded_work *work,
                                      const struct embedded_submit *found)
{
    const struct store_question *question = work->question;
    bool is_retry = question->submit.operation == STORE_SUBMIT_RETRY;
    enum store_result result = settle_job(work);

    if (result == STORE_OWNED) {
        note_outcome(work, found, STORE_SUBMIT_UNKNOWN, view_make(NULL, 0),
                     VIEW("upstream named a job that was in the ledger already"), false);
        return result;
    }
    /* A retry that upstream took stays known, though its job has moved on or isn't there. */
    if (result == STORE_BROKEN || (result != STORE_OK && !is_retry)) {
        return result;
    }
    if (is_keyed(work, found)) {
        note_outcome(work, found, STORE_SUBMIT_KNOWN, question->submit.job, view_make(NULL, 0),
                     true);
    } else if (found) {
        delete_submit(work, found->row, found->submit.state);
    }
    return result;
}

enum store_result embedded_settle_submit(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    struct embedded_submit submit;
    sqlite3_stmt *statement;
    enum store_result result = find_by_id(work, question->submit.id, &submit, &statement);
    const struct embedded_submit *found = result == STORE_OK ? &submit : NULL;
    bool is_known = found && submit.submit.state == STORE_SUBMIT_KNOWN;

    if (result == STORE_BROKEN) {
        return result;
    }
    switch (question->submit.state) {
    case STORE_SUBMIT_KNOWN: result = settle_known(work, found); break;
    case STORE_SUBMIT_REFUSED:
        result = is_known ? STORE_CONFLICT : STORE_OK;
        if (found && !is_known) {
            delete_submit(work, submit.row, submit.submit.state);
        }
        break;
    case STORE_SUBMIT_UNKNOWN:
        result = is_known ? STORE_CONFLICT : STORE_OK;
        if (!is_known) {
            note_outcome(work, found, STORE_SUBMIT_UNKNOWN, question->submit.job, question->note,
                         false);
        }
        break;
    case STORE_SUBMIT_INTENT:
    case STORE_SUBMIT_SENT: result = STORE_CONFLICT; break;
    }
    if (statement) {
        embedded_done(statement);
    }
    return result;
}

/* ---- unknown ones ---------------------------------------------------------------------------- */

void embedded_give_up_overdue(struct embedded_work *work)
{
    EMBEDDED_RUN(work->connection,
                 "UPDATE submits SET state='UNKNOWN',changed_ms=?1,until_ms=NULL,"
                 "note='no outcome was recorded in time' WHERE state='SENT' AND until_ms<=?1",
                 embedded_number(work->now_ms));
    if (work->connection->error == SQLITE_OK) {
        work->totals[EMBEDDED_TOTAL_UNKNOWN] += (int64_t)embedded_changed(work->connection);
    }
}

enum store_result embedded_list_unknown(struct embedded_work *work)
{
    const struct store_question *question = work->question;
    uint32_t limit = question->limit > 0 && question->limit < STORE_LIST_MAXIMUM
                         ? question->limit
                         : STORE_LIST_MAXIMUM;
    struct embedded_submit submit;
    sqlite3_stmt *statement;
    int64_t after;
    int64_t last = 0;

    if (!embedded_read_cursor(question->cursor, 0, &after)) {
        return STORE_BAD_CURSOR;
    }
    embedded_give_up_overdue(work);
    statement = EMBEDDED_QUERY(
        work->connection,
        "SELECT " EMBEDDED_SUBMIT_COLUMNS " FROM submits WHERE state='UNKNOWN' AND row>?1"
        " AND (?2 IS NULL OR team=?2) AND (?3 IS NULL OR endpoint=?3) ORDER BY row",
        embedded_row_id(after), embedded_text_or_null(question->team),
        embedded_text_or_null(question->endpoint));
    while (statement) {
        if (work->reply->count == limit) {
            embedded_reply_cursor(work, last);
            embedded_done(statement);
            break;
        }
        last = sqlite3_column_int64(statement, 0);
        if (embedded_read_submit(statement, &submit)) {
            embedded_reply_add_submit(work, &submit.submit);
        } else {
            work->broken = true;
        }
        if (!embedded_next(work->connection, statement)) {
            break;
        }
    }
    return STORE_OK;
}

/* What became of an unknown submit, by the operator's word. */
static enum store_result resolve(struct embedded_work *work, const struct embedded_submit *found)
{
    const struct store_question *question = work->question;
    struct view job = question->submit.job;
    struct embedded_row row;
    struct embedded_row before;
    sqlite3_stmt *statement;
    enum store_result result =
        embedded_find_job(work, found->submit.endpoint, job, &row, &statement);

    if (result == STORE_OK) {
        result = STORE_OWNED;
        if (found->submit.operation == STORE_SUBMIT_RETRY && view_equal(job, found->submit.job) &&
            view_equal(row.job.team, found->submit.team)) {
            before = row;
            embedded_begin_again(work, &row);
            embedded_save_row(work, &before, &row);
            result = STORE_OK;
        } else {
            embedded_reply_job(work, &row);
        }
        embedded_done(statement);
        return result;
    }
    if (result == STORE_ABSENT) {
        embedded_new_row(work, &row);
        row.job.endpoint = found->submit.endpoint;
        row.job.id = job;
        row.job.upstream_id = job;
        row.job.team = found->submit.team;
        row.job.key = found->submit.key;
        row.job.state = JOB_IN_QUEUE;
        row.submit_id = found->submit.id;
        if (found->submit.sent_ms > 0 && found->submit.sent_ms < work->now_ms) {
            row.job.submitted_ms = found->submit.sent_ms;
        }
        embedded_insert_row(work, &row, NULL);
        result = STORE_OK;
    }
    return result;
}

enum store_result embedded_resolve_submit(struct embedded_work *work)
{
    struct embedded_submit found;
    sqlite3_stmt *statement;
    enum store_result result = find_by_id(work, work->question->submit.id, &found, &statement);
    bool ran = work->question->submit.job.length > 0;

    if (result != STORE_OK) {
        return result;
    }
    if (found.submit.state == STORE_SUBMIT_SENT && found.until_ms <= work->now_ms) {
        give_up(work, &found);
    }
    if (found.submit.state != STORE_SUBMIT_UNKNOWN) {
        embedded_reply_submit(work, &found.submit);
        result = STORE_CONFLICT;
    } else if (ran) {
        result = resolve(work, &found);
    }
    if (result == STORE_OK) {
        note_outcome(work, &found, ran ? STORE_SUBMIT_KNOWN : STORE_SUBMIT_REFUSED,
                     work->question->submit.job, VIEW("settled by an operator"), true);
    }
    embedded_done(statement);
    return result;
}
