#include "build_config.h"

#include "gateway_fixture.h"

/* Shared upstream requests: who shares, for how long, and what is forgotten when. */

static struct caller caller;
static struct caller second;
static struct caller third;

static void enter_jobs(void)
{
    enter_job("abc", "j");
    enter_job("abc", "k");
    enter_job("abc", "health");
    enter_job("abd", "j");
}

static void set_up_callers(void)
{
    set_up_gateway();
    enter_jobs();
    caller_open(&caller, FRONT);
    caller_open(&second, FRONT);
    caller_open(&third, FRONT);
}

static void tear_down_callers(void)
{
    caller_close(&caller);
    caller_close(&second);
    caller_close(&third);
    tear_down_gateway();
}

TestSuite(flight, .init = set_up_callers, .fini = tear_down_callers, .timeout = 60);

#define STATUS "/v2/abc/status/j"
#define RUNNING "{\"id\":\"j\",\"status\":\"IN_PROGRESS\"}"
#define FAILED "{\"id\":\"j\",\"status\":\"FAILED\"}"
#define QUEUED "{\"id\":\"j\",\"status\":\"IN_QUEUE\"}"
#define CANCELLED "{\"id\":\"j\",\"status\":\"CANCELLED\"}"
#define DONE "{\"id\":\"j\",\"status\":\"COMPLETED\",\"output\":1}"

/* ---- sharing */

Test(flight, callers_of_one_job_share_one_request)
{
    upstream_holds();
    get(&caller, STATUS);
    get(&second, STATUS);
    get(&third, STATUS);
    RUN_UNTIL(seen_count == 1);
    settle();
    cr_assert_eq(seen_count, 1);
    upstream_answers(0, "200 OK", RUNNING);
    EXPECT_ANSWER(&caller, 200);
    EXPECT_ANSWER(&second, 200);
    EXPECT_ANSWER(&third, 200);
    cr_assert(caller_has(&caller, "Cache-Status: podgate; fwd=miss\r\n"));
    cr_assert(caller_has(&second, "Cache-Status: podgate; fwd=miss; collapsed\r\n"));
    cr_assert_str_eq(answer_body(&third), RUNNING);
    cr_assert_eq(count_of(METRIC_SHARED_ANSWERS, ROUTE_STATUS), 2);
    cr_assert_eq(atomic_load(&config->keys[0].state->in_flight), 0);
}

Test(flight, other_jobs_and_other_endpoints_do_not_share)
{
    upstream_holds();
    get(&caller, STATUS);
    get(&second, "/v2/abc/status/k");
    get(&third, "/v2/abd/status/j");
    RUN_UNTIL(seen_count == 3);
}

Test(flight, health_is_not_taken_for_a_job)
{
    upstream_holds();
    get(&caller, "/v2/abc/health");
    get(&second, "/v2/abc/status/health");
    RUN_UNTIL(seen_count == 2);
    expect_asked(0, "GET /v2/abc/health HTTP/1.1\r\n");
    expect_asked(1, "GET /v2/abc/status/health HTTP/1.1\r\n");
}

Test(flight, a_failure_is_told_to_all)
{
    upstream_holds();
    get(&caller, STATUS);
    get(&second, STATUS);
    RUN_UNTIL(seen_count == 1);
    pass(8500);
    EXPECT_PROBLEM(&caller, 504, "upstream_timeout");
    EXPECT_PROBLEM(&second, 504, "upstream_timeout");
}

Test(flight, goes_on_for_who_is_left_when_the_first_caller_leaves)
{
    upstream_holds();
    get(&caller, STATUS);
    get(&second, STATUS);
    RUN_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(FRONT) == 2);
    upstream_answers(0, "200 OK", RUNNING);
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(seen_count, 1);
}

/* ---- freshness */

Test(flight, an_answer_serves_for_half_a_second)
{
    upstream_says("200 OK", RUNNING);
    get(&caller, STATUS);
    EXPECT_ANSWER(&caller, 200);
    pass(400);
    get(&second, STATUS);
    EXPECT_ANSWER(&second, 200);
    cr_assert(caller_has(&second, "Cache-Status: podgate; hit; ttl=0\r\n"));
    cr_assert(caller_has(&second, "Age: 0\r\n"));
    cr_assert_eq(seen_count, 1);
    pass(200);
    get(&third, STATUS);
    EXPECT_ANSWER(&third, 200);
    cr_assert_eq(seen_count, 2, "an old answer was served");
}

Test(flight, an_error_is_never_served_again)
{
    upstream_says("400 Bad Request", "{\"error\":\"no\"}");
    get(&caller, STATUS);
    EXPECT_ANSWER(&caller, 400);
    upstream_says("200 OK", RUNNING);
    get(&second, STATUS);
    EXPECT_ANSWER(&second, 200);
    cr_assert_eq(seen_count, 2);
}

