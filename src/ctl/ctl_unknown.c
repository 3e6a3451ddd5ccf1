#include "build_config.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "ctl/ctl.h"

enum { SUBMITS_DEFAULT = 1000, PATH_BYTES = 128, REST_BYTES = 512 };

/* ---- list ------------------------------------------------------------------------------------ */

static int print_submits(const json_t *submits, bool has_more)
{
    static const char *const titles[] = {"SUBMIT",    "SENT",  "TEAM", "KEY", "ENDPOINT",
                                         "OPERATION", "KEYED", "JOB",  "WHY"};
    static const char *const names[] = {
        "submit", "sent", "team", "key", "endpoint", "operation", "has_idempotency_key",
        "job",    "note"};
    struct ctl_table table;

    if (json_array_size(submits) == 0) {
        printf("no submit has an unknown outcome\n");
        return ctl_finish_output();
    }
    ctl_table_begin(&table, titles, ARRAY_LENGTH(titles));
    for (size_t i = 0; i < json_array_size(submits); i++) {
        for (size_t j = 0; j < ARRAY_LENGTH(names); j++) {
            ctl_table_add_member(&table, json_array_get(submits, i), names[j]);
        }
    }
    if (has_more) {
        fprintf(stderr, "podgatectl: there are more; --limit shows more\n");
    }
    return ctl_table_end(&table);
}

static int list(const struct ctl_options *options)
{
    struct builder query;
    size_t limit;
    json_t *submits;
    bool has_more;
    int status;

    if (!ctl_read_limit(options, SUBMITS_DEFAULT, &limit)) {
        return EX_USAGE;
    }
    builder_init(&query, NULL, 0);
    ctl_query_add(&query, "team", options->team);
    ctl_query_add(&query, "endpoint", options->endpoint);
    status = ctl_ask_list(options, "/operator/v1/unknown", builder_view(&query), "submits", limit,
                          &submits, &has_more);
    builder_clear(&query);
    if (status != EX_OK) {
        return status;
    }
    if (options->json) {
        return ctl_print_json(json_pack("{s:o, s:b}", "submits", submits, "more", (int)has_more));
    }
    status = print_submits(submits, has_more);
    json_decref(submits);
    return status;
}

/* ---- one of them ----------------------------------------------------------------------------- */

/* The path of what can be done with a submit. False: it can't be a submit's name. */
static bool make_path(const char *submit, const char *action, char *path)
{
    if (strlen(submit) != 32 || strspn(submit, "0123456789abcdef") != 32) {
        (void)ctl_wrong_use("\"%.64s\" can't be a submit's name: those are 32 hexadecimal digits",
                            submit);
        return false;
    }
    snprintf(path, PATH_BYTES, "/operator/v1/unknown/%s/%s", submit, action);
    return true;
}

static int settle(const char *submit, const struct ctl_options *options)
{
    char path[PATH_BYTES];
    json_t *body;
    json_t *answer;
    int status;

    if ((options->job != NULL) == options->never_ran) {
        return ctl_wrong_use("unknown settle: expected either --job ID or --never-ran");
    }
    if (!make_path(submit, "settle", path)) {
        return EX_USAGE;
    }
    body =
        options->job ? json_pack("{s:s}", "job", options->job) : json_pack("{s:b}", "never_ran", 1);
    if (!body) {
        return ctl_wrong_use("that can't be a job's id");
    }
    status = ctl_ask(options, "POST", path, body, &answer);
    json_decref(body);
    if (status != EX_OK) {
        return status;
    }
    if (options->json) {
        return ctl_print_json(answer);
    }
    json_decref(answer);
    if (options->job) {
        printf("%s became job %s, which is followed to its end\n", submit, options->job);
    } else {
        printf("%s never ran\n", submit);
    }
    return ctl_finish_output();
}

/* What upstream says of a candidate besides id and status, in a line. */
static void add_rest(struct ctl_table *table, const json_t *candidate)
{
    union {
        const json_t *read;
        json_t *iterated; /* jansson's iterators don't change the object */
    } pointer = {.read = candidate};
    char line[REST_BYTES];
    size_t length = 0;
    const char *name;
    json_t *value;

    line[0] = '\0';
    json_object_foreach(pointer.iterated, name, value)
    {
        char text[160];
        int written;

        if (strcmp(name, "id") == 0 || strcmp(name, "status") == 0) {
            continue;
        }
        if (json_is_string(value)) {
            snprintf(text, sizeof text, "%s", json_string_value(value));
        } else if (json_is_number(value)) {
            snprintf(text, sizeof text, "%.15g", json_number_value(value));
        } else {
            snprintf(text, sizeof text, "%s", json_is_true(value) ? "true" : "false");
        }
        written = snprintf(line + length, sizeof line - length, "%s%.40s=%s", length > 0 ? " " : "",
                           name, text);
        length += written > 0 ? (size_t)written : 0;
        if (length >= sizeof line) {
            break;
        }
    }
    ctl_table_add(table, line);
}

static int print_candidates(const json_t *answer)
{
    static const char *const titles[] = {"JOB", "STATUS", "WHAT THE UPSTREAM SAYS"};
    const json_t *candidates = json_object_get(answer, "candidates");
    struct ctl_table table;

    fprintf(stderr,
            "podgatectl: the upstream lists %lld jobs of %s, of which the ledger knows %lld\n",
            (long long)json_integer_value(json_object_get(answer, "listed")),
            json_string_value(json_object_get(answer, "endpoint")),
            (long long)json_integer_value(json_object_get(answer, "known")));
    if (json_array_size(candidates) == 0) {
        printf("no candidates\n");
        return ctl_finish_output();
    }
    ctl_table_begin(&table, titles, ARRAY_LENGTH(titles));
    for (size_t i = 0; i < json_array_size(candidates); i++) {
        const json_t *candidate = json_array_get(candidates, i);

        ctl_table_add_member(&table, candidate, "id");
        ctl_table_add_member(&table, candidate, "status");
        add_rest(&table, candidate);
    }
    return ctl_table_end(&table);
}

static int candidates(const char *submit, const struct ctl_options *options)
{
    char path[PATH_BYTES];
    json_t *answer;
    int status;

    if (!make_path(submit, "candidates", path)) {
        return EX_USAGE;
    }
    status = ctl_ask(options, "GET", path, NULL, &answer);
    if (status != EX_OK) {
        return status;
    }
    if (options->json) {
        return ctl_print_json(answer);
    }
    status = print_candidates(answer);
    json_decref(answer);
    return status;
}

int ctl_unknown(int count, char **words, const struct ctl_options *options)
{
    if (count == 0 || (count == 1 && strcmp(words[0], "list") == 0)) {
        return list(options);
    }
    if (count == 2 && strcmp(words[0], "settle") == 0) {
        return settle(words[1], options);
    }
    if (count == 2 && strcmp(words[0], "candidates") == 0) {
        return candidates(words[1], options);
    }
    return ctl_wrong_use("expected \"unknown list\", \"unknown settle SUBMIT\" or \"unknown "
                         "candidates SUBMIT\"");
}
