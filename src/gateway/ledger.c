#include "build_config.h"

#include "gateway/ledger.h"

#include <event2/event.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/fault.h"
#include "gateway/collector.h"
#include "gateway/ledger_private.h"
#include "model/metric_catalogue.h"

/* A submit until its first byte goes up: opened, claimed, marked as sent. What upstream says to it
 * stands in ledger_settle.c.
 *
 * Equal inputs that are to be one job are claimed under a key made of the input, which no caller
 * can name since it has a space in it. The key holds for a day, longer than a failed job serves
 * anybody: the next submit of that input then goes under the same key with that job's id behind it.
 */

enum {
    /* How long the first request of a key is waited for, and how often the store is asked. */
    WAIT_MS = 2000,
    WAIT_TURN_MS = 100,
    /* The first request of an input is waited for as long as upstream may take. */
    INPUT_WAIT_TURN_MS = 250,
    /* So many failed jobs of one input in a day are looked through; then it isn't deduplicated. */
    INPUT_JOBS_MAXIMUM = 16,
};

/* ---- parts ----------------------------------------------------------------------------------- */

void ledger_text_set(struct ledger_text *text, struct view value)
{
    value = view_first(value, sizeof text->bytes);
    if (value.length > 0) {
        memcpy(text->bytes, value.data, value.length);
    }
    text->length = value.length;
}

struct view ledger_text_view(const struct ledger_text *text)
{
    return view_make(text->bytes, text->length);
}

bool ledger_digest(struct ledger *ledger, const struct view *parts, size_t count,
                   unsigned char digest[STORE_DIGEST_BYTES])
{
    bool done = EVP_DigestInit_ex2(ledger->digest_context, ledger->sha256, NULL) == 1;

    for (size_t i = 0; done && i < count; i++) {
        done = EVP_DigestUpdate(ledger->digest_context, parts[i].data, parts[i].length) == 1;
    }
    return done && EVP_DigestFinal_ex(ledger->digest_context, digest, NULL) == 1;
}

struct store_submit ledger_submit(const struct submission *submission,
                                  const struct gateway *gateway)
{
    struct store_submit submit = {
        .id = view_make(submission->id, sizeof submission->id),
        .team = ledger_text_view(&submission->team),
        .key = ledger_text_view(&submission->key),
        .endpoint = ledger_text_view(&submission->endpoint),
        .job = ledger_text_view(&submission->job),
        .idempotency_key = view_make(submission->idempotency, submission->idempotency_length),
        .instance = store_instance(gateway->shared->store),
        .operation = submission->noted_as,
        .state = submission->state,
    };

    memcpy(submit.digest, submission->digest, sizeof submit.digest);
    return submit;
}

void submission_free(struct submission *submission)
{
    if (submission) {
        body_unref(submission->answer);
        body_unref(submission->input);
        body_unref(submission->result);
        free(submission);
    }
}

void ledger_release(struct request *request)
{
    submission_free(request->submission);
    request->submission = NULL;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void refuse_for_store(struct request *request)
{
    request->notes |= REQUEST_STORE_DEGRADED;
    request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
}

/* Whether a submit may go up at all now; the caller is told when not. */
static bool store_takes(struct request *request)
{
    switch (store_state(request->gateway->shared->store)) {
    case STORE_STATE_READY: return true;
    case STORE_STATE_SPOOLING:
        request->notes |= REQUEST_STORE_DEGRADED;
        if (!http_head_has(&request->inbound.head.head, HTTP_FIELD_IDEMPOTENCY_KEY)) {
            return true;
        }
        break; /* only the shared store sees the keys that other instances were given */
    case STORE_STATE_AWAY:
    case STORE_STATE_FULL: break;
    }
    refuse_for_store(request);
    return false;
}

static bool has_capacity(struct request *request, enum store_kind kind)
{
    struct collector *collector = request->gateway->shared->collector;

    if (!collector || collector_has_capacity(collector, request->route.endpoint, kind)) {
        return true;
    }
    request_refuse(request, PROBLEM_CAPACITY, 1);
    return false;
}

static bool name_submit(struct submission *submission)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char bytes[STORE_SUBMIT_ID_BYTES / 2];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        return false;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        submission->id[2 * i] = hex[bytes[i] >> 4];
        submission->id[2 * i + 1] = hex[bytes[i] & 15];
    }
    return true;
}

