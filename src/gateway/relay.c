#include "build_config.h"

#include "gateway/relay.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "format/http_fields.h"
#include "gateway/breaker.h"
#include "model/metric_catalogue.h"

enum {
    READ_RETRY_AFTER_S = 10,
    ERROR_BODY_BYTES = 1024 * 1024,
    FIRST_ANSWER_BYTES = 2048,
    /* A submit's answer is collected up to this even where less is kept: what follows is decided by
     * its id and state, which may stand at its end. The upstream's own limit is below. */
    SUBMIT_ANSWER_BYTES = 32 * 1024 * 1024,
};

/* ---- what the upstream's head means ---------------------------------------------------------- */

/* The endpoint is down, says whoever stands before it. */
static bool is_endpoint_failure(unsigned status)
{
    return status == 502 || status == 503 || status == 504;
}

static bool is_connect_failure(enum upstream_failure failure)
{
    return failure == UPSTREAM_NAME_UNKNOWN || failure == UPSTREAM_REFUSED ||
           failure == UPSTREAM_CONNECT_TIMEOUT || failure == UPSTREAM_TLS ||
           failure == UPSTREAM_PROXY;
}

void relay_report_failure(struct gateway *gateway, struct view endpoint,
                          enum upstream_failure failure)
{
    if (failure != UPSTREAM_BUSY && failure != UPSTREAM_NO_MEMORY) {
        breaker_report(gateway->breaker, endpoint,
                       is_connect_failure(failure) ? BREAKER_UPSTREAM_FAILED
                                                   : BREAKER_ENDPOINT_FAILED,
                       clock_mono_ms());
    }
}

uint64_t relay_retry_after_s(const struct http_response_head *head, bool is_read)
{
    struct view text = http_head_value(&head->head, HTTP_FIELD_RETRY_AFTER);
    uint64_t seconds = 1;

    /* The Python SDK obeys the field with any status that it tries again, 500 and 502 too. */
    if (head->status < 400 || (head->status != 429 && head->status != 503 && text.length == 0)) {
        return 0;
    }
    if (text.length > 0 && !view_parse_u64(text, 86400, &seconds)) {
        seconds = READ_RETRY_AFTER_S; /* a date, or too far off */
    }
    if (seconds == 0) {
        seconds = 1;
    }
    return is_read && seconds > READ_RETRY_AFTER_S ? READ_RETRY_AFTER_S : seconds;
}

void relay_append_fields(struct builder *fields, const struct http_response_head *head,
                         unsigned scope, uint64_t retry_after_s)
{
    if (retry_after_s > 0) {
        struct http_head copy = head->head;

        for (unsigned i = 0; i < copy.field_count; i++) {
            copy.fields[i].hop = copy.fields[i].hop || copy.fields[i].id == HTTP_FIELD_RETRY_AFTER;
        }
        http_fields_append_response(fields, &copy, scope);
        builder_append(fields, VIEW("Retry-After: "));
        builder_append_u64(fields, retry_after_s);
        builder_append(fields, VIEW("\r\n"));
    } else {
        http_fields_append_response(fields, &head->head, scope);
    }
    if (!http_head_has(&head->head, HTTP_FIELD_CONTENT_TYPE)) {
        builder_append(fields, VIEW("Content-Type: application/json\r\n"));
    }
}

void relay_mask_key(struct gateway *gateway, struct view bytes)
{
    union {
        const char *constant;
        char *writable;
    } data = {.constant = bytes.data};
    size_t found = upstream_identity_mask(gateway->shared->identity, data.writable, bytes.length);

    if (found > 0) {
        metrics_add(gateway->metrics, METRIC_KEY_MASKED, 0, 0, (int64_t)found);
    }
}

void relay_report_answer(struct gateway *gateway, enum route_operation operation,
                         struct view endpoint, unsigned status)
{
    metrics_add(gateway->metrics, METRIC_UPSTREAM_REQUESTS, operation, metric_status_class(status),
                1);
    breaker_report(gateway->breaker, endpoint,
                   is_endpoint_failure(status) ? BREAKER_ENDPOINT_FAILED : BREAKER_OK,
                   clock_mono_ms());
}

