/* For tests: a clock that goes on as the test says. The test program's own clock_gettime() stands in
 * front of the C library's for podgate and for libevent, so that deadlines and timers come due without
 * anybody waiting for them.
 *
 *     clock_advance(10000);
 *     settle();
 */
#ifndef PODGATE_TESTS_VIRTUAL_CLOCK_H
#define PODGATE_TESTS_VIRTUAL_CLOCK_H

#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_ahead_ms;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);

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
