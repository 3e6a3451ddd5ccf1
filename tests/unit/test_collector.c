#include "build_config.h"

#include "simulated_clock.h"

#include "store_model.h"

#include <event2/event.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gateway/collector_private.h"

/* The collector against a store in memory. Workers are played: what it hands to flights is taken
 * down, and settled when the test says so. */

enum { POSTED_MAXIMUM = 200000, STEP_MS = 5 };

struct posted {
    char endpoint[MODEL_NAME];
    char id[MODEL_NAME];
    uint64_t fence;
    uint64_t at_ms;
    bool settled;
};

enum answer { ANSWER_NEVER, ANSWER_PENDING, ANSWER_ENDED, ANSWER_FAILED, ANSWER_429 };

static struct loop *loop;
static struct store_model model;
static struct gateway_shared shared;
static struct collector *collector;
static struct config *config;
static struct metrics *metrics;
static struct metrics_block *block;
static struct log *log_writer;
static int log_descriptor;

static struct posted *posted;
static size_t posted_count;
static size_t settled_count; /* those before it are settled */
static size_t cancels_posted;
static bool no_memory;
static enum answer answer;
static uint64_t latency_ms;

/* ---- the workers' side */

static bool post_poll(struct gateway_shared *its_shared, const struct store_job *job)
{
    struct posted *one = &posted[posted_count];

    cr_assert_eq(its_shared, &shared);
    if (no_memory) {
        return false;
    }
    cr_assert_lt(posted_count, POSTED_MAXIMUM);
    model_copy(one->endpoint, job->endpoint);
    model_copy(one->id, job->id);
    one->fence = job->fence;
    one->at_ms = simulated_ms;
    posted_count++;
    return true;
}

static bool post_cancel(UNUSED struct gateway_shared *its_shared,
                        UNUSED const struct store_job *job)
{
    if (no_memory) {
        return false;
    }
    cancels_posted++;
    return true;
}

static void settle_one(struct posted *one, enum answer how)
{
    struct model_job *job =
        model_find(&model, view_of_string(one->endpoint), view_of_string(one->id));
    struct collector_poll poll = {
        .endpoint = view_of_string(one->endpoint),
        .kind = job->kind,
        .claimed = true,
        .fence = one->fence,
        .ended = how == ANSWER_ENDED,
        .failed = how == ANSWER_FAILED || how == ANSWER_429,
        .status = how == ANSWER_429      ? 429
                  : how == ANSWER_FAILED ? 0
                                         : 200,
        .age_ms = clock_wall_ms() - job->submitted_ms,
        .delay_ms = UINT64_MAX,
        .execution_ms = UINT64_MAX,
    };

    if (how == ANSWER_ENDED) {
        job->scheduled = false;
    } else if (job->fence == one->fence) {
        struct collector_next next;

        job->failure_count = poll.failed ? job->failure_count + 1 : 0;
        next = collector_plan(collector, poll.endpoint, job->kind, JOB_IN_PROGRESS, poll.age_ms,
                              job->failure_count);
        job->due_ms = clock_wall_ms() + next.due_ms;
        if (next.deadline_ms > 0) {
            job->deadline_ms = clock_wall_ms() + next.deadline_ms;
        }
    }
    one->settled = true;
    collector_settled(collector, &poll);
}

/* ---- time */

static void settle(void)
{
    bool again = true;

    while (again) {
        again = model_answer_all(&model);
        event_base_loop(loop_base(loop), EVLOOP_NONBLOCK);
        while (answer != ANSWER_NEVER && settled_count < posted_count &&
               posted[settled_count].at_ms + latency_ms <= simulated_ms) {
            settle_one(&posted[settled_count++], answer);
            again = true;
        }
        again = again || model.first;
    }
}

static void run_for(uint64_t ms)
{
    for (uint64_t passed_ms = 0; passed_ms < ms; passed_ms += STEP_MS) {
        simulated_ms += STEP_MS;
        settle();
    }
}

/* ---- set up */

static struct config *load(const char *upstream_options, const char *options)
{
    struct config_errors *errors = config_errors_create();
    struct config *loaded;
    char *text = NULL;

