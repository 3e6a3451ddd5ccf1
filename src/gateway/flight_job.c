#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/collector.h"
#include "gateway/flight_private.h"
#include "gateway/relay.h"
#include "model/metric_catalogue.h"

/* The job's entry in the ledger, as its flight knows it: who owns the job, whether it has ended,
 * and who may poll it. */

enum { LEASE_RENEW_MS = 5000, STORE_READ_MS = 500 };

struct view flight_endpoint(const struct flight *flight)
{
    return flight->route.endpoint;
}

struct view flight_job_id(const struct flight *flight)
{
    return view_skip(view_make(flight->name, flight->name_length),
                     flight->route.endpoint.length + 1);
}

uint64_t flight_store_ms(const struct flight *flight)
{
    return (uint64_t)((int64_t)clock_wall_ms() + flight->record.clock_offset_ms);
}

/* ---- answers of podgate's own ---------------------------------------------------------------- */

struct flight_answer *flight_problem_answer(enum problem problem)
{
    struct flight_answer *answer = flight_answer_create();

    if (answer) {
        answer->problem = problem;
        answer->received_ms = clock_mono_ms();
    }
    return answer;
}

/* What its owner is told of a job that has no result to show. */
static enum problem problem_of_job(const struct store_job *job)
{
    if (job->state == JOB_LOST) {
        return PROBLEM_RESULT_LOST;
    }
    if (job->state == JOB_TTL_EXPIRED) {
        return PROBLEM_JOB_EXPIRED;
    }
    switch (job->fate) {
    case STORE_FATE_TOO_LARGE: return PROBLEM_RESULT_TOO_LARGE;
    case STORE_FATE_DELETED: return PROBLEM_RESULT_DELETED;
    case STORE_FATE_EXPIRED: return PROBLEM_JOB_EXPIRED;
    case STORE_FATE_EVICTED: return PROBLEM_RESULT_EVICTED;
    case STORE_FATE_KEPT:
    case STORE_FATE_NONE: break;
    }
    return PROBLEM_STORE_UNAVAILABLE;
}

/* A result above max_result stays with the upstream: whoever asks gets a request of his own. */
static struct flight_answer *too_large_answer(void)
{
    struct flight_answer *answer = flight_answer_create();

    if (answer) {
        answer->failed = true;
        answer->too_large = true;
        answer->received_ms = clock_mono_ms();
    }
    return answer;
}

static bool lacks_output(struct body *stored)
{
    struct relay_facts facts;

    return relay_read_facts(body_view(stored), &facts) && !facts.has_output &&
           view_equal(facts.status, VIEW("COMPLETED"));
}

void flight_set_final(struct flight *flight, const struct store_job *job, struct body *stored)
{
    struct hot_cache *cache = flight->flights->gateway->shared->hot_cache;

    flight_answer_unref(flight->final);
    flight->final = NULL;
    if (job->fate == STORE_FATE_TOO_LARGE && job->state != JOB_LOST) {
        flight->final = too_large_answer();
        return;
    }
    if (job->fate != STORE_FATE_KEPT || !stored) {
        flight->final = flight_problem_answer(problem_of_job(job));
        return;
    }
    flight->final = flight_answer_create();
    if (!flight->final) {
        return;
    }
    flight->final->received_ms = clock_mono_ms();
    flight->final->terminal = true;
    flight->final->result = hot_result_create(job, stored);
    if (!flight->final->result) {
        flight_answer_unref(flight->final);
        flight->final = NULL;
        return;
    }
    /* A result without output is short, so it is never an encoded one. */
    flight->final->result->completed_without_output = job->state == JOB_COMPLETED &&
                                                      job->encoding == STORE_ENCODING_IDENTITY &&
                                                      lacks_output(stored);
    hot_cache_put(cache, flight->final->result);
}

/* ---- the record ------------------------------------------------------------------------------ */

static size_t copy_text(char *to, size_t room, struct view from)
{
    size_t length = from.length < room ? from.length : room;

    memcpy(to, from.data ? from.data : "", length);
    return length;
}

