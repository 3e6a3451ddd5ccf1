#include "build_config.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "ctl/ctl.h"
#include "model/job.h"
#include "model/route.h"

enum { JOBS_DEFAULT = 100, PATH_BYTES = 256, TEXT_BYTES = 24 };

/* ---- jobs ------------------------------------------------------------------------------------ */

/* "2h" back from now, or a date; as wall ms in digits. */
static bool read_since(const char *text, char *digits)
{
    uint64_t wall_ms;
    uint64_t span_ms;

    if (config_parse_duration(view_of_string(text), &span_ms)) {
        uint64_t now_ms = clock_wall_ms();

        wall_ms = span_ms < now_ms ? now_ms - span_ms : 0;
    } else if (!config_parse_date(view_of_string(text), &wall_ms)) {
        return false;
    }
    snprintf(digits, TEXT_BYTES, "%llu", (unsigned long long)wall_ms);
    return true;
}

/* States are written in capitals; whoever types them needn't. */
static const char *upper_case(const char *text, char *room)
{
    size_t i = 0;

    if (!text) {
        return NULL;
    }
    for (; text[i] != '\0' && i < TEXT_BYTES - 1; i++) {
        room[i] = text[i] >= 'a' && text[i] <= 'z' ? (char)(text[i] - 'a' + 'A') : text[i];
    }
    room[i] = '\0';
    return room;
}

static int print_jobs(const json_t *jobs, bool has_more)
{
    static const char *const titles[] = {"SUBMITTED", "ENDPOINT", "JOB",   "TEAM",
                                         "STATE",     "RESULT",   "BYTES", "ENDED"};
    static const char *const names[] = {"submitted", "endpoint", "id",           "team",
                                        "state",     "fate",     "result_bytes", "ended"};
    struct ctl_table table;

    ctl_table_begin(&table, titles, ARRAY_LENGTH(titles));
    for (size_t i = 0; i < json_array_size(jobs); i++) {
        for (size_t j = 0; j < ARRAY_LENGTH(names); j++) {
            ctl_table_add_member(&table, json_array_get(jobs, i), names[j]);
        }
    }
    if (has_more) {
        fprintf(stderr, "podgatectl: there are more; --limit shows more\n");
    }
    return ctl_table_end(&table);
}

int ctl_jobs(int count, UNUSED char **words, const struct ctl_options *options)
{
    char since[TEXT_BYTES];
    char state[TEXT_BYTES];
    struct builder query;
    size_t limit;
    json_t *jobs;
    bool has_more;
    int status;

    if (count != 0) {
        return ctl_wrong_use("jobs: expected no further words");
    }
    if (options->since && !read_since(options->since, since)) {
        return ctl_wrong_use("--since \"%s\": expected a span such as 2h, or a date",
                             options->since);
    }
    if (!ctl_read_limit(options, JOBS_DEFAULT, &limit)) {
        return EX_USAGE;
    }
    builder_init(&query, NULL, 0);
    ctl_query_add(&query, "team", options->team);
    ctl_query_add(&query, "endpoint", options->endpoint);
    ctl_query_add(&query, "state", upper_case(options->state, state));
    ctl_query_add(&query, "since", options->since ? since : NULL);
    status = ctl_ask_list(options, "/operator/v1/jobs", builder_view(&query), "jobs", limit, &jobs,
                          &has_more);
    builder_clear(&query);
    if (status != EX_OK) {
        return status;
    }
    if (options->json) {
        return ctl_print_json(json_pack("{s:o, s:b}", "jobs", jobs, "more", (int)has_more));
    }
    status = print_jobs(jobs, has_more);
    json_decref(jobs);
    return status;
}

/* ---- one job --------------------------------------------------------------------------------- */

int ctl_job(int count, char **words, const struct ctl_options *options)
{
    char path[PATH_BYTES];
    json_t *job;
    int status;

    if (count != 2) {
        return ctl_wrong_use("job: expected an endpoint and a job's id");
    }
    if (!route_endpoint_valid(view_of_string(words[0])) ||
        !route_job_valid(view_of_string(words[1]))) {
        return ctl_wrong_use("\"%.64s\" and \"%.128s\" can't be an endpoint and a job", words[0],
                             words[1]);
    }
    snprintf(path, sizeof path, "/operator/v1/jobs/%s/%s", words[0], words[1]);
    status = ctl_ask(options, "GET", path, NULL, &job);
    if (status != EX_OK) {
        return status;
    }
    if (options->json) {
        return ctl_print_json(job);
    }
    status = ctl_print_members(job);
    json_decref(job);
    return status;
}

/* ---- adopt ----------------------------------------------------------------------------------- */

int ctl_adopt(int count, char **words, const struct ctl_options *options)
{
    json_t *body;
    json_t *answer;
    int status;

    if (count != 2 || !options->team) {
        return ctl_wrong_use("adopt: expected an endpoint, a job's id and --team NAME");
    }
    body = json_pack("{s:s, s:s, s:s, s:s}", "endpoint", words[0], "id", words[1], "team",
                     options->team, "kind", options->kind ? options->kind : "run");
    if (!body) {
        return ctl_wrong_use("these aren't names");
    }
    status = ctl_ask(options, "POST", "/operator/v1/adopt", body, &answer);
    json_decref(body);
    if (status != EX_OK) {
        return status;
    }
    if (options->json) {
        return ctl_print_json(answer);
    }
    json_decref(answer);
    printf("%s/%s belongs to team %s now, and is followed to its end\n", words[0], words[1],
           options->team);
    return ctl_finish_output();
}
