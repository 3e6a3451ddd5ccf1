#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "store_suite.h"

/* Jobs: how they enter, end, are retried, deleted and listed. */

TestSuite(store_jobs, .init = suite_set_up, .fini = suite_tear_down);

#define ABOUT(job_name) .endpoint = ENDPOINT, .job = VIEW(job_name)

/* ---- entering -------------------------------------------------------------------------------- */

Test(store_jobs, a_job_that_nobody_entered_is_absent)
{
    EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, ABOUT("job-1"));
    EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, ABOUT("job-1"), .with_result = true,
           .with_input = true);
    EXPECT(STORE_ABSENT, .operation = STORE_DELETE_RESULT, ABOUT("job-1"));
    EXPECT(STORE_ABSENT, .operation = STORE_SHORTEN, ABOUT("job-1"), .keep_ms = 1);
    EXPECT(STORE_ABSENT, .operation = STORE_CLAIM_JOB, ABOUT("job-1"), .lease_ms = STORE_LEASE_MS);
    EXPECT(STORE_ABSENT, .operation = STORE_RESCHEDULE, ABOUT("job-1"), .fence = 1);
    EXPECT(STORE_ABSENT, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .limit = 1,
           .limit_bytes = 100);
    EXPECT(STORE_ABSENT, .operation = STORE_GET_CURSOR, ABOUT("job-1"), .consumer = KEY);
}

Test(store_jobs, an_adopted_job_is_there_with_what_was_said)
{
    struct store_job job;
    const struct store_reply *reply;

    EXPECT(STORE_OK, .operation = STORE_ADOPT_JOB, ABOUT("job-1"), .team = TEAM, .key = KEY,
           .kind = STORE_KIND_RUNSYNC, .state = JOB_IN_PROGRESS, .ttl_ms = HOUR_MS,
           .due_ms = FAR_MS, .deadline_ms = MINUTE_MS);
    suite_reopen();
    job = job_of(VIEW("job-1"));
    cr_assert_view(job.endpoint, ENDPOINT);
    cr_assert_view(job.id, VIEW("job-1"));
    cr_assert_view(job.team, TEAM);
    cr_assert_view(job.key, KEY);
    cr_assert_eq(job.kind, STORE_KIND_RUNSYNC);
    cr_assert_eq(job.state, JOB_IN_PROGRESS);
    cr_assert_eq(job.generation, 1);
    cr_assert_eq(job.due_ms - job.submitted_ms, FAR_MS);
    cr_assert_eq(job.deadline_ms - job.submitted_ms, MINUTE_MS);
    reply = EXPECT(STORE_OWNED, .operation = STORE_ADOPT_JOB, ABOUT("job-1"), .team = OTHER_TEAM,
                   .key = KEY, .state = JOB_IN_QUEUE, .deadline_ms = MINUTE_MS);
    cr_assert_view(reply->job.team, TEAM);
    cr_assert_view(job_of(VIEW("job-1")).team, TEAM);
}

Test(store_jobs, names_that_share_their_beginning_are_told_apart)
{
    struct view names[] = {VIEW("a"),     VIEW("a-b"), VIEW("a_b"), VIEW("A"),
                           VIEW("a-b-c"), VIEW("0"),   VIEW("00"),  VIEW("0-u1")};
    char longest[128];
    struct view job = view_make(longest, sizeof longest);
    struct view endpoint = view_make(longest, 64);
    struct view stored;

    memset(longest, 'Z', sizeof longest);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        add_result(names[i], names[i]);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cr_assert_view(result_of(names[i], &stored).id, names[i]);
        cr_assert_view(stored, names[i]);
    }
    add_job_of(endpoint, TEAM, job);
    cr_assert_view(
        EXPECT(STORE_OK, .operation = STORE_GET_JOB, .endpoint = endpoint, .job = job)->job.id,
        job);
    EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, .endpoint = view_first(endpoint, 63),
           .job = job);
}

/* ---- ending ---------------------------------------------------------------------------------- */

