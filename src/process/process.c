#include "build_config.h"

#include "process/process.h"

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
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "gateway/admission.h"
#include "model/key_state.h"
#include "model/metric_catalogue.h"
#include "net/socket_passing.h"
#include "process/admin.h"
#include "process/worker.h"

enum {
    MAIN_RING_BYTES = 64 * 1024,
    TURN_MS = 20,
    KEY_CHECK_TURNS = 50, /* the key file is looked at once a second */
    STUCK_MS = 5000,      /* a loop that did not turn for so long is stuck */
    SPARE_DESCRIPTORS = 64,
    SPARE_PER_WORKER = 4, /* a reserve, name servers, a file that is read again */
};

/* The one process context. Owned by process_run(). */
struct process {
    const char *path;
    struct config *config;
    struct key_state_table *key_states;
    struct log *log;
    struct log_ring *ring;
    struct metrics *metrics;
    struct body_budget budget;
    struct worker_shared shared;
    struct worker **workers;
    size_t worker_count;
    struct loop *loop;
    struct admin *admin;
    struct event *signals[3];
    struct event *turn_event;
    unsigned turn;
    bool key_unusable; /* the key file, at the last look */
    bool serving;
    bool draining;
    bool hurried;
    uint64_t drain_end_ms;
    int exit_status;
};

/* ---- talking to systemd ---------------------------------------------------------------------- */

static void notify_manager(const char *state)
{
#ifdef HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

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

static void log_event(struct process *process, enum log_level level, const char *event,
                      const char *key, const char *value)
{
    struct log_line *line = log_begin(process->ring, level, event);

    if (key) {
        log_string(line, key, value);
    }
    log_end(line);
}

/* ---- what is made once ----------------------------------------------------------------------- */

static void complain(const char *problem)
{
    fprintf(stderr, "podgate: %s\n", problem ? problem : "out of memory");
}

static void protect_process(void)
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
static void raise_descriptor_limit(const struct config *config)
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
static void share_descriptors(struct process *process)
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
        complain(problem);
        free(problem);
        return false;
    }
    return true;
}

bool process_check(const struct config *config)
{
    struct upstream_identity *identity;
    struct tls_server *tls;

    if (!load_secrets(config, &identity, &tls)) {
        return false;
    }
    tls_server_destroy(tls);
    upstream_identity_destroy(identity);
    return true;
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
        complain(NULL);
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
    return process->ring && shared->limits && shared->gateways.failed_attempts ? EX_OK : EX_OSERR;
}

static int create_listeners(struct process *process)
{
    struct socket_passing passed = {0};
    const char *wrong = NULL;
    char *problem = NULL;

    if (!socket_passing_take(&passed, &wrong)) {
        complain(wrong);
        return EX_USAGE;
    }
    process->shared.listeners =
        listener_set_create(process->config, process->worker_count, &passed, &problem);
    if (!process->shared.listeners) {
        complain(problem);
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
        complain(NULL);
        return EX_OSERR;
    }
    for (size_t i = 0; i < process->worker_count; i++) {
        process->workers[i] = worker_create(&process->shared, i, process->config);
        if (!process->workers[i]) {
            complain("a worker can't be made: out of memory or descriptors");
            return EX_OSERR;
        }
    }
    return EX_OK;
}

/* ---- what the admin listener asks ------------------------------------------------------------ */

static bool is_alive(void *owner)
{
    const struct process *process = owner;
    uint64_t now_ms = clock_mono_ms();

    for (size_t i = 0; i < process->worker_count; i++) {
        uint64_t turned_ms = worker_heartbeat_ms(process->workers[i]);

        if (!worker_has_ended(process->workers[i]) && now_ms > turned_ms + STUCK_MS) {
            return false;
        }
    }
    return true;
}

static bool is_ready(void *owner)
{
    const struct process *process = owner;

    return process->serving && !process->draining && is_alive(owner);
}

