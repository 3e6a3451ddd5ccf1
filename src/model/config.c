/* The snapshot: its memory, its references, and what the request path asks it. */
#include "build_config.h"

#include "model/config.h"

#include <stdlib.h>
#include <string.h>

#include "base/table.h"
#include "model/config_internal.h"

/* ---- memory ---------------------------------------------------------------------------------- */

enum { BLOCK_BYTES = 64 * 1024 };

struct config *config_create(void)
{
    struct config *config = calloc(1, sizeof(*config));
    if (config == NULL)
        return NULL;
    config->private = calloc(1, sizeof(*config->private));
    if (config->private == NULL) {
        free(config);
        return NULL;
    }
    atomic_init(&config->private->references, 1);
    return config;
}

/* The next aligned bytes of the newest block, or of a new one; blocks live until the end. Texts
 * need no alignment, and at 100,000 keys the padding would count. */
static void *allocate(struct config *config, size_t size, size_t alignment)
{
    struct config_private *private = config->private;
    struct config_block *block = private->blocks;
    size_t used = block != NULL ? (block->used + alignment - 1) / alignment * alignment : 0;
    if (block == NULL || used > block->size || block->size - used < size) {
        size_t room = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        block = calloc(1, sizeof(*block) + room);
        if (block == NULL)
            return NULL;
        block->size = room;
        block->next = private->blocks;
        private->blocks = block;
        used = 0;
    }
    block->used = used + size;
    return (char *)block->data + used;
}

void *config_allocate(struct config *config, size_t size)
{
    return allocate(config, size, _Alignof(uint64_t));
}

bool config_copy(struct config *config, struct view text, struct view *copy)
{
    if (text.length == 0) {
        *copy = VIEW("");
        return true;
    }
    char *bytes = allocate(config, text.length + 1, 1);
    if (bytes == NULL)
        return false;
    memcpy(bytes, text.data, text.length);
    bytes[text.length] = '\0';
    *copy = view_make(bytes, text.length);
    return true;
}

static void config_destroy(struct config *config)
{
    struct config_private *private = config->private;
    if (private->states != NULL)
        for (size_t i = 0; i < config->key_count; i++)
            if (private->keys[i].state != NULL)
                key_state_release(private->states, private->keys[i].state);
    config_index_clear(&private->key_index);
    config_index_clear(&private->endpoint_index);
    free(private->tls);
    free(private->teams);
    free(private->keys);
    free(private->endpoints);
    while (private->blocks != NULL) {
        struct config_block *block = private->blocks;
        private->blocks = block->next;
        free(block);
    }
    free(private);
    free(config);
}

const struct config *config_ref(const struct config *config)
{
    atomic_fetch_add_explicit(&config->private->references, 1, memory_order_relaxed);
    return config;
}

void config_unref(const struct config *config)
{
    if (config == NULL)
        return;
    struct config_private *private = config->private;
    if (atomic_fetch_sub_explicit(&private->references, 1, memory_order_acq_rel) != 1)
        return;
    /* Nobody reads it any more; const was the promise to readers. */
    union {
        const struct config *read;
        struct config *owned;
    } last = {.read = config};
    config_destroy(last.owned);
}

bool config_adopt(struct config *config, struct key_state_table *states)
{
    config->private->states = states;
    for (size_t i = 0; i < config->key_count; i++) {
        struct config_key *key = &config->private->keys[i];
        key->state = key_state_acquire(states, key->id);
        if (key->state == NULL)
            return false;
    }
    return true;
}

/* ---- indexes --------------------------------------------------------------------------------- */

struct view config_key_name(const void *keys, size_t position)
{
    return ((const struct config_key *)keys)[position].id;
}

struct view config_team_name(const void *teams, size_t position)
{
    return ((const struct config_team *)teams)[position].name;
}

struct view config_endpoint_name(const void *endpoints, size_t position)
{
    return ((const struct config_endpoint *)endpoints)[position].name;
}

bool config_index_prepare(struct config_index *index, size_t count)
{
    if (count >= UINT32_MAX / 4)
        return false;
    size_t size = 4;
    while (size < count + count / 2)
        size *= 2;
    index->slots = calloc(size, sizeof(*index->slots));
    index->mask = size - 1;
    return index->slots != NULL;
}

