#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/metric_catalogue.h"
#include "store/store_spool.h"

/* Gives Redis what it hasn't. One client at a time does, with many errands side by side, one for
 * each job or submit. An errand first sees to it that Redis has the job at all (its submit is
 * settled there, or it is adopted), then brings it up to what the spool knows: generation, chunks,
 * cursors, result. Every step may be repeated without harm, so that an errand that broke off, or
 * whose answer was lost, simply runs again. */

enum step {
    STEP_ANSWER,  /* what the caller of a keyed submit was told */
    STEP_INPUT,   /* of a submit */
    STEP_SETTLE,  /* the submit, at Redis */
    STEP_LOOK,    /* what Redis has of the job */
    STEP_ADOPT,   /* it has nothing */
    STEP_RETRY,   /* an older generation */
    STEP_READ,    /* chunks, from the spool */
    STEP_APPEND,  /* at Redis */
    STEP_CURSOR,  /* from the spool */
    STEP_SET,     /* at Redis */
    STEP_RESULT,  /* from the spool */
    STEP_PUT,     /* at Redis */
    STEP_DELETE,  /* at Redis */
    STEP_SHORTEN, /* at Redis */
    STEP_MARK,    /* in the spool: it is done */
};

struct spool_errand {
    struct spool_errand *next;
    struct spool_errand **link;
    struct spool_client *client;
    struct embedded_spooled item; /* its texts lie behind this */
    enum step step;
    struct body *answer;
    struct body *input;
    struct body *body; /* chunks or the result, on their way */
    /* What Redis has. */
    bool is_there;
    uint64_t generation;
    enum job_state state;
    enum store_fate fate;
    uint64_t expires_ms;
    uint64_t chunk_count;
    /* Where reading stands. */
    uint32_t *lengths;
    uint32_t length_count;
    char consumer[256];
    size_t consumer_length;
    uint64_t position;
    bool ended;
};

enum { DRAIN_TIMEOUT_MS = 5000 };

static void advance(struct spool_errand *errand);

/* ---- errands --------------------------------------------------------------------------------- */

static void free_errand(struct spool_errand *errand)
{
    *errand->link = errand->next;
    if (errand->next) {
        errand->next->link = errand->link;
    }
    errand->client->errand_count--;
    body_unref(errand->answer);
    body_unref(errand->input);
    body_unref(errand->body);
    free(errand->lengths);
    free(errand);
}

static void end_errand(struct spool_errand *errand, bool failed)
{
    struct spool_client *client = errand->client;

    client->has_failed = client->has_failed || failed;
    free_errand(errand);
    if (client->errand_count == 0) {
        spool_round_over(client);
    }
}

/* Something that Redis will never take: said once, and not tried for ever. */
static void give_up(struct spool_errand *errand, enum store_result result)
{
    struct spool_client *client = errand->client;
    struct log_line *line = log_begin(client->client->log, LOG_LEVEL_ERROR, "spool_not_drained");

    log_string(line, "reason", store_result_text(result));
    log_text(line, "endpoint", errand->item.job.endpoint);
    log_text(line, "job", errand->item.job.id);
    log_text(line, "submit", errand->item.submit.id);
    log_text(line, "team",
             errand->item.job.id.length > 0 ? errand->item.job.team : errand->item.submit.team);
    log_end(line);
    metrics_add(client->client->metrics, METRIC_FAULTS, METRIC_PART_STORE,
                METRIC_STORE_FAULT_MALFORMED, 1);
    errand->step = STEP_MARK;
}

static bool is_about_job(const struct spool_errand *errand)
{
    return errand->item.job.id.length > 0;
}

/* ---- questions ------------------------------------------------------------------------------- */

static uint64_t span_to(uint64_t when_ms)
{
    uint64_t now_ms = clock_wall_ms();

    return when_ms > now_ms ? when_ms - now_ms : 0;
}

static struct store_question about(const struct spool_errand *errand,
                                   enum store_operation operation)
{
    const struct store_job *job = &errand->item.job;