/* What makes two requests the same one: job, query as understood, body. */
static bool digest_request(const struct request *request, struct submission *submission)
{
    const struct route *route = &request->route;
    char storage[2 * ROUTE_JOB_MAXIMUM];
    struct builder query;
    bool done;

    builder_init(&query, storage, sizeof storage);
    builder_append(&query, route->job);
    builder_append_byte(&query, '?');
    if (route->has_wait) {
        builder_append(&query, VIEW("wait="));
        builder_append_u64(&query, route->wait_ms);
    }
    if (route->has_ttl) {
        builder_append(&query, VIEW("&ttl="));
        builder_append_u64(&query, route->ttl_ms);
    }
    builder_append_byte(&query, '\n');
    done = !builder_failed(&query) &&
           ledger_digest(request->gateway->ledger,
                         (struct view[]){builder_view(&query), body_view(request->body)}, 2,
                         submission->digest);
    builder_clear(&query);
    return done;
}

/* The key of an input; `after`: the job that came of it before and serves nobody any more. */
static void set_input_key(struct submission *submission, struct view after)
{
    struct builder key;

    builder_init(&key, submission->idempotency, sizeof submission->idempotency);
    builder_append(&key, VIEW("input "));
    builder_append_hex_bytes(&key, submission->input_digest, sizeof submission->input_digest);
    if (after.length > 0) {
        builder_append_byte(&key, ' ');
        builder_append(&key, view_first(after, ROUTE_JOB_MAXIMUM));
    }
    submission->idempotency_length = builder_view(&key).length;
}

static bool fill_keys(struct request *request, struct submission *submission, struct view input)
{
    const struct http_head *head = &request->inbound.head.head;
    struct view field = http_head_value(head, HTTP_FIELD_IDEMPOTENCY_KEY);

    if (http_head_has(head, HTTP_FIELD_IDEMPOTENCY_KEY)) {
        submission->keyed_by_caller = true;
        submission->accepts_duplicate = idempotency_accepts_duplicate(head);
        if (!idempotency_key_read(field, submission->idempotency,
                                  &submission->idempotency_length)) {
            return false;
        }
    }
    if (input.length > 0) {
        submission->has_input = true;
        if (!ledger_digest(request->gateway->ledger, &input, 1, submission->input_digest)) {
            return false;
        }
    }
    if (submission->has_input && !submission->keyed_by_caller &&
        !(request->notes & REQUEST_STORE_DEGRADED)) {
        /* /run and /runsync of the same input are one submit, so that they claim under one name. A
         * caller who named no key asked for no memory of what nobody knows. */
        submission->keyed_by_input = true;
        submission->noted_as = STORE_SUBMIT_RUN;
        submission->accepts_duplicate = true;
        memcpy(submission->digest, submission->input_digest, sizeof submission->digest);
        set_input_key(submission, view_make(NULL, 0));
    }
    return true;
}

static bool fill(struct request *request, struct submission *submission,
                 const struct ledger_entry *entry)
{
    submission->operation = entry->operation;
    submission->noted_as = entry->operation->operation;
    submission->kind = entry->kind;
    submission->sent_wait_ms = entry->sent_wait_ms;
    submission->ttl_ms = entry->ttl_ms > 0 ? entry->ttl_ms : (uint64_t)LEDGER_DEFAULT_TTL_MS;
    submission->execution_ms = UINT64_MAX;
    submission->delay_ms = UINT64_MAX;
    ledger_text_set(&submission->team, request->ticket.key->team->name);
    ledger_text_set(&submission->key, request->ticket.key->id);
    ledger_text_set(&submission->endpoint, request->route.endpoint);
    ledger_text_set(&submission->job, entry->job);
    return name_submit(submission) && digest_request(request, submission) &&
           fill_keys(request, submission, entry->input);
}

bool ledger_open(struct request *request, const struct ledger_entry *entry)
{
    struct submission *submission;

    if (!store_takes(request) || !has_capacity(request, entry->kind)) {
        return false;
    }
    submission = calloc(1, sizeof *submission);
    if (!submission || !fill(request, submission, entry)) {
        submission_free(submission);
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return false;
    }
    request->submission = submission;
    return true;
}

/* ---- giving up before it is sent ------------------------------------------------------------- */

void ledger_give_up(struct request *request, const char *why)
{
    struct submission *submission = request->submission;

    if (!submission || submission->over) {
        return;
    }
    submission->over = true;
    if (submission->claimed || submission->marked) {
        submission->state = STORE_SUBMIT_REFUSED;
        submission->note = why;
        request->submission = NULL;
        ledger_write_late(request->gateway, submission);
    }
}