    cr_assert_gt(
        asprintf(&text,
                 "upstream { url = \"http://127.0.0.1:1/v2\" api_key_env = \"K\" %s }\n%s\n"
                 "team \"t\" { endpoints = {\"*\"} key \"k\" { sha256 = \"%064d\" } }\n",
                 upstream_options, options, 0),
        0);
    loaded = config_load_text("test", view_of_string(text), false, errors);
    if (!loaded) {
        config_errors_print(errors, stderr);
    }
    cr_assert_not_null(loaded);
    config_errors_destroy(errors);
    free(text);
    return loaded;
}

static void set_up_with(bool is_shared, const char *options)
{
    simulate_clock();
    loop = loop_create();
    model_open(&model, loop, is_shared);
    metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    block = metrics_block_create(metrics);
    log_descriptor = memfd_create("log", MFD_CLOEXEC);
    log_writer = log_create(log_descriptor, LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, false);
    config = load("", options);
    shared.store = &model.store;
    posted = calloc(POSTED_MAXIMUM, sizeof *posted);
    collector = collector_create(&shared, loop, model.client, block,
                                 log_ring_create(log_writer, 1024 * 1024), config);
    cr_assert_not_null(collector);
    collector_seed(collector, 1);
    answer = ANSWER_PENDING;
    latency_ms = 50;
}

static void set_up(void)
{
    set_up_with(false, "");
}

static void set_up_shared(void)
{
    set_up_with(true, "store { backend = \"redis\" instances = 2 }");
}

static void tear_down(void)
{
    collector_stop(collector);
    collector_destroy(collector);
    model_close(&model);
    config_unref(config);
    if (log_writer) {
        log_destroy(log_writer);
    }
    close(log_descriptor);
    metrics_destroy(metrics);
    loop_destroy(loop);
    free(posted);
}

TestSuite(collector, .init = set_up, .fini = tear_down, .timeout = 120);
TestSuite(collector_shared, .init = set_up_shared, .fini = tear_down, .timeout = 120);

static void start(void)
{
    collector_start(collector, post_poll, post_cancel);
    settle();
    run_for(4 * STEP_MS); /* what was listed is looked at */
}

static void add_jobs(const char *endpoint, unsigned count, enum store_kind kind, uint64_t due_ms)
{
    for (unsigned i = 0; i < count; i++) {
        char id[MODEL_NAME];

        snprintf(id, sizeof id, "%s-%zu", endpoint, model.tables.job_count);
        model_add_job(&model, endpoint, id, kind, due_ms);
    }
}

/* The log so far, whole; ends the log. */
static char *read_log(void)
{
    static char text[1 << 20];
    ssize_t length;

    log_destroy(log_writer);
    log_writer = NULL;
    length = pread(log_descriptor, text, sizeof text - 1, 0);
    cr_assert_geq(length, 0);
    text[length] = '\0';
    return text;
}

static unsigned count_of(const char *text, const char *word)
{
    unsigned count = 0;

    for (const char *at = strstr(text, word); at; at = strstr(at + 1, word)) {
        count++;
    }
    return count;
}

/* The most polls that were handed out within any `window_ms`. */
static size_t most_within(uint64_t window_ms)
{
    size_t most = 0;
    size_t first = 0;

    for (size_t i = 0; i < posted_count; i++) {
        while (posted[first].at_ms + window_ms <= posted[i].at_ms) {
            first++;
        }
        most = i - first + 1 > most ? i - first + 1 : most;
    }
    return most;
}

/* ---- the schedule */

Test(collector, polls_what_the_store_has_at_its_start)
{
    add_jobs("one", 3, STORE_KIND_RUN, 0);
    add_jobs("two", 2, STORE_KIND_RUNSYNC, 700);
    answer = ANSWER_ENDED;
    start();
    cr_assert_eq(posted_count, 3);
    run_for(1000);
    cr_assert_eq(posted_count, 5);
    run_for(60000);
    cr_assert_eq(posted_count, 5);
}

Test(collector, asks_for_no_job_while_there_is_none)
{
    unsigned turns;

    start();
    run_for(600000);
    cr_assert_eq(model.asked[STORE_CLAIM_DUE], 0);
    turns = model.asked[STORE_LIST_ENDPOINTS] + model.asked[STORE_EXPIRE] +
            model.asked[STORE_CLAIM_CANCELS];
    cr_assert_leq(turns, 250, "%u questions in ten minutes", turns);
}

