/* One option's value from text: the right form, within its bounds, into its field. */
#include "build_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/config_internal.h"
#include "model/key.h"

/* What one call of config_option_set() works with. */
struct setting {
    struct config_loader *loader;
    const struct config_option *option;
    void *field;
    const struct config_value *const *values;
    size_t count;
};

static struct view view_of(const struct config_value *value)
{
    return view_make(value->text, value->length);
}

static bool refuse(const struct setting *setting, const struct config_value *value,
                   const char *expected)
{
    config_error(setting->loader->errors, value->position, "%s \"%.100s\": %s",
                 setting->option->name, value->text, expected);
    return false;
}

static bool out_of_memory(const struct setting *setting)
{
    setting->loader->out_of_memory = true;
    return false;
}

static bool copy_text(const struct setting *setting, struct view text, struct view *copy)
{
    return config_copy(setting->loader->config, text, copy) || out_of_memory(setting);
}

/* ---- numbers -----------------------------------------------------------------------------------
 */

typedef const char *format_number(uint64_t number, char *text);

static const char *format_plain(uint64_t number, char *text)
{
    snprintf(text, CONFIG_UNIT_ROOM, "%llu", (unsigned long long)number);
    return text;
}

static bool check_bounds(const struct setting *setting, uint64_t number, format_number *format)
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

static bool set_count(const struct setting *setting, bool big)
{
    uint64_t number;
    if (!view_parse_u64(view_of(setting->values[0]), UINT64_MAX, &number))
        return refuse(setting, setting->values[0], "expected a whole number without a unit");
    if (!check_bounds(setting, number, format_plain))
        return false;
    if (big)
        *(uint64_t *)setting->field = number;
    else
        *(uint32_t *)setting->field = (uint32_t)number;
    return true;
}

static bool set_duration(const struct setting *setting)
{
    uint64_t duration_ms;
    if (!config_parse_duration(view_of(setting->values[0]), &duration_ms))
        return refuse(setting, setting->values[0],
                      "expected a duration with one of the units ms, s, m, h, d, such as \"30s\"");
    if (!check_bounds(setting, duration_ms, config_format_duration))
        return false;
    *(uint64_t *)setting->field = duration_ms;
    return true;
}

static bool set_size(const struct setting *setting)
{
    uint64_t size_bytes;
    if (!config_parse_size(view_of(setting->values[0]), &size_bytes))
        return refuse(setting, setting->values[0],
                      "expected a size with one of the units B, KiB, MiB, GiB, TiB, such as "
                      "\"256MiB\"");
    if (!check_bounds(setting, size_bytes, config_format_size))
        return false;
    *(uint64_t *)setting->field = size_bytes;
    return true;
}

static bool set_boolean(const struct setting *setting)
{
    struct view text = view_of(setting->values[0]);
    bool yes = view_equal(text, VIEW("true")) || view_equal(text, VIEW("on")) ||
               view_equal(text, VIEW("yes"));
    bool no = view_equal(text, VIEW("false")) || view_equal(text, VIEW("off")) ||
              view_equal(text, VIEW("no"));
    if (!yes && !no)
        return refuse(setting, setting->values[0], "expected true or false");
    *(bool *)setting->field = yes;
    return true;
}

static bool set_date(const struct setting *setting)
{
    if (!config_parse_date(view_of(setting->values[0]), setting->field))
        return refuse(setting, setting->values[0],
                      "expected a date, such as \"2027-01-31\", or a time of RFC 3339, such as "
                      "\"2027-01-31T18:00:00Z\"");
    return true;
}

/* ---- words -------------------------------------------------------------------------------------
 */

static bool refuse_word(const struct setting *setting, const struct config_value *value,
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
    return refuse(setting, value, expected);
}

static int find_word(const char *const *words, struct view text)
{
    for (int i = 0; words[i] != NULL; i++)
        if (view_equal(text, view_of_string(words[i])))
            return i;
    return -1;
}

static bool set_word(const struct setting *setting)
{
    int word = find_word(setting->option->words, view_of(setting->values[0]));
    if (word < 0)
        return refuse_word(setting, setting->values[0], setting->option->words);
    unsigned value = (unsigned)word;
    memcpy(setting->field, &value, sizeof(value));
    return true;
}

static bool set_operations(const struct setting *setting)
{
    const char *words[CONFIG_OPERATIONS + 1] = {NULL};
    for (unsigned i = 0; i < CONFIG_OPERATIONS; i++)
        words[i] = config_operation_text((enum config_operation)(1u << i));
    uint32_t operations = 0;
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        int word = find_word(words, view_of(setting->values[i]));
        if (word < 0)
            good = refuse_word(setting, setting->values[i], words);
        else
            operations |= 1u << word;
    }
    *(uint32_t *)setting->field = operations;
    return good;
}

