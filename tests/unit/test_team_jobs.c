#include "build_config.h"

#include <jansson.h>

#include "gateway_fixture.h"

static struct caller caller;

static void set_up_team(void)
{
    set_up_peer();
    open_gateways(1, "", "operations = {\"status\", \"delete\", \"purge\"}", "");
    caller_open(&caller, FRONT);
}

static void tear_down_team(void)
{
    caller_close(&caller);
    tear_down_gateway();
}

TestSuite(team_jobs, .init = set_up_team, .fini = tear_down_team, .timeout = 60);

/* ---- what is in the ledger */

static void end_job(const char *job, enum job_state state, enum store_fate fate, const char *result)
{
    struct store_question question = {
        .operation = STORE_PUT_RESULT,
        .endpoint = VIEW("abc"),
        .job = view_of_string(job),
        .generation = 1,
        .state = state,
        .fate = fate,
        .keep_ms = 3600000,
        .execution_ms = 41,
        .delay_ms = UINT64_MAX,
    };

    if (result) {
        question.result = body_create(&budget, strlen(result));
        cr_assert(body_append(question.result, view_of_string(result)));
        question.result_bytes = strlen(result);
    }
    cr_assert_eq(ask_store(&question), STORE_OK);
    body_unref(question.result);
}

static void enter_result(const char *job, const char *result)
{
    enter_job("abc", job);
    end_job(job, JOB_COMPLETED, STORE_FATE_KEPT, result);
}

static bool keeps_result(const char *job)
{
    struct store_question question = {
        .operation = STORE_DELETE_RESULT, .endpoint = VIEW("abc"), .job = view_of_string(job)};

    return ask_store(&question) == STORE_OK;
}

/* Lets so much time pass that an idle connection may be gone. */
static void pass_long(uint64_t ms)
{
    pass(ms);
    caller_close(&caller);
    caller_open(&caller, FRONT);
}

/* ---- the list */

static json_t *list(const char *query)
{
    char target[2048];
    json_t *answer;

    caller_clear(&caller);
    snprintf(target, sizeof target, "/v2/abc/jobs%s", query);
    get(&caller, target);
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "Podgate-Origin: gateway\r\n"));
    cr_assert(caller_has(&caller, "Content-Type: application/json\r\n"));
    cr_assert(caller_has(&caller, "Cache-Control: no-store\r\n"));
    answer = json_loads(answer_body(&caller), JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(answer, "%s", caller.received);
    cr_assert_eq(json_object_size(answer), 2);
    return answer;
}

static const char *text_of(const json_t *job, const char *name)
{
    return json_string_value(json_object_get(job, name));
}

static void expect_ids(const char *query, const char *wanted)
{
    json_t *answer = list(query);
    char found[256] = "";
    size_t index;
    json_t *job;

    json_array_foreach(json_object_get(answer, "jobs"), index, job)
    {
        strncat(found, text_of(job, "id"), sizeof found - strlen(found) - 2);
        strcat(found, " ");
    }
    cr_assert_str_eq(found, wanted, "%s", query);
    json_decref(answer);
}

Test(team_jobs, a_list_without_jobs_is_empty)
{
    json_t *answer = list("");

    cr_assert(json_is_array(json_object_get(answer, "jobs")));
    cr_assert_eq(json_array_size(json_object_get(answer, "jobs")), 0);
    cr_assert(json_is_null(json_object_get(answer, "cursor")));
    json_decref(answer);
    cr_assert_eq(seen_count, 0, "the upstream was asked");
}

