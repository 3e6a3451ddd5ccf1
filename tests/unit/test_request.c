#include "build_config.h"

#include "gateway_fixture.h"

/* The life of a request up to its work, and what is left of it: routes, refusals, ids, log lines,
 * counters. */

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

TestSuite(request, .init = set_up_caller, .fini = tear_down_caller, .timeout = 60);

/* ---- refusals before any work */

static void expect_refusal(const char *method, const char *target, const char *fields,
                           const char *body, unsigned status, const char *code)
{
    char wanted[64];

    ask(&caller, method, target, fields, body);
    EXPECT_ANSWER(&caller, status);
    snprintf(wanted, sizeof wanted, "\"code\":\"%s\"", code);
    cr_assert(caller_has(&caller, wanted), "%s %s: %s", method, target, caller.received);
    cr_assert(caller_has(&caller, "Podgate-Origin: gateway\r\n"));
    caller_clear(&caller);
}

Test(request, what_podgate_refuses_itself_never_reaches_the_upstream)
{
    upstream_says("200 OK", "{}");
    expect_refusal("GET", "/v2/abc/nothing", "", NULL, 404, "not_found");
    expect_refusal("GET", "/v2/abc/run", "", NULL, 405, "method_not_allowed");
    expect_refusal("GET", "/v2/abc/stream/j?wait=x", "", NULL, 400, "bad_wait");
    expect_refusal("GET", "/v2/abc/status/j?ttl=x", "", NULL, 400, "bad_ttl");
    expect_refusal("POST", "/v2/abc/run", "", "{broken", 400, "invalid_json");
    expect_refusal("POST", "/v2/abc/run", "", "", 400, "invalid_json");
    expect_refusal("POST", "/v2/abc/run", "Idempotency-Key: 1 2\r\n", "{}", 400,
                   "bad_idempotency_key");
    cr_assert_eq(seen_count, 0);
}

Test(request, a_405_names_the_methods_that_are_allowed)
{
    ask(&caller, "PUT", "/v2/abc/run", "", "{}");
    EXPECT_ANSWER(&caller, 405);
    cr_assert(caller_has(&caller, "Allow: POST\r\n"));
}