void flight_take_record(struct flight *flight, const struct store_job *job, uint64_t now_ms)
{
    struct flight_record *record = &flight->record;

    record->known = RECORD_HERE;
    record->kind = job->kind;
    record->state = job->state;
    record->fate = job->fate;
    record->purged = job->purged;
    record->generation = job->generation;
    record->submitted_ms = job->submitted_ms;
    record->ended_ms = job->ended_ms;
    record->ttl_ms = job->ttl_ms;
    record->fence = job->fence;
    record->missing_since_ms = job->missing_since_ms;
    record->missing_count = job->missing_count;
    record->failure_count = job->failure_count;
    record->clock_offset_ms = (int64_t)now_ms - (int64_t)clock_wall_ms();
    flight->flights->clock_offset_ms = record->clock_offset_ms;
    record->team_length = copy_text(record->team, sizeof record->team, job->team);
    record->upstream_id_length =
        copy_text(record->upstream_id, sizeof record->upstream_id,
                  job->upstream_id.length > 0 ? job->upstream_id : job->id);
    flight->route.job = view_make(record->upstream_id, record->upstream_id_length);
}

static void answer_all_with(struct flight *flight, enum problem problem)
{
    struct flight_answer *answer = flight_problem_answer(problem);

    while (flight->callers) {
        struct flight_caller *caller = flight->callers;

        flight->callers = caller->next;
        flight_deliver_to(flight->flights, caller, answer, FLIGHT_ASKED);
    }
    flight_answer_unref(answer);
}

static void mark_checked(struct flight *flight)
{
    for (struct flight_caller *caller = flight->callers; caller; caller = caller->next) {
        caller->checked = true;
    }
}

/* A poll of the collector's that comes to nothing: it waits for each to be settled. */
static void drop_poll(struct flight *flight)
{
    if (flight->polling) {
        flight_settle_poll(flight, NULL, false, false);
    }
}

static void take_loaded(struct flight *flight, const struct store_reply *reply)
{
    bool terminal = job_state_is_terminal(reply->job.state);

    flight_take_record(flight, &reply->job, reply->now_ms);
    flight_answer_unref(flight->final);
    flight->final = NULL;
    if (terminal) {
        flight_set_final(flight, &reply->job, reply->body);
    } else if (flight->has_ending && flight->ending.told) {
        flight_enter_unstored(flight); /* unless the job was retried since */
    }
    if (job_state_is_terminal(flight->record.state) && !flight->final) {
        answer_all_with(flight, PROBLEM_OVERLOADED); /* no memory for what was found */
    }
}

static void on_loaded(void *argument, const struct store_reply *reply)
{
    struct flight *flight = argument;

    flight->load_call = NULL;
    if (flight->reload) {
        flight->reload = false;
        flight_load(flight);
        flight_arm(flight);
        return;
    }
    if (store_failed(reply->result)) {
        /* What is known already goes on; who waits for what isn't known is told so. A job that
         * wasn't there a moment ago may be by now. */
        if (flight->record.known != RECORD_HERE) {
            answer_all_with(flight, PROBLEM_STORE_UNAVAILABLE);
            drop_poll(flight);
        }
        mark_checked(flight);
        flight_proceed(flight, VIEW(""));
        return;
    }
    mark_checked(flight);
    if (reply->result == STORE_OK) {
        take_loaded(flight, reply);
    } else if (reply->result == STORE_ABSENT) {
        flight->record.known = RECORD_ABSENT;
        drop_poll(flight);
    }
    flight_proceed(flight, VIEW(""));
}

void flight_load(struct flight *flight)
{
    struct store_question question = {
        .operation = STORE_GET_JOB,
        .endpoint = flight_endpoint(flight),
        .job = flight_job_id(flight),
        .with_result = true,
    };

    if (flight->load_call) {
        return;
    }
    flight->load_call = store_ask(flight->flights->gateway->store, &question, on_loaded, flight);
    if (!flight->load_call && flight->record.known == RECORD_NONE) {
        answer_all_with(flight, PROBLEM_OVERLOADED);
    }
}

/* ---- what a caller gets ---------------------------------------------------------------------- */

static bool is_owner(const struct flight *flight, const struct flight_caller *caller)
{
    return view_equal(view_make(flight->record.team, flight->record.team_length),
                      view_make(caller->team, caller->team_length));
}

