#include "build_config.h"

#include "sim/sim_http.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sim/sim_exchange.h"

enum {
    BACKLOG = 4096,
    LISTENERS_MAXIMUM = 16,
    HEAD_BYTES = 4096,
    BODY_MAXIMUM = 64 * 1024 * 1024, /* above the platform's own limits, which answer 400 */
    FIELDS_MAXIMUM = 64 * 1024,
    IDLE_SECONDS = 600,
    TABLE_BUCKETS = 4096
};

/* What is known of a connection below HTTP. evhttp tells nobody when it drops one, so records are
 * found by the address of the bufferevent and used again when that address comes back: there are
 * never more than connections were open at once. */
struct connection {
    struct connection *next;
    struct sim_http *http;
    struct bufferevent *bufferevent;
    struct event *turn;
    struct evhttp_connection *dropped; /* freed by turn: its request takes no effect */
    enum accept_action accept_action;
    bool doomed;
    bool in_request;
    bool asked;
    size_t request_bytes;
    size_t reset_after;
    size_t head_length;
    char head[HEAD_BYTES];
};

struct bound {
    char host[256];
    char port[16];
    bool tls;
};

struct sim_http {
    struct event_base *base;
    struct evhttp *plain;
    struct evhttp *secure;
    SSL_CTX *tls;
    const struct sim_http_hooks *hooks;
    FILE *raw_log;
    void (*handle)(struct exchange *, void *);
    void *argument;
    struct bound bounds[LISTENERS_MAXIMUM];
    size_t bound_count;
    struct evhttp_bound_socket *sockets[LISTENERS_MAXIMUM];
    struct connection *table[TABLE_BUCKETS];
    struct sim_http_counters counters;
};

void sim_http_abort_socket(int fd)
{
    /* Dissolving the association makes Linux send RST at once; SO_LINGER would have to wait for
     * close(), before which evhttp sends FIN by shutdown(). */
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    (void)!connect(fd, &nowhere, sizeof nowhere);
}

/* ---- below HTTP ---- */

static struct connection **connection_slot(struct sim_http *http, const struct bufferevent *wanted)
{
    size_t bucket = ((size_t)wanted >> 6) % TABLE_BUCKETS;
    struct connection **slot = &http->table[bucket];
    while (*slot && (*slot)->bufferevent != wanted)
        slot = &(*slot)->next;
    return slot;
}

static void on_connection_turn(evutil_socket_t unused, short what, void *argument)
{
    (void)unused;
    (void)what;
    struct connection *connection = argument;
    if (connection->dropped) {
        struct evhttp_connection *dropped = connection->dropped;
        connection->dropped = NULL;
        evhttp_connection_free(dropped);
        return;
    }
    int fd = (int)bufferevent_getfd(connection->bufferevent);
    static const char noise[] = "\x00\xff\x16garbage, not a handshake and not HTTP\r\n\r\n";
    if (fd < 0)
        return;
    if (connection->accept_action == ACCEPT_GARBAGE)
        (void)!send(fd, noise, sizeof noise - 1, MSG_NOSIGNAL);
    if (connection->accept_action == ACCEPT_RESET)
        sim_http_abort_socket(fd);
    else
        shutdown(fd, SHUT_RDWR);
}

/* Has on_connection_turn() called from the loop, out of evhttp's and libevent's hands. */
static void take_turn(struct connection *connection)
{
    if (!connection->turn)
        connection->turn = event_new(connection->http->base, -1, 0, on_connection_turn, connection);
    if (connection->turn)
        event_active(connection->turn, EV_TIMEOUT, 1);
}

static void log_raw(struct sim_http *http, struct evbuffer *input, size_t added)
{
    struct evbuffer_ptr at;
    if (evbuffer_ptr_set(input, &at, evbuffer_get_length(input) - added, EVBUFFER_PTR_SET))
        return;
    struct evbuffer_iovec pieces[64];
    int count = evbuffer_peek(input, (ev_ssize_t)added, &at, pieces, 64);
    for (int i = 0; i < count && i < 64; i++)
        fwrite(pieces[i].iov_base, 1, pieces[i].iov_len, http->raw_log);
    fflush(http->raw_log);
}

