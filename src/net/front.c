#include "build_config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/address.h"
#include "model/metric_catalogue.h"
#include "net/connection_private.h"

/* All callers of one worker: taking over accepted descriptors, the sweep that enforces deadlines,
 * and the drain at the end. */

static void on_sweep(evutil_socket_t descriptor, short what, void *argument)
{
    struct front *front = argument;
    struct connection *connection = front->connections;
    uint64_t now_ms = clock_mono_ms();

    (void)descriptor;
    (void)what;
    /* One pass over all four times a second costs far less than a timer that is moved with every
     * request. A closed connection stays in memory until the turn is over, so `next` holds. */
    while (connection) {
        struct connection *next = connection->next;

        if (connection->deadline_ms != 0 && now_ms >= connection->deadline_ms) {
            connection_on_deadline(connection);
        }
        connection = next;
    }
}

struct front *front_create(struct loop *loop, const struct config *config,
                           const struct connection_handler *handler, void *owner,
                           struct tls_server *tls, struct connection_limits *limits,
                           struct body_budget *budget, struct metrics_block *metrics,
                           struct log_ring *log)
{
    static const struct timeval quarter_second = {0, 250000};
    struct front *front = calloc(1, sizeof *front);

    if (!front) {
        return NULL;
    }
    front->loop = loop;
    front->config = config_ref(config);
    front->handler = handler;
    front->owner = owner;
    front->tls = tls;
    front->limits = limits;
    front->budget = budget;
    front->metrics = metrics;
    front->log = log;
    front->read_buffer = malloc(FRONT_READ_BYTES);
    front->sweep_event = event_new(loop_base(loop), -1, EV_PERSIST, on_sweep, front);
    if (!front->read_buffer || !front->sweep_event ||
        event_add(front->sweep_event, &quarter_second) != 0) {
        front_destroy(front);
        return NULL;
    }
    return front;
}

void front_destroy(struct front *front)
{
    if (!front) {
        return;
    }
    while (front->connections) {
        connection_close(front->connections, true);
    }
    if (front->sweep_event) {
        event_free(front->sweep_event);
    }
    free(front->read_buffer);
    config_unref(front->config);
    free(front);
}

void front_adopt(struct front *front, const struct config *config)
{
    config_unref(front->config);
    front->config = config_ref(config);
}

size_t front_connection_count(const struct front *front)
{
    return front->connection_count;
}

static bool speaks_proxy_protocol(const struct front *front, const struct sockaddr_storage *peer)
{
    const struct config_networks *networks = &front->config->proxy_protocol_from;
    struct address address;

    if (networks->count == 0) {
        return false;
    }
    address_from_sockaddr(&address, (const struct sockaddr *)peer, sizeof *peer);
    for (size_t i = 0; i < networks->count; i++) {
        if (address_in_network(&address, &networks->items[i])) {
            return true;
        }
    }
    return false;
}

void front_accept(struct front *front, int descriptor, const struct sockaddr_storage *peer,
                  const struct config_address *address)
{
    struct connection *connection = calloc(1, sizeof *connection);
    struct event_base *base = loop_base(front->loop);

    if (!connection) {
        close(descriptor);
        connection_limits_release(front->limits, peer);
        return;
    }
    transport_init(&connection->transport, descriptor);
    connection->front = front;
    connection->peer = *peer;
    connection->counted_peer = *peer;
    connection->address = address;
    connection->state =
        speaks_proxy_protocol(front, peer) ? CONNECTION_PROXY_HEAD : CONNECTION_IDLE;
    connection->next = front->connections;
    if (connection->next) {
        connection->next->previous = connection;
    }
    front->connections = connection;
    front->connection_count++;
    metrics_add(front->metrics, METRIC_CONNECTIONS_OPEN, 0, 0, 1);
    event_assign(&connection->read_event, base, descriptor, EV_READ | EV_PERSIST,
                 connection_on_readable, connection);
    event_assign(&connection->write_event, base, descriptor, EV_WRITE, connection_on_writable,
                 connection);
    event_assign(&connection->closed_event, base, descriptor, EV_CLOSED | EV_PERSIST,
                 connection_on_closed, connection);
    if (event_add(&connection->read_event, NULL) != 0 || !connection_start(connection)) {
        connection_close(connection, false);
    }
}

/* A request may be on its way on each idle connection, or lie in the socket already, and closing
 * would answer it by a reset. So they are kept a moment longer: who sends something meanwhile is
 * answered and told "Connection: close". */
void front_drain(struct front *front)
{
    uint64_t end_ms = clock_mono_ms() + CONNECTION_DRAIN_IDLE_MS;

    front->draining = true;
    for (struct connection *each = front->connections; each; each = each->next) {
        if (((each->state == CONNECTION_IDLE && each->stash_length == 0) ||
             (each->state == CONNECTION_LINGER && each->receipts)) &&
            (each->deadline_ms == 0 || each->deadline_ms > end_ms)) {
            each->deadline_ms = end_ms;
        }
    }
}
