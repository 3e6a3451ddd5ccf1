#include "build_config.h"

#include "net/listener.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fault.h"
#include "format/http_fields.h"
#include "model/address.h"
#include "model/metric_catalogue.h"

enum {
    /* Callers per socket and wake-up; the others of the worker have a turn in between. */
    ACCEPT_BATCH = 64,
    /* Rounds of the last sweep before a socket is closed: a full queue, and not those who go on
     * coming meanwhile. */
    SWEEP_BATCHES = 64,
    RETRY_MS = 100,
    /* A state is over, for the log, when nothing of it was seen for so long: it comes and goes many
     * times a second while it lasts. */
    QUIET_MS = 2000,
    /* What a refused caller has sent so far is read before the close, which would else be a reset
     * that can destroy the answer on its way. */
    DRAIN_BYTES = 64 * 1024,
};

/* Bits of listener.paused. */
enum pause_reason { PAUSE_DESCRIPTORS = 1, PAUSE_ASKED = 2 };

/* Something that is logged when it begins and when it ends. */
struct episode {
    const char *begin_event;
    const char *end_event;
    bool running;
    uint64_t last_ms;
    uint64_t count; /* callers refused meanwhile */
};

/* One socket that this worker accepts on. */
struct acceptor {
    struct listener *listener;
    const struct config_address *address;
    struct event *event;
    int descriptor;
};

/* Owned by its worker. Dead after listener_stop(), freed when that loop turn is over. */
struct listener {
    struct listener_set *set;
    size_t worker;
    struct listener_options options;
    struct loop_grave grave;
    struct event *timer;
    int reserve; /* a descriptor to give up when there are no others; -1 while it can't be had */
    unsigned paused;
    struct listener_counts counts;
    struct episode exhaustion;
    struct episode refusal;
    char *answer; /* the 503 of callers above a limit */
    size_t answer_length;
    size_t acceptor_count;
    struct acceptor acceptors[];
};

/* ---- the log and the counters --------------------------------------------------------------- */

static void count_refusal(struct listener *listener, enum metric_connection_refusal why)
{
    switch (why) {
    case METRIC_CONNECTION_TOTAL: listener->counts.refused_total++; break;
    case METRIC_CONNECTION_ADDRESS: listener->counts.refused_address++; break;
    case METRIC_CONNECTION_DESCRIPTORS: listener->counts.refused_descriptors++; break;
    case METRIC_CONNECTION_REFUSAL_COUNT: break;
    }
    if (listener->options.metrics) {
        metrics_add(listener->options.metrics, METRIC_CONNECTIONS_REFUSED, why, 0, 1);
    }
}

static void start_timer(struct listener *listener, unsigned milliseconds)
{
    struct timeval delay = {milliseconds / 1000, milliseconds % 1000 * 1000};

    event_add(listener->timer, &delay);
}

static struct log_line *begin_line(struct listener *listener, const char *event)
{
    return log_begin(listener->options.log, LOG_LEVEL_WARNING, event);
}

/* Says that the episode goes on. A line to be filled in when it begins, else NULL. */
static struct log_line *note_episode(struct listener *listener, struct episode *episode)
{
    episode->last_ms = clock_mono_ms();
    if (episode->running) {
        return NULL;
    }
    episode->running = true;
    episode->count = 0;
    if (!event_pending(listener->timer, EV_TIMEOUT, NULL)) {
        start_timer(listener, QUIET_MS);
    }
    return begin_line(listener, episode->begin_event);
}

/* True: it goes on, and must be looked at again. */
static bool end_episode(struct listener *listener, struct episode *episode, bool over)
{
    struct log_line *line;

    if (!episode->running || (!over && clock_mono_ms() - episode->last_ms < QUIET_MS)) {
        return episode->running;
    }
    episode->running = false;
    line = begin_line(listener, episode->end_event);
    log_number(line, "refused", episode->count);
    log_end(line);
    return false;
}

/* ---- refusing ------------------------------------------------------------------------------- */

