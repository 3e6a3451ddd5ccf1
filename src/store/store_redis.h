/* The Redis backend, private to its files: several podgates share one Redis 6.2 or later.
 *
 * - store_redis.c          the process's part: settings, state, what Redis was found to be
 * - store_redis_url.c      what store.url says
 * - store_redis_link.c     one connection: resolve, connect, back off, notice that it is dead
 * - store_redis_greeting.c what is said and asked on a new connection
 * - store_redis_sentinel.c asks a Sentinel who the master is
 * - store_redis_watch.c    the second connection, which hears of other podgates' changes
 * - store_redis_calls.c    questions under way and their deadlines; store_redis_steps.c: which
 *                          scripts a question takes
 * - store_redis_arguments.c, store_redis_reply.c, store_redis_merge.c   what goes in and comes out
 * - store_redis_scripts.c, store_redis_lua_*.c   the scripts; each change is one of them
 * - store_redis_ask.c      asks Redis what it is and waits, at the start and for the doctor
 * - store_redis_facts.c    what INFO and CONFIG say, and how durable that is
 *
 * The layout of keys is in docs/store-schema.md.
 */
#ifndef PODGATE_STORE_STORE_REDIS_H
#define PODGATE_STORE_STORE_REDIS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/secret.h"
#include "model/metric_catalogue.h"
#include "store/store_backend.h"

struct event;
struct redisAsyncContext;
struct redisReply;
struct redisContext;
struct resolver;

enum {
    REDIS_SHARDS = 16,
    REDIS_HOSTS_MAXIMUM = 8,
    REDIS_NAME_MAXIMUM = 253,
    REDIS_ID_MAXIMUM = 48,
    REDIS_WINDOW = 32, /* commands of a connection under way */
    REDIS_SLOW_MS = 100,
    REDIS_SLOW_ANSWERS = 5,
    REDIS_SILENCE_MS = 1000, /* a connection that answers nothing for so long is dead */
    REDIS_ATTEMPT_MS = 1000, /* of connecting, to the last word of the greeting */
    REDIS_BACK_OFF_MINIMUM_MS = 50,
    REDIS_BACK_OFF_MAXIMUM_MS = 2000,
    REDIS_VERSION_MINIMUM = 60200, /* 6.2.0 */
};

/* ---- the address (store_redis_url.c) --------------------------------------------------------- */

struct redis_host {
    char name[REDIS_NAME_MAXIMUM + 1]; /* a name or a numeric address, without brackets */
    uint16_t port;
};

struct redis_address {
    bool is_unix;
    bool is_sentinel;
    char path[108];
    struct redis_host hosts[REDIS_HOSTS_MAXIMUM];
    size_t host_count;
    char master[128]; /* Sentinel's name of it */
    unsigned database;
};

/* Reads `redis://host[:port][/db]`, `redis+unix:///path[?db=N]` or
 * `redis+sentinel://host[:port][,host[:port]...]/master[/db]`. NULL: `address` is filled; else what
 * was expected, a literal. Pure. */
MUST_CHECK const char *redis_address_parse(struct view url, struct redis_address *address);

/* ---- what Redis is (store_redis_facts.c) ----------------------------------------------------- */

enum redis_fsync { REDIS_FSYNC_UNKNOWN, REDIS_FSYNC_NO, REDIS_FSYNC_EVERYSEC, REDIS_FSYNC_ALWAYS };

struct redis_facts {
    bool has_info;
    unsigned version; /* 7.0.15: 70015; 0: unknown */
    char version_text[24];
    bool is_cluster;
    bool is_replica;
    bool is_loading;
    bool aof_enabled;
    enum redis_fsync fsync;
    char policy[32]; /* maxmemory-policy; empty: unknown */
    uint64_t maxmemory_bytes;
    char run_id[REDIS_ID_MAXIMUM];
    char replication_id[REDIS_ID_MAXIMUM];
    char epoch[REDIS_ID_MAXIMUM]; /* the key <prefix>:epoch */
    bool epoch_is_new;            /* it wasn't there */
    char write_problem[160];      /* of redis_facts_ask(): why podgate can't write; empty: it can */
    uint64_t time_ms;             /* Redis's clock */
    uint64_t asked_wall_ms;       /* ours, when it was asked */
};

