#include "build_config.h"

#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/store_redis.h"

/* A call becomes work: one script on the shard of its endpoint, the same script on all shards at
 * once, or several steps one after the other. The work outlives the call when its time is over
 * before Redis has answered: then the late answer finds nobody. */

/* One script call under way. */
struct redis_part {
    struct redis_part *next; /* of the client's queue */
    struct redis_command command;
    struct redis_work *work;
    unsigned script;
    unsigned shard;
    struct redis_extra extra;
    struct redis_decoded decoded;
    bool was_asked;
    bool was_written;
    bool as_text; /* sent as EVAL: Redis didn't know the script */
};

enum shape {
    SHAPE_ONE,    /* the shard of the question's endpoint */
    SHAPE_ALL,    /* every shard, at once */
    SHAPE_CHAIN,  /* one shard after the other until there is enough */
    SHAPE_REPEAT, /* one shard again and again until it is through */
};

struct redis_work {
    struct redis_work *next;
    struct redis_work *previous;
    struct redis_client *client;
    struct store_call *call; /* NULL: it has been ended */
    uint64_t deadline_ms;    /* 0: it is to be ended as soon as the timer runs */
    uint64_t turn;
    enum shape shape;
    enum store_result failure; /* of a part; STORE_OK: none */
    bool is_held;              /* until the first connection stands */
    bool is_over;              /* to be ended by the timer */
    bool is_evicting;          /* the second step of STORE_EXPIRE */
    unsigned waiting;          /* parts under way */
    unsigned step;
    size_t count; /* jobs marked or claimed so far */
    struct redis_position position;
    char member[REDIS_CURSOR_MEMORY];
    char top[32];
    struct view *victims; /* of STORE_EXPIRE, by shard */
    struct redis_part *parts;
    unsigned part_count;
};

static void advance(struct redis_work *work);
static void arm(struct redis_client *client);

/* ---- the list of works ----------------------------------------------------------------------- */

/* By deadline. Nearly all calls have the same time-out, so that the place is at the end. */
static void list_insert(struct redis_work *work)
{
    struct redis_client *client = work->client;
    struct redis_work *before = client->last;

    while (before && before->deadline_ms > work->deadline_ms) {
        before = before->previous;
    }
    work->previous = before;
    work->next = before ? before->next : client->first;
    if (before) {
        before->next = work;
    } else {
        client->first = work;
    }
    if (work->next) {
        work->next->previous = work;
    } else {
        client->last = work;
    }
}

static void list_remove(struct redis_work *work)
{
    struct redis_client *client = work->client;

    if (work->previous) {
        work->previous->next = work->next;
    } else {
        client->first = work->next;
    }
    if (work->next) {
        work->next->previous = work->previous;
    } else {
        client->last = work->previous;
    }
}

static void free_work(struct redis_work *work)
{
    for (unsigned i = 0; i < work->part_count; i++) {
        redis_decoded_clear(&work->parts[i].decoded);
    }
    free(work->victims);
    free(work);
}

/* Ends the call; the work goes with it, or with its last late answer. */
static void end_call(struct redis_work *work, enum store_result failure)
{
    struct store_call *call = work->call;

    if (failure != STORE_OK) {
        uint64_t now_ms = call->reply.now_ms;

        memset(&call->reply, 0, sizeof call->reply);
        call->reply.result = failure;
        call->reply.now_ms = now_ms;
        call->reply.next_ms = UINT64_MAX;
    }
    list_remove(work);
    work->call = NULL;
    if (work->waiting == 0) {
        free_work(work);
    }
    store_call_finish(call);
}

/* Not from here: a call must not end before store_ask() has returned. */
static void end_soon(struct redis_work *work, enum store_result failure)
{
    list_remove(work);
    work->failure = failure;
    work->is_held = false;
    work->is_over = true;
    work->deadline_ms = 0;
    work->turn = work->client->turn;
    list_insert(work);
    arm(work->client);
}

/* ---- sending --------------------------------------------------------------------------------- */

static void on_answer(void *argument, const struct redisReply *answer, bool was_sent);

