#include "build_config.h"

#include "model/route.h"
#include "process/operator_private.h"

/* ---- the list -------------------------------------------------------------------------------- */

static void show_jobs(struct operator_request *request, const struct store_reply *reply)
{
    json_t *jobs;

    if (operator_refuse_failure(request, reply)) {
        return;
    }
    if (reply->result == STORE_BAD_CURSOR) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_cursor", "the cursor is none of podgate's");
        return;
    }
    jobs = json_array();
    for (size_t i = 0; i < reply->count; i++) {
        if (json_array_append_new(jobs, operator_json_job(&reply->jobs[i])) != 0) {
            json_decref(jobs);
            jobs = NULL;
            break;
        }
    }
    operator_reply(request, json_pack("{s:o, s:o, s:o}", "jobs", jobs, "cursor",
                                      operator_json_text(reply->cursor), "now",
                                      operator_json_time(reply->now_ms)));
}

void operator_list_jobs(struct operator_request *request)
{
    struct view state = operator_query(request, "state");
    struct view since = operator_query(request, "since");
    struct store_question question = {.operation = STORE_LIST_JOBS};

    if (!operator_list_question(request, &question)) {
        return;
    }
    question.has_state = job_state_parse_ledger(state, &question.state);
    question.has_fate = !question.has_state && operator_fate_parse(state, &question.fate);
    if (state.length > 0 && !question.has_state && !question.has_fate) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_state",
                        "state is a job's state, such as LOST, or what became of its result: KEPT, "
                        "TOO_LARGE, EXPIRED, EVICTED, DELETED, NONE");
    } else if (since.length > 0 && !view_parse_u64(since, INT64_MAX, &question.since_ms)) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_since",
                        "since is a time in milliseconds since 1970");
    } else {
        operator_ask(request, &question, show_jobs);
    }
}

/* ---- one job --------------------------------------------------------------------------------- */

static void show_job(struct operator_request *request, const struct store_reply *reply)
{
    if (operator_refuse_failure(request, reply)) {
        return;
    }
    if (reply->result == STORE_OK) {
        operator_reply(request, operator_json_job(&reply->job));
    } else {
        operator_refuse(request, HTTP_NOTFOUND, "unknown_job", "the ledger has no such job");
    }
}

void operator_get_job(struct operator_request *request)
{
    const struct store_question question = {
        .operation = STORE_GET_JOB, .endpoint = request->words[0], .job = request->words[1]};

    operator_ask(request, &question, show_job);
}

/* ---- adopting -------------------------------------------------------------------------------- */

static void on_adopted(struct operator_request *request, const struct store_reply *reply)
{
    struct operator_api *api = request->api;
    bool wrong = false;
    struct view endpoint = operator_body_text(request, "endpoint", &wrong);
    struct view job = operator_body_text(request, "id", &wrong);
    struct view team = operator_body_text(request, "team", &wrong);
    struct log_line *line;

    if (operator_refuse_failure(request, reply)) {
        return;
    }
    if (reply->result != STORE_OK) {
        operator_refuse(request, 409, "known_job",
                        "the ledger has that job already, for team \"%.*s\"",
                        (int)reply->job.team.length, reply->job.team.data);
        return;
    }
    line = operator_log(request, "job_adopted");
    log_text(line, "endpoint", endpoint);
    log_text(line, "job", job);
    log_text(line, "team", team);
    log_end(line);
    if (api->parts.collector) {
        collector_note_job(api->parts.collector, endpoint, 0);
    }
    operator_reply(request,
                   json_pack("{s:o, s:o, s:o}", "endpoint", operator_json_text(endpoint), "id",
                             operator_json_text(job), "team", operator_json_text(team)));
}

static bool is_team(const struct config *config, struct view name)
{
    for (size_t i = 0; i < config->team_count; i++) {
        if (view_equal(config->teams[i].name, name)) {
            return true;
        }
    }
    return false;
}

void operator_adopt_job(struct operator_request *request)
{
    static const char *const names[] = {"endpoint", "id", "team", "kind", NULL};
    const struct config *config = request->api->config;
    bool wrong = false;
    struct view kind = operator_body_text(request, "kind", &wrong);
    bool is_runsync = view_equal(kind, VIEW("runsync"));
    struct store_question question = {
        .operation = STORE_ADOPT_JOB,
        .endpoint = operator_body_text(request, "endpoint", &wrong),
        .job = operator_body_text(request, "id", &wrong),
        .team = operator_body_text(request, "team", &wrong),
        .kind = is_runsync ? STORE_KIND_RUNSYNC : STORE_KIND_RUN,
        .state = JOB_IN_QUEUE,
        .ttl_ms = OPERATOR_TTL_MS,
        .deadline_ms =
            is_runsync ? config->upstream.retention_runsync_ms : config->upstream.retention_run_ms,
    };

    if (!operator_body_only(request, names)) {
        return;
    }
    if (wrong || !route_endpoint_valid(question.endpoint) || !route_job_valid(question.job) ||
        (kind.length > 0 && !is_runsync && !view_equal(kind, VIEW("run")))) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_body",
                        "expected {\"endpoint\": E, \"id\": ID, \"team\": T}, and \"kind\": "
                        "\"runsync\" for a job of that kind");
    } else if (!is_team(config, question.team)) {
        operator_refuse(request, HTTP_BADREQUEST, "unknown_team",
                        "the configuration has no team \"%.*s\"",
                        (int)(question.team.length < 64 ? question.team.length : 64),
                        question.team.length > 0 ? question.team.data : "");
    } else {
        operator_ask(request, &question, on_adopted);
    }
}

/* ---- the store ------------------------------------------------------------------------------- */

static const char *state_text(enum store_state state)
{
    switch (state) {
    case STORE_STATE_READY: return "ready";
    case STORE_STATE_SPOOLING: return "spooling";
    case STORE_STATE_AWAY: return "away";
    case STORE_STATE_FULL: return "full";
    }
    return "";
}

static const char *durability_text(enum store_durability durability)
{
    switch (durability) {
    case STORE_DURABLE: return "durable";
    case STORE_DURABLE_EVERYSEC: return "everysec";
    case STORE_NOT_DURABLE: return "not durable";
    }
    return "";
}

/* The counts are null when the store can't be asked: how it is can be told all the same. */
static void show_store(struct operator_request *request, const struct store_reply *reply)
{
    const struct store *store = request->api->parts.store;
    const struct config_store *config = &request->api->config->store;
    bool is_redis = config->backend == CONFIG_STORE_REDIS;
    bool failed = reply->result != STORE_OK;

    operator_reply(request, json_pack("{s:s, s:o, s:s, s:s, s:b, s:o, s:o, s:s?}", "backend",
                                      is_redis ? "redis" : "embedded", "location",
                                      operator_json_text(is_redis ? config->url : config->path),
                                      "state", state_text(store_state(store)), "durability",
                                      durability_text(store_durability(store)), "shared",
                                      (int)store_is_shared(store), "instance",
                                      operator_json_text(store_instance(store)), "counts",
                                      failed ? json_null() : operator_json_counts(&reply->counts),
                                      "failure", failed ? store_result_text(reply->result) : NULL));
}

void operator_show_store(struct operator_request *request)
{
    const struct store_question question = {.operation = STORE_COUNT};

    operator_ask(request, &question, show_store);
}
