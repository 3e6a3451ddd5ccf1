/* What the commands of podgatectl share. One thread; everything may block. Every command returns
 * an exit status of sysexits(3), after it has said on standard error what went wrong.
 *
 *   ctl_key.c     key generate
 *   ctl_check.c   check, ping
 *   ctl_jobs.c    jobs, job, adopt
 *   ctl_unknown.c unknown list, settle, candidates
 *   ctl_store.c   store status, store salvage
 *   ctl_doctor.c  doctor
 *   ctl_http.c    HTTP to a running podgate
 *   ctl_api.c     JSON over it, from the operator API
 *   ctl_table.c   tables that line up
 */
#ifndef PODGATE_CTL_CTL_H
#define PODGATE_CTL_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "model/config.h"

/* The command line; NULL where an option wasn't given. */
struct ctl_options {
    const char *config;
    const char *admin;
    const char *socket;
    const char *team;
    const char *endpoint;
    const char *state;
    const char *since;
    const char *limit;
    const char *job;
    const char *kind;
    bool never_ran;
    bool json;
};

/* Where the configuration is unless -c says so. */
extern const char ctl_default_config[];

/* Says what is wrong with the command line. Always EX_USAGE. */
int ctl_wrong_use(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What was printed may be a key's only copy, or somebody's only look: EX_IOERR, said so, when it
 * got lost; else EX_OK. */
MUST_CHECK int ctl_finish_output(void);

/* Loads the configuration that the options name, or the default one, and prints its mistakes and
 * warnings. NULL: `*status` is what to end with. */
MUST_CHECK struct config *ctl_load_config(const struct ctl_options *options, int *status);

/* ---- HTTP (ctl_http.c) ----------------------------------------------------------------------- */

/* Connects to `address`, sends `request` and reads until the other side closes, or until
 * `maximum_bytes` are there, all within `timeout_ms`. The answer is on the heap with a NUL behind
 * it. NULL with errno. */
MUST_CHECK char *ctl_exchange(const struct config_address *address, struct view request,
                              size_t maximum_bytes, uint64_t timeout_ms, size_t *length);

/* The status of "HTTP/1.x NNN ...", or 0. */
MUST_CHECK unsigned ctl_http_status(struct view answer);

/* ---- the operator API (ctl_api.c) ------------------------------------------------------------ */

/* Asks the running podgate. EX_OK: `*answer` is a JSON object, the caller's. Else it has been said
 * what went wrong. `body` (NULL: none) stays the caller's. */
MUST_CHECK int ctl_ask(const struct ctl_options *options, const char *method, const char *path,
                       const json_t *body, json_t **answer);

/* Asks for a list page by page, until there are `limit` entries or no more: GET `path` with `query`
 * ("a=b&c=d", may be empty). `*list` holds all entries of member `name`; `*has_more` tells whether
 * some were left. */
MUST_CHECK int ctl_ask_list(const struct ctl_options *options, const char *path, struct view query,
                            const char *name, size_t limit, json_t **list, bool *has_more);

/* Appends "name=value" to a query, percent-encoded, with "&" in front unless it is the first. A
 * NULL value adds nothing. */
void ctl_query_add(struct builder *query, const char *name, const char *value);

/* Reads --limit. False: it has been said that it is wrong. */
MUST_CHECK bool ctl_read_limit(const struct ctl_options *options, size_t otherwise, size_t *limit);

/* ---- printing (ctl_table.c) ------------------------------------------------------------------ */

enum { CTL_COLUMNS_MAXIMUM = 12 };

/* A table that grows row by row and is printed with columns as wide as what is in them. */
struct ctl_table {
    const char *const *titles;
    size_t columns;
    char **cells; /* row by row */
    size_t count;
    size_t room;
    bool failed;
};

/* Begins a table; titles are literals. */
void ctl_table_begin(struct ctl_table *table, const char *const *titles, size_t columns);

/* Adds the next cell, row by row; NULL is "-". Bytes that a terminal could take for orders become
 * "?". */
void ctl_table_add(struct ctl_table *table, const char *text);

/* The same for a member of a JSON object: text, number, yes or no; null is "-". */
void ctl_table_add_member(struct ctl_table *table, const json_t *object, const char *name);

/* Prints and frees. EX_OSERR without memory, else what ctl_finish_output() says. */
MUST_CHECK int ctl_table_end(struct ctl_table *table);

/* Prints JSON, indented, and takes the reference. As ctl_finish_output(). */
MUST_CHECK int ctl_print_json(json_t *value);

/* Prints an object as "name  value" lines. As ctl_table_end(). */
MUST_CHECK int ctl_print_members(const json_t *object);

/* ---- commands -------------------------------------------------------------------------------- */

/* Each gets the words behind its name. */
int ctl_key_generate(int count, char **words, const struct ctl_options *options);
int ctl_check(int count, char **words, const struct ctl_options *options);
int ctl_ping(int count, char **words, const struct ctl_options *options);
int ctl_unknown(int count, char **words, const struct ctl_options *options);
int ctl_jobs(int count, char **words, const struct ctl_options *options);
int ctl_job(int count, char **words, const struct ctl_options *options);
int ctl_adopt(int count, char **words, const struct ctl_options *options);
int ctl_store(int count, char **words, const struct ctl_options *options);
int ctl_doctor(int count, char **words, const struct ctl_options *options);

#endif
