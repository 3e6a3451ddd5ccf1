#include "build_config.h"

#include <string.h>

#include "store_suite.h"

/* The schedule: which job is polled when and by whom. */

TestSuite(store_schedule, .init = suite_set_up, .fini = suite_tear_down);

#define ABOUT(job_name) .endpoint = ENDPOINT, .job = VIEW(job_name)

static const struct store_reply *claim_due(uint32_t limit)
{
    struct store_question question = due_question(limit);

    return EXPECT_THAT(STORE_OK, question);
}

static const struct store_reply *claim_job(enum store_result wanted, const char *job)
{
    struct store_question question = {.operation = STORE_CLAIM_JOB,
                                      .endpoint = ENDPOINT,
                                      .job = view_of_string(job),
                                      .lease_ms = STORE_LEASE_MS};

    return EXPECT_THAT(wanted, question);
}

static struct store_question reschedule(const char *job, uint64_t fence, uint64_t due_ms)
{
    return (struct store_question){.operation = STORE_RESCHEDULE,
                                   .endpoint = ENDPOINT,
                                   .job = view_of_string(job),
                                   .fence = fence,
                                   .state = JOB_IN_PROGRESS,
                                   .due_ms = due_ms};
}

Test(store_schedule, nothing_is_due_where_nothing_is)
{
    const struct store_reply *reply = claim_due(10);

    cr_assert_eq(reply->count, 0);
    cr_assert_eq(reply->next_ms, UINT64_MAX);
}

Test(store_schedule, the_earliest_deadline_comes_first_and_those_past_theirs_last)
{
    static const char *const order[] = {"10s", "20s", "30s", "40s", "past-1", "past-2"};
    const struct store_reply *reply;

    add_job_due(VIEW("past-2"), 0, 2);
    suite_backend.pass(10);
    add_job_due(VIEW("past-1"), 0, 1);
    add_job_due(VIEW("30s"), 0, 30 * SECOND_MS);
    add_job_due(VIEW("10s"), 0, 10 * SECOND_MS);
    add_job_due(VIEW("40s"), 0, 40 * SECOND_MS);
    add_job_due(VIEW("20s"), 0, 20 * SECOND_MS);
    suite_backend.pass(10);
    for (size_t i = 0; i < 6; i += reply->count) {
        reply = claim_due(i == 0 ? 2 : 1);
        cr_assert_eq(reply->count, i == 0 ? 2 : 1);
        for (size_t at = 0; at < reply->count; at++) {
            if (i + at < 4) {
                cr_assert_view(reply->jobs[at].id, view_of_string(order[i + at]));
            } else {
                cr_assert(view_starts_with(reply->jobs[at].id, VIEW("past-")));
            }
        }
    }
    cr_assert_eq(claim_due(10)->count, 0);
}

Test(store_schedule, the_order_holds_within_one_answer)
{
    const struct store_reply *reply;

    add_job_due(VIEW("past"), 0, 1);
    add_job_due(VIEW("b"), 0, 20 * SECOND_MS);
    add_job_due(VIEW("c"), 0, 30 * SECOND_MS);
    add_job_due(VIEW("a"), 0, 10 * SECOND_MS);
    suite_backend.pass(10);
    reply = claim_due(10);
    cr_assert_eq(reply->count, 4);
    cr_assert_view(reply->jobs[0].id, VIEW("a"));
    cr_assert_view(reply->jobs[1].id, VIEW("b"));
    cr_assert_view(reply->jobs[2].id, VIEW("c"));
    cr_assert_view(reply->jobs[3].id, VIEW("past"));
}

