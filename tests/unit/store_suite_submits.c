#include "build_config.h"

#include <string.h>

#include "store_suite.h"

/* Submits: claims of idempotency keys, what was sent, and what came of it. */

TestSuite(store_submits, .init = suite_set_up, .fini = suite_tear_down);

static const struct store_reply *claim(enum store_result wanted, unsigned number, struct view key)
{
    struct store_question question = submit_question(STORE_CLAIM_SUBMIT, number, key);

    return EXPECT_THAT(wanted, question);
}

static void send_submit(unsigned number, struct view key, uint64_t fence)
{
    struct store_question question = submit_question(STORE_MARK_SENT, number, key);

    question.fence = fence;
    EXPECT_THAT(STORE_OK, question);
}

static void settle(unsigned number, struct view key, enum store_submit_state state)
{
    struct store_question question = submit_question(STORE_SETTLE_SUBMIT, number, key);

    question.submit.state = state;
    question.note = VIEW("the connection broke");
    EXPECT_THAT(STORE_OK, question);
}

/* Claims, sends, and settles as KNOWN, with an answer. */
static void know(unsigned number, struct view key, struct view job, struct view answer)
{
    struct store_question question = known_question(number, key, job);

    if (key.length > 0) {
        send_submit(number, key, claim(STORE_OK, number, key)->fence);
    }
    question.answer_status = 200;
    question.answer = suite_body(answer);
    EXPECT_THAT(STORE_OK, question);
}

static const struct store_reply *unknown_submits(void)
{
    return EXPECT(STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 100);
}

/* ---- claims ---------------------------------------------------------------------------------- */

Test(store_submits, a_claim_gives_a_fence)
{
    cr_assert_gt(claim(STORE_OK, 1, VIEW("k"))->fence, 0);
}

Test(store_submits, a_key_that_is_in_flight_is_busy_before_and_after_it_was_sent)
{
    uint64_t fence = claim(STORE_OK, 1, VIEW("k"))->fence;

    claim(STORE_BUSY, 2, VIEW("k"));
    send_submit(1, VIEW("k"), fence);
    claim(STORE_BUSY, 2, VIEW("k"));
}

Test(store_submits, a_key_with_another_digest_is_a_mismatch_in_flight_and_known)
{
    struct store_question other = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));
    struct store_question known = known_question(1, VIEW("k"), VIEW("job-1"));
    uint64_t fence = claim(STORE_OK, 1, VIEW("k"))->fence;

    other.submit.digest[STORE_DIGEST_BYTES - 1] ^= 1;
    EXPECT_THAT(STORE_MISMATCH, other);
    send_submit(1, VIEW("k"), fence);
    EXPECT_THAT(STORE_MISMATCH, other);
    EXPECT_THAT(STORE_OK, known);
    EXPECT_THAT(STORE_MISMATCH, other);
}

Test(store_submits, a_key_belongs_to_its_team_endpoint_and_operation)
{
    struct store_question other_team = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));
    struct store_question other_endpoint = submit_question(STORE_CLAIM_SUBMIT, 3, VIEW("k"));
    struct store_question other_operation = submit_question(STORE_CLAIM_SUBMIT, 4, VIEW("k"));

    claim(STORE_OK, 1, VIEW("k"));
    other_team.submit.team = OTHER_TEAM;
    EXPECT_THAT(STORE_OK, other_team);
    other_endpoint.submit.endpoint = OTHER_ENDPOINT;
    EXPECT_THAT(STORE_OK, other_endpoint);
    other_operation.submit.operation = STORE_SUBMIT_RUNSYNC;
    EXPECT_THAT(STORE_OK, other_operation);
    claim(STORE_BUSY, 5, VIEW("k"));
}

Test(store_submits, an_intent_lapses_and_its_late_owner_may_not_send)
{
    uint64_t first = claim(STORE_OK, 1, VIEW("k"))->fence;
    struct store_question late = submit_question(STORE_MARK_SENT, 1, VIEW("k"));
    uint64_t second;

    suite_backend.pass(STORE_LEASE_MS / 2);
    claim(STORE_BUSY, 2, VIEW("k"));
    suite_backend.pass(STORE_LEASE_MS / 2 + 100);
    second = claim(STORE_OK, 2, VIEW("k"))->fence;
    cr_assert_gt(second, first);
    late.fence = first;
    EXPECT_THAT(STORE_CONFLICT, late);
    send_submit(2, VIEW("k"), second);
    EXPECT_THAT(STORE_CONFLICT, late);
}

