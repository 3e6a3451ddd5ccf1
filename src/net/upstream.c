#include "build_config.h"

#include "net/upstream.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/secret.h"
#include "model/metric_catalogue.h"
#include "net/upstream_private.h"

/* Exchanges as the layer above sees them: their start, their deadlines, their end. Which connection
 * they go over is upstream_pool.c's, what goes over it upstream_connection.c's. */

enum { UNUSED_EXCHANGES_MAXIMUM = 1024 };

_Static_assert(UPSTREAM_BUSY == 0 && UPSTREAM_ENCODED == 11,
               "model/metric_catalogue.c lists the failures in this order");

const char *upstream_failure_text(enum upstream_failure failure)
{
    switch (failure) {
    case UPSTREAM_BUSY: return "busy";
    case UPSTREAM_NO_MEMORY: return "no_memory";
    case UPSTREAM_NAME_UNKNOWN: return "name_unknown";
    case UPSTREAM_REFUSED: return "refused";
    case UPSTREAM_CONNECT_TIMEOUT: return "connect_timeout";
    case UPSTREAM_TLS: return "tls";
    case UPSTREAM_PROXY: return "proxy";
    case UPSTREAM_BROKEN: return "broken";
    case UPSTREAM_TIMEOUT: return "timeout";
    case UPSTREAM_MALFORMED: return "malformed";
    case UPSTREAM_INCOMPLETE: return "incomplete";
    case UPSTREAM_ENCODED: return "encoded";
    }
    return "unknown";
}

static struct upstream_exchange_list *list_of(struct upstream *upstream,
                                              enum upstream_exchange_state state)
{
    switch (state) {
    case UPSTREAM_EXCHANGE_WAITING: return &upstream->waiting;
    case UPSTREAM_EXCHANGE_ACTIVE: return &upstream->active;
    case UPSTREAM_EXCHANGE_FAILING: return &upstream->failing;
    }
    return &upstream->failing;
}

static void leave_list(struct upstream_exchange *exchange)
{
    struct upstream *upstream = exchange->upstream;

    TAILQ_REMOVE(list_of(upstream, exchange->state), exchange, list);
    upstream->waiting_count -= exchange->state == UPSTREAM_EXCHANGE_WAITING;
}

static void enter_list(struct upstream_exchange *exchange, enum upstream_exchange_state state)
{
    struct upstream *upstream = exchange->upstream;

    exchange->state = state;
    TAILQ_INSERT_TAIL(list_of(upstream, state), exchange, list);
    upstream->waiting_count += state == UPSTREAM_EXCHANGE_WAITING;
}

void upstream_exchange_move(struct upstream_exchange *exchange, enum upstream_exchange_state state)
{
    if (exchange->state != state) {
        leave_list(exchange);
        enter_list(exchange, state);
    }
    if (state != UPSTREAM_EXCHANGE_ACTIVE) {
        exchange->connection = NULL;
    }
}

void upstream_exchange_fail(struct upstream_exchange *exchange, enum upstream_failure failure)
{
    struct upstream *upstream = exchange->upstream;

    if (exchange->state == UPSTREAM_EXCHANGE_FAILING) {
        return;
    }
    exchange->failure = failure;
    exchange->failing_number = upstream->failing_number++;
    upstream_exchange_move(exchange, UPSTREAM_EXCHANGE_FAILING);
    event_active(upstream->failing_event, EV_TIMEOUT, 1);
}

void upstream_exchange_free(struct upstream_exchange *exchange)
{
    struct upstream *upstream = exchange->upstream;

    leave_list(exchange);
    body_unref(exchange->request.body);
    exchange->request.body = NULL;
    if (upstream->unused_count < UNUSED_EXCHANGES_MAXIMUM) {
        upstream->unused_count++;
        TAILQ_INSERT_HEAD(&upstream->unused, exchange, list);
    } else {
        free(exchange);
    }
}

/* Failures are told from here only, so that none comes from within upstream_send() and no callback
 * meets a half-done move. */
static void on_failing(evutil_socket_t descriptor, short what, void *argument)
{
    struct upstream *upstream = argument;
    struct upstream_exchange *exchange;
    uint64_t end = upstream->failing_number; /* a handler may send again, and fail again at once */

    (void)descriptor;
    (void)what;
    while ((exchange = TAILQ_FIRST(&upstream->failing)) != NULL && exchange->failing_number < end) {
        const struct upstream_handler *handler = exchange->handler;
        void *owner = exchange->owner;
        enum upstream_failure failure = exchange->failure;
        bool may_be_processed = upstream_exchange_is_sent(exchange);

        /* Off the list first: the callback may abort others, never this one (its handle is dead).
         */
        leave_list(exchange);
        handler->on_failure(owner, exchange, failure, may_be_processed);
        enter_list(exchange, UPSTREAM_EXCHANGE_FAILING);
        upstream_exchange_free(exchange);
    }
    upstream_pool_serve(upstream); /* a connection may have gone, which makes room for another */
}