void relay_refuse_answer(struct request *request, unsigned status, uint64_t retry_after_s)
{
    if (status == 401 || status == 403) {
        request_refuse(request, PROBLEM_UPSTREAM_CREDENTIAL, 0);
    } else if (status >= 300 && status < 400) {
        request_refuse(request, PROBLEM_UPSTREAM_REDIRECT, 0);
    } else if (status >= 400 && status < 500) {
        request_refuse_as(request, PROBLEM_UPSTREAM_ERROR, status, retry_after_s);
    } else if (status >= 500) {
        request_refuse_as(request, PROBLEM_UPSTREAM_ERROR, 502, retry_after_s);
    } else {
        request_refuse(request, PROBLEM_UPSTREAM_NOT_JSON, 0);
    }
}

static void begin_answer(struct request *request, const struct http_response_head *head)
{
    unsigned scope = HTTP_FORWARD_ALWAYS;

    if (request->route.operation == ROUTE_OPENAI) {
        scope |= HTTP_FORWARD_OPENAI;
    }
    request->origin = "upstream";
    request_begin_reply(request, head->status);
    relay_append_fields(&request->reply, head, scope, request->upstream_retry_after_s);
    relay_mask_key(request->gateway, builder_view(&request->reply));
}

/* ---- an answer that is collected ------------------------------------------------------------- */

static void end_exchange(struct request *request)
{
    request->timing = upstream_timing(request->exchange);
    request->exchange = NULL;
}

static void abort_exchange(struct request *request)
{
    if (request->exchange) {
        upstream_abort(request->exchange);
        request->exchange = NULL;
    }
}

/* True when the answer has to wait for its record. */
static bool tell(struct request *request, enum relay_end end, const struct relay_facts *facts)
{
    request->relay_end = (unsigned char)end;
    return request->plan->record && request->plan->record(request, end, facts);
}

static void refuse_recorded(struct request *request)
{
    if (!tell(request, RELAY_REFUSED, NULL)) {
        relay_refuse_answer(request, request->upstream_status, request->upstream_retry_after_s);
    } else {
        abort_exchange(request); /* the rest of it is of no use to anybody */
    }
}

static void complete_answer(struct request *request)
{
    struct view answer = body_view(request->answer);
    struct relay_facts facts;

    if (!relay_read_facts(answer, &facts)) {
        refuse_recorded(request);
        return;
    }
    relay_mask_key(request->gateway, answer);
    if (request->plan->observe) {
        request->plan->observe(request, &facts);
    }
    if (!tell(request, RELAY_ANSWERED, &facts)) {
        relay_continue(request);
    }
}

bool relay_replace_answer(struct request *request, struct view text)
{
    struct body *body = body_create(request->gateway->shared->budget, text.length + 1);

    if (!body || !body_append(body, text)) {
        body_unref(body);
        return false;
    }
    body_unref(request->answer);
    request->answer = body;
    request->origin = "gateway";
    request->upstream_status = 200;
    if (request_has_caller(request)) {
        request_begin_reply(request, 200);
        builder_append(&request->reply, VIEW("Content-Type: application/json\r\n"
                                             "Podgate-Origin: gateway\r\n"));
    }
    return true;
}

/* Puts the id of a job that is in what came, with the one state that promises nothing, in the place
 * of an answer that isn't whole. */
static bool put_id_answer(struct request *request)
{
    struct relay_facts facts;
    char storage[REQUEST_JOB_BYTES + 64];
    struct builder text;
    bool replaced;

    /* The scan stops where the text was cut, behind the members that it met. */
    if (!relay_read_cut_facts(body_view(request->answer), &facts)) {
        return false;
    }
    builder_init(&text, storage, sizeof storage);
    builder_append(&text, VIEW("{\"id\":\""));
    builder_append(&text, facts.id);
    builder_append(&text, VIEW("\",\"status\":\"IN_PROGRESS\"}"));
    replaced = relay_replace_answer(request, builder_view(&text));
    builder_clear(&text);
    return replaced;
}

