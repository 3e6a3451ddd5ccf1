/* One request and its answer. It ends with exactly one of exchange_reply(), exchange_stream_end()
 * or the caller's hang-up, and is freed then. A hang-up is noticed while an answer is held back,
 * which evhttp alone would not; the connection can be handed over for broken answers (sim_raw.h).
 */
#ifndef SIM_EXCHANGE_H
#define SIM_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sim/sim_json.h"

struct evbuffer;
struct event;
struct event_base;
struct evhttp_connection;
struct evhttp_request;
struct exchange;

typedef void exchange_gone(struct exchange *exchange, void *argument);
typedef void exchange_intercept(struct exchange *exchange, int status, const char *content_type,
                                struct evbuffer *body, void *argument);
/* Who writes the answer when evhttp does not: see sim_raw.h. */
struct exchange_writer {
    void (*write_chunk)(void *argument, struct evbuffer *bytes);
    void (*finish)(void *argument);
};

typedef void exchange_finished(struct exchange *exchange, void *argument);

/* Owned by the server until it has ended. The fields below the line belong to who sets them. */
struct exchange {
    struct event_base *base;
    uint64_t *hang_ups; /* counts callers who went away */
    struct evhttp_request *request;
    struct evhttp_connection *connection;
    const char *method;
    const char *target;                   /* exactly as received */
    struct sim_text body;                 /* the whole body, contiguous */
    const struct exchange_writer *writer; /* not NULL: answered outside evhttp */
    void *writer_argument;
    struct event *hang_up_watch;
    bool streaming;
    /* ---- */
    exchange_gone *on_gone; /* the caller hung up; the exchange is freed after it returned */
    void *gone_argument;
    exchange_intercept *intercept;  /* gets the answer instead of evhttp; takes the body's bytes */
    void *intercept_argument;       /* malloc'd, freed with the exchange */
    exchange_finished *on_finished; /* once, whatever the end; the place to give back limits */
    void *finished_argument;
};

/* An exchange for a whole request that evhttp has read; `hang_ups` is referenced. NULL: out of
 * memory. */
MUST_CHECK struct exchange *exchange_create(struct event_base *base, uint64_t *hang_ups,
                                            struct evhttp_request *request);

/* The value of a header field, NULL when absent. Valid while the exchange lives. */
const char *exchange_field(const struct exchange *exchange, const char *name);

/* Adds a field to the answer to come. */
void exchange_add_field(struct exchange *exchange, const char *name, const char *value);

/* Answers and ends the exchange. `body` is emptied, still the caller's; NULL for no body. */
void exchange_reply(struct exchange *exchange, int status, const char *content_type,
                    struct evbuffer *body);

/* Answers with JSON text. */
void exchange_reply_json(struct exchange *exchange, int status, const char *json);

/* The answer comes later: from now on a hang-up calls `on_gone` and frees the exchange. */
void exchange_hold(struct exchange *exchange, exchange_gone *on_gone, void *argument);

/* Begins a chunked answer; a hang-up calls `on_gone` as for exchange_hold(). */
void exchange_stream_start(struct exchange *exchange, const char *content_type,
                           exchange_gone *on_gone, void *argument);

/* Sends a piece; `bytes` is emptied. */
void exchange_stream_write(struct exchange *exchange, struct evbuffer *bytes);

/* Bytes written but not yet taken by the kernel: a slow reader shows here. */
size_t exchange_stream_backlog(const struct exchange *exchange);

/* Ends the chunked answer and the exchange. */
void exchange_stream_end(struct exchange *exchange);

/* Frees without an answer: the connection must already be in other hands (sim_raw) or dead. */
void exchange_release(struct exchange *exchange);

/* Tells the holder that the caller is gone, then frees. */
void exchange_abandon(struct exchange *exchange);

#endif
