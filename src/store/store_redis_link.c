#include "build_config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <hiredis/adapters/libevent.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <hiredis/sds.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/fault.h"
#include "net/resolver.h"
#include "store/store_redis.h"

/* hiredis 0.14 blocks on names and has no time-outs of its own, so that names go through
 * net/resolver and one timer here watches over each step: the rest between attempts, an attempt as
 * a whole, and the silence of a connection that owes an answer. */

enum { BEAT_MS = 250, JUDGE_MS = 250 };

static void set_timer(struct redis_link *link, uint64_t ms)
{
    struct timeval wait = {.tv_sec = (time_t)(ms / 1000),
                           .tv_usec = (suseconds_t)(ms % 1000 * 1000)};

    (void)event_add(link->timer, &wait);
}

/* Half to all of the step, so that podgates don't come back in one crowd. */
static uint64_t back_off_ms(unsigned failures)
{
    uint64_t step = REDIS_BACK_OFF_MINIMUM_MS;
    uint16_t random = 0;

    while (failures-- > 1 && step < REDIS_BACK_OFF_MAXIMUM_MS) {
        step *= 2;
    }
    if (step > REDIS_BACK_OFF_MAXIMUM_MS) {
        step = REDIS_BACK_OFF_MAXIMUM_MS;
    }
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random) {
        random = 0;
    }
    return step / 2 + step * random / 2 / UINT16_MAX;
}

/* ---- commands -------------------------------------------------------------------------------- */

/* What hiredis has not given to the kernel yet. */
static uint64_t unsent_bytes(const struct redisAsyncContext *context)
{
    return context->c.obuf ? sdslen(context->c.obuf) : 0;
}

/* Only a command that had none before it says how fast Redis is; the others waited for those. */
static void note_pace(struct redis_link *link, const struct redis_command *command)
{
    if (command->was_alone) {
        bool is_slow = clock_mono_ms() - command->sent_ms > REDIS_SLOW_MS;

        link->slow_answers = is_slow ? link->slow_answers + 1 : 0;
    }
}

bool redis_link_has_room(const struct redis_link *link)
{
    /* Under load the connection is let run empty now and then, to see how fast it is. */
    return link->state == REDIS_LINK_READY && !link->is_closing && link->in_flight < REDIS_WINDOW &&
           (link->in_flight == 0 || clock_mono_ms() - link->judged_ms < JUDGE_MS);
}

static void end_command(struct redis_link *link, const struct redisReply *answer, bool was_sent)
{
    struct redis_command *command = link->first;

    link->first = command->next;
    link->in_flight--;
    if (!link->first) {
        link->last = &link->first;
    }
    command->answered(command->argument, answer, was_sent);
}

static void on_reply(struct redisAsyncContext *context, void *answer, void *argument)
{
    struct redis_command *command = argument;
    struct redis_link *link = command->link;

    if (!answer) {
        /* The connection is going down; hiredis answers all that it owes with nothing. */
        if (!link->is_closing) {
            link->is_closing = true;
            link->sent = link->written - unsent_bytes(context);
        }
        end_command(link, NULL, command->end <= link->sent);
        return;
    }
    note_pace(link, command);
    if (FAULT_POINT("store.redis.read")) {
        link->is_closing = true;
        link->sent = link->written;
        end_command(link, NULL, true);
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, view_of_string(strerrordesc_np(errno)));
        return;
    }
    end_command(link, answer, true);
    if (link->slow_answers >= REDIS_SLOW_ANSWERS && link->context == context) {
        redis_link_fail(link, METRIC_STORE_FAULT_SLOW, VIEW("answers take more than 100 ms"));
    }
}

bool redis_link_send(struct redis_link *link, struct redis_command *command, int count,
                     const char *const *words, const size_t *lengths, redis_answered *answered,
                     void *argument)
{
    sds text = NULL;
    int length;

    if (!link->context || link->is_closing ||
        (link->state != REDIS_LINK_READY && link->state != REDIS_LINK_GREETING) ||
        FAULT_POINT("store.redis.write")) {
        return false;
    }
    length =
        redisFormatSdsCommandArgv(&text, count, (const char **)(void *)(uintptr_t)words, lengths);
    if (length <= 0) {
        return false;
    }
    command->link = link;
    command->next = NULL;
    command->answered = answered;
    command->argument = argument;
    command->sent_ms = clock_mono_ms();
    command->was_alone = link->in_flight == 0;
    command->end = link->written + (uint64_t)length;
    if (redisAsyncFormattedCommand(link->context, on_reply, command, text, (size_t)length) !=
        REDIS_OK) {
        redisFreeSdsCommand(text);
        return false;
    }
    redisFreeSdsCommand(text);
    link->written = command->end;
    *link->last = command;
    link->last = &command->next;
    link->in_flight++;
    if (command->was_alone) {
        link->judged_ms = command->sent_ms;
    }
    return true;
}

