/* The grammar of the caller's URLs: a target becomes a struct route, or nothing. Nothing later
 * looks at the raw target.
 *
 *     struct route route;
 *     enum route_result result = route_parse(target, &route);      (origin-form target)
 *     if (result == ROUTE_OK && !route_allows(route.operation, method)) 405, route_allow_text()
 *     ...
 *     route_append_target(&builder, VIEW("/v2"), &route);           (for upstream)
 *
 * /v2/{endpoint}/{operation}[/{job}][?query]: endpoint [A-Za-z0-9_-]{1,64}, job the same up to 128;
 * runs of "/" count as one; percent-encoding, dot segments and ";" in the path are not found.
 * podgate's own: /v2/{endpoint}/jobs, /v2/{endpoint}/jobs/{job} and /podgate/v1/whoami.
 */
#ifndef PODGATE_MODEL_ROUTE_H
#define PODGATE_MODEL_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "format/http_head.h"
#include "model/job.h"

enum {
    ROUTE_ENDPOINT_MAXIMUM = 64,
    ROUTE_JOB_MAXIMUM = 128,
    ROUTE_CURSOR_MAXIMUM = 512,
    ROUTE_LIMIT_MAXIMUM = 1000, /* jobs on one page */
};

enum route_operation {
    ROUTE_RUN,
    ROUTE_RUNSYNC,
    ROUTE_STATUS,
    ROUTE_STATUS_SYNC,
    ROUTE_STREAM,
    ROUTE_CANCEL,
    ROUTE_RETRY,
    ROUTE_PURGE_QUEUE,
    ROUTE_HEALTH,
    ROUTE_REQUESTS,
    ROUTE_BATCH,
    ROUTE_OPENAI,
    ROUTE_JOBS,       /* the team's jobs: podgate's own */
    ROUTE_WHOAMI,     /* /podgate/v1/whoami */
    ROUTE_JOB_DELETE, /* /v2/{endpoint}/jobs/{job} */
    ROUTE_OPERATION_COUNT
};

enum route_result {
    ROUTE_OK,
    ROUTE_NOT_FOUND, /* 404 */
    /* 400: */
    ROUTE_WAIT_BAD, /* not digits */
    ROUTE_WAIT_TWICE,
    ROUTE_TTL_BAD,
    ROUTE_TTL_TWICE,
    ROUTE_QUERY_BAD, /* a byte that no query may hold, or a broken percent-encoding */
    /* Malformed, out of bounds, or given twice: */
    ROUTE_STATE_BAD, /* `status` */
    ROUTE_SINCE_BAD,
    ROUTE_LIMIT_BAD,
    ROUTE_CURSOR_BAD,
    ROUTE_FROM_BAD,
};

/* A target taken apart. The views are into the target. */
struct route {
    enum route_operation operation;
    struct view endpoint; /* empty for ROUTE_WHOAMI */
    struct view job;      /* where the operation has one */
    struct view tail;     /* of openai and batch: what follows the word and its "/"; runs of "/" are
                             still in it, route_append_target() writes one. May be empty (batch) */
    struct view query;    /* raw, without "?": of openai, batch and requests only */
    uint64_t wait_ms;     /* UINT64_MAX when the digits say more than 64 bits */
    uint64_t ttl_ms;      /* the same */
    /* Of the list of jobs: */
    struct view cursor; /* 1 to ROUTE_CURSOR_MAXIMUM of [A-Za-z0-9._~-]; empty: none */
    enum job_state state;
    uint64_t since_ms; /* wall; 0: all */
    uint32_t limit;    /* 1 to ROUTE_LIMIT_MAXIMUM; 0: not said */
    bool has_state;
    /* Of stream: */
    bool has_from;
    uint64_t from; /* the first chunk that is wanted */

    bool has_wait; /* of runsync, status-sync and stream; elsewhere wait is dropped */
    bool has_ttl;  /* of every operation whose query isn't passed on raw */
    bool is_flash; /* the endpoint is the literal "flash": it reaches any endpoint by fields,
                      so that only a key that names it may use it */
};

/* Parses an origin-form target. With another result than ROUTE_OK `route` holds what was recognised
 * so far: the operation and endpoint when `result` is one of the 400 ones. Parameters that podgate
 * doesn't know are dropped; wait and ttl are read even if others are odd. */
MUST_CHECK enum route_result route_parse(struct view target, struct route *route);

/* True when the operation may be called with this method. */
bool route_allows(enum route_operation operation, enum http_method method);

/* The value of the Allow field for a 405, such as "GET, POST". */
struct view route_allow_text(enum route_operation operation);

/* The operation's name as in URLs and logs: "status-sync". */
struct view route_operation_name(enum route_operation operation);

/* True for operations whose URL names a job. */
bool route_has_job(enum route_operation operation);

/* True for operations that upstream doesn't have. */
bool route_is_own(enum route_operation operation);

/* One sentence on a refusal for the caller, without a byte of the target. */
struct view route_detail(enum route_result result);

/* Appends the target for upstream: `base_path` (no "/" at its end, may be empty), endpoint,
 * operation, job or tail, then wait (of operations that take it) and ttl as far as the route has
 * them, or the raw query. To send another operation or wait, change a copy of the route. Not for
 * ROUTE_WHOAMI, ROUTE_JOBS and ROUTE_JOB_DELETE: see route_is_own(). */
void route_append_target(struct builder *builder, struct view base_path, const struct route *route);

/* True for a job id that could be served: 1 to 128 of [A-Za-z0-9_-]. */
MUST_CHECK bool route_job_valid(struct view job);

/* True for an endpoint id: 1 to 64 of [A-Za-z0-9_-]. */
MUST_CHECK bool route_endpoint_valid(struct view endpoint);

#endif
