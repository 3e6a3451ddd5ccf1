#include "build_config.h"

#include "gateway/retry.h"

#include <string.h>

#include "gateway/flight.h"
#include "gateway/job_facts.h"
#include "gateway/ledger_private.h"
#include "gateway/relay.h"
#include "gateway/stream.h"
#include "gateway/submit.h"
#include "gateway/unfollowed.h"
#include "store/hot_cache.h"
#include "store/input_vault.h"

/* In the order in which it happens: the job is looked up, looked at upstream while the ledger
 * doesn't have its end yet, marked, sent, and, when upstream has forgotten it, submitted again. */

static void refuse(struct request *request, enum problem problem)
{
    ledger_give_up(request, "it was not sent");
    request_refuse(request, problem, problem == PROBLEM_OVERLOADED ? 1 : 0);
}

static void refuse_for_store(struct request *request)
{
    request->notes |= REQUEST_STORE_DEGRADED;
    ledger_give_up(request, "it was not sent");
    request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
}

/* ---- which job ------------------------------------------------------------------------------- */

static void look_up(struct request *request);

static void refuse_look(struct request *request, const struct flight_answer *answer)
{
    ledger_give_up(request, "it was not sent");
    if (answer->refused) {
        request_refuse(request, PROBLEM_UPSTREAM_UNAVAILABLE, answer->retry_after_s);
    } else {
        request_refuse_failure(request, answer->failure);
    }
}

/* The flight has stored the job's end, if it has come. */
static void take_look(struct request *request, struct flight_answer *answer)
{
    if (!answer) {
        refuse(request, PROBLEM_OVERLOADED);
    } else if (answer->failed && !answer->too_large) {
        refuse_look(request, answer);
    } else {
        request->submission->ended_upstream = answer->terminal;
        look_up(request);
    }
    flight_answer_unref(answer);
}

static void on_look(struct gateway *gateway, struct request_handle handle,
                    struct flight_answer *answer, enum flight_delivery delivery)
{
    struct request *request = request_find(gateway, handle);

    (void)delivery;
    if (!request || request->work != WORK_IN_FLIGHT) {
        flight_answer_unref(answer);
        return;
    }
    take_look(request, answer);
}

static void look_at_upstream(struct request *request)
{
    struct route route = request->route;
    struct flight_question question = {
        .handle = request->handle,
        .route = &route,
        .team = request->ticket.key->team->name,
        .key = request->ticket.key->id,
        .may_adopt = (request->ticket.key->operations & CONFIG_OPERATION_ADOPT) != 0,
        .deliver = on_look,
    };
    struct flight_answer *answer;
    bool joined;

    route.operation = ROUTE_STATUS;
    request->submission->looked = true;
    answer = flight_join(request->gateway, &question, &joined);
    if (!answer && joined) {
        request_move_work(request, WORK_IN_FLIGHT);
    } else {
        take_look(request, answer);
    }
}

static void judge_job(struct request *request, const struct store_job *job)
{
    struct submission *submission = request->submission;

    if (job->state == JOB_LOST) {
        refuse(request, PROBLEM_RESULT_LOST);
    } else if (job->state == JOB_TTL_EXPIRED) {
        refuse(request, PROBLEM_JOB_EXPIRED);
    } else if (!job_state_is_terminal(job->state) && submission->ended_upstream) {
        refuse_for_store(request); /* its end is known, and couldn't be written */
    } else if (!job_state_is_terminal(job->state) && !submission->looked) {
        look_at_upstream(request);
    } else if (!job_state_is_retryable(job->state)) {
        refuse(request, PROBLEM_RETRY_STATE);
    } else {
        submission->generation = job->generation;
        submission->input_is_kept = job->input_bytes > 0;
        ledger_text_set(&submission->upstream_id, job->upstream_id);
        ledger_mark_sent(request);
    }
}

static void on_job(struct request *request, const struct store_reply *reply)
{
    bool may_adopt = (request->ticket.key->operations & CONFIG_OPERATION_ADOPT) != 0;

    if (store_failed(reply->result)) {
        refuse_for_store(request);
    } else if (reply->result == STORE_ABSENT && may_adopt && !request->submission->looked) {
        look_at_upstream(request); /* of before podgate: the flight enters it */
    } else if (reply->result != STORE_OK ||
               !view_equal(reply->job.team, request->ticket.key->team->name)) {
        if (ledger_holds_own(request)) {
            refuse_for_store(request);
        } else {
            refuse(request, PROBLEM_JOB_NOT_FOUND);
        }
    } else {
        judge_job(request, &reply->job);
    }
}

static void ask_job(struct request *request, bool with_input, request_on_store *then)
{
    struct store_question question = {
        .operation = STORE_GET_JOB,
        .endpoint = request->route.endpoint,
        .job = request->route.job,
        .with_input = with_input,
    };

    if (!request_ask_store(request, &question, then)) {
        refuse(request, PROBLEM_OVERLOADED);
    }
}

static void look_up(struct request *request)
{
    ask_job(request, false, on_job);
}

void retry_abandon(struct request *request)
{
    flight_leave(request->gateway, request->handle, &request->route);
    ledger_give_up(request, "the caller left");
}

/* ---- sending --------------------------------------------------------------------------------- */