Test(flight, a_status_with_ttl_is_not_shared)
{
    unsigned with_ttl = 0;

    upstream_says("200 OK", RUNNING);
    get(&caller, STATUS "?ttl=60000");
    get(&second, STATUS "?ttl=60000");
    EXPECT_ANSWER(&caller, 200);
    EXPECT_ANSWER(&second, 200);
    for (unsigned i = 0; i < seen_count; i++) {
        with_ttl += strncmp(seen[i], "GET /v2/abc/status/j?ttl=60000 ", 31) == 0;
    }
    cr_assert_eq(with_ttl, 2);
}

/* ---- what cancel and retry change */

static void expect_forgotten_after(const char *target, const char *before, const char *after)
{
    upstream_says("200 OK", before);
    get(&caller, STATUS);
    EXPECT_ANSWER(&caller, 200);
    caller_clear(&caller);
    upstream_says("200 OK", after);
    post(&caller, target, NULL);
    EXPECT_ANSWER(&caller, 200);
    get(&second, STATUS);
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), after, "what was known before %s is still served",
                     target);
}

Test(flight, a_cancel_makes_it_forget)
{
    expect_forgotten_after("/v2/abc/cancel/j", RUNNING, CANCELLED);
}

Test(flight, a_retry_makes_it_forget)
{
    expect_forgotten_after("/v2/abc/retry/j", FAILED, QUEUED);
}

/* The request that was on its way when the job changed may bring the state from before. */
static void cancel_while_a_status_is_on_its_way(void)
{
    upstream_holds();
    get(&caller, STATUS);
    RUN_UNTIL(seen_count == 1);
    post(&second, "/v2/abc/cancel/j", NULL);
    RUN_UNTIL(seen_count == 2);
    upstream_answers(1, "200 OK", "{\"id\":\"j\",\"status\":\"CANCELLED\"}");
    EXPECT_ANSWER(&second, 200);
    caller_clear(&second);
}

Test(flight, what_was_on_its_way_at_a_cancel_is_told_to_nobody_and_asked_again)
{
    cancel_while_a_status_is_on_its_way();
    get(&second, STATUS);
    settle();
    upstream_answers(0, "200 OK", RUNNING);
    RUN_UNTIL(seen_count == 3);
    cr_assert_eq(answer_status(&second), 0, "told the state from before: %s", second.received);
    cr_assert_eq(answer_status(&caller), 0, "told the state from before: %s", caller.received);
    upstream_answers(2, "200 OK", DONE);
    EXPECT_ANSWER(&second, 200);
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&second), DONE);
    cr_assert_str_eq(answer_body(&caller), DONE);
    get(&third, STATUS);
    EXPECT_ANSWER(&third, 200);
    cr_assert_eq(seen_count, 3, "what was asked after the cancel is as fresh as any");
}

Test(flight, a_failure_on_its_way_at_a_cancel_is_told)
{
    cancel_while_a_status_is_on_its_way();
    peer_reset(asked_by[0]);
    RUN_UNTIL(seen_count == 3); /* a read is sent again once */
    peer_reset(asked_by[2]);
    EXPECT_PROBLEM(&caller, 502, "upstream_broken");
}

Test(flight, who_waits_for_the_end_after_a_retry_is_not_told_the_end_from_before)
{
    upstream_says("200 OK", FAILED);
    get(&caller, STATUS);
    EXPECT_ANSWER(&caller, 200);
    upstream_says("200 OK", QUEUED);
    post(&second, "/v2/abc/retry/j", NULL);
    EXPECT_ANSWER(&second, 200);
    caller_clear(&second);
    get(&second, "/v2/abc/status-sync/j");
    settle();
    pass(600);
    RUN_UNTIL(seen_count == 3);
    settle();
    cr_assert_eq(answer_status(&second), 0, "told the end from before: %s", second.received);
    upstream_says("200 OK", DONE);
    pass(600);
    EXPECT_ANSWER(&second, 200);
    cr_assert_str_eq(answer_body(&second), DONE);
}

/* ---- two workers */

static void set_up_two(void)
{
    set_up_peer();
    open_gateways(2, "", ALL_OPERATIONS, "");
    enter_jobs();
    upstream_holds();
}

TestSuite(flight_mail, .init = set_up_two, .fini = tear_down_callers, .timeout = 60);

/* The worker that owns the job, and one that does not. */
static size_t owner(void)
{
    return table_hash(VIEW("abc/j")) % 2;
}

static void open_foreign(struct caller *each)
{
    caller_open(each, sides[1 - owner()].front);
}