static void append_number(struct builder *text, const char *name, const char *type,
                          const char *help, uint64_t value)
{
    builder_append(text, VIEW("# HELP "));
    builder_append(text, view_of_string(name));
    builder_append_byte(text, ' ');
    builder_append(text, view_of_string(help));
    builder_append(text, VIEW("\n# TYPE "));
    builder_append(text, view_of_string(name));
    builder_append_byte(text, ' ');
    builder_append(text, view_of_string(type));
    builder_append_byte(text, '\n');
    builder_append(text, view_of_string(name));
    builder_append_byte(text, ' ');
    builder_append_u64(text, value);
    builder_append_byte(text, '\n');
}

static void append_metrics(void *owner, struct builder *text)
{
    struct process *process = owner;

    append_number(text, "podgate_body_bytes", "gauge",
                  "Bytes held in bodies of requests and answers.",
                  atomic_load(&process->budget.used_bytes));
    append_number(text, "podgate_body_bytes_maximum", "gauge", "What memory.bodies allows.",
                  atomic_load(&process->budget.maximum_bytes));
    append_number(text, "podgate_log_lines_dropped_total", "counter",
                  "Log lines lost because they came faster than they could be written.",
                  log_dropped(process->log));
    append_number(text, "podgate_keys", "gauge", "Keys in the configuration.",
                  process->config->key_count);
    append_number(text, "podgate_workers", "gauge", "Worker threads.", process->worker_count);
}

static const struct admin_view admin_view = {
    .is_alive = is_alive,
    .is_ready = is_ready,
    .append_metrics = append_metrics,
};

/* ---- signals --------------------------------------------------------------------------------- */

static void stop_workers(struct process *process)
{
    process->hurried = true;
    for (size_t i = 0; i < process->worker_count; i++) {
        worker_stop(process->workers[i]);
    }
}

static void on_stop_signal(evutil_socket_t number, short what, void *argument)
{
    struct process *process = argument;

    (void)number;
    (void)what;
    if (process->draining) {
        log_event(process, LOG_LEVEL_INFO, "stop_hurried", NULL, NULL);
        stop_workers(process);
        return;
    }
    process->draining = true;
    process->drain_end_ms = clock_mono_ms() + process->config->drain_timeout_ms;
    notify_manager("STOPPING=1");
    log_event(process, LOG_LEVEL_INFO, "draining", NULL, NULL);
    for (size_t i = 0; i < process->worker_count; i++) {
        worker_drain(process->workers[i]);
    }
}

static void log_config_errors(struct process *process, const struct config_errors *errors)
{
    for (size_t i = 0; i < config_errors_count(errors); i++) {
        log_event(process, LOG_LEVEL_ERROR, "configuration_error", "problem",
                  config_errors_text(errors, i));
    }
    for (size_t i = 0; i < config_warnings_count(errors); i++) {
        log_event(process, LOG_LEVEL_WARNING, "configuration_warning", "problem",
                  config_warnings_text(errors, i));
    }
}

static bool same_address(const struct config_address *one, const struct config_address *other)
{
    return view_equal(one->text, other->text);
}

static bool same_listeners(const struct config *one, const struct config *other)
{
    bool same = one->listen_count == other->listen_count && one->tls_count == other->tls_count &&
                same_address(&one->admin_listen, &other->admin_listen);

    for (size_t i = 0; same && i < one->listen_count; i++) {
        same = same_address(&one->listen[i], &other->listen[i]);
    }
    for (size_t i = 0; same && i < one->tls_count; i++) {
        same = view_equal(one->tls[i].certificate, other->tls[i].certificate) &&
               view_equal(one->tls[i].key, other->tls[i].key);
    }
    return same;
}

