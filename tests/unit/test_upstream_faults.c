#include "build_config.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "net/upstream_private.h"
#include "upstream_peer.h"

TestSuite(upstream_faults, .init = set_up, .fini = tear_down, .timeout = 120);

static struct view answer = VIEW_INIT(ANSWER("5\r\n\r\nhello"));

static void give_answer(struct peer_connection *connection, UNUSED struct view request)
{
    peer_send_bytes(connection, answer);
}

/* ---- every cut of a response gives the same */

static void expect_hello_however_cut(struct view text, bool collecting)
{
    for (size_t cut = 0; cut <= text.length; cut++) {
        struct outcome outcome = {0};
        struct body *body = collecting ? body_create(&budget, 0) : NULL;
        unsigned before = peer.requests;

        outcome.collect_into = body;
        outcome.collect_maximum = 5;
        send_get(&outcome);
        RUN_UNTIL(peer.requests == before + 1);
        peer_send_bytes(peer.connections[0], view_first(text, cut));
        settle();
        cr_assert_eq(outcome.over, cut == text.length);
        peer_send_bytes(peer.connections[0], view_skip(text, cut));
        RUN_UNTIL(outcome.over);
        cr_assert_not(outcome.failed, "cut at %zu", cut);
        cr_assert_str_eq(outcome.body, "hello", "cut at %zu", cut);
        cr_assert_eq(outcome.status, 200);
        cr_assert(!collecting || outcome.pieces == 1);
        cr_assert_eq(upstream_counts(client).idle, 1, "cut at %zu", cut);
        body_unref(body);
        forget(&outcome);
    }
    cr_assert_eq(peer.accepted, 1);
}

#define WITH_LENGTH VIEW("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
#define CHUNKED \
    VIEW("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" \
         "2;x=y\r\nhe\r\n003\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n")
