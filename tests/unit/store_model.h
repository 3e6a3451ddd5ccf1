/* For tests: a store in memory that is plain enough to be right by looking at it, behind the same
 * interface as the real ones. It knows what the collector and its simulation ask; questions are
 * answered when the test says so (model_answer()), can be made to fail before or after they took
 * effect, and what was only written can be lost as by a power cut.
 *
 *     model_open(&model, loop, false);
 *     model_add_job(&model, "one", "job-1", STORE_KIND_RUN, 1000);
 *     ... model_answer_all(&model);
 */
#ifndef PODGATE_TESTS_STORE_MODEL_H
#define PODGATE_TESTS_STORE_MODEL_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/metric_catalogue.h"
#include "store/store_backend.h"

#define MODEL_HELPER static __attribute__((unused))

enum { MODEL_NAME = 72, MODEL_RESULT = 200 };

struct model_job {
    char endpoint[MODEL_NAME];
    char id[MODEL_NAME];
    char team[MODEL_NAME];
    enum store_kind kind;
    enum job_state state;
    enum store_fate fate;
    uint64_t generation;
    uint64_t submitted_ms;
    uint64_t ended_ms;
    uint64_t expires_ms;
    uint64_t ttl_ms;
    bool scheduled;
    uint64_t due_ms;
    uint64_t deadline_ms;
    uint64_t fence;
    uint64_t missing_since_ms;
    uint32_t missing_count;
    uint32_t failure_count;
    bool cancel_wanted;
    bool purged;
    uint64_t cancel_due_ms;
    size_t result_length;
    char result[MODEL_RESULT];
};

struct model_submit {
    char id[MODEL_NAME];
    char endpoint[MODEL_NAME];
    char job[MODEL_NAME];
    char key[MODEL_NAME]; /* of idempotency; empty: none */
    enum store_submit_operation operation;
    enum store_submit_state state;
    unsigned char digest[STORE_DIGEST_BYTES];
    uint64_t fence;
    uint64_t until_ms; /* the end of an INTENT's claim, or of waiting for a SENT one's outcome */
    unsigned answer_status;
    size_t answer_length;
    char answer[MODEL_RESULT];
};

/* What lies on the disk. */
struct model_tables {
    struct model_job *jobs;
    size_t job_count;
    size_t job_room;
    struct model_submit *submits;
    size_t submit_count;
    size_t submit_room;
};

/* What is to go wrong with a question, decided by the test. */
enum model_fault { MODEL_FINE, MODEL_FAILS, MODEL_FAILS_AFTERWARDS };

struct store_model {
    struct store store;
    struct store_client *client;
    struct metrics *metrics;
    struct model_tables tables;
    struct model_tables durable;
    bool keeps_durable; /* copies what is durable, for model_cut_power() */
    struct store_call *first;
    struct store_call **last;
    unsigned asked[STORE_OPERATIONS];
    uint32_t last_limit;
    uint64_t last_max_poll_ms;
    uint64_t last_rate_milli;
    enum model_fault (*fault)(void *argument, const struct store_question *question);
    void *fault_argument;
    struct body_budget *budget; /* of bodies in replies */
    bool dead;                  /* the process is: nothing takes effect */
    enum store_result failure;  /* what a failing question gives */
    uint64_t expire_left;       /* results that are over; STORE_EXPIRE takes its limit of them */
    uint64_t runsync_counted;
    uint64_t outstanding_counted; /* not 0: what the listing says for each endpoint */
};

/* ---- tables */

MODEL_HELPER struct model_job *model_find(struct store_model *model, struct view endpoint,
                                          struct view id)
{
    for (size_t i = 0; i < model->tables.job_count; i++) {
        struct model_job *job = &model->tables.jobs[i];

        if (view_equal(view_of_string(job->id), id) &&
            view_equal(view_of_string(job->endpoint), endpoint)) {
            return job;
        }
    }
    return NULL;
}

