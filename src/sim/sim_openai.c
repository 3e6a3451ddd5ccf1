#include "build_config.h"

#include "sim/sim_openai.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim.h"
#include "sim/sim_exchange.h"
#include "sim/sim_queue.h"
#include "sim/sim_random.h"
#include "sim/sim_target.h"

enum {
    DEFAULT_EVENTS = 5,
    BACKLOG_BYTES = 256 * 1024, /* a slow reader stops the source */
    BACKLOG_RETRY_MS = 5
};

enum openai_route { OPENAI_CHAT, OPENAI_COMPLETIONS, OPENAI_EMBEDDINGS, OPENAI_OTHER };

/* An answer in the making. Freed when it has ended or the caller is gone. */
struct openai_call {
    struct exchange *exchange;
    struct event *timer; /* simulated calls */
    struct job *job;     /* calls run by real workers */
    enum openai_route route;
    char name[24];
    struct blob *model; /* raw JSON string */
    struct blob *result;
    int64_t events;
    int64_t events_done;
    int64_t interval_ms;
    bool streams;
    bool started;
};

static void call_free(struct openai_call *call)
{
    if (call->job)
        call->job->listener = NULL;
    if (call->timer)
        event_free(call->timer);
    blob_unref(call->model);
    blob_unref(call->result);
    free(call);
}

static void on_gone(struct exchange *exchange, void *argument)
{
    (void)exchange;
    struct openai_call *call = argument;
    struct job *job = call->job;
    call_free(call);
    if (job && !job_is_terminal(job))
        queue_end(job, JOB_CANCELLED, sim_text_of(""), sim_text_of(""));
}

static void write_plain(struct evbuffer *out, const struct openai_call *call)
{
    long long created = (long long)(sim_clock_wall_ms() / 1000);
    if (call->result) {
        blob_append(out, call->result);
        return;
    }
    switch (call->route) {
    case OPENAI_CHAT:
        evbuffer_add_printf(
            out,
            "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"content\":"
            "\"Hello from podgate-sim.\",\"role\":\"assistant\"}}],\"created\":%lld,\"id\":"
            "\"chatcmpl-%s\",\"model\":%.*s,\"object\":\"chat.completion\",\"usage\":"
            "{\"completion_tokens\":5,\"prompt_tokens\":7,\"total_tokens\":12}}",
            created, call->name, (int)call->model->length, call->model->data);
        break;
    case OPENAI_COMPLETIONS:
        evbuffer_add_printf(
            out,
            "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"text\":\"Hello from "
            "podgate-sim.\"}],\"created\":%lld,\"id\":\"cmpl-%s\",\"model\":%.*s,\"object\":"
            "\"text_completion\",\"usage\":{\"completion_tokens\":5,\"prompt_tokens\":7,"
            "\"total_tokens\":12}}",
            created, call->name, (int)call->model->length, call->model->data);
        break;
    case OPENAI_EMBEDDINGS:
        evbuffer_add_printf(
            out,
            "{\"data\":[{\"embedding\":[0.25,-0.5,1e-3],\"index\":0,\"object\":\"embedding\"}],"
            "\"model\":%.*s,\"object\":\"list\",\"usage\":{\"prompt_tokens\":7,\"total_tokens\":"
            "7}}",
            (int)call->model->length, call->model->data);
        break;
    case OPENAI_OTHER:
        evbuffer_add_printf(out, "{\"id\":\"resp_%s\",\"model\":%.*s,\"object\":\"response\"}",
                            call->name, (int)call->model->length, call->model->data);
        break;
    }
}

static void reply_plain(struct openai_call *call)
{
    struct exchange *exchange = call->exchange;
    struct evbuffer *body = evbuffer_new();
    if (body)
        write_plain(body, call);
    call_free(call);
    exchange_reply(exchange, 200, "application/json", body);
    if (body)
        evbuffer_free(body);
}

static void write_event(struct evbuffer *out, const struct openai_call *call)
{
    long long created = (long long)(sim_clock_wall_ms() / 1000);
    bool last = call->events_done + 1 == call->events;
    const char *reason = last ? "\"stop\"" : "null";
    long long index = (long long)call->events_done;
    if (call->route == OPENAI_CHAT)
        evbuffer_add_printf(
            out,
            "data: {\"choices\":[{\"delta\":{\"content\":\"token %lld \"},\"finish_reason\":%s,"
            "\"index\":0}],\"created\":%lld,\"id\":\"chatcmpl-%s\",\"model\":%.*s,\"object\":"
            "\"chat.completion.chunk\"}\n\n",
            index, reason, created, call->name, (int)call->model->length, call->model->data);
    else
        evbuffer_add_printf(
            out,
            "data: {\"choices\":[{\"finish_reason\":%s,\"index\":0,\"text\":\"token %lld \"}],"
            "\"created\":%lld,\"id\":\"cmpl-%s\",\"model\":%.*s,\"object\":\"text_completion\"}"
            "\n\n",
            reason, index, created, call->name, (int)call->model->length, call->model->data);
}

