#include "build_config.h"

#include "gateway/job_facts.h"

#include <string.h>

#include "model/metric_catalogue.h"

void job_facts_note(struct request *request, const struct relay_facts *facts)
{
    if (facts->id.length > 0 && facts->id.length <= sizeof request->job_text) {
        memcpy(request->job_text, facts->id.data, facts->id.length);
        request->job_length = facts->id.length;
    }
    if (request->upstream_status == 200 && view_equal(facts->status, VIEW("COMPLETED")) &&
        !facts->has_output) {
        metrics_add(request->gateway->metrics, METRIC_WARNINGS,
                    METRIC_WARNING_COMPLETED_WITHOUT_OUTPUT, 0, 1);
        if (request_has_caller(request)) {
            builder_append(&request->reply, VIEW("Podgate-Warning: completed-without-output\r\n"));
        }
    }
}

static enum metric_end end_of(enum job_state state, enum store_fate fate)
{
    if (fate == STORE_FATE_TOO_LARGE) {
        return METRIC_END_TOO_LARGE;
    }
    switch (state) {
    case JOB_COMPLETED: return METRIC_END_COMPLETED;
    case JOB_CANCELLED: return METRIC_END_CANCELLED;
    case JOB_TIMED_OUT: return METRIC_END_TIMED_OUT;
    case JOB_LOST: return METRIC_END_LOST;
    case JOB_TTL_EXPIRED: return METRIC_END_TTL_EXPIRED;
    case JOB_FAILED:
    case JOB_IN_QUEUE:
    case JOB_IN_PROGRESS:
    case JOB_RUNNING: break;
    }
    return METRIC_END_FAILED;
}

void job_facts_tell_end(struct gateway *gateway, const struct job_end *end)
{
    bool lost = end->state == JOB_LOST;
    struct log_line *line = log_begin(gateway->log, lost ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO,
                                      lost ? "job_lost" : "job_ended");

    log_text(line, "team", end->team);
    log_text(line, "endpoint", end->endpoint);
    log_text(line, "job", end->job);
    log_string(line, "state", job_state_text(end->state));
    if (end->fate == STORE_FATE_TOO_LARGE) {
        log_string(line, "result", "too_large");
    }
    if (end->execution_ms != UINT64_MAX) {
        log_number(line, "execution_ms", end->execution_ms);
    }
    log_end(line);
    metrics_add(gateway->metrics, METRIC_JOBS_ENDED, end_of(end->state, end->fate), 0, 1);
}
