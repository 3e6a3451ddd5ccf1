/* /retry: lets a job that failed or timed out run again under its id, and submits it anew when
 * upstream has forgotten it and its input was kept. */
#ifndef PODGATE_GATEWAY_RETRY_H
#define PODGATE_GATEWAY_RETRY_H

#include "gateway/request.h"

/* Starts the operation on an admitted request whose body is there. The run that ended is in the
 * ledger before anything goes up, so that its execution time isn't missed. */
void retry_start(struct request *request);

/* The caller left while the job's state was being fetched: nothing goes up. */
void retry_abandon(struct request *request);

#endif
