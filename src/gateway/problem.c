#include "build_config.h"

#include "gateway/problem.h"

#include "format/http_fields.h"

static const struct problem_text texts[PROBLEM_COUNT] = {
    [PROBLEM_BAD_REQUEST] = {400, "bad_request", "The request is malformed."},
    [PROBLEM_UNAUTHORIZED] = {401, "invalid_key", "The key is missing or not valid."},
    [PROBLEM_FORBIDDEN_OPERATION] = {403, "operation_not_allowed",
                                     "This key may not use this operation."},
    [PROBLEM_FORBIDDEN_ENDPOINT] = {403, "endpoint_not_allowed",
                                    "This key may not use this endpoint."},
    [PROBLEM_FORBIDDEN_ADDRESS] = {403, "address_not_allowed",
                                   "This key may not be used from this address."},
    [PROBLEM_NOT_FOUND] = {404, "not_found", "There is nothing at this path."},
    [PROBLEM_METHOD_NOT_ALLOWED] = {405, "method_not_allowed",
                                    "This method can't be used here; see the Allow field."},
    [PROBLEM_REQUEST_TIMEOUT] = {408, "request_timeout", "The request did not come whole in time."},
    [PROBLEM_BODY_TOO_LARGE] = {413, "body_too_large", "The request body is too large."},
    [PROBLEM_TARGET_TOO_LONG] = {414, "target_too_long", "The request target is too long."},
    [PROBLEM_CONTENT_ENCODING] = {415, "content_encoding",
                                  "Request bodies must not have a content coding."},
    [PROBLEM_EXPECTATION] = {417, "expectation", "Only 100-continue can be expected."},
    [PROBLEM_FIELDS_TOO_LARGE] = {431, "fields_too_large", "The request's fields are too large."},
    [PROBLEM_RATE_LIMITED] = {429, "rate_limited", "This key sends requests too fast."},
    [PROBLEM_CONCURRENCY_LIMITED] = {429, "concurrency_limited",
                                     "This key has too many requests in flight."},
    [PROBLEM_METHOD_UNKNOWN] = {501, "method_unknown", "This method is not implemented."},
    [PROBLEM_IDEMPOTENCY_KEY] = {501, "idempotency_key_unsupported",
                                 "Idempotency-Key is not supported on this endpoint."},
    [PROBLEM_BAD_IDEMPOTENCY_KEY] = {400, "bad_idempotency_key",
                                     "Idempotency-Key must be 1 to 255 visible characters, given "
                                     "once."},
    [PROBLEM_IDEMPOTENCY_MISMATCH] = {422, "idempotency_mismatch",
                                      "This Idempotency-Key was used with another request."},
    [PROBLEM_IDEMPOTENCY_IN_FLIGHT] = {409, "idempotency_in_flight",
                                       "The first request with this Idempotency-Key has no outcome "
                                       "yet; try again soon."},
    [PROBLEM_VERSION] = {505, "http_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here."},
    [PROBLEM_BAD_WAIT] = {400, "bad_wait", "wait must be a number of milliseconds, given once."},
    [PROBLEM_BAD_TTL] = {400, "bad_ttl", "ttl must be a number of milliseconds, given once."},
    [PROBLEM_BAD_QUERY] = {400, "bad_query", "The query has bytes that no query may hold."},
    [PROBLEM_BAD_CURSOR] = {400, "bad_cursor", "cursor must be as an answer before gave it."},
    [PROBLEM_BAD_LIMIT] = {400, "bad_limit", "limit must be a number from 1 to 1000, given once."},
    [PROBLEM_BAD_SINCE] = {400, "bad_since",
                           "since must be a time of RFC 3339 or milliseconds since 1970, given "
                           "once."},
    [PROBLEM_BAD_STATUS] = {400, "bad_status",
                            "status must be one of IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED, "
                            "CANCELLED and TIMED_OUT, given once."},
    [PROBLEM_BAD_FROM] = {400, "bad_from",
                          "from must be the number of a chunk, counted from 0, given once."},
    [PROBLEM_RANGE] = {416, "bad_range", "The range lies outside of the result."},
    [PROBLEM_INVALID_JSON] = {400, "invalid_json", "The body is not valid JSON."},
    [PROBLEM_OVERLOADED] = {503, "overloaded",
                            "podgate is short of memory or descriptors; try again soon."},
    [PROBLEM_UPSTREAM_CREDENTIAL] = {502, "upstream_credential",
                                     "The upstream refused podgate's own key; the operator of "
                                     "podgate must act."},
    [PROBLEM_UPSTREAM_ERROR] = {502, "upstream_error",
                                "The upstream answered with an error that is not JSON."},
    [PROBLEM_UPSTREAM_NOT_JSON] = {502, "upstream_not_json", "The upstream's answer is not JSON."},
    [PROBLEM_UPSTREAM_REDIRECT] = {502, "upstream_redirect",
                                   "The upstream answered with a redirect, which is not followed."},
    [PROBLEM_UPSTREAM_UNREACHABLE] = {502, "upstream_unreachable",
                                      "The upstream can't be reached."},
    [PROBLEM_UPSTREAM_TLS] = {502, "upstream_tls",
                              "The upstream's TLS certificate or handshake failed."},
    [PROBLEM_UPSTREAM_BROKEN] = {502, "upstream_broken", "The upstream's answer broke off."},
    [PROBLEM_UPSTREAM_MALFORMED] = {502, "upstream_malformed",
                                    "The upstream's answer breaks HTTP."},
    [PROBLEM_UPSTREAM_TIMEOUT] = {504, "upstream_timeout", "The upstream did not answer in time."},
    [PROBLEM_UPSTREAM_BUSY] = {503, "upstream_busy",
                               "Too many requests wait for a connection to the upstream."},
    [PROBLEM_UPSTREAM_UNAVAILABLE] = {503, "upstream_unavailable",
                                      "The upstream has been failing; it is asked again soon."},
    [PROBLEM_SUBMIT_UNKNOWN] = {502, "submit_unknown",
                                "The connection to the upstream broke after the whole request was "
                                "sent: the job may or may not have been accepted."},
    [PROBLEM_SUBMIT_TIMEOUT] = {504, "submit_unknown",
                                "The upstream did not answer in time: the job may or may not have "
                                "been accepted."},
    [PROBLEM_UPSTREAM_MISMATCH] = {502, "upstream_mismatch",
                                   "The upstream's answer names another job."},
    [PROBLEM_JOB_NOT_FOUND] = {404, "job_not_found", "There is no such job."},
    [PROBLEM_RESULT_LOST] = {404, "result_lost",
                             "The upstream no longer knows this job, and its result was never "
                             "seen."},
    [PROBLEM_JOB_EXPIRED] = {404, "job_expired",
                             "The job ended; the time for which it was to be kept has passed."},
    [PROBLEM_RESULT_TOO_LARGE] = {404, "result_too_large",
                                  "The job ended; its result was too large to be kept, and the "
                                  "upstream no longer has it."},
    [PROBLEM_RESULT_DELETED] = {404, "result_deleted", "The job ended; its result was deleted."},
    [PROBLEM_RESULT_EVICTED] = {404, "result_evicted",
                                "The job ended; its result made room for newer ones."},
    [PROBLEM_RETRY_STATE] = {400, "retry_wrong_state",
                             "Only a job that is FAILED or TIMED_OUT can be retried."},
    [PROBLEM_JOB_NOT_ENDED] = {409, "job_not_ended", "The job has not ended: it has no result."},
    [PROBLEM_STORE_UNAVAILABLE] = {503, "store_unavailable",
                                   "podgate's store can't be used now; try again soon."},
    [PROBLEM_CAPACITY] = {503, "capacity",
                          "This endpoint has too many outstanding jobs; try again later."},
};

