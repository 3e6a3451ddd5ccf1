#include "build_config.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/flight_private.h"
#include "model/job.h"
#include "model/metric_catalogue.h"

/* The life of one flight on its own worker: when it asks, what it makes of the answer, whom it
 * tells. */

/* ---- answers --------------------------------------------------------------------------------- */

void flight_answer_unref(struct flight_answer *answer)
{
    if (answer && atomic_fetch_sub_explicit(&answer->references, 1, memory_order_acq_rel) == 1) {
        hot_result_unref(answer->result);
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
        answer->problem = PROBLEM_COUNT;
    }
    return answer;
}

bool flight_answer_is_good(const struct flight_answer *answer)
{
    return answer && !answer->failed && !answer->refused && answer->is_json &&
           answer->status == 200;
}

bool flight_answer_is_failure(const struct flight_answer *answer)
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

static void cancel_call(struct store_call **call)
{
    if (*call) {
        store_cancel(*call);
        *call = NULL;
    }
}

void flight_end(struct flight *flight)
{
    struct flights *flights = flight->flights;

    event_del(&flight->timer);
    cancel_call(&flight->load_call);
    cancel_call(&flight->lease_call);
    cancel_call(&flight->write_call);
    flight_clear_ending(flight);
    flight_answer_unref(flight->final);
    flight_answer_unref(flight->nobody);
    flight_answer_unref(flight->adopted);
    flight->adopted = NULL;
    flight->final = NULL;
    flight->nobody = NULL;
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
    flight->is_job = flight->route.job.length > 0;
    flight->route.operation = flight->is_job ? ROUTE_STATUS : ROUTE_HEALTH;
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
    if (flight->is_job) {
        flight->nobody = flight_problem_answer(PROBLEM_JOB_NOT_FOUND);
        if (!flight->nobody) {
            free(flight);
            return NULL;
        }
    }
    builder_init(&flight->head, flight->head_storage, sizeof flight->head_storage);
    evtimer_assign(&flight->timer, loop_base(flights->gateway->loop), on_timer, flight);
    if (!table_insert(flights->table, &flight->node, view_make(flight->name, name.length))) {
        flight_answer_unref(flight->nobody);
        free(flight);
        return NULL;
    }
    return flight;
}

/* Something is under way that must be seen through, whether or not anybody waits. */
static bool flight_is_busy(const struct flight *flight)
{
    return flight->load_call || flight->lease_call || flight->write_call ||
           flight->encoding_result || flight->has_ending || flight->polling || flight->leased ||
           flight->watch_every_ms != 0;
}

void flight_arm(struct flight *flight)
{
    uint64_t now_ms = clock_mono_ms();
    uint64_t delay_ms = WATCH_MS;
    struct timeval delay;

    if (flight->settled) {
        return; /* the next turn tells them */
    }
    if (flight_is_busy(flight)) {
        delay_ms = WATCH_MS;
    } else if (!flight->callers) {
        uint64_t end_ms = flight->latest ? flight->latest->received_ms + flight->keep_ms : now_ms;

        delay_ms = end_ms > now_ms ? end_ms - now_ms + 1 : 1;
    } else if (!flight->building) {
        uint64_t due_ms = flight->asked_ms + FLIGHT_POLL_MS;

        due_ms = due_ms > flight->not_before_ms ? due_ms : flight->not_before_ms;
        if (due_ms <= now_ms || due_ms > now_ms + WATCH_MS) {
            due_ms = now_ms + WATCH_MS; /* deadlines are looked at meanwhile */
        }
        delay_ms = due_ms > now_ms ? due_ms - now_ms + 1 : 1;
    }
    delay.tv_sec = (time_t)(delay_ms / 1000);
    delay.tv_usec = (suseconds_t)(delay_ms % 1000 * 1000);
    event_add(&flight->timer, &delay);
}

/* An answer that is young enough for a caller who doesn't wait for the end. */
static bool is_fresh(const struct flight *flight, const struct flight_caller *caller,
                     uint64_t now_ms)
{
    return flight_answer_is_good(flight->latest) &&
           now_ms - flight->latest->received_ms <= caller->fresh_ms &&
           atomic_load(&flight->flights->forgets_sent) == flight->flights->forgets_read;
}