static uint64_t collect_maximum(const struct request *request, unsigned status)
{
    uint64_t kept =
        config_find_endpoint(request->config, request->route.endpoint)->max_result_bytes;

    if (status >= 400) {
        return ERROR_BODY_BYTES;
    }
    return request->plan->is_submit && kept < SUBMIT_ANSWER_BYTES ? (uint64_t)SUBMIT_ANSWER_BYTES
                                                                  : kept;
}

static void begin_collecting(struct request *request, const struct http_response_head *head)
{
    struct gateway *gateway = request->gateway;
    uint64_t maximum = collect_maximum(request, head->status);
    uint64_t capacity =
        head->head.framing == HTTP_BODY_LENGTH && head->head.content_length <= maximum
            ? head->head.content_length + 1 /* as upstream_collect() wants */
            : (uint64_t)FIRST_ANSWER_BYTES;

    request->answer = body_create(gateway->shared->budget, (size_t)capacity);
    if (!request->answer && request->plan->is_submit) {
        /* As much as there is room for: an id may be in it. */
        request->answer = body_create(gateway->shared->budget, FIRST_ANSWER_BYTES);
    }
    if (!request->answer) {
        /* What upstream said to a submit can't be read: nobody may take that for a refusal. */
        (void)tell(request, RELAY_FAILED, NULL);
        if (request->plan->is_submit) {
            request_refuse(request, PROBLEM_SUBMIT_UNKNOWN, 0);
        } else {
            request_refuse(request, PROBLEM_OVERLOADED, 1);
        }
        return;
    }
    upstream_collect(request->exchange, request->answer, (size_t)maximum);
}

/* ---- an answer in pieces --------------------------------------------------------------------- */

static void begin_streaming(struct request *request)
{
    if (request->answer_has_length && request->status != 204) { /* RFC 9110 section 8.6 */
        http_field_append_length(&request->reply, request->answer_length);
    }
    request->streaming = true;
    request_begin_pieces(request, request->answer_has_length);
}

/* The key may lie across two pieces: what may be its beginning waits for the next one. `*joined` is
 * what was held and `data`, to be freed, or NULL. False without memory. */
static bool hold_key_back(struct request *request, struct view *data, bool last, char **joined)
{
    size_t tail;

    *joined = NULL;
    if (data->length == 0 && !last) {
        return true;
    }
    if (request->held) {
        size_t length = request->held_length + data->length;

        *joined = realloc(request->held, length);
        if (!*joined) {
            return false;
        }
        if (data->length > 0) {
            memcpy(*joined + request->held_length, data->data, data->length);
        }
        *data = view_make(*joined, length);
        request->held = NULL;
    }
    relay_mask_key(request->gateway, *data);
    tail =
        last ? 0
             : upstream_identity_tail(request->gateway->shared->identity, data->data, data->length);
    if (tail > 0) {
        request->held = malloc(tail);
        if (!request->held) {
            return false;
        }
        *data = view_first(*data, data->length - tail);
        memcpy(request->held, data->data + data->length, tail);
        request->held_length = tail;
    }
    return true;
}

static void send_piece(struct request *request, struct view data, bool last)
{
    char *joined;
    bool taken = true;

    if (last && request->exchange) {
        end_exchange(request);
    }
    if (hold_key_back(request, &data, last, &joined)) {
        taken = request_send_piece(request, data, last);
    } else {
        request_break_off(request);
    }
    free(joined);
    if (last) {
        request_move_work(request, WORK_DONE);
    } else if (!request_has_caller(request)) {
        abort_exchange(request);
        request_move_work(request, WORK_DONE);
    } else if (!taken && request->exchange) {
        request->paused = true;
        upstream_pause(request->exchange);
    }
}