Test(collector, polls_a_new_job_when_it_is_due)
{
    struct collector_next next;

    start();
    run_for(1234);
    next = collector_plan(collector, VIEW("one"), STORE_KIND_RUN, JOB_IN_QUEUE, 0, 0);
    cr_assert_eq(next.deadline_ms, 1800000);
    cr_assert(next.due_ms >= 900 && next.due_ms <= 1100);
    add_jobs("one", 1, STORE_KIND_RUN, next.due_ms);
    collector_note_job(collector, VIEW("one"), next.due_ms);
    run_for(800);
    cr_assert_eq(posted_count, 0);
    run_for(400);
    cr_assert_eq(posted_count, 1);
}

Test(collector, polls_again_when_a_rescheduled_job_is_due)
{
    add_jobs("one", 1, STORE_KIND_RUN, 0);
    start();
    run_for(8000);
    /* At 0, 1, 2, 3, 4, 5.3, 7.1 s, give or take the jitter. */
    cr_assert(posted_count >= 6 && posted_count <= 8, "%zu polls", posted_count);
    for (size_t i = 1; i < posted_count; i++) {
        uint64_t gap_ms = posted[i].at_ms - posted[i - 1].at_ms;

        cr_assert(gap_ms >= 900 && gap_ms <= 2400, "%u ms", (unsigned)gap_ms);
    }
    /* And little else is asked. */
    cr_assert_leq(model.asked[STORE_CLAIM_DUE], 4 * posted_count);
}

Test(collector, finds_a_job_that_nobody_noted)
{
    start();
    add_jobs("one", 1, STORE_KIND_RUN, 0);
    run_for(11000);
    cr_assert_eq(posted[0].at_ms <= 10100, true);
    cr_assert_geq(posted_count, 1);
}

Test(collector, learns_how_long_jobs_run)
{
    struct collector_poll poll = {
        .endpoint = VIEW("one"),
        .kind = STORE_KIND_RUN,
        .ended = true,
        .status = 200,
        .age_ms = 13000,
        .delay_ms = 2000,
        .execution_ms = 10000,
    };

    start();
    for (unsigned i = 0; i < 10; i++) {
        collector_settled(collector, &poll);
    }
    cr_assert_geq(collector_plan(collector, VIEW("one"), STORE_KIND_RUN, JOB_IN_QUEUE, 0, 0).due_ms,
                  10000);
    /* Of this kind and endpoint, of no other. */
    cr_assert_leq(
        collector_plan(collector, VIEW("one"), STORE_KIND_RUNSYNC, JOB_IN_QUEUE, 0, 0).due_ms,
        1100);
    cr_assert_leq(collector_plan(collector, VIEW("two"), STORE_KIND_RUN, JOB_IN_QUEUE, 0, 0).due_ms,
                  1100);
}

Test(collector, takes_over_a_new_configuration)
{
    struct config *newer =
        load("retention_run = \"10m\"", "collector { first_poll = \"3s\" max_poll = \"5s\" }");

    start();
    collector_adopt(collector, newer);
    cr_assert_eq(
        collector_plan(collector, VIEW("x"), STORE_KIND_RUN, JOB_IN_QUEUE, 0, 0).deadline_ms,
        600000);
    cr_assert_geq(collector_plan(collector, VIEW("x"), STORE_KIND_RUN, JOB_IN_QUEUE, 0, 0).due_ms,
                  2700);
    cr_assert_leq(
        collector_plan(collector, VIEW("x"), STORE_KIND_RUN, JOB_IN_QUEUE, 900000, 0).due_ms, 5000);
    config_unref(newer);
}

Test(collector, counts_jobs_past_their_deadline)
{
    model_add_job(&model, "one", "late", STORE_KIND_RUN, 0)->deadline_ms = clock_wall_ms() - 1;
    add_jobs("one", 2, STORE_KIND_RUN, 0);
    answer = ANSWER_ENDED;
    start();
    run_for(100);
    cr_assert_eq(posted_count, 3);
    cr_assert_eq(metrics_sum(metrics, METRIC_POLLS_LATE, 0, 0), 1);
}