/* Takes up the text of INFO; lines that it doesn't know are skipped. Pure. */
void redis_facts_read_info(struct redis_facts *facts, struct view info);

/* Takes up one answer of CONFIG GET. Pure. */
void redis_facts_read_config(struct redis_facts *facts, struct view name, struct view value);

/* Takes up the answer of TIME. Pure. */
void redis_facts_read_time(struct redis_facts *facts, const struct redisReply *answer);

/* What can be lost that Redis has confirmed. Pure. */
enum store_durability redis_facts_durability(const struct redis_facts *facts);

/* Why podgate can't work with this Redis at all (a literal), or NULL. Pure. */
const char *redis_facts_refusal(const struct redis_facts *facts);

/* True for a maxmemory-policy under which Redis may remove what podgate was promised. Pure. */
bool redis_facts_may_evict(const struct redis_facts *facts);

/* "always", "everysec", "no" or "unknown". */
const char *redis_fsync_text(enum redis_fsync fsync);

/* Connects, asks and waits (store_redis_ask.c), no step longer than timeout_ms. NULL: `facts` is
 * filled as far as the user may ask; else a literal: why it wasn't reached, or not let in. Main
 * thread; blocks. */
struct redis_store;
MUST_CHECK const char *redis_facts_ask(struct redis_store *store, struct redis_facts *facts,
                                       uint64_t timeout_ms);

/* ---- scripts (store_redis_scripts.c) --------------------------------------------------------- */

/* A script for each enum store_operation, by its number, and one more. */
enum { REDIS_SCRIPT_EVICT = STORE_OPERATIONS, REDIS_SCRIPTS };

struct redis_scripts {
    char *texts[REDIS_SCRIPTS];
    size_t lengths[REDIS_SCRIPTS];
    char digests[REDIS_SCRIPTS][41]; /* SHA-1, as EVALSHA wants it */
};

/* Puts the scripts together. False without memory. */
MUST_CHECK bool redis_scripts_init(struct redis_scripts *scripts);

/* Frees the texts. */
void redis_scripts_clear(struct redis_scripts *scripts);

/* The pieces, each a NULL-terminated array of lines (store_redis_lua_*.c). */
extern const char *const redis_lua_prelude[], *const redis_lua_jobs[], *const redis_lua_submits[];
extern const char *const redis_lua_claim_submit[],
    *const redis_lua_mark_sent[], *const redis_lua_settle_submit[],
                                      *const redis_lua_list_unknown[],
                                          *const redis_lua_resolve_submit[],
                                              *const redis_lua_find_duplicate[];
extern const char *const redis_lua_get_job[],
    *const redis_lua_adopt_job[], *const redis_lua_put_result[],
                                      *const redis_lua_retry_job[],
                                          *const redis_lua_delete_result[],
                                              *const redis_lua_shorten[],
                                                  *const redis_lua_append_chunks[],
                                                      *const redis_lua_read_chunks[],
                                                          *const redis_lua_get_cursor[],
                                                              *const redis_lua_set_cursor[];
extern const char *const redis_lua_claim_due[],
    *const redis_lua_claim_job[], *const redis_lua_reschedule[],
                                      *const redis_lua_list_endpoints[],
                                          *const redis_lua_mark_purged[],
                                              *const redis_lua_claim_cancels[],
                                                  *const redis_lua_clear_cancel[],
                                                      *const redis_lua_list_jobs[],
                                                          *const redis_lua_expire[],
                                                              *const redis_lua_evict[],
                                                                  *const redis_lua_count[];

/* ---- what goes in (store_redis_arguments.c) -------------------------------------------------- */

/* A place in a list that is ordered by a time and then by a name. */
struct redis_position {
    bool is_set;
    uint64_t time_ms;
    struct view member;
};

/* What a script is told beside the question. */
struct redis_extra {
    struct redis_position position;
    struct view top;            /* empty: not said */
    uint32_t limit;             /* 0: the question's */
    const struct view *members; /* for REDIS_SCRIPT_EVICT */
    size_t member_count;
};

/* One EVALSHA or EVAL, as an array of its words. */
struct redis_arguments {
    const char **words;
    size_t *lengths;
    int count;
    char *memory;
};

/* Makes the words of a script's call for one shard. They point into the question, the scripts and
 * memory of their own, so that all must stay until the command was sent. False without memory. */
