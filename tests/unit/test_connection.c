#include "build_config.h"

#include "front_fixture.h"

/* What a caller's bytes mean: heads, bodies, pipelined requests, hang-ups. */

static struct caller caller;

static void set_up_plain(void)
{
    set_up_front();
    open_front("", NULL);
    caller_open(&caller, front);
}

static void tear_down_plain(void)
{
    caller_close(&caller);
    tear_down_front();
}

TestSuite(connection, .init = set_up_plain, .fini = tear_down_plain, .timeout = 120);

/* ---- pipelining */

#define OK(text, length) "HTTP/1.1 200 OK\r\nContent-Length: " length "\r\n\r\n" text

Test(connection, pipelined_requests_are_answered_in_order)
{
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
                         "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    caller_read(&caller);
    cr_assert_str_eq(caller.received, OK("/1=", "3") OK("/2=", "3") OK("/3=", "3"));
}

Test(connection, the_next_pipelined_request_begins_when_the_one_before_is_answered)
{
    hold = true;
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
                         "GET /3 HTT");
    settle();
    cr_assert_eq(call_count, 1);
    caller_send(&caller, "P/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert_eq(call_count, 1, "two requests of one connection are worked on at once");
    for (unsigned i = 1; i <= 3; i++) {
        cr_assert(calls[i - 1]->body_came);
        call_answer(calls[i - 1]);
        settle();
        cr_assert_eq(call_count, i < 3 ? i + 1 : 3);
    }
    caller_read(&caller);
    cr_assert_str_eq(caller.received, OK("/1=", "3") OK("/2=", "3") OK("/3=", "3"));
    cr_assert_eq(front_connection_count(front), 1);
}

/* ---- bodies, and cuts at every byte */

static const char mixed[] =
    "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
    "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    "5;x=1\r\nhello\r\n006\r\n world\r\n0\r\nTrailer: t\r\n\r\n"
    "GET /none HTTP/1.1\r\nHost: a\r\n\r\n"
    "POST /empty HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    "GET /last HTTP/1.1\r\nHost: a\r\n\r\n";
static const char mixed_answers[] = OK("/length=hello world", "19") OK("/chunks=hello world", "19")
    OK("/none=", "6") OK("/empty=", "7") OK("/last=", "6");

Test(connection, requests_cut_in_two_at_any_byte_mean_the_same)
{
    for (size_t cut = 0; cut < sizeof mixed; cut++) {
        struct view bytes = view_make(mixed, sizeof mixed - 1);

        caller_send_bytes(&caller, view_first(bytes, cut));
        settle();
        caller_send_bytes(&caller, view_skip(bytes, cut));
        settle();
        caller_read(&caller);
        cr_assert_str_eq(caller.received, mixed_answers, "cut at %zu", cut);
        caller_clear(&caller);
        drop_calls();
    }
    cr_assert_eq(front_connection_count(front), 1);
}

Test(connection, requests_that_come_byte_by_byte_mean_the_same)
{
    for (size_t i = 0; i < sizeof mixed - 1; i++) {
        caller_send_bytes(&caller, view_make(mixed + i, 1));
        settle();
    }
    caller_read(&caller);
    cr_assert_str_eq(caller.received, mixed_answers);
    cr_assert_eq(calls[0]->inbound.received_bytes, strstr(mixed, "POST /chunks") - mixed);
    cr_assert_eq(calls[1]->inbound.received_bytes,
                 strstr(mixed, "GET /none") - strstr(mixed, "POST /chunks"));
}

Test(connection, a_cut_while_answers_are_late_means_the_same)
{
    hold = true;
    for (size_t cut = 0; cut < sizeof mixed; cut += 3) {
        struct view bytes = view_make(mixed, sizeof mixed - 1);

        caller_send_bytes(&caller, view_first(bytes, cut));
        settle();
        caller_send_bytes(&caller, view_skip(bytes, cut));
        for (unsigned i = 0; i < 5; i++) {
            settle();
            cr_assert_eq(call_count, i + 1, "cut at %zu", cut);
            cr_assert(calls[i]->body_came);
            call_answer(calls[i]);
        }
        caller_read(&caller);
        cr_assert_str_eq(caller.received, mixed_answers, "cut at %zu", cut);
        caller_clear(&caller);
        settle();
        drop_calls();
    }
}

