#include "build_config.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/metric_catalogue.h"
#include "net/upstream_private.h"

/* From an address to a usable connection: TCP to one address after the other, CONNECT through the
 * company's proxy, TLS with verification. No request byte leaves before all of it is done, so that
 * the key never goes to anybody but the configured host. */

enum { ERROR_TEXT_BYTES = 256, PROXY_HEAD_MAXIMUM = 16 * 1024, ADDRESS_SHARES = 3 };

static void log_failure(struct upstream_connection *connection, enum upstream_failure failure,
                        struct view detail)
{
    struct upstream *upstream = connection->upstream;
    struct log_line *line;

    if (upstream->unreachable) {
        return; /* one line a change */
    }
    upstream->unreachable = true;
    line = log_begin(upstream->log, LOG_LEVEL_WARNING, "upstream_unreachable");
    log_text(line, "upstream", upstream->config->upstream.url.text);
    log_string(line, "reason", upstream_failure_text(failure));
    log_text(line, "detail", detail);
    log_end(line);
}

static void log_success(struct upstream *upstream)
{
    if (upstream->unreachable) {
        struct log_line *line = log_begin(upstream->log, LOG_LEVEL_INFO, "upstream_reachable");

        upstream->unreachable = false;
        log_text(line, "upstream", upstream->config->upstream.url.text);
        log_end(line);
    }
}

static void give_up(struct upstream_connection *connection, enum upstream_failure failure)
{
    upstream_pool_attempt_failed(connection, failure);
}

static void drop_descriptor(struct upstream_connection *connection)
{
    if (connection->transport.descriptor >= 0) {
        event_del(&connection->read_event);
        event_del(&connection->write_event);
    }
    transport_close(&connection->transport);
    connection->stash_length = 0;
    connection->proxy_sent = 0;
}

/* Ends the attempt, but from the loop: this may run inside upstream_send(). */
static void give_up_later(struct upstream_connection *connection)
{
    struct event_base *base = loop_base(connection->upstream->loop);

    if (event_assign(&connection->write_event, base, -1, 0, upstream_connection_on_writable,
                     connection) == 0) {
        event_active(&connection->write_event, EV_TIMEOUT, 1);
    }
    /* Else the sweep finds that its time is over. */
}

/* Begins to connect to one address. False: that one failed at once. */
static bool try_address(struct upstream_connection *connection)
{
    struct upstream *upstream = connection->upstream;
    socklen_t length;
    const struct sockaddr *address =
        resolver_address(upstream->resolver, connection->address_index, &length);
    int descriptor = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;

    if (descriptor < 0) {
        connection->transport.error = errno;
        connection->failure = UPSTREAM_NO_MEMORY; /* podgate's own want, not the upstream's fault */
        return false;
    }
    transport_init(&connection->transport, descriptor);
    (void)setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* A peer that vanished without a word must not stay in the pool for ever. */
    (void)setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    if ((connect(descriptor, address, length) == 0 || errno == EINPROGRESS) &&
        upstream_connection_watch(connection)) {
        if (event_add(&connection->write_event, NULL) == 0) {
            return true;
        }
        errno = ENOMEM;
    }
    connection->transport.error = errno;
    transport_close(&connection->transport);
    return false;
}

/* Each address gets its share of what is left of the time, so that one that swallows packets leaves
 * some to the next. */
static uint64_t address_share(const struct upstream_connection *connection, uint64_t now_ms,
                              size_t address_count)
{
    size_t left = address_count - connection->addresses_tried;
    uint64_t left_ms = connection->deadline_ms > now_ms ? connection->deadline_ms - now_ms : 0;

    return now_ms + left_ms / (left < ADDRESS_SHARES ? (left > 0 ? left : 1) : ADDRESS_SHARES);
}

/* Tries addresses until one is under way. False: none is left. */
static bool try_addresses(struct upstream_connection *connection)
{
    struct upstream *upstream = connection->upstream;
    size_t count = resolver_count(upstream->resolver);
    uint64_t now_ms = clock_mono_ms();

    while (connection->addresses_tried < count) {
        connection->address_index =
            (upstream->preferred_address + connection->addresses_tried) % count;
        connection->address_deadline_ms = address_share(connection, now_ms, count);
        connection->addresses_tried++;
        if (try_address(connection)) {
            return true;
        }
    }
    return false;
}

