#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "process/operator_private.h"

static const char *const fate_texts[STORE_FATES] = {
    [STORE_FATE_NONE] = "NONE",       [STORE_FATE_KEPT] = "KEPT",
    [STORE_FATE_EXPIRED] = "EXPIRED", [STORE_FATE_TOO_LARGE] = "TOO_LARGE",
    [STORE_FATE_EVICTED] = "EVICTED", [STORE_FATE_DELETED] = "DELETED",
};

json_t *operator_json_text(struct view text)
{
    json_t *value = json_stringn(text.data ? text.data : "", text.length);
    char *copy;

    if (value) {
        return value;
    }
    /* Something foreign lies in the store, or memory is short. */
    copy = malloc(text.length + 1);
    if (!copy) {
        return NULL;
    }
    for (size_t i = 0; i < text.length; i++) {
        copy[i] = (signed char)text.data[i] < 0 ? '?' : text.data[i];
    }
    value = json_stringn(copy, text.length);
    free(copy);
    return value;
}

json_t *operator_json_time(uint64_t wall_ms)
{
    char text[CLOCK_RFC3339_LENGTH];

    if (wall_ms == 0) {
        return json_null();
    }
    clock_format_rfc3339(wall_ms, text);
    return json_stringn(text, sizeof text);
}

json_t *operator_json_hex(const unsigned char *bytes, size_t count)
{
    char storage[2 * STORE_DIGEST_BYTES];
    struct builder text;
    json_t *value;

    builder_init(&text, storage, sizeof storage);
    builder_append_hex_bytes(&text, bytes, count);
    value = builder_failed(&text) ? NULL : json_stringn(text.data, text.length);
    builder_clear(&text);
    return value;
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* What upstream didn't say is null. */
static json_t *span(uint64_t span_ms)
{
    return span_ms == UINT64_MAX ? json_null() : number(span_ms);
}

/* An array or member that could not be made leaves the object incomplete: the answer fails then as
 * a whole, rather than showing half a record. */
static json_t *whole(json_t *object, bool good)
{
    if (good) {
        return object;
    }
    json_decref(object);
    return NULL;
}

const char *operator_kind_text(enum store_kind kind)
{
    return kind == STORE_KIND_RUNSYNC ? "runsync" : "run";
}

const char *operator_submit_text(enum store_submit_operation operation)
{
    switch (operation) {
    case STORE_SUBMIT_RUN: return "run";
    case STORE_SUBMIT_RUNSYNC: return "runsync";
    case STORE_SUBMIT_RETRY: return "retry";
    }
    return "";
}

bool operator_fate_parse(struct view text, enum store_fate *fate)
{
    for (size_t i = 0; i < STORE_FATES; i++) {
        if (view_equal(text, view_of_string(fate_texts[i]))) {
            *fate = (enum store_fate)i;
            return true;
        }
    }
    return false;
}

struct member {
    const char *name;
    json_t *value;
};

/* Puts all members in, in order; their references pass over. */
static bool put(json_t *object, const struct member *members, size_t count)
{
    bool good = object != NULL;

    for (size_t i = 0; i < count; i++) {
        good = json_object_set_new(object, members[i].name, members[i].value) == 0 && good;
    }
    return good;
}

static bool put_schedule(json_t *object, const struct store_job *job)
{
    const struct member members[] = {
        {"due", operator_json_time(job->due_ms)},
        {"deadline", operator_json_time(job->deadline_ms)},
        {"missing_since", operator_json_time(job->missing_since_ms)},
        {"missing_count", number(job->missing_count)},
        {"failure_count", number(job->failure_count)},
        {"cancel_wanted", json_boolean(job->cancel_wanted)},
        {"purged", json_boolean(job->purged)},
    };

    return put(object, members, ARRAY_LENGTH(members));
}

static bool put_result(json_t *object, const struct store_job *job)
{
    bool is_kept = job->fate == STORE_FATE_KEPT;
    const struct member members[] = {
        {"fate", json_string(fate_texts[job->fate])},
        {"expires", operator_json_time(job->expires_ms)},
        {"execution_ms", span(job->execution_ms)},
        {"delay_ms", span(job->delay_ms)},
        {"result_bytes", number(job->result_bytes)},
        {"stored_bytes", number(job->stored_bytes)},
        {"encoding", json_string(job->encoding == STORE_ENCODING_ZSTD ? "zstd" : "identity")},
        {"sha256", is_kept ? operator_json_hex(job->digest, sizeof job->digest) : json_null()},
        {"input_bytes", number(job->input_bytes)},
        {"chunk_count", number(job->chunk_count)},
    };

    return put(object, members, ARRAY_LENGTH(members));
}

json_t *operator_json_job(const struct store_job *job)
{
    json_t *object = json_object();
    const struct member members[] = {
        {"endpoint", operator_json_text(job->endpoint)},
        {"id", operator_json_text(job->id)},
        {"upstream_id", operator_json_text(job->upstream_id)},
        {"team", operator_json_text(job->team)},
        {"key", operator_json_text(job->key)},
        {"kind", json_string(operator_kind_text(job->kind))},
        {"state", json_string(job_state_text(job->state))},
        {"generation", number(job->generation)},
        {"submitted", operator_json_time(job->submitted_ms)},
        {"ended", operator_json_time(job->ended_ms)},
        {"ttl_ms", number(job->ttl_ms)},
    };
    bool good = put(object, members, ARRAY_LENGTH(members));

    good = put_result(object, job) && good;
    return whole(object, put_schedule(object, job) && good);
}

json_t *operator_json_submit(const struct store_submit *submit)
{
    json_t *object = json_object();
    const struct member members[] = {
        {"submit", operator_json_text(submit->id)},
        {"team", operator_json_text(submit->team)},
        {"key", operator_json_text(submit->key)},
        {"endpoint", operator_json_text(submit->endpoint)},
        {"operation", json_string(operator_submit_text(submit->operation))},
        {"job", submit->job.length > 0 ? operator_json_text(submit->job) : json_null()},
        {"sent", operator_json_time(submit->sent_ms)},
        {"sha256", operator_json_hex(submit->digest, sizeof submit->digest)},
        {"has_idempotency_key", json_boolean(submit->idempotency_key.length > 0)},
        {"instance", operator_json_text(submit->instance)},
        {"note", operator_json_text(submit->note)},
    };

    return whole(object, put(object, members, ARRAY_LENGTH(members)));
}

json_t *operator_json_counts(const struct store_counts *counts)
{
    json_t *object = json_object();
    json_t *fates = json_object();
    const struct member members[] = {
        {"jobs", number(counts->jobs)},
        {"outstanding", number(counts->outstanding)},
        {"results", number(counts->results)},
        {"stored_bytes", number(counts->result_bytes)},
        {"unknown_submits", number(counts->unknown_submits)},
        {"lost", number(counts->lost)},
        {"ttl_expired", number(counts->ttl_expired)},
        {"spooled", number(counts->spooled)},
    };
    bool good = put(object, members, ARRAY_LENGTH(members));

    for (size_t i = 0; i < STORE_FATES; i++) {
        good = json_object_set_new(fates, fate_texts[i], number(counts->by_fate[i])) == 0 && good;
    }
    return whole(object, json_object_set_new(object, "fates", fates) == 0 && good);
}
