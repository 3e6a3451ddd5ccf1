#include "build_config.h"

#include "sim/sim_queue.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim.h"
#include "sim/sim_endpoint.h"
#include "sim/sim_random.h"
#include "sim/sim_wait.h"

enum {
    DEFAULT_EXECUTION_LIMIT_MS = 600 * 1000,
    DEFAULT_TTL_MS = 24 * 3600 * 1000,
    /* Seven recorded jobs were killed 2.8 to 11.8 s after their limit. */
    EXECUTION_KILL_LATE_MS = 3000
};

struct sim_queue {
    struct sim *sim;
    const struct queue_hooks *hooks;
    struct endpoint_table endpoints;
    struct job **buckets;
    size_t bucket_count; /* a power of two */
    size_t job_count;
};

static size_t hash_bytes(const char *bytes, size_t length)
{
    uint64_t hash = 14695981039346656037U;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 1099511628211U;
    return (size_t)(hash ^ (hash >> 32));
}

static void make_job_id(char out[JOB_ID_BYTES], enum job_kind kind)
{
    char uuid[37];
    sim_random_uuid(uuid);
    snprintf(out, JOB_ID_BYTES, "%s%s-u1", kind == JOB_KIND_RUN ? "" : "sync-", uuid);
}

struct sim_queue *queue_create(struct sim *sim, const struct queue_hooks *hooks)
{
    struct sim_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return NULL;
    queue->sim = sim;
    queue->hooks = hooks;
    queue->bucket_count = 1024;
    queue->buckets = calloc(queue->bucket_count, sizeof *queue->buckets);
    if (!queue->buckets) {
        free(queue);
        return NULL;
    }
    return queue;
}

struct endpoint *queue_endpoint(struct sim_queue *queue, struct sim_text id)
{
    return endpoint_get(&queue->endpoints, queue->sim, id);
}

bool queue_set_workers(struct endpoint *endpoint, int count)
{
    if (!endpoint_set_workers(endpoint, count))
        return false;
    queue_dispatch(endpoint);
    return true;
}

/* ---- the table of jobs ---- */

static struct job **job_slot(struct sim_queue *queue, struct sim_text id)
{
    struct job **slot = &queue->buckets[hash_bytes(id.data, id.length) & (queue->bucket_count - 1)];
    while (*slot && !sim_text_is(id, (*slot)->id))
        slot = &(*slot)->hash_next;
    return slot;
}

struct job *queue_find(struct endpoint *endpoint, struct sim_text id)
{
    struct job *job = *job_slot(endpoint->sim->queue, id);
    return job && job->endpoint == endpoint ? job : NULL;
}

static void grow_table(struct sim_queue *queue)
{
    size_t wider = queue->bucket_count * 2;
    struct job **buckets = calloc(wider, sizeof *buckets);
    if (!buckets)
        return; /* slower, still right */
    for (size_t i = 0; i < queue->bucket_count; i++) {
        for (struct job *job = queue->buckets[i], *next; job; job = next) {
            next = job->hash_next;
            struct job **slot = &buckets[hash_bytes(job->id, strlen(job->id)) & (wider - 1)];
            job->hash_next = *slot;
            *slot = job;
        }
    }
    free(queue->buckets);
    queue->buckets = buckets;
    queue->bucket_count = wider;
}

/* ---- timers ---- */

static int64_t earlier(int64_t one, int64_t other)
{
    return other >= 0 && (one < 0 || other < one) ? other : one;
}

void queue_reschedule(struct job *job)
{
    struct sim *sim = job->sim;
    int64_t at = job->ttl_at_ms;
    switch (job->state) {
    case JOB_IN_QUEUE:
        if (!job->queued)
            at = earlier(at, job->release_ms);
        break;
    case JOB_IN_PROGRESS:
        at = earlier(at, job->started_ms + job->execution_limit_ms + EXECUTION_KILL_LATE_MS);
        if (job->mock)
            at = earlier(at, sim->queue->hooks->mock_next_ms(job));
        break;
    case JOB_COMPLETED:
    case JOB_FAILED:
    case JOB_CANCELLED:
    case JOB_TIMED_OUT: at = earlier(at, job->expires_ms); break;
    }
    struct timeval until = sim_clock_until(&sim->clock, at);
    evtimer_add(job->timer, &until);
}