    return (struct store_question){
        .operation = operation,
        .timeout_ms = DRAIN_TIMEOUT_MS,
        .endpoint = job->endpoint,
        .job = job->id,
        .upstream_id = job->upstream_id,
        .team = job->team,
        .key = job->key,
        .kind = job->kind,
        .generation = errand->generation,
        .ttl_ms = job->ttl_ms,
        .due_ms = 0,
        .deadline_ms = span_to(job->deadline_ms),
    };
}

static bool is_running(enum job_state state)
{
    return !job_state_is_terminal(state);
}

static struct store_question settle_question(const struct spool_errand *errand)
{
    const struct embedded_spooled *item = &errand->item;
    struct store_question question = about(errand, STORE_SETTLE_SUBMIT);

    question.submit = item->submit;
    question.note = item->submit.note;
    if (!is_about_job(errand)) {
        question.submit.state = STORE_SUBMIT_UNKNOWN;
        return question;
    }
    question.submit.state = STORE_SUBMIT_KNOWN;
    question.submit.team = item->job.team;
    question.submit.key = item->job.key;
    question.submit.endpoint = item->job.endpoint;
    question.submit.job = item->job.id;
    question.state = is_running(item->job.state) ? item->job.state : JOB_IN_QUEUE;
    question.generation = item->job.generation - 1; /* of a retry: the one that had ended */
    question.answer_status = errand->answer ? item->submit.answer_status : 0;
    question.answer = errand->answer;
    question.input = errand->input;
    question.input_bytes = item->job.input_bytes;
    question.input_encoding = item->input_encoding;
    return question;
}

static struct store_question put_question(const struct spool_errand *errand)
{
    const struct store_job *job = &errand->item.job;
    struct store_question question = about(errand, STORE_PUT_RESULT);

    question.state = job->state;
    /* One that was deleted or has expired here was never there, and is to be told of all the same.
     */
    question.fate = errand->body                   ? STORE_FATE_KEPT
                    : job->fate != STORE_FATE_KEPT ? job->fate
                                                   : STORE_FATE_NONE;
    question.keep_ms = span_to(job->expires_ms);
    question.execution_ms = job->execution_ms;
    question.delay_ms = job->delay_ms;
    question.result = errand->body;
    question.encoding = job->encoding;
    question.result_bytes = job->result_bytes;
    memcpy(question.digest, job->digest, STORE_DIGEST_BYTES);
    return question;
}

static struct store_question question_of(const struct spool_errand *errand)
{
    struct store_question question = about(errand, STORE_GET_JOB);

    switch (errand->step) {
    case STEP_ANSWER:
        question.operation = (enum store_operation)EMBEDDED_GET_ANSWER;
        question.submit.id = errand->item.submit.id;
        break;
    case STEP_INPUT: question.with_input = true; break;
    case STEP_SETTLE: return settle_question(errand);
    case STEP_LOOK: break;
    case STEP_ADOPT:
        question.operation = STORE_ADOPT_JOB;
        question.state = is_running(errand->item.job.state) ? errand->item.job.state : JOB_IN_QUEUE;
        break;
    case STEP_RETRY: question.operation = STORE_RETRY_JOB; break;
    case STEP_READ:
        question.operation = STORE_READ_CHUNKS;
        question.from = errand->chunk_count;
        break;
    case STEP_APPEND:
        question.operation = STORE_APPEND_CHUNKS;
        question.from = errand->chunk_count;
        question.chunks = errand->body;
        question.chunk_lengths = errand->lengths;
        question.chunk_count = errand->length_count;
        break;
    case STEP_CURSOR:
        question.operation = (enum store_operation)EMBEDDED_NEXT_CURSOR;
        question.consumer = view_make(errand->consumer, errand->consumer_length);
        break;
    case STEP_SET:
        question.operation = STORE_SET_CURSOR;
        question.consumer = view_make(errand->consumer, errand->consumer_length);
        question.from = errand->position;
        question.ended = errand->ended;
        break;
    case STEP_RESULT: question.with_result = true; break;
    case STEP_PUT: return put_question(errand);
    case STEP_DELETE: question.operation = STORE_DELETE_RESULT; break;
    case STEP_SHORTEN:
        question.operation = STORE_SHORTEN;
        question.keep_ms = span_to(errand->item.job.expires_ms);
        break;
    case STEP_MARK:
        question.operation = (enum store_operation)EMBEDDED_MARK_DRAINED;
        question.submit.id = errand->item.submit.id;
        question.fence = errand->item.order;
        break;
    }
    return question;
}

