#include "build_config.h"

#include "base/fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

enum fault_action { FAULT_ERRNO, FAULT_KILL, FAULT_DELAY, FAULT_COUNT };

enum { LARGEST_ERRNO = 200, LONGEST_DELAY_MS = 600000 };

struct fault_rule {
    struct view name;
    enum fault_action action;
    int error;
    uint64_t delay_ms;
    uint64_t pass;  /* 0: every one */
    bool and_later; /* from `pass` on */
    _Atomic uint64_t passes;
};

/* The rules of the process, in one block with their text. A global, since a fault point must work
 * in functions that are handed nothing; there are none in builds that are given away. */
struct fault_plan {
    char *text;
    size_t count;
    struct fault_rule rules[];
};
static _Atomic(struct fault_plan *) plan;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;
static bool loaded_by_hand;

/* Takes what is in front of the first `separator` off `rest`; all of it when there is none. */
static struct view cut(struct view *rest, char separator)
{
    size_t at = view_find_byte(*rest, separator);
    struct view first = view_first(*rest, at);

    *rest = view_skip(*rest, at + 1);
    return first;
}

static int errno_of_name(struct view name)
{
    for (int error = 1; error < LARGEST_ERRNO; error++) {
        const char *known = strerrorname_np(error);

        if (known && view_equal(view_of_string(known), name)) {
            return error;
        }
    }
    return 0;
}

static bool parse_action(struct fault_rule *rule, struct view text)
{
    if (view_equal(text, VIEW("kill"))) {
        rule->action = FAULT_KILL;
        return true;
    }
    if (view_equal(text, VIEW("count"))) {
        rule->action = FAULT_COUNT;
        return true;
    }
    if (view_starts_with(text, VIEW("delay:"))) {
        rule->action = FAULT_DELAY;
        return view_parse_u64(view_skip(text, 6), LONGEST_DELAY_MS, &rule->delay_ms);
    }
    rule->action = FAULT_ERRNO;
    rule->error = errno_of_name(text);
    return rule->error != 0;
}

static bool parse_pass(struct fault_rule *rule, struct view text)
{
    if (text.length > 0 && text.data[text.length - 1] == '+') {
        rule->and_later = true;
        text.length--;
    }
    return view_parse_u64(text, UINT64_MAX, &rule->pass) && rule->pass > 0;
}

static bool is_point_name(struct view name)
{
    for (size_t i = 0; i < name.length; i++) {
        char byte = name.data[i];

        if (!(byte >= 'a' && byte <= 'z') && !(byte >= '0' && byte <= '9') && byte != '_' &&
            byte != '.') {
            return false;
        }
    }
    return name.length > 0;
}

/* NULL, or what is wrong. */
static const char *parse_rule(struct fault_rule *rule, struct view text)
{
    struct view rest = text;
    bool has_pass = view_find_byte(text, '@') < text.length;
    struct view action;

    rule->name = cut(&rest, '=');
    action = cut(&rest, '@');
    if (!is_point_name(rule->name)) {
        return "a rule is POINT=ACTION or POINT=ACTION@PASS, with a point of [a-z0-9_.]";
    }
    if (!parse_action(rule, action)) {
        return "an action is the name of an errno value, kill, count or delay:MILLISECONDS";
    }
    if (has_pass && !parse_pass(rule, rest)) {
        return "a pass is a number from 1 on, with a + behind it for all later ones too";
    }
    return NULL;
}

static const char *parse_rules(const char *text, struct fault_plan **result)
{
    size_t most = 1;
    struct fault_plan *made;
    struct view rest;

    for (const char *at = text; *at; at++) {
        most += *at == ',';
    }
    made = calloc(1, sizeof *made + most * sizeof made->rules[0]);
    if (!made || !(made->text = strdup(text))) {
        free(made);
        return "no memory for the rules";
    }
    rest = view_of_string(made->text);
    while (rest.length > 0) {
        const char *problem = parse_rule(&made->rules[made->count++], cut(&rest, ','));

        if (problem) {
            free(made->text);
            free(made);
            return problem;
        }
    }
    *result = made;
    return NULL;
}

static const char *replace_plan(const char *rules)
{
    struct fault_plan *made = NULL;
    struct fault_plan *old;
    const char *problem = rules ? parse_rules(rules, &made) : NULL;

    if (problem) {
        return problem;
    }
    old = atomic_exchange_explicit(&plan, made, memory_order_acq_rel);
    if (old) {
        free(old->text);
        free(old);
    }
    return NULL;
}

static void load_environment(void)
{
    const char *rules = getenv("PODGATE_FAULT");
    const char *problem = loaded_by_hand || !rules ? NULL : replace_plan(rules);

    if (problem) {
        fprintf(stderr, "PODGATE_FAULT=\"%s\": %s\n", rules, problem);
        _exit(EX_USAGE);
    }
}

bool fault_load(const char *rules, const char **problem)
{
    loaded_by_hand = true;
    pthread_once(&environment_once, load_environment);
    *problem = replace_plan(rules);
    return *problem == NULL;
}

static bool wants(const struct fault_rule *rule, uint64_t pass)
{
    return rule->pass == 0 || pass == rule->pass || (rule->and_later && pass > rule->pass);
}

/* True: the step fails, with errno set. */
static bool act(const struct fault_rule *rule)
{
    struct timespec delay = {(time_t)(rule->delay_ms / 1000),
                             (long)(rule->delay_ms % 1000 * 1000000)};

    switch (rule->action) {
    case FAULT_ERRNO: errno = rule->error; return true;
    case FAULT_KILL: kill(getpid(), SIGKILL); return true;
    case FAULT_DELAY:
        while (nanosleep(&delay, &delay) != 0 && errno == EINTR) {
            continue;
        }
        return false;
    case FAULT_COUNT: return false;
    }
    return false;
}

bool fault_pass(const char *name)
{
    struct fault_plan *rules;
    struct view point = view_of_string(name);
    struct fault_rule *acting = NULL;

    pthread_once(&environment_once, load_environment);
    rules = atomic_load_explicit(&plan, memory_order_acquire);
    for (size_t i = 0; rules && i < rules->count; i++) {
        struct fault_rule *rule = &rules->rules[i];

        if (view_equal(rule->name, point)) {
            uint64_t pass = 1 + atomic_fetch_add_explicit(&rule->passes, 1, memory_order_relaxed);

            if (!acting && wants(rule, pass)) {
                acting = rule;
            }
        }
    }
    return acting && act(acting);
}

uint64_t fault_passes(const char *name)
{
    const struct fault_plan *rules = atomic_load_explicit(&plan, memory_order_acquire);

    for (size_t i = 0; rules && i < rules->count; i++) {
        if (view_equal(rules->rules[i].name, view_of_string(name))) {
            return atomic_load_explicit(&rules->rules[i].passes, memory_order_relaxed);
        }
    }
    return 0;
}
