#include "build_config.h"

#include "sim/sim_batch.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim.h"
#include "sim/sim_exchange.h"
#include "sim/sim_queue.h"
#include "sim/sim_random.h"
#include "sim/sim_submission.h"
#include "sim/sim_target.h"
#include "sim/sim_wait.h"

enum {
    APPEND_BYTES = 10 * 1024 * 1024,
    ACTIVE_BATCHES = 10,
    REQUESTS_PER_BATCH = 5000,
    PAGE_DEFAULT = 50,
    PAGE_MAXIMUM = 1000,
    NAME_BYTES = 40
};

enum batch_state { BATCH_DRAFT, BATCH_FINALIZED, BATCH_CANCELLED };

/* Keeps the result after its job has been forgotten. */
struct batch_request {
    TAILQ_ENTRY(batch_request) link;
    char id[NAME_BYTES];
    struct blob *body;
    struct job *job; /* NULL before and after its life */
    enum job_state state;
    struct blob *output;
    struct blob *error;
    int64_t started_wall_ms;
    int64_t completed_wall_ms;
};

struct batch {
    TAILQ_ENTRY(batch) link;
    char id[NAME_BYTES];
    struct blob *name; /* raw JSON string */
    enum batch_state state;
    int64_t created_wall_ms;
    int64_t count;
    TAILQ_HEAD(batch_request_list, batch_request) requests;
};

TAILQ_HEAD(batch_list, batch); /* newest first */

static void reply(struct exchange *exchange, struct evbuffer *body)
{
    exchange_reply(exchange, body ? 200 : 500, "application/json", body);
    if (body)
        evbuffer_free(body);
}

static const char *state_name(enum batch_state state)
{
    switch (state) {
    case BATCH_DRAFT: return "DRAFT";
    case BATCH_FINALIZED: return "FINALIZED";
    case BATCH_CANCELLED: return "CANCELLED";
    }
    return "FAILED";
}

static struct batch_list *batches_of(struct endpoint *endpoint)
{
    if (!endpoint->batches) {
        struct batch_list *list = malloc(sizeof *list);
        if (list)
            TAILQ_INIT(list);
        endpoint->batches = list;
    }
    return endpoint->batches;
}

/* ---- requests of a batch ---- */

static void request_free(struct batch *batch, struct batch_request *request)
{
    TAILQ_REMOVE(&batch->requests, request, link);
    batch->count--;
    blob_unref(request->body);
    blob_unref(request->output);
    blob_unref(request->error);
    free(request);
}

static bool request_add(struct batch *batch, struct sim_text body)
{
    struct batch_request *request = calloc(1, sizeof *request);
    if (!request)
        return false;
    request->body = blob_copy(body);
    if (!request->body) {
        free(request);
        return false;
    }
    memcpy(request->id, "req_", 4);
    sim_random_name(request->id + 4, 16);
    TAILQ_INSERT_TAIL(&batch->requests, request, link);
    batch->count++;
    return true;
}

static void on_job(struct job *job, enum job_event event, void *argument)
{
    struct batch_request *request = argument;
    if (event == JOB_EVENT_CHUNK)
        return;
    if (event == JOB_EVENT_ENDED) {
        const struct sim_clock *clock = &job->sim->clock;
        int64_t ran_ms = job->execution_ms > 0 ? job->execution_ms : 0;
        request->state = job->state;
        request->completed_wall_ms = sim_clock_wall_ms();
        request->started_wall_ms =
            request->completed_wall_ms - (int64_t)((double)ran_ms / clock->scale);
        if ((job->output && !job_set_blob(&request->output, blob_text(job->output))) ||
            (job->error && !job_set_blob(&request->error, blob_text(job->error))))
            request->state = JOB_FAILED;
    } else if (!job_is_terminal(job)) {
        request->state = JOB_FAILED;
    }
    request->job = NULL;
    job->listener = NULL;
}

static void request_start(struct endpoint *endpoint, struct batch_request *request)
{
    struct submission submission;
    request->state = JOB_FAILED;
    if (submission_read(&submission, blob_text(request->body), JOB_KIND_RUN) != SUBMISSION_OK)
        return;
    submission.low_priority = true;
    request->job = queue_submit(endpoint, &submission);
    if (!request->job)
        return;
    request->state = JOB_IN_QUEUE;
    request->job->listener = on_job;
    request->job->listener_argument = request;
}

