#include "build_config.h"

#include "store/store_spool.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"

/* Which question goes to Redis and which to the spool. */

/* What can be done with a question while Redis is away. */
enum policy {
    POLICY_REDIS,     /* nothing: it needs what only Redis knows */
    POLICY_SUBMIT,    /* recorded, if it has no idempotency key to be kept apart from others' */
    POLICY_JOB_READ,  /* answered, if the job is one of ours */
    POLICY_JOB_PLAN,  /* done, if it is one of ours; Redis needn't know */
    POLICY_JOB_WRITE, /* done, if it is one of ours; Redis is told later */
    POLICY_SCHEDULE,  /* our own jobs go on */
    POLICY_COUNT,
    POLICY_EXPIRE, /* nothing to do: Redis expires by itself */
};

static enum policy policy_of(enum store_operation operation)
{
    switch (operation) {
    case STORE_MARK_SENT:
    case STORE_SETTLE_SUBMIT: return POLICY_SUBMIT;
    case STORE_GET_JOB:
    case STORE_READ_CHUNKS:
    case STORE_GET_CURSOR: return POLICY_JOB_READ;
    case STORE_CLAIM_JOB:
    case STORE_RESCHEDULE: return POLICY_JOB_PLAN;
    case STORE_PUT_RESULT:
    case STORE_RETRY_JOB:
    case STORE_DELETE_RESULT:
    case STORE_SHORTEN:
    case STORE_APPEND_CHUNKS:
    case STORE_SET_CURSOR: return POLICY_JOB_WRITE;
    case STORE_CLAIM_DUE:
    case STORE_LIST_ENDPOINTS: return POLICY_SCHEDULE;
    case STORE_COUNT: return POLICY_COUNT;
    case STORE_EXPIRE: return POLICY_EXPIRE;
    case STORE_CLAIM_SUBMIT:
    case STORE_LIST_UNKNOWN:
    case STORE_RESOLVE_SUBMIT:
    case STORE_FIND_DUPLICATE:
    case STORE_ADOPT_JOB:
    case STORE_LIST_JOBS:
    case STORE_MARK_PURGED:
    case STORE_CLAIM_CANCELS:
    case STORE_CLEAR_CANCEL:
    case STORE_OPERATIONS: return POLICY_REDIS;
    }
    return POLICY_REDIS;
}

static bool is_about_job(enum policy policy)
{
    return policy == POLICY_JOB_READ || policy == POLICY_JOB_PLAN || policy == POLICY_JOB_WRITE;
}

static bool is_retry(const struct store_question *question)
{
    return question->operation == STORE_SETTLE_SUBMIT &&
           question->submit.operation == STORE_SUBMIT_RETRY;
}

/* The job that a question is about, or none. */
static struct view job_of(const struct store_question *question)
{
    return question->operation == STORE_SETTLE_SUBMIT ? question->submit.job : question->job;
}

static struct view endpoint_of(const struct store_question *question)
{
    return question->operation == STORE_SETTLE_SUBMIT ? question->submit.endpoint
                                                      : question->endpoint;
}

static void clear_reply(struct store_call *call, enum store_result result)
{
    body_unref(call->reply.body);
    free(call->reply_memory);
    call->reply_memory = NULL;
    memset(&call->reply, 0, sizeof call->reply);
    call->reply.now_ms = clock_wall_ms();
    call->reply.result = result;
}

/* ---- questions of the spool's own ------------------------------------------------------------ */

bool spool_ask_file(struct spool_client *client, const struct store_question *question,
                    store_done *done, void *argument)
{
    struct store_call *call = store_call_create(client->client, question, done, argument);

    if (call) {
        embedded_start_call(client->spool->embedded, call);
    }
    return call != NULL;
}

bool spool_ask_redis(struct spool_client *client, const struct store_question *question,
                     store_done *done, void *argument)
{
    struct store_call *call = store_call_create(client->client, question, done, argument);

    if (call) {
        store_redis_backend.start(client->redis, call);
    }
    return call != NULL;
}

static void ignore(UNUSED void *argument, UNUSED const struct store_reply *reply)
{
}

/* The spool gets a row of the job; what is asked of it next comes behind that. */
static void enter(struct spool_client *client, const struct store_question *about)
{
    struct store_question question;
    char *memory;

    if (spool_take_one(client->spool, endpoint_of(about), job_of(about), &question, &memory)) {
        /* Without memory the job stays absent there: the question itself will say so. */
        (void)!spool_ask_file(client, &question, ignore, NULL);
        free(memory);
    }
}

