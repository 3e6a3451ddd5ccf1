#include "build_config.h"

#include "ledger_fixture.h"

/* /retry: a job runs again under its id, whether upstream still knows it or not. */

#define FAILED_RUN "{\"id\":\"j-1\",\"status\":\"FAILED\",\"error\":\"x\",\"executionTime\":9}"

/* A job that failed and is stored. */
static void fail_a_job(void)
{
    upstream_says("200 OK", FAILED_RUN);
    post(&caller, "/v2/abc/runsync", "{\"input\":{\"n\":1}}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
}

static void set_up_retry(void)
{
    set_up_with("endpoint \"kept\" { keep_input = true }");
}

TestSuite(retry, .init = set_up_retry, .fini = tear_down_ledger, .timeout = 60);

Test(retry, lets_a_failed_job_run_again)
{
    fail_a_job();
    upstream_says("200 OK", QUEUED("j-1"));
    store_holds(STORE_SETTLE_SUBMIT);
    post(&caller, "/v2/abc/retry/j-1", NULL);
    RUN_UNTIL(held_count == 1);
    expect_asked(1, "POST /v2/abc/retry/j-1 HTTP/1.1\r\n");
    cr_assert_eq(answer_status(&caller), 0, "told before the ledger knew");
    store_goes_on(STORE_SETTLE_SUBMIT);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), QUEUED("j-1"));
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_IN_QUEUE);
    cr_assert_eq(found.generation, 2);
    cr_assert_eq(found.kind, STORE_KIND_RUN);
    /* What was known of its end is served no more. */
    caller_clear(&caller);
    upstream_says("200 OK", "{\"id\":\"j-1\",\"status\":\"IN_PROGRESS\"}");
    get(&caller, "/v2/abc/status/j-1");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "IN_PROGRESS"));
    cr_assert_eq(seen_count, 3);
}

Test(retry, settles_the_run_that_ended_before_it_goes_up)
{
    upstream_says("200 OK", QUEUED("j-1"));
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    upstream_holds();
    post(&caller, "/v2/abc/retry/j-1", NULL);
    RUN_UNTIL(seen_count == 2);
    expect_asked(1, "GET /v2/abc/status/j-1 HTTP/1.1\r\n");
    upstream_answers(1, "200 OK", FAILED_RUN);
    RUN_UNTIL(seen_count == 3);
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_FAILED);
    cr_assert_eq(found.execution_ms, 9);
    expect_asked(2, "POST /v2/abc/retry/j-1 HTTP/1.1\r\n");
    upstream_answers(2, "200 OK", QUEUED("j-1"));
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_IN_QUEUE);
    cr_assert_eq(found.generation, 2);
}

Test(retry, refuses_a_job_that_runs_or_succeeded)
{
    upstream_says("200 OK", QUEUED("j-1"));
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    post(&caller, "/v2/abc/retry/j-1", NULL);
    EXPECT_PROBLEM(&caller, 400, "retry_wrong_state");
    caller_clear(&caller);
    upstream_says("200 OK", "{\"id\":\"j-2\",\"status\":\"COMPLETED\",\"output\":1}");
    post(&caller, "/v2/abc/runsync", "{}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    post(&caller, "/v2/abc/retry/j-2", NULL);
    EXPECT_PROBLEM(&caller, 400, "retry_wrong_state");
    cr_assert_eq(seen_count, 3, "something was sent");
}

Test(retry, knows_nothing_of_a_job_that_never_was)
{
    post(&caller, "/v2/abc/retry/j-1", NULL);
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    cr_assert_eq(peer.accepted, 0);
}

Test(retry, passes_the_upstreams_refusal_on)
{
    fail_a_job();
    upstream_says("404 Not Found", "{\"error\":\"gone\"}");
    post(&caller, "/v2/abc/retry/j-1", NULL);
    EXPECT_ANSWER(&caller, 404);
    cr_assert_str_eq(answer_body(&caller), "{\"error\":\"gone\"}");
    all_is_written();
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_FAILED);
    cr_assert_eq(found.generation, 1);
    cr_assert_eq(unknown_submits(), 0);
}

Test(retry, is_repeated_by_its_key)
{
    fail_a_job();
    upstream_says("200 OK", QUEUED("j-1"));
    submit(&caller, "/v2/abc/retry/j-1", "k-1", "");
    EXPECT_ANSWER(&caller, 200);
    submit(&second, "/v2/abc/retry/j-1", "k-1", "");
    EXPECT_ANSWER(&second, 200);
    cr_assert(caller_has(&second, "Idempotency-Replayed: true\r\n"));
    cr_assert_str_eq(answer_body(&second), answer_body(&caller));
    cr_assert_eq(seen_count, 2);
    /* Another job is another request. */
    caller_clear(&second);
    submit(&second, "/v2/abc/retry/j-9", "k-1", "");
    EXPECT_PROBLEM(&second, 422, "idempotency_mismatch");
}

