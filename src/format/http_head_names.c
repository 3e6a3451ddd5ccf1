#include "build_config.h"

#include "format/http_head.h"

/* One row per 16 bytes, each the sum of its HTTP_BYTE_... classes; tests/unit/test_http_head.c
 * derives the table again from the classes' definitions. */
const uint8_t http_byte_classes[256] = {
      0,   0,   0,   0,   0,   0,   0,   0,   0,   4,   0,   0,   0,   0,   0,   0,
      0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,
      4,   7,   4,   5,   7,   7,   7,   7,   6,   6,   7,   7,   6, 231, 199,   6,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 134,   6,   4,   6,   4,   6,
    134, 247, 247, 247, 247, 247, 247, 231, 231, 231, 231, 231, 231, 231, 231, 231,
    231, 231, 231, 231, 231, 231, 231, 231, 231, 231, 231,   6,   4,   6,   5, 231,
      5, 247, 247, 247, 247, 247, 247, 231, 231, 231, 231, 231, 231, 231, 231, 231,
    231, 231, 231, 231, 231, 231, 231, 231, 231, 231, 231,   4,   5,   4, 135,   0,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
      4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,   4,
};

bool http_bytes_are(struct view view, unsigned mask)
{
    for (size_t i = 0; i < view.length; i++) {
        if (!http_byte_is(view.data[i], mask)) {
            return false;
        }
    }
    return true;
}

/* ---- names ----------------------------------------------------------------------------------- */

/* Compares a token with a lower-case name of the same length. Setting bit 0x20 folds letters,
 * leaves digits and hyphens alone, and maps no other token byte onto one of these. */
static inline bool folds_to(const char *name, const char *lower_case, size_t length)
{
    const uint64_t bits = UINT64_C(0x2020202020202020);
    uint64_t left;
    uint64_t right;
    if (length < 8) {
        for (size_t i = 0; i < length; i++) {
            if ((name[i] | 0x20) != lower_case[i]) {
                return false;
            }
        }
        return true;
    }
    for (size_t i = 0; i + 8 < length; i += 8) {
        memcpy(&left, name + i, 8);
        memcpy(&right, lower_case + i, 8);
        if ((left | bits) != right) {
            return false;
        }
    }
    memcpy(&left, name + length - 8, 8);
    memcpy(&right, lower_case + length - 8, 8);
    return (left | bits) == right;
}

static enum http_field_id identify_family(struct view name)
{
    static const struct {
        struct view beginning;
        enum http_field_id id;
    } families[] = {
        {VIEW_INIT("openai-"), HTTP_FIELD_ANY_OPENAI},
        {VIEW_INIT("x-ratelimit-"), HTTP_FIELD_ANY_X_RATELIMIT},
        {VIEW_INIT("x-stainless-"), HTTP_FIELD_ANY_X_STAINLESS},
        {VIEW_INIT("podgate-"), HTTP_FIELD_ANY_PODGATE},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(families); i++) {
        struct view beginning = families[i].beginning;
        if (name.length > beginning.length && (name.data[0] | 0x20) == beginning.data[0] &&
            folds_to(name.data, beginning.data, beginning.length)) {
            return families[i].id;
        }
    }
    return HTTP_FIELD_OTHER;
}

#define TRY(lower_case, identifier) \
    if (folds_to(name.data, lower_case, sizeof(lower_case) - 1)) { \
        return HTTP_FIELD_##identifier; \
    }

/* One comparison a line, so that the length alone leaves few of them.
 * NOLINTNEXTLINE(readability-function-cognitive-complexity) */
