#include "build_config.h"

#include <stdio.h>
#include <string.h>

#include "redis_server.h"
#include "store_suite.h"

/* The suite on a real Redis that syncs each write, with the spool before it; what several podgates
 * on it see of one another; and Redis alone, without a spool, while it is away. */

static void begin(void)
{
    redis_server_start(suite_directory(), "");
}

static void end(void)
{
    redis_server_stop(SIGKILL);
}

static const char *on_outage = "spool";

static void options(size_t index, char *text, size_t capacity)
{
    snprintf(text, capacity,
             "backend = \"redis\" url = \"redis+unix://%s\" path = \"%s/spool-%zu.db\" "
             "on_outage = \"%s\" instances = 2",
             redis_server.socket, suite_directory(), index, on_outage);
}

static void restart(void)
{
    redis_server_stop(SIGKILL);
    redis_server_start(suite_directory(), "");
}

const struct suite_backend suite_backend = {
    .name = "redis",
    .begin = begin,
    .end = end,
    .options = options,
    .pass = redis_server_pass,
    .restart = restart,
};

/* ---- two podgates ---------------------------------------------------------------------------- */

#define ABOUT(job_name) .endpoint = ENDPOINT, .job = VIEW(job_name)

static void set_up_two(void)
{
    suite_set_up();
    suite_open(1);
}

TestSuite(store_two_podgates, .init = set_up_two, .fini = suite_tear_down);

Test(store_two_podgates, they_have_names_of_their_own_and_share)
{
    cr_assert_not(view_equal(store_instance(suite_instances[0].store),
                             store_instance(suite_instances[1].store)));
    cr_assert(store_is_shared(suite_instances[0].store));
}

Test(store_two_podgates, what_one_writes_the_other_reads)
{
    const struct store_reply *reply;

    add_result(VIEW("job-1"), VIEW("\x00result"));
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_GET_JOB, ABOUT("job-1"), .with_result = true);
    cr_assert_view(body_view(reply->body), VIEW("\x00result"));
}

Test(store_two_podgates, a_key_that_one_claimed_is_busy_for_the_other_and_then_replayed)
{
    struct store_question claim = submit_question(STORE_CLAIM_SUBMIT, 1, VIEW("k"));
    struct store_question sent = submit_question(STORE_MARK_SENT, 1, VIEW("k"));
    struct store_question known = known_question(1, VIEW("k"), VIEW("job-1"));
    struct store_question other = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));
    const struct store_reply *reply;

    sent.fence = EXPECT_THAT(STORE_OK, claim)->fence;
    other.submit.instance = store_instance(suite_instances[1].store);
    suite_expect(1, STORE_BUSY, __LINE__, &other);
    EXPECT_THAT(STORE_OK, sent);
    suite_expect(1, STORE_BUSY, __LINE__, &other);
    known.answer_status = 200;
    known.answer = suite_body(VIEW("answer"));
    EXPECT_THAT(STORE_OK, known);
    reply = suite_expect(1, STORE_REPLAY, __LINE__, &other);
    cr_assert_view(body_view(reply->body), VIEW("answer"));
}

Test(store_two_podgates, of_two_ends_the_first_stands)
{
    struct store_question first = result_question(VIEW("job-1"), VIEW("first"));
    struct store_question second = result_question(VIEW("job-1"), VIEW("second"));
    struct view stored;

    add_job(VIEW("job-1"));
    suite_expect(1, STORE_OK, __LINE__, &first);
    EXPECT_THAT(STORE_CONFLICT, second);
    result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, VIEW("first"));
}

