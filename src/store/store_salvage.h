/* Copies what is readable of a damaged store file to a new one, for `podgatectl store salvage`.
 *
 *     struct store_salvage found;
 *     char *problem;
 *     if (!store_embedded_salvage("/var/lib/podgate/podgate.db", "/var/lib/podgate/new.db", &found,
 *                                 &problem)) { ... say `problem`, free() it ... }
 */
#ifndef PODGATE_STORE_STORE_SALVAGE_H
#define PODGATE_STORE_STORE_SALVAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

/* What was copied. */
struct store_salvage {
    uint64_t jobs;
    uint64_t results;
    uint64_t submits;
    uint64_t chunks;
    uint64_t lost_rows; /* at least so many were there and couldn't be read, or made no sense */
};

/* Reads `from`, which no podgate may have open and which is not changed, and makes `to`, which must
 * not be there yet. A job whose result couldn't be read becomes LOST and is looked for again.
 * False:
 * `*problem` says why, in words (the caller's, free()); no `to` is left behind then. Blocks for as
 * long as it takes. Any thread. */
MUST_CHECK bool store_embedded_salvage(const char *from, const char *to,
                                       struct store_salvage *found, char **problem);

#endif
