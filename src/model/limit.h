/* Rate limits: GCRA in integer arithmetic. The whole state of one limit is one 64-bit word, the
 * theoretical arrival time, changed by compare-and-swap: no lock, no timer, exact.
 *
 *     struct limit_policy policy;
 *     limit_policy_init(&policy, 100, LIMIT_SECOND_NS, 200)      100/s, burst 200
 *     struct limit_charge charges[] = {{.policy = &policy, .state = &key->state},
 *                                     {.policy = &team_policy, .state = &team->state}};
 *     struct limit_decision decision = limit_take(charges, 2, clock_mono_us() * 1000);
 *     if (!decision.allowed) 429, Retry-After from decision.wait_ns
 */
#ifndef PODGATE_MODEL_LIMIT_H
#define PODGATE_MODEL_LIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define LIMIT_SECOND_NS UINT64_C(1000000000)
#define LIMIT_MINUTE_NS (60 * LIMIT_SECOND_NS)
#define LIMIT_HOUR_NS (3600 * LIMIT_SECOND_NS)

/* What is allowed: one request every `interval_ns`, and `burst` of them at once after a rest. */
struct limit_policy {
    uint64_t interval_ns;
    uint64_t window_ns; /* burst * interval_ns */
    uint64_t burst;
};

/* The state of one limit: when it is whole again. Begins as 0: nothing used. Shared between
 * threads. */
struct limit_state {
    _Atomic uint64_t arrival_ns;
};

/* One limit that a request must pass. */
struct limit_charge {
    const struct limit_policy *policy;
    struct limit_state *state;
    uint64_t charged_ns; /* limit_take()'s, for limit_give_back() */
};

struct limit_decision {
    bool allowed;
    size_t index;       /* of the charge that decides: the longest refusal, or least left */
    uint64_t wait_ns;   /* refused: until all could pass if nobody else came; else 0 */
    uint64_t remaining; /* of charge `index`: how many more at once, right after this decision */
};

/* Sets the policy `requests` per `period_ns` with `burst` (at least 1). False when one is 0, the
 * rate is above one a nanosecond, or the window doesn't fit into 63 bits. The interval is rounded
 * up to a nanosecond, so that never more than the rate is allowed. */
MUST_CHECK bool limit_policy_init(struct limit_policy *policy, uint64_t requests,
                                  uint64_t period_ns, uint64_t burst);

/* Asks all limits and charges one request to each, or charges none of them when one refuses. No
 * limits: allowed, with `remaining` UINT64_MAX. `now_ns` is of one monotonic clock. Any thread.
 * While threads race at the edge of a limit, one may be refused for a charge that is then given
 * back; never are more allowed than the policy says. */
MUST_CHECK struct limit_decision limit_take(struct limit_charge *charges, size_t count,
                                            uint64_t now_ns);

/* Gives one request back that limit_take() charged to these same charges, for work that was never
 * begun: as much of it as time hasn't given back already. */
void limit_give_back(const struct limit_charge *charges, size_t count, uint64_t now_ns);

/* What limit_take() would say, without charging. For whoami and RateLimit fields. */
struct limit_decision limit_peek(const struct limit_charge *charges, size_t count,
                                 uint64_t now_ns);

/* How many requests a fresh look at the limit would let through at once. */
uint64_t limit_remaining(const struct limit_policy *policy, uint64_t state, uint64_t now_ns);

/* Nanoseconds until the limit is whole again, 0 when it is. */
uint64_t limit_reset_ns(uint64_t state, uint64_t now_ns);

#endif