MUST_CHECK bool redis_arguments_init(struct redis_arguments *arguments,
                                     const struct redis_scripts *scripts, unsigned script,
                                     bool as_text, struct view prefix, unsigned shard,
                                     const struct store_call *call,
                                     const struct redis_extra *extra);

/* Frees the memory. */
void redis_arguments_clear(struct redis_arguments *arguments);

/* The shard of an endpoint: the same on every machine and in every version. Pure. */
unsigned redis_shard(struct view endpoint);

/* ---- what comes out (store_redis_reply.c) ---------------------------------------------------- */

/* What an error that Redis answered means. */
enum redis_error {
    REDIS_ERROR_OTHER,     /* of this one command */
    REDIS_ERROR_NO_SCRIPT, /* to be sent again with its text */
    REDIS_ERROR_REFUSED,   /* LOADING, MISCONF, OOM, NOAUTH...: as if it were away */
    REDIS_ERROR_READ_ONLY, /* the same, and somebody else is the master */
    REDIS_ERROR_FOREIGN,   /* WRONGTYPE: a value that isn't podgate's */
};
/* Looks at the text of an error. Pure. */
enum redis_error redis_error_of(struct view text);

/* A result that STORE_EXPIRE may have to evict. */
struct redis_oldest {
    uint64_t ended_ms;
    struct view member;
    uint64_t bytes;
};

/* A script's answer. Views point into `memory`. */
struct redis_decoded {
    struct store_reply reply; /* its body's reference is this struct's */
    char *memory;
    struct redis_position last; /* where a list stopped; not set: at its end */
    struct view top;
    uint64_t marked;
    uint64_t bytes;
    const struct redis_oldest *oldest;
    size_t oldest_count;
    const struct view *bad; /* keys whose values aren't podgate's */
    size_t bad_count;
    size_t malformed; /* records of a list that were left out */
};

/* Reads a script's answer; anything that no script of podgate answers gives STORE_BROKEN, want of
 * memory STORE_NO_MEMORY, in decoded->reply.result. Errors aren't for this function. Pure, but for
 * memory; to be cleared. */
void redis_decode(const struct redisReply *answer, struct body_budget *budget,
                  struct redis_decoded *decoded);

/* Frees what it holds. */
void redis_decoded_clear(struct redis_decoded *decoded);

/* ---- several answers to one (store_redis_merge.c) -------------------------------------------- */

/* Makes the call's reply out of one answer, which is empty then. */
void redis_merge_one(struct store_call *call, struct redis_decoded *part);

/* Makes it out of the answers of several shards, by the call's operation. */
void redis_merge(struct store_call *call, struct redis_decoded *const *parts, size_t count);

/* Reads the question's cursor. False: it isn't one of ours. `memory` takes what the position points
 * to (REDIS_CURSOR_MEMORY bytes). Pure. */
enum { REDIS_CURSOR_MEMORY = 512 };
MUST_CHECK bool redis_cursor_parse(struct view cursor, char *memory,
                                   struct redis_position *position);

/* ---- a connection (store_redis_link.c) ------------------------------------------------------- */

struct redis_store;
struct redis_link;
struct redis_command;

/* `answer` is NULL when the connection ended before it came; then `was_sent` says if Redis may have
 * worked on the command. The command's storage is the caller's again. */
typedef void redis_answered(void *argument, const struct redisReply *answer, bool was_sent);

/* A command under way; storage of the caller's, which must stay until `answered`. */
struct redis_command {
    struct redis_link *link;
    struct redis_command *next;
    redis_answered *answered;
    void *argument;
    uint64_t sent_ms;
    bool was_alone; /* nothing was under way before it */
    uint64_t end;   /* the stream's position behind its last byte */
};

/* Where a connection goes. */
struct redis_peer {
    bool is_unix;
    char text[108]; /* a numeric address or a path */
    uint16_t port;
};

enum redis_link_state {
    REDIS_LINK_RESTING, /* until the timer runs */
    REDIS_LINK_RESOLVING,
    REDIS_LINK_ASKING, /* a Sentinel */
    REDIS_LINK_CONNECTING,
    REDIS_LINK_GREETING,
    REDIS_LINK_READY,
};

enum { REDIS_GREETING_STEPS = 10 + REDIS_SCRIPTS };