/* ---- what is learnt -------------------------------------------------------------------------- */

/* A job as a settled submit or a retry made it. */
static struct store_job settled_job(const struct store_question *question, uint64_t now_ms)
{
    bool is_again = is_retry(question) || question->operation == STORE_RETRY_JOB;
    struct store_job job = {
        .endpoint = endpoint_of(question),
        .id = job_of(question),
        .upstream_id = question->upstream_id.length > 0 ? question->upstream_id : job_of(question),
        .team = question->submit.team,
        .key = question->submit.key,
        .kind = question->kind,
        .state = is_again ? JOB_IN_QUEUE : question->state,
        .generation = is_again ? question->generation + 1 : 1,
        .submitted_ms = now_ms,
        .ttl_ms = question->ttl_ms,
        .due_ms = embedded_add(now_ms, question->due_ms),
        .deadline_ms = embedded_add(now_ms, question->deadline_ms),
    };

    return job;
}

static void remember_jobs(struct spool *spool, const struct store_reply *reply)
{
    uint64_t now_ms = clock_wall_ms();

    for (size_t i = 0; i < reply->count; i++) {
        spool_remember(spool, &reply->jobs[i], false);
    }
    if (atomic_load(&spool->pruned_ms) + SPOOL_CLEAN_MS < now_ms) {
        atomic_store(&spool->pruned_ms, now_ms);
        spool_prune(spool);
    }
}

static void remember_settled(struct spool *spool, const struct store_question *question,
                             const struct store_reply *reply)
{
    struct store_job job;

    if (question->submit.state == STORE_SUBMIT_KNOWN && !job_state_is_terminal(question->state)) {
        job = settled_job(question, reply->now_ms);
        spool_remember(spool, &job, false);
    }
}

/* What was deleted must not come back when the spool is told to Redis again. */
static void tell_file(struct spool_client *client, const struct store_question *question)
{
    if (atomic_load(&client->spool->has_kept)) {
        (void)!spool_ask_file(client, question, ignore, NULL);
    }
}

/* What an answer of Redis says of our own jobs. */
static void learn(struct spool_client *client, const struct store_call *call)
{
    struct spool *spool = client->spool;
    const struct store_question *question = &call->question;
    const struct store_reply *reply = &call->reply;
    bool is_ok = reply->result == STORE_OK;

    switch (question->operation) {
    case STORE_SETTLE_SUBMIT:
        if (is_ok) {
            remember_settled(spool, question, reply);
        }
        break;
    case STORE_CLAIM_DUE: remember_jobs(spool, reply); break;
    case STORE_RESCHEDULE:
        if (is_ok) {
            spool_note_plan(spool, question, reply->now_ms);
        }
        break;
    case STORE_CLAIM_JOB:
    case STORE_RETRY_JOB:
        if (is_ok && reply->job.id.length > 0) {
            spool_remember(spool, &reply->job, false);
        }
        break;
    case STORE_PUT_RESULT:
        if (is_ok) {
            spool_forget(spool, question->endpoint, question->job);
        }
        break;
    case STORE_GET_JOB:
        if (is_ok && job_state_is_terminal(reply->job.state)) {
            spool_forget(spool, question->endpoint, question->job);
        }
        break;
    case STORE_DELETE_RESULT:
    case STORE_SHORTEN:
        if (is_ok) {
            tell_file(client, question);
        }
        break;
    case STORE_CLAIM_SUBMIT:
    case STORE_MARK_SENT:
    case STORE_LIST_UNKNOWN:
    case STORE_RESOLVE_SUBMIT:
    case STORE_FIND_DUPLICATE:
    case STORE_ADOPT_JOB:
    case STORE_LIST_JOBS:
    case STORE_LIST_ENDPOINTS:
    case STORE_MARK_PURGED:
    case STORE_CLAIM_CANCELS:
    case STORE_CLEAR_CANCEL:
    case STORE_APPEND_CHUNKS:
    case STORE_READ_CHUNKS:
    case STORE_GET_CURSOR:
    case STORE_SET_CURSOR:
    case STORE_EXPIRE:
    case STORE_COUNT:
    case STORE_OPERATIONS: break;
    }
}

/* ---- to the spool ---------------------------------------------------------------------------- */

static void note_news(struct spool_client *client, struct store_call *call)
{
    call->reply.spooled = true;
    atomic_fetch_add(&client->spool->news_count, 1);
    spool_wake_drainer(client);
}

