/* load: the bench's load generator, one thread, one epoll. A tool of bench/run, never installed.
 *
 *   load --connect HOST:PORT --request FILE [--request FILE ...] [--connections N] MODE
 *
 *   --closed SECONDS          each connection sends its next request when it has its answer
 *   --count NUMBER            the same, but NUMBER requests in all
 *   --open RATE SECONDS       RATE requests a second are due at fixed instants, whatever the server
 *                             does; a latency counts from the instant that the request was due, so
 *                             a stall of the server is seen by all that it delayed (no "coordinated
 *                             omission")
 *   --serve                   no load: be the upstream alone
 *   --hold                    each connection sends one request and stays. Lines on standard
 * output: "sent N" when all are sent, "answered N" when all have their answer; ends when standard
 * input does
 *
 * --upstream HOST:PORT: the stand-in upstream (upstream.c) listens there, served by the same loop.
 * --numbers N: where a request has @@@@@@@@, each that is sent has the next of the numbers 0 to N - 1
 * in its place.
 *
 * A FILE is one whole request, byte for byte; connection i sends FILE i modulo their number. The
 * last line on standard output is one JSON object with what happened. Any answer but 2xx, a broken
 * answer or a lost connection is counted, so that a fast wrong server doesn't look like a fast one.
 */
#define _GNU_SOURCE
#include "upstream.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Open loop: what comes first is sent and not counted, until pools are filled and code is warm. */
static const uint64_t warm_up_ns = 300000000U;

enum { INPUT_BYTES = 4096, EVENTS = 256, CONNECTING_MAXIMUM = 64, REQUESTS_MAXIMUM = 64 };

/* Latencies in nanoseconds: 64 linear steps per power of two, so that an error is below 1.6 %. */
enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS, BUCKETS = (64 - STEP_BITS) * STEPS };

enum mode { MODE_CLOSED, MODE_OPEN, MODE_HOLD, MODE_SERVE };

enum { NUMBER_DIGITS = 8 };

struct request {
    char *bytes;
    size_t length;
    char *number; /* where its number goes, or NULL */
};

enum connection_state { CONNECTION_CONNECTING, CONNECTION_IDLE, CONNECTION_BUSY, CONNECTION_DEAD };

struct connection {
    int fd;
    enum connection_state state;
    const struct request *request;
    size_t sent;     /* bytes of the request that the kernel took */
    uint64_t due_ns; /* when the request ought to have been sent */
    size_t buffered;
    size_t body_left; /* of an answer whose head was read */
    bool in_body;
    int status;
    char input[INPUT_BYTES];
};

struct totals {
    uint64_t sent;
    uint64_t ok;      /* 2xx */
    uint64_t refused; /* any other status */
    uint64_t broken;  /* answers that can't be read */
    uint64_t lost;    /* connections that ended */
    int last_refusal;
};

static struct request requests[REQUESTS_MAXIMUM];
static size_t request_count;
static struct connection *connections;
static size_t connection_count = 64;
static struct sockaddr_in address;
static enum mode mode = MODE_CLOSED;
static double seconds = 1.0;
static uint64_t count_limit = UINT64_MAX;
static uint64_t numbers = 100000000;
static uint64_t numbers_sent;
static double rate = 1000.0;
static int epoll_fd;
static struct totals totals;
static uint64_t histogram[BUCKETS];
static uint64_t latency_maximum_ns;
static uint64_t record_from_ns;
static int upstream_fd = -1;
static bool sending = true; /* false once the time is over */
static size_t busy;         /* connections in CONNECTION_BUSY */

/* Open loop: connections that wait for work, last in first out. */
static struct connection **idle;
static size_t idle_count;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static size_t bucket_of(uint64_t value)
{
    if (value < STEPS) {
        return (size_t)value;
    }
    unsigned shift = 63U - (unsigned)__builtin_clzll(value) - STEP_BITS;
    return (size_t)(shift + 1U) * STEPS + (size_t)((value >> shift) - STEPS);
}

/* The upper edge of a bucket: a percentile is never reported better than it was. */
static uint64_t bucket_value(size_t bucket)
{
    if (bucket < STEPS) {
        return bucket;
    }
    unsigned shift = (unsigned)(bucket / STEPS) - 1U;
    return ((uint64_t)(bucket % STEPS) + STEPS + 1U) << shift;
}