Test(store_two_podgates, each_due_job_is_given_to_one_of_them)
{
    struct store_question due = due_question(7);
    unsigned given[40] = {0};
    size_t count;

    for (unsigned i = 0; i < 40; i++) {
        add_job(suite_format("job-%02u", i));
    }
    do {
        count = 0;
        for (size_t side = 0; side < 2; side++) {
            const struct store_reply *reply = suite_expect(side, STORE_OK, __LINE__, &due);

            for (size_t i = 0; i < reply->count; i++) {
                given[(reply->jobs[i].id.data[4] - '0') * 10 + reply->jobs[i].id.data[5] - '0']++;
            }
            count += reply->count;
        }
    } while (count > 0);
    for (unsigned i = 0; i < 40; i++) {
        cr_assert_eq(given[i], 1, "job-%02u", i);
    }
}

Test(store_two_podgates, the_lease_of_one_is_busy_for_the_other_until_it_ends)
{
    const struct store_reply *reply;
    uint64_t fence;

    add_job(VIEW("job-1"));
    fence =
        EXPECT(STORE_OK, .operation = STORE_CLAIM_JOB, ABOUT("job-1"), .lease_ms = STORE_LEASE_MS)
            ->job.fence;
    reply = EXPECT_OF(1, STORE_BUSY, .operation = STORE_CLAIM_JOB, ABOUT("job-1"),
                      .lease_ms = STORE_LEASE_MS);
    cr_assert_gt(reply->job.due_ms, reply->now_ms);
    cr_assert_leq(reply->job.due_ms, reply->now_ms + STORE_LEASE_MS);
    suite_backend.pass(STORE_LEASE_MS + 100);
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_CLAIM_JOB, ABOUT("job-1"),
                      .lease_ms = STORE_LEASE_MS);
    cr_assert_gt(reply->job.fence, fence);
    EXPECT(STORE_CONFLICT, .operation = STORE_RESCHEDULE, ABOUT("job-1"), .fence = fence,
           .state = JOB_IN_PROGRESS);
    EXPECT(STORE_BUSY, .operation = STORE_CLAIM_JOB, ABOUT("job-1"), .lease_ms = STORE_LEASE_MS);
}

Test(store_two_podgates, a_lease_that_was_given_back_is_free_for_the_other)
{
    struct store_question back = {
        .operation = STORE_RESCHEDULE, ABOUT("job-1"), .state = JOB_IN_PROGRESS, .due_ms = FAR_MS};

    add_job(VIEW("job-1"));
    back.fence =
        EXPECT(STORE_OK, .operation = STORE_CLAIM_JOB, ABOUT("job-1"), .lease_ms = STORE_LEASE_MS)
            ->job.fence;
    EXPECT_THAT(STORE_OK, back);
    EXPECT_OF(1, STORE_OK, .operation = STORE_CLAIM_JOB, ABOUT("job-1"),
              .lease_ms = STORE_LEASE_MS);
}

/* Both together get what one would: the endpoint's budget is upstream's limit. */
Test(store_two_podgates, the_polling_budget_of_an_endpoint_is_shared)
{
    struct store_question due = due_question(100);
    size_t given = 0;

    for (unsigned i = 0; i < 60; i++) {
        add_job(suite_format("job-%02u", i));
    }
    due.poll_rate_milli = 10 * 1000;
    for (int i = 0; i < 3; i++) {
        given += suite_expect(0, STORE_OK, __LINE__, &due)->count;
        given += suite_expect(1, STORE_OK, __LINE__, &due)->count;
    }
    cr_assert_gt(given, 0);
    cr_assert_leq(given, 21, "%zu polls of 10 a second at once", given);
    for (int second = 0; second < 3; second++) {
        size_t before = given;

        suite_backend.pass(SECOND_MS);
        for (int i = 0; i < 3; i++) {
            given += suite_expect(0, STORE_OK, __LINE__, &due)->count;
            given += suite_expect(1, STORE_OK, __LINE__, &due)->count;
        }
        cr_assert_gt(given, before);
        cr_assert_leq(given - before, 13);
    }
}

static bool told(size_t index, const char *job)
{
    return suite_instances[index].changes > 0 &&
           strcmp(suite_instances[index].changed_job, job) == 0 &&
           strcmp(suite_instances[index].changed_endpoint, "abc123") == 0;
}

