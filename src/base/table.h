/* A hash map from byte strings to objects that carry their own node: no allocation per entry, no
 * copy of keys. The hash is SipHash-2-4 under a random secret, so callers can't choose collisions.
 *
 *     struct flight { struct table_node node; ... };
 *     table_insert(table, &flight->node, name);
 *     struct table_node *found = table_find(table, name);
 */
#ifndef PODGATE_BASE_TABLE_H
#define PODGATE_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

struct table;

/* Embedded in the object. `key` points into the object and must stay unchanged while it is in. */
struct table_node {
    struct table_node *next;
    uint64_t hash;
    struct view key;
};

/* An empty table, or NULL without memory. One thread at a time. */
struct table *table_create(void);

/* Frees the table, not the objects in it. NULL is allowed. */
void table_destroy(struct table *table);

/* The node whose key has the same bytes, or NULL. */
struct table_node *table_find(const struct table *table, struct view key);

/* The same when the caller has table_hash(key) already. */
struct table_node *table_find_hashed(const struct table *table, struct view key, uint64_t hash);

/* Puts a node in under `key`, which must not be in the table yet. False without memory to grow (the
 * table goes on as it was, without the node). */
MUST_CHECK bool table_insert(struct table *table, struct table_node *node, struct view key);

/* Takes a node out that is in the table. */
void table_remove(struct table *table, struct table_node *node);

/* How many nodes are in. */
size_t table_count(const struct table *table);

/* Calls `visit(node, argument)` for each node; `visit` may remove the node that it was given, and
 * must not insert. */
void table_for_each(struct table *table, void (*visit)(struct table_node *, void *),
                    void *argument);

/* The table's keyed hash of some bytes under a secret made at first use in the process: for
 * spreading jobs over workers. Any thread. */
uint64_t table_hash(struct view key);

#endif
