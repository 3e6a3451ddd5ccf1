#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/admission.h"
#include "model/key_state.h"

/* Keys are made for each test: what is refused, what it costs, what is given back. */

enum { KEYS = 8 };

static char secrets[KEYS][KEY_LENGTH_MAXIMUM + 1];
static struct config *config;
static struct key_state_table *states;
static struct key_hasher *hasher;
static struct route route;
static struct address peer;
static uint64_t now_us = 1000 * 1000 * 1000;
static uint64_t wall_ms = UINT64_C(1800000000000);

static void write_key(char **text, unsigned index, const char *id, const char *options)
{
    size_t length;
    uint8_t hash[KEY_HASH_LENGTH];
    char hex[2 * KEY_HASH_LENGTH + 1];
    char *longer;

    cr_assert(key_generate(view_of_string(id), secrets[index], &length));
    secrets[index][length] = '\0';
    cr_assert(key_hash(hasher, view_make(secrets[index], length), hash));
    for (size_t i = 0; i < sizeof hash; i++) {
        sprintf(hex + 2 * i, "%02x", hash[i]);
    }
    cr_assert_gt(
        asprintf(&longer, "%s key \"%s\" { sha256 = \"%s\" %s }\n", *text, id, hex, options), 0);
    free(*text);
    *text = longer;
}

/* One team with these endpoints and one key for each of `options`. */
static void load_keys(const char *endpoints, const char *const *options, unsigned count)
{
    struct config_errors *errors = config_errors_create();
    char *text = NULL;
    char *longer;

    cr_assert_gt(asprintf(&text,
                          "upstream { api_key_env = \"K\" }\nteam \"t\" { endpoints = {%s}\n",
                          endpoints),
                 0);
    for (unsigned i = 0; i < count; i++) {
        char id[16];

        snprintf(id, sizeof id, "key-%u", i);
        write_key(&text, i, id, options[i]);
    }
    cr_assert_gt(asprintf(&longer, "%s}\n", text), 0);
    config = config_load_text("t.conf", view_of_string(longer), false, errors);
    cr_assert_not_null(config, "%s",
                       config_errors_count(errors) ? config_errors_text(errors, 0) : "no reason");
    cr_assert(config_adopt(config, states));
    config_errors_destroy(errors);
    free(text);
    free(longer);
}

static void load_key(const char *options)
{
    load_keys("\"*\"", &options, 1);
}

static void set_up(void)
{
    hasher = key_hasher_create();
    states = key_state_table_create();
    cr_assert(address_parse(VIEW("10.1.2.3"), &peer));
    cr_assert_eq(route_parse(VIEW("/v2/abc/run"), &route), ROUTE_OK);
}

static void tear_down(void)
{
    config_unref(config);
    key_state_table_destroy(states);
    key_hasher_destroy(hasher);
}

TestSuite(admission, .init = set_up, .fini = tear_down);

static struct admission_verdict ask(const char *authorization, struct admission_ticket *ticket)
{
    struct admission_question question = {
        .config = config,
        .hasher = hasher,
        .route = &route,
        .authorization = view_of_string(authorization),
        .peer = &peer,
        .now_us = now_us,
        .wall_ms = wall_ms,
    };

    *ticket = (struct admission_ticket){NULL, false};
    return admission_check(&question, ticket);
}

static struct admission_verdict ask_with_key(unsigned index, struct admission_ticket *ticket)
{
    char field[KEY_LENGTH_MAXIMUM + 16];

    snprintf(field, sizeof field, "Bearer %s", secrets[index]);
    return ask(field, ticket);
}

static uint32_t in_flight(unsigned index)
{
    return atomic_load(&config->keys[index].state->in_flight);
}

static void set_target(const char *target)
{
    (void)!route_parse(view_of_string(target), &route);
}

static void expect_admitted(unsigned index)
{
    struct admission_ticket ticket;
    struct admission_verdict verdict = ask_with_key(index, &ticket);

    cr_assert(verdict.admitted, "refused: %s", metric_refusal_text(verdict.refusal));
    cr_assert_eq(ticket.key, &config->keys[index]);
    admission_release(&ticket);
}

