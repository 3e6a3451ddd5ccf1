#include "build_config.h"

#include <stdlib.h>

#include "base/clock.h"
#include "model/metric_catalogue.h"
#include "net/upstream_private.h"

/* A response as it comes in: parsed where it was read, told piece by piece or collected, judged
 * strictly, and what happens when it breaks off. All callbacks but on_failure() come from here, and
 * only from a readable event. */

enum { READS_PER_EVENT = 4 /* so that one fast response doesn't starve the others */ };

/* What is left to do after a piece was taken or a callback came back. */
enum progress {
    PROGRESS_MORE, /* the exchange goes on */
    PROGRESS_OVER, /* it is not on this connection any more: touch neither */
};

static bool is_alive(const struct upstream_connection *connection,
                     const struct upstream_exchange *exchange)
{
    return connection->state == UPSTREAM_CONNECTION_BUSY && connection->exchange == exchange;
}

/* ---- the end of an exchange */

static enum progress fail(struct upstream_connection *connection,
                          struct upstream_exchange *exchange, enum upstream_failure failure)
{
    upstream_connection_close(connection);
    upstream_exchange_fail(exchange, failure);
    return PROGRESS_OVER;
}

static enum progress fail_malformed(struct upstream_connection *connection,
                                    struct upstream_exchange *exchange, struct view reason)
{
    struct log_line *line =
        log_begin(connection->upstream->log, LOG_LEVEL_WARNING, "upstream_malformed");

    log_text(line, "reason", reason);
    log_end(line);
    return fail(connection, exchange, UPSTREAM_MALFORMED);
}

static bool can_be_kept(const struct upstream_connection *connection,
                        const struct upstream_exchange *exchange, bool has_extra)
{
    const struct http_head *head = &connection->response.head;

    return !has_extra && head->keep_alive && head->minor >= 1 && head->framing != HTTP_BODY_CLOSE &&
           upstream_exchange_is_sent(exchange) && !transport_has_buffered(&connection->transport);
}

/* The response is whole: `data` are its last bytes. The connection goes on first, so that what the
 * handler sends next can already have it. */
static enum progress finish(struct upstream_connection *connection,
                            struct upstream_exchange *exchange, struct view data, bool has_extra)
{
    struct upstream *upstream = connection->upstream;
    bool is_kept = can_be_kept(connection, exchange, has_extra);

    connection->answers++;
    exchange->connection = NULL;
    if (UNLIKELY(exchange->paused)) {
        is_kept = is_kept && event_add(&connection->read_event, NULL) == 0;
    }
    if (is_kept) {
        upstream_pool_put(connection);
    } else {
        upstream_connection_close(connection);
        upstream_pool_serve(upstream);
    }
    exchange->handler->on_body(exchange->owner, exchange, data, true);
    upstream_exchange_free(exchange);
    return PROGRESS_OVER;
}

/* The connection gave out before the response was whole. Reliability comes from not guessing: a
 * request goes out again only when the upstream can't have all of it, or when it does no harm. */
static bool may_resend(const struct upstream_connection *connection,
                       const struct upstream_exchange *exchange)
{
    if (exchange->has_response_bytes) {
        return false;
    }
    if (exchange->sent_bytes == 0 && connection->answers > 0) {
        return true; /* B: a pooled connection that was dead already. Each try uses one up. */
    }
    if (exchange->resent) {
        return false;
    }
    switch (exchange->request.resend) {
    case UPSTREAM_RESEND_NEVER: return false;
    case UPSTREAM_RESEND_SUBMIT: return !upstream_exchange_is_sent(exchange); /* C */
    case UPSTREAM_RESEND_READ: return true;
    }
    return false;
}

