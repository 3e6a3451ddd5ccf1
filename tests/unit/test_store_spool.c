#include "build_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "redis_server.h"
#include "store_suite.h"

/* What a podgate does while its Redis is away, and what Redis has of it afterwards. Instance 1 is
 * another podgate, which sees what Redis has and nothing else. */

static void begin(void)
{
    redis_server_start(suite_directory(), "");
}

static void end(void)
{
    redis_server_stop(SIGKILL);
}

static void options(size_t index, char *text, size_t capacity)
{
    snprintf(text, capacity,
             "backend = \"redis\" url = \"redis+unix://%s\" path = \"%s/podgate-%zu.db\" "
             "on_outage = \"spool\" instances = 2",
             redis_server.socket, suite_directory(), index);
}

const struct suite_backend suite_backend = {
    .name = "spool",
    .begin = begin,
    .end = end,
    .options = options,
    .pass = redis_server_pass,
    .restart = end,
};

#define ABOUT(job_name) .endpoint = ENDPOINT, .job = VIEW(job_name)

TestSuite(store_spool, .init = suite_set_up, .fini = suite_tear_down, .timeout = 60);

static void wait_for_state(enum store_state state)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    while (store_state(suite_instances[0].store) != state) {
        cr_assert_lt(suite_real_ms(), until_ms, "the state is %d, not %d",
                     store_state(suite_instances[0].store), state);
        suite_step();
    }
}

static void lose_redis(void)
{
    redis_server_stop(SIGKILL);
    wait_for_state(STORE_STATE_SPOOLING);
}

static void wait_until_drained(void)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    wait_for_state(STORE_STATE_READY);
    while (EXPECT(STORE_OK, .operation = STORE_COUNT)->counts.spooled > 0) {
        cr_assert_lt(suite_real_ms(), until_ms, "the spool is never drained");
    }
}

static void find_redis(void)
{
    redis_server_start(suite_directory(), "");
    wait_until_drained();
    suite_open(1);
}

/* Redis comes back with nothing. */
static void lose_data(void)
{
    char command[400];

    redis_server_stop(SIGKILL);
    snprintf(command, sizeof command, "rm -rf '%s'/appendonly* '%s'/*.rdb", suite_directory(),
             suite_directory());
    cr_assert_eq(system(command), 0);
    redis_server_start(suite_directory(), "");
}

static void accept_job(unsigned number, struct view job, uint64_t due_ms)
{
    struct store_question known = known_question(number, VIEW(""), job);

    known.due_ms = due_ms;
    EXPECT_THAT(STORE_OK, known);
}

static const struct store_reply *other_has(struct view job)
{
    return EXPECT_OF(1, STORE_OK, .operation = STORE_GET_JOB, .endpoint = ENDPOINT, .job = job,
                     .with_result = true);
}

Test(store_spool, a_submit_in_an_outage_is_recorded_and_redis_has_it_afterwards)
{
    struct store_question sent = submit_question(STORE_MARK_SENT, 1, VIEW(""));
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    const struct store_reply *reply;

    lose_redis();
    reply = EXPECT_THAT(STORE_OK, sent);
    cr_assert(reply->spooled);
    reply = EXPECT_THAT(STORE_OK, known);
    cr_assert(reply->spooled);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_IN_QUEUE);
    cr_assert_geq(EXPECT(STORE_OK, .operation = STORE_COUNT)->counts.spooled, 1);
    find_redis();
    reply = other_has(VIEW("job-1"));
    cr_assert_eq(reply->job.state, JOB_IN_QUEUE);
    cr_assert_view(reply->job.team, TEAM);
    cr_assert_eq(EXPECT_OF(1, STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 10)->count, 0);
}

Test(store_spool, a_submit_with_a_key_is_refused_since_others_could_have_it_too)
{
    struct store_question claim = submit_question(STORE_CLAIM_SUBMIT, 1, VIEW("k"));

    lose_redis();
    EXPECT_THAT(STORE_AWAY, claim);
}

Test(store_spool, a_keyed_submit_that_was_under_way_is_replayed_by_everybody_afterwards)
{
    struct store_question claim = submit_question(STORE_CLAIM_SUBMIT, 1, VIEW("k"));
    struct store_question sent = submit_question(STORE_MARK_SENT, 1, VIEW("k"));
    struct store_question known = known_question(1, VIEW("k"), VIEW("job-1"));
    struct store_question again = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));
    const struct store_reply *reply;

    sent.fence = EXPECT_THAT(STORE_OK, claim)->fence;
    EXPECT_THAT(STORE_OK, sent);
    lose_redis();
    known.answer_status = 200;
    known.answer = suite_body(VIEW("answer"));
    EXPECT_THAT(STORE_OK, known);
    find_redis();
    again.submit.instance = store_instance(suite_instances[1].store);
    reply = suite_expect(1, STORE_REPLAY, __LINE__, &again);
    cr_assert_view(body_view(reply->body), VIEW("answer"));
    cr_assert_eq(reply->submit.answer_status, 200);
}

