#include "build_config.h"

#include "gateway/result_reply.h"

#include <stdlib.h>

#include "base/fault.h"
#include "format/http_conditional.h"
#include "format/http_fields.h"
#include "gateway/problem.h"
#include "model/job.h"
#include "model/metric_catalogue.h"
#include "store/hot_cache.h"
#include "store/result_codec.h"

_Static_assert((int)HOT_IDENTITY == (int)HTTP_CODING_IDENTITY &&
                   (int)HOT_ZSTD == (int)HTTP_CODING_ZSTD && (int)HOT_GZIP == (int)HTTP_CODING_GZIP,
               "a coding is a form");

/* What the caller's fields make of a result. */
enum reply_kind { REPLY_WHOLE, REPLY_PART, REPLY_NOT_MODIFIED, REPLY_UNSATISFIABLE };

struct reply_plan {
    enum reply_kind kind;
    enum hot_form form;
    uint64_t first;
    uint64_t count;
};

/* An answer that is being made; and what a form that isn't there yet waits with. */
struct reply {
    struct gateway *gateway;
    struct request_handle handle;
    struct hot_result *result;
    struct view cache_detail;
    bool exact_only; /* the compressor failed */
    bool relieved;   /* other results went for want of memory */
    enum hot_form wanted;
};

static const struct view suffixes[HOT_FORMS] = {
    [HOT_IDENTITY] = VIEW_INIT(""),
    [HOT_ZSTD] = VIEW_INIT("-zstd"),
    [HOT_GZIP] = VIEW_INIT("-gzip"),
};

static void answer(struct request *request, struct reply *reply);

/* ---- what is asked for ----------------------------------------------------------------------- */

static bool is_read(const struct request *request)
{
    return request->inbound.head.method == HTTP_METHOD_GET ||
           request->inbound.head.method == HTTP_METHOD_HEAD;
}

/* Which form has this entity-tag: all have the exact bytes' digest in it, and a suffix. */
static bool find_form(struct view etag, struct view exact_etag, enum hot_form *form)
{
    struct view suffix;

    if (!view_starts_with(etag, view_first(exact_etag, exact_etag.length - 1))) {
        return false;
    }
    suffix = view_skip(etag, exact_etag.length - 1);
    suffix.length--; /* the closing quote */
    for (unsigned i = 0; i < HOT_FORMS; i++) {
        if (view_equal(suffix, suffixes[i])) {
            *form = (enum hot_form)i;
            return true;
        }
    }
    return false;
}

/* True when the caller has the bytes in some form: that one is named in the 304, since a cache
 * keeps the answer whose entity-tag it finds there. */
static bool caller_has_it(const struct request *request, struct view exact_etag,
                          enum hot_form *form)
{
    const struct http_head *head = &request->inbound.head.head;

    for (unsigned i = 0; i < head->field_count; i++) {
        struct view list = http_head_field_value(head, i);
        struct view etag;

        if (head->fields[i].id != HTTP_FIELD_IF_NONE_MATCH) {
            continue;
        }
        while (http_next_etag(&list, &etag)) {
            if (view_equal(etag, VIEW("*")) || find_form(etag, exact_etag, form)) {
                return true;
            }
        }
    }
    return false;
}

static void read_accept(const struct request *request, struct http_accept *accept)
{
    const struct http_head *head = &request->inbound.head.head;

    http_accept_begin(accept);
    for (unsigned i = 0; i < head->field_count; i++) {
        if (head->fields[i].id == HTTP_FIELD_ACCEPT_ENCODING) {
            http_accept_add(accept, http_head_field_value(head, i));
        }
    }
}

static bool has_twice(const struct http_head *head, enum http_field_id id)
{
    unsigned count = 0;

    for (unsigned i = 0; i < head->field_count; i++) {
        count += head->fields[i].id == id;
    }
    return count > 1;
}

/* RFC 9110 section 13.2.2: If-Range last, and only for GET. */
static void plan_range(const struct request *request, const struct reply *reply,
                       struct view exact_etag, struct reply_plan *plan)
{
    const struct http_head *head = &request->inbound.head.head;
    enum http_range range;