static struct admission_verdict expect_refused(unsigned index, enum problem problem,
                                               enum metric_refusal refusal)
{
    struct admission_ticket ticket;
    uint32_t before = in_flight(index);
    struct admission_verdict verdict = ask_with_key(index, &ticket);

    cr_assert_not(verdict.admitted);
    cr_assert_eq(verdict.problem, problem, "problem: %s", problem_text(verdict.problem)->code);
    cr_assert_eq(verdict.refusal, refusal, "refusal: %s", metric_refusal_text(verdict.refusal));
    admission_release(&ticket);
    cr_assert_eq(in_flight(index), before, "a refused request stays counted");
    return verdict;
}

/* ---- who it is */

static void expect_unauthorized(const char *authorization, enum metric_refusal refusal)
{
    struct admission_ticket ticket;
    struct admission_verdict verdict = ask(authorization, &ticket);

    cr_assert_not(verdict.admitted);
    cr_assert_eq(verdict.problem, PROBLEM_UNAUTHORIZED, "%s", authorization);
    cr_assert_eq(verdict.refusal, refusal, "%s: %s", authorization,
                 metric_refusal_text(verdict.refusal));
    cr_assert(verdict.is_authentication, "it must count against the address");
    cr_assert_null(ticket.key, "an unknown caller has a team");
    admission_release(&ticket);
}

Test(admission, a_key_is_taken_with_and_without_its_scheme)
{
    struct admission_ticket ticket;

    load_key("");
    expect_admitted(0);
    cr_assert(ask(secrets[0], &ticket).admitted);
    cr_assert_eq(in_flight(0), 1);
    admission_release(&ticket);
    cr_assert_eq(in_flight(0), 0);
}

Test(admission, each_way_of_having_no_valid_key_is_told_apart_for_the_log_only)
{
    char field[2 * KEY_LENGTH_MAXIMUM + 16];
    char other[KEY_LENGTH_MAXIMUM + 1] = "";
    size_t length;

    load_key("");
    expect_unauthorized("", METRIC_REFUSAL_KEY_MISSING);
    expect_unauthorized("Bearer", METRIC_REFUSAL_KEY_MALFORMED);
    expect_unauthorized("Basic dTpw", METRIC_REFUSAL_KEY_MALFORMED);
    expect_unauthorized("Bearer rpa_SOMETHING", METRIC_REFUSAL_KEY_MALFORMED);
    snprintf(field, sizeof field, "Bearer %s", secrets[0]);
    field[strlen(field) - 1] ^= 1; /* a typo: the checksum tells */
    expect_unauthorized(field, METRIC_REFUSAL_KEY_MALFORMED);
    snprintf(field, sizeof field, "Bearer %s %s", secrets[0], secrets[0]);
    expect_unauthorized(field, METRIC_REFUSAL_KEY_MALFORMED);
    cr_assert(key_generate(VIEW("nobody"), other, &length));
    expect_unauthorized(other, METRIC_REFUSAL_KEY_UNKNOWN);
    memset(other, 0, sizeof other);
    cr_assert(key_generate(VIEW("key-0"), other, &length)); /* the id of one, the secret of none */
    expect_unauthorized(other, METRIC_REFUSAL_KEY_WRONG);
}

Test(admission, a_key_is_refused_from_its_expiry_on)
{
    load_key("expires = \"2030-01-01\"");
    wall_ms = config->keys[0].expires_wall_ms - 1;
    expect_admitted(0);
    wall_ms = config->keys[0].expires_wall_ms;
    cr_assert(
        expect_refused(0, PROBLEM_UNAUTHORIZED, METRIC_REFUSAL_KEY_EXPIRED).is_authentication);
}

/* ---- what it may do */

