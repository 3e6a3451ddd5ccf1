/* One option's value from text: the right form, within its bounds, into its field. Here: numbers,
 * words, defaults; config_texts.c has the rest. */
#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "model/config_internal.h"

bool config_refuse(const struct config_setting *setting, const struct config_value *value,
                   const char *expected)
{
    config_error(setting->loader->errors, value->position, "%s \"%.100s\": %s",
                 setting->option->name, value->text, expected);
    return false;
}

bool config_setting_lost_memory(const struct config_setting *setting)
{
    setting->loader->out_of_memory = true;
    return false;
}

/* ---- numbers --------------------------------------------------------------------------------- */

typedef const char *format_number(uint64_t number, char *text);

static const char *format_plain(uint64_t number, char *text)
{
    snprintf(text, CONFIG_UNIT_ROOM, "%llu", (unsigned long long)number);
    return text;
}

static bool check_bounds(const struct config_setting *setting, uint64_t number,
                         format_number *format)
{
    const struct config_option *option = setting->option;
    if (number >= option->minimum && number <= option->maximum)
        return true;
    char least[CONFIG_UNIT_ROOM];
    char most[CONFIG_UNIT_ROOM];
    config_error(setting->loader->errors, setting->values[0]->position,
                 "%s \"%.100s\": out of range, expected %s to %s", option->name,
                 setting->values[0]->text, format(option->minimum, least),
                 format(option->maximum, most));
    return false;
}

static bool set_count(const struct config_setting *setting, bool big)
{
    uint64_t number;
    if (!view_parse_u64(config_value_view(setting->values[0]), UINT64_MAX, &number))
        return config_refuse(setting, setting->values[0], "expected a whole number without a unit");
    if (!check_bounds(setting, number, format_plain))
        return false;
    if (big)
        *(uint64_t *)setting->field = number;
    else
        *(uint32_t *)setting->field = (uint32_t)number;
    return true;
}

static bool set_duration(const struct config_setting *setting)
{
    uint64_t duration_ms;
    if (!config_parse_duration(config_value_view(setting->values[0]), &duration_ms))
        return config_refuse(
            setting, setting->values[0],
            "expected a duration with one of the units ms, s, m, h, d, such as \"30s\"");
    if (!check_bounds(setting, duration_ms, config_format_duration))
        return false;
    *(uint64_t *)setting->field = duration_ms;
    return true;
}

static bool set_size(const struct config_setting *setting)
{
    uint64_t size_bytes;
    if (!config_parse_size(config_value_view(setting->values[0]), &size_bytes))
        return config_refuse(setting, setting->values[0],
                             "expected a size with one of the units B, KiB, MiB, GiB, TiB, such as "
                             "\"256MiB\"");
    if (!check_bounds(setting, size_bytes, config_format_size))
        return false;
    *(uint64_t *)setting->field = size_bytes;
    return true;
}

static bool set_boolean(const struct config_setting *setting)
{
    struct view text = config_value_view(setting->values[0]);
    bool yes = view_equal(text, VIEW("true")) || view_equal(text, VIEW("on")) ||
               view_equal(text, VIEW("yes"));
    bool no = view_equal(text, VIEW("false")) || view_equal(text, VIEW("off")) ||
              view_equal(text, VIEW("no"));
    if (!yes && !no)
        return config_refuse(setting, setting->values[0], "expected true or false");
    *(bool *)setting->field = yes;
    return true;
}

static bool set_date(const struct config_setting *setting)
{
    if (!config_parse_date(config_value_view(setting->values[0]), setting->field))
        return config_refuse(
            setting, setting->values[0],
            "expected a date, such as \"2027-01-31\", or a time of RFC 3339, such as "
            "\"2027-01-31T18:00:00Z\"");
    return true;
}

static bool set_rates(const struct config_setting *setting)
{
    struct config_rates *rates = setting->field;
    rates->items = config_allocate(setting->loader->config, setting->count * sizeof(*rates->items));
    rates->count = setting->count;
    if (rates->items == NULL)
        return config_setting_lost_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        bool unit_bad;
        if (config_parse_rate(config_value_view(setting->values[i]), &rates->items[i], &unit_bad))
            continue;
        good =
            config_refuse(setting, setting->values[i],
                          unit_bad ? "the unit must be s, m or h"
                                   : "expected a number of at least 1, a slash and a unit, such as "
                                     "\"100/s\"");
    }
    return good;
}

/* ---- words ----------------------------------------------------------------------------------- */

