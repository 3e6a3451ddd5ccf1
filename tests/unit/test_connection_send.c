#include "build_config.h"

#include "front_fixture.h"

/* Answers: whole and in pieces, to callers who take them slowly or not at all. */

static struct caller caller;

/* The caller has asked; the test answers. A small socket makes long answers wait. */
static void set_up_asked(void)
{
    int pair[2];
    int small = 4096;

    set_up_front();
    open_front("timeouts { send = \"60s\" }", NULL);
    hold = true;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    caller = (struct caller){.descriptor = pair[0]};
    caller_give(front, pair[1], "127.0.0.1", &plain_address);
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert_eq(call_count, 1);
}

static void tear_down_asked(void)
{
    caller_close(&caller);
    tear_down_front();
}

TestSuite(connection_send, .init = set_up_asked, .fini = tear_down_asked, .timeout = 120);

enum { LONG = 1000 * 1000 };

static char byte_at(size_t index)
{
    return (char)('a' + (index * 7 + index / 1021) % 26);
}

static struct body *long_body(void)
{
    struct body *body = body_create(&budget, LONG);
    size_t room_bytes;
    char *room = body_room(body, LONG, &room_bytes);

    for (size_t i = 0; i < LONG; i++) {
        room[i] = byte_at(i);
    }
    body_added(body, LONG);
    return body;
}

/* What came behind the head is the long body, from `from` on. */
static void expect_long(const char *bytes)
{
    for (size_t i = 0; i < LONG; i++) {
        cr_assert_eq(bytes[i], byte_at(i), "at %zu", i);
    }
}

#define LONG_HEAD "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"

static enum connection_send_result send_long(struct body *body, bool by_reference)
{
    struct connection_part part = {.head = VIEW(LONG_HEAD),
                                   .data = body_view(body),
                                   .holder = by_reference ? body : NULL,
                                   .last = true};

    return connection_send(calls[0]->inbound.connection, &part);
}

static void expect_blocked_answer_arrives(bool by_reference)
{
    struct body *body = long_body();

    cr_assert_eq(send_long(body, by_reference), CONNECTION_BLOCKED);
    cr_assert_not_null(calls[0]->inbound.connection);
    body_unref(body);
    cr_assert_eq(atomic_load(&budget.used_bytes) > 0, by_reference,
                 "the body must be held by reference, and copied without one");
    RUN_UNTIL(caller_count(&caller, "\r\n\r\n") == 1 &&
              caller.length >= sizeof LONG_HEAD - 1 + LONG);
    RUN_UNTIL(calls[0]->sent == 1);
    cr_assert_eq(memcmp(caller.received, LONG_HEAD, sizeof LONG_HEAD - 1), 0);
    expect_long(caller.received + sizeof LONG_HEAD - 1);
    cr_assert_eq(calls[0]->inbound.sent_bytes, sizeof LONG_HEAD - 1 + LONG);
    cr_assert_eq(atomic_load(&budget.used_bytes), 0);
    cr_assert_eq(calls[0]->drained, 0);
    /* The next request of the connection goes on behind it. */
    RUN_UNTIL(call_count == 2 && calls[1]->body_came);
    caller_clear(&caller);
    call_answer(calls[1]);
    cr_assert(caller_has(&caller, "\r\n\r\n/2="));
}

Test(connection_send, an_answer_that_waits_is_held_by_reference_and_arrives_whole)
{
    expect_blocked_answer_arrives(true);
}

Test(connection_send, an_answer_that_waits_without_a_holder_is_copied_and_arrives_whole)
{
    expect_blocked_answer_arrives(false);
}

