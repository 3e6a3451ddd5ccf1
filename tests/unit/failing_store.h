/* For tests: stands between the gateways of gateway_fixture.h and their store, and lets calls fail
 * or wait as the test says.
 *
 *     failing_store_install();
 *     store_fails(STORE_SETTLE_SUBMIT, STORE_FULL);
 *     store_holds(STORE_MARK_SENT);    ... store_goes_on(STORE_MARK_SENT);
 */
#ifndef PODGATE_TESTS_FAILING_STORE_H
#define PODGATE_TESTS_FAILING_STORE_H

#include "gateway_fixture.h"

#include "store/store_backend.h"

enum { HELD = 64 };

struct held_call {
    void *client_data;
    struct store_call *call;
};

static const struct store_backend *real_backend;
static struct store_backend failing_backend;
static enum store_result failing_with[STORE_OPERATIONS]; /* STORE_OK: it doesn't */
static bool holding[STORE_OPERATIONS];
static struct held_call held_calls[HELD];
static unsigned held_count;
static unsigned asked_store[STORE_OPERATIONS];
static enum store_state forced_state;
static bool has_forced_state;

HELPER void failing_start(void *client_data, struct store_call *call)
{
    enum store_operation operation = call->question.operation;

    asked_store[operation]++;
    if (failing_with[operation] != STORE_OK) {
        call->reply.result = failing_with[operation];
        store_call_post(call);
    } else if (holding[operation]) {
        cr_assert_lt(held_count, HELD);
        held_calls[held_count++] = (struct held_call){client_data, call};
    } else {
        real_backend->start(client_data, call);
    }
}

HELPER enum store_state failing_state(const void *data)
{
    return has_forced_state ? forced_state : real_backend->state(data);
}

HELPER void failing_store_install(void)
{
    real_backend = shared.store->backend;
    failing_backend = *real_backend;
    failing_backend.start = failing_start;
    failing_backend.state = failing_state;
    shared.store->backend = &failing_backend;
}

HELPER void store_fails(enum store_operation operation, enum store_result result)
{
    failing_with[operation] = result;
}

HELPER void store_holds(enum store_operation operation)
{
    holding[operation] = true;
}

/* Lets what was held go to the store, and nothing more be held. */
HELPER void store_goes_on(enum store_operation operation)
{
    unsigned kept = 0;

    holding[operation] = false;
    for (unsigned i = 0; i < held_count; i++) {
        struct held_call held = held_calls[i];

        if (held.call->question.operation == operation) {
            real_backend->start(held.client_data, held.call);
        } else {
            held_calls[kept++] = held;
        }
    }
    held_count = kept;
}

/* Until every reply has come, but for those that are held: what a timer is set to depends on it. */
HELPER void store_is_idle(void)
{
    settle();
    RUN_UNTIL(GATEWAY->store->running == held_count);
}

HELPER void store_is(enum store_state state)
{
    forced_state = state;
    has_forced_state = true;
}

#endif
