/* What a hot result and the cache that it is in have together; private to hot_result.c and
 * hot_cache.c. */
#ifndef PODGATE_STORE_HOT_RESULT_PRIVATE_H
#define PODGATE_STORE_HOT_RESULT_PRIVATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/table.h"
#include "store/hot_result.h"

/* The field lines of one form in one piece, with where the parts begin and end. */
struct hot_lines {
    unsigned char digest[HOT_DIGEST_BYTES];
    size_t length;
    size_t partial_begin;
    size_t validators_begin;
    size_t etag_begin;
    size_t etag_length;
    char text[];
};

/* Both are set once and stay as long as the result does: what is read needs no lock. */
struct hot_form_slot {
    _Atomic(struct body *) body;
    _Atomic(struct hot_lines *) lines;
};

/* What is asked once only stays on probation; what is asked again is protected. */
enum hot_segment { HOT_PROBATION, HOT_PROTECTED, HOT_OUTSIDE };
enum { HOT_SEGMENTS = 2 };

struct hot_shard;

/* Called without a lock, on any thread. */
typedef void hot_result_grown(struct hot_result *result);

struct hot_private {
    struct hot_form_slot forms[HOT_FORMS];
    _Atomic uint64_t bytes; /* of the result with all its forms and what they need around them */
    _Atomic(hot_result_grown *) grown; /* told when `bytes` grew; NULL: it is in no cache */

    /* The cache's, under the lock of the shard that the name leads to. */
    _Atomic(struct hot_shard *) shard; /* constant from the first put on */
    struct table_node node;            /* its key is "ENDPOINT/JOB" */
    struct hot_result *newer;
    struct hot_result *older;
    uint64_t charged_bytes;
    uint64_t stamp;
    unsigned hits;
    enum hot_segment segment;
};

/* "ENDPOINT/JOB". */
struct view hot_result_name(const struct hot_result *result);

#endif
