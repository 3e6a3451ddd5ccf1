#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/stream_private.h"

/* How far a consumer (a key) has come with the chunks of one job.
 *
 * It has a position: the chunks before it were given to it. An answer that was given and not
 * settled yet is among its deliveries. What comes back unread becomes a gap before the position,
 * and gaps are given first. The store gets the lowest chunk that may have to be given again, so
 * that a crash repeats rather than loses: an answer counts there once all its bytes are
 * acknowledged, and is taken back if the connection then breaks.
 */

static struct gateway *gateway_of(const struct stream_reader *reader)
{
    return reader->streams->gateway;
}

static struct view consumer_id(const struct stream_consumer *consumer)
{
    return view_make(consumer->id, consumer->length);
}

struct stream_consumer *stream_consumer_find(struct stream_reader *reader,
                                             const struct stream_poll *poll)
{
    struct view id = view_make(poll->consumer, poll->consumer_length);
    struct stream_consumer *consumer = reader->consumers;

    while (consumer && !view_equal(consumer_id(consumer), id)) {
        consumer = consumer->next;
    }
    if (!consumer) {
        consumer = calloc(1, sizeof *consumer);
        if (!consumer) {
            return NULL;
        }
        consumer->reader = reader;
        memcpy(consumer->id, id.data, id.length);
        consumer->length = id.length;
        consumer->next = reader->consumers;
        reader->consumers = consumer;
    }
    return consumer;
}

bool stream_consumer_has_open_delivery(const struct stream_consumer *consumer)
{
    for (const struct stream_poll *each = consumer->deliveries; each; each = each->desk_next) {
        if (each->looking || each->delivery == STREAM_DELIVERY_OPEN) {
            return true;
        }
    }
    return false;
}

static void drop_gaps(struct stream_consumer *consumer)
{
    while (consumer->gaps) {
        struct stream_gap *gap = consumer->gaps;

        consumer->gaps = gap->next;
        free(gap);
    }
}

/* The gap that ends at the position is no gap: the position goes back to its beginning. */
static void close_last_gap(struct stream_consumer *consumer)
{
    struct stream_gap **link = &consumer->gaps;

    while (*link && (*link)->next) {
        link = &(*link)->next;
    }
    if (*link && (*link)->to >= consumer->position) {
        consumer->position = (*link)->from;
        free(*link);
        *link = NULL;
    }
}

/* Without memory the position itself goes back: chunks behind the gap are then given twice rather
 * than those in it never. */
void stream_consumer_put_back(struct stream_consumer *consumer, uint64_t from, uint64_t to)
{
    struct stream_gap **link = &consumer->gaps;
    struct stream_gap *gap;

    while (*link && (*link)->to < from) {
        link = &(*link)->next;
    }
    if (*link && (*link)->from <= to) {
        /* Touches one that is there: joined with it, and with those that it reaches by that. */
        gap = *link;
        gap->from = gap->from < from ? gap->from : from;
        gap->to = gap->to > to ? gap->to : to;
        while (gap->next && gap->next->from <= gap->to) {
            struct stream_gap *next = gap->next;

            gap->to = gap->to > next->to ? gap->to : next->to;
            gap->next = next->next;
            free(next);
        }
    } else {
        gap = malloc(sizeof *gap);
        if (gap) {
            *gap = (struct stream_gap){*link, from, to};
            *link = gap;
        } else if (from < consumer->position) {
            consumer->position = from;
        }
    }
    close_last_gap(consumer);
}

/* ---- cursors in the store -------------------------------------------------------------------- */

static void on_loaded(void *argument, const struct store_reply *reply)
{
    struct stream_consumer *consumer = argument;
    struct stream_reader *reader = consumer->reader;
    struct stream_facts facts;

    consumer->load_call = NULL;
    consumer->load_failed = reply->result != STORE_OK;
    if (reply->result == STORE_OK) {
        stream_take_facts(&facts, &reply->job, reply->now_ms);
        stream_update(reader, &facts);
        consumer->loaded = true;
        consumer->position =
            reply->cursor_position < reader->count ? reply->cursor_position : reader->count;
        consumer->saved = reply->cursor_position;
        consumer->ended = reply->cursor_ended;
        consumer->saved_ended = reply->cursor_ended;
    } else {
        consumer->retry_at_ms = clock_mono_ms() + STREAM_RETRY_MS;
    }
    stream_proceed(reader);
}

