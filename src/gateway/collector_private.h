/* What the files of the collector share: collector.c decides what to claim and when,
 * collector_endpoints.c knows each endpoint's budget, health and learnt run times,
 * collector_listing.c counts jobs, collector_chores.c cancels what was purged and removes what has
 * expired, collector_calls.c is for the other threads.
 *
 * `lock` is a leaf: it guards the endpoints and what else is marked so; nothing is called out,
 * logged or asked of the store while it is held. All else is the main thread's alone.
 */
#ifndef PODGATE_GATEWAY_COLLECTOR_PRIVATE_H
#define PODGATE_GATEWAY_COLLECTOR_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/table.h"
#include "gateway/collector.h"
#include "model/poll_plan.h"

enum {
    COLLECTOR_ENDPOINT_BYTES = 64,
    COLLECTOR_ENDPOINTS_MAXIMUM = 4096,
    /* One endpoint is looked at no more often than this: what comes due in between is claimed with
     * one question. */
    COLLECTOR_SPACING_MS = 100,
    COLLECTOR_KINDS = 2,
};

#define COLLECTOR_NEVER UINT64_MAX

/* What of the configuration counts here. */
struct collector_settings {
    uint64_t first_poll_ms;
    uint64_t max_poll_ms;
    uint64_t retention_ms[COLLECTOR_KINDS]; /* by enum store_kind */
    uint64_t max_total_bytes;
    uint64_t instances;         /* podgates on one store: waiters' polls are shared among them */
    uint32_t in_flight_maximum; /* claimed polls of all endpoints */
};

/* Who takes polls out of an endpoint's budget. */
enum collector_taker { COLLECTOR_CLAIMS, COLLECTOR_WAITERS };
enum { COLLECTOR_TAKERS = 2 };

/* What is left of a rate, in millionths of a poll. */
struct collector_bucket {
    uint64_t level;
};

/* An endpoint's polls. All of it, and what each taker is sure of while the other wants more too. */
struct collector_budget {
    uint64_t pace_milli; /* what is used of COLLECTOR_POLL_RATE_MILLI: less after a 429 */
    uint64_t filled_ms;
    struct collector_bucket whole;
    struct collector_bucket shares[COLLECTOR_TAKERS];
    uint64_t hungry_until_ms[COLLECTOR_TAKERS]; /* it wanted more than it got */
    uint64_t booked_ms; /* waiters that were put off come back until then, one behind the other */
    uint64_t throttled_ms; /* of the last 429 that counted */
};

/* A claimed poll that is with a worker. */
struct collector_slot {
    uint64_t fence;
    uint64_t lapse_ms;
};

enum collector_capacity {
    COLLECTOR_CAPACITY_AMPLE,
    COLLECTOR_CAPACITY_SHORT, /* not three polls per job and retention: warned about */
    COLLECTOR_CAPACITY_GONE,  /* not one: submits are refused */
};

/* One endpoint; under the lock but for what says otherwise. Made by any thread, freed by the main
 * thread, which may therefore hold on to it without the lock. */
struct collector_endpoint {
    struct table_node node;
    struct collector *collector;
    struct collector_endpoint *next; /* of all; constant but for the main thread's changes */
    size_t name_length;
    char name[COLLECTOR_ENDPOINT_BYTES];
    uint64_t touched_ms;

    /* When the store is asked for due jobs. */
    uint64_t look_ms;
    uint64_t looked_ms;
    bool waits_for_slot;
    struct store_call *claim; /* main thread's: the question that is under way */
    uint32_t claim_limit;     /* main thread's: what was taken out of the budget for it */

    /* How many jobs are outstanding: as the store counted, and what was heard of since. */
    uint64_t listed;
    uint64_t listed_runsync;
    uint64_t listing; /* number of the listing that it was in */
    uint64_t entered;
    uint64_t ended;
    enum collector_capacity capacity_told; /* main thread's */

    struct collector_budget budget;

    /* How upstream is. */
    uint32_t failures; /* in a row */
    uint32_t window;   /* so many claimed polls may be in flight */
    uint64_t pause_ms;
    uint64_t paused_until_ms;
    bool failing;
    bool failing_told; /* main thread's, as the next */
    bool throttled_told;

    uint32_t in_flight;
    struct collector_slot slots[COLLECTOR_POLLS_IN_FLIGHT]; /* the first in_flight of them */

    struct poll_history histories[COLLECTOR_KINDS];
};

/* A question to the store that comes again and again. Main thread's. */
struct collector_chore {
    struct store_call *call;
    uint64_t due_ms;
};

struct event;

struct collector {
    struct gateway_shared *shared;
    struct loop *loop;
    struct store_client *client;
    struct metrics_block *metrics;
    struct log_ring *log;
    collector_post *post_poll;
    collector_post *post_cancel;
    bool store_shared;
    bool running;
    struct event *timer;
    struct event *wake_event;
    int wake_descriptor;
    _Atomic bool wake_sent;

