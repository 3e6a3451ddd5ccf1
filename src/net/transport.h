/* Bytes over a descriptor, plain or through TLS, never blocking. The same two functions serve the
 * caller's side and the upstream's, so that each has one state machine for both.
 *
 *     switch (transport_read(&transport, room, room_bytes, &count)) { ... }
 */
#ifndef PODGATE_NET_TRANSPORT_H
#define PODGATE_NET_TRANSPORT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum transport_result {
    TRANSPORT_OK = 0,    /* `count` bytes moved, at least one */
    TRANSPORT_AGAIN,     /* nothing now: wait for readable; or for writable if `wants_write` */
    TRANSPORT_END,       /* the peer finished: FIN, or close_notify under TLS */
    TRANSPORT_TRUNCATED, /* TLS only: FIN without close_notify (RFC 9112 section 9.8) */
    TRANSPORT_FAILED,    /* reset, TLS fault or any other error; see transport_error_text() */
};

/* Embedded in the connection that owns it. */
struct transport {
    int descriptor;          /* -1 when closed; owned */
    SSL *tls;                /* NULL for plain bytes; owned */
    bool wants_write;        /* TLS: a read waits for the socket to take bytes */
    bool wants_read;         /* TLS: a write waits for the socket to bring bytes */
    bool handshaken;         /* TLS: the handshake is done; always true for plain */
    int error;               /* errno of the last failure, or 0 */
    unsigned long tls_error; /* OpenSSL's code of the last failure, or 0 */
};

/* Takes over a connected, non-blocking descriptor without TLS. */
void transport_init(struct transport *transport, int descriptor);

/* Puts TLS on it; `tls` is taken over also on failure. `is_server` says whose part to play. False
 * without memory. */
MUST_CHECK bool transport_start_tls(struct transport *transport, SSL *tls, bool is_server);

/* Goes on with the handshake. OK: done. AGAIN: see `wants_write`. Others: failed. Plain: OK. */
MUST_CHECK enum transport_result transport_handshake(struct transport *transport);

/* Reads up to `room_bytes` into `room`. Under TLS, bytes may be left inside the library: call until
 * AGAIN or until transport_has_buffered() is false. */
MUST_CHECK enum transport_result transport_read(struct transport *transport, char *room,
                                                size_t room_bytes, size_t *count);

/* Writes from `parts` as much as the socket takes now. Under TLS small parts go into one record,
 * and what was not taken must be given again, the same bytes in front, wherever they lie by then.
 * With FAILED too `count` says what was taken before. Under TLS the process must ignore SIGPIPE. */
MUST_CHECK enum transport_result transport_write(struct transport *transport,
                                                 const struct iovec *parts, int part_count,
                                                 size_t *count);

/* True when TLS holds bytes that were read from the socket but not by transport_read(). */
bool transport_has_buffered(const struct transport *transport);

/* Looks, without taking anything, whether the peer has closed or sent bytes that nobody asked for
 * on an idle connection: true when it is clean for one more request. One system call. */
MUST_CHECK bool transport_is_quiet(const struct transport *transport);

/* Says goodbye under TLS (close_notify, tried once) and half-closes the sending side. */
void transport_finish(struct transport *transport);

/* Closes and frees all. May be called twice. */
void transport_close(struct transport *transport);

/* What failed, in words for a log line: "certificate verify failed: unable to get local issuer
 * certificate", "Connection reset by peer". The text lives in `text`. */
struct view transport_error_text(const struct transport *transport, char *text, size_t text_bytes);

#endif
