#include "build_config.h"

#include <jansson.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "upstream_peer.h"

#include "gateway/collector.h"
#include "process/operator.h"
#include "store/store_backend.h"

/* The operator API over its Unix socket, in the test's own loop, with a store that says what the
 * test put into it and remembers what it was asked. */

#define SUBMIT "0123456789abcdef0123456789abcdef"
#define RETRIED "ffffffffffffffffffffffffffffffff"

static struct operator_api *api;
static struct store store;
static struct store_client *store_client;
static char folder[] = "/tmp/podgate-test-operator-XXXXXX";
static char path[100];
static int descriptor = -1;
static char received[256 * 1024];
static size_t received_length;
static json_t *answer;
static unsigned status;

/* ---- the store ------------------------------------------------------------------------------- */

enum { ASKED_MAXIMUM = 32 };

static struct {
    enum store_operation operation;
    char endpoint[80];
    char job[140];
    char team[80];
    char cursor[80];
    char submit[80];
    char submit_job[140];
    bool has_state;
    bool has_fate;
    enum job_state state;
    enum store_fate fate;
    enum store_kind kind;
    uint64_t since_ms;
    uint64_t deadline_ms;
    uint64_t ttl_ms;
    uint64_t generation;
    uint32_t limit;
} asked[ASKED_MAXIMUM];
static size_t asked_count;
static struct store_call *held;
static bool hold;
static enum store_result results[STORE_OPERATIONS];
static struct store_job jobs[2];
static struct store_submit submits[2];
static char noted[80];

static void copy(char *room, size_t size, struct view text)
{
    snprintf(room, size, "%.*s", (int)text.length, text.length > 0 ? text.data : "");
}

static void remember(const struct store_question *question)
{
    cr_assert_lt(asked_count, ASKED_MAXIMUM);
    asked[asked_count].operation = question->operation;
    copy(asked[asked_count].endpoint, sizeof asked[0].endpoint, question->endpoint);
    copy(asked[asked_count].job, sizeof asked[0].job, question->job);
    copy(asked[asked_count].team, sizeof asked[0].team, question->team);
    copy(asked[asked_count].cursor, sizeof asked[0].cursor, question->cursor);
    copy(asked[asked_count].submit, sizeof asked[0].submit, question->submit.id);
    copy(asked[asked_count].submit_job, sizeof asked[0].submit_job, question->submit.job);
    asked[asked_count].has_state = question->has_state;
    asked[asked_count].has_fate = question->has_fate;
    asked[asked_count].state = question->state;
    asked[asked_count].fate = question->fate;
    asked[asked_count].kind = question->kind;
    asked[asked_count].since_ms = question->since_ms;
    asked[asked_count].deadline_ms = question->deadline_ms;
    asked[asked_count].ttl_ms = question->ttl_ms;
    asked[asked_count].generation = question->generation;
    asked[asked_count].limit = question->limit;
    asked_count++;
}

/* Unknown submits come one a page, so that whoever looks for one has to go on. */
static void fill_unknown(struct store_call *call)
{
    bool second = view_equal(call->question.cursor, VIEW("page2"));

    call->reply.submits = &submits[second ? 1 : 0];
    call->reply.count = 1;
    call->reply.cursor = second ? VIEW("") : VIEW("page2");
}

static void fake_start(UNUSED void *client_data, struct store_call *call)
{
    struct store_reply *reply = &call->reply;

    remember(&call->question);
    reply->result = results[call->question.operation];
    reply->now_ms = UINT64_C(1700000000000);
    reply->job = jobs[0];
    if (call->question.operation == STORE_LIST_UNKNOWN) {
        fill_unknown(call);
    } else if (call->question.operation == STORE_LIST_JOBS) {
        reply->jobs = jobs;
        reply->count = 2;
        reply->cursor = VIEW("next");
    } else if (call->question.operation == STORE_COUNT) {
        reply->counts = (struct store_counts){.jobs = 7, .outstanding = 3, .lost = 1};
        reply->counts.by_fate[STORE_FATE_EVICTED] = 2;
    } else if (call->question.operation == STORE_GET_JOB &&
               view_starts_with(call->question.job, VIEW("stranger"))) {
        reply->result = STORE_ABSENT;
    }
    if (hold) {
        held = call;
    } else {
        store_call_post(call);
    }
}

