#include "build_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "store/store_salvage.h"

static int show_status(const struct ctl_options *options)
{
    json_t *answer;
    int status = ctl_ask(options, "GET", "/operator/v1/store", NULL, &answer);

    if (status != EX_OK) {
        return status;
    }
    if (options->json) {
        return ctl_print_json(answer);
    }
    if (json_is_null(json_object_get(answer, "failure"))) {
        json_object_del(answer, "failure");
    }
    status = ctl_print_members(answer);
    json_decref(answer);
    return status;
}

static int salvage(const char *from, const char *to, const struct ctl_options *options)
{
    struct store_salvage found;
    char *problem = NULL;

    if (access(from, F_OK) != 0) {
        fprintf(stderr, "podgatectl: %s: %s\n", from, strerror(errno));
        return EX_NOINPUT;
    }
    if (!store_embedded_salvage(from, to, &found, &problem)) {
        fprintf(stderr, "podgatectl: %s\n", problem ? problem : "out of memory");
        free(problem);
        return EX_DATAERR;
    }
    if (options->json) {
        return ctl_print_json(
            json_pack("{s:I, s:I, s:I, s:I, s:I}", "jobs", (json_int_t)found.jobs, "results",
                      (json_int_t)found.results, "submits", (json_int_t)found.submits, "chunks",
                      (json_int_t)found.chunks, "lost_rows", (json_int_t)found.lost_rows));
    }
    printf("%s: %llu jobs with %llu results, %llu submits, %llu chunks of streams\n", to,
           (unsigned long long)found.jobs, (unsigned long long)found.results,
           (unsigned long long)found.submits, (unsigned long long)found.chunks);
    if (found.lost_rows > 0) {
        printf("at least %llu records could not be saved\n", (unsigned long long)found.lost_rows);
    }
    return ctl_finish_output();
}

int ctl_store(int count, char **words, const struct ctl_options *options)
{
    if (count == 1 && strcmp(words[0], "status") == 0) {
        return show_status(options);
    }
    if (count == 3 && strcmp(words[0], "salvage") == 0) {
        return salvage(words[1], words[2], options);
    }
    return ctl_wrong_use("expected \"store status\" or \"store salvage FROM TO\"");
}
