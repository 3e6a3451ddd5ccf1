/* Log lines as key=value text (or JSON), one per event, without a system call on the thread that
 * logs: each thread fills a ring of its own, one writer thread empties them.
 *
 *     struct log_line *line = log_begin(ring, LOG_LEVEL_INFO, "request_done");
 *     log_text(line, "team", team);
 *     log_number(line, "status", 200);
 *     log_end(line);
 *
 * log_begin() gives NULL when nobody wants the level; the other functions take NULL and do nothing.
 * Callers' bytes are escaped and clipped. Keys, Authorization, bodies and query values are never
 * given to this module.
 */
#ifndef PODGATE_BASE_LOG_H
#define PODGATE_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

/* Error: an operator must act. Warning: degraded. Info: one line a request and life-cycle step. */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_format { LOG_FORMAT_KEY_VALUE, LOG_FORMAT_JSON };

/* The writer thread and the rings it empties. One per process, owned by main. */
struct log;

/* One thread's ring. Owned by the log; used by one thread at a time. */
struct log_ring;

/* A line being built; it lives in its ring until log_end(). */
struct log_line;

/* Starts the writer thread on `descriptor`, which stays the caller's. With `priorities` each line
 * starts with sd-daemon's "<6>" and carries no time, since the journal has its own. NULL when no
 * thread or memory is to be had. */
struct log *log_create(int descriptor, enum log_format format, enum log_level level,
                       bool priorities);

/* Writes out what the rings hold, stops the writer and frees all rings. No thread may log any more.
 * NULL is allowed. */
void log_destroy(struct log *log);

/* A ring of about `bytes` for one thread, or NULL without memory. Any thread. */
struct log_ring *log_ring_create(struct log *log, size_t bytes);

/* Changes what is wanted from now on. Any thread. */
void log_set_level(struct log *log, enum log_level level);

/* The log of a ring. */
struct log *log_of_ring(struct log_ring *ring);

/* True when lines of `level` are written at all. */
bool log_wants(const struct log_ring *ring, enum log_level level);

/* Begins a line; `event` is a word of [a-z_]. NULL when the level isn't wanted or `ring` is NULL.
 */
struct log_line *log_begin(struct log_ring *ring, enum log_level level, const char *event);

/* Adds key=value; `key` is a literal. Bytes that aren't printable ASCII are escaped, values above
 * 256 bytes are clipped. An empty value is left out. */
void log_text(struct log_line *line, const char *key, struct view value);

/* The same for a text that is known to be of [A-Za-z0-9._:-] only (a name that the configuration
 * checked, an id that the route checked): it is not looked at again. */
void log_word(struct log_line *line, const char *key, struct view value);

/* The same for a NUL-terminated text; NULL is left out. */
void log_string(struct log_line *line, const char *key, const char *value);

/* Adds key=number. */
void log_number(struct log_line *line, const char *key, uint64_t value);

/* Hands the line to the writer. A full ring drops it and counts that. */
void log_end(struct log_line *line);

/* Lines dropped because a ring was full, since the start. Any thread. */
uint64_t log_dropped(const struct log *log);

#endif
