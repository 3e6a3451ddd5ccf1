#include "build_config.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "format/http_head.h"

/* ---- helpers --------------------------------------------------------------------------------- */

static enum http_head_result parse_in_pieces(struct http_request_head *request, struct view text,
                                             size_t piece)
{
    enum http_head_result result = HTTP_HEAD_INCOMPLETE;
    http_request_begin(request);
    for (size_t given = 0; given < text.length && result == HTTP_HEAD_INCOMPLETE;) {
        given = text.length - given < piece ? text.length : given + piece;
        result = http_request_parse(request, text.data, given);
    }
    return result;
}

/* Parses whole and in pieces: every cut must give the same verdict. */
static enum http_head_result parse(struct http_request_head *request, struct view text)
{
    enum http_head_result whole = parse_in_pieces(request, text, text.length);
    size_t length = request->head.length;
    for (size_t piece = 1; piece < text.length && piece < 40; piece++) {
        enum http_head_result cut = parse_in_pieces(request, text, piece);
        cr_assert_eq(cut, whole, "%.*s in pieces of %zu: %s, not %s",
                     (int)(text.length < 200 ? text.length : 200), text.data, piece,
                     http_head_name(cut).data, http_head_name(whole).data);
        if (whole == HTTP_HEAD_OK) {
            cr_assert_eq(request->head.length, length);
        }
    }
    cr_assert_eq(parse_in_pieces(request, text, text.length), whole);
    return whole;
}

static void expect(struct view text, enum http_head_result expected)
{
    struct http_request_head request;
    enum http_head_result result = parse(&request, text);
    cr_assert_eq(result, expected, "%.*s: %s, not %s",
                 (int)(text.length < 200 ? text.length : 200), text.data,
                 http_head_name(result).data, http_head_name(expected).data);
}

/* A request that is right but for these field lines. */
static void expect_fields(struct view fields, enum http_head_result expected)
{
    struct builder text;
    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW("POST /v2/e/run HTTP/1.1\r\nHost: h\r\n"));
    builder_append(&text, fields);
    builder_append(&text, VIEW("\r\n"));
    expect(builder_view(&text), expected);
    builder_clear(&text);
}

static void expect_line(struct view line, enum http_head_result expected)
{
    struct builder text;
    builder_init(&text, NULL, 0);
    builder_append(&text, line);
    builder_append(&text, VIEW("\r\nHost: h\r\n\r\n"));
    expect(builder_view(&text), expected);
    builder_clear(&text);
}

/* ---- well-formed requests -------------------------------------------------------------------- */

Test(http_head, takes_a_request_apart)
{
    struct http_request_head request;
    struct view text = VIEW("POST /v2/ep/runsync?wait=1000 HTTP/1.1\r\n"
                            "Host: 127.0.0.1:8080\r\n"
                            "authorization:Bearer pg_x\r\n"
                            "CONTENT-TYPE: \t application/json \t\r\n"
                            "X-Odd:\r\n"
                            "content-length: 2\r\n"
                            "\r\n{}");
    cr_assert_eq(parse(&request, text), HTTP_HEAD_OK);
    const struct http_head *head = &request.head;
    cr_assert_eq(head->length, text.length - 2);
    cr_assert_eq(request.method, HTTP_METHOD_POST);
    cr_assert(view_equal(http_request_method(&request), VIEW("POST")));
    cr_assert(view_equal(http_request_target(&request), VIEW("/v2/ep/runsync?wait=1000")));
    cr_assert_eq(request.target_form, HTTP_TARGET_ORIGIN);
    cr_assert_eq(head->minor, 1);
    cr_assert_eq(head->field_count, 5);
    cr_assert_eq(head->framing, HTTP_BODY_LENGTH);
    cr_assert_eq(head->content_length, 2);
    cr_assert(head->keep_alive);
    cr_assert_not(request.expects_continue);
    cr_assert_eq(request.objection, HTTP_HEAD_OK);
    cr_assert(view_equal(http_head_value(head, HTTP_FIELD_HOST), VIEW("127.0.0.1:8080")));
    cr_assert(view_equal(http_head_value(head, HTTP_FIELD_AUTHORIZATION), VIEW("Bearer pg_x")));
    cr_assert(view_equal(http_head_value(head, HTTP_FIELD_CONTENT_TYPE),
                         VIEW("application/json")));
    cr_assert(view_equal(http_head_field_name(head, 3), VIEW("X-Odd")));
    cr_assert(view_equal(http_head_field_value(head, 3), VIEW("")));
    cr_assert_not(http_head_has(head, HTTP_FIELD_ACCEPT));
    cr_assert_null(http_head_value(head, HTTP_FIELD_ACCEPT).data);
}

