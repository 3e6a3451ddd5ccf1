/* Time in the simulated platform. Everything that the platform's own documentation counts (queue
 * and execution times, policies, retention, repeats of webhooks, the delays of mock jobs) runs on
 * this clock, which goes `scale` times faster than the machine's. What faces a live peer's own
 * clock (waits, long polls, rate windows, silence of real workers, faults) stays real time. */
#ifndef SIM_CLOCK_H
#define SIM_CLOCK_H

#include <stdint.h>
#include <sys/time.h>

struct sim_clock {
    double scale;
    int64_t origin_us;
};

/* Starts the clock at 0; `scale` > 0 says how many times faster than real time it goes. */
void sim_clock_init(struct sim_clock *clock, double scale);

/* Milliseconds of platform time since the start. */
int64_t sim_clock_now_ms(const struct sim_clock *clock);

/* Real time that passes until the platform's clock shows `at_ms`; zero when that is past. */
struct timeval sim_clock_until(const struct sim_clock *clock, int64_t at_ms);

/* Real monotonic milliseconds. */
int64_t sim_clock_real_ms(void);

/* Wall clock, seconds and milliseconds since 1970; never scaled. */
int64_t sim_clock_wall_ms(void);

/* `ms` real milliseconds as a timeval. */
struct timeval sim_clock_real_interval(int64_t ms);

#endif
