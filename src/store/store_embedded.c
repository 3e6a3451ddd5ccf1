#include "build_config.h"

#include "store/store_embedded.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"

/* The embedded store as a backend: opening and closing, its clients. */

enum { LOG_BYTES = 64 * 1024 };

struct embedded_client {
    struct embedded *embedded;
    struct store_client *client;
};

/* ---- opening and closing --------------------------------------------------------------------- */

static bool init_queue(struct embedded_queue *queue)
{
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->filled, NULL);
    queue->last = &queue->first;
    queue->wake_descriptor = eventfd(0, EFD_CLOEXEC);
    return queue->wake_descriptor >= 0;
}

static void clear_queue(struct embedded_queue *queue)
{
    if (queue->wake_descriptor >= 0) {
        close(queue->wake_descriptor);
    }
    pthread_cond_destroy(&queue->filled);
    pthread_mutex_destroy(&queue->lock);
}

static void stop_queue(struct embedded_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->stopping = true;
    pthread_mutex_unlock(&queue->lock);
    embedded_queue_nudge(queue);
}

static struct embedded_queue *const *queues_of(struct embedded *embedded,
                                               struct embedded_queue *queues[EMBEDDED_HANDS])
{
    queues[EMBEDDED_WRITER] = &embedded->writes;
    queues[EMBEDDED_SYNCER] = &embedded->syncs;
    queues[EMBEDDED_READER] = &embedded->reads;
    queues[EMBEDDED_KEEPER] = &embedded->chores;
    return queues;
}

static bool start_threads(struct embedded *embedded)
{
    static void *(*const mains[EMBEDDED_HANDS])(void *) = {
        [EMBEDDED_WRITER] = embedded_writer_main,
        [EMBEDDED_SYNCER] = embedded_syncer_main,
        [EMBEDDED_READER] = embedded_reader_main,
        [EMBEDDED_KEEPER] = embedded_keeper_main,
    };
    static const char *const names[EMBEDDED_HANDS] = {
        [EMBEDDED_WRITER] = "store-writer",
        [EMBEDDED_SYNCER] = "store-syncer",
        [EMBEDDED_READER] = "store-reader",
        [EMBEDDED_KEEPER] = "store-keeper",
    };
    sigset_t all;
    sigset_t before;

    /* Signals are the main thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (embedded->thread_count < EMBEDDED_HANDS &&
           pthread_create(&embedded->threads[embedded->thread_count], NULL,
                          mains[embedded->thread_count], embedded) == 0) {
        (void)pthread_setname_np(embedded->threads[embedded->thread_count],
                                 names[embedded->thread_count]);
        embedded->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return embedded->thread_count == EMBEDDED_HANDS;
}

static bool make_hands(struct embedded *embedded)
{
    struct store *store = embedded->store;

    for (size_t i = 0; i < EMBEDDED_HANDS; i++) {
        embedded->hands[i].metrics = metrics_block_create(store->metrics);
        embedded->hands[i].log = store->log ? log_ring_create(store->log, LOG_BYTES) : NULL;
        if (!embedded->hands[i].metrics || (store->log && !embedded->hands[i].log)) {
            return false;
        }
    }
    return true;
}

struct embedded *embedded_open(struct store *store, struct view path, bool is_spool, char **problem,
                               int *exit_status)
{
    struct embedded *embedded = calloc(1, sizeof *embedded);
    struct embedded_queue *queues[EMBEDDED_HANDS];
    bool has_queues = true;

    *problem = NULL;
    *exit_status = EX_OSERR;
    if (!embedded) {
        *problem = strdup("store: out of memory");
        return NULL;
    }
    embedded->store = store;
    embedded->is_spool = is_spool;
    embedded->last_order = clock_wall_ms() * 1000;
    embedded->log_most_pages = EMBEDDED_WAL_MOST_PAGES;
    embedded->lock_descriptor = -1;
    embedded->wal_descriptor = -1;
    pthread_mutex_init(&embedded->keeper_lock, NULL);
    pthread_mutex_init(&embedded->trouble_lock, NULL);
    pthread_mutex_init(&embedded->ended_lock, NULL);
    pthread_cond_init(&embedded->ended, NULL);
    for (size_t i = 0; i < EMBEDDED_HANDS; i++) {
        has_queues = init_queue(queues_of(embedded, queues)[i]) && has_queues;
    }
    embedded->path = strndup(path.data, path.length);
    if (!embedded->path || !has_queues || !make_hands(embedded)) {
        *problem = strdup("store: out of memory or descriptors");
        goto fail;
    }
    if (!embedded_open_file(embedded, problem, exit_status)) {
        goto fail;
    }
    (void)sqlite3_wal_hook(embedded->writer.database, embedded_on_commit, embedded);
    embedded_begin_keeping(embedded);
    if (!start_threads(embedded)) {
        *problem = strdup("store: no thread can be started");
        goto fail;
    }
    return embedded;
fail:
    embedded_close(embedded);
    return NULL;
}

void embedded_close(struct embedded *embedded)
{
    struct embedded_queue *queues[EMBEDDED_HANDS];

    if (!embedded) {
        return;
    }
    /* In this order: what the writer has committed still goes to the syncer. */
    for (size_t i = 0; i < EMBEDDED_HANDS; i++) {
        struct embedded_queue *queue = queues_of(embedded, queues)[i];

        stop_queue(queue);
        if (i < embedded->thread_count) {
            pthread_join(embedded->threads[i], NULL);
        }
        clear_queue(queue);
    }
    if (embedded->thread_count > EMBEDDED_WRITER) {
        embedded_probe(embedded);
    }
    embedded_close_file(embedded);
    pthread_cond_destroy(&embedded->ended);
    pthread_mutex_destroy(&embedded->ended_lock);
    pthread_mutex_destroy(&embedded->trouble_lock);
    pthread_mutex_destroy(&embedded->keeper_lock);
    free(embedded->path);
    free(embedded);
}

