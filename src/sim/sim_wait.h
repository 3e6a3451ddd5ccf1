/* Callers that are held: /runsync and /status-sync until the end, /stream until a chunk. Waits are
 * real time, since a live client counts them. */
#ifndef SIM_WAIT_H
#define SIM_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "sim/sim_job.h"

struct exchange;

enum wait_kind {
    WAIT_RUNSYNC, /* not ended in time: id and status alone */
    WAIT_STATUS,  /* not ended in time: the status as it is */
    WAIT_STREAM
};

/* Answers at once when there is something to say, else holds the exchange up to `wait_ms`. */
void wait_start(struct job *job, struct exchange *exchange, enum wait_kind kind, int64_t wait_ms);

/* A chunk has come: the reader who has waited longest gets it (a blocking pop). */
void wait_on_chunk(struct job *job);

/* The job has ended: everybody is answered. */
void wait_on_end(struct job *job);

/* The job is gone: everybody gets 404. */
void wait_on_removal(struct job *job);

/* Answers 404 as the platform does; `detail` such as "job not found". */
void wait_reply_not_found(struct exchange *exchange, const char *detail);

#endif
