/* The sim's HTTP server: evhttp, plus what evhttp does not offer and a stand-in needs: connections
 * struck as they are accepted, and every byte seen (for the raw log, and for resets in the middle
 * of a request). Each whole request is given on as an exchange (sim_exchange.h). One thread. */
#ifndef SIM_HTTP_H
#define SIM_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "sim/sim_json.h"

struct event_base;
struct exchange;
struct sim_http;

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
                                            const char *key, const struct sim_http_hooks *hooks,
                                            FILE *raw_log,
                                            void (*handle)(struct exchange *, void *),
                                            void *argument);

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

/* What has been seen so far. */
struct sim_http_counters *sim_http_get_counters(struct sim_http *http);

/* Aborts the TCP connection of `fd`: the peer sees RST. */
void sim_http_abort_socket(int fd);

#endif