static bool write_part(struct redis_part *part)
{
    struct redis_work *work = part->work;
    struct redis_store *store = work->client->store;
    struct redis_arguments arguments;
    bool good;

    if (!redis_arguments_init(&arguments, &store->scripts, part->script, part->as_text,
                              view_make(store->prefix, store->prefix_length), part->shard,
                              work->call, &part->extra)) {
        work->failure = STORE_NO_MEMORY;
        return false;
    }
    good = redis_link_send(&work->client->link, &part->command, arguments.count, arguments.words,
                           arguments.lengths, on_answer, part);
    redis_arguments_clear(&arguments);
    if (good) {
        part->was_written = true;
    } else if (work->failure == STORE_OK) {
        work->failure = STORE_AWAY;
    }
    return good;
}

/* A part that will not be answered. */
static void give_up(struct redis_part *part)
{
    struct redis_work *work = part->work;

    work->waiting--;
    if (work->waiting > 0) {
        return;
    }
    if (!work->call) {
        free_work(work);
    } else if (!work->is_over) {
        end_soon(work, work->failure == STORE_OK ? STORE_AWAY : work->failure);
    }
}

/* Writes what waits, as far as the window allows. */
static void pump(struct redis_client *client)
{
    while (client->queue_first && redis_link_has_room(&client->link)) {
        struct redis_part *part = client->queue_first;

        client->queue_first = part->next;
        if (!part->work->call || !write_part(part)) {
            give_up(part);
        }
    }
}

/* The connection is gone: nothing of the queue was written. */
static void empty_queue(struct redis_client *client)
{
    while (client->queue_first) {
        struct redis_part *part = client->queue_first;

        client->queue_first = part->next;
        if (part->work->failure == STORE_OK) {
            part->work->failure = STORE_AWAY;
        }
        give_up(part);
    }
}

static void send_part(struct redis_part *part)
{
    struct redis_client *client = part->work->client;

    part->was_asked = true;
    part->next = NULL;
    if (client->queue_first) {
        client->queue_last->next = part;
    } else {
        client->queue_first = part;
    }
    client->queue_last = part;
    part->work->waiting++;
    pump(client);
}

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

static void send_first(struct redis_work *work)
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
        send_part(&work->parts[i]);
    }
}

