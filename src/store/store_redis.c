#include "build_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/store_redis.h"

/* The process's part: settings, and what is known of Redis by all clients together. The store is
 * READY while every loop's connection is: a submit may come in on any of them. */

enum { PASSWORD_MAXIMUM = 1024, SKEW_MS = 2000 };

/* ---- start and end --------------------------------------------------------------------------- */

static char *problem_text(const char *what, const char *detail)
{
    char *text = NULL;

    return asprintf(&text, "store: %s%s%s", what, detail ? ": " : "", detail ? detail : "") < 0
               ? NULL
               : text;
}

static bool read_password(const char *path, struct secret **password, const char **problem)
{
    char bytes[PASSWORD_MAXIMUM + 1];
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = descriptor >= 0 ? read(descriptor, bytes, sizeof bytes) : -1;
    size_t length = count > 0 ? (size_t)count : 0;
    bool good = false;

    if (count < 0) {
        *problem = strerrordesc_np(errno);
    } else if (length > PASSWORD_MAXIMUM) {
        *problem = "it is longer than 1,024 bytes";
    } else {
        while (length > 0 && (bytes[length - 1] == '\n' || bytes[length - 1] == '\r')) {
            length--;
        }
        *password = length > 0 ? secret_create(view_make(bytes, length)) : NULL;
        *problem = length > 0 ? "out of memory" : "it is empty";
        good = *password != NULL;
    }
    secret_wipe(bytes, sizeof bytes);
    if (descriptor >= 0) {
        (void)close(descriptor);
    }
    return good;
}

void redis_settings_destroy(struct redis_store *redis)
{
    secret_destroy(redis->password);
    redis_scripts_clear(&redis->scripts);
    pthread_mutex_destroy(&redis->lock);
    free(redis->user);
    free(redis->prefix);
    free(redis);
}

static char *copy_text(struct view text)
{
    return strndup(text.length > 0 ? text.data : "", text.length);
}

static bool take_settings(struct redis_store *redis, const struct config *config, char **problem,
                          int *exit_status)
{
    const struct config_store *settings = &config->store;
    const char *wrong = redis_address_parse(settings->url, &redis->address);

    *exit_status = EX_CONFIG;
    if (wrong) {
        *problem = problem_text("url", wrong);
        return false;
    }
    if (settings->password_file.length > 0 &&
        !read_password(settings->password_file.data, &redis->password, &wrong)) {
        *problem = problem_text("password_file", wrong);
        return false;
    }
    *exit_status = EX_OSERR;
    redis->prefix = copy_text(settings->prefix);
    redis->prefix_length = settings->prefix.length;
    redis->user = settings->user.length > 0 ? copy_text(settings->user) : NULL;
    redis->require_durable = settings->require_durable;
    if (!redis->prefix || (settings->user.length > 0 && !redis->user) ||
        !redis_scripts_init(&redis->scripts)) {
        *problem = problem_text("out of memory", NULL);
        return false;
    }
    return true;
}

static struct redis_store *make_settings(const struct config *config, char **problem,
                                         int *exit_status)
{
    struct redis_store *redis = calloc(1, sizeof *redis);

    if (!redis) {
        *exit_status = EX_OSERR;
        *problem = problem_text("out of memory", NULL);
        return NULL;
    }
    atomic_init(&redis->durability, STORE_NOT_DURABLE);
    (void)pthread_mutex_init(&redis->lock, NULL);
    if (!take_settings(redis, config, problem, exit_status)) {
        redis_settings_destroy(redis);
        return NULL;
    }
    return redis;
}

struct redis_store *redis_settings_create(const struct config *config, char **problem)
{
    int exit_status = 0;

    return make_settings(config, problem, &exit_status);
}

/* What can't work at all is said at the start, when somebody looks. Away is no reason to refuse: it
 * may come. */
static const char *refusal_at_start(struct redis_store *redis)
{
    struct redis_facts facts;
    const char *refusal;

    if (redis_facts_ask(redis, &facts, REDIS_ATTEMPT_MS)) {
        return NULL;
    }
    refusal = redis_facts_refusal(&facts);
    if (!refusal && redis->require_durable && redis_facts_durability(&facts) != STORE_DURABLE) {
        refusal = "require_durable is set, and this Redis can lose what it has confirmed; set "
                  "appendonly yes, appendfsync always and maxmemory-policy noeviction there";
    }
    return refusal;
}

static void *create(struct store *store, const struct config *config, char **problem,
                    int *exit_status)
{
    struct redis_store *redis = make_settings(config, problem, exit_status);
    const char *refusal = NULL;

    if (!redis) {
        return NULL;
    }
    redis->store = store;
    refusal = refusal_at_start(redis);
    if (refusal) {
        *exit_status = EX_CONFIG;
        *problem = problem_text(refusal, NULL);
        redis_settings_destroy(redis);
        return NULL;
    }
    return redis;
}

