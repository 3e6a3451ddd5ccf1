#include "build_config.h"

#include "sim/sim_routes.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "sim/sim.h"
#include "sim/sim_batch.h"
#include "sim/sim_exchange.h"
#include "sim/sim_limits.h"
#include "sim/sim_openai.h"
#include "sim/sim_queue.h"
#include "sim/sim_submission.h"
#include "sim/sim_target.h"
#include "sim/sim_wait.h"

enum {
    RUN_BODY_BYTES = 10 * 1024 * 1024,
    RUNSYNC_BODY_BYTES = 20 * 1024 * 1024,
    RUNSYNC_WAIT_MS = 90 * 1000,
    STREAM_WAIT_MS = 10 * 1000,
    WAIT_MINIMUM_MS = 1000,
    WAIT_MAXIMUM_MS = 300 * 1000
};

enum { METHOD_GET = 1, METHOD_POST = 2, METHOD_ANY = 4 };

typedef void route_function(struct endpoint *endpoint, struct exchange *exchange,
                            const struct target *target, struct job *job);

struct route {
    const char *name;
    int methods;
    bool takes_job;
    enum limit_kind limit;
    route_function *function;
};

static void reply_buffer(struct exchange *exchange, struct evbuffer *body)
{
    exchange_reply(exchange, body ? 200 : 500, "application/json", body);
    if (body)
        evbuffer_free(body);
}

static void reply_brief(struct exchange *exchange, const struct job *job)
{
    struct evbuffer *body = evbuffer_new();
    if (body)
        job_write_brief(body, job);
    reply_buffer(exchange, body);
}

/* ---- submits ---- */

/* Fills `submission` from a body. On failure the exchange was answered. */
static bool read_submission(struct exchange *exchange, const struct target *target,
                            enum job_kind kind, struct submission *submission)
{
    size_t limit = kind == JOB_KIND_RUN ? RUN_BODY_BYTES : RUNSYNC_BODY_BYTES;
    enum submission_result result = exchange->body.length > limit
                                        ? SUBMISSION_INVALID
                                        : submission_read(submission, exchange->body, kind);
    switch (result) {
    case SUBMISSION_OK:
        if (submission->ttl_ms == 0)
            submission->ttl_ms = target_query_integer(target, "ttl", 0);
        return true;
    case SUBMISSION_INVALID:
        exchange_reply_json(exchange, 400,
                            kind == JOB_KIND_RUN
                                ? "{\"error\":\"json is invalid; max size is 10 MB\"}"
                                : "{\"error\":\"json is invalid; max size is 20 MB\"}");
        return false;
    case SUBMISSION_INPUT_NO_OBJECT: break;
    }
    exchange_reply_json(exchange, 400, "{\"error\":\"input must be a json object\"}");
    return false;
}

static struct job *submit(struct endpoint *endpoint, struct exchange *exchange,
                          const struct target *target, enum job_kind kind)
{
    struct submission submission;
    if (!read_submission(exchange, target, kind, &submission))
        return NULL;
    if (endpoint->paused) {
        exchange_reply_json(
            exchange, 409,
            "{\"code\":\"ENDPOINT_PAUSED\",\"detail\":\"Endpoint is paused (max_workers=0). Set "
            "max_workers > 0 to accept work.\",\"status\":409,\"title\":\"Conflict\"}");
        return NULL;
    }
    struct job *job = queue_submit(endpoint, &submission);
    if (!job)
        exchange_reply_json(exchange, 500, "{\"error\":\"out of memory\"}");
    return job;
}

static void route_run(struct endpoint *endpoint, struct exchange *exchange,
                      const struct target *target, struct job *unused)
{
    (void)unused;
    struct job *job = submit(endpoint, exchange, target, JOB_KIND_RUN);
    if (!job)
        return;
    /* The answer says IN_QUEUE even when a worker has already got the job. */
    char json[JOB_ID_BYTES + 40];
    snprintf(json, sizeof json, "{\"id\":\"%s\",\"status\":\"IN_QUEUE\"}", job->id);
    exchange_reply_json(exchange, 200, json);
}

static bool check_wait(struct exchange *exchange, int64_t wait_ms)
{
    if (wait_ms >= WAIT_MINIMUM_MS && wait_ms <= WAIT_MAXIMUM_MS)
        return true;
    exchange_reply_json(exchange, 400,
                        "{\"error\":\"wait is invalid; must be between 1000 and 300000\"}");
    return false;
}

