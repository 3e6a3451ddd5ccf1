/* For the tests of the gateway: one or two gateways, each with a loop, a front and a client of its
 * own, in the test's one thread; callers over socket pairs; and an upstream that says what the test
 * says.
 *
 *     upstream_says("200 OK", "{\"id\":\"j\"}");
 *     ask(&caller, "POST", "/v2/abc/run", "", "{}");
 *     expect_answer(&caller, 200);
 */
#ifndef PODGATE_TESTS_GATEWAY_FIXTURE_H
#define PODGATE_TESTS_GATEWAY_FIXTURE_H

#include <sys/mman.h>

#include "caller.h"
#include "store_place.h"

#include "base/table.h"
#include "gateway/admission.h"
#include "gateway/breaker.h"
#include "gateway/flight.h"
#include "gateway/ledger.h"
#include "gateway/operation_table.h"
#include "gateway/request.h"
#include "gateway/stream.h"
#include "model/key_state.h"
#include "store/hot_cache.h"
#include "store/result_codec.h"
#include "store/store.h"

enum { SIDES = 2, SEEN = 256 };

/* One worker's share. */
struct side {
    struct gateway gateway;
    struct front *front;
};

static struct side sides[SIDES];
static size_t side_count;
static struct gateway_shared shared;
static struct gateway *gateway_list[SIDES];
static struct key_state_table *states;
static struct log *log_writer;
static int log_descriptor = -1;
static struct loop *second_loop;
static char key_text[KEY_LENGTH_MAXIMUM + 1];

#define FRONT (sides[0].front)
#define GATEWAY (&sides[0].gateway)

/* ---- the upstream */

/* What it was asked, in order, and by whom. */
static char *seen[SEEN];
static size_t seen_length[SEEN];
static struct peer_connection *asked_by[SEEN];
static unsigned seen_count;
/* What it answers at once; NULL: the test answers by upstream_answers(). */
static char *standing_answer;

HELPER char *make_answer(const char *status, const char *fields, const char *body)
{
    char *text = NULL;

    cr_assert_gt(asprintf(&text,
                          "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%s"
                          "Content-Length: %zu\r\n\r\n%s",
                          status, fields, strlen(body), body),
                 0);
    return text;
}

HELPER void upstream_says_with(const char *status, const char *fields, const char *body)
{
    free(standing_answer);
    standing_answer = make_answer(status, fields, body);
}

HELPER void upstream_says(const char *status, const char *body)
{
    upstream_says_with(status, "", body);
}

/* As it is, without a head made for it. */
HELPER void upstream_says_raw(const char *text)
{
    free(standing_answer);
    standing_answer = strdup(text);
}

HELPER void upstream_holds(void)
{
    free(standing_answer);
    standing_answer = NULL;
}

HELPER void on_upstream_request(struct peer_connection *connection, struct view request)
{
    cr_assert_lt(seen_count, SEEN);
    seen[seen_count] = malloc(request.length + 1);
    memcpy(seen[seen_count], request.data, request.length);
    seen[seen_count][request.length] = '\0';
    seen_length[seen_count] = request.length;
    asked_by[seen_count++] = connection;
    if (standing_answer) {
        peer_send(connection, standing_answer);
    }
}

/* Answers request `index`, counted from 0. */
HELPER void upstream_answers(unsigned index, const char *status, const char *body)
{
    char *text = make_answer(status, "", body);

    peer_send(asked_by[index], text);
    free(text);
}

HELPER void expect_asked(unsigned index, const char *line)
{
    cr_assert_lt(index, seen_count, "the upstream was asked %u times", seen_count);
    cr_assert_eq(strncmp(seen[index], line, strlen(line)), 0, "asked: %.80s", seen[index]);
}

/* ---- gateways */

HELPER void open_side(size_t index, struct loop *its_loop)
{
    struct side *side = &sides[index];
    struct gateway *gateway = &side->gateway;

    *gateway = (struct gateway){
        .shared = &shared,
        .index = index,
        .loop = its_loop,
        .log = log_ring_create(log_writer, 1024 * 1024),
        .metrics = index == 0 ? block : metrics_block_create(metrics),
        .config = config_ref(config),
        .operations = operation_table,
        .random_state = {index + 1, 2},
    };
    gateway->hasher = key_hasher_create();
    gateway->store = store_client_create(shared.store, its_loop, gateway->metrics, gateway->log);
    gateway->ledger = ledger_create(gateway);
    gateway->breaker = breaker_create(gateway->metrics, gateway->log);
    gateway->flights = flights_create(gateway);
    gateway->streams = streams_create(gateway);
    gateway->requests = request_pool_create(gateway);
    gateway->upstream =
        upstream_create(its_loop, config, identity, &budget, gateway->metrics, gateway->log);
    side->front = front_create(its_loop, config, &request_handler, gateway, NULL, limits, &budget,
                               gateway->metrics, gateway->log);
    cr_assert(gateway->hasher && gateway->store && gateway->ledger && gateway->breaker &&
              gateway->flights && gateway->streams && gateway->requests && gateway->upstream &&
              side->front);
    gateway_list[index] = gateway;
}

