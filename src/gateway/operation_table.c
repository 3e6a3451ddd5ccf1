#include "build_config.h"

#include "gateway/operation_table.h"

#include "gateway/forward.h"
#include "gateway/ledger.h"
#include "gateway/retry.h"
#include "gateway/status.h"
#include "gateway/stream.h"
#include "gateway/submit.h"
#include "gateway/team_jobs.h"
#include "gateway/whoami.h"

enum {
    RUN_BODY_BYTES = 10 * 1024 * 1024,
    RUNSYNC_BODY_BYTES = 20 * 1024 * 1024,
    /* Bodies that mean nothing ("{}" of the JavaScript SDK) are read and dropped. */
    SMALL_BODY_BYTES = 64 * 1024,
};

const struct operation operation_table[ROUTE_OPERATION_COUNT] = {
    [ROUTE_RUN] = {.body_maximum_bytes = RUN_BODY_BYTES,
                   .survives_caller = true,
                   .start = submit_run,
                   .abandon = status_abandon,
                   .release = ledger_release},
    [ROUTE_RUNSYNC] = {.body_maximum_bytes = RUNSYNC_BODY_BYTES,
                       .survives_caller = true,
                       .start = submit_runsync,
                       .abandon = status_abandon,
                       .release = ledger_release},
    [ROUTE_STATUS] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                      .start = status_start,
                      .abandon = status_abandon},
    [ROUTE_STATUS_SYNC] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                           .start = status_sync_start,
                           .abandon = status_abandon},
    [ROUTE_STREAM] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                      .start = stream_start,
                      .abandon = stream_abandon,
                      .resume = stream_resume,
                      .release = stream_release},
    [ROUTE_CANCEL] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                      .survives_caller = true,
                      .start = forward_cancel},
    [ROUTE_RETRY] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                     .survives_caller = true,
                     .start = retry_start,
                     .abandon = retry_abandon,
                     .release = ledger_release},
    [ROUTE_PURGE_QUEUE] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                           .survives_caller = true,
                           .start = forward_purge_queue},
    [ROUTE_HEALTH] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                      .start = status_health_start,
                      .abandon = status_abandon},
    [ROUTE_REQUESTS] = {.body_maximum_bytes = SMALL_BODY_BYTES, .start = forward_requests},
    [ROUTE_BATCH] = {.body_maximum_bytes = RUN_BODY_BYTES, .start = forward_batch},
    [ROUTE_OPENAI] = {.body_maximum_bytes = RUNSYNC_BODY_BYTES, .start = forward_openai},
    [ROUTE_JOBS] = {.body_maximum_bytes = SMALL_BODY_BYTES, .start = team_jobs_list},
    [ROUTE_JOB_DELETE] = {.body_maximum_bytes = SMALL_BODY_BYTES,
                          .survives_caller = true,
                          .start = team_jobs_delete},
    [ROUTE_WHOAMI] = {.body_maximum_bytes = SMALL_BODY_BYTES, .start = whoami_start},
};
