#include "build_config.h"

#include "simulation_podgate.h"

#include <signal.h>

/* Submits, polls and results against what can go wrong at each step: upstream refuses, resets,
 * hangs or lies, the store fails before or after it wrote, podgate is killed or loses power between
 * any two steps, the wall clock is set. All of it follows from a seed; time is simulated. What is
 * promised is checked at the end of each run (reliability: I1 to I5):
 *
 * - what a caller was told is in the ledger, and its result there byte for byte;
 * - a result, once seen, stays;
 * - no caller's request made two jobs; what nobody knows is listed as unknown.
 *
 * PODGATE_SIMULATION_SEEDS=N runs so many seeds, PODGATE_SIMULATION_SEED=N that one alone,
 * PODGATE_SIMULATION_TRACE=1 tells what happens.
 */

enum {
    CALLERS = 24,
    KILLS = 4,
    SEEDS = 200,
    SUBMITS_MS = 40000,
    TROUBLE_MS = 90000,
    LONGEST_MS = 1500000,
    CALLER_BYTES = 4096,
    PATIENCE_MS = 100000,
};

enum customer_state { CUSTOMER_SUBMITS, CUSTOMER_WATCHES, CUSTOMER_IS_DONE };

struct customer {
    unsigned nonce;
    enum customer_state state;
    char endpoint[8];
    bool is_runsync;
    bool is_keyed;
    bool watches;
    unsigned tries;
    uint64_t next_ms;   /* when it asks next */
    uint64_t leaves_ms; /* when it hangs up while it waits */
    int descriptor;
    uint64_t asked_ms;
    size_t received;
    char answer[CALLER_BYTES];
    /* What it was told. */
    bool is_acknowledged;
    bool is_not_recorded;
    char job[64];
    size_t final_length; /* of the terminal state that it saw; 0: none */
    char final[UP_OUTPUT];
    unsigned looks_after;
};

static struct customer callers[CALLERS];
static bool traces;
static bool power_was_cut;
static unsigned store_faults_permille;
static uint64_t store_away_from_ms;
static uint64_t store_away_until_ms;
static uint64_t store_questions;
static uint64_t start_again_ms;
static uint64_t clock_steps_at_ms;

struct kill {
    bool is_over;
    uint64_t at_ms;
    uint64_t at_question; /* or when the store was asked so often */
    uint64_t at_request;  /* or when upstream was */
};

static struct kill kills[KILLS];

#define TRACE(...)                                                                                 \
    do {                                                                                           \
        if (traces) {                                                                              \
            fprintf(stderr, "%8u ", (unsigned)simulated_ms);                                       \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
        }                                                                                          \
    } while (0)

#define MUST(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "seed %llu: " #condition ": ", (unsigned long long)seed);              \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            cr_assert_fail("PODGATE_SIMULATION_SEED=%llu repeats it", (unsigned long long)seed);   \
        }                                                                                          \
    } while (0)

/* ---- callers --------------------------------------------------------------------------------- */

static void caller_leave(struct customer *caller)
{
    if (caller->descriptor >= 0) {
        close(caller->descriptor);
        caller->descriptor = -1;
    }
}

static void caller_ask(struct customer *caller)
{
    char text[1024];
    char body[64];
    char key[64] = "";
    int length;

    caller->next_ms = simulated_ms + 3000;
    caller->descriptor = podgate_connect();
    if (caller->descriptor < 0) {
        return;
    }
    caller->asked_ms = simulated_ms;
    caller->received = 0;
    if (caller->state == CUSTOMER_WATCHES) {
        length = snprintf(text, sizeof text,
                          "GET /v2/%s/status/%s HTTP/1.1\r\nHost: a\r\n"
                          "Authorization: Bearer %s\r\n\r\n",
                          caller->endpoint, caller->job, key_text);
    } else {
        snprintf(body, sizeof body, "{\"input\":{\"n\":%u}}", caller->nonce);
        if (caller->is_keyed) {
            snprintf(key, sizeof key, "Idempotency-Key: key-%u\r\n", caller->nonce);
        }
        caller->tries++;
        length = snprintf(text, sizeof text,
                          "POST /v2/%s/%s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n"
                          "%sContent-Length: %zu\r\n\r\n%s",
                          caller->endpoint, caller->is_runsync ? "runsync?wait=20000" : "run",
                          key_text, key, strlen(body), body);
    }
    cr_assert_eq(send(caller->descriptor, text, (size_t)length, MSG_NOSIGNAL), length);
}

