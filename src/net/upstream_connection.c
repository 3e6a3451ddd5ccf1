#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/secret.h"
#include "net/upstream_private.h"

/* A connection's events, and the request that goes out over it: tried at once in one system call,
 * with a write event only for what the socket doesn't take. */

enum { REQUEST_PARTS = 4 /* head, Host, the secret fields, body */ };

bool upstream_connection_watch(struct upstream_connection *connection)
{
    struct event_base *base = loop_base(connection->upstream->loop);
    int descriptor = connection->transport.descriptor;

    return event_assign(&connection->read_event, base, descriptor, EV_READ | EV_PERSIST,
                        upstream_connection_on_readable, connection) == 0 &&
           event_assign(&connection->write_event, base, descriptor, EV_WRITE,
                        upstream_connection_on_writable, connection) == 0;
}

bool upstream_connection_keep(struct upstream_connection *connection, struct view bytes)
{
    size_t needed = connection->stash_length + bytes.length;

    if (needed > connection->stash_capacity) {
        size_t capacity = needed + UPSTREAM_STASH_STEP_BYTES;
        char *grown = realloc(connection->stash, capacity);

        if (!grown) {
            return false;
        }
        connection->stash = grown;
        connection->stash_capacity = capacity;
    }
    if (bytes.length > 0) {
        memmove(connection->stash + connection->stash_length, bytes.data, bytes.length);
        connection->stash_length = needed;
    }
    return true;
}

/* ---- the request */

static int gather_request(const struct upstream_exchange *exchange, struct iovec *parts)
{
    const struct upstream *upstream = exchange->upstream;
    const struct view pieces[REQUEST_PARTS] = {
        exchange->request.head,
        {upstream->host_field, upstream->host_field_length},
        secret_view(exchange->credentials->fields),
        body_view(exchange->request.body),
    };
    size_t skip = exchange->sent_bytes;
    int count = 0;

    for (int i = 0; i < REQUEST_PARTS; i++) {
        union {
            const char *constant;
            void *base;
        } data;

        if (skip >= pieces[i].length) {
            skip -= pieces[i].length;
            continue;
        }
        data.constant = pieces[i].data + skip;
        parts[count++] = (struct iovec){data.base, pieces[i].length - skip};
        skip = 0;
    }
    return count;
}

void upstream_connection_wait_writable(struct upstream_connection *connection)
{
    if (event_add(&connection->write_event, NULL) != 0) {
        connection->exchange->write_failed = true;
        event_active(&connection->read_event, EV_READ, 1);
    }
}

static void write_request(struct upstream_connection *connection)
{
    struct upstream_exchange *exchange = connection->exchange;
    struct iovec parts[REQUEST_PARTS];
    int part_count = gather_request(exchange, parts);
    size_t count = 0;
    enum transport_result result =
        transport_write(&connection->transport, parts, part_count, &count);

    if (count > 0) {
        uint64_t now_us = clock_mono_us();

        if (exchange->sent_bytes == 0) {
            exchange->timing.connected_us = now_us;
        }
        exchange->sent_bytes += count;
        if (exchange->sent_bytes == exchange->total_bytes) {
            exchange->timing.sent_us = now_us;
            exchange->sent_deadline_ms =
                upstream_deadline_ms(exchange->request.deadlines.after_sent_ms);
        }
        exchange->idle_deadline_ms = upstream_deadline_ms(exchange->request.deadlines.idle_ms);
    }
    if (LIKELY(exchange->sent_bytes == exchange->total_bytes)) {
        return;
    }
    if (result == TRANSPORT_OK || result == TRANSPORT_AGAIN) {
        if (!connection->transport.wants_read) {
            upstream_connection_wait_writable(connection);
        }
        return;
    }
    /* An answer may have come before the break (413 and a close, say): the read side decides, in a
     * callback of its own, since this may run inside upstream_send(). */
    exchange->write_failed = true;
    event_active(&connection->read_event, EV_READ, 1);
}

void upstream_connection_begin(struct upstream_connection *connection)
{
    struct upstream_exchange *exchange = connection->exchange;
    struct upstream *upstream = connection->upstream;

    exchange->credentials =
        upstream_identity_for(upstream->identity, upstream->config->upstream.url.text);
    exchange->total_bytes = exchange->request.head.length + upstream->host_field_length +
                            secret_view(exchange->credentials->fields).length +
                            body_view(exchange->request.body).length;
    exchange->idle_deadline_ms = upstream_deadline_ms(exchange->request.deadlines.idle_ms);
    connection->head_done = false;
    connection->interims = 0;
    connection->stash_length = 0;
    http_response_begin(&connection->response,
                        exchange->request.expects_no_body ? HTTP_METHOD_HEAD : HTTP_METHOD_GET);
    if (UNLIKELY(exchange->paused)) {
        event_del(&connection->read_event);
    }
    write_request(connection);
}

/* ---- events */

/* Bytes nobody asked for, an end, or (under TLS) a mere session ticket. */
static void read_idle(struct upstream_connection *connection)
{
    struct upstream *upstream = connection->upstream;
    size_t count = 0;

    if (transport_read(&connection->transport, upstream->read_buffer, UPSTREAM_READ_BYTES,
                       &count) != TRANSPORT_AGAIN) {
        upstream_connection_close(connection);
        upstream_pool_serve(upstream);
    }
}

void upstream_connection_on_readable(evutil_socket_t descriptor, short what, void *argument)
{
    struct upstream_connection *connection = argument;

    (void)descriptor;
    (void)what;
    switch (connection->state) {
    case UPSTREAM_CONNECTION_BUSY:
        if (UNLIKELY(connection->transport.wants_read && !connection->exchange->write_failed &&
                     !upstream_exchange_is_sent(connection->exchange))) {
            write_request(connection); /* TLS: a write was waiting for the socket to bring bytes */
        }
        upstream_response_read(connection);
        break;
    case UPSTREAM_CONNECTION_IDLE: read_idle(connection); break;
    case UPSTREAM_CONNECTION_CONNECTING:
    case UPSTREAM_CONNECTION_PROXYING:
    case UPSTREAM_CONNECTION_HANDSHAKING: upstream_connect_continue(connection); break;
    case UPSTREAM_CONNECTION_CLOSED: break;
    }
}

void upstream_connection_on_writable(evutil_socket_t descriptor, short what, void *argument)
{
    struct upstream_connection *connection = argument;

    (void)descriptor;
    (void)what;
    switch (connection->state) {
    case UPSTREAM_CONNECTION_BUSY:
        if (connection->transport.wants_write && upstream_exchange_is_sent(connection->exchange)) {
            upstream_response_read(
                connection); /* TLS: a read was waiting for the socket to take bytes */
        } else if (!upstream_exchange_is_sent(connection->exchange) &&
                   !connection->exchange->write_failed) {
            write_request(connection);
        }
        break;
    case UPSTREAM_CONNECTION_IDLE: break;
    case UPSTREAM_CONNECTION_CONNECTING:
    case UPSTREAM_CONNECTION_PROXYING:
    case UPSTREAM_CONNECTION_HANDSHAKING: upstream_connect_continue(connection); break;
    case UPSTREAM_CONNECTION_CLOSED: break;
    }
}
