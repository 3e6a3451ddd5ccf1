#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/store_spool.h"

/* What is remembered of the jobs that this podgate accepted or last leased. */

enum { NAME_BYTES = 1024 };

/* ---- the table ------------------------------------------------------------------------------- */

static struct view name_of(struct builder *name, struct view endpoint, struct view id)
{
    builder_append(name, endpoint);
    builder_append_byte(name, '\0');
    builder_append(name, id);
    return builder_view(name);
}

static struct spool_job *find(struct spool *spool, struct view endpoint, struct view id)
{
    char storage[NAME_BYTES];
    struct builder name;
    struct table_node *node;

    builder_init(&name, storage, sizeof storage);
    node = table_find(spool->jobs, name_of(&name, endpoint, id));
    builder_clear(&name);
    return (struct spool_job *)(void *)node; /* `node` is the first member */
}
_Static_assert(offsetof(struct spool_job, node) == 0, "find() gives the node's job");
_Static_assert(offsetof(struct spool_sent, node) == 0, "and so with submits");
_Static_assert(sizeof(struct spool_job) <= 280, "with its texts a job has 512 bytes");

static void unlink_job(struct spool_job *job)
{
    *job->link = job->next;
    if (job->next) {
        job->next->link = job->link;
    }
}

static void link_job(struct spool_job **list, struct spool_job *job)
{
    job->next = *list;
    job->link = list;
    if (job->next) {
        job->next->link = &job->next;
    }
    *list = job;
}

static void move_job(struct spool *spool, struct spool_job *job, bool is_entered)
{
    unlink_job(job);
    job->is_entered = is_entered;
    link_job(is_entered ? &spool->entered : &spool->known, job);
}

static void free_job(struct spool *spool, struct spool_job *job)
{
    unlink_job(job);
    table_remove(spool->jobs, &job->node);
    free(job);
}

static struct view put_text(char **room, struct view text)
{
    struct view put = {*room, text.length};

    if (text.length > 0) {
        memcpy(*room, text.data, text.length);
    }
    *room += text.length;
    return put;
}

static struct spool_job *add(struct spool *spool, const struct store_job *facts)
{
    size_t bytes = facts->endpoint.length + 1 + facts->id.length + facts->upstream_id.length +
                   facts->team.length + facts->key.length;
    struct spool_job *job = malloc(sizeof *job + bytes);
    char *room;
    struct view name;

    if (!job) {
        return NULL;
    }
    memset(job, 0, sizeof *job);
    room = (char *)(job + 1);
    name.data = room;
    job->endpoint = put_text(&room, facts->endpoint);
    *room++ = '\0';
    job->id = put_text(&room, facts->id);
    name.length = (size_t)(room - name.data);
    job->upstream_id = put_text(&room, facts->upstream_id);
    job->team = put_text(&room, facts->team);
    job->key = put_text(&room, facts->key);
    if (!table_insert(spool->jobs, &job->node, name)) {
        free(job);
        return NULL;
    }
    link_job(&spool->known, job);
    return job;
}

static void take_facts(struct spool_job *job, const struct store_job *facts)
{
    job->generation = facts->generation;
    job->submitted_ms = facts->submitted_ms;
    job->ttl_ms = facts->ttl_ms;
    job->due_ms = facts->due_ms;
    job->deadline_ms = facts->deadline_ms;
    job->missing_since_ms = facts->missing_since_ms;
    job->missing_count = facts->missing_count;
    job->failure_count = facts->failure_count;
    job->chunk_count = facts->chunk_count;
    job->kind = (unsigned char)facts->kind;
    job->state = (unsigned char)facts->state;
    job->touched_ms = clock_wall_ms();
}

/* Another id at the upstream needs another allocation. */
static struct spool_job *update(struct spool *spool, const struct store_job *facts)
{
    struct spool_job *job = find(spool, facts->endpoint, facts->id);

    if (job && facts->upstream_id.length > 0 && !view_equal(job->upstream_id, facts->upstream_id)) {
        struct spool_job before = *job;

        free_job(spool, job);
        job = add(spool, facts);
        if (job) {
            job->pending = before.pending;
            job->is_news = before.is_news;
            job->is_whole = before.is_whole;
            move_job(spool, job, before.is_entered);
        }
    } else if (!job) {
        job = add(spool, facts);
    }
    if (job) {
        take_facts(job, facts);
    }
    return job;
}

void spool_remember(struct spool *spool, const struct store_job *job, bool is_whole)
{
    struct spool_job *known;

    pthread_mutex_lock(&spool->lock);
    known = update(spool, job);
    if (known && is_whole) {
        known->is_whole = true;
    }
    pthread_mutex_unlock(&spool->lock);
}

void spool_remember_news(struct spool *spool, const struct store_job *job, bool is_whole)
{
    struct spool_job *known;

    pthread_mutex_lock(&spool->lock);
    known = update(spool, job);
    if (known) {
        known->is_whole = known->is_whole || is_whole;
        known->is_news = true;
        move_job(spool, known, true);
    }
    atomic_store(&spool->is_used, true);
    pthread_mutex_unlock(&spool->lock);
}

