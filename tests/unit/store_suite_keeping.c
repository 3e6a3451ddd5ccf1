#include "build_config.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_suite.h"

/* What goes in its time, what is counted, and how the store itself lives: reopening, calls that are
 * cancelled, many at once. */

TestSuite(store_keeping, .init = suite_set_up, .fini = suite_tear_down);

#define ABOUT(job_name) .endpoint = ENDPOINT, .job = VIEW(job_name)

static const struct store_reply *expire(uint64_t max_total_bytes)
{
    return EXPECT(STORE_OK, .operation = STORE_EXPIRE, .limit = 1000,
                  .max_total_bytes = max_total_bytes);
}

static struct store_counts counts(void)
{
    return EXPECT(STORE_OK, .operation = STORE_COUNT)->counts;
}

/* ---- expiry ---------------------------------------------------------------------------------- */

Test(store_keeping, a_result_is_not_given_past_its_time_though_nothing_swept)
{
    struct view stored;

    add_result(VIEW("job-1"), VIEW("secret"));
    suite_backend.pass(KEEP_MS - SECOND_MS);
    result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, VIEW("secret"));
    suite_backend.pass(2 * SECOND_MS);
    cr_assert_eq(result_of(VIEW("job-1"), &stored).fate, STORE_FATE_EXPIRED);
    cr_assert_eq(stored.length, 0);
}

Test(store_keeping, what_has_expired_is_removed_and_remembered)
{
    struct view stored;
    uint64_t before;

    before = counts().result_bytes;
    add_result(VIEW("job-1"), VIEW("secret"));
    add_job(VIEW("job-2"));
    cr_assert_gt(counts().result_bytes, before);
    expire(UINT64_MAX);
    cr_assert_eq(job_of(VIEW("job-1")).fate, STORE_FATE_KEPT);
    suite_backend.pass(KEEP_MS + SECOND_MS);
    expire(UINT64_MAX);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(result_of(VIEW("job-1"), &stored).fate, STORE_FATE_EXPIRED);
        cr_assert_eq(job_of(VIEW("job-1")).state, JOB_COMPLETED);
        cr_assert_eq(stored.length, 0);
        cr_assert_eq(counts().result_bytes, before);
        cr_assert_eq(counts().results, 0);
        cr_assert_eq(job_of(VIEW("job-2")).state, JOB_IN_QUEUE);
        suite_reopen();
    }
}

Test(store_keeping, expired_results_are_counted_as_such)
{
    const struct store_reply *reply;
    uint64_t expired = 0;

    for (unsigned i = 0; i < 5; i++) {
        add_result(suite_format("job-%u", i), VIEW("x"));
    }
    suite_backend.pass(KEEP_MS + SECOND_MS);
    for (int i = 0; i < 4; i++) {
        reply =
            EXPECT(STORE_OK, .operation = STORE_EXPIRE, .limit = 2, .max_total_bytes = UINT64_MAX);
        cr_assert_leq(reply->expired, 2);
        cr_assert_eq(reply->evicted, 0);
        expired += reply->expired;
    }
    cr_assert_eq(expired, 5);
    cr_assert_eq(counts().by_fate[STORE_FATE_EXPIRED], 5);
}

Test(store_keeping, a_job_is_forgotten_a_week_after_its_result)
{
    add_result(VIEW("job-1"), VIEW("x"));
    suite_backend.pass(KEEP_MS + SECOND_MS);
    expire(UINT64_MAX);
    suite_backend.pass((uint64_t)STORE_TOMBSTONE_MS - HOUR_MS);
    expire(UINT64_MAX);
    cr_assert_eq(job_of(VIEW("job-1")).fate, STORE_FATE_EXPIRED);
    suite_backend.pass(2 * HOUR_MS);
    expire(UINT64_MAX);
    expire(UINT64_MAX);
    EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, ABOUT("job-1"));
    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_LIST_JOBS, .team = TEAM, .limit = 10)->count,
                 0);
    cr_assert_eq(counts().jobs, 0);
}

