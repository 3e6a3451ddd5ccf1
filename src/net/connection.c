#include "build_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "model/address.h"
#include "model/metric_catalogue.h"
#include "net/connection_private.h"
#include "net/proxy_protocol.h"

/* The life of one caller's connection: what its bytes mean and when it ends. */

static const char *const state_names[] = {
    [CONNECTION_PROXY_HEAD] = "proxy_head",
    [CONNECTION_HANDSHAKE] = "handshake",
    [CONNECTION_IDLE] = "idle",
    [CONNECTION_HEAD] = "head",
    [CONNECTION_BODY] = "body",
    [CONNECTION_WAITING] = "waiting",
    [CONNECTION_SENDING] = "sending",
    [CONNECTION_LINGER] = "linger",
    [CONNECTION_CLOSED] = "closed",
};

#define TO(state) (1u << (state))

static const unsigned legal_moves[] = {
    [CONNECTION_PROXY_HEAD] =
        TO(CONNECTION_HANDSHAKE) | TO(CONNECTION_IDLE) | TO(CONNECTION_CLOSED),
    [CONNECTION_HANDSHAKE] = TO(CONNECTION_IDLE) | TO(CONNECTION_CLOSED),
    [CONNECTION_IDLE] = TO(CONNECTION_HANDSHAKE) | TO(CONNECTION_HEAD) | TO(CONNECTION_WAITING) |
                        TO(CONNECTION_CLOSED),
    [CONNECTION_HEAD] = TO(CONNECTION_WAITING) | TO(CONNECTION_CLOSED),
    [CONNECTION_BODY] = TO(CONNECTION_WAITING) | TO(CONNECTION_SENDING) | TO(CONNECTION_CLOSED),
    [CONNECTION_WAITING] = TO(CONNECTION_BODY) | TO(CONNECTION_SENDING) | TO(CONNECTION_CLOSED),
    [CONNECTION_SENDING] = TO(CONNECTION_IDLE) | TO(CONNECTION_LINGER) | TO(CONNECTION_CLOSED),
    [CONNECTION_LINGER] = TO(CONNECTION_CLOSED),
    [CONNECTION_CLOSED] = 0,
};

void connection_move(struct connection *connection, enum connection_state state)
{
    if (!(legal_moves[connection->state] & TO(state))) {
        struct log_line *line =
            log_begin(connection->front->log, LOG_LEVEL_ERROR, "connection_illegal_move");

        log_string(line, "from", state_names[connection->state]);
        log_string(line, "to", state_names[state]);
        log_end(line);
#ifdef PODGATE_FAULTS
        abort();
#endif
    }
    connection->state = state;
}

const struct sockaddr_storage *connection_peer(const struct connection *connection)
{
    return &connection->peer;
}

bool connection_is_tls(const struct connection *connection)
{
    return connection->transport.tls != NULL;
}

static bool port_matches(struct view port, uint16_t local_port, bool is_tls)
{
    uint64_t number = is_tls ? 443 : 80;

    if (port.length > 0 && !view_parse_u64(port, UINT16_MAX, &number)) {
        return false;
    }
    return number == local_port;
}

bool connection_is_at(const struct connection *connection, struct view authority)
{
    struct sockaddr_storage local;
    socklen_t length = sizeof local;
    struct address address;
    char text[ADDRESS_TEXT_MAXIMUM];
    struct view own;
    size_t colon;

    if (getsockname(connection->transport.descriptor, (struct sockaddr *)&local, &length) != 0) {
        return false;
    }
    address_from_sockaddr(&address, (const struct sockaddr *)&local, length);
    own = address_format(&address, true, text);
    if (view_equal(authority, own)) {
        return true;
    }
    colon = view_find_byte(authority, ':');
    return view_equal_ignore_case(view_first(authority, colon), VIEW("localhost")) &&
           (view_starts_with(own, VIEW("127.")) || view_starts_with(own, VIEW("[::1]"))) &&
           port_matches(view_skip(authority, colon + 1), address.port,
                        connection_is_tls(connection));
}

