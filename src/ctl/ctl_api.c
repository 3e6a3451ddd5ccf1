#include "build_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "ctl/ctl.h"

static const char default_socket[] = "/run/podgate/admin.sock";

enum {
    TIMEOUT_MS = 30 * 1000,
    ANSWER_BYTES = 64 * 1024 * 1024,
    PAGE_ENTRIES = 1000,
    LIMIT_MAXIMUM = 10 * 1000 * 1000,
};

/* The socket's path, on the heap: --socket, else what the configuration given by -c says, else
 * where the service has it. NULL: `*status` is what to end with. */
static char *find_socket(const struct ctl_options *options, int *status)
{
    const char *path = options->socket ? options->socket : default_socket;
    struct config *config = NULL;
    char *copy;

    if (!options->socket && options->config) {
        config = ctl_load_config(options, status);
        if (!config) {
            return NULL;
        }
        if (config->admin_socket.length > 0) {
            path = config->admin_socket.data;
        }
    }
    copy = strdup(path);
    config_unref(config);
    if (!copy) {
        fprintf(stderr, "podgatectl: out of memory\n");
        *status = EX_OSERR;
    }
    return copy;
}

/* ---- one question ---------------------------------------------------------------------------- */

static void build_request(struct builder *request, const char *method, const char *path,
                          const char *body)
{
    builder_append(request, view_of_string(method));
    builder_append_byte(request, ' ');
    builder_append(request, view_of_string(path));
    builder_append(request, VIEW(" HTTP/1.1\r\nHost: podgate\r\nConnection: close\r\n"));
    if (body) {
        builder_append(request, VIEW("Content-Type: application/json\r\nContent-Length: "));
        builder_append_u64(request, strlen(body));
        builder_append(request, VIEW("\r\n"));
    }
    builder_append(request, VIEW("\r\n"));
    builder_append(request, view_of_string(body));
}

/* What to end with for an error of the API. */
static int status_of_refusal(unsigned status)
{
    switch (status) {
    case 400: return EX_USAGE;
    case 403: return EX_NOPERM;
    case 404:
    case 409: return EX_DATAERR;
    case 502: return EX_UNAVAILABLE;
    case 503: return EX_TEMPFAIL;
    default: return EX_PROTOCOL;
    }
}

static int read_answer(const char *path, struct view answer, json_t **result)
{
    unsigned status = ctl_http_status(answer);
    const char *end = memmem(answer.data, answer.length, "\r\n\r\n", 4);
    struct view body = end ? view_skip(answer, (size_t)(end - answer.data) + 4) : VIEW("");
    json_t *value = json_loadb(body.data ? body.data : "", body.length, 0, NULL);
    const char *text = json_string_value(json_object_get(value, "error"));

    if (status == 200 && json_is_object(value)) {
        *result = value;
        return EX_OK;
    }
    if (status == 0 || !text) {
        fprintf(stderr, "podgatectl: %s: what answers isn't podgate's operator API\n", path);
        status = 0;
    } else {
        fprintf(stderr, "podgatectl: %s\n", text);
    }
    json_decref(value);
    return status_of_refusal(status);
}

static int exchange(const char *socket, struct view request, json_t **answer)
{
    const struct config_address address = {.unix_path = view_of_string(socket)};
    size_t length = 0;
    char *text = ctl_exchange(&address, request, ANSWER_BYTES, TIMEOUT_MS, &length);
    int status;

    if (!text) {
        int problem = errno;

        fprintf(stderr, "podgatectl: %s: %s%s\n", socket, strerror(problem),
                problem == ENOENT || problem == ECONNREFUSED
                    ? "; is podgate running, and with this admin_socket?"
                    : "");
        return problem == EACCES || problem == EPERM ? EX_NOPERM : EX_UNAVAILABLE;
    }
    status = read_answer(socket, view_make(text, length), answer);
    free(text);
    return status;
}

