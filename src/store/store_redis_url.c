#include "build_config.h"

#include <string.h>

#include "store/store_redis.h"

static const char expected[] = "expected \"redis://host[:port][/db]\", "
                               "\"redis+unix:///path[?db=N]\" or "
                               "\"redis+sentinel://host[:port][,host[:port]...]/master[/db]\"";

static bool is_name(struct view text)
{
    for (size_t i = 0; i < text.length; i++) {
        unsigned char byte = (unsigned char)text.data[i];

        if (byte <= ' ' || byte >= 127 || byte == '/' || byte == '@' || byte == '?' ||
            byte == '#' || byte == '%' || byte == ',') {
            return false;
        }
    }
    return text.length > 0;
}

static bool take_text(struct view text, char *out, size_t capacity)
{
    if (text.length == 0 || text.length >= capacity) {
        return false;
    }
    memcpy(out, text.data, text.length);
    out[text.length] = '\0';
    return true;
}

static bool take_database(struct view text, unsigned *database)
{
    uint64_t number = 0;

    if (!view_parse_u64(text, 65535, &number)) {
        return false;
    }
    *database = (unsigned)number;
    return true;
}

/* "host", "host:port" or "[address]:port". */
static bool take_host(struct view text, uint16_t otherwise, struct redis_host *host)
{
    size_t end = view_find_byte(text, ':');
    struct view name = view_first(text, end);
    struct view port = view_skip(text, end);
    uint64_t number = otherwise;

    if (text.length > 0 && text.data[0] == '[') {
        end = view_find_byte(text, ']');
        if (end >= text.length) {
            return false;
        }
        name = view_skip(view_first(text, end), 1);
        port = view_skip(text, end + 1);
        if (view_find_byte(name, ':') == name.length) {
            return false;
        }
    }
    if (port.length > 0 && (port.data[0] != ':' ||
                            !view_parse_u64(view_skip(port, 1), 65535, &number) || number == 0)) {
        return false;
    }
    host->port = (uint16_t)number;
    return is_name(name) && take_text(name, host->name, sizeof host->name);
}

static bool parse_unix(struct view rest, struct redis_address *address)
{
    size_t end = view_find_byte(rest, '?');
    struct view path = view_first(rest, end);
    struct view query = view_skip(rest, end + 1);

    address->is_unix = true;
    if (path.length == 0 || path.data[0] != '/' || memchr(path.data, '\0', path.length)) {
        return false;
    }
    if (end < rest.length && !(view_starts_with(query, VIEW("db=")) &&
                               take_database(view_skip(query, 3), &address->database))) {
        return false;
    }
    return take_text(path, address->path, sizeof address->path);
}

static bool parse_tcp(struct view rest, struct redis_address *address)
{
    size_t end = view_find_byte(rest, '/');
    struct view database = view_skip(rest, end + 1);

    address->host_count = 1;
    return take_host(view_first(rest, end), 6379, &address->hosts[0]) &&
           (database.length == 0 || take_database(database, &address->database));
}

static bool parse_sentinel(struct view rest, struct redis_address *address)
{
    size_t end = view_find_byte(rest, '/');
    struct view hosts = view_first(rest, end);
    struct view master = view_skip(rest, end + 1);
    struct view database;

    address->is_sentinel = true;
    end = view_find_byte(master, '/');
    database = view_skip(master, end + 1);
    master = view_first(master, end);
    if (!is_name(master) || !take_text(master, address->master, sizeof address->master) ||
        (database.length > 0 && !take_database(database, &address->database))) {
        return false;
    }
    for (;;) {
        size_t comma = view_find_byte(hosts, ',');

        if (address->host_count >= REDIS_HOSTS_MAXIMUM ||
            !take_host(view_first(hosts, comma), 26379, &address->hosts[address->host_count++])) {
            return false;
        }
        if (comma >= hosts.length) {
            return true;
        }
        hosts = view_skip(hosts, comma + 1);
    }
}

const char *redis_address_parse(struct view url, struct redis_address *address)
{
    static const struct {
        struct view scheme;
        bool (*parse)(struct view rest, struct redis_address *address);
    } forms[] = {
        {VIEW_INIT("redis://"), parse_tcp},
        {VIEW_INIT("redis+unix://"), parse_unix},
        {VIEW_INIT("redis+sentinel://"), parse_sentinel},
    };

    memset(address, 0, sizeof *address);
    if (view_starts_with(url, VIEW("rediss://"))) {
        return "TLS to Redis is not in this client: expected \"redis://\" to a stunnel on this "
               "machine";
    }
    for (size_t i = 0; i < ARRAY_LENGTH(forms); i++) {
        if (view_starts_with(url, forms[i].scheme)) {
            return forms[i].parse(view_skip(url, forms[i].scheme.length), address) ? NULL
                                                                                   : expected;
        }
    }
    return expected;
}
