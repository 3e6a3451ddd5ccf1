/* Follows every job of the ledger to its end, whether or not its caller comes back. The collector
 * decides which job is polled when: it claims what is due from the store (earliest deadline first),
 * keeps to the polling budget of each endpoint, and hands each claimed job to the worker that owns
 * its flight (flight_post_poll(), by a pointer), which asks upstream, stores what has ended, and
 * puts the rest back on the schedule by model/poll_plan. It also cancels what a purge marked, lets
 * expire what is over, and keeps the counts that metrics show.
 *
 * It lives on the process's main thread, with a store client of that loop.
 */
#ifndef PODGATE_GATEWAY_COLLECTOR_H
#define PODGATE_GATEWAY_COLLECTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "gateway/gateway.h"
#include "model/config.h"
#include "model/metric_catalogue.h"
#include "store/store.h"

struct collector;

enum {
    /* Half of what upstream grants for polls (2,000 in 10 s) and for cancels (100 in 10 s) of an
     * endpoint: the rest is for callers whose requests podgate only passes on. In thousandths of a
     * request a second. */
    COLLECTOR_POLL_RATE_MILLI = 100000,
    COLLECTOR_CANCEL_RATE_MILLI = 5000,
    COLLECTOR_POLLS_IN_FLIGHT = 100, /* claimed ones of one endpoint */
    COLLECTOR_CANCELS_IN_FLIGHT = 10,
    /* A poll that nobody settled is given up when its lease has lapsed and then some. */
    COLLECTOR_LAPSE_MS = STORE_LEASE_MS + 10000,
};

/* Nothing runs yet. `shared` and the store's client (of `loop`) outlive it. NULL without memory.
 * Main thread. */
struct collector *collector_create(struct gateway_shared *shared, struct loop *loop,
                                   struct store_client *client, struct metrics_block *metrics,
                                   struct log_ring *log, const struct config *config);

/* Takes a claimed job to its worker: flight_post_poll() and flight_post_cancel(). False without
 * memory. */
typedef bool collector_post(struct gateway_shared *shared, const struct store_job *job);

/* Begins to claim and poll, once all workers serve. Main thread. */
void collector_start(struct collector *collector, collector_post *poll, collector_post *cancel);

/* Claims nothing more; what is with the workers goes on. Main thread. */
void collector_stop(struct collector *collector);

/* After collector_stop() and when no worker runs any more; before the store's client goes. NULL is
 * allowed. Main thread. */
void collector_destroy(struct collector *collector);

/* A newer configuration. Main thread. */
void collector_adopt(struct collector *collector, const struct config *config);

/* A job of `endpoint` entered the schedule and is due in `due_ms`: the endpoint is looked at then.
 * Any thread, cheap; views are copied. */
void collector_note_job(struct collector *collector, struct view endpoint, uint64_t due_ms);

/* A purge marked jobs of `endpoint`: begin to cancel them. Any thread. */
void collector_note_purge(struct collector *collector, struct view endpoint);

/* What a poll brought. */
struct collector_poll {
    struct view endpoint;
    enum store_kind kind;
    bool claimed; /* it was the collector's own poll (not a waiter's) */
    bool ended;
    bool failed;           /* upstream brought nothing of use */
    unsigned status;       /* of the response; 0: none */
    uint64_t fence;        /* of the claim, when it was claimed */
    uint64_t age_ms;       /* since the submit */
    uint64_t delay_ms;     /* of one that ended: how long it waited; UINT64_MAX: not said */
    uint64_t execution_ms; /* of one that ended: how long it ran; UINT64_MAX: not said */
};

/* To be called once for each poll that flight_post_poll() asked for, and for each of a waiter's: so
 * that the collector learns how long jobs of the endpoint run and how it is. Any thread. */
void collector_settled(struct collector *collector, const struct collector_poll *poll);

/* Takes one poll out of the endpoint's budget, for a job that somebody waits for. 0: go on; else to
 * be asked again in so many ms. Any thread. */
uint64_t collector_take_poll(struct collector *collector, struct view endpoint);

/* When a job of `endpoint` that is `age_ms` old, last seen in `state`, after `failures` polls in a
 * row that brought nothing, is to be polled next (span in ms), and the deadline that goes with it:
 * 0, which is "it stays", after a failure. Wraps model/poll_plan with what was learnt, and has the
 * endpoint looked at when the job is due, so that what is rescheduled needn't be noted too. Any
 * thread. */
struct collector_next {
    uint64_t due_ms;
    uint64_t deadline_ms;
};
struct collector_next collector_plan(struct collector *collector, struct view endpoint,
                                     enum store_kind kind, enum job_state state, uint64_t age_ms,
                                     uint32_t failures);

/* False when more jobs of this kind are outstanding at `endpoint` than could be polled once in the
 * upstream's retention: a submit is then refused with 503. Any thread. */
bool collector_has_capacity(struct collector *collector, struct view endpoint,
                            enum store_kind kind);

/* To be called once for each job that flight_post_cancel() took, after the store knows: it was
 * cancelled, skipped since it had started, or nothing of use came (then it is tried again). The
 * collector counts METRIC_CANCELS. Any thread. */
void collector_cancel_settled(struct collector *collector, struct view endpoint,
                              enum metric_cancel outcome);

#endif
