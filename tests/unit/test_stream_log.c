#include "build_config.h"

#include "gateway_fixture.h"

#include "base/fault.h"
#include "store/store_backend.h"

/* /stream as its callers see it, over an upstream that hands out each chunk once. */

#define STREAM "/v2/abc/stream/j"

static struct caller caller;
static struct caller second;
static char second_key[KEY_LENGTH_MAXIMUM + 1];

static void make_second_key(char hex[2 * KEY_HASH_LENGTH + 1])
{
    uint8_t hash[KEY_HASH_LENGTH];
    size_t length;
    struct key_hasher *hasher = key_hasher_create();

    cr_assert(key_generate(VIEW("two"), second_key, &length));
    cr_assert(key_hash(hasher, view_make(second_key, length), hash));
    key_hasher_destroy(hasher);
    for (size_t i = 0; i < sizeof hash; i++) {
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    }
}

static void open_with(size_t count, const char *options)
{
    char hex[2 * KEY_HASH_LENGTH + 1];
    char *key_options = NULL;

    set_up_peer();
    make_second_key(hex);
    cr_assert_gt(asprintf(&key_options, ALL_OPERATIONS "} key \"two\" { sha256 = \"%s\" %s", hex,
                          ALL_OPERATIONS),
                 0);
    open_gateways(count, "", key_options, options);
    free(key_options);
    caller_open(&caller, FRONT);
    caller_open(&second, FRONT);
}

static void set_up_stream(void)
{
    open_with(1, "");
    enter_job("abc", "j");
}

static void tear_down_stream(void)
{
    const char *problem;

    caller_close(&caller);
    caller_close(&second);
    cr_assert(fault_load(NULL, &problem));
    tear_down_gateway();
}

TestSuite(stream_log, .init = set_up_stream, .fini = tear_down_stream, .timeout = 120);

/* ---- the upstream */

static unsigned stream_requests(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < seen_count; i++) {
        count += strncmp(seen[i], "GET /v2/abc/stream/", 19) == 0;
    }
    return count;
}

/* Where among all requests the stream's request `number` (from 0) stands. */
static unsigned stream_request(unsigned number)
{
    for (unsigned i = 0; i < seen_count; i++) {
        if (strncmp(seen[i], "GET /v2/abc/stream/", 19) == 0 && number-- == 0) {
            return i;
        }
    }
    cr_assert_fail("the upstream's stream was not asked so often");
    return 0;
}

static unsigned answered;

/* Lets time pass, but not while the store works, whose thread knows nothing of the test's time. */
static void pass_unless_store_works(uint64_t ms)
{
    if (GATEWAY->store->running == 0) {
        pass(ms);
    }
    step();
}

static void wait_for_stream_request(void)
{
    uint64_t limit_ms = clock_real_ms() + 30000;

    while (stream_requests() <= answered) {
        cr_assert(clock_real_ms() < limit_ms, "upstream was not asked a %uth time", answered);
        pass_unless_store_works(20);
    }
}

/* Waits for the next request for the stream and answers it. */
static void stream_says(const char *body)
{
    wait_for_stream_request();
    upstream_answers(stream_request(answered++), "200 OK", body);
}

#define ONE(n) "{\"output\":{\"n\": " #n "}}"
#define RUNS(chunks) "{\"status\":\"IN_PROGRESS\",\"stream\":[" chunks "]}"
#define ENDS(chunks) "{\"status\":\"COMPLETED\",\"stream\":[" chunks "]}"

#define EXPECT_STREAM(caller, expected)                                                            \
    do {                                                                                           \
        EXPECT_ANSWER(caller, 200);                                                                \
        cr_assert_str_eq(answer_body(caller), expected);                                           \
        caller_clear(caller);                                                                      \
    } while (0)

static void get_with(struct caller *with, const char *key, const char *target)
{
    char *text = NULL;

    cr_assert_gt(asprintf(&text, "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n\r\n",
                          target, key),
                 0);
    caller_send(with, text);
    free(text);
}

