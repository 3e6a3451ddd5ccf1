#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "store/store_redis.h"

/* Lists go over all shards, and a question over all endpoints is put to each: here the answers
 * become one. A cursor is the place in the whole list, "<ms>.<hexadecimal name>", so that every
 * shard can go on from it. */

enum { CURSOR_BYTES = 24 + 2 * 320 };

void redis_merge_one(struct store_call *call, struct redis_decoded *part)
{
    call->reply = part->reply;
    call->reply_memory = part->memory;
    memset(part, 0, sizeof *part);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static struct view copy_view(char **room, struct view view)
{
    char *start = *room;

    if (view.length > 0) {
        memcpy(start, view.data, view.length);
    }
    *room += view.length;
    return view_make(start, view.length);
}

static size_t job_bytes(const struct store_job *job)
{
    return job->endpoint.length + job->id.length + job->upstream_id.length + job->team.length +
           job->key.length;
}

static void copy_job(char **room, const struct store_job *from, struct store_job *job)
{
    *job = *from;
    job->endpoint = copy_view(room, from->endpoint);
    job->id = copy_view(room, from->id);
    job->upstream_id = copy_view(room, from->upstream_id);
    job->team = copy_view(room, from->team);
    job->key = copy_view(room, from->key);
}

static size_t submit_bytes(const struct store_submit *submit)
{
    return submit->id.length + submit->team.length + submit->key.length + submit->endpoint.length +
           submit->job.length + submit->idempotency_key.length + submit->instance.length +
           submit->note.length;
}

static void copy_submit(char **room, const struct store_submit *from, struct store_submit *submit)
{
    *submit = *from;
    submit->id = copy_view(room, from->id);
    submit->team = copy_view(room, from->team);
    submit->key = copy_view(room, from->key);
    submit->endpoint = copy_view(room, from->endpoint);
    submit->job = copy_view(room, from->job);
    submit->idempotency_key = copy_view(room, from->idempotency_key);
    submit->instance = copy_view(room, from->instance);
    submit->note = copy_view(room, from->note);
}

static bool take_memory(struct store_call *call, size_t bytes)
{
    call->reply_memory = malloc(bytes > 0 ? bytes : 1);
    if (!call->reply_memory) {
        call->reply.result = STORE_NO_MEMORY;
        return false;
    }
    return true;
}

/* ---- places in lists ------------------------------------------------------------------------- */

/* A job's name in the lists, in two pieces: endpoint/id. */
struct place {
    uint64_t time_ms;
    struct view first;
    struct view second; /* behind a slash, when `first` isn't the whole name */
    bool is_split;
};

static unsigned char byte_at(const struct place *place, size_t at)
{
    if (at < place->first.length) {
        return (unsigned char)place->first.data[at];
    }
    if (at == place->first.length) {
        return '/';
    }
    return (unsigned char)place->second.data[at - place->first.length - 1];
}

static size_t length_of(const struct place *place)
{
    return place->first.length + (place->is_split ? 1 + place->second.length : 0);
}

/* As Redis orders a sorted set: by time, then by bytes. */
static int compare(const struct place *left, const struct place *right)
{
    size_t left_length = length_of(left);
    size_t right_length = length_of(right);

    if (left->time_ms != right->time_ms) {
        return left->time_ms < right->time_ms ? -1 : 1;
    }
    for (size_t i = 0; i < left_length && i < right_length; i++) {
        unsigned char a = byte_at(left, i);
        unsigned char b = byte_at(right, i);

        if (a != b) {
            return a < b ? -1 : 1;
        }
    }
    return left_length == right_length ? 0 : left_length < right_length ? -1 : 1;
}

static void write_cursor(struct builder *text, const struct place *place)
{
    builder_append_u64(text, place->time_ms);
    builder_append_byte(text, '.');
    for (size_t i = 0; i < length_of(place); i++) {
        uint8_t byte = byte_at(place, i);

        builder_append_hex_bytes(text, &byte, 1);
    }
}

bool redis_cursor_parse(struct view cursor, char *memory, struct redis_position *position)
{
    size_t end = view_find_byte(cursor, '.');
    struct view name = view_skip(cursor, end + 1);

    position->is_set = false;
    if (cursor.length == 0) {
        return true;
    }
    if (end >= cursor.length || name.length == 0 || name.length % 2 != 0 ||
        name.length / 2 > REDIS_CURSOR_MEMORY ||
        !view_parse_u64(view_first(cursor, end), (uint64_t)1 << 52, &position->time_ms) ||
        !view_parse_hex(name, (uint8_t *)memory, name.length / 2)) {
        return false;
    }
    position->member = view_make(memory, name.length / 2);
    position->is_set = true;
    return true;
}

/* ---- lists in order -------------------------------------------------------------------------- */

struct merge {
    struct redis_decoded *const *parts;
    size_t count;
    size_t at[REDIS_SHARDS]; /* how many of each part are taken */
    bool newest_first;
    bool are_jobs;
};

static struct place place_of(const struct merge *merge, size_t part, size_t at)
{
    const struct store_reply *reply = &merge->parts[part]->reply;

    if (merge->are_jobs) {
        const struct store_job *job = &reply->jobs[at];

        return (struct place){job->submitted_ms, job->endpoint, job->id, true};
    }
    return (struct place){reply->submits[at].sent_ms, reply->submits[at].id, VIEW(""), false};
}

static bool comes_before(const struct merge *merge, const struct place *left,
                         const struct place *right)
{
    int order = compare(left, right);

    return merge->newest_first ? order > 0 : order < 0;
}

/* Finds the next entry. False: there is none, or one may be missing before it, since a shard
 * stopped at `*boundary`. */
static bool next_entry(const struct merge *merge, size_t *next, struct place *boundary,
                       bool *has_boundary)
{
    struct place best = {0};
    bool found = false;

    *has_boundary = false;
    for (size_t i = 0; i < merge->count; i++) {
        const struct redis_decoded *part = merge->parts[i];

        if (merge->at[i] < part->reply.count) {
            struct place place = place_of(merge, i, merge->at[i]);

            if (!found || comes_before(merge, &place, &best)) {
                best = place;
                *next = i;
                found = true;
            }
        } else if (part->last.is_set) {
            struct place place = {part->last.time_ms, part->last.member, VIEW(""), false};

            if (!*has_boundary || comes_before(merge, &place, boundary)) {
                *boundary = place;
                *has_boundary = true;
            }
        }
    }
    return found && !(*has_boundary && comes_before(merge, boundary, &best));
}

static void merge_list(struct store_call *call, struct redis_decoded *const *parts, size_t count,
                       bool are_jobs)
{
    struct merge merge = {
        .parts = parts, .count = count, .newest_first = are_jobs, .are_jobs = are_jobs};
    uint32_t limit = call->question.limit;
    size_t size = are_jobs ? sizeof(struct store_job) : sizeof(struct store_submit);
    struct builder cursor;
    struct place last = {0};
    struct place boundary = {0};
    bool has_boundary = false;
    bool has_last = false;
    size_t total = 0;
    size_t bytes = CURSOR_BYTES;
    size_t next = 0;
    char *room;

    if (limit == 0 || limit > STORE_LIST_MAXIMUM) {
        limit = STORE_LIST_MAXIMUM;
    }
    for (size_t i = 0; i < count; i++) {
        const struct store_reply *reply = &parts[i]->reply;

        total += reply->count;
        for (size_t at = 0; at < reply->count; at++) {
            bytes += are_jobs ? job_bytes(&reply->jobs[at]) : submit_bytes(&reply->submits[at]);
        }
    }
    total = total < limit ? total : limit;
    if (!take_memory(call, total * size + bytes)) {
        return;
    }
    room = call->reply_memory + total * size;
    call->reply.jobs = are_jobs ? (struct store_job *)(void *)call->reply_memory : NULL;
    call->reply.submits = are_jobs ? NULL : (struct store_submit *)(void *)call->reply_memory;
    while (call->reply.count < limit && next_entry(&merge, &next, &boundary, &has_boundary)) {
        size_t at = merge.at[next]++;
        void *place = call->reply_memory + call->reply.count++ * size;

        last = place_of(&merge, next, at);
        has_last = true;
        if (are_jobs) {
            copy_job(&room, &parts[next]->reply.jobs[at], place);
        } else {
            copy_submit(&room, &parts[next]->reply.submits[at], place);
        }
    }
    if (call->reply.count < limit && has_boundary) {
        last = boundary;
    } else if (!next_entry(&merge, &next, &boundary, &has_boundary) && !has_boundary) {
        has_last = false; /* that was all */
    }
    if (has_last || (call->reply.count < limit && has_boundary)) {
        builder_init(&cursor, room, CURSOR_BYTES);
        write_cursor(&cursor, &last);
        if (builder_failed(&cursor) || builder_view(&cursor).data != room) {
            call->reply.result = STORE_BROKEN; /* no name of podgate's is so long */
        } else {
            call->reply.cursor = builder_view(&cursor);
        }
        builder_clear(&cursor);
    }
}

/* ---- the others ------------------------------------------------------------------------------ */

static void merge_endpoints(struct store_call *call, struct redis_decoded *const *parts,
                            size_t count)
{
    struct store_endpoint_count *endpoints;
    size_t total = 0;
    size_t bytes = 0;
    char *room;

    for (size_t i = 0; i < count; i++) {
        total += parts[i]->reply.count;
        for (size_t at = 0; at < parts[i]->reply.count; at++) {
            bytes += parts[i]->reply.endpoints[at].endpoint.length;
        }
    }
    if (!take_memory(call, total * sizeof *endpoints + bytes)) {
        return;
    }
    endpoints = (struct store_endpoint_count *)(void *)call->reply_memory;
    room = call->reply_memory + total * sizeof *endpoints;
    for (size_t i = 0; i < count; i++) {
        for (size_t at = 0; at < parts[i]->reply.count; at++) {
            struct store_endpoint_count *place = &endpoints[call->reply.count++];

            *place = parts[i]->reply.endpoints[at];
            place->endpoint = copy_view(&room, place->endpoint);
        }
    }
    call->reply.endpoints = endpoints;
}

/* Jobs in whatever order the shards gave them: cancels and evicted ones. */
static void merge_jobs(struct store_call *call, struct redis_decoded *const *parts, size_t count)
{
    struct store_job *jobs;
    size_t total = 0;
    size_t bytes = 0;
    char *room;

    for (size_t i = 0; i < count; i++) {
        total += parts[i]->reply.count;
        for (size_t at = 0; at < parts[i]->reply.count; at++) {
            bytes += job_bytes(&parts[i]->reply.jobs[at]);
        }
    }
    if (!take_memory(call, total * sizeof *jobs + bytes)) {
        return;
    }
    jobs = (struct store_job *)(void *)call->reply_memory;
    room = call->reply_memory + total * sizeof *jobs;
    for (size_t i = 0; i < count; i++) {
        for (size_t at = 0; at < parts[i]->reply.count; at++) {
            copy_job(&room, &parts[i]->reply.jobs[at], &jobs[call->reply.count++]);
        }
        call->reply.expired += parts[i]->reply.expired;
    }
    call->reply.jobs = jobs;
}

static void merge_counts(struct store_call *call, struct redis_decoded *const *parts, size_t count)
{
    struct store_counts *sum = &call->reply.counts;

    for (size_t i = 0; i < count; i++) {
        const struct store_counts *counts = &parts[i]->reply.counts;

        sum->jobs += counts->jobs;
        sum->outstanding += counts->outstanding;
        sum->results += counts->results;
        sum->result_bytes += counts->result_bytes;
        sum->unknown_submits += counts->unknown_submits;
        sum->lost += counts->lost;
        sum->ttl_expired += counts->ttl_expired;
        for (size_t fate = 0; fate < STORE_FATES; fate++) {
            sum->by_fate[fate] += counts->by_fate[fate];
        }
    }
}

/* The one shard that knows the submit; the others say ABSENT. */
static void merge_found(struct store_call *call, struct redis_decoded *const *parts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (parts[i]->reply.result != STORE_ABSENT) {
            redis_merge_one(call, parts[i]);
            return;
        }
    }
    call->reply.result = STORE_ABSENT;
}

