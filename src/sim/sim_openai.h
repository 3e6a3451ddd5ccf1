/* Everything below /openai/: with simulated workers it is answered here, plain or as server-sent
 * events; with real ones only, the call is wrapped into a job as the platform does (contract 1.10).
 */
#ifndef SIM_OPENAI_H
#define SIM_OPENAI_H

struct endpoint;
struct exchange;
struct target;

/* Answers one request below /v2/{endpoint}/openai. */
void openai_handle(struct endpoint *endpoint, struct exchange *exchange,
                   const struct target *target);

#endif
