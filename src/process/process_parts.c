#include "build_config.h"

#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "gateway/admission.h"
#include "gateway/collector.h"
#include "model/metric_catalogue.h"
#include "net/socket_passing.h"
#include "process/operator.h"
#include "process/process.h"
#include "process/process_private.h"
#include "store/hot_cache.h"
#include "store/input_vault.h"
#include "store/result_codec.h"
#include "store/store.h"

/* What is made once for the process, in its order, and how it ends. */

enum {
    MAIN_RING_BYTES = 64 * 1024,
    SPARE_DESCRIPTORS = 64,
    SPARE_PER_WORKER = 6, /* a reserve, name servers, the store, a file that is read again */
};

/* Standard error is the journal's: it has its own time, and takes priorities. */
static bool is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat info;
    char own[64];

    if (!stream || fstat(STDERR_FILENO, &info) != 0) {
        return false;
    }
    snprintf(own, sizeof own, "%llu:%llu", (unsigned long long)info.st_dev,
             (unsigned long long)info.st_ino);
    return strcmp(own, stream) == 0;
}

/* ---- what is made once ----------------------------------------------------------------------- */

void process_complain(const char *problem)
{
    fprintf(stderr, "podgate: %s\n", problem ? problem : "out of memory");
}

void process_protect(void)
{
    /* A caller's or the upstream's broken connection is an error of that write, not a signal. */
    signal(SIGPIPE, SIG_IGN);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    /* No core dump and no debugger of the same user can read the keys. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

/* By hand, the soft limit of descriptors is often 1024. Under the unit it is right already, and
 * this makes no call, which its system-call filter would forbid. */
void process_raise_descriptor_limit(const struct config *config)
{
    rlim_t wanted =
        (rlim_t)config->memory.connections + config->upstream.max_connections + SPARE_DESCRIPTORS;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted ||
        limit.rlim_cur >= limit.rlim_max) {
        return;
    }
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        fprintf(stderr, "podgate: can't raise the limit of open files: it stays as it is\n");
    }
}

/* Callers must not take the descriptors that their own requests need on the way up: what the limit
 * leaves is shared out before anybody is served. Beyond their share callers get 503. */
void process_share_descriptors(struct process *process)
{
    const struct config *config = process->config;
    rlim_t upstream = config->upstream.max_connections;
    rlim_t left;
    rlim_t taken = SPARE_PER_WORKER * (process->worker_count + 2);
    struct rlimit limit;
    /* The lowest number that is free says how many are open. */
    int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);

    if (lowest < 0) {
        return; /* the listener pauses when there are none left */
    }
    close(lowest);
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    taken += (rlim_t)lowest;
    left = limit.rlim_cur > taken ? limit.rlim_cur - taken : 1;
    upstream = upstream < left / 4 ? upstream : left / 4;
    if (left - upstream < config->memory.connections) {
        struct log_line *line = log_begin(process->ring, LOG_LEVEL_WARNING, "connections_capped");

        connection_limits_cap(process->shared.limits, (uint32_t)(left - upstream));
        log_number(line, "maximum", left - upstream);
        log_number(line, "configured", config->memory.connections);
        log_number(line, "open_files_limit", limit.rlim_cur);
        log_end(line);
    }
}

static size_t count_workers(const struct config *config)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (config->workers > 0) {
        return config->workers;
    }
    return cores > 0 ? (size_t)cores : 1;
}

static bool wants_tls(const struct config *config)
{
    for (size_t i = 0; i < config->listen_count; i++) {
        if (config->listen[i].tls) {
            return true;
        }
    }
    return false;
}

/* Both are NULL when false is returned; the problem has been told. `tls` stays NULL when no address
 * needs it. */
static bool load_secrets(const struct config *config, struct upstream_identity **identity,
                         struct tls_server **tls)
{
    char *problem = NULL;