MODEL_HELPER struct model_submit *model_find_submit(struct store_model *model, struct view id)
{
    for (size_t i = 0; i < model->tables.submit_count; i++) {
        if (view_equal(view_of_string(model->tables.submits[i].id), id)) {
            return &model->tables.submits[i];
        }
    }
    return NULL;
}

MODEL_HELPER void model_copy(char *to, struct view from)
{
    cr_assert_lt(from.length, MODEL_NAME);
    if (from.length > 0) {
        memcpy(to, from.data, from.length);
    }
    to[from.length] = '\0';
}

MODEL_HELPER struct model_job *model_new_job(struct store_model *model)
{
    struct model_tables *tables = &model->tables;

    if (tables->job_count == tables->job_room) {
        tables->job_room = 2 * tables->job_room + 16;
        tables->jobs = realloc(tables->jobs, tables->job_room * sizeof *tables->jobs);
    }
    tables->jobs[tables->job_count] = (struct model_job){.generation = 1};
    return &tables->jobs[tables->job_count++];
}

MODEL_HELPER struct model_submit *model_new_submit(struct store_model *model, struct view id)
{
    struct model_tables *tables = &model->tables;
    struct model_submit *submit;

    if (tables->submit_count == tables->submit_room) {
        tables->submit_room = 2 * tables->submit_room + 16;
        tables->submits = realloc(tables->submits, tables->submit_room * sizeof *tables->submits);
    }
    submit = &tables->submits[tables->submit_count++];
    *submit = (struct model_submit){.state = STORE_SUBMIT_SENT};
    model_copy(submit->id, id);
    return submit;
}

/* A job that is on the schedule, due in `due_ms`. */
MODEL_HELPER struct model_job *model_add_job(struct store_model *model, const char *endpoint,
                                             const char *id, enum store_kind kind, uint64_t due_ms)
{
    struct model_job *job = model_new_job(model);

    model_copy(job->endpoint, view_of_string(endpoint));
    model_copy(job->id, view_of_string(id));
    model_copy(job->team, VIEW("team"));
    job->kind = kind;
    job->submitted_ms = clock_wall_ms();
    job->due_ms = clock_wall_ms() + due_ms;
    job->deadline_ms = clock_wall_ms() + 1800000;
    job->scheduled = true;
    return job;
}

MODEL_HELPER void model_copy_tables(struct model_tables *to, const struct model_tables *from)
{
    if (to->job_room < from->job_count) {
        to->job_room = from->job_room;
        to->jobs = realloc(to->jobs, to->job_room * sizeof *to->jobs);
    }
    if (to->submit_room < from->submit_count) {
        to->submit_room = from->submit_room;
        to->submits = realloc(to->submits, to->submit_room * sizeof *to->submits);
    }
    if (from->job_count > 0) {
        memcpy(to->jobs, from->jobs, from->job_count * sizeof *to->jobs);
    }
    if (from->submit_count > 0) {
        memcpy(to->submits, from->submits, from->submit_count * sizeof *to->submits);
    }
    to->job_count = from->job_count;
    to->submit_count = from->submit_count;
}

/* ---- questions */

MODEL_HELPER struct store_job model_view_job(const struct model_job *job)
{
    return (struct store_job){
        .endpoint = view_of_string(job->endpoint),
        .id = view_of_string(job->id),
        .upstream_id = view_of_string(job->id),
        .team = view_of_string(job->team),
        .kind = job->kind,
        .state = job->state,
        .fate = job->fate,
        .generation = job->generation,
        .submitted_ms = job->submitted_ms,
        .ended_ms = job->ended_ms,
        .expires_ms = job->expires_ms,
        .execution_ms = UINT64_MAX,
        .delay_ms = UINT64_MAX,
        .result_bytes = job->result_length,
        .stored_bytes = job->result_length,
        .ttl_ms = job->ttl_ms,
        .cancel_wanted = job->cancel_wanted,
        .purged = job->purged,
        .due_ms = job->due_ms,
        .deadline_ms = job->deadline_ms,
        .fence = job->fence,
        .missing_since_ms = job->missing_since_ms,
        .missing_count = job->missing_count,
        .failure_count = job->failure_count,
    };
}

