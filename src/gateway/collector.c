#include "build_config.h"

#include "gateway/collector.h"

#include <event2/event.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "gateway/collector_private.h"

/* When the store is asked for due jobs, and what is done with them. Each endpoint has a time at
 * which it is looked at next: when its next job is due as the store said, when somebody noted one,
 * or when its budget allows. Between those times nothing runs. */

enum {
    CLAIMS_MAXIMUM = 16,   /* questions for due jobs that are under way at once */
    TIMER_SHORTEST_MS = 5, /* the clock of clock_mono_ms() ticks in about that */
    IDLE_MS = 10000,
    LOOK_LONGEST_MS = 5000,
    LOOK_LONGEST_SHARED_MS = 1000,
    BROKEN_MS = 5000,
    STORE_FIRST_PAUSE_MS = 250,
    STORE_LONGEST_PAUSE_MS = 5000,
    IN_FLIGHT_MAXIMUM = 1000,
    IN_FLIGHT_MINIMUM = 16,
};

static uint64_t smaller(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static uint64_t larger(uint64_t left, uint64_t right)
{
    return left > right ? left : right;
}

static void lock(struct collector *collector)
{
    pthread_mutex_lock(&collector->lock);
}

static void unlock(struct collector *collector)
{
    pthread_mutex_unlock(&collector->lock);
}

uint64_t collector_random(struct collector *collector)
{
    /* splitmix64 */
    uint64_t value = collector->random_state += UINT64_C(0x9e3779b97f4a7c15);

    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

void collector_seed(struct collector *collector, uint64_t seed)
{
    collector->random_state = seed;
}

/* ---- when the main thread looks -------------------------------------------------------------- */

/* Under the lock: the timer is the main thread's, and only it calls this. */
static void arm(struct collector *collector, uint64_t when_ms, uint64_t now_ms)
{
    uint64_t wait_ms = when_ms > now_ms ? when_ms - now_ms : 0;
    struct timeval wait;

    wait_ms = larger(smaller(wait_ms, IDLE_MS), TIMER_SHORTEST_MS);
    wait.tv_sec = (time_t)(wait_ms / 1000);
    wait.tv_usec = (suseconds_t)(wait_ms % 1000 * 1000);
    collector->armed_ms = now_ms + wait_ms;
    /* Fails only without memory for the heap of timers, which holds this one already. */
    event_add(collector->timer, &wait);
}

void collector_schedule(struct collector *collector, uint64_t when_ms)
{
    if (!collector->running) {
        return;
    }
    lock(collector);
    if (when_ms < collector->armed_ms) {
        arm(collector, when_ms, clock_mono_ms());
    }
    unlock(collector);
}

void collector_wake(struct collector *collector)
{
    uint64_t one = 1;

    if (!atomic_exchange(&collector->wake_sent, true) &&
        write(collector->wake_descriptor, &one, sizeof one) < 0) {
        /* The counter can't be full: it is read before it is written again. */
        atomic_store(&collector->wake_sent, false);
    }
}

/* ---- the store ------------------------------------------------------------------------------- */

static void log_store(struct collector *collector, enum log_level level, const char *event,
                      enum store_result result)
{
    struct log_line *line = log_begin(collector->log, level, event);

    log_string(line, "reason", store_result_text(result));
    log_end(line);
}

bool collector_store_answered(struct collector *collector, enum store_result result)
{
    uint64_t now_ms = clock_mono_ms();

    /* A broken value is that value's trouble, not the store's. */
    if (!store_failed(result) || result == STORE_BROKEN) {
        if (collector->store_pause_ms > 0) {
            log_store(collector, LOG_LEVEL_INFO, "collector_store_back", result);
        }
        collector->store_pause_ms = 0;
        collector->store_paused_until_ms = 0;
        return true;
    }
    if (collector->store_paused_until_ms > now_ms) {
        return false; /* asked before it was known */
    }
    if (collector->store_pause_ms == 0) {
        log_store(collector, LOG_LEVEL_WARNING, "collector_store_away", result);
    }
    collector->store_pause_ms = larger(
        smaller(2 * collector->store_pause_ms, STORE_LONGEST_PAUSE_MS), STORE_FIRST_PAUSE_MS);
    collector->store_paused_until_ms = now_ms + collector->store_pause_ms;
    return false;
}

/* ---- claims ---------------------------------------------------------------------------------- */

static struct view name_of(const struct collector_endpoint *endpoint)
{
    return view_make(endpoint->name, endpoint->name_length);
}

static uint64_t longest_look(const struct collector *collector)
{
    return collector->store_shared ? LOOK_LONGEST_SHARED_MS : LOOK_LONGEST_MS;
}

/* When to look after a claim that brought what there was. Under the lock. */
static uint64_t next_look(const struct collector_endpoint *endpoint,
                          const struct store_reply *reply, uint64_t now_ms)
{
    uint64_t longest_ms = longest_look(endpoint->collector);

    if (reply->next_ms != UINT64_MAX) {
        return now_ms + (reply->next_ms > reply->now_ms
                             ? smaller(reply->next_ms - reply->now_ms, longest_ms)
                             : 0);
    }
    /* Jobs that aren't there any more would be noted; so this is for counts that were wrong. */
    return collector_endpoint_outstanding(endpoint) > 0 ? now_ms + longest_ms : COLLECTOR_NEVER;
}

static void post(struct collector *collector, struct collector_endpoint *endpoint,
                 const struct store_job *job)
{
    struct log_line *line;

    if (!FAULT_POINT("collector.post") && collector->post_poll(collector->shared, job)) {
        collector->memory_told = false;
        return;
    }
    lock(collector);
    collector_endpoint_release(endpoint, job->fence);
    unlock(collector);
    if (!collector->memory_told) {
        collector->memory_told = true;
        line = log_begin(collector->log, LOG_LEVEL_ERROR, "collector_no_memory");
        log_word(line, "endpoint", job->endpoint);
        log_end(line);
    }
}

static bool is_late(const struct store_job *job, uint64_t now_ms)
{
    return job->deadline_ms > 0 && job->deadline_ms < now_ms;
}

static void take_in(struct collector_endpoint *endpoint, const struct store_reply *reply)
{
    struct collector *collector = endpoint->collector;
    uint64_t now_ms = clock_mono_ms();
    size_t late = 0;

    lock(collector);
    for (size_t i = 0; i < reply->count; i++) {
        collector_endpoint_occupy(endpoint, reply->jobs[i].fence, now_ms);
        late += is_late(&reply->jobs[i], reply->now_ms);
    }
    unlock(collector);
    if (late > 0) {
        metrics_add(collector->metrics, METRIC_POLLS_LATE, 0, 0, (int64_t)late);
    }
    for (size_t i = 0; i < reply->count; i++) {
        post(collector, endpoint, &reply->jobs[i]);
    }
}

static void on_claimed(void *argument, const struct store_reply *reply)
{
    struct collector_endpoint *endpoint = argument;
    struct collector *collector = endpoint->collector;
    uint32_t limit = endpoint->claim_limit;
    bool answered = collector_store_answered(collector, reply->result);
    uint64_t now_ms = clock_mono_ms();
    uint64_t when_ms = now_ms;
    uint32_t count = 0;

    endpoint->claim = NULL;
    collector->claims_running--;
    if (!collector->running) {
        return; /* the leases lapse, and whoever runs then takes the jobs */
    }
    if (reply->result == STORE_OK) {
        count = (uint32_t)smaller(reply->count, limit);
        take_in(endpoint, reply);
    }
    lock(collector);
    collector_endpoint_conclude(endpoint, limit, count);
    if (!answered) {
        when_ms = collector->store_paused_until_ms;
    } else if (reply->result != STORE_OK) {
        when_ms = now_ms + BROKEN_MS;
    } else if (count < limit) {
        when_ms = next_look(endpoint, reply, now_ms);
    }
    endpoint->look_ms = smaller(endpoint->look_ms, when_ms);
    when_ms = larger(endpoint->look_ms, endpoint->looked_ms + COLLECTOR_SPACING_MS);
    unlock(collector);
    collector_schedule(collector, when_ms);
}

/* A due time further off than any plan or lease gives is a clock's that was set since. */
static uint64_t longest_due(struct collector_endpoint *endpoint)
{
    const struct collector_settings *settings = &endpoint->collector->settings;
    uint64_t longest_ms =
        poll_plan_longest(settings->retention_ms[STORE_KIND_RUN], settings->max_poll_ms,
                          collector_endpoint_stretch(endpoint));

    return larger(longest_ms, 2 * STORE_LEASE_MS);
}

static void claim(struct collector_endpoint *endpoint, uint32_t limit, uint64_t now_ms)
{
    struct collector *collector = endpoint->collector;
    struct store_question question = {
        .operation = STORE_CLAIM_DUE,
        .endpoint = name_of(endpoint),
        .limit = limit,
        .lease_ms = STORE_LEASE_MS,
    };

    lock(collector);
    question.max_poll_ms = longest_due(endpoint);
    question.poll_rate_milli = endpoint->budget.pace_milli;
    unlock(collector);
    endpoint->claim_limit = limit;
    endpoint->claim = FAULT_POINT("collector.claim")
                          ? NULL
                          : store_ask(collector->client, &question, on_claimed, endpoint);
    if (endpoint->claim) {
        collector->claims_running++;
        return;
    }
    if (collector_store_answered(collector, STORE_NO_MEMORY)) {
        return; /* not reached: no memory is a failure */
    }
    lock(collector);
    collector_endpoint_conclude(endpoint, limit, 0);
    endpoint->look_ms = now_ms;
    unlock(collector);
}

/* ---- telling ----------------------------------------------------------------------------------
 */

/* One line per change. `failing` and `throttled` were read under the lock. */
static void tell(struct collector_endpoint *endpoint, bool failing, bool throttled,
                 uint64_t pace_milli, uint32_t lapsed)
{
    if (failing != endpoint->failing_told) {
        endpoint->failing_told = failing;
        collector_endpoint_log(endpoint, failing ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
                               failing ? "collector_endpoint_failing" : "collector_endpoint_back",
                               NULL, 0);
    }
    if (throttled != endpoint->throttled_told) {
        endpoint->throttled_told = throttled;
        collector_endpoint_log(endpoint, throttled ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
                               throttled ? "collector_pace_halved" : "collector_pace_restored",
                               "polls_per_10s", pace_milli / 100);
    }
    if (lapsed > 0) {
        collector_endpoint_log(endpoint, LOG_LEVEL_WARNING, "collector_polls_lapsed", "polls",
                               lapsed);
    }
}

/* ---- the turn -------------------------------------------------------------------------------- */

/* Looks at one endpoint; gives when to look at it again. */
static uint64_t visit(struct collector_endpoint *endpoint, uint64_t now_ms)
{
    struct collector *collector = endpoint->collector;
    bool busy = endpoint->claim != NULL;
    bool saturated = collector->claims_running >= CLAIMS_MAXIMUM;
    uint32_t limit = 0;
    uint32_t lapsed;
    bool failing;
    bool throttled;
    uint64_t pace_milli;
    uint64_t load;
    uint64_t outstanding;
    uint64_t next_ms;

    lock(collector);
    lapsed = collector_endpoint_lapse(endpoint, now_ms);
    if (!busy && !saturated) {
        limit = collector_endpoint_prepare(endpoint, now_ms);
    }
    failing = endpoint->failing;
    pace_milli = endpoint->budget.pace_milli;
    throttled = pace_milli < COLLECTOR_POLL_RATE_MILLI;
    load = collector_endpoint_load(endpoint);
    outstanding = collector_endpoint_outstanding(endpoint);
    /* One that waits behind others is looked at when one of their claims is answered. */
    next_ms =
        busy || (saturated && endpoint->look_ms <= now_ms) ? COLLECTOR_NEVER : endpoint->look_ms;
    unlock(collector);
    tell(endpoint, failing, throttled, pace_milli, lapsed);
    collector_endpoint_tell_capacity(endpoint, load, outstanding);
    if (limit > 0) {
        claim(endpoint, limit, now_ms);
    }
    return next_ms;
}

static struct collector_endpoint *first_endpoint(struct collector *collector)
{
    struct collector_endpoint *first;

    lock(collector);
    first = collector->first;
    collector->waits_for_slot = false;
    unlock(collector);
    return first;
}

static uint64_t visit_all(struct collector *collector, uint64_t now_ms)
{
    uint64_t next_ms = smaller(collector->list.call ? COLLECTOR_NEVER : collector->list.due_ms,
                               collector_chores_turn(collector, now_ms));

    collector_list_turn(collector, now_ms);
    for (struct collector_endpoint *endpoint = first_endpoint(collector); endpoint;
         endpoint = endpoint->next) {
        next_ms = smaller(next_ms, visit(endpoint, now_ms));
    }
    return next_ms;
}

static void turn(struct collector *collector)
{
    uint64_t now_ms = clock_mono_ms();
    uint64_t next_ms;

    if (!collector->running) {
        return;
    }
    lock(collector);
    /* What is noted from here on and isn't seen any more by this turn wakes another. */
    collector->armed_ms = COLLECTOR_NEVER;
    unlock(collector);
    if (collector->store_pause_ms > 0 && collector->store_paused_until_ms > now_ms) {
        next_ms = collector->store_paused_until_ms;
    } else {
        next_ms = visit_all(collector, now_ms);
    }
    lock(collector);
    arm(collector, next_ms, now_ms);
    unlock(collector);
}

static void on_timer(evutil_socket_t descriptor, short what, void *argument)
{
    (void)descriptor;
    (void)what;
    turn(argument);
}

static void on_wake(evutil_socket_t descriptor, short what, void *argument)
{
    struct collector *collector = argument;
    uint64_t count;

    (void)what;
    if (read((int)descriptor, &count, sizeof count) < 0) {
        count = 0;
    }
    atomic_store(&collector->wake_sent, false);
    turn(collector);
}

/* ---- its life -------------------------------------------------------------------------------- */

static void load_settings(struct collector *collector, const struct config *config)
{
    struct collector_settings *settings = &collector->settings;

    settings->first_poll_ms = config->collector.first_poll_ms;
    settings->max_poll_ms = config->collector.max_poll_ms;
    settings->retention_ms[STORE_KIND_RUN] = config->upstream.retention_run_ms;
    settings->retention_ms[STORE_KIND_RUNSYNC] = config->upstream.retention_runsync_ms;
    settings->max_total_bytes = config->retention.max_total_bytes;
    settings->instances = collector->store_shared ? larger(config->store.instances, 1) : 1;
    /* Callers' requests need connections too. */
    settings->in_flight_maximum = (uint32_t)larger(
        smaller(config->upstream.max_connections / 2, IN_FLIGHT_MAXIMUM), IN_FLIGHT_MINIMUM);
}

struct collector *collector_create(struct gateway_shared *shared, struct loop *loop,
                                   struct store_client *client, struct metrics_block *metrics,
                                   struct log_ring *log, const struct config *config)
{
    struct collector *collector = calloc(1, sizeof *collector);

    if (!collector) {
        return NULL;
    }
    pthread_mutex_init(&collector->lock, NULL);
    collector->shared = shared;
    collector->loop = loop;
    collector->client = client;
    collector->metrics = metrics;
    collector->log = log;
    collector->store_shared = store_is_shared(shared->store);
    collector->armed_ms = COLLECTOR_NEVER;
    load_settings(collector, config);
    collector->endpoints = table_create();
    collector->timer = evtimer_new(loop_base(loop), on_timer, collector);
    collector->wake_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (collector->wake_descriptor >= 0) {
        collector->wake_event = event_new(loop_base(loop), collector->wake_descriptor,
                                          EV_READ | EV_PERSIST, on_wake, collector);
    }
    if (!collector->endpoints || !collector->timer || !collector->wake_event ||
        event_add(collector->wake_event, NULL) != 0 ||
        getrandom(&collector->random_state, sizeof collector->random_state, 0) !=
            (ssize_t)sizeof collector->random_state) {
        collector_destroy(collector);
        return NULL;
    }
    return collector;
}

void collector_start(struct collector *collector, collector_post *poll, collector_post *cancel)
{
    uint64_t now_ms = clock_mono_ms();

    collector->post_poll = poll;
    collector->post_cancel = cancel;
    collector->running = true;
    collector->list.due_ms = now_ms;
    collector->cancel.due_ms = now_ms;
    collector->expire.due_ms = now_ms;
    turn(collector);
}

void collector_stop(struct collector *collector)
{
    collector->running = false;
    event_del(collector->timer);
}

void collector_destroy(struct collector *collector)
{
    struct collector_endpoint *endpoint;

    if (!collector) {
        return;
    }
    if (collector->list.call) {
        store_cancel(collector->list.call);
    }
    collector_chores_cancel(collector);
    endpoint = collector->first;
    while (endpoint) {
        struct collector_endpoint *next = endpoint->next;

        if (endpoint->claim) {
            store_cancel(endpoint->claim);
        }
        free(endpoint);
        endpoint = next;
    }
    table_destroy(collector->endpoints);
    if (collector->timer) {
        event_free(collector->timer);
    }
    if (collector->wake_event) {
        event_free(collector->wake_event);
    }
    if (collector->wake_descriptor >= 0) {
        close(collector->wake_descriptor);
    }
    pthread_mutex_destroy(&collector->lock);
    free(collector);
}

void collector_adopt(struct collector *collector, const struct config *config)
{
    lock(collector);
    load_settings(collector, config);
    unlock(collector);
    collector_schedule(collector, clock_mono_ms());
}
