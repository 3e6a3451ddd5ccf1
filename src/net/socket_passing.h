/* Sockets passed in by systemd (sd_listen_fds(3)), read from LISTEN_PID, LISTEN_FDS and
 * LISTEN_FDNAMES, without needing libsystemd.
 *
 *     struct socket_passing passed;
 *     if (!socket_passing_take(&passed, &problem)) ...
 *     int admin = socket_passing_claim_name(&passed, VIEW("admin"));
 */
#ifndef PODGATE_NET_SOCKET_PASSING_H
#define PODGATE_NET_SOCKET_PASSING_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum {
    SOCKET_PASSING_FIRST = 3, /* SD_LISTEN_FDS_START */
    SOCKET_PASSING_MAXIMUM = 64,
    SOCKET_PASSING_NAME_MAXIMUM = 64,
};

/* One passed socket. */
struct socket_passing_entry {
    int descriptor;
    bool claimed;
    size_t name_length;
    char name[SOCKET_PASSING_NAME_MAXIMUM]; /* FileDescriptorName=; empty when systemd gave none */
};

/* All of them. Owned by main. */
struct socket_passing {
    size_t count;
    struct socket_passing_entry entries[SOCKET_PASSING_MAXIMUM];
};

/* Reads the three texts (NULL: not set) for a process `pid`. None are passed when LISTEN_PID is
 * absent or another process's. False, with `*problem` a literal, when they contradict each other.
 * Looks at no descriptor. Any thread. */
MUST_CHECK bool socket_passing_parse(const char *pid_text, const char *count_text,
                                     const char *names_text, pid_t pid,
                                     struct socket_passing *passed, const char **problem);

/* Reads the environment, removes it there (children must not believe in it), and makes the sockets
 * close-on-exec and non-blocking. False, with `*problem` a literal, for texts that contradict each
 * other or a descriptor that is no listening stream socket. Main thread, before there are others.
 */
MUST_CHECK bool socket_passing_take(struct socket_passing *passed, const char **problem);

/* The descriptor of the unclaimed socket with this name, which is the caller's from now on; or -1.
 */
int socket_passing_claim_name(struct socket_passing *passed, struct view name);

/* The same for the one bound to this address. An exact match wins; else one on the wildcard address
 * with the same port. */
int socket_passing_claim_address(struct socket_passing *passed, const struct sockaddr *address,
                                 socklen_t length);

/* The first socket that nobody claimed, or NULL: to be told to the operator, since callers of it
 * would wait for ever. */
const struct socket_passing_entry *socket_passing_unclaimed(const struct socket_passing *passed);

#endif