static void enqueue(struct job *job, bool at_head)
{
    struct job_list *list = job->low_priority ? &job->endpoint->low_queue : &job->endpoint->queue;
    if (at_head)
        TAILQ_INSERT_HEAD(list, job, queue_link);
    else
        TAILQ_INSERT_TAIL(list, job, queue_link);
    job->queued = true;
}

static void dequeue(struct job *job)
{
    if (!job->queued)
        return;
    TAILQ_REMOVE(job->low_priority ? &job->endpoint->low_queue : &job->endpoint->queue, job,
                 queue_link);
    job->queued = false;
}

static void on_timer(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct job *job = argument;
    int64_t now_ms = sim_clock_now_ms(&job->sim->clock);
    if (now_ms >= job->ttl_at_ms || (job_is_terminal(job) && now_ms >= job->expires_ms)) {
        queue_remove(job);
        return;
    }
    if (job->state == JOB_IN_QUEUE && !job->queued && now_ms >= job->release_ms) {
        enqueue(job, false);
        queue_dispatch(job->endpoint);
    } else if (job->state == JOB_IN_PROGRESS) {
        if (now_ms >= job->started_ms + job->execution_limit_ms + EXECUTION_KILL_LATE_MS) {
            queue_end(job, JOB_FAILED, sim_text_of(""),
                      sim_text_of("\"executionTimeout exceeded\""));
            return;
        }
        if (job->mock)
            job->sim->queue->hooks->mock_step(job, now_ms);
    }
    queue_reschedule(job);
}

/* ---- transitions ---- */

/* Counters follow the state; nobody else changes it. */
static void move(struct job *job, enum job_state state)
{
    struct endpoint *endpoint = job->endpoint;
    if (job->state == JOB_IN_QUEUE)
        endpoint->in_queue--;
    else if (job->state == JOB_IN_PROGRESS)
        endpoint->in_progress--;
    job->state = state;
    if (state == JOB_IN_QUEUE)
        endpoint->in_queue++;
    else if (state == JOB_IN_PROGRESS)
        endpoint->in_progress++;
    else if (state == JOB_COMPLETED)
        endpoint->completed++;
    else if (state == JOB_FAILED)
        endpoint->failed++;
}

static void job_free(struct job *job)
{
    if (job->mock)
        job->sim->queue->hooks->mock_free(job);
    job_clear_chunks(job);
    blob_unref(job->input);
    blob_unref(job->webhook);
    blob_unref(job->s3_config);
    blob_unref(job->output);
    blob_unref(job->error);
    if (job->timer)
        event_free(job->timer);
    free(job);
}

static bool fill_job(struct job *job, const struct submission *submission)
{
    struct sim_text input = submission->input.length ? submission->input : sim_text_of("{}");
    job->timer = evtimer_new(job->sim->base, on_timer, job);
    return job->timer && job_set_blob(&job->input, input) &&
           (submission->webhook.length == 0 || job_set_blob(&job->webhook, submission->webhook)) &&
           (submission->s3_config.length == 0 ||
            job_set_blob(&job->s3_config, submission->s3_config));
}

struct job *queue_submit(struct endpoint *endpoint, const struct submission *submission)
{
    struct sim *sim = endpoint->sim;
    struct sim_queue *queue = sim->queue;
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    TAILQ_INIT(&job->chunks);
    TAILQ_INIT(&job->waiters);
    job->sim = sim;
    job->endpoint = endpoint;
    job->kind = submission->kind;
    job->low_priority = submission->low_priority;
    job->slot = -1;
    if (!fill_job(job, submission)) {
        job_free(job);
        return NULL;
    }
    make_job_id(job->id, job->kind);
    int64_t now_ms = sim_clock_now_ms(&sim->clock);
    job->submitted_ms = now_ms;
    job->release_ms = now_ms + submission->release_after_ms;
    job->delay_ms = job->execution_ms = job->expires_ms = -1;
    job->ttl_at_ms = now_ms + (submission->ttl_ms > 0 ? submission->ttl_ms : DEFAULT_TTL_MS);
    job->execution_limit_ms = submission->execution_limit_ms > 0 ? submission->execution_limit_ms
                                                                 : DEFAULT_EXECUTION_LIMIT_MS;
    job->retention_ms = job->kind == JOB_KIND_RUN ? sim->options.retention_run_ms
                                                  : sim->options.retention_runsync_ms;
    if (queue->job_count++ > queue->bucket_count)
        grow_table(queue);
    struct job **slot = job_slot(queue, sim_text_of(job->id));
    job->hash_next = *slot;
    *slot = job;
    TAILQ_INSERT_TAIL(&endpoint->jobs, job, endpoint_link);
    endpoint->in_queue++;
    if (submission->release_after_ms <= 0)
        enqueue(job, false);
    queue->hooks->accepted(job);
    queue_reschedule(job);
    queue_dispatch(endpoint);
    return job;
}

