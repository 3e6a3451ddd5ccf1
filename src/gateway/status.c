#include "build_config.h"

#include "gateway/status.h"

#include <string.h>

#include "base/clock.h"
#include "gateway/flight.h"
#include "gateway/job_facts.h"
#include "gateway/ledger.h"
#include "gateway/relay.h"
#include "gateway/result_reply.h"
#include "model/metric_catalogue.h"
#include "store/hot_cache.h"

enum { MINIMUM_WAIT_MS = 1000, MAXIMUM_WAIT_MS = 300000, DEFAULT_WAIT_MS = 90000 };

/* For the requests that can't be shared: with ?ttl= a status changes what the upstream keeps, a
 * result above max_result is not held, and the endpoint `flash` is another one for each caller's
 * fields (so that the ledger has none of its jobs). */
static const struct relay_plan alone_plan = {
    .is_read = true,
    .resend = UPSTREAM_RESEND_READ,
    .observe = job_facts_note,
};

/* Upstream has forgotten a result that was too large to be kept here. */
static bool record_forgotten(struct request *request, enum relay_end end,
                             const struct relay_facts *facts)
{
    (void)facts;
    if (end != RELAY_ANSWERED || request->upstream_status != 404) {
        return false;
    }
    request_refuse(request, PROBLEM_RESULT_TOO_LARGE, 0);
    return true;
}

static const struct relay_plan too_large_plan = {
    .is_read = true,
    .resend = UPSTREAM_RESEND_READ,
    .observe = job_facts_note,
    .record = record_forgotten,
};

static void start_alone(struct request *request, const struct relay_plan *plan)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};
    struct route route = request->route;

    if (route.operation != ROUTE_HEALTH) {
        route.operation = ROUTE_STATUS;
        route.has_wait = false;
    }
    body_unref(request->body);
    request->body = NULL;
    relay_start(request, plan, VIEW("GET"), &route, &deadlines);
}

static uint64_t freshness_ms(const struct request *request)
{
    if (request->route.operation == ROUTE_HEALTH) {
        return FLIGHT_HEALTH_FRESH_MS;
    }
    if (request->route.operation != ROUTE_STATUS) {
        return FLIGHT_POLL_MS;
    }
    return config_find_endpoint(request->config, request->route.endpoint)->status_freshness_ms;
}

/* RFC 9211 section 2.4: whole seconds for which the answer is fresh yet, negative when it is not.
 */
static void append_ttl(struct request *request, uint64_t age_ms)
{
    uint64_t fresh_ms = freshness_ms(request);

    builder_append(&request->reply, age_ms > fresh_ms ? VIEW("; ttl=-") : VIEW("; ttl="));
    builder_append_u64(&request->reply,
                       (age_ms > fresh_ms ? age_ms - fresh_ms + 999 : fresh_ms - age_ms) / 1000);
}

/* RFC 9211: who answered, and why it went on if it did. */
static void append_cache_status(struct request *request, const struct flight_answer *answer,
                                enum flight_delivery delivery)
{
    struct builder *reply = &request->reply;
    uint64_t age_ms = clock_mono_ms() - answer->received_ms;

    switch (delivery) {
    case FLIGHT_ASKED: builder_append(reply, VIEW("Cache-Status: podgate; fwd=miss\r\n")); return;
    case FLIGHT_SHARED:
        builder_append(reply, VIEW("Cache-Status: podgate; fwd=miss; collapsed\r\n"));
        request->cache = "shared";
        break;
    case FLIGHT_FRESH:
        builder_append(reply, VIEW("Cache-Status: podgate; hit"));
        append_ttl(request, age_ms);
        builder_append(reply, VIEW("\r\n"));
        request->cache = "hit";
        break;
    case FLIGHT_STALE:
        builder_append(reply, VIEW("Cache-Status: podgate; hit"));
        append_ttl(request, age_ms);
        builder_append(reply, VIEW("; detail=upstream-failed\r\nPodgate-Degraded: upstream\r\n"));
        request->cache = "stale";
        break;
    }
    builder_append(reply, VIEW("Age: "));
    builder_append_u64(reply, age_ms / 1000);
    builder_append(reply, VIEW("\r\n"));
    metrics_add(request->gateway->metrics, METRIC_SHARED_ANSWERS, request->route.operation, 0, 1);
}