static void *fake_create_client(UNUSED void *data, struct store_client *client)
{
    return client;
}

static void fake_destroy_client(UNUSED void *client_data)
{
}

static enum store_state fake_state(UNUSED const void *data)
{
    return STORE_STATE_SPOOLING;
}

static enum store_durability fake_durability(UNUSED const void *data)
{
    return STORE_DURABLE_EVERYSEC;
}

static const struct store_backend fake_backend = {
    .name = "fake",
    .create_client = fake_create_client,
    .destroy_client = fake_destroy_client,
    .start = fake_start,
    .state = fake_state,
    .durability = fake_durability,
    .is_shared = true,
};

/* In place of the collector's own. */
void collector_note_job(UNUSED struct collector *collector, struct view endpoint,
                        UNUSED uint64_t due_ms)
{
    copy(noted, sizeof noted, endpoint);
}

static void fill_store(void)
{
    jobs[0] = (struct store_job){
        .endpoint = VIEW("ep"),
        .id = VIEW("job-1"),
        .upstream_id = VIEW("job-9"),
        .team = VIEW("vision"),
        .key = VIEW("ci"),
        .kind = STORE_KIND_RUNSYNC,
        .state = JOB_FAILED,
        .fate = STORE_FATE_KEPT,
        .generation = 3,
        .submitted_ms = UINT64_C(1700000000123),
        .ended_ms = UINT64_C(1700000001000),
        .execution_ms = 5000,
        .delay_ms = UINT64_MAX,
        .result_bytes = 100,
        .encoding = STORE_ENCODING_ZSTD,
        .digest = {0xab},
    };
    jobs[1] = (struct store_job){.endpoint = VIEW("ep"), .id = VIEW("bad\xff"), .state = JOB_LOST};
    submits[0] = (struct store_submit){
        .id = VIEW(RETRIED),
        .team = VIEW("vision"),
        .endpoint = VIEW("ep"),
        .job = VIEW("job-1"),
        .operation = STORE_SUBMIT_RETRY,
        .sent_ms = UINT64_C(1700000002000),
    };
    submits[1] = (struct store_submit){
        .id = VIEW(SUBMIT),
        .team = VIEW("vision"),
        .key = VIEW("ci"),
        .endpoint = VIEW("ep2"),
        .idempotency_key = VIEW("a secret of the caller's"),
        .operation = STORE_SUBMIT_RUNSYNC,
        .state = STORE_SUBMIT_UNKNOWN,
        .digest = {1, 2},
        .sent_ms = UINT64_C(1700000002000),
        .note = VIEW("reset"),
    };
}

/* ---- the socket ------------------------------------------------------------------------------ */

static struct operator_parts parts(void)
{
    return (struct operator_parts){
        .loop = loop,
        .store = &store,
        .client = store_client,
        .collector = (struct collector *)&store, /* only handed to the function above */
        .identity = identity,
        .budget = &budget,
        .metrics = block,
    };
}

static void connect_to_operator(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    strcpy(name.sun_path, path);
    descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(descriptor, (struct sockaddr *)&name, sizeof name), 0);
    cr_assert_eq(evutil_make_socket_nonblocking(descriptor), 0);
}

static void set_up_operator(void)
{
    struct operator_parts with;
    char *problem = NULL;
    char text[600];

    set_up_without_client();
    fill_store();
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/admin.sock", folder);
    snprintf(text, sizeof text,
             "workers = 1\nadmin_socket = \"%s\"\nteam \"vision\" { }\n"
             "upstream { url = \"http://127.0.0.1:%u/v2\" api_key_env = \"PODGATE_TEST_KEY\"\n"
             "retention_runsync = \"61s\" retention_run = \"31m\" }\n",
             path, peer.port);
    config = load_config(text);
    identity = upstream_identity_create(config, &problem);
    cr_assert_not_null(identity, "%s", problem);
    store = (struct store){.backend = &fake_backend};
    memset(store.instance, 'i', sizeof store.instance);
    store_client = store_client_create(&store, loop, block, NULL);
    with = parts();
    api = operator_create(&with, config, &problem);
    cr_assert_not_null(api, "%s", problem);
    connect_to_operator();
}