/* ---- texts and files ---------------------------------------------------------------------------
 */

static bool set_text(const struct setting *setting)
{
    struct view text = view_of(setting->values[0]);
    if (text.length < setting->option->minimum || text.length > setting->option->maximum)
        return refuse(setting, setting->values[0], "too short or too long");
    for (size_t i = 0; i < text.length; i++)
        if (text.data[i] <= 0x20 || text.data[i] >= 0x7f)
            return refuse(setting, setting->values[0], "expected printable ASCII without spaces");
    return copy_text(setting, text, setting->field);
}

static bool set_path(const struct setting *setting)
{
    struct view text = view_of(setting->values[0]);
    if (text.length > 0 && text.data[0] != '/')
        return refuse(setting, setting->values[0], "expected an absolute path");
    return copy_text(setting, text, setting->field);
}

/* Looks whether the file can be read now, so that --check tells and not the first request. */
static bool check_file(const struct setting *setting, const struct config_value *value,
                       const char *path, bool secret)
{
    struct stat status;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0 || fstat(descriptor, &status) != 0) {
        config_error(setting->loader->errors, value->position,
                     "%s \"%.200s\": %s, expected a file that can be read", setting->option->name,
                     value->text, strerror(errno));
        if (descriptor >= 0)
            close(descriptor);
        return false;
    }
    close(descriptor);
    if (S_ISDIR(status.st_mode))
        return refuse(setting, value, "is a directory, expected a file");
    /* A pipe or socket has no mode that means anything. */
    if (secret && S_ISREG(status.st_mode) && (status.st_mode & 077) != 0)
        config_warning(setting->loader->errors, value->position,
                       "%s \"%.200s\": mode %04o lets others read or change it, 0600 is safe",
                       setting->option->name, value->text, (unsigned)(status.st_mode & 07777));
    return true;
}

static bool set_file_name(const struct setting *setting)
{
    struct view text = view_of(setting->values[0]);
    if (text.length == 0 && setting->option->minimum > 0)
        return refuse(setting, setting->values[0], "expected the name of a file");
    return copy_text(setting, text, setting->field);
}

static bool set_file(const struct setting *setting)
{
    struct view text = view_of(setting->values[0]);
    if (text.length > 0 && setting->loader->check_files &&
        !check_file(setting, setting->values[0], setting->values[0]->text, false))
        return false;
    return set_file_name(setting);
}

/* The path of a credential that systemd passed (LoadCredential=NAME:FILE), or NULL: there is none
 * of that name. The caller frees it. */
static char *find_credential(const char *name)
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    char *path = NULL;
    if (directory == NULL || asprintf(&path, "%s/%s", directory, name) < 0)
        return NULL;
    if (access(path, R_OK) == 0)
        return path;
    free(path);
    return NULL;
}

/* Under systemd the file itself belongs to root, and the service gets it as a credential of the
 * same name; so one configuration does for the service and for a shell. */
static bool set_secret(const struct setting *setting)
{
    const struct config_value *value = setting->values[0];
    const char *slash = strrchr(value->text, '/');
    const char *name = slash != NULL ? slash + 1 : value->text;
    char *path = setting->loader->check_files && *name != '\0' ? find_credential(name) : NULL;
    if (path != NULL) {
        bool good = copy_text(setting, view_of_string(path), setting->field);
        free(path);
        return good;
    }
    if (value->length > 0 && setting->loader->check_files &&
        !check_file(setting, value, value->text, true))
        return false;
    return set_file_name(setting);
}

static bool set_credential(const struct setting *setting)
{
    const struct config_value *value = setting->values[0];
    if (value->length == 0)
        return true;
    if (!config_is_credential(view_of(value)))
        return refuse(setting, value, "expected a credential's name, without slashes");
    if (!setting->loader->check_files)
        return copy_text(setting, view_of(value), setting->field);
    char *path = find_credential(value->text);
    if (path == NULL)
        return refuse(setting, value,
                      "no such credential, expected to be started by systemd with "
                      "LoadCredential=");
    bool good = copy_text(setting, view_of_string(path), setting->field);
    free(path);
    return good;
}

