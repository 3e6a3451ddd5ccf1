#include "build_config.h"

#include "sim/sim_worker.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sim/sim.h"
#include "sim/sim_exchange.h"
#include "sim/sim_queue.h"
#include "sim/sim_target.h"
#include "sim/sim_wait.h"

enum { RESULT_MAXIMUM_BYTES = 20 * 1024 * 1024, BATCH_MAXIMUM = 100, STOPS_MAXIMUM = 64 };

/* Known from its first request until it has been silent for too long. */
struct real_worker {
    TAILQ_ENTRY(real_worker) link;
    struct endpoint *endpoint;
    char id[WORKER_ID_BYTES];
    TAILQ_HEAD(worker_job_list, job) jobs;
    struct event *silence; /* put off by each sign of life */
    struct taker *stop_taker;
    char stops[STOPS_MAXIMUM][JOB_ID_BYTES];
    int stop_count;
};

/* A request of a worker that is held: for a job, or (`is_stop`) for something to stop. */
struct taker {
    TAILQ_ENTRY(taker) link;
    struct real_worker *worker;
    struct exchange *exchange;
    struct event *timer;
    int64_t batch; /* 0: a single job, answered as an object */
    bool is_stop;
};

/* ---- workers ---- */

static void taker_free(struct taker *taker)
{
    if (taker->is_stop)
        taker->worker->stop_taker = NULL;
    else
        TAILQ_REMOVE(&taker->worker->endpoint->takers, taker, link);
    event_free(taker->timer);
    free(taker);
}

static void answer_nothing(struct taker *taker)
{
    struct exchange *exchange = taker->exchange;
    taker_free(taker);
    exchange_reply(exchange, 204, NULL, NULL);
}

static void sign_of_life(struct real_worker *worker)
{
    struct timeval wait = sim_clock_real_interval(worker->endpoint->sim->options.worker_silence_ms);
    evtimer_add(worker->silence, &wait);
}

static void lose_jobs(struct real_worker *worker)
{
    while (!TAILQ_EMPTY(&worker->jobs))
        queue_worker_lost(TAILQ_FIRST(&worker->jobs));
}

static struct taker *find_taker(const struct real_worker *worker)
{
    struct taker *taker;
    TAILQ_FOREACH(taker, &worker->endpoint->takers, link)
    {
        if (taker->worker == worker)
            return taker;
    }
    return NULL;
}

static void on_silence(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct real_worker *worker = argument;
    struct taker *taker = find_taker(worker);
    if (taker || worker->stop_taker) {
        sign_of_life(worker); /* its held request is the sign */
        return;
    }
    TAILQ_REMOVE(&worker->endpoint->real_workers, worker, link);
    worker->endpoint->idle_real--;
    lose_jobs(worker);
    event_free(worker->silence);
    free(worker);
}

static struct real_worker *find_worker(struct endpoint *endpoint, struct sim_text id)
{
    struct real_worker *worker;
    TAILQ_FOREACH(worker, &endpoint->real_workers, link)
    {
        if (sim_text_is(id, worker->id))
            return worker;
    }
    if (id.length == 0 || id.length >= WORKER_ID_BYTES)
        return NULL;
    worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    worker->silence = evtimer_new(endpoint->sim->base, on_silence, worker);
    if (!worker->silence) {
        free(worker);
        return NULL;
    }
    worker->endpoint = endpoint;
    memcpy(worker->id, id.data, id.length);
    TAILQ_INIT(&worker->jobs);
    TAILQ_INSERT_TAIL(&endpoint->real_workers, worker, link);
    endpoint->idle_real++;
    return worker;
}

static void attach(struct real_worker *worker, struct job *job)
{
    if (TAILQ_EMPTY(&worker->jobs)) {
        worker->endpoint->idle_real--;
        worker->endpoint->busy_real++;
    }
    TAILQ_INSERT_TAIL(&worker->jobs, job, worker_link);
    job->worker = worker;
    queue_begin(job, worker->id);
}

static void send_stops(struct real_worker *worker)
{
    struct taker *taker = worker->stop_taker;
    if (!taker || worker->stop_count == 0)
        return;
    struct exchange *exchange = taker->exchange;
    struct evbuffer *body = evbuffer_new();
    if (!body)
        return;
    evbuffer_add_printf(body, "{\"jobsToStop\":[");
    for (int i = 0; i < worker->stop_count; i++)
        evbuffer_add_printf(body, "%s\"%s\"", i ? "," : "", worker->stops[i]);
    evbuffer_add(body, "]}", 2);
    worker->stop_count = 0;
    taker_free(taker);
    exchange_reply(exchange, 200, "application/json", body);
    evbuffer_free(body);
}

