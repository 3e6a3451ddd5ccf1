#include "build_config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "model/config.h"
#include "model/metric_catalogue.h"
#include "net/listener.h"

enum { CALLERS = 256, PATIENCE_MS = 10000 };

/* A worker with a listener, in this thread: tests turn its loop until what they wait for is there. */
struct stage {
    const struct config *config;
    struct listener_set *set;
    struct connection_limits *limits;
    struct metrics *metrics;
    struct loop *loop;
    struct listener *listener;
    int accepted[CALLERS];
    struct sockaddr_storage peers[CALLERS];
    size_t count;
    bool pause_at_next;
};

static struct stage stage;
static char directory[64];

static void on_accept(void *owner, int descriptor, const struct sockaddr_storage *peer,
                      const struct config_address *address)
{
    cr_assert_eq(owner, &stage);
    cr_assert_not_null(address);
    cr_assert_lt(stage.count, (size_t)CALLERS);
    stage.accepted[stage.count] = descriptor;
    stage.peers[stage.count] = *peer;
    stage.count++;
    if (stage.pause_at_next) {
        listener_pause(stage.listener);
    }
}

/* A configuration can't ask the kernel for a port, a test must: it writes port 1 and means 0. */
#define ANY_PORT "\"127.0.0.1:1\""
#define ANY_PORT_IPV6 "\"[::1]:1\""

static void ask_for_any_port(struct config_address *address)
{
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)&address->address;
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)&address->address;

    if (ipv4->sin_family == AF_INET && ipv4->sin_port == htons(1)) {
        ipv4->sin_port = 0;
    } else if (ipv6->sin6_family == AF_INET6 && ipv6->sin6_port == htons(1)) {
        ipv6->sin6_port = 0;
    }
}

static const struct config *load(const char *listen, const char *more)
{
    char text[1024];
    struct config_errors *errors = config_errors_create();
    struct config *config;

    cr_assert_not_null(errors);
    snprintf(text, sizeof text,
             "listen = {%s}\nupstream { url = \"http://127.0.0.1:1/v2\" api_key_env = \"NONE\" }\n"
             "%s\n",
             listen, more);
    config = config_load_text("test", view_of_string(text), false, errors);
    if (!config) {
        config_errors_print(errors, stderr);
    }
    cr_assert_not_null(config);
    config_errors_destroy(errors);
    ask_for_any_port((struct config_address *)&config->listen[0]);
    return config;
}

static void start(const char *listen, const char *more)
{
    char *problem = NULL;
    struct listener_options options = {.on_accept = on_accept, .owner = &stage};

    stage.config = load(listen, more);
    stage.set = listener_set_create(stage.config, 1, NULL, &problem);
    cr_assert_not_null(stage.set, "%s", problem);
    stage.limits = connection_limits_create(stage.config);
    stage.metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    stage.loop = loop_create();
    cr_assert_not_null(stage.loop);
    options.loop = stage.loop;
    options.limits = stage.limits;
    options.metrics = metrics_block_create(stage.metrics);
    stage.listener = listener_start(stage.set, 0, &options);
    cr_assert_not_null(stage.listener);
}

static void finish(void)
{
    listener_stop(stage.listener);
    for (size_t i = 0; i < stage.count; i++) {
        close(stage.accepted[i]);
    }
    loop_destroy(stage.loop);
    listener_set_destroy(stage.set);
    connection_limits_destroy(stage.limits);
    metrics_destroy(stage.metrics);
    config_unref(stage.config);
    if (directory[0] != '\0') {
        rmdir(directory);
    }
}

TestSuite(listener, .fini = finish);

static void turn(void)
{
    struct timeval soon = {0, 20000};

    event_base_loopexit(loop_base(stage.loop), &soon);
    cr_assert_geq(event_base_loop(loop_base(stage.loop), EVLOOP_ONCE), 0);
}