MODEL_HELPER uint64_t model_next_fence(const struct model_job *job)
{
    uint64_t clock_us = clock_wall_ms() * 1000;

    return job->fence + 1 > clock_us ? job->fence + 1 : clock_us;
}

/* Room for the reply's jobs; freed with the call. */
MODEL_HELPER struct store_job *model_reply_jobs(struct store_call *call, size_t room)
{
    struct store_job *jobs = calloc(room > 0 ? room : 1, sizeof *jobs);

    call->reply_memory = (char *)jobs;
    call->reply.jobs = jobs;
    return jobs;
}

MODEL_HELPER bool model_is_due(const struct model_job *job, const struct store_question *question)
{
    uint64_t now_ms = clock_wall_ms();

    return job->scheduled && view_equal(view_of_string(job->endpoint), question->endpoint) &&
           (job->due_ms <= now_ms || job->due_ms > now_ms + question->max_poll_ms);
}

/* Whether one is to be polled before the other: earliest deadline first, past ones last. */
MODEL_HELPER bool model_goes_before(const struct model_job *left, const struct model_job *right)
{
    uint64_t now_ms = clock_wall_ms();
    bool left_past = left->deadline_ms < now_ms;
    bool right_past = right->deadline_ms < now_ms;

    return left_past != right_past ? right_past : left->deadline_ms < right->deadline_ms;
}

MODEL_HELPER void model_claim_due(struct store_model *model, struct store_call *call)
{
    const struct store_question *question = &call->question;
    struct store_job *jobs = model_reply_jobs(call, question->limit);
    uint64_t now_ms = clock_wall_ms();

    model->last_limit = question->limit;
    model->last_max_poll_ms = question->max_poll_ms;
    model->last_rate_milli = question->poll_rate_milli;
    while (call->reply.count < question->limit) {
        struct model_job *best = NULL;

        for (size_t i = 0; i < model->tables.job_count; i++) {
            struct model_job *job = &model->tables.jobs[i];

            if (model_is_due(job, question) && (!best || model_goes_before(job, best))) {
                best = job;
            }
        }
        if (!best) {
            break;
        }
        best->fence = model_next_fence(best);
        best->due_ms = now_ms + question->lease_ms;
        jobs[call->reply.count++] = model_view_job(best);
    }
    call->reply.next_ms = UINT64_MAX;
    for (size_t i = 0; i < model->tables.job_count; i++) {
        struct model_job *job = &model->tables.jobs[i];

        if (job->scheduled && view_equal(view_of_string(job->endpoint), question->endpoint) &&
            job->due_ms < call->reply.next_ms) {
            call->reply.next_ms = job->due_ms;
        }
    }
}

MODEL_HELPER enum store_result model_reschedule(struct model_job *job,
                                                const struct store_question *question)
{
    uint64_t now_ms = clock_wall_ms();

    if (!job) {
        return STORE_ABSENT;
    }
    if (job->fence != question->fence ||
        (job_state_is_terminal(job->state) && job->state != JOB_LOST)) {
        return STORE_CONFLICT;
    }
    if (job->state != JOB_LOST) {
        job->state = question->state;
    }
    job->due_ms = now_ms + question->due_ms;
    if (question->deadline_ms > 0) {
        job->deadline_ms = now_ms + question->deadline_ms;
    }
    job->missing_count = question->missing;
    job->missing_since_ms = question->missing > 0 ? now_ms - question->missing_since_ms : 0;
    job->failure_count = question->failures;
    return STORE_OK;
}

MODEL_HELPER size_t model_copy_body(char to[MODEL_RESULT], const struct body *from)
{
    struct view bytes = body_view(from);

    cr_assert_leq(bytes.length, MODEL_RESULT);
    if (bytes.length > 0) {
        memcpy(to, bytes.data, bytes.length);
    }
    return bytes.length;
}

MODEL_HELPER struct body *model_make_body(struct store_model *model, const char *bytes,
                                          size_t length)
{
    struct body *body = body_create(model->budget, length);

    cr_assert(body && body_append(body, view_make(bytes, length)));
    return body;
}

