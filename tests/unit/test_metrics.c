#include "build_config.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/metrics.h"

enum { WAITS, REQUESTS, DURATION, OPEN, BUSY, SIZES };

static const char *const routes[] = {"run", "we\"ird\\\n"};
static const char *const codes[] = {"2xx", "5xx"};

static const struct metrics_family families[] = {
    [WAITS] = {"z_wait_seconds_total", "Time waited.", METRICS_COUNTER, true, {0}, {0}},
    [REQUESTS] = {"a_requests_total",
                  "Requests\nby route, \\ and code.",
                  METRICS_COUNTER,
                  false,
                  {"route", routes, 2},
                  {"code", codes, 2}},
    [DURATION] = {"m_duration_seconds",
                  "Time taken.",
                  METRICS_HISTOGRAM,
                  true,
                  {"route", routes, 2},
                  {0}},
    [OPEN] = {"b_open", "Open \"now\".", METRICS_GAUGE, false, {0}, {0}},
    [BUSY] = {"c_busy", "Busy.", METRICS_GAUGE, false, {"route", routes, 2}, {"code", codes, 2}},
    [SIZES] = {"n_sizes", "Sizes.", METRICS_HISTOGRAM, false, {0}, {0}},
};

static struct metrics *metrics;
static struct metrics_block *block;

static void set_up(void)
{
    metrics = metrics_create(families, sizeof families / sizeof families[0]);
    cr_assert_not_null(metrics);
    block = metrics_block_create(metrics);
    cr_assert_not_null(block);
}

static void tear_down(void)
{
    metrics_destroy(metrics);
}

TestSuite(metrics, .init = set_up, .fini = tear_down);

/* The page as a NUL-terminated text; the caller frees it. */
static char *render(bool openmetrics)
{
    char first[256];
    struct builder text;
    char *copy;

    builder_init(&text, first, sizeof first);
    metrics_render(metrics, &text, openmetrics);
    copy = strndup(builder_view(&text).data, builder_view(&text).length);
    builder_clear(&text);
    cr_assert_not_null(copy);
    return copy;
}

static void expect_line(bool openmetrics, const char *line, bool there)
{
    char *page = render(openmetrics);
    char wanted[256];

    snprintf(wanted, sizeof wanted, "%s\n", line);
    bool found = strncmp(page, wanted, strlen(wanted)) == 0;
    for (char *at = page; !found && (at = strstr(at, wanted)) != NULL; at++) {
        found = at == page || at[-1] == '\n';
    }
    cr_expect_eq(found, there, "%s%s in:\n%s", there ? "no " : "unwanted ", line, page);
    free(page);
}

Test(metrics, adds_up_all_blocks)
{
    struct metrics_block *other = metrics_block_create(metrics);

    cr_assert_not_null(other);
    metrics_add(block, REQUESTS, 0, 1, 2);
    metrics_add(other, REQUESTS, 0, 1, 40);
    metrics_add(other, REQUESTS, 1, 1, 7);
    cr_expect_eq(metrics_sum(metrics, REQUESTS, 0, 1), 42);
    cr_expect_eq(metrics_sum(metrics, REQUESTS, 1, 1), 7);
    cr_expect_eq(metrics_sum(metrics, REQUESTS, 0, 0), 0);
}

Test(metrics, gauge_may_rise_in_one_block_and_fall_in_another)
{
    struct metrics_block *other = metrics_block_create(metrics);

    cr_assert_not_null(other);
    metrics_add(block, OPEN, 0, 0, 3);
    metrics_add(other, OPEN, 0, 0, -2);
    cr_expect_eq(metrics_sum(metrics, OPEN, 0, 0), 1);
    metrics_add(other, OPEN, 0, 0, -2);
    cr_expect_eq(metrics_sum(metrics, OPEN, 0, 0), 0, "below zero shows as zero");
}

Test(metrics, counts_a_value_out_of_range_under_the_last_one)
{
    metrics_add(block, REQUESTS, 99, 99, 1);
    metrics_add(block, OPEN, 5, 5, 1);
    metrics_observe(block, DURATION, 99, 1);
    cr_expect_eq(metrics_sum(metrics, REQUESTS, 1, 1), 1);
    cr_expect_eq(metrics_sum(metrics, OPEN, 0, 0), 1);
    expect_line(false, "m_duration_seconds_count{route=\"we\\\"ird\\\\\\n\"} 1", true);
}

Test(metrics, renders_families_sorted_by_name_with_help_and_type)
{
    char *page = render(false);
    const char *names[] = {"# HELP a_requests_total", "# HELP b_open", "# HELP c_busy",
                           "# HELP m_duration_seconds", "# HELP n_sizes",
                           "# HELP z_wait_seconds_total"};
    const char *before = page;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *at = strstr(page, names[i]);

        cr_assert_not_null(at, "%s", names[i]);
        cr_expect_geq(at, before, "%s comes too early", names[i]);
        before = at;
    }
    free(page);
    expect_line(false, "# TYPE a_requests_total counter", true);
    expect_line(false, "# TYPE m_duration_seconds histogram", true);
    expect_line(false, "# TYPE b_open gauge", true);
    expect_line(false, "b_open 0", true);
    expect_line(false, "# EOF", false);
}

