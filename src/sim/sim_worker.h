/* The worker's side of the platform (contract 1.10, 7.3): the routes that the `runpod` package's
 * own loop calls, so that real workers run the jobs. */
#ifndef SIM_WORKER_H
#define SIM_WORKER_H

#include <stdbool.h>

#include "sim/sim_json.h"

struct endpoint;
struct exchange;
struct job;
struct sim;
struct target;

/* Whether the operation is one of the worker's. */
bool worker_is_route(struct sim_text operation);

/* Answers one request for such an operation. */
void worker_handle(struct sim *sim, struct exchange *exchange, const struct target *target);

/* Gives a job to the worker that has waited longest; false when none waits. For queue_hooks. */
bool worker_offer(struct job *job);

/* The job leaves its real worker, which is told to stop it when `stop`. For queue_hooks. */
void worker_release(struct job *job, bool stop);

/* Frees the endpoint's workers; their jobs and held requests are gone already. */
void worker_forget_all(struct endpoint *endpoint);

#endif
