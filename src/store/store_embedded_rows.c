#include "build_config.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "store/store_embedded.h"

/* Rows of the embedded store: read with a doubtful eye, since anybody can edit the file, written
 * back whole, and copied into replies. */

static const char *const kind_words[] = {"run", "runsync"};
static const char *const fate_words[STORE_FATES] = {"NONE",    "KEPT",    "TOO_LARGE",
                                                    "EXPIRED", "EVICTED", "DELETED"};
static const char *const encoding_words[] = {"identity", "zstd"};
static const char *const operation_words[] = {"run", "runsync", "retry"};
static const char *const submit_state_words[] = {"INTENT", "SENT", "KNOWN", "REFUSED", "UNKNOWN"};

const char *embedded_operation_word(enum store_submit_operation operation)
{
    return operation_words[operation];
}

const char *embedded_submit_state_word(enum store_submit_state state)
{
    return submit_state_words[state];
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_word(sqlite3_stmt *statement, int column, const char *const *words, size_t count,
                      size_t *index)
{
    struct view text = embedded_column_bytes(statement, column);

    for (size_t i = 0; i < count; i++) {
        if (view_equal(text, view_of_string(words[i]))) {
            *index = i;
            return true;
        }
    }
    return false;
}

/* Numbers that have to be there. */
static bool read_number(sqlite3_stmt *statement, int column, uint64_t *number)
{
    *number = embedded_column_number(statement, column, UINT64_MAX);
    return *number != UINT64_MAX;
}

static bool read_count(sqlite3_stmt *statement, int column, uint32_t *count)
{
    uint64_t number;

    if (!read_number(statement, column, &number) || number > UINT32_MAX) {
        return false;
    }
    *count = (uint32_t)number;
    return true;
}

/* A number that may be missing, but not be something else. */
static bool read_optional(sqlite3_stmt *statement, int column, uint64_t otherwise, uint64_t *number)
{
    if (sqlite3_column_type(statement, column) == SQLITE_NULL) {
        *number = otherwise;
        return true;
    }
    return read_number(statement, column, number);
}

static bool read_digest(sqlite3_stmt *statement, int column, bool must,
                        unsigned char digest[STORE_DIGEST_BYTES])
{
    struct view text = embedded_column_bytes(statement, column);

    if (text.length == 0) {
        memset(digest, 0, STORE_DIGEST_BYTES);
        return !must;
    }
    return view_parse_hex(text, digest, STORE_DIGEST_BYTES);
}

enum job_column {
    COLUMN_ID,
    COLUMN_ENDPOINT,
    COLUMN_JOB,
    COLUMN_UPSTREAM_ID,
    COLUMN_TEAM,
    COLUMN_KEY,
    COLUMN_KIND,
    COLUMN_STATE,
    COLUMN_FATE,
    COLUMN_GENERATION,
    COLUMN_SUBMITTED,
    COLUMN_ENDED,
    COLUMN_EXPIRES,
    COLUMN_FORGET,
    COLUMN_TTL,
    COLUMN_EXECUTION,
    COLUMN_DELAY,
    COLUMN_RESULT_BYTES,
    COLUMN_STORED_BYTES,
    COLUMN_ENCODING,
    COLUMN_DIGEST,
    COLUMN_INPUT_BYTES,
    COLUMN_INPUT_STORED_BYTES,
    COLUMN_INPUT_ENCODING,
    COLUMN_PURGED,
    COLUMN_CANCEL_DUE,
    COLUMN_DUE,
    COLUMN_READY,
    COLUMN_LEASE_INSTANCE,
    COLUMN_DEADLINE,
    COLUMN_FENCE,
    COLUMN_MISSING_SINCE,
    COLUMN_MISSING_COUNT,
    COLUMN_FAILURE_COUNT,
    COLUMN_POLL_UNTIL,
    COLUMN_CHUNK_COUNT,
    COLUMN_CHUNK_BYTES,
    COLUMN_SUBMIT_ID,
};

static bool read_result(sqlite3_stmt *statement, struct embedded_row *row)
{
    struct store_job *job = &row->job;
    size_t encoding;
    size_t input_encoding;

    if (!read_number(statement, COLUMN_RESULT_BYTES, &job->result_bytes) ||
        !read_number(statement, COLUMN_STORED_BYTES, &job->stored_bytes) ||
        !read_word(statement, COLUMN_ENCODING, encoding_words, ARRAY_LENGTH(encoding_words),
                   &encoding) ||
        !read_digest(statement, COLUMN_DIGEST, job->fate == STORE_FATE_KEPT, job->digest) ||
        !read_number(statement, COLUMN_INPUT_BYTES, &job->input_bytes) ||
        !read_number(statement, COLUMN_INPUT_STORED_BYTES, &row->input_stored_bytes) ||
        !read_word(statement, COLUMN_INPUT_ENCODING, encoding_words, ARRAY_LENGTH(encoding_words),
                   &input_encoding)) {
        return false;
    }
    job->encoding = (enum store_encoding)encoding;
    row->input_encoding = (enum store_encoding)input_encoding;
    return true;
}

static bool read_schedule(sqlite3_stmt *statement, struct embedded_row *row)
{
    struct store_job *job = &row->job;
    uint64_t purged;
    uint64_t ready;

    if (!read_number(statement, COLUMN_PURGED, &purged) ||
        !read_optional(statement, COLUMN_CANCEL_DUE, 0, &row->cancel_due_ms) ||
        !read_optional(statement, COLUMN_DUE, 0, &job->due_ms) ||
        !read_number(statement, COLUMN_READY, &ready) ||
        !read_number(statement, COLUMN_DEADLINE, &job->deadline_ms) ||
        !read_number(statement, COLUMN_FENCE, &job->fence) ||
        !read_optional(statement, COLUMN_MISSING_SINCE, 0, &job->missing_since_ms) ||
        !read_count(statement, COLUMN_MISSING_COUNT, &job->missing_count) ||
        !read_count(statement, COLUMN_FAILURE_COUNT, &job->failure_count) ||
        !read_optional(statement, COLUMN_POLL_UNTIL, 0, &row->poll_until_ms) ||
        !read_number(statement, COLUMN_CHUNK_COUNT, &job->chunk_count) ||
        !read_number(statement, COLUMN_CHUNK_BYTES, &row->chunk_bytes)) {
        return false;
    }
    job->purged = purged != 0;
    job->cancel_wanted = row->cancel_due_ms > 0;
    row->ready = ready != 0;
    row->scheduled = sqlite3_column_type(statement, COLUMN_DUE) != SQLITE_NULL;
    row->lease_instance = embedded_column_bytes(statement, COLUMN_LEASE_INSTANCE);
    row->submit_id = embedded_column_bytes(statement, COLUMN_SUBMIT_ID);
    return true;
}

bool embedded_read_row(sqlite3_stmt *statement, struct embedded_row *row)
{
    struct store_job *job = &row->job;
    size_t kind;
    size_t fate;

    memset(row, 0, sizeof *row);
    row->id = sqlite3_column_int64(statement, COLUMN_ID);
    job->endpoint = embedded_column_bytes(statement, COLUMN_ENDPOINT);
    job->id = embedded_column_bytes(statement, COLUMN_JOB);
    job->upstream_id = embedded_column_bytes(statement, COLUMN_UPSTREAM_ID);
    job->team = embedded_column_bytes(statement, COLUMN_TEAM);
    job->key = embedded_column_bytes(statement, COLUMN_KEY);
    if (!read_word(statement, COLUMN_KIND, kind_words, ARRAY_LENGTH(kind_words), &kind) ||
        !read_word(statement, COLUMN_FATE, fate_words, ARRAY_LENGTH(fate_words), &fate) ||
        !job_state_parse_ledger(embedded_column_bytes(statement, COLUMN_STATE), &job->state) ||
        !read_number(statement, COLUMN_GENERATION, &job->generation) ||
        !read_number(statement, COLUMN_SUBMITTED, &job->submitted_ms) ||
        !read_optional(statement, COLUMN_ENDED, 0, &job->ended_ms) ||
        !read_optional(statement, COLUMN_EXPIRES, 0, &job->expires_ms) ||
        !read_optional(statement, COLUMN_FORGET, 0, &row->forget_ms) ||
        !read_number(statement, COLUMN_TTL, &job->ttl_ms) ||
        !read_optional(statement, COLUMN_EXECUTION, UINT64_MAX, &job->execution_ms) ||
        !read_optional(statement, COLUMN_DELAY, UINT64_MAX, &job->delay_ms)) {
        return false;
    }
    job->kind = (enum store_kind)kind;
    job->fate = (enum store_fate)fate;
    return read_result(statement, row) && read_schedule(statement, row);
}

bool embedded_read_submit(sqlite3_stmt *statement, struct embedded_submit *submit)
{
    struct store_submit *facts = &submit->submit;
    struct view *const views[] = {&facts->id,       &facts->team, &facts->key,
                                  &facts->endpoint, &facts->job,  &facts->idempotency_key,
                                  &facts->instance, &facts->note};
    int column = 1;
    size_t operation;
    size_t state;
    uint32_t status;

    memset(submit, 0, sizeof *submit);
    submit->row = sqlite3_column_int64(statement, 0);
    for (size_t i = 0; i < ARRAY_LENGTH(views); i++) {
        *views[i] = embedded_column_bytes(statement, column++);
    }
    if (facts->id.length != STORE_SUBMIT_ID_BYTES ||
        !read_word(statement, column, operation_words, ARRAY_LENGTH(operation_words), &operation) ||
        !read_word(statement, column + 1, submit_state_words, ARRAY_LENGTH(submit_state_words),
                   &state) ||
        !read_digest(statement, column + 2, true, facts->digest) ||
        !read_optional(statement, column + 3, 0, &facts->sent_ms) ||
        !read_number(statement, column + 4, &facts->changed_ms) ||
        !read_count(statement, column + 5, &status) ||
        !read_number(statement, column + 6, &submit->fence) ||
        !read_optional(statement, column + 7, 0, &submit->until_ms)) {
        return false;
    }
    facts->operation = (enum store_submit_operation)operation;
    facts->state = (enum store_submit_state)state;
    facts->answer_status = status;
    return true;
}

enum store_result embedded_find_job(struct embedded_work *work, struct view endpoint,
                                    struct view job, struct embedded_row *row,
                                    sqlite3_stmt **statement)
{
    *statement = EMBEDDED_QUERY(
        work->connection, "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs WHERE endpoint=?1 AND job=?2",
        embedded_text(endpoint), embedded_text(job));
    if (!*statement) {
        return STORE_ABSENT;
    }
    if (!embedded_read_row(*statement, row)) {
        embedded_done(*statement);
        *statement = NULL;
        work->broken = true;
        return STORE_BROKEN;
    }
    return STORE_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void count_row(struct embedded_work *work, const struct embedded_row *row, int64_t sign)
{
    int64_t bytes = (int64_t)(row->job.stored_bytes + row->input_stored_bytes + row->chunk_bytes);

    work->totals[EMBEDDED_TOTAL_JOBS] += sign;
    work->totals[EMBEDDED_TOTAL_OUTSTANDING] += row->scheduled ? sign : 0;
    work->totals[EMBEDDED_TOTAL_BYTES] += sign * bytes;
    work->totals[EMBEDDED_TOTAL_LOST] += row->job.state == JOB_LOST ? sign : 0;
    work->totals[EMBEDDED_TOTAL_TTL_EXPIRED] += row->job.state == JOB_TTL_EXPIRED ? sign : 0;
    work->totals[EMBEDDED_TOTAL_FATE + row->job.fate] += sign;
}

static void count_endpoint(struct embedded_work *work, const struct embedded_row *row, int sign)
{
    EMBEDDED_RUN(work->connection,
                 "INSERT INTO endpoints(endpoint,outstanding,runsync) VALUES(?1,?2,?3)"
                 " ON CONFLICT(endpoint) DO UPDATE SET outstanding=outstanding+?2,"
                 "runsync=runsync+?3",
                 embedded_text(row->job.endpoint), embedded_row_id(sign),
                 embedded_row_id(row->job.kind == STORE_KIND_RUNSYNC ? sign : 0));
}

void embedded_save_row(struct embedded_work *work, const struct embedded_row *before,
                       const struct embedded_row *row)
{
    const struct store_job *job = &row->job;

    EMBEDDED_RUN(
        work->connection,
        "UPDATE jobs SET upstream_id=?2,kind=?3,state=?4,fate=?5,generation=?6,submitted_ms=?7,"
        "ended_ms=?8,expires_ms=?9,forget_ms=?10,execution_ms=?11,delay_ms=?12,result_bytes=?13,"
        "stored_bytes=?14,encoding=?15,digest=?16,input_bytes=?17,input_stored_bytes=?18,"
        "input_encoding=?19,purged=?20,cancel_due_ms=?21,due_ms=?22,ready=?23,lease_instance=?24,"
        "deadline_ms=?25,fence=?26,missing_since_ms=?27,missing_count=?28,failure_count=?29,"
        "poll_until_ms=?30,chunk_count=?31,chunk_bytes=?32,submit_id=?33 WHERE id=?1",
        embedded_row_id(row->id), embedded_text(job->upstream_id),
        embedded_word(kind_words[job->kind]), embedded_word(job_state_text(job->state)),
        embedded_word(fate_words[job->fate]), embedded_number(job->generation),
        embedded_number(job->submitted_ms), embedded_number_or_null(job->ended_ms, 0),
        embedded_number_or_null(job->expires_ms, 0), embedded_number_or_null(row->forget_ms, 0),
        embedded_number_or_null(job->execution_ms, UINT64_MAX),
        embedded_number_or_null(job->delay_ms, UINT64_MAX), embedded_number(job->result_bytes),
        embedded_number(job->stored_bytes), embedded_word(encoding_words[job->encoding]),
        job->fate == STORE_FATE_KEPT ? embedded_hex(job->digest, STORE_DIGEST_BYTES)
                                     : embedded_null(),
        embedded_number(job->input_bytes), embedded_number(row->input_stored_bytes),
        embedded_word(encoding_words[row->input_encoding]), embedded_number(job->purged),
        embedded_number_or_null(row->cancel_due_ms, 0),
        row->scheduled ? embedded_number(job->due_ms) : embedded_null(),
        embedded_number(row->scheduled && row->ready), embedded_text_or_null(row->lease_instance),
        embedded_number(job->deadline_ms), embedded_number(job->fence),
        embedded_number_or_null(job->missing_since_ms, 0), embedded_number(job->missing_count),
        embedded_number(job->failure_count), embedded_number_or_null(row->poll_until_ms, 0),
        embedded_number(job->chunk_count), embedded_number(row->chunk_bytes),
        embedded_text_or_null(row->submit_id));
    embedded_note_news(work, row->id);
    count_row(work, before, -1);
    count_row(work, row, 1);
    if (before->scheduled != row->scheduled || before->job.kind != job->kind) {
        if (before->scheduled) {
            count_endpoint(work, before, -1);
        }
        if (row->scheduled) {
            count_endpoint(work, row, 1);
        }
    }
}

void embedded_insert_row(struct embedded_work *work, struct embedded_row *row,
                         const unsigned char *dedupe_digest)
{
    const struct store_job *job = &row->job;

    EMBEDDED_RUN(
        work->connection,
        "INSERT INTO jobs(endpoint,job,upstream_id,team,key,kind,state,fate,generation,"
        "submitted_ms,ended_ms,expires_ms,forget_ms,ttl_ms,execution_ms,delay_ms,result_bytes,"
        "stored_bytes,encoding,digest,input_bytes,input_stored_bytes,input_encoding,due_ms,"
        "deadline_ms,poll_until_ms,submit_id,dedupe_digest)"
        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,"
        "?23,?24,?25,?26,?27,?28)",
        embedded_text(job->endpoint), embedded_text(job->id), embedded_text(job->upstream_id),
        embedded_text(job->team), embedded_text(job->key), embedded_word(kind_words[job->kind]),
        embedded_word(job_state_text(job->state)), embedded_word(fate_words[job->fate]),
        embedded_number(job->generation), embedded_number(job->submitted_ms),
        embedded_number_or_null(job->ended_ms, 0), embedded_number_or_null(job->expires_ms, 0),
        embedded_number_or_null(row->forget_ms, 0), embedded_number(job->ttl_ms),
        embedded_number_or_null(job->execution_ms, UINT64_MAX),
        embedded_number_or_null(job->delay_ms, UINT64_MAX), embedded_number(job->result_bytes),
        embedded_number(job->stored_bytes), embedded_word(encoding_words[job->encoding]),
        job->fate == STORE_FATE_KEPT ? embedded_hex(job->digest, STORE_DIGEST_BYTES)
                                     : embedded_null(),
        embedded_number(job->input_bytes), embedded_number(row->input_stored_bytes),
        embedded_word(encoding_words[row->input_encoding]),
        row->scheduled ? embedded_number(job->due_ms) : embedded_null(),
        embedded_number(job->deadline_ms), embedded_number_or_null(row->poll_until_ms, 0),
        embedded_text_or_null(row->submit_id),
        dedupe_digest ? embedded_hex(dedupe_digest, STORE_DIGEST_BYTES) : embedded_null());
    row->id = sqlite3_last_insert_rowid(work->connection->database);
    embedded_note_news(work, row->id);
    count_row(work, row, 1);
    if (row->scheduled) {
        count_endpoint(work, row, 1);
    }
}

void embedded_delete_row(struct embedded_work *work, const struct embedded_row *row)
{
    EMBEDDED_RUN(work->connection, "DELETE FROM jobs WHERE id=?1", embedded_row_id(row->id));
    count_row(work, row, -1);
    if (row->scheduled) {
        count_endpoint(work, row, -1);
    }
}

void embedded_drop_input(struct embedded_work *work, struct embedded_row *row)
{
    if (row->job.input_bytes > 0) {
        EMBEDDED_RUN(work->connection, "DELETE FROM inputs WHERE row=?1", embedded_row_id(row->id));
        row->job.input_bytes = 0;
        row->input_stored_bytes = 0;
    }
}

void embedded_drop_chunks(struct embedded_work *work, struct embedded_row *row)
{
    EMBEDDED_RUN(work->connection, "DELETE FROM cursors WHERE row=?1", embedded_row_id(row->id));
    if (row->job.chunk_count > 0) {
        EMBEDDED_RUN(work->connection, "DELETE FROM chunks WHERE row=?1", embedded_row_id(row->id));
        row->job.chunk_count = 0;
        row->chunk_bytes = 0;
    }
}

void embedded_drop_result(struct embedded_work *work, struct embedded_row *row)
{
    if (row->job.fate == STORE_FATE_KEPT) {
        EMBEDDED_RUN(work->connection, "DELETE FROM results WHERE row=?1",
                     embedded_row_id(row->id));
    }
    row->job.result_bytes = 0;
    row->job.stored_bytes = 0;
    row->job.encoding = STORE_ENCODING_IDENTITY;
    row->job.expires_ms = 0;
    memset(row->job.digest, 0, STORE_DIGEST_BYTES);
}