static void expect_bytes_come_back(struct view bytes)
{
    struct store_question question = result_question(VIEW("job-1"), bytes);
    struct store_job job;
    struct view stored;

    add_job(VIEW("job-1"));
    question.encoding = STORE_ENCODING_ZSTD;
    question.result_bytes = bytes.length + 1000;
    EXPECT_THAT(STORE_OK, question);
    for (int i = 0; i < 2; i++) {
        job = result_of(VIEW("job-1"), &stored);
        cr_assert_eq(stored.length, bytes.length);
        cr_assert(view_equal(stored, bytes));
        cr_assert_eq(job.state, JOB_COMPLETED);
        cr_assert_eq(job.fate, STORE_FATE_KEPT);
        cr_assert_eq(job.encoding, STORE_ENCODING_ZSTD);
        cr_assert_eq(job.result_bytes, bytes.length + 1000);
        cr_assert_eq(job.stored_bytes, bytes.length);
        cr_assert_eq(memcmp(job.digest, question.digest, STORE_DIGEST_BYTES), 0);
        cr_assert_eq(job.execution_ms, 41);
        cr_assert_eq(job.delay_ms, 7);
        cr_assert_geq(job.ended_ms, job.submitted_ms);
        cr_assert_eq(job.expires_ms - job.ended_ms, KEEP_MS);
        suite_reopen();
    }
}

Test(store_jobs, a_result_comes_back_byte_for_byte)
{
    expect_bytes_come_back(VIEW("{\"id\":\"job-1\",\"status\":\"COMPLETED\",\"output\":NaN,"
                                "\"n\":9007199254740993}\r\n"));
}

Test(store_jobs, a_result_of_all_byte_values_comes_back)
{
    char bytes[1024];

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (char)(unsigned char)i;
    }
    expect_bytes_come_back(view_make(bytes, sizeof bytes));
}

Test(store_jobs, an_empty_result_comes_back)
{
    expect_bytes_come_back(VIEW(""));
}

Test(store_jobs, a_result_of_8_mib_comes_back)
{
    size_t length = 8 * 1024 * 1024;
    char *bytes = malloc(length);
    uint32_t random = 1;

    cr_assert_not_null(bytes);
    for (size_t i = 0; i < length; i++) {
        random = random * 1664525 + 1013904223;
        bytes[i] = (char)(random >> 24);
    }
    expect_bytes_come_back(view_make(bytes, length));
    free(bytes);
}

Test(store_jobs, without_being_asked_for_a_result_is_not_read)
{
    add_result(VIEW("job-1"), VIEW("bytes"));
    cr_assert_null(EXPECT(STORE_OK, .operation = STORE_GET_JOB, ABOUT("job-1"))->body);
}

Test(store_jobs, the_first_end_stands)
{
    struct store_question late = result_question(VIEW("job-1"), VIEW("second"));
    const struct store_reply *reply;
    struct view stored;

    add_result(VIEW("job-1"), VIEW("first"));
    late.state = JOB_FAILED;
    reply = EXPECT_THAT(STORE_CONFLICT, late);
    cr_assert_eq(reply->job.state, JOB_COMPLETED);
    cr_assert_eq(reply->job.generation, 1);
    late.state = JOB_LOST;
    late.fate = STORE_FATE_NONE;
    late.result = NULL;
    EXPECT_THAT(STORE_CONFLICT, late);
    cr_assert_eq(result_of(VIEW("job-1"), &stored).state, JOB_COMPLETED);
    cr_assert_view(stored, VIEW("first"));
}

Test(store_jobs, an_end_of_another_generation_is_not_written)
{
    struct store_question early = result_question(VIEW("job-1"), VIEW("early"));

    add_job(VIEW("job-1"));
    early.generation = 2;
    cr_assert_eq(EXPECT_THAT(STORE_CONFLICT, early)->job.generation, 1);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_IN_QUEUE);
    early.job = VIEW("job-2");
    EXPECT_THAT(STORE_ABSENT, early);
}

Test(store_jobs, every_end_is_told_as_it_was)
{
    const enum job_state states[] = {JOB_COMPLETED, JOB_FAILED, JOB_CANCELLED, JOB_TIMED_OUT};

    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        struct view name = suite_format("job-%zu", i);
        struct store_question question = result_question(name, name);

        add_job(name);
        question.state = states[i];
        EXPECT_THAT(STORE_OK, question);
        cr_assert_eq(job_of(name).state, states[i]);
    }
}

static struct store_question without_result(const char *job, enum job_state state)
{
    return (struct store_question){.operation = STORE_PUT_RESULT,
                                   .endpoint = ENDPOINT,
                                   .job = view_of_string(job),
                                   .generation = 1,
                                   .state = state,
                                   .execution_ms = UINT64_MAX,
                                   .delay_ms = UINT64_MAX};
}

Test(store_jobs, a_job_that_was_cancelled_before_it_ran_has_no_result)
{
    struct store_question question = without_result("job-1", JOB_CANCELLED);
    struct store_job job;
    struct view stored;

    add_job(VIEW("job-1"));
    EXPECT_THAT(STORE_OK, question);
    job = result_of(VIEW("job-1"), &stored);
    cr_assert_eq(stored.length, 0);
    cr_assert_eq(job.state, JOB_CANCELLED);
    cr_assert_eq(job.fate, STORE_FATE_NONE);
    cr_assert_eq(job.execution_ms, UINT64_MAX);
    cr_assert_eq(job.delay_ms, UINT64_MAX);
    cr_assert_eq(job.expires_ms, 0);
}

