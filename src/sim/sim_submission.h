/* The body of a submit, read at its top level only (contract 1.2). */
#ifndef SIM_SUBMISSION_H
#define SIM_SUBMISSION_H

#include "sim/sim_queue.h"

enum submission_result { SUBMISSION_OK, SUBMISSION_INVALID, SUBMISSION_INPUT_NO_OBJECT };

/* Fills `submission` with views into `body`. SUBMISSION_INVALID: no JSON object. */
MUST_CHECK enum submission_result submission_read(struct submission *submission,
                                                  struct sim_text body, enum job_kind kind);

#endif