void connection_close_after_answer(struct connection *connection)
{
    connection->close_after = true;
}

bool connection_wants_close(const struct connection *connection)
{
    return connection->close_after || connection->front->draining ||
           (connection->body_unread && !connection->body_skippable);
}

void inbound_clear(struct inbound *inbound)
{
    if (inbound->head_bytes != inbound->inlined) {
        free(inbound->head_bytes);
    }
    inbound->head_bytes = NULL;
}

/* ---- ending ---------------------------------------------------------------------------------- */

static void destroy(void *object)
{
    struct connection *connection = object;

    free(connection->stash);
    free(connection->pending);
    body_unref(connection->holder);
    body_unref(connection->body);
    free(connection);
}

static void leave_front(struct connection *connection)
{
    struct front *front = connection->front;

    if (connection->previous) {
        connection->previous->next = connection->next;
    } else {
        front->connections = connection->next;
    }
    if (connection->next) {
        connection->next->previous = connection->previous;
    }
    front->connection_count--;
    metrics_add(front->metrics, METRIC_CONNECTIONS_OPEN, 0, 0, -1);
    connection_limits_release(front->limits, &connection->counted_peer);
}

/* So that an answer which broke off can't be taken for whole where its end is the connection's. */
static void reset_at_close(struct connection *connection)
{
    static const struct linger reset = {.l_onoff = 1, .l_linger = 0};

    setsockopt(connection->transport.descriptor, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

void connection_close(struct connection *connection, bool tell)
{
    struct front *front = connection->front;
    struct inbound *inbound = connection->inbound;

    if (connection->state == CONNECTION_CLOSED) {
        return;
    }
    if (connection->state == CONNECTION_SENDING && inbound) {
        reset_at_close(connection);
    }
    connection_settle_receipts_at_end(connection);
    connection_move(connection, CONNECTION_CLOSED);
    connection->deadline_ms = 0;
    connection->inbound = NULL;
    event_del(&connection->read_event);
    event_del(&connection->write_event);
    event_del(&connection->closed_event);
    transport_close(&connection->transport);
    if (inbound) {
        inbound->connection = NULL;
        if (tell) {
            metrics_add(front->metrics, METRIC_CALLER_HANGUPS, 0, 0, 1);
            front->handler->on_hangup(front->owner, inbound);
        }
    }
    loop_bury(front->loop, &connection->grave, destroy, connection);
    leave_front(connection);
}

void connection_abort(struct connection *connection)
{
    reset_at_close(connection);
    connection_close(connection, false);
}

static void begin_linger(struct connection *connection)
{
    connection_move(connection, CONNECTION_LINGER);
    transport_finish(&connection->transport);
    connection->linger_bytes = connection->stash_length;
    free(connection->stash);
    connection->stash = NULL;
    connection->stash_length = 0;
    connection->stash_capacity = 0;
    connection->deadline_ms =
        clock_mono_ms() + (connection->receipts && !connection->front->draining
                               ? connection->front->config->timeouts.send_ms
                               : CONNECTION_LINGER_MS);
}

/* False when the kernel has no memory to watch the connection: it is closed then. */
static bool resume_reading(struct connection *connection)
{
    if (connection->reading_paused) {
        connection->reading_paused = false;
        event_del(&connection->closed_event);
        if (event_add(&connection->read_event, NULL) != 0) {
            connection_close(connection, true);
            return false;
        }
    }
    return true;
}

void connection_finish_answer(struct connection *connection)
{
    struct inbound *inbound = connection->inbound;

    connection->inbound = NULL;
    if (inbound) {
        inbound->connection = NULL;
    }
    connection_mark_receipts_sent(connection);
    body_unref(connection->body);
    connection->body = NULL;
    if (connection_wants_close(connection)) {
        if (connection->body_unread || connection->stash_length > 0 || connection->receipts) {
            if (resume_reading(connection)) {
                begin_linger(connection);
            }
        } else {
            transport_finish(&connection->transport);
            connection_close(connection, false);
        }
        return;
    }
    connection_move(connection, CONNECTION_IDLE);
    connection->answered = false;
    connection->last_given = false;
    connection->body_wanted = false;
    connection->skip_left = connection->body_unread ? connection->body_left : 0;
    connection->body_unread = false;
    connection->body_skippable = false;
    connection->deadline_ms = clock_mono_ms() + connection->front->config->timeouts.idle_ms;
    if (resume_reading(connection) && !connection->processing &&
        (connection->stash_length > 0 || transport_has_buffered(&connection->transport))) {
        /* Pipelined requests wait: take them up from the loop, not from inside the caller. */
        event_active(&connection->read_event, EV_READ, 1);
    }
}

/* ---- beginning and reading ------------------------------------------------------------------- */

static void on_transport_end(struct connection *connection, enum transport_result result)
{
    if (result == TRANSPORT_FAILED && connection->state == CONNECTION_HANDSHAKE) {
        char text[160];
        char peer_text[ADDRESS_TEXT_MAXIMUM];
        struct address peer;
        struct log_line *line =
            log_begin(connection->front->log, LOG_LEVEL_INFO, "tls_handshake_failed");

        address_from_sockaddr(&peer, (const struct sockaddr *)&connection->peer,
                              sizeof connection->peer);
        log_text(line, "peer", address_format(&peer, true, peer_text));
        log_text(line, "reason", transport_error_text(&connection->transport, text, sizeof text));
        log_end(line);
    }
    connection_close(connection, true);
}

static void expect_first_head(struct connection *connection)
{
    const struct front *front = connection->front;

    connection->deadline_ms = clock_mono_ms() + (front->draining ? CONNECTION_DRAIN_IDLE_MS
                                                                 : front->config->timeouts.head_ms);
}

static void continue_handshake(struct connection *connection)
{
    enum transport_result result = transport_handshake(&connection->transport);

    if (result == TRANSPORT_AGAIN) {
        if (connection->transport.wants_write) {
            event_add(&connection->write_event, NULL);
        }
        return;
    }
    if (result != TRANSPORT_OK) {
        on_transport_end(connection, result);
        return;
    }
    connection_move(connection, CONNECTION_IDLE);
    expect_first_head(connection);
}

static bool begin_protocol(struct connection *connection)
{
    struct front *front = connection->front;

    if (!connection->address->tls) {
        connection->state = CONNECTION_IDLE;
        expect_first_head(connection);
        return true;
    }
    if (!front->tls) {
        return false;
    }
    connection->deadline_ms = clock_mono_ms() + front->config->timeouts.handshake_ms;
    connection_move(connection, CONNECTION_HANDSHAKE);
    return transport_start_tls(&connection->transport, tls_server_session(front->tls), true);
}

/* Half a PROXY head stays in the socket, which would call the worker again and again: the kernel is
 * told to wait for more than there is. False when it called though no more came: the end has. */
static bool wait_for_more(int descriptor, int count)
{
    int seen = 1;
    socklen_t length = sizeof seen;
    int wanted = count + 1;

    return getsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &seen, &length) == 0 &&
           (seen <= 1 || count >= seen) &&
           setsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted) == 0;
}