Test(metrics, escapes_help_and_label_values)
{
    metrics_add(block, REQUESTS, 1, 0, 5);
    expect_line(false, "# HELP a_requests_total Requests\\nby route, \\\\ and code.", true);
    expect_line(false, "# HELP b_open Open \"now\".", true);
    expect_line(true, "# HELP b_open Open \\\"now\\\".", true);
    expect_line(false, "a_requests_total{route=\"we\\\"ird\\\\\\n\",code=\"2xx\"} 5", true);
}

Test(metrics, openmetrics_names_the_family_of_a_counter_without_total)
{
    metrics_add(block, REQUESTS, 0, 0, 5);
    expect_line(true, "# TYPE a_requests counter", true);
    expect_line(true, "# TYPE a_requests_total counter", false);
    expect_line(true, "a_requests_total{route=\"run\",code=\"2xx\"} 5", true);
    char *page = render(true);
    cr_assert_gt(strlen(page), 6);
    cr_expect_str_eq(page + strlen(page) - 6, "# EOF\n");
    free(page);
}

Test(metrics, shows_microseconds_as_exact_seconds)
{
    metrics_add(block, WAITS, 0, 0, 1234567);
    expect_line(false, "z_wait_seconds_total 1.234567", true);
    metrics_add(block, WAITS, 0, 0, 765433);
    expect_line(false, "z_wait_seconds_total 2", true);
    metrics_add(block, WAITS, 0, 0, 50000);
    expect_line(false, "z_wait_seconds_total 2.05", true);
}

Test(metrics, leaves_out_pairs_of_labels_that_never_met)
{
    metrics_add(block, REQUESTS, 0, 1, 1);
    expect_line(false, "a_requests_total{route=\"run\",code=\"5xx\"} 1", true);
    expect_line(false, "a_requests_total{route=\"run\",code=\"2xx\"} 0", false);
    /* A gauge is shown always: zero is a value of it. */
    expect_line(false, "c_busy{route=\"run\",code=\"2xx\"} 0", true);
}

Test(metrics, puts_a_value_on_a_bound_into_that_bucket)
{
    metrics_observe(block, DURATION, 0, 500);
    metrics_observe(block, DURATION, 0, 501);
    metrics_observe(block, DURATION, 0, 300000000);
    metrics_observe(block, DURATION, 0, 300000001);
    expect_line(false, "m_duration_seconds_bucket{route=\"run\",le=\"0.0005\"} 1", true);
    expect_line(false, "m_duration_seconds_bucket{route=\"run\",le=\"0.001\"} 2", true);
    expect_line(false, "m_duration_seconds_bucket{route=\"run\",le=\"90\"} 2", true);
    expect_line(false, "m_duration_seconds_bucket{route=\"run\",le=\"300\"} 3", true);
    expect_line(false, "m_duration_seconds_bucket{route=\"run\",le=\"+Inf\"} 4", true);
    expect_line(false, "m_duration_seconds_sum{route=\"run\"} 600.001002", true);
    expect_line(false, "m_duration_seconds_count{route=\"run\"} 4", true);
    expect_line(true, "m_duration_seconds_bucket{route=\"run\",le=\"300.0\"} 3", true);
}

Test(metrics, counts_plain_values_in_a_histogram_without_a_unit)
{
    metrics_observe(block, SIZES, 0, 2000);
    expect_line(false, "n_sizes_bucket{le=\"1000\"} 0", true);
    expect_line(false, "n_sizes_bucket{le=\"2500\"} 1", true);
    expect_line(false, "n_sizes_sum 2000", true);
    expect_line(false, "n_sizes_count 1", true);
}

enum { COUNTING_THREADS = 4, COUNTS_EACH = 20000 };

static void *count_a_lot(void *argument)
{
    struct metrics_block *own = metrics_block_create(metrics);

    (void)argument;
    for (int i = 0; own && i < COUNTS_EACH; i++) {
        metrics_add(own, REQUESTS, 0, 0, 1);
        metrics_observe(own, DURATION, 0, 700);
    }
    return own;
}

Test(metrics, loses_nothing_while_threads_count_and_another_reads)
{
    pthread_t threads[COUNTING_THREADS];
    uint64_t before = 0;

    for (size_t i = 0; i < COUNTING_THREADS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, count_a_lot, NULL), 0);
    }
    for (int i = 0; i < 50; i++) {
        uint64_t now = metrics_sum(metrics, REQUESTS, 0, 0);
        char *page = render(i % 2 == 0);

        cr_expect_geq(now, before, "a counter never falls");
        before = now;
        free(page);
    }
    for (size_t i = 0; i < COUNTING_THREADS; i++) {
        void *own = NULL;

        pthread_join(threads[i], &own);
        cr_assert_not_null(own);
    }
    cr_expect_eq(metrics_sum(metrics, REQUESTS, 0, 0), COUNTING_THREADS * COUNTS_EACH);
    expect_line(false, "m_duration_seconds_count{route=\"run\"} 80000", true);
    expect_line(false, "m_duration_seconds_bucket{route=\"run\",le=\"0.001\"} 80000", true);
    expect_line(false, "m_duration_seconds_sum{route=\"run\"} 56", true);
}
