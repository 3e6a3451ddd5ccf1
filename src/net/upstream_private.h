/* What the parts of the upstream client share: upstream.c (exchanges as the caller sees them,
 * sweep), upstream_pool.c (which exchange goes over which connection), upstream_connect.c (from an
 * address to a usable connection), upstream_connection.c (events, a request out),
 * upstream_response.c (a response in), upstream_identity.c (the key). */
#ifndef PODGATE_NET_UPSTREAM_PRIVATE_H
#define PODGATE_NET_UPSTREAM_PRIVATE_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "base/clock.h"
#include "format/http_chunked.h"
#include "net/resolver.h"
#include "net/tls_context.h"
#include "net/transport.h"
#include "net/upstream.h"

enum {
    UPSTREAM_READ_BYTES = 64 * 1024,
    UPSTREAM_SWEEP_MS = 150,
    UPSTREAM_INTERIM_MAXIMUM = 8, /* 1xx responses to one request */
    UPSTREAM_STASH_STEP_BYTES = 4096,
    UPSTREAM_FRESH_MS = 5000, /* what a submit calls a fresh connection */
};

/* One state of what upstream_identity holds. Made by the main thread, then constant; all of them
 * live until the identity goes, since workers may be writing from any. */
struct upstream_credentials {
    struct upstream_credentials *older;
    char *url;              /* where alone they may be sent */
    struct secret *fields;  /* "Authorization: Bearer KEY\r\n..." to the end of the head */
    struct view key;        /* inside `fields` */
    struct tls_client *tls; /* NULL when the upstream is plain http; a reference */
};

/* The credentials to use now. Any thread, no lock. */
const struct upstream_credentials *
upstream_identity_current(const struct upstream_identity *identity);

/* The newest that may be sent to `url`: while a reload that changes URL and key reaches one worker
 * after the other, each goes on with what belongs to its own. Any thread; valid until the
 * identity's end. */
const struct upstream_credentials *upstream_identity_for(const struct upstream_identity *identity,
                                                         struct view url);

enum upstream_connection_state {
    UPSTREAM_CONNECTION_CONNECTING,  /* TCP */
    UPSTREAM_CONNECTION_PROXYING,    /* CONNECT was sent */
    UPSTREAM_CONNECTION_HANDSHAKING, /* TLS */
    UPSTREAM_CONNECTION_IDLE,
    UPSTREAM_CONNECTION_BUSY,   /* has an exchange */
    UPSTREAM_CONNECTION_CLOSED, /* dead: freed when this turn of the loop is over */
};

/* Owned by its client. Dead when `state` is UPSTREAM_CONNECTION_CLOSED, freed after that turn of
 * the loop. */
struct upstream_connection {
    struct transport transport;
    struct upstream *upstream;
    TAILQ_ENTRY(upstream_connection) all;
    TAILQ_ENTRY(upstream_connection) idle;
    struct loop_grave grave;
    struct event read_event;  /* persistent, registered from the first to the last moment */
    struct event write_event; /* only while something waits for the socket */
    enum upstream_connection_state state;
    uint64_t generation;          /* of the configuration it was made for */
    uint64_t deadline_ms;         /* of the attempt to connect, in all; of clock_mono_ms() */
    uint64_t address_deadline_ms; /* of the attempt at one address */
    uint64_t answered_ms;         /* when it was connected or last gave an answer */
    uint64_t answers;
    size_t address_index;
    size_t addresses_tried;
    enum upstream_failure failure; /* of the last address tried */
    struct upstream_exchange *exchange;

    char *stash; /* the beginning of a response head (or the CONNECT request to a proxy) */
    size_t stash_length;
    size_t stash_capacity;
    size_t proxy_sent;
    bool head_done;
    unsigned interims;
    uint64_t body_left; /* with Content-Length */
    struct http_chunked chunked;
    struct http_response_head response;
};

TAILQ_HEAD(upstream_connection_list, upstream_connection);

enum upstream_exchange_state {
    UPSTREAM_EXCHANGE_WAITING, /* for a connection */
    UPSTREAM_EXCHANGE_ACTIVE,  /* on `connection` */
    UPSTREAM_EXCHANGE_FAILING, /* over; on_failure() is due */
};

/* Owned by its client, in the list of its state. */
struct upstream_exchange {
    struct upstream *upstream;
    TAILQ_ENTRY(upstream_exchange) list;
    enum upstream_exchange_state state;
    const struct upstream_handler *handler;
    void *owner;
    struct upstream_request request;
    struct upstream_connection *connection;
    const struct upstream_credentials *credentials; /* those it is being sent with */
    size_t sent_bytes;
    size_t total_bytes;
    bool write_failed;
    bool resent;
    bool needs_new; /* only a connection that was never used will do */
    bool paused;
    bool has_response_bytes;
    bool told; /* something since the last on_pause() */
    enum upstream_failure failure;
    uint64_t failing_number;
    uint64_t wait_deadline_ms; /* of clock_mono_ms(), as the next three; 0: none */
    uint64_t total_deadline_ms;
    uint64_t sent_deadline_ms;
    uint64_t idle_deadline_ms;
    uint64_t paused_since_ms; /* with `paused` */
    struct upstream_timing timing;
    struct body *collected; /* not owned; NULL: pieces are told as they come */
    size_t collect_maximum;
    size_t collect_start; /* what was in it before */
};

