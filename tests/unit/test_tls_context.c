#include "build_config.h"

#include "certificates.h"

#include <signal.h>
#include <sys/socket.h>

#include "net/tls_context.h"
#include "net/transport.h"

static struct certificate *authority;
static const struct config *config;
static struct tls_server *server;
static struct tls_client *client;
static char *problem;
static struct transport callee;
static struct transport caller;
static struct tls_resumption resumption;

static void set_up(void)
{
    signal(SIGPIPE, SIG_IGN);
    certificates_begin();
    authority = certificate_create("authority", NULL, 30, true, NULL);
    transport_init(&callee, -1);
    transport_init(&caller, -1);
}

static void tear_down(void)
{
    transport_close(&callee);
    transport_close(&caller);
    tls_server_destroy(server);
    tls_client_destroy(client);
    tls_resumption_clear(&resumption);
    config_unref(config);
    certificate_destroy(authority);
    free(problem);
    certificates_end();
}

TestSuite(tls_context, .init = set_up, .fini = tear_down, .timeout = 60);

static const struct config *load_config(const char *text)
{
    struct config_errors *errors = config_errors_create();
    struct config *loaded = config_load_text("test.conf", view_of_string(text), false, errors);

    cr_assert_not_null(loaded, "%s",
                       config_errors_count(errors) ? config_errors_text(errors, 0) : "no reason");
    config_errors_destroy(errors);
    return loaded;
}

/* Appends one tls section for a new certificate. `more` is further options in it. */
static void add_section(char **text, const char *name, const char *alternatives, const char *more)
{
    struct certificate *own = certificate_create(name, alternatives, 30, false, authority);
    char *longer;

    cr_assert_gt(asprintf(&longer, "%stls { certificate = \"%s\" key = \"%s\" %s }\n",
                          *text ? *text : "upstream { api_key_env = \"K\" }\n",
                          own->certificate_path, own->key_path, more),
                 0);
    free(*text);
    *text = longer;
    certificate_destroy(own);
}

static void open_server(char *text)
{
    config = load_config(text);
    server = tls_server_create(config, &problem);
    cr_assert_not_null(server, "%s", problem);
    free(text);
}

static void open_client(bool verify)
{
    struct config_upstream upstream = {.ca_file = view_of_string(authority->certificate_path),
                                       .verify = verify};

    client = tls_client_create(&upstream, &problem);
    cr_assert_not_null(client, "%s", problem);
}

/* Connects the two transports and handshakes; `callers_session` is taken over. */
static bool shake_hands(SSL *callers_session)
{
    enum transport_result a = TRANSPORT_AGAIN;
    enum transport_result b = TRANSPORT_AGAIN;
    int pair[2];

    transport_close(&callee);
    transport_close(&caller);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    transport_init(&callee, pair[0]);
    transport_init(&caller, pair[1]);
    cr_assert(transport_start_tls(&callee, tls_server_session(server), true));
    cr_assert(transport_start_tls(&caller, callers_session, false));
    for (int i = 0; i < 20 && (a == TRANSPORT_AGAIN || b == TRANSPORT_AGAIN); i++) {
        b = b == TRANSPORT_AGAIN ? transport_handshake(&caller) : b;
        a = a == TRANSPORT_AGAIN ? transport_handshake(&callee) : a;
    }
    return a == TRANSPORT_OK && b == TRANSPORT_OK;
}

/* Takes in what the server sends behind its handshake: session tickets. */
static void read_tickets(void)
{
    char room[64];
    size_t count;

    cr_assert_eq(transport_read(&caller, room, sizeof room, &count), TRANSPORT_AGAIN);
}

/* The common name of the certificate that the server showed to who asked for `name`. */
static const char *shown_to(const char *name)
{
    static char text[64];

    cr_assert(shake_hands(tls_client_session(client, view_of_string(name), NULL)));
    X509_NAME_get_text_by_NID(
        X509_get_subject_name(SSL_get0_peer_certificate(caller.tls)), NID_commonName, text,
        sizeof text);
    return text;
}

