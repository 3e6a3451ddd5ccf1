/* podgate: the daemon's options. What it does is in process/process.c. */
#include "build_config.h"

#include <event2/event.h>
#include <getopt.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "model/config.h"
#include "process/process.h"

enum action { ACTION_RUN, ACTION_CHECK, ACTION_DUMP };

static const char usage_text[] =
    "Usage: podgate [-c FILE] [--check | --dump]\n"
    "A gateway between teams and the Runpod Serverless queue API.\n"
    "\n"
    "  -c, --config FILE  the configuration (default: " PODGATE_SYSCONFDIR
    "/podgate/podgate.conf)\n"
    "      --check        validate the configuration and exit\n"
    "      --dump         print the effective configuration, secrets masked, and exit\n"
    "      --version      print the version and what was built in, and exit\n"
    "      --help         print this and exit\n"
    "\n"
    "It runs in the foreground and logs to standard error. SIGTERM: stop gracefully; a second "
    "one:\n"
    "stop at once. SIGHUP: load the configuration anew. See podgate(8) and podgate.conf(5).\n";

static void print_version(void)
{
    printf("podgate %s\n", PACKAGE_VERSION);
    printf("libevent %s, %s\n", event_get_version(), OpenSSL_version(OPENSSL_VERSION));
#ifdef HAVE_SYSTEMD
    printf("with systemd notification\n");
#else
    printf("without systemd notification\n");
#endif
#ifdef PODGATE_FAULTS
    printf("with fault injection: not for production\n");
#endif
}

static struct config *load(const char *path)
{
    struct config_errors *errors = config_errors_create();
    struct config *config;

    if (!errors) {
        fprintf(stderr, "podgate: out of memory\n");
        return NULL;
    }
    config = config_load(path, errors);
    config_errors_print(errors, stderr);
    config_errors_destroy(errors);
    return config;
}

static int act(enum action action, const char *path)
{
    struct config *config = load(path);
    bool written;

    if (!config) {
        return EX_CONFIG;
    }
    if (action == ACTION_CHECK && !process_check(config)) {
        config_unref(config);
        return EX_CONFIG;
    }
    switch (action) {
    case ACTION_RUN: return process_run(config, path);
    case ACTION_CHECK: printf("%s: ok\n", path); break;
    case ACTION_DUMP: config_dump(config, stdout); break;
    }
    config_unref(config);
    written = fflush(stdout) == 0 && !ferror(stdout);
    return written ? EX_OK : EX_IOERR;
}

int main(int argc, char **argv)
{
    enum { OPTION_CHECK = 256, OPTION_DUMP, OPTION_VERSION, OPTION_HELP };
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, OPTION_CHECK},
        {"dump", no_argument, NULL, OPTION_DUMP}, {"version", no_argument, NULL, OPTION_VERSION},
        {"help", no_argument, NULL, OPTION_HELP}, {NULL, 0, NULL, 0},
    };
    const char *path = PODGATE_SYSCONFDIR "/podgate/podgate.conf";
    enum action action = ACTION_RUN;
    int option;

    while ((option = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
        switch (option) {
        case 'c': path = optarg; break;
        case OPTION_CHECK: action = ACTION_CHECK; break;
        case OPTION_DUMP: action = ACTION_DUMP; break;
        case OPTION_VERSION: print_version(); return EX_OK;
        case OPTION_HELP: fputs(usage_text, stdout); return EX_OK;
        default: fprintf(stderr, "Try 'podgate --help'.\n"); return EX_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "podgate: unexpected argument '%s'\nTry 'podgate --help'.\n", argv[optind]);
        return EX_USAGE;
    }
    return act(action, path);
}