/* ---- deadlines */

void upstream_sweep_start(struct upstream *upstream)
{
    static const struct timeval interval = {0, UPSTREAM_SWEEP_MS * 1000};

    if (!upstream->sweeping) {
        upstream->sweeping = event_add(upstream->sweep_event, &interval) == 0;
    }
}

static bool is_past(uint64_t deadline_ms, uint64_t now_ms)
{
    return deadline_ms != 0 && now_ms >= deadline_ms;
}

/* Those in front have an attempt to connect under way, which has a deadline of its own; the others
 * wait for their turn. */
static void sweep_waiting(struct upstream *upstream, uint64_t now_ms)
{
    struct upstream_exchange *exchange = TAILQ_FIRST(&upstream->waiting);
    bool asking = resolver_count(upstream->resolver) == 0;
    size_t position = 0;

    while (exchange) {
        struct upstream_exchange *next = TAILQ_NEXT(exchange, list);

        if (is_past(exchange->total_deadline_ms, now_ms)) {
            upstream_exchange_fail(exchange, UPSTREAM_TIMEOUT);
        } else if (!asking && position >= upstream->attempt_count &&
                   is_past(exchange->wait_deadline_ms, now_ms)) {
            upstream_exchange_fail(exchange, UPSTREAM_BUSY);
        } else {
            position++;
        }
        exchange = next;
    }
}

static void sweep_active(struct upstream *upstream, uint64_t now_ms)
{
    struct upstream_exchange *exchange = TAILQ_FIRST(&upstream->active);

    while (exchange) {
        struct upstream_exchange *next = TAILQ_NEXT(exchange, list);

        if (!exchange->paused && (is_past(exchange->total_deadline_ms, now_ms) ||
                                  is_past(exchange->sent_deadline_ms, now_ms) ||
                                  is_past(exchange->idle_deadline_ms, now_ms))) {
            upstream_connection_close(exchange->connection);
            upstream_exchange_fail(exchange, UPSTREAM_TIMEOUT);
        }
        exchange = next;
    }
}

static void sweep_attempts(struct upstream *upstream, uint64_t now_ms)
{
    struct upstream_connection *connection = TAILQ_FIRST(&upstream->connections);

    while (connection && upstream->attempt_count > 0) {
        struct upstream_connection *next = TAILQ_NEXT(connection, all);

        if (connection->state < UPSTREAM_CONNECTION_IDLE) {
            upstream_connect_expire(connection, now_ms);
        }
        connection = next;
    }
}

/* One pass several times a second costs far less than timers that are moved with every request. */
static void on_sweep(evutil_socket_t descriptor, short what, void *argument)
{
    struct upstream *upstream = argument;
    uint64_t now_ms = clock_mono_ms();

    (void)descriptor;
    (void)what;
    sweep_waiting(upstream, now_ms);
    sweep_active(upstream, now_ms);
    sweep_attempts(upstream, now_ms);
    upstream_pool_expire(upstream, now_ms);
    upstream_pool_serve(upstream);
    if (upstream->open_count == 0 && upstream->waiting_count == 0) {
        event_del(upstream->sweep_event);
        upstream->sweeping = false;
    }
}

/* ---- life of the client */

/* The share of one worker in what the configuration gives to all of them. */
static size_t share(const struct config *config, uint32_t all)
{
    long cores = config->workers > 0 ? (long)config->workers : sysconf(_SC_NPROCESSORS_ONLN);
    size_t part = all / (size_t)(cores > 0 ? cores : 1);

    return part > 0 || all == 0 ? part : 1;
}

/* The resolver of `former` serves for `config` too: what it knows outlives a reload, also one that
 * falls into an outage of DNS. */
static bool asks_the_same(const struct config *former, const struct config *config)
{
    const struct config_upstream *a = &former->upstream;
    const struct config_upstream *b = &config->upstream;
    const struct config_url *old_peer = a->has_proxy ? &a->proxy : &a->url;
    const struct config_url *new_peer = b->has_proxy ? &b->proxy : &b->url;

    return view_equal(old_peer->host, new_peer->host) && old_peer->port == new_peer->port &&
           a->dns_refresh_ms == b->dns_refresh_ms && a->connect_timeout_ms == b->connect_timeout_ms;
}

/* The "Host" field, the limits and the resolver for `config`. False without memory: all is as
 * before. */
