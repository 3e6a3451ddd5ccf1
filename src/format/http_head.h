/* Strict HTTP/1.1 heads (RFC 9110, RFC 9112): of requests from callers and of responses from
 * upstream, with the framing of the body that follows.
 *
 * The parser is one left-to-right automaton that goes on where it stopped: each byte is looked at
 * once however the input was cut, and every cut gives the same verdict. A fault is reported as soon
 * as its byte is there, also in a head that never ends. Nothing is copied or allocated: fields are
 * 16-bit offsets into the caller's buffer.
 *
 *     struct http_request_head request;           (kept in the connection: 1.2 KB)
 *     http_request_begin(&request);
 *     for (;;) {
 *         read more into buffer, length
 *         switch (http_request_parse(&request, buffer, length)) {
 *         case HTTP_HEAD_OK:          buffer[request.head.length] is the first byte of the body
 *         case HTTP_HEAD_INCOMPLETE:  continue; (the buffer may move; keep its first bytes)
 *         else:                       http_head_status(result), http_head_detail(result), close
 *         }
 *     }
 *     if (request.objection != HTTP_HEAD_OK) { answer that, the connection can go on }
 *     struct view host = http_head_value(&request.head, HTTP_FIELD_HOST); */
#ifndef PODGATE_FORMAT_HTTP_HEAD_H
#define PODGATE_FORMAT_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum {
    HTTP_REQUEST_HEAD_MAXIMUM = 32 * 1024,  /* bytes, request line and final empty line included */
    HTTP_RESPONSE_HEAD_MAXIMUM = 64 * 1024, /* offsets have 16 bits: never more than this */
    HTTP_TARGET_MAXIMUM = 8 * 1024,
    HTTP_METHOD_MAXIMUM = 32,
    HTTP_FIELDS_MAXIMUM = 100,
};

enum http_method {
    HTTP_METHOD_UNKNOWN,
    HTTP_METHOD_GET,
    HTTP_METHOD_HEAD,
    HTTP_METHOD_POST,
    HTTP_METHOD_PUT,
    HTTP_METHOD_DELETE,
    HTTP_METHOD_OPTIONS,
    HTTP_METHOD_PATCH,
    HTTP_METHOD_CONNECT,
    HTTP_METHOD_TRACE,
};

/* The field names that podgate knows: X(identifier, canonical name). The last four stand for every
 * name that begins so and isn't listed itself. */
#define HTTP_FIELD_NAMES(X) \
    X(ACCEPT, "Accept") \
    X(ACCEPT_ENCODING, "Accept-Encoding") \
    X(ACCEPT_LANGUAGE, "Accept-Language") \
    X(AGE, "Age") \
    X(ALLOW, "Allow") \
    X(ANTHROPIC_BETA, "Anthropic-Beta") \
    X(ANTHROPIC_VERSION, "Anthropic-Version") \
    X(AUTHORIZATION, "Authorization") \
    X(BAGGAGE, "Baggage") \
    X(CACHE_CONTROL, "Cache-Control") \
    X(CONNECTION, "Connection") \
    X(CONTENT_DISPOSITION, "Content-Disposition") \
    X(CONTENT_ENCODING, "Content-Encoding") \
    X(CONTENT_LANGUAGE, "Content-Language") \
    X(CONTENT_LENGTH, "Content-Length") \
    X(CONTENT_TYPE, "Content-Type") \
    X(COOKIE, "Cookie") \
    X(DATE, "Date") \
    X(ETAG, "ETag") \
    X(EXPECT, "Expect") \
    X(EXPIRES, "Expires") \
    X(FORWARDED, "Forwarded") \
    X(HOST, "Host") \
    X(IDEMPOTENCY_KEY, "Idempotency-Key") \
    X(IF_MATCH, "If-Match") \
    X(IF_MODIFIED_SINCE, "If-Modified-Since") \
    X(IF_NONE_MATCH, "If-None-Match") \
    X(IF_RANGE, "If-Range") \
    X(KEEP_ALIVE, "Keep-Alive") \
    X(LAST_EVENT_ID, "Last-Event-ID") \
    X(LAST_MODIFIED, "Last-Modified") \
    X(LOCATION, "Location") \
    X(ORIGIN, "Origin") \
    X(PROXY_AUTHENTICATE, "Proxy-Authenticate") \
    X(PROXY_AUTHORIZATION, "Proxy-Authorization") \
    X(PROXY_CONNECTION, "Proxy-Connection") \
    X(RANGE, "Range") \
    X(REFERER, "Referer") \
    X(RETRY_AFTER, "Retry-After") \
    X(SERVER, "Server") \
    X(SERVER_TIMING, "Server-Timing") \
    X(SET_COOKIE, "Set-Cookie") \
    X(TE, "TE") \
    X(TRACEPARENT, "traceparent") \
    X(TRACESTATE, "tracestate") \
    X(TRAILER, "Trailer") \
    X(TRANSFER_ENCODING, "Transfer-Encoding") \
    X(UPGRADE, "Upgrade") \
    X(USER_AGENT, "User-Agent") \
    X(VARY, "Vary") \
    X(VIA, "Via") \
    X(WWW_AUTHENTICATE, "WWW-Authenticate") \
    X(X_ACCEL_BUFFERING, "X-Accel-Buffering") \
    X(X_FLASH_APP, "X-Flash-App") \
    X(X_FLASH_ENDPOINT, "X-Flash-Endpoint") \
    X(X_FLASH_ENVIRONMENT, "X-Flash-Environment") \
    X(X_FORWARDED_FOR, "X-Forwarded-For") \
    X(X_REQUEST_ID, "X-Request-Id") \
    X(ANY_OPENAI, "OpenAI-") \
    X(ANY_X_RATELIMIT, "X-RateLimit-") \
    X(ANY_X_STAINLESS, "X-Stainless-") \
    X(ANY_PODGATE, "Podgate-")

