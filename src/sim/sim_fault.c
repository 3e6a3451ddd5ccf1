#include "build_config.h"

#include "sim/sim_fault.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim_clock.h"
#include "sim/sim_target.h"

static const struct {
    const char *name;
    enum fault_kind kind;
} kinds[] = {
    {"refuse", FAULT_REFUSE},
    {"accept-reset", FAULT_ACCEPT_RESET},
    {"accept-close", FAULT_ACCEPT_CLOSE},
    {"accept-garbage", FAULT_ACCEPT_GARBAGE},
    {"reset-request", FAULT_RESET_REQUEST},
    {"status", FAULT_STATUS},
    {"redirect", FAULT_REDIRECT},
    {"phantom", FAULT_PHANTOM},
    {"no-id", FAULT_NO_ID},
    {"close", FAULT_CLOSE},
    {"delay", FAULT_DELAY},
    {"wrong-id", FAULT_WRONG_ID},
    {"echo", FAULT_ECHO},
    {"gzip", FAULT_GZIP},
    {"drip", FAULT_DRIP},
    {"cut", FAULT_CUT},
    {"reset", FAULT_RESET},
    {"stall", FAULT_STALL},
    {"wrong-length", FAULT_WRONG_LENGTH},
    {"no-length", FAULT_NO_LENGTH},
    {"twin-length", FAULT_TWIN_LENGTH},
    {"both-framings", FAULT_BOTH_FRAMINGS},
    {"bad-chunk", FAULT_BAD_CHUNK},
    {"garbage", FAULT_GARBAGE},
    {"1xx", FAULT_INFORMATIONAL},
    {"extra", FAULT_EXTRA},
    {"big-header", FAULT_BIG_HEADER},
    {"raw", FAULT_RAW},
};

struct sim_faults {
    TAILQ_HEAD(fault_list, fault) list;
    struct sim_http *http;
    struct sim_http_hooks hooks;
    struct event *reopen;
    bool watching;
    int64_t last_number;
};

static const char *kind_name(enum fault_kind kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i].kind == kind)
            return kinds[i].name;
    }
    return "?";
}

int64_t fault_number(const struct fault *fault, int64_t otherwise)
{
    int64_t number;
    return fault->value && sim_json_integer(sim_text_of(fault->value), &number) ? number
                                                                                : otherwise;
}

/* ---- matching ---- */

static bool strikes_while_arriving(enum fault_kind kind)
{
    return kind == FAULT_RESET_REQUEST;
}

static bool strikes_connections(enum fault_kind kind)
{
    return kind <= FAULT_ACCEPT_GARBAGE;
}

static bool is_worker_operation(struct sim_text operation)
{
    return (operation.length > 4 && memcmp(operation.data, "job-", 4) == 0) ||
           sim_text_is(operation, "ping");
}

/* Counts a match; true when it is this fault's turn. */
static bool take_turn(struct fault *fault)
{
    if (fault->count == 0)
        return false;
    if (fault->skip > 0) {
        fault->skip--;
        return false;
    }
    if (fault->count > 0)
        fault->count--;
    fault->hits++;
    return true;
}

struct fault *faults_match(struct sim_faults *faults, struct sim_text method,
                           const struct target *target, bool while_arriving)
{
    struct fault *fault;
    TAILQ_FOREACH(fault, &faults->list, link)
    {
        /* Real workers are struck only by a fault that names one of their operations. */
        if ((!fault->operation[0] && is_worker_operation(target->segment[2])) ||
            strikes_connections(fault->kind) ||
            strikes_while_arriving(fault->kind) != while_arriving ||
            (fault->operation[0] && !sim_text_is(target->segment[2], fault->operation)) ||
            (fault->endpoint[0] && !sim_text_is(target->segment[1], fault->endpoint)) ||
            (fault->method[0] && !sim_text_is(method, fault->method)))
            continue;
        if (take_turn(fault))
            return fault;
    }
    return NULL;
}

static enum accept_action on_accepted(void *argument)
{
    struct sim_faults *faults = argument;
    struct fault *fault;
    TAILQ_FOREACH(fault, &faults->list, link)
    {
        if (!strikes_connections(fault->kind) || fault->kind == FAULT_REFUSE || !take_turn(fault))
            continue;
        return fault->kind == FAULT_ACCEPT_RESET   ? ACCEPT_RESET
               : fault->kind == FAULT_ACCEPT_CLOSE ? ACCEPT_CLOSE
                                                   : ACCEPT_GARBAGE;
    }
    return ACCEPT_NORMAL;
}

static size_t on_request_begun(void *argument, struct sim_text method, struct sim_text line)
{
    struct target target;
    target_parse(&target, line);
    if (!sim_text_is(target.segment[0], "v2"))
        return SIZE_MAX;
    struct fault *fault = faults_match(argument, method, &target, true);
    return fault ? (size_t)fault_number(fault, 1) : SIZE_MAX;
}

