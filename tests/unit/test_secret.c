#include "build_config.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/secret.h"

Test(secret, holds_and_compares_its_bytes)
{
    struct secret *secret = secret_create(VIEW("rpa_ABC\0DEF"));
    cr_assert_not_null(secret);
    cr_assert(view_equal(secret_view(secret), VIEW("rpa_ABC\0DEF")));
    cr_assert(secret_equal(secret, VIEW("rpa_ABC\0DEF")));
    cr_assert_not(secret_equal(secret, VIEW("rpa_ABC\0DEG")));
    cr_assert_not(secret_equal(secret, VIEW("rpa_ABC")));
    cr_assert_not(secret_equal(NULL, VIEW("")));
    secret_destroy(secret);
    secret_destroy(NULL);
}

Test(secret, may_be_empty_or_larger_than_a_page)
{
    struct secret *empty = secret_create(VIEW(""));
    cr_assert(secret_equal(empty, VIEW("")));
    secret_destroy(empty);
    size_t length = 70000;
    char *bytes = malloc(length);
    memset(bytes, 'x', length);
    struct secret *large = secret_create(view_make(bytes, length));
    cr_assert(secret_equal(large, view_make(bytes, length)));
    secret_destroy(large);
    free(bytes);
}

/* The mapping's "VmFlags:" of /proc/self/smaps, which say what the kernel will do with it. */
static bool mapping_has_flag(const void *address, const char *flag)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[512];
    bool inside = false;
    bool found = false;
    cr_assert_not_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long low;
        unsigned long high;
        if (sscanf(line, "%lx-%lx ", &low, &high) == 2) {
            inside = (unsigned long)address >= low && (unsigned long)address < high;
        }
        if (inside && strncmp(line, "VmFlags:", 8) == 0) {
            found = strstr(line, flag) != NULL;
        }
    }
    fclose(file);
    return found;
}

/* What secret_is_locked() says is what the kernel says. Sanitizers make mlock() do nothing and
 * report success, so that there is nothing to compare under them. */
static void check_lock_is_reported(const struct secret *secret)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    cr_assert_eq(mapping_has_flag(secret, " lo"), secret_is_locked(secret));
#else
    (void)secret;
#endif
}

Test(secret, is_kept_out_of_core_dumps)
{
    struct secret *secret = secret_create(VIEW("key"));
    cr_assert(mapping_has_flag(secret, " dd"));
    check_lock_is_reported(secret);
    secret_destroy(secret);
}

Test(secret, works_without_the_right_to_lock_memory)
{
    struct rlimit none = {0, 0};
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    struct secret *secret = secret_create(VIEW("key"));
    cr_assert_not_null(secret);
    /* Root may lock anyway; what is reported has to be what is so. */
    check_lock_is_reported(secret);
    cr_assert(secret_equal(secret, VIEW("key")));
    secret_destroy(secret);
}

Test(secret, cannot_be_overwritten, .signal = SIGSEGV)
{
    /* A sanitizer would turn the signal into its own report. */
    signal(SIGSEGV, SIG_DFL);
    struct secret *secret = secret_create(VIEW("key"));
    ((volatile char *)(uintptr_t)secret_view(secret).data)[0] = 'x';
}

Test(secret, wipe_leaves_zeros)
{
    char bytes[] = "secret";
    secret_wipe(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        cr_assert_eq(bytes[i], 0);
    }
    secret_wipe(NULL, 0);
    cr_assert(secret_equal_views(VIEW("a"), VIEW("a")));
    cr_assert_not(secret_equal_views(VIEW("a"), VIEW("b")));
}
