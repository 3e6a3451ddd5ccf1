#include "build_config.h"

#include "gateway/flight.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/table.h"
#include "gateway/breaker.h"
#include "gateway/relay.h"
#include "model/job.h"
#include "model/metric_catalogue.h"

enum {
    NAME_BYTES = ROUTE_ENDPOINT_MAXIMUM + 1 + ROUTE_JOB_MAXIMUM + 1,
    FIRST_BODY_BYTES = 1024,
    HEAD_BYTES = 384,
    /* While an answer is on its way, deadlines of waiting callers are looked at this often. */
    WATCH_MS = 250,
    /* A caller whose time is up before anything is known yet gets so much more. */
    GRACE_MS = 750,
};

/* One caller on a flight. On the heap; owned by the flight's worker once it has joined. */
struct flight_caller {
    struct flight_caller *next;
    struct request_handle handle;
    flight_deliver *deliver;
    uint64_t fresh_ms;
    uint64_t stale_ms;
    uint64_t wait_until_ms;
    bool asked; /* this caller's coming caused the request that is on its way */
};

/* Owned by its worker's table. Dead when nobody is on it and its answer is stale; freed after that
 * turn of the loop. */
struct flight {
    struct table_node node;
    struct flights *flights;
    struct loop_grave grave;
    struct event timer;
    struct flight_caller *callers;
    struct flight_answer *latest; /* the last answer, whatever it was */
    struct flight_answer *good;   /* the last 200 */
    struct upstream_exchange *exchange;
    struct flight_answer *building; /* of the exchange that is under way */
    bool discard; /* what is on its way was asked for before flight_forget(): it serves nobody later */
    bool settled; /* `building` is complete already: told at the next turn, never from within ask() */
    uint64_t asked_ms;
    uint64_t keep_ms; /* how long an answer may still be of use */
    struct route route;
    struct builder head;
    size_t name_length;
    char name[NAME_BYTES];
    char head_storage[HEAD_BYTES];
};

struct flights {
    struct gateway *gateway;
    struct table *table;
    /* Letters of flight_forget() that other workers sent, and those that were read. While they differ
     * no answer counts as fresh: a caller may have been told of a change that is still in the mail. */
    _Atomic uint64_t forgets_sent;
    uint64_t forgets_read;
};

/* What travels between workers. */
struct join_letter {
    struct gateway *owner;
    struct flight_caller *caller;
    size_t name_length;
    size_t request_id_length;
    char name[NAME_BYTES];
    char request_id[128];
};

/* Of a caller that leaves, or of a job that changed. */
struct leave_letter {
    struct gateway *owner;
    struct request_handle handle;
    size_t name_length;
    char name[NAME_BYTES];
};

struct answer_letter {
    struct gateway *gateway;
    struct request_handle handle;
    flight_deliver *deliver;
    struct flight_answer *answer;
    enum flight_delivery delivery;
};

/* ---- answers ----------------------------------------------------------------------------------- */

void flight_answer_unref(struct flight_answer *answer)
{
    if (answer &&
        atomic_fetch_sub_explicit(&answer->references, 1, memory_order_acq_rel) == 1) {
        body_unref(answer->body);
        free(answer);
    }
}

static struct flight_answer *answer_ref(struct flight_answer *answer)
{
    atomic_fetch_add_explicit(&answer->references, 1, memory_order_relaxed);
    return answer;
}

static struct flight_answer *answer_create(void)
{
    struct flight_answer *answer = calloc(1, sizeof *answer);

    if (answer) {
        atomic_init(&answer->references, 1);
    }
    return answer;
}

static bool is_good(const struct flight_answer *answer)
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

/* ---- delivering --------------------------------------------------------------------------------- */

static void on_answer_letter(void *argument)
{
    struct answer_letter *letter = argument;

    letter->deliver(letter->gateway, letter->handle, letter->answer, letter->delivery);
    free(letter);
}

/* Takes the caller; the flight must not hold it any more. */
static void deliver(struct flights *flights, struct flight_caller *caller,
                    struct flight_answer *answer, enum flight_delivery delivery)
{
    struct gateway_shared *shared = flights->gateway->shared;
    struct gateway *gateway = shared->gateways[caller->handle.gateway_index];

    answer_ref(answer);
    if (gateway == flights->gateway) {
        caller->deliver(gateway, caller->handle, answer, delivery);
    } else {
        struct answer_letter *letter = malloc(sizeof *letter);

        if (letter) {
            *letter = (struct answer_letter){gateway, caller->handle, caller->deliver, answer,
                                             delivery};
        }
        if (!letter || !loop_post(gateway->loop, on_answer_letter, letter)) {
            free(letter);
            flight_answer_unref(answer);
        }
    }
    free(caller);
}

