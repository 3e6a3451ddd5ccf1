/* Counters, gauges and histograms, one block per thread so that counting needs no lock and no
 * shared cache line; reading adds the blocks up. What is counted stands in a catalogue of families
 * that the owner of the registry gives; each family has up to two labels with fixed values.
 *
 *     metrics_add(block, METRIC_REQUESTS, ROUTE_RUN, 2, 1);
 *     metrics_observe(block, METRIC_DURATION, ROUTE_RUN, microseconds);
 */
#ifndef PODGATE_BASE_METRICS_H
#define PODGATE_BASE_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };

/* One label: its name and the values that it may have, all literals. */
struct metrics_label {
    const char *name;
    const char *const *values;
    size_t value_count;
};

/* One family of the catalogue. Counters of time and histograms take microseconds and are shown in
 * seconds when `microseconds` is set. Labels without a name are absent. A histogram has one label
 * at the most. */
struct metrics_family {
    const char *name;
    const char *help;
    enum metrics_type type;
    bool microseconds;
    struct metrics_label first;
    struct metrics_label second;
};

/* All blocks of a process. */
struct metrics;

/* One thread's counters. Written by its thread only; read by any. */
struct metrics_block;

/* A registry over `families`, a literal table that outlives it. NULL without memory. */
struct metrics *metrics_create(const struct metrics_family *families, size_t family_count);

/* Frees the registry and its blocks. NULL is allowed. */
void metrics_destroy(struct metrics *metrics);

/* A block for one more thread, owned by the registry. NULL without memory. Any thread. */
struct metrics_block *metrics_block_create(struct metrics *metrics);

/* Adds to a counter or gauge. `first` and `second` index the label values (0 where there is no
 * label); a value out of range is counted under the last one. */
void metrics_add(struct metrics_block *block, size_t family, size_t first, size_t second,
                 int64_t amount);

/* Puts one value, in microseconds where the family says so, into a histogram. */
void metrics_observe(struct metrics_block *block, size_t family, size_t first, uint64_t value);

/* The sum over all blocks of one counter or gauge. Any thread. */
uint64_t metrics_sum(struct metrics *metrics, size_t family, size_t first, size_t second);

/* Appends the Prometheus text format (version 0.0.4) of all families to `text`; with `openmetrics`
 * the OpenMetrics 1.0 form and its final "# EOF". Any thread. */
void metrics_render(struct metrics *metrics, struct builder *text, bool openmetrics);

#endif
