#include "build_config.h"

#include <stdlib.h>

#include "base/clock.h"
#include "model/metric_catalogue.h"
#include "net/upstream_private.h"

/* Which exchange goes over which connection: the pool of idle ones (the last used first, so that
 * the rest can grow old and go), those that wait, and how many attempts to connect that takes. */

static const char *const state_names[] = {
    [UPSTREAM_CONNECTION_CONNECTING] = "connecting",
    [UPSTREAM_CONNECTION_PROXYING] = "proxying",
    [UPSTREAM_CONNECTION_HANDSHAKING] = "handshaking",
    [UPSTREAM_CONNECTION_IDLE] = "idle",
    [UPSTREAM_CONNECTION_BUSY] = "busy",
    [UPSTREAM_CONNECTION_CLOSED] = "closed",
};

#define TO(state) (1u << (state))

static const unsigned legal_moves[] = {
    [UPSTREAM_CONNECTION_CONNECTING] =
        TO(UPSTREAM_CONNECTION_PROXYING) | TO(UPSTREAM_CONNECTION_HANDSHAKING) |
        TO(UPSTREAM_CONNECTION_IDLE) | TO(UPSTREAM_CONNECTION_CLOSED),
    [UPSTREAM_CONNECTION_PROXYING] = TO(UPSTREAM_CONNECTION_HANDSHAKING) |
                                     TO(UPSTREAM_CONNECTION_IDLE) | TO(UPSTREAM_CONNECTION_CLOSED) |
                                     TO(UPSTREAM_CONNECTION_CONNECTING),
    [UPSTREAM_CONNECTION_HANDSHAKING] = TO(UPSTREAM_CONNECTION_IDLE) |
                                        TO(UPSTREAM_CONNECTION_CLOSED) |
                                        TO(UPSTREAM_CONNECTION_CONNECTING),
    [UPSTREAM_CONNECTION_IDLE] = TO(UPSTREAM_CONNECTION_BUSY) | TO(UPSTREAM_CONNECTION_CLOSED),
    [UPSTREAM_CONNECTION_BUSY] = TO(UPSTREAM_CONNECTION_IDLE) | TO(UPSTREAM_CONNECTION_CLOSED),
    [UPSTREAM_CONNECTION_CLOSED] = 0,
};

static bool is_attempt(enum upstream_connection_state state)
{
    return state < UPSTREAM_CONNECTION_IDLE;
}

void upstream_connection_move(struct upstream_connection *connection,
                              enum upstream_connection_state state)
{
    struct upstream *upstream = connection->upstream;

    if (UNLIKELY(!(legal_moves[connection->state] & TO(state)))) {
        struct log_line *line = log_begin(upstream->log, LOG_LEVEL_ERROR, "upstream_illegal_move");

        log_string(line, "from", state_names[connection->state]);
        log_string(line, "to", state_names[state]);
        log_end(line);
#ifdef PODGATE_FAULTS
        abort();
#endif
    }
    upstream->attempt_count += is_attempt(state);
    upstream->attempt_count -= is_attempt(connection->state);
    connection->state = state;
}

static void destroy_connection(void *object)
{
    struct upstream_connection *connection = object;

    free(connection->stash);
    free(connection);
}

static void leave_idle(struct upstream_connection *connection)
{
    TAILQ_REMOVE(&connection->upstream->idle, connection, idle);
    connection->upstream->idle_count--;
}

void upstream_connection_close(struct upstream_connection *connection)
{
    struct upstream *upstream = connection->upstream;

    if (connection->state == UPSTREAM_CONNECTION_CLOSED) {
        return;
    }
    if (connection->state == UPSTREAM_CONNECTION_IDLE && !connection->exchange) {
        leave_idle(connection);
        transport_finish(&connection->transport);
    }
    upstream_connection_move(connection, UPSTREAM_CONNECTION_CLOSED);
    connection->exchange = NULL;
    if (connection->transport.descriptor >= 0) {
        event_del(&connection->read_event);
        event_del(&connection->write_event);
    }
    transport_close(&connection->transport);
    TAILQ_REMOVE(&upstream->connections, connection, all);
    upstream->open_count--;
    metrics_add(upstream->metrics, METRIC_UPSTREAM_CONNECTIONS_OPEN, 0, 0, -1);
    loop_bury(upstream->loop, &connection->grave, destroy_connection, connection);
}

/* May this exchange go over this idle connection? */
static bool suits(const struct upstream_exchange *exchange,
                  const struct upstream_connection *connection)
{
    if (exchange->needs_new && connection->answers > 0) {
        return false;
    }
    return !exchange->request.fresh_connection ||
           clock_mono_ms() - connection->answered_ms <= UPSTREAM_FRESH_MS;
}

struct upstream_connection *upstream_pool_take(struct upstream *upstream,
                                               const struct upstream_exchange *exchange)
{
    struct upstream_connection *connection;

    /* Only the one in front is asked: those behind it answered even longer ago. */
    while ((connection = TAILQ_FIRST(&upstream->idle)) != NULL && suits(exchange, connection)) {
        /* A connection that is new isn't looked at: under TLS its session tickets are on the way,
         * and what breaks it shows when it is used. */
        if (exchange->request.fresh_connection && connection->answers > 0 &&
            !transport_is_quiet(&connection->transport)) {
            upstream_connection_close(connection);
            continue;
        }
        leave_idle(connection);
        return connection;
    }
    return NULL;
}

