#include "build_config.h"

#include <stdlib.h>

#include "base/clock.h"
#include "store/store_spool.h"

/* Gives Redis what it hasn't, in rounds of many errands side by side (store_spool_errand.c). One
 * client at a time does. */

enum { DRAIN_TIMEOUT_MS = 5000 };

/* ---- rounds ---------------------------------------------------------------------------------- */

static void release(struct spool_client *client)
{
    atomic_store(&client->spool->drainer, NULL);
}

/* Somebody tries again in a moment. */
static void release_and_wait(struct spool_client *client)
{
    release(client);
    spool_wake_drainer(client);
}

static void on_drained(void *argument, const struct store_reply *reply)
{
    struct spool_client *client = argument;

    spool_leave(client->spool);
    atomic_store(&client->spool->has_kept, reply->result != STORE_OK || reply->count > 0);
    release(client);
    if (atomic_load(&client->spool->is_used)) {
        spool_wake_drainer(client);
    } else {
        spool_wake_cleaner(client);
    }
}

static void on_cleaned(void *argument, const struct store_reply *reply)
{
    struct spool_client *client = argument;

    atomic_store(&client->spool->has_kept, reply->result != STORE_OK || reply->count > 0);
    spool_wake_cleaner(client);
}

static bool ask_to_clean(struct spool_client *client, bool ended, store_done *done)
{
    struct store_question question = {.operation = (enum store_operation)EMBEDDED_CLEAN_SPOOL,
                                      .timeout_ms = DRAIN_TIMEOUT_MS,
                                      .ended = ended};

    return spool_ask_file(client, &question, done, client);
}

void spool_clean(struct spool_client *client)
{
    if (!ask_to_clean(client, false, on_cleaned)) {
        spool_wake_cleaner(client);
    }
}

static void on_list(void *argument, const struct store_reply *reply)
{
    struct spool_client *client = argument;

    if (reply->result != STORE_OK) {
        release_and_wait(client);
        return;
    }
    atomic_store(&client->spool->news_count, reply->counts.spooled);
    if (reply->count == 0) {
        if (!ask_to_clean(client, true, on_drained)) {
            release_and_wait(client);
        }
        return;
    }
    if (!spool_begin_errands(client, reply->own, reply->count)) {
        release_and_wait(client);
    }
}

static void list(struct spool_client *client)
{
    struct store_question question = {.operation = (enum store_operation)EMBEDDED_LIST_SPOOLED,
                                      .timeout_ms = DRAIN_TIMEOUT_MS,
                                      .limit = SPOOL_ERRANDS};

    if (!spool_ask_file(client, &question, on_list, client)) {
        release_and_wait(client);
    }
}

void spool_round_over(struct spool_client *client)
{
    if (client->has_failed || !store_redis_is_ready(client->redis)) {
        release_and_wait(client);
    } else {
        list(client);
    }
}

/* ---- what Redis lost ------------------------------------------------------------------------- */

static void ignore(UNUSED void *argument, UNUSED const struct store_reply *reply)
{
}

/* One batch; `done` comes with its last one, since the file's writer works in order. False: there
 * was none, or no memory. */
static bool import_batch(struct spool_client *client, uint64_t since_ms, store_done *done)
{
    struct store_question *questions = calloc(SPOOL_IMPORT_BATCH, sizeof *questions);
    char *memory = NULL;
    size_t count = 0;
    bool is_asked = false;

    /* A batch may hold none that is wanted. */
    while (questions && count == 0 && spool_has_known(client->spool)) {
        free(memory);
        memory = NULL;
        count = spool_take_known(client->spool, questions, since_ms, &memory);
        if (!memory) {
            break;
        }
    }
    for (size_t i = 0; i < count; i++) {
        is_asked = spool_ask_file(client, &questions[i], i + 1 == count ? done : ignore, client);
    }
    free(memory);
    free(questions);
    return is_asked;
}

static void on_imported(void *argument, UNUSED const struct store_reply *reply)
{
    struct spool_client *client = argument;

    client->is_importing = import_batch(client, 0, on_imported);
}

void spool_import_known(struct spool_client *client)
{
    if (!client->is_importing && spool_has_known(client->spool)) {
        client->is_importing = import_batch(client, 0, on_imported);
    }
}

static void on_asserted(void *argument, UNUSED const struct store_reply *reply)
{
    struct spool_client *client = argument;

    if (!import_batch(client, client->assert_since_ms, on_asserted)) {
        list(client);
    }
}

static void on_reasserted(void *argument, const struct store_reply *reply)
{
    struct spool_client *client = argument;

    if (reply->result == STORE_OK) {
        on_asserted(client, reply);
    } else {
        atomic_store(&client->spool->loss, 1 + (int)STORE_REDIS_EMPTIED);
        release_and_wait(client);
    }
}

static void reassert(struct spool_client *client, int loss)
{
    struct store_question question = {.operation = (enum store_operation)EMBEDDED_REASSERT,
                                      .timeout_ms = DRAIN_TIMEOUT_MS};
    bool is_empty = loss == 1 + (int)STORE_REDIS_EMPTIED;

    client->assert_since_ms = is_empty ? 1 : clock_wall_ms() - SPOOL_RECENT_MS;
    atomic_store(&client->spool->is_used, true);
    if (!spool_ask_file(client, &question, on_reasserted, client)) {
        atomic_store(&client->spool->loss, loss);
        release_and_wait(client);
    }
}

/* ---- begin and end --------------------------------------------------------------------------- */

void spool_drain(struct spool_client *client)
{
    struct spool *spool = client->spool;
    struct spool_client *nobody = NULL;
    int loss;

    if (!atomic_load(&spool->is_used) && atomic_load(&spool->loss) == 0) {
        return;
    }
    if (!store_redis_is_ready(client->redis) ||
        !atomic_compare_exchange_strong(&spool->drainer, &nobody, client)) {
        spool_wake_drainer(client);
        return;
    }
    loss = atomic_exchange(&spool->loss, 0);
    if (loss != 0) {
        reassert(client, loss);
    } else {
        list(client);
    }
}

void spool_end_drainer(struct spool_client *client)
{
    struct spool_client *self = client;

    spool_free_errands(client);
    (void)atomic_compare_exchange_strong(&client->spool->drainer, &self, NULL);
}