struct redis_link {
    struct redis_store *store;
    struct loop *loop;
    struct metrics_block *metrics;
    struct log_ring *log;
    /* Told on the loop when commands may be sent, and when they may not any more. */
    void (*on_change)(void *argument, bool is_ready);
    void *argument;
    enum redis_link_state state;
    bool was_tried; /* an attempt has failed or succeeded */
    unsigned failures;
    struct event *timer;
    uint64_t attempt_until_ms;
    /* Where to. */
    struct resolver *resolver;
    struct redis_host resolved;
    bool is_master_wanted; /* what is resolved is the master that a Sentinel named */
    unsigned sentinel;     /* the next one to ask */
    struct redisAsyncContext *sentinel_context;
    struct redis_peer peer;
    /* The connection. */
    struct redisAsyncContext *context;
    bool is_closing;  /* its commands are being answered with nothing */
    uint64_t written; /* bytes given to hiredis */
    uint64_t sent;    /* of those, when it ended: given to the kernel */
    struct redis_command *first;
    struct redis_command **last;
    unsigned in_flight;
    struct redis_command ping;
    bool is_pinging;
    uint64_t judged_ms;    /* when a command was last sent that had none before it */
    unsigned slow_answers; /* of such, in a row */
    /* The greeting. */
    struct redis_greeting_step {
        struct redis_command command;
        unsigned kind;
    } greeting[REDIS_GREETING_STEPS];
    bool has_greeted;
    unsigned greeting_waiting;
    struct redis_facts facts;
};

/* Starts to connect when the loop runs. False without memory. */
MUST_CHECK bool redis_link_init(struct redis_link *link, struct redis_store *store,
                                struct store_client *client,
                                void (*on_change)(void *argument, bool is_ready), void *argument);

/* Ends it; commands under way are answered with nothing before this returns. */
void redis_link_clear(struct redis_link *link);

/* True when a command more may be sent; else when one that is under way was answered. */
bool redis_link_has_room(const struct redis_link *link);

/* Sends a command. False: not ready, or no memory; `answered` isn't called then. */
MUST_CHECK bool redis_link_send(struct redis_link *link, struct redis_command *command, int count,
                                const char *const *words, const size_t *lengths,
                                redis_answered *answered, void *argument);

/* Ends the connection for a reason, and tries anew after a while. `detail` may be empty. */
void redis_link_fail(struct redis_link *link, enum metric_store_fault reason, struct view detail);

/* For the other files of the link: a name or address is known, go on; and the greeting is over. */
void redis_link_connect_to(struct redis_link *link, const struct redis_host *host);
void redis_link_greeted(struct redis_link *link);

/* The numeric address that `resolver` has for the `turn`-th attempt. False: none. */
MUST_CHECK bool redis_link_peer(const struct resolver *resolver, unsigned turn,
                                struct redis_peer *peer);

/* Attaches a connection to the loop, whatever it is for. NULL without memory or descriptors. */
struct redisAsyncContext *redis_link_open(struct loop *loop, const struct redis_peer *peer);

/* ---- a new connection (store_redis_greeting.c, store_redis_sentinel.c) ----------------------- */

/* Says who podgate is and asks what Redis is; redis_link_greeted() or redis_link_fail() follows. */
void redis_greeting_begin(struct redis_link *link);

/* Asks a Sentinel at `peer`; redis_link_connect_to() or redis_link_fail() follows. */
void redis_sentinel_ask(struct redis_link *link, const struct redis_peer *peer);

/* Reads a Sentinel's answer. False: it doesn't know the master. Pure. */
MUST_CHECK bool redis_sentinel_read(const struct redisReply *answer, struct redis_host *host);

/* Ends the question. */
void redis_sentinel_stop(struct redis_link *link);

/* ---- other podgates' changes (store_redis_watch.c) ------------------------------------------- */

struct redis_watch {
    struct redis_store *store;
    struct store_client *client;
    struct redisAsyncContext *context;
    struct event *timer;
    struct redis_peer peer;
    bool is_wanted;
    bool has_missed;  /* it was away in between */
    bool was_refused; /* and that was said */
};

/* Prepares; nothing is connected yet. False without memory. */
MUST_CHECK bool redis_watch_init(struct redis_watch *watch, struct redis_store *store,
                                 struct store_client *client);

/* Ends it. */
void redis_watch_clear(struct redis_watch *watch);

