#include "build_config.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "store/store_redis.h"

/* What scripts answer is [result, now, name, value, name, value...]. Who can write to Redis can
 * make it answer anything, so that nothing here is taken for granted: types, counts and numbers are
 * looked at, and no read goes past what the reply says it has. */

enum { JOB_WORDS = 29, SUBMIT_WORDS = 14, COUNT_WORDS = 13, ID_WORD_MAXIMUM = 640 };

static const char *const fate_texts[STORE_FATES] = {"none",    "kept",    "too_large",
                                                    "expired", "evicted", "deleted"};

/* Memory for one decoded answer: taken once, for the most that the answer can need. */
struct arena {
    char *bytes;
    size_t left;
};

static void *take(struct arena *arena, size_t count, size_t size)
{
    size_t bytes = (count * size + 15) / 16 * 16;
    void *result = arena->bytes;

    if (bytes > arena->left) {
        return NULL; /* can't be: see size_of() */
    }
    arena->bytes += bytes;
    arena->left -= bytes;
    return result;
}

static bool is_bytes(const struct redisReply *reply)
{
    return reply && (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS);
}

static bool is_array(const struct redisReply *reply)
{
    return reply && reply->type == REDIS_REPLY_ARRAY;
}

static struct view bytes_of(const struct redisReply *reply)
{
    return is_bytes(reply) ? view_make(reply->str, reply->len) : VIEW("");
}

static bool keep(struct arena *arena, const struct redisReply *reply, struct view *out)
{
    struct view bytes = bytes_of(reply);
    char *copy = take(arena, bytes.length + 1, 1);

    if (!copy) {
        return false;
    }
    if (bytes.length > 0) {
        memcpy(copy, bytes.data, bytes.length);
    }
    *out = view_make(copy, bytes.length);
    return true;
}

/* Three levels of arrays are all that scripts make; deeper ones are never looked into. A body isn't
 * kept here, though it counts. */
static size_t size_of(const struct redisReply *answer)
{
    size_t bytes = 256;

    for (size_t i = 0; i < answer->elements; i++) {
        const struct redisReply *value = answer->element[i];

        bytes += 64;
        if (is_bytes(value) && value->len <= ID_WORD_MAXIMUM) {
            bytes += value->len;
        }
        for (size_t j = 0; is_array(value) && j < value->elements; j++) {
            const struct redisReply *item = value->element[j];

            bytes += 64 + sizeof(struct redis_oldest);
            if (is_bytes(item) && item->len <= ID_WORD_MAXIMUM) {
                bytes += item->len;
            }
            if (is_array(item)) {
                bytes += sizeof(struct store_job) + sizeof(struct store_submit);
            }
            for (size_t k = 0; is_array(item) && k < item->elements; k++) {
                bytes += 32 + (is_bytes(item->element[k]) ? item->element[k]->len : 0);
            }
        }
    }
    return bytes;
}

/* ---- records --------------------------------------------------------------------------------- */

/* One after the other reads the words of a record; the first wrong one spoils it. */
struct words {
    const struct redisReply *record;
    size_t at;
    struct arena *arena;
    bool is_bad;
};

static const struct redisReply *next_word(struct words *words)
{
    const struct redisReply *word = words->record->element[words->at++];

    if (!word || (!is_bytes(word) && word->type != REDIS_REPLY_NIL) ||
        (is_bytes(word) && word->len > ID_WORD_MAXIMUM)) {
        words->is_bad = true;
        return NULL;
    }
    return word;
}

static struct view next_view(struct words *words)
{
    struct view out = VIEW("");

    if (!keep(words->arena, next_word(words), &out)) {
        words->is_bad = true;
    }
    return out;
}

static uint64_t next_number(struct words *words, uint64_t maximum, uint64_t otherwise)
{
    const struct redisReply *word = next_word(words);
    uint64_t number = otherwise;

    if (is_bytes(word) && !view_parse_u64(bytes_of(word), maximum, &number)) {
        words->is_bad = true;
        return otherwise;
    }
    return number;
}