static bool refuse_word(const struct config_setting *setting, const struct config_value *value,
                        const char *const *words)
{
    const char *near = config_word_suggest(words, value->text);
    if (near != NULL) {
        config_error(setting->loader->errors, value->position,
                     "%s \"%.100s\": did you mean \"%s\"?", setting->option->name, value->text,
                     near);
        return false;
    }
    char expected[400] = "expected one of ";
    size_t used = strlen(expected);
    for (size_t i = 0; words[i] != NULL && used < sizeof(expected) - 40; i++)
        used += (size_t)snprintf(expected + used, sizeof(expected) - used, "%s%s",
                                 i == 0 ? "" : ", ", words[i]);
    return config_refuse(setting, value, expected);
}

static int find_word(const char *const *words, struct view text)
{
    for (int i = 0; words[i] != NULL; i++)
        if (view_equal(text, view_of_string(words[i])))
            return i;
    return -1;
}

static bool set_word(const struct config_setting *setting)
{
    int word = find_word(setting->option->words, config_value_view(setting->values[0]));
    if (word < 0)
        return refuse_word(setting, setting->values[0], setting->option->words);
    unsigned value = (unsigned)word;
    memcpy(setting->field, &value, sizeof(value));
    return true;
}

static bool set_operations(const struct config_setting *setting)
{
    const char *words[CONFIG_OPERATIONS + 1] = {NULL};
    for (unsigned i = 0; i < CONFIG_OPERATIONS; i++)
        words[i] = config_operation_text((enum config_operation)(1u << i));
    uint32_t operations = 0;
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        int word = find_word(words, config_value_view(setting->values[i]));
        if (word < 0)
            good = refuse_word(setting, setting->values[i], words);
        else
            operations |= 1u << word;
    }
    *(uint32_t *)setting->field = operations;
    return good;
}

/* ---- all kinds ------------------------------------------------------------------------------- */

static bool set_by_kind(const struct config_setting *setting)
{
    switch (setting->option->kind) {
    case CONFIG_KIND_DURATION: return set_duration(setting);
    case CONFIG_KIND_SIZE: return set_size(setting);
    case CONFIG_KIND_COUNT: return set_count(setting, false);
    case CONFIG_KIND_BIG_COUNT: return set_count(setting, true);
    case CONFIG_KIND_BOOLEAN: return set_boolean(setting);
    case CONFIG_KIND_WORD: return set_word(setting);
    case CONFIG_KIND_OPERATIONS: return set_operations(setting);
    case CONFIG_KIND_RATES: return set_rates(setting);
    case CONFIG_KIND_DATE: return set_date(setting);
    case CONFIG_KIND_TEXT:
    case CONFIG_KIND_FILE:
    case CONFIG_KIND_SECRET:
    case CONFIG_KIND_PATH:
    case CONFIG_KIND_CREDENTIAL:
    case CONFIG_KIND_VARIABLE:
    case CONFIG_KIND_ADDRESS:
    case CONFIG_KIND_ADDRESSES:
    case CONFIG_KIND_URL:
    case CONFIG_KIND_PROXY:
    case CONFIG_KIND_STORE_URL:
    case CONFIG_KIND_NETWORKS:
    case CONFIG_KIND_ENDPOINTS:
    case CONFIG_KIND_SERVER_NAMES:
    case CONFIG_KIND_ORIGINS:
    case CONFIG_KIND_SHA256: return config_set_text(setting);
    }
    return false;
}

bool config_kind_is_list(enum config_kind kind)
{
    return kind == CONFIG_KIND_ADDRESSES || kind == CONFIG_KIND_NETWORKS ||
           kind == CONFIG_KIND_ENDPOINTS || kind == CONFIG_KIND_SERVER_NAMES ||
           kind == CONFIG_KIND_ORIGINS || kind == CONFIG_KIND_OPERATIONS ||
           kind == CONFIG_KIND_RATES;
}

bool config_option_set(struct config_loader *loader, const struct config_option *option,
                       void *target, const struct config_value *const *values, size_t count,
                       struct config_position position)
{
    struct config_setting setting = {
        .loader = loader, .option = option, .values = values, .count = count};
    setting.field = (char *)target + option->offset;
    if (config_kind_is_list(option->kind)) {
        if (count < option->minimum || count > option->maximum) {
            config_error(loader->errors, position, "%s has %zu entries, expected %llu to %llu",
                         option->name, count, (unsigned long long)option->minimum,
                         (unsigned long long)option->maximum);
            return false;
        }
    } else if (count != 1) {
        config_error(loader->errors, position, "%s has %zu values, expected one", option->name,
                     count);
        return false;
    }
    return set_by_kind(&setting);
}

