/* Options whose values are texts: files, secrets, addresses, URLs, patterns. */
#include "build_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/config_internal.h"
#include "model/key.h"

static bool copy_text(const struct config_setting *setting, struct view text, struct view *copy)
{
    return config_copy(setting->loader->config, text, copy) || config_setting_lost_memory(setting);
}

/* ---- texts and files ------------------------------------------------------------------------- */

static bool set_text(const struct config_setting *setting)
{
    struct view text = config_value_view(setting->values[0]);
    if (text.length < setting->option->minimum || text.length > setting->option->maximum)
        return config_refuse(setting, setting->values[0], "too short or too long");
    for (size_t i = 0; i < text.length; i++)
        if (text.data[i] <= 0x20 || text.data[i] >= 0x7f)
            return config_refuse(setting, setting->values[0],
                                 "expected printable ASCII without spaces");
    return copy_text(setting, text, setting->field);
}

static bool set_path(const struct config_setting *setting)
{
    struct view text = config_value_view(setting->values[0]);
    if (text.length > 0 && text.data[0] != '/')
        return config_refuse(setting, setting->values[0], "expected an absolute path");
    return copy_text(setting, text, setting->field);
}

/* Looks whether the file can be read now, so that --check tells and not the first request. */
static bool check_file(const struct config_setting *setting, const struct config_value *value,
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
        return config_refuse(setting, value, "is a directory, expected a file");
    /* A pipe or socket has no mode that means anything. */
    if (secret && S_ISREG(status.st_mode) && (status.st_mode & 077) != 0)
        config_warning(setting->loader->errors, value->position,
                       "%s \"%.200s\": mode %04o lets others read or change it, 0600 is safe",
                       setting->option->name, value->text, (unsigned)(status.st_mode & 07777));
    return true;
}

static bool set_file_name(const struct config_setting *setting)
{
    struct view text = config_value_view(setting->values[0]);
    if (text.length == 0 && setting->option->minimum > 0)
        return config_refuse(setting, setting->values[0], "expected the name of a file");
    return copy_text(setting, text, setting->field);
}

static bool set_file(const struct config_setting *setting)
{
    struct view text = config_value_view(setting->values[0]);
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
static bool set_secret(const struct config_setting *setting)
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

static bool set_credential(const struct config_setting *setting)
{
    const struct config_value *value = setting->values[0];
    if (value->length == 0)
        return true;
    if (!config_is_credential(config_value_view(value)))
        return config_refuse(setting, value, "expected a credential's name, without slashes");
    if (!setting->loader->check_files)
        return copy_text(setting, config_value_view(value), setting->field);
    char *path = find_credential(value->text);
    if (path == NULL)
        return config_refuse(setting, value,
                             "no such credential, expected to be started by systemd with "
                             "LoadCredential=");
    bool good = copy_text(setting, view_of_string(path), setting->field);
    free(path);
    return good;
}

static bool set_variable(const struct config_setting *setting)
{
    const struct config_value *value = setting->values[0];
    if (value->length == 0)
        return true;
    if (!config_is_variable(config_value_view(value)))
        return config_refuse(setting, value, "expected the name of an environment variable");
    if (setting->loader->check_files) {
        const char *content = getenv(value->text);
        if (content == NULL || *content == '\0')
            return config_refuse(setting, value, "this environment variable is not set");
    }
    return copy_text(setting, config_value_view(value), setting->field);
}

static bool set_sha256(const struct config_setting *setting)
{
    const struct config_value *value = setting->values[0];
    /* Whoever pastes the key itself has just published it: say so without repeating it. */
    if (key_parse(config_value_view(value), NULL)) {
        config_error(setting->loader->errors, value->position,
                     "%s is the key itself, expected its SHA-256; make a new key with "
                     "\"podgatectl key generate\"",
                     setting->option->name);
        return false;
    }
    if (!view_parse_hex(config_value_view(value), setting->field, 32)) {
        config_error(setting->loader->errors, value->position,
                     "%s has %zu characters or others than digits and a to f, expected the 64 "
                     "hexadecimal digits of the key's SHA-256",
                     setting->option->name, value->length);
        return false;
    }
    return true;
}

/* ---- addresses and URLs ---------------------------------------------------------------------- */

static bool copy_address(const struct config_setting *setting, struct config_address *address)
{
    return copy_text(setting, address->text, &address->text) &&
           copy_text(setting, address->unix_path, &address->unix_path);
}

static bool set_address(const struct config_setting *setting)
{
    const struct config_value *value = setting->values[0];
    struct config_address address = {.text = VIEW(""), .unix_path = VIEW("")};
    if (value->length > 0) {
        const char *wrong = config_parse_address(config_value_view(value), &address);
        if (wrong != NULL)
            return config_refuse(setting, value, wrong);
        if (address.tls)
            return config_refuse(setting, value,
                                 "there is no TLS here, expected it without \"tls:\"");
    }
    if (!copy_address(setting, &address))
        return false;
    *(struct config_address *)setting->field = address;
    return true;
}

static bool set_addresses(const struct config_setting *setting)
{
    struct config_addresses *list = setting->field;
    list->items = config_allocate(setting->loader->config, setting->count * sizeof(*list->items));
    list->count = setting->count;
    if (list->items == NULL)
        return config_setting_lost_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        const struct config_value *value = setting->values[i];
        struct config_address address;
        const char *wrong = config_parse_address(config_value_view(value), &address);
        if (wrong != NULL)
            good = config_refuse(setting, value, wrong);
        else if (!copy_address(setting, &address))
            return false;
        else
            list->items[i] = address;
        for (size_t j = 0; wrong == NULL && j < i; j++)
            if (view_equal(list->items[i].text, list->items[j].text))
                good = config_refuse(setting, value, "is there twice, expected each address once");
    }
    return good;
}