static bool set_variable(const struct setting *setting)
{
    const struct config_value *value = setting->values[0];
    if (value->length == 0)
        return true;
    if (!config_is_variable(view_of(value)))
        return refuse(setting, value, "expected the name of an environment variable");
    if (setting->loader->check_files) {
        const char *content = getenv(value->text);
        if (content == NULL || *content == '\0')
            return refuse(setting, value, "this environment variable is not set");
    }
    return copy_text(setting, view_of(value), setting->field);
}

static bool set_sha256(const struct setting *setting)
{
    const struct config_value *value = setting->values[0];
    /* Whoever pastes the key itself has just published it: say so without repeating it. */
    if (key_parse(view_of(value), NULL)) {
        config_error(setting->loader->errors, value->position,
                     "%s is the key itself, expected its SHA-256; make a new key with "
                     "\"podgatectl key generate\"",
                     setting->option->name);
        return false;
    }
    if (!view_parse_hex(view_of(value), setting->field, 32)) {
        config_error(setting->loader->errors, value->position,
                     "%s has %zu characters or others than digits and a to f, expected the 64 "
                     "hexadecimal digits of the key's SHA-256",
                     setting->option->name, value->length);
        return false;
    }
    return true;
}

/* ---- addresses and URLs ------------------------------------------------------------------------
 */

static bool copy_address(const struct setting *setting, struct config_address *address)
{
    return copy_text(setting, address->text, &address->text) &&
           copy_text(setting, address->unix_path, &address->unix_path);
}

static bool set_address(const struct setting *setting)
{
    const struct config_value *value = setting->values[0];
    struct config_address address = {.text = VIEW(""), .unix_path = VIEW("")};
    if (value->length > 0) {
        const char *wrong = config_parse_address(view_of(value), &address);
        if (wrong != NULL)
            return refuse(setting, value, wrong);
        if (address.tls)
            return refuse(setting, value, "there is no TLS here, expected it without \"tls:\"");
    }
    if (!copy_address(setting, &address))
        return false;
    *(struct config_address *)setting->field = address;
    return true;
}

static bool set_addresses(const struct setting *setting)
{
    struct config_addresses *list = setting->field;
    list->items = config_allocate(setting->loader->config, setting->count * sizeof(*list->items));
    list->count = setting->count;
    if (list->items == NULL)
        return out_of_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        const struct config_value *value = setting->values[i];
        struct config_address address;
        const char *wrong = config_parse_address(view_of(value), &address);
        if (wrong != NULL)
            good = refuse(setting, value, wrong);
        else if (!copy_address(setting, &address))
            return false;
        else
            list->items[i] = address;
        for (size_t j = 0; wrong == NULL && j < i; j++)
            if (view_equal(list->items[i].text, list->items[j].text))
                good = refuse(setting, value, "is there twice, expected each address once");
    }
    return good;
}

/* host, or host:port where the port isn't the scheme's own (RFC 9110 section 7.2). */
static bool make_authority(const struct setting *setting, struct config_url *url)
{
    bool brackets = view_find_byte(url->host, ':') < url->host.length;
    char port[8] = "";
    if (url->port != (url->tls ? 443 : 80))
        snprintf(port, sizeof(port), ":%u", (unsigned)url->port);
    char *text = NULL;
    int length = asprintf(&text, "%s%.*s%s%s", brackets ? "[" : "", (int)url->host.length,
                          url->host.data, brackets ? "]" : "", port);
    if (length < 0)
        return out_of_memory(setting);
    bool good = copy_text(setting, view_make(text, (size_t)length), &url->authority);
    free(text);
    return good;
}

static bool set_url(const struct setting *setting, bool proxy)
{
    const struct config_value *value = setting->values[0];
    struct config_url url;
    if (value->length == 0 && proxy)
        return true;
    const char *wrong = config_parse_url(view_of(value), &url);
    if (wrong == NULL && proxy && (url.tls || url.path.length > 0))
        wrong = "expected \"http://host:port\"";
    if (wrong != NULL)
        return refuse(setting, value, wrong);
    if (!copy_text(setting, url.text, &url.text) || !copy_text(setting, url.host, &url.host) ||
        !copy_text(setting, url.path, &url.path) || !make_authority(setting, &url))
        return false;
    /* Only now: a field must not keep views into a value, which is freed soon. */
    *(struct config_url *)setting->field = url;
    return true;
}

static bool set_store_url(const struct setting *setting)
{
    const struct config_value *value = setting->values[0];
    struct view text = view_of(value);
    if (view_starts_with(text, VIEW("rediss://")))
        return refuse(setting, value,
                      "TLS to Redis is not in Debian 12's client, expected "
                      "\"redis://\" to a stunnel on this machine");
    if (!view_starts_with(text, VIEW("redis://")) || text.length <= 8)
        return refuse(setting, value, "expected \"redis://host:port/number\"");
    if (view_find_byte(text, '@') < text.length)
        return refuse(setting, value, "expected a URL without user name and password");
    return copy_text(setting, text, setting->field);
}

