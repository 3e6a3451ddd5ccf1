#include "build_config.h"

#include "gateway_fixture.h"

/* What becomes of the upstream's answers, by way of operations that are passed on as they are:
 * /requests (collected), /openai (in pieces), /cancel. */

static struct caller caller;

static void set_up_caller(void)
{
    set_up_gateway();
    caller_open(&caller, FRONT);
}

static void tear_down_caller(void)
{
    caller_close(&caller);
    tear_down_gateway();
}

TestSuite(relay, .init = set_up_caller, .fini = tear_down_caller, .timeout = 60);

#define READ "/v2/abc/requests"

/* ---- answers of the upstream that nobody should see */

static void expect_mapped(const char *raw, bool ends, unsigned status, const char *code)
{
    unsigned before = seen_count;
    char wanted[64];

    upstream_holds();
    get(&caller, READ);
    RUN_UNTIL(seen_count == before + 1);
    peer_send(asked_by[before], raw);
    if (ends) {
        peer_end(asked_by[before]);
    }
    RUN_UNTIL(answer_status(&caller) != 0);
    cr_assert_eq(answer_status(&caller), status, "%s: %s", raw, caller.received);
    snprintf(wanted, sizeof wanted, "\"code\":\"%s\"", code);
    cr_assert(caller_has(&caller, wanted), "%s: %s", raw, caller.received);
    cr_assert(caller_has(&caller, "Podgate-Origin: gateway\r\n"));
    caller_clear(&caller);
}

#define EMPTY "Content-Length: 2\r\n\r\n{}"

Test(relay, a_refused_key_is_the_operators_trouble_and_not_the_callers)
{
    expect_mapped("HTTP/1.1 401 No\r\n" EMPTY, false, 502, "upstream_credential");
    expect_mapped("HTTP/1.1 403 No\r\n" EMPTY, false, 502, "upstream_credential");
}

Test(relay, redirects_are_not_followed)
{
    expect_mapped("HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n" EMPTY, false, 502,
                  "upstream_redirect");
    cr_assert_eq(seen_count, 1);
}

Test(relay, what_is_not_json_keeps_its_4xx_and_becomes_502_else)
{
    expect_mapped("HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\nnot found", false, 404,
                  "upstream_error");
    expect_mapped("HTTP/1.1 500 No\r\nContent-Length: 6\r\n\r\n<html>", false, 502,
                  "upstream_error");
    expect_mapped("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", false, 502,
                  "upstream_not_json");
    expect_mapped("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 502, "upstream_not_json");
}

Test(relay, garbage_is_told_from_a_broken_answer)
{
    expect_mapped("SSH-2.0-OpenSSH\r\n\r\n", false, 502, "upstream_malformed");
    expect_mapped("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", false,
                  502, "upstream_malformed");
    expect_mapped("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"a\":", true, 502,
                  "upstream_broken");
    expect_mapped("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" EMPTY, false, 502,
                  "upstream_malformed");
}

Test(relay, a_read_without_an_answer_is_given_up_in_time)
{
    upstream_holds();
    get(&caller, READ);
    RUN_UNTIL(seen_count == 1);
    pass(8500);
    EXPECT_PROBLEM(&caller, 504, "upstream_timeout");
}

Test(relay, errors_of_the_upstream_in_json_are_passed_on_as_they_are)
{
    upstream_says_with("404 Not Found", "X-Internal: secret\r\n", "{\"error\":\"job not found\"}");
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 404);
    cr_assert_str_eq(answer_body(&caller), "{\"error\":\"job not found\"}");
    cr_assert_not(caller_has(&caller, "Podgate-Origin"));
    cr_assert_not(caller_has(&caller, "X-Internal"));
}

Test(relay, an_error_too_long_to_be_one_is_refused)
{
    char *long_error = malloc(1200 * 1024);

    memset(long_error, ' ', 1200 * 1024 - 1);
    memcpy(long_error, "{}", 2);
    long_error[1200 * 1024 - 1] = '\0';
    upstream_says("500 Oops", long_error);
    free(long_error);
    get(&caller, READ);
    EXPECT_PROBLEM(&caller, 502, "upstream_error");
}