Test(connection, a_long_body_goes_to_its_place_whole)
{
    enum { LENGTH = 900 * 1000 };
    char *bytes = malloc(LENGTH);

    hold = true;
    for (size_t i = 0; i < LENGTH; i++) {
        bytes[i] = (char)(i * 7 + i / 251);
    }
    caller_send(&caller, "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n");
    caller_send_bytes(&caller, view_make(bytes, LENGTH));
    RUN_UNTIL(call_count == 1 && calls[0]->body_came);
    cr_assert(view_equal(body_view(calls[0]->body), view_make(bytes, LENGTH)));
    cr_assert_geq(atomic_load(&budget.used_bytes), LENGTH, "bodies are charged to the budget");
    free(bytes);
}

Test(connection, a_head_above_the_inline_room_outlives_the_buffer_that_it_came_in)
{
    char head[6000];
    char *at = head;

    hold = true;
    at += sprintf(at, "GET /long HTTP/1.1\r\nHost: a\r\nX-Request-Id: ");
    memset(at, 'x', 4000);
    at += 4000;
    sprintf(at, "\r\n\r\n");
    caller_send(&caller, head);
    settle();
    caller_send(&caller, "GET /other HTTP/1.1\r\nHost: b\r\n\r\n");
    settle();
    cr_assert_eq(http_head_value(&calls[0]->inbound.head.head, HTTP_FIELD_X_REQUEST_ID).length,
                 4000);
    cr_assert_eq(calls[0]->inbound.head_bytes[4000], 'x');
    cr_assert_neq(calls[0]->inbound.head_bytes, calls[0]->inbound.inlined);
    call_answer(calls[0]);
}

/* ---- refusals */

static void expect_end(void)
{
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_not(caller.broken, "the answer could be lost to a reset");
}

