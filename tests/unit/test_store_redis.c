#include "build_config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <event2/event.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

#include "base/fault.h"
#include "redis_server.h"
#include "store/store_doctor.h"
#include "store/store_redis.h"

/* The Redis backend alone, without the spool before it, on a real redis-server that is killed,
 * paused, emptied, made read-only or full. */

enum { FOREVER_MS = 30000, CLIENTS = 2 };

static char directory[256];
static struct store store;
static struct store_client *clients[CLIENTS];
static struct loop *loops[CLIENTS];
static const struct config *config;
static struct body_budget budget = {.maximum_bytes = 64 * 1024 * 1024};
static unsigned losses[2];
static unsigned changes;

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status;
    (void)type;
    (void)where;
    return remove(path);
}

static void set_up(void)
{
    signal(SIGPIPE, SIG_IGN); /* as podgate does */
    snprintf(directory, sizeof directory, "%s/podgate-redis-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert_not_null(mkdtemp(directory));
    redis_server_start(directory, "");
}

static void on_loss(void *argument, enum store_redis_loss loss)
{
    (void)argument;
    losses[loss]++;
}

static void on_change(void *argument, struct view endpoint, struct view job)
{
    (void)argument;
    (void)endpoint;
    (void)job;
    changes++;
}

/* Opens the store as store_create() would, but for the spool. NULL or what was the problem. */
static char *try_open(const char *url, const char *options, int *exit_status)
{
    struct config_errors *errors = config_errors_create();
    char text[1024];
    char *problem = NULL;

    snprintf(text, sizeof text,
             "upstream { url = \"http://127.0.0.1:1/v2\" api_key_env = \"PODGATE_TEST_KEY\" }\n"
             "store { backend = \"redis\" url = \"%s\" %s }\n",
             url, options);
    config = config_load_text("test.conf", view_of_string(text), false, errors);
    cr_assert_not_null(config, "%s",
                       config_errors_count(errors) ? config_errors_text(errors, 0) : "no reason");
    config_errors_destroy(errors);
    store = (struct store){.backend = &store_redis_backend, .budget = &budget};
    memset(store.instance, 'a', sizeof store.instance);
    store.metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    store.log = log_create(STDERR_FILENO, LOG_FORMAT_KEY_VALUE, LOG_LEVEL_ERROR, true);
    store.data = store.backend->create(&store, config, &problem, exit_status);
    return store.data ? NULL : problem;
}

static void add_client(size_t index)
{
    loops[index] = loop_create();
    clients[index] = store_client_create(&store, loops[index], metrics_block_create(store.metrics),
                                         log_ring_create(store.log, 64 * 1024));
    cr_assert_not_null(clients[index]);
    store_watch(clients[index], on_change, NULL);
}

static void open_with(const char *url, const char *options)
{
    int exit_status = 0;
    char *problem = try_open(url, options, &exit_status);

    cr_assert_null(problem, "%s", problem);
    losses[0] = losses[1] = 0;
    store_redis_watch_loss(store.data, on_loss, NULL);
    add_client(0);
}

static void open_store(const char *options)
{
    char url[256];

    snprintf(url, sizeof url, "redis+unix://%s", redis_server.socket);
    open_with(url, options);
}

static void close_store(void)
{
    for (size_t i = 0; i < CLIENTS; i++) {
        store_client_destroy(clients[i]);
        clients[i] = NULL;
    }
    if (store.data) {
        store.backend->destroy(store.data);
    }
    for (size_t i = 0; i < CLIENTS; i++) {
        loop_destroy(loops[i]);
        loops[i] = NULL;
    }
    log_destroy(store.log);
    metrics_destroy(store.metrics);
    config_unref(config);
    store = (struct store){0};
    config = NULL;
}

static void tear_down(void)
{
    close_store();
    redis_server_stop(SIGKILL);
    nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    cr_expect_eq(budget.used_bytes, 0);
}

TestSuite(store_redis, .init = set_up, .fini = tear_down);

static void step(void)
{
    static const struct timespec moment = {0, 100000};

    for (size_t i = 0; i < CLIENTS; i++) {
        if (loops[i]) {
            event_base_loop(loop_base(loops[i]), EVLOOP_ONCE | EVLOOP_NONBLOCK);
        }
    }
    nanosleep(&moment, NULL);
}

#define WAIT_UNTIL(condition)                                                                      \
    do {                                                                                           \
        uint64_t until_ms = redis_server_real_ms() + FOREVER_MS;                                   \
        while (!(condition)) {                                                                     \
            cr_assert_lt(redis_server_real_ms(), until_ms, "never: %s", #condition);               \
            step();                                                                                \
        }                                                                                          \
    } while (0)

static bool is_ready(void)
{
    return store_state(&store) == STORE_STATE_READY;
}

/* A command on a connection of its own, which must be answered so. */
static void say(const char *wanted, const char *format, ...)
{
    char command[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof command - 3, format, arguments);
    va_end(arguments);
    strcat(command, "\r\n");
    cr_assert(redis_server_says(command, wanted), "%s is not answered by %s", command, wanted);
}

/* ---- asking */

struct waiting {
    bool came;
    enum store_result result;
    struct store_job job;
    size_t count;
    char ids[64][32];
    uint64_t expired;
    uint64_t evicted;
    uint64_t bytes;
};

static void on_reply(void *argument, const struct store_reply *reply)
{
    struct waiting *waiting = argument;

    waiting->came = true;
    waiting->result = reply->result;
    waiting->job = reply->job;
    waiting->count = reply->count;
    waiting->expired = reply->expired;
    waiting->evicted = reply->evicted;
    waiting->bytes = reply->counts.result_bytes;
    for (size_t i = 0; reply->jobs && i < reply->count && i < 64; i++) {
        snprintf(waiting->ids[i], sizeof waiting->ids[i], "%.*s", (int)reply->jobs[i].id.length,
                 reply->jobs[i].id.data);
    }
}

static struct waiting ask_with(const struct store_question *question)
{
    struct waiting waiting = {.came = false};

    cr_assert_not_null(store_ask(clients[0], question, on_reply, &waiting));
    cr_assert_not(waiting.came);
    WAIT_UNTIL(waiting.came);
    return waiting;
}
#define ASK(...) ask_with(&(struct store_question){__VA_ARGS__})

static struct waiting adopt(const char *job)
{
    return ASK(.operation = STORE_ADOPT_JOB, .endpoint = VIEW("ep"), .job = view_of_string(job),
               .team = VIEW("team"), .key = VIEW("key"), .deadline_ms = 60000);
}

static enum store_result get(const char *job)
{
    return ASK(.operation = STORE_GET_JOB, .endpoint = VIEW("ep"), .job = view_of_string(job))
        .result;
}

static struct waiting claim(void)
{
    return ASK(.operation = STORE_CLAIM_DUE, .endpoint = VIEW("ep"), .limit = 50,
               .max_poll_ms = 20000);
}

static struct waiting put_of(const char *endpoint, const char *job, const char *bytes)
{
    struct body *body = body_create(&budget, strlen(bytes) + 1);
    struct waiting waiting;

    cr_assert(body_append(body, view_of_string(bytes)));
    waiting =
        ASK(.operation = STORE_PUT_RESULT, .endpoint = view_of_string(endpoint),
            .job = view_of_string(job), .generation = 1, .state = JOB_COMPLETED,
            .fate = STORE_FATE_KEPT, .keep_ms = 3600000, .result = body,
            .result_bytes = strlen(bytes), .execution_ms = UINT64_MAX, .delay_ms = UINT64_MAX);
    body_unref(body);
    return waiting;
}

static uint64_t faults(enum metric_store_fault reason)
{
    return metrics_sum(store.metrics, METRIC_FAULTS, METRIC_PART_STORE, reason);
}

/* The tag of the endpoint's shard in a key. */
static const char *tag(void)
{
    static char text[8];

    snprintf(text, sizeof text, "{%02u}", redis_shard(VIEW("ep")));
    return text;
}

/* ---- away and back --------------------------------------------------------------------------- */

Test(store_redis, what_is_asked_before_the_first_connection_stands_is_answered)
{
    open_store("");
    cr_assert_not(is_ready());
    cr_assert_eq(adopt("j").result, STORE_OK);
    cr_assert(is_ready());
}

Test(store_redis, a_killed_redis_is_away_and_then_ready_again_with_all_that_was_confirmed)
{
    open_store("");
    cr_assert_eq(adopt("j").result, STORE_OK);
    redis_server_stop(SIGKILL);
    WAIT_UNTIL(!is_ready());
    cr_assert_eq(adopt("k").result, STORE_AWAY);
    cr_assert_gt(faults(METRIC_STORE_FAULT_AWAY), 0);
    redis_server_start(directory, "");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(get("j"), STORE_OK);
    cr_assert_eq(get("k"), STORE_ABSENT);
}

Test(store_redis, a_store_that_starts_without_redis_finds_it_later)
{
    redis_server_stop(SIGKILL);
    open_store("");
    cr_assert_eq(adopt("j").result, STORE_AWAY);
    cr_assert_not(is_ready());
    redis_server_start(directory, "");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(adopt("j").result, STORE_OK);
}

Test(store_redis, one_client_without_connection_makes_the_store_away)
{
    open_store("");
    WAIT_UNTIL(is_ready());
    add_client(1);
    cr_assert_eq(store_state(&store), STORE_STATE_AWAY);
    WAIT_UNTIL(is_ready());
}

Test(store_redis, a_stopped_redis_times_out_is_away_and_late_replies_are_dropped)
{
    struct waiting waiting;

    open_store("");
    cr_assert_eq(adopt("j").result, STORE_OK);
    kill(redis_server.process, SIGSTOP);
    waiting =
        ASK(.operation = STORE_ADOPT_JOB, .endpoint = VIEW("ep"), .job = VIEW("late"),
            .team = VIEW("team"), .key = VIEW("key"), .deadline_ms = 60000, .timeout_ms = 200);
    cr_assert_eq(waiting.result, STORE_TIMED_OUT);
    WAIT_UNTIL(!is_ready());
    cr_assert_gt(faults(METRIC_STORE_FAULT_SLOW), 0);
    kill(redis_server.process, SIGCONT);
    WAIT_UNTIL(is_ready());
    cr_assert_eq(get("j"), STORE_OK);
}

Test(store_redis, five_slow_answers_in_a_row_are_as_good_as_none)
{
    open_store("");
    WAIT_UNTIL(is_ready());
    for (int i = 0; i < 20 && is_ready(); i++) {
        /* The pause holds back what comes behind it, for longer than an answer may take. */
        say("+OK", "CLIENT PAUSE 150");
        (void)get("j");
    }
    cr_assert_not(is_ready());
    cr_assert_gt(faults(METRIC_STORE_FAULT_SLOW), 0);
    WAIT_UNTIL(is_ready());
    cr_assert_eq(get("j"), STORE_ABSENT);
}

Test(store_redis, a_call_whose_time_is_over_while_redis_pauses_is_timed_out)
{
    struct waiting waiting;

    open_store("");
    WAIT_UNTIL(is_ready());
    say("+OK", "CLIENT PAUSE 600");
    waiting =
        ASK(.operation = STORE_GET_JOB, .endpoint = VIEW("ep"), .job = VIEW("j"), .timeout_ms = 50);
    cr_assert_eq(waiting.result, STORE_TIMED_OUT);
    cr_assert_eq(adopt("j").result, STORE_OK);
}

Test(store_redis, cancelled_calls_and_a_destroyed_client_leave_nothing)
{
    struct waiting waiting = {.came = false};
    struct store_question question = {
        .operation = STORE_COUNT, .endpoint = VIEW("ep"), .job = VIEW("j")};
    struct store_call *call;

    open_store("");
    WAIT_UNTIL(is_ready());
    call = store_ask(clients[0], &question, on_reply, &waiting);
    store_cancel(call);
    cr_assert_not_null(store_ask(clients[0], &question, on_reply, &waiting));
    close_store();
    cr_assert_not(waiting.came);
}

/* ---- what Redis refuses ---------------------------------------------------------------------- */

Test(store_redis, flushed_scripts_are_sent_again)
{
    open_store("");
    cr_assert_eq(adopt("j").result, STORE_OK);
    say("+OK", "SCRIPT FLUSH");
    cr_assert_eq(get("j"), STORE_OK);
    cr_assert_eq(adopt("j").result, STORE_OWNED);
    cr_assert(is_ready());
}

Test(store_redis, a_read_only_redis_is_away_until_it_is_the_master_again)
{
    open_store("");
    cr_assert_eq(adopt("j").result, STORE_OK);
    say("+OK", "REPLICAOF 127.0.0.1 1");
    cr_assert_eq(adopt("k").result, STORE_AWAY);
    cr_assert_not(is_ready());
    cr_assert_gt(faults(METRIC_STORE_FAULT_REFUSED), 0);
    say("+OK", "REPLICAOF NO ONE");
    WAIT_UNTIL(is_ready());
    /* It may have missed what another master had taken meanwhile. */
    cr_assert_eq(losses[STORE_REDIS_REBORN], 1);
    cr_assert_eq(adopt("k").result, STORE_OK);
}

Test(store_redis, a_full_redis_is_away_and_nothing_is_half_written)
{
    open_store("");
    cr_assert_eq(adopt("j").result, STORE_OK);
    say("+OK", "CONFIG SET maxmemory 1");
    cr_assert_eq(adopt("k").result, STORE_AWAY);
    cr_assert_eq(put_of("ep", "j", "result").result, STORE_AWAY);
    cr_assert_not(is_ready());
    say("+OK", "CONFIG SET maxmemory 0");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(get("k"), STORE_ABSENT);
    cr_assert_eq(
        ASK(.operation = STORE_GET_JOB, .endpoint = VIEW("ep"), .job = VIEW("j")).job.state,
        JOB_IN_QUEUE);
    cr_assert_eq(put_of("ep", "j", "result").result, STORE_OK);
}

Test(store_redis, a_redis_that_wants_a_password_gets_the_one_of_the_file)
{
    char path[300];
    char options[400];
    FILE *file;

    say("+OK", "CONFIG SET requirepass secret");
    open_store("");
    cr_assert_eq(adopt("j").result, STORE_AWAY);
    WAIT_UNTIL(faults(METRIC_STORE_FAULT_REFUSED) >= 2);
    cr_assert_not(is_ready());
    close_store();
    snprintf(path, sizeof path, "%s/password", directory);
    file = fopen(path, "w");
    fprintf(file, "secret\n");
    fclose(file);
    snprintf(options, sizeof options, "password_file = \"%s\"", path);
    open_store(options);
    cr_assert_eq(adopt("j").result, STORE_OK);
}

Test(store_redis, a_user_with_the_rights_of_the_manual_is_enough)
{
    char path[300];
    char options[400];
    FILE *file;

    say("+OK", "ACL SETUSER gate on >secret ~pg:* &pg:* -@all +@read +@write +@scripting +@pubsub "
               "+@connection +info +time +config|get");
    snprintf(path, sizeof path, "%s/password", directory);
    file = fopen(path, "w");
    fprintf(file, "secret");
    fclose(file);
    snprintf(options, sizeof options,
             "user = \"gate\" prefix = \"pg\" password_file = \"%s\" require_durable = true", path);
    open_store(options);
    cr_assert_eq(adopt("j").result, STORE_OK);
    cr_assert_eq(put_of("ep", "j", "result").result, STORE_OK);
    cr_assert_eq(store_durability(&store), STORE_DURABLE);
}

Test(store_redis, a_user_without_the_channel_does_without_it)
{
    char path[300];
    char options[400];
    FILE *file;

    say("+OK", "ACL SETUSER gate on >secret ~podgate:* resetchannels +@all");
    snprintf(path, sizeof path, "%s/password", directory);
    file = fopen(path, "w");
    fprintf(file, "secret");
    fclose(file);
    snprintf(options, sizeof options, "user = \"gate\" password_file = \"%s\"", path);
    open_store(options);
    cr_assert_eq(adopt("j").result, STORE_OK);
    cr_assert_eq(put_of("ep", "j", "result").result, STORE_OK);
    /* It has been refused by now, and nothing else was hurt by it. */
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(get("j"), STORE_OK);
    }
    WAIT_UNTIL(((struct redis_client *)clients[0]->data)->watch.was_refused);
    cr_assert(is_ready());
    cr_assert_eq(get("j"), STORE_OK);
    cr_assert_eq(faults(METRIC_STORE_FAULT_REFUSED), 0);
}

Test(store_redis, a_number_chooses_the_database)
{
    char url[256];

    snprintf(url, sizeof url, "redis+unix://%s?db=3", redis_server.socket);
    open_with(url, "");
    cr_assert_eq(adopt("j").result, STORE_OK);
    say(":0", "DBSIZE");
    say("+OK", "SWAPDB 0 3");
    say(":1", "EXISTS podgate:%s:job:ep/j", tag());
}

/* ---- durability and loss --------------------------------------------------------------------- */

Test(store_redis, durability_is_what_the_configuration_of_redis_promises)
{
    open_store("");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(store_durability(&store), STORE_DURABLE);
    close_store();
    say("+OK", "CONFIG SET appendfsync everysec");
    open_store("");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(store_durability(&store), STORE_DURABLE_EVERYSEC);
    close_store();
    say("+OK", "CONFIG SET maxmemory-policy allkeys-lru");
    open_store("");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(store_durability(&store), STORE_NOT_DURABLE);
}

Test(store_redis, require_durable_refuses_at_the_start_and_later)
{
    char url[256];
    int exit_status = 0;
    char *problem;

    snprintf(url, sizeof url, "redis+unix://%s", redis_server.socket);
    say("+OK", "CONFIG SET appendfsync everysec");
    problem = try_open(url, "require_durable = true", &exit_status);
    cr_assert_not_null(problem);
    cr_assert_not_null(strstr(problem, "appendfsync"));
    cr_assert_eq(exit_status, EX_CONFIG);
    free(problem);
    close_store();
    /* Away at the start: it is found out at the first connection. */
    redis_server_stop(SIGKILL);
    open_store("require_durable = true");
    redis_server_start(directory, "appendfsync everysec");
    WAIT_UNTIL(faults(METRIC_STORE_FAULT_REFUSED) > 0);
    cr_assert_not(is_ready());
    say("+OK", "CONFIG SET appendfsync always");
    WAIT_UNTIL(is_ready());
}

Test(store_redis, a_restart_is_told_once_and_an_emptied_redis_as_such)
{
    open_store("");
    add_client(1);
    WAIT_UNTIL(is_ready());
    cr_assert_eq(losses[STORE_REDIS_EMPTIED] + losses[STORE_REDIS_REBORN], 0);
    redis_server_stop(SIGKILL);
    WAIT_UNTIL(!store_redis_is_ready(clients[0]->data) && !store_redis_is_ready(clients[1]->data));
    redis_server_start(directory, "");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(losses[STORE_REDIS_EMPTIED], 0);
    cr_assert_eq(losses[STORE_REDIS_REBORN], 1);
    say("+OK", "FLUSHALL");
    say(":", "CLIENT KILL TYPE normal SKIPME yes");
    WAIT_UNTIL(!is_ready());
    WAIT_UNTIL(is_ready());
    cr_assert_eq(losses[STORE_REDIS_EMPTIED], 1);
    cr_assert_eq(faults(METRIC_STORE_FAULT_EMPTIED), 2);
}

/* ---- what isn't podgate's -------------------------------------------------------------------- */

Test(store_redis, a_malformed_job_is_broken_and_leaves_the_schedule)
{
    static const char *const spoils[][2] = {
        {"HSET", "g abc"},      {"HSET", "s DONE"}, {"HSET", "f kept"},
        {"HSET", "v 2"},        {"HDEL", "t"},      {"HSET", "sm 99999999999999999999"},
        {"HSET", "dg -1 du x"},
    };
    char job[16];

    open_store("");
    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        snprintf(job, sizeof job, "bad-%zu", i);
        cr_assert_eq(adopt(job).result, STORE_OK);
        say(":", "%s podgate:%s:job:ep/%s %s", spoils[i][0], tag(), job, spoils[i][1]);
        cr_assert_eq(get(job), STORE_BROKEN, "%s", spoils[i][1]);
    }
    cr_assert_eq(adopt("good").result, STORE_OK);
    cr_assert_eq(claim().count, 1);
    cr_assert_gt(faults(METRIC_STORE_FAULT_MALFORMED), 0);
    cr_assert(is_ready());
    cr_assert_eq(put_of("ep", "good", "result").result, STORE_OK);
}