bool upstream_connect_start(struct upstream *upstream)
{
    struct upstream_connection *connection = calloc(1, sizeof *connection);

    if (!connection) {
        return false;
    }
    transport_init(&connection->transport, -1);
    connection->upstream = upstream;
    connection->state = UPSTREAM_CONNECTION_CONNECTING;
    connection->generation = upstream->generation;
    connection->failure = UPSTREAM_REFUSED;
    connection->deadline_ms = clock_mono_ms() + upstream->config->upstream.connect_timeout_ms;
    TAILQ_INSERT_TAIL(&upstream->connections, connection, all);
    upstream->open_count++;
    upstream->attempt_count++;
    metrics_add(upstream->metrics, METRIC_UPSTREAM_CONNECTIONS_OPEN, 0, 0, 1);
    if (!try_addresses(connection)) {
        give_up_later(connection);
    }
    return true;
}

static void next_address(struct upstream_connection *connection, enum upstream_failure failure)
{
    char text[ERROR_TEXT_BYTES];
    struct view detail = transport_error_text(&connection->transport, text, sizeof text);

    drop_descriptor(connection);
    connection->failure = failure;
    if (connection->state != UPSTREAM_CONNECTION_CONNECTING) {
        upstream_connection_move(connection, UPSTREAM_CONNECTION_CONNECTING);
    }
    if (!try_addresses(connection)) {
        log_failure(connection, failure, detail);
        give_up(connection, failure);
    }
}

/* A failure that another address wouldn't mend. */
static void fail_for_good(struct upstream_connection *connection, enum upstream_failure failure,
                          struct view detail)
{
    log_failure(connection, failure, detail);
    drop_descriptor(connection);
    give_up(connection, failure);
}

static void finish_connecting(struct upstream_connection *connection)
{
    struct upstream *upstream = connection->upstream;

    log_success(upstream);
    metrics_add(upstream->metrics, METRIC_UPSTREAM_CONNECTIONS, 0, 0, 1);
    upstream->preferred_address = connection->address_index;
    connection->stash_length = 0;
    upstream_pool_put(connection);
}

/* ---- TLS */

static void wait_writable(struct upstream_connection *connection)
{
    if (event_add(&connection->write_event, NULL) != 0) {
        give_up(connection, UPSTREAM_NO_MEMORY);
    }
}

static void continue_handshake(struct upstream_connection *connection)
{
    char text[ERROR_TEXT_BYTES];

    switch (transport_handshake(&connection->transport)) {
    case TRANSPORT_OK: finish_connecting(connection); return;
    case TRANSPORT_AGAIN:
        if (connection->transport.wants_write) {
            wait_writable(connection);
        }
        return;
    case TRANSPORT_END:
    case TRANSPORT_TRUNCATED:
    case TRANSPORT_FAILED: break;
    }
    if (connection->transport.tls_error != 0 &&
        ERR_GET_REASON(connection->transport.tls_error) != SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        fail_for_good(connection, UPSTREAM_TLS,
                      transport_error_text(&connection->transport, text, sizeof text));
        return;
    }
    next_address(connection, UPSTREAM_BROKEN);
}

static void start_tls(struct upstream_connection *connection)
{
    struct upstream *upstream = connection->upstream;
    const struct upstream_credentials *credentials =
        upstream_identity_for(upstream->identity, upstream->config->upstream.url.text);

    if (!upstream->config->upstream.url.tls) {
        finish_connecting(connection);
        return;
    }
    upstream_connection_move(connection, UPSTREAM_CONNECTION_HANDSHAKING);
    if (!credentials->tls ||
        !transport_start_tls(&connection->transport,
                             tls_client_session(credentials->tls,
                                                upstream->config->upstream.url.host,
                                                &upstream->resumption),
                             false)) {
        fail_for_good(connection, UPSTREAM_TLS, VIEW("no TLS session could be made"));
        return;
    }
    continue_handshake(connection);
}

/* ---- the company's proxy */

/* host:port, as CONNECT needs it even for the default port (RFC 9110 section 9.3.6). */
static void append_authority(struct builder *request, const struct config_url *url)
{
    bool is_ipv6 = view_find_byte(url->host, ':') < url->host.length;

    builder_append(request, is_ipv6 ? VIEW("[") : VIEW(""));
    builder_append(request, url->host);
    builder_append(request, is_ipv6 ? VIEW("]:") : VIEW(":"));
    builder_append_u64(request, url->port);
}

static bool keep_connect_request(struct upstream_connection *connection)
{
    const struct config_upstream *settings = &connection->upstream->config->upstream;
    struct builder request;
    bool is_kept;

    builder_init(&request, NULL, 0);
    builder_append(&request, VIEW("CONNECT "));
    append_authority(&request, &settings->url);
    builder_append(&request, VIEW(" HTTP/1.1\r\nHost: "));
    append_authority(&request, &settings->url);
    builder_append(&request, VIEW("\r\n\r\n"));
    connection->stash_length = 0;
    is_kept =
        !builder_failed(&request) && upstream_connection_keep(connection, builder_view(&request));
    builder_clear(&request);
    return is_kept;
}

