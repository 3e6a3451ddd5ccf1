#include "build_config.h"

#include "net/connection_limits.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/table.h"
#include "model/address.h"

/* Workers take and release at the same time, mostly for different addresses. */
enum { SHARDS = 16 };

/* What one address holds. In its shard's table while `count` is above 0. */
struct holder {
    struct table_node node;
    uint32_t count;
    uint8_t key[ADDRESS_KEY_LENGTH];
};

struct shard {
    _Alignas(64) pthread_mutex_t lock;
    struct table *holders;
};

struct connection_limits {
    _Atomic size_t count;
    _Atomic uint32_t maximum;
    uint32_t cap; /* of `maximum`, by connection_limits_cap(); the main thread's */
    _Atomic uint32_t maximum_per_address; /* 0: no limit */
    pthread_rwlock_t config_lock;         /* guards `config`, the leaf of all locks */
    const struct config *config;          /* for proxy_protocol_from */
    struct shard shards[SHARDS];
};

/* Frees what is there, also of a half-made object. */
static void free_limits(struct connection_limits *limits, size_t shards)
{
    for (size_t i = 0; i < shards; i++) {
        pthread_mutex_destroy(&limits->shards[i].lock);
        table_destroy(limits->shards[i].holders);
    }
    pthread_rwlock_destroy(&limits->config_lock);
    config_unref(limits->config);
    free(limits);
}

static void take_values(struct connection_limits *limits, const struct config *config)
{
    uint32_t wanted = config->memory.connections;

    atomic_store_explicit(&limits->maximum, wanted < limits->cap ? wanted : limits->cap,
                          memory_order_relaxed);
    atomic_store_explicit(&limits->maximum_per_address, config->memory.connections_per_address,
                          memory_order_relaxed);
}

struct connection_limits *connection_limits_create(const struct config *config)
{
    struct connection_limits *limits = aligned_alloc(64, (sizeof *limits + 63) / 64 * 64);

    if (!limits) {
        return NULL;
    }
    memset(limits, 0, sizeof *limits);
    pthread_rwlock_init(&limits->config_lock, NULL);
    limits->config = config_ref(config);
    limits->cap = UINT32_MAX;
    take_values(limits, config);
    for (size_t i = 0; i < SHARDS; i++) {
        limits->shards[i].holders = table_create();
        if (!limits->shards[i].holders) {
            free_limits(limits, i);
            return NULL;
        }
        pthread_mutex_init(&limits->shards[i].lock, NULL);
    }
    return limits;
}

static void free_holder(struct table_node *node, void *argument)
{
    struct table *table = argument;
    struct holder *holder = (struct holder *)((char *)node - offsetof(struct holder, node));

    table_remove(table, node);
    free(holder);
}

void connection_limits_destroy(struct connection_limits *limits)
{
    if (!limits) {
        return;
    }
    for (size_t i = 0; i < SHARDS; i++) {
        table_for_each(limits->shards[i].holders, free_holder, limits->shards[i].holders);
    }
    free_limits(limits, SHARDS);
}

void connection_limits_cap(struct connection_limits *limits, uint32_t maximum)
{
    limits->cap = maximum;
    take_values(limits, limits->config);
}

void connection_limits_adopt(struct connection_limits *limits, const struct config *config)
{
    const struct config *before;

    pthread_rwlock_wrlock(&limits->config_lock);
    before = limits->config;
    limits->config = config_ref(config);
    pthread_rwlock_unlock(&limits->config_lock);
    take_values(limits, config);
    config_unref(before);
}

/* True for peers behind which there are many callers. */
static bool is_balancer(struct connection_limits *limits, const struct address *address)
{
    const struct config_networks *networks;
    bool found = false;

    pthread_rwlock_rdlock(&limits->config_lock);
    networks = &limits->config->proxy_protocol_from;
    for (size_t i = 0; i < networks->count && !found; i++) {
        found = address_in_network(address, &networks->items[i]);
    }
    pthread_rwlock_unlock(&limits->config_lock);
    return found;
}

/* The bytes under which a peer is counted; empty for one that counts in the total only. */
static struct view key_of(struct connection_limits *limits, const struct sockaddr_storage *peer,
                          uint8_t *key)
{
    struct address address;

    address_from_sockaddr(&address, (const struct sockaddr *)peer, sizeof *peer);
    if ((address.family != ADDRESS_IPV4 && address.family != ADDRESS_IPV6) ||
        is_balancer(limits, &address)) {
        return (struct view){NULL, 0};
    }
    return address_key(&address, key);
}