Test(store_redis, a_foreign_value_in_the_place_of_an_index_is_moved_aside)
{
    static const char *const indexes[] = {"due:ep",    "ready:ep",     "all",
                                          "team:team", "open:team/ep", "counts",
                                          "endpoints", "kept",         "expiry"};

    open_store("");
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes; i++) {
        say("+OK", "SET podgate:%s:%s foreign", tag(), indexes[i]);
    }
    cr_assert_eq(adopt("j").result, STORE_OK);
    cr_assert_eq(claim().count, 1);
    cr_assert_eq(put_of("ep", "j", "result").result, STORE_OK);
    cr_assert_eq(ASK(.operation = STORE_LIST_JOBS, .team = VIEW("team"), .limit = 10).count, 1);
    say("$7\r\nforeign", "GET podgate:%s:foreign:due:ep", tag());
}

Test(store_redis, a_schedule_that_was_lost_is_made_anew)
{
    open_store("");
    cr_assert_eq(adopt("j").result, STORE_OK);
    say(":1", "DEL podgate:%s:due:ep", tag());
    cr_assert_eq(claim().count, 0);
    WAIT_UNTIL(ASK(.operation = STORE_EXPIRE, .limit = 100).result == STORE_OK &&
               claim().count == 1);
}

Test(store_redis, a_result_that_redis_dropped_is_evicted_and_not_made_up)
{
    struct waiting waiting;

    open_store("");
    cr_assert_eq(adopt("j").result, STORE_OK);
    cr_assert_eq(put_of("ep", "j", "result").result, STORE_OK);
    say(":1", "DEL podgate:%s:result:ep/j", tag());
    waiting = ASK(.operation = STORE_GET_JOB, .endpoint = VIEW("ep"), .job = VIEW("j"),
                  .with_result = true);
    cr_assert_eq(waiting.result, STORE_OK);
    cr_assert_eq(waiting.job.fate, STORE_FATE_EVICTED);
    say("+OK", "SET podgate:%s:result:ep/j other", tag());
    waiting = ASK(.operation = STORE_GET_JOB, .endpoint = VIEW("ep"), .job = VIEW("j"),
                  .with_result = true);
    cr_assert_eq(waiting.result, STORE_BROKEN);
}

