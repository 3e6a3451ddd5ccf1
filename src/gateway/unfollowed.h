/* Submits that no ledger follows: the endpoint `flash` reaches another endpoint for each caller's
 * fields, so that podgate can't ask for their jobs by itself. */
#ifndef PODGATE_GATEWAY_UNFOLLOWED_H
#define PODGATE_GATEWAY_UNFOLLOWED_H

#include "gateway/relay.h"
#include "gateway/request.h"

/* False for a request with an Idempotency-Key, which nobody could keep; the caller was told. */
MUST_CHECK bool unfollowed_allowed(struct request *request);

/* The `record` of their relay_plan: logs and counts what nobody knows the outcome of. */
bool unfollowed_record(struct request *request, enum relay_end end,
                       const struct relay_facts *facts);

#endif
