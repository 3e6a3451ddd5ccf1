/* What process.c (run, signals, the main thread's turn), process_parts.c (what is made once, and
 * its end) and process_reload.c (a newer configuration) share. */
#ifndef PODGATE_PROCESS_PROCESS_PRIVATE_H
#define PODGATE_PROCESS_PROCESS_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/body.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "model/config.h"
#include "model/key_state.h"
#include "process/admin.h"
#include "process/worker.h"

struct event;
struct operator_api;
struct store_client;

/* What the metrics say of parts that count for themselves (process_metrics.c). */
struct process_told {
    uint64_t hot_hits;
    uint64_t hot_misses;
    uint64_t hot_stored;
    uint64_t hot_evicted;
    uint64_t hot_bytes;
    uint64_t store_ready;
    uint64_t store_durability;
    uint64_t store_bytes;
    uint64_t store_spooled;
};

/* The one process context. Owned by process_run(). */
struct process {
    const char *path;
    struct config *config;
    struct key_state_table *key_states;
    struct log *log;
    struct log_ring *ring;
    struct metrics *metrics;
    struct body_budget budget;
    struct worker_shared shared;
    struct worker **workers;
    size_t worker_count;
    struct loop *loop;
    struct metrics_block *metrics_block; /* the main thread's */
    struct process_told told;
    bool counting;                     /* the store has been asked for its counts */
    uint64_t hot_maximum_bytes;        /* as the memory cache was told last */
    struct store_client *store_client; /* of the main loop */
    struct admin *admin;
    struct operator_api *operator_api;
    struct event *signals[3];
    struct event *turn_event;
    unsigned turn;
    bool key_unusable; /* the key file, at the last look */
    bool serving;
    uint64_t serving_since_ms;
    bool draining;
    bool hurried;
    uint64_t drain_end_ms;
    int exit_status;
};

/* One line with at most one pair; `key` NULL: none. */
void process_log_event(struct process *process, enum log_level level, const char *event,
                       const char *key, const char *value);

/* Says on standard error what keeps podgate from starting; NULL: it is memory. */
void process_complain(const char *problem);

/* No signal for a broken connection; no core dump and no debugger that could read the keys. */
void process_protect(void);

/* Tells the service manager, if there is one ("READY=1"). */
void process_notify(const char *state);

/* Makes everything that the configuration wants, nothing of which serves yet. Else an exit status
 * of sysexits.h, and the problem has been printed. */
MUST_CHECK int process_create_parts(struct process *process);

/* Brings what the memory cache and the store count into the metrics. Main thread. */
void process_count_parts(struct process *process);

/* Asks the store what is in it, for metrics; a question that is still under way is enough. */
void process_ask_counts(struct process *process);

/* Ends and frees everything, in the order that lets nothing be used after its end. */
void process_destroy_parts(struct process *process);

/* Callers must not take the descriptors that their own requests need on the way up: what the limit
 * leaves is shared out before anybody is served. */
void process_share_descriptors(struct process *process);

/* By hand, the soft limit of descriptors is often 1024: raised to what the configuration needs. */
void process_raise_descriptor_limit(const struct config *config);

/* Loads the configuration anew; the old one stays when the new one is wrong. */
void process_reload(struct process *process);

#endif
