#include "build_config.h"

#include <hiredis/hiredis.h>
#include <string.h>

#include "store/store_redis.h"

static bool is_field(struct view line, struct view name, struct view *value)
{
    if (line.length <= name.length || !view_starts_with(line, name) ||
        line.data[name.length] != ':') {
        return false;
    }
    *value = view_skip(line, name.length + 1);
    return true;
}

static void take(struct view value, char *out, size_t capacity)
{
    value = view_first(value, capacity - 1);
    if (value.length > 0) {
        memcpy(out, value.data, value.length);
    }
    out[value.length] = '\0';
}

/* "7.0.15" to 70015. */
static unsigned read_version(struct view text)
{
    uint64_t version = 0;

    for (unsigned i = 0; i < 3; i++) {
        size_t end = view_find_byte(text, '.');
        uint64_t part = 0;

        if (text.length > 0 && !view_parse_u64(view_first(text, end), 99, &part)) {
            return i == 0 ? 0 : (unsigned)(version * (i == 1 ? 10000 : 100));
        }
        version = version * 100 + part;
        text = view_skip(text, end + 1);
    }
    return (unsigned)version;
}

static void take_line(struct redis_facts *facts, struct view line)
{
    struct view value;

    if (is_field(line, VIEW("redis_version"), &value)) {
        facts->has_info = true;
        facts->version = read_version(value);
        take(value, facts->version_text, sizeof facts->version_text);
    } else if (is_field(line, VIEW("cluster_enabled"), &value)) {
        facts->is_cluster = view_equal(value, VIEW("1"));
    } else if (is_field(line, VIEW("role"), &value)) {
        facts->is_replica = !view_equal(value, VIEW("master"));
    } else if (is_field(line, VIEW("loading"), &value)) {
        facts->is_loading = view_equal(value, VIEW("1"));
    } else if (is_field(line, VIEW("aof_enabled"), &value)) {
        facts->aof_enabled = view_equal(value, VIEW("1"));
    } else if (is_field(line, VIEW("maxmemory"), &value)) {
        if (!view_parse_u64(value, UINT64_MAX, &facts->maxmemory_bytes)) {
            facts->maxmemory_bytes = 0;
        }
    } else if (is_field(line, VIEW("maxmemory_policy"), &value)) {
        take(value, facts->policy, sizeof facts->policy);
    } else if (is_field(line, VIEW("run_id"), &value)) {
        take(value, facts->run_id, sizeof facts->run_id);
    } else if (is_field(line, VIEW("master_replid"), &value)) {
        take(value, facts->replication_id, sizeof facts->replication_id);
    }
}

void redis_facts_read_info(struct redis_facts *facts, struct view info)
{
    while (info.length > 0) {
        size_t end = view_find_byte(info, '\n');
        struct view line = view_first(info, end);

        if (line.length > 0 && line.data[line.length - 1] == '\r') {
            line.length--;
        }
        take_line(facts, line);
        info = view_skip(info, end + 1);
    }
}

void redis_facts_read_config(struct redis_facts *facts, struct view name, struct view value)
{
    if (view_equal(name, VIEW("appendfsync"))) {
        facts->fsync = view_equal(value, VIEW("always"))     ? REDIS_FSYNC_ALWAYS
                       : view_equal(value, VIEW("everysec")) ? REDIS_FSYNC_EVERYSEC
                                                             : REDIS_FSYNC_NO;
    } else if (view_equal(name, VIEW("maxmemory-policy"))) {
        take(value, facts->policy, sizeof facts->policy);
    }
}

void redis_facts_read_time(struct redis_facts *facts, const struct redisReply *answer)
{
    uint64_t seconds = 0;
    uint64_t microseconds = 0;

    if (answer->type == REDIS_REPLY_ARRAY && answer->elements == 2 &&
        answer->element[0]->type == REDIS_REPLY_STRING &&
        answer->element[1]->type == REDIS_REPLY_STRING &&
        view_parse_u64(view_make(answer->element[0]->str, answer->element[0]->len), UINT32_MAX,
                       &seconds) &&
        view_parse_u64(view_make(answer->element[1]->str, answer->element[1]->len), 999999,
                       &microseconds)) {
        facts->time_ms = seconds * 1000 + microseconds / 1000;
    }
}

enum store_durability redis_facts_durability(const struct redis_facts *facts)
{
    if (!facts->aof_enabled || redis_facts_may_evict(facts)) {
        return STORE_NOT_DURABLE;
    }
    switch (facts->fsync) {
    case REDIS_FSYNC_ALWAYS: return STORE_DURABLE;
    case REDIS_FSYNC_EVERYSEC: return STORE_DURABLE_EVERYSEC;
    case REDIS_FSYNC_UNKNOWN: /* CONFIG may be forbidden: what isn't known isn't promised */
    case REDIS_FSYNC_NO: break;
    }
    return STORE_NOT_DURABLE;
}

bool redis_facts_may_evict(const struct redis_facts *facts)
{
    return strcmp(facts->policy, "noeviction") != 0;
}

const char *redis_facts_refusal(const struct redis_facts *facts)
{
    if (facts->is_cluster) {
        return "this is Redis Cluster, which podgate does not speak; use a single Redis, with "
               "Sentinel for failover";
    }
    if (facts->has_info && facts->version != 0 && facts->version < REDIS_VERSION_MINIMUM) {
        return "this Redis is too old; podgate needs 6.2 or later";
    }
    return NULL;
}

const char *redis_fsync_text(enum redis_fsync fsync)
{
    switch (fsync) {
    case REDIS_FSYNC_ALWAYS: return "always";
    case REDIS_FSYNC_EVERYSEC: return "everysec";
    case REDIS_FSYNC_NO: return "no";
    case REDIS_FSYNC_UNKNOWN: break;
    }
    return "unknown";
}
