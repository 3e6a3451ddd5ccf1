#include "build_config.h"

#include <stdlib.h>

#include "base/clock.h"
#include "gateway/collector_private.h"

/* Which endpoints have jobs, and how many: as the store counts them, every few seconds. From it
 * follow the schedule after a start, the gauge of outstanding jobs, and what is said when they are
 * more than can be polled in time. */

enum {
    LIST_MS = 10000,
    LIST_SHARED_MS = 3000, /* other podgates' jobs are found by it */
    LIST_AGAIN_MS = 5000,
    FORGET_MS = 3600000,
    FORGET_CROWDED_MS = 60000,
};

static uint64_t smaller(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

/* ---- telling --------------------------------------------------------------------------------- */

void collector_endpoint_log(struct collector_endpoint *endpoint, enum log_level level,
                            const char *event, const char *key, uint64_t value)
{
    struct log_line *line = log_begin(endpoint->collector->log, level, event);

    log_word(line, "endpoint", view_make(endpoint->name, endpoint->name_length));
    if (key) {
        log_number(line, key, value);
    }
    log_end(line);
}

static enum collector_capacity capacity_of(uint64_t load, enum collector_capacity told)
{
    /* What was told stays until it is clearly over, so that a line isn't written for each job. */
    uint64_t gone = told == COLLECTOR_CAPACITY_GONE ? POLL_PLAN_FULL / 10 * 9 : POLL_PLAN_FULL;
    uint64_t sparse = POLL_PLAN_FULL / POLL_PLAN_POLLS_PER_RETENTION;

    if (told >= COLLECTOR_CAPACITY_SHORT) {
        sparse = sparse / 10 * 9;
    }
    if (load > gone) {
        return COLLECTOR_CAPACITY_GONE;
    }
    return load > sparse ? COLLECTOR_CAPACITY_SHORT : COLLECTOR_CAPACITY_AMPLE;
}

void collector_endpoint_tell_capacity(struct collector_endpoint *endpoint, uint64_t load,
                                      uint64_t outstanding)
{
    static const char *const events[] = {"capacity_ample", "capacity_short", "capacity_gone"};
    enum collector_capacity capacity = capacity_of(load, endpoint->capacity_told);

    if (capacity == endpoint->capacity_told) {
        return;
    }
    if (capacity > endpoint->capacity_told) {
        metrics_add(endpoint->collector->metrics, METRIC_WARNINGS, METRIC_WARNING_CAPACITY, 0, 1);
    }
    endpoint->capacity_told = capacity;
    collector_endpoint_log(
        endpoint, capacity == COLLECTOR_CAPACITY_AMPLE ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING,
        events[capacity], "outstanding", outstanding);
}

/* ---- listing --------------------------------------------------------------------------------- */

/* Under the lock. */
static void take_in_count(struct collector *collector, const struct store_endpoint_count *count,
                          uint64_t now_ms)
{
    struct collector_endpoint *endpoint =
        collector_endpoint_get(collector, count->endpoint, now_ms);

    if (!endpoint) {
        return; /* without memory: at the next listing */
    }
    endpoint->listing = collector->listings;
    endpoint->listed = count->outstanding;
    endpoint->listed_runsync = count->runsync;
    endpoint->entered = 0;
    endpoint->ended = 0;
    if (count->outstanding > 0 && !endpoint->claim && endpoint->look_ms == COLLECTOR_NEVER) {
        endpoint->look_ms = now_ms;
    }
}

static bool is_forgotten(const struct collector_endpoint *endpoint, uint64_t now_ms)
{
    bool crowded = table_count(endpoint->collector->endpoints) > COLLECTOR_ENDPOINTS_MAXIMUM;

    return !endpoint->claim && endpoint->in_flight == 0 &&
           collector_endpoint_outstanding(endpoint) == 0 &&
           now_ms - endpoint->touched_ms > (crowded ? FORGET_CROWDED_MS : FORGET_MS);
}

/* Under the lock: what wasn't listed has no jobs, and is dropped when that lasts. */
static void sweep_unlisted(struct collector *collector, uint64_t now_ms)
{
    struct collector_endpoint **link = &collector->first;

    while (*link) {
        struct collector_endpoint *endpoint = *link;

        if (endpoint->listing != collector->listings) {
            endpoint->listed = 0;
            endpoint->listed_runsync = 0;
            endpoint->entered = 0;
            endpoint->ended = 0;
        }
        if (is_forgotten(endpoint, now_ms)) {
            *link = endpoint->next;
            table_remove(collector->endpoints, &endpoint->node);
            free(endpoint);
        } else {
            link = &endpoint->next;
        }
    }
}

static void tell_outstanding(struct collector *collector, uint64_t outstanding)
{
    metrics_add(collector->metrics, METRIC_JOBS_OUTSTANDING, 0, 0,
                (int64_t)(outstanding - collector->outstanding_told));
    collector->outstanding_told = outstanding;
}

static void on_listed(void *argument, const struct store_reply *reply)
{
    struct collector *collector = argument;
    uint64_t now_ms = clock_mono_ms();
    uint64_t outstanding = 0;

    collector->list.call = NULL;
    if (!collector_store_answered(collector, reply->result) || !collector->running) {
        return; /* due as before: asked again after the pause */
    }
    collector->list.due_ms = now_ms + (collector->store_shared ? LIST_SHARED_MS : LIST_MS);
    if (reply->result == STORE_OK) {
        pthread_mutex_lock(&collector->lock);
        collector->listings++;
        for (size_t i = 0; i < reply->count; i++) {
            take_in_count(collector, &reply->endpoints[i], now_ms);
            outstanding += reply->endpoints[i].outstanding;
        }
        sweep_unlisted(collector, now_ms);
        pthread_mutex_unlock(&collector->lock);
        tell_outstanding(collector, outstanding);
    }
    collector_schedule(collector, now_ms);
}

void collector_list_turn(struct collector *collector, uint64_t now_ms)
{
    struct store_question question = {.operation = STORE_LIST_ENDPOINTS};

    pthread_mutex_lock(&collector->lock);
    if (collector->list_wanted) {
        collector->list_wanted = false;
        collector->list.due_ms = smaller(collector->list.due_ms, now_ms + COLLECTOR_SPACING_MS);
    }
    pthread_mutex_unlock(&collector->lock);
    if (collector->list.call || collector->list.due_ms > now_ms) {
        return;
    }
    collector->list.call = store_ask(collector->client, &question, on_listed, collector);
    if (!collector->list.call) {
        collector->list.due_ms = now_ms + LIST_AGAIN_MS;
    }
}