static enum job_state state_of(const struct batch_request *request)
{
    return request->job ? request->job->state : request->state;
}

/* ---- bodies ---- */

/* RFC 3339 in UTC, from days since 1970 (a civil calendar of 400-year eras). */
static void write_time(struct evbuffer *out, const char *name, int64_t wall_ms)
{
    int64_t seconds = wall_ms / 1000;
    int64_t days = seconds / 86400 + 719468;
    int64_t era = days / 146097;
    int64_t day_of_era = days - era * 146097;
    int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t month = (5 * day_of_year + 2) / 153;
    int64_t day = day_of_year - (153 * month + 2) / 5 + 1;
    month += month < 10 ? 3 : -9;
    int64_t year = year_of_era + era * 400 + (month <= 2 ? 1 : 0);
    evbuffer_add_printf(out,
                        ",\"%s\":\"%04" PRId64 "-%02" PRId64 "-%02" PRId64 "T%02" PRId64
                        ":%02" PRId64 ":%02" PRId64 "Z\"",
                        name, year, month, day, seconds / 3600 % 24, seconds / 60 % 60,
                        seconds % 60);
}

static void write_request(struct evbuffer *out, const struct batch_request *request)
{
    enum job_state state = state_of(request);
    evbuffer_add_printf(out, "{\"id\":\"%s\",\"status\":\"%s\"", request->id,
                        job_state_name(state));
    if (request->output) {
        evbuffer_add_printf(out, ",\"output\":");
        blob_append(out, request->output);
    }
    if (request->error) {
        evbuffer_add_printf(out, ",\"error\":");
        blob_append(out, request->error);
    }
    if (request->completed_wall_ms) {
        write_time(out, "startedAt", request->started_wall_ms);
        write_time(out, "completedAt", request->completed_wall_ms);
    }
    evbuffer_add(out, "}", 1);
}

static void write_summary(struct evbuffer *out, const struct endpoint *endpoint,
                          const struct batch *batch)
{
    int64_t running = 0;
    int64_t completed = 0;
    int64_t failed = 0;
    const struct batch_request *request;
    TAILQ_FOREACH(request, &batch->requests, link)
    {
        enum job_state state = state_of(request);
        running += state == JOB_IN_PROGRESS;
        completed += state == JOB_COMPLETED;
        failed += state == JOB_FAILED || state == JOB_TIMED_OUT;
    }
    evbuffer_add_printf(out, "{\"id\":\"%s\",\"endpointId\":\"%s\",", batch->id, endpoint->id);
    if (batch->name) {
        evbuffer_add_printf(out, "\"name\":");
        blob_append(out, batch->name);
        evbuffer_add(out, ",", 1);
    }
    evbuffer_add_printf(out,
                        "\"status\":\"%s\",\"requestTotal\":%" PRId64
                        ",\"requestInProgress\":%" PRId64 ",\"requestCompleted\":%" PRId64
                        ",\"requestFailed\":%" PRId64 ",\"createdAt\":%" PRId64 "}",
                        state_name(batch->state), batch->count, running, completed, failed,
                        batch->created_wall_ms);
}

static void reply_brief(struct exchange *exchange, const struct batch *batch)
{
    struct evbuffer *body = evbuffer_new();
    if (body)
        evbuffer_add_printf(body, "{\"id\":\"%s\",\"status\":\"%s\"}", batch->id,
                            state_name(batch->state));
    reply(exchange, body);
}

/* ---- operations ---- */

static bool is_done(const struct batch *batch)
{
    const struct batch_request *request;
    TAILQ_FOREACH(request, &batch->requests, link)
    {
        enum job_state state = state_of(request);
        if (state == JOB_IN_QUEUE || state == JOB_IN_PROGRESS)
            return false;
    }
    return batch->state != BATCH_DRAFT;
}

/* Adds the elements of an array. False: the exchange was answered. */
static bool append(struct exchange *exchange, struct batch *batch, struct sim_text array)
{
    size_t cursor = 0;
    struct sim_text element;
    while (sim_json_next(array, &cursor, NULL, &element)) {
        struct submission submission;
        if (submission_read(&submission, element, JOB_KIND_RUN) != SUBMISSION_OK) {
            exchange_reply_json(exchange, 400,
                                "{\"error\":\"each request needs an input object\"}");
            return false;
        }
        if (batch->count == REQUESTS_PER_BATCH || !request_add(batch, element)) {
            exchange_reply_json(exchange, 400, "{\"error\":\"at most 5000 requests per batch\"}");
            return false;
        }
    }
    return true;
}