/* ---- each chunk once */

Test(stream_log, hands_on_the_elements_as_upstream_wrote_them)
{
    get(&caller, STREAM);
    stream_says("{ \"status\" : \"IN_PROGRESS\" ,\"stream\" : [ {\"output\" : 9007199254740993, "
                "\"m\":NaN} ,{\"output\":\"\\u00e9\"}\n] }");
    EXPECT_STREAM(&caller, "{\"status\":\"IN_PROGRESS\",\"stream\":[{\"output\" : "
                           "9007199254740993, \"m\":NaN},{\"output\":\"\\u00e9\"}]}");
    expect_asked(stream_request(0), "GET /v2/abc/stream/j?wait=5000 HTTP/1.1\r\n");
}

Test(stream_log, gives_a_key_each_chunk_once_and_in_order)
{
    get(&caller, STREAM);
    stream_says(RUNS(ONE(0) "," ONE(1)));
    EXPECT_STREAM(&caller, RUNS(ONE(0) "," ONE(1)));
    get(&caller, STREAM);
    stream_says(RUNS(ONE(2)));
    EXPECT_STREAM(&caller, RUNS(ONE(2)));
    cr_assert_eq(count_of(METRIC_CHUNKS, METRIC_CHUNK_STORED), 3);
    RUN_UNTIL(count_of(METRIC_CHUNKS, METRIC_CHUNK_DELIVERED) == 2);
}

Test(stream_log, another_connection_of_the_same_key_goes_on_where_the_last_ended)
{
    get(&caller, STREAM);
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
    get(&second, STREAM);
    stream_says(RUNS(ONE(1)));
    EXPECT_STREAM(&second, RUNS(ONE(1)));
}

Test(stream_log, two_polls_of_one_key_at_once_share_the_chunks)
{
    get(&caller, STREAM);
    get(&second, STREAM);
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
    stream_says(RUNS(ONE(1)));
    EXPECT_STREAM(&second, RUNS(ONE(1)));
}

Test(stream_log, gives_each_key_all_chunks)
{
    get(&caller, STREAM);
    get_with(&second, second_key, STREAM);
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
    EXPECT_STREAM(&second, RUNS(ONE(0)));
    cr_assert_eq(stream_requests(), 1, "one reader");
}

Test(stream_log, asks_upstream_once_at_a_time_however_many_wait)
{
    get(&caller, STREAM "?from=0");
    get(&second, STREAM "?from=0");
    RUN_UNTIL(stream_requests() == 1);
    pass(2000);
    cr_assert_eq(stream_requests(), 1);
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
    EXPECT_STREAM(&second, RUNS(ONE(0)));
}

/* ---- put back */

Test(stream_log, gives_again_what_a_caller_did_not_read_whole)
{
    struct caller leaving;
    char part[40];

    caller_open_tcp(&leaving, FRONT, &plain_address);
    get(&leaving, STREAM);
    stream_says(RUNS(ONE(0)));
    RUN_UNTIL(recv(leaving.descriptor, part, sizeof part, 0) == sizeof part);
    caller_close(&leaving);
    get(&caller, STREAM);
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
}

Test(stream_log, does_not_give_again_what_was_read_before_the_connection_closed)
{
    struct caller leaving;

    caller_open_tcp(&leaving, FRONT, &plain_address);
    get(&leaving, STREAM);
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&leaving, RUNS(ONE(0)));
    caller_close(&leaving);
    get(&caller, STREAM);
    stream_says(RUNS(ONE(1)));
    EXPECT_STREAM(&caller, RUNS(ONE(1)));
}

