#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "model/route.h"
#include "process/operator_private.h"

/* ---- the list -------------------------------------------------------------------------------- */

static void show_unknown(struct operator_request *request, const struct store_reply *reply)
{
    json_t *submits;

    if (operator_refuse_failure(request, reply)) {
        return;
    }
    if (reply->result == STORE_BAD_CURSOR) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_cursor", "the cursor is none of podgate's");
        return;
    }
    submits = json_array();
    for (size_t i = 0; i < reply->count; i++) {
        if (json_array_append_new(submits, operator_json_submit(&reply->submits[i])) != 0) {
            json_decref(submits);
            submits = NULL;
            break;
        }
    }
    operator_reply(request, json_pack("{s:o, s:o}", "submits", submits, "cursor",
                                      operator_json_text(reply->cursor)));
}

void operator_list_unknown(struct operator_request *request)
{
    struct store_question question = {.operation = STORE_LIST_UNKNOWN};

    if (operator_list_question(request, &question)) {
        operator_ask(request, &question, show_unknown);
    }
}

/* ---- one of them ----------------------------------------------------------------------------- */

/* Copies the record with all that it points to. */
static bool keep_submit(struct operator_request *request, const struct store_submit *submit)
{
    struct store_submit *copy = &request->submit;
    struct view *views[] = {&copy->id,       &copy->team,    &copy->key,
                            &copy->endpoint, &copy->job,     &copy->idempotency_key,
                            &copy->note,     &copy->instance};
    size_t bytes = 1;
    char *room;

    *copy = *submit;
    for (size_t i = 0; i < ARRAY_LENGTH(views); i++) {
        bytes += views[i]->length;
    }
    room = malloc(bytes);
    request->submit_memory = room;
    for (size_t i = 0; room && i < ARRAY_LENGTH(views); i++) {
        if (views[i]->length > 0) {
            memcpy(room, views[i]->data, views[i]->length);
            views[i]->data = room;
            room += views[i]->length;
        }
    }
    return room != NULL;
}

static void look_for_submit(struct operator_request *request, struct view cursor);

static void on_page(struct operator_request *request, const struct store_reply *reply)
{
    if (operator_refuse_failure(request, reply)) {
        return;
    }
    for (size_t i = 0; reply->result == STORE_OK && i < reply->count; i++) {
        if (!view_equal(reply->submits[i].id, request->words[0])) {
            continue;
        }
        if (keep_submit(request, &reply->submits[i])) {
            request->found(request);
        } else {
            operator_refuse(request, HTTP_INTERNAL, "no_memory", "out of memory");
        }
        return;
    }
    if (reply->result == STORE_OK && reply->cursor.length > 0) {
        look_for_submit(request, reply->cursor);
        return;
    }
    operator_refuse(request, HTTP_NOTFOUND, "unknown_submit",
                    "no submit of this name has an unknown outcome");
}

static void look_for_submit(struct operator_request *request, struct view cursor)
{
    const struct store_question question = {
        .operation = STORE_LIST_UNKNOWN, .cursor = cursor, .limit = STORE_LIST_MAXIMUM};

    operator_ask(request, &question, on_page);
}

void operator_find_submit(struct operator_request *request,
                          void (*found)(struct operator_request *request))
{
    request->found = found;
    look_for_submit(request, VIEW(""));
}

/* ---- settling -------------------------------------------------------------------------------- */

/* The job that the operator names, or an empty view for "it never ran". */
static struct view named_job(const struct operator_request *request)
{
    bool wrong = false;

    return operator_body_text(request, "job", &wrong);
}

static uint64_t retention_ms(const struct operator_request *request, enum store_kind kind)
{
    const struct config_upstream *upstream = &request->api->config->upstream;

    return kind == STORE_KIND_RUNSYNC ? upstream->retention_runsync_ms : upstream->retention_run_ms;
}

static enum store_kind kind_of(const struct store_submit *submit)
{
    return submit->operation == STORE_SUBMIT_RUNSYNC ? STORE_KIND_RUNSYNC : STORE_KIND_RUN;
}

static void tell_collector(struct operator_request *request)
{
    if (request->api->parts.collector) {
        collector_note_job(request->api->parts.collector, request->submit.endpoint, 0);
    }
}

