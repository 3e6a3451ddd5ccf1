#include "build_config.h"

#include "sim/sim_strike.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim_clock.h"
#include "sim/sim_exchange.h"
#include "sim/sim_fault.h"
#include "sim/sim_raw.h"

/* A copy of the fault's terms: the fault may be removed before the answer comes. Owned by the
 * exchange (its intercept_argument). */
struct strike {
    struct fault fault;
    struct event *timer;
    struct evbuffer *body;
    struct exchange *exchange;
    int status;
    char content_type[64];
    char value[];
};

static void strike_clear(struct strike *strike)
{
    if (strike->timer)
        event_free(strike->timer);
    if (strike->body)
        evbuffer_free(strike->body);
    strike->timer = NULL;
    strike->body = NULL;
}

/* ---- answers that evhttp can send ---- */

static void reply_text(struct exchange *exchange, int status, const char *type, const char *text)
{
    struct evbuffer *body = evbuffer_new();
    if (body)
        evbuffer_add(body, text, strlen(text));
    exchange_reply(exchange, status, type, body);
    if (body)
        evbuffer_free(body);
}

static void reply_status(struct strike *strike, struct exchange *exchange)
{
    int code = (int)fault_number(&strike->fault, 500);
    char text[200];
    if (strike->fault.retry_after_s >= 0) {
        snprintf(text, sizeof text, "%lld", (long long)strike->fault.retry_after_s);
        exchange_add_field(exchange, "Retry-After", text);
    }
    const char *form = strike->fault.body;
    if (strcmp(form, "html") == 0) {
        snprintf(
            text, sizeof text,
            "<html>\r\n<head><title>%d</title></head>\r\n<body><center><h1>%d</h1></center></body>"
            "\r\n</html>\r\n",
            code, code);
        reply_text(exchange, code, "text/html", text);
    } else if (strcmp(form, "text") == 0) {
        snprintf(text, sizeof text, "error code: %d", code);
        reply_text(exchange, code, "text/plain; charset=UTF-8", text);
    } else if (strcmp(form, "empty") == 0) {
        exchange_reply(exchange, code, NULL, NULL);
    } else {
        snprintf(
            text, sizeof text,
            "{\"detail\":\"struck by a fault of podgate-sim\",\"status\":%d,\"title\":\"Fault\"}",
            code);
        reply_text(exchange, code, "application/json", text);
    }
}

static void reply_redirect(struct strike *strike, struct exchange *exchange)
{
    exchange_add_field(exchange, "Location", strike->fault.value);
    exchange_reply(exchange, strike->fault.code ? (int)strike->fault.code : 307, NULL, NULL);
}

/* Changes the first id of the body into another of the same form. */
static void alter_id(struct evbuffer *body)
{
    struct evbuffer_ptr at = evbuffer_search(body, "\"id\":\"", 6, NULL);
    unsigned char *bytes = evbuffer_pullup(body, -1);
    if (at.pos < 0 || !bytes)
        return;
    size_t start = (size_t)at.pos + 6;
    if (memcmp(bytes + start, "sync-", 5) == 0)
        start += 5;
    for (size_t i = start; i < start + 8 && i < evbuffer_get_length(body) && bytes[i] != '"'; i++)
        bytes[i] = (unsigned char)"deadbeef"[i - start];
}

/* An upstream that repeats the caller's credentials: in a field, and in the body. */
static void add_echo(struct exchange *exchange, struct evbuffer *body)
{
    const char *authorization = exchange_field(exchange, "Authorization");
    if (!authorization)
        return;
    exchange_add_field(exchange, "X-Echo-Authorization", authorization);
    size_t length = evbuffer_get_length(body);
    unsigned char *bytes = evbuffer_pullup(body, -1);
    if (length < 2 || !bytes || bytes[length - 1] != '}')
        return;
    struct evbuffer *echo = evbuffer_new();
    if (!echo)
        return;
    evbuffer_remove_buffer(body, echo, length - 1);
    evbuffer_drain(body, 1);
    evbuffer_add_printf(echo, "%s\"zEcho\":", length == 2 ? "" : ",");
    sim_json_quote(echo, authorization, strlen(authorization));
    evbuffer_add(echo, "}", 1);
    evbuffer_add_buffer(body, echo);
    evbuffer_free(echo);
}

