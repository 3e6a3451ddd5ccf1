/* /stream: the upstream hands out each chunk of a job's output once. */
#ifndef PODGATE_GATEWAY_STREAM_H
#define PODGATE_GATEWAY_STREAM_H

#include "gateway/request.h"

/* Starts the operation on an admitted request. Without ?wait= the upstream is asked to hold for 8 s
 * at most, since the Python SDK gives up after 10 s and asks again, which would lose chunks. */
void stream_start(struct request *request);

#endif
