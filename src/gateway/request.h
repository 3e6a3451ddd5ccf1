/* The life of one request, from a whole head to the log line. Read request.c from top to bottom to
 * follow it; the steps stand in docs/architecture.md.
 *
 * How its answer is put together stands in request_reply.c.
 *
 * A request has two sides: its caller, who may leave at any time, and its work, which may go on
 * without the caller (a submit is carried to its end). It is dead when both are done, and goes back
 * to its worker's pool when that turn of the loop is over.
 */
#ifndef PODGATE_GATEWAY_REQUEST_H
#define PODGATE_GATEWAY_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/body.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "gateway/admission.h"
#include "gateway/gateway.h"
#include "gateway/problem.h"
#include "model/address.h"
#include "model/route.h"
#include "net/connection.h"
#include "net/upstream.h"

enum caller_state { CALLER_READING, CALLER_WAITING, CALLER_SENDING, CALLER_DONE };

enum work_state {
    WORK_ADMITTING,   /* the head is being judged, or the body is being read */
    WORK_DELAYED,     /* a refusal waits, because this address failed too often */
    WORK_IN_STORE,    /* waits for the store */
    WORK_IN_FLIGHT,   /* joined to a shared upstream request */
    WORK_AT_UPSTREAM, /* has an upstream request of its own */
    WORK_RECORDING,   /* upstream has answered, the ledger is being written: never abandoned */
    WORK_DONE
};

enum { REQUEST_ID_BYTES = 32, REQUEST_WIRE_BYTES = 704, REQUEST_JOB_BYTES = 128 };

/* Lines that request_begin_reply() puts into the answer's head. */
enum request_note {
    REQUEST_STORE_DEGRADED = 1, /* Podgate-Degraded: store */
    REQUEST_REPLAYED = 2,       /* Idempotency-Replayed: true */
    REQUEST_NOT_RECORDED = 4,   /* Podgate-Warning: not-recorded */
};

struct json_member;
struct relay_plan;
struct request;
struct store_call;
struct store_question;
struct store_reply;
struct stream_events;
struct stream_poll;
struct submission;

/* What an operation is to the life of a request. The table of all stands in operation_table.c. */
struct operation {
    uint64_t body_maximum_bytes;
    bool survives_caller;                   /* the work goes on when the caller leaves */
    void (*start)(struct request *request); /* head and body are there: answer, or go to work */
    /* The caller left while the work is WORK_IN_FLIGHT: stop it. NULL: nothing to stop besides the
     * exchange and the question to the store, which are dropped anyway. */
    void (*abandon)(struct request *request);
    /* A slow caller has taken what was sent in pieces by the operation itself. NULL: nobody waits for
     * that. */
    void (*resume)(struct request *request);
    /* The request is over: free what the operation kept in it. NULL: nothing. */
    void (*release)(struct request *request);
};

/* Takes the reply to a question to the store. */
typedef void request_on_store(struct request *request, const struct store_reply *reply);

/* Owned by its worker's pool. Dead when `caller` and `work` are both done. */
struct request {
    struct inbound inbound; /* must be first: the front hands out pointers to it */
    struct gateway *gateway;
    struct loop_grave grave;
    struct request_handle handle;
    enum caller_state caller;
    enum work_state work;
    bool begun;     /* a whole head (or a bad one) was seen: there will be a log line */
    bool dead;      /* in the graveyard */
    bool head_sent; /* the first part of the answer was given to the front */
    bool paused;    /* the exchange waits for a slow caller */
    const struct config *config; /* one reference, from the head on */
    struct route route;
    bool has_route;
    struct admission_ticket ticket;
    struct view id; /* X-Request-Id: the caller's, or `id_text` */
    char id_text[REQUEST_ID_BYTES];
    uint64_t started_us;
    struct body *body; /* the caller's; one reference */

    struct store_call *store_call; /* the question to the store that is under way, or NULL */
    request_on_store *store_then;
    struct submission *submission; /* of a submit: its life in the ledger (ledger_private.h) */

    struct stream_poll *stream_poll;     /* of /stream: while it waits for chunks */
    struct stream_events *stream_events; /* the same, as events */

    struct upstream_exchange *exchange;
    const struct relay_plan *plan;
    unsigned upstream_status;
    uint64_t upstream_retry_after_s;
    uint64_t answer_length; /* as announced */
    bool answer_has_length;
    bool streaming;      /* pieces go to the caller as they come */
    unsigned char relay_end; /* enum relay_end, of an answer that waits to be recorded */
    bool answer_whole;       /* while one that is too long to be collected waits: it has all come */
    bool answer_broken;      /* the same: it broke off */
    struct body *answer_rest; /* the same: what came behind it; one reference */
    struct body *answer; /* collected from upstream; one reference */
    char *held;          /* the end of the last piece, which may be the beginning of the key */
    size_t held_length;
    struct event *delay_event;
    enum problem delayed_problem; /* answered once the key was found good, or later; 0: none */
    struct address peer;

