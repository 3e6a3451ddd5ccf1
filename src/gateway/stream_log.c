#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "gateway/stream_private.h"
#include "model/metric_catalogue.h"

/* A job's chunks: what upstream gave is put into the store at once, and given to nobody before it
 * is there, since upstream won't give it again. While the store is away chunks wait in memory and
 * are given from there: better handed on than held back, and written as soon as it is back. */

enum { LONGEST_APPEND_PAUSE_MS = 5000 };

static size_t batch_bytes(const struct stream_batch *batch)
{
    return body_view(batch->chunks.bytes).length;
}

static struct gateway *gateway_of(const struct stream_reader *reader)
{
    return reader->streams->gateway;
}

static void count_chunks(const struct stream_reader *reader, enum metric_chunk what, uint64_t count)
{
    metrics_add(gateway_of(reader)->metrics, METRIC_CHUNKS, what, 0, (int64_t)count);
}

bool chunk_log_add(struct stream_reader *reader, struct stream_chunks *chunks)
{
    struct stream_batch *batch = calloc(1, sizeof *batch);

    if (!batch) {
        return false;
    }
    batch->chunks = *chunks;
    batch->chunks.from = reader->count;
    *chunks = (struct stream_chunks){0};
    if (reader->last_batch) {
        reader->last_batch->next = batch;
    } else {
        reader->batches = batch;
        reader->tail_from = reader->count;
    }
    reader->last_batch = batch;
    reader->count += batch->chunks.count;
    reader->tail_bytes += batch_bytes(batch);
    reader->unstored_bytes += batch_bytes(batch);
    return true;
}

uint64_t chunk_log_available(const struct stream_reader *reader)
{
    return reader->store_away ? reader->count : reader->stored;
}

/* ---- taking ---------------------------------------------------------------------------------- */

/* How many chunks from number `from` on make up one answer, and their bytes. */
static size_t measure(const struct stream_batch *batch, uint64_t from, uint64_t to, uint32_t limit,
                      uint64_t limit_bytes, size_t *bytes)
{
    size_t count = 0;

    *bytes = 0;
    for (; batch; batch = batch->next) {
        for (size_t i = 0; i < batch->chunks.count; i++) {
            uint64_t number = batch->chunks.from + i;

            if (number < from) {
                continue;
            }
            if (number >= to || count >= limit ||
                (count > 0 && *bytes + batch->chunks.lengths[i] > limit_bytes)) {
                return count;
            }
            *bytes += batch->chunks.lengths[i];
            count++;
        }
    }
    return count;
}

static void copy(const struct stream_batch *batch, uint64_t from, size_t count,
                 struct stream_chunks *chunks, char *room)
{
    for (; batch && chunks->count < count; batch = batch->next) {
        const char *at = body_view(batch->chunks.bytes).data;

        for (size_t i = 0; i < batch->chunks.count && chunks->count < count; i++) {
            uint32_t length = batch->chunks.lengths[i];

            if (batch->chunks.from + i >= from) {
                memcpy(room, at, length);
                room += length;
                chunks->lengths[chunks->count++] = length;
            }
            at += length;
        }
    }
}

/* Room for `count` chunks of `bytes` together. */
static char *make_room(const struct stream_reader *reader, struct stream_chunks *chunks,
                       uint64_t from, size_t count, size_t bytes)
{
    size_t room_bytes;
    char *room = NULL;

    *chunks = (struct stream_chunks){.from = from};
    chunks->lengths = reallocarray(NULL, count, sizeof *chunks->lengths);
    chunks->bytes = body_create(gateway_of(reader)->shared->budget, bytes > 0 ? bytes : 1);
    if (chunks->bytes && chunks->lengths) {
        room = body_room(chunks->bytes, bytes > 0 ? bytes : 1, &room_bytes);
    }
    if (!room) {
        stream_chunks_clear(chunks);
    }
    return room;
}

bool chunk_log_take(struct stream_reader *reader, uint64_t from, uint64_t to, uint32_t limit,
                    uint64_t limit_bytes, struct stream_chunks *chunks)
{
    size_t bytes;
    size_t count;
    char *room;

    if (from < reader->tail_from) {
        return false;
    }
    count = measure(reader->batches, from, to, limit, limit_bytes, &bytes);
    if (count == 0) {
        return false;
    }
    room = make_room(reader, chunks, from, count, bytes);
    if (!room) {
        return false;
    }
    copy(reader->batches, from, count, chunks, room);
    body_added(chunks->bytes, bytes);
    return true;
}

bool chunk_log_copy_reply(const struct store_reply *reply, uint64_t from, size_t count,
                          struct stream_chunks *chunks)
{
    size_t bytes = 0;

    *chunks = (struct stream_chunks){.from = from};
    for (size_t i = 0; i < count; i++) {
        bytes += reply->chunk_lengths[i];
    }
    if (bytes > body_view(reply->body).length) {
        return false;
    }
    chunks->lengths = reallocarray(NULL, count, sizeof *chunks->lengths);
    if (!chunks->lengths) {
        return false;
    }
    memcpy(chunks->lengths, reply->chunk_lengths, count * sizeof *chunks->lengths);
    chunks->bytes = body_ref(reply->body);
    chunks->count = count;
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void drop_first(struct stream_reader *reader)
{
    struct stream_batch *batch = reader->batches;

    reader->batches = batch->next;
    if (!reader->batches) {
        reader->last_batch = NULL;
    }
    reader->tail_bytes -= batch_bytes(batch);
    if (!batch->stored) {
        reader->unstored_bytes -= batch_bytes(batch);
        count_chunks(reader, METRIC_CHUNK_LOST, batch->chunks.count);
    }
    reader->tail_from = batch->chunks.from + batch->chunks.count;
    stream_chunks_clear(&batch->chunks);
    free(batch);
}

/* What is in the store needs no place here, but for a little that somebody may be waiting for. */
static void shorten_tail(struct stream_reader *reader)
{
    while (reader->batches && reader->batches->stored && reader->tail_bytes > STREAM_TAIL_BYTES) {
        drop_first(reader);
    }
}

static struct stream_batch *first_unstored(const struct stream_reader *reader)
{
    struct stream_batch *batch = reader->batches;