Test(admission, each_operation_needs_its_own_permission)
{
    static const struct {
        const char *target;
        const char *operation;
    } rows[] = {
        {"/v2/abc/run", "run"},         {"/v2/abc/runsync", "runsync"},
        {"/v2/abc/status/j", "status"}, {"/v2/abc/status-sync/j", "status"},
        {"/v2/abc/stream/j", "stream"}, {"/v2/abc/cancel/j", "cancel"},
        {"/v2/abc/retry/j", "retry"},   {"/v2/abc/jobs", "status"},
        {"/v2/abc/health", "health"},   {"/v2/abc/requests", "requests"},
        {"/v2/abc/batch/j", "batch"},   {"/v2/abc/openai/v1/models", "openai"},
        {"/v2/abc/jobs/j", "delete"},
    };

    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        char alone[64];
        char others[512] = "operations = {\"adopt\"";
        const char *options[] = {alone, others};

        snprintf(alone, sizeof alone, "operations = {\"%s\"}", rows[i].operation);
        for (size_t j = 0; j < ARRAY_LENGTH(rows); j++) {
            size_t length = strlen(others);

            /* Each once: an operation that stands twice is a mistake. */
            if (strcmp(rows[j].operation, rows[i].operation) != 0 &&
                !strstr(others, rows[j].operation)) {
                snprintf(others + length, sizeof others - length, ", \"%s\"", rows[j].operation);
            }
        }
        strcat(others, "}");
        cr_assert_eq(route_parse(view_of_string(rows[i].target), &route), ROUTE_OK, "%s",
                     rows[i].target);
        load_keys("\"*\"", options, 2);
        expect_admitted(0);
        expect_refused(1, PROBLEM_FORBIDDEN_OPERATION, METRIC_REFUSAL_OPERATION);
        config_unref(config);
        config = NULL;
    }
}

Test(admission, every_key_may_ask_who_it_is)
{
    load_key("operations = {\"cancel\"} endpoints = {\"other\"}");
    set_target("/podgate/v1/whoami");
    expect_admitted(0);
}

Test(admission, purging_needs_purge_or_purge_all)
{
    static const char *const options[] = {"operations = {\"purge\"}", "operations = {\"run\"}",
                                          "operations = {\"purge-all\"}"};

    load_keys("\"*\"", options, 3);
    set_target("/v2/abc/purge-queue");
    expect_admitted(0);
    expect_refused(1, PROBLEM_FORBIDDEN_OPERATION, METRIC_REFUSAL_OPERATION);
    expect_admitted(2);
}

Test(admission, ttl_needs_a_key_that_may_submit)
{
    static const char *const options[] = {"operations = {\"status\"}",
                                          "operations = {\"status\", \"run\"}",
                                          "operations = {\"status\", \"runsync\"}"};

    load_keys("\"*\"", options, 3);
    set_target("/v2/abc/status/j?ttl=1000");
    expect_refused(0, PROBLEM_FORBIDDEN_OPERATION, METRIC_REFUSAL_OPERATION);
    expect_admitted(1);
    expect_admitted(2);
    set_target("/v2/abc/status/j");
    expect_admitted(0);
}

Test(admission, endpoints_are_named_exactly_or_by_prefix_by_team_and_key)
{
    static const char *const options[] = {"", "endpoints = {\"abc\"}"};

    load_keys("\"abc\", \"pre*\"", options, 2);
    expect_admitted(0);
    expect_admitted(1);
    set_target("/v2/prefixed/run");
    expect_admitted(0);
    expect_refused(1, PROBLEM_FORBIDDEN_ENDPOINT, METRIC_REFUSAL_ENDPOINT);
    set_target("/v2/abcd/run");
    expect_refused(0, PROBLEM_FORBIDDEN_ENDPOINT, METRIC_REFUSAL_ENDPOINT);
    set_target("/v2/ABC/run");
    expect_refused(0, PROBLEM_FORBIDDEN_ENDPOINT, METRIC_REFUSAL_ENDPOINT);
    set_target("/v2/pr/run");
    expect_refused(0, PROBLEM_FORBIDDEN_ENDPOINT, METRIC_REFUSAL_ENDPOINT);
}

Test(admission, flash_is_not_there_for_who_does_not_name_it)
{
    static const char *const options[] = {"", "endpoints = {\"flash\"}", "endpoints = {\"fl*\"}"};

    load_keys("\"*\"", options, 3);
    set_target("/v2/flash/run");
    cr_assert(route.is_flash);
    expect_refused(0, PROBLEM_NOT_FOUND, METRIC_REFUSAL_ENDPOINT);
    expect_admitted(1);
    expect_refused(2, PROBLEM_NOT_FOUND, METRIC_REFUSAL_ENDPOINT);
}