Test(store_schedule, a_job_is_due_when_its_time_has_come_and_not_before)
{
    const struct store_reply *reply;

    add_job_due(VIEW("job-1"), FAR_MS, RETENTION_MS);
    reply = claim_due(10);
    cr_assert_eq(reply->count, 0);
    cr_assert_gt(reply->next_ms, reply->now_ms);
    cr_assert_leq(reply->next_ms, reply->now_ms + FAR_MS);
    cr_assert_eq(reply->next_ms, job_of(VIEW("job-1")).due_ms);
    suite_backend.pass(FAR_MS + 10);
    reply = claim_due(10);
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->jobs[0].id, VIEW("job-1"));
    cr_assert_view(reply->jobs[0].team, TEAM);
    cr_assert_eq(reply->jobs[0].generation, 1);
    cr_assert_eq(reply->jobs[0].state, JOB_IN_QUEUE);
}

Test(store_schedule, jobs_of_other_endpoints_are_not_given)
{
    add_job_of(OTHER_ENDPOINT, TEAM, VIEW("job-1"));
    cr_assert_eq(claim_due(10)->count, 0);
}

Test(store_schedule, a_leased_job_is_given_to_nobody_until_the_lease_ends)
{
    const struct store_reply *first;
    const struct store_reply *second;

    add_job(VIEW("job-1"));
    first = claim_due(10);
    cr_assert_eq(first->count, 1);
    cr_assert_gt(first->jobs[0].fence, 0);
    second = claim_due(10);
    cr_assert_eq(second->count, 0);
    cr_assert_gt(second->next_ms, second->now_ms);
    suite_backend.pass(STORE_LEASE_MS / 2);
    cr_assert_eq(claim_due(10)->count, 0);
    suite_backend.pass(STORE_LEASE_MS / 2 + 100);
    second = claim_due(10);
    cr_assert_eq(second->count, 1);
    cr_assert_gt(second->jobs[0].fence, first->jobs[0].fence);
}

/* Where there is but one podgate, a lease from before its start is nobody's. */
Test(store_schedule, fences_outlive_a_restart)
{
    uint64_t fence;
    const struct store_reply *reply;

    add_job(VIEW("job-1"));
    fence = claim_due(10)->jobs[0].fence;
    suite_reopen();
    if (store_is_shared(suite_instances[0].store)) {
        cr_assert_eq(claim_due(10)->count, 0, "the dead podgate may be another one that lives");
    }
    suite_backend.pass(STORE_LEASE_MS + 100);
    reply = claim_due(10);
    cr_assert_eq(reply->count, 1);
    cr_assert_gt(reply->jobs[0].fence, fence);
}

Test(store_schedule, the_fences_of_a_job_grow)
{
    uint64_t last[10] = {0};

    for (unsigned i = 0; i < 10; i++) {
        add_job(suite_format("job-%u", i));
    }
    for (int round = 0; round < 4; round++) {
        const struct store_reply *reply = claim_due(10);

        cr_assert_eq(reply->count, 10);
        for (size_t i = 0; i < 10; i++) {
            unsigned number = (unsigned)(reply->jobs[i].id.data[4] - '0');
            struct store_question question = reschedule("", reply->jobs[i].fence, 0);

            cr_assert_gt(reply->jobs[i].fence, last[number]);
            last[number] = reply->jobs[i].fence;
            question.job = reply->jobs[i].id;
            EXPECT_THAT(STORE_OK, question);
        }
    }
}

Test(store_schedule, a_lease_is_taken_for_one_job_that_is_not_due)
{
    const struct store_reply *reply;
    uint64_t fence;

    add_job_due(VIEW("job-1"), FAR_MS, RETENTION_MS);
    reply = claim_job(STORE_OK, "job-1");
    cr_assert_view(reply->job.id, VIEW("job-1"));
    cr_assert_view(reply->job.team, TEAM);
    fence = reply->job.fence;
    cr_assert_gt(fence, 0);
    /* One's own lease is lengthened. */
    suite_backend.pass(STORE_LEASE_MS / 2);
    cr_assert_eq(claim_job(STORE_OK, "job-1")->job.fence, fence);
    suite_backend.pass(STORE_LEASE_MS / 2 + SECOND_MS);
    cr_assert_eq(claim_due(10)->count, 0, "it was lengthened");
    {
        struct store_question question = reschedule("job-1", fence, FAR_MS);

        EXPECT_THAT(STORE_OK, question);
    }
}

