#include "build_config.h"

#include "process/worker.h"

#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/loop.h"
#include "gateway/breaker.h"
#include "gateway/flight.h"
#include "gateway/ledger.h"
#include "gateway/operation_table.h"
#include "gateway/request.h"
#include "gateway/stream.h"
#include "net/connection.h"
#include "store/store.h"

enum {
    LOG_RING_BYTES = 1024 * 1024,
    /* Above this share of the memory for bodies nobody new is let in; below the other they are. */
    MEMORY_PAUSE_PERCENT = 95,
    MEMORY_RESUME_PERCENT = 85,
};

/* The front belongs to the process's listeners and callers, the gateway to the requests behind it;
 * both are one thread's. */
struct worker {
    struct worker_shared *shared;
    size_t index;
    struct loop *loop;
    struct front *front;
    struct listener *listener;
    struct event *drain_event;
    struct event *memory_event;
    bool memory_paused;
    bool drained;
    struct gateway gateway;
    pthread_t thread;
    bool started;
    _Atomic bool ended;
};

struct adopt_letter {
    struct worker *worker;
    const struct config *config;
};

static bool seed_random(struct gateway *gateway)
{
    return getrandom(gateway->random_state, sizeof gateway->random_state, 0) ==
           (ssize_t)sizeof gateway->random_state;
}

/* Another podgate changed a job. */
static void on_store_change(void *argument, struct view endpoint, struct view job)
{
    struct gateway *gateway = argument;

    flight_changed(gateway, endpoint, job);
    streams_note_change(gateway, endpoint, job);
}

static bool create_parts(struct worker *worker, const struct config *config)
{
    struct worker_shared *shared = worker->shared;
    struct gateway *gateway = &worker->gateway;

    worker->loop = loop_create();
    gateway->shared = &shared->gateways;
    gateway->index = worker->index;
    gateway->loop = worker->loop;
    gateway->config = config_ref(config);
    gateway->operations = operation_table;
    gateway->log = log_ring_create(shared->log, LOG_RING_BYTES);
    gateway->metrics = metrics_block_create(shared->metrics);
    if (!worker->loop || !gateway->log || !gateway->metrics || !seed_random(gateway)) {
        return false;
    }
    gateway->hasher = key_hasher_create();
    gateway->store =
        store_client_create(shared->gateways.store, worker->loop, gateway->metrics, gateway->log);
    gateway->ledger = gateway->store ? ledger_create(gateway) : NULL;
    gateway->breaker = breaker_create(gateway->metrics, gateway->log);
    gateway->flights = flights_create(gateway);
    gateway->streams = streams_create(gateway);
    gateway->requests = request_pool_create(gateway);
    gateway->upstream = upstream_create(worker->loop, config, shared->gateways.identity,
                                        shared->gateways.budget, gateway->metrics, gateway->log);
    worker->front =
        front_create(worker->loop, config, &request_handler, gateway, shared->tls, shared->limits,
                     shared->gateways.budget, gateway->metrics, gateway->log);
    if (gateway->store) {
        store_watch(gateway->store, on_store_change, gateway);
    }
    return gateway->hasher && gateway->store && gateway->ledger && gateway->breaker &&
           gateway->flights && gateway->streams && gateway->requests && gateway->upstream &&
           worker->front;
}

struct worker *worker_create(struct worker_shared *shared, size_t index,
                             const struct config *config)
{
    struct worker *worker = calloc(1, sizeof *worker);

    if (!worker) {
        return NULL;
    }
    worker->shared = shared;
    worker->index = index;
    if (!create_parts(worker, config)) {
        worker_destroy(worker);
        return NULL;
    }
    shared->gateways.gateways[index] = &worker->gateway;
    return worker;
}

void worker_close(struct worker *worker)
{
    listener_stop(worker->listener);
    front_destroy(worker->front);
    worker->front = NULL;
}

void worker_destroy(struct worker *worker)
{
    struct gateway *gateway;

    if (!worker) {
        return;
    }
    gateway = &worker->gateway;
    /* Callers first, since their requests give up what they hold; then what the requests used. */
    if (worker->drain_event) {
        event_free(worker->drain_event);
    }
    if (worker->memory_event) {
        event_free(worker->memory_event);
    }
    if (worker->front) {
        worker_close(worker);
    }
    streams_destroy(gateway->streams);
    flights_destroy(gateway->flights);
    request_pool_destroy(gateway->requests);
    ledger_destroy(gateway->ledger);
    store_client_destroy(gateway->store);
    upstream_destroy(gateway->upstream);
    breaker_destroy(gateway->breaker);
    key_hasher_destroy(gateway->hasher);
    config_unref(gateway->config);
    loop_destroy(worker->loop);
    free(worker);
}

static void on_accept(void *owner, int descriptor, const struct sockaddr_storage *peer,
                      const struct config_address *address)
{
    struct worker *worker = owner;

    front_accept(worker->front, descriptor, peer, address);
}

