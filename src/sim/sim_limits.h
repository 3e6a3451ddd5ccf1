/* Rate and concurrency limits per endpoint and operation (contract 4.7), in windows of 10 real
 * seconds. */
#ifndef SIM_LIMITS_H
#define SIM_LIMITS_H

#include <stdbool.h>

#include "sim/sim_job.h"

struct exchange;

/* Counts one request. True: go on; its place is given back when the exchange ends. False: the
 * exchange was answered with 429. */
MUST_CHECK bool limit_take(struct endpoint *endpoint, enum limit_kind kind,
                           struct exchange *exchange);

/* Workers with a job, simulated and real. */
int limit_running_workers(const struct endpoint *endpoint);

#endif
