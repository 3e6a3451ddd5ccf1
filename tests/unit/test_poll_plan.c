#include "build_config.h"

#include <criterion/criterion.h>

#include "model/poll_plan.h"

enum {
    RUN_MS = 30 * 60 * 1000,
    RUNSYNC_MS = 60 * 1000,
    FIRST_MS = 1000,
    MAX_MS = 20000,
};

static struct poll_history history;

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static struct poll_plan_question question_at(uint64_t age_ms)
{
    return (struct poll_plan_question){
        .age_ms = age_ms,
        .retention_ms = RUN_MS,
        .first_poll_ms = FIRST_MS,
        .max_poll_ms = MAX_MS,
        .stretch = POLL_PLAN_EVEN,
        .random = 100, /* no jitter */
    };
}

static uint64_t due_at(uint64_t age_ms)
{
    struct poll_plan_question question = question_at(age_ms);

    question.history = &history;
    return poll_plan_make(&question).due_ms;
}

/* How often a job is polled that ends when it is `end_ms` old, and how late the last poll is. */
static unsigned polls_until(uint64_t end_ms, uint64_t *late_ms)
{
    uint64_t age_ms = 0;
    unsigned count = 0;

    do {
        age_ms += due_at(age_ms);
        count++;
    } while (age_ms < end_ms);
    *late_ms = age_ms - end_ms;
    return count;
}

static void learn(uint64_t end_ms, unsigned times)
{
    for (unsigned i = 0; i < times; i++) {
        poll_history_add(&history, end_ms);
    }
}

TestSuite(poll_plan, .timeout = 60);

Test(poll_plan, starts_at_the_first_poll_and_grows_with_the_age_of_the_job)
{
    uint64_t before_ms = 0;

    for (uint64_t age_ms = 0; age_ms < 3600000; age_ms += 250) {
        uint64_t due_ms = due_at(age_ms);

        cr_assert_geq(due_ms, before_ms);
        cr_assert_leq(due_ms, MAX_MS);
        before_ms = due_ms;
    }
    cr_assert_eq(due_at(0), FIRST_MS);
    cr_assert_eq(before_ms, MAX_MS);
}

Test(poll_plan, gives_the_deadline_of_the_retention_when_the_job_was_seen)
{
    struct poll_plan_question question = question_at(5000);

    cr_assert_eq(poll_plan_make(&question).deadline_ms, RUN_MS);
    question.retention_ms = RUNSYNC_MS;
    cr_assert_eq(poll_plan_make(&question).deadline_ms, RUNSYNC_MS);
}

Test(poll_plan, leaves_the_deadline_alone_after_a_failed_poll)
{
    struct poll_plan_question question = question_at(5000);

    question.failures = 1;
    cr_assert_eq(poll_plan_make(&question).deadline_ms, 0);
}

Test(poll_plan, doubles_the_back_off_from_a_second_to_max_poll)
{
    static const uint64_t middle_ms[] = {1000, 2000, 4000, 8000, 16000, 20000, 20000};
    uint64_t seed = 7;

    for (uint32_t failures = 1; failures <= 7; failures++) {
        for (unsigned i = 0; i < 200; i++) {
            struct poll_plan_question question = question_at(5000);
            uint64_t due_ms;

            question.failures = failures;
            question.random = next_random(&seed);
            due_ms = poll_plan_make(&question).due_ms;
            cr_assert_geq(due_ms, 1000);
            cr_assert_geq(due_ms, middle_ms[failures - 1] * 3 / 4);
            cr_assert_leq(due_ms, middle_ms[failures - 1] * 5 / 4);
            cr_assert_leq(due_ms, MAX_MS);
        }
    }
}

Test(poll_plan, back_off_survives_any_number_of_failures)
{
    struct poll_plan_question question = question_at(5000);

    question.failures = UINT32_MAX;
    question.random = 250; /* none */
    cr_assert_eq(poll_plan_make(&question).due_ms, MAX_MS);
}