/* ---- the flight's life --------------------------------------------------------------------------- */

static void on_timer(evutil_socket_t descriptor, short what, void *argument);
static void ask(struct flight *flight, struct view request_id);

static void destroy(void *object)
{
    struct flight *flight = object;

    builder_clear(&flight->head);
    free(flight);
}

static void end(struct flight *flight)
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

static struct flight *create(struct flights *flights, struct view name)
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

static void arm(struct flight *flight)
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
        deliver(flight->flights, caller, chosen, delivery);
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
        answer = answer_create();
        if (!answer) {
            link = &caller->next;
            continue;
        }
        answer->failed = true;
        answer->failure = UPSTREAM_TIMEOUT;
        *link = caller->next;
        deliver(flight->flights, caller, answer, FLIGHT_ASKED);
        flight_answer_unref(answer);
    }
}

static void forget(struct flight *flight)
{
    flight->discard = flight->building != NULL;
    flight_answer_unref(flight->latest);
    flight->latest = NULL;
    flight_answer_unref(flight->good);
    flight->good = NULL;
}

static void complete(struct flight *flight)
{
    struct flight_answer *answer = flight->building;

    flight->building = NULL;
    flight->exchange = NULL;
    answer->received_ms = clock_mono_ms();
    flight_answer_unref(flight->latest);
    flight->latest = answer;
    if (is_good(answer)) {
        flight_answer_unref(flight->good);
        flight->good = answer_ref(answer);
    }
    tell_callers(flight, answer);
    if (flight->discard) {
        forget(flight);
    }
    arm(flight);
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
            ask(flight, VIEW(""));
            return;
        }
    } else if (!flight->building &&
               (!flight->latest || now_ms >= flight->latest->received_ms + flight->keep_ms)) {
        end(flight);
        return;
    }
    arm(flight);
}

/* ---- asking upstream ------------------------------------------------------------------------------ */

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
    metrics_add(gateway->metrics, METRIC_UPSTREAM_REQUESTS, flight->route.operation,
                metric_status_class(head->status), 1);
    breaker_report(gateway->breaker, flight->route.endpoint,
                   relay_status_is_failure(head->status) ? BREAKER_ENDPOINT_FAILED : BREAKER_OK,
                   clock_mono_ms());
    if (head->head.framing == HTTP_BODY_LENGTH && head->head.content_length <= maximum) {
        capacity = head->head.content_length;
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
    answer->terminal =
        job_state_parse(facts.status, &state) && job_state_is_terminal(state);
    answer->completed_without_output = answer->status == 200 &&
                                       view_equal(facts.status, VIEW("COMPLETED")) &&
                                       !facts.has_output;
    if (answer->completed_without_output) {
        metrics_add(flight->flights->gateway->metrics, METRIC_WARNINGS,
                    METRIC_WARNING_COMPLETED_WITHOUT_OUTPUT, 0, 1);
    }
}