static void send_again(struct upstream_exchange *exchange, bool was_pooled)
{
    struct upstream *upstream = exchange->upstream;

    if (exchange->sent_bytes > 0 || !was_pooled) {
        exchange->resent = true;
        exchange->needs_new = true;
        metrics_add(upstream->metrics, METRIC_UPSTREAM_RESENDS, 0, 0, 1);
    }
    exchange->sent_bytes = 0;
    exchange->total_bytes = 0;
    exchange->write_failed = false;
    exchange->sent_deadline_ms = 0;
    exchange->idle_deadline_ms = 0;
    exchange->wait_deadline_ms =
        upstream_deadline_ms(upstream->config->upstream.waiting_timeout_ms);
    exchange->timing = (struct upstream_timing){0};
    upstream_exchange_move(exchange, UPSTREAM_EXCHANGE_WAITING);
    upstream_pool_serve(upstream);
}

/* ---- the response */

static bool add_collected(struct upstream_exchange *exchange, struct view data)
{
    size_t length = body_view(exchange->collected).length - exchange->collect_start;

    return data.length <= exchange->collect_maximum - length &&
           body_append(exchange->collected, data);
}

static enum progress tell(struct upstream_connection *connection,
                          struct upstream_exchange *exchange, struct view data)
{
    exchange->told = true;
    exchange->handler->on_body(exchange->owner, exchange, data, false);
    return is_alive(connection, exchange) ? PROGRESS_MORE : PROGRESS_OVER;
}

static struct view collected_bytes(const struct upstream_exchange *exchange)
{
    return view_skip(body_view(exchange->collected), exchange->collect_start);
}

/* Too much comes to be collected: tells what is there. */
static enum progress stop_collecting(struct upstream_connection *connection,
                                     struct upstream_exchange *exchange)
{
    struct view so_far = collected_bytes(exchange);

    exchange->collected = NULL;
    return tell(connection, exchange, so_far);
}

/* Body bytes that are not the last: tells or collects them. */
static enum progress take(struct upstream_connection *connection,
                          struct upstream_exchange *exchange, struct view data)
{
    if (data.length == 0) {
        return PROGRESS_MORE;
    }
    if (exchange->collected) {
        if (add_collected(exchange, data)) {
            return PROGRESS_MORE;
        }
        if (stop_collecting(connection, exchange) == PROGRESS_OVER) {
            return PROGRESS_OVER;
        }
    }
    return tell(connection, exchange, data);
}

/* The last body bytes. */
static enum progress take_last(struct upstream_connection *connection,
                               struct upstream_exchange *exchange, struct view data, bool has_extra)
{
    if (exchange->collected) {
        if (add_collected(exchange, data)) {
            data = collected_bytes(exchange);
        } else if (stop_collecting(connection, exchange) == PROGRESS_OVER) {
            return PROGRESS_OVER;
        }
    }
    return finish(connection, exchange, data, has_extra);
}

/* One piece is held back until the next step is known, so that a small body is told in one piece,
 * with `last`. */
static enum progress take_chunked(struct upstream_connection *connection,
                                  struct upstream_exchange *exchange, struct view input)
{
    struct view held = {NULL, 0};
    struct view data = {NULL, 0};

    for (;;) {
        switch (http_chunked_next(&connection->chunked, &input, &data)) {
        case HTTP_CHUNKED_MORE: return take(connection, exchange, held);
        case HTTP_CHUNKED_DATA:
            if (take(connection, exchange, held) == PROGRESS_OVER) {
                return PROGRESS_OVER;
            }
            held = data;
            break;
        case HTTP_CHUNKED_END: return take_last(connection, exchange, held, input.length > 0);
        case HTTP_CHUNKED_FAULT:
            /* What came before the fault is genuine, and is told before the failure is. */
            if (take(connection, exchange, held) == PROGRESS_OVER) {
                return PROGRESS_OVER;
            }
            return fail_malformed(connection, exchange, http_chunked_name(&connection->chunked));
        }
    }
}

