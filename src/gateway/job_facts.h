/* What an answer of the upstream says of a job, noted on the request that brought it. */
#ifndef PODGATE_GATEWAY_JOB_FACTS_H
#define PODGATE_GATEWAY_JOB_FACTS_H

#include "gateway/relay.h"
#include "gateway/request.h"

/* Keeps the job's id for the log line; a COMPLETED without `output` gets Podgate-Warning in the
 * answer's head and is counted: the upstream says so when it refused the worker's result. */
void job_facts_note(struct request *request, const struct relay_facts *facts);

#endif
