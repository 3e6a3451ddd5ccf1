#include "build_config.h"

#include "sim/sim_job.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdlib.h>

enum { CHUNKS_PER_REPLY = 200 };

const char *job_state_name(enum job_state state)
{
    switch (state) {
    case JOB_IN_QUEUE: return "IN_QUEUE";
    case JOB_IN_PROGRESS: return "IN_PROGRESS";
    case JOB_COMPLETED: return "COMPLETED";
    case JOB_FAILED: return "FAILED";
    case JOB_CANCELLED: return "CANCELLED";
    case JOB_TIMED_OUT: return "TIMED_OUT";
    }
    return "UNKNOWN";
}

bool job_is_terminal(const struct job *job)
{
    return job->state != JOB_IN_QUEUE && job->state != JOB_IN_PROGRESS;
}

static void write_blob(struct evbuffer *out, const char *name, struct blob *blob)
{
    if (!blob)
        return;
    evbuffer_add_printf(out, "\"%s\":", name);
    blob_append(out, blob);
    evbuffer_add(out, ",", 1);
}

static void write_number(struct evbuffer *out, const char *name, int64_t number)
{
    if (number >= 0)
        evbuffer_add_printf(out, "\"%s\":%" PRId64 ",", name, number);
}

void job_write_status(struct evbuffer *out, const struct job *job, bool for_webhook)
{
    bool cancelled = job->state == JOB_CANCELLED;
    evbuffer_add(out, "{", 1);
    if (!cancelled) {
        write_number(out, "delayTime", job->delay_ms);
        write_blob(out, "error", job->error);
        write_number(out, "executionTime", job->execution_ms);
    }
    evbuffer_add_printf(out, "\"id\":\"%s\",", job->id);
    if (for_webhook)
        write_blob(out, "input", job->input);
    if (!cancelled) {
        write_blob(out, "output", job->output);
        write_number(out, "retries", job->retries > 0 ? job->retries : -1);
    }
    evbuffer_add_printf(out, "\"status\":\"%s\"", job_state_name(job->state));
    if (for_webhook && job->webhook) {
        evbuffer_add_printf(out, ",\"webhook\":");
        blob_append(out, job->webhook);
    }
    if (!for_webhook && !cancelled && job->worker_id[0])
        evbuffer_add_printf(out, ",\"workerId\":\"%s\"", job->worker_id);
    evbuffer_add(out, "}", 1);
}

void job_write_brief(struct evbuffer *out, const struct job *job)
{
    evbuffer_add_printf(out, "{\"id\":\"%s\",\"status\":\"%s\"}", job->id,
                        job_state_name(job->state));
}

static void drop_first_chunk(struct job *job)
{
    struct chunk *chunk = TAILQ_FIRST(&job->chunks);
    TAILQ_REMOVE(&job->chunks, chunk, link);
    job->chunk_count--;
    blob_unref(chunk->json);
    free(chunk);
}

void job_drain_stream(struct evbuffer *out, struct job *job)
{
    evbuffer_add_printf(out, "{\"status\":\"%s\",\"stream\":[", job_state_name(job->state));
    for (int i = 0; i < CHUNKS_PER_REPLY && !TAILQ_EMPTY(&job->chunks); i++) {
        if (i > 0)
            evbuffer_add(out, ",", 1);
        blob_append(out, TAILQ_FIRST(&job->chunks)->json);
        drop_first_chunk(job);
    }
    evbuffer_add(out, "]}", 2);
}

bool job_add_chunk(struct job *job, struct sim_text json)
{
    struct chunk *chunk = malloc(sizeof *chunk);
    if (!chunk)
        return false;
    chunk->json = blob_copy(json);
    if (!chunk->json) {
        free(chunk);
        return false;
    }
    TAILQ_INSERT_TAIL(&job->chunks, chunk, link);
    job->chunk_count++;
    return true;
}

void job_clear_chunks(struct job *job)
{
    while (!TAILQ_EMPTY(&job->chunks))
        drop_first_chunk(job);
}

bool job_set_blob(struct blob **slot, struct sim_text text)
{
    struct blob *blob = blob_copy(text);
    if (!blob)
        return false;
    blob_unref(*slot);
    *slot = blob;
    return true;
}