    if (request->inbound.head.method != HTTP_METHOD_GET || has_twice(head, HTTP_FIELD_RANGE) ||
        (http_head_has(head, HTTP_FIELD_IF_RANGE) &&
         !http_if_range_allows(http_head_value(head, HTTP_FIELD_IF_RANGE), exact_etag))) {
        return;
    }
    range = http_range_parse(http_head_value(head, HTTP_FIELD_RANGE), reply->result->result_bytes,
                             &plan->first, &plan->count);
    if (range != HTTP_RANGE_WHOLE) {
        plan->kind = range == HTTP_RANGE_PART ? REPLY_PART : REPLY_UNSATISFIABLE;
        plan->form = HOT_IDENTITY;
    }
}

static void make_plan(const struct request *request, const struct reply *reply,
                      struct view exact_etag, struct reply_plan *plan)
{
    const struct http_head *head = &request->inbound.head.head;
    struct http_accept accept;

    *plan = (struct reply_plan){.kind = REPLY_WHOLE, .form = HOT_IDENTITY};
    http_accept_begin(&accept);
    if (http_head_has(head, HTTP_FIELD_ACCEPT_ENCODING) && !reply->exact_only &&
        reply->result->result_bytes > RESULT_COMPRESS_ABOVE_BYTES) {
        read_accept(request, &accept);
        plan->form = (enum hot_form)http_accept_choose(&accept);
    }
    if (http_head_has(head, HTTP_FIELD_IF_NONE_MATCH) && is_read(request) &&
        caller_has_it(request, exact_etag, &plan->form)) {
        plan->kind = REPLY_NOT_MODIFIED;
    } else if (http_head_has(head, HTTP_FIELD_RANGE) &&
               http_accept_allows(&accept, HTTP_CODING_IDENTITY)) {
        plan_range(request, reply, exact_etag, plan);
    }
}

/* ---- heads ----------------------------------------------------------------------------------- */

/* RFC 9211: whose hit, for how long yet; and how old the answer is. */
static void append_age(struct request *request, const struct reply *reply)
{
    const struct hot_result *result = reply->result;
    struct builder *head = &request->reply;
    /* That of the Date line, which was just written. */
    uint64_t now_s = request->gateway->date.wall_s;
    uint64_t ended_s = result->ended_ms / 1000;
    uint64_t expires_s = result->expires_ms / 1000;

    builder_append(head, VIEW("Cache-Status: podgate; hit"));
    if (result->expires_ms != 0) {
        builder_append(head, VIEW("; ttl="));
        builder_append_u64(head, expires_s > now_s ? expires_s - now_s : 0);
    }
    builder_append(head, reply->cache_detail);
    builder_append(head, VIEW("\r\nAge: "));
    builder_append_u64(head, now_s > ended_s ? now_s - ended_s : 0);
    builder_append(head, VIEW("\r\n"));
    if (result->completed_without_output) {
        builder_append(head, VIEW("Podgate-Warning: completed-without-output\r\n"));
    }
}

static void send_not_modified(struct request *request, const struct reply *reply,
                              struct view exact_etag, enum hot_form form)
{
    struct builder *head = &request->reply;

    request_begin_reply(request, 304);
    builder_append(head, VIEW("ETag: "));
    builder_append(head, view_first(exact_etag, exact_etag.length - 1));
    builder_append(head, suffixes[form]);
    builder_append(head, VIEW("\"\r\n"));
    if (reply->result->result_bytes > RESULT_COMPRESS_ABOVE_BYTES) {
        builder_append(head, VIEW("Vary: Accept-Encoding\r\n"));
    }
    append_age(request, reply);
    request_send_ready(request, VIEW(""), NULL);
}