static void settled_there(struct spool_client *client, struct store_call *call)
{
    const struct store_question *question = &call->question;
    struct spool *spool = client->spool;
    struct store_job job;

    if (call->reply.result != STORE_OK) {
        return;
    }
    spool_drop_sent(spool, question->submit.id);
    if (question->submit.state == STORE_SUBMIT_KNOWN) {
        job = settled_job(question, call->reply.now_ms);
        spool_remember_news(spool, &job, !is_retry(question));
    }
    if (question->submit.state != STORE_SUBMIT_REFUSED) {
        note_news(client, call);
    }
}

/* True: the spool's row has only what came since the outage began, and Redis has the rest. */
static bool lacks_beginning(const struct spool_client *client, const struct store_call *call)
{
    const struct store_question *question = &call->question;
    struct spool_standing standing =
        spool_standing_of(client->spool, question->endpoint, question->job);

    if (call->reply.result == STORE_ABSENT) {
        return true;
    }
    if (standing.is_whole) {
        return false;
    }
    return (question->operation == STORE_READ_CHUNKS && call->reply.result == STORE_BROKEN) ||
           (question->operation == STORE_GET_CURSOR && call->reply.result == STORE_OK &&
            call->reply.cursor_position == 0 && !call->reply.cursor_ended);
}

static bool after_file(struct store_call *call)
{
    struct spool_client *client = call->before_end_argument;
    const struct store_question *question = &call->question;
    enum policy policy = policy_of(question->operation);
    bool is_ok = call->reply.result == STORE_OK;

    if (policy == POLICY_JOB_WRITE || policy == POLICY_JOB_PLAN || is_retry(question)) {
        spool_end_write(client->spool, endpoint_of(question), job_of(question),
                        is_ok && policy == POLICY_JOB_WRITE);
    }
    if (is_ok && policy == POLICY_JOB_WRITE) {
        note_news(client, call);
    } else if (is_about_job(policy) && lacks_beginning(client, call)) {
        if (policy == POLICY_JOB_READ && !call->was_at_redis &&
            store_redis_is_ready(client->redis)) {
            clear_reply(call, STORE_OK);
            store_redis_backend.start(client->redis, call);
            return true;
        }
        if (!call->was_at_redis) {
            clear_reply(call, STORE_AWAY);
        }
    }
    if (question->operation == STORE_MARK_SENT && is_ok) {
        spool_note_sent(client->spool, question->submit.id);
        call->reply.spooled = true;
    }
    if (question->operation == STORE_SETTLE_SUBMIT) {
        settled_there(client, call);
    }
    if (policy == POLICY_COUNT) {
        call->reply.counts.spooled = atomic_load(&client->spool->news_count);
    }
    return false;
}

static void to_file(struct spool_client *client, struct store_call *call)
{
    const struct store_question *question = &call->question;
    enum policy policy = policy_of(question->operation);

    if (policy == POLICY_JOB_WRITE || policy == POLICY_JOB_PLAN || is_retry(question)) {
        spool_begin_write(client->spool, endpoint_of(question), job_of(question));
    }
    call->before_end = after_file;
    call->before_end_argument = client;
    embedded_start_call(client->spool->embedded, call);
}

/* True: the spool answers, now that Redis doesn't. */
static bool may_use_file(struct spool_client *client, const struct store_question *question)
{
    bool is_ours = false;

    switch (policy_of(question->operation)) {
    case POLICY_REDIS:
    case POLICY_EXPIRE: return false;
    case POLICY_SCHEDULE: spool_import_known(client); return true;
    case POLICY_COUNT: return true;
    case POLICY_SUBMIT:
        if (question->operation == STORE_MARK_SENT) {
            return question->fence == 0 && question->submit.idempotency_key.length == 0;
        }
        if (!is_retry(question)) {
            return true;
        }
        break;
    case POLICY_JOB_READ:
    case POLICY_JOB_PLAN:
    case POLICY_JOB_WRITE: break;
    }
    is_ours = spool_standing_of(client->spool, endpoint_of(question), job_of(question)).is_known;
    if (is_ours) {
        enter(client, question);
    }
    return is_ours;
}

/* ---- to Redis -------------------------------------------------------------------------------- */

/* Whether a failure means that the spool should take the question. What may have been written there
 * is written again when the spool is drained, to the same effect. */
