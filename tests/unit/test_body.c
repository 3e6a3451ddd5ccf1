#include "build_config.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"

static struct body_budget budget;

static void set_budget(size_t bytes)
{
    atomic_store(&budget.maximum_bytes, bytes);
}

static size_t used(void)
{
    return atomic_load(&budget.used_bytes);
}

static void expect_all_given_back(void)
{
    cr_expect_eq(used(), 0);
}

TestSuite(body, .fini = expect_all_given_back);

Test(body, holds_what_was_appended)
{
    set_budget(1000);
    struct body *body = body_create(&budget, 10);

    cr_assert_not_null(body);
    cr_expect_eq(body_view(body).length, 0);
    cr_expect(body_append(body, VIEW("hello ")));
    cr_expect(body_append(body, VIEW("")));
    cr_expect(body_append(body, (struct view){NULL, 0}));
    cr_expect(body_append(body, VIEW("wide world")));
    cr_expect(view_equal(body_view(body), VIEW("hello wide world")));
    body_unref(body);
}

Test(body, is_empty_when_there_is_none)
{
    cr_expect_eq(body_view(NULL).length, 0);
    body_unref(NULL);
}

Test(body, takes_what_was_written_into_its_room)
{
    size_t room_bytes = 0;

    set_budget(1000);
    struct body *body = body_create(&budget, 0);
    cr_assert_not_null(body);
    char *room = body_room(body, 5, &room_bytes);
    cr_assert_not_null(room);
    cr_assert_geq(room_bytes, 5);
    memcpy(room, "abcde", 5);
    body_added(body, 3);
    room = body_room(body, 100, &room_bytes);
    cr_assert_not_null(room);
    cr_assert_geq(room_bytes, 100);
    memset(room, 'x', room_bytes);
    body_added(body, 1);
    cr_expect(view_equal(body_view(body), VIEW("abcx")));
    body_unref(body);
}

Test(body, keeps_all_bytes_however_it_grows)
{
    char expected[3000];

    set_budget(100000);
    struct body *body = body_create(&budget, 1);
    cr_assert_not_null(body);
    for (size_t i = 0; i < sizeof expected; i++) {
        expected[i] = (char)(i * 7);
        cr_assert(body_append(body, (struct view){&expected[i], 1}));
    }
    cr_expect(view_equal(body_view(body), (struct view){expected, sizeof expected}));
    cr_expect_geq(used(), sizeof expected);
    body_unref(body);
}

Test(body, is_charged_to_the_budget_and_refused_above_it)
{
    set_budget(100);
    struct body *first = body_create(&budget, 60);

    cr_assert_not_null(first);
    cr_expect_eq(used(), 60);
    cr_expect_null(body_create(&budget, 41));
    cr_expect_null(body_create(&budget, SIZE_MAX));
    cr_expect_null(body_create(&budget, SIZE_MAX / 2));
    cr_expect_eq(used(), 60);
    struct body *second = body_create(&budget, 40);
    cr_expect_not_null(second);
    cr_expect_eq(used(), 100);
    body_unref(first);
    cr_expect_eq(used(), 40);
    body_unref(second);
}

Test(body, stays_as_it_was_when_it_may_not_grow)
{
    size_t room_bytes;

    set_budget(20);
    struct body *body = body_create(&budget, 5);
    cr_assert_not_null(body);
    cr_assert(body_append(body, VIEW("12345")));
    cr_expect_not(body_append(body, VIEW("6789012345678901")));
    cr_expect_null(body_room(body, SIZE_MAX, &room_bytes));
    cr_expect_null(body_room(body, SIZE_MAX - 5, &room_bytes));
    cr_expect(view_equal(body_view(body), VIEW("12345")));
    cr_expect_eq(used(), 5);
    body_unref(body);
}

Test(body, grows_by_what_is_needed_when_twice_as_much_is_not_to_be_had)
{
    set_budget(100 + 100 + 30);
    struct body *body = body_create(&budget, 0);
    char bytes[100] = {0};

    cr_assert_not_null(body);
    cr_assert(body_append(body, (struct view){bytes, sizeof bytes}));
    cr_expect_eq(used(), 100);
    struct body *other = body_create(&budget, 100);
    cr_assert_not_null(other);
    cr_expect(body_append(body, VIEW("just these 22 bytes ok")));
    cr_expect_eq(body_view(body).length, 122);
    cr_expect_leq(used(), 230);
    body_unref(body);
    body_unref(other);
}

Test(body, charges_all_memory_that_a_grown_body_holds)
{
    set_budget(1000);
    struct body *body = body_create(&budget, 50);

    cr_assert_not_null(body);
    char bytes[60] = {0};
    cr_assert(body_append(body, (struct view){bytes, sizeof bytes}));
    /* The first 50 bytes lie in the body itself and stay until its end. */
    cr_expect_eq(used(), 50 + 100);
    body_unref(body);
}

Test(body, lower_budget_refuses_new_bodies_and_keeps_old_ones)
{
    set_budget(100);
    struct body *body = body_create(&budget, 80);

    cr_assert_not_null(body);
    set_budget(50);
    cr_expect_null(body_create(&budget, 1));
    cr_expect(body_append(body, VIEW("room that it has")));
    body_unref(body);
    body = body_create(&budget, 50);
    cr_expect_not_null(body);
    body_unref(body);
}

Test(body, lives_until_its_last_reference)
{
    set_budget(100);
    struct body *body = body_create(&budget, 10);

    cr_assert_not_null(body);
    cr_assert(body_append(body, VIEW("shared")));
    cr_expect_eq(body_ref(body), body);
    body_unref(body);
    cr_expect(view_equal(body_view(body), VIEW("shared")));
    cr_expect_eq(used(), 10);
    body_unref(body);
    expect_all_given_back();
}

enum { THREADS = 4, ROUNDS = 20000 };

static _Atomic bool above_budget;

static void *share(void *argument)
{
    struct body *shared = argument;

    for (int i = 0; i < ROUNDS; i++) {
        struct body *own = body_create(&budget, 40);

        body_ref(shared);
        if (used() > 100) {
            atomic_store(&above_budget, true);
        }
        if (own && !body_append(own, body_view(shared))) {
            atomic_store(&above_budget, true);
        }
        body_unref(own);
        body_unref(shared);
    }
    body_unref(shared);
    return NULL;
}

Test(body, is_shared_by_threads_within_the_budget)
{
    pthread_t threads[THREADS];

    set_budget(100);
    struct body *shared = body_create(&budget, 10);
    cr_assert_not_null(shared);
    cr_assert(body_append(shared, VIEW("0123456789")));
    for (size_t i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, share, body_ref(shared)), 0);
    }
    body_unref(shared);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    cr_expect_not(above_budget);
}
