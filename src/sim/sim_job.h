/* A job and the endpoint it belongs to, as data; what they look like on the wire. The transitions
 * are in sim_queue.h. */
#ifndef SIM_JOB_H
#define SIM_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "sim/sim_blob.h"
#include "sim/sim_json.h"

struct evbuffer;
struct event;
struct mock;
struct real_worker;
struct sim;

enum job_state {
    JOB_IN_QUEUE,
    JOB_IN_PROGRESS,
    JOB_COMPLETED,
    JOB_FAILED,
    JOB_CANCELLED,
    JOB_TIMED_OUT
};

enum job_kind { JOB_KIND_RUN, JOB_KIND_RUNSYNC, JOB_KIND_OPENAI };

enum job_event { JOB_EVENT_CHUNK, JOB_EVENT_ENDED, JOB_EVENT_REMOVED };

enum { ENDPOINT_ID_BYTES = 129, JOB_ID_BYTES = 72, WORKER_ID_BYTES = 65 };

/* Times are platform milliseconds (sim_clock.h); -1 means never or unknown. */
struct job {
    TAILQ_ENTRY(job) endpoint_link; /* every job of the endpoint, oldest first */
    TAILQ_ENTRY(job) queue_link;    /* while `queued` */
    struct job *hash_next;
    struct sim *sim;
    struct endpoint *endpoint;
    char id[JOB_ID_BYTES];
    enum job_kind kind;
    enum job_state state;
    bool queued;
    bool low_priority;
    struct blob *input;   /* raw JSON */
    struct blob *webhook; /* raw JSON string; NULL without */
    struct blob *s3_config;
    struct blob *output; /* raw JSON; NULL when unknown */
    struct blob *error;  /* raw JSON string; NULL without */
    int64_t submitted_ms;
    int64_t release_ms; /* not handed out before */
    int64_t started_ms;
    int64_t delay_ms;     /* -1: omitted */
    int64_t execution_ms; /* -1: omitted */
    int64_t ttl_at_ms;
    int64_t execution_limit_ms;
    int64_t retention_ms;
    int64_t expires_ms;
    int retries;
    int losses; /* runs that ended by the loss of their worker */
    char worker_id[WORKER_ID_BYTES];
    int slot; /* simulated worker, -1 for none */
    struct real_worker *worker;
    TAILQ_ENTRY(job) worker_link; /* while `worker` */
    struct mock *mock;
    struct event *timer;
    TAILQ_HEAD(chunk_list, chunk) chunks;
    size_t chunk_count;
    TAILQ_HEAD(waiter_list, waiter) waiters;
    void (*listener)(struct job *, enum job_event, void *);
    void *listener_argument;
};

/* Jobs in order. */
TAILQ_HEAD(job_list, job);

/* One element of a job's stream, the raw JSON that its worker posted. */
struct chunk {
    TAILQ_ENTRY(chunk) link;
    struct blob *json;
};

struct simulated_worker {
    char id[WORKER_ID_BYTES];
    struct job *job;
};

/* Real workers and their held requests: sim_worker.c. */
TAILQ_HEAD(real_worker_list, real_worker);
/* The same. */
TAILQ_HEAD(taker_list, taker);

/* Requests counted against one limit of contract 4.7. */
struct limit_bucket {
    int64_t window;
    int64_t count;
    int64_t concurrent;
};

enum limit_kind {
    LIMIT_RUN,
    LIMIT_RUNSYNC,
    LIMIT_STATUS, /* status, status-sync and stream share one */
    LIMIT_CANCEL,
    LIMIT_PURGE,
    LIMIT_OPENAI,
    LIMIT_REQUESTS,
    LIMIT_KINDS,
    LIMIT_NONE = LIMIT_KINDS
};

/* Made at its first use, lives until the end. */
struct endpoint {
    struct endpoint *hash_next;
    struct sim *sim;
    char id[ENDPOINT_ID_BYTES];
    bool paused;
    struct job_list jobs;
    struct job_list queue;
    struct job_list low_queue;
    struct simulated_worker *workers;
    int worker_count;
    int worker_capacity; /* slots that exist; more than worker_count after a reduction */
    int *idle;           /* stack of idle slots */
    int idle_count;
    struct real_worker_list real_workers;
    int idle_real; /* kept by sim_worker.c */
    int busy_real;
    struct taker_list takers; /* requests of real workers that wait for a job */
    int64_t completed;
    int64_t failed;
    int64_t retried;
    int64_t in_progress;
    int64_t in_queue;
    struct limit_bucket limits[LIMIT_KINDS];
    void *batches; /* sim_batch.c */
};

/* "IN_QUEUE" and so on. */
const char *job_state_name(enum job_state state);

/* Whether the job has ended. */
bool job_is_terminal(const struct job *job);

/* Appends the body of /status. With `for_webhook`: as it is delivered, with `input` and `webhook`,
 * without `workerId`. Keys in alphabetical order, what is unknown is left out (contract 1.4). */
void job_write_status(struct evbuffer *out, const struct job *job, bool for_webhook);

/* Appends `{"id":…,"status":…}`. */
void job_write_brief(struct evbuffer *out, const struct job *job);

/* Removes up to 200 chunks and appends the body of /stream with them (contract 1.5). */
void job_drain_stream(struct evbuffer *out, struct job *job);

/* Appends one chunk; false when out of memory. */
MUST_CHECK bool job_add_chunk(struct job *job, struct sim_text json);

/* Forgets all chunks. */
void job_clear_chunks(struct job *job);

/* Replaces `*slot` by a copy of `text`. False: out of memory, nothing has changed. */
MUST_CHECK bool job_set_blob(struct blob **slot, struct sim_text text);

#endif