static bool is_for_file(const struct store_question *question, enum store_result result)
{
    if (result == STORE_AWAY || result == STORE_FULL) {
        return true;
    }
    if (result != STORE_TIMED_OUT) {
        return false;
    }
    switch (policy_of(question->operation)) {
    case POLICY_SUBMIT:
    case POLICY_JOB_READ:
    case POLICY_JOB_WRITE: return true;
    case POLICY_REDIS:
    case POLICY_JOB_PLAN:
    case POLICY_SCHEDULE:
    case POLICY_COUNT:
    case POLICY_EXPIRE: return false;
    }
    return false;
}

static bool after_redis(struct store_call *call)
{
    struct spool_client *client = call->before_end_argument;
    const struct store_question *question = &call->question;
    enum store_result result = call->reply.result;
    bool has_answered = !store_failed(result);

    if (has_answered) {
        atomic_store(&client->spool->heard_ms, clock_wall_ms());
        learn(client, call);
        if (question->operation == STORE_COUNT) {
            call->reply.counts.spooled = atomic_load(&client->spool->news_count);
        }
    }
    if (result == STORE_ABSENT && policy_of(question->operation) == POLICY_JOB_READ &&
        atomic_load(&client->spool->is_used)) {
        /* Not drained yet, or Redis came back empty. */
        clear_reply(call, STORE_OK);
        call->was_at_redis = true;
        call->deadline_ms = clock_mono_ms() + STORE_TIMEOUT_MS;
        to_file(client, call);
        return true;
    }
    if (is_for_file(question, result) && may_use_file(client, question)) {
        clear_reply(call, STORE_OK);
        call->deadline_ms = clock_mono_ms() + STORE_TIMEOUT_MS;
        to_file(client, call);
        return true;
    }
    return false;
}

static void to_redis(struct spool_client *client, struct store_call *call)
{
    call->before_end = after_redis;
    call->before_end_argument = client;
    store_redis_backend.start(client->redis, call);
}

/* True: the spool knows more of what is asked than Redis does. */
static bool is_the_spools(struct spool *spool, const struct store_question *question)
{
    enum policy policy = policy_of(question->operation);

    if (!atomic_load(&spool->is_used)) {
        return false;
    }
    if (question->operation == STORE_SETTLE_SUBMIT && spool_has_sent(spool, question->submit.id)) {
        return true;
    }
    return (is_about_job(policy) || is_retry(question)) &&
           spool_standing_of(spool, endpoint_of(question), job_of(question)).is_news;
}

/* Not while the first attempt to connect is still under way: until then Redis holds questions. */
static bool is_away(const struct spool_client *client)
{
    const struct redis_client *redis = client->redis;

    return !store_redis_is_ready(redis) && redis->link.was_tried;
}

static void start(void *client_data, struct store_call *call)
{
    struct spool_client *client = client_data;
    const struct store_question *question = &call->question;

    if (!client->spool->embedded) {
        store_redis_backend.start(client->redis, call);
    } else if (is_the_spools(client->spool, question)) {
        to_file(client, call);
    } else if (!is_away(client)) {
        to_redis(client, call);
    } else if (may_use_file(client, question)) {
        to_file(client, call);
    } else {
        clear_reply(call, question->operation == STORE_EXPIRE ? STORE_OK : STORE_AWAY);
        store_call_post(call);
    }
}

/* ---- the process's part ---------------------------------------------------------------------- */

static void on_loss(void *argument, enum store_redis_loss loss)
{
    struct spool *spool = argument;
    int before = atomic_load(&spool->loss);

    /* STORE_REDIS_EMPTIED is the graver one, and the lower. */
    if (before == 0 || before > 1 + (int)loss) {
        atomic_store(&spool->loss, 1 + (int)loss);
    }
}

static void load_job(void *argument, const struct store_job *job)
{
    spool_remember_news(argument, job, false);
}

static bool open_file(struct spool *spool, const struct config *config, char **problem,
                      int *exit_status)
{
    struct view path = config->store.path;
    uint64_t count;
    char *name;

    if (asprintf(&name, "%.*s.spool", (int)path.length, path.data) < 0) {
        return false;
    }
    spool->embedded = embedded_open(spool->store, view_of_string(name), true, problem, exit_status);
    free(name);
    if (!spool->embedded) {
        return false;
    }
    if (!embedded_visit_spooled(spool->embedded, load_job, spool, &count)) {
        *problem = strdup("store: the spool can't be read");
        *exit_status = EX_DATAERR;
        return false;
    }
    atomic_store(&spool->news_count, count);
    atomic_store(&spool->is_used, count > 0);
    atomic_store(&spool->has_kept, true);
    return true;
}

