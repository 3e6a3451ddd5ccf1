#include "build_config.h"

#include <criterion/criterion.h>
#include <pthread.h>

#include "model/limit.h"

static struct limit_policy policy(uint64_t requests, uint64_t period_ns, uint64_t burst)
{
    struct limit_policy made;
    cr_assert(limit_policy_init(&made, requests, period_ns, burst));
    return made;
}

static struct limit_decision take(const struct limit_policy *limit, struct limit_state *state,
                                  uint64_t now_ns)
{
    struct limit_charge charge = {.policy = limit, .state = state};
    return limit_take(&charge, 1, now_ns);
}

Test(limit, refuses_policies_that_mean_nothing_or_do_not_fit)
{
    struct limit_policy made;
    cr_assert_not(limit_policy_init(&made, 0, LIMIT_SECOND_NS, 1));
    cr_assert_not(limit_policy_init(&made, 1, 0, 1));
    cr_assert_not(limit_policy_init(&made, 1, LIMIT_SECOND_NS, 0));
    cr_assert_not(limit_policy_init(&made, LIMIT_SECOND_NS + 1, LIMIT_SECOND_NS, 1));
    cr_assert_not(limit_policy_init(&made, 1, LIMIT_HOUR_NS, UINT64_MAX / 2));
    cr_assert_not(limit_policy_init(&made, 1, LIMIT_HOUR_NS, INT64_MAX / LIMIT_HOUR_NS + 1));
    cr_assert(limit_policy_init(&made, 3, LIMIT_SECOND_NS, 1));
    cr_assert_eq(made.interval_ns, 333333334);
    cr_assert(limit_policy_init(&made, 100, LIMIT_SECOND_NS, 200));
    cr_assert_eq(made.interval_ns, 10000000);
    cr_assert_eq(made.window_ns, 2 * LIMIT_SECOND_NS);
}

Test(limit, lets_a_burst_through_and_then_one_per_interval)
{
    struct limit_policy limit = policy(10, LIMIT_SECOND_NS, 5);
    struct limit_state state = {0};
    uint64_t now_ns = 12345 * LIMIT_SECOND_NS;
    for (uint64_t i = 0; i < 5; i++) {
        struct limit_decision decision = take(&limit, &state, now_ns);
        cr_assert(decision.allowed);
        cr_assert_eq(decision.remaining, 4 - i);
        cr_assert_eq(decision.wait_ns, 0);
    }
    struct limit_decision refused = take(&limit, &state, now_ns);
    cr_assert_not(refused.allowed);
    cr_assert_eq(refused.wait_ns, 100000000);
    cr_assert_eq(refused.remaining, 0);
    /* A refusal costs nothing: exactly after what it said, one passes. */
    cr_assert_not(take(&limit, &state, now_ns + refused.wait_ns - 1).allowed);
    cr_assert(take(&limit, &state, now_ns + refused.wait_ns).allowed);
    cr_assert_not(take(&limit, &state, now_ns + refused.wait_ns).allowed);
    cr_assert_eq(limit_reset_ns(state.arrival_ns, now_ns + refused.wait_ns), LIMIT_SECOND_NS / 2);
}

/* The slow model: a bucket of exact fractions, in units of 1/interval. */
struct bucket {
    uint64_t interval_ns;
    uint64_t burst;
    uint64_t level_ns; /* tokens * interval */
    uint64_t seen_ns;
};

