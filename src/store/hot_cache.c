#include "build_config.h"

#include "store/hot_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "store/hot_result_private.h"

/* A result's name says which shard it is in; the bound holds for all shards together, so that one
 * large result has room. Each shard has a list a segment, the least recently used last, and says in
 * `oldest` how long ago that one was used: whoever has to make room looks for the oldest of all
 * shards without a lock, and then takes it out under that shard's. No two locks are ever held.
 *
 * "How long ago" is counted in results put in: what was used since the last put need not move, so
 * that the hits of a busy result only read. */

enum {
    SHARDS = 16,
    SHARD_SHIFT = 60, /* the top bits of the hash; the table in a shard uses the low ones */
    NAME_MAXIMUM_BYTES = 256,
    PROTECTED_PERCENT = 80,
    PROTECTED_AT_HITS = 2,
    DROPS_KEPT = 256, /* a shard */
    CACHE_LINE_BYTES = 64,
};

/* A name that was dropped: see HOT_DROP_GUARD_MS. */
struct hot_drop {
    uint64_t hash;
    uint64_t until_ms;   /* of clock_mono_ms() */
    uint64_t generation; /* what was dropped was not later than this */
};

struct hot_list {
    struct hot_result *newest;
    struct hot_result *oldest;
};

struct hot_shard {
    _Alignas(CACHE_LINE_BYTES) pthread_mutex_t lock;
    struct hot_cache *cache;
    struct table *table;
    struct hot_list lists[HOT_SEGMENTS];
    uint64_t hits;
    uint64_t misses;
    uint64_t stored;
    uint64_t evicted;
    struct hot_drop drops[DROPS_KEPT];
    size_t next_drop;
    uint64_t refuse_until_ms;              /* more was dropped at once than `drops` can hold */
    _Atomic uint64_t oldest[HOT_SEGMENTS]; /* stamps; UINT64_MAX: the list is empty */
};

struct hot_cache {
    struct hot_shard shards[SHARDS];
    _Atomic uint64_t maximum_bytes;
    _Atomic uint64_t bytes[HOT_SEGMENTS];
    _Atomic uint64_t stamp; /* results put in so far */
};

struct hot_name {
    struct view text;
    uint64_t hash;
    struct hot_shard *shard;
    char storage[NAME_MAXIMUM_BYTES];
};

/* ---- names ----------------------------------------------------------------------------------- */

static void hash_name(struct hot_cache *cache, struct hot_name *name, struct view text)
{
    name->text = text;
    name->hash = table_hash(text);
    name->shard = &cache->shards[name->hash >> SHARD_SHIFT];
}

/* False for names longer than any route lets through. */
static bool make_name(struct hot_cache *cache, struct hot_name *name, struct view endpoint,
                      struct view job)
{
    char *at = name->storage;

    if (endpoint.length + 1 + job.length > sizeof name->storage) {
        return false;
    }
    memcpy(at, endpoint.data, endpoint.length);
    at[endpoint.length] = '/';
    memcpy(at + endpoint.length + 1, job.data, job.length);
    hash_name(cache, name, view_make(at, endpoint.length + 1 + job.length));
    return true;
}

static struct hot_result *result_of(struct table_node *node)
{
    struct hot_private *private =
        (struct hot_private *)(void *)((char *)node - offsetof(struct hot_private, node));

    /* hot_result.c puts the two one behind the other. */
    return (struct hot_result *)private - 1;
}

static struct hot_result *find_in(const struct hot_shard *shard, const struct hot_name *name)
{
    struct table_node *node = table_find_hashed(shard->table, name->text, name->hash);

    return node ? result_of(node) : NULL;
}

/* ---- the lists; under the shard's lock ------------------------------------------------------- */

static void publish_oldest(struct hot_shard *shard, enum hot_segment segment)
{
    const struct hot_result *oldest = shard->lists[segment].oldest;

    atomic_store_explicit(&shard->oldest[segment], oldest ? oldest->private->stamp : UINT64_MAX,
                          memory_order_relaxed);
}

static void link_newest(struct hot_shard *shard, struct hot_result *result,
                        enum hot_segment segment, uint64_t stamp)
{
    struct hot_list *list = &shard->lists[segment];
    struct hot_private *private = result->private;

    private->segment = segment;
    private->stamp = stamp;
    private->newer = NULL;
    private->older = list->newest;
    if (list->newest) {
        list->newest->private->newer = result;
    } else {
        list->oldest = result;
    }
    list->newest = result;
    atomic_fetch_add_explicit(&shard->cache->bytes[segment], private->charged_bytes,
                              memory_order_relaxed);
    publish_oldest(shard, segment);
}

