#include "build_config.h"

#include "store/store_doctor.h"

#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/store_redis.h"

enum { STEP_MS = 1000, SKEW_MS = 2000 };

struct doctor {
    store_doctor_tell *tell;
    void *argument;
    struct redis_store *store;
    struct redis_facts facts;
};

static void say(struct doctor *doctor, enum store_doctor_level level, const char *what,
                const char *format, ...) __attribute__((format(printf, 4, 5)));

static void say(struct doctor *doctor, enum store_doctor_level level, const char *what,
                const char *format, ...)
{
    va_list arguments;
    char *text = NULL;

    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) >= 0) {
        doctor->tell(doctor->argument, level, what, text);
        free(text);
    }
    va_end(arguments);
}

static void look_at_version(struct doctor *doctor)
{
    const char *refusal = redis_facts_refusal(&doctor->facts);

    if (!doctor->facts.has_info) {
        say(doctor, STORE_DOCTOR_WARNING, "version",
            "the user may not use INFO, so that version, role and persistence are unknown");
    } else if (refusal) {
        say(doctor, STORE_DOCTOR_BAD, "version", "%s (Redis %s)", refusal,
            doctor->facts.version_text);
    } else {
        say(doctor, STORE_DOCTOR_GOOD, "version", "Redis %s", doctor->facts.version_text);
    }
    if (doctor->facts.is_replica) {
        say(doctor, STORE_DOCTOR_BAD, "role",
            "this is a replica, which takes no writes; give the master's address, or "
            "redis+sentinel://");
    }
    if (doctor->facts.is_loading) {
        say(doctor, STORE_DOCTOR_WARNING, "role", "it is still loading its data");
    }
}

static void look_at_persistence(struct doctor *doctor, bool require_durable)
{
    enum store_doctor_level level = require_durable ? STORE_DOCTOR_BAD : STORE_DOCTOR_WARNING;

    if (!doctor->facts.aof_enabled) {
        say(doctor, level, "persistence",
            "appendonly is off: a crash of Redis loses acknowledged jobs; set appendonly yes and "
            "appendfsync always");
        return;
    }
    switch (doctor->facts.fsync) {
    case REDIS_FSYNC_ALWAYS:
        say(doctor, STORE_DOCTOR_GOOD, "persistence", "appendonly yes, appendfsync always");
        return;
    case REDIS_FSYNC_EVERYSEC:
        say(doctor, level, "persistence",
            "appendfsync everysec: a crash of the machine loses the last second's jobs; set "
            "appendfsync always");
        return;
    case REDIS_FSYNC_NO:
        say(doctor, level, "persistence",
            "appendfsync no: a crash of the machine loses jobs; set appendfsync always");
        return;
    case REDIS_FSYNC_UNKNOWN:
        say(doctor, level, "persistence",
            "the user may not use CONFIG GET, so that appendfsync is unknown; allow "
            "+config|get");
        return;
    }
}

static void look_at_memory(struct doctor *doctor)
{
    if (!redis_facts_may_evict(&doctor->facts)) {
        say(doctor, STORE_DOCTOR_GOOD, "eviction", "maxmemory-policy noeviction");
    } else if (doctor->facts.policy[0] == '\0') {
        say(doctor, STORE_DOCTOR_WARNING, "eviction", "maxmemory-policy is unknown");
    } else {
        say(doctor, doctor->facts.maxmemory_bytes > 0 ? STORE_DOCTOR_BAD : STORE_DOCTOR_WARNING,
            "eviction",
            "maxmemory-policy %s lets Redis drop jobs and results; set maxmemory-policy "
            "noeviction",
            doctor->facts.policy);
    }
}

static void look_at_clock(struct doctor *doctor)
{
    uint64_t ours = doctor->facts.asked_wall_ms;
    uint64_t theirs = doctor->facts.time_ms;
    uint64_t skew = ours > theirs ? ours - theirs : theirs - ours;

    if (theirs == 0) {
        return;
    }
    say(doctor, skew > SKEW_MS ? STORE_DOCTOR_WARNING : STORE_DOCTOR_GOOD, "clock",
        "Redis's clock is %llu.%03llu s %s this machine's", (unsigned long long)(skew / 1000),
        (unsigned long long)(skew % 1000), theirs > ours ? "ahead of" : "behind");
}

static void look_at(struct doctor *doctor, const struct config *config)
{
    const char *failure = redis_facts_ask(doctor->store, &doctor->facts, STEP_MS);

    if (failure) {
        say(doctor, STORE_DOCTOR_BAD, "connection", "%.*s: %s", (int)config->store.url.length,
            config->store.url.data, failure);
        return;
    }
    say(doctor, STORE_DOCTOR_GOOD, "connection", "%.*s answers", (int)config->store.url.length,
        config->store.url.data);
    look_at_version(doctor);
    look_at_persistence(doctor, config->store.require_durable);
    look_at_memory(doctor);
    look_at_clock(doctor);
    if (doctor->facts.write_problem[0] != '\0') {
        say(doctor, STORE_DOCTOR_BAD, "writing", "%s", doctor->facts.write_problem);
    } else {
        say(doctor, STORE_DOCTOR_GOOD, "writing", "scripts run, keys under \"%s:\" can be written",
            doctor->store->prefix);
    }
}

void store_redis_doctor(const struct config *config, store_doctor_tell *tell, void *argument)
{
    struct doctor doctor = {.tell = tell, .argument = argument};
    char *problem = NULL;

    doctor.store = redis_settings_create(config, &problem);
    if (!doctor.store) {
        tell(argument, STORE_DOCTOR_BAD, "settings", problem ? problem : "out of memory");
        free(problem);
        return;
    }
    look_at(&doctor, config);
    redis_settings_destroy(doctor.store);
}