static bool take_settings(struct upstream *upstream, const struct config *config)
{
    const struct config_upstream *settings = &config->upstream;
    const struct config_url *peer = settings->has_proxy ? &settings->proxy : &settings->url;
    struct resolver_settings names = {
        .host = peer->host,
        .port = peer->port,
        .refresh_ms = settings->dns_refresh_ms,
        .timeout_ms = settings->connect_timeout_ms / 2,
    };
    bool keeps_resolver = upstream->resolver && asks_the_same(upstream->config, config);
    struct builder field;
    struct resolver *resolver = upstream->resolver;
    size_t field_length;
    char *text;

    builder_init(&field, NULL, 0);
    builder_append(&field, VIEW("Host: "));
    builder_append(&field, settings->url.authority);
    builder_append(&field, VIEW("\r\n"));
    text = builder_detach(&field, &field_length);
    if (!keeps_resolver) {
        resolver = resolver_create(upstream->loop, &names, upstream_pool_on_addresses, upstream,
                                   upstream->log);
    }
    if (!text || !resolver) {
        free(text);
        if (!keeps_resolver) {
            resolver_destroy(resolver);
        }
        return false;
    }
    free(upstream->host_field);
    upstream->host_field = text;
    upstream->host_field_length = field_length;
    if (!keeps_resolver) {
        resolver_destroy(upstream->resolver);
        upstream->resolver = resolver;
        upstream->preferred_address = 0;
    }
    upstream->connections_maximum = share(config, settings->max_connections);
    upstream->waiting_maximum = share(config, settings->max_waiting);
    return true;
}

struct upstream *upstream_create(struct loop *loop, const struct config *config,
                                 struct upstream_identity *identity, struct body_budget *budget,
                                 struct metrics_block *metrics, struct log_ring *log)
{
    struct upstream *upstream = calloc(1, sizeof *upstream);

    if (!upstream) {
        return NULL;
    }
    upstream->loop = loop;
    upstream->identity = identity;
    upstream->budget = budget;
    upstream->metrics = metrics;
    upstream->log = log;
    TAILQ_INIT(&upstream->connections);
    TAILQ_INIT(&upstream->idle);
    TAILQ_INIT(&upstream->waiting);
    TAILQ_INIT(&upstream->active);
    TAILQ_INIT(&upstream->failing);
    TAILQ_INIT(&upstream->unused);
    upstream->config = config_ref(config);
    upstream->read_buffer = malloc(UPSTREAM_READ_BYTES);
    upstream->sweep_event = event_new(loop_base(loop), -1, EV_PERSIST, on_sweep, upstream);
    upstream->failing_event = event_new(loop_base(loop), -1, 0, on_failing, upstream);
    if (!upstream->read_buffer || !upstream->sweep_event || !upstream->failing_event ||
        !take_settings(upstream, config)) {
        upstream_destroy(upstream);
        return NULL;
    }
    return upstream;
}

static void free_list(struct upstream_exchange_list *list)
{
    struct upstream_exchange *exchange;

    while ((exchange = TAILQ_FIRST(list)) != NULL) {
        TAILQ_REMOVE(list, exchange, list);
        body_unref(exchange->request.body);
        free(exchange);
    }
}

void upstream_destroy(struct upstream *upstream)
{
    struct upstream_connection *connection;

    if (!upstream) {
        return;
    }
    while ((connection = TAILQ_FIRST(&upstream->connections)) != NULL) {
        upstream_connection_close(connection);
    }
    free_list(&upstream->waiting);
    free_list(&upstream->active);
    free_list(&upstream->failing);
    free_list(&upstream->unused);
    resolver_destroy(upstream->resolver);
    tls_resumption_clear(&upstream->resumption);
    if (upstream->sweep_event) {
        event_free(upstream->sweep_event);
    }
    if (upstream->failing_event) {
        event_free(upstream->failing_event);
    }
    free(upstream->host_field);
    free(upstream->read_buffer);
    config_unref(upstream->config);
    free(upstream);
}

static bool is_same_peer(const struct config *left, const struct config *right)
{
    const struct config_upstream *a = &left->upstream;
    const struct config_upstream *b = &right->upstream;

    return view_equal(a->url.text, b->url.text) && a->has_proxy == b->has_proxy &&
           view_equal(a->proxy.text, b->proxy.text) && view_equal(a->ca_file, b->ca_file) &&
           a->verify == b->verify;
}

void upstream_adopt(struct upstream *upstream, const struct config *config)
{
    struct upstream_connection *connection;

    if (!is_same_peer(upstream->config, config)) {
        /* Nothing new goes over connections to the former peer: they end with their exchange. */
        upstream->generation++;
        while ((connection = TAILQ_FIRST(&upstream->idle)) != NULL) {
            upstream_connection_close(connection);
        }
    }
    if (!take_settings(upstream, config)) {
        log_end(log_begin(upstream->log, LOG_LEVEL_ERROR, "upstream_adopt_no_memory"));
        return;
    }
    config_unref(upstream->config);
    upstream->config = config_ref(config);
    upstream_pool_serve(upstream);
}

