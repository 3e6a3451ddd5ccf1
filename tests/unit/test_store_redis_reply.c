#include "build_config.h"

#include <criterion/criterion.h>
#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/store_redis.h"

/* What Redis may answer, made up as RESP: good answers are read whole, and anything else is BROKEN
 * without a crash. */

static struct body_budget budget = {.maximum_bytes = 1024 * 1024};
static struct redis_decoded decoded;
static char *text;
static size_t text_length;

static void clear(void)
{
    redis_decoded_clear(&decoded);
    free(text);
    text = NULL;
    cr_assert_eq(budget.used_bytes, 0);
}

TestSuite(store_redis_reply, .fini = clear);

/* ---- making answers: a word is "text", an array "*3", a missing value "~" */

static void add(const char *format, ...)
{
    char piece[1024];
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    cr_assert(length >= 0 && (size_t)length < sizeof piece);
    text = realloc(text, text_length + (size_t)length + 1);
    memcpy(text + text_length, piece, (size_t)length + 1);
    text_length += (size_t)length;
}

static void word(const char *bytes)
{
    if (strcmp(bytes, "~") == 0) {
        add("$-1\r\n");
    } else if (bytes[0] == '*') {
        add("%s\r\n", bytes);
    } else {
        add("$%zu\r\n%s\r\n", strlen(bytes), bytes);
    }
}

static void words(const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        word(list[i]);
    }
}

static void begin(void)
{
    clear();
    text_length = 0;
}

static void decode(void)
{
    struct redisReader *reader = redisReaderCreate();
    void *answer = NULL;

    cr_assert_eq(redisReaderFeed(reader, text, text_length), REDIS_OK);
    cr_assert_eq(redisReaderGetReply(reader, &answer), REDIS_OK);
    cr_assert_not_null(answer, "the test's answer is not whole");
    redis_decode(answer, &budget, &decoded);
    freeReplyObject(answer);
    redisReaderFree(reader);
}

#define ANSWER(...)                                                                                \
    do {                                                                                           \
        const char *list[] = {__VA_ARGS__};                                                        \
        begin();                                                                                   \
        words(list, sizeof list / sizeof *list);                                                   \
        decode();                                                                                  \
    } while (0)

#define DIGEST "0123456789abcdef0123456789abcdef"

enum { JOB_WORDS = 29 };
static const char *const good_job[JOB_WORDS] = {
    "abc123", "job-1", "~",  "vision", "ci", "1",  "COMPLETED", "kept", "2",    "1000",
    "2000",   "3000",  "4",  "5",      "~",  "7",  "8",         "1",    DIGEST, "9",
    "1",      "~",     "10", "11",     "12", "13", "14",        "15",   "16",
};

/* The job with one word changed. */
static void job_with(size_t at, const char *changed)
{
    const char *list[JOB_WORDS];

    memcpy(list, good_job, sizeof list);
    if (at < JOB_WORDS) {
        list[at] = changed;
    }
    word("*29");
    words(list, JOB_WORDS);
}

static void decode_job_with(size_t at, const char *changed)
{
    begin();
    word("*4");
    word("OK");
    word("77");
    word("job");
    job_with(at, changed);
    decode();
}

#define cr_assert_view(actual, wanted)                                                             \
    cr_assert(view_equal((actual), (wanted)), "%.*s", (int)(actual).length, (actual).data)

Test(store_redis_reply, reads_every_word_of_a_job)
{
    const struct store_job *job = &decoded.reply.job;

    decode_job_with(JOB_WORDS, NULL);
    cr_assert_eq(decoded.reply.result, STORE_OK);
    cr_assert_eq(decoded.reply.now_ms, 77);
    cr_assert_eq(decoded.reply.next_ms, UINT64_MAX);
    cr_assert_view(job->endpoint, VIEW("abc123"));
    cr_assert_view(job->id, VIEW("job-1"));
    cr_assert_view(job->upstream_id, VIEW("job-1"));
    cr_assert_view(job->team, VIEW("vision"));
    cr_assert_view(job->key, VIEW("ci"));
    cr_assert_eq(job->kind, STORE_KIND_RUNSYNC);
    cr_assert_eq(job->state, JOB_COMPLETED);
    cr_assert_eq(job->fate, STORE_FATE_KEPT);
    cr_assert_eq(job->generation, 2);
    cr_assert_eq(job->submitted_ms, 1000);
    cr_assert_eq(job->ended_ms, 2000);
    cr_assert_eq(job->expires_ms, 3000);
    cr_assert_eq(job->ttl_ms, 4);
    cr_assert_eq(job->execution_ms, 5);
    cr_assert_eq(job->delay_ms, UINT64_MAX);
    cr_assert_eq(job->result_bytes, 7);
    cr_assert_eq(job->stored_bytes, 8);
    cr_assert_eq(job->encoding, STORE_ENCODING_ZSTD);
    cr_assert_eq(memcmp(job->digest, DIGEST, 32), 0);
    cr_assert_eq(job->input_bytes, 9);
    cr_assert(job->cancel_wanted);
    cr_assert_not(job->purged);
    cr_assert_eq(job->due_ms, 10);
    cr_assert_eq(job->deadline_ms, 11);
    cr_assert_eq(job->fence, 12);
    cr_assert_eq(job->missing_since_ms, 13);
    cr_assert_eq(job->missing_count, 14);
    cr_assert_eq(job->failure_count, 15);
    cr_assert_eq(job->chunk_count, 16);
}

