/* Accepting callers' connections on one worker.
 *
 *     struct listener *listener = listener_start(set, worker, &options);
 *     ... options.on_accept(owner, descriptor, &peer, address) for each caller
 *     listener_stop(listener);      (to drain)
 */
#ifndef PODGATE_NET_LISTENER_H
#define PODGATE_NET_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/compiler.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "model/config.h"
#include "net/connection_limits.h"
#include "net/listener_set.h"

/* A caller has come: `descriptor` is non-blocking, close-on-exec, counted in the limits, and from
 * now on the owner's, who calls connection_limits_release() with `peer` after closing it. `peer` is
 * valid during the call; IPv4 that came in over IPv6 is plain IPv4. `address` is the listen entry
 * and lives as long as the set. Called on the listener's loop. */
typedef void listener_accepted(void *owner, int descriptor, const struct sockaddr_storage *peer,
                               const struct config_address *address);

/* What a worker gives to its listener. All outlive it; `metrics` and `log` may be NULL. */
struct listener_options {
    struct loop *loop;
    listener_accepted *on_accept;
    void *owner;
    struct connection_limits *limits;
    struct metrics_block *metrics;
    struct log_ring *log;
};

/* One worker's share of the listening sockets. Owned by the worker; its loop's thread only. */
struct listener;

/* Starts to accept for worker `worker` (0..workers-1; once each). Callers above a limit get 503 and
 * are closed (behind TLS they are only closed). When descriptors run out, one waiting caller gets
 * 503 by a reserve, then the listener pauses, and tries again after 100 ms or at listener_retry().
 * NULL without memory or descriptors. */
MUST_CHECK struct listener *listener_start(struct listener_set *set, size_t worker,
                                           const struct listener_options *options);

/* Stops accepting until listener_resume(); who connects waits in the kernel. For memory pressure.
 */
void listener_pause(struct listener *listener);

/* Accepts again after listener_pause(). */
void listener_resume(struct listener *listener);

/* A descriptor was closed on this thread: when the listener waits for one, it tries again soon. */
void listener_retry(struct listener *listener);

/* For draining: accepts who is already waiting in sockets that nobody else serves, then accepts no
 * more and closes them. The listener is dead and freed after the turn; on_accept may be called once
 * more per waiting caller before this returns. NULL is allowed. */
void listener_stop(struct listener *listener);

/* What a listener has done since its start. */
struct listener_counts {
    uint64_t accepted;
    uint64_t refused_total;   /* 503: all connections are in use */
    uint64_t refused_address; /* 503: one address has too many */
    uint64_t refused_descriptors;
    uint64_t pauses; /* for want of descriptors */
    bool paused;     /* at this moment, for whatever reason */
};

/* A snapshot of the counts. */
struct listener_counts listener_counts(const struct listener *listener);

#endif
