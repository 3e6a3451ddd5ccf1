/* Ledger and results: what podgate knows of every submit and every job, kept where it outlives the
 * process. One interface, two backends that pass one suite of tests (tests/unit/store_suite.h):
 *
 * - embedded: SQLite in one file, one podgate (store_embedded.c);
 * - redis: several podgates share one Redis (store_redis.c), with a local SQLite file as the spool
 *   while Redis is away (store_spool.c).
 *
 *     struct store_question question = {.operation = STORE_GET_JOB, .endpoint = e, .job = j};
 *     struct store_call *call = store_ask(client, &question, on_job, request);
 *     ... on_job(request, &reply) runs once, later, on this loop; or never after store_cancel(call)
 *
 * Everything is asked by store_ask(): a question names an operation and fills the members that
 * enum store_operation names for it; the others are ignored. Times in questions are spans in ms
 * from the moment at which the store works on them, by the store's own clock (with Redis: Redis's),
 * so that clocks of several machines needn't agree. Times in replies are wall ms of that clock, and
 * `now_ms` is what it showed.
 */
#ifndef PODGATE_STORE_STORE_H
#define PODGATE_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/body.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "model/config.h"
#include "model/job.h"

enum {
    STORE_SUBMIT_ID_BYTES = 32, /* a submit's name: 32 lower-case hexadecimal digits */
    STORE_DIGEST_BYTES = 32,    /* SHA-256 */
    STORE_IDEMPOTENCY_MAXIMUM = 255,
    STORE_IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000,
    STORE_LEASE_MS = 10000,                    /* how long a claimed job is its claimer's */
    STORE_TOMBSTONE_MS = 7 * 24 * 3600 * 1000, /* a job is remembered so long without its result */
    STORE_LIST_MAXIMUM = 1000,                 /* jobs or submits in one reply */
};

/* What a job's end left, and what became of it. */
enum store_fate {
    STORE_FATE_NONE,      /* not ended, or ended without a result (LOST, TTL_EXPIRED, CANCELLED) */
    STORE_FATE_KEPT,      /* the result is in the store */
    STORE_FATE_TOO_LARGE, /* above retention.max_result: served by upstream while it has it */
    STORE_FATE_EXPIRED,   /* its retention (or ?ttl=) has passed */
    STORE_FATE_EVICTED,   /* went for retention.max_total */
    STORE_FATE_DELETED,   /* its team deleted it */
};
enum { STORE_FATES = 6 };

/* Which of the upstream's retentions holds for a job, and how it was submitted. */
enum store_kind { STORE_KIND_RUN, STORE_KIND_RUNSYNC };

/* The three submits (reliability: life of a submit). */
enum store_submit_operation { STORE_SUBMIT_RUN, STORE_SUBMIT_RUNSYNC, STORE_SUBMIT_RETRY };

enum store_submit_state {
    STORE_SUBMIT_INTENT,  /* claimed under an idempotency key; provably not sent */
    STORE_SUBMIT_SENT,    /* its bytes may have gone up */
    STORE_SUBMIT_KNOWN,   /* upstream answered with an id */
    STORE_SUBMIT_REFUSED, /* upstream took it not */
    STORE_SUBMIT_UNKNOWN, /* nobody knows; never sent again by podgate */
};

enum store_encoding { STORE_ENCODING_IDENTITY, STORE_ENCODING_ZSTD };

/* What one submit is in the ledger. Views are valid as long as the question or reply they are in.
 */
struct store_submit {
    struct view id; /* STORE_SUBMIT_ID_BYTES */
    struct view team;
    struct view key; /* the podgate key's id */
    struct view endpoint;
    struct view job;             /* of a retry: the job; when KNOWN: the job that came of it */
    struct view idempotency_key; /* empty: none */
    struct view instance;        /* which podgate sent it */
    enum store_submit_operation operation;
    enum store_submit_state state;
    unsigned char digest[STORE_DIGEST_BYTES]; /* of query and body */
    uint64_t sent_ms;
    uint64_t changed_ms;
    unsigned answer_status; /* when KNOWN and keyed: what the caller was told; 0: nothing */
    struct view note;       /* in replies: why it is UNKNOWN, in words; may be empty */
};

