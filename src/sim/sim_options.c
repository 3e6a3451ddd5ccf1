#include "build_config.h"

#include "sim/sim_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum option_code {
    OPTION_LISTEN = 256,
    OPTION_CONTROL,
    OPTION_TLS_CERTIFICATE,
    OPTION_TLS_KEY,
    OPTION_API_KEY,
    OPTION_WORKER_KEY,
    OPTION_ENDPOINT,
    OPTION_WORKERS,
    OPTION_TIME_SCALE,
    OPTION_LIMITS,
    OPTION_EMPTY_INPUT,
    OPTION_RETENTION_RUN,
    OPTION_RETENTION_RUNSYNC,
    OPTION_WORKER_SILENCE,
    OPTION_JOB_TAKE_WAIT,
    OPTION_FAULT,
    OPTION_LOG,
    OPTION_LOG_RAW,
    OPTION_REQUESTS_KEPT,
    OPTION_HELP,
    OPTION_VERSION
};

static const struct option long_options[] = {
    {"listen", required_argument, NULL, OPTION_LISTEN},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"tls-certificate", required_argument, NULL, OPTION_TLS_CERTIFICATE},
    {"tls-key", required_argument, NULL, OPTION_TLS_KEY},
    {"api-key", required_argument, NULL, OPTION_API_KEY},
    {"worker-key", required_argument, NULL, OPTION_WORKER_KEY},
    {"endpoint", required_argument, NULL, OPTION_ENDPOINT},
    {"workers", required_argument, NULL, OPTION_WORKERS},
    {"time-scale", required_argument, NULL, OPTION_TIME_SCALE},
    {"limits", required_argument, NULL, OPTION_LIMITS},
    {"empty-input", required_argument, NULL, OPTION_EMPTY_INPUT},
    {"retention-run", required_argument, NULL, OPTION_RETENTION_RUN},
    {"retention-runsync", required_argument, NULL, OPTION_RETENTION_RUNSYNC},
    {"worker-silence", required_argument, NULL, OPTION_WORKER_SILENCE},
    {"job-take-wait", required_argument, NULL, OPTION_JOB_TAKE_WAIT},
    {"fault", required_argument, NULL, OPTION_FAULT},
    {"log", required_argument, NULL, OPTION_LOG},
    {"log-raw", required_argument, NULL, OPTION_LOG_RAW},
    {"requests-kept", required_argument, NULL, OPTION_REQUESTS_KEPT},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0},
};

static const char help_text[] =
    "Usage: podgate-sim [OPTION]...\n"
    "A stand-in for the Runpod Serverless queue API. Base URL: http://HOST:PORT/v2\n"
    "\n"
    "  --listen [tls:]HOST:PORT   repeatable; port 0 chooses one (default 127.0.0.1:8900)\n"
    "  --control HOST:PORT        one more listener that no fault and no front=down touches\n"
    "  --tls-certificate FILE     certificate chain (PEM) for tls: listeners, or for all\n"
    "  --tls-key FILE             its private key (PEM)\n"
    "  --api-key KEY              callers must send this key, raw or as Bearer\n"
    "  --worker-key KEY           real workers must send this key\n"
    "  --endpoint ID              repeatable; other endpoints answer 404 (default: any id)\n"
    "  --workers N                simulated workers per endpoint (default 3; 0: real ones only)\n"
    "  --time-scale N             the platform's clock goes N times faster (default 1)\n"
    "  --limits on|off            rate and concurrency limits per operation (default on)\n"
    "  --empty-input fail|echo    what becomes of a job with empty input (default fail)\n"
    "  --retention-run MS         results of /run are kept so long (default 1800000)\n"
    "  --retention-runsync MS     results of /runsync are kept so long (default 60000)\n"
    "  --worker-silence MS        a real worker that says nothing so long is lost (default 30000)\n"
    "  --job-take-wait MS         a real worker's request for a job is held so long "
    "(default 5000)\n"
    "  --fault SPEC               repeatable; see the manual page\n"
    "  --log FILE                 requests and runs as lines, \"-\" for standard error\n"
    "  --log-raw FILE             every byte received is appended\n"
    "  --requests-kept N          records for /sim/v1/requests (default 10000)\n"
    "  --help, --version\n";

static bool parse_number(const char *name, const char *text, int64_t minimum, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno || end == text || *end || number < minimum) {
        fprintf(stderr, "podgate-sim: --%s %s: expected a whole number of at least %lld\n", name,
                text, (long long)minimum);
        return false;
    }
    *out = number;
    return true;
}

