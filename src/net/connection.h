/* The caller's side: HTTP/1.1 over a plain or TLS transport, one state machine a connection.
 *
 * A `struct front` is one worker's share of the callers. It reads heads strictly, asks its handler
 * what to do with each, reads bodies that the handler wants, sends answers, keeps connections alive
 * and pipelined requests in order, and notices time-outs and callers who hang up.
 *
 *     handler.create_inbound()   a head is complete: memory for it, from the layer above
 *     handler.on_head()          -> connection_read_body(), or an answer at once
 *     handler.on_body()          the whole body
 *     connection_send()          the answer, in one or many parts
 *     handler.on_sent()          only when the answer's last byte had to wait for the socket
 *
 * All functions and callbacks run on the worker's own thread.
 */
#ifndef PODGATE_NET_CONNECTION_H
#define PODGATE_NET_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/body.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "format/http_head.h"
#include "model/config.h"
#include "net/connection_limits.h"
#include "net/tls_context.h"

struct front;
struct connection;

enum { CONNECTION_INLINE_HEAD_BYTES = 1024 };

/* One request as it came in. The layer above embeds this in its own request object, so that a
 * request costs one object and its head outlives the connection. The views in `head` point into
 * `head_bytes`. Owned by the layer above from create_inbound() on. */
struct inbound {
    struct http_request_head head;
    char *head_bytes;              /* `inlined`, or on the heap when larger */
    struct connection *connection; /* NULL once the caller is gone or has its whole answer */
    uint64_t received_bytes;       /* head and body */
    uint64_t sent_bytes;           /* all that the kernel took of the answer */
    char inlined[CONNECTION_INLINE_HEAD_BYTES];
};

/* Frees what an inbound holds besides itself. */
void inbound_clear(struct inbound *inbound);

/* Why a body never came whole. */
enum connection_body_fault {
    CONNECTION_BODY_TOO_LARGE, /* more than the handler allowed (only chunked can come to this) */
    CONNECTION_BODY_MALFORMED, /* bad chunk */
    CONNECTION_BODY_SLOW,      /* silence, or less than 1 KiB/s */
    CONNECTION_BODY_NO_MEMORY, /* the budget for bodies is used up */
};

/* What the front asks of and tells the layer above. After on_hangup() or a last connection_send()
 * that did not say CONNECTION_BLOCKED, nothing more is called for that request. */
struct connection_handler {
    /* Memory for one request, asked for at the first byte of its head; a caller that leaves before
     * the head is whole is told by on_hangup() without on_head(). NULL without memory: the caller
     * gets closed. */
    struct inbound *(*create_inbound)(void *owner, struct connection *connection);
    /* A valid head. Answer, or call connection_read_body(), body announced or not. */
    void (*on_head)(void *owner, struct inbound *inbound);
    /* A head that ends the connection (RFC 9112), or that never came whole (408): answer `status`
     * by connection_send() with `close`; `inbound->head` is not whole. `detail` is static text. */
    void (*on_bad_head)(void *owner, struct inbound *inbound, unsigned status, struct view detail);
    /* The whole body; one reference passes to the handler. NULL when there is none. */
    void (*on_body)(void *owner, struct inbound *inbound, struct body *body);
    /* The body can't be had: answer and close. */
    void (*on_body_fault)(void *owner, struct inbound *inbound, enum connection_body_fault fault);
    /* The caller is gone; `inbound->connection` is NULL by now. */
    void (*on_hangup)(void *owner, struct inbound *inbound);
    /* What connection_send() could not send at once has left: go on sending, if not all is sent. */
    void (*on_drained)(void *owner, struct inbound *inbound);
    /* The last byte of an answer left after connection_send() had said CONNECTION_BLOCKED. */
    void (*on_sent)(void *owner, struct inbound *inbound);
};

/* One worker's front. `handler`, `log`, `metrics`, `budget`, `limits` outlive it; `tls` may be NULL
 * when no listener wants TLS. NULL without memory. */
struct front *front_create(struct loop *loop, const struct config *config,
                           const struct connection_handler *handler, void *owner,
                           struct tls_server *tls, struct connection_limits *limits,
                           struct body_budget *budget, struct metrics_block *metrics,
                           struct log_ring *log);

/* Closes all connections, telling the handler of each pending request, and frees. */
void front_destroy(struct front *front);

/* Adopts a newer configuration for time-outs and new connections. */
void front_adopt(struct front *front, const struct config *config);

