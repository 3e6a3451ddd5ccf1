/* Calls under way; private to store_redis_calls.c and store_redis_steps.c. A call becomes work: one
 * script on the shard of its endpoint, the same script on all shards at once, or several steps one
 * after the other. The work outlives the call when its time is over before Redis has answered: then
 * the late answer finds nobody. */
#ifndef PODGATE_STORE_STORE_REDIS_PRIVATE_H
#define PODGATE_STORE_STORE_REDIS_PRIVATE_H

#include "store/store_redis.h"

/* One script call under way. */
struct redis_part {
    struct redis_part *next; /* of the client's queue */
    struct redis_command command;
    struct redis_work *work;
    unsigned script;
    unsigned shard;
    struct redis_extra extra;
    struct redis_decoded decoded;
    bool was_asked;
    bool was_written;
    bool as_text; /* sent as EVAL: Redis didn't know the script */
};

enum redis_shape {
    SHAPE_ONE,    /* the shard of the question's endpoint */
    SHAPE_ALL,    /* every shard, at once */
    SHAPE_CHAIN,  /* one shard after the other until there is enough */
    SHAPE_REPEAT, /* one shard again and again until it is through */
};

struct redis_work {
    struct redis_work *next;
    struct redis_work *previous;
    struct redis_client *client;
    struct store_call *call; /* NULL: it has been ended */
    uint64_t deadline_ms;    /* 0: it is to be ended as soon as the timer runs */
    uint64_t turn;
    enum redis_shape shape;
    enum store_result failure; /* of a part; STORE_OK: none */
    bool is_held;              /* until the first connection stands */
    bool is_over;              /* to be ended by the timer */
    unsigned waiting;          /* parts under way */
    unsigned step;             /* of several */
    size_t count;              /* jobs marked or claimed so far */
    struct redis_position position;
    char member[REDIS_CURSOR_MEMORY];
    char top[32];
    uint64_t excess_bytes; /* of STORE_EXPIRE: what all results are too much */
    struct view *victims;  /* of STORE_EXPIRE, by shard */
    struct redis_part *parts;
    unsigned part_count;
};

/* Work for a call, not in any list yet. NULL without memory. */
struct redis_work *redis_work_create(struct redis_client *client, struct store_call *call);

/* Frees it; its call has been ended. */
void redis_work_free(struct redis_work *work);

/* Sends the first step. Ends nothing before it returns. */
void redis_work_begin(struct redis_work *work);

/* All that was asked has been answered, and nothing failed: sends the next step (true), or makes
 * the call's reply (false). */
MUST_CHECK bool redis_work_go_on(struct redis_work *work);

/* Puts a part into the client's queue and writes what may be written (store_redis_calls.c). */
void redis_part_send(struct redis_part *part);

#endif