static enum progress take_body(struct upstream_connection *connection,
                               struct upstream_exchange *exchange, struct view input)
{
    switch ((enum http_body_framing)connection->response.head.framing) {
    case HTTP_BODY_NONE:
        return take_last(connection, exchange, view_make(NULL, 0), input.length > 0);
    case HTTP_BODY_LENGTH:
        if (input.length < connection->body_left) {
            connection->body_left -= input.length;
            return take(connection, exchange, input);
        }
        return take_last(connection, exchange, view_first(input, (size_t)connection->body_left),
                         input.length > connection->body_left);
    case HTTP_BODY_CHUNKED: return take_chunked(connection, exchange, input);
    case HTTP_BODY_CLOSE: return take(connection, exchange, input);
    }
    return fail(connection, exchange, UPSTREAM_MALFORMED);
}

static enum progress take_final_head(struct upstream_connection *connection,
                                     struct upstream_exchange *exchange, struct view rest)
{
    struct http_response_head *response = &connection->response;

    if (response->objection == HTTP_HEAD_ENCODED && response->head.framing != HTTP_BODY_NONE) {
        return fail(connection, exchange, UPSTREAM_ENCODED);
    }
    connection->head_done = true;
    connection->body_left = response->head.content_length;
    http_chunked_begin(&connection->chunked);
    exchange->timing.head_us = clock_mono_us();
    exchange->told = true;
    exchange->handler->on_head(exchange->owner, exchange, response);
    if (!is_alive(connection, exchange)) {
        return PROGRESS_OVER;
    }
    /* The rest may lie in the stash, so it stays as it is until the next event. */
    connection->stash_length = 0;
    return take_body(connection, exchange, rest);
}

/* `input` is all that there is of the head and what follows; it may lie in the stash. */
static enum progress take_head(struct upstream_connection *connection,
                               struct upstream_exchange *exchange, struct view input)
{
    struct http_response_head *response = &connection->response;

    for (;;) {
        enum http_head_result result = http_response_parse(response, input.data, input.length);

        if (result == HTTP_HEAD_INCOMPLETE) {
            if (input.length == connection->stash_length) {
                return PROGRESS_MORE;
            }
            connection->stash_length = 0;
            return upstream_connection_keep(connection, input)
                       ? PROGRESS_MORE
                       : fail(connection, exchange, UPSTREAM_NO_MEMORY);
        }
        if (result != HTTP_HEAD_OK) {
            return fail_malformed(connection, exchange, http_head_name(result));
        }
        if (LIKELY(response->status >= 200)) {
            return take_final_head(connection, exchange, view_skip(input, response->head.length));
        }
        /* Nobody asked for another protocol (RFC 9110 section 15.2.2). */
        if (response->status == 101 || ++connection->interims > UPSTREAM_INTERIM_MAXIMUM) {
            return fail_malformed(connection, exchange, VIEW("interim_response"));
        }
        input = view_skip(input, response->head.length);
        http_response_begin(response,
                            exchange->request.expects_no_body ? HTTP_METHOD_HEAD : HTTP_METHOD_GET);
    }
}

/* The connection has ended, or broken. */
static enum progress end(struct upstream_connection *connection, struct upstream_exchange *exchange,
                         enum transport_result result)
{
    if (connection->head_done) {
        /* Under TLS only close_notify ends such a body: a mere FIN may be an attacker's
         * (RFC 9112 section 9.8). */
        if (connection->response.head.framing == HTTP_BODY_CLOSE && result == TRANSPORT_END) {
            return take_last(connection, exchange, view_make(NULL, 0), false);
        }
        return fail(connection, exchange, UPSTREAM_INCOMPLETE);
    }
    if (!may_resend(connection, exchange)) {
        return fail(connection, exchange, UPSTREAM_BROKEN);
    }
    upstream_connection_close(connection);
    send_again(exchange, connection->answers > 0);
    return PROGRESS_OVER;
}

/* Where the next bytes are read to. */
enum read_target { READ_TO_BUFFER, READ_TO_STASH, READ_TO_BODY };

