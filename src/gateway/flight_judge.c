#include "build_config.h"

#include <string.h>

#include "gateway/collector.h"
#include "gateway/flight_private.h"
#include "gateway/relay.h"
#include "model/metric_catalogue.h"

/* What an answer of the upstream means for the job: stored when it has ended, back on the schedule
 * when it has not, and slowly given up when upstream knows nothing of it (docs/retention.md). */

enum {
    MISSING_POLLS = 3,        /* so many 404 in a row ... */
    MISSING_SPAN_MS = 30000,  /* ... over so long make a job LOST */
    LOST_POLL_ON_MS = 900000, /* it is looked for so long yet */
    STATE_BODY_BYTES = ROUTE_JOB_MAXIMUM + 64,
};

static struct gateway *gateway_of(struct flight *flight)
{
    return flight->flights->gateway;
}

static void count_bad(struct flight *flight, enum metric_bad_result reason)
{
    struct gateway *gateway = gateway_of(flight);
    struct log_line *line = log_begin(gateway->log, LOG_LEVEL_WARNING, "result_bad");

    log_text(line, "endpoint", flight_endpoint(flight));
    log_text(line, "job", flight_job_id(flight));
    log_number(line, "reason", reason);
    log_end(line);
    metrics_add(gateway->metrics, METRIC_RESULTS_BAD, reason, 0, 1);
}

static void count_poll(struct flight *flight, enum metric_poll outcome)
{
    metrics_add(gateway_of(flight)->metrics, METRIC_POLLS, outcome, 0, 1);
}

static struct flight_answer *fail_poll(struct flight *flight, struct flight_answer *answer)
{
    flight->record.failure_count++;
    count_poll(flight, METRIC_POLL_FAILED);
    flight_settle_poll(flight, answer, false, true);
    return answer;
}

/* A job's state in the upstream's own shape, where the upstream has no words for it. NULL without
 * memory. */
static struct body *state_body(struct flight *flight, enum job_state state)
{
    char storage[STATE_BODY_BYTES];
    struct builder text;
    struct body *body;

    builder_init(&text, storage, sizeof storage);
    builder_append(&text, VIEW("{\"id\":\""));
    builder_append(&text, flight_job_id(flight));
    builder_append(&text, VIEW("\",\"status\":\""));
    builder_append(&text, view_of_string(job_state_text(state)));
    builder_append(&text, VIEW("\"}"));
    body = body_create(gateway_of(flight)->shared->budget, builder_view(&text).length + 1);
    if (body && !body_append(body, builder_view(&text))) {
        body_unref(body);
        body = NULL;
    }
    builder_clear(&text);
    return body;
}

/* The last known state of a job that upstream doesn't know just now. */
static struct flight_answer *last_known(struct flight *flight, struct flight_answer *answer)
{
    struct flight_answer *known;

    if (flight->good) {
        flight_answer_unref(answer);
        return flight_answer_ref(flight->good);
    }
    known = flight_answer_create();
    if (known) {
        known->body = state_body(flight, flight->record.state);
    }
    if (!known || !known->body) {
        flight_answer_unref(known);
        return answer;
    }
    known->status = 200;
    known->is_json = true;
    known->made_here = true;
    known->received_ms = answer->received_ms;
    flight_answer_unref(answer);
    return known;
}

/* Purged and gone: what upstream would have said of it. */
static bool end_as_cancelled(struct flight *flight)
{
    struct body *body = state_body(flight, JOB_CANCELLED);

    if (!body) {
        return false;
    }
    flight_begin_ending(flight, JOB_CANCELLED, STORE_FATE_KEPT);
    flight_store_result(flight, body);
    return true;
}

/* reliability: 404 within the grace means nothing; behind it three over 30 s are an end. */
static struct flight_answer *judge_missing(struct flight *flight, struct flight_answer *answer)
{
    struct flight_record *record = &flight->record;
    const struct config_endpoint *endpoint =
        config_find_endpoint(gateway_of(flight)->config, flight_endpoint(flight));
    uint64_t now_ms = flight_store_ms(flight);
    bool expired = record->ttl_ms > 0 && now_ms >= record->submitted_ms + record->ttl_ms;

    count_poll(flight, METRIC_POLL_MISSING);
    if (record->state == JOB_LOST) {
        if (now_ms >= record->ended_ms + LOST_POLL_ON_MS) {
            flight_begin_ending(flight, JOB_LOST, STORE_FATE_NONE);
            flight_put_end(flight);
            flight_answer_unref(answer);
            return NULL;
        }
        flight_settle_poll(flight, answer, false, false);
        return last_known(flight, answer);
    }
    /* One from the future: the clock was set back, and its age isn't known. It isn't spared for a
     * day then; should it be a phantom, the polls that follow find it. */
    if (!expired && now_ms >= record->submitted_ms &&
        now_ms < record->submitted_ms + endpoint->phantom_grace_ms) {
        flight_settle_poll(flight, answer, false, false);
        return last_known(flight, answer);
    }
    if (record->missing_count == 0) {
        record->missing_since_ms = now_ms;
    }
    record->missing_count++;
    if (record->purged && end_as_cancelled(flight)) {
        flight_answer_unref(answer);
        return NULL;
    }
    if (expired || (record->missing_count >= MISSING_POLLS &&
                    now_ms >= record->missing_since_ms + MISSING_SPAN_MS)) {
        flight_begin_ending(flight, expired ? JOB_TTL_EXPIRED : JOB_LOST, STORE_FATE_NONE);
        flight->ending.poll_on_ms = expired ? 0 : LOST_POLL_ON_MS;
        flight_put_end(flight);
        flight_answer_unref(answer);
        return NULL;
    }
    flight_settle_poll(flight, answer, false, false);
    return last_known(flight, answer);
}

