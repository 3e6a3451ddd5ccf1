/* Every counter, gauge and histogram of podgate with its labels: one place to see what is measured,
 * and the indexes by which the code counts. */
#ifndef PODGATE_MODEL_METRIC_CATALOGUE_H
#define PODGATE_MODEL_METRIC_CATALOGUE_H

#include <stddef.h>

#include "base/metrics.h"

/* The first label of METRIC_REQUESTS and others is an operation: enum route_operation, and
 * ROUTE_OPERATION_COUNT for requests that never got so far. */
enum metric {
    METRIC_REQUESTS,           /* operation, enum metric_status_class */
    METRIC_REQUEST_SECONDS,    /* histogram: operation */
    METRIC_REQUESTS_IN_FLIGHT, /* gauge */
    METRIC_REFUSALS,           /* enum metric_refusal */
    METRIC_BAD_HEADS,
    METRIC_CALLER_HANGUPS,
    METRIC_CONNECTIONS_OPEN,    /* gauge */
    METRIC_CONNECTIONS_REFUSED, /* enum metric_connection_refusal */
    METRIC_RECEIVED_BYTES,
    METRIC_SENT_BYTES,
    METRIC_UPSTREAM_REQUESTS,         /* operation, enum metric_status_class */
    METRIC_FAULTS,                    /* enum metric_part, enum upstream_failure */
    METRIC_UPSTREAM_CONNECTIONS,      /* opened */
    METRIC_UPSTREAM_CONNECTIONS_OPEN, /* gauge */
    METRIC_UPSTREAM_RESENDS,
    METRIC_BREAKER_OPENED,
    METRIC_SHARED_ANSWERS,  /* operation: answers that needed no upstream request of their own */
    METRIC_WAITING_CALLERS, /* gauge: held in status-sync */
    METRIC_WARNINGS,        /* enum metric_warning */
    METRIC_KEY_MASKED,      /* the upstream echoed its key */
    METRIC_COUNT
};

/* What podgate leans on. */
enum metric_part { METRIC_PART_UPSTREAM, METRIC_PART_COUNT };

enum metric_status_class {
    METRIC_STATUS_2XX,
    METRIC_STATUS_3XX,
    METRIC_STATUS_4XX,
    METRIC_STATUS_5XX,
    METRIC_STATUS_NONE, /* the caller left, or no answer came */
    METRIC_STATUS_CLASS_COUNT
};

enum metric_refusal {
    METRIC_REFUSAL_KEY_MISSING,
    METRIC_REFUSAL_KEY_MALFORMED,
    METRIC_REFUSAL_KEY_UNKNOWN,
    METRIC_REFUSAL_KEY_WRONG,
    METRIC_REFUSAL_KEY_EXPIRED,
    METRIC_REFUSAL_ADDRESS,
    METRIC_REFUSAL_OPERATION,
    METRIC_REFUSAL_ENDPOINT,
    METRIC_REFUSAL_RATE,
    METRIC_REFUSAL_CONCURRENCY,
    METRIC_REFUSAL_BODY_TOO_LARGE,
    METRIC_REFUSAL_MEMORY,
    METRIC_REFUSAL_BREAKER,
    METRIC_REFUSAL_COUNT
};

enum metric_connection_refusal {
    METRIC_CONNECTION_TOTAL,
    METRIC_CONNECTION_ADDRESS,
    METRIC_CONNECTION_DESCRIPTORS,
    METRIC_CONNECTION_REFUSAL_COUNT
};

enum metric_warning {
    METRIC_WARNING_COMPLETED_WITHOUT_OUTPUT,
    METRIC_WARNING_SUBMIT_WITHOUT_ID,
    METRIC_WARNING_SUBMIT_UNKNOWN, /* a submit that upstream may or may not have taken */
    METRIC_WARNING_COUNT
};

/* The families in the order of enum metric. */
extern const struct metrics_family metric_catalogue[METRIC_COUNT];

/* The class of a status code; METRIC_STATUS_NONE for 0. */
enum metric_status_class metric_status_class(unsigned status);

/* The label text of a refusal, for the log: "key_unknown". */
const char *metric_refusal_text(enum metric_refusal refusal);

#endif