void worker_release(struct job *job, bool stop)
{
    struct real_worker *worker = job->worker;
    TAILQ_REMOVE(&worker->jobs, job, worker_link);
    job->worker = NULL;
    if (TAILQ_EMPTY(&worker->jobs)) {
        worker->endpoint->busy_real--;
        worker->endpoint->idle_real++;
    }
    if (stop && worker->stop_count < STOPS_MAXIMUM) {
        memcpy(worker->stops[worker->stop_count++], job->id, JOB_ID_BYTES);
        send_stops(worker);
    }
}

void worker_forget_all(struct endpoint *endpoint)
{
    while (!TAILQ_EMPTY(&endpoint->real_workers)) {
        struct real_worker *worker = TAILQ_FIRST(&endpoint->real_workers);
        TAILQ_REMOVE(&endpoint->real_workers, worker, link);
        event_free(worker->silence);
        free(worker);
    }
}

/* ---- jobs to workers ---- */

static void write_job(struct evbuffer *out, const struct job *job)
{
    evbuffer_add_printf(out, "{\"id\":\"%s\",\"input\":", job->id);
    blob_append(out, job->input);
    if (job->s3_config) {
        evbuffer_add_printf(out, ",\"s3Config\":");
        blob_append(out, job->s3_config);
    }
    if (job->webhook) {
        evbuffer_add_printf(out, ",\"webhook\":");
        blob_append(out, job->webhook);
    }
    evbuffer_add(out, "}", 1);
}

/* Answers with `job`, and for a batch with more from the queue. */
static void give(struct real_worker *worker, struct exchange *exchange, int64_t batch,
                 struct job *job)
{
    struct evbuffer *body = evbuffer_new();
    if (body && batch > 0)
        evbuffer_add(body, "[", 1);
    for (int64_t given = 0; job;) {
        attach(worker, job);
        if (body && given > 0)
            evbuffer_add(body, ",", 1);
        if (body)
            write_job(body, job);
        job = ++given < batch ? queue_take(worker->endpoint) : NULL;
    }
    if (body && batch > 0)
        evbuffer_add(body, "]", 1);
    /* Without memory the worker gets nothing and its jobs count as lost at its next request. */
    exchange_reply(exchange, body ? 200 : 500, "application/json", body);
    if (body)
        evbuffer_free(body);
}

bool worker_offer(struct job *job)
{
    struct taker *taker = TAILQ_FIRST(&job->endpoint->takers);
    if (!taker)
        return false;
    struct real_worker *worker = taker->worker;
    struct exchange *exchange = taker->exchange;
    int64_t batch = taker->batch;
    taker_free(taker);
    give(worker, exchange, batch, job);
    return true;
}

static void on_taker_time_out(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    answer_nothing(argument);
}

static void on_taker_gone(struct exchange *exchange, void *argument)
{
    (void)exchange;
    taker_free(argument);
}

static void hold(struct real_worker *worker, struct exchange *exchange, bool is_stop, int64_t batch)
{
    struct sim *sim = worker->endpoint->sim;
    struct taker *taker = calloc(1, sizeof *taker);
    if (taker)
        taker->timer = evtimer_new(sim->base, on_taker_time_out, taker);
    if (!taker || !taker->timer) {
        free(taker);
        exchange_reply(exchange, 204, NULL, NULL);
        return;
    }
    taker->worker = worker;
    taker->exchange = exchange;
    taker->is_stop = is_stop;
    taker->batch = batch;
    if (is_stop) {
        if (worker->stop_taker)
            answer_nothing(worker->stop_taker);
        worker->stop_taker = taker;
    } else {
        TAILQ_INSERT_TAIL(&worker->endpoint->takers, taker, link);
    }
    struct timeval wait = sim_clock_real_interval(sim->options.job_take_wait_ms);
    evtimer_add(taker->timer, &wait);
    exchange_hold(exchange, on_taker_gone, taker);
}

static void route_take(struct real_worker *worker, struct exchange *exchange,
                       const struct target *target, bool is_batch)
{
    int64_t batch = is_batch ? target_query_integer(target, "batch_size", 1) : 0;
    if (is_batch && (batch < 1 || batch > BATCH_MAXIMUM))
        batch = batch < 1 ? 1 : BATCH_MAXIMUM;
    /* A worker that says it has no job, but was given one, has been started anew. */
    if (target_query_integer(target, "job_in_progress", 1) == 0)
        lose_jobs(worker);
    struct job *job = queue_take(worker->endpoint);
    if (job)
        give(worker, exchange, batch, job);
    else
        hold(worker, exchange, false, batch);
}

