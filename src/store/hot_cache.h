/* Terminal results in memory, bounded, one cache for all workers: what is asked again is answered
 * without the store. Least recently used goes first, with admission: what was asked once only waits
 * in a fifth of the room, so that a scan of old results doesn't push out what is really hot.
 *
 *     struct hot_result *result = hot_cache_find(cache, endpoint, job, wall_ms);
 *     if (result && view_equal(result->team, team)) { ... serve ...; }
 *     hot_result_unref(result);
 *
 * A result is served from here only after the store has it. /retry, DELETE and ?ttl= drop it.
 */
#ifndef PODGATE_STORE_HOT_CACHE_H
#define PODGATE_STORE_HOT_CACHE_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/body.h"
#include "base/compiler.h"
#include "store/store.h"

enum hot_form { HOT_IDENTITY, HOT_ZSTD, HOT_GZIP };
enum { HOT_FORMS = 3, HOT_DIGEST_BYTES = 32 };

/* One terminal result with all that an answer needs. Reference counted across threads; constant but
 * for `forms`, to which hot_result_add_form() adds under the result's own lock. */
struct hot_result {
    _Atomic unsigned references;
    struct view endpoint; /* these lie in the same allocation */
    struct view job;
    struct view team;
    uint64_t generation;
    enum job_state state;
    uint64_t ended_ms;   /* wall */
    uint64_t expires_ms; /* wall */
    uint64_t result_bytes; /* of the exact bytes */
    unsigned char digest[HOT_DIGEST_BYTES]; /* SHA-256 of the exact bytes */
    bool completed_without_output;
    struct hot_private *private; /* forms, their digests, the cache's links */
};

struct hot_cache;

/* A result made of a job with fate KEPT and its stored bytes, encoded as job->encoding says; takes
 * references of its own. NULL without memory. One reference, the caller's. Any thread. */
MUST_CHECK struct hot_result *hot_result_create(const struct store_job *job, struct body *stored);

/* The bytes in one form, or NULL when they aren't there in it; one reference, the caller's. Any
 * thread. */
MUST_CHECK struct body *hot_result_form(struct hot_result *result, enum hot_form form);

/* Adds another form of the same bytes (the first to come stays). Takes a reference of its own. Its
 * bytes are charged to the cache if the result is in one. Any thread. */
void hot_result_add_form(struct hot_result *result, enum hot_form form, struct body *body);

/* SHA-256 of the bytes of a form, for Repr-Digest; false when it isn't there. Any thread. */
MUST_CHECK bool hot_result_digest(struct hot_result *result, enum hot_form form,
                                  unsigned char digest[HOT_DIGEST_BYTES]);

struct hot_result *hot_result_ref(struct hot_result *result);
void hot_result_unref(struct hot_result *result); /* NULL is allowed */

/* An empty cache of at most so many bytes (0: it keeps nothing). NULL without memory. */
struct hot_cache *hot_cache_create(uint64_t maximum_bytes);
void hot_cache_destroy(struct hot_cache *cache); /* NULL is allowed */

/* Another bound, from a newer configuration; 80 % of the bodies' budget in use shrinks it too. Any
 * thread. */
void hot_cache_set_maximum(struct hot_cache *cache, uint64_t maximum_bytes);

/* The result, one reference, or NULL; not one that expires before `wall_ms`. Any thread. */
MUST_CHECK struct hot_result *hot_cache_find(struct hot_cache *cache, struct view endpoint,
                                             struct view job, uint64_t wall_ms);

/* Puts a result in (an older one of the same name goes); the cache takes a reference of its own. It
 * may decide not to. Any thread. */
void hot_cache_put(struct hot_cache *cache, struct hot_result *result);

/* Forgets a result. Any thread. */
void hot_cache_drop(struct hot_cache *cache, struct view endpoint, struct view job);

/* What it holds, and how often it was looked into with and without success. Any thread. */
struct hot_cache_counts {
    uint64_t bytes;
    uint64_t results;
    uint64_t hits;
    uint64_t misses;
    uint64_t stored;
    uint64_t evicted;
};
struct hot_cache_counts hot_cache_counts(struct hot_cache *cache);

#endif
