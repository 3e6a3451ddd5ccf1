/* For the tests of submits: gateways with a store that can be made to fail, two callers, and
 * questions to the ledger. */
#ifndef PODGATE_TESTS_LEDGER_FIXTURE_H
#define PODGATE_TESTS_LEDGER_FIXTURE_H

#include "failing_store.h"

#include "store/input_vault.h"

static struct caller caller;
static struct caller second;

HELPER void set_up_with(const char *options)
{
    char *problem = NULL;

    set_up_peer();
    open_gateways(1, "", ALL_OPERATIONS, options);
    shared.input_vault = input_vault_create(config, &problem);
    cr_assert_not_null(shared.input_vault, "%s", problem);
    failing_store_install();
    caller_open(&caller, FRONT);
    caller_open(&second, FRONT);
}

HELPER void set_up_ledger(void)
{
    set_up_with("");
}

HELPER void tear_down_ledger(void)
{
    caller_close(&caller);
    caller_close(&second);
    tear_down_gateway();
    input_vault_destroy(shared.input_vault);
}

/* ---- helpers */

#define QUEUED(id) "{\"id\":\"" id "\",\"status\":\"IN_QUEUE\"}"

HELPER void submit(struct caller *who, const char *target, const char *key, const char *body)
{
    char *fields = NULL;

    cr_assert_gt(asprintf(&fields, "Idempotency-Key: %s\r\n", key), 0);
    ask(who, "POST", target, fields, body);
    free(fields);
}

/* What the store says of a job. */
static struct {
    bool done;
    enum store_result result;
    enum job_state state;
    enum store_fate fate;
    enum store_kind kind;
    uint64_t generation;
    uint64_t ttl_ms;
    uint64_t execution_ms;
    uint64_t input_bytes;
    char upstream_id[128];
    char body[4096];
    char team[64];
} found;

HELPER void copy_view(char *to, size_t room, struct view from)
{
    from = view_first(from, room - 1);
    if (from.length > 0) {
        memcpy(to, from.data, from.length);
    }
    to[from.length] = '\0';
}

HELPER void on_found(UNUSED void *argument, const struct store_reply *reply)
{
    found.done = true;
    found.result = reply->result;
    found.state = reply->job.state;
    found.fate = reply->job.fate;
    found.kind = reply->job.kind;
    found.generation = reply->job.generation;
    found.ttl_ms = reply->job.ttl_ms;
    found.execution_ms = reply->job.execution_ms;
    found.input_bytes = reply->job.input_bytes;
    copy_view(found.upstream_id, sizeof found.upstream_id, reply->job.upstream_id);
    copy_view(found.team, sizeof found.team, reply->job.team);
    copy_view(found.body, sizeof found.body, body_view(reply->body));
}

HELPER enum store_result look_for(const char *job)
{
    struct store_question question = {.operation = STORE_GET_JOB,
                                      .endpoint = VIEW("abc"),
                                      .job = view_of_string(job),
                                      .with_result = true};

    found.done = false;
    cr_assert_not_null(store_ask(GATEWAY->store, &question, on_found, NULL));
    RUN_UNTIL(found.done);
    return found.result;
}

static size_t unknown_count;

HELPER void on_unknown(void *argument, const struct store_reply *reply)
{
    unknown_count = reply->count;
    *(bool *)argument = true;
}

HELPER size_t unknown_submits(void)
{
    struct store_question question = {.operation = STORE_LIST_UNKNOWN, .limit = 100};
    bool done = false;

    cr_assert_not_null(store_ask(GATEWAY->store, &question, on_unknown, &done));
    RUN_UNTIL(done);
    return unknown_count;
}

HELPER void all_is_written(void)
{
    RUN_UNTIL(ledger_unrecorded(GATEWAY->ledger) == 0);
}

#endif
