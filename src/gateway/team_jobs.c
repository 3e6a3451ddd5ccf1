#include "build_config.h"

#include "gateway/team_jobs.h"

#include "base/clock.h"
#include "format/json_text.h"
#include "gateway/collector.h"
#include "gateway/flight.h"
#include "gateway/ledger.h"
#include "gateway/stream.h"
#include "model/metric_catalogue.h"
#include "store/hot_cache.h"
#include "store/store.h"

static struct view team_of(const struct request *request)
{
    return request->ticket.key->team->name;
}

static void ask(struct request *request, const struct store_question *question,
                request_on_store *then)
{
    if (!request_ask_store(request, question, then)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

/* True when the store failed, and the caller was told so. */
static bool refuse_failed(struct request *request, const struct store_reply *reply)
{
    if (!store_failed(reply->result)) {
        return false;
    }
    if (reply->result == STORE_NO_MEMORY) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    } else {
        request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
    }
    return true;
}

/* `holder` is the body that `json` lies in, or NULL. */
static void answer(struct request *request, struct view json, struct body *holder)
{
    request_begin_reply(request, 200);
    builder_append(&request->reply, VIEW("Content-Type: application/json\r\n"
                                         "Podgate-Origin: gateway\r\n"
                                         "Cache-Control: no-store\r\n"));
    request_send_reply(request, json, holder);
    request_move_work(request, WORK_DONE);
}

/* ---- the list -------------------------------------------------------------------------------- */

/* The upstream's words only: a job that upstream lost has none. */
static void append_status(struct builder *text, enum job_state state)
{
    if (state == JOB_LOST || state == JOB_TTL_EXPIRED) {
        builder_append(text, VIEW("null"));
        return;
    }
    builder_append_byte(text, '"');
    builder_append(text,
                   view_of_string(job_state_text(state == JOB_RUNNING ? JOB_IN_PROGRESS : state)));
    builder_append_byte(text, '"');
}

static struct view result_word(const struct store_job *job)
{
    if (job->state == JOB_LOST) {
        return VIEW("lost");
    }
    if (job->state == JOB_TTL_EXPIRED) {
        return VIEW("expired");
    }
    if (!job_state_is_terminal(job->state)) {
        return VIEW("pending");
    }
    switch (job->fate) {
    case STORE_FATE_NONE: return VIEW("none");
    case STORE_FATE_KEPT: return VIEW("kept");
    case STORE_FATE_TOO_LARGE: return VIEW("too_large");
    case STORE_FATE_EXPIRED: return VIEW("expired");
    case STORE_FATE_EVICTED: return VIEW("evicted");
    case STORE_FATE_DELETED: return VIEW("deleted");
    }
    return VIEW("none");
}

static void append_time(struct builder *text, struct view name, uint64_t wall_ms)
{
    char time[CLOCK_RFC3339_LENGTH];

    builder_append(text, name);
    if (wall_ms == 0) {
        builder_append(text, VIEW("null"));
        return;
    }
    clock_format_rfc3339(wall_ms, time);
    builder_append_byte(text, '"');
    builder_append(text, view_make(time, sizeof time));
    builder_append_byte(text, '"');
}

static void append_span(struct builder *text, struct view name, uint64_t span_ms)
{
    builder_append(text, name);
    if (span_ms == UINT64_MAX) {
        builder_append(text, VIEW("null"));
    } else {
        builder_append_u64(text, span_ms);
    }
}

static void append_job(struct builder *text, const struct store_job *job)
{
    bool ended = job_state_is_terminal(job->state);
    bool kept = ended && job->fate == STORE_FATE_KEPT;

    builder_append(text, VIEW("{\"id\":"));
    json_text_append_string(text, job->id);
    builder_append(text, VIEW(",\"status\":"));
    append_status(text, job->state);
    append_time(text, VIEW(",\"submittedAt\":"), job->submitted_ms);
    append_time(text, VIEW(",\"endedAt\":"), ended ? job->ended_ms : 0);
    append_span(text, VIEW(",\"executionTime\":"), ended ? job->execution_ms : UINT64_MAX);
    append_span(text, VIEW(",\"delayTime\":"), ended ? job->delay_ms : UINT64_MAX);
    builder_append(text, VIEW(",\"result\":\""));
    builder_append(text, result_word(job));
    append_span(text, VIEW("\",\"resultBytes\":"), kept ? job->result_bytes : UINT64_MAX);
    append_time(text, VIEW(",\"expiresAt\":"), kept ? job->expires_ms : 0);
    builder_append_byte(text, '}');
}

static void append_list(struct builder *text, const struct store_reply *reply)
{
    builder_append(text, VIEW("{\"jobs\":["));
    for (size_t i = 0; i < reply->count; i++) {
        if (i > 0) {
            builder_append_byte(text, ',');
        }
        append_job(text, &reply->jobs[i]);
    }
    builder_append(text, VIEW("],\"cursor\":"));
    if (reply->cursor.length > 0) {
        json_text_append_string(text, reply->cursor);
    } else {
        builder_append(text, VIEW("null"));
    }
    builder_append_byte(text, '}');
}

static void on_list(struct request *request, const struct store_reply *reply)
{
    struct builder text;
    struct body *body;

    if (refuse_failed(request, reply)) {
        return;
    }
    if (reply->result != STORE_OK) {
        request_refuse(request, PROBLEM_BAD_CURSOR, 0);
        return;
    }
    builder_init(&text, NULL, 0);
    append_list(&text, reply);
    /* A long page is charged to the budget for as long as a slow caller takes it. */
    body = builder_failed(&text)
               ? NULL
               : body_create(request->gateway->shared->budget, builder_view(&text).length);
    if (body && body_append(body, builder_view(&text))) {
        answer(request, body_view(body), body);
    } else {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
    body_unref(body);
    builder_clear(&text);
}

void team_jobs_list(struct request *request)
{
    const struct route *route = &request->route;
    struct store_question question = {
        .operation = STORE_LIST_JOBS,
        .team = team_of(request),
        .endpoint = route->endpoint,
        .has_state = route->has_state,
        .state = route->state == JOB_RUNNING ? JOB_IN_PROGRESS : route->state,
        .since_ms = route->since_ms,
        .limit = route->limit > 0 ? route->limit : TEAM_JOBS_PAGE,
        .cursor = route->cursor,
    };

    ask(request, &question, on_list);
}

/* ---- delete ---------------------------------------------------------------------------------- */

/* The caller's own job has no result that could be deleted. */
static void refuse_gone(struct request *request, const struct store_job *job)
{
    if (job->state == JOB_LOST) {
        request_refuse(request, PROBLEM_RESULT_LOST, 0);
        return;
    }
    if (job->state == JOB_TTL_EXPIRED) {
        request_refuse(request, PROBLEM_JOB_EXPIRED, 0);
        return;
    }
    if (!job_state_is_terminal(job->state)) {
        request_refuse(request, PROBLEM_JOB_NOT_ENDED, 0);
        return;
    }
    switch (job->fate) {
    case STORE_FATE_TOO_LARGE: request_refuse(request, PROBLEM_RESULT_TOO_LARGE, 0); return;
    case STORE_FATE_EXPIRED: request_refuse(request, PROBLEM_JOB_EXPIRED, 0); return;
    case STORE_FATE_EVICTED: request_refuse(request, PROBLEM_RESULT_EVICTED, 0); return;
    case STORE_FATE_DELETED: request_refuse(request, PROBLEM_RESULT_DELETED, 0); return;
    case STORE_FATE_NONE:
    case STORE_FATE_KEPT: break; /* kept again since: it was retried meanwhile */
    }
    request_refuse_because(request, PROBLEM_JOB_NOT_FOUND, VIEW("The job ended without a result."),
                           0);
}

static void on_deleted(struct request *request, const struct store_reply *reply)
{
    const struct route *route = &request->route;
    struct gateway *gateway = request->gateway;
    struct builder *text = &request->sent_head; /* unused, since nothing goes up */

    /* Also when it isn't known whether it was deleted: what is there is read anew. */
    hot_cache_drop(gateway->shared->hot_cache, route->endpoint, route->job);
    flight_forget(gateway, route);
    streams_forget(gateway, route->endpoint, route->job);
    if (refuse_failed(request, reply)) {
        return;
    }
    if (reply->result == STORE_CONFLICT) {
        refuse_gone(request, &reply->job);
        return;
    }
    if (reply->result != STORE_OK) {
        request_refuse(request, PROBLEM_JOB_NOT_FOUND, 0);
        return;
    }
    metrics_add(gateway->metrics, METRIC_RESULTS_GONE, METRIC_GONE_DELETED, 0, 1);
    builder_append(text, VIEW("{\"id\":"));
    json_text_append_string(text, route->job);
    builder_append(text, VIEW(",\"result\":\"deleted\"}"));
    answer(request, builder_view(text), NULL);
}

/* The store doesn't know who asks: the owner is looked at first. A job never changes its team. */
static void on_job(struct request *request, const struct store_reply *reply)
{
    struct store_question question = {
        .operation = STORE_DELETE_RESULT,
        .endpoint = request->route.endpoint,
        .job = request->route.job,
    };

    if (refuse_failed(request, reply)) {
        return;
    }
    if (reply->result != STORE_OK || !view_equal(reply->job.team, team_of(request))) {
        if (ledger_holds_own(request)) {
            request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
        } else {
            request_refuse(request, PROBLEM_JOB_NOT_FOUND, 0);
        }
        return;
    }
    ask(request, &question, on_deleted);
}

void team_jobs_delete(struct request *request)
{
    struct store_question question = {
        .operation = STORE_GET_JOB,
        .endpoint = request->route.endpoint,
        .job = request->route.job,
    };

    ask(request, &question, on_job);
}

/* ---- purge ----------------------------------------------------------------------------------- */

static void on_marked(struct request *request, const struct store_reply *reply)
{
    struct collector *collector = request->gateway->shared->collector;
    struct builder *text = &request->sent_head;

    if (refuse_failed(request, reply)) {
        return;
    }
    if (collector && reply->count > 0) {
        collector_note_purge(collector, request->route.endpoint);
    }
    /* The upstream's own answer to a purge (contract 1.8). */
    builder_append(text, VIEW("{\"removed\":"));
    builder_append_u64(text, reply->count);
    builder_append(text, VIEW(",\"status\":\"completed\"}"));
    answer(request, builder_view(text), NULL);
}

void team_jobs_purge(struct request *request)
{
    struct store_question question = {
        .operation = STORE_MARK_PURGED,
        .team = team_of(request),
        .endpoint = request->route.endpoint,
    };

    ask(request, &question, on_marked);
}
