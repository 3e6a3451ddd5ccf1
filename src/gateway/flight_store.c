#include "build_config.h"

#include <openssl/evp.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/collector.h"
#include "gateway/flight_private.h"
#include "gateway/job_facts.h"
#include "model/metric_catalogue.h"
#include "store/result_codec.h"

/* What a flight writes: a job that has not ended goes back on the schedule, one that has is stored.
 */

enum { STORE_RETRY_MS = 1000, PUT_TIMEOUT_MS = 10000 };

static struct gateway *gateway_of(struct flight *flight)
{
    return flight->flights->gateway;
}

/* ---- back on the schedule -------------------------------------------------------------------- */

static void on_written(void *argument, const struct store_reply *reply)
{
    struct flights *flights = argument;

    /* CONFLICT: another one has the job by now. Failed: the lease lapses. */
    if (!store_failed(reply->result)) {
        flights->clock_offset_ms = (int64_t)reply->now_ms - (int64_t)clock_wall_ms();
    }
}

static uint64_t age_ms(const struct flight *flight)
{
    uint64_t now_ms = flight_store_ms(flight);

    return now_ms > flight->record.submitted_ms ? now_ms - flight->record.submitted_ms : 0;
}

static void reschedule(struct flight *flight)
{
    struct gateway *gateway = gateway_of(flight);
    const struct flight_record *record = &flight->record;
    uint64_t now_ms = flight_store_ms(flight);
    struct store_question question = {
        .operation = STORE_RESCHEDULE,
        .endpoint = flight_endpoint(flight),
        .job = flight_job_id(flight),
        .fence = record->fence,
        .state = record->state,
        .missing = record->missing_count,
        .failures = record->failure_count,
        .due_ms = 1000,
    };

    if (gateway->shared->collector) {
        struct collector_next next = collector_plan(
            gateway->shared->collector, flight_endpoint(flight), record->kind, record->state,
            age_ms(flight), record->failure_count + record->missing_count);

        question.due_ms = next.due_ms;
        if (record->failure_count == 0 && record->missing_count == 0) {
            question.deadline_ms = next.deadline_ms;
        }
    }
    if (record->missing_count > 0 && now_ms > record->missing_since_ms) {
        question.missing_since_ms = now_ms - record->missing_since_ms;
    }
    /* collector_plan() has noted when it is due. Without memory the lease lapses, and it is due. */
    struct store_call *call = store_ask(gateway->store, &question, on_written, flight->flights);

    (void)call;
}

void flight_settle_poll(struct flight *flight, const struct flight_answer *answer, bool ended,
                        bool failed)
{
    struct gateway *gateway = gateway_of(flight);
    struct collector_poll poll = {
        .endpoint = flight_endpoint(flight),
        .kind = flight->record.kind,
        .claimed = flight->polling && flight->poll_claimed,
        .fence = flight->record.fence,
        .delay_ms = flight->has_ending ? flight->ending.delay_ms : UINT64_MAX,
        .ended = ended,
        .failed = failed,
        .status = answer ? answer->status : 0,
        .age_ms = age_ms(flight),
        .execution_ms = flight->has_ending ? flight->ending.execution_ms : UINT64_MAX,
    };

    if (flight->poll_claimed && !ended && flight->record.known == RECORD_HERE) {
        reschedule(flight);
    }
    flight->poll_claimed = false;
    if ((flight->polling || answer) && gateway->shared->collector) {
        collector_settled(gateway->shared->collector, &poll);
    }
    flight->polling = false;
}

/* ---- storing an end -------------------------------------------------------------------------- */

static void tell_of_end(struct flight *flight)
{
    const struct flight_ending *ending = &flight->ending;
    struct job_end end = {
        .team = view_make(flight->record.team, flight->record.team_length),
        .endpoint = flight_endpoint(flight),
        .job = flight_job_id(flight),
        .state = ending->state,
        .fate = ending->fate,
        .execution_ms = ending->execution_ms,
    };

    job_facts_tell_end(gateway_of(flight), &end);
}

void flight_clear_ending(struct flight *flight)
{
    if (flight->has_ending) {
        flight_answer_unref(flight->ending.answer);
        body_unref(flight->ending.exact);
        body_unref(flight->ending.stored);
        flight->ending = (struct flight_ending){0};
        flight->has_ending = false;
    }
}

static uint64_t keep_ms(const struct flight *flight)
{
    return config_endpoint_keep_ms(
        config_find_endpoint(flight->flights->gateway->config, flight->route.endpoint),
        flight->ending.state);
}

/* The job as it stands in the ledger now, for the answer that is kept hot. */
static struct store_job ended_job(const struct flight *flight)
{
    const struct flight_ending *ending = &flight->ending;
    uint64_t now_ms = flight_store_ms(flight);
    struct store_job job = {
        .endpoint = flight_endpoint(flight),
        .id = flight_job_id(flight),
        .team = view_make(flight->record.team, flight->record.team_length),
        .kind = flight->record.kind,
        .state = ending->state,
        .fate = ending->fate,
        .generation = ending->generation,
        .submitted_ms = flight->record.submitted_ms,
        .ended_ms = now_ms,
        .expires_ms = now_ms + keep_ms(flight),
        .execution_ms = ending->execution_ms,
        .delay_ms = ending->delay_ms,
        .result_bytes = ending->exact ? body_view(ending->exact).length : 0,
        .encoding = ending->encoding,
    };

