/* Faults: which requests or connections are struck, and how. A fault is written as
 * `KIND[=VALUE][,KEY=VALUE]...` (--fault) or as a JSON object with the same names (control route).
 * The manual page lists kinds and keys. What a struck request sees is in sim_strike.h. */
#ifndef SIM_FAULT_H
#define SIM_FAULT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "sim/sim_http.h"
#include "sim/sim_job.h"

struct evbuffer;
struct event_base;
struct sim_faults;
struct target;

enum fault_kind {
    /* a connection, before any request */
    FAULT_REFUSE,
    FAULT_ACCEPT_RESET,
    FAULT_ACCEPT_CLOSE,
    FAULT_ACCEPT_GARBAGE,
    /* a request while it arrives */
    FAULT_RESET_REQUEST,
    /* instead of handling the request (unless executed=yes) */
    FAULT_STATUS,
    FAULT_REDIRECT,
    FAULT_PHANTOM,
    FAULT_NO_ID,
    FAULT_CLOSE,
    /* the true answer, altered */
    FAULT_DELAY,
    FAULT_WRONG_ID,
    FAULT_ECHO,
    FAULT_GZIP,
    FAULT_DRIP,
    FAULT_CUT,
    FAULT_RESET,
    FAULT_STALL,
    FAULT_WRONG_LENGTH,
    FAULT_NO_LENGTH,
    FAULT_TWIN_LENGTH,
    FAULT_BOTH_FRAMINGS,
    FAULT_BAD_CHUNK,
    FAULT_GARBAGE,
    FAULT_INFORMATIONAL,
    FAULT_EXTRA,
    FAULT_BIG_HEADER,
    FAULT_RAW
};

enum { FAULT_NAME_BYTES = 32, FAULT_TYPE_BYTES = 16 };

struct fault {
    TAILQ_ENTRY(fault) link;
    int64_t number;
    enum fault_kind kind;
    char *value; /* text after the kind's "="; NULL without */
    char operation[FAULT_NAME_BYTES];
    char endpoint[ENDPOINT_ID_BYTES];
    char method[FAULT_NAME_BYTES];
    char body[FAULT_TYPE_BYTES]; /* json, html, text, empty, status */
    int64_t count;               /* strikes left, -1 for no end */
    int64_t skip;                /* matches that are let through first */
    int64_t delay_ms;
    int64_t retry_after_s; /* -1: no such field */
    int64_t code;
    int64_t bytes;
    bool executed;
    int64_t hits;
};

/* `http` is told to close and open its listeners by refuse; set later, since it wants the hooks. */
MUST_CHECK struct sim_faults *faults_create(struct event_base *base);
void faults_set_http(struct sim_faults *faults, struct sim_http *http);
void faults_destroy(struct sim_faults *faults);

/* The hooks for sim_http_create(); they live as long as `faults`. */
const struct sim_http_hooks *faults_hooks(struct sim_faults *faults);

/* Adds a fault from either form. Its number, or -1 with a message in `problem`. */
MUST_CHECK int64_t faults_add(struct sim_faults *faults, struct sim_text specification,
                              char *problem, size_t problem_bytes);

/* Removes one fault, or all for number 0. Returns how many. */
int64_t faults_remove(struct sim_faults *faults, int64_t number);

/* Appends a JSON array of the faults with their hits. */
void faults_write(struct evbuffer *out, const struct sim_faults *faults);

/* The fault that strikes this request, counted; NULL for none. Valid until faults_remove(). */
struct fault *faults_match(struct sim_faults *faults, struct sim_text method,
                           const struct target *target, bool while_arriving);

/* The fault's value as a number, `otherwise` when it has none. */
int64_t fault_number(const struct fault *fault, int64_t otherwise);

#endif