/* What was known of the end that is being undone serves nobody any more. */
static void forget_end(struct request *request)
{
    struct hot_cache *cache = request->gateway->shared->hot_cache;

    if (cache) {
        hot_cache_drop(cache, request->route.endpoint, request->route.job);
    }
    flight_forget(request->gateway, &request->route);
    streams_forget(request->gateway, request->route.endpoint, request->route.job);
}

static void on_input(struct request *request, const struct store_reply *reply);

/* The caller knows the job by the id that it had at first. True when the answer was replaced. */
static bool keep_old_id(struct request *request, struct view id)
{
    char storage[REQUEST_JOB_BYTES + 64];
    struct builder text;
    bool replaced;

    ledger_text_set(&request->submission->upstream_id, id);
    builder_init(&text, storage, sizeof storage);
    builder_append(&text, VIEW("{\"id\":\""));
    builder_append(&text, request->route.job);
    builder_append(&text, VIEW("\",\"status\":\"IN_QUEUE\"}"));
    replaced = relay_replace_answer(request, builder_view(&text));
    builder_clear(&text);
    return replaced;
}

static bool record(struct request *request, enum relay_end end, const struct relay_facts *facts)
{
    struct submission *submission = request->submission;
    bool answered = end == RELAY_ANSWERED || end == RELAY_REFUSED;
    struct relay_facts own;

    if (!submission) {
        return false;
    }
    if (answered && request->upstream_status == 404 && submission->input_is_kept &&
        !submission->resubmitted) {
        ask_job(request, true, on_input);
        return true;
    }
    if ((end == RELAY_ANSWERED || end == RELAY_CUT) && request->upstream_status == 200 &&
        !facts->twice && route_job_valid(facts->id)) {
        forget_end(request);
        if (!view_equal(facts->id, request->route.job) && keep_old_id(request, facts->id)) {
            own = (struct relay_facts){.id = request->route.job, .status = VIEW("IN_QUEUE")};
            facts = &own;
        }
    }
    return ledger_record(request, end, facts);
}

static const struct relay_plan plan = {
    .is_submit = true,
    .resend = UPSTREAM_RESEND_SUBMIT,
    .record = record,
};

static void send_to(struct request *request, const struct relay_plan *how,
                    const struct route *route)
{
    struct upstream_deadlines deadlines = {.after_sent_ms =
                                               request->config->upstream.submit_timeout_ms};

    relay_start(request, how, VIEW("POST"), route, &deadlines);
}

static void send_retry(struct request *request)
{
    struct route route = request->route;

    if (request->submission->upstream_id.length > 0) {
        route.job = ledger_text_view(&request->submission->upstream_id);
    }
    send_to(request, &plan, &route);
}

static void submit_again(struct request *request, struct body *input)
{
    struct route route = request->route;

    route.operation = ROUTE_RUN;
    route.job = view_make(NULL, 0);
    request->submission->resubmitted = true;
    body_unref(request->body);
    request->body = input;
    send_to(request, &plan, &route);
}

static struct body *open_input(struct request *request, const struct store_reply *reply)
{
    struct gateway_shared *shared = request->gateway->shared;
    enum input_vault_result result;
    struct body *input = NULL;
    struct log_line *line;

    if (reply->result != STORE_OK || !reply->body || !shared->input_vault) {
        return NULL;
    }
    result = input_vault_decode(shared->input_vault, request->route.endpoint, request->route.job,
                                body_view(reply->body), reply->input_encoding,
                                reply->job.input_bytes, shared->budget, &input);
    if (result != INPUT_VAULT_OK) {
        line = log_begin(request->gateway->log, LOG_LEVEL_ERROR, "input_unusable");
        log_text(line, "endpoint", request->route.endpoint);
        log_text(line, "job", request->route.job);
        log_string(line, "reason", input_vault_result_text(result));
        log_end(line);
        return NULL;
    }
    return input;
}

/* Upstream has forgotten the job. */
static void on_input(struct request *request, const struct store_reply *reply)
{
    struct body *input = open_input(request, reply);

    if (input) {
        submit_again(request, input);
        return;
    }
    request->submission->input_is_kept = false;
    if (!ledger_record(request, RELAY_REFUSED, NULL)) {
        relay_continue(request);
    }
}

static void recorded(struct request *request)
{
    forget_end(request);
    relay_continue(request);
}

static const struct ledger_operation operation = {
    .operation = STORE_SUBMIT_RETRY,
    .claimed = look_up,
    .send = send_retry,
    .recorded = recorded,
    .join = submit_answer_job,
};

static const struct relay_plan unfollowed_plan = {
    .is_submit = true,
    .resend = UPSTREAM_RESEND_SUBMIT,
    .record = unfollowed_record,
};

void retry_start(struct request *request)
{
    struct ledger_entry entry = {
        .operation = &operation,
        .kind = STORE_KIND_RUN,
        .sent_wait_ms = request->config->upstream.submit_timeout_ms,
        .job = request->route.job,
    };

    if (request->route.is_flash) {
        if (unfollowed_allowed(request)) {
            send_to(request, &unfollowed_plan, &request->route);
        }
    } else if (ledger_open(request, &entry)) {
        ledger_begin(request);
    }
}
