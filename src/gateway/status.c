#include "build_config.h"

#include "gateway/status.h"

#include "base/clock.h"
#include "gateway/flight.h"
#include "gateway/job_facts.h"
#include "gateway/relay.h"
#include "model/metric_catalogue.h"

enum { MINIMUM_WAIT_MS = 1000, MAXIMUM_WAIT_MS = 300000, DEFAULT_WAIT_MS = 90000 };

/* For the requests that can't be shared: with ?ttl= a status changes what the upstream keeps, and
 * the endpoint `flash` is another one for each caller's fields. */
static const struct relay_plan alone_plan = {
    .is_read = true,
    .resend = UPSTREAM_RESEND_READ,
    .observe = job_facts_note,
};

static void start_alone(struct request *request)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};
    struct route route = request->route;

    if (route.operation == ROUTE_STATUS_SYNC) {
        route.operation = ROUTE_STATUS;
        route.has_wait = false;
    }
    body_unref(request->body);
    request->body = NULL;
    relay_start(request, &alone_plan, VIEW("GET"), &route, &deadlines);
}

static uint64_t freshness_ms(const struct request *request)
{
    if (request->route.operation == ROUTE_HEALTH) {
        return FLIGHT_HEALTH_FRESH_MS;
    }
    if (request->route.operation == ROUTE_STATUS_SYNC) {
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
    if (answer->refused) {
        request_refuse(request, PROBLEM_UPSTREAM_UNAVAILABLE, answer->retry_after_s);
    } else if (answer->failed) {
        request_refuse_failure(request, answer->failure);
    } else {
        relay_refuse_answer(request, answer->status, answer->retry_after_s);
    }
}

static bool is_usable(const struct flight_answer *answer)
{
    return !answer->failed && !answer->refused && answer->is_json && answer->status != 401 &&
           answer->status != 403 && (answer->status < 300 || answer->status >= 400);
}

static void answer_request(struct request *request, struct flight_answer *answer,
                           enum flight_delivery delivery)
{
    request->upstream_status = answer->status;
    if (!is_usable(answer)) {
        refuse_answer(request, answer);
        flight_answer_unref(answer);
        return;
    }
    if (request_has_caller(request)) {
        request->origin = "upstream";
        request_begin_reply(request, answer->status);
        builder_append(&request->reply, view_make(answer->fields, answer->fields_length));
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
    if (request->route.operation == ROUTE_STATUS_SYNC) {
        metrics_add(request->gateway->metrics, METRIC_WAITING_CALLERS, 0, 0, change);
    }
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
    if (!answer) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    if (answer->too_large) {
        flight_answer_unref(answer);
        start_alone(request);
        return;
    }
    answer_request(request, answer, delivery);
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
    builder_init(&trace, storage, sizeof storage);
    append_trace(&trace, VIEW("X-Request-Id"), request->id);
    append_trace(&trace, VIEW("traceparent"), http_head_value(head, HTTP_FIELD_TRACEPARENT));
    append_trace(&trace, VIEW("tracestate"), http_head_value(head, HTTP_FIELD_TRACESTATE));
    question->trace = builder_view(&trace);
    question->deliver = deliver;
    answer = flight_join(request->gateway, question, &joined);
    if (answer) {
        answer_request(request, answer, FLIGHT_FRESH);
    } else if (joined) {
        request_move_work(request, WORK_IN_FLIGHT);
        count_waiting(request, 1);
    } else {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

void status_start(struct request *request)
{
    const struct config_endpoint *endpoint =
        config_find_endpoint(request->config, request->route.endpoint);
    struct flight_question question = {.fresh_ms = endpoint->status_freshness_ms};

    if (request->route.has_ttl || request->route.is_flash || endpoint->status_freshness_ms == 0) {
        start_alone(request);
        return;
    }
    join(request, &question);
}

void status_sync_start(struct request *request)
{
    uint64_t wait_ms = request->route.has_wait ? request->route.wait_ms : DEFAULT_WAIT_MS;
    struct flight_question question = {.fresh_ms = FLIGHT_POLL_MS};

    if (wait_ms < MINIMUM_WAIT_MS) {
        wait_ms = MINIMUM_WAIT_MS;
    } else if (wait_ms > MAXIMUM_WAIT_MS) {
        wait_ms = MAXIMUM_WAIT_MS;
    }
    if (request->route.is_flash) {
        start_alone(request);
        return;
    }
    question.wait_until_ms = clock_mono_ms() + wait_ms;
    join(request, &question);
}

void status_health_start(struct request *request)
{
    struct flight_question question = {.fresh_ms = FLIGHT_HEALTH_FRESH_MS,
                                       .stale_ms = FLIGHT_HEALTH_STALE_MS};

    if (request->route.is_flash) {
        start_alone(request);
        return;
    }
    join(request, &question);
}

void status_abandon(struct request *request)
{
    count_waiting(request, -1);
    flight_leave(request->gateway, request->handle, &request->route);
}
