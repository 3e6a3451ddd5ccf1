#include "build_config.h"

#include "base/clock.h"

#include <time.h>

uint64_t clock_mono_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t clock_mono_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t clock_wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t clock_boot_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void put_digits(char *text, uint64_t value, size_t digits)
{
    while (digits > 0) {
        text[--digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

struct clock_date clock_date_of_day(uint64_t days)
{
    /* Counted from 0000-03-01, so that a leap day ends its year (Howard Hinnant, "chrono-compatible
     * low-level date algorithms"). */
    uint64_t shifted = days + 719468;
    uint64_t era = shifted / 146097;
    uint64_t day_of_era = shifted % 146097;
    uint64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t month_from_march = (5 * day_of_year + 2) / 153;
    uint64_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;

    return (struct clock_date){
        .year = year_of_era + era * 400 + (month <= 2),
        .month = month,
        .day = day_of_year - (153 * month_from_march + 2) / 5 + 1,
    };
}

void clock_format_rfc3339(uint64_t wall_ms, char *text)
{
    struct clock_date date = clock_date_of_day(wall_ms / 86400000);
    uint64_t second_of_day = wall_ms / 1000 % 86400;

    put_digits(text, date.year, 4);
    text[4] = '-';
    put_digits(text + 5, date.month, 2);
    text[7] = '-';
    put_digits(text + 8, date.day, 2);
    text[10] = 'T';
    put_digits(text + 11, second_of_day / 3600, 2);
    text[13] = ':';
    put_digits(text + 14, second_of_day / 60 % 60, 2);
    text[16] = ':';
    put_digits(text + 17, second_of_day % 60, 2);
    text[19] = '.';
    put_digits(text + 20, wall_ms % 1000, 3);
    text[23] = 'Z';
}