static void next_digest(struct words *words, unsigned char *digest)
{
    struct view bytes = bytes_of(next_word(words));

    memset(digest, 0, STORE_DIGEST_BYTES);
    if (bytes.length == STORE_DIGEST_BYTES) {
        memcpy(digest, bytes.data, STORE_DIGEST_BYTES);
    } else if (bytes.length > 0) {
        words->is_bad = true;
    }
}

static enum job_state next_state(struct words *words)
{
    enum job_state state = JOB_IN_QUEUE;

    if (!job_state_parse_ledger(bytes_of(next_word(words)), &state)) {
        words->is_bad = true;
    }
    return state;
}

static enum store_fate next_fate(struct words *words)
{
    struct view text = bytes_of(next_word(words));

    for (unsigned i = 0; i < STORE_FATES; i++) {
        if (view_equal(text, view_of_string(fate_texts[i]))) {
            return (enum store_fate)i;
        }
    }
    words->is_bad = true;
    return STORE_FATE_NONE;
}

/* In the order of out() in the scripts. */
static bool read_job(struct arena *arena, const struct redisReply *record, struct store_job *job)
{
    struct words words = {.record = record, .arena = arena};

    if (!is_array(record) || record->elements != JOB_WORDS) {
        return false;
    }
    job->endpoint = next_view(&words);
    job->id = next_view(&words);
    job->upstream_id = next_view(&words);
    if (job->upstream_id.length == 0) {
        job->upstream_id = job->id;
    }
    job->team = next_view(&words);
    job->key = next_view(&words);
    job->kind = (enum store_kind)next_number(&words, STORE_KIND_RUNSYNC, STORE_KIND_RUN);
    job->state = next_state(&words);
    job->fate = next_fate(&words);
    job->generation = next_number(&words, UINT64_MAX, 0);
    job->submitted_ms = next_number(&words, UINT64_MAX, 0);
    job->ended_ms = next_number(&words, UINT64_MAX, 0);
    job->expires_ms = next_number(&words, UINT64_MAX, 0);
    job->ttl_ms = next_number(&words, UINT64_MAX, 0);
    job->execution_ms = next_number(&words, UINT64_MAX, UINT64_MAX);
    job->delay_ms = next_number(&words, UINT64_MAX, UINT64_MAX);
    job->result_bytes = next_number(&words, UINT64_MAX, 0);
    job->stored_bytes = next_number(&words, UINT64_MAX, 0);
    job->encoding =
        (enum store_encoding)next_number(&words, STORE_ENCODING_ZSTD, STORE_ENCODING_IDENTITY);
    next_digest(&words, job->digest);
    job->input_bytes = next_number(&words, UINT64_MAX, 0);
    job->cancel_wanted = next_number(&words, 1, 0) > 0;
    job->purged = next_number(&words, 1, 0) > 0;
    job->due_ms = next_number(&words, UINT64_MAX, 0);
    job->deadline_ms = next_number(&words, UINT64_MAX, 0);
    job->fence = next_number(&words, UINT64_MAX, 0);
    job->missing_since_ms = next_number(&words, UINT64_MAX, 0);
    job->missing_count = (uint32_t)next_number(&words, UINT32_MAX, 0);
    job->failure_count = (uint32_t)next_number(&words, UINT32_MAX, 0);
    job->chunk_count = next_number(&words, UINT64_MAX, 0);
    return !words.is_bad && job->endpoint.length > 0 && job->id.length > 0;
}

/* In the order of submit_out() in the scripts. */
static bool read_submit(struct arena *arena, const struct redisReply *record,
                        struct store_submit *submit)
{
    struct words words = {.record = record, .arena = arena};

