#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "gateway/collector.h"
#include "gateway/job_facts.h"
#include "gateway/ledger_private.h"
#include "model/metric_catalogue.h"
#include "store/hot_cache.h"
#include "store/input_vault.h"
#include "store/result_codec.h"

/* What upstream said to a submit, on its way into the ledger. Only a 200 with an id waits for the
 * store: the caller learns of the other outcomes at once, and they are written behind his back,
 * since a second request with the same key waits for them anyway. */

/* Where there is no collector to say when to look at a job. */
enum { FIRST_POLL_MS = 1000 };

static void add_note(struct request *request, enum request_note note, struct view line)
{
    request->notes |= note;
    if (request_has_caller(request)) {
        builder_append(&request->reply, line); /* the head has been begun already */
    }
}

static void count(const struct request *request, enum metric_submit outcome)
{
    metrics_add(request->gateway->metrics, METRIC_SUBMITS, outcome, 0, 1);
}

static void log_submit(const struct request *request, enum log_level level, const char *event,
                       const char *reason)
{
    const struct submission *submission = request->submission;
    struct log_line *line = log_begin(request->gateway->log, level, event);

    log_text(line, "request_id", request->id);
    log_word(line, "submit", view_make(submission->id, sizeof submission->id));
    log_text(line, "team", ledger_text_view(&submission->team));
    log_text(line, "operation", route_operation_name(request->route.operation));
    log_text(line, "endpoint", ledger_text_view(&submission->endpoint));
    if (submission->job.length > 0) {
        log_text(line, "job", ledger_text_view(&submission->job));
    }
    log_string(line, "reason", reason);
    log_end(line);
}

/* ---- outcomes that nobody waits for ---------------------------------------------------------- */

static void settle_behind(struct request *request, enum store_submit_state state, const char *note)
{
    struct submission *submission = request->submission;

    submission->state = state;
    submission->note = note;
    submission->over = true;
    request->submission = NULL;
    ledger_write_late(request->gateway, submission);
}

static void settle_refused(struct request *request)
{
    count(request, METRIC_SUBMIT_REFUSED);
    settle_behind(request, STORE_SUBMIT_REFUSED, "upstream refused it");
}

static void settle_unknown(struct request *request, const char *note)
{
    log_submit(request, LOG_LEVEL_WARNING, "submit_unknown", note);
    metrics_add(request->gateway->metrics, METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN, 0, 1);
    count(request, METRIC_SUBMIT_UNKNOWN);
    settle_behind(request, STORE_SUBMIT_UNKNOWN, note);
}

/* ---- the question ---------------------------------------------------------------------------- */

static void fill_result(const struct submission *submission, struct store_question *question)
{
    question->fate = submission->fate;
    question->keep_ms = submission->keep_ms;
    question->execution_ms = submission->execution_ms;
    question->delay_ms = submission->delay_ms;
    question->result = submission->result;
    question->encoding = submission->encoding;
    question->result_bytes = submission->result_bytes;
    memcpy(question->digest, submission->result_digest, sizeof question->digest);
}

struct store_question ledger_settle_question(const struct submission *submission,
                                             const struct gateway *gateway)
{
    struct store_question question = {
        .operation = STORE_SETTLE_SUBMIT,
        .submit = ledger_submit(submission, gateway),
        .fence = submission->fence,
        .note = view_of_string(submission->note),
    };

    if (submission->state != STORE_SUBMIT_KNOWN) {
        return question;
    }
    question.state = submission->job_state;
    question.kind = submission->kind;
    question.ttl_ms = submission->ttl_ms;
    question.due_ms = submission->due_ms;
    question.deadline_ms = submission->deadline_ms;
    question.generation = submission->generation;
    question.upstream_id = ledger_text_view(&submission->upstream_id);
    question.execution_ms = UINT64_MAX;
    question.delay_ms = UINT64_MAX;
    question.answer = submission->answer;
    question.answer_status = submission->answer ? 200 : 0;
    question.input = submission->input;
    question.input_encoding = submission->input_encoding;
    question.input_bytes = submission->input_bytes;
    question.has_dedupe = submission->has_input;
    memcpy(question.dedupe_digest, submission->input_digest, sizeof question.dedupe_digest);
    if (submission->has_result) {
        fill_result(submission, &question);
    }
    return question;
}

