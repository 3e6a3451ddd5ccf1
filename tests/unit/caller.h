/* For tests: the other end of a caller's connection, driven by the test in the same thread as the
 * front. */
#ifndef PODGATE_TESTS_CALLER_H
#define PODGATE_TESTS_CALLER_H

#include <errno.h>

#include "upstream_peer.h"
#include "virtual_clock.h"

#include "net/connection.h"

/* The clock stands still, so that a loop could wait for ever: it is asked again and again instead.
 */
HELPER void step(void)
{
    static const struct timespec moment = {0, 100000};

    settle();
    nanosleep(&moment, NULL);
}

#undef RUN_UNTIL
#define RUN_UNTIL(condition)                                                                       \
    do {                                                                                           \
        uint64_t limit_ms = clock_real_ms() + 30000;                                               \
        while (!(condition)) {                                                                     \
            cr_assert(clock_real_ms() < limit_ms, "never came true: " #condition);                 \
            step();                                                                                \
        }                                                                                          \
    } while (0)

struct caller {
    int descriptor;
    char *received; /* NUL-terminated */
    size_t length;
    bool ended;  /* FIN */
    bool broken; /* reset */
};

static struct connection_limits *limits;
static struct config_address plain_address;
static __attribute__((unused)) struct config_address tls_address = {.tls = true};

/* The address that a caller seems to come from. */
HELPER struct sockaddr_storage peer_of(const char *text)
{
    struct sockaddr_storage made = {0};
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)&made;
    uint8_t parts[4];

    cr_assert_eq(sscanf(text, "%hhu.%hhu.%hhu.%hhu", &parts[0], &parts[1], &parts[2], &parts[3]),
                 4);
    ipv4->sin_family = AF_INET;
    ipv4->sin_port = htons(40000);
    memcpy(&ipv4->sin_addr, parts, 4);
    return made;
}

/* Gives the front one end of a pair of sockets, as accepted from `peer_text`. */
HELPER void caller_give(struct front *front, int descriptor, const char *peer_text,
                        const struct config_address *address)
{
    struct sockaddr_storage from = peer_of(peer_text);

    cr_assert_eq(connection_limits_take(limits, &from), CONNECTION_LIMITS_OK);
    front_accept(front, descriptor, &from, address);
}

HELPER void caller_open_from(struct caller *caller, struct front *front, const char *peer_text)
{
    int pair[2];

    *caller = (struct caller){.descriptor = -1};
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    caller->descriptor = pair[0];
    caller_give(front, pair[1], peer_text, &plain_address);
}

HELPER void caller_open(struct caller *caller, struct front *front)
{
    caller_open_from(caller, front, "127.0.0.1");
}

/* Over TCP, where a test needs what socket pairs don't have: a reset, a low-water mark, a port. */
HELPER void caller_open_tcp(struct caller *caller, struct front *front,
                            const struct config_address *address)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    int accepted;

    *caller = (struct caller){.descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    cr_assert_eq(bind(listener, (struct sockaddr *)&name, sizeof name), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&name, &length), 0);
    cr_assert_eq(connect(caller->descriptor, (struct sockaddr *)&name, sizeof name), 0);
    accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    cr_assert_geq(accepted, 0);
    close(listener);
    setsockopt(caller->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    cr_assert_eq(evutil_make_socket_nonblocking(caller->descriptor), 0);
    caller_give(front, accepted, "127.0.0.1", address);
}

/* Takes in what has come. */
HELPER void caller_read(struct caller *caller)
{
    for (;;) {
        ssize_t count;

        caller->received = realloc(caller->received, caller->length + 65536 + 1);
        count = caller->descriptor < 0
                    ? 0
                    : recv(caller->descriptor, caller->received + caller->length, 65536, 0);
        if (count <= 0) {
            caller->ended = caller->ended || count == 0;
            caller->broken = caller->broken || (count < 0 && errno == ECONNRESET);
            break;
        }
        caller->length += (size_t)count;
    }
    caller->received[caller->length] = '\0';
}

HELPER bool caller_is_over(struct caller *caller)
{
    caller_read(caller);
    return caller->ended || caller->broken;
}

HELPER bool caller_has(struct caller *caller, const char *text)
{
    caller_read(caller);
    return memmem(caller->received, caller->length, text, strlen(text)) != NULL;
}

/* How often `text` is in what came. */
HELPER unsigned caller_count(struct caller *caller, const char *text)
{
    const char *at;
    unsigned count = 0;

    caller_read(caller);
    at = caller->received;
    while ((at = memmem(at, (size_t)(caller->received + caller->length - at), text,
                        strlen(text))) != NULL) {
        count++;
        at++;
    }
    return count;
}

/* Sends all of it, letting the front read meanwhile. */
HELPER void caller_send_bytes(struct caller *caller, struct view bytes)
{
    while (bytes.length > 0) {
        ssize_t count = send(caller->descriptor, bytes.data, bytes.length, MSG_NOSIGNAL);

        if (count < 0) {
            cr_assert_eq(errno, EAGAIN, "sending: %s", strerror(errno));
            step();
            continue;
        }
        bytes = view_skip(bytes, (size_t)count);
    }
}

HELPER void caller_send(struct caller *caller, const char *text)
{
    caller_send_bytes(caller, view_of_string(text));
}

/* Forgets what has come so far. */
HELPER void caller_clear(struct caller *caller)
{
    caller_read(caller);
    caller->length = 0;
    caller->received[0] = '\0';
}

HELPER void caller_hang_up(struct caller *caller)
{
    if (caller->descriptor >= 0) {
        close(caller->descriptor);
    }
    caller->descriptor = -1;
}

HELPER void caller_close(struct caller *caller)
{
    caller_hang_up(caller);
    free(caller->received);
    *caller = (struct caller){.descriptor = -1};
}

#endif