    unsigned notes; /* enum request_note: what every answer's head says, whoever makes it */

    /* What the log line will say. */
    unsigned status;
    const char *origin;               /* "gateway" or "upstream" */
    const char *cache;                /* "hit", "shared" or NULL */
    const char *reason;               /* a problem's code or an upstream failure; NULL */
    char job_text[REQUEST_JOB_BYTES]; /* of a submit: the id that upstream gave */
    size_t job_length;
    struct view job_state;
    struct upstream_timing timing;

    struct builder sent_head; /* to the upstream; referenced until the exchange is over */
    struct builder reply;     /* the answer's head */
    enum connection_framing framing;
    char sent_head_storage[REQUEST_WIRE_BYTES];
    char reply_storage[REQUEST_WIRE_BYTES];
};

/* The table of functions that a front calls for each request. */
extern const struct connection_handler request_handler;

/* The pool of one worker. NULL without memory; destroy takes NULL and ends what still runs. */
struct request_pool *request_pool_create(struct gateway *gateway);
void request_pool_destroy(struct request_pool *pool);

/* How many requests are not over yet. */
size_t request_pool_running(const struct request_pool *pool);

/* The request that the handle names, or NULL when it is over. Its worker's thread. */
struct request *request_find(struct gateway *gateway, struct request_handle handle);

/* Moves the work side; the legal moves stand in request.c. When it is WORK_DONE and the caller's
 * side is done too, the request is finished: ticket back, log line, counters, graveyard. */
void request_move_work(struct request *request, enum work_state work);

/* The same for the caller's side. */
void request_move_caller(struct request *request, enum caller_state caller);

/* Checks that the body is JSON, and finds members of its top level (format/json_scan.h). False when
 * it isn't: the caller was told so and the work is over. */
MUST_CHECK bool request_scan_body(struct request *request, struct json_member *members,
                                  size_t count);

/* Asks the store; `then` is called with the reply, later, unless the request is over by then. Moves
 * the work to WORK_IN_STORE, unless it is WORK_RECORDING. One question at a time. False without
 * memory: nothing was asked. */
MUST_CHECK bool request_ask_store(struct request *request, const struct store_question *question,
                                  request_on_store *then);

/* Answers with one of podgate's own errors, if somebody still waits for an answer, and ends the
 * work; an exchange that is still under way is aborted. `retry_after_s` 0: no Retry-After. */
void request_refuse(struct request *request, enum problem problem, uint64_t retry_after_s);

/* The same with a sentence of its own in place of the problem's. */
void request_refuse_because(struct request *request, enum problem problem, struct view detail,
                            uint64_t retry_after_s);

/* The same with another status than the problem's own: the upstream's, whose body can't be used. */
void request_refuse_as(struct request *request, enum problem problem, unsigned status,
                       uint64_t retry_after_s);

/* Turns the failure of an exchange into an answer. */
void request_refuse_failure(struct request *request, enum upstream_failure failure);

/* True while somebody waits for the answer. */
bool request_has_caller(const struct request *request);

/* Begins the head of an answer in `request->reply`: status line, Date, Via, X-Request-Id. */
void request_begin_reply(struct request *request, unsigned status);

/* Ends the head and sends it with a whole body: Content-Length, Connection where needed. `holder`
 * is the body that `data` lies in, or NULL. For HEAD the data stays here. Ends the caller's side.
 */
void request_send_reply(struct request *request, struct view data, struct body *holder);

/* The same for a head that has its Content-Length already, or a status that forbids a body (304; no
 * data then). */
void request_send_ready(struct request *request, struct view data, struct body *holder);

/* Ends the head of an answer that comes in pieces. `length_known`: the head has a Content-Length
 * already; else the end is marked as the caller's version allows. The head goes out with the first
 * piece. */
void request_begin_pieces(struct request *request, bool length_known);

/* Sends one piece (perhaps an empty one, to get the head out). False when the socket takes no more
 * for now: on_drained() of the operation follows, or the caller is gone. */
MUST_CHECK bool request_send_piece(struct request *request, struct view data, bool last);

/* Breaks an answer off that can't be completed: the caller sees a broken connection. */
void request_break_off(struct request *request);

/* The fields that every head sent up gets: X-Request-Id, Via, traceparent and the rest by
 * allow-list, Content-Length of `body`. Begins `request->sent_head` with method and target. */
void request_begin_sent_head(struct request *request, struct view method,
                             const struct route *route);

#endif
