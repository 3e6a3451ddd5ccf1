/* Simulated runs, steered by keys of the job's input (the manual page has the table). */
#ifndef SIM_MOCK_H
#define SIM_MOCK_H

#include <stdbool.h>
#include <stdint.h>

struct job;

/* Reads the keys out of the job's input and prepares the run. False: out of memory. */
bool mock_begin(struct job *job);

/* Platform time of the next chunk, progress update or end. */
int64_t mock_next_ms(const struct job *job);

/* Does what is due at `now_ms`; may end the job. */
void mock_step(struct job *job, int64_t now_ms);

/* Frees the run; the job's mock is NULL afterwards. */
void mock_free(struct job *job);

#endif