/* What one job is in the ledger. */
struct store_job {
    struct view endpoint;
    struct view id;          /* as callers name it */
    struct view upstream_id; /* as upstream names it: `id`, until /retry had to submit it again */
    struct view team;
    struct view key;
    enum store_kind kind;
    enum job_state state;
    enum store_fate fate;
    uint64_t generation; /* grows by one with each /retry; 1 at first */
    uint64_t submitted_ms;
    uint64_t ended_ms;     /* 0: it has not */
    uint64_t expires_ms;   /* when the result goes; 0: there is none */
    uint64_t ttl_ms;       /* the upstream drops the job so long after submitted_ms (policy.ttl) */
    uint64_t execution_ms; /* UINT64_MAX: upstream didn't say */
    uint64_t delay_ms;     /* UINT64_MAX: upstream didn't say */
    uint64_t result_bytes; /* of the exact bytes; 0: none */
    uint64_t stored_bytes; /* as they lie in the store */
    enum store_encoding encoding;             /* of those */
    unsigned char digest[STORE_DIGEST_BYTES]; /* SHA-256 of the exact bytes */
    uint64_t input_bytes; /* of the submit's body, when it was kept; 0: it wasn't */
    bool cancel_wanted;   /* a purge marked it; not cancelled yet */
    bool purged;          /* a purge marked it, at whatever time */
    /* The schedule. */
    uint64_t due_ms;
    uint64_t deadline_ms; /* upstream may forget the result from here on */
    uint64_t fence;
    uint64_t missing_since_ms; /* of the first 404 in a row; 0: none */
    uint32_t missing_count;
    uint32_t failure_count; /* polls in a row that brought nothing */
    /* The stream. */
    uint64_t chunk_count;
};

enum store_operation {
    /* ---- submits ---- */

    /* Claims `submit.idempotency_key` for (team, endpoint, operation) before anything is sent:
     * submit (id, team, key, endpoint, job, operation, idempotency_key, digest, instance).
     * STORE_OK: claimed as INTENT for STORE_LEASE_MS, `fence` in the reply. STORE_REPLAY: KNOWN;
     * reply.submit and reply.body (the answer's bytes). STORE_BUSY: in flight elsewhere.
     * STORE_MISMATCH: taken by another digest. STORE_UNKNOWN: reply.submit says what is known; with
     * `accept_duplicate` it is claimed anew instead (the unknown one stays listed, without key).
     * REFUSED ones and lapsed INTENTs are claimed anew. Not durable. */
    STORE_CLAIM_SUBMIT,
    /* Before the first byte goes up: submit (as above), `fence` of the claim when keyed (else 0),
     * `until_ms`: the span after which a submit that nobody settled counts as UNKNOWN. Durable when
     * keyed, else written. STORE_OK; STORE_CONFLICT: the claim has lapsed, don't send. */
    STORE_MARK_SENT,
    /* The outcome: submit.id, team, endpoint, operation, idempotency_key, digest and submit.state:
     * - KNOWN: `state`, `kind`, submit.job, submit.key, ttl_ms, due_ms, deadline_ms (spans), and
     *   optionally answer_status with `answer` (kept when keyed, for STORE_IDEMPOTENCY_LIFE_MS),
     *   `input` (encoded as input_encoding says, input_bytes exact), dedupe_digest (has_dedupe),
     * and `result` with its members as in STORE_PUT_RESULT when the job has ended already.
     *   STORE_OWNED: the id is in the ledger already; reply.job; the submit becomes UNKNOWN.
     *   Works without a MARK_SENT too (written by another podgate, or lost): it is inserted.
     * - REFUSED, UNKNOWN (`note`: why, in words).
     * Durable. With operation RETRY and KNOWN the job is changed as by STORE_RETRY_JOB
     * (submit.job, generation, upstream_id) in the same commit. */
    STORE_SETTLE_SUBMIT,
    /* Unknown submits, oldest first: team and endpoint (empty: all), limit, cursor. reply.submits,
     * reply.cursor. Also turns SENT ones whose time is over to UNKNOWN. */
    STORE_LIST_UNKNOWN,
    /* An operator's word on an UNKNOWN submit: submit.id; submit.job not empty: it became that job
     * (inserted for its team; kind, due_ms, deadline_ms, ttl_ms); empty: it never ran (REFUSED).
     * STORE_ABSENT, STORE_OWNED, STORE_CONFLICT: it isn't UNKNOWN. */
    STORE_RESOLVE_SUBMIT,
    /* The job that has this input: team, endpoint, dedupe_digest. STORE_OK with reply.job, or
     * STORE_ABSENT. Only jobs that run, or that are COMPLETED with a result kept. */
    STORE_FIND_DUPLICATE,

