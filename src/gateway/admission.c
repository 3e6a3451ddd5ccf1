#include "build_config.h"

#include "gateway/admission.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"
#include "base/table.h"
#include "model/address.h"
#include "model/key_state.h"
#include "model/limit.h"

static const enum config_operation needed[ROUTE_OPERATION_COUNT] = {
    [ROUTE_RUN] = CONFIG_OPERATION_RUN,        [ROUTE_RUNSYNC] = CONFIG_OPERATION_RUNSYNC,
    [ROUTE_STATUS] = CONFIG_OPERATION_STATUS,  [ROUTE_STATUS_SYNC] = CONFIG_OPERATION_STATUS,
    [ROUTE_STREAM] = CONFIG_OPERATION_STREAM,  [ROUTE_CANCEL] = CONFIG_OPERATION_CANCEL,
    [ROUTE_RETRY] = CONFIG_OPERATION_RETRY,    [ROUTE_PURGE_QUEUE] = CONFIG_OPERATION_PURGE,
    [ROUTE_HEALTH] = CONFIG_OPERATION_HEALTH,  [ROUTE_REQUESTS] = CONFIG_OPERATION_REQUESTS,
    [ROUTE_BATCH] = CONFIG_OPERATION_BATCH,    [ROUTE_OPENAI] = CONFIG_OPERATION_OPENAI,
    [ROUTE_JOBS] = CONFIG_OPERATION_STATUS,    [ROUTE_JOB_DELETE] = CONFIG_OPERATION_DELETE,
    [ROUTE_WHOAMI] = (enum config_operation)0, /* every key may ask who it is */
};

static struct admission_verdict refuse(enum problem problem, enum metric_refusal refusal)
{
    return (struct admission_verdict){.problem = problem,
                                      .refusal = refusal,
                                      .is_authentication = problem == PROBLEM_UNAUTHORIZED};
}

/* Which key it is, or NULL and why not. An unknown id costs the same hash and comparison as a known
 * one, so that time does not tell which ids exist. */
static const struct config_key *authenticate(const struct admission_question *question,
                                             enum metric_refusal *refusal)
{
    static const uint8_t nobody[KEY_HASH_LENGTH];
    struct view credential;
    struct view id;
    const struct config_key *key;
    uint8_t hash[KEY_HASH_LENGTH];
    bool equal;

    if (question->authorization.length == 0) {
        *refusal = METRIC_REFUSAL_KEY_MISSING;
        return NULL;
    }
    if (!key_from_authorization(question->authorization, &credential) ||
        !key_parse(credential, &id)) {
        *refusal = METRIC_REFUSAL_KEY_MALFORMED;
        return NULL;
    }
    key = config_find_key(question->config, id);
    if (!key_hash(question->hasher, credential, hash)) {
        *refusal = METRIC_REFUSAL_KEY_WRONG;
        return NULL;
    }
    equal = secret_equal_views(view_make((const char *)hash, sizeof hash),
                               view_make((const char *)(key ? key->sha256 : nobody), sizeof hash));
    if (!key || !equal) {
        *refusal = key ? METRIC_REFUSAL_KEY_WRONG : METRIC_REFUSAL_KEY_UNKNOWN;
        return NULL;
    }
    if (key->expires_wall_ms != 0 && question->wall_ms >= key->expires_wall_ms) {
        *refusal = METRIC_REFUSAL_KEY_EXPIRED;
        return NULL;
    }
    return key;
}

static bool authorise(const struct admission_question *question, const struct config_key *key,
                      struct admission_verdict *verdict)
{
    enum route_operation operation = question->route->operation;
    uint32_t wanted = (uint32_t)needed[operation];

    if (!config_key_allowed_from(key, question->peer)) {
        *verdict = refuse(PROBLEM_FORBIDDEN_ADDRESS, METRIC_REFUSAL_ADDRESS);
        return false;
    }
    if (operation == ROUTE_WHOAMI) {
        return true;
    }
    if (!config_endpoint_allowed(key, question->route->endpoint)) {
        /* `flash` reaches any endpoint by its fields: to who may not use it, it isn't there. */
        *verdict =
            refuse(question->route->is_flash ? PROBLEM_NOT_FOUND : PROBLEM_FORBIDDEN_ENDPOINT,
                   METRIC_REFUSAL_ENDPOINT);
        return false;
    }
    if (operation == ROUTE_PURGE_QUEUE) {
        wanted |= CONFIG_OPERATION_PURGE_ALL;
    }
    if (!(key->operations & wanted)) {
        *verdict = refuse(PROBLEM_FORBIDDEN_OPERATION, METRIC_REFUSAL_OPERATION);
        return false;
    }
    /* ?ttl= shortens how long a result lives: it needs a key that may submit (contract 4.2). */
    if (question->route->has_ttl &&
        !(key->operations & (CONFIG_OPERATION_RUN | CONFIG_OPERATION_RUNSYNC))) {
        *verdict = refuse(PROBLEM_FORBIDDEN_OPERATION, METRIC_REFUSAL_OPERATION);
        return false;
    }
    return true;
}

static bool within_rates(const struct admission_question *question, const struct config_key *key,
                         struct admission_verdict *verdict)
{
    struct limit_charge charges[KEY_STATE_LIMITS];
    struct limit_decision decision;

    for (size_t i = 0; i < key->rate_count; i++) {
        charges[i] =
            (struct limit_charge){.policy = &key->rates[i], .state = &key->state->limits[i]};
    }
    decision = limit_take(charges, key->rate_count, question->now_us * 1000);
    if (decision.allowed) {
        return true;
    }
    *verdict = refuse(PROBLEM_RATE_LIMITED, METRIC_REFUSAL_RATE);
    verdict->retry_after_s = (decision.wait_ns + LIMIT_SECOND_NS - 1) / LIMIT_SECOND_NS;
    return false;
}

