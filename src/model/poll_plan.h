/* Which job is polled when: arithmetic without a clock, a lock or a store.
 *
 * A job is due again after a span that follows from its age, from the ages at which other jobs of
 * its endpoint ended (struct poll_history), from polls that failed, and from how far the endpoint's
 * polling budget goes. No span is longer than a third of the upstream's retention, so that a result
 * is looked for at least twice before upstream may forget it.
 *
 *     poll_history_add(&history, poll_history_end_age(age_ms, delay_ms, execution_ms));
 *     struct poll_plan plan = poll_plan_make(&(struct poll_plan_question){ ... });
 */
#ifndef PODGATE_MODEL_POLL_PLAN_H
#define PODGATE_MODEL_POLL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

enum {
    /* Eight buckets an octave (9 % each) from 128 ms to six days. */
    POLL_HISTORY_BUCKETS = 1 + 22 * 8,
    POLL_PLAN_FIRST_BACK_OFF_MS = 1000,
    POLL_PLAN_EVEN = 1000, /* stretch of a budget that suffices */
    /* What poll_plan_load() gives for jobs that take a whole budget to be polled once each in their
     * retention. */
    POLL_PLAN_FULL = 1000000,
    POLL_PLAN_POLLS_PER_RETENTION = 3,
};

/* How old jobs were when they ended: a histogram in which old observations fade (their weight
 * halves with every 256 or more new ones). All zero: nothing was learnt yet. */
struct poll_history {
    uint32_t total;
    uint16_t weights[POLL_HISTORY_BUCKETS];
};

/* Takes in one job that ended when it was `age_ms` old. */
void poll_history_add(struct poll_history *history, uint64_t age_ms);

/* How old a job was when it ended, of which a poll at `age_ms` brought the end, and upstream's own
 * words on its wait and run time (UINT64_MAX: not said). Never above age_ms. Where upstream said
 * nothing it is taken to have ended somewhat before it was seen: else polls that come too late
 * would teach that jobs run so long, for ever. */
uint64_t poll_history_end_age(uint64_t age_ms, uint64_t delay_ms, uint64_t execution_ms);

/* The age by which half of the jobs that are still running at `age_ms` will have ended, as the
 * history has it; 0 when too few were seen that ran so long. */
uint64_t poll_history_expected_end(const struct poll_history *history, uint64_t age_ms);

/* What is asked. */
struct poll_plan_question {
    uint64_t age_ms;        /* since the submit */
    uint64_t retention_ms;  /* how long upstream keeps a result of this kind of job */
    uint64_t first_poll_ms; /* of the configuration: the shortest span */
    uint64_t max_poll_ms;   /* of the configuration: the longest, unless the budget is short */
    uint32_t failures;      /* polls in a row that brought nothing */
    uint32_t stretch;       /* of poll_plan_stretch() */
    bool lost;              /* it counts as lost and is looked for at leisure */
    uint64_t random;        /* any 64 random bits */
    const struct poll_history *history; /* of the endpoint and kind; NULL: none */
};

/* Spans in ms from now. */
struct poll_plan {
    uint64_t due_ms;
    uint64_t deadline_ms; /* 0: it stays what it was, since a failed poll has not seen the job */
};

/* When the job is polled next. With failures: back-off from 1 s, doubling, to max_poll_ms. */
struct poll_plan poll_plan_make(const struct poll_plan_question *question);

/* How much longer, in thousandths, all spans have to be so that `outstanding` jobs which are polled
 * every max_poll_ms keep to `rate_milli` polls in 1000 s. At least POLL_PLAN_EVEN. */
uint32_t poll_plan_stretch(uint64_t outstanding, uint64_t rate_milli, uint64_t max_poll_ms);

/* The longest span that poll_plan_make() gives with such a stretch; a due time further off than
 * this comes from a clock that was set. */
uint64_t poll_plan_longest(uint64_t retention_ms, uint64_t max_poll_ms, uint32_t stretch);

/* How much of the budget of `rate_milli` polls in 1000 s it takes to poll each of these jobs once
 * in its retention: POLL_PLAN_FULL is all of it. */
uint64_t poll_plan_load(uint64_t run_jobs, uint64_t retention_run_ms, uint64_t runsync_jobs,
                        uint64_t retention_runsync_ms, uint64_t rate_milli);

#endif
