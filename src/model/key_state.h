/* What changes about a key while podgate runs: the state of its rate limits and its requests in
 * flight. It is kept beside the configuration, by key id, so that a reload neither forgives nor
 * forgets. A configuration holds one reference on the state of each of its keys; a request holds
 * its configuration, so `key->state` stays valid for as long as the request needs it.
 *
 *     struct key_state_table *states = key_state_table_create();       ...once per process
 *     config_adopt(config, states);
 *     if (!key_state_enter(key->state, key->concurrency)) ...          ...429
 *     key_state_leave(key->state);
 */
#ifndef PODGATE_MODEL_KEY_STATE_H
#define PODGATE_MODEL_KEY_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "base/table.h"
#include "model/limit.h"

/* How many rates one key can have. */
enum { KEY_STATE_LIMITS = 4 };

/* Shared by all threads; outside of key_state.c only the limits and the count are touched. */
struct key_state {
    struct table_node node; /* under the table's lock */
    uint32_t references;    /* under the table's lock */
    _Atomic uint32_t in_flight;
    struct limit_state limits[KEY_STATE_LIMITS]; /* one per rate of the key, in their order */
    char id[];                                   /* without a NUL; the node knows its length */
};

/* All states of the process. */
struct key_state_table;

/* An empty table; NULL without memory. */
MUST_CHECK struct key_state_table *key_state_table_create(void);

/* Frees the table. All configurations that adopted states of it must be gone. NULL is allowed. */
void key_state_table_destroy(struct key_state_table *table);

/* The state of a key id with one more reference, new (nothing used) when there was none. NULL
 * without memory. Any thread. */
MUST_CHECK struct key_state *key_state_acquire(struct key_state_table *table, struct view id);

/* One reference less; the last one forgets what the key used. Any thread. */
void key_state_release(struct key_state_table *table, struct key_state *state);

/* How many ids have a state. Any thread. */
size_t key_state_count(struct key_state_table *table);

/* Counts a request in unless `concurrency` are in flight already (0: no limit). Any thread. */
MUST_CHECK bool key_state_enter(struct key_state *state, uint32_t concurrency);

/* Counts a request out that was counted in. Any thread. */
void key_state_leave(struct key_state *state);

#endif
