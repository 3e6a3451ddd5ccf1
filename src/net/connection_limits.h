/* How many connections callers may hold, in all and from one address. One object for all workers;
 * touched when a connection comes and when it goes, never in between.
 *
 *     if (connection_limits_take(limits, &peer) == CONNECTION_LIMITS_OK) ...
 *     connection_limits_release(limits, &peer);
 */
#ifndef PODGATE_NET_CONNECTION_LIMITS_H
#define PODGATE_NET_CONNECTION_LIMITS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/compiler.h"
#include "model/config.h"

/* Part of the process; safe for any thread. */
struct connection_limits;

enum connection_limits_result {
    CONNECTION_LIMITS_OK,
    CONNECTION_LIMITS_TOTAL, /* memory.connections, or the cap, are open (or no memory to count one
                                more) */
    CONNECTION_LIMITS_ADDRESS, /* the peer has memory.connections_per_address already */
};

/* Counts nothing yet, under the limits that `config` states (it holds a reference on it). NULL
 * without memory. */
struct connection_limits *connection_limits_create(const struct config *config);

/* Frees it. No connection is counted any more. NULL is allowed. */
void connection_limits_destroy(struct connection_limits *limits);

/* From now on the limits of a newer configuration hold; connections above them stay. Main thread.
 */
void connection_limits_adopt(struct connection_limits *limits, const struct config *config);

/* Never more than `maximum` in all from now on, whatever a configuration allows: what the process
 * has descriptors for. Main thread. */
void connection_limits_cap(struct connection_limits *limits, uint32_t maximum);

/* Counts one more connection from `peer`, or says which limit forbids it. Unix peers and balancers
 * that speak the PROXY protocol (proxy_protocol_from) count in the total only. */
MUST_CHECK enum connection_limits_result
connection_limits_take(struct connection_limits *limits, const struct sockaddr_storage *peer);

/* A connection that was taken from `peer` is gone; to be called after its descriptor was closed. */
void connection_limits_release(struct connection_limits *limits,
                               const struct sockaddr_storage *peer);

/* A PROXY protocol head said that the connection taken from `peer` is `source`'s: counts it there
 * instead, and it is to be released by `source`. With another result than CONNECTION_LIMITS_OK
 * `source` has too many: the connection is still counted under `peer`. */
MUST_CHECK enum connection_limits_result
connection_limits_move(struct connection_limits *limits, const struct sockaddr_storage *peer,
                       const struct sockaddr_storage *source);

/* Connections counted now. */
size_t connection_limits_count(const struct connection_limits *limits);

/* Addresses that have connections now: what the table holds in memory. */
size_t connection_limits_addresses(struct connection_limits *limits);

#endif
