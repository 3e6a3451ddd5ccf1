/* Criterion's macros, as far as tests/unit uses them, on a runner of a hundred lines: for builds with
 * ThreadSanitizer, under which Criterion's own runner crashes (libcriterion 2.4.1 remaps memory that
 * ThreadSanitizer keeps its shadow of). configure --enable-sanitizers=thread puts this directory
 * first in the include path; all other builds use the library.
 *
 * A program of several files has this in each of them: what there is once is weak.
 *
 * Each test runs in a process of its own, one after the other; a report of the sanitizer makes its
 * process, and so its test, fail. An argument selects the tests whose suite::name contains it. */
#ifndef PODGATE_TESTS_TSAN_CRITERION_H
#define PODGATE_TESTS_TSAN_CRITERION_H

#pragma GCC system_header /* its macros need no warnings at the places where they are used */

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What Test() and TestSuite() may say behind the names. */
struct criterion_plain {
    struct criterion_plain *next;
    const char *suite;
    const char *name; /* NULL: a suite */
    void (*run)(void);
    void (*init)(void);
    void (*fini)(void);
    int signal;
    int exit_code;
    double timeout;
    bool disabled;
    const char *description;
};

#define CRITERION_PLAIN_ONCE __attribute__((weak))

CRITERION_PLAIN_ONCE struct criterion_plain *criterion_plain_first;
CRITERION_PLAIN_ONCE struct criterion_plain **criterion_plain_last = &criterion_plain_first;
CRITERION_PLAIN_ONCE _Atomic bool criterion_plain_failed;

#define CRITERION_PLAIN_REGISTER(symbol, ...)                                                      \
    static struct criterion_plain symbol = {__VA_ARGS__};                                          \
    __attribute__((constructor)) static void symbol##_register(void)                               \
    {                                                                                              \
        *criterion_plain_last = &symbol;                                                           \
        criterion_plain_last = &symbol.next;                                                       \
    }