static bool make_answer(struct listener *listener)
{
    static const struct http_problem problem = {
        .detail = VIEW_INIT("podgate has too many connections open; try again soon."),
        .code = VIEW_INIT("too_many_connections"),
        .status = 503,
    };
    struct builder body;
    struct builder answer;

    builder_init(&body, NULL, 0);
    builder_init(&answer, NULL, 0);
    http_problem_append(&body, &problem);
    http_status_append_line(&answer, 503);
    builder_append(&answer, VIEW("Content-Type: application/json\r\nPodgate-Origin: gateway\r\n"
                                 "Retry-After: 1\r\nConnection: close\r\n"));
    http_field_append_length(&answer, builder_view(&body).length);
    builder_append(&answer, VIEW("\r\n"));
    builder_append(&answer, builder_view(&body));
    if (!builder_failed(&body)) {
        listener->answer = builder_detach(&answer, &listener->answer_length);
    }
    builder_clear(&answer);
    builder_clear(&body);
    return listener->answer != NULL;
}

static void refuse(struct listener *listener, const struct config_address *address, int descriptor)
{
    char scratch[4096];
    size_t drained = 0;
    ssize_t count;

    /* Who begins a TLS handshake couldn't read the answer, and a handshake is dear. */
    if (!address->tls &&
        send(descriptor, listener->answer, listener->answer_length, MSG_NOSIGNAL) > 0) {
        shutdown(descriptor, SHUT_WR);
        do {
            count = recv(descriptor, scratch, sizeof scratch, 0);
            drained += count > 0 ? (size_t)count : 0;
        } while (count > 0 && drained < DRAIN_BYTES);
    }
    close(descriptor);
}

static void refuse_for_limit(struct acceptor *acceptor, int descriptor,
                             const struct sockaddr_storage *peer, bool one_address)
{
    struct listener *listener = acceptor->listener;
    struct log_line *line = note_episode(listener, &listener->refusal);

    if (line) {
        char text[ADDRESS_TEXT_MAXIMUM];
        struct address address;

        address_from_sockaddr(&address, (const struct sockaddr *)peer, sizeof *peer);
        log_string(line, "limit", one_address ? "connections_per_address" : "connections");
        log_text(line, "peer", address_format(&address, false, text));
        log_number(line, "open", connection_limits_count(listener->options.limits));
        log_end(line);
    }
    listener->refusal.count++;
    count_refusal(listener, one_address ? METRIC_CONNECTION_ADDRESS : METRIC_CONNECTION_TOTAL);
    refuse(listener, acceptor->address, descriptor);
}

/* ---- pausing -------------------------------------------------------------------------------- */

static void pause_for(struct listener *listener, enum pause_reason reason)
{
    bool ran = listener->paused == 0;

    listener->paused |= reason;
    for (size_t i = 0; ran && i < listener->acceptor_count; i++) {
        event_del(listener->acceptors[i].event);
    }
}

static void resume_from(struct listener *listener, enum pause_reason reason)
{
    bool was_paused = listener->paused != 0;

    listener->paused &= ~(unsigned)reason;
    if (!was_paused || listener->paused != 0) {
        return;
    }
    for (size_t i = 0; i < listener->acceptor_count; i++) {
        if (event_add(listener->acceptors[i].event, NULL) != 0) {
            /* No memory: all is tried again like after a want of descriptors. */
            pause_for(listener, PAUSE_DESCRIPTORS);
            start_timer(listener, RETRY_MS);
            return;
        }
    }
}

