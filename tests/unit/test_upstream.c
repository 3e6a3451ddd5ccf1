#include "build_config.h"

#include "upstream_peer.h"

TestSuite(upstream, .init = set_up, .fini = tear_down, .timeout = 60);

static const char *answer = ANSWER("5\r\n\r\nhello");

static void give_answer(struct peer_connection *connection, UNUSED struct view request)
{
    peer_send(connection, answer);
}

/* ---- requests */

static char seen[1024];

static void keep_request(struct peer_connection *connection, struct view request)
{
    snprintf(seen, sizeof seen, "%.*s", (int)request.length, request.data);
    give_answer(connection, request);
}

Test(upstream, request_gets_host_key_and_encoding_behind_its_own_fields)
{
    struct outcome outcome = {0};
    char expected[512];

    peer.on_request = keep_request;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    snprintf(expected, sizeof expected,
             GET_HEAD "Host: 127.0.0.1:%u\r\nAuthorization: Bearer " TEST_KEY
                      "\r\nAccept-Encoding: identity\r\nConnection: keep-alive\r\n\r\n",
             peer.port);
    cr_assert_str_eq(seen, expected);
    cr_assert_eq(outcome.status, 200);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(outcome.pieces, 1);
    cr_assert_eq(outcome.pauses, 0);
    forget(&outcome);
}

static size_t wrong_bytes;

static void check_body(struct peer_connection *connection, struct view request)
{
    const char *body = memmem(request.data, request.length, "\r\n\r\n", 4);

    for (const char *at = body + 4; at < request.data + request.length; at++) {
        wrong_bytes += *at != 'b';
    }
    give_answer(connection, request);
}

Test(upstream, body_of_20_mib_arrives_whole_though_the_socket_blocks)
{
    struct outcome outcome = {0};
    struct upstream_timing timing;

    peer.on_request = check_body;
    send_submit(&outcome, 20 * 1024 * 1024);
    timing = upstream_timing(outcome.exchange);
    cr_assert_eq(timing.sent_us, 0);
    RUN_UNTIL(outcome.over);
    cr_assert_not(outcome.failed);
    cr_assert_eq(wrong_bytes, 0);
    cr_assert_eq(peer.requests, 1);
    forget(&outcome);
}

/* ---- connections */

Test(upstream, connection_is_used_again)
{
    peer.on_request = give_answer;
    for (unsigned i = 1; i <= 10; i++) {
        struct outcome outcome = {0};

        i % 2 ? send_get(&outcome) : send_submit(&outcome, 100);
        RUN_UNTIL(outcome.over);
        cr_assert_not(outcome.failed);
        forget(&outcome);
        cr_assert_eq(upstream_counts(client).idle, 1);
    }
    cr_assert_eq(peer.accepted, 1);
    cr_assert_eq(peer.requests, 10);
}

static struct outcome following;

static void told_body_and_send_next(void *owner, struct upstream_exchange *exchange,
                                    struct view data, bool last)
{
    told_body(owner, exchange, data, last);
    if (last) {
        send_get(&following);
    }
}

Test(upstream, what_is_sent_when_an_answer_is_told_goes_over_the_same_connection)
{
    static const struct upstream_handler chain = {
        .on_head = told_head, .on_body = told_body_and_send_next, .on_failure = told_failure};
    struct outcome outcome = {0};
    struct upstream_request request = {.head = VIEW(GET_HEAD)};

    peer.on_request = give_answer;
    cr_assert_not_null(upstream_send(client, &request, &chain, &outcome));
    RUN_UNTIL(following.over);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_str_eq(following.body, "hello");
    cr_assert_eq(peer.accepted, 1);
    forget(&outcome);
    forget(&following);
}

