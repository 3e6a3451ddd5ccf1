/* /run and /runsync: what creates work at the upstream, and is sent there once. /retry stands in
 * retry.h. */
#ifndef PODGATE_GATEWAY_SUBMIT_H
#define PODGATE_GATEWAY_SUBMIT_H

#include "gateway/request.h"

/* Each starts the operation on an admitted request whose body is there. The work goes on when the
 * caller leaves, since the upstream may have taken the job by then. With `runsync = "durable"` a
 * /runsync is submitted by /run, and its caller waits for the job here. */
void submit_run(struct request *request);
void submit_runsync(struct request *request);

/* Answers a submit with a job that is there already; `state` empty: IN_QUEUE. Ends the work. */
void submit_answer_job(struct request *request, struct view job, struct view state);

#endif
