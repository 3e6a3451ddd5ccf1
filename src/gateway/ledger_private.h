/* What the files of the ledger share: one submit from its first word to the last. */
#ifndef PODGATE_GATEWAY_LEDGER_PRIVATE_H
#define PODGATE_GATEWAY_LEDGER_PRIVATE_H

#include <event2/event_struct.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/table.h"
#include "gateway/idempotency_key.h"
#include "gateway/ledger.h"

enum {
    LEDGER_TEAM_BYTES = 64,
    LEDGER_KEY_BYTES = 64,
    /* A submit that nobody settled counts as unknown so long after all its deadlines. */
    LEDGER_UNSETTLED_MARGIN_MS = 60000,
    /* A job's top-level policy.ttl where the caller gave none (contract of the API). */
    LEDGER_DEFAULT_TTL_MS = 24 * 3600 * 1000,
};

/* A text of its own: a submit outlives the request that brought it. */
struct ledger_text {
    size_t length;
    char bytes[ROUTE_JOB_MAXIMUM];
};

/* Owned by its request (request->submission) until ledger_write_late() takes it. */
struct submission {
    const struct ledger_operation *operation;
    enum store_submit_operation noted_as; /* in the ledger; see ledger.c on equal inputs */
    enum store_submit_state state;
    char id[STORE_SUBMIT_ID_BYTES];
    struct ledger_text team;
    struct ledger_text key;
    struct ledger_text endpoint;
    struct ledger_text job;         /* the job that it became; of a retry: the job from the start */
    struct ledger_text upstream_id; /* of a retry that was submitted again: the new one */
    size_t idempotency_length;
    char idempotency[IDEMPOTENCY_KEY_MAXIMUM];
    bool keyed_by_caller;
    bool keyed_by_input;
    bool accepts_duplicate;
    bool claimed; /* the key is ours */
    bool marked;  /* SENT is (or may be) in the ledger */
    bool over;    /* its outcome is decided */
    unsigned char digest[STORE_DIGEST_BYTES];
    unsigned char input_digest[STORE_DIGEST_BYTES]; /* with `keyed_by_input`, or `has_input` */
    bool has_input;
    uint64_t fence;
    uint64_t sent_wait_ms;
    uint64_t give_up_ms; /* of clock_mono_ms(): until then the key's first request is waited for */
    unsigned earlier;    /* jobs of the same input that serve nobody any more */

    /* Of KNOWN. */
    enum store_kind kind;
    enum job_state job_state;
    uint64_t ttl_ms;
    uint64_t due_ms;
    uint64_t deadline_ms;
    uint64_t generation; /* of a retry: the one that ended */
    struct body *answer; /* what the caller is told, for those who ask again */
    struct body *input;  /* encoded */
    enum store_encoding input_encoding;
    uint64_t input_bytes;
    bool has_result;
    bool completed_without_output;
    enum store_fate fate;
    struct body *result; /* encoded */
    enum store_encoding encoding;
    uint64_t result_bytes;
    unsigned char result_digest[STORE_DIGEST_BYTES];
    uint64_t execution_ms;
    uint64_t delay_ms;
    uint64_t keep_ms;
    const char *note; /* of UNKNOWN: why */

    /* Of a retry until it is sent. */
    bool looked;         /* upstream was asked for the job's state */
    bool ended_upstream; /* and said that it has ended */
    bool input_is_kept;
    bool resubmitted; /* it went up once more, as /run */

    /* Of one that is written late. */
    struct ledger *ledger;
    struct submission *next;
    struct submission *previous;
    struct table_node node; /* by endpoint, "/" and job, when KNOWN */
    bool in_table;
    char name[ROUTE_ENDPOINT_MAXIMUM + 1 + ROUTE_JOB_MAXIMUM];
    struct store_call *call;
    struct event timer;
    bool has_timer;
    unsigned attempts;
};

struct evp_md_ctx_st;
struct evp_md_st;

struct ledger {
    struct gateway *gateway;
    struct evp_md_ctx_st *digest_context; /* one for all digests of the worker */
    struct evp_md_st *sha256;
    struct submission *late;
    _Atomic size_t late_count;
    pthread_mutex_t lock; /* a leaf: over `held` only, which other workers look into */
    struct table *held;
};

/* Sets the text, cut at its room (which every valid name fits into). */
void ledger_text_set(struct ledger_text *text, struct view value);
struct view ledger_text_view(const struct ledger_text *text);

/* SHA-256 of the parts, one behind the other. False without memory. */
MUST_CHECK bool ledger_digest(struct ledger *ledger, const struct view *parts, size_t count,
                              unsigned char digest[STORE_DIGEST_BYTES]);

/* The submit as the ledger names it; views into the submission. */
struct store_submit ledger_submit(const struct submission *submission,
                                  const struct gateway *gateway);

/* The question that settles it as its members say; views into the submission. */
struct store_question ledger_settle_question(const struct submission *submission,
                                             const struct gateway *gateway);

/* Everything of a KNOWN submit that follows once it is durable: the collector is told, the result
 * is put into memory. `now_ms`: of the store. */
void ledger_follow_up(const struct submission *submission, struct gateway *gateway,
                      uint64_t now_ms);

/* True when the ledger refused a job's id that it has by this very submit. */
bool ledger_owns_already(const struct submission *submission, const struct store_reply *reply);

/* Takes the submission, and writes it until the store has it. */
void ledger_write_late(struct gateway *gateway, struct submission *submission);

/* Frees it with all that it holds. NULL is allowed. */
void submission_free(struct submission *submission);

#endif
