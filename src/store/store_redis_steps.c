#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "store/store_redis_private.h"

/* Which scripts a question takes, and what comes after their answers. */

static enum redis_shape shape_of(const struct store_question *question)
{
    bool has_endpoint = question->endpoint.length > 0;

    switch (question->operation) {
    case STORE_LIST_UNKNOWN:
    case STORE_LIST_JOBS: return has_endpoint ? SHAPE_ONE : SHAPE_ALL;
    case STORE_RESOLVE_SUBMIT: return question->submit.endpoint.length > 0 ? SHAPE_ONE : SHAPE_ALL;
    case STORE_LIST_ENDPOINTS:
    case STORE_EXPIRE:
    case STORE_COUNT: return SHAPE_ALL;
    case STORE_CLAIM_CANCELS: return SHAPE_CHAIN;
    case STORE_MARK_PURGED: return SHAPE_REPEAT;
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
    case STORE_CLEAR_CANCEL:
    case STORE_APPEND_CHUNKS:
    case STORE_READ_CHUNKS:
    case STORE_GET_CURSOR:
    case STORE_SET_CURSOR:
    case STORE_OPERATIONS: break;
    }
    return SHAPE_ONE;
}

struct redis_work *redis_work_create(struct redis_client *client, struct store_call *call)
{
    enum redis_shape shape = shape_of(&call->question);
    unsigned parts = shape == SHAPE_ONE || shape == SHAPE_REPEAT ? 1u
                     : call->question.operation == STORE_EXPIRE  ? 3u * REDIS_SHARDS
                                                                 : (unsigned)REDIS_SHARDS;
    struct redis_work *work = calloc(1, sizeof *work + parts * sizeof *work->parts);

    if (work) {
        work->parts = (struct redis_part *)(void *)(work + 1);
        work->part_count = parts;
        work->client = client;
        work->call = call;
        work->deadline_ms = call->deadline_ms;
        work->turn = client->turn;
        work->shape = shape;
    }
    return work;
}

void redis_work_free(struct redis_work *work)
{
    for (unsigned i = 0; i < work->part_count; i++) {
        redis_decoded_clear(&work->parts[i].decoded);
    }
    free(work->victims);
    free(work);
}

/* ---- the first step -------------------------------------------------------------------------- */

static unsigned own_shard(const struct store_question *question)
{
    return redis_shard(question->endpoint.length > 0 ? question->endpoint
                                                     : question->submit.endpoint);
}

static void prepare(struct redis_work *work, unsigned index, unsigned script, unsigned shard)
{
    struct redis_part *part = &work->parts[index];

    part->work = work;
    part->script = script;
    part->shard = shard;
    part->extra.position = work->position;
}

void redis_work_begin(struct redis_work *work)
{
    const struct store_question *question = &work->call->question;
    uint32_t limit = question->limit;
    bool is_list =
        question->operation == STORE_LIST_JOBS || question->operation == STORE_LIST_UNKNOWN;

    work->is_held = false;
    if (work->shape == SHAPE_ALL) {
        for (unsigned i = 0; i < REDIS_SHARDS; i++) {
            prepare(work, i, question->operation, i);
        }
    } else {
        prepare(work, 0, question->operation, work->shape == SHAPE_CHAIN ? 0 : own_shard(question));
    }
    if (is_list) {
        /* One more than wanted tells if that was all. */
        limit = limit > 0 && limit <= STORE_LIST_MAXIMUM ? limit + 1 : STORE_LIST_MAXIMUM + 1;
    }
    for (unsigned i = 0; i < (work->shape == SHAPE_ALL ? REDIS_SHARDS : 1u); i++) {
        work->parts[i].extra.limit = limit;
        redis_part_send(&work->parts[i]);
    }
}

/* ---- further steps --------------------------------------------------------------------------- */

static uint32_t wanted(const struct store_question *question)
{
    return question->limit > 0 && question->limit <= STORE_LIST_MAXIMUM ? question->limit
                                                                        : STORE_LIST_MAXIMUM;
}

/* True when another step was begun. */
static bool chain_on(struct redis_work *work)
{
    uint32_t limit = wanted(&work->call->question);

    work->count += work->parts[work->step].decoded.reply.count;
    if (++work->step >= REDIS_SHARDS || work->count >= limit) {
        return false;
    }
    prepare(work, work->step, work->call->question.operation, work->step);
    work->parts[work->step].extra.limit = limit - (uint32_t)work->count;
    redis_part_send(&work->parts[work->step]);
    return true;
}

static bool repeat_on(struct redis_work *work)
{
    struct redis_part *part = &work->parts[0];
    struct redis_decoded *decoded = &part->decoded;

    work->count += (size_t)decoded->marked;
    if (!decoded->last.is_set || decoded->last.member.length > sizeof work->member ||
        decoded->top.length > sizeof work->top) {
        decoded->reply.count = work->count;
        return false;
    }
    memcpy(work->member, decoded->last.member.data, decoded->last.member.length);
    work->position = decoded->last;
    work->position.member.data = work->member;
    if (decoded->top.length > 0) {
        memcpy(work->top, decoded->top.data, decoded->top.length);
    }
    part->extra.top = view_make(work->top, decoded->top.length);
    redis_decoded_clear(decoded);
    prepare(work, 0, work->call->question.operation, part->shard);
    redis_part_send(part);
    return true;
}