Test(upstream, the_last_used_connection_is_taken_first)
{
    struct outcome outcomes[3] = {0};
    struct outcome next = {0};

    send_get(&outcomes[0]);
    send_get(&outcomes[1]);
    send_get(&outcomes[2]);
    RUN_UNTIL(peer.requests == 3);
    cr_assert_eq(peer.accepted, 3);
    for (unsigned i = 0; i < 3; i++) {
        peer_send(peer.connections[(i + 1) % 3], answer);
        settle();
    }
    cr_assert_eq(upstream_counts(client).idle, 3);
    send_get(&next);
    RUN_UNTIL(peer.requests == 4);
    cr_assert_eq(peer.connections[0]->requests, 2);
    peer_send(peer.connections[0], answer);
    RUN_UNTIL(next.over);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_str_eq(outcomes[i].body, "hello");
        forget(&outcomes[i]);
    }
    forget(&next);
}

static void expect_dropped_after(const char *text, bool ends)
{
    struct outcome outcome = {0};

    answer = text;
    peer.on_request = give_answer;
    send_get(&outcome);
    RUN_UNTIL(peer.requests > 0);
    if (ends) {
        peer_end(peer.connections[0]);
    }
    RUN_UNTIL(outcome.over);
    cr_assert_not(outcome.failed, "%s", text);
    cr_assert_str_eq(outcome.body, "hello", "%s", text);
    cr_assert_eq(upstream_counts(client).open, 0, "%s", text);
    forget(&outcome);
}

Test(upstream, connection_close_is_obeyed)
{
    expect_dropped_after(ANSWER("5\r\nConnection: close\r\n\r\nhello"), false);
}