Test(store_submits, a_lapsed_intent_that_nobody_took_may_not_be_sent)
{
    struct store_question late = submit_question(STORE_MARK_SENT, 1, VIEW("k"));

    late.fence = claim(STORE_OK, 1, VIEW("k"))->fence;
    suite_backend.pass(STORE_LEASE_MS + 100);
    EXPECT_THAT(STORE_CONFLICT, late);
}

Test(store_submits, a_known_submit_is_replayed_byte_for_byte)
{
    struct view answer = VIEW("{\"id\":\"job-1\",\"n\":\xff\x00\x01 'x'\"}\r\n");
    const struct store_reply *reply;

    know(1, VIEW("k"), VIEW("job-1"), answer);
    for (int i = 0; i < 2; i++) {
        reply = claim(STORE_REPLAY, 2, VIEW("k"));
        cr_assert_view(body_view(reply->body), answer);
        cr_assert_eq(reply->submit.answer_status, 200);
        cr_assert_view(reply->submit.job, VIEW("job-1"));
        cr_assert_view(reply->submit.id, submit_id(1));
        cr_assert_eq(reply->submit.state, STORE_SUBMIT_KNOWN);
        suite_reopen();
    }
}

Test(store_submits, a_replay_ends_with_the_keys_life)
{
    know(1, VIEW("k"), VIEW("job-1"), VIEW("{}"));
    suite_backend.pass(STORE_IDEMPOTENCY_LIFE_MS - MINUTE_MS);
    claim(STORE_REPLAY, 2, VIEW("k"));
    suite_backend.pass(2 * MINUTE_MS);
    claim(STORE_OK, 2, VIEW("k"));
}

Test(store_submits, a_refused_submit_is_claimed_anew)
{
    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    settle(1, VIEW("k"), STORE_SUBMIT_REFUSED);
    claim(STORE_OK, 2, VIEW("k"));
    cr_assert_eq(unknown_submits()->count, 0);
}

Test(store_submits, an_unknown_submit_stays_unknown_to_its_key)
{
    const struct store_reply *reply;

    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    settle(1, VIEW("k"), STORE_SUBMIT_UNKNOWN);
    for (int i = 0; i < 2; i++) {
        reply = claim(STORE_UNKNOWN, 2, VIEW("k"));
        cr_assert_view(reply->submit.id, submit_id(1));
        cr_assert_gt(reply->submit.sent_ms, 0);
        suite_reopen();
    }
}

Test(store_submits, accepting_a_duplicate_claims_anew_and_keeps_the_unknown_one_listed)
{
    struct store_question question = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));
    const struct store_reply *reply;
    uint64_t fence;

    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    settle(1, VIEW("k"), STORE_SUBMIT_UNKNOWN);
    question.accept_duplicate = true;
    fence = EXPECT_THAT(STORE_OK, question)->fence;
    reply = unknown_submits();
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->submits[0].id, submit_id(1));
    cr_assert_eq(reply->submits[0].idempotency_key.length, 0);
    /* The key is the new one's from here on. */
    send_submit(2, VIEW("k"), fence);
    claim(STORE_BUSY, 3, VIEW("k"));
}

Test(store_submits, accepting_a_duplicate_means_the_same_request)
{
    struct store_question other = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));

    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    settle(1, VIEW("k"), STORE_SUBMIT_UNKNOWN);
    other.accept_duplicate = true;
    other.submit.digest[0] ^= 1;
    EXPECT_THAT(STORE_MISMATCH, other);
}

Test(store_submits, accepting_a_duplicate_claims_nothing_that_is_in_flight_or_known)
{
    struct store_question question = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));
    struct store_question known = known_question(1, VIEW("k"), VIEW("job-1"));

    question.accept_duplicate = true;
    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    EXPECT_THAT(STORE_BUSY, question);
    EXPECT_THAT(STORE_OK, known);
    EXPECT_THAT(STORE_REPLAY, question);
}