Test(admission, allow_from_holds_by_the_callers_network)
{
    load_key("allow_from = {\"10.0.0.0/8\", \"2001:db8::/32\"}");
    expect_admitted(0);
    cr_assert(address_parse(VIEW("11.0.0.1"), &peer));
    expect_refused(0, PROBLEM_FORBIDDEN_ADDRESS, METRIC_REFUSAL_ADDRESS);
    cr_assert(address_parse(VIEW("2001:db8::7"), &peer));
    expect_admitted(0);
    cr_assert(address_parse(VIEW("::ffff:10.0.0.1"), &peer));
    expect_admitted(0);
    peer = (struct address){.family = ADDRESS_UNIX};
    expect_refused(0, PROBLEM_FORBIDDEN_ADDRESS, METRIC_REFUSAL_ADDRESS);
}

/* ---- how much of it */

Test(admission, a_rate_refuses_with_the_seconds_to_wait)
{
    load_key("rate = {\"2/m\"} burst = 2");
    expect_admitted(0);
    expect_admitted(0);
    cr_assert_eq(expect_refused(0, PROBLEM_RATE_LIMITED, METRIC_REFUSAL_RATE).retry_after_s, 30);
    now_us += 29 * 1000 * 1000;
    cr_assert_eq(expect_refused(0, PROBLEM_RATE_LIMITED, METRIC_REFUSAL_RATE).retry_after_s, 1);
    now_us += 1000 * 1000;
    expect_admitted(0);
    expect_refused(0, PROBLEM_RATE_LIMITED, METRIC_REFUSAL_RATE);
}

Test(admission, a_read_is_told_to_wait_for_10_s_at_most)
{
    load_key("rate = {\"1/h\"} burst = 1");
    set_target("/v2/abc/status/j");
    expect_admitted(0);
    cr_assert_eq(expect_refused(0, PROBLEM_RATE_LIMITED, METRIC_REFUSAL_RATE).retry_after_s, 10);
    set_target("/v2/abc/run");
    cr_assert_eq(expect_refused(0, PROBLEM_RATE_LIMITED, METRIC_REFUSAL_RATE).retry_after_s, 3600);
}

static uint64_t rate_state(size_t limit)
{
    return atomic_load(&config->keys[0].state->limits[limit].arrival_ns);
}

Test(admission, a_refused_request_is_charged_to_no_rate)
{
    static const char *const targets[] = {"/v2/other/run", "/v2/abc/cancel/j", "/v2/flash/run"};
    uint64_t before;

    load_key("rate = {\"100/s\", \"2/h\"} operations = {\"run\"} endpoints = {\"abc\"} "
             "concurrency = 1 allow_from = {\"10.0.0.0/8\"}");
    for (size_t i = 0; i < ARRAY_LENGTH(targets); i++) {
        struct admission_ticket ticket;

        set_target(targets[i]);
        cr_assert_not(ask_with_key(0, &ticket).admitted);
        admission_release(&ticket);
    }
    set_target("/v2/abc/run");
    cr_assert(address_parse(VIEW("11.0.0.1"), &peer));
    expect_refused(0, PROBLEM_FORBIDDEN_ADDRESS, METRIC_REFUSAL_ADDRESS);
    cr_assert_eq(rate_state(0), 0);
    cr_assert_eq(rate_state(1), 0);
    cr_assert(address_parse(VIEW("10.0.0.1"), &peer));
    {
        struct admission_ticket first;

        cr_assert(ask_with_key(0, &first).admitted);
        before = rate_state(1);
        expect_refused(0, PROBLEM_CONCURRENCY_LIMITED, METRIC_REFUSAL_CONCURRENCY);
        cr_assert_eq(rate_state(1), before, "a refusal by concurrency was charged to the rate");
        admission_release(&first);
    }
    expect_admitted(0);
    before = rate_state(0);
    expect_refused(0, PROBLEM_RATE_LIMITED, METRIC_REFUSAL_RATE);
    cr_assert_eq(rate_state(0), before, "one rate was charged though the other refused");
}