/* ---- lists -------------------------------------------------------------------------------------
 */

static bool set_networks(const struct setting *setting)
{
    struct address_network *items =
        config_allocate(setting->loader->config, setting->count * sizeof(*items));
    if (items == NULL)
        return out_of_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        enum address_result result = address_parse_network(view_of(setting->values[i]), &items[i]);
        if (result == ADDRESS_OK)
            continue;
        /* Its phrases are literals, so a NUL is behind them. */
        good = refuse(setting, setting->values[i],
                      result == ADDRESS_BAD ? "expected a network, such as \"10.0.0.0/8\""
                                            : address_detail(result).data);
    }
    *(struct config_networks *)setting->field =
        (struct config_networks){.items = items, .count = setting->count};
    return good;
}

static bool set_texts(const struct setting *setting, bool (*is_good)(struct view),
                      const char *expected)
{
    struct view *items = config_allocate(setting->loader->config, setting->count * sizeof(*items));
    if (items == NULL)
        return out_of_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        if (!is_good(view_of(setting->values[i])))
            good = refuse(setting, setting->values[i], expected);
        else if (!copy_text(setting, view_of(setting->values[i]), &items[i]))
            return false;
    }
    *(struct config_texts *)setting->field =
        (struct config_texts){.items = items, .count = setting->count};
    return good;
}

static bool set_rates(const struct setting *setting)
{
    struct config_rates *rates = setting->field;
    rates->items = config_allocate(setting->loader->config, setting->count * sizeof(*rates->items));
    rates->count = setting->count;
    if (rates->items == NULL)
        return out_of_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        bool unit_bad;
        if (config_parse_rate(view_of(setting->values[i]), &rates->items[i], &unit_bad))
            continue;
        good = refuse(setting, setting->values[i],
                      unit_bad ? "the unit must be s, m or h"
                               : "expected a number of at least 1, a slash and a unit, such as "
                                 "\"100/s\"");
    }
    return good;
}

/* ---- all kinds ---------------------------------------------------------------------------------
 */

static bool set_by_kind(const struct setting *setting)
{
    switch (setting->option->kind) {
    case CONFIG_KIND_TEXT: return set_text(setting);
    case CONFIG_KIND_FILE: return set_file(setting);
    case CONFIG_KIND_SECRET: return set_secret(setting);
    case CONFIG_KIND_PATH: return set_path(setting);
    case CONFIG_KIND_CREDENTIAL: return set_credential(setting);
    case CONFIG_KIND_VARIABLE: return set_variable(setting);
    case CONFIG_KIND_DURATION: return set_duration(setting);
    case CONFIG_KIND_SIZE: return set_size(setting);
    case CONFIG_KIND_COUNT: return set_count(setting, false);
    case CONFIG_KIND_BIG_COUNT: return set_count(setting, true);
    case CONFIG_KIND_BOOLEAN: return set_boolean(setting);
    case CONFIG_KIND_WORD: return set_word(setting);
    case CONFIG_KIND_ADDRESS: return set_address(setting);
    case CONFIG_KIND_ADDRESSES: return set_addresses(setting);
    case CONFIG_KIND_URL: return set_url(setting, false);
    case CONFIG_KIND_PROXY: return set_url(setting, true);
    case CONFIG_KIND_STORE_URL: return set_store_url(setting);
    case CONFIG_KIND_NETWORKS: return set_networks(setting);
    case CONFIG_KIND_ENDPOINTS:
        return set_texts(setting, config_is_endpoint_pattern,
                         "expected an endpoint's id, \"prefix*\" or \"*\"");
    case CONFIG_KIND_SERVER_NAMES:
        return set_texts(setting, config_is_server_name,
                         "expected a host name such as \"a.example\" or \"*.example\"");
    case CONFIG_KIND_ORIGINS:
        return set_texts(setting, config_is_origin,
                         "expected an origin such as \"https://app.example\", without a path, or "
                         "\"*\"");
    case CONFIG_KIND_OPERATIONS: return set_operations(setting);
    case CONFIG_KIND_RATES: return set_rates(setting);
    case CONFIG_KIND_SHA256: return set_sha256(setting);
    case CONFIG_KIND_DATE: return set_date(setting);
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
    struct setting setting = {.loader = loader, .option = option, .values = values, .count = count};
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