/* ---- several steps --------------------------------------------------------------------------- */

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
    send_part(&work->parts[work->step]);
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
    send_part(part);
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
static size_t choose_victims(struct redis_work *work, const struct redis_oldest **all,
                             uint64_t excess)
{
    size_t count = 0;
    size_t chosen = 0;

    for (unsigned i = 0; i < REDIS_SHARDS; i++) {
        for (size_t at = 0; at < work->parts[i].decoded.oldest_count; at++) {
            all[count++] = &work->parts[i].decoded.oldest[at];
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

/* The second step of STORE_EXPIRE. The budget is one for all shards, and so is the order by age. */
static bool evict(struct redis_work *work)
{
    uint64_t maximum = work->call->question.max_total_bytes;
    const struct redis_oldest **all;
    uint64_t total = 0;
    size_t count = 0;
    size_t used = 0;
    bool is_begun = false;

    for (unsigned i = 0; i < REDIS_SHARDS; i++) {
        total += work->parts[i].decoded.bytes;
        count += work->parts[i].decoded.oldest_count;
    }
    work->is_evicting = true;
    if (maximum == 0 || total <= maximum || count == 0) {
        return false;
    }
    all = calloc(count, sizeof *all);
    work->victims = calloc(count, sizeof *work->victims);
    if (!all || !work->victims) {
        free((void *)(uintptr_t)all);
        return false; /* what has expired is gone; the rest waits for the next time */
    }
    count = choose_victims(work, all, total - maximum);
    for (unsigned shard = 0; shard < REDIS_SHARDS && work->failure == STORE_OK; shard++) {
        struct redis_part *part = &work->parts[REDIS_SHARDS + shard];

        prepare(work, REDIS_SHARDS + shard, REDIS_SCRIPT_EVICT, shard);
        part->extra.members = &work->victims[used];
        for (size_t i = 0; i < count; i++) {
            if (shard_of_member(all[i]->member) == shard) {
                work->victims[used++] = all[i]->member;
                part->extra.member_count++;
            }
        }
        if (part->extra.member_count > 0) {
            send_part(part);
            is_begun = true;
        }
    }
    free((void *)(uintptr_t)all);
    return is_begun;
}

static void finish(struct redis_work *work)
{
    struct redis_decoded *answers[2 * REDIS_SHARDS];
    enum store_operation operation = work->call->question.operation;
    size_t count = 0;
    size_t evicted = 0;

    for (unsigned i = 0; i < work->part_count; i++) {
        if (work->parts[i].was_asked) {
            answers[count++] = &work->parts[i].decoded;
            evicted += i >= REDIS_SHARDS ? work->parts[i].decoded.reply.count : 0;
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
    end_call(work, STORE_OK);
}

/* All that was asked has been answered. */
static void advance(struct redis_work *work)
{
    bool goes_on = false;

    switch (work->shape) {
    case SHAPE_ONE: break;
    case SHAPE_ALL:
        goes_on =
            work->call->question.operation == STORE_EXPIRE && !work->is_evicting && evict(work);
        break;
    case SHAPE_CHAIN: goes_on = chain_on(work); break;
    case SHAPE_REPEAT: goes_on = repeat_on(work); break;
    }
    if (!goes_on) {
        finish(work);
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

static void note_malformed(struct redis_client *client, const struct redis_decoded *decoded,
                           struct view error)
{
    struct log_line *line;

    metrics_add(client->client->metrics, METRIC_FAULTS, METRIC_PART_STORE,
                METRIC_STORE_FAULT_MALFORMED, 1);
    line = log_begin(client->client->log, LOG_LEVEL_ERROR, "store_malformed");
    log_text(line, "key", decoded && decoded->bad_count > 0 ? decoded->bad[0] : VIEW(""));
    log_number(line, "keys", decoded ? decoded->bad_count + decoded->malformed : 0);
    log_text(line, "problem", error);
    log_end(line);
}

static void take_error(struct redis_part *part, struct view text)
{
    struct redis_work *work = part->work;

    switch (redis_error_of(text)) {
    case REDIS_ERROR_NO_SCRIPT:
        if (!part->as_text && work->call) {
            part->as_text = true;
            send_part(part);
            return;
        }
        work->failure = STORE_BROKEN;
        return;
    case REDIS_ERROR_REFUSED:
    case REDIS_ERROR_READ_ONLY:
        work->failure = STORE_AWAY;
        redis_link_fail(&work->client->link, METRIC_STORE_FAULT_REFUSED, text);
        return;
    case REDIS_ERROR_FOREIGN:
    case REDIS_ERROR_OTHER:
        work->failure = STORE_BROKEN;
        note_malformed(work->client, NULL, text);
        return;
    }
}

/* True when the answer has the list that the script gives, or none. */
static bool has_right_list(unsigned script, const struct store_reply *reply)
{
    if (reply->count == 0) {
        return true;
    }
    if (script == STORE_LIST_UNKNOWN) {
        return reply->submits != NULL;
    }
    if (script == STORE_LIST_ENDPOINTS) {
        return reply->endpoints != NULL;
    }
    return reply->jobs != NULL;
}

static void take_answer(struct redis_part *part, const struct redisReply *answer)
{
    struct redis_work *work = part->work;
    struct redis_decoded *decoded = &part->decoded;

    if (answer->type == REDIS_REPLY_ERROR) {
        take_error(part, view_make(answer->str, answer->len));
        return;
    }
    redis_decode(answer, work->client->client->store->budget, decoded);
    if (!has_right_list(part->script, &decoded->reply)) {
        decoded->reply.result = STORE_BROKEN;
    }
    if (decoded->reply.result == STORE_BROKEN || decoded->bad_count > 0 || decoded->malformed > 0) {
        note_malformed(work->client, decoded, VIEW("not a value of podgate's"));
    }
    if (store_failed(decoded->reply.result)) {
        work->failure = decoded->reply.result;
    }
}

static void on_answer(void *argument, const struct redisReply *answer, bool was_sent)
{
    struct redis_part *part = argument;
    struct redis_work *work = part->work;

    struct redis_client *client = work->client;

    work->waiting--;
    if (!work->call) {
        if (work->waiting == 0) {
            free_work(work);
        }
        pump(client);
        return;
    }
    if (answer) {
        take_answer(part, answer);
    } else if (work->failure != STORE_TIMED_OUT) {
        work->failure = was_sent ? STORE_TIMED_OUT : STORE_AWAY;
    }
    if (work->waiting == 0 && !work->is_over) {
        if (work->failure != STORE_OK) {
            end_call(work, work->failure);
        } else {
            advance(work);
        }
    }
    pump(client);
}

/* ---- time ------------------------------------------------------------------------------------ */

/* The timer runs for the first deadline; at once, when a call is to be ended. */
static void arm(struct redis_client *client)
{
    uint64_t now_ms = clock_mono_ms();
    uint64_t wait_ms;
    struct timeval wait;

    if (!client->first) {
        (void)event_del(client->timer);
        return;
    }
    wait_ms = client->first->deadline_ms > now_ms ? client->first->deadline_ms - now_ms : 0;
    wait.tv_sec = (time_t)(wait_ms / 1000);
    wait.tv_usec = (suseconds_t)(wait_ms % 1000 * 1000);
    (void)event_add(client->timer, &wait);
}

/* What was never written can't have been executed. */
static enum store_result result_of_deadline(const struct redis_work *work)
{
    for (unsigned i = 0; i < work->part_count; i++) {
        if (work->parts[i].was_written) {
            return STORE_TIMED_OUT;
        }
    }
    return STORE_AWAY;
}

static void on_timer(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct redis_client *client = argument;
    uint64_t now_ms = clock_mono_ms();
    uint64_t turn = client->turn++;

    while (client->first && client->first->deadline_ms <= now_ms && client->first->turn <= turn) {
        struct redis_work *work = client->first;

        end_call(work, work->is_over ? work->failure : result_of_deadline(work));
    }
    arm(client);
}

/* ---- the backend's side ---------------------------------------------------------------------- */

static enum shape shape_of(const struct store_question *question)
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

static struct redis_work *make_work(struct redis_client *client, struct store_call *call)
{
    enum shape shape = shape_of(&call->question);
    unsigned parts = shape == SHAPE_ONE || shape == SHAPE_REPEAT ? 1u
                     : call->question.operation == STORE_EXPIRE  ? 2u * REDIS_SHARDS
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

void redis_calls_start(void *client_data, struct store_call *call)
{
    struct redis_client *client = client_data;
    struct redis_work *work = make_work(client, call);
    bool is_list = call->question.operation == STORE_LIST_JOBS ||
                   call->question.operation == STORE_LIST_UNKNOWN;

    if (!work) {
        call->reply.result = STORE_NO_MEMORY;
        store_call_post(call);
        return;
    }
    list_insert(work);
    if (is_list && !redis_cursor_parse(call->question.cursor, work->member, &work->position)) {
        end_soon(work, STORE_BAD_CURSOR);
    } else if (client->link.state == REDIS_LINK_READY) {
        send_first(work);
        arm(client);
    } else if (!client->link.was_tried) {
        work->is_held = true;
        arm(client);
    } else {
        end_soon(work, STORE_AWAY);
    }
}

void redis_calls_link_changed(struct redis_client *client, bool is_ready)
{
    struct redis_work *next;

    if (!is_ready) {
        empty_queue(client);
    }
    for (struct redis_work *work = client->first; work; work = next) {
        next = work->next;
        if (work->is_held && is_ready) {
            send_first(work);
        } else if (work->is_held) {
            end_soon(work, STORE_AWAY);
        }
    }
    arm(client);
}

bool redis_calls_init(struct redis_client *client)
{
    client->timer = event_new(loop_base(client->client->loop), -1, 0, on_timer, client);
    return client->timer != NULL;
}

void redis_calls_clear(struct redis_client *client)
{
    empty_queue(client);
    while (client->first) {
        client->first->call->cancelled = true;
        end_call(client->first, STORE_AWAY);
    }
    if (client->timer) {
        event_free(client->timer);
        client->timer = NULL;
    }
}
