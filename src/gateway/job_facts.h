/* What an answer of the upstream says of a job, noted on the request that brought it. */
#ifndef PODGATE_GATEWAY_JOB_FACTS_H
#define PODGATE_GATEWAY_JOB_FACTS_H

#include "gateway/relay.h"
#include "gateway/request.h"
#include "model/job.h"
#include "store/store.h"

/* Keeps the job's id for the log line; a COMPLETED without `output` gets Podgate-Warning in the
 * answer's head and is counted: the upstream says so when it refused the worker's result. */
void job_facts_note(struct request *request, const struct relay_facts *facts);

/* How a job ended, once that is stored. */
struct job_end {
    struct view team;
    struct view endpoint;
    struct view job;
    enum job_state state;
    enum store_fate fate;
    uint64_t execution_ms; /* UINT64_MAX: upstream didn't say */
};

/* Logs and counts the end of a job. */
void job_facts_tell_end(struct gateway *gateway, const struct job_end *end);

#endif