/* host, or host:port where the port isn't the scheme's own (RFC 9110 section 7.2). */
static bool make_authority(const struct config_setting *setting, struct config_url *url)
{
    bool brackets = view_find_byte(url->host, ':') < url->host.length;
    char port[8] = "";
    if (url->port != (url->tls ? 443 : 80))
        snprintf(port, sizeof(port), ":%u", (unsigned)url->port);
    char *text = NULL;
    int length = asprintf(&text, "%s%.*s%s%s", brackets ? "[" : "", (int)url->host.length,
                          url->host.data, brackets ? "]" : "", port);
    if (length < 0)
        return config_setting_lost_memory(setting);
    bool good = copy_text(setting, view_make(text, (size_t)length), &url->authority);
    free(text);
    return good;
}

static bool set_url(const struct config_setting *setting, bool proxy)
{
    const struct config_value *value = setting->values[0];
    struct config_url url;
    if (value->length == 0 && proxy)
        return true;
    const char *wrong = config_parse_url(config_value_view(value), &url);
    if (wrong == NULL && proxy && (url.tls || url.path.length > 0))
        wrong = "expected \"http://host:port\"";
    if (wrong != NULL)
        return config_refuse(setting, value, wrong);
    if (!copy_text(setting, url.text, &url.text) || !copy_text(setting, url.host, &url.host) ||
        !copy_text(setting, url.path, &url.path) || !make_authority(setting, &url))
        return false;
    /* Only now: a field must not keep views into a value, which is freed soon. */
    *(struct config_url *)setting->field = url;
    return true;
}

static bool has_more_than(struct view text, struct view beginning)
{
    return view_starts_with(text, beginning) && text.length > beginning.length;
}

static bool set_store_url(const struct config_setting *setting)
{
    const struct config_value *value = setting->values[0];
    struct view text = config_value_view(value);
    if (view_starts_with(text, VIEW("rediss://")))
        return config_refuse(setting, value,
                             "TLS to Redis is not in Debian 12's client, expected "
                             "\"redis://\" to a stunnel on this machine");
    if (!has_more_than(text, VIEW("redis://")) && !has_more_than(text, VIEW("redis+unix:///")) &&
        !has_more_than(text, VIEW("redis+sentinel://")))
        return config_refuse(setting, value,
                             "expected \"redis://host:port/number\", \"redis+unix:///path\" or "
                             "\"redis+sentinel://host:port/master/number\"");
    if (view_find_byte(text, '@') < text.length)
        return config_refuse(setting, value,
                             "expected a URL without user name and password; those are the "
                             "options user and password_file");
    return copy_text(setting, text, setting->field);
}

/* ---- lists ----------------------------------------------------------------------------------- */

static bool set_networks(const struct config_setting *setting)
{
    struct address_network *items =
        config_allocate(setting->loader->config, setting->count * sizeof(*items));
    if (items == NULL)
        return config_setting_lost_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        enum address_result result =
            address_parse_network(config_value_view(setting->values[i]), &items[i]);
        if (result == ADDRESS_OK)
            continue;
        /* Its phrases are literals, so a NUL is behind them. */
        good = config_refuse(setting, setting->values[i],
                             result == ADDRESS_BAD ? "expected a network, such as \"10.0.0.0/8\""
                                                   : address_detail(result).data);
    }
    *(struct config_networks *)setting->field =
        (struct config_networks){.items = items, .count = setting->count};
    return good;
}

static bool set_texts(const struct config_setting *setting, bool (*is_good)(struct view),
                      const char *expected)
{
    struct view *items = config_allocate(setting->loader->config, setting->count * sizeof(*items));
    if (items == NULL)
        return config_setting_lost_memory(setting);
    bool good = true;
    for (size_t i = 0; i < setting->count; i++) {
        if (!is_good(config_value_view(setting->values[i])))
            good = config_refuse(setting, setting->values[i], expected);
        else if (!copy_text(setting, config_value_view(setting->values[i]), &items[i]))
            return false;
    }
    *(struct config_texts *)setting->field =
        (struct config_texts){.items = items, .count = setting->count};
    return good;
}

bool config_set_text(const struct config_setting *setting)
{
    switch (setting->option->kind) {
    case CONFIG_KIND_TEXT: return set_text(setting);
    case CONFIG_KIND_FILE: return set_file(setting);
    case CONFIG_KIND_SECRET: return set_secret(setting);
    case CONFIG_KIND_PATH: return set_path(setting);
    case CONFIG_KIND_CREDENTIAL: return set_credential(setting);
    case CONFIG_KIND_VARIABLE: return set_variable(setting);
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
    case CONFIG_KIND_SHA256: return set_sha256(setting);
    case CONFIG_KIND_DURATION:
    case CONFIG_KIND_SIZE:
    case CONFIG_KIND_COUNT:
    case CONFIG_KIND_BIG_COUNT:
    case CONFIG_KIND_BOOLEAN:
    case CONFIG_KIND_WORD:
    case CONFIG_KIND_OPERATIONS:
    case CONFIG_KIND_RATES:
    case CONFIG_KIND_DATE: break; /* config_value.c's */
    }
    return false;
}
