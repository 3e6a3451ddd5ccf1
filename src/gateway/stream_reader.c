#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "format/json_array.h"
#include "format/json_scan.h"
#include "gateway/breaker.h"
#include "gateway/collector.h"
#include "gateway/flight.h"
#include "gateway/relay.h"
#include "gateway/stream_private.h"
#include "model/metric_catalogue.h"

/* Reading the upstream's /stream, which hands out each chunk once: one request at a time, while
 * somebody waits for chunks or they are to be captured, and not ahead of that: what has been read
 * and isn't written yet goes with a process that is killed. A request that is under way is never
 * given up, since its answer may hold chunks that upstream has no more. Of an answer that broke off
 * the chunks that came whole are kept.
 */

enum {
    /* How long upstream is asked to wait for a chunk. */
    WAIT_MS = 5000,
    ENDED_WAIT_MS = 1000, /* the job has ended: nothing is to be waited for */
    MARGIN_MS = 10000,
    /* Between the beginnings of two requests for one job: so fast chunks come together, and an
     * upstream that doesn't wait isn't asked without a pause. */
    PACE_MS = 100,
    EMPTY_PACE_MS = 500,
    FIRST_PAUSE_MS = 500,
    LONGEST_PAUSE_MS = 10000,
    MISSING_PAUSE_MS = 1000,
    /* Upstream's 200 chunks of at most 1 MB each are never that long in practice. */
    ANSWER_BYTES = 64 * 1024 * 1024,
    FIRST_ANSWER_BYTES = 4096,
    /* With less room for bodies no more is fetched. */
    BUDGET_PERCENT = 80,
    LEASE_RENEW_MS = 3000,
    LEASE_BUSY_MS = 1000,
};

static struct gateway *gateway_of(const struct stream_reader *reader)
{
    return reader->streams->gateway;
}

static bool job_has_ended(const struct stream_reader *reader)
{
    return reader->ending || job_state_is_terminal(reader->facts.state);
}

static bool is_wanted(const struct stream_reader *reader)
{
    return (stream_desk_is_hungry(reader) || reader->capture) && !reader->drained &&
           !reader->streams->draining;
}

/* ---- what an answer says --------------------------------------------------------------------- */

/* The job has ended, says its stream: its result is fetched now, not at its next poll. */
static void tell_flight(struct stream_reader *reader)
{
    struct store_job job = {
        .endpoint = stream_endpoint(reader),
        .id = stream_job_id(reader),
        .upstream_id = view_make(reader->facts.upstream_id, reader->facts.upstream_id_length),
        .team = view_make(reader->team, reader->team_length),
        .kind = reader->facts.kind,
        .state = reader->facts.state,
        .generation = reader->facts.generation,
        .execution_ms = UINT64_MAX,
        .delay_ms = UINT64_MAX,
    };

    if (!job_state_is_terminal(reader->facts.state)) {
        /* Without memory the collector comes to it by itself. */
        (void)!flight_post_poll(gateway_of(reader)->shared, &job);
    }
}

static void fail(struct stream_reader *reader, enum stream_outcome how)
{
    uint64_t pause_ms = (uint64_t)FIRST_PAUSE_MS << (reader->failures < 5 ? reader->failures : 5);

    if (pause_ms > LONGEST_PAUSE_MS) {
        pause_ms = LONGEST_PAUSE_MS;
    }
    if (pause_ms < reader->answer_retry_ms) {
        pause_ms = reader->answer_retry_ms;
    }
    reader->failures++;
    reader->failed_how = how;
    reader->failed_status = reader->answer_status;
    reader->read_at_ms = clock_mono_ms() + pause_ms;
}

static bool add_chunk(struct stream_chunks *chunks, size_t *capacity, struct view element)
{
    if (element.length > UINT32_MAX) {
        return false;
    }
    if (chunks->count == *capacity) {
        size_t wanted = *capacity > 0 ? *capacity * 2 : 16;
        uint32_t *grown = reallocarray(chunks->lengths, wanted, sizeof *grown);

        if (!grown) {
            return false;
        }
        chunks->lengths = grown;
        *capacity = wanted;
    }
    if (!body_append(chunks->bytes, element)) {
        return false;
    }
    chunks->lengths[chunks->count++] = (uint32_t)element.length;
    return true;
}

static void log_lost(struct stream_reader *reader, const char *reason)
{
    struct log_line *line =
        log_begin(gateway_of(reader)->log, LOG_LEVEL_ERROR, "stream_chunks_lost");

    metrics_add(gateway_of(reader)->metrics, METRIC_CHUNKS, METRIC_CHUNK_LOST, 0, 1);
    log_word(line, "endpoint", stream_endpoint(reader));
    log_text(line, "job", stream_job_id(reader));
    log_string(line, "reason", reason);
    log_end(line);
}