Test(retry, frees_its_key_when_nothing_went_up)
{
    submit(&caller, "/v2/abc/retry/j-1", "k-1", "");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    caller_clear(&caller);
    all_is_written();
    fail_a_job();
    upstream_says("200 OK", QUEUED("j-1"));
    submit(&second, "/v2/abc/retry/j-1", "k-1", "");
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(seen_count, 2);
}

Test(retry, is_unknown_when_nobody_knows)
{
    fail_a_job();
    upstream_holds();
    post(&caller, "/v2/abc/retry/j-1", NULL);
    RUN_UNTIL(seen_count == 2);
    peer_reset(asked_by[1]);
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
    all_is_written();
    cr_assert_eq(unknown_submits(), 1);
}

/* ---- the input is kept */

static void fail_a_kept_job(const char *body)
{
    upstream_says("200 OK", FAILED_RUN);
    post(&caller, "/v2/kept/runsync", body);
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
}

Test(retry, submits_again_what_upstream_forgot)
{
    fail_a_kept_job("{\"input\":{ \"n\": NaN }}");
    upstream_holds();
    post(&caller, "/v2/kept/retry/j-1", NULL);
    RUN_UNTIL(seen_count == 2);
    expect_asked(1, "POST /v2/kept/retry/j-1 HTTP/1.1\r\n");
    upstream_answers(1, "404 Not Found", "{\"error\":\"gone\"}");
    RUN_UNTIL(seen_count == 3);
    expect_asked(2, "POST /v2/kept/run HTTP/1.1\r\n");
    cr_assert_not_null(strstr(seen[2], "\r\n\r\n{\"input\":{ \"n\": NaN }}"));
    upstream_answers(2, "200 OK", QUEUED("j-2"));
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), QUEUED("j-1"), "%s", caller.received);
    /* The old id goes on resolving, and upstream is asked for the new one. */
    caller_clear(&caller);
    post(&caller, "/v2/kept/status/j-1", NULL);
    RUN_UNTIL(seen_count == 4);
    expect_asked(3, "GET /v2/kept/status/j-2 HTTP/1.1\r\n");
    upstream_answers(3, "200 OK", "{\"id\":\"j-2\",\"status\":\"COMPLETED\",\"output\":1}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller),
                     "{\"id\":\"j-1\",\"status\":\"COMPLETED\",\"output\":1}");
}

Test(retry, lets_a_job_that_was_submitted_again_be_cancelled_by_its_old_id)
{
    fail_a_kept_job("{\"input\":1}");
    upstream_holds();
    post(&caller, "/v2/kept/retry/j-1", NULL);
    RUN_UNTIL(seen_count == 2);
    upstream_answers(1, "404 Not Found", "{\"error\":\"gone\"}");
    RUN_UNTIL(seen_count == 3);
    upstream_answers(2, "200 OK", QUEUED("j-2"));
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    post(&caller, "/v2/kept/cancel/j-1", NULL);
    RUN_UNTIL(seen_count == 4);
    expect_asked(3, "POST /v2/kept/cancel/j-2 HTTP/1.1\r\n");
    upstream_answers(3, "200 OK", "{\"id\":\"j-2\",\"status\":\"CANCELLED\"}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"id\":\"j-1\",\"status\":\"CANCELLED\"}");
}

Test(retry, submits_a_large_input_again_byte_for_byte)
{
    enum { BYTES = 300000 };
    char *body = malloc(BYTES + 1);

    memset(body, 'x', BYTES);
    memcpy(body, "{\"input\":\"", 10);
    memcpy(body + BYTES - 2, "\"}", 3);
    fail_a_kept_job(body);
    upstream_holds();
    post(&caller, "/v2/kept/retry/j-1", NULL);
    RUN_UNTIL(seen_count == 2);
    upstream_answers(1, "404 Not Found", "<html>"); /* what a CDN says is no reason to forget */
    RUN_UNTIL(seen_count == 3);
    cr_assert_not_null(strstr(seen[2], body));
    upstream_answers(2, "200 OK", QUEUED("j-2"));
    EXPECT_ANSWER(&caller, 200);
    free(body);
}

Test(retry, has_one_entry_in_the_ledger_for_both_tries)
{
    fail_a_kept_job("{\"input\":1}");
    upstream_holds();
    post(&caller, "/v2/kept/retry/j-1", NULL);
    RUN_UNTIL(seen_count == 2);
    upstream_answers(1, "404 Not Found", "{\"error\":\"gone\"}");
    RUN_UNTIL(seen_count == 3);
    peer_reset(asked_by[2]);
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
    all_is_written();
    cr_assert_eq(unknown_submits(), 1);
    cr_assert_eq(seen_count, 3);
}
