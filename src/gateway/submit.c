#include "build_config.h"

#include "gateway/submit.h"

#include "format/json_scan.h"
#include "gateway/job_facts.h"
#include "gateway/ledger.h"
#include "gateway/relay.h"
#include "gateway/status.h"
#include "gateway/unfollowed.h"
#include "model/metric_catalogue.h"

enum {
    /* Without ?wait= the upstream holds a /runsync for so long; and what it takes (contract of the
     * API). */
    RUNSYNC_DEFAULT_WAIT_MS = 90000,
    RUNSYNC_MINIMUM_WAIT_MS = 1000,
    RUNSYNC_MAXIMUM_WAIT_MS = 300000,
    /* What /run takes, and so what a durable /runsync takes. */
    RUN_BODY_BYTES = 10 * 1024 * 1024,
};

/* ---- the exchange ---------------------------------------------------------------------------- */

static void observe(struct request *request, const struct relay_facts *facts)
{
    if (request->upstream_status == 200 && facts->id.length == 0) {
        /* The upstream can say 200 and mean an error. No id is invented. */
        metrics_add(request->gateway->metrics, METRIC_WARNINGS, METRIC_WARNING_SUBMIT_WITHOUT_ID, 0,
                    1);
        request->reason = "submit_without_id";
        return;
    }
    job_facts_note(request, facts);
}

static const struct relay_plan plan = {
    .is_submit = true,
    .resend = UPSTREAM_RESEND_SUBMIT,
    .observe = observe,
    .record = ledger_record,
};

static const struct relay_plan unfollowed_plan = {
    .is_submit = true,
    .resend = UPSTREAM_RESEND_SUBMIT,
    .observe = observe,
    .record = unfollowed_record,
};

static uint64_t runsync_wait_ms(const struct request *request)
{
    uint64_t wait_ms = request->route.has_wait ? request->route.wait_ms : RUNSYNC_DEFAULT_WAIT_MS;

    /* A wait out of range goes up as it is, for the upstream's own words on it. */
    return wait_ms > RUNSYNC_MAXIMUM_WAIT_MS ? RUNSYNC_MAXIMUM_WAIT_MS : wait_ms;
}

static uint64_t sent_wait_ms(const struct request *request, bool holds)
{
    const struct config_upstream *upstream = &request->config->upstream;

    return holds ? runsync_wait_ms(request) + upstream->runsync_margin_ms
                 : upstream->submit_timeout_ms;
}

static void send_to(struct request *request, const struct relay_plan *how,
                    const struct route *route)
{
    struct upstream_deadlines deadlines = {
        .after_sent_ms = sent_wait_ms(request, route->operation == ROUTE_RUNSYNC)};

    relay_start(request, how, VIEW("POST"), route, &deadlines);
}

static void send_as_it_came(struct request *request)
{
    send_to(request, &plan, &request->route);
}

/* A durable /runsync goes up as /run, so that its id is known before the job has run. */
static void send_as_run(struct request *request)
{
    struct route route = request->route;

    route.operation = ROUTE_RUN;
    route.has_wait = false;
    send_to(request, &plan, &route);
}

/* ---- answers --------------------------------------------------------------------------------- */

void submit_answer_job(struct request *request, struct view job, struct view state)
{
    char storage[REQUEST_JOB_BYTES + 64];
    struct builder text;

    if (!request_has_caller(request)) {
        request_move_work(request, WORK_DONE);
        return;
    }
    builder_init(&text, storage, sizeof storage);
    builder_append(&text, VIEW("{\"id\":\""));
    builder_append(&text, job);
    builder_append(&text, VIEW("\",\"status\":\""));
    builder_append(&text, state.length > 0 ? state : VIEW("IN_QUEUE"));
    builder_append(&text, VIEW("\"}"));
    request->origin = "gateway";
    request_begin_reply(request, 200);
    builder_append(&request->reply, VIEW("Content-Type: application/json\r\n"
                                         "Podgate-Origin: gateway\r\n"));
    if (!(request->notes & REQUEST_REPLAYED)) {
        builder_append(&request->reply, VIEW("Cache-Status: podgate; hit\r\n"));
    }
    request_send_reply(request, builder_view(&text), NULL);
    builder_clear(&text);
    request_move_work(request, WORK_DONE);
}

/* Waits for the job as long as the caller wants, and answers with its state. */
static void wait_for(struct request *request, struct view job)
{
    if (request_has_caller(request)) {
        status_wait_for(request, job, runsync_wait_ms(request));
    } else {
        request_move_work(request, WORK_DONE); /* the collector follows the job */
    }
}

static void join_waiting(struct request *request, struct view job, struct view state)
{
    (void)state;
    wait_for(request, job);
}

static void wait_for_recorded(struct request *request)
{
    wait_for(request, view_make(request->job_text, request->job_length));
}

static const struct ledger_operation run_operation = {
    .operation = STORE_SUBMIT_RUN,
    .send = send_as_it_came,
    .recorded = relay_continue,
    .join = submit_answer_job,
};

