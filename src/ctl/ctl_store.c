#include "build_config.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "ctl/ctl.h"

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
    status = ctl_print_members(answer);
    json_decref(answer);
    return status;
}

int ctl_store(int count, char **words, const struct ctl_options *options)
{
    if (count == 1 && strcmp(words[0], "status") == 0) {
        return show_status(options);
    }
    return ctl_wrong_use("expected \"store status\" or \"store salvage FROM TO\"");
}