static bool is_read(enum route_operation operation)
{
    return operation == ROUTE_STATUS || operation == ROUTE_STATUS_SYNC ||
           operation == ROUTE_STREAM || operation == ROUTE_HEALTH ||
           operation == ROUTE_REQUESTS || operation == ROUTE_JOBS;
}

struct admission_verdict admission_check(const struct admission_question *question,
                                         struct admission_ticket *ticket)
{
    struct admission_verdict verdict = {.admitted = true};
    enum metric_refusal refusal = METRIC_REFUSAL_KEY_MISSING;
    const struct config_key *key = authenticate(question, &refusal);

    if (!key) {
        return refuse(PROBLEM_UNAUTHORIZED, refusal);
    }
    ticket->key = key;
    if (!authorise(question, key, &verdict)) {
        return verdict;
    }
    /* The slot first, since it can be given back without a trace; the rate is charged only when
     * nothing else refuses. */
    if (!key_state_enter(key->state, key->concurrency)) {
        verdict = refuse(PROBLEM_CONCURRENCY_LIMITED, METRIC_REFUSAL_CONCURRENCY);
        verdict.retry_after_s = 1;
        return verdict;
    }
    if (key->rate_count > 0 && !within_rates(question, key, &verdict)) {
        key_state_leave(key->state);
        if (is_read(question->route->operation) && verdict.retry_after_s > 10) {
            verdict.retry_after_s = 10; /* the Python SDK sleeps as long as it is told */
        }
        return verdict;
    }
    ticket->counted = true;
    return verdict;
}

void admission_leave(struct admission_ticket *ticket)
{
    if (ticket->counted) {
        key_state_leave(ticket->key->state);
        ticket->counted = false;
    }
}

void admission_release(struct admission_ticket *ticket)
{
    admission_leave(ticket);
    *ticket = (struct admission_ticket){NULL, false};
}

/* ---- failed attempts ------------------------------------------------------------------------- */

enum { ATTEMPTS_MAX = 16384 };

struct attempt {
    struct table_node node;
    uint8_t key[ADDRESS_KEY_LENGTH];
    uint32_t count;
    uint64_t window_start_ms;
};

struct failed_attempts {
    pthread_mutex_t lock;
    struct table *table;
    uint64_t swept_ms;
};

struct failed_attempts *failed_attempts_create(void)
{
    struct failed_attempts *attempts = calloc(1, sizeof *attempts);

    if (!attempts) {
        return NULL;
    }
    attempts->table = table_create();
    if (!attempts->table) {
        free(attempts);
        return NULL;
    }
    pthread_mutex_init(&attempts->lock, NULL);
    return attempts;
}

struct sweep {
    struct table *table;
    uint64_t now_ms; /* UINT64_MAX: everything goes */
};

static void drop_old(struct table_node *node, void *argument)
{
    struct sweep *sweep = argument;
    struct attempt *attempt = (struct attempt *)(void *)node;

    if (sweep->now_ms - attempt->window_start_ms > FAILED_ATTEMPTS_WINDOW_MS) {
        table_remove(sweep->table, node);
        free(attempt);
    }
}

void failed_attempts_destroy(struct failed_attempts *attempts)
{
    struct sweep all;

    if (!attempts) {
        return;
    }
    all = (struct sweep){attempts->table, UINT64_MAX};
    table_for_each(attempts->table, drop_old, &all);
    table_destroy(attempts->table);
    pthread_mutex_destroy(&attempts->lock);
    free(attempts);
}

static struct attempt *find_attempt(struct failed_attempts *attempts, struct view key,
                                    uint64_t now_ms)
{
    struct table_node *node = table_find(attempts->table, key);
    struct attempt *attempt;

    if (node) {
        return (struct attempt *)(void *)node;
    }
    if (now_ms - attempts->swept_ms > FAILED_ATTEMPTS_WINDOW_MS ||
        table_count(attempts->table) >= ATTEMPTS_MAX) {
        struct sweep sweep = {attempts->table, now_ms};

        table_for_each(attempts->table, drop_old, &sweep);
        attempts->swept_ms = now_ms;
    }
    if (table_count(attempts->table) >= ATTEMPTS_MAX) {
        return NULL;
    }
    attempt = calloc(1, sizeof *attempt);
    if (!attempt) {
        return NULL;
    }
    memcpy(attempt->key, key.data, ADDRESS_KEY_LENGTH);
    attempt->window_start_ms = now_ms;
    if (!table_insert(attempts->table, &attempt->node,
                      view_make((const char *)attempt->key, ADDRESS_KEY_LENGTH))) {
        free(attempt);
        return NULL;
    }
    return attempt;
}

uint64_t failed_attempts_add(struct failed_attempts *attempts, const struct address *peer,
                             uint64_t now_ms)
{
    uint8_t bytes[ADDRESS_KEY_LENGTH];
    struct attempt *attempt;
    uint64_t delay_ms = 0;

    pthread_mutex_lock(&attempts->lock);
    attempt = find_attempt(attempts, address_key(peer, bytes), now_ms);
    if (!attempt) {
        /* So many addresses fail at once that they can't be told apart: all of them wait. */
        delay_ms = FAILED_ATTEMPTS_DELAY_MS;
    } else {
        if (now_ms - attempt->window_start_ms > FAILED_ATTEMPTS_WINDOW_MS) {
            attempt->window_start_ms = now_ms;
            attempt->count = 0;
        }
        attempt->count++;
        if (attempt->count > FAILED_ATTEMPTS_FREE) {
            delay_ms = FAILED_ATTEMPTS_DELAY_MS;
        }
    }
    pthread_mutex_unlock(&attempts->lock);
    return delay_ms;
}
