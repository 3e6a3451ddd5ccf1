/* The admin listener: /metrics, /livez and /readyz over evhttp, for machines that watch podgate. It
 * runs on the main thread and never sees a caller. */
#ifndef PODGATE_PROCESS_ADMIN_H
#define PODGATE_PROCESS_ADMIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "model/config.h"

/* What the admin listener asks of the process. Called on the main thread. */
struct admin_view {
    /* True while every loop turns. */
    bool (*is_alive)(void *owner);
    /* True while callers are served: started, not draining. */
    bool (*is_ready)(void *owner);
    /* Brings counts that are kept elsewhere into the metrics, before they are shown. */
    void (*count_parts)(void *owner);
    /* Appends lines in the Prometheus text format that no counter block holds. */
    void (*append_metrics)(void *owner, struct builder *text);
};

struct admin;

/* Listens where `config` says (nowhere: an admin that does nothing). `view`, `owner` and `metrics`
 * outlive it. NULL: `*problem` says why, on the heap. Main thread. */
struct admin *admin_create(struct loop *loop, const struct config *config, struct metrics *metrics,
                           const struct admin_view *view, void *owner, char **problem);

/* Stops listening and frees. NULL is allowed. */
void admin_destroy(struct admin *admin);

#endif