/* What only a start can change must not look as if it had been taken over. */
static void tell_what_stays(struct process *process, const struct config *config)
{
    const struct config *old = process->config;
    static const char changed[] = "has changed, which takes effect at the next start only";
    const struct {
        const char *option;
        bool differs;
    } options[] = {
        {"listen, admin_listen or tls", !same_listeners(old, config)},
        {"workers", old->workers != config->workers},
        {"log.format", old->log.format != config->log.format},
    };

    for (size_t i = 0; i < ARRAY_LENGTH(options); i++) {
        if (options[i].differs) {
            struct log_line *line =
                log_begin(process->ring, LOG_LEVEL_WARNING, "configuration_warning");

            log_string(line, "option", options[i].option);
            log_string(line, "problem", changed);
            log_end(line);
        }
    }
}

/* Everything that a running podgate can take over. Listeners and the number of workers stay. */
static bool adopt(struct process *process, struct config *config)
{
    char *problem = NULL;
    bool adopted = config_adopt(config, process->key_states);

    if (adopted && !upstream_identity_adopt(process->shared.gateways.identity, config, &problem)) {
        log_event(process, LOG_LEVEL_ERROR, "configuration_error", "problem", problem);
        free(problem);
        adopted = false;
    }
    if (!adopted) {
        return false;
    }
    log_set_level(process->log, config->log.level);
    connection_limits_adopt(process->shared.limits, config);
    atomic_store(&process->budget.maximum_bytes, (size_t)config->memory.bodies_bytes);
    for (size_t i = 0; i < process->worker_count; i++) {
        if (!worker_adopt(process->workers[i], config)) {
            log_event(process, LOG_LEVEL_ERROR, "configuration_error", "problem",
                      "out of memory: a worker goes on with the old configuration");
        }
    }
    return true;
}

static void on_reload_signal(evutil_socket_t number, short what, void *argument)
{
    struct process *process = argument;
    struct config_errors *errors = config_errors_create();
    struct config *config = errors ? config_load(process->path, errors) : NULL;

    (void)number;
    (void)what;
    notify_manager("RELOADING=1");
    if (errors) {
        log_config_errors(process, errors);
    }
    config_errors_destroy(errors);
    if (config && adopt(process, config)) {
        tell_what_stays(process, config);
        config_unref(process->config);
        process->config = config;
        log_event(process, LOG_LEVEL_INFO, "configuration_loaded", "file", process->path);
    } else {
        config_unref(config);
        log_event(process, LOG_LEVEL_ERROR, "configuration_kept", "file", process->path);
    }
    notify_manager("READY=1");
}

static bool watch_signals(struct process *process)
{
    static const struct {
        int number;
        event_callback_fn callback;
    } wanted[] = {{SIGTERM, on_stop_signal}, {SIGINT, on_stop_signal}, {SIGHUP, on_reload_signal}};

    for (size_t i = 0; i < ARRAY_LENGTH(wanted); i++) {
        process->signals[i] =
            evsignal_new(loop_base(process->loop), wanted[i].number, wanted[i].callback, process);
        if (!process->signals[i] || event_add(process->signals[i], NULL) != 0) {
            return false;
        }
    }
    return true;
}

/* ---- the main thread's turn ------------------------------------------------------------------ */

/* One line for each change, not one for each look. */
static void refresh_key(struct process *process)
{
    struct upstream_identity *identity = process->shared.gateways.identity;
    uint64_t generation = upstream_identity_generation(identity);
    char *problem = NULL;
    bool usable = upstream_identity_refresh(identity, &problem);

    if (!usable && !process->key_unusable) {
        log_event(process, LOG_LEVEL_ERROR, "upstream_key_unusable", "problem", problem);
    } else if (usable && process->key_unusable) {
        log_event(process, LOG_LEVEL_INFO, "upstream_key_usable", NULL, NULL);
    }
    if (upstream_identity_generation(identity) != generation) {
        log_event(process, LOG_LEVEL_INFO, "upstream_key_loaded", NULL, NULL);
    }
    process->key_unusable = !usable;
    free(problem);
}

