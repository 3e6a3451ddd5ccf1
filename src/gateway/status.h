/* The state of a job (/status, /status-sync) and of an endpoint (/health), by way of shared
 * flights. */
#ifndef PODGATE_GATEWAY_STATUS_H
#define PODGATE_GATEWAY_STATUS_H

#include "gateway/request.h"

/* Each starts the operation on an admitted request. */
void status_start(struct request *request);
void status_sync_start(struct request *request);
void status_health_start(struct request *request);

/* Takes a caller that has left off its flight. */
void status_abandon(struct request *request);

/* Answers a submit with the state of the job that came of it, once it has ended or after `wait_ms`
 * (of a /runsync that podgate carries out by /run, and of one that joins a job). `job` is copied.
 * The request may be WORK_ADMITTING, WORK_IN_STORE or WORK_RECORDING; its operation's `abandon`
 * must be status_abandon(). */
void status_wait_for(struct request *request, struct view job, uint64_t wait_ms);

#endif