Test(store_spool, own_jobs_go_on_being_polled_and_their_results_are_kept)
{
    struct store_question result = result_question(VIEW("job-1"), VIEW("result"));
    struct store_question due = due_question(10);
    const struct store_reply *reply;
    struct view stored;

    accept_job(1, VIEW("job-1"), 0);
    accept_job(2, VIEW("job-2"), FAR_MS);
    lose_redis();
    do {
        reply = EXPECT_THAT(STORE_OK, due);
    } while (reply->count == 0);
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->jobs[0].id, VIEW("job-1"));
    cr_assert_view(reply->jobs[0].team, TEAM);
    EXPECT(STORE_OK, .operation = STORE_RESCHEDULE, ABOUT("job-1"), .fence = reply->jobs[0].fence,
           .state = JOB_IN_PROGRESS, .due_ms = SECOND_MS, .deadline_ms = RETENTION_MS);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_IN_PROGRESS);
    reply = EXPECT_THAT(STORE_OK, result);
    cr_assert(reply->spooled);
    cr_assert_eq(result_of(VIEW("job-1"), &stored).state, JOB_COMPLETED);
    cr_assert_view(stored, VIEW("result"));
    find_redis();
    reply = other_has(VIEW("job-1"));
    cr_assert_eq(reply->job.state, JOB_COMPLETED);
    cr_assert_eq(reply->job.execution_ms, 41);
    cr_assert_view(body_view(reply->body), VIEW("result"));
    cr_assert_eq(other_has(VIEW("job-2"))->job.state, JOB_IN_QUEUE);
}

Test(store_spool, a_result_that_was_seen_never_vanishes_while_the_spool_is_drained)
{
    struct store_question result = result_question(VIEW("job-1"), VIEW("result"));
    struct view stored;

    accept_job(1, VIEW("job-1"), 0);
    lose_redis();
    EXPECT_THAT(STORE_OK, result);
    redis_server_start(suite_directory(), "");
    wait_for_state(STORE_STATE_READY);
    do {
        cr_assert_eq(result_of(VIEW("job-1"), &stored).state, JOB_COMPLETED);
        cr_assert_view(stored, VIEW("result"));
    } while (EXPECT(STORE_OK, .operation = STORE_COUNT)->counts.spooled > 0);
    result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, VIEW("result"));
}

Test(store_spool, jobs_of_others_are_away)
{
    suite_open(1);
    suite_expect(1, STORE_OK, __LINE__,
                 &(struct store_question){.operation = STORE_ADOPT_JOB,
                                          ABOUT("theirs"),
                                          .team = TEAM,
                                          .key = KEY,
                                          .deadline_ms = RETENTION_MS});
    lose_redis();
    EXPECT(STORE_AWAY, .operation = STORE_GET_JOB, ABOUT("theirs"));
    EXPECT(STORE_AWAY, .operation = STORE_GET_JOB, ABOUT("nobody's"));
    EXPECT(STORE_AWAY, .operation = STORE_LIST_JOBS, .team = TEAM);
    EXPECT(STORE_AWAY, .operation = STORE_ADOPT_JOB, ABOUT("new"), .team = TEAM);
}

Test(store_spool, chunks_and_cursors_of_an_outage_follow_those_before)
{
    static const uint32_t lengths[] = {3};
    struct store_question append = {.operation = STORE_APPEND_CHUNKS,
                                    ABOUT("job-1"),
                                    .generation = 1,
                                    .chunks = suite_body(VIEW("one")),
                                    .chunk_lengths = lengths,
                                    .chunk_count = 1};
    const struct store_reply *reply;

    accept_job(1, VIEW("job-1"), 0);
    EXPECT(STORE_OK, .operation = STORE_CLAIM_JOB, ABOUT("job-1"), .lease_ms = STORE_LEASE_MS);
    EXPECT_THAT(STORE_OK, append);
    /* The claim tells this podgate how many there are. */
    EXPECT(STORE_OK, .operation = STORE_CLAIM_JOB, ABOUT("job-1"), .lease_ms = STORE_LEASE_MS);
    lose_redis();
    append.from = 1;
    append.chunks = suite_body(VIEW("two"));
    EXPECT_THAT(STORE_OK, append);
    EXPECT(STORE_AWAY, .operation = STORE_GET_CURSOR, ABOUT("job-1"), .consumer = KEY);
    EXPECT(STORE_AWAY, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .limit = 9,
           .limit_bytes = 99);
    reply = EXPECT(STORE_OK, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .from = 1, .limit = 9,
                   .limit_bytes = 99);
    cr_assert_view(body_view(reply->body), VIEW("two"));
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = KEY, .from = 2);
    find_redis();
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .limit = 9,
                      .limit_bytes = 99);
    cr_assert_view(body_view(reply->body), VIEW("onetwo"));
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_GET_CURSOR, ABOUT("job-1"), .consumer = KEY);
    cr_assert_eq(reply->cursor_position, 2);
}