Test(upstream, http_1_0_is_not_kept)
{
    expect_dropped_after("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false);
}

Test(upstream, http_1_0_is_not_kept_though_it_says_keep_alive)
{
    expect_dropped_after(
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", false);
}

Test(upstream, bytes_behind_the_answer_drop_the_connection_after_it)
{
    expect_dropped_after(ANSWER("5\r\n\r\nhelloX"), false);
}

Test(upstream, a_second_answer_behind_the_first_drops_the_connection)
{
    expect_dropped_after(ANSWER("5\r\n\r\nhello") ANSWER("5\r\n\r\nother"), false);
}

Test(upstream, body_without_length_ends_with_the_connection)
{
    expect_dropped_after("HTTP/1.1 200 OK\r\n\r\nhello", true);
}

Test(upstream, stray_bytes_on_an_idle_connection_drop_it)
{
    struct outcome outcome = {0};

    peer.on_request = give_answer;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(upstream_counts(client).idle, 1);
    peer_send(peer.connections[0], ANSWER("5\r\n\r\nother"));
    RUN_UNTIL(upstream_counts(client).open == 0);
    forget(&outcome);
}

Test(upstream, an_idle_connection_that_ends_is_dropped)
{
    struct outcome outcome = {0};

    peer.on_request = give_answer;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    peer_end(peer.connections[0]);
    RUN_UNTIL(upstream_counts(client).open == 0);
    forget(&outcome);
}

/* ---- limits */

TestSuite(upstream_limits, .init = set_up_without_client, .fini = tear_down, .timeout = 60);

Test(upstream_limits, connections_are_capped_and_the_rest_waits_in_order)
{
    struct outcome outcomes[6] = {0};

    open_client_to("http://127.0.0.1", "max_connections = 2\nwaiting_timeout = \"1m\"");
    for (unsigned i = 0; i < 6; i++) {
        send_get(&outcomes[i]);
    }
    RUN_UNTIL(peer.requests == 2);
    cr_assert_eq(upstream_counts(client).open, 2);
    cr_assert_eq(upstream_counts(client).waiting, 4);
    for (unsigned i = 0; i < 6; i++) {
        struct peer_connection *one = peer.connections[i % 2];

        RUN_UNTIL(one->requests == i / 2 + 1);
        peer_send(one, answer);
        RUN_UNTIL(outcomes[i].over);
    }
    cr_assert_eq(peer.accepted, 2);
    for (unsigned i = 0; i < 6; i++) {
        cr_assert_str_eq(outcomes[i].body, "hello");
        forget(&outcomes[i]);
    }
}

Test(upstream_limits, a_full_queue_fails_at_once_as_busy_and_unsent)
{
    struct outcome outcomes[5] = {0};

    open_client_to("http://127.0.0.1",
                   "max_connections = 1\nmax_waiting = 2\nwaiting_timeout = \"1m\"");
    send_get(&outcomes[0]);
    RUN_UNTIL(peer.requests == 1);
    for (unsigned i = 1; i < 5; i++) {
        send_get(&outcomes[i]);
    }
    RUN_UNTIL(outcomes[3].over && outcomes[4].over);
    for (unsigned i = 3; i < 5; i++) {
        cr_assert(outcomes[i].failed);
        cr_assert_eq(outcomes[i].failure, UPSTREAM_BUSY);
        cr_assert_not(outcomes[i].may_be_processed);
    }
    cr_assert_not(outcomes[1].over);
    for (unsigned i = 0; i < 3; i++) {
        upstream_abort(outcomes[i].exchange);
    }
}

Test(upstream_limits, waiting_ends_after_the_waiting_timeout)
{
    struct outcome outcomes[2] = {0};

    open_client_to("http://127.0.0.1", "max_connections = 1\nwaiting_timeout = \"50ms\"");
    send_get(&outcomes[0]);
    RUN_UNTIL(peer.requests == 1);
    send_get(&outcomes[1]);
    RUN_UNTIL(outcomes[1].over);
    cr_assert_eq(outcomes[1].failure, UPSTREAM_BUSY);
    cr_assert_not(outcomes[0].over);
    upstream_abort(outcomes[0].exchange);
}

Test(upstream_limits, unused_connections_are_closed_after_keepalive)
{
    struct outcome outcome = {0};

    open_client_to("http://127.0.0.1", "keepalive = \"1s\"");
    peer.on_request = give_answer;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(upstream_counts(client).idle, 1);
    RUN_UNTIL(upstream_counts(client).open == 0);
    RUN_UNTIL(peer_ended(&peer) == 1);
    forget(&outcome);
}

Test(upstream_limits, another_url_is_adopted_and_old_connections_go)
{
    struct outcome outcome = {0};
    struct peer other = {0};
    const struct config *newer;
    char url[64];

    peer.on_request = give_answer;
    open_client_to("http://127.0.0.1", "");
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    forget(&outcome);
    peer_open(&other);
    other.on_request = keep_request;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v2", other.port);
    newer = make_config(url, "");
    upstream_adopt(client, newer);
    config_unref(newer);
    cr_assert_eq(upstream_counts(client).open, 0);
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(other.requests, 1);
    cr_assert_eq(peer.requests, 1);
    snprintf(url, sizeof url, "Host: 127.0.0.1:%u\r\n", other.port);
    cr_assert_not_null(strstr(seen, url));
    forget(&outcome);
    peer_close(&other);
}

/* ---- deadlines */

static void expect_timeout(struct upstream_deadlines deadlines, const char *partial,
                           bool may_be_processed)
{
    struct outcome outcome = {0};
    struct upstream_request request = {
        .head = VIEW(GET_HEAD),
        .resend = UPSTREAM_RESEND_READ,
        .deadlines = deadlines,
    };

    send_request(&outcome, &request);
    RUN_UNTIL(peer.requests == 1);
    peer_send(peer.connections[0], partial);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_TIMEOUT);
    cr_assert_eq(outcome.may_be_processed, may_be_processed);
    cr_assert_eq(upstream_counts(client).open, 0);
    cr_assert_eq(peer.requests, 1);
    forget(&outcome);
}

Test(upstream, total_deadline_ends_a_silent_exchange)
{
    expect_timeout((struct upstream_deadlines){.total_ms = 200}, "", true);
}

Test(upstream, total_deadline_ends_one_that_drips)
{
    expect_timeout((struct upstream_deadlines){.total_ms = 200}, ANSWER("5\r\n\r\nhe"), true);
}

Test(upstream, deadline_after_the_last_request_byte)
{
    expect_timeout((struct upstream_deadlines){.after_sent_ms = 200}, "", true);
}

Test(upstream, idle_deadline_between_two_bytes)
{
    expect_timeout((struct upstream_deadlines){.idle_ms = 200}, ANSWER("5\r\n\r\nhe"), true);
}

Test(upstream, deadline_passes_while_the_request_is_still_being_sent)
{
    struct outcome outcome = {0};
    struct body *body = body_create(&budget, 20 * 1024 * 1024);
    size_t room_bytes;
    struct upstream_request request = {
        .head = VIEW("POST /v2/abc/run HTTP/1.1\r\nContent-Length: 20971520\r\n"),
        .body = body,
        .resend = UPSTREAM_RESEND_SUBMIT,
        .deadlines = {.idle_ms = 300},
    };

    memset(body_room(body, 20971520, &room_bytes), 'b', 20971520);
    body_added(body, 20971520);
    peer.deaf = true;
    send_request(&outcome, &request);
    body_unref(body);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_TIMEOUT);
    cr_assert_not(outcome.may_be_processed);
}

