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
};

enum { JOB_STATES = 7 };

/* Reads the exact text of a state ("IN_QUEUE"). False when it is none: the caller decides what an
 * unknown state means (never terminal). */
MUST_CHECK bool job_state_parse(struct view text, enum job_state *state);

/* The state's text, a literal. */
const char *job_state_text(enum job_state state);

/* True for COMPLETED, FAILED, CANCELLED and TIMED_OUT: nothing but /retry changes those. */
bool job_state_is_terminal(enum job_state state);

/* True for FAILED and TIMED_OUT: upstream takes /retry for no other. */
bool job_state_is_retryable(enum job_state state);

#endif
