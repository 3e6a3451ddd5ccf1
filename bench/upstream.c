/* upstream: the bench's stand-in for the Runpod API: small and fast, so that it doesn't disturb
 * what is measured. Part of the program `load` (load.c): alone with --serve, or in the load
 * generator's own loop, so that the two don't wait for each other's time slices on the core that
 * they share.
 *
 * Answers, one epoll, keep-alive, HTTP/1.1:
 *   anything under /v2/hold/   held until /bench/release, then as below
 *   .../status/ID              IN_PROGRESS; COMPLETED after /bench/release
 *   .../run                    IN_QUEUE with an id that no other answer has
 *   /bench/...                 the bench's own: state (counts as JSON), last (the last request's
 *                              head as text), release, reset
 *   everything else            one fixed chat completion of about 200 bytes
 * It trusts its callers: it reads a length-delimited body and nothing more exotic.
 */
#define _GNU_SOURCE
#include "upstream.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INPUT_BYTES = 4096, EVENTS = 256, CONNECTIONS_MAXIMUM = 32768 };

static const char completion[] =
    "{\"id\":\"chatcmpl-0001\",\"object\":\"chat.completion\",\"created\":1700000000,"
    "\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"Hello there.\"},\"finish_reason\":\"stop\"}]}";

struct connection {
    int fd;
    bool held;
    size_t buffered;
    size_t held_index; /* its place among the held */
    char input[INPUT_BYTES];
};

static int epoll_fd;
static int listener;
static struct connection *held[CONNECTIONS_MAXIMUM];
static size_t held_count;
static size_t held_maximum;
static size_t open_count;
static uint64_t requests;
static bool released;
static char last_head[INPUT_BYTES];
static char fixed_answer[1024];
static size_t fixed_answer_length;

static void fail(const char *what)
{
    fprintf(stderr, "upstream: %s: %s\n", what, strerror(errno));
    exit(1);
}

static size_t answer_format(char *buffer, size_t size, const char *type, const char *body)
{
    int length = snprintf(buffer, size,
                          "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s",
                          type, strlen(body), body);
    if (length < 0 || (size_t)length >= size) {
        errno = ENOBUFS;
        fail("answer");
    }
    return (size_t)length;
}

static void held_remove(struct connection *c)
{
    held[c->held_index] = held[--held_count];
    held[c->held_index]->held_index = c->held_index;
    c->held = false;
}

static void connection_end(struct connection *c)
{
    if (c->held) {
        held_remove(c);
    }
    close(c->fd);
    free(c);
    open_count--;
}

/* An answer is far below a socket's buffer: a short write means that the caller doesn't read. */
static bool connection_write(struct connection *c, const char *bytes, size_t length)
{
    return write(c->fd, bytes, length) == (ssize_t)length;
}

static void release_all(void)
{
    released = true;
    while (held_count > 0) {
        struct connection *c = held[held_count - 1];
        held_remove(c);
        (void)connection_write(c, fixed_answer, fixed_answer_length);
    }
}

static bool answer_bench(struct connection *c, const char *what)
{
    char body[INPUT_BYTES];
    char answer[INPUT_BYTES + 256];
    const char *type = "application/json";
    if (strncmp(what, "release", 7) == 0) {
        release_all();
    } else if (strncmp(what, "reset", 5) == 0) {
        released = false;
        requests = 0;
        held_maximum = held_count;
    }
    if (strncmp(what, "last", 4) == 0) {
        type = "text/plain";
        memcpy(body, last_head, sizeof body);
    } else {
        (void)snprintf(
            body, sizeof body,
            "{\"held\": %zu, \"held_maximum\": %zu, \"connections\": %zu, \"requests\": %llu}",
            held_count, held_maximum, open_count, (unsigned long long)requests);
    }
    return connection_write(c, answer, answer_format(answer, sizeof answer, type, body));
}

static bool answer_status(struct connection *c, const char *id)
{
    char body[512];
    char answer[1024];
    size_t length = strcspn(id, " ?/\r\n");
    (void)snprintf(
        body, sizeof body,
        released
            ? "{\"id\":\"%.*s\",\"status\":\"COMPLETED\",\"delayTime\":10,\"executionTime\":20,"
              "\"output\":{\"text\":\"done\"}}"
            : "{\"id\":\"%.*s\",\"status\":\"IN_PROGRESS\",\"delayTime\":10}",
        (int)(length < 128 ? length : 128), id);
    return connection_write(c, answer,
                            answer_format(answer, sizeof answer, "application/json", body));
}

