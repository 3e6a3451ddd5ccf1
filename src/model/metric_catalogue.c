#include "build_config.h"

#include "model/metric_catalogue.h"

#include "model/route.h"

static const char *const operations[] = {
    "run",    "runsync",  "status", "status-sync", "stream", "cancel", "retry",      "purge-queue",
    "health", "requests", "batch",  "openai",      "jobs",   "whoami", "job-delete", "none",
};
_Static_assert(ARRAY_LENGTH(operations) == ROUTE_OPERATION_COUNT + 1,
               "one label for each operation of the routes, and one for none");

static const char *const status_classes[METRIC_STATUS_CLASS_COUNT] = {
    "2xx", "3xx", "4xx", "5xx", "none",
};

static const char *const refusals[METRIC_REFUSAL_COUNT] = {
    "key_missing",    "key_malformed", "key_unknown", "key_wrong", "key_expired",
    "address",        "operation",     "endpoint",    "rate",      "concurrency",
    "body_too_large", "memory",        "breaker",
};

static const char *const connection_refusals[METRIC_CONNECTION_REFUSAL_COUNT] = {
    "total",
    "address",
    "descriptors",
};

static const char *const warnings[METRIC_WARNING_COUNT] = {
    "completed_without_output", "submit_without_id", "submit_unknown",
    "submit_mismatch",          "capacity",
};

static const char *const parts[METRIC_PART_COUNT] = {"upstream", "store"};

/* In the order of enum upstream_failure (upstream.c has the assertion), then of enum
 * metric_store_fault. */
static const char *const faults[] = {
    "busy",
    "no_memory",
    "name_unknown",
    "refused",
    "connect_timeout",
    "tls",
    "proxy",
    "broken",
    "timeout",
    "malformed",
    "incomplete",
    "encoded",
    "away",
    "slow",
    "refused_command",
    "full",
    "io",
    "locked",
    "malformed_value",
    "emptied",
};
_Static_assert(ARRAY_LENGTH(faults) == METRIC_STORE_FAULT_END, "one label for each reason");

/* In the order of enum store_operation and enum store_result; store.c has the assertions. */
static const char *const store_operations[] = {
    "claim-submit",   "mark-sent",      "settle-submit", "list-unknown",  "resolve-submit",
    "find-duplicate", "get-job",        "adopt-job",     "put-result",    "retry-job",
    "delete-result",  "shorten",        "list-jobs",     "claim-due",     "claim-job",
    "reschedule",     "list-endpoints", "mark-purged",   "claim-cancels", "clear-cancel",
    "append-chunks",  "read-chunks",    "get-cursor",    "set-cursor",    "expire",
    "count",
};
_Static_assert(ARRAY_LENGTH(store_operations) == METRIC_STORE_OPERATIONS, "see store.h");

static const char *const store_results[] = {
    "ok",      "absent",     "conflict", "owned", "replay", "busy",      "mismatch",
    "unknown", "bad_cursor", "broken",   "away",  "full",   "timed_out", "no_memory",
};
_Static_assert(ARRAY_LENGTH(store_results) == METRIC_STORE_RESULTS, "see store.h");

static const char *const submits[METRIC_SUBMIT_COUNT] = {
    "known", "refused", "unknown", "replayed", "deduplicated", "not_recorded",
};

static const char *const ends[METRIC_END_COUNT] = {
    "completed", "failed", "cancelled", "timed_out", "lost", "ttl_expired", "too_large",
};

static const char *const gone[METRIC_GONE_COUNT] = {"expired", "evicted", "deleted"};

static const char *const bad_results[METRIC_BAD_COUNT] = {
    "not_json", "other_id", "no_status", "twice", "encoded", "cut",
};

static const char *const polls[METRIC_POLL_COUNT] = {
    "pending", "ended", "missing", "failed", "shared",
};

static const char *const cancels[METRIC_CANCEL_COUNT] = {"done", "skipped", "failed"};

static const char *const hot_results[METRIC_HOT_COUNT] = {"hit", "miss", "stored", "evicted"};

static const char *const chunks[METRIC_CHUNK_COUNT] = {"stored", "delivered", "lost"};

#define LABEL(text, list)                                                                          \
    {                                                                                              \
        .name = (text), .values = (list), .value_count = ARRAY_LENGTH(list)                        \
    }

