#include "build_config.h"

#include "certificates.h"
#include "net/upstream_private.h"
#include "upstream_peer.h"

static struct certificate *authority;
static struct certificate *stranger;
static const struct config *server_config;

static void set_up_tls(void)
{
    certificates_begin();
    set_up_without_client();
    authority = certificate_create("authority", NULL, 30, true, NULL);
    stranger = certificate_create("stranger", NULL, 30, true, NULL);
}

static void tear_down_tls(void)
{
    tear_down();
    config_unref(server_config);
    server_config = NULL;
    certificate_destroy(authority);
    certificate_destroy(stranger);
    certificates_end();
}

TestSuite(upstream_tls, .init = set_up_tls, .fini = tear_down_tls, .timeout = 60);

static void serve_with(const char *alternatives, long days, const struct certificate *issuer)
{
    struct certificate *own = certificate_create("server", alternatives, days, false, issuer);
    char *problem = NULL;
    char *text = NULL;

    cr_assert_gt(asprintf(&text,
                          "upstream { api_key_env = \"PODGATE_TEST_KEY\" }\n"
                          "tls { certificate = \"%s\" key = \"%s\" }\n",
                          own->certificate_path, own->key_path),
                 0);
    server_config = load_config(text);
    peer.tls = tls_server_create(server_config, &problem);
    cr_assert_not_null(peer.tls, "%s", problem);
    free(text);
    certificate_destroy(own);
}

static void open_tls_client(const char *host, const char *more)
{
    char options[512];
    char scheme_host[128];

    snprintf(options, sizeof options, "ca_file = \"%s\"\n%s", authority->certificate_path, more);
    snprintf(scheme_host, sizeof scheme_host, "https://%s", host);
    open_client_to(scheme_host, options);
}

static const char *answer = ANSWER("5\r\n\r\nhello");
static bool was_resumed[8];

static void give_answer(struct peer_connection *connection, UNUSED struct view request)
{
    was_resumed[connection->number] = SSL_session_reused(connection->transport.tls) == 1;
    peer_send(connection, answer);
}

/* Verification fails, and not a byte of the request leaves. */
static void expect_tls_failure(void)
{
    struct outcome outcome = {0};
    struct upstream_request request = {.head = VIEW(GET_HEAD), .resend = UPSTREAM_RESEND_READ};

    peer.on_request = give_answer;
    send_request(&outcome, &request);
    RUN_UNTIL(outcome.over);
    cr_assert(outcome.failed);
    cr_assert_eq(outcome.failure, UPSTREAM_TLS, "%s", upstream_failure_text(outcome.failure));
    cr_assert_not(outcome.may_be_processed);
    settle();
    cr_assert_eq(peer.requests, 0);
    for (unsigned i = 0; i < peer.accepted; i++) {
        cr_assert_eq(peer.connections[i]->received_length, 0);
    }
    cr_assert_eq(resends(), 0);
    cr_assert_eq(upstream_counts(client).open, 0);
    forget(&outcome);
}

static void expect_hello(unsigned accepted)
{
    struct outcome outcome = {0};

    peer.on_request = give_answer;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_not(outcome.failed, "%s", upstream_failure_text(outcome.failure));
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(peer.accepted, accepted);
    forget(&outcome);
}

Test(upstream_tls, a_verified_connection_is_used_again_and_its_session_resumed)
{
    serve_with("IP:127.0.0.1", 30, authority);
    open_tls_client("127.0.0.1", "");
    expect_hello(1);
    expect_hello(1);
    cr_assert_not(was_resumed[1]);
    peer_end(peer.connections[0]);
    RUN_UNTIL(upstream_counts(client).open == 0);
    expect_hello(2);
    cr_assert(was_resumed[2]);
}

Test(upstream_tls, submits_find_tls_connections_quiet)
{
    serve_with("IP:127.0.0.1", 30, authority);
    open_tls_client("127.0.0.1", "");
    peer.on_request = give_answer;
    for (unsigned i = 0; i < 5; i++) {
        struct outcome outcome = {0};

        send_submit(&outcome, 100 * 1024);
        RUN_UNTIL(outcome.over);
        cr_assert_str_eq(outcome.body, "hello");
        forget(&outcome);
    }
    cr_assert_eq(peer.accepted, 1);
    cr_assert_eq(peer.requests, 5);
}