static void hold_reserve(struct listener *listener)
{
    if (listener->reserve < 0) {
        listener->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
}

/* The reserve's place serves to tell one waiting caller, instead of leaving all in the dark.
 * Another thread may be quicker to take the place; then nobody is told this time. */
static void refuse_by_reserve(struct acceptor *acceptor)
{
    struct listener *listener = acceptor->listener;
    int descriptor;

    if (listener->reserve < 0) {
        return;
    }
    close(listener->reserve);
    listener->reserve = -1;
    descriptor = accept4(acceptor->descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor >= 0) {
        listener->exhaustion.count++;
        count_refusal(listener, METRIC_CONNECTION_DESCRIPTORS);
        refuse(listener, acceptor->address, descriptor);
    }
    hold_reserve(listener);
}

/* `error` keeps callers from being accepted, and would again at once: the socket stays readable. */
static void pause_after_error(struct acceptor *acceptor, int error)
{
    struct listener *listener = acceptor->listener;
    struct log_line *line = note_episode(listener, &listener->exhaustion);

    log_text(line, "listen", acceptor->address->text);
    log_string(line, "reason", strerrorname_np(error));
    log_end(line);
    listener->counts.pauses++;
    if (error == EMFILE || error == ENFILE) {
        refuse_by_reserve(acceptor);
    }
    pause_for(listener, PAUSE_DESCRIPTORS);
    start_timer(listener, RETRY_MS);
}

static void on_timer(evutil_socket_t descriptor, short what, void *argument)
{
    struct listener *listener = argument;
    bool go_on;

    (void)descriptor;
    (void)what;
    if (listener->paused & PAUSE_DESCRIPTORS) {
        hold_reserve(listener);
        resume_from(listener, PAUSE_DESCRIPTORS);
    }
    go_on = end_episode(listener, &listener->exhaustion, false);
    go_on = end_episode(listener, &listener->refusal, false) || go_on;
    if (go_on && !event_pending(listener->timer, EV_TIMEOUT, NULL)) {
        start_timer(listener, QUIET_MS);
    }
}

/* ---- accepting ------------------------------------------------------------------------------ */

/* An IPv6 wildcard that systemd made takes IPv4 callers as ::ffff:a.b.c.d. */
static void unmap_ipv4(struct sockaddr_storage *peer)
{
    struct sockaddr_in6 mapped;
    struct sockaddr_in plain = {.sin_family = AF_INET};

    memcpy(&mapped, peer, sizeof mapped);
    if (peer->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&mapped.sin6_addr)) {
        return;
    }
    plain.sin_port = mapped.sin6_port;
    memcpy(&plain.sin_addr, &mapped.sin6_addr.s6_addr[12], sizeof plain.sin_addr);
    *peer = (struct sockaddr_storage){0};
    memcpy(peer, &plain, sizeof plain);
}