Test(team_jobs, a_job_is_listed_with_what_is_known_of_it)
{
    json_t *answer;
    json_t *job;

    enter_result("j1", "{\"id\":\"j1\",\"status\":\"COMPLETED\"}");
    answer = list("");
    job = json_array_get(json_object_get(answer, "jobs"), 0);
    cr_assert_eq(json_object_size(job), 9);
    cr_assert_str_eq(text_of(job, "id"), "j1");
    cr_assert_str_eq(text_of(job, "status"), "COMPLETED");
    cr_assert_eq(strlen(text_of(job, "submittedAt")), CLOCK_RFC3339_LENGTH);
    cr_assert_eq(strlen(text_of(job, "endedAt")), CLOCK_RFC3339_LENGTH);
    cr_assert_eq(strlen(text_of(job, "expiresAt")), CLOCK_RFC3339_LENGTH);
    cr_assert_eq(json_integer_value(json_object_get(job, "executionTime")), 41);
    cr_assert(json_is_null(json_object_get(job, "delayTime")), "upstream didn't say");
    cr_assert_str_eq(text_of(job, "result"), "kept");
    cr_assert_eq(json_integer_value(json_object_get(job, "resultBytes")),
                 strlen("{\"id\":\"j1\",\"status\":\"COMPLETED\"}"));
    json_decref(answer);
}

Test(team_jobs, a_running_job_has_no_end)
{
    json_t *answer;
    json_t *job;

    enter_job("abc", "j1");
    answer = list("");
    job = json_array_get(json_object_get(answer, "jobs"), 0);
    cr_assert_str_eq(text_of(job, "status"), "IN_QUEUE");
    cr_assert_str_eq(text_of(job, "result"), "pending");
    cr_assert(json_is_null(json_object_get(job, "endedAt")));
    cr_assert(json_is_null(json_object_get(job, "executionTime")));
    cr_assert(json_is_null(json_object_get(job, "resultBytes")));
    cr_assert(json_is_null(json_object_get(job, "expiresAt")));
    json_decref(answer);
}

static void expect_result(const char *id, const char *status, const char *result)
{
    json_t *answer = list("");
    size_t index;
    json_t *job;
    bool found = false;

    json_array_foreach(json_object_get(answer, "jobs"), index, job)
    {
        if (strcmp(text_of(job, "id"), id) == 0) {
            found = true;
            cr_assert_str_eq(text_of(job, "result"), result);
            if (status) {
                cr_assert_str_eq(text_of(job, "status"), status);
            } else {
                cr_assert(json_is_null(json_object_get(job, "status")));
            }
        }
    }
    cr_assert(found, "%s isn't listed", id);
    json_decref(answer);
}

Test(team_jobs, what_became_of_each_result_is_said)
{
    static const char *const ids[] = {"lost", "ttl", "large", "none"};

    for (size_t i = 0; i < ARRAY_LENGTH(ids); i++) {
        enter_job("abc", ids[i]);
    }
    end_job("lost", JOB_LOST, STORE_FATE_NONE, NULL);
    end_job("ttl", JOB_TTL_EXPIRED, STORE_FATE_NONE, NULL);
    end_job("large", JOB_FAILED, STORE_FATE_TOO_LARGE, NULL);
    end_job("none", JOB_CANCELLED, STORE_FATE_NONE, NULL);
    enter_result("deleted", "{}");
    cr_assert(keeps_result("deleted"));
    expect_result("lost", NULL, "lost");
    expect_result("ttl", NULL, "expired");
    expect_result("large", "FAILED", "too_large");
    expect_result("none", "CANCELLED", "none");
    expect_result("deleted", "COMPLETED", "deleted");
    enter_result("old", "{}");
    expect_result("old", "COMPLETED", "kept");
    pass_long(3600001);
    expect_result("old", "COMPLETED", "expired");
}

Test(team_jobs, only_the_teams_own_jobs_of_the_endpoint_are_listed)
{
    enter_job("abc", "mine");
    enter_job("other", "elsewhere");
    enter_job_of("strangers", "abc", "theirs");
    expect_ids("", "mine ");
}

