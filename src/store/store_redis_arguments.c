#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "store/store_redis.h"

/* A question as names and values: what is empty or zero isn't sent, which is what scripts take it
 * for. One table for all scripts, so that a new member of a question is one line here. */

enum {
    NUMBER_BYTES = 24,
    WORDS_FIXED = 4 + 2 * 72, /* the head, and every name with its value */
    /* Lua counts in doubles: what lies beyond is as good as this, and a span added to the time of
     * day still fits. */
    NUMBER_MAXIMUM_SHIFT = 52,
};

struct named_view {
    const char *name;
    size_t offset;
};
static const struct named_view views[] = {
    {"submit_id", offsetof(struct store_question, submit.id)},
    {"submit_team", offsetof(struct store_question, submit.team)},
    {"submit_key", offsetof(struct store_question, submit.key)},
    {"submit_endpoint", offsetof(struct store_question, submit.endpoint)},
    {"submit_job", offsetof(struct store_question, submit.job)},
    {"submit_idem", offsetof(struct store_question, submit.idempotency_key)},
    {"submit_instance", offsetof(struct store_question, submit.instance)},
    {"endpoint", offsetof(struct store_question, endpoint)},
    {"job", offsetof(struct store_question, job)},
    {"upstream_id", offsetof(struct store_question, upstream_id)},
    {"team", offsetof(struct store_question, team)},
    {"key", offsetof(struct store_question, key)},
    {"consumer", offsetof(struct store_question, consumer)},
    {"note", offsetof(struct store_question, note)},
};

static const struct named_view numbers[] = {
    {"generation", offsetof(struct store_question, generation)},
    {"fence", offsetof(struct store_question, fence)},
    {"until", offsetof(struct store_question, until_ms)},
    {"due", offsetof(struct store_question, due_ms)},
    {"deadline", offsetof(struct store_question, deadline_ms)},
    {"ttl", offsetof(struct store_question, ttl_ms)},
    {"keep", offsetof(struct store_question, keep_ms)},
    {"poll_on", offsetof(struct store_question, poll_on_ms)},
    {"lease", offsetof(struct store_question, lease_ms)},
    {"max_poll", offsetof(struct store_question, max_poll_ms)},
    {"since", offsetof(struct store_question, since_ms)},
    {"missing_since", offsetof(struct store_question, missing_since_ms)},
    {"result_bytes", offsetof(struct store_question, result_bytes)},
    {"input_bytes", offsetof(struct store_question, input_bytes)},
    {"max_total", offsetof(struct store_question, max_total_bytes)},
    {"poll_rate", offsetof(struct store_question, poll_rate_milli)},
    {"from", offsetof(struct store_question, from)},
    {"limit_bytes", offsetof(struct store_question, limit_bytes)},
};

static const char *const fate_texts[STORE_FATES] = {"none",    "kept",    "too_large",
                                                    "expired", "evicted", "deleted"};

struct writer {
    struct redis_arguments *arguments;
    char *room; /* for numbers */
};

static void add(struct writer *writer, struct view word)
{
    struct redis_arguments *arguments = writer->arguments;

    arguments->words[arguments->count] = word.length > 0 ? word.data : "";
    arguments->lengths[arguments->count] = word.length;
    arguments->count++;
}

static void add_pair(struct writer *writer, const char *name, struct view value)
{
    if (value.length > 0) {
        add(writer, view_of_string(name));
        add(writer, value);
    }
}

static struct view number_text(struct writer *writer, uint64_t number)
{
    struct builder text;
    struct view result;

    builder_init(&text, writer->room, NUMBER_BYTES);
    builder_append_u64(&text, number);
    result = builder_view(&text); /* twenty digits at the most: it never left the room */
    writer->room += NUMBER_BYTES;
    return result;
}

static uint64_t clamp(uint64_t number)
{
    const uint64_t maximum = (uint64_t)1 << NUMBER_MAXIMUM_SHIFT;

    return number < maximum ? number : maximum;
}

static void add_number(struct writer *writer, const char *name, uint64_t number)
{
    if (number > 0) {
        add_pair(writer, name, number_text(writer, clamp(number)));
    }
}

static void add_body(struct writer *writer, const char *name, const struct body *body)
{
    if (body) {
        add(writer, view_of_string(name));
        add(writer, body_view(body));
    }
}

