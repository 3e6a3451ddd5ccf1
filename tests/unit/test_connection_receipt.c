#include "build_config.h"

#include "front_fixture.h"

/* Whether an answer was read, over TCP as a caller's system acts. */

struct told {
    struct connection_receipt receipt;
    unsigned count;
    bool read;
};

static struct caller caller;
static struct told told;
static struct told second;

static void on_settled(struct connection_receipt *receipt, bool read)
{
    struct told *it = (struct told *)(void *)receipt;

    it->count++;
    it->read = read;
}

static void set_up_receipt(void)
{
    set_up_front();
    open_front("timeouts { idle = \"120s\" send = \"30s\" }", NULL);
    caller_open_tcp(&caller, front, &plain_address);
    hold = true;
    told = (struct told){.receipt = {.on_settled = on_settled}};
    second = (struct told){.receipt = {.on_settled = on_settled}};
}

static void tear_down_receipt(void)
{
    caller_close(&caller);
    tear_down_front();
}

TestSuite(connection_receipt, .init = set_up_receipt, .fini = tear_down_receipt, .timeout = 60);

/* Sends a request, and answers it with `bytes` of text, watched. */
static void ask_and_answer(const char *fields, size_t bytes, struct told *watch)
{
    char request[256];
    char *text = malloc(bytes + 1);
    unsigned before = call_count;

    snprintf(request, sizeof request, "GET /1 HTTP/1.1\r\nHost: a\r\n%s\r\n", fields);
    caller_send(&caller, request);
    RUN_UNTIL(call_count > before && calls[before]->body_came);
    memset(text, 'x', bytes);
    connection_watch(calls[before]->inbound.connection, &watch->receipt);
    call_answer_with(calls[before], "200 OK", view_make(text, bytes));
    free(text);
}

static size_t read_some(size_t bytes)
{
    char room[4096];
    size_t count = 0;

    while (count < bytes) {
        ssize_t got = recv(caller.descriptor, room, bytes - count < sizeof room ? bytes - count
                                                                                : sizeof room, 0);

        if (got > 0) {
            count += (size_t)got;
        } else {
            step();
        }
    }
    return count;
}

/* How long the answer is by which ask_and_answer() answers. */
static size_t answer_length(size_t bytes)
{
    char head[128];

    return bytes + (size_t)snprintf(head, sizeof head,
                                    "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", bytes);
}

Test(connection_receipt, is_open_before_the_answer_and_acknowledged_behind_it)
{
    ask_and_answer("", 100, &told);
    RUN_UNTIL(connection_look(&told.receipt) == CONNECTION_DELIVERY_ACKNOWLEDGED);
    cr_assert_eq(told.count, 0, "acknowledged isn't read");
    connection_unwatch(&told.receipt);
    caller_hang_up(&caller);
    RUN_UNTIL(front_connection_count(front) == 0);
    cr_assert_eq(told.count, 0);
}

Test(connection_receipt, the_next_request_says_that_it_was_read)
{
    ask_and_answer("", 100, &told);
    read_some(answer_length(100));
    cr_assert_eq(told.count, 0);
    ask_and_answer("", 100, &second);
    cr_assert_eq(told.count, 1);
    cr_assert(told.read);
    cr_assert_eq(second.count, 0);
}

Test(connection_receipt, an_orderly_end_behind_all_bytes_says_so_too)
{
    ask_and_answer("", 100, &told);
    read_some(answer_length(100));
    caller_hang_up(&caller);
    RUN_UNTIL(told.count == 1);
    cr_assert(told.read);
}

Test(connection_receipt, whoever_leaves_bytes_unread_has_not_read)
{
    for (size_t left = 1; left <= answer_length(100); left += 13) {
        told = (struct told){.receipt = {.on_settled = on_settled}};
        ask_and_answer("", 100, &told);
        read_some(answer_length(100) - left);
        caller_hang_up(&caller);
        RUN_UNTIL(told.count == 1);
        cr_assert_not(told.read, "%zu bytes were left", left);
        caller_open_tcp(&caller, front, &plain_address);
    }
}

Test(connection_receipt, a_caller_that_closed_before_the_answer_has_not_read)
{
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(call_count > 0 && calls[0]->body_came);
    caller_hang_up(&caller); /* its end lies in the socket, not looked at yet */
    connection_watch(calls[0]->inbound.connection, &told.receipt);
    call_answer_with(calls[0], "200 OK", VIEW("text"));
    RUN_UNTIL(told.count == 1);
    cr_assert_not(told.read);
}

Test(connection_receipt, an_answer_that_waits_for_the_socket_is_open)
{
    size_t bytes = 16 * 1024 * 1024;

    ask_and_answer("", bytes, &told);
    cr_assert_eq(connection_look(&told.receipt), CONNECTION_DELIVERY_OPEN);
    read_some(1000);
    caller_hang_up(&caller);
    RUN_UNTIL(told.count == 1);
    cr_assert_not(told.read);
}

Test(connection_receipt, a_connection_to_be_closed_waits_for_the_caller)
{
    ask_and_answer("Connection: close\r\n", 100, &told);
    read_some(answer_length(100));
    RUN_UNTIL(caller_is_over(&caller)); /* podgate's side is closed */
    cr_assert_not(caller.broken);
    cr_assert_eq(told.count, 0);
    cr_assert_eq(front_connection_count(front), 1);
    caller_hang_up(&caller);
    RUN_UNTIL(told.count == 1);
    cr_assert(told.read);
    RUN_UNTIL(front_connection_count(front) == 0);
}

Test(connection_receipt, a_connection_to_be_closed_tells_of_a_reset)
{
    ask_and_answer("Connection: close\r\n", 100, &told);
    read_some(20);
    caller_hang_up(&caller);
    RUN_UNTIL(told.count == 1);
    cr_assert_not(told.read);
}

Test(connection_receipt, it_does_not_wait_for_ever)
{
    ask_and_answer("Connection: close\r\n", 100, &told);
    RUN_UNTIL(connection_look(&told.receipt) == CONNECTION_DELIVERY_ACKNOWLEDGED);
    pass(29000);
    cr_assert_eq(told.count, 0);
    pass(1500);
    RUN_UNTIL(told.count == 1);
    cr_assert(told.read, "all is with the caller's system, and nothing speaks against it");
}

Test(connection_receipt, a_drain_does_not_wait_for_callers_that_stay)
{
    ask_and_answer("Connection: close\r\n", 100, &told);
    RUN_UNTIL(connection_look(&told.receipt) == CONNECTION_DELIVERY_ACKNOWLEDGED);
    front_drain(front);
    pass(1000);
    RUN_UNTIL(front_connection_count(front) == 0);
    cr_assert_eq(told.count, 1);
}