/* The spool heard last of a job's chunks when it leased the job; Redis has had more since. */
Test(store_spool, chunks_that_redis_took_unheard_of_are_not_written_over)
{
    static const uint32_t lengths[] = {3};
    struct store_question append = {.operation = STORE_APPEND_CHUNKS,
                                    ABOUT("job-1"),
                                    .generation = 1,
                                    .chunks = suite_body(VIEW("one")),
                                    .chunk_lengths = lengths,
                                    .chunk_count = 1};
    const struct store_reply *reply;

    accept_job(1, VIEW("job-1"), 0);
    EXPECT_THAT(STORE_OK, append);
    lose_redis();
    append.from = 1;
    append.chunks = suite_body(VIEW("two"));
    EXPECT_THAT(STORE_OK, append);
    EXPECT_THAT(STORE_CONFLICT, append);
    append.generation = 2;
    append.from = 9;
    cr_assert_eq(EXPECT_THAT(STORE_CONFLICT, append)->job.chunk_count, 2);
    find_redis();
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .limit = 9,
                      .limit_bytes = 99);
    cr_assert_view(body_view(reply->body), VIEW("onetwo"));
}

/* It is Redis's from then on; what the file still had would be told again, too old by then. */
Test(store_spool, a_cursor_of_an_outage_is_not_told_again_in_the_next_one)
{
    static const char *const jobs[] = {"job-1", "job-2"};

    accept_job(1, VIEW("job-1"), 0);
    lose_redis();
    accept_job(2, VIEW("job-2"), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(jobs); i++) {
        EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, .endpoint = ENDPOINT,
               .job = view_of_string(jobs[i]), .consumer = KEY, .from = 2);
    }
    find_redis();
    for (size_t i = 0; i < ARRAY_LENGTH(jobs); i++) {
        EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, .endpoint = ENDPOINT,
               .job = view_of_string(jobs[i]), .consumer = KEY, .from = 7);
    }
    suite_close(1);
    lose_redis();
    for (size_t i = 0; i < ARRAY_LENGTH(jobs); i++) {
        EXPECT(STORE_AWAY, .operation = STORE_GET_CURSOR, .endpoint = ENDPOINT,
               .job = view_of_string(jobs[i]), .consumer = KEY);
    }
    find_redis();
    for (size_t i = 0; i < ARRAY_LENGTH(jobs); i++) {
        cr_assert_eq(EXPECT_OF(1, STORE_OK, .operation = STORE_GET_CURSOR, .endpoint = ENDPOINT,
                               .job = view_of_string(jobs[i]), .consumer = KEY)
                         ->cursor_position,
                     7);
    }
}

Test(store_spool, a_retry_of_an_outage_is_redis_s_next_generation)
{
    struct store_question failed = result_question(VIEW("job-1"), VIEW("failed"));
    struct store_question retry = known_question(2, VIEW(""), VIEW("job-1"));
    struct store_question result = result_question(VIEW("job-1"), VIEW("second"));
    const struct store_reply *reply;

    accept_job(1, VIEW("job-1"), 0);
    lose_redis();
    failed.state = JOB_FAILED;
    EXPECT_THAT(STORE_OK, failed);
    retry.submit.operation = STORE_SUBMIT_RETRY;
    retry.generation = 1;
    EXPECT_THAT(STORE_OK, retry);
    result.generation = 2;
    EXPECT_THAT(STORE_OK, result);
    find_redis();
    reply = other_has(VIEW("job-1"));
    cr_assert_eq(reply->job.generation, 2);
    cr_assert_eq(reply->job.state, JOB_COMPLETED);
    cr_assert_view(body_view(reply->body), VIEW("second"));
}

