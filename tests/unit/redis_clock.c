/* For tests: put before a redis-server by LD_PRELOAD, moves what it takes for the wall clock, so
 * that days pass at once. PODGATE_TEST_CLOCK names a file, which the test maps too, with two
 * numbers: the milliseconds to add, and the wall time at which the clock stands still but for those
 * (0: it runs).
 *
 * Not part of podgate; libc only.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static _Atomic uint64_t *numbers;

__attribute__((constructor)) static void map_clock(void)
{
    const char *path = getenv("PODGATE_TEST_CLOCK");
    int descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (descriptor >= 0) {
        void *mapped = mmap(NULL, 2 * sizeof *numbers, PROT_READ, MAP_SHARED, descriptor, 0);

        numbers = mapped != MAP_FAILED ? mapped : NULL;
        close(descriptor);
    }
}

static void move(struct timespec *now)
{
    uint64_t ms = numbers ? numbers[0] : 0;

    if (numbers && numbers[1] != 0) {
        *now = (struct timespec){(time_t)(numbers[1] / 1000), (long)(numbers[1] % 1000) * 1000000};
    }
    now->tv_sec += (time_t)(ms / 1000);
    now->tv_nsec += (long)(ms % 1000) * 1000000;
    if (now->tv_nsec >= 1000000000) {
        now->tv_nsec -= 1000000000;
        now->tv_sec++;
    }
}

/* The monotonic clock stays: Redis's own time-outs are none of the test's business. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);

    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        move(now);
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) {
        return -1;
    }
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec precise = {0};

    (void)clock_gettime(CLOCK_REALTIME, &precise);
    if (out) {
        *out = precise.tv_sec;
    }
    return precise.tv_sec;
}
