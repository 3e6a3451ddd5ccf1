#include "build_config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"

static void load(const char *rules)
{
    const char *problem = NULL;

    cr_assert(fault_load(rules, &problem), "%s: %s", rules, problem);
}

Test(fault, does_nothing_without_rules)
{
    load(NULL);
    cr_expect_not(fault_pass("accept"));
    load("");
    cr_expect_not(fault_pass("accept"));
}

Test(fault, fails_with_the_named_errno_at_one_pass_only)
{
    load("accept=EMFILE@3");
    cr_expect_not(fault_pass("accept"));
    cr_expect_not(fault_pass("store.commit"));
    cr_expect_not(fault_pass("accept"));
    errno = 0;
    cr_expect(fault_pass("accept"));
    cr_expect_eq(errno, EMFILE);
    cr_expect_not(fault_pass("accept"));
    cr_expect_eq(fault_passes("accept"), 4);
    cr_expect_eq(fault_passes("store.commit"), 0);
}

Test(fault, fails_from_a_pass_on_or_always)
{
    load("a=EIO@2+,b=ENOSPC");
    cr_expect_not(fault_pass("a"));
    for (int i = 0; i < 3; i++) {
        errno = 0;
        cr_expect(fault_pass("a"));
        cr_expect_eq(errno, EIO);
        cr_expect(fault_pass("b"));
        cr_expect_eq(errno, ENOSPC);
    }
}

Test(fault, asks_the_rules_of_a_point_in_order)
{
    load("a=EIO@1,a=EPIPE@2+");
    cr_expect(fault_pass("a"));
    cr_expect_eq(errno, EIO);
    cr_expect(fault_pass("a"));
    cr_expect_eq(errno, EPIPE);
}

Test(fault, delays_and_goes_on)
{
    load("a=delay:30");
    uint64_t before_us = clock_mono_us();
    cr_expect_not(fault_pass("a"));
    cr_expect_geq(clock_mono_us() - before_us, 30000);
}

Test(fault, counts_without_acting)
{
    load("a=count");
    cr_expect_not(fault_pass("a"));
    cr_expect_not(fault_pass("a"));
    cr_expect_eq(fault_passes("a"), 2);
}

Test(fault, kills_the_process)
{
    pid_t child = fork();
    int status = 0;

    cr_assert_geq(child, 0);
    if (child == 0) {
        load("a=kill@2");
        if (!fault_pass("a") && !fault_pass("a")) {
            _exit(0);
        }
        _exit(1);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFSIGNALED(status));
    cr_expect_eq(WTERMSIG(status), SIGKILL);
}

Test(fault, reads_the_environment_at_the_first_pass)
{
    cr_assert_eq(setenv("PODGATE_FAULT", "a=EACCES", 1), 0);
    cr_expect(fault_pass("a"));
    cr_expect_eq(errno, EACCES);
}

Test(fault, wrong_rule_in_the_environment_ends_the_process, .exit_code = 64)
{
    cr_assert_eq(setenv("PODGATE_FAULT", "a=ENOTHING", 1), 0);
    if (!fault_pass("a")) {
        _exit(0);
    }
}

Test(fault, refuses_wrong_rules_and_keeps_the_old_ones)
{
    static const char *const wrong[] = {
        "a",        "=EIO",      "a=",        "a=NOSUCH", "a=EIO@",     "a=EIO@0",  "a=EIO@x",
        "a=EIO@1x", "a=delay:",  "a=delay:x", "A=EIO",    "a=EIO,,b=EIO", "a=kill@+", "a=EIO@-1",
    };

    load("a=EIO");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *problem = NULL;

        cr_expect_not(fault_load(wrong[i], &problem), "%s was taken", wrong[i]);
        cr_expect_not_null(problem);
    }
    cr_expect(fault_pass("a"));
}

Test(fault, macro_is_there_in_fault_builds_only)
{
    load("a=EIO");
#ifdef PODGATE_FAULTS
    cr_expect(FAULT_POINT("a"));
#else
    cr_expect_not(FAULT_POINT("a"));
    cr_expect_eq(fault_passes("a"), 0);
#endif
}