Test(store_redis_reply, one_wrong_word_spoils_a_job)
{
    static const struct {
        size_t at;
        const char *changed;
    } wrong[] = {
        {0, ""},
        {1, ""},
        {5, "2"},
        {6, "DONE"},
        {6, "~"},
        {7, "gone"},
        {8, "-1"},
        {8, "1e3"},
        {9, "x"},
        {9, "0x10"},
        {10, " 1"},
        {11, "18446744073709551616"},
        {13, "nan"},
        {17, "2"},
        {18, "short"},
        {20, "2"},
        {26, "4294967296"},
        {28, "1.5"},
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        decode_job_with(wrong[i].at, wrong[i].changed);
        cr_assert_eq(decoded.reply.result, STORE_BROKEN, "%zu: %s", wrong[i].at, wrong[i].changed);
    }
}

Test(store_redis_reply, one_wrong_job_of_a_list_is_left_out)
{
    begin();
    word("*4");
    word("OK");
    word("77");
    word("jobs");
    word("*5");
    job_with(1, "a");
    job_with(6, "DONE");
    job_with(1, "b");
    word("garbage");
    word("*2");
    word("x");
    word("y");
    decode();
    cr_assert_eq(decoded.reply.result, STORE_OK);
    cr_assert_eq(decoded.reply.count, 2);
    cr_assert_view(decoded.reply.jobs[0].id, VIEW("a"));
    cr_assert_view(decoded.reply.jobs[1].id, VIEW("b"));
    cr_assert_eq(decoded.malformed, 3);
}

Test(store_redis_reply, reads_a_submit)
{
    ANSWER("*4", "UNKNOWN", "5", "submit", "*14", "id", "team", "key", "ep", "~", "k", "~", "2",
           "4", "~", "6", "7", "~", "the connection broke");
    cr_assert_eq(decoded.reply.result, STORE_UNKNOWN);
    cr_assert_view(decoded.reply.submit.id, VIEW("id"));
    cr_assert_eq(decoded.reply.submit.operation, STORE_SUBMIT_RETRY);
    cr_assert_eq(decoded.reply.submit.state, STORE_SUBMIT_UNKNOWN);
    cr_assert_eq(decoded.reply.submit.sent_ms, 6);
    cr_assert_view(decoded.reply.submit.note, VIEW("the connection broke"));
    ANSWER("*4", "OK", "5", "submit", "*14", "id", "team", "key", "ep", "~", "k", "~", "3", "4",
           "~", "6", "7", "~", "~");
    cr_assert_eq(decoded.reply.result, STORE_BROKEN);
}

Test(store_redis_reply, reads_a_body_and_chunks)
{
    ANSWER("*4", "OK", "5", "body", "bytes");
    cr_assert_view(body_view(decoded.reply.body), VIEW("bytes"));
    ANSWER("*4", "OK", "5", "body", "");
    cr_assert_eq(body_view(decoded.reply.body).length, 0);
    ANSWER("*4", "OK", "5", "body", "~");
    cr_assert_null(decoded.reply.body);
    ANSWER("*4", "OK", "5", "chunks", "*3", "one", "", "three");
    cr_assert_eq(decoded.reply.chunk_count, 3);
    cr_assert_eq(decoded.reply.chunk_lengths[0], 3);
    cr_assert_eq(decoded.reply.chunk_lengths[1], 0);
    cr_assert_eq(decoded.reply.chunk_lengths[2], 5);
    cr_assert_view(body_view(decoded.reply.body), VIEW("onethree"));
    ANSWER("*6", "OK", "5", "chunks", "*1", "one", "body", "two");
    cr_assert_eq(decoded.reply.result, STORE_BROKEN);
    cr_assert_null(decoded.reply.body);
}

Test(store_redis_reply, a_body_above_the_budget_is_no_memory)
{
    budget.maximum_bytes = 4;
    ANSWER("*4", "OK", "5", "body", "bytes");
    cr_assert_eq(decoded.reply.result, STORE_NO_MEMORY);
    cr_assert_null(decoded.reply.body);
}

