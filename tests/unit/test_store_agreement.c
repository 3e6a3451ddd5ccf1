#include "build_config.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "redis_server.h"
#include "store_suite.h"

/* The embedded store and Redis are asked the same questions in any order, thousands of them from a
 * seed, and have to say the same of everything: results, states, times to the millisecond, counts.
 * Both clocks stand still but for what the test says. PODGATE_SEED=N repeats one sequence;
 * PODGATE_SEEDS=N plays so many. */

enum { EMBEDDED, REDIS, SIDES };
enum { SEEDS = 12, STEPS = 250, JOBS = 6, KEYS = 4, SUBMITS = 64 };

static const uint64_t beginning_ms = 1795532645000; /* 2026-11-24 */
static _Atomic uint64_t ahead_ms;

/* In place of the C library's: wall and boot time together, monotonic time not at all. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    uint64_t ms = beginning_ms + ahead_ms;

    (void)clock;
    *now = (struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    return 0;
}

static void begin(void)
{
    redis_server_start(suite_directory(), "appendfsync no");
    redis_server_stand_still(beginning_ms + ahead_ms);
}

static void end(void)
{
    redis_server_stop(SIGKILL);
}

static void options(size_t index, char *text, size_t capacity)
{
    if (index == EMBEDDED) {
        snprintf(text, capacity, "backend = \"embedded\" path = \"%s/podgate.db\"",
                 suite_directory());
    } else {
        snprintf(text, capacity,
                 "backend = \"redis\" url = \"redis+unix://%s\" path = \"%s/spool.db\" "
                 "on_outage = \"refuse\"",
                 redis_server.socket, suite_directory());
    }
}

static void pass(uint64_t ms)
{
    ahead_ms += ms;
    redis_server_pass(ms);
}

const struct suite_backend suite_backend = {
    .name = "both", .begin = begin, .end = end, .options = options, .pass = pass, .restart = end};

static void set_up_both(void)
{
    suite_set_up();
    suite_open(REDIS);
}

TestSuite(store_agreement, .init = set_up_both, .fini = suite_tear_down);

/* ---- chance ---------------------------------------------------------------------------------- */

static uint64_t random_state;
static unsigned seed;
static unsigned step;

static unsigned chance(unsigned below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % below;
}

static uint64_t one_of(const uint64_t *values, unsigned count)
{
    return values[chance(count)];
}