static void append_content_range(struct builder *head, const struct reply_plan *plan,
                                 uint64_t length)
{
    builder_append(head, VIEW("Content-Range: bytes "));
    if (plan->kind == REPLY_PART) {
        builder_append_u64(head, plan->first);
        builder_append_byte(head, '-');
        builder_append_u64(head, plan->first + plan->count - 1);
    } else {
        builder_append_byte(head, '*');
    }
    builder_append_byte(head, '/');
    builder_append_u64(head, length);
    builder_append(head, VIEW("\r\n"));
}

static void send_unsatisfiable(struct request *request, const struct reply *reply,
                               const struct reply_plan *plan)
{
    const struct problem_text *text = problem_text(PROBLEM_RANGE);
    char storage[512];
    struct builder body;

    request->reason = text->code;
    request->origin = "gateway";
    request_begin_reply(request, text->status);
    builder_append(&request->reply,
                   VIEW("Content-Type: application/json\r\nPodgate-Origin: gateway\r\n"));
    append_content_range(&request->reply, plan, reply->result->result_bytes);
    builder_init(&body, storage, sizeof storage);
    problem_append_body(&body, PROBLEM_RANGE, 0, VIEW(""));
    if (builder_failed(&body)) {
        request_break_off(request);
    } else {
        request_send_reply(request, builder_view(&body), NULL);
    }
    builder_clear(&body);
}

static void send_part(struct request *request, const struct reply *reply,
                      const struct reply_plan *plan, const struct hot_fields *fields,
                      struct body *body)
{
    struct view part = view_skip(body_view(body), (size_t)plan->first);

    request_begin_reply(request, 206);
    builder_append(&request->reply, fields->partial);
    append_content_range(&request->reply, plan, reply->result->result_bytes);
    append_age(request, reply);
    request_send_reply(request, view_first(part, (size_t)plan->count), body);
}

static void send_whole(struct request *request, const struct reply *reply,
                       const struct hot_fields *fields, struct body *body)
{
    request_begin_reply(request, 200);
    builder_append(&request->reply, fields->whole);
    append_age(request, reply);
    request_send_ready(request, body_view(body), body);
}

/* ---- forms that aren't there ----------------------------------------------------------------- */

static void refuse_damaged(struct request *request, const struct reply *reply)
{
    struct gateway *gateway = request->gateway;
    struct log_line *line;

    metrics_add(gateway->metrics, METRIC_FAULTS, METRIC_PART_STORE, METRIC_STORE_FAULT_MALFORMED,
                1);
    line = log_begin(gateway->log, LOG_LEVEL_ERROR, "stored_result_damaged");
    log_text(line, "endpoint", reply->result->endpoint);
    log_text(line, "job", reply->result->job);
    log_end(line);
    request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
}

/* The form can't be had now. True: there is another way, to be tried at once. */
static bool find_another_way(struct request *request, struct reply *reply, enum result_made made)
{
    struct hot_cache *cache = request->gateway->shared->hot_cache;

    if (reply->wanted != HOT_IDENTITY) {
        reply->exact_only = true;
        return true;
    }
    if (made == RESULT_DAMAGED) {
        refuse_damaged(request, reply);
        return false;
    }
    if (reply->relieved || !cache) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return false;
    }
    /* Results that are only kept make room for one that is asked for. */
    reply->relieved = true;
    hot_cache_give_way(cache, 2 * reply->result->result_bytes);
    return true;
}

static void on_form(void *argument, enum result_made made)
{
    struct reply *reply = argument;
    struct request *request = request_find(reply->gateway, reply->handle);

    if (request && request->work == WORK_IN_STORE &&
        (made == RESULT_MADE || find_another_way(request, reply, made))) {
        answer(request, reply);
    }
    hot_result_unref(reply->result);
    free(reply);
}

static bool wait_for_form(struct request *request, const struct reply *reply, enum hot_form form)
{
    struct gateway *gateway = request->gateway;
    struct reply *waiting = FAULT_POINT("result.wait") ? NULL : malloc(sizeof *waiting);

    if (!waiting) {
        return false;
    }
    *waiting = *reply;
    waiting->gateway = gateway;
    waiting->handle = request->handle;
    waiting->wanted = form;
    if (!result_codec_start_form(gateway->shared->codec, gateway->loop, reply->result, form,
                                 on_form, waiting)) {
        free(waiting);
        return false;
    }
    hot_result_ref(reply->result);
    request_move_work(request, WORK_IN_STORE);
    return true;
}