static bool is_redis_step(enum step step)
{
    switch (step) {
    case STEP_SETTLE:
    case STEP_LOOK:
    case STEP_ADOPT:
    case STEP_RETRY:
    case STEP_APPEND:
    case STEP_SET:
    case STEP_PUT:
    case STEP_DELETE:
    case STEP_SHORTEN: return true;
    case STEP_ANSWER:
    case STEP_INPUT:
    case STEP_READ:
    case STEP_CURSOR:
    case STEP_RESULT:
    case STEP_MARK: return false;
    }
    return false;
}

/* ---- what follows what ----------------------------------------------------------------------- */

static bool began_here(const struct spool_errand *errand)
{
    return errand->item.submit.id.length > 0;
}

static enum step first_step(const struct spool_errand *errand)
{
    const struct embedded_spooled *item = &errand->item;

    if (!is_about_job(errand)) {
        return STEP_SETTLE;
    }
    if (!began_here(errand)) {
        return STEP_LOOK;
    }
    if (item->submit.answer_status > 0) {
        return STEP_ANSWER;
    }
    return item->job.input_bytes > 0 ? STEP_INPUT : STEP_SETTLE;
}

/* What is still missing of a job that Redis has. */
static enum step next_difference(const struct spool_errand *errand)
{
    const struct store_job *job = &errand->item.job;
    bool is_open = is_running(errand->state) || errand->state == JOB_LOST;

    if (errand->generation > job->generation) {
        return STEP_MARK; /* another podgate has gone on */
    }
    if (errand->generation < job->generation) {
        return STEP_RETRY;
    }
    if (errand->chunk_count < job->chunk_count && errand->lengths == NULL) {
        return STEP_READ;
    }
    if (errand->step != STEP_CURSOR && errand->step < STEP_RESULT) {
        return STEP_CURSOR;
    }
    if (errand->step < STEP_PUT && !is_running(job->state) && is_open &&
        job->state != errand->state) {
        return job->fate == STORE_FATE_KEPT && errand->step < STEP_RESULT ? STEP_RESULT : STEP_PUT;
    }
    if (errand->step < STEP_DELETE && job->fate == STORE_FATE_DELETED &&
        errand->fate == STORE_FATE_KEPT) {
        return STEP_DELETE;
    }
    if (errand->step < STEP_SHORTEN && job->fate == STORE_FATE_KEPT &&
        errand->fate == STORE_FATE_KEPT && job->expires_ms < errand->expires_ms) {
        return STEP_SHORTEN;
    }
    return STEP_MARK;
}

static void take_there(struct spool_errand *errand, const struct store_job *job)
{
    errand->is_there = true;
    errand->generation = job->generation;
    errand->state = job->state;
    errand->fate = job->fate;
    errand->expires_ms = job->expires_ms;
    errand->chunk_count = job->chunk_count;
}

static void keep_body(struct body **place, struct body *body)
{
    body_unref(*place);
    *place = body ? body_ref(body) : NULL;
}

static bool keep_chunks(struct spool_errand *errand, const struct store_reply *reply)
{
    size_t bytes = reply->chunk_count * sizeof *reply->chunk_lengths;

    free(errand->lengths);
    errand->lengths = malloc(bytes > 0 ? bytes : 1);
    if (!errand->lengths) {
        return false;
    }
    if (bytes > 0) {
        memcpy(errand->lengths, reply->chunk_lengths, bytes);
    }
    errand->length_count = (uint32_t)reply->chunk_count;
    keep_body(&errand->body, reply->body);
    return true;
}