/* Takes over an accepted descriptor, already counted in `limits`, as a connection. `peer` is
 * copied; `address` says whether TLS is spoken. A descriptor that can't be served is closed. */
void front_accept(struct front *front, int descriptor, const struct sockaddr_storage *peer,
                  const struct config_address *address);

/* From now on: connections are closed after their next answer, idle ones within a second. */
void front_drain(struct front *front);

/* How many connections there are. */
size_t front_connection_count(const struct front *front);

/* The caller's address (from the PROXY protocol where that is spoken), for limits, allow_from and
 * the log. AF_UNIX for a Unix socket. Valid as long as the connection. */
const struct sockaddr_storage *connection_peer(const struct connection *connection);

/* True when `authority` ("127.0.0.1:8080") is the address at which this caller reached us, or names
 * localhost on a loopback address with that port. For absolute-form targets. */
bool connection_is_at(const struct connection *connection, struct view authority);

/* True when the bytes go through TLS. */
bool connection_is_tls(const struct connection *connection);

/* Accepts the body, of at most `maximum_bytes`: sends "100 Continue" when it is expected and reads
 * on. on_body() or on_body_fault() follows, after on_head() returned. Only from on_head(), once. */
void connection_read_body(struct connection *connection, uint64_t maximum_bytes);

/* How an answer's end is marked. */
enum connection_framing {
    CONNECTION_LENGTH, /* Content-Length stands in the head, or there is no body */
    CONNECTION_CHUNKED,
    CONNECTION_UNTIL_CLOSE,
};

enum connection_send_result {
    CONNECTION_SENT,    /* all of it was given to the kernel */
    CONNECTION_BLOCKED, /* the rest is kept and sent later; on_drained() or on_sent() follows */
    CONNECTION_GONE,    /* the connection broke: the caller is gone, nothing follows */
};

/* One part of an answer. */
struct connection_part {
    struct view head; /* in the first part: status line and fields with the blank line */
    struct view data;
    struct body *holder; /* when `data` lies in a body: a reference is taken instead of a copy */
    enum connection_framing framing; /* the same in all parts of one answer */
    bool last;  /* the answer is complete: `inbound->connection` is NULL when this returns, unless
                 * CONNECTION_BLOCKED, then it is when on_sent() is called */
    bool close; /* the connection ends after this answer (the head says so too) */
};

/* Sends one part in one system call where the socket takes it. */
enum connection_send_result connection_send(struct connection *connection,
                                            const struct connection_part *part);

/* How far an answer has come, as TCP lets one know. That the caller's program read it is certain
 * only when the caller goes on: with its next request, or by closing in order, since a system
 * resets a connection that is closed while bytes lie unread. */
enum connection_delivery {
    CONNECTION_DELIVERY_OPEN,         /* not all of it is acknowledged */
    CONNECTION_DELIVERY_ACKNOWLEDGED, /* it is with the caller's system (a Unix socket: read) */
    CONNECTION_DELIVERY_READ,
    CONNECTION_DELIVERY_BROKEN, /* the connection broke: not read whole, as far as is known */
};

/* Watches the answer that is sent next on a connection. Part of an object that outlives the watch.
 */
struct connection_receipt {
    struct connection_receipt *next;
    struct connection *connection; /* NULL once it is settled */
    bool sent;                     /* the last byte was given to the kernel */
    /* Called once, when the caller went on (`read`) or the connection ended: then `read` is false
     * unless all was acknowledged and the end was in order, or podgate's own. May be called from
     * within connection_send(). */
    void (*on_settled)(struct connection_receipt *receipt, bool read);
};

/* Begins to watch, before the answer's last part is given to connection_send(). A connection that
 * would be closed behind the answer is then kept, its sending side closed, until the caller closes
 * it too (timeouts.send at the longest). */
void connection_watch(struct connection *connection, struct connection_receipt *receipt);

/* Looks at the socket now. `receipt` isn't settled yet. */
enum connection_delivery connection_look(const struct connection_receipt *receipt);

/* Stops watching; on_settled() is not called. Allowed on a settled one. */
void connection_unwatch(struct connection_receipt *receipt);

/* True when the connection should end after this request: the caller asked for it, or the front is
 * draining, or a body was left unread. The head of the answer must say "Connection: close" then. */
bool connection_wants_close(const struct connection *connection);

/* Lets no further request follow the one that is being answered. */
void connection_close_after_answer(struct connection *connection);

/* Ends the connection at once, without telling the handler: an answer broke off half-way, and a
 * clean end would make it look whole. */
void connection_abort(struct connection *connection);

#endif