static struct flight_answer *judge_too_large(struct flight *flight, struct flight_answer *answer)
{
    /* Only an output is ever this long, so it has ended; what its state is stands behind it. */
    flight_begin_ending(flight, JOB_COMPLETED, STORE_FATE_TOO_LARGE);
    flight_put_end(flight);
    flight_answer_unref(answer);
    return NULL;
}

static struct flight_answer *refuse_bad(struct flight *flight, struct flight_answer *answer,
                                        enum metric_bad_result reason)
{
    struct flight_answer *refusal = flight_problem_answer(PROBLEM_UPSTREAM_MISMATCH);

    count_bad(flight, reason);
    (void)fail_poll(flight, answer);
    if (!refusal) {
        return answer;
    }
    flight_answer_unref(answer);
    return refusal;
}

/* After /retry had to submit a job again, upstream knows it by another id: callers never see that
 * one. */
static struct body *exact_bytes(struct flight *flight, struct flight_answer *answer,
                                const struct relay_facts *facts)
{
    struct view bytes = body_view(answer->body);
    struct view own = flight_job_id(flight);
    size_t before;
    struct body *body;

    if (view_equal(facts->id, own)) {
        return body_ref(answer->body);
    }
    before = (size_t)(facts->id.data - bytes.data);
    body = body_create(gateway_of(flight)->shared->budget,
                       bytes.length - facts->id.length + own.length + 1);
    if (body && body_append(body, view_first(bytes, before)) && body_append(body, own) &&
        body_append(body, view_skip(bytes, before + facts->id.length))) {
        return body;
    }
    body_unref(body);
    return NULL;
}

/* Chunks that nobody asks for are gone when upstream forgets the job: they are read in time. */
static void capture_stream(struct flight *flight)
{
    const struct flight_record *record = &flight->record;
    struct gateway *gateway = gateway_of(flight);
    struct store_job job = {
        .endpoint = flight_endpoint(flight),
        .id = flight_job_id(flight),
        .upstream_id = flight->route.job,
        .team = view_make(record->team, record->team_length),
        .kind = record->kind,
        .state = record->state,
        .generation = record->generation,
        .submitted_ms = record->submitted_ms,
    };

    if (record->state == JOB_IN_PROGRESS && gateway->capture_stream &&
        config_find_endpoint(gateway->config, job.endpoint)->capture_stream) {
        gateway->capture_stream(gateway, &job);
    }
}

/* A job that was seen to run stays so when upstream loses sight of it, and isn't taken for a queued
 * one by a purge: the ledger is told though nobody claimed the poll. Where podgates share a store
 * the one that has the lease tells it. */
static void note_state(struct flight *flight, enum job_state state)
{
    bool is_news = flight->record.state != state;

    flight->record.state = state;
    if (is_news && !flight->polling && !store_is_shared(gateway_of(flight)->shared->store)) {
        flight->poll_claimed = true;
    }
}

static struct flight_answer *judge_good(struct flight *flight, struct flight_answer *answer)
{
    struct flight_record *record = &flight->record;
    struct relay_facts facts;
    enum job_state state;
    struct body *exact;

    if (!relay_read_facts(body_view(answer->body), &facts)) {
        return fail_poll(flight, answer); /* not reached: it was found to be JSON */
    }
    if (facts.twice) {
        return refuse_bad(flight, answer, METRIC_BAD_TWICE);
    }
    if (!view_equal(facts.id, flight->route.job)) {
        return refuse_bad(flight, answer, METRIC_BAD_OTHER_ID);
    }
    if (!job_state_parse(facts.status, &state)) {
        /* A word that isn't known is never an end; callers may know more than podgate. */
        count_bad(flight, METRIC_BAD_NO_STATUS);
        return fail_poll(flight, answer);
    }
    record->failure_count = 0;
    record->missing_count = 0;
    record->missing_since_ms = 0;
    if (!job_state_is_terminal(state)) {
        note_state(flight, state == JOB_RUNNING ? JOB_IN_PROGRESS : state);
        count_poll(flight, METRIC_POLL_PENDING);
        flight_settle_poll(flight, answer, false, false);
        capture_stream(flight);
        if (view_equal(facts.id, flight_job_id(flight))) {
            return answer;
        }
        exact = exact_bytes(flight, answer, &facts);
        if (exact) {
            body_unref(answer->body);
            answer->body = exact;
        }
        return answer;
    }
    exact = exact_bytes(flight, answer, &facts);
    if (!exact) {
        return fail_poll(flight, answer);
    }
    flight_begin_ending(flight, state, STORE_FATE_KEPT);
    flight->ending.answer = answer; /* its reference moves here */
    flight->ending.execution_ms = facts.execution_ms;
    flight->ending.delay_ms = facts.delay_ms;
    flight_store_result(flight, exact);
    return NULL;
}

