#include "build_config.h"

#include "base/loop.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"

/* Owned by the thread that runs it. `mail_*` and `wake_descriptor` are shared, under `lock`. */
struct loop {
    struct event_base *base;
    struct event *wake_event;
    struct event *heartbeat_event;
    struct event *burial_event;
    struct loop_grave *graves;
    int wake_descriptor;
    _Atomic uint64_t heartbeat_ms;
    _Atomic bool stopping;
    pthread_mutex_t lock;
    struct loop_letter *mail_first;
    struct loop_letter **mail_last;
};

static void bury_all(struct loop *loop)
{
    while (loop->graves) {
        struct loop_grave *grave = loop->graves;

        loop->graves = grave->next;
        grave->next = NULL;
        grave->destroy(grave->object);
    }
}

void loop_flush_graves(struct loop *loop)
{
    bury_all(loop);
}

static void on_burial(evutil_socket_t descriptor, short what, void *argument)
{
    (void)descriptor;
    (void)what;
    bury_all(argument);
}

static struct loop_letter *take_mail(struct loop *loop)
{
    struct loop_letter *first;

    pthread_mutex_lock(&loop->lock);
    first = loop->mail_first;
    loop->mail_first = NULL;
    loop->mail_last = &loop->mail_first;
    pthread_mutex_unlock(&loop->lock);
    return first;
}

void loop_flush_mail(struct loop *loop)
{
    struct loop_letter *mail = take_mail(loop);

    while (mail) {
        struct loop_letter letter = *mail;

        /* The function may free what the letter lies in, or post it again. */
        if (letter.on_heap) {
            free(mail);
        }
        letter.function(letter.argument);
        mail = letter.next;
    }
}

static void on_wake(evutil_socket_t descriptor, short what, void *argument)
{
    struct loop *loop = argument;
    uint64_t count;

    (void)what;
    /* The counter is emptied before the mail is taken, so a letter posted in between wakes again.
     */
    if (read((int)descriptor, &count, sizeof count) < 0) {
        count = 0;
    }
    loop_flush_mail(loop);
    if (atomic_exchange(&loop->stopping, false)) {
        event_base_loopbreak(loop->base);
    }
}

static void on_heartbeat(evutil_socket_t descriptor, short what, void *argument)
{
    struct loop *loop = argument;

    (void)descriptor;
    (void)what;
    atomic_store_explicit(&loop->heartbeat_ms, clock_mono_ms(), memory_order_relaxed);
}

static struct event_base *create_base(void)
{
    struct event_config *settings = event_config_new();
    struct event_base *base = NULL;

    if (settings) {
        /* Each base belongs to one thread: no locks. The changelist folds event changes of one turn
         * into one epoll_ctl; it is safe because no descriptor is ever duplicated in a base. */
        event_config_set_flag(settings, EVENT_BASE_FLAG_NOLOCK);
        event_config_set_flag(settings, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
        base = event_base_new_with_config(settings);
        event_config_free(settings);
    }
    return base;
}

struct loop *loop_create(void)
{
    static const struct timeval half_second = {0, 500000};
    struct loop *loop = calloc(1, sizeof *loop);

    if (!loop) {
        return NULL;
    }
    pthread_mutex_init(&loop->lock, NULL);
    loop->mail_last = &loop->mail_first;
    loop->wake_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    loop->base = create_base();
    if (loop->wake_descriptor < 0 || !loop->base) {
        goto fail;
    }
    loop->wake_event =
        event_new(loop->base, loop->wake_descriptor, EV_READ | EV_PERSIST, on_wake, loop);
    loop->heartbeat_event = event_new(loop->base, -1, EV_PERSIST, on_heartbeat, loop);
    loop->burial_event = event_new(loop->base, -1, 0, on_burial, loop);
    if (!loop->wake_event || !loop->heartbeat_event || !loop->burial_event ||
        event_add(loop->wake_event, NULL) != 0 ||
        event_add(loop->heartbeat_event, &half_second) != 0) {
        goto fail;
    }
    atomic_store(&loop->heartbeat_ms, clock_mono_ms());
    return loop;
fail:
    loop_destroy(loop);
    return NULL;
}

void loop_destroy(struct loop *loop)
{
    struct loop_letter *mail;

    if (!loop) {
        return;
    }
    bury_all(loop);
    mail = take_mail(loop);
    while (mail) {
        struct loop_letter *next = mail->next;

        if (mail->on_heap) {
            free(mail);
        }
        mail = next;
    }
    if (loop->wake_event) {
        event_free(loop->wake_event);
    }
    if (loop->heartbeat_event) {
        event_free(loop->heartbeat_event);
    }
    if (loop->burial_event) {
        event_free(loop->burial_event);
    }
    if (loop->base) {
        event_base_free(loop->base);
    }
    if (loop->wake_descriptor >= 0) {
        close(loop->wake_descriptor);
    }
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

bool loop_run(struct loop *loop)
{
    atomic_store(&loop->heartbeat_ms, clock_mono_ms());
    return event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY) >= 0;
}

static void wake(struct loop *loop)
{
    uint64_t one = 1;

    /* Fails only when the counter is full, and then the loop is awake anyway. */
    if (write(loop->wake_descriptor, &one, sizeof one) < 0) {
        return;
    }
}

/* A flag and no letter: stopping needs no memory. The base has no lock, so that only its own thread
 * may break it. */
void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stopping, true);
    wake(loop);
}

static void post(struct loop *loop, struct loop_letter *mail)
{
    bool was_empty;

    mail->next = NULL;
    pthread_mutex_lock(&loop->lock);
    was_empty = loop->mail_first == NULL;
    *loop->mail_last = mail;
    loop->mail_last = &mail->next;
    pthread_mutex_unlock(&loop->lock);
    if (was_empty) {
        wake(loop);
    }
}

bool loop_post(struct loop *loop, loop_function *function, void *argument)
{
    struct loop_letter *mail = malloc(sizeof *mail);

    if (!mail) {
        return false;
    }
    *mail = (struct loop_letter){.function = function, .argument = argument, .on_heap = true};
    post(loop, mail);
    return true;
}

void loop_post_letter(struct loop *loop, struct loop_letter *letter, loop_function *function,
                      void *argument)
{
    *letter = (struct loop_letter){.function = function, .argument = argument};
    post(loop, letter);
}

void loop_bury(struct loop *loop, struct loop_grave *node, loop_function *destroy, void *object)
{
    if (!loop->graves) {
        event_active(loop->burial_event, EV_TIMEOUT, 1);
    }
    node->destroy = destroy;
    node->object = object;
    node->next = loop->graves;
    loop->graves = node;
}

uint64_t loop_heartbeat_ms(const struct loop *loop)
{
    return atomic_load_explicit(&loop->heartbeat_ms, memory_order_relaxed);
}
