/* The spool: what stands before Redis. Private to its files.
 *
 * - store_spool.c        which question goes where, and what is done when Redis fails one
 * - store_spool_jobs.c   what is remembered of the jobs that this podgate accepted or last leased
 * - store_spool_drain.c  gives Redis what it hasn't, in rounds
 * - store_spool_errand.c one job's or submit's way there
 *
 * While Redis is there, every question goes to it, and the facts of own jobs are remembered. When
 * it is away, writes go to an embedded store beside (<store.path>.spool), into which own jobs are
 * entered as they are needed, so that they go on being polled. A job or submit about which the
 * spool knows more than Redis stays the spool's, for reads too, until it was drained: so a result
 * that was seen never vanishes again.
 */
#ifndef PODGATE_STORE_STORE_SPOOL_H
#define PODGATE_STORE_STORE_SPOOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/table.h"
#include "store/store_backend.h"
#include "store/store_embedded.h"
#include "store/store_redis.h"

struct event;

enum {
    SPOOL_ROUND_MS = 200,
    SPOOL_ERRANDS = 256, /* things that are drained at once */
    SPOOL_IMPORT_BATCH = 256,
    SPOOL_STALE_MS = 2 * 60 * 1000, /* a job that was due so long ago is another podgate's by now */
    SPOOL_RECENT_MS = 10 * 60 * 1000, /* what a failover may have lost */
    SPOOL_CLEAN_MS = 60 * 1000,
};

/* One job that this podgate accepted or last leased: at most 512 bytes with its texts. Under the
 * spool's lock. */
struct spool_job {
    struct table_node node; /* its key: endpoint, NUL, id */
    struct spool_job *next; /* of spool->known or spool->entered */
    struct spool_job **link;
    struct view endpoint;
    struct view id;
    struct view upstream_id;
    struct view team;
    struct view key;
    uint64_t generation;
    uint64_t submitted_ms;
    uint64_t ttl_ms;
    uint64_t due_ms;
    uint64_t deadline_ms;
    uint64_t touched_ms;
    uint64_t missing_since_ms;
    uint64_t chunk_count;
    uint32_t missing_count;
    uint32_t failure_count;
    uint32_t pending; /* writes to the spool that are under way */
    unsigned char kind;
    unsigned char state;
    bool is_entered; /* the spool has a row of it */
    bool is_news;    /* and knows more than Redis */
    bool is_whole;   /* and it began there: no chunk or cursor of it is in Redis */
};

/* A submit that was marked as sent in the spool: its outcome goes there too. */
struct spool_sent {
    struct table_node node;
    char id[STORE_SUBMIT_ID_BYTES];
};

struct spool {
    struct store *store;
    void *redis;               /* the backend's data */
    struct embedded *embedded; /* NULL with on_outage = refuse */
    pthread_mutex_t lock;      /* a leaf; of what follows */
    struct table *jobs;
    struct table *sent;
    struct spool_job *known;   /* those that the spool has no row of */
    struct spool_job *entered; /* those that it has */
    /* Not under the lock. */
    _Atomic uint64_t news_count; /* what Redis hasn't; a little too high at times, never too low */
    _Atomic uint64_t heard_ms;   /* wall: Redis's last answer */
    _Atomic int loss;            /* 1 + enum store_redis_loss: it has to be told again */
    _Atomic bool is_used;        /* there may be something that the spool knows better */
    _Atomic bool has_kept;       /* there are rows that Redis has been given */
    _Atomic uint64_t pruned_ms;
    _Atomic(struct spool_client *) drainer;
};

/* One loop's part. */
struct spool_client {
    struct spool *spool;
    struct store_client *client;
    void *redis; /* the backend's client */
    struct event *timer;
    bool timer_runs;
    bool drain_wanted; /* it runs for the drainer */
    /* The drainer's. */
    struct spool_errand *errands;
    size_t errand_count;
    bool has_failed; /* an errand of this round */
    bool is_importing;
    uint64_t assert_since_ms; /* jobs touched since then are told to Redis again */
};

/* ---- own jobs (store_spool_jobs.c); each takes the lock itself ------------------------------- */

/* Remembers or brings up to date. Without memory the job is simply not remembered. Any thread. */
void spool_remember(struct spool *spool, const struct store_job *job, bool is_whole);

/* What a rescheduling that Redis or the spool took says. Any thread. */
void spool_note_plan(struct spool *spool, const struct store_question *question, uint64_t now_ms);