Test(http_head, follows_a_buffer_that_moves)
{
    struct http_request_head request;
    struct view text = VIEW("GET / HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n");
    http_request_begin(&request);
    for (size_t given = 1; given <= text.length; given++) {
        char *copy = malloc(given);
        memcpy(copy, text.data, given);
        cr_assert_eq(http_request_parse(&request, copy, given),
                     given < text.length ? HTTP_HEAD_INCOMPLETE : HTTP_HEAD_OK);
        free(copy);
    }
    request.head.data = text.data;
    cr_assert(view_equal(http_head_value(&request.head, HTTP_FIELD_ACCEPT), VIEW("*/*")));
    cr_assert(view_equal(http_request_target(&request), VIEW("/")));
}

Test(http_head, ignores_one_empty_line_before_the_request_line)
{
    struct http_request_head request;
    cr_assert_eq(parse(&request, VIEW("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")), HTTP_HEAD_OK);
    cr_assert(view_equal(http_request_method(&request), VIEW("GET")));
    cr_assert(view_equal(http_head_value(&request.head, HTTP_FIELD_HOST), VIEW("h")));
    expect(VIEW("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect(VIEW("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), HTTP_HEAD_BARE_LF);
    expect(VIEW("\rGET / HTTP/1.1\r\nHost: h\r\n\r\n"), HTTP_HEAD_BARE_CR);
}

Test(http_head, keeps_the_first_field_of_a_name_and_all_lines_in_order)
{
    struct http_request_head request;
    cr_assert_eq(parse(&request, VIEW("GET / HTTP/1.1\r\nAccept: a\r\nHost: h\r\nAccept: b\r\n"
                                      "x-stainless-os: Linux\r\nOpenAI-Beta: 1\r\n\r\n")),
                 HTTP_HEAD_OK);
    cr_assert(view_equal(http_head_value(&request.head, HTTP_FIELD_ACCEPT), VIEW("a")));
    cr_assert_eq(request.head.fields[2].id, HTTP_FIELD_ACCEPT);
    cr_assert(view_equal(http_head_field_value(&request.head, 2), VIEW("b")));
    cr_assert_eq(request.head.fields[3].id, HTTP_FIELD_ANY_X_STAINLESS);
    cr_assert_eq(request.head.fields[4].id, HTTP_FIELD_ANY_OPENAI);
}

