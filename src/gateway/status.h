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

#endif