MODEL_HELPER enum store_result model_put_result(struct model_job *job,
                                                const struct store_question *question)
{
    if (!job) {
        return STORE_ABSENT;
    }
    if (job->generation != question->generation ||
        (job_state_is_terminal(job->state) && job->state != JOB_LOST)) {
        return STORE_CONFLICT;
    }
    job->state = question->state;
    job->fate = question->fate;
    job->ended_ms = clock_wall_ms();
    job->expires_ms = question->fate == STORE_FATE_KEPT ? job->ended_ms + question->keep_ms : 0;
    job->scheduled = question->state == JOB_LOST && question->poll_on_ms > 0;
    if (question->fate == STORE_FATE_KEPT) {
        cr_assert_eq(question->encoding, STORE_ENCODING_IDENTITY, "results here are short");
        job->result_length = model_copy_body(job->result, question->result);
    }
    return STORE_OK;
}

MODEL_HELPER struct model_submit *model_find_key(struct store_model *model,
                                                 const struct store_submit *wanted)
{
    for (size_t i = 0; i < model->tables.submit_count; i++) {
        struct model_submit *submit = &model->tables.submits[i];

        if (wanted->idempotency_key.length > 0 && submit->operation == wanted->operation &&
            view_equal(view_of_string(submit->key), wanted->idempotency_key) &&
            view_equal(view_of_string(submit->endpoint), wanted->endpoint)) {
            return submit;
        }
    }
    return NULL;
}

MODEL_HELPER struct model_submit *model_enter_submit(struct store_model *model,
                                                     const struct store_submit *from)
{
    struct model_submit *submit = model_new_submit(model, from->id);

    model_copy(submit->endpoint, from->endpoint);
    model_copy(submit->key, from->idempotency_key);
    submit->operation = from->operation;
    memcpy(submit->digest, from->digest, sizeof submit->digest);
    return submit;
}

MODEL_HELPER struct store_submit model_view_submit(const struct model_submit *submit)
{
    return (struct store_submit){
        .id = view_of_string(submit->id),
        .endpoint = view_of_string(submit->endpoint),
        .job = view_of_string(submit->job),
        .operation = submit->operation,
        .state = submit->state,
        .answer_status = submit->answer_status,
    };
}

MODEL_HELPER enum store_result model_claim_submit(struct store_model *model,
                                                  struct store_call *call)
{
    const struct store_submit *asked = &call->question.submit;
    struct model_submit *submit = model_find_key(model, asked);
    uint64_t now_ms = clock_wall_ms();

    if (submit && memcmp(submit->digest, asked->digest, sizeof submit->digest) != 0) {
        return STORE_MISMATCH;
    }
    if (submit && submit->state == STORE_SUBMIT_SENT && submit->until_ms <= now_ms) {
        submit->state = STORE_SUBMIT_UNKNOWN;
    }
    if (submit && submit->state == STORE_SUBMIT_KNOWN) {
        call->reply.submit = model_view_submit(submit);
        call->reply.body = submit->answer_length > 0
                               ? model_make_body(model, submit->answer, submit->answer_length)
                               : NULL;
        return STORE_REPLAY;
    }
    if (submit && submit->state == STORE_SUBMIT_UNKNOWN) {
        call->reply.submit = model_view_submit(submit);
        return STORE_UNKNOWN;
    }
    if (submit && (submit->state == STORE_SUBMIT_SENT ||
                   (submit->state == STORE_SUBMIT_INTENT && submit->until_ms > now_ms))) {
        return STORE_BUSY;
    }
    if (!submit) {
        submit = model_enter_submit(model, asked);
    }
    model_copy(submit->id, asked->id);
    submit->state = STORE_SUBMIT_INTENT;
    submit->until_ms = now_ms + STORE_LEASE_MS;
    submit->fence++;
    call->reply.fence = submit->fence;
    return STORE_OK;
}