bool ledger_owns_already(const struct submission *submission, const struct store_reply *reply)
{
    /* The store tells a settle that it has had before from another's job; a backend that had to
     * forget the submit can't, so a job of the same key that came of a repeated write counts. */
    return submission->attempts > 0 &&
           view_equal(reply->job.team, ledger_text_view(&submission->team)) &&
           view_equal(reply->job.key, ledger_text_view(&submission->key));
}

/* ---- once it is durable ---------------------------------------------------------------------- */

static void put_into_memory(const struct submission *submission, struct gateway *gateway,
                            uint64_t now_ms)
{
    struct hot_cache *cache = gateway->shared->hot_cache;
    struct store_job job = {
        .endpoint = ledger_text_view(&submission->endpoint),
        .id = ledger_text_view(&submission->job),
        .team = ledger_text_view(&submission->team),
        .key = ledger_text_view(&submission->key),
        .kind = submission->kind,
        .state = submission->job_state,
        .fate = submission->fate,
        .generation = 1,
        .submitted_ms = now_ms,
        .ended_ms = now_ms,
        .expires_ms = now_ms + submission->keep_ms,
        .execution_ms = submission->execution_ms,
        .delay_ms = submission->delay_ms,
        .result_bytes = submission->result_bytes,
        .encoding = submission->encoding,
    };
    struct hot_result *result;

    memcpy(job.digest, submission->result_digest, sizeof job.digest);
    result = cache && submission->result ? hot_result_create(&job, submission->result) : NULL;
    if (result) {
        result->completed_without_output = submission->completed_without_output;
        hot_cache_put(cache, result);
        hot_result_unref(result);
    }
}

void ledger_follow_up(const struct submission *submission, struct gateway *gateway, uint64_t now_ms)
{
    struct view endpoint = ledger_text_view(&submission->endpoint);

    if (submission->has_result) {
        struct job_end end = {
            .team = ledger_text_view(&submission->team),
            .endpoint = endpoint,
            .job = ledger_text_view(&submission->job),
            .state = submission->job_state,
            .fate = submission->fate,
            .execution_ms = submission->execution_ms,
        };

        job_facts_tell_end(gateway, &end);
        put_into_memory(submission, gateway, now_ms);
    } else if (gateway->shared->collector) {
        collector_note_job(gateway->shared->collector, endpoint, submission->due_ms);
    }
}

/* Upstream has the job and the ledger doesn't. A 5xx would make the caller pay twice, so he gets
 * his answer, and podgate goes on trying. */
static void answer_unrecorded(struct request *request, const char *reason)
{
    struct submission *submission = request->submission;

    log_submit(request, LOG_LEVEL_ERROR, "submit_not_recorded", reason);
    count(request, METRIC_SUBMIT_NOT_RECORDED);
    add_note(request, REQUEST_NOT_RECORDED, VIEW("Podgate-Warning: not-recorded\r\n"));
    submission->attempts = 1;
    request->submission = NULL;
    ledger_write_late(request->gateway, submission);
    relay_continue(request);
}

/* Upstream gave a new job the id of one that is there: whose job the id names can't be told. */
static void refuse_mismatch(struct request *request)
{
    log_submit(request, LOG_LEVEL_ERROR, "submit_mismatch", "the id is in the ledger already");
    metrics_add(request->gateway->metrics, METRIC_WARNINGS, METRIC_WARNING_SUBMIT_MISMATCH, 0, 1);
    count(request, METRIC_SUBMIT_UNKNOWN);
    request_refuse(request, PROBLEM_UPSTREAM_MISMATCH, 0);
}

static void on_settled(struct request *request, const struct store_reply *reply)
{
    struct submission *submission = request->submission;

    if (store_failed(reply->result) || FAULT_POINT("submit.known")) {
        answer_unrecorded(request, store_result_text(reply->result));
        return;
    }
    if (reply->result == STORE_OWNED && !ledger_owns_already(submission, reply)) {
        refuse_mismatch(request);
        return;
    }
    if (reply->result != STORE_OK) {
        /* A retry whose job was retried once more, or went, meanwhile: upstream took this one too.
         */
        log_submit(request, LOG_LEVEL_WARNING, "submit_settled_late",
                   store_result_text(reply->result));
    }
    if (reply->spooled && !(request->notes & REQUEST_STORE_DEGRADED)) {
        add_note(request, REQUEST_STORE_DEGRADED, VIEW("Podgate-Degraded: store\r\n"));
    }
    count(request, METRIC_SUBMIT_KNOWN);
    ledger_follow_up(submission, request->gateway, reply->now_ms);
    submission->operation->recorded(request);
}