static void see_final(struct customer *caller, const char *body, size_t length)
{
    if (caller->final_length == 0) {
        cr_assert_lt(length, UP_OUTPUT);
        memcpy(caller->final, body, length);
        caller->final_length = length;
        return;
    }
    MUST(length == caller->final_length && memcmp(caller->final, body, length) == 0,
         "caller %u saw %.*s and then %.*s", caller->nonce, (int)caller->final_length,
         caller->final, (int)length, body);
}

static void take_status(struct customer *caller, unsigned status, const char *body, size_t length)
{
    bool is_final = strstr(body, "\"COMPLETED\"") || strstr(body, "\"FAILED\"");

    TRACE("caller %u: status %u %.*s", caller->nonce, status, (int)length, body);
    caller->next_ms = simulated_ms + 2000 + number_of("watch", simulated_ms) % 6000;
    if (status == 404 && caller->is_not_recorded) {
        caller->state =
            CUSTOMER_IS_DONE; /* podgate was killed before the store took it, and it said so */
        return;
    }
    if (status != 200) {
        /* 503 and the like are no word on the job. */
        MUST(status != 404 || up_has_forgotten(up_find(caller->endpoint, caller->job)),
             "caller %u: %s is not found, but upstream has it", caller->nonce, caller->job);
        MUST(status != 404 || caller->final_length == 0, "caller %u saw a result and then 404",
             caller->nonce);
        return;
    }
    if (is_final || caller->final_length > 0) {
        see_final(caller, body, length);
        caller->looks_after++;
        if (caller->looks_after > 2) {
            caller->state = CUSTOMER_IS_DONE;
        }
    }
}

static void take_submit(struct customer *caller, unsigned status, const char *head,
                        const char *body, size_t length)
{
    const char *id = strstr(body, "\"id\":\"");

    TRACE("caller %u: submit %u %.*s", caller->nonce, status, (int)length, body);
    if (status == 200) {
        MUST(id != NULL, "caller %u: 200 without an id: %s", caller->nonce, body);
        caller->is_acknowledged = true;
        caller->is_not_recorded = strstr(head, "Podgate-Warning: not-recorded") != NULL;
        cr_assert_eq(sscanf(id, "\"id\":\"%63[^\"]", caller->job), 1);
        caller->state = caller->watches ? CUSTOMER_WATCHES : CUSTOMER_IS_DONE;
        if (strstr(body, "\"COMPLETED\"") || strstr(body, "\"FAILED\"")) {
            see_final(caller, body, length);
        }
        return;
    }
    caller->next_ms = simulated_ms + 2000 + number_of("again", simulated_ms) % 3000;
    if (!caller->is_keyed || strstr(body, "submit_unknown") || caller->tries >= 12) {
        caller->state = CUSTOMER_IS_DONE;
    }
}

static void take_answer(struct customer *caller)
{
    char *body = strstr(caller->answer, "\r\n\r\n");
    const char *field = strstr(caller->answer, "Content-Length: ");
    unsigned status = (unsigned)strtoul(caller->answer + 9, NULL, 10);
    size_t length;

    if (!body || !field) {
        return;
    }
    *body = '\0';
    body += 4;
    length = strtoul(field + 16, NULL, 10);
    if (caller->answer + caller->received < body + length) {
        *(body - 4) = '\r';
        return;
    }
    caller_leave(caller);
    if (caller->state == CUSTOMER_WATCHES) {
        take_status(caller, status, body, length);
    } else {
        take_submit(caller, status, caller->answer, body, length);
    }
}

static void caller_lost(struct customer *caller)
{
    caller_leave(caller);
    TRACE("caller %u: no answer", caller->nonce);
    caller->next_ms = simulated_ms + 1000;
    if (caller->state == CUSTOMER_SUBMITS && (!caller->is_keyed || caller->tries >= 12)) {
        caller->state = CUSTOMER_IS_DONE;
    }
}