enum form_state { FORM_READY, FORM_WAITS, FORM_FAILED };

/* For HEAD the field lines are enough, which say the length. */
static bool is_ready(const struct request *request, struct hot_result *result, enum hot_form form)
{
    struct hot_fields fields;
    struct body *body;

    if (!hot_result_fields(result, form, &fields)) {
        return false;
    }
    if (request->inbound.head.method == HTTP_METHOD_HEAD) {
        return true;
    }
    body = hot_result_form(result, form);
    body_unref(body);
    return body != NULL;
}

static enum form_state prepare(struct request *request, struct reply *reply, enum hot_form form,
                               enum result_made *made)
{
    const struct gateway_shared *shared = request->gateway->shared;

    reply->wanted = form;
    *made = RESULT_NO_MEMORY;
    if (is_ready(request, reply->result, form)) {
        return FORM_READY;
    }
    if (reply->result->result_bytes > RESULT_INLINE_BYTES && shared->codec) {
        return wait_for_form(request, reply, form) ? FORM_WAITS : FORM_FAILED;
    }
    *made = result_codec_make_form(reply->result, form, shared->budget);
    return *made == RESULT_MADE ? FORM_READY : FORM_FAILED;
}

/* ---- the answer ------------------------------------------------------------------------------ */

static void note(struct request *request, const struct reply *reply)
{
    request->origin = "store";
    request->cache = reply->cache_detail.length > 0 ? "store" : "hit";
    request->job_state = view_of_string(job_state_text(reply->result->state));
    metrics_add(request->gateway->metrics, METRIC_SHARED_ANSWERS, request->route.operation, 0, 1);
}

static void send_bytes(struct request *request, const struct reply *reply,
                       const struct reply_plan *plan)
{
    struct body *body = hot_result_form(reply->result, plan->form);
    struct hot_fields fields;

    if (!hot_result_fields(reply->result, plan->form, &fields)) {
        request_break_off(request);
    } else if (plan->kind == REPLY_PART) {
        send_part(request, reply, plan, &fields, body);
    } else {
        send_whole(request, reply, &fields, body);
    }
    body_unref(body);
}

static void send_planned(struct request *request, const struct reply *reply, struct view exact_etag,
                         const struct reply_plan *plan)
{
    note(request, reply);
    switch (plan->kind) {
    case REPLY_WHOLE:
    case REPLY_PART: send_bytes(request, reply, plan); break;
    case REPLY_NOT_MODIFIED: send_not_modified(request, reply, exact_etag, plan->form); break;
    case REPLY_UNSATISFIABLE: send_unsatisfiable(request, reply, plan); break;
    }
    request_move_work(request, WORK_DONE);
}

static void answer(struct request *request, struct reply *reply)
{
    enum form_state state = FORM_FAILED;
    enum result_made made;
    struct hot_fields exact;
    struct reply_plan plan;

    if (!request_has_caller(request) || !hot_result_fields(reply->result, HOT_IDENTITY, &exact)) {
        request_move_work(request, WORK_DONE);
        return;
    }
    while (state == FORM_FAILED) {
        make_plan(request, reply, exact.etag, &plan);
        if (plan.kind == REPLY_NOT_MODIFIED || plan.kind == REPLY_UNSATISFIABLE) {
            break;
        }
        state = prepare(request, reply, plan.form, &made);
        if (state == FORM_FAILED && !find_another_way(request, reply, made)) {
            return;
        }
    }
    if (state != FORM_WAITS) {
        send_planned(request, reply, exact.etag, &plan);
    }
}

void result_reply_send(struct request *request, struct hot_result *result, struct view cache_detail,
                       bool degraded)
{
    struct reply reply = {.result = result, .cache_detail = cache_detail};

    if (degraded) {
        request->notes |= REQUEST_STORE_DEGRADED;
    }
    answer(request, &reply);
}
