/* What connection.c (life), connection_read.c (requests), connection_send.c (answers) and front.c
 * (all of one worker) share. */
#ifndef PODGATE_NET_CONNECTION_PRIVATE_H
#define PODGATE_NET_CONNECTION_PRIVATE_H

#include <event2/event.h>
#include <event2/event_struct.h>

#include "format/http_chunked.h"
#include "net/connection.h"
#include "net/transport.h"

enum {
    FRONT_READ_BYTES = 64 * 1024,
    /* What may lie unread behind a request that is being worked on, before reading pauses. */
    CONNECTION_STASH_BYTES = 64 * 1024,
    CONNECTION_LINGER_BYTES = 64 * 1024,
    CONNECTION_LINGER_MS = 1000,
    /* How long a caller may still be silent once the front is draining. */
    CONNECTION_DRAIN_IDLE_MS = 500,
    CONNECTION_BODY_WINDOW_MS = 10000,
    CONNECTION_BODY_BYTES_PER_SECOND = 1024,
    /* Above this share of the budget no new body is taken, so that answers still find room. */
    CONNECTION_BODY_BUDGET_PERCENT = 80,
};

/* Legal moves stand in connection.c. */
enum connection_state {
    CONNECTION_PROXY_HEAD, /* a PROXY protocol head is due */
    CONNECTION_HANDSHAKE,  /* TLS */
    CONNECTION_IDLE,       /* between requests */
    CONNECTION_HEAD,       /* a part of a head is there */
    CONNECTION_BODY,       /* a body is being read */
    CONNECTION_WAITING,    /* the layer above works on the request */
    CONNECTION_SENDING,    /* an answer has begun */
    CONNECTION_LINGER,     /* the answer is sent; what still comes is thrown away for a moment */
    CONNECTION_CLOSED,     /* dead: freed when this turn of the loop is over */
};

/* Owned by its front. Dead when `state` is CONNECTION_CLOSED, freed after that turn of the loop. */
struct connection {
    struct transport transport;
    struct front *front;
    struct connection *next;
    struct connection *previous;
    struct loop_grave grave;
    struct event read_event;   /* persistent, registered from the first to the last moment */
    struct event write_event;  /* only while something waits for the socket */
    struct event closed_event; /* only while `reading_paused`: a hang-up must still be seen */
    struct sockaddr_storage peer;
    struct sockaddr_storage counted_peer; /* as counted in the limits, before any PROXY head */
    const struct config_address *address;
    enum connection_state state;
    bool reading_paused;
    bool processing;  /* process_input() is on the stack */
    bool close_after; /* no further request */
    bool body_unread; /* the caller announced a body that nobody took */
    bool body_too_slow;
    bool body_skippable; /* unread, but all of it is here: it is passed over, the connection goes on
                          */
    bool body_wanted;    /* connection_read_body() was called */
    bool answered;       /* the first part of the answer was given */
    bool last_given;     /* so was the last one */
    uint64_t deadline_ms; /* of clock_mono_ms(); 0: none */
    struct inbound *inbound;

    char *stash; /* received, not used: the beginning of a head, or pipelined requests */
    size_t stash_length;
    size_t stash_capacity;

    struct body *body;
    uint64_t body_maximum;
    uint64_t body_left; /* with Content-Length */
    uint64_t skip_left; /* of a body that nobody took, before the next head */
    uint64_t body_window_bytes;
    uint64_t body_window_end_ms;
    struct http_chunked chunked;

    char *pending; /* copied output, sent from `pending_offset` on */
    size_t pending_offset;
    size_t pending_length;
    size_t pending_capacity;
    struct body *holder; /* what follows it by reference */
    struct view holder_rest;
    size_t linger_bytes;
    struct connection_receipt
        *receipts; /* answers of which it isn't known whether they were read */
};

struct front {
    struct loop *loop;
    const struct config *config;
    const struct connection_handler *handler;
    void *owner;
    struct tls_server *tls;
    struct connection_limits *limits;
    struct body_budget *budget;
    struct metrics_block *metrics;
    struct log_ring *log;
    struct event *sweep_event;
    struct connection *connections;
    size_t connection_count;
    bool draining;
    char *read_buffer;
};

/* Makes a state move, or logs and refuses an illegal one. */
void connection_move(struct connection *connection, enum connection_state state);

/* Sets what the read event does next. */
void connection_on_readable(evutil_socket_t descriptor, short what, void *argument);
void connection_on_writable(evutil_socket_t descriptor, short what, void *argument);
void connection_on_closed(evutil_socket_t descriptor, short what, void *argument);

/* Closes at once; tells the handler when a request was pending and `tell`. */
void connection_close(struct connection *connection, bool tell);

/* Reads once from the transport and works through what came. */
enum transport_result connection_read_once(struct connection *connection);

/* Works through what was received and not used yet. */
void connection_process_stash(struct connection *connection);

/* Answers a head that ends the connection, through the handler. */
void connection_refuse_head(struct connection *connection, unsigned status, struct view detail);

/* Ends the reading of a body that can't be had, through the handler. */
void connection_refuse_body(struct connection *connection, enum connection_body_fault fault);

/* A deadline has passed. */
void connection_on_deadline(struct connection *connection);

/* Starts as the listener entry says: PROXY head, handshake or plain requests. False: close it. */
MUST_CHECK bool connection_start(struct connection *connection);

/* The answer's last byte left: next request, linger or end. */
void connection_finish_answer(struct connection *connection);

/* The answers that are watched were given to the kernel whole. */
void connection_mark_receipts_sent(struct connection *connection);

/* Tells those who watch that the caller went on; or what is known now that the connection ends,
 * while its descriptor is open yet. */
void connection_settle_receipts(struct connection *connection);
void connection_settle_receipts_at_end(struct connection *connection);

/* Sends what is pending. */
enum connection_send_result connection_flush(struct connection *connection);

#endif
