#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/collector_private.h"

/* What is known of one endpoint: how many polls it may have, how upstream takes them, how many jobs
 * wait for one, how long they run. No clock and no lock in here: callers bring both. */

enum {
    POLL = 1000000,  /* in a bucket: pace_milli polls in 1000 s fill pace_milli a ms */
    BURST_MS = 100,  /* a bucket holds what comes in so long, */
    BURST_POLLS = 5, /* and so many more */
    HUNGRY_MS = 1000,
    BOOKED_MAXIMUM_MS = 5000,
    PACE_PARTS = 50,        /* no 429 brings the pace below this part of the rate */
    PACE_HALVING_MS = 1000, /* all 429 within this are one */
    PACE_GROWTH_MS = 30000, /* from nothing to the whole rate */
    FAILURES_TOLERATED = 5, /* in a row, before an endpoint counts as failing */
    FIRST_PAUSE_MS = 1000,
    SLOT_CHECK_MS = 1000,
};

static uint64_t smaller(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static uint64_t larger(uint64_t left, uint64_t right)
{
    return left > right ? left : right;
}

/* ---- the table ------------------------------------------------------------------------------- */

struct collector_endpoint *collector_endpoint_find(struct collector *collector, struct view name)
{
    struct table_node *node = table_find(collector->endpoints, name);

    return (struct collector_endpoint *)node; /* the node is the first member */
}

struct collector_endpoint *collector_endpoint_get(struct collector *collector, struct view name,
                                                  uint64_t now_ms)
{
    struct collector_endpoint *endpoint = collector_endpoint_find(collector, name);

    if (endpoint) {
        endpoint->touched_ms = now_ms;
        return endpoint;
    }
    if (name.length > COLLECTOR_ENDPOINT_BYTES) {
        return NULL;
    }
    endpoint = calloc(1, sizeof *endpoint);
    if (!endpoint) {
        return NULL;
    }
    endpoint->collector = collector;
    endpoint->name_length = name.length;
    if (name.length > 0) {
        memcpy(endpoint->name, name.data, name.length);
    }
    endpoint->touched_ms = now_ms;
    endpoint->look_ms = COLLECTOR_NEVER;
    endpoint->window = COLLECTOR_POLLS_IN_FLIGHT;
    endpoint->budget.pace_milli = COLLECTOR_POLL_RATE_MILLI;
    /* Full: filled_ms is 0, as if nothing had been polled since the machine started. */
    if (!table_insert(collector->endpoints, &endpoint->node,
                      view_make(endpoint->name, endpoint->name_length))) {
        free(endpoint);
        return NULL;
    }
    endpoint->next = collector->first;
    collector->first = endpoint;
    return endpoint;
}

uint64_t collector_endpoint_outstanding(const struct collector_endpoint *endpoint)
{
    uint64_t entered = endpoint->listed + endpoint->entered;

    return entered > endpoint->ended ? entered - endpoint->ended : 0;
}

uint64_t collector_endpoint_load(const struct collector_endpoint *endpoint)
{
    const struct collector_settings *settings = &endpoint->collector->settings;
    uint64_t all = collector_endpoint_outstanding(endpoint);
    uint64_t runsync = smaller(endpoint->listed_runsync, all);

    return poll_plan_load(all - runsync, settings->retention_ms[STORE_KIND_RUN], runsync,
                          settings->retention_ms[STORE_KIND_RUNSYNC], COLLECTOR_POLL_RATE_MILLI);
}

uint32_t collector_endpoint_stretch(const struct collector_endpoint *endpoint)
{
    return poll_plan_stretch(collector_endpoint_outstanding(endpoint), endpoint->budget.pace_milli,
                             endpoint->collector->settings.max_poll_ms);
}

/* ---- the budget ------------------------------------------------------------------------------ */

/* What claims are sure of: what it takes to poll each job thrice in its retention, but at least
 * half and at most nine tenths, so that those who wait get something too. */
static uint64_t share_of_claims(const struct collector_endpoint *endpoint)
{
    uint64_t pace = endpoint->budget.pace_milli;
    uint64_t load = smaller(collector_endpoint_load(endpoint), POLL_PLAN_FULL);
    uint64_t needed =
        COLLECTOR_POLL_RATE_MILLI * load / POLL_PLAN_FULL * POLL_PLAN_POLLS_PER_RETENTION;

    return smaller(larger(needed, pace / 2), pace - pace / 10);
}

static uint64_t share_of(const struct collector_endpoint *endpoint, enum collector_taker taker)
{
    uint64_t claims = share_of_claims(endpoint);
    uint64_t instances = endpoint->collector->settings.instances;

    if (taker == COLLECTOR_CLAIMS) {
        return claims;
    }
    /* Claims of all podgates together keep to the rate by the store; waiters by each one's part. */
    return (instances > 1 ? endpoint->budget.pace_milli : endpoint->budget.pace_milli - claims) /
           instances;
}

static void pour(struct collector_bucket *bucket, uint64_t rate_milli, uint64_t elapsed_ms)
{
    uint64_t most = rate_milli * BURST_MS + (uint64_t)BURST_POLLS * POLL;

    bucket->level = smaller(bucket->level + rate_milli * elapsed_ms, most);
}

static void fill(struct collector_endpoint *endpoint, uint64_t now_ms)
{
    struct collector_budget *budget = &endpoint->budget;
    uint64_t elapsed_ms = smaller(now_ms - budget->filled_ms, 60000);

    if (elapsed_ms == 0) {
        return;
    }
    budget->filled_ms = now_ms;
    budget->pace_milli =
        smaller(budget->pace_milli + COLLECTOR_POLL_RATE_MILLI * elapsed_ms / PACE_GROWTH_MS,
                COLLECTOR_POLL_RATE_MILLI);
    pour(&budget->whole, budget->pace_milli, elapsed_ms);
    for (size_t taker = 0; taker < COLLECTOR_TAKERS; taker++) {
        pour(&budget->shares[taker], share_of(endpoint, (enum collector_taker)taker), elapsed_ms);
    }
}

/* The share counts only while the other goes short; waiters of several podgates always have
 * theirs. */
static bool keeps_to_share(const struct collector_endpoint *endpoint, enum collector_taker taker,
                           uint64_t now_ms)
{
    enum collector_taker other = taker == COLLECTOR_CLAIMS ? COLLECTOR_WAITERS : COLLECTOR_CLAIMS;

    return endpoint->budget.hungry_until_ms[other] > now_ms ||
           (taker == COLLECTOR_WAITERS && endpoint->collector->settings.instances > 1);
}

uint32_t collector_endpoint_take(struct collector_endpoint *endpoint, enum collector_taker taker,
                                 uint32_t wanted, uint64_t now_ms)
{
    struct collector_budget *budget = &endpoint->budget;
    struct collector_bucket *share = &budget->shares[taker];
    uint64_t available;
    uint64_t taken;

    fill(endpoint, now_ms);
    available = budget->whole.level;
    if (keeps_to_share(endpoint, taker, now_ms)) {
        available = smaller(available, share->level);
    }
    taken = smaller(available / POLL, wanted);
    budget->whole.level -= taken * POLL;
    share->level -= smaller(taken * POLL, share->level);
    if (taken < wanted) {
        budget->hungry_until_ms[taker] = now_ms + HUNGRY_MS;
    }
    return (uint32_t)taken;
}

static uint64_t time_to_fill(const struct collector_bucket *bucket, uint64_t rate_milli)
{
    if (bucket->level >= POLL) {
        return 1;
    }
    return (POLL - bucket->level) / larger(rate_milli, 1) + 1;
}

uint64_t collector_endpoint_wait(struct collector_endpoint *endpoint, enum collector_taker taker,
                                 uint64_t now_ms)
{
    struct collector_budget *budget = &endpoint->budget;
    bool shared = keeps_to_share(endpoint, taker, now_ms);
    uint64_t rate_milli = shared ? share_of(endpoint, taker) : budget->pace_milli;
    uint64_t wait_ms = time_to_fill(shared ? &budget->shares[taker] : &budget->whole, rate_milli);
    uint64_t when_ms;

    if (taker == COLLECTOR_CLAIMS) {
        return wait_ms;
    }
    /* One behind the other, else all that were put off would come back at once for one poll. */
    when_ms = larger(now_ms + wait_ms, budget->booked_ms);
    when_ms = smaller(when_ms, now_ms + BOOKED_MAXIMUM_MS);
    budget->booked_ms = when_ms + POLL / larger(rate_milli, 1);
    return when_ms - now_ms;
}

static void throttle(struct collector_endpoint *endpoint, uint64_t now_ms)
{
    struct collector_budget *budget = &endpoint->budget;

    if (budget->throttled_ms > 0 && now_ms - budget->throttled_ms < PACE_HALVING_MS) {
        return;
    }
    fill(endpoint, now_ms);
    budget->throttled_ms = now_ms;
    budget->pace_milli = larger(budget->pace_milli / 2, COLLECTOR_POLL_RATE_MILLI / PACE_PARTS);
    budget->whole.level /= 2;
}

/* ---- claimed polls in flight ----------------------------------------------------------------- */

void collector_endpoint_occupy(struct collector_endpoint *endpoint, uint64_t fence, uint64_t now_ms)
{
    if (endpoint->in_flight == COLLECTOR_POLLS_IN_FLIGHT) {
        return; /* the store gave more than was asked for */
    }
    endpoint->slots[endpoint->in_flight++] = (struct collector_slot){
        .fence = fence,
        .lapse_ms = now_ms + COLLECTOR_LAPSE_MS,
    };
    endpoint->collector->in_flight++;
}

static void remove_slot(struct collector_endpoint *endpoint, uint32_t index)
{
    endpoint->in_flight--;
    endpoint->collector->in_flight--;
    /* The order stays: the oldest is the first. */
    memmove(&endpoint->slots[index], &endpoint->slots[index + 1],
            (endpoint->in_flight - index) * sizeof endpoint->slots[0]);
}

void collector_endpoint_release(struct collector_endpoint *endpoint, uint64_t fence)
{
    for (uint32_t i = 0; i < endpoint->in_flight; i++) {
        if (fence == 0 || endpoint->slots[i].fence == fence) {
            remove_slot(endpoint, i);
            return;
        }
    }
}

uint32_t collector_endpoint_lapse(struct collector_endpoint *endpoint, uint64_t now_ms)
{
    uint32_t count = 0;

    while (endpoint->in_flight > 0 && endpoint->slots[0].lapse_ms <= now_ms) {
        remove_slot(endpoint, 0);
        count++;
    }
    return count;
}

/* ---- when to look ---------------------------------------------------------------------------- */

static uint32_t free_slots(struct collector_endpoint *endpoint)
{
    struct collector *collector = endpoint->collector;
    uint32_t maximum = collector->settings.in_flight_maximum;
    uint32_t own =
        endpoint->window > endpoint->in_flight ? endpoint->window - endpoint->in_flight : 0;
    uint32_t used = collector->in_flight + collector->in_claims;
    uint32_t all = maximum > used ? maximum - used : 0;

    endpoint->waits_for_slot = own == 0 || all == 0;
    if (all == 0) {
        collector->waits_for_slot = true;
    }
    return own < all ? own : all;
}

uint32_t collector_endpoint_prepare(struct collector_endpoint *endpoint, uint64_t now_ms)
{
    struct collector *collector = endpoint->collector;
    uint32_t wanted;
    uint32_t count;

    if (endpoint->waits_for_slot && free_slots(endpoint) > 0) {
        endpoint->look_ms = smaller(endpoint->look_ms, now_ms);
    }
    if (endpoint->look_ms > now_ms) {
        return 0;
    }
    if (endpoint->looked_ms > 0 && endpoint->looked_ms + COLLECTOR_SPACING_MS > now_ms) {
        endpoint->look_ms = endpoint->looked_ms + COLLECTOR_SPACING_MS;
        return 0;
    }
    if (endpoint->paused_until_ms > now_ms) {
        endpoint->look_ms = endpoint->paused_until_ms;
        return 0;
    }
    wanted = free_slots(endpoint);
    if (wanted == 0) {
        endpoint->look_ms = now_ms + SLOT_CHECK_MS;
        return 0;
    }
    count = collector_endpoint_take(endpoint, COLLECTOR_CLAIMS, wanted, now_ms);
    if (count == 0) {
        endpoint->look_ms = now_ms + collector_endpoint_wait(endpoint, COLLECTOR_CLAIMS, now_ms);
        return 0;
    }
    collector->in_claims += count;
    endpoint->looked_ms = now_ms;
    endpoint->look_ms = COLLECTOR_NEVER;
    return count;
}

void collector_endpoint_conclude(struct collector_endpoint *endpoint, uint32_t limit,
                                 uint32_t count)
{
    struct collector_budget *budget = &endpoint->budget;
    uint64_t unused = count < limit ? (uint64_t)(limit - count) * POLL : 0;

    endpoint->collector->in_claims -= limit;
    budget->whole.level += unused;
    budget->shares[COLLECTOR_CLAIMS].level += unused;
    if (unused > 0) {
        budget->hungry_until_ms[COLLECTOR_CLAIMS] = 0; /* it got more than it needed */
    }
}

/* ---- what polls tell ------------------------------------------------------------------------- */

static void note_failure(struct collector_endpoint *endpoint, uint64_t now_ms)
{
    uint64_t longest_ms = larger(endpoint->collector->settings.max_poll_ms, FIRST_PAUSE_MS);

    endpoint->failures++;
    /* Polls that were under way when the first of them failed say nothing new. */
    if (endpoint->failures < FAILURES_TOLERATED || endpoint->paused_until_ms > now_ms) {
        return;
    }
    endpoint->failing = true;
    endpoint->window = (uint32_t)larger(endpoint->window / 4, 1);
    endpoint->pause_ms =
        endpoint->pause_ms == 0 ? FIRST_PAUSE_MS : smaller(2 * endpoint->pause_ms, longest_ms);
    endpoint->paused_until_ms = now_ms + endpoint->pause_ms;
}

static void note_success(struct collector_endpoint *endpoint, uint64_t now_ms)
{
    endpoint->failures = 0;
    if (endpoint->window < COLLECTOR_POLLS_IN_FLIGHT) {
        endpoint->window++; /* doubles with each round */
    }
    if (endpoint->failing) {
        endpoint->failing = false;
        endpoint->pause_ms = 0;
        endpoint->paused_until_ms = 0;
        endpoint->look_ms = smaller(endpoint->look_ms, now_ms);
    }
}

bool collector_endpoint_learn(struct collector_endpoint *endpoint,
                              const struct collector_poll *poll, uint64_t now_ms)
{
    struct collector *collector = endpoint->collector;
    bool was_failing = endpoint->failing;

    if (poll->claimed) {
        collector_endpoint_release(endpoint, poll->fence);
    }
    if (poll->status == 429) {
        throttle(endpoint, now_ms);
    } else if (poll->failed) {
        note_failure(endpoint, now_ms);
    } else {
        note_success(endpoint, now_ms);
    }
    if (poll->ended) {
        endpoint->ended++;
    }
    if (poll->ended && !poll->failed) {
        poll_history_add(&endpoint->histories[poll->kind],
                         poll_history_end_age(poll->age_ms, poll->delay_ms, poll->execution_ms));
    }
    return (poll->claimed && (endpoint->waits_for_slot || collector->waits_for_slot)) ||
           was_failing != endpoint->failing || poll->status == 429;
}
