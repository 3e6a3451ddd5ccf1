#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/metric_catalogue.h"
#include "net/connection_private.h"

/* What a caller's bytes mean: heads, bodies, and what lies behind them. */

/* ---- heads ----------------------------------------------------------------------------------- */

/* Memory for the request that begins now. It is there from the first byte of a head on, since the
 * parser keeps its place in it. */
static struct inbound *begin_inbound(struct connection *connection)
{
    struct front *front = connection->front;
    struct inbound *inbound = front->handler->create_inbound(front->owner, connection);

    if (inbound) {
        inbound->connection = connection;
        inbound->received_bytes = 0;
        inbound->sent_bytes = 0;
        inbound->head_bytes = inbound->inlined;
        http_request_begin(&inbound->head);
        connection->inbound = inbound;
    }
    return inbound;
}

/* The head outlives the buffer that it was read into. */
static bool keep_head(struct inbound *inbound, const char *data)
{
    size_t length = inbound->head.head.length;

    if (length > sizeof inbound->inlined) {
        inbound->head_bytes = malloc(length);
        if (!inbound->head_bytes) {
            inbound->head_bytes = inbound->inlined;
            return false;
        }
    }
    memcpy(inbound->head_bytes, data, length);
    inbound->head.head.data = inbound->head_bytes;
    inbound->received_bytes = length;
    return true;
}

void connection_refuse_head(struct connection *connection, unsigned status, struct view detail)
{
    struct front *front = connection->front;
    struct http_head *head = &connection->inbound->head.head;

    connection_move(connection, CONNECTION_WAITING);
    /* Its fields lie in a buffer that by now may hold another caller's bytes, or be gone. */
    head->data = NULL;
    head->field_count = 0;
    memset(head->first, 0, sizeof head->first);
    /* Whatever follows can't be told from a body any more. */
    connection->body_unread = true;
    connection->body_skippable = false;
    connection->close_after = true;
    connection->deadline_ms = 0;
    metrics_add(front->metrics, METRIC_BAD_HEADS, 0, 0, 1);
    front->handler->on_bad_head(front->owner, connection->inbound, status, detail);
}

/* `behind_bytes` have come behind the head already. */
static void take_head(struct connection *connection, const char *data, size_t behind_bytes)
{
    struct front *front = connection->front;
    struct inbound *inbound = connection->inbound;

    connection_move(connection, CONNECTION_WAITING);
    connection->deadline_ms = 0;
    if (!keep_head(inbound, data)) {
        connection_close(connection, true);
        return;
    }
    connection->close_after = !inbound->head.head.keep_alive;
    connection->body_unread = inbound->head.head.framing != HTTP_BODY_NONE;
    connection->body_skippable = inbound->head.head.framing == HTTP_BODY_LENGTH &&
                                 inbound->head.head.content_length <= behind_bytes;
    connection->body_left = inbound->head.head.content_length;
    front->handler->on_head(front->owner, inbound);
}

/* ---- bodies ---------------------------------------------------------------------------------- */

void connection_read_body(struct connection *connection, uint64_t maximum_bytes)
{
    connection->body_wanted = true;
    connection->body_maximum = maximum_bytes;
}

void connection_refuse_body(struct connection *connection, enum connection_body_fault fault)
{
    struct front *front = connection->front;

    body_unref(connection->body);
    connection->body = NULL;
    connection->body_unread = true;
    connection->deadline_ms = 0;
    if (connection->state == CONNECTION_BODY) {
        connection_move(connection, CONNECTION_WAITING);
    }
    front->handler->on_body_fault(front->owner, connection->inbound, fault);
}

static void complete_body(struct connection *connection)
{
    struct front *front = connection->front;
    struct body *body = connection->body;

    connection->body = NULL;
    connection->body_unread = false;
    connection->deadline_ms = 0;
    if (connection->state == CONNECTION_BODY) {
        connection_move(connection, CONNECTION_WAITING);
    }
    front->handler->on_body(front->owner, connection->inbound, body);
}

static bool send_continue(struct connection *connection)
{
    struct iovec part;
    char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    size_t count = 0;

    part = (struct iovec){text, sizeof text - 1};
    /* Nothing else is on its way to the caller now, so these few bytes fit into the socket. */
    return transport_write(&connection->transport, &part, 1, &count) == TRANSPORT_OK &&
           count == sizeof text - 1;
}