static bool wait_for_any(int descriptor)
{
    int one = 1;

    return setsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one) == 0;
}

/* The head of the PROXY protocol is looked at before it is taken, so that what follows it (a TLS
 * handshake perhaps) stays in the socket. */
static void read_proxy_head(struct connection *connection)
{
    struct front *front = connection->front;
    struct proxy_protocol_head head;
    ssize_t count = recv(connection->transport.descriptor, front->read_buffer,
                         PROXY_PROTOCOL_HEAD_BYTES, MSG_PEEK);
    enum proxy_protocol_result result;

    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (count <= 0) {
        connection_close(connection, false);
        return;
    }
    result = proxy_protocol_parse((struct view){front->read_buffer, (size_t)count}, &head);
    if (result == PROXY_PROTOCOL_INCOMPLETE) {
        if (!wait_for_more(connection->transport.descriptor, (int)count)) {
            connection_close(connection, false);
        }
        return;
    }
    if (result != PROXY_PROTOCOL_OK || !wait_for_any(connection->transport.descriptor) ||
        recv(connection->transport.descriptor, front->read_buffer, head.used_bytes, 0) !=
            (ssize_t)head.used_bytes) {
        metrics_add(front->metrics, METRIC_BAD_HEADS, 0, 0, 1);
        connection_close(connection, false);
        return;
    }
    if (head.has_source) {
        if (connection_limits_move(front->limits, &connection->counted_peer, &head.source) !=
            CONNECTION_LIMITS_OK) {
            metrics_add(front->metrics, METRIC_CONNECTIONS_REFUSED, METRIC_CONNECTION_ADDRESS, 0,
                        1);
            connection_close(connection, false);
            return;
        }
        connection->peer = head.source;
        connection->counted_peer = head.source;
    }
    connection->state = CONNECTION_IDLE;
    if (!begin_protocol(connection)) {
        connection_close(connection, false);
    }
}