static void unlink_result(struct hot_shard *shard, struct hot_result *result)
{
    struct hot_private *private = result->private;
    enum hot_segment segment = private->segment;
    struct hot_list *list = &shard->lists[segment];

    if (private->newer) {
        private->newer->private->older = private->older;
    } else {
        list->newest = private->older;
    }
    if (private->older) {
        private->older->private->newer = private->newer;
    } else {
        list->oldest = private->newer;
    }
    private->segment = HOT_OUTSIDE;
    atomic_fetch_sub_explicit(&shard->cache->bytes[segment], private->charged_bytes,
                              memory_order_relaxed);
    publish_oldest(shard, segment);
}

/* Takes a result out; the cache's reference on it becomes the caller's, to be given back when the
 * lock is not held any more. */
static struct hot_result *take_out(struct hot_shard *shard, struct hot_result *result)
{
    unlink_result(shard, result);
    table_remove(shard->table, &result->private->node);
    atomic_store(&result->private->grown, NULL);
    return result;
}

/* ---- room ------------------------------------------------------------------------------------ */

static uint64_t used_bytes(struct hot_cache *cache, enum hot_segment segment)
{
    return atomic_load_explicit(&cache->bytes[segment], memory_order_relaxed);
}

static uint64_t maximum_of(struct hot_cache *cache)
{
    return atomic_load_explicit(&cache->maximum_bytes, memory_order_relaxed);
}

/* The shard that has the oldest result of a segment, or NULL when the segment is empty. */
static struct hot_shard *find_oldest(struct hot_cache *cache, enum hot_segment segment)
{
    struct hot_shard *found = NULL;
    uint64_t oldest = UINT64_MAX;

    for (size_t i = 0; i < SHARDS; i++) {
        uint64_t stamp =
            atomic_load_explicit(&cache->shards[i].oldest[segment], memory_order_relaxed);

        if (stamp < oldest) {
            oldest = stamp;
            found = &cache->shards[i];
        }
    }
    return found;
}

/* Back on probation, in front of what was never asked again: it may be lucky yet. */
static void demote_oldest(struct hot_shard *shard)
{
    struct hot_result *result;

    pthread_mutex_lock(&shard->lock);
    result = shard->lists[HOT_PROTECTED].oldest;
    if (result) {
        uint64_t stamp = atomic_load_explicit(&shard->cache->stamp, memory_order_relaxed);

        unlink_result(shard, result);
        result->private->hits = 0;
        link_newest(shard, result, HOT_PROBATION, stamp);
    }
    pthread_mutex_unlock(&shard->lock);
}

static void evict_oldest(struct hot_shard *shard, enum hot_segment segment)
{
    struct hot_result *result;

    pthread_mutex_lock(&shard->lock);
    result = shard->lists[segment].oldest;
    if (result) {
        take_out(shard, result);
        shard->evicted++;
    }
    pthread_mutex_unlock(&shard->lock);
    hot_result_unref(result);
}

/* Least recently used first, those on probation before the others. */
static void shrink_to(struct hot_cache *cache, uint64_t maximum)
{
    while (used_bytes(cache, HOT_PROBATION) + used_bytes(cache, HOT_PROTECTED) > maximum) {
        enum hot_segment segment = HOT_PROBATION;
        struct hot_shard *shard = find_oldest(cache, segment);

        if (!shard) {
            segment = HOT_PROTECTED;
            shard = find_oldest(cache, segment);
        }
        if (!shard) {
            return;
        }
        evict_oldest(shard, segment);
    }
}

void hot_cache_give_way(struct hot_cache *cache, uint64_t bytes)
{
    uint64_t used = used_bytes(cache, HOT_PROBATION) + used_bytes(cache, HOT_PROTECTED);

    shrink_to(cache, used > bytes ? used - bytes : 0);
}

static void make_room(struct hot_cache *cache)
{
    uint64_t maximum = maximum_of(cache);
    struct hot_shard *shard;

    while (used_bytes(cache, HOT_PROTECTED) > maximum / 100 * PROTECTED_PERCENT &&
           (shard = find_oldest(cache, HOT_PROTECTED)) != NULL) {
        demote_oldest(shard);
    }
    shrink_to(cache, maximum);
}

