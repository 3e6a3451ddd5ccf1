#include "build_config.h"

#include "base/metrics.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Upper bounds of the histograms' buckets, in microseconds where the family counts those: from half
 * a millisecond (an answer from memory) to the longest hold that callers may ask for. */
static const uint64_t bucket_bounds[] = {
    500,    1000,    2500,    5000,    10000,    25000,    50000,    100000,    250000,
    500000, 1000000, 2500000, 5000000, 10000000, 30000000, 90000000, 300000000,
};

enum {
    BOUND_COUNT = sizeof bucket_bounds / sizeof bucket_bounds[0],
    /* Of one histogram: its buckets with the one to infinity, then the sum of the values. */
    SUM_CELL = BOUND_COUNT + 1,
    HISTOGRAM_CELLS = BOUND_COUNT + 2,
    CACHE_LINE = 64,
};

/* Where a family's cells lie in every block. */
struct layout {
    size_t offset;
    size_t first_count;
    size_t second_count;
};

/* Read by any thread; the list of blocks only grows, at its front, until the end of the registry.
 */
struct metrics {
    const struct metrics_family *families;
    size_t family_count;
    size_t cell_count;
    struct layout *layouts;
    size_t *sorted; /* indexes of `families` by name */
    _Atomic(struct metrics_block *) blocks;
};

/* Values are added up modulo 2^64, so a gauge may rise in one block and fall in another. */
struct metrics_block {
    struct metrics_block *next;
    const struct metrics *metrics;
    _Alignas(CACHE_LINE) _Atomic uint64_t cells[];
};

static size_t count_values(const struct metrics_label *label)
{
    return label->name && label->value_count > 0 ? label->value_count : 1;
}

static struct layout lay_out(const struct metrics_family *family, size_t offset)
{
    return (struct layout){
        .offset = offset,
        .first_count = count_values(&family->first),
        /* A histogram's second dimension is its buckets. */
        .second_count =
            family->type == METRICS_HISTOGRAM ? HISTOGRAM_CELLS : count_values(&family->second),
    };
}

static void sort_by_name(struct metrics *metrics)
{
    for (size_t i = 0; i < metrics->family_count; i++) {
        size_t at = i;

        while (at > 0 && strcmp(metrics->families[metrics->sorted[at - 1]].name,
                                metrics->families[i].name) > 0) {
            metrics->sorted[at] = metrics->sorted[at - 1];
            at--;
        }
        metrics->sorted[at] = i;
    }
}

struct metrics *metrics_create(const struct metrics_family *families, size_t family_count)
{
    struct metrics *metrics = calloc(1, sizeof *metrics);

    if (!metrics) {
        return NULL;
    }
    metrics->families = families;
    metrics->family_count = family_count;
    metrics->layouts = calloc(family_count + 1, sizeof *metrics->layouts);
    metrics->sorted = calloc(family_count + 1, sizeof *metrics->sorted);
    if (!metrics->layouts || !metrics->sorted) {
        metrics_destroy(metrics);
        return NULL;
    }
    for (size_t i = 0; i < family_count; i++) {
        metrics->layouts[i] = lay_out(&families[i], metrics->cell_count);
        metrics->cell_count += metrics->layouts[i].first_count * metrics->layouts[i].second_count;
    }
    sort_by_name(metrics);
    return metrics;
}

void metrics_destroy(struct metrics *metrics)
{
    struct metrics_block *block;

    if (!metrics) {
        return;
    }
    block = atomic_load_explicit(&metrics->blocks, memory_order_acquire);
    while (block) {
        struct metrics_block *next = block->next;

        free(block);
        block = next;
    }
    free(metrics->layouts);
    free(metrics->sorted);
    free(metrics);
}

struct metrics_block *metrics_block_create(struct metrics *metrics)
{
    size_t bytes = sizeof(struct metrics_block) + metrics->cell_count * sizeof(_Atomic uint64_t);
    struct metrics_block *block;

    /* Whole cache lines, so that no two threads count in the same one. */
    bytes = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    block = aligned_alloc(CACHE_LINE, bytes);
    if (!block) {
        return NULL;
    }
    memset(block, 0, bytes);
    block->metrics = metrics;
    block->next = atomic_load_explicit(&metrics->blocks, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&metrics->blocks, &block->next, block,
                                                  memory_order_release, memory_order_relaxed)) {
        continue;
    }
    return block;
}

static size_t cell_of(const struct layout *layout, size_t first, size_t second)
{
    if (first >= layout->first_count) {
        first = layout->first_count - 1;
    }
    if (second >= layout->second_count) {
        second = layout->second_count - 1;
    }
    return layout->offset + first * layout->second_count + second;
}

