#include "build_config.h"

#include "sim/sim_clock.h"

#include <event2/util.h>
#include <stddef.h>

static int64_t real_us(void)
{
    static struct evutil_monotonic_timer *timer;
    struct timeval now = {0, 0};
    if (!timer) {
        timer = evutil_monotonic_timer_new();
        if (timer)
            evutil_configure_monotonic_time(timer, EV_MONOT_PRECISE);
    }
    if (timer)
        evutil_gettime_monotonic(timer, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_usec;
}

void sim_clock_init(struct sim_clock *clock, double scale)
{
    clock->scale = scale > 0 ? scale : 1;
    clock->origin_us = real_us();
}

int64_t sim_clock_now_ms(const struct sim_clock *clock)
{
    return (int64_t)((double)(real_us() - clock->origin_us) * clock->scale / 1000);
}

struct timeval sim_clock_until(const struct sim_clock *clock, int64_t at_ms)
{
    double left_us = ((double)at_ms * 1000 / clock->scale) - (double)(real_us() - clock->origin_us);
    /* Rounded up by a little: a timer that fires a moment early would only be set again. */
    int64_t us = left_us > 0 ? (int64_t)left_us + 200 : 0;
    return (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
}

int64_t sim_clock_real_ms(void)
{
    return real_us() / 1000;
}

int64_t sim_clock_wall_ms(void)
{
    struct timeval now = {0, 0};
    evutil_gettimeofday(&now, NULL);
    return (int64_t)now.tv_sec * 1000 + now.tv_usec / 1000;
}

struct timeval sim_clock_real_interval(int64_t ms)
{
    if (ms < 0)
        ms = 0;
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
}
