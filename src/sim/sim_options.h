/* The command line of podgate-sim. */
#ifndef SIM_OPTIONS_H
#define SIM_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef MUST_CHECK
#define MUST_CHECK __attribute__((warn_unused_result))
#endif

enum { SIM_LIST_MAXIMUM = 16 };

/* All strings are those of argv. */
struct sim_options {
    const char *listen[SIM_LIST_MAXIMUM];
    size_t listen_count;
    const char *control;
    const char *tls_certificate;
    const char *tls_key;
    const char *api_key;
    const char *worker_key;
    const char *endpoint[SIM_LIST_MAXIMUM];
    size_t endpoint_count;
    const char *fault[SIM_LIST_MAXIMUM];
    size_t fault_count;
    const char *log_path;
    const char *log_raw_path;
    int64_t workers;
    double time_scale;
    bool limits;
    bool empty_input_fails;
    int64_t retention_run_ms;
    int64_t retention_runsync_ms;
    int64_t worker_silence_ms;
    int64_t job_take_wait_ms;
    int64_t requests_kept;
};

/* Reads the command line. True: go on. False: leave with `*exit_code` (help and version have been
 * printed, or what is wrong). */
MUST_CHECK bool sim_options_parse(struct sim_options *options, int argc, char **argv,
                                  int *exit_code);

#endif