static void bucket_fill(struct bucket *bucket, uint64_t now_ns)
{
    uint64_t most = bucket->burst * bucket->interval_ns;
    uint64_t level = bucket->level_ns + (now_ns - bucket->seen_ns);
    bucket->level_ns = level < most ? level : most;
    bucket->seen_ns = now_ns;
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

Test(limit, agrees_with_a_token_bucket_over_random_histories)
{
    uint64_t seed = 88172645463325252u;
    for (int history = 0; history < 300; history++) {
        uint64_t now_ns = next_random(&seed) % (1000000 * LIMIT_SECOND_NS) + LIMIT_HOUR_NS * 100;
        struct limit_policy limits[3];
        struct limit_state states[3] = {{0}, {0}, {0}};
        struct limit_charge charges[3];
        struct bucket buckets[3];
        for (int i = 0; i < 3; i++) {
            uint64_t burst = 1 + next_random(&seed) % 20;
            limits[i] = policy(1 + next_random(&seed) % 500, LIMIT_SECOND_NS, burst);
            charges[i] = (struct limit_charge){.policy = &limits[i], .state = &states[i]};
            buckets[i] = (struct bucket){limits[i].interval_ns, burst,
                                         limits[i].interval_ns * burst, now_ns};
        }
        for (int step = 0; step < 400; step++) {
            now_ns += next_random(&seed) % 4 == 0 ? next_random(&seed) % LIMIT_SECOND_NS
                                                  : next_random(&seed) % 5000000;
            bool expected = true;
            uint64_t wait_ns = 0;
            for (int i = 0; i < 3; i++) {
                bucket_fill(&buckets[i], now_ns);
                if (buckets[i].level_ns < buckets[i].interval_ns) {
                    uint64_t wait = buckets[i].interval_ns - buckets[i].level_ns;
                    expected = false;
                    wait_ns = wait > wait_ns ? wait : wait_ns;
                }
            }
            struct limit_decision decision = limit_take(charges, 3, now_ns);
            cr_assert_eq(decision.allowed, expected, "history %d step %d", history, step);
            cr_assert_eq(decision.wait_ns, wait_ns, "history %d step %d", history, step);
            uint64_t least = UINT64_MAX;
            for (int i = 0; i < 3; i++) {
                buckets[i].level_ns -= expected ? buckets[i].interval_ns : 0;
                uint64_t left = buckets[i].level_ns / buckets[i].interval_ns;
                cr_assert_eq(limit_remaining(&limits[i], states[i].arrival_ns, now_ns), left);
                least = left < least ? left : least;
            }
            if (expected) {
                cr_assert_eq(decision.remaining, least);
            }
        }
    }
}

Test(limit, charges_all_limits_or_none)
{
    struct limit_policy wide = policy(100, LIMIT_SECOND_NS, 100);
    struct limit_policy narrow = policy(1, LIMIT_SECOND_NS, 1);
    struct limit_state wide_state = {0};
    struct limit_state narrow_state = {0};
    struct limit_charge charges[] = {{.policy = &wide, .state = &wide_state},
                                     {.policy = &narrow, .state = &narrow_state}};
    uint64_t now_ns = LIMIT_HOUR_NS;
    struct limit_decision decision = limit_take(charges, 2, now_ns);
    cr_assert(decision.allowed);
    cr_assert_eq(decision.index, 1);
    cr_assert_eq(decision.remaining, 0);
    for (int i = 0; i < 50; i++) {
        decision = limit_take(charges, 2, now_ns);
        cr_assert_not(decision.allowed);
        cr_assert_eq(decision.index, 1);
        cr_assert_eq(decision.wait_ns, LIMIT_SECOND_NS);
    }
    cr_assert_eq(limit_remaining(&wide, wide_state.arrival_ns, now_ns), 99);
    decision = limit_peek(charges, 2, now_ns);
    cr_assert_not(decision.allowed);
    cr_assert_eq(limit_remaining(&wide, wide_state.arrival_ns, now_ns), 99);
    cr_assert(limit_take(NULL, 0, now_ns).allowed);
}

Test(limit, gives_back_what_was_charged)
{
    struct limit_policy limit = policy(10, LIMIT_SECOND_NS, 2);
    struct limit_state state = {0};
    struct limit_charge charge = {.policy = &limit, .state = &state};
    uint64_t now_ns = LIMIT_HOUR_NS;
    cr_assert(limit_take(&charge, 1, now_ns).allowed);
    cr_assert(limit_take(&charge, 1, now_ns).allowed);
    cr_assert_not(limit_take(&charge, 1, now_ns).allowed);
    limit_give_back(&charge, 1, now_ns);
    cr_assert(limit_take(&charge, 1, now_ns).allowed);
    cr_assert_not(limit_take(&charge, 1, now_ns).allowed);
}

Test(limit, a_late_give_back_is_no_gift)
{
    struct limit_policy limit = policy(10, LIMIT_SECOND_NS, 1);
    struct limit_state state = {0};
    struct limit_charge early = {.policy = &limit, .state = &state};
    struct limit_charge later = {.policy = &limit, .state = &state};
    uint64_t now_ns = LIMIT_HOUR_NS;
    cr_assert(limit_take(&early, 1, now_ns).allowed);
    now_ns += LIMIT_SECOND_NS;
    cr_assert(limit_take(&later, 1, now_ns).allowed);
    limit_give_back(&early, 1, now_ns);
    cr_assert_not(limit_take(&later, 1, now_ns).allowed);
}

struct race {
    struct limit_policy limits[2];
    struct limit_state states[2];
    _Atomic uint64_t allowed;
};

static void *take_many(void *argument)
{
    struct race *race = argument;
    struct limit_charge charges[] = {{.policy = &race->limits[0], .state = &race->states[0]},
                                     {.policy = &race->limits[1], .state = &race->states[1]}};
    for (int i = 0; i < 20000; i++) {
        if (limit_take(charges, 2, LIMIT_HOUR_NS).allowed) {
            atomic_fetch_add(&race->allowed, 1);
        }
    }
    return NULL;
}

Test(limit, threads_together_get_the_burst_and_not_one_more)
{
    struct race race = {
        .limits = {policy(1, LIMIT_SECOND_NS, 5000), policy(1, LIMIT_SECOND_NS, 7000)}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, take_many, &race), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    cr_assert_eq(race.allowed, 5000);
    cr_assert_eq(limit_remaining(&race.limits[1], race.states[1].arrival_ns, LIMIT_HOUR_NS), 2000);
}
