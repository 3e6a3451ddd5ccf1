/* Stops asking an upstream that keeps failing, so that callers get an answer at once instead of
 * waiting for a time-out: per endpoint, and for the upstream as a whole. One per worker.
 *
 * A circuit opens when within the last 5 to 10 s at least 20 exchanges failed and they are at least
 * half of all. It then refuses for a pause (1 s at first, doubled after each failed probe, 10 s at
 * most), after which one request is let through as a probe: its success closes the circuit. An
 * endpoint's circuit counts its bad answers (502, 503, 504, broken, late); the upstream's counts
 * connections that could not be made.
 */
#ifndef PODGATE_GATEWAY_BREAKER_H
#define PODGATE_GATEWAY_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "base/log.h"
#include "base/metrics.h"

struct breaker;

enum breaker_outcome {
    BREAKER_OK,              /* an answer came, whatever it said about the request */
    BREAKER_ENDPOINT_FAILED, /* no answer, or one that says that the endpoint is down */
    BREAKER_UPSTREAM_FAILED, /* no connection: counts for the endpoint too */
};

enum {
    BREAKER_FAILURES = 20,
    BREAKER_HALF_WINDOW_MS = 5000,
    BREAKER_FIRST_PAUSE_MS = 1000,
    BREAKER_LONGEST_PAUSE_MS = 10000,
    BREAKER_PROBE_MS = 10000, /* a probe that never reported is forgotten after this */
    BREAKER_ENDPOINTS = 1024, /* with more failing endpoints the newest have no circuit */
};

/* All circuits closed. `metrics` and `log` may be NULL and outlive it. NULL without memory. */
struct breaker *breaker_create(struct metrics_block *metrics, struct log_ring *log);

/* Frees it. NULL is allowed. */
void breaker_destroy(struct breaker *breaker);

/* True when the endpoint may be asked at `now_ms` (clock_mono_ms()); what is allowed must be
 * reported. Else `*retry_after_s` says when it may be tried again, at least 1. */
MUST_CHECK bool breaker_allows(struct breaker *breaker, struct view endpoint, uint64_t now_ms,
                               uint64_t *retry_after_s);

/* Tells how an exchange with the endpoint ended. */
void breaker_report(struct breaker *breaker, struct view endpoint, enum breaker_outcome outcome,
                    uint64_t now_ms);

#endif