/* ---- jobs from before podgate ---------------------------------------------------------------- */

/* By the upstream's own habit in naming them. */
static enum store_kind kind_of(const struct flight *flight)
{
    return view_starts_with(flight_job_id(flight), VIEW("sync-")) ? STORE_KIND_RUNSYNC
                                                                  : STORE_KIND_RUN;
}

static void on_adopted(void *argument, const struct store_reply *reply)
{
    struct flight *flight = argument;
    struct flight_answer *answer = flight->adopted;

    flight->write_call = NULL;
    flight->adopting = false;
    flight->adopted = NULL;
    if (reply->result == STORE_OK) {
        struct store_job job = {
            .endpoint = flight_endpoint(flight),
            .id = flight_job_id(flight),
            .team = view_make(flight->adopter_team, flight->adopter_team_length),
            .kind = kind_of(flight),
            .state = JOB_IN_QUEUE,
            .generation = 1,
            .submitted_ms = reply->now_ms,
        };

        if (gateway_of(flight)->shared->collector) {
            collector_note_job(gateway_of(flight)->shared->collector, job.endpoint, 0);
        }
        flight_take_record(flight, &job, reply->now_ms);
        flight_take_answer(flight, answer);
        return;
    }
    /* It is another's, or the store is away: what the store says counts. */
    flight_answer_unref(answer);
    flight->record.known = RECORD_NONE;
    flight_proceed(flight, VIEW(""));
}

static struct flight_answer *judge_adoption(struct flight *flight, struct flight_answer *answer)
{
    struct gateway *gateway = gateway_of(flight);
    bool is_runsync = kind_of(flight) == STORE_KIND_RUNSYNC;
    struct store_question question = {
        .operation = STORE_ADOPT_JOB,
        .endpoint = flight_endpoint(flight),
        .job = flight_job_id(flight),
        .team = view_make(flight->adopter_team, flight->adopter_team_length),
        .key = view_make(flight->adopter_key, flight->adopter_key_length),
        .kind = kind_of(flight),
        .state = JOB_IN_QUEUE,
        .deadline_ms = is_runsync ? gateway->config->upstream.retention_runsync_ms
                                  : gateway->config->upstream.retention_run_ms,
    };
    struct relay_facts facts;

    flight->adopting = false;
    if (answer->status == 404) {
        flight_answer_unref(answer);
        return flight->nobody ? flight_answer_ref(flight->nobody) : NULL;
    }
    if (flight_answer_is_failure(answer) || answer->status != 200) {
        return answer;
    }
    if (!relay_read_facts(body_view(answer->body), &facts) || facts.twice ||
        !view_equal(facts.id, flight_job_id(flight))) {
        flight_answer_unref(answer);
        return flight_problem_answer(PROBLEM_UPSTREAM_MISMATCH);
    }
    flight->write_call = store_ask(gateway->store, &question, on_adopted, flight);
    if (!flight->write_call) {
        flight_answer_unref(answer);
        return flight_problem_answer(PROBLEM_OVERLOADED);
    }
    flight->adopting = true;
    flight->adopted = answer;
    return NULL;
}

struct flight_answer *flight_judge_answer(struct flight *flight, struct flight_answer *answer)
{
    if (!flight->is_job) {
        return answer;
    }
    if (flight->adopting) {
        return judge_adoption(flight, answer);
    }
    if (flight->record.known != RECORD_HERE) {
        /* The job changed meanwhile: it is looked at anew. */
        flight_answer_unref(answer);
        return NULL;
    }
    if (flight->has_ending ||
        (job_state_is_terminal(flight->record.state) && flight->record.state != JOB_LOST)) {
        flight_settle_poll(flight, answer, true, false);
        flight_answer_unref(answer);
        return NULL;
    }
    if (answer->too_large) {
        return judge_too_large(flight, answer);
    }
    if (flight_answer_is_failure(answer)) {
        if (!answer->failed && !answer->refused && !answer->is_json) {
            count_bad(flight, METRIC_BAD_NOT_JSON);
        } else if (answer->failed && answer->failure == UPSTREAM_INCOMPLETE) {
            count_bad(flight, METRIC_BAD_CUT);
        } else if (answer->failed && answer->failure == UPSTREAM_ENCODED) {
            count_bad(flight, METRIC_BAD_ENCODED);
        }
        return fail_poll(flight, answer);
    }
    if (answer->status == 404) {
        return judge_missing(flight, answer);
    }
    if (answer->status != 200) {
        return fail_poll(flight, answer);
    }
    return judge_good(flight, answer);
}
