#include "build_config.h"

#include "sim/sim_exchange.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdlib.h>
#include <string.h>

struct exchange *exchange_create(struct event_base *base, uint64_t *hang_ups,
                                 struct evhttp_request *request)
{
    static const struct {
        enum evhttp_cmd_type command;
        const char *name;
    } methods[] = {{EVHTTP_REQ_GET, "GET"},        {EVHTTP_REQ_POST, "POST"},
                   {EVHTTP_REQ_PUT, "PUT"},        {EVHTTP_REQ_DELETE, "DELETE"},
                   {EVHTTP_REQ_HEAD, "HEAD"},      {EVHTTP_REQ_OPTIONS, "OPTIONS"},
                   {EVHTTP_REQ_PATCH, "PATCH"},    {EVHTTP_REQ_TRACE, "TRACE"},
                   {EVHTTP_REQ_CONNECT, "CONNECT"}};
    struct exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange)
        return NULL;
    exchange->method = "?";
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (evhttp_request_get_command(request) == methods[i].command)
            exchange->method = methods[i].name;
    }
    exchange->base = base;
    exchange->hang_ups = hang_ups;
    exchange->request = request;
    exchange->connection = evhttp_request_get_connection(request);
    exchange->target = evhttp_request_get_uri(request);
    struct evbuffer *body = evhttp_request_get_input_buffer(request);
    exchange->body.length = evbuffer_get_length(body);
    exchange->body.data = exchange->body.length ? (const char *)evbuffer_pullup(body, -1) : "";
    if (!exchange->body.data)
        exchange->body = sim_text_of("");
    return exchange;
}

const char *exchange_field(const struct exchange *exchange, const char *name)
{
    return evhttp_find_header(evhttp_request_get_input_headers(exchange->request), name);
}

void exchange_add_field(struct exchange *exchange, const char *name, const char *value)
{
    evhttp_add_header(evhttp_request_get_output_headers(exchange->request), name, value);
}

void exchange_release(struct exchange *exchange)
{
    if (exchange->on_finished)
        exchange->on_finished(exchange, exchange->finished_argument);
    if (exchange->hang_up_watch)
        event_free(exchange->hang_up_watch);
    free(exchange->intercept_argument);
    free(exchange);
}

void exchange_abandon(struct exchange *exchange)
{
    ++*exchange->hang_ups;
    if (exchange->on_gone)
        exchange->on_gone(exchange, exchange->gone_argument);
    exchange_release(exchange);
}

/* Lets go of the connection before evhttp finishes the answer on its own. */
static void exchange_detach(struct exchange *exchange)
{
    evhttp_connection_set_closecb(exchange->connection, NULL, NULL);
    if (exchange->hang_up_watch) {
        event_free(exchange->hang_up_watch);
        exchange->hang_up_watch = NULL;
    }
}

/* evhttp knows few reason phrases beyond the class's. */
static const char *reason_of(int status)
{
    switch (status) {
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 409: return "Conflict";
    case 429: return "Too Many Requests";
    case 504: return "Gateway Timeout";
    default: return NULL;
    }
}

void exchange_reply(struct exchange *exchange, int status, const char *content_type,
                    struct evbuffer *body)
{
    if (exchange->intercept) {
        exchange_intercept *intercept = exchange->intercept;
        exchange->intercept = NULL;
        intercept(exchange, status, content_type, body, exchange->intercept_argument);
        return;
    }
    if (content_type)
        exchange_add_field(exchange, "Content-Type", content_type);
    exchange_detach(exchange);
    evhttp_send_reply(exchange->request, status, reason_of(status), body);
    exchange_release(exchange);
}

void exchange_reply_json(struct exchange *exchange, int status, const char *json)
{
    struct evbuffer *body = evbuffer_new();
    if (body)
        evbuffer_add(body, json, strlen(json));
    exchange_reply(exchange, status, "application/json", body);
    if (body)
        evbuffer_free(body);
}

static void on_connection_closed(struct evhttp_connection *connection, void *argument)
{
    (void)connection;
    struct exchange *exchange = argument;
    struct evhttp_request *request = exchange->request;
    exchange_abandon(exchange);
    /* When writing failed, evhttp has left the unfinished request to us. */
    if (!evhttp_request_get_connection(request))
        evhttp_request_free(request);
}

static void on_hang_up(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct exchange *exchange = argument;
    evhttp_connection_free(exchange->connection); /* calls on_connection_closed() */
}

static void exchange_watch(struct exchange *exchange, exchange_gone *on_gone, void *argument)
{
    exchange->on_gone = on_gone;
    exchange->gone_argument = argument;
    if (exchange->writer || exchange->hang_up_watch)
        return;
    evhttp_connection_set_closecb(exchange->connection, on_connection_closed, exchange);
    /* evhttp does not read while an answer is pending, so it would not notice a hang-up. */
    struct bufferevent *bufferevent = evhttp_connection_get_bufferevent(exchange->connection);
    exchange->hang_up_watch =
        event_new(exchange->base, bufferevent_getfd(bufferevent), EV_CLOSED, on_hang_up, exchange);
    if (exchange->hang_up_watch)
        event_add(exchange->hang_up_watch, NULL);
}

void exchange_hold(struct exchange *exchange, exchange_gone *on_gone, void *argument)
{
    exchange_watch(exchange, on_gone, argument);
}

void exchange_stream_start(struct exchange *exchange, const char *content_type,
                           exchange_gone *on_gone, void *argument)
{
    exchange->streaming = true;
    exchange_add_field(exchange, "Content-Type", content_type);
    exchange_watch(exchange, on_gone, argument);
    if (exchange->intercept) {
        exchange_intercept *intercept = exchange->intercept;
        exchange->intercept = NULL;
        intercept(exchange, 200, content_type, NULL, exchange->intercept_argument);
        return;
    }
    evhttp_send_reply_start(exchange->request, 200, NULL);
}

void exchange_stream_write(struct exchange *exchange, struct evbuffer *bytes)
{
    if (exchange->writer)
        exchange->writer->write_chunk(exchange->writer_argument, bytes);
    else
        evhttp_send_reply_chunk(exchange->request, bytes);
}

size_t exchange_stream_backlog(const struct exchange *exchange)
{
    return evbuffer_get_length(
        bufferevent_get_output(evhttp_connection_get_bufferevent(exchange->connection)));
}

void exchange_stream_end(struct exchange *exchange)
{
    if (exchange->writer) {
        exchange->writer->finish(exchange->writer_argument);
        return;
    }
    exchange_detach(exchange);
    evhttp_send_reply_end(exchange->request);
    exchange_release(exchange);
}