Test(poll_plan, never_waits_longer_than_a_third_of_the_retention)
{
    uint64_t seed = 99;

    learn(2000000, 50);
    for (unsigned i = 0; i < 100000; i++) {
        struct poll_plan_question question = {
            .age_ms = next_random(&seed) % 10000000,
            .retention_ms = 3 + next_random(&seed) % 2000000,
            .first_poll_ms = 1 + next_random(&seed) % 100000,
            .max_poll_ms = 1 + next_random(&seed) % 1000000,
            .failures = next_random(&seed) % 3 == 0 ? (uint32_t)(next_random(&seed) % 40) : 0,
            .stretch = (uint32_t)(next_random(&seed) % 100000),
            .lost = next_random(&seed) % 10 == 0,
            .random = next_random(&seed),
            .history = i % 2 ? &history : NULL,
        };
        uint64_t due_ms = poll_plan_make(&question).due_ms;

        cr_assert_leq(due_ms, question.retention_ms / 3);
        cr_assert_geq(due_ms, 1);
    }
}

Test(poll_plan, spreads_jobs_that_came_together)
{
    uint64_t seed = 5;
    uint64_t least = UINT64_MAX;
    uint64_t most = 0;

    for (unsigned i = 0; i < 1000; i++) {
        struct poll_plan_question question = question_at(30000);
        uint64_t due_ms;

        question.random = next_random(&seed);
        due_ms = poll_plan_make(&question).due_ms;
        least = due_ms < least ? due_ms : least;
        most = due_ms > most ? due_ms : most;
    }
    cr_assert_geq(least, 9000);
    cr_assert_leq(most, 11000);
    cr_assert_gt(most - least, 1500);
}

Test(poll_plan, polls_a_job_about_when_its_siblings_ended)
{
    uint64_t late_ms;
    unsigned unlearnt = polls_until(20000, &late_ms);

    cr_assert_gt(unlearnt, 5);
    learn(20000, 20);
    cr_assert_leq(polls_until(20000, &late_ms), 2);
    cr_assert_leq(late_ms, 2000);
}

Test(poll_plan, needs_few_polls_for_jobs_that_vary)
{
    uint64_t seed = 11;
    unsigned polls = 0;

    /* From 5 s to 15 s. */
    for (unsigned i = 0; i < 300; i++) {
        poll_history_add(&history, 5000 + next_random(&seed) % 10000);
    }
    for (unsigned i = 0; i < 100; i++) {
        uint64_t end_ms = 5000 + next_random(&seed) % 10000;
        uint64_t late_ms;

        polls += polls_until(end_ms, &late_ms);
        cr_assert_leq(late_ms, 5500);
    }
    cr_assert_leq(polls, 400);
}

Test(poll_plan, asks_early_where_half_of_the_jobs_are_quick_and_then_late)
{
    learn(2000, 50);
    learn(15000, 45);
    cr_assert_leq(due_at(0), 3000);
    /* Who is still running after that is one of the slow ones. */
    cr_assert_geq(due_at(3000), 8000);
}

Test(poll_plan, a_job_older_than_all_others_is_polled_by_its_age)
{
    learn(2000, 100);
    cr_assert_eq(due_at(30000), 10000);
    cr_assert_eq(due_at(600000), MAX_MS);
}

Test(poll_plan, keeps_to_max_poll_whatever_was_learnt)
{
    learn(300000, 100);
    cr_assert_eq(due_at(0), MAX_MS);
}

Test(poll_plan, a_few_jobs_teach_nothing)
{
    learn(15000, 3);
    cr_assert_eq(due_at(0), FIRST_MS);
    learn(15000, 1);
    cr_assert_gt(due_at(0), 10000);
}

Test(poll_plan, forgets_what_was_when_jobs_change)
{
    learn(15000, 1000);
    cr_assert_geq(due_at(0), 13000);
    learn(1500, 1000);
    cr_assert_leq(due_at(0), 2000);
}

Test(poll_plan, a_history_never_overflows)
{
    uint64_t seed = 3;

    for (unsigned i = 0; i < 1000000; i++) {
        uint64_t age_ms = next_random(&seed) >> (next_random(&seed) % 64);
        uint64_t sum = 0;

        poll_history_add(&history, i % 3 ? 4242 : age_ms);
        if (i % 1000 == 0) {
            for (size_t j = 0; j < POLL_HISTORY_BUCKETS; j++) {
                sum += history.weights[j];
            }
            cr_assert_eq(sum, history.total);
            cr_assert_leq(history.total, 40000);
        }
    }
}

Test(poll_plan, the_expected_end_lies_behind_the_age_and_within_what_was_seen)
{
    uint64_t seed = 17;

    for (unsigned i = 0; i < 200; i++) {
        poll_history_add(&history, 1000 + next_random(&seed) % 60000);
    }
    for (uint64_t age_ms = 0; age_ms < 80000; age_ms += 37) {
        uint64_t end_ms = poll_history_expected_end(&history, age_ms);

        cr_assert(end_ms == 0 || end_ms >= age_ms);
        cr_assert_leq(end_ms, 70000);
    }
    cr_assert_gt(poll_history_expected_end(&history, 0), 20000);
    cr_assert_eq(poll_history_expected_end(&history, UINT64_MAX), 0);
}