static void record(uint64_t latency_ns)
{
    histogram[bucket_of(latency_ns)]++;
    if (latency_ns > latency_maximum_ns) {
        latency_maximum_ns = latency_ns;
    }
}

static double percentile_us(double share)
{
    uint64_t all = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        all += histogram[i];
    }
    uint64_t wanted = (uint64_t)((double)all * share);
    uint64_t seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted) {
            uint64_t value = bucket_value(i);
            return (double)(value < latency_maximum_ns ? value : latency_maximum_ns) / 1000.0;
        }
    }
    return (double)latency_maximum_ns / 1000.0;
}

static void connection_lose(struct connection *c)
{
    if (c->state == CONNECTION_BUSY) {
        busy--;
    }
    c->state = CONNECTION_DEAD;
    totals.lost++;
    close(c->fd);
    c->fd = -1;
}

static void connection_write(struct connection *c)
{
    while (c->sent < c->request->length) {
        ssize_t n = write(c->fd, c->request->bytes + c->sent, c->request->length - c->sent);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN) {
                connection_lose(c);
            }
            return; /* edge triggered: EPOLLOUT tells when there is room */
        }
        c->sent += (size_t)n;
    }
}

/* A request is written at once into an empty socket, so that all connections can share its bytes. */
static void request_number(const struct request *request)
{
    uint64_t number = numbers_sent++ % numbers;
    for (size_t i = NUMBER_DIGITS; i > 0; i--, number /= 10) {
        request->number[i - 1] = (char)('0' + number % 10);
    }
}

static void connection_send(struct connection *c, uint64_t due_ns)
{
    if (c->request->number != NULL) {
        request_number(c->request);
    }
    c->state = CONNECTION_BUSY;
    c->sent = 0;
    c->due_ns = due_ns;
    busy++;
    totals.sent++;
    connection_write(c);
}

/* Reads status and length of a head of `length` bytes, blank line included. */
static bool head_read(struct connection *c, size_t length)
{
    static const char name[] = "\r\ncontent-length:";
    if (length < 16 || memcmp(c->input, "HTTP/1.1 ", 9) != 0) {
        return false;
    }
    c->status = (c->input[9] - '0') * 100 + (c->input[10] - '0') * 10 + (c->input[11] - '0');
    const char *end = c->input + length;
    for (const char *line = c->input; line != NULL && line + sizeof name < end;
         line = memchr(line + 1, '\r', (size_t)(end - line - 1))) {
        if ((line[2] == 'C' || line[2] == 'c') && strncasecmp(line, name, sizeof name - 1) == 0) {
            c->body_left = (size_t)strtoull(line + sizeof name - 1, NULL, 10);
            return true;
        }
    }
    return false; /* all answers of the bench carry a length */
}

static void connection_answered(struct connection *c)
{
    if (c->status >= 200 && c->status < 300) {
        totals.ok++;
    } else {
        totals.refused++;
        totals.last_refusal = c->status;
    }
    uint64_t now = mode == MODE_HOLD ? 0 : now_ns();
    if (mode != MODE_HOLD && c->due_ns >= record_from_ns) {
        record(now - c->due_ns);
    }
    busy--;
    c->state = CONNECTION_IDLE;
    if (mode == MODE_CLOSED && sending && totals.sent < count_limit) {
        connection_send(c, now);
    } else if (mode == MODE_OPEN) {
        idle[idle_count++] = c;
    }
}

static void connection_parse(struct connection *c)
{
    size_t used = 0;
    if (!c->in_body) {
        char *blank = memmem(c->input, c->buffered, "\r\n\r\n", 4);
        if (blank == NULL) {
            if (c->buffered == INPUT_BYTES) {
                totals.broken++;
                connection_lose(c);
            }
            return;
        }
        used = (size_t)(blank - c->input) + 4;
        if (c->state != CONNECTION_BUSY || !head_read(c, used)) {
            totals.broken++;
            connection_lose(c);
            return;
        }
        c->in_body = true;
    }
    size_t here = c->buffered - used;
    size_t taken = here < c->body_left ? here : c->body_left;
    c->body_left -= taken;
    if (c->body_left > 0) {
        c->buffered = 0;
        return;
    }
    c->in_body = false;
    c->buffered = 0;
    if (here > taken) {
        totals.broken++;
        connection_lose(c);
        return;
    }
    connection_answered(c);
}

