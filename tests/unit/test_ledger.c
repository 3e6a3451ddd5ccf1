#include "build_config.h"

#include "ledger_fixture.h"

/* The life of a submit: what is written before its first byte goes up and before its caller is
 * told, what a second request with the same Idempotency-Key gets, and what an outage of the store
 * does to all that. */

TestSuite(ledger, .init = set_up_ledger, .fini = tear_down_ledger, .timeout = 60);

/* ---- what is written, and when */

Test(ledger, marks_a_submit_as_sent_before_its_first_byte_goes_up)
{
    upstream_says("200 OK", QUEUED("j-1"));
    store_holds(STORE_MARK_SENT);
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(held_count == 1);
    cr_assert_eq(peer.accepted, 0, "a connection was made before the mark was there");
    store_goes_on(STORE_MARK_SENT);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(seen_count, 1);
}

Test(ledger, has_the_job_before_its_caller_is_told)
{
    upstream_says("200 OK", QUEUED("j-1"));
    store_holds(STORE_SETTLE_SUBMIT);
    post(&caller, "/v2/abc/run", "{\"policy\":{\"ttl\":60000}}");
    RUN_UNTIL(held_count == 1);
    cr_assert_eq(answer_status(&caller), 0);
    store_goes_on(STORE_SETTLE_SUBMIT);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), QUEUED("j-1"));
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_IN_QUEUE);
    cr_assert_eq(found.kind, STORE_KIND_RUN);
    cr_assert_eq(found.ttl_ms, 60000);
    cr_assert_str_eq(found.team, "t");
    cr_assert_eq(count_of(METRIC_SUBMITS, METRIC_SUBMIT_KNOWN), 1);
}

Test(ledger, keeps_the_result_of_a_runsync_in_the_same_breath)
{
    static const char result[] = "{\"delayTime\":5,\"executionTime\":42,\"id\":\"s-1\",\"output\":"
                                 "1,\"status\":\"COMPLETED\"}";

    upstream_says("200 OK", result);
    post(&caller, "/v2/abc/runsync", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), result);
    cr_assert_eq(look_for("s-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_COMPLETED);
    cr_assert_eq(found.fate, STORE_FATE_KEPT);
    cr_assert_eq(found.kind, STORE_KIND_RUNSYNC);
    cr_assert_eq(found.execution_ms, 42);
    cr_assert_str_eq(found.body, result);
    /* And serves it without asking anybody. */
    caller_clear(&caller);
    get(&caller, "/v2/abc/status/s-1");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), result);
    cr_assert_eq(seen_count, 1);
}

Test(ledger, follows_a_runsync_that_has_not_ended)
{
    upstream_says("200 OK", "{\"id\":\"s-1\",\"status\":\"IN_PROGRESS\"}");
    post(&caller, "/v2/abc/runsync", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(look_for("s-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_IN_PROGRESS);
    cr_assert_eq(found.kind, STORE_KIND_RUNSYNC);
}

Test(ledger, carries_a_submit_to_its_end_when_the_caller_left)
{
    upstream_holds();
    store_holds(STORE_MARK_SENT);
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(held_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 1);
    store_goes_on(STORE_MARK_SENT);
    RUN_UNTIL(seen_count == 1);
    store_holds(STORE_SETTLE_SUBMIT);
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    RUN_UNTIL(held_count == 1);
    store_goes_on(STORE_SETTLE_SUBMIT);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(look_for("j-1"), STORE_OK);
}

Test(ledger, carries_a_submit_to_its_end_when_the_caller_leaves_while_it_is_recorded)
{
    upstream_says("200 OK", QUEUED("j-1"));
    store_holds(STORE_SETTLE_SUBMIT);
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(held_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 1);
    cr_assert_eq(request_pool_running(GATEWAY->requests), 1);
    store_goes_on(STORE_SETTLE_SUBMIT);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(look_for("j-1"), STORE_OK);
}

Test(ledger, lists_what_nobody_knows)
{
    upstream_holds();
    post(&caller, "/v2/abc/run", "{}");
    RUN_UNTIL(seen_count == 1);
    peer_reset(asked_by[0]);
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
    all_is_written();
    cr_assert_eq(unknown_submits(), 1);
    cr_assert_eq(count_of(METRIC_SUBMITS, METRIC_SUBMIT_UNKNOWN), 1);
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN), 1);
}

Test(ledger, takes_an_error_of_the_upstreams_for_unknown_and_a_refusal_for_a_refusal)
{
    static const struct {
        const char *status;
        const char *body;
        unsigned told;
        size_t unknown;
    } cases[] = {
        {"400 Bad Request", "{\"error\":\"x\"}", 400, 0},
        {"429 Too Many Requests", "{\"error\":\"x\"}", 429, 0},
        {"200 OK", "{\"error\":\"x\"}", 200, 0},
        {"401 Unauthorized", "{\"error\":\"x\"}", 502, 0},
        {"404 Not Found", "<html>", 404, 0},
        {"408 Request Timeout", "{\"error\":\"x\"}", 408, 1},
        {"500 Oops", "{\"error\":\"x\"}", 500, 2},
        {"502 Bad Gateway", "<html>", 502, 3},
        {"200 OK", "<html>", 502, 4},
        {"200 OK", "{\"status\":\"IN_QUEUE\"}", 200, 5},
        {"302 Found", "{}", 502, 6},
        {"200 OK", "{\"id\":\"a\",\"id\":\"b\",\"status\":\"IN_QUEUE\"}", 502, 7},
        {"200 OK", "{\"id\":\"a/../b\",\"status\":\"IN_QUEUE\"}", 200, 8},
    };

    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        upstream_says(cases[i].status, cases[i].body);
        post(&caller, "/v2/abc/run", "{}");
        EXPECT_ANSWER(&caller, cases[i].told);
        caller_clear(&caller);
        all_is_written();
        cr_assert_eq(unknown_submits(), cases[i].unknown, "%s %s", cases[i].status, cases[i].body);
    }
    cr_assert_eq(count_of(METRIC_SUBMITS, METRIC_SUBMIT_REFUSED), 5);
}

