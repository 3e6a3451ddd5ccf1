#include "build_config.h"

#include "sim/sim_endpoint.h"

#include <stdlib.h>
#include <string.h>

#include "sim/sim.h"
#include "sim/sim_random.h"

static size_t bucket_of(struct sim_text id)
{
    size_t sum = 5381;
    for (size_t i = 0; i < id.length; i++)
        sum = sum * 33 + (unsigned char)id.data[i];
    return sum % ENDPOINT_BUCKETS;
}

bool endpoint_set_workers(struct endpoint *endpoint, int count)
{
    if (count > endpoint->worker_capacity) {
        struct simulated_worker *workers =
            realloc(endpoint->workers, (size_t)count * sizeof *workers);
        if (!workers)
            return false;
        endpoint->workers = workers;
        int *idle = realloc(endpoint->idle, (size_t)count * sizeof *idle);
        if (!idle)
            return false;
        endpoint->idle = idle;
        for (int i = endpoint->worker_capacity; i < count; i++) {
            workers[i].job = NULL;
            sim_random_name(workers[i].id, 14);
        }
        endpoint->worker_capacity = count;
    }
    endpoint->worker_count = count;
    endpoint->idle_count = 0;
    for (int i = count - 1; i >= 0; i--) {
        if (!endpoint->workers[i].job)
            endpoint->idle[endpoint->idle_count++] = i;
    }
    return true;
}

static bool id_is_valid(struct sim_text id)
{
    if (id.length == 0 || id.length >= ENDPOINT_ID_BYTES)
        return false;
    for (size_t i = 0; i < id.length; i++) {
        char byte = id.data[i];
        if (!((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
              (byte >= '0' && byte <= '9') || byte == '-' || byte == '_'))
            return false;
    }
    return true;
}

static bool is_allowed(const struct sim_options *options, struct sim_text id)
{
    if (options->endpoint_count == 0)
        return true;
    for (size_t i = 0; i < options->endpoint_count; i++) {
        if (sim_text_is(id, options->endpoint[i]))
            return true;
    }
    return false;
}

struct endpoint *endpoint_get(struct endpoint_table *table, struct sim *sim, struct sim_text id)
{
    if (!id_is_valid(id))
        return NULL;
    struct endpoint **slot = &table->buckets[bucket_of(id)];
    while (*slot && !sim_text_is(id, (*slot)->id))
        slot = &(*slot)->hash_next;
    if (*slot || !is_allowed(&sim->options, id))
        return *slot;
    struct endpoint *endpoint = calloc(1, sizeof *endpoint);
    if (!endpoint)
        return NULL;
    endpoint->sim = sim;
    memcpy(endpoint->id, id.data, id.length);
    TAILQ_INIT(&endpoint->jobs);
    TAILQ_INIT(&endpoint->queue);
    TAILQ_INIT(&endpoint->low_queue);
    TAILQ_INIT(&endpoint->real_workers);
    TAILQ_INIT(&endpoint->takers);
    if (!endpoint_set_workers(endpoint, (int)sim->options.workers)) {
        free(endpoint->workers);
        free(endpoint);
        return NULL;
    }
    *slot = endpoint;
    return endpoint;
}

struct endpoint *endpoint_next(struct endpoint_table *table, const struct endpoint *previous)
{
    size_t bucket = 0;
    if (previous) {
        if (previous->hash_next)
            return previous->hash_next;
        bucket = bucket_of(sim_text_of(previous->id)) + 1;
    }
    while (bucket < ENDPOINT_BUCKETS && !table->buckets[bucket])
        bucket++;
    return bucket < ENDPOINT_BUCKETS ? table->buckets[bucket] : NULL;
}

void endpoint_table_clear(struct endpoint_table *table)
{
    for (size_t i = 0; i < ENDPOINT_BUCKETS; i++) {
        for (struct endpoint *next; table->buckets[i]; table->buckets[i] = next) {
            next = table->buckets[i]->hash_next;
            free(table->buckets[i]->workers);
            free(table->buckets[i]->idle);
            free(table->buckets[i]);
        }
    }
}