static bool all_have_ended(const struct process *process)
{
    for (size_t i = 0; i < process->worker_count; i++) {
        if (!worker_has_ended(process->workers[i])) {
            return false;
        }
    }
    return true;
}

static void on_turn(evutil_socket_t descriptor, short what, void *argument)
{
    struct process *process = argument;

    (void)descriptor;
    (void)what;
    if (++process->turn % KEY_CHECK_TURNS == 0 && !process->draining) {
        refresh_key(process);
    }
    if (process->draining && !process->hurried && clock_mono_ms() >= process->drain_end_ms) {
        log_event(process, LOG_LEVEL_WARNING, "drain_timeout", NULL, NULL);
        stop_workers(process);
    }
    if (all_have_ended(process)) {
        if (!process->draining) {
            process->exit_status = EX_SOFTWARE;
        }
        loop_stop(process->loop);
    }
}

/* ---- run ------------------------------------------------------------------------------------- */

static void log_start(struct process *process)
{
    struct log_line *line = log_begin(process->ring, LOG_LEVEL_INFO, "started");

    log_string(line, "version", PACKAGE_VERSION);
    log_number(line, "workers", process->worker_count);
    for (size_t i = 0; i < process->config->listen_count; i++) {
        log_text(line, "listen", process->config->listen[i].text);
    }
    log_text(line, "upstream", process->config->upstream.url.text);
    log_number(line, "keys", process->config->key_count);
    log_end(line);
    if (!upstream_identity_is_locked(process->shared.gateways.identity)) {
        log_event(process, LOG_LEVEL_WARNING, "key_not_locked", "problem",
                  "the upstream key can't be locked into memory: raise LimitMEMLOCK");
    }
}

static int start(struct process *process)
{
    const struct timeval turn = {0, TURN_MS * 1000};
    char *problem = NULL;
    int status;

    process->worker_count = count_workers(process->config);
    status = create_shared(process);
    if (status == EX_OK) {
        status = create_listeners(process);
    }
    if (status == EX_OK) {
        status = create_workers(process);
    }
    if (status != EX_OK) {
        return status;
    }
    process->admin = admin_create(process->loop, process->config, process->metrics, &admin_view,
                                  process, &problem);
    if (!process->admin) {
        complain(problem);
        free(problem);
        return EX_UNAVAILABLE;
    }
    process->turn_event = event_new(loop_base(process->loop), -1, EV_PERSIST, on_turn, process);
    if (!watch_signals(process) || !process->turn_event ||
        event_add(process->turn_event, &turn) != 0) {
        complain(NULL);
        return EX_OSERR;
    }
    share_descriptors(process);
    for (size_t i = 0; i < process->worker_count; i++) {
        if (!worker_start(process->workers[i])) {
            complain("a worker can't be started");
            return EX_OSERR;
        }
    }
    process->serving = true;
    log_start(process);
    notify_manager("READY=1");
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

static void destroy(struct process *process)
{
    for (size_t i = 0; i < process->worker_count && process->workers && process->workers[i]; i++) {
        worker_stop(process->workers[i]);
        worker_join(process->workers[i]);
    }
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
    failed_attempts_destroy(process->shared.gateways.failed_attempts);
    free(process->shared.gateways.gateways);
    free(process->workers);
    config_unref(process->config);
    key_state_table_destroy(process->key_states);
    loop_destroy(process->loop);
    metrics_destroy(process->metrics);
    log_destroy(process->log);
}

int process_run(struct config *config, const char *path)
{
    struct process process = {.config = config, .path = path};
    int status;

    protect_process();
    raise_descriptor_limit(config);
    status = start(&process);
    if (status == EX_OK) {
        if (!loop_run(process.loop)) {
            process.exit_status = EX_SOFTWARE;
        }
        status = process.exit_status;
        log_event(&process, LOG_LEVEL_INFO, "stopped", NULL, NULL);
    }
    destroy(&process);
    return status;
}