Test(ledger, never_gives_a_job_that_is_there_to_somebody_else)
{
    upstream_says("200 OK", QUEUED("j-1"));
    post(&caller, "/v2/abc/run", "{\"input\":1}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    post(&caller, "/v2/abc/run", "{\"input\":2}");
    EXPECT_PROBLEM(&caller, 502, "upstream_mismatch");
    cr_assert_eq(count_of(METRIC_WARNINGS, METRIC_WARNING_SUBMIT_MISMATCH), 1);
    cr_assert_eq(look_for("j-1"), STORE_OK);
}

/* ---- answers that are longer than there is room for */

#define LONG_HEAD                                                                                  \
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
#define LONG_BEGIN "{\"id\":\"s-1\",\"output\":\""

/* The first half of a long answer, until memory is short. */
static void begin_long_answer(void)
{
    enum { HALF = 512 * 1024 };
    char *piece = malloc(HALF + 64);
    int length = sprintf(piece, "%x\r\n" LONG_BEGIN, HALF);

    memset(piece + length, 'o', HALF + 64 - (size_t)length);
    memcpy(piece + strcspn(piece, "\n") + 1 + HALF, "\r\n", 3);
    upstream_holds();
    post(&caller, "/v2/abc/runsync", "{}");
    RUN_UNTIL(seen_count == 1);
    atomic_store(&budget.maximum_bytes, atomic_load(&budget.used_bytes) + 256 * 1024);
    store_holds(STORE_SETTLE_SUBMIT);
    peer_send(asked_by[0], LONG_HEAD);
    peer_send(asked_by[0], piece);
    RUN_UNTIL(held_count == 1);
    cr_assert_eq(caller.length, 0, "told before the ledger knew");
    free(piece);
}

Test(ledger, has_the_job_before_a_long_answer_begins)
{
    begin_long_answer();
    store_goes_on(STORE_SETTLE_SUBMIT);
    RUN_UNTIL(caller_has(&caller, LONG_BEGIN));
    peer_send(asked_by[0], "2\r\n\"}\r\n0\r\n\r\n");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_geq(caller.length, 512 * 1024);
    cr_assert_eq(look_for("s-1"), STORE_OK);
    cr_assert_eq(found.state, JOB_IN_QUEUE); /* how it ended is the collector's to see */
}

Test(ledger, has_the_job_of_a_long_answer_that_broke_off)
{
    begin_long_answer();
    peer_reset(asked_by[0]);
    store_goes_on(STORE_SETTLE_SUBMIT);
    RUN_UNTIL(caller_is_over(&caller)); /* a whole answer it can't be taken for */
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(look_for("s-1"), STORE_OK);
}

Test(ledger, lets_the_caller_of_a_long_answer_go)
{
    begin_long_answer();
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 1);
    store_goes_on(STORE_SETTLE_SUBMIT);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(look_for("s-1"), STORE_OK);
}