Test(collector, shows_how_many_jobs_are_outstanding)
{
    add_jobs("one", 7, STORE_KIND_RUN, 1000000);
    add_jobs("two", 5, STORE_KIND_RUN, 1000000);
    start();
    cr_assert_eq(metrics_sum(metrics, METRIC_JOBS_OUTSTANDING, 0, 0), 12);
    for (size_t i = 0; i < 9; i++) {
        model.tables.jobs[i].scheduled = false;
    }
    run_for(10100);
    cr_assert_eq(metrics_sum(metrics, METRIC_JOBS_OUTSTANDING, 0, 0), 3);
}

Test(collector, claims_nothing_more_once_it_was_stopped)
{
    add_jobs("one", 500, STORE_KIND_RUN, 0);
    start();
    run_for(1000);
    collector_stop(collector);
    settle();
    settled_count = posted_count;
    model.asked[STORE_CLAIM_DUE] = 0;
    collector_note_job(collector, VIEW("one"), 0);
    run_for(20000);
    cr_assert_eq(model.asked[STORE_CLAIM_DUE], 0);
    cr_assert_eq(settled_count, posted_count);
}

Test(collector, goes_in_the_middle_of_its_questions)
{
    add_jobs("one", 5, STORE_KIND_RUN, 0);
    collector_start(collector, post_poll, post_cancel);
    cr_assert_not_null(model.first);
    /* tear_down() destroys it, and then the store ends what it was asked. */
}

/* ---- the budget */

Test(collector, keeps_to_half_of_what_upstream_grants)
{
    add_jobs("one", 3000, STORE_KIND_RUN, 0);
    start();
    run_for(30000);
    cr_assert_geq(posted_count, 2850, "%zu polls", posted_count);
    cr_assert_leq(most_within(10000), 1015);
    /* Spread evenly. */
    cr_assert_leq(most_within(1000), 115);
    cr_assert_leq(most_within(90), 15);
}

Test(collector, each_endpoint_has_a_budget_of_its_own)
{
    add_jobs("one", 1000, STORE_KIND_RUN, 0);
    add_jobs("two", 1000, STORE_KIND_RUN, 0);
    start();
    run_for(10000);
    cr_assert_geq(posted_count, 1900);
}

Test(collector, a_long_idle_endpoint_saves_nothing_up)
{
    start();
    collector_note_job(collector, VIEW("one"), 0);
    run_for(60000);
    add_jobs("one", 1000, STORE_KIND_RUN, 0);
    collector_note_job(collector, VIEW("one"), 0);
    run_for(1000);
    cr_assert_leq(posted_count, 115);
}

Test(collector, a_waiter_takes_from_the_same_budget)
{
    unsigned taken = 0;

    start();
    for (unsigned i = 0; i < 2000; i++) {
        taken += collector_take_poll(collector, VIEW("one")) == 0;
        run_for(STEP_MS);
    }
    /* 10 s. */
    cr_assert(taken >= 950 && taken <= 1015, "%u", taken);
}

Test(collector, waiters_and_claims_leave_each_other_their_share)
{
    unsigned taken = 0;

    add_jobs("one", 3000, STORE_KIND_RUN, 0);
    start();
    for (unsigned i = 0; i < 2000; i++) {
        taken += collector_take_poll(collector, VIEW("one")) == 0;
        run_for(STEP_MS);
    }
    cr_assert_geq(taken, 400, "%u", taken);
    cr_assert_geq(posted_count, 400, "%zu", posted_count);
    cr_assert_leq(taken + posted_count, 1015);
}

Test(collector, waiters_that_are_put_off_come_back_one_behind_the_other)
{
    uint64_t before_ms = 0;
    unsigned at_once = 0;

    start();
    while (collector_take_poll(collector, VIEW("one")) == 0) {
        at_once++;
    }
    cr_assert_eq(at_once, 15);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t wait_ms = collector_take_poll(collector, VIEW("one"));

        cr_assert_gt(wait_ms, before_ms);
        before_ms = wait_ms;
    }
    cr_assert(before_ms >= 450 && before_ms <= 600, "%u", (unsigned)before_ms);
    /* However many there are, none is put off for ever. */
    for (unsigned i = 0; i < 10000; i++) {
        cr_assert_leq(collector_take_poll(collector, VIEW("one")), 5000);
    }
}

Test(collector, bounds_the_polls_in_flight_of_an_endpoint)
{
    add_jobs("one", 1000, STORE_KIND_RUN, 0);
    answer = ANSWER_NEVER;
    start();
    run_for(5000);
    cr_assert_eq(posted_count, COLLECTOR_POLLS_IN_FLIGHT);
    /* One that comes back makes room for one. */
    settle_one(&posted[3], ANSWER_PENDING);
    run_for(500);
    cr_assert_eq(posted_count, COLLECTOR_POLLS_IN_FLIGHT + 1);
}