enum http_field_id http_field_identify(struct view name)
{
    switch (name.length) {
    case 2:
        TRY("te", TE);
        break;
    case 3:
        TRY("age", AGE);
        TRY("via", VIA);
        break;
    case 4:
        TRY("date", DATE);
        TRY("etag", ETAG);
        TRY("host", HOST);
        TRY("vary", VARY);
        break;
    case 5:
        TRY("allow", ALLOW);
        TRY("range", RANGE);
        break;
    case 6:
        TRY("accept", ACCEPT);
        TRY("cookie", COOKIE);
        TRY("expect", EXPECT);
        TRY("origin", ORIGIN);
        TRY("server", SERVER);
        break;
    case 7:
        TRY("baggage", BAGGAGE);
        TRY("expires", EXPIRES);
        TRY("referer", REFERER);
        TRY("trailer", TRAILER);
        TRY("upgrade", UPGRADE);
        break;
    case 8:
        TRY("if-match", IF_MATCH);
        TRY("if-range", IF_RANGE);
        TRY("location", LOCATION);
        break;
    case 9:
        TRY("forwarded", FORWARDED);
        break;
    case 10:
        TRY("connection", CONNECTION);
        TRY("keep-alive", KEEP_ALIVE);
        TRY("set-cookie", SET_COOKIE);
        TRY("tracestate", TRACESTATE);
        TRY("user-agent", USER_AGENT);
        break;
    case 11:
        TRY("retry-after", RETRY_AFTER);
        TRY("traceparent", TRACEPARENT);
        TRY("x-flash-app", X_FLASH_APP);
        break;
    case 12:
        TRY("content-type", CONTENT_TYPE);
        TRY("x-request-id", X_REQUEST_ID);
        break;
    case 13:
        TRY("authorization", AUTHORIZATION);
        TRY("cache-control", CACHE_CONTROL);
        TRY("if-none-match", IF_NONE_MATCH);
        TRY("last-event-id", LAST_EVENT_ID);
        TRY("last-modified", LAST_MODIFIED);
        TRY("server-timing", SERVER_TIMING);
        break;
    case 14:
        TRY("anthropic-beta", ANTHROPIC_BETA);
        TRY("content-length", CONTENT_LENGTH);
        break;
    case 15:
        TRY("accept-encoding", ACCEPT_ENCODING);
        TRY("accept-language", ACCEPT_LANGUAGE);
        TRY("idempotency-key", IDEMPOTENCY_KEY);
        TRY("x-forwarded-for", X_FORWARDED_FOR);
        break;
    case 16:
        TRY("content-encoding", CONTENT_ENCODING);
        TRY("content-language", CONTENT_LANGUAGE);
        TRY("proxy-connection", PROXY_CONNECTION);
        TRY("www-authenticate", WWW_AUTHENTICATE);
        TRY("x-flash-endpoint", X_FLASH_ENDPOINT);
        break;
    case 17:
        TRY("anthropic-version", ANTHROPIC_VERSION);
        TRY("if-modified-since", IF_MODIFIED_SINCE);
        TRY("transfer-encoding", TRANSFER_ENCODING);
        TRY("x-accel-buffering", X_ACCEL_BUFFERING);
        break;
    case 18:
        TRY("proxy-authenticate", PROXY_AUTHENTICATE);
        break;
    case 19:
        TRY("content-disposition", CONTENT_DISPOSITION);
        TRY("proxy-authorization", PROXY_AUTHORIZATION);
        TRY("x-flash-environment", X_FLASH_ENVIRONMENT);
        break;
    default:
        break;
    }
    return identify_family(name);
}

#undef TRY

struct view http_field_spelling(enum http_field_id id)
{
    static const struct view spellings[HTTP_FIELD_COUNT] = {
#define HTTP_FIELD_SPELLING(identifier, name) [HTTP_FIELD_##identifier] = VIEW_INIT(name),
        HTTP_FIELD_NAMES(HTTP_FIELD_SPELLING)
#undef HTTP_FIELD_SPELLING
    };
    return spellings[id];
}

static const struct view method_names[] = {
    [HTTP_METHOD_UNKNOWN] = VIEW_INIT(""),
    [HTTP_METHOD_GET] = VIEW_INIT("GET"),
    [HTTP_METHOD_HEAD] = VIEW_INIT("HEAD"),
    [HTTP_METHOD_POST] = VIEW_INIT("POST"),
    [HTTP_METHOD_PUT] = VIEW_INIT("PUT"),
    [HTTP_METHOD_DELETE] = VIEW_INIT("DELETE"),
    [HTTP_METHOD_OPTIONS] = VIEW_INIT("OPTIONS"),
    [HTTP_METHOD_PATCH] = VIEW_INIT("PATCH"),
    [HTTP_METHOD_CONNECT] = VIEW_INIT("CONNECT"),
    [HTTP_METHOD_TRACE] = VIEW_INIT("TRACE"),
};