size_t config_index_insert(struct config_index *index, struct view name, size_t position,
                           struct view (*name_of)(const void *, size_t), const void *items)
{
    size_t slot = (size_t)table_hash(name) & index->mask;
    while (index->slots[slot] != 0) {
        if (view_equal(name_of(items, index->slots[slot] - 1), name))
            return index->slots[slot] - 1;
        slot = (slot + 1) & index->mask;
    }
    index->slots[slot] = (uint32_t)(position + 1);
    return SIZE_MAX;
}

static size_t index_find(const struct config_index *index, struct view name,
                         struct view (*name_of)(const void *, size_t), const void *items)
{
    if (index->slots == NULL)
        return SIZE_MAX;
    size_t slot = (size_t)table_hash(name) & index->mask;
    while (index->slots[slot] != 0) {
        if (view_equal(name_of(items, index->slots[slot] - 1), name))
            return index->slots[slot] - 1;
        slot = (slot + 1) & index->mask;
    }
    return SIZE_MAX;
}

void config_index_clear(struct config_index *index)
{
    free(index->slots);
    index->slots = NULL;
}

const struct config_key *config_find_key(const struct config *config, struct view id)
{
    size_t found = index_find(&config->private->key_index, id, config_key_name, config->keys);
    return found == SIZE_MAX ? NULL : &config->keys[found];
}

const struct config_endpoint *config_find_endpoint(const struct config *config, struct view name)
{
    size_t found =
        index_find(&config->private->endpoint_index, name, config_endpoint_name, config->endpoints);
    return &config->endpoints[found == SIZE_MAX ? 0 : found];
}

uint64_t config_endpoint_keep_ms(const struct config_endpoint *endpoint, enum job_state state)
{
    if (state == JOB_COMPLETED)
        return endpoint->retention_completed_ms;
    if (state == JOB_CANCELLED && endpoint->retention_cancelled_ms > 0)
        return endpoint->retention_cancelled_ms;
    if (state == JOB_TIMED_OUT && endpoint->retention_timed_out_ms > 0)
        return endpoint->retention_timed_out_ms;
    return endpoint->retention_failed_ms;
}

/* ---- what a key may do ----------------------------------------------------------------------- */

static bool matches(struct view pattern, struct view endpoint)
{
    if (pattern.length > 0 && pattern.data[pattern.length - 1] == '*')
        return view_starts_with(endpoint, view_first(pattern, pattern.length - 1));
    return view_equal(pattern, endpoint);
}

static bool lists(const struct config_texts *list, struct view endpoint)
{
    for (size_t i = 0; i < list->count; i++)
        if (matches(list->items[i], endpoint))
            return true;
    return false;
}

static bool names(const struct config_texts *list, struct view endpoint)
{
    for (size_t i = 0; i < list->count; i++)
        if (view_equal(list->items[i], endpoint))
            return true;
    return false;
}

bool config_endpoint_allowed(const struct config_key *key, struct view endpoint)
{
    const struct config_texts *team = &key->team->endpoints;
    if (view_equal(endpoint, VIEW("flash")) &&
        !names(key->endpoints != NULL ? key->endpoints : team, endpoint))
        return false;
    return lists(team, endpoint) && (key->endpoints == NULL || lists(key->endpoints, endpoint));
}

bool config_key_allowed_from(const struct config_key *key, const struct address *address)
{
    if (key->allow_from == NULL)
        return true;
    for (size_t i = 0; i < key->allow_from->count; i++)
        if (address_in_network(address, &key->allow_from->items[i]))
            return true;
    return false;
}

const char *config_operation_text(enum config_operation operation)
{
    switch (operation) {
    case CONFIG_OPERATION_RUN: return "run";
    case CONFIG_OPERATION_RUNSYNC: return "runsync";
    case CONFIG_OPERATION_STATUS: return "status";
    case CONFIG_OPERATION_STREAM: return "stream";
    case CONFIG_OPERATION_CANCEL: return "cancel";
    case CONFIG_OPERATION_RETRY: return "retry";
    case CONFIG_OPERATION_HEALTH: return "health";
    case CONFIG_OPERATION_PURGE: return "purge";
    case CONFIG_OPERATION_OPENAI: return "openai";
    case CONFIG_OPERATION_PURGE_ALL: return "purge-all";
    case CONFIG_OPERATION_ADOPT: return "adopt";
    case CONFIG_OPERATION_REQUESTS: return "requests";
    case CONFIG_OPERATION_BATCH: return "batch";
    case CONFIG_OPERATION_DELETE: return "delete";
    }
    return "";
}
