#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <time.h>

#include "format/http_fields.h"
#include "format/json_scan.h"

static struct http_request_head parsed_request(struct view text)
{
    struct http_request_head request;
    http_request_begin(&request);
    cr_assert_eq(http_request_parse(&request, text.data, text.length), HTTP_HEAD_OK);
    return request;
}

static void expect_forwarded(struct view fields, unsigned scope, struct view expected)
{
    struct builder text;
    struct builder forwarded;
    builder_init(&text, NULL, 0);
    builder_init(&forwarded, NULL, 0);
    builder_append(&text, VIEW("POST / HTTP/1.1\r\nHost: h\r\n"));
    builder_append(&text, fields);
    builder_append(&text, VIEW("\r\n"));
    struct http_request_head request = parsed_request(builder_view(&text));
    http_fields_append_request(&forwarded, &request.head, scope);
    struct view written = builder_view(&forwarded);
    cr_assert(view_equal(written, expected), "%.*s", (int)written.length, written.data);
    builder_clear(&text);
    builder_clear(&forwarded);
}

Test(http_fields, forwards_by_allow_list_only)
{
    expect_forwarded(VIEW("accept: */*\r\nAuthorization: Bearer x\r\nCookie: a=b\r\n"
                          "CONTENT-TYPE: application/json\r\nX-Unknown: 1\r\nTE: trailers\r\n"
                          "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\nContent-Length: 0\r\n"
                          "TraceParent: 00-a-b-01\r\nX-Request-Id: r\r\nIdempotency-Key: k\r\n"
                          "Proxy-Authorization: p\r\nKeep-Alive: 3\r\nUpgrade: h2c\r\n"
                          "Accept-Encoding: gzip\r\nRange: bytes=0-1\r\nVia: 1.0 x\r\n"
                          "Podgate-Origin: me\r\n"),
                     HTTP_FORWARD_ALWAYS,
                     VIEW("Accept: */*\r\nContent-Type: application/json\r\n"
                          "traceparent: 00-a-b-01\r\n"));
}

Test(http_fields, forwards_some_fields_on_their_routes_only)
{
    struct view fields = VIEW("OpenAI-Beta: a\r\nx-stainless-lang: js\r\nX-Flash-App: app\r\n"
                              "x-flash-endpoint: e\r\nX-FLASH-ENVIRONMENT: p\r\n"
                              "anthropic-version: 1\r\n");
    expect_forwarded(fields, HTTP_FORWARD_ALWAYS, VIEW(""));
    expect_forwarded(fields, HTTP_FORWARD_ALWAYS | HTTP_FORWARD_OPENAI,
                     VIEW("OpenAI-Beta: a\r\nx-stainless-lang: js\r\nAnthropic-Version: 1\r\n"));
    expect_forwarded(fields, HTTP_FORWARD_ALWAYS | HTTP_FORWARD_FLASH,
                     VIEW("X-Flash-App: app\r\nX-Flash-Endpoint: e\r\n"
                          "X-Flash-Environment: p\r\n"));
}

Test(http_fields, drops_what_connection_names)
{
    expect_forwarded(VIEW("Accept: a\r\nUser-Agent: b\r\nConnection: user-agent\r\n"),
                     HTTP_FORWARD_ALWAYS, VIEW("Accept: a\r\n"));
}

