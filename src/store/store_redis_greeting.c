#include "build_config.h"

#include <hiredis/hiredis.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "store/store_redis.h"

/* All of it goes out at once. The answers come in the same order; the last one is the judgement. */

enum kind {
    STEP_AUTH,
    STEP_SELECT,
    STEP_NAME,
    STEP_INFO,
    STEP_FSYNC,
    STEP_POLICY,
    STEP_PROBE,
    STEP_NEW_EPOCH,
    STEP_EPOCH,
    STEP_TIME,
    STEP_SCRIPT, /* and one for each further script */
};
_Static_assert(STEP_SCRIPT + REDIS_SCRIPTS == REDIS_GREETING_STEPS, "one command for each step");

static struct view text_of(const struct redisReply *answer)
{
    return answer && (answer->type == REDIS_REPLY_STRING || answer->type == REDIS_REPLY_STATUS)
               ? view_make(answer->str, answer->len)
               : VIEW("");
}

static void keep(struct view text, char *out)
{
    text = view_first(text, REDIS_ID_MAXIMUM - 1);
    if (text.length > 0) {
        memcpy(out, text.data, text.length);
    }
    out[text.length] = '\0';
}

static void take_config(struct redis_facts *facts, const struct redisReply *answer)
{
    if (answer->type == REDIS_REPLY_ARRAY && answer->elements == 2) {
        redis_facts_read_config(facts, text_of(answer->element[0]), text_of(answer->element[1]));
    }
}

static void finish(struct redis_link *link)
{
    const char *problem = NULL;

    if (!redis_store_judge(link, &problem)) {
        redis_link_fail(link, METRIC_STORE_FAULT_REFUSED, view_of_string(problem));
    } else {
        redis_link_greeted(link);
    }
}

/* An ACL may forbid what podgate only wants to know. */
static bool may_fail(enum kind kind)
{
    return kind == STEP_NAME || kind == STEP_INFO || kind == STEP_FSYNC || kind == STEP_POLICY ||
           kind == STEP_SCRIPT;
}

static void on_answer(void *argument, const struct redisReply *answer, UNUSED bool was_sent)
{
    struct redis_greeting_step *step = argument;
    struct redis_link *link = step->command.link;
    enum kind kind = (enum kind)step->kind;

    link->greeting_waiting--;
    if (!answer || link->state != REDIS_LINK_GREETING) {
        return; /* the link says why itself */
    }
    if (answer->type == REDIS_REPLY_ERROR) {
        struct view text = view_make(answer->str, answer->len);

        if (!may_fail(kind) || redis_error_of(text) == REDIS_ERROR_READ_ONLY ||
            view_starts_with(text, VIEW("NOAUTH")) || view_starts_with(text, VIEW("LOADING"))) {
            redis_link_fail(link, METRIC_STORE_FAULT_REFUSED, text);
            return;
        }
    }
    switch (kind) {
    case STEP_INFO: redis_facts_read_info(&link->facts, text_of(answer)); break;
    case STEP_FSYNC:
    case STEP_POLICY: take_config(&link->facts, answer); break;
    case STEP_NEW_EPOCH: link->facts.epoch_is_new = answer->type == REDIS_REPLY_STATUS; break;
    case STEP_EPOCH: keep(text_of(answer), link->facts.epoch); break;
    case STEP_TIME: redis_facts_read_time(&link->facts, answer); break;
    case STEP_AUTH:
    case STEP_SELECT:
    case STEP_NAME:
    case STEP_SCRIPT:
    case STEP_PROBE: break;
    }
    if (link->greeting_waiting == 0) {
        finish(link);
    }
}

static bool say_at(struct redis_link *link, size_t at, enum kind kind, int count,
                   const struct view *words)
{
    const char *data[6];
    size_t lengths[6];

    for (int i = 0; i < count; i++) {
        data[i] = words[i].data;
        lengths[i] = words[i].length;
    }
    link->greeting[at].kind = kind;
    if (!redis_link_send(link, &link->greeting[at].command, count, data, lengths, on_answer,
                         &link->greeting[at])) {
        return false;
    }
    link->greeting_waiting++;
    return true;
}

