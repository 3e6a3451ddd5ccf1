#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/stream_private.h"
#include "model/metric_catalogue.h"

/* Where the polls for one job wait, and who gets which chunks.
 *
 * A poll of a key waits while an earlier answer to the same key isn't acknowledged: only then is it
 * known what is next (stream_consumer.c). So two polls at once never get the same chunks, and none
 * is passed over.
 */

enum {
    /* The end is near: chunks wait so long for it, to come in one answer. */
    ENDING_HOLD_MS = 1000,
    FACTS_FRESH_MS = 500,
};

static struct gateway *gateway_of(const struct stream_reader *reader)
{
    return reader->streams->gateway;
}

/* ---- answers --------------------------------------------------------------------------------- */

static bool has_ended(const struct stream_reader *reader)
{
    return reader->drained && (reader->ending || job_state_is_terminal(reader->facts.state));
}

/* The ledger's word counts, since /status says the same. */
static enum job_state end_state(const struct stream_reader *reader)
{
    return job_state_is_terminal(reader->facts.state) ? reader->facts.state : reader->seen_state;
}

static void remove_from(struct stream_poll **list, const struct stream_poll *poll)
{
    while (*list && *list != poll) {
        list = &(*list)->desk_next;
    }
    if (*list) {
        *list = poll->desk_next;
    }
}

static void answer(struct stream_reader *reader, struct stream_poll *poll)
{
    remove_from(&reader->polls, poll);
    stream_poll_answer(poll);
}

static void answer_problem(struct stream_reader *reader, struct stream_poll *poll,
                           enum problem problem)
{
    poll->outcome = STREAM_PROBLEM;
    poll->problem = problem;
    poll->of = NULL;
    answer(reader, poll);
}

/* Gives what is in poll->chunks, perhaps nothing. */
static void give(struct stream_reader *reader, struct stream_poll *poll, uint64_t from)
{
    struct stream_consumer *consumer = poll->of;
    uint64_t next = from + poll->chunks.count;
    enum job_state state = end_state(reader);

    if (consumer && poll->chunks.count > 0) {
        stream_consumer_advance(consumer, next);
    }
    poll->outcome = STREAM_CHUNKS;
    poll->chunks.from = from;
    poll->ends = has_ended(reader) && next >= reader->count && state != JOB_LOST &&
                 state != JOB_TTL_EXPIRED &&
                 (!consumer || (!consumer->gaps && !stream_consumer_has_open_delivery(consumer)));
    poll->state = poll->ends ? state : stream_running_state(reader);
    poll->generation = reader->facts.generation;
    if (!consumer) {
        metrics_add(gateway_of(reader)->metrics, METRIC_CHUNKS, METRIC_CHUNK_DELIVERED, 0,
                    (int64_t)poll->chunks.count);
        answer(reader, poll);
        return;
    }
    if (poll->ends && state == JOB_CANCELLED && consumer->ended && !poll->faithful) {
        poll->state = JOB_FAILED; /* else both Python clients would ask for ever */
    }
    poll->was_ended = consumer->ended;
    consumer->ended = consumer->ended || poll->ends;
    answer(reader, poll);
    if (poll->chunks.count > 0 || poll->ends) {
        poll->delivery = STREAM_DELIVERY_OPEN;
        poll->desk_next = consumer->deliveries;
        consumer->deliveries = poll;
    } else {
        poll->of = NULL; /* nothing in it can be lost */
    }
}

/* Nothing came in time. When upstream could not be asked all the while, callers shall know. */
static void give_nothing(struct stream_reader *reader, struct stream_poll *poll, uint64_t from)
{
    bool is_failing = reader->failures > 0 && reader->read_good_ms < poll->asked_ms &&
                      (reader->failures > 1 || !reader->exchange);

    if (is_failing && !reader->streams->draining && !reader->drained) {
        poll->outcome = reader->failed_how;
        poll->failure = reader->failure;
        poll->upstream_status = reader->failed_status;
        poll->retry_after_s = reader->failed_retry_s;
        poll->of = NULL;
        answer(reader, poll);
        return;
    }
    give(reader, poll, from);
}

/* ---- chunks from the store ------------------------------------------------------------------- */

