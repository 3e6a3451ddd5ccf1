/* For the simulation: an upstream with jobs in memory that run, end and are forgotten, behind a
 * socket of 127.0.0.1 that is looked at when the test says so. What it does wrong is decided by
 * chance_of(), which gives the same for the same seed whatever order things come in.
 */
#ifndef PODGATE_TESTS_SIMULATION_UPSTREAM_H
#define PODGATE_TESTS_SIMULATION_UPSTREAM_H

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "simulated_clock.h"

#include "base/bytes.h"

#define SIMULATION_HELPER static __attribute__((unused))

enum {
    UP_JOBS = 256,
    UP_CONNECTIONS = 128,
    UP_INPUT = 2048,
    UP_OUTPUT = 512,
    UP_RUN_RETENTION_MS = 1800000,
    UP_RUNSYNC_RETENTION_MS = 60000,
};

#define UP_NEVER UINT64_MAX

static uint64_t seed;

/* 0..999, for this seed and this `what` for the `nth` time. */
SIMULATION_HELPER uint64_t number_of(const char *what, uint64_t nth)
{
    uint64_t value = seed * UINT64_C(0x9e3779b97f4a7c15) + nth * UINT64_C(0xd1342543de82ef95);

    for (; *what; what++) {
        value = (value ^ (unsigned char)*what) * UINT64_C(0x100000001b3);
    }
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

/* True in `permille` of a thousand cases. */
SIMULATION_HELPER bool chance_of(uint64_t permille, const char *what, uint64_t nth)
{
    return number_of(what, nth) % 1000 < permille;
}

struct up_job {
    char id[24];
    char endpoint[8];
    unsigned nonce;
    bool is_runsync;
    uint64_t start_ms; /* of simulated_ms */
    uint64_t end_ms;
    bool fails;
    unsigned asked;
    unsigned phantoms; /* so many 404 before it is found for the first time */
};

enum up_fault {
    UP_FINE,
    UP_REFUSES,   /* 500 */
    UP_THROTTLES, /* 429 */
    UP_GARBLES,   /* 200, not JSON */
    UP_CUTS,      /* the answer ends in the middle */
    UP_RESETS,    /* once it was asked, before it did anything */
    UP_DOES_AND_RESETS,
    UP_HANGS, /* does it and never answers */
    UP_FAULTS
};

struct up_connection {
    int descriptor; /* -1: not in use */
    size_t input_length;
    char input[UP_INPUT];
    /* The answer under way. */
    uint64_t answer_ms;      /* UP_NEVER: none */
    struct up_job *held_for; /* a /runsync that waits for this one */
    uint64_t held_until_ms;
    enum up_fault fault;
    size_t output_length;
    char output[UP_OUTPUT];
};

struct upstream_model {
    int listener;
    unsigned port;
    struct up_connection connections[UP_CONNECTIONS];
    struct up_job jobs[UP_JOBS];
    size_t job_count;
    uint64_t requests;
    uint64_t fault_permille;
    uint64_t away_from_ms[2]; /* windows in which nothing of use comes */
    uint64_t away_until_ms[2];
};

static struct upstream_model up;

/* ---- jobs */

SIMULATION_HELPER bool up_is_away(void)
{
    return (simulated_ms >= up.away_from_ms[0] && simulated_ms < up.away_until_ms[0]) ||
           (simulated_ms >= up.away_from_ms[1] && simulated_ms < up.away_until_ms[1]);
}

SIMULATION_HELPER bool up_has_forgotten(const struct up_job *job)
{
    uint64_t retention_ms = job->is_runsync ? UP_RUNSYNC_RETENTION_MS : UP_RUN_RETENTION_MS;

    return simulated_ms >= job->end_ms + retention_ms;
}

/* What /status says of the job: for an ended one the same bytes each time. */
SIMULATION_HELPER size_t up_describe(const struct up_job *job, char text[UP_OUTPUT])
{
    int length;

    if (simulated_ms < job->end_ms) {
        length = snprintf(text, UP_OUTPUT, "{\"id\":\"%s\",\"status\":\"%s\"}", job->id,
                          simulated_ms < job->start_ms ? "IN_QUEUE" : "IN_PROGRESS");
    } else {
        length = snprintf(
            text, UP_OUTPUT,
            "{\"delayTime\":7,\"executionTime\":%u,\"id\":\"%s\",\"%s\":\"n%u\",\"status\":\"%s\"}",
            (unsigned)(job->end_ms - job->start_ms), job->id, job->fails ? "error" : "output",
            job->nonce, job->fails ? "FAILED" : "COMPLETED");
    }
    return (size_t)length;
}

SIMULATION_HELPER struct up_job *up_find(const char *endpoint, const char *id)
{
    for (size_t i = 0; i < up.job_count; i++) {
        if (strcmp(up.jobs[i].id, id) == 0 && strcmp(up.jobs[i].endpoint, endpoint) == 0) {
            return &up.jobs[i];
        }
    }
    return NULL;
}

SIMULATION_HELPER struct up_job *up_submit(const char *endpoint, unsigned nonce, bool is_runsync)
{
    struct up_job *job = &up.jobs[up.job_count];
    uint64_t kind = number_of("how long", nonce) % 4;

    cr_assert_lt(up.job_count, UP_JOBS);
    snprintf(job->id, sizeof job->id, "j%u-%zu", nonce, up.job_count);
    snprintf(job->endpoint, sizeof job->endpoint, "%s", endpoint);
    job->nonce = nonce;
    job->is_runsync = is_runsync;
    job->start_ms = simulated_ms + number_of("queue", nonce) % 4000;
    job->end_ms = job->start_ms + 1 +
                  number_of("run", nonce) % (kind == 0   ? 300
                                             : kind == 1 ? 5000
                                                         : 60000);
    job->fails = chance_of(150, "fails", nonce);
    job->phantoms = chance_of(200, "phantom", nonce) ? 1 + (unsigned)(nonce % 4) : 0;
    up.job_count++;
    return job;
}

/* ---- answers */

SIMULATION_HELPER void up_say(struct up_connection *connection, const char *status,
                              const char *body, size_t length)
{
    int head = snprintf(connection->output, UP_OUTPUT,
                        "HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n",
                        status, length);

    cr_assert_lt((size_t)head + length, UP_OUTPUT);
    memcpy(connection->output + head, body, length);
    connection->output_length = (size_t)head + length;
}

SIMULATION_HELPER void up_say_text(struct up_connection *connection, const char *status,
                                   const char *body)
{
    up_say(connection, status, body, strlen(body));
}

SIMULATION_HELPER enum up_fault up_choose_fault(const char *what, uint64_t nth)
{
    if (up_is_away()) {
        return (enum up_fault)(1 + number_of("away", up.requests) % (UP_FAULTS - 1));
    }
    if (chance_of(up.fault_permille, what, nth)) {
        return (enum up_fault)(1 + number_of("which fault", nth * 31 + (uint64_t)*what) %
                                       (UP_FAULTS - 1));
    }
    return UP_FINE;
}

SIMULATION_HELPER void up_take_status(struct up_connection *connection, const char *endpoint,
                                      const char *id)
{
    struct up_job *job = up_find(endpoint, id);
    char text[UP_OUTPUT];

    if (job) {
        connection->fault = up_choose_fault(job->id, job->asked++);
    }
    if (!job || up_has_forgotten(job) || job->asked <= job->phantoms) {
        up_say_text(connection, "404 Not Found", "{\"error\":\"job not found\"}");
        return;
    }
    up_say(connection, "200 OK", text, up_describe(job, text));
}

SIMULATION_HELPER void up_take_submit(struct up_connection *connection, const char *endpoint,
                                      const char *body, bool is_runsync, uint64_t wait_ms)
{
    const char *at = strstr(body, "\"n\":");
    unsigned nonce = at ? (unsigned)strtoul(at + 4, NULL, 10) : 0;
    struct up_job *job;
    char text[UP_OUTPUT];

    cr_assert_not_null(at, "a submit without its number: %s", body);
    connection->fault = up_choose_fault(is_runsync ? "runsync" : "run", up.requests);
    if (connection->fault == UP_REFUSES || connection->fault == UP_THROTTLES ||
        connection->fault == UP_RESETS) {
        return;
    }
    job = up_submit(endpoint, nonce, is_runsync);
    if (is_runsync) {
        connection->held_for = job;
        connection->held_until_ms = simulated_ms + wait_ms;
        return;
    }
    up_say(connection, "200 OK", text,
           (size_t)snprintf(text, sizeof text, "{\"id\":\"%s\",\"status\":\"IN_QUEUE\"}", job->id));
}

SIMULATION_HELPER void up_take(struct up_connection *connection, char *request)
{
    char endpoint[8] = "";
    char rest[64] = "";
    char method[8] = "";
    const char *body = strstr(request, "\r\n\r\n");
    const char *wait = strstr(request, "wait=");

    up.requests++;
    cr_assert_eq(sscanf(request, "%7s /v2/%7[a-z0-9]/%63s", method, endpoint, rest), 3, "%s",
                 request);
    connection->held_for = NULL;
    connection->output_length = 0;
    connection->answer_ms = simulated_ms + number_of("latency", up.requests) % 150;
    if (strncmp(rest, "status/", 7) == 0) {
        up_take_status(connection, endpoint, rest + 7);
    } else if (strncmp(rest, "runsync", 7) == 0) {
        up_take_submit(connection, endpoint, body, true,
                       wait ? strtoul(wait + 5, NULL, 10) : 90000);
    } else {
        cr_assert_eq(strcmp(rest, "run"), 0, "%s", request);
        up_take_submit(connection, endpoint, body, false, 0);
    }
    switch (connection->fault) {
    case UP_REFUSES:
        up_say_text(connection, "500 Internal Server Error", "{\"error\":\"oops\"}");
        connection->held_for = NULL;
        break;
    case UP_THROTTLES:
        up_say_text(connection, "429 Too Many Requests", "{\"error\":\"slow down\"}");
        connection->held_for = NULL;
        break;
    case UP_GARBLES:
        up_say_text(connection, "200 OK", "<html>it works</html>");
        connection->held_for = NULL;
        break;
    case UP_HANGS: connection->answer_ms = UP_NEVER; break;
    case UP_FINE:
    case UP_CUTS:
    case UP_RESETS:
    case UP_DOES_AND_RESETS:
    case UP_FAULTS: break;
    }
}

/* ---- connections */

SIMULATION_HELPER void up_close(struct up_connection *connection, bool reset)
{
    struct linger linger = {1, 0};

    if (reset) {
        setsockopt(connection->descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    close(connection->descriptor);
    connection->descriptor = -1;
}

SIMULATION_HELPER bool up_finish(struct up_connection *connection)
{
    char text[UP_OUTPUT];
    struct up_job *job = connection->held_for;

    if (connection->answer_ms == UP_NEVER || connection->answer_ms > simulated_ms) {
        return false;
    }
    if (job && simulated_ms < job->end_ms && simulated_ms < connection->held_until_ms) {
        return false;
    }
    if (job) {
        up_say(connection, "200 OK", text, up_describe(job, text));
        connection->held_for = NULL;
    }
    connection->answer_ms = UP_NEVER;
    switch (connection->fault) {
    case UP_RESETS:
    case UP_DOES_AND_RESETS: up_close(connection, true); return true;
    case UP_CUTS:
        (void)!send(connection->descriptor, connection->output,
                    connection->output_length - 1 - connection->output_length % 40, MSG_NOSIGNAL);
        up_close(connection, false);
        return true;
    case UP_FINE:
    case UP_REFUSES:
    case UP_THROTTLES:
    case UP_GARBLES:
    case UP_HANGS:
    case UP_FAULTS: break;
    }
    (void)!send(connection->descriptor, connection->output, connection->output_length,
                MSG_NOSIGNAL);
    return true;
}

SIMULATION_HELPER size_t up_whole_request(const struct up_connection *connection)
{
    const char *end = memmem(connection->input, connection->input_length, "\r\n\r\n", 4);
    const char *field;
    size_t length;

    if (!end) {
        return 0;
    }
    length = (size_t)(end - connection->input) + 4;
    field = memmem(connection->input, length, "\r\nContent-Length: ", 18);
    if (field) {
        length += strtoul(field + 18, NULL, 10);
    }
    return connection->input_length >= length ? length : 0;
}

SIMULATION_HELPER bool up_read(struct up_connection *connection)
{
    ssize_t count = recv(connection->descriptor, connection->input + connection->input_length,
                         UP_INPUT - 1 - connection->input_length, MSG_DONTWAIT);
    size_t length;

    if (count == 0 || (count < 0 && errno != EAGAIN)) {
        up_close(connection, false);
        return true;
    }
    if (count < 0) {
        return false;
    }
    connection->input_length += (size_t)count;
    length = up_whole_request(connection);
    if (length > 0) {
        connection->input[length] = '\0';
        connection->input_length = 0; /* nothing is sent ahead */
        up_take(connection, connection->input);
    }
    return true;
}

SIMULATION_HELPER bool up_accept(void)
{
    int accepted = accept4(up.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int on = 1;

    if (accepted < 0) {
        return false;
    }
    setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (size_t i = 0; i < UP_CONNECTIONS; i++) {
        if (up.connections[i].descriptor < 0) {
            up.connections[i].descriptor = accepted;
            up.connections[i].input_length = 0;
            up.connections[i].answer_ms = UP_NEVER;
            return true;
        }
    }
    cr_assert_fail("too many connections");
    return true;
}

/* Does what there is to do; false when there was nothing. */
SIMULATION_HELPER bool up_turn(void)
{
    bool any = false;

    while (up_accept()) {
        any = true;
    }
    for (size_t i = 0; i < UP_CONNECTIONS; i++) {
        struct up_connection *connection = &up.connections[i];

        if (connection->descriptor >= 0) {
            any = up_read(connection) || any;
        }
        if (connection->descriptor >= 0) {
            any = up_finish(connection) || any;
        }
    }
    return any;
}

SIMULATION_HELPER void up_open(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;

    up = (struct upstream_model){0};
    for (size_t i = 0; i < UP_CONNECTIONS; i++) {
        up.connections[i].descriptor = -1;
    }
    up.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(up.listener, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(up.listener, 128), 0);
    getsockname(up.listener, (struct sockaddr *)&address, &length);
    up.port = ntohs(address.sin_port);
}

SIMULATION_HELPER void up_shut(void)
{
    for (size_t i = 0; i < UP_CONNECTIONS; i++) {
        if (up.connections[i].descriptor >= 0) {
            up_close(&up.connections[i], true);
        }
    }
    close(up.listener);
}

#endif