    if (!is_array(record) || record->elements != SUBMIT_WORDS) {
        return false;
    }
    submit->id = next_view(&words);
    submit->team = next_view(&words);
    submit->key = next_view(&words);
    submit->endpoint = next_view(&words);
    submit->job = next_view(&words);
    submit->idempotency_key = next_view(&words);
    submit->instance = next_view(&words);
    submit->operation = (enum store_submit_operation)next_number(&words, STORE_SUBMIT_RETRY, 0);
    submit->state = (enum store_submit_state)next_number(&words, STORE_SUBMIT_UNKNOWN, 0);
    next_digest(&words, submit->digest);
    submit->sent_ms = next_number(&words, UINT64_MAX, 0);
    submit->changed_ms = next_number(&words, UINT64_MAX, 0);
    submit->answer_status = (unsigned)next_number(&words, 999, 0);
    submit->note = next_view(&words);
    return !words.is_bad && submit->id.length > 0;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* A value's reader: false when it isn't what it should be. */
typedef bool reader(struct arena *arena, const struct redisReply *value, struct body_budget *budget,
                    struct redis_decoded *decoded);

static bool read_number(const struct redisReply *value, uint64_t maximum, uint64_t *number)
{
    return is_bytes(value) && view_parse_u64(bytes_of(value), maximum, number);
}

static bool no_memory(struct redis_decoded *decoded)
{
    decoded->reply.result = STORE_NO_MEMORY;
    return false;
}

static bool read_one_job(struct arena *arena, const struct redisReply *value,
                         UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    return read_job(arena, value, &decoded->reply.job);
}

static bool read_one_submit(struct arena *arena, const struct redisReply *value,
                            UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    return read_submit(arena, value, &decoded->reply.submit);
}

/* An answer has one list at the most, whose length is reply.count. */
static bool has_list(const struct redis_decoded *decoded)
{
    return decoded->reply.count > 0 || decoded->reply.jobs || decoded->reply.submits ||
           decoded->reply.endpoints;
}

static bool read_jobs(struct arena *arena, const struct redisReply *value,
                      UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    struct store_job *jobs;
    size_t count = 0;

    if (has_list(decoded) || !is_array(value) ||
        !(jobs = take(arena, value->elements, sizeof *jobs))) {
        return false;
    }
    for (size_t i = 0; i < value->elements; i++) {
        memset(&jobs[count], 0, sizeof *jobs);
        /* One bad record doesn't spoil the list. */
        if (read_job(arena, value->element[i], &jobs[count])) {
            count++;
        } else {
            decoded->malformed++;
        }
    }
    decoded->reply.jobs = jobs;
    decoded->reply.count = count;
    return true;
}

static bool read_submits(struct arena *arena, const struct redisReply *value,
                         UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    struct store_submit *submits;
    size_t count = 0;

    if (has_list(decoded) || !is_array(value) ||
        !(submits = take(arena, value->elements, sizeof *submits))) {
        return false;
    }
    for (size_t i = 0; i < value->elements; i++) {
        memset(&submits[count], 0, sizeof *submits);
        if (read_submit(arena, value->element[i], &submits[count])) {
            count++;
        } else {
            decoded->malformed++;
        }
    }
    decoded->reply.submits = submits;
    decoded->reply.count = count;
    return true;
}

static bool read_body(UNUSED struct arena *arena, const struct redisReply *value,
                      struct body_budget *budget, struct redis_decoded *decoded)
{
    struct view bytes = bytes_of(value);

    if (!value || value->type == REDIS_REPLY_NIL) {
        return true;
    }
    if (!is_bytes(value) || decoded->reply.body) {
        return false;
    }
    decoded->reply.body = body_create(budget, bytes.length > 0 ? bytes.length : 1);
    if (!decoded->reply.body || !body_append(decoded->reply.body, bytes)) {
        return no_memory(decoded);
    }
    return true;
}

static bool read_chunks(struct arena *arena, const struct redisReply *value,
                        struct body_budget *budget, struct redis_decoded *decoded)
{
    size_t bytes = 0;
    uint32_t *lengths;

