#include "build_config.h"

#include "process/process.h"

#include <event2/event.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sysexits.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/clock.h"
#include "gateway/collector.h"
#include "gateway/flight.h"
#include "process/operator.h"
#include "process/process_private.h"
#include "store/hot_cache.h"

/* Run: signals, what the admin listener asks, and the main thread's turn. What the process is made
 * of stands in process_parts.c. */

enum {
    TURN_MS = 20,
    KEY_CHECK_TURNS = 50,        /* the key file is looked at once a second */
    COUNT_TURNS = 250,           /* the store is asked for its counts every five */
    HOT_SHRINKS_AT_PERCENT = 70, /* of memory.bodies; requests' bodies are refused from 80 on */
    STUCK_MS = 5000,             /* a loop that did not turn for so long is stuck */
    STORE_MS = 1000,             /* so long a shared store has for its first connections */
};

void process_notify(const char *state)
{
#ifdef HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

void process_log_event(struct process *process, enum log_level level, const char *event,
                       const char *key, const char *value)
{
    struct log_line *line = log_begin(process->ring, level, event);

    if (key) {
        log_string(line, key, value);
    }
    log_end(line);
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

/* Whoever comes in the moments before Redis is reached would be told that the store is away. */
static bool store_was_tried(const struct process *process)
{
    return store_state(process->shared.gateways.store) == STORE_STATE_READY ||
           clock_mono_ms() >= process->serving_since_ms + STORE_MS;
}

static bool is_ready(void *owner)
{
    const struct process *process = owner;

    return process->serving && !process->draining && is_alive(owner) && store_was_tried(process);
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

static void count_parts(void *owner)
{
    process_count_parts(owner);
}

static const struct admin_view admin_view = {
    .is_alive = is_alive,
    .is_ready = is_ready,
    .count_parts = count_parts,
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
        process_log_event(process, LOG_LEVEL_INFO, "stop_hurried", NULL, NULL);
        stop_workers(process);
        return;
    }
    process->draining = true;
    collector_stop(process->shared.gateways.collector);
    process->drain_end_ms = clock_mono_ms() + process->config->drain_timeout_ms;
    process_notify("STOPPING=1");
    process_log_event(process, LOG_LEVEL_INFO, "draining", NULL, NULL);
    for (size_t i = 0; i < process->worker_count; i++) {
        worker_drain(process->workers[i]);
    }
}

static void on_reload_signal(evutil_socket_t number, short what, void *argument)
{
    (void)number;
    (void)what;
    process_reload(argument);
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
        process_log_event(process, LOG_LEVEL_ERROR, "upstream_key_unusable", "problem", problem);
    } else if (usable && process->key_unusable) {
        process_log_event(process, LOG_LEVEL_INFO, "upstream_key_usable", NULL, NULL);
    }
    if (upstream_identity_generation(identity) != generation) {
        process_log_event(process, LOG_LEVEL_INFO, "upstream_key_loaded", NULL, NULL);
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

/* Results that are only kept in case somebody asks again give way to bodies that are under way. */
static void fit_hot_cache(struct process *process)
{
    struct hot_cache *cache = process->shared.gateways.hot_cache;
    uint64_t maximum = process->config->memory.hot_results_bytes;

    if (body_budget_percent(&process->budget) >= HOT_SHRINKS_AT_PERCENT) {
        uint64_t half = hot_cache_counts(cache).bytes / 2;

        maximum = half < maximum ? half : maximum;
    }
    if (maximum != process->hot_maximum_bytes) {
        process->hot_maximum_bytes = maximum;
        hot_cache_set_maximum(cache, maximum);
    }
}

static void on_turn(evutil_socket_t descriptor, short what, void *argument)
{
    struct process *process = argument;

    (void)descriptor;
    (void)what;
    fit_hot_cache(process);
    if (++process->turn % KEY_CHECK_TURNS == 0 && !process->draining) {
        refresh_key(process);
    }
    if (process->turn % COUNT_TURNS == 0) {
        process_ask_counts(process);
    }
    if (process->draining && !process->hurried && clock_mono_ms() >= process->drain_end_ms) {
        process_log_event(process, LOG_LEVEL_WARNING, "drain_timeout", NULL, NULL);
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
        process_log_event(process, LOG_LEVEL_WARNING, "key_not_locked", "problem",
                          "the upstream key can't be locked into memory: raise LimitMEMLOCK");
    }
}

static bool start_operator(struct process *process)
{
    struct operator_parts parts = {
        .loop = process->loop,
        .store = process->shared.gateways.store,
        .client = process->store_client,
        .collector = process->shared.gateways.collector,
        .identity = process->shared.gateways.identity,
        .budget = &process->budget,
        .metrics = process->metrics_block,
        .log = process->ring,
    };
    char *problem = NULL;

    process->operator_api = operator_create(&parts, process->config, &problem);
    if (!process->operator_api) {
        process_complain(problem);
        free(problem);
    }
    return process->operator_api != NULL;
}

static int start(struct process *process)
{
    const struct timeval turn = {0, TURN_MS * 1000};
    char *problem = NULL;
    int status;

    status = process_create_parts(process);
    if (status != EX_OK) {
        return status;
    }
    process->admin = admin_create(process->loop, process->config, process->metrics, &admin_view,
                                  process, &problem);
    if (!process->admin) {
        process_complain(problem);
        free(problem);
        return EX_UNAVAILABLE;
    }
    if (!start_operator(process)) {
        return EX_UNAVAILABLE;
    }
    process->turn_event = event_new(loop_base(process->loop), -1, EV_PERSIST, on_turn, process);
    if (!watch_signals(process) || !process->turn_event ||
        event_add(process->turn_event, &turn) != 0) {
        process_complain(NULL);
        return EX_OSERR;
    }
    process_share_descriptors(process);
    for (size_t i = 0; i < process->worker_count; i++) {
        if (!worker_start(process->workers[i])) {
            process_complain("a worker can't be started");
            return EX_OSERR;
        }
    }
    collector_start(process->shared.gateways.collector, flight_post_poll, flight_post_cancel);
    process->serving = true;
    process->serving_since_ms = clock_mono_ms();
    log_start(process);
    process_notify("READY=1");
    return EX_OK;
}

int process_run(struct config *config, const char *path)
{
    struct process process = {.config = config, .path = path};
    int status;

    process_protect();
    process_raise_descriptor_limit(config);
    status = start(&process);
    if (status == EX_OK) {
        if (!loop_run(process.loop)) {
            process.exit_status = EX_SOFTWARE;
        }
        status = process.exit_status;
        process_log_event(&process, LOG_LEVEL_INFO, "stopped", NULL, NULL);
    }
    process_destroy_parts(&process);
    return status;
}
