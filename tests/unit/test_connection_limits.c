#include "build_config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/un.h>

#include "model/config.h"
#include "net/connection_limits.h"

static const struct config *load(const char *more)
{
    char text[1024];
    struct config_errors *errors = config_errors_create();
    struct config *config;

    cr_assert_not_null(errors);
    snprintf(text, sizeof text,
             "listen = {\"127.0.0.1:8080\"}\n"
             "upstream { url = \"http://127.0.0.1:1/v2\" api_key_env = \"NONE\" }\n%s\n",
             more);
    config = config_load_text("test", view_of_string(text), false, errors);
    if (!config) {
        config_errors_print(errors, stderr);
    }
    cr_assert_not_null(config);
    config_errors_destroy(errors);
    return config;
}

static struct connection_limits *create(const char *more)
{
    const struct config *config = load(more);
    struct connection_limits *limits = connection_limits_create(config);

    cr_assert_not_null(limits);
    config_unref(config);
    return limits;
}

static struct sockaddr_storage peer_of(const char *text)
{
    struct sockaddr_storage peer = {0};

    if (inet_pton(AF_INET, text, &((struct sockaddr_in *)&peer)->sin_addr) == 1) {
        peer.ss_family = AF_INET;
    } else if (inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)&peer)->sin6_addr) == 1) {
        peer.ss_family = AF_INET6;
    } else {
        peer.ss_family = AF_UNIX;
    }
    return peer;
}

static enum connection_limits_result take(struct connection_limits *limits, const char *text)
{
    struct sockaddr_storage peer = peer_of(text);

    return connection_limits_take(limits, &peer);
}

static void release(struct connection_limits *limits, const char *text)
{
    struct sockaddr_storage peer = peer_of(text);

    connection_limits_release(limits, &peer);
}

static enum connection_limits_result move(struct connection_limits *limits, const char *from,
                                          const char *to)
{
    struct sockaddr_storage peer = peer_of(from);
    struct sockaddr_storage source = peer_of(to);

    return connection_limits_move(limits, &peer, &source);
}

Test(connection_limits, bounds_all_connections)
{
    struct connection_limits *limits = create("memory { connections = 2 }");

    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    cr_expect_eq(take(limits, "unix"), CONNECTION_LIMITS_OK);
    cr_expect_eq(take(limits, "192.0.2.2"), CONNECTION_LIMITS_TOTAL);
    cr_expect_eq(connection_limits_count(limits), 2);
    release(limits, "unix");
    cr_expect_eq(take(limits, "192.0.2.2"), CONNECTION_LIMITS_OK);
    connection_limits_destroy(limits);
}

Test(connection_limits, bounds_each_address_by_itself)
{
    struct connection_limits *limits =
        create("memory { connections = 100 connections_per_address = 2 }");

    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_ADDRESS);
    cr_expect_eq(take(limits, "192.0.2.2"), CONNECTION_LIMITS_OK);
    cr_expect_eq(connection_limits_count(limits), 3);
    cr_expect_eq(connection_limits_addresses(limits), 2);
    release(limits, "192.0.2.1");
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    connection_limits_destroy(limits);
}

Test(connection_limits, forgets_addresses_without_connections)
{
    struct connection_limits *limits = create("");

    for (int i = 0; i < 1000; i++) {
        char text[32];

        snprintf(text, sizeof text, "198.51.%d.%d", i / 256, i % 256);
        cr_assert_eq(take(limits, text), CONNECTION_LIMITS_OK);
        release(limits, text);
    }
    cr_expect_eq(connection_limits_addresses(limits), 0);
    cr_expect_eq(connection_limits_count(limits), 0);
    connection_limits_destroy(limits);
}

Test(connection_limits, does_not_bound_an_address_with_limit_0)
{
    struct connection_limits *limits =
        create("memory { connections = 10000 connections_per_address = 0 }");

    for (int i = 0; i < 5000; i++) {
        cr_assert_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    }
    connection_limits_destroy(limits);
}

Test(connection_limits, counts_callers_behind_a_balancer_by_their_own_address)
{
    struct connection_limits *limits =
        create("memory { connections = 100 connections_per_address = 1 }\n"
               "proxy_protocol_from = {\"10.0.0.0/8\"}");

    for (int i = 0; i < 3; i++) {
        cr_expect_eq(take(limits, "10.0.0.1"), CONNECTION_LIMITS_OK);
    }
    cr_expect_eq(connection_limits_addresses(limits), 0);
    cr_expect_eq(move(limits, "10.0.0.1", "192.0.2.1"), CONNECTION_LIMITS_OK);
    cr_expect_eq(move(limits, "10.0.0.1", "192.0.2.1"), CONNECTION_LIMITS_ADDRESS);
    cr_expect_eq(move(limits, "10.0.0.1", "192.0.2.2"), CONNECTION_LIMITS_OK);
    cr_expect_eq(connection_limits_count(limits), 3);
    release(limits, "192.0.2.1");
    release(limits, "192.0.2.2");
    release(limits, "10.0.0.1");
    cr_expect_eq(connection_limits_count(limits), 0);
    cr_expect_eq(connection_limits_addresses(limits), 0);
    connection_limits_destroy(limits);
}

Test(connection_limits, adopts_newer_limits_for_new_connections)
{
    struct connection_limits *limits = create("memory { connections = 10 }");
    const struct config *lower = load("memory { connections = 1 }");

    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    connection_limits_adopt(limits, lower);
    config_unref(lower);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_TOTAL);
    release(limits, "192.0.2.1");
    release(limits, "192.0.2.1");
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    connection_limits_destroy(limits);
}

Test(connection_limits, a_cap_outlives_configurations_and_never_raises_their_limit)
{
    struct connection_limits *limits = create("memory { connections = 10 }");
    const struct config *higher = load("memory { connections = 20 }");
    const struct config *lower = load("memory { connections = 1 }");

    connection_limits_cap(limits, 2);
    connection_limits_adopt(limits, higher);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_OK);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_TOTAL);
    release(limits, "192.0.2.1");
    connection_limits_adopt(limits, lower);
    cr_expect_eq(take(limits, "192.0.2.1"), CONNECTION_LIMITS_TOTAL);
    release(limits, "192.0.2.1");
    config_unref(higher);
    config_unref(lower);
    connection_limits_destroy(limits);
}

static void *take_and_release(void *argument)
{
    struct connection_limits *limits = argument;
    uintptr_t most = 0;

    for (int i = 0; i < 20000; i++) {
        if (take(limits, "192.0.2.1") == CONNECTION_LIMITS_OK) {
            size_t count = connection_limits_count(limits);

            most = count > most ? count : most;
            release(limits, "192.0.2.1");
        }
    }
    return (void *)most;
}

Test(connection_limits, never_lets_two_threads_into_one_place)
{
    struct connection_limits *limits =
        create("memory { connections = 100 connections_per_address = 1 }");
    pthread_t threads[4];

    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, take_and_release, limits), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    cr_expect_eq(connection_limits_count(limits), 0);
    cr_expect_eq(connection_limits_addresses(limits), 0);
    connection_limits_destroy(limits);
}
