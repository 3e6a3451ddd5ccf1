/* What the sim has seen, for tests and people: every request, every job accepted, every run. Each
 * list is a ring that forgets its oldest entries; numbers go on counting. */
#ifndef SIM_RECORD_H
#define SIM_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifndef MUST_CHECK
#define MUST_CHECK __attribute__((warn_unused_result))
#endif

struct evbuffer;
struct exchange;
struct job;
struct sim_record;

enum record_list {
    RECORD_REQUESTS,        /* of callers, and whatever else is no worker's */
    RECORD_WORKER_REQUESTS, /* for the routes of real workers */
    RECORD_JOBS,
    RECORD_RUNS,
    RECORD_LISTS
};

/* `requests_kept` bounds each ring of requests, 0 records none. `log` gets a line per entry; NULL
 * for none; it stays the caller's. NULL: out of memory. */
MUST_CHECK struct sim_record *record_create(int64_t requests_kept, FILE *log);
void record_destroy(struct sim_record *record);

/* A request was received, whole; `list` is one of the two for requests. */
void record_request(struct sim_record *record, const struct exchange *exchange,
                    enum record_list list);

/* A job was accepted. */
void record_job(struct sim_record *record, const struct job *job);

/* A run of a job ended; JOB_IN_QUEUE as its state says that it is dispatched again. */
void record_run(struct sim_record *record, const struct job *job);

/* Appends a JSON array of the entries whose number is above `since`, oldest first. */
void record_write(struct evbuffer *out, const struct sim_record *record, enum record_list list,
                  int64_t since);

/* How many entries there have been since the start or the last record_clear(). */
int64_t record_count(const struct sim_record *record, enum record_list list);

/* Forgets the entries of one list and counts from zero; numbers go on. */
void record_clear(struct sim_record *record, enum record_list list);

#endif