Test(store_spool, a_result_that_was_deleted_in_the_outage_stays_deleted)
{
    struct store_question result = result_question(VIEW("job-1"), VIEW("result"));

    accept_job(1, VIEW("job-1"), 0);
    lose_redis();
    EXPECT_THAT(STORE_OK, result);
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, ABOUT("job-1"));
    find_redis();
    cr_assert_eq(other_has(VIEW("job-1"))->job.state, JOB_COMPLETED);
    cr_assert_eq(other_has(VIEW("job-1"))->job.fate, STORE_FATE_DELETED);
}

/* Its own team asked another podgate for it before that could know of it. */
Test(store_spool, a_job_that_was_adopted_meanwhile_keeps_the_end_that_the_spool_has)
{
    struct store_question result = result_question(VIEW("job-1"), VIEW("result"));
    const struct store_reply *reply;

    lose_redis();
    accept_job(1, VIEW("job-1"), 0);
    EXPECT_THAT(STORE_OK, result);
    suite_close(0);
    redis_server_start(suite_directory(), "");
    suite_open(1);
    EXPECT_OF(1, STORE_OK, .operation = STORE_ADOPT_JOB, ABOUT("job-1"), .team = TEAM,
              .state = JOB_IN_QUEUE, .deadline_ms = 60000);
    cr_assert(suite_try_open(0));
    wait_until_drained();
    reply = other_has(VIEW("job-1"));
    cr_assert_eq(reply->job.state, JOB_COMPLETED);
    cr_assert_view(body_view(reply->body), VIEW("result"));
}

Test(store_spool, an_unknown_submit_of_an_outage_is_listed_by_everybody)
{
    struct store_question unknown = submit_question(STORE_SETTLE_SUBMIT, 7, VIEW(""));
    const struct store_reply *reply;

    lose_redis();
    unknown.submit.state = STORE_SUBMIT_UNKNOWN;
    unknown.note = VIEW("the connection broke");
    EXPECT_THAT(STORE_OK, unknown);
    find_redis();
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 10);
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->submits[0].id, submit_id(7));
    cr_assert_view(reply->submits[0].team, TEAM);
}

Test(store_spool, what_was_spooled_outlives_podgate)
{
    struct store_question sent = submit_question(STORE_MARK_SENT, 3, VIEW(""));

    lose_redis();
    accept_job(1, VIEW("job-1"), 0);
    EXPECT_THAT(STORE_OK, sent);
    suite_close(0);
    cr_assert(suite_try_open(0), "podgate starts without its Redis");
    wait_for_state(STORE_STATE_SPOOLING);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_IN_QUEUE);
    find_redis();
    cr_assert_eq(other_has(VIEW("job-1"))->job.state, JOB_IN_QUEUE);
    /* Nobody knows what became of the one that was on its way. */
    cr_assert_eq(EXPECT_OF(1, STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 10)->count, 1);
}

Test(store_spool, a_redis_that_comes_back_empty_is_told_again)
{
    struct store_question result = result_question(VIEW("job-2"), VIEW("result"));
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;
    const struct store_reply *reply;

    accept_job(1, VIEW("job-1"), 0);
    accept_job(2, VIEW("job-2"), 0);
    lose_redis();
    EXPECT_THAT(STORE_OK, result);
    accept_job(3, VIEW("job-3"), 0);
    redis_server_start(suite_directory(), "");
    wait_until_drained();
    lose_data();
    wait_for_state(STORE_STATE_READY);
    suite_open(1);
    do {
        cr_assert_lt(suite_real_ms(), until_ms, "it is never told again");
        reply = suite_ask(
            1, &(struct store_question){.operation = STORE_LIST_JOBS, .team = TEAM, .limit = 10});
    } while (reply->result != STORE_OK || reply->count < 3);
    wait_until_drained();
    reply = other_has(VIEW("job-2"));
    cr_assert_eq(reply->job.state, JOB_COMPLETED);
    cr_assert_view(body_view(reply->body), VIEW("result"));
    cr_assert_eq(other_has(VIEW("job-1"))->job.state, JOB_IN_QUEUE);
    cr_assert_eq(other_has(VIEW("job-3"))->job.state, JOB_IN_QUEUE);
}

Test(store_spool, many_submits_are_drained_once_each)
{
    enum { MANY = 1000 };
    size_t count = 0;
    struct view cursor = VIEW("");

    lose_redis();
    for (unsigned i = 0; i < MANY; i++) {
        accept_job(i + 1, suite_format("job-%04u", i), 0);
    }
    find_redis();
    do {
        const struct store_reply *reply = EXPECT_OF(1, STORE_OK, .operation = STORE_LIST_JOBS,
                                                    .team = TEAM, .limit = 100, .cursor = cursor);

        count += reply->count;
        cursor = reply->cursor;
    } while (cursor.length > 0);
    cr_assert_eq(count, MANY);
}