static void batch_free(struct batch_list *list, struct batch *batch)
{
    TAILQ_REMOVE(list, batch, link);
    while (!TAILQ_EMPTY(&batch->requests))
        request_free(batch, TAILQ_FIRST(&batch->requests));
    blob_unref(batch->name);
    free(batch);
}

static bool body_is(struct exchange *exchange, enum sim_json_type type)
{
    if (exchange->body.length <= APPEND_BYTES && sim_json_valid(exchange->body) &&
        sim_json_type(exchange->body) == type)
        return true;
    exchange_reply_json(exchange, 400, "{\"error\":\"json is invalid; max size is 10 MB\"}");
    return false;
}

static void create_batch(struct batch_list *list, struct exchange *exchange)
{
    int active = 0;
    struct batch *batch;
    TAILQ_FOREACH(batch, list, link)
    active += !is_done(batch);
    if (active >= ACTIVE_BATCHES) {
        exchange_reply_json(exchange, 400, "{\"error\":\"at most 10 active batches\"}");
        return;
    }
    if (!body_is(exchange, SIM_JSON_ARRAY))
        return;
    batch = calloc(1, sizeof *batch);
    if (!batch) {
        reply(exchange, NULL);
        return;
    }
    TAILQ_INIT(&batch->requests);
    TAILQ_INSERT_HEAD(list, batch, link);
    memcpy(batch->id, "batch_", 6);
    sim_random_name(batch->id + 6, 16);
    batch->created_wall_ms = sim_clock_wall_ms();
    if (append(exchange, batch, exchange->body))
        reply_brief(exchange, batch);
    else
        batch_free(list, batch);
}

static void list_batches(struct endpoint *endpoint, struct batch_list *list,
                         struct exchange *exchange)
{
    struct evbuffer *body = evbuffer_new();
    struct batch *batch;
    if (body) {
        evbuffer_add_printf(body, "{\"batches\":[");
        TAILQ_FOREACH(batch, list, link)
        {
            if (batch != TAILQ_FIRST(list))
                evbuffer_add(body, ",", 1);
            write_summary(body, endpoint, batch);
        }
        evbuffer_add(body, "]}", 2);
    }
    reply(exchange, body);
}

static void list_requests(const struct batch *batch, struct exchange *exchange,
                          const struct target *target)
{
    int64_t offset = target_query_integer(target, "offset", 0);
    int64_t limit = target_query_integer(target, "limit", PAGE_DEFAULT);
    if (offset < 0 || limit < 1 || limit > PAGE_MAXIMUM) {
        exchange_reply_json(exchange, 400, "{\"error\":\"offset or limit is invalid\"}");
        return;
    }
    struct evbuffer *body = evbuffer_new();
    int64_t index = 0;
    const struct batch_request *request;
    if (body) {
        evbuffer_add_printf(body, "{\"requests\":[");
        TAILQ_FOREACH(request, &batch->requests, link)
        {
            if (index >= offset && index < offset + limit) {
                if (index > offset)
                    evbuffer_add(body, ",", 1);
                write_request(body, request);
            }
            index++;
        }
        evbuffer_add_printf(
            body,
            "],\"total\":%" PRId64 ",\"offset\":%" PRId64 ",\"limit\":%" PRId64 ",\"hasMore\":%s}",
            batch->count, offset, limit, offset + limit < batch->count ? "true" : "false");
    }
    reply(exchange, body);
}

static void finalize(struct endpoint *endpoint, struct batch *batch, struct exchange *exchange)
{
    batch->state = BATCH_FINALIZED;
    struct batch_request *request;
    TAILQ_FOREACH(request, &batch->requests, link)
    request_start(endpoint, request);
    reply_brief(exchange, batch);
}

/* Queued requests are cancelled; running ones may finish. */
static void cancel(struct batch *batch, struct exchange *exchange)
{
    batch->state = BATCH_CANCELLED;
    struct batch_request *request;
    TAILQ_FOREACH(request, &batch->requests, link)
    {
        if (request->job && request->job->state == JOB_IN_QUEUE)
            queue_end(request->job, JOB_CANCELLED, sim_text_of(""), sim_text_of(""));
        else if (!request->job && request->state == JOB_IN_QUEUE)
            request->state = JOB_CANCELLED;
    }
    reply_brief(exchange, batch);
}