static void refuse_answer(struct request *request, const struct flight_answer *answer)
{
    if (answer->problem == PROBLEM_JOB_NOT_FOUND && ledger_holds_own(request)) {
        request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
    } else if (answer->problem != PROBLEM_COUNT) {
        request_refuse(request, answer->problem,
                       answer->problem == PROBLEM_STORE_UNAVAILABLE ? 1 : 0);
    } else if (answer->refused) {
        request_refuse(request, PROBLEM_UPSTREAM_UNAVAILABLE, answer->retry_after_s);
    } else if (answer->failed) {
        request_refuse_failure(request, answer->failure);
    } else {
        relay_refuse_answer(request, answer->status, answer->retry_after_s);
    }
}

static bool is_usable(const struct flight_answer *answer)
{
    return answer->problem == PROBLEM_COUNT && !answer->failed && !answer->refused &&
           answer->is_json && answer->status != 401 && answer->status != 403 &&
           (answer->status < 300 || answer->status >= 400);
}

static void answer_request(struct request *request, struct flight_answer *answer,
                           enum flight_delivery delivery)
{
    request->upstream_status = answer->status;
    if (answer->result) {
        request->cache = "store";
        result_reply_send(request, answer->result, VIEW("; detail=store"), answer->degraded);
        flight_answer_unref(answer);
        return;
    }
    if (!is_usable(answer)) {
        refuse_answer(request, answer);
        flight_answer_unref(answer);
        return;
    }
    if (request_has_caller(request)) {
        request->origin = answer->made_here ? "gateway" : "upstream";
        request_begin_reply(request, answer->status);
        builder_append(&request->reply,
                       answer->made_here
                           ? VIEW("Content-Type: application/json\r\nPodgate-Origin: gateway\r\n")
                           : view_make(answer->fields, answer->fields_length));
        append_cache_status(request, answer, delivery);
        if (answer->completed_without_output) {
            builder_append(&request->reply, VIEW("Podgate-Warning: completed-without-output\r\n"));
        }
        request_send_reply(request, body_view(answer->body), answer->body);
    }
    flight_answer_unref(answer);
    request_move_work(request, WORK_DONE);
}

static void count_waiting(struct request *request, int64_t change)
{
    if (request->route.operation != ROUTE_STATUS && request->route.operation != ROUTE_HEALTH) {
        metrics_add(request->gateway->metrics, METRIC_WAITING_CALLERS, 0, 0, change);
    }
}

static void start_join(struct request *request, uint64_t wait_ms, uint64_t fresh_ms);

static void on_shortened(struct request *request, const struct store_reply *reply)
{
    if (store_failed(reply->result)) {
        request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
        return;
    }
    hot_cache_drop(request->gateway->shared->hot_cache, request->route.endpoint,
                   request->route.job);
    flight_forget(request->gateway, &request->route);
    request->route.has_ttl = false;
    start_join(request, 0, 0);
}

