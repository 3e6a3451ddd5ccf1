/* The caller's routes below /v2/{endpoint}/ (contract 1). */
#ifndef SIM_ROUTES_H
#define SIM_ROUTES_H

struct exchange;
struct sim;
struct target;

/* Answers one request whose target begins with /v2. */
void routes_handle(struct sim *sim, struct exchange *exchange, const struct target *target);

#endif