static void free_fetch(struct stream_fetch *fetch)
{
    struct stream_fetch **link = &fetch->reader->fetches;

    while (*link != fetch) {
        link = &(*link)->next;
    }
    *link = fetch->next;
    free(fetch);
}

static void on_fetched(void *argument, const struct store_reply *reply)
{
    struct stream_fetch *fetch = argument;
    struct stream_reader *reader = fetch->reader;
    struct stream_poll *poll = fetch->poll;
    uint64_t from = fetch->from;
    uint64_t to = fetch->to;
    bool is_same = fetch->generation == reader->facts.generation;
    struct stream_facts facts;

    free_fetch(fetch);
    if (poll) {
        poll->fetch = NULL;
    }
    if (reply->result == STORE_OK || reply->result == STORE_CONFLICT) {
        stream_take_facts(&facts, &reply->job, reply->now_ms);
        stream_update(reader, &facts);
    }
    if (poll && reply->result == STORE_OK && is_same && reply->chunk_count > 0) {
        size_t count = reply->chunk_count < to - from ? reply->chunk_count : (size_t)(to - from);

        reader->fetch_failed = false;
        if (chunk_log_copy_reply(reply, from, count, &poll->chunks)) {
            give(reader, poll, from);
        } else {
            answer_problem(reader, poll, PROBLEM_OVERLOADED);
        }
    } else if (poll) {
        reader->fetch_at_ms = clock_mono_ms() + STREAM_RETRY_MS;
        reader->fetch_failed = true;
    }
    stream_proceed(reader);
}

static void fetch(struct stream_reader *reader, struct stream_poll *poll, uint64_t from,
                  uint64_t to, uint64_t now_ms)
{
    struct store_question question = {
        .operation = STORE_READ_CHUNKS,
        .endpoint = stream_endpoint(reader),
        .job = stream_job_id(reader),
        .from = from,
        .limit = to - from < poll->limit ? (uint32_t)(to - from) : poll->limit,
        .limit_bytes = poll->limit_bytes,
    };
    struct stream_fetch *made;

    if (now_ms < reader->fetch_at_ms) {
        return;
    }
    made = calloc(1, sizeof *made);
    if (made) {
        *made = (struct stream_fetch){.next = reader->fetches,
                                      .reader = reader,
                                      .poll = poll,
                                      .from = from,
                                      .to = to,
                                      .generation = reader->facts.generation};
        made->call = store_ask(gateway_of(reader)->store, &question, on_fetched, made);
    }
    if (!made || !made->call) {
        free(made);
        reader->fetch_at_ms = now_ms + STREAM_RETRY_MS;
        reader->fetch_failed = true;
        return;
    }
    reader->fetches = made;
    poll->fetch = made;
}

/* ---- serving --------------------------------------------------------------------------------- */

/* What became of a job's chunks otherwise than by being read; PROBLEM_COUNT: nothing. */
static enum problem gone_problem(const struct stream_reader *reader)
{
    switch (reader->facts.fate) {
    case STORE_FATE_EXPIRED: return PROBLEM_JOB_EXPIRED;
    case STORE_FATE_EVICTED: return PROBLEM_RESULT_EVICTED;
    case STORE_FATE_DELETED: return PROBLEM_RESULT_DELETED;
    case STORE_FATE_NONE:
    case STORE_FATE_KEPT:
    case STORE_FATE_TOO_LARGE: break;
    }
    return PROBLEM_COUNT;
}

static enum problem lost_problem(const struct stream_reader *reader)
{
    return reader->facts.state == JOB_LOST          ? PROBLEM_RESULT_LOST
           : reader->facts.state == JOB_TTL_EXPIRED ? PROBLEM_JOB_EXPIRED
                                                    : PROBLEM_COUNT;
}

/* There are chunks for this poll: [from, to). */
static void serve_chunks(struct stream_reader *reader, struct stream_poll *poll, uint64_t from,
                         uint64_t to, uint64_t now_ms, bool is_late)
{
    if (reader->ending && !reader->drained && to - from <= poll->limit && !is_late &&
        now_ms < reader->ending_since_ms + ENDING_HOLD_MS) {
        poll->hungry = true;
        return;
    }
    if (chunk_log_take(reader, from, to, poll->limit, poll->limit_bytes, &poll->chunks)) {
        give(reader, poll, from);
    } else if (from < reader->stored) {
        if (is_late && reader->fetch_failed) {
            answer_problem(reader, poll, PROBLEM_STORE_UNAVAILABLE);
        } else {
            fetch(reader, poll, from, to < reader->stored ? to : reader->stored, now_ms);
        }
    } else if (is_late) {
        answer_problem(reader, poll, PROBLEM_OVERLOADED); /* in memory, and no memory for it */
    }
}