/* ---- the list ---- */

static void on_reopen(evutil_socket_t fd, short what, void *argument)
{
    (void)fd;
    (void)what;
    struct sim_faults *faults = argument;
    if (!sim_http_up(faults->http))
        fprintf(stderr, "podgate-sim: cannot listen again after refuse\n");
}

struct sim_faults *faults_create(struct event_base *base)
{
    struct sim_faults *faults = calloc(1, sizeof *faults);
    if (!faults)
        return NULL;
    TAILQ_INIT(&faults->list);
    faults->hooks = (struct sim_http_hooks){.argument = faults,
                                            .accepted = on_accepted,
                                            .request_begun = on_request_begun,
                                            .watching = &faults->watching};
    faults->reopen = evtimer_new(base, on_reopen, faults);
    if (faults->reopen)
        return faults;
    free(faults);
    return NULL;
}

void faults_set_http(struct sim_faults *faults, struct sim_http *http)
{
    faults->http = http;
}

const struct sim_http_hooks *faults_hooks(struct sim_faults *faults)
{
    return &faults->hooks;
}

static void fault_free(struct fault *fault)
{
    free(fault->value);
    free(fault);
}

int64_t faults_remove(struct sim_faults *faults, int64_t number)
{
    int64_t removed = 0;
    bool refused = false;
    faults->watching = false;
    for (struct fault *fault = TAILQ_FIRST(&faults->list), *next; fault; fault = next) {
        next = TAILQ_NEXT(fault, link);
        if (number != 0 && fault->number != number) {
            faults->watching = faults->watching || strikes_while_arriving(fault->kind);
            continue;
        }
        refused = refused || fault->kind == FAULT_REFUSE;
        TAILQ_REMOVE(&faults->list, fault, link);
        fault_free(fault);
        removed++;
    }
    if (refused)
        on_reopen(-1, 0, faults);
    return removed;
}

void faults_destroy(struct sim_faults *faults)
{
    if (!faults)
        return;
    while (!TAILQ_EMPTY(&faults->list)) {
        struct fault *fault = TAILQ_FIRST(&faults->list);
        TAILQ_REMOVE(&faults->list, fault, link);
        fault_free(fault);
    }
    event_free(faults->reopen);
    free(faults);
}

/* ---- specifications ---- */

static bool set_string(char *out, size_t out_bytes, const char *value)
{
    size_t length = strlen(value);
    if (length >= out_bytes)
        return false;
    memcpy(out, value, length + 1);
    return true;
}

/* Sets one key; `fault->kind` is set by "kind", or by the kind's own name. */
static bool set_key(struct fault *fault, const char *key, const char *value, bool *has_kind)
{
    static const struct {
        const char *name;
        size_t offset;
    } numbers[] = {
        {"count", offsetof(struct fault, count)},
        {"skip", offsetof(struct fault, skip)},
        {"delay", offsetof(struct fault, delay_ms)},
        {"retry-after", offsetof(struct fault, retry_after_s)},
        {"code", offsetof(struct fault, code)},
        {"bytes", offsetof(struct fault, bytes)},
    };
    if (*has_kind) {
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            if (strcmp(key, numbers[i].name) != 0)
                continue;
            int64_t number;
            if (!sim_json_integer(sim_text_of(value), &number))
                return false;
            memcpy((char *)fault + numbers[i].offset, &number, sizeof number);
            return true;
        }
        if (strcmp(key, "operation") == 0)
            return set_string(fault->operation, sizeof fault->operation, value);
        if (strcmp(key, "endpoint") == 0)
            return set_string(fault->endpoint, sizeof fault->endpoint, value);
        if (strcmp(key, "method") == 0)
            return set_string(fault->method, sizeof fault->method, value);
        if (strcmp(key, "body") == 0)
            return set_string(fault->body, sizeof fault->body, value);
        if (strcmp(key, "executed") == 0) {
            fault->executed = strcmp(value, "yes") == 0 || strcmp(value, "true") == 0;
            return true;
        }
        if (strcmp(key, "value") == 0) {
            free(fault->value);
            fault->value = strdup(value);
            return fault->value != NULL;
        }
        return false;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(key, kinds[i].name) == 0) {
            fault->kind = kinds[i].kind;
            *has_kind = true;
            return !*value || (fault->value = strdup(value)) != NULL;
        }
    }
    return false;
}

/* Not strndup(): the bytes need not end with NUL, which it may look for (and sanitizers mind). */
static char *copy_text(struct sim_text text)
{
    char *copy = malloc(text.length + 1);
    if (copy) {
        memcpy(copy, text.data, text.length);
        copy[text.length] = '\0';
    }
    return copy;
}