const struct metrics_family metric_catalogue[METRIC_COUNT] = {
    [METRIC_REQUESTS] = {.name = "podgate_requests_total",
                         .help = "Callers' requests by operation and class of the answer.",
                         .type = METRICS_COUNTER,
                         .first = LABEL("operation", operations),
                         .second = LABEL("status", status_classes)},
    [METRIC_REQUEST_SECONDS] = {.name = "podgate_request_duration_seconds",
                                .help = "From the head of a request to the end of its answer.",
                                .type = METRICS_HISTOGRAM,
                                .microseconds = true,
                                .first = LABEL("operation", operations)},
    [METRIC_REQUESTS_IN_FLIGHT] = {.name = "podgate_requests_in_flight",
                                   .help = "Requests that are being worked on.",
                                   .type = METRICS_GAUGE},
    [METRIC_REFUSALS] = {.name = "podgate_refusals_total",
                         .help = "Requests refused before any work, by reason.",
                         .type = METRICS_COUNTER,
                         .first = LABEL("reason", refusals)},
    [METRIC_BAD_HEADS] = {.name = "podgate_bad_heads_total",
                          .help = "Request heads that break HTTP/1.1 or came too slowly.",
                          .type = METRICS_COUNTER},
    [METRIC_CALLER_HANGUPS] = {.name = "podgate_caller_hangups_total",
                               .help = "Callers that left before their answer was complete.",
                               .type = METRICS_COUNTER},
    [METRIC_CONNECTIONS_OPEN] = {.name = "podgate_connections_open",
                                 .help = "Callers' connections.",
                                 .type = METRICS_GAUGE},
    [METRIC_CONNECTIONS_REFUSED] = {.name = "podgate_connections_refused_total",
                                    .help = "Connections refused at a limit.",
                                    .type = METRICS_COUNTER,
                                    .first = LABEL("limit", connection_refusals)},
    [METRIC_RECEIVED_BYTES] = {.name = "podgate_received_bytes_total",
                               .help = "Bytes of callers' requests.",
                               .type = METRICS_COUNTER},
    [METRIC_SENT_BYTES] = {.name = "podgate_sent_bytes_total",
                           .help = "Bytes of answers to callers.",
                           .type = METRICS_COUNTER},
    [METRIC_UPSTREAM_REQUESTS] = {.name = "podgate_upstream_requests_total",
                                  .help = "Requests to the upstream by operation and answer.",
                                  .type = METRICS_COUNTER,
                                  .first = LABEL("operation", operations),
                                  .second = LABEL("status", status_classes)},
    [METRIC_FAULTS] = {.name = "podgate_faults_total",
                       .help = "What failed around podgate, by part and reason.",
                       .type = METRICS_COUNTER,
                       .first = LABEL("part", parts),
                       .second = LABEL("reason", faults)},
    [METRIC_UPSTREAM_CONNECTIONS] = {.name = "podgate_upstream_connections_total",
                                     .help = "Connections opened to the upstream.",
                                     .type = METRICS_COUNTER},
    [METRIC_UPSTREAM_CONNECTIONS_OPEN] = {.name = "podgate_upstream_connections_open",
                                          .help =
                                              "Connections to the upstream, idle ones included.",
                                          .type = METRICS_GAUGE},
    [METRIC_UPSTREAM_RESENDS] = {.name = "podgate_upstream_resends_total",
                                 .help = "Requests sent a second time, which the upstream can't "
                                         "have had whole the first time.",
                                 .type = METRICS_COUNTER},
    [METRIC_BREAKER_OPENED] = {.name = "podgate_breaker_opened_total",
                               .help = "Times that podgate stopped asking a failing endpoint.",
                               .type = METRICS_COUNTER},
    [METRIC_SHARED_ANSWERS] = {.name = "podgate_shared_answers_total",
                               .help = "Answers that needed no upstream request of their own.",
                               .type = METRICS_COUNTER,
                               .first = LABEL("operation", operations)},
    [METRIC_WAITING_CALLERS] = {.name = "podgate_waiting_callers",
                                .help = "Callers held in status-sync.",
                                .type = METRICS_GAUGE},
    [METRIC_WARNINGS] = {.name = "podgate_warnings_total",
                         .help = "Answers of the upstream that look like success and are none.",
                         .type = METRICS_COUNTER,
                         .first = LABEL("warning", warnings)},
    [METRIC_KEY_MASKED] = {.name = "podgate_upstream_key_masked_total",
                           .help = "Answers in which the upstream echoed its own key.",
                           .type = METRICS_COUNTER},
    [METRIC_STORE_CALLS] = {.name = "podgate_store_calls_total",
                            .help = "Questions to the store by operation and result.",
                            .type = METRICS_COUNTER,
                            .first = LABEL("operation", store_operations),
                            .second = LABEL("result", store_results)},
    [METRIC_STORE_SECONDS] = {.name = "podgate_store_duration_seconds",
                              .help = "From a question to the store to its answer.",
                              .type = METRICS_HISTOGRAM,
                              .microseconds = true,
                              .first = LABEL("operation", store_operations)},
    [METRIC_STORE_READY] = {.name = "podgate_store_ready",
                            .help = "1 while the store takes writes where they belong.",
                            .type = METRICS_GAUGE},
    [METRIC_STORE_DURABILITY] = {.name = "podgate_store_durability",
                                 .help = "2: what is acknowledged is durable; 1: the last second "
                                         "can be lost; 0: everything can.",
                                 .type = METRICS_GAUGE},
    [METRIC_STORE_BYTES] = {.name = "podgate_store_bytes",
                            .help = "Results, inputs and stream chunks as they are stored.",
                            .type = METRICS_GAUGE},
    [METRIC_STORE_SPOOLED] = {.name = "podgate_store_spooled",
                              .help = "Writes in the local spool that wait for Redis.",
                              .type = METRICS_GAUGE},
    [METRIC_STORE_SYNCS] = {.name = "podgate_store_syncs_total",
                            .help = "Times that the embedded store was synced to the disk.",
                            .type = METRICS_COUNTER},
    [METRIC_SUBMITS] = {.name = "podgate_submits_total",
                        .help = "Submits by what became of them.",
                        .type = METRICS_COUNTER,
                        .first = LABEL("outcome", submits)},
    [METRIC_JOBS_OUTSTANDING] = {.name = "podgate_jobs_outstanding",
                                 .help = "Jobs in the ledger that have not ended.",
                                 .type = METRICS_GAUGE},
    [METRIC_JOBS_ENDED] = {.name = "podgate_jobs_ended_total",
                           .help = "Jobs by how they ended, as podgate recorded it.",
                           .type = METRICS_COUNTER,
                           .first = LABEL("end", ends)},
    [METRIC_RESULTS_GONE] = {.name = "podgate_results_gone_total",
                             .help = "Stored results that were removed, by reason.",
                             .type = METRICS_COUNTER,
                             .first = LABEL("reason", gone)},
    [METRIC_RESULTS_BAD] = {.name = "podgate_results_bad_total",
                            .help = "Answers of the upstream on a job that can't be stored.",
                            .type = METRICS_COUNTER,
                            .first = LABEL("reason", bad_results)},
    [METRIC_POLLS] = {.name = "podgate_polls_total",
                      .help = "Polls of jobs by what they brought.",
                      .type = METRICS_COUNTER,
                      .first = LABEL("outcome", polls)},
    [METRIC_POLLS_LATE] = {.name = "podgate_polls_late_total",
                           .help = "Polls of jobs that the upstream may have forgotten already.",
                           .type = METRICS_COUNTER},
    [METRIC_CANCELS] = {.name = "podgate_purge_cancels_total",
                        .help = "Jobs of purged queues by what became of their cancelling.",
                        .type = METRICS_COUNTER,
                        .first = LABEL("outcome", cancels)},
    [METRIC_HOT_RESULTS] = {.name = "podgate_hot_results_total",
                            .help = "Looks into the cache of results, and its changes.",
                            .type = METRICS_COUNTER,
                            .first = LABEL("event", hot_results)},
    [METRIC_HOT_BYTES] = {.name = "podgate_hot_results_bytes",
                          .help = "Memory of the cache of results.",
                          .type = METRICS_GAUGE},
    [METRIC_CHUNKS] = {.name = "podgate_stream_chunks_total",
                       .help = "Chunks of streams by what became of them.",
                       .type = METRICS_COUNTER,
                       .first = LABEL("event", chunks)},
    [METRIC_CLOCK_STEPS] = {.name = "podgate_clock_steps_total",
                            .help = "Steps of the wall clock that were noticed.",
                            .type = METRICS_COUNTER},
};

enum metric_status_class metric_status_class(unsigned status)
{
    if (status < 200 || status > 599) {
        return METRIC_STATUS_NONE;
    }
    return (enum metric_status_class)(status / 100 - 2);
}

const char *metric_refusal_text(enum metric_refusal refusal)
{
    return refusals[refusal];
}