    pthread_mutex_t lock;
    /* Under the lock. */
    struct collector_settings settings;
    struct table *endpoints;
    struct collector_endpoint *first;
    uint64_t random_state;
    uint64_t armed_ms; /* when the timer fires */
    uint32_t in_flight;
    uint32_t in_claims; /* so many more may come of the claims that are under way */
    bool waits_for_slot;
    bool list_wanted; /* an endpoint couldn't be noted */
    uint64_t cancels_counted[METRIC_CANCEL_COUNT];
    uint32_t cancels_in_flight;
    uint64_t cancel_slots[COLLECTOR_CANCELS_IN_FLIGHT]; /* when each lapses; oldest first */
    bool cancel_failed;
    bool purge_wanted;

    /* The main thread's. */
    uint32_t claims_running;
    uint64_t store_pause_ms;
    uint64_t store_paused_until_ms;
    uint64_t outstanding_told;
    uint64_t listings;
    bool memory_told;
    struct collector_chore list;
    struct collector_chore expire;
    struct collector_chore cancel;
    uint32_t cancel_limit;
    uint64_t cancel_tokens; /* in millionths of a cancel */
    uint64_t cancel_filled_ms;
    uint64_t cancel_pause_ms;
};

/* ---- collector.c */

/* Takes note of how the store answered. False when it failed: nothing is asked until
 * store_paused_until_ms. Main thread. */
MUST_CHECK bool collector_store_answered(struct collector *collector, enum store_result result);

/* Has the main thread look again no later than at `when_ms`. Main thread, without the lock. */
void collector_schedule(struct collector *collector, uint64_t when_ms);

/* Has the main thread look again soon. Any thread. */
void collector_wake(struct collector *collector);

/* Random bits for jitter; under the lock. */
uint64_t collector_random(struct collector *collector);

/* For tests that have to be repeatable: what follows from `seed`. Before it starts. */
void collector_seed(struct collector *collector, uint64_t seed);

/* ---- collector_endpoints.c; all under the lock */

/* The endpoint, or NULL when there is none. */
struct collector_endpoint *collector_endpoint_find(struct collector *collector, struct view name);

/* The endpoint, made when there is none. NULL without memory. */
struct collector_endpoint *collector_endpoint_get(struct collector *collector, struct view name,
                                                  uint64_t now_ms);

/* Jobs that have not ended, as far as is known. */
uint64_t collector_endpoint_outstanding(const struct collector_endpoint *endpoint);

/* How much of the endpoint's budget its jobs need: see poll_plan_load(). */
uint64_t collector_endpoint_load(const struct collector_endpoint *endpoint);

/* Takes up to `wanted` polls out of the budget; gives how many were to be had. */
uint32_t collector_endpoint_take(struct collector_endpoint *endpoint, enum collector_taker taker,
                                 uint32_t wanted, uint64_t now_ms);

/* After collector_endpoint_take() gave nothing: when there will be a poll to be had, in ms. */
uint64_t collector_endpoint_wait(struct collector_endpoint *endpoint, enum collector_taker taker,
                                 uint64_t now_ms);

/* How many jobs may be claimed now, taken out of the budget; 0: look_ms says when to ask again. */
uint32_t collector_endpoint_prepare(struct collector_endpoint *endpoint, uint64_t now_ms);

/* The claim that was prepared with `limit` is over and brought `count` jobs. */
void collector_endpoint_conclude(struct collector_endpoint *endpoint, uint32_t limit,
                                 uint32_t count);

/* A poll is with a worker; and it no longer is (`fence` 0 or unknown: the oldest is meant). */
void collector_endpoint_occupy(struct collector_endpoint *endpoint, uint64_t fence,
                               uint64_t now_ms);
void collector_endpoint_release(struct collector_endpoint *endpoint, uint64_t fence);

/* Gives up polls that nobody settled in time; how many. */
uint32_t collector_endpoint_lapse(struct collector_endpoint *endpoint, uint64_t now_ms);

/* Takes in what a poll brought. True when the main thread should look. */
MUST_CHECK bool collector_endpoint_learn(struct collector_endpoint *endpoint,
                                         const struct collector_poll *poll, uint64_t now_ms);

/* The stretch of the endpoint's spans (poll_plan_stretch()). */
uint32_t collector_endpoint_stretch(const struct collector_endpoint *endpoint);

/* ---- collector_listing.c; main thread, without the lock */

/* Lists the endpoints when that is due. */
void collector_list_turn(struct collector *collector, uint64_t now_ms);

/* Says what has changed, when jobs become too many or few enough. */
void collector_endpoint_tell_capacity(struct collector_endpoint *endpoint, uint64_t load,
                                      uint64_t outstanding);

/* One line about the endpoint; `key` NULL: without a number. */
void collector_endpoint_log(struct collector_endpoint *endpoint, enum log_level level,
                            const char *event, const char *key, uint64_t value);

/* ---- collector_chores.c; main thread */

/* Does what is due of cancelling and expiring; gives when to look again. */
uint64_t collector_chores_turn(struct collector *collector, uint64_t now_ms);

/* Forgets what is under way. */
void collector_chores_cancel(struct collector *collector);

#endif