#define TURN_UNTIL(condition)                                                                      \
    do {                                                                                           \
        uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;                                           \
        while (!(condition)) {                                                                     \
            cr_assert_lt(clock_mono_ms(), end_ms, "waited in vain for %s", #condition);            \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

static int call_address(const struct sockaddr *address, socklen_t length)
{
    int descriptor = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_geq(descriptor, 0);
    cr_assert_eq(connect(descriptor, address, length), 0, "%s", strerror(errno));
    return descriptor;
}

static int call(void)
{
    socklen_t length;
    const struct sockaddr_storage *address = listener_set_address(stage.set, 0, &length);

    return call_address((const struct sockaddr *)address, length);
}

/* What the caller reads until the end, while the worker turns. */
static size_t read_to_end(int caller, char *text, size_t size)
{
    size_t length = 0;
    ssize_t count = -1;
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    while (count != 0) {
        cr_assert_lt(clock_mono_ms(), end_ms);
        count = recv(caller, text + length, size - 1 - length, MSG_DONTWAIT);
        if (count > 0) {
            length += (size_t)count;
        } else if (count < 0) {
            cr_assert_eq(errno, EAGAIN, "%s", strerror(errno));
            turn();
        }
    }
    text[length] = '\0';
    return length;
}

static void expect_503(int caller)
{
    char text[4096];

    read_to_end(caller, text, sizeof text);
    cr_expect_eq(strncmp(text, "HTTP/1.1 503 ", 13), 0, "%s", text);
    cr_expect_not_null(strstr(text, "\r\nContent-Type: application/json\r\n"));
    cr_expect_not_null(strstr(text, "\r\nPodgate-Origin: gateway\r\n"));
    cr_expect_not_null(strstr(text, "\r\nConnection: close\r\n"));
    cr_expect_not_null(strstr(text, "\"code\":\"too_many_connections\""));
    const char *length = strstr(text, "Content-Length: ");
    const char *body = strstr(text, "\r\n\r\n");
    cr_assert(length && body);
    cr_expect_eq(strtoul(length + 16, NULL, 10), strlen(body + 4));
    close(caller);
}

static uint64_t refused(enum metric_connection_refusal why)
{
    return metrics_sum(stage.metrics, METRIC_CONNECTIONS_REFUSED, why, 0);
}

Test(listener, gives_non_blocking_descriptors_with_the_peers_address)
{
    start(ANY_PORT, "");
    int caller = call();
    struct sockaddr_in own;
    struct sockaddr_in peer;
    socklen_t length = sizeof own;
    int no_delay = 0;

    TURN_UNTIL(stage.count == 1);
    cr_assert_eq(getsockname(caller, (struct sockaddr *)&own, &length), 0);
    memcpy(&peer, &stage.peers[0], sizeof peer);
    cr_expect_eq(peer.sin_family, AF_INET);
    cr_expect_eq(peer.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    cr_expect_eq(peer.sin_port, own.sin_port);
    cr_expect(fcntl(stage.accepted[0], F_GETFL) & O_NONBLOCK);
    cr_expect(fcntl(stage.accepted[0], F_GETFD) & FD_CLOEXEC);
    length = sizeof no_delay;
    cr_assert_eq(getsockopt(stage.accepted[0], IPPROTO_TCP, TCP_NODELAY, &no_delay, &length), 0);
    cr_expect_neq(no_delay, 0);
    cr_expect_eq(connection_limits_count(stage.limits), 1);
    connection_limits_release(stage.limits, &stage.peers[0]);
    cr_expect_eq(connection_limits_count(stage.limits), 0);
    cr_expect_eq(connection_limits_addresses(stage.limits), 0);
    close(caller);
}

Test(listener, listens_on_ipv6)
{
    start(ANY_PORT_IPV6, "");
    int caller = call();

    TURN_UNTIL(stage.count == 1);
    cr_expect_eq(stage.peers[0].ss_family, AF_INET6);
    close(caller);
}

Test(listener, accepts_more_callers_than_fit_one_batch)
{
    int callers[150];

    start(ANY_PORT, "");
    for (size_t i = 0; i < 150; i++) {
        callers[i] = call();
    }
    TURN_UNTIL(stage.count == 150);
    for (size_t i = 0; i < 150; i++) {
        close(callers[i]);
    }
}

Test(listener, answers_503_above_the_limit_of_all_connections)
{
    start(ANY_PORT, "memory { connections = 2 }");
    int first = call();
    int second = call();

    TURN_UNTIL(stage.count == 2);
    int third = call();
    cr_assert_gt(send(third, "GET / HTTP/1.1\r\n", 16, MSG_NOSIGNAL), 0);
    expect_503(third);
    expect_503(call());
    cr_expect_eq(stage.count, 2, "older ones are served on");
    cr_expect_eq(refused(METRIC_CONNECTION_TOTAL), 2);
    cr_expect_eq(listener_counts(stage.listener).refused_total, 2);

    connection_limits_release(stage.limits, &stage.peers[0]);
    int fourth = call();
    TURN_UNTIL(stage.count == 3);
    close(first);
    close(second);
    close(fourth);
}

Test(listener, answers_503_above_the_limit_of_one_address)
{
    start(ANY_PORT, "memory { connections = 100 connections_per_address = 1 }");
    int first = call();

    TURN_UNTIL(stage.count == 1);
    expect_503(call());
    cr_expect_eq(refused(METRIC_CONNECTION_ADDRESS), 1);
    cr_expect_eq(connection_limits_count(stage.limits), 1);
    close(first);
}

static void expect_problem(const char *listen, const char *const *words)
{
    const struct config *config = load(listen, "");
    char *problem = NULL;
    struct listener_set *set = listener_set_create(config, 2, NULL, &problem);

    cr_assert_null(set);
    cr_assert_not_null(problem);
    for (; *words; words++) {
        cr_expect_not_null(strstr(problem, *words), "no \"%s\" in: %s", *words, problem);
    }
    cr_expect_null(strchr(problem, '\n'));
    free(problem);
    config_unref(config);
}

Test(listener, names_a_busy_port_even_when_its_owner_shares_it)
{
    char listen[64];
    const char *words[] = {"listen \"127.0.0.1:", "Address already in use",
                           "another process listens there", NULL};
    struct sockaddr_in bound;
    socklen_t length;

    start(ANY_PORT, "");
    memcpy(&bound, listener_set_address(stage.set, 0, &length), sizeof bound);
    snprintf(listen, sizeof listen, "\"127.0.0.1:%u\"", ntohs(bound.sin_port));
    expect_problem(listen, words);
}

Test(listener, names_an_address_that_the_machine_does_not_have)
{
    const char *words[] = {"listen \"192.0.2.1:8080\": Cannot assign requested address", NULL};

    start(ANY_PORT, "");
    expect_problem("\"192.0.2.1:8080\"", words);
}

Test(listener, opens_one_socket_a_worker_on_one_port)
{
    char *problem = NULL;

    start(ANY_PORT, "");
    struct listener_set *set = listener_set_create(stage.config, 3, NULL, &problem);
    cr_assert_not_null(set, "%s", problem);
    struct sockaddr_in first;
    for (size_t worker = 0; worker < 3; worker++) {
        struct sockaddr_in bound;
        socklen_t length = sizeof bound;
        int descriptor = listener_set_descriptor(set, 0, worker);

        cr_assert_eq(getsockname(descriptor, (struct sockaddr *)&bound, &length), 0);
        if (worker == 0) {
            first = bound;
        }
        cr_expect_eq(bound.sin_port, first.sin_port);
        cr_expect(worker == 0 || descriptor != listener_set_descriptor(set, 0, worker - 1));
    }
    listener_set_destroy(set);
}

/* ---- Unix sockets ---- */

static void make_path(char *path, size_t size)
{
    snprintf(directory, sizeof directory, "/tmp/podgate-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    snprintf(path, size, "%s/socket", directory);
}

Test(listener, serves_a_unix_socket_that_any_user_may_call)
{
    char path[96];
    char listen[128];
    struct stat status;

    make_path(path, sizeof path);
    snprintf(listen, sizeof listen, "\"unix:%s\"", path);
    umask(0077);
    start(listen, "");
    cr_assert_eq(stat(path, &status), 0);
    cr_expect_eq(status.st_mode & 0777, 0666);
    cr_expect_eq(umask(0022), 0077, "the umask is as it was");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int caller = call_address((struct sockaddr *)&address, sizeof address);
    TURN_UNTIL(stage.count == 1);
    cr_expect_eq(stage.peers[0].ss_family, AF_UNIX);
    close(caller);
    listener_stop(stage.listener);
    turn();
    cr_expect_neq(stat(path, &status), 0, "the file is taken away");
    stage.listener = NULL;
}

static int bind_unix(const char *path, bool listens)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    cr_assert_eq(bind(descriptor, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert(!listens || listen(descriptor, 1) == 0);
    return descriptor;
}

Test(listener, replaces_a_stale_socket_file)
{
    char path[96];
    char listen[128];

    make_path(path, sizeof path);
    snprintf(listen, sizeof listen, "\"unix:%s\"", path);
    close(bind_unix(path, true));
    start(listen, "");
}

Test(listener, leaves_a_socket_alone_on_which_somebody_answers)
{
    char path[96];
    char listen[128];
    const char *words[] = {"Address already in use", "another process answers", NULL};
    struct stat status;

    make_path(path, sizeof path);
    snprintf(listen, sizeof listen, "\"unix:%s\"", path);
    int other = bind_unix(path, true);
    start(ANY_PORT, "");
    expect_problem(listen, words);
    cr_expect_eq(stat(path, &status), 0);
    close(other);
    unlink(path);
}

Test(listener, leaves_a_file_alone_that_is_no_socket)
{
    char path[96];
    char listen[128];
    const char *words[] = {"not a socket", NULL};

    make_path(path, sizeof path);
    snprintf(listen, sizeof listen, "\"unix:%s\"", path);
    int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    cr_assert_geq(file, 0);
    start(ANY_PORT, "");
    expect_problem(listen, words);
    close(file);
    cr_expect_eq(unlink(path), 0);
}

Test(listener, does_not_take_a_successors_socket_file_away)
{
    char path[96];
    char listen[128];
    struct stat status;

    make_path(path, sizeof path);
    snprintf(listen, sizeof listen, "\"unix:%s\"", path);
    start(listen, "");
    cr_assert_eq(unlink(path), 0);
    int other = bind_unix(path, true);
    listener_stop(stage.listener);
    stage.listener = NULL;
    cr_expect_eq(stat(path, &status), 0);
    close(other);
    unlink(path);
}

/* ---- pausing ---- */

Test(listener, pauses_and_resumes_when_asked)
{
    start(ANY_PORT, "");
    listener_pause(stage.listener);
    int caller = call();
    for (int i = 0; i < 3; i++) {
        turn();
    }
    cr_expect_eq(stage.count, 0);
    cr_expect(listener_counts(stage.listener).paused);
    listener_resume(stage.listener);
    TURN_UNTIL(stage.count == 1);
    cr_expect_not(listener_counts(stage.listener).paused);
    close(caller);
}

Test(listener, takes_nobody_more_once_the_owner_paused_it_at_a_caller)
{
    int callers[5];

    start(ANY_PORT, "");
    for (size_t i = 0; i < 5; i++) {
        callers[i] = call();
    }
    stage.pause_at_next = true;
    TURN_UNTIL(stage.count > 0);
    turn();
    cr_expect_eq(stage.count, 1);
    stage.pause_at_next = false;
    listener_resume(stage.listener);
    TURN_UNTIL(stage.count == 5);
    for (size_t i = 0; i < 5; i++) {
        close(callers[i]);
    }
}

/* Callers first, then a limit under which not one descriptor is left. */
static rlim_t take_descriptors_away(void)
{
    struct rlimit limit;
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    rlim_t before;

    cr_assert_geq(next, 0);
    close(next);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    before = limit.rlim_cur;
    limit.rlim_cur = (rlim_t)next;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    return before;
}

static void give_descriptors_back(rlim_t before)
{
    struct rlimit limit;

    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = before;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

Test(listener, without_descriptors_tells_one_caller_pauses_and_goes_on_later)
{
    start(ANY_PORT, "");
    int first = call();
    int second = call();
    rlim_t before = take_descriptors_away();

    expect_503(first);
    cr_expect_geq(refused(METRIC_CONNECTION_DESCRIPTORS), 1);
    cr_expect_geq(listener_counts(stage.listener).pauses, 1);
    give_descriptors_back(before);
    int third = call();
    TURN_UNTIL(stage.count + refused(METRIC_CONNECTION_DESCRIPTORS) == 3);
    cr_expect_geq(stage.count, 1, "accepts again");
    cr_expect_not(listener_counts(stage.listener).paused);
    close(second);
    close(third);
}

Test(listener, does_not_spin_while_descriptors_are_out)
{
    start(ANY_PORT, "");
    int callers[40];
    for (size_t i = 0; i < 40; i++) {
        callers[i] = call();
    }
    rlim_t before = take_descriptors_away();
    uint64_t end_ms = clock_mono_ms() + 350;

    while (clock_mono_ms() < end_ms) {
        turn();
    }
    /* One try at once and one each 100 ms; an idle loop would have tried thousands of times. */
    cr_expect_geq(listener_counts(stage.listener).pauses, 1);
    cr_expect_leq(listener_counts(stage.listener).pauses, 8);
    cr_expect_eq(stage.count, 0);
    give_descriptors_back(before);
    TURN_UNTIL(stage.count + refused(METRIC_CONNECTION_DESCRIPTORS) == 40);
    for (size_t i = 0; i < 40; i++) {
        close(callers[i]);
    }
}

Test(listener, retries_when_a_descriptor_was_closed)
{
    start(ANY_PORT, "");
    int first = call();
    int second = call();
    rlim_t before = take_descriptors_away();

    TURN_UNTIL(listener_counts(stage.listener).paused);
    give_descriptors_back(before);
    listener_retry(stage.listener);
    TURN_UNTIL(stage.count == 1);
    cr_expect_not(listener_counts(stage.listener).paused);
    close(first);
    close(second);
}

/* ---- stopping ---- */

Test(listener, takes_who_waits_when_it_stops_and_nobody_later)
{
    start(ANY_PORT, "");
    socklen_t length;
    struct sockaddr_storage address = *listener_set_address(stage.set, 0, &length);
    int waiting = call();

    listener_stop(stage.listener);
    stage.listener = NULL;
    cr_expect_eq(stage.count, 1);
    int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_expect_neq(connect(late, (struct sockaddr *)&address, length), 0);
    cr_expect_eq(errno, ECONNREFUSED);
    close(late);
    close(waiting);
}

Test(listener, shares_a_passed_socket_and_leaves_its_callers_to_others)
{
    struct sockaddr_in bound = {.sin_family = AF_INET};
    socklen_t length = sizeof bound;
    struct socket_passing passed = {.count = 1};
    char listen_text[64];
    char *problem = NULL;
    int given = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    start(ANY_PORT, "");
    bound.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(bind(given, (struct sockaddr *)&bound, length), 0);
    cr_assert_eq(listen(given, 16), 0);
    cr_assert_eq(getsockname(given, (struct sockaddr *)&bound, &length), 0);
    snprintf(listen_text, sizeof listen_text, "\"127.0.0.1:%u\"", ntohs(bound.sin_port));
    passed.entries[0].descriptor = fcntl(given, F_DUPFD_CLOEXEC, 3);

    const struct config *config = load(listen_text, "");
    struct listener_set *set = listener_set_create(config, 2, &passed, &problem);
    cr_assert_not_null(set, "%s", problem);
    cr_expect_null(socket_passing_unclaimed(&passed));
    cr_expect_eq(listener_set_descriptor(set, 0, 0), passed.entries[0].descriptor);
    cr_expect_eq(listener_set_descriptor(set, 0, 1), passed.entries[0].descriptor);

    struct listener_options options = {
        .loop = stage.loop, .on_accept = on_accept, .owner = &stage, .limits = stage.limits};
    struct listener *first = listener_start(set, 0, &options);
    struct listener *second = listener_start(set, 1, &options);
    cr_assert(first && second);
    int caller = call_address((struct sockaddr *)&bound, length);
    TURN_UNTIL(stage.count == 1);
    listener_stop(first);
    int later = call_address((struct sockaddr *)&bound, length);
    TURN_UNTIL(stage.count == 2);
    listener_stop(second);
    int waiting = call_address((struct sockaddr *)&bound, length);
    struct pollfd wait = {.fd = given, .events = POLLIN};
    cr_expect_eq(poll(&wait, 1, PATIENCE_MS), 1, "the next process finds the caller");
    turn();
    cr_expect_eq(stage.count, 2);
    close(caller);
    close(later);
    close(waiting);
    close(given);
    listener_set_destroy(set);
    cr_expect_eq(fcntl(passed.entries[0].descriptor, F_GETFD), -1, "closed with the set");
    config_unref(config);
}
