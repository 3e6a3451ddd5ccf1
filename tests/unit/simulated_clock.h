/* For tests: from simulate_clock() on all clocks stand still but for what the test says; wall time
 * can be set on its own, as an operator or ntpd does. The test program's own clock_gettime() stands
 * in front of the C library's for podgate and for libevent, and for the test runner too: that is
 * why time is real until the test begins. */
#ifndef PODGATE_TESTS_SIMULATED_CLOCK_H
#define PODGATE_TESTS_SIMULATED_CLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SIMULATED_BEGINNING_S = 1000000, SIMULATED_WALL_BEGINNING_S = 1700000000 };

static _Atomic bool simulated;
static _Atomic uint64_t simulated_ms;     /* since the beginning */
static _Atomic int64_t simulated_step_ms; /* how far wall time was set */

int clock_gettime(clockid_t clock, struct timespec *now)
{
    uint64_t ms = simulated_ms;

    if (!simulated) {
        return (int)syscall(SYS_clock_gettime, clock, now);
    }
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        ms += (uint64_t)SIMULATED_WALL_BEGINNING_S * 1000 + (uint64_t)simulated_step_ms;
    } else {
        ms += (uint64_t)SIMULATED_BEGINNING_S * 1000;
    }
    *now = (struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    return 0;
}

/* To be called first in a test. */
static void simulate_clock(void)
{
    simulated = true;
}

#endif
