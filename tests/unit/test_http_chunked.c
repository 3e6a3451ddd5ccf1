#include "build_config.h"

#include <criterion/criterion.h>

#include "format/http_chunked.h"

/* Decodes `input`, `piece` bytes at a time; the data goes to `body`, what is left over is counted.
 */
static enum http_chunked_step decode(struct view input, size_t piece, struct builder *body,
                                     size_t *left, struct http_chunked *decoder)
{
    http_chunked_begin(decoder);
    builder_reset(body);
    while (input.length > 0) {
        struct view part = view_first(input, piece);
        size_t given = part.length;
        struct view data;
        enum http_chunked_step step;
        while ((step = http_chunked_next(decoder, &part, &data)) == HTTP_CHUNKED_DATA) {
            cr_assert_gt(data.length, 0);
            builder_append(body, data);
        }
        input = view_skip(input, given - part.length);
        if (step != HTTP_CHUNKED_MORE) {
            *left = input.length;
            return step;
        }
        cr_assert_eq(part.length, 0);
    }
    *left = 0;
    return HTTP_CHUNKED_MORE;
}

static void expect_body(struct view input, struct view expected, size_t expected_left)
{
    struct builder body;
    struct http_chunked decoder;
    size_t left;
    builder_init(&body, NULL, 0);
    for (size_t piece = 1; piece <= input.length; piece++) {
        cr_assert_eq(decode(input, piece, &body, &left, &decoder), HTTP_CHUNKED_END,
                     "%.*s in pieces of %zu", (int)input.length, input.data, piece);
        cr_assert(view_equal(builder_view(&body), expected));
        cr_assert_eq(left, expected_left);
    }
    builder_clear(&body);
}

static void expect_fault(struct view input, enum http_chunked_fault fault)
{
    struct builder body;
    struct http_chunked decoder;
    size_t left;
    builder_init(&body, NULL, 0);
    for (size_t piece = 1; piece <= input.length; piece += piece < 20 ? 1 : 97) {
        cr_assert_eq(decode(input, piece, &body, &left, &decoder), HTTP_CHUNKED_FAULT,
                     "%.*s in pieces of %zu", (int)(input.length < 99 ? input.length : 99),
                     input.data, piece);
        cr_assert_eq(decoder.fault, fault, "%.*s: fault %d, not %d",
                     (int)(input.length < 99 ? input.length : 99), input.data, decoder.fault,
                     fault);
        struct view none = VIEW("0\r\n\r\n");
        struct view data;
        cr_assert_eq(http_chunked_next(&decoder, &none, &data), HTTP_CHUNKED_FAULT);
        cr_assert_gt(http_chunked_detail(&decoder).length, 0);
        cr_assert_gt(http_chunked_name(&decoder).length, 0);
    }
    builder_clear(&body);
}

Test(http_chunked, decodes_bodies_cut_anywhere_and_stops_at_their_end)
{
    expect_body(VIEW("0\r\n\r\n"), VIEW(""), 0);
    expect_body(VIEW("5\r\nhello\r\n0\r\n\r\n"), VIEW("hello"), 0);
    expect_body(VIEW("5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1"), VIEW("hello"), 14);
    expect_body(VIEW("1\r\na\r\n0A\r\n0123456789\r\n00\r\n\r\n"), VIEW("a0123456789"), 0);
    expect_body(VIEW("2;name=value\r\n\r\n\r\n0;x\r\n\r\n"), VIEW("\r\n"), 0);
    expect_body(VIEW("1;a=\"b;c\"\r\nz\r\n0\r\nTrailer-Field: v\r\nOther:\r\n\r\nrest"), VIEW("z"),
                4);
    expect_body(VIEW("0000000000000001\r\na\r\n0\r\n\r\n"), VIEW("a"), 0);
}

