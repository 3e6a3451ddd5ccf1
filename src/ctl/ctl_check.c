#include "build_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "process/process.h"

static const char default_admin[] = "127.0.0.1:8081";

enum { PING_TIMEOUT_MS = 5000, PING_ANSWER_BYTES = 1024 };

/* ---- check ----------------------------------------------------------------------------------- */

struct config *ctl_load_config(const struct ctl_options *options, int *status)
{
    const char *path = options->config ? options->config : ctl_default_config;
    struct config_errors *errors;
    struct config *config;

    if (access(path, R_OK) != 0) {
        fprintf(stderr, "podgatectl: %s: %s\n", path, strerror(errno));
        *status = EX_NOINPUT;
        return NULL;
    }
    errors = config_errors_create();
    if (!errors) {
        fprintf(stderr, "podgatectl: out of memory\n");
        *status = EX_OSERR;
        return NULL;
    }
    config = config_load(path, errors);
    config_errors_print(errors, stderr);
    config_errors_destroy(errors);
    *status = config ? EX_OK : EX_CONFIG;
    return config;
}

int ctl_check(int count, UNUSED char **words, const struct ctl_options *options)
{
    int status;
    struct config *config;

    if (count != 0) {
        return ctl_wrong_use("check: expected no further words");
    }
    config = ctl_load_config(options, &status);
    if (!config) {
        return status;
    }
    status = EX_CONFIG;
    if (process_check(config)) {
        printf("%s: good, with %zu team%s and %zu key%s\n", config->file.data, config->team_count,
               config->team_count == 1 ? "" : "s", config->key_count,
               config->key_count == 1 ? "" : "s");
        status = ctl_finish_output();
    }
    config_unref(config);
    return status;
}

/* ---- ping ------------------------------------------------------------------------------------ */

static int judge(const char *admin, unsigned status)
{
    if (status == 200) {
        printf("%s: podgate serves callers\n", admin);
        return ctl_finish_output();
    }
    if (status == 503) {
        fprintf(stderr, "podgatectl: %s: podgate does not serve callers (503)\n", admin);
        return EX_TEMPFAIL;
    }
    if (status == 0) {
        fprintf(stderr, "podgatectl: %s: the answer is not HTTP\n", admin);
    } else {
        fprintf(stderr, "podgatectl: %s: unexpected status %u, is this podgate's admin listener?\n",
                admin, status);
    }
    return EX_PROTOCOL;
}

int ctl_ping(int count, UNUSED char **words, const struct ctl_options *options)
{
    const char *admin = options->admin ? options->admin : default_admin;
    struct config_address address;
    const char *wrong = config_parse_address(view_of_string(admin), &address);
    size_t length = 0;
    char *answer;
    unsigned status;

    if (count != 0) {
        return ctl_wrong_use("ping: expected no further words");
    }
    if (wrong || address.tls) {
        fprintf(stderr, "podgatectl: --admin \"%s\": %s\n", admin,
                wrong ? wrong : "there is no TLS on the admin listener");
        return EX_USAGE;
    }
    answer = ctl_exchange(
        &address, VIEW("GET /readyz HTTP/1.1\r\nHost: podgate\r\nConnection: close\r\n\r\n"),
        PING_ANSWER_BYTES, PING_TIMEOUT_MS, &length);
    if (!answer) {
        fprintf(stderr, "podgatectl: %s: %s\n", admin, strerror(errno));
        return EX_UNAVAILABLE;
    }
    status = ctl_http_status(view_make(answer, length));
    free(answer);
    return judge(admin, status);
}