static void settle(struct request *request)
{
    struct store_question question = ledger_settle_question(request->submission, request->gateway);

    if (FAULT_POINT("submit.answered") || !request_ask_store(request, &question, on_settled)) {
        answer_unrecorded(request, "no_memory");
    }
}

/* ---- what is kept with it: the input, and the result of a /runsync that has ended ------------ */

/* Names a request to the codec, which can't be told to forget it. */
struct encoding {
    struct gateway *gateway;
    struct request_handle handle;
    void (*take)(struct request *request, struct body *encoded); /* takes the reference over */
};

static void on_encoded(void *argument, struct body *encoded)
{
    struct encoding *encoding = argument;
    struct request *request = request_find(encoding->gateway, encoding->handle);

    if (request && request->work == WORK_RECORDING) {
        encoding->take(request, encoded);
    } else {
        body_unref(encoded);
    }
    free(encoding);
}

/* Compresses and goes on with `take`, now or later; with NULL where that is no gain. */
static void compress(struct request *request, struct body *exact,
                     void (*take)(struct request *request, struct body *encoded))
{
    struct gateway *gateway = request->gateway;
    struct view bytes = body_view(exact);
    struct encoding *encoding;

    if (bytes.length <= RESULT_COMPRESS_ABOVE_BYTES) {
        take(request, NULL);
        return;
    }
    if (bytes.length <= RESULT_INLINE_BYTES || !gateway->shared->codec) {
        take(request, result_codec_now(RESULT_IDENTITY_TO_ZSTD, bytes, bytes.length,
                                       gateway->shared->budget));
        return;
    }
    encoding = malloc(sizeof *encoding);
    if (encoding) {
        *encoding = (struct encoding){gateway, request->handle, take};
    }
    if (!encoding ||
        !result_codec_start(gateway->shared->codec, gateway->loop, exact, RESULT_IDENTITY_TO_ZSTD,
                            bytes.length, on_encoded, encoding)) {
        free(encoding);
        take(request, NULL);
    }
}

static void take_encoded_result(struct request *request, struct body *encoded)
{
    struct submission *submission = request->submission;

    submission->encoding = encoded ? STORE_ENCODING_ZSTD : STORE_ENCODING_IDENTITY;
    submission->result = encoded ? encoded : body_ref(request->answer);
    settle(request);
}

static void settle_with_result(struct request *request)
{
    if (request->submission->has_result && request->submission->fate == STORE_FATE_KEPT) {
        compress(request, request->answer, take_encoded_result);
    } else {
        settle(request);
    }
}

/* Bound to its job's id, so that it can't be sealed before upstream gave one. */
static void take_encoded_input(struct request *request, struct body *encoded)
{
    struct submission *submission = request->submission;
    struct gateway_shared *shared = request->gateway->shared;

    submission->input_encoding = encoded ? STORE_ENCODING_ZSTD : STORE_ENCODING_IDENTITY;
    submission->input_bytes = body_view(request->body).length;
    submission->input = input_vault_seal(
        shared->input_vault, ledger_text_view(&submission->endpoint),
        ledger_text_view(&submission->job), body_view(encoded ? encoded : request->body),
        shared->budget, &submission->input_encoding);
    body_unref(encoded);
    if (!submission->input) {
        log_submit(request, LOG_LEVEL_WARNING, "input_not_kept", "no memory");
        submission->input_bytes = 0;
    }
    settle_with_result(request);
}

static bool keeps_input(const struct request *request)
{
    return request->gateway->shared->input_vault && request->body &&
           request->submission->operation->operation != STORE_SUBMIT_RETRY &&
           config_find_endpoint(request->config, request->route.endpoint)->keep_input;
}

static void take_result(struct request *request, const struct relay_facts *facts)
{
    struct submission *submission = request->submission;
    const struct config_endpoint *endpoint =
        config_find_endpoint(request->config, request->route.endpoint);
    struct view bytes = body_view(request->answer);

    submission->execution_ms = facts->execution_ms;
    submission->delay_ms = facts->delay_ms;
    submission->keep_ms = config_endpoint_keep_ms(endpoint, submission->job_state);
    submission->result_bytes = bytes.length;
    submission->completed_without_output =
        submission->job_state == JOB_COMPLETED && !facts->has_output;
    submission->fate =
        bytes.length <= endpoint->max_result_bytes ? STORE_FATE_KEPT : STORE_FATE_TOO_LARGE;
    submission->has_result =
        ledger_digest(request->gateway->ledger, &bytes, 1, submission->result_digest);
}