Test(store_keeping, a_lost_job_is_forgotten_after_a_week_and_a_running_one_never)
{
    add_job_due(VIEW("lost"), 0, RETENTION_MS);
    add_job_due(VIEW("running"), 0, RETENTION_MS);
    EXPECT(STORE_OK, .operation = STORE_PUT_RESULT, ABOUT("lost"), .generation = 1,
           .state = JOB_LOST);
    suite_backend.pass((uint64_t)STORE_TOMBSTONE_MS - HOUR_MS);
    expire(UINT64_MAX);
    cr_assert_eq(job_of(VIEW("lost")).state, JOB_LOST);
    suite_backend.pass(2 * HOUR_MS);
    expire(UINT64_MAX);
    expire(UINT64_MAX);
    EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, ABOUT("lost"));
    cr_assert_eq(job_of(VIEW("running")).state, JOB_IN_QUEUE);
}

Test(store_keeping, the_oldest_results_make_room)
{
    char bytes[5000];
    const struct store_reply *reply;
    struct view stored;
    uint64_t all_bytes;

    memset(bytes, 'x', sizeof bytes);
    for (unsigned i = 1; i <= 5; i++) {
        add_result(suite_format("job-%u", i), view_make(bytes, sizeof bytes));
        suite_backend.pass(10);
    }
    all_bytes = counts().result_bytes;
    cr_assert_geq(all_bytes, 5 * sizeof bytes);
    reply = expire(all_bytes);
    cr_assert_eq(reply->evicted, 0);
    reply = expire(all_bytes - sizeof bytes - 1);
    cr_assert_eq(reply->evicted, 2);
    cr_assert_eq(reply->count, 2);
    for (size_t i = 0; i < 2; i++) {
        cr_assert_view(reply->jobs[i].endpoint, ENDPOINT);
        cr_assert(view_equal(reply->jobs[i].id, VIEW("job-1")) ||
                  view_equal(reply->jobs[i].id, VIEW("job-2")));
        cr_assert_view(reply->jobs[i].team, TEAM);
    }
    cr_assert_leq(counts().result_bytes, all_bytes - sizeof bytes - 1);
    cr_assert_eq(result_of(VIEW("job-1"), &stored).fate, STORE_FATE_EVICTED);
    cr_assert_eq(stored.length, 0);
    cr_assert_eq(job_of(VIEW("job-2")).fate, STORE_FATE_EVICTED);
    for (unsigned i = 3; i <= 5; i++) {
        cr_assert_eq(result_of(suite_format("job-%u", i), &stored).fate, STORE_FATE_KEPT);
        cr_assert_eq(stored.length, sizeof bytes);
    }
    cr_assert_eq(counts().by_fate[STORE_FATE_EVICTED], 2);
}

Test(store_keeping, nothing_that_runs_is_evicted)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    const struct store_reply *reply;

    known.input = suite_body(VIEW("{\"input\":1}"));
    known.input_bytes = 11;
    EXPECT_THAT(STORE_OK, known);
    expire(0);
    reply = EXPECT(STORE_OK, .operation = STORE_GET_JOB, ABOUT("job-1"), .with_input = true);
    cr_assert_eq(reply->job.state, JOB_IN_QUEUE);
    cr_assert_view(body_view(reply->body), VIEW("{\"input\":1}"));
}

Test(store_keeping, submits_that_lapsed_are_counted_as_unknown_though_nobody_listed_them)
{
    struct store_question sent = submit_question(STORE_MARK_SENT, 1, VIEW(""));

    EXPECT_THAT(STORE_OK, sent);
    suite_backend.pass(2 * MINUTE_MS);
    expire(UINT64_MAX);
    cr_assert_eq(counts().unknown_submits, 1);
}

/* ---- counts ---------------------------------------------------------------------------------- */