static void expect_told(const char *job)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    while (!told(1, job)) {
        cr_assert_lt(suite_real_ms(), until_ms, "the other was not told of %s", job);
        suite_step();
    }
    cr_assert_eq(suite_instances[0].changes, 0, "told of its own change");
    suite_instances[1].changes = 0;
}

/* One's channel is open once another's change has come: some time after the connection. */
static void wait_for_channel(void)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;
    unsigned number = 0;

    while (suite_instances[1].changes == 0 || suite_instances[1].changed_job[0] == '\0') {
        cr_assert_lt(suite_real_ms(), until_ms, "no change was ever told");
        add_result(suite_format("first-%u", number++), VIEW("x"));
        for (int i = 0; i < 50; i++) {
            suite_step();
        }
    }
    /* And what was on its way has arrived. */
    add_result(VIEW("last"), VIEW("x"));
    while (!told(1, "last")) {
        cr_assert_lt(suite_real_ms(), until_ms);
        suite_step();
    }
    suite_instances[0].changes = 0;
    suite_instances[1].changes = 0;
}

Test(store_two_podgates, one_hears_what_the_other_ended_retried_deleted_or_shortened)
{
    struct store_question failed = result_question(VIEW("failed"), VIEW("x"));

    wait_for_channel();
    add_result(VIEW("ended"), VIEW("x"));
    expect_told("ended");
    EXPECT(STORE_OK, .operation = STORE_SHORTEN, ABOUT("ended"), .keep_ms = MINUTE_MS);
    expect_told("ended");
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, ABOUT("ended"));
    expect_told("ended");
    add_job(VIEW("failed"));
    failed.state = JOB_FAILED;
    EXPECT_THAT(STORE_OK, failed);
    expect_told("failed");
    EXPECT(STORE_OK, .operation = STORE_RETRY_JOB, ABOUT("failed"), .generation = 1,
           .deadline_ms = RETENTION_MS);
    expect_told("failed");
}

Test(store_two_podgates, a_purge_of_one_is_worked_off_by_either)
{
    struct store_question claim = {
        .operation = STORE_CLAIM_CANCELS, .limit = 3, .lease_ms = STORE_LEASE_MS};
    size_t found;

    for (unsigned i = 0; i < 5; i++) {
        add_job(suite_format("job-%u", i));
    }
    EXPECT(STORE_OK, .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = ENDPOINT);
    found = suite_expect(1, STORE_OK, __LINE__, &claim)->count;
    found += suite_expect(0, STORE_OK, __LINE__, &claim)->count;
    cr_assert_eq(found, 5);
}

Test(store_two_podgates, cursors_and_chunks_are_shared)
{
    static const uint32_t lengths[] = {3};
    const struct store_reply *reply;

    add_job(VIEW("job-1"));
    EXPECT(STORE_OK, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 1,
           .chunks = suite_body(VIEW("one")), .chunk_lengths = lengths, .chunk_count = 1);
    EXPECT_OF(1, STORE_CONFLICT, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 1,
              .chunks = suite_body(VIEW("two")), .chunk_lengths = lengths, .chunk_count = 1);
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = KEY, .from = 1);
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_GET_CURSOR, ABOUT("job-1"), .consumer = KEY);
    cr_assert_eq(reply->cursor_position, 1);
    reply = EXPECT_OF(1, STORE_OK, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .limit = 9,
                      .limit_bytes = 100);
    cr_assert_view(body_view(reply->body), VIEW("one"));
}

/* ---- a Redis that dies ----------------------------------------------------------------------- */

static void set_up_refusing(void)
{
    on_outage = "refuse";
    suite_set_up();
}

TestSuite(store_redis_away, .init = set_up_refusing, .fini = suite_tear_down);