static void route_runsync(struct endpoint *endpoint, struct exchange *exchange,
                          const struct target *target, struct job *unused)
{
    (void)unused;
    int64_t wait_ms = target_query_integer(target, "wait", RUNSYNC_WAIT_MS);
    if (!check_wait(exchange, wait_ms))
        return;
    struct job *job = submit(endpoint, exchange, target, JOB_KIND_RUNSYNC);
    if (job)
        wait_start(job, exchange, WAIT_RUNSYNC, wait_ms);
}

/* ---- jobs ---- */

static void route_status(struct endpoint *endpoint, struct exchange *exchange,
                         const struct target *target, struct job *job)
{
    (void)endpoint;
    int64_t ttl_ms = target_query_integer(target, "ttl", 0);
    if (ttl_ms > 0)
        queue_shorten(job, ttl_ms);
    wait_start(job, exchange, WAIT_STATUS, 0);
}

static void route_status_sync(struct endpoint *endpoint, struct exchange *exchange,
                              const struct target *target, struct job *job)
{
    (void)endpoint;
    /* Go sends 0, and the range was only ever seen enforced on /runsync: 0 answers at once. */
    int64_t wait_ms = target_query_integer(target, "wait", RUNSYNC_WAIT_MS);
    if (wait_ms > WAIT_MAXIMUM_MS)
        wait_ms = WAIT_MAXIMUM_MS;
    wait_start(job, exchange, WAIT_STATUS, wait_ms);
}

static void route_stream(struct endpoint *endpoint, struct exchange *exchange,
                         const struct target *target, struct job *job)
{
    (void)endpoint;
    int64_t wait_ms = target_query_integer(target, "wait", STREAM_WAIT_MS);
    if (check_wait(exchange, wait_ms))
        wait_start(job, exchange, WAIT_STREAM, wait_ms);
}

static void route_cancel(struct endpoint *endpoint, struct exchange *exchange,
                         const struct target *target, struct job *job)
{
    (void)endpoint;
    (void)target;
    /* What a job that has ended answers is unknown: the sim tells its true state. */
    if (!job_is_terminal(job))
        queue_end(job, JOB_CANCELLED, sim_text_of(""), sim_text_of(""));
    reply_brief(exchange, job);
}

static void route_retry(struct endpoint *endpoint, struct exchange *exchange,
                        const struct target *target, struct job *job)
{
    (void)endpoint;
    (void)target;
    if (job->state != JOB_FAILED && job->state != JOB_TIMED_OUT) {
        exchange_reply_json(exchange, 400,
                            "{\"error\":\"only FAILED or TIMED_OUT jobs can be retried\"}");
        return;
    }
    char json[JOB_ID_BYTES + 40];
    snprintf(json, sizeof json, "{\"id\":\"%s\",\"status\":\"IN_QUEUE\"}", job->id);
    queue_retry(job);
    exchange_reply_json(exchange, 200, json);
}

/* ---- endpoints ---- */

static void route_purge(struct endpoint *endpoint, struct exchange *exchange,
                        const struct target *target, struct job *unused)
{
    (void)target;
    (void)unused;
    char json[80];
    snprintf(json, sizeof json, "{\"removed\":%" PRId64 ",\"status\":\"completed\"}",
             queue_purge(endpoint));
    exchange_reply_json(exchange, 200, json);
}

static void route_health(struct endpoint *endpoint, struct exchange *exchange,
                         const struct target *target, struct job *unused)
{
    (void)target;
    (void)unused;
    int64_t idle = endpoint->idle_count + endpoint->idle_real;
    int64_t running = endpoint->worker_count - endpoint->idle_count + endpoint->busy_real;
    char json[400];
    snprintf(json, sizeof json,
             "{\"jobs\":{\"completed\":%" PRId64 ",\"failed\":%" PRId64 ",\"inProgress\":%" PRId64
             ",\"inQueue\":%" PRId64 ",\"retried\":%" PRId64 "},\"workers\":{\"idle\":%" PRId64
             ",\"initializing\":0,\"ready\":%" PRId64 ",\"running\":%" PRId64
             ",\"throttled\":0,\"unhealthy\":0}}",
             endpoint->completed, endpoint->failed, endpoint->in_progress, endpoint->in_queue,
             endpoint->retried, idle, idle, running > 0 ? running : 0);
    exchange_reply_json(exchange, 200, json);
}