Test(store_submits, a_sent_submit_whose_time_is_over_is_unknown_to_its_key)
{
    struct store_question sent = submit_question(STORE_MARK_SENT, 1, VIEW("k"));

    sent.fence = claim(STORE_OK, 1, VIEW("k"))->fence;
    sent.until_ms = 30 * SECOND_MS;
    EXPECT_THAT(STORE_OK, sent);
    suite_backend.pass(20 * SECOND_MS);
    claim(STORE_BUSY, 2, VIEW("k"));
    suite_backend.pass(10 * SECOND_MS + 100);
    claim(STORE_UNKNOWN, 2, VIEW("k"));
}

Test(store_submits, keys_of_any_bytes_are_told_apart)
{
    char bytes[STORE_IDEMPOTENCY_MAXIMUM];
    struct view longest = view_make(bytes, sizeof bytes);
    const struct view odd[] = {
        VIEW("a:b"),   VIEW("a"),          VIEW("a:"),  VIEW(":a"),           VIEW("' OR 1=1 --"),
        VIEW("{abc}"), VIEW("a\0b"),       VIEW("A"),   VIEW("*?[a]"),        VIEW("\\x00"),
        VIEW("%s%n"),  VIEW("a\r\nGET x"), VIEW("123"), VIEW("\xff\xfe\xfd"),
    };
    unsigned number = 1;

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (char)(unsigned char)(i + 1);
    }
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        know(number, odd[i], suite_format("job-%u", number), suite_format("answer %u", number));
        number++;
    }
    know(number, longest, suite_format("job-%u", number), suite_format("answer %u", number));
    for (unsigned i = 0; i + 1 < number; i++) {
        cr_assert_view(body_view(claim(STORE_REPLAY, 99, odd[i])->body),
                       suite_format("answer %u", i + 1));
    }
    cr_assert_view(body_view(claim(STORE_REPLAY, 99, longest)->body),
                   suite_format("answer %u", number));
    claim(STORE_OK, 98, view_first(longest, sizeof bytes - 1));
}

/* ---- what was sent --------------------------------------------------------------------------- */

Test(store_submits, a_sent_submit_without_key_is_listed_as_unknown_once_its_time_is_over)
{
    struct store_question sent = submit_question(STORE_MARK_SENT, 1, VIEW(""));
    const struct store_reply *reply;

    sent.submit.operation = STORE_SUBMIT_RUNSYNC;
    EXPECT_THAT(STORE_OK, sent);
    cr_assert_eq(unknown_submits()->count, 0);
    suite_backend.pass(MINUTE_MS + 100);
    for (int i = 0; i < 2; i++) {
        reply = unknown_submits();
        cr_assert_eq(reply->count, 1);
        cr_assert_view(reply->submits[0].id, submit_id(1));
        cr_assert_view(reply->submits[0].team, TEAM);
        cr_assert_view(reply->submits[0].key, KEY);
        cr_assert_view(reply->submits[0].endpoint, ENDPOINT);
        cr_assert_eq(reply->submits[0].job.length, 0);
        cr_assert_eq(reply->submits[0].idempotency_key.length, 0);
        cr_assert_eq(reply->submits[0].operation, STORE_SUBMIT_RUNSYNC);
        cr_assert_eq(reply->submits[0].state, STORE_SUBMIT_UNKNOWN);
        cr_assert_eq(memcmp(reply->submits[0].digest, sent.submit.digest, STORE_DIGEST_BYTES), 0);
        cr_assert_lt(reply->submits[0].sent_ms, reply->now_ms);
        cr_assert_geq(reply->now_ms - reply->submits[0].sent_ms, MINUTE_MS);
        suite_reopen();
    }
}

Test(store_submits, a_submit_that_is_sent_and_settled_leaves_nothing_unknown)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));

    send_submit(1, VIEW(""), 0);
    EXPECT_THAT(STORE_OK, known);
    send_submit(2, VIEW(""), 0);
    settle(2, VIEW(""), STORE_SUBMIT_REFUSED);
    suite_backend.pass(HOUR_MS);
    cr_assert_eq(unknown_submits()->count, 0);
}