Test(relay, a_read_is_told_to_come_back_within_10_s)
{
    upstream_says_with("429 Too Many", "Retry-After: 3600\r\n", "{}");
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 429);
    cr_assert(caller_has(&caller, "Retry-After: 10\r\n"));
    cr_assert_eq(caller_count(&caller, "Retry-After"), 1);
    caller_clear(&caller);
    upstream_says("503 Busy", "{}");
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 503);
    cr_assert(caller_has(&caller, "Retry-After: 1\r\n"));
    caller_clear(&caller);
    upstream_says_with("429 Too Many", "Retry-After: 3600\r\n", "{}");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 429);
    cr_assert(caller_has(&caller, "Retry-After: 3600\r\n"), "a submit is told what upstream said");
}

Test(relay, no_error_makes_a_reader_sleep_for_long)
{
    static const char *const statuses[] = {"500 Oops", "502 Bad", "504 Slow", "408 Slow"};

    for (size_t i = 0; i < ARRAY_LENGTH(statuses); i++) {
        caller_clear(&caller);
        upstream_says_with(statuses[i], "Retry-After: 3600\r\n", "{}");
        get(&caller, READ);
        EXPECT_ANSWER(&caller, (unsigned)atoi(statuses[i]));
        cr_assert(caller_has(&caller, "Retry-After: 10\r\n"));
        cr_assert_eq(caller_count(&caller, "Retry-After"), 1);
    }
    caller_clear(&caller);
    upstream_says("500 Oops", "{}");
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 500);
    cr_assert_eq(caller_count(&caller, "Retry-After"), 0);
}

Test(relay, a_204_has_no_length)
{
    upstream_says_raw("HTTP/1.1 204 No Content\r\n\r\n");
    post(&caller, "/v2/abc/openai/v1/x", "{}");
    RUN_UNTIL((caller_read(&caller), caller_has(&caller, "HTTP/1.1 204 No Content\r\n")));
    cr_assert_eq(caller_count(&caller, "Content-Length"), 0);
    cr_assert_eq(caller_count(&caller, "Transfer-Encoding"), 0);
}

/* ---- the upstream's key */

Test(relay, the_upstreams_key_is_masked_in_what_it_echoes)
{
    upstream_says("200 OK", "{\"echo\":\"Bearer " TEST_KEY "\"}");
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_not(caller_has(&caller, TEST_KEY));
    cr_assert(caller_has(&caller, "{\"echo\":\"Bearer ***"));
    cr_assert_eq(count_of(METRIC_KEY_MASKED, 0), 1);
    caller_clear(&caller);
    get(&caller, "/v2/abc/openai/v1/models");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_not(caller_has(&caller, TEST_KEY));
    caller_clear(&caller);
    enter_job("abc", "j");
    upstream_says("200 OK", "{\"id\":\"j\",\"status\":\"IN_QUEUE\",\"echo\":\"" TEST_KEY "\"}");
    get(&caller, "/v2/abc/status/j");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_not(caller_has(&caller, TEST_KEY), "a shared answer gives the key away");
}

/* ---- pieces */

#define CHUNKS                                                                                     \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#define OPENAI "/v2/abc/openai/v1/chat/completions"

static void begin_stream(const char *fields)
{
    upstream_holds();
    ask(&caller, "POST", OPENAI, fields, "{}");
    RUN_UNTIL(seen_count == 1);
    peer_send(asked_by[0], CHUNKS "6\r\nfirst \r\n");
    RUN_UNTIL(caller_has(&caller, "first "));
}

Test(relay, a_stream_reaches_the_caller_piece_by_piece)
{
    begin_stream("");
    cr_assert(caller_has(&caller, "Transfer-Encoding: chunked\r\n"));
    cr_assert(caller_has(&caller, "Content-Type: text/event-stream\r\n"));
    peer_send(asked_by[0], "6\r\nsecond\r\n");
    RUN_UNTIL(caller_has(&caller, "second"));
    peer_send(asked_by[0], "0\r\n\r\n");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    upstream_says("200 OK", "{\"id\":\"j\"}");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200); /* both connections go on */
    cr_assert_eq(peer.accepted, 1);
}