static bool caller_read(struct customer *caller)
{
    ssize_t count = recv(caller->descriptor, caller->answer + caller->received,
                         CALLER_BYTES - 1 - caller->received, MSG_DONTWAIT);

    if (count > 0) {
        caller->received += (size_t)count;
        caller->answer[caller->received] = '\0';
        take_answer(caller);
        return true;
    }
    if (count == 0 || errno != EAGAIN) {
        caller_lost(caller);
        return true;
    }
    if (simulated_ms >= caller->asked_ms + PATIENCE_MS ||
        (caller->state == CUSTOMER_SUBMITS && simulated_ms >= caller->leaves_ms)) {
        caller->leaves_ms = UP_NEVER;
        caller_lost(caller);
        return true;
    }
    return false;
}

static bool callers_turn(void)
{
    bool any = false;

    for (size_t i = 0; i < CALLERS; i++) {
        struct customer *caller = &callers[i];

        if (caller->descriptor >= 0) {
            any = caller_read(caller) || any;
        } else if (caller->state != CUSTOMER_IS_DONE && simulated_ms >= caller->next_ms) {
            caller_ask(caller);
            any = caller->descriptor >= 0 || any;
        }
    }
    return any;
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static enum model_fault on_question(UNUSED void *argument, const struct store_question *question)
{
    bool away = simulated_ms >= store_away_from_ms && simulated_ms < store_away_until_ms;

    if (away || chance_of(store_faults_permille, store_operation_texts[question->operation],
                          store_questions)) {
        TRACE("store: %s fails", store_operation_texts[question->operation]);
        return number_of("afterwards", store_questions) % 2 ? MODEL_FAILS : MODEL_FAILS_AFTERWARDS;
    }
    TRACE("store: %s %.*s%.*s", store_operation_texts[question->operation],
          (int)question->job.length, question->job.data, (int)question->submit.job.length,
          question->submit.job.data);
    return MODEL_FINE;
}

static void die(const struct kill *kill)
{
    uint64_t nth = (uint64_t)(kill - kills);
    bool power = chance_of(300, "power", nth);

    podgate_kill((unsigned)(number_of("took effect", nth) % 3));
    if (power) {
        model_cut_power(&model);
        power_was_cut = true;
    }
    start_again_ms = simulated_ms + number_of("down", nth) % 4000;
    TRACE("killed%s", power ? ", power cut" : "");
}

static bool is_due(const struct kill *kill)
{
    return !kill->is_over && (simulated_ms >= kill->at_ms || store_questions >= kill->at_question ||
                              up.requests >= kill->at_request);
}

/* Kills when it is time to; between any two steps. */
static void kills_turn(void)
{
    for (size_t i = 0; i < KILLS && podgate.runs; i++) {
        if (is_due(&kills[i])) {
            kills[i].is_over = true;
            die(&kills[i]);
        }
    }
}

/* ---- one run --------------------------------------------------------------------------------- */

static void plan_callers(void)
{
    for (unsigned i = 0; i < CALLERS; i++) {
        callers[i] = (struct customer){
            .nonce = i + 1,
            .is_runsync = chance_of(250, "is runsync", i),
            .is_keyed = chance_of(400, "is keyed", i),
            .watches = chance_of(500, "watches", i),
            .next_ms = number_of("submits", i) % SUBMITS_MS,
            .leaves_ms = UP_NEVER,
            .descriptor = -1,
        };
        snprintf(callers[i].endpoint, sizeof callers[i].endpoint, "ep%u", i % 2);
        if (chance_of(150, "leaves", i)) {
            callers[i].leaves_ms = callers[i].next_ms + number_of("when", i) % 500;
        }
    }
}

static void plan_trouble(void)
{
    static const uint64_t permilles[] = {0, 30, 100, 250};

    up.fault_permille = permilles[number_of("upstream", 0) % 4];
    store_faults_permille = (unsigned)permilles[number_of("store", 0) % 4] / 2;
    for (size_t i = 0; i < 2; i++) {
        if (chance_of(500, "away", i)) {
            up.away_from_ms[i] = number_of("from", i) % TROUBLE_MS;
            up.away_until_ms[i] = up.away_from_ms[i] + number_of("for", i) % 15000;
        }
    }
    store_away_from_ms = store_away_until_ms = 0;
    if (chance_of(400, "store away", 0)) {
        store_away_from_ms = number_of("store from", 0) % TROUBLE_MS;
        store_away_until_ms = store_away_from_ms + number_of("store for", 0) % 15000;
    }
    for (size_t i = 0; i < KILLS; i++) {
        uint64_t how = number_of("kill", i) % 4;

        kills[i] = (struct kill){
            .is_over = how == 3,
            .at_ms = how == 0 ? number_of("kill at", i) % TROUBLE_MS : UP_NEVER,
            .at_question = how == 1 ? number_of("kill question", i) % 400 : UP_NEVER,
            .at_request = how == 2 ? number_of("kill request", i) % 120 : UP_NEVER,
        };
    }
    clock_steps_at_ms =
        chance_of(300, "clock", 0) ? number_of("clock at", 0) % TROUBLE_MS : UP_NEVER;
}

static void step_clock(void)
{
    static const int64_t steps_ms[] = {3600000, -3600000, 5000, -5000, -86400000};

    if (simulated_ms >= clock_steps_at_ms) {
        simulated_step_ms += steps_ms[number_of("clock by", 0) % 5];
        clock_steps_at_ms = UP_NEVER;
        TRACE("the clock was set");
    }
}

/* Everything that can happen at this moment of time. */
static void settle(void)
{
    bool any = true;
    unsigned quiet = 0;

    while (any || quiet < 2) {
        any = false;
        kills_turn();
        if (model.first) {
            store_questions++;
            any = model_answer(&model);
            kills_turn();
        }
        if (podgate.runs) {
            event_base_loop(loop_base(podgate.loop), EVLOOP_NONBLOCK);
        }
        any = up_turn() || any;
        any = callers_turn() || any || model.first;
        quiet = any ? 0 : quiet + 1;
    }
}

/* One that counts as lost though upstream has it. */
static bool is_still_sought(const struct model_job *job)
{
    const struct up_job *here = up_find(job->endpoint, job->id);

    return job->scheduled && here && !up_has_forgotten(here);
}

/* What has not ended yet; NULL: all has. */
static const char *what_goes_on(void)
{
    static char text[128];

    for (size_t i = 0; i < CALLERS; i++) {
        if (callers[i].state != CUSTOMER_IS_DONE) {
            snprintf(text, sizeof text, "caller %u in state %d", callers[i].nonce,
                     (int)callers[i].state);
            return text;
        }
    }
    for (size_t i = 0; i < model.tables.job_count; i++) {
        const struct model_job *job = &model.tables.jobs[i];

        if (!job_state_is_terminal(job->state) || is_still_sought(job)) {
            snprintf(text, sizeof text,
                     "job %.40s: state %s, missing %u, failed %u, due in %lld ms", job->id,
                     job_state_text(job->state), job->missing_count, job->failure_count,
                     (long long)(job->due_ms - clock_wall_ms()));
            return text;
        }
    }
    for (size_t i = 0; i < model.tables.submit_count; i++) {
        const struct model_submit *submit = &model.tables.submits[i];

        if (submit->state == STORE_SUBMIT_SENT && submit->until_ms > clock_wall_ms()) {
            return "a submit that was sent";
        }
    }
    if (!podgate.runs || ledger_unrecorded(podgate.gateway.ledger) > 0 || model.first) {
        return "podgate";
    }
    return NULL;
}

static void advance(void)
{
    simulated_ms += simulated_ms < TROUBLE_MS ? 50 : 200;
    step_clock();
    if (!podgate.runs && simulated_ms >= start_again_ms) {
        podgate_start();
        TRACE("started");
    }
}

/* From here on nothing goes wrong. */
static void end_trouble(void)
{
    up.fault_permille = 0;
    store_faults_permille = 0;
    for (size_t i = 0; i < KILLS; i++) {
        kills[i].is_over = true;
    }
}

/* ---- what was promised ----------------------------------------------------------------------- */

static const struct model_job *ledger_job(const struct up_job *job)
{
    return model_find(&model, view_of_string(job->endpoint), view_of_string(job->id));
}

static void check_result(const struct up_job *job, const struct model_job *entry)
{
    char text[UP_OUTPUT];
    size_t length = up_describe(job, text);

    if (entry->state == JOB_LOST) {
        MUST(up_has_forgotten(job), "%s counts as lost, but upstream has it", job->id);
        MUST(job->is_runsync, "%s was lost within half an hour", job->id);
        return;
    }
    MUST(entry->fate == STORE_FATE_KEPT, "%s: state %s, fate %d", job->id,
         job_state_text(entry->state), (int)entry->fate);
    MUST(entry->result_length == length && memcmp(entry->result, text, length) == 0,
         "%s: stored %.*s, upstream said %.*s", job->id, (int)entry->result_length, entry->result,
         (int)length, text);
}

static void check_jobs(void)
{
    unsigned jobs_of[CALLERS + 1] = {0};
    unsigned orphans = 0;
    unsigned unknown = 0;

    for (size_t i = 0; i < up.job_count; i++) {
        const struct up_job *job = &up.jobs[i];
        const struct model_job *entry = ledger_job(job);

        jobs_of[job->nonce]++;
        MUST(jobs_of[job->nonce] == 1, "caller %u has two jobs", job->nonce);
        if (entry) {
            check_result(job, entry);
        } else {
            orphans++;
        }
    }
    for (size_t i = 0; i < model.tables.submit_count; i++) {
        unknown += model.tables.submits[i].state == STORE_SUBMIT_UNKNOWN ||
                   model.tables.submits[i].state == STORE_SUBMIT_SENT;
    }
    /* What was written and not yet durable can be lost with the power. */
    MUST(orphans <= unknown || power_was_cut, "%u jobs that nobody knows, %u submits unknown",
         orphans, unknown);
    MUST(model.tables.job_count + orphans == up.job_count, "the ledger has jobs that there aren't");
}

static void check_callers(void)
{
    for (size_t i = 0; i < CALLERS; i++) {
        const struct customer *caller = &callers[i];
        const struct up_job *job =
            caller->is_acknowledged ? up_find(caller->endpoint, caller->job) : NULL;
        char text[UP_OUTPUT];
        size_t length;

        if (!caller->is_acknowledged) {
            continue;
        }
        MUST(job && job->nonce == caller->nonce, "caller %u was given job %s", caller->nonce,
             caller->job);
        MUST(ledger_job(job) || caller->is_not_recorded, "%s was acknowledged and is gone",
             job->id);
        length = up_describe(job, text);
        MUST(caller->final_length == 0 ||
                 (caller->final_length == length && memcmp(caller->final, text, length) == 0),
             "caller %u saw another result: %.*s", caller->nonce, (int)caller->final_length,
             caller->final);
    }
}

static void simulate(uint64_t its_seed)
{
    seed = its_seed;
    simulated_ms = 0;
    simulated_step_ms = 0;
    store_questions = 0;
    power_was_cut = false;
    up_open();
    simulation_load_config();
    model = (struct store_model){
        .store = {.backend = &model_backend},
        .failure = STORE_AWAY,
        .keeps_durable = true,
        .budget = &budget,
        .fault = on_question,
    };
    model.last = &model.first;
    model.store.data = &model;
    plan_callers();
    plan_trouble();
    podgate_start();
    do {
        settle();
        advance();
        if (simulated_ms >= TROUBLE_MS) {
            end_trouble();
        }
        MUST(simulated_ms < LONGEST_MS, "it doesn't come to an end: %s", what_goes_on());
    } while (simulated_ms < TROUBLE_MS || what_goes_on());
    check_jobs();
    check_callers();
    podgate_kill(0);
    for (size_t i = 0; i < CALLERS; i++) {
        caller_leave(&callers[i]);
    }
    free(model.tables.jobs);
    free(model.tables.submits);
    free(model.durable.jobs);
    free(model.durable.submits);
    up_shut();
    simulation_drop_config();
}

static uint64_t number_in_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : otherwise;
}

Test(simulation, keeps_its_promises_whatever_goes_wrong, .timeout = 600)
{
    uint64_t only = number_in_environment("PODGATE_SIMULATION_SEED", UINT64_MAX);
    uint64_t first = number_in_environment("PODGATE_SIMULATION_FIRST", 1);
    uint64_t count = number_in_environment("PODGATE_SIMULATION_SEEDS", SEEDS);

    signal(SIGPIPE, SIG_IGN);
    traces = getenv("PODGATE_SIMULATION_TRACE") != NULL;
    simulate_clock();
    atomic_init(&budget.maximum_bytes, 256 * 1024 * 1024);
    if (only != UINT64_MAX) {
        simulate(only);
    }
    for (uint64_t i = first; only == UINT64_MAX && i < first + count; i++) {
        simulate(i);
    }
}
