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
    METRIC_SHARED_ANSWERS,   /* operation: answers that needed no upstream request of their own */
    METRIC_WAITING_CALLERS,  /* gauge: held in status-sync */
    METRIC_WARNINGS,         /* enum metric_warning */
    METRIC_KEY_MASKED,       /* the upstream echoed its key */
    METRIC_STORE_CALLS,      /* enum store_operation, enum store_result */
    METRIC_STORE_SECONDS,    /* histogram: enum store_operation */
    METRIC_STORE_READY,      /* gauge: 1 while the store takes writes where they belong */
    METRIC_STORE_DURABILITY, /* gauge: 2 durable, 1 a second may be lost, 0 not durable */
    METRIC_STORE_BYTES,      /* gauge */
    METRIC_STORE_SPOOLED,    /* gauge: writes that wait for Redis */
    METRIC_STORE_SYNCS,      /* fsyncs of the embedded store */
    METRIC_SUBMITS,          /* enum metric_submit */
    METRIC_JOBS_OUTSTANDING, /* gauge */
    METRIC_JOBS_ENDED,       /* enum metric_end */
    METRIC_RESULTS_GONE,     /* enum metric_gone */
    METRIC_RESULTS_BAD,      /* enum metric_bad_result: answers to a poll that can't be stored */
    METRIC_POLLS,            /* enum metric_poll */
    METRIC_POLLS_LATE,       /* polls of jobs past their deadline */
    METRIC_CANCELS,          /* enum metric_cancel: of a purge */
    METRIC_HOT_RESULTS,      /* enum metric_hot */
    METRIC_HOT_BYTES,        /* gauge */
    METRIC_CHUNKS,           /* enum metric_chunk */
    METRIC_CLOCK_STEPS,
    METRIC_COUNT
};

/* As many as enum store_operation and enum store_result have (a higher layer's). */
enum { METRIC_STORE_OPERATIONS = 26, METRIC_STORE_RESULTS = 14 };

/* What podgate leans on. */
enum metric_part { METRIC_PART_UPSTREAM, METRIC_PART_STORE, METRIC_PART_COUNT };

/* Reasons of METRIC_FAULTS with METRIC_PART_STORE; those of the upstream come before them. */
enum metric_store_fault {
    METRIC_STORE_FAULT_AWAY = 12, /* no connection, or it broke */
    METRIC_STORE_FAULT_SLOW,
    METRIC_STORE_FAULT_REFUSED, /* READONLY, LOADING, MISCONF, OOM, NOAUTH */
    METRIC_STORE_FAULT_FULL,
    METRIC_STORE_FAULT_IO,
    METRIC_STORE_FAULT_LOCKED,
    METRIC_STORE_FAULT_MALFORMED, /* a value under our prefix that isn't ours */
    METRIC_STORE_FAULT_EMPTIED,   /* restarted empty, or lost writes in a failover */
    METRIC_STORE_FAULT_END
};

enum metric_submit {
    METRIC_SUBMIT_KNOWN,
    METRIC_SUBMIT_REFUSED,
    METRIC_SUBMIT_UNKNOWN,
    METRIC_SUBMIT_REPLAYED,     /* answered by its Idempotency-Key */
    METRIC_SUBMIT_DEDUPLICATED, /* answered by its input */
    METRIC_SUBMIT_NOT_RECORDED, /* upstream took it, the store did not (yet) */
    METRIC_SUBMIT_COUNT
};

enum metric_end {
    METRIC_END_COMPLETED,
    METRIC_END_FAILED,
    METRIC_END_CANCELLED,
    METRIC_END_TIMED_OUT,
    METRIC_END_LOST,
    METRIC_END_TTL_EXPIRED,
    METRIC_END_TOO_LARGE,
    METRIC_END_COUNT
};

enum metric_gone {
    METRIC_GONE_EXPIRED,
    METRIC_GONE_EVICTED,
    METRIC_GONE_DELETED,
    METRIC_GONE_COUNT
};

enum metric_bad_result {
    METRIC_BAD_NOT_JSON,
    METRIC_BAD_OTHER_ID,  /* the answer names another job */
    METRIC_BAD_NO_STATUS, /* or one that isn't known */
    METRIC_BAD_TWICE,     /* id or status stands in it twice */
    METRIC_BAD_ENCODED,
    METRIC_BAD_CUT, /* less came than was announced */
    METRIC_BAD_COUNT
};

enum metric_poll {
    METRIC_POLL_PENDING,
    METRIC_POLL_ENDED,
    METRIC_POLL_MISSING,
    METRIC_POLL_FAILED,
    METRIC_POLL_SHARED, /* a caller's request had just brought what was wanted */
    METRIC_POLL_COUNT
};

enum metric_cancel {
    METRIC_CANCEL_DONE,
    METRIC_CANCEL_SKIPPED, /* it had started */
    METRIC_CANCEL_FAILED,  /* tried again later */
    METRIC_CANCEL_COUNT
};

enum metric_hot {
    METRIC_HOT_HIT,
    METRIC_HOT_MISS,
    METRIC_HOT_STORED,
    METRIC_HOT_EVICTED,
    METRIC_HOT_COUNT
};

enum metric_chunk {
    METRIC_CHUNK_STORED,
    METRIC_CHUNK_DELIVERED,
    METRIC_CHUNK_LOST,
    METRIC_CHUNK_COUNT
};

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
    METRIC_WARNING_SUBMIT_UNKNOWN,  /* a submit that upstream may or may not have taken */
    METRIC_WARNING_SUBMIT_MISMATCH, /* upstream gave a new job the id of one that is there */
    METRIC_WARNING_CAPACITY, /* more jobs outstanding than can be polled thrice in their retention
                              */
    METRIC_WARNING_COUNT
};

/* The families in the order of enum metric. */
extern const struct metrics_family metric_catalogue[METRIC_COUNT];

/* The class of a status code; METRIC_STATUS_NONE for 0. */
enum metric_status_class metric_status_class(unsigned status);

/* The label text of a refusal, for the log: "key_unknown". */
const char *metric_refusal_text(enum metric_refusal refusal);

#endif