void stream_consumer_load(struct stream_consumer *consumer, uint64_t now_ms)
{
    struct stream_reader *reader = consumer->reader;
    struct store_question question = {
        .operation = STORE_GET_CURSOR,
        .endpoint = stream_endpoint(reader),
        .job = stream_job_id(reader),
        .consumer = consumer_id(consumer),
    };

    if (consumer->load_call || now_ms < consumer->retry_at_ms) {
        return;
    }
    consumer->load_call = store_ask(gateway_of(reader)->store, &question, on_loaded, consumer);
    if (!consumer->load_call) {
        consumer->retry_at_ms = now_ms + STREAM_RETRY_MS;
    }
}

/* What the store should have: see the top of the file. */
static uint64_t wanted_position(const struct stream_consumer *consumer)
{
    uint64_t position = consumer->position;

    if (consumer->gaps && consumer->gaps->from < position) {
        position = consumer->gaps->from;
    }
    for (const struct stream_poll *each = consumer->deliveries; each; each = each->desk_next) {
        if (each->delivery == STREAM_DELIVERY_OPEN && each->chunks.count > 0 &&
            each->chunks.from < position) {
            position = each->chunks.from;
        }
    }
    return position < consumer->reader->stored ? position : consumer->reader->stored;
}

static bool wanted_ended(const struct stream_consumer *consumer)
{
    for (const struct stream_poll *each = consumer->deliveries; each; each = each->desk_next) {
        if (each->delivery == STREAM_DELIVERY_OPEN && each->ends) {
            return each->was_ended;
        }
    }
    return consumer->ended;
}

bool stream_consumer_is_unsaved(const struct stream_consumer *consumer)
{
    return consumer->loaded && (wanted_position(consumer) != consumer->saved ||
                                wanted_ended(consumer) != consumer->saved_ended);
}

static void on_saved(void *argument, const struct store_reply *reply)
{
    struct stream_consumer *consumer = argument;

    consumer->save_call = NULL;
    if (reply->result == STORE_OK) {
        consumer->saved = consumer->saving;
        consumer->saved_ended = consumer->saving_ended;
    } else if (store_failed(reply->result)) {
        consumer->retry_at_ms = clock_mono_ms() + STREAM_RETRY_MS;
    } else { /* the job is gone, and its cursors with it */
        consumer->saved = wanted_position(consumer);
        consumer->saved_ended = wanted_ended(consumer);
    }
    stream_proceed(consumer->reader);
}

static void save(struct stream_consumer *consumer, uint64_t now_ms)
{
    struct stream_reader *reader = consumer->reader;
    struct store_question question = {
        .operation = STORE_SET_CURSOR,
        .endpoint = stream_endpoint(reader),
        .job = stream_job_id(reader),
        .consumer = consumer_id(consumer),
        .from = wanted_position(consumer),
        .ended = wanted_ended(consumer),
        .generation = reader->facts.generation,
    };

    if (consumer->save_call || !stream_consumer_is_unsaved(consumer) ||
        now_ms < consumer->retry_at_ms) {
        return;
    }
    consumer->saving = question.from;
    consumer->saving_ended = question.ended;
    consumer->save_call = store_ask(gateway_of(reader)->store, &question, on_saved, consumer);
    if (!consumer->save_call) {
        consumer->retry_at_ms = now_ms + STREAM_RETRY_MS;
    }
}

void stream_desk_save(struct stream_reader *reader)
{
    uint64_t now_ms = clock_mono_ms();

    for (struct stream_consumer *each = reader->consumers; each; each = each->next) {
        save(each, now_ms);
    }
}

/* Takes [from, next) as given: out of the gaps, or before the position. */
void stream_consumer_advance(struct stream_consumer *consumer, uint64_t next)
{
    struct stream_gap *gap = consumer->gaps;

    if (gap) {
        gap->from = next;
        if (gap->from >= gap->to) {
            consumer->gaps = gap->next;
            free(gap);
        }
    } else if (next > consumer->position) {
        consumer->position = next;
    }
}

void stream_consumer_restart(struct stream_consumer *consumer)
{
    drop_gaps(consumer);
    consumer->position = 0;
    consumer->ended = false;
    consumer->loaded = false;
    consumer->retry_at_ms = 0;
    if (consumer->load_call) {
        store_cancel(consumer->load_call);
        consumer->load_call = NULL;
    }
    if (consumer->save_call) {
        store_cancel(consumer->save_call);
        consumer->save_call = NULL;
    }
}