void spool_note_plan(struct spool *spool, const struct store_question *question, uint64_t now_ms)
{
    struct spool_job *job;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, question->endpoint, question->job);
    if (job) {
        job->state = (unsigned char)question->state;
        job->due_ms = embedded_add(now_ms, question->due_ms);
        if (question->deadline_ms > 0) {
            job->deadline_ms = embedded_add(now_ms, question->deadline_ms);
        }
        job->missing_count = question->missing;
        job->missing_since_ms = question->missing > 0 && question->missing_since_ms < now_ms
                                    ? now_ms - question->missing_since_ms
                                    : 0;
        job->failure_count = question->failures;
        job->touched_ms = clock_wall_ms();
    }
    pthread_mutex_unlock(&spool->lock);
}

void spool_forget(struct spool *spool, struct view endpoint, struct view id)
{
    struct spool_job *job;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, endpoint, id);
    if (job && !job->is_news && job->pending == 0) {
        free_job(spool, job);
    }
    pthread_mutex_unlock(&spool->lock);
}

struct spool_standing spool_standing_of(struct spool *spool, struct view endpoint, struct view id)
{
    struct spool_standing standing = {.is_known = false};
    const struct spool_job *job;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, endpoint, id);
    if (job) {
        standing = (struct spool_standing){.is_known = true,
                                           .is_entered = job->is_entered,
                                           .is_news = job->is_news || job->pending > 0,
                                           .is_whole = job->is_whole,
                                           .generation = job->generation};
    }
    pthread_mutex_unlock(&spool->lock);
    return standing;
}

void spool_begin_write(struct spool *spool, struct view endpoint, struct view id)
{
    struct spool_job *job;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, endpoint, id);
    if (job) {
        job->pending++;
    }
    atomic_store(&spool->is_used, true);
    pthread_mutex_unlock(&spool->lock);
}

void spool_end_write(struct spool *spool, struct view endpoint, struct view id, bool is_news)
{
    struct spool_job *job;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, endpoint, id);
    if (job) {
        job->pending -= job->pending > 0;
        job->is_news = job->is_news || is_news;
        job->touched_ms = clock_wall_ms();
    }
    pthread_mutex_unlock(&spool->lock);
}

void spool_note_told(struct spool *spool, struct view endpoint, struct view id)
{
    struct spool_job *job;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, endpoint, id);
    if (job) {
        job->is_whole = false;
    }
    pthread_mutex_unlock(&spool->lock);
}

bool spool_note_drained(struct spool *spool, struct view endpoint, struct view id, bool has_ended)
{
    struct spool_job *job;
    bool is_quiet = true;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, endpoint, id);
    if (job) {
        is_quiet = job->pending == 0;
        job->is_news = !is_quiet;
        if (is_quiet && has_ended) {
            free_job(spool, job);
        } else if (is_quiet) {
            move_job(spool, job, false);
        }
    }
    pthread_mutex_unlock(&spool->lock);
    return is_quiet;
}

/* ---- into the spool -------------------------------------------------------------------------- */

static size_t texts_of(const struct spool_job *job)
{
    return job->endpoint.length + job->id.length + job->upstream_id.length + job->team.length +
           job->key.length;
}

static uint64_t span_to(uint64_t when_ms, uint64_t now_ms)
{
    return when_ms > now_ms ? when_ms - now_ms : 0;
}

static void ask_for(const struct spool_job *job, struct store_question *question, char **room,
                    uint64_t now_ms)
{
    *question = (struct store_question){
        .operation = (enum store_operation)EMBEDDED_IMPORT_JOB,
        .timeout_ms = 60000,
        .endpoint = put_text(room, job->endpoint),
        .job = put_text(room, job->id),
        .upstream_id = put_text(room, job->upstream_id),
        .team = put_text(room, job->team),
        .key = put_text(room, job->key),
        .kind = (enum store_kind)job->kind,
        .state = (enum job_state)job->state,
        .generation = job->generation,
        .ttl_ms = job->ttl_ms,
        .since_ms = job->submitted_ms,
        .due_ms = span_to(job->due_ms, now_ms),
        .deadline_ms = span_to(job->deadline_ms, now_ms),
        .missing = job->missing_count,
        .missing_since_ms = span_to(now_ms, job->missing_since_ms),
        .failures = job->failure_count,
        .from = job->chunk_count,
    };
}

/* A schedule that has not been heard of since before the outage began is another podgate's. */
static bool is_stale(const struct spool *spool, const struct spool_job *job)
{
    return embedded_add(job->due_ms, SPOOL_STALE_MS) < atomic_load(&spool->heard_ms);
}