/* Looks at the request line once it is whole, for faults that strike while a request arrives. */
static void ask_request_fault(struct connection *connection)
{
    const struct sim_http_hooks *hooks = connection->http->hooks;
    char *line_end = memchr(connection->head, '\n', connection->head_length);
    char *method_end = memchr(connection->head, ' ', connection->head_length);
    if (!line_end || !method_end || method_end > line_end) {
        connection->asked = connection->head_length == HEAD_BYTES;
        return;
    }
    connection->asked = true;
    char *target = method_end + 1;
    char *target_end = memchr(target, ' ', (size_t)(line_end - target));
    if (!target_end)
        return;
    connection->reset_after = hooks->request_begun(
        hooks->argument,
        (struct sim_text){connection->head, (size_t)(method_end - connection->head)},
        (struct sim_text){target, (size_t)(target_end - target)});
}

static void watch_request(struct connection *connection, struct evbuffer *input, size_t added)
{
    if (!connection->in_request) {
        connection->in_request = true;
        connection->asked = false;
        connection->request_bytes = 0;
        connection->head_length = 0;
        connection->reset_after = SIZE_MAX;
    }
    connection->request_bytes += added;
    if (!connection->asked) {
        size_t room = HEAD_BYTES - connection->head_length;
        size_t wanted = added < room ? added : room;
        struct evbuffer_ptr at;
        if (evbuffer_ptr_set(input, &at, evbuffer_get_length(input) - added, EVBUFFER_PTR_SET) == 0)
            connection->head_length += (size_t)evbuffer_copyout_from(
                input, &at, connection->head + connection->head_length, wanted);
        ask_request_fault(connection);
    }
    if (connection->request_bytes >= connection->reset_after) {
        /* evhttp meets the dead socket by itself and frees the connection, unless the request is
         * whole already: then on_request() drops it. */
        connection->doomed = true;
        sim_http_abort_socket((int)bufferevent_getfd(connection->bufferevent));
    }
}

static void on_input(struct evbuffer *input, const struct evbuffer_cb_info *info, void *argument)
{
    struct connection *connection = argument;
    struct sim_http *http = connection->http;
    if (info->n_added == 0)
        return;
    http->counters.bytes_in += info->n_added;
    if (http->raw_log)
        log_raw(http, input, info->n_added);
    if (http->hooks && http->hooks->watching && *http->hooks->watching && !connection->doomed)
        watch_request(connection, input, info->n_added);
}

static struct bufferevent *connection_begin(struct sim_http *http, struct bufferevent *bufferevent)
{
    if (!bufferevent)
        return NULL;
    http->counters.connections++;
    struct connection **slot = connection_slot(http, bufferevent);
    if (!*slot) {
        *slot = calloc(1, sizeof **slot);
        if (!*slot)
            return bufferevent;
        (*slot)->http = http;
        (*slot)->bufferevent = bufferevent;
    }
    struct connection *connection = *slot;
    if (connection->turn)
        event_del(connection->turn);
    connection->doomed = false;
    connection->in_request = false;
    connection->dropped = NULL;
    connection->accept_action = ACCEPT_NORMAL;
    if (http->hooks && http->hooks->accepted)
        connection->accept_action = http->hooks->accepted(http->hooks->argument);
    if (connection->accept_action != ACCEPT_NORMAL) {
        connection->doomed = true;
        take_turn(connection); /* evhttp sets the descriptor only after this returned */
    }
    evbuffer_add_cb(bufferevent_get_input(bufferevent), on_input, connection);
    return bufferevent;
}

static struct bufferevent *on_new_plain(struct event_base *base, void *argument)
{
    return connection_begin(argument, bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE));
}