Test(store_submits, a_late_outcome_takes_a_submit_off_the_list_of_unknown_ones)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));

    send_submit(1, VIEW(""), 0);
    suite_backend.pass(MINUTE_MS + 100);
    cr_assert_eq(unknown_submits()->count, 1);
    EXPECT_THAT(STORE_OK, known);
    cr_assert_eq(unknown_submits()->count, 0);
    cr_assert_view(job_of(VIEW("job-1")).team, TEAM);
}

/* ---- the outcome ----------------------------------------------------------------------------- */

Test(store_submits, a_known_submit_enters_its_job)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    const struct store_reply *reply;
    struct store_job job;

    known.kind = STORE_KIND_RUNSYNC;
    send_submit(1, VIEW(""), 0);
    EXPECT_THAT(STORE_OK, known);
    suite_reopen();
    reply =
        EXPECT(STORE_OK, .operation = STORE_GET_JOB, .endpoint = ENDPOINT, .job = VIEW("job-1"));
    job = reply->job;
    cr_assert_view(job.endpoint, ENDPOINT);
    cr_assert_view(job.id, VIEW("job-1"));
    cr_assert_view(job.upstream_id, VIEW("job-1"));
    cr_assert_view(job.team, TEAM);
    cr_assert_view(job.key, KEY);
    cr_assert_eq(job.kind, STORE_KIND_RUNSYNC);
    cr_assert_eq(job.state, JOB_IN_QUEUE);
    cr_assert_eq(job.fate, STORE_FATE_NONE);
    cr_assert_eq(job.generation, 1);
    cr_assert_eq(job.ended_ms, 0);
    cr_assert_eq(job.expires_ms, 0);
    cr_assert_eq(job.ttl_ms, 24 * HOUR_MS);
    cr_assert_eq(job.result_bytes, 0);
    cr_assert_eq(job.stored_bytes, 0);
    cr_assert_eq(job.input_bytes, 0);
    cr_assert_eq(job.missing_count, 0);
    cr_assert_eq(job.missing_since_ms, 0);
    cr_assert_eq(job.failure_count, 0);
    cr_assert_eq(job.chunk_count, 0);
    cr_assert_not(job.cancel_wanted);
    cr_assert_not(job.purged);
    cr_assert_leq(job.submitted_ms, reply->now_ms);
    cr_assert_gt(job.submitted_ms + HOUR_MS, reply->now_ms);
    cr_assert_eq(job.due_ms - job.submitted_ms, FAR_MS);
    cr_assert_eq(job.deadline_ms - job.submitted_ms, RETENTION_MS);
}

Test(store_submits, a_submit_that_was_never_marked_is_settled_as_well)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    struct store_question keyed = known_question(2, VIEW("k"), VIEW("job-2"));

    EXPECT_THAT(STORE_OK, known);
    cr_assert_view(job_of(VIEW("job-1")).team, TEAM);
    keyed.answer_status = 200;
    keyed.answer = suite_body(VIEW("answer"));
    EXPECT_THAT(STORE_OK, keyed);
    cr_assert_view(body_view(claim(STORE_REPLAY, 3, VIEW("k"))->body), VIEW("answer"));
    settle(4, VIEW(""), STORE_SUBMIT_UNKNOWN);
    cr_assert_eq(unknown_submits()->count, 1);
}

Test(store_submits, a_submit_may_be_settled_twice_with_the_same_job)
{
    struct store_question known = known_question(1, VIEW("k"), VIEW("job-1"));

    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    EXPECT_THAT(STORE_OK, known);
    EXPECT_THAT(STORE_OK, known);
    cr_assert_eq(unknown_submits()->count, 0);
    claim(STORE_REPLAY, 2, VIEW("k"));
}

