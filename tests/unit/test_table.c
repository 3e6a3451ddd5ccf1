#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/table.h"

struct thing {
    struct table_node node;
    size_t number;
    bool removed;
    char key[24];
};

static struct table *table;

static void set_up(void)
{
    table = table_create();
    cr_assert_not_null(table);
}

static void tear_down(void)
{
    table_destroy(table);
}

TestSuite(table, .init = set_up, .fini = tear_down);

static void insert(struct thing *thing, size_t number)
{
    thing->number = number;
    snprintf(thing->key, sizeof thing->key, "thing-%zu", number);
    cr_assert(table_insert(table, &thing->node, view_of_string(thing->key)));
}

static struct thing *find(const char *key)
{
    return (struct thing *)table_find(table, view_of_string(key));
}

Test(table, finds_what_was_put_in_and_nothing_else)
{
    struct thing one;
    struct thing two;

    insert(&one, 1);
    insert(&two, 2);
    cr_expect_eq(find("thing-1"), &one);
    cr_expect_eq(find("thing-2"), &two);
    cr_expect_null(find("thing-3"));
    cr_expect_null(find("thing-"));
    cr_expect_null(find(""));
    cr_expect_eq(table_count(table), 2);
}

Test(table, tells_keys_apart_by_all_their_bytes)
{
    struct thing things[4];
    static const struct view keys[] = {VIEW_INIT("a\0b"), VIEW_INIT("a\0c"), VIEW_INIT("a"),
                                       VIEW_INIT("")};

    for (size_t i = 0; i < 4; i++) {
        cr_assert(table_insert(table, &things[i].node, keys[i]));
    }
    for (size_t i = 0; i < 4; i++) {
        cr_expect_eq(table_find(table, keys[i]), &things[i].node);
    }
    cr_expect_eq(table_find(table, (struct view){NULL, 0}), &things[3].node);
}

enum { MANY = 5000 };

Test(table, grows_and_shrinks_without_losing_any)
{
    struct thing *things = calloc(MANY, sizeof *things);

    cr_assert_not_null(things);
    for (size_t i = 0; i < MANY; i++) {
        insert(&things[i], i);
    }
    cr_expect_eq(table_count(table), MANY);
    for (size_t i = 0; i < MANY; i++) {
        cr_assert_eq(find(things[i].key), &things[i]);
    }
    for (size_t i = 0; i < MANY; i += 2) {
        table_remove(table, &things[i].node);
    }
    cr_expect_eq(table_count(table), MANY / 2);
    for (size_t i = 0; i < MANY; i++) {
        cr_assert_eq(find(things[i].key), i % 2 == 0 ? NULL : &things[i]);
    }
    for (size_t i = 0; i < MANY; i += 2) {
        insert(&things[i], i);
    }
    for (size_t i = 0; i < MANY; i++) {
        cr_assert_eq(find(things[i].key), &things[i]);
    }
    free(things);
}

static size_t visits;

static void visit(struct table_node *node, void *argument)
{
    struct thing *thing = (struct thing *)node;

    visits++;
    if (thing->number % 3 == 0) {
        thing->removed = true;
        table_remove(argument, node);
    }
}

Test(table, visits_each_once_and_lets_the_visitor_remove_it)
{
    struct thing things[100];

    memset(things, 0, sizeof things);
    for (size_t i = 0; i < 100; i++) {
        insert(&things[i], i);
    }
    table_for_each(table, visit, table);
    cr_expect_eq(visits, 100);
    cr_expect_eq(table_count(table), 66);
    for (size_t i = 0; i < 100; i++) {
        cr_expect_eq(things[i].removed, i % 3 == 0);
        cr_expect_eq(find(things[i].key), i % 3 == 0 ? NULL : &things[i]);
    }
}

Test(table, hash_depends_on_every_byte_and_on_the_length)
{
    char bytes[40] = {0};
    uint64_t first = table_hash((struct view){bytes, sizeof bytes});

    cr_expect_eq(table_hash((struct view){bytes, sizeof bytes}), first);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = 1;
        cr_expect_neq(table_hash((struct view){bytes, sizeof bytes}), first, "byte %zu", i);
        bytes[i] = 0;
        cr_expect_neq(table_hash((struct view){bytes, i}), first, "length %zu", i);
    }
}

/* Callers choose names: none of the low bits that pick a bucket may follow from the key alone. */
Test(table, hash_spreads_similar_keys)
{
    size_t buckets[64] = {0};
    size_t most = 0;

    for (size_t i = 0; i < 6400; i++) {
        char key[24];

        snprintf(key, sizeof key, "job-%06zu", i);
        buckets[table_hash(view_of_string(key)) & 63]++;
    }
    for (size_t i = 0; i < 64; i++) {
        most = buckets[i] > most ? buckets[i] : most;
    }
    cr_expect_lt(most, 200, "%zu of 6400 in one of 64", most);
}