    *tls = NULL;
    *identity = upstream_identity_create(config, &problem);
    if (*identity && wants_tls(config)) {
        *tls = tls_server_create(config, &problem);
        if (!*tls) {
            upstream_identity_destroy(*identity);
            *identity = NULL;
        }
    }
    if (!*identity) {
        process_complain(problem);
        free(problem);
        return false;
    }
    return true;
}

/* NULL: the problem has been told. */
static struct input_vault *load_vault(const struct config *config)
{
    char *problem = NULL;
    struct input_vault *vault = input_vault_create(config, &problem);

    if (!vault) {
        process_complain(problem);
    }
    free(problem);
    return vault;
}

bool process_check(const struct config *config)
{
    struct upstream_identity *identity;
    struct tls_server *tls;
    struct input_vault *vault;

    if (!load_secrets(config, &identity, &tls)) {
        return false;
    }
    tls_server_destroy(tls);
    upstream_identity_destroy(identity);
    vault = load_vault(config);
    input_vault_destroy(vault);
    return vault != NULL;
}

static int create_shared(struct process *process)
{
    struct config *config = process->config;
    struct worker_shared *shared = &process->shared;

    process->log = log_create(STDERR_FILENO, config->log.format, config->log.level, is_journal());
    process->metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    process->loop = loop_create();
    process->key_states = key_state_table_create();
    if (!process->log || !process->metrics || !process->loop || !process->key_states ||
        !config_adopt(config, process->key_states)) {
        process_complain(NULL);
        return EX_OSERR;
    }
    process->ring = log_ring_create(process->log, MAIN_RING_BYTES);
    atomic_store(&process->budget.maximum_bytes, (size_t)config->memory.bodies_bytes);
    shared->log = process->log;
    shared->metrics = process->metrics;
    shared->limits = connection_limits_create(config);
    shared->gateways.budget = &process->budget;
    shared->gateways.failed_attempts = failed_attempts_create();
    if (!load_secrets(config, &shared->gateways.identity, &shared->tls)) {
        return EX_CONFIG;
    }
    shared->gateways.input_vault = load_vault(config);
    if (!shared->gateways.input_vault) {
        return EX_CONFIG;
    }
    return process->ring && shared->limits && shared->gateways.failed_attempts ? EX_OK : EX_OSERR;
}

static int create_store(struct process *process)
{
    struct gateway_shared *gateways = &process->shared.gateways;
    const struct config *config = process->config;
    char *problem = NULL;
    int exit_status = EX_OSERR;

    process->metrics_block = metrics_block_create(process->metrics);
    gateways->store = store_create(config, &process->budget, process->metrics, process->log,
                                   &problem, &exit_status);
    if (!gateways->store) {
        process_complain(problem);
        free(problem);
        return exit_status;
    }
    gateways->hot_cache = hot_cache_create(config->memory.hot_results_bytes);
    gateways->codec = result_codec_create(&process->budget);
    if (process->metrics_block) {
        process->store_client = store_client_create(gateways->store, process->loop,
                                                    process->metrics_block, process->ring);
    }
    if (process->store_client) {
        gateways->collector = collector_create(gateways, process->loop, process->store_client,
                                               process->metrics_block, process->ring, config);
    }
    if (!gateways->hot_cache || !gateways->codec || !gateways->collector) {
        process_complain(NULL);
        return EX_OSERR;
    }
    return EX_OK;
}

static int create_listeners(struct process *process)
{
    struct socket_passing passed = {0};
    const char *wrong = NULL;
    char *problem = NULL;

    if (!socket_passing_take(&passed, &wrong)) {
        process_complain(wrong);
        return EX_USAGE;
    }
    process->shared.listeners =
        listener_set_create(process->config, process->worker_count, &passed, &problem);
    if (!process->shared.listeners) {
        process_complain(problem);
        free(problem);
        return EX_UNAVAILABLE;
    }
    if (socket_passing_unclaimed(&passed)) {
        /* Its callers would wait for ever: better no start than a silent one. */
        fprintf(stderr,
                "podgate: a socket passed by the service manager (%.*s) is in no listen entry "
                "of the configuration\n",
                (int)socket_passing_unclaimed(&passed)->name_length,
                socket_passing_unclaimed(&passed)->name);
        return EX_CONFIG;
    }
    return EX_OK;
}