/* Puts the elements of `array` into the log; how many. What can't be kept, for want of memory, is
 * lost, and said. */
static size_t take_elements(struct stream_reader *reader, struct json_array *array)
{
    struct stream_chunks chunks = {0};
    struct view element;
    size_t capacity = 0;
    size_t count;
    bool lost = false;

    if (!json_array_next(array, &element)) {
        return 0;
    }
    chunks.bytes = body_create(gateway_of(reader)->shared->budget, element.length + 1);
    lost = !chunks.bytes;
    while (!lost) {
        lost = !add_chunk(&chunks, &capacity, element);
        if (lost || !json_array_next(array, &element)) {
            break;
        }
    }
    count = chunks.count;
    if (count > 0 && !chunk_log_add(reader, &chunks)) {
        lost = true;
    }
    stream_chunks_clear(&chunks);
    if (lost) {
        log_lost(reader, "memory");
    }
    return count;
}

static void note_state(struct stream_reader *reader, enum job_state state, size_t count)
{
    uint64_t now_ms = clock_mono_ms();

    reader->seen_state = state;
    reader->has_seen_state = true;
    if (!job_state_is_terminal(state)) {
        return;
    }
    if (!reader->ending) {
        reader->ending = true;
        reader->ending_since_ms = now_ms;
        tell_flight(reader);
    }
    /* At most 200 come at once, so the end is reached with an answer that has none. */
    reader->drained = count == 0;
    reader->read_at_ms = now_ms;
}

static void take_answer(struct stream_reader *reader, struct view text)
{
    struct json_member members[] = {{.name = VIEW("status")}, {.name = VIEW("stream")}};
    struct json_report report;
    struct json_array array;
    struct view status;
    enum job_state state;
    uint64_t now_ms = clock_mono_ms();
    size_t count;

    if (json_scan(text, JSON_SCAN_NON_FINITE, members, 2, &report) != JSON_SCAN_OK ||
        report.type != JSON_OBJECT || members[1].type != JSON_ARRAY) {
        log_lost(reader, "not_json");
        fail(reader, STREAM_BAD);
        return;
    }
    json_array_begin(&array, members[1].value);
    count = take_elements(reader, &array);
    reader->failures = 0;
    reader->read_good_ms = now_ms;
    reader->read_at_ms =
        reader->read_began_ms + (count > 0 ? (uint64_t)PACE_MS : (uint64_t)EMPTY_PACE_MS);
    /* What was asked for before a /retry says nothing of the new run's end. */
    if (members[0].type == JSON_STRING && json_member_plain_string(&members[0], &status) &&
        job_state_parse(status, &state) && reader->read_generation == reader->facts.generation) {
        note_state(reader, state, count);
    }
}

/* 404: upstream doesn't know the job, not yet or not any more. */
static void take_missing(struct stream_reader *reader)
{
    if (job_has_ended(reader)) {
        reader->drained = true;
        return;
    }
    reader->failures = 0; /* it said something; callers are told what the ledger says */
    reader->read_good_ms = clock_mono_ms();
    reader->read_at_ms = reader->read_good_ms + MISSING_PAUSE_MS;
    tell_flight(reader);
    stream_refresh(reader);
}

/* Of a 200 that broke off. */
static void salvage(struct stream_reader *reader)
{
    struct json_array array;

    if (reader->answer && reader->answer_status == 200) {
        if (json_array_begin_cut(&array, body_view(reader->answer), VIEW("stream"))) {
            (void)take_elements(reader, &array);
        }
        log_lost(reader, "broken_answer");
    }
}

/* ---- the exchange ---------------------------------------------------------------------------- */

static void end_exchange(struct stream_reader *reader)
{
    reader->exchange = NULL;
    reader->streams->reading_count--;
}

static void on_head(void *owner, struct upstream_exchange *exchange,
                    const struct http_response_head *head)
{
    struct stream_reader *reader = owner;
    struct gateway *gateway = gateway_of(reader);
    size_t capacity = FIRST_ANSWER_BYTES;

    reader->answer_status = head->status;
    reader->answer_retry_ms = relay_retry_after_s(head, true) * 1000;
    relay_report_answer(gateway, ROUTE_STREAM, stream_endpoint(reader), head->status);
    if (head->head.framing == HTTP_BODY_LENGTH && head->head.content_length < ANSWER_BYTES) {
        capacity = (size_t)head->head.content_length + 1;
    }
    reader->answer = body_create(gateway->shared->budget, capacity);
    if (reader->answer) {
        upstream_collect(exchange, reader->answer, ANSWER_BYTES);
    }
}