bool upstream_pool_assign(struct upstream_connection *connection,
                          struct upstream_exchange *exchange)
{
    connection->exchange = exchange;
    upstream_connection_move(connection, UPSTREAM_CONNECTION_BUSY);
    upstream_exchange_move(exchange, UPSTREAM_EXCHANGE_ACTIVE);
    exchange->connection = connection;
    upstream_connection_begin(connection);
    if (UNLIKELY(exchange->write_failed && exchange->sent_bytes == 0 && connection->answers > 0)) {
        exchange->write_failed = false;
        upstream_exchange_move(exchange, UPSTREAM_EXCHANGE_WAITING);
        upstream_connection_close(connection);
        return false;
    }
    return true;
}

static void give_idle(struct upstream *upstream)
{
    struct upstream_exchange *exchange = TAILQ_FIRST(&upstream->waiting);

    while (exchange && upstream->idle_count > 0) {
        struct upstream_exchange *next = TAILQ_NEXT(exchange, list);
        struct upstream_connection *connection;

        while ((connection = upstream_pool_take(upstream, exchange)) != NULL &&
               !upstream_pool_assign(connection, exchange)) {
        }
        exchange = next;
    }
}

static void fail_waiting(struct upstream *upstream, enum upstream_failure failure)
{
    struct upstream_exchange *exchange;

    while ((exchange = TAILQ_FIRST(&upstream->waiting)) != NULL) {
        upstream_exchange_fail(exchange, failure);
    }
}

/* Makes room for a new connection when the limit is reached by idle ones that don't suit. */
static bool make_room(struct upstream *upstream)
{
    struct upstream_connection *oldest;

    if (upstream->open_count < upstream->connections_maximum) {
        return true;
    }
    oldest = TAILQ_LAST(&upstream->idle, upstream_connection_list);
    if (!oldest) {
        return false;
    }
    upstream_connection_close(oldest);
    return true;
}

/* False: they are being asked for, or whoever waits for them is failed. */
static bool has_addresses(struct upstream *upstream)
{
    if (resolver_count(upstream->resolver) == 0) {
        resolver_ask(upstream->resolver);
    }
    if (resolver_count(upstream->resolver) > 0) {
        return true;
    }
    if (!resolver_is_asking(upstream->resolver)) {
        fail_waiting(upstream, UPSTREAM_NAME_UNKNOWN);
    }
    return false;
}

void upstream_pool_serve(struct upstream *upstream)
{
    if (LIKELY(upstream->waiting_count == 0)) {
        return;
    }
    give_idle(upstream);
    while (upstream->waiting_count > upstream->attempt_count) {
        if (!has_addresses(upstream)) {
            return;
        }
        if (!make_room(upstream)) {
            return;
        }
        if (!upstream_connect_start(upstream)) {
            upstream_exchange_fail(TAILQ_FIRST(&upstream->waiting), UPSTREAM_NO_MEMORY);
        }
    }
}

void upstream_pool_on_addresses(void *argument)
{
    struct upstream *upstream = argument;

    if (resolver_count(upstream->resolver) == 0) {
        fail_waiting(upstream, UPSTREAM_NAME_UNKNOWN);
    }
    upstream_pool_serve(upstream);
}

void upstream_pool_put(struct upstream_connection *connection)
{
    struct upstream *upstream = connection->upstream;

    connection->answered_ms = clock_mono_ms();
    upstream_connection_move(connection, UPSTREAM_CONNECTION_IDLE);
    connection->exchange = NULL;
    TAILQ_INSERT_HEAD(&upstream->idle, connection, idle);
    upstream->idle_count++;
    if (UNLIKELY(connection->generation != upstream->generation)) {
        upstream_connection_close(connection);
    }
    upstream_pool_serve(upstream);
}

static bool may_try_again(const struct upstream_exchange *exchange, enum upstream_failure failure)
{
    /* Case A of the rules for sending again: no connection, so nothing was sent. Another attempt
     * helps against what is over in a moment, not against a name, a certificate or a time-out. */
    return !exchange->resent && exchange->request.resend != UPSTREAM_RESEND_NEVER &&
           (failure == UPSTREAM_REFUSED || failure == UPSTREAM_BROKEN);
}

void upstream_pool_attempt_failed(struct upstream_connection *connection,
                                  enum upstream_failure failure)
{
    struct upstream *upstream = connection->upstream;
    struct upstream_exchange *exchange = TAILQ_FIRST(&upstream->waiting);

    upstream_connection_close(connection);
    if (exchange && may_try_again(exchange, failure)) {
        exchange->resent = true;
        metrics_add(upstream->metrics, METRIC_UPSTREAM_RESENDS, 0, 0, 1);
    } else if (exchange) {
        upstream_exchange_fail(exchange, failure == UPSTREAM_BROKEN ? UPSTREAM_TLS : failure);
    }
    upstream_pool_serve(upstream);
}

void upstream_pool_expire(struct upstream *upstream, uint64_t now_ms)
{
    uint64_t keepalive_ms = upstream->config->upstream.keepalive_ms;
    struct upstream_connection *oldest;

    while ((oldest = TAILQ_LAST(&upstream->idle, upstream_connection_list)) != NULL &&
           now_ms - oldest->answered_ms >= keepalive_ms) {
        upstream_connection_close(oldest);
    }
}
