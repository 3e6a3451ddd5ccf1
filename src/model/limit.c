#include "build_config.h"

#include "model/limit.h"

bool limit_policy_init(struct limit_policy *policy, uint64_t requests, uint64_t period_ns,
                       uint64_t burst)
{
    if (requests == 0 || period_ns == 0 || burst == 0 || requests > period_ns) {
        return false;
    }
    uint64_t interval_ns = period_ns / requests + (period_ns % requests > 0 ? 1 : 0);
    uint64_t window_ns;
    if (__builtin_mul_overflow(interval_ns, burst, &window_ns) || window_ns > INT64_MAX) {
        return false;
    }
    *policy = (struct limit_policy){interval_ns, window_ns, burst};
    return true;
}

/* The state is the time at which the limit is whole again ("theoretical arrival time"); in the past
 * it is whole now. Clocks of two threads may differ by some ns, which costs nobody anything. */
static uint64_t debt_ns(uint64_t state, uint64_t now_ns)
{
    return state > now_ns ? state - now_ns : 0;
}

uint64_t limit_remaining(const struct limit_policy *policy, uint64_t state, uint64_t now_ns)
{
    uint64_t debt = debt_ns(state, now_ns);
    return debt >= policy->window_ns ? 0 : (policy->window_ns - debt) / policy->interval_ns;
}

uint64_t limit_reset_ns(uint64_t state, uint64_t now_ns)
{
    return debt_ns(state, now_ns);
}

static uint64_t wait_ns(const struct limit_policy *policy, uint64_t state, uint64_t now_ns)
{
    uint64_t most = policy->window_ns - policy->interval_ns;
    uint64_t debt = debt_ns(state, now_ns);
    return debt > most ? debt - most : 0;
}

/* Takes up what one limit says: the longest wait decides, then the least that remains. */
static void consider(struct limit_decision *decision, size_t index, uint64_t wait,
                     uint64_t remaining)
{
    if (wait > decision->wait_ns || (decision->wait_ns == 0 && remaining < decision->remaining)) {
        decision->index = index;
        decision->wait_ns = wait;
        decision->remaining = remaining;
    }
    decision->allowed = decision->wait_ns == 0;
}

struct limit_decision limit_peek(const struct limit_charge *charges, size_t count, uint64_t now_ns)
{
    struct limit_decision decision = {.allowed = true, .remaining = UINT64_MAX};
    for (size_t i = 0; i < count; i++) {
        uint64_t state = atomic_load_explicit(&charges[i].state->arrival_ns, memory_order_relaxed);
        consider(&decision, i, wait_ns(charges[i].policy, state, now_ns),
                 limit_remaining(charges[i].policy, state, now_ns));
    }
    return decision;
}

/* Charges one request, unless the limit refuses: then `*wait` says for how long. `*state` is what
 * the limit's state is afterwards. */
static bool charge_one(struct limit_charge *charge, uint64_t now_ns, uint64_t *state,
                       uint64_t *wait)
{
    *state = atomic_load_explicit(&charge->state->arrival_ns, memory_order_relaxed);
    for (;;) {
        *wait = wait_ns(charge->policy, *state, now_ns);
        if (*wait > 0) {
            return false;
        }
        uint64_t charged = (*state > now_ns ? *state : now_ns) + charge->policy->interval_ns;
        /* Nothing else is published by this word, so that no order is needed. */
        if (atomic_compare_exchange_weak_explicit(&charge->state->arrival_ns, state, charged,
                                                  memory_order_relaxed, memory_order_relaxed)) {
            *state = charged;
            charge->charged_ns = charged;
            return true;
        }
    }
}

struct limit_decision limit_take(struct limit_charge *charges, size_t count, uint64_t now_ns)
{
    /* With one limit the charge itself is the question. */
    if (count > 1) {
        struct limit_decision first_look = limit_peek(charges, count, now_ns);
        if (!first_look.allowed) {
            return first_look;
        }
    }
    struct limit_decision decision = {.allowed = true, .remaining = UINT64_MAX};
    for (size_t i = 0; i < count; i++) {
        uint64_t state;
        uint64_t wait;
        if (!charge_one(&charges[i], now_ns, &state, &wait)) {
            /* Another thread took the last one since we looked. */
            limit_give_back(charges, i, now_ns);
            decision.allowed = false;
            decision.index = i;
            decision.wait_ns = wait;
            decision.remaining = 0;
            return decision;
        }
        consider(&decision, i, 0, limit_remaining(charges[i].policy, state, now_ns));
    }
    return decision;
}

void limit_give_back(const struct limit_charge *charges, size_t count, uint64_t now_ns)
{
    for (size_t i = 0; i < count; i++) {
        /* The part of the charge that lies in the past is repaid; to subtract it again would pay
         * for somebody else's request. */
        uint64_t left = debt_ns(charges[i].charged_ns, now_ns);
        uint64_t interval = charges[i].policy->interval_ns;
        atomic_fetch_sub_explicit(&charges[i].state->arrival_ns, left < interval ? left : interval,
                                  memory_order_relaxed);
    }
}
