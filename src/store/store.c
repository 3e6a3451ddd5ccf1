#include "build_config.h"

#include "store/store.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>

#include "base/clock.h"
#include "model/metric_catalogue.h"
#include "store/store_backend.h"

/* The front of the store: it makes calls, hands them to the backend and ends them. */

const char *const store_operation_texts[STORE_OPERATIONS] = {
    "claim-submit",   "mark-sent",      "settle-submit", "list-unknown",  "resolve-submit",
    "find-duplicate", "get-job",        "adopt-job",     "put-result",    "retry-job",
    "delete-result",  "shorten",        "list-jobs",     "claim-due",     "claim-job",
    "reschedule",     "list-endpoints", "mark-purged",   "claim-cancels", "clear-cancel",
    "append-chunks",  "read-chunks",    "get-cursor",    "set-cursor",    "expire",
    "count",
};
_Static_assert(STORE_OPERATIONS == (enum store_operation)METRIC_STORE_OPERATIONS,
               "the catalogue of metrics has a label for each operation");

static const char *const result_texts[] = {
    "ok",      "absent",     "conflict", "owned", "replay", "busy",      "mismatch",
    "unknown", "bad_cursor", "broken",   "away",  "full",   "timed_out", "no_memory",
};
_Static_assert(ARRAY_LENGTH(result_texts) == METRIC_STORE_RESULTS,
               "the catalogue of metrics has a label for each result");

const char *store_result_text(enum store_result result)
{
    return result_texts[result];
}

bool store_failed(enum store_result result)
{
    return result >= STORE_BROKEN;
}

/* ---- the process's part ---------------------------------------------------------------------- */

static void name_instance(struct store *store)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char bytes[STORE_SUBMIT_ID_BYTES / 2];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        memset(bytes, 0, sizeof bytes);
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        store->instance[2 * i] = hex[bytes[i] >> 4];
        store->instance[2 * i + 1] = hex[bytes[i] & 15];
    }
}

static char *problem_of_memory(int *exit_status)
{
    *exit_status = EX_OSERR;
    return strdup("store: out of memory");
}

struct store *store_create(const struct config *config, struct body_budget *budget,
                           struct metrics *metrics, struct log *log, char **problem,
                           int *exit_status)
{
    struct store *store = calloc(1, sizeof *store);

    if (!store) {
        *problem = problem_of_memory(exit_status);
        return NULL;
    }
    store->budget = budget;
    store->metrics = metrics;
    store->log = log;
    name_instance(store);
    store->backend = config->store.backend == CONFIG_STORE_REDIS ? &store_spool_backend
                                                                 : &store_embedded_backend;
    store->data = store->backend->create(store, config, problem, exit_status);
    if (!store->data) {
        free(store);
        return NULL;
    }
    return store;
}

void store_destroy(struct store *store)
{
    if (store) {
        store->backend->destroy(store->data);
        free(store);
    }
}

void store_adopt(struct store *store, const struct config *config)
{
    store->backend->adopt(store->data, config);
}

enum store_state store_state(const struct store *store)
{
    return store->backend->state(store->data);
}

enum store_durability store_durability(const struct store *store)
{
    return store->backend->durability(store->data);
}

bool store_is_shared(const struct store *store)
{
    return store->backend->is_shared;
}

struct view store_instance(const struct store *store)
{
    return view_make(store->instance, sizeof store->instance);
}

/* ---- a loop's part --------------------------------------------------------------------------- */

struct store_client *store_client_create(struct store *store, struct loop *loop,
                                         struct metrics_block *metrics, struct log_ring *log)
{
    struct store_client *client = calloc(1, sizeof *client);

    if (!client) {
        return NULL;
    }
    client->store = store;
    client->loop = loop;
    client->metrics = metrics;
    client->log = log;
    client->data = store->backend->create_client(store->data, client);
    if (!client->data) {
        free(client);
        return NULL;
    }
    return client;
}

void store_client_destroy(struct store_client *client)
{
    if (client) {
        for (struct store_call *call = client->calls; call; call = call->running_next) {
            call->cancelled = true;
        }
        client->store->backend->destroy_client(client->data);
        free(client);
    }
}