static void begin_body(struct connection *connection, bool bytes_are_there)
{
    struct inbound *inbound = connection->inbound;
    const struct http_head *head = &inbound->head.head;
    size_t capacity;

    connection->body_wanted = false;
    connection->body_skippable = false;
    if (head->framing == HTTP_BODY_NONE ||
        (head->framing == HTTP_BODY_LENGTH && head->content_length == 0)) {
        complete_body(connection);
        return;
    }
    if (head->framing == HTTP_BODY_LENGTH && head->content_length > connection->body_maximum) {
        connection_refuse_body(connection, CONNECTION_BODY_TOO_LARGE);
        return;
    }
    capacity = head->framing == HTTP_BODY_LENGTH ? (size_t)head->content_length : 4096;
    if (body_budget_percent(connection->front->budget) < CONNECTION_BODY_BUDGET_PERCENT) {
        connection->body = body_create(connection->front->budget, capacity);
    }
    if (!connection->body) {
        connection_refuse_body(connection, CONNECTION_BODY_NO_MEMORY);
        return;
    }
    if (inbound->head.expects_continue && !bytes_are_there && !send_continue(connection)) {
        connection_close(connection, true);
        return;
    }
    connection_move(connection, CONNECTION_BODY);
    connection->body_too_slow = false;
    connection->body_left = head->content_length;
    connection->body_window_bytes = 0;
    http_chunked_begin(&connection->chunked);
    connection->body_window_end_ms = clock_mono_ms() + CONNECTION_BODY_WINDOW_MS;
    connection->deadline_ms = clock_mono_ms() + connection->front->config->timeouts.body_ms;
}

/* Silence ends a body by its deadline; one that drips is measured over a window. */
static void count_received(struct connection *connection, size_t count)
{
    uint64_t enough = (uint64_t)CONNECTION_BODY_BYTES_PER_SECOND * CONNECTION_BODY_WINDOW_MS / 1000;
    uint64_t now_ms = clock_mono_ms();

    connection->inbound->received_bytes += count;
    connection->body_window_bytes += count;
    if (now_ms >= connection->deadline_ms) {
        return; /* too slow already: no byte that still comes before the sweep makes up for it */
    }
    if (connection->body_too_slow) {
        return; /* the next sweep ends it, whatever still comes */
    }
    connection->deadline_ms = now_ms + connection->front->config->timeouts.body_ms;
    if (now_ms >= connection->body_window_end_ms) {
        connection->body_too_slow = connection->body_window_bytes < enough;
        if (connection->body_too_slow) {
            connection->deadline_ms = now_ms;
        }
        connection->body_window_bytes = 0;
        connection->body_window_end_ms = now_ms + CONNECTION_BODY_WINDOW_MS;
    }
}

static size_t take_length_body(struct connection *connection, const char *data, size_t length)
{
    size_t count = length < connection->body_left ? length : (size_t)connection->body_left;

    if (!body_append(connection->body, (struct view){data, count})) {
        connection_refuse_body(connection, CONNECTION_BODY_NO_MEMORY);
        return count;
    }
    count_received(connection, count);
    connection->body_left -= count;
    if (connection->body_left == 0) {
        complete_body(connection);
    }
    return count;
}

static size_t take_chunked_body(struct connection *connection, const char *data, size_t length)
{
    struct view input = {data, length};

    count_received(connection, length);
    for (;;) {
        struct view bytes = {NULL, 0};

        switch (http_chunked_next(&connection->chunked, &input, &bytes)) {
        case HTTP_CHUNKED_MORE: return length;
        case HTTP_CHUNKED_DATA:
            if (bytes.length > connection->body_maximum - body_view(connection->body).length) {
                connection_refuse_body(connection, CONNECTION_BODY_TOO_LARGE);
                return length - input.length;
            }
            if (!body_append(connection->body, bytes)) {
                connection_refuse_body(connection, CONNECTION_BODY_NO_MEMORY);
                return length - input.length;
            }
            break;
        case HTTP_CHUNKED_END:
            connection->inbound->received_bytes -= input.length;
            complete_body(connection);
            return length - input.length;
        case HTTP_CHUNKED_FAULT:
            connection_refuse_body(connection, CONNECTION_BODY_MALFORMED);
            return length - input.length;
        }
    }
}

/* ---- input ----------------------------------------------------------------------------------- */

/* One step through `data`; returns how much of it was used up. */
static size_t process_step(struct connection *connection, const char *data, size_t length)
{
    struct inbound *inbound = connection->inbound;
    enum http_head_result result;

    if (connection->state == CONNECTION_BODY) {
        return inbound->head.head.framing == HTTP_BODY_LENGTH
                   ? take_length_body(connection, data, length)
                   : take_chunked_body(connection, data, length);
    }
    if (connection->skip_left > 0) {
        size_t skipped = length < connection->skip_left ? length : (size_t)connection->skip_left;

        connection->skip_left -= skipped;
        return skipped;
    }
    if (!inbound) {
        inbound = begin_inbound(connection);
    }
    if (!inbound) {
        connection_close(connection, false);
        return length;
    }
    result = http_request_parse(&inbound->head, data, length);
    if (result == HTTP_HEAD_OK) {
        /* Read before the handler runs, which may end the request and with it `inbound`. */
        size_t head_length = inbound->head.head.length;

        take_head(connection, data, length - head_length);
        return head_length;
    }
    if (result != HTTP_HEAD_INCOMPLETE) {
        connection_refuse_head(connection, http_head_status(result), http_head_detail(result));
        return length;
    }
    if (connection->state == CONNECTION_IDLE) {
        connection_move(connection, CONNECTION_HEAD);
        connection->deadline_ms = clock_mono_ms() + connection->front->config->timeouts.head_ms;
    }
    return 0;
}

