/* Fields that podgate writes: which of the caller's go up and which of upstream's come back, dates,
 * status lines, and the body of its own errors.
 *
 * Forwarding is by allow-list only. Up go, on every route: Accept, Accept-Language, Content-Type,
 * User-Agent, traceparent, tracestate, baggage, Last-Event-ID; on OpenAI routes OpenAI-*,
 * X-Stainless-* and Anthropic-Version/-Beta (the /messages route); with the endpoint "flash" its
 * three X-Flash-* fields. Never: Authorization, Cookie, Forwarded, X-Forwarded-For, hop-by-hop
 * fields, what Connection names, and all that isn't listed. Written by the sender itself: Host,
 * Authorization, Accept-Encoding, Content-Length, X-Request-Id, Via.
 * Back come: Content-Type, Content-Language, Content-Disposition, Cache-Control, Retry-After; on
 * OpenAI routes ETag, Last-Modified, Expires, OpenAI-*, X-RateLimit-*. Never: Set-Cookie, Location
 * (a redirect isn't followed and would lead callers past podgate), Server, Date (ours is sent),
 * WWW-Authenticate (it speaks of the operator's key).
 */
#ifndef PODGATE_FORMAT_HTTP_FIELDS_H
#define PODGATE_FORMAT_HTTP_FIELDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "format/http_head.h"

/* What a request is, for the allow-lists; or-ed together. HTTP_FORWARD_ALWAYS belongs to each. */
enum http_forward_scope {
    HTTP_FORWARD_ALWAYS = 1,
    HTTP_FORWARD_OPENAI = 2,
    HTTP_FORWARD_FLASH = 4,
};

/* Appends "Name: value" CRLF for each field of a caller's head that may go up. `scope` is a mask of
 * enum http_forward_scope. Known names are written in their canonical spelling. */
void http_fields_append_request(struct builder *builder, const struct http_head *head,
                                unsigned scope);

/* The same for a field of upstream's head that may come back. */
void http_fields_append_response(struct builder *builder, const struct http_head *head,
                                 unsigned scope);

/* True when a field with this id goes up, or comes back, within `scope`. */
bool http_fields_allow_request(enum http_field_id id, unsigned scope);
bool http_fields_allow_response(enum http_field_id id, unsigned scope);

/* Length of an IMF-fixdate (RFC 9110 section 5.6.7), and of the whole line "Date: ..." CRLF. */
enum { HTTP_DATE_LENGTH = 29, HTTP_DATE_LINE_LENGTH = 37 };

/* Writes "Sun, 06 Nov 1994 08:49:37 GMT" for a time in seconds since 1970 into `text`, which has
 * room for HTTP_DATE_LENGTH bytes; no NUL. Years above 9999 are shown as 9999's last second. */
void http_date_format(uint64_t wall_s, char *text);

/* The Date line of the current second, formatted when the second changes. One per worker; begins
 * as all zero bytes. */
struct http_date_cache {
    uint64_t wall_s;
    char line[HTTP_DATE_LINE_LENGTH];
    bool valid;
};

/* "Date: Sun, 06 Nov 1994 08:49:37 GMT" CRLF for a wall time in milliseconds. Valid until the next
 * call with the same cache. */
struct view http_date_line(struct http_date_cache *cache, uint64_t wall_ms);

/* The reason phrase of a status, "" for one that isn't registered. */
struct view http_status_reason(unsigned status);

/* Appends "HTTP/1.1 200 OK" CRLF. `status` is 100 to 599. */
void http_status_append_line(struct builder *builder, unsigned status);

/* Appends "Name: value" CRLF. The value is podgate's own, or was parsed as a field value. */
static inline void http_field_append(struct builder *builder, struct view name, struct view value)
{
    builder_append(builder, name);
    builder_append(builder, VIEW(": "));
    builder_append(builder, value);
    builder_append(builder, VIEW("\r\n"));
}

/* Appends "Content-Length: N" CRLF. */
void http_field_append_length(struct builder *builder, uint64_t length);

/* True for a request id that is taken over from the caller: 1 to 128 of [A-Za-z0-9._:-]. */
MUST_CHECK bool http_request_id_valid(struct view id);

/* Appends a structured-field string (RFC 9651 section 3.3.3) with its quotes. Bytes that such a
 * string can't hold become '?'. */
void http_structured_append_string(struct builder *builder, struct view text);

/* An error of podgate's own (RFC 9457). It has no status member: the Python asyncio client takes a
 * numeric `status` for a job state and polls for ever. */
struct http_problem {
    struct view type;   /* a URI; empty: "about:blank" */
    struct view title;  /* empty: the reason phrase of `status` */
    struct view detail; /* also the member `error`, which clients read */
    struct view code;   /* stable word for programs */
    unsigned status;    /* for the title only */
};

/* Appends the JSON object {"type","title","detail","code","error"}. Texts are escaped. */
void http_problem_append(struct builder *builder, const struct http_problem *problem);

#endif
