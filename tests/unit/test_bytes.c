#include "build_config.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/bytes.h"

Test(bytes, equal_ignore_case_folds_letters_only)
{
    cr_assert(view_equal_ignore_case(VIEW("Content-TYPE"), VIEW("content-type")));
    cr_assert_not(view_equal_ignore_case(VIEW("a@"), VIEW("a`")));
    cr_assert_not(view_equal_ignore_case(VIEW("ab"), VIEW("abc")));
    cr_assert(view_starts_with_ignore_case(VIEW("BEARER x"), VIEW("bearer ")));
    cr_assert_not(view_starts_with_ignore_case(VIEW("BEAR"), VIEW("bearer")));
}

Test(bytes, empty_views_are_equal_whatever_they_point_to)
{
    cr_assert(view_equal(view_make(NULL, 0), VIEW("")));
    cr_assert(view_equal(view_of_string(NULL), VIEW("")));
    cr_assert(view_starts_with(VIEW("x"), view_make(NULL, 0)));
    cr_assert_eq(view_find_byte(view_make(NULL, 0), 'x'), 0);
}

Test(bytes, trim_takes_spaces_and_tabs_off_both_ends_only)
{
    cr_assert(view_equal(view_trim(VIEW(" \t a b\t ")), VIEW("a b")));
    cr_assert(view_equal(view_trim(VIEW(" \t ")), VIEW("")));
    cr_assert(view_equal(view_trim(VIEW("\na\r")), VIEW("\na\r")));
}

Test(bytes, skip_and_first_stop_at_the_end)
{
    cr_assert(view_equal(view_skip(VIEW("abc"), 2), VIEW("c")));
    cr_assert_eq(view_skip(VIEW("abc"), 9).length, 0);
    cr_assert(view_equal(view_first(VIEW("abc"), 9), VIEW("abc")));
    cr_assert_eq(view_find_byte(VIEW("abc"), 'c'), 2);
    cr_assert_eq(view_find_byte(VIEW("abc"), 'x'), 3);
}

Test(bytes, parse_u64_takes_digits_and_nothing_else)
{
    uint64_t number = 7;
    cr_assert(view_parse_u64(VIEW("18446744073709551615"), UINT64_MAX, &number));
    cr_assert_eq(number, UINT64_MAX);
    cr_assert(view_parse_u64(VIEW("0010"), 10, &number));
    cr_assert_eq(number, 10);
    const struct view wrong[] = {VIEW(""),   VIEW("+1"), VIEW("-1"), VIEW(" 1"),
                                 VIEW("1 "), VIEW("0x1"), VIEW("1\0"), VIEW("1_0"),
                                 VIEW("18446744073709551616"), VIEW("99999999999999999999999"),
                                 VIEW("11")};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        cr_assert_not(view_parse_u64(wrong[i], i == 10 ? 10 : UINT64_MAX, &number), "case %zu", i);
        cr_assert_eq(number, 10);
    }
}

Test(bytes, parse_hex_wants_the_exact_length)
{
    uint8_t bytes[2];
    cr_assert(view_parse_hex(VIEW("aFf0"), bytes, 2));
    cr_assert_eq(bytes[0], 0xaf);
    cr_assert_eq(bytes[1], 0xf0);
    cr_assert_not(view_parse_hex(VIEW("aFf"), bytes, 2));
    cr_assert_not(view_parse_hex(VIEW("aFf00"), bytes, 2));
    cr_assert_not(view_parse_hex(VIEW("aFg0"), bytes, 2));
}

Test(bytes, builder_leaves_its_storage_when_it_grows)
{
    char storage[8];
    struct builder builder;
    builder_init(&builder, storage, sizeof storage);
    builder_append(&builder, VIEW("12345678"));
    cr_assert_eq(builder_view(&builder).data, storage);
    for (int i = 0; i < 1000; i++) {
        builder_append(&builder, VIEW("abc"));
    }
    cr_assert_not(builder_failed(&builder));
    cr_assert_eq(builder_view(&builder).length, 3008);
    cr_assert(view_starts_with(builder_view(&builder), VIEW("12345678abcabc")));
    cr_assert(view_equal(view_skip(builder_view(&builder), 3005), VIEW("abc")));
    builder_clear(&builder);
    cr_assert_eq(builder_view(&builder).length, 0);
    builder_append_byte(&builder, 'x');
    cr_assert_eq(builder_view(&builder).data, storage);
    builder_clear(&builder);
}

Test(bytes, builder_writes_numbers)
{
    struct builder builder;
    builder_init(&builder, NULL, 0);
    const uint64_t numbers[] = {0, 9, 10, 99, 100, 101, 12345, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        builder_append_u64(&builder, numbers[i]);
        builder_append_byte(&builder, ' ');
    }
    builder_append_hex(&builder, 0);
    builder_append_byte(&builder, ' ');
    builder_append_hex(&builder, UINT64_C(0xdeadbeef0123));
    builder_append_byte(&builder, ' ');
    builder_append_hex_bytes(&builder, (const uint8_t *)"\x00\xff\x1a", 3);
    cr_assert(view_equal(builder_view(&builder),
                         VIEW("0 9 10 99 100 101 12345 18446744073709551615 0 deadbeef0123 "
                              "00ff1a")));
    builder_clear(&builder);
}

Test(bytes, builder_remembers_that_it_failed)
{
    char storage[4];
    struct builder builder;
    builder_init(&builder, storage, sizeof storage);
    builder_append(&builder, VIEW("ab"));
    cr_assert_null(builder_reserve(&builder, SIZE_MAX));
    cr_assert(builder_failed(&builder));
    builder_append(&builder, VIEW("c"));
    cr_assert(builder_failed(&builder));
    size_t length = 1;
    cr_assert_null(builder_detach(&builder, &length));
    cr_assert_eq(length, 0);
    cr_assert_not(builder_failed(&builder));
}

Test(bytes, detach_hands_over_heap_memory_from_either_place)
{
    char storage[4];
    struct builder builder;
    size_t length;
    builder_init(&builder, storage, sizeof storage);
    char *empty = builder_detach(&builder, &length);
    cr_assert_not_null(empty);
    cr_assert_eq(length, 0);
    free(empty);
    builder_append(&builder, VIEW("abc"));
    char *from_storage = builder_detach(&builder, &length);
    cr_assert(view_equal(view_make(from_storage, length), VIEW("abc")));
    free(from_storage);
    builder_append(&builder, VIEW("abcdefgh"));
    char *from_heap = builder_detach(&builder, &length);
    cr_assert(view_equal(view_make(from_heap, length), VIEW("abcdefgh")));
    free(from_heap);
    builder_append(&builder, VIEW("x"));
    cr_assert_eq(builder_view(&builder).data, storage);
    builder_clear(&builder);
}

Test(bytes, reserve_and_commit_take_up_what_was_written)
{
    char storage[2];
    struct builder builder;
    builder_init(&builder, storage, sizeof storage);
    builder_append(&builder, VIEW("a"));
    char *place = builder_reserve(&builder, 10);
    cr_assert_not_null(place);
    memcpy(place, "bcd", 3);
    builder_commit(&builder, 3);
    cr_assert(view_equal(builder_view(&builder), VIEW("abcd")));
    builder_clear(&builder);
}
