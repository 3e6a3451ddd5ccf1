#include "build_config.h"

#include "net/connection_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* Answers: one writev of head and data; what the socket doesn't take is copied (small) or kept by
 * reference (a body), and a write event is registered only then. */

enum { PARTS_MAX = 5, CHUNK_HEAD_BYTES = 20, PENDING_STEP_BYTES = 4096 };

static bool has_pending(const struct connection *connection)
{
    return connection->pending_offset < connection->pending_length ||
           connection->holder_rest.length > 0;
}

static bool keep_copy(struct connection *connection, struct view bytes)
{
    size_t wanted = connection->pending_length + bytes.length;

    if (bytes.length == 0) {
        return true;
    }
    if (wanted > connection->pending_capacity) {
        size_t capacity = connection->pending_capacity * 2;
        char *grown;

        if (capacity < wanted) {
            capacity = wanted + PENDING_STEP_BYTES;
        }
        grown = realloc(connection->pending, capacity);
        if (!grown) {
            return false;
        }
        connection->pending = grown;
        connection->pending_capacity = capacity;
    }
    memcpy(connection->pending + connection->pending_length, bytes.data, bytes.length);
    connection->pending_length += bytes.length;
    return true;
}

static void drop_pending(struct connection *connection)
{
    free(connection->pending);
    connection->pending = NULL;
    connection->pending_length = 0;
    connection->pending_offset = 0;
    connection->pending_capacity = 0;
    body_unref(connection->holder);
    connection->holder = NULL;
    connection->holder_rest = (struct view){NULL, 0};
}

static void wait_for_socket(struct connection *connection)
{
    connection->deadline_ms = clock_mono_ms() + connection->front->config->timeouts.send_ms;
    if (!event_pending(&connection->write_event, EV_WRITE, NULL)) {
        event_add(&connection->write_event, NULL);
    }
}

static void count_sent(struct connection *connection, size_t count)
{
    if (connection->inbound) {
        connection->inbound->sent_bytes += count;
    }
}

enum connection_send_result connection_flush(struct connection *connection)
{
    while (has_pending(connection)) {
        struct iovec parts[2];
        int part_count = 0;
        size_t pending = connection->pending_length - connection->pending_offset;
        size_t count = 0;
        enum transport_result result;

        if (pending > 0) {
            parts[part_count++] =
                (struct iovec){connection->pending + connection->pending_offset, pending};
        }
        if (connection->holder_rest.length > 0) {
            union {
                const char *constant;
                void *base;
            } rest = {.constant = connection->holder_rest.data};

            parts[part_count++] = (struct iovec){rest.base, connection->holder_rest.length};
        }
        result = transport_write(&connection->transport, parts, part_count, &count);
        if (result == TRANSPORT_AGAIN) {
            wait_for_socket(connection);
            return CONNECTION_BLOCKED;
        }
        if (result != TRANSPORT_OK) {
            return CONNECTION_GONE;
        }
        count_sent(connection, count);
        if (count < pending) {
            connection->pending_offset += count;
        } else {
            connection->pending_offset = connection->pending_length;
            connection->holder_rest.data += count - pending;
            connection->holder_rest.length -= count - pending;
        }
    }
    drop_pending(connection);
    return CONNECTION_SENT;
}

/* Keeps what of `parts` lies behind the `sent` bytes. The data part may be kept by reference when
 * it is the last one, since then nothing has to be copied behind it. */
static bool keep_rest(struct connection *connection, const struct iovec *parts, int part_count,
                      size_t sent, const struct connection_part *part)
{
    for (int i = 0; i < part_count; i++) {
        struct view rest = {parts[i].iov_base, parts[i].iov_len};

        if (sent >= rest.length) {
            sent -= rest.length;
            continue;
        }
        rest.data += sent;
        rest.length -= sent;
        sent = 0;
        if (part->holder && i == part_count - 1 && parts[i].iov_base == part->data.data) {
            connection->holder = body_ref(part->holder);
            connection->holder_rest = rest;
        } else if (!keep_copy(connection, rest)) {
            return false;
        }
    }
    return true;
}

static void add_part(struct iovec *parts, int *part_count, struct view bytes)
{
    union {
        const char *constant;
        void *base;
    } data = {.constant = bytes.data};

    if (bytes.length > 0) {
        parts[(*part_count)++] = (struct iovec){data.base, bytes.length};
    }
}

/* RFC 9112 section 7.1: size in hex, CRLF, data, CRLF; a size of zero and an empty line at last. */
static struct view chunk_head(size_t size, char text[CHUNK_HEAD_BYTES])
{
    static const char hex[] = "0123456789abcdef";
    char *end = text + CHUNK_HEAD_BYTES;
    char *at = end;

