#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json_array.h"

/* The elements, with "|" behind each; " broken" at last if it was. */
static const char *split(struct json_array *array)
{
    static char text[1024];
    struct view element;
    size_t length = 0;

    while (json_array_next(array, &element)) {
        length += (size_t)snprintf(text + length, sizeof text - length, "%.*s|",
                                   (int)element.length, element.data);
    }
    snprintf(text + length, sizeof text - length, "%s", array->broken ? " broken" : "");
    cr_assert_neq(array->over, array->broken);
    return text;
}

static const char *split_text(const char *text)
{
    struct json_array array;

    json_array_begin(&array, view_of_string(text));
    return split(&array);
}

Test(json_array, tells_each_element_as_it_is_written)
{
    cr_assert_str_eq(split_text("[]"), "");
    cr_assert_str_eq(split_text(" [ \n] "), "");
    cr_assert_str_eq(split_text("[1]"), "1|");
    cr_assert_str_eq(split_text("[ {\"output\" : 1} ,\n{\"output\":[2,{}]} ]"),
                     "{\"output\" : 1}|{\"output\":[2,{}]}|");
    cr_assert_str_eq(split_text("[9007199254740993,-0,1E400,NaN,null,\"\\u00e9\"]"),
                     "9007199254740993|-0|1E400|NaN|null|\"\\u00e9\"|");
}

Test(json_array, takes_brackets_and_commas_in_strings_for_text)
{
    cr_assert_str_eq(split_text("[\"a,]b\",{\"k]\":\"}\\\"]\"}]"), "\"a,]b\"|{\"k]\":\"}\\\"]\"}|");
    cr_assert_str_eq(split_text("[\"\\\\\",\"x\"]"), "\"\\\\\"|\"x\"|");
}

Test(json_array, tells_what_came_whole_before_a_cut)
{
    cr_assert_str_eq(split_text("[{\"a\":1},{\"b\":"), "{\"a\":1}| broken");
    cr_assert_str_eq(split_text("[\"a\",\"b"), "\"a\"| broken");
    cr_assert_str_eq(split_text("[1,23"), "1| broken", "the number may go on");
    cr_assert_str_eq(split_text("[1,"), "1| broken");
    cr_assert_str_eq(split_text("[\"a\\"), " broken");
}

Test(json_array, is_broken_where_no_element_can_stand)
{
    cr_assert_str_eq(split_text(""), " broken");
    cr_assert_str_eq(split_text("{}"), " broken");
    cr_assert_str_eq(split_text("\"[1]\""), " broken");
    cr_assert_str_eq(split_text("[,1]"), " broken");
    cr_assert_str_eq(split_text("[1 2]"), "1| broken");
}

Test(json_array, goes_through_deep_nesting_without_recursion)
{
    enum { DEPTH = 200000 };
    char *text = malloc(2 * DEPTH + 3);
    struct json_array array;
    struct view element;

    text[0] = '[';
    memset(text + 1, '[', DEPTH);
    memset(text + 1 + DEPTH, ']', DEPTH + 1);
    json_array_begin(&array, view_make(text, 2 * DEPTH + 2));
    cr_assert(json_array_next(&array, &element));
    cr_assert_eq(element.length, 2 * DEPTH);
    cr_assert_not(json_array_next(&array, &element));
    cr_assert(array.over);
    free(text);
}

static const char *split_cut(const char *text)
{
    struct json_array array;

    return json_array_begin_cut(&array, view_of_string(text), VIEW("stream")) ? split(&array)
                                                                               : "none";
}

Test(json_array, finds_the_member_in_a_text_that_was_cut_off)
{
    cr_assert_str_eq(split_cut("{\"status\":\"IN_PROGRESS\",\"stream\":[{\"output\":1},{\"ou"),
                     "{\"output\":1}| broken");
    cr_assert_str_eq(split_cut("{ \"a\" : {\"stream\":[9]} , \"stream\" : [ 1 ]"), "1|");
    cr_assert_str_eq(split_cut("{\"stream\":[1,2],\"status\":\"COMPL"), "1|2|");
    cr_assert_str_eq(split_cut("{\"status\":\"IN_PROG"), "none");
    cr_assert_str_eq(split_cut("{\"status\":\"stream\",\"str"), "none");
    cr_assert_str_eq(split_cut("{\"stream\":{}"), "none");
    cr_assert_str_eq(split_cut("[\"stream\",[1]]"), "none");
    cr_assert_str_eq(split_cut("{\"a\":12"), "none");
    cr_assert_str_eq(split_cut(""), "none");
}