/* ---- asked again after a lost reply ---------------------------------------------------------- */

Test(store_redis, a_question_that_is_asked_again_has_no_second_effect)
{
    static const uint32_t lengths[] = {3, 4};
    struct body *chunks = body_create(&budget, 16);
    struct store_question append = {.operation = STORE_APPEND_CHUNKS,
                                    .endpoint = VIEW("ep"),
                                    .job = VIEW("j"),
                                    .generation = 1,
                                    .chunks = chunks,
                                    .chunk_lengths = lengths,
                                    .chunk_count = 2};
    struct store_question adoption = {.operation = STORE_ADOPT_JOB,
                                      .endpoint = VIEW("ep"),
                                      .job = VIEW("j"),
                                      .team = VIEW("team"),
                                      .key = VIEW("key"),
                                      .deadline_ms = 60000,
                                      .submit = {.id = VIEW("0123456789abcdef0123456789abcdef")}};

    cr_assert(body_append(chunks, VIEW("onetwo!")));
    open_store("");
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(ask_with(&adoption).result, STORE_OK);
        cr_assert_eq(ask_with(&append).result, STORE_OK);
        cr_assert_eq(put_of("ep", "j", "result").result, STORE_OK);
        cr_assert_eq(ASK(.operation = STORE_COUNT).bytes, 6 + 7);
        cr_assert_eq(ASK(.operation = STORE_GET_JOB, .endpoint = VIEW("ep"), .job = VIEW("j"))
                         .job.chunk_count,
                     2);
    }
    body_unref(chunks);
}