    if (!is_array(value) || decoded->reply.body ||
        !(lengths = take(arena, value->elements, sizeof *lengths))) {
        return false;
    }
    for (size_t i = 0; i < value->elements; i++) {
        struct view chunk = bytes_of(value->element[i]);

        if (!is_bytes(value->element[i]) || chunk.length > UINT32_MAX) {
            return false;
        }
        lengths[i] = (uint32_t)chunk.length;
        bytes += chunk.length;
    }
    decoded->reply.body = body_create(budget, bytes > 0 ? bytes : 1);
    if (!decoded->reply.body) {
        return no_memory(decoded);
    }
    for (size_t i = 0; i < value->elements; i++) {
        if (!body_append(decoded->reply.body, bytes_of(value->element[i]))) {
            return no_memory(decoded);
        }
    }
    decoded->reply.chunk_lengths = lengths;
    decoded->reply.chunk_count = value->elements;
    return true;
}

static bool read_endpoints(struct arena *arena, const struct redisReply *value,
                           UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    struct store_endpoint_count *endpoints;
    size_t count;

    if (has_list(decoded) || !is_array(value) || value->elements % 3 != 0) {
        return false;
    }
    count = value->elements / 3;
    endpoints = take(arena, count, sizeof *endpoints);
    if (!endpoints) {
        return false;
    }
    memset(endpoints, 0, count * sizeof *endpoints);
    for (size_t i = 0; i < count; i++) {
        if (!is_bytes(value->element[3 * i]) || value->element[3 * i]->len > ID_WORD_MAXIMUM ||
            !keep(arena, value->element[3 * i], &endpoints[i].endpoint) ||
            !read_number(value->element[3 * i + 1], UINT64_MAX, &endpoints[i].outstanding) ||
            !read_number(value->element[3 * i + 2], UINT64_MAX, &endpoints[i].runsync)) {
            return false;
        }
    }
    decoded->reply.endpoints = endpoints;
    decoded->reply.count = count;
    return true;
}

static bool read_counts(UNUSED struct arena *arena, const struct redisReply *value,
                        UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    struct store_counts *counts = &decoded->reply.counts;
    uint64_t *places[COUNT_WORDS] = {
        &counts->jobs,         &counts->outstanding,     &counts->results,
        &counts->result_bytes, &counts->unknown_submits, &counts->by_fate[0],
        &counts->by_fate[1],   &counts->by_fate[2],      &counts->by_fate[3],
        &counts->by_fate[4],   &counts->by_fate[5],      &counts->lost,
        &counts->ttl_expired,
    };

    if (!is_array(value) || value->elements != COUNT_WORDS) {
        return false;
    }
    for (size_t i = 0; i < COUNT_WORDS; i++) {
        if (!read_number(value->element[i], UINT64_MAX / REDIS_SHARDS, places[i])) {
            return false;
        }
    }
    return true;
}

static bool read_last(struct arena *arena, const struct redisReply *value,
                      UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    if (!is_array(value) || value->elements != 2 || !is_bytes(value->element[1]) ||
        value->element[1]->len > ID_WORD_MAXIMUM ||
        !read_number(value->element[0], UINT64_MAX, &decoded->last.time_ms) ||
        !keep(arena, value->element[1], &decoded->last.member)) {
        return false;
    }
    decoded->last.is_set = true;
    return true;
}

static bool read_top(struct arena *arena, const struct redisReply *value,
                     UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    return is_bytes(value) && value->len <= ID_WORD_MAXIMUM && keep(arena, value, &decoded->top);
}

static bool read_oldest(struct arena *arena, const struct redisReply *value,
                        UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    struct redis_oldest *oldest;

    if (!is_array(value) || value->elements % 3 != 0) {
        return false;
    }
    oldest = take(arena, value->elements / 3, sizeof *oldest);
    if (!oldest) {
        return false;
    }
    for (size_t i = 0; i < value->elements / 3; i++) {
        const struct redisReply *const *triple =
            (const struct redisReply *const *)&value->element[3 * i];

        if (!is_bytes(triple[1]) || triple[1]->len > ID_WORD_MAXIMUM ||
            !read_number(triple[0], UINT64_MAX, &oldest[i].ended_ms) ||
            !keep(arena, triple[1], &oldest[i].member) ||
            !read_number(triple[2], UINT64_MAX, &oldest[i].bytes)) {
            return false;
        }
    }
    decoded->oldest = oldest;
    decoded->oldest_count = value->elements / 3;
    return true;
}

static bool read_bad(struct arena *arena, const struct redisReply *value,
                     UNUSED struct body_budget *budget, struct redis_decoded *decoded)
{
    struct view *bad;
    size_t count = 0;

    if (decoded->bad || !is_array(value) || !(bad = take(arena, value->elements, sizeof *bad))) {
        return false;
    }
    for (size_t i = 0; i < value->elements; i++) {
        if (is_bytes(value->element[i]) && value->element[i]->len <= ID_WORD_MAXIMUM &&
            keep(arena, value->element[i], &bad[count])) {
            count++;
        }
    }
    decoded->bad = bad;
    decoded->bad_count = count;
    return true;
}

/* ---- the answer ------------------------------------------------------------------------------ */

static bool read_named_number(struct view name, const struct redisReply *value,
                              struct redis_decoded *decoded, bool *is_known)
{
    struct store_reply *reply = &decoded->reply;
    uint64_t number = 0;
    const struct {
        struct view name;
        uint64_t *place;
    } places[] = {
        {VIEW("fence"), &reply->fence},
        {VIEW("next"), &reply->next_ms},
        {VIEW("position"), &reply->cursor_position},
        {VIEW("expired"), &reply->expired},
        {VIEW("bytes"), &decoded->bytes},
        {VIEW("count"), &decoded->marked},
    };