/* Whoever owns the job may have its result dropped sooner, by the upstream and by podgate. */
static void apply_ttl(struct request *request, const struct flight_answer *answer)
{
    struct store_question question = {
        .operation = STORE_SHORTEN,
        .endpoint = request->route.endpoint,
        .job = request->route.job,
        .keep_ms = request->route.ttl_ms,
    };
    struct store_job job = {.endpoint = request->route.endpoint, .id = request->route.job};

    if (!answer->result) {
        if (flight_post_watch(request->gateway->shared, &job, request->route.ttl_ms)) {
            start_alone(request, &alone_plan); /* the upstream's answer to it is the caller's */
        } else {
            request_refuse(request, PROBLEM_OVERLOADED, 1);
        }
        return;
    }
    if (!flight_post_ttl(request->gateway->shared, &job, request->route.ttl_ms)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    if (!request_ask_store(request, &question, on_shortened)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

/* Takes the reference; NULL: there was no memory for an answer. */
static void take_answer(struct request *request, struct flight_answer *answer,
                        enum flight_delivery delivery)
{
    if (!answer) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    if (answer->too_large) {
        flight_answer_unref(answer);
        start_alone(request, &too_large_plan);
        return;
    }
    if (request->route.has_ttl && (answer->result || is_usable(answer))) {
        apply_ttl(request, answer);
        flight_answer_unref(answer);
        return;
    }
    answer_request(request, answer, delivery);
}

static void deliver(struct gateway *gateway, struct request_handle handle,
                    struct flight_answer *answer, enum flight_delivery delivery)
{
    struct request *request = request_find(gateway, handle);

    if (!request || request->work != WORK_IN_FLIGHT) {
        flight_answer_unref(answer);
        return;
    }
    count_waiting(request, -1);
    take_answer(request, answer, delivery);
}

static void append_trace(struct builder *trace, struct view name, struct view value)
{
    /* A longer one than W3C's "Trace Context" asks for (512 with the others) stays behind. */
    if (value.length > 0 &&
        builder_view(trace).length + name.length + value.length + 4 <= FLIGHT_TRACE_BYTES) {
        http_field_append(trace, name, value);
    }
}

static void join(struct request *request, struct flight_question *question)
{
    const struct http_head *head = &request->inbound.head.head;
    char storage[FLIGHT_TRACE_BYTES];
    struct builder trace;
    struct flight_answer *answer;
    bool joined = false;

    question->handle = request->handle;
    question->route = &request->route;
    question->team = request->ticket.key->team->name;
    question->key = request->ticket.key->id;
    question->may_adopt = (request->ticket.key->operations & CONFIG_OPERATION_ADOPT) != 0;
    builder_init(&trace, storage, sizeof storage);
    append_trace(&trace, VIEW("X-Request-Id"), request->id);
    append_trace(&trace, VIEW("traceparent"), http_head_value(head, HTTP_FIELD_TRACEPARENT));
    append_trace(&trace, VIEW("tracestate"), http_head_value(head, HTTP_FIELD_TRACESTATE));
    question->trace = builder_view(&trace);
    question->deliver = deliver;
    answer = flight_join(request->gateway, question, &joined);
    if (answer) {
        take_answer(request, answer, FLIGHT_FRESH);
    } else if (joined) {
        request_move_work(request, WORK_IN_FLIGHT);
        count_waiting(request, 1);
    } else {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

static void start_join(struct request *request, uint64_t wait_ms, uint64_t fresh_ms)
{
    struct flight_question question = {.fresh_ms = fresh_ms};

    if (wait_ms > 0) {
        question.wait_until_ms = clock_mono_ms() + wait_ms;
    }
    join(request, &question);
}

/* The result from memory, without another look at anything, or false. */
static bool serve_hot(struct request *request)
{
    struct gateway *gateway = request->gateway;
    struct hot_result *result = hot_cache_find(gateway->shared->hot_cache, request->route.endpoint,
                                               request->route.job, clock_wall_ms());
    bool served = result && view_equal(result->team, request->ticket.key->team->name);

    if (served) {
        request->cache = "hit";
        result_reply_send(request, result, VIEW(""), false);
    }
    hot_result_unref(result);
    return served;
}

void status_start(struct request *request)
{
    const struct config_endpoint *endpoint =
        config_find_endpoint(request->config, request->route.endpoint);
    unsigned submits = CONFIG_OPERATION_RUN | CONFIG_OPERATION_RUNSYNC;

    if (request->route.is_flash) {
        start_alone(request, &alone_plan);
    } else if (request->route.has_ttl) {
        /* It changes what others may read, so it needs a key that may change things. */
        if (request->ticket.key->operations & submits) {
            start_join(request, 0, 0);
        } else {
            request_refuse(request, PROBLEM_FORBIDDEN_OPERATION, 0);
        }
    } else if (!serve_hot(request)) {
        start_join(request, 0, endpoint->status_freshness_ms);
    }
}

static uint64_t clamp_wait(uint64_t wait_ms)
{
    return wait_ms < MINIMUM_WAIT_MS   ? MINIMUM_WAIT_MS
           : wait_ms > MAXIMUM_WAIT_MS ? MAXIMUM_WAIT_MS
                                       : wait_ms;
}

void status_sync_start(struct request *request)
{
    uint64_t wait_ms = request->route.has_wait ? request->route.wait_ms : DEFAULT_WAIT_MS;

    if (request->route.is_flash) {
        start_alone(request, &alone_plan);
    } else if (!serve_hot(request)) {
        start_join(request, clamp_wait(wait_ms), FLIGHT_POLL_MS);
    }
}

void status_wait_for(struct request *request, struct view job, uint64_t wait_ms)
{
    size_t length = job.length < sizeof request->job_text ? job.length : sizeof request->job_text;

    memmove(request->job_text, job.data, length);
    request->job_length = length;
    request->route.job = view_make(request->job_text, length);
    if (!serve_hot(request)) {
        start_join(request, wait_ms > 0 ? wait_ms : 1, FLIGHT_POLL_MS);
    }
}

void status_health_start(struct request *request)
{
    struct flight_question question = {.fresh_ms = FLIGHT_HEALTH_FRESH_MS,
                                       .stale_ms = FLIGHT_HEALTH_STALE_MS};

    if (request->route.is_flash) {
        start_alone(request, &alone_plan);
        return;
    }
    join(request, &question);
}

void status_abandon(struct request *request)
{
    count_waiting(request, -1);
    flight_leave(request->gateway, request->handle, &request->route);
}
