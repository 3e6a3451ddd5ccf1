#include "build_config.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "format/json_text.h"

static void expect_written(struct view text, struct view expected)
{
    struct builder builder;
    builder_init(&builder, NULL, 0);
    json_text_append_string(&builder, text);
    struct view written = builder_view(&builder);
    cr_assert(view_equal(written, expected), "%.*s", (int)written.length, written.data);
    builder_clear(&builder);
}

Test(json_text, writes_strings_that_are_always_json)
{
    expect_written(VIEW(""), VIEW("\"\""));
    expect_written(VIEW("plain / text"), VIEW("\"plain / text\""));
    expect_written(VIEW("a\"b\\c\n\r\t\b\0\x7f"),
                   VIEW("\"a\\\"b\\\\c\\n\\r\\t\\u0008\\u0000\\u007f\""));
    expect_written(VIEW("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
                   VIEW("\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""));
    expect_written(VIEW("a\xff"
                        "b\xe2\x82"),
                   VIEW("\"a\xef\xbf\xbd"
                        "b\xef\xbf\xbd\xef\xbf\xbd\""));
}

Test(json_text, knows_utf8_from_what_only_looks_like_it)
{
    const struct view right[] = {VIEW("a"),
                                 VIEW("\xc2\x80"),
                                 VIEW("\xe0\xa0\x80"),
                                 VIEW("\xed\x9f\xbf"),
                                 VIEW("\xee\x80\x80"),
                                 VIEW("\xf0\x90\x80\x80"),
                                 VIEW("\xf4\x8f\xbf\xbf")};
    for (size_t i = 0; i < ARRAY_LENGTH(right); i++) {
        cr_assert_eq(json_text_utf8_length(right[i].data, right[i].length), right[i].length);
        for (size_t cut = 1; cut < right[i].length; cut++) {
            /* Exactly as much memory as is allowed to be read. */
            char *part = malloc(cut);
            memcpy(part, right[i].data, cut);
            cr_assert_eq(json_text_utf8_length(part, cut), 0);
            free(part);
        }
    }
    const struct view wrong[] = {VIEW("\x80"),
                                 VIEW("\xc0\x80"),
                                 VIEW("\xc1\xbf"),
                                 VIEW("\xe0\x9f\xbf"),
                                 VIEW("\xed\xa0\x80"),
                                 VIEW("\xf0\x8f\xbf\xbf"),
                                 VIEW("\xf4\x90\x80\x80"),
                                 VIEW("\xf5\x80\x80\x80"),
                                 VIEW("\xff"),
                                 VIEW("\xe2\x82z"),
                                 VIEW("\xc3z")};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        cr_assert_eq(json_text_utf8_length(wrong[i].data, wrong[i].length), 0, "case %zu", i);
    }
}

Test(json_text, reads_escapes)
{
    struct builder builder;
    builder_init(&builder, NULL, 0);
    cr_assert(json_text_unescape(
        &builder, VIEW("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e4\\u20AC\\ud83d\\ude00z\"")));
    cr_assert(view_equal(builder_view(&builder),
                         VIEW("a\"\\/\b\f\n\r\tA\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80z")));
    builder_clear(&builder);
    const struct view wrong[] = {
        VIEW("a"),
        VIEW("\""),
        VIEW("\"a"),
        VIEW("\"\\\""),
        VIEW("\"\\x\""),
        VIEW("\"\\u00\""),
        VIEW("\"\\u00g0\""),
        VIEW("\"\\ud83d\""),
        VIEW("\"\\ude00\""),
        VIEW("\"\\ud83dx\""),
        VIEW("\"\\ud83d\\u0041\""),
        VIEW("\"a\"b\""),
        VIEW("\"a\nb\""),
        VIEW("\"\\\0\""),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        cr_assert_not(json_text_unescape(&builder, wrong[i]), "case %zu", i);
        builder_clear(&builder);
    }
}

Test(json_text, compares_what_a_string_says)
{
    cr_assert(json_text_says(VIEW("\"\\u0069\\u0064\""), VIEW("id")));
    cr_assert(json_text_says(VIEW("\"\""), VIEW("")));
    cr_assert_not(json_text_says(VIEW("\"id\""), VIEW("idx")));
    cr_assert_not(json_text_says(VIEW("\"idx\""), VIEW("id")));
    cr_assert_not(json_text_says(VIEW("\"\\ud800\""), VIEW("id")));
    cr_assert_not(json_text_says(VIEW("id"), VIEW("id")));
}