static void confirm(struct operator_request *request)
{
    struct view job = named_job(request);
    struct log_line *line = operator_log(request, "submit_settled");

    log_text(line, "submit", request->submit.id);
    log_text(line, "team", request->submit.team);
    log_text(line, "endpoint", request->submit.endpoint);
    log_text(line, "job", job);
    log_end(line);
    if (job.length > 0) {
        tell_collector(request);
    }
    operator_reply(request,
                   json_pack("{s:o, s:o, s:o}", "submit", operator_json_text(request->submit.id),
                             "endpoint", operator_json_text(request->submit.endpoint), "job",
                             job.length > 0 ? operator_json_text(job) : json_null()));
}

static void on_retried(struct operator_request *request, const struct store_reply *reply)
{
    /* Whatever else the reply may be, another retry was faster, and that is the same end. */
    if (!operator_refuse_failure(request, reply)) {
        confirm(request);
    }
}

/* The end that the ledger shows is the one from before the retry, unless it came later. */
static void on_retried_job(struct operator_request *request, const struct store_reply *reply)
{
    const struct store_job *job = &reply->job;
    struct store_question question = {
        .operation = STORE_RETRY_JOB,
        .endpoint = job->endpoint,
        .job = job->id,
        .generation = job->generation,
        .kind = STORE_KIND_RUN,
        .deadline_ms = retention_ms(request, STORE_KIND_RUN),
    };

    if (operator_refuse_failure(request, reply)) {
        return;
    }
    if (reply->result == STORE_OK && job_state_is_terminal(job->state) &&
        job->ended_ms < request->submit.sent_ms) {
        operator_ask(request, &question, on_retried);
    } else {
        confirm(request);
    }
}

static void on_resolved(struct operator_request *request, const struct store_reply *reply)
{
    const struct store_question question = {.operation = STORE_GET_JOB,
                                            .endpoint = request->submit.endpoint,
                                            .job = request->submit.job};

    if (operator_refuse_failure(request, reply)) {
        return;
    }
    if (reply->result == STORE_OWNED) {
        operator_refuse(request, 409, "known_job",
                        "the ledger has that job already, for team \"%.*s\": this submit made "
                        "another one, or none",
                        (int)reply->job.team.length, reply->job.team.data);
    } else if (reply->result != STORE_OK) {
        operator_refuse(request, 409, "settled_already", "its outcome isn't unknown any more (%s)",
                        store_result_text(reply->result));
    } else if (request->submit.operation == STORE_SUBMIT_RETRY && named_job(request).length > 0) {
        operator_ask(request, &question, on_retried_job);
    } else {
        confirm(request);
    }
}

static void settle_found(struct operator_request *request)
{
    const struct store_submit *submit = &request->submit;
    bool is_retry = submit->operation == STORE_SUBMIT_RETRY;
    struct view job = named_job(request);
    struct store_question question = {
        .operation = STORE_RESOLVE_SUBMIT,
        .submit = *submit,
        .kind = kind_of(submit),
        .deadline_ms = retention_ms(request, kind_of(submit)),
        .ttl_ms = OPERATOR_TTL_MS,
    };

    if (is_retry && job.length > 0 && !view_equal(job, submit->job)) {
        operator_refuse(request, HTTP_BADREQUEST, "other_job",
                        "this is a retry of job \"%.*s\", which keeps its id",
                        (int)submit->job.length, submit->job.data);
        return;
    }
    /* A retry makes no job that the ledger lacks: on_resolved() sees to the one that there is. */
    question.submit.job = is_retry ? VIEW("") : job;
    operator_ask(request, &question, on_resolved);
}

void operator_settle(struct operator_request *request)
{
    static const char *const names[] = {"job", "never_ran", NULL};
    const json_t *never_ran = json_object_get(request->body, "never_ran");
    bool wrong = false;
    struct view job = operator_body_text(request, "job", &wrong);

    if (!operator_body_only(request, names)) {
        return;
    }
    if (wrong || (never_ran && !json_is_true(never_ran)) ||
        (never_ran != NULL) == (job.length > 0)) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_body",
                        "expected {\"job\": ID} or {\"never_ran\": true}");
    } else if (job.length > 0 && !route_job_valid(job)) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_job", "that can't be a job's id");
    } else {
        operator_find_submit(request, settle_found);
    }
}
