/* Every error that podgate itself makes, on one screen: its status, its code and its words. The
 * table in problem.c is the only place that knows them.
 */
#ifndef PODGATE_GATEWAY_PROBLEM_H
#define PODGATE_GATEWAY_PROBLEM_H

#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "model/route.h"

enum problem {
    PROBLEM_BAD_REQUEST,
    PROBLEM_UNAUTHORIZED,
    PROBLEM_FORBIDDEN_OPERATION,
    PROBLEM_FORBIDDEN_ENDPOINT,
    PROBLEM_FORBIDDEN_ADDRESS,
    PROBLEM_NOT_FOUND,
    PROBLEM_METHOD_NOT_ALLOWED,
    PROBLEM_REQUEST_TIMEOUT,
    PROBLEM_BODY_TOO_LARGE,
    PROBLEM_TARGET_TOO_LONG,
    PROBLEM_CONTENT_ENCODING,
    PROBLEM_EXPECTATION,
    PROBLEM_FIELDS_TOO_LARGE,
    PROBLEM_RATE_LIMITED,
    PROBLEM_CONCURRENCY_LIMITED,
    PROBLEM_METHOD_UNKNOWN,
    PROBLEM_IDEMPOTENCY_KEY, /* a version without a ledger */
    PROBLEM_BAD_IDEMPOTENCY_KEY,
    PROBLEM_IDEMPOTENCY_MISMATCH,  /* the key was used with another request */
    PROBLEM_IDEMPOTENCY_IN_FLIGHT, /* the key's first request has no outcome yet */
    PROBLEM_VERSION,
    PROBLEM_BAD_WAIT,
    PROBLEM_BAD_TTL,
    PROBLEM_BAD_QUERY,
    PROBLEM_BAD_CURSOR,
    PROBLEM_BAD_LIMIT,
    PROBLEM_BAD_SINCE,
    PROBLEM_BAD_STATUS,
    PROBLEM_BAD_FROM,
    PROBLEM_RANGE,
    PROBLEM_INVALID_JSON,
    PROBLEM_OVERLOADED,
    PROBLEM_UPSTREAM_CREDENTIAL,
    PROBLEM_UPSTREAM_ERROR,    /* a 4xx or 5xx that isn't JSON */
    PROBLEM_UPSTREAM_NOT_JSON, /* a success that isn't JSON */
    PROBLEM_UPSTREAM_REDIRECT,
    PROBLEM_UPSTREAM_UNREACHABLE,
    PROBLEM_UPSTREAM_TLS,
    PROBLEM_UPSTREAM_BROKEN,
    PROBLEM_UPSTREAM_MALFORMED,
    PROBLEM_UPSTREAM_TIMEOUT,
    PROBLEM_UPSTREAM_BUSY,
    PROBLEM_UPSTREAM_UNAVAILABLE, /* the breaker is open */
    PROBLEM_SUBMIT_UNKNOWN,
    PROBLEM_SUBMIT_TIMEOUT,
    PROBLEM_UPSTREAM_MISMATCH, /* the answer names another job, or one that is another's */
    PROBLEM_JOB_NOT_FOUND,     /* unknown and foreign ids alike, byte for byte */
    /* To a job's owner, what became of a result that is gone. */
    PROBLEM_RESULT_LOST,
    PROBLEM_JOB_EXPIRED,
    PROBLEM_RESULT_TOO_LARGE,
    PROBLEM_RESULT_DELETED,
    PROBLEM_RESULT_EVICTED,
    PROBLEM_RETRY_STATE,
    PROBLEM_JOB_NOT_ENDED, /* deleting what isn't there yet */
    PROBLEM_STORE_UNAVAILABLE,
    PROBLEM_CAPACITY, /* more jobs than can be followed to their end */
    PROBLEM_COUNT
};

struct problem_text {
    unsigned status;
    const char *code;
    const char *detail;
};

/* Status, code and sentence of a problem; literals. */
const struct problem_text *problem_text(enum problem problem);

/* The problem that stands for a status which the front decided (a bad head). */
enum problem problem_of_status(unsigned status);

/* The problem that stands for a refusal of the URL grammar; not for ROUTE_OK. */
enum problem problem_of_route(enum route_result result);

/* Appends the JSON body of a problem; an empty `detail` takes the problem's own sentence. `status`
 * 0 takes the problem's own. */
void problem_append_body(struct builder *builder, enum problem problem, unsigned status,
                         struct view detail);

#endif
