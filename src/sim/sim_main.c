#include "build_config.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sysexits.h>

#include "sim/sim.h"
#include "sim/sim_batch.h"
#include "sim/sim_control.h"
#include "sim/sim_exchange.h"
#include "sim/sim_fault.h"
#include "sim/sim_http.h"
#include "sim/sim_mock.h"
#include "sim/sim_queue.h"
#include "sim/sim_record.h"
#include "sim/sim_routes.h"
#include "sim/sim_strike.h"
#include "sim/sim_target.h"
#include "sim/sim_wait.h"
#include "sim/sim_webhook.h"
#include "sim/sim_worker.h"

static void on_accepted(struct job *job)
{
    record_job(job->sim->record, job);
}

static void on_run_ended(struct job *job)
{
    record_run(job->sim->record, job);
}

static void on_endpoint_free(struct endpoint *endpoint)
{
    worker_forget_all(endpoint);
    batch_forget_all(endpoint);
}

static const struct queue_hooks hooks = {
    .offer = worker_offer,
    .worker_release = worker_release,
    .mock_begin = mock_begin,
    .mock_next_ms = mock_next_ms,
    .mock_step = mock_step,
    .mock_free = mock_free,
    .run_ended = on_run_ended,
    .accepted = on_accepted,
    .ended = webhook_deliver,
    .endpoint_free = on_endpoint_free,
};

static bool is_job_route(const struct target *target)
{
    return target->count <= TARGET_SEGMENTS && sim_text_is(target->segment[0], "v2");
}

static void on_control(struct exchange *exchange, void *argument)
{
    struct target target;
    target_parse(&target, sim_text_of(exchange->target));
    if (sim_text_is(target.segment[0], "sim"))
        control_handle(argument, exchange, &target);
    else
        wait_reply_not_found(exchange, "not found");
}

static void on_exchange(struct exchange *exchange, void *argument)
{
    struct sim *sim = argument;
    struct target target;
    target_parse(&target, sim_text_of(exchange->target));
    if (sim_text_is(target.segment[0], "sim")) {
        control_handle(sim, exchange, &target);
        return;
    }
    bool by_worker = is_job_route(&target) && worker_is_route(target.segment[2]);
    record_request(sim->record, exchange, by_worker ? RECORD_WORKER_REQUESTS : RECORD_REQUESTS);
    struct fault *fault =
        is_job_route(&target)
            ? faults_match(sim->faults, sim_text_of(exchange->method), &target, false)
            : NULL;
    if (fault && strike_begin(exchange, fault))
        return;
    if (by_worker)
        worker_handle(sim, exchange, &target);
    else if (is_job_route(&target))
        routes_handle(sim, exchange, &target);
    else
        wait_reply_not_found(exchange, "not found");
}

static void on_signal(evutil_socket_t signal_number, short what, void *argument)
{
    (void)signal_number;
    (void)what;
    event_base_loopbreak(argument);
}

static bool open_log(const char *path, const char *mode, FILE **out)
{
    if (!path)
        return true;
    *out = strcmp(path, "-") == 0 ? stderr : fopen(path, mode);
    if (!*out)
        fprintf(stderr, "podgate-sim: %s: %s\n", path, strerror(errno));
    return *out != NULL;
}

/* Ten thousand held connections need as many descriptors as the system grants. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)!setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool start_listeners(struct sim *sim)
{
    const struct sim_options *options = &sim->options;
    bool any_prefix = false;
    for (size_t i = 0; i < options->listen_count; i++)
        any_prefix = any_prefix || strncmp(options->listen[i], "tls:", 4) == 0;
    for (size_t i = 0; i < options->listen_count; i++) {
        if (!sim_http_listen(sim->http, options->listen[i], options->tls_certificate && !any_prefix,
                             "listening"))
            return false;
    }
    return !options->control || sim_http_listen(sim->control, options->control, false, "control");
}

static bool add_faults(struct sim *sim)
{
    for (size_t i = 0; i < sim->options.fault_count; i++) {
        char problem[200];
        if (faults_add(sim->faults, sim_text_of(sim->options.fault[i]), problem, sizeof problem) <
            0) {
            fprintf(stderr, "podgate-sim: --fault %s: %s\n", sim->options.fault[i], problem);
            return false;
        }
    }
    return true;
}

/* Runs until a signal. Returns the exit code. */
static int run(struct sim *sim)
{
    struct event *terminate = evsignal_new(sim->base, SIGTERM, on_signal, sim->base);
    struct event *interrupt = evsignal_new(sim->base, SIGINT, on_signal, sim->base);
    int exit_code = EX_UNAVAILABLE;
    if (terminate && interrupt && event_add(terminate, NULL) == 0 &&
        event_add(interrupt, NULL) == 0 && start_listeners(sim)) {
        exit_code = EX_USAGE;
        if (add_faults(sim)) {
            exit_code = EX_OK;
            event_base_dispatch(sim->base);
        }
    }
    if (terminate)
        event_free(terminate);
    if (interrupt)
        event_free(interrupt);
    return exit_code;
}

int main(int argc, char **argv)
{
    static struct sim sim;
    int exit_code;
    FILE *log = NULL;
    FILE *raw_log = NULL;
    if (!sim_options_parse(&sim.options, argc, argv, &exit_code))
        return exit_code;
    if (!open_log(sim.options.log_path, "a", &log) ||
        !open_log(sim.options.log_raw_path, "ab", &raw_log))
        return EX_CANTCREAT;
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    sim_clock_init(&sim.clock, sim.options.time_scale);
    TAILQ_INIT(&sim.deliveries);
    exit_code = EX_OSERR;
    sim.base = event_base_new();
    sim.record = record_create(sim.options.requests_kept, log);
    sim.queue = sim.base ? queue_create(&sim, &hooks) : NULL;
    sim.faults = sim.base ? faults_create(sim.base) : NULL;
    if (!sim.base || !sim.record || !sim.queue || !sim.faults)
        goto out;
    exit_code = EX_CONFIG;
    sim.http = sim_http_create(sim.base, sim.options.tls_certificate, sim.options.tls_key,
                               faults_hooks(sim.faults), raw_log, on_exchange, &sim);
    sim.control = sim_http_create(sim.base, NULL, NULL, NULL, NULL, on_control, &sim);
    if (!sim.http || !sim.control)
        goto out;
    faults_set_http(sim.faults, sim.http);
    exit_code = run(&sim);
out:
    if (sim.front_timer)
        event_free(sim.front_timer);
    webhook_forget_all(&sim);
    sim_http_destroy(sim.http);
    sim_http_destroy(sim.control);
    faults_destroy(sim.faults);
    queue_destroy(sim.queue);
    record_destroy(sim.record);
    if (sim.base)
        event_base_free(sim.base);
    return exit_code;
}