static struct bufferevent *on_new_secure(struct event_base *base, void *argument)
{
    struct sim_http *http = argument;
    SSL *session = SSL_new(http->tls);
    if (!session)
        return NULL;
    struct bufferevent *bufferevent = bufferevent_openssl_socket_new(
        base, -1, session, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (!bufferevent)
        SSL_free(session);
    else
        bufferevent_openssl_set_allow_dirty_shutdown(bufferevent, 1);
    return connection_begin(http, bufferevent);
}

static void on_dropped_closed(struct evhttp_connection *evcon, void *argument)
{
    (void)evcon;
    struct connection *connection = argument;
    connection->dropped = NULL;
}

static void on_request(struct evhttp_request *request, void *argument)
{
    struct sim_http *http = argument;
    struct evhttp_connection *evcon = evhttp_request_get_connection(request);
    struct bufferevent *bufferevent = evhttp_connection_get_bufferevent(evcon);
    struct connection *connection = *connection_slot(http, bufferevent);
    if (connection) {
        connection->in_request = false;
        if (connection->doomed) {
            /* The socket is dead, and evhttp no longer reads it: nobody else would notice. */
            connection->dropped = evcon;
            evhttp_connection_set_closecb(evcon, on_dropped_closed, connection);
            take_turn(connection);
            return;
        }
    }
    http->counters.requests++;
    struct exchange *exchange = exchange_create(http->base, &http->counters.hang_ups, request);
    if (exchange)
        http->handle(exchange, http->argument);
    else
        evhttp_send_error(request, HTTP_SERVUNAVAIL, NULL);
}

/* ---- listeners ---- */

static int select_http11(SSL *session, const unsigned char **out, unsigned char *out_length,
                         const unsigned char *offered, unsigned int length, void *argument)
{
    (void)session;
    (void)argument;
    static const unsigned char ours[] = "\x08http/1.1";
    for (unsigned int at = 0; at < length; at += offered[at] + 1U) {
        if (offered[at] == 8 && at + 9 <= length && memcmp(offered + at, ours, 9) == 0) {
            *out = offered + at + 1;
            *out_length = 8;
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *load_tls(const char *certificate, const char *key)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    if (tls && SSL_CTX_use_certificate_chain_file(tls, certificate) == 1 &&
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) == 1) {
        SSL_CTX_set_alpn_select_cb(tls, select_http11, NULL);
        return tls;
    }
    fprintf(stderr, "podgate-sim: cannot use certificate %s with key %s: %s\n", certificate, key,
            ERR_reason_error_string(ERR_peek_last_error()));
    SSL_CTX_free(tls);
    return NULL;
}

static bool create_servers(struct sim_http *http)
{
    struct timeval idle = {IDLE_SECONDS, 0};
    struct evhttp *servers[2];
    http->plain = servers[0] = evhttp_new(http->base);
    http->secure = servers[1] = evhttp_new(http->base);
    for (size_t i = 0; i < 2; i++) {
        if (!servers[i])
            return false;
        evhttp_set_gencb(servers[i], on_request, http);
        evhttp_set_timeout_tv(servers[i], &idle);
        evhttp_set_max_body_size(servers[i], BODY_MAXIMUM);
        evhttp_set_max_headers_size(servers[i], FIELDS_MAXIMUM);
        evhttp_set_allowed_methods(servers[i], EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_PUT |
                                                   EVHTTP_REQ_DELETE | EVHTTP_REQ_HEAD |
                                                   EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH |
                                                   EVHTTP_REQ_TRACE | EVHTTP_REQ_CONNECT);
    }
    evhttp_set_bevcb(http->plain, on_new_plain, http);
    evhttp_set_bevcb(http->secure, on_new_secure, http);
    return true;
}

struct sim_http *sim_http_create(struct event_base *base, const char *certificate, const char *key,
                                 const struct sim_http_hooks *hooks, FILE *raw_log,
                                 void (*handle)(struct exchange *, void *), void *argument)
{
    struct sim_http *http = calloc(1, sizeof *http);
    if (!http)
        return NULL;
    http->base = base;
    http->hooks = hooks;
    http->raw_log = raw_log;
    http->handle = handle;
    http->argument = argument;
    if ((certificate && !(http->tls = load_tls(certificate, key))) || !create_servers(http)) {
        sim_http_destroy(http);
        return NULL;
    }
    return http;
}

static bool bind_one(struct sim_http *http, size_t index)
{
    struct bound *bound = &http->bounds[index];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *address = NULL;
    int code = getaddrinfo(bound->host, bound->port, &hints, &address);
    if (code) {
        fprintf(stderr, "podgate-sim: %s:%s: %s\n", bound->host, bound->port, gai_strerror(code));
        return false;
    }
    struct evconnlistener *listener = evconnlistener_new_bind(
        http->base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_EXEC,
        BACKLOG, address->ai_addr, (int)address->ai_addrlen);
    freeaddrinfo(address);
    if (!listener) {
        fprintf(stderr, "podgate-sim: cannot listen on %s:%s: %s\n", bound->host, bound->port,
                strerror(errno));
        return false;
    }
    int fd = (int)evconnlistener_get_fd(listener);
    /* Accepted sockets inherit it: head and body leave at once, without waiting for an ACK. */
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    http->sockets[index] = evhttp_bind_listener(bound->tls ? http->secure : http->plain, listener);
    if (!http->sockets[index]) {
        evconnlistener_free(listener);
        return false;
    }
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    if (getsockname(fd, (struct sockaddr *)&name, &length) == 0)
        getnameinfo((struct sockaddr *)&name, length, NULL, 0, bound->port, sizeof bound->port,
                    NI_NUMERICSERV);
    return true;
}

bool sim_http_listen(struct sim_http *http, const char *specification, bool tls_default,
                     const char *label)
{
    const char *at = specification;
    bool tls = tls_default;
    if (strncmp(at, "tls:", 4) == 0) {
        tls = true;
        at += 4;
    }
    const char *colon = strrchr(at, ':');
    if (!colon || http->bound_count == LISTENERS_MAXIMUM || (tls && !http->tls)) {
        fprintf(stderr, "podgate-sim: --listen %s: %s\n", specification,
                !colon                                   ? "expected [tls:]HOST:PORT"
                : http->bound_count == LISTENERS_MAXIMUM ? "too many listeners"
                                                         : "needs --tls-certificate and --tls-key");
        return false;
    }
    struct bound *bound = &http->bounds[http->bound_count];
    bool bracketed = at[0] == '[' && colon > at && colon[-1] == ']';
    size_t host_length = (size_t)(colon - at) - (bracketed ? 2 : 0);
    if (host_length >= sizeof bound->host) {
        fprintf(stderr, "podgate-sim: --listen %s: the host is too long\n", specification);
        return false;
    }
    memcpy(bound->host, at + (bracketed ? 1 : 0), host_length);
    bound->host[host_length] = '\0';
    snprintf(bound->port, sizeof bound->port, "%s", colon + 1);
    bound->tls = tls;
    if (!bind_one(http, http->bound_count))
        return false;
    http->bound_count++;
    printf("podgate-sim: %s on %.*s:%s\n", label, (int)(colon - at), at, bound->port);
    fflush(stdout);
    return true;
}

void sim_http_down(struct sim_http *http, bool cut)
{
    for (size_t i = 0; i < http->bound_count; i++) {
        if (http->sockets[i])
            evhttp_del_accept_socket(http->bounds[i].tls ? http->secure : http->plain,
                                     http->sockets[i]);
        http->sockets[i] = NULL;
    }
    if (!cut || !http->plain) /* a front that is down can be ordered down once more */
        return;
    evhttp_free(http->plain);
    evhttp_free(http->secure);
    http->plain = http->secure = NULL;
}

bool sim_http_up(struct sim_http *http)
{
    if (!http->plain && !create_servers(http))
        return false;
    for (size_t i = 0; i < http->bound_count; i++) {
        if (!http->sockets[i] && !bind_one(http, i))
            return false;
    }
    return true;
}

void sim_http_destroy(struct sim_http *http)
{
    if (!http)
        return;
    if (http->plain)
        evhttp_free(http->plain);
    if (http->secure)
        evhttp_free(http->secure);
    for (size_t i = 0; i < TABLE_BUCKETS; i++) {
        for (struct connection *next; http->table[i]; http->table[i] = next) {
            next = http->table[i]->next;
            if (http->table[i]->turn)
                event_free(http->table[i]->turn);
            free(http->table[i]);
        }
    }
    SSL_CTX_free(http->tls);
    free(http);
}

struct sim_http_counters *sim_http_get_counters(struct sim_http *http)
{
    return &http->counters;
}