/* ---- marking --------------------------------------------------------------------------------- */

static void on_marked(struct request *request, const struct store_reply *reply)
{
    struct submission *submission = request->submission;

    if (reply->result == STORE_CONFLICT) {
        submission->claimed = false; /* it lapsed, and may be another's by now */
        request_refuse(request, PROBLEM_IDEMPOTENCY_IN_FLIGHT, 1);
        return;
    }
    submission->marked = reply->result == STORE_OK || reply->result == STORE_TIMED_OUT;
    if (reply->result != STORE_OK || FAULT_POINT("submit.sent")) {
        ledger_give_up(request, "the store did not take the mark");
        refuse_for_store(request);
        return;
    }
    if (reply->spooled) {
        request->notes |= REQUEST_STORE_DEGRADED;
    }
    submission->operation->send(request);
}

/* Nobody will settle it any more after so long: every deadline that the exchange can have. */
static uint64_t unsettled_after_ms(const struct request *request)
{
    const struct config_upstream *upstream = &request->config->upstream;

    return upstream->waiting_timeout_ms + 2 * upstream->connect_timeout_ms +
           request->submission->sent_wait_ms + LEDGER_UNSETTLED_MARGIN_MS;
}

void ledger_mark_sent(struct request *request)
{
    struct submission *submission = request->submission;
    struct store_question question = {
        .operation = STORE_MARK_SENT,
        .fence = submission->fence,
        .until_ms = unsettled_after_ms(request),
    };

    submission->state = STORE_SUBMIT_SENT;
    question.submit = ledger_submit(submission, request->gateway);
    if (!request_ask_store(request, &question, on_marked)) {
        ledger_give_up(request, "out of memory");
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

static void go_on_claimed(struct request *request)
{
    if (FAULT_POINT("submit.intent")) {
        ledger_give_up(request, "fault point");
        refuse_for_store(request);
        return;
    }
    if (request->submission->operation->claimed) {
        request->submission->operation->claimed(request);
    } else {
        ledger_mark_sent(request);
    }
}

/* ---- claiming -------------------------------------------------------------------------------- */

static void claim(struct request *request);
static void find_duplicate(struct request *request, request_on_store *then);

static void on_wait_over(evutil_socket_t descriptor, short what, void *argument)
{
    struct request *request = argument;

    (void)descriptor;
    (void)what;
    if (request->work != WORK_IN_STORE) {
        return;
    }
    if (request_has_caller(request)) {
        claim(request);
    } else {
        request_move_work(request, WORK_DONE); /* it would have sent nothing of its own */
    }
}

static void wait_for_first(struct request *request)
{
    struct submission *submission = request->submission;
    bool by_input = submission->keyed_by_input;
    unsigned turn_ms = by_input ? INPUT_WAIT_TURN_MS : WAIT_TURN_MS;
    struct timeval turn = {0, (suseconds_t)turn_ms * 1000};
    uint64_t now_ms = clock_mono_ms();

    if (submission->give_up_ms == 0) {
        submission->give_up_ms = now_ms + (by_input ? submission->sent_wait_ms : (uint64_t)WAIT_MS);
    }
    if (now_ms >= submission->give_up_ms) {
        request_refuse_because(
            request, PROBLEM_IDEMPOTENCY_IN_FLIGHT,
            by_input ? VIEW("The same input is being submitted right now.") : VIEW(""), 1);
        return;
    }
    if (!request->delay_event) {
        request->delay_event =
            event_new(loop_base(request->gateway->loop), -1, 0, on_wait_over, request);
    }
    if (!request->delay_event || event_add(request->delay_event, &turn) != 0) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

/* Says of an unknown submit what is known: enough to find it in `podgatectl unknown`. */
static void refuse_unknown(struct request *request, const struct store_submit *submit)
{
    char storage[256];
    char when[CLOCK_RFC3339_LENGTH];
    struct builder text;

    clock_format_rfc3339(submit->sent_ms, when);
    builder_init(&text, storage, sizeof storage);
    builder_append(&text, VIEW("The request with this key (submit "));
    builder_append(&text, submit->id);
    builder_append(&text, VIEW(") was sent at "));
    builder_append(&text, view_make(when, sizeof when));
    builder_append(&text, VIEW(" and its outcome is unknown: the job may or may not have been "
                               "accepted. It is not sent again."));
    request_refuse_because(request, PROBLEM_SUBMIT_UNKNOWN, builder_view(&text), 0);
    builder_clear(&text);
}

static void answer_replay(struct request *request, const struct store_reply *reply)
{
    request->notes |= REQUEST_REPLAYED;
    request->cache = "replay";
    metrics_add(request->gateway->metrics, METRIC_SUBMITS, METRIC_SUBMIT_REPLAYED, 0, 1);
    if (!reply->body || reply->submit.answer_status == 0) {
        request->submission->operation->join(request, reply->submit.job, view_make(NULL, 0));
        return;
    }
    if (request_has_caller(request)) {
        request->origin = "gateway";
        request_begin_reply(request, reply->submit.answer_status);
        builder_append(&request->reply, VIEW("Content-Type: application/json\r\n"));
        request_send_reply(request, body_view(reply->body), reply->body);
    }
    request_move_work(request, WORK_DONE);
}

static void join_duplicate(struct request *request, const struct store_job *job)
{
    request->cache = "hit";
    metrics_add(request->gateway->metrics, METRIC_SUBMITS, METRIC_SUBMIT_DEDUPLICATED, 0, 1);
    request->submission->operation->join(request, job->id,
                                         view_of_string(job_state_text(job->state)));
}

/* The input's first request has become a job; unless that serves, the input goes up once more. */
static void on_duplicate_of_replay(struct request *request, const struct store_reply *reply)
{
    struct submission *submission = request->submission;

    if (reply->result == STORE_OK) {
        join_duplicate(request, &reply->job);
    } else if (reply->result == STORE_ABSENT && ++submission->earlier > INPUT_JOBS_MAXIMUM) {
        submission->keyed_by_input = false;
        submission->idempotency_length = 0;
        submission->job.length = 0;
        go_on_claimed(request);
    } else if (reply->result == STORE_ABSENT) {
        set_input_key(submission, ledger_text_view(&submission->job));
        submission->job.length = 0;
        claim(request);
    } else {
        refuse_for_store(request);
    }
}

static void on_claimed(struct request *request, const struct store_reply *reply)
{
    struct submission *submission = request->submission;

    switch (reply->result) {
    case STORE_OK:
        submission->claimed = true;
        submission->fence = reply->fence;
        go_on_claimed(request);
        return;
    case STORE_REPLAY:
        if (submission->keyed_by_input) {
            ledger_text_set(&submission->job, reply->submit.job);
            find_duplicate(request, on_duplicate_of_replay);
        } else {
            answer_replay(request, reply);
        }
        return;
    case STORE_BUSY: wait_for_first(request); return;
    case STORE_MISMATCH: request_refuse(request, PROBLEM_IDEMPOTENCY_MISMATCH, 0); return;
    case STORE_UNKNOWN: refuse_unknown(request, &reply->submit); return;
    case STORE_ABSENT:
    case STORE_CONFLICT:
    case STORE_OWNED:
    case STORE_BAD_CURSOR:
    case STORE_BROKEN:
    case STORE_AWAY:
    case STORE_FULL:
    case STORE_TIMED_OUT:
    case STORE_NO_MEMORY: break;
    }
    refuse_for_store(request);
}

static void claim(struct request *request)
{
    struct submission *submission = request->submission;
    struct store_question question = {
        .operation = STORE_CLAIM_SUBMIT,
        .accept_duplicate = submission->accepts_duplicate,
    };

    submission->state = STORE_SUBMIT_INTENT;
    question.submit = ledger_submit(submission, request->gateway);
    if (!request_ask_store(request, &question, on_claimed)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

/* ---- equal inputs ---------------------------------------------------------------------------- */

static void on_duplicate(struct request *request, const struct store_reply *reply)
{
    if (reply->result == STORE_OK) {
        join_duplicate(request, &reply->job);
    } else if (reply->result == STORE_ABSENT) {
        claim(request);
    } else {
        refuse_for_store(request);
    }
}

static void find_duplicate(struct request *request, request_on_store *then)
{
    struct submission *submission = request->submission;
    struct store_question question = {
        .operation = STORE_FIND_DUPLICATE,
        .team = ledger_text_view(&submission->team),
        .endpoint = ledger_text_view(&submission->endpoint),
        .has_dedupe = true,
    };

    memcpy(question.dedupe_digest, submission->input_digest, sizeof question.dedupe_digest);
    if (!request_ask_store(request, &question, then)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

void ledger_begin(struct request *request)
{
    if (request->submission->keyed_by_input) {
        find_duplicate(request, on_duplicate);
    } else if (request->submission->keyed_by_caller) {
        claim(request);
    } else {
        go_on_claimed(request);
    }
}
