#include "build_config.h"

#include <string.h>

#include "base/clock.h"
#include "gateway/collector_private.h"
#include "store/hot_cache.h"

/* What the collector does beside polling: jobs that a purge marked are cancelled at upstream,
 * within its limit on cancels; and results that are over leave the store. */

enum {
    CANCEL = 1000000, /* in millionths, as polls are counted */
    CANCEL_BATCH = 5,
    CANCEL_IDLE_MS = 30000, /* marks that were left behind by a podgate that died */
    CANCEL_SPACING_MS = 1000,
    CANCEL_FIRST_PAUSE_MS = 2000,
    CANCEL_LONGEST_PAUSE_MS = 30000,
    EXPIRE_BATCH = 200,
    EXPIRE_MS = 5000,
    EXPIRE_MORE_MS = 50,
};

static uint64_t smaller(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

/* ---- cancelling ------------------------------------------------------------------------------ */

/* Under the lock. */
static void occupy(struct collector *collector, uint64_t now_ms)
{
    if (collector->cancels_in_flight < COLLECTOR_CANCELS_IN_FLIGHT) {
        collector->cancel_slots[collector->cancels_in_flight++] = now_ms + COLLECTOR_LAPSE_MS;
    }
}

/* Under the lock: the oldest one is over. */
static void release(struct collector *collector)
{
    if (collector->cancels_in_flight > 0) {
        collector->cancels_in_flight--;
        memmove(&collector->cancel_slots[0], &collector->cancel_slots[1],
                collector->cancels_in_flight * sizeof collector->cancel_slots[0]);
    }
}

void collector_cancel_settled(struct collector *collector, struct view endpoint,
                              enum metric_cancel outcome)
{
    (void)endpoint; /* the limit is kept for all endpoints together, which is more than is asked */
    pthread_mutex_lock(&collector->lock);
    release(collector);
    collector->cancels_counted[outcome]++;
    if (outcome == METRIC_CANCEL_FAILED) {
        collector->cancel_failed = true;
    }
    pthread_mutex_unlock(&collector->lock);
    collector_wake(collector);
}

static void post(struct collector *collector, const struct store_job *job)
{
    pthread_mutex_lock(&collector->lock);
    occupy(collector, clock_mono_ms());
    pthread_mutex_unlock(&collector->lock);
    if (!collector->post_cancel(collector->shared, job)) {
        pthread_mutex_lock(&collector->lock);
        release(collector);
        collector->cancel_failed = true;
        pthread_mutex_unlock(&collector->lock);
    }
}

static void on_cancels(void *argument, const struct store_reply *reply)
{
    struct collector *collector = argument;
    size_t count;

    collector->cancel.call = NULL;
    if (!collector_store_answered(collector, reply->result) || !collector->running) {
        return; /* due as before: asked again after the pause */
    }
    count = reply->result == STORE_OK ? reply->count : 0;
    for (size_t i = 0; i < count; i++) {
        post(collector, &reply->jobs[i]);
    }
    collector->cancel_tokens +=
        (uint64_t)(collector->cancel_limit - smaller(count, collector->cancel_limit)) * CANCEL;
    collector->cancel.due_ms = clock_mono_ms() + (count > 0 ? CANCEL_SPACING_MS : CANCEL_IDLE_MS);
    collector_schedule(collector, collector->cancel.due_ms);
}

static uint64_t fill(struct collector *collector, uint64_t now_ms)
{
    uint64_t elapsed_ms = smaller(now_ms - collector->cancel_filled_ms, 1000);

    collector->cancel_filled_ms = now_ms;
    collector->cancel_tokens =
        smaller(collector->cancel_tokens + elapsed_ms * COLLECTOR_CANCEL_RATE_MILLI,
                (uint64_t)CANCEL_BATCH * CANCEL);
    return collector->cancel_tokens / CANCEL;
}

/* What the workers told, into the metrics; and how many cancels may be claimed besides. */
static uint32_t take_in_settled(struct collector *collector, uint64_t now_ms)
{
    uint64_t counted[METRIC_CANCEL_COUNT];
    uint32_t room;
    bool failed;
    bool wanted;

    pthread_mutex_lock(&collector->lock);
    while (collector->cancels_in_flight > 0 && collector->cancel_slots[0] <= now_ms) {
        release(collector);
    }
    room = COLLECTOR_CANCELS_IN_FLIGHT - collector->cancels_in_flight;
    failed = collector->cancel_failed;
    wanted = collector->purge_wanted;
    collector->cancel_failed = false;
    collector->purge_wanted = false;
    memcpy(counted, collector->cancels_counted, sizeof counted);
    memset(collector->cancels_counted, 0, sizeof collector->cancels_counted);
    pthread_mutex_unlock(&collector->lock);
    for (size_t i = 0; i < METRIC_CANCEL_COUNT; i++) {
        if (counted[i] > 0) {
            metrics_add(collector->metrics, METRIC_CANCELS, i, 0, (int64_t)counted[i]);
        }
    }
    if (failed) {
        collector->cancel_pause_ms =
            collector->cancel_pause_ms == 0
                ? CANCEL_FIRST_PAUSE_MS
                : smaller(2 * collector->cancel_pause_ms, CANCEL_LONGEST_PAUSE_MS);
        collector->cancel.due_ms = now_ms + collector->cancel_pause_ms;
    } else if (counted[METRIC_CANCEL_DONE] + counted[METRIC_CANCEL_SKIPPED] > 0) {
        collector->cancel_pause_ms = 0;
    }
    if (wanted && collector->cancel_pause_ms == 0) {
        collector->cancel.due_ms = smaller(collector->cancel.due_ms, now_ms);
    }
    return room;
}

static void cancel_turn(struct collector *collector, uint64_t now_ms)
{
    struct store_question question = {
        .operation = STORE_CLAIM_CANCELS,
        .lease_ms = COLLECTOR_LAPSE_MS,
    };
    uint64_t room = take_in_settled(collector, now_ms);

    if (collector->cancel.call || collector->cancel.due_ms > now_ms) {
        return;
    }
    question.limit = (uint32_t)smaller(smaller(room, fill(collector, now_ms)), CANCEL_BATCH);
    if (question.limit == 0) {
        collector->cancel.due_ms = now_ms + CANCEL_SPACING_MS;
        return;
    }
    collector->cancel_limit = question.limit;
    collector->cancel.call = store_ask(collector->client, &question, on_cancels, collector);
    if (!collector->cancel.call) {
        collector->cancel.due_ms = now_ms + CANCEL_LONGEST_PAUSE_MS;
        return;
    }
    collector->cancel_tokens -= (uint64_t)question.limit * CANCEL;
}

/* ---- expiry ---------------------------------------------------------------------------------- */

static void log_evicted(struct collector *collector, const struct store_job *job)
{
    struct log_line *line = log_begin(collector->log, LOG_LEVEL_INFO, "result_evicted");

    log_text(line, "team", job->team);
    log_text(line, "endpoint", job->endpoint);
    log_text(line, "job", job->id);
    log_number(line, "bytes", job->stored_bytes);
    log_end(line);
}

/* What is gone from the store isn't served from memory for a while yet: the answer would depend on
 * who asked lately. */
static void forget_evicted(struct collector *collector, const struct store_job *job)
{
    if (collector->shared->hot_cache) {
        hot_cache_drop(collector->shared->hot_cache, job->endpoint, job->id);
    }
}

static void on_expired(void *argument, const struct store_reply *reply)
{
    struct collector *collector = argument;
    uint64_t gone = 0;

    collector->expire.call = NULL;
    if (!collector_store_answered(collector, reply->result) || !collector->running) {
        return;
    }
    if (reply->result == STORE_OK) {
        gone = reply->expired + reply->evicted;
        metrics_add(collector->metrics, METRIC_RESULTS_GONE, METRIC_GONE_EXPIRED, 0,
                    (int64_t)reply->expired);
        metrics_add(collector->metrics, METRIC_RESULTS_GONE, METRIC_GONE_EVICTED, 0,
                    (int64_t)reply->evicted);
        for (size_t i = 0; i < reply->count; i++) {
            forget_evicted(collector, &reply->jobs[i]);
            log_evicted(collector, &reply->jobs[i]);
        }
    }
    collector->expire.due_ms =
        clock_mono_ms() + (gone >= EXPIRE_BATCH ? EXPIRE_MORE_MS : EXPIRE_MS);
    collector_schedule(collector, collector->expire.due_ms);
}

static void expire_turn(struct collector *collector, uint64_t now_ms)
{
    struct store_question question = {.operation = STORE_EXPIRE, .limit = EXPIRE_BATCH};

    if (collector->expire.call || collector->expire.due_ms > now_ms) {
        return;
    }
    pthread_mutex_lock(&collector->lock);
    question.max_total_bytes = collector->settings.max_total_bytes;
    pthread_mutex_unlock(&collector->lock);
    collector->expire.call = store_ask(collector->client, &question, on_expired, collector);
    if (!collector->expire.call) {
        collector->expire.due_ms = now_ms + EXPIRE_MS;
    }
}

/* ---- both ------------------------------------------------------------------------------------ */

static uint64_t due(const struct collector_chore *chore)
{
    return chore->call ? COLLECTOR_NEVER : chore->due_ms;
}

uint64_t collector_chores_turn(struct collector *collector, uint64_t now_ms)
{
    cancel_turn(collector, now_ms);
    expire_turn(collector, now_ms);
    return smaller(due(&collector->cancel), due(&collector->expire));
}

void collector_chores_cancel(struct collector *collector)
{
    if (collector->cancel.call) {
        store_cancel(collector->cancel.call);
    }
    if (collector->expire.call) {
        store_cancel(collector->expire.call);
    }
}