static int create_workers(struct process *process)
{
    struct gateway_shared *gateways = &process->shared.gateways;

    process->workers = calloc(process->worker_count, sizeof *process->workers);
    gateways->gateways = calloc(process->worker_count, sizeof *gateways->gateways);
    gateways->gateway_count = process->worker_count;
    if (!process->workers || !gateways->gateways) {
        process_complain(NULL);
        return EX_OSERR;
    }
    for (size_t i = 0; i < process->worker_count; i++) {
        process->workers[i] = worker_create(&process->shared, i, process->config);
        if (!process->workers[i]) {
            process_complain("a worker can't be made: out of memory or descriptors");
            return EX_OSERR;
        }
    }
    return EX_OK;
}

static void flush_workers(struct process *process)
{
    for (size_t i = 0; i < 2 * process->worker_count && process->workers; i++) {
        if (process->workers[i % process->worker_count]) {
            worker_flush(process->workers[i % process->worker_count]);
        }
    }
}

int process_create_parts(struct process *process)
{
    int (*const steps[])(struct process *) = {create_shared, create_listeners, create_store,
                                              create_workers};
    int status = EX_OK;

    process->worker_count = count_workers(process->config);
    for (size_t i = 0; i < ARRAY_LENGTH(steps) && status == EX_OK; i++) {
        status = steps[i](process);
    }
    return status;
}

static void destroy_store(struct process *process)
{
    struct gateway_shared *gateways = &process->shared.gateways;

    collector_destroy(gateways->collector);
    if (process->loop) {
        loop_flush_mail(process->loop);
    }
    store_client_destroy(process->store_client);
    hot_cache_destroy(gateways->hot_cache);
    store_destroy(gateways->store);
}

void process_destroy_parts(struct process *process)
{
    for (size_t i = 0; i < process->worker_count && process->workers && process->workers[i]; i++) {
        worker_stop(process->workers[i]);
        worker_join(process->workers[i]);
    }
    /* Nothing more is asked for; what the codec has comes by mail. */
    if (process->shared.gateways.collector) {
        collector_stop(process->shared.gateways.collector);
    }
    result_codec_destroy(process->shared.gateways.codec);
    process->shared.gateways.codec = NULL;
    /* Twice, since a letter may be answered by one. */
    flush_workers(process);
    for (size_t i = 0; i < process->worker_count && process->workers; i++) {
        if (process->workers[i]) {
            worker_close(process->workers[i]);
        }
    }
    flush_workers(process);
    for (size_t i = 0; i < process->worker_count && process->workers; i++) {
        worker_destroy(process->workers[i]);
    }
    admin_destroy(process->admin);
    operator_destroy(process->operator_api);
    destroy_store(process);
    for (size_t i = 0; i < ARRAY_LENGTH(process->signals); i++) {
        if (process->signals[i]) {
            event_free(process->signals[i]);
        }
    }
    if (process->turn_event) {
        event_free(process->turn_event);
    }
    listener_set_destroy(process->shared.listeners);
    connection_limits_destroy(process->shared.limits);
    tls_server_destroy(process->shared.tls);
    upstream_identity_destroy(process->shared.gateways.identity);
    input_vault_destroy(process->shared.gateways.input_vault);
    failed_attempts_destroy(process->shared.gateways.failed_attempts);
    free(process->shared.gateways.gateways);
    free(process->workers);
    config_unref(process->config);
    key_state_table_destroy(process->key_states);
    loop_destroy(process->loop);
    metrics_destroy(process->metrics);
    log_destroy(process->log);
}