/* ---- Idempotency-Key */

Test(ledger, repeats_the_first_answer_for_the_same_key)
{
    upstream_says("200 OK", "{ \"id\" : \"j-1\", \"status\":\"IN_QUEUE\", \"x\":1.0 }");
    submit(&caller, "/v2/abc/run", "\"k-1\"", "{\"input\":1}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_not(caller_has(&caller, "Idempotency-Replayed"));
    upstream_says("200 OK", QUEUED("j-2"));
    submit(&second, "/v2/abc/run", "k-1", "{\"input\":1}"); /* without its quotes it's the same */
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), answer_body(&caller));
    cr_assert(caller_has(&second, "Idempotency-Replayed: true\r\n"));
    cr_assert_eq(seen_count, 1);
    cr_assert_eq(count_of(METRIC_SUBMITS, METRIC_SUBMIT_REPLAYED), 1);
}

Test(ledger, refuses_a_key_for_another_request)
{
    upstream_says("200 OK", QUEUED("j-1"));
    submit(&caller, "/v2/abc/run", "k-1", "{\"input\":1}");
    EXPECT_ANSWER(&caller, 200);
    submit(&second, "/v2/abc/run", "k-1", "{\"input\":2}");
    EXPECT_PROBLEM(&second, 422, "idempotency_mismatch");
    cr_assert_eq(seen_count, 1);
    /* The same key for another endpoint, or another operation, is another key. */
    caller_clear(&second);
    upstream_says("200 OK", QUEUED("j-2"));
    submit(&second, "/v2/xyz/run", "k-1", "{\"input\":2}");
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(seen_count, 2);
}

Test(ledger, refuses_a_key_that_is_none)
{
    static const char *const bad[] = {"\"\"",     "\"a",       "a b", "\"a\" b",
                                      "\"a\\b\"", "\"a\";x=1", "ä"};
    char too_long[300];

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        submit(&caller, "/v2/abc/run", bad[i], "{}");
        EXPECT_PROBLEM(&caller, 400, "bad_idempotency_key");
        caller_close(&caller);
        caller_open(&caller, FRONT);
    }
    memset(too_long, 'k', sizeof too_long);
    too_long[256] = '\0';
    submit(&caller, "/v2/abc/run", too_long, "{}");
    EXPECT_PROBLEM(&caller, 400, "bad_idempotency_key");
    caller_close(&caller);
    caller_open(&caller, FRONT);
    too_long[255] = '\0';
    upstream_says("200 OK", QUEUED("j-1"));
    submit(&caller, "/v2/abc/run", too_long, "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(seen_count, 1);
}

Test(ledger, lets_the_second_request_wait_for_the_first)
{
    upstream_holds();
    submit(&caller, "/v2/abc/run", "k-1", "{}");
    RUN_UNTIL(seen_count == 1);
    submit(&second, "/v2/abc/run", "k-1", "{}");
    RUN_UNTIL(asked_store[STORE_CLAIM_SUBMIT] == 2);
    store_is_idle();
    pass(500);
    cr_assert_eq(answer_status(&second), 0);
    store_is_idle();
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    EXPECT_ANSWER(&caller, 200);
    store_is_idle();
    pass(100);
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), QUEUED("j-1"));
    cr_assert_eq(seen_count, 1);
}

Test(ledger, lets_the_second_request_wait_for_two_seconds_at_most)
{
    upstream_holds();
    submit(&caller, "/v2/abc/run", "k-1", "{}");
    RUN_UNTIL(seen_count == 1);
    submit(&second, "/v2/abc/run", "k-1", "{}");
    for (unsigned asked = 2; asked < 22; asked++) {
        RUN_UNTIL(asked_store[STORE_CLAIM_SUBMIT] == asked);
        store_is_idle();
        cr_assert_eq(answer_status(&second), 0, "after %u00 ms", asked - 2);
        pass(100);
    }
    EXPECT_PROBLEM(&second, 409, "idempotency_in_flight");
    cr_assert(caller_has(&second, "Retry-After: 1\r\n"));
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    EXPECT_ANSWER(&caller, 200);
    cr_assert_eq(seen_count, 1);
}

