#include "build_config.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "ctl/ctl.h"

static bool wait_for(int descriptor, short events, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now_ms = clock_mono_ms();
        struct pollfd wanted = {.fd = descriptor, .events = events};
        int ready = now_ms < deadline_ms ? poll(&wanted, 1, (int)(deadline_ms - now_ms)) : 0;

        if (ready > 0) {
            return true;
        }
        if (ready == 0) {
            errno = ETIMEDOUT;
        }
        if (ready == 0 || errno != EINTR) {
            return false;
        }
    }
}

/* Connects without blocking for longer than the deadline. -1, with errno, when it can't. */
static int connect_to(const struct config_address *address, uint64_t deadline_ms)
{
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    const struct sockaddr *target = (const struct sockaddr *)&address->address;
    socklen_t length = address->address_length;
    int problem = 0;
    int descriptor;

    if (address->unix_path.length > 0) {
        if (address->unix_path.length >= sizeof path.sun_path) {
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(path.sun_path, address->unix_path.data, address->unix_path.length);
        target = (const struct sockaddr *)&path;
        length = (socklen_t)sizeof path;
    }
    descriptor = socket(target->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) {
        return -1;
    }
    if (connect(descriptor, target, length) != 0) {
        problem = errno;
    }
    if (problem == EINPROGRESS) {
        socklen_t size = sizeof problem;

        if (!wait_for(descriptor, POLLOUT, deadline_ms) ||
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &problem, &size) != 0) {
            problem = errno;
        }
    }
    if (problem == 0) {
        return descriptor;
    }
    close(descriptor);
    errno = problem;
    return -1;
}

static bool send_all(int descriptor, struct view bytes, uint64_t deadline_ms)
{
    while (bytes.length > 0) {
        ssize_t sent = send(descriptor, bytes.data, bytes.length, MSG_NOSIGNAL);

        if (sent >= 0) {
            bytes = view_skip(bytes, (size_t)sent);
        } else if (errno != EINTR &&
                   (errno != EAGAIN || !wait_for(descriptor, POLLOUT, deadline_ms))) {
            return false;
        }
    }
    return true;
}

/* Reads until `maximum_bytes` are there or the other side has closed. */
static bool receive(int descriptor, struct builder *answer, size_t maximum_bytes,
                    uint64_t deadline_ms)
{
    char room[16 * 1024];

    while (answer->length < maximum_bytes) {
        size_t left = maximum_bytes - answer->length;
        ssize_t got = recv(descriptor, room, left < sizeof room ? left : sizeof room, 0);

        if (got == 0) {
            break;
        }
        if (got > 0) {
            builder_append(answer, view_make(room, (size_t)got));
        } else if (errno != EINTR &&
                   (errno != EAGAIN || !wait_for(descriptor, POLLIN, deadline_ms))) {
            return false;
        }
    }
    return true;
}

char *ctl_exchange(const struct config_address *address, struct view request, size_t maximum_bytes,
                   uint64_t timeout_ms, size_t *length)
{
    uint64_t deadline_ms = clock_mono_ms() + timeout_ms;
    int descriptor = connect_to(address, deadline_ms);
    struct builder answer;
    char *text = NULL;
    int problem;

    if (descriptor < 0) {
        return NULL;
    }
    builder_init(&answer, NULL, 0);
    if (send_all(descriptor, request, deadline_ms) &&
        receive(descriptor, &answer, maximum_bytes, deadline_ms)) {
        builder_append_byte(&answer, '\0');
        errno = ENOMEM;
        text = builder_detach(&answer, length);
        *length -= text ? 1 : 0;
    }
    problem = errno;
    builder_clear(&answer);
    close(descriptor);
    errno = problem;
    return text;
}

unsigned ctl_http_status(struct view answer)
{
    uint64_t status;

    if (answer.length < 12 || !view_starts_with(answer, VIEW("HTTP/1.")) || answer.data[8] != ' ' ||
        !view_parse_u64(view_first(view_skip(answer, 9), 3), 999, &status)) {
        return 0;
    }
    return (unsigned)status;
}