Test(request, a_401_says_how_to_authenticate)
{
    caller_send(&caller, "GET /v2/abc/health HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT_PROBLEM(&caller, 401, "invalid_key");
    cr_assert(caller_has(&caller, "WWW-Authenticate: Bearer"));
    cr_assert_eq(count_of(METRIC_REFUSALS, METRIC_REFUSAL_KEY_MISSING), 1);
}

Test(request, a_body_with_a_content_coding_is_refused_and_the_connection_goes_on)
{
    expect_refusal("POST", "/v2/abc/run", "Content-Encoding: gzip\r\n", "xxxx", 415,
                   "content_encoding");
    upstream_says("200 OK", "{\"id\":\"j\"}");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
}

Test(request, a_bad_head_is_answered_with_a_problem_and_an_id)
{
    caller_send(&caller, "GET /v2/abc/health HTTP/1.1\r\nHost : a\r\n\r\n");
    EXPECT_PROBLEM(&caller, 400, "bad_request");
    cr_assert(caller_has(&caller, "X-Request-Id: "));
    cr_assert(caller_has(&caller, "Connection: close\r\n"));
}

Test(request, an_absolute_target_that_names_another_server_is_refused)
{
    caller_send(&caller, "GET http://other.example/v2/abc/health HTTP/1.1\r\n"
                         "Host: other.example\r\n\r\n");
    EXPECT_PROBLEM(&caller, 400, "bad_request");
    cr_assert(caller_has(&caller, "Connection: close\r\n"));
    cr_assert_eq(seen_count, 0);
}

Test(request, an_absolute_target_that_names_us_is_served)
{
    struct caller visitor;
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    char *text = NULL;

    upstream_says("200 OK", "{\"workers\":{}}");
    caller_open_tcp(&visitor, FRONT, &plain_address);
    cr_assert_eq(getpeername(visitor.descriptor, (struct sockaddr *)&name, &length), 0);
    cr_assert_gt(asprintf(&text,
                          "GET http://127.0.0.1:%u/v2/abc/health HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n"
                          "Authorization: Bearer %s\r\n\r\n",
                          ntohs(name.sin_port), ntohs(name.sin_port), key_text),
                 0);
    caller_send(&visitor, text);
    free(text);
    EXPECT_ANSWER(&visitor, 200);
    caller_close(&visitor);
}

Test(request, a_body_above_what_the_operation_takes_is_refused_and_counted)
{
    ask(&caller, "POST", "/v2/abc/cancel/j", "Content-Length: 70000\r\n", NULL);
    EXPECT_PROBLEM(&caller, 413, "body_too_large");
    cr_assert_eq(count_of(METRIC_REFUSALS, METRIC_REFUSAL_BODY_TOO_LARGE), 1);
    cr_assert_eq(seen_count, 0);
}

Test(request, without_memory_for_the_body_it_is_told_to_try_again)
{
    atomic_store(&budget.maximum_bytes, 1);
    post(&caller, "/v2/abc/run", "{\"input\":1}");
    EXPECT_PROBLEM(&caller, 503, "overloaded");
    cr_assert(caller_has(&caller, "Retry-After: 1\r\n"));
    cr_assert_eq(count_of(METRIC_REFUSALS, METRIC_REFUSAL_MEMORY), 1);
}

/* ---- failed attempts */

Test(request, the_eleventh_bad_key_of_an_address_waits_for_a_second)
{
    struct caller good;

    for (unsigned i = 0; i < 10; i++) {
        caller_send(&caller, "GET /v2/abc/health HTTP/1.1\r\nHost: a\r\n\r\n");
        settle();
        cr_assert_eq(answer_status(&caller), 401);
        caller_clear(&caller);
    }
    caller_send(&caller, "GET /v2/abc/health HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert_eq(answer_status(&caller), 0, "a guess cost no time");
    upstream_says("200 OK", "{}");
    caller_open(&good, FRONT);
    get(&good, "/v2/abc/health");
    EXPECT_ANSWER(&good, 200); /* a valid key is never slowed */
    pass(1000);
    EXPECT_PROBLEM(&caller, 401, "invalid_key");
    caller_close(&good);
}

Test(request, a_caller_who_leaves_while_his_refusal_waits_is_forgotten)
{
    for (unsigned i = 0; i < 11; i++) {
        caller_send(&caller, "GET /v2/abc/health HTTP/1.1\r\nHost: a\r\n\r\n");
        settle();
    }
    caller_hang_up(&caller);
    settle();
    cr_assert_eq(request_pool_running(GATEWAY->requests), 0);
    pass(2000);
    cr_assert_eq(front_connection_count(FRONT), 0);
}

/* ---- ids, fields */

Test(request, a_valid_request_id_is_kept_and_goes_up)
{
    upstream_says("200 OK", "{\"id\":\"j\"}");
    ask(&caller, "POST", "/v2/abc/run", "X-Request-Id: my-id.1\r\n", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "X-Request-Id: my-id.1\r\n"));
    cr_assert_not_null(strstr(seen[0], "X-Request-Id: my-id.1\r\n"));
}

Test(request, each_request_without_a_valid_id_gets_one_of_its_own)
{
    char first[64];
    const char *at;

    upstream_says("200 OK", "{\"id\":\"j\"}");
    ask(&caller, "POST", "/v2/abc/run", "X-Request-Id: not valid\r\n", "{}");
    EXPECT_ANSWER(&caller, 200);
    at = strstr(caller.received, "X-Request-Id: ");
    cr_assert_eq(strspn(at + 14, "0123456789abcdef"), REQUEST_ID_BYTES);
    snprintf(first, sizeof first, "%.*s", 14 + REQUEST_ID_BYTES, at);
    caller_clear(&caller);
    upstream_says("200 OK", "{\"id\":\"k\"}");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_not(caller_has(&caller, first));
}

Test(request, the_callers_key_and_connection_fields_stay_here)
{
    upstream_says("200 OK", "{\"id\":\"j\"}");
    ask(&caller, "POST", "/v2/abc/run",
        "Cookie: c=1\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: X-Odd\r\nX-Odd: 1\r\n", "{}");
    EXPECT_ANSWER(&caller, 200);
    expect_asked(0, "POST /v2/abc/run HTTP/1.1\r\n");
    cr_assert_null(strstr(seen[0], key_text), "the caller's key went up");
    cr_assert_not_null(strstr(seen[0], "Authorization: Bearer " TEST_KEY "\r\n"));
    cr_assert_null(strstr(seen[0], "Cookie"));
    cr_assert_null(strstr(seen[0], "X-Odd"));
    cr_assert_null(strstr(seen[0], "1.2.3.4"));
    cr_assert_not_null(strstr(seen[0], "Via: 1.1 podgate\r\n"));
}

Test(request, a_head_request_gets_a_head_only_and_the_next_answer_follows_it)
{
    const char *end;

    upstream_says("200 OK", "{}");
    ask(&caller, "HEAD", "/v2/abc/nothing", "", NULL);
    get(&caller, "/v2/abc/health");
    RUN_UNTIL(caller_has(&caller, "HTTP/1.1 200 OK\r\n"));
    cr_assert_eq(strncmp(caller.received, "HTTP/1.1 404 ", 13), 0);
    cr_assert(caller_has(&caller, "Content-Length: "));
    end = strstr(caller.received, "\r\n\r\n");
    cr_assert_eq(strncmp(end + 4, "HTTP/1.1 200 OK\r\n", 17), 0, "a HEAD was answered with a body");
}

/* ---- keep-alive, pipelining */

Test(request, pipelined_requests_of_different_kinds_are_answered_in_order)
{
    upstream_says("200 OK", "{\"id\":\"j\",\"status\":\"IN_QUEUE\"}");
    post(&caller, "/v2/abc/run", "{}");
    get(&caller, "/v2/abc/status/j");
    get(&caller, "/v2/abc/nothing");
    get(&caller, "/podgate/v1/whoami");
    RUN_UNTIL(caller_has(&caller, "\"team\":\"t\""));
    cr_assert_eq(caller_count(&caller, "HTTP/1.1 200 OK\r\n"), 3);
    cr_assert_lt(strstr(caller.received, "IN_QUEUE"), strstr(caller.received, "HTTP/1.1 404"));
    cr_assert_lt(strstr(caller.received, "HTTP/1.1 404"), strstr(caller.received, "\"team\""));
}

/* ---- what is left */

Test(request, each_request_leaves_one_log_line_without_its_secrets)
{
    const char *log;

    upstream_says("200 OK", "{\"id\":\"job-7\",\"status\":\"IN_QUEUE\"}");
    ask(&caller, "POST", "/v2/abc/run", "X-Request-Id: one\r\n", "{\"input\":\"s3cret\"}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    ask(&caller, "GET", "/v2/abc/status/job-7?ttl=x", "X-Request-Id: two\r\n", NULL);
    EXPECT_ANSWER(&caller, 400);
    log = end_gateways();
    cr_assert_not_null(strstr(log, "request_id=one"), "%s", log);
    cr_assert_not_null(strstr(log, "job=job-7"), "%s", log);
    cr_assert_not_null(strstr(log, "team=t"), "%s", log);
    cr_assert_not_null(strstr(log, "reason=bad_ttl"), "%s", log);
    cr_assert_null(strstr(log, "s3cret"));
    cr_assert_null(strstr(log, key_text));
    cr_assert_null(strstr(log, TEST_KEY));
    log = strstr(log, "request_done");
    cr_assert_not_null(strstr(log + 1, "request_done"));
    cr_assert_null(strstr(strstr(log + 1, "request_done") + 1, "request_done"));
}

Test(request, a_bad_key_is_logged_with_its_reason_and_without_itself)
{
    const char *log;

    caller_send(&caller, "GET /v2/abc/health HTTP/1.1\r\nHost: a\r\n"
                         "Authorization: Bearer pg_x_guess\r\n\r\n");
    EXPECT_ANSWER(&caller, 401);
    log = end_gateways();
    cr_assert_not_null(strstr(log, "authentication_failed"), "%s", log);
    cr_assert_not_null(strstr(log, "reason=key_malformed"), "%s", log);
    cr_assert_null(strstr(log, "pg_x_guess"));
}

Test(request, each_request_is_counted_once_by_operation_and_class)
{
    upstream_says("200 OK", "{\"id\":\"j\"}");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    get(&caller, "/v2/abc/nothing");
    EXPECT_ANSWER(&caller, 404);
    settle();
    cr_assert_eq(metrics_sum(metrics, METRIC_REQUESTS, ROUTE_RUN, METRIC_STATUS_2XX), 1);
    cr_assert_eq(metrics_sum(metrics, METRIC_REQUESTS, ROUTE_OPERATION_COUNT, METRIC_STATUS_4XX),
                 1);
    cr_assert_eq(metrics_sum(metrics, METRIC_SENT_BYTES, 0, 0) > 0, true);
}

Test(request, a_refused_request_gives_its_place_back)
{
    for (unsigned i = 0; i < 5; i++) {
        expect_refusal("POST", "/v2/abc/run", "", "{broken", 400, "invalid_json");
        cr_assert_eq(atomic_load(&config->keys[0].state->in_flight), 0);
    }
    cr_assert_eq(request_pool_running(GATEWAY->requests), 0);
}

Test(request, a_late_answer_finds_no_request_in_the_place_of_the_one_that_left)
{
    struct request_handle handle = {.gateway_index = 0, .slot = 0, .generation = 1};

    enter_job("abc", "j");
    enter_job("abc", "other");
    upstream_holds();
    get(&caller, "/v2/abc/status/j");
    RUN_UNTIL(seen_count == 1);
    cr_assert_not_null(request_find(GATEWAY, handle));
    caller_close(&caller);
    settle();
    cr_assert_null(request_find(GATEWAY, handle));
    caller_open(&caller, FRONT);
    get(&caller, "/v2/abc/status/other");
    RUN_UNTIL(seen_count == 2);
    cr_assert_null(request_find(GATEWAY, handle), "another request answers to its name");
    handle.generation++;
    cr_assert_not_null(request_find(GATEWAY, handle));
    handle.slot = 1000;
    cr_assert_null(request_find(GATEWAY, handle));
}

Test(request, the_end_of_the_gateway_ends_what_still_runs)
{
    upstream_holds();
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    settle();
    cr_assert_eq(request_pool_running(GATEWAY->requests), 1);
    upstream_answers(0, "200 OK", "{\"id\":\"j\"}");
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
}
