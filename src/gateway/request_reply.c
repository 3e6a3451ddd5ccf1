#include "build_config.h"

#include <string.h>

#include "base/clock.h"
#include "gateway/cors.h"
#include "gateway/request.h"
#include "model/metric_catalogue.h"

/* How an answer is put together and handed to the front, and how the head of a request to the
 * upstream begins. Each head is formatted once, into storage of the request's own. */

enum {
    JOINED_BYTES = 256,
    TELL_OPERATOR_MS = 10000,
    /* So much fits into the socket at once: the caller may be back with its next request before
     * this one has ended here. Longer answers keep their place until they are sent. */
    EARLY_LEAVE_BYTES = 64 * 1024,
};

static bool is_head_request(const struct request *request)
{
    return request->inbound.head.method == HTTP_METHOD_HEAD;
}

static void append_timing(struct request *request)
{
    uint64_t now_us = clock_mono_us();

    builder_append(&request->reply, VIEW("Server-Timing: total;dur="));
    builder_append_u64(&request->reply, (now_us - request->started_us) / 1000);
    if (request->timing.sent_us != 0 && request->timing.head_us >= request->timing.sent_us) {
        builder_append(&request->reply, VIEW(", upstream;dur="));
        builder_append_u64(&request->reply,
                           (request->timing.head_us - request->timing.sent_us) / 1000);
    }
    builder_append(&request->reply, VIEW("\r\n"));
}

static void append_notes(struct request *request)
{
    if (request->notes & REQUEST_STORE_DEGRADED) {
        builder_append(&request->reply, VIEW("Podgate-Degraded: store\r\n"));
    }
    if (request->notes & REQUEST_REPLAYED) {
        builder_append(&request->reply, VIEW("Idempotency-Replayed: true\r\n"));
    }
    if (request->notes & REQUEST_NOT_RECORDED) {
        builder_append(&request->reply, VIEW("Podgate-Warning: not-recorded\r\n"));
    }
}

void request_begin_reply(struct request *request, unsigned status)
{
    struct builder *reply = &request->reply;

    request->status = status;
    builder_reset(reply);
    http_status_append_line(reply, status);
    builder_append(reply, http_date_line(&request->gateway->date, clock_wall_ms()));
    builder_append(reply, VIEW("Via: 1.1 podgate\r\nX-Request-Id: "));
    builder_append(reply, request->id);
    builder_append(reply, VIEW("\r\n"));
    if (request->config->cors_origins.count > 0) {
        cors_append_fields(reply, request->config, &request->inbound.head.head);
    }
    if (request->config->server_timing) {
        append_timing(request);
    }
    if (request->notes != 0) {
        append_notes(request);
    }
}

static bool end_head(struct request *request)
{
    struct builder *reply = &request->reply;

    if (connection_wants_close(request->inbound.connection) ||
        request->framing == CONNECTION_UNTIL_CLOSE) {
        builder_append(reply, VIEW("Connection: close\r\n\r\n"));
    } else if (request->inbound.head.head.minor == 0) {
        builder_append(reply, VIEW("Connection: keep-alive\r\n\r\n"));
    } else {
        builder_append(reply, VIEW("\r\n"));
    }
    return !builder_failed(reply);
}

static void take_send_result(struct request *request, enum connection_send_result result, bool last)
{
    if (result == CONNECTION_GONE) {
        metrics_add(request->gateway->metrics, METRIC_CALLER_HANGUPS, 0, 0, 1);
        request->reason = "caller_gone";
        request_move_caller(request, CALLER_DONE);
    } else if (result == CONNECTION_SENT && last) {
        request_move_caller(request, CALLER_DONE);
    }
}

void request_send_reply(struct request *request, struct view data, struct body *holder)
{
    if (request->inbound.connection) {
        http_field_append_length(&request->reply, data.length);
        request_send_ready(request, data, holder);
    }
}