static struct flight_answer *choose_at_once(struct flight *flight,
                                            const struct flight_caller *caller,
                                            struct flight_answer *answer, uint64_t now_ms,
                                            enum flight_delivery *delivery)
{
    if (answer && flight_answer_is_failure(answer) && caller->stale_ms > 0 && flight->good &&
        now_ms - flight->good->received_ms <= caller->stale_ms) {
        *delivery = FLIGHT_STALE;
        return flight->good;
    }
    if (!answer && !caller->asked && !flight->building && is_fresh(flight, caller, now_ms)) {
        *delivery = FLIGHT_FRESH;
        return flight->latest;
    }
    return answer;
}

/* For one who waits for the job's end. */
static struct flight_answer *choose_later(struct flight *flight, const struct flight_caller *caller,
                                          struct flight_answer *answer, uint64_t now_ms,
                                          enum flight_delivery *delivery)
{
    if (answer && answer->too_large) {
        return answer; /* only a request of the caller's own can tell him, and may as well do it now
                        */
    }
    if (answer && !flight_answer_is_failure(answer) &&
        (answer->terminal || answer->status != 200)) {
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

/* What a caller gets now: NULL to stay on the flight. */
static struct flight_answer *choose(struct flight *flight, const struct flight_caller *caller,
                                    struct flight_answer *answer, uint64_t now_ms,
                                    enum flight_delivery *delivery)
{
    *delivery = caller->asked ? FLIGHT_ASKED : FLIGHT_SHARED;
    if (flight->is_job) {
        struct flight_answer *final = NULL;

        switch (flight_judge_caller(flight, caller, &final)) {
        case VERDICT_FINAL: return final;
        case VERDICT_LOAD: return NULL;
        case VERDICT_OPEN: break;
        }
    }
    return caller->wait_until_ms == 0 ? choose_at_once(flight, caller, answer, now_ms, delivery)
                                      : choose_later(flight, caller, answer, now_ms, delivery);
}

void flight_tell(struct flight *flight, struct flight_answer *answer)
{
    uint64_t now_ms = clock_mono_ms();
    struct flight_caller **link = &flight->callers;
    struct flight_caller *told = NULL;
    struct flight_caller **told_last = &told;

    /* First all are taken off, each with his answer, then they are told, since telling may bring
     * them back. */
    while (*link) {
        struct flight_caller *caller = *link;
        enum flight_delivery delivery;
        struct flight_answer *chosen = choose(flight, caller, answer, now_ms, &delivery);

        if (!chosen) {
            caller->asked = caller->asked && !answer;
            link = &caller->next;
            continue;
        }
        *link = caller->next;
        caller->next = NULL;
        caller->answer = flight_answer_ref(chosen);
        caller->delivery = delivery;
        *told_last = caller;
        told_last = &caller->next;
    }
    while (told) {
        struct flight_caller *caller = told;
        struct flight_answer *chosen = caller->answer;

        told = caller->next;
        flight_deliver_to(flight->flights, caller, chosen, caller->delivery);
        flight_answer_unref(chosen);
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
    flight->record.known = RECORD_NONE;
    flight->reload = flight->load_call != NULL;
    flight_answer_unref(flight->final);
    flight->final = NULL;
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

void flight_complete(struct flight *flight)
{
    struct flight_answer *answer = flight->building;
    bool outdated = is_outdated(flight);

    flight->building = NULL;
    flight->exchange = NULL;
    flight->discard = false;
    if (outdated && !flight_answer_is_failure(answer)) {
        /* Some of the callers may know of the change already, so nobody is told the state before
         * it. */
        flight_answer_unref(answer);
        flight_proceed(flight, VIEW(""));
        return;
    }
    answer->received_ms = clock_mono_ms();
    flight_take_answer(flight, answer);
}

void flight_take_answer(struct flight *flight, struct flight_answer *answer)
{
    answer = flight_judge_answer(flight, answer);
    if (answer && answer->problem == PROBLEM_COUNT && !answer->made_here) {
        flight_answer_unref(flight->latest);
        flight->latest = flight_answer_ref(answer);
        if (flight_answer_is_good(answer)) {
            flight_answer_unref(flight->good);
            flight->good = flight_answer_ref(answer);
        }
    }
    if (answer) {
        flight_tell(flight, answer);
        flight_answer_unref(answer);
    }
    flight_proceed(flight, VIEW(""));
}

static void on_timer(evutil_socket_t descriptor, short what, void *argument)
{
    struct flight *flight = argument;
    uint64_t now_ms = clock_mono_ms();

    (void)descriptor;
    (void)what;
    if (flight->settled) {
        flight->settled = false;
        flight_complete(flight);
        return;
    }
    flight_retry_store(flight);
    flight_release_lease(flight);
    flight_tell(flight, NULL);
    time_out_callers(flight, now_ms);
    if (!flight->callers && !flight->building && !flight_is_busy(flight) &&
        (!flight->latest || now_ms >= flight->latest->received_ms + flight->keep_ms)) {
        flight_end(flight);
        return;
    }
    flight_proceed(flight, VIEW(""));
}

/* ---- what is to be done next ----------------------------------------------------------------- */

static bool wants_load(const struct flight *flight)
{
    struct flight_answer *final;

    if ((flight->polling || flight->watch_every_ms != 0) && flight->record.known == RECORD_NONE) {
        return true;
    }
    for (const struct flight_caller *caller = flight->callers; caller; caller = caller->next) {
        if (flight_judge_caller(flight, caller, &final) == VERDICT_LOAD) {
            return true;
        }
    }
    return false;
}

static bool is_open(const struct flight *flight, const struct flight_caller *caller)
{
    struct flight_answer *final;

    return !flight->is_job || flight_judge_caller(flight, caller, &final) == VERDICT_OPEN;
}

/* The one who makes upstream be asked now (who came first), and whether somebody waits for the end.
 */
static struct flight_caller *find_asker(const struct flight *flight, bool *waits)
{
    struct flight_caller *asker = NULL;

    *waits = false;
    for (struct flight_caller *caller = flight->callers; caller; caller = caller->next) {
        if (!is_open(flight, caller)) {
            continue;
        }
        if (caller->wait_until_ms == 0) {
            asker = caller; /* the newest stands first */
        } else {
            *waits = true;
        }
    }
    return asker;
}

static void begin_adoption(struct flight *flight, const struct flight_caller *caller)
{
    flight->adopting = true;
    flight->adopter_team_length = caller->team_length;
    memcpy(flight->adopter_team, caller->team, caller->team_length);
    flight->adopter_key_length = caller->key_length;
    memcpy(flight->adopter_key, caller->key, caller->key_length);
}

/* The collector's poll needs no request when a caller's has just brought what it wants. */
static bool poll_is_served(struct flight *flight, uint64_t now_ms)
{
    if (!flight_answer_is_good(flight->latest) || flight->latest->made_here ||
        now_ms - flight->latest->received_ms > FLIGHT_POLL_MS) {
        return false;
    }
    metrics_add(flight->flights->gateway->metrics, METRIC_POLLS, METRIC_POLL_SHARED, 0, 1);
    flight_settle_poll(flight, flight->latest, false, false);
    return true;
}

static void ask_if_wanted(struct flight *flight, struct view trace)
{
    uint64_t now_ms = clock_mono_ms();
    bool waits;
    struct flight_caller *asker = find_asker(flight, &waits);
    bool is_here = !flight->is_job || flight->record.known == RECORD_HERE;

    if (flight->building || flight->has_ending || flight->write_call) {
        return;
    }
    if (flight->polling && is_here && job_state_is_terminal(flight->record.state) &&
        flight->record.state != JOB_LOST) {
        flight_settle_poll(flight, NULL, true, false);
    }
    if (flight->record.known == RECORD_ABSENT ||
        (is_here && job_state_is_terminal(flight->record.state))) {
        flight->watch_every_ms = 0;
    }
    if (asker) {
        asker->asked = true;
        if (!is_here) {
            begin_adoption(flight, asker);
        }
        flight_ask(flight, trace);
    } else if (flight->polling && is_here) {
        if (!poll_is_served(flight, now_ms)) {
            flight_ask(flight, trace);
        }
    } else if (flight->watch_every_ms != 0 && is_here &&
               now_ms >= flight->asked_ms + flight->watch_every_ms) {
        if (flight_may_poll(flight)) {
            flight_ask(flight, trace);
        }
    } else if (waits && now_ms >= flight->asked_ms + FLIGHT_POLL_MS) {
        if (!is_here) {
            begin_adoption(flight, flight->callers);
            flight_ask(flight, trace);
        } else if (flight_may_poll(flight)) {
            flight_ask(flight, trace);
        }
    }
}

void flight_proceed(struct flight *flight, struct view trace)
{
    if (trace.length > 0 && trace.length <= sizeof flight->trace && flight->trace_length == 0) {
        memcpy(flight->trace, trace.data, trace.length);
        flight->trace_length = trace.length;
    }
    flight_tell(flight, NULL);
    if (flight->is_job && wants_load(flight)) {
        flight_load(flight);
    }
    ask_if_wanted(flight, view_make(flight->trace, flight->trace_length));
    if (flight->building || !flight->callers) {
        flight->trace_length = 0;
    }
    flight_arm(flight);
}