static void connection_read(struct connection *c)
{
    while (c->state != CONNECTION_DEAD) {
        size_t room = INPUT_BYTES - c->buffered;
        ssize_t n = read(c->fd, c->input + c->buffered, room);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            connection_lose(c);
            return;
        }
        c->buffered += (size_t)n;
        connection_parse(c);
        if ((size_t)n < room) {
            return; /* edge triggered, but nothing can be left after a short read */
        }
    }
}

static void connection_open(struct connection *c, const struct request *request)
{
    int one = 1;
    c->request = request;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        fail("socket");
    }
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        fail("connect");
    }
    c->state = CONNECTION_CONNECTING;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0) {
        fail("epoll_ctl");
    }
}

static void wait_and_handle(uint64_t timeout_ns)
{
    struct epoll_event events[EVENTS];
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000U),
                               .tv_nsec = (long)(timeout_ns % 1000000000U)};
    int count = epoll_pwait2(epoll_fd, events, EVENTS, &timeout, NULL);
    if (count < 0 && errno != EINTR) {
        fail("epoll_pwait2");
    }
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c == (void *)&upstream_fd) {
            upstream_turn(0);
            continue;
        }
        if (c == NULL || c->state == CONNECTION_DEAD) {
            continue;
        }
        if (c->state == CONNECTION_CONNECTING) {
            int error = 0;
            socklen_t length = sizeof error;
            (void)getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
            if (error != 0) {
                errno = error;
                fail("connect");
            }
            if ((events[i].events & EPOLLOUT) != 0) {
                c->state = CONNECTION_IDLE;
            }
            continue;
        }
        if ((events[i].events & EPOLLOUT) != 0 && c->state == CONNECTION_BUSY) {
            connection_write(c);
        }
        if ((events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0 &&
            c->state != CONNECTION_DEAD) {
            connection_read(c);
        }
    }
}

/* Opens all connections, a few at a time: a listener's backlog isn't what is measured here. */
static void connect_all(bool send_at_once)
{
    size_t first_connecting = 0;
    for (size_t i = 0; i < connection_count; i++) {
        connection_open(&connections[i], &requests[i % request_count]);
        while (i + 1 - first_connecting >= CONNECTING_MAXIMUM ||
               (i + 1 == connection_count && first_connecting < connection_count)) {
            struct connection *c = &connections[first_connecting];
            if (c->state == CONNECTION_CONNECTING) {
                wait_and_handle(100000000U);
                continue;
            }
            if (send_at_once && c->state == CONNECTION_IDLE) {
                connection_send(c, now_ns());
            }
            first_connecting++;
        }
    }
}

static void run_closed(void)
{
    connect_all(false);
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    for (size_t i = 0; i < connection_count; i++) {
        if (connections[i].state == CONNECTION_IDLE && totals.sent < count_limit) {
            connection_send(&connections[i], now_ns());
        }
    }
    while (now_ns() < end && busy > 0) {
        wait_and_handle(10000000U);
    }
    sending = false;
    for (uint64_t limit = now_ns() + 2000000000U; busy > 0 && now_ns() < limit;) {
        wait_and_handle(10000000U);
    }
}

static void run_open(void)
{
    connect_all(false);
    for (size_t i = 0; i < connection_count; i++) {
        idle[idle_count++] = &connections[i];
    }
    double interval_ns = 1e9 / rate;
    uint64_t begin = now_ns();
    record_from_ns = begin + warm_up_ns;
    seconds += (double)warm_up_ns / 1e9;
    uint64_t wanted = (uint64_t)(rate * seconds);
    uint64_t issued = 0;
    uint64_t give_up = begin + (uint64_t)(seconds * 1e9) + 5000000000U;
    for (;;) {
        uint64_t now = now_ns();
        uint64_t due = begin + (uint64_t)((double)issued * interval_ns);
        while (issued < wanted && due <= now && idle_count > 0) {
            struct connection *c = idle[--idle_count];
            if (c->state != CONNECTION_IDLE) {
                continue;
            }
            connection_send(c, due);
            issued++;
            due = begin + (uint64_t)((double)issued * interval_ns);
        }
        if ((issued == wanted && busy == 0) || now > give_up) {
            break;
        }
        bool can_send = issued < wanted && idle_count > 0;
        wait_and_handle(can_send && due > now ? due - now : can_send ? 0 : 10000000U);
    }
    /* What was due and never sent is a failure of the server, not a smaller sample. */
    totals.lost += wanted - issued;
}

