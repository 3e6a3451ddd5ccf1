#include "build_config.h"

#include "certificates.h"
#include "front_fixture.h"

/* When connections end: deadlines, drain; and what may stand in front of HTTP: TLS and the PROXY
 * protocol. */

static struct caller caller;

static void set_up_plain(void)
{
    set_up_front();
    open_front("timeouts { head = \"10s\" body = \"30s\" idle = \"120s\" handshake = \"5s\" }",
               NULL);
    caller_open(&caller, front);
}

static void tear_down_plain(void)
{
    caller_close(&caller);
    tear_down_front();
}

TestSuite(connection_life, .init = set_up_plain, .fini = tear_down_plain, .timeout = 120);

/* ---- deadlines */

Test(connection_life, who_sends_nothing_at_first_is_closed_after_the_head_timeout)
{
    pass(9000);
    cr_assert_eq(front_connection_count(front), 1);
    pass(1500);
    cr_assert_eq(front_connection_count(front), 0);
    cr_assert_eq(call_count, 0);
}

Test(connection_life, a_head_that_is_not_whole_in_time_is_answered_408)
{
    caller_send(&caller, "GET /slow HTTP/1.1\r\n");
    settle();
    for (unsigned i = 0; i < 9; i++) {
        pass(1000);
        caller_send(&caller, "A: b\r\n"); /* a byte now and then buys no time */
        settle();
    }
    cr_assert_eq(calls[0]->bad_status, 0);
    pass(1500);
    cr_assert_eq(calls[0]->bad_status, 408);
    cr_assert(caller_has(&caller, "Connection: close\r\n"));
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_not(caller.broken);
}