Test(stream_log, knows_so_too_when_the_answer_closes_the_connection)
{
    struct caller leaving;
    char part[40];

    caller_open_tcp(&leaving, FRONT, &plain_address);
    ask(&leaving, "GET", STREAM, "Connection: close\r\n", NULL);
    stream_says(RUNS(ONE(0)));
    RUN_UNTIL(recv(leaving.descriptor, part, sizeof part, 0) == sizeof part);
    caller_close(&leaving);
    caller_open_tcp(&leaving, FRONT, &plain_address);
    ask(&leaving, "GET", STREAM, "Connection: close\r\n", NULL);
    EXPECT_STREAM(&leaving, RUNS(ONE(0)));
    RUN_UNTIL(caller_is_over(&leaving));
    cr_assert_not(leaving.broken);
    caller_close(&leaving);
    get(&caller, STREAM);
    stream_says(RUNS(ONE(1)));
    EXPECT_STREAM(&caller, RUNS(ONE(1)));
}

Test(stream_log, keeps_chunks_that_come_when_the_caller_has_left)
{
    get(&caller, STREAM);
    RUN_UNTIL(stream_requests() == 1);
    caller_hang_up(&caller);
    settle();
    stream_says(RUNS(ONE(0)));
    get(&second, STREAM);
    EXPECT_STREAM(&second, RUNS(ONE(0)));
}

Test(stream_log, gives_the_gap_first_and_then_what_follows)
{
    struct caller leaving;
    char part[40];

    caller_open_tcp(&leaving, FRONT, &plain_address);
    get(&leaving, STREAM);
    stream_says(RUNS(ONE(0) "," ONE(1)));
    RUN_UNTIL(recv(leaving.descriptor, part, sizeof part, 0) == sizeof part);
    get(&caller, STREAM); /* as long as the other one may be read, this gets what follows */
    stream_says(RUNS(ONE(2)));
    EXPECT_STREAM(&caller, RUNS(ONE(2)));
    caller_close(&leaving);
    settle();
    get(&caller, STREAM);
    EXPECT_STREAM(&caller, RUNS(ONE(0) "," ONE(1)));
    get(&caller, STREAM);
    stream_says(RUNS(ONE(3)));
    EXPECT_STREAM(&caller, RUNS(ONE(3)));
}

Test(stream_log, goes_on_from_the_store_when_nothing_is_in_memory)
{
    get(&caller, STREAM);
    stream_says(RUNS(ONE(0) "," ONE(1)));
    EXPECT_STREAM(&caller, RUNS(ONE(0) "," ONE(1)));
    caller_hang_up(&caller);
    settle();
    pass(40000); /* nobody wants it any more: its reader ends */
    pass(40000);
    caller_close(&second);
    caller_open(&second, FRONT);
    get(&second, STREAM);
    stream_says(RUNS(ONE(2)));
    EXPECT_STREAM(&second, RUNS(ONE(2)));
    get(&second, STREAM "?from=0");
    EXPECT_STREAM(&second, RUNS(ONE(0) "," ONE(1) "," ONE(2)));
}

/* ---- waiting */

Test(stream_log, holds_eight_seconds_without_wait_and_gives_up_no_request)
{
    get(&caller, STREAM);
    RUN_UNTIL(stream_requests() == 1);
    pass(7900);
    cr_assert_eq(answer_status(&caller), 0);
    pass(200);
    EXPECT_STREAM(&caller, "{\"status\":\"IN_QUEUE\",\"stream\":[]}");
    settle();
    stream_says(RUNS(ONE(0)));
    get(&caller, STREAM);
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
}

Test(stream_log, holds_as_long_as_wait_says_within_its_bounds)
{
    get(&caller, STREAM "?wait=0");
    RUN_UNTIL(stream_requests() == 1);
    pass(900);
    cr_assert_eq(answer_status(&caller), 0);
    pass(200);
    EXPECT_STREAM(&caller, "{\"status\":\"IN_QUEUE\",\"stream\":[]}");
    get(&caller, STREAM "?wait=20000");
    stream_says(RUNS(""));
    pass(15000);
    stream_says(RUNS(""));
    cr_assert_eq(answer_status(&caller), 0);
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
}