enum http_method http_method_identify(struct view name)
{
    if (view_equal(name, VIEW("POST"))) {
        return HTTP_METHOD_POST;
    }
    for (unsigned i = HTTP_METHOD_GET; i < ARRAY_LENGTH(method_names); i++) {
        if (view_equal(name, method_names[i])) {
            return (enum http_method)i;
        }
    }
    return HTTP_METHOD_UNKNOWN;
}

struct view http_method_spelling(enum http_method method)
{
    return method_names[method];
}

/* ---- hosts ----------------------------------------------------------------------------------- */

static bool port_valid(struct view port)
{
    uint64_t number;
    return port.length == 0 || (port.length <= 5 && view_parse_u64(port, 65535, &number));
}

bool http_authority_valid(struct view value)
{
    size_t host_length = 0;
    if (value.length > 0 && value.data[0] == '[') {
        size_t close = view_find_byte(value, ']');
        if (close < 3 || close >= value.length) {
            return false;
        }
        for (size_t i = 1; i < close; i++) {
            if (!http_byte_is(value.data[i], HTTP_BYTE_HEX) && value.data[i] != ':' &&
                value.data[i] != '.') {
                return false;
            }
        }
        host_length = close + 1;
    } else {
        while (host_length < value.length &&
               http_byte_is(value.data[host_length], HTTP_BYTE_HOST)) {
            host_length++;
        }
    }
    if (host_length == 0 || host_length == value.length) {
        return host_length > 0;
    }
    return value.data[host_length] == ':' && port_valid(view_skip(value, host_length + 1));
}

bool http_target_split_absolute(struct view target, bool *secure, struct view *authority,
                                struct view *origin)
{
    if (view_starts_with_ignore_case(target, VIEW("http://"))) {
        *secure = false;
        target = view_skip(target, 7);
    } else if (view_starts_with_ignore_case(target, VIEW("https://"))) {
        *secure = true;
        target = view_skip(target, 8);
    } else {
        return false;
    }
    size_t length = 0;
    while (length < target.length && target.data[length] != '/' && target.data[length] != '?') {
        length++;
    }
    *authority = view_first(target, length);
    *origin = length < target.length ? view_skip(target, length) : VIEW("/");
    return http_authority_valid(*authority) && origin->data[0] == '/';
}

/* ---- what is said about faults --------------------------------------------------------------- */