#define INTERIM \
    VIEW("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" \
         "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

Test(upstream_faults, length_cut_at_every_byte) { expect_hello_however_cut(WITH_LENGTH, false); }
Test(upstream_faults, length_collected_cut_at_every_byte)
{
    expect_hello_however_cut(WITH_LENGTH, true);
}
Test(upstream_faults, chunked_cut_at_every_byte) { expect_hello_however_cut(CHUNKED, false); }
Test(upstream_faults, chunked_collected_cut_at_every_byte)
{
    expect_hello_however_cut(CHUNKED, true);
}
Test(upstream_faults, interim_responses_cut_at_every_byte)
{
    expect_hello_however_cut(INTERIM, false);
}

Test(upstream_faults, a_response_that_comes_byte_by_byte)
{
    struct view text = INTERIM;
    struct outcome outcome = {0};

    send_get(&outcome);
    RUN_UNTIL(peer.requests == 1);
    for (size_t i = 0; i < text.length; i++) {
        peer_send_bytes(peer.connections[0], view_first(view_skip(text, i), 1));
        settle();
    }
    RUN_UNTIL(outcome.over);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(outcome.pieces, 5);
    cr_assert_eq(upstream_counts(client).idle, 1);
    forget(&outcome);
}

/* ---- responses that break the rules */

static void expect_failure_of(struct view text, enum upstream_failure failure, bool ends)
{
    struct outcome outcome = {0};
    unsigned before = peer.requests;

    send_get(&outcome);
    RUN_UNTIL(peer.requests == before + 1);
    peer_send_bytes(peer.connections[peer.accepted - 1], text);
    if (ends) {
        peer_end(peer.connections[peer.accepted - 1]);
    }
    RUN_UNTIL(outcome.over);
    cr_assert(outcome.failed, "%.60s", text.data);
    cr_assert_eq(outcome.failure, failure, "%.60s: %s", text.data,
                 upstream_failure_text(outcome.failure));
    cr_assert(outcome.may_be_processed);
    cr_assert_eq(upstream_counts(client).open, 0);
    settle();
    cr_assert_eq(peer.requests, before + 1, "sent again: %.60s", text.data);
    forget(&outcome);
}

Test(upstream_faults, malformed_responses_are_refused_and_the_connection_dropped)
{
    static const struct view bad[] = {
        VIEW_INIT("garbage\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 20 OK\r\n\r\n"),
        VIEW_INIT("HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nhello"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "5\r\nhello\r\n0\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
        VIEW_INIT("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    };

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        expect_failure_of(bad[i], UPSTREAM_MALFORMED, false);
    }
}

Test(upstream_faults, a_head_above_64_kib_is_refused)
{
    size_t length = 70 * 1024;
    char *text = malloc(length);

    memset(text, 'a', length);
    memcpy(text, "HTTP/1.1 200 OK\r\nA: ", 20);
    expect_failure_of(view_make(text, length), UPSTREAM_MALFORMED, false);
    free(text);
}

static struct view interims(unsigned count, char *room)
{
    size_t length = 0;

    for (unsigned i = 0; i < count; i++) {
        memcpy(room + length, "HTTP/1.1 102 Processing\r\n\r\n", 27);
        length += 27;
    }
    memcpy(room + length, answer.data, answer.length);
    return view_make(room, length + answer.length);
}

Test(upstream_faults, eight_interim_responses_are_skipped_and_nine_are_a_fault)
{
    struct outcome outcome = {0};
    char room[1024];

    expect_failure_of(interims(9, room), UPSTREAM_MALFORMED, false);
    answer = interims(8, room);
    peer.on_request = give_answer;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_str_eq(outcome.body, "hello");
    forget(&outcome);
}

Test(upstream_faults, encoded_responses_are_refused)
{
    expect_failure_of(VIEW(ANSWER("5\r\nContent-Encoding: gzip\r\n\r\nhello")), UPSTREAM_ENCODED,
                      false);
}

Test(upstream_faults, a_body_that_ends_too_early_is_incomplete)
{
    expect_failure_of(VIEW(ANSWER("6\r\n\r\nhello")), UPSTREAM_INCOMPLETE, true);
    expect_failure_of(VIEW(ANSWER("6\r\n\r\n")), UPSTREAM_INCOMPLETE, true);
    expect_failure_of(
        VIEW("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        UPSTREAM_INCOMPLETE, true);
    expect_failure_of(
        VIEW("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
        UPSTREAM_INCOMPLETE, true);
}

Test(upstream_faults, a_head_that_ends_too_early_is_broken_and_not_sent_again)
{
    expect_failure_of(VIEW("HTTP/1.1 200 OK\r\nContent-Le"), UPSTREAM_BROKEN, true);
    expect_failure_of(VIEW("HTTP/1.1 100 Continue\r\n\r\n"), UPSTREAM_BROKEN, true);
}

Test(upstream_faults, a_reset_ends_a_body_without_length_as_incomplete)
{
    struct outcome outcome = {0};

    send_get(&outcome);
    RUN_UNTIL(peer.requests == 1);
    peer_send(peer.connections[0], "HTTP/1.1 200 OK\r\n\r\nhello");
    RUN_UNTIL(outcome.pieces == 1);
    peer_reset(peer.connections[0]);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_INCOMPLETE);
    forget(&outcome);
}

Test(upstream_faults, an_answer_to_head_has_no_body_and_its_connection_is_kept)
{
    struct outcome outcome = {0};
    struct upstream_request request = {.head = VIEW("HEAD /v2/a/health HTTP/1.1\r\n"),
                                       .expects_no_body = true};

    answer = VIEW(ANSWER("5\r\nContent-Encoding: gzip\r\n\r\n"));
    peer.on_request = give_answer;
    send_request(&outcome, &request);
    RUN_UNTIL(outcome.over);
    cr_assert_not(outcome.failed);
    cr_assert_eq(outcome.body_length, 0);
    cr_assert_eq(upstream_counts(client).idle, 1);
    forget(&outcome);
}

/* ---- sending again: A, no connection */

static void expect_refused(enum upstream_resend resend, unsigned expected_resends)
{
    struct outcome outcome = {0};
    struct upstream_request request = {.head = VIEW(GET_HEAD), .resend = resend};
    uint64_t before = resends();

    send_request(&outcome, &request);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_REFUSED);
    cr_assert_not(outcome.may_be_processed);
    cr_assert_eq(resends() - before, expected_resends);
    cr_assert_eq(upstream_counts(client).open, 0);
    forget(&outcome);
}

Test(upstream_faults, a_refused_connection_is_tried_once_more)
{
    peer_stop_listening(&peer);
    expect_refused(UPSTREAM_RESEND_NEVER, 0);
    expect_refused(UPSTREAM_RESEND_SUBMIT, 1);
    expect_refused(UPSTREAM_RESEND_READ, 1);
}

Test(upstream_faults, many_that_wait_fail_one_by_one_when_connections_are_refused)
{
    struct outcome outcomes[50] = {0};

    peer_stop_listening(&peer);
    for (unsigned i = 0; i < ARRAY_LENGTH(outcomes); i++) {
        send_get(&outcomes[i]);
    }
    for (unsigned i = 0; i < ARRAY_LENGTH(outcomes); i++) {
        RUN_UNTIL(outcomes[i].over);
        cr_assert_eq(outcomes[i].failure, UPSTREAM_REFUSED);
    }
}

TestSuite(upstream_connect, .init = set_up_without_client, .fini = tear_down, .timeout = 60);

Test(upstream_connect, a_connection_that_does_not_come_about_times_out)
{
    struct outcome outcome = {0};
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fillers[8];

    /* A full queue of connections that nobody accepts swallows further ones. */
    peer_stop_listening(&peer);
    peer.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_port = htons(peer.port);
    setsockopt(peer.listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    cr_assert_eq(bind(peer.listener, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(peer.listener, 0), 0);
    for (unsigned i = 0; i < ARRAY_LENGTH(fillers); i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fillers[i], (struct sockaddr *)&address, sizeof address);
    }
    open_client_to("http://127.0.0.1", "connect_timeout = \"200ms\"");
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_CONNECT_TIMEOUT);
    cr_assert_not(outcome.may_be_processed);
    cr_assert_eq(resends(), 0);
    for (unsigned i = 0; i < ARRAY_LENGTH(fillers); i++) {
        close(fillers[i]);
    }
    close(peer.listener);
    forget(&outcome);
}

/* ---- B: the pooled connection was dead before our first byte */

static void make_idle_connection(void)
{
    struct outcome outcome = {0};

    peer.on_request = give_answer;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(upstream_counts(client).idle, 1);
    forget(&outcome);
}

static void expect_hello_over_second_connection(struct outcome *outcome)
{
    RUN_UNTIL(outcome->over);
    cr_assert_not(outcome->failed);
    cr_assert_str_eq(outcome->body, "hello");
    cr_assert_eq(peer.accepted, 2);
    cr_assert_eq(peer.requests, 2);
    cr_assert_eq(resends(), 0);
    forget(outcome);
}

Test(upstream_faults, a_submit_looks_whether_its_pooled_connection_has_ended)
{
    struct outcome outcome = {0};

    make_idle_connection();
    peer_end(peer.connections[0]);
    send_submit(&outcome, 10);
    expect_hello_over_second_connection(&outcome);
}

Test(upstream_faults, a_submit_looks_whether_its_pooled_connection_holds_stray_bytes)
{
    struct outcome outcome = {0};

    make_idle_connection();
    peer_send(peer.connections[0], ANSWER("5\r\n\r\nstray"));
    send_submit(&outcome, 10);
    expect_hello_over_second_connection(&outcome);
}

Test(upstream_faults, a_submit_takes_no_connection_that_answered_long_ago)
{
    struct outcome outcome = {0};

    make_idle_connection();
    TAILQ_FIRST(&client->idle)->answered_ms -= 6000;
    send_submit(&outcome, 10);
    expect_hello_over_second_connection(&outcome);
}

Test(upstream_faults, a_pooled_connection_that_was_reset_is_replaced_for_all)
{
    struct outcome outcome = {0};
    struct upstream_request request = {.head = VIEW(GET_HEAD), .resend = UPSTREAM_RESEND_NEVER};

    make_idle_connection();
    peer_reset(peer.connections[0]);
    send_request(&outcome, &request);
    expect_hello_over_second_connection(&outcome);
}

/* ---- C: it broke before the last byte was given to the kernel */

Test(upstream_faults, a_submit_that_broke_half_way_is_sent_again_once)
{
    struct outcome outcome = {0};

    peer.resets = 1;
    peer.on_request = give_answer;
    send_submit(&outcome, 20 * 1024 * 1024);
    RUN_UNTIL(outcome.over);
    cr_assert_not(outcome.failed);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(resends(), 1);
    cr_assert_eq(peer.requests, 1);
    cr_assert_eq(peer.accepted, 2);
    forget(&outcome);
}

Test(upstream_faults, a_submit_that_broke_half_way_twice_has_failed_unprocessed)
{
    struct outcome outcome = {0};

    peer.resets = 9;
    send_submit(&outcome, 20 * 1024 * 1024);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_BROKEN);
    cr_assert_not(outcome.may_be_processed);
    cr_assert_eq(peer.accepted, 2);
    forget(&outcome);
}

Test(upstream_faults, what_may_never_be_resent_is_not_even_half_way)
{
    struct outcome outcome = {0};
    struct body *body = body_create(&budget, 20 * 1024 * 1024);
    size_t room_bytes;
    struct upstream_request request = {
        .head = VIEW("POST /v2/abc/cancel/1 HTTP/1.1\r\nContent-Length: 20971520\r\n"),
        .body = body,
        .resend = UPSTREAM_RESEND_NEVER,
    };

    memset(body_room(body, 20971520, &room_bytes), 'b', 20971520);
    body_added(body, 20971520);
    peer.resets = 9;
    send_request(&outcome, &request);
    body_unref(body);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_BROKEN);
    cr_assert_eq(peer.accepted, 1);
    forget(&outcome);
}

static void end_unanswered(struct peer_connection *connection, UNUSED struct view request)
{
    peer_end(connection);
}

static void reset_unanswered(struct peer_connection *connection, UNUSED struct view request)
{
    peer_reset(connection);
}

Test(upstream_faults, a_submit_is_never_sent_again_after_its_last_byte)
{
    for (unsigned i = 0; i < 2; i++) {
        struct outcome outcome = {0};

        peer.on_request = i ? reset_unanswered : end_unanswered;
        send_submit(&outcome, 1000);
        RUN_UNTIL(outcome.over);
        cr_assert_eq(outcome.failure, UPSTREAM_BROKEN);
        cr_assert(outcome.may_be_processed);
        cr_assert_eq(peer.requests, i + 1);
        forget(&outcome);
    }
    cr_assert_eq(resends(), 0);
}

static void answer_on_third(struct peer_connection *connection, struct view request)
{
    if (connection->number >= 3) {
        give_answer(connection, request);
    } else {
        peer_end(connection);
    }
}

Test(upstream_faults, a_read_is_sent_again_once_and_over_a_new_connection)
{
    struct outcome outcomes[2] = {0};
    struct outcome outcome = {0};

    /* Two idle connections: the second try must take neither. */
    send_get(&outcomes[0]);
    send_get(&outcomes[1]);
    RUN_UNTIL(peer.requests == 2);
    give_answer(peer.connections[0], answer);
    give_answer(peer.connections[1], answer);
    RUN_UNTIL(outcomes[0].over && outcomes[1].over);
    peer.on_request = answer_on_third;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(resends(), 1);
    cr_assert_eq(peer.accepted, 3);
    cr_assert_eq(peer.requests, 4);
    forget(&outcome);
    forget(&outcomes[0]);
    forget(&outcomes[1]);
}

Test(upstream_faults, a_read_that_breaks_twice_has_failed)
{
    struct outcome outcome = {0};

    peer.on_request = end_unanswered;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_BROKEN);
    cr_assert_eq(peer.requests, 2);
    forget(&outcome);
}

/* ---- answers before the request was sent whole */

static void answer_on_accept(struct peer_connection *connection)
{
    peer_send(connection, "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nhello");
}

static void answer_on_accept_and_reset(struct peer_connection *connection)
{
    answer_on_accept(connection);
    peer_drop(connection); /* with unread bytes: a reset */
}

static void expect_early_answer(void (*on_accept)(struct peer_connection *))
{
    struct outcome outcome = {0};

    peer.deaf = true;
    peer.on_accept = on_accept;
    send_submit(&outcome, 20 * 1024 * 1024);
    RUN_UNTIL(outcome.over);
    cr_assert_not(outcome.failed);
    cr_assert_eq(outcome.status, 413);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(upstream_counts(client).open, 0);
    cr_assert_eq(peer.accepted, 1);
    forget(&outcome);
}

Test(upstream_faults, an_early_answer_is_told_and_its_connection_dropped)
{
    expect_early_answer(answer_on_accept);
}

Test(upstream_faults, an_early_answer_in_front_of_a_reset_is_told)
{
    expect_early_answer(answer_on_accept_and_reset);
}

/* ---- the key */

static char key_path[] = "/tmp/podgate-test-key-XXXXXX";

static void write_key(const char *text)
{
    FILE *file = fopen(key_path, "we");

    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

static char seen[2048];

static void keep_request(struct peer_connection *connection, struct view request)
{
    snprintf(seen, sizeof seen, "%.*s", (int)request.length, request.data);
    give_answer(connection, request);
}

static const char *key_option(void)
{
    static char option[128];

    snprintf(option, sizeof option, "api_key_file = \"%s\"", key_path);
    return option;
}

Test(upstream_connect, the_key_file_is_read_again_when_it_changes)
{
    struct outcome outcome = {0};
    char *problem = NULL;
    char echo[] = "x first_key y second_key z first_key";

    close(mkstemp(key_path));
    write_key("first_key\n");
    peer.on_request = keep_request;
    open_client_to("http://127.0.0.1", key_option());
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_not_null(strstr(seen, "\r\nAuthorization: Bearer first_key\r\n"));
    forget(&outcome);

    unlink(key_path);
    write_key("second_key"); /* another inode */
    cr_assert(upstream_identity_refresh(identity, &problem), "%s", problem);
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_not_null(strstr(seen, "\r\nAuthorization: Bearer second_key\r\n"));
    cr_assert_null(strstr(seen, "first_key"));
    cr_assert_eq(peer.accepted, 1);
    forget(&outcome);

    cr_assert_eq(upstream_identity_mask(identity, echo, strlen(echo)), 3);
    cr_assert_str_eq(echo, "x ********* y ********** z *********");

    write_key("a key\n");
    cr_assert_not(upstream_identity_refresh(identity, &problem));
    cr_assert_not_null(strstr(problem, key_path));
    cr_assert_null(strstr(problem, "a key"));
    free(problem);
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_not_null(strstr(seen, "\r\nAuthorization: Bearer second_key\r\n"));
    forget(&outcome);
    unlink(key_path);
    cr_assert_not(upstream_identity_refresh(identity, &problem));
    cr_assert_not_null(strstr(problem, "No such file"));
    free(problem);
}

static void expect_unusable_key(const char *option, const char *why)
{
    const struct config *with = make_config("http://127.0.0.1:1/v2", option);
    char *problem = NULL;

    cr_assert_null(upstream_identity_create(with, &problem));
    cr_assert_not_null(strstr(problem, why), "%s", problem);
    free(problem);
    config_unref(with);
}

Test(upstream_connect, an_unusable_key_is_refused_with_its_place_and_reason)
{
    close(mkstemp(key_path));
    open_client_to("http://127.0.0.1", "");
    write_key("");
    expect_unusable_key(key_option(), "empty");
    write_key("\r\n");
    expect_unusable_key(key_option(), key_path);
    write_key("two\nlines\n");
    expect_unusable_key(key_option(), "one line");
    unlink(key_path);
    expect_unusable_key(key_option(), "No such file");
    expect_unusable_key("api_key_file = \"/dev\"", "not a regular file");
    expect_unusable_key("api_key_env = \"PODGATE_TEST_UNSET\"", "PODGATE_TEST_UNSET");
}
