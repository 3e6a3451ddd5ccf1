/* Batch jobs, a beta of the platform: collections of submits that are run after they were
 * finalized. They run on the endpoint's workers with low priority. */
#ifndef SIM_BATCH_H
#define SIM_BATCH_H

struct endpoint;
struct exchange;
struct target;

/* Answers one request below /v2/{endpoint}/batch. */
void batch_handle(struct endpoint *endpoint, struct exchange *exchange,
                  const struct target *target);

/* Frees the endpoint's batches; their jobs are gone already. */
void batch_forget_all(struct endpoint *endpoint);

#endif
