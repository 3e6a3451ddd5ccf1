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
    [PROBLEM_PURGE_NEEDS_PURGE_ALL] = {403, "operation_not_allowed",
                                       "Purging removes every team's queued jobs: this key needs "
                                       "the operation purge-all."},
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
                                 "Idempotency-Key is not supported by this version."},
    [PROBLEM_VERSION] = {505, "http_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here."},
    [PROBLEM_BAD_WAIT] = {400, "bad_wait", "wait must be a number of milliseconds, given once."},
    [PROBLEM_BAD_TTL] = {400, "bad_ttl", "ttl must be a number of milliseconds, given once."},
    [PROBLEM_BAD_QUERY] = {400, "bad_query", "The query has bytes that no query may hold."},
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
