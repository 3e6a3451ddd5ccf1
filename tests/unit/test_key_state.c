#include "build_config.h"

#include <criterion/criterion.h>
#include <pthread.h>

#include "base/bytes.h"
#include "model/key_state.h"

Test(key_state, is_one_per_id_and_forgotten_with_the_last_reference)
{
    struct key_state_table *table = key_state_table_create();
    struct key_state *first = key_state_acquire(table, VIEW("a"));
    struct key_state *second = key_state_acquire(table, VIEW("a"));
    struct key_state *other = key_state_acquire(table, VIEW("ab"));

    cr_assert_not_null(first);
    cr_assert_eq(first, second);
    cr_assert_neq(first, other);
    cr_assert_eq(key_state_count(table), 2);
    cr_assert(key_state_enter(first, 1));
    key_state_release(table, first);
    cr_assert_not(key_state_enter(second, 1), "still the same state");
    key_state_release(table, second);
    cr_assert_eq(key_state_count(table), 1);
    first = key_state_acquire(table, VIEW("a"));
    cr_assert(key_state_enter(first, 1), "a new one has nothing in flight");
    key_state_release(table, first);
    key_state_release(table, other);
    key_state_table_destroy(table);
}

Test(key_state, lets_in_as_many_as_the_concurrency_says)
{
    struct key_state_table *table = key_state_table_create();
    struct key_state *state = key_state_acquire(table, VIEW("a"));

    cr_assert(key_state_enter(state, 2));
    cr_assert(key_state_enter(state, 2));
    cr_assert_not(key_state_enter(state, 2));
    cr_assert_eq(state->in_flight, 2, "who was refused is not counted");
    key_state_leave(state);
    cr_assert(key_state_enter(state, 2));
    cr_assert(key_state_enter(state, 0), "0 is no limit, and is counted");
    cr_assert_eq(state->in_flight, 3);
    cr_assert_not(key_state_enter(state, 3));
    key_state_release(table, state);
    key_state_table_destroy(table);
}

enum { THREADS = 4, ROUNDS = 20000, PLACES = 2 };

struct race {
    struct key_state *state;
    _Atomic int inside;
    _Atomic int most;
};

static void *enter_and_leave(void *argument)
{
    struct race *race = argument;
    for (int i = 0; i < ROUNDS; i++) {
        if (!key_state_enter(race->state, PLACES)) {
            continue;
        }
        int inside = atomic_fetch_add(&race->inside, 1) + 1;
        int most = atomic_load(&race->most);
        while (inside > most && !atomic_compare_exchange_weak(&race->most, &most, inside)) {
        }
        atomic_fetch_sub(&race->inside, 1);
        key_state_leave(race->state);
    }
    return NULL;
}

Test(key_state, threads_never_have_more_in_flight_together)
{
    struct key_state_table *table = key_state_table_create();
    struct race race = {.state = key_state_acquire(table, VIEW("a"))};
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, enter_and_leave, &race), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    }
    cr_assert_leq(race.most, PLACES);
    cr_assert_geq(race.most, 1);
    cr_assert_eq(race.state->in_flight, 0);
    key_state_release(table, race.state);
    key_state_table_destroy(table);
}
