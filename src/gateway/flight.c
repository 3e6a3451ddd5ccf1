#include "build_config.h"

#include "gateway/flight.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/flight_private.h"

/* Joining and leaving flights, from this worker and by mail from others. */

/* What travels between workers. */
struct join_letter {
    struct gateway *owner;
    struct flight_caller *caller;
    size_t name_length;
    size_t trace_length;
    char name[FLIGHT_NAME_BYTES];
    char trace[FLIGHT_TRACE_BYTES];
};

/* Of a caller that leaves, or of a job that changed. */
struct leave_letter {
    struct gateway *owner;
    struct request_handle handle;
    size_t name_length;
    char name[FLIGHT_NAME_BYTES];
};

/* ---- delivering ------------------------------------------------------------------------------ */

static void on_answer_letter(void *argument)
{
    struct flight_caller *caller = argument;

    caller->deliver(caller->gateway, caller->handle, caller->answer, caller->delivery);
    free(caller);
}

/* Takes the caller; the flight must not hold it any more. */
void flight_deliver_to(struct flights *flights, struct flight_caller *caller,
                       struct flight_answer *answer, enum flight_delivery delivery)
{
    struct gateway_shared *shared = flights->gateway->shared;

    caller->gateway = shared->gateways[caller->handle.gateway_index];
    caller->answer = answer ? flight_answer_ref(answer) : NULL;
    caller->delivery = delivery;
    if (caller->gateway == flights->gateway) {
        on_answer_letter(caller);
    } else {
        loop_post_letter(caller->gateway->loop, &caller->letter, on_answer_letter, caller);
    }
}

/* ---- joining and leaving --------------------------------------------------------------------- */

size_t flight_build_name(struct view endpoint, struct view job, char name[FLIGHT_NAME_BYTES])
{
    size_t length = endpoint.length;

    memcpy(name, endpoint.data, length);
    name[length++] = '/';
    if (job.length > 0) {
        memcpy(name + length, job.data, job.length);
        length += job.length;
    }
    return length;
}

static size_t build_name(const struct route *route, char name[FLIGHT_NAME_BYTES])
{
    return flight_build_name(route->endpoint,
                             route->operation == ROUTE_HEALTH ? VIEW("") : route->job, name);
}

struct gateway *flight_owner_of(struct gateway_shared *shared, struct view name)
{
    return shared
        ->gateways[shared->gateway_count == 1 ? 0 : table_hash(name) % shared->gateway_count];
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
    struct flight_answer *final = NULL;

    if (flight->is_job) {
        switch (flight_judge_caller(flight, caller, &final)) {
        case VERDICT_FINAL: return final;
        case VERDICT_LOAD: return NULL;
        case VERDICT_OPEN: break;
        }
    }
    if (atomic_load(&flights->forgets_sent) != flights->forgets_read) {
        return NULL;
    }
    if (!flight_answer_is_good(latest) ||
        clock_mono_ms() - latest->received_ms > caller->fresh_ms ||
        (caller->wait_until_ms != 0 && !latest->terminal)) {
        return NULL;
    }
    return latest;
}

static void add_caller(struct flight *flight, struct flight_caller *caller, struct view trace)
{
    caller->next = flight->callers;
    flight->callers = caller;
    flight_proceed(flight, trace);
}

struct flight *flight_find_or_create(struct flights *flights, struct view name)
{
    struct flight *flight = find(flights, name);

    return flight ? flight : flight_create(flights, name);
}

static void on_join_letter(void *argument)
{
    struct join_letter *letter = argument;
    struct flights *flights = letter->owner->flights;
    struct flight *flight =
        flight_find_or_create(flights, view_make(letter->name, letter->name_length));
    struct flight_answer *fresh = flight ? fresh_answer(flight, letter->caller) : NULL;

    if (fresh) {
        flight_deliver_to(flights, letter->caller, fresh, FLIGHT_FRESH);
    } else if (flight) {
        add_caller(flight, letter->caller, view_make(letter->trace, letter->trace_length));
    } else {
        flight_deliver_to(flights, letter->caller, NULL, FLIGHT_ASKED);
    }
    free(letter);
}