Test(team_jobs, a_list_is_filtered_by_status_and_time)
{
    char query[64];
    json_t *answer;

    enter_job("abc", "a");
    pass_long(5000);
    enter_result("b", "{}");
    pass_long(5000);
    enter_job("abc", "c");
    expect_ids("", "c b a ");
    expect_ids("?status=COMPLETED", "b ");
    expect_ids("?status=IN_QUEUE", "c a ");
    expect_ids("?status=TIMED_OUT", "");
    answer = list("?status=COMPLETED");
    snprintf(query, sizeof query, "?since=%s",
             text_of(json_array_get(json_object_get(answer, "jobs"), 0), "submittedAt"));
    expect_ids(query, "c b ");
    json_decref(answer);
    expect_ids("?since=2999-01-01", "");
}

Test(team_jobs, pages_follow_their_cursors_to_the_end)
{
    char query[1024] = "?limit=2";
    char found[256] = "";
    unsigned pages = 0;

    for (int i = 0; i < 5; i++) {
        char name[16];

        snprintf(name, sizeof name, "j%d", i);
        enter_job("abc", name);
        pass(10);
    }
    while (query[0] != '\0') {
        json_t *answer = list(query);
        const char *cursor = json_string_value(json_object_get(answer, "cursor"));
        size_t index;
        json_t *job;

        cr_assert_leq(json_array_size(json_object_get(answer, "jobs")), 2);
        json_array_foreach(json_object_get(answer, "jobs"), index, job)
        {
            strcat(found, text_of(job, "id"));
        }
        query[0] = '\0';
        if (cursor) {
            snprintf(query, sizeof query, "?limit=2&cursor=%s", cursor);
        }
        json_decref(answer);
        cr_assert_lt(++pages, 5);
    }
    cr_assert_str_eq(found, "j4j3j2j1j0");
}

Test(team_jobs, a_long_page_comes_whole)
{
    json_t *answer;

    for (int i = 0; i < 150; i++) {
        char name[16];

        snprintf(name, sizeof name, "j%d", i);
        enter_job("abc", name);
    }
    answer = list("?limit=1000");
    cr_assert_eq(json_array_size(json_object_get(answer, "jobs")), 150);
    cr_assert(json_is_null(json_object_get(answer, "cursor")));
    json_decref(answer);
    answer = list("");
    cr_assert_eq(json_array_size(json_object_get(answer, "jobs")), 100);
    cr_assert(json_is_string(json_object_get(answer, "cursor")));
    json_decref(answer);
}

Test(team_jobs, odd_parameters_are_refused_with_a_code_each)
{
    get(&caller, "/v2/abc/jobs?cursor=zzz");
    EXPECT_PROBLEM(&caller, 400, "bad_cursor");
    caller_clear(&caller);
    get(&caller, "/v2/abc/jobs?cursor=%00");
    EXPECT_PROBLEM(&caller, 400, "bad_cursor");
    caller_clear(&caller);
    get(&caller, "/v2/abc/jobs?limit=0");
    EXPECT_PROBLEM(&caller, 400, "bad_limit");
    caller_clear(&caller);
    get(&caller, "/v2/abc/jobs?since=x");
    EXPECT_PROBLEM(&caller, 400, "bad_since");
    caller_clear(&caller);
    get(&caller, "/v2/abc/jobs?status=done");
    EXPECT_PROBLEM(&caller, 400, "bad_status");
}

Test(team_jobs, head_says_how_long_the_list_is_without_sending_it)
{
    char length[64];

    enter_job("abc", "j1");
    json_decref(list(""));
    snprintf(length, sizeof length, "\r\nContent-Length: %zu\r\n", strlen(answer_body(&caller)));
    caller_clear(&caller);
    ask(&caller, "HEAD", "/v2/abc/jobs", "", NULL);
    RUN_UNTIL(caller_has(&caller, "\r\n\r\n"));
    cr_assert(caller_has(&caller, "HTTP/1.1 200 "));
    cr_assert(caller_has(&caller, length), "%s, not %s", caller.received, length);
    settle();
    cr_assert_str_eq(answer_body(&caller), "");
}