const struct problem_text *problem_text(enum problem problem)
{
    return &texts[problem];
}

enum problem problem_of_status(unsigned status)
{
    switch (status) {
    case 408: return PROBLEM_REQUEST_TIMEOUT;
    case 413: return PROBLEM_BODY_TOO_LARGE;
    case 414: return PROBLEM_TARGET_TOO_LONG;
    case 415: return PROBLEM_CONTENT_ENCODING;
    case 417: return PROBLEM_EXPECTATION;
    case 431: return PROBLEM_FIELDS_TOO_LARGE;
    case 501: return PROBLEM_METHOD_UNKNOWN;
    case 505: return PROBLEM_VERSION;
    default: return PROBLEM_BAD_REQUEST;
    }
}

enum problem problem_of_route(enum route_result result)
{
    switch (result) {
    case ROUTE_OK:
    case ROUTE_QUERY_BAD: return PROBLEM_BAD_QUERY;
    case ROUTE_NOT_FOUND: return PROBLEM_NOT_FOUND;
    case ROUTE_WAIT_BAD:
    case ROUTE_WAIT_TWICE: return PROBLEM_BAD_WAIT;
    case ROUTE_TTL_BAD:
    case ROUTE_TTL_TWICE: return PROBLEM_BAD_TTL;
    case ROUTE_STATE_BAD: return PROBLEM_BAD_STATUS;
    case ROUTE_SINCE_BAD: return PROBLEM_BAD_SINCE;
    case ROUTE_LIMIT_BAD: return PROBLEM_BAD_LIMIT;
    case ROUTE_CURSOR_BAD: return PROBLEM_BAD_CURSOR;
    case ROUTE_FROM_BAD: return PROBLEM_BAD_FROM;
    }
    return PROBLEM_BAD_QUERY;
}

void problem_append_body(struct builder *builder, enum problem problem, unsigned status,
                         struct view detail)
{
    const struct problem_text *text = &texts[problem];
    struct http_problem body = {
        .detail = detail.length > 0 ? detail : view_of_string(text->detail),
        .code = view_of_string(text->code),
        .status = status != 0 ? status : text->status,
    };

    http_problem_append(builder, &body);
}