Test(stream_log, asks_an_upstream_that_does_not_wait_twice_a_second)
{
    upstream_says("200 OK", RUNS(""));
    get(&caller, STREAM);
    for (unsigned i = 0; i < 78; i++) {
        pass_unless_store_works(100);
        step();
    }
    cr_assert_eq(answer_status(&caller), 0);
    cr_assert_leq(stream_requests(), 18);
    cr_assert_geq(stream_requests(), 8);
}

/* ---- the end */

Test(stream_log, lets_the_last_chunks_ride_with_the_end)
{
    get(&caller, STREAM);
    stream_says(ENDS(ONE(0)));
    stream_says(ENDS(""));
    EXPECT_STREAM(&caller, ENDS(ONE(0)));
    get(&caller, STREAM);
    EXPECT_STREAM(&caller, ENDS(""));
    cr_assert_eq(stream_requests(), 2, "it is known to be over");
}

Test(stream_log, says_in_progress_until_the_last_chunk_is_given)
{
    char *body = malloc(1 << 20);
    size_t length = (size_t)sprintf(body, "{\"status\":\"COMPLETED\",\"stream\":[");
    unsigned objects;

    for (unsigned i = 0; i < 250; i++) {
        length += (size_t)sprintf(body + length, "%s{\"output\":%u}", i ? "," : "", i);
    }
    sprintf(body + length, "]}");
    get(&caller, STREAM);
    stream_says(body);
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "\"IN_PROGRESS\""));
    objects = caller_count(&caller, "{\"output\":");
    cr_assert_eq(objects, 200);
    caller_clear(&caller);
    get(&caller, STREAM);
    stream_says(ENDS(""));
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "\"COMPLETED\""));
    cr_assert_eq(caller_count(&caller, "{\"output\":"), 50);
    cr_assert(caller_has(&caller, "[{\"output\":200}"));
    free(body);
}

Test(stream_log, has_the_result_fetched_when_the_stream_ends)
{
    get(&caller, STREAM);
    stream_says(ENDS(""));
    EXPECT_STREAM(&caller, ENDS(""));
    RUN_UNTIL(seen_count == 2);
    expect_asked(1, "GET /v2/abc/status/j HTTP/1.1\r\n");
}

#define CANCELLED "{\"status\":\"CANCELLED\",\"stream\":[]}"

Test(stream_log, says_cancelled_once_and_then_failed)
{
    get(&caller, STREAM);
    stream_says(CANCELLED);
    EXPECT_STREAM(&caller, CANCELLED);
    get(&caller, STREAM);
    EXPECT_STREAM(&caller, "{\"status\":\"FAILED\",\"stream\":[]}");
    get(&caller, STREAM "?from=0");
    EXPECT_STREAM(&caller, CANCELLED);
    get_with(&second, second_key, STREAM);
    EXPECT_STREAM(&second, CANCELLED);
}

static void set_up_faithful(void)
{
    open_with(1, "endpoint \"abc\" { stream_cancelled = \"faithful\" }");
    enter_job("abc", "j");
}

TestSuite(stream_faithful, .init = set_up_faithful, .fini = tear_down_stream, .timeout = 60);

Test(stream_faithful, says_cancelled_whenever_it_is_asked)
{
    get(&caller, STREAM);
    stream_says(CANCELLED);
    EXPECT_STREAM(&caller, CANCELLED);
    get(&caller, STREAM);
    EXPECT_STREAM(&caller, CANCELLED);
}

static void retry_job(void)
{
    struct store_question put = {
        .operation = STORE_PUT_RESULT,
        .endpoint = VIEW("abc"),
        .job = VIEW("j"),
        .generation = 1,
        .state = JOB_FAILED,
        .fate = STORE_FATE_NONE,
        .keep_ms = 100000,
        .execution_ms = UINT64_MAX,
        .delay_ms = UINT64_MAX,
    };
    struct store_question retry = {
        .operation = STORE_RETRY_JOB,
        .endpoint = VIEW("abc"),
        .job = VIEW("j"),
        .generation = 1,
        .due_ms = 60000,
        .deadline_ms = 1800000,
    };

    cr_assert_eq(ask_store(&put), STORE_OK);
    cr_assert_eq(ask_store(&retry), STORE_OK);
    streams_forget(GATEWAY, VIEW("abc"), VIEW("j"));
}