static enum read_target choose_target(struct upstream_connection *connection,
                                      struct upstream_exchange *exchange, char **room,
                                      size_t *room_bytes)
{
    *room = connection->upstream->read_buffer;
    *room_bytes = UPSTREAM_READ_BYTES;
    if (LIKELY(!connection->head_done)) {
        if (LIKELY(connection->stash_length == 0)) {
            return READ_TO_BUFFER;
        }
        if (connection->stash_capacity - connection->stash_length < UPSTREAM_STASH_STEP_BYTES) {
            size_t capacity = connection->stash_capacity * 2 + UPSTREAM_STASH_STEP_BYTES;
            char *grown = realloc(connection->stash, capacity);

            if (!grown) {
                *room_bytes = 0;
                return READ_TO_STASH;
            }
            connection->stash = grown;
            connection->stash_capacity = capacity;
        }
        *room = connection->stash + connection->stash_length;
        *room_bytes = connection->stash_capacity - connection->stash_length;
        return READ_TO_STASH;
    }
    if (exchange->collected && connection->response.head.framing == HTTP_BODY_LENGTH &&
        connection->body_left > 0) {
        size_t wanted = (size_t)connection->body_left + 1;
        size_t found = 0;
        char *body_end = body_view(exchange->collected).length - exchange->collect_start +
                                     connection->body_left <=
                                 exchange->collect_maximum
                             ? body_room(exchange->collected, wanted, &found)
                             : NULL;

        if (body_end) {
            *room = body_end;
            *room_bytes = found < wanted ? found : wanted;
            return READ_TO_BODY;
        }
    }
    return READ_TO_BUFFER;
}

static enum progress take_read(struct upstream_connection *connection,
                               struct upstream_exchange *exchange, enum read_target target,
                               const char *room, size_t count)
{
    switch (target) {
    case READ_TO_BUFFER:
        return connection->head_done ? take_body(connection, exchange, view_make(room, count))
                                     : take_head(connection, exchange, view_make(room, count));
    case READ_TO_STASH:
        connection->stash_length += count;
        return take_head(connection, exchange,
                         view_make(connection->stash, connection->stash_length));
    case READ_TO_BODY:
        if (count < connection->body_left) {
            body_added(exchange->collected, count);
            connection->body_left -= count;
            return PROGRESS_MORE;
        }
        body_added(exchange->collected, (size_t)connection->body_left);
        return finish(connection, exchange, collected_bytes(exchange),
                      count > connection->body_left);
    }
    return PROGRESS_OVER;
}

void upstream_response_read(struct upstream_connection *connection)
{
    struct upstream_exchange *exchange = connection->exchange;

    if (UNLIKELY(connection->stash && connection->stash_length == 0)) {
        free(connection->stash); /* of an earlier head: nobody looks at it any more */
        connection->stash = NULL;
        connection->stash_capacity = 0;
    }
    for (int round = 0;; round++) {
        char *room;
        size_t room_bytes;
        size_t count = 0;
        enum read_target target = choose_target(connection, exchange, &room, &room_bytes);
        enum transport_result result;

        if (UNLIKELY(room_bytes == 0)) {
            fail(connection, exchange, UPSTREAM_NO_MEMORY);
            return;
        }
        result = transport_read(&connection->transport, room, room_bytes, &count);
        if (result == TRANSPORT_AGAIN && !exchange->write_failed) {
            if (connection->transport.wants_write) {
                upstream_connection_wait_writable(connection);
            }
            break;
        }
        if (result != TRANSPORT_OK) {
            end(connection, exchange, result == TRANSPORT_AGAIN ? TRANSPORT_FAILED : result);
            return;
        }
        exchange->has_response_bytes = true;
        exchange->idle_deadline_ms = upstream_deadline_ms(exchange->request.deadlines.idle_ms);
        if (take_read(connection, exchange, target, room, count) == PROGRESS_OVER) {
            return;
        }
        if (exchange->paused) {
            break;
        }
        if (transport_has_buffered(&connection->transport)) {
            if (round >= READS_PER_EVENT) {
                event_active(&connection->read_event, EV_READ, 1);
                break;
            }
        } else if (count < room_bytes || round >= READS_PER_EVENT) {
            break;
        }
    }
    if (exchange->told && exchange->handler->on_pause) {
        exchange->told = false;
        exchange->handler->on_pause(exchange->owner, exchange);
    }
}