/* ---- the owner's side */

Test(upstream, aborting_before_the_answer_closes_the_connection)
{
    struct outcome outcome = {0};

    send_get(&outcome);
    RUN_UNTIL(peer.requests == 1);
    upstream_abort(outcome.exchange);
    RUN_UNTIL(peer_ended(&peer) == 1);
    cr_assert_not(outcome.over);
    cr_assert_eq(upstream_counts(client).open, 0);
}

Test(upstream, aborting_in_on_head_and_in_on_body_tells_nothing_more)
{
    struct outcome outcomes[2] = {{.abort_at_head = true}, {.abort_at_body = true}};

    peer.on_request = give_answer;
    answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n";
    for (unsigned i = 0; i < 2; i++) {
        send_get(&outcomes[i]);
        RUN_UNTIL(outcomes[i].over);
        settle();
        cr_assert_eq(outcomes[i].pieces, i);
        cr_assert_eq(upstream_counts(client).open, 0);
        forget(&outcomes[i]);
    }
}

Test(upstream, aborting_one_that_waits_for_its_connection_leaves_that_to_others)
{
    struct outcome outcome = {0};

    peer.on_request = give_answer;
    send_get(&outcome);
    upstream_abort(outcome.exchange);
    RUN_UNTIL(upstream_counts(client).idle == 1);
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(peer.accepted, 1);
    forget(&outcome);
}

Test(upstream, a_paused_exchange_stops_reading_until_resumed)
{
    struct outcome outcome = {.pause_at_head = true};
    size_t total = 8 * 1024 * 1024;
    char *bytes = malloc(total);

    send_get(&outcome);
    RUN_UNTIL(peer.requests == 1);
    memset(bytes, 'x', total);
    peer_send(peer.connections[0], ANSWER("8388608\r\n\r\n"));
    RUN_UNTIL(outcome.heads == 1);
    peer_send_bytes(peer.connections[0], view_make(bytes, total));
    settle();
    cr_assert_eq(outcome.body_length, 0);
    cr_assert_gt(peer.connections[0]->output_length, 0);
    upstream_resume(outcome.exchange);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.body_length, total);
    cr_assert_eq(memcmp(outcome.body, bytes, total), 0);
    cr_assert_eq(upstream_counts(client).idle, 1);
    cr_assert_gt(outcome.pauses, 0);
    free(bytes);
    forget(&outcome);
}

Test(upstream, idle_deadline_does_not_run_while_paused)
{
    struct outcome outcome = {.pause_at_head = true};
    struct upstream_request request = {.head = VIEW(GET_HEAD), .deadlines = {.idle_ms = 50}};
    uint64_t until_ms;

    send_request(&outcome, &request);
    RUN_UNTIL(peer.requests == 1);
    peer_send(peer.connections[0], ANSWER("5\r\n\r\n"));
    RUN_UNTIL(outcome.heads == 1);
    until_ms = clock_mono_ms() + 500;
    RUN_UNTIL(clock_mono_ms() >= until_ms);
    cr_assert_not(outcome.over);
    upstream_resume(outcome.exchange);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_TIMEOUT);
    forget(&outcome);
}

/* ---- collecting */

static void collect(const char *text, size_t maximum, struct outcome *outcome, size_t *length)
{
    struct body *body = body_create(&budget, 0);

    outcome->collect_into = body;
    outcome->collect_maximum = maximum;
    answer = text;
    peer.on_request = give_answer;
    send_get(outcome);
    RUN_UNTIL(outcome->over);
    cr_assert_not(outcome->failed);
    *length = body_view(body).length;
    body_unref(body);
}