static void drop_answer(struct stream_reader *reader)
{
    body_unref(reader->answer);
    reader->answer = NULL;
}

static void on_body(void *owner, struct upstream_exchange *exchange, struct view data, bool last)
{
    struct stream_reader *reader = owner;

    (void)data;
    if (!last || !reader->answer) {
        if (!last) {
            upstream_abort(exchange);
        }
        end_exchange(reader);
        salvage(reader);
        reader->failure = UPSTREAM_NO_MEMORY;
        fail(reader, STREAM_FAILED);
    } else {
        end_exchange(reader);
        relay_mask_key(gateway_of(reader), body_view(reader->answer));
        if (FAULT_POINT("stream.answer")) {
            log_lost(reader, "fault");
        } else if (reader->answer_status == 200) {
            take_answer(reader, body_view(reader->answer));
        } else if (reader->answer_status == 404) {
            take_missing(reader);
        } else {
            fail(reader, STREAM_BAD);
        }
    }
    drop_answer(reader);
    stream_proceed(reader);
}

static void on_failure(void *owner, struct upstream_exchange *exchange,
                       enum upstream_failure failure, bool may_be_processed)
{
    struct stream_reader *reader = owner;
    struct gateway *gateway = gateway_of(reader);

    (void)exchange;
    (void)may_be_processed;
    end_exchange(reader);
    metrics_add(gateway->metrics, METRIC_FAULTS, METRIC_PART_UPSTREAM, failure, 1);
    relay_report_failure(gateway, stream_endpoint(reader), failure);
    salvage(reader);
    drop_answer(reader);
    reader->failure = failure;
    reader->answer_retry_ms = 0;
    fail(reader, STREAM_FAILED);
    stream_proceed(reader);
}

static const struct upstream_handler handler = {
    .on_head = on_head,
    .on_body = on_body,
    .on_failure = on_failure,
};

static bool build_head(struct stream_reader *reader, uint64_t wait_ms)
{
    struct builder *head = &reader->head;
    struct route route = {
        .operation = ROUTE_STREAM,
        .endpoint = stream_endpoint(reader),
        .job = view_make(reader->facts.upstream_id, reader->facts.upstream_id_length),
        .wait_ms = wait_ms,
        .has_wait = true,
    };

    if (route.job.length == 0) {
        route.job = stream_job_id(reader);
    }
    builder_reset(head);
    builder_append(head, VIEW("GET "));
    route_append_target(head, gateway_of(reader)->config->upstream.url.path, &route);
    builder_append(head, VIEW(" HTTP/1.1\r\nAccept: application/json\r\nVia: 1.1 podgate\r\n"));
    return !builder_failed(head);
}

static void ask_upstream(struct stream_reader *reader, uint64_t now_ms)
{
    struct gateway *gateway = gateway_of(reader);
    uint64_t wait_ms = job_has_ended(reader) ? ENDED_WAIT_MS : WAIT_MS;
    struct upstream_request sent = {
        .resend = UPSTREAM_RESEND_READ,
        .deadlines = {.total_ms = wait_ms + MARGIN_MS},
    };

    reader->answer_status = 0;
    reader->answer_retry_ms = 0;
    if (build_head(reader, wait_ms)) {
        sent.head = builder_view(&reader->head);
        reader->exchange = upstream_send(gateway->upstream, &sent, &handler, reader);
    }
    if (!reader->exchange) {
        reader->failure = UPSTREAM_NO_MEMORY;
        fail(reader, STREAM_FAILED);
        return;
    }
    reader->streams->reading_count++;
    reader->read_began_ms = now_ms;
    reader->read_generation = reader->facts.generation;
}

/* ---- the lease ------------------------------------------------------------------------------- */