/* Ends an event stream; `call` and its exchange are gone afterwards. */
static void end_stream(struct openai_call *call, bool say_done)
{
    struct exchange *exchange = call->exchange;
    struct evbuffer *bytes = say_done ? evbuffer_new() : NULL;
    call_free(call);
    exchange->on_gone = NULL;
    if (bytes) {
        evbuffer_add(bytes, "data: [DONE]\n\n", 14);
        exchange_stream_write(exchange, bytes);
        evbuffer_free(bytes);
    }
    exchange_stream_end(exchange);
}

static void stream_step(struct openai_call *call)
{
    int64_t wait_ms = call->interval_ms;
    if (exchange_stream_backlog(call->exchange) > BACKLOG_BYTES) {
        wait_ms = BACKLOG_RETRY_MS;
    } else {
        struct evbuffer *bytes = evbuffer_new();
        while (bytes && call->events_done < call->events) {
            write_event(bytes, call);
            call->events_done++;
            if (call->interval_ms > 0 || evbuffer_get_length(bytes) > BACKLOG_BYTES)
                break;
        }
        if (bytes) {
            exchange_stream_write(call->exchange, bytes);
            evbuffer_free(bytes);
        }
        if (call->events_done == call->events) {
            end_stream(call, true);
            return;
        }
    }
    struct timeval pause = sim_clock_real_interval(wait_ms);
    event_add(call->timer, &pause);
}

static void on_timer(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct openai_call *call = argument;
    if (!call->streams) {
        reply_plain(call);
        return;
    }
    if (!call->started) {
        call->started = true;
        exchange_stream_start(call->exchange, "text/event-stream; charset=utf-8", on_gone, call);
    }
    stream_step(call);
}

/* ---- real workers ---- */

static void forward_chunks(struct openai_call *call)
{
    struct job *job = call->job;
    struct evbuffer *bytes = evbuffer_new();
    while (bytes && !TAILQ_EMPTY(&job->chunks)) {
        struct chunk *chunk = TAILQ_FIRST(&job->chunks);
        struct sim_text output;
        if (sim_json_get(blob_text(chunk->json), "output", &output)) {
            char *decoded = sim_json_string(output);
            if (decoded)
                evbuffer_add(bytes, decoded, strlen(decoded));
            else
                evbuffer_add(bytes, output.data, output.length);
            free(decoded);
        }
        TAILQ_REMOVE(&job->chunks, chunk, link);
        job->chunk_count--;
        blob_unref(chunk->json);
        free(chunk);
    }
    if (bytes) {
        exchange_stream_write(call->exchange, bytes);
        evbuffer_free(bytes);
    }
}

static void reply_from_job(struct openai_call *call)
{
    struct job *job = call->job;
    struct exchange *exchange = call->exchange;
    struct evbuffer *body = evbuffer_new();
    bool completed = job->state == JOB_COMPLETED;
    if (body && completed && job->output) {
        blob_append(body, job->output);
    } else if (body) {
        evbuffer_add_printf(body, "{\"error\":");
        if (job->error)
            blob_append(body, job->error);
        else
            evbuffer_add_printf(body, "\"job %s\"", job_state_name(job->state));
        evbuffer_add(body, "}", 1);
    }
    call_free(call);
    exchange_reply(exchange, completed ? 200 : 500, "application/json", body);
    if (body)
        evbuffer_free(body);
}

static void on_job(struct job *job, enum job_event event, void *argument)
{
    (void)job;
    struct openai_call *call = argument;
    if (call->streams && !call->started && event != JOB_EVENT_REMOVED &&
        (event == JOB_EVENT_CHUNK || job->state == JOB_COMPLETED)) {
        call->started = true;
        exchange_stream_start(call->exchange, "text/event-stream; charset=utf-8", on_gone, call);
    }
    if (call->started) {
        forward_chunks(call);
        if (event != JOB_EVENT_CHUNK)
            end_stream(call, false);
    } else if (event == JOB_EVENT_ENDED) {
        reply_from_job(call);
    } else if (event == JOB_EVENT_REMOVED) {
        struct exchange *exchange = call->exchange;
        call_free(call);
        exchange_reply_json(exchange, 500, "{\"error\":\"job not found\"}");
    }
}

