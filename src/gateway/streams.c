#include "build_config.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/stream_private.h"

/* All streams of one worker: its readers, what they know of their jobs, and their beginning and
 * end. */

enum {
    HOME_ROUNDS = 6, /* the longest way of a poll: answered, settled, released; each by mail */
};

/* ---- small things ---------------------------------------------------------------------------- */

void stream_chunks_clear(struct stream_chunks *chunks)
{
    body_unref(chunks->bytes);
    free(chunks->lengths);
    *chunks = (struct stream_chunks){0};
}

void stream_take_facts(struct stream_facts *facts, const struct store_job *job, uint64_t now_ms)
{
    size_t length = job->upstream_id.length;

    *facts = (struct stream_facts){
        .known = true,
        .state = job->state,
        .fate = job->fate,
        .kind = job->kind,
        .generation = job->generation,
        .chunk_count = job->chunk_count,
        .age_ms = now_ms > job->submitted_ms ? now_ms - job->submitted_ms : 0,
    };
    if (job->ended_ms != 0) {
        facts->ended_for_ms = now_ms > job->ended_ms ? now_ms - job->ended_ms : 1;
    }
    if (length > 0 && length <= sizeof facts->upstream_id) {
        memcpy(facts->upstream_id, job->upstream_id.data, length);
        facts->upstream_id_length = length;
    }
}

size_t stream_build_name(struct view endpoint, struct view job, char name[STREAM_NAME_BYTES])
{
    memcpy(name, endpoint.data, endpoint.length);
    name[endpoint.length] = '/';
    memcpy(name + endpoint.length + 1, job.data, job.length);
    return endpoint.length + 1 + job.length;
}

struct streams *streams_owner_of(const struct gateway *gateway, struct view name)
{
    const struct gateway_shared *shared = gateway->shared;

    return shared->gateway_count == 1
               ? gateway->streams
               : shared->gateways[table_hash(name) % shared->gateway_count]->streams;
}

struct view stream_endpoint(const struct stream_reader *reader)
{
    struct view name = view_make(reader->name, reader->name_length);

    return view_first(name, view_find_byte(name, '/'));
}

struct view stream_job_id(const struct stream_reader *reader)
{
    struct view name = view_make(reader->name, reader->name_length);

    return view_skip(name, view_find_byte(name, '/') + 1);
}

/* ---- readers --------------------------------------------------------------------------------- */

static void destroy_reader(void *object)
{
    struct stream_reader *reader = object;

    builder_clear(&reader->head);
    free(reader);
}

static void end_reader(struct stream_reader *reader)
{
    struct streams *streams = reader->streams;

    reader->dead = true;
    event_del(&reader->timer);
    stream_reader_stop(reader);
    if (reader->refresh_call) {
        store_cancel(reader->refresh_call);
        reader->refresh_call = NULL;
    }
    stream_desk_clear(reader);
    chunk_log_clear(reader);
    table_remove(streams->readers, &reader->node);
    loop_bury(streams->gateway->loop, &reader->grave, destroy_reader, reader);
}

static bool is_idle(const struct stream_reader *reader, uint64_t now_ms)
{
    return !reader->polls && !reader->exchange && !reader->append_call && !reader->lease_call &&
           !reader->refresh_call && reader->unstored_bytes == 0 && !stream_desk_is_busy(reader) &&
           (!reader->capture || reader->drained || reader->streams->draining) &&
           now_ms >= reader->idle_since_ms + STREAM_IDLE_MS;
}

