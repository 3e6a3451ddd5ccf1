/* For the tests of the upstream client: a server that does what the test says, in the client's own
 * event loop, so that nothing depends on time; and a record of what the client told its owner. */
#ifndef PODGATE_TESTS_UPSTREAM_PEER_H
#define PODGATE_TESTS_UPSTREAM_PEER_H

#include <criterion/criterion.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/body.h"
#include "base/clock.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "model/config.h"
#include "model/metric_catalogue.h"
#include "net/tls_context.h"
#include "net/transport.h"
#include "net/upstream.h"

#define HELPER static __attribute__((unused))

#define TEST_KEY "rpa_TESTKEY0123456789"

/* ---- the loop */

static struct loop *loop;
static bool out_of_time;

HELPER void on_watchdog(UNUSED evutil_socket_t descriptor, UNUSED short what, UNUSED void *argument)
{
    out_of_time = true;
}

/* One turn of the loop; fails the test when it hangs. */
HELPER void turn(void)
{
    static const struct timeval limit = {20, 0};
    struct event *watchdog = event_new(loop_base(loop), -1, 0, on_watchdog, NULL);

    out_of_time = false;
    event_add(watchdog, &limit);
    event_base_loop(loop_base(loop), EVLOOP_ONCE);
    event_free(watchdog);
    cr_assert(!out_of_time, "nothing happened for 20 s");
}

