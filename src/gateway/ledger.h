/* The life of a submit: claimed under its Idempotency-Key, marked as sent before its first byte
 * goes up, settled when upstream has answered. Its 200 leaves only when the store has the job.
 *
 *     INTENT -> SENT -> KNOWN | REFUSED | UNKNOWN
 *
 *     submission = ledger_open(request, &operation, ...);      (answers the refusals itself)
 *     ledger_begin(request);     ... operation.send(request) ... operation.recorded(request)
 *
 * How it reads from top to bottom: ledger.c (until it is sent), ledger_settle.c (what upstream
 * said), ledger_late.c (what the store didn't take at once). The three submits are in submit.c and
 * retry.c.
 */
#ifndef PODGATE_GATEWAY_LEDGER_H
#define PODGATE_GATEWAY_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "gateway/gateway.h"
#include "gateway/relay.h"
#include "gateway/request.h"
#include "store/store.h"

struct ledger;

/* One worker's part. `gateway` outlives it; its store client must be there already. NULL without
 * memory. */
struct ledger *ledger_create(struct gateway *gateway);

/* What could not be written by now is lost, and named in the log. After the worker's requests have
 * ended, before its store client goes. NULL is allowed. */
void ledger_destroy(struct ledger *ledger);

/* How many outcomes wait to be written: a worker isn't drained before this is 0. Any thread. */
size_t ledger_unrecorded(const struct ledger *ledger);

/* True for a job that upstream took but the store doesn't have yet: its caller's 200 said so
 * (Podgate-Warning: not-recorded). Any thread. */
bool ledger_holds(struct gateway_shared *shared, struct view endpoint, struct view job,
                  struct view team);

/* The same for the job that the request names, and its caller's team: the store knows nothing of
 * the job, and that is no reason to say that it never was. The request's worker. */
bool ledger_holds_own(const struct request *request);

/* What the three submits do in their own way. Literals. */
struct ledger_operation {
    enum store_submit_operation operation;
    /* The claim is made (or there was none to make): what is to be found out before it is sent;
     * goes on by ledger_mark_sent(). NULL: nothing. */
    void (*claimed)(struct request *request);
    /* It is marked as sent: send it, by relay_start() with a plan whose `record` is
     * ledger_record().
     */
    void (*send)(struct request *request);
    /* Upstream's 200 is in the ledger: answer. */
    void (*recorded)(struct request *request);
    /* The key's (or the input's) first request has become `job`, in `state` as far as that is known
     * (else empty), and its answer isn't there to be repeated: answer with the job. */
    void (*join)(struct request *request, struct view job, struct view state);
};

/* How a submit is entered. */
struct ledger_entry {
    const struct ledger_operation *operation;
    enum store_kind kind;  /* by whose retention its result goes */
    uint64_t sent_wait_ms; /* upstream may take so long after the last byte */
    uint64_t ttl_ms;       /* of the job; 0: the upstream's default */
    struct view job;       /* of a retry */
    struct view input; /* the top-level `input`, when equal ones are to be one job; else empty */
};

/* Enters the request's submit, in memory yet. False: the store takes nothing, or the jobs of the
 * endpoint are too many to be followed, or memory is short; the caller was told so. */
MUST_CHECK bool ledger_open(struct request *request, const struct ledger_entry *entry);

/* Claims, marks and sends, or answers by what the ledger has. */
void ledger_begin(struct request *request);

/* Marks the submit as sent and sends it: what `claimed` goes on with. */
void ledger_mark_sent(struct request *request);

/* Gives up a submit of which no byte has gone up, so that its key is free for another try. The
 * caller is answered by whoever calls this. */
void ledger_give_up(struct request *request, const char *why);

/* The `record` of a submit's relay_plan. */
bool ledger_record(struct request *request, enum relay_end end, const struct relay_facts *facts);

/* The operation table's `release` for submits. */
void ledger_release(struct request *request);

#endif