static bool fields_equal(enum config_kind kind, const void *left, const void *right)
{
    switch (kind) {
    case CONFIG_KIND_TEXT:
    case CONFIG_KIND_FILE:
    case CONFIG_KIND_SECRET:
    case CONFIG_KIND_PATH:
    case CONFIG_KIND_CREDENTIAL:
    case CONFIG_KIND_VARIABLE:
    case CONFIG_KIND_STORE_URL:
        return view_equal(*(const struct view *)left, *(const struct view *)right);
    case CONFIG_KIND_DURATION:
    case CONFIG_KIND_SIZE:
    case CONFIG_KIND_BIG_COUNT:
    case CONFIG_KIND_DATE: return memcmp(left, right, sizeof(uint64_t)) == 0;
    case CONFIG_KIND_COUNT:
    case CONFIG_KIND_OPERATIONS: return memcmp(left, right, sizeof(uint32_t)) == 0;
    case CONFIG_KIND_WORD: return memcmp(left, right, sizeof(unsigned)) == 0;
    case CONFIG_KIND_BOOLEAN: return *(const bool *)left == *(const bool *)right;
    case CONFIG_KIND_ADDRESS:
    case CONFIG_KIND_ADDRESSES:
    case CONFIG_KIND_URL:
    case CONFIG_KIND_PROXY:
    case CONFIG_KIND_NETWORKS:
    case CONFIG_KIND_ENDPOINTS:
    case CONFIG_KIND_SERVER_NAMES:
    case CONFIG_KIND_ORIGINS:
    case CONFIG_KIND_RATES:
    case CONFIG_KIND_SHA256: return false;
    }
    return false;
}

void config_option_warn(struct config_loader *loader, enum config_section_name section,
                        const struct config_option *option, const void *target,
                        struct config_position position)
{
    const char *defaults = (const char *)&loader->defaults[section];
    if (!option->later || fields_equal(option->kind, (const char *)target + option->offset,
                                       defaults + option->offset))
        return;
    const char *name = config_sections[section].name;
    config_warning(loader->errors, position, "%s%s%s has no effect yet in this version", name,
                   *name == '\0' ? "" : ".", option->name);
}

/* A default is written as in the file, and takes the same way. */
static bool set_default(struct config_loader *loader, const struct config_option *option,
                        void *target)
{
    enum { WORDS_MAX = 16 };
    struct config_value *values[WORDS_MAX] = {NULL};
    size_t count = 0;
    bool list = config_kind_is_list(option->kind);
    bool good = true;
    struct view rest = view_of_string(option->fallback);
    while (good && rest.length > 0 && count < WORDS_MAX) {
        size_t length = list ? view_find_byte(rest, ' ') : rest.length;
        struct config_value *value = calloc(1, sizeof(*value) + length + 1);
        if (value == NULL) {
            loader->out_of_memory = true;
            good = false;
            break;
        }
        memcpy(value->text, rest.data, length);
        value->length = length;
        values[count++] = value;
        rest = view_skip(rest, length + 1);
    }
    if (good)
        good = config_option_set(loader, option, target, (const struct config_value *const *)values,
                                 count, loader->position);
    for (size_t i = 0; i < count; i++)
        free(values[i]);
    return good;
}

static bool is_one_text(enum config_kind kind)
{
    return kind == CONFIG_KIND_TEXT || kind == CONFIG_KIND_FILE || kind == CONFIG_KIND_SECRET ||
           kind == CONFIG_KIND_PATH || kind == CONFIG_KIND_CREDENTIAL ||
           kind == CONFIG_KIND_VARIABLE;
}

void config_section_default(struct config_loader *loader, enum config_section_name section,
                            void *target)
{
    for (size_t i = 0; i < config_sections[section].option_count; i++) {
        const struct config_option *option = &config_sections[section].options[i];
        if (option->fallback != NULL)
            (void)set_default(loader, option, target);
        else if (is_one_text(option->kind))
            *(struct view *)(void *)((char *)target + option->offset) = VIEW("");
        else if (option->kind == CONFIG_KIND_PROXY)
            *(struct config_url *)(void *)((char *)target + option->offset) = (struct config_url){
                .text = VIEW(""), .host = VIEW(""), .path = VIEW(""), .authority = VIEW("")};
    }
}
