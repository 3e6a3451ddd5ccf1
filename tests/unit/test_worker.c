#include "build_config.h"

#include "upstream_peer.h"

#include <errno.h>
#include <poll.h>

#include "gateway/admission.h"
#include "model/key.h"
#include "model/key_state.h"
#include "net/listener_set.h"
#include "process/worker.h"
#include "store_place.h"

/* Workers with their threads: what the process asks of them, seen through 127.0.0.1. */

enum { WORKERS = 2 };

static struct key_state_table *states;
static struct worker_shared shared;
static struct gateway *gateways[WORKERS];
static struct worker *workers[WORKERS];
static char key_text[KEY_LENGTH_MAXIMUM + 1];
static char key_hash_text[2 * KEY_HASH_LENGTH + 1];

static uint16_t port;

/* A port that was free a moment ago. */
static void choose_port(void)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(bind(probe, (struct sockaddr *)&name, sizeof name), 0);
    cr_assert_eq(getsockname(probe, (struct sockaddr *)&name, &length), 0);
    close(probe);
    port = ntohs(name.sin_port);
}

static const struct config *load_with(const char *options)
{
    char *text = NULL;
    const struct config *loaded;
    union {
        const struct config *constant;
        struct config *writable;
    } both;

    cr_assert_gt(
        asprintf(&text,
                 "listen = {\"127.0.0.1:%u\"}\nupstream { url = \"http://127.0.0.1:%u/v2\" "
                 "api_key_env = \"PODGATE_TEST_KEY\" }\n"
                 "store { path = \"%s/podgate.db\" }\n%s\n"
                 "team \"t\" { endpoints = {\"*\"} key \"k\" { sha256 = \"%s\" "
                 "operations = {\"status\", \"health\", \"run\", \"adopt\"} } }\n",
                 port, peer.port, store_directory, options, key_hash_text),
        0);
    loaded = load_config(text);
    free(text);
    both.constant = loaded;
    cr_assert(config_adopt(both.writable, states));
    return loaded;
}

static void make_key(void)
{
    struct key_hasher *hasher = key_hasher_create();
    uint8_t hash[KEY_HASH_LENGTH];
    size_t length;

    cr_assert(key_generate(VIEW("k"), key_text, &length));
    cr_assert(key_hash(hasher, view_make(key_text, length), hash));
    for (size_t i = 0; i < sizeof hash; i++) {
        snprintf(key_hash_text + 2 * i, 3, "%02x", hash[i]);
    }
    key_hasher_destroy(hasher);
}

static void create_workers(void)
{
    char *problem = NULL;

    set_up_without_client();
    states = key_state_table_create();
    make_key();
    choose_port();
    make_store_place();
    config = load_with("");
    identity = upstream_identity_create(config, &problem);
    cr_assert_not_null(identity, "%s", problem);
    shared = (struct worker_shared){
        .gateways = {.budget = &budget,
                     .identity = identity,
                     .failed_attempts = failed_attempts_create(),
                     .gateways = gateways,
                     .gateway_count = WORKERS},
        .limits = connection_limits_create(config),
        .listeners = listener_set_create(config, WORKERS, NULL, &problem),
        .log = log_create(STDERR_FILENO, LOG_FORMAT_KEY_VALUE, LOG_LEVEL_ERROR, true),
        .metrics = metrics,
    };
    cr_assert_not_null(shared.listeners, "%s", problem);
    open_store(&shared.gateways, config, &budget, metrics, shared.log);
    for (size_t i = 0; i < WORKERS; i++) {
        workers[i] = worker_create(&shared, i, config);
        cr_assert_not_null(workers[i]);
    }
}

static void start_workers(void)
{
    create_workers();
    for (size_t i = 0; i < WORKERS; i++) {
        cr_assert(worker_start(workers[i]));
    }
}

static void end_workers(void)
{
    for (size_t i = 0; i < WORKERS; i++) {
        worker_stop(workers[i]);
    }
    for (size_t i = 0; i < WORKERS; i++) {
        worker_join(workers[i]);
    }
    result_codec_destroy(shared.gateways.codec);
    for (size_t i = 0; i < WORKERS; i++) {
        worker_flush(workers[i]);
    }
    for (size_t i = 0; i < WORKERS; i++) {
        worker_destroy(workers[i]);
    }
    close_store(&shared.gateways);
    log_destroy(shared.log);
    listener_set_destroy(shared.listeners);
    cr_expect_eq(connection_limits_count(shared.limits), 0);
    connection_limits_destroy(shared.limits);
    failed_attempts_destroy(shared.gateways.failed_attempts);
    tear_down();
    key_state_table_destroy(states);
}

TestSuite(worker, .init = start_workers, .fini = end_workers, .timeout = 60);

/* ---- a caller who blocks */