Test(poll_plan, takes_upstreams_word_on_when_a_job_ended)
{
    cr_assert_eq(poll_history_end_age(20000, 500, 2000), 2500);
    cr_assert_eq(poll_history_end_age(20000, UINT64_MAX, 2000), 2000);
    cr_assert_eq(poll_history_end_age(20000, 500, 90000), 20000);
    cr_assert_eq(poll_history_end_age(20000, UINT64_MAX - 1, UINT64_MAX - 1), 20000);
}

Test(poll_plan, late_polls_do_not_teach_that_jobs_run_long)
{
    uint64_t late_ms;

    learn(16000, 500);
    /* Now they end after 1 s, and upstream says nothing of that. */
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t age_ms = due_at(0);

        poll_history_add(&history, poll_history_end_age(age_ms, UINT64_MAX, UINT64_MAX));
    }
    cr_assert_eq(polls_until(1000, &late_ms), 1);
    cr_assert_leq(late_ms, 500);
}

Test(poll_plan, a_lost_job_is_looked_for_at_leisure)
{
    struct poll_plan_question question = question_at(0);

    question.lost = true;
    cr_assert_eq(poll_plan_make(&question).due_ms, MAX_MS);
}

Test(poll_plan, stretches_evenly_when_the_budget_is_short)
{
    struct poll_plan_question question = question_at(0);

    /* 100 polls/s and 20 s: 2,000 jobs. */
    cr_assert_eq(poll_plan_stretch(0, 100000, MAX_MS), POLL_PLAN_EVEN);
    cr_assert_eq(poll_plan_stretch(2000, 100000, MAX_MS), POLL_PLAN_EVEN);
    cr_assert_eq(poll_plan_stretch(20000, 100000, MAX_MS), 10000);
    question.stretch = 10000;
    cr_assert_eq(poll_plan_make(&question).due_ms, 10000);
    question.age_ms = 3600000;
    cr_assert_eq(poll_plan_make(&question).due_ms, 200000);
    question.stretch = 10000000;
    cr_assert_eq(poll_plan_make(&question).due_ms, RUN_MS / 3);
    cr_assert_eq(poll_plan_stretch(UINT64_MAX, 1, 1), UINT32_MAX);
    cr_assert_geq(poll_plan_stretch(1, 0, 0), POLL_PLAN_EVEN);
}

Test(poll_plan, no_plan_is_longer_than_the_longest)
{
    uint64_t seed = 23;

    for (unsigned i = 0; i < 10000; i++) {
        struct poll_plan_question question = question_at(next_random(&seed) % 10000000);

        question.stretch = (uint32_t)(next_random(&seed) % 50000);
        question.failures = (uint32_t)(next_random(&seed) % 4);
        question.random = next_random(&seed);
        cr_assert_leq(poll_plan_make(&question).due_ms,
                      poll_plan_longest(RUN_MS, MAX_MS, question.stretch));
    }
}

Test(poll_plan, says_how_much_of_a_budget_jobs_take)
{
    uint64_t third = POLL_PLAN_FULL / 3;

    /* 60,000 run or 2,000 runsync jobs are polled thrice in their retention by 100 polls/s. */
    cr_assert_eq(poll_plan_load(60000, RUN_MS, 0, RUNSYNC_MS, 100000), third);
    cr_assert_eq(poll_plan_load(0, RUN_MS, 2000, RUNSYNC_MS, 100000), third);
    cr_assert_eq(poll_plan_load(30000, RUN_MS, 1000, RUNSYNC_MS, 100000), third);
    cr_assert_gt(poll_plan_load(60001, RUN_MS, 0, RUNSYNC_MS, 100000), third);
    cr_assert_eq(poll_plan_load(180000, RUN_MS, 0, RUNSYNC_MS, 100000), POLL_PLAN_FULL);
    cr_assert_eq(poll_plan_load(0, RUN_MS, 6000, RUNSYNC_MS, 100000), POLL_PLAN_FULL);
    cr_assert_gt(poll_plan_load(UINT64_MAX, RUN_MS, UINT64_MAX, RUNSYNC_MS, 100000),
                 POLL_PLAN_FULL);
}
