#include "build_config.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/breaker.h"
#include "gateway/flight_private.h"
#include "gateway/relay.h"
#include "model/job.h"
#include "model/metric_catalogue.h"

/* The life of one flight on its own worker: when it asks, what it makes of the answer, whom it
 * tells. */

/* ---- answers --------------------------------------------------------------------------------- */

void flight_answer_unref(struct flight_answer *answer)
{
    if (answer && atomic_fetch_sub_explicit(&answer->references, 1, memory_order_acq_rel) == 1) {
        body_unref(answer->body);
        free(answer);
    }
}

struct flight_answer *flight_answer_ref(struct flight_answer *answer)
{
    atomic_fetch_add_explicit(&answer->references, 1, memory_order_relaxed);
    return answer;
}

struct flight_answer *flight_answer_create(void)
{
    struct flight_answer *answer = calloc(1, sizeof *answer);

    if (answer) {
        atomic_init(&answer->references, 1);
    }
    return answer;
}

bool flight_answer_is_good(const struct flight_answer *answer)
{
    return answer && !answer->failed && !answer->refused && answer->is_json &&
           answer->status == 200;
}

/* Upstream failed, rather than said something about the job. */
static bool is_failure(const struct flight_answer *answer)
{
    return answer->failed || answer->refused || !answer->is_json || answer->status >= 500 ||
           answer->status == 429 || answer->status == 401 || answer->status == 403;
}

/* ---- the flight's life ----------------------------------------------------------------------- */

static void on_timer(evutil_socket_t descriptor, short what, void *argument);

static void destroy(void *object)
{
    struct flight *flight = object;

    builder_clear(&flight->head);
    free(flight);
}

void flight_end(struct flight *flight)
{
    struct flights *flights = flight->flights;

    event_del(&flight->timer);
    if (flight->exchange) {
        upstream_abort(flight->exchange);
        flight->exchange = NULL;
    }
    while (flight->callers) {
        struct flight_caller *caller = flight->callers;

        flight->callers = caller->next;
        free(caller);
    }
    flight_answer_unref(flight->latest);
    flight_answer_unref(flight->good);
    flight_answer_unref(flight->building);
    flight->latest = NULL;
    flight->good = NULL;
    flight->building = NULL;
    table_remove(flights->table, &flight->node);
    loop_bury(flights->gateway->loop, &flight->grave, destroy, flight);
}

static void parse_name(struct flight *flight)
{
    struct view name = view_make(flight->name, flight->name_length);
    size_t slash = view_find_byte(name, '/');

    flight->route.endpoint = view_first(name, slash);
    flight->route.job = view_skip(name, slash + 1);
    flight->route.operation = flight->route.job.length > 0 ? ROUTE_STATUS : ROUTE_HEALTH;
    flight->keep_ms =
        flight->route.operation == ROUTE_HEALTH ? FLIGHT_HEALTH_STALE_MS : FLIGHT_POLL_MS;
}

struct flight *flight_create(struct flights *flights, struct view name)
{
    struct flight *flight = calloc(1, sizeof *flight);

    if (!flight) {
        return NULL;
    }
    flight->flights = flights;
    memcpy(flight->name, name.data, name.length);
    flight->name_length = name.length;
    parse_name(flight);
    builder_init(&flight->head, flight->head_storage, sizeof flight->head_storage);
    evtimer_assign(&flight->timer, loop_base(flights->gateway->loop), on_timer, flight);
    if (!table_insert(flights->table, &flight->node, view_make(flight->name, name.length))) {
        free(flight);
        return NULL;
    }
    return flight;
}

void flight_arm(struct flight *flight)
{
    uint64_t now_ms = clock_mono_ms();
    uint64_t delay_ms = WATCH_MS;
    struct timeval delay;

    if (!flight->callers) {
        uint64_t end_ms = flight->latest ? flight->latest->received_ms + flight->keep_ms : now_ms;

        delay_ms = end_ms > now_ms ? end_ms - now_ms + 1 : 1;
    } else if (!flight->building) {
        uint64_t due_ms = flight->asked_ms + FLIGHT_POLL_MS;

        delay_ms = due_ms > now_ms ? due_ms - now_ms + 1 : 1;
    }
    delay.tv_sec = (time_t)(delay_ms / 1000);
    delay.tv_usec = (suseconds_t)(delay_ms % 1000 * 1000);
    event_add(&flight->timer, &delay);
}

static void settle(struct flight *flight)
{
    static const struct timeval now = {0, 0};

    flight->settled = true;
    event_add(&flight->timer, &now);
}

/* What a caller gets now: NULL to stay on the flight. */
static struct flight_answer *choose(struct flight *flight, const struct flight_caller *caller,
                                    struct flight_answer *answer, uint64_t now_ms,
                                    enum flight_delivery *delivery)
{
    *delivery = caller->asked ? FLIGHT_ASKED : FLIGHT_SHARED;
    if (caller->wait_until_ms == 0) {
        if (answer && is_failure(answer) && caller->stale_ms > 0 && flight->good &&
            now_ms - flight->good->received_ms <= caller->stale_ms) {
            *delivery = FLIGHT_STALE;
            return flight->good;
        }
        return answer;
    }
    if (answer && answer->too_large) {
        return answer; /* only a request of the caller's own can tell him, and may as well do it now
                        */
    }
    if (answer && !is_failure(answer) && (answer->terminal || answer->status != 200)) {
        return answer;
    }
    if (now_ms < caller->wait_until_ms) {
        return NULL;
    }
    if (flight->good) {
        *delivery = flight->good == answer ? *delivery : FLIGHT_FRESH;
        return flight->good;
    }
    return answer ? answer : flight->latest;
}