Test(ledger, lets_a_waiting_caller_go)
{
    upstream_holds();
    submit(&caller, "/v2/abc/run", "k-1", "{}");
    RUN_UNTIL(seen_count == 1);
    submit(&second, "/v2/abc/run", "k-1", "{}");
    RUN_UNTIL(asked_store[STORE_CLAIM_SUBMIT] == 2);
    store_is_idle();
    caller_hang_up(&second);
    RUN_UNTIL(front_connection_count(FRONT) == 1);
    pass(100);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 1);
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    EXPECT_ANSWER(&caller, 200);
}

Test(ledger, never_sends_what_is_unknown_again)
{
    upstream_holds();
    submit(&caller, "/v2/abc/run", "k-1", "{}");
    RUN_UNTIL(seen_count == 1);
    peer_reset(asked_by[0]);
    EXPECT_PROBLEM(&caller, 502, "submit_unknown");
    all_is_written();
    submit(&second, "/v2/abc/run", "k-1", "{}");
    EXPECT_PROBLEM(&second, 502, "submit_unknown");
    cr_assert(caller_has(&second, "It is not sent again."));
    cr_assert_eq(seen_count, 1);
    /* Unless its caller takes the risk. */
    caller_clear(&second);
    upstream_says("200 OK", QUEUED("j-2"));
    ask(&second, "POST", "/v2/abc/run",
        "Idempotency-Key: k-1\r\nPodgate-Resubmit: accept-duplicate\r\n", "{}");
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(seen_count, 2);
    cr_assert_eq(unknown_submits(), 1);
}

Test(ledger, frees_the_key_of_a_submit_that_was_refused)
{
    upstream_says("429 Too Many Requests", "{\"error\":\"slow down\"}");
    submit(&caller, "/v2/abc/run", "k-1", "{}");
    EXPECT_ANSWER(&caller, 429);
    all_is_written();
    upstream_says("200 OK", QUEUED("j-1"));
    submit(&second, "/v2/abc/run", "k-1", "{}");
    EXPECT_ANSWER(&second, 200);
    cr_assert_not(caller_has(&second, "Idempotency-Replayed"));
    cr_assert_eq(seen_count, 2);
}

Test(ledger, frees_the_key_of_a_submit_that_found_no_connection)
{
    peer_stop_listening(&peer);
    submit(&caller, "/v2/abc/run", "k-1", "{}");
    EXPECT_PROBLEM(&caller, 502, "upstream_unreachable");
    all_is_written();
    submit(&second, "/v2/abc/run", "k-1", "{}");
    EXPECT_PROBLEM(&second, 502, "upstream_unreachable");
    all_is_written();
    cr_assert_eq(unknown_submits(), 0);
}

Test(ledger, answers_a_repeated_runsync_with_the_result)
{
    static const char result[] = "{\"id\":\"s-1\",\"status\":\"COMPLETED\",\"output\":[1,2]}";

    upstream_says("200 OK", "{\"id\":\"s-1\",\"status\":\"IN_PROGRESS\"}");
    submit(&caller, "/v2/abc/runsync", "k-1", "{}");
    EXPECT_ANSWER(&caller, 200);
    upstream_says("200 OK", result);
    submit(&second, "/v2/abc/runsync", "k-1", "{}");
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), result);
    cr_assert(caller_has(&second, "Idempotency-Replayed: true\r\n"));
    cr_assert_eq(seen_count, 2);
    expect_asked(1, "GET /v2/abc/status/s-1 HTTP/1.1\r\n");
}

/* ---- the store fails */

Test(ledger, sends_nothing_when_the_store_takes_nothing)
{
    static const enum store_state states_of_store[] = {STORE_STATE_FULL, STORE_STATE_AWAY};

    for (size_t i = 0; i < ARRAY_LENGTH(states_of_store); i++) {
        store_is(states_of_store[i]);
        post(&caller, "/v2/abc/run", "{}");
        EXPECT_PROBLEM(&caller, 503, "store_unavailable");
        cr_assert(caller_has(&caller, "Podgate-Degraded: store\r\n"));
        caller_clear(&caller);
    }
    cr_assert_eq(peer.accepted, 0);
}

Test(ledger, spools_what_has_no_key_and_refuses_what_has_one)
{
    store_is(STORE_STATE_SPOOLING);
    upstream_says("200 OK", QUEUED("j-1"));
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "Podgate-Degraded: store\r\n"));
    submit(&second, "/v2/abc/run", "k-1", "{}");
    EXPECT_PROBLEM(&second, 503, "store_unavailable");
    cr_assert_eq(seen_count, 1);
}