    for (size_t i = 0; i < ARRAY_LENGTH(places); i++) {
        if (view_equal(name, places[i].name)) {
            *is_known = true;
            return (value && value->type == REDIS_REPLY_NIL) ||
                   read_number(value, UINT64_MAX, places[i].place);
        }
    }
    *is_known = view_equal(name, VIEW("over")) || view_equal(name, VIEW("input_encoding"));
    if (!*is_known || !read_number(value, 1, &number)) {
        return false;
    }
    if (view_equal(name, VIEW("over"))) {
        reply->cursor_ended = number == 1;
    } else {
        reply->input_encoding = number == 1 ? STORE_ENCODING_ZSTD : STORE_ENCODING_IDENTITY;
    }
    return true;
}

static bool read_value(struct arena *arena, struct view name, const struct redisReply *value,
                       struct body_budget *budget, struct redis_decoded *decoded)
{
    static const struct {
        struct view name;
        reader *read;
    } readers[] = {
        {VIEW_INIT("job"), read_one_job},         {VIEW_INIT("jobs"), read_jobs},
        {VIEW_INIT("submit"), read_one_submit},   {VIEW_INIT("submits"), read_submits},
        {VIEW_INIT("body"), read_body},           {VIEW_INIT("chunks"), read_chunks},
        {VIEW_INIT("endpoints"), read_endpoints}, {VIEW_INIT("counts"), read_counts},
        {VIEW_INIT("last"), read_last},           {VIEW_INIT("top"), read_top},
        {VIEW_INIT("oldest"), read_oldest},       {VIEW_INIT("bad"), read_bad},
    };
    bool is_known = false;
    bool good = read_named_number(name, value, decoded, &is_known);