static void run_hold(void)
{
    connect_all(true);
    printf("sent %" PRIu64 "\n", totals.sent);
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    (void)epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    (void)fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    bool told = false;
    for (;;) {
        wait_and_handle(100000000U);
        if (!told && totals.ok + totals.refused + totals.lost >= connection_count) {
            printf("answered %" PRIu64 "\n", totals.ok);
            fflush(stdout);
            told = true;
        }
        char byte;
        if (read(STDIN_FILENO, &byte, 1) == 0) {
            return;
        }
    }
}

static void request_load(const char *path)
{
    if (request_count == REQUESTS_MAXIMUM) {
        errno = E2BIG;
        fail(path);
    }
    FILE *file = fopen(path, "rb");
    struct request *request = &requests[request_count];
    request->bytes = malloc(65536);
    if (file == NULL || request->bytes == NULL) {
        fail(path);
    }
    request->length = fread(request->bytes, 1, 65536, file);
    request->number = memmem(request->bytes, request->length, "@@@@@@@@", NUMBER_DIGITS);
    fclose(file);
    request_count++;
}

static void address_parse(const char *text)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host) {
        errno = EINVAL;
        fail(text);
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        errno = EINVAL;
        fail(text);
    }
}

static void options_parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int left = argc - i - 1;
        if (strcmp(argv[i], "--connect") == 0 && left >= 1) {
            address_parse(argv[++i]);
        } else if (strcmp(argv[i], "--request") == 0 && left >= 1) {
            request_load(argv[++i]);
        } else if (strcmp(argv[i], "--numbers") == 0 && left >= 1) {
            numbers = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--connections") == 0 && left >= 1) {
            connection_count = (size_t)strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--closed") == 0 && left >= 1) {
            mode = MODE_CLOSED;
            seconds = strtod(argv[++i], NULL);
        } else if (strcmp(argv[i], "--count") == 0 && left >= 1) {
            mode = MODE_CLOSED;
            count_limit = strtoull(argv[++i], NULL, 10);
            seconds = 600.0;
        } else if (strcmp(argv[i], "--open") == 0 && left >= 2) {
            mode = MODE_OPEN;
            rate = strtod(argv[++i], NULL);
            seconds = strtod(argv[++i], NULL);
        } else if (strcmp(argv[i], "--upstream") == 0 && left >= 1) {
            upstream_fd = upstream_start(argv[++i]);
        } else if (strcmp(argv[i], "--serve") == 0) {
            mode = MODE_SERVE;
        } else if (strcmp(argv[i], "--hold") == 0) {
            mode = MODE_HOLD;
        } else {
            fprintf(stderr, "load: can't use %s (see the head of bench/load.c)\n", argv[i]);
            exit(64);
        }
    }
    if (mode == MODE_SERVE && upstream_fd >= 0) {
        return;
    }
    if (numbers == 0 || request_count == 0 || address.sin_port == 0 || connection_count == 0) {
        fprintf(stderr, "load: --connect and --request are needed (see bench/load.c)\n");
        exit(64);
    }
}

int main(int argc, char **argv)
{
    options_parse(argc, argv);
    /* Without this a sleep of 20 us takes 70: the kernel's default slack is 50 us. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    while (mode == MODE_SERVE) {
        upstream_turn(-1);
    }
    connections = calloc(connection_count, sizeof *connections);
    idle = calloc(connection_count + 1, sizeof *idle);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || idle == NULL || epoll_fd < 0) {
        fail("start");
    }
    if (upstream_fd >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &upstream_fd};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, upstream_fd, &event) < 0) {
            fail("epoll_ctl");
        }
    }
    uint64_t begin = now_ns();
    if (mode == MODE_CLOSED) {
        run_closed();
    } else if (mode == MODE_OPEN) {
        run_open();
    } else {
        run_hold();
    }
    printf("{\"sent\": %" PRIu64 ", \"ok\": %" PRIu64 ", \"refused\": %" PRIu64
           ", \"broken\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"last_refusal\": %d"
           ", \"unanswered\": %zu, \"elapsed_s\": %.6f, \"p50_us\": %.2f, \"p90_us\": %.2f"
           ", \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f}\n",
           totals.sent, totals.ok, totals.refused, totals.broken, totals.lost, totals.last_refusal,
           busy, (double)(now_ns() - begin) / 1e9, percentile_us(0.50), percentile_us(0.90),
           percentile_us(0.99), percentile_us(0.999), (double)latency_maximum_ns / 1000.0);
    return 0;
}