static void tear_down_operator(void)
{
    close(descriptor);
    settle();
    operator_destroy(api);
    if (held) {
        store_call_finish(held);
    }
    json_decref(answer);
    store_client_destroy(store_client);
    cr_expect_neq(access(path, F_OK), 0, "the socket's file stays");
    cr_expect_eq(rmdir(folder), 0);
    tear_down();
}

TestSuite(operator, .init = set_up_operator, .fini = tear_down_operator, .timeout = 60);

static bool answered(void)
{
    ssize_t count;
    const char *end;
    const char *length;

    while ((count = recv(descriptor, received + received_length,
                         sizeof received - 1 - received_length, 0)) > 0) {
        received_length += (size_t)count;
    }
    received[received_length] = '\0';
    end = strstr(received, "\r\n\r\n");
    length = strstr(received, "Content-Length: ");
    return end && length &&
           (size_t)(received + received_length - end - 4) >= strtoul(length + 16, NULL, 10);
}

static void begin(const char *method, const char *target, const char *body)
{
    char text[4096];
    int length =
        snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n%s",
                 method, target, strlen(body), body);

    received_length = 0;
    cr_assert_eq(send(descriptor, text, (size_t)length, MSG_NOSIGNAL), length);
}

static void ask(const char *method, const char *target, const char *body)
{
    begin(method, target, body);
    RUN_UNTIL(answered());
    status = (unsigned)strtoul(received + 9, NULL, 10);
    json_decref(answer);
    answer = json_loads(strstr(received, "\r\n\r\n") + 4, 0, NULL);
    cr_assert_not_null(answer, "%s", received);
}

static const char *text_at(const char *name)
{
    const char *text = json_string_value(json_object_get(answer, name));

    return text ? text : "";
}

static void expect_refusal(unsigned wanted, const char *code)
{
    cr_assert_eq(status, wanted, "%s", received);
    cr_assert_str_eq(text_at("code"), code);
    cr_assert_gt(strlen(text_at("error")), 0);
}

/* ---- routes ---------------------------------------------------------------------------------- */

Test(operator, only_its_routes_methods_and_parameters_are_taken)
{
    ask("GET", "/", "");
    expect_refusal(404, "unknown_route");
    ask("GET", "/operator/v1/jobs/ep", "");
    expect_refusal(404, "unknown_route");
    ask("GET", "/operator/v1/jobs/ep/a%2fb", "");
    expect_refusal(404, "unknown_route");
    ask("GET", "/operator/v1/jobs/ep/../x", "");
    expect_refusal(404, "unknown_route");
    ask("DELETE", "/operator/v1/jobs", "");
    expect_refusal(405, "method_not_allowed");
    cr_assert_not_null(strstr(received, "\r\nAllow: GET\r\n"));
    ask("GET", "/operator/v1/adopt", "");
    expect_refusal(405, "method_not_allowed");
    cr_assert_not_null(strstr(received, "\r\nAllow: POST\r\n"));
    ask("GET", "/operator/v1/store?verbose=1", "");
    expect_refusal(400, "bad_query");
    ask("GET", "/operator/v1/unknown?state=LOST", "");
    expect_refusal(400, "bad_query");
    cr_assert_eq(asked_count, 0, "the store was asked");
}

Test(operator, the_socket_is_for_user_and_group)
{
    struct stat file;

    cr_assert_eq(stat(path, &file), 0);
    cr_assert_eq(file.st_mode & 07777, 0660);
}