Test(stream_log, begins_anew_after_a_retry)
{
    get(&caller, STREAM);
    stream_says("{\"status\":\"FAILED\",\"stream\":[" ONE(0) "]}");
    stream_says("{\"status\":\"FAILED\",\"stream\":[]}");
    EXPECT_STREAM(&caller, "{\"status\":\"FAILED\",\"stream\":[" ONE(0) "]}");
    retry_job();
    get(&caller, STREAM);
    stream_says(RUNS(ONE(7)));
    EXPECT_STREAM(&caller, RUNS(ONE(7)));
    get(&second, STREAM "?from=0");
    EXPECT_STREAM(&second, RUNS(ONE(7)));
}

/* ---- replays */

Test(stream_log, replays_from_a_number_without_moving_the_cursor)
{
    get(&second, STREAM "?from=0");
    stream_says(RUNS(ONE(0) "," ONE(1)));
    EXPECT_STREAM(&second, RUNS(ONE(0) "," ONE(1)));
    get(&second, STREAM "?from=1");
    EXPECT_STREAM(&second, RUNS(ONE(1)));
    get(&second, STREAM);
    EXPECT_STREAM(&second, RUNS(ONE(0) "," ONE(1)));
    get(&second, STREAM "?from=2");
    stream_says(RUNS(ONE(2)));
    EXPECT_STREAM(&second, RUNS(ONE(2)));
}

/* ---- whose job */

Test(stream_log, another_teams_job_looks_like_none)
{
    char *unknown;

    enter_job_of("u", "abc", "other");
    get(&caller, "/v2/abc/stream/never");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    unknown = strdup(answer_body(&caller));
    caller_clear(&caller);
    get(&caller, "/v2/abc/stream/other");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    cr_assert_str_eq(answer_body(&caller), unknown);
    cr_assert_eq(seen_count, 0);
    free(unknown);
}

Test(stream_log, refuses_a_number_that_is_none)
{
    get(&caller, STREAM "?from=x");
    EXPECT_PROBLEM(&caller, 400, "bad_from");
    caller_clear(&caller);
    ask(&caller, "GET", STREAM, "Accept: text/event-stream\r\nLast-Event-ID: x\r\n", NULL);
    EXPECT_PROBLEM(&caller, 400, "bad_from");
}

/* ---- an upstream that fails */

static void fail_next(const char *raw)
{
    wait_for_stream_request();
    if (raw) {
        peer_send(asked_by[stream_request(answered)], raw);
    }
    peer_end(asked_by[stream_request(answered++)]);
}