Test(admission, concurrency_counts_from_admission_to_release)
{
    struct admission_ticket tickets[2];

    load_key("concurrency = 2");
    cr_assert(ask_with_key(0, &tickets[0]).admitted);
    cr_assert(ask_with_key(0, &tickets[1]).admitted);
    cr_assert_eq(
        expect_refused(0, PROBLEM_CONCURRENCY_LIMITED, METRIC_REFUSAL_CONCURRENCY).retry_after_s,
        1);
    cr_assert_eq(in_flight(0), 2);
    admission_release(&tickets[1]);
    expect_admitted(0);
    admission_release(&tickets[0]);
    cr_assert_eq(in_flight(0), 0);
}

Test(admission, a_ticket_is_given_back_once_however_often_it_is_released)
{
    struct admission_ticket first;
    struct admission_ticket second;

    load_key("concurrency = 5");
    cr_assert(ask_with_key(0, &first).admitted);
    cr_assert(ask_with_key(0, &second).admitted);
    admission_release(&first);
    cr_assert_null(first.key);
    admission_release(&first);
    admission_release(&first);
    cr_assert_eq(in_flight(0), 1, "somebody else's place was given back");
    admission_release(&second);
}

Test(admission, a_refused_ticket_names_the_team_for_the_log)
{
    struct admission_ticket ticket;

    load_key("operations = {\"status\"}");
    cr_assert_not(ask_with_key(0, &ticket).admitted);
    cr_assert_eq(ticket.key, &config->keys[0]);
    cr_assert_not(ticket.counted);
}

/* ---- failed attempts */

static struct failed_attempts *attempts;

static void set_up_attempts(void)
{
    attempts = failed_attempts_create();
    cr_assert(address_parse(VIEW("192.0.2.1"), &peer));
}

static void tear_down_attempts(void)
{
    failed_attempts_destroy(attempts);
}

TestSuite(failed_attempts, .init = set_up_attempts, .fini = tear_down_attempts);

static void fail_often(unsigned count, uint64_t at_ms)
{
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(failed_attempts_add(attempts, &peer, at_ms), 0, "attempt %u", i + 1);
    }
}

Test(failed_attempts, the_eleventh_within_10_s_waits)
{
    fail_often(5, 100000);
    fail_often(5, 109000);
    cr_assert_eq(failed_attempts_add(attempts, &peer, 110000), FAILED_ATTEMPTS_DELAY_MS);
    cr_assert_eq(failed_attempts_add(attempts, &peer, 110000), FAILED_ATTEMPTS_DELAY_MS);
}

Test(failed_attempts, after_10_s_they_are_forgotten)
{
    fail_often(10, 100000);
    fail_often(10, 110001);
    cr_assert_eq(failed_attempts_add(attempts, &peer, 110002), FAILED_ATTEMPTS_DELAY_MS);
}

Test(failed_attempts, addresses_are_counted_apart)
{
    struct address other;

    fail_often(10, 100000);
    cr_assert(address_parse(VIEW("192.0.2.2"), &other));
    cr_assert_eq(failed_attempts_add(attempts, &other, 100000), 0);
    cr_assert_eq(failed_attempts_add(attempts, &peer, 100000), FAILED_ATTEMPTS_DELAY_MS);
}

Test(failed_attempts, more_addresses_than_can_be_told_apart_all_wait_until_the_window_is_over)
{
    bool waited = false;

    for (unsigned i = 0; i < 20000; i++) {
        char text[32];
        struct address each;

        snprintf(text, sizeof text, "10.%u.%u.1", i / 250, i % 250);
        cr_assert(address_parse(view_of_string(text), &each));
        waited = failed_attempts_add(attempts, &each, 100000) > 0;
    }
    cr_assert(waited, "memory grows with the number of attackers");
    cr_assert_eq(failed_attempts_add(attempts, &peer, 111000), 0, "the old ones stay for ever");
}