/* The collector may have seen the job begin or end meanwhile, which the entry tells: it is read
 * once more before an answer says how the job is. */
static bool is_worth_a_look(struct stream_reader *reader, struct stream_poll *poll, uint64_t now_ms)
{
    if (poll->looked_at_job || now_ms < reader->facts_at_ms + FACTS_FRESH_MS ||
        reader->streams->draining) {
        return poll->looked_at_job && reader->refresh_call;
    }
    poll->looked_at_job = true;
    stream_refresh(reader);
    return reader->refresh_call != NULL;
}

static void serve(struct stream_reader *reader, struct stream_poll *poll, uint64_t now_ms)
{
    struct stream_consumer *consumer = poll->of;
    bool is_late = now_ms >= poll->wait_until_ms || reader->streams->draining;
    uint64_t from = poll->from;
    uint64_t to = chunk_log_available(reader);

    poll->hungry = false;
    if (poll->fetch) {
        return;
    }
    if (gone_problem(reader) != PROBLEM_COUNT) {
        answer_problem(reader, poll, gone_problem(reader));
        return;
    }
    if (consumer && !consumer->loaded) {
        if (is_late && consumer->load_failed) {
            answer_problem(reader, poll, PROBLEM_STORE_UNAVAILABLE);
        } else {
            stream_consumer_load(consumer, now_ms);
        }
        return;
    }
    if (consumer && stream_consumer_has_open_delivery(consumer)) {
        if (is_late) {
            give_nothing(reader, poll, reader->count);
        }
        return;
    }
    if (consumer) {
        from = consumer->gaps ? consumer->gaps->from : consumer->position;
        to = consumer->gaps ? consumer->gaps->to : to;
    }
    if (from < to) {
        serve_chunks(reader, poll, from, to, now_ms, is_late);
    } else if (has_ended(reader) && from >= reader->count) {
        if (lost_problem(reader) != PROBLEM_COUNT) {
            answer_problem(reader, poll, lost_problem(reader));
        } else {
            give(reader, poll, from);
        }
    } else if (!is_late || is_worth_a_look(reader, poll, now_ms)) {
        poll->hungry = from >= reader->count;
    } else {
        give_nothing(reader, poll, from);
    }
}

void stream_desk_serve(struct stream_reader *reader)
{
    uint64_t now_ms = clock_mono_ms();
    struct stream_poll *next;

    for (struct stream_poll *poll = reader->polls; poll; poll = next) {
        next = poll->desk_next;
        serve(reader, poll, now_ms);
    }
}

bool stream_desk_is_hungry(const struct stream_reader *reader)
{
    const struct stream_poll *poll = reader->polls;

    while (poll && !poll->hungry) {
        poll = poll->desk_next;
    }
    return poll != NULL;
}

/* ---- coming and going ------------------------------------------------------------------------ */

void stream_desk_take(struct stream_reader *reader, struct stream_poll *poll)
{
    struct stream_poll **link = &reader->polls;

    poll->reader = reader;
    poll->desk_next = NULL;
    if (poll->moves_cursor) {
        poll->of = stream_consumer_find(reader, poll);
        if (!poll->of) {
            poll->outcome = STREAM_PROBLEM;
            poll->problem = PROBLEM_OVERLOADED;
            stream_poll_answer(poll);
            return;
        }
        for (struct stream_poll *each = poll->of->deliveries; each; each = each->desk_next) {
            if (!each->looking) {
                stream_poll_look(each);
            }
        }
        if (store_is_shared(gateway_of(reader)->shared->store) && !poll->of->deliveries &&
            !poll->of->gaps && !poll->of->load_call && !stream_consumer_is_unsaved(poll->of)) {
            poll->of->loaded = false; /* the key may have been at another podgate meanwhile */
            poll->of->retry_at_ms = 0;
        }
    }
    while (*link) {
        link = &(*link)->desk_next;
    }
    *link = poll;
}