/* The first jobs of the list, without those that are surely another podgate's. */
static size_t first_known(struct spool *spool, struct spool_job **jobs, size_t count)
{
    struct spool_job *job = spool->known;
    struct spool_job *next;
    size_t found = 0;

    for (; job && found < count; job = next) {
        next = job->next;
        if (is_stale(spool, job)) {
            free_job(spool, job);
        } else {
            jobs[found++] = job;
        }
    }
    return found;
}

size_t spool_take_known(struct spool *spool, struct store_question *questions, uint64_t since_ms,
                        char **memory)
{
    struct spool_job *jobs[SPOOL_IMPORT_BATCH];
    uint64_t now_ms = clock_wall_ms();
    size_t bytes = 1;
    size_t found;
    size_t taken = 0;
    char *room;

    pthread_mutex_lock(&spool->lock);
    found = first_known(spool, jobs, SPOOL_IMPORT_BATCH);
    for (size_t i = 0; i < found; i++) {
        bytes += texts_of(jobs[i]);
    }
    *memory = room = malloc(bytes);
    for (size_t i = 0; room && i < found; i++) {
        bool is_wanted = jobs[i]->touched_ms >= since_ms;

        ask_for(jobs[i], &questions[taken], &room, now_ms);
        questions[taken].ended = since_ms > 0;
        jobs[i]->is_news = jobs[i]->is_news || (is_wanted && since_ms > 0);
        taken += is_wanted;
        move_job(spool, jobs[i], true);
    }
    pthread_mutex_unlock(&spool->lock);
    return taken;
}

bool spool_take_one(struct spool *spool, struct view endpoint, struct view id,
                    struct store_question *question, char **memory)
{
    struct spool_job *job;
    bool is_taken = false;
    char *room;

    pthread_mutex_lock(&spool->lock);
    job = find(spool, endpoint, id);
    if (job && !job->is_entered) {
        *memory = room = malloc(texts_of(job) + 1);
        is_taken = room != NULL;
        if (is_taken) {
            ask_for(job, question, &room, clock_wall_ms());
            move_job(spool, job, true);
        }
    }
    pthread_mutex_unlock(&spool->lock);
    return is_taken;
}

void spool_leave(struct spool *spool)
{
    struct spool_job *next;

    pthread_mutex_lock(&spool->lock);
    for (struct spool_job *job = spool->entered; job; job = next) {
        next = job->next;
        if (!job->is_news && job->pending == 0) {
            move_job(spool, job, false);
        }
    }
    if (!spool->entered && table_count(spool->sent) == 0) {
        atomic_store(&spool->is_used, false);
    }
    pthread_mutex_unlock(&spool->lock);
}

void spool_prune(struct spool *spool)
{
    struct spool_job *next;

    pthread_mutex_lock(&spool->lock);
    for (struct spool_job *job = spool->known; job; job = next) {
        next = job->next;
        if (is_stale(spool, job)) {
            free_job(spool, job);
        }
    }
    pthread_mutex_unlock(&spool->lock);
}

bool spool_has_known(struct spool *spool)
{
    bool has;

    pthread_mutex_lock(&spool->lock);
    has = spool->known != NULL;
    pthread_mutex_unlock(&spool->lock);
    return has;
}

/* ---- submits --------------------------------------------------------------------------------- */

void spool_note_sent(struct spool *spool, struct view id)
{
    struct spool_sent *sent = id.length == STORE_SUBMIT_ID_BYTES ? calloc(1, sizeof *sent) : NULL;

    if (!sent) {
        return;
    }
    memcpy(sent->id, id.data, sizeof sent->id);
    pthread_mutex_lock(&spool->lock);
    if (table_find(spool->sent, id) ||
        !table_insert(spool->sent, &sent->node, view_make(sent->id, sizeof sent->id))) {
        free(sent);
    }
    atomic_store(&spool->is_used, true);
    pthread_mutex_unlock(&spool->lock);
}

bool spool_has_sent(struct spool *spool, struct view id)
{
    bool has;

    pthread_mutex_lock(&spool->lock);
    has = table_find(spool->sent, id) != NULL;
    pthread_mutex_unlock(&spool->lock);
    return has;
}

void spool_drop_sent(struct spool *spool, struct view id)
{
    struct table_node *node;

    pthread_mutex_lock(&spool->lock);
    node = table_find(spool->sent, id);
    if (node) {
        table_remove(spool->sent, node);
        free(node); /* the first member of its struct */
    }
    pthread_mutex_unlock(&spool->lock);
}

static void free_sent(struct table_node *node, void *argument)
{
    struct spool *spool = argument;

    table_remove(spool->sent, node);
    free(node);
}

void spool_clear_jobs(struct spool *spool)
{
    while (spool->known) {
        free_job(spool, spool->known);
    }
    while (spool->entered) {
        free_job(spool, spool->entered);
    }
    if (spool->sent) {
        table_for_each(spool->sent, free_sent, spool);
    }
    table_destroy(spool->jobs);
    table_destroy(spool->sent);
}