Test(ledger, sends_nothing_that_could_not_be_marked)
{
    store_fails(STORE_MARK_SENT, STORE_TIMED_OUT); /* it may be written */
    submit(&caller, "/v2/abc/run", "k-1", "{}");
    EXPECT_PROBLEM(&caller, 503, "store_unavailable");
    all_is_written();
    cr_assert_eq(peer.accepted, 0);
    /* It was provably not sent, so that the key is free. */
    store_fails(STORE_MARK_SENT, STORE_OK);
    upstream_says("200 OK", QUEUED("j-1"));
    submit(&second, "/v2/abc/run", "k-1", "{}");
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(unknown_submits(), 0);
}

Test(ledger, tells_the_caller_of_a_job_that_could_not_be_written_and_goes_on_trying)
{
    upstream_says("200 OK", QUEUED("j-1"));
    store_fails(STORE_SETTLE_SUBMIT, STORE_FULL);
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), QUEUED("j-1"));
    cr_assert(caller_has(&caller, "Podgate-Warning: not-recorded\r\n"));
    cr_assert_eq(count_of(METRIC_SUBMITS, METRIC_SUBMIT_NOT_RECORDED), 1);
    cr_assert_eq(ledger_unrecorded(GATEWAY->ledger), 1);
    cr_assert(ledger_holds(&shared, VIEW("abc"), VIEW("j-1"), VIEW("t")));
    cr_assert_not(ledger_holds(&shared, VIEW("abc"), VIEW("j-1"), VIEW("other")));
    cr_assert_eq(look_for("j-1"), STORE_ABSENT);
    for (unsigned tries = 2; tries < 6; tries++) {
        pass(5000);
        RUN_UNTIL(asked_store[STORE_SETTLE_SUBMIT] == tries);
        store_is_idle();
    }
    store_fails(STORE_SETTLE_SUBMIT, STORE_OK);
    pass(5000);
    all_is_written();
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_not(ledger_holds(&shared, VIEW("abc"), VIEW("j-1"), VIEW("t")));
    cr_assert_eq(seen_count, 1);
    cr_assert_not_null(strstr(end_gateways(), "event=submit_not_recorded"));
}

Test(ledger, names_what_it_could_not_write_when_the_process_ends)
{
    upstream_says("200 OK", QUEUED("j-1"));
    store_fails(STORE_SETTLE_SUBMIT, STORE_AWAY);
    post(&caller, "/v2/abc/run", "{}");
    EXPECT_ANSWER(&caller, 200);
    caller_hang_up(&caller);
    caller_hang_up(&second);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_not_null(strstr(end_gateways(), "event=submit_record_lost"));
}

/* ---- runsync = "durable" */

static void set_up_durable(void)
{
    set_up_with("endpoint \"abc\" { runsync = \"durable\" }");
}

TestSuite(durable, .init = set_up_durable, .fini = tear_down_ledger, .timeout = 60);

Test(durable, submits_by_run_and_waits_for_the_result)
{
    static const char result[] = "{\"id\":\"j-1\",\"status\":\"COMPLETED\",\"output\":7}";

    upstream_holds();
    post(&caller, "/v2/abc/runsync?wait=20000", "{\"input\":1}");
    RUN_UNTIL(seen_count == 1);
    expect_asked(0, "POST /v2/abc/run HTTP/1.1\r\n");
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    RUN_UNTIL(seen_count == 2);
    expect_asked(1, "GET /v2/abc/status/j-1 HTTP/1.1\r\n");
    cr_assert_eq(answer_status(&caller), 0);
    upstream_answers(1, "200 OK", result);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), result);
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_eq(found.kind, STORE_KIND_RUN);
    cr_assert_eq(found.state, JOB_COMPLETED);
}

Test(durable, has_the_job_when_its_caller_leaves)
{
    upstream_holds();
    post(&caller, "/v2/abc/runsync", "{\"input\":1}");
    RUN_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 1);
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(look_for("j-1"), STORE_OK);
    cr_assert_eq(seen_count, 1);
}

Test(durable, lets_a_caller_go_that_leaves_while_it_waits)
{
    upstream_holds();
    post(&caller, "/v2/abc/runsync", "{\"input\":1}");
    RUN_UNTIL(seen_count == 1);
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    RUN_UNTIL(seen_count == 2);
    caller_hang_up(&caller);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    cr_assert_eq(look_for("j-1"), STORE_OK);
}

