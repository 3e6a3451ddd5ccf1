/* One upstream request for many callers. Whoever asks for the state of a job, or for an endpoint's
 * health, joins the job's flight: while a request is on its way they wait for its answer, and an
 * answer that is fresh enough serves at once. Callers of /status-sync stay on the flight, which
 * asks upstream every 500 ms for all of them together, until the job has ended or their time is up.
 *
 * A job's flight knows its entry in the ledger: it answers only the team that owns the job, serves
 * what is stored without asking anybody, stores what has ended before anybody is told, and polls
 * for the collector too. So there is one that asks upstream for a job in a process, whoever wants
 * to know. Between several podgates the job's lease decides who asks; the others read the store.
 *
 * Flights are process-wide: a job's hash names the worker that owns its flight. Other workers'
 * callers are joined by mail and answered by mail.
 */
#ifndef PODGATE_GATEWAY_FLIGHT_H
#define PODGATE_GATEWAY_FLIGHT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/body.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "gateway/gateway.h"
#include "gateway/problem.h"
#include "model/route.h"
#include "net/upstream.h"
#include "store/hot_cache.h"
#include "store/store.h"

enum {
    FLIGHT_POLL_MS = 500,
    FLIGHT_TEAM_BYTES = 64,
    FLIGHT_TRACE_BYTES = 512,
    FLIGHT_HEALTH_FRESH_MS = 1000,
    FLIGHT_HEALTH_STALE_MS = 30000,
};

/* What a flight brought back. Constant once made; reference counted across threads. */
struct flight_answer {
    _Atomic unsigned references;
    enum problem problem; /* not PROBLEM_COUNT: podgate's own word on the job (not found, ...) */
    struct hot_result *result; /* the job has ended and this is its result; one reference */
    bool degraded;             /* the store failed: served, not stored yet */
    bool failed; /* no usable response: `failure` says why, or `refused` for the breaker */
    bool refused;
    bool too_large; /* with `failed`: above what is kept; a request of one's own can be served */
    enum upstream_failure failure;
    uint64_t retry_after_s; /* with `refused` */
    unsigned status;        /* of the upstream's response */
    struct body *body;      /* its bytes */
    bool is_json;
    bool completed_without_output;
    bool made_here;       /* podgate's own words: the last known state of a job upstream lost */
    bool terminal;        /* the job has ended, or is unknown to upstream */
    uint64_t received_ms; /* clock_mono_ms() */
    size_t fields_length;
    char fields[512]; /* allow-listed response fields, each with CRLF; cut at a field's end */
};

/* How an answer reached its caller, for Cache-Status. */
enum flight_delivery { FLIGHT_ASKED, FLIGHT_SHARED, FLIGHT_FRESH, FLIGHT_STALE };

/* Brings the answer to its request, on the request's worker. The reference on `answer` passes over;
 * NULL: there was no memory for one. */
typedef void flight_deliver(struct gateway *gateway, struct request_handle handle,
                            struct flight_answer *answer, enum flight_delivery delivery);

/* What a caller wants. */
struct flight_question {
    struct request_handle handle; /* of the asking request */
    const struct route *route;    /* ROUTE_STATUS or ROUTE_HEALTH with endpoint and job; copied */
    struct view team;             /* only its jobs are answered; copied */
    bool may_adopt;               /* the key may take over jobs from before podgate */
    struct view key;              /* its id, for a job that is adopted; copied */
    uint64_t fresh_ms;            /* an answer of this age will do */
    uint64_t stale_ms;            /* when upstream fails, a good answer of this age will do */
    uint64_t wait_until_ms; /* of clock_mono_ms(): wait for the job's end until then; 0: don't */
    struct view trace; /* field lines that go up when this caller causes a request: X-Request-Id,
                        * traceparent; at most FLIGHT_TRACE_BYTES; copied */
    flight_deliver *deliver;
};

/* One worker's flights. */
struct flights;

/* No flights yet; `gateway` outlives them. NULL without memory. */
struct flights *flights_create(struct gateway *gateway);

/* Drops all flights; nobody is told. NULL is allowed. */
void flights_destroy(struct flights *flights);

/* Joins the flight for the question. An answer that is fresh on this very worker is returned at
 * once (one reference, the caller's) and `deliver` is not called. Else NULL with `*joined` true:
 * `deliver` will be called once, later, unless flight_leave() comes first; or NULL with `*joined`
 * false: no memory. The asking request's worker. */
MUST_CHECK struct flight_answer *flight_join(struct gateway *gateway,
                                             const struct flight_question *question, bool *joined);

/* The caller is gone: it is taken off its flight, which stops when nobody is left on it. `route` is
 * the question's. Deliver may still be called if it was on its way; the handle finds nothing then.
 */
void flight_leave(struct gateway *gateway, struct request_handle handle, const struct route *route);

/* The state of the job changed by what podgate just did (/cancel, /retry): nothing that was known
 * of it before serves anybody from now on, on whatever worker. To be called before the caller is
 * answered. `route` names endpoint and job, whatever its operation. */
void flight_forget(struct gateway *gateway, const struct route *route);

/* Another podgate changed the job: what is known of it here is dropped, on whatever worker. An
 * empty `job`: changes may have been missed, so everything that this worker knows is dropped. To be
 * called by the gateway whose store client was told. */
void flight_changed(struct gateway *gateway, struct view endpoint, struct view job);

/* The collector claimed this job: its flight's worker asks upstream (or takes what a caller's
 * request has just brought), stores what has ended, puts the rest back on the schedule under
 * job->fence, and tells collector_settled(). Copies what it needs. False without memory: the lease
 * then lapses. Any thread. */
MUST_CHECK bool flight_post_poll(struct gateway_shared *shared, const struct store_job *job);

/* A purge marked this job: its worker looks at its state, cancels it when it is still queued,
 * clears the mark and tells collector_cancel_settled(). Copies what it needs. False without memory:
 * the mark is claimed again later. Any thread. */
MUST_CHECK bool flight_post_cancel(struct gateway_shared *shared, const struct store_job *job);

/* The upstream was told, while the job runs, to keep its result for `ttl_ms` only: the job is
 * polled often enough from now on to see its end within that, as long as this process lives. `job`
 * needs its endpoint and id. False without memory. Any thread. */
MUST_CHECK bool flight_post_watch(struct gateway_shared *shared, const struct store_job *job,
                                  uint64_t ttl_ms);

/* Tells the upstream to keep the job's result for `ttl_ms` only; what it says to that is not waited
 * for. `job` needs its endpoint and id. False without memory. Any thread. */
MUST_CHECK bool flight_post_ttl(struct gateway_shared *shared, const struct store_job *job,
                                uint64_t ttl_ms);

/* Gives a reference back. Any thread. NULL is allowed. */
void flight_answer_unref(struct flight_answer *answer);

#endif