    *--at = '\n';
    *--at = '\r';
    do {
        *--at = hex[size & 15];
        size >>= 4;
    } while (size > 0);
    return (struct view){at, (size_t)(end - at)};
}

static int gather(const struct connection_part *part, struct iovec *parts,
                  char chunk_text[CHUNK_HEAD_BYTES])
{
    int part_count = 0;

    add_part(parts, &part_count, part->head);
    if (part->framing != CONNECTION_CHUNKED) {
        add_part(parts, &part_count, part->data);
        return part_count;
    }
    if (part->data.length > 0) {
        add_part(parts, &part_count, chunk_head(part->data.length, chunk_text));
        add_part(parts, &part_count, part->data);
        add_part(parts, &part_count, part->last ? VIEW("\r\n0\r\n\r\n") : VIEW("\r\n"));
    } else if (part->last) {
        add_part(parts, &part_count, VIEW("0\r\n\r\n"));
    }
    return part_count;
}

/* Bytes are waiting already (the layer above went on sending in spite of CONNECTION_BLOCKED): put
 * the new ones behind them, in order. */
static enum connection_send_result send_behind(struct connection *connection,
                                               const struct iovec *parts, int part_count)
{
    struct view rest = connection->holder_rest;

    connection->holder_rest.length = 0;
    if (!keep_copy(connection, rest)) {
        return CONNECTION_GONE;
    }
    body_unref(connection->holder);
    connection->holder = NULL;
    for (int i = 0; i < part_count; i++) {
        if (!keep_copy(connection, (struct view){parts[i].iov_base, parts[i].iov_len})) {
            return CONNECTION_GONE;
        }
    }
    return CONNECTION_BLOCKED;
}

static enum connection_send_result send_parts(struct connection *connection,
                                              const struct connection_part *part)
{
    struct iovec parts[PARTS_MAX];
    char chunk_text[CHUNK_HEAD_BYTES];
    int part_count = gather(part, parts, chunk_text);
    size_t total = 0;
    size_t count = 0;
    enum transport_result result = TRANSPORT_OK;

    if (has_pending(connection)) {
        return send_behind(connection, parts, part_count);
    }
    for (int i = 0; i < part_count; i++) {
        total += parts[i].iov_len;
    }
    if (total > 0) {
        result = transport_write(&connection->transport, parts, part_count, &count);
    }
    if (result != TRANSPORT_OK && result != TRANSPORT_AGAIN) {
        return CONNECTION_GONE;
    }
    count_sent(connection, count);
    if (count == total) {
        return CONNECTION_SENT;
    }
    if (!keep_rest(connection, parts, part_count, count, part)) {
        return CONNECTION_GONE;
    }
    wait_for_socket(connection);
    return CONNECTION_BLOCKED;
}

enum connection_send_result connection_send(struct connection *connection,
                                            const struct connection_part *part)
{
    enum connection_send_result result;

    connection->close_after =
        connection->close_after || part->close || part->framing == CONNECTION_UNTIL_CLOSE;
    if (!connection->answered) {
        connection->answered = true;
        connection_move(connection, CONNECTION_SENDING);
        connection->deadline_ms = 0;
    }
    connection->last_given = part->last;
    result = send_parts(connection, part);
    if (result == CONNECTION_GONE) {
        connection_close(connection, false);
    } else if (result == CONNECTION_SENT && part->last) {
        connection_finish_answer(connection);
    }
    return result;
}

void connection_on_writable(evutil_socket_t descriptor, short what, void *argument)
{
    struct connection *connection = argument;
    struct inbound *inbound = connection->inbound;
    struct front *front = connection->front;

    (void)what;
    if (connection->state == CONNECTION_HANDSHAKE || connection->state == CONNECTION_HEAD ||
        connection->state == CONNECTION_IDLE || connection->state == CONNECTION_BODY) {
        /* TLS: a read was waiting for the socket to take bytes. */
        connection_on_readable(descriptor, EV_READ, connection);
        return;
    }
    if (connection->state != CONNECTION_SENDING) {
        return;
    }
    switch (connection_flush(connection)) {
    case CONNECTION_BLOCKED: return;
    case CONNECTION_GONE: connection_close(connection, true); return;
    case CONNECTION_SENT: break;
    }
    connection->deadline_ms = 0;
    if (connection->last_given) {
        connection_finish_answer(connection);
        front->handler->on_sent(front->owner, inbound);
    } else {
        front->handler->on_drained(front->owner, inbound);
    }
}
