#include "build_config.h"

#include "gateway/request.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "format/http_fields.h"
#include "format/json_scan.h"
#include "gateway/cors.h"
#include "gateway/idempotency_key.h"
#include "gateway/request_private.h"
#include "model/metric_catalogue.h"
#include "store/store.h"

/* From a head to the log line, in the order in which it happens: begin, route, admit, body, work,
 * end. How an answer is put together stands in request_reply.c. */

/* ---- states ---------------------------------------------------------------------------------- */

static const char *const work_names[] = {
    [WORK_ADMITTING] = "admitting",
    [WORK_DELAYED] = "delayed",
    [WORK_IN_STORE] = "in_store",
    [WORK_IN_FLIGHT] = "in_flight",
    [WORK_AT_UPSTREAM] = "at_upstream",
    [WORK_RECORDING] = "recording",
    [WORK_DONE] = "done",
};

#define TO(state) (1u << (state))

static const unsigned legal_work[] = {
    [WORK_ADMITTING] = TO(WORK_DELAYED) | TO(WORK_IN_STORE) | TO(WORK_IN_FLIGHT) |
                       TO(WORK_AT_UPSTREAM) | TO(WORK_RECORDING) | TO(WORK_DONE),
    [WORK_DELAYED] = TO(WORK_DONE),
    [WORK_IN_STORE] = TO(WORK_IN_STORE) | TO(WORK_IN_FLIGHT) | TO(WORK_AT_UPSTREAM) |
                      TO(WORK_RECORDING) | TO(WORK_DONE),
    [WORK_IN_FLIGHT] =
        TO(WORK_IN_STORE) | TO(WORK_AT_UPSTREAM) | TO(WORK_RECORDING) | TO(WORK_DONE),
    [WORK_AT_UPSTREAM] = TO(WORK_IN_STORE) | TO(WORK_RECORDING) | TO(WORK_DONE),
    [WORK_RECORDING] = TO(WORK_RECORDING) | TO(WORK_IN_STORE) | TO(WORK_IN_FLIGHT) |
                       TO(WORK_AT_UPSTREAM) | TO(WORK_DONE),
    [WORK_DONE] = 0,
};

static const unsigned legal_caller[] = {
    [CALLER_READING] = TO(CALLER_WAITING) | TO(CALLER_SENDING) | TO(CALLER_DONE),
    [CALLER_WAITING] = TO(CALLER_SENDING) | TO(CALLER_DONE),
    [CALLER_SENDING] = TO(CALLER_DONE),
    [CALLER_DONE] = 0,
};

static void report_illegal_move(struct request *request, const char *side)
{
    struct log_line *line =
        log_begin(request->gateway->log, LOG_LEVEL_ERROR, "request_illegal_move");

    log_text(line, "request_id", request->id);
    log_string(line, "side", side);
    log_string(line, "work", work_names[request->work]);
    log_end(line);
#ifdef PODGATE_FAULTS
    abort();
#endif
}

/* Nobody waits for the reply any more; what it writes is written. */
static void drop_store_call(struct request *request)
{
    if (request->store_call) {
        store_cancel(request->store_call);
        request->store_call = NULL;
    }
}

static void finish_when_done(struct request *request)
{
    if (request->work == WORK_DONE && request->caller == CALLER_DONE && !request->dead) {
        request_finish(request);
    }
}

void request_move_work(struct request *request, enum work_state work)
{
    if (!(legal_work[request->work] & TO(work))) {
        report_illegal_move(request, "work");
    }
    request->work = work;
    if (work == WORK_DONE) {
        drop_store_call(request);
    }
    finish_when_done(request);
}

void request_move_caller(struct request *request, enum caller_state caller)
{
    if (!(legal_caller[request->caller] & TO(caller))) {
        report_illegal_move(request, "caller");
    }
    request->caller = caller;
    finish_when_done(request);
}

bool request_has_caller(const struct request *request)
{
    return request->inbound.connection != NULL;
}

static struct request *request_of(struct inbound *inbound)
{
    return (struct request *)(void *)inbound;
}

/* ---- questions to the store ------------------------------------------------------------------ */

static void on_store_reply(void *argument, const struct store_reply *reply)
{
    struct request *request = argument;
    request_on_store *then = request->store_then;

    request->store_call = NULL;
    then(request, reply);
}

