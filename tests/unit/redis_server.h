/* For tests: a redis-server of the test's own, on a Unix socket in the test's folder, that syncs
 * each write; its clock is moved by redis_clock.so, which lies beside the test program. It ends
 * with the test, whatever becomes of it.
 *
 *     redis_server_start(directory, "");
 *     ... redis_server.socket ...
 *     redis_server_stop(SIGKILL);
 */
#ifndef PODGATE_TESTS_REDIS_SERVER_H
#define PODGATE_TESTS_REDIS_SERVER_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
    pid_t process;
    char directory[256];
    char socket[108]; /* what a Unix address holds */
    char clock_path[512];
    _Atomic uint64_t *clock_numbers; /* see redis_clock.c */
} redis_server;

static uint64_t redis_server_real_ms(void)
{
    struct timespec now;

    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void redis_server_map_clock(void)
{
    int descriptor;
    void *mapped;

    snprintf(redis_server.clock_path, sizeof redis_server.clock_path, "%s/clock",
             redis_server.directory);
    descriptor = open(redis_server.clock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    cr_assert_geq(descriptor, 0);
    cr_assert_eq(ftruncate(descriptor, (off_t)(2 * sizeof(uint64_t))), 0);
    mapped = mmap(NULL, 2 * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    cr_assert_neq(mapped, MAP_FAILED);
    close(descriptor);
    redis_server.clock_numbers = mapped;
}

/* The folder that the running program lies in. */
static void redis_server_own_folder(char *path, size_t capacity)
{
    ssize_t length = readlink("/proc/self/exe", path, capacity - 1);
    char *slash;

    cr_assert_gt(length, 0);
    path[length] = '\0';
    slash = strrchr(path, '/');
    cr_assert_not_null(slash);
    *slash = '\0';
}

/* A question and the answer's first bytes, on a connection of its own; false when there is no
 * answer that begins with `wanted`. */
static bool redis_server_says(const char *command, const char *wanted)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char answer[64] = "";
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool says = false;

    snprintf(address.sun_path, sizeof address.sun_path, "%s", redis_server.socket);
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0 &&
        send(descriptor, command, strlen(command), MSG_NOSIGNAL) > 0 &&
        recv(descriptor, answer, sizeof answer - 1, 0) > 0) {
        says = strncmp(answer, wanted, strlen(wanted)) == 0;
    }
    close(descriptor);
    return says;
}

static __attribute__((noreturn)) void redis_server_run(const char *folder)
{
    char preload[600];
    int log = open("redis.log", O_WRONLY | O_CREAT | O_APPEND, 0600);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    snprintf(preload, sizeof preload, "%s/redis_clock.so", folder);
    setenv("LD_PRELOAD", preload, 1);
    setenv("PODGATE_TEST_CLOCK", redis_server.clock_path, 1);
    execlp("redis-server", "redis-server", "redis.conf", (char *)NULL);
    _exit(127);
}

/* Starts it in `directory`, with what is there from before; `options` are more lines of its
 * configuration. Returns when it answers. */
static __attribute__((unused)) void redis_server_start(const char *directory, const char *options)
{
    static const struct timespec moment = {0, 2000000};
    uint64_t until_ms = redis_server_real_ms() + 30000;
    char folder[512];
    char path[600];
    FILE *file;

    snprintf(redis_server.directory, sizeof redis_server.directory, "%s", directory);
    cr_assert_lt(
        snprintf(redis_server.socket, sizeof redis_server.socket, "%s/redis.sock", directory),
        (int)sizeof redis_server.socket, "TMPDIR is too long for a Unix socket");
    if (!redis_server.clock_numbers) {
        redis_server_map_clock();
    }
    snprintf(path, sizeof path, "%s/redis.conf", directory);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    fprintf(file,
            "port 0\nunixsocket %s\nunixsocketperm 700\ndir %s\nsave \"\"\nappendonly yes\n"
            "appendfsync always\nmaxmemory-policy noeviction\nenable-debug-command yes\n%s\n",
            redis_server.socket, directory, options);
    fclose(file);
    redis_server_own_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/redis_clock.so", folder);
    cr_assert_eq(access(path, R_OK), 0, "%s is not there: make check builds it", path);
    unlink(redis_server.socket);
    redis_server.process = fork();
    cr_assert_geq(redis_server.process, 0);
    if (redis_server.process == 0) {
        if (chdir(directory) != 0) {
            _exit(126);
        }
        redis_server_run(folder);
    }
    while (!redis_server_says("PING\r\n", "+PONG")) {
        int status;

        cr_assert_eq(waitpid(redis_server.process, &status, WNOHANG), 0,
                     "redis-server ended: is it installed? See %s/redis.log", directory);
        cr_assert_lt(redis_server_real_ms(), until_ms, "redis-server doesn't answer");
        nanosleep(&moment, NULL);
    }
}

/* Ends it by SIGKILL or SIGTERM, and waits for its end. */
static __attribute__((unused)) void redis_server_stop(int signal_number)
{
    if (redis_server.process > 0) {
        kill(redis_server.process, signal_number);
        waitpid(redis_server.process, NULL, 0);
        redis_server.process = 0;
    }
}

/* Moves its clock on. */
static __attribute__((unused)) void redis_server_pass(uint64_t ms)
{
    redis_server.clock_numbers[0] += ms;
}

/* Makes its clock stand still at `wall_ms`, but for what redis_server_pass() says. */
static __attribute__((unused)) void redis_server_stand_still(uint64_t wall_ms)
{
    redis_server.clock_numbers[1] = wall_ms;
}

#endif