static void run_by_worker(struct endpoint *endpoint, struct openai_call *call,
                          const struct target *target)
{
    struct exchange *exchange = call->exchange;
    struct evbuffer *input = evbuffer_new();
    if (input) {
        evbuffer_add_printf(input, "{");
        if (exchange->body.length) {
            evbuffer_add_printf(input, "\"openai_input\":");
            evbuffer_add(input, exchange->body.data, exchange->body.length);
            evbuffer_add(input, ",", 1);
        }
        evbuffer_add_printf(input, "\"openai_route\":\"");
        for (size_t i = 3; i < target->count && i < TARGET_SEGMENTS; i++)
            evbuffer_add_printf(input, "/%.*s", (int)target->segment[i].length,
                                target->segment[i].data);
        evbuffer_add_printf(input, "\"}");
        struct submission submission = {
            .kind = JOB_KIND_OPENAI,
            .input = {(const char *)evbuffer_pullup(input, -1), evbuffer_get_length(input)}};
        call->job = queue_submit(endpoint, &submission);
        evbuffer_free(input);
    }
    if (!call->job) {
        call_free(call);
        exchange_reply_json(exchange, 500, "{\"error\":\"out of memory\"}");
        return;
    }
    call->job->listener = on_job;
    call->job->listener_argument = call;
    exchange_hold(exchange, on_gone, call);
}

/* ---- requests ---- */

static void reply_models(struct endpoint *endpoint, struct exchange *exchange)
{
    struct evbuffer *body = evbuffer_new();
    if (body)
        evbuffer_add_printf(
            body,
            "{\"data\":[{\"created\":1700000000,\"id\":\"podgate-sim\",\"object\":\"model\","
            "\"owned_by\":\"%s\"}],\"object\":\"list\"}",
            endpoint->id);
    exchange_reply(exchange, 200, "application/json", body);
    if (body)
        evbuffer_free(body);
}

static enum openai_route find_route(const struct target *target)
{
    if (sim_text_is(target->segment[4], "chat") && sim_text_is(target->segment[5], "completions"))
        return OPENAI_CHAT;
    if (sim_text_is(target->segment[4], "completions"))
        return OPENAI_COMPLETIONS;
    return sim_text_is(target->segment[4], "embeddings") ? OPENAI_EMBEDDINGS : OPENAI_OTHER;
}

static int64_t body_integer(struct sim_text body, const char *key, int64_t otherwise)
{
    struct sim_text value;
    int64_t number;
    return sim_json_get(body, key, &value) && sim_json_integer(value, &number) && number >= 0
               ? number
               : otherwise;
}

static struct openai_call *call_create(struct endpoint *endpoint, struct exchange *exchange,
                                       const struct target *target)
{
    struct openai_call *call = calloc(1, sizeof *call);
    if (!call)
        return NULL;
    struct sim_text body = exchange->body;
    struct sim_text value;
    call->exchange = exchange;
    call->route = find_route(target);
    call->streams = sim_json_get(body, "stream", &value) && sim_json_type(value) == SIM_JSON_TRUE;
    call->events = body_integer(body, "mock_stream", DEFAULT_EVENTS);
    call->interval_ms = body_integer(body, "mock_stream_interval", 0);
    if (sim_json_get(body, "mock_return", &value))
        call->result = blob_copy(value);
    if (!sim_json_get(body, "model", &value) || sim_json_type(value) != SIM_JSON_STRING)
        value = sim_text_of("\"podgate-sim\"");
    call->model = blob_copy(value);
    call->timer = evtimer_new(endpoint->sim->base, on_timer, call);
    sim_random_name(call->name, 20);
    if (call->model && call->timer)
        return call;
    call_free(call);
    return NULL;
}

void openai_handle(struct endpoint *endpoint, struct exchange *exchange,
                   const struct target *target)
{
    bool is_get = strcmp(exchange->method, "GET") == 0;
    bool simulated = endpoint->worker_count > 0;
    if (simulated && is_get) {
        reply_models(endpoint, exchange);
        return;
    }
    if (!is_get && !sim_json_valid(exchange->body)) {
        exchange_reply_json(exchange, 400, "{\"error\":\"json is invalid; max size is 20 MB\"}");
        return;
    }
    struct openai_call *call = call_create(endpoint, exchange, target);
    if (!call) {
        exchange_reply_json(exchange, 500, "{\"error\":\"out of memory\"}");
        return;
    }
    if (!simulated) {
        run_by_worker(endpoint, call, target);
        return;
    }
    int64_t delay_ms = body_integer(exchange->body, "mock_delay", 0);
    if (delay_ms == 0) {
        if (call->streams)
            exchange_hold(exchange, on_gone, call);
        on_timer(-1, 0, call);
        return;
    }
    exchange_hold(exchange, on_gone, call);
    struct timeval wait =
        sim_clock_until(&endpoint->sim->clock, sim_clock_now_ms(&endpoint->sim->clock) + delay_ms);
    event_add(call->timer, &wait);
}
