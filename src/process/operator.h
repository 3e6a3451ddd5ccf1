/* The operator API: JSON over evhttp on a Unix socket (`admin_socket`), for podgatectl. It runs on
 * the main thread and asks the store through a client of the main loop.
 *
 *     GET  /operator/v1/unknown                       submits whose outcome nobody knows
 *     POST /operator/v1/unknown/{submit}/settle       {"job": ID} or {"never_ran": true}
 *     GET  /operator/v1/unknown/{submit}/candidates   upstream's jobs that the ledger doesn't know
 *     GET  /operator/v1/jobs
 *     GET  /operator/v1/jobs/{endpoint}/{id}
 *     POST /operator/v1/adopt                         {"endpoint": E, "id": ID, "team": T}
 *     GET  /operator/v1/store
 *
 * Errors are {"code": ..., "error": ...}. Who may use it: root, podgate's own user, and the group
 * that the socket's file belongs to.
 */
#ifndef PODGATE_PROCESS_OPERATOR_H
#define PODGATE_PROCESS_OPERATOR_H

#include "base/body.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "gateway/collector.h"
#include "model/config.h"
#include "net/upstream.h"
#include "store/store.h"

struct operator_api;

/* What the operator API works with; all of it outlives it. */
struct operator_parts {
    struct loop *loop; /* the main thread's */
    struct store *store;
    struct store_client *client; /* of that loop */
    struct collector *collector; /* is told of jobs that enter the schedule; NULL: nobody */
    struct upstream_identity *identity;
    struct body_budget *budget;
    struct metrics_block *metrics;
    struct log_ring *log;
};

/* Listens at config->admin_socket (nowhere when that is empty: an API that does nothing). `parts`
 * is copied. NULL: `*problem` says why, on the heap (NULL without memory). Main thread. */
struct operator_api *operator_create(const struct operator_parts *parts,
                                     const struct config *config, char **problem);

/* Takes over a newer configuration; the socket stays where it is. Main thread. */
void operator_adopt(struct operator_api *api, const struct config *config);

/* Ends what is under way without an answer, takes the socket's file away, frees. NULL is allowed.
 * Main thread, before the store's client goes. */
void operator_destroy(struct operator_api *api);

#endif