    memcpy(job.digest, ending->digest, sizeof job.digest);
    return job;
}

static void enter_end(struct flight *flight)
{
    struct store_job job = ended_job(flight);

    if (flight->record.generation != flight->ending.generation) {
        return; /* the job runs again by now */
    }
    flight->record.state = job.state;
    flight->record.fate = job.fate;
    flight->record.ended_ms = job.ended_ms;
    flight_set_final(flight, &job, flight->ending.stored);
}

void flight_enter_unstored(struct flight *flight)
{
    enter_end(flight);
    if (flight->final) {
        flight->final->degraded = true;
    }
}

/* The store is away or full: those who ask get what upstream said, from memory, until it is stored.
 */
static void postpone(struct flight *flight, enum store_result result)
{
    struct gateway *gateway = gateway_of(flight);

    flight->ending.retry_at_ms = clock_mono_ms() + STORE_RETRY_MS;
    if (!flight->ending.told) {
        struct log_line *line = log_begin(gateway->log, LOG_LEVEL_ERROR, "result_not_stored");

        log_text(line, "endpoint", flight_endpoint(flight));
        log_text(line, "job", flight_job_id(flight));
        log_string(line, "reason", store_result_text(result));
        log_end(line);
        flight->ending.told = true;
        flight_enter_unstored(flight);
        flight_settle_poll(flight, flight->ending.answer, true, false);
    }
}

static void on_put(void *argument, const struct store_reply *reply)
{
    struct flight *flight = argument;
    bool told = flight->ending.told;

    flight->write_call = NULL;
    if (store_failed(reply->result)) {
        postpone(flight, reply->result);
        flight_proceed(flight, VIEW(""));
        return;
    }
    if (reply->result == STORE_OK) {
        tell_of_end(flight);
        enter_end(flight);
    } else {
        /* Another one was first, or the job is another by now: what the store has counts. */
        flight->record.known = RECORD_NONE;
        flight_answer_unref(flight->final);
        flight->final = NULL;
    }
    if (!told) {
        metrics_add(gateway_of(flight)->metrics, METRIC_POLLS, METRIC_POLL_ENDED, 0, 1);
        flight_settle_poll(flight, flight->ending.answer, true, false);
    }
    flight->leased = false;
    flight_clear_ending(flight);
    flight_proceed(flight, VIEW(""));
}

void flight_put_end(struct flight *flight)
{
    struct flight_ending *ending = &flight->ending;
    struct store_question question = {
        .operation = STORE_PUT_RESULT,
        .timeout_ms = PUT_TIMEOUT_MS,
        .endpoint = flight_endpoint(flight),
        .job = flight_job_id(flight),
        .generation = ending->generation,
        .state = ending->state,
        .fate = ending->fate,
        .keep_ms = keep_ms(flight),
        .poll_on_ms = ending->poll_on_ms,
        .execution_ms = ending->execution_ms,
        .delay_ms = ending->delay_ms,
        .result = ending->stored,
        .encoding = ending->encoding,
        .result_bytes = ending->exact ? body_view(ending->exact).length : 0,
    };

    memcpy(question.digest, ending->digest, sizeof question.digest);
    ending->retry_at_ms = 0;
    flight->write_call = store_ask(gateway_of(flight)->store, &question, on_put, flight);
    if (!flight->write_call) {
        postpone(flight, STORE_NO_MEMORY);
    }
}

void flight_retry_store(struct flight *flight)
{
    if (flight->has_ending && flight->ending.retry_at_ms != 0 && !flight->write_call &&
        clock_mono_ms() >= flight->ending.retry_at_ms) {
        flight_put_end(flight);
    }
}

static void on_encoded(void *argument, struct body *body)
{
    struct flight *flight = argument;

    flight->encoding_result = false;
    if (body && body_view(body).length < body_view(flight->ending.exact).length) {
        flight->ending.stored = body;
        flight->ending.encoding = STORE_ENCODING_ZSTD;
    } else {
        body_unref(body);
        flight->ending.stored = body_ref(flight->ending.exact);
    }
    flight_put_end(flight);
    flight_arm(flight);
}

void flight_begin_ending(struct flight *flight, enum job_state state, enum store_fate fate)
{
    flight_clear_ending(flight);
    flight->has_ending = true;
    flight->ending.state = state;
    flight->ending.fate = fate;
    flight->ending.generation = flight->record.generation;
    flight->ending.execution_ms = UINT64_MAX;
    flight->ending.delay_ms = UINT64_MAX;
}

/* Stores a result; takes the reference on `exact`. */
void flight_store_result(struct flight *flight, struct body *exact)
{
    struct gateway *gateway = gateway_of(flight);
    struct view bytes = body_view(exact);

    flight->ending.exact = exact;
    if (EVP_Digest(bytes.data, bytes.length, flight->ending.digest, NULL, EVP_sha256(), NULL) !=
        1) {
        memset(flight->ending.digest, 0, sizeof flight->ending.digest);
    }
    if (bytes.length > RESULT_COMPRESS_ABOVE_BYTES && gateway->shared->codec &&
        result_codec_start(gateway->shared->codec, gateway->loop, exact, RESULT_IDENTITY_TO_ZSTD, 0,
                           on_encoded, flight)) {
        flight->encoding_result = true;
        return;
    }
    flight->ending.stored = body_ref(exact);
    flight_put_end(flight);
}