Test(store_jobs, a_result_that_is_too_large_is_remembered_without_its_bytes)
{
    struct store_question question = without_result("job-1", JOB_COMPLETED);
    struct store_question due = due_question(10);
    struct store_job job;
    struct view stored;

    add_job(VIEW("job-1"));
    question.fate = STORE_FATE_TOO_LARGE;
    question.execution_ms = 5;
    EXPECT_THAT(STORE_OK, question);
    job = result_of(VIEW("job-1"), &stored);
    cr_assert_eq(stored.length, 0);
    cr_assert_eq(job.state, JOB_COMPLETED);
    cr_assert_eq(job.fate, STORE_FATE_TOO_LARGE);
    cr_assert_eq(job.execution_ms, 5);
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 0);
}

Test(store_jobs, a_lost_job_that_is_found_again_gets_its_result)
{
    struct store_question lost = without_result("job-1", JOB_LOST);
    struct store_question found = result_question(VIEW("job-1"), VIEW("found"));
    struct view stored;

    add_job(VIEW("job-1"));
    EXPECT_THAT(STORE_OK, lost);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_LOST);
    suite_reopen();
    EXPECT_THAT(STORE_OK, found);
    cr_assert_eq(result_of(VIEW("job-1"), &stored).state, JOB_COMPLETED);
    cr_assert_view(stored, VIEW("found"));
    EXPECT_THAT(STORE_CONFLICT, lost);
}

Test(store_jobs, a_lost_job_is_polled_on_for_as_long_as_was_said)
{
    struct store_question lost = without_result("job-1", JOB_LOST);
    struct store_question due = due_question(10);
    const struct store_reply *reply;

    add_job(VIEW("job-1"));
    lost.poll_on_ms = 15 * MINUTE_MS;
    EXPECT_THAT(STORE_OK, lost);
    suite_backend.pass(POLL_MS + SECOND_MS);
    reply = EXPECT_THAT(STORE_OK, due);
    cr_assert_eq(reply->count, 1);
    cr_assert_eq(reply->jobs[0].state, JOB_LOST);
    EXPECT(STORE_OK, .operation = STORE_RESCHEDULE, ABOUT("job-1"), .fence = reply->jobs[0].fence,
           .state = JOB_LOST, .due_ms = FAR_MS);
    suite_backend.pass(15 * MINUTE_MS);
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 0);
}

Test(store_jobs, a_lost_job_that_runs_after_all_is_lost_no_more)
{
    struct store_question lost = without_result("job-1", JOB_LOST);
    struct store_question due = due_question(10);
    const struct store_reply *reply;
    struct store_job job;

    add_job(VIEW("job-1"));
    lost.poll_on_ms = 15 * MINUTE_MS;
    EXPECT_THAT(STORE_OK, lost);
    suite_backend.pass(POLL_MS + SECOND_MS);
    reply = EXPECT_THAT(STORE_OK, due);
    cr_assert_eq(reply->count, 1);
    EXPECT(STORE_OK, .operation = STORE_RESCHEDULE, ABOUT("job-1"), .fence = reply->jobs[0].fence,
           .state = JOB_IN_PROGRESS, .due_ms = FAR_MS, .deadline_ms = RETENTION_MS);
    job = job_of(VIEW("job-1"));
    cr_assert_eq(job.state, JOB_IN_PROGRESS);
    cr_assert_eq(job.ended_ms, 0);
    suite_backend.pass(15 * MINUTE_MS);
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 1, "it is followed to its end");
    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_COUNT)->counts.lost, 0);
}

Test(store_jobs, a_lost_job_is_given_up_by_a_second_word)
{
    struct store_question lost = without_result("job-1", JOB_LOST);
    struct store_question due = due_question(10);

    add_job(VIEW("job-1"));
    lost.poll_on_ms = 15 * MINUTE_MS;
    EXPECT_THAT(STORE_OK, lost);
    lost.poll_on_ms = 0;
    EXPECT_THAT(STORE_OK, lost);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_LOST);
    suite_backend.pass(POLL_MS + SECOND_MS);
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 0);
    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_COUNT)->counts.outstanding, 0);
}

Test(store_jobs, a_lost_job_that_is_not_polled_on_is_off_the_schedule)
{
    struct store_question lost = without_result("job-1", JOB_LOST);
    struct store_question due = due_question(10);

    add_job(VIEW("job-1"));
    EXPECT_THAT(STORE_OK, lost);
    suite_backend.pass(POLL_MS + SECOND_MS);
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 0);
}