static bool say(struct redis_link *link, enum kind kind, int count, const struct view *words)
{
    return say_at(link, kind, kind, count, words);
}

/* Loaded before the first question: one that comes back with NOSCRIPT would be overtaken by those
 * behind it. */
static bool say_scripts(struct redis_link *link)
{
    const struct redis_scripts *scripts = &link->store->scripts;

    for (size_t i = 0; i < REDIS_SCRIPTS; i++) {
        struct view words[] = {VIEW("SCRIPT"), VIEW("LOAD"),
                               view_make(scripts->texts[i], scripts->lengths[i])};

        if (!say_at(link, STEP_SCRIPT + i, STEP_SCRIPT, 3, words)) {
            return false;
        }
    }
    return true;
}

static bool say_auth(struct redis_link *link)
{
    struct view password = secret_view(link->store->password);
    struct view user = view_of_string(link->store->user);

    if (!link->store->password) {
        return true;
    }
    return user.length > 0 ? say(link, STEP_AUTH, 3, (struct view[]){VIEW("AUTH"), user, password})
                           : say(link, STEP_AUTH, 2, (struct view[]){VIEW("AUTH"), password});
}

static struct view key(struct redis_link *link, struct builder *text, struct view name)
{
    size_t start = text->length;

    builder_append(text, view_make(link->store->prefix, link->store->prefix_length));
    builder_append(text, name);
    return view_skip(builder_view(text), start);
}

/* A random name for this life of the data: it is lost with them. */
static struct view make_epoch(char *room)
{
    uint8_t bytes[16];
    struct builder text;

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        memset(bytes, 0, sizeof bytes);
    }
    builder_init(&text, room, 2 * sizeof bytes);
    builder_append_hex_bytes(&text, bytes, sizeof bytes);
    return builder_view(&text);
}

void redis_greeting_begin(struct redis_link *link)
{
    char storage[256];
    char epoch[32];
    char number[24];
    struct builder keys;
    struct builder digits;
    struct view probe_key;
    struct view epoch_key;
    bool good;

    memset(&link->facts, 0, sizeof link->facts);
    link->facts.asked_wall_ms = clock_wall_ms();
    link->greeting_waiting = 0;
    builder_init(&keys, storage, sizeof storage); /* a prefix has 64 bytes at the most */
    builder_init(&digits, number, sizeof number);
    probe_key = key(link, &keys, VIEW(":probe"));
    epoch_key = key(link, &keys, VIEW(":epoch"));
    builder_append_u64(&digits, link->store->address.database);
    good = !builder_failed(&keys) && say_auth(link) &&
           (link->store->address.database == 0 ||
            say(link, STEP_SELECT, 2, (struct view[]){VIEW("SELECT"), builder_view(&digits)})) &&
           say(link, STEP_NAME, 3,
               (struct view[]){VIEW("CLIENT"), VIEW("SETNAME"), VIEW("podgate")}) &&
           say(link, STEP_INFO, 1, (struct view[]){VIEW("INFO")}) &&
           say(link, STEP_FSYNC, 3,
               (struct view[]){VIEW("CONFIG"), VIEW("GET"), VIEW("appendfsync")}) &&
           say(link, STEP_POLICY, 3,
               (struct view[]){VIEW("CONFIG"), VIEW("GET"), VIEW("maxmemory-policy")}) &&
           say(link, STEP_PROBE, 5,
               (struct view[]){VIEW("SET"), probe_key, store_instance(link->store->store),
                               VIEW("PX"), VIEW("60000")}) &&
           say(link, STEP_NEW_EPOCH, 4,
               (struct view[]){VIEW("SET"), epoch_key, make_epoch(epoch), VIEW("NX")}) &&
           say(link, STEP_EPOCH, 2, (struct view[]){VIEW("GET"), epoch_key}) &&
           say(link, STEP_TIME, 1, (struct view[]){VIEW("TIME")}) && say_scripts(link);
    builder_clear(&keys);
    if (!good) {
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("the greeting could not be sent"));
    }
}