enum http_field_id {
    HTTP_FIELD_OTHER, /* a name that isn't in the list */
#define HTTP_FIELD_ENUMERATOR(identifier, name) HTTP_FIELD_##identifier,
    HTTP_FIELD_NAMES(HTTP_FIELD_ENUMERATOR)
#undef HTTP_FIELD_ENUMERATOR
    HTTP_FIELD_COUNT
};

/* One field line. Offsets are from the first byte given to the parser. */
struct http_field {
    uint16_t name_offset;
    uint16_t name_length;
    uint16_t value_offset; /* without the white space around it; may be empty */
    uint16_t value_length;
    uint8_t id; /* enum http_field_id */
    bool hop;   /* named by a Connection field: never forwarded (RFC 9110 section 7.6.1) */
};

/* How a body ends. HTTP_BODY_CLOSE exists for responses only: by the connection's end. */
enum http_body_framing { HTTP_BODY_NONE, HTTP_BODY_LENGTH, HTTP_BODY_CHUNKED, HTTP_BODY_CLOSE };

/* The verdict on a head. What follows HTTP_HEAD_INCOMPLETE ends the connection, but for the last
 * three of the requests: those are objections, found in a head that is otherwise right. */
enum http_head_result {
    HTTP_HEAD_OK,
    HTTP_HEAD_INCOMPLETE,
    /* of both kinds of head */
    HTTP_HEAD_BARE_LF,
    HTTP_HEAD_BARE_CR,
    HTTP_HEAD_CONTROL_BYTE, /* NUL or another control in a value */
    HTTP_HEAD_OBS_FOLD,
    HTTP_HEAD_NO_COLON,
    HTTP_HEAD_SPACE_BEFORE_COLON,
    HTTP_HEAD_BAD_NAME,
    HTTP_HEAD_TOO_LARGE,
    HTTP_HEAD_TOO_MANY_FIELDS,
    HTTP_HEAD_LENGTH_BAD,   /* list, sign, empty, 2^63 or more */
    HTTP_HEAD_LENGTH_TWICE, /* also when both say the same */
    HTTP_HEAD_TRANSFER_BAD, /* bad syntax, chunked twice or not last */
    HTTP_HEAD_TRANSFER_AND_LENGTH,
    HTTP_HEAD_TRANSFER_IN_1_0,
    HTTP_HEAD_TRANSFER_UNKNOWN, /* another coding than chunked */
    /* of requests */
    HTTP_HEAD_BAD_REQUEST_LINE,
    HTTP_HEAD_METHOD_TOO_LONG,
    HTTP_HEAD_BAD_TARGET,
    HTTP_HEAD_TARGET_TOO_LONG,
    HTTP_HEAD_VERSION, /* well-formed, but not HTTP/1.x */
    HTTP_HEAD_HOST_MISSING,
    HTTP_HEAD_HOST_TWICE,
    HTTP_HEAD_HOST_BAD,
    HTTP_HEAD_AUTHORIZATION_TWICE,
    HTTP_HEAD_IDEMPOTENCY_KEY_TWICE,
    HTTP_HEAD_METHOD_UNKNOWN, /* objection, 501; CONNECT and TRACE too */
    HTTP_HEAD_EXPECTATION,    /* objection, 417: Expect is something else than 100-continue */
    HTTP_HEAD_ENCODED,        /* objection: Content-Encoding isn't identity; 415 */
    /* of responses */
    HTTP_HEAD_BAD_STATUS_LINE,
    HTTP_HEAD_BODY_FORBIDDEN, /* 1xx or 204 that announces a body */
    HTTP_HEAD_RESULT_COUNT
};