bool request_ask_store(struct request *request, const struct store_question *question,
                       request_on_store *then)
{
    request->store_call = store_ask(request->gateway->store, question, on_store_reply, request);
    if (!request->store_call) {
        return false;
    }
    request->store_then = then;
    if (request->work != WORK_RECORDING) {
        request_move_work(request, WORK_IN_STORE);
    }
    return true;
}

static struct inbound *create_inbound(void *owner, struct connection *connection)
{
    struct request *request = request_pool_take(owner);

    (void)connection;
    return request ? &request->inbound : NULL;
}

/* ---- begin ----------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t state[2])
{
    /* xoroshiro128+: ids must be unique and cost nothing; they are no secret. */
    uint64_t first = state[0];
    uint64_t second = state[1];
    uint64_t sum = first + second;

    second ^= first;
    state[0] = (first << 24 | first >> 40) ^ second ^ (second << 16);
    state[1] = second << 37 | second >> 27;
    return sum;
}

static void make_id(struct request *request)
{
    static const char hex[] = "0123456789abcdef";
    char *at = request->id_text;

    for (int half = 0; half < 2; half++) {
        uint64_t bits = next_random(request->gateway->random_state);

        for (int digit = 0; digit < 16; digit++, bits >>= 4) {
            *at++ = hex[bits & 15];
        }
    }
    request->id = view_make(request->id_text, REQUEST_ID_BYTES);
}

static void begin(struct request *request)
{
    struct gateway *gateway = request->gateway;

    request->begun = true;
    request->started_us = clock_mono_us();
    request->config = config_ref(gateway->config);
    request->origin = "gateway";
    address_from_sockaddr(&request->peer,
                          (const struct sockaddr *)connection_peer(request->inbound.connection),
                          sizeof(struct sockaddr_storage));
    metrics_add(gateway->metrics, METRIC_REQUESTS_IN_FLIGHT, 0, 0, 1);
}

static void on_bad_head(void *owner, struct inbound *inbound, unsigned status, struct view detail)
{
    struct request *request = request_of(inbound);

    (void)owner;
    begin(request);
    make_id(request);
    request_refuse_because(request, problem_of_status(status), detail, 0);
}

static void take_id(struct request *request)
{
    struct view given = http_head_value(&request->inbound.head.head, HTTP_FIELD_X_REQUEST_ID);

    if (given.length > 0 && http_request_id_valid(given)) {
        request->id = given;
    } else {
        make_id(request);
    }
}

/* ---- route ----------------------------------------------------------------------------------- */

/* An absolute-form target is taken only when it names us: the Host that the caller wrote, which
 * must be the address that it reached us at, or localhost (RFC 9112 section 3.2.2). */
static bool authority_is_ours(const struct request *request, struct view authority)
{
    struct view host = http_head_value(&request->inbound.head.head, HTTP_FIELD_HOST);

    return view_equal_ignore_case(authority, host) &&
           connection_is_at(request->inbound.connection, authority);
}

/* A browser asks before it sends the key, so this is answered without one. */
static void answer_preflight(struct request *request)
{
    request_begin_reply(request, 200);
    cors_append_preflight(&request->reply, route_allow_text(request->route.operation));
    builder_append(&request->reply, VIEW("Podgate-Origin: gateway\r\n"));
    request_send_reply(request, VIEW(""), NULL);
    request_move_work(request, WORK_DONE);
}

static bool find_route(struct request *request)
{
    const struct http_request_head *head = &request->inbound.head;
    struct view target = http_request_target(head);
    enum route_result result;
    bool secure;
    struct view authority;

    if (head->objection == HTTP_HEAD_ENCODED) {
        /* Answered once the body is out of the way, so that the connection can go on. */
        request->delayed_problem = PROBLEM_CONTENT_ENCODING;
    } else if (head->objection != HTTP_HEAD_OK) {
        request_refuse_because(request, problem_of_status(http_head_status(head->objection)),
                               http_head_detail(head->objection), 0);
        return false;
    }
    if (head->target_form == HTTP_TARGET_ABSOLUTE &&
        (!http_target_split_absolute(target, &secure, &authority, &target) ||
         !authority_is_ours(request, authority))) {
        /* Whoever sent this takes us for a proxy: nothing further on this connection is for us. */
        connection_close_after_answer(request->inbound.connection);
        request_refuse_because(request, PROBLEM_BAD_REQUEST,
                               VIEW("The target names another server."), 0);
        return false;
    }
    result = route_parse(target, &request->route);
    if (result == ROUTE_NOT_FOUND) {
        request_refuse(request, PROBLEM_NOT_FOUND, 0);
        return false;
    }
    request->has_route = true;
    if (cors_is_preflight(request->config, head)) {
        answer_preflight(request);
        return false;
    }
    if (!route_allows(request->route.operation, (enum http_method)head->method)) {
        request_refuse(request, PROBLEM_METHOD_NOT_ALLOWED, 0);
        return false;
    }
    if (result != ROUTE_OK && request->delayed_problem == PROBLEM_BAD_REQUEST) {
        request->delayed_problem = problem_of_route(result);
    }
    return true;
}

