/* Operations that are passed on without a state of their own: cancel, purge-queue, requests, batch
 * and openai. */
#ifndef PODGATE_GATEWAY_FORWARD_H
#define PODGATE_GATEWAY_FORWARD_H

#include "gateway/request.h"

/* Each starts the operation on an admitted request whose body is there. */
void forward_cancel(struct request *request);
void forward_purge_queue(struct request *request);
void forward_requests(struct request *request);
void forward_batch(struct request *request);

/* Unbuffered, with back-pressure: the caller's pace is the upstream's; only silence ends it. */
void forward_openai(struct request *request);

#endif