    while (batch && batch->stored) {
        batch = batch->next;
    }
    return batch;
}

static void note_stored(struct stream_reader *reader, struct stream_batch *batch)
{
    batch->stored = true;
    reader->unstored_bytes -= batch_bytes(batch);
    reader->stored = batch->chunks.from + batch->chunks.count;
    reader->append_failures = 0;
    reader->append_unsure = false;
    reader->store_away = false;
    count_chunks(reader, METRIC_CHUNK_STORED, batch->chunks.count);
    shorten_tail(reader);
}

/* Another podgate has written meanwhile, or the store has lost some: what is here goes behind what
 * is there. */
static void renumber(struct stream_reader *reader, struct stream_batch *batch, uint64_t to)
{
    uint64_t from = batch->chunks.from;

    while (reader->batches != batch) {
        drop_first(reader);
    }
    stream_desk_renumber(reader, from, to);
    reader->stored = to;
    reader->count = to;
    reader->tail_from = to;
    for (; batch; batch = batch->next) {
        batch->chunks.from = reader->count;
        reader->count += batch->chunks.count;
    }
}

static void log_lost(struct stream_reader *reader, const char *reason, size_t count)
{
    struct log_line *line =
        log_begin(gateway_of(reader)->log, LOG_LEVEL_ERROR, "stream_chunks_lost");

    log_word(line, "endpoint", stream_endpoint(reader));
    log_text(line, "job", stream_job_id(reader));
    log_string(line, "reason", reason);
    log_number(line, "chunks", count);
    log_end(line);
}

static void retry_later(struct stream_reader *reader)
{
    uint64_t pause_ms = (uint64_t)STREAM_RETRY_MS
                        << (reader->append_failures < 4 ? reader->append_failures : 4);

    reader->append_failures++;
    reader->append_at_ms =
        clock_mono_ms() + (pause_ms < LONGEST_APPEND_PAUSE_MS ? pause_ms : LONGEST_APPEND_PAUSE_MS);
    reader->store_away = true;
}

/* The store takes no chunks of this job. */
static void give_up(struct stream_reader *reader, const char *reason)
{
    log_lost(reader, reason, (size_t)(reader->count - reader->stored));
    while (reader->batches) {
        drop_first(reader);
    }
    reader->count = reader->stored;
    reader->tail_from = reader->stored;
    stream_refresh(reader);
}

static void take_conflict(struct stream_reader *reader, struct stream_batch *batch,
                          const struct store_reply *reply, bool was_unsure)
{
    struct stream_facts facts;

    stream_take_facts(&facts, &reply->job, reply->now_ms);
    if (facts.generation > reader->facts.generation) {
        stream_update(reader, &facts); /* drops them, and says so */
    } else if (was_unsure && facts.chunk_count == batch->chunks.from + batch->chunks.count) {
        note_stored(reader, batch); /* the try that timed out had come through */
    } else if (facts.chunk_count == batch->chunks.from) {
        give_up(reader, "gone"); /* its result has expired, or was deleted */
    } else {
        reader->append_unsure = false;
        renumber(reader, batch, facts.chunk_count);
    }
}

static void on_appended(void *argument, const struct store_reply *reply)
{
    struct stream_reader *reader = argument;
    struct stream_batch *batch = first_unstored(reader);
    bool was_unsure = reader->append_unsure;

    reader->append_call = NULL;
    if (reply->result == STORE_OK && batch) {
        note_stored(reader, batch);
    } else if (reply->result == STORE_CONFLICT && batch) {
        take_conflict(reader, batch, reply, was_unsure);
    } else if (store_failed(reply->result)) {
        reader->append_unsure = was_unsure || reply->result == STORE_TIMED_OUT;
        retry_later(reader);
    } else if (batch) {
        give_up(reader, store_result_text(reply->result)); /* no such job any more */
    }
    stream_proceed(reader);
}

void chunk_log_store(struct stream_reader *reader)
{
    struct stream_batch *batch = first_unstored(reader);
    struct store_question question = {
        .operation = STORE_APPEND_CHUNKS,
        .endpoint = stream_endpoint(reader),
        .job = stream_job_id(reader),
        .generation = reader->facts.generation,
    };

    if (!batch || reader->append_call || clock_mono_ms() < reader->append_at_ms) {
        return;
    }
    question.from = batch->chunks.from;
    question.chunks = batch->chunks.bytes;
    question.chunk_lengths = batch->chunks.lengths;
    question.chunk_count = (uint32_t)batch->chunks.count;
    if (!FAULT_POINT("stream.append")) {
        reader->append_call = store_ask(gateway_of(reader)->store, &question, on_appended, reader);
    }
    if (!reader->append_call) {
        retry_later(reader);
    }
}

void chunk_log_clear(struct stream_reader *reader)
{
    if (reader->append_call) {
        store_cancel(reader->append_call);
        reader->append_call = NULL;
    }
    if (reader->unstored_bytes > 0) {
        log_lost(reader, "not_written", (size_t)(reader->count - reader->stored));
    }
    while (reader->batches) {
        drop_first(reader);
    }
    reader->append_failures = 0;
    reader->append_unsure = false;
    reader->store_away = false;
    reader->append_at_ms = 0;
}