    /* ---- jobs ---- */

    /* endpoint, job; with_result: reply.body holds the stored result, encoded as
     * reply.job.encoding says; with_input: reply.body holds the kept input (input_encoding in
     * reply.input_encoding). STORE_OK or STORE_ABSENT. */
    STORE_GET_JOB,
    /* Enters a job that podgate didn't submit: endpoint, job, team, key, kind, state, ttl_ms,
     * due_ms, deadline_ms. STORE_OK; STORE_OWNED with reply.job when it is there. Durable. */
    STORE_ADOPT_JOB,
    /* A job's end: endpoint, job, generation, state (terminal, LOST or TTL_EXPIRED), fate (KEPT,
     * TOO_LARGE or NONE), keep_ms (span until it expires), execution_ms, delay_ms; with KEPT:
     * `result` (encoded), encoding, result_bytes, digest. Stored if the generation is the same and
     * the job isn't terminal (LOST may be overridden). STORE_OK: durable, off the schedule (a LOST
     * one stays on it for poll_on_ms, when not 0). STORE_CONFLICT: reply.job is what stands.
     * STORE_ABSENT. */
    STORE_PUT_RESULT,
    /* A /retry that upstream took: endpoint, job, generation (the one that ended), upstream_id
     * (empty: unchanged), kind, due_ms, deadline_ms. The generation grows, result and chunks and
     * cursors go, the state is IN_QUEUE. Durable. STORE_CONFLICT when the generation is another. */
    STORE_RETRY_JOB,
    /* endpoint, job: the result goes now (fate DELETED). STORE_OK, STORE_ABSENT, STORE_CONFLICT
     * when there is none (reply.job). Durable. */
    STORE_DELETE_RESULT,
    /* endpoint, job, keep_ms: the result goes no later than that. Written. */
    STORE_SHORTEN,
    /* A team's jobs (team empty: all), newest first: endpoint (empty: all), has_state and state,
     * has_fate and fate, since_ms (wall; 0: all), limit, cursor. reply.jobs, reply.cursor (empty
     * when that was all). STORE_BAD_CURSOR. */
    STORE_LIST_JOBS,

    /* ---- the schedule ---- */

    /* At most `limit` jobs of `endpoint` that are due: earliest deadline first, those past their
     * deadline last; each is leased for lease_ms (its due moves), with a fence greater than any
     * before. reply.jobs, each with its fence; reply.next_ms: when the next one of the endpoint is
     * due (UINT64_MAX: none). With Redis at most poll_rate_milli / 1000 jobs a second are given to
     * all podgates together. A due time further off than max_poll_ms counts as now. Written. */
    STORE_CLAIM_DUE,
    /* endpoint, job, lease_ms: the lease of one job that somebody waits for or whose stream is
     * read. STORE_OK with reply.job (its fence included). A lease that this very podgate holds
     * already is lengthened and keeps its fence. STORE_BUSY: another podgate's, until
     * reply.job.due_ms; STORE_CONFLICT: it has ended (reply.job); STORE_ABSENT. Written. */
    STORE_CLAIM_JOB,
    /* After a poll, and the end of the lease: endpoint, job, fence, state, due_ms, deadline_ms
     * (spans; 0: the deadline stays), missing (0: not missing; else the count, with
     * missing_since_ms as a span into the past) and failures. The state is not terminal, but for
     * LOST, which a LOST job that is still polled keeps; a LOST one that upstream has found again
     * becomes what it says. STORE_OK; STORE_CONFLICT: the lease is another's, or the job has ended;
     * STORE_ABSENT. Written. */
    STORE_RESCHEDULE,
    /* Endpoints that have jobs on the schedule: reply.endpoints with counts. */
    STORE_LIST_ENDPOINTS,

    /* ---- purge ---- */

    /* Marks the team's IN_QUEUE jobs of `endpoint` as to be cancelled; with `ended`, upstream has
     * purged them already: marked only, so that it is known why they are gone. reply.count. Durable.
     */
    STORE_MARK_PURGED,
    /* At most `limit` marked jobs of any endpoint, leased for cancelling for lease_ms.
     * reply.jobs. */
    STORE_CLAIM_CANCELS,
    /* endpoint, job: cancelled, or skipped since it had started. Written. */
    STORE_CLEAR_CANCEL,

