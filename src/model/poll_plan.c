#include "build_config.h"

#include "model/poll_plan.h"

#include <stddef.h>

enum {
    OBSERVATION = 64, /* the weight of a new one; halved again and again */
    TOTAL_MAXIMUM = 512 * OBSERVATION,
    SURVIVORS_MINIMUM = 4 * OBSERVATION, /* fewer tell nothing */
    FIRST_OCTAVE = 7,                    /* 128 ms */
    LAST_OCTAVE = 28,
    /* Without a history a job is asked again when it is a third older than now; with one, never
     * more often than each sixteenth of its age: nobody waits for the collector to that precision
     * (who waits has the job polled every 500 ms). */
    GROWTH = 3,
    FINEST = 16,
};

static uint64_t smaller(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static uint64_t larger(uint64_t left, uint64_t right)
{
    return left > right ? left : right;
}

static uint64_t multiply(uint64_t left, uint64_t right)
{
    uint64_t product;

    return __builtin_mul_overflow(left, right, &product) ? UINT64_MAX : product;
}

/* ---- history --------------------------------------------------------------------------------- */

/* Bucket 0 holds all below 128 ms, the last one all from its lower edge on. */
static size_t bucket_of(uint64_t age_ms)
{
    unsigned octave;

    if (age_ms < (1u << FIRST_OCTAVE)) {
        return 0;
    }
    octave = 63 - (unsigned)__builtin_clzll(age_ms);
    if (octave > LAST_OCTAVE) {
        return POLL_HISTORY_BUCKETS - 1;
    }
    return 1 + (size_t)(octave - FIRST_OCTAVE) * 8 + (size_t)((age_ms >> (octave - 3)) & 7);
}

static uint64_t lower_edge(size_t bucket)
{
    if (bucket == 0) {
        return 0;
    }
    return (8 + (bucket - 1) % 8) << (FIRST_OCTAVE - 3 + (bucket - 1) / 8);
}

static void fade(struct poll_history *history)
{
    history->total = 0;
    for (size_t i = 0; i < POLL_HISTORY_BUCKETS; i++) {
        history->weights[i] /= 2;
        history->total += history->weights[i];
    }
}

void poll_history_add(struct poll_history *history, uint64_t age_ms)
{
    if (history->total + OBSERVATION > TOTAL_MAXIMUM) {
        fade(history);
    }
    history->weights[bucket_of(age_ms)] += OBSERVATION;
    history->total += OBSERVATION;
}

uint64_t poll_history_end_age(uint64_t age_ms, uint64_t delay_ms, uint64_t execution_ms)
{
    uint64_t said_ms;

    if (execution_ms == UINT64_MAX) {
        return age_ms - age_ms / 4;
    }
    if (delay_ms == UINT64_MAX || __builtin_add_overflow(delay_ms, execution_ms, &said_ms)) {
        said_ms = execution_ms;
    }
    return smaller(said_ms, age_ms);
}

/* Where within a bucket `part` of its weight is reached. */
static uint64_t interpolate(const struct poll_history *history, size_t bucket, uint64_t part)
{
    uint64_t low = lower_edge(bucket);
    uint64_t width = lower_edge(bucket + 1) - low;

    return low + width * part / history->weights[bucket];
}

/* The weight of what ended within the bucket of `age_ms` but after it. */
static uint64_t rest_of_bucket(const struct poll_history *history, size_t bucket, uint64_t age_ms)
{
    uint64_t low = lower_edge(bucket);
    uint64_t high = lower_edge(bucket + 1);

    return age_ms >= high ? 0 : history->weights[bucket] * (high - age_ms) / (high - low);
}

uint64_t poll_history_expected_end(const struct poll_history *history, uint64_t age_ms)
{
    size_t first = bucket_of(age_ms);
    uint64_t rest = rest_of_bucket(history, first, age_ms);
    uint64_t survivors = rest;
    uint64_t wanted;

    for (size_t i = first + 1; i < POLL_HISTORY_BUCKETS; i++) {
        survivors += history->weights[i];
    }
    if (survivors < SURVIVORS_MINIMUM) {
        return 0;
    }
    wanted = survivors / 2;
    if (wanted < rest) {
        return interpolate(history, first, history->weights[first] - rest + wanted);
    }
    wanted -= rest;
    for (size_t i = first + 1; i < POLL_HISTORY_BUCKETS; i++) {
        if (wanted < history->weights[i]) {
            return interpolate(history, i, wanted);
        }
        wanted -= history->weights[i];
    }
    return 0; /* not reached: the weights add up to more than half of themselves */
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* `span_ms` times something between 1 - share/1000 and 1 + share/1000. */
static uint64_t jitter(uint64_t span_ms, uint64_t share, uint64_t random)
{
    uint64_t factor = 1000 - share + random % (2 * share + 1);

    return span_ms > UINT64_MAX / 2000 ? span_ms : span_ms * factor / 1000;
}

static uint64_t back_off(const struct poll_plan_question *question)
{
    uint32_t doublings = question->failures - 1;
    uint64_t floor_ms = smaller(POLL_PLAN_FIRST_BACK_OFF_MS, question->max_poll_ms);
    uint64_t span_ms = question->max_poll_ms;

    if (doublings < 32) {
        span_ms = smaller((uint64_t)POLL_PLAN_FIRST_BACK_OFF_MS << doublings, span_ms);
    }
    span_ms = jitter(span_ms, 250, question->random);
    return larger(floor_ms, smaller(span_ms, question->max_poll_ms));
}

static uint64_t regular_span(const struct poll_plan_question *question)
{
    uint64_t age_ms = question->age_ms;
    uint64_t expected_ms =
        question->history ? poll_history_expected_end(question->history, age_ms) : 0;
    uint64_t span_ms;

    if (question->lost) {
        return question->max_poll_ms;
    }
    if (expected_ms > age_ms) {
        span_ms = larger(expected_ms - age_ms, age_ms / FINEST);
    } else {
        span_ms = age_ms / GROWTH;
    }
    return smaller(larger(span_ms, question->first_poll_ms), question->max_poll_ms);
}

static uint64_t bound(uint64_t span_ms, uint64_t retention_ms)
{
    return larger(1, smaller(span_ms, retention_ms / POLL_PLAN_POLLS_PER_RETENTION));
}

struct poll_plan poll_plan_make(const struct poll_plan_question *question)
{
    uint64_t span_ms;

    if (question->failures > 0) {
        return (struct poll_plan){.due_ms = bound(back_off(question), question->retention_ms)};
    }
    span_ms = multiply(regular_span(question), larger(question->stretch, POLL_PLAN_EVEN)) /
              POLL_PLAN_EVEN;
    /* Jobs that came together needn't be asked together for ever. */
    span_ms = jitter(span_ms, 100, question->random);
    return (struct poll_plan){
        .due_ms = bound(span_ms, question->retention_ms),
        .deadline_ms = question->retention_ms,
    };
}

uint32_t poll_plan_stretch(uint64_t outstanding, uint64_t rate_milli, uint64_t max_poll_ms)
{
    /* So many millionths of a poll are to be had in max_poll_ms, and so many are wanted. */
    uint64_t affordable = multiply(rate_milli, max_poll_ms);
    uint64_t wanted = multiply(outstanding, 1000000);

    if (wanted <= affordable) {
        return POLL_PLAN_EVEN;
    }
    return (uint32_t)smaller(wanted / larger(affordable / POLL_PLAN_EVEN, 1), UINT32_MAX);
}

uint64_t poll_plan_longest(uint64_t retention_ms, uint64_t max_poll_ms, uint32_t stretch)
{
    uint64_t span_ms = multiply(max_poll_ms, larger(stretch, POLL_PLAN_EVEN)) / POLL_PLAN_EVEN;

    return bound(span_ms + span_ms / 10, retention_ms);
}

/* Polls in 1000 s that it takes to ask each job once in its retention, times a million to keep what
 * the division would lose. */
static uint64_t needed(uint64_t jobs, uint64_t retention_ms)
{
    return multiply(jobs, UINT64_C(1000000) * POLL_PLAN_FULL) / larger(retention_ms, 1);
}

uint64_t poll_plan_load(uint64_t run_jobs, uint64_t retention_run_ms, uint64_t runsync_jobs,
                        uint64_t retention_runsync_ms, uint64_t rate_milli)
{
    uint64_t run = needed(run_jobs, retention_run_ms);
    uint64_t runsync = needed(runsync_jobs, retention_runsync_ms);
    uint64_t both;

    if (__builtin_add_overflow(run, runsync, &both)) {
        both = UINT64_MAX;
    }
    return both / larger(rate_milli, 1);
}
