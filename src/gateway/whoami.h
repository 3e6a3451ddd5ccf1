/* /podgate/v1/whoami: what the caller's key may do and has left. */
#ifndef PODGATE_GATEWAY_WHOAMI_H
#define PODGATE_GATEWAY_WHOAMI_H

#include "gateway/request.h"

/* Answers an admitted request at once. */
void whoami_start(struct request *request);

#endif
