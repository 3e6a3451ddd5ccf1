/* Endpoints, their queues, and every transition of a job: submitted, handed to a simulated or a
 * real worker, ended, retried, forgotten. */
#ifndef SIM_QUEUE_H
#define SIM_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "sim/sim_job.h"

struct sim;
struct sim_queue;

/* What the queue calls in the modules above it. */
struct queue_hooks {
    /* A real worker waits: gives it the job and returns true. */
    bool (*offer)(struct job *job);
    /* A simulated worker begins; false: out of memory. */
    bool (*mock_begin)(struct job *job);
    /* When the simulated run has its next step. */
    int64_t (*mock_next_ms)(const struct job *job);
    void (*mock_step)(struct job *job, int64_t now_ms);
    void (*mock_free)(struct job *job);
    /* The job was taken from its real worker, which should stop. */
    void (*worker_release)(struct job *job, bool stop);
    /* A run has ended: in a terminal state, or in JOB_IN_QUEUE when the job is dispatched again. */
    void (*run_ended)(struct job *job);
    void (*accepted)(struct job *job);
    void (*ended)(struct job *job);
    /* At the end of the program: what other modules keep at the endpoint. */
    void (*endpoint_free)(struct endpoint *endpoint);
};

struct submission {
    enum job_kind kind;
    struct sim_text input;     /* raw JSON; empty for none */
    struct sim_text webhook;   /* raw JSON string; empty for none */
    struct sim_text s3_config; /* raw JSON; empty for none */
    bool low_priority;
    int64_t execution_limit_ms; /* 0: the default, 10 minutes */
    int64_t ttl_ms;             /* 0: the default, 24 hours */
    int64_t release_after_ms;   /* stays in the queue at least so long */
};

/* NULL: out of memory. `hooks` is referenced. */
MUST_CHECK struct sim_queue *queue_create(struct sim *sim, const struct queue_hooks *hooks);
void queue_destroy(struct sim_queue *queue);

/* The endpoint of that id, made when it is new and allowed. NULL: not allowed, or no valid id. */
MUST_CHECK struct endpoint *queue_endpoint(struct sim_queue *queue, struct sim_text id);

/* Sets how many simulated workers an endpoint has; busy ones finish first. */
MUST_CHECK bool queue_set_workers(struct endpoint *endpoint, int count);

/* The endpoint's job of that id, NULL for none. */
struct job *queue_find(struct endpoint *endpoint, struct sim_text id);

/* Accepts a job and hands it to a worker if one is free. NULL: out of memory. */
MUST_CHECK struct job *queue_submit(struct endpoint *endpoint, const struct submission *submission);

/* Gives queued jobs to free workers. */
void queue_dispatch(struct endpoint *endpoint);

/* The job that a real worker gets now, taken off the queue; NULL for none. */
struct job *queue_take(struct endpoint *endpoint);

/* Marks a job from queue_take() as begun by that worker. */
void queue_begin(struct job *job, const char *worker_id);

/* A new element of the stream: raw JSON. */
void queue_chunk(struct job *job, struct sim_text json);

/* A progress update: raw JSON for `output` while the job runs. */
void queue_progress(struct job *job, struct sim_text output);

/* The job ends. `output` and `error` are raw JSON, empty for none. */
void queue_end(struct job *job, enum job_state state, struct sim_text output,
               struct sim_text error);

/* The worker of this job was lost: dispatched once more, else FAILED (contract 1.4). */
void queue_worker_lost(struct job *job);

/* Back to the queue for a new run, as /retry does. */
void queue_retry(struct job *job);

/* Takes the queued jobs away; returns how many. */
int64_t queue_purge(struct endpoint *endpoint);

/* `?ttl=` on /status: the result is kept only so long from now (contract 4.2). */
void queue_shorten(struct job *job, int64_t ttl_ms);

/* Forgets a job: everybody gets 404 from now on. Frees it. */
void queue_remove(struct job *job);

/* Sets the job's timer anew after a change of what it waits for. */
void queue_reschedule(struct job *job);

#endif
