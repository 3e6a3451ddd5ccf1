#include "build_config.h"

#include "gateway/forward.h"

#include <string.h>

#include "gateway/flight.h"
#include "gateway/ledger.h"
#include "gateway/relay.h"
#include "gateway/team_jobs.h"

/* The job is another one now than any status that was fetched before; its end is fetched at once.
 */
static void observe_cancel(struct request *request, const struct relay_facts *facts)
{
    struct store_job job = {.endpoint = request->route.endpoint, .id = request->route.job};

    (void)facts;
    flight_forget(request->gateway, &request->route);
    if (request->upstream_status == 200 && !request->route.is_flash &&
        !flight_post_poll(request->gateway->shared, &job)) {
        return; /* the collector comes by in time */
    }
}

/* Upstream knows a job that /retry had to submit again by another id than its caller. */
static bool name_as_asked(struct request *request, enum relay_end end,
                          const struct relay_facts *facts)
{
    /* What on_job() found; nothing of a job that the ledger doesn't have. */
    struct view sent =
        view_make(request->job_text, strnlen(request->job_text, sizeof request->job_text));
    char storage[ROUTE_JOB_MAXIMUM + 64];
    struct builder text;

    if (end != RELAY_ANSWERED || request->upstream_status != 200 || sent.length == 0 ||
        !view_equal(facts->id, sent) || view_equal(sent, request->route.job) ||
        facts->status.length > 32) {
        return false;
    }
    builder_init(&text, storage, sizeof storage);
    builder_append(&text, VIEW("{\"id\":\""));
    builder_append(&text, request->route.job);
    builder_append(&text, VIEW("\",\"status\":\""));
    builder_append(&text, facts->status);
    builder_append(&text, VIEW("\"}"));
    if (builder_failed(&text) || !relay_replace_answer(request, builder_view(&text))) {
        builder_clear(&text);
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return true;
    }
    builder_clear(&text);
    return false;
}

static const struct relay_plan cancel_plan = {
    .resend = UPSTREAM_RESEND_NEVER, .observe = observe_cancel, .record = name_as_asked};
static void on_purge_noted(void *argument, const struct store_reply *reply)
{
    (void)argument;
    (void)reply; /* not noted: what is gone then counts as LOST, which is told */
}

/* The upstream has emptied the queue, whoever's jobs were in it: the ledger knows why they are
 * gone.
 */
static void observe_purge(struct request *request, const struct relay_facts *facts)
{
    const struct config *config = request->config;
    struct store_question question = {
        .operation = STORE_MARK_PURGED,
        .endpoint = request->route.endpoint,
        .ended = true,
    };

    (void)facts;
    for (size_t i = 0; request->upstream_status == 200 && i < config->team_count; i++) {
        question.team = config->teams[i].name;
        if (!store_ask(request->gateway->store, &question, on_purge_noted, NULL)) {
            return;
        }
    }
}

static const struct relay_plan purge_plan = {.resend = UPSTREAM_RESEND_NEVER,
                                             .observe = observe_purge};
static const struct relay_plan read_plan = {.is_read = true, .resend = UPSTREAM_RESEND_READ};
static const struct relay_plan stream_plan = {.streaming = true, .resend = UPSTREAM_RESEND_NEVER};
static const struct relay_plan stream_read_plan = {
    .streaming = true, .is_read = true, .resend = UPSTREAM_RESEND_READ};

static bool is_get(const struct request *request)
{
    return request->inbound.head.method == HTTP_METHOD_GET;
}

static void send_cancel(struct request *request, const struct route *route)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};

    relay_start(request, &cancel_plan, VIEW("POST"), route, &deadlines);
}

/* A job that has ended can't be cancelled: its caller is told how it ended, in the upstream's
 * shape.
 */
static void answer_ended(struct request *request, enum job_state state)
{
    char storage[ROUTE_JOB_MAXIMUM + 64];
    struct builder text;

    builder_init(&text, storage, sizeof storage);
    builder_append(&text, VIEW("{\"id\":\""));
    builder_append(&text, request->route.job);
    builder_append(&text, VIEW("\",\"status\":\""));
    builder_append(&text, view_of_string(job_state_text(state)));
    builder_append(&text, VIEW("\"}"));
    request_begin_reply(request, 200);
    builder_append(&request->reply,
                   VIEW("Content-Type: application/json\r\nPodgate-Origin: gateway\r\n"));
    request_send_reply(request, builder_view(&text), NULL);
    builder_clear(&text);
    request_move_work(request, WORK_DONE);
}

static void on_job(struct request *request, const struct store_reply *reply)
{
    const struct store_job *job = &reply->job;
    struct route route = request->route;

    if (store_failed(reply->result)) {
        request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
        return;
    }
    if (reply->result == STORE_ABSENT &&
        ((request->ticket.key->operations & CONFIG_OPERATION_ADOPT) != 0 ||
         ledger_holds_own(request))) {
        send_cancel(request, &route); /* of before podgate: the upstream knows */
        return;
    }
    if (reply->result != STORE_OK || !view_equal(job->team, request->ticket.key->team->name)) {
        request_refuse(request, PROBLEM_JOB_NOT_FOUND, 0);
        return;
    }
    if (job->state == JOB_LOST) {
        request_refuse(request, PROBLEM_RESULT_LOST, 0);
        return;
    }
    if (job->state == JOB_TTL_EXPIRED) {
        request_refuse(request, PROBLEM_JOB_EXPIRED, 0);
        return;
    }
    if (job_state_is_terminal(job->state)) {
        answer_ended(request, job->state);
        return;
    }
    if (job->upstream_id.length > 0 && job->upstream_id.length <= sizeof request->job_text) {
        /* The reply's memory goes; the request's stays. */
        memcpy(request->job_text, job->upstream_id.data, job->upstream_id.length);
        route.job = view_make(request->job_text, job->upstream_id.length);
    }
    send_cancel(request, &route);
}

void forward_cancel(struct request *request)
{
    struct store_question question = {
        .operation = STORE_GET_JOB,
        .endpoint = request->route.endpoint,
        .job = request->route.job,
    };

    if (request->route.is_flash) {
        send_cancel(request, &request->route);
        return;
    }
    if (!request_ask_store(request, &question, on_job)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

void forward_purge_queue(struct request *request)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};

    if ((request->ticket.key->operations & CONFIG_OPERATION_PURGE_ALL) == 0) {
        team_jobs_purge(request);
        return;
    }
    relay_start(request, &purge_plan, VIEW("POST"), &request->route, &deadlines);
}

void forward_requests(struct request *request)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};

    relay_start(request, &read_plan, VIEW("GET"), &request->route, &deadlines);
}

void forward_batch(struct request *request)
{
    struct upstream_deadlines deadlines = {
        .after_sent_ms = request->config->upstream.submit_timeout_ms,
    };

    relay_start(request, is_get(request) ? &stream_read_plan : &stream_plan,
                http_request_method(&request->inbound.head), &request->route, &deadlines);
}

void forward_openai(struct request *request)
{
    struct upstream_deadlines deadlines = {.idle_ms = request->config->upstream.idle_timeout_ms};

    relay_start(request, is_get(request) ? &stream_read_plan : &stream_plan,
                http_request_method(&request->inbound.head), &request->route, &deadlines);
}