static bool answer_run(struct connection *c)
{
    static uint64_t count;
    char body[128];
    char answer[512];
    (void)snprintf(body, sizeof body, "{\"id\":\"%08x-%016llx-u1\",\"status\":\"IN_QUEUE\"}",
                   (unsigned)getpid(), (unsigned long long)count++);
    return connection_write(c, answer,
                            answer_format(answer, sizeof answer, "application/json", body));
}

/* `head` ends with a NUL where its blank line was. */
static bool answer(struct connection *c, const char *head)
{
    const char *target = strchr(head, ' ');
    if (target == NULL) {
        return false;
    }
    target++;
    if (strncmp(target, "/bench/", 7) == 0) {
        return answer_bench(c, target + 7);
    }
    /* The first few and then every 256th: enough for the bench, and free for what is measured. */
    if (requests++ < 64 || (requests & 255U) == 0) {
        (void)snprintf(last_head, sizeof last_head, "%s", head);
    }
    if (strncmp(target, "/v2/hold/", 9) == 0 && !released && held_count < CONNECTIONS_MAXIMUM) {
        c->held = true;
        c->held_index = held_count;
        held[held_count++] = c;
        if (held_count > held_maximum) {
            held_maximum = held_count;
        }
        return true;
    }
    size_t line = strcspn(target, " \r\n");
    if (line > 4 && memcmp(target + line - 4, "/run", 4) == 0) {
        return answer_run(c);
    }
    const char *status = memmem(target, line, "/status/", 8);
    if (status != NULL) {
        return answer_status(c, status + 8);
    }
    return connection_write(c, fixed_answer, fixed_answer_length);
}

static size_t body_length(const char *head, size_t length)
{
    static const char name[] = "\r\ncontent-length:";
    const char *end = head + length;
    for (const char *line = head; line != NULL && line + sizeof name < end;
         line = memchr(line + 1, '\r', (size_t)(end - line - 1))) {
        if ((line[2] == 'C' || line[2] == 'c') && strncasecmp(line, name, sizeof name - 1) == 0) {
            return (size_t)strtoull(line + sizeof name - 1, NULL, 10);
        }
    }
    return 0;
}

/* Answers every whole request that is there. False: the connection is to end. */
static bool connection_handle(struct connection *c)
{
    while (c->buffered > 0 && !c->held) {
        char *blank = memmem(c->input, c->buffered, "\r\n\r\n", 4);
        if (blank == NULL) {
            return c->buffered < INPUT_BYTES;
        }
        size_t head = (size_t)(blank - c->input) + 4;
        size_t whole = head + body_length(c->input, head);
        if (whole > INPUT_BYTES) {
            return false;
        }
        if (whole > c->buffered) {
            return true;
        }
        *blank = '\0';
        if (!answer(c, c->input)) {
            return false;
        }
        c->buffered -= whole;
        memmove(c->input, c->input + whole, c->buffered);
    }
    return true;
}

static void connection_read(struct connection *c)
{
    if (c->buffered == INPUT_BYTES) {
        connection_end(c);
        return;
    }
    ssize_t n = read(c->fd, c->input + c->buffered, INPUT_BYTES - c->buffered);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        connection_end(c);
        return;
    }
    c->buffered += (size_t)n;
    if (!connection_handle(c)) {
        connection_end(c);
    }
}

static void accept_all(void)
{
    int one = 1;
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                fail("accept");
            }
            return;
        }
        struct connection *c = calloc(1, sizeof *c);
        if (c == NULL) {
            fail("calloc");
        }
        c->fd = fd;
        open_count++;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
            fail("epoll_ctl");
        }
    }
}

static int listen_on(const char *text)
{
    char host[64];
    int one = 1;
    const char *colon = strrchr(text, ':');
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (colon == NULL || (size_t)(colon - text) >= sizeof host) {
        errno = EINVAL;
        fail(text);
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    address.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        errno = EINVAL;
        fail(text);
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0) {
        fail(text);
    }
    return fd;
}

int upstream_start(const char *address)
{
    fixed_answer_length =
        answer_format(fixed_answer, sizeof fixed_answer, "application/json", completion);
    listener = listen_on(address);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0) {
        fail("epoll");
    }
    return epoll_fd;
}

void upstream_turn(int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    if (count < 0 && errno != EINTR) {
        fail("epoll_wait");
    }
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL) {
            accept_all();
        } else {
            connection_read(events[i].data.ptr);
        }
    }
}