void store_watch(struct store_client *client, store_on_change *on_change, void *argument)
{
    client->on_change = on_change;
    client->on_change_argument = argument;
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* Every view that a question may hold, so that a copy needs to know nothing of operations. */
static const size_t view_offsets[] = {
    offsetof(struct store_question, submit.id),
    offsetof(struct store_question, submit.team),
    offsetof(struct store_question, submit.key),
    offsetof(struct store_question, submit.endpoint),
    offsetof(struct store_question, submit.job),
    offsetof(struct store_question, submit.idempotency_key),
    offsetof(struct store_question, submit.instance),
    offsetof(struct store_question, endpoint),
    offsetof(struct store_question, job),
    offsetof(struct store_question, upstream_id),
    offsetof(struct store_question, team),
    offsetof(struct store_question, key),
    offsetof(struct store_question, consumer),
    offsetof(struct store_question, cursor),
    offsetof(struct store_question, note),
};

static struct view *view_at(struct store_question *question, size_t offset)
{
    return (struct view *)(void *)((char *)question + offset);
}

static void copy_views(struct store_question *question, char *room)
{
    for (size_t i = 0; i < ARRAY_LENGTH(view_offsets); i++) {
        struct view *view = view_at(question, view_offsets[i]);

        if (view->length > 0) {
            memcpy(room, view->data, view->length);
            view->data = room;
            room += view->length;
        }
    }
}

static void note_running(struct store_client *client, struct store_call *call)
{
    call->running_next = client->calls;
    call->running_link = &client->calls;
    if (client->calls) {
        client->calls->running_link = &call->running_next;
    }
    client->calls = call;
    client->running++;
}

static void note_ended(struct store_client *client, struct store_call *call)
{
    *call->running_link = call->running_next;
    if (call->running_next) {
        call->running_next->running_link = call->running_link;
    }
    client->running--;
}

static void ref_bodies(struct store_question *question)
{
    struct body **bodies[] = {&question->answer, &question->input, &question->result,
                              &question->chunks};

    for (size_t i = 0; i < ARRAY_LENGTH(bodies); i++) {
        if (*bodies[i]) {
            body_ref(*bodies[i]);
        }
    }
}

struct store_call *store_call_create(struct store_client *client,
                                     const struct store_question *question, store_done *done,
                                     void *argument)
{
    struct store_question source = *question;
    size_t lengths_bytes = question->chunk_count * sizeof *question->chunk_lengths;
    size_t bytes = sizeof(struct store_call) + lengths_bytes;
    struct store_call *call;
    char *room;

    for (size_t i = 0; i < ARRAY_LENGTH(view_offsets); i++) {
        bytes += view_at(&source, view_offsets[i])->length;
    }
    call = malloc(bytes);
    if (!call) {
        return NULL;
    }
    memset(call, 0, sizeof *call);
    call->client = client;
    call->question = *question;
    call->done = done;
    call->argument = argument;
    call->started_us = clock_mono_us();
    call->deadline_ms =
        clock_mono_ms() + (question->timeout_ms > 0 ? question->timeout_ms : STORE_TIMEOUT_MS);
    room = (char *)(call + 1);
    if (lengths_bytes > 0) {
        memcpy(room, question->chunk_lengths, lengths_bytes);
        call->question.chunk_lengths = (const uint32_t *)(void *)room;
        room += lengths_bytes;
    }
    copy_views(&call->question, room);
    ref_bodies(&call->question);
    note_running(client, call);
    return call;
}

struct store_call *store_ask(struct store_client *client, const struct store_question *question,
                             store_done *done, void *argument)
{
    struct store_call *call = store_call_create(client, question, done, argument);

    if (call) {
        client->store->backend->start(client->data, call);
    }
    return call;
}

void store_cancel(struct store_call *call)
{
    call->cancelled = true;
}

static void free_call(struct store_call *call)
{
    struct store_question *question = &call->question;

    body_unref(question->answer);
    body_unref(question->input);
    body_unref(question->result);
    body_unref(question->chunks);
    body_unref(call->reply.body);
    free(call->reply_memory);
    free(call);
}

void store_call_finish(struct store_call *call)
{
    struct store_client *client = call->client;
    enum store_operation operation = call->question.operation;
    bool (*before_end)(struct store_call *) = call->before_end;

    call->before_end = NULL;
    if (before_end && before_end(call)) {
        return;
    }
    /* A backend may have operations of its own, which nobody counts. */
    if (operation < STORE_OPERATIONS) {
        metrics_add(client->metrics, METRIC_STORE_CALLS, operation, call->reply.result, 1);
        metrics_observe(client->metrics, METRIC_STORE_SECONDS, operation,
                        clock_mono_us() - call->started_us);
    }
    note_ended(client, call);
    if (!call->cancelled) {
        call->done(call->argument, &call->reply);
    }
    free_call(call);
}

static void on_letter(void *argument)
{
    store_call_finish(argument);
}

void store_call_post(struct store_call *call)
{
    loop_post_letter(call->client->loop, &call->letter, on_letter, call);
}
