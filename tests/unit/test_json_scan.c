#include "build_config.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "format/json_scan.h"

static enum json_scan_result scan(struct view text, unsigned flags)
{
    return json_scan(text, flags, NULL, 0, NULL);
}

Test(json_scan, finds_the_members_of_the_outermost_object_only)
{
    struct json_member members[] = {{.name = VIEW("id")},
                                    {.name = VIEW("status")},
                                    {.name = VIEW("output")},
                                    {.name = VIEW("error")}};
    struct json_report report;
    struct view text =
        VIEW("{\"delayTime\":824, \"output\" : {\"id\":\"inner\",\"x\":[1,{\"status\":2}]} ,\n"
             "\t\"id\":\"sync-1-u1\",\"status\":\"COMPLETED\"}\n");
    cr_assert_eq(json_scan(text, 0, members, 4, &report), JSON_SCAN_OK);
    cr_assert_eq(report.type, JSON_OBJECT);
    cr_assert_eq(report.member_count, 4);
    cr_assert_eq(report.offset, text.length);
    cr_assert_not(report.non_finite);
    cr_assert_eq(members[0].type, JSON_STRING);
    cr_assert(view_equal(members[0].value, VIEW("\"sync-1-u1\"")));
    cr_assert(view_equal(members[1].value, VIEW("\"COMPLETED\"")));
    cr_assert_eq(members[2].type, JSON_OBJECT);
    cr_assert(view_equal(members[2].value, VIEW("{\"id\":\"inner\",\"x\":[1,{\"status\":2}]}")));
    cr_assert_eq(members[3].type, JSON_ABSENT);
    cr_assert_not(members[0].twice);
    struct view id;
    cr_assert(json_member_plain_string(&members[0], &id));
    cr_assert(view_equal(id, VIEW("sync-1-u1")));
    cr_assert_not(json_member_plain_string(&members[2], &id));
}

Test(json_scan, keeps_integers_above_2_53_byte_for_byte)
{
    struct json_member output = {.name = VIEW("output")};
    const struct view values[] = {VIEW("9007199254740993"), VIEW("-0"), VIEW("1E400"),
                                  VIEW("123456789012345678901234567890.5e-7"), VIEW("0.1")};
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        struct builder text;
        builder_init(&text, NULL, 0);
        builder_append(&text, VIEW("{\"output\":"));
        builder_append(&text, values[i]);
        builder_append(&text, VIEW(" }"));
        cr_assert_eq(json_scan(builder_view(&text), 0, &output, 1, NULL), JSON_SCAN_OK);
        cr_assert_eq(output.type, JSON_NUMBER);
        cr_assert(view_equal(output.value, values[i]));
        builder_clear(&text);
    }
}

Test(json_scan, tells_types_apart)
{
    const struct {
        struct view text;
        enum json_type type;
    } cases[] = {
        {VIEW("null"), JSON_NULL},
        {VIEW("true"), JSON_TRUE},
        {VIEW("false"), JSON_FALSE},
        {VIEW("0"), JSON_NUMBER},
        {VIEW("-12.5"), JSON_NUMBER},
        {VIEW("\"\""), JSON_STRING},
        {VIEW("[]"), JSON_ARRAY},
        {VIEW("[[],{}]"), JSON_ARRAY},
        {VIEW("{}"), JSON_OBJECT},
        {VIEW("NaN"), JSON_NON_FINITE},
        {VIEW("Infinity"), JSON_NON_FINITE},
        {VIEW("-Infinity"), JSON_NON_FINITE},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct json_report report;
        struct json_member member = {.name = VIEW("a")};
        struct builder text;
        cr_assert_eq(json_scan(cases[i].text, JSON_SCAN_NON_FINITE, NULL, 0, &report), JSON_SCAN_OK,
                     "case %zu", i);
        cr_assert_eq(report.type, cases[i].type, "case %zu", i);
        builder_init(&text, NULL, 0);
        builder_append(&text, VIEW("{\"b\":[1,NaN],\"a\":"));
        builder_append(&text, cases[i].text);
        builder_append(&text, VIEW("}"));
        cr_assert_eq(json_scan(builder_view(&text), JSON_SCAN_NON_FINITE, &member, 1, &report),
                     JSON_SCAN_OK);
        cr_assert_eq(member.type, cases[i].type, "case %zu", i);
        cr_assert(view_equal(member.value, cases[i].text));
        cr_assert(report.non_finite);
        builder_clear(&text);
    }
}

