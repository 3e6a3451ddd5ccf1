/* podgatectl: the operator's command. Its commands are in src/ctl. Exit statuses are those of
 * sysexits(3). */
#include "build_config.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "ctl/ctl.h"

const char ctl_default_config[] = PODGATE_SYSCONFDIR "/podgate/podgate.conf";

static const char help_text[] =
    "podgatectl: the operator's command for podgate\n"
    "\n"
    "  podgatectl key generate ID [--team NAME]\n"
    "      Makes a key: prints it on the first line, and then the configuration for it.\n"
    "  podgatectl check [-c FILE]\n"
    "      Checks a configuration and prints every mistake with its line.\n"
    "  podgatectl doctor [-c FILE] [--json]\n"
    "      Looks at all that podgate needs: configuration, keys, store, upstream.\n"
    "  podgatectl ping [--admin ADDRESS]\n"
    "      Asks a running podgate whether it serves callers.\n"
    "\n"
    "Of a running podgate, by its socket:\n"
    "  podgatectl jobs [--team NAME] [--endpoint ID] [--state STATE] [--since TIME] [--limit N]\n"
    "      Lists jobs, newest first. STATE may be LOST or what became of a result: EVICTED.\n"
    "  podgatectl job ENDPOINT ID\n"
    "      Shows all that is known of a job.\n"
    "  podgatectl adopt ENDPOINT ID --team NAME [--kind runsync]\n"
    "      Enters a job that was submitted without podgate; it is then followed to its end.\n"
    "  podgatectl unknown [list] [--team NAME] [--endpoint ID]\n"
    "      Lists submits whose outcome nobody knows.\n"
    "  podgatectl unknown candidates SUBMIT\n"
    "      Lists upstream's jobs that podgate doesn't know: one may be what the submit became.\n"
    "  podgatectl unknown settle SUBMIT --job ID | --never-ran\n"
    "      Says what became of it.\n"
    "  podgatectl store status\n"
    "      Shows how the store is, and what is in it.\n"
    "\n"
    "  podgatectl store salvage FROM TO\n"
    "      Saves what can be read of a damaged database into a new one.\n"
    "\n"
    "  -c, --config FILE     configuration (default: " PODGATE_SYSCONFDIR "/podgate/podgate.conf)\n"
    "  -s, --socket PATH     podgate's admin_socket (default: what -c names has, else\n"
    "                        /run/podgate/admin.sock)\n"
    "  -a, --admin ADDRESS   admin listener, \"address:port\" or \"unix:/path\"\n"
    "                        (default: 127.0.0.1:8081)\n"
    "  -t, --team NAME       of this team; for key generate: print its section, too\n"
    "  -e, --endpoint ID     of this endpoint\n"
    "      --state STATE     in this state\n"
    "      --since TIME      submitted since: a span such as 2h, or a date\n"
    "      --limit N         at most so many\n"
    "      --kind KIND       run (default) or runsync: which retention the upstream has for it\n"
    "      --job ID          the job that the submit became\n"
    "      --never-ran       the submit never became a job\n"
    "  -j, --json            print JSON\n"
    "  -h, --help            print this\n"
    "  -V, --version         print the version\n"
    "\n"
    "Exit status: 0; 64 wrong use; 65 no such job or submit, or damaged; 66 no such file;\n"
    "69 podgate or upstream does not answer; 75 podgate does not serve callers, or its store\n"
    "fails; 77 not allowed; 78 wrong configuration.\n";

int ctl_wrong_use(const char *format, ...)
{
    va_list values;

    fprintf(stderr, "podgatectl: ");
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fprintf(stderr, "; see podgatectl --help\n");
    return EX_USAGE;
}

static int run_command(int count, char **words, const struct ctl_options *options)
{
    static const struct {
        const char *name;
        int (*run)(int count, char **words, const struct ctl_options *options);
    } commands[] = {
        {"key", ctl_key_generate}, {"check", ctl_check}, {"ping", ctl_ping},
        {"jobs", ctl_jobs},        {"job", ctl_job},     {"adopt", ctl_adopt},
        {"unknown", ctl_unknown},  {"store", ctl_store}, {"doctor", ctl_doctor},
    };

    if (count == 0) {
        return ctl_wrong_use("no command given");
    }
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
        if (strcmp(words[0], commands[i].name) == 0) {
            return commands[i].run(count - 1, words + 1, options);
        }
    }
    return ctl_wrong_use("unknown command \"%s\"", words[0]);
}

/* Options that have no letter. */
enum { OPTION_STATE = 256, OPTION_SINCE, OPTION_LIMIT, OPTION_JOB, OPTION_NEVER_RAN, OPTION_KIND };

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"socket", required_argument, NULL, 's'},
    {"admin", required_argument, NULL, 'a'},
    {"team", required_argument, NULL, 't'},
    {"endpoint", required_argument, NULL, 'e'},
    {"state", required_argument, NULL, OPTION_STATE},
    {"since", required_argument, NULL, OPTION_SINCE},
    {"limit", required_argument, NULL, OPTION_LIMIT},
    {"job", required_argument, NULL, OPTION_JOB},
    {"never-ran", no_argument, NULL, OPTION_NEVER_RAN},
    {"kind", required_argument, NULL, OPTION_KIND},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

int main(int count, char **words)
{
    struct ctl_options options = {0};
    int option;

    while ((option = getopt_long(count, words, "c:s:a:t:e:jhV", long_options, NULL)) != -1) {
        switch (option) {
        case 'c': options.config = optarg; break;
        case 's': options.socket = optarg; break;
        case 'a': options.admin = optarg; break;
        case 't': options.team = optarg; break;
        case 'e': options.endpoint = optarg; break;
        case 'j': options.json = true; break;
        case OPTION_STATE: options.state = optarg; break;
        case OPTION_SINCE: options.since = optarg; break;
        case OPTION_LIMIT: options.limit = optarg; break;
        case OPTION_JOB: options.job = optarg; break;
        case OPTION_NEVER_RAN: options.never_ran = true; break;
        case OPTION_KIND: options.kind = optarg; break;
        case 'h': fputs(help_text, stdout); return ctl_finish_output();
        case 'V': printf("podgatectl %s\n", PACKAGE_VERSION); return ctl_finish_output();
        default: fprintf(stderr, "See podgatectl --help.\n"); return EX_USAGE;
        }
    }
    return run_command(count - optind, words + optind, &options);
}
