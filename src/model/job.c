#include "build_config.h"

#include "model/job.h"

#include <stddef.h>
#include <string.h>

static const char *const state_texts[JOB_STATES] = {
    [JOB_IN_QUEUE] = "IN_QUEUE",       [JOB_IN_PROGRESS] = "IN_PROGRESS",
    [JOB_RUNNING] = "RUNNING",         [JOB_COMPLETED] = "COMPLETED",
    [JOB_FAILED] = "FAILED",           [JOB_CANCELLED] = "CANCELLED",
    [JOB_TIMED_OUT] = "TIMED_OUT",     [JOB_LOST] = "LOST",
    [JOB_TTL_EXPIRED] = "TTL_EXPIRED",
};

static bool parse(struct view text, size_t states, enum job_state *state)
{
    for (size_t i = 0; i < states; i++) {
        size_t length = strlen(state_texts[i]);
        if (text.length == length && memcmp(text.data, state_texts[i], length) == 0) {
            *state = (enum job_state)i;
            return true;
        }
    }
    return false;
}

bool job_state_parse(struct view text, enum job_state *state)
{
    return parse(text, JOB_UPSTREAM_STATES, state);
}

bool job_state_parse_ledger(struct view text, enum job_state *state)
{
    return parse(text, JOB_STATES, state);
}

const char *job_state_text(enum job_state state)
{
    return state_texts[state];
}

bool job_state_is_terminal(enum job_state state)
{
    switch (state) {
    case JOB_IN_QUEUE:
    case JOB_IN_PROGRESS:
    case JOB_RUNNING: return false;
    case JOB_COMPLETED:
    case JOB_FAILED:
    case JOB_CANCELLED:
    case JOB_TIMED_OUT:
    case JOB_LOST:
    case JOB_TTL_EXPIRED: return true;
    }
    return false;
}

bool job_state_is_retryable(enum job_state state)
{
    return state == JOB_FAILED || state == JOB_TIMED_OUT;
}
