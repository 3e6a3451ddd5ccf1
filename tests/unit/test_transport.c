#include "build_config.h"

#include "certificates.h"

#include <errno.h>
#include <openssl/err.h>
#include <signal.h>
#include <sys/socket.h>

#include "net/transport.h"

static struct transport left;
static struct transport right;
static SSL_CTX *server_context;
static SSL_CTX *client_context;

static void set_up(void)
{
    int pair[2];

    signal(SIGPIPE, SIG_IGN);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    transport_init(&left, pair[0]);
    transport_init(&right, pair[1]);
}

static void tear_down(void)
{
    transport_close(&left);
    transport_close(&right);
    transport_close(&left); /* twice is allowed */
}

static enum transport_result write_text(struct transport *transport, const char *text, size_t *count)
{
    struct iovec part = {(void *)text, strlen(text)};

    return transport_write(transport, &part, 1, count);
}

/* Reads one piece as a string. */
static enum transport_result read_text(struct transport *transport, char room[64])
{
    size_t count;
    enum transport_result result = transport_read(transport, room, 63, &count);

    room[count] = '\0';
    return result;
}

TestSuite(transport, .init = set_up, .fini = tear_down, .timeout = 60);

Test(transport, parts_arrive_in_order)
{
    char one[] = "one ";
    char two[] = "two ";
    char three[] = "three";
    struct iovec parts[] = {{one, 4}, {two, 0}, {two, 4}, {three, 5}};
    char room[64];
    size_t count;

    cr_assert_eq(transport_write(&left, parts, 4, &count), TRANSPORT_OK);
    cr_assert_eq(count, 13);
    cr_assert_eq(read_text(&right, room), TRANSPORT_OK);
    cr_assert_str_eq(room, "one two three");
    cr_assert_eq(read_text(&right, room), TRANSPORT_AGAIN);
}

Test(transport, an_end_and_a_broken_connection_are_told_apart)
{
    char room[64];
    char text[128];
    size_t count;
    struct view words;

    transport_finish(&left);
    cr_assert_eq(read_text(&right, room), TRANSPORT_END);
    cr_assert_eq(write_text(&right, "x", &count), TRANSPORT_OK);
    transport_close(&left);
    cr_assert_eq(write_text(&right, "x", &count), TRANSPORT_FAILED);
    cr_assert_eq(right.error, EPIPE);
    words = transport_error_text(&right, text, sizeof text);
    cr_assert(view_equal(words, VIEW("Broken pipe")));
}

Test(transport, a_full_socket_says_again)
{
    static char block[1024 * 1024];
    struct iovec part = {block, sizeof block};
    size_t count;
    enum transport_result result;

    do {
        result = transport_write(&left, &part, 1, &count);
    } while (result == TRANSPORT_OK);
    cr_assert_eq(result, TRANSPORT_AGAIN);
    cr_assert_eq(count, 0);
}

Test(transport, quiet_means_neither_bytes_nor_end)
{
    size_t count;
    char room[64];

    cr_assert(transport_is_quiet(&left));
    cr_assert_eq(write_text(&right, "x", &count), TRANSPORT_OK);
    cr_assert_not(transport_is_quiet(&left));
    cr_assert_eq(read_text(&left, room), TRANSPORT_OK);
    cr_assert_str_eq(room, "x");
    cr_assert(transport_is_quiet(&left));
    transport_close(&right);
    cr_assert_not(transport_is_quiet(&left));
}

/* ---- TLS */

static void set_up_tls(void)
{
    struct certificate *own;

    certificates_begin();
    set_up();
    own = certificate_create("server", "DNS:server.example", 30, false, NULL);
    server_context = SSL_CTX_new(TLS_server_method());
    client_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_use_certificate(server_context, own->x509);
    SSL_CTX_use_PrivateKey(server_context, own->key);
    certificate_destroy(own);
}

static void tear_down_tls(void)
{
    tear_down();
    SSL_CTX_free(server_context);
    SSL_CTX_free(client_context);
    certificates_end();
    cr_expect_eq(ERR_peek_error(), 0, "something was left in the error queue");
}

TestSuite(transport_tls, .init = set_up_tls, .fini = tear_down_tls, .timeout = 60);

/* Handshakes until both sides are done or one has failed. */
static bool shake_hands(void)
{
    enum transport_result a = TRANSPORT_AGAIN;
    enum transport_result b = TRANSPORT_AGAIN;

    cr_assert(transport_start_tls(&left, SSL_new(client_context), false));
    cr_assert(transport_start_tls(&right, SSL_new(server_context), true));
    cr_assert_not(left.handshaken);
    for (int i = 0; i < 20 && (a == TRANSPORT_AGAIN || b == TRANSPORT_AGAIN); i++) {
        if (a == TRANSPORT_AGAIN) {
            a = transport_handshake(&left);
        }
        if (b == TRANSPORT_AGAIN) {
            b = transport_handshake(&right);
        }
        if (a == TRANSPORT_FAILED && b == TRANSPORT_FAILED) {
            break;
        }
    }
    return a == TRANSPORT_OK && b == TRANSPORT_OK;
}

static size_t records;