Test(tls_context, the_certificate_is_chosen_by_name)
{
    char *text = NULL;

    add_section(&text, "first", "DNS:first.example", "");
    add_section(&text, "second", "DNS:second.example,DNS:also.example", "");
    add_section(&text, "wild", "DNS:*.wild.example", "");
    add_section(&text, "exact", "DNS:exact.wild.example", "");
    add_section(&text, "common.example", NULL, "");
    add_section(&text, "configured", "DNS:unused.example", "names = {\"set.example\"}");
    open_server(text);
    open_client(false);
    cr_assert_str_eq(shown_to("first.example"), "first");
    cr_assert_str_eq(shown_to("second.example"), "second");
    cr_assert_str_eq(shown_to("ALSO.example"), "second");
    cr_assert_str_eq(shown_to("any.wild.example"), "wild");
    cr_assert_str_eq(shown_to("exact.wild.example"), "exact");
    cr_assert_str_eq(shown_to("two.labels.wild.example"), "first");
    cr_assert_str_eq(shown_to("wild.example"), "first");
    cr_assert_str_eq(shown_to("common.example"), "common.example");
    cr_assert_str_eq(shown_to("set.example"), "configured");
    cr_assert_str_eq(shown_to("unused.example"), "first");
    cr_assert_str_eq(shown_to("unknown.example"), "first");
    cr_assert_str_eq(shown_to("192.0.2.1"), "first");
}

static void open_one_server(void)
{
    char *text = NULL;

    add_section(&text, "server", "DNS:server.example", "");
    open_server(text);
}

Test(tls_context, old_versions_are_refused)
{
    SSL *old;

    open_one_server();
    open_client(false);
    old = tls_client_session(client, VIEW("server.example"), NULL);
    SSL_set_security_level(old, 0);
    SSL_set_min_proto_version(old, TLS1_VERSION);
    SSL_set_max_proto_version(old, TLS1_1_VERSION);
    cr_assert_not(shake_hands(old));
    cr_assert(shake_hands(tls_client_session(client, VIEW("server.example"), NULL)));
    cr_assert_eq(SSL_version(caller.tls), TLS1_3_VERSION);
}

static bool offer(const char *protocols, unsigned length, const unsigned char **chosen,
                  unsigned *chosen_length)
{
    SSL *session = tls_client_session(client, VIEW("server.example"), NULL);
    bool is_agreed;

    SSL_set_alpn_protos(session, (const unsigned char *)protocols, length);
    is_agreed = shake_hands(session);
    SSL_get0_alpn_selected(caller.tls, chosen, chosen_length);
    return is_agreed;
}

Test(tls_context, http_1_1_is_agreed_on_and_nothing_else)
{
    const unsigned char *chosen;
    unsigned length;

    open_one_server();
    open_client(false);
    cr_assert(offer("\x08http/1.1", 9, &chosen, &length));
    cr_assert_eq(length, 8);
    cr_assert(offer("\x02h2\x08http/1.1", 12, &chosen, &length));
    cr_assert_eq(memcmp(chosen, "http/1.1", 8), 0);
    cr_assert_not(offer("\x02h2", 3, &chosen, &length));
    cr_assert(offer("", 0, &chosen, &length));
    cr_assert_eq(length, 0);
}

Test(tls_context, sessions_are_resumed_but_not_under_another_trust)
{
    open_one_server();
    open_client(true);
    cr_assert(shake_hands(tls_client_session(client, VIEW("server.example"), &resumption)));
    cr_assert_not(SSL_session_reused(caller.tls));
    read_tickets();
    cr_assert_not_null(resumption.session);
    cr_assert(shake_hands(tls_client_session(client, VIEW("server.example"), &resumption)));
    cr_assert(SSL_session_reused(caller.tls));
    tls_client_destroy(client);
    open_client(true);
    cr_assert(shake_hands(tls_client_session(client, VIEW("server.example"), &resumption)));
    cr_assert_not(SSL_session_reused(caller.tls));
}

Test(tls_context, sessions_outlive_the_server_object)
{
    open_one_server();
    open_client(true);
    cr_assert(shake_hands(tls_client_session(client, VIEW("server.example"), NULL)));
    tls_server_destroy(server);
    server = NULL;
    tls_client_destroy(client);
    client = NULL;
    {
        char hello[] = "hello";
        struct iovec part = {hello, 5};
        char room[64];
        size_t count;

        cr_assert_eq(transport_write(&callee, &part, 1, &count), TRANSPORT_OK);
        cr_assert_eq(transport_read(&caller, room, sizeof room, &count), TRANSPORT_OK);
        cr_assert_eq(count, 5);
    }
}