static bool read_text(struct fault *fault, struct sim_text text, char *problem, size_t bytes)
{
    char *copy = copy_text(text);
    bool has_kind = false;
    bool good = copy != NULL;
    char *rest = copy;
    for (char *part; good && (part = strsep(&rest, ",")) != NULL;) {
        char *value = strchr(part, '=');
        if (value)
            *value++ = '\0';
        good = set_key(fault, part, value ? value : "", &has_kind);
        if (!good)
            snprintf(problem, bytes, "%s %s",
                     has_kind ? "bad key or value:" : "unknown kind:", part);
    }
    free(copy);
    return good;
}

static char *plain_value(struct sim_text value)
{
    return sim_json_type(value) == SIM_JSON_STRING ? sim_json_string(value)
                                                   : copy_text(value);
}

static bool read_json(struct fault *fault, struct sim_text text, char *problem, size_t bytes)
{
    struct sim_text raw;
    bool has_kind = false;
    char *kind = sim_json_get(text, "kind", &raw) ? plain_value(raw) : NULL;
    if (!kind || !set_key(fault, kind, "", &has_kind)) {
        snprintf(problem, bytes, "unknown kind: %s", kind ? kind : "none given");
        free(kind);
        return false;
    }
    free(kind);
    size_t cursor = 0;
    struct sim_text name;
    while (sim_json_next(text, &cursor, &name, &raw)) {
        char *key = sim_json_string(name);
        char *value = plain_value(raw);
        bool good =
            key && value && (strcmp(key, "kind") == 0 || set_key(fault, key, value, &has_kind));
        if (!good)
            snprintf(problem, bytes, "bad key or value: %s", key ? key : "");
        free(key);
        free(value);
        if (!good)
            return false;
    }
    return true;
}

static bool check(const struct fault *fault, char *problem, size_t bytes)
{
    bool needs_code = fault->kind == FAULT_STATUS;
    if (needs_code && (fault_number(fault, 0) < 200 || fault_number(fault, 0) > 599)) {
        snprintf(problem, bytes, "status needs a value from 200 to 599");
        return false;
    }
    if ((fault->kind == FAULT_RAW || fault->kind == FAULT_REDIRECT) && !fault->value) {
        snprintf(problem, bytes, "%s needs a value", kind_name(fault->kind));
        return false;
    }
    return true;
}

static void begin(struct sim_faults *faults, struct fault *fault)
{
    if (strikes_while_arriving(fault->kind))
        faults->watching = true;
    if (fault->kind == FAULT_DELAY && fault->delay_ms == 0)
        fault->delay_ms = fault_number(fault, 1000);
    if (fault->kind != FAULT_REFUSE)
        return;
    fault->hits++;
    sim_http_down(faults->http, false);
    if (fault->value) {
        struct timeval wait = sim_clock_real_interval(fault_number(fault, 1000));
        event_add(faults->reopen, &wait);
    }
}

int64_t faults_add(struct sim_faults *faults, struct sim_text specification, char *problem,
                   size_t problem_bytes)
{
    struct fault *fault = calloc(1, sizeof *fault);
    if (!fault) {
        snprintf(problem, problem_bytes, "out of memory");
        return -1;
    }
    fault->count = -1;
    fault->retry_after_s = -1;
    bool is_json = sim_json_valid(specification) && sim_json_type(specification) == SIM_JSON_OBJECT;
    if (!(is_json ? read_json : read_text)(fault, specification, problem, problem_bytes) ||
        !check(fault, problem, problem_bytes)) {
        fault_free(fault);
        return -1;
    }
    fault->number = ++faults->last_number;
    TAILQ_INSERT_TAIL(&faults->list, fault, link);
    begin(faults, fault);
    return fault->number;
}

void faults_write(struct evbuffer *out, const struct sim_faults *faults)
{
    const struct fault *fault;
    evbuffer_add(out, "[", 1);
    TAILQ_FOREACH(fault, &faults->list, link)
    {
        evbuffer_add_printf(out,
                            "%s{\"number\":%" PRId64 ",\"kind\":\"%s\",\"count\":%" PRId64
                            ",\"hits\":%" PRId64 ",\"operation\":",
                            fault == TAILQ_FIRST(&faults->list) ? "" : ",", fault->number,
                            kind_name(fault->kind), fault->count, fault->hits);
        sim_json_quote(out, fault->operation, strlen(fault->operation));
        evbuffer_add_printf(out, ",\"endpoint\":");
        sim_json_quote(out, fault->endpoint, strlen(fault->endpoint));
        evbuffer_add(out, "}", 1);
    }
    evbuffer_add(out, "]", 1);
}