Test(store_keeping, what_is_there_is_counted)
{
    struct store_question unknown = submit_question(STORE_SETTLE_SUBMIT, 1, VIEW(""));
    struct store_counts there = counts();

    cr_assert_eq(there.jobs, 0);
    cr_assert_eq(there.outstanding, 0);
    cr_assert_eq(there.results, 0);
    cr_assert_eq(there.result_bytes, 0);
    cr_assert_eq(there.unknown_submits, 0);
    add_job(VIEW("queued"));
    add_result(VIEW("kept"), VIEW("0123456789"));
    add_result(VIEW("deleted"), VIEW("0123456789"));
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, ABOUT("deleted"));
    add_job(VIEW("lost"));
    EXPECT(STORE_OK, .operation = STORE_PUT_RESULT, ABOUT("lost"), .generation = 1,
           .state = JOB_LOST);
    add_job(VIEW("ttl"));
    EXPECT(STORE_OK, .operation = STORE_PUT_RESULT, ABOUT("ttl"), .generation = 1,
           .state = JOB_TTL_EXPIRED);
    add_job(VIEW("large"));
    EXPECT(STORE_OK, .operation = STORE_PUT_RESULT, ABOUT("large"), .generation = 1,
           .state = JOB_COMPLETED, .fate = STORE_FATE_TOO_LARGE);
    unknown.submit.state = STORE_SUBMIT_UNKNOWN;
    EXPECT_THAT(STORE_OK, unknown);
    for (int i = 0; i < 2; i++) {
        there = counts();
        cr_assert_eq(there.jobs, 6);
        cr_assert_eq(there.outstanding, 1);
        cr_assert_eq(there.results, 1);
        cr_assert_geq(there.result_bytes, 10);
        cr_assert_eq(there.unknown_submits, 1);
        cr_assert_eq(there.by_fate[STORE_FATE_KEPT], 1);
        cr_assert_eq(there.by_fate[STORE_FATE_DELETED], 1);
        cr_assert_eq(there.by_fate[STORE_FATE_TOO_LARGE], 1);
        cr_assert_eq(there.lost, 1);
        cr_assert_eq(there.ttl_expired, 1);
        cr_assert_eq(there.spooled, 0);
        suite_reopen();
    }
}

Test(store_keeping, bytes_are_counted_up_and_down_to_nothing)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    struct store_question ended = result_question(VIEW("job-1"), VIEW("0123456789"));
    struct store_question retry = {.operation = STORE_RETRY_JOB,
                                   .endpoint = ENDPOINT,
                                   .job = VIEW("job-1"),
                                   .generation = 1,
                                   .deadline_ms = RETENTION_MS};
    static const uint32_t lengths[] = {4};

    known.input = suite_body(VIEW("12345"));
    known.input_bytes = 5;
    EXPECT_THAT(STORE_OK, known);
    cr_assert_eq(counts().result_bytes, 5);
    EXPECT(STORE_OK, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 1,
           .chunks = suite_body(VIEW("abcd")), .chunk_lengths = lengths, .chunk_count = 1);
    cr_assert_eq(counts().result_bytes, 9);
    ended.state = JOB_FAILED;
    EXPECT_THAT(STORE_OK, ended);
    cr_assert_eq(counts().result_bytes, 19);
    EXPECT_THAT(STORE_OK, retry);
    cr_assert_eq(counts().result_bytes, 5, "the input is kept");
    ended.generation = 2;
    EXPECT_THAT(STORE_OK, ended);
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, ABOUT("job-1"));
    cr_assert_eq(counts().result_bytes, 0);
}

/* ---- the store itself ------------------------------------------------------------------------ */

Test(store_keeping, it_is_ready_and_durable_as_set_up_here)
{
    struct view name = store_instance(suite_instances[0].store);
    struct view before = suite_copy(name);

    cr_assert_eq(store_state(suite_instances[0].store), STORE_STATE_READY);
    cr_assert_eq(store_durability(suite_instances[0].store), STORE_DURABLE);
    cr_assert_eq(name.length, STORE_SUBMIT_ID_BYTES);
    suite_reopen();
    cr_assert_not(view_equal(before, store_instance(suite_instances[0].store)),
                  "new with each start");
}

Test(store_keeping, what_was_confirmed_is_there_after_what_lies_behind_was_killed)
{
    struct store_question known = known_question(2, VIEW("k"), VIEW("job-2"));
    struct store_question claim = submit_question(STORE_CLAIM_SUBMIT, 3, VIEW("k"));
    static const uint32_t lengths[] = {5};
    struct view stored;

    add_result(VIEW("job-1"), VIEW("result"));
    known.answer_status = 200;
    known.answer = suite_body(VIEW("answer"));
    EXPECT_THAT(STORE_OK, known);
    EXPECT(STORE_OK, .operation = STORE_APPEND_CHUNKS, ABOUT("job-2"), .generation = 1,
           .chunks = suite_body(VIEW("chunk")), .chunk_lengths = lengths, .chunk_count = 1);
    suite_close(0);
    suite_backend.restart();
    suite_open(0);
    cr_assert_eq(result_of(VIEW("job-1"), &stored).state, JOB_COMPLETED);
    cr_assert_view(stored, VIEW("result"));
    cr_assert_view(body_view(EXPECT_THAT(STORE_REPLAY, claim)->body), VIEW("answer"));
    cr_assert_eq(job_of(VIEW("job-2")).chunk_count, 1);
    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_LIST_ENDPOINTS)->endpoints[0].outstanding, 1);
}