MODEL_HELPER enum store_result model_mark_sent(struct store_model *model,
                                               const struct store_question *question)
{
    struct model_submit *submit = model_find_key(model, &question->submit);

    if (question->submit.idempotency_key.length > 0) {
        if (!submit || submit->fence != question->fence || submit->state != STORE_SUBMIT_INTENT ||
            !view_equal(view_of_string(submit->id), question->submit.id)) {
            return STORE_CONFLICT;
        }
    } else {
        submit = model_enter_submit(model, &question->submit);
    }
    submit->state = STORE_SUBMIT_SENT;
    submit->until_ms = clock_wall_ms() + question->until_ms;
    return STORE_OK;
}

MODEL_HELPER enum store_result model_enter_known(struct store_model *model,
                                                 const struct store_question *question)
{
    uint64_t now_ms = clock_wall_ms();
    struct model_job *job = model_new_job(model);

    model_copy(job->endpoint, question->submit.endpoint);
    model_copy(job->id, question->submit.job);
    model_copy(job->team, question->submit.team);
    job->kind = question->kind;
    job->state = question->state;
    job->submitted_ms = now_ms;
    job->due_ms = now_ms + question->due_ms;
    job->deadline_ms = now_ms + question->deadline_ms;
    job->ttl_ms = question->ttl_ms;
    job->scheduled = !job_state_is_terminal(job->state);
    if (!job->scheduled) {
        struct store_question end = *question;

        job->state = JOB_IN_QUEUE;
        end.generation = 1;
        end.state = question->state;
        return model_put_result(job, &end);
    }
    return STORE_OK;
}

MODEL_HELPER enum store_result model_settle(struct store_model *model, struct store_call *call)
{
    const struct store_question *question = &call->question;
    struct model_submit *submit = model_find_submit(model, question->submit.id);
    struct model_job *job = model_find(model, question->submit.endpoint, question->submit.job);

    if (!submit) {
        submit = model_enter_submit(model, &question->submit);
    }
    if (question->submit.state != STORE_SUBMIT_KNOWN) {
        submit->state = question->submit.state;
        return STORE_OK;
    }
    if (job && strcmp(submit->job, job->id) == 0) {
        return STORE_OK; /* told once more */
    }
    if (job) {
        submit->state = STORE_SUBMIT_UNKNOWN;
        call->reply.job = model_view_job(job);
        return STORE_OWNED;
    }
    submit->state = STORE_SUBMIT_KNOWN;
    model_copy(submit->job, question->submit.job);
    submit->answer_status = question->answer_status;
    submit->answer_length = model_copy_body(submit->answer, question->answer);
    return model_enter_known(model, question);
}

MODEL_HELPER enum store_result model_get_job(struct store_model *model, struct store_call *call,
                                             const struct model_job *job)
{
    if (!job) {
        return STORE_ABSENT;
    }
    if (call->question.with_result && job->fate == STORE_FATE_KEPT) {
        call->reply.body = model_make_body(model, job->result, job->result_length);
    }
    return STORE_OK;
}

MODEL_HELPER void model_list_endpoints(struct store_model *model, struct store_call *call)
{
    struct store_endpoint_count *counts = calloc(model->tables.job_count + 1, sizeof *counts);
    size_t count = 0;

    for (size_t i = 0; i < model->tables.job_count; i++) {
        const struct model_job *job = &model->tables.jobs[i];
        size_t at = 0;

        if (!job->scheduled) {
            continue;
        }
        while (at < count && !view_equal(counts[at].endpoint, view_of_string(job->endpoint))) {
            at++;
        }
        counts[at].endpoint = view_of_string(job->endpoint);
        counts[at].outstanding++;
        counts[at].runsync += job->kind == STORE_KIND_RUNSYNC;
        count = at == count ? count + 1 : count;
    }
    for (size_t i = 0; i < count && model->outstanding_counted > 0; i++) {
        counts[i].outstanding = model->outstanding_counted;
        counts[i].runsync = model->runsync_counted;
    }
    call->reply_memory = (char *)counts;
    call->reply.endpoints = counts;
    call->reply.count = count;
}