Test(stream_log, tries_again_while_the_caller_waits)
{
    get(&caller, STREAM);
    fail_next("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    fail_next("HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n");
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
}

Test(stream_log, says_so_when_upstream_failed_all_the_time)
{
    upstream_says("500 Oops", "<html>");
    get(&caller, STREAM);
    RUN_UNTIL(stream_requests() == 1);
    for (unsigned i = 0; i < 90; i++) {
        pass_unless_store_works(100);
    }
    EXPECT_PROBLEM(&caller, 502, "upstream_error");
    cr_assert_geq(stream_requests(), 3);
}

Test(stream_log, keeps_what_came_whole_of_an_answer_that_broke_off)
{
    get(&caller, STREAM);
    fail_next("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
              "{\"status\":\"IN_PROGRESS\",\"stream\":[" ONE(0) "," ONE(1) ",{\"outp");
    EXPECT_STREAM(&caller, RUNS(ONE(0) "," ONE(1)));
    cr_assert_eq(count_of(METRIC_CHUNKS, METRIC_CHUNK_LOST), 1);
}

Test(stream_log, waits_for_a_job_that_upstream_does_not_know_yet)
{
    get(&caller, STREAM);
    RUN_UNTIL(stream_requests() == 1);
    upstream_answers(stream_request(answered++), "404 Not Found", "{\"title\":\"Not Found\"}");
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
}

#ifdef PODGATE_FAULTS

/* ---- a store that fails */

Test(stream_log, hands_on_what_it_can_not_write_and_writes_it_later)
{
    const char *problem;

    cr_assert(fault_load("stream.append=EIO", &problem));
    get(&caller, STREAM);
    stream_says(RUNS(ONE(0)));
    EXPECT_STREAM(&caller, RUNS(ONE(0)));
    cr_assert_eq(count_of(METRIC_CHUNKS, METRIC_CHUNK_STORED), 0);
    cr_assert(fault_load(NULL, &problem));
    pass(10000);
    RUN_UNTIL(count_of(METRIC_CHUNKS, METRIC_CHUNK_STORED) == 1);
    cr_assert_eq(count_of(METRIC_CHUNKS, METRIC_CHUNK_LOST), 0);
    get(&caller, STREAM);
    stream_says(RUNS(ONE(1)));
    EXPECT_STREAM(&caller, RUNS(ONE(1)));
}

#endif

/* ---- captured */

Test(stream_log, reads_a_captured_stream_that_nobody_asked_for)
{
    struct store_job job = {
        .endpoint = VIEW("abc"), .id = VIEW("j"), .upstream_id = VIEW("j"), .team = VIEW("t"),
        .state = JOB_IN_PROGRESS, .generation = 1,
    };

    streams_capture(GATEWAY, &job);
    stream_says(RUNS(ONE(0)));
    stream_says(ENDS(ONE(1)));
    stream_says(ENDS(""));
    RUN_UNTIL(count_of(METRIC_CHUNKS, METRIC_CHUNK_STORED) == 2);
    get(&caller, STREAM);
    EXPECT_STREAM(&caller, ENDS(ONE(0) "," ONE(1)));
}

/* ---- events */

#define EVENTS "Accept: text/event-stream\r\n"

Test(stream_log, tells_chunks_as_events_and_the_end)
{
    ask(&caller, "GET", STREAM, EVENTS, NULL);
    stream_says(RUNS("{\"output\":\n[1]}"));
    RUN_UNTIL(caller_has(&caller, "id: 0\ndata: {\"output\": [1]}\n\n"));
    cr_assert(caller_has(&caller, "Content-Type: text/event-stream\r\n"));
    cr_assert_not(caller_has(&caller, "Content-Length"));
    stream_says(ENDS(ONE(1)));
    stream_says(ENDS(""));
    RUN_UNTIL(caller_has(&caller, "0\r\n\r\n"));
    cr_assert(caller_has(&caller, "id: 1\ndata: " ONE(1) "\n\n"));
    cr_assert(caller_has(&caller, "event: end\ndata: {\"status\":\"COMPLETED\"}\n\n"));
    caller_clear(&caller);
    ask(&caller, "GET", STREAM, EVENTS "Last-Event-ID: 0\r\n", NULL);
    RUN_UNTIL(caller_has(&caller, "event: end\n"));
    cr_assert(caller_has(&caller, "id: 1\n"));
    cr_assert_not(caller_has(&caller, "id: 0\n"));
    get(&second, STREAM);
    EXPECT_STREAM(&second, ENDS("{\"output\":\n[1]}," ONE(1)));
}

Test(stream_log, shows_that_the_connection_lives_every_fifteen_seconds)
{
    ask(&caller, "GET", STREAM, EVENTS, NULL);
    RUN_UNTIL(stream_requests() == 1);
    pass(1100);
    RUN_UNTIL(caller_has(&caller, "HTTP/1.1 200 OK\r\n"));
    cr_assert_eq(caller_count(&caller, "\r\n:\n\n\r\n"), 1);
    stream_says(RUNS(""));
    pass(8000);
    stream_says(RUNS(""));
    pass(7200);
    RUN_UNTIL(caller_count(&caller, "\r\n:\n\n\r\n") == 2);
    stream_says(RUNS(ONE(0)));
    RUN_UNTIL(caller_has(&caller, "id: 0\n"));
}

Test(stream_log, refuses_events_of_no_job_by_a_status)
{
    ask(&caller, "GET", "/v2/abc/stream/never", EVENTS, NULL);
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
}

Test(stream_log, a_drain_ends_events_and_answers_who_waits)
{
    ask(&caller, "GET", STREAM, EVENTS, NULL);
    stream_says(RUNS(ONE(0)));
    RUN_UNTIL(caller_has(&caller, "id: 0\n"));
    get(&second, STREAM);
    EXPECT_STREAM(&second, RUNS(ONE(0)));
    get(&second, STREAM);
    pass(200);
    RUN_UNTIL(streams_are_reading(GATEWAY->streams));
    streams_drain(GATEWAY->streams);
    RUN_UNTIL(caller_has(&caller, "0\r\n\r\n"));
    cr_assert_not(caller_has(&caller, "event: end"));
    EXPECT_STREAM(&second, RUNS(""));
    cr_assert(streams_are_reading(GATEWAY->streams));
    stream_says(RUNS(ONE(1)));
    RUN_UNTIL(!streams_are_reading(GATEWAY->streams));
    RUN_UNTIL(count_of(METRIC_CHUNKS, METRIC_CHUNK_STORED) == 2);
}

/* ---- two workers */

static void set_up_two(void)
{
    open_with(2, "");
}

TestSuite(stream_workers, .init = set_up_two, .fini = tear_down_stream, .timeout = 120);

#undef RUN_UNTIL
#define RUN_UNTIL RUN_BOTH_UNTIL

/* Whichever worker reads a job's stream, callers of both get it. */
Test(stream_workers, callers_of_any_worker_get_chunks_once)
{
    struct caller elsewhere;
    char target[64];
    char entered[16];

    for (unsigned i = 0; i < 6; i++) {
        snprintf(entered, sizeof entered, "j%u", i);
        snprintf(target, sizeof target, "/v2/abc/stream/%s", entered);
        enter_job("abc", entered);
        caller_open(&elsewhere, sides[1].front);
        get(&caller, target);
        RUN_UNTIL(stream_requests() == 2 * i + 1);
        upstream_answers(stream_request(2 * i), "200 OK", RUNS(ONE(0)));
        EXPECT_STREAM(&caller, RUNS(ONE(0)));
        get(&elsewhere, target);
        pass(200);
        RUN_UNTIL(stream_requests() == 2 * i + 2);
        upstream_answers(stream_request(2 * i + 1), "200 OK", RUNS(ONE(1)));
        EXPECT_STREAM(&elsewhere, RUNS(ONE(1)));
        caller_close(&elsewhere);
        settle_both();
    }
}

Test(stream_workers, a_caller_elsewhere_who_leaves_takes_nothing_with_him)
{
    struct caller elsewhere;
    char target[64];
    char entered[16];

    for (unsigned i = 0; i < 6; i++) {
        snprintf(entered, sizeof entered, "j%u", i);
        snprintf(target, sizeof target, "/v2/abc/stream/%s", entered);
        enter_job("abc", entered);
        caller_open(&elsewhere, sides[1].front);
        get(&elsewhere, target);
        RUN_UNTIL(stream_requests() == i + 1);
        caller_close(&elsewhere);
        upstream_answers(stream_request(i), "200 OK", RUNS(ONE(0)));
        settle_both();
        get(&caller, target);
        EXPECT_STREAM(&caller, RUNS(ONE(0)));
    }
}