struct upstream_counts upstream_counts(const struct upstream *upstream)
{
    return (struct upstream_counts){
        .open = upstream->open_count,
        .idle = upstream->idle_count,
        .waiting = upstream->waiting_count,
    };
}

/* ---- life of an exchange */

static struct upstream_exchange *take_unused(struct upstream *upstream)
{
    struct upstream_exchange *exchange = TAILQ_FIRST(&upstream->unused);

    if (exchange) {
        TAILQ_REMOVE(&upstream->unused, exchange, list);
        upstream->unused_count--;
        return exchange;
    }
    return malloc(sizeof *exchange);
}

/* Connections that are being made serve one that waits each; only those beyond wait for their turn.
 * The exchange in question is counted already. */
static bool has_room_to_wait(const struct upstream *upstream)
{
    return upstream->waiting_count <= upstream->waiting_maximum + upstream->attempt_count ||
           upstream->open_count < upstream->connections_maximum;
}

struct upstream_exchange *upstream_send(struct upstream *upstream,
                                        const struct upstream_request *request,
                                        const struct upstream_handler *handler, void *owner)
{
    struct upstream_exchange *exchange = take_unused(upstream);
    struct upstream_connection *connection;

    if (!exchange) {
        return NULL;
    }
    *exchange = (struct upstream_exchange){
        .upstream = upstream,
        .handler = handler,
        .owner = owner,
        .request = *request,
        .wait_deadline_ms = upstream_deadline_ms(upstream->config->upstream.waiting_timeout_ms),
        .total_deadline_ms = upstream_deadline_ms(request->deadlines.total_ms),
    };
    if (request->body) {
        body_ref(request->body);
    }
    enter_list(exchange, UPSTREAM_EXCHANGE_WAITING);
    upstream_sweep_start(upstream);
    while ((connection = upstream_pool_take(upstream, exchange)) != NULL) {
        if (upstream_pool_assign(connection, exchange)) {
            return exchange;
        }
    }
    if (!has_room_to_wait(upstream)) {
        upstream_exchange_fail(exchange, UPSTREAM_BUSY);
        return exchange;
    }
    upstream_pool_serve(upstream);
    return exchange;
}

void upstream_collect(struct upstream_exchange *exchange, struct body *body, size_t maximum_bytes)
{
    struct upstream_connection *connection = exchange->connection;
    size_t room_bytes = 0;

    exchange->collected = body;
    exchange->collect_maximum = maximum_bytes;
    exchange->collect_start = body_view(body).length;
    if (connection->response.head.framing != HTTP_BODY_LENGTH) {
        return;
    }
    if (connection->response.head.content_length > maximum_bytes) {
        exchange->collect_maximum = 0; /* known to be in vain: the first piece is told */
    } else {
        /* One byte more than announced, so that a read into it sees bytes beyond the answer. When
         * this fails, the first piece will fail to be appended and is told instead. */
        (void)!body_room(body, (size_t)connection->response.head.content_length + 1, &room_bytes);
    }
}

void upstream_pause(struct upstream_exchange *exchange)
{
    if (!exchange->paused) {
        exchange->paused = true;
        exchange->paused_since_ms = clock_mono_ms();
    }
    if (exchange->connection) {
        event_del(&exchange->connection->read_event);
    }
}

/* The upstream isn't to blame for how long a caller takes. */
static void prolong(uint64_t *deadline_ms, uint64_t by_ms)
{
    if (*deadline_ms != 0) {
        *deadline_ms += by_ms;
    }
}

void upstream_resume(struct upstream_exchange *exchange)
{
    struct upstream_connection *connection = exchange->connection;
    uint64_t paused_ms = clock_mono_ms() - exchange->paused_since_ms;

    if (!exchange->paused) {
        return;
    }
    exchange->paused = false;
    prolong(&exchange->total_deadline_ms, paused_ms);
    prolong(&exchange->sent_deadline_ms, paused_ms);
    exchange->idle_deadline_ms = upstream_deadline_ms(exchange->request.deadlines.idle_ms);
    if (!connection) {
        return;
    }
    if (event_add(&connection->read_event, NULL) != 0) {
        upstream_connection_close(connection);
        upstream_exchange_fail(exchange, UPSTREAM_NO_MEMORY);
    } else if (transport_has_buffered(&connection->transport)) {
        /* TLS has bytes already, for which the socket will never become readable. */
        event_active(&connection->read_event, EV_READ, 1);
    }
}

void upstream_abort(struct upstream_exchange *exchange)
{
    struct upstream *upstream = exchange->upstream;

    if (exchange->connection) {
        upstream_connection_close(exchange->connection);
        exchange->connection = NULL;
    }
    upstream_exchange_free(exchange);
    upstream_pool_serve(upstream);
}

struct upstream_timing upstream_timing(const struct upstream_exchange *exchange)
{
    return exchange->timing;
}
