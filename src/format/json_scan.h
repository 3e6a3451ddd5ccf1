/* The top level of a JSON text, found without building anything: the whole text is checked (RFC
 * 8259), the wanted members of the outermost object are reported as views of their raw bytes, and
 * nothing is converted, so that integers above 2^53 and 1E400 stay what they were.
 *
 *     struct json_member members[] = {{.name = VIEW("id")}, {.name = VIEW("status")}};
 *     struct json_report report;
 *     if (json_scan(body, JSON_SCAN_NON_FINITE, members, 2, &report) == JSON_SCAN_OK &&
 *         members[0].type == JSON_STRING) { ... members[0].value is "\"abc-u1\"" with its quotes }
 */
#ifndef PODGATE_FORMAT_JSON_SCAN_H
#define PODGATE_FORMAT_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum { JSON_SCAN_DEPTH_MAXIMUM = 512 };

enum json_type {
    JSON_ABSENT,
    JSON_NULL,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NUMBER,
    JSON_NON_FINITE, /* NaN, Infinity, -Infinity, as Python writes them */
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
};

enum json_scan_result {
    JSON_SCAN_OK,
    JSON_SCAN_EMPTY,      /* nothing but white space */
    JSON_SCAN_CUT,        /* right so far, but it ends too early */
    JSON_SCAN_BAD,        /* not JSON at `report.offset` */
    JSON_SCAN_TOO_DEEP,   /* more than JSON_SCAN_DEPTH_MAXIMUM levels */
    JSON_SCAN_NOT_UTF8,   /* only with JSON_SCAN_UTF8 */
    JSON_SCAN_TRAILING,   /* something follows the value */
};

/* Flags of json_scan(), or-ed together. */
enum {
    JSON_SCAN_NON_FINITE = 1, /* takes NaN, Infinity and -Infinity where a number may stand */
    JSON_SCAN_UTF8 = 2,       /* strings must be valid UTF-8 */
};

/* A wanted member of the outermost object: `name` in, the rest out. */
struct json_member {
    struct view name;    /* what the name says; escapes in the text are understood */
    struct view value;   /* its raw bytes: strings with quotes, objects with braces */
    enum json_type type; /* JSON_ABSENT when there is no such member */
    bool twice;          /* it occurs again: the last one counts, as for Python */
};

struct json_report {
    size_t offset;          /* of the first byte that is wrong, or the text's length */
    enum json_type type;    /* of the outermost value */
    uint64_t member_count;  /* of the outermost object, repeated ones included */
    bool non_finite;        /* the text holds NaN, Infinity or -Infinity */
};

/* Checks the whole of `text` in one pass, without recursion and without allocation, and fills
 * `members` and `report` (may be NULL). With any result but JSON_SCAN_OK what the members say is
 * what was met before the fault: a complete top-level `id` in an answer that was cut off counts.
 * Member names are matched by what they say. A leading byte order mark is not JSON. */
MUST_CHECK enum json_scan_result json_scan(struct view text, unsigned flags,
                                           struct json_member *members, size_t member_count,
                                           struct json_report *report);

/* The string's bytes between its quotes when it has no escapes; false otherwise. `member` is of
 * type JSON_STRING. For ids and states, which need no unescaping. */
MUST_CHECK bool json_member_plain_string(const struct json_member *member, struct view *text);

/* One sentence for the caller. */
struct view json_scan_detail(enum json_scan_result result);

#endif