/* What both kinds of head have. Read it with the functions below. */
struct http_head {
    const char *data;  /* the buffer of the last parse call; set it anew when the bytes move */
    uint32_t length;   /* with HTTP_HEAD_OK: bytes of the head, its final empty line included */
    uint8_t minor;     /* 0 or 1; a higher minor version counts as 1 (RFC 9110 section 2.5) */
    uint8_t framing;   /* enum http_body_framing */
    bool keep_alive;   /* what the sender permits: version, close, keep-alive */
    uint8_t field_count;
    uint64_t content_length; /* with HTTP_BODY_LENGTH, else 0; in answers to HEAD as announced */
    /* Index of the first field with that id, plus 1; 0: there is none. */
    uint8_t first[HTTP_FIELD_COUNT];
    /* The parser's own. */
    uint8_t phase;
    uint8_t name_id;
    bool length_seen;
    bool transfer_seen;
    bool transfer_chunked;
    bool transfer_other;
    bool close_seen;
    bool keep_alive_seen;
    bool names_hops;
    uint32_t position;
    uint32_t mark;
    uint32_t colon;
    struct http_field fields[HTTP_FIELDS_MAXIMUM]; /* the first `field_count` are set */
};

enum http_target_form { HTTP_TARGET_ORIGIN, HTTP_TARGET_ABSOLUTE, HTTP_TARGET_ASTERISK,
                        HTTP_TARGET_AUTHORITY };

struct http_request_head {
    uint8_t method;      /* enum http_method */
    uint8_t target_form; /* enum http_target_form */
    uint8_t objection;   /* enum http_head_result: HTTP_HEAD_OK, or what to answer with */
    bool expects_continue;
    uint16_t method_offset;
    uint16_t method_length;
    uint16_t target_offset;
    uint16_t target_length;
    struct http_head head;
};

struct http_response_head {
    uint16_t status;      /* 100 to 599 */
    uint8_t objection;    /* HTTP_HEAD_OK or HTTP_HEAD_ENCODED: nobody asked for a coding */
    bool answers_head;    /* the request was HEAD: no body whatever is announced */
    bool answers_connect; /* the request was CONNECT: what follows a 2xx is the tunnel */
    struct http_head head;
};

/* Makes `request` ready for the first byte of a request. Touches no field slots. */
void http_request_begin(struct http_request_head *request);

/* Goes on with `length` bytes at `data`: the same as in the last call, and more behind. One empty
 * line (CRLF) before the request line is skipped, and counts into `head.length`. Limits are those
 * above. After HTTP_HEAD_OK or a fault only http_request_begin() may follow. */
MUST_CHECK enum http_head_result http_request_parse(struct http_request_head *request,
                                                    const char *data, size_t length);

/* Makes `response` ready for the first byte of a response to a request with this method. */
void http_response_begin(struct http_response_head *response, enum http_method request_method);

/* As http_request_parse(). 1xx responses come back as HTTP_HEAD_OK too, framing HTTP_BODY_NONE: the
 * caller begins anew behind them. Framing is RFC 9112 section 6.3: 1xx, 204, 304 and answers to
 * HEAD have no body, nor has a 2xx to CONNECT; without Content-Length and Transfer-Encoding it ends
 * with the connection. */
MUST_CHECK enum http_head_result http_response_parse(struct http_response_head *response,
                                                     const char *data, size_t length);