Test(store_submits, a_job_that_has_ended_already_is_entered_with_its_result)
{
    struct view bytes = VIEW("{\"id\":\"job-1\",\"status\":\"COMPLETED\",\"output\":NaN}");
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    struct store_question due = due_question(10);
    struct store_job job;
    struct view stored;

    known.state = JOB_COMPLETED;
    known.kind = STORE_KIND_RUNSYNC;
    known.fate = STORE_FATE_KEPT;
    known.keep_ms = KEEP_MS;
    known.execution_ms = 12;
    known.delay_ms = UINT64_MAX;
    known.result = suite_body(bytes);
    known.result_bytes = bytes.length;
    memset(known.digest, 0x77, sizeof known.digest);
    send_submit(1, VIEW(""), 0);
    EXPECT_THAT(STORE_OK, known);
    suite_reopen();
    job = result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, bytes);
    cr_assert_eq(job.state, JOB_COMPLETED);
    cr_assert_eq(job.fate, STORE_FATE_KEPT);
    cr_assert_eq(job.execution_ms, 12);
    cr_assert_eq(job.delay_ms, UINT64_MAX);
    cr_assert_eq(job.digest[31], 0x77);
    cr_assert_eq(job.expires_ms - job.ended_ms, KEEP_MS);
    suite_backend.pass(FAR_MS + SECOND_MS);
    cr_assert_eq(EXPECT_THAT(STORE_OK, due)->count, 0, "it is on the schedule");
}

Test(store_submits, an_id_that_is_in_the_ledger_keeps_its_owner)
{
    struct store_question known = known_question(1, VIEW("k"), VIEW("job-1"));
    const struct store_reply *reply;

    add_job_of(ENDPOINT, OTHER_TEAM, VIEW("job-1"));
    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    reply = EXPECT_THAT(STORE_OWNED, known);
    cr_assert_view(reply->job.team, OTHER_TEAM);
    cr_assert_view(reply->job.id, VIEW("job-1"));
    cr_assert_view(job_of(VIEW("job-1")).team, OTHER_TEAM);
    reply = unknown_submits();
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->submits[0].id, submit_id(1));
    claim(STORE_UNKNOWN, 2, VIEW("k"));
}

Test(store_submits, an_id_of_ones_own_team_is_owned_too)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));

    add_result(VIEW("job-1"), VIEW("old"));
    EXPECT_THAT(STORE_OWNED, known);
    cr_assert_eq(job_of(VIEW("job-1")).state, JOB_COMPLETED);
}

Test(store_submits, the_same_id_on_another_endpoint_is_another_job)
{
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));

    add_job_of(OTHER_ENDPOINT, OTHER_TEAM, VIEW("job-1"));
    EXPECT_THAT(STORE_OK, known);
    cr_assert_view(job_of(VIEW("job-1")).team, TEAM);
}

Test(store_submits, an_input_is_kept_byte_for_byte)
{
    struct view input = VIEW("{\"input\":\"\xc3\xa9\x00\x01\"}");
    struct store_question known = known_question(1, VIEW(""), VIEW("job-1"));
    const struct store_reply *reply;

    known.input = suite_body(input);
    known.input_encoding = STORE_ENCODING_ZSTD;
    known.input_bytes = 4711;
    EXPECT_THAT(STORE_OK, known);
    suite_reopen();
    reply = EXPECT(STORE_OK, .operation = STORE_GET_JOB, .endpoint = ENDPOINT, .job = VIEW("job-1"),
                   .with_input = true);
    cr_assert_view(body_view(reply->body), input);
    cr_assert_eq(reply->input_encoding, STORE_ENCODING_ZSTD);
    cr_assert_eq(reply->job.input_bytes, 4711);
}

Test(store_submits, a_retry_that_upstream_took_changes_its_job_in_the_same_commit)
{
    struct store_question failed = result_question(VIEW("job-1"), VIEW("failed"));
    struct store_question known = known_question(2, VIEW("k"), VIEW("job-1"));
    struct store_question sent = submit_question(STORE_MARK_SENT, 2, VIEW("k"));
    struct store_question claimed = submit_question(STORE_CLAIM_SUBMIT, 2, VIEW("k"));
    struct store_job job;
    struct view stored;

    add_job(VIEW("job-1"));
    failed.state = JOB_FAILED;
    EXPECT_THAT(STORE_OK, failed);
    claimed.submit.operation = STORE_SUBMIT_RETRY;
    claimed.submit.job = VIEW("job-1");
    sent.submit.operation = STORE_SUBMIT_RETRY;
    sent.submit.job = VIEW("job-1");
    sent.fence = EXPECT_THAT(STORE_OK, claimed)->fence;
    EXPECT_THAT(STORE_OK, sent);
    known.submit.operation = STORE_SUBMIT_RETRY;
    known.generation = 1;
    known.upstream_id = VIEW("new-1");
    known.answer_status = 200;
    known.answer = suite_body(VIEW("retried"));
    EXPECT_THAT(STORE_OK, known);
    job = result_of(VIEW("job-1"), &stored);
    cr_assert_eq(job.generation, 2);
    cr_assert_eq(job.state, JOB_IN_QUEUE);
    cr_assert_view(job.upstream_id, VIEW("new-1"));
    cr_assert_eq(stored.length, 0);
    claimed.submit.id = submit_id(3);
    cr_assert_view(body_view(EXPECT_THAT(STORE_REPLAY, claimed)->body), VIEW("retried"));
    cr_assert_eq(unknown_submits()->count, 0);
}