    /* ---- streams ---- */

    /* endpoint, job, generation, `chunks` (the elements' bytes one behind the other) with
     * chunk_lengths and chunk_count, `from`: the index of the first. STORE_OK (durable);
     * STORE_CONFLICT: other generation, or `from` isn't the count (reply.job.chunk_count). */
    STORE_APPEND_CHUNKS,
    /* endpoint, job, from, limit (chunks), limit_bytes. reply.body (elements one behind the other),
     * reply.chunk_lengths, reply.chunk_count; reply.job. */
    STORE_READ_CHUNKS,
    /* endpoint, job, consumer (a key's id): reply.cursor_position (0 when new),
     * reply.cursor_ended (the terminal state was delivered once); reply.job. */
    STORE_GET_CURSOR,
    /* The same with `from` (the new position) and `ended`. Written. */
    STORE_SET_CURSOR,

    /* ---- housekeeping ---- */

    /* Removes what has expired, and the oldest results beyond max_total_bytes; at most `limit`.
     * reply.expired, reply.evicted; reply.jobs: the evicted ones. */
    STORE_EXPIRE,
    /* What is there: reply.counts. */
    STORE_COUNT,

    STORE_OPERATIONS
};

enum store_result {
    STORE_OK = 0,
    STORE_ABSENT,
    STORE_CONFLICT,
    STORE_OWNED,
    STORE_REPLAY,
    STORE_BUSY,
    STORE_MISMATCH,
    STORE_UNKNOWN,
    STORE_BAD_CURSOR,
    /* From here on the store failed; store_failed() tells. */
    STORE_BROKEN,    /* what lies there isn't podgate's or is damaged: this job only */
    STORE_AWAY,      /* not written */
    STORE_FULL,      /* not written: no room, or read-only */
    STORE_TIMED_OUT, /* may have been written */
    STORE_NO_MEMORY, /* not written */
};

/* A question; see enum store_operation for the members that count. Views and arrays need to live
 * during store_ask() only; bodies get a reference of their own. */
struct store_question {
    enum store_operation operation;
    uint64_t timeout_ms; /* 0: STORE_TIMEOUT_MS */
    struct store_submit submit;
    struct view endpoint;
    struct view job;
    struct view upstream_id;
    struct view team;
    struct view key;
    struct view consumer;
    struct view cursor;
    struct view note;
    enum store_kind kind;
    enum job_state state;
    enum store_fate fate;
    enum store_encoding encoding;
    enum store_encoding input_encoding;
    bool has_state;
    bool has_fate;
    bool has_dedupe;
    bool accept_duplicate;
    bool with_result;
    bool with_input;
    bool ended;
    unsigned answer_status;
    unsigned char digest[STORE_DIGEST_BYTES];
    unsigned char dedupe_digest[STORE_DIGEST_BYTES];
    uint64_t generation;
    uint64_t fence;
    uint64_t until_ms;
    uint64_t due_ms;
    uint64_t deadline_ms;
    uint64_t ttl_ms;
    uint64_t keep_ms;
    uint64_t poll_on_ms;
    uint64_t lease_ms;
    uint64_t max_poll_ms;
    uint64_t since_ms;
    uint64_t missing_since_ms;
    uint64_t execution_ms;
    uint64_t delay_ms;
    uint64_t result_bytes;
    uint64_t input_bytes;
    uint64_t max_total_bytes;
    uint64_t poll_rate_milli;
    uint64_t from;
    uint64_t limit_bytes;
    uint32_t limit;
    uint32_t missing;
    uint32_t failures;
    uint32_t chunk_count;
    const uint32_t *chunk_lengths;
    struct body *answer;
    struct body *input;
    struct body *result;
    struct body *chunks;
};

enum { STORE_TIMEOUT_MS = 1000 };

struct store_endpoint_count {
    struct view endpoint;
    uint64_t outstanding; /* on the schedule */
    uint64_t runsync;     /* of those: of STORE_KIND_RUNSYNC; 0 where the backend can't tell */
};

struct store_counts {
    uint64_t jobs;
    uint64_t outstanding;
    uint64_t results;
    uint64_t result_bytes; /* as stored, inputs and chunks with them */
    uint64_t unknown_submits;
    uint64_t by_fate[STORE_FATES];
    uint64_t lost;
    uint64_t ttl_expired;
    uint64_t spooled; /* writes that wait for Redis */
};