Test(json_scan, takes_non_finite_numbers_only_when_asked)
{
    cr_assert_eq(scan(VIEW("[NaN]"), 0), JSON_SCAN_BAD);
    cr_assert_eq(scan(VIEW("[-Infinity]"), 0), JSON_SCAN_BAD);
    cr_assert_eq(scan(VIEW("[NaN, Infinity,-Infinity]"), JSON_SCAN_NON_FINITE), JSON_SCAN_OK);
    cr_assert_eq(scan(VIEW("[-NaN]"), JSON_SCAN_NON_FINITE), JSON_SCAN_BAD);
    cr_assert_eq(scan(VIEW("[nan]"), JSON_SCAN_NON_FINITE), JSON_SCAN_BAD);
    cr_assert_eq(scan(VIEW("[+Infinity]"), JSON_SCAN_NON_FINITE), JSON_SCAN_BAD);
    cr_assert_eq(scan(VIEW("{NaN:1}"), JSON_SCAN_NON_FINITE), JSON_SCAN_BAD);
}

Test(json_scan, refuses_what_is_not_json)
{
    const struct view wrong[] = {
        VIEW("{a:1}"),
        VIEW("{'a':1}"),
        VIEW("{\"a\" 1}"),
        VIEW("{\"a\":1,}"),
        VIEW("[1,]"),
        VIEW("[,1]"),
        VIEW("[1 2]"),
        VIEW("{\"a\":}"),
        VIEW("{,}"),
        VIEW("[1}"),
        VIEW("{\"a\":1]"),
        VIEW("]"),
        VIEW("01"),
        VIEW("-01"),
        VIEW("[1.]"),
        VIEW("[.5]"),
        VIEW("[1e]"),
        VIEW("[1e+]"),
        VIEW("[+1]"),
        VIEW("[0x1]"),
        VIEW("[--1]"),
        VIEW("[1.2.3]"),
        VIEW("[tru]"),
        VIEW("[True]"),
        VIEW("[nulll]"),
        VIEW("\"a\nb\""),
        VIEW("\"\\x\""),
        VIEW("\"\\u12g4\""),
        VIEW("\"a\tb\""),
        VIEW("[\"a\"\"b\"]"),
        VIEW("{\"a\":1 \"b\":2}"),
        VIEW("{\"a\"::1}"),
        VIEW("\xef\xbb\xbf{}"),
        VIEW("/**/1"),
        VIEW("[\0]"),
        VIEW("{1:2}"),
        VIEW("\"0123456789\x1f\""),
        VIEW("[-]"),
        VIEW("[1-]"),
        VIEW("\xa0 1"),
        /* Found by fuzzing: jansson takes it. */
        VIEW("1\0"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        enum json_scan_result result = scan(wrong[i], JSON_SCAN_NON_FINITE);
        cr_assert(result == JSON_SCAN_BAD || result == JSON_SCAN_TRAILING, "case %zu: %d", i,
                  result);
    }
    cr_assert_eq(scan(VIEW("{} x"), 0), JSON_SCAN_TRAILING);
    cr_assert_eq(scan(VIEW("1 2"), 0), JSON_SCAN_TRAILING);
    cr_assert_eq(scan(VIEW("{}{}"), 0), JSON_SCAN_TRAILING);
    cr_assert_eq(scan(VIEW(""), 0), JSON_SCAN_EMPTY);
    cr_assert_eq(scan(VIEW(" \r\n\t "), 0), JSON_SCAN_EMPTY);
}

Test(json_scan, says_cut_for_every_beginning_of_a_text)
{
    struct view text = VIEW("{\"a\\u00e4\":[1.5e+3,-0,true,false,null,\"x\\n\xc3\xa4\xe2\x82\xac"
                            "\",NaN,-Infinity],\"b\":{\"c\":{}}}");
    cr_assert_eq(scan(text, JSON_SCAN_NON_FINITE | JSON_SCAN_UTF8), JSON_SCAN_OK);
    for (size_t length = 1; length < text.length; length++) {
        /* A copy of this size, so that a look behind the end is caught. */
        char *copy = malloc(length);
        memcpy(copy, text.data, length);
        cr_assert_eq(scan(view_make(copy, length), JSON_SCAN_NON_FINITE | JSON_SCAN_UTF8),
                     JSON_SCAN_CUT, "%zu bytes", length);
        free(copy);
    }
}

Test(json_scan, reports_members_that_were_whole_before_the_cut)
{
    struct json_member members[] = {{.name = VIEW("id")}, {.name = VIEW("status")}};
    cr_assert_eq(json_scan(VIEW("{\"id\":\"abc-u1\",\"status\":\"IN_QU"), 0, members, 2, NULL),
                 JSON_SCAN_CUT);
    cr_assert_eq(members[0].type, JSON_STRING);
    cr_assert(view_equal(members[0].value, VIEW("\"abc-u1\"")));
    cr_assert_eq(members[1].type, JSON_ABSENT);
    cr_assert_eq(json_scan(VIEW("{\"id\":12"), 0, members, 2, NULL), JSON_SCAN_CUT);
    cr_assert_eq(members[0].type, JSON_ABSENT);
}

Test(json_scan, notices_members_that_occur_twice_and_takes_the_last)
{
    struct json_member member = {.name = VIEW("id")};
    struct json_report report;
    cr_assert_eq(
        json_scan(VIEW("{\"id\":1,\"x\":{\"id\":3},\"\\u0069d\":[2]}"), 0, &member, 1, &report),
        JSON_SCAN_OK);
    cr_assert(member.twice);
    cr_assert_eq(member.type, JSON_ARRAY);
    cr_assert(view_equal(member.value, VIEW("[2]")));
    cr_assert_eq(report.member_count, 3);
}

Test(json_scan, matches_names_by_what_they_say)
{
    struct json_member member = {.name = VIEW("status")};
    cr_assert_eq(
        json_scan(VIEW("{\"st\\u0061tus\":1,\"statu\":2,\"statuss\":3}"), 0, &member, 1, NULL),
        JSON_SCAN_OK);
    cr_assert(view_equal(member.value, VIEW("1")));
    cr_assert_not(member.twice);
    cr_assert_eq(json_scan(VIEW("[{\"status\":1}]"), 0, &member, 1, NULL), JSON_SCAN_OK);
    cr_assert_eq(member.type, JSON_ABSENT);
}

Test(json_scan, bounds_the_depth_without_recursion)
{
    char *text = malloc(4096);
    size_t depth = JSON_SCAN_DEPTH_MAXIMUM;
    memset(text, '[', depth + 1);
    memset(text + depth, ']', depth);
    cr_assert_eq(scan(view_make(text, 2 * depth), 0), JSON_SCAN_OK);
    cr_assert_eq(scan(view_make(text, 2 * depth - 1), 0), JSON_SCAN_CUT);
    memset(text, '[', depth + 1);
    cr_assert_eq(scan(view_make(text, depth + 1), 0), JSON_SCAN_TOO_DEEP);
    /* Kinds are kept apart on every level. */
    size_t length = 0;
    for (size_t i = 0; i < 256; i++) {
        memcpy(text + length, "[{\"a\":", 6);
        length += 6;
    }
    text[length++] = '1';
    for (size_t i = 0; i < 256; i++) {
        memcpy(text + length, "}]", 2);
        length += 2;
    }
    cr_assert_eq(scan(view_make(text, length), 0), JSON_SCAN_OK);
    text[length - 1] = '}';
    cr_assert_eq(scan(view_make(text, length), 0), JSON_SCAN_BAD);
    free(text);
}

Test(json_scan, checks_utf8_only_when_asked)
{
    const struct view wrong[] = {VIEW("\"\xff\""), VIEW("\"01234567\xc3\""),
                                 VIEW("\"\xed\xa0\x80\""), VIEW("{\"\xc0\x80\":1}"),
                                 VIEW("\"abc\xe2\x82\"")};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        cr_assert_eq(scan(wrong[i], 0), JSON_SCAN_OK, "case %zu", i);
        cr_assert_eq(scan(wrong[i], JSON_SCAN_UTF8), JSON_SCAN_NOT_UTF8, "case %zu", i);
    }
    cr_assert_eq(scan(VIEW("\"\xff"), JSON_SCAN_UTF8), JSON_SCAN_NOT_UTF8);
    cr_assert_eq(scan(VIEW("\"0123\xc3\xa4\xe2\x82\xac 4567\xf0\x9f\x98\x80\""), JSON_SCAN_UTF8),
                 JSON_SCAN_OK);
}

/* The fast loop over strings looks at eight bytes at once: a quote, backslash or control byte must
 * be seen at each place of such a group, next to bytes that could mislead it. */
Test(json_scan, sees_the_end_of_strings_at_every_place)
{
    static const char fillers[] = {'a', ' ',    '!',    '#',    '[',    ']',
                                   '~', '\x7f', '\x80', '\xa2', '\xdc', '\xff'};
    for (size_t filler = 0; filler < sizeof fillers; filler++) {
        for (size_t place = 1; place < 24; place++) {
            char text[32];
            memset(text, fillers[filler], sizeof text);
            text[0] = '"';
            text[place] = '"';
            cr_assert_eq(scan(view_make(text, place + 1), 0), JSON_SCAN_OK);
            text[place] = '\\';
            text[place + 1] = '"';
            text[place + 2] = '"';
            cr_assert_eq(scan(view_make(text, place + 3), 0), JSON_SCAN_OK);
            text[place] = '\x1f';
            cr_assert_eq(scan(view_make(text, place + 3), 0), JSON_SCAN_BAD);
        }
    }
}