static void open_own(struct caller *each)
{
    caller_open(each, sides[owner()].front);
}

#define EXPECT_BOTH(caller, expected, body)                                                        \
    do {                                                                                           \
        RUN_BOTH_UNTIL(answer_status(caller) != 0);                                                \
        cr_assert_eq(answer_status(caller), expected, "answer: %s", (caller)->received);           \
        cr_assert_str_eq(answer_body(caller), body);                                               \
    } while (0)

Test(flight_mail, callers_on_two_workers_share_one_request)
{
    open_foreign(&caller);
    open_own(&second);
    get(&caller, STATUS);
    RUN_BOTH_UNTIL(seen_count == 1);
    get(&second, STATUS);
    settle_both();
    upstream_answers(0, "200 OK", RUNNING);
    EXPECT_BOTH(&caller, 200, RUNNING);
    EXPECT_BOTH(&second, 200, RUNNING);
    cr_assert_eq(seen_count, 1);
    caller_clear(&caller);
    get(&caller, STATUS);
    EXPECT_BOTH(&caller, 200, RUNNING);
    cr_assert(caller_has(&caller, "Cache-Status: podgate; hit; ttl=0\r\n"));
    cr_assert_eq(seen_count, 1, "a fresh answer of another worker's was not used");
}

Test(flight_mail, a_foreign_caller_who_leaves_is_taken_off)
{
    open_foreign(&caller);
    get(&caller, "/v2/abc/status-sync/j?wait=60000");
    RUN_BOTH_UNTIL(seen_count == 1);
    caller_hang_up(&caller);
    settle_both();
    cr_assert_eq(count_of(METRIC_WAITING_CALLERS, 0), 0);
    upstream_answers(0, "200 OK", RUNNING);
    settle_both();
    for (unsigned i = 0; i < 5; i++) {
        pass(600);
    }
    cr_assert_eq(seen_count, 1, "the flight polls for nobody");
}

Test(flight_mail, an_answer_for_a_foreign_caller_who_just_left_is_dropped)
{
    open_foreign(&caller);
    get(&caller, STATUS);
    RUN_BOTH_UNTIL(seen_count == 1);
    upstream_answers(0, "200 OK", RUNNING);
    /* The owner's answer and the caller's leave letter cross. */
    for (int i = 0; i < 40; i++) {
        event_base_loop(loop_base(sides[owner()].gateway.loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
    }
    caller_hang_up(&caller);
    settle_both();
    cr_assert_eq(request_pool_running(sides[0].gateway.requests), 0);
    cr_assert_eq(request_pool_running(sides[1].gateway.requests), 0);
}

Test(flight_mail, a_cancel_on_another_worker_makes_the_owner_forget)
{
    open_own(&caller);
    open_foreign(&second);
    get(&caller, STATUS);
    RUN_BOTH_UNTIL(seen_count == 1);
    upstream_answers(0, "200 OK", RUNNING);
    EXPECT_BOTH(&caller, 200, RUNNING);
    post(&second, "/v2/abc/cancel/j", NULL);
    RUN_BOTH_UNTIL(seen_count == 2);
    upstream_answers(1, "200 OK", DONE);
    EXPECT_BOTH(&second, 200, DONE);
    caller_clear(&caller);
    get(&caller, STATUS);
    RUN_BOTH_UNTIL(seen_count == 3);
    upstream_answers(2, "200 OK", DONE);
    EXPECT_BOTH(&caller, 200, DONE);
}

Test(flight_mail, while_the_letter_is_in_the_mail_nothing_known_counts_as_fresh)
{
    struct gateway *own;
    struct gateway *foreign;
    struct route route;

    own = &sides[owner()].gateway;
    foreign = &sides[1 - owner()].gateway;
    open_own(&caller);
    get(&caller, STATUS);
    RUN_BOTH_UNTIL(seen_count == 1);
    upstream_answers(0, "200 OK", RUNNING);
    EXPECT_BOTH(&caller, 200, RUNNING);
    caller_clear(&caller);
    cr_assert_eq(route_parse(VIEW("/v2/abc/cancel/j"), &route), ROUTE_OK);
    flight_forget(foreign, &route); /* its letter waits, since no loop turns meanwhile */
    {
        bool joined = false;
        struct flight_question question = {
            .handle = {.generation = 77}, .route = &route, .team = VIEW_INIT("t"), .fresh_ms = 500};
        struct flight_answer *fresh;

        route.operation = ROUTE_STATUS;
        fresh = flight_join(own, &question, &joined);
        cr_assert_null(fresh, "an answer from before the change counts as fresh");
        cr_assert(joined);
        flight_leave(own, question.handle, &route);
    }
    RUN_BOTH_UNTIL(seen_count == 2);
}
