#include "build_config.h"

#include "store_suite.h"

#include <event2/event.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct suite_instance suite_instances[SUITE_INSTANCES];
char *suite_problem;
int suite_exit_status;

/* ---- what lives to the end of the test ------------------------------------------------------- */

struct kept {
    struct kept *next;
    struct body *body;
    _Alignas(max_align_t) char bytes[];
};
static struct kept *kept_first;
static char directory[256];
static struct body_budget suite_budget = {.maximum_bytes = 512 * 1024 * 1024};

static struct kept *keep(size_t bytes)
{
    struct kept *kept = calloc(1, sizeof *kept + bytes);

    cr_assert_not_null(kept);
    kept->next = kept_first;
    kept_first = kept;
    return kept;
}

static void free_kept(void)
{
    while (kept_first) {
        struct kept *kept = kept_first;

        kept_first = kept->next;
        body_unref(kept->body);
        free(kept);
    }
}

struct view suite_copy(struct view bytes)
{
    struct kept *kept = keep(bytes.length + 1);

    if (bytes.length > 0) {
        memcpy(kept->bytes, bytes.data, bytes.length);
    }
    return view_make(kept->bytes, bytes.length);
}

struct view suite_format(const char *format, ...)
{
    char text[512];
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    cr_assert(length >= 0 && (size_t)length < sizeof text);
    return suite_copy(view_make(text, (size_t)length));
}

struct body *suite_body(struct view bytes)
{
    struct kept *kept = keep(0);

    kept->body = body_create(&suite_budget, bytes.length > 0 ? bytes.length : 1);
    cr_assert_not_null(kept->body);
    cr_assert(body_append(kept->body, bytes));
    return kept->body;
}

const char *suite_directory(void)
{
    const char *base = getenv("TMPDIR");

    if (directory[0] == '\0') {
        snprintf(directory, sizeof directory, "%s/podgate-store-XXXXXX", base ? base : "/tmp");
        cr_assert_not_null(mkdtemp(directory));
    }
    return directory;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status;
    (void)type;
    (void)where;
    return remove(path);
}

/* ---- podgates -------------------------------------------------------------------------------- */

uint64_t suite_real_ms(void)
{
    struct timespec now;

    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static const struct config *load_config(size_t index)
{
    struct config_errors *errors = config_errors_create();
    struct config *config;
    char options[1024];
    char text[2048];

    suite_backend.options(index, options, sizeof options);
    snprintf(text, sizeof text,
             "upstream { url = \"http://127.0.0.1:1/v2\" api_key_env = \"PODGATE_TEST_KEY\" }\n"
             "store { %s }\n",
             options);
    config = config_load_text("suite.conf", view_of_string(text), false, errors);
    cr_assert_not_null(config, "%s",
                       config_errors_count(errors) ? config_errors_text(errors, 0) : "no reason");
    config_errors_destroy(errors);
    return config;
}

static void on_change(void *argument, struct view endpoint, struct view job)
{
    struct suite_instance *instance = argument;

    instance->changes++;
    snprintf(instance->changed_endpoint, sizeof instance->changed_endpoint, "%.*s",
             (int)endpoint.length, endpoint.data);
    snprintf(instance->changed_job, sizeof instance->changed_job, "%.*s", (int)job.length,
             job.data);
}

bool suite_try_open(size_t index)
{
    struct suite_instance *instance = &suite_instances[index];

    *instance = (struct suite_instance){.budget = {.maximum_bytes = 512 * 1024 * 1024}};
    instance->config = load_config(index);
    instance->metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    instance->block = metrics_block_create(instance->metrics);
    instance->log = log_create(STDERR_FILENO, LOG_FORMAT_KEY_VALUE, LOG_LEVEL_ERROR, true);
    instance->ring = log_ring_create(instance->log, 64 * 1024);
    instance->loop = loop_create();
    cr_assert(instance->metrics && instance->block && instance->log && instance->ring &&
              instance->loop);
    free(suite_problem);
    suite_problem = NULL;
    suite_exit_status = 0;
    instance->store = store_create(instance->config, &instance->budget, instance->metrics,
                                   instance->log, &suite_problem, &suite_exit_status);
    if (!instance->store) {
        suite_close(index);
        return false;
    }
    instance->client =
        store_client_create(instance->store, instance->loop, instance->block, instance->ring);
    cr_assert_not_null(instance->client);
    store_watch(instance->client, on_change, instance);
    return true;
}

void suite_open(size_t index)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    cr_assert(suite_try_open(index), "the store doesn't open: %s",
              suite_problem ? suite_problem : "no reason");
    /* Redis is connected to in the background. */
    while (store_state(suite_instances[index].store) != STORE_STATE_READY) {
        cr_assert_lt(suite_real_ms(), until_ms, "the store never became ready");
        suite_step();
    }
}