/* A body that is read only to be thrown away may be so long. */
enum { SKIPPED_BODY_BYTES = 64 * 1024 };

/* ---- admit ----------------------------------------------------------------------------------- */

static void log_refusal(struct request *request, const struct admission_verdict *verdict)
{
    char peer[ADDRESS_TEXT_MAXIMUM];
    struct log_line *line;

    metrics_add(request->gateway->metrics, METRIC_REFUSALS, verdict->refusal, 0, 1);
    if (!verdict->is_authentication) {
        return; /* the request's own line says it */
    }
    line = log_begin(request->gateway->log, LOG_LEVEL_WARNING, "authentication_failed");
    log_text(line, "peer", address_format(&request->peer, false, peer));
    log_string(line, "reason", metric_refusal_text(verdict->refusal));
    log_text(line, "operation", route_operation_name(request->route.operation));
    log_end(line);
}

static void on_delay_over(evutil_socket_t descriptor, short what, void *argument)
{
    struct request *request = argument;

    (void)descriptor;
    (void)what;
    request_refuse(request, request->delayed_problem, 0);
}

static bool delay_refusal(struct request *request, enum problem problem, uint64_t delay_ms)
{
    struct timeval delay = {(time_t)(delay_ms / 1000), (suseconds_t)(delay_ms % 1000 * 1000)};

    request->delay_event =
        event_new(loop_base(request->gateway->loop), -1, 0, on_delay_over, request);
    if (!request->delay_event || event_add(request->delay_event, &delay) != 0) {
        return false;
    }
    request->delayed_problem = problem;
    request_move_work(request, WORK_DELAYED);
    return true;
}

static bool admit(struct request *request)
{
    struct gateway *gateway = request->gateway;
    const struct http_head *head = &request->inbound.head.head;
    struct admission_question question = {
        .config = request->config,
        .hasher = gateway->hasher,
        .route = &request->route,
        .authorization = http_head_value(head, HTTP_FIELD_AUTHORIZATION),
        .peer = &request->peer,
        .now_us = request->started_us,
        .wall_ms = clock_wall_ms(),
    };
    struct admission_verdict verdict = admission_check(&question, &request->ticket);

    if (verdict.admitted) {
        return true;
    }
    log_refusal(request, &verdict);
    if (verdict.is_authentication) {
        uint64_t delay_ms =
            failed_attempts_add(gateway->shared->failed_attempts, &request->peer, clock_mono_ms());

        if (delay_ms > 0 && delay_refusal(request, verdict.problem, delay_ms)) {
            return false;
        }
    }
    request_refuse(request, verdict.problem, verdict.retry_after_s);
    return false;
}

static bool is_submit(enum route_operation operation)
{
    return operation == ROUTE_RUN || operation == ROUTE_RUNSYNC || operation == ROUTE_RETRY;
}

/* Looked at before the body is read; the ledger reads it again when the body is there. */
static bool has_good_key(const struct request *request)
{
    const struct http_head *head = &request->inbound.head.head;
    char key[IDEMPOTENCY_KEY_MAXIMUM];
    size_t length;

    return !http_head_has(head, HTTP_FIELD_IDEMPOTENCY_KEY) ||
           idempotency_key_read(http_head_value(head, HTTP_FIELD_IDEMPOTENCY_KEY), key, &length);
}