Test(http_fields, never_lets_secrets_or_redirects_back)
{
    struct http_response_head response;
    struct builder back;
    struct view text = VIEW("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: x\r\n"
                            "Set-Cookie: a\r\nLocation: http://evil/\r\nDate: now\r\n"
                            "Retry-After: 3\r\nWWW-Authenticate: Bearer\r\nETag: \"e\"\r\n"
                            "x-ratelimit-remaining-requests: 9\r\nopenai-processing-ms: 5\r\n"
                            "Content-Length: 0\r\nCF-Ray: 1\r\nTransfer-Encoding-X: a\r\n\r\n");
    http_response_begin(&response, HTTP_METHOD_GET);
    cr_assert_eq(http_response_parse(&response, text.data, text.length), HTTP_HEAD_OK);
    builder_init(&back, NULL, 0);
    http_fields_append_response(&back, &response.head, HTTP_FORWARD_ALWAYS);
    cr_assert(view_equal(builder_view(&back),
                         VIEW("Content-Type: application/json\r\nRetry-After: 3\r\n")));
    builder_reset(&back);
    http_fields_append_response(&back, &response.head, HTTP_FORWARD_ALWAYS | HTTP_FORWARD_OPENAI);
    cr_assert(view_equal(builder_view(&back),
                         VIEW("Content-Type: application/json\r\nRetry-After: 3\r\nETag: \"e\"\r\n"
                              "x-ratelimit-remaining-requests: 9\r\nopenai-processing-ms: 5\r\n")));
    builder_clear(&back);
}

Test(http_fields, no_scope_forwards_credentials_or_framing)
{
    const enum http_field_id never[] = {
        HTTP_FIELD_OTHER,          HTTP_FIELD_AUTHORIZATION,       HTTP_FIELD_COOKIE,
        HTTP_FIELD_SET_COOKIE,     HTTP_FIELD_PROXY_AUTHORIZATION, HTTP_FIELD_CONNECTION,
        HTTP_FIELD_CONTENT_LENGTH, HTTP_FIELD_TRANSFER_ENCODING,   HTTP_FIELD_HOST,
        HTTP_FIELD_UPGRADE,        HTTP_FIELD_TE,                  HTTP_FIELD_TRAILER,
        HTTP_FIELD_LOCATION,       HTTP_FIELD_WWW_AUTHENTICATE,    HTTP_FIELD_ANY_PODGATE,
    };
    for (size_t i = 0; i < ARRAY_LENGTH(never); i++) {
        cr_assert_not(http_fields_allow_request(never[i], ~0u), "case %zu", i);
        cr_assert_not(http_fields_allow_response(never[i], ~0u), "case %zu", i);
    }
    cr_assert(http_fields_allow_request(HTTP_FIELD_ACCEPT, HTTP_FORWARD_ALWAYS));
    cr_assert(http_fields_allow_response(HTTP_FIELD_CONTENT_TYPE, HTTP_FORWARD_ALWAYS));
}

Test(http_fields, formats_dates_like_the_c_library)
{
    const uint64_t some[] = {0, 784111777, 951782399, 951782400, 1709164800, 4107542400,
                             UINT64_C(253402300799)};
    char text[HTTP_DATE_LENGTH];
    http_date_format(784111777, text);
    cr_assert(view_equal(view_make(text, sizeof text), VIEW("Sun, 06 Nov 1994 08:49:37 GMT")));
    for (uint64_t step = 0; step < 40000; step++) {
        uint64_t wall_s = step < ARRAY_LENGTH(some) ? some[step] : step * 8640007 % 9000000000;
        time_t time = (time_t)wall_s;
        struct tm parts;
        char expected[64];
        cr_assert_not_null(gmtime_r(&time, &parts));
        strftime(expected, sizeof expected, "%a, %d %b %Y %H:%M:%S GMT", &parts);
        http_date_format(wall_s, text);
        cr_assert(view_equal(view_make(text, sizeof text), view_of_string(expected)), "%s",
                  expected);
    }
    http_date_format(UINT64_MAX, text);
    cr_assert(view_equal(view_make(text, sizeof text), VIEW("Fri, 31 Dec 9999 23:59:59 GMT")));
}

Test(http_fields, caches_the_date_line_of_a_second)
{
    struct http_date_cache cache = {0};
    cr_assert(view_equal(http_date_line(&cache, 999),
                         VIEW("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")));
    cr_assert(view_equal(http_date_line(&cache, 1000),
                         VIEW("Date: Thu, 01 Jan 1970 00:00:01 GMT\r\n")));
    cr_assert(view_equal(http_date_line(&cache, 1999),
                         VIEW("Date: Thu, 01 Jan 1970 00:00:01 GMT\r\n")));
}