static void destroy(void *data)
{
    struct spool *spool = data;

    if (spool->redis) {
        store_redis_backend.destroy(spool->redis);
    }
    embedded_close(spool->embedded);
    spool_clear_jobs(spool);
    pthread_mutex_destroy(&spool->lock);
    free(spool);
}

static void *create(struct store *store, const struct config *config, char **problem,
                    int *exit_status)
{
    struct spool *spool = calloc(1, sizeof *spool);
    bool is_made;

    *problem = NULL;
    *exit_status = EX_OSERR;
    if (!spool) {
        *problem = strdup("store: out of memory");
        return NULL;
    }
    spool->store = store;
    pthread_mutex_init(&spool->lock, NULL);
    spool->jobs = table_create();
    spool->sent = table_create();
    is_made = spool->jobs && spool->sent;
    if (!is_made) {
        *problem = strdup("store: out of memory");
    }
    is_made = is_made && (config->store.on_outage != CONFIG_ON_OUTAGE_SPOOL ||
                          open_file(spool, config, problem, exit_status));
    if (is_made) {
        spool->redis = store_redis_backend.create(store, config, problem, exit_status);
    }
    if (!spool->redis) {
        destroy(spool);
        return NULL;
    }
    store_redis_watch_loss(spool->redis, on_loss, spool);
    return spool;
}

static void adopt(void *data, const struct config *config)
{
    struct spool *spool = data;

    store_redis_backend.adopt(spool->redis, config);
}

static enum store_state state(const void *data)
{
    const struct spool *spool = data;
    enum store_state redis = store_redis_backend.state(spool->redis);

    if (redis == STORE_STATE_READY || !spool->embedded) {
        return redis;
    }
    return embedded_state(spool->embedded) == STORE_STATE_READY ? STORE_STATE_SPOOLING
                                                                : STORE_STATE_AWAY;
}

static enum store_durability durability(const void *data)
{
    const struct spool *spool = data;

    return store_redis_backend.durability(spool->redis);
}

/* ---- a loop's part --------------------------------------------------------------------------- */

static void on_timer(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct spool_client *client = argument;

    client->timer_runs = false;
    client->drain_wanted = false;
    if (atomic_load(&client->spool->is_used) || atomic_load(&client->spool->loss)) {
        spool_drain(client);
    } else if (atomic_load(&client->spool->has_kept)) {
        spool_clean(client);
    }
}

void spool_wake_drainer(struct spool_client *client)
{
    static const struct timeval round = {0, SPOOL_ROUND_MS * 1000};

    /* Also when it runs for the cleaner, which comes much later. */
    if (!client->drain_wanted && client->timer) {
        client->drain_wanted = client->timer_runs = event_add(client->timer, &round) == 0;
    }
}

void spool_wake_cleaner(struct spool_client *client)
{
    static const struct timeval round = {SPOOL_CLEAN_MS / 1000, 0};

    if (!client->timer_runs && client->timer) {
        client->timer_runs = event_add(client->timer, &round) == 0;
    }
}

static void on_state(void *argument, bool is_ready)
{
    struct spool_client *client = argument;

    if (is_ready && (atomic_load(&client->spool->is_used) || atomic_load(&client->spool->loss))) {
        spool_wake_drainer(client);
    }
}

static void destroy_client(void *client_data)
{
    struct spool_client *client = client_data;

    if (client->redis) {
        /* What it fails still goes to the spool. */
        store_redis_backend.destroy_client(client->redis);
    }
    if (client->spool->embedded) {
        embedded_drain_client(client->spool->embedded, client->client);
    }
    spool_end_drainer(client);
    if (client->timer) {
        event_free(client->timer);
    }
    free(client);
}

static void *create_client(void *data, struct store_client *client)
{
    struct spool_client *made = calloc(1, sizeof *made);

    if (!made) {
        return NULL;
    }
    made->spool = data;
    made->client = client;
    made->timer = event_new(loop_base(client->loop), -1, 0, on_timer, made);
    made->redis = store_redis_backend.create_client(made->spool->redis, client);
    if (!made->timer || !made->redis) {
        destroy_client(made);
        return NULL;
    }
    if (made->spool->embedded) {
        store_redis_watch_state(made->redis, on_state, made);
        spool_wake_cleaner(made);
    }
    return made;
}

const struct store_backend store_spool_backend = {
    .name = "spool",
    .create = create,
    .destroy = destroy,
    .adopt = adopt,
    .create_client = create_client,
    .destroy_client = destroy_client,
    .start = start,
    .state = state,
    .durability = durability,
    .is_shared = true,
};