Test(store_jobs, a_job_whose_time_upstream_had_passed_is_told_apart_from_a_lost_one)
{
    struct store_question expired = without_result("job-1", JOB_TTL_EXPIRED);
    struct store_question late = result_question(VIEW("job-1"), VIEW("late"));

    add_job(VIEW("job-1"));
    EXPECT_THAT(STORE_OK, expired);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_TTL_EXPIRED);
    EXPECT_THAT(STORE_CONFLICT, late);
    EXPECT_THAT(STORE_CONFLICT, expired);
}

/* ---- retry ----------------------------------------------------------------------------------- */

static void fail_job(const char *name)
{
    struct store_question failed = result_question(view_of_string(name), VIEW("failed"));

    add_job(view_of_string(name));
    failed.state = JOB_FAILED;
    EXPECT_THAT(STORE_OK, failed);
}

static struct store_question retry_question(const char *name, uint64_t generation)
{
    return (struct store_question){.operation = STORE_RETRY_JOB,
                                   .endpoint = ENDPOINT,
                                   .job = view_of_string(name),
                                   .generation = generation,
                                   .kind = STORE_KIND_RUN,
                                   .deadline_ms = RETENTION_MS};
}

Test(store_jobs, a_retry_begins_a_generation_with_nothing_of_the_old_one)
{
    struct store_question retry = retry_question("job-1", 1);
    uint32_t lengths[] = {3};
    struct store_job job;
    struct view stored;
    const struct store_reply *reply;
    uint64_t retried_ms;

    add_job(VIEW("job-1"));
    EXPECT(STORE_OK, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 1,
           .chunks = suite_body(VIEW("one")), .chunk_lengths = lengths, .chunk_count = 1);
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = KEY, .from = 1,
           .ended = true);
    {
        struct store_question failed = result_question(VIEW("job-1"), VIEW("failed"));

        failed.state = JOB_FAILED;
        EXPECT_THAT(STORE_OK, failed);
    }
    suite_backend.pass(HOUR_MS / 2);
    retried_ms = EXPECT_THAT(STORE_OK, retry)->now_ms;
    suite_reopen();
    job = result_of(VIEW("job-1"), &stored);
    cr_assert_eq(stored.length, 0);
    cr_assert_eq(job.generation, 2);
    cr_assert_eq(job.state, JOB_IN_QUEUE);
    cr_assert_eq(job.fate, STORE_FATE_NONE);
    cr_assert_geq(job.submitted_ms, retried_ms, "its age, grace and ttl begin anew");
    cr_assert_eq(job.ended_ms, 0);
    cr_assert_eq(job.expires_ms, 0);
    cr_assert_eq(job.result_bytes, 0);
    cr_assert_eq(job.chunk_count, 0);
    cr_assert_view(job.upstream_id, VIEW("job-1"));
    reply = EXPECT(STORE_OK, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .limit = 10,
                   .limit_bytes = 1000);
    cr_assert_eq(reply->chunk_count, 0);
    reply = EXPECT(STORE_OK, .operation = STORE_GET_CURSOR, ABOUT("job-1"), .consumer = KEY);
    cr_assert_eq(reply->cursor_position, 0);
    cr_assert_not(reply->cursor_ended);
}

Test(store_jobs, what_belongs_to_the_run_before_a_retry_cannot_be_written)
{
    struct store_question retry = retry_question("job-1", 1);
    struct store_question old = result_question(VIEW("job-1"), VIEW("old"));
    struct store_question new = result_question(VIEW("job-1"), VIEW("new"));
    uint32_t lengths[] = {3};
    struct view stored;

    fail_job("job-1");
    EXPECT_THAT(STORE_OK, retry);
    EXPECT_THAT(STORE_CONFLICT, old);
    EXPECT(STORE_CONFLICT, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 1,
           .chunks = suite_body(VIEW("one")), .chunk_lengths = lengths, .chunk_count = 1);
    new.generation = 2;
    EXPECT_THAT(STORE_OK, new);
    result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, VIEW("new"));
}

Test(store_jobs, a_retry_of_another_generation_conflicts)
{
    struct store_question retry = retry_question("job-1", 1);
    struct store_question absent = retry_question("job-9", 1);

    fail_job("job-1");
    EXPECT_THAT(STORE_OK, retry);
    cr_assert_eq(EXPECT_THAT(STORE_CONFLICT, retry)->job.generation, 2);
    EXPECT_THAT(STORE_ABSENT, absent);
}

