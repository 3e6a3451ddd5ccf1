/* Opening one listening socket, with an error text that says what to do.
 *
 *     if (!listen_socket_open(&socket, &config->admin_listen, &how, &problem)) ...
 *     listen_socket_close(&socket);
 */
#ifndef PODGATE_NET_LISTEN_SOCKET_H
#define PODGATE_NET_LISTEN_SOCKET_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/compiler.h"
#include "model/config.h"

/* One open listening socket. Embedded in its owner's object. */
struct listen_socket {
    int descriptor; /* -1: closed */
    struct sockaddr_storage bound;
    socklen_t bound_length;
    /* Which file a Unix socket made, so that a successor's is never taken away. */
    bool has_file;
    dev_t file_device;
    ino_t file_inode;
};

/* How to open. */
struct listen_socket_how {
    const char *option; /* the option that the address comes from, for messages: "listen" */
    bool share_port;    /* SO_REUSEPORT: several sockets of this process share a port's callers */
    mode_t mode;        /* rights of a Unix socket's file */
};

/* Binds and listens; the socket is non-blocking and close-on-exec. IPv6 sockets take IPv6 only. A
 * Unix socket's file that nobody answers on is replaced. False with `*problem` on heap memory (NULL
 * without any), such as `listen "127.0.0.1:80": Permission denied: ports below 1024 need ...`,
 * which the caller frees. Main thread (it sets the umask for a moment). */
MUST_CHECK bool listen_socket_open(struct listen_socket *socket,
                                   const struct config_address *address,
                                   const struct listen_socket_how *how, char **problem);

/* Binds for a moment without sharing the port: the only way to notice another process of the same
 * user that shares it, since SO_REUSEPORT would let both in. Error as above. */
MUST_CHECK bool listen_socket_probe(const struct config_address *address,
                                    const struct listen_socket_how *how, char **problem);

/* Closes the socket, and takes its file away if it is still the one that was made. Twice is
 * allowed. */
void listen_socket_close(struct listen_socket *socket);

#endif