static uint32_t crc32_of(const unsigned char *bytes, size_t length)
{
    uint32_t crc = 0xffffffffU;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1U) ? 0xedb88320U : 0U);
    }
    return ~crc;
}

static void add_little_endian(struct evbuffer *out, uint32_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)(value >> (8 * i));
        evbuffer_add(out, &byte, 1);
    }
}

/* A valid gzip member of stored blocks (RFC 1952, RFC 1951 3.2.4): encoded, not smaller. */
static void encode_gzip(struct evbuffer *body)
{
    size_t length = evbuffer_get_length(body);
    const unsigned char *bytes = length ? evbuffer_pullup(body, -1) : (const unsigned char *)"";
    struct evbuffer *out = evbuffer_new();
    if (!out || !bytes) {
        if (out)
            evbuffer_free(out);
        return;
    }
    evbuffer_add(out, "\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
    size_t done = 0;
    do {
        size_t block = length - done > 65535 ? 65535 : length - done;
        evbuffer_add(out, done + block == length ? "\x01" : "\0", 1);
        add_little_endian(out, (uint32_t)block, 2);
        add_little_endian(out, ~(uint32_t)block, 2);
        evbuffer_add(out, bytes + done, block);
        done += block;
    } while (done < length);
    add_little_endian(out, crc32_of(bytes, length), 4);
    add_little_endian(out, (uint32_t)length, 4);
    evbuffer_drain(body, length);
    evbuffer_add_buffer(body, out);
    evbuffer_free(out);
}

/* ---- answers byte by byte ---- */

static void write_fields(struct evbuffer *out, const struct strike *strike,
                         const struct exchange *exchange)
{
    struct evkeyval *field;
    struct evkeyvalq *fields = evhttp_request_get_output_headers(exchange->request);
    if (strike->content_type[0] && !evhttp_find_header(fields, "Content-Type"))
        evbuffer_add_printf(out, "Content-Type: %s\r\n", strike->content_type);
    TAILQ_FOREACH(field, fields, next)
    evbuffer_add_printf(out, "%s: %s\r\n", field->key, field->value);
}

static void write_filler(struct evbuffer *out, int64_t bytes)
{
    evbuffer_add_printf(out, "X-Filler: ");
    for (; bytes > 0; bytes--)
        evbuffer_add(out, "f", 1);
    evbuffer_add(out, "\r\n", 2);
}

static void write_framing(struct evbuffer *out, const struct strike *strike, size_t length,
                          bool streaming)
{
    const struct fault *fault = &strike->fault;
    enum fault_kind kind = fault->kind;
    long long stated = (long long)length;
    if (kind == FAULT_NO_LENGTH) {
        evbuffer_add_printf(out, "Connection: close\r\n");
        return;
    }
    if (kind == FAULT_WRONG_LENGTH)
        stated += fault_number(fault, 10);
    if (kind == FAULT_TWIN_LENGTH)
        evbuffer_add_printf(out, "Content-Length: %lld\r\n", stated + fault_number(fault, 10));
    if (kind == FAULT_BIG_HEADER)
        write_filler(out, fault_number(fault, 70000));
    if (streaming || kind == FAULT_BAD_CHUNK || kind == FAULT_BOTH_FRAMINGS)
        evbuffer_add_printf(out, "Transfer-Encoding: chunked\r\n");
    if (!streaming && kind != FAULT_BAD_CHUNK)
        evbuffer_add_printf(out, "Content-Length: %lld\r\n", stated);
}

static void write_body(struct evbuffer *out, const struct strike *strike, struct evbuffer *body)
{
    enum fault_kind kind = strike->fault.kind;
    bool chunked = kind == FAULT_BAD_CHUNK || kind == FAULT_BOTH_FRAMINGS;
    if (chunked)
        evbuffer_add_printf(out, "%zx\r\n", body ? evbuffer_get_length(body) : 0);
    if (body)
        evbuffer_add_buffer(out, body);
    if (kind == FAULT_BAD_CHUNK)
        evbuffer_add_printf(out, "\r\nzz\r\nnot a chunk");
    if (chunked)
        evbuffer_add_printf(out, "\r\n0\r\n\r\n");
    if (kind == FAULT_EXTRA) {
        for (int64_t left = fault_number(&strike->fault, 16); left > 0; left--)
            evbuffer_add(out, "X", 1);
    }
}

static void write_answer(struct evbuffer *out, const struct strike *strike,
                         const struct exchange *exchange, int status, struct evbuffer *body)
{
    const struct fault *fault = &strike->fault;
    if (fault->kind == FAULT_RAW) {
        evbuffer_add(out, fault->value, strlen(fault->value));
        return;
    }
    if (fault->kind == FAULT_GARBAGE) {
        static const char noise[] = "\x16\x03\x01\0\xff\xfe garbage\r\n\r\n\0\0{]";
        evbuffer_add(out, noise, sizeof noise - 1);
        return;
    }
    if (fault->kind == FAULT_INFORMATIONAL) {
        int code = fault->code ? (int)fault->code : 103;
        for (int64_t i = fault_number(fault, 100); i > 0; i--)
            evbuffer_add_printf(out, "HTTP/1.1 %d Informational\r\nX-Count: %lld\r\n\r\n", code,
                                (long long)i);
    }
    evbuffer_add_printf(out, "HTTP/1.1 %d %s\r\n", status, status == 200 ? "OK" : "Status");
    write_fields(out, strike, exchange);
    write_framing(out, strike, body ? evbuffer_get_length(body) : 0, exchange->streaming);
    evbuffer_add(out, "\r\n", 2);
    write_body(out, strike, body);
}

static struct raw_plan make_plan(const struct fault *fault)
{
    struct raw_plan plan = {.limit = SIZE_MAX, .end = RAW_CLOSE};
    enum fault_kind kind = fault->kind;
    if (kind == FAULT_CUT || kind == FAULT_RESET || kind == FAULT_STALL)
        plan.limit = (size_t)fault_number(fault, 0);
    if (kind == FAULT_CLOSE)
        plan.limit = 0;
    if (kind == FAULT_RESET)
        plan.end = RAW_RESET;
    /* After stray bytes the connection looks usable, which is the point. */
    if (kind == FAULT_STALL || kind == FAULT_EXTRA)
        plan.end = RAW_STALL;
    if (kind == FAULT_DRIP) {
        plan.drip_ms = fault_number(fault, 10);
        plan.drip_bytes = fault->bytes > 0 ? (size_t)fault->bytes : 1;
    }
    plan.bad_chunk = kind == FAULT_BAD_CHUNK;
    return plan;
}

static void answer_raw(struct strike *strike, struct exchange *exchange, int status,
                       struct evbuffer *body)
{
    struct raw_plan plan = make_plan(&strike->fault);
    bool streaming = exchange->streaming;
    if (streaming)
        plan.delay_ms = strike->fault.delay_ms; /* that of a whole answer is over by now */
    struct evbuffer *bytes = evbuffer_new();
    if (bytes)
        write_answer(bytes, strike, exchange, status, body);
    struct raw_connection *raw = bytes ? raw_take(exchange, &plan) : NULL;
    if (raw) {
        raw_write(raw, bytes);
        if (!streaming)
            raw_finish(raw, false);
    } else if (!streaming) {
        exchange_reply(exchange, 500, NULL, NULL);
    }
    if (bytes)
        evbuffer_free(bytes);
}

/* ---- the answer has come ---- */

static void deliver(struct strike *strike, struct exchange *exchange, int status,
                    struct evbuffer *body)
{
    switch (strike->fault.kind) {
    case FAULT_STATUS: reply_status(strike, exchange); return;
    case FAULT_REDIRECT: reply_redirect(strike, exchange); return;
    case FAULT_PHANTOM:
        reply_text(exchange, 404, "application/json",
                   "{\"detail\":\"job not found\",\"status\":404,\"title\":\"Not Found\"}");
        return;
    case FAULT_NO_ID:
        reply_text(exchange, 200, "application/json",
                   strcmp(strike->fault.body, "status") == 0
                       ? "{\"status\":\"IN_QUEUE\"}"
                       : "{\"error\":\"struck by a fault of podgate-sim\"}");
        return;
    case FAULT_WRONG_ID:
        if (body)
            alter_id(body);
        break;
    case FAULT_ECHO:
        if (body)
            add_echo(exchange, body);
        break;
    case FAULT_GZIP:
        exchange_add_field(exchange, "Content-Encoding", "gzip");
        if (body)
            encode_gzip(body);
        break;
    case FAULT_REFUSE:
    case FAULT_ACCEPT_RESET:
    case FAULT_ACCEPT_CLOSE:
    case FAULT_ACCEPT_GARBAGE:
    case FAULT_RESET_REQUEST:
    case FAULT_DELAY: break;
    case FAULT_CLOSE:
    case FAULT_DRIP:
    case FAULT_CUT:
    case FAULT_RESET:
    case FAULT_STALL:
    case FAULT_WRONG_LENGTH:
    case FAULT_NO_LENGTH:
    case FAULT_TWIN_LENGTH:
    case FAULT_BOTH_FRAMINGS:
    case FAULT_BAD_CHUNK:
    case FAULT_GARBAGE:
    case FAULT_INFORMATIONAL:
    case FAULT_EXTRA:
    case FAULT_BIG_HEADER:
    case FAULT_RAW: answer_raw(strike, exchange, status, body); return;
    }
    exchange_reply(exchange, status, strike->content_type[0] ? strike->content_type : NULL, body);
}

static void on_delay_over(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct strike *strike = argument;
    struct evbuffer *body = strike->body;
    strike->body = NULL;
    strike_clear(strike);
    strike->exchange->on_gone = NULL;
    deliver(strike, strike->exchange, strike->status, body);
    if (body)
        evbuffer_free(body);
}

static void on_gone(struct exchange *exchange, void *argument)
{
    (void)exchange;
    strike_clear(argument);
}

static void on_answer(struct exchange *exchange, int status, const char *content_type,
                      struct evbuffer *body, void *argument)
{
    struct strike *strike = argument;
    snprintf(strike->content_type, sizeof strike->content_type, "%s",
             content_type ? content_type : "");
    if (exchange->streaming) {
        /* A stream has begun: only what works on its bytes can strike it. */
        answer_raw(strike, exchange, status, NULL);
        return;
    }
    if (strike->fault.delay_ms > 0) {
        strike->exchange = exchange;
        strike->status = status;
        strike->timer = evtimer_new(exchange->base, on_delay_over, strike);
        strike->body = evbuffer_new();
        if (strike->timer && strike->body) {
            struct timeval wait = sim_clock_real_interval(strike->fault.delay_ms);
            if (body)
                evbuffer_add_buffer(strike->body, body);
            evtimer_add(strike->timer, &wait);
            exchange_hold(exchange, on_gone, strike);
            return;
        }
        strike_clear(strike);
    }
    deliver(strike, exchange, status, body);
}

bool strike_begin(struct exchange *exchange, const struct fault *fault)
{
    size_t value_bytes = fault->value ? strlen(fault->value) + 1 : 0;
    struct strike *strike = calloc(1, sizeof *strike + value_bytes);
    if (!strike)
        return false;
    strike->fault = *fault;
    strike->fault.value = NULL;
    if (value_bytes) {
        memcpy(strike->value, fault->value, value_bytes);
        strike->fault.value = strike->value;
    }
    exchange->intercept = on_answer;
    exchange->intercept_argument = strike;
    bool instead = fault->kind >= FAULT_STATUS && fault->kind <= FAULT_CLOSE && !fault->executed;
    if (instead)
        exchange_reply(exchange, 200, NULL, NULL);
    return instead;
}