Test(store_jobs, a_retried_job_is_on_the_schedule_under_its_new_upstream_name)
{
    struct store_question retry = retry_question("job-1", 1);
    struct store_question due = due_question(10);
    const struct store_reply *reply;

    fail_job("job-1");
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 0);
    retry.upstream_id = VIEW("other-name");
    EXPECT_THAT(STORE_OK, retry);
    reply = EXPECT_THAT(STORE_OK, due);
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->jobs[0].id, VIEW("job-1"));
    cr_assert_view(reply->jobs[0].upstream_id, VIEW("other-name"));
    cr_assert_eq(reply->jobs[0].generation, 2);
}

/* ---- going ----------------------------------------------------------------------------------- */

Test(store_jobs, a_deleted_result_is_gone_and_its_job_is_remembered)
{
    struct view stored;

    add_result(VIEW("job-1"), VIEW("secret"));
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, ABOUT("job-1"));
    for (int i = 0; i < 2; i++) {
        struct store_job job = result_of(VIEW("job-1"), &stored);

        cr_assert_eq(stored.length, 0);
        cr_assert_eq(job.fate, STORE_FATE_DELETED);
        cr_assert_eq(job.expires_ms, 0);
        cr_assert_eq(job.state, JOB_COMPLETED);
        cr_assert_eq(
            EXPECT(STORE_CONFLICT, .operation = STORE_DELETE_RESULT, ABOUT("job-1"))->job.fate,
            STORE_FATE_DELETED);
        suite_reopen();
    }
}

Test(store_jobs, what_has_no_result_cannot_be_deleted)
{
    add_job(VIEW("job-1"));
    cr_assert_eq(
        EXPECT(STORE_CONFLICT, .operation = STORE_DELETE_RESULT, ABOUT("job-1"))->job.state,
        JOB_IN_QUEUE);
    cr_assert_eq(job_of(VIEW("job-1")).fate, STORE_FATE_NONE);
}

Test(store_jobs, deleting_a_result_takes_the_input_and_the_chunks_too)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    struct store_question ended = result_question(VIEW("job-1"), VIEW("result"));
    uint32_t lengths[] = {5};
    const struct store_reply *reply;

    known.input = suite_body(VIEW("{\"input\":\"secret\"}"));
    known.input_bytes = 18;
    EXPECT_THAT(STORE_OK, known);
    EXPECT(STORE_OK, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 1,
           .chunks = suite_body(VIEW("chunk")), .chunk_lengths = lengths, .chunk_count = 1);
    EXPECT_THAT(STORE_OK, ended);
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, ABOUT("job-1"));
    reply = EXPECT(STORE_OK, .operation = STORE_GET_JOB, ABOUT("job-1"), .with_input = true);
    cr_assert_null(reply->body);
    reply = EXPECT(STORE_OK, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .limit = 10,
                   .limit_bytes = 1000);
    cr_assert_eq(body_view(reply->body).length, 0);
}

Test(store_jobs, a_result_is_shortened_and_never_lengthened)
{
    struct store_job before;
    struct store_job after;

    add_result(VIEW("job-1"), VIEW("bytes"));
    before = job_of(VIEW("job-1"));
    EXPECT(STORE_OK, .operation = STORE_SHORTEN, ABOUT("job-1"), .keep_ms = 2 * KEEP_MS);
    cr_assert_eq(job_of(VIEW("job-1")).expires_ms, before.expires_ms);
    EXPECT(STORE_OK, .operation = STORE_SHORTEN, ABOUT("job-1"), .keep_ms = MINUTE_MS);
    after = job_of(VIEW("job-1"));
    cr_assert_leq(after.expires_ms, before.expires_ms - KEEP_MS + 2 * MINUTE_MS);
    cr_assert_geq(after.expires_ms, before.ended_ms + MINUTE_MS);
    suite_backend.pass(MINUTE_MS + 100);
    cr_assert_null(
        EXPECT(STORE_OK, .operation = STORE_GET_JOB, ABOUT("job-1"), .with_result = true)->body);
}

/* ---- lists ----------------------------------------------------------------------------------- */

static const struct store_reply *list(enum store_result wanted, struct store_question question)
{
    question.operation = STORE_LIST_JOBS;
    if (question.limit == 0) {
        question.limit = 100;
    }
    return EXPECT_THAT(wanted, question);
}

static bool has_job(const struct store_reply *reply, struct view job)
{
    for (size_t i = 0; i < reply->count; i++) {
        if (view_equal(reply->jobs[i].id, job)) {
            return true;
        }
    }
    return false;
}

