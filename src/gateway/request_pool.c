#include "build_config.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/request.h"
#include "gateway/request_private.h"

/* The requests of one worker: where they lie, and how a handle finds one. */

/* Free requests that are kept for the next callers; more than this go back to the heap. */
enum { POOL_KEPT = 2048 };

struct request_pool {
    struct gateway *gateway;
    struct request **slots; /* by handle.slot; never shrinks */
    uint64_t *generations;
    uint32_t *free_slots;
    struct request *free_requests[POOL_KEPT];
    size_t free_request_count;
    size_t running;
    uint32_t slot_count;
    uint32_t free_slot_count;
    uint32_t slot_capacity;
};

struct request_pool *request_pool_create(struct gateway *gateway)
{
    struct request_pool *pool = calloc(1, sizeof *pool);

    if (pool) {
        pool->gateway = gateway;
    }
    return pool;
}

void request_pool_destroy(struct request_pool *pool)
{
    if (!pool) {
        return;
    }
    for (uint32_t i = 0; i < pool->slot_count; i++) {
        struct request *request = pool->slots[i];

        if (request) {
            /* The loop has stopped: what still runs ends without an answer. */
            request->inbound.connection = NULL;
            if (!request->dead) {
                request->caller = CALLER_DONE;
                request->work = WORK_DONE;
                request_finish(request);
            }
        }
    }
    loop_flush_graves(pool->gateway->loop);
    for (size_t i = 0; i < pool->free_request_count; i++) {
        free(pool->free_requests[i]);
    }
    free(pool->slots);
    free(pool->generations);
    free(pool->free_slots);
    free(pool);
}

size_t request_pool_running(const struct request_pool *pool)
{
    return pool->running;
}

static bool grow_array(void **array, size_t count, size_t size)
{
    void *grown = reallocarray(*array, count, size);

    if (!grown) {
        return false;
    }
    *array = grown;
    return true;
}

static bool grow_slots(struct request_pool *pool)
{
    uint32_t capacity = pool->slot_capacity > 0 ? pool->slot_capacity * 2 : 64;
    void *slots = pool->slots;
    void *generations = pool->generations;
    void *free_slots = pool->free_slots;
    bool grown = grow_array(&slots, capacity, sizeof *pool->slots);

    pool->slots = slots;
    grown = grown && grow_array(&generations, capacity, sizeof *pool->generations);
    pool->generations = generations;
    grown = grown && grow_array(&free_slots, capacity, sizeof *pool->free_slots);
    pool->free_slots = free_slots;
    if (grown) {
        pool->slot_capacity = capacity;
    }
    return grown;
}

static bool take_slot(struct request_pool *pool, uint32_t *slot)
{
    if (pool->free_slot_count > 0) {
        *slot = pool->free_slots[--pool->free_slot_count];
        return true;
    }
    if (pool->slot_count == pool->slot_capacity && !grow_slots(pool)) {
        return false;
    }
    *slot = pool->slot_count++;
    pool->generations[*slot] = 0;
    return true;
}

struct request *request_pool_take(struct gateway *gateway)
{
    struct request_pool *pool = gateway->requests;
    struct request *request;
    uint32_t slot;

    if (!take_slot(pool, &slot)) {
        return NULL;
    }
    if (pool->free_request_count > 0) {
        request = pool->free_requests[--pool->free_request_count];
    } else {
        request = malloc(sizeof *request);
        if (!request) {
            pool->free_slots[pool->free_slot_count++] = slot;
            return NULL;
        }
    }
    /* Everything behind the inbound and before the two storages at the end: those are written
     * before they are read. */
    memset((char *)request + sizeof request->inbound, 0,
           offsetof(struct request, sent_head_storage) - sizeof request->inbound);
    builder_init(&request->sent_head, request->sent_head_storage,
                 sizeof request->sent_head_storage);
    builder_init(&request->reply, request->reply_storage, sizeof request->reply_storage);
    request->gateway = gateway;
    request->handle = (struct request_handle){.gateway_index = (uint32_t)gateway->index,
                                              .slot = slot,
                                              .generation = ++pool->generations[slot]};
    pool->slots[slot] = request;
    pool->running++;
    return request;
}

static void destroy(void *object)
{
    struct request *request = object;
    struct request_pool *pool = request->gateway->requests;

    inbound_clear(&request->inbound);
    builder_clear(&request->sent_head);
    builder_clear(&request->reply);
    pool->free_slots[pool->free_slot_count++] = request->handle.slot;
    if (pool->free_request_count < POOL_KEPT) {
        pool->free_requests[pool->free_request_count++] = request;
    } else {
        free(request);
    }
}

void request_pool_bury(struct request *request)
{
    struct request_pool *pool = request->gateway->requests;

    pool->slots[request->handle.slot] = NULL;
    pool->running--;
    loop_bury(request->gateway->loop, &request->grave, destroy, request);
}

struct request *request_find(struct gateway *gateway, struct request_handle handle)
{
    struct request_pool *pool = gateway->requests;

    if (handle.slot >= pool->slot_count || pool->generations[handle.slot] != handle.generation ||
        !pool->slots[handle.slot] || pool->slots[handle.slot]->dead) {
        return NULL;
    }
    return pool->slots[handle.slot];
}