static void on_head(void *owner, struct inbound *inbound)
{
    struct request *request = request_of(inbound);
    struct gateway *gateway = owner;

    begin(request);
    take_id(request);
    if (!find_route(request) || !admit(request)) {
        return;
    }
    if (request->delayed_problem == PROBLEM_CONTENT_ENCODING) {
        connection_read_body(inbound->connection, SKIPPED_BODY_BYTES);
        return;
    }
    if (request->delayed_problem != PROBLEM_BAD_REQUEST) {
        request_refuse(request, request->delayed_problem, 0);
        return;
    }
    if (is_submit(request->route.operation) && !has_good_key(request)) {
        request_refuse(request, PROBLEM_BAD_IDEMPOTENCY_KEY, 0);
        return;
    }
    connection_read_body(inbound->connection,
                         gateway->operations[request->route.operation].body_maximum_bytes);
}

/* ---- body ------------------------------------------------------------------------------------ */

static void on_body_fault(void *owner, struct inbound *inbound, enum connection_body_fault fault)
{
    static const struct {
        enum problem problem;
        uint64_t retry_after_s;
    } answers[] = {
        [CONNECTION_BODY_TOO_LARGE] = {PROBLEM_BODY_TOO_LARGE, 0},
        [CONNECTION_BODY_MALFORMED] = {PROBLEM_BAD_REQUEST, 0},
        [CONNECTION_BODY_SLOW] = {PROBLEM_REQUEST_TIMEOUT, 0},
        [CONNECTION_BODY_NO_MEMORY] = {PROBLEM_OVERLOADED, 1},
    };
    struct gateway *gateway = owner;

    if (request_of(inbound)->delayed_problem != PROBLEM_BAD_REQUEST) {
        request_refuse(request_of(inbound), request_of(inbound)->delayed_problem, 0);
        return;
    }
    if (fault == CONNECTION_BODY_TOO_LARGE) {
        metrics_add(gateway->metrics, METRIC_REFUSALS, METRIC_REFUSAL_BODY_TOO_LARGE, 0, 1);
    } else if (fault == CONNECTION_BODY_NO_MEMORY) {
        metrics_add(gateway->metrics, METRIC_REFUSALS, METRIC_REFUSAL_MEMORY, 0, 1);
    }
    request_refuse(request_of(inbound), answers[fault].problem, answers[fault].retry_after_s);
}

bool request_scan_body(struct request *request, struct json_member *members, size_t count)
{
    /* What Python writes for NaN goes up as it is: the upstream has its own opinion of it. */
    enum json_scan_result result =
        json_scan(body_view(request->body), JSON_SCAN_NON_FINITE, members, count, NULL);

    if (result != JSON_SCAN_OK) {
        request_refuse_because(request, PROBLEM_INVALID_JSON, json_scan_detail(result), 0);
        return false;
    }
    return true;
}

static void on_body(void *owner, struct inbound *inbound, struct body *body)
{
    struct request *request = request_of(inbound);
    struct gateway *gateway = owner;
    const struct operation *operation = &gateway->operations[request->route.operation];

    request->body = body;
    request_move_caller(request, CALLER_WAITING);
    if (request->delayed_problem != PROBLEM_BAD_REQUEST) {
        request_refuse(request, request->delayed_problem, 0);
        return;
    }
    operation->start(request);
}

/* ---- the caller's side goes on without us ---------------------------------------------------- */

static void abandon_work(struct request *request)
{
    const struct operation *operation = &request->gateway->operations[request->route.operation];

    if (request->work == WORK_AT_UPSTREAM && request->exchange) {
        upstream_abort(request->exchange);
        request->exchange = NULL;
    } else if (request->work == WORK_IN_FLIGHT && operation->abandon) {
        operation->abandon(request);
    }
    request_move_work(request, WORK_DONE);
}

/* True for work that is carried to its end when its caller has left. */
static bool goes_on_alone(const struct request *request)
{
    const struct operation *operation = &request->gateway->operations[request->route.operation];

    return request->work == WORK_RECORDING ||
           (operation->survives_caller &&
            (request->work == WORK_AT_UPSTREAM || request->work == WORK_IN_STORE));
}

static void on_hangup(void *owner, struct inbound *inbound)
{
    struct request *request = request_of(inbound);

    (void)owner;
    if (!request->begun) {
        request->work = WORK_DONE;
        request_move_caller(request, CALLER_DONE);
        return;
    }
    if (request->status != 0 && !request->head_sent) {
        request->status = 0;
    }
    request->reason = "caller_gone";
    request_move_caller(request, CALLER_DONE);
    if (request->work != WORK_DONE && !goes_on_alone(request)) {
        abandon_work(request);
    }
}

