#include "build_config.h"

#include <event2/event.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/breaker.h"
#include "gateway/flight_private.h"
#include "gateway/relay.h"
#include "model/metric_catalogue.h"

/* A flight's own request to the upstream. */

/* Told at the next turn, so that nobody is told from within flight_ask(). */
static void settle(struct flight *flight)
{
    static const struct timeval now = {0, 0};

    flight->settled = true;
    event_add(&flight->timer, &now);
}

/* An upstream that echoes what it was sent must not give the key away. */
static void on_head(void *owner, struct upstream_exchange *exchange,
                    const struct http_response_head *head)
{
    struct flight *flight = owner;
    struct gateway *gateway = flight->flights->gateway;
    struct flight_answer *answer = flight->building;
    struct builder fields;
    uint64_t capacity = FIRST_BODY_BYTES;
    uint64_t maximum =
        config_find_endpoint(gateway->config, flight->route.endpoint)->max_result_bytes;

    answer->status = head->status;
    answer->retry_after_s = relay_retry_after_s(head, true);
    builder_init(&fields, answer->fields, sizeof answer->fields);
    relay_append_fields(&fields, head, HTTP_FORWARD_ALWAYS, answer->retry_after_s);
    if (builder_view(&fields).data == answer->fields && !builder_failed(&fields)) {
        answer->fields_length = builder_view(&fields).length;
    } else {
        /* So many fields come from no upstream that means well: the type alone goes on. */
        struct view type = VIEW("Content-Type: application/json\r\n");

        memcpy(answer->fields, type.data, type.length);
        answer->fields_length = type.length;
    }
    builder_clear(&fields);
    relay_mask_key(gateway, view_make(answer->fields, answer->fields_length));
    relay_report_answer(gateway, flight->route.operation, flight->route.endpoint, head->status);
    if (head->head.framing == HTTP_BODY_LENGTH && head->head.content_length <= maximum) {
        capacity = head->head.content_length + 1; /* as upstream_collect() wants */
    }
    answer->body = body_create(gateway->shared->budget, (size_t)capacity);
    if (answer->body) {
        upstream_collect(exchange, answer->body, (size_t)maximum);
    }
}

static void fail(struct flight *flight, enum upstream_failure failure)
{
    struct flight_answer *answer = flight->building;

    answer->failed = true;
    answer->failure = failure;
    body_unref(answer->body);
    answer->body = NULL;
    flight_complete(flight);
}

static void read_answer(struct flight *flight)
{
    struct flight_answer *answer = flight->building;
    struct relay_facts facts;
    enum job_state state;

    answer->is_json = relay_read_facts(body_view(answer->body), &facts);
    if (!answer->is_json) {
        return;
    }
    answer->terminal = job_state_parse(facts.status, &state) && job_state_is_terminal(state);
    answer->completed_without_output =
        answer->status == 200 && view_equal(facts.status, VIEW("COMPLETED")) && !facts.has_output;
    if (answer->completed_without_output) {
        metrics_add(flight->flights->gateway->metrics, METRIC_WARNINGS,
                    METRIC_WARNING_COMPLETED_WITHOUT_OUTPUT, 0, 1);
    }
}

static void on_body(void *owner, struct upstream_exchange *exchange, struct view data, bool last)
{
    struct flight *flight = owner;

    (void)data;
    if (!flight->building->body || !last) {
        /* No room for it: a result above max_result is served by a request of its own. */
        if (!last) {
            upstream_abort(exchange);
        }
        flight->building->too_large = flight->building->body != NULL;
        fail(flight, UPSTREAM_NO_MEMORY);
        return;
    }
    relay_mask_key(flight->flights->gateway, body_view(flight->building->body));
    read_answer(flight);
    flight_complete(flight);
}

static void on_failure(void *owner, struct upstream_exchange *exchange,
                       enum upstream_failure failure, bool may_be_processed)
{
    struct flight *flight = owner;
    struct gateway *gateway = flight->flights->gateway;

    (void)exchange;
    (void)may_be_processed;
    metrics_add(gateway->metrics, METRIC_FAULTS, METRIC_PART_UPSTREAM, failure, 1);
    relay_report_failure(gateway, flight->route.endpoint, failure);
    fail(flight, failure);
}

static const struct upstream_handler handler = {
    .on_head = on_head,
    .on_body = on_body,
    .on_failure = on_failure,
};

static bool build_head(struct flight *flight, struct view trace)
{
    struct builder *head = &flight->head;

    builder_reset(head);
    builder_append(head, VIEW("GET "));
    route_append_target(head, flight->flights->gateway->config->upstream.url.path, &flight->route);
    builder_append(head, VIEW(" HTTP/1.1\r\nAccept: application/json\r\nVia: 1.1 podgate\r\n"));
    builder_append(head, trace);
    return !builder_failed(head);
}

void flight_ask(struct flight *flight, struct view trace)
{
    struct gateway *gateway = flight->flights->gateway;
    struct upstream_request sent = {
        .resend = UPSTREAM_RESEND_READ,
        .deadlines = {.total_ms = gateway->config->upstream.read_timeout_ms},
    };
    uint64_t retry_after_s = 0;

    flight->building = flight_answer_create();
    if (!flight->building) {
        flight_arm(flight); /* no memory: the next turn of the timer tries again */
        return;
    }
    flight->asked_ms = clock_mono_ms();
    if (!breaker_allows(gateway->breaker, flight->route.endpoint, flight->asked_ms,
                        &retry_after_s)) {
        metrics_add(gateway->metrics, METRIC_REFUSALS, METRIC_REFUSAL_BREAKER, 0, 1);
        flight->building->refused = true;
        flight->building->retry_after_s = retry_after_s;
        settle(flight);
        return;
    }
    if (build_head(flight, trace)) {
        sent.head = builder_view(&flight->head);
        flight->exchange = upstream_send(gateway->upstream, &sent, &handler, flight);
    }
    if (!flight->exchange) {
        flight->building->failed = true;
        flight->building->failure = UPSTREAM_NO_MEMORY;
        settle(flight);
        return;
    }
    flight_arm(flight);
}