Test(relay, the_head_of_a_stream_goes_out_before_its_first_byte)
{
    upstream_holds();
    post(&caller, OPENAI, "{}");
    RUN_UNTIL(seen_count == 1);
    peer_send(asked_by[0], CHUNKS);
    RUN_UNTIL(caller_has(&caller, "\r\n\r\n"));
    peer_send(asked_by[0], "0\r\n\r\n");
    EXPECT_ANSWER(&caller, 200);
}

Test(relay, a_stream_that_breaks_off_breaks_off_for_the_caller)
{
    begin_stream("");
    peer_end(asked_by[0]);
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_eq(answer_status(&caller), 0, "half a stream looks whole");
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
}

Test(relay, a_stream_is_stopped_when_its_caller_leaves)
{
    begin_stream("");
    caller_hang_up(&caller);
    RUN_UNTIL(peer_ended(&peer) == 1);
    cr_assert_eq(request_pool_running(GATEWAY->requests), 0);
}

Test(relay, a_silent_stream_ends_after_the_idle_timeout)
{
    begin_stream("");
    pass(299 * 1000);
    cr_assert_not(caller_is_over(&caller));
    peer_send(asked_by[0], "6\r\nsecond\r\n");
    RUN_UNTIL(caller_has(&caller, "second"));
    pass(299 * 1000);
    cr_assert_not(caller_is_over(&caller));
    pass(2000);
    RUN_UNTIL(caller_is_over(&caller));
}

/* 40 MB through sockets that hold less: when the caller takes nothing, the upstream must not get
 * rid of its bytes either. */
Test(relay, a_slow_caller_stops_the_upstream)
{
    enum { PIECE = 64 * 1024, PIECES = 600 };
    char *piece = malloc(PIECE + 16);
    size_t head;
    unsigned sent = 0;
    size_t came;

    begin_stream("");
    head = (size_t)sprintf(piece, "%x\r\n", PIECE);
    memset(piece + head, 'p', PIECE);
    memcpy(piece + head + PIECE, "\r\n", 2);
    for (; sent < PIECES && asked_by[0]->output_length < 1024 * 1024; sent++) {
        peer_send_bytes(asked_by[0], view_make(piece, head + PIECE + 2));
        settle();
    }
    cr_assert_lt(sent, PIECES, "podgate took everything for a caller that takes nothing");
    cr_assert_lt(atomic_load(&budget.used_bytes), 4 * 1024 * 1024);
    peer_send(asked_by[0], "0\r\n\r\n");
    came = caller.length;
    RUN_UNTIL((caller_read(&caller), answer_status(&caller) == 200));
    cr_assert_geq(caller.length - came, (size_t)sent * PIECE, "bytes were lost");
    free(piece);
}

Test(relay, a_result_above_what_podgate_keeps_is_passed_on_in_pieces)
{
    enum { LENGTH = 3 * 1024 * 1024 };
    char *long_answer = malloc(LENGTH + 1);

    caller_close(&caller);
    tear_down_gateway();
    seen_count = 0;
    set_up_peer();
    open_gateways(1, "", ALL_OPERATIONS, "retention { max_result = \"1MiB\" }");
    caller_open(&caller, FRONT);
    memset(long_answer, 'r', LENGTH);
    memcpy(long_answer, "{\"id\":\"j\",\"a\":\"", 15);
    memcpy(long_answer + LENGTH - 2, "\"}", 2);
    long_answer[LENGTH] = '\0';
    upstream_says("200 OK", long_answer);
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), long_answer);
    cr_assert(caller_has(&caller, "Content-Length: 3145728\r\n"));
    caller_clear(&caller);
    enter_job("abc", "j");
    get(&caller, "/v2/abc/status/j"); /* a flight can't hold it: a request of its own */
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), long_answer);
    free(long_answer);
}

Test(relay, http_1_0_gets_a_stream_that_ends_with_the_connection)
{
    char *text = NULL;

    upstream_holds();
    cr_assert_gt(asprintf(&text,
                          "POST " OPENAI " HTTP/1.0\r\nAuthorization: Bearer %s\r\n"
                          "Connection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
                          key_text),
                 0);
    caller_send(&caller, text);
    free(text);
    RUN_UNTIL(seen_count == 1);
    peer_send(asked_by[0], CHUNKS "5\r\nhello\r\n0\r\n\r\n");
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_not(caller_has(&caller, "chunked"));
    cr_assert(caller_has(&caller, "Connection: close\r\n"));
    cr_assert_str_eq(answer_body(&caller), "hello");
}

