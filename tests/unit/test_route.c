#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/route.h"

static struct route expect_route(struct view target, enum route_operation operation)
{
    struct route route;
    enum route_result result = route_parse(target, &route);
    cr_assert_eq(result, ROUTE_OK, "%.*s: %d", (int)target.length, target.data, result);
    cr_assert_eq(route.operation, operation, "%.*s", (int)target.length, target.data);
    return route;
}

static void expect_refused(struct view target, enum route_result expected)
{
    struct route route;
    enum route_result result = route_parse(target, &route);
    cr_assert_eq(result, expected, "%.*s: %d, not %d", (int)target.length, target.data, result,
                 expected);
    cr_assert_gt(route_detail(result).length, 0);
}

Test(route, serves_every_operation)
{
    const struct {
        struct view target;
        enum route_operation operation;
    } cases[] = {
        {VIEW("/v2/abc/run"), ROUTE_RUN},
        {VIEW("/v2/abc/runsync"), ROUTE_RUNSYNC},
        {VIEW("/v2/abc/status/j-1"), ROUTE_STATUS},
        {VIEW("/v2/abc/status-sync/j-1"), ROUTE_STATUS_SYNC},
        {VIEW("/v2/abc/stream/j-1"), ROUTE_STREAM},
        {VIEW("/v2/abc/cancel/j-1"), ROUTE_CANCEL},
        {VIEW("/v2/abc/retry/j-1"), ROUTE_RETRY},
        {VIEW("/v2/abc/purge-queue"), ROUTE_PURGE_QUEUE},
        {VIEW("/v2/abc/health"), ROUTE_HEALTH},
        {VIEW("/v2/abc/requests"), ROUTE_REQUESTS},
        {VIEW("/v2/abc/batch"), ROUTE_BATCH},
        {VIEW("/v2/abc/batch/b_1/requests/r_1"), ROUTE_BATCH},
        {VIEW("/v2/abc/openai/v1/chat/completions"), ROUTE_OPENAI},
        {VIEW("/v2/abc/jobs"), ROUTE_JOBS},
        {VIEW("/v2/abc/jobs/j-1"), ROUTE_JOB_DELETE},
        {VIEW("/podgate/v1/whoami"), ROUTE_WHOAMI},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct route route = expect_route(cases[i].target, cases[i].operation);
        bool has_endpoint = cases[i].operation != ROUTE_WHOAMI;
        cr_assert(view_equal(route.endpoint, has_endpoint ? VIEW("abc") : VIEW("")));
        cr_assert_eq(route_has_job(route.operation), route.job.length > 0);
        cr_assert_not(route.is_flash);
    }
}

Test(route, takes_endpoint_job_and_tail_out_of_the_target)
{
    struct route route = expect_route(VIEW("/v2/black-forest_1/status/sync-ab-u1"), ROUTE_STATUS);
    cr_assert(view_equal(route.endpoint, VIEW("black-forest_1")));
    cr_assert(view_equal(route.job, VIEW("sync-ab-u1")));
    route = expect_route(VIEW("/v2/e/openai/v1/models/org:model@1~x.y"), ROUTE_OPENAI);
    cr_assert(view_equal(route.tail, VIEW("v1/models/org:model@1~x.y")));
    cr_assert(expect_route(VIEW("/v2/flash/runsync"), ROUTE_RUNSYNC).is_flash);
    cr_assert_not(expect_route(VIEW("/v2/Flash/runsync"), ROUTE_RUNSYNC).is_flash);
}

Test(route, counts_runs_of_slashes_as_one)
{
    struct route route = expect_route(VIEW("//v2///e//status////j"), ROUTE_STATUS);
    cr_assert(view_equal(route.endpoint, VIEW("e")));
    cr_assert(view_equal(route.job, VIEW("j")));
    expect_route(VIEW("//podgate//v1//whoami"), ROUTE_WHOAMI);
    struct builder target;
    builder_init(&target, NULL, 0);
    route = expect_route(VIEW("/v2/e//openai///v1////models"), ROUTE_OPENAI);
    route_append_target(&target, VIEW("/v2"), &route);
    cr_assert(view_equal(builder_view(&target), VIEW("/v2/e/openai/v1/models")));
    builder_clear(&target);
}

