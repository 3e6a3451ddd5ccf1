/* Delivery of ended jobs to their `webhook` (contract 4.5), over plain HTTP only. */
#ifndef SIM_WEBHOOK_H
#define SIM_WEBHOOK_H

struct job;
struct sim;

/* Sends the job, which has ended, to its webhook; nothing without one. Up to three attempts, the
 * second 5 s after the first has failed and the third 15 s later, of the platform's clock. */
void webhook_deliver(struct job *job);

/* Gives up all deliveries, at the end of the program. */
void webhook_forget_all(struct sim *sim);

#endif
