#include "build_config.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "store/store_embedded.h"

/* Replies of the embedded store. What is collected moves while it grows: views hold offsets (plus
 * one, so that an empty view stays NULL) until the reply is sealed in one block. */

void embedded_begin_work(struct embedded_work *work, struct embedded *embedded,
                         enum embedded_hand hand, struct store_call *call)
{
    memset(work, 0, sizeof *work);
    embedded_watch_clock(embedded, hand);
    work->embedded = embedded;
    work->connection = hand == EMBEDDED_READER ? &embedded->reader : &embedded->writer;
    work->hand = hand;
    work->call = call;
    work->question = &call->question;
    work->reply = &call->reply;
    work->now_ms = clock_wall_ms();
    builder_init(&work->text, NULL, 0);
    builder_init(&work->items, NULL, 0);
    /* A question may be run again, after others of its transaction failed. */
    body_unref(call->reply.body);
    free(call->reply_memory);
    call->reply_memory = NULL;
    memset(&call->reply, 0, sizeof call->reply);
    call->reply.now_ms = work->now_ms;
}

void embedded_clear_work(struct embedded_work *work)
{
    builder_clear(&work->text);
    builder_clear(&work->items);
}

static struct view keep(struct embedded_work *work, struct view text)
{
    size_t at = work->text.length;

    if (text.length == 0) {
        return view_make(NULL, 0);
    }
    builder_append(&work->text, text);
    return view_make((const char *)(uintptr_t)(at + 1), text.length);
}

static void settle(struct view *view, const char *text)
{
    if (view->length > 0) {
        view->data = text + ((uintptr_t)view->data - 1);
    }
}

static struct store_job keep_job(struct embedded_work *work, const struct embedded_row *row)
{
    struct store_job job = row->job;

    job.endpoint = keep(work, job.endpoint);
    job.id = keep(work, job.id);
    job.upstream_id = keep(work, job.upstream_id);
    job.team = keep(work, job.team);
    job.key = keep(work, job.key);
    if (embedded_has_expired(work, &row->job)) {
        job.fate = STORE_FATE_EXPIRED;
        job.expires_ms = 0;
        job.result_bytes = 0;
        job.stored_bytes = 0;
    }
    return job;
}

static void settle_job(struct store_job *job, const char *text)
{
    settle(&job->endpoint, text);
    settle(&job->id, text);
    settle(&job->upstream_id, text);
    settle(&job->team, text);
    settle(&job->key, text);
}

static struct store_submit keep_submit(struct embedded_work *work,
                                       const struct store_submit *submit)
{
    struct store_submit kept = *submit;

    kept.id = keep(work, submit->id);
    kept.team = keep(work, submit->team);
    kept.key = keep(work, submit->key);
    kept.endpoint = keep(work, submit->endpoint);
    kept.job = keep(work, submit->job);
    kept.idempotency_key = keep(work, submit->idempotency_key);
    kept.instance = keep(work, submit->instance);
    kept.note = keep(work, submit->note);
    return kept;
}

static void settle_submit(struct store_submit *submit, const char *text)
{
    settle(&submit->id, text);
    settle(&submit->team, text);
    settle(&submit->key, text);
    settle(&submit->endpoint, text);
    settle(&submit->job, text);
    settle(&submit->idempotency_key, text);
    settle(&submit->instance, text);
    settle(&submit->note, text);
}

void embedded_reply_job(struct embedded_work *work, const struct embedded_row *row)
{
    work->reply->job = keep_job(work, row);
    work->has_job = true;
}

void embedded_reply_submit(struct embedded_work *work, const struct store_submit *submit)
{
    work->reply->submit = keep_submit(work, submit);
    work->has_submit = true;
}

static void add_item(struct embedded_work *work, const void *item, size_t bytes)
{
    builder_append(&work->items, view_make(item, bytes));
}

void embedded_reply_add_job(struct embedded_work *work, const struct embedded_row *row)
{
    struct store_job job = keep_job(work, row);

    add_item(work, &job, sizeof job);
    work->items_are = EMBEDDED_ITEMS_JOBS;
    work->reply->count++;
}

void embedded_reply_add_submit(struct embedded_work *work, const struct store_submit *submit)
{
    struct store_submit kept = keep_submit(work, submit);

    add_item(work, &kept, sizeof kept);
    work->items_are = EMBEDDED_ITEMS_SUBMITS;
    work->reply->count++;
}

void embedded_reply_add_endpoint(struct embedded_work *work,
                                 const struct store_endpoint_count *endpoint)
{
    struct store_endpoint_count item = *endpoint;

    item.endpoint = keep(work, endpoint->endpoint);
    add_item(work, &item, sizeof item);
    work->items_are = EMBEDDED_ITEMS_ENDPOINTS;
    work->reply->count++;
}

void embedded_reply_add_length(struct embedded_work *work, uint32_t length)
{
    add_item(work, &length, sizeof length);
    work->items_are = EMBEDDED_ITEMS_LENGTHS;
    work->reply->chunk_count++;
}