static void route_requests(struct endpoint *endpoint, struct exchange *exchange,
                           const struct target *target, struct job *unused)
{
    (void)target;
    (void)unused;
    struct evbuffer *body = evbuffer_new();
    if (body) {
        struct job *job;
        evbuffer_add_printf(body, "{\"requests\":[");
        TAILQ_FOREACH(job, &endpoint->jobs, endpoint_link)
        {
            if (job != TAILQ_FIRST(&endpoint->jobs))
                evbuffer_add(body, ",", 1);
            job_write_brief(body, job);
        }
        evbuffer_add(body, "]}", 2);
    }
    reply_buffer(exchange, body);
}

static void route_openai(struct endpoint *endpoint, struct exchange *exchange,
                         const struct target *target, struct job *unused)
{
    (void)unused;
    openai_handle(endpoint, exchange, target);
}

static void route_batch(struct endpoint *endpoint, struct exchange *exchange,
                        const struct target *target, struct job *unused)
{
    (void)unused;
    batch_handle(endpoint, exchange, target);
}

/* ---- dispatch ---- */

static const struct route routes[] = {
    {"run", METHOD_POST, false, LIMIT_RUN, route_run},
    {"runsync", METHOD_POST, false, LIMIT_RUNSYNC, route_runsync},
    {"status", METHOD_GET | METHOD_POST, true, LIMIT_STATUS, route_status},
    {"status-sync", METHOD_GET | METHOD_POST, true, LIMIT_STATUS, route_status_sync},
    {"stream", METHOD_GET | METHOD_POST, true, LIMIT_STATUS, route_stream},
    {"cancel", METHOD_POST, true, LIMIT_CANCEL, route_cancel},
    {"retry", METHOD_POST, true, LIMIT_NONE, route_retry},
    {"purge-queue", METHOD_POST, false, LIMIT_PURGE, route_purge},
    {"health", METHOD_GET, false, LIMIT_NONE, route_health},
    {"requests", METHOD_GET, false, LIMIT_REQUESTS, route_requests},
    {"batch", METHOD_ANY, false, LIMIT_NONE, route_batch},
    {"openai", METHOD_ANY, false, LIMIT_OPENAI, route_openai},
};

static bool check_key(const struct sim *sim, struct exchange *exchange)
{
    const char *expected = sim->options.api_key;
    const char *value = exchange_field(exchange, "Authorization");
    if (!expected)
        return true;
    struct sim_text token = sim_text_trim(sim_text_of(value ? value : ""));
    if (token.length >= 7 && strncasecmp(token.data, "Bearer ", 7) == 0) {
        token.data += 7;
        token.length -= 7;
        token = sim_text_trim(token);
    }
    if (token.length && sim_text_is(token, expected))
        return true;
    exchange_reply_json(
        exchange, 401,
        token.length ? "{\"detail\":\"invalid api key\",\"status\":401,\"title\":\"Unauthorized\"}"
                     : "{\"detail\":\"no token provided\",\"status\":401,"
                       "\"title\":\"Unauthorized\"}");
    return false;
}

static bool method_allowed(const struct route *route, const struct exchange *exchange)
{
    return (route->methods & METHOD_ANY) ||
           ((route->methods & METHOD_GET) && strcmp(exchange->method, "GET") == 0) ||
           ((route->methods & METHOD_POST) && strcmp(exchange->method, "POST") == 0);
}

static const struct route *find_route(const struct target *target)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (sim_text_is(target->segment[2], routes[i].name))
            return &routes[i];
    }
    return NULL;
}

void routes_handle(struct sim *sim, struct exchange *exchange, const struct target *target)
{
    const struct route *route = find_route(target);
    if (!check_key(sim, exchange))
        return;
    if (!route ||
        (target->count != (route->takes_job ? 4U : 3U) && !(route->methods & METHOD_ANY))) {
        exchange_reply_json(exchange, 404, "{\"error\":\"not allowed for QB API\"}");
        return;
    }
    if (!method_allowed(route, exchange)) {
        exchange_reply_json(
            exchange, 405,
            "{\"detail\":\"method not allowed\",\"status\":405,\"title\":\"Method Not Allowed\"}");
        return;
    }
    struct endpoint *endpoint = queue_endpoint(sim->queue, target->segment[1]);
    if (!endpoint) {
        wait_reply_not_found(exchange, "endpoint not found");
        return;
    }
    if (!limit_take(endpoint, route->limit, exchange))
        return;
    struct job *job = route->takes_job ? queue_find(endpoint, target->segment[3]) : NULL;
    if (route->takes_job && !job) {
        wait_reply_not_found(exchange, "job not found");
        return;
    }
    route->function(endpoint, exchange, target, job);
}