Test(upstream_tls, a_name_is_verified_and_sent_in_sni)
{
    serve_with("DNS:localhost", 30, authority);
    open_tls_client("localhost", "");
    expect_hello(1);
    cr_assert_str_eq(SSL_get_servername(peer.connections[0]->transport.tls,
                                        TLSEXT_NAMETYPE_host_name),
                     "localhost");
}

Test(upstream_tls, a_stranger_s_certificate_never_gets_the_key)
{
    serve_with("IP:127.0.0.1", 30, stranger);
    open_tls_client("127.0.0.1", "");
    expect_tls_failure();
}

Test(upstream_tls, a_certificate_for_another_name_never_gets_the_key)
{
    serve_with("DNS:other.example", 30, authority);
    open_tls_client("localhost", "");
    expect_tls_failure();
}

Test(upstream_tls, a_certificate_for_another_address_never_gets_the_key)
{
    serve_with("IP:127.0.0.2,DNS:localhost", 30, authority);
    open_tls_client("127.0.0.1", "");
    expect_tls_failure();
}

Test(upstream_tls, an_expired_certificate_never_gets_the_key)
{
    serve_with("IP:127.0.0.1", -1, authority);
    open_tls_client("127.0.0.1", "");
    expect_tls_failure();
}

Test(upstream_tls, a_server_without_tls_never_gets_the_key)
{
    struct outcome outcome = {0};

    open_tls_client("127.0.0.1", "");
    send_get(&outcome);
    RUN_UNTIL(peer.accepted == 1 && peer.connections[0]->received_length > 0);
    cr_assert_null(memmem(peer.connections[0]->received, peer.connections[0]->received_length,
                          TEST_KEY, strlen(TEST_KEY)));
    peer_send(peer.connections[0], answer);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_TLS);
    forget(&outcome);
}

Test(upstream_tls, verification_can_be_turned_off)
{
    serve_with("DNS:other.example", -1, stranger);
    open_tls_client("127.0.0.1", "verify = false");
    expect_hello(1);
}

static void break_handshake(struct peer_connection *connection)
{
    if (connection->number == 1) {
        peer_drop(connection);
    }
}

Test(upstream_tls, a_handshake_that_broke_off_is_tried_once_more)
{
    struct outcome outcome = {0};

    serve_with("IP:127.0.0.1", 30, authority);
    open_tls_client("127.0.0.1", "");
    peer.on_accept = break_handshake;
    peer.on_request = give_answer;
    send_submit(&outcome, 10);
    RUN_UNTIL(outcome.over);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(resends(), 1);
    cr_assert_eq(peer.accepted, 2);
    forget(&outcome);
}

Test(upstream_tls, a_handshake_that_never_ends_times_out)
{
    struct outcome outcome = {0};

    serve_with("IP:127.0.0.1", 30, authority);
    open_tls_client("127.0.0.1", "connect_timeout = \"200ms\"");
    peer.deaf = true;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_CONNECT_TIMEOUT);
    forget(&outcome);
}

static void expect_close_delimited(bool with_close_notify)
{
    struct outcome outcome = {0};

    serve_with("IP:127.0.0.1", 30, authority);
    open_tls_client("127.0.0.1", "");
    send_get(&outcome);
    RUN_UNTIL(peer.requests == 1);
    peer_send(peer.connections[0], "HTTP/1.1 200 OK\r\n\r\nhello");
    if (with_close_notify) {
        peer_end(peer.connections[0]);
    } else {
        shutdown(peer.connections[0]->transport.descriptor, SHUT_WR);
    }
    RUN_UNTIL(outcome.over);
    cr_assert_str_eq(outcome.body, "hello");
    cr_assert_eq(outcome.failed, !with_close_notify);
    if (outcome.failed) {
        cr_assert_eq(outcome.failure, UPSTREAM_INCOMPLETE);
    }
    forget(&outcome);
}

Test(upstream_tls, a_body_without_length_ends_with_close_notify) { expect_close_delimited(true); }

Test(upstream_tls, a_body_without_length_cut_by_a_mere_fin_is_incomplete)
{
    expect_close_delimited(false);
}