Test(http_fields, writes_status_lines_for_known_and_unknown_codes)
{
    struct builder text;
    builder_init(&text, NULL, 0);
    http_status_append_line(&text, 200);
    http_status_append_line(&text, 524);
    http_status_append_line(&text, 431);
    cr_assert(view_equal(builder_view(&text),
                         VIEW("HTTP/1.1 200 OK\r\nHTTP/1.1 524 \r\n"
                              "HTTP/1.1 431 Request Header Fields Too Large\r\n")));
    builder_clear(&text);
    cr_assert(view_equal(http_status_reason(404), VIEW("Not Found")));
    cr_assert(view_equal(http_status_reason(299), VIEW("")));
    cr_assert(view_equal(http_status_reason(9999), VIEW("")));
    for (unsigned status = 100; status < 600; status++) {
        char expected[16];
        snprintf(expected, sizeof expected, "HTTP/1.1 %u ", status);
        builder_reset(&text);
        http_status_append_line(&text, status);
        cr_assert(view_starts_with(builder_view(&text), view_of_string(expected)));
        cr_assert(view_equal(view_skip(builder_view(&text), builder_view(&text).length - 2),
                             VIEW("\r\n")));
    }
    builder_clear(&text);
}

Test(http_fields, takes_over_well_formed_request_ids_only)
{
    char long_id[129];
    memset(long_id, 'a', sizeof long_id);
    cr_assert(http_request_id_valid(VIEW("aZ09._:-")));
    cr_assert(http_request_id_valid(view_make(long_id, 128)));
    cr_assert_not(http_request_id_valid(view_make(long_id, 129)));
    cr_assert_not(http_request_id_valid(VIEW("")));
    cr_assert_not(http_request_id_valid(VIEW("a b")));
    cr_assert_not(http_request_id_valid(VIEW("a\r\nb")));
    cr_assert_not(http_request_id_valid(VIEW("a=b")));
    cr_assert_not(http_request_id_valid(VIEW("\xc3\xa4")));
}

Test(http_fields, escapes_structured_strings)
{
    struct builder text;
    builder_init(&text, NULL, 0);
    http_structured_append_string(&text, VIEW("a\"b\\c\n\xc3\xa4 d"));
    cr_assert(view_equal(builder_view(&text), VIEW("\"a\\\"b\\\\c??? d\"")));
    builder_reset(&text);
    http_field_append(&text, VIEW("Name"), VIEW("value"));
    http_field_append_length(&text, 12);
    cr_assert(view_equal(builder_view(&text), VIEW("Name: value\r\nContent-Length: 12\r\n")));
    builder_clear(&text);
}

Test(http_fields, problem_has_an_error_string_and_no_status)
{
    struct builder text;
    struct http_problem problem = {.status = 404, .detail = VIEW("job \"x\" not found"),
                                   .code = VIEW("not_found")};
    struct json_member members[] = {{.name = VIEW("status")}, {.name = VIEW("error")},
                                    {.name = VIEW("detail")}, {.name = VIEW("title")},
                                    {.name = VIEW("type")},   {.name = VIEW("code")}};
    struct json_report report;
    builder_init(&text, NULL, 0);
    http_problem_append(&text, &problem);
    cr_assert_eq(json_scan(builder_view(&text), JSON_SCAN_UTF8, members, 6, &report),
                 JSON_SCAN_OK);
    cr_assert_eq(report.member_count, 5);
    cr_assert_eq(members[0].type, JSON_ABSENT);
    cr_assert(view_equal(members[1].value, VIEW("\"job \\\"x\\\" not found\"")));
    cr_assert(view_equal(members[1].value, members[2].value));
    cr_assert(view_equal(members[3].value, VIEW("\"Not Found\"")));
    cr_assert(view_equal(members[4].value, VIEW("\"about:blank\"")));
    cr_assert(view_equal(members[5].value, VIEW("\"not_found\"")));
    builder_clear(&text);
}