static void count_record(int is_write, UNUSED int version, int type, UNUSED const void *bytes,
                         UNUSED size_t length, UNUSED SSL *tls, UNUSED void *argument)
{
    records += is_write && type == SSL3_RT_HEADER;
}

Test(transport_tls, small_parts_become_one_record)
{
    char one[] = "one ";
    char two[] = "two ";
    struct iovec parts[] = {{one, 4}, {two, 4}};
    char room[64];
    size_t count;

    cr_assert(shake_hands());
    SSL_set_msg_callback(left.tls, count_record);
    cr_assert_eq(transport_write(&left, parts, 2, &count), TRANSPORT_OK);
    cr_assert_eq(count, 8);
    cr_assert_eq(records, 1);
    cr_assert_eq(read_text(&right, room), TRANSPORT_OK);
    cr_assert_str_eq(room, "one two ");
    cr_assert_eq(read_text(&right, room), TRANSPORT_AGAIN);
    cr_assert_not(transport_has_buffered(&right));
}

/* Writes `total` bytes given in uneven parts, moved to new memory after each AGAIN, and checks what
 * the other side gets. */
static void send_through(size_t total, size_t first)
{
    char *sent = malloc(total);
    char *got = malloc(total + 1);
    size_t written = 0;
    size_t received = 0;

    for (size_t i = 0; i < total; i++) {
        sent[i] = (char)(i * 31 >> 3);
    }
    while (received < total) {
        char *moved = malloc(total - written + 1);
        size_t left_bytes = total - written;
        size_t head = first < left_bytes ? first : left_bytes;
        struct iovec parts[] = {{moved, head}, {moved + head, left_bytes - head}};
        size_t count;
        enum transport_result result;

        memcpy(moved, sent + written, left_bytes);
        if (left_bytes > 0) {
            result = transport_write(&left, parts, 2, &count);
            cr_assert(result == TRANSPORT_OK || result == TRANSPORT_AGAIN);
            written += count;
        }
        free(moved);
        do {
            result = transport_read(&right, got + received, total + 1 - received, &count);
            cr_assert(result == TRANSPORT_OK || result == TRANSPORT_AGAIN);
            received += count;
        } while (result == TRANSPORT_OK);
    }
    cr_assert_eq(received, total);
    cr_assert_eq(memcmp(sent, got, total), 0);
    free(sent);
    free(got);
}

Test(transport_tls, large_writes_survive_a_full_socket_and_moving_memory)
{
    cr_assert(shake_hands());
    send_through(3 * 1024 * 1024, 100);
    send_through(1024 * 1024, 16384);
    send_through(1024 * 1024, 50000);
    send_through(16385, 16384);
}

Test(transport_tls, what_lies_in_the_library_is_told)
{
    char block[2000];
    struct iovec part = {block, sizeof block};
    char room[64];
    size_t count;

    memset(block, 'x', sizeof block);
    cr_assert(shake_hands());
    cr_assert_eq(transport_write(&left, &part, 1, &count), TRANSPORT_OK);
    cr_assert_eq(read_text(&right, room), TRANSPORT_OK);
    cr_assert(transport_has_buffered(&right));
    cr_assert_not(transport_is_quiet(&right));
}

Test(transport_tls, close_notify_is_an_end_and_a_mere_fin_is_not)
{
    char room[64];

    cr_assert(shake_hands());
    transport_finish(&left);
    cr_assert_eq(read_text(&right, room), TRANSPORT_END);
    shutdown(right.descriptor, SHUT_WR);
    do {
    } while (read_text(&left, room) == TRANSPORT_AGAIN);
    cr_assert_eq(read_text(&left, room), TRANSPORT_TRUNCATED);
}

Test(transport_tls, a_refused_certificate_is_said_in_words_on_both_sides)
{
    char text[256];
    struct view words;

    SSL_CTX_set_verify(client_context, SSL_VERIFY_PEER, NULL);
    cr_assert_not(shake_hands());
    words = transport_error_text(&left, text, sizeof text);
    cr_assert_not_null(memmem(words.data, words.length, "certificate verify failed: ", 27));
    cr_assert_not_null(memmem(words.data, words.length, "self", 4));
    words = transport_error_text(&right, text, sizeof text);
    cr_assert_not_null(memmem(words.data, words.length, "alert", 5));
    words = transport_error_text(&right, text, 8);
    cr_assert_eq(words.length, 7);
}

Test(transport_tls, bytes_that_are_no_tls_fail_the_handshake)
{
    size_t count;

    cr_assert_eq(write_text(&left, "GET / HTTP/1.1\r\n\r\n", &count), TRANSPORT_OK);
    cr_assert(transport_start_tls(&right, SSL_new(server_context), true));
    cr_assert_eq(transport_handshake(&right), TRANSPORT_FAILED);
    cr_assert_neq(right.tls_error, 0);
}

Test(transport_tls, a_hang_up_in_the_handshake_fails_it)
{
    cr_assert(transport_start_tls(&right, SSL_new(server_context), true));
    cr_assert_eq(transport_handshake(&right), TRANSPORT_AGAIN);
    transport_close(&left);
    cr_assert_eq(transport_handshake(&right), TRANSPORT_FAILED);
}

Test(transport_tls, without_memory_for_a_session_it_does_not_start)
{
    cr_assert_not(transport_start_tls(&left, NULL, false));
}