Test(store_redis_away, what_was_confirmed_is_there_when_redis_was_killed_under_a_running_podgate)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;
    struct view stored;

    add_result(VIEW("job-1"), VIEW("result"));
    restart();
    while (ASK(.operation = STORE_GET_JOB, ABOUT("job-1"), .timeout_ms = 1000)->result !=
           STORE_OK) {
        cr_assert_lt(suite_real_ms(), until_ms, "never connected again");
    }
    result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, VIEW("result"));
}

Test(store_redis_away, questions_fail_while_it_is_away_and_nothing_hangs)
{
    const struct store_reply *reply;
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    redis_server_stop(SIGKILL);
    for (int i = 0; i < 20; i++) {
        reply = ASK(.operation = STORE_GET_JOB, ABOUT("job-1"), .timeout_ms = 500);
        cr_assert(store_failed(reply->result), "%s", store_result_text(reply->result));
        reply = ASK(.operation = STORE_ADOPT_JOB, ABOUT("job-1"), .team = TEAM, .key = KEY,
                    .deadline_ms = RETENTION_MS, .timeout_ms = 500);
        cr_assert(store_failed(reply->result), "%s", store_result_text(reply->result));
    }
    while (store_state(suite_instances[0].store) != STORE_STATE_AWAY) {
        cr_assert_lt(suite_real_ms(), until_ms, "it is never said to be away");
        suite_step();
    }
    redis_server_start(suite_directory(), "");
    while (store_state(suite_instances[0].store) != STORE_STATE_READY) {
        cr_assert_lt(suite_real_ms(), until_ms, "it never came back");
        suite_step();
    }
    add_job(VIEW("job-2"));
}

Test(store_redis_away, a_redis_that_is_stopped_times_out)
{
    const struct store_reply *reply;

    add_job(VIEW("job-1"));
    kill(redis_server.process, SIGSTOP);
    reply = ASK(.operation = STORE_ADOPT_JOB, ABOUT("job-2"), .team = TEAM, .key = KEY,
                .deadline_ms = RETENTION_MS, .timeout_ms = 300);
    cr_assert(reply->result == STORE_TIMED_OUT || reply->result == STORE_AWAY, "%s",
              store_result_text(reply->result));
    kill(redis_server.process, SIGCONT);
}

/* ---- outages, one after the other ------------------------------------------------------------ */

TestSuite(store_outages, .init = suite_set_up, .fini = suite_tear_down, .timeout = 300);

enum { OUTAGE_SEEDS = 4, OUTAGE_JOBS = 120 };

static uint64_t outage_random;

static unsigned outage_chance(unsigned below)
{
    outage_random = outage_random * 6364136223846793005 + 1442695040888963407;
    return (unsigned)(outage_random >> 40) % below;
}

static void expect_drained(void)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;
    const struct store_reply *reply;

    do {
        cr_assert_lt(suite_real_ms(), until_ms, "the spool is never empty");
        reply = ASK(.operation = STORE_COUNT, .timeout_ms = 2000);
    } while (store_state(suite_instances[0].store) != STORE_STATE_READY ||
             reply->result != STORE_OK || reply->counts.spooled > 0);
}

/* Kills and starts Redis and podgate by chance between any two questions. What was confirmed, by
 * Redis or by the spool, is there in the end, byte for byte, and nothing else is. */