/* ---- over all shards ------------------------------------------------------------------------- */

static const char *const endpoints[] = {"ep-a", "ep-b", "ep-c", "ep-d", "ep-e", "ep-f"};
enum { ENDPOINTS = 6 };

Test(store_redis, the_oldest_results_of_all_endpoints_are_evicted_first)
{
    struct waiting waiting;

    open_store("");
    for (size_t i = 0; i < ENDPOINTS; i++) {
        char job[16];

        snprintf(job, sizeof job, "j-%zu", i);
        cr_assert_eq(ASK(.operation = STORE_ADOPT_JOB, .endpoint = view_of_string(endpoints[i]),
                         .job = view_of_string(job), .team = VIEW("team"), .key = VIEW("key"),
                         .deadline_ms = 60000)
                         .result,
                     STORE_OK);
        cr_assert_eq(put_of(endpoints[i], job, "0123456789").result, STORE_OK);
        redis_server_pass(10);
    }
    cr_assert_eq(ASK(.operation = STORE_COUNT).bytes, 60);
    waiting = ASK(.operation = STORE_EXPIRE, .limit = 100, .max_total_bytes = 35);
    cr_assert_eq(waiting.result, STORE_OK);
    cr_assert_eq(waiting.evicted, 3);
    cr_assert_eq(waiting.count, 3);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_lt(waiting.ids[i][2], '3', "%s is not one of the oldest", waiting.ids[i]);
    }
    cr_assert_eq(ASK(.operation = STORE_COUNT).bytes, 30);
}