/* ---- unknown ones ---------------------------------------------------------------------------- */

Test(store_submits, unknown_submits_are_listed_oldest_first_page_by_page)
{
    const struct store_reply *reply;
    struct view cursor = VIEW("");
    unsigned found = 0;

    for (unsigned i = 1; i <= 7; i++) {
        send_submit(i, VIEW(""), 0);
        suite_backend.pass(5);
    }
    for (unsigned i = 7; i >= 1; i--) {
        settle(i, VIEW(""), STORE_SUBMIT_UNKNOWN);
    }
    do {
        reply = EXPECT(STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 3, .cursor = cursor);
        cr_assert_leq(reply->count, 3);
        for (size_t i = 0; i < reply->count; i++) {
            cr_assert_view(reply->submits[i].id, submit_id(++found));
        }
        cursor = reply->cursor;
    } while (cursor.length > 0);
    cr_assert_eq(found, 7);
}

Test(store_submits, unknown_submits_are_listed_by_team_and_endpoint)
{
    struct store_question other = submit_question(STORE_SETTLE_SUBMIT, 2, VIEW(""));
    const struct store_reply *reply;

    settle(1, VIEW(""), STORE_SUBMIT_UNKNOWN);
    other.submit.state = STORE_SUBMIT_UNKNOWN;
    other.submit.team = OTHER_TEAM;
    other.submit.endpoint = OTHER_ENDPOINT;
    EXPECT_THAT(STORE_OK, other);
    cr_assert_eq(unknown_submits()->count, 2);
    reply = EXPECT(STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 10, .team = OTHER_TEAM);
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->submits[0].id, submit_id(2));
    reply = EXPECT(STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 10, .endpoint = ENDPOINT);
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->submits[0].id, submit_id(1));
    reply = EXPECT(STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 10, .endpoint = ENDPOINT,
                   .team = OTHER_TEAM);
    cr_assert_eq(reply->count, 0);
}

Test(store_submits, a_cursor_that_is_none_is_refused)
{
    const struct view bad[] = {VIEW("x"),  VIEW("\0"), VIEW("'; --"), VIEW("18446744073709551616"),
                               VIEW("-1"), VIEW("{}")};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        EXPECT(STORE_BAD_CURSOR, .operation = STORE_LIST_UNKNOWN, .limit = 3, .cursor = bad[i]);
    }
}

Test(store_submits, an_unknown_submit_is_settled_as_the_job_that_it_became)
{
    struct store_job job;

    settle(1, VIEW(""), STORE_SUBMIT_UNKNOWN);
    EXPECT(STORE_OK, .operation = STORE_RESOLVE_SUBMIT,
           .submit = {.id = submit_id(1), .job = VIEW("job-1")}, .kind = STORE_KIND_RUN,
           .due_ms = 0, .deadline_ms = RETENTION_MS, .ttl_ms = HOUR_MS);
    job = job_of(VIEW("job-1"));
    cr_assert_view(job.team, TEAM);
    cr_assert_view(job.key, KEY);
    cr_assert_eq(job.state, JOB_IN_QUEUE);
    cr_assert_eq(unknown_submits()->count, 0);
    EXPECT(STORE_CONFLICT, .operation = STORE_RESOLVE_SUBMIT,
           .submit = {.id = submit_id(1), .job = VIEW("job-2")}, .deadline_ms = RETENTION_MS);
}