void request_send_ready(struct request *request, struct view data, struct body *holder)
{
    struct connection *connection = request->inbound.connection;
    struct connection_part part = {
        .data = data, .holder = holder, .framing = CONNECTION_LENGTH, .last = true};

    if (!connection) {
        return;
    }
    if (is_head_request(request)) {
        part.data.length = 0;
    }
    request->framing = CONNECTION_LENGTH;
    if (!end_head(request)) {
        request_break_off(request);
        return;
    }
    if (part.data.length <= JOINED_BYTES) {
        /* So short that a copy costs less than a second part for the kernel. */
        builder_append(&request->reply, part.data);
        part.data.length = 0;
        if (builder_failed(&request->reply)) {
            request_break_off(request);
            return;
        }
    }
    part.head = builder_view(&request->reply);
    request->head_sent = true;
    request_move_caller(request, CALLER_SENDING);
    if (part.data.length <= EARLY_LEAVE_BYTES) {
        admission_leave(&request->ticket);
    }
    take_send_result(request, connection_send(connection, &part), true);
}

void request_begin_pieces(struct request *request, bool length_known)
{
    if (!request->inbound.connection) {
        return;
    }
    if (length_known || is_head_request(request)) {
        request->framing = CONNECTION_LENGTH;
    } else if (request->inbound.head.head.minor == 0) {
        request->framing = CONNECTION_UNTIL_CLOSE;
    } else {
        request->framing = CONNECTION_CHUNKED;
        builder_append(&request->reply, VIEW("Transfer-Encoding: chunked\r\n"));
    }
    if (!end_head(request)) {
        request_break_off(request);
    }
}

bool request_send_piece(struct request *request, struct view data, bool last)
{
    struct connection *connection = request->inbound.connection;
    struct connection_part part = {.data = data, .framing = request->framing, .last = last};
    enum connection_send_result result;

    if (!connection) {
        return true;
    }
    if (!request->head_sent) {
        part.head = builder_view(&request->reply);
        request->head_sent = true;
        request_move_caller(request, CALLER_SENDING);
    }
    if (last && data.length <= EARLY_LEAVE_BYTES) {
        admission_leave(&request->ticket);
    }
    result = connection_send(connection, &part);
    take_send_result(request, result, last);
    return result != CONNECTION_BLOCKED;
}

void request_break_off(struct request *request)
{
    struct connection *connection = request->inbound.connection;

    if (connection) {
        connection_abort(connection);
        request_move_caller(request, CALLER_DONE);
    }
}

/* ---- podgate's own errors -------------------------------------------------------------------- */

static void append_problem_fields(struct request *request, enum problem problem,
                                  uint64_t retry_after_s)
{
    struct builder *reply = &request->reply;

    builder_append(reply, VIEW("Content-Type: application/json\r\nPodgate-Origin: gateway\r\n"));
    if (problem == PROBLEM_METHOD_NOT_ALLOWED) {
        http_field_append(reply, VIEW("Allow"), route_allow_text(request->route.operation));
    }
    if (problem == PROBLEM_UPSTREAM_UNAVAILABLE) {
        builder_append(reply, VIEW("Podgate-Degraded: upstream\r\n"));
    }
    if (problem == PROBLEM_UNAUTHORIZED) {
        builder_append(reply, VIEW("WWW-Authenticate: Bearer realm=\"podgate\"\r\n"));
    }
    if (retry_after_s > 0) {
        builder_append(reply, VIEW("Retry-After: "));
        builder_append_u64(reply, retry_after_s);
        builder_append(reply, VIEW("\r\n"));
    }
}

/* Nobody but the operator can mend it, so it is more than one request's failure. */
static void tell_operator(struct request *request)
{
    struct gateway *gateway = request->gateway;
    uint64_t now_ms = clock_mono_ms();
    struct log_line *line;

    if (gateway->credential_told_ms != 0 &&
        now_ms - gateway->credential_told_ms < TELL_OPERATOR_MS) {
        return;
    }
    gateway->credential_told_ms = now_ms;
    line = log_begin(gateway->log, LOG_LEVEL_ERROR, "upstream_credential_refused");
    log_text(line, "endpoint", request->route.endpoint);
    log_number(line, "upstream_status", request->upstream_status);
    log_end(line);
}

static void reply_problem(struct request *request, enum problem problem, unsigned status,
                          struct view detail, uint64_t retry_after_s)
{
    const struct problem_text *text = problem_text(problem);
    char storage[512];
    struct builder body;