Test(connection_life, an_idle_connection_is_closed_without_a_word_after_the_idle_timeout)
{
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    caller_clear(&caller);
    pass(119000);
    cr_assert_eq(front_connection_count(front), 1);
    caller_send(&caller, "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    pass(119000);
    cr_assert_eq(front_connection_count(front), 1, "a request did not begin the time again");
    caller_clear(&caller);
    pass(1500);
    cr_assert_eq(front_connection_count(front), 0);
    cr_assert(caller_is_over(&caller));
    cr_assert_eq(caller.length, 0);
}

Test(connection_life, nobody_is_timed_out_while_podgate_works)
{
    hold = true;
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    pass(3600 * 1000);
    cr_assert_eq(front_connection_count(front), 1);
    cr_assert_eq(hangup_count, 0);
    call_answer(calls[0]);
    cr_assert(caller_has(&caller, "/1="));
}

#define BODY_HEAD "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"

static void expect_slow(void)
{
    cr_assert(calls[0]->has_fault);
    cr_assert_eq(calls[0]->fault, CONNECTION_BODY_SLOW);
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_not(caller.broken);
}

Test(connection_life, a_silent_body_is_refused_after_the_body_timeout)
{
    static const char much[20000] = "x"; /* fast enough, up to here */

    caller_send(&caller, BODY_HEAD);
    settle();
    caller_send_bytes(&caller, view_make(much, sizeof much));
    settle();
    pass(29000);
    cr_assert_not(calls[0]->has_fault);
    pass(1500);
    expect_slow();
}

/* Bytes that come faster than the sweep must not put off its judgement. */
Test(connection_life, a_body_that_drips_below_1_kib_a_second_is_refused)
{
    caller_send(&caller, BODY_HEAD);
    settle();
    for (unsigned step = 0; step < 2500 && !calls[0]->has_fault; step++) {
        caller_send(&caller, "x");
        settle();
        pass(10);
    }
    expect_slow();
}

Test(connection_life, a_body_that_goes_on_at_1_kib_a_second_is_taken)
{
    char piece[1100];

    memset(piece, 'x', sizeof piece);
    caller_send(&caller, BODY_HEAD);
    settle();
    for (unsigned second = 0; second < 100; second++) {
        caller_send_bytes(&caller, view_make(piece, sizeof piece));
        pass(1000);
        cr_assert_not(calls[0]->has_fault, "after %u s", second);
    }
}

/* ---- drain */

Test(connection_life, draining_closes_idle_connections_within_a_second)
{
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    front_drain(front);
    settle();
    cr_assert_eq(front_connection_count(front), 1, "a request may be on its way");
    pass(1000);
    cr_assert_eq(front_connection_count(front), 0);
    RUN_UNTIL(caller_is_over(&caller));
}

Test(connection_life, a_request_that_comes_during_the_drain_is_answered_and_ends_the_connection)
{
    front_drain(front);
    caller_send(&caller, "GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert(caller_has(&caller, "Connection: close\r\n\r\n/late="));
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_not(caller.broken);
    cr_assert_eq(front_connection_count(front), 0);
}

Test(connection_life, a_request_that_is_worked_on_survives_the_drain)
{
    hold = true;
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    front_drain(front);
    pass(20000);
    cr_assert_eq(front_connection_count(front), 1);
    cr_assert_eq(hangup_count, 0);
    call_answer(calls[0]);
    cr_assert(caller_has(&caller, "Connection: close\r\n\r\n/1="));
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_eq(front_connection_count(front), 0);
}

Test(connection_life, a_body_that_is_being_read_is_answered_during_the_drain)
{
    caller_send(&caller, "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    settle();
    front_drain(front);
    pass(2000);
    caller_send(&caller, "llo");
    settle();
    cr_assert(caller_has(&caller, "/b=hello"));
    RUN_UNTIL(caller_is_over(&caller));
}

Test(connection_life, the_end_of_the_front_tells_each_pending_request)
{
    struct caller second;

    hold = true;
    caller_open(&second, front);
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    caller_send(&second, "GET /2 HT");
    settle();
    front_destroy(front);
    front = NULL;
    cr_assert_eq(calls[0]->hangups, 1);
    cr_assert_eq(calls[1]->hangups, 1);
    caller_close(&second);
}

Test(connection_life, a_newer_configuration_holds_for_the_next_wait)
{
    const struct config *newer =
        load_config("upstream { api_key_env = \"K\" }\ntimeouts { idle = \"20s\" }\n");

    front_adopt(front, newer);
    config_unref(newer);
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    pass(21000);
    cr_assert_eq(front_connection_count(front), 0);
}

/* ---- TLS */

static struct certificate *certificate;
static struct tls_server *server;
static SSL_CTX *client_context;
static struct caller visitor;
static struct transport wire;

static void set_up_tls(void)
{
    char *options = NULL;
    char *problem = NULL;

    set_up_front();
    certificates_begin();
    certificate = certificate_create("podgate", "DNS:localhost", 30, false, NULL);
    cr_assert_gt(asprintf(&options,
                          "tls { certificate = \"%s\" key = \"%s\" }\n"
                          "timeouts { handshake = \"5s\" }",
                          certificate->certificate_path, certificate->key_path),
                 0);
    open_front(options, NULL);
    free(options);
    server = tls_server_create(config, &problem);
    cr_assert_not_null(server, "%s", problem);
    front_destroy(front);
    front = front_create(loop, config, &fake_handler, NULL, server, limits, &budget, block, NULL);
    client_context = SSL_CTX_new(TLS_client_method());
    caller_open_tcp(&visitor, front, &tls_address);
    transport_init(&wire, visitor.descriptor);
    visitor.descriptor = -1;
}

static void tear_down_tls(void)
{
    transport_close(&wire);
    SSL_CTX_free(client_context);
    tear_down_front();
    tls_server_destroy(server);
    certificate_destroy(certificate);
    certificates_end();
}

TestSuite(connection_tls, .init = set_up_tls, .fini = tear_down_tls, .timeout = 120);

static void shake_hands(void)
{
    enum transport_result result;

    cr_assert(transport_start_tls(&wire, SSL_new(client_context), false));
    RUN_UNTIL((result = transport_handshake(&wire)) != TRANSPORT_AGAIN);
    cr_assert_eq(result, TRANSPORT_OK);
}

static char room[2 * 1024 * 1024];
static size_t room_length;

/* Reads until `text` has come, or until the end. */
static bool wire_has(const char *text)
{
    size_t count = 0;
    enum transport_result result;

    while ((result = transport_read(&wire, room + room_length, sizeof room - room_length,
                                    &count)) == TRANSPORT_OK) {
        room_length += count;
    }
    if (!text) {
        cr_assert(result == TRANSPORT_AGAIN || result == TRANSPORT_END, "no close_notify");
        return result == TRANSPORT_END;
    }
    return memmem(room, room_length, text, strlen(text)) != NULL;
}

static void wire_send(struct view bytes)
{
    while (bytes.length > 0) {
        struct iovec part = {(void *)(uintptr_t)bytes.data, bytes.length};
        size_t count;
        enum transport_result result = transport_write(&wire, &part, 1, &count);

        cr_assert(result == TRANSPORT_OK || result == TRANSPORT_AGAIN);
        bytes = view_skip(bytes, count);
        if (result == TRANSPORT_AGAIN) {
            step();
        }
    }
}

Test(connection_tls, requests_are_served_and_the_end_is_told)
{
    shake_hands();
    wire_send(VIEW("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"));
    RUN_UNTIL(wire_has("/2="));
    cr_assert(wire_has("/1="));
    wire_send(VIEW("GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    RUN_UNTIL(wire_has("/3="));
    RUN_UNTIL(wire_has(NULL));
}

Test(connection_tls, a_body_of_many_records_arrives_whole)
{
    enum { LENGTH = 500000 };
    char *bytes = malloc(LENGTH);

    shake_hands();
    for (size_t i = 0; i < LENGTH; i++) {
        bytes[i] = (char)('a' + (i * 7 + i / 251) % 26);
    }
    wire_send(VIEW("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n"));
    wire_send(view_make(bytes, LENGTH));
    RUN_UNTIL(wire_has("/b=") && room_length > LENGTH);
    RUN_UNTIL((wire_has("/b="), memmem(room, room_length, bytes, LENGTH) != NULL));
    free(bytes);
}

Test(connection_tls, a_connection_knows_that_it_is_secure)
{
    hold = true;
    shake_hands();
    wire_send(VIEW("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"));
    RUN_UNTIL(call_count == 1 && calls[0]->body_came);
    cr_assert(connection_is_tls(calls[0]->inbound.connection));
    transport_close(&wire);
    RUN_UNTIL(calls[0]->hangups == 1);
}

Test(connection_tls, plain_bytes_end_the_connection)
{
    struct iovec part = {(char[]){"GET / HTTP/1.1\r\nHost: a\r\n\r\n"}, 27};
    size_t count;

    cr_assert_eq(transport_write(&wire, &part, 1, &count), TRANSPORT_OK);
    RUN_UNTIL(front_connection_count(front) == 0);
    cr_assert_eq(call_count, 0);
}

Test(connection_tls, a_handshake_that_does_not_end_is_closed_in_time)
{
    pass(4000);
    cr_assert_eq(front_connection_count(front), 1);
    pass(1500);
    cr_assert_eq(front_connection_count(front), 0);
}

/* ---- the PROXY protocol */

static void set_up_proxy(void)
{
    set_up_front();
    open_front("proxy_protocol_from = {\"127.0.0.0/8\"}\nmemory { connections_per_address = 2 }\n"
               "timeouts { handshake = \"5s\" }",
               NULL);
    caller_open_tcp(&caller, front, &plain_address);
}

TestSuite(connection_proxy, .init = set_up_proxy, .fini = tear_down_plain, .timeout = 120);

#define V1 "PROXY TCP4 203.0.113.7 192.0.2.1 5555 443\r\n"

static const char v2[] =
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x08\xc0\0\x02\x01\x15\xb4\x01\xbb";

static void expect_peer(struct view head, const char *expected)
{
    char text[ADDRESS_TEXT_MAXIMUM];
    struct address address;

    hold = true;
    for (size_t i = 0; i < head.length; i++) {
        caller_send_bytes(&caller, view_make(head.data + i, 1));
        settle();
    }
    cr_assert_eq(call_count, 0);
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(call_count == 1 && calls[0]->body_came);
    address_from_sockaddr(&address,
                          (const struct sockaddr *)connection_peer(calls[0]->inbound.connection),
                          sizeof(struct sockaddr_storage));
    cr_assert(view_equal(address_format(&address, false, text), view_of_string(expected)));
    call_answer(calls[0]);
    RUN_UNTIL(caller_has(&caller, "/1="));
}

Test(connection_proxy, version_1_that_comes_byte_by_byte_names_the_caller)
{
    expect_peer(VIEW(V1), "203.0.113.7");
}

Test(connection_proxy, version_2_that_comes_byte_by_byte_names_the_caller)
{
    expect_peer(view_make(v2, sizeof v2 - 1), "203.0.113.8");
}

Test(connection_proxy, head_and_request_in_one_piece_are_served)
{
    caller_send(&caller, V1 "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(caller_has(&caller, "/2="));
    cr_assert(caller_has(&caller, "/1="));
}

Test(connection_proxy, a_request_without_a_head_is_refused)
{
    caller_send(&caller, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(caller_is_over(&caller));
    cr_assert_eq(call_count, 0);
    cr_assert_eq(metrics_sum(metrics, METRIC_BAD_HEADS, 0, 0), 1);
}

Test(connection_proxy, a_head_that_does_not_come_is_given_up_in_time)
{
    caller_send(&caller, "PROXY TC");
    settle();
    pass(4000);
    cr_assert_eq(front_connection_count(front), 1);
    pass(1500);
    cr_assert_eq(front_connection_count(front), 0);
}

Test(connection_proxy, an_end_inside_the_head_ends_the_connection)
{
    caller_send(&caller, "PROXY TC");
    settle();
    cr_assert_eq(shutdown(caller.descriptor, SHUT_WR), 0);
    RUN_UNTIL(front_connection_count(front) == 0);
}

Test(connection_proxy, the_named_caller_is_held_to_the_limit_of_one_address)
{
    struct caller others[3];

    for (unsigned i = 0; i < 3; i++) {
        caller_open_tcp(&others[i], front, &plain_address);
        caller_send(&others[i], V1 "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
        RUN_UNTIL(caller_has(&others[i], "/1=") || caller_is_over(&others[i]));
    }
    cr_assert(caller_has(&others[0], "/1="));
    cr_assert(caller_has(&others[1], "/1="));
    cr_assert_not(caller_has(&others[2], "/1="));
    cr_assert_eq(metrics_sum(metrics, METRIC_CONNECTIONS_REFUSED, METRIC_CONNECTION_ADDRESS, 0), 1);
    caller_hang_up(&others[0]);
    RUN_UNTIL(front_connection_count(front) == 2);
    caller_send(&caller, V1 "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(caller_has(&caller, "/1="));
    for (unsigned i = 0; i < 3; i++) {
        caller_close(&others[i]);
    }
}

Test(connection_proxy, other_peers_speak_without_it)
{
    struct caller direct;

    caller_open_from(&direct, front, "192.0.2.9");
    caller_send(&direct, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    settle();
    cr_assert(caller_has(&direct, "/1="));
    caller_close(&direct);
}