Test(collector, gives_up_polls_that_nobody_settles)
{
    add_jobs("one", 1000, STORE_KIND_RUN, 0);
    answer = ANSWER_NEVER;
    start();
    run_for(COLLECTOR_LAPSE_MS - 1000);
    cr_assert_eq(posted_count, COLLECTOR_POLLS_IN_FLIGHT);
    run_for(4000);
    cr_assert_gt(posted_count, COLLECTOR_POLLS_IN_FLIGHT + 50);
    cr_assert_geq(count_of(read_log(), "event=collector_polls_lapsed"), 1);
}

Test(collector, a_poll_that_is_settled_after_it_was_given_up_frees_nothing)
{
    add_jobs("one", 1000, STORE_KIND_RUN, 0);
    answer = ANSWER_NEVER;
    start();
    run_for(COLLECTOR_LAPSE_MS + 5000);
    for (size_t i = 0; i < 50; i++) {
        settle_one(&posted[i], ANSWER_PENDING); /* of the first hundred, all of which lapsed */
    }
    cr_assert_eq(collector->in_flight, collector->first->in_flight);
    cr_assert_eq(collector->in_flight, COLLECTOR_POLLS_IN_FLIGHT);
}

Test(collector, bounds_the_polls_in_flight_of_all_endpoints)
{
    /* Half of them are for the collector. */
    struct config *newer = load("max_connections = 100", "");

    collector_adopt(collector, newer);
    config_unref(newer);
    add_jobs("one", 100, STORE_KIND_RUN, 0);
    add_jobs("two", 100, STORE_KIND_RUN, 0);
    answer = ANSWER_NEVER;
    start();
    run_for(5000);
    cr_assert_eq(posted_count, 50);
    settle_one(&posted[0], ANSWER_PENDING);
    run_for(500);
    cr_assert_eq(posted_count, 51);
}

Test(collector, a_job_without_memory_for_its_flight_holds_no_slot)
{
    add_jobs("one", 300, STORE_KIND_RUN, 0);
    no_memory = true;
    start();
    run_for(8000);
    cr_assert_eq(posted_count, 0);
    cr_assert_eq(collector->in_flight, 0);
    no_memory = false;
    run_for(11000); /* the leases lapse */
    cr_assert_geq(posted_count, 300);
    cr_assert_eq(count_of(read_log(), "event=collector_no_memory"), 1);
}

/* ---- how upstream is */

Test(collector, halves_its_pace_on_429_and_grows_back)
{
    size_t before;

    add_jobs("one", 3000, STORE_KIND_RUN, 0);
    start();
    run_for(2000);
    answer = ANSWER_429;
    run_for(1500);
    answer = ANSWER_PENDING;
    before = posted_count;
    run_for(1000);
    cr_assert_leq(posted_count - before, 60, "%zu polls", posted_count - before);
    run_for(30000);
    before = posted_count;
    add_jobs("one", 3000, STORE_KIND_RUN, 0);
    run_for(5000);
    cr_assert_geq(posted_count - before, 450);
    read_log();
}

Test(collector, any_number_of_429_leaves_some_pace)
{
    size_t before;

    add_jobs("one", 3000, STORE_KIND_RUN, 0);
    answer = ANSWER_429;
    start();
    run_for(60000);
    before = posted_count;
    run_for(10000);
    cr_assert_geq(posted_count - before, 10);
    cr_assert_leq(posted_count - before, 100);
}

Test(collector, does_not_hammer_a_dead_upstream)
{
    size_t before;

    add_jobs("one", 3000, STORE_KIND_RUN, 0);
    answer = ANSWER_FAILED;
    latency_ms = 8000;
    start();
    run_for(60000);
    cr_assert_leq(posted_count, 250, "%zu polls", posted_count);
    before = posted_count;
    run_for(300000);
    cr_assert_leq(posted_count - before, 40, "%zu polls", posted_count - before);
    /* But goes on asking, and is soon at full speed when it is back. */
    cr_assert_geq(posted_count - before, 8);
    answer = ANSWER_PENDING;
    latency_ms = 50;
    run_for(25000);
    before = posted_count;
    run_for(5000);
    cr_assert_geq(posted_count - before, 450, "%zu polls", posted_count - before);
    cr_assert_eq(count_of(read_log(), "event=collector_endpoint_failing"), 1);
    cr_assert_eq(count_of(read_log(), "event=collector_endpoint_back"), 1);
}