Test(upstream_tls, large_bodies_go_both_ways_and_pausing_keeps_what_tls_has_buffered)
{
    struct outcome outcome = {.pause_at_head = true};
    size_t total = 3 * 1024 * 1024;
    char *bytes = malloc(total);

    serve_with("IP:127.0.0.1", 30, authority);
    open_tls_client("127.0.0.1", "");
    for (size_t i = 0; i < total; i++) {
        bytes[i] = (char)(i * 31 >> 3);
    }
    send_submit(&outcome, 5 * 1024 * 1024);
    RUN_UNTIL(peer.requests == 1);
    peer_send(peer.connections[0], ANSWER("3145728\r\n\r\n"));
    peer_send_bytes(peer.connections[0], view_make(bytes, total));
    RUN_UNTIL(outcome.heads == 1);
    settle();
    cr_assert_lt(outcome.body_length, total);
    upstream_resume(outcome.exchange);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.body_length, total);
    cr_assert_eq(memcmp(outcome.body, bytes, total), 0);
    cr_assert_eq(upstream_counts(client).idle, 1);
    free(bytes);
    forget(&outcome);
}

Test(upstream_tls, a_ca_file_that_is_none_is_named)
{
    const struct config *with;
    char *problem = NULL;
    char options[256];

    open_client_to("http://127.0.0.1", "");
    snprintf(options, sizeof options, "ca_file = \"%s\"", authority->key_path);
    with = make_config("https://127.0.0.1/v2", options);
    cr_assert_null(upstream_identity_create(with, &problem));
    cr_assert_not_null(strstr(problem, authority->key_path), "%s", problem);
    free(problem);
    config_unref(with);
}

/* ---- the company's proxy */

static const char *proxy_answer = "HTTP/1.1 200 Connection established\r\n\r\n";
static char connect_request[512];
static struct tls_server *behind_proxy;

/* Answers CONNECT and then plays the upstream itself. */
static void play_proxy(struct peer_connection *connection, struct view request)
{
    if (connection->requests > 1) {
        give_answer(connection, request);
        return;
    }
    snprintf(connect_request, sizeof connect_request, "%.*s", (int)request.length, request.data);
    peer_send(connection, proxy_answer);
    if (behind_proxy) {
        cr_assert(transport_start_tls(&connection->transport, tls_server_session(behind_proxy),
                                      true));
    }
}

static void open_proxy_client(void)
{
    char options[512];

    serve_with("DNS:api.example", 30, authority);
    behind_proxy = peer.tls;
    peer.tls = NULL; /* the proxy itself speaks plain HTTP */
    peer.on_request = play_proxy;
    snprintf(options, sizeof options, "ca_file = \"%s\"\nproxy = \"http://127.0.0.1:%u\"",
             authority->certificate_path, peer.port);
    open_client(make_config("https://api.example/v2", options));
}

Test(upstream_tls, requests_go_through_the_proxy_and_only_the_upstream_sees_the_key)
{
    struct outcome outcome = {0};

    open_proxy_client();
    for (unsigned i = 0; i < 3; i++) {
        send_get(&outcome);
        RUN_UNTIL(outcome.over);
        cr_assert_not(outcome.failed, "%s", upstream_failure_text(outcome.failure));
        cr_assert_str_eq(outcome.body, "hello");
        forget(&outcome);
    }
    cr_assert_str_eq(connect_request,
                     "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n");
    cr_assert_eq(peer.accepted, 1);
    tls_server_destroy(behind_proxy);
}

static void expect_proxy_failure(const char *text)
{
    struct outcome outcome = {0};

    proxy_answer = text;
    open_proxy_client();
    tls_server_destroy(behind_proxy);
    behind_proxy = NULL;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_PROXY, "%s", upstream_failure_text(outcome.failure));
    cr_assert_not(outcome.may_be_processed);
    cr_assert_null(strstr(connect_request, TEST_KEY));
    forget(&outcome);
}

Test(upstream_tls, a_proxy_that_refuses)
{
    expect_proxy_failure("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
}

Test(upstream_tls, a_proxy_that_wants_a_password)
{
    expect_proxy_failure("HTTP/1.1 407 Proxy Authentication Required\r\n"
                         "Proxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n");
}

Test(upstream_tls, a_proxy_that_answers_garbage) { expect_proxy_failure("what?\r\n\r\n"); }

Test(upstream_tls, a_proxy_that_sends_bytes_behind_its_answer)
{
    expect_proxy_failure("HTTP/1.1 200 OK\r\n\r\nsurplus");
}

static void end_at_once(struct peer_connection *connection, UNUSED struct view request)
{
    peer_end(connection);
}

Test(upstream_tls, a_proxy_that_hangs_up)
{
    struct outcome outcome = {0};

    open_proxy_client();
    tls_server_destroy(behind_proxy);
    peer.on_request = end_at_once;
    send_get(&outcome);
    RUN_UNTIL(outcome.over);
    cr_assert_eq(outcome.failure, UPSTREAM_PROXY);
    forget(&outcome);
}