Test(store_redis_reply, reads_numbers_lists_and_counts)
{
    ANSWER("*14", "OK", "5", "fence", "6", "next", "~", "position", "8", "over", "1", "bytes", "9",
           "count", "10");
    cr_assert_eq(decoded.reply.fence, 6);
    cr_assert_eq(decoded.reply.next_ms, UINT64_MAX);
    cr_assert_eq(decoded.reply.cursor_position, 8);
    cr_assert(decoded.reply.cursor_ended);
    cr_assert_eq(decoded.bytes, 9);
    cr_assert_eq(decoded.marked, 10);
    ANSWER("*4", "OK", "5", "endpoints", "*6", "a", "1", "0", "b", "2", "1");
    cr_assert_eq(decoded.reply.count, 2);
    cr_assert_view(decoded.reply.endpoints[1].endpoint, VIEW("b"));
    cr_assert_eq(decoded.reply.endpoints[1].outstanding, 2);
    cr_assert_eq(decoded.reply.endpoints[1].runsync, 1);
    ANSWER("*6", "OK", "5", "oldest", "*3", "7", "ep/job", "8", "last", "*2", "9", "ep/job");
    cr_assert_eq(decoded.oldest_count, 1);
    cr_assert_eq(decoded.oldest[0].bytes, 8);
    cr_assert(decoded.last.is_set);
    cr_assert_eq(decoded.last.time_ms, 9);
    ANSWER("*4", "OK", "5", "counts", "*13", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10",
           "11", "12", "13");
    cr_assert_eq(decoded.reply.counts.ttl_expired, 13);
    ANSWER("*4", "BROKEN", "5", "bad", "*2", "podgate:{00}:due:ep", "x");
    cr_assert_eq(decoded.reply.result, STORE_BROKEN);
    cr_assert_eq(decoded.bad_count, 2);
}

Test(store_redis_reply, what_no_script_answers_is_broken)
{
    static const char *const wrong[] = {
        "$2\r\nOK\r\n",
        "+OK\r\n",
        ":1\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*1\r\n$2\r\nOK\r\n",
        "*2\r\n$2\r\nOK\r\n:5\r\n",
        "*2\r\n$2\r\nOK\r\n$1\r\nx\r\n",
        "*2\r\n$4\r\nFINE\r\n$1\r\n5\r\n",
        "*2\r\n$-1\r\n$1\r\n5\r\n",
        "*3\r\n$2\r\nOK\r\n$1\r\n5\r\n$5\r\nfence\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$5\r\nfence\r\n$2\r\n-1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$5\r\nfence\r\n*0\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$5\r\nwhich\r\n$1\r\n1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n*0\r\n$1\r\n1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$3\r\njob\r\n*0\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$3\r\njob\r\n$-1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$4\r\njobs\r\n$1\r\n1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$4\r\nbody\r\n*0\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$6\r\nchunks\r\n*1\r\n$-1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$6\r\nchunks\r\n*1\r\n*1\r\n*0\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$9\r\nendpoints\r\n*1\r\n$1\r\na\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$6\r\ncounts\r\n*1\r\n$1\r\n1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$4\r\nlast\r\n*1\r\n$1\r\n1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$6\r\noldest\r\n*3\r\n$-1\r\n$-1\r\n$-1\r\n",
        "*4\r\n$2\r\nOK\r\n$1\r\n5\r\n$14\r\ninput_encoding\r\n$1\r\n2\r\n",
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        begin();
        add("%s", wrong[i]);
        decode();
        cr_assert_eq(decoded.reply.result, STORE_BROKEN, "%s", wrong[i]);
        cr_assert_null(decoded.reply.body);
    }
}

Test(store_redis_reply, tells_errors_apart_wherever_the_word_stands)
{
    static const struct {
        const char *text;
        enum redis_error error;
    } errors[] = {
        {"NOSCRIPT No matching script. Please use EVAL.", REDIS_ERROR_NO_SCRIPT},
        {"READONLY You can't write against a read only replica.", REDIS_ERROR_READ_ONLY},
        {"ERR Error running script (call to f_1): @user_script:4: @user_script: 4: -READONLY You "
         "can't write against a read only replica.",
         REDIS_ERROR_READ_ONLY},
        {"LOADING Redis is loading the dataset in memory", REDIS_ERROR_REFUSED},
        {"MISCONF Redis is configured to save RDB snapshots", REDIS_ERROR_REFUSED},
        {"OOM command not allowed when used memory > 'maxmemory'.", REDIS_ERROR_REFUSED},
        {"ERR user_script:25: OOM command not allowed when used memory > 'maxmemory'.",
         REDIS_ERROR_REFUSED},
        {"NOAUTH Authentication required.", REDIS_ERROR_REFUSED},
        {"NOPERM this user has no permissions to run the 'eval' command", REDIS_ERROR_REFUSED},
        {"BUSY Redis is busy running a script.", REDIS_ERROR_REFUSED},
        {"WRONGTYPE Operation against a key holding the wrong kind of value", REDIS_ERROR_FOREIGN},
        {"ERR user_script:3: attempt to index a nil value", REDIS_ERROR_OTHER},
        {"", REDIS_ERROR_OTHER},
    };

    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        cr_assert_eq(redis_error_of(view_of_string(errors[i].text)), errors[i].error, "%s",
                     errors[i].text);
    }
}

