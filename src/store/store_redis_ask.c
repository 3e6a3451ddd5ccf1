#include "build_config.h"

#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "net/resolver.h"
#include "store/store_redis.h"

/* Asks Redis what it is, once, and waits for it: at the start and for `podgatectl doctor`. Names
 * are resolved on a loop made for it, since the C library has no time-out for them. */

struct lookup {
    struct loop *loop;
    struct resolver *resolver;
};

static void on_addresses(void *argument)
{
    struct lookup *lookup = argument;

    (void)event_base_loopbreak(loop_base(lookup->loop));
}

static bool look_up(const struct redis_host *host, uint64_t timeout_ms, struct redis_peer *peer)
{
    struct lookup lookup = {.loop = loop_create()};
    struct resolver_settings settings = {
        .host = view_of_string(host->name),
        .port = host->port,
        .refresh_ms = 3600 * 1000,
        .timeout_ms = timeout_ms,
    };
    struct timeval limit = {.tv_sec = (time_t)(timeout_ms / 1000),
                            .tv_usec = (suseconds_t)(timeout_ms % 1000 * 1000)};
    bool good = false;

    if (!lookup.loop) {
        return false;
    }
    lookup.resolver = resolver_create(lookup.loop, &settings, on_addresses, &lookup, NULL);
    if (lookup.resolver) {
        if (resolver_count(lookup.resolver) == 0) {
            (void)event_base_loopexit(loop_base(lookup.loop), &limit);
            (void)event_base_dispatch(loop_base(lookup.loop));
        }
        good = redis_link_peer(lookup.resolver, 0, peer);
        resolver_destroy(lookup.resolver);
    }
    loop_destroy(lookup.loop);
    return good;
}

static struct redisContext *open_peer(const struct redis_peer *peer, uint64_t timeout_ms)
{
    struct timeval limit = {.tv_sec = (time_t)(timeout_ms / 1000),
                            .tv_usec = (suseconds_t)(timeout_ms % 1000 * 1000)};
    struct redisContext *context = peer->is_unix
                                       ? redisConnectUnixWithTimeout(peer->text, limit)
                                       : redisConnectWithTimeout(peer->text, peer->port, limit);

    if (context && (context->err || redisSetTimeout(context, limit) != REDIS_OK)) {
        redisFree(context);
        return NULL;
    }
    return context;
}

static bool ask_sentinels(struct redis_store *store, uint64_t timeout_ms, struct redis_peer *peer)
{
    for (size_t i = 0; i < store->address.host_count; i++) {
        struct redisContext *context = NULL;
        struct redisReply *answer = NULL;
        struct redis_host host;
        bool good = false;

        if (look_up(&store->address.hosts[i], timeout_ms, peer)) {
            context = open_peer(peer, timeout_ms);
        }
        if (context) {
            answer =
                redisCommand(context, "SENTINEL get-master-addr-by-name %s", store->address.master);
        }
        good = answer && redis_sentinel_read(answer, &host) && look_up(&host, timeout_ms, peer);
        freeReplyObject(answer);
        if (context) {
            redisFree(context);
        }
        if (good) {
            return true;
        }
    }
    return false;
}

static bool is_error(const struct redisReply *answer)
{
    return !answer || answer->type == REDIS_REPLY_ERROR;
}

/* NULL: let in. */
static const char *authenticate(struct redis_store *store, struct redisContext *context)
{
    struct view password = secret_view(store->password);
    struct redisReply *answer;
    bool good;

    if (store->password) {
        answer = store->user ? redisCommand(context, "AUTH %s %b", store->user, password.data,
                                            password.length)
                             : redisCommand(context, "AUTH %b", password.data, password.length);
        good = !is_error(answer);
        freeReplyObject(answer);
        if (!good) {
            return "it refuses the user and password";
        }
    }
    answer = redisCommand(context, "SELECT %u", store->address.database);
    good = !is_error(answer);
    freeReplyObject(answer);
    if (context->err) {
        return "it does not answer";
    }
    return good              ? NULL
           : store->password ? "it refuses the number of the database"
                             : "it wants a password (password_file), or refuses the number of the "
                               "database";
}

static void ask_config(struct redisContext *context, const char *name, struct redis_facts *facts)
{
    struct redisReply *answer = redisCommand(context, "CONFIG GET %s", name);

    if (answer && answer->type == REDIS_REPLY_ARRAY && answer->elements == 2 &&
        answer->element[1]->type == REDIS_REPLY_STRING) {
        redis_facts_read_config(facts, view_of_string(name),
                                view_make(answer->element[1]->str, answer->element[1]->len));
    }
    freeReplyObject(answer);
}

static void ask_time(struct redisContext *context, struct redis_facts *facts)
{
    struct redisReply *answer = redisCommand(context, "TIME");

    if (answer) {
        redis_facts_read_time(facts, answer);
    }
    freeReplyObject(answer);
}

/* A script that writes, as all of podgate's do. */
static void try_to_write(struct redis_store *store, struct redisContext *context,
                         struct redis_facts *facts)
{
    struct redisReply *answer =
        redisCommand(context, "EVAL %s 1 %s:probe",
                     "return redis.call('SET',KEYS[1],'doctor','PX','60000')", store->prefix);

    if (is_error(answer)) {
        (void)snprintf(facts->write_problem, sizeof facts->write_problem, "%s",
                       answer ? answer->str : "it does not answer");
    }
    freeReplyObject(answer);
}

static const char *find_peer(struct redis_store *store, uint64_t timeout_ms,
                             struct redis_peer *peer)
{
    *peer = (struct redis_peer){.is_unix = store->address.is_unix};
    if (peer->is_unix) {
        memcpy(peer->text, store->address.path, sizeof peer->text);
        return NULL;
    }
    if (store->address.is_sentinel) {
        return ask_sentinels(store, timeout_ms, peer) ? NULL
                                                      : "no Sentinel names a master of this name";
    }
    return look_up(&store->address.hosts[0], timeout_ms, peer) ? NULL : "its name has no address";
}

const char *redis_facts_ask(struct redis_store *store, struct redis_facts *facts,
                            uint64_t timeout_ms)
{
    struct redis_peer peer;
    struct redisContext *context;
    struct redisReply *answer;
    const char *failure = find_peer(store, timeout_ms, &peer);

    memset(facts, 0, sizeof *facts);
    if (failure) {
        return failure;
    }
    context = open_peer(&peer, timeout_ms);
    if (!context) {
        return "no connection";
    }
    failure = authenticate(store, context);
    if (!failure) {
        answer = redisCommand(context, "INFO");
        if (answer && answer->type == REDIS_REPLY_STRING) {
            redis_facts_read_info(facts, view_make(answer->str, answer->len));
        }
        freeReplyObject(answer);
        ask_config(context, "appendfsync", facts);
        ask_config(context, "maxmemory-policy", facts);
        facts->asked_wall_ms = clock_wall_ms();
        ask_time(context, facts);
        try_to_write(store, context, facts);
        failure = context->err ? "it does not answer" : NULL;
    }
    redisFree(context);
    return failure;
}
