/* One worker's client to the upstream: pooled keep-alive connections, names resolved without
 * blocking, TLS with verification, the company proxy, a bounded queue for connections, strict
 * responses, deadlines, and the rules for sending again (docs/architecture.md).
 *
 *     exchange = upstream_send(upstream, &request, &handler, owner);
 *     ... handler.on_head(), handler.on_body() until `last`, or handler.on_failure() ...
 *
 * All functions and callbacks run on the worker's own thread.
 */
#ifndef PODGATE_NET_UPSTREAM_H
#define PODGATE_NET_UPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/body.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "format/http_head.h"
#include "model/config.h"

/* What all workers share: the TLS context and the one API key, in a page that is locked and kept
 * out of core dumps. Read again when its file changes. Owned by the process. */
struct upstream_identity;

/* Loads key, authority file and TLS context as `config` says. NULL: `*problem` says in words what
 * is wrong (owned by the caller, free()). Main thread. */
struct upstream_identity *upstream_identity_create(const struct config *config, char **problem);

/* Reads the key file again when its change time or inode differs. Main thread, any time. The result
 * is false with `*problem` when the new file can't be used: the old key stays. */
MUST_CHECK bool upstream_identity_refresh(struct upstream_identity *identity, char **problem);

/* Takes key, authorities and TLS settings from a newer configuration, before workers are given it.
 * False with `*problem`: everything stays as it was. Main thread. */
MUST_CHECK bool upstream_identity_adopt(struct upstream_identity *identity,
                                        const struct config *config, char **problem);

/* False when the kernel refused to lock the page that holds the key (RLIMIT_MEMLOCK): worth a
 * warning at the start. */
bool upstream_identity_is_locked(const struct upstream_identity *identity);

/* How many keys were taken over since the start: it changes when a refresh found a new one. Any
 * thread. */
uint64_t upstream_identity_generation(const struct upstream_identity *identity);

/* Frees it once no worker uses it. NULL is allowed. */
void upstream_identity_destroy(struct upstream_identity *identity);

/* Masks each occurrence of the API key in `bytes` with '*', in place: an upstream that echoes what
 * it was sent must not give the key away. Returns how many were found. Any thread. */
size_t upstream_identity_mask(struct upstream_identity *identity, char *bytes, size_t length);

/* How many of the last bytes may be the beginning of the API key: those that have to wait for what
 * follows when bytes are passed on as they come. Any thread. */
size_t upstream_identity_tail(struct upstream_identity *identity, const char *bytes, size_t length);

struct upstream;

/* A client on `loop`; `identity`, `config` and the others outlive it (it takes a reference on
 * `config`). NULL without memory or descriptors. */
struct upstream *upstream_create(struct loop *loop, const struct config *config,
                                 struct upstream_identity *identity, struct body_budget *budget,
                                 struct metrics_block *metrics, struct log_ring *log);

/* Ends every exchange without a callback, closes all connections, frees. NULL is allowed. */
void upstream_destroy(struct upstream *upstream);

/* Why there is no (whole) response. */
enum upstream_failure {
    UPSTREAM_BUSY, /* too many wait for a connection */
    UPSTREAM_NO_MEMORY,
    UPSTREAM_NAME_UNKNOWN, /* DNS */
    UPSTREAM_REFUSED,      /* connect failed */
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_TLS,        /* handshake or certificate */
    UPSTREAM_PROXY,      /* the company proxy refused CONNECT or answered garbage */
    UPSTREAM_BROKEN,     /* closed or reset before a whole response head */
    UPSTREAM_TIMEOUT,    /* a deadline of upstream_deadlines passed */
    UPSTREAM_MALFORMED,  /* the response breaks RFC 9112 */
    UPSTREAM_INCOMPLETE, /* closed or reset inside the body */
    UPSTREAM_ENCODED,    /* Content-Encoding though only identity was asked for */
};

/* "connect_timeout" and so on, for log lines and metrics. */
const char *upstream_failure_text(enum upstream_failure failure);

/* When a request may go out a second time, on a new connection. Taking another connection because a
 * pooled one was found dead before our first byte is allowed for all. */
enum upstream_resend {
    UPSTREAM_RESEND_NEVER,
    UPSTREAM_RESEND_SUBMIT, /* once, until the last byte was given to the kernel (case C) */
    UPSTREAM_RESEND_READ,   /* once, until a response head was seen */
};

