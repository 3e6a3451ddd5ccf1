#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "format/http_conditional.h"

TestSuite(http_conditional);

/* ---- Accept-Encoding ------------------------------------------------------------------------- */

static enum http_coding choose(const char *value)
{
    struct http_accept accept;

    http_accept_begin(&accept);
    http_accept_add(&accept, view_of_string(value));
    return http_accept_choose(&accept);
}

struct choice {
    const char *value;
    enum http_coding coding;
};

static void expect_choices(const struct choice *choices, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cr_expect_eq(choose(choices[i].value), choices[i].coding, "%s", choices[i].value);
    }
}

Test(http_conditional, what_clients_really_send_gets_the_best_coding_they_have)
{
    static const struct choice choices[] = {
        {"gzip, deflate, br", HTTP_CODING_GZIP},       /* Python requests */
        {"gzip, deflate, br, zstd", HTTP_CODING_ZSTD}, /* browsers, aiohttp with zstd */
        {"gzip", HTTP_CODING_GZIP},                    /* Go */
        {"gzip,deflate", HTTP_CODING_GZIP},            /* node-fetch */
        {"br, gzip, deflate", HTTP_CODING_GZIP},
        {"identity", HTTP_CODING_IDENTITY},
        {"deflate, br", HTTP_CODING_IDENTITY},
        {"", HTTP_CODING_IDENTITY},
    };
    expect_choices(choices, ARRAY_LENGTH(choices));
}

Test(http_conditional, qualities_are_obeyed)
{
    static const struct choice choices[] = {
        {"gzip;q=1.0, zstd;q=0.5", HTTP_CODING_GZIP},
        {"gzip;q=0.5, zstd;q=0.501", HTTP_CODING_ZSTD},
        {"gzip;q=0.5", HTTP_CODING_GZIP},
        {"identity;q=1, gzip;q=0.5", HTTP_CODING_IDENTITY},
        {"identity;q=0.5, gzip;q=0.5", HTTP_CODING_GZIP},
        {"zstd;q=0, gzip", HTTP_CODING_GZIP},
        {"zstd;q=0.000", HTTP_CODING_IDENTITY},
        {"gzip ; q=0.3 , zstd\t;\tq=0.2", HTTP_CODING_GZIP},
        {"GZip;Q=0.9", HTTP_CODING_GZIP},
        {"x-gzip", HTTP_CODING_GZIP},
    };
    expect_choices(choices, ARRAY_LENGTH(choices));
}

Test(http_conditional, star_stands_for_what_is_not_named)
{
    static const struct choice choices[] = {
        {"*", HTTP_CODING_ZSTD},
        {"zstd;q=0, *", HTTP_CODING_GZIP},
        {"gzip, *;q=0", HTTP_CODING_GZIP},
        {"*;q=0", HTTP_CODING_IDENTITY},
        {"*;q=0.1, gzip;q=0.5", HTTP_CODING_GZIP},
        {"identity, *;q=0", HTTP_CODING_IDENTITY},
    };
    expect_choices(choices, ARRAY_LENGTH(choices));
}

Test(http_conditional, identity_is_allowed_unless_it_is_excluded)
{
    static const struct {
        const char *value;
        bool allowed;
    } cases[] = {{"", true},
                 {"gzip", true},
                 {"identity;q=0", false},
                 {"*;q=0", false},
                 {"*;q=0, identity", true},
                 {"gzip, identity;q=0.0", false},
                 {"*;q=0.1", true}};

    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct http_accept accept;

        http_accept_begin(&accept);
        http_accept_add(&accept, view_of_string(cases[i].value));
        cr_expect_eq(http_accept_allows(&accept, HTTP_CODING_IDENTITY), cases[i].allowed, "%s",
                     cases[i].value);
    }
}

Test(http_conditional, several_lines_count_as_one_list)
{
    struct http_accept accept;

    http_accept_begin(&accept);
    http_accept_add(&accept, VIEW("gzip;q=0.5"));
    http_accept_add(&accept, VIEW("zstd;q=0.8"));
    cr_expect_eq(http_accept_choose(&accept), HTTP_CODING_ZSTD);
}

Test(http_conditional, malformed_elements_count_as_not_written)
{
    static const struct choice choices[] = {
        {"gzip;q=2", HTTP_CODING_IDENTITY},      {"gzip;q=1.001", HTTP_CODING_IDENTITY},
        {"gzip;q=0.5555", HTTP_CODING_IDENTITY}, {"gzip;q=", HTTP_CODING_IDENTITY},
        {"gzip;q=-1", HTTP_CODING_IDENTITY},     {"gzip;q=.5", HTTP_CODING_IDENTITY},
        {"gzip;q=0,5", HTTP_CODING_IDENTITY},    {"gzip;", HTTP_CODING_IDENTITY},
        {"gzip;x=1", HTTP_CODING_IDENTITY},      {"gzip zstd", HTTP_CODING_IDENTITY},
        {";q=1", HTTP_CODING_IDENTITY},          {",,,gzip,,", HTTP_CODING_GZIP},
        {"zstd;q=x, gzip", HTTP_CODING_GZIP},
    };
    expect_choices(choices, ARRAY_LENGTH(choices));
}

/* ---- Range ----------------------------------------------------------------------------------- */