static void add_numbered(unsigned from, unsigned to)
{
    for (unsigned i = from; i <= to; i++) {
        add_job(suite_format("job-%02u", i));
        suite_backend.pass(5);
    }
}

Test(store_jobs, jobs_are_listed_newest_first)
{
    const struct store_reply *reply;

    cr_assert_eq(list(STORE_OK, (struct store_question){.team = TEAM})->count, 0);
    add_numbered(1, 5);
    reply = list(STORE_OK, (struct store_question){.team = TEAM});
    cr_assert_eq(reply->count, 5);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_view(reply->jobs[i].id, suite_format("job-%02u", 5 - i));
        cr_assert_view(reply->jobs[i].team, TEAM);
        cr_assert_view(reply->jobs[i].endpoint, ENDPOINT);
    }
    cr_assert_eq(reply->cursor.length, 0, "that was all");
}

Test(store_jobs, pages_show_each_job_once_though_new_ones_come)
{
    const struct store_reply *reply;
    struct view cursor = VIEW("");
    unsigned expected = 20;
    unsigned pages = 0;

    add_numbered(1, 20);
    do {
        reply =
            list(STORE_OK, (struct store_question){
                               .team = TEAM, .endpoint = ENDPOINT, .limit = 6, .cursor = cursor});
        cr_assert_leq(reply->count, 6);
        for (size_t i = 0; i < reply->count; i++) {
            cr_assert_view(reply->jobs[i].id, suite_format("job-%02u", expected--));
        }
        add_job(suite_format("new-%u", ++pages));
        if (pages == 2) {
            suite_reopen();
        }
        cursor = reply->cursor;
    } while (cursor.length > 0);
    cr_assert_eq(expected, 0);
    cr_assert_leq(pages, 5);
}

Test(store_jobs, jobs_of_the_same_moment_are_all_listed)
{
    const struct store_reply *reply;
    struct view cursor = VIEW("");
    bool seen[40] = {false};
    unsigned total = 0;

    for (unsigned i = 0; i < 40; i++) {
        add_job(suite_format("job-%02u", i));
    }
    do {
        reply = list(STORE_OK, (struct store_question){.team = TEAM, .limit = 7, .cursor = cursor});
        for (size_t i = 0; i < reply->count; i++) {
            unsigned number = (unsigned)(reply->jobs[i].id.data[4] - '0') * 10 +
                              (unsigned)(reply->jobs[i].id.data[5] - '0');

            cr_assert_not(seen[number], "twice: %u", number);
            seen[number] = true;
            total++;
        }
        cursor = reply->cursor;
    } while (cursor.length > 0);
    cr_assert_eq(total, 40);
}

Test(store_jobs, a_list_shows_only_the_jobs_of_its_team)
{
    const struct store_reply *reply;

    add_job(VIEW("mine"));
    add_job_of(ENDPOINT, OTHER_TEAM, VIEW("theirs"));
    reply = list(STORE_OK, (struct store_question){.team = OTHER_TEAM});
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->jobs[0].id, VIEW("theirs"));
    reply = list(STORE_OK, (struct store_question){.team = VIEW("nobody")});
    cr_assert_eq(reply->count, 0);
    reply = list(STORE_OK, (struct store_question){.team = VIEW("")});
    cr_assert_eq(reply->count, 2);
}

Test(store_jobs, a_list_is_filtered_by_endpoint_state_fate_and_time)
{
    struct store_question failed = result_question(VIEW("failed"), VIEW("x"));
    const struct store_reply *reply;
    uint64_t since_ms;

    add_job_of(OTHER_ENDPOINT, TEAM, VIEW("elsewhere"));
    add_result(VIEW("done"), VIEW("x"));
    add_result(VIEW("deleted"), VIEW("x"));
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, ABOUT("deleted"));
    suite_backend.pass(10);
    add_job(VIEW("failed"));
    failed.state = JOB_FAILED;
    EXPECT_THAT(STORE_OK, failed);
    suite_backend.pass(10);
    add_job(VIEW("queued"));

    reply = list(STORE_OK, (struct store_question){.team = TEAM, .endpoint = OTHER_ENDPOINT});
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->jobs[0].id, VIEW("elsewhere"));
    cr_assert_view(reply->jobs[0].endpoint, OTHER_ENDPOINT);
    reply = list(STORE_OK, (struct store_question){.team = TEAM, .endpoint = ENDPOINT});
    cr_assert_eq(reply->count, 4);
    reply = list(STORE_OK,
                 (struct store_question){.team = TEAM, .has_state = true, .state = JOB_COMPLETED});
    cr_assert_eq(reply->count, 2);
    cr_assert(has_job(reply, VIEW("done")) && has_job(reply, VIEW("deleted")));
    reply = list(STORE_OK, (struct store_question){.team = TEAM,
                                                   .has_state = true,
                                                   .state = JOB_COMPLETED,
                                                   .has_fate = true,
                                                   .fate = STORE_FATE_KEPT});
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->jobs[0].id, VIEW("done"));
    reply = list(STORE_OK,
                 (struct store_question){.team = TEAM, .has_state = true, .state = JOB_IN_QUEUE});
    cr_assert_eq(reply->count, 2);
    cr_assert_view(reply->jobs[0].id, VIEW("queued"));
    cr_assert_view(reply->jobs[1].id, VIEW("elsewhere"));
    since_ms = job_of(VIEW("failed")).submitted_ms;
    reply = list(STORE_OK, (struct store_question){.team = TEAM, .since_ms = since_ms});
    cr_assert_eq(reply->count, 2);
    cr_assert_view(reply->jobs[0].id, VIEW("queued"));
    cr_assert_view(reply->jobs[1].id, VIEW("failed"));
    reply = list(STORE_OK, (struct store_question){.team = TEAM, .since_ms = UINT64_MAX / 2});
    cr_assert_eq(reply->count, 0);
}

