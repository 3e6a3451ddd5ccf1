/* One upstream request for one caller: sent on, its answer judged, and handed to the caller either
 * whole (so that a broken one becomes a clean error) or piece by piece with back-pressure.
 */
#ifndef PODGATE_GATEWAY_RELAY_H
#define PODGATE_GATEWAY_RELAY_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "gateway/request.h"
#include "model/route.h"
#include "net/upstream.h"

/* What the top level of a JSON answer says. Empty views where it doesn't. */
struct relay_facts {
    struct view id;
    struct view status;
    bool has_output;
    bool has_error;
    bool twice;            /* `id` or `status` stands in it more than once: it says nothing */
    uint64_t execution_ms; /* executionTime; UINT64_MAX where it isn't said */
    uint64_t delay_ms;     /* delayTime; the same */
};

/* How an exchange went, for whoever keeps a record of it. */
enum relay_end {
    RELAY_ANSWERED, /* a whole JSON answer */
    RELAY_CUT,      /* a 200 that broke off behind its top-level id: the job exists */
    RELAY_LONG,     /* a success that is longer than what is collected: its beginning is there */
    RELAY_REFUSED,  /* an answer that can't be passed on: not JSON, a redirect, 401 or 403 */
    RELAY_FAILED,   /* no answer, though upstream may have acted on the request */
    RELAY_UNSENT,   /* no answer, and upstream can't have had a whole request */
};

/* Scans an answer; false when it isn't JSON. `facts` are views into it. */
MUST_CHECK bool relay_read_facts(struct view answer, struct relay_facts *facts);

/* The same for an answer that was cut off or isn't all there yet; true when it is right so far and
 * a whole id that can be asked for is in it. A member that isn't complete is as if it weren't
 * there. */
MUST_CHECK bool relay_read_cut_facts(struct view answer, struct relay_facts *facts);

/* How an operation's exchange is to be treated. Literals; they outlive every request. */
struct relay_plan {
    bool streaming; /* a success is passed on piece by piece, whatever its type */
    bool
        is_submit; /* after its last byte went up, a failure leaves it unknown whether it counted */
    bool is_read;  /* Retry-After is capped at 10 s */
    enum upstream_resend resend;
    /* Looks at a whole JSON answer before it is sent; may append fields to the head. NULL: nobody
     * does. */
    void (*observe)(struct request *request, const struct relay_facts *facts);
    /* Keeps a record of how it ended, before the caller is told: once per relay_start(), or never
     * when the exchange was aborted. `facts` are of ANSWERED, CUT and LONG, else NULL;
     * request->upstream_status is that of the answer. True (not for FAILED and UNSENT): the answer
     * waits, the work is WORK_RECORDING or WORK_IN_STORE, and relay_continue() or another answer
     * follows. NULL: nobody does. */
    bool (*record)(struct request *request, enum relay_end end, const struct relay_facts *facts);
};

/* Sends the request up as `method` to the target of `route`, with the request's own body, unless
 * the breaker forbids it; answers the caller in the end. `route` and `method` are used at once. */
void relay_start(struct request *request, const struct relay_plan *plan, struct view method,
                 const struct route *route, const struct upstream_deadlines *deadlines);

/* Sends the answer that `record` held back, and ends the work (after RELAY_LONG: goes on with it).
 */
void relay_continue(struct request *request);

/* Puts a JSON answer of podgate's own in the place of the one that waits, and fails only without
 * memory: the other one stays. */
MUST_CHECK bool relay_replace_answer(struct request *request, struct view text);

/* Counts an answer of the upstream by its status, and tells the breaker of it. */
void relay_report_answer(struct gateway *gateway, enum route_operation operation,
                         struct view endpoint, unsigned status);

/* Masks the upstream's key in bytes that are still ours alone, in place, and counts that. */
void relay_mask_key(struct gateway *gateway, struct view bytes);

/* Answers for an upstream whose answer can't be passed on: its 401 and 403 are the operator's
 * affair, redirects aren't followed, a 4xx that isn't JSON keeps its status with our body, a 5xx
 * and a would-be success become 502. */
void relay_refuse_answer(struct request *request, unsigned status, uint64_t retry_after_s);

/* Tells the breaker of an exchange that failed. */
void relay_report_failure(struct gateway *gateway, struct view endpoint,
                          enum upstream_failure failure);

/* The Retry-After that a caller gets for an upstream's error: what `head` says, at most 10 for
 * reads; when it says nothing 1 for 429 and 503, else 0: none. In s. */
uint64_t relay_retry_after_s(const struct http_response_head *head, bool is_read);

/* Appends the fields of the upstream's head that come back, with `retry_after_s` in place of its
 * own Retry-After when not 0, and a Content-Type where it gave none. */
void relay_append_fields(struct builder *fields, const struct http_response_head *head,
                         unsigned scope, uint64_t retry_after_s);

#endif