static const struct ledger_operation runsync_operation = {
    .operation = STORE_SUBMIT_RUNSYNC,
    .send = send_as_it_came,
    .recorded = relay_continue,
    .join = join_waiting,
};

static const struct ledger_operation durable_operation = {
    .operation = STORE_SUBMIT_RUNSYNC,
    .send = send_as_run,
    .recorded = wait_for_recorded,
    .join = join_waiting,
};

/* ---- what the body says ---------------------------------------------------------------------- */

enum { MEMBER_INPUT, MEMBER_POLICY, MEMBER_WEBHOOK, MEMBER_WEBHOOK_V2, MEMBER_S3, MEMBERS };

/* policy.ttl, or what the query says; 0: neither. */
static uint64_t job_ttl_ms(const struct request *request, const struct json_member *policy)
{
    struct json_member ttl = {.name = VIEW_INIT("ttl")};
    uint64_t ttl_ms = 0;

    if (policy->type == JSON_OBJECT &&
        json_scan(policy->value, JSON_SCAN_NON_FINITE, &ttl, 1, NULL) == JSON_SCAN_OK &&
        ttl.type == JSON_NUMBER && view_parse_u64(ttl.value, UINT64_MAX, &ttl_ms) && ttl_ms > 0) {
        return ttl_ms;
    }
    return request->route.has_ttl ? request->route.ttl_ms : 0;
}

/* The input by which equal submits are one; empty where they aren't: a job that tells somebody
 * besides its caller, or writes to his own bucket, is his alone. */
static struct view shared_input(const struct request *request, const struct json_member *members)
{
    const struct config_endpoint *endpoint =
        config_find_endpoint(request->config, request->route.endpoint);

    if (endpoint->dedupe != CONFIG_DEDUPE_INPUT || members[MEMBER_INPUT].type == JSON_ABSENT ||
        members[MEMBER_WEBHOOK].type != JSON_ABSENT ||
        members[MEMBER_WEBHOOK_V2].type != JSON_ABSENT || members[MEMBER_S3].type != JSON_ABSENT) {
        return view_make(NULL, 0);
    }
    return members[MEMBER_INPUT].value;
}

static void start(struct request *request, const struct ledger_operation *operation,
                  enum store_kind kind)
{
    struct json_member members[MEMBERS] = {
        [MEMBER_INPUT] = {.name = VIEW_INIT("input")},
        [MEMBER_POLICY] = {.name = VIEW_INIT("policy")},
        [MEMBER_WEBHOOK] = {.name = VIEW_INIT("webhook")},
        [MEMBER_WEBHOOK_V2] = {.name = VIEW_INIT("webhookV2")},
        [MEMBER_S3] = {.name = VIEW_INIT("s3Config")},
    };
    struct ledger_entry entry = {.operation = operation, .kind = kind};

    if (!request_scan_body(request, members, MEMBERS)) {
        return;
    }
    if (request->route.is_flash) {
        if (unfollowed_allowed(request)) {
            send_to(request, &unfollowed_plan, &request->route);
        }
        return;
    }
    entry.sent_wait_ms = sent_wait_ms(request, kind == STORE_KIND_RUNSYNC);
    entry.ttl_ms = job_ttl_ms(request, &members[MEMBER_POLICY]);
    entry.input = shared_input(request, members);
    if (ledger_open(request, &entry)) {
        ledger_begin(request);
    }
}

void submit_run(struct request *request)
{
    start(request, &run_operation, STORE_KIND_RUN);
}

static bool is_durable(const struct request *request)
{
    return !request->route.is_flash &&
           config_find_endpoint(request->config, request->route.endpoint)->runsync ==
               CONFIG_RUNSYNC_DURABLE;
}

/* What upstream would refuse, were it asked. */
static bool check_durable(struct request *request)
{
    const struct route *route = &request->route;

    if (route->has_wait &&
        (route->wait_ms < RUNSYNC_MINIMUM_WAIT_MS || route->wait_ms > RUNSYNC_MAXIMUM_WAIT_MS)) {
        request_refuse_because(request, PROBLEM_BAD_WAIT,
                               VIEW("wait must be between 1000 and 300000."), 0);
        return false;
    }
    if (body_view(request->body).length > RUN_BODY_BYTES) {
        metrics_add(request->gateway->metrics, METRIC_REFUSALS, METRIC_REFUSAL_BODY_TOO_LARGE, 0,
                    1);
        request_refuse_because(request, PROBLEM_BODY_TOO_LARGE,
                               VIEW("This endpoint submits /runsync by /run, which takes at most "
                                    "10 MiB."),
                               0);
        return false;
    }
    return true;
}

void submit_runsync(struct request *request)
{
    if (!is_durable(request)) {
        start(request, &runsync_operation, STORE_KIND_RUNSYNC);
    } else if (check_durable(request)) {
        start(request, &durable_operation, STORE_KIND_RUN);
    }
}