/* The status code of the answer to a request whose head had this fault or objection: 400, 414, 415,
 * 417, 431, 501 or 505 (of a response it is always 502 for the caller). For HTTP_HEAD_OK: 200. */
unsigned http_head_status(enum http_head_result result);

/* One sentence for the caller, without a byte of what was sent. */
struct view http_head_detail(enum http_head_result result);

/* A word for logs and counters, such as "bare_lf". */
struct view http_head_name(enum http_head_result result);

/* The method's bytes; also of one that podgate doesn't know. */
static inline struct view http_request_method(const struct http_request_head *request)
{
    return view_make(request->head.data + request->method_offset, request->method_length);
}

/* The target's bytes as sent, in the form that `target_form` says. */
static inline struct view http_request_target(const struct http_request_head *request)
{
    return view_make(request->head.data + request->target_offset, request->target_length);
}

/* Name and value of the field with index `index` below `head->field_count`. */
static inline struct view http_head_field_name(const struct http_head *head, unsigned index)
{
    return view_make(head->data + head->fields[index].name_offset,
                     head->fields[index].name_length);
}
static inline struct view http_head_field_value(const struct http_head *head, unsigned index)
{
    return view_make(head->data + head->fields[index].value_offset,
                     head->fields[index].value_length);
}

/* True when the head has at least one field with this id. */
static inline bool http_head_has(const struct http_head *head, enum http_field_id id)
{
    return head->first[id] != 0;
}

/* The value of the first field with this id, an empty view (data NULL) when there is none. */
static inline struct view http_head_value(const struct http_head *head, enum http_field_id id)
{
    return head->first[id] != 0 ? http_head_field_value(head, head->first[id] - 1u)
                                : view_make(NULL, 0);
}

/* The id of a field name in any case; HTTP_FIELD_OTHER for one that isn't known. `name` must be a
 * token. */
enum http_field_id http_field_identify(struct view name);

/* The canonical spelling of a known name (of the HTTP_FIELD_ANY_... ids: the beginning). */
struct view http_field_spelling(enum http_field_id id);

/* True when `value` is a host with an optional port, as in Host and in a URI's authority: a name or
 * IPv4 address of [A-Za-z0-9._-], or an IPv6 address in brackets; port 0 to 65535, maybe empty. No
 * userinfo, no percent-encoding. */
MUST_CHECK bool http_authority_valid(struct view value);

/* Takes an absolute-form target (RFC 9112 section 3.2.2) apart: `authority` is host and port,
 * `origin` the origin-form target that is left ("/" when the path is empty), `secure` whether the
 * scheme is https. False when it isn't http(s), the authority isn't valid, or a query follows the
 * authority without a path. The views are into `target` (or static). */
MUST_CHECK bool http_target_split_absolute(struct view target, bool *secure,
                                           struct view *authority, struct view *origin);

/* The method's number, HTTP_METHOD_UNKNOWN for others. Methods are case-sensitive. */
enum http_method http_method_identify(struct view name);

/* The method's name, "" for HTTP_METHOD_UNKNOWN. */
struct view http_method_spelling(enum http_method method);

/* Classes of bytes, shared by the parsers of this layer. */
enum {
    HTTP_BYTE_TOKEN = 1,  /* tchar, RFC 9110 section 5.6.2 */
    HTTP_BYTE_TARGET = 2, /* what a target may hold, RFC 3986: no quotes, braces, #, 8-bit bytes */
    HTTP_BYTE_VALUE = 4,  /* what a field value may hold: SP, HT, visible, obs-text */
    HTTP_BYTE_DIGIT = 8,
    HTTP_BYTE_HEX = 16,
    HTTP_BYTE_NAME = 32,  /* [A-Za-z0-9_-], the alphabet of endpoints and job ids */
    HTTP_BYTE_HOST = 64,  /* [A-Za-z0-9._-] */
    HTTP_BYTE_TAIL = 128, /* [A-Za-z0-9._~:@-], the segments of passed-through paths */
};
extern const uint8_t http_byte_classes[256];

/* True when `byte` is in one of the classes of `mask`. */
static inline bool http_byte_is(char byte, unsigned mask)
{
    return (http_byte_classes[(unsigned char)byte] & mask) != 0;
}

/* True when every byte of the view is in the class. */
bool http_bytes_are(struct view view, unsigned mask);

#endif