/* Tells everybody who is to be told now: with a new `answer`, or NULL when only time has passed. */
static void tell_callers(struct flight *flight, struct flight_answer *answer)
{
    uint64_t now_ms = clock_mono_ms();
    struct flight_caller **link = &flight->callers;
    struct flight_caller *told = NULL;
    struct flight_caller **told_last = &told;

    /* First all are taken off, then they are told, since telling may bring them back. */
    while (*link) {
        struct flight_caller *caller = *link;
        enum flight_delivery delivery;

        if (!choose(flight, caller, answer, now_ms, &delivery)) {
            caller->asked = false;
            link = &caller->next;
            continue;
        }
        *link = caller->next;
        caller->next = NULL;
        *told_last = caller;
        told_last = &caller->next;
    }
    while (told) {
        struct flight_caller *caller = told;
        enum flight_delivery delivery;
        struct flight_answer *chosen = choose(flight, caller, answer, now_ms, &delivery);

        told = caller->next;
        flight_deliver_to(flight->flights, caller, chosen, delivery);
    }
}

/* Nothing is known and the time is up: a caller who waited for that gets a time-out. */
static void time_out_callers(struct flight *flight, uint64_t now_ms)
{
    struct flight_caller **link = &flight->callers;

    while (*link) {
        struct flight_caller *caller = *link;
        struct flight_answer *answer;

        if (caller->wait_until_ms == 0 || now_ms < caller->wait_until_ms + GRACE_MS) {
            link = &caller->next;
            continue;
        }
        answer = flight_answer_create();
        if (!answer) {
            link = &caller->next;
            continue;
        }
        answer->failed = true;
        answer->failure = UPSTREAM_TIMEOUT;
        *link = caller->next;
        flight_deliver_to(flight->flights, caller, answer, FLIGHT_ASKED);
        flight_answer_unref(answer);
    }
}

void flight_forget_known(struct flight *flight)
{
    flight->discard = flight->building != NULL;
    flight_answer_unref(flight->latest);
    flight->latest = NULL;
    flight_answer_unref(flight->good);
    flight->good = NULL;
}

/* The answer that came was asked for before podgate itself changed the job, or perhaps so: the
 * letter that says which job it was is still in the mail. */
static bool is_outdated(const struct flight *flight)
{
    return flight->discard ||
           atomic_load(&flight->flights->forgets_sent) != flight->flights->forgets_read;
}

/* Some of the callers may know of the change already, so nobody is told the state before it. */
static void ask_again(struct flight *flight)
{
    if (flight->callers) {
        flight_ask(flight, VIEW(""));
    } else {
        flight_arm(flight);
    }
}

static void complete(struct flight *flight)
{
    struct flight_answer *answer = flight->building;
    bool outdated = is_outdated(flight);

    flight->building = NULL;
    flight->exchange = NULL;
    flight->discard = false;
    if (outdated && !is_failure(answer)) {
        flight_answer_unref(answer);
        ask_again(flight);
        return;
    }
    answer->received_ms = clock_mono_ms();
    flight_answer_unref(flight->latest);
    flight->latest = answer;
    if (flight_answer_is_good(answer)) {
        flight_answer_unref(flight->good);
        flight->good = flight_answer_ref(answer);
    }
    tell_callers(flight, answer);
    flight_arm(flight);
}

static void on_timer(evutil_socket_t descriptor, short what, void *argument)
{
    struct flight *flight = argument;
    uint64_t now_ms = clock_mono_ms();

    (void)descriptor;
    (void)what;
    if (flight->settled) {
        flight->settled = false;
        complete(flight);
        return;
    }
    tell_callers(flight, NULL);
    time_out_callers(flight, now_ms);
    if (flight->callers) {
        if (!flight->building && now_ms >= flight->asked_ms + FLIGHT_POLL_MS) {
            flight_ask(flight, VIEW(""));
            return;
        }
    } else if (!flight->building &&
               (!flight->latest || now_ms >= flight->latest->received_ms + flight->keep_ms)) {
        flight_end(flight);
        return;
    }
    flight_arm(flight);
}

/* ---- asking upstream ------------------------------------------------------------------------- */

/* An upstream that echoes what it was sent must not give the key away. */
static void on_head(void *owner, struct upstream_exchange *exchange,
                    const struct http_response_head *head)
{
    struct flight *flight = owner;
    struct gateway *gateway = flight->flights->gateway;
    struct flight_answer *answer = flight->building;
    struct builder fields;
    uint64_t capacity = FIRST_BODY_BYTES;
    uint64_t maximum = gateway->config->retention.max_result_bytes;

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
    complete(flight);
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
    complete(flight);
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