static void on_leased(void *argument, const struct store_reply *reply)
{
    struct stream_reader *reader = argument;
    struct stream_facts facts;
    uint64_t now_ms = clock_mono_ms();

    reader->lease_call = NULL;
    if (reply->result == STORE_OK || reply->result == STORE_CONFLICT ||
        reply->result == STORE_BUSY) {
        stream_take_facts(&facts, &reply->job, reply->now_ms);
        stream_update(reader, &facts);
    }
    if (reply->result == STORE_OK || reply->result == STORE_CONFLICT) {
        /* One that has ended can't be leased: what upstream has left of it is anybody's. */
        reader->lease_until_ms = now_ms + STORE_LEASE_MS - LEASE_RENEW_MS;
        reader->lease_at_ms = now_ms + LEASE_RENEW_MS;
    } else if (store_failed(reply->result)) {
        /* Who had it goes on: others can't get it either. */
        reader->lease_at_ms = now_ms + LEASE_BUSY_MS;
        if (reader->lease_until_ms != 0) {
            reader->lease_until_ms = now_ms + LEASE_RENEW_MS;
        }
    } else if (reply->result == STORE_BUSY) {
        reader->lease_until_ms = 0;
        reader->lease_at_ms = now_ms + LEASE_BUSY_MS;
        reader->refresh_at_ms = now_ms + STREAM_RETRY_MS;
    } else {
        reader->drained = true; /* the store knows no such job any more */
    }
    stream_proceed(reader);
}

static void claim(struct stream_reader *reader, uint64_t now_ms)
{
    struct store_question question = {
        .operation = STORE_CLAIM_JOB,
        .endpoint = stream_endpoint(reader),
        .job = stream_job_id(reader),
        .lease_ms = STORE_LEASE_MS,
    };

    if (!reader->lease_call && now_ms >= reader->lease_at_ms) {
        reader->lease_call = store_ask(gateway_of(reader)->store, &question, on_leased, reader);
        if (!reader->lease_call) {
            reader->lease_at_ms = now_ms + LEASE_BUSY_MS;
        }
    }
}

/* True when this podgate is the one that reads. */
static bool has_lease(struct stream_reader *reader, uint64_t now_ms)
{
    if (!store_is_shared(gateway_of(reader)->shared->store)) {
        return true;
    }
    claim(reader, now_ms);
    if (now_ms >= reader->lease_until_ms && reader->refresh_at_ms == 0 && reader->polls) {
        reader->refresh_at_ms = now_ms + STREAM_RETRY_MS;
    }
    return now_ms < reader->lease_until_ms;
}

/* ---- when to read ---------------------------------------------------------------------------- */

static uint64_t take_poll(const struct stream_reader *reader)
{
    struct collector *collector = gateway_of(reader)->shared->collector;

    return collector ? collector_take_poll(collector, stream_endpoint(reader)) : 0;
}

void stream_reader_read(struct stream_reader *reader)
{
    struct gateway *gateway = gateway_of(reader);
    uint64_t now_ms = clock_mono_ms();
    uint64_t retry_after_s = 0;
    uint64_t pause_ms;

    if (!is_wanted(reader) || !has_lease(reader, now_ms) || reader->exchange ||
        reader->refresh_call || now_ms < reader->read_at_ms) {
        return;
    }
    if (reader->unstored_bytes > STREAM_UNSTORED_BYTES ||
        body_budget_percent(gateway->shared->budget) >= BUDGET_PERCENT) {
        reader->read_at_ms = now_ms + EMPTY_PACE_MS; /* upstream keeps its chunks meanwhile */
        return;
    }
    pause_ms = take_poll(reader);
    if (pause_ms > 0) {
        reader->read_at_ms = now_ms + pause_ms;
        return;
    }
    if (!breaker_allows(gateway->breaker, stream_endpoint(reader), now_ms, &retry_after_s)) {
        metrics_add(gateway->metrics, METRIC_REFUSALS, METRIC_REFUSAL_BREAKER, 0, 1);
        reader->failed_retry_s = retry_after_s;
        reader->answer_retry_ms = retry_after_s * 1000;
        fail(reader, STREAM_REFUSED);
        return;
    }
    ask_upstream(reader, now_ms);
}

uint64_t stream_reader_next_ms(const struct stream_reader *reader)
{
    bool is_shared = store_is_shared(gateway_of(reader)->shared->store);
    uint64_t due_ms = UINT64_MAX;

    if (!is_wanted(reader)) {
        return due_ms;
    }
    if (!reader->exchange && !reader->refresh_call &&
        (!is_shared || clock_mono_ms() < reader->lease_until_ms)) {
        due_ms = reader->read_at_ms;
    }
    if (is_shared && !reader->lease_call && reader->lease_at_ms < due_ms) {
        due_ms = reader->lease_at_ms;
    }
    return due_ms;
}

void stream_reader_stop(struct stream_reader *reader)
{
    if (reader->exchange) {
        upstream_abort(reader->exchange);
        end_exchange(reader);
    }
    drop_answer(reader);
    if (reader->lease_call) {
        store_cancel(reader->lease_call);
        reader->lease_call = NULL;
    }
}