Test(store_jobs, a_filtered_list_is_paged_to_its_end)
{
    struct view cursor = VIEW("");
    unsigned found = 0;
    unsigned pages = 0;

    for (unsigned i = 0; i < 30; i++) {
        struct view name = suite_format("job-%02u", i);

        if (i % 10 == 0) {
            add_result(name, name);
        } else {
            add_job(name);
        }
    }
    do {
        const struct store_reply *reply =
            list(STORE_OK, (struct store_question){.team = TEAM,
                                                   .has_state = true,
                                                   .state = JOB_COMPLETED,
                                                   .limit = 2,
                                                   .cursor = cursor});

        for (size_t i = 0; i < reply->count; i++) {
            cr_assert_eq(reply->jobs[i].state, JOB_COMPLETED);
        }
        found += (unsigned)reply->count;
        cursor = reply->cursor;
        cr_assert_lt(++pages, 40, "the cursor doesn't move");
    } while (cursor.length > 0);
    cr_assert_eq(found, 3);
}

Test(store_jobs, a_cursor_that_is_none_is_refused)
{
    char longest[4096];
    const struct view bad[] = {VIEW("x"),    VIEW("\0\0"),     VIEW("' OR 1=1; --"),
                               VIEW("%00"),  VIEW("-1"),       VIEW("99999999999999999999999999"),
                               VIEW("(abc"), VIEW("\xff\xff"), view_make(longest, sizeof longest)};

    memset(longest, '9', sizeof longest);
    add_numbered(1, 3);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        list(STORE_BAD_CURSOR, (struct store_question){.team = TEAM, .cursor = bad[i]});
    }
}

/* A cursor is a caller's to send: it may not show what its team may not see. */
Test(store_jobs, a_cursor_of_another_team_shows_nothing_of_that_team)
{
    const struct store_reply *reply;
    struct view cursor;

    for (unsigned i = 0; i < 4; i++) {
        add_job_of(ENDPOINT, OTHER_TEAM, suite_format("theirs-%u", i));
        suite_backend.pass(5);
    }
    cursor = list(STORE_OK, (struct store_question){.team = OTHER_TEAM, .limit = 2})->cursor;
    cr_assert_gt(cursor.length, 0);
    reply = suite_ask(
        0, &(struct store_question){
               .operation = STORE_LIST_JOBS, .team = TEAM, .limit = 10, .cursor = cursor});
    cr_assert(reply->result == STORE_OK || reply->result == STORE_BAD_CURSOR);
    cr_assert_eq(reply->count, 0);
}

/* It stands in a URL. */
Test(store_jobs, a_cursor_is_of_characters_that_need_no_escaping_in_a_url)
{
    struct view cursor;

    add_numbered(1, 3);
    cursor = list(STORE_OK, (struct store_question){.team = TEAM, .limit = 1})->cursor;
    cr_assert_gt(cursor.length, 0);
    for (size_t i = 0; i < cursor.length; i++) {
        cr_assert_not_null(strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789-._~",
                                  cursor.data[i]),
                           "%.*s", (int)cursor.length, cursor.data);
    }
}

/* ---- purge ----------------------------------------------------------------------------------- */