/* ---- reads end with their caller */

Test(relay, a_read_is_aborted_when_its_caller_leaves)
{
    upstream_holds();
    get(&caller, READ);
    RUN_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(peer_ended(&peer) == 1);
    cr_assert_eq(request_pool_running(GATEWAY->requests), 0);
}

Test(relay, a_read_is_sent_again_once_when_its_connection_breaks)
{
    peer.resets = 1;
    upstream_says("200 OK", "{}");
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(seen_count, 1);
    cr_assert_eq(peer.accepted, 2);
}

Test(relay, a_cancel_is_not_sent_again)
{
    enter_job("abc", "j");
    peer.resets = 1;
    upstream_says("200 OK", "{}");
    post(&caller, "/v2/abc/cancel/j", NULL);
    EXPECT_PROBLEM(&caller, 502, "upstream_broken");
    cr_assert_eq(peer.accepted, 1);
}

Test(relay, a_cancel_survives_its_caller)
{
    enter_job("abc", "j");
    upstream_holds();
    post(&caller, "/v2/abc/cancel/j", NULL);
    RUN_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 0);
    cr_assert_eq(peer_ended(&peer), 0);
    upstream_answers(0, "200 OK", "{\"id\":\"j\",\"status\":\"CANCELLED\"}");
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
}

/* ---- the breaker */

Test(relay, an_endpoint_that_keeps_failing_is_not_asked_while_others_are)
{
    enter_job("abc", "j");
    upstream_says("503 Busy", "{}");
    for (unsigned i = 0; i < BREAKER_FAILURES; i++) {
        get(&caller, READ);
        EXPECT_ANSWER(&caller, 503);
        cr_assert_not(caller_has(&caller, "Podgate-Origin"), "request %u", i);
        caller_clear(&caller);
    }
    get(&caller, READ);
    EXPECT_PROBLEM(&caller, 503, "upstream_unavailable");
    cr_assert(caller_has(&caller, "Retry-After: 1\r\n"));
    cr_assert_eq(seen_count, BREAKER_FAILURES);
    cr_assert_eq(count_of(METRIC_REFUSALS, METRIC_REFUSAL_BREAKER), 1);
    caller_clear(&caller);
    get(&caller, "/v2/abc/status/j");
    EXPECT_PROBLEM(&caller, 503, "upstream_unavailable");
    caller_clear(&caller);
    upstream_says("200 OK", "{}");
    get(&caller, "/v2/other/requests");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    pass(1500);
    get(&caller, READ);
    EXPECT_ANSWER(&caller, 200);
}

/* ---- which requests go up */

static void expect_target(const char *method, const char *target, const char *body,
                          const char *line)
{
    unsigned before = seen_count;

    upstream_says("200 OK", "{\"id\":\"j\"}");
    ask(&caller, method, target, "", body);
    EXPECT_ANSWER(&caller, 200);
    expect_asked(before, line);
    caller_clear(&caller);
}

Test(forward, each_operation_goes_to_its_own_target)
{
    enter_job("abc", "j");
    expect_target("POST", "/v2/abc/purge-queue", NULL, "POST /v2/abc/purge-queue HTTP/1.1\r\n");
    expect_target("GET", "/v2/abc/requests?limit=5", NULL,
                  "GET /v2/abc/requests?limit=5 HTTP/1.1\r\n");
    expect_target("GET", "/v2/abc/openai/v1/models", NULL,
                  "GET /v2/abc/openai/v1/models HTTP/1.1\r\n");
    expect_target("POST", "/v2/abc/openai/v1/embeddings", "{}",
                  "POST /v2/abc/openai/v1/embeddings HTTP/1.1\r\n");
    /* The last one, since its end is asked for at once. */
    expect_target("POST", "/v2/abc/cancel/j", "{}", "POST /v2/abc/cancel/j HTTP/1.1\r\n");
}

TestSuite(forward, .init = set_up_caller, .fini = tear_down_caller, .timeout = 60);