/* Works through bytes as far as possible; what is left is for later. */
static size_t process_input(struct connection *connection, const char *data, size_t length)
{
    size_t used = 0;

    connection->processing = true;
    while (used < length &&
           (connection->state == CONNECTION_IDLE || connection->state == CONNECTION_HEAD ||
            connection->state == CONNECTION_BODY)) {
        size_t step = process_step(connection, data + used, length - used);

        used += step;
        if (connection->state == CONNECTION_WAITING && connection->body_wanted) {
            begin_body(connection, used < length);
        } else if (step == 0) {
            break;
        }
    }
    connection->processing = false;
    return used;
}

static bool stash_append(struct connection *connection, const char *data, size_t length)
{
    size_t wanted = connection->stash_length + length;

    if (wanted > connection->stash_capacity) {
        size_t capacity = wanted < 2048 ? 2048 : wanted * 2;
        char *grown = realloc(connection->stash, capacity);

        if (!grown) {
            return false;
        }
        connection->stash = grown;
        connection->stash_capacity = capacity;
    }
    memcpy(connection->stash + connection->stash_length, data, length);
    connection->stash_length = wanted;
    return true;
}

void connection_process_stash(struct connection *connection)
{
    /* Taken out while it is worked on, since an answer may look at what is left. */
    char *stash = connection->stash;
    size_t length = connection->stash_length;
    size_t used = process_input(connection, stash, length);

    if (connection->state == CONNECTION_CLOSED || connection->state == CONNECTION_LINGER) {
        return; /* freed with the connection, or by begin_linger() */
    }
    if (used == length) {
        free(connection->stash);
        connection->stash = NULL;
        connection->stash_capacity = 0;
    } else if (used > 0) {
        memmove(stash, stash + used, length - used);
    }
    connection->stash_length = length - used;
}

static void pause_reading(struct connection *connection)
{
    /* The caller sends on and on behind a request that is being worked on: leave its bytes in the
     * socket, but still notice when it hangs up. */
    connection->reading_paused = true;
    event_del(&connection->read_event);
    if (event_add(&connection->closed_event, NULL) != 0) {
        connection_close(connection, true);
    }
}

static void receive_bytes(struct connection *connection, const char *data, size_t length)
{
    if (connection->state == CONNECTION_LINGER) {
        connection->linger_bytes += length;
        if (connection->linger_bytes > CONNECTION_LINGER_BYTES) {
            connection_close(connection, false);
        }
        return;
    }
    if (connection->state == CONNECTION_IDLE && connection->skip_left == 0 &&
        connection->stash_length == 0) {
        connection_settle_receipts(connection); /* the next request: it has read what came */
    }
    if (connection->stash_length == 0) {
        size_t used = process_input(connection, data, length);

        data += used;
        length -= used;
        if (connection->state == CONNECTION_CLOSED || connection->state == CONNECTION_LINGER ||
            length == 0) {
            return;
        }
    }
    if (!stash_append(connection, data, length)) {
        connection_close(connection, true);
        return;
    }
    if (connection->stash_length > length) {
        connection_process_stash(connection);
    }
    if (connection->stash_length >= CONNECTION_STASH_BYTES && !connection->reading_paused &&
        (connection->state == CONNECTION_WAITING || connection->state == CONNECTION_SENDING)) {
        pause_reading(connection);
    }
}

/* A body with a known length goes from the socket straight to its place. */
static enum transport_result read_body_directly(struct connection *connection)
{
    size_t room_bytes;
    size_t count = 0;
    char *room = body_room(connection->body, (size_t)connection->body_left, &room_bytes);
    enum transport_result result;

    if (!room) {
        connection_refuse_body(connection, CONNECTION_BODY_NO_MEMORY);
        return TRANSPORT_AGAIN;
    }
    if (room_bytes > connection->body_left) {
        room_bytes = (size_t)connection->body_left;
    }
    result = transport_read(&connection->transport, room, room_bytes, &count);
    if (result == TRANSPORT_OK) {
        body_added(connection->body, count);
        count_received(connection, count);
        connection->body_left -= count;
        if (connection->body_left == 0) {
            connection->processing = true;
            complete_body(connection);
            connection->processing = false;
        }
    }
    return result;
}

enum transport_result connection_read_once(struct connection *connection)
{
    struct front *front = connection->front;
    size_t count = 0;
    enum transport_result result;

    if (connection->state == CONNECTION_BODY && connection->stash_length == 0 &&
        connection->inbound->head.head.framing == HTTP_BODY_LENGTH) {
        return read_body_directly(connection);
    }
    result = transport_read(&connection->transport, front->read_buffer, FRONT_READ_BYTES, &count);
    if (result == TRANSPORT_OK) {
        receive_bytes(connection, front->read_buffer, count);
    }
    return result;
}
