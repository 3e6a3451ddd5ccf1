#include "build_config.h"

#include <event2/event.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <string.h>

#include "store/store_redis.h"

/* A subscribed connection can't send anything else, so that it is a second one. What is missed
 * while it is away is made up for by telling "ask anew". */

enum { AGAIN_MS = 500 };

static void open_connection(struct redis_watch *watch);

static void try_later(struct redis_watch *watch)
{
    struct timeval wait = {.tv_sec = 0, .tv_usec = AGAIN_MS * 1000};

    watch->context = NULL;
    watch->has_missed = true;
    if (watch->is_wanted) {
        (void)event_add(watch->timer, &wait);
    }
}

static void tell(struct redis_watch *watch, struct view endpoint, struct view job)
{
    if (watch->client->on_change) {
        watch->client->on_change(watch->client->on_change_argument, endpoint, job);
    }
}

/* "<instance> <endpoint> <job>". */
static void take_message(struct redis_watch *watch, struct view message)
{
    size_t end = view_find_byte(message, ' ');
    struct view instance = view_first(message, end);
    struct view rest = view_skip(message, end + 1);
    struct view endpoint;
    struct view job;

    end = view_find_byte(rest, ' ');
    endpoint = view_first(rest, end);
    job = view_skip(rest, end + 1);
    if (endpoint.length == 0 || endpoint.length > 64 || job.length == 0 || job.length > 256 ||
        view_equal(instance, store_instance(watch->store->store))) {
        return;
    }
    tell(watch, endpoint, job);
}

/* Changes of others are then seen by looking into the store, twice a second. Said once a start. */
static void note_refusal(struct redis_watch *watch, struct view error)
{
    struct log_line *line;

    if (!watch->was_refused) {
        watch->was_refused = true;
        line = log_begin(watch->client->log, LOG_LEVEL_WARNING, "store_watch_refused");
        log_text(line, "problem", error);
        log_end(line);
    }
}

static void on_message(struct redisAsyncContext *context, void *data, UNUSED void *argument)
{
    const struct redisReply *answer = data;
    struct redis_watch *watch = context->data;
    const struct redisReply *kind;

    if (!watch || !answer) {
        return;
    }
    if (answer->type != REDIS_REPLY_ARRAY || answer->elements < 3 ||
        answer->element[0]->type != REDIS_REPLY_STRING) {
        return;
    }
    kind = answer->element[0];
    if (view_equal(view_make(kind->str, kind->len), VIEW("subscribe"))) {
        if (watch->has_missed) {
            tell(watch, VIEW(""), VIEW(""));
        }
        watch->has_missed = false;
    } else if (view_equal(view_make(kind->str, kind->len), VIEW("message")) &&
               answer->element[2]->type == REDIS_REPLY_STRING) {
        take_message(watch, view_make(answer->element[2]->str, answer->element[2]->len));
    }
}

static void on_connect(const struct redisAsyncContext *context, int status)
{
    struct redis_watch *watch = context->data;

    if (status != REDIS_OK && watch) {
        try_later(watch);
    }
}

static void on_disconnect(const struct redisAsyncContext *context, UNUSED int status)
{
    struct redis_watch *watch = context->data;

    if (watch && watch->context == context) {
        if (context->err == REDIS_ERR_OTHER) {
            /* hiredis 0.14 gives the error that answers SUBSCRIBE to no callback. */
            note_refusal(watch, view_of_string(context->errstr));
        }
        try_later(watch);
    }
}

static bool say_auth(struct redis_watch *watch)
{
    struct view password = secret_view(watch->store->password);
    struct view user = view_of_string(watch->store->user);
    const char *words[3] = {"AUTH"};
    size_t lengths[3] = {4};
    int count = 1;

    if (!watch->store->password) {
        return true;
    }
    if (user.length > 0) {
        words[count] = user.data;
        lengths[count++] = user.length;
    }
    words[count] = password.data;
    lengths[count++] = password.length;
    return redisAsyncCommandArgv(watch->context, NULL, NULL, count, words, lengths) == REDIS_OK;
}

static bool subscribe(struct redis_watch *watch)
{
    char storage[128];
    struct builder channel;
    const char *words[2] = {"SUBSCRIBE"};
    size_t lengths[2] = {9};
    bool good;

    builder_init(&channel, storage, sizeof storage);
    builder_append(&channel, view_make(watch->store->prefix, watch->store->prefix_length));
    builder_append(&channel, VIEW(":changes"));
    words[1] = builder_view(&channel).data;
    lengths[1] = builder_view(&channel).length;
    good = !builder_failed(&channel) &&
           redisAsyncCommandArgv(watch->context, on_message, NULL, 2, words, lengths) == REDIS_OK;
    builder_clear(&channel);
    return good;
}

static void open_connection(struct redis_watch *watch)
{
    watch->context = redis_link_open(watch->client->loop, &watch->peer);
    if (!watch->context) {
        try_later(watch);
        return;
    }
    watch->context->data = watch;
    (void)redisAsyncSetConnectCallback(watch->context, on_connect);
    (void)redisAsyncSetDisconnectCallback(watch->context, on_disconnect);
    if (!say_auth(watch) || !subscribe(watch)) {
        struct redisAsyncContext *context = watch->context;

        context->data = NULL;
        try_later(watch);
        redisAsyncFree(context);
    }
}

static void on_timer(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct redis_watch *watch = argument;

    if (watch->is_wanted && !watch->context) {
        open_connection(watch);
    }
}

bool redis_watch_init(struct redis_watch *watch, struct redis_store *store,
                      struct store_client *client)
{
    memset(watch, 0, sizeof *watch);
    watch->store = store;
    watch->client = client;
    watch->timer = event_new(loop_base(client->loop), -1, 0, on_timer, watch);
    return watch->timer != NULL;
}

void redis_watch_start(struct redis_watch *watch, const struct redis_peer *peer)
{
    redis_watch_stop(watch);
    watch->peer = *peer;
    watch->is_wanted = true;
    open_connection(watch);
}

void redis_watch_stop(struct redis_watch *watch)
{
    struct redisAsyncContext *context = watch->context;

    watch->is_wanted = false;
    (void)event_del(watch->timer);
    if (context) {
        watch->context = NULL;
        watch->has_missed = true;
        context->data = NULL;
        redisAsyncFree(context);
    }
}

void redis_watch_clear(struct redis_watch *watch)
{
    if (watch->timer) {
        redis_watch_stop(watch);
        event_free(watch->timer);
        watch->timer = NULL;
    }
}
