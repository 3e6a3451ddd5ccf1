#include "build_config.h"

#include "net/transport.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* OpenSSL takes one buffer a call and makes one record of it, 16 KiB at the most. */
enum { RECORD_BYTES = 16 * 1024 };

/* Where small parts are put side by side to make one record. Static, since a local array of this
 * size would be zeroed at each call (-ftrivial-auto-var-init). Holds no state between calls. */
static _Thread_local char record_scratch[RECORD_BYTES];

void transport_init(struct transport *transport, int descriptor)
{
    *transport = (struct transport){.descriptor = descriptor, .handshaken = true};
}

bool transport_start_tls(struct transport *transport, SSL *tls, bool is_server)
{
    if (!tls) {
        return false;
    }
    transport->tls = tls;
    transport->handshaken = false;
    /* A record may be written by halves and repeated from another address, since the caller moves
     * what is left to memory of its own. Idle connections give their 34 KiB of buffers back. */
    SSL_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                          SSL_MODE_RELEASE_BUFFERS);
    SSL_clear_mode(tls, SSL_MODE_AUTO_RETRY);
    /* One read(2) for a record's head and body, not two. */
    SSL_set_read_ahead(tls, 1);
    if (SSL_set_fd(tls, transport->descriptor) != 1) {
        ERR_clear_error();
        return false;
    }
    if (is_server) {
        SSL_set_accept_state(tls);
    } else {
        SSL_set_connect_state(tls);
    }
    return true;
}

/* What an SSL_ function that gave `result` <= 0 means. Leaves OpenSSL's error queue empty: what one
 * connection leaves there would be taken for the next one's fault. */
static enum transport_result judge_tls(struct transport *transport, int result)
{
    int system_error = errno;
    enum transport_result verdict = TRANSPORT_FAILED;
    unsigned long code;

    switch (SSL_get_error(transport->tls, result)) {
    case SSL_ERROR_WANT_READ:
        transport->wants_read = true;
        verdict = TRANSPORT_AGAIN;
        break;
    case SSL_ERROR_WANT_WRITE:
        transport->wants_write = true;
        verdict = TRANSPORT_AGAIN;
        break;
    case SSL_ERROR_ZERO_RETURN: verdict = TRANSPORT_END; break;
    case SSL_ERROR_SYSCALL:
        /* OpenSSL 3 calls FIN without close_notify SSL_ERROR_SSL; no error at all is that too. */
        transport->error = system_error;
        if (system_error == 0 && ERR_peek_error() == 0) {
            verdict = TRANSPORT_TRUNCATED;
        }
        break;
    case SSL_ERROR_SSL:
        code = ERR_peek_error();
        if (ERR_GET_LIB(code) == ERR_LIB_SSL &&
            ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
            verdict = TRANSPORT_TRUNCATED;
        }
        transport->tls_error = code;
        break;
    default: transport->error = EPROTO; break;
    }
    ERR_clear_error();
    return verdict;
}

static void begin_tls_call(struct transport *transport)
{
    transport->wants_read = false;
    transport->wants_write = false;
    ERR_clear_error();
    errno = 0;
}

enum transport_result transport_handshake(struct transport *transport)
{
    enum transport_result verdict;
    int result;

    if (transport->handshaken) {
        return TRANSPORT_OK;
    }
    begin_tls_call(transport);
    result = SSL_do_handshake(transport->tls);
    if (result == 1) {
        transport->handshaken = true;
        return TRANSPORT_OK;
    }
    verdict = judge_tls(transport, result);
    if (verdict == TRANSPORT_AGAIN) {
        return verdict;
    }
    if (transport->error == 0 && transport->tls_error == 0) {
        transport->error = ECONNRESET; /* gone without a word, in the middle of the handshake */
    }
    return TRANSPORT_FAILED;
}

static enum transport_result read_plain(struct transport *transport, char *room, size_t room_bytes,
                                        size_t *count)
{
    ssize_t received;

    do {
        received = recv(transport->descriptor, room, room_bytes, 0);
    } while (received < 0 && errno == EINTR);
    if (received > 0) {
        *count = (size_t)received;
        return TRANSPORT_OK;
    }
    if (received == 0) {
        return TRANSPORT_END;
    }
    if (errno == EAGAIN) {
        return TRANSPORT_AGAIN;
    }
    transport->error = errno;
    return TRANSPORT_FAILED;
}

/* One record a call: no second SSL_read() here, since a fault behind good bytes must come at the
 * next call and not be lost. transport_has_buffered() tells the caller that there is more. */
static enum transport_result read_tls(struct transport *transport, char *room, size_t room_bytes,
                                      size_t *count)
{
    int result;

    begin_tls_call(transport);
    result = SSL_read_ex(transport->tls, room, room_bytes, count);
    if (result == 1) {
        return TRANSPORT_OK;
    }
    *count = 0;
    return judge_tls(transport, result);
}

enum transport_result transport_read(struct transport *transport, char *room, size_t room_bytes,
                                     size_t *count)
{
    *count = 0;
    return transport->tls ? read_tls(transport, room, room_bytes, count)
                          : read_plain(transport, room, room_bytes, count);
}