static void mask_key(struct flight *flight)
{
    struct gateway *gateway = flight->flights->gateway;
    struct view bytes = body_view(flight->building->body);
    union {
        const char *constant;
        char *writable;
    } data = {.constant = bytes.data};
    size_t found =
        upstream_identity_mask(gateway->shared->identity, data.writable, bytes.length);

    if (found > 0) {
        metrics_add(gateway->metrics, METRIC_KEY_MASKED, 0, 0, (int64_t)found);
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
    mask_key(flight);
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
    metrics_add(gateway->metrics, METRIC_UPSTREAM_FAULTS, failure, 0, 1);
    relay_report_failure(gateway, flight->route.endpoint, failure);
    fail(flight, failure);
}

static const struct upstream_handler handler = {
    .on_head = on_head,
    .on_body = on_body,
    .on_failure = on_failure,
};

static bool build_head(struct flight *flight, struct view request_id)
{
    struct builder *head = &flight->head;

    builder_reset(head);
    builder_append(head, VIEW("GET "));
    route_append_target(head, flight->flights->gateway->config->upstream.url.path, &flight->route);
    builder_append(head, VIEW(" HTTP/1.1\r\nAccept: application/json\r\nVia: 1.1 podgate\r\n"));
    if (request_id.length > 0) {
        http_field_append(head, VIEW("X-Request-Id"), request_id);
    }
    return !builder_failed(head);
}

static void ask(struct flight *flight, struct view request_id)
{
    struct gateway *gateway = flight->flights->gateway;
    struct upstream_request sent = {
        .resend = UPSTREAM_RESEND_READ,
        .deadlines = {.total_ms = gateway->config->upstream.read_timeout_ms},
    };
    uint64_t retry_after_s = 0;

    flight->building = answer_create();
    if (!flight->building) {
        arm(flight); /* no memory: the next turn of the timer tries again */
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
    if (build_head(flight, request_id)) {
        sent.head = builder_view(&flight->head);
        flight->exchange = upstream_send(gateway->upstream, &sent, &handler, flight);
    }
    if (!flight->exchange) {
        flight->building->failed = true;
        flight->building->failure = UPSTREAM_NO_MEMORY;
        settle(flight);
        return;
    }
    arm(flight);
}

/* ---- joining and leaving ---------------------------------------------------------------------------- */

static size_t build_name(const struct route *route, char name[NAME_BYTES])
{
    size_t length = route->endpoint.length;

    memcpy(name, route->endpoint.data, length);
    name[length++] = '/';
    if (route->operation != ROUTE_HEALTH) {
        memcpy(name + length, route->job.data, route->job.length);
        length += route->job.length;
    }
    return length;
}

static struct gateway *owner_of(struct gateway *gateway, struct view name)
{
    struct gateway_shared *shared = gateway->shared;

    return shared->gateway_count == 1
               ? gateway
               : shared->gateways[table_hash(name) % shared->gateway_count];
}

static struct flight *find(struct flights *flights, struct view name)
{
    return (struct flight *)(void *)table_find(flights->table, name);
}

/* An answer that serves this caller without asking anybody, or NULL. */
static struct flight_answer *fresh_answer(const struct flight *flight,
                                          const struct flight_caller *caller)
{
    struct flight_answer *latest = flight->latest;
    struct flights *flights = flight->flights;

    if (atomic_load(&flights->forgets_sent) != flights->forgets_read) {
        return NULL;
    }
    if (!is_good(latest) || clock_mono_ms() - latest->received_ms > caller->fresh_ms ||
        (caller->wait_until_ms != 0 && !latest->terminal)) {
        return NULL;
    }
    return latest;
}

static void add_caller(struct flight *flight, struct flight_caller *caller, struct view request_id)
{
    bool may_ask = caller->wait_until_ms == 0 ||
                   clock_mono_ms() >= flight->asked_ms + FLIGHT_POLL_MS;

    caller->next = flight->callers;
    flight->callers = caller;
    if (!flight->building && may_ask) {
        caller->asked = true;
        ask(flight, request_id);
    } else if (!caller->next) {
        arm(flight);
    }
}

static struct flight *find_or_create(struct flights *flights, struct view name)
{
    struct flight *flight = find(flights, name);

    return flight ? flight : create(flights, name);
}

static void on_join_letter(void *argument)
{
    struct join_letter *letter = argument;
    struct flights *flights = letter->owner->flights;
    struct flight *flight =
        find_or_create(flights, view_make(letter->name, letter->name_length));
    struct flight_answer *fresh = flight ? fresh_answer(flight, letter->caller) : NULL;

    if (fresh) {
        deliver(flights, letter->caller, fresh, FLIGHT_FRESH);
    } else if (flight) {
        add_caller(flight, letter->caller,
                   view_make(letter->request_id, letter->request_id_length));
    } else {
        struct flight_answer *answer = answer_create();

        if (answer) {
            answer->failed = true;
            answer->failure = UPSTREAM_NO_MEMORY;
            deliver(flights, letter->caller, answer, FLIGHT_ASKED);
            flight_answer_unref(answer);
        } else {
            free(letter->caller);
        }
    }
    free(letter);
}

static bool post_join(struct gateway *owner, struct flight_caller *caller, struct view name,
                      struct view request_id)
{
    struct join_letter *letter = malloc(sizeof *letter);

    if (!letter) {
        return false;
    }
    letter->owner = owner;
    letter->caller = caller;
    letter->name_length = name.length;
    memcpy(letter->name, name.data, name.length);
    letter->request_id_length =
        request_id.length <= sizeof letter->request_id ? request_id.length : 0;
    memcpy(letter->request_id, request_id.data, letter->request_id_length);
    if (!loop_post(owner->loop, on_join_letter, letter)) {
        free(letter);
        return false;
    }
    return true;
}

struct flight_answer *flight_join(struct gateway *gateway, const struct flight_question *question,
                                  bool *joined)
{
    char storage[NAME_BYTES];
    struct view name = view_make(storage, build_name(question->route, storage));
    struct gateway *owner = owner_of(gateway, name);
    struct flight_caller *caller = calloc(1, sizeof *caller);
    struct flight *flight;
    struct flight_answer *fresh;

    *joined = false;
    if (!caller) {
        return NULL;
    }
    caller->handle = question->handle;
    caller->deliver = question->deliver;
    caller->fresh_ms = question->fresh_ms;
    caller->stale_ms = question->stale_ms;
    caller->wait_until_ms = question->wait_until_ms;
    if (owner != gateway) {
        *joined = post_join(owner, caller, name, question->request_id);
        if (!*joined) {
            free(caller);
        }
        return NULL;
    }
    flight = find_or_create(gateway->flights, name);
    if (!flight) {
        free(caller);
        return NULL;
    }
    fresh = fresh_answer(flight, caller);
    if (fresh) {
        free(caller);
        return answer_ref(fresh);
    }
    add_caller(flight, caller, question->request_id);
    *joined = true;
    return NULL;
}

static void remove_caller(struct flights *flights, struct view name, struct request_handle handle)
{
    struct flight *flight = find(flights, name);
    struct flight_caller **link;

    if (!flight) {
        return;
    }
    for (link = &flight->callers; *link; link = &(*link)->next) {
        if ((*link)->handle.gateway_index == handle.gateway_index &&
            (*link)->handle.slot == handle.slot && (*link)->handle.generation == handle.generation) {
            struct flight_caller *caller = *link;

            *link = caller->next;
            free(caller);
            return; /* with nobody left the timer ends the flight */
        }
    }
}

static void on_leave_letter(void *argument)
{
    struct leave_letter *letter = argument;

    remove_caller(letter->owner->flights, view_make(letter->name, letter->name_length),
                  letter->handle);
    free(letter);
}

void flight_leave(struct gateway *gateway, struct request_handle handle,
                  const struct route *route)
{
    char storage[NAME_BYTES];
    struct view name = view_make(storage, build_name(route, storage));
    struct gateway *owner = owner_of(gateway, name);
    struct leave_letter *letter;

    if (owner == gateway) {
        remove_caller(gateway->flights, name, handle);
        return;
    }
    letter = malloc(sizeof *letter);
    if (letter) {
        letter->owner = owner;
        letter->handle = handle;
        letter->name_length = name.length;
        memcpy(letter->name, name.data, name.length);
        if (!loop_post(owner->loop, on_leave_letter, letter)) {
            free(letter); /* the flight then polls until the caller's time is up */
        }
    }
}

static void forget_name(struct flights *flights, struct view name)
{
    struct flight *flight = find(flights, name);

    if (flight) {
        forget(flight);
    }
}

static void on_forget_letter(void *argument)
{
    struct leave_letter *letter = argument;
    struct flights *flights = letter->owner->flights;

    forget_name(flights, view_make(letter->name, letter->name_length));
    flights->forgets_read++;
    free(letter);
}

void flight_forget(struct gateway *gateway, const struct route *route)
{
    char storage[NAME_BYTES];
    struct view name = view_make(storage, build_name(route, storage));
    struct gateway *owner = owner_of(gateway, name);
    struct leave_letter *letter;

    if (owner == gateway) {
        forget_name(gateway->flights, name);
        return;
    }
    letter = calloc(1, sizeof *letter);
    if (!letter) {
        return; /* the old answer is served for the rest of its half second */
    }
    letter->owner = owner;
    letter->name_length = name.length;
    memcpy(letter->name, name.data, name.length);
    atomic_fetch_add(&owner->flights->forgets_sent, 1);
    if (!loop_post(owner->loop, on_forget_letter, letter)) {
        atomic_fetch_sub(&owner->flights->forgets_sent, 1);
        free(letter);
    }
}

/* ---- all flights of a worker ------------------------------------------------------------------------ */

struct flights *flights_create(struct gateway *gateway)
{
    struct flights *flights = calloc(1, sizeof *flights);

    if (!flights) {
        return NULL;
    }
    flights->gateway = gateway;
    flights->table = table_create();
    if (!flights->table) {
        free(flights);
        return NULL;
    }
    return flights;
}

static void end_node(struct table_node *node, void *argument)
{
    (void)argument;
    end((struct flight *)(void *)node);
}

void flights_destroy(struct flights *flights)
{
    if (flights) {
        table_for_each(flights->table, end_node, NULL);
        loop_flush_graves(flights->gateway->loop);
        table_destroy(flights->table);
        free(flights);
    }
}