Test(collector, a_few_failures_among_others_slow_nothing)
{
    add_jobs("one", 1000, STORE_KIND_RUN, 0);
    answer = ANSWER_NEVER;
    start();
    for (unsigned i = 0; i < 200; i++) {
        run_for(50);
        while (settled_count < posted_count) {
            settle_one(&posted[settled_count], settled_count % 3 ? ANSWER_FAILED : ANSWER_PENDING);
            settled_count++;
        }
    }
    cr_assert_geq(posted_count, 950);
}

Test(collector, a_dead_endpoint_does_not_slow_another)
{
    size_t others = 0;

    add_jobs("dead", 1000, STORE_KIND_RUN, 0);
    add_jobs("fine", 1000, STORE_KIND_RUN, 0);
    answer = ANSWER_NEVER;
    start();
    for (unsigned i = 0; i < 200; i++) {
        run_for(50);
        while (settled_count < posted_count) {
            bool dead = strcmp(posted[settled_count].endpoint, "dead") == 0;

            others += !dead;
            settle_one(&posted[settled_count++], dead ? ANSWER_FAILED : ANSWER_PENDING);
        }
    }
    cr_assert_geq(others, 900);
    cr_assert_leq(posted_count - others, 250);
}

/* ---- how the store is */

static bool store_fails;

static enum model_fault on_question(UNUSED void *argument,
                                    UNUSED const struct store_question *question)
{
    return store_fails ? MODEL_FAILS : MODEL_FINE;
}

Test(collector, waits_for_a_store_that_is_away_and_says_so_once)
{
    unsigned asked;

    model.fault = on_question;
    add_jobs("one", 3, STORE_KIND_RUN, 0);
    store_fails = true;
    start();
    run_for(60000);
    asked = model.asked[STORE_CLAIM_DUE] + model.asked[STORE_LIST_ENDPOINTS] +
            model.asked[STORE_EXPIRE] + model.asked[STORE_CLAIM_CANCELS];
    cr_assert_leq(asked, 100, "%u questions", asked);
    cr_assert_eq(posted_count, 0);
    store_fails = false;
    run_for(6000);
    cr_assert_geq(posted_count, 3);
    cr_assert_eq(count_of(read_log(), "event=collector_store_away"), 1);
    cr_assert_eq(count_of(read_log(), "event=collector_store_back"), 1);
}

Test(collector, a_store_that_fails_now_and_then_keeps_no_budget)
{
    model.fault = on_question;
    add_jobs("one", 1000, STORE_KIND_RUN, 0);
    start();
    for (unsigned i = 0; i < 10; i++) {
        store_fails = true;
        run_for(100);
        store_fails = false;
        run_for(900);
    }
    cr_assert_geq(posted_count, 450, "%zu polls", posted_count);
}

Test(collector, a_broken_value_of_one_endpoint_stops_no_other)
{
    model.fault = on_question;
    model.failure = STORE_BROKEN;
    add_jobs("one", 1, STORE_KIND_RUN, 0);
    store_fails = true;
    start();
    run_for(20000);
    cr_assert_leq(model.asked[STORE_CLAIM_DUE], 6);
    cr_assert_eq(collector->store_pause_ms, 0);
    store_fails = false;
    run_for(11000);
    cr_assert_geq(posted_count, 1);
}

Test(collector_shared, looks_once_a_second_for_what_other_podgates_enter)
{
    add_jobs("one", 1, STORE_KIND_RUN, 15000);
    start();
    run_for(10000);
    cr_assert(model.asked[STORE_CLAIM_DUE] >= 9 && model.asked[STORE_CLAIM_DUE] <= 12, "%u",
              model.asked[STORE_CLAIM_DUE]);
    cr_assert_eq(posted_count, 0);
    /* Other podgates enter a job of an endpoint that this one hasn't seen yet. */
    add_jobs("two", 1, STORE_KIND_RUN, 0);
    run_for(3500);
    cr_assert_geq(posted_count, 1);
}