static bool post_join(struct gateway *owner, struct flight_caller *caller, struct view name,
                      struct view trace)
{
    struct join_letter *letter = malloc(sizeof *letter);

    if (!letter) {
        return false;
    }
    letter->owner = owner;
    letter->caller = caller;
    letter->name_length = name.length;
    memcpy(letter->name, name.data, name.length);
    letter->trace_length = trace.length <= sizeof letter->trace ? trace.length : 0;
    if (letter->trace_length > 0) {
        memcpy(letter->trace, trace.data, letter->trace_length);
    }
    if (!loop_post(owner->loop, on_join_letter, letter)) {
        free(letter);
        return false;
    }
    return true;
}

static uint8_t copy_name(char *to, size_t room, struct view from)
{
    size_t length = from.length < room ? from.length : room;

    if (length > 0) {
        memcpy(to, from.data, length);
    }
    return (uint8_t)length;
}

struct flight_answer *flight_join(struct gateway *gateway, const struct flight_question *question,
                                  bool *joined)
{
    char storage[FLIGHT_NAME_BYTES];
    struct view name = view_make(storage, build_name(question->route, storage));
    struct gateway *owner = flight_owner_of(gateway->shared, name);
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
    caller->may_adopt = question->may_adopt;
    caller->team_length = copy_name(caller->team, sizeof caller->team, question->team);
    caller->key_length = copy_name(caller->key, sizeof caller->key, question->key);
    if (owner != gateway) {
        *joined = post_join(owner, caller, name, question->trace);
        if (!*joined) {
            free(caller);
        }
        return NULL;
    }
    flight = flight_find_or_create(gateway->flights, name);
    if (!flight) {
        free(caller);
        return NULL;
    }
    fresh = fresh_answer(flight, caller);
    if (fresh) {
        free(caller);
        return flight_answer_ref(fresh);
    }
    add_caller(flight, caller, question->trace);
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
            (*link)->handle.slot == handle.slot &&
            (*link)->handle.generation == handle.generation) {
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

void flight_leave(struct gateway *gateway, struct request_handle handle, const struct route *route)
{
    char storage[FLIGHT_NAME_BYTES];
    struct view name = view_make(storage, build_name(route, storage));
    struct gateway *owner = flight_owner_of(gateway->shared, name);
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
        flight_forget_known(flight);
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
    char storage[FLIGHT_NAME_BYTES];
    struct view name = view_make(storage, build_name(route, storage));
    struct gateway *owner = flight_owner_of(gateway->shared, name);
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

static void forget_node(struct table_node *node, void *argument)
{
    (void)argument;
    flight_forget_known((struct flight *)(void *)node);
}

void flight_changed(struct gateway *gateway, struct view endpoint, struct view job)
{
    struct hot_cache *cache = gateway->shared->hot_cache;
    struct route route = {.operation = ROUTE_STATUS, .endpoint = endpoint, .job = job};

    if (job.length > 0 && route_endpoint_valid(endpoint) && route_job_valid(job)) {
        hot_cache_drop(cache, endpoint, job);
        flight_forget(gateway, &route);
        return;
    }
    hot_cache_clear(cache);
    table_for_each(gateway->flights->table, forget_node, NULL);
}

/* ---- all flights of a worker ----------------------------------------------------------------- */

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
    flight_end((struct flight *)(void *)node);
}

void flights_destroy(struct flights *flights)
{
    if (flights) {
        flight_end_errands(flights);
        table_for_each(flights->table, end_node, NULL);
        loop_flush_graves(flights->gateway->loop);
        table_destroy(flights->table);
        free(flights);
    }
}
