#include "build_config.h"

#include "base/table.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { FIRST_BUCKETS = 16 };

struct table {
    struct table_node **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
};

/* The secret is made once and never changes: the one exception to "no globals", since a hash that
 * differed from table to table could not spread jobs over workers. */
static uint64_t hash_secret[2];
static pthread_once_t hash_secret_once = PTHREAD_ONCE_INIT;

static void make_hash_secret(void)
{
    if (getrandom(hash_secret, sizeof hash_secret, 0) != (ssize_t)sizeof hash_secret) {
        hash_secret[0] = (uint64_t)(uintptr_t)&hash_secret;
        hash_secret[1] = (uint64_t)(uintptr_t)&hash_secret_once * 0x9e3779b97f4a7c15u;
    }
}

static inline uint64_t rotate_left(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate_left(v[1], 13) ^ v[0];
    v[0] = rotate_left(v[0], 32);
    v[2] += v[3];
    v[3] = rotate_left(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate_left(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate_left(v[1], 17) ^ v[2];
    v[2] = rotate_left(v[2], 32);
}

uint64_t table_hash(struct view key)
{
    uint64_t v[4];
    uint64_t word;
    const char *at = key.data;
    size_t left = key.length;

    pthread_once(&hash_secret_once, make_hash_secret);
    v[0] = hash_secret[0] ^ 0x736f6d6570736575u;
    v[1] = hash_secret[1] ^ 0x646f72616e646f6du;
    v[2] = hash_secret[0] ^ 0x6c7967656e657261u;
    v[3] = hash_secret[1] ^ 0x7465646279746573u;
    for (; left >= sizeof word; at += sizeof word, left -= sizeof word) {
        memcpy(&word, at, sizeof word);
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
    }
    word = 0;
    if (left > 0) {
        memcpy(&word, at, left);
    }
    word |= (uint64_t)key.length << 56;
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int round = 0; round < 4; round++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

struct table *table_create(void)
{
    struct table *table = calloc(1, sizeof *table);

    if (!table) {
        return NULL;
    }
    table->bucket_count = FIRST_BUCKETS;
    table->buckets = calloc(table->bucket_count, sizeof(struct table_node *));
    if (!table->buckets) {
        free(table);
        return NULL;
    }
    return table;
}

void table_destroy(struct table *table)
{
    if (table) {
        free(table->buckets);
        free(table);
    }
}

static struct table_node **bucket_of(const struct table *table, uint64_t hash)
{
    return &table->buckets[hash & (table->bucket_count - 1)];
}

struct table_node *table_find(const struct table *table, struct view key)
{
    return table_find_hashed(table, key, table_hash(key));
}

struct table_node *table_find_hashed(const struct table *table, struct view key, uint64_t hash)
{
    struct table_node *node = *bucket_of(table, hash);

    while (node && (node->hash != hash || !view_equal(node->key, key))) {
        node = node->next;
    }
    return node;
}

static bool grow(struct table *table)
{
    size_t bucket_count = table->bucket_count * 2;
    struct table_node **buckets = calloc(bucket_count, sizeof(struct table_node *));

    if (!buckets) {
        return false;
    }
    for (size_t i = 0; i < table->bucket_count; i++) {
        while (table->buckets[i]) {
            struct table_node *node = table->buckets[i];
            struct table_node **bucket = &buckets[node->hash & (bucket_count - 1)];

            table->buckets[i] = node->next;
            node->next = *bucket;
            *bucket = node;
        }
    }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = bucket_count;
    return true;
}

bool table_insert(struct table *table, struct table_node *node, struct view key)
{
    struct table_node **bucket;

    if (table->count >= table->bucket_count && !grow(table)) {
        return false;
    }
    node->key = key;
    node->hash = table_hash(key);
    bucket = bucket_of(table, node->hash);
    node->next = *bucket;
    *bucket = node;
    table->count++;
    return true;
}

void table_remove(struct table *table, struct table_node *node)
{
    struct table_node **link = bucket_of(table, node->hash);

    while (*link && *link != node) {
        link = &(*link)->next;
    }
    if (*link) {
        *link = node->next;
        node->next = NULL;
        table->count--;
    }
}

size_t table_count(const struct table *table)
{
    return table->count;
}

void table_for_each(struct table *table, void (*visit)(struct table_node *, void *), void *argument)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        struct table_node *node = table->buckets[i];

        while (node) {
            struct table_node *next = node->next;

            visit(node, argument);
            node = next;
        }
    }
}