static void read_proxy_answer(struct upstream_connection *connection)
{
    struct http_response_head *response = &connection->response;
    char byte_room[1024];
    size_t count = 0;
    enum transport_result result =
        transport_read(&connection->transport, byte_room, sizeof byte_room, &count);
    enum http_head_result verdict;

    if (result == TRANSPORT_AGAIN) {
        return;
    }
    if (result != TRANSPORT_OK) {
        next_address(connection, UPSTREAM_PROXY);
        return;
    }
    if (connection->stash_length + count > PROXY_HEAD_MAXIMUM ||
        !upstream_connection_keep(connection, view_make(byte_room, count))) {
        fail_for_good(connection, UPSTREAM_PROXY, VIEW("its answer is too large"));
        return;
    }
    verdict = http_response_parse(response, connection->stash, connection->stash_length);
    if (verdict == HTTP_HEAD_INCOMPLETE) {
        return;
    }
    if (verdict != HTTP_HEAD_OK) {
        fail_for_good(connection, UPSTREAM_PROXY, http_head_detail(verdict));
        return;
    }
    if (response->status < 200 || response->status > 299) {
        fail_for_good(connection, UPSTREAM_PROXY,
                      response->status == 407
                          ? VIEW("the proxy wants a password (407), which podgate has not")
                          : VIEW("the proxy refused CONNECT"));
        return;
    }
    /* A TLS server doesn't speak first: what is there can't be the upstream's. */
    if (connection->stash_length > response->head.length) {
        fail_for_good(connection, UPSTREAM_PROXY, VIEW("bytes behind its answer"));
        return;
    }
    start_tls(connection);
}

static void continue_proxy(struct upstream_connection *connection)
{
    if (connection->proxy_sent < SIZE_MAX) {
        struct iovec part = {connection->stash + connection->proxy_sent,
                             connection->stash_length - connection->proxy_sent};
        size_t count = 0;
        enum transport_result result = transport_write(&connection->transport, &part, 1, &count);

        if (result != TRANSPORT_OK && result != TRANSPORT_AGAIN) {
            next_address(connection, UPSTREAM_PROXY);
            return;
        }
        connection->proxy_sent += count;
        if (connection->proxy_sent < connection->stash_length) {
            wait_writable(connection);
            return;
        }
        connection->stash_length = 0;
        connection->proxy_sent = SIZE_MAX; /* from now on the stash takes the answer */
        http_response_begin(&connection->response, HTTP_METHOD_CONNECT);
    }
    read_proxy_answer(connection);
}

/* ---- TCP */

static void on_connected(struct upstream_connection *connection)
{
    if (event_add(&connection->read_event, NULL) != 0) {
        give_up(connection, UPSTREAM_NO_MEMORY);
        return;
    }
    if (!connection->upstream->config->upstream.has_proxy) {
        start_tls(connection);
        return;
    }
    upstream_connection_move(connection, UPSTREAM_CONNECTION_PROXYING);
    if (!keep_connect_request(connection)) {
        give_up(connection, UPSTREAM_NO_MEMORY);
        return;
    }
    continue_proxy(connection);
}

void upstream_connect_continue(struct upstream_connection *connection)
{
    int error = 0;
    socklen_t length = sizeof error;

    if (connection->state == UPSTREAM_CONNECTION_PROXYING) {
        continue_proxy(connection);
        return;
    }
    if (connection->state == UPSTREAM_CONNECTION_HANDSHAKING) {
        continue_handshake(connection);
        return;
    }
    if (connection->transport.descriptor < 0) {
        char text[ERROR_TEXT_BYTES];

        log_failure(connection, connection->failure,
                    transport_error_text(&connection->transport, text, sizeof text));
        give_up(connection, connection->failure);
        return;
    }
    if (getsockopt(connection->transport.descriptor, SOL_SOCKET, SO_ERROR, &error, &length) != 0) {
        error = errno;
    }
    if (error != 0) {
        connection->transport.error = error;
        next_address(connection, error == ETIMEDOUT ? UPSTREAM_CONNECT_TIMEOUT : UPSTREAM_REFUSED);
        return;
    }
    on_connected(connection);
}

void upstream_connect_expire(struct upstream_connection *connection, uint64_t now_ms)
{
    if (now_ms >= connection->deadline_ms) {
        connection->transport.error = ETIMEDOUT;
        fail_for_good(connection, UPSTREAM_CONNECT_TIMEOUT, VIEW("no connection in time"));
    } else if (now_ms >= connection->address_deadline_ms) {
        connection->transport.error = ETIMEDOUT;
        next_address(connection, UPSTREAM_CONNECT_TIMEOUT);
    }
}
