#include "build_config.h"

#include <stdlib.h>

#include "store/store_backend.h"

/* What stands before Redis: while it is away, nothing takes writes (on_outage = "refuse"). */

struct spool {
    void *redis;
};

static void *create(struct store *store, const struct config *config, char **problem,
                    int *exit_status)
{
    struct spool *spool = calloc(1, sizeof *spool);

    if (!spool) {
        return NULL;
    }
    spool->redis = store_redis_backend.create(store, config, problem, exit_status);
    if (!spool->redis) {
        free(spool);
        return NULL;
    }
    return spool;
}

static void destroy(void *data)
{
    struct spool *spool = data;

    store_redis_backend.destroy(spool->redis);
    free(spool);
}

static void adopt(void *data, const struct config *config)
{
    struct spool *spool = data;

    store_redis_backend.adopt(spool->redis, config);
}

static void *create_client(void *data, struct store_client *client)
{
    struct spool *spool = data;

    return store_redis_backend.create_client(spool->redis, client);
}

static void destroy_client(void *client_data)
{
    store_redis_backend.destroy_client(client_data);
}

static void start(void *client_data, struct store_call *call)
{
    store_redis_backend.start(client_data, call);
}

static enum store_state state(const void *data)
{
    const struct spool *spool = data;

    return store_redis_backend.state(spool->redis);
}

static enum store_durability durability(const void *data)
{
    const struct spool *spool = data;

    return store_redis_backend.durability(spool->redis);
}

const struct store_backend store_spool_backend = {
    .name = "spool",
    .create = create,
    .destroy = destroy,
    .adopt = adopt,
    .create_client = create_client,
    .destroy_client = destroy_client,
    .start = start,
    .state = state,
    .durability = durability,
    .is_shared = true,
};
