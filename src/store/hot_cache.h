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

#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "store/hot_result.h"

struct hot_cache;

/* An empty cache of at most so many bytes (0: it keeps nothing). NULL without memory. */
struct hot_cache *hot_cache_create(uint64_t maximum_bytes);
void hot_cache_destroy(struct hot_cache *cache); /* NULL is allowed */

/* Another bound: from a newer configuration, or since the bodies' budget is nearly used up. Any
 * thread. */
void hot_cache_set_maximum(struct hot_cache *cache, uint64_t maximum_bytes);

/* Lets so many bytes of results go, since the memory is wanted for something that is asked for now.
 * Any thread. */
void hot_cache_give_way(struct hot_cache *cache, uint64_t bytes);

/* The result, one reference, or NULL; not one that expires before `wall_ms`. Any thread. */
MUST_CHECK struct hot_result *hot_cache_find(struct hot_cache *cache, struct view endpoint,
                                             struct view job, uint64_t wall_ms);

/* Puts a result in (an older one of the same name goes, one of a later generation stays); the cache
 * takes a reference of its own. It may decide not to: above all for HOT_DROP_GUARD_MS after the
 * name was dropped, unless the generation is a later one, since what was read from the store before
 * the drop may be put behind it. Any thread. */
enum { HOT_DROP_GUARD_MS = 3000 };
void hot_cache_put(struct hot_cache *cache, struct hot_result *result);

/* Forgets a result. Any thread. */
void hot_cache_drop(struct hot_cache *cache, struct view endpoint, struct view job);

/* Forgets all, as if each were dropped: another podgate may have changed any of them. Any thread.
 */
void hot_cache_clear(struct hot_cache *cache);

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