Test(store_submits, an_unknown_submit_that_never_ran_frees_its_key)
{
    send_submit(1, VIEW("k"), claim(STORE_OK, 1, VIEW("k"))->fence);
    settle(1, VIEW("k"), STORE_SUBMIT_UNKNOWN);
    EXPECT(STORE_OK, .operation = STORE_RESOLVE_SUBMIT, .submit = {.id = submit_id(1)});
    cr_assert_eq(unknown_submits()->count, 0);
    claim(STORE_OK, 2, VIEW("k"));
}

Test(store_submits, only_an_unknown_submit_is_settled_by_word)
{
    EXPECT(STORE_ABSENT, .operation = STORE_RESOLVE_SUBMIT, .submit = {.id = submit_id(9)});
    /* A settled one without key need not be remembered. */
    know(1, VIEW("k"), VIEW("job-1"), VIEW("{}"));
    EXPECT(STORE_CONFLICT, .operation = STORE_RESOLVE_SUBMIT, .submit = {.id = submit_id(1)});
    settle(2, VIEW(""), STORE_SUBMIT_UNKNOWN);
    EXPECT(STORE_OWNED, .operation = STORE_RESOLVE_SUBMIT,
           .submit = {.id = submit_id(2), .job = VIEW("job-1")}, .deadline_ms = RETENTION_MS);
    cr_assert_eq(unknown_submits()->count, 1);
}

/* ---- duplicates ------------------------------------------------------------------------------ */

static const struct store_reply *find(enum store_result wanted, struct view team,
                                      struct view endpoint, unsigned char digest)
{
    struct store_question question = {
        .operation = STORE_FIND_DUPLICATE, .team = team, .endpoint = endpoint, .has_dedupe = true};

    memset(question.dedupe_digest, digest, sizeof question.dedupe_digest);
    return EXPECT_THAT(wanted, question);
}

static void add_input(unsigned number, struct view job, unsigned char digest)
{
    struct store_question known = known_question(number, VIEW(""), job);

    known.has_dedupe = true;
    memset(known.dedupe_digest, digest, sizeof known.dedupe_digest);
    EXPECT_THAT(STORE_OK, known);
}

Test(store_submits, the_same_input_finds_the_running_job_of_the_same_team_and_endpoint)
{
    find(STORE_ABSENT, TEAM, ENDPOINT, 7);
    add_input(1, VIEW("job-1"), 7);
    cr_assert_view(find(STORE_OK, TEAM, ENDPOINT, 7)->job.id, VIEW("job-1"));
    find(STORE_ABSENT, TEAM, ENDPOINT, 8);
    find(STORE_ABSENT, OTHER_TEAM, ENDPOINT, 7);
    find(STORE_ABSENT, TEAM, OTHER_ENDPOINT, 7);
}

Test(store_submits, the_same_input_finds_a_completed_job_while_its_result_is_kept)
{
    struct store_question ended = result_question(VIEW("job-1"), VIEW("result"));

    add_input(1, VIEW("job-1"), 7);
    EXPECT_THAT(STORE_OK, ended);
    cr_assert_view(find(STORE_OK, TEAM, ENDPOINT, 7)->job.id, VIEW("job-1"));
    EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, .endpoint = ENDPOINT, .job = VIEW("job-1"));
    find(STORE_ABSENT, TEAM, ENDPOINT, 7);
}

Test(store_submits, the_same_input_does_not_find_a_job_that_failed_or_was_lost)
{
    struct store_question failed = result_question(VIEW("job-1"), VIEW("result"));
    struct store_question lost = {.operation = STORE_PUT_RESULT,
                                  .endpoint = ENDPOINT,
                                  .job = VIEW("job-2"),
                                  .generation = 1,
                                  .state = JOB_LOST};

    add_input(1, VIEW("job-1"), 7);
    failed.state = JOB_FAILED;
    EXPECT_THAT(STORE_OK, failed);
    find(STORE_ABSENT, TEAM, ENDPOINT, 7);
    add_input(2, VIEW("job-2"), 7);
    cr_assert_view(find(STORE_OK, TEAM, ENDPOINT, 7)->job.id, VIEW("job-2"));
    EXPECT_THAT(STORE_OK, lost);
    find(STORE_ABSENT, TEAM, ENDPOINT, 7);
}
