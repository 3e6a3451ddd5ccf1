/* Durations, sizes, rates and dates, from text and back. */
#include "build_config.h"

#include <string.h>

#include "model/config_internal.h"

struct unit {
    const char *name;
    uint64_t factor;
};

/* Smallest first. */
static const struct unit duration_units[] = {
    {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0},
};

static const struct unit size_units[] = {
    {"B", 1},
    {"KiB", UINT64_C(1) << 10},
    {"MiB", UINT64_C(1) << 20},
    {"GiB", UINT64_C(1) << 30},
    {"TiB", UINT64_C(1) << 40},
    {NULL, 0},
};

static size_t count_digits(struct view text)
{
    size_t count = 0;
    while (count < text.length && text.data[count] >= '0' && text.data[count] <= '9')
        count++;
    return count;
}

static bool parse_with_unit(const struct unit *units, struct view text, uint64_t *out)
{
    size_t digits = count_digits(text);
    uint64_t number;
    if (!view_parse_u64(view_first(text, digits), UINT64_MAX, &number))
        return false;
    struct view unit = view_skip(text, digits);
    if (unit.length == 0 && number == 0) {
        *out = 0;
        return true;
    }
    for (; units->name != NULL; units++)
        if (view_equal(unit, view_of_string(units->name)))
            return !__builtin_mul_overflow(number, units->factor, out);
    return false;
}

bool config_parse_duration(struct view text, uint64_t *duration_ms)
{
    return parse_with_unit(duration_units, text, duration_ms);
}

bool config_parse_size(struct view text, uint64_t *size_bytes)
{
    return parse_with_unit(size_units, text, size_bytes);
}

static const char *format_with_unit(const struct unit *units, const char *nothing, uint64_t number,
                                    char *text)
{
    if (number == 0)
        return nothing;
    const struct unit *best = units;
    for (; units->name != NULL; units++)
        if (number % units->factor == 0)
            best = units;
    snprintf(text, CONFIG_UNIT_ROOM, "%llu%s", (unsigned long long)(number / best->factor),
             best->name);
    return text;
}

const char *config_format_duration(uint64_t duration_ms, char *text)
{
    return format_with_unit(duration_units, "0s", duration_ms, text);
}

const char *config_format_size(uint64_t size_bytes, char *text)
{
    return format_with_unit(size_units, "0B", size_bytes, text);
}

bool config_parse_rate(struct view text, struct config_rate *rate, bool *unit_bad)
{
    *unit_bad = false;
    size_t digits = count_digits(text);
    uint64_t count;
    if (!view_parse_u64(view_first(text, digits), 1000000000, &count) || count == 0)
        return false;
    rate->count = (uint32_t)count;
    struct view unit = view_skip(text, digits);
    if (unit.length == 0 || unit.data[0] != '/')
        return false;
    unit = view_skip(unit, 1);
    if (view_equal(unit, VIEW("s")))
        rate->period_ms = 1000;
    else if (view_equal(unit, VIEW("m")))
        rate->period_ms = 60000;
    else if (view_equal(unit, VIEW("h")))
        rate->period_ms = 3600000;
    else
        *unit_bad = true;
    return !*unit_bad;
}

/* ---- dates (RFC 3339) ------------------------------------------------------------------------ */

/* Days from 1970-01-01 to a date of the proleptic Gregorian calendar: years that begin in March, so
 * that the leap day is their last. */
static uint64_t days_since_epoch(uint64_t year, uint64_t month, uint64_t day)
{
    if (month <= 2) {
        year--;
        month += 12;
    }
    uint64_t days_of_months = (153 * (month - 3) + 2) / 5;
    return 365 * year + year / 4 - year / 100 + year / 400 + days_of_months + day - 1 - 719468;
}

static uint64_t days_of_month(uint64_t year, uint64_t month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : days[month - 1];
}

/* Reads `digits` digits at the text's beginning, and `after` behind them unless it is NUL. */
static bool take_number(struct view *text, size_t digits, char after, uint64_t maximum,
                        uint64_t *out)
{
    if (text->length < digits || !view_parse_u64(view_first(*text, digits), maximum, out))
        return false;
    *text = view_skip(*text, digits);
    if (after == '\0')
        return true;
    if (text->length == 0 || text->data[0] != after)
        return false;
    *text = view_skip(*text, 1);
    return true;
}

static bool take_zone(struct view *text, int64_t *offset_minutes)
{
    if (text->length == 0)
        return false;
    char sign = text->data[0];
    *text = view_skip(*text, 1);
    *offset_minutes = 0;
    if (sign == 'Z' || sign == 'z')
        return true;
    uint64_t hours;
    uint64_t minutes;
    if ((sign != '+' && sign != '-') || !take_number(text, 2, ':', 23, &hours) ||
        !take_number(text, 2, '\0', 59, &minutes))
        return false;
    *offset_minutes = (int64_t)(hours * 60 + minutes);
    if (sign == '-')
        *offset_minutes = -*offset_minutes;
    return true;
}

bool config_parse_date(struct view text, uint64_t *wall_ms)
{
    uint64_t year;
    uint64_t month;
    uint64_t day;
    if (!take_number(&text, 4, '-', 9999, &year) || !take_number(&text, 2, '-', 12, &month) ||
        !take_number(&text, 2, '\0', 31, &day) || year < 1970 || month < 1 || day < 1 ||
        day > days_of_month(year, month))
        return false;
    uint64_t days = days_since_epoch(year, month, day);
    if (text.length == 0) {
        *wall_ms = days * 86400000;
        return true;
    }
    if (text.data[0] != 'T' && text.data[0] != 't')
        return false;
    text = view_skip(text, 1);
    uint64_t hour;
    uint64_t minute;
    uint64_t second;
    if (!take_number(&text, 2, ':', 23, &hour) || !take_number(&text, 2, ':', 59, &minute) ||
        !take_number(&text, 2, '\0', 60, &second))
        return false;
    uint64_t milliseconds = 0;
    if (text.length > 0 && text.data[0] == '.') {
        size_t digits = count_digits(view_skip(text, 1));
        if (digits == 0)
            return false;
        for (size_t i = 1; i <= 3; i++)
            milliseconds = milliseconds * 10 + (i <= digits ? (uint64_t)(text.data[i] - '0') : 0);
        text = view_skip(text, 1 + digits);
    }
    int64_t offset_minutes;
    if (!take_zone(&text, &offset_minutes) || text.length > 0)
        return false;
    int64_t seconds =
        (int64_t)(days * 86400 + hour * 3600 + minute * 60 + second) - offset_minutes * 60;
    if (seconds < 0)
        return false;
    *wall_ms = (uint64_t)seconds * 1000 + milliseconds;
    return true;
}
