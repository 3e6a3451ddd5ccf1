/* What a caller's fields ask of an answer that podgate has whole: which coding (Accept-Encoding),
 * which part (Range, If-Range), and whether it is needed at all (If-None-Match). Pure: views in,
 * verdicts out. Malformed fields are ignored, as RFC 9110 wants it, never refused.
 *
 *     struct http_accept accept;
 *     http_accept_begin(&accept);
 *     http_accept_add(&accept, http_head_value(head, HTTP_FIELD_ACCEPT_ENCODING));
 *     enum http_coding coding = http_accept_choose(&accept);
 */
#ifndef PODGATE_FORMAT_HTTP_CONDITIONAL_H
#define PODGATE_FORMAT_HTTP_CONDITIONAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

/* ---- Accept-Encoding (RFC 9110 section 12.5.3) ---- */

/* The codings that podgate can send. */
enum http_coding { HTTP_CODING_IDENTITY, HTTP_CODING_ZSTD, HTTP_CODING_GZIP };
enum { HTTP_CODINGS = 3 };

/* What all Accept-Encoding lines of a head said so far. Qualities are in thousandths. */
struct http_accept {
    uint16_t quality[HTTP_CODINGS];
    uint16_t any_quality;
    bool named[HTTP_CODINGS];
    bool any_named; /* "*" */
};

/* Nothing was said yet: only identity is acceptable. */
void http_accept_begin(struct http_accept *accept);

/* Takes up one Accept-Encoding line. An element that is malformed counts as not written. */
void http_accept_add(struct http_accept *accept, struct view value);

/* True unless the coding was excluded; of zstd and gzip only when it was asked for. */
MUST_CHECK bool http_accept_allows(const struct http_accept *accept, enum http_coding coding);

/* The acceptable coding with the highest quality; at the same quality zstd, then gzip, then
 * identity. Identity counts as least wanted when it isn't named, and is sent in spite of an
 * exclusion when nothing else can be. */
enum http_coding http_accept_choose(const struct http_accept *accept);

/* ---- Range (RFC 9110 section 14) ---- */

enum http_range {
    HTTP_RANGE_WHOLE,         /* another unit, malformed, or more than one range: send all */
    HTTP_RANGE_PART,          /* send `count` bytes from `first` on */
    HTTP_RANGE_UNSATISFIABLE, /* 416 */
};

/* Judges a Range value for a representation of `length` bytes. `first` and `count` are set with
 * HTTP_RANGE_PART. */
MUST_CHECK enum http_range http_range_parse(struct view value, uint64_t length, uint64_t *first,
                                            uint64_t *count);

/* True when If-Range allows the part: the value is `etag` (with its quotes), compared strongly. A
 * date never does, since podgate sends no Last-Modified. */
MUST_CHECK bool http_if_range_allows(struct view value, struct view etag);

/* ---- If-None-Match (RFC 9110 section 13.1.2) ---- */

/* Takes the next entity-tag off `list`: its opaque part with its quotes, without "W/", since the
 * comparison is weak; "*" as it stands. False at the end, or where the list is malformed. */
MUST_CHECK bool http_next_etag(struct view *list, struct view *etag);

#endif
