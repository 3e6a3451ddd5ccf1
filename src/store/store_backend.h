/* What a backend of the store provides; private to the layer. store.c makes the call (a deep copy
 * of the question), gives it to the backend's `start`, and the backend ends it by
 * store_call_finish(), once, on the client's loop, or by store_call_post() from any other thread.
 *
 * The spool (store_spool.c) is a backend too, and hands questions on to two others.
 */
#ifndef PODGATE_STORE_STORE_BACKEND_H
#define PODGATE_STORE_STORE_BACKEND_H

#include "store/store.h"

/* A question under way. Made by store_ask() (or by the spool for questions of its own); freed after
 * its `done`. While `cancelled` is set nobody waits for it, but the backend still ends it. */
struct store_call {
    struct store_call *next; /* for the backend's queues */
    struct store_client *client;
    struct store_question question; /* views and arrays lie in the same allocation */
    store_done *done;
    void *argument;
    bool cancelled;
    uint64_t started_us;
    uint64_t deadline_ms; /* of clock_mono_ms() */
    struct store_reply reply;
    char *reply_memory; /* what reply's views point into; free()d with the call */
    struct loop_letter letter;
    void *backend_data;              /* the backend's own, until it ends the call */
    /* NULL, or asked once when the call is about to end, before anything is counted or told: true
     * keeps it under way (the spool takes over what Redis failed). On the client's loop. */
    bool (*before_end)(struct store_call *call);
    void *before_end_argument;
    bool was_at_redis; /* the spool's: Redis has answered already */
    struct store_call *running_next; /* the client's calls under way, in no order */
    struct store_call **running_link;
};

struct store_backend {
    const char *name;
    /* As store_create() and its neighbours. `data` is what `create` gave. */
    void *(*create)(struct store *store, const struct config *config, char **problem,
                    int *exit_status);
    void (*destroy)(void *data);
    void (*adopt)(void *data, const struct config *config);
    void *(*create_client)(void *data, struct store_client *client);
    /* Every call of it has been ended before it returns; they are cancelled already. */
    void (*destroy_client)(void *client_data);
    /* Begins; must not end the call before it returns. Client's loop. */
    void (*start)(void *client_data, struct store_call *call);
    enum store_state (*state)(const void *data);
    enum store_durability (*durability)(const void *data);
    bool is_shared;
};

extern const struct store_backend store_embedded_backend;
extern const struct store_backend store_redis_backend; /* Redis alone; the spool is before it */
extern const struct store_backend store_spool_backend; /* Redis with a spool or refusal */

struct store {
    const struct store_backend *backend;
    void *data;
    struct body_budget *budget;
    struct metrics *metrics;
    struct log *log;
    char instance[STORE_SUBMIT_ID_BYTES];
};

struct store_client {
    struct store *store;
    void *data;
    struct loop *loop;
    struct metrics_block *metrics;
    struct log_ring *log;
    store_on_change *on_change;
    void *on_change_argument;
    size_t running; /* calls under way */
    struct store_call *calls;
};

/* A call with a deep copy of the question and references on its bodies; NULL without memory. It is
 * under way from now on: the backend has to be started on it. Client's loop. */
struct store_call *store_call_create(struct store_client *client,
                                     const struct store_question *question, store_done *done,
                                     void *argument);

/* Ends a call on its client's loop: counts, calls `done` unless cancelled, frees. reply.body's
 * reference and reply_memory are the call's. */
void store_call_finish(struct store_call *call);

/* The same from another thread: by letter, so that it can't fail. */
void store_call_post(struct store_call *call);

#endif
