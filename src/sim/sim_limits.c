#include "build_config.h"

#include "sim/sim_limits.h"

#include "sim/sim.h"
#include "sim/sim_exchange.h"

enum { WINDOW_MS = 10000 };

/* `per_worker` raises both limits to running workers x per_worker when that is more. */
static const struct {
    int64_t requests;
    int64_t concurrent;
    int64_t per_worker;
} rules[LIMIT_KINDS] = {
    [LIMIT_RUN] = {1000, 200, 200},    [LIMIT_RUNSYNC] = {2000, 400, 400},
    [LIMIT_STATUS] = {2000, 400, 400}, [LIMIT_CANCEL] = {100, 20, 20},
    [LIMIT_PURGE] = {2, INT64_MAX, 0}, [LIMIT_OPENAI] = {2000, 400, 400},
    [LIMIT_REQUESTS] = {10, 2, 0},
};

int limit_running_workers(const struct endpoint *endpoint)
{
    /* Every job in progress has a worker of its own, real ones with several jobs aside. */
    return (int)endpoint->in_progress;
}

static void give_back(struct exchange *exchange, void *argument)
{
    (void)exchange;
    struct limit_bucket *bucket = argument;
    bucket->concurrent--;
}

static int64_t larger(int64_t one, int64_t other)
{
    return one > other ? one : other;
}

bool limit_take(struct endpoint *endpoint, enum limit_kind kind, struct exchange *exchange)
{
    if (kind == LIMIT_NONE || !endpoint->sim->options.limits)
        return true;
    struct limit_bucket *bucket = &endpoint->limits[kind];
    int64_t window = sim_clock_real_ms() / WINDOW_MS;
    if (bucket->window != window) {
        bucket->window = window;
        bucket->count = 0;
    }
    int64_t by_workers = limit_running_workers(endpoint) * rules[kind].per_worker;
    if (bucket->count >= larger(rules[kind].requests, by_workers) ||
        bucket->concurrent >= larger(rules[kind].concurrent, by_workers)) {
        /* No body or header of the live 429 was ever recorded; the newer envelope is assumed. */
        exchange_reply_json(
            exchange, 429,
            "{\"detail\":\"rate limit exceeded\",\"status\":429,\"title\":\"Too Many Requests\"}");
        return false;
    }
    bucket->count++;
    bucket->concurrent++;
    exchange->on_finished = give_back;
    exchange->finished_argument = bucket;
    return true;
}