Test(operator, nothing_listens_where_nothing_is_configured)
{
    const struct config *plain = load_config("upstream { api_key_env = \"PODGATE_TEST_KEY\" }\n");
    struct operator_parts with = parts();
    char *problem = NULL;
    struct operator_api *other = operator_create(&with, plain, &problem);

    cr_assert_not_null(other);
    operator_adopt(other, plain);
    operator_destroy(other);
    config_unref(plain);
    /* Where one listens already no other can. */
    cr_assert_null(operator_create(&with, config, &problem));
    cr_assert_not_null(strstr(problem, path), "%s", problem);
    free(problem);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

Test(operator, a_job_is_shown_with_all_that_the_ledger_has)
{
    ask("GET", "/operator/v1/jobs/ep/job-1", "");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_eq(asked[0].operation, STORE_GET_JOB);
    cr_assert_str_eq(asked[0].endpoint, "ep");
    cr_assert_str_eq(asked[0].job, "job-1");
    cr_assert_str_eq(text_at("upstream_id"), "job-9");
    cr_assert_str_eq(text_at("state"), "FAILED");
    cr_assert_str_eq(text_at("fate"), "KEPT");
    cr_assert_str_eq(text_at("kind"), "runsync");
    cr_assert_str_eq(text_at("submitted"), "2023-11-14T22:13:20.123Z");
    cr_assert_eq(json_integer_value(json_object_get(answer, "generation")), 3);
    cr_assert_eq(json_integer_value(json_object_get(answer, "execution_ms")), 5000);
    cr_assert(json_is_null(json_object_get(answer, "delay_ms")));
    cr_assert(json_is_null(json_object_get(answer, "expires")));
    cr_assert_eq(strlen(text_at("sha256")), 64);
    cr_assert_eq(strncmp(text_at("sha256"), "ab00", 4), 0);
    ask("GET", "/operator/v1/jobs/ep/stranger", "");
    expect_refusal(404, "unknown_job");
}

Test(operator, jobs_are_listed_by_state_or_fate)
{
    ask("GET",
        "/operator/v1/jobs?team=vision&endpoint=ep&state=LOST&since=1700&limit=5&cursor=a%3D", "");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_str_eq(asked[0].team, "vision");
    cr_assert_str_eq(asked[0].endpoint, "ep");
    cr_assert_str_eq(asked[0].cursor, "a=");
    cr_assert(asked[0].has_state && !asked[0].has_fate);
    cr_assert_eq(asked[0].state, JOB_LOST);
    cr_assert_eq(asked[0].since_ms, 1700);
    cr_assert_eq(asked[0].limit, 5);
    cr_assert_str_eq(text_at("cursor"), "next");
    cr_assert_eq(json_array_size(json_object_get(answer, "jobs")), 2);
    ask("GET", "/operator/v1/jobs?state=EVICTED", "");
    cr_assert(!asked[1].has_state && asked[1].has_fate);
    cr_assert_eq(asked[1].fate, STORE_FATE_EVICTED);
    cr_assert_eq(asked[1].limit, 100);
    ask("GET", "/operator/v1/jobs", "");
    cr_assert(!asked[2].has_state && !asked[2].has_fate);
    /* Whatever bytes lie in the store, the answer is JSON. */
    cr_assert_str_eq(json_string_value(
                         json_object_get(json_array_get(json_object_get(answer, "jobs"), 1), "id")),
                     "bad?");
}

Test(operator, lists_refuse_bad_parameters)
{
    ask("GET", "/operator/v1/jobs?state=lost", "");
    expect_refusal(400, "bad_state");
    ask("GET", "/operator/v1/jobs?since=2h", "");
    expect_refusal(400, "bad_since");
    ask("GET", "/operator/v1/jobs?limit=0", "");
    expect_refusal(400, "bad_limit");
    ask("GET", "/operator/v1/unknown?limit=1001", "");
    expect_refusal(400, "bad_limit");
    cr_assert_eq(asked_count, 0);
    results[STORE_LIST_JOBS] = STORE_BAD_CURSOR;
    ask("GET", "/operator/v1/jobs?cursor=x", "");
    expect_refusal(400, "bad_cursor");
    results[STORE_LIST_JOBS] = STORE_AWAY;
    ask("GET", "/operator/v1/jobs", "");
    expect_refusal(503, "store_failed");
}

Test(operator, a_job_from_before_podgate_is_adopted)
{
    ask("POST", "/operator/v1/adopt",
        "{\"endpoint\":\"ep\",\"id\":\"old-1\",\"team\":\"vision\",\"kind\":\"runsync\"}");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_eq(asked[0].operation, STORE_ADOPT_JOB);
    cr_assert_str_eq(asked[0].job, "old-1");
    cr_assert_str_eq(asked[0].team, "vision");
    cr_assert_eq(asked[0].kind, STORE_KIND_RUNSYNC);
    cr_assert_eq(asked[0].deadline_ms, 61000);
    cr_assert_eq(asked[0].ttl_ms, 86400000);
    cr_assert_str_eq(noted, "ep", "the collector isn't told");
    results[STORE_ADOPT_JOB] = STORE_OWNED;
    ask("POST", "/operator/v1/adopt", "{\"endpoint\":\"ep\",\"id\":\"old-1\",\"team\":\"vision\"}");
    expect_refusal(409, "known_job");
    cr_assert_eq(asked[1].kind, STORE_KIND_RUN);
}

Test(operator, adopt_refuses_what_is_no_job)
{
    static const char *const bodies[] = {
        "",
        "[]",
        "{\"endpoint\":\"ep\",\"id\":\"a\"",
        "{\"endpoint\":\"ep\",\"endpoint\":\"ep\",\"id\":\"a\",\"team\":\"vision\"}",
        "{\"endpoint\":\"ep\",\"id\":\"a/b\",\"team\":\"vision\"}",
        "{\"endpoint\":\"\",\"id\":\"a\",\"team\":\"vision\"}",
        "{\"endpoint\":\"ep\",\"id\":7,\"team\":\"vision\"}",
        "{\"endpoint\":\"ep\",\"id\":\"a\",\"team\":\"vision\",\"kind\":\"batch\"}",
        "{\"endpoint\":\"ep\",\"id\":\"a\",\"team\":\"vision\",\"state\":\"LOST\"}",
    };

    for (size_t i = 0; i < ARRAY_LENGTH(bodies); i++) {
        ask("POST", "/operator/v1/adopt", bodies[i]);
        expect_refusal(400, "bad_body");
    }
    ask("POST", "/operator/v1/adopt", "{\"endpoint\":\"ep\",\"id\":\"a\",\"team\":\"audio\"}");
    expect_refusal(400, "unknown_team");
    cr_assert_eq(asked_count, 0);
}

/* ---- unknown submits ------------------------------------------------------------------------- */

Test(operator, unknown_submits_are_listed_without_their_idempotency_key)
{
    ask("GET", "/operator/v1/unknown?cursor=page2", "");
    cr_assert_eq(status, 200, "%s", received);
    json_t *submit = json_array_get(json_object_get(answer, "submits"), 0);
    cr_assert_str_eq(json_string_value(json_object_get(submit, "submit")), SUBMIT);
    cr_assert_str_eq(json_string_value(json_object_get(submit, "operation")), "runsync");
    cr_assert_str_eq(json_string_value(json_object_get(submit, "note")), "reset");
    cr_assert(json_is_true(json_object_get(submit, "has_idempotency_key")));
    cr_assert(json_is_null(json_object_get(submit, "job")));
    cr_assert_null(strstr(received, "a secret of the caller's"));
}

Test(operator, an_operator_says_which_job_it_became)
{
    ask("POST", "/operator/v1/unknown/" SUBMIT "/settle", "{\"job\":\"found-1\"}");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_eq(asked_count, 3, "it is on the second page");
    cr_assert_eq(asked[2].operation, STORE_RESOLVE_SUBMIT);
    cr_assert_str_eq(asked[2].submit, SUBMIT);
    cr_assert_str_eq(asked[2].submit_job, "found-1");
    cr_assert_eq(asked[2].kind, STORE_KIND_RUNSYNC);
    cr_assert_eq(asked[2].deadline_ms, 61000);
    cr_assert_str_eq(text_at("job"), "found-1");
    cr_assert_str_eq(noted, "ep2", "the collector isn't told");
}

Test(operator, an_operator_says_that_it_never_ran)
{
    ask("POST", "/operator/v1/unknown/" SUBMIT "/settle", "{\"never_ran\":true}");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_str_eq(asked[2].submit_job, "");
    cr_assert(json_is_null(json_object_get(answer, "job")));
    cr_assert_str_eq(noted, "");
}

Test(operator, settling_refuses_what_it_cannot_do)
{
    static const char *const bodies[] = {
        "{}",
        "{\"job\":\"a\",\"never_ran\":true}",
        "{\"never_ran\":false}",
        "{\"job\":1}",
        "{\"job\":\"\"}",
        "{\"job\":\"a\",\"team\":\"b\"}",
    };

    for (size_t i = 0; i < ARRAY_LENGTH(bodies); i++) {
        ask("POST", "/operator/v1/unknown/" SUBMIT "/settle", bodies[i]);
        expect_refusal(400, "bad_body");
    }
    ask("POST", "/operator/v1/unknown/" SUBMIT "/settle", "{\"job\":\"a/b\"}");
    expect_refusal(400, "bad_job");
    cr_assert_eq(asked_count, 0);
    ask("POST", "/operator/v1/unknown/abc/settle", "{\"job\":\"a\"}");
    expect_refusal(404, "unknown_submit");
    results[STORE_RESOLVE_SUBMIT] = STORE_OWNED;
    ask("POST", "/operator/v1/unknown/" SUBMIT "/settle", "{\"job\":\"a\"}");
    expect_refusal(409, "known_job");
    results[STORE_RESOLVE_SUBMIT] = STORE_CONFLICT;
    ask("POST", "/operator/v1/unknown/" SUBMIT "/settle", "{\"job\":\"a\"}");
    expect_refusal(409, "settled_already");
    results[STORE_RESOLVE_SUBMIT] = STORE_TIMED_OUT;
    ask("POST", "/operator/v1/unknown/" SUBMIT "/settle", "{\"job\":\"a\"}");
    expect_refusal(503, "store_failed");
    cr_assert_str_eq(noted, "");
}

Test(operator, a_retry_that_took_begins_a_new_generation_of_its_job)
{
    ask("POST", "/operator/v1/unknown/" RETRIED "/settle", "{\"job\":\"other\"}");
    expect_refusal(400, "other_job");
    asked_count = 0;
    ask("POST", "/operator/v1/unknown/" RETRIED "/settle", "{\"job\":\"job-1\"}");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_eq(asked_count, 4);
    cr_assert_eq(asked[1].operation, STORE_RESOLVE_SUBMIT);
    cr_assert_str_eq(asked[1].submit_job, "", "the ledger has the job already");
    cr_assert_eq(asked[3].operation, STORE_RETRY_JOB);
    cr_assert_eq(asked[3].generation, 3);
    cr_assert_eq(asked[3].deadline_ms, 31 * 60000);
    /* An end that came after the retry is the retry's. */
    jobs[0].ended_ms = UINT64_C(1700000003000);
    asked_count = 0;
    ask("POST", "/operator/v1/unknown/" RETRIED "/settle", "{\"job\":\"job-1\"}");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_eq(asked_count, 3);
}

/* ---- candidates ------------------------------------------------------------------------------ */

static const char *upstream_answer;
static char upstream_request[1000];

static void on_upstream_request(struct peer_connection *connection, struct view request)
{
    copy(upstream_request, sizeof upstream_request, request);
    peer_send(connection, upstream_answer);
}

static void ask_candidates(const char *from_upstream)
{
    peer.on_request = on_upstream_request;
    upstream_answer = from_upstream;
    ask("GET", "/operator/v1/unknown/" SUBMIT "/candidates", "");
}

#define LIST                                                                                       \
    "{\"requests\":[{\"id\":\"job-1\",\"status\":\"COMPLETED\"},"                                  \
    "{\"id\":\"stranger-1\",\"status\":\"IN_QUEUE\",\"delayTime\":5,\"input\":{\"secret\":1}},"    \
    "{\"id\":7},{},{\"id\":\"stranger-2\"}]}"

Test(operator, candidates_are_the_jobs_that_the_ledger_does_not_know)
{
    char text[600];

    snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(LIST),
             LIST);
    ask_candidates(text);
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_not_null(strstr(upstream_request, "GET /v2/ep2/requests HTTP/1.1\r\n"));
    cr_assert_not_null(strstr(upstream_request, "Authorization: Bearer " TEST_KEY "\r\n"));
    json_t *candidates = json_object_get(answer, "candidates");
    cr_assert_eq(json_array_size(candidates), 2);
    json_t *first = json_array_get(candidates, 0);
    cr_assert_str_eq(json_string_value(json_object_get(first, "id")), "stranger-1");
    cr_assert_str_eq(json_string_value(json_object_get(first, "status")), "IN_QUEUE");
    cr_assert_eq(json_integer_value(json_object_get(first, "delayTime")), 5);
    cr_assert_null(json_object_get(first, "input"), "inputs are the caller's");
    cr_assert_eq(json_integer_value(json_object_get(answer, "known")), 1);
    cr_assert_eq(json_integer_value(json_object_get(answer, "listed")), 5);
}

