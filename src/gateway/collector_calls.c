#include "build_config.h"

#include "base/clock.h"
#include "gateway/collector_private.h"

/* What other threads ask and tell the collector: a look at its endpoints under the lock, and a word
 * to the main thread when that changes what it has to do. */

enum { PLAN_MARGIN_MS = 20 };

static void lock(struct collector *collector)
{
    pthread_mutex_lock(&collector->lock);
}

static void unlock(struct collector *collector)
{
    pthread_mutex_unlock(&collector->lock);
}

/* Under the lock. True when the main thread has to be woken for it. */
static bool look_at(struct collector_endpoint *endpoint, uint64_t when_ms)
{
    if (when_ms >= endpoint->look_ms) {
        return false;
    }
    endpoint->look_ms = when_ms;
    return when_ms < endpoint->collector->armed_ms;
}

void collector_note_job(struct collector *collector, struct view endpoint, uint64_t due_ms)
{
    uint64_t now_ms = clock_mono_ms();
    struct collector_endpoint *found;
    bool wake = false;

    lock(collector);
    found = collector_endpoint_get(collector, endpoint, now_ms);
    if (found) {
        found->entered++;
        wake = look_at(found, now_ms + due_ms);
    } else {
        collector->list_wanted = true;
        wake = true;
    }
    unlock(collector);
    if (wake) {
        collector_wake(collector);
    }
}

void collector_note_purge(struct collector *collector, struct view endpoint)
{
    (void)endpoint; /* the store gives out marked jobs of all endpoints */
    lock(collector);
    collector->purge_wanted = true;
    unlock(collector);
    collector_wake(collector);
}

void collector_settled(struct collector *collector, const struct collector_poll *poll)
{
    uint64_t now_ms = clock_mono_ms();
    struct collector_endpoint *endpoint;
    bool wake = false;

    lock(collector);
    endpoint = collector_endpoint_get(collector, poll->endpoint, now_ms);
    if (endpoint) {
        wake = collector_endpoint_learn(endpoint, poll, now_ms);
    }
    unlock(collector);
    if (wake) {
        collector_wake(collector);
    }
}

uint64_t collector_take_poll(struct collector *collector, struct view endpoint)
{
    uint64_t now_ms = clock_mono_ms();
    struct collector_endpoint *found;
    uint64_t wait_ms = 0;

    lock(collector);
    found = collector_endpoint_get(collector, endpoint, now_ms);
    if (found && collector_endpoint_take(found, COLLECTOR_WAITERS, 1, now_ms) == 0) {
        wait_ms = collector_endpoint_wait(found, COLLECTOR_WAITERS, now_ms);
    }
    unlock(collector);
    return wait_ms;
}

struct collector_next collector_plan(struct collector *collector, struct view endpoint,
                                     enum store_kind kind, enum job_state state, uint64_t age_ms,
                                     uint32_t failures)
{
    const struct collector_settings *settings = &collector->settings;
    struct poll_plan_question question = {
        .age_ms = age_ms,
        .failures = failures,
        .stretch = POLL_PLAN_EVEN,
        .lost = state == JOB_LOST,
    };
    uint64_t now_ms = clock_mono_ms();
    struct collector_endpoint *found;
    struct poll_plan plan;
    bool wake = false;

    lock(collector);
    question.retention_ms = settings->retention_ms[kind];
    question.first_poll_ms = settings->first_poll_ms;
    question.max_poll_ms = settings->max_poll_ms;
    question.random = collector_random(collector);
    found = collector_endpoint_find(collector, endpoint);
    if (found) {
        question.stretch = collector_endpoint_stretch(found);
        question.history = &found->histories[kind];
    }
    plan = poll_plan_make(&question);
    if (found) {
        /* The store will count the span from a moment somewhat later than this one. */
        wake = look_at(found, now_ms + plan.due_ms + PLAN_MARGIN_MS);
    }
    unlock(collector);
    if (wake) {
        collector_wake(collector);
    }
    return (struct collector_next){.due_ms = plan.due_ms, .deadline_ms = plan.deadline_ms};
}

bool collector_has_capacity(struct collector *collector, struct view endpoint, enum store_kind kind)
{
    struct collector_endpoint *found;
    bool has = true;

    lock(collector);
    found = collector_endpoint_find(collector, endpoint);
    if (found) {
        const struct collector_settings *settings = &collector->settings;
        uint64_t one =
            kind == STORE_KIND_RUN
                ? poll_plan_load(1, settings->retention_ms[kind], 0, 1, COLLECTOR_POLL_RATE_MILLI)
                : poll_plan_load(0, 1, 1, settings->retention_ms[kind], COLLECTOR_POLL_RATE_MILLI);

        has = collector_endpoint_load(found) + one <= POLL_PLAN_FULL;
    }
    unlock(collector);
    return has;
}
