/* Named fault points: places where a test makes podgate fail, wait or die, to see that what follows
 * is what was promised. They are there in builds with --enable-faults only; in all others the macro
 * is the constant `false` and its branch vanishes.
 *
 *     int socket = FAULT_POINT("upstream.connect") ? -1 : connect_to(address);    (errno is set)
 *
 * The environment says what happens where:
 *
 *     PODGATE_FAULT="accept=EMFILE@3,store.commit=EIO@2+,submit.sent=kill@7,upstream.read=delay:250"
 *
 * A rule is POINT=ACTION, perhaps with a pass behind it. ACTION: the name of an errno value, `kill`
 * (SIGKILL, as if by the kernel), `delay:N` (N milliseconds, then go on) or `count` (only count the
 * passes). `@N`: at the N-th pass only; `@N+`: from the N-th on; without: always. The rules of one
 * point are asked in their order; the first that wants this pass acts.
 */
#ifndef PODGATE_BASE_FAULT_H
#define PODGATE_BASE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

/* Passes the point `name` (a literal, [a-z0-9_.]). True: the step must fail now, with what errno
 * says. Any thread. */
#ifdef PODGATE_FAULTS
#define FAULT_POINT(name) fault_pass(name)
#else
#define FAULT_POINT(name) false
#endif

/* What FAULT_POINT() calls. The first call in a process reads PODGATE_FAULT, unless fault_load()
 * was called before; a wrong rule there ends the process with status 64 and a line on standard
 * error, since a test whose fault never comes proves nothing. Any thread. */
MUST_CHECK bool fault_pass(const char *name);

/* Replaces all rules by those of `rules` (NULL: none) and starts counting anew. False when a rule
 * is wrong or memory is short: the rules stay, and `*problem` is a literal that says why. Not while
 * other threads pass points. */
MUST_CHECK bool fault_load(const char *rules, const char **problem);

/* How often a point was passed since the rules were loaded; 0 for one without a rule. Any thread.
 */
uint64_t fault_passes(const char *name);

#endif