/* All in ms; 0: no such limit. */
struct upstream_deadlines {
    uint64_t total_ms;      /* from upstream_send() to the last byte of the response */
    uint64_t after_sent_ms; /* from the last byte of the request to the last of the response */
    uint64_t idle_ms;       /* between two bytes in either direction, once sending began */
};

/* What to send. Everything is referenced, nothing copied, until the exchange is over, but for the
 * struct itself. */
struct upstream_request {
    struct view head;     /* request line and fields, each ended by CRLF, without the blank line and
                           * without Host, Authorization, Connection and Accept-Encoding: those are
                           * added here */
    struct body *body;    /* NULL: none. The exchange holds a reference of its own */
    bool expects_no_body; /* the request is a HEAD */
    bool fresh_connection; /* a submit: take only connections that answered within 5 s, after a
                            * look whether they are quiet */
    enum upstream_resend resend;
    struct upstream_deadlines deadlines;
};

struct upstream_exchange;

/* Told how an exchange goes. The handler table outlives the exchange. Callbacks come only after
 * upstream_send() returned, never after upstream_abort(), and exactly one of "on_body with `last`"
 * and on_failure() ends it: the handle is dead when that callback returns. */
struct upstream_handler {
    /* The final (not 1xx) response head; `head` and its views are valid during the call only. */
    void (*on_head)(void *owner, struct upstream_exchange *exchange,
                    const struct http_response_head *head);
    /* Body bytes without any transfer coding, valid during the call only; `data` may be empty when
     * `last`. When head and body arrive together, this follows on_head() at once. */
    void (*on_body)(void *owner, struct upstream_exchange *exchange, struct view data, bool last);
    /* Everything that was ready after on_head() or on_body() has been told: a good moment to send
     * what was held back. Not called when the exchange ended. May be NULL. */
    void (*on_pause)(void *owner, struct upstream_exchange *exchange);
    /* No (further) response. `may_be_processed`: the whole request was given to the kernel, so the
     * upstream may have acted on it. */
    void (*on_failure)(void *owner, struct upstream_exchange *exchange,
                       enum upstream_failure failure, bool may_be_processed);
};

/* Starts an exchange. NULL without memory: nothing was sent, no callback comes. */
MUST_CHECK struct upstream_exchange *upstream_send(struct upstream *upstream,
                                                   const struct upstream_request *request,
                                                   const struct upstream_handler *handler,
                                                   void *owner);

/* In on_head() only: collect the body instead of telling each piece. on_body() then comes once,
 * with all bytes in `body` (appended; read from the socket straight into it where the framing
 * allows) and `last`; or, when more than `maximum_bytes` would come or the budget is used up, with
 * what is there and `last` false, after which pieces are told one by one. In that first call `data`
 * is what was collected, where it lies in `body`: not another piece. `body` stays the caller's and
 * outlives the exchange; made for one byte more than the response's Content-Length, it needs not
 * grow. */
void upstream_collect(struct upstream_exchange *exchange, struct body *body, size_t maximum_bytes);

/* Stops and restarts reading the response: back-pressure from a slow caller. What was read already
 * (64 KiB at the most) is still told; no deadline runs meanwhile. */
void upstream_pause(struct upstream_exchange *exchange);
void upstream_resume(struct upstream_exchange *exchange);

/* Ends the exchange without a callback; its connection is closed unless nothing was sent. */
void upstream_abort(struct upstream_exchange *exchange);

/* Microseconds of clock_mono_us() when the first and the last byte of the request were given to the
 * kernel and when the head came; 0 when that has not happened. For Server-Timing and the log. */
struct upstream_timing {
    uint64_t connected_us;
    uint64_t sent_us;
    uint64_t head_us;
};
struct upstream_timing upstream_timing(const struct upstream_exchange *exchange);

/* A snapshot for metrics and the operator: connections open, idle, and exchanges that wait. */
struct upstream_counts {
    size_t open;
    size_t idle;
    size_t waiting;
};
struct upstream_counts upstream_counts(const struct upstream *upstream);

/* Adopts a newer configuration for new connections and requests; running ones finish on theirs. */
void upstream_adopt(struct upstream *upstream, const struct config *config);

#endif
