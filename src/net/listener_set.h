/* All listening sockets of the process, opened at once before any worker runs, so that a busy port
 * is found at start: TCP sockets one per worker (SO_REUSEPORT), Unix sockets and those that systemd
 * passed once for all workers.
 *
 *     struct listener_set *set = listener_set_create(config, workers, &passed, &problem);
 *     ... listener_start(set, worker, &options) in each worker, listener_stop() ...
 *     listener_set_destroy(set);
 */
#ifndef PODGATE_NET_LISTENER_SET_H
#define PODGATE_NET_LISTENER_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/compiler.h"
#include "model/config.h"
#include "net/socket_passing.h"

/* Owned by main; outlives all listeners. */
struct listener_set;

/* Opens what `config` says to listen on, for `workers` workers. `passed` are the sockets that came
 * from systemd, or NULL: one whose address is that of a listen entry is taken for it. Holds a
 * reference on `config`. NULL with `*problem` on heap memory (`listen "127.0.0.1:80": Permission
 * denied: ...`; NULL when not even that could be had), which the caller frees. Main thread, before
 * there are others (it sets the umask for a moment). */
MUST_CHECK struct listener_set *listener_set_create(const struct config *config, size_t workers,
                                                    struct socket_passing *passed, char **problem);

/* Closes what is still open, takes the files of Unix sockets away, frees. After all listeners have
 * stopped. NULL is allowed. */
void listener_set_destroy(struct listener_set *set);

/* How many listen entries there are. */
size_t listener_set_count(const struct listener_set *set);

/* Listen entry `index`; lives as long as the set. */
const struct config_address *listener_set_entry(const struct listener_set *set, size_t index);

/* Where listen entry `index` really listens (a port 0 was chosen by the kernel), and how long that
 * address is. Lives as long as the set. */
const struct sockaddr_storage *listener_set_address(const struct listener_set *set, size_t index,
                                                    socklen_t *length);

/* The descriptor on which `worker` accepts for entry `index`; stays the set's. For listener.c. */
int listener_set_descriptor(const struct listener_set *set, size_t index, size_t worker);

/* True when each worker has a socket of its own for entry `index`, so that nobody else serves who
 * waits in it. For listener.c. */
bool listener_set_is_own(const struct listener_set *set, size_t index);

/* `worker` accepts no more on entry `index`: the socket is closed when nobody else does, unless it
 * was passed in. For listener.c; once a worker and entry, on the worker's thread. */
void listener_set_leave(struct listener_set *set, size_t index, size_t worker);

#endif