static void destroy(void *data)
{
    redis_settings_destroy(data);
}

static void adopt(UNUSED void *data, UNUSED const struct config *config)
{
    /* All of its settings need a new start. */
}

/* ---- a loop's part --------------------------------------------------------------------------- */

static void on_link_change(void *argument, bool is_ready)
{
    struct redis_client *client = argument;

    if (atomic_exchange(&client->is_ready, is_ready) != is_ready) {
        if (is_ready) {
            atomic_fetch_add(&client->store->ready_count, 1);
        } else {
            atomic_fetch_sub(&client->store->ready_count, 1);
        }
        if (is_ready) {
            redis_watch_start(&client->watch, &client->link.peer);
        } else {
            redis_watch_stop(&client->watch);
        }
        if (client->on_state) {
            client->on_state(client->on_state_argument, is_ready);
        }
    }
    redis_calls_link_changed(client, is_ready);
}

static void destroy_client(void *client_data)
{
    struct redis_client *client = client_data;

    redis_calls_clear(client);
    redis_link_clear(&client->link);
    redis_watch_clear(&client->watch);
    atomic_fetch_sub(&client->store->client_count, 1);
    if (atomic_load(&client->is_ready)) {
        atomic_fetch_sub(&client->store->ready_count, 1);
    }
    free(client);
}

static void *create_client(void *data, struct store_client *store_client)
{
    struct redis_client *client = calloc(1, sizeof *client);

    if (!client) {
        return NULL;
    }
    client->store = data;
    client->client = store_client;
    atomic_fetch_add(&client->store->client_count, 1);
    if (!redis_calls_init(client) ||
        !redis_watch_init(&client->watch, client->store, store_client) ||
        !redis_link_init(&client->link, client->store, store_client, on_link_change, client)) {
        destroy_client(client);
        return NULL;
    }
    return client;
}

/* ---- state ----------------------------------------------------------------------------------- */

static enum store_state state(const void *data)
{
    const struct redis_store *redis = data;
    unsigned clients = atomic_load(&redis->client_count);

    return clients > 0 && atomic_load(&redis->ready_count) == clients ? STORE_STATE_READY
                                                                      : STORE_STATE_AWAY;
}

static enum store_durability durability(const void *data)
{
    const struct redis_store *redis = data;

    return (enum store_durability)atomic_load(&redis->durability);
}

static const char *reason_text(enum metric_store_fault reason)
{
    switch (reason) {
    case METRIC_STORE_FAULT_SLOW: return "slow";
    case METRIC_STORE_FAULT_REFUSED: return "refused_command";
    case METRIC_STORE_FAULT_AWAY:
    case METRIC_STORE_FAULT_FULL:
    case METRIC_STORE_FAULT_IO:
    case METRIC_STORE_FAULT_LOCKED:
    case METRIC_STORE_FAULT_MALFORMED:
    case METRIC_STORE_FAULT_EMPTIED:
    case METRIC_STORE_FAULT_END: break;
    }
    return "away";
}

void redis_store_note_state(struct redis_link *link, bool is_ready, enum metric_store_fault reason,
                            struct view detail)
{
    struct redis_store *redis = link->store;
    struct log_line *line;
    bool is_new;

    if (!is_ready) {
        metrics_add(link->metrics, METRIC_FAULTS, METRIC_PART_STORE, reason, 1);
    }
    pthread_mutex_lock(&redis->lock);
    is_new = !redis->is_said || redis->said_ready != is_ready;
    redis->is_said = true;
    redis->said_ready = is_ready;
    pthread_mutex_unlock(&redis->lock);
    if (!is_new) {
        return;
    }
    line = log_begin(link->log, is_ready ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING,
                     is_ready ? "store_ready" : "store_away");
    log_string(line, "store", "redis");
    if (is_ready) {
        log_string(line, "version", link->facts.version_text);
        log_string(line, "address", link->peer.text);
    } else {
        log_string(line, "reason", reason_text(reason));
        log_text(line, "detail", detail);
    }
    log_end(line);
}

/* ---- what a connection leads to -------------------------------------------------------------- */

static void note_durability(struct redis_link *link, enum store_durability found)
{
    static const char *const texts[] = {"durable", "everysec", "not_durable"};
    struct redis_store *redis = link->store;
    int before = atomic_exchange(&redis->durability, (int)found);
    struct log_line *line;

    /* The gauge is 2, 1, 0 for what the enum counts the other way. */
    metrics_add(link->metrics, METRIC_STORE_DURABILITY, 0, 0, before - (int)found);
    pthread_mutex_lock(&redis->lock);
    if (redis->is_known && before == (int)found) {
        pthread_mutex_unlock(&redis->lock);
        return;
    }
    redis->is_known = true;
    pthread_mutex_unlock(&redis->lock);
    line = log_begin(link->log, found == STORE_DURABLE ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING,
                     "store_durability");
    log_string(line, "durability", texts[found]);
    log_string(line, "appendonly", link->facts.aof_enabled ? "yes" : "no");
    log_string(line, "appendfsync", redis_fsync_text(link->facts.fsync));
    log_string(line, "maxmemory_policy", link->facts.policy);
    log_end(line);
}