MODEL_HELPER void model_claim_cancels(struct store_model *model, struct store_call *call)
{
    const struct store_question *question = &call->question;
    struct store_job *jobs = model_reply_jobs(call, question->limit);
    uint64_t now_ms = clock_wall_ms();

    for (size_t i = 0; i < model->tables.job_count && call->reply.count < question->limit; i++) {
        struct model_job *job = &model->tables.jobs[i];

        if (job->cancel_wanted && job->cancel_due_ms <= now_ms) {
            job->cancel_due_ms = now_ms + question->lease_ms;
            jobs[call->reply.count++] = model_view_job(job);
        }
    }
}

MODEL_HELPER void model_expire(struct store_model *model, struct store_call *call)
{
    uint64_t now_ms = clock_wall_ms();
    uint64_t gone = 0;

    for (size_t i = 0; i < model->tables.job_count && gone < call->question.limit; i++) {
        struct model_job *job = &model->tables.jobs[i];

        if (job->fate == STORE_FATE_KEPT && job->expires_ms <= now_ms) {
            job->fate = STORE_FATE_EXPIRED;
            job->result_length = 0;
            gone++;
        }
    }
    while (model->expire_left > 0 && gone < call->question.limit) {
        model->expire_left--;
        gone++;
    }
    call->reply.expired = gone;
}

MODEL_HELPER void model_apply(struct store_model *model, struct store_call *call)
{
    const struct store_question *question = &call->question;
    struct model_job *job = model_find(model, question->endpoint, question->job);
    struct store_reply *reply = &call->reply;

    reply->result = STORE_OK;
    switch ((int)question->operation) {
    case STORE_MARK_SENT: reply->result = model_mark_sent(model, question); break;
    case STORE_CLAIM_SUBMIT: reply->result = model_claim_submit(model, call); break;
    case STORE_SETTLE_SUBMIT: reply->result = model_settle(model, call); break;
    case STORE_GET_JOB: reply->result = model_get_job(model, call, job); break;
    case STORE_PUT_RESULT: reply->result = model_put_result(job, question); break;
    case STORE_RESCHEDULE: reply->result = model_reschedule(job, question); break;
    case STORE_CLAIM_DUE: model_claim_due(model, call); break;
    case STORE_CLAIM_CANCELS: model_claim_cancels(model, call); break;
    case STORE_LIST_ENDPOINTS: model_list_endpoints(model, call); break;
    case STORE_EXPIRE: model_expire(model, call); break;
    case STORE_CLEAR_CANCEL:
        if (job) {
            job->cancel_wanted = false;
        }
        break;
    case STORE_MARK_PURGED:
        for (size_t i = 0; i < model->tables.job_count; i++) {
            struct model_job *one = &model->tables.jobs[i];

            if (one->scheduled && one->state == JOB_IN_QUEUE &&
                view_equal(view_of_string(one->endpoint), question->endpoint)) {
                one->cancel_wanted = one->purged = true;
                reply->count++;
            }
        }
        break;
    default: cr_assert_fail("the model of a store was asked %d", (int)question->operation);
    }
    if (job && (reply->result == STORE_CONFLICT || reply->result == STORE_OK) && !reply->jobs) {
        reply->job = model_view_job(job);
    }
}

MODEL_HELPER bool model_is_durable(const struct store_question *question)
{
    switch ((int)question->operation) {
    case STORE_SETTLE_SUBMIT:
    case STORE_PUT_RESULT:
    case STORE_MARK_PURGED: return true;
    case STORE_MARK_SENT: return question->submit.idempotency_key.length > 0;
    default: return false;
    }
}

/* The question takes effect; what is durable takes all with it that was written before. */
MODEL_HELPER void model_commit(struct store_model *model, struct store_call *call)
{
    model_apply(model, call);
    if (model->keeps_durable && model_is_durable(&call->question)) {
        model_copy_tables(&model->durable, &model->tables);
    }
}

/* Another start of podgate on the same store: what it had sent before it died is not known any
 * more. */