#define RUN_UNTIL(condition) \
    do { \
        uint64_t limit_ms = clock_mono_ms() + 30000; \
        while (!(condition)) { \
            cr_assert(clock_mono_ms() < limit_ms, "never came true: " #condition); \
            turn(); \
        } \
    } while (0)

/* Turns until nothing is ready any more. */
HELPER void settle(void)
{
    for (int i = 0; i < 20; i++) {
        event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
    }
}

/* ---- the server */

struct peer;

struct peer_connection {
    struct peer *peer;
    struct transport transport;
    struct event *event;
    struct event *write_event;
    char *output; /* what the socket has not taken yet */
    size_t output_length;
    bool end_after_output;
    char *received;
    size_t received_length;
    unsigned number;   /* the first accepted is 1 */
    unsigned requests; /* whole ones */
    bool ended;        /* the client closed its side */
};

enum { PEER_CONNECTIONS = 64 };

struct peer {
    int listener;
    uint16_t port;
    struct event *event;
    struct tls_server *tls;
    struct peer_connection *connections[PEER_CONNECTIONS];
    unsigned accepted;
    unsigned requests;
    bool deaf; /* new connections are not read */
    unsigned resets; /* so many connections are reset at their first byte */
    void (*on_accept)(struct peer_connection *connection);
    void (*on_request)(struct peer_connection *connection, struct view request);
};

HELPER void peer_drop(struct peer_connection *connection)
{
    if (connection->event) {
        event_free(connection->event);
        event_free(connection->write_event);
        connection->event = NULL;
    }
    free(connection->output);
    connection->output = NULL;
    connection->output_length = 0;
    transport_close(&connection->transport);
}

/* RST instead of FIN. */
HELPER void peer_reset(struct peer_connection *connection)
{
    struct linger linger = {1, 0};

    setsockopt(connection->transport.descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    peer_drop(connection);
}

HELPER void peer_flush(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct peer_connection *connection = argument;

    while (connection->output_length > 0) {
        struct iovec part = {connection->output, connection->output_length};
        size_t count = 0;
        enum transport_result result = transport_write(&connection->transport, &part, 1, &count);

        if (result == TRANSPORT_AGAIN) {
            event_add(connection->write_event, NULL);
            return;
        }
        if (result != TRANSPORT_OK) {
            connection->output_length = 0;
            return;
        }
        connection->output_length -= count;
        memmove(connection->output, connection->output + count, connection->output_length);
    }
    if (connection->end_after_output) {
        transport_finish(&connection->transport);
    }
}

HELPER void peer_send_bytes(struct peer_connection *connection, struct view bytes)
{
    connection->output = realloc(connection->output, connection->output_length + bytes.length + 1);
    memcpy(connection->output + connection->output_length, bytes.data, bytes.length);
    connection->output_length += bytes.length;
    peer_flush(-1, 0, connection);
}

HELPER void peer_send(struct peer_connection *connection, const char *text)
{
    peer_send_bytes(connection, view_of_string(text));
}

/* FIN behind what was sent, after close_notify under TLS. */
HELPER void peer_end(struct peer_connection *connection)
{
    connection->end_after_output = true;
    peer_flush(-1, 0, connection);
}

/* Length of the first whole request in the bytes, or 0. */
HELPER size_t peer_whole_request(const char *bytes, size_t length)
{
    const char *end = bytes ? memmem(bytes, length, "\r\n\r\n", 4) : NULL;
    const char *field;
    size_t body = 0;
    size_t head;

    if (!end) {
        return 0;
    }
    head = (size_t)(end - bytes) + 4;
    field = memmem(bytes, head, "\r\nContent-Length: ", 18);
    if (field) {
        body = strtoul(field + 18, NULL, 10);
    }
    return length >= head + body ? head + body : 0;
}

HELPER void peer_on_readable(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct peer_connection *connection = argument;
    static char room[256 * 1024];
    size_t length;

    if (connection->peer->resets > 0) {
        connection->peer->resets--;
        peer_reset(connection);
        return;
    }
    if (connection->transport.tls && !connection->transport.handshaken) {
        enum transport_result result = transport_handshake(&connection->transport);

        if (result != TRANSPORT_OK) {
            connection->ended = result != TRANSPORT_AGAIN;
            if (connection->ended) {
                event_del(connection->event);
            }
            return;
        }
    }
    for (;;) {
        size_t count = 0;
        enum transport_result result =
            transport_read(&connection->transport, room, sizeof room, &count);

        if (result == TRANSPORT_AGAIN) {
            break;
        }
        if (result != TRANSPORT_OK) {
            connection->ended = true;
            event_del(connection->event);
            return;
        }
        connection->received = realloc(connection->received, connection->received_length + count);
        memcpy(connection->received + connection->received_length, room, count);
        connection->received_length += count;
    }
    while (connection->event && connection->received_length > 0 &&
           (length = peer_whole_request(connection->received, connection->received_length)) > 0) {
        char *request = malloc(length);

        memcpy(request, connection->received, length);
        memmove(connection->received, connection->received + length,
                connection->received_length - length);
        connection->received_length -= length;
        connection->requests++;
        connection->peer->requests++;
        if (connection->peer->on_request) {
            connection->peer->on_request(connection, view_make(request, length));
        }
        free(request);
    }
}

HELPER void peer_on_accept(evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct peer *peer = argument;
    struct peer_connection *connection = calloc(1, sizeof *connection);
    int accepted = accept4((int)descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int on = 1;

    if (accepted < 0) {
        free(connection);
        return;
    }
    cr_assert_lt(peer->accepted, PEER_CONNECTIONS);
    setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    transport_init(&connection->transport, accepted);
    if (peer->tls) {
        cr_assert(transport_start_tls(&connection->transport, tls_server_session(peer->tls), true));
    }
    connection->peer = peer;
    connection->event = event_new(loop_base(loop), accepted, EV_READ | EV_PERSIST,
                                  peer_on_readable, connection);
    connection->write_event =
        event_new(loop_base(loop), accepted, EV_WRITE, peer_flush, connection);
    if (!peer->deaf) {
        event_add(connection->event, NULL);
    }
    peer->connections[peer->accepted++] = connection;
    connection->number = peer->accepted;
    if (peer->on_accept) {
        peer->on_accept(connection);
    }
}

HELPER void peer_open(struct peer *peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;

    peer->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(peer->listener, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(peer->listener, 128), 0);
    getsockname(peer->listener, (struct sockaddr *)&address, &length);
    peer->port = ntohs(address.sin_port);
    peer->event = event_new(loop_base(loop), peer->listener, EV_READ | EV_PERSIST, peer_on_accept,
                            peer);
    event_add(peer->event, NULL);
}

HELPER void peer_stop_listening(struct peer *peer)
{
    if (peer->event) {
        event_free(peer->event);
        peer->event = NULL;
        close(peer->listener);
    }
}

HELPER void peer_close(struct peer *peer)
{
    peer_stop_listening(peer);
    for (unsigned i = 0; i < peer->accepted; i++) {
        peer_drop(peer->connections[i]);
        free(peer->connections[i]->received);
        free(peer->connections[i]);
    }
    tls_server_destroy(peer->tls);
    *peer = (struct peer){0};
}

HELPER unsigned peer_ended(const struct peer *peer)
{
    unsigned count = 0;

    for (unsigned i = 0; i < peer->accepted; i++) {
        count += peer->connections[i]->ended;
    }
    return count;
}

/* ---- the client */

static struct peer peer;
static struct body_budget budget;
static struct metrics *metrics;
static struct metrics_block *block;
static const struct config *config;
static struct upstream_identity *identity;
static struct upstream *client;

HELPER const struct config *load_config(const char *text)
{
    struct config_errors *errors = config_errors_create();
    struct config *loaded =
        config_load_text("test.conf", view_of_string(text), false, errors);

    cr_assert_not_null(loaded, "%s",
                       config_errors_count(errors) ? config_errors_text(errors, 0) : "no reason");
    config_errors_destroy(errors);
    return loaded;
}

/* Configuration with `url` and what else stands in the upstream section. */
HELPER const struct config *make_config(const char *url, const char *more)
{
    char *text = NULL;
    const struct config *made;

    cr_assert_gt(asprintf(&text, "workers = 1\nupstream {\n url = \"%s\"\n%s\n%s\n}\n", url,
                          strstr(more, "api_key") ? "" : "api_key_env = \"PODGATE_TEST_KEY\"",
                          more),
                 0);
    made = load_config(text);
    free(text);
    return made;
}

HELPER void open_client(const struct config *with)
{
    char *problem = NULL;

    config = with;
    identity = upstream_identity_create(config, &problem);
    cr_assert_not_null(identity, "%s", problem);
    client = upstream_create(loop, config, identity, &budget, block, NULL);
    cr_assert_not_null(client);
}

/* A client to the peer; `scheme_host` "http://127.0.0.1" gets the peer's port. */
HELPER void open_client_to(const char *scheme_host, const char *more)
{
    char url[256];

    snprintf(url, sizeof url, "%s:%u/v2", scheme_host, peer.port);
    open_client(make_config(url, more));
}

HELPER void set_up_without_client(void)
{
    signal(SIGPIPE, SIG_IGN);
    setenv("PODGATE_TEST_KEY", TEST_KEY, 1);
    loop = loop_create();
    cr_assert_not_null(loop);
    atomic_init(&budget.used_bytes, 0);
    atomic_init(&budget.maximum_bytes, 256 * 1024 * 1024);
    metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    block = metrics_block_create(metrics);
    peer = (struct peer){0};
    peer_open(&peer);
}

HELPER void set_up(void)
{
    set_up_without_client();
    open_client_to("http://127.0.0.1", "");
}

HELPER void tear_down(void)
{
    upstream_destroy(client);
    client = NULL;
    upstream_identity_destroy(identity);
    identity = NULL;
    config_unref(config);
    config = NULL;
    peer_close(&peer);
    settle();
    cr_expect_eq(atomic_load(&budget.used_bytes), 0);
    metrics_destroy(metrics);
    loop_destroy(loop);
}

/* ---- what the client told */

struct outcome {
    struct upstream_exchange *exchange;
    bool sending; /* upstream_send() is on the stack: nothing may be told */
    bool over;
    bool failed;
    enum upstream_failure failure;
    bool may_be_processed;
    unsigned heads;
    unsigned status;
    unsigned pieces;
    unsigned pauses;
    char *body;
    size_t body_length;
    struct body *collect_into;
    size_t collect_maximum;
    bool data_lay_in_body;
    bool pause_at_head;
    bool abort_at_head;
    bool abort_at_body;
};

HELPER void told_head(void *owner, struct upstream_exchange *exchange,
                      const struct http_response_head *head)
{
    struct outcome *outcome = owner;

    cr_assert(!outcome->sending);
    cr_assert(!outcome->over);
    outcome->heads++;
    outcome->status = head->status;
    if (outcome->collect_into) {
        upstream_collect(exchange, outcome->collect_into, outcome->collect_maximum);
    }
    if (outcome->pause_at_head) {
        upstream_pause(exchange);
    }
    if (outcome->abort_at_head) {
        outcome->over = true;
        upstream_abort(exchange);
    }
}

HELPER void told_body(void *owner, struct upstream_exchange *exchange, struct view data, bool last)
{
    struct outcome *outcome = owner;

    cr_assert(!outcome->sending);
    cr_assert(!outcome->over);
    cr_assert_eq(outcome->heads, 1);
    outcome->pieces++;
    outcome->body = realloc(outcome->body, outcome->body_length + data.length + 1);
    if (data.length > 0) {
        memcpy(outcome->body + outcome->body_length, data.data, data.length);
    }
    outcome->body_length += data.length;
    outcome->body[outcome->body_length] = '\0';
    if (outcome->collect_into && outcome->pieces == 1) {
        struct view collected = body_view(outcome->collect_into);

        outcome->data_lay_in_body =
            data.length == 0 || (data.data >= collected.data &&
                                 data.data + data.length == collected.data + collected.length);
    }
    outcome->over = last;
    if (outcome->abort_at_body && !last) {
        outcome->over = true;
        upstream_abort(exchange);
    }
}

HELPER void told_pause(void *owner, UNUSED struct upstream_exchange *exchange)
{
    struct outcome *outcome = owner;

    cr_assert(!outcome->over);
    outcome->pauses++;
}

HELPER void told_failure(void *owner, UNUSED struct upstream_exchange *exchange,
                         enum upstream_failure failure, bool may_be_processed)
{
    struct outcome *outcome = owner;

    cr_assert(!outcome->sending);
    cr_assert(!outcome->over);
    outcome->failed = true;
    outcome->failure = failure;
    outcome->may_be_processed = may_be_processed;
    outcome->over = true;
}

static const struct upstream_handler recorder = {
    .on_head = told_head,
    .on_body = told_body,
    .on_pause = told_pause,
    .on_failure = told_failure,
};

HELPER void forget(struct outcome *outcome)
{
    free(outcome->body);
    *outcome = (struct outcome){0};
}

#define GET_HEAD "GET /v2/abc/status/1 HTTP/1.1\r\nX-Request-Id: 1\r\n"

HELPER void send_request(struct outcome *outcome, const struct upstream_request *request)
{
    outcome->sending = true;
    outcome->exchange = upstream_send(client, request, &recorder, outcome);
    outcome->sending = false;
    cr_assert_not_null(outcome->exchange);
}

/* A read. */
HELPER void send_get(struct outcome *outcome)
{
    struct upstream_request request = {
        .head = VIEW(GET_HEAD),
        .resend = UPSTREAM_RESEND_READ,
    };

    send_request(outcome, &request);
}

/* A submit with `body_bytes` of body. */
HELPER void send_submit(struct outcome *outcome, size_t body_bytes)
{
    struct body *body = body_create(&budget, body_bytes);
    char head[128];
    int head_length = snprintf(head, sizeof head,
                               "POST /v2/abc/run HTTP/1.1\r\nContent-Length: %zu\r\n", body_bytes);
    static char kept[16][128]; /* the head must live as long as the exchange */
    static unsigned turn_of;
    char *lasting = kept[turn_of++ % 16];
    size_t room_bytes;
    char *room = body_room(body, body_bytes, &room_bytes);
    struct upstream_request request = {
        .body = body,
        .fresh_connection = true,
        .resend = UPSTREAM_RESEND_SUBMIT,
    };

    memset(room, 'b', body_bytes);
    body_added(body, body_bytes);
    memcpy(lasting, head, (size_t)head_length);
    request.head = view_make(lasting, (size_t)head_length);
    send_request(outcome, &request);
    body_unref(body);
}

#define ANSWER(text) "HTTP/1.1 200 OK\r\nContent-Length: " text

HELPER uint64_t resends(void)
{
    return metrics_sum(metrics, METRIC_UPSTREAM_RESENDS, 0, 0);
}

#endif