/* Is a job that has just been settled all that there is to say? */
static bool is_plain(const struct spool_errand *errand)
{
    const struct store_job *job = &errand->item.job;

    return job->generation == 1 && is_running(job->state) && job->chunk_count == 0;
}

static void after_settle(struct spool_errand *errand, const struct store_reply *reply)
{
    if (!is_about_job(errand)) {
        errand->step = STEP_MARK;
    } else if (reply->result == STORE_OWNED &&
               !view_equal(reply->job.team, errand->item.job.team)) {
        give_up(errand, reply->result);
    } else if (reply->result == STORE_OK && is_plain(errand)) {
        errand->step = STEP_MARK;
    } else {
        /* Also when its own team adopted it at another podgate meanwhile: what is known here of its
         * end, upstream may have forgotten. */
        errand->step = STEP_LOOK;
    }
}

static void after_append(struct spool_errand *errand, const struct store_reply *reply)
{
    uint64_t before = errand->chunk_count;

    if (reply->result == STORE_OK) {
        errand->chunk_count += errand->length_count;
    } else if (reply->job.id.length > 0) {
        errand->chunk_count = reply->job.chunk_count;
    }
    keep_body(&errand->body, NULL);
    if (errand->chunk_count > before) {
        free(errand->lengths);
        errand->lengths = NULL; /* there may be more */
    }
    errand->step = next_difference(errand);
}

static void after_cursor(struct spool_errand *errand, const struct store_reply *reply)
{
    struct view consumer = reply->submit.key;

    if (reply->result == STORE_OK && consumer.length <= sizeof errand->consumer) {
        memcpy(errand->consumer, consumer.data, consumer.length);
        errand->consumer_length = consumer.length;
        errand->position = reply->cursor_position;
        errand->ended = reply->cursor_ended;
        errand->step = STEP_SET;
    } else {
        errand->step = next_difference(errand);
    }
}

/* The errand's next step, from what the last one brought. False: it can't go on now. */
static bool choose_step(struct spool_errand *errand, const struct store_reply *reply)
{
    switch (errand->step) {
    case STEP_ANSWER:
        keep_body(&errand->answer, reply->body);
        errand->step = errand->item.job.input_bytes > 0 ? STEP_INPUT : STEP_SETTLE;
        return true;
    case STEP_INPUT:
        keep_body(&errand->input, reply->body);
        errand->step = STEP_SETTLE;
        return true;
    case STEP_SETTLE: after_settle(errand, reply); return true;
    case STEP_LOOK:
        if (reply->result == STORE_ABSENT) {
            errand->step = errand->is_there ? STEP_MARK : STEP_ADOPT;
            errand->is_there = true; /* never twice */
            return true;
        }
        take_there(errand, &reply->job);
        errand->step = next_difference(errand);
        return true;
    case STEP_ADOPT: errand->step = STEP_LOOK; return true;
    case STEP_RETRY:
        /* A conflict is another's retry, or ours whose answer was lost. */
        errand->generation = reply->result == STORE_OK   ? errand->generation + 1
                             : reply->job.generation > 0 ? reply->job.generation
                                                         : UINT64_MAX;
        errand->state = JOB_IN_QUEUE;
        errand->fate = STORE_FATE_NONE;
        errand->chunk_count = 0;
        errand->step = next_difference(errand);
        return true;
    case STEP_READ:
        if (!keep_chunks(errand, reply)) {
            return false;
        }
        errand->step = STEP_APPEND;
        if (reply->chunk_count == 0) {
            errand->step = next_difference(errand);
        }
        return true;
    case STEP_APPEND: after_append(errand, reply); return true;
    case STEP_CURSOR: after_cursor(errand, reply); return true;
    case STEP_SET: errand->step = STEP_CURSOR; return true;
    case STEP_RESULT:
        keep_body(&errand->body, reply->body);
        errand->step = STEP_PUT;
        return true;
    case STEP_PUT:
    case STEP_DELETE:
    case STEP_SHORTEN: errand->step = next_difference(errand); return true;
    case STEP_MARK: return false;
    }
    return false;
}

