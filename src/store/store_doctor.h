/* What `podgatectl doctor` says of the store: looks at Redis as podgate would, and tells in words
 * what an operator should know.
 *
 *     store_redis_doctor(config, print_finding, stdout);
 */
#ifndef PODGATE_STORE_STORE_DOCTOR_H
#define PODGATE_STORE_STORE_DOCTOR_H

#include "model/config.h"

enum store_doctor_level { STORE_DOCTOR_GOOD, STORE_DOCTOR_WARNING, STORE_DOCTOR_BAD };

/* One finding: `what` was looked at ("persistence"), and what was found, in words that say what to
 * do. Both texts are valid during the call. */
typedef void store_doctor_tell(void *argument, enum store_doctor_level level, const char *what,
                               const char *text);

/* Looks at the Redis of `config->store`: address, credentials, version, role, persistence,
 * eviction, clock, what podgate's user may do. Writes nothing but a key that goes by itself in a
 * minute. Calls `tell` once for each finding. Blocks, a few seconds at the most. */
void store_redis_doctor(const struct config *config, store_doctor_tell *tell, void *argument);

#endif