Test(store_redis, lists_over_all_endpoints_are_newest_first)
{
    struct waiting waiting;

    open_store("");
    for (size_t i = 0; i < ENDPOINTS; i++) {
        char job[16];

        snprintf(job, sizeof job, "j-%zu", i);
        cr_assert_eq(ASK(.operation = STORE_ADOPT_JOB, .endpoint = view_of_string(endpoints[i]),
                         .job = view_of_string(job), .team = VIEW("team"), .key = VIEW("key"),
                         .deadline_ms = 60000)
                         .result,
                     STORE_OK);
        redis_server_pass(10);
    }
    waiting = ASK(.operation = STORE_LIST_JOBS, .team = VIEW("team"), .limit = 10);
    cr_assert_eq(waiting.count, ENDPOINTS);
    for (size_t i = 0; i < ENDPOINTS; i++) {
        cr_assert_eq(waiting.ids[i][2], (char)('5' - (char)i));
    }
}

/* ---- Sentinel -------------------------------------------------------------------------------- */

static pid_t run(const char *name, const char *text, bool is_sentinel)
{
    char path[300];
    FILE *file;
    pid_t process;

    snprintf(path, sizeof path, "%s/%s.conf", directory, name);
    file = fopen(path, "w");
    fprintf(file, "%s\ndir %s\nlogfile %s/%s.log\n", text, directory, directory, name);
    fclose(file);
    process = fork();
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-server", "redis-server", path, is_sentinel ? "--sentinel" : (char *)NULL,
               (char *)NULL);
        _exit(127);
    }
    return process;
}