enum flight_verdict flight_judge_caller(const struct flight *flight,
                                        const struct flight_caller *caller,
                                        struct flight_answer **answer)
{
    if (flight->record.known == RECORD_NONE) {
        return VERDICT_LOAD;
    }
    if (flight->record.known == RECORD_HERE && is_owner(flight, caller)) {
        *answer = flight->final;
        if (!job_state_is_terminal(flight->record.state)) {
            return VERDICT_OPEN;
        }
        return *answer ? VERDICT_FINAL : VERDICT_LOAD;
    }
    /* Who asks for another team's job waits for the store as long as who asks for none. */
    if (!caller->checked) {
        return VERDICT_LOAD;
    }
    if (flight->record.known == RECORD_ABSENT && caller->may_adopt) {
        return VERDICT_OPEN;
    }
    *answer = flight->nobody;
    return VERDICT_FINAL;
}

/* ---- the lease of those who wait ------------------------------------------------------------- */

static void on_leased(void *argument, const struct store_reply *reply)
{
    struct flight *flight = argument;
    uint64_t now_ms = clock_mono_ms();

    flight->lease_call = NULL;
    switch (reply->result) {
    case STORE_OK:
        flight->leased = true;
        flight->lease_until_ms = now_ms + STORE_LEASE_MS;
        flight->record.fence = reply->job.fence;
        break;
    case STORE_BUSY:
        /* Another podgate asks upstream; what it stores is read from the store. */
        flight->leased = false;
        flight->not_before_ms = now_ms + STORE_READ_MS;
        flight_load(flight);
        break;
    case STORE_CONFLICT:
    case STORE_ABSENT:
        flight->leased = false;
        flight->record.known = RECORD_NONE;
        break;
    case STORE_OWNED:
    case STORE_REPLAY:
    case STORE_MISMATCH:
    case STORE_UNKNOWN:
    case STORE_BAD_CURSOR:
    case STORE_BROKEN:
    case STORE_AWAY:
    case STORE_FULL:
    case STORE_TIMED_OUT:
    case STORE_NO_MEMORY:
        /* Without the store each podgate asks for its own callers. */
        flight->leased = true;
        flight->lease_until_ms = now_ms + LEASE_RENEW_MS + STORE_READ_MS;
        break;
    }
    flight_proceed(flight, VIEW(""));
}

static void ask_for_lease(struct flight *flight)
{
    struct store_question question = {
        .operation = STORE_CLAIM_JOB,
        .endpoint = flight_endpoint(flight),
        .job = flight_job_id(flight),
        .lease_ms = STORE_LEASE_MS,
    };

    if (!flight->lease_call) {
        flight->lease_call =
            store_ask(flight->flights->gateway->store, &question, on_leased, flight);
    }
}

bool flight_may_poll(struct flight *flight)
{
    struct gateway_shared *shared = flight->flights->gateway->shared;
    uint64_t now_ms = clock_mono_ms();
    uint64_t wait_ms;

    if (now_ms < flight->not_before_ms) {
        return false;
    }
    if (store_is_shared(shared->store) && !flight->poll_claimed &&
        (!flight->leased || flight->lease_until_ms < now_ms + LEASE_RENEW_MS)) {
        ask_for_lease(flight);
        if (!flight->leased || flight->lease_until_ms <= now_ms) {
            return false;
        }
    }
    wait_ms =
        shared->collector ? collector_take_poll(shared->collector, flight_endpoint(flight)) : 0;
    if (wait_ms > 0) {
        flight->not_before_ms = now_ms + wait_ms;
        return false;
    }
    return true;
}

static bool somebody_waits(const struct flight *flight)
{
    for (const struct flight_caller *caller = flight->callers; caller; caller = caller->next) {
        if (caller->wait_until_ms != 0) {
            return true;
        }
    }
    return false;
}

void flight_release_lease(struct flight *flight)
{
    if (flight->leased && !somebody_waits(flight) && !flight->building && !flight->has_ending) {
        flight->leased = false;
        if (flight->record.known == RECORD_HERE && !job_state_is_terminal(flight->record.state)) {
            flight->poll_claimed =
                true; /* as after a poll of the collector's: back on the schedule */
            flight_settle_poll(flight, NULL, false, false);
        }
    }
}