/* ---- the end of a connection ----------------------------------------------------------------- */

/* Forgets the connection and answers what it owes with nothing. */
static void drop(struct redis_link *link)
{
    struct redisAsyncContext *context = link->context;

    redis_sentinel_stop(link);
    if (context) {
        if (!link->is_closing) {
            link->is_closing = true;
            link->sent = link->written - unsent_bytes(context);
        }
        link->context = NULL;
        /* Frees at once or, from within a callback of its own, right after that. In both cases the
         * commands are answered here and now or by hiredis before anything else runs. */
        redisAsyncFree(context);
    }
}

static void rest(struct redis_link *link)
{
    link->state = REDIS_LINK_RESTING;
    link->failures++;
    set_timer(link, back_off_ms(link->failures));
}

void redis_link_fail(struct redis_link *link, enum metric_store_fault reason, struct view detail)
{
    bool was_ready = link->state == REDIS_LINK_READY;

    link->was_tried = true;
    rest(link); /* before commands are answered: who asks anew then finds the link down */
    redis_store_note_state(link, false, reason, detail);
    drop(link);
    if (was_ready || link->failures == 1) {
        link->on_change(link->argument, false);
    }
}

static void on_disconnect(const struct redisAsyncContext *context, UNUSED int status)
{
    struct redis_link *link = context->data;

    if (link && link->context == context) {
        link->context = NULL; /* hiredis frees it when this returns */
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY,
                        view_of_string(context->errstr && context->errstr[0]
                                           ? context->errstr
                                           : "the connection was closed"));
    }
}

/* ---- a connection ---------------------------------------------------------------------------- */

static void on_connect(const struct redisAsyncContext *context, int status)
{
    struct redis_link *link = context->data;

    if (!link || link->context != context) {
        return;
    }
    if (status != REDIS_OK) {
        link->context = NULL; /* hiredis frees it when this returns */
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, view_of_string(context->errstr));
        return;
    }
    /* hiredis 0.14 can't have its context freed in here, which a greeting that fails does. */
    link->state = REDIS_LINK_GREETING;
    link->has_greeted = false;
    set_timer(link, 0);
}

static void greet(struct redis_link *link)
{
    if (link->has_greeted) {
        redis_link_fail(link, METRIC_STORE_FAULT_SLOW, VIEW("no answer for a second"));
    } else if (FAULT_POINT("store.redis.connect")) {
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, view_of_string(strerrordesc_np(errno)));
    } else {
        link->has_greeted = true;
        set_timer(link, REDIS_ATTEMPT_MS);
        redis_greeting_begin(link);
    }
}

struct redisAsyncContext *redis_link_open(struct loop *loop, const struct redis_peer *peer)
{
    struct redisAsyncContext *context = peer->is_unix ? redisAsyncConnectUnix(peer->text)
                                                      : redisAsyncConnect(peer->text, peer->port);

    if (!context) {
        return NULL;
    }
    if (context->err || redisLibeventAttach(context, loop_base(loop)) != REDIS_OK) {
        redisAsyncFree(context);
        return NULL;
    }
    return context;
}

static void connect_peer(struct redis_link *link)
{
    link->state = REDIS_LINK_CONNECTING;
    link->is_closing = false;
    link->written = 0;
    link->sent = 0;
    link->slow_answers = 0;
    link->is_pinging = false;
    link->context = redis_link_open(link->loop, &link->peer);
    if (!link->context) {
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, view_of_string(strerrordesc_np(errno)));
        return;
    }
    link->context->data = link;
    (void)redisAsyncSetConnectCallback(link->context, on_connect);
    (void)redisAsyncSetDisconnectCallback(link->context, on_disconnect);
}

/* ---- names ----------------------------------------------------------------------------------- */

bool redis_link_peer(const struct resolver *resolver, unsigned turn, struct redis_peer *peer)
{
    size_t count = resolver_count(resolver);
    socklen_t length = 0;
    const struct sockaddr *address;
    const void *bytes;

    if (count == 0) {
        return false;
    }
    address = resolver_address(resolver, turn % count, &length);
    peer->is_unix = false;
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)address;

        bytes = &six->sin6_addr;
        peer->port = ntohs(six->sin6_port);
    } else {
        const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;

        bytes = &four->sin_addr;
        peer->port = ntohs(four->sin_port);
    }
    return inet_ntop(address->sa_family, bytes, peer->text, sizeof peer->text) != NULL;
}

