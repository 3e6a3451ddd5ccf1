/* What the requests of one worker share: its loop, its callers, its client to the upstream, the
 * configuration of the moment and the counters. Everything in it belongs to that worker's thread,
 * but for what `struct gateway_shared` holds for all of them. The worker makes the parts and ends
 * them (process/worker.c); nothing here owns anything.
 */
#ifndef PODGATE_GATEWAY_GATEWAY_H
#define PODGATE_GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/body.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "format/http_fields.h"
#include "model/config.h"
#include "model/key.h"
#include "net/upstream.h"

struct breaker;
struct collector;
struct failed_attempts;
struct flights;
struct gateway;
struct operation;
struct hot_cache;
struct input_vault;
struct ledger;
struct request_pool;
struct result_codec;
struct store;
struct store_client;
struct store_job;
struct streams;

/* Names a request across threads and waits: a late answer finds nothing instead of freed memory. */
struct request_handle {
    uint32_t gateway_index;
    uint32_t slot;
    uint64_t generation;
};

/* Made by the process before any worker, and outliving all of them. */
struct gateway_shared {
    struct body_budget *budget;
    struct upstream_identity *identity;
    struct failed_attempts *failed_attempts;
    struct store *store;
    struct hot_cache *hot_cache;       /* results of all workers */
    struct result_codec *codec;        /* compresses and expands large results on its own thread */
    struct input_vault *input_vault;   /* how inputs lie in the store; NULL: none are kept */
    struct collector *collector;       /* says which job is polled when */
    struct gateway **gateways; /* one per worker; complete before any of them serves */
    size_t gateway_count;
};

struct gateway {
    struct gateway_shared *shared;
    size_t index; /* in shared->gateways */
    struct loop *loop;
    struct log_ring *log;
    struct metrics_block *metrics;
    const struct config *config;
    const struct operation *operations; /* by enum route_operation; see request.h */
    struct upstream *upstream;
    struct breaker *breaker;
    struct flights *flights;
    struct streams *streams;
    /* Reads a stream that nobody asks for. Set by streams_create(); flights know of no streams. */
    void (*capture_stream)(struct gateway *gateway, const struct store_job *job);
    struct store_client *store;
    struct ledger *ledger;
    struct request_pool *requests;
    struct key_hasher *hasher;
    struct http_date_cache date;
    uint64_t credential_told_ms; /* when the log last said that upstream refuses podgate's key */
    uint64_t random_state[2];    /* for request ids: seeded by the kernel, unpredictable enough */
};

#endif
