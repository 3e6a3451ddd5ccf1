#include "build_config.h"

#include <criterion/criterion.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/loop.h"

enum { POSTERS = 4, LETTERS = 5000 };

static struct loop *loop;

static void set_up(void)
{
    loop = loop_create();
    cr_assert_not_null(loop);
}

static void tear_down(void)
{
    loop_destroy(loop);
}

TestSuite(loop, .init = set_up, .fini = tear_down, .timeout = 60);

static void stop(void *argument)
{
    loop_stop(argument);
}

/* ---- mailbox ---- */

struct letter {
    size_t poster;
    size_t number;
};

static struct letter letters[POSTERS][LETTERS];
static size_t next_number[POSTERS];
static size_t read_count;
static bool out_of_order;
static pthread_t loop_thread;
static bool elsewhere;

static void read_letter(void *argument)
{
    const struct letter *letter = argument;

    out_of_order = out_of_order || letter->number != next_number[letter->poster];
    elsewhere = elsewhere || !pthread_equal(pthread_self(), loop_thread);
    next_number[letter->poster]++;
    if (++read_count == (size_t)POSTERS * LETTERS) {
        loop_stop(loop);
    }
}

static void *post_letters(void *argument)
{
    size_t poster = *(size_t *)argument;

    for (size_t i = 0; i < LETTERS; i++) {
        letters[poster][i] = (struct letter){poster, i};
        if (!loop_post(loop, read_letter, &letters[poster][i])) {
            return argument;
        }
    }
    return NULL;
}

Test(loop, reads_letters_of_each_thread_in_their_order_and_loses_none)
{
    pthread_t threads[POSTERS];
    size_t posters[POSTERS];

    loop_thread = pthread_self();
    for (size_t i = 0; i < POSTERS; i++) {
        posters[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, post_letters, &posters[i]), 0);
    }
    cr_expect(loop_run(loop));
    for (size_t i = 0; i < POSTERS; i++) {
        void *failed = NULL;

        pthread_join(threads[i], &failed);
        cr_expect_null(failed);
    }
    cr_expect_eq(read_count, (size_t)POSTERS * LETTERS);
    cr_expect_not(out_of_order);
    cr_expect_not(elsewhere);
}

static int depth;
static int deepest;
static int posts_left = 10;

static void post_again(void *argument)
{
    depth++;
    deepest = depth > deepest ? depth : deepest;
    if (posts_left-- > 0) {
        cr_assert(loop_post(loop, post_again, argument));
    } else {
        loop_stop(loop);
    }
    depth--;
}

Test(loop, never_reads_a_letter_from_within_posting)
{
    cr_assert(loop_post(loop, post_again, NULL));
    cr_expect(loop_run(loop));
    cr_expect_eq(deepest, 1);
    cr_expect_eq(posts_left, -1);
}

static void count_call(void *argument)
{
    ++*(int *)argument;
}

Test(loop, reads_what_was_posted_before_it_was_stopped)
{
    int calls = 0;

    cr_assert(loop_post(loop, count_call, &calls));
    cr_assert(loop_post(loop, count_call, &calls));
    loop_stop(loop);
    cr_expect(loop_run(loop));
    cr_expect_eq(calls, 2);
}

Test(loop, drops_unread_letters_when_it_is_destroyed)
{
    int calls = 0;
    struct loop *other = loop_create();

    cr_assert_not_null(other);
    cr_assert(loop_post(other, count_call, &calls));
    loop_destroy(other);
    cr_expect_eq(calls, 0);
}

/* ---- stopping ---- */

static void *stop_from_elsewhere(void *argument)
{
    loop_stop(argument);
    return NULL;
}

Test(loop, stops_when_another_thread_says_so_and_runs_again)
{
    int calls = 0;

    for (int round = 0; round < 3; round++) {
        pthread_t thread;

        cr_assert_eq(pthread_create(&thread, NULL, stop_from_elsewhere, loop), 0);
        cr_expect(loop_run(loop));
        pthread_join(thread, NULL);
    }
    cr_assert(loop_post(loop, count_call, &calls));
    cr_assert(loop_post(loop, stop, loop));
    cr_expect(loop_run(loop));
    cr_expect_eq(calls, 1);
}

/* ---- graveyard ---- */

struct corpse {
    struct loop_grave grave;
    int number;
};