/* A port that was free a moment ago. */
static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(bind(descriptor, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(getsockname(descriptor, (struct sockaddr *)&address, &length), 0);
    close(descriptor);
    return ntohs(address.sin_port);
}

/* Asks the server at `port` until its answer holds `wanted`. */
static void wait_for(unsigned port, const char *command, const char *wanted)
{
    uint64_t until_ms = redis_server_real_ms() + FOREVER_MS;
    bool has = false;

    while (!has) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)port),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        char answer[8192];
        ssize_t count = -1;

        cr_assert_lt(redis_server_real_ms(), until_ms, "%s never says %s", command, wanted);
        if (connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0 &&
            send(descriptor, command, strlen(command), MSG_NOSIGNAL) > 0) {
            count = recv(descriptor, answer, sizeof answer - 1, 0);
        }
        close(descriptor);
        if (count > 0) {
            answer[count] = '\0';
            has = strstr(answer, wanted) != NULL;
        }
        step();
    }
}

static void end(pid_t process)
{
    kill(process, SIGKILL);
    waitpid(process, NULL, 0);
}

Test(store_redis, sentinel_names_the_master_before_and_after_a_failover)
{
    unsigned ports[3] = {free_port(), free_port(), free_port()};
    pid_t processes[3];
    char text[600];
    char url[128];

    snprintf(text, sizeof text, "port %u\nbind 127.0.0.1\nsave \"\"\nrepl-diskless-sync-delay 0\n",
             ports[0]);
    processes[0] = run("master", text, false);
    snprintf(text, sizeof text, "port %u\nbind 127.0.0.1\nsave \"\"\nreplicaof 127.0.0.1 %u\n",
             ports[1], ports[0]);
    processes[1] = run("replica", text, false);
    wait_for(ports[0], "INFO replication\r\n", "state=online");
    snprintf(text, sizeof text,
             "port %u\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 %u 1\n"
             "sentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 2000\n",
             ports[2], ports[0]);
    processes[2] = run("sentinel", text, true);
    /* The first Sentinel of the list isn't there; the second one is asked. */
    snprintf(url, sizeof url, "redis+sentinel://127.0.0.1:1,127.0.0.1:%u/shop", ports[2]);
    open_with(url, "");
    WAIT_UNTIL(is_ready());
    cr_assert_eq(adopt("j").result, STORE_OK);
    snprintf(text, sizeof text, "EXISTS podgate:%s:job:ep/j\r\n", tag());
    wait_for(ports[1], text, ":1");
    wait_for(ports[2], "INFO sentinel\r\n", "slaves=1");
    end(processes[0]);
    WAIT_UNTIL(!is_ready());
    WAIT_UNTIL(is_ready());
    cr_assert_eq(get("j"), STORE_OK);
    cr_assert_eq(adopt("k").result, STORE_OK);
    cr_assert_geq(losses[STORE_REDIS_REBORN], 1);
    end(processes[1]);
    end(processes[2]);
}

