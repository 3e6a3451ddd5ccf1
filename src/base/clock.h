/* Time. The only module that asks the kernel for it: monotonic time for waits and deadlines, wall
 * time for what is stored, logged or shown.
 *
 *     uint64_t deadline_ms = clock_mono_ms() + 8000;
 */
#ifndef PODGATE_BASE_CLOCK_H
#define PODGATE_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

/* Milliseconds of the monotonic clock, at the kernel's tick resolution (a few ms): cheap enough to
 * be asked several times a request. Any thread. */
uint64_t clock_mono_ms(void);

/* Microseconds of the monotonic clock, precise. For durations and rate limits. Any thread. */
uint64_t clock_mono_us(void);

/* Milliseconds since 1970-01-01T00:00:00Z of the wall clock. Any thread. */
uint64_t clock_wall_ms(void);

/* Milliseconds since the machine was started, its sleep included; no setting of the wall clock moves
 * it. Any thread. */
uint64_t clock_boot_ms(void);

/* A day of the Gregorian calendar: month 1 to 12, day 1 to 31. */
struct clock_date {
    uint64_t year;
    uint64_t month;
    uint64_t day;
};

/* The date of the day that lies `days` days behind 1970-01-01. Pure: no libc call, so no lock and
 * no time zone file. Any thread. */
struct clock_date clock_date_of_day(uint64_t days);

/* Length of clock_format_rfc3339()'s text, without a terminating NUL. */
enum { CLOCK_RFC3339_LENGTH = 24 };

/* Writes `wall_ms` as "2026-11-24T15:04:05.678Z" (RFC 3339, UTC) into `text`, which has room for
 * CLOCK_RFC3339_LENGTH bytes; no NUL is written. Any thread. */
void clock_format_rfc3339(uint64_t wall_ms, char *text);

#endif
