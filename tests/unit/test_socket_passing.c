#include "build_config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/socket_passing.h"

static struct socket_passing passed;
static const char *problem;

static bool parse(const char *pid, const char *count, const char *names)
{
    return socket_passing_parse(pid, count, names, 42, &passed, &problem);
}

static void expect_name(size_t index, const char *name)
{
    cr_expect(view_equal((struct view){passed.entries[index].name,
                                       passed.entries[index].name_length},
                         view_of_string(name)),
              "%zu is not %s", index, name);
}

Test(socket_passing, reads_descriptors_and_names)
{
    cr_assert(parse("42", "3", "http:https:admin"));
    cr_assert_eq(passed.count, 3);
    for (size_t i = 0; i < 3; i++) {
        cr_expect_eq(passed.entries[i].descriptor, 3 + (int)i);
    }
    expect_name(0, "http");
    expect_name(1, "https");
    expect_name(2, "admin");
}

Test(socket_passing, reads_descriptors_without_names)
{
    cr_assert(parse("42", "2", NULL));
    cr_expect_eq(passed.count, 2);
    expect_name(0, "");
    cr_assert(parse("42", "1", ""));
    cr_expect_eq(passed.count, 1);
}

Test(socket_passing, takes_nothing_that_is_meant_for_another_process)
{
    cr_expect(parse("41", "2", NULL));
    cr_expect_eq(passed.count, 0);
    cr_expect(parse(NULL, "2", NULL));
    cr_expect_eq(passed.count, 0);
    cr_expect(parse("42", NULL, NULL));
    cr_expect_eq(passed.count, 0);
    cr_expect(parse("42", "0", ""));
    cr_expect_eq(passed.count, 0);
}

Test(socket_passing, refuses_texts_that_contradict_each_other)
{
    static const char *const wrong[][3] = {
        {"x", "1", NULL},    {"", "1", NULL},      {"42", "x", NULL},  {"42", "-1", NULL},
        {"42", "65", NULL},  {"42", "", NULL},     {"42", "2", "one"}, {"42", "1", "one:two"},
        {"-42", "1", NULL},  {"42", "0", "one"},
    };

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_expect_not(parse(wrong[i][0], wrong[i][1], wrong[i][2]), "%zu was taken", i);
        cr_expect_not_null(problem);
        cr_expect_eq(passed.count, 0);
    }
    char long_name[80];
    snprintf(long_name, sizeof long_name, "%065d", 0);
    cr_expect_not(parse("42", "1", long_name));
}

/* Listens on an address with a port that the kernel chooses; `bound` is told. */
static int listen_on(int family, const char *text, struct sockaddr_storage *bound, int only_ipv6)
{
    struct sockaddr_storage address = {.ss_family = (sa_family_t)family};
    socklen_t length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    socklen_t bound_length = sizeof *bound;
    int descriptor = socket(family, SOCK_STREAM, 0);

    cr_assert_geq(descriptor, 0);
    if (family == AF_INET) {
        cr_assert_eq(inet_pton(family, text, &((struct sockaddr_in *)&address)->sin_addr), 1);
    } else {
        cr_assert_eq(inet_pton(family, text, &((struct sockaddr_in6 *)&address)->sin6_addr), 1);
        setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &only_ipv6, sizeof only_ipv6);
    }
    cr_assert_eq(bind(descriptor, (struct sockaddr *)&address, length), 0);
    cr_assert_eq(listen(descriptor, 1), 0);
    cr_assert_eq(getsockname(descriptor, (struct sockaddr *)bound, &bound_length), 0);
    return descriptor;
}