static void note_skew(struct redis_link *link)
{
    uint64_t ours = link->facts.asked_wall_ms;
    uint64_t theirs = link->facts.time_ms;
    uint64_t skew = ours > theirs ? ours - theirs : theirs - ours;

    if (theirs > 0 && skew > SKEW_MS) {
        struct log_line *line = log_begin(link->log, LOG_LEVEL_WARNING, "store_clock_skew");

        log_number(line, "skew_ms", skew);
        log_string(line, "ahead", theirs > ours ? "redis" : "podgate");
        log_end(line);
    }
}

/* Compares with what was known, and remembers. True: something may be lost. */
static bool note_identity(struct redis_store *redis, const struct redis_facts *facts,
                          enum store_redis_loss *loss)
{
    bool was_known = redis->epoch[0] != '\0';
    bool is_lost = false;

    if (was_known && (facts->epoch_is_new || strcmp(redis->epoch, facts->epoch) != 0)) {
        *loss = STORE_REDIS_EMPTIED;
        /* Another client may have made the new epoch: the first to see it tells. */
        is_lost = strcmp(redis->epoch, facts->epoch) != 0;
    } else if (was_known && strcmp(redis->replication_id, facts->replication_id) != 0) {
        *loss = STORE_REDIS_REBORN;
        is_lost = true;
    }
    memcpy(redis->epoch, facts->epoch, sizeof redis->epoch);
    memcpy(redis->replication_id, facts->replication_id, sizeof redis->replication_id);
    return is_lost;
}

static void tell_loss(struct redis_link *link, enum store_redis_loss loss)
{
    struct redis_store *redis = link->store;
    struct log_line *line =
        log_begin(link->log, loss == STORE_REDIS_EMPTIED ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING,
                  loss == STORE_REDIS_EMPTIED ? "store_emptied" : "store_reborn");

    log_string(line, "problem",
               loss == STORE_REDIS_EMPTIED
                   ? "the epoch key is gone: Redis was emptied or restarted without its data"
                   : "Redis restarted or failed over: its last writes may be lost");
    log_end(line);
    metrics_add(link->metrics, METRIC_FAULTS, METRIC_PART_STORE, METRIC_STORE_FAULT_EMPTIED, 1);
    if (redis->on_loss) {
        redis->on_loss(redis->on_loss_argument, loss);
    }
}

bool redis_store_judge(struct redis_link *link, const char **problem)
{
    struct redis_store *redis = link->store;
    enum store_durability found = redis_facts_durability(&link->facts);
    enum store_redis_loss loss = STORE_REDIS_REBORN;
    bool is_lost;

    *problem = redis_facts_refusal(&link->facts);
    if (!*problem && link->facts.is_replica) {
        *problem = "this Redis is a replica";
    }
    if (!*problem && link->facts.is_loading) {
        *problem = "this Redis is loading its data";
    }
    if (!*problem && redis->require_durable && found != STORE_DURABLE) {
        *problem = "require_durable is set, and this Redis can lose what it has confirmed";
    }
    if (*problem) {
        return false;
    }
    note_durability(link, found);
    note_skew(link);
    pthread_mutex_lock(&redis->lock);
    is_lost = note_identity(redis, &link->facts, &loss);
    pthread_mutex_unlock(&redis->lock);
    if (is_lost) {
        tell_loss(link, loss);
    }
    return true;
}

/* ---- for the spool --------------------------------------------------------------------------- */

bool store_redis_is_ready(const void *client_data)
{
    const struct redis_client *client = client_data;

    return atomic_load(&client->is_ready);
}

void store_redis_watch_state(void *client_data, void (*on_state)(void *argument, bool is_ready),
                             void *argument)
{
    struct redis_client *client = client_data;

    client->on_state = on_state;
    client->on_state_argument = argument;
}

void store_redis_watch_loss(void *data, void (*on_loss)(void *argument, enum store_redis_loss loss),
                            void *argument)
{
    struct redis_store *redis = data;

    redis->on_loss = on_loss;
    redis->on_loss_argument = argument;
}

const struct store_backend store_redis_backend = {
    .name = "redis",
    .create = create,
    .destroy = destroy,
    .adopt = adopt,
    .create_client = create_client,
    .destroy_client = destroy_client,
    .start = redis_calls_start,
    .state = state,
    .durability = durability,
    .is_shared = true,
};
