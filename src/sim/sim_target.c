#include "build_config.h"

#include "sim/sim_target.h"

#include <string.h>

void target_parse(struct target *target, struct sim_text text)
{
    const char *at = text.data;
    const char *end = at + text.length;
    memset(target, 0, sizeof *target);
    for (size_t i = 0; i < TARGET_SEGMENTS; i++)
        target->segment[i] = sim_text_of("");
    target->query = sim_text_of("");
    if (text.length && *at != '/') {
        const char *authority = memmem(at, text.length, "://", 3);
        at = authority ? memchr(authority + 3, '/', (size_t)(end - authority - 3)) : NULL;
        if (!at)
            return;
    }
    const char *query = memchr(at, '?', (size_t)(end - at));
    if (query) {
        target->query = (struct sim_text){query + 1, (size_t)(end - query - 1)};
        end = query;
    }
    while (at < end) {
        while (at < end && *at == '/')
            at++;
        if (at == end)
            return;
        const char *slash = memchr(at, '/', (size_t)(end - at));
        const char *stop = slash ? slash : end;
        if (target->count == TARGET_SEGMENTS) {
            target->count++;
            return;
        }
        target->segment[target->count++] = (struct sim_text){at, (size_t)(stop - at)};
        at = stop;
    }
}

bool target_query(const struct target *target, const char *name, struct sim_text *value)
{
    const char *at = target->query.data;
    const char *end = at + target->query.length;
    size_t name_length = strlen(name);
    while (at < end) {
        const char *stop = memchr(at, '&', (size_t)(end - at));
        if (!stop)
            stop = end;
        if ((size_t)(stop - at) > name_length && memcmp(at, name, name_length) == 0 &&
            at[name_length] == '=') {
            *value = (struct sim_text){at + name_length + 1, (size_t)(stop - at) - name_length - 1};
            return true;
        }
        at = stop + 1;
    }
    return false;
}

int64_t target_query_integer(const struct target *target, const char *name, int64_t otherwise)
{
    struct sim_text value;
    int64_t number;
    if (!target_query(target, name, &value))
        return otherwise;
    for (size_t i = 0; i < value.length; i++) {
        if (value.data[i] < '0' || value.data[i] > '9')
            return -1;
    }
    return sim_json_integer(value, &number) ? number : -1;
}