    if (is_known) {
        return good;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(readers); i++) {
        if (view_equal(name, readers[i].name)) {
            return readers[i].read(arena, value, budget, decoded);
        }
    }
    return false;
}

static bool read_result(struct view text, enum store_result *result)
{
    static const struct {
        struct view text;
        enum store_result result;
    } results[] = {
        {VIEW_INIT("OK"), STORE_OK},
        {VIEW_INIT("ABSENT"), STORE_ABSENT},
        {VIEW_INIT("CONFLICT"), STORE_CONFLICT},
        {VIEW_INIT("OWNED"), STORE_OWNED},
        {VIEW_INIT("REPLAY"), STORE_REPLAY},
        {VIEW_INIT("BUSY"), STORE_BUSY},
        {VIEW_INIT("MISMATCH"), STORE_MISMATCH},
        {VIEW_INIT("UNKNOWN"), STORE_UNKNOWN},
        {VIEW_INIT("BROKEN"), STORE_BROKEN},
    };

    for (size_t i = 0; i < ARRAY_LENGTH(results); i++) {
        if (view_equal(text, results[i].text)) {
            *result = results[i].result;
            return true;
        }
    }
    return false;
}

void redis_decode(const struct redisReply *answer, struct body_budget *budget,
                  struct redis_decoded *decoded)
{
    enum store_result result = STORE_BROKEN;
    struct arena arena;

    memset(decoded, 0, sizeof *decoded);
    decoded->reply.result = STORE_BROKEN;
    decoded->reply.next_ms = UINT64_MAX;
    if (!is_array(answer) || answer->elements < 2 || answer->elements % 2 != 0 ||
        !read_result(bytes_of(answer->element[0]), &result) ||
        !read_number(answer->element[1], UINT64_MAX, &decoded->reply.now_ms)) {
        return;
    }
    arena.left = size_of(answer);
    arena.bytes = decoded->memory = malloc(arena.left);
    if (!decoded->memory) {
        decoded->reply.result = STORE_NO_MEMORY;
        return;
    }
    for (size_t i = 2; i < answer->elements; i += 2) {
        if (!read_value(&arena, bytes_of(answer->element[i]), answer->element[i + 1], budget,
                        decoded)) {
            body_unref(decoded->reply.body);
            decoded->reply.body = NULL;
            return;
        }
    }
    decoded->reply.result = result;
}

void redis_decoded_clear(struct redis_decoded *decoded)
{
    body_unref(decoded->reply.body);
    free(decoded->memory);
    memset(decoded, 0, sizeof *decoded);
}

enum redis_error redis_error_of(struct view text)
{
    /* Redis 6.2 puts the error of a command in a script behind words of its own, so that the text
     * is searched, not only its beginning. No bytes of callers are in it. */
    static const struct {
        const char *word;
        enum redis_error error;
    } errors[] = {
        {"NOSCRIPT", REDIS_ERROR_NO_SCRIPT},     {"READONLY", REDIS_ERROR_READ_ONLY},
        {"WRONGTYPE", REDIS_ERROR_FOREIGN},      {"LOADING ", REDIS_ERROR_REFUSED},
        {"MISCONF ", REDIS_ERROR_REFUSED},       {"OOM ", REDIS_ERROR_REFUSED},
        {"NOAUTH ", REDIS_ERROR_REFUSED},        {"NOPERM ", REDIS_ERROR_REFUSED},
        {"WRONGPASS ", REDIS_ERROR_REFUSED},     {"MASTERDOWN ", REDIS_ERROR_REFUSED},
        {"BUSY ", REDIS_ERROR_REFUSED},          {"NOREPLICAS ", REDIS_ERROR_REFUSED},
        {"CLUSTERDOWN ", REDIS_ERROR_REFUSED},   {"max number of clients", REDIS_ERROR_REFUSED},
        {"UNKILLABLE ", REDIS_ERROR_REFUSED},    {"can't run this command", REDIS_ERROR_REFUSED},
        {"no permissions", REDIS_ERROR_REFUSED}, {"invalid password", REDIS_ERROR_REFUSED},
    };

    text = view_first(text, 512);
    for (size_t i = 0; i < ARRAY_LENGTH(errors); i++) {
        if (text.length > 0 &&
            memmem(text.data, text.length, errors[i].word, strlen(errors[i].word))) {
            return errors[i].error;
        }
    }
    return REDIS_ERROR_OTHER;
}