struct job *queue_take(struct endpoint *endpoint)
{
    struct job *job = TAILQ_FIRST(&endpoint->queue);
    if (!job)
        job = TAILQ_FIRST(&endpoint->low_queue);
    if (job)
        dequeue(job);
    return job;
}

void queue_begin(struct job *job, const char *worker_id)
{
    move(job, JOB_IN_PROGRESS);
    job->started_ms = sim_clock_now_ms(&job->sim->clock);
    job->delay_ms = job->started_ms - job->submitted_ms;
    job->execution_ms = -1;
    snprintf(job->worker_id, sizeof job->worker_id, "%s", worker_id);
    queue_reschedule(job);
}

void queue_dispatch(struct endpoint *endpoint)
{
    const struct queue_hooks *hooks = endpoint->sim->queue->hooks;
    while (!TAILQ_EMPTY(&endpoint->queue) || !TAILQ_EMPTY(&endpoint->low_queue)) {
        bool taken = !TAILQ_EMPTY(&endpoint->takers);
        if (!taken && endpoint->idle_count == 0)
            return;
        struct job *job = queue_take(endpoint);
        if (taken && hooks->offer(job))
            continue;
        if (endpoint->idle_count == 0) {
            enqueue(job, true);
            return;
        }
        int slot = endpoint->idle[--endpoint->idle_count];
        endpoint->workers[slot].job = job;
        job->slot = slot;
        if (!hooks->mock_begin(job)) {
            job->slot = -1;
            endpoint->workers[slot].job = NULL;
            endpoint->idle[endpoint->idle_count++] = slot;
            enqueue(job, true);
            return;
        }
        queue_begin(job, endpoint->workers[slot].id);
    }
}

/* The job leaves its worker, whichever kind it is. */
static void leave_worker(struct job *job, bool stop)
{
    struct endpoint *endpoint = job->endpoint;
    if (job->slot >= 0) {
        endpoint->workers[job->slot].job = NULL;
        if (job->slot < endpoint->worker_count)
            endpoint->idle[endpoint->idle_count++] = job->slot;
        job->slot = -1;
    }
    if (job->worker)
        job->sim->queue->hooks->worker_release(job, stop);
    if (job->mock)
        job->sim->queue->hooks->mock_free(job);
}

void queue_chunk(struct job *job, struct sim_text json)
{
    if (!job_add_chunk(job, json))
        return;
    if (job->listener)
        job->listener(job, JOB_EVENT_CHUNK, job->listener_argument);
    wait_on_chunk(job);
}

void queue_progress(struct job *job, struct sim_text output)
{
    /* A late update must not bring a finished job back (runpod-python #250). */
    if (job->state != JOB_IN_PROGRESS || !job_set_blob(&job->output, output))
        return;
    job->execution_ms = sim_clock_now_ms(&job->sim->clock) - job->started_ms;
}

static void end_run(struct job *job)
{
    if (job->state == JOB_IN_PROGRESS)
        job->execution_ms = sim_clock_now_ms(&job->sim->clock) - job->started_ms;
}

