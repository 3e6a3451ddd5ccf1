/* The daemon as a whole: what is made once, the workers, the admin listener, signals, and the key
 * that is read again. Everything here runs on the main thread. */
#ifndef PODGATE_PROCESS_PROCESS_H
#define PODGATE_PROCESS_PROCESS_H

#include <stdbool.h>

#include "base/compiler.h"
#include "model/config.h"

/* Serves until SIGTERM or SIGINT. `config` is the caller's reference, which passes over; `path` is
 * where it was loaded from, for SIGHUP. Says on standard error why it could not start. The result
 * is the exit status (sysexits.h). */
MUST_CHECK int process_run(struct config *config, const char *path);

/* Reads what `config` names and a start would need: the upstream's key and authorities, and the
 * certificates of "tls:" addresses. Says on standard error what is wrong with the first that can't
 * be used, and returns false. Listens nowhere. */
MUST_CHECK bool process_check(const struct config *config);

#endif
