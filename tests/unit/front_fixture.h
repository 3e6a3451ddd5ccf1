/* For the tests of net/connection: a front whose handler does what the test says, and callers. */
#ifndef PODGATE_TESTS_FRONT_FIXTURE_H
#define PODGATE_TESTS_FRONT_FIXTURE_H

#include "caller.h"

enum { CALLS = 32768 };

/* One request as the handler was told of it. */
struct call {
    struct inbound inbound; /* must be first */
    bool whole_head;
    unsigned bad_status;
    bool has_fault;
    enum connection_body_fault fault;
    bool body_came;
    struct body *body;
    unsigned hangups;
    unsigned drained;
    unsigned sent;
    bool over; /* nothing may be told any more */
};

/* What the handler does. */
static bool answer_at_head; /* without reading the body */
static bool hold;           /* the test answers */
static uint64_t body_maximum = 1024 * 1024;
static bool refuse_memory;

static struct front *front;
static struct call *calls[CALLS];
static unsigned call_count;
static unsigned hangup_count;

HELPER void call_answer_with(struct call *call, const char *status_line, struct view text)
{
    struct connection *connection = call->inbound.connection;
    bool close = connection_wants_close(connection);
    char head[256];
    struct connection_part part = {.data = text, .last = true};
    int length = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n%s\r\n",
                          status_line, text.length, close ? "Connection: close\r\n" : "");

    part.head = view_make(head, (size_t)length);
    if (connection_send(connection, &part) != CONNECTION_BLOCKED) {
        call->over = true;
        cr_assert_null(call->inbound.connection);
    }
}

/* Answers with the target and the body. */
HELPER void call_answer(struct call *call)
{
    struct view target = http_request_target(&call->inbound.head);
    struct view body = body_view(call->body);
    char *text = malloc(target.length + body.length + 2);

    memcpy(text, target.data, target.length);
    text[target.length] = '=';
    if (body.length > 0) {
        memcpy(text + target.length + 1, body.data, body.length);
    }
    call_answer_with(call, "200 OK", view_make(text, target.length + 1 + body.length));
    free(text);
}

HELPER struct inbound *told_create(UNUSED void *owner, UNUSED struct connection *connection)
{
    if (refuse_memory) {
        return NULL;
    }
    cr_assert_lt(call_count, CALLS);
    calls[call_count] = calloc(1, sizeof *calls[0]);
    return &calls[call_count++]->inbound;
}

HELPER void told_whole_head(UNUSED void *owner, struct inbound *inbound)
{
    struct call *call = (struct call *)inbound;

    cr_assert_not(call->over || call->whole_head);
    call->whole_head = true;
    if (answer_at_head) {
        call_answer(call);
    } else {
        connection_read_body(inbound->connection, body_maximum);
    }
}

HELPER void told_bad_head(UNUSED void *owner, struct inbound *inbound, unsigned status,
                          struct view detail)
{
    struct call *call = (struct call *)inbound;

    cr_assert_not(call->over || call->whole_head);
    cr_assert_gt(detail.length, 0);
    call->bad_status = status;
    call_answer_with(call, "400 Bad", VIEW("bad"));
}

HELPER void told_whole_body(UNUSED void *owner, struct inbound *inbound, struct body *body)
{
    struct call *call = (struct call *)inbound;

    cr_assert(call->whole_head && !call->over && !call->body_came);
    call->body_came = true;
    call->body = body;
    if (!hold) {
        call_answer(call);
    }
}

HELPER void told_body_fault(UNUSED void *owner, struct inbound *inbound,
                            enum connection_body_fault fault)
{
    struct call *call = (struct call *)inbound;

    cr_assert(call->whole_head && !call->over && !call->body_came);
    call->has_fault = true;
    call->fault = fault;
    call_answer_with(call, "413 No", VIEW("fault"));
}

HELPER void told_hangup(UNUSED void *owner, struct inbound *inbound)
{
    struct call *call = (struct call *)inbound;

    cr_assert_not(call->over);
    cr_assert_null(inbound->connection);
    call->hangups++;
    hangup_count++;
    call->over = true;
}

HELPER void told_drained(UNUSED void *owner, struct inbound *inbound)
{
    struct call *call = (struct call *)inbound;

    cr_assert_not(call->over);
    call->drained++;
}

HELPER void told_sent(UNUSED void *owner, struct inbound *inbound)
{
    struct call *call = (struct call *)inbound;

    cr_assert_not(call->over);
    cr_assert_null(inbound->connection);
    call->sent++;
    call->over = true;
}

static const struct connection_handler fake_handler = {
    .create_inbound = told_create,
    .on_head = told_whole_head,
    .on_bad_head = told_bad_head,
    .on_body = told_whole_body,
    .on_body_fault = told_body_fault,
    .on_hangup = told_hangup,
    .on_drained = told_drained,
    .on_sent = told_sent,
};

/* A front with these options in its configuration. */
HELPER void open_front(const char *options, struct tls_server *tls)
{
    char *text = NULL;

    cr_assert_gt(asprintf(&text, "upstream { api_key_env = \"PODGATE_TEST_KEY\" }\n%s\n", options),
                 0);
    config = load_config(text);
    free(text);
    limits = connection_limits_create(config);
    front = front_create(loop, config, &fake_handler, NULL, tls, limits, &budget, block, NULL);
    cr_assert_not_null(front);
}

HELPER void set_up_front(void)
{
    set_up_without_client();
    call_count = 0;
}

HELPER void drop_calls(void)
{
    for (unsigned i = 0; i < call_count; i++) {
        inbound_clear(&calls[i]->inbound);
        body_unref(calls[i]->body);
        free(calls[i]);
    }
    call_count = 0;
}

HELPER void tear_down_front(void)
{
    front_destroy(front);
    settle();
    drop_calls();
    cr_expect_eq(connection_limits_count(limits), 0);
    cr_expect_eq(metrics_sum(metrics, METRIC_CONNECTIONS_OPEN, 0, 0), 0);
    connection_limits_destroy(limits);
    tear_down();
}

/* The sweep comes four times a second; this lets it see `ms` passed. */
HELPER void pass(uint64_t ms)
{
    clock_advance(ms);
    settle();
}

#endif
