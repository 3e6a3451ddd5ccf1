/* What a struck request sees: the answer replaced, altered, delayed, or written byte by byte. */
#ifndef SIM_STRIKE_H
#define SIM_STRIKE_H

#include <stdbool.h>

struct event_base;
struct exchange;
struct fault;

/* Prepares the exchange so that its answer is struck. True: it has been answered (or will be)
 * without handling the request. False: handle it as usual. */
bool strike_begin(struct exchange *exchange, const struct fault *fault);

#endif