static void go_on(struct redis_link *link)
{
    struct redis_peer peer;

    if (!redis_link_peer(link->resolver, link->failures, &peer)) {
        if (!resolver_is_asking(link->resolver)) {
            redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("its name has no address"));
        }
        return;
    }
    if (link->store->address.is_sentinel && !link->is_master_wanted) {
        link->state = REDIS_LINK_ASKING;
        redis_sentinel_ask(link, &peer);
        return;
    }
    link->peer = peer;
    connect_peer(link);
}

static void on_addresses(void *argument)
{
    struct redis_link *link = argument;

    if (link->state == REDIS_LINK_RESOLVING) {
        go_on(link);
    }
}

static void resolve(struct redis_link *link, const struct redis_host *host)
{
    link->state = REDIS_LINK_RESOLVING;
    if (!link->resolver || link->resolved.port != host->port ||
        strcmp(link->resolved.name, host->name) != 0) {
        struct resolver_settings settings = {
            .host = view_of_string(host->name),
            .port = host->port,
            .refresh_ms = 30000,
            .timeout_ms = REDIS_ATTEMPT_MS,
        };

        resolver_destroy(link->resolver);
        link->resolved = *host;
        link->resolver = resolver_create(link->loop, &settings, on_addresses, link, link->log);
        if (!link->resolver) {
            redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("out of memory"));
            return;
        }
    } else if (link->failures > 0) {
        resolver_ask(link->resolver); /* it may have moved; what is known is tried meanwhile */
    }
    if (resolver_count(link->resolver) > 0) {
        go_on(link);
    } else if (!resolver_is_asking(link->resolver)) {
        resolver_ask(link->resolver);
    }
}

void redis_link_connect_to(struct redis_link *link, const struct redis_host *host)
{
    link->is_master_wanted = true;
    resolve(link, host);
}

static void begin_attempt(struct redis_link *link)
{
    const struct redis_address *address = &link->store->address;

    set_timer(link, REDIS_ATTEMPT_MS);
    link->is_master_wanted = false;
    if (address->is_unix) {
        link->peer = (struct redis_peer){.is_unix = true};
        memcpy(link->peer.text, address->path, sizeof link->peer.text);
        connect_peer(link);
        return;
    }
    resolve(link,
            &address->hosts[address->is_sentinel ? link->sentinel++ % address->host_count : 0]);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void on_pong(void *argument, UNUSED const struct redisReply *answer, UNUSED bool was_sent)
{
    struct redis_link *link = argument;

    link->is_pinging = false;
}

/* An idle connection is asked now and then: a peer that vanished without a word is found in a
 * second and not by the first caller. */
static void beat(struct redis_link *link)
{
    static const char *const words[] = {"PING"};
    static const size_t lengths[] = {4};

    if (link->first && clock_mono_ms() - link->first->sent_ms >= REDIS_SILENCE_MS) {
        redis_link_fail(link, METRIC_STORE_FAULT_SLOW, VIEW("no answer for a second"));
        return;
    }
    set_timer(link, BEAT_MS);
    if (!link->first && !link->is_pinging) {
        link->is_pinging = redis_link_send(link, &link->ping, 1, words, lengths, on_pong, link);
        if (!link->is_pinging) {
            redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("out of memory"));
        }
    }
}

static void on_timer(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct redis_link *link = argument;

    switch (link->state) {
    case REDIS_LINK_RESTING: begin_attempt(link); return;
    case REDIS_LINK_RESOLVING:
    case REDIS_LINK_ASKING:
    case REDIS_LINK_CONNECTING:
        redis_link_fail(link, METRIC_STORE_FAULT_AWAY, VIEW("no connection in a second"));
        return;
    case REDIS_LINK_GREETING: greet(link); return;
    case REDIS_LINK_READY: beat(link); return;
    }
}

void redis_link_greeted(struct redis_link *link)
{
    link->state = REDIS_LINK_READY;
    link->was_tried = true;
    link->failures = 0;
    set_timer(link, BEAT_MS);
    redis_store_note_state(link, true, METRIC_STORE_FAULT_AWAY, VIEW(""));
    link->on_change(link->argument, true);
}

bool redis_link_init(struct redis_link *link, struct redis_store *store,
                     struct store_client *client, void (*on_change)(void *argument, bool is_ready),
                     void *argument)
{
    memset(link, 0, sizeof *link);
    link->store = store;
    link->loop = client->loop;
    link->metrics = client->metrics;
    link->log = client->log;
    link->on_change = on_change;
    link->argument = argument;
    link->last = &link->first;
    link->timer = event_new(loop_base(link->loop), -1, 0, on_timer, link);
    if (!link->timer) {
        return false;
    }
    set_timer(link, 0);
    return true;
}

void redis_link_clear(struct redis_link *link)
{
    if (link->timer) {
        link->state = REDIS_LINK_RESTING;
        drop(link);
        event_free(link->timer);
        link->timer = NULL;
    }
    resolver_destroy(link->resolver);
    link->resolver = NULL;
}