TAILQ_HEAD(upstream_exchange_list, upstream_exchange);

struct upstream {
    struct loop *loop;
    const struct config *config;
    struct upstream_identity *identity;
    struct body_budget *budget;
    struct metrics_block *metrics;
    struct log_ring *log;
    struct resolver *resolver; /* of the upstream's name, or the proxy's */
    struct tls_resumption resumption;
    uint64_t generation;
    char *host_field; /* "Host: authority\r\n" */
    size_t host_field_length;
    char *read_buffer;
    struct event *sweep_event;
    struct event *failing_event;
    bool sweeping;
    bool unreachable; /* as last logged */
    uint64_t failing_number;
    struct upstream_connection_list connections;
    struct upstream_connection_list idle; /* the last used in front */
    size_t open_count;
    size_t idle_count;
    size_t attempt_count; /* connections that are not usable yet */
    size_t connections_maximum;
    size_t waiting_maximum;
    size_t preferred_address;
    struct upstream_exchange_list waiting;
    struct upstream_exchange_list active;
    struct upstream_exchange_list failing;
    struct upstream_exchange_list unused;
    size_t waiting_count;
    size_t unused_count;
};

/* The moment of clock_mono_ms() that is `span_ms` from now; 0, for none, when that is 0. */
static inline uint64_t upstream_deadline_ms(uint64_t span_ms)
{
    return span_ms == 0 ? 0 : clock_mono_ms() + span_ms;
}

/* ---- upstream.c */

/* Moves the exchange to another list. Takes it off its connection's hands, not the reverse. */
void upstream_exchange_move(struct upstream_exchange *exchange, enum upstream_exchange_state state);

/* Ends it: on_failure() is called soon, from the loop. Its connection must be gone already. */
void upstream_exchange_fail(struct upstream_exchange *exchange, enum upstream_failure failure);

/* Gives its memory back, after its last callback or without one. */
void upstream_exchange_free(struct upstream_exchange *exchange);

/* True when the whole request was given to the kernel. */
static inline bool upstream_exchange_is_sent(const struct upstream_exchange *exchange)
{
    return exchange->total_bytes > 0 && exchange->sent_bytes == exchange->total_bytes;
}

/* Makes sure that deadlines are looked at. */
void upstream_sweep_start(struct upstream *upstream);

/* ---- upstream_pool.c */

/* A usable pooled connection for the exchange: NULL when there is none. It is off the idle list. */
struct upstream_connection *upstream_pool_take(struct upstream *upstream,
                                               const struct upstream_exchange *exchange);

/* Finds connections for those that wait: pooled ones, or by starting to connect. */
void upstream_pool_serve(struct upstream *upstream);

/* The resolver has an answer, or has found that there is none. */
void upstream_pool_on_addresses(void *upstream);

/* Takes a connection that has become usable (or is so again): to one that waits, or to the pool. */
void upstream_pool_put(struct upstream_connection *connection);

/* An attempt to connect has failed at all addresses; the connection is closed by this. */
void upstream_pool_attempt_failed(struct upstream_connection *connection,
                                  enum upstream_failure failure);

/* Sends the exchange over the connection. False: the connection was dead before its first byte and
 * is closed; the exchange is as before. */
MUST_CHECK bool upstream_pool_assign(struct upstream_connection *connection,
                                     struct upstream_exchange *exchange);

/* Closes a connection and lets it be freed after this turn. An exchange on it is left without. */
void upstream_connection_close(struct upstream_connection *connection);

/* Closes what is unused for too long. */
void upstream_pool_expire(struct upstream *upstream, uint64_t now_ms);

/* Sets `state` after a legal move; logs an illegal one. */
void upstream_connection_move(struct upstream_connection *connection,
                              enum upstream_connection_state state);

/* ---- upstream_connect.c */

/* Starts to connect. False without memory. The resolver has an address. */
MUST_CHECK bool upstream_connect_start(struct upstream *upstream);

/* Goes on connecting after an event. */
void upstream_connect_continue(struct upstream_connection *connection);

/* The attempt, or the one at this address, has taken too long at `now_ms`. */
void upstream_connect_expire(struct upstream_connection *connection, uint64_t now_ms);

/* ---- upstream_connection.c */

/* Registers the descriptor's events; called once per descriptor. False without memory. */
MUST_CHECK bool upstream_connection_watch(struct upstream_connection *connection);

/* The events of a connection. */
void upstream_connection_on_readable(evutil_socket_t descriptor, short what, void *argument);
void upstream_connection_on_writable(evutil_socket_t descriptor, short what, void *argument);

/* Begins the exchange that the connection was given: writes what the socket takes. */
void upstream_connection_begin(struct upstream_connection *connection);

/* Keeps bytes behind what is in the stash. False without memory. */
MUST_CHECK bool upstream_connection_keep(struct upstream_connection *connection, struct view bytes);

/* Waits until the socket takes bytes. */
void upstream_connection_wait_writable(struct upstream_connection *connection);

/* ---- upstream_response.c */

/* Reads and tells what there is of the response; the connection has an exchange. */
void upstream_response_read(struct upstream_connection *connection);

#endif