/* ---- what upstream said ---------------------------------------------------------------------- */

static void plan_polls(struct request *request)
{
    struct submission *submission = request->submission;
    struct collector *collector = request->gateway->shared->collector;
    const struct config_upstream *upstream = &request->config->upstream;

    submission->due_ms = FIRST_POLL_MS;
    submission->deadline_ms = submission->kind == STORE_KIND_RUNSYNC
                                  ? upstream->retention_runsync_ms
                                  : upstream->retention_run_ms;
    if (collector) {
        struct collector_next next = collector_plan(collector, request->route.endpoint,
                                                    submission->kind, submission->job_state, 0, 0);

        submission->due_ms = next.due_ms;
        submission->deadline_ms = next.deadline_ms;
    }
}

static void note_job(struct request *request, struct view id)
{
    id = view_first(id, sizeof request->job_text);
    memcpy(request->job_text, id.data, id.length);
    request->job_length = id.length;
}

/* A retry keeps the job's id; upstream's own may be another by now. */
static void take_id(struct submission *submission, struct view id)
{
    if (submission->operation->operation != STORE_SUBMIT_RETRY) {
        ledger_text_set(&submission->job, id);
    } else if (!view_equal(id, ledger_text_view(&submission->upstream_id)) &&
               !view_equal(id, ledger_text_view(&submission->job))) {
        ledger_text_set(&submission->upstream_id, id);
    }
}

static void settle_known(struct request *request, enum relay_end end,
                         const struct relay_facts *facts)
{
    struct submission *submission = request->submission;
    bool has_state = job_state_parse(facts->status, &submission->job_state);

    submission->state = STORE_SUBMIT_KNOWN;
    submission->over = true;
    take_id(submission, facts->id);
    note_job(request, ledger_text_view(&submission->job));
    if (!has_state || submission->operation->operation == STORE_SUBMIT_RETRY) {
        submission->job_state = JOB_IN_QUEUE;
    }
    if (end == RELAY_ANSWERED && job_state_is_terminal(submission->job_state)) {
        take_result(request, facts);
    }
    if (!submission->has_result && job_state_is_terminal(submission->job_state)) {
        submission->job_state = JOB_IN_PROGRESS; /* the collector fetches what can't be kept now */
    }
    plan_polls(request);
    if (submission->keyed_by_caller && submission->operation->operation != STORE_SUBMIT_RUNSYNC) {
        submission->answer = body_ref(request->answer);
    }
    request_move_work(request, WORK_RECORDING);
    if (keeps_input(request)) {
        compress(request, request->body, take_encoded_input);
    } else {
        settle_with_result(request);
    }
}

/* An answer in which the id stands twice names two jobs. */
static void refuse_ambiguous(struct request *request)
{
    metrics_add(request->gateway->metrics, METRIC_RESULTS_BAD, METRIC_BAD_TWICE, 0, 1);
    settle_unknown(request, "the answer names a job twice");
    request_refuse(request, PROBLEM_SUBMIT_UNKNOWN, 0);
}

static bool was_refused(unsigned status)
{
    return status >= 400 && status < 500 && status != 408;
}

static bool record_answer(struct request *request, const struct relay_facts *facts)
{
    unsigned status = request->upstream_status;
    bool success = status >= 200 && status < 300;

    if (success && facts->twice) {
        refuse_ambiguous(request);
        return true;
    }
    if (success && route_job_valid(facts->id)) {
        settle_known(request, RELAY_ANSWERED, facts);
        return true;
    }
    if (was_refused(status) || (success && facts->has_error)) {
        settle_refused(request);
    } else {
        settle_unknown(request, success ? "the answer has no id" : "upstream answered an error");
    }
    return false;
}

bool ledger_record(struct request *request, enum relay_end end, const struct relay_facts *facts)
{
    if (!request->submission) {
        return false;
    }
    switch (end) {
    case RELAY_ANSWERED: return record_answer(request, facts);
    case RELAY_CUT:
    case RELAY_LONG: settle_known(request, end, facts); return true;
    case RELAY_REFUSED:
        if (was_refused(request->upstream_status)) {
            settle_refused(request);
        } else {
            settle_unknown(request, "the answer is of no use");
        }
        return false;
    case RELAY_FAILED:
        settle_unknown(request, request->reason ? request->reason : "no answer");
        return false;
    case RELAY_UNSENT:
        count(request, METRIC_SUBMIT_REFUSED);
        ledger_give_up(request, "it was not sent");
        return false;
    }
    return false;
}