static void play_outages(unsigned seed)
{
    enum {
        NOTHING,
        CONFIRMED,
        UNSURE
    } jobs[OUTAGE_JOBS] = {NOTHING},
      results[OUTAGE_JOBS] = {NOTHING};
    size_t spooled = 0;

    outage_random = seed + 1;
    for (unsigned i = 0; i < 3 * OUTAGE_JOBS; i++) {
        unsigned number = i < OUTAGE_JOBS ? i : outage_chance(OUTAGE_JOBS);
        struct view job = suite_format("job-%u-%u", seed, number);
        struct store_question known = known_question(seed * 1000 + number, VIEW(""), job);
        struct store_question ended = result_question(job, suite_format("result of %u", number));
        const struct store_reply *reply;

        if (outage_chance(15) == 0) {
            if (redis_server.process > 0) {
                redis_server_stop(SIGKILL);
            } else {
                redis_server_start(suite_directory(), "");
            }
        }
        if (outage_chance(30) == 0) {
            suite_close(0);
            cr_assert(suite_try_open(0), "%s", suite_problem);
        }
        known.timeout_ms = ended.timeout_ms = 2000;
        if (jobs[number] != CONFIRMED) {
            reply = suite_ask(0, &known);
            jobs[number] = reply->result == STORE_OK          ? CONFIRMED
                           : reply->result == STORE_TIMED_OUT ? UNSURE
                                                              : jobs[number];
        } else if (results[number] != CONFIRMED) {
            reply = suite_ask(0, &ended);
            results[number] = reply->result == STORE_OK                                  ? CONFIRMED
                              : store_failed(reply->result) || results[number] == UNSURE ? UNSURE
                                                                                         : NOTHING;
            cr_assert(store_failed(reply->result) || reply->result == STORE_OK ||
                          reply->result == STORE_CONFLICT,
                      "seed %u: the end of job %u is %s", seed, number,
                      store_result_text(reply->result));
        } else {
            continue;
        }
        spooled += reply->spooled ? 1 : 0;
    }
    if (redis_server.process == 0) {
        redis_server_start(suite_directory(), "");
    }
    expect_drained();
    cr_assert_gt(spooled, 0, "seed %u: nothing went to the spool: the test tests nothing", seed);
    for (unsigned number = 0; number < OUTAGE_JOBS; number++) {
        struct view job = suite_format("job-%u-%u", seed, number);
        const struct store_reply *reply =
            ASK(.operation = STORE_GET_JOB, .endpoint = ENDPOINT, .job = job, .with_result = true);

        cr_assert(jobs[number] != CONFIRMED || reply->result == STORE_OK,
                  "seed %u: job %u was confirmed and is %s", seed, number,
                  store_result_text(reply->result));
        cr_assert(jobs[number] != NOTHING || reply->result == STORE_ABSENT,
                  "seed %u: job %u was refused and is there", seed, number);
        if (results[number] == CONFIRMED) {
            cr_assert_eq(reply->job.state, JOB_COMPLETED, "seed %u: job %u is %s", seed, number,
                         job_state_text(reply->job.state));
            cr_assert_view(body_view(reply->body), suite_format("result of %u", number));
        }
    }
}

Test(store_outages, nothing_that_was_confirmed_is_lost)
{
    const char *one = getenv("PODGATE_SEED");

    if (one) {
        play_outages((unsigned)strtoul(one, NULL, 10));
        return;
    }
    for (unsigned seed = 0; seed < OUTAGE_SEEDS; seed++) {
        play_outages(seed);
    }
}

/* ---- a Redis with things that aren't podgate's ----------------------------------------------- */

Test(store_redis_away, foreign_values_under_the_prefix_are_broken_and_hurt_nothing_else)
{
    /* Whatever podgate keeps its jobs in, each of its keys becomes a list of garbage. */
    static const char script[] =
        "EVAL \"for _, k in ipairs(redis.call('keys', 'podgate*job-1*')) do redis.call('del', k) "
        "redis.call('rpush', k, 'garbage') end return 'done'\" 0\r\n";
    const struct store_reply *reply;
    struct view stored;

    add_result(VIEW("job-1"), VIEW("result"));
    add_result(VIEW("other"), VIEW("fine"));
    cr_assert(redis_server_says(script, "$4\r\ndone"));
    reply = ASK(.operation = STORE_GET_JOB, ABOUT("job-1"), .with_result = true);
    cr_assert(reply->result == STORE_BROKEN, "%s", store_result_text(reply->result));
    result_of(VIEW("other"), &stored);
    cr_assert_view(stored, VIEW("fine"));
    reply = EXPECT(STORE_OK, .operation = STORE_LIST_JOBS, .team = TEAM, .limit = 10);
    cr_assert_leq(reply->count, 2);
}
