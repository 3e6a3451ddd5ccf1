#include "build_config.h"

#include "sim/sim_control.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim.h"
#include "sim/sim_exchange.h"
#include "sim/sim_fault.h"
#include "sim/sim_http.h"
#include "sim/sim_queue.h"
#include "sim/sim_record.h"
#include "sim/sim_target.h"

enum { FRONT_DOWN_AFTER_MS = 20 /* the answer to the order itself leaves first */ };

static void reply(struct exchange *exchange, int status, struct evbuffer *body)
{
    exchange_reply(exchange, body ? status : 500, "application/json", body);
    if (body)
        evbuffer_free(body);
}

static void reply_problem(struct exchange *exchange, const char *problem)
{
    struct evbuffer *body = evbuffer_new();
    if (body) {
        evbuffer_add_printf(body, "{\"error\":");
        sim_json_quote(body, problem, strlen(problem));
        evbuffer_add(body, "}", 1);
    }
    reply(exchange, 400, body);
}

static void reply_number(struct exchange *exchange, const char *name, int64_t number)
{
    char json[80];
    snprintf(json, sizeof json, "{\"%s\":%" PRId64 "}", name, number);
    exchange_reply_json(exchange, 200, json);
}

static bool is_method(const struct exchange *exchange, const char *method)
{
    return strcmp(exchange->method, method) == 0;
}

static void handle_fault(struct sim *sim, struct exchange *exchange, const struct target *target)
{
    if (is_method(exchange, "POST")) {
        char problem[200] = "";
        int64_t number =
            faults_add(sim->faults, sim_text_trim(exchange->body), problem, sizeof problem);
        if (number < 0)
            reply_problem(exchange, problem);
        else
            reply_number(exchange, "number", number);
    } else if (is_method(exchange, "DELETE")) {
        int64_t number = 0;
        if (target->count > 3 && !sim_json_integer(target->segment[3], &number)) {
            reply_problem(exchange, "not a fault's number");
            return;
        }
        reply_number(exchange, "removed", faults_remove(sim->faults, number));
    } else {
        struct evbuffer *body = evbuffer_new();
        if (body) {
            evbuffer_add_printf(body, "{\"faults\":");
            faults_write(body, sim->faults);
            evbuffer_add(body, "}", 1);
        }
        reply(exchange, 200, body);
    }
}

static void handle_record(struct sim *sim, struct exchange *exchange, const struct target *target,
                          enum record_list list, const char *name)
{
    if (is_method(exchange, "DELETE")) {
        int64_t count = record_count(sim->record, list);
        record_clear(sim->record, list);
        reply_number(exchange, "removed", count);
        return;
    }
    if (sim_text_is(target->segment[3], "count")) {
        reply_number(exchange, "count", record_count(sim->record, list));
        return;
    }
    struct evbuffer *body = evbuffer_new();
    if (body) {
        evbuffer_add_printf(body, "{\"%s\":", name);
        record_write(body, sim->record, list, target_query_integer(target, "since", 0));
        evbuffer_add(body, "}", 1);
    }
    reply(exchange, 200, body);
}

static void handle_counters(struct sim *sim, struct exchange *exchange)
{
    const struct sim_http_counters *counters = sim_http_get_counters(sim->http);
    char json[300];
    snprintf(json, sizeof json,
             "{\"bytesIn\":%" PRIu64 ",\"connections\":%" PRIu64 ",\"hangUps\":%" PRIu64
             ",\"jobs\":%" PRId64 ",\"nowMs\":%" PRId64 ",\"requests\":%" PRIu64
             ",\"runs\":%" PRId64 "}",
             counters->bytes_in, counters->connections, counters->hang_ups,
             record_count(sim->record, RECORD_JOBS), sim_clock_now_ms(&sim->clock),
             counters->requests, record_count(sim->record, RECORD_RUNS));
    exchange_reply_json(exchange, 200, json);
}

/* ---- front ---- */

static void on_front_turn(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct sim *sim = argument;
    if (sim->front_down_ms >= 0) {
        struct timeval wait = sim_clock_real_interval(sim->front_down_ms);
        sim->front_down_ms = -1;
        sim_http_down(sim->http, true);
        evtimer_add(sim->front_timer, &wait);
    } else if (!sim_http_up(sim->http)) {
        fprintf(stderr, "podgate-sim: cannot listen again after front=down\n");
    }
}

static void handle_front(struct sim *sim, struct exchange *exchange)
{
    struct sim_text value;
    int64_t down_ms;
    if (!sim_json_valid(exchange->body) || !sim_json_get(exchange->body, "down_ms", &value) ||
        !sim_json_integer(value, &down_ms) || down_ms < 0) {
        reply_problem(exchange, "expected {\"down_ms\":N}");
        return;
    }
    if (!sim->front_timer)
        sim->front_timer = evtimer_new(sim->base, on_front_turn, sim);
    if (!sim->front_timer) {
        reply_problem(exchange, "out of memory");
        return;
    }
    sim->front_down_ms = down_ms;
    struct timeval soon = sim_clock_real_interval(FRONT_DOWN_AFTER_MS);
    evtimer_add(sim->front_timer, &soon);
    reply_number(exchange, "down_ms", down_ms);
}

/* ---- endpoints ---- */

/* {"endpoint":ID,"workers":N,"paused":BOOL}; what is left out stays. */
static void handle_endpoint(struct sim *sim, struct exchange *exchange)
{
    struct sim_text value;
    int64_t count;
    char *id = NULL;
    if (sim_json_valid(exchange->body) && sim_json_get(exchange->body, "endpoint", &value))
        id = sim_json_string(value);
    struct endpoint *endpoint = id ? queue_endpoint(sim->queue, sim_text_of(id)) : NULL;
    free(id);
    if (!endpoint) {
        reply_problem(exchange, "expected {\"endpoint\":ID,\"workers\":N,\"paused\":BOOL}");
        return;
    }
    if (sim_json_get(exchange->body, "paused", &value))
        endpoint->paused = sim_json_type(value) == SIM_JSON_TRUE;
    if (sim_json_get(exchange->body, "workers", &value) && sim_json_integer(value, &count) &&
        (count < 0 || count > 10000 || !queue_set_workers(endpoint, (int)count))) {
        reply_problem(exchange, "workers must be from 0 to 10000");
        return;
    }
    reply_number(exchange, "workers", endpoint->worker_count);
}

void control_handle(struct sim *sim, struct exchange *exchange, const struct target *target)
{
    struct sim_text name = target->segment[2];
    if (!sim_text_is(target->segment[1], "v1"))
        name = sim_text_of("");
    if (sim_text_is(name, "fault"))
        handle_fault(sim, exchange, target);
    else if (sim_text_is(name, "requests"))
        handle_record(sim, exchange, target, RECORD_REQUESTS, "requests");
    else if (sim_text_is(name, "worker-requests"))
        handle_record(sim, exchange, target, RECORD_WORKER_REQUESTS, "requests");
    else if (sim_text_is(name, "jobs"))
        handle_record(sim, exchange, target, RECORD_JOBS, "jobs");
    else if (sim_text_is(name, "runs"))
        handle_record(sim, exchange, target, RECORD_RUNS, "runs");
    else if (sim_text_is(name, "counters"))
        handle_counters(sim, exchange);
    else if (sim_text_is(name, "front") && is_method(exchange, "POST"))
        handle_front(sim, exchange);
    else if (sim_text_is(name, "endpoint") && is_method(exchange, "POST"))
        handle_endpoint(sim, exchange);
    else
        exchange_reply_json(exchange, 404, "{\"error\":\"no such control route\"}");
}
