/* For the simulation: one podgate process in the test's own thread, with its real requests, ledger,
 * flights, client to the upstream and collector, on a store in memory. It can be killed at any
 * moment and started again.
 */
#ifndef PODGATE_TESTS_SIMULATION_PODGATE_H
#define PODGATE_TESTS_SIMULATION_PODGATE_H

#include "simulation_upstream.h"
#include "store_model.h"

#include <event2/event.h>

#include "gateway/admission.h"
#include "gateway/breaker.h"
#include "gateway/collector_private.h"
#include "gateway/flight.h"
#include "gateway/ledger.h"
#include "gateway/operation_table.h"
#include "gateway/request.h"
#include "gateway/stream.h"
#include "model/key.h"
#include "net/connection.h"
#include "net/connection_limits.h"
#include "store/hot_cache.h"

struct podgate {
    bool runs;
    struct loop *loop;
    struct metrics *metrics;
    struct gateway_shared shared;
    struct gateway gateway;
    struct gateway *gateway_list[1];
    struct front *front;
    struct store_client *collector_client;
    struct collector *collector;
    struct connection_limits *limits;
};

static struct podgate podgate;
static struct store_model model;
static struct body_budget budget;
static struct config *config;
static struct upstream_identity *identity;
static struct key_state_table *states;
static char key_text[KEY_LENGTH_MAXIMUM + 1];
static struct config_address plain_address;

/* ---- what stays when it dies */

SIMULATION_HELPER void simulation_load_config(void)
{
    struct config_errors *errors = config_errors_create();
    struct key_hasher *hasher = key_hasher_create();
    uint8_t hash[KEY_HASH_LENGTH];
    char hex[2 * KEY_HASH_LENGTH + 1];
    char *text = NULL;
    size_t length;
    char *problem = NULL;

    setenv("PODGATE_TEST_KEY", "rpa_TESTKEY0123456789", 1);
    cr_assert(key_generate(VIEW("test"), key_text, &length));
    cr_assert(key_hash(hasher, view_make(key_text, length), hash));
    key_hasher_destroy(hasher);
    for (size_t i = 0; i < sizeof hash; i++) {
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    }
    cr_assert_gt(asprintf(&text,
                          "upstream { url = \"http://127.0.0.1:%u/v2\" "
                          "api_key_env = \"PODGATE_TEST_KEY\" }\n"
                          "team \"t\" { endpoints = {\"*\"} key \"test\" { sha256 = \"%s\" } }\n",
                          up.port, hex),
                 0);
    config = config_load_text("simulation", view_of_string(text), false, errors);
    cr_assert_not_null(config);
    config_errors_destroy(errors);
    free(text);
    states = key_state_table_create();
    cr_assert(config_adopt(config, states));
    identity = upstream_identity_create(config, &problem);
    cr_assert_not_null(identity, "%s", problem);
}

SIMULATION_HELPER void simulation_drop_config(void)
{
    upstream_identity_destroy(identity);
    config_unref(config);
    key_state_table_destroy(states);
}

/* ---- start and kill */

SIMULATION_HELPER void podgate_start(void)
{
    struct gateway *gateway = &podgate.gateway;
    struct metrics_block *block;

    podgate = (struct podgate){.runs = true, .loop = loop_create()};
    podgate.metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    block = metrics_block_create(podgate.metrics);
    podgate.limits = connection_limits_create(config);
    podgate.shared = (struct gateway_shared){
        .budget = &budget,
        .identity = identity,
        .failed_attempts = failed_attempts_create(),
        .store = &model.store,
        .hot_cache = hot_cache_create(1024 * 1024),
        .gateways = podgate.gateway_list,
        .gateway_count = 1,
    };
    podgate.gateway_list[0] = gateway;
    *gateway = (struct gateway){
        .shared = &podgate.shared,
        .loop = podgate.loop,
        .metrics = block,
        .config = config_ref(config),
        .operations = operation_table,
        .random_state = {seed + 1, 2},
    };
    gateway->hasher = key_hasher_create();
    gateway->store = store_client_create(&model.store, podgate.loop, block, NULL);
    gateway->ledger = ledger_create(gateway);
    gateway->breaker = breaker_create(block, NULL);
    gateway->flights = flights_create(gateway);
    gateway->streams = streams_create(gateway);
    gateway->requests = request_pool_create(gateway);
    gateway->upstream = upstream_create(podgate.loop, config, identity, &budget, block, NULL);
    podgate.front = front_create(podgate.loop, config, &request_handler, gateway, NULL,
                                 podgate.limits, &budget, block, NULL);
    podgate.collector_client = store_client_create(&model.store, podgate.loop, block, NULL);
    podgate.collector = collector_create(&podgate.shared, podgate.loop, podgate.collector_client,
                                         block, NULL, config);
    cr_assert(gateway->ledger && gateway->flights && gateway->streams && gateway->upstream &&
              podgate.front && podgate.collector);
    podgate.shared.collector = podgate.collector;
    collector_seed(podgate.collector, seed);
    model_restart(&model);
    collector_start(podgate.collector, flight_post_poll, flight_post_cancel);
}

/* As by SIGKILL: of what it had asked the store, the first `took_effect` questions were done. */
SIMULATION_HELPER void podgate_kill(unsigned took_effect)
{
    struct gateway *gateway = &podgate.gateway;

    for (struct store_call *call = model.first; call && took_effect > 0; call = call->next) {
        model_commit(&model, call);
        took_effect--;
    }
    model.dead = true; /* nothing of what follows happens */
    podgate.runs = false;
    collector_stop(podgate.collector);
    loop_flush_mail(podgate.loop);
    front_destroy(podgate.front);
    streams_destroy(gateway->streams);
    flights_destroy(gateway->flights);
    request_pool_destroy(gateway->requests);
    ledger_destroy(gateway->ledger);
    collector_destroy(podgate.collector);
    store_client_destroy(gateway->store);
    store_client_destroy(podgate.collector_client);
    upstream_destroy(gateway->upstream);
    breaker_destroy(gateway->breaker);
    key_hasher_destroy(gateway->hasher);
    config_unref(gateway->config);
    loop_destroy(podgate.loop);
    hot_cache_destroy(podgate.shared.hot_cache);
    failed_attempts_destroy(podgate.shared.failed_attempts);
    connection_limits_destroy(podgate.limits);
    metrics_destroy(podgate.metrics);
}

/* Gives podgate one end of a pair of sockets; -1 while it is dead. */
SIMULATION_HELPER int podgate_connect(void)
{
    struct sockaddr_storage from = {0};
    struct sockaddr_in *name = (struct sockaddr_in *)&from;
    int pair[2];

    if (!podgate.runs) {
        return -1;
    }
    name->sin_family = AF_INET;
    name->sin_port = htons(40000);
    name->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert_eq(connection_limits_take(podgate.limits, &from), CONNECTION_LIMITS_OK);
    front_accept(podgate.front, pair[1], &from, &plain_address);
    return pair[0];
}

#endif
