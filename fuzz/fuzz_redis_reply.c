/* RESP as a Redis of somebody else's making may send it, through hiredis' reader: whatever the
 * answers are, they are read or refused, and what was read points into memory that is there. */
#include "build_config.h"

#include <hiredis/hiredis.h>

#include "fuzz.h"
#include "store/store_redis.h"

static size_t sum;

/* Reads every byte, so that the sanitizer looks at it. */
static void touch(struct view view)
{
    for (size_t i = 0; i < view.length; i++) {
        sum += (unsigned char)view.data[i];
    }
}

static void touch_job(const struct store_job *job)
{
    touch(job->endpoint);
    touch(job->id);
    touch(job->upstream_id);
    touch(job->team);
    touch(job->key);
    FUZZ_CHECK((unsigned)job->state < JOB_STATES && (unsigned)job->fate < STORE_FATES);
    FUZZ_CHECK((unsigned)job->kind <= STORE_KIND_RUNSYNC);
    FUZZ_CHECK((unsigned)job->encoding <= STORE_ENCODING_ZSTD);
}

static void touch_submit(const struct store_submit *submit)
{
    touch(submit->id);
    touch(submit->team);
    touch(submit->key);
    touch(submit->endpoint);
    touch(submit->job);
    touch(submit->idempotency_key);
    touch(submit->instance);
    touch(submit->note);
    FUZZ_CHECK((unsigned)submit->state <= STORE_SUBMIT_UNKNOWN);
    FUZZ_CHECK((unsigned)submit->operation <= STORE_SUBMIT_RETRY);
}

static void check_good(const struct redis_decoded *decoded)
{
    const struct store_reply *reply = &decoded->reply;
    size_t chunk_bytes = 0;

    touch_job(&reply->job);
    touch_submit(&reply->submit);
    for (size_t i = 0; i < reply->count && reply->jobs; i++) {
        touch_job(&reply->jobs[i]);
    }
    for (size_t i = 0; i < reply->chunk_count; i++) {
        chunk_bytes += reply->chunk_lengths[i];
    }
    if (reply->chunk_lengths) {
        FUZZ_CHECK(body_view(reply->body).length == chunk_bytes);
    }
    touch(body_view(reply->body));
    touch(decoded->last.member);
    touch(decoded->top);
    for (size_t i = 0; i < decoded->oldest_count; i++) {
        touch(decoded->oldest[i].member);
    }
    for (size_t i = 0; i < decoded->bad_count; i++) {
        touch(decoded->bad[i]);
    }
}

static void look_at(const struct redisReply *answer)
{
    static struct body_budget budget = {.maximum_bytes = 1024 * 1024};
    struct redis_decoded decoded;
    struct redis_facts facts = {0};

    if (answer->type == REDIS_REPLY_ERROR || answer->type == REDIS_REPLY_STRING) {
        (void)redis_error_of(view_make(answer->str, answer->len));
        redis_facts_read_info(&facts, view_make(answer->str, answer->len));
        (void)redis_facts_durability(&facts);
    }
    redis_decode(answer, &budget, &decoded);
    if (!store_failed(decoded.reply.result)) {
        check_good(&decoded);
    }
    redis_decoded_clear(&decoded);
    FUZZ_CHECK(budget.used_bytes == 0);
}

/* hiredis takes an array's count for true and allocates for it; that is its own affair. */
static bool has_huge_array(struct view bytes)
{
    for (size_t i = 0; i < bytes.length; i++) {
        size_t digits = 0;

        while (bytes.data[i] == '*' && i + 1 + digits < bytes.length && digits < 6 &&
               bytes.data[i + 1 + digits] != '\r') {
            digits++;
        }
        if (digits >= 6) {
            return true;
        }
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct redisReader *reader = redisReaderCreate();
    void *answer = NULL;

    if (!reader) {
        return 0;
    }
    if (size < 64 * 1024 && !has_huge_array(view_make((const char *)data, size)) &&
        redisReaderFeed(reader, (const char *)data, size) == REDIS_OK) {
        while (redisReaderGetReply(reader, &answer) == REDIS_OK && answer) {
            look_at(answer);
            freeReplyObject(answer);
            answer = NULL;
        }
    }
    redisReaderFree(reader);
    return 0;
}
