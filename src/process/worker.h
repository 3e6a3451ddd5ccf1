/* One worker: a thread with its loop, listener, front, upstream client and gateway. */
#ifndef PODGATE_PROCESS_WORKER_H
#define PODGATE_PROCESS_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/log.h"
#include "base/metrics.h"
#include "gateway/gateway.h"
#include "model/config.h"
#include "net/connection_limits.h"
#include "net/listener.h"
#include "net/tls_context.h"

/* What all workers get. Owned by the process; outlives them. */
struct worker_shared {
    struct gateway_shared gateways;
    struct connection_limits *limits;
    struct tls_server *tls; /* NULL: nobody listens for TLS */
    struct listener_set *listeners;
    struct log *log;
    struct metrics *metrics;
    _Atomic size_t drained_count; /* workers without callers and work of their own; begins as 0 */
};

/* Owned by the process. */
struct worker;

/* Makes worker `index` with all its parts, its gateway entered into
 * shared->gateways.gateways[index]; it serves nobody yet. NULL without memory or descriptors. Main
 * thread. */
struct worker *worker_create(struct worker_shared *shared, size_t index,
                             const struct config *config);

/* Starts the thread, which accepts from then on. All workers must have been created. False when
 * there is no thread to be had, or the listener can't start. Main thread. */
MUST_CHECK bool worker_start(struct worker *worker);

/* Asks the worker to accept no more, to answer what is pending and then to stop. Any thread. */
void worker_drain(struct worker *worker);

/* Asks the worker to stop at once. Any thread. */
void worker_stop(struct worker *worker);

/* True once the worker's loop has ended. Any thread. */
bool worker_has_ended(const struct worker *worker);

/* Waits for the thread. Main thread. */
void worker_join(struct worker *worker);

/* Acts on what other workers still had in the mail for this one. After worker_join() of all, before
 * the first worker_destroy(). Main thread. */
void worker_flush(struct worker *worker);

/* Ends the callers' connections, whose requests may still leave the flights of other workers: of
 * all workers before the first worker_destroy(), with worker_flush() before and behind it. Main
 * thread. */
void worker_close(struct worker *worker);

/* Frees all parts. After worker_join(), or when it was never started. NULL is allowed. Main thread.
 */
void worker_destroy(struct worker *worker);

/* Hands the worker a newer configuration. False without memory: it keeps the old one. Main thread.
 */
MUST_CHECK bool worker_adopt(struct worker *worker, const struct config *config);

/* When the loop last proved that it turns, of clock_mono_ms(). Any thread. */
uint64_t worker_heartbeat_ms(const struct worker *worker);

#endif