Test(tls_context, renegotiation_is_refused)
{
    SSL *session;

    open_one_server();
    open_client(false);
    session = tls_client_session(client, VIEW("server.example"), NULL);
    SSL_set_max_proto_version(session, TLS1_2_VERSION);
    SSL_clear_options(session, SSL_OP_NO_RENEGOTIATION);
    cr_assert(shake_hands(session));
    cr_assert_eq(SSL_version(caller.tls), TLS1_2_VERSION);
    cr_assert_eq(SSL_renegotiate(caller.tls), 1);
    (void)SSL_do_handshake(caller.tls);
    {
        char room[64];
        size_t count;

        /* The server answers with a warning, or ends; a new handshake it does not begin. */
        (void)!transport_read(&callee, room, sizeof room, &count);
        cr_assert_eq(SSL_in_init(callee.tls), 0);
        cr_assert_eq(SSL_num_renegotiations(callee.tls), 0);
    }
}

Test(tls_context, a_host_must_match_and_be_one)
{
    char *text = NULL;
    char long_name[300];

    add_section(&text, "server", "DNS:server.example,IP:192.0.2.1,IP:2001:db8::1", "");
    open_server(text);
    open_client(true);
    cr_assert(shake_hands(tls_client_session(client, VIEW("server.example"), NULL)));
    cr_assert(shake_hands(tls_client_session(client, VIEW("192.0.2.1"), NULL)));
    cr_assert(shake_hands(tls_client_session(client, VIEW("2001:db8::1"), NULL)));
    cr_assert_not(shake_hands(tls_client_session(client, VIEW("other.example"), NULL)));
    cr_assert_not(shake_hands(tls_client_session(client, VIEW("192.0.2.2"), NULL)));
    memset(long_name, 'a', sizeof long_name);
    cr_assert_null(tls_client_session(client, view_make(long_name, sizeof long_name), NULL));
    cr_assert_null(tls_client_session(client, VIEW(""), NULL));
}

/* ---- mistakes */

static void expect_problem(const char *certificate_path, const char *key_path, const char *named,
                           const char *why)
{
    char *text = NULL;
    const struct config *wrong;
    char *words = NULL;

    cr_assert_gt(asprintf(&text,
                          "upstream { api_key_env = \"K\" }\n"
                          "tls { certificate = \"%s\" key = \"%s\" }\n",
                          certificate_path, key_path),
                 0);
    wrong = load_config(text);
    cr_assert_null(tls_server_create(wrong, &words));
    cr_assert_not_null(words);
    cr_assert_not_null(strstr(words, named), "%s", words);
    cr_assert_not_null(strstr(words, why), "%s", words);
    free(words);
    free(text);
    config_unref(wrong);
}

Test(tls_context, each_mistake_names_its_file)
{
    struct certificate *one = certificate_create("one", NULL, 30, false, authority);
    struct certificate *other = certificate_create("other", NULL, 30, false, authority);
    char locked_path[160];
    FILE *file;

    expect_problem("/nonexistent/a.crt", one->key_path, "/nonexistent/a.crt", "No such file");
    expect_problem(one->certificate_path, "/nonexistent/a.key", "/nonexistent/a.key",
                   "No such file");
    expect_problem(one->certificate_path, other->key_path, other->key_path,
                   "does not belong to the certificate");
    expect_problem(one->key_path, one->key_path, one->key_path, "no certificate in PEM form");
    expect_problem(one->certificate_path, one->certificate_path, one->certificate_path,
                   "no private key in PEM form");
    snprintf(locked_path, sizeof locked_path, "%s/locked.key", certificate_folder);
    file = fopen(locked_path, "w");
    PEM_write_PrivateKey(file, one->key, EVP_aes_128_cbc(), (const unsigned char *)"word", 4, NULL,
                         NULL);
    fclose(file);
    expect_problem(one->certificate_path, locked_path, locked_path, "encrypted");
    certificate_destroy(one);
    certificate_destroy(other);
}

Test(tls_context, without_a_section_there_is_no_server)
{
    char *words = NULL;

    config = load_config("upstream { api_key_env = \"K\" }\n");
    cr_assert_null(tls_server_create(config, &words));
    cr_assert_not_null(words);
    free(words);
}