    if (!request->inbound.connection) {
        return;
    }
    request->reason = text->code;
    request->origin = "gateway";
    if (problem == PROBLEM_UPSTREAM_CREDENTIAL) {
        tell_operator(request);
    }
    request_begin_reply(request, status != 0 ? status : text->status);
    append_problem_fields(request, problem, retry_after_s);
    builder_init(&body, storage, sizeof storage);
    problem_append_body(&body, problem, status, detail);
    if (builder_failed(&body)) {
        request_break_off(request);
    } else {
        request_send_reply(request, builder_view(&body), NULL);
    }
    builder_clear(&body);
}

static void refuse(struct request *request, enum problem problem, unsigned status,
                   struct view detail, uint64_t retry_after_s)
{
    if (request->exchange) {
        upstream_abort(request->exchange);
        request->exchange = NULL;
    }
    if (!request->reason) {
        request->reason = problem_text(problem)->code;
    }
    reply_problem(request, problem, status, detail, retry_after_s);
    request_move_work(request, WORK_DONE);
}

void request_refuse(struct request *request, enum problem problem, uint64_t retry_after_s)
{
    refuse(request, problem, 0, VIEW(""), retry_after_s);
}

void request_refuse_because(struct request *request, enum problem problem, struct view detail,
                            uint64_t retry_after_s)
{
    refuse(request, problem, 0, detail, retry_after_s);
}

void request_refuse_as(struct request *request, enum problem problem, unsigned status,
                       uint64_t retry_after_s)
{
    refuse(request, problem, status, VIEW(""), retry_after_s);
}

static enum problem problem_of_failure(enum upstream_failure failure)
{
    switch (failure) {
    case UPSTREAM_BUSY: return PROBLEM_UPSTREAM_BUSY;
    case UPSTREAM_NO_MEMORY: return PROBLEM_OVERLOADED;
    case UPSTREAM_NAME_UNKNOWN:
    case UPSTREAM_REFUSED:
    case UPSTREAM_PROXY: return PROBLEM_UPSTREAM_UNREACHABLE;
    case UPSTREAM_TLS: return PROBLEM_UPSTREAM_TLS;
    case UPSTREAM_CONNECT_TIMEOUT:
    case UPSTREAM_TIMEOUT: return PROBLEM_UPSTREAM_TIMEOUT;
    case UPSTREAM_BROKEN:
    case UPSTREAM_INCOMPLETE: return PROBLEM_UPSTREAM_BROKEN;
    case UPSTREAM_MALFORMED:
    case UPSTREAM_ENCODED: return PROBLEM_UPSTREAM_MALFORMED;
    }
    return PROBLEM_UPSTREAM_BROKEN;
}

void request_refuse_failure(struct request *request, enum upstream_failure failure)
{
    bool busy = failure == UPSTREAM_BUSY || failure == UPSTREAM_NO_MEMORY;

    request_refuse(request, problem_of_failure(failure), busy ? 1 : 0);
}

/* ---- heads for the upstream ------------------------------------------------------------------ */

void request_begin_sent_head(struct request *request, struct view method, const struct route *route)
{
    struct builder *head = &request->sent_head;
    unsigned scope = HTTP_FORWARD_ALWAYS;

    if (route->operation == ROUTE_OPENAI) {
        scope |= HTTP_FORWARD_OPENAI;
    }
    if (route->is_flash) {
        scope |= HTTP_FORWARD_FLASH;
    }
    builder_reset(head);
    builder_append(head, method);
    builder_append_byte(head, ' ');
    route_append_target(head, request->config->upstream.url.path, route);
    builder_append(head, VIEW(" HTTP/1.1\r\n"));
    http_fields_append_request(head, &request->inbound.head.head, scope);
    builder_append(head, VIEW("Via: 1.1 podgate\r\nX-Request-Id: "));
    builder_append(head, request->id);
    builder_append(head, VIEW("\r\n"));
    if (request->body || view_equal(method, VIEW("POST")) || view_equal(method, VIEW("PUT"))) {
        http_field_append_length(head, body_view(request->body).length);
    }
}