static bool parse_choice(const char *name, const char *text, const char *yes, const char *no,
                         bool *out)
{
    *out = strcmp(text, yes) == 0;
    if (*out || strcmp(text, no) == 0)
        return true;
    fprintf(stderr, "podgate-sim: --%s %s: expected %s or %s\n", name, text, yes, no);
    return false;
}

static bool parse_scale(const char *text, double *out)
{
    char *end = NULL;
    *out = strtod(text, &end);
    if (end != text && !*end && *out >= 0.001 && *out <= 1000000)
        return true;
    fprintf(stderr, "podgate-sim: --time-scale %s: expected a number from 0.001 to 1000000\n",
            text);
    return false;
}

static bool append(const char *name, const char **list, size_t *count, const char *value)
{
    if (*count == SIM_LIST_MAXIMUM) {
        fprintf(stderr, "podgate-sim: --%s: at most %d\n", name, SIM_LIST_MAXIMUM);
        return false;
    }
    list[(*count)++] = value;
    return true;
}

static bool take_option(struct sim_options *options, int code, const char *name, const char *value)
{
    switch (code) {
    case OPTION_LISTEN: return append(name, options->listen, &options->listen_count, value);
    case OPTION_ENDPOINT: return append(name, options->endpoint, &options->endpoint_count, value);
    case OPTION_FAULT: return append(name, options->fault, &options->fault_count, value);
    case OPTION_CONTROL: options->control = value; return true;
    case OPTION_TLS_CERTIFICATE: options->tls_certificate = value; return true;
    case OPTION_TLS_KEY: options->tls_key = value; return true;
    case OPTION_API_KEY: options->api_key = value; return true;
    case OPTION_WORKER_KEY: options->worker_key = value; return true;
    case OPTION_LOG: options->log_path = value; return true;
    case OPTION_LOG_RAW: options->log_raw_path = value; return true;
    case OPTION_TIME_SCALE: return parse_scale(value, &options->time_scale);
    case OPTION_LIMITS: return parse_choice(name, value, "on", "off", &options->limits);
    case OPTION_EMPTY_INPUT:
        return parse_choice(name, value, "fail", "echo", &options->empty_input_fails);
    case OPTION_WORKERS: return parse_number(name, value, 0, &options->workers);
    case OPTION_RETENTION_RUN: return parse_number(name, value, 1, &options->retention_run_ms);
    case OPTION_RETENTION_RUNSYNC:
        return parse_number(name, value, 1, &options->retention_runsync_ms);
    case OPTION_WORKER_SILENCE: return parse_number(name, value, 1, &options->worker_silence_ms);
    case OPTION_JOB_TAKE_WAIT: return parse_number(name, value, 0, &options->job_take_wait_ms);
    case OPTION_REQUESTS_KEPT: return parse_number(name, value, 0, &options->requests_kept);
    default: return false;
    }
}

bool sim_options_parse(struct sim_options *options, int argc, char **argv, int *exit_code)
{
    *options = (struct sim_options){
        .workers = 3,
        .time_scale = 1,
        .limits = true,
        .empty_input_fails = true,
        .retention_run_ms = 30 * 60 * 1000,
        .retention_runsync_ms = 60 * 1000,
        .worker_silence_ms = 30 * 1000,
        .job_take_wait_ms = 5 * 1000,
        .requests_kept = 10000,
    };
    *exit_code = EX_USAGE;
    int code;
    int index = 0;
    while ((code = getopt_long(argc, argv, "", long_options, &index)) != -1) {
        if (code == OPTION_HELP || code == OPTION_VERSION) {
            fputs(code == OPTION_HELP ? help_text : "podgate-sim " PACKAGE_VERSION "\n", stdout);
            *exit_code = EX_OK;
            return false;
        }
        if (code == '?' || !take_option(options, code, long_options[index].name, optarg)) {
            fputs("Try 'podgate-sim --help'.\n", stderr);
            return false;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "podgate-sim: unexpected argument: %s\n", argv[optind]);
        return false;
    }
    if (!options->tls_certificate != !options->tls_key) {
        fputs("podgate-sim: --tls-certificate and --tls-key go together\n", stderr);
        return false;
    }
    if (options->workers > 10000) {
        fputs("podgate-sim: --workers: at most 10000\n", stderr);
        return false;
    }
    if (options->listen_count == 0)
        options->listen[options->listen_count++] = "127.0.0.1:8900";
    return true;
}
