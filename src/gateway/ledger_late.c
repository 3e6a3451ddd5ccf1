#include "build_config.h"

#include <event2/event.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/ledger_private.h"
#include "model/metric_catalogue.h"

/* One worker's part of the ledger: outcomes that are written while nobody waits for them, again and
 * again until the store has them. */

enum {
    FIRST_PAUSE_MS = 100,
    LONGEST_PAUSE_MS = 5000,
    /* More outcomes than this that the store doesn't take are an outage in which nothing goes up
     * any more; what is beyond is named in the log, and becomes unknown in its time. */
    LATE_MAXIMUM = 16384,
};

static void try_to_write(struct submission *submission);

/* ---- what other workers look into ------------------------------------------------------------ */

static size_t build_name(struct view endpoint, struct view job,
                         char name[ROUTE_ENDPOINT_MAXIMUM + 1 + ROUTE_JOB_MAXIMUM])
{
    size_t length = endpoint.length;

    memcpy(name, endpoint.data, length);
    name[length++] = '/';
    memcpy(name + length, job.data, job.length);
    return length + job.length;
}

static void hold(struct ledger *ledger, struct submission *submission)
{
    struct view name = {
        .data = submission->name,
        .length = build_name(ledger_text_view(&submission->endpoint),
                             ledger_text_view(&submission->job), submission->name),
    };

    pthread_mutex_lock(&ledger->lock);
    submission->in_table =
        !table_find(ledger->held, name) && table_insert(ledger->held, &submission->node, name);
    pthread_mutex_unlock(&ledger->lock);
}

static void let_go(struct ledger *ledger, struct submission *submission)
{
    if (submission->in_table) {
        pthread_mutex_lock(&ledger->lock);
        table_remove(ledger->held, &submission->node);
        pthread_mutex_unlock(&ledger->lock);
        submission->in_table = false;
    }
}

static bool holds(struct ledger *ledger, struct view name, struct view team)
{
    struct table_node *node;
    bool found = false;

    pthread_mutex_lock(&ledger->lock);
    node = table_find(ledger->held, name);
    if (node) {
        const struct submission *submission =
            (const struct submission *)(const void *)((const char *)node -
                                                      offsetof(struct submission, node));

        found = view_equal(ledger_text_view(&submission->team), team);
    }
    pthread_mutex_unlock(&ledger->lock);
    return found;
}

bool ledger_holds(struct gateway_shared *shared, struct view endpoint, struct view job,
                  struct view team)
{
    char storage[ROUTE_ENDPOINT_MAXIMUM + 1 + ROUTE_JOB_MAXIMUM];
    size_t length;

    if (!route_endpoint_valid(endpoint) || !route_job_valid(job)) {
        return false;
    }
    length = build_name(endpoint, job, storage);
    for (size_t i = 0; i < shared->gateway_count; i++) {
        struct ledger *ledger = shared->gateways[i]->ledger;

        if (ledger && atomic_load(&ledger->late_count) > 0 &&
            holds(ledger, view_make(storage, length), team)) {
            return true;
        }
    }
    return false;
}

