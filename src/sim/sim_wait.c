#include "build_config.h"

#include "sim/sim_wait.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>

#include "sim/sim.h"
#include "sim/sim_exchange.h"

struct waiter {
    TAILQ_ENTRY(waiter) link;
    struct job *job;
    struct exchange *exchange;
    struct event *timer;
    enum wait_kind kind;
};

void wait_reply_not_found(struct exchange *exchange, const char *detail)
{
    char json[160];
    snprintf(json, sizeof json, "{\"detail\":\"%s\",\"status\":404,\"title\":\"Not Found\"}",
             detail);
    exchange_reply_json(exchange, 404, json);
}

static void answer_now(struct job *job, struct exchange *exchange, enum wait_kind kind)
{
    struct evbuffer *body = evbuffer_new();
    if (!body) {
        exchange_reply_json(exchange, 500, "{\"error\":\"out of memory\"}");
        return;
    }
    switch (kind) {
    case WAIT_RUNSYNC:
        if (job_is_terminal(job))
            job_write_status(body, job, false);
        else
            job_write_brief(body, job);
        break;
    case WAIT_STATUS: job_write_status(body, job, false); break;
    case WAIT_STREAM: job_drain_stream(body, job); break;
    }
    exchange_reply(exchange, 200, "application/json", body);
    evbuffer_free(body);
}

static void waiter_free(struct waiter *waiter)
{
    TAILQ_REMOVE(&waiter->job->waiters, waiter, link);
    event_free(waiter->timer);
    free(waiter);
}

static void waiter_answer(struct waiter *waiter)
{
    struct job *job = waiter->job;
    struct exchange *exchange = waiter->exchange;
    enum wait_kind kind = waiter->kind;
    waiter_free(waiter);
    answer_now(job, exchange, kind);
}

static void on_time_out(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    waiter_answer(argument);
}

static void on_gone(struct exchange *exchange, void *argument)
{
    (void)exchange;
    waiter_free(argument);
}

void wait_start(struct job *job, struct exchange *exchange, enum wait_kind kind, int64_t wait_ms)
{
    bool ready = job_is_terminal(job) || (kind == WAIT_STREAM && job->chunk_count > 0);
    struct waiter *waiter = ready || wait_ms <= 0 ? NULL : calloc(1, sizeof *waiter);
    if (waiter)
        waiter->timer = evtimer_new(job->sim->base, on_time_out, waiter);
    if (!waiter || !waiter->timer) {
        free(waiter);
        answer_now(job, exchange, kind);
        return;
    }
    waiter->job = job;
    waiter->exchange = exchange;
    waiter->kind = kind;
    TAILQ_INSERT_TAIL(&job->waiters, waiter, link);
    struct timeval wait = sim_clock_real_interval(wait_ms);
    event_add(waiter->timer, &wait);
    exchange_hold(exchange, on_gone, waiter);
}

void wait_on_chunk(struct job *job)
{
    struct waiter *waiter;
    TAILQ_FOREACH(waiter, &job->waiters, link)
    {
        if (waiter->kind == WAIT_STREAM) {
            waiter_answer(waiter);
            return;
        }
    }
}

void wait_on_end(struct job *job)
{
    while (!TAILQ_EMPTY(&job->waiters))
        waiter_answer(TAILQ_FIRST(&job->waiters));
}

void wait_on_removal(struct job *job)
{
    while (!TAILQ_EMPTY(&job->waiters)) {
        struct waiter *waiter = TAILQ_FIRST(&job->waiters);
        struct exchange *exchange = waiter->exchange;
        waiter_free(waiter);
        wait_reply_not_found(exchange, "job not found");
    }
}
