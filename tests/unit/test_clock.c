#include "build_config.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

static void expect_text(uint64_t wall_ms, const char *expected)
{
    char text[CLOCK_RFC3339_LENGTH + 2];

    memset(text, '#', sizeof text);
    clock_format_rfc3339(wall_ms, text);
    cr_expect_eq(text[CLOCK_RFC3339_LENGTH], '#', "no byte behind the text is touched");
    text[CLOCK_RFC3339_LENGTH] = '\0';
    cr_expect_str_eq(text, expected);
}

Test(clock, formats_known_moments)
{
    expect_text(0, "1970-01-01T00:00:00.000Z");
    expect_text(951782399999, "2000-02-28T23:59:59.999Z");
    expect_text(951782400000, "2000-02-29T00:00:00.000Z");
    expect_text(951868800000, "2000-03-01T00:00:00.000Z");
    expect_text(1078012800000, "2004-02-29T00:00:00.000Z");
    expect_text(4107542400000, "2100-03-01T00:00:00.000Z");
    expect_text(1795532698678, "2026-11-24T15:04:58.678Z");
    expect_text(253402300799999, "9999-12-31T23:59:59.999Z");
}

/* libc's own conversion for every 37th hour of 500 years. */
Test(clock, formats_like_libc)
{
    for (uint64_t second = 0; second < 500ull * 366 * 86400; second += 37 * 3600 + 11) {
        time_t moment = (time_t)second;
        struct tm parts;
        char expected[64];
        char text[CLOCK_RFC3339_LENGTH];

        cr_assert_not_null(gmtime_r(&moment, &parts));
        cr_assert_eq(strftime(expected, sizeof expected, "%Y-%m-%dT%H:%M:%S.007Z", &parts),
                     CLOCK_RFC3339_LENGTH);
        clock_format_rfc3339(second * 1000 + 7, text);
        cr_assert_eq(memcmp(text, expected, sizeof text), 0, "%s", expected);
    }
}

Test(clock, monotonic_clocks_agree_and_never_go_back)
{
    uint64_t before_ms = clock_mono_ms();
    uint64_t before_us = clock_mono_us();

    for (int i = 0; i < 100000; i++) {
        uint64_t now_ms = clock_mono_ms();
        uint64_t now_us = clock_mono_us();

        cr_assert_geq(now_ms, before_ms);
        cr_assert_geq(now_us, before_us);
        /* The coarse clock stands still within a tick, so that it is behind, never ahead. */
        cr_assert_leq(now_ms, now_us / 1000);
        before_ms = now_ms;
        before_us = now_us;
    }
}

Test(clock, wall_clock_is_the_systems)
{
    time_t before = time(NULL);
    uint64_t now_ms = clock_wall_ms();
    time_t after = time(NULL);

    cr_expect_geq(now_ms / 1000 + 1, (uint64_t)before);
    cr_expect_leq(now_ms / 1000, (uint64_t)after + 1);
}
