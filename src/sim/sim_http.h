/* The sim's HTTP server: evhttp, plus what evhttp does not offer and a stand-in needs: every byte
 * seen (for the raw log and for resets in the middle of a request), a hang-up noticed while an
 * answer is held back, and connections handed over for broken answers (sim_raw.h).
 *
 * One request is a `struct exchange`. It ends with exactly one of exchange_reply(),
 * exchange_stream_end() or the caller's hang-up, and is freed then. All of it lives on one thread.
 */
#ifndef SIM_HTTP_H
#define SIM_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "sim/sim_json.h"

struct evbuffer;
struct event_base;
struct evhttp_connection;
struct evhttp_request;
struct exchange;
struct sim_http;

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
    struct sim_http *http;
    struct evhttp_request *request;
    struct evhttp_connection *connection;
    const char *method;
    const char *target;     /* exactly as received */
    struct sim_text body;   /* the whole body, contiguous */
    const struct exchange_writer *writer; /* not NULL: answered outside evhttp */
    void *writer_argument;
    struct event *hang_up_watch;
    bool streaming;
    /* ---- */
    exchange_gone *on_gone; /* the caller hung up; the exchange is freed after it returned */
    void *gone_argument;
    exchange_intercept *intercept; /* gets the answer instead of evhttp; takes the body's bytes */
    void *intercept_argument; /* malloc'd, freed with the exchange */
    exchange_finished *on_finished; /* once, whatever the end; the place to give back limits */
    void *finished_argument;
};

enum accept_action { ACCEPT_NORMAL, ACCEPT_RESET, ACCEPT_CLOSE, ACCEPT_GARBAGE };

/* What the fault module wants to know and do below HTTP. Any may be NULL. */
struct sim_http_hooks {
    void *argument;
    /* A connection was accepted. */
    enum accept_action (*accepted)(void *argument);
    /* A request line has arrived: after how many bytes of this request the connection is reset;
     * SIZE_MAX for never. Only called while `*watching`. */
    size_t (*request_begun)(void *argument, struct sim_text method, struct sim_text target);
    const bool *watching;
};

struct sim_http_counters {
    uint64_t connections;
    uint64_t bytes_in;
    uint64_t requests;
    uint64_t hang_ups;
};

/* Creates a server that gives each request to `handle`. `certificate` and `key` name PEM files for
 * the listeners whose specification begins with "tls:" (all, when none does); NULL for none.
 * `hooks` and `raw_log` are referenced, NULL for none. NULL with a line on stderr on failure. */
MUST_CHECK struct sim_http *sim_http_create(struct event_base *base, const char *certificate,
    const char *key, const struct sim_http_hooks *hooks, FILE *raw_log,
    void (*handle)(struct exchange *, void *), void *argument);

/* Binds "[tls:]host:port" and prints "podgate-sim: listening on host:port" (with the chosen port
 * when it was 0). `tls_default` is used when there is no prefix. False: told on stderr. */
MUST_CHECK bool sim_http_listen(struct sim_http *http, const char *specification, bool tls_default,
    const char *label);

/* Closes all listeners; with `cut`, all connections as well. */
void sim_http_down(struct sim_http *http, bool cut);

/* Opens the same addresses again. False when one is taken. */
MUST_CHECK bool sim_http_up(struct sim_http *http);

/* Frees everything; held exchanges are told that their callers are gone. NULL is fine. */
void sim_http_destroy(struct sim_http *http);

struct sim_http_counters *sim_http_get_counters(struct sim_http *http);
struct event_base *sim_http_base(struct sim_http *http);

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

/* Aborts the TCP connection of `fd`: the peer sees RST. */
void sim_http_abort_socket(int fd);

#endif
