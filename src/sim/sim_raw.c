#include "build_config.h"

#include "sim/sim_raw.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "sim/sim_clock.h"
#include "sim/sim_exchange.h"
#include "sim/sim_http.h"

enum { STALL_SECONDS = 600, ACKNOWLEDGE_POLLS = 500 };

/* Freed by on_closed(), that is, by whoever frees the evhttp connection. */
struct raw_connection {
    struct evhttp_connection *connection;
    struct bufferevent *bufferevent;
    struct exchange *exchange; /* NULL once finished */
    struct evbuffer *queue;
    struct event *timer;
    struct raw_plan plan;
    size_t sent;
    int polls;
    bool begun; /* the plan's delay is over */
    bool finished;
    bool ending;
    bool chunk_sent;
};

static void on_closed(struct evhttp_connection *connection, void *argument)
{
    (void)connection;
    struct raw_connection *raw = argument;
    if (raw->exchange) {
        raw->exchange->writer = NULL;
        exchange_abandon(raw->exchange);
    }
    evbuffer_free(raw->queue);
    event_free(raw->timer);
    free(raw);
}

static void end_connection(struct raw_connection *raw)
{
    int fd = (int)bufferevent_getfd(raw->bufferevent);
    int unacknowledged = 0;
    switch (raw->plan.end) {
    case RAW_STALL: return;
    case RAW_RESET:
        if (ioctl(fd, SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0 &&
            raw->polls++ < ACKNOWLEDGE_POLLS) {
            /* A reset throws away what the peer has not got yet. */
            struct timeval soon = {0, 1000};
            event_add(raw->timer, &soon);
            return;
        }
        sim_http_abort_socket(fd);
        break;
    case RAW_CLOSE: break;
    }
    evhttp_connection_free(raw->connection);
}

/* Moves what the plan allows now. May end the connection and free `raw`. */
static void pump(struct raw_connection *raw)
{
    struct evbuffer *output = bufferevent_get_output(raw->bufferevent);
    size_t ready = evbuffer_get_length(raw->queue);
    if (raw->plan.drip_ms > 0 && ready > raw->plan.drip_bytes)
        ready = raw->plan.drip_bytes;
    size_t left = raw->plan.limit - raw->sent;
    if (ready > left)
        ready = left;
    raw->sent += ready;
    evbuffer_remove_buffer(raw->queue, output, ready);
    bool at_limit = raw->sent >= raw->plan.limit;
    raw->ending = at_limit || (raw->finished && evbuffer_get_length(raw->queue) == 0);
    if (!raw->ending && raw->plan.drip_ms > 0) {
        struct timeval pause = sim_clock_real_interval(raw->plan.drip_ms);
        event_add(raw->timer, &pause);
    }
    if (raw->ending && evbuffer_get_length(output) == 0)
        end_connection(raw);
}

static void on_timer(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct raw_connection *raw = argument;
    raw->begun = true;
    if (raw->ending)
        end_connection(raw);
    else
        pump(raw);
}

static void on_written(struct bufferevent *bufferevent, void *argument)
{
    (void)bufferevent;
    struct raw_connection *raw = argument;
    if (raw->ending)
        end_connection(raw);
}

static void on_read(struct bufferevent *bufferevent, void *argument)
{
    (void)argument;
    struct evbuffer *input = bufferevent_get_input(bufferevent);
    evbuffer_drain(input, evbuffer_get_length(input));
}

static void on_event(struct bufferevent *bufferevent, short what, void *argument)
{
    (void)bufferevent;
    (void)what;
    struct raw_connection *raw = argument;
    evhttp_connection_free(raw->connection);
}

static void write_chunk(void *argument, struct evbuffer *bytes)
{
    raw_write_chunk(argument, bytes);
}

static void finish(void *argument)
{
    raw_finish(argument, true);
}

static const struct exchange_writer writer = {.write_chunk = write_chunk, .finish = finish};

/* Has pump() called by the timer: at once, or after the plan's delay when nothing was sent yet. */
static void schedule(struct raw_connection *raw)
{
    if (!raw->begun && event_pending(raw->timer, EV_TIMEOUT, NULL))
        return;
    struct timeval wait = sim_clock_real_interval(raw->begun ? 0 : raw->plan.delay_ms);
    event_add(raw->timer, &wait);
}

struct raw_connection *raw_take(struct exchange *exchange, const struct raw_plan *plan)
{
    struct raw_connection *raw = calloc(1, sizeof *raw);
    if (!raw)
        return NULL;
    raw->queue = evbuffer_new();
    raw->timer = event_new(exchange->base, -1, 0, on_timer, raw);
    if (!raw->queue || !raw->timer) {
        if (raw->queue)
            evbuffer_free(raw->queue);
        if (raw->timer)
            event_free(raw->timer);
        free(raw);
        return NULL;
    }
    raw->plan = *plan;
    raw->exchange = exchange;
    raw->connection = exchange->connection;
    raw->bufferevent = evhttp_connection_get_bufferevent(exchange->connection);
    exchange->writer = &writer;
    exchange->writer_argument = raw;
    if (exchange->hang_up_watch) {
        event_free(exchange->hang_up_watch);
        exchange->hang_up_watch = NULL;
    }
    struct timeval stall = {STALL_SECONDS, 0};
    evhttp_connection_set_closecb(raw->connection, on_closed, raw);
    bufferevent_setcb(raw->bufferevent, on_read, on_written, on_event, raw);
    bufferevent_set_timeouts(raw->bufferevent, &stall, &stall);
    bufferevent_enable(raw->bufferevent, EV_READ | EV_WRITE);
    return raw;
}

/* What is queued leaves from a timer: the end of the connection frees the exchange, which the
 * writer still holds. */
void raw_write(struct raw_connection *raw, struct evbuffer *bytes)
{
    bool idle = evbuffer_get_length(raw->queue) == 0;
    evbuffer_add_buffer(raw->queue, bytes);
    if (raw->ending || (raw->plan.drip_ms > 0 && !idle))
        return;
    schedule(raw);
}

void raw_write_chunk(struct raw_connection *raw, struct evbuffer *bytes)
{
    size_t length = evbuffer_get_length(bytes);
    struct evbuffer *chunk = length ? evbuffer_new() : NULL;
    if (!chunk)
        return;
    if (raw->plan.bad_chunk && raw->chunk_sent)
        evbuffer_add_printf(chunk, "zz\r\n");
    else
        evbuffer_add_printf(chunk, "%zx\r\n", length);
    raw->chunk_sent = true;
    evbuffer_add_buffer(chunk, bytes);
    evbuffer_add(chunk, "\r\n", 2);
    raw_write(raw, chunk);
    evbuffer_free(chunk);
}

void raw_finish(struct raw_connection *raw, bool last_chunk)
{
    struct exchange *exchange = raw->exchange;
    if (last_chunk)
        evbuffer_add(raw->queue, "0\r\n\r\n", 5);
    raw->finished = true;
    raw->exchange = NULL;
    exchange->writer = NULL;
    exchange_release(exchange);
    if (raw->plan.drip_ms > 0 && event_pending(raw->timer, EV_TIMEOUT, NULL))
        return;
    schedule(raw);
}