/* ---- what INFO says -------------------------------------------------------------------------- */

static struct redis_facts facts_of(const char *info)
{
    struct redis_facts facts = {0};

    redis_facts_read_info(&facts, view_of_string(info));
    return facts;
}

Test(store_redis_facts, reads_what_info_says)
{
    struct redis_facts facts = facts_of(
        "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n\r\n# Persistence\r\nloading:0\r\n"
        "aof_enabled:1\r\nmaxmemory:1024\r\nmaxmemory_policy:noeviction\r\n# Replication\r\n"
        "role:master\r\nmaster_replid:def\r\n# Cluster\r\ncluster_enabled:0\r\n");

    cr_assert(facts.has_info);
    cr_assert_eq(facts.version, 70015);
    cr_assert_str_eq(facts.version_text, "7.0.15");
    cr_assert_str_eq(facts.run_id, "abc");
    cr_assert_str_eq(facts.replication_id, "def");
    cr_assert_eq(facts.maxmemory_bytes, 1024);
    cr_assert(facts.aof_enabled);
    cr_assert_not(facts.is_replica || facts.is_cluster || facts.is_loading);
    cr_assert_null(redis_facts_refusal(&facts));
}

Test(store_redis_facts, durable_is_only_what_syncs_each_write_and_evicts_nothing)
{
    struct redis_facts facts =
        facts_of("redis_version:7.0.0\naof_enabled:1\nmaxmemory_policy:noeviction\n");

    cr_assert_eq(redis_facts_durability(&facts), STORE_NOT_DURABLE);
    redis_facts_read_config(&facts, VIEW("appendfsync"), VIEW("everysec"));
    cr_assert_eq(redis_facts_durability(&facts), STORE_DURABLE_EVERYSEC);
    redis_facts_read_config(&facts, VIEW("appendfsync"), VIEW("always"));
    cr_assert_eq(redis_facts_durability(&facts), STORE_DURABLE);
    redis_facts_read_config(&facts, VIEW("maxmemory-policy"), VIEW("allkeys-lru"));
    cr_assert_eq(redis_facts_durability(&facts), STORE_NOT_DURABLE);
    redis_facts_read_config(&facts, VIEW("maxmemory-policy"), VIEW("noeviction"));
    facts.aof_enabled = false;
    cr_assert_eq(redis_facts_durability(&facts), STORE_NOT_DURABLE);
}

Test(store_redis_facts, refuses_a_cluster_and_what_is_too_old)
{
    struct redis_facts cluster = facts_of("redis_version:7.0.0\r\ncluster_enabled:1\r\n");
    struct redis_facts old = facts_of("redis_version:6.0.16\r\n");
    struct redis_facts oldest_good = facts_of("redis_version:6.2.0\r\n");
    struct redis_facts odd = facts_of("redis_version:unstable\r\n\r\n:\r\nrole\r\n");

    cr_assert_not_null(redis_facts_refusal(&cluster));
    cr_assert_not_null(redis_facts_refusal(&old));
    cr_assert_null(redis_facts_refusal(&oldest_good));
    cr_assert_null(redis_facts_refusal(&odd));
}

Test(store_redis_facts, a_cursor_comes_back_as_it_was_given_and_nothing_else_is_one)
{
    static const char *const wrong[] = {"x",
                                        ".",
                                        "1.",
                                        "1",
                                        "1.6",
                                        "1.6g",
                                        ".61",
                                        "-1.61",
                                        "1.61.",
                                        "1.61 ",
                                        "99999999999999999999.61"};
    char memory[REDIS_CURSOR_MEMORY];
    struct redis_position position;

    cr_assert(redis_cursor_parse(VIEW(""), memory, &position));
    cr_assert_not(position.is_set);
    cr_assert(redis_cursor_parse(VIEW("17.61622f63"), memory, &position));
    cr_assert(position.is_set);
    cr_assert_eq(position.time_ms, 17);
    cr_assert_view(position.member, VIEW("ab/c"));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_assert_not(redis_cursor_parse(view_of_string(wrong[i]), memory, &position), "%s",
                      wrong[i]);
    }
}