bool ledger_holds_own(const struct request *request)
{
    return ledger_holds(request->gateway->shared, request->route.endpoint, request->route.job,
                        request->ticket.key->team->name);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void log_late(const struct submission *submission, enum log_level level, const char *event,
                     const char *reason)
{
    struct log_line *line = log_begin(submission->ledger->gateway->log, level, event);

    log_word(line, "submit", view_make(submission->id, sizeof submission->id));
    log_text(line, "team", ledger_text_view(&submission->team));
    log_text(line, "endpoint", ledger_text_view(&submission->endpoint));
    if (submission->job.length > 0) {
        log_text(line, "job", ledger_text_view(&submission->job));
    }
    log_string(line, "reason", reason);
    log_end(line);
}

static void finish(struct submission *submission)
{
    struct ledger *ledger = submission->ledger;

    if (submission->next) {
        submission->next->previous = submission->previous;
    }
    if (submission->previous) {
        submission->previous->next = submission->next;
    } else {
        ledger->late = submission->next;
    }
    let_go(ledger, submission);
    if (submission->has_timer) {
        event_del(&submission->timer);
    }
    atomic_fetch_sub(&ledger->late_count, 1);
    submission_free(submission);
}

static void on_timer(evutil_socket_t descriptor, short what, void *argument)
{
    (void)descriptor;
    (void)what;
    try_to_write(argument);
}

static void try_later(struct submission *submission)
{
    unsigned doublings = submission->attempts < 7 ? submission->attempts : 6;
    unsigned pause_ms = FIRST_PAUSE_MS << doublings;
    struct timeval pause;

    if (pause_ms > LONGEST_PAUSE_MS) {
        pause_ms = LONGEST_PAUSE_MS;
    }
    pause = (struct timeval){pause_ms / 1000, (suseconds_t)(pause_ms % 1000 * 1000)};
    submission->attempts++;
    event_add(&submission->timer, &pause);
}

static void on_written(void *argument, const struct store_reply *reply)
{
    struct submission *submission = argument;
    bool known = submission->state == STORE_SUBMIT_KNOWN;

    submission->call = NULL;
    if (store_failed(reply->result)) {
        try_later(submission);
        return;
    }
    if (known && reply->result == STORE_OWNED && !ledger_owns_already(submission, reply)) {
        log_late(submission, LOG_LEVEL_ERROR, "submit_mismatch", "the id is in the ledger already");
        metrics_add(submission->ledger->gateway->metrics, METRIC_WARNINGS,
                    METRIC_WARNING_SUBMIT_MISMATCH, 0, 1);
    } else if (known) {
        log_late(submission, LOG_LEVEL_WARNING, "submit_recorded_late",
                 store_result_text(reply->result));
        ledger_follow_up(submission, submission->ledger->gateway, reply->now_ms);
    }
    finish(submission);
}

static void try_to_write(struct submission *submission)
{
    struct gateway *gateway = submission->ledger->gateway;
    struct store_question question = ledger_settle_question(submission, gateway);

    submission->call = store_ask(gateway->store, &question, on_written, submission);
    if (!submission->call) {
        try_later(submission);
    }
}

void ledger_write_late(struct gateway *gateway, struct submission *submission)
{
    struct ledger *ledger = gateway->ledger;

    submission->ledger = ledger;
    submission->previous = NULL;
    submission->next = ledger->late;
    if (ledger->late) {
        ledger->late->previous = submission;
    }
    ledger->late = submission;
    evtimer_assign(&submission->timer, loop_base(gateway->loop), on_timer, submission);
    submission->has_timer = true;
    if (submission->state == STORE_SUBMIT_KNOWN) {
        hold(ledger, submission);
    }
    if (atomic_fetch_add(&ledger->late_count, 1) >= LATE_MAXIMUM) {
        log_late(submission, LOG_LEVEL_ERROR, "submit_record_lost", "too many wait");
        finish(submission);
        return;
    }
    if (submission->attempts > 0) {
        try_later(submission); /* the store has just failed */
    } else {
        try_to_write(submission);
    }
}

/* ---- the worker's part ----------------------------------------------------------------------- */

struct ledger *ledger_create(struct gateway *gateway)
{
    struct ledger *ledger = calloc(1, sizeof *ledger);

    if (!ledger) {
        return NULL;
    }
    ledger->gateway = gateway;
    pthread_mutex_init(&ledger->lock, NULL);
    ledger->held = table_create();
    ledger->digest_context = EVP_MD_CTX_new();
    ledger->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!ledger->held || !ledger->digest_context || !ledger->sha256) {
        ledger_destroy(ledger);
        return NULL;
    }
    return ledger;
}

void ledger_destroy(struct ledger *ledger)
{
    if (!ledger) {
        return;
    }
    while (ledger->late) {
        struct submission *submission = ledger->late;

        if (submission->call) {
            store_cancel(submission->call); /* what it writes is written */
        }
        if (submission->state == STORE_SUBMIT_KNOWN) {
            log_late(submission, LOG_LEVEL_ERROR, "submit_record_lost", "the process ends");
        }
        finish(submission);
    }
    table_destroy(ledger->held);
    EVP_MD_CTX_free(ledger->digest_context);
    EVP_MD_free(ledger->sha256);
    pthread_mutex_destroy(&ledger->lock);
    free(ledger);
}

size_t ledger_unrecorded(const struct ledger *ledger)
{
    return atomic_load(&ledger->late_count);
}