Test(store_schedule, a_lease_that_lapsed_is_taken_with_a_greater_fence)
{
    uint64_t fence;
    struct store_question late;

    add_job(VIEW("job-1"));
    fence = claim_job(STORE_OK, "job-1")->job.fence;
    suite_backend.pass(STORE_LEASE_MS + 100);
    cr_assert_eq(claim_due(10)->count, 1);
    late = reschedule("job-1", fence, 0);
    EXPECT_THAT(STORE_CONFLICT, late);
}

Test(store_schedule, a_job_that_has_ended_is_not_leased)
{
    const struct store_reply *reply;

    add_result(VIEW("job-1"), VIEW("x"));
    reply = claim_job(STORE_CONFLICT, "job-1");
    cr_assert_eq(reply->job.state, JOB_COMPLETED);
    cr_assert_eq(reply->job.fate, STORE_FATE_KEPT);
    claim_job(STORE_ABSENT, "job-2");
}

Test(store_schedule, a_lease_ends_by_rescheduling_with_what_the_poll_brought)
{
    const struct store_reply *reply;
    struct store_question question;
    struct store_job job;
    uint64_t deadline_ms;

    add_job(VIEW("job-1"));
    deadline_ms = job_of(VIEW("job-1")).deadline_ms;
    question = reschedule("job-1", claim_due(1)->jobs[0].fence, FAR_MS);
    question.missing = 2;
    question.missing_since_ms = 30 * SECOND_MS;
    question.failures = 5;
    reply = EXPECT_THAT(STORE_OK, question);
    job = job_of(VIEW("job-1"));
    cr_assert_eq(job.state, JOB_IN_PROGRESS);
    cr_assert_eq(job.due_ms, reply->now_ms + FAR_MS);
    cr_assert_eq(job.deadline_ms, deadline_ms, "0 leaves it");
    cr_assert_eq(job.missing_count, 2);
    cr_assert_eq(job.missing_since_ms, reply->now_ms - 30 * SECOND_MS);
    cr_assert_eq(job.failure_count, 5);
    cr_assert_eq(claim_due(1)->count, 0);
    suite_backend.pass(FAR_MS + 10);
    reply = claim_due(1);
    cr_assert_eq(reply->count, 1);
    cr_assert_eq(reply->jobs[0].missing_count, 2);
    cr_assert_eq(reply->jobs[0].failure_count, 5);
    question = reschedule("job-1", reply->jobs[0].fence, 0);
    question.deadline_ms = HOUR_MS;
    reply = EXPECT_THAT(STORE_OK, question);
    job = job_of(VIEW("job-1"));
    cr_assert_eq(job.deadline_ms, reply->now_ms + HOUR_MS);
    cr_assert_eq(job.missing_count, 0);
    cr_assert_eq(job.missing_since_ms, 0);
    cr_assert_eq(job.failure_count, 0);
    cr_assert_eq(claim_due(1)->count, 1);
}

Test(store_schedule, a_lease_is_given_back_once)
{
    struct store_question question;

    add_job(VIEW("job-1"));
    question = reschedule("job-1", claim_due(1)->jobs[0].fence, 0);
    EXPECT_THAT(STORE_OK, question);
    cr_assert_eq(claim_due(1)->count, 1);
    EXPECT_THAT(STORE_CONFLICT, question);
    cr_assert_eq(claim_due(1)->count, 0, "the other's lease still holds");
}

Test(store_schedule, a_stale_fence_changes_nothing)
{
    struct store_question question;
    uint64_t fence;

    add_job(VIEW("job-1"));
    fence = claim_due(1)->jobs[0].fence;
    question = reschedule("job-1", fence + 1, 0);
    EXPECT_THAT(STORE_CONFLICT, question);
    question.fence = fence - 1;
    EXPECT_THAT(STORE_CONFLICT, question);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_IN_QUEUE);
}