static const struct {
    unsigned status;
    struct view name;
    struct view detail;
} verdicts[HTTP_HEAD_RESULT_COUNT] = {
    [HTTP_HEAD_OK] = {200, VIEW_INIT("ok"), VIEW_INIT("The head is well-formed.")},
    [HTTP_HEAD_INCOMPLETE] = {400, VIEW_INIT("incomplete"),
                              VIEW_INIT("The head ended before its final empty line.")},
    [HTTP_HEAD_BARE_LF] = {400, VIEW_INIT("bare_lf"),
                           VIEW_INIT("A line of the head ends with LF instead of CR LF.")},
    [HTTP_HEAD_BARE_CR] = {400, VIEW_INIT("bare_cr"),
                           VIEW_INIT("The head has a CR that no LF follows.")},
    [HTTP_HEAD_CONTROL_BYTE] = {400, VIEW_INIT("control_byte"),
                                VIEW_INIT("A field value has a control character.")},
    [HTTP_HEAD_OBS_FOLD] = {400, VIEW_INIT("obs_fold"),
                            VIEW_INIT("A line of the head begins with white space.")},
    [HTTP_HEAD_NO_COLON] = {400, VIEW_INIT("no_colon"), VIEW_INIT("A field line has no colon.")},
    [HTTP_HEAD_SPACE_BEFORE_COLON] = {400, VIEW_INIT("space_before_colon"),
                                      VIEW_INIT("A field name has white space in or behind it.")},
    [HTTP_HEAD_BAD_NAME] = {400, VIEW_INIT("bad_name"),
                            VIEW_INIT("A field name is empty or has a forbidden character.")},
    [HTTP_HEAD_TOO_LARGE] = {431, VIEW_INIT("head_too_large"),
                             VIEW_INIT("Request line and fields together are too large; 32 KiB "
                                       "are allowed.")},
    [HTTP_HEAD_TOO_MANY_FIELDS] = {431, VIEW_INIT("too_many_fields"),
                                   VIEW_INIT("There are too many fields; 100 are allowed.")},
    [HTTP_HEAD_LENGTH_BAD] = {400, VIEW_INIT("length_bad"),
                              VIEW_INIT("Content-Length is not one number below 2^63.")},
    [HTTP_HEAD_LENGTH_TWICE] = {400, VIEW_INIT("length_twice"),
                                VIEW_INIT("Content-Length occurs more than once.")},
    [HTTP_HEAD_TRANSFER_BAD] = {400, VIEW_INIT("transfer_bad"),
                                VIEW_INIT("Transfer-Encoding is malformed, or chunked is not its "
                                          "last coding.")},
    [HTTP_HEAD_TRANSFER_AND_LENGTH] = {400, VIEW_INIT("transfer_and_length"),
                                       VIEW_INIT("Transfer-Encoding and Content-Length are both "
                                                 "present.")},
    [HTTP_HEAD_TRANSFER_IN_1_0] = {400, VIEW_INIT("transfer_in_1_0"),
                                   VIEW_INIT("Transfer-Encoding is present in an HTTP/1.0 "
                                             "message.")},
    [HTTP_HEAD_TRANSFER_UNKNOWN] = {501, VIEW_INIT("transfer_unknown"),
                                    VIEW_INIT("Of the transfer codings only chunked is "
                                              "supported.")},
    [HTTP_HEAD_BAD_REQUEST_LINE] = {400, VIEW_INIT("bad_request_line"),
                                    VIEW_INIT("The request line is malformed.")},
    [HTTP_HEAD_METHOD_TOO_LONG] = {501, VIEW_INIT("method_too_long"),
                                   VIEW_INIT("The method is not known.")},
    [HTTP_HEAD_BAD_TARGET] = {400, VIEW_INIT("bad_target"),
                              VIEW_INIT("The request target has a forbidden form or character.")},
    [HTTP_HEAD_TARGET_TOO_LONG] = {414, VIEW_INIT("target_too_long"),
                                   VIEW_INIT("The request target is too long; 8 KiB are "
                                             "allowed.")},
    [HTTP_HEAD_VERSION] = {505, VIEW_INIT("version"), VIEW_INIT("Only HTTP/1.1 and HTTP/1.0 are "
                                                                "supported.")},
    [HTTP_HEAD_HOST_MISSING] = {400, VIEW_INIT("host_missing"), VIEW_INIT("Host is missing.")},
    [HTTP_HEAD_HOST_TWICE] = {400, VIEW_INIT("host_twice"),
                              VIEW_INIT("Host occurs more than once.")},
    [HTTP_HEAD_HOST_BAD] = {400, VIEW_INIT("host_bad"),
                            VIEW_INIT("Host is not a host with an optional port.")},
    [HTTP_HEAD_AUTHORIZATION_TWICE] = {400, VIEW_INIT("authorization_twice"),
                                       VIEW_INIT("Authorization occurs more than once.")},
    [HTTP_HEAD_IDEMPOTENCY_KEY_TWICE] = {400, VIEW_INIT("idempotency_key_twice"),
                                         VIEW_INIT("Idempotency-Key occurs more than once.")},
    [HTTP_HEAD_METHOD_UNKNOWN] = {501, VIEW_INIT("method_unknown"),
                                  VIEW_INIT("The method is not known.")},
    [HTTP_HEAD_EXPECTATION] = {417, VIEW_INIT("expectation"),
                               VIEW_INIT("Expect is something else than 100-continue.")},
    [HTTP_HEAD_ENCODED] = {415, VIEW_INIT("encoded"),
                           VIEW_INIT("The body has a content coding; send it without.")},
    [HTTP_HEAD_BAD_STATUS_LINE] = {502, VIEW_INIT("bad_status_line"),
                                   VIEW_INIT("The status line is malformed.")},
    [HTTP_HEAD_BODY_FORBIDDEN] = {502, VIEW_INIT("body_forbidden"),
                                  VIEW_INIT("A response that has no body announces one.")},
};

unsigned http_head_status(enum http_head_result result)
{
    return verdicts[result].status;
}

struct view http_head_detail(enum http_head_result result)
{
    return verdicts[result].detail;
}

struct view http_head_name(enum http_head_result result)
{
    return verdicts[result].name;
}
