#include "build_config.h"

#include <jansson.h>

#include "gateway_fixture.h"

static struct caller caller;

static void tear_down_caller(void)
{
    caller_close(&caller);
    tear_down_gateway();
}

TestSuite(whoami, .init = set_up_peer, .fini = tear_down_caller, .timeout = 60);

static json_t *whoami(const char *key_options)
{
    json_t *answer;

    if (side_count == 0) {
        open_gateways(1, "", key_options, "");
        caller_open(&caller, FRONT);
    }
    get(&caller, "/podgate/v1/whoami");
    EXPECT_ANSWER(&caller, 200);
    cr_assert(caller_has(&caller, "Cache-Control: no-store\r\n"));
    cr_assert(caller_has(&caller, "Podgate-Origin: gateway\r\n"));
    answer = json_loads(answer_body(&caller), 0, NULL);
    cr_assert_not_null(answer, "%s", caller.received);
    cr_assert_eq(seen_count, 0);
    caller_clear(&caller);
    return answer;
}

Test(whoami, says_team_key_and_operations)
{
    json_t *answer = whoami("operations = {\"run\", \"purge-all\"}");
    json_t *operations = json_object_get(answer, "operations");

    cr_assert_str_eq(json_string_value(json_object_get(answer, "team")), "t");
    cr_assert_str_eq(json_string_value(json_object_get(answer, "key")), "test");
    cr_assert_eq(json_array_size(operations), 2);
    cr_assert_str_eq(json_string_value(json_array_get(operations, 0)), "run");
    cr_assert_str_eq(json_string_value(json_array_get(operations, 1)), "purge-all");
    json_decref(answer);
}

Test(whoami, says_the_narrower_of_the_endpoints)
{
    json_t *answer = whoami("endpoints = {\"abc\", \"pre*\"}");
    json_t *endpoints = json_object_get(answer, "endpoints");

    cr_assert_eq(json_array_size(endpoints), 2);
    cr_assert_str_eq(json_string_value(json_array_get(endpoints, 1)), "pre*");
    json_decref(answer);
}

Test(whoami, says_what_is_left_of_each_rate)
{
    json_t *answer = whoami("rate = {\"10/h\"} burst = 5");
    json_t *rate;

    json_decref(answer);
    answer = whoami("");
    rate = json_array_get(json_object_get(answer, "rates"), 0);
    cr_assert_eq(json_integer_value(json_object_get(rate, "burst")), 5);
    cr_assert_eq(json_integer_value(json_object_get(rate, "remaining")), 3,
                 "this question and the one before it were charged");
    cr_assert_eq(json_integer_value(json_object_get(rate, "interval_ns")), 360000000000);
    json_decref(answer);
}

Test(whoami, counts_itself_in_flight)
{
    json_t *answer = whoami("concurrency = 7");
    json_t *concurrency = json_object_get(answer, "concurrency");

    cr_assert_eq(json_integer_value(json_object_get(concurrency, "limit")), 7);
    cr_assert_eq(json_integer_value(json_object_get(concurrency, "in_flight")), 1);
    json_decref(answer);
}

Test(whoami, says_when_the_key_expires)
{
    json_t *answer = whoami("expires = \"2039-01-02\"");

    cr_assert_str_eq(json_string_value(json_object_get(answer, "expires")),
                     "2039-01-02T00:00:00.000Z");
    json_decref(answer);
}

Test(whoami, a_key_that_never_expires_says_null)
{
    json_t *answer = whoami("");

    cr_assert(json_is_null(json_object_get(answer, "expires")));
    json_decref(answer);
}