static bool is_zero(const unsigned char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static void add_digest(struct writer *writer, const char *name, const unsigned char *digest)
{
    if (!is_zero(digest, STORE_DIGEST_BYTES)) {
        add_pair(writer, name, view_make((const char *)digest, STORE_DIGEST_BYTES));
    }
}

static void add_small(struct writer *writer, const struct store_question *question)
{
    add_number(writer, "kind", question->kind);
    add_number(writer, "encoding", question->encoding);
    add_number(writer, "input_encoding", question->input_encoding);
    add_number(writer, "submit_operation", question->submit.operation);
    add_number(writer, "submit_state", question->submit.state);
    add_number(writer, "answer_status",
               question->answer_status ? question->answer_status : question->submit.answer_status);
    add_number(writer, "missing", question->missing);
    add_number(writer, "failures", question->failures);
    add_number(writer, "accept_duplicate", question->accept_duplicate);
    add_number(writer, "with_result", question->with_result);
    add_number(writer, "with_input", question->with_input);
    add_number(writer, "over", question->ended);
    add_pair(writer, "state", view_of_string(job_state_text(question->state)));
    add_pair(writer, "fate", view_of_string(fate_texts[question->fate]));
    if (question->has_state) {
        add_pair(writer, "want_state", view_of_string(job_state_text(question->state)));
    }
    if (question->has_fate) {
        add_pair(writer, "want_fate", view_of_string(fate_texts[question->fate]));
    }
    /* Zero is a time like any other for these two. */
    if (question->execution_ms != UINT64_MAX) {
        add_pair(writer, "execution", number_text(writer, clamp(question->execution_ms)));
    }
    if (question->delay_ms != UINT64_MAX) {
        add_pair(writer, "delay", number_text(writer, clamp(question->delay_ms)));
    }
    add_digest(writer, "digest", question->digest);
    add_digest(writer, "submit_digest", question->submit.digest);
}

static void add_chunks(struct writer *writer, const struct store_question *question)
{
    struct view rest = body_view(question->chunks);

    for (uint32_t i = 0; i < question->chunk_count; i++) {
        add(writer, VIEW("chunk"));
        add(writer, view_first(rest, question->chunk_lengths[i]));
        rest = view_skip(rest, question->chunk_lengths[i]);
    }
}

static void add_question(struct writer *writer, const struct store_call *call,
                         const struct redis_extra *extra, char *dedupe)
{
    const struct store_question *question = &call->question;
    uint32_t limit = extra->limit > 0 ? extra->limit : question->limit;

    add_pair(writer, "instance", store_instance(call->client->store));
    for (size_t i = 0; i < ARRAY_LENGTH(views); i++) {
        add_pair(writer, views[i].name,
                 *(const struct view *)(const void *)((const char *)question + views[i].offset));
    }
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        add_number(writer, numbers[i].name,
                   *(const uint64_t *)(const void *)((const char *)question + numbers[i].offset));
    }
    add_small(writer, question);
    add_number(writer, "limit",
               limit > 0 && limit <= STORE_LIST_MAXIMUM + 1 ? limit : STORE_LIST_MAXIMUM);
    if (question->has_dedupe) {
        struct builder text;

        builder_init(&text, dedupe, 2 * STORE_DIGEST_BYTES);
        builder_append_hex_bytes(&text, question->dedupe_digest, STORE_DIGEST_BYTES);
        add_pair(writer, "dedupe", builder_view(&text));
    }
    if (extra->position.is_set) {
        add(writer, VIEW("position"));
        add(writer, number_text(writer, extra->position.time_ms));
        add_pair(writer, "member", extra->position.member);
    }
    add_pair(writer, "top", extra->top);
    add_body(writer, "answer", question->answer);
    add_body(writer, "input", question->input);
    add_body(writer, "result", question->result);
}

bool redis_arguments_init(struct redis_arguments *arguments, const struct redis_scripts *scripts,
                          unsigned script, bool as_text, struct view prefix, unsigned shard,
                          const struct store_call *call, const struct redis_extra *extra)
{
    size_t chunks =
        call->question.operation == STORE_APPEND_CHUNKS ? call->question.chunk_count : 0;
    size_t words = WORDS_FIXED + 2 * (chunks + extra->member_count);
    size_t numbers_bytes = (ARRAY_LENGTH(numbers) + 20) * NUMBER_BYTES;
    size_t key_bytes = prefix.length + 8;
    char *memory = malloc(words * (sizeof(char *) + sizeof(size_t)) + numbers_bytes + key_bytes +
                          2 * STORE_DIGEST_BYTES);
    struct writer writer = {.arguments = arguments};
    char *key;

    if (!memory) {
        return false;
    }
    arguments->memory = memory;
    arguments->words = (const char **)(void *)memory;
    arguments->lengths = (size_t *)(void *)(memory + words * sizeof(char *));
    arguments->count = 0;
    writer.room = memory + words * (sizeof(char *) + sizeof(size_t));
    key = writer.room + numbers_bytes;
    memcpy(key, prefix.data, prefix.length);
    memcpy(key + prefix.length, ":{00}:", 6);
    key[prefix.length + 2] = (char)('0' + shard / 10);
    key[prefix.length + 3] = (char)('0' + shard % 10);
    add(&writer, as_text ? VIEW("EVAL") : VIEW("EVALSHA"));
    add(&writer, as_text ? view_make(scripts->texts[script], scripts->lengths[script])
                         : view_make(scripts->digests[script], 40));
    add(&writer, VIEW("1"));
    add(&writer, view_make(key, prefix.length + 6));
    add_question(&writer, call, extra, key + key_bytes);
    if (chunks > 0) {
        add_chunks(&writer, &call->question);
    }
    for (size_t i = 0; i < extra->member_count; i++) {
        add(&writer, VIEW("chunk"));
        add(&writer, extra->members[i]);
    }
    return true;
}

void redis_arguments_clear(struct redis_arguments *arguments)
{
    free(arguments->memory);
    arguments->memory = NULL;
}

unsigned redis_shard(struct view endpoint)
{
    uint32_t hash =
        2166136261u; /* FNV-1a: a layout on disk can't hang on a secret of the process */

    for (size_t i = 0; i < endpoint.length; i++) {
        hash = (hash ^ (unsigned char)endpoint.data[i]) * 16777619u;
    }
    return (hash ^ (hash >> 16)) % REDIS_SHARDS;
}