static void expect_part(const char *value, uint64_t length, uint64_t first, uint64_t count)
{
    uint64_t got_first = 0;
    uint64_t got_count = 0;

    cr_expect_eq(http_range_parse(view_of_string(value), length, &got_first, &got_count),
                 HTTP_RANGE_PART, "%s", value);
    cr_expect_eq(got_first, first, "%s", value);
    cr_expect_eq(got_count, count, "%s", value);
}

static void expect_range(const char *value, uint64_t length, enum http_range expected)
{
    uint64_t first;
    uint64_t count;

    cr_expect_eq(http_range_parse(view_of_string(value), length, &first, &count), expected, "%s",
                 value);
}

Test(http_conditional, one_range_is_cut_out)
{
    expect_part("bytes=0-0", 1000, 0, 1);
    expect_part("bytes=0-499", 1000, 0, 500);
    expect_part("bytes=500-", 1000, 500, 500);
    expect_part("bytes=999-", 1000, 999, 1);
    expect_part("bytes=900-5000", 1000, 900, 100);
    expect_part("bytes=900-99999999999999999999999", 1000, 900, 100);
    expect_part("bytes=-1", 1000, 999, 1);
    expect_part("bytes=-1000", 1000, 0, 1000);
    expect_part("bytes=-99999999999999999999999", 1000, 0, 1000);
    expect_part("BYTES=1-2", 1000, 1, 2);
    expect_part("bytes= 1-2 ,", 1000, 1, 2);
    expect_part("bytes=00-00", 1000, 0, 1);
    expect_part("bytes=0-18446744073709551615", 1000, 0, 1000);
}

Test(http_conditional, range_behind_the_end_is_unsatisfiable)
{
    expect_range("bytes=1000-", 1000, HTTP_RANGE_UNSATISFIABLE);
    expect_range("bytes=1000-1001", 1000, HTTP_RANGE_UNSATISFIABLE);
    expect_range("bytes=99999999999999999999999-", 1000, HTTP_RANGE_UNSATISFIABLE);
    expect_range("bytes=-0", 1000, HTTP_RANGE_UNSATISFIABLE);
    expect_range("bytes=0-", 0, HTTP_RANGE_UNSATISFIABLE);
    expect_range("bytes=-5", 0, HTTP_RANGE_UNSATISFIABLE);
}

Test(http_conditional, what_is_no_single_range_asks_for_the_whole)
{
    static const char *const values[] = {
        "",           "bytes",       "bytes=",        "bytes=-",      "bytes=5",   "bytes=5-4",
        "bytes=a-b",  "bytes=1-b",   "bytes=0-1,2-3", "bytes=0-0,-1", "items=0-1", "bytes =0-1",
        "bytes=+1-2", "bytes=1-2-3", "bytes=0x1-2",   "bytes= 1 - 2", "bytes=--1", "0-1",
        "bytes=,,",   "bytes=1-+2",  "bytes:0-1",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        expect_range(values[i], 1000, HTTP_RANGE_WHOLE);
    }
}

Test(http_conditional, if_range_is_compared_strongly)
{
    cr_expect(http_if_range_allows(VIEW("\"abc\""), VIEW("\"abc\"")));
    cr_expect_not(http_if_range_allows(VIEW("W/\"abc\""), VIEW("\"abc\"")));
    cr_expect_not(http_if_range_allows(VIEW("\"abc-gzip\""), VIEW("\"abc\"")));
    cr_expect_not(http_if_range_allows(VIEW("abc"), VIEW("\"abc\"")));
    cr_expect_not(http_if_range_allows(VIEW("Sun, 06 Nov 1994 08:49:37 GMT"), VIEW("\"abc\"")));
    cr_expect_not(http_if_range_allows(VIEW(""), VIEW("\"abc\"")));
}

/* ---- If-None-Match --------------------------------------------------------------------------- */

static void expect_etags(const char *value, const char *expected)
{
    struct view list = view_of_string(value);
    struct view etag;
    char text[200] = "";
    size_t length = 0;

    while (http_next_etag(&list, &etag)) {
        length += (size_t)snprintf(text + length, sizeof text - length, "%.*s|", (int)etag.length,
                                   etag.data);
    }
    cr_expect_str_eq(text, expected, "%s: %s", value, text);
}

Test(http_conditional, entity_tags_are_taken_off_one_by_one)
{
    expect_etags("\"a\"", "\"a\"|");
    expect_etags("\"a\", \"b\",\"c\"", "\"a\"|\"b\"|\"c\"|");
    expect_etags("W/\"a\" , W/\"b\"", "\"a\"|\"b\"|");
    expect_etags("\"\"", "\"\"|");
    expect_etags("\"with, comma\", \"b\"", "\"with, comma\"|\"b\"|");
    expect_etags(",, \"a\",\t,", "\"a\"|");
    expect_etags("*", "*|");
    expect_etags(" * ", "*|");
}

Test(http_conditional, malformed_lists_of_tags_match_up_to_where_they_break)
{
    expect_etags("", "");
    expect_etags("a", "");
    expect_etags("\"a", "");
    expect_etags("w/\"a\"", "");
    expect_etags("W/ \"a\"", "");
    expect_etags("\"a\", b, \"c\"", "\"a\"|");
    expect_etags("\"a\" \"b\"", "");
    expect_etags("*, \"a\"", "");
    expect_etags("\"", "");
    expect_etags("W/", "");
}
