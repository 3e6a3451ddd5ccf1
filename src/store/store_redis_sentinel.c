#include "build_config.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <string.h>

#include "store/store_redis.h"

/* A connection of its own for one question. Without a user and password: Sentinels are asked as the
 * default user, since they have credentials of their own. */

void redis_sentinel_stop(struct redis_link *link)
{
    struct redisAsyncContext *context = link->sentinel_context;

    if (context) {
        link->sentinel_context = NULL;
        context->data = NULL;
        redisAsyncFree(context);
    }
}

bool redis_sentinel_read(const struct redisReply *answer, struct redis_host *host)
{
    const struct redisReply *name;
    const struct redisReply *port;
    uint64_t number = 0;

    if (answer->type != REDIS_REPLY_ARRAY || answer->elements != 2) {
        return false;
    }
    name = answer->element[0];
    port = answer->element[1];
    if (!name || !port || name->type != REDIS_REPLY_STRING || port->type != REDIS_REPLY_STRING ||
        name->len == 0 || name->len > REDIS_NAME_MAXIMUM ||
        !view_parse_u64(view_make(port->str, port->len), 65535, &number) || number == 0) {
        return false;
    }
    memset(host, 0, sizeof *host);
    memcpy(host->name, name->str, name->len);
    host->port = (uint16_t)number;
    return true;
}

static void on_answer(struct redisAsyncContext *context, void *data, UNUSED void *argument)
{
    const struct redisReply *answer = data;
    struct redis_link *link = context->data;
    struct redis_host host;

    if (!link || link->sentinel_context != context) {
        return;
    }
    if (!answer) {
        link->sentinel_context = NULL; /* hiredis frees it */
        context->data = NULL;
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("the Sentinel closed the connection"));
        return;
    }
    if (answer->type == REDIS_REPLY_ERROR) {
        redis_link_fail(link, METRIC_STORE_FAULT_REFUSED, view_make(answer->str, answer->len));
    } else if (!redis_sentinel_read(answer, &host)) {
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY,
                        VIEW("the Sentinel doesn't know a master of this name"));
    } else {
        redis_sentinel_stop(link);
        redis_link_connect_to(link, &host);
    }
}

static void on_connect(const struct redisAsyncContext *context, int status)
{
    struct redis_link *link = context->data;

    if (status != REDIS_OK && link && link->sentinel_context == context) {
        link->sentinel_context = NULL; /* hiredis frees it */
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("no connection to the Sentinel"));
    }
}

void redis_sentinel_ask(struct redis_link *link, const struct redis_peer *peer)
{
    const char *words[] = {"SENTINEL", "get-master-addr-by-name", link->store->address.master};
    size_t lengths[] = {strlen(words[0]), strlen(words[1]), strlen(words[2])};

    redis_sentinel_stop(link);
    link->sentinel_context = redis_link_open(link->loop, peer);
    if (!link->sentinel_context) {
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("no connection to the Sentinel"));
        return;
    }
    link->sentinel_context->data = link;
    (void)redisAsyncSetConnectCallback(link->sentinel_context, on_connect);
    if (redisAsyncCommandArgv(link->sentinel_context, on_answer, NULL, 3, words, lengths) !=
        REDIS_OK) {
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("out of memory"));
    }
}