static void on_unwanted(void *argument, const struct store_reply *reply)
{
    (void)reply;
    *(bool *)argument = true;
}

Test(store_keeping, a_cancelled_write_goes_on_without_a_callback)
{
    bool called = false;
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;
    struct store_question question = {.operation = STORE_ADOPT_JOB,
                                      ABOUT("job-1"),
                                      .team = TEAM,
                                      .key = KEY,
                                      .deadline_ms = RETENTION_MS};
    struct store_call *call = store_ask(suite_instances[0].client, &question, on_unwanted, &called);

    cr_assert_not_null(call);
    store_cancel(call);
    while (ASK(.operation = STORE_GET_JOB, ABOUT("job-1"))->result != STORE_OK) {
        cr_assert_lt(suite_real_ms(), until_ms, "it was not written");
    }
    cr_assert_not(called);
}

Test(store_keeping, a_client_goes_with_its_calls_under_way)
{
    bool called = false;
    struct view stored;

    for (unsigned i = 0; i < 50; i++) {
        struct store_question question = {.operation = STORE_ADOPT_JOB,
                                          .endpoint = ENDPOINT,
                                          .job = suite_format("job-%u", i),
                                          .team = TEAM,
                                          .key = KEY,
                                          .deadline_ms = RETENTION_MS};

        cr_assert_not_null(store_ask(suite_instances[0].client, &question, on_unwanted, &called));
    }
    suite_reopen();
    cr_assert_not(called);
    add_result(VIEW("other"), VIEW("x"));
    result_of(VIEW("other"), &stored);
    cr_assert_view(stored, VIEW("x"));
}

static unsigned order_seen[100];
static unsigned order_count;

static void on_ordered(void *argument, const struct store_reply *reply)
{
    cr_assert_eq(reply->result, STORE_OK);
    order_seen[order_count++] = (unsigned)(uintptr_t)argument;
}

Test(store_keeping, questions_about_one_job_are_answered_in_the_order_of_asking)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;
    static const uint32_t lengths[] = {1};

    add_job(VIEW("job-1"));
    for (unsigned i = 0; i < 100; i++) {
        struct store_question question = {.operation = STORE_APPEND_CHUNKS,
                                          ABOUT("job-1"),
                                          .generation = 1,
                                          .from = i,
                                          .chunks = suite_body(VIEW("x")),
                                          .chunk_lengths = lengths,
                                          .chunk_count = 1,
                                          .timeout_ms = SUITE_FOREVER_MS};

        cr_assert_not_null(
            store_ask(suite_instances[0].client, &question, on_ordered, (void *)(uintptr_t)i));
    }
    while (order_count < 100) {
        cr_assert_lt(suite_real_ms(), until_ms);
        suite_step();
    }
    for (unsigned i = 0; i < 100; i++) {
        cr_assert_eq(order_seen[i], i);
    }
}

Test(store_keeping, calls_are_counted_by_operation_and_result)
{
    struct metrics *metrics = suite_instances[0].metrics;

    add_job(VIEW("job-1"));
    EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, ABOUT("job-2"));
    cr_assert_eq(metrics_sum(metrics, METRIC_STORE_CALLS, STORE_ADOPT_JOB, STORE_OK), 1);
    cr_assert_eq(metrics_sum(metrics, METRIC_STORE_CALLS, STORE_GET_JOB, STORE_ABSENT), 1);
}

/* ---- two loops ------------------------------------------------------------------------------- */

enum { THREAD_JOBS = 150 };

