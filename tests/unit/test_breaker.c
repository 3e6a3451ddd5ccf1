#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "gateway/breaker.h"
#include "model/metric_catalogue.h"

static struct metrics *metrics;
static struct breaker *breaker;
static uint64_t now_ms;
static uint64_t retry_after_s;

#define ONE VIEW("one")
#define TWO VIEW("two")

static void set_up(void)
{
    metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    breaker = breaker_create(metrics_block_create(metrics), NULL);
    cr_assert_not_null(breaker);
    now_ms = 1000000;
}

static void tear_down(void)
{
    breaker_destroy(breaker);
    metrics_destroy(metrics);
}

TestSuite(breaker, .init = set_up, .fini = tear_down, .timeout = 60);

static bool allows(struct view endpoint)
{
    return breaker_allows(breaker, endpoint, now_ms, &retry_after_s);
}

/* Requests whose outcome is known `after_ms` later, as far as they are let through. */
static void run(struct view endpoint, enum breaker_outcome outcome, unsigned times)
{
    for (unsigned i = 0; i < times; i++) {
        if (allows(endpoint)) {
            breaker_report(breaker, endpoint, outcome, now_ms);
        }
    }
}

static uint64_t opened(void)
{
    return metrics_sum(metrics, METRIC_BREAKER_OPENED, 0, 0);
}

Test(breaker, opens_for_the_endpoint_alone_after_enough_failures)
{
    run(ONE, BREAKER_ENDPOINT_FAILED, BREAKER_FAILURES - 1);
    cr_assert(allows(ONE));
    breaker_report(breaker, ONE, BREAKER_ENDPOINT_FAILED, now_ms);
    cr_assert_not(allows(ONE));
    cr_assert_eq(retry_after_s, 1);
    cr_assert(allows(TWO));
    cr_assert_eq(opened(), 1);
}

Test(breaker, few_failures_among_many_successes_do_not_open_it)
{
    for (unsigned i = 0; i < 200; i++) {
        run(ONE, BREAKER_ENDPOINT_FAILED, 1);
        run(ONE, BREAKER_OK, 2);
    }
    cr_assert(allows(ONE));
    cr_assert_eq(opened(), 0);
}

Test(breaker, failures_that_are_far_apart_do_not_open_it)
{
    for (unsigned i = 0; i < 200; i++) {
        run(ONE, BREAKER_ENDPOINT_FAILED, 1);
        now_ms += 1000;
    }
    cr_assert(allows(ONE));
    cr_assert_eq(opened(), 0);
}

Test(breaker, opens_for_all_when_no_connection_can_be_made)
{
    run(ONE, BREAKER_UPSTREAM_FAILED, BREAKER_FAILURES);
    cr_assert_not(allows(ONE));
    cr_assert_not(allows(TWO));
    cr_assert_geq(retry_after_s, 1);
}

Test(breaker, bad_answers_of_one_endpoint_never_open_it_for_all)
{
    run(ONE, BREAKER_ENDPOINT_FAILED, 10 * BREAKER_FAILURES);
    cr_assert_not(allows(ONE));
    cr_assert(allows(TWO));
}

Test(breaker, lets_one_probe_through_after_the_pause_and_its_success_closes)
{
    run(ONE, BREAKER_ENDPOINT_FAILED, BREAKER_FAILURES);
    now_ms += BREAKER_FIRST_PAUSE_MS - 1;
    cr_assert_not(allows(ONE));
    now_ms += 1;
    cr_assert(allows(ONE));
    cr_assert_not(allows(ONE), "one probe at a time");
    cr_assert_geq(retry_after_s, 1);
    breaker_report(breaker, ONE, BREAKER_OK, now_ms);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert(allows(ONE));
    }
    cr_assert_eq(opened(), 1);
}

Test(breaker, pauses_double_up_to_the_longest)
{
    uint64_t pause_ms = BREAKER_FIRST_PAUSE_MS;

    run(ONE, BREAKER_ENDPOINT_FAILED, BREAKER_FAILURES);
    for (unsigned i = 0; i < 8; i++) {
        now_ms += pause_ms - 1;
        cr_assert_not(allows(ONE), "pause %u", i);
        now_ms += 1;
        cr_assert(allows(ONE), "pause %u", i);
        breaker_report(breaker, ONE, BREAKER_ENDPOINT_FAILED, now_ms);
        cr_assert_not(allows(ONE));
        pause_ms = pause_ms * 2 < BREAKER_LONGEST_PAUSE_MS ? pause_ms * 2
                                                           : BREAKER_LONGEST_PAUSE_MS;
        cr_assert_eq(retry_after_s, (pause_ms + 999) / 1000);
    }
    cr_assert_eq(opened(), 1, "failed probes do not count as opening");
}

Test(breaker, a_probe_that_never_reports_does_not_lock_it_for_ever)
{
    run(ONE, BREAKER_ENDPOINT_FAILED, BREAKER_FAILURES);
    now_ms += BREAKER_FIRST_PAUSE_MS;
    cr_assert(allows(ONE));
    now_ms += BREAKER_PROBE_MS - 1;
    cr_assert_not(allows(ONE));
    now_ms += 1;
    cr_assert(allows(ONE));
}

Test(breaker, what_reports_late_while_it_is_open_changes_nothing)
{
    run(ONE, BREAKER_ENDPOINT_FAILED, BREAKER_FAILURES);
    for (unsigned i = 0; i < 100; i++) {
        breaker_report(breaker, ONE, BREAKER_OK, now_ms);
        breaker_report(breaker, ONE, BREAKER_ENDPOINT_FAILED, now_ms);
    }
    cr_assert_not(allows(ONE));
    now_ms += BREAKER_FIRST_PAUSE_MS;
    cr_assert(allows(ONE));
}

Test(breaker, a_probe_of_the_whole_closes_it_when_the_upstream_was_reached)
{
    run(ONE, BREAKER_UPSTREAM_FAILED, BREAKER_FAILURES);
    now_ms += BREAKER_FIRST_PAUSE_MS;
    cr_assert(allows(TWO));
    breaker_report(breaker, TWO, BREAKER_ENDPOINT_FAILED, now_ms);
    cr_assert(allows(VIEW("three")));
}

Test(breaker, endpoints_are_forgotten_when_quiet_and_bounded_when_not)
{
    char name[32];

    for (unsigned i = 0; i < 3 * BREAKER_ENDPOINTS; i++) {
        int length = snprintf(name, sizeof name, "e%u", i);

        breaker_report(breaker, view_make(name, (size_t)length), BREAKER_ENDPOINT_FAILED, now_ms);
    }
    /* No room for one more circuit: it is simply let through. */
    run(VIEW("late"), BREAKER_ENDPOINT_FAILED, 10 * BREAKER_FAILURES);
    cr_assert(allows(VIEW("late")));
    /* Those that nobody asks for any more make room. */
    now_ms += 3 * BREAKER_HALF_WINDOW_MS;
    run(VIEW("late"), BREAKER_ENDPOINT_FAILED, BREAKER_FAILURES);
    cr_assert_not(allows(VIEW("late")));
}