static int by_age(const void *left, const void *right)
{
    const struct redis_oldest *a = *(const struct redis_oldest *const *)left;
    const struct redis_oldest *b = *(const struct redis_oldest *const *)right;

    return a->ended_ms < b->ended_ms ? -1 : a->ended_ms > b->ended_ms;
}

static unsigned shard_of_member(struct view member)
{
    return redis_shard(view_first(member, view_find_byte(member, '/')));
}

/* The oldest results of all shards, until enough bytes go. */
static size_t choose_victims(const struct redis_work *work, const struct redis_oldest **all)
{
    const struct redis_part *parts = &work->parts[REDIS_SHARDS];
    uint64_t excess = work->excess_bytes;
    size_t count = 0;
    size_t chosen = 0;

    for (unsigned i = 0; i < REDIS_SHARDS; i++) {
        for (size_t at = 0; at < parts[i].decoded.oldest_count; at++) {
            all[count++] = &parts[i].decoded.oldest[at];
        }
    }
    qsort(all, count, sizeof *all, by_age);
    while (chosen < count && chosen < wanted(&work->call->question) && excess > 0) {
        uint64_t bytes = all[chosen]->bytes;

        excess -= bytes < excess ? bytes : excess;
        chosen++;
    }
    return chosen;
}

/* The second step of STORE_EXPIRE, when all shards together hold too much: which are the oldest? */
static bool ask_oldest(struct redis_work *work)
{
    uint64_t maximum = work->call->question.max_total_bytes;

    for (unsigned i = 0; i < REDIS_SHARDS; i++) {
        work->excess_bytes += work->parts[i].decoded.bytes;
    }
    if (maximum == 0 || work->excess_bytes <= maximum) {
        return false;
    }
    work->excess_bytes -= maximum;
    for (unsigned i = 0; i < REDIS_SHARDS; i++) {
        prepare(work, REDIS_SHARDS + i, REDIS_SCRIPT_EVICT, i);
        redis_part_send(&work->parts[REDIS_SHARDS + i]);
    }
    return true;
}

/* The third step. The budget is one for all shards, and so is the order by age. */
static bool evict(struct redis_work *work)
{
    const struct redis_oldest **all;
    size_t count = 0;
    size_t used = 0;

    for (unsigned i = 0; i < REDIS_SHARDS; i++) {
        count += work->parts[REDIS_SHARDS + i].decoded.oldest_count;
    }
    all = calloc(count + 1, sizeof *all);
    work->victims = calloc(count + 1, sizeof *work->victims);
    if (!all || !work->victims) {
        free((void *)(uintptr_t)all);
        return false; /* what has expired is gone; the rest waits for the next time */
    }
    count = choose_victims(work, all);
    for (unsigned shard = 0; shard < REDIS_SHARDS; shard++) {
        struct redis_part *part = &work->parts[2 * REDIS_SHARDS + shard];

        prepare(work, 2 * REDIS_SHARDS + shard, REDIS_SCRIPT_EVICT, shard);
        part->extra.members = &work->victims[used];
        for (size_t i = 0; i < count; i++) {
            if (shard_of_member(all[i]->member) == shard) {
                work->victims[used++] = all[i]->member;
                part->extra.member_count++;
            }
        }
        if (part->extra.member_count > 0) {
            redis_part_send(part);
        }
    }
    free((void *)(uintptr_t)all);
    return used > 0;
}

static void make_reply(struct redis_work *work)
{
    struct redis_decoded *answers[3 * REDIS_SHARDS];
    enum store_operation operation = work->call->question.operation;
    size_t count = 0;
    size_t evicted = 0;

    for (unsigned i = 0; i < work->part_count; i++) {
        if (work->parts[i].was_asked) {
            answers[count++] = &work->parts[i].decoded;
            evicted += i >= 2 * REDIS_SHARDS ? work->parts[i].decoded.reply.count : 0;
        }
    }
    if (count == 1 && operation != STORE_LIST_JOBS && operation != STORE_LIST_UNKNOWN) {
        redis_merge_one(work->call, answers[0]);
    } else {
        redis_merge(work->call, answers, count);
    }
    if (operation == STORE_EXPIRE) {
        work->call->reply.evicted = evicted;
    }
}

/* True when another step of the shards' common work was begun. */
static bool expire_on(struct redis_work *work)
{
    if (work->call->question.operation != STORE_EXPIRE) {
        return false;
    }
    work->step++;
    return (work->step == 1 && ask_oldest(work)) || (work->step == 2 && evict(work));
}

bool redis_work_go_on(struct redis_work *work)
{
    bool goes_on = false;

    switch (work->shape) {
    case SHAPE_ONE: break;
    case SHAPE_ALL: goes_on = expire_on(work); break;
    case SHAPE_CHAIN: goes_on = chain_on(work); break;
    case SHAPE_REPEAT: goes_on = repeat_on(work); break;
    }
    if (!goes_on) {
        make_reply(work);
    }
    return goes_on;
}