/* ---- results ---- */

static struct sim_text member(struct sim_text body, const char *key)
{
    struct sim_text value = {"", 0};
    if (!sim_json_get(body, key, &value))
        value.length = 0;
    return value;
}

static void route_done(struct exchange *exchange, struct job *job)
{
    struct sim_text body = sim_text_trim(exchange->body);
    if (body.length > RESULT_MAXIMUM_BYTES || !sim_json_valid(body) ||
        sim_json_type(body) != SIM_JSON_OBJECT) {
        /* As seen by callers: a refused result leaves a job COMPLETED without output. */
        queue_end(job, JOB_COMPLETED, sim_text_of(""), sim_text_of(""));
        exchange_reply_json(exchange, 400, "{\"error\":\"json is invalid; max size is 20 MB\"}");
        return;
    }
    struct sim_text output = member(body, "output");
    struct sim_text error = member(body, "error");
    if (sim_text_is(member(body, "status"), "\"IN_PROGRESS\""))
        queue_progress(job, output);
    else if (sim_json_type(error) == SIM_JSON_STRING)
        queue_end(job, JOB_FAILED, output, error);
    else if (error.length && sim_json_type(error) != SIM_JSON_NULL)
        queue_end(job, JOB_COMPLETED, sim_text_of(""), sim_text_of(""));
    else
        queue_end(job, JOB_COMPLETED, output, sim_text_of(""));
    exchange_reply_json(exchange, 200, "{}");
}

static void route_chunk(struct exchange *exchange, struct job *job)
{
    struct sim_text body = sim_text_trim(exchange->body);
    if (!sim_json_valid(body) || sim_json_type(body) != SIM_JSON_OBJECT) {
        exchange_reply_json(exchange, 400, "{\"error\":\"json is invalid\"}");
        return;
    }
    queue_chunk(job, body);
    exchange_reply_json(exchange, 200, "{}");
}

/* ---- dispatch ---- */

bool worker_is_route(struct sim_text operation)
{
    static const char *const names[] = {"job-take",   "job-take-batch", "job-done",
                                        "job-stream", "job-stop",       "ping"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (sim_text_is(operation, names[i]))
            return true;
    }
    return false;
}

static bool check_key(const struct sim *sim, struct exchange *exchange)
{
    const char *expected = sim->options.worker_key;
    const char *value = exchange_field(exchange, "Authorization");
    struct sim_text token = sim_text_trim(sim_text_of(value ? value : ""));
    if (token.length >= 7 && strncasecmp(token.data, "Bearer ", 7) == 0)
        token = sim_text_trim((struct sim_text){token.data + 7, token.length - 7});
    if (!expected || sim_text_is(token, expected))
        return true;
    exchange_reply_json(
        exchange, 401,
        "{\"detail\":\"invalid api key\",\"status\":401,\"title\":\"Unauthorized\"}");
    return false;
}

static void route_job(struct real_worker *worker, struct exchange *exchange,
                      const struct target *target)
{
    struct job *job = queue_find(worker->endpoint, target->segment[4]);
    if (!job || job->worker != worker)
        wait_reply_not_found(exchange, "job not found");
    else if (sim_text_is(target->segment[2], "job-done"))
        route_done(exchange, job);
    else
        route_chunk(exchange, job);
}

void worker_handle(struct sim *sim, struct exchange *exchange, const struct target *target)
{
    struct sim_text operation = target->segment[2];
    if (!check_key(sim, exchange))
        return;
    struct endpoint *endpoint = queue_endpoint(sim->queue, target->segment[1]);
    struct real_worker *worker = endpoint ? find_worker(endpoint, target->segment[3]) : NULL;
    if (!worker) {
        wait_reply_not_found(exchange, endpoint ? "worker not found" : "endpoint not found");
        return;
    }
    sign_of_life(worker);
    bool is_post = strcmp(exchange->method, "POST") == 0;
    if (is_post && target->count == 5)
        route_job(worker, exchange, target);
    else if (target->count == 4 && sim_text_is(operation, "ping"))
        exchange_reply_json(exchange, 200, "{}");
    else if (is_post || target->count != 4)
        wait_reply_not_found(exchange, "not found");
    else if (sim_text_is(operation, "job-stop")) {
        hold(worker, exchange, true, 0);
        send_stops(worker);
    } else
        route_take(worker, exchange, target, sim_text_is(operation, "job-take-batch"));
}
