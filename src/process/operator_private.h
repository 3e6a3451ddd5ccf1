/* What the files of the operator API share:
 *
 *   operator.c             the socket, who may use it, the table of routes, requests and answers
 *   operator_json.c        ledger records as JSON
 *   operator_submits.c     submits whose outcome nobody knows
 *   operator_candidates.c  what upstream says it has
 *   operator_jobs.c        jobs, adopting, the store's state
 */
#ifndef PODGATE_PROCESS_OPERATOR_PRIVATE_H
#define PODGATE_PROCESS_OPERATOR_PRIVATE_H

#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "net/listen_socket.h"
#include "process/operator.h"

struct operator_request;

struct operator_api {
    struct operator_parts parts;
    const struct config *config;
    struct evhttp *http;
    struct listen_socket socket;
    struct upstream *upstream;
    struct operator_request *requests; /* those under way */
};

/* One line of the table. */
struct operator_route {
    enum evhttp_cmd_type method;
    const char *path;         /* "{}" stands for a word that the handler gets */
    const char *const *query; /* the parameters that it takes, NULL-terminated; NULL: none */
    void (*handle)(struct operator_request *request);
};

enum {
    OPERATOR_WORDS = 2,
    OPERATOR_TTL_MS = 24 * 3600 * 1000, /* of a job whose policy.ttl nobody knows: upstream's own */
};

typedef void operator_then(struct operator_request *request, const struct store_reply *reply);

/* One request, until it is answered. */
struct operator_request {
    struct operator_api *api;
    struct operator_request *next;
    struct operator_request **previous_link;
    struct evhttp_request *http;
    const struct operator_route *route;
    struct evkeyvalq query;
    struct view words[OPERATOR_WORDS]; /* into http's URL */
    json_t *body;                      /* of a POST: an object */
    struct store_call *call;           /* a question under way */
    operator_then *then;
    struct store_submit submit; /* operator_find_submit()'s find */
    char *submit_memory;
    void (*found)(struct operator_request *request);
    void *state; /* the handler's own, freed by free_state with the request */
    void (*free_state)(void *state);
    uid_t peer_uid;
};

/* Answers with `answer`, whose reference passes over (NULL: out of memory), and ends the request.
 */
void operator_reply(struct operator_request *request, json_t *answer);

/* Answers with an error and ends the request. `code` is a literal word; the text is for a person.
 */
void operator_refuse(struct operator_request *request, int status, const char *code,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Asks the store; `then` runs later with the reply, unless the request ends before. One question at
 * a time. Without memory the request is refused. */
void operator_ask(struct operator_request *request, const struct store_question *question,
                  operator_then *then);

/* True when the store failed: the request has been refused then. */
MUST_CHECK bool operator_refuse_failure(struct operator_request *request,
                                        const struct store_reply *reply);

/* A parameter of the query, decoded; empty when it isn't there. */
struct view operator_query(const struct operator_request *request, const char *name);

/* Takes `team`, `endpoint`, `cursor` and `limit` from the query into a question for a list. False:
 * one was wrong, and the request has been refused. */
MUST_CHECK bool operator_list_question(struct operator_request *request,
                                       struct store_question *question);

/* A text member of the body, or empty; `*wrong` is set when it is something else than a text. */
struct view operator_body_text(const struct operator_request *request, const char *name,
                               bool *wrong);

/* True when the body holds members of these names only (NULL-terminated); else refused. */
MUST_CHECK bool operator_body_only(struct operator_request *request, const char *const *names);

/* Begins the log line of a change: who did it. */
struct log_line *operator_log(const struct operator_request *request, const char *event);

/* ---- operator_json.c ------------------------------------------------------------------------- */

/* Text from the store; what isn't UTF-8 becomes "?". */
json_t *operator_json_text(struct view text);

/* Wall ms as RFC 3339; null for 0. */
json_t *operator_json_time(uint64_t wall_ms);

/* Bytes as hexadecimal digits. */
json_t *operator_json_hex(const unsigned char *bytes, size_t count);

/* Records of the ledger. */
json_t *operator_json_job(const struct store_job *job);
json_t *operator_json_submit(const struct store_submit *submit);

/* The counts of the store. */
json_t *operator_json_counts(const struct store_counts *counts);

/* "run" or "runsync"; "run", "runsync" or "retry". */
const char *operator_kind_text(enum store_kind kind);
const char *operator_submit_text(enum store_submit_operation operation);

/* Reads the name of a fate ("EVICTED"). */
MUST_CHECK bool operator_fate_parse(struct view text, enum store_fate *fate);

/* ---- operator_submits.c ---------------------------------------------------------------------- */

/* Looks for the submit that the request's URL names among the unknown ones, copies it to
 * request->submit and calls `found`; refuses when there is none. */
void operator_find_submit(struct operator_request *request,
                          void (*found)(struct operator_request *request));

/* ---- handlers -------------------------------------------------------------------------------- */

/* See the table in operator.c. Each ends the request, at once or later. */
void operator_list_unknown(struct operator_request *request);
void operator_settle(struct operator_request *request);
void operator_candidates(struct operator_request *request);
void operator_list_jobs(struct operator_request *request);
void operator_get_job(struct operator_request *request);
void operator_adopt_job(struct operator_request *request);
void operator_show_store(struct operator_request *request);

#endif