#define TestSuite(suite_name, ...)                                                                 \
    CRITERION_PLAIN_REGISTER(suite_name##_suite, .suite = #suite_name, __VA_ARGS__)                \
    extern int criterion_plain_unused

#define Test(suite_name, test_name, ...)                                                           \
    static void suite_name##_##test_name##_test(void);                                             \
    CRITERION_PLAIN_REGISTER(suite_name##_##test_name##_entry, .suite = #suite_name,               \
                             .name = #test_name, .run = suite_name##_##test_name##_test,           \
                             __VA_ARGS__)                                                          \
    static void suite_name##_##test_name##_test(void)

__attribute__((unused)) static void criterion_plain_check(bool holds, bool fatal, const char *file,
                                                          int line, const char *text,
                                                          const char *format, ...)
{
    va_list arguments;

    if (holds) {
        return;
    }
    fprintf(stderr, "%s:%d: not so: %s:", file, line, text);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    criterion_plain_failed = true;
    if (fatal) {
        exit(1);
    }
}

#define CRITERION_PLAIN(holds, fatal, text, ...)                                                   \
    criterion_plain_check(holds, fatal, __FILE__, __LINE__, text, " " __VA_ARGS__)

#define cr_assert(a, ...) CRITERION_PLAIN(!!(a), true, #a, __VA_ARGS__)
#define cr_expect(a, ...) CRITERION_PLAIN(!!(a), false, #a, __VA_ARGS__)
#define cr_assert_not(a, ...) CRITERION_PLAIN(!(a), true, "not " #a, __VA_ARGS__)
#define cr_expect_not(a, ...) CRITERION_PLAIN(!(a), false, "not " #a, __VA_ARGS__)
#define cr_assert_null(a, ...) CRITERION_PLAIN((a) == NULL, true, #a " is NULL", __VA_ARGS__)
#define cr_expect_null(a, ...) CRITERION_PLAIN((a) == NULL, false, #a " is NULL", __VA_ARGS__)
#define cr_assert_not_null(a, ...) CRITERION_PLAIN((a) != NULL, true, #a " not NULL", __VA_ARGS__)
#define cr_expect_not_null(a, ...) CRITERION_PLAIN((a) != NULL, false, #a " not NULL", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) CRITERION_PLAIN((a) == (b), true, #a " == " #b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...) CRITERION_PLAIN((a) == (b), false, #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) CRITERION_PLAIN((a) != (b), true, #a " != " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) CRITERION_PLAIN((a) != (b), false, #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) CRITERION_PLAIN((a) < (b), true, #a " < " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) CRITERION_PLAIN((a) < (b), false, #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) CRITERION_PLAIN((a) <= (b), true, #a " <= " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) CRITERION_PLAIN((a) <= (b), false, #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) CRITERION_PLAIN((a) > (b), true, #a " > " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) CRITERION_PLAIN((a) > (b), false, #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) CRITERION_PLAIN((a) >= (b), true, #a " >= " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) CRITERION_PLAIN((a) >= (b), false, #a " >= " #b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)                                                                \
    CRITERION_PLAIN(strcmp(a, b) == 0, true, #a " as text == " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)                                                               \
    CRITERION_PLAIN(strcmp(a, b) != 0, true, #a " as text != " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)                                                                \
    CRITERION_PLAIN(strcmp(a, b) == 0, false, #a " as text == " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, size, ...)                                                          \
    CRITERION_PLAIN(memcmp(a, b, size) == 0, true, #a " as bytes == " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, size, ...)                                                          \
    CRITERION_PLAIN(memcmp(a, b, size) == 0, false, #a " as bytes == " #b, __VA_ARGS__)
#define cr_assert_fail(...) CRITERION_PLAIN(false, true, "failed", __VA_ARGS__)
#define cr_expect_fail(...) CRITERION_PLAIN(false, false, "failed", __VA_ARGS__)

/* In a process of its own. Ends by exit(), so that the sanitizer can still change the status. */
static void criterion_plain_run(const struct criterion_plain *test,
                                const struct criterion_plain *suite)
{
    double timeout = test->timeout > 0 ? test->timeout : suite->timeout;
    void (*init)(void) = test->init ? test->init : suite->init;
    void (*fini)(void) = test->fini ? test->fini : suite->fini;

    /* The sanitizer makes everything slower. */
    alarm(timeout > 0 ? (unsigned)(timeout * 10) + 1 : 600);
    if (init) {
        init();
    }
    test->run();
    if (fini) {
        fini();
    }
    exit(criterion_plain_failed ? 1 : 0);
}

static bool criterion_plain_passes(const struct criterion_plain *test)
{
    static const struct criterion_plain none;
    const struct criterion_plain *suite = &none;
    int status = 0;
    pid_t child;

    for (const struct criterion_plain *each = criterion_plain_first; each; each = each->next) {
        if (!each->name && strcmp(each->suite, test->suite) == 0) {
            suite = each;
        }
    }
    fflush(NULL);
    child = fork();
    if (child == 0) {
        criterion_plain_run(test, suite);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        return false;
    }
    if (test->signal != 0) {
        return WIFSIGNALED(status) && WTERMSIG(status) == test->signal;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == test->exit_code;
}

CRITERION_PLAIN_ONCE int main(int argc, char **argv)
{
    unsigned tested = 0;
    unsigned failing = 0;

    for (const struct criterion_plain *test = criterion_plain_first; test; test = test->next) {
        char name[256];

        snprintf(name, sizeof name, "%s::%s", test->suite, test->name ? test->name : "");
        if (!test->name || test->disabled || (argc > 1 && !strstr(name, argv[1]))) {
            continue;
        }
        tested++;
        if (!criterion_plain_passes(test)) {
            failing++;
            fprintf(stderr, "[FAIL] %s\n", name);
        }
    }
    fprintf(stderr, "[====] Tested: %u | Passing: %u | Failing: %u\n", tested, tested - failing,
            failing);
    return failing == 0 && tested > 0 ? 0 : 1;
}

#endif