bool connection_start(struct connection *connection)
{
    if (connection->state == CONNECTION_PROXY_HEAD) {
        connection->deadline_ms =
            clock_mono_ms() + connection->front->config->timeouts.handshake_ms;
        return true;
    }
    return begin_protocol(connection);
}

void connection_on_readable(evutil_socket_t descriptor, short what, void *argument)
{
    struct connection *connection = argument;

    (void)descriptor;
    (void)what;
    if (connection->state == CONNECTION_CLOSED) {
        return;
    }
    if (connection->state == CONNECTION_PROXY_HEAD) {
        read_proxy_head(connection);
        return;
    }
    if (connection->state == CONNECTION_HANDSHAKE) {
        continue_handshake(connection);
        if (connection->state != CONNECTION_IDLE ||
            !transport_has_buffered(&connection->transport)) {
            return;
        }
    }
    if (connection->state == CONNECTION_IDLE && connection->stash_length > 0) {
        connection_process_stash(connection);
    }
    /* One read a turn is enough for a plain socket, which is asked again while it is readable; what
     * TLS holds inside must be taken now, since the socket won't say so again. */
    do {
        enum transport_result result;

        if (connection->state == CONNECTION_CLOSED || connection->reading_paused) {
            return;
        }
        result = connection_read_once(connection);
        if (result == TRANSPORT_AGAIN) {
            if (connection->state != CONNECTION_CLOSED && connection->transport.wants_write) {
                event_add(&connection->write_event, NULL);
            }
            return;
        }
        if (result != TRANSPORT_OK) {
            on_transport_end(connection, result);
            return;
        }
    } while (connection->state != CONNECTION_CLOSED &&
             transport_has_buffered(&connection->transport));
}

void connection_on_closed(evutil_socket_t descriptor, short what, void *argument)
{
    (void)descriptor;
    (void)what;
    connection_close(argument, true);
}

/* ---- deadlines ------------------------------------------------------------------------------- */

void connection_on_deadline(struct connection *connection)
{
    switch (connection->state) {
    case CONNECTION_HEAD:
        connection_refuse_head(connection, 408,
                               VIEW("The request head did not come whole in time."));
        break;
    case CONNECTION_BODY: connection_refuse_body(connection, CONNECTION_BODY_SLOW); break;
    case CONNECTION_SENDING: connection_close(connection, true); break;
    case CONNECTION_PROXY_HEAD:
    case CONNECTION_HANDSHAKE:
    case CONNECTION_IDLE:
    case CONNECTION_LINGER: connection_close(connection, false); break;
    case CONNECTION_WAITING:
    case CONNECTION_CLOSED: break;
    }
}