/* ---- what the exchange tells ----------------------------------------------------------------- */

static void on_head(void *owner, struct upstream_exchange *exchange,
                    const struct http_response_head *head)
{
    struct request *request = owner;
    struct gateway *gateway = request->gateway;

    request->exchange = exchange;
    request->timing = upstream_timing(exchange);
    request->upstream_status = head->status;
    request->upstream_retry_after_s = relay_retry_after_s(head, request->plan->is_read);
    request->answer_has_length =
        head->head.framing == HTTP_BODY_LENGTH || head->head.framing == HTTP_BODY_NONE;
    request->answer_length = head->head.content_length;
    relay_report_answer(gateway, request->route.operation, request->route.endpoint, head->status);
    if (head->status == 401 || head->status == 403 || (head->status >= 300 && head->status < 400)) {
        request->upstream_retry_after_s = 0;
        refuse_recorded(request);
        return;
    }
    if (request_has_caller(request)) {
        begin_answer(request, head);
    }
    if (request->plan->streaming && head->status < 400) {
        begin_streaming(request);
    } else {
        begin_collecting(request, head);
    }
}

/* What was on its way when the exchange was paused: 64 KiB at most (net/upstream.h), which have to
 * lie somewhere even when the budget for bodies is used up. */
static struct body_budget rest_budget = {.maximum_bytes = SIZE_MAX};

static void keep_piece(struct request *request, struct view data, bool last)
{
    if (!request->answer_rest) {
        request->answer_rest = body_create(&rest_budget, data.length + 1);
    }
    if (!request->answer_rest || !body_append(request->answer_rest, data)) {
        request->answer_broken = true;
    }
    if (last) {
        end_exchange(request);
        request->answer_whole = true;
    }
}

static void stream_collected(struct request *request, bool last)
{
    /* Above what podgate keeps: served, not held. */
    begin_streaming(request);
    send_piece(request, body_view(request->answer), last);
}

static void record_long(struct request *request)
{
    struct relay_facts facts;

    if (!request->plan->record || !request->plan->is_submit) {
        stream_collected(request,
                         false); /* only a submit's id is worth a look into its beginning */
        return;
    }
    if (!relay_read_cut_facts(body_view(request->answer), &facts)) {
        refuse_recorded(request);
        return;
    }
    upstream_pause(request->exchange);
    if (!tell(request, RELAY_LONG, &facts)) {
        relay_continue(request);
    }
}

static void continue_long(struct request *request)
{
    if (request->answer_broken || !request_has_caller(request)) {
        abort_exchange(request);
        if (put_id_answer(request)) {
            request_send_reply(request, body_view(request->answer), request->answer);
        } else {
            request_break_off(request);
        }
        request_move_work(request, WORK_DONE);
        return;
    }
    if (request->exchange) {
        request_move_work(request, WORK_AT_UPSTREAM);
        upstream_resume(request->exchange);
    }
    stream_collected(request, request->answer_whole && !request->answer_rest);
    if (request->answer_rest && request->work != WORK_DONE) {
        send_piece(request, body_view(request->answer_rest), request->answer_whole);
    }
}

void relay_continue(struct request *request)
{
    switch ((enum relay_end)request->relay_end) {
    case RELAY_ANSWERED:
    case RELAY_CUT:
        request_send_reply(request, body_view(request->answer), request->answer);
        request_move_work(request, WORK_DONE);
        return;
    case RELAY_LONG: continue_long(request); return;
    case RELAY_REFUSED:
        relay_refuse_answer(request, request->upstream_status, request->upstream_retry_after_s);
        return;
    case RELAY_FAILED:
    case RELAY_UNSENT: break;
    }
    request_refuse(request, PROBLEM_SUBMIT_UNKNOWN, 0);
}

