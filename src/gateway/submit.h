/* /run, /runsync and /retry: what creates work at the upstream, and is sent there once. */
#ifndef PODGATE_GATEWAY_SUBMIT_H
#define PODGATE_GATEWAY_SUBMIT_H

#include "gateway/request.h"

/* Each starts the operation on an admitted request whose body is there and is JSON. The work goes
 * on when the caller leaves, since the upstream may have taken the job by then. */
void submit_run(struct request *request);
void submit_runsync(struct request *request);
void submit_retry(struct request *request);

#endif