static int buried[8];
static int buried_count;
static bool in_callback;
static bool buried_within_callback;

static void on_buried(void *argument)
{
    struct corpse *corpse = argument;

    buried_within_callback = buried_within_callback || in_callback;
    buried[buried_count++] = corpse->number;
    free(corpse);
}

static struct corpse *make_corpse(int number)
{
    struct corpse *corpse = calloc(1, sizeof *corpse);

    cr_assert_not_null(corpse);
    corpse->number = number;
    return corpse;
}

static void die_in_callback(void *argument)
{
    struct corpse *first = make_corpse(1);
    struct corpse *second = make_corpse(2);

    in_callback = true;
    loop_bury(loop, &first->grave, on_buried, first);
    loop_bury(loop, &second->grave, on_buried, second);
    cr_expect_eq(first->number, 1, "still there");
    in_callback = false;
    cr_assert(loop_post(loop, stop, argument));
}

Test(loop, buries_after_the_callback_and_before_the_next_turn)
{
    cr_assert(loop_post(loop, die_in_callback, loop));
    cr_expect(loop_run(loop));
    cr_expect_eq(buried_count, 2);
    cr_expect_not(buried_within_callback);
}

/* An event of the same turn, behind the one in which the object died. */
static int seen_buried_in_same_turn = -1;

static void on_second(evutil_socket_t descriptor, short what, void *argument)
{
    (void)descriptor;
    (void)what;
    (void)argument;
    seen_buried_in_same_turn = buried_count;
    loop_stop(loop);
}

static void on_first(evutil_socket_t descriptor, short what, void *argument)
{
    struct corpse *corpse = make_corpse(1);

    (void)descriptor;
    (void)what;
    (void)argument;
    loop_bury(loop, &corpse->grave, on_buried, corpse);
}

Test(loop, keeps_the_dead_for_all_callbacks_of_the_turn)
{
    struct event *first = event_new(loop_base(loop), -1, 0, on_first, NULL);
    struct event *second = event_new(loop_base(loop), -1, 0, on_second, NULL);

    cr_assert(first && second);
    event_active(first, EV_TIMEOUT, 1);
    event_active(second, EV_TIMEOUT, 1);
    cr_expect(loop_run(loop));
    cr_expect_eq(seen_buried_in_same_turn, 0);
    cr_expect_eq(buried_count, 1);
    event_free(first);
    event_free(second);
}

static void bury_another(void *argument)
{
    struct corpse *corpse = argument;
    struct corpse *heir = corpse->number > 0 ? make_corpse(corpse->number - 1) : NULL;

    if (heir) {
        loop_bury(loop, &heir->grave, bury_another, heir);
    } else {
        loop_stop(loop);
    }
    buried[buried_count++] = corpse->number;
    free(corpse);
}

static void start_dying(void *argument)
{
    struct corpse *corpse = make_corpse(3);

    (void)argument;
    loop_bury(loop, &corpse->grave, bury_another, corpse);
}

Test(loop, buries_what_dies_at_a_burial)
{
    cr_assert(loop_post(loop, start_dying, NULL));
    cr_expect(loop_run(loop));
    cr_expect_eq(buried_count, 4);
}

Test(loop, buries_at_its_own_end)
{
    struct loop *other = loop_create();
    struct corpse *corpse = make_corpse(7);

    cr_assert_not_null(other);
    loop_bury(other, &corpse->grave, on_buried, corpse);
    loop_destroy(other);
    cr_expect_eq(buried_count, 1);
}

/* ---- heartbeat ---- */

static uint64_t first_beat_ms;

static void wait_for_beat(void *argument)
{
    if (loop_heartbeat_ms(loop) != first_beat_ms) {
        loop_stop(loop);
    } else {
        struct timespec pause = {0, 1000000};

        nanosleep(&pause, NULL);
        cr_assert(loop_post(loop, wait_for_beat, argument));
    }
}

Test(loop, heart_beats_while_it_turns)
{
    first_beat_ms = loop_heartbeat_ms(loop);
    cr_expect_leq(first_beat_ms, clock_mono_ms());
    cr_assert(loop_post(loop, wait_for_beat, NULL));
    cr_expect(loop_run(loop));
    cr_expect_gt(loop_heartbeat_ms(loop), first_beat_ms);
}