#define ONE_OF(...)                                                                                \
    one_of((const uint64_t[]){__VA_ARGS__},                                                        \
           sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/* ---- comparing ------------------------------------------------------------------------------- */

static enum store_operation asked;

/* An operator's word made a job of an unknown submit: it counts as submitted when it was sent, or
 * when the word came. */
static bool by_word;

#define AGREE(condition, ...)                                                                      \
    cr_assert(condition, "seed %u, step %u: they differ in %s: " #condition, seed, step,           \
              store_operation_texts[asked])

#define SAME(member)                                                                               \
    cr_assert(left->member == right->member, "seed %u, step %u: %s: " #member " is %llu and %llu", \
              seed, step, store_operation_texts[asked], (unsigned long long)left->member,          \
              (unsigned long long)right->member)

#define SAME_VIEW(member)                                                                          \
    cr_assert(view_equal(left->member, right->member),                                             \
              "seed %u, step %u: %s: " #member " is \"%.*s\" and \"%.*s\"", seed, step,            \
              store_operation_texts[asked], (int)left->member.length, left->member.data,           \
              (int)right->member.length, right->member.data)

static void same_job(const struct store_job *left, const struct store_job *right)
{
    SAME_VIEW(endpoint);
    SAME_VIEW(id);
    SAME_VIEW(upstream_id);
    SAME_VIEW(team);
    SAME_VIEW(key);
    SAME(kind);
    SAME(state);
    SAME(fate);
    SAME(generation);
    if (!by_word) {
        SAME(submitted_ms);
    }
    SAME(ended_ms);
    SAME(expires_ms);
    SAME(ttl_ms);
    SAME(execution_ms);
    SAME(delay_ms);
    SAME(result_bytes);
    SAME(stored_bytes);
    SAME(input_bytes);
    SAME(cancel_wanted);
    SAME(purged);
    SAME(chunk_count);
    if (left->fate == STORE_FATE_KEPT) {
        SAME(encoding);
        AGREE(memcmp(left->digest, right->digest, sizeof left->digest) == 0);
    }
    if (!job_state_is_terminal(left->state)) {
        SAME(due_ms);
        SAME(deadline_ms);
        SAME(missing_since_ms);
        SAME(missing_count);
        SAME(failure_count);
    }
}

static void same_submit(const struct store_submit *left, const struct store_submit *right)
{
    SAME_VIEW(id);
    SAME_VIEW(team);
    SAME_VIEW(key);
    SAME_VIEW(endpoint);
    if (left->state == STORE_SUBMIT_KNOWN) {
        SAME_VIEW(job);
    }
    SAME_VIEW(idempotency_key);
    SAME(operation);
    SAME(state);
    SAME(sent_ms);
    SAME(answer_status);
    AGREE(memcmp(left->digest, right->digest, sizeof left->digest) == 0);
}

static void same_counts(const struct store_counts *left, const struct store_counts *right)
{
    SAME(jobs);
    SAME(outstanding);
    SAME(results);
    SAME(result_bytes);
    SAME(unknown_submits);
    SAME(lost);
    SAME(ttl_expired);
    SAME(by_fate[STORE_FATE_KEPT]);
    SAME(by_fate[STORE_FATE_TOO_LARGE]);
    SAME(by_fate[STORE_FATE_EXPIRED]);
    SAME(by_fate[STORE_FATE_EVICTED]);
    SAME(by_fate[STORE_FATE_DELETED]);
}

static const struct store_job *job_named(const struct store_reply *reply,
                                         const struct store_job *wanted)
{
    for (size_t i = 0; i < reply->count; i++) {
        if (view_equal(reply->jobs[i].id, wanted->id) &&
            view_equal(reply->jobs[i].endpoint, wanted->endpoint)) {
            return &reply->jobs[i];
        }
    }
    return NULL;
}

/* In any order: what is leased, marked or evicted together. */
static void same_jobs(const struct store_reply *left, const struct store_reply *right)
{
    for (size_t i = 0; i < left->count; i++) {
        const struct store_job *other = job_named(right, &left->jobs[i]);

        cr_assert_not_null(other, "seed %u, step %u: %s: only the embedded store gives %.*s", seed,
                           step, store_operation_texts[asked], (int)left->jobs[i].id.length,
                           left->jobs[i].id.data);
        same_job(&left->jobs[i], other);
    }
}

/* Whether store.h promises reply.job. */
static bool says_job(enum store_result result)
{
    bool always = asked == STORE_GET_JOB || asked == STORE_CLAIM_JOB ||
                  asked == STORE_FIND_DUPLICATE || asked == STORE_READ_CHUNKS ||
                  asked == STORE_GET_CURSOR;

    return (result == STORE_OK && always) || result == STORE_OWNED ||
           (result == STORE_CONFLICT && asked != STORE_MARK_SENT && asked != STORE_RESCHEDULE &&
            asked != STORE_RESOLVE_SUBMIT && asked != STORE_SETTLE_SUBMIT) ||
           (result == STORE_BUSY && asked == STORE_CLAIM_JOB);
}

/* What store.h leaves to each of them. */
static bool may_differ(const struct store_reply *left, const struct store_reply *right)
{
    /* A settled submit may be forgotten. */
    return (asked == STORE_RESOLVE_SUBMIT &&
            (left->result == STORE_ABSENT || left->result == STORE_CONFLICT) &&
            (right->result == STORE_ABSENT || right->result == STORE_CONFLICT)) ||
           /* A retried job may be found by its input or not. */
           (asked == STORE_FIND_DUPLICATE && left->result == STORE_OK &&
            right->result == STORE_ABSENT && left->job.generation > 1);
}

static void same_reply(const struct store_reply *left, const struct store_reply *right)
{
    if (may_differ(left, right)) {
        return;
    }
    cr_assert(left->result == right->result, "seed %u, step %u: %s is %s and %s", seed, step,
              store_operation_texts[asked], store_result_text(left->result),
              store_result_text(right->result));
    SAME(now_ms);
    SAME(count);
    AGREE((left->jobs != NULL) == (right->jobs != NULL) || left->count == 0);
    /* A list too: where a retried job stands in it is each one's affair. */
    if (left->jobs) {
        same_jobs(left, right);
    }
    for (size_t i = 0; left->submits && i < left->count; i++) {
        same_submit(&left->submits[i], &right->submits[i]);
    }
    AGREE((left->cursor.length > 0) == (right->cursor.length > 0));
    if (says_job(left->result)) {
        same_job(&left->job, &right->job);
    }
    if (left->result == STORE_REPLAY || left->result == STORE_UNKNOWN) {
        same_submit(&left->submit, &right->submit);
    }
    if ((asked == STORE_READ_CHUNKS || asked == STORE_GET_CURSOR) &&
        job_state_is_terminal(left->job.state) && left->job.fate != STORE_FATE_KEPT) {
        return; /* how long a stream outlives a job without a result is each one's affair */
    }
    AGREE(view_equal(body_view(left->body), body_view(right->body)));
    if (left->body) {
        SAME(input_encoding);
    }
    SAME(chunk_count);
    AGREE(left->chunk_count == 0 || memcmp(left->chunk_lengths, right->chunk_lengths,
                                           left->chunk_count * sizeof(uint32_t)) == 0);
    SAME(cursor_position);
    SAME(cursor_ended);
    SAME(expired);
    SAME(evicted);
    if (asked == STORE_CLAIM_DUE) {
        SAME(next_ms);
    }
    same_counts(&left->counts, &right->counts);
}

/* ---- the questions --------------------------------------------------------------------------- */

static uint64_t job_fences[SIDES][JOBS];
static uint64_t claim_fences[SIDES][SUBMITS];

/* A submit lives once: claimed when it has a key, then sent, then settled, perhaps twice. */
static enum { LIFE_NEW, LIFE_CLAIMED, LIFE_SENT, LIFE_SETTLED, LIFE_OVER } lives[SUBMITS];

static struct view endpoint_name(void)
{
    return chance(4) ? ENDPOINT : OTHER_ENDPOINT;
}

static struct view team_name(void)
{
    return chance(4) ? TEAM : OTHER_TEAM;
}

static unsigned job_number;

static void name_job(struct store_question *question)
{
    job_number = chance(JOBS);
    question->job = suite_format("job-%u-%u", seed, job_number);
    question->endpoint = job_number % 3 ? ENDPOINT : OTHER_ENDPOINT;
}

static unsigned submit_number;

static bool is_keyed(unsigned number)
{
    return number % (KEYS + 1) < KEYS;
}

static void name_submit(struct store_question *question, unsigned number)
{
    submit_number = number;
    question->submit.id = suite_format("%016x%016x", seed, number);
    question->submit.team = TEAM;
    question->submit.key = KEY;
    question->submit.endpoint = ENDPOINT;
    question->submit.operation = STORE_SUBMIT_RUN;
    question->submit.instance = VIEW("0123456789abcdef0123456789abcdef");
    question->submit.idempotency_key =
        is_keyed(number) ? suite_format("key-%u-%u", seed, number % (KEYS + 1)) : VIEW("");
    memset(question->submit.digest, number % 3 ? 1 : 2, sizeof question->submit.digest);
}

static bool may_be_next(enum store_operation operation, unsigned number)
{
    bool keyed = is_keyed(number);

    if (operation == STORE_CLAIM_SUBMIT) {
        return lives[number] == LIFE_NEW && keyed;
    }
    if (operation == STORE_MARK_SENT) {
        return lives[number] == (keyed ? LIFE_CLAIMED : LIFE_NEW);
    }
    return lives[number] == LIFE_SENT || (lives[number] == LIFE_SETTLED && chance(8) == 0) ||
           (lives[number] == LIFE_NEW && !keyed && chance(4) == 0);
}

/* A submit for which the operation may come next; false when there is none. */
static bool pick_submit(struct store_question *question)
{
    unsigned first = chance(SUBMITS);

    for (unsigned i = 0; i < SUBMITS; i++) {
        unsigned number = (first + i) % SUBMITS;

        if (may_be_next(question->operation, number)) {
            name_submit(question, number);
            return true;
        }
    }
    return false;
}

static void fill_schedule(struct store_question *question)
{
    question->due_ms = ONE_OF(0, 10000, 300000);
    question->deadline_ms = ONE_OF(60000, 1800000);
    question->ttl_ms = ONE_OF(0, 3600000);
    question->kind = chance(2) ? STORE_KIND_RUN : STORE_KIND_RUNSYNC;
}

static void fill_result(struct store_question *question)
{
    static const char bytes[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    struct view result = view_make(bytes, chance(sizeof bytes));

    question->state = (enum job_state)ONE_OF(JOB_COMPLETED, JOB_FAILED, JOB_CANCELLED,
                                             JOB_TIMED_OUT, JOB_LOST, JOB_TTL_EXPIRED);
    question->execution_ms = ONE_OF(0, 5, UINT64_MAX);
    question->delay_ms = ONE_OF(0, 5, UINT64_MAX);
    question->fate = STORE_FATE_NONE;
    if (question->state == JOB_LOST) {
        question->poll_on_ms = ONE_OF(0, 900000);
    } else if (question->state != JOB_TTL_EXPIRED) {
        question->fate = (enum store_fate)ONE_OF(STORE_FATE_KEPT, STORE_FATE_KEPT,
                                                 STORE_FATE_TOO_LARGE, STORE_FATE_NONE);
    }
    if (question->fate == STORE_FATE_KEPT) {
        question->keep_ms = ONE_OF(300000, 7200000, 259200000);
        question->result = suite_body(result);
        question->encoding = chance(2) ? STORE_ENCODING_ZSTD : STORE_ENCODING_IDENTITY;
        question->result_bytes = result.length;
        memset(question->digest, (int)chance(256), sizeof question->digest);
    }
}

/* What came of a submit is always the same, however often it is said. */
static void fill_known(struct store_question *question)
{
    uint64_t kept_state = random_state;

    random_state = 0x9e3779b97f4a7c15 * (seed + 7) + submit_number * 77777;
    do {
        name_job(question);
    } while (!view_equal(question->endpoint, ENDPOINT));
    question->submit.job = question->job;
    fill_schedule(question);
    question->state = JOB_IN_QUEUE;
    if (chance(4) == 0) {
        fill_result(question);
        question->poll_on_ms = 0;
        if (question->state == JOB_LOST || question->state == JOB_TTL_EXPIRED) {
            question->state = JOB_CANCELLED;
        }
    }
    if (chance(2)) {
        question->answer_status = 200;
        question->answer = suite_body(suite_format("answer %u", submit_number));
    }
    if (chance(3) == 0) {
        struct view input = suite_format("input %u", submit_number);

        question->input = suite_body(input);
        question->input_bytes = input.length;
        question->input_encoding = STORE_ENCODING_ZSTD;
    }
    if (chance(2)) {
        question->has_dedupe = true;
        memset(question->dedupe_digest, (int)(seed * JOBS + job_number) & 255,
               sizeof question->dedupe_digest);
    }
    random_state = kept_state;
}

static void fill_settle(struct store_question *question)
{
    static const enum store_submit_state outcomes[] = {STORE_SUBMIT_KNOWN, STORE_SUBMIT_KNOWN,
                                                       STORE_SUBMIT_REFUSED, STORE_SUBMIT_UNKNOWN};

    question->submit.state = outcomes[submit_number / 7 % 4];
    if (question->submit.state == STORE_SUBMIT_KNOWN) {
        fill_known(question);
    } else {
        question->note = VIEW("why");
    }
}

static void fill_chunks(struct store_question *question)
{
    static uint32_t lengths[3];

    name_job(question);
    question->generation = 1 + chance(2);
    question->from = chance(4);
    question->chunk_count = 1 + chance(3);
    for (uint32_t i = 0; i < question->chunk_count; i++) {
        lengths[i] = 2;
    }
    question->chunk_lengths = lengths;
    /* Never the same twice: a repeated write may be known as such. */
    question->chunks =
        suite_body(view_first(suite_format("%02u%02u%02u", step % 100, step / 100, seed % 100),
                              2 * question->chunk_count));
}

/* Only a LOST job's poll may say LOST. */
static bool is_lost(const struct store_question *question)
{
    return ASK(.operation = STORE_GET_JOB, .endpoint = question->endpoint, .job = question->job)
               ->job.state == JOB_LOST;
}

static struct store_question any_question(bool *is_possible)
{
    struct store_question question = {.operation = (enum store_operation)chance(STORE_OPERATIONS)};

    asked = question.operation;
    *is_possible = true;
    switch (question.operation) {
    case STORE_CLAIM_SUBMIT:
        *is_possible = pick_submit(&question);
        question.accept_duplicate = chance(4) == 0;
        break;
    case STORE_MARK_SENT:
        *is_possible = pick_submit(&question);
        question.until_ms = ONE_OF(30000, 600000);
        break;
    case STORE_SETTLE_SUBMIT:
        *is_possible = pick_submit(&question);
        fill_settle(&question);
        break;
    case STORE_LIST_UNKNOWN: question.limit = 1000; break;
    case STORE_RESOLVE_SUBMIT:
        name_submit(&question, chance(SUBMITS));
        if (chance(2)) {
            name_job(&question);
            question.submit.job = question.job;
            fill_schedule(&question);
        }
        question.submit.endpoint = VIEW("");
        question.submit.idempotency_key = VIEW("");
        break;
    case STORE_FIND_DUPLICATE:
        question.team = team_name();
        question.endpoint = endpoint_name();
        question.has_dedupe = true;
        memset(question.dedupe_digest, (int)(seed * JOBS + chance(JOBS)) & 255,
               sizeof question.dedupe_digest);
        break;
    case STORE_GET_JOB:
        name_job(&question);
        question.with_result = chance(2);
        question.with_input = !question.with_result && chance(2);
        break;
    case STORE_ADOPT_JOB:
        name_job(&question);
        question.team = team_name();
        question.key = KEY;
        question.state = chance(2) ? JOB_IN_QUEUE : JOB_IN_PROGRESS;
        fill_schedule(&question);
        break;
    case STORE_PUT_RESULT:
        name_job(&question);
        question.generation = 1 + chance(2);
        fill_result(&question);
        break;
    case STORE_RETRY_JOB:
        name_job(&question);
        question.generation = 1 + chance(2);
        question.upstream_id = chance(2) ? VIEW("") : suite_format("up-%u", step);
        fill_schedule(&question);
        break;
    case STORE_SHORTEN: question.keep_ms = ONE_OF(60000, 7200000); __attribute__((fallthrough));
    case STORE_DELETE_RESULT:
    case STORE_CLEAR_CANCEL: name_job(&question); break;
    case STORE_LIST_JOBS:
        question.team = chance(3) ? team_name() : VIEW("");
        question.endpoint = chance(2) ? endpoint_name() : VIEW("");
        question.has_state = chance(2);
        question.state = (enum job_state)chance(JOB_STATES);
        question.has_fate = chance(3) == 0;
        question.fate = (enum store_fate)chance(STORE_FATES);
        question.since_ms = by_word || chance(2) ? 0 : beginning_ms + ahead_ms - chance(3600000);
        question.limit = 1000;
        break;
    case STORE_CLAIM_DUE:
        question.endpoint = endpoint_name();
        question.limit = 100;
        question.lease_ms = STORE_LEASE_MS;
        question.max_poll_ms = 20000;
        question.poll_rate_milli = 100000000;
        break;
    case STORE_CLAIM_JOB:
        name_job(&question);
        question.lease_ms = STORE_LEASE_MS;
        break;
    case STORE_RESCHEDULE:
        name_job(&question);
        question.state = is_lost(&question) && chance(2) ? JOB_LOST : JOB_IN_PROGRESS;
        question.due_ms = ONE_OF(0, 5000, 15000);
        question.deadline_ms = ONE_OF(0, 1800000);
        question.missing = chance(3);
        question.missing_since_ms = question.missing ? 30000 : 0;
        question.failures = chance(3);
        break;
    case STORE_MARK_PURGED:
        question.team = team_name();
        question.endpoint = endpoint_name();
        break;
    case STORE_CLAIM_CANCELS:
        question.limit = 100;
        question.lease_ms = STORE_LEASE_MS;
        break;
    case STORE_APPEND_CHUNKS: fill_chunks(&question); break;
    case STORE_READ_CHUNKS:
        name_job(&question);
        question.from = chance(4);
        question.limit = 1 + chance(5);
        question.limit_bytes = 1 + chance(10);
        break;
    case STORE_SET_CURSOR:
        question.from = chance(4);
        question.ended = chance(2);
        __attribute__((fallthrough));
    case STORE_GET_CURSOR:
        name_job(&question);
        question.consumer = chance(2) ? KEY : VIEW("other");
        break;
    case STORE_EXPIRE:
        question.limit = 1000;
        question.max_total_bytes = chance(8) ? UINT64_MAX : 40;
        break;
    case STORE_LIST_ENDPOINTS:
    case STORE_COUNT:
    case STORE_OPERATIONS: break;
    }
    return question;
}

static void note_fences(size_t side, const struct store_question *question,
                        const struct store_reply *reply)
{
    if (question->operation == STORE_CLAIM_SUBMIT && reply->result == STORE_OK) {
        claim_fences[side][submit_number] = reply->fence;
    }
    if (question->operation == STORE_CLAIM_JOB && reply->result == STORE_OK) {
        job_fences[side][job_number] = reply->job.fence;
    }
    for (size_t i = 0; question->operation == STORE_CLAIM_DUE && i < reply->count; i++) {
        struct view id = reply->jobs[i].id;

        if (view_starts_with(id, suite_format("job-%u-", seed))) {
            job_fences[side][id.data[id.length - 1] - '0'] = reply->jobs[i].fence;
        }
    }
}

static void note_life(const struct store_question *question, enum store_result result)
{
    if (question->operation == STORE_CLAIM_SUBMIT && result == STORE_OK) {
        lives[submit_number] = LIFE_CLAIMED;
    } else if (question->operation == STORE_MARK_SENT) {
        lives[submit_number] = result == STORE_OK ? LIFE_SENT : LIFE_OVER;
    } else if (question->operation == STORE_SETTLE_SUBMIT) {
        lives[submit_number] = result == STORE_OK ? LIFE_SETTLED : LIFE_OVER;
    } else if (question->operation == STORE_RESOLVE_SUBMIT && result == STORE_OK) {
        by_word = true;
        lives[submit_number] = LIFE_OVER; /* nothing is heard of it after an operator's word */
    }
}

/* In which order endpoints come is nobody's business. */
static void same_endpoints(const struct store_reply *left, const struct store_reply *right)
{
    static const char *const names[] = {"abc123", "xyz789"};

    for (size_t name = 0; name < 2; name++) {
        uint64_t counts[SIDES] = {0, 0};
        const struct store_reply *replies[SIDES] = {left, right};

        for (size_t side = 0; side < SIDES; side++) {
            for (size_t i = 0; i < replies[side]->count; i++) {
                if (view_equal(replies[side]->endpoints[i].endpoint, view_of_string(names[name]))) {
                    counts[side] = replies[side]->endpoints[i].outstanding;
                }
            }
        }
        AGREE(counts[EMBEDDED] == counts[REDIS]);
    }
}

/* With PODGATE_VERBOSE: what is asked and said. */
static void tell(size_t side, const struct store_question *question,
                 const struct store_reply *reply)
{
    if (getenv("PODGATE_VERBOSE")) {
        fprintf(stderr, "seed %u step %u at %llu %s: %s job %.*s %s submit %.*s %d until %llu is ",
                seed, step, (unsigned long long)ahead_ms, side == REDIS ? "redis" : "embedded",
                store_operation_texts[asked], (int)question->job.length, question->job.data,
                job_state_text(question->state), (int)question->submit.id.length,
                question->submit.id.data, (int)question->submit.state,
                (unsigned long long)question->until_ms);
        fprintf(stderr, "%s, job %s fate %d count %zu body %zu chunks %zu\n",
                store_result_text(reply->result), job_state_text(reply->job.state),
                (int)reply->job.fate, reply->count, body_view(reply->body).length,
                reply->chunk_count);
    }
}

static void ask_both(const struct store_question *question)
{
    const struct store_reply *replies[SIDES];

    for (size_t side = 0; side < SIDES; side++) {
        struct store_question own = *question;

        own.fence = question->operation == STORE_MARK_SENT && own.submit.idempotency_key.length > 0
                        ? claim_fences[side][submit_number]
                        : job_fences[side][job_number];
        if (question->operation == STORE_MARK_SENT && own.submit.idempotency_key.length == 0) {
            own.fence = 0;
        }
        replies[side] = suite_ask(side, &own);
        note_fences(side, &own, replies[side]);
        tell(side, &own, replies[side]);
    }
    note_life(question, replies[EMBEDDED]->result);
    if (asked == STORE_LIST_ENDPOINTS) {
        same_endpoints(replies[EMBEDDED], replies[REDIS]);
    } else {
        same_reply(replies[EMBEDDED], replies[REDIS]);
    }
}

static void play(unsigned which)
{
    seed = which;
    random_state = 0x9e3779b97f4a7c15 * (which + 1);
    memset(job_fences, 0, sizeof job_fences);
    memset(claim_fences, 0, sizeof claim_fences);
    memset(lives, 0, sizeof lives);
    by_word = false;
    for (step = 0; step < STEPS; step++) {
        bool is_possible;
        struct store_question question = any_question(&is_possible);

        if (asked == STORE_COUNT) { /* what has lapsed may be counted only when it was swept */
            for (size_t side = 0; side < SIDES; side++) {
                (void)suite_expect(side, STORE_OK, __LINE__,
                                   &(struct store_question){.operation = STORE_EXPIRE,
                                                            .limit = 1000,
                                                            .max_total_bytes = UINT64_MAX});
                (void)suite_expect(
                    side, STORE_OK, __LINE__,
                    &(struct store_question){.operation = STORE_LIST_UNKNOWN, .limit = 1000});
            }
        }
        if (is_possible) {
            ask_both(&question);
        }
        pass(ONE_OF(1, 1, 1, 1000, 1000, 11000, 61000, chance(10) ? 1000 : 3600000,
                    chance(60) ? 1000 : 90000000, chance(120) ? 1000 : 700000000));
    }
}

Test(store_agreement, both_backends_say_the_same_of_thousands_of_questions)
{
    const char *one = getenv("PODGATE_SEED");
    const char *many = getenv("PODGATE_SEEDS");
    unsigned from = one ? (unsigned)strtoul(one, NULL, 10) : 0;
    unsigned count = one ? 1 : many ? (unsigned)strtoul(many, NULL, 10) : SEEDS;

    for (unsigned i = from; i < from + count; i++) {
        play(i);
    }
}