Test(route, finds_nothing_at_other_paths)
{
    const struct view targets[] = {
        VIEW("/"), VIEW("/v2"), VIEW("/v2/"), VIEW("/v2/e"), VIEW("/v2/e/"), VIEW("/v1/e/run"),
        VIEW("/V2/e/run"), VIEW("/v2/e/Run"), VIEW("/v2/e/run/"), VIEW("/v2/e/run/x"),
        VIEW("/v2/e/status"), VIEW("/v2/e/status/"), VIEW("/v2/e/status/j/"),
        VIEW("/v2/e/status/j/k"), VIEW("/v2/e/health/"), VIEW("/v2/e/openai"),
        VIEW("/v2/e/openai/"), VIEW("/v2/e/openai/v1/"), VIEW("/v2/e/batch/"),
        VIEW("/v2/e/jobs/"), VIEW("/v2/e/jobs/j/k"), VIEW("/v2/e/jobs/j/"), VIEW("/v2/e/Jobs"),
        VIEW("/v2/e/job-delete"), VIEW("/v2/e/job-delete/j"), VIEW("/v2/e/metrics"), VIEW("/v2/e/logs"), VIEW("/v2/e/realtime"),
        VIEW("/podgate"), VIEW("/podgate/v1"), VIEW("/podgate/v1/whoami/"),
        VIEW("/podgate/v2/whoami"), VIEW("/v2/e/whoami"), VIEW(""), VIEW("v2/e/run"),
        VIEW("*"), VIEW("?x"), VIEW("/?x"), VIEW("/metrics"), VIEW("/livez"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(targets); i++) {
        expect_refused(targets[i], ROUTE_NOT_FOUND);
    }
}

Test(route, never_reaches_the_worker_side)
{
    const struct view targets[] = {
        VIEW("/v2/e/job-take/p"), VIEW("/v2/e/job-take-batch/p"), VIEW("/v2/e/job-done/p/j"),
        VIEW("/v2/e/job-stream/p/j"), VIEW("/v2/e/job-stop/p"), VIEW("/v2/e/ping/p"),
        VIEW("/v2/e/job-take"), VIEW("//v2//e//job-done//p//j"), VIEW("/v2/e/ping"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(targets); i++) {
        expect_refused(targets[i], ROUTE_NOT_FOUND);
    }
}

Test(route, refuses_ways_around_the_grammar)
{
    const struct view targets[] = {
        VIEW("/v2/e%2frun"), VIEW("/v2/%65/run"), VIEW("/v2/e/%72un"), VIEW("/v2/e/status/%6a"),
        VIEW("/v2/e/../f/run"), VIEW("/v2/./e/run"), VIEW("/v2/e/./run"), VIEW("/v2/e;x/run"),
        VIEW("/v2/e/run;x"), VIEW("/v2/e/status/j;x=1"), VIEW("/v2/e/status/j.k"),
        VIEW("/v2/e/status/.."), VIEW("/v2/e\\run"), VIEW("/v2/e/openai/v1/../../run"),
        VIEW("/v2/e/openai/./v1"), VIEW("/v2/e/openai/%2e%2e/run"), VIEW("/v2/e/openai/v1;x"),
        VIEW("/v2/e/openai/v1/a,b"), VIEW("/v2/e/openai/v1/a+b"), VIEW("/v2/e/batch/.."),
        VIEW("/v2/e/batch/a%20b"), VIEW("/v2/e\0/run"), VIEW("/v2/e/status/j\n"),
        VIEW("/v2/e/openai/v1/\xc3\xa4"), VIEW("/v2/e/run#x"), VIEW("/v2/..;/e/run"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(targets); i++) {
        expect_refused(targets[i], ROUTE_NOT_FOUND);
    }
    /* Dots within a segment are part of many model names. */
    expect_route(VIEW("/v2/e/openai/v1/models/a..b"), ROUTE_OPENAI);
    expect_route(VIEW("/v2/e/openai/v1/models/..."), ROUTE_OPENAI);
}

Test(route, limits_the_length_of_names)
{
    char target[256];
    char name[130];
    memset(name, 'a', sizeof name);
    snprintf(target, sizeof target, "/v2/%.*s/run", ROUTE_ENDPOINT_MAXIMUM, name);
    expect_route(view_of_string(target), ROUTE_RUN);
    snprintf(target, sizeof target, "/v2/%.*s/run", ROUTE_ENDPOINT_MAXIMUM + 1, name);
    expect_refused(view_of_string(target), ROUTE_NOT_FOUND);
    snprintf(target, sizeof target, "/v2/e/status/%.*s", ROUTE_JOB_MAXIMUM, name);
    expect_route(view_of_string(target), ROUTE_STATUS);
    snprintf(target, sizeof target, "/v2/e/status/%.*s", ROUTE_JOB_MAXIMUM + 1, name);
    expect_refused(view_of_string(target), ROUTE_NOT_FOUND);
}

Test(route, reads_wait_and_ttl)
{
    struct route route = expect_route(VIEW("/v2/e/runsync?wait=1500&ttl=60000"), ROUTE_RUNSYNC);
    cr_assert(route.has_wait);
    cr_assert_eq(route.wait_ms, 1500);
    cr_assert(route.has_ttl);
    cr_assert_eq(route.ttl_ms, 60000);
    route = expect_route(VIEW("/v2/e/stream/j?wait=0"), ROUTE_STREAM);
    cr_assert(route.has_wait);
    cr_assert_eq(route.wait_ms, 0);
    route = expect_route(VIEW("/v2/e/status/j?a=b&&=&ttl=6000&wait=x&c"), ROUTE_STATUS);
    cr_assert_not(route.has_wait);
    cr_assert_eq(route.ttl_ms, 6000);
    route = expect_route(VIEW("/v2/e/runsync?wait=99999999999999999999999"), ROUTE_RUNSYNC);
    cr_assert_eq(route.wait_ms, UINT64_MAX);
    route = expect_route(VIEW("/v2/e/runsync?"), ROUTE_RUNSYNC);
    cr_assert_not(route.has_wait);
    route = expect_route(VIEW("/v2/e/runsync?%77ait=5&WAIT=6&waiting=7"), ROUTE_RUNSYNC);
    cr_assert_not(route.has_wait);
}

Test(route, refuses_parameters_that_are_not_digits_or_come_twice)
{
    expect_refused(VIEW("/v2/e/runsync?wait="), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=-1"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=+1"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=1.5"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=1e3"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=%31"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=1=2"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=1;ttl=2"), ROUTE_WAIT_BAD);
    expect_refused(VIEW("/v2/e/runsync?wait=1&wait=1"), ROUTE_WAIT_TWICE);
    expect_refused(VIEW("/v2/e/status/j?ttl=abc"), ROUTE_TTL_BAD);
    expect_refused(VIEW("/v2/e/status/j?ttl=1&ttl=2"), ROUTE_TTL_TWICE);
    expect_refused(VIEW("/v2/e/run?a=%"), ROUTE_QUERY_BAD);
    expect_refused(VIEW("/v2/e/run?a=%4"), ROUTE_QUERY_BAD);
    expect_refused(VIEW("/v2/e/run?a=%4g"), ROUTE_QUERY_BAD);
    expect_refused(VIEW("/v2/e/run?a=\r\n"), ROUTE_QUERY_BAD);
    expect_refused(VIEW("/v2/e/openai/v1/x?a=#b"), ROUTE_QUERY_BAD);
    expect_refused(VIEW("/v2/e/openai/v1/x?a= b"), ROUTE_QUERY_BAD);
}

Test(route, passes_queries_of_some_operations_on_raw)
{
    struct route route =
        expect_route(VIEW("/v2/e/batch/b_1?limit=1&offset=%20&a[]=2&wait=x"), ROUTE_BATCH);
    cr_assert(view_equal(route.query, VIEW("limit=1&offset=%20&a[]=2&wait=x")));
    cr_assert_not(route.has_wait);
    route = expect_route(VIEW("/v2/e/openai/v1/models?a?b"), ROUTE_OPENAI);
    cr_assert(view_equal(route.query, VIEW("a?b")));
    cr_assert(view_equal(expect_route(VIEW("/v2/e/requests?"), ROUTE_REQUESTS).query, VIEW("")));
}

Test(route, reads_what_a_list_of_jobs_is_asked_for)
{
    struct route route = expect_route(VIEW("/v2/e/jobs"), ROUTE_JOBS);

    cr_assert_not(route.has_state);
    cr_assert_eq(route.since_ms, 0);
    cr_assert_eq(route.limit, 0);
    cr_assert_eq(route.cursor.length, 0);
    route = expect_route(
        VIEW("/v2/e/jobs?status=TIMED_OUT&since=1764000000123&limit=1000&cursor=a.B~9-_"),
        ROUTE_JOBS);
    cr_assert(route.has_state);
    cr_assert_eq(route.state, JOB_TIMED_OUT);
    cr_assert_eq(route.since_ms, 1764000000123);
    cr_assert_eq(route.limit, 1000);
    cr_assert(view_equal(route.cursor, VIEW("a.B~9-_")));
    route = expect_route(VIEW("/v2/e/jobs?wait=x&from=y&other"), ROUTE_JOBS);
    cr_assert_not(route.has_wait);
    cr_assert_not(route.has_from);
}

Test(route, reads_since_as_a_date_a_time_or_milliseconds)
{
    const struct {
        struct view target;
        uint64_t since_ms;
    } cases[] = {
        {VIEW("/v2/e/jobs?since=1970-01-02"), 86400000},
        {VIEW("/v2/e/jobs?since=2026-11-24T15:04:05Z"), 1795532645000},
        {VIEW("/v2/e/jobs?since=2026-11-24T15:04:05.678Z"), 1795532645678},
        {VIEW("/v2/e/jobs?since=2026-11-24T15:04:05.6789Z"), 1795532645678},
        {VIEW("/v2/e/jobs?since=2026-11-24T15:04:05.6Z"), 1795532645600},
        {VIEW("/v2/e/jobs?since=2026-11-24T16%3A04%3a05%2B01:00"), 1795532645000},
        {VIEW("/v2/e/jobs?since=0"), 0},
    };

    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        cr_assert_eq(expect_route(cases[i].target, ROUTE_JOBS).since_ms, cases[i].since_ms);
    }
}

Test(route, refuses_a_list_that_is_asked_for_with_odd_parameters)
{
    char cursor[ROUTE_CURSOR_MAXIMUM + 64] = "/v2/e/jobs?cursor=";
    size_t length = strlen(cursor);

    expect_refused(VIEW("/v2/e/jobs?status="), ROUTE_STATE_BAD);
    expect_refused(VIEW("/v2/e/jobs?status=completed"), ROUTE_STATE_BAD);
    expect_refused(VIEW("/v2/e/jobs?status=LOST"), ROUTE_STATE_BAD);
    expect_refused(VIEW("/v2/e/jobs?status=FAILED&status=FAILED"), ROUTE_STATE_BAD);
    expect_refused(VIEW("/v2/e/jobs?since="), ROUTE_SINCE_BAD);
    expect_refused(VIEW("/v2/e/jobs?since=yesterday"), ROUTE_SINCE_BAD);
    expect_refused(VIEW("/v2/e/jobs?since=-1"), ROUTE_SINCE_BAD);
    expect_refused(VIEW("/v2/e/jobs?since=2026-02-30"), ROUTE_SINCE_BAD);
    expect_refused(VIEW("/v2/e/jobs?since=2026-11-24T15:04:05"), ROUTE_SINCE_BAD);
    expect_refused(VIEW("/v2/e/jobs?since=18446744073709551615"), ROUTE_SINCE_BAD);
    expect_refused(VIEW("/v2/e/jobs?since=1&since=1"), ROUTE_SINCE_BAD);
    expect_refused(VIEW("/v2/e/jobs?limit=0"), ROUTE_LIMIT_BAD);
    expect_refused(VIEW("/v2/e/jobs?limit=1001"), ROUTE_LIMIT_BAD);
    expect_refused(VIEW("/v2/e/jobs?limit=10x"), ROUTE_LIMIT_BAD);
    expect_refused(VIEW("/v2/e/jobs?limit=1&limit=2"), ROUTE_LIMIT_BAD);
    expect_refused(VIEW("/v2/e/jobs?cursor="), ROUTE_CURSOR_BAD);
    expect_refused(VIEW("/v2/e/jobs?cursor=a%20b"), ROUTE_CURSOR_BAD);
    expect_refused(VIEW("/v2/e/jobs?cursor='"), ROUTE_CURSOR_BAD);
    expect_refused(VIEW("/v2/e/jobs?cursor=a&cursor=a"), ROUTE_CURSOR_BAD);
    memset(cursor + length, 'a', ROUTE_CURSOR_MAXIMUM);
    expect_route(view_make(cursor, length + ROUTE_CURSOR_MAXIMUM), ROUTE_JOBS);
    cursor[length + ROUTE_CURSOR_MAXIMUM] = 'a';
    expect_refused(view_make(cursor, length + ROUTE_CURSOR_MAXIMUM + 1), ROUTE_CURSOR_BAD);
}

Test(route, reads_where_a_stream_is_to_begin)
{
    struct route route = expect_route(VIEW("/v2/e/stream/j?from=17&wait=5"), ROUTE_STREAM);
    struct builder built;

    cr_assert(route.has_from);
    cr_assert_eq(route.from, 17);
    builder_init(&built, NULL, 0);
    route_append_target(&built, VIEW("/v2"), &route);
    cr_assert(view_equal(builder_view(&built), VIEW("/v2/e/stream/j?wait=5")),
              "from is podgate's own");
    builder_clear(&built);
    cr_assert_not(expect_route(VIEW("/v2/e/stream/j"), ROUTE_STREAM).has_from);
    cr_assert_not(expect_route(VIEW("/v2/e/status/j?from=x"), ROUTE_STATUS).has_from);
    expect_refused(VIEW("/v2/e/stream/j?from="), ROUTE_FROM_BAD);
    expect_refused(VIEW("/v2/e/stream/j?from=-1"), ROUTE_FROM_BAD);
    expect_refused(VIEW("/v2/e/stream/j?from=1.0"), ROUTE_FROM_BAD);
    expect_refused(VIEW("/v2/e/stream/j?from=99999999999999999999"), ROUTE_FROM_BAD);
    expect_refused(VIEW("/v2/e/stream/j?from=1&from=1"), ROUTE_FROM_BAD);
}

Test(route, knows_which_operations_are_podgates_own)
{
    cr_assert(route_is_own(ROUTE_JOBS));
    cr_assert(route_is_own(ROUTE_JOB_DELETE));
    cr_assert(route_is_own(ROUTE_WHOAMI));
    cr_assert_not(route_is_own(ROUTE_STATUS));
    cr_assert_not(route_is_own(ROUTE_PURGE_QUEUE));
}

static void expect_target(struct view target, struct view base, struct view expected)
{
    struct route route;
    struct builder built;
    builder_init(&built, NULL, 0);
    cr_assert_eq(route_parse(target, &route), ROUTE_OK);
    route_append_target(&built, base, &route);
    cr_assert(view_equal(builder_view(&built), expected), "%.*s",
              (int)builder_view(&built).length, builder_view(&built).data);
    builder_clear(&built);
}

Test(route, builds_the_upstream_target_anew)
{
    expect_target(VIEW("/v2/e/run?x=y"), VIEW("/v2"), VIEW("/v2/e/run"));
    expect_target(VIEW("/v2/e/runsync?ttl=2&wait=0001"), VIEW("/v2"),
                  VIEW("/v2/e/runsync?wait=1&ttl=2"));
    expect_target(VIEW("/v2/e/status/j?ttl=5&x"), VIEW("/a/b"), VIEW("/a/b/e/status/j?ttl=5"));
    expect_target(VIEW("/v2/e/openai//v1/x?q=%20&r"), VIEW(""), VIEW("/e/openai/v1/x?q=%20&r"));
    expect_target(VIEW("/v2/e/batch?"), VIEW("/v2"), VIEW("/v2/e/batch"));
    expect_target(VIEW("/v2/e/cancel/j"), VIEW("/v2"), VIEW("/v2/e/cancel/j"));
}

Test(route, leaves_wait_out_when_a_copy_becomes_an_operation_without_it)
{
    struct route route = expect_route(VIEW("/v2/e/status-sync/j?wait=5&ttl=7"), ROUTE_STATUS_SYNC);
    struct builder built;
    builder_init(&built, NULL, 0);
    route.operation = ROUTE_STATUS;
    route_append_target(&built, VIEW("/v2"), &route);
    cr_assert(view_equal(builder_view(&built), VIEW("/v2/e/status/j?ttl=7")));
    builder_clear(&built);
}

Test(route, knows_which_methods_an_operation_takes)
{
    cr_assert(route_allows(ROUTE_RUN, HTTP_METHOD_POST));
    cr_assert_not(route_allows(ROUTE_RUN, HTTP_METHOD_GET));
    cr_assert(route_allows(ROUTE_STATUS, HTTP_METHOD_POST));
    cr_assert(route_allows(ROUTE_STREAM, HTTP_METHOD_GET));
    cr_assert_not(route_allows(ROUTE_CANCEL, HTTP_METHOD_GET));
    cr_assert_not(route_allows(ROUTE_HEALTH, HTTP_METHOD_POST));
    cr_assert(route_allows(ROUTE_BATCH, HTTP_METHOD_DELETE));
    cr_assert(route_allows(ROUTE_WHOAMI, HTTP_METHOD_HEAD));
    cr_assert(route_allows(ROUTE_STATUS, HTTP_METHOD_HEAD));
    cr_assert(route_allows(ROUTE_JOBS, HTTP_METHOD_HEAD));
    cr_assert_not(route_allows(ROUTE_JOBS, HTTP_METHOD_DELETE));
    cr_assert(route_allows(ROUTE_JOB_DELETE, HTTP_METHOD_DELETE));
    cr_assert_not(route_allows(ROUTE_JOB_DELETE, HTTP_METHOD_GET));
    for (int i = 0; i < ROUTE_OPERATION_COUNT; i++) {
        enum route_operation operation = (enum route_operation)i;
        cr_assert_not(route_allows(operation, HTTP_METHOD_UNKNOWN));
        cr_assert_not(route_allows(operation, HTTP_METHOD_OPTIONS));
        /* The text lists exactly the allowed ones. */
        for (int method = HTTP_METHOD_GET; method <= HTTP_METHOD_TRACE; method++) {
            struct view list = route_allow_text(operation);
            bool listed = false;
            while (list.length > 0) {
                size_t comma = view_find_byte(list, ',');
                listed = listed || view_equal(view_trim(view_first(list, comma)),
                                              http_method_spelling((enum http_method)method));
                list = view_skip(list, comma + 1);
            }
            cr_assert_eq(listed, route_allows(operation, (enum http_method)method));
        }
        cr_assert_gt(route_operation_name(operation).length, 0);
    }
}