Test(store_schedule, a_poll_that_comes_after_the_end_changes_nothing)
{
    struct store_question ended = result_question(VIEW("job-1"), VIEW("x"));
    struct store_question question;

    add_job(VIEW("job-1"));
    question = reschedule("job-1", claim_due(1)->jobs[0].fence, 0);
    EXPECT_THAT(STORE_OK, ended);
    EXPECT_THAT(STORE_CONFLICT, question);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_COMPLETED);
    suite_backend.pass(POLL_MS);
    cr_assert_eq(claim_due(1)->count, 0);
}

Test(store_schedule, whoever_polled_a_job_may_end_it)
{
    struct store_question ended = result_question(VIEW("job-1"), VIEW("x"));
    uint64_t fence;

    add_job(VIEW("job-1"));
    fence = claim_due(1)->jobs[0].fence;
    suite_backend.pass(STORE_LEASE_MS + 100);
    cr_assert_gt(claim_due(1)->jobs[0].fence, fence);
    EXPECT_THAT(STORE_OK, ended);
}

Test(store_schedule, an_end_takes_a_job_off_the_schedule)
{
    struct store_question ended = result_question(VIEW("job-1"), VIEW("x"));
    const struct store_reply *reply;

    add_job(VIEW("job-1"));
    EXPECT_THAT(STORE_OK, ended);
    suite_reopen();
    suite_backend.pass(POLL_MS + SECOND_MS);
    reply = claim_due(10);
    cr_assert_eq(reply->count, 0);
    cr_assert_eq(reply->next_ms, UINT64_MAX);
}

/* After a clock was set back, a job must not wait for the old time to come. */
Test(store_schedule, a_due_time_further_off_than_any_poll_counts_as_now)
{
    struct store_question question = due_question(10);

    add_job_due(VIEW("job-1"), HOUR_MS, 2 * HOUR_MS);
    add_job_due(VIEW("job-2"), FAR_MS, 2 * HOUR_MS);
    cr_assert_eq(EXPECT_THAT(STORE_OK, question)->count, 1);
    cr_assert_eq(EXPECT_THAT(STORE_OK, question)->count, 0);
}

Test(store_schedule, no_more_jobs_than_asked_for_are_given)
{
    size_t found = 0;
    size_t count;

    for (unsigned i = 0; i < 25; i++) {
        add_job(suite_format("job-%u", i));
    }
    do {
        count = claim_due(10)->count;
        cr_assert_leq(count, 10);
        found += count;
    } while (count > 0);
    cr_assert_eq(found, 25);
}

Test(store_schedule, the_endpoints_with_jobs_on_the_schedule_are_listed)
{
    const struct store_reply *reply;
    uint64_t here = 0;
    uint64_t there = 0;

    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_LIST_ENDPOINTS)->count, 0);
    add_job(VIEW("job-1"));
    add_job(VIEW("job-2"));
    add_job_of(OTHER_ENDPOINT, TEAM, VIEW("job-1"));
    add_job_of(VIEW("ended"), TEAM, VIEW("job-1"));
    EXPECT(STORE_OK, .operation = STORE_PUT_RESULT, .endpoint = VIEW("ended"), .job = VIEW("job-1"),
           .generation = 1, .state = JOB_CANCELLED);
    (void)claim_due(1);
    suite_reopen();
    reply = EXPECT(STORE_OK, .operation = STORE_LIST_ENDPOINTS);
    for (size_t i = 0; i < reply->count; i++) {
        if (view_equal(reply->endpoints[i].endpoint, ENDPOINT)) {
            here = reply->endpoints[i].outstanding;
        } else if (view_equal(reply->endpoints[i].endpoint, OTHER_ENDPOINT)) {
            there = reply->endpoints[i].outstanding;
        } else {
            cr_assert_eq(reply->endpoints[i].outstanding, 0);
        }
    }
    cr_assert_eq(here, 2);
    cr_assert_eq(there, 1);
}
