/* A request target, split: path segments (duplicate slashes collapse, as upstream) and query. */
#ifndef SIM_TARGET_H
#define SIM_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sim/sim_json.h"

enum { TARGET_SEGMENTS = 12 };

/* Views into the target that was parsed. Segments beyond the last are empty. */
struct target {
    struct sim_text segment[TARGET_SEGMENTS];
    size_t count;
    struct sim_text query;
};

/* Splits origin-form and absolute-form targets. Never fails: what has too many segments matches
 * no route. */
void target_parse(struct target *target, struct sim_text text);

/* The raw value of the first query parameter of that name. */
MUST_CHECK bool target_query(const struct target *target, const char *name, struct sim_text *value);

/* The same as a whole number >= 0; `otherwise` when absent, -1 when it is no such number. */
int64_t target_query_integer(const struct target *target, const char *name, int64_t otherwise);

#endif
