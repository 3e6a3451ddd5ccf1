/* Random names, as the platform makes them. */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stddef.h>

/* `length` (at most 64) random bytes out of a-z0-9, terminated: worker ids look like that. */
void sim_random_name(char *out, size_t length);

/* A version 4 UUID, 36 bytes and the terminator. */
void sim_random_uuid(char out[37]);

#endif