Test(collector_shared, tells_the_store_the_pace_of_all_podgates)
{
    add_jobs("one", 1, STORE_KIND_RUN, 0);
    start();
    cr_assert_eq(model.last_rate_milli, COLLECTOR_POLL_RATE_MILLI);
    cr_assert_geq(model.last_max_poll_ms, 20000);
    cr_assert_leq(model.last_max_poll_ms, 25000);
}

Test(collector_shared, waiters_of_each_podgate_have_their_part)
{
    unsigned taken = 0;

    start();
    for (unsigned i = 0; i < 2000; i++) {
        taken += collector_take_poll(collector, VIEW("one")) == 0;
        run_for(STEP_MS);
    }
    cr_assert(taken >= 450 && taken <= 520, "%u", taken);
}

Test(collector, a_due_time_of_a_stretched_plan_counts_as_what_it_is)
{
    add_jobs("one", 1, STORE_KIND_RUN, 0);
    model.outstanding_counted = 60000;
    start();
    run_for(STEP_MS);
    cr_assert_geq(model.last_max_poll_ms, 600000);
}

/* ---- capacity */

static void count_jobs(uint64_t outstanding, uint64_t runsync)
{
    model.outstanding_counted = outstanding;
    model.runsync_counted = runsync;
    run_for(10100);
}

Test(collector, refuses_jobs_that_it_could_not_poll_once_in_their_retention)
{
    add_jobs("one", 1, STORE_KIND_RUN, 100000000);
    start();
    cr_assert(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUN));
    cr_assert(collector_has_capacity(collector, VIEW("never-seen"), STORE_KIND_RUN));
    count_jobs(179999, 0);
    cr_assert(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUN));
    cr_assert_not(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUNSYNC));
    count_jobs(180000, 0);
    cr_assert_not(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUN));
    cr_assert(collector_has_capacity(collector, VIEW("two"), STORE_KIND_RUN));
    count_jobs(5999, 5999);
    cr_assert(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUNSYNC));
    count_jobs(6000, 6000);
    cr_assert_not(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUNSYNC));
    count_jobs(1000, 0);
    cr_assert(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUNSYNC));
}

Test(collector, counts_new_jobs_between_two_listings)
{
    add_jobs("one", 1, STORE_KIND_RUN, 100000000);
    start();
    count_jobs(179999, 0);
    collector_note_job(collector, VIEW("one"), 1000);
    cr_assert_not(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUN));
    collector_settled(collector, &(struct collector_poll){.endpoint = VIEW("one"),
                                                          .kind = STORE_KIND_RUN,
                                                          .ended = true,
                                                          .status = 200,
                                                          .execution_ms = UINT64_MAX});
    cr_assert(collector_has_capacity(collector, VIEW("one"), STORE_KIND_RUN));
}

Test(collector, warns_once_per_change_of_capacity)
{
    char *text;

    add_jobs("one", 1, STORE_KIND_RUN, 100000000);
    start();
    for (unsigned i = 0; i < 3; i++) {
        count_jobs(60001, 0);
    }
    count_jobs(59000, 0); /* not clearly over */
    count_jobs(60001, 0);
    cr_assert_eq(metrics_sum(metrics, METRIC_WARNINGS, METRIC_WARNING_CAPACITY, 0), 1);
    count_jobs(190000, 0);
    count_jobs(190000, 0);
    count_jobs(10, 0);
    cr_assert_eq(metrics_sum(metrics, METRIC_WARNINGS, METRIC_WARNING_CAPACITY, 0), 2);
    text = read_log();
    cr_assert_eq(count_of(text, "event=capacity_short"), 1);
    cr_assert_eq(count_of(text, "event=capacity_gone"), 1);
    cr_assert_eq(count_of(text, "event=capacity_ample"), 1);
}

/* ---- purge and expiry */

static void mark_all(void)
{
    for (size_t i = 0; i < model.tables.job_count; i++) {
        model.tables.jobs[i].cancel_wanted = true;
    }
}