static uint64_t earlier(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static void arm(struct stream_reader *reader, uint64_t now_ms)
{
    uint64_t due_ms = reader->idle_since_ms + STREAM_IDLE_MS;
    uint64_t delay_ms;
    struct timeval delay;

    if (due_ms <= now_ms) {
        due_ms = now_ms + STREAM_IDLE_MS; /* not idle: something else will call */
    }
    due_ms = earlier(due_ms, stream_desk_next_ms(reader));
    due_ms = earlier(due_ms, stream_reader_next_ms(reader));
    if (reader->unstored_bytes > 0 && !reader->append_call) {
        due_ms = earlier(due_ms, reader->append_at_ms);
    }
    if (reader->refresh_at_ms != 0) {
        due_ms = earlier(due_ms, reader->refresh_at_ms);
    }
    delay_ms = due_ms > now_ms ? due_ms - now_ms + 1 : 1;
    delay.tv_sec = (time_t)(delay_ms / 1000);
    delay.tv_usec = (suseconds_t)(delay_ms % 1000 * 1000);
    event_add(&reader->timer, &delay);
}

void stream_proceed(struct stream_reader *reader)
{
    uint64_t now_ms = clock_mono_ms();

    if (reader->dead) {
        return;
    }
    if (reader->polls) {
        reader->idle_since_ms = now_ms;
    }
    if (reader->refresh_at_ms != 0 && now_ms >= reader->refresh_at_ms) {
        reader->refresh_at_ms = 0;
        stream_refresh(reader);
    }
    chunk_log_store(reader);
    stream_desk_serve(reader);
    stream_desk_save(reader);
    stream_reader_read(reader);
    if (is_idle(reader, now_ms)) {
        end_reader(reader);
    } else {
        arm(reader, now_ms);
    }
}

static void on_timer(evutil_socket_t descriptor, short what, void *argument)
{
    (void)descriptor;
    (void)what;
    stream_proceed(argument);
}

static struct stream_reader *find_reader(struct streams *streams, struct view name)
{
    return (struct stream_reader *)(void *)table_find(streams->readers, name);
}

/* What upstream may still have for a job that ended so long ago: nothing behind its retention. */
static bool is_forgotten(const struct stream_reader *reader)
{
    const struct config_upstream *upstream = &reader->streams->gateway->config->upstream;
    const struct stream_facts *facts = &reader->facts;

    if (facts->state == JOB_LOST || facts->state == JOB_TTL_EXPIRED) {
        return true;
    }
    return job_state_is_terminal(facts->state) &&
           facts->ended_for_ms > (facts->kind == STORE_KIND_RUNSYNC ? upstream->retention_runsync_ms
                                                                    : upstream->retention_run_ms);
}

static struct stream_reader *create_reader(struct streams *streams, struct view name,
                                           struct view team, const struct stream_facts *facts)
{
    struct stream_reader *reader = calloc(1, sizeof *reader);

    if (!reader) {
        return NULL;
    }
    reader->streams = streams;
    memcpy(reader->name, name.data, name.length);
    reader->name_length = name.length;
    memcpy(reader->team, team.data, team.length);
    reader->team_length = team.length;
    reader->facts = *facts;
    reader->facts_at_ms = clock_mono_ms();
    reader->count = facts->chunk_count;
    reader->stored = facts->chunk_count;
    reader->tail_from = facts->chunk_count;
    reader->drained = is_forgotten(reader);
    reader->idle_since_ms = clock_mono_ms();
    builder_init(&reader->head, reader->head_storage, sizeof reader->head_storage);
    evtimer_assign(&reader->timer, loop_base(streams->gateway->loop), on_timer, reader);
    if (!table_insert(streams->readers, &reader->node, view_make(reader->name, name.length))) {
        free(reader);
        return NULL;
    }
    return reader;
}

static void restart(struct stream_reader *reader)
{
    chunk_log_clear(reader);
    reader->count = reader->facts.chunk_count;
    reader->stored = reader->facts.chunk_count;
    reader->tail_from = reader->facts.chunk_count;
    reader->ending = false;
    reader->drained = false;
    reader->has_seen_state = false;
    reader->failures = 0;
    reader->read_at_ms = 0;
    stream_desk_restart(reader);
}

void stream_update(struct stream_reader *reader, const struct stream_facts *facts)
{
    bool is_later = facts->generation > reader->facts.generation;

    if (!facts->known || facts->generation < reader->facts.generation) {
        return; /* read before what is known already */
    }
    if (!is_later && job_state_is_terminal(reader->facts.state) &&
        !job_state_is_terminal(facts->state)) {
        return;
    }
    reader->facts = *facts;
    reader->facts_at_ms = clock_mono_ms();
    if (is_later) {
        restart(reader);
    } else if (facts->chunk_count > reader->count && reader->unstored_bytes == 0) {
        /* Another podgate has read on. */
        chunk_log_clear(reader);
        reader->count = facts->chunk_count;
        reader->stored = facts->chunk_count;
        reader->tail_from = facts->chunk_count;
    }
    if (is_forgotten(reader)) {
        reader->drained = true;
    }
}

static void on_refreshed(void *argument, const struct store_reply *reply)
{
    struct stream_reader *reader = argument;
    struct stream_facts facts;

    reader->refresh_call = NULL;
    if (reply->result == STORE_OK) {
        stream_take_facts(&facts, &reply->job, reply->now_ms);
        stream_update(reader, &facts);
    }
    if (reader->refresh_wanted) {
        reader->refresh_wanted = false;
        stream_refresh(reader);
    }
    stream_proceed(reader);
}

void stream_refresh(struct stream_reader *reader)
{
    struct store_question question = {
        .operation = STORE_GET_JOB,
        .endpoint = stream_endpoint(reader),
        .job = stream_job_id(reader),
    };

    if (reader->refresh_call) {
        reader->refresh_wanted = true;
        return;
    }
    reader->refresh_call =
        store_ask(reader->streams->gateway->store, &question, on_refreshed, reader);
}

enum job_state stream_running_state(const struct stream_reader *reader)
{
    bool is_queued = reader->facts.state == JOB_IN_QUEUE && reader->count == 0 &&
                     (!reader->has_seen_state || reader->seen_state == JOB_IN_QUEUE);

    return is_queued ? JOB_IN_QUEUE : JOB_IN_PROGRESS;
}

/* ---- polls arrive ---------------------------------------------------------------------------- */

static void refuse(struct stream_poll *poll, enum problem problem)
{
    poll->outcome = STREAM_PROBLEM;
    poll->problem = problem;
    stream_poll_answer(poll);
}

void streams_take_poll(struct stream_poll *poll)
{
    struct streams *streams = poll->owner;
    struct view name = view_make(poll->name, poll->name_length);
    struct view team = view_make(poll->team, poll->team_length);
    struct stream_reader *reader = find_reader(streams, name);

    if (!poll->facts.known &&
        (!reader || !view_equal(team, view_make(reader->team, reader->team_length)))) {
        refuse(poll, PROBLEM_STORE_UNAVAILABLE);
        return;
    }
    if (!reader) {
        reader = create_reader(streams, name, team, &poll->facts);
    } else {
        stream_update(reader, &poll->facts);
    }
    if (!reader) {
        refuse(poll, PROBLEM_OVERLOADED);
        return;
    }
    stream_desk_take(reader, poll);
    stream_proceed(reader);
}

/* ---- all of a worker ------------------------------------------------------------------------- */

struct streams *streams_create(struct gateway *gateway)
{
    struct streams *streams = calloc(1, sizeof *streams);

    if (!streams) {
        return NULL;
    }
    streams->gateway = gateway;
    streams->readers = table_create();
    if (!streams->readers) {
        free(streams);
        return NULL;
    }
    gateway->capture_stream = streams_capture;
    return streams;
}

static void end_node(struct table_node *node, void *argument)
{
    (void)argument;
    end_reader((struct stream_reader *)(void *)node);
}

/* Polls on their way lie in mailboxes of all workers, so the first of them that ends brings home
 * those of all, while all are there. No caller is left, so that nothing new begins. */
static void bring_home(const struct gateway_shared *shared)
{
    for (size_t round = 0; round < HOME_ROUNDS; round++) {
        for (size_t i = 0; i < shared->gateway_count; i++) {
            struct gateway *gateway = shared->gateways[i];

            if (gateway && gateway->streams) {
                gateway->streams->draining = true;
                gateway->streams->ended = true;
                loop_flush_mail(gateway->loop);
            }
        }
    }
}

void streams_destroy(struct streams *streams)
{
    if (!streams) {
        return;
    }
    if (!streams->ended) {
        bring_home(streams->gateway->shared);
    }
    table_for_each(streams->readers, end_node, NULL);
    while (streams->polls) {
        stream_poll_destroy(streams->polls);
    }
    loop_flush_graves(streams->gateway->loop);
    table_destroy(streams->readers);
    free(streams);
}

/* Proceeding may end a reader and with it change the table, so it is left to the timers. */
static void wake_node(struct table_node *node, void *argument)
{
    static const struct timeval now = {0, 0};

    (void)argument;
    event_add(&((struct stream_reader *)(void *)node)->timer, &now);
}

void streams_drain(struct streams *streams)
{
    struct stream_poll *next;

    streams->draining = true;
    for (struct stream_poll *poll = streams->polls; poll; poll = next) {
        struct request *request = request_find(streams->gateway, poll->handle);

        next = poll->next;
        if (request && !poll->moves_cursor && !poll->leaving) {
            stream_events_drain(request);
        }
    }
    table_for_each(streams->readers, wake_node, NULL);
}

bool streams_are_reading(const struct streams *streams)
{
    return streams->reading_count > 0;
}

void streams_capture(struct gateway *gateway, const struct store_job *job)
{
    struct streams *streams = gateway->streams;
    char storage[STREAM_NAME_BYTES];
    struct view name = view_make(storage, stream_build_name(job->endpoint, job->id, storage));
    struct stream_reader *reader = find_reader(streams, name);
    struct stream_facts facts;

    if (streams->draining || (reader && reader->capture)) {
        return;
    }
    if (!reader && job->team.length <= STREAM_WORD_BYTES) {
        stream_take_facts(&facts, job, job->submitted_ms);
        reader = create_reader(streams, name, job->team, &facts);
    }
    if (reader) { /* else there is no memory: the next poll of the job comes here again */
        reader->capture = true;
        stream_refresh(reader); /* how many chunks are there is known to the store alone */
        stream_proceed(reader);
    }
}

struct change_letter {
    struct streams *owner;
    size_t name_length;
    char name[STREAM_NAME_BYTES];
};

static void forget_here(struct streams *streams, struct view name)
{
    struct stream_reader *reader = find_reader(streams, name);

    if (reader) {
        stream_refresh(reader);
        stream_proceed(reader);
    }
}

static void on_forget_letter(void *argument)
{
    struct change_letter *letter = argument;

    forget_here(letter->owner, view_make(letter->name, letter->name_length));
    free(letter);
}

void streams_forget(struct gateway *gateway, struct view endpoint, struct view job)
{
    struct change_letter *letter = malloc(sizeof *letter);

    if (!letter) {
        return; /* the next poll brings the entry anyway */
    }
    letter->name_length = stream_build_name(endpoint, job, letter->name);
    letter->owner = streams_owner_of(gateway, view_make(letter->name, letter->name_length));
    if (!loop_post(letter->owner->gateway->loop, on_forget_letter, letter)) {
        free(letter);
    }
}

static void refresh_node(struct table_node *node, void *argument)
{
    struct stream_reader *reader = (struct stream_reader *)(void *)node;

    (void)argument;
    if (reader->polls) {
        stream_refresh(reader);
    }
}

void streams_note_change(struct gateway *gateway, struct view endpoint, struct view job)
{
    char storage[STREAM_NAME_BYTES];

    if (job.length == 0) {
        table_for_each(gateway->streams->readers, refresh_node, NULL);
    } else if (route_endpoint_valid(endpoint) && route_job_valid(job)) {
        forget_here(gateway->streams,
                    view_make(storage, stream_build_name(endpoint, job, storage)));
    }
}
