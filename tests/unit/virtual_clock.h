/* For tests: a monotonic clock that stands still but for what the test says, so that deadlines and
 * timers come due without anybody waiting for them, and never because the machine was slow. The
 * test program's own clock_gettime() stands in front of the C library's for podgate and for
 * libevent. Wall time runs, ahead by as much.
 *
 *     clock_advance(10000);
 *     settle();
 */
#ifndef PODGATE_TESTS_VIRTUAL_CLOCK_H
#define PODGATE_TESTS_VIRTUAL_CLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static _Atomic uint64_t clock_ahead_ms;

static __attribute__((unused)) uint64_t clock_real_ms(void)
{
    struct timespec now;

    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    enum { BEGINNING_S = 1000000 };
    bool stands = clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE;
    int result = 0;

    if (stands) {
        *now = (struct timespec){BEGINNING_S, 0};
    } else {
        result = (int)syscall(SYS_clock_gettime, clock, now);
    }
    if (result == 0) {
        now->tv_sec += (time_t)(clock_ahead_ms / 1000);
        now->tv_nsec += (long)(clock_ahead_ms % 1000) * 1000000;
        if (now->tv_nsec >= 1000000000) {
            now->tv_nsec -= 1000000000;
            now->tv_sec++;
        }
    }
    return result;
}

static __attribute__((unused)) void clock_advance(uint64_t ms)
{
    clock_ahead_ms += ms;
}

#endif
