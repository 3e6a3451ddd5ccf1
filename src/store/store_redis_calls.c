#include "build_config.h"

#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <string.h>

#include "base/clock.h"
#include "store/store_redis_private.h"

/* The client's lists: works by deadline, and parts that wait to be written. */

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
        redis_work_free(work);
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
        redis_work_free(work);
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

void redis_part_send(struct redis_part *part)
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
            redis_part_send(part);
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
            redis_work_free(work);
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
        } else if (!redis_work_go_on(work)) {
            end_call(work, STORE_OK);
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

void redis_calls_start(void *client_data, struct store_call *call)
{
    struct redis_client *client = client_data;
    struct redis_work *work = redis_work_create(client, call);
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
        redis_work_begin(work);
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
            redis_work_begin(work);
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
