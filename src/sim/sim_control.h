/* The control routes under /sim/v1/: faults, records, front, workers (manual page). */
#ifndef SIM_CONTROL_H
#define SIM_CONTROL_H

struct exchange;
struct sim;
struct target;

/* Answers one request whose target begins with /sim. */
void control_handle(struct sim *sim, struct exchange *exchange, const struct target *target);

#endif