void suite_close(size_t index)
{
    struct suite_instance *instance = &suite_instances[index];

    store_client_destroy(instance->client);
    store_destroy(instance->store);
    loop_destroy(instance->loop);
    log_destroy(instance->log);
    metrics_destroy(instance->metrics);
    config_unref(instance->config);
    *instance = (struct suite_instance){0};
}

void suite_reopen(void)
{
    suite_close(0);
    suite_open(0);
}

void suite_set_up(void)
{
    /* As podgate does: hiredis writes without MSG_NOSIGNAL. */
    signal(SIGPIPE, SIG_IGN);
    suite_backend.begin();
    suite_open(0);
}

void suite_tear_down(void)
{
    size_t held_bytes = 0;

    for (size_t i = 0; i < SUITE_INSTANCES; i++) {
        if (suite_instances[i].store) {
            suite_close(i);
        }
    }
    suite_backend.end();
    free_kept();
    held_bytes = suite_budget.used_bytes;
    cr_expect_eq(held_bytes, 0, "bodies of questions that are still referenced");
    free(suite_problem);
    suite_problem = NULL;
    if (directory[0] != '\0') {
        nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        directory[0] = '\0';
    }
}

void suite_step(void)
{
    static const struct timespec moment = {0, 50000};

    for (size_t i = 0; i < SUITE_INSTANCES; i++) {
        if (suite_instances[i].loop) {
            event_base_loop(loop_base(suite_instances[i].loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
        }
    }
    nanosleep(&moment, NULL);
}

/* ---- asking ---------------------------------------------------------------------------------- */

struct waiting {
    bool came;
    struct store_reply reply;
};

static void copy_job(struct store_job *job)
{
    job->endpoint = suite_copy(job->endpoint);
    job->id = suite_copy(job->id);
    job->upstream_id = suite_copy(job->upstream_id);
    job->team = suite_copy(job->team);
    job->key = suite_copy(job->key);
}

static void copy_submit(struct store_submit *submit)
{
    submit->id = suite_copy(submit->id);
    submit->team = suite_copy(submit->team);
    submit->key = suite_copy(submit->key);
    submit->endpoint = suite_copy(submit->endpoint);
    submit->job = suite_copy(submit->job);
    submit->idempotency_key = suite_copy(submit->idempotency_key);
    submit->instance = suite_copy(submit->instance);
}

static void *copy_array(const void *elements, size_t bytes)
{
    return elements ? keep(bytes + 1)->bytes : NULL;
}

static void copy_reply(struct store_reply *reply)
{
    struct store_job *jobs = copy_array(reply->jobs, reply->count * sizeof *jobs);
    struct store_submit *submits = copy_array(reply->submits, reply->count * sizeof *submits);
    struct store_endpoint_count *endpoints =
        copy_array(reply->endpoints, reply->count * sizeof *endpoints);
    uint32_t *lengths =
        copy_array(reply->chunk_lengths, reply->chunk_count * sizeof *reply->chunk_lengths);

    for (size_t i = 0; jobs && i < reply->count; i++) {
        jobs[i] = reply->jobs[i];
        copy_job(&jobs[i]);
    }
    for (size_t i = 0; submits && i < reply->count; i++) {
        submits[i] = reply->submits[i];
        copy_submit(&submits[i]);
    }
    for (size_t i = 0; endpoints && i < reply->count; i++) {
        endpoints[i] = reply->endpoints[i];
        endpoints[i].endpoint = suite_copy(endpoints[i].endpoint);
    }
    for (size_t i = 0; lengths && i < reply->chunk_count; i++) {
        lengths[i] = reply->chunk_lengths[i];
    }
    reply->jobs = jobs;
    reply->submits = submits;
    reply->endpoints = endpoints;
    reply->chunk_lengths = lengths;
    copy_job(&reply->job);
    copy_submit(&reply->submit);
    reply->cursor = suite_copy(reply->cursor);
    if (reply->body) {
        /* A copy, so that the store's own budget shows what it holds. */
        reply->body = suite_body(body_view(reply->body));
    }
}

static void on_reply(void *argument, const struct store_reply *reply)
{
    struct waiting *waiting = argument;

    cr_assert_not(waiting->came, "a second reply");
    waiting->came = true;
    waiting->reply = *reply;
    copy_reply(&waiting->reply);
}

const struct store_reply *suite_ask(size_t index, const struct store_question *question)
{
    struct store_question asked = *question;
    struct waiting *waiting = (struct waiting *)(void *)keep(sizeof *waiting)->bytes;
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    if (asked.timeout_ms == 0) {
        asked.timeout_ms = SUITE_FOREVER_MS / 2;
    }
    cr_assert_not_null(store_ask(suite_instances[index].client, &asked, on_reply, waiting));
    cr_assert_not(waiting->came, "the reply came before store_ask() returned");
    while (!waiting->came) {
        cr_assert_lt(suite_real_ms(), until_ms, "%s: no reply",
                     store_operation_texts[question->operation]);
        suite_step();
    }
    return &waiting->reply;
}

const struct store_reply *suite_expect(size_t index, enum store_result wanted, int line,
                                       const struct store_question *question)
{
    const struct store_reply *reply = suite_ask(index, question);

    cr_assert_eq(reply->result, wanted, "line %d: %s is %s, not %s", line,
                 store_operation_texts[question->operation], store_result_text(reply->result),
                 store_result_text(wanted));
    return reply;
}

/* ---- what most tests need -------------------------------------------------------------------- */

struct view submit_id(unsigned number)
{
    return suite_format("%032x", number);
}

struct store_question submit_question(enum store_operation operation, unsigned number,
                                      struct view idempotency_key)
{
    struct store_question question = {
        .operation = operation,
        .until_ms = MINUTE_MS,
        .submit = {.id = submit_id(number),
                   .team = TEAM,
                   .key = KEY,
                   .endpoint = ENDPOINT,
                   .operation = STORE_SUBMIT_RUN,
                   .idempotency_key = idempotency_key,
                   .instance = suite_copy(store_instance(suite_instances[0].store))},
    };

    memset(question.submit.digest, 0xd1, sizeof question.submit.digest);
    return question;
}

struct store_question known_question(unsigned number, struct view idempotency_key, struct view job)
{
    struct store_question question = submit_question(STORE_SETTLE_SUBMIT, number, idempotency_key);

    question.submit.state = STORE_SUBMIT_KNOWN;
    question.submit.job = job;
    question.state = JOB_IN_QUEUE;
    question.kind = STORE_KIND_RUN;
    question.ttl_ms = 24 * HOUR_MS;
    question.due_ms = FAR_MS;
    question.deadline_ms = RETENTION_MS;
    return question;
}

struct store_question result_question(struct view job, struct view result)
{
    struct store_question question = {
        .operation = STORE_PUT_RESULT,
        .endpoint = ENDPOINT,
        .job = job,
        .generation = 1,
        .state = JOB_COMPLETED,
        .fate = STORE_FATE_KEPT,
        .keep_ms = KEEP_MS,
        .execution_ms = 41,
        .delay_ms = 7,
        .result = suite_body(result),
        .encoding = STORE_ENCODING_IDENTITY,
        .result_bytes = result.length,
    };

    memset(question.digest, 0x5a, sizeof question.digest);
    return question;
}

struct store_question due_question(uint32_t limit)
{
    return (struct store_question){.operation = STORE_CLAIM_DUE,
                                   .endpoint = ENDPOINT,
                                   .limit = limit,
                                   .lease_ms = STORE_LEASE_MS,
                                   .max_poll_ms = POLL_MS,
                                   .poll_rate_milli = 1000000};
}

static void enter(struct view endpoint, struct view team, struct view job, uint64_t due_ms,
                  uint64_t deadline_ms)
{
    EXPECT(STORE_OK, .operation = STORE_ADOPT_JOB, .endpoint = endpoint, .job = job, .team = team,
           .key = KEY, .kind = STORE_KIND_RUN, .state = JOB_IN_QUEUE, .ttl_ms = 24 * HOUR_MS,
           .due_ms = due_ms, .deadline_ms = deadline_ms);
}

void add_job(struct view job)
{
    enter(ENDPOINT, TEAM, job, 0, RETENTION_MS);
}

void add_job_due(struct view job, uint64_t due_ms, uint64_t deadline_ms)
{
    enter(ENDPOINT, TEAM, job, due_ms, deadline_ms);
}

void add_job_of(struct view endpoint, struct view team, struct view job)
{
    enter(endpoint, team, job, 0, RETENTION_MS);
}

void add_result(struct view job, struct view result)
{
    struct store_question question = result_question(job, result);

    add_job(job);
    EXPECT_THAT(STORE_OK, question);
}

struct store_job job_of(struct view job)
{
    return EXPECT(STORE_OK, .operation = STORE_GET_JOB, .endpoint = ENDPOINT, .job = job)->job;
}

struct store_job result_of(struct view job, struct view *result)
{
    const struct store_reply *reply = EXPECT(STORE_OK, .operation = STORE_GET_JOB,
                                             .endpoint = ENDPOINT, .job = job, .with_result = true);

    *result = body_view(reply->body);
    return reply->job;
}