Test(team_jobs, other_methods_are_refused)
{
    post(&caller, "/v2/abc/jobs", "{}");
    EXPECT_PROBLEM(&caller, 405, "method_not_allowed");
    cr_assert(caller_has(&caller, "Allow: GET, HEAD\r\n"));
    caller_clear(&caller);
    get(&caller, "/v2/abc/jobs/j1");
    EXPECT_PROBLEM(&caller, 405, "method_not_allowed");
    cr_assert(caller_has(&caller, "Allow: DELETE\r\n"));
}

/* ---- delete */

static void delete_job(const char *job)
{
    char target[256];

    caller_clear(&caller);
    snprintf(target, sizeof target, "/v2/abc/jobs/%s", job);
    ask(&caller, "DELETE", target, "", NULL);
}

Test(team_jobs, a_deleted_result_is_gone_from_store_and_memory)
{
    struct store_job job = {.endpoint = VIEW("abc"),
                            .id = VIEW("j1"),
                            .team = VIEW("t"),
                            .generation = 1,
                            .state = JOB_COMPLETED,
                            .fate = STORE_FATE_KEPT,
                            .expires_ms = UINT64_MAX,
                            .result_bytes = 2,
                            .stored_bytes = 2};
    struct body *body = body_create(&budget, 2);
    struct hot_result *result;

    enter_result("j1", "{}");
    cr_assert(body_append(body, VIEW("{}")));
    result = hot_result_create(&job, body);
    cr_assert_not_null(result);
    hot_cache_put(shared.hot_cache, result);
    hot_result_unref(result);
    body_unref(body);
    result = hot_cache_find(shared.hot_cache, VIEW("abc"), VIEW("j1"), clock_wall_ms());
    cr_assert_not_null(result, "it isn't in the cache: the test tests nothing");
    hot_result_unref(result);
    delete_job("j1");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"id\":\"j1\",\"result\":\"deleted\"}");
    cr_assert_null(hot_cache_find(shared.hot_cache, VIEW("abc"), VIEW("j1"), clock_wall_ms()));
    cr_assert_not(keeps_result("j1"));
    cr_assert_eq(count_of(METRIC_RESULTS_GONE, METRIC_GONE_DELETED), 1);
    cr_assert_eq(seen_count, 0, "the upstream was asked");
    delete_job("j1");
    EXPECT_PROBLEM(&caller, 404, "result_deleted");
}

Test(team_jobs, a_running_job_has_nothing_to_delete)
{
    enter_job("abc", "j1");
    delete_job("j1");
    EXPECT_PROBLEM(&caller, 409, "job_not_ended");
    expect_ids("?status=IN_QUEUE", "j1 ");
}

Test(team_jobs, a_result_that_is_gone_otherwise_is_told_as_such)
{
    static const char *const ids[] = {"lost", "ttl", "large", "none", "old"};

    for (size_t i = 0; i < ARRAY_LENGTH(ids); i++) {
        enter_job("abc", ids[i]);
    }
    end_job("lost", JOB_LOST, STORE_FATE_NONE, NULL);
    end_job("ttl", JOB_TTL_EXPIRED, STORE_FATE_NONE, NULL);
    end_job("large", JOB_COMPLETED, STORE_FATE_TOO_LARGE, NULL);
    end_job("none", JOB_CANCELLED, STORE_FATE_NONE, NULL);
    end_job("old", JOB_COMPLETED, STORE_FATE_KEPT, "{}");
    pass_long(3600001);
    delete_job("lost");
    EXPECT_PROBLEM(&caller, 404, "result_lost");
    delete_job("ttl");
    EXPECT_PROBLEM(&caller, 404, "job_expired");
    delete_job("large");
    EXPECT_PROBLEM(&caller, 404, "result_too_large");
    delete_job("none");
    EXPECT_PROBLEM(&caller, 404, "job_not_found");
    delete_job("old");
    EXPECT_PROBLEM(&caller, 404, "job_expired");
}

