#include "build_config.h"

#include "model/metric_catalogue.h"

#include "model/route.h"

static const char *const operations[] = {
    "run",         "runsync", "status",   "status-sync", "stream", "cancel", "retry",
    "purge-queue", "health",  "requests", "batch",       "openai", "whoami", "none",
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
    "completed_without_output",
    "submit_without_id",
    "submit_unknown",
};

static const char *const parts[METRIC_PART_COUNT] = {"upstream"};

/* In the order of enum upstream_failure; upstream.c has the assertion. */
static const char *const upstream_faults[] = {
    "busy",  "no_memory", "name_unknown", "refused",   "connect_timeout", "tls",
    "proxy", "broken",    "timeout",      "malformed", "incomplete",      "encoded",
};

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
                       .second = LABEL("reason", upstream_faults)},
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
