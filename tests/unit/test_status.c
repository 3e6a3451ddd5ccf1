#include "build_config.h"

#include "gateway_fixture.h"

/* /status, /status-sync and /health as their callers see them. */

static struct caller caller;
static struct caller second;

static void set_up_callers(void)
{
    set_up_gateway();
    enter_job("abc", "j");
    caller_open(&caller, FRONT);
    caller_open(&second, FRONT);
}

static void tear_down_callers(void)
{
    caller_close(&caller);
    caller_close(&second);
    tear_down_gateway();
}

TestSuite(status, .init = set_up_callers, .fini = tear_down_callers, .timeout = 60);

#define RUNNING "{\"id\":\"j\",\"status\":\"IN_PROGRESS\"}"
#define DONE "{\"id\":\"j\",\"status\":\"COMPLETED\",\"output\":1}"
#define SYNC "/v2/abc/status-sync/j"

/* ---- one status */

Test(status, passes_the_answer_on_with_its_fields_by_the_list)
{
    upstream_says_with("200 OK", "X-Internal: 1\r\n", DONE);
    get(&caller, "/v2/abc/status/j");
    EXPECT_ANSWER(&caller, 200);
    expect_asked(0, "GET /v2/abc/status/j HTTP/1.1\r\n");
    cr_assert_str_eq(answer_body(&caller), DONE);
    cr_assert(caller_has(&caller, "Content-Type: application/json\r\n"));
    cr_assert_not(caller_has(&caller, "X-Internal"));
    cr_assert_not(caller_has(&caller, "Podgate-Origin"));
}

Test(status, goes_up_as_a_get_without_a_body_whatever_the_caller_sent)
{
    upstream_says("200 OK", RUNNING);
    post(&caller, "/v2/abc/status/j", "{}");
    RUN_UNTIL(answer_status(&caller) != 0);
    if (answer_status(&caller) == 200) {
        expect_asked(0, "GET /v2/abc/status/j HTTP/1.1\r\n");
        cr_assert_null(strstr(seen[0], "Content-Length"));
    } else {
        cr_assert_eq(answer_status(&caller), 405);
    }
}

static void expect_mapped(const char *status, const char *body, unsigned expected, const char *code)
{
    char wanted[64];
    struct caller each;

    pass(1000);
    upstream_says(status, body);
    caller_open(&each, FRONT);
    get(&each, "/v2/abc/status/j");
    RUN_UNTIL(answer_status(&each) != 0);
    cr_assert_eq(answer_status(&each), expected, "%s: %s", status, each.received);
    snprintf(wanted, sizeof wanted, "\"code\":\"%s\"", code);
    cr_assert(caller_has(&each, wanted), "%s: %s", status, each.received);
    cr_assert(caller_has(&each, "Podgate-Origin: gateway\r\n"));
    caller_close(&each);
}

Test(status, maps_what_nobody_should_see_as_relayed_answers_are_mapped)
{
    expect_mapped("401 No", "{}", 502, "upstream_credential");
    expect_mapped("403 No", "{}", 502, "upstream_credential");
    expect_mapped("302 Found", "{}", 502, "upstream_redirect");
    expect_mapped("200 OK", "<html>", 502, "upstream_not_json");
    expect_mapped("500 Oops", "<html>", 502, "upstream_error");
    expect_mapped("404 No", "<html>", 404, "upstream_error");
}

Test(status, a_job_that_upstream_does_not_know_yet_is_in_its_queue)
{
    upstream_says("404 Not Found", "{\"error\":\"job not found\"}");
    get(&caller, "/v2/abc/status/j");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"id\":\"j\",\"status\":\"IN_QUEUE\"}");
    cr_assert(caller_has(&caller, "Podgate-Origin: gateway\r\n"));
}

Test(status, a_job_that_is_in_no_ledger_is_told_so_without_asking_upstream)
{
    get(&caller, "/v2/abc/status/unknown");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    cr_assert_eq(seen_count, 0);
}

Test(status, another_teams_job_is_told_as_one_that_never_was)
{
    char *unknown;

    enter_job_of("other", "abc", "theirs");
    get(&caller, "/v2/abc/status/unknown");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    unknown = strdup(answer_body(&caller));
    caller_clear(&caller);
    get(&caller, "/v2/abc/status/theirs");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    cr_assert_str_eq(answer_body(&caller), unknown);
    cr_assert_eq(seen_count, 0);
    free(unknown);
}