/* The only writer of a cell needs no locked instruction: a load and a store do. */
static void add_to_cell(_Atomic uint64_t *cell, uint64_t amount)
{
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + amount,
                          memory_order_relaxed);
}

void metrics_add(struct metrics_block *block, size_t family, size_t first, size_t second,
                 int64_t amount)
{
    add_to_cell(&block->cells[cell_of(&block->metrics->layouts[family], first, second)],
                (uint64_t)amount);
}

void metrics_observe(struct metrics_block *block, size_t family, size_t first, uint64_t value)
{
    const struct layout *layout = &block->metrics->layouts[family];
    size_t bucket = 0;

    while (bucket < BOUND_COUNT && value > bucket_bounds[bucket]) {
        bucket++;
    }
    add_to_cell(&block->cells[cell_of(layout, first, bucket)], 1);
    add_to_cell(&block->cells[cell_of(layout, first, SUM_CELL)], value);
}

static uint64_t sum_cell(const struct metrics *metrics, size_t cell)
{
    const struct metrics_block *block =
        atomic_load_explicit(&metrics->blocks, memory_order_acquire);
    uint64_t sum = 0;

    for (; block; block = block->next) {
        sum += atomic_load_explicit(&block->cells[cell], memory_order_relaxed);
    }
    return sum;
}

uint64_t metrics_sum(struct metrics *metrics, size_t family, size_t first, size_t second)
{
    uint64_t sum = sum_cell(metrics, cell_of(&metrics->layouts[family], first, second));

    /* Blocks are read one after the other, so a gauge may look negative for a moment. */
    return sum > INT64_MAX ? 0 : sum;
}

/* ---- the text ------------------------------------------------------------------------------- */

/* What is being rendered. */
struct page {
    struct metrics *metrics;
    struct builder *text;
    bool openmetrics;
};

static void put_escaped(struct builder *text, const char *value, bool quotes)
{
    for (; *value; value++) {
        if (*value == '\\') {
            builder_append(text, VIEW("\\\\"));
        } else if (*value == '\n') {
            builder_append(text, VIEW("\\n"));
        } else if (*value == '"' && quotes) {
            builder_append(text, VIEW("\\\""));
        } else {
            builder_append(text, (struct view){value, 1});
        }
    }
}

/* Microseconds as seconds, exactly, without trailing zeros; with `canonical` a whole number has the
 * ".0" that OpenMetrics wants in a bucket's bound. */
static void put_seconds(struct builder *text, uint64_t microseconds, bool canonical)
{
    uint64_t fraction = microseconds % 1000000;
    char digits[6];
    size_t count = sizeof digits;

    builder_append_u64(text, microseconds / 1000000);
    for (size_t i = sizeof digits; i > 0; i--) {
        digits[i - 1] = (char)('0' + fraction % 10);
        fraction /= 10;
    }
    while (count > 0 && digits[count - 1] == '0') {
        count--;
    }
    if (count == 0 && canonical) {
        count = 1;
    }
    if (count > 0) {
        builder_append(text, VIEW("."));
        builder_append(text, (struct view){digits, count});
    }
}

static void put_value(struct builder *text, const struct metrics_family *family, uint64_t value)
{
    if (family->microseconds) {
        put_seconds(text, value, false);
    } else {
        builder_append_u64(text, value);
    }
    builder_append(text, VIEW("\n"));
}

/* The name without "_total": what OpenMetrics calls the family of a counter. */
static struct view base_name(const struct metrics_family *family)
{
    static const char suffix[] = "_total";
    struct view name = view_of_string(family->name);
    size_t length = sizeof suffix - 1;

    if (family->type == METRICS_COUNTER && name.length > length &&
        memcmp(name.data + name.length - length, suffix, length) == 0) {
        name.length -= length;
    }
    return name;
}

static void put_name(const struct page *page, const struct metrics_family *family,
                     const char *suffix)
{
    builder_append(page->text, base_name(family));
    builder_append(page->text, view_of_string(suffix));
}

static void put_head(const struct page *page, const struct metrics_family *family)
{
    static const char *const types[] = {" counter\n", " gauge\n", " histogram\n"};
    const char *suffix = family->type == METRICS_COUNTER && !page->openmetrics ? "_total" : "";

    builder_append(page->text, VIEW("# HELP "));
    put_name(page, family, suffix);
    builder_append(page->text, VIEW(" "));
    put_escaped(page->text, family->help, page->openmetrics);
    builder_append(page->text, VIEW("\n# TYPE "));
    put_name(page, family, suffix);
    builder_append(page->text, view_of_string(types[family->type]));
}