static void append_requests(struct batch *batch, struct exchange *exchange)
{
    struct sim_text array = exchange->body;
    if (sim_json_type(array) != SIM_JSON_ARRAY &&
        (!body_is(exchange, SIM_JSON_OBJECT) || !sim_json_get(array, "requests", &array)))
        array = sim_text_of("");
    if (sim_json_type(array) != SIM_JSON_ARRAY) {
        exchange_reply_json(exchange, 400, "{\"error\":\"requests must be an array\"}");
        return;
    }
    if (append(exchange, batch, array))
        reply_brief(exchange, batch);
}

static struct batch_request *find_request(struct batch *batch, struct sim_text id)
{
    struct batch_request *request;
    TAILQ_FOREACH(request, &batch->requests, link)
    {
        if (sim_text_is(id, request->id))
            return request;
    }
    return NULL;
}

static void handle_one_request(struct batch *batch, struct exchange *exchange,
                               struct batch_request *request)
{
    struct evbuffer *body = evbuffer_new();
    if (!request) {
        wait_reply_not_found(exchange, "request not found");
    } else if (strcmp(exchange->method, "DELETE") == 0 && batch->state == BATCH_DRAFT) {
        request_free(batch, request);
        exchange_reply_json(exchange, 200, "{\"removed\":1}");
    } else if (strcmp(exchange->method, "GET") == 0) {
        if (body)
            write_request(body, request);
        exchange_reply(exchange, 200, "application/json", body);
    } else {
        exchange_reply_json(exchange, 400, "{\"error\":\"the batch is not a draft\"}");
    }
    if (body)
        evbuffer_free(body);
}

static void handle_batch(struct endpoint *endpoint, struct batch *batch, struct exchange *exchange,
                         const struct target *target)
{
    bool is_get = strcmp(exchange->method, "GET") == 0;
    bool is_post = strcmp(exchange->method, "POST") == 0;
    bool is_draft = batch->state == BATCH_DRAFT;
    struct sim_text part = target->segment[4];
    struct sim_text value;
    if (target->count == 4 && !is_post) {
        if (strcmp(exchange->method, "PUT") == 0 && sim_json_valid(exchange->body) &&
            sim_json_get(exchange->body, "name", &value) && !job_set_blob(&batch->name, value))
            batch->name = NULL;
        struct evbuffer *body = evbuffer_new();
        if (body)
            write_summary(body, endpoint, batch);
        reply(exchange, body);
    } else if (sim_text_is(part, "requests") && target->count == 6) {
        handle_one_request(batch, exchange, find_request(batch, target->segment[5]));
    } else if (sim_text_is(part, "requests") && is_get) {
        list_requests(batch, exchange, target);
    } else if (is_post && sim_text_is(part, "cancel")) {
        cancel(batch, exchange);
    } else if (is_post && !is_draft) {
        exchange_reply_json(exchange, 400, "{\"error\":\"the batch is not a draft\"}");
    } else if (is_post && sim_text_is(part, "requests")) {
        append_requests(batch, exchange);
    } else if (is_post && sim_text_is(part, "finalize")) {
        finalize(endpoint, batch, exchange);
    } else {
        wait_reply_not_found(exchange, "not found");
    }
}

void batch_handle(struct endpoint *endpoint, struct exchange *exchange, const struct target *target)
{
    struct batch_list *list = batches_of(endpoint);
    if (!list) {
        reply(exchange, NULL);
        return;
    }
    if (target->count == 3) {
        if (strcmp(exchange->method, "POST") == 0)
            create_batch(list, exchange);
        else
            list_batches(endpoint, list, exchange);
        return;
    }
    struct batch *batch;
    TAILQ_FOREACH(batch, list, link)
    {
        if (sim_text_is(target->segment[3], batch->id)) {
            handle_batch(endpoint, batch, exchange, target);
            return;
        }
    }
    wait_reply_not_found(exchange, "batch not found");
}

void batch_forget_all(struct endpoint *endpoint)
{
    struct batch_list *list = endpoint->batches;
    if (!list)
        return;
    while (!TAILQ_EMPTY(list))
        batch_free(list, TAILQ_FIRST(list));
    free(list);
    endpoint->batches = NULL;
}
