/* What TLS sessions are made from: certificates and settings for callers, trust and identity for
 * the upstream.
 *
 *     char *problem = NULL;
 *     struct tls_server *server = tls_server_create(config, &problem);
 *     transport_start_tls(&transport, tls_server_session(server), true);
 *
 * TLS 1.2 and 1.3 only, ALPN "http/1.1", no renegotiation, no compression, no early data (a request
 * in it could be replayed). The process must ignore SIGPIPE.
 */
#ifndef PODGATE_NET_TLS_CONTEXT_H
#define PODGATE_NET_TLS_CONTEXT_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "model/config.h"

/* All certificates of the listeners. Immutable, shared by all threads; sessions keep alive what
 * they need, so that a reload may destroy it while they go on. */
struct tls_server;

/* Loads every `tls` section of `config`. The certificate for a session is chosen by the name that
 * the client asks for (RFC 6066 section 3): an exact name before a wildcard, the first certificate
 * for other names and for none. NULL: `*problem` says what is wrong with which file (owned by the
 * caller, free()); also when there is no `tls` section. Main thread. */
struct tls_server *tls_server_create(const struct config *config, char **problem);

/* Gives it up; sessions made from it go on. NULL is allowed. */
void tls_server_destroy(struct tls_server *server);

/* One session for transport_start_tls(), owned by the caller. NULL without memory. Any thread. */
SSL *tls_server_session(struct tls_server *server);

/* Trust in the upstream. Immutable, shared by all threads. */
struct tls_client;

/* As `upstream` says: `ca_file` or the system's store, verified unless `verify` is off. NULL with
 * `*problem` as above. Main thread. */
struct tls_client *tls_client_create(const struct config_upstream *upstream, char **problem);

/* One more owner. Any thread. */
struct tls_client *tls_client_ref(struct tls_client *client);

/* One owner less; sessions made from it go on. NULL is allowed. Any thread. */
void tls_client_destroy(struct tls_client *client);

/* Where one thread keeps the last session of one server, to resume it. Zeroed before use. */
struct tls_resumption {
    SSL_SESSION *session;
    SSL_CTX *context; /* that it was made under: sessions of another trust are not kept */
};

/* One session with the server `host` (a name, or an IPv4 or IPv6 address without brackets): the
 * name goes into SNI, and its certificate must be valid for it. `resumption` (NULL: none) gives the
 * session to resume and takes new ones; it outlives the session. NULL without memory. Any thread.
 */
SSL *tls_client_session(struct tls_client *client, struct view host,
                        struct tls_resumption *resumption);

/* Frees what it keeps. */
void tls_resumption_clear(struct tls_resumption *resumption);

#endif