Test(connection_send, an_answer_that_fits_is_over_at_once)
{
    struct connection_part part = {.head = VIEW("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
                                   .data = VIEW("hi"),
                                   .last = true};

    cr_assert_eq(connection_send(calls[0]->inbound.connection, &part), CONNECTION_SENT);
    cr_assert_null(calls[0]->inbound.connection);
    calls[0]->over = true;
    settle();
    cr_assert_eq(calls[0]->sent, 0, "on_sent() is only for answers that had to wait");
    cr_assert_eq(call_count, 2);
}

/* ---- pieces */

#define PIECES_HEAD "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

static enum connection_send_result send_piece(struct view head, struct view data, bool last)
{
    struct connection_part part = {
        .head = head, .data = data, .framing = CONNECTION_CHUNKED, .last = last};

    return connection_send(calls[0]->inbound.connection, &part);
}

Test(connection_send, pieces_become_chunks)
{
    char thirty[31];

    memset(thirty, 'x', 30);
    thirty[30] = '\0';
    cr_assert_eq(send_piece(VIEW(PIECES_HEAD), VIEW(""), false), CONNECTION_SENT);
    caller_read(&caller);
    cr_assert_str_eq(caller.received, PIECES_HEAD, "an empty piece must not end the answer");
    cr_assert_eq(send_piece(VIEW(""), VIEW("hello"), false), CONNECTION_SENT);
    cr_assert_eq(send_piece(VIEW(""), view_of_string(thirty), false), CONNECTION_SENT);
    cr_assert_eq(send_piece(VIEW(""), VIEW("end"), true), CONNECTION_SENT);
    calls[0]->over = true;
    caller_read(&caller);
    cr_assert_str_eq(caller.received,
                     PIECES_HEAD "5\r\nhello\r\n1e\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n"
                                 "3\r\nend\r\n0\r\n\r\n");
    settle();
    cr_assert_eq(call_count, 2, "the connection goes on");
}

Test(connection_send, an_empty_last_piece_ends_the_answer)
{
    cr_assert_eq(send_piece(VIEW(PIECES_HEAD), VIEW("a"), false), CONNECTION_SENT);
    cr_assert_eq(send_piece(VIEW(""), VIEW(""), true), CONNECTION_SENT);
    calls[0]->over = true;
    caller_read(&caller);
    cr_assert_str_eq(caller.received, PIECES_HEAD "1\r\na\r\n0\r\n\r\n");
}

/* Takes chunks apart; gives the length of what was in them. */
static size_t unchunk(char *bytes, size_t length)
{
    size_t filled = 0;
    char *at = bytes;

    for (;;) {
        size_t size = strtoul(at, &at, 16);

        cr_assert_eq(memcmp(at, "\r\n", 2), 0);
        at += 2;
        if (size == 0) {
            cr_assert_eq(memcmp(at, "\r\n", 2), 0);
            cr_assert_eq(at + 2, bytes + length, "bytes behind the last chunk");
            return filled;
        }
        memmove(bytes + filled, at, size);
        filled += size;
        at += size;
        cr_assert_eq(memcmp(at, "\r\n", 2), 0);
        at += 2;
    }
}

Test(connection_send, pieces_that_wait_are_told_drained_and_stay_in_order)
{
    struct body *body = long_body();
    struct view rest = body_view(body);
    bool first = true;
    unsigned waits = 0;

    while (rest.length > 0) {
        struct view piece = view_first(rest, 70001);

        rest = view_skip(rest, piece.length);
        if (send_piece(first ? VIEW(PIECES_HEAD) : VIEW(""), piece, false) == CONNECTION_BLOCKED) {
            unsigned before = calls[0]->drained;

            waits++;
            RUN_UNTIL((caller_read(&caller), calls[0]->drained == before + 1));
        }
        first = false;
    }
    cr_assert_gt(waits, 3);
    cr_assert_eq(calls[0]->sent, 0);
    cr_assert_eq(send_piece(VIEW(""), VIEW(""), true), CONNECTION_SENT);
    calls[0]->over = true;
    body_unref(body);
    caller_read(&caller);
    cr_assert_eq(
        unchunk(caller.received + sizeof PIECES_HEAD - 1, caller.length - (sizeof PIECES_HEAD - 1)),
        LONG);
    expect_long(caller.received + sizeof PIECES_HEAD - 1);
}

Test(connection_send, pieces_sent_in_spite_of_blocked_stay_in_order)
{
    struct body *body = long_body();
    struct view rest = body_view(body);
    bool first = true;

    while (rest.length > 0) {
        struct view piece = view_first(rest, 99991);
        struct connection_part part = {.head = first ? VIEW(PIECES_HEAD) : VIEW(""),
                                       .data = piece,
                                       .holder = body, /* kept by reference, then joined by more */
                                       .framing = CONNECTION_CHUNKED};

        rest = view_skip(rest, piece.length);
        part.last = rest.length == 0;
        cr_assert_eq(connection_send(calls[0]->inbound.connection, &part), CONNECTION_BLOCKED);
        first = false;
    }
    body_unref(body);
    RUN_UNTIL((caller_read(&caller), calls[0]->sent == 1));
    caller_read(&caller);
    cr_assert_eq(
        unchunk(caller.received + sizeof PIECES_HEAD - 1, caller.length - (sizeof PIECES_HEAD - 1)),
        LONG);
    expect_long(caller.received + sizeof PIECES_HEAD - 1);
}

/* A length-framed answer whose parts are held by reference, one behind the other. */
Test(connection_send, a_held_part_that_is_joined_by_another_keeps_its_bytes)
{
    struct body *body = long_body();
    struct view all = body_view(body);
    struct connection_part part = {.head = VIEW(LONG_HEAD), .holder = body};

    part.data = view_first(all, 600000);
    cr_assert_eq(connection_send(calls[0]->inbound.connection, &part), CONNECTION_BLOCKED);
    part.head = VIEW("");
    part.data = view_skip(all, 600000);
    part.last = true;
    cr_assert_eq(connection_send(calls[0]->inbound.connection, &part), CONNECTION_BLOCKED);
    body_unref(body);
    RUN_UNTIL((caller_read(&caller), calls[0]->sent == 1));
    caller_read(&caller);
    cr_assert_eq(caller.length, sizeof LONG_HEAD - 1 + LONG);
    expect_long(caller.received + sizeof LONG_HEAD - 1);
}

Test(connection_send, an_answer_until_the_end_of_the_connection_ends_it)
{
    struct connection_part part = {.head = VIEW("HTTP/1.1 200 OK\r\n\r\n"),
                                   .data = VIEW("some"),
                                   .framing = CONNECTION_UNTIL_CLOSE};

    cr_assert_eq(connection_send(calls[0]->inbound.connection, &part), CONNECTION_SENT);
    part = (struct connection_part){
        .data = VIEW("thing"), .framing = CONNECTION_UNTIL_CLOSE, .last = true};
    cr_assert_eq(connection_send(calls[0]->inbound.connection, &part), CONNECTION_SENT);
    calls[0]->over = true;
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_str_eq(caller.received, "HTTP/1.1 200 OK\r\n\r\nsomething");
    cr_assert_eq(call_count, 1, "a request behind it was served");
}

/* ---- callers who leave */

Test(connection_send, a_caller_who_left_is_noticed_by_sending)
{
    struct connection_part part = {.head = VIEW("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
                                   .data = VIEW("hi"),
                                   .last = true};

    caller_hang_up(&caller);
    cr_assert_eq(connection_send(calls[0]->inbound.connection, &part), CONNECTION_GONE);
    cr_assert_null(calls[0]->inbound.connection);
    calls[0]->over = true;
    settle();
    cr_assert_eq(hangup_count, 0, "CONNECTION_GONE says it all");
    cr_assert_eq(front_connection_count(front), 0);
}

Test(connection_send, a_caller_who_leaves_during_his_answer_is_told)
{
    struct body *body = long_body();

    cr_assert_eq(send_long(body, true), CONNECTION_BLOCKED);
    body_unref(body);
    caller_hang_up(&caller);
    RUN_UNTIL(calls[0]->hangups == 1);
    settle();
    cr_assert_eq(calls[0]->sent, 0);
    cr_assert_eq(atomic_load(&budget.used_bytes), 0, "the rest of the answer is still held");
    cr_assert_eq(front_connection_count(front), 0);
}

Test(connection_send, a_caller_who_takes_nothing_is_given_up_after_the_send_timeout)
{
    struct body *body = long_body();

    cr_assert_eq(send_long(body, true), CONNECTION_BLOCKED);
    body_unref(body);
    pass(59000);
    cr_assert_eq(hangup_count, 0);
    caller_read(&caller); /* takes something: the time begins again */
    settle();
    pass(59000);
    cr_assert_eq(hangup_count, 0);
    pass(2000);
    cr_assert_eq(calls[0]->hangups, 1);
    cr_assert_eq(front_connection_count(front), 0);
}

/* ---- answers that break off */

static struct caller visitor;

/* Over TCP, where a reset can be told from an end. */
static struct connection *open_visitor(const char *request)
{
    unsigned before = call_count;

    caller_open_tcp(&visitor, front, &plain_address);
    caller_send(&visitor, request);
    RUN_UNTIL(call_count == before + 1 && calls[before]->body_came);
    return calls[before]->inbound.connection;
}

static void begin_until_close(struct connection *connection)
{
    struct connection_part part = {.head = VIEW("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
                                   .data = VIEW("half of it"),
                                   .framing = CONNECTION_UNTIL_CLOSE};

    cr_assert_eq(connection_send(connection, &part), CONNECTION_SENT);
    RUN_UNTIL(caller_has(&visitor, "half of it"));
}

Test(connection_send, an_aborted_answer_is_a_reset_and_not_an_end)
{
    struct connection *connection = open_visitor("GET /v HTTP/1.0\r\n\r\n");

    begin_until_close(connection);
    connection_abort(connection);
    RUN_UNTIL(caller_is_over(&visitor));
    cr_assert(visitor.broken, "half an answer looks whole");
    cr_assert_eq(hangup_count, 0, "who aborts is not told");
    cr_assert_null(calls[1]->inbound.connection);
    settle();
    cr_assert_eq(front_connection_count(front), 1);
    caller_close(&visitor);
}

Test(connection_send, an_answer_cut_off_by_the_end_of_the_front_is_a_reset)
{
    begin_until_close(open_visitor("GET /v HTTP/1.0\r\n\r\n"));
    front_destroy(front);
    front = NULL;
    RUN_UNTIL(caller_is_over(&visitor));
    cr_assert(visitor.broken, "half an answer looks whole");
    cr_assert_eq(calls[1]->hangups, 1);
    cr_assert_eq(calls[0]->hangups, 1);
    caller_close(&visitor);
}

Test(connection_send, an_answer_cut_off_by_the_send_timeout_is_a_reset)
{
    struct connection *connection = open_visitor("GET /v HTTP/1.0\r\n\r\n");
    struct body *body = long_body();
    struct connection_part part = {.framing = CONNECTION_UNTIL_CLOSE};
    enum connection_send_result result;

    begin_until_close(connection);
    do {
        part.data = body_view(body);
        part.holder = body;
        result = connection_send(connection, &part);
    } while (result == CONNECTION_SENT);
    body_unref(body);
    cr_assert_eq(result, CONNECTION_BLOCKED);
    pass(61000);
    cr_assert_eq(calls[1]->hangups, 1);
    RUN_UNTIL(caller_is_over(&visitor));
    cr_assert(visitor.broken, "half an answer looks whole");
    caller_close(&visitor);
}

Test(connection_send, a_whole_answer_is_followed_by_an_end_and_not_a_reset)
{
    struct connection *connection = open_visitor("GET /v HTTP/1.0\r\n\r\n");
    struct connection_part part = {.framing = CONNECTION_UNTIL_CLOSE, .last = true};

    begin_until_close(connection);
    cr_assert_eq(connection_send(connection, &part), CONNECTION_SENT);
    calls[1]->over = true;
    RUN_UNTIL(caller_is_over(&visitor));
    cr_assert_not(visitor.broken);
    caller_close(&visitor);
}
