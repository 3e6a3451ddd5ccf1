/* What request.c (the life of a request) and request_pool.c (where they lie) share. */
#ifndef PODGATE_GATEWAY_REQUEST_PRIVATE_H
#define PODGATE_GATEWAY_REQUEST_PRIVATE_H

#include "gateway/request.h"

/* A request that nothing has happened to yet, under a handle of its own. NULL without memory. */
struct request *request_pool_take(struct gateway *gateway);

/* The request is over: its handle finds nothing from now on, and it goes back to the pool when this
 * turn of the loop is over. */
void request_pool_bury(struct request *request);

/* The end of a request whose both sides are done. */
void request_finish(struct request *request);

#endif
