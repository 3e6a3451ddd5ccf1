#include "build_config.h"

#include "model/key_state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct key_state_table {
    pthread_mutex_t
        lock; /* taken by loading and freeing a configuration only, never by a request */
    struct table *states;
};

struct key_state_table *key_state_table_create(void)
{
    struct key_state_table *table = calloc(1, sizeof(*table));
    if (table == NULL)
        return NULL;
    table->states = table_create();
    if (table->states == NULL || pthread_mutex_init(&table->lock, NULL) != 0) {
        table_destroy(table->states);
        free(table);
        return NULL;
    }
    return table;
}

static void free_state(struct table_node *node, void *argument)
{
    table_remove(argument, node);
    free((char *)node - offsetof(struct key_state, node));
}

void key_state_table_destroy(struct key_state_table *table)
{
    if (table == NULL)
        return;
    table_for_each(table->states, free_state, table->states);
    table_destroy(table->states);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

static struct key_state *key_state_create(struct key_state_table *table, struct view id)
{
    struct key_state *state = calloc(1, sizeof(*state) + id.length);
    if (state == NULL)
        return NULL;
    memcpy(state->id, id.data, id.length);
    struct view name = {.data = state->id, .length = id.length};
    if (!table_insert(table->states, &state->node, name)) {
        free(state);
        return NULL;
    }
    return state;
}

struct key_state *key_state_acquire(struct key_state_table *table, struct view id)
{
    pthread_mutex_lock(&table->lock);
    struct table_node *node = table_find(table->states, id);
    struct key_state *state;
    if (node != NULL)
        state = (struct key_state *)(void *)((char *)node - offsetof(struct key_state, node));
    else
        state = key_state_create(table, id);
    if (state != NULL)
        state->references++;
    pthread_mutex_unlock(&table->lock);
    return state;
}

void key_state_release(struct key_state_table *table, struct key_state *state)
{
    pthread_mutex_lock(&table->lock);
    if (--state->references == 0) {
        table_remove(table->states, &state->node);
        free(state);
    }
    pthread_mutex_unlock(&table->lock);
}

size_t key_state_count(struct key_state_table *table)
{
    pthread_mutex_lock(&table->lock);
    size_t count = table_count(table->states);
    pthread_mutex_unlock(&table->lock);
    return count;
}

bool key_state_enter(struct key_state *state, uint32_t concurrency)
{
    /* Counted first and taken back when it was too much: no loop, and two callers that race for the
     * last place can at worst both be refused for that moment, never both let in. */
    uint32_t before = atomic_fetch_add_explicit(&state->in_flight, 1, memory_order_relaxed);
    if (concurrency == 0 || before < concurrency)
        return true;
    atomic_fetch_sub_explicit(&state->in_flight, 1, memory_order_relaxed);
    return false;
}

void key_state_leave(struct key_state *state)
{
    atomic_fetch_sub_explicit(&state->in_flight, 1, memory_order_relaxed);
}