Test(durable, refuses_a_wait_that_upstream_would_refuse)
{
    post(&caller, "/v2/abc/runsync?wait=999", "{}");
    EXPECT_PROBLEM(&caller, 400, "bad_wait");
    caller_clear(&caller);
    post(&caller, "/v2/abc/runsync?wait=300001", "{}");
    EXPECT_PROBLEM(&caller, 400, "bad_wait");
    cr_assert_eq(seen_count, 0);
}

/* ---- dedupe = "input" */

static void set_up_dedupe(void)
{
    set_up_with("endpoint \"abc\" { dedupe = \"input\" }");
}

TestSuite(dedupe, .init = set_up_dedupe, .fini = tear_down_ledger, .timeout = 60);

Test(dedupe, joins_the_job_that_has_the_same_input)
{
    upstream_says("200 OK", QUEUED("j-1"));
    post(&caller, "/v2/abc/run", "{\"input\":{\"n\": 1},\"policy\":{\"ttl\":10000}}");
    EXPECT_ANSWER(&caller, 200);
    upstream_says("200 OK", QUEUED("j-2"));
    post(&second, "/v2/abc/run", "{\"input\":{\"n\": 1}}");
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), QUEUED("j-1"));
    cr_assert(caller_has(&second, "Cache-Status: podgate; hit\r\n"));
    cr_assert_eq(count_of(METRIC_SUBMITS, METRIC_SUBMIT_DEDUPLICATED), 1);
    /* Other bytes are another input. */
    caller_clear(&second);
    post(&second, "/v2/abc/run", "{\"input\":{\"n\":1}}");
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), QUEUED("j-2"));
    cr_assert_eq(seen_count, 2);
}

Test(dedupe, makes_one_submit_of_two_at_the_same_moment)
{
    upstream_holds();
    post(&caller, "/v2/abc/run", "{\"input\":1}");
    RUN_UNTIL(seen_count == 1);
    post(&second, "/v2/abc/run", "{\"input\":1}");
    RUN_UNTIL(asked_store[STORE_CLAIM_SUBMIT] == 2);
    store_is_idle();
    upstream_answers(0, "200 OK", QUEUED("j-1"));
    EXPECT_ANSWER(&caller, 200);
    store_is_idle();
    pass(250);
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), QUEUED("j-1"));
    cr_assert_not(caller_has(&second, "Idempotency-Replayed"));
    cr_assert_eq(seen_count, 1);
}

Test(dedupe, submits_again_what_has_failed)
{
    upstream_says("200 OK", "{\"id\":\"s-1\",\"status\":\"FAILED\",\"error\":\"x\"}");
    post(&caller, "/v2/abc/runsync", "{\"input\":1}");
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    upstream_says("200 OK", "{\"id\":\"s-2\",\"status\":\"FAILED\",\"error\":\"x\"}");
    post(&caller, "/v2/abc/runsync", "{\"input\":1}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "s-2"));
    caller_clear(&caller);
    upstream_says("200 OK", "{\"id\":\"s-3\",\"status\":\"COMPLETED\",\"output\":3}");
    post(&caller, "/v2/abc/runsync", "{\"input\":1}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "s-3"));
    caller_clear(&caller);
    post(&caller, "/v2/abc/runsync", "{\"input\":1}");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "s-3"));
    cr_assert_eq(seen_count, 3);
}

Test(dedupe, leaves_jobs_alone_that_tell_somebody_else)
{
    static const char *const bodies[] = {
        "{\"input\":1,\"webhook\":\"https://a.example/\"}",
        "{\"input\":1,\"webhookV2\":\"https://a.example/\"}",
        "{\"input\":1,\"s3Config\":{}}",
    };
    char answer[64];
    unsigned number = 0;

    for (size_t i = 0; i < ARRAY_LENGTH(bodies); i++) {
        for (int again = 0; again < 2; again++) {
            snprintf(answer, sizeof answer, "{\"id\":\"j-%u\",\"status\":\"IN_QUEUE\"}", number++);
            upstream_says("200 OK", answer);
            post(&caller, "/v2/abc/run", bodies[i]);
            EXPECT_ANSWER(&caller, 200);
            cr_assert_str_eq(answer_body(&caller), answer);
            caller_clear(&caller);
        }
    }
    cr_assert_eq(seen_count, 6);
}