static int connect_caller(void)
{
    socklen_t length;
    const struct sockaddr_storage *address = listener_set_address(shared.listeners, 0, &length);
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {20, 0};

    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    cr_assert_eq(connect(descriptor, (const struct sockaddr *)address, length), 0, "%s",
                 strerror(errno));
    return descriptor;
}

static void send_text(int descriptor, const char *text)
{
    cr_assert_eq(send(descriptor, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void send_read(int descriptor, const char *target, const char *fields)
{
    char text[512];

    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n%s\r\n",
             target, key_text, fields);
    send_text(descriptor, text);
}

static char received[64 * 1024];

/* Reads until `text` has come; false when the connection ends before. */
static bool receive(int descriptor, const char *text)
{
    size_t filled = 0;

    for (;;) {
        ssize_t count = recv(descriptor, received + filled, sizeof received - 1 - filled, 0);

        cr_assert_geq(count, 0, "nothing came: %s", strerror(errno));
        if (count == 0) {
            return false;
        }
        filled += (size_t)count;
        received[filled] = '\0';
        if (strstr(received, text)) {
            return true;
        }
    }
}

/* The upstream is served by this thread's loop while the workers run on theirs. */
static bool receive_with_upstream(int descriptor, const char *text)
{
    struct pollfd waiting = {.fd = descriptor, .events = POLLIN};

    RUN_UNTIL(poll(&waiting, 1, 0) == 1);
    return receive(descriptor, text);
}

Test(worker, serves_who_connects)
{
    for (unsigned i = 0; i < 20; i++) {
        int descriptor = connect_caller();

        send_read(descriptor, "/podgate/v1/whoami", "");
        cr_assert(receive(descriptor, "\"team\":\"t\""));
        close(descriptor);
    }
}

Test(worker, proves_that_its_loop_turns)
{
    for (size_t i = 0; i < WORKERS; i++) {
        uint64_t first = worker_heartbeat_ms(workers[i]);

        RUN_UNTIL(worker_heartbeat_ms(workers[i]) > first);
        cr_assert_not(worker_has_ended(workers[i]));
    }
}

Test(worker, stops_at_once_when_told)
{
    int descriptor = connect_caller();

    send_read(descriptor, "/podgate/v1/whoami", "");
    cr_assert(receive(descriptor, "\"team\""));
    for (size_t i = 0; i < WORKERS; i++) {
        worker_stop(workers[i]);
        worker_join(workers[i]);
        cr_assert(worker_has_ended(workers[i]));
    }
    close(descriptor);
}

static struct peer_connection *held;

static void hold_request(struct peer_connection *connection, UNUSED struct view request)
{
    held = connection;
}

Test(worker, answers_what_is_pending_before_its_drain_ends)
{
    int descriptor = connect_caller();
    int idle = connect_caller();

    peer.on_request = hold_request;
    send_read(descriptor, "/v2/abc/status/j", "");
    RUN_UNTIL(held != NULL);
    for (size_t i = 0; i < WORKERS; i++) {
        worker_drain(workers[i]);
        worker_drain(workers[i]); /* twice is once */
    }
    cr_assert_not(receive(idle, "x"), "an idle connection is closed");
    cr_assert_not(worker_has_ended(workers[0]) && worker_has_ended(workers[1]));
    peer_send(held, "HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}");
    cr_assert(receive_with_upstream(descriptor, "Connection: close\r\n"));
    RUN_UNTIL(worker_has_ended(workers[0]) && worker_has_ended(workers[1]));
    close(descriptor);
    close(idle);
}

Test(worker, accepts_nobody_once_it_drains)
{
    socklen_t length;
    const struct sockaddr_storage *address = listener_set_address(shared.listeners, 0, &length);
    struct sockaddr_storage copy = *address;
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    for (size_t i = 0; i < WORKERS; i++) {
        worker_drain(workers[i]);
    }
    RUN_UNTIL(worker_has_ended(workers[0]) && worker_has_ended(workers[1]));
    cr_assert_eq(connect(descriptor, (struct sockaddr *)&copy, length), -1);
    cr_assert_eq(errno, ECONNREFUSED);
    close(descriptor);
}

Test(worker, a_newer_configuration_holds_for_the_next_request)
{
    const struct config *newer = load_with("server_timing = true");
    int descriptor = connect_caller();

    for (size_t i = 0; i < WORKERS; i++) {
        cr_assert(worker_adopt(workers[i], newer));
    }
    config_unref(newer);
    /* The letter may still be in the mail at the first of them. */
    do {
        send_read(descriptor, "/podgate/v1/whoami", "");
    } while (!receive(descriptor, "}}") || !strstr(received, "Server-Timing: "));
    close(descriptor);
}

/* ---- without threads */

TestSuite(worker_idle, .init = create_workers, .fini = end_workers, .timeout = 60);

Test(worker_idle, that_was_never_started_has_ended_and_can_be_freed)
{
    cr_assert(worker_has_ended(workers[0]));
    cr_assert_eq(gateways[0]->index, 0);
    cr_assert_eq(gateways[1]->index, 1);
}
