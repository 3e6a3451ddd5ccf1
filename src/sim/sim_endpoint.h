/* The endpoints and their simulated workers. */
#ifndef SIM_ENDPOINT_H
#define SIM_ENDPOINT_H

#include <stdbool.h>

#include "sim/sim_job.h"

enum { ENDPOINT_BUCKETS = 256 };

/* All zero: empty. */
struct endpoint_table {
    struct endpoint *buckets[ENDPOINT_BUCKETS];
};

/* The endpoint of that id, made when it is new and allowed. NULL: not allowed, no valid id, or out
 * of memory. */
MUST_CHECK struct endpoint *endpoint_get(struct endpoint_table *table, struct sim *sim,
                                         struct sim_text id);

/* Steps through the table; `previous` NULL for the first. */
struct endpoint *endpoint_next(struct endpoint_table *table, const struct endpoint *previous);

/* Sets how many simulated workers there are; busy ones finish first. Whoever calls dispatches. */
MUST_CHECK bool endpoint_set_workers(struct endpoint *endpoint, int count);

/* Frees all endpoints; their jobs must be gone. */
void endpoint_table_clear(struct endpoint_table *table);

#endif