static int claim(const struct sockaddr_storage *address)
{
    return socket_passing_claim_address(
        &passed, (const struct sockaddr *)address,
        address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
}

Test(socket_passing, finds_a_socket_by_its_address_once)
{
    struct sockaddr_storage first;
    struct sockaddr_storage second;

    passed.count = 2;
    passed.entries[0].descriptor = listen_on(AF_INET, "127.0.0.1", &first, 0);
    passed.entries[1].descriptor = listen_on(AF_INET6, "::1", &second, 1);
    cr_expect_eq(claim(&second), passed.entries[1].descriptor);
    cr_expect_eq(claim(&second), -1);
    cr_expect_eq(socket_passing_unclaimed(&passed), &passed.entries[0]);
    cr_expect_eq(claim(&first), passed.entries[0].descriptor);
    cr_expect_null(socket_passing_unclaimed(&passed));
}

Test(socket_passing, ipv6_wildcard_serves_an_ipv4_entry_of_its_port)
{
    struct sockaddr_storage bound;
    struct sockaddr_in wanted = {.sin_family = AF_INET};
    struct sockaddr_storage storage = {0};

    passed.count = 1;
    passed.entries[0].descriptor = listen_on(AF_INET6, "::", &bound, 0);
    wanted.sin_addr.s_addr = htonl(INADDR_ANY);
    wanted.sin_port = ((struct sockaddr_in6 *)&bound)->sin6_port;
    memcpy(&storage, &wanted, sizeof wanted);
    cr_expect_eq(claim(&storage), passed.entries[0].descriptor);
    passed.entries[0].claimed = false;
    wanted.sin_port = (in_port_t)(wanted.sin_port + 1);
    memcpy(&storage, &wanted, sizeof wanted);
    cr_expect_eq(claim(&storage), -1);
}

Test(socket_passing, finds_a_socket_by_its_name)
{
    cr_assert(parse("42", "2", "http:admin"));
    cr_expect_eq(socket_passing_claim_name(&passed, VIEW("admin")), 4);
    cr_expect_eq(socket_passing_claim_name(&passed, VIEW("admin")), -1);
    cr_expect_eq(socket_passing_claim_name(&passed, VIEW("other")), -1);
}

Test(socket_passing, finds_a_unix_socket_by_its_path)
{
    char directory[] = "/tmp/podgate-test-XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct sockaddr_un other = {.sun_family = AF_UNIX, .sun_path = "/tmp/podgate-other"};

    cr_assert_not_null(mkdtemp(directory));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", directory);
    passed.count = 1;
    passed.entries[0].descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(passed.entries[0].descriptor, (struct sockaddr *)&address, sizeof address), 0);
    cr_expect_eq(socket_passing_claim_address(&passed, (struct sockaddr *)&other, sizeof other), -1);
    cr_expect_eq(socket_passing_claim_address(&passed, (struct sockaddr *)&address, sizeof address),
                 passed.entries[0].descriptor);
    unlink(address.sun_path);
    rmdir(directory);
}

/* Descriptor 3 belongs to the test runner, so that a child plays the daemon. Its exit status: 0 when
 * the socket was taken as it should be, 1 when it was refused, 2 for a mistake. */
static int take_in_child(int descriptor)
{
    pid_t child = fork();
    int status = -1;

    cr_assert_geq(child, 0);
    if (child == 0) {
        char pid[16];

        snprintf(pid, sizeof pid, "%d", (int)getpid());
        setenv("LISTEN_PID", pid, 1);
        setenv("LISTEN_FDS", "1", 1);
        setenv("LISTEN_FDNAMES", "http", 1);
        if (dup2(descriptor, 3) < 0) {
            _exit(2);
        }
        if (!socket_passing_take(&passed, &problem)) {
            _exit(problem ? 1 : 2);
        }
        bool right = passed.count == 1 && (fcntl(3, F_GETFD) & FD_CLOEXEC) &&
                     (fcntl(3, F_GETFL) & O_NONBLOCK) && !getenv("LISTEN_PID") &&
                     !getenv("LISTEN_FDS") && !getenv("LISTEN_FDNAMES");
        _exit(right ? 0 : 2);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

Test(socket_passing, takes_the_environment_and_removes_it)
{
    struct sockaddr_storage bound;

    cr_expect_eq(take_in_child(listen_on(AF_INET, "127.0.0.1", &bound, 0)), 0);
}

Test(socket_passing, refuses_a_descriptor_that_does_not_listen)
{
    int plain = socket(AF_INET, SOCK_STREAM, 0);
    int file = open("/dev/null", O_RDONLY);

    cr_expect_eq(take_in_child(plain), 1);
    cr_expect_eq(take_in_child(file), 1);
}
