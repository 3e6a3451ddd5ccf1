#include "build_config.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "gateway/collector.h"
#include "process/operator.h"
#include "process/process_private.h"
#include "store/store.h"

/* A newer configuration: taken over whole, or not at all. */

static void log_config_errors(struct process *process, const struct config_errors *errors)
{
    for (size_t i = 0; i < config_errors_count(errors); i++) {
        process_log_event(process, LOG_LEVEL_ERROR, "configuration_error", "problem",
                          config_errors_text(errors, i));
    }
    for (size_t i = 0; i < config_warnings_count(errors); i++) {
        process_log_event(process, LOG_LEVEL_WARNING, "configuration_warning", "problem",
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
                same_address(&one->admin_listen, &other->admin_listen) &&
                view_equal(one->admin_socket, other->admin_socket);

    for (size_t i = 0; same && i < one->listen_count; i++) {
        same = same_address(&one->listen[i], &other->listen[i]);
    }
    for (size_t i = 0; same && i < one->tls_count; i++) {
        same = view_equal(one->tls[i].certificate, other->tls[i].certificate) &&
               view_equal(one->tls[i].key, other->tls[i].key);
    }
    return same;
}

static bool same_store(const struct config *one, const struct config *other)
{
    return one->store.backend == other->store.backend &&
           view_equal(one->store.path, other->store.path) &&
           view_equal(one->store.url, other->store.url) &&
           view_equal(one->store.user, other->store.user) &&
           view_equal(one->store.password_file, other->store.password_file) &&
           view_equal(one->store.input_key_file, other->store.input_key_file) &&
           view_equal(one->store.prefix, other->store.prefix);
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
        {"listen, admin_listen, admin_socket or tls", !same_listeners(old, config)},
        {"workers", old->workers != config->workers},
        {"store", !same_store(old, config)},
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
        process_log_event(process, LOG_LEVEL_ERROR, "configuration_error", "problem", problem);
        free(problem);
        adopted = false;
    }
    if (!adopted) {
        return false;
    }
    log_set_level(process->log, config->log.level);
    connection_limits_adopt(process->shared.limits, config);
    atomic_store(&process->budget.maximum_bytes, (size_t)config->memory.bodies_bytes);
    store_adopt(process->shared.gateways.store, config);
    operator_adopt(process->operator_api, config);
    collector_adopt(process->shared.gateways.collector, config);
    for (size_t i = 0; i < process->worker_count; i++) {
        if (!worker_adopt(process->workers[i], config)) {
            process_log_event(process, LOG_LEVEL_ERROR, "configuration_error", "problem",
                              "out of memory: a worker goes on with the old configuration");
        }
    }
    return true;
}

void process_reload(struct process *process)
{
    struct config_errors *errors = config_errors_create();
    struct config *config = errors ? config_load(process->path, errors) : NULL;

    process_notify("RELOADING=1");
    if (errors) {
        log_config_errors(process, errors);
    }
    config_errors_destroy(errors);
    if (config && adopt(process, config)) {
        tell_what_stays(process, config);
        config_unref(process->config);
        process->config = config;
        process_log_event(process, LOG_LEVEL_INFO, "configuration_loaded", "file", process->path);
    } else {
        config_unref(config);
        process_log_event(process, LOG_LEVEL_ERROR, "configuration_kept", "file", process->path);
    }
    process_notify("READY=1");
}