static void on_drained(void *owner, struct inbound *inbound)
{
    struct request *request = request_of(inbound);

    (void)owner;
    if (request->paused && request->exchange) {
        request->paused = false;
        upstream_resume(request->exchange);
    } else if (request->gateway->operations[request->route.operation].resume) {
        request->gateway->operations[request->route.operation].resume(request);
    }
}

static void on_sent(void *owner, struct inbound *inbound)
{
    (void)owner;
    request_move_caller(request_of(inbound), CALLER_DONE);
}

const struct connection_handler request_handler = {
    .create_inbound = create_inbound,
    .on_head = on_head,
    .on_bad_head = on_bad_head,
    .on_body = on_body,
    .on_body_fault = on_body_fault,
    .on_hangup = on_hangup,
    .on_drained = on_drained,
    .on_sent = on_sent,
};

/* ---- end ------------------------------------------------------------------------------------- */

static void log_done(const struct request *request, uint64_t duration_us)
{
    struct log_line *line = log_begin(request->gateway->log, LOG_LEVEL_INFO, "request_done");
    char peer[ADDRESS_TEXT_MAXIMUM];

    if (!line) {
        return;
    }
    log_word(line, "request_id", request->id);
    if (request->ticket.key) {
        log_text(line, "team", request->ticket.key->team->name);
        log_word(line, "key", request->ticket.key->id);
    }
    if (request->has_route) {
        log_word(line, "operation", route_operation_name(request->route.operation));
    }
    if (request->has_route && request->ticket.key) { /* a stranger writes nothing into the log */
        log_word(line, "endpoint", request->route.endpoint);
        log_text(line, "job",
                 request->job_length > 0 ? view_make(request->job_text, request->job_length)
                                         : request->route.job);
    }
    log_number(line, "status", request->status);
    log_word(line, "origin", view_of_string(request->origin));
    log_word(line, "cache", view_of_string(request->cache));
    log_word(line, "reason", view_of_string(request->reason));
    if (request->upstream_status != 0) {
        log_number(line, "upstream_status", request->upstream_status);
    }
    log_number(line, "duration_us", duration_us);
    if (request->timing.sent_us != 0 && request->timing.head_us > request->timing.sent_us) {
        log_number(line, "upstream_us", request->timing.head_us - request->timing.sent_us);
    }
    log_number(line, "received", request->inbound.received_bytes);
    log_number(line, "sent", request->inbound.sent_bytes);
    log_word(line, "peer", address_format(&request->peer, false, peer));
    log_end(line);
}

static void count_done(const struct request *request, uint64_t duration_us)
{
    struct metrics_block *metrics = request->gateway->metrics;
    size_t operation = request->has_route ? request->route.operation : ROUTE_OPERATION_COUNT;

    metrics_add(metrics, METRIC_REQUESTS_IN_FLIGHT, 0, 0, -1);
    metrics_add(metrics, METRIC_REQUESTS, operation, metric_status_class(request->status), 1);
    metrics_observe(metrics, METRIC_REQUEST_SECONDS, operation, duration_us);
    metrics_add(metrics, METRIC_RECEIVED_BYTES, 0, 0, (int64_t)request->inbound.received_bytes);
    metrics_add(metrics, METRIC_SENT_BYTES, 0, 0, (int64_t)request->inbound.sent_bytes);
}

void request_finish(struct request *request)
{
    struct gateway *gateway = request->gateway;

    request->dead = true;
    if (request->begun) {
        uint64_t duration_us = clock_mono_us() - request->started_us;

        log_done(request, duration_us);
        count_done(request, duration_us);
        admission_release(&request->ticket);
    }
    drop_store_call(request); /* when the process ends in the middle of it */
    if (request->has_route && gateway->operations[request->route.operation].release) {
        gateway->operations[request->route.operation].release(request);
    }
    if (request->delay_event) {
        event_free(request->delay_event);
        request->delay_event = NULL;
    }
    body_unref(request->body);
    request->body = NULL;
    body_unref(request->answer);
    request->answer = NULL;
    body_unref(request->answer_rest);
    request->answer_rest = NULL;
    free(request->held);
    request->held = NULL;
    config_unref(request->config);
    request->config = NULL;
    request_pool_bury(request);
}