HELPER void close_side(struct side *side)
{
    struct gateway *gateway = &side->gateway;

    streams_destroy(gateway->streams);
    flights_destroy(gateway->flights);
    cr_expect_eq(request_pool_running(gateway->requests), 0, "requests that never ended");
    request_pool_destroy(gateway->requests);
    ledger_destroy(gateway->ledger);
    store_client_destroy(gateway->store);
    upstream_destroy(gateway->upstream);
    breaker_destroy(gateway->breaker);
    key_hasher_destroy(gateway->hasher);
    config_unref(gateway->config);
}

static void adopt_states(const struct config *loaded)
{
    union {
        const struct config *constant;
        struct config *writable;
    } both = {.constant = loaded};

    cr_assert(config_adopt(both.writable, states));
}

/* `count` gateways; `upstream_options` in the section of that name, `key_options` for the one key
 * of team "t", `options` beside them. */
HELPER void open_gateways(size_t count, const char *upstream_options, const char *key_options,
                          const char *options)
{
    uint8_t hash[KEY_HASH_LENGTH];
    char hex[2 * KEY_HASH_LENGTH + 1];
    size_t length;
    struct key_hasher *hasher = key_hasher_create();
    char *text = NULL;
    char *problem = NULL;

    make_store_place();
    cr_assert(key_generate(VIEW("test"), key_text, &length));
    cr_assert(key_hash(hasher, view_make(key_text, length), hash));
    key_hasher_destroy(hasher);
    for (size_t i = 0; i < sizeof hash; i++) {
        snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    }
    cr_assert_gt(
        asprintf(
            &text,
            "upstream { url = \"http://127.0.0.1:%u/v2\" api_key_env = \"PODGATE_TEST_KEY\" %s }\n"
            "store { path = \"%s/podgate.db\" }\n"
            "%s\nteam \"t\" { endpoints = {\"*\"} key \"test\" { sha256 = \"%s\" %s } }\n",
            peer.port, upstream_options, store_directory, options, hex, key_options),
        0);
    config = load_config(text);
    free(text);
    adopt_states(config);
    identity = upstream_identity_create(config, &problem);
    cr_assert_not_null(identity, "%s", problem);
    limits = connection_limits_create(config);
    log_descriptor = memfd_create("log", MFD_CLOEXEC);
    log_writer = log_create(log_descriptor, LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    shared = (struct gateway_shared){.budget = &budget,
                                     .identity = identity,
                                     .failed_attempts = failed_attempts_create(),
                                     .gateways = gateway_list,
                                     .gateway_count = count};
    open_store(&shared, config, &budget, metrics, log_writer);
    side_count = count;
    open_side(0, loop);
    if (count == 2) {
        second_loop = loop_create();
        open_side(1, second_loop);
    }
}

HELPER void settle_both(void)
{
    for (int i = 0; i < 40; i++) {
        event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
        event_base_loop(loop_base(second_loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
    }
}

/* As RUN_UNTIL, for two loops in one thread. */
#define RUN_BOTH_UNTIL(condition)                                                                  \
    do {                                                                                           \
        uint64_t limit_ms = clock_real_ms() + 30000;                                               \
        while (!(condition)) {                                                                     \
            cr_assert(clock_real_ms() < limit_ms, "never came true: " #condition);                 \
            settle_both();                                                                         \
        }                                                                                          \
    } while (0)

#define ALL_OPERATIONS                                                                             \
    "operations = {\"run\", \"runsync\", \"status\", \"stream\", \"cancel\", \"retry\", "          \
    "\"health\", "                                                                                 \
    "\"purge-all\", \"openai\", \"requests\", \"batch\"} "

HELPER void set_up_peer(void)
{
    set_up_without_client();
    peer.on_request = on_upstream_request;
    states = key_state_table_create();
}

HELPER void set_up_gateway(void)
{
    set_up_peer();
    open_gateways(1, "", ALL_OPERATIONS, "");
}

/* Ends all gateways and gives what was logged, one text that lives to the end of the test. */
HELPER const char *end_gateways(void)
{
    static char text[1024 * 1024];
    ssize_t length;

    if (side_count > 0) {
        result_codec_destroy(shared.codec);
        shared.codec = NULL;
        for (size_t i = 0; i < side_count; i++) {
            loop_flush_mail(sides[i].gateway.loop);
        }
        for (size_t i = 0; i < side_count; i++) {
            front_destroy(sides[i].front); /* callers of all go before any other part does */
        }
        for (size_t i = 0; i < side_count; i++) {
            close_side(&sides[i]);
        }
        side_count = 0;
        close_store(&shared);
        log_destroy(log_writer);
        log_writer = NULL;
    }
    length = pread(log_descriptor, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = '\0';
    return text;
}

HELPER void tear_down_gateway(void)
{
    uint32_t in_flight = atomic_load(&config->keys[0].state->in_flight);

    (void)end_gateways();
    in_flight = atomic_load(&config->keys[0].state->in_flight);
    cr_expect_eq(in_flight, 0, "tickets that were not given back");
    cr_expect_eq(metrics_sum(metrics, METRIC_REQUESTS_IN_FLIGHT, 0, 0), 0);
    cr_expect_eq(metrics_sum(metrics, METRIC_WAITING_CALLERS, 0, 0), 0);
    cr_expect_eq(connection_limits_count(limits), 0);
    failed_attempts_destroy(shared.failed_attempts);
    connection_limits_destroy(limits);
    if (second_loop) {
        loop_destroy(second_loop);
        second_loop = NULL;
    }
    close(log_descriptor);
    for (unsigned i = 0; i < seen_count; i++) {
        free(seen[i]);
    }
    upstream_holds();
    tear_down();
    key_state_table_destroy(states);
}

/* ---- the ledger */

static bool store_answered;
static enum store_result store_answer;

HELPER void on_store_answer(UNUSED void *argument, const struct store_reply *reply)
{
    store_answered = true;
    store_answer = reply->result;
}

/* Asks the store and waits; what it answered. */
HELPER enum store_result ask_store(const struct store_question *question)
{
    store_answered = false;
    cr_assert_not_null(store_ask(GATEWAY->store, question, on_store_answer, NULL));
    RUN_UNTIL(store_answered);
    return store_answer;
}

/* A job of `team` in the ledger, as if it had been submitted just now. */
HELPER void enter_job_of(const char *team, const char *endpoint, const char *job)
{
    struct store_question question = {
        .operation = STORE_ADOPT_JOB,
        .endpoint = view_of_string(endpoint),
        .job = view_of_string(job),
        .team = view_of_string(team),
        .key = VIEW("test"),
        .state = JOB_IN_QUEUE,
        .due_ms = 60000,
        .deadline_ms = 1800000,
    };

    cr_assert_eq(ask_store(&question), STORE_OK);
}

HELPER void enter_job(const char *endpoint, const char *job)
{
    enter_job_of("t", endpoint, job);
}

/* ---- callers */

/* Sends a request with the test's key; `fields` each end in CRLF. */
HELPER void ask(struct caller *caller, const char *method, const char *target, const char *fields,
                const char *body)
{
    char *text = NULL;
    char length[64] = "";

    if (body) {
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", strlen(body));
    }
    cr_assert_gt(asprintf(&text,
                          "%s %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n%s%s\r\n%s",
                          method, target, key_text, fields, length, body ? body : ""),
                 0);
    caller_send(caller, text);
    free(text);
}

HELPER void get(struct caller *caller, const char *target)
{
    ask(caller, "GET", target, "", NULL);
}

HELPER void post(struct caller *caller, const char *target, const char *body)
{
    ask(caller, "POST", target, "", body);
}

/* The status of the answer that came whole, or 0. The next one counts after caller_clear(). */
HELPER unsigned answer_status(struct caller *caller)
{
    const char *end;
    const char *field;
    const char *body;

    caller_read(caller);
    end = memmem(caller->received, caller->length, "\r\n\r\n", 4);
    if (!end) {
        return 0;
    }
    body = end + 4;
    field = memmem(caller->received, (size_t)(body - caller->received), "Content-Length: ", 16);
    if (field ? (size_t)(caller->received + caller->length - body) < strtoul(field + 16, NULL, 10)
              : memmem(body, (size_t)(caller->received + caller->length - body), "0\r\n\r\n", 5) ==
                    NULL) {
        return 0;
    }
    return (unsigned)strtoul(caller->received + 9, NULL, 10);
}

HELPER const char *answer_body(const struct caller *caller)
{
    const char *end = strstr(caller->received, "\r\n\r\n");

    return end ? end + 4 : "";
}

#define EXPECT_ANSWER(caller, expected)                                                            \
    do {                                                                                           \
        RUN_UNTIL(answer_status(caller) != 0);                                                     \
        cr_assert_eq(answer_status(caller), expected, "answer: %s", (caller)->received);           \
    } while (0)

/* One of podgate's own errors. */
#define EXPECT_PROBLEM(caller, expected, code)                                                     \
    do {                                                                                           \
        EXPECT_ANSWER(caller, expected);                                                           \
        cr_assert(caller_has(caller, "Podgate-Origin: gateway\r\n"), "%s", (caller)->received);    \
        cr_assert(caller_has(caller, "\"code\":\"" code "\""), "%s", (caller)->received);          \
    } while (0)

HELPER uint64_t count_of(size_t metric, size_t first)
{
    return metrics_sum(metrics, metric, first, 0);
}

/* Lets time pass. */
HELPER void pass(uint64_t ms)
{
    clock_advance(ms);
    second_loop ? settle_both() : settle();
}

#endif