/* A form came to a result that is in, or was a moment ago. */
static void recharge(struct hot_result *result)
{
    struct hot_private *private = result->private;
    struct hot_shard *shard = atomic_load(&private->shard);

    pthread_mutex_lock(&shard->lock);
    if (private->segment != HOT_OUTSIDE) {
        uint64_t bytes = atomic_load(&private->bytes);

        atomic_fetch_add_explicit(&shard->cache->bytes[private->segment],
                                  bytes - private->charged_bytes, memory_order_relaxed);
        private->charged_bytes = bytes;
    }
    pthread_mutex_unlock(&shard->lock);
    make_room(shard->cache);
}

/* ---- find ------------------------------------------------------------------------------------ */

/* True when it was promoted, so that others may have to be demoted. */
static bool note_hit(struct hot_shard *shard, struct hot_result *result)
{
    struct hot_private *private = result->private;
    uint64_t stamp = atomic_load_explicit(&shard->cache->stamp, memory_order_relaxed);
    bool promoted = false;
    enum hot_segment segment = private->segment;

    shard->hits++;
    if (segment == HOT_PROBATION && ++private->hits >= PROTECTED_AT_HITS) {
        segment = HOT_PROTECTED;
        promoted = true;
    }
    if (promoted || private->stamp != stamp) {
        unlink_result(shard, result);
        link_newest(shard, result, segment, stamp);
    }
    return promoted;
}

struct hot_result *hot_cache_find(struct hot_cache *cache, struct view endpoint, struct view job,
                                  uint64_t wall_ms)
{
    struct hot_result *result;
    struct hot_result *expired = NULL;
    struct hot_shard *shard;
    bool promoted = false;
    struct hot_name name;

    if (maximum_of(cache) == 0 || !make_name(cache, &name, endpoint, job)) {
        return NULL;
    }
    shard = name.shard;
    pthread_mutex_lock(&shard->lock);
    result = find_in(shard, &name);
    if (result && result->expires_ms != 0 && result->expires_ms <= wall_ms) {
        expired = take_out(shard, result);
        result = NULL;
    }
    if (result) {
        hot_result_ref(result);
        promoted = note_hit(shard, result);
    } else {
        shard->misses++;
    }
    pthread_mutex_unlock(&shard->lock);
    if (UNLIKELY(promoted)) {
        make_room(cache);
    }
    hot_result_unref(expired);
    return result;
}

/* ---- put and drop ---------------------------------------------------------------------------- */

/* Under the shard's lock. */
static bool was_just_dropped(const struct hot_shard *shard, uint64_t hash, uint64_t generation)
{
    uint64_t now_ms = clock_mono_ms();

    if (now_ms < shard->refuse_until_ms) {
        return true;
    }
    for (size_t i = 0; i < DROPS_KEPT; i++) {
        const struct hot_drop *drop = &shard->drops[i];

        if (drop->hash == hash && now_ms < drop->until_ms && generation <= drop->generation) {
            return true;
        }
    }
    return false;
}

/* Under the shard's lock. */
static void remember_drop(struct hot_shard *shard, uint64_t hash, uint64_t generation)
{
    uint64_t now_ms = clock_mono_ms();
    struct hot_drop *drop = &shard->drops[shard->next_drop];

    if (now_ms < drop->until_ms && shard->refuse_until_ms < drop->until_ms) {
        shard->refuse_until_ms = drop->until_ms;
    }
    *drop = (struct hot_drop){
        .hash = hash, .until_ms = now_ms + HOT_DROP_GUARD_MS, .generation = generation};
    shard->next_drop = (shard->next_drop + 1) % DROPS_KEPT;
}

/* Under the shard's lock. `*old`: what has to be given back. False: it isn't put in. */
static bool put_in(struct hot_shard *shard, struct hot_result *result, const struct hot_name *name,
                   struct hot_result **old)
{
    struct hot_private *private = result->private;
    struct hot_result *there = find_in(shard, name);

    if (there == result || (there && there->generation > result->generation) ||
        was_just_dropped(shard, name->hash, result->generation)) {
        return false;
    }
    if (there) {
        *old = take_out(shard, there);
    }
    if (FAULT_POINT("hot.put") || !table_insert(shard->table, &private->node, name->text)) {
        return false;
    }
    /* First whom to tell, then how large: hot_result.c does it the other way round, so that a form
     * that comes at this moment is counted by one of the two at least. */
    atomic_store(&private->shard, shard);
    atomic_store(&private->grown, recharge);
    private->charged_bytes = atomic_load(&private->bytes);
    private->hits = 0;
    link_newest(shard, hot_result_ref(result), HOT_PROBATION,
                atomic_fetch_add_explicit(&shard->cache->stamp, 1, memory_order_relaxed) + 1);
    shard->stored++;
    return true;
}