static void on_memory_turn(evutil_socket_t descriptor, short what, void *argument)
{
    struct worker *worker = argument;
    unsigned percent = body_budget_percent(worker->shared->gateways.budget);
    bool pause = percent >= (worker->memory_paused ? MEMORY_RESUME_PERCENT : MEMORY_PAUSE_PERCENT);
    struct log_line *line;

    (void)descriptor;
    (void)what;
    if (pause == worker->memory_paused || !worker->listener) {
        return;
    }
    worker->memory_paused = pause;
    if (pause) {
        listener_pause(worker->listener);
    } else {
        listener_resume(worker->listener);
    }
    line = log_begin(worker->gateway.log, LOG_LEVEL_WARNING,
                     pause ? "accept_paused" : "accept_resumed");
    log_string(line, "reason", "memory");
    log_number(line, "percent", percent);
    log_end(line);
}

static bool watch_memory(struct worker *worker)
{
    static const struct timeval tenth = {0, 100000};

    worker->memory_event =
        event_new(loop_base(worker->loop), -1, EV_PERSIST, on_memory_turn, worker);
    return worker->memory_event && event_add(worker->memory_event, &tenth) == 0;
}

static void *run(void *argument)
{
    struct worker *worker = argument;

    if (!loop_run(worker->loop)) {
        struct log_line *line =
            log_begin(worker->gateway.log, LOG_LEVEL_ERROR, "worker_loop_failed");

        log_number(line, "worker", worker->index);
        log_end(line);
    }
    atomic_store(&worker->ended, true);
    return NULL;
}

bool worker_start(struct worker *worker)
{
    struct listener_options options = {
        .loop = worker->loop,
        .on_accept = on_accept,
        .owner = worker,
        .limits = worker->shared->limits,
        .metrics = worker->gateway.metrics,
        .log = worker->gateway.log,
    };
    sigset_t all;
    sigset_t before;
    char name[16];

    worker->listener = listener_start(worker->shared->listeners, worker->index, &options);
    if (!worker->listener || !watch_memory(worker)) {
        return false;
    }
    /* Signals belong to the main thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    worker->started = pthread_create(&worker->thread, NULL, run, worker) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (worker->started) {
        snprintf(name, sizeof name, "worker-%u", (unsigned)worker->index % 1000);
        pthread_setname_np(worker->thread, name);
    }
    return worker->started;
}

/* The end has come when no caller is left, nor work that goes on without its caller, on any worker:
 * the callers of the others may wait for a flight that is this one's. */
static void on_drain_turn(evutil_socket_t descriptor, short what, void *argument)
{
    struct worker *worker = argument;
    struct worker_shared *shared = worker->shared;

    (void)descriptor;
    (void)what;
    if (!worker->drained && front_connection_count(worker->front) == 0 &&
        request_pool_running(worker->gateway.requests) == 0 &&
        ledger_unrecorded(worker->gateway.ledger) == 0 &&
        !streams_are_reading(worker->gateway.streams)) {
        worker->drained = true; /* it stays so, since nobody is accepted any more */
        atomic_fetch_add(&shared->drained_count, 1);
    }
    if (atomic_load(&shared->drained_count) >= shared->gateways.gateway_count) {
        loop_stop(worker->loop);
    }
}

static void drain(void *argument)
{
    static const struct timeval turn = {0, 20000};
    struct worker *worker = argument;

    if (worker->drain_event) {
        return;
    }
    listener_stop(worker->listener);
    worker->listener = NULL;
    front_drain(worker->front);
    streams_drain(worker->gateway.streams);
    worker->drain_event = event_new(loop_base(worker->loop), -1, EV_PERSIST, on_drain_turn, worker);
    if (!worker->drain_event || event_add(worker->drain_event, &turn) != 0) {
        loop_stop(worker->loop);
    }
}

void worker_drain(struct worker *worker)
{
    if (!loop_post(worker->loop, drain, worker)) {
        loop_stop(worker->loop);
    }
}

void worker_stop(struct worker *worker)
{
    loop_stop(worker->loop);
}

bool worker_has_ended(const struct worker *worker)
{
    return !worker->started || atomic_load(&worker->ended);
}

void worker_join(struct worker *worker)
{
    if (worker->started) {
        pthread_join(worker->thread, NULL);
        worker->started = false;
    }
}

void worker_flush(struct worker *worker)
{
    loop_flush_mail(worker->loop);
}

static void adopt(void *argument)
{
    struct adopt_letter *letter = argument;
    struct worker *worker = letter->worker;
    struct gateway *gateway = &worker->gateway;

    front_adopt(worker->front, letter->config);
    upstream_adopt(gateway->upstream, letter->config);
    config_unref(gateway->config);
    gateway->config = letter->config;
    free(letter);
}

bool worker_adopt(struct worker *worker, const struct config *config)
{
    struct adopt_letter *letter = malloc(sizeof *letter);

    if (!letter) {
        return false;
    }
    *letter = (struct adopt_letter){worker, config_ref(config)};
    if (!loop_post(worker->loop, adopt, letter)) {
        config_unref(config);
        free(letter);
        return false;
    }
    return true;
}

uint64_t worker_heartbeat_ms(const struct worker *worker)
{
    return loop_heartbeat_ms(worker->loop);
}