static struct shard *shard_of(struct connection_limits *limits, struct view key)
{
    /* The table uses the low bits of the same hash. */
    return &limits->shards[table_hash(key) >> 32 & (SHARDS - 1)];
}

static struct holder *find_holder(struct shard *shard, struct view key)
{
    struct table_node *node = table_find(shard->holders, key);

    return node ? (struct holder *)((char *)node - offsetof(struct holder, node)) : NULL;
}

static struct holder *add_holder(struct shard *shard, struct view key)
{
    struct holder *holder = calloc(1, sizeof *holder);

    if (holder) {
        memcpy(holder->key, key.data, key.length);
        if (!table_insert(shard->holders, &holder->node,
                          (struct view){(const char *)holder->key, key.length})) {
            free(holder);
            holder = NULL;
        }
    }
    return holder;
}

static enum connection_limits_result take_address(struct connection_limits *limits, struct view key)
{
    uint32_t maximum = atomic_load_explicit(&limits->maximum_per_address, memory_order_relaxed);
    struct shard *shard = shard_of(limits, key);
    enum connection_limits_result result = CONNECTION_LIMITS_OK;
    struct holder *holder;

    pthread_mutex_lock(&shard->lock);
    holder = find_holder(shard, key);
    if (holder && maximum > 0 && holder->count >= maximum) {
        result = CONNECTION_LIMITS_ADDRESS;
    } else if (holder || (holder = add_holder(shard, key)) != NULL) {
        holder->count++;
    } else {
        result = CONNECTION_LIMITS_TOTAL;
    }
    pthread_mutex_unlock(&shard->lock);
    return result;
}

/* One that isn't there was a balancer's when it was taken, and the configuration has changed. */
static void release_address(struct connection_limits *limits, struct view key)
{
    struct shard *shard = shard_of(limits, key);
    struct holder *holder;

    pthread_mutex_lock(&shard->lock);
    holder = find_holder(shard, key);
    if (holder && --holder->count == 0) {
        table_remove(shard->holders, &holder->node);
        free(holder);
    }
    pthread_mutex_unlock(&shard->lock);
}

enum connection_limits_result connection_limits_take(struct connection_limits *limits,
                                                     const struct sockaddr_storage *peer)
{
    uint8_t bytes[ADDRESS_KEY_LENGTH];
    struct view key;
    enum connection_limits_result result = CONNECTION_LIMITS_OK;

    if (atomic_fetch_add_explicit(&limits->count, 1, memory_order_relaxed) >=
        atomic_load_explicit(&limits->maximum, memory_order_relaxed)) {
        result = CONNECTION_LIMITS_TOTAL;
    } else {
        key = key_of(limits, peer, bytes);
        if (key.length > 0) {
            result = take_address(limits, key);
        }
    }
    if (result != CONNECTION_LIMITS_OK) {
        atomic_fetch_sub_explicit(&limits->count, 1, memory_order_relaxed);
    }
    return result;
}

void connection_limits_release(struct connection_limits *limits,
                               const struct sockaddr_storage *peer)
{
    uint8_t bytes[ADDRESS_KEY_LENGTH];
    struct view key = key_of(limits, peer, bytes);

    if (key.length > 0) {
        release_address(limits, key);
    }
    atomic_fetch_sub_explicit(&limits->count, 1, memory_order_relaxed);
}

enum connection_limits_result connection_limits_move(struct connection_limits *limits,
                                                     const struct sockaddr_storage *peer,
                                                     const struct sockaddr_storage *source)
{
    uint8_t bytes[ADDRESS_KEY_LENGTH];
    struct view key = key_of(limits, source, bytes);
    enum connection_limits_result result = CONNECTION_LIMITS_OK;

    if (key.length > 0) {
        result = take_address(limits, key);
    }
    if (result == CONNECTION_LIMITS_OK) {
        key = key_of(limits, peer, bytes);
        if (key.length > 0) {
            release_address(limits, key);
        }
    }
    return result;
}

size_t connection_limits_count(const struct connection_limits *limits)
{
    return atomic_load_explicit(&limits->count, memory_order_relaxed);
}

size_t connection_limits_addresses(struct connection_limits *limits)
{
    size_t count = 0;

    for (size_t i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&limits->shards[i].lock);
        count += table_count(limits->shards[i].holders);
        pthread_mutex_unlock(&limits->shards[i].lock);
    }
    return count;
}