void embedded_reply_add_spooled(struct embedded_work *work, const struct embedded_row *row,
                                const struct store_submit *submit, uint64_t order)
{
    struct embedded_spooled item = {.order = order};

    if (row) {
        item.job = keep_job(work, row);
        item.input_encoding = row->input_encoding;
    }
    if (submit) {
        item.submit = keep_submit(work, submit);
    }
    add_item(work, &item, sizeof item);
    work->items_are = EMBEDDED_ITEMS_SPOOLED;
    work->reply->count++;
}

void embedded_reply_cursor(struct embedded_work *work, int64_t row)
{
    char storage[24];
    struct builder text;

    builder_init(&text, storage, sizeof storage);
    builder_append_u64(&text, (uint64_t)row);
    work->reply->cursor = keep(work, builder_view(&text));
    builder_clear(&text);
}

bool embedded_read_cursor(struct view cursor, int64_t otherwise, int64_t *row)
{
    uint64_t number;

    if (cursor.length == 0) {
        *row = otherwise;
        return true;
    }
    if (!view_parse_u64(cursor, INT64_MAX, &number)) {
        return false;
    }
    *row = (int64_t)number;
    return true;
}

static void settle_items(struct embedded_work *work, char *items, const char *text)
{
    struct store_reply *reply = work->reply;

    switch (work->items_are) {
    case EMBEDDED_ITEMS_NONE: break;
    case EMBEDDED_ITEMS_JOBS: {
        struct store_job *jobs = (struct store_job *)(void *)items;

        for (size_t i = 0; i < reply->count; i++) {
            settle_job(&jobs[i], text);
        }
        reply->jobs = jobs;
        break;
    }
    case EMBEDDED_ITEMS_SUBMITS: {
        struct store_submit *submits = (struct store_submit *)(void *)items;

        for (size_t i = 0; i < reply->count; i++) {
            settle_submit(&submits[i], text);
        }
        reply->submits = submits;
        break;
    }
    case EMBEDDED_ITEMS_ENDPOINTS: {
        struct store_endpoint_count *endpoints = (struct store_endpoint_count *)(void *)items;

        for (size_t i = 0; i < reply->count; i++) {
            settle(&endpoints[i].endpoint, text);
        }
        reply->endpoints = endpoints;
        break;
    }
    case EMBEDDED_ITEMS_SPOOLED: {
        struct embedded_spooled *spooled = (struct embedded_spooled *)(void *)items;

        for (size_t i = 0; i < reply->count; i++) {
            settle_job(&spooled[i].job, text);
            settle_submit(&spooled[i].submit, text);
        }
        reply->own = spooled;
        break;
    }
    case EMBEDDED_ITEMS_LENGTHS: reply->chunk_lengths = (const uint32_t *)(void *)items; break;
    }
}

bool embedded_seal_reply(struct embedded_work *work)
{
    size_t items_bytes = work->items.length;
    size_t text_bytes = work->text.length;
    char *memory;

    if (builder_failed(&work->text) || builder_failed(&work->items)) {
        return false;
    }
    if (items_bytes + text_bytes == 0) {
        return true;
    }
    memory = malloc(items_bytes + text_bytes);
    if (!memory) {
        return false;
    }
    if (items_bytes > 0) {
        memcpy(memory, work->items.data, items_bytes);
    }
    if (text_bytes > 0) {
        memcpy(memory + items_bytes, work->text.data, text_bytes);
    }
    settle_items(work, memory, memory + items_bytes);
    settle(&work->reply->cursor, memory + items_bytes);
    if (work->has_job) {
        settle_job(&work->reply->job, memory + items_bytes);
    }
    if (work->has_submit) {
        settle_submit(&work->reply->submit, memory + items_bytes);
    }
    work->call->reply_memory = memory;
    return true;
}

/* By SQLite's blob handle, straight into the body: a column's value would be one more copy of up to
 * retention.max_result, outside of the budget. */
enum store_result embedded_reply_blob(struct embedded_work *work, const char *table,
                                      const char *column, int64_t row)
{
    struct body_budget *budget = work->embedded->store->budget;
    enum store_result result = STORE_NO_MEMORY;
    sqlite3_blob *blob = NULL;
    struct body *body = NULL;
    size_t room_bytes;
    char *room;
    int bytes;
    int error;

    error = sqlite3_blob_open(work->connection->database, "main", table, column, row, 0, &blob);
    if (error != SQLITE_OK) {
        sqlite3_blob_close(blob);
        if (error == SQLITE_ERROR) { /* no such row, or no blob in it */
            work->broken = true;
            return STORE_BROKEN;
        }
        work->connection->error = error;
        return STORE_ABSENT;
    }
    bytes = sqlite3_blob_bytes(blob);
    body = body_create(budget, (size_t)bytes);
    room = body ? body_room(body, (size_t)bytes, &room_bytes) : NULL;
    if (room) {
        error = sqlite3_blob_read(blob, room, bytes, 0);
        if (error == SQLITE_OK) {
            body_added(body, (size_t)bytes);
            work->reply->body = body;
            result = STORE_OK;
        } else {
            work->connection->error = error;
            result = STORE_ABSENT;
        }
    }
    if (result != STORE_OK) {
        body_unref(body);
    }
    sqlite3_blob_close(blob);
    return result;
}