Test(operator, an_upstream_without_a_list_is_told_as_that)
{
    ask_candidates("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    expect_refusal(502, "no_request_list");
    ask_candidates("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    expect_refusal(502, "upstream_credential");
    ask_candidates("HTTP/1.1 429 Busy\r\nContent-Length: 0\r\n\r\n");
    expect_refusal(502, "upstream_error");
    ask_candidates("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]");
    expect_refusal(502, "upstream_error");
    ask_candidates("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    expect_refusal(502, "upstream_error");
    peer_stop_listening(&peer);
    for (unsigned i = 0; i < peer.accepted; i++) {
        peer_drop(peer.connections[i]);
    }
    ask("GET", "/operator/v1/unknown/" SUBMIT "/candidates", "");
    expect_refusal(502, "upstream_failed");
}

/* ---- the store's state, and ends that come early --------------------------------------------- */

Test(operator, the_store_says_how_it_is)
{
    ask("GET", "/operator/v1/store", "");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert_str_eq(text_at("backend"), "embedded");
    cr_assert_str_eq(text_at("state"), "spooling");
    cr_assert_str_eq(text_at("durability"), "everysec");
    cr_assert(json_is_true(json_object_get(answer, "shared")));
    json_t *counts = json_object_get(answer, "counts");
    cr_assert_eq(json_integer_value(json_object_get(counts, "outstanding")), 3);
    cr_assert_eq(json_integer_value(json_object_get(json_object_get(counts, "fates"), "EVICTED")),
                 2);
    /* How it is can be said even when it doesn't answer. */
    results[STORE_COUNT] = STORE_AWAY;
    ask("GET", "/operator/v1/store", "");
    cr_assert_eq(status, 200, "%s", received);
    cr_assert(json_is_null(json_object_get(answer, "counts")));
    cr_assert_str_eq(text_at("failure"), "away");
}

Test(operator, ends_while_the_store_is_asked)
{
    hold = true;
    begin("GET", "/operator/v1/jobs", "");
    RUN_UNTIL(held != NULL);
    /* tear_down_operator() takes the operator down with the question under way. */
}

Test(operator, ends_while_upstream_is_asked)
{
    peer.deaf = true;
    begin("GET", "/operator/v1/unknown/" SUBMIT "/candidates", "");
    RUN_UNTIL(peer.accepted == 1);
}

Test(operator, a_caller_that_hangs_up_is_forgotten)
{
    hold = true;
    begin("GET", "/operator/v1/jobs", "");
    RUN_UNTIL(held != NULL);
    close(descriptor);
    settle();
    store_call_finish(held);
    held = NULL;
    hold = false;
    settle();
    connect_to_operator();
    ask("GET", "/operator/v1/store", "");
    cr_assert_eq(status, 200);
}