/* ---- the doctor ------------------------------------------------------------------------------ */

static char findings[2048];

static void on_finding(void *argument, enum store_doctor_level level, const char *what,
                       const char *text)
{
    static const char *const levels[] = {"GOOD", "WARNING", "BAD"};
    size_t length = strlen(findings);

    (void)argument;
    snprintf(findings + length, sizeof findings - length, "%s %s: %s\n", levels[level], what, text);
}

static bool found(const char *text)
{
    return strstr(findings, text) != NULL;
}

Test(store_redis, the_doctor_says_what_is_wrong_and_what_to_do)
{
    open_store("");
    store_redis_doctor(config, on_finding, NULL);
    cr_assert(found("GOOD connection") && found("GOOD version") && found("GOOD persistence") &&
                  found("GOOD eviction") && found("GOOD clock") && found("GOOD writing"),
              "%s", findings);
    say("+OK", "CONFIG SET appendfsync everysec");
    say("+OK", "CONFIG SET maxmemory-policy volatile-lru");
    say("+OK", "CONFIG SET maxmemory 1");
    findings[0] = '\0';
    store_redis_doctor(config, on_finding, NULL);
    cr_assert(found("WARNING persistence: appendfsync everysec") && found("BAD eviction") &&
                  found("BAD writing"),
              "%s", findings);
    redis_server_stop(SIGKILL);
    findings[0] = '\0';
    store_redis_doctor(config, on_finding, NULL);
    cr_assert(found("BAD connection"), "%s", findings);
}

