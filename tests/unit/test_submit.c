#include "build_config.h"

#include "gateway_fixture.h"

/* /run and /runsync: sent once, carried to their end, never invented. What the ledger has of them is
 * in test_ledger.c. */

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

TestSuite(submit, .init = set_up_caller, .fini = tear_down_caller, .timeout = 60);

Test(submit, goes_up_once_with_its_body_untouched)
{
    upstream_says("200 OK", "{\"id\":\"j-1\",\"status\":\"IN_QUEUE\"}");
    post(&caller, "/v2/abc/run", "{ \"input\" : {\"n\": NaN, \"z\":1.0e5 } }");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"id\":\"j-1\",\"status\":\"IN_QUEUE\"}");
    expect_asked(0, "POST /v2/abc/run HTTP/1.1\r\n");
    cr_assert_not_null(strstr(seen[0], "\r\n\r\n{ \"input\" : {\"n\": NaN, \"z\":1.0e5 } }"));
    cr_assert_eq(seen_count, 1);
    cr_assert_not(caller_has(&caller, "Podgate-Origin"));
}

Test(submit, survives_its_caller)
{
    upstream_holds();
    ask(&caller, "POST", "/v2/abc/run", "X-Request-Id: left\r\n", "{}");
    RUN_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 0);
    cr_assert_eq(request_pool_running(GATEWAY->requests), 1, "the submit ended with its caller");
    cr_assert_eq(atomic_load(&config->keys[0].state->in_flight), 1);
    upstream_answers(0, "200 OK", "{\"id\":\"job-9\",\"status\":\"IN_QUEUE\"}");
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(peer_ended(&peer), 0, "its connection was cut");
    cr_assert_not_null(strstr(end_gateways(), "job=job-9"), "the job is in no log");
}

Test(submit, whose_caller_left_frees_its_place_when_upstream_fails)
{
    upstream_holds();
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 0);
    peer_reset(asked_by[0]);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN), 1);
}

Test(submit, that_broke_after_it_was_sent_is_unknown_and_not_sent_again)
{
    upstream_holds();
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(seen_count == 1);
    peer_reset(asked_by[0]);
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
    cr_assert_eq(seen_count, 1);
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN), 1);
    cr_assert_not_null(strstr(end_gateways(), "submit_unknown"));
}

Test(submit, that_is_not_answered_in_time_is_unknown)
{
    upstream_holds();
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(seen_count == 1);
    pass(29000);
    cr_assert_eq(answer_status(&caller), 0);
    pass(1500);
    EXPECT_PROBLEM(&caller, 504, "submit_unknown");
    cr_assert_eq(seen_count, 1);
}

Test(submit, that_found_no_connection_is_known_to_be_lost)
{
    peer_stop_listening(&peer);
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_PROBLEM(&caller, 502, "upstream_unreachable");
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN), 0);
}

Test(submit, runsync_waits_for_as_long_as_it_says_and_a_margin)
{
    upstream_holds();
    post(&caller, "/v2/abc/runsync?wait=20000", "{}");
    RUN_UNTIL(seen_count == 1);
    expect_asked(0, "POST /v2/abc/runsync?wait=20000 HTTP/1.1\r\n");
    pass(29000);
    cr_assert_eq(answer_status(&caller), 0);
    pass(1500);
    EXPECT_PROBLEM(&caller, 504, "submit_unknown");
}

Test(submit, runsync_without_a_wait_is_held_for_90_s)
{
    upstream_holds();
    post(&caller, "/v2/abc/runsync", "{}");
    RUN_UNTIL(seen_count == 1);
    expect_asked(0, "POST /v2/abc/runsync HTTP/1.1\r\n");
    pass(99000);
    cr_assert_eq(answer_status(&caller), 0);
    upstream_answers(0, "200 OK", "{\"id\":\"j\",\"status\":\"COMPLETED\",\"output\":1}");
    EXPECT_ANSWER(&caller, 200);
}

/* ---- answers that are less than they look */

#define CUT_HEAD "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"

static void answer_cut(const char *text)
{
    upstream_holds();
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(seen_count == 1);
    peer_send(asked_by[0], text);
    peer_end(asked_by[0]);
}

Test(submit, an_answer_that_broke_off_behind_a_whole_id_is_answered_with_that_id)
{
    answer_cut(CUT_HEAD "{\"id\":\"job-5\",\"status\":\"COMP");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"id\":\"job-5\",\"status\":\"IN_PROGRESS\"}");
    cr_assert(caller_has(&caller, "Podgate-Origin: gateway\r\n"));
}

Test(submit, an_answer_that_broke_off_inside_its_id_is_unknown)
{
    answer_cut(CUT_HEAD "{\"status\":\"IN_QUEUE\",\"id\":\"job-5");
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
}

Test(submit, an_id_inside_of_something_else_is_not_the_jobs)
{
    answer_cut(CUT_HEAD "{\"output\":{\"id\":\"job-5\"},\"sta");
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
}

Test(submit, an_id_that_could_not_be_asked_for_is_not_answered_with)
{
    answer_cut(CUT_HEAD "{\"id\":\"a/../b\",\"sta");
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
}

Test(submit, an_error_that_broke_off_behind_an_id_is_unknown)
{
    answer_cut("HTTP/1.1 500 Oops\r\nContent-Length: 500\r\n\r\n{\"id\":\"job-5\",\"sta");
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
}

Test(submit, a_200_without_an_id_goes_to_the_caller_and_is_counted)
{
    upstream_says("200 OK", "{\"error\":\"no\"}");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"error\":\"no\"}");
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_WITHOUT_ID), 1);
}

Test(submit, a_200_that_is_not_json_is_502_and_counted_as_unknown)
{
    upstream_says("200 OK", "<html>ok</html>");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_PROBLEM(&caller, 502, "upstream_not_json");
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN), 1);
}

Test(submit, a_5xx_of_the_upstream_is_passed_on_and_counted_as_unknown)
{
    upstream_says("500 Internal Server Error", "{\"error\":\"x\"}");
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 500);
    cr_assert_str_eq(answer_body(&caller), "{\"error\":\"x\"}");
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN), 1);
}

Test(submit, completed_without_output_is_marked)
{
    upstream_says("200 OK", "{\"id\":\"j\",\"status\":\"COMPLETED\"}");
    post(&caller, "/v2/abc/runsync", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "Podgate-Warning: completed-without-output\r\n"));
    caller_clear(&caller);
    upstream_says("200 OK", "{\"id\":\"k\",\"status\":\"COMPLETED\",\"output\":null}");
    post(&caller, "/v2/abc/runsync", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_not(caller_has(&caller, "Podgate-Warning"));
}
