/* The addresses of one name, kept fresh in the background without ever blocking: DNS by evdns,
 * /etc/hosts, or the name is an address itself. What was once found stays usable while DNS is away.
 *
 *     resolver = resolver_create(loop, &settings, on_addresses, pool);
 *     if (resolver_count(resolver) == 0) resolver_ask(resolver);   ...on_addresses() follows
 *     connect(descriptor, resolver_address(resolver, 0, &length), length)
 */
#ifndef PODGATE_NET_RESOLVER_H
#define PODGATE_NET_RESOLVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "base/log.h"
#include "base/loop.h"

enum { RESOLVER_ADDRESSES_MAXIMUM = 16 };

struct resolver_settings {
    struct view host; /* copied */
    uint16_t port;
    uint64_t refresh_ms; /* found addresses are asked for again after this */
    uint64_t timeout_ms; /* for one question; it is asked twice at the most */
    /* Empty: what /etc/resolv.conf names. Else the only server, as "127.0.0.1:5353". */
    struct view server;
    const char *hosts_file; /* NULL: /etc/hosts */
};

struct resolver;

/* Told on the loop's thread, never from within a call of this module, when a question was answered
 * or failed. */
typedef void resolver_changed(void *argument);

/* A resolver on `loop`, for its thread only; it asks at once unless the host is an address. `log`
 * may be NULL. NULL without memory or descriptors. */
struct resolver *resolver_create(struct loop *loop, const struct resolver_settings *settings,
                                 resolver_changed *on_changed, void *argument,
                                 struct log_ring *log);

/* Ends it without a callback. NULL is allowed. */
void resolver_destroy(struct resolver *resolver);

/* How many addresses there are. IPv6 and IPv4 take turns. */
size_t resolver_count(const struct resolver *resolver);

/* The address with this index, with the port; valid until the next turn of the loop. */
const struct sockaddr *resolver_address(const struct resolver *resolver, size_t index,
                                        socklen_t *length);

/* True while a question is under way. */
bool resolver_is_asking(const struct resolver *resolver);

/* Asks now, unless a question is under way or the host is an address. */
void resolver_ask(struct resolver *resolver);

#endif