/* ---- fault points ---------------------------------------------------------------------------- */

#ifdef PODGATE_FAULTS
static void survive(const char *rules)
{
    const char *problem = NULL;

    cr_assert(fault_load(rules, &problem), "%s", problem);
    open_store("");
    for (int i = 0; i < 12; i++) {
        char job[16];
        enum store_result result;

        snprintf(job, sizeof job, "j-%d", i);
        result = adopt(job).result;
        cr_assert(result == STORE_OK || store_failed(result), "%s: %s", rules,
                  store_result_text(result));
        WAIT_UNTIL(is_ready());
        /* Whatever it said: asked again it is there once. */
        result = adopt(job).result;
        cr_assert(result == STORE_OK || result == STORE_OWNED || store_failed(result));
    }
    cr_assert(fault_load(NULL, &problem));
    WAIT_UNTIL(is_ready());
    cr_assert_eq(adopt("last").result, STORE_OK);
    close_store();
    say("+OK", "FLUSHALL");
}

Test(store_redis, each_connection_read_and_write_may_fail_once)
{
    static const char *const points[] = {"store.redis.connect", "store.redis.write",
                                         "store.redis.read"};
    char rules[64];

    for (size_t point = 0; point < 3; point++) {
        for (unsigned pass = 1; pass <= 24; pass += pass < 14 ? 1 : 5) {
            snprintf(rules, sizeof rules, "%s=ECONNRESET@%u", points[point], pass);
            survive(rules);
        }
    }
}
#endif