struct thread_side {
    unsigned index;
    struct loop *loop;
    struct store_client *client;
    struct view result;
    struct body *body;
    unsigned ended;
    unsigned owned;
    char failed[200];
};

static void on_thread_reply(void *argument, const struct store_reply *reply);

static void thread_ask(struct thread_side *side, struct store_question question)
{
    question.timeout_ms = SUITE_FOREVER_MS;
    if (!store_ask(side->client, &question, on_thread_reply, side)) {
        snprintf(side->failed, sizeof side->failed, "no memory");
    }
}

static struct view thread_job(char *text, size_t capacity, unsigned index, unsigned number)
{
    snprintf(text, capacity, "own-%u-%u", index, number);
    return view_of_string(text);
}

/* Each loop adopts its own jobs and those that both race for and ends its own, all at once; when
 * that is confirmed it reads them. Reads may overtake what isn't confirmed yet. */
static void on_thread_reply(void *argument, const struct store_reply *reply)
{
    struct thread_side *side = argument;

    if (reply->result == STORE_OWNED) {
        side->owned++;
    } else if (reply->result != STORE_OK) {
        snprintf(side->failed, sizeof side->failed, "question %u: %s", side->ended,
                 store_result_text(reply->result));
    }
    side->ended++;
    for (unsigned i = 0; side->ended == 3 * THREAD_JOBS && i < THREAD_JOBS; i++) {
        struct store_question get = {
            .operation = STORE_GET_JOB, .endpoint = ENDPOINT, .with_result = true};
        char name[64];

        get.job = thread_job(name, sizeof name, side->index, i);
        thread_ask(side, get);
    }
    if (side->ended > 3 * THREAD_JOBS && !reply->body) {
        snprintf(side->failed, sizeof side->failed, "no result");
    }
    if (side->ended == 4 * THREAD_JOBS) {
        loop_stop(side->loop);
    }
}

static void start_thread_questions(void *argument)
{
    struct thread_side *side = argument;
    char name[64];

    for (unsigned i = 0; i < THREAD_JOBS; i++) {
        struct store_question adopt = {.operation = STORE_ADOPT_JOB,
                                       .endpoint = ENDPOINT,
                                       .team = TEAM,
                                       .key = KEY,
                                       .deadline_ms = RETENTION_MS};
        struct store_question put = {.operation = STORE_PUT_RESULT,
                                     .endpoint = ENDPOINT,
                                     .generation = 1,
                                     .state = JOB_COMPLETED,
                                     .fate = STORE_FATE_KEPT,
                                     .keep_ms = KEEP_MS,
                                     .result = side->body,
                                     .result_bytes = 6};

        adopt.job = put.job = thread_job(name, sizeof name, side->index, i);
        thread_ask(side, adopt);
        thread_ask(side, put);
        snprintf(name, sizeof name, "both-%u", i);
        adopt.job = view_of_string(name);
        thread_ask(side, adopt);
    }
}

static void *run_side(void *argument)
{
    struct thread_side *side = argument;

    if (!loop_post(side->loop, start_thread_questions, side) || !loop_run(side->loop)) {
        snprintf(side->failed, sizeof side->failed, "the loop failed");
    }
    return NULL;
}

Test(store_keeping, two_loops_ask_at_once)
{
    struct thread_side sides[2];
    pthread_t threads[2];
    struct store_counts there;

    for (unsigned i = 0; i < 2; i++) {
        struct loop *loop = loop_create();

        sides[i] = (struct thread_side){
            .index = i,
            .loop = loop,
            .body = suite_body(VIEW("result")),
            .client = store_client_create(suite_instances[0].store, loop,
                                          metrics_block_create(suite_instances[0].metrics),
                                          log_ring_create(suite_instances[0].log, 65536))};
        cr_assert_not_null(sides[i].client);
    }
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, run_side, &sides[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_str_eq(sides[i].failed, "");
        store_client_destroy(sides[i].client);
        loop_destroy(sides[i].loop);
    }
    cr_assert_eq(sides[0].owned + sides[1].owned, THREAD_JOBS);
    there = counts();
    cr_assert_eq(there.jobs, 3 * THREAD_JOBS);
    cr_assert_eq(there.results, 2 * THREAD_JOBS);
    cr_assert_eq(there.outstanding, THREAD_JOBS);
}