/* Puts one label, with "{" or "," in front. True: a "}" is due. */
static bool put_label(struct builder *text, bool open, const struct metrics_label *label,
                      size_t value)
{
    if (!label->name || label->value_count == 0) {
        return open;
    }
    builder_append(text, open ? VIEW(",") : VIEW("{"));
    builder_append(text, view_of_string(label->name));
    builder_append(text, VIEW("=\""));
    put_escaped(text, label->values[value], true);
    builder_append(text, VIEW("\""));
    return true;
}

/* A pair of labels that never met is left out: most never do, and there are many. What has one
 * label is there from the start, so that its first event is seen as an increase. */
static void put_cells(const struct page *page, size_t index)
{
    const struct metrics_family *family = &page->metrics->families[index];
    const struct layout *layout = &page->metrics->layouts[index];
    bool sparse = family->type == METRICS_COUNTER && family->second.name;

    for (size_t first = 0; first < layout->first_count; first++) {
        for (size_t second = 0; second < layout->second_count; second++) {
            uint64_t value = metrics_sum(page->metrics, index, first, second);
            bool open = false;

            if (sparse && value == 0) {
                continue;
            }
            put_name(page, family, family->type == METRICS_COUNTER ? "_total" : "");
            open = put_label(page->text, open, &family->first, first);
            open = put_label(page->text, open, &family->second, second);
            builder_append(page->text, open ? VIEW("} ") : VIEW(" "));
            put_value(page->text, family, value);
        }
    }
}

static void put_bound(const struct page *page, const struct metrics_family *family, size_t bucket)
{
    if (bucket == BOUND_COUNT) {
        builder_append(page->text, VIEW("+Inf"));
    } else if (family->microseconds) {
        put_seconds(page->text, bucket_bounds[bucket], page->openmetrics);
    } else {
        builder_append_u64(page->text, bucket_bounds[bucket]);
        builder_append(page->text, page->openmetrics ? VIEW(".0") : VIEW(""));
    }
}

static void put_histogram_end(const struct page *page, const struct metrics_family *family,
                              size_t first, const char *suffix)
{
    put_name(page, family, suffix);
    builder_append(page->text,
                   put_label(page->text, false, &family->first, first) ? VIEW("} ") : VIEW(" "));
}

/* The count is the sum of the buckets as they were read, so that the text never contradicts itself
 * while workers count on. */
static void put_histogram(const struct page *page, size_t index, size_t first)
{
    const struct metrics_family *family = &page->metrics->families[index];
    const struct layout *layout = &page->metrics->layouts[index];
    uint64_t buckets[BOUND_COUNT + 1];
    uint64_t total = 0;

    for (size_t bucket = 0; bucket <= BOUND_COUNT; bucket++) {
        total += sum_cell(page->metrics, cell_of(layout, first, bucket));
        buckets[bucket] = total;
    }
    if (total == 0 && layout->first_count > 1) {
        return;
    }
    for (size_t bucket = 0; bucket <= BOUND_COUNT; bucket++) {
        put_name(page, family, "_bucket");
        builder_append(page->text, put_label(page->text, false, &family->first, first)
                                       ? VIEW(",le=\"")
                                       : VIEW("{le=\""));
        put_bound(page, family, bucket);
        builder_append(page->text, VIEW("\"} "));
        builder_append_u64(page->text, buckets[bucket]);
        builder_append(page->text, VIEW("\n"));
    }
    put_histogram_end(page, family, first, "_sum");
    put_value(page->text, family, sum_cell(page->metrics, cell_of(layout, first, SUM_CELL)));
    put_histogram_end(page, family, first, "_count");
    builder_append_u64(page->text, total);
    builder_append(page->text, VIEW("\n"));
}

void metrics_render(struct metrics *metrics, struct builder *text, bool openmetrics)
{
    struct page page = {metrics, text, openmetrics};

    for (size_t i = 0; i < metrics->family_count; i++) {
        size_t index = metrics->sorted[i];

        put_head(&page, &metrics->families[index]);
        if (metrics->families[index].type == METRICS_HISTOGRAM) {
            for (size_t first = 0; first < metrics->layouts[index].first_count; first++) {
                put_histogram(&page, index, first);
            }
        } else {
            put_cells(&page, index);
        }
    }
    if (openmetrics) {
        builder_append(text, VIEW("# EOF\n"));
    }
}