/* Forgets a job that has ended or is another's, unless the spool is still needed for it. Any
 * thread. */
void spool_forget(struct spool *spool, struct view endpoint, struct view id);

/* How a question about a job stands. */
struct spool_standing {
    bool is_known;
    bool is_entered;
    bool is_news;
    bool is_whole;
    uint64_t generation;
};
struct spool_standing spool_standing_of(struct spool *spool, struct view endpoint, struct view id);

/* Says that a write about the job goes to the spool (+1), and that it ended there (-1), `is_news`:
 * it was written. Any thread. */
void spool_begin_write(struct spool *spool, struct view endpoint, struct view id);
void spool_end_write(struct spool *spool, struct view endpoint, struct view id, bool is_news);

/* A job that began in the spool. Any thread. */
void spool_remember_news(struct spool *spool, const struct store_job *job, bool is_whole);

/* Redis has what the spool knew of it, and its readers go on there: the spool has no longer the
 * whole of it. Any thread. */
void spool_note_told(struct spool *spool, struct view endpoint, struct view id);

/* Redis has it. False: a write came in between. Any thread. */
bool spool_note_drained(struct spool *spool, struct view endpoint, struct view id, bool has_ended);

/* Takes jobs that the spool has no row of (at most SPOOL_IMPORT_BATCH), as questions for
 * EMBEDDED_IMPORT_JOB whose views point into *memory (to be freed). With `since_ms` (1: all) they
 * are asserted, as far as they were touched since then. Those that are surely another podgate's are
 * forgotten. Any thread. */
size_t spool_take_known(struct spool *spool, struct store_question *questions, uint64_t since_ms,
                        char **memory);

/* The same for one job. False: it is not known, or has been entered. */
bool spool_take_one(struct spool *spool, struct view endpoint, struct view id,
                    struct store_question *question, char **memory);

/* False: the spool has a row of every job. Any thread. */
bool spool_has_known(struct spool *spool);

/* The spool's schedule is empty again: jobs that have no news there are only known. If nothing is
 * left at all, the spool is unused from now on. Any thread. */
void spool_leave(struct spool *spool);

/* Forgets jobs that are surely another podgate's by now. Any thread. */
void spool_prune(struct spool *spool);

/* Submits that were marked in the spool. Any thread. */
void spool_note_sent(struct spool *spool, struct view id);
bool spool_has_sent(struct spool *spool, struct view id);
void spool_drop_sent(struct spool *spool, struct view id);

/* Frees all of it. */
void spool_clear_jobs(struct spool *spool);

/* ---- routing (store_spool.c) ----------------------------------------------------------------- */

/* Asks the spool's file, or Redis, a question of the spool's own. False: no memory; `done` is not
 * called. The client's loop. */
MUST_CHECK bool spool_ask_file(struct spool_client *client, const struct store_question *question,
                               store_done *done, void *argument);
MUST_CHECK bool spool_ask_redis(struct spool_client *client, const struct store_question *question,
                                store_done *done, void *argument);

/* ---- errands (store_spool_errand.c) -----------------------------------------------------------
 */

/* Begins an errand for each of `items`, which are copied. False: none could be made. When the last
 * one has ended, spool_round_over() is called. The client's loop. */
MUST_CHECK bool spool_begin_errands(struct spool_client *client,
                                    const struct embedded_spooled *items, size_t count);

/* Frees those that are under way. */
void spool_free_errands(struct spool_client *client);

/* ---- draining (store_spool_drain.c) ---------------------------------------------------------- */

/* Sees to it that what Redis hasn't is given to it in a moment, and again until nothing is left;
 * and that what was given to it is forgotten in time. The client's loop. */
void spool_wake_drainer(struct spool_client *client);
void spool_wake_cleaner(struct spool_client *client);

/* Forgets what Redis was given long ago. The client's loop. */
void spool_clean(struct spool_client *client);

/* One round, if Redis is there and no other client drains. The client's loop. */
void spool_drain(struct spool_client *client);

/* All errands of a round have ended. The client's loop. */
void spool_round_over(struct spool_client *client);

/* Enters all known jobs into the spool's schedule, in batches. The client's loop. */
void spool_import_known(struct spool_client *client);

/* Frees what is under way; no call of the client may be running any more. */
void spool_end_drainer(struct spool_client *client);

#endif