Test(store_jobs, a_purge_marks_the_queued_jobs_of_one_team_and_endpoint)
{
    const struct store_reply *reply;

    add_job(VIEW("queued-1"));
    add_job(VIEW("queued-2"));
    add_result(VIEW("done"), VIEW("x"));
    add_job_of(ENDPOINT, OTHER_TEAM, VIEW("theirs"));
    add_job_of(OTHER_ENDPOINT, TEAM, VIEW("elsewhere"));
    EXPECT(STORE_OK, .operation = STORE_ADOPT_JOB, ABOUT("running"), .team = TEAM, .key = KEY,
           .state = JOB_IN_PROGRESS, .due_ms = FAR_MS, .deadline_ms = RETENTION_MS);
    reply = EXPECT(STORE_OK, .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = ENDPOINT);
    cr_assert_eq(reply->count, 2);
    suite_reopen();
    cr_assert(job_of(VIEW("queued-1")).cancel_wanted);
    cr_assert(job_of(VIEW("queued-2")).purged);
    cr_assert_not(job_of(VIEW("theirs")).purged);
    cr_assert_not(job_of(VIEW("running")).purged);
    cr_assert_not(job_of(VIEW("done")).purged);
    reply = EXPECT(STORE_OK, .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = ENDPOINT);
    cr_assert_eq(reply->count, 0, "they are marked already");
    reply =
        EXPECT(STORE_OK, .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = VIEW("nowhere"));
    cr_assert_eq(reply->count, 0);
}

Test(store_jobs, purged_jobs_are_leased_for_cancelling_until_they_are_cleared)
{
    struct store_question claim = {
        .operation = STORE_CLAIM_CANCELS, .limit = 10, .lease_ms = STORE_LEASE_MS};
    const struct store_reply *reply;

    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 0);
    add_job(VIEW("job-1"));
    add_job(VIEW("job-2"));
    add_job_of(OTHER_ENDPOINT, TEAM, VIEW("job-3"));
    EXPECT(STORE_OK, .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = ENDPOINT);
    EXPECT(STORE_OK, .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = OTHER_ENDPOINT);
    claim.limit = 2;
    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 2);
    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 1);
    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 0, "all are leased");
    suite_backend.pass(STORE_LEASE_MS + 100);
    claim.limit = 10;
    reply = EXPECT_THAT(STORE_OK, claim);
    cr_assert_eq(reply->count, 3);
    cr_assert(has_job(reply, VIEW("job-1")) && has_job(reply, VIEW("job-2")) &&
              has_job(reply, VIEW("job-3")));
    EXPECT(STORE_OK, .operation = STORE_CLEAR_CANCEL, ABOUT("job-1"));
    suite_backend.pass(STORE_LEASE_MS + 100);
    reply = EXPECT_THAT(STORE_OK, claim);
    cr_assert_eq(reply->count, 2);
    cr_assert_not(has_job(reply, VIEW("job-1")));
    cr_assert_not(job_of(VIEW("job-1")).cancel_wanted);
    cr_assert(job_of(VIEW("job-1")).purged, "a 404 of it means CANCELLED");
}

Test(store_jobs, a_second_purge_marks_what_is_still_queued_and_leaves_leases_alone)
{
    struct store_question claim = {
        .operation = STORE_CLAIM_CANCELS, .limit = 10, .lease_ms = STORE_LEASE_MS};
    struct store_question purge = {
        .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = ENDPOINT};

    add_job(VIEW("job-1"));
    add_job(VIEW("job-2"));
    cr_assert_eq(EXPECT_THAT(STORE_OK, purge)->count, 2);
    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 2);
    EXPECT(STORE_OK, .operation = STORE_CLEAR_CANCEL, ABOUT("job-1"));
    cr_assert_eq(EXPECT_THAT(STORE_OK, purge)->count, 1, "job-1 is still queued");
    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 1, "job-2 is leased");
    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 0);
}

Test(store_jobs, cancelling_and_polling_a_purged_job_do_not_disturb_each_other)
{
    struct store_question claim = {
        .operation = STORE_CLAIM_CANCELS, .limit = 10, .lease_ms = STORE_LEASE_MS};
    struct store_question due = due_question(10);
    const struct store_reply *reply;
    uint64_t fence;

    add_job(VIEW("job-1"));
    EXPECT(STORE_OK, .operation = STORE_MARK_PURGED, .team = TEAM, .endpoint = ENDPOINT);
    reply = EXPECT_THAT(STORE_OK, due);
    cr_assert_eq(reply->count, 1);
    fence = reply->jobs[0].fence;
    cr_assert_eq(EXPECT_THAT(STORE_OK, claim)->count, 1);
    EXPECT(STORE_OK, .operation = STORE_RESCHEDULE, ABOUT("job-1"), .fence = fence,
           .state = JOB_IN_QUEUE, .due_ms = 0);
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 1);
}
