#include "build_config.h"

#include "ctl/ctl_doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "process/process.h"
#include "store/input_vault.h"
#include "store/store_doctor.h"

enum { TEXT_BYTES = 1024, TITLE_BYTES = 40 };

static const char *const finding_texts[] = {
    [CTL_GOOD] = "good", [CTL_WARNING] = "warning", [CTL_BAD] = "bad"};

void ctl_doctor_tell(struct ctl_doctor *doctor, enum ctl_finding finding, int status,
                     const char *what, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list values;

    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (finding == CTL_BAD && doctor->status == EX_OK) {
        doctor->status = status;
    }
    if (doctor->json) {
        json_array_append_new(doctor->findings,
                              json_pack("{s:s, s:s, s:s}", "finding", finding_texts[finding],
                                        "what", what, "text", text));
    } else {
        printf("%-8s %-18s %s\n", finding_texts[finding], what, text);
        fflush(stdout);
    }
}

/* ---- what the configuration names ------------------------------------------------------------ */

static void look_at_secrets(struct ctl_doctor *doctor)
{
    char *problem = NULL;
    struct input_vault *vault;

    /* It says on standard error what is wrong. */
    if (process_check(doctor->config)) {
        ctl_doctor_tell(doctor, CTL_GOOD, EX_OK, "secrets",
                        "the upstream's key and the certificates can be read");
    } else {
        ctl_doctor_tell(doctor, CTL_BAD, EX_CONFIG, "secrets",
                        "a key or certificate can't be used: see above");
    }
    if (doctor->config->store.input_key_file.length == 0) {
        return;
    }
    vault = input_vault_create(doctor->config, &problem);
    if (vault) {
        ctl_doctor_tell(doctor, CTL_GOOD, EX_OK, "input key", "kept inputs are encrypted");
    } else {
        ctl_doctor_tell(doctor, CTL_BAD, EX_CONFIG, "input key", "%s",
                        problem ? problem : "out of memory");
    }
    free(problem);
    input_vault_destroy(vault);
}

/* ---- Redis ----------------------------------------------------------------------------------- */

static void tell_of_redis(void *argument, enum store_doctor_level level, const char *what,
                          const char *text)
{
    static const enum ctl_finding findings[] = {
        [STORE_DOCTOR_GOOD] = CTL_GOOD,
        [STORE_DOCTOR_WARNING] = CTL_WARNING,
        [STORE_DOCTOR_BAD] = CTL_BAD,
    };
    char title[TITLE_BYTES];

    snprintf(title, sizeof title, "redis %s", what);
    ctl_doctor_tell(argument, findings[level], EX_UNAVAILABLE, title, "%s", text);
}

/* ---- a running podgate ----------------------------------------------------------------------- */

static void look_at_running(struct ctl_doctor *doctor, const struct ctl_options *options)
{
    const char *path = options->socket ? options->socket : doctor->config->admin_socket.data;
    const struct ctl_options with = {.socket = path};
    json_t *answer;
    json_t *unknown;
    const char *state;

    if (*path == '\0') {
        ctl_doctor_tell(doctor, CTL_WARNING, EX_OK, "podgate",
                        "there is no admin_socket: jobs and unknown submits can't be looked at");
        return;
    }
    if (ctl_ask(&with, "GET", "/operator/v1/store", NULL, &answer) != EX_OK) {
        ctl_doctor_tell(doctor, CTL_WARNING, EX_OK, "podgate", "it doesn't answer at %s", path);
        return;
    }
    state = json_string_value(json_object_get(answer, "state"));
    unknown = json_object_get(json_object_get(answer, "counts"), "unknown_submits");
    if (state && strcmp(state, "ready") == 0) {
        ctl_doctor_tell(doctor, CTL_GOOD, EX_OK, "podgate", "it runs, and its store is ready");
    } else {
        ctl_doctor_tell(doctor, CTL_BAD, EX_TEMPFAIL, "podgate", "it runs, but its store is %s",
                        state ? state : "not to be asked");
    }
    if (json_integer_value(unknown) > 0) {
        ctl_doctor_tell(doctor, CTL_WARNING, EX_OK, "submits",
                        "%lld have an unknown outcome: see \"podgatectl unknown\"",
                        (long long)json_integer_value(unknown));
    }
    json_decref(answer);
}

int ctl_doctor(int count, UNUSED char **words, const struct ctl_options *options)
{
    struct ctl_doctor doctor = {.json = options->json, .status = EX_OK};
    struct config *config;
    int status;

    if (count != 0) {
        return ctl_wrong_use("doctor: expected no further words");
    }
    config = ctl_load_config(options, &status);
    if (!config) {
        return status;
    }
    doctor.config = config;
    doctor.findings = json_array();
    ctl_doctor_tell(&doctor, CTL_GOOD, EX_OK, "configuration", "%s", config->file.data);
    look_at_secrets(&doctor);
    ctl_doctor_file(&doctor);
    if (config->store.backend == CONFIG_STORE_REDIS) {
        store_redis_doctor(config, tell_of_redis, &doctor);
    }
    ctl_doctor_upstream(&doctor);
    look_at_running(&doctor, options);
    config_unref(config);
    if (doctor.json) {
        status = ctl_print_json(doctor.findings);
    } else {
        json_decref(doctor.findings);
        status = ctl_finish_output();
    }
    return doctor.status != EX_OK ? doctor.status : status;
}