Test(upstream, collected_body_comes_once)
{
    struct outcome outcome = {0};
    size_t length;

    collect(ANSWER("5\r\n\r\nhello"), 5, &outcome, &length);
    cr_assert_eq(outcome.pieces, 1);
    cr_assert_eq(length, 5);
    cr_assert(outcome.data_lay_in_body);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(upstream_counts(client).idle, 1);
    forget(&outcome);
}

Test(upstream, chunks_are_collected_too)
{
    struct outcome outcome = {0};
    size_t length;

    collect("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
            5, &outcome, &length);
    cr_assert_eq(outcome.pieces, 1);
    cr_assert_eq(length, 5);
    cr_assert_str_eq(outcome.body, "hello");
    forget(&outcome);
}

Test(upstream, empty_body_is_collected)
{
    struct outcome outcome = {0};
    size_t length;

    collect("HTTP/1.1 204 No Content\r\n\r\n", 5, &outcome, &length);
    cr_assert_eq(outcome.pieces, 1);
    cr_assert_eq(length, 0);
    forget(&outcome);
}

Test(upstream, a_body_above_the_maximum_is_told_in_pieces)
{
    struct outcome outcome = {0};
    size_t length;

    collect(ANSWER("6\r\n\r\nhello!"), 5, &outcome, &length);
    cr_assert_eq(outcome.pieces, 2);
    cr_assert_eq(length, 0);
    cr_assert_str_eq(outcome.body, "hello!");
    forget(&outcome);
}

Test(upstream, chunks_above_the_maximum_are_told_behind_what_was_collected)
{
    struct outcome outcome = {0};
    size_t length;

    collect("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
            4, &outcome, &length);
    cr_assert_eq(length, 3);
    cr_assert(outcome.data_lay_in_body);
    cr_assert_str_eq(outcome.body, "hello");
    forget(&outcome);
}

Test(upstream, a_large_body_is_read_into_its_place)
{
    struct outcome outcome = {0};
    struct body *body = body_create(&budget, 0);
    size_t total = 8 * 1024 * 1024;
    char *bytes = malloc(total);

    outcome.collect_into = body;
    outcome.collect_maximum = total;
    for (size_t i = 0; i < total; i++) {
        bytes[i] = (char)(i * 31 >> 3);
    }
    send_get(&outcome);
    RUN_UNTIL(peer.requests == 1);
    peer_send(peer.connections[0], ANSWER("8388608\r\n\r\n"));
    peer_send_bytes(peer.connections[0], view_make(bytes, total));
    RUN_UNTIL(outcome.over);
    cr_assert_eq(body_view(body).length, total);
    cr_assert_eq(memcmp(body_view(body).data, bytes, total), 0);
    cr_assert_eq(outcome.pieces, 1);
    cr_assert_eq(upstream_counts(client).idle, 1);
    body_unref(body);
    free(bytes);
    forget(&outcome);
}

Test(upstream, bytes_behind_a_body_read_into_its_place_drop_the_connection)
{
    struct outcome outcome = {0};
    struct body *body = body_create(&budget, 0);

    outcome.collect_into = body;
    outcome.collect_maximum = 100;
    send_get(&outcome);
    RUN_UNTIL(peer.requests == 1);
    peer_send(peer.connections[0], ANSWER("5\r\n\r\n"));
    RUN_UNTIL(outcome.heads == 1);
    peer_send(peer.connections[0], "helloX");
    RUN_UNTIL(outcome.over);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(upstream_counts(client).open, 0);
    body_unref(body);
    forget(&outcome);
}

Test(upstream, when_the_budget_is_used_up_the_body_is_told_in_pieces)
{
    struct outcome outcome = {0};
    size_t length;

    atomic_store(&budget.maximum_bytes, 0);
    collect(ANSWER("5\r\n\r\nhello"), 100, &outcome, &length);
    cr_assert_eq(length, 0);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(outcome.pieces, 2);
    forget(&outcome);
}