void queue_end(struct job *job, enum job_state state, struct sim_text output, struct sim_text error)
{
    const struct queue_hooks *hooks = job->sim->queue->hooks;
    bool ran = job->state == JOB_IN_PROGRESS;
    end_run(job);
    dequeue(job);
    blob_unref(job->output);
    job->output = NULL;
    if (output.length && !job_set_blob(&job->output, output))
        job->output = NULL;
    if (error.length && !job_set_blob(&job->error, error))
        job->error = NULL;
    move(job, state);
    job->expires_ms = sim_clock_now_ms(&job->sim->clock) + job->retention_ms;
    leave_worker(job, state == JOB_CANCELLED || state == JOB_FAILED || state == JOB_TIMED_OUT);
    if (ran)
        hooks->run_ended(job);
    hooks->ended(job);
    if (job->listener)
        job->listener(job, JOB_EVENT_ENDED, job->listener_argument);
    wait_on_end(job);
    queue_reschedule(job);
    queue_dispatch(job->endpoint);
}

void queue_worker_lost(struct job *job)
{
    if (job->losses++ > 0) {
        queue_end(job, JOB_FAILED, sim_text_of(""),
                  sim_text_of("\"job timed out after 1 retries\""));
        return;
    }
    end_run(job);
    move(job, JOB_IN_QUEUE);
    leave_worker(job, false);
    job->sim->queue->hooks->run_ended(job);
    job->retries++;
    job->endpoint->retried++;
    job->execution_ms = -1;
    job->worker_id[0] = '\0';
    blob_unref(job->output);
    job->output = NULL;
    enqueue(job, true);
    queue_reschedule(job);
    queue_dispatch(job->endpoint);
}

void queue_retry(struct job *job)
{
    move(job, JOB_IN_QUEUE);
    job_clear_chunks(job);
    blob_unref(job->output);
    blob_unref(job->error);
    job->output = job->error = NULL;
    job->delay_ms = job->execution_ms = job->expires_ms = -1;
    job->worker_id[0] = '\0';
    job->losses = 0;
    job->endpoint->retried++;
    enqueue(job, false);
    queue_reschedule(job);
    queue_dispatch(job->endpoint);
}

void queue_shorten(struct job *job, int64_t ttl_ms)
{
    int64_t at = sim_clock_now_ms(&job->sim->clock) + ttl_ms;
    if (ttl_ms < job->retention_ms)
        job->retention_ms = ttl_ms;
    if (job_is_terminal(job) && at < job->expires_ms)
        job->expires_ms = at;
    queue_reschedule(job);
}

void queue_remove(struct job *job)
{
    struct endpoint *endpoint = job->endpoint;
    struct sim_queue *queue = job->sim->queue;
    bool ran = job->state == JOB_IN_PROGRESS;
    end_run(job);
    dequeue(job);
    leave_worker(job, true);
    if (ran)
        queue->hooks->run_ended(job);
    if (job->state == JOB_IN_QUEUE)
        endpoint->in_queue--;
    else if (ran)
        endpoint->in_progress--;
    struct job **slot = job_slot(queue, sim_text_of(job->id));
    *slot = job->hash_next;
    queue->job_count--;
    TAILQ_REMOVE(&endpoint->jobs, job, endpoint_link);
    if (job->listener)
        job->listener(job, JOB_EVENT_REMOVED, job->listener_argument);
    wait_on_removal(job);
    job_free(job);
    queue_dispatch(endpoint);
}

int64_t queue_purge(struct endpoint *endpoint)
{
    int64_t removed = 0;
    for (struct job *job = TAILQ_FIRST(&endpoint->jobs), *next; job; job = next) {
        next = TAILQ_NEXT(job, endpoint_link);
        if (job->state == JOB_IN_QUEUE) {
            queue_remove(job);
            removed++;
        }
    }
    return removed;
}

void queue_destroy(struct sim_queue *queue)
{
    if (!queue)
        return;
    for (struct endpoint *endpoint = endpoint_next(&queue->endpoints, NULL); endpoint;
         endpoint = endpoint_next(&queue->endpoints, endpoint)) {
        /* No worker may take what is still to be freed. */
        endpoint->idle_count = 0;
        while (!TAILQ_EMPTY(&endpoint->jobs)) {
            struct job *job = TAILQ_FIRST(&endpoint->jobs);
            TAILQ_REMOVE(&endpoint->jobs, job, endpoint_link);
            job_free(job);
        }
        queue->hooks->endpoint_free(endpoint);
    }
    endpoint_table_clear(&queue->endpoints);
    free(queue->buckets);
    free(queue);
}