Test(status, completed_without_output_is_marked_for_each_caller)
{
    upstream_holds();
    get(&caller, "/v2/abc/status/j");
    get(&second, "/v2/abc/status/j");
    RUN_UNTIL(seen_count == 1);
    upstream_answers(0, "200 OK", "{\"id\":\"j\",\"status\":\"COMPLETED\"}");
    EXPECT_ANSWER(&caller, 200);
    EXPECT_ANSWER(&second, 200);
    cr_assert(caller_has(&caller, "Podgate-Warning: completed-without-output\r\n"));
    cr_assert(caller_has(&second, "Podgate-Warning: completed-without-output\r\n"));
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_COMPLETED_WITHOUT_OUTPUT), 1);
}

Test(status, a_429_is_passed_on_with_a_wait_of_10_s_at_most)
{
    upstream_says_with("429 Too Many", "Retry-After: 600\r\n", "{\"error\":\"slow down\"}");
    get(&caller, "/v2/abc/status/j");
    EXPECT_ANSWER(&caller, 429);
    cr_assert(caller_has(&caller, "Retry-After: 10\r\n"));
}

Test(status, the_trace_of_who_causes_a_request_goes_up)
{
    upstream_says("200 OK", RUNNING);
    ask(&caller, "GET", "/v2/abc/status/j",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
        "tracestate: a=b\r\nX-Request-Id: mine\r\n",
        NULL);
    EXPECT_ANSWER(&caller, 200);
    cr_assert(strstr(seen[0],
                     "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"));
    cr_assert(strstr(seen[0], "tracestate: a=b\r\n"));
    cr_assert(strstr(seen[0], "X-Request-Id: mine\r\n"));
}

Test(status, a_trace_that_is_too_long_stays_behind)
{
    char *fields = NULL;

    cr_assert_gt(asprintf(&fields, "tracestate: a=%0600d\r\nX-Request-Id: mine\r\n", 0), 0);
    upstream_says("200 OK", RUNNING);
    ask(&caller, "GET", "/v2/abc/status/j", fields, NULL);
    free(fields);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_null(strstr(seen[0], "tracestate"));
    cr_assert(strstr(seen[0], "X-Request-Id: mine\r\n"));
}

/* RFC 9211 section 2: an answer is a hit or was forwarded, never both. */
Test(status, an_old_health_says_how_old_it_is)
{
    upstream_says("200 OK", "{\"jobs\":{}}");
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 200);
    pass(5500);
    upstream_says("500 Oops", "<html>");
    get(&second, "/v2/abc/health");
    EXPECT_ANSWER(&second, 200);
    cr_assert(
        caller_has(&second, "Cache-Status: podgate; hit; ttl=-5; detail=upstream-failed\r\n"));
    cr_assert(caller_has(&second, "Age: 5\r\n"));
    cr_assert(caller_has(&second, "Podgate-Degraded: upstream\r\n"));
}

static void no_freshness(void)
{
    set_up_peer();
    open_gateways(1, "", ALL_OPERATIONS, "endpoint \"*\" { status_freshness = \"0\" }");
    enter_job("abc", "j");
    caller_open(&caller, FRONT);
    caller_open(&second, FRONT);
}

Test(status_alone, without_freshness_no_status_is_served_twice, .init = no_freshness,
     .fini = tear_down_callers)
{
    upstream_says("200 OK", RUNNING);
    get(&caller, "/v2/abc/status/j");
    EXPECT_ANSWER(&caller, 200);
    pass(10);
    get(&second, "/v2/abc/status/j");
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(seen_count, 2);
}

/* ---- status-sync */

Test(status_sync, waits_for_the_end_and_asks_every_half_second_for_all)
{
    upstream_says("200 OK", RUNNING);
    get(&caller, SYNC "?wait=60000");
    get(&second, SYNC "?wait=60000");
    RUN_UNTIL(seen_count == 1);
    expect_asked(0, "GET /v2/abc/status/j HTTP/1.1\r\n");
    cr_assert_eq(count_of(METRIC_WAITING_CALLERS, 0), 2);
    for (unsigned i = 2; i <= 10; i++) {
        pass(600);
        RUN_UNTIL(seen_count == i);
        RUN_UNTIL(upstream_counts(GATEWAY->upstream).idle == 1);
    }
    settle();
    cr_assert_eq(answer_status(&caller), 0);
    upstream_says("200 OK", DONE);
    pass(600);
    EXPECT_ANSWER(&caller, 200);
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&caller), DONE);
    cr_assert_eq(seen_count, 11);
    cr_assert_eq(count_of(METRIC_WAITING_CALLERS, 0), 0);
    pass(5000);
    cr_assert_eq(seen_count, 11, "it asks for nobody");
}