Test(connection, a_body_above_the_handlers_maximum_is_refused_before_it_is_read)
{
    body_maximum = 10;
    caller_send(&caller, "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    settle();
    cr_assert(calls[0]->has_fault);
    cr_assert_eq(calls[0]->fault, CONNECTION_BODY_TOO_LARGE);
    cr_assert(caller_has(&caller, "Connection: close\r\n"));
    expect_end();
}

Test(connection, a_body_at_the_handlers_maximum_is_taken)
{
    body_maximum = 11;
    caller_send(&caller, "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
                         "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "b\r\nhello world\r\n0\r\n\r\n");
    settle();
    cr_assert(caller_has(&caller, "/b=hello world"));
    cr_assert(caller_has(&caller, "/c=hello world"));
}

Test(connection, chunks_above_the_handlers_maximum_are_refused_at_that_byte)
{
    body_maximum = 10;
    caller_send(&caller, "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "8\r\n12345678\r\n");
    settle();
    cr_assert_not(calls[0]->has_fault);
    caller_send(&caller, "3\r\nabc\r\n");
    settle();
    cr_assert(calls[0]->has_fault);
    cr_assert_eq(calls[0]->fault, CONNECTION_BODY_TOO_LARGE);
    expect_end();
}

Test(connection, broken_chunks_are_refused)
{
    caller_send(&caller,
                "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
    settle();
    cr_assert_eq(calls[0]->fault, CONNECTION_BODY_MALFORMED);
    cr_assert(calls[0]->has_fault);
    expect_end();
    cr_assert_eq(call_count, 1, "what follows broken chunks was taken for a request");
}

Test(connection, no_body_is_taken_above_80_percent_of_the_budget)
{
    struct body *others;

    atomic_store(&budget.maximum_bytes, 100000);
    others = body_create(&budget, 85000);
    caller_send(&caller, "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    settle();
    cr_assert(calls[0]->has_fault);
    cr_assert_eq(calls[0]->fault, CONNECTION_BODY_NO_MEMORY);
    body_unref(others);
    expect_end();
}

Test(connection, chunks_that_use_up_the_budget_are_refused)
{
    char chunk[9000];
    int length = snprintf(chunk, sizeof chunk, "2000\r\n%*s\r\n", 0x2000, "x");

    atomic_store(&budget.maximum_bytes, 20000);
    caller_send(&caller, "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (unsigned i = 0; i < 4 && !(call_count == 1 && calls[0]->has_fault); i++) {
        caller_send_bytes(&caller, view_make(chunk, (size_t)length));
        settle();
    }
    cr_assert(calls[0]->has_fault);
    cr_assert_eq(calls[0]->fault, CONNECTION_BODY_NO_MEMORY);
    expect_end();
}

Test(connection, a_head_that_breaks_http_is_answered_and_ends_the_connection)
{
    caller_send(&caller, "GET /ok HTTP/1.1\r\nHost: a\r\n\r\nGET /bad HTTP/1.1\r\nHost : a\r\n\r\n"
                         "GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert_eq(call_count, 2);
    cr_assert_eq(calls[1]->bad_status, 400);
    cr_assert(caller_has(&caller, "/ok="));
    cr_assert(caller_has(&caller, "Connection: close\r\n\r\nbad"));
    expect_end();
    cr_assert_eq(metrics_sum(metrics, METRIC_BAD_HEADS, 0, 0), 1);
    caller_send(&caller, "GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert_eq(call_count, 2);
}

Test(connection, without_memory_for_a_request_the_connection_is_closed)
{
    refuse_memory = true;
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_eq(front_connection_count(front), 0);
}

/* A caller that is still sending its body when it is refused. A close with bytes unread would reset
 * the connection, and the answer would be lost: over TCP, since socket pairs don't lose it. */
Test(connection, a_refusal_lingers_so_that_the_answer_is_not_lost)
{
    struct caller sender;
    char more[20000];

    memset(more, 'x', sizeof more);
    answer_at_head = true;
    caller_open_tcp(&sender, front, &plain_address);
    caller_send(&sender, "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n");
    caller_send_bytes(&sender, view_make(more, sizeof more));
    RUN_UNTIL(caller_has(&sender, "/refused="));
    cr_assert_eq(front_connection_count(front), 2, "it did not wait for what still comes");
    caller_send_bytes(&sender, view_make(more, sizeof more));
    RUN_UNTIL(caller_is_over(&sender));
    cr_assert_not(sender.broken);
    caller_hang_up(&sender);
    RUN_UNTIL(front_connection_count(front) == 1);
    cr_assert_eq(call_count, 1);
    cr_assert_eq(hangup_count, 0);
    caller_close(&sender);
}

Test(connection, a_refused_body_that_is_all_there_is_passed_over)
{
    answer_at_head = true;
    caller_send(&caller, "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /"
                         "GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(caller_has(&caller, "/next="));
    cr_assert(caller_has(&caller, "/refused="));
    cr_assert_eq(call_count, 2, "the body was taken for a request");
    cr_assert_eq(front_connection_count(front), 1);
}

Test(connection, lingering_ends_after_a_second)
{
    answer_at_head = true;
    caller_send(&caller, "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n");
    settle();
    cr_assert_eq(front_connection_count(front), 1);
    pass(400);
    cr_assert_eq(front_connection_count(front), 1);
    pass(700);
    cr_assert_eq(front_connection_count(front), 0);
}

Test(connection, lingering_ends_after_64_kib)
{
    char more[16384] = "x";

    answer_at_head = true;
    caller_send(&caller, "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n");
    settle();
    for (unsigned i = 0; i < 4; i++) {
        cr_assert_eq(front_connection_count(front), 1);
        caller_send_bytes(&caller, view_make(more, sizeof more));
        settle();
    }
    cr_assert_eq(front_connection_count(front), 1, "it ended at 64 KiB already");
    caller_send_bytes(&caller, view_make(more, 1));
    settle();
    cr_assert_eq(front_connection_count(front), 0);
}

/* ---- Expect */

#define EXPECTING "POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

Test(connection, continue_is_said_once_the_handler_wants_the_body)
{
    caller_send(&caller, EXPECTING);
    settle();
    caller_read(&caller);
    cr_assert_str_eq(caller.received, "HTTP/1.1 100 Continue\r\n\r\n");
    cr_assert_eq(call_count, 1);
    cr_assert_not(calls[0]->body_came);
    caller_send(&caller, "hello");
    settle();
    cr_assert_str_eq((caller_read(&caller), caller.received),
                     "HTTP/1.1 100 Continue\r\n\r\n" OK("/e=hello", "8"));
}

Test(connection, continue_is_not_said_when_the_body_is_there_already)
{
    caller_send(&caller, EXPECTING "hello");
    settle();
    cr_assert_str_eq((caller_read(&caller), caller.received), OK("/e=hello", "8"));
}

Test(connection, a_refused_caller_is_not_told_to_continue)
{
    answer_at_head = true;
    caller_send(&caller, EXPECTING);
    settle();
    cr_assert(caller_has(&caller, "Connection: close\r\n\r\n/e="));
    cr_assert_not(caller_has(&caller, "100 Continue"));
    expect_end();
}

Test(connection, a_body_too_large_is_refused_instead_of_continued)
{
    body_maximum = 4;
    caller_send(&caller, EXPECTING);
    settle();
    cr_assert_not(caller_has(&caller, "100 Continue"));
    cr_assert(calls[0]->has_fault);
}

/* ---- keep-alive */

Test(connection, http_1_0_ends_after_its_answer)
{
    caller_send(&caller, "GET /1 HTTP/1.0\r\n\r\nGET /2 HTTP/1.0\r\n\r\n");
    expect_end();
    cr_assert_eq(call_count, 1);
    cr_assert(caller_has(&caller, "Connection: close\r\n\r\n/1="));
}

Test(connection, http_1_0_stays_when_it_asks_to)
{
    caller_send(&caller, "GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
                         "GET /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    settle();
    cr_assert(caller_has(&caller, "/1="));
    cr_assert(caller_has(&caller, "/2="));
    cr_assert_not(caller_is_over(&caller));
}

Test(connection, http_1_1_stays_unless_it_asks_to_end)
{
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert_not(caller_is_over(&caller));
    caller_send(&caller, "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    expect_end();
    cr_assert(caller_has(&caller, "/2="));
    cr_assert_eq(front_connection_count(front), 0);
}

Test(connection, the_handler_may_end_it_after_the_answer)
{
    hold = true;
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    connection_close_after_answer(calls[0]->inbound.connection);
    cr_assert(connection_wants_close(calls[0]->inbound.connection));
    call_answer(calls[0]);
    expect_end();
    cr_assert_eq(call_count, 1);
}

/* ---- hang-ups */

Test(connection, a_hangup_is_noticed_while_the_answer_is_awaited)
{
    hold = true;
    caller_send(&caller, "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    settle();
    cr_assert(calls[0]->body_came);
    caller_hang_up(&caller);
    settle();
    cr_assert_eq(calls[0]->hangups, 1);
    cr_assert_eq(front_connection_count(front), 0);
    cr_assert_eq(metrics_sum(metrics, METRIC_CALLER_HANGUPS, 0, 0), 1);
    cr_assert_eq(calls[0]->inbound.head_bytes, calls[0]->inbound.inlined);
    cr_assert(view_equal(http_request_target(&calls[0]->inbound.head), VIEW("/1")),
              "the head outlives the connection");
}

Test(connection, a_hangup_is_noticed_inside_a_head_and_inside_a_body)
{
    struct caller second;

    caller_open(&second, front);
    caller_send(&caller, "GET /1 HT");
    caller_send(&second, "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhi");
    settle();
    cr_assert_eq(call_count, 2);
    caller_hang_up(&caller);
    caller_hang_up(&second);
    settle();
    cr_assert_eq(hangup_count, 2);
    cr_assert_eq(front_connection_count(front), 0);
    cr_assert_eq(atomic_load(&budget.used_bytes), 0, "the half body was kept");
    caller_close(&second);
}

Test(connection, a_hangup_between_requests_is_no_hangup)
{
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    caller_hang_up(&caller);
    settle();
    cr_assert_eq(front_connection_count(front), 0);
    cr_assert_eq(hangup_count, 0);
    cr_assert_eq(metrics_sum(metrics, METRIC_CALLER_HANGUPS, 0, 0), 0);
}

/* Sends requests until the socket takes no more. */
static unsigned flood(void)
{
    static const char one[] = "GET /flood HTTP/1.1\r\nHost: a\r\nX-Request-Id: "
                              "0123456789012345678901234567890123456789\r\n\r\n";
    unsigned sent = 0;

    for (;;) {
        ssize_t count = send(caller.descriptor, one, sizeof one - 1, MSG_NOSIGNAL);

        if (count < 0) {
            settle();
            count = send(caller.descriptor, one, sizeof one - 1, MSG_NOSIGNAL);
        }
        if (count < 0) {
            return sent;
        }
        cr_assert_eq(count, (ssize_t)sizeof one - 1);
        sent++;
        cr_assert_lt(sent, 100000, "a caller can fill podgate's memory behind one request");
    }
}

Test(connection, reading_pauses_behind_a_request_and_goes_on_after_its_answer)
{
    unsigned flooded;
    unsigned answered = 0;

    hold = true;
    caller_send(&caller, "GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    flooded = flood();
    cr_assert_eq(call_count, 1);
    hold = false;
    call_answer(calls[0]);
    while (answered < flooded) {
        settle();
        answered = caller_count(&caller, "/flood=");
        if (answered < flooded) {
            step();
        }
    }
    cr_assert_eq(answered, flooded);
    cr_assert_not(caller_is_over(&caller));
}

Test(connection, a_hangup_is_noticed_while_reading_is_paused)
{
    hold = true;
    caller_send(&caller, "GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    flood();
    cr_assert_eq(hangup_count, 0);
    caller_hang_up(&caller);
    RUN_UNTIL(hangup_count == 1);
    cr_assert_eq(front_connection_count(front), 0);
}

/* ---- where we are */

Test(connection, knows_the_address_that_its_caller_reached_it_at)
{
    struct caller visitor;
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    char text[64];
    struct connection *connection;

    hold = true;
    caller_open_tcp(&visitor, front, &plain_address);
    cr_assert_eq(getpeername(visitor.descriptor, (struct sockaddr *)&name, &length), 0);
    caller_send(&visitor, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(call_count == 1 && calls[0]->body_came);
    connection = calls[0]->inbound.connection;
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(name.sin_port));
    cr_assert(connection_is_at(connection, view_of_string(text)));
    snprintf(text, sizeof text, "LocalHost:%u", ntohs(name.sin_port));
    cr_assert(connection_is_at(connection, view_of_string(text)));
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(name.sin_port) ^ 1u);
    cr_assert_not(connection_is_at(connection, view_of_string(text)));
    snprintf(text, sizeof text, "localhost:%u", ntohs(name.sin_port) ^ 1u);
    cr_assert_not(connection_is_at(connection, view_of_string(text)));
    cr_assert_not(connection_is_at(connection, VIEW("localhost")));
    cr_assert_not(connection_is_at(connection, VIEW("")));
    cr_assert_not(connection_is_tls(connection));
    caller_close(&visitor);
}