/* Listens at `peer` from now on. */
void redis_watch_start(struct redis_watch *watch, const struct redis_peer *peer);

/* Listens no more, until the next start. */
void redis_watch_stop(struct redis_watch *watch);

/* ---- questions (store_redis_calls.c) --------------------------------------------------------- */

struct redis_work;
struct redis_part;

/* One loop's part of the backend. */
struct redis_client {
    struct redis_store *store;
    struct store_client *client;
    struct redis_link link;
    struct redis_watch watch;
    struct event *timer;      /* of the deadlines, and of calls to be ended */
    struct redis_work *first; /* by deadline */
    struct redis_work *last;
    /* What isn't written yet. Only so much is under way at once, so that a long queue isn't taken
     * for a slow Redis, and a call that is given up in it was certainly not executed. */
    struct redis_part *queue_first;
    struct redis_part *queue_last;
    uint64_t turn; /* of the timer: what was begun in it waits for the next one */
    _Atomic bool is_ready;
    /* Told on the loop when `is_ready` changes (see store_redis_watch_state()). */
    void (*on_state)(void *argument, bool is_ready);
    void *on_state_argument;
};

/* Prepares the part that has calls. False without memory. */
MUST_CHECK bool redis_calls_init(struct redis_client *client);

/* Ends all calls unheard. */
void redis_calls_clear(struct redis_client *client);

/* Begins a call; the backend's `start`. Never ends it before it returns. */
void redis_calls_start(void *client_data, struct store_call *call);

/* The link may be used now, or not any more: goes on with what was held, or ends it. */
void redis_calls_link_changed(struct redis_client *client, bool is_ready);

/* ---- the process (store_redis.c) ------------------------------------------------------------- */

/* Why podgates that reconnect may have to assert again what they wrote. */
enum store_redis_loss {
    STORE_REDIS_EMPTIED, /* the epoch key is gone: Redis restarted empty or was flushed */
    STORE_REDIS_REBORN, /* another replication id: restarted or failed over; some writes may be lost
                         */
};

struct redis_store {
    struct store *store;
    struct redis_address address;
    char *user;              /* NULL: the default one */
    struct secret *password; /* NULL: none */
    char *prefix;
    size_t prefix_length;
    bool require_durable;
    struct redis_scripts scripts;
    _Atomic unsigned client_count;
    _Atomic unsigned ready_count;
    _Atomic int durability; /* enum store_durability */
    /* Under `lock`: what was last known of Redis, and whom to tell. A leaf. */
    pthread_mutex_t lock;
    bool is_known; /* the durability */
    bool is_said;  /* the state, in the log */
    bool said_ready;
    char epoch[REDIS_ID_MAXIMUM];
    char replication_id[REDIS_ID_MAXIMUM];
    void (*on_loss)(void *argument, enum store_redis_loss loss);
    void *on_loss_argument;
};

/* The settings alone, without a store: for the doctor. NULL: `*problem` is for free(). Main thread;
 * may block. */
struct redis_store *redis_settings_create(const struct config *config, char **problem);

/* Frees what redis_settings_create() gave. */
void redis_settings_destroy(struct redis_store *redis);

/* A client's connection came or went: state, metrics, one log line per change. `reason` counts when
 * it went. On the client's loop. */
void redis_store_note_state(struct redis_link *link, bool is_ready, enum metric_store_fault reason,
                            struct view detail);

/* What a new connection was found to lead to. False: it is not to be used, and `*problem` is a
 * literal that says why. On the client's loop. */
MUST_CHECK bool redis_store_judge(struct redis_link *link, const char **problem);

/* For the spool, which stands before this backend: `data` and `client_data` are what `create` and
 * `create_client` gave. */

/* True while questions of this client are sent to Redis. Any thread. */
bool store_redis_is_ready(const void *client_data);

/* Calls `on_state(argument, is_ready)` on the client's loop at each change; never from within a
 * call of the store. To be set before the loop runs. */
void store_redis_watch_state(void *client_data, void (*on_state)(void *argument, bool is_ready),
                             void *argument);

/* Calls `on_loss(argument, loss)` once for each loss that is noticed, on the loop of whichever
 * client noticed it, before that client becomes ready. To be set before clients are made. */
void store_redis_watch_loss(void *data, void (*on_loss)(void *argument, enum store_redis_loss loss),
                            void *argument);

#endif