static enum transport_result write_plain(struct transport *transport, const struct iovec *parts,
                                         int part_count, size_t *count)
{
    union {
        const struct iovec *constant;
        struct iovec *base;
    } vector = {.constant = parts}; /* sendmsg() doesn't write to it */
    struct msghdr message = {.msg_iov = vector.base, .msg_iovlen = (size_t)part_count};
    ssize_t sent;

    do {
        /* One part is the common case, and a message header costs the kernel a copy and a check. */
        sent = part_count == 1
                   ? send(transport->descriptor, parts->iov_base, parts->iov_len, MSG_NOSIGNAL)
                   : sendmsg(transport->descriptor, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) {
        *count = (size_t)sent;
        return TRANSPORT_OK;
    }
    if (errno == EAGAIN) {
        return TRANSPORT_AGAIN;
    }
    transport->error = errno;
    return TRANSPORT_FAILED;
}

/* The next record's bytes from `offset` bytes into `parts` on: in place when one part fills it or
 * is all there is, else side by side in the scratch. Always as many as fit, so that a repeated
 * write is never shorter than the one that OpenSSL holds half-written. */
static struct view next_record(const struct iovec *parts, int part_count, size_t offset)
{
    size_t filled = 0;

    for (int i = 0; i < part_count && filled < RECORD_BYTES; i++) {
        const char *bytes = parts[i].iov_base;
        size_t length = parts[i].iov_len;

        if (offset >= length) {
            offset -= length;
            continue;
        }
        bytes += offset;
        length -= offset;
        offset = 0;
        if (filled == 0 && (length >= RECORD_BYTES || i == part_count - 1)) {
            return view_make(bytes, length < RECORD_BYTES ? length : RECORD_BYTES);
        }
        if (length > RECORD_BYTES - filled) {
            length = RECORD_BYTES - filled;
        }
        memcpy(record_scratch + filled, bytes, length);
        filled += length;
    }
    return view_make(record_scratch, filled);
}

static enum transport_result write_tls(struct transport *transport, const struct iovec *parts,
                                       int part_count, size_t *count)
{
    for (;;) {
        struct view record = next_record(parts, part_count, *count);
        size_t written = 0;
        enum transport_result verdict;
        int result;

        if (record.length == 0) {
            return TRANSPORT_OK;
        }
        begin_tls_call(transport);
        result = SSL_write_ex(transport->tls, record.data, record.length, &written);
        if (result == 1) {
            *count += written;
            continue;
        }
        verdict = judge_tls(transport, result);
        if (verdict == TRANSPORT_AGAIN) {
            return *count > 0 ? TRANSPORT_OK : TRANSPORT_AGAIN;
        }
        if (transport->error == 0 && transport->tls_error == 0) {
            transport->error = EPIPE;
        }
        return TRANSPORT_FAILED;
    }
}

enum transport_result transport_write(struct transport *transport, const struct iovec *parts,
                                      int part_count, size_t *count)
{
    *count = 0;
    return transport->tls ? write_tls(transport, parts, part_count, count)
                          : write_plain(transport, parts, part_count, count);
}

bool transport_has_buffered(const struct transport *transport)
{
    return transport->tls && SSL_has_pending(transport->tls) == 1;
}

bool transport_is_quiet(const struct transport *transport)
{
    char byte;
    ssize_t received;

    if (transport->descriptor < 0 || transport_has_buffered(transport)) {
        return false;
    }
    do {
        received = recv(transport->descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    } while (received < 0 && errno == EINTR);
    return received < 0 && errno == EAGAIN;
}

static bool is_sound(const struct transport *transport)
{
    return transport->handshaken && transport->error == 0 && transport->tls_error == 0;
}

void transport_finish(struct transport *transport)
{
    if (transport->descriptor < 0) {
        return;
    }
    if (transport->tls && is_sound(transport)) {
        ERR_clear_error();
        (void)SSL_shutdown(transport->tls);
        ERR_clear_error();
    }
    (void)shutdown(transport->descriptor, SHUT_WR);
}

void transport_close(struct transport *transport)
{
    if (transport->tls) {
        if (is_sound(transport)) {
            /* Else SSL_free() takes a session without close_notify for a broken one and forbids its
             * resumption. */
            SSL_set_shutdown(transport->tls, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        }
        SSL_free(transport->tls);
        ERR_clear_error();
        transport->tls = NULL;
    }
    if (transport->descriptor >= 0) {
        (void)close(transport->descriptor);
        transport->descriptor = -1;
    }
}

static struct view describe_tls(const struct transport *transport, char *text, size_t text_bytes)
{
    const char *reason = ERR_reason_error_string(transport->tls_error);
    const char *detail = NULL;
    int length;

    if (transport->tls && ERR_GET_LIB(transport->tls_error) == ERR_LIB_SSL &&
        ERR_GET_REASON(transport->tls_error) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        detail = X509_verify_cert_error_string(SSL_get_verify_result(transport->tls));
    }
    length = snprintf(text, text_bytes, "%s%s%s", reason ? reason : "TLS fault", detail ? ": " : "",
                      detail ? detail : "");
    if (length < 0) {
        return VIEW("TLS fault");
    }
    return view_make(text, (size_t)length < text_bytes ? (size_t)length : text_bytes - 1);
}

struct view transport_error_text(const struct transport *transport, char *text, size_t text_bytes)
{
    if (text_bytes > 0 && transport->tls_error != 0) {
        return describe_tls(transport, text, text_bytes);
    }
    if (text_bytes > 0 && transport->error != 0) {
        return view_of_string(strerror_r(transport->error, text, text_bytes));
    }
    return VIEW("closed by the peer");
}