Test(status_sync, gives_the_last_known_state_when_its_time_is_up)
{
    upstream_says("200 OK", RUNNING);
    get(&caller, SYNC "?wait=2000");
    RUN_UNTIL(seen_count == 1);
    RUN_UNTIL(upstream_counts(GATEWAY->upstream).idle == 1);
    upstream_holds();
    pass(600);
    RUN_UNTIL(seen_count == 2);
    pass(1000);
    settle();
    cr_assert_eq(answer_status(&caller), 0, "answered before its time");
    pass(600);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), RUNNING);
}

Test(status_sync, a_wait_is_a_second_at_least)
{
    upstream_says("200 OK", RUNNING);
    get(&caller, SYNC "?wait=1");
    RUN_UNTIL(seen_count == 1);
    RUN_UNTIL(upstream_counts(GATEWAY->upstream).idle == 1);
    pass(700);
    settle();
    cr_assert_eq(answer_status(&caller), 0);
    pass(700);
    EXPECT_ANSWER(&caller, 200);
}

Test(status_sync, callers_with_other_waits_are_told_each_in_his_time)
{
    upstream_says("200 OK", RUNNING);
    get(&caller, SYNC "?wait=2000");
    get(&second, SYNC "?wait=4000");
    RUN_UNTIL(seen_count == 1);
    RUN_UNTIL(upstream_counts(GATEWAY->upstream).idle == 1);
    pass(2300);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(answer_status(&second), 0);
    pass(2300);
    EXPECT_ANSWER(&second, 200);
}

Test(status_sync, nothing_known_at_the_end_of_the_wait_is_a_timeout)
{
    upstream_holds();
    get(&caller, SYNC "?wait=2000");
    RUN_UNTIL(seen_count == 1);
    pass(2100);
    cr_assert_eq(answer_status(&caller), 0, "an answer may still come in its last moment");
    pass(1000);
    EXPECT_PROBLEM(&caller, 504, "upstream_timeout");
}

Test(status_sync, a_failure_in_between_is_waited_out)
{
    upstream_says("503 Busy", "{}");
    get(&caller, SYNC "?wait=60000");
    RUN_UNTIL(seen_count == 1);
    RUN_UNTIL(upstream_counts(GATEWAY->upstream).idle == 1);
    settle();
    cr_assert_eq(answer_status(&caller), 0);
    upstream_says("200 OK", DONE);
    pass(600);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), DONE);
}

Test(status_sync, a_job_that_does_not_exist_is_told_at_once)
{
    get(&caller, "/v2/abc/status-sync/unknown?wait=60000");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
}

Test(status_sync, who_leaves_stops_the_asking)
{
    upstream_says("200 OK", RUNNING);
    get(&caller, SYNC "?wait=60000");
    RUN_UNTIL(seen_count == 1);
    RUN_UNTIL(upstream_counts(GATEWAY->upstream).idle == 1);
    caller_hang_up(&caller);
    settle();
    cr_assert_eq(count_of(METRIC_WAITING_CALLERS, 0), 0);
    pass(5000);
    cr_assert_eq(seen_count, 1);
    cr_assert_eq(request_pool_running(GATEWAY->requests), 0);
}

TestSuite(status_sync, .init = set_up_callers, .fini = tear_down_callers, .timeout = 60);

/* ---- health */

#define HEALTHY "{\"workers\":{\"idle\":1}}"

Test(health, serves_for_a_second)
{
    upstream_says("200 OK", HEALTHY);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 200);
    pass(900);
    get(&second, "/v2/abc/health");
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(seen_count, 1);
    caller_clear(&caller);
    pass(200);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(seen_count, 2);
}

Test(health, the_last_good_answer_serves_for_30_s_while_upstream_fails)
{
    upstream_says("200 OK", HEALTHY);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    upstream_says("503 Busy", "{}");
    pass(20000);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), HEALTHY);
    cr_assert(caller_has(&caller, "detail=upstream-failed"));
    cr_assert(caller_has(&caller, "Age: 20\r\n"));
    cr_assert_eq(seen_count, 2);
    caller_clear(&caller);
    pass(9000);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    pass(2000);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 503);
}

Test(health, an_endpoint_that_does_not_exist_is_told_instead_of_the_last_good_answer)
{
    upstream_says("200 OK", HEALTHY);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    upstream_says("404 Not Found", "{\"error\":\"no such endpoint\"}");
    pass(2000);
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 404);
}

Test(health, without_a_good_answer_the_failure_is_told)
{
    upstream_says("503 Busy", "{}");
    get(&caller, "/v2/abc/health");
    EXPECT_ANSWER(&caller, 503);
}

TestSuite(health, .init = set_up_callers, .fini = tear_down_callers, .timeout = 60);