static void on_step(void *argument, const struct store_reply *reply)
{
    struct spool_errand *errand = argument;
    const struct embedded_spooled *item = &errand->item;

    if (store_failed(reply->result) && reply->result != STORE_BROKEN) {
        end_errand(errand, true);
        return;
    }
    if (errand->step == STEP_MARK) {
        if (reply->result == STORE_OK && is_about_job(errand)) {
            (void)spool_note_drained(errand->client->spool, item->job.endpoint, item->job.id,
                                     !is_running(item->job.state));
        }
        end_errand(errand, store_failed(reply->result));
        return;
    }
    if (reply->result == STORE_BROKEN && errand->step == STEP_READ) {
        /* Its beginning was in the Redis that has come back empty. */
        errand->lengths = calloc(1, sizeof *errand->lengths);
        errand->step = errand->lengths ? next_difference(errand) : STEP_MARK;
    } else if (reply->result == STORE_BROKEN) {
        give_up(errand, reply->result);
    } else if (!choose_step(errand, reply)) {
        end_errand(errand, true);
        return;
    }
    advance(errand);
}

static void advance(struct spool_errand *errand)
{
    struct store_question question = question_of(errand);
    bool is_asked;

    if (errand->step == STEP_MARK && is_about_job(errand)) {
        /* Before the file drops its cursors: from then on Redis is to be asked for them. */
        spool_note_told(errand->client->spool, question.endpoint, question.job);
    }
    is_asked = is_redis_step(errand->step)
                   ? spool_ask_redis(errand->client, &question, on_step, errand)
                   : spool_ask_file(errand->client, &question, on_step, errand);
    if (!is_asked) {
        end_errand(errand, true);
    }
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static void copy_view(struct view *view, char **room)
{
    if (view->length > 0) {
        memcpy(*room, view->data, view->length);
    }
    view->data = *room;
    *room += view->length;
}

static struct spool_errand *make_errand(struct spool_client *client,
                                        const struct embedded_spooled *item)
{
    struct embedded_spooled copy = *item;
    struct view *const views[] = {
        &copy.job.endpoint,
        &copy.job.id,
        &copy.job.upstream_id,
        &copy.job.team,
        &copy.job.key,
        &copy.submit.id,
        &copy.submit.team,
        &copy.submit.key,
        &copy.submit.endpoint,
        &copy.submit.job,
        &copy.submit.instance,
        &copy.submit.note,
        &copy.submit.idempotency_key,
    };
    struct spool_errand *errand;
    size_t bytes = 0;
    char *room;

    for (size_t i = 0; i < ARRAY_LENGTH(views); i++) {
        bytes += views[i]->length;
    }
    errand = calloc(1, sizeof *errand + bytes);
    if (!errand) {
        return NULL;
    }
    room = (char *)(errand + 1);
    for (size_t i = 0; i < ARRAY_LENGTH(views); i++) {
        copy_view(views[i], &room);
    }
    errand->client = client;
    errand->item = copy;
    errand->generation = 1;
    errand->step = first_step(errand);
    errand->next = client->errands;
    errand->link = &client->errands;
    if (errand->next) {
        errand->next->link = &errand->next;
    }
    client->errands = errand;
    client->errand_count++;
    return errand;
}

bool spool_begin_errands(struct spool_client *client, const struct embedded_spooled *items,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        (void)make_errand(client, &items[i]);
    }
    if (client->errand_count == 0) {
        return false;
    }
    client->has_failed = false;
    /* An errand that can't begin ends, and so leaves the list. */
    for (struct spool_errand *errand = client->errands, *next; errand; errand = next) {
        next = errand->next;
        advance(errand);
    }
    return true;
}

void spool_free_errands(struct spool_client *client)
{
    while (client->errands) {
        free_errand(client->errands);
    }
}