/* The answer without what differs between any two: its date and its id. */
static char *plain_answer(void)
{
    static char text[2][4096];
    static unsigned turn;
    char *copy = text[turn++ % 2];
    char *line;

    RUN_UNTIL(answer_status(&caller) != 0);
    snprintf(copy, sizeof text[0], "%s", caller.received);
    while ((line = strstr(copy, "Date: ")) || (line = strstr(copy, "X-Request-Id: "))) {
        char *end = strstr(line, "\r\n");

        memmove(line, end + 2, strlen(end + 2) + 1);
    }
    return copy;
}

Test(team_jobs, anothers_job_looks_like_no_job_and_stays)
{
    const char *unknown;
    const char *foreign;

    enter_job_of("strangers", "abc", "theirs");
    end_job("theirs", JOB_COMPLETED, STORE_FATE_KEPT, "{}");
    delete_job("nobody");
    unknown = plain_answer();
    cr_assert_eq(answer_status(&caller), 404);
    delete_job("theirs");
    foreign = plain_answer();
    cr_assert_str_eq(foreign, unknown);
    cr_assert(strstr(unknown, "\"code\":\"job_not_found\""), "%s", unknown);
    cr_assert_eq(metrics_sum(metrics, METRIC_STORE_CALLS, STORE_DELETE_RESULT, STORE_OK), 0);
    cr_assert(keeps_result("theirs"));
}

/* ---- purge */

Test(team_jobs, a_purge_marks_the_teams_queued_jobs_and_answers_their_number)
{
    struct store_question claim = {
        .operation = STORE_CLAIM_CANCELS, .limit = 10, .lease_ms = STORE_LEASE_MS};

    enter_job("abc", "a");
    enter_job("abc", "b");
    enter_job("other", "c");
    enter_job_of("strangers", "abc", "d");
    enter_result("e", "{}");
    post(&caller, "/v2/abc/purge-queue", "");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"removed\":2,\"status\":\"completed\"}");
    cr_assert(caller_has(&caller, "Podgate-Origin: gateway\r\n"));
    cr_assert_eq(seen_count, 0, "the upstream's queue is everybody's");
    cr_assert_eq(ask_store(&claim), STORE_OK);
    caller_clear(&caller);
    post(&caller, "/v2/abc/purge-queue", "");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"removed\":0,\"status\":\"completed\"}");
}

/* ---- keys that may more or less */

TestSuite(team_jobs_keys, .init = set_up_peer, .fini = tear_down_team, .timeout = 60);

Test(team_jobs_keys, a_purge_of_all_goes_up)
{
    open_gateways(1, "", "operations = {\"purge\", \"purge-all\"}", "");
    caller_open(&caller, FRONT);
    enter_job("abc", "a");
    upstream_says("200 OK", "{\"removed\":7,\"status\":\"completed\"}");
    post(&caller, "/v2/abc/purge-queue", "");
    EXPECT_ANSWER(&caller, 200);
    cr_assert_str_eq(answer_body(&caller), "{\"removed\":7,\"status\":\"completed\"}");
    expect_asked(0, "POST /v2/abc/purge-queue ");
}

Test(team_jobs_keys, each_needs_its_own_permission)
{
    open_gateways(1, "", "operations = {\"run\"}", "");
    caller_open(&caller, FRONT);
    enter_result("j1", "{}");
    get(&caller, "/v2/abc/jobs");
    EXPECT_PROBLEM(&caller, 403, "operation_not_allowed");
    delete_job("j1");
    EXPECT_PROBLEM(&caller, 403, "operation_not_allowed");
    caller_clear(&caller);
    post(&caller, "/v2/abc/purge-queue", "");
    EXPECT_PROBLEM(&caller, 403, "operation_not_allowed");
    cr_assert(keeps_result("j1"));
}
