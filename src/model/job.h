/* The states of a job as the upstream names them.
 *
 *     enum job_state state;
 *     if (job_state_parse(status, &state) && job_state_is_terminal(state)) ...
 */
#ifndef PODGATE_MODEL_JOB_H
#define PODGATE_MODEL_JOB_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/compiler.h"

/* RUNNING is documented as another name of IN_PROGRESS: taken from upstream, never made by podgate.
 */
enum job_state {
    JOB_IN_QUEUE,
    JOB_IN_PROGRESS,
    JOB_RUNNING,
    JOB_COMPLETED,
    JOB_FAILED,
    JOB_CANCELLED,
    JOB_TIMED_OUT,
    /* How podgate's own ledger ends a job that upstream no longer knows. Never on the wire. */
    JOB_LOST,        /* gone before its result was stored */
    JOB_TTL_EXPIRED, /* its policy.ttl had passed */
};

enum { JOB_STATES = 9, JOB_UPSTREAM_STATES = 7 };

/* Reads the exact text of an upstream state ("IN_QUEUE"). False when it is none: the caller decides
 * what an unknown state means (never terminal). */
MUST_CHECK bool job_state_parse(struct view text, enum job_state *state);

/* The same with the ledger's own states too: for an operator's words and what the store holds. */
MUST_CHECK bool job_state_parse_ledger(struct view text, enum job_state *state);

/* The state's text, a literal. */
const char *job_state_text(enum job_state state);

/* True for COMPLETED, FAILED, CANCELLED and TIMED_OUT, which nothing but /retry changes, and for
 * LOST and TTL_EXPIRED. */
bool job_state_is_terminal(enum job_state state);

/* True for FAILED and TIMED_OUT: upstream takes /retry for no other. */
bool job_state_is_retryable(enum job_state state);

#endif