/* Valid during the callback; a body that is wanted longer gets a body_ref(). */
struct store_reply {
    enum store_result result;
    uint64_t now_ms;
    bool spooled; /* with STORE_OK: written to the local spool, Redis is away */
    struct store_job job;
    struct store_submit submit;
    const struct store_job *jobs;
    const struct store_submit *submits;
    const struct store_endpoint_count *endpoints;
    size_t count; /* of jobs, submits or endpoints, or of what was marked */
    struct view cursor;
    struct body *body;
    enum store_encoding input_encoding;
    const uint32_t *chunk_lengths;
    size_t chunk_count;
    uint64_t fence;
    uint64_t next_ms;
    uint64_t cursor_position;
    bool cursor_ended;
    uint64_t expired;
    uint64_t evicted;
    struct store_counts counts;
    const void *own; /* of questions that a backend asks itself */
};

/* How the store is. */
enum store_state {
    STORE_STATE_READY,
    STORE_STATE_SPOOLING, /* Redis is away; the spool takes writes */
    STORE_STATE_AWAY,     /* Redis is away, and nothing takes writes */
    STORE_STATE_FULL,     /* embedded: no room, or an I/O error; reads go on */
};

/* What can be lost though it was acknowledged (Redis without appendonly, or with `everysec`). */
enum store_durability { STORE_DURABLE, STORE_DURABLE_EVERYSEC, STORE_NOT_DURABLE };

struct store;        /* the process's */
struct store_client; /* one loop's */
struct store_call;   /* one question that is under way */

/* Made once by the process, before any client. Opens and checks: the embedded file with its schema,
 * migration and integrity check; for Redis only the spool, since podgate starts without Redis.
 * NULL:
 * `*problem` says what is wrong and what to do, in words (owned by the caller, free()), and
 * `*exit_status` is for the process (EX_DATAERR 65 corrupt or newer schema, EX_TEMPFAIL 75 another
 * podgate has it, EX_CONFIG 78 e.g. require_durable and not durable, EX_OSERR). `budget` is charged
 * with what bodies replies hold. Main thread; may block. */
struct store *store_create(const struct config *config, struct body_budget *budget,
                           struct metrics *metrics, struct log *log, char **problem,
                           int *exit_status);

/* Flushes and closes. After all clients are destroyed. NULL is allowed. Main thread; may block. */
void store_destroy(struct store *store);

/* Takes over what may change at run time (retention, limits). Main thread. */
void store_adopt(struct store *store, const struct config *config);

/* One per loop. NULL without memory. The loop's thread, or before it runs. */
struct store_client *store_client_create(struct store *store, struct loop *loop,
                                         struct metrics_block *metrics, struct log_ring *log);

/* Cancels what is under way. When its loop has left loop_run(), or on its thread. NULL is allowed.
 */
void store_client_destroy(struct store_client *client);

/* Called once, on the client's loop, never from within store_ask(). */
typedef void store_done(void *argument, const struct store_reply *reply);

/* Asks. NULL: no memory, `done` is not called. The client's thread. */
MUST_CHECK struct store_call *store_ask(struct store_client *client,
                                        const struct store_question *question, store_done *done,
                                        void *argument);

/* `done` is not called any more; a write goes on. The client's thread, before `done` was called. */
void store_cancel(struct store_call *call);

/* True for results that say nothing about the job, only that the store failed. */
bool store_failed(enum store_result result);

/* A literal for logs: "conflict". */
const char *store_result_text(enum store_result result);

/* The names of the operations for logs and metrics, in order: "claim-submit". */
extern const char *const store_operation_texts[STORE_OPERATIONS];

/* Any thread, cheap: to be asked before a submit goes up. */
enum store_state store_state(const struct store *store);
enum store_durability store_durability(const struct store *store);

/* True when other podgates may use the same store. Any thread. */
bool store_is_shared(const struct store *store);

/* This podgate's name in the store (32 hexadecimal digits, new with each start). Any thread. */
struct view store_instance(const struct store *store);

/* Calls `on_change(argument, endpoint, job)` on the client's loop when another podgate ended,
 * retried, deleted or shortened a job; an empty `job`: something was missed, ask anew. Set before
 * the loop runs. */
typedef void store_on_change(void *argument, struct view endpoint, struct view job);
void store_watch(struct store_client *client, store_on_change *on_change, void *argument);

#endif