static void take_caller(struct acceptor *acceptor, int descriptor, struct sockaddr_storage *peer)
{
    struct listener *listener = acceptor->listener;
    enum connection_limits_result result;

    if (peer->ss_family == AF_INET || peer->ss_family == AF_INET6) {
        int on = 1;

        unmap_ipv4(peer);
        /* Answers are written whole: waiting for more to send would only delay them. */
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    result = connection_limits_take(listener->options.limits, peer);
    if (result != CONNECTION_LIMITS_OK) {
        refuse_for_limit(acceptor, descriptor, peer, result == CONNECTION_LIMITS_ADDRESS);
        return;
    }
    listener->counts.accepted++;
    listener->options.on_accept(listener->options.owner, descriptor, peer, acceptor->address);
}

/* What accept4() says about one caller who is gone already, or about the network (accept(2)):
 * nothing about the next one. */
static bool concerns_one_caller(int error)
{
    static const int errors[] = {EINTR,        ECONNABORTED, EPERM,       EPROTO,
                                 ENOPROTOOPT,  EHOSTDOWN,    ENONET,      ENETDOWN,
                                 EHOSTUNREACH, EOPNOTSUPP,   ENETUNREACH, ETIMEDOUT};

    for (size_t i = 0; i < ARRAY_LENGTH(errors); i++) {
        if (errors[i] == error) {
            return true;
        }
    }
    return false;
}

/* True when callers may still be waiting. */
static bool accept_batch(struct acceptor *acceptor)
{
    struct listener *listener = acceptor->listener;

    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t length = sizeof peer;
        int descriptor = FAULT_POINT("listener.accept")
                             ? -1
                             : accept4(acceptor->descriptor, (struct sockaddr *)&peer, &length,
                                       SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (descriptor >= 0) {
            take_caller(acceptor, descriptor, &peer);
        } else if (errno == EAGAIN) {
            return false;
        } else if (!concerns_one_caller(errno)) {
            pause_after_error(acceptor, errno);
            return false;
        }
        if (listener->paused) {
            return false; /* by the owner, because of this caller */
        }
    }
    return true;
}

static void on_readable(evutil_socket_t descriptor, short what, void *argument)
{
    struct acceptor *acceptor = argument;

    (void)descriptor;
    (void)what;
    if (!acceptor->listener->paused) {
        accept_batch(acceptor);
    }
}

/* ---- life ----------------------------------------------------------------------------------- */

static void free_listener(void *argument)
{
    struct listener *listener = argument;

    for (size_t i = 0; i < listener->acceptor_count; i++) {
        if (listener->acceptors[i].event) {
            event_free(listener->acceptors[i].event);
        }
    }
    if (listener->timer) {
        event_free(listener->timer);
    }
    if (listener->reserve >= 0) {
        close(listener->reserve);
    }
    free(listener->answer);
    free(listener);
}

static bool start_acceptor(struct listener *listener, size_t index)
{
    struct acceptor *acceptor = &listener->acceptors[index];

    acceptor->listener = listener;
    acceptor->address = listener_set_entry(listener->set, index);
    acceptor->descriptor = listener_set_descriptor(listener->set, index, listener->worker);
    acceptor->event = event_new(loop_base(listener->options.loop), acceptor->descriptor,
                                EV_READ | EV_PERSIST, on_readable, acceptor);
    return acceptor->event && event_add(acceptor->event, NULL) == 0;
}

struct listener *listener_start(struct listener_set *set, size_t worker,
                                const struct listener_options *options)
{
    size_t count = listener_set_count(set);
    struct listener *listener = calloc(1, sizeof *listener + count * sizeof listener->acceptors[0]);
    bool started;

    if (!listener) {
        return NULL;
    }
    listener->set = set;
    listener->worker = worker;
    listener->options = *options;
    listener->exhaustion.begin_event = "listener_paused";
    listener->exhaustion.end_event = "listener_resumed";
    listener->refusal.begin_event = "connections_refused";
    listener->refusal.end_event = "connections_refused_end";
    listener->acceptor_count = count;
    listener->reserve = -1;
    listener->timer = event_new(loop_base(options->loop), -1, 0, on_timer, listener);
    hold_reserve(listener);
    started = listener->timer && listener->reserve >= 0 && make_answer(listener);
    for (size_t i = 0; started && i < count; i++) {
        started = start_acceptor(listener, i);
    }
    if (!started) {
        free_listener(listener);
        return NULL;
    }
    return listener;
}

void listener_pause(struct listener *listener)
{
    pause_for(listener, PAUSE_ASKED);
}

void listener_resume(struct listener *listener)
{
    resume_from(listener, PAUSE_ASKED);
}

void listener_retry(struct listener *listener)
{
    if (listener->paused & PAUSE_DESCRIPTORS) {
        /* By the timer, not from here: the caller is in the middle of closing something. */
        start_timer(listener, 0);
    }
}

void listener_stop(struct listener *listener)
{
    if (!listener) {
        return;
    }
    for (size_t i = 0; i < listener->acceptor_count; i++) {
        struct acceptor *acceptor = &listener->acceptors[i];

        event_del(acceptor->event);
        if (listener_set_is_own(listener->set, i)) {
            /* Who waits in a socket that is closed is reset: take them, as far as possible. */
            listener->paused = 0;
            for (int round = 0; round < SWEEP_BATCHES && accept_batch(acceptor); round++) {
                continue;
            }
        }
        listener_set_leave(listener->set, i, listener->worker);
        acceptor->descriptor = -1;
    }
    end_episode(listener, &listener->exhaustion, true);
    end_episode(listener, &listener->refusal, true);
    event_del(listener->timer);
    loop_bury(listener->options.loop, &listener->grave, free_listener, listener);
}

struct listener_counts listener_counts(const struct listener *listener)
{
    struct listener_counts counts = listener->counts;

    counts.paused = listener->paused != 0;
    return counts;
}