void redis_merge(struct store_call *call, struct redis_decoded *const *parts, size_t count)
{
    uint64_t now_ms = count > 0 ? parts[0]->reply.now_ms : 0;

    memset(&call->reply, 0, sizeof call->reply);
    call->reply.next_ms = UINT64_MAX;
    call->reply.now_ms = now_ms;
    switch (call->question.operation) {
    case STORE_LIST_JOBS: merge_list(call, parts, count, true); break;
    case STORE_LIST_UNKNOWN: merge_list(call, parts, count, false); break;
    case STORE_LIST_ENDPOINTS: merge_endpoints(call, parts, count); break;
    case STORE_COUNT: merge_counts(call, parts, count); break;
    case STORE_RESOLVE_SUBMIT: merge_found(call, parts, count); break;
    case STORE_CLAIM_CANCELS:
    case STORE_EXPIRE: merge_jobs(call, parts, count); break;
    case STORE_CLAIM_SUBMIT:
    case STORE_MARK_SENT:
    case STORE_SETTLE_SUBMIT:
    case STORE_FIND_DUPLICATE:
    case STORE_GET_JOB:
    case STORE_ADOPT_JOB:
    case STORE_PUT_RESULT:
    case STORE_RETRY_JOB:
    case STORE_DELETE_RESULT:
    case STORE_SHORTEN:
    case STORE_CLAIM_DUE:
    case STORE_CLAIM_JOB:
    case STORE_RESCHEDULE:
    case STORE_MARK_PURGED:
    case STORE_CLEAR_CANCEL:
    case STORE_APPEND_CHUNKS:
    case STORE_READ_CHUNKS:
    case STORE_GET_CURSOR:
    case STORE_SET_CURSOR:
    case STORE_OPERATIONS: redis_merge_one(call, parts[0]); break;
    }
}