Test(http_head, decides_about_keep_alive_by_version_and_connection)
{
    const struct {
        struct view text;
        bool keep_alive;
    } cases[] = {
        {VIEW("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), true},
        {VIEW("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), false},
        {VIEW("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, CLOSE\r\n\r\n"), false},
        {VIEW("GET / HTTP/1.1\r\nHost: h\r\nConnection: x\r\nConnection: ,close,\r\n\r\n"), false},
        {VIEW("GET / HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\n"), true},
        {VIEW("GET / HTTP/1.0\r\n\r\n"), false},
        {VIEW("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), true},
        {VIEW("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"), false},
        {VIEW("GET / HTTP/1.2\r\nHost: h\r\n\r\n"), true},
        {VIEW("CONNECT a:1 HTTP/1.1\r\nHost: h\r\n\r\n"), false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct http_request_head request;
        cr_assert_eq(parse(&request, cases[i].text), HTTP_HEAD_OK, "case %zu", i);
        cr_assert_eq(request.head.keep_alive, cases[i].keep_alive, "case %zu", i);
    }
}

Test(http_head, marks_what_connection_names_as_hop_by_hop)
{
    struct http_request_head request;
    cr_assert_eq(parse(&request, VIEW("GET / HTTP/1.1\r\nHost: h\r\nTraceParent: a\r\n"
                                      "Connection: traceparent, \"odd\", Accept\r\nAccept: b\r\n"
                                      "User-Agent: c\r\n\r\n")),
                 HTTP_HEAD_OK);
    cr_assert_not(request.head.fields[0].hop);
    cr_assert(request.head.fields[1].hop);
    cr_assert(request.head.fields[3].hop);
    cr_assert_not(request.head.fields[4].hop);
}

Test(http_head, knows_the_forms_of_a_target)
{
    struct http_request_head request;
    cr_assert_eq(parse(&request, VIEW("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")), HTTP_HEAD_OK);
    cr_assert_eq(request.target_form, HTTP_TARGET_ASTERISK);
    cr_assert_eq(parse(&request, VIEW("GET HTTP://h:80/x HTTP/1.1\r\nHost: h\r\n\r\n")),
                 HTTP_HEAD_OK);
    cr_assert_eq(request.target_form, HTTP_TARGET_ABSOLUTE);
    cr_assert_eq(parse(&request, VIEW("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n")), HTTP_HEAD_OK);
    cr_assert_eq(request.target_form, HTTP_TARGET_AUTHORITY);
    cr_assert_eq(request.objection, HTTP_HEAD_METHOD_UNKNOWN);
    expect_line(VIEW("GET * HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET ftp://h/x HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET v2/e/run HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET h:443 HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
}

Test(http_head, splits_absolute_form)
{
    bool secure;
    struct view authority;
    struct view origin;
    cr_assert(http_target_split_absolute(VIEW("http://h.example:81/v2/e?x"), &secure, &authority,
                                         &origin));
    cr_assert_not(secure);
    cr_assert(view_equal(authority, VIEW("h.example:81")));
    cr_assert(view_equal(origin, VIEW("/v2/e?x")));
    cr_assert(http_target_split_absolute(VIEW("HTTPS://[::1]"), &secure, &authority, &origin));
    cr_assert(secure);
    cr_assert(view_equal(authority, VIEW("[::1]")));
    cr_assert(view_equal(origin, VIEW("/")));
    const struct view wrong[] = {VIEW("http:///x"), VIEW("http://h?x"), VIEW("http://u@h/"),
                                 VIEW("http://h:99999/"), VIEW("ftp://h/"), VIEW("http:/h"),
                                 VIEW("http://")};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        cr_assert_not(http_target_split_absolute(wrong[i], &secure, &authority, &origin),
                      "case %zu", i);
    }
}

/* ---- refused request lines ------------------------------------------------------------------- */

Test(http_head, refuses_bad_request_lines)
{
    expect_line(VIEW("GET / HTTP/1.1"), HTTP_HEAD_OK);
    expect_line(VIEW(" GET / HTTP/1.1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET  / HTTP/1.1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET /  HTTP/1.1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET / HTTP/1.1 "), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET / HTTP/1.1 x"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET\t/\tHTTP/1.1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET /"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET / http/1.1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET / HTTP/1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET / HTTP/11.1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("GET / HTTP/1.10"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("G(T / HTTP/1.1"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect_line(VIEW("\x16\x03\x01\x02"), HTTP_HEAD_BAD_REQUEST_LINE);
    expect(VIEW("GET / HTTP/1.1\nHost: h\n\n"), HTTP_HEAD_BARE_LF);
    expect(VIEW("GET /\nHost: h\n\n"), HTTP_HEAD_BARE_LF);
    expect(VIEW("GET / HTTP/1.1\rHost: h\r\r"), HTTP_HEAD_BARE_CR);
    expect(VIEW("GE\rT / HTTP/1.1\r\n\r\n"), HTTP_HEAD_BARE_CR);
}

Test(http_head, refuses_other_versions_with_505)
{
    expect_line(VIEW("GET / HTTP/2.0"), HTTP_HEAD_VERSION);
    expect_line(VIEW("GET / HTTP/0.9"), HTTP_HEAD_VERSION);
    expect(VIEW("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), HTTP_HEAD_VERSION);
    cr_assert_eq(http_head_status(HTTP_HEAD_VERSION), 505);
}

Test(http_head, refuses_forbidden_bytes_in_the_target)
{
    expect_line(VIEW("GET /a\0b HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /a\x7f HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /\xc3\xa4 HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /a#b HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /a\"b HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /a\\b HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /a\tb HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /a?b[]=%20&c={} HTTP/1.1"), HTTP_HEAD_BAD_TARGET);
    expect_line(VIEW("GET /a?b[]=%20&c=d HTTP/1.1"), HTTP_HEAD_OK);
}

static char *repeat(char byte, size_t count)
{
    char *text = malloc(count + 1);
    memset(text, byte, count);
    text[count] = '\0';
    return text;
}

static void append_repeated(struct builder *builder, char byte, size_t count)
{
    char *text = repeat(byte, count);
    builder_append(builder, view_make(text, count));
    free(text);
}

Test(http_head, limits_the_target_to_8_kib)
{
    struct builder text;
    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW("GET /"));
    append_repeated(&text, 'a', HTTP_TARGET_MAXIMUM - 1);
    builder_append(&text, VIEW(" HTTP/1.1\r\nHost: h\r\n\r\n"));
    expect(builder_view(&text), HTTP_HEAD_OK);
    builder_reset(&text);
    builder_append(&text, VIEW("GET /"));
    append_repeated(&text, 'a', HTTP_TARGET_MAXIMUM);
    /* Reported although the line never ends. */
    expect(builder_view(&text), HTTP_HEAD_TARGET_TOO_LONG);
    builder_append(&text, VIEW(" HTTP/1.1\r\nHost: h\r\n\r\n"));
    expect(builder_view(&text), HTTP_HEAD_TARGET_TOO_LONG);
    cr_assert_eq(http_head_status(HTTP_HEAD_TARGET_TOO_LONG), 414);
    builder_clear(&text);
}

Test(http_head, limits_the_head_to_32_kib)
{
    struct builder text;
    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW("GET / HTTP/1.1\r\nHost: h\r\nX: "));
    append_repeated(&text, 'a', HTTP_REQUEST_HEAD_MAXIMUM - builder_view(&text).length - 4);
    expect(builder_view(&text), HTTP_HEAD_INCOMPLETE);
    builder_append(&text, VIEW("\r\n\r\n"));
    cr_assert_eq(builder_view(&text).length, HTTP_REQUEST_HEAD_MAXIMUM);
    expect(builder_view(&text), HTTP_HEAD_OK);
    text.length -= 4;
    builder_append(&text, VIEW("a\r\n\r\n"));
    expect(builder_view(&text), HTTP_HEAD_TOO_LARGE);
    text.length -= 4;
    append_repeated(&text, 'a', 50000);
    expect(builder_view(&text), HTTP_HEAD_TOO_LARGE);
    cr_assert_eq(http_head_status(HTTP_HEAD_TOO_LARGE), 431);
    builder_clear(&text);
}

Test(http_head, limits_the_number_of_fields_to_100)
{
    struct builder text;
    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW("GET / HTTP/1.1\r\nHost: h\r\n"));
    for (int i = 0; i < HTTP_FIELDS_MAXIMUM - 1; i++) {
        builder_append(&text, VIEW("a: b\r\n"));
    }
    builder_append(&text, VIEW("\r\n"));
    expect(builder_view(&text), HTTP_HEAD_OK);
    text.length -= 2;
    builder_append(&text, VIEW("a"));
    expect(builder_view(&text), HTTP_HEAD_TOO_MANY_FIELDS);
    cr_assert_eq(http_head_status(HTTP_HEAD_TOO_MANY_FIELDS), 431);
    builder_clear(&text);
}

Test(http_head, refuses_methods_too_long_to_be_one_before_the_line_ends)
{
    char *method = repeat('M', HTTP_METHOD_MAXIMUM + 1);
    expect(view_make(method, HTTP_METHOD_MAXIMUM + 1), HTTP_HEAD_METHOD_TOO_LONG);
    expect(view_make(method, HTTP_METHOD_MAXIMUM), HTTP_HEAD_INCOMPLETE);
    cr_assert_eq(http_head_status(HTTP_HEAD_METHOD_TOO_LONG), 501);
    free(method);
}

/* ---- refused fields -------------------------------------------------------------------------- */

Test(http_head, refuses_malformed_field_lines)
{
    expect_fields(VIEW(""), HTTP_HEAD_OK);
    expect_fields(VIEW("A: b\n"), HTTP_HEAD_BARE_LF);
    expect_fields(VIEW("A: b\rc\r\n"), HTTP_HEAD_BARE_CR);
    expect_fields(VIEW("A: b\r\r\n"), HTTP_HEAD_BARE_CR);
    expect_fields(VIEW("A: b\0c\r\n"), HTTP_HEAD_CONTROL_BYTE);
    expect_fields(VIEW("A: b\x01\r\n"), HTTP_HEAD_CONTROL_BYTE);
    expect_fields(VIEW("A: 0123456789\x7f\r\n"), HTTP_HEAD_CONTROL_BYTE);
    expect_fields(VIEW("A: b\r\n c\r\n"), HTTP_HEAD_OBS_FOLD);
    expect_fields(VIEW("A: b\r\n\tc\r\n"), HTTP_HEAD_OBS_FOLD);
    expect_fields(VIEW("A : b\r\n"), HTTP_HEAD_SPACE_BEFORE_COLON);
    expect_fields(VIEW("A\t: b\r\n"), HTTP_HEAD_SPACE_BEFORE_COLON);
    expect_fields(VIEW("A b: c\r\n"), HTTP_HEAD_SPACE_BEFORE_COLON);
    expect_fields(VIEW("A\r\n"), HTTP_HEAD_NO_COLON);
    expect_fields(VIEW(": b\r\n"), HTTP_HEAD_BAD_NAME);
    expect_fields(VIEW("A(b): c\r\n"), HTTP_HEAD_BAD_NAME);
    expect_fields(VIEW("A\0b: c\r\n"), HTTP_HEAD_BAD_NAME);
    expect_fields(VIEW("\xc3\xa4: c\r\n"), HTTP_HEAD_BAD_NAME);
    expect_fields(VIEW("\"A\": c\r\n"), HTTP_HEAD_BAD_NAME);
    expect_fields(VIEW("A: \xc3\xa4 \t x\r\n"), HTTP_HEAD_OK);
    expect(VIEW("GET / HTTP/1.1\r\n Host: h\r\n\r\n"), HTTP_HEAD_OBS_FOLD);
    expect(VIEW("GET / HTTP/1.1\r\nHost: h\r\n\rX"), HTTP_HEAD_BARE_CR);
    expect(VIEW("GET / HTTP/1.1\r\nHost: h\r\n\n"), HTTP_HEAD_BARE_LF);
}

Test(http_head, refuses_every_doubt_about_the_length)
{
    struct http_request_head request;
    expect_fields(VIEW("Content-Length: 3\r\nContent-Length: 3\r\n"), HTTP_HEAD_LENGTH_TWICE);
    expect_fields(VIEW("Content-Length: 3\r\ncontent-length: 4\r\n"), HTTP_HEAD_LENGTH_TWICE);
    expect_fields(VIEW("Content-Length: 3, 3\r\n"), HTTP_HEAD_LENGTH_BAD);
    expect_fields(VIEW("Content-Length: +3\r\n"), HTTP_HEAD_LENGTH_BAD);
    expect_fields(VIEW("Content-Length: -3\r\n"), HTTP_HEAD_LENGTH_BAD);
    expect_fields(VIEW("Content-Length: 0x3\r\n"), HTTP_HEAD_LENGTH_BAD);
    expect_fields(VIEW("Content-Length: 3 4\r\n"), HTTP_HEAD_LENGTH_BAD);
    expect_fields(VIEW("Content-Length:\r\n"), HTTP_HEAD_LENGTH_BAD);
    expect_fields(VIEW("Content-Length: 9223372036854775808\r\n"), HTTP_HEAD_LENGTH_BAD);
    expect_fields(VIEW("Content-Length: 99999999999999999999999\r\n"), HTTP_HEAD_LENGTH_BAD);
    cr_assert_eq(parse(&request, VIEW("GET / HTTP/1.1\r\nHost: h\r\n"
                                      "Content-Length: 9223372036854775807\r\n\r\n")),
                 HTTP_HEAD_OK);
    cr_assert_eq(request.head.content_length, INT64_MAX);
}

Test(http_head, refuses_every_doubt_about_the_transfer_coding)
{
    struct http_request_head request;
    cr_assert_eq(parse(&request, VIEW("POST / HTTP/1.1\r\nHost: h\r\n"
                                      "transfer-encoding: CHUNKED\r\n\r\n")),
                 HTTP_HEAD_OK);
    cr_assert_eq(request.head.framing, HTTP_BODY_CHUNKED);
    expect_fields(VIEW("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
                  HTTP_HEAD_TRANSFER_AND_LENGTH);
    expect_fields(VIEW("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
                  HTTP_HEAD_TRANSFER_AND_LENGTH);
    expect_fields(VIEW("Transfer-Encoding: chunked, chunked\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
                  HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: chunked, gzip\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: chunked,\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: ,chunked\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding:\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: chunked;q=1\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: \"chunked\"\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: chunked chunked\r\n"), HTTP_HEAD_TRANSFER_BAD);
    expect_fields(VIEW("Transfer-Encoding: gzip, chunked\r\n"), HTTP_HEAD_TRANSFER_UNKNOWN);
    expect_fields(VIEW("Transfer-Encoding: gzip;x=1\r\n"), HTTP_HEAD_TRANSFER_UNKNOWN);
    expect_fields(VIEW("Transfer-Encoding: xchunked\r\n"), HTTP_HEAD_TRANSFER_UNKNOWN);
    expect_fields(VIEW("Transfer-Encoding: identity\r\n"), HTTP_HEAD_TRANSFER_UNKNOWN);
    expect_fields(VIEW("Transfer-Encoding : chunked\r\n"), HTTP_HEAD_SPACE_BEFORE_COLON);
    expect_fields(VIEW("Transfer-Encoding: \x0b" "chunked\r\n"), HTTP_HEAD_CONTROL_BYTE);
    expect(VIEW("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
           HTTP_HEAD_TRANSFER_IN_1_0);
    cr_assert_eq(http_head_status(HTTP_HEAD_TRANSFER_UNKNOWN), 501);
    cr_assert_eq(http_head_status(HTTP_HEAD_TRANSFER_AND_LENGTH), 400);
}

Test(http_head, demands_one_well_formed_host)
{
    expect(VIEW("GET / HTTP/1.1\r\n\r\n"), HTTP_HEAD_HOST_MISSING);
    expect(VIEW("GET / HTTP/1.0\r\n\r\n"), HTTP_HEAD_OK);
    expect_fields(VIEW("Host: h\r\n"), HTTP_HEAD_HOST_TWICE);
    const struct view wrong[] = {VIEW(""),       VIEW("a b"),    VIEW("a@b"),  VIEW("a/b"),
                                 VIEW("a:b"),    VIEW("a:1:2"),  VIEW("[::1"), VIEW("::1"),
                                 VIEW("[]"),     VIEW("[x]"),    VIEW("a,b"),  VIEW("a:65536"),
                                 VIEW("a%41"),   VIEW(":80"),    VIEW("[::1]x"), VIEW("a:+1"),
                                 VIEW("http://a")};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        cr_assert_not(http_authority_valid(wrong[i]), "%s", wrong[i].data);
    }
    const struct view right[] = {VIEW("h"), VIEW("a.b-c_d:8080"), VIEW("[::1]:80"), VIEW("1.2.3.4"),
                                 VIEW("[::ffff:1.2.3.4]"), VIEW("h:")};
    for (size_t i = 0; i < ARRAY_LENGTH(right); i++) {
        cr_assert(http_authority_valid(right[i]), "%s", right[i].data);
    }
    expect(VIEW("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"), HTTP_HEAD_HOST_BAD);
}

Test(http_head, refuses_credentials_and_idempotency_keys_given_twice)
{
    expect_fields(VIEW("Authorization: a\r\nauthorization: a\r\n"), HTTP_HEAD_AUTHORIZATION_TWICE);
    expect_fields(VIEW("Idempotency-Key: a\r\nIDEMPOTENCY-KEY: b\r\n"),
                  HTTP_HEAD_IDEMPOTENCY_KEY_TWICE);
    expect_fields(VIEW("Accept: a\r\nAccept: b\r\n"), HTTP_HEAD_OK);
}

Test(http_head, objects_without_losing_the_framing)
{
    const struct {
        struct view text;
        enum http_head_result objection;
        unsigned status;
        bool expects_continue;
    } cases[] = {
        {VIEW("BREW / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"), HTTP_HEAD_METHOD_UNKNOWN,
         501, false},
        {VIEW("get / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"), HTTP_HEAD_METHOD_UNKNOWN,
         501, false},
        {VIEW("TRACE / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"),
         HTTP_HEAD_METHOD_UNKNOWN, 501, false},
        {VIEW("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 200-ok\r\n\r\n"),
         HTTP_HEAD_EXPECTATION, 417, false},
        {VIEW("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n"),
         HTTP_HEAD_OK, 200, true},
        {VIEW("POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"), HTTP_HEAD_OK,
         200, false},
        {VIEW("POST / HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"),
         HTTP_HEAD_ENCODED, 415, false},
        {VIEW("POST / HTTP/1.1\r\nHost: h\r\nContent-Encoding: Identity\r\nContent-Length: 4\r\n"
              "\r\n"),
         HTTP_HEAD_OK, 200, false},
        {VIEW("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
              "Content-Length: 4\r\n\r\n"),
         HTTP_HEAD_OK, 200, false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct http_request_head request;
        cr_assert_eq(parse(&request, cases[i].text), HTTP_HEAD_OK, "case %zu", i);
        cr_assert_eq(request.objection, cases[i].objection, "case %zu", i);
        cr_assert_eq(http_head_status((enum http_head_result)request.objection), cases[i].status);
        cr_assert_eq(request.expects_continue, cases[i].expects_continue, "case %zu", i);
        cr_assert_eq(request.head.framing, HTTP_BODY_LENGTH, "case %zu", i);
        cr_assert_eq(request.head.content_length, 4);
    }
}

/* ---- responses ------------------------------------------------------------------------------- */

static enum http_head_result parse_response(struct http_response_head *response, struct view text,
                                            enum http_method method)
{
    http_response_begin(response, method);
    enum http_head_result whole = http_response_parse(response, text.data, text.length);
    for (size_t piece = 1; piece < text.length && piece < 40; piece++) {
        enum http_head_result cut = HTTP_HEAD_INCOMPLETE;
        http_response_begin(response, method);
        for (size_t given = 0; given < text.length && cut == HTTP_HEAD_INCOMPLETE;) {
            given = text.length - given < piece ? text.length : given + piece;
            cut = http_response_parse(response, text.data, given);
        }
        cr_assert_eq(cut, whole, "%.*s in pieces of %zu", (int)text.length, text.data, piece);
    }
    return whole;
}

Test(http_head, frames_responses_by_rfc_9112_section_6_3)
{
    const struct {
        struct view text;
        enum http_method method;
        enum http_body_framing framing;
        uint64_t content_length;
        bool keep_alive;
        unsigned status;
    } cases[] = {
        {VIEW("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), HTTP_METHOD_GET,
         HTTP_BODY_LENGTH, 5, true, 200},
        {VIEW("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), HTTP_METHOD_GET, HTTP_BODY_LENGTH, 0,
         true, 200},
        {VIEW("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n"), HTTP_METHOD_GET,
         HTTP_BODY_CHUNKED, 0, true, 200},
        {VIEW("HTTP/1.1 200 OK\r\n\r\n"), HTTP_METHOD_GET, HTTP_BODY_CLOSE, 0, false, 200},
        {VIEW("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), HTTP_METHOD_GET, HTTP_BODY_LENGTH, 5,
         false, 200},
        {VIEW("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"),
         HTTP_METHOD_GET, HTTP_BODY_LENGTH, 5, true, 200},
        {VIEW("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"),
         HTTP_METHOD_GET, HTTP_BODY_LENGTH, 5, false, 200},
        {VIEW("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), HTTP_METHOD_HEAD, HTTP_BODY_NONE, 5,
         true, 200},
        {VIEW("HTTP/1.1 200 OK\r\n\r\n"), HTTP_METHOD_HEAD, HTTP_BODY_NONE, 0, true, 200},
        {VIEW("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), HTTP_METHOD_GET,
         HTTP_BODY_NONE, 5, true, 304},
        {VIEW("HTTP/1.1 204 No Content\r\n\r\n"), HTTP_METHOD_GET, HTTP_BODY_NONE, 0, true, 204},
        {VIEW("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"), HTTP_METHOD_GET,
         HTTP_BODY_NONE, 0, true, 204},
        {VIEW("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), HTTP_METHOD_POST,
         HTTP_BODY_NONE, 0, true, 100},
        {VIEW("HTTP/1.0 200 Connection established\r\n\r\n"), HTTP_METHOD_CONNECT, HTTP_BODY_NONE,
         0, false, 200},
        {VIEW("HTTP/1.1 407 No\r\n\r\n"), HTTP_METHOD_CONNECT, HTTP_BODY_CLOSE, 0, false, 407},
        {VIEW("HTTP/1.1 101 Switching\r\n\r\n"), HTTP_METHOD_GET, HTTP_BODY_NONE, 0, true, 101},
        {VIEW("HTTP/1.1 599 \xc3\xa4\tx\r\nContent-Length: 1\r\n\r\n"), HTTP_METHOD_GET,
         HTTP_BODY_LENGTH, 1, true, 599},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct http_response_head response;
        enum http_head_result result = parse_response(&response, cases[i].text, cases[i].method);
        cr_assert_eq(result, HTTP_HEAD_OK, "case %zu: %s", i, http_head_name(result).data);
        cr_assert_eq(response.status, cases[i].status, "case %zu", i);
        cr_assert_eq(response.head.framing, cases[i].framing, "case %zu", i);
        cr_assert_eq(response.head.content_length, cases[i].content_length, "case %zu", i);
        cr_assert_eq(response.head.keep_alive, cases[i].keep_alive, "case %zu", i);
    }
}

Test(http_head, refuses_bad_responses)
{
    const struct {
        struct view text;
        enum http_head_result result;
    } cases[] = {
        {VIEW("\r\nHTTP/1.1 200 OK\r\n\r\n"), HTTP_HEAD_BAD_STATUS_LINE},
        {VIEW("HTTP/1.1 099 OK\r\n\r\n"), HTTP_HEAD_BAD_STATUS_LINE},
        {VIEW("HTTP/1.1 600 OK\r\n\r\n"), HTTP_HEAD_BAD_STATUS_LINE},
        {VIEW("HTTP/1.1 20 OK\r\n\r\n"), HTTP_HEAD_BAD_STATUS_LINE},
        {VIEW("HTTP/1.1 2000 OK\r\n\r\n"), HTTP_HEAD_BAD_STATUS_LINE},
        {VIEW("HTTP/1.1  200 OK\r\n\r\n"), HTTP_HEAD_BAD_STATUS_LINE},
        {VIEW("HTTP/2.0 200 OK\r\n\r\n"), HTTP_HEAD_VERSION},
        {VIEW("ICY 200 OK\r\n\r\n"), HTTP_HEAD_BAD_STATUS_LINE},
        {VIEW("HTTP/1.1 200 OK\n\n"), HTTP_HEAD_BARE_LF},
        {VIEW("HTTP/1.1 200\n\n"), HTTP_HEAD_BARE_LF},
        {VIEW("HTTP/1.1 200 O\0K\r\n\r\n"), HTTP_HEAD_CONTROL_BYTE},
        {VIEW("HTTP/1.1 200 O\rK\r\n\r\n"), HTTP_HEAD_BARE_CR},
        {VIEW("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
         HTTP_HEAD_LENGTH_TWICE},
        {VIEW("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
         HTTP_HEAD_TRANSFER_AND_LENGTH},
        {VIEW("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), HTTP_HEAD_TRANSFER_IN_1_0},
        {VIEW("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), HTTP_HEAD_TRANSFER_UNKNOWN},
        {VIEW("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"), HTTP_HEAD_BODY_FORBIDDEN},
        {VIEW("HTTP/1.1 100 C\r\nTransfer-Encoding: chunked\r\n\r\n"), HTTP_HEAD_BODY_FORBIDDEN},
        {VIEW("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"), HTTP_HEAD_OBS_FOLD},
        {VIEW("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n"), HTTP_HEAD_CONTROL_BYTE},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct http_response_head response;
        enum http_head_result result = parse_response(&response, cases[i].text, HTTP_METHOD_GET);
        cr_assert_eq(result, cases[i].result, "case %zu: %s", i, http_head_name(result).data);
    }
}

Test(http_head, objects_to_coded_responses_and_tolerates_fields_twice)
{
    struct http_response_head response;
    cr_assert_eq(parse_response(&response,
                                VIEW("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
                                     "Content-Length: 1\r\nDate: a\r\nDate: b\r\n\r\n"),
                                HTTP_METHOD_GET),
                 HTTP_HEAD_OK);
    cr_assert_eq(response.objection, HTTP_HEAD_ENCODED);
}

Test(http_head, limits_response_heads_to_64_kib)
{
    struct builder text;
    struct http_response_head response;
    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW("HTTP/1.1 200 OK\r\nX: "));
    append_repeated(&text, 'a',
                    HTTP_RESPONSE_HEAD_MAXIMUM - builder_view(&text).length - 9);
    builder_append(&text, VIEW("\r\nY:z\r\n\r\n"));
    cr_assert_eq(builder_view(&text).length, HTTP_RESPONSE_HEAD_MAXIMUM);
    http_response_begin(&response, HTTP_METHOD_GET);
    cr_assert_eq(http_response_parse(&response, text.data, text.length), HTTP_HEAD_OK);
    cr_assert_eq(response.head.length, HTTP_RESPONSE_HEAD_MAXIMUM);
    cr_assert(view_equal(http_head_field_value(&response.head, 1), VIEW("z")));
    text.length -= 2;
    builder_append(&text, VIEW("a:\r\n\r\n"));
    http_response_begin(&response, HTTP_METHOD_GET);
    cr_assert_eq(http_response_parse(&response, text.data, text.length), HTTP_HEAD_TOO_LARGE);
    builder_clear(&text);
}

/* ---- tables ---------------------------------------------------------------------------------- */

Test(http_head, identifies_every_known_name_in_every_case)
{
    for (int id = 1; id < HTTP_FIELD_COUNT; id++) {
        struct view name = http_field_spelling((enum http_field_id)id);
        char lower[64];
        char upper[64];
        cr_assert_gt(name.length, 0);
        cr_assert_lt(name.length, sizeof lower - 1);
        for (size_t i = 0; i < name.length; i++) {
            lower[i] = (char)(name.data[i] >= 'A' && name.data[i] <= 'Z' ? name.data[i] + 32
                                                                          : name.data[i]);
            upper[i] = (char)(name.data[i] >= 'a' && name.data[i] <= 'z' ? name.data[i] - 32
                                                                          : name.data[i]);
        }
        size_t length = name.length;
        if (name.data[length - 1] == '-') {
            lower[length] = upper[length] = 'q';
            length++;
        } else {
            cr_assert_eq(http_field_identify(name), (enum http_field_id)id, "%s", name.data);
        }
        cr_assert_eq(http_field_identify(view_make(lower, length)), (enum http_field_id)id);
        cr_assert_eq(http_field_identify(view_make(upper, length)), (enum http_field_id)id);
        /* Another last letter makes another name. */
        lower[length - 1] = (char)(lower[length - 1] == 'z' ? 'y' : 'z');
        lower[0] = (char)(lower[0] == 'z' ? 'y' : 'z');
        cr_assert_eq(http_field_identify(view_make(lower, length)), HTTP_FIELD_OTHER);
    }
    cr_assert_eq(http_field_identify(VIEW("openai-")), HTTP_FIELD_OTHER);
    cr_assert_eq(http_field_identify(VIEW("x")), HTTP_FIELD_OTHER);
    cr_assert_eq(http_field_identify(VIEW("Content_Length")), HTTP_FIELD_OTHER);
}

Test(http_head, classes_of_bytes_are_what_the_rfcs_say)
{
    static const char alphanumeric[] =
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (int byte = 0; byte < 256; byte++) {
        bool is_alphanumeric = byte != 0 && strchr(alphanumeric, byte) != NULL;
        unsigned expected = 0;
        if (is_alphanumeric || (byte != 0 && strchr("!#$%&'*+-.^_`|~", byte) != NULL)) {
            expected |= HTTP_BYTE_TOKEN;
        }
        if (is_alphanumeric || (byte != 0 && strchr("-._~:/?[]@!$&'()*+,;=%", byte) != NULL)) {
            expected |= HTTP_BYTE_TARGET;
        }
        if (byte == '\t' || (byte >= ' ' && byte != 0x7f)) {
            expected |= HTTP_BYTE_VALUE;
        }
        if (byte >= '0' && byte <= '9') {
            expected |= HTTP_BYTE_DIGIT;
        }
        if (byte != 0 && strchr("0123456789abcdefABCDEF", byte) != NULL) {
            expected |= HTTP_BYTE_HEX;
        }
        if (is_alphanumeric || byte == '_' || byte == '-') {
            expected |= HTTP_BYTE_NAME;
        }
        if (is_alphanumeric || byte == '_' || byte == '-' || byte == '.') {
            expected |= HTTP_BYTE_HOST;
        }
        if (is_alphanumeric || (byte != 0 && strchr("._~:@-", byte) != NULL)) {
            expected |= HTTP_BYTE_TAIL;
        }
        cr_assert_eq(http_byte_classes[byte], expected, "byte %d", byte);
    }
}

Test(http_head, every_verdict_has_status_word_and_sentence)
{
    for (int result = 0; result < HTTP_HEAD_RESULT_COUNT; result++) {
        unsigned status = http_head_status((enum http_head_result)result);
        cr_assert(status >= 200 && status <= 505, "result %d", result);
        cr_assert_gt(http_head_name((enum http_head_result)result).length, 0);
        cr_assert_gt(http_head_detail((enum http_head_result)result).length, 0);
    }
}

Test(http_head, knows_methods_by_their_exact_name)
{
    for (int method = HTTP_METHOD_GET; method <= HTTP_METHOD_TRACE; method++) {
        cr_assert_eq(http_method_identify(http_method_spelling((enum http_method)method)),
                     (enum http_method)method);
    }
    cr_assert_eq(http_method_identify(VIEW("get")), HTTP_METHOD_UNKNOWN);
    cr_assert_eq(http_method_identify(VIEW("GETS")), HTTP_METHOD_UNKNOWN);
    cr_assert_eq(http_method_identify(VIEW("")), HTTP_METHOD_UNKNOWN);
}

Test(http_head, stays_small_enough_for_every_connection)
{
    cr_assert_leq(sizeof(struct http_request_head), 1200);
    cr_assert_leq(offsetof(struct http_head, fields), 128);
}