Test(collector, cancels_within_half_of_upstreams_limit)
{
    size_t settled = 0;

    add_jobs("one", 300, STORE_KIND_RUN, 100000000);
    start();
    mark_all();
    collector_note_purge(collector, VIEW("one"));
    for (unsigned i = 0; i < 200; i++) {
        run_for(50);
        cr_assert_leq(cancels_posted - settled, COLLECTOR_CANCELS_IN_FLIGHT);
        for (; settled < cancels_posted; settled++) {
            model.tables.jobs[settled].cancel_wanted = false;
            collector_cancel_settled(collector, VIEW("one"),
                                     settled % 2 ? METRIC_CANCEL_DONE : METRIC_CANCEL_SKIPPED);
        }
    }
    cr_assert(cancels_posted >= 45 && cancels_posted <= 55, "%zu", cancels_posted);
    run_for(100);
    cr_assert_eq(metrics_sum(metrics, METRIC_CANCELS, METRIC_CANCEL_DONE, 0) +
                     metrics_sum(metrics, METRIC_CANCELS, METRIC_CANCEL_SKIPPED, 0),
                 settled);
}

Test(collector, cancels_ten_at_a_time_and_gives_up_those_that_nobody_settles)
{
    add_jobs("one", 300, STORE_KIND_RUN, 100000000);
    start();
    mark_all();
    collector_note_purge(collector, VIEW("one"));
    run_for(15000);
    cr_assert_eq(cancels_posted, COLLECTOR_CANCELS_IN_FLIGHT);
    run_for(10000);
    cr_assert_gt(cancels_posted, COLLECTOR_CANCELS_IN_FLIGHT);
}

Test(collector, finds_marks_of_a_purge_before_its_start)
{
    add_jobs("one", 3, STORE_KIND_RUN, 100000000);
    mark_all();
    start();
    cr_assert_eq(cancels_posted, 3);
}

Test(collector, slows_down_when_cancels_fail)
{
    size_t settled = 0;

    add_jobs("one", 300, STORE_KIND_RUN, 100000000);
    start();
    mark_all();
    collector_note_purge(collector, VIEW("one"));
    for (unsigned i = 0; i < 2400; i++) {
        run_for(50);
        for (; settled < cancels_posted; settled++) {
            collector_cancel_settled(collector, VIEW("one"), METRIC_CANCEL_FAILED);
        }
    }
    /* In two minutes. */
    cr_assert_leq(cancels_posted, 50, "%zu", cancels_posted);
    cr_assert_geq(cancels_posted, 10, "%zu", cancels_posted);
}

Test(collector, lets_expire_what_is_over_in_batches)
{
    model.expire_left = 1000;
    start();
    run_for(1000);
    cr_assert_eq(model.expire_left, 0);
    cr_assert_eq(metrics_sum(metrics, METRIC_RESULTS_GONE, METRIC_GONE_EXPIRED, 0), 1000);
    cr_assert_leq(model.asked[STORE_EXPIRE], 6);
}

/* ---- threads */

enum { THREADS = 4, ROUNDS = 20000 };

static void *hammer(void *argument)
{
    static const char *const names[] = {"one", "two", "three", "four"};
    struct view endpoint = view_of_string(names[*(int *)argument % 4]);

    for (unsigned i = 0; i < ROUNDS; i++) {
        struct collector_poll poll = {
            .endpoint = endpoint,
            .status = i % 7 ? 200 : 429,
            .failed = i % 7 == 0,
            .ended = i % 5 == 0,
            .claimed = i % 3 == 0,
            .fence = i,
            .age_ms = i,
            .execution_ms = UINT64_MAX,
        };

        (void)collector_take_poll(collector, endpoint);
        (void)collector_plan(collector, endpoint, STORE_KIND_RUN, JOB_IN_QUEUE, i, i % 4);
        (void)collector_has_capacity(collector, endpoint, STORE_KIND_RUN);
        collector_note_job(collector, endpoint, i % 1000);
        collector_settled(collector, &poll);
        collector_cancel_settled(collector, endpoint, METRIC_CANCEL_DONE);
    }
    return NULL;
}

Test(collector, is_called_by_all_threads_at_once)
{
    pthread_t threads[THREADS];
    int numbers[THREADS];

    add_jobs("one", 50, STORE_KIND_RUN, 0);
    start();
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, hammer, &numbers[i]), 0);
    }
    run_for(20000);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    run_for(1000);
    cr_assert_eq(metrics_sum(metrics, METRIC_CANCELS, METRIC_CANCEL_DONE, 0), THREADS * ROUNDS);
    cr_assert_gt(posted_count, 50);
}