MODEL_HELPER void model_restart(struct store_model *model)
{
    model->dead = false;
    for (size_t i = 0; i < model->tables.submit_count; i++) {
        if (model->tables.submits[i].state == STORE_SUBMIT_SENT) {
            model->tables.submits[i].state = STORE_SUBMIT_UNKNOWN;
        }
    }
}

/* ---- answering */

/* Takes the oldest question out, NULL when there is none. */
MODEL_HELPER struct store_call *model_take(struct store_model *model)
{
    struct store_call *call = model->first;

    if (call) {
        model->first = call->next;
        if (!model->first) {
            model->last = &model->first;
        }
    }
    return call;
}

/* Answers the oldest question. False when there is none. */
MODEL_HELPER bool model_answer(struct store_model *model)
{
    struct store_call *call = model_take(model);
    enum model_fault fault;

    if (!call) {
        return false;
    }
    fault = model->fault ? model->fault(model->fault_argument, &call->question) : MODEL_FINE;
    if (fault != MODEL_FAILS) {
        model_commit(model, call);
    }
    if (fault != MODEL_FINE) {
        body_unref(call->reply.body);
        call->reply = (struct store_reply){
            .result = fault == MODEL_FAILS_AFTERWARDS ? STORE_TIMED_OUT : model->failure,
        };
    }
    call->reply.now_ms = clock_wall_ms();
    store_call_finish(call);
    return true;
}

MODEL_HELPER bool model_answer_all(struct store_model *model)
{
    bool any = false;

    while (model_answer(model)) {
        any = true;
    }
    return any;
}

/* The process died: nobody hears of what it had asked. `took_effect`: the oldest ones were done. */
MODEL_HELPER void model_drop_questions(struct store_model *model, unsigned took_effect)
{
    struct store_call *call;

    while ((call = model_take(model)) != NULL) {
        call->cancelled = true;
        if (took_effect > 0 && !model->dead) {
            took_effect--;
            model_commit(model, call);
        } else {
            call->reply.result = STORE_AWAY;
        }
        store_call_finish(call);
    }
}

MODEL_HELPER void model_cut_power(struct store_model *model)
{
    model_copy_tables(&model->tables, &model->durable);
}

/* ---- the backend */

MODEL_HELPER void *model_create_client(void *data, struct store_client *client)
{
    ((struct store_model *)data)->client = client;
    return data;
}

MODEL_HELPER void model_destroy_client(void *data)
{
    model_drop_questions(data, 0);
}

MODEL_HELPER void model_start(void *data, struct store_call *call)
{
    struct store_model *model = data;

    model->asked[call->question.operation]++;
    call->next = NULL;
    *model->last = call;
    model->last = &call->next;
}

MODEL_HELPER enum store_state model_state(UNUSED const void *data)
{
    return STORE_STATE_READY;
}

MODEL_HELPER enum store_durability model_durability(UNUSED const void *data)
{
    return STORE_DURABLE;
}

static const struct store_backend model_backend = {
    .name = "model",
    .create_client = model_create_client,
    .destroy_client = model_destroy_client,
    .start = model_start,
    .state = model_state,
    .durability = model_durability,
};

static const struct store_backend model_shared_backend = {
    .name = "model",
    .create_client = model_create_client,
    .destroy_client = model_destroy_client,
    .start = model_start,
    .state = model_state,
    .durability = model_durability,
    .is_shared = true,
};

/* An empty store with a client of `loop`. */
MODEL_HELPER void model_open(struct store_model *model, struct loop *loop, bool shared)
{
    *model = (struct store_model){
        .store = {.backend = shared ? &model_shared_backend : &model_backend},
        .failure = STORE_AWAY,
    };
    model->last = &model->first;
    model->store.data = model;
    model->metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    cr_assert_not_null(
        store_client_create(&model->store, loop, metrics_block_create(model->metrics), NULL));
}

MODEL_HELPER void model_close(struct store_model *model)
{
    store_client_destroy(model->client);
    metrics_destroy(model->metrics);
    free(model->tables.jobs);
    free(model->tables.submits);
    free(model->durable.jobs);
    free(model->durable.submits);
}

#endif