void embedded_drain_client(struct embedded *embedded, struct store_client *client)
{
    uint64_t seen;

    atomic_fetch_add(&embedded->closing, 1);
    pthread_mutex_lock(&embedded->ended_lock);
    for (;;) {
        seen = embedded->ended_count;
        pthread_mutex_unlock(&embedded->ended_lock);
        loop_flush_mail(client->loop);
        pthread_mutex_lock(&embedded->ended_lock);
        if (client->running == 0) {
            break;
        }
        while (embedded->ended_count == seen) {
            pthread_cond_wait(&embedded->ended, &embedded->ended_lock);
        }
    }
    pthread_mutex_unlock(&embedded->ended_lock);
    atomic_fetch_sub(&embedded->closing, 1);
}

enum store_state embedded_state(const struct embedded *embedded)
{
    return atomic_load_explicit(&embedded->troubles, memory_order_relaxed) == 0 ? STORE_STATE_READY
                                                                                : STORE_STATE_FULL;
}

/* ---- the backend ----------------------------------------------------------------------------- */

static void *create(struct store *store, const struct config *config, char **problem,
                    int *exit_status)
{
    return embedded_open(store, config->store.path, false, problem, exit_status);
}

static void destroy(void *data)
{
    embedded_close(data);
}

/* What may change at run time comes with the questions. */
static void adopt(UNUSED void *data, UNUSED const struct config *config)
{
}

static void *create_client(void *data, struct store_client *client)
{
    struct embedded_client *made = calloc(1, sizeof *made);

    if (made) {
        made->embedded = data;
        made->client = client;
    }
    return made;
}

static void destroy_client(void *client_data)
{
    struct embedded_client *client = client_data;

    embedded_drain_client(client->embedded, client->client);
    free(client);
}

static void start(void *client_data, struct store_call *call)
{
    struct embedded_client *client = client_data;

    embedded_start_call(client->embedded, call);
}

static enum store_state state(const void *data)
{
    return embedded_state(data);
}

static enum store_durability durability(UNUSED const void *data)
{
    return STORE_DURABLE;
}

const struct store_backend store_embedded_backend = {
    .name = "embedded",
    .create = create,
    .destroy = destroy,
    .adopt = adopt,
    .create_client = create_client,
    .destroy_client = destroy_client,
    .start = start,
    .state = state,
    .durability = durability,
    .is_shared = false,
};