static void on_body(void *owner, struct upstream_exchange *exchange, struct view data, bool last)
{
    struct request *request = owner;

    (void)exchange;
    if (request->streaming) {
        send_piece(request, data, last);
    } else if (request->work != WORK_AT_UPSTREAM) {
        keep_piece(request, data, last);
    } else if (last) {
        end_exchange(request);
        complete_answer(request);
    } else if (request->upstream_status >= 400) {
        refuse_recorded(request); /* no error of the upstream's own is this long */
    } else {
        record_long(request);
    }
}

static void on_pause(void *owner, struct upstream_exchange *exchange)
{
    struct request *request = owner;

    (void)exchange;
    if (request->streaming && !request->head_sent) {
        send_piece(request, VIEW(""), false);
    }
}

/* A success that broke off behind a complete top-level id: the job is known (docs/architecture.md).
 */
static bool answer_with_id(struct request *request)
{
    struct relay_facts facts;

    if (request->upstream_status != 200 || !request->answer || !put_id_answer(request) ||
        !relay_read_facts(body_view(request->answer), &facts)) {
        return false;
    }
    if (!tell(request, RELAY_CUT, &facts)) {
        relay_continue(request);
    }
    return true;
}

static void on_failure(void *owner, struct upstream_exchange *exchange,
                       enum upstream_failure failure, bool may_be_processed)
{
    struct request *request = owner;
    struct gateway *gateway = request->gateway;

    (void)exchange;
    request->exchange = NULL;
    if (!request->reason) {
        request->reason = upstream_failure_text(failure);
    }
    metrics_add(gateway->metrics, METRIC_FAULTS, METRIC_PART_UPSTREAM, failure, 1);
    relay_report_failure(gateway, request->route.endpoint, failure);
    if (request->work != WORK_AT_UPSTREAM) {
        request->answer_broken = true; /* it is being recorded; relay_continue() follows */
        return;
    }
    if (request->head_sent) {
        request_break_off(request);
        request_move_work(request, WORK_DONE);
        return;
    }
    if (request->plan->is_submit && may_be_processed) {
        if ((failure == UPSTREAM_INCOMPLETE || failure == UPSTREAM_TIMEOUT) &&
            answer_with_id(request)) {
            return;
        }
        (void)tell(request, RELAY_FAILED, NULL);
        request_refuse(
            request, failure == UPSTREAM_TIMEOUT ? PROBLEM_SUBMIT_TIMEOUT : PROBLEM_SUBMIT_UNKNOWN,
            0);
        return;
    }
    (void)tell(request, RELAY_UNSENT, NULL);
    request_refuse_failure(request, failure);
}

static const struct upstream_handler handler = {
    .on_head = on_head,
    .on_body = on_body,
    .on_pause = on_pause,
    .on_failure = on_failure,
};

void relay_start(struct request *request, const struct relay_plan *plan, struct view method,
                 const struct route *route, const struct upstream_deadlines *deadlines)
{
    struct gateway *gateway = request->gateway;
    struct upstream_request sent = {
        .body = request->body,
        .expects_no_body = view_equal(method, VIEW("HEAD")),
        .fresh_connection = plan->is_submit,
        .resend = plan->resend,
        .deadlines = *deadlines,
    };
    uint64_t retry_after_s = 0;

    request->plan = plan;
    body_unref(request->answer); /* of an exchange before this one */
    request->answer = NULL;
    if (!breaker_allows(gateway->breaker, route->endpoint, clock_mono_ms(), &retry_after_s)) {
        metrics_add(gateway->metrics, METRIC_REFUSALS, METRIC_REFUSAL_BREAKER, 0, 1);
        (void)tell(request, RELAY_UNSENT, NULL);
        request_refuse(request, PROBLEM_UPSTREAM_UNAVAILABLE, retry_after_s);
        return;
    }
    request_begin_sent_head(request, method, route);
    if (!builder_failed(&request->sent_head)) {
        sent.head = builder_view(&request->sent_head);
        request->exchange = upstream_send(gateway->upstream, &sent, &handler, request);
    }
    if (!request->exchange) {
        (void)tell(request, RELAY_UNSENT, NULL);
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    request_move_work(request, WORK_AT_UPSTREAM);
}