void hot_cache_put(struct hot_cache *cache, struct hot_result *result)
{
    struct hot_result *old = NULL;
    struct hot_name name;
    bool is_in = false;
    /* One that would take half of the room is not worth what it pushes out. */
    bool is_too_large = atomic_load(&result->private->bytes) > maximum_of(cache) / 2;

    hash_name(cache, &name, hot_result_name(result));
    pthread_mutex_lock(&name.shard->lock);
    if (!is_too_large) {
        is_in = put_in(name.shard, result, &name, &old);
    } else if (find_in(name.shard, &name)) {
        old = take_out(name.shard, find_in(name.shard, &name));
    }
    pthread_mutex_unlock(&name.shard->lock);
    hot_result_unref(old);
    if (is_in) {
        make_room(cache);
    }
}

void hot_cache_drop(struct hot_cache *cache, struct view endpoint, struct view job)
{
    struct hot_result *result;
    struct hot_name name;

    if (!make_name(cache, &name, endpoint, job)) {
        return;
    }
    pthread_mutex_lock(&name.shard->lock);
    result = find_in(name.shard, &name);
    remember_drop(name.shard, name.hash, result ? result->generation : UINT64_MAX);
    if (result) {
        take_out(name.shard, result);
    }
    pthread_mutex_unlock(&name.shard->lock);
    hot_result_unref(result);
}

/* Under the shard's lock, or when nobody uses the cache any more. */
static void empty_shard(struct hot_shard *shard)
{
    for (unsigned segment = 0; segment < HOT_SEGMENTS; segment++) {
        while (shard->lists[segment].oldest) {
            hot_result_unref(take_out(shard, shard->lists[segment].oldest));
        }
    }
}

void hot_cache_clear(struct hot_cache *cache)
{
    for (size_t i = 0; i < SHARDS; i++) {
        struct hot_shard *shard = &cache->shards[i];

        pthread_mutex_lock(&shard->lock);
        empty_shard(shard);
        shard->refuse_until_ms = clock_mono_ms() + HOT_DROP_GUARD_MS;
        pthread_mutex_unlock(&shard->lock);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

static bool init_shard(struct hot_shard *shard, struct hot_cache *cache)
{
    shard->cache = cache;
    shard->table = table_create();
    for (unsigned segment = 0; segment < HOT_SEGMENTS; segment++) {
        atomic_init(&shard->oldest[segment], UINT64_MAX);
    }
    return shard->table && pthread_mutex_init(&shard->lock, NULL) == 0;
}

struct hot_cache *hot_cache_create(uint64_t maximum_bytes)
{
    struct hot_cache *cache = aligned_alloc(CACHE_LINE_BYTES, sizeof *cache);
    bool complete = true;

    if (!cache) {
        return NULL;
    }
    memset(cache, 0, sizeof *cache);
    atomic_init(&cache->maximum_bytes, maximum_bytes);
    for (size_t i = 0; i < SHARDS; i++) {
        complete = init_shard(&cache->shards[i], cache) && complete;
    }
    if (!complete) {
        hot_cache_destroy(cache);
        return NULL;
    }
    return cache;
}

void hot_cache_destroy(struct hot_cache *cache)
{
    if (!cache) {
        return;
    }
    for (size_t i = 0; i < SHARDS; i++) {
        struct hot_shard *shard = &cache->shards[i];

        empty_shard(shard);
        table_destroy(shard->table);
        pthread_mutex_destroy(&shard->lock);
    }
    free(cache);
}

void hot_cache_set_maximum(struct hot_cache *cache, uint64_t maximum_bytes)
{
    atomic_store_explicit(&cache->maximum_bytes, maximum_bytes, memory_order_relaxed);
    make_room(cache);
}

struct hot_cache_counts hot_cache_counts(struct hot_cache *cache)
{
    struct hot_cache_counts counts = {.bytes = used_bytes(cache, HOT_PROBATION) +
                                               used_bytes(cache, HOT_PROTECTED)};

    for (size_t i = 0; i < SHARDS; i++) {
        struct hot_shard *shard = &cache->shards[i];

        pthread_mutex_lock(&shard->lock);
        counts.results += table_count(shard->table);
        counts.hits += shard->hits;
        counts.misses += shard->misses;
        counts.stored += shard->stored;
        counts.evicted += shard->evicted;
        pthread_mutex_unlock(&shard->lock);
    }
    return counts;
}