Test(http_chunked, refuses_bad_sizes)
{
    const struct view sizes[] = {
        VIEW("\r\n"),   VIEW("0x5\r\n"), VIEW("+5\r\n"),         VIEW("-5\r\n"),
        VIEW(" 5\r\n"), VIEW("5 \r\n"),  VIEW("5 ;a\r\n"),       VIEW("g\r\n"),
        VIEW(";a\r\n"), VIEW("5\t\r\n"), VIEW("5\0\r\n"),        VIEW("5,\r\n"),
        VIEW("\n"),     VIEW("5_0\r\n"), VIEW("1\r\na\r\n\r\n"), VIEW("1\r\na\r\nx\r\n"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        expect_fault(sizes[i], HTTP_CHUNKED_BAD_SIZE);
    }
}

Test(http_chunked, refuses_sizes_above_63_bits_alone_and_in_all)
{
    expect_fault(VIEW("8000000000000000\r\n"), HTTP_CHUNKED_SIZE_TOO_LARGE);
    expect_fault(VIEW("ffffffffffffffff\r\n"), HTTP_CHUNKED_SIZE_TOO_LARGE);
    expect_fault(VIEW("00000000000000001\r\n"), HTTP_CHUNKED_SIZE_TOO_LARGE);
    expect_fault(VIEW("1\r\na\r\n7fffffffffffffff\r\n"), HTTP_CHUNKED_SIZE_TOO_LARGE);
    struct http_chunked decoder;
    struct view input = VIEW("7fffffffffffffff\r\nab");
    struct view data;
    http_chunked_begin(&decoder);
    cr_assert_eq(http_chunked_next(&decoder, &input, &data), HTTP_CHUNKED_DATA);
    cr_assert(view_equal(data, VIEW("ab")));
    cr_assert_eq(decoder.remaining, INT64_MAX - 2);
}

Test(http_chunked, refuses_line_ends_other_than_crlf)
{
    expect_fault(VIEW("5\nhello"), HTTP_CHUNKED_NO_CRLF);
    expect_fault(VIEW("5\r\rhello"), HTTP_CHUNKED_NO_CRLF);
    expect_fault(VIEW("5\r\nhello\n0\r\n"), HTTP_CHUNKED_NO_CRLF);
    expect_fault(VIEW("5\r\nhello\rX"), HTTP_CHUNKED_NO_CRLF);
    expect_fault(VIEW("5\r\nhello!\r\n"), HTTP_CHUNKED_NO_CRLF);
    expect_fault(VIEW("5;a\nhello"), HTTP_CHUNKED_BAD_EXTENSION);
    expect_fault(VIEW("5;a\0\r\n"), HTTP_CHUNKED_BAD_EXTENSION);
    expect_fault(VIEW("5;a\rb"), HTTP_CHUNKED_NO_CRLF);
    expect_fault(VIEW("0\r\n\rX"), HTTP_CHUNKED_BAD_TRAILER);
}

Test(http_chunked, bounds_extensions_at_256_bytes)
{
    char text[600];
    memset(text, 'x', sizeof text);
    memcpy(text, "1;", 2);
    memcpy(text + 257, "\r\na\r\n0\r\n\r\n", 10);
    expect_body(view_make(text, 267), VIEW("a"), 0);
    memset(text + 257, 'x', 10);
    memcpy(text + 258, "\r\na", 3);
    expect_fault(view_make(text, 261), HTTP_CHUNKED_EXTENSION_TOO_LONG);
}

Test(http_chunked, checks_and_bounds_trailers)
{
    expect_fault(VIEW("0\r\n: v\r\n\r\n"), HTTP_CHUNKED_BAD_TRAILER);
    expect_fault(VIEW("0\r\nname : v\r\n\r\n"), HTTP_CHUNKED_BAD_TRAILER);
    expect_fault(VIEW("0\r\nname\r\n\r\n"), HTTP_CHUNKED_BAD_TRAILER);
    expect_fault(VIEW("0\r\nname: a\0b\r\n\r\n"), HTTP_CHUNKED_BAD_TRAILER);
    expect_fault(VIEW("0\r\nname: v\n\r\n"), HTTP_CHUNKED_BAD_TRAILER);
    expect_fault(VIEW("0\r\n folded: v\r\n\r\n"), HTTP_CHUNKED_BAD_TRAILER);
    expect_fault(VIEW("0\r\n\n"), HTTP_CHUNKED_BAD_TRAILER);
    struct builder text;
    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW("0\r\n"));
    /* 1365 lines of 6 bytes and the final CRLF are 8192 bytes. */
    for (int i = 0; i < 1365; i++) {
        builder_append(&text, VIEW("a: b\r\n"));
    }
    struct http_chunked decoder;
    struct view data;
    builder_append(&text, VIEW("\r\n"));
    struct view input = builder_view(&text);
    http_chunked_begin(&decoder);
    cr_assert_eq(http_chunked_next(&decoder, &input, &data), HTTP_CHUNKED_END);
    text.length -= 2;
    builder_append(&text, VIEW("a:\r\n\r\n"));
    expect_fault(builder_view(&text), HTTP_CHUNKED_TRAILER_TOO_LARGE);
    builder_clear(&text);
}

Test(http_chunked, formats_headers)
{
    char text[HTTP_CHUNK_HEADER_MAXIMUM];
    cr_assert(view_equal(view_make(text, http_chunk_format_header(text, 0)), VIEW("0\r\n")));
    cr_assert(
        view_equal(view_make(text, http_chunk_format_header(text, 0x1a2b)), VIEW("1a2b\r\n")));
    cr_assert(view_equal(view_make(text, http_chunk_format_header(text, UINT64_MAX)),
                         VIEW("ffffffffffffffff\r\n")));
    cr_assert(view_equal(http_chunked_last(), VIEW("0\r\n\r\n")));
}