int ctl_ask(const struct ctl_options *options, const char *method, const char *path,
            const json_t *body, json_t **answer)
{
    int status = EX_OSERR;
    char *socket = find_socket(options, &status);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct builder request;

    *answer = NULL;
    builder_init(&request, NULL, 0);
    if (socket) {
        build_request(&request, method, path, text);
        if (builder_failed(&request) || (body && !text)) {
            fprintf(stderr, "podgatectl: out of memory\n");
        } else {
            status = exchange(socket, builder_view(&request), answer);
        }
    }
    builder_clear(&request);
    free(text);
    free(socket);
    return status;
}

/* ---- lists ----------------------------------------------------------------------------------- */

void ctl_query_add(struct builder *query, const char *name, const char *value)
{
    if (!value) {
        return;
    }
    if (query->length > 0) {
        builder_append_byte(query, '&');
    }
    builder_append(query, view_of_string(name));
    builder_append_byte(query, '=');
    for (; *value != '\0'; value++) {
        if ((*value >= '0' && *value <= '9') || (*value >= 'a' && *value <= 'z') ||
            (*value >= 'A' && *value <= 'Z') || *value == '-' || *value == '_' || *value == '.') {
            builder_append_byte(query, *value);
        } else {
            uint8_t byte = (uint8_t)*value;

            builder_append_byte(query, '%');
            builder_append_hex_bytes(query, &byte, 1);
        }
    }
}

bool ctl_read_limit(const struct ctl_options *options, size_t otherwise, size_t *limit)
{
    uint64_t number = otherwise;

    if (options->limit &&
        (!view_parse_u64(view_of_string(options->limit), LIMIT_MAXIMUM, &number) || number == 0)) {
        (void)ctl_wrong_use("--limit \"%s\": expected a number from 1 to %d", options->limit,
                            LIMIT_MAXIMUM);
        return false;
    }
    *limit = (size_t)number;
    return true;
}

/* GET `path`?`query` with the cursor of the page before and a limit. */
static int ask_page(const struct ctl_options *options, const char *path, struct view query,
                    const char *cursor, size_t limit, json_t **page)
{
    struct builder target;
    struct builder more;
    char number[24];
    int status = EX_OSERR;

    snprintf(number, sizeof number, "%zu", limit < PAGE_ENTRIES ? limit : PAGE_ENTRIES);
    builder_init(&target, NULL, 0);
    builder_init(&more, NULL, 0);
    builder_append(&more, query);
    ctl_query_add(&more, "limit", number);
    ctl_query_add(&more, "cursor", *cursor != '\0' ? cursor : NULL);
    builder_append(&target, view_of_string(path));
    builder_append_byte(&target, '?');
    builder_append(&target, builder_view(&more));
    builder_append_byte(&target, '\0');
    if (!builder_failed(&target) && !builder_failed(&more)) {
        status = ctl_ask(options, "GET", target.data, NULL, page);
    } else {
        fprintf(stderr, "podgatectl: out of memory\n");
    }
    builder_clear(&target);
    builder_clear(&more);
    return status;
}

int ctl_ask_list(const struct ctl_options *options, const char *path, struct view query,
                 const char *name, size_t limit, json_t **list, bool *has_more)
{
    json_t *page = NULL;
    const char *cursor = "";
    int status = EX_OK;

    *list = json_array();
    *has_more = false;
    do {
        json_t *next = NULL;
        size_t before = json_array_size(*list);

        status = ask_page(options, path, query, cursor, limit - before, &next);
        json_decref(page);
        page = next;
        if (status == EX_OK && json_array_extend(*list, json_object_get(page, name)) != 0) {
            fprintf(stderr, "podgatectl: out of memory, or not a list\n");
            status = EX_PROTOCOL;
        }
        cursor = json_string_value(json_object_get(page, "cursor"));
        cursor = cursor ? cursor : "";
        *has_more = *cursor != '\0';
    } while (status == EX_OK && *has_more && json_array_size(*list) < limit);
    json_decref(page);
    if (status != EX_OK) {
        json_decref(*list);
        *list = NULL;
    }
    return status;
}