void stream_desk_drop(struct stream_poll *poll)
{
    struct stream_reader *reader = poll->reader;

    if (!reader) {
        return; /* answered: it comes back unread */
    }
    if (poll->fetch) {
        poll->fetch->poll = NULL;
        poll->fetch = NULL;
    }
    remove_from(&reader->polls, poll);
    poll->reader = NULL;
    stream_poll_end(poll);
    stream_proceed(reader);
}

void stream_desk_acknowledged(struct stream_poll *poll)
{
    poll->delivery = STREAM_DELIVERY_ACKNOWLEDGED;
    if (poll->of) {
        stream_proceed(poll->of->reader);
    }
}

void stream_desk_looked(struct stream_poll *poll)
{
    poll->looking = false;
    if (poll->of) {
        stream_proceed(poll->of->reader);
    }
}

void stream_desk_settled(struct stream_poll *poll)
{
    struct stream_consumer *consumer = poll->of;
    struct stream_reader *reader = consumer ? consumer->reader : NULL;

    if (consumer) {
        remove_from(&consumer->deliveries, poll);
        if (poll->generation == reader->facts.generation) {
            if (poll->read) {
                metrics_add(gateway_of(reader)->metrics, METRIC_CHUNKS, METRIC_CHUNK_DELIVERED, 0,
                            (int64_t)poll->chunks.count);
            } else if (poll->chunks.count > 0) {
                stream_consumer_put_back(consumer, poll->chunks.from,
                                         poll->chunks.from + poll->chunks.count);
            }
            if (!poll->read && poll->ends) {
                consumer->ended = poll->was_ended;
            }
        }
    }
    stream_poll_end(poll);
    if (reader) {
        stream_proceed(reader);
    }
}

void stream_desk_restart(struct stream_reader *reader)
{
    for (struct stream_consumer *each = reader->consumers; each; each = each->next) {
        stream_consumer_restart(each);
    }
    for (struct stream_poll *each = reader->polls; each; each = each->desk_next) {
        if (!each->moves_cursor) {
            each->from = 0;
        }
    }
}

void stream_desk_renumber(struct stream_reader *reader, uint64_t from, uint64_t to)
{
    for (struct stream_consumer *each = reader->consumers; each; each = each->next) {
        if (each->position > from) {
            each->position = each->position - from + to;
        } else if (each->position > to) {
            each->position = to;
        }
    }
}

bool stream_desk_is_busy(const struct stream_reader *reader)
{
    for (const struct stream_consumer *each = reader->consumers; each; each = each->next) {
        if (each->deliveries || each->load_call || each->save_call ||
            stream_consumer_is_unsaved(each)) {
            return true;
        }
    }
    return reader->fetches != NULL;
}

static uint64_t earlier_after(uint64_t due_ms, uint64_t candidate_ms, uint64_t now_ms)
{
    return candidate_ms > now_ms && candidate_ms < due_ms ? candidate_ms : due_ms;
}

uint64_t stream_desk_next_ms(const struct stream_reader *reader)
{
    uint64_t now_ms = clock_mono_ms();
    uint64_t due_ms = UINT64_MAX;

    for (const struct stream_poll *each = reader->polls; each; each = each->desk_next) {
        due_ms = earlier_after(due_ms, each->wait_until_ms, now_ms);
    }
    for (const struct stream_consumer *each = reader->consumers; each; each = each->next) {
        due_ms = earlier_after(due_ms, each->retry_at_ms, now_ms);
    }
    if (reader->polls) {
        due_ms = earlier_after(due_ms, reader->fetch_at_ms, now_ms);
        due_ms = earlier_after(due_ms, reader->ending_since_ms + ENDING_HOLD_MS, now_ms);
    }
    return due_ms;
}

void stream_desk_clear(struct stream_reader *reader)
{
    reader->polls = NULL;
    while (reader->fetches) {
        struct stream_fetch *each = reader->fetches;

        reader->fetches = each->next;
        store_cancel(each->call);
        free(each);
    }
    while (reader->consumers) {
        struct stream_consumer *each = reader->consumers;

        reader->consumers = each->next;
        stream_consumer_restart(each); /* drops what is under way */
        free(each);
    }
}
