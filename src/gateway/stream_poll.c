#include "build_config.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/stream_private.h"

/* The way of a poll from its request's worker to the job's and back, by mail also when they are
 * one: there is one way. And what becomes of its answer: whether it was read. */

enum { FIRST_LOOK_MS = 4, LONGEST_LOOK_MS = 512 };

/* ---- the way of a poll ----------------------------------------------------------------------- */

static void post(struct streams *to, struct loop_letter *letter, loop_function *arrived,
                 struct stream_poll *poll)
{
    loop_post_letter(to->gateway->loop, letter, arrived, poll);
}

void stream_poll_destroy(struct stream_poll *poll)
{
    if (poll->previous) {
        poll->previous->next = poll->next;
    } else {
        poll->home->polls = poll->next;
    }
    if (poll->next) {
        poll->next->previous = poll->previous;
    }
    event_del(&poll->look_timer);
    connection_unwatch(&poll->receipt);
    stream_chunks_clear(&poll->chunks);
    free(poll);
}

static void copy_word(char *room, size_t *length, struct view word)
{
    *length = word.length < STREAM_WORD_BYTES ? word.length : STREAM_WORD_BYTES;
    memcpy(room, word.data, *length);
}

static void on_look_timer(evutil_socket_t descriptor, short what, void *argument);

struct stream_poll *stream_poll_create(struct request *request)
{
    struct stream_poll *poll = calloc(1, sizeof *poll);
    struct streams *home = request->gateway->streams;

    if (!poll) {
        return NULL;
    }
    poll->home = home;
    poll->handle = request->handle;
    poll->name_length = stream_build_name(request->route.endpoint, request->route.job, poll->name);
    poll->owner = streams_owner_of(request->gateway, view_make(poll->name, poll->name_length));
    copy_word(poll->team, &poll->team_length, request->ticket.key->team->name);
    copy_word(poll->consumer, &poll->consumer_length, request->ticket.key->id);
    poll->limit = STREAM_ANSWER_CHUNKS;
    poll->limit_bytes = STREAM_ANSWER_BYTES;
    evtimer_assign(&poll->look_timer, loop_base(home->gateway->loop), on_look_timer, poll);
    poll->next = home->polls;
    if (poll->next) {
        poll->next->previous = poll;
    }
    home->polls = poll;
    return poll;
}

static void on_asked(void *argument)
{
    struct stream_poll *poll = argument;

    poll->asked_ms = clock_mono_ms();
    streams_take_poll(poll);
}

void stream_poll_ask(struct stream_poll *poll)
{
    post(poll->owner, &poll->letter, on_asked, poll);
}

static void on_answered(void *argument)
{
    struct stream_poll *poll = argument;

    poll->deliver(poll, poll->leaving ? NULL : request_find(poll->home->gateway, poll->handle));
}

void stream_poll_answer(struct stream_poll *poll)
{
    poll->reader = NULL;
    post(poll->home, &poll->letter, on_answered, poll);
}

static void on_left(void *argument)
{
    stream_desk_drop(argument);
}

void stream_poll_leave(struct stream_poll *poll)
{
    poll->leaving = true;
    post(poll->owner, &poll->leave_letter, on_left, poll);
}

static void on_released(void *argument)
{
    stream_poll_destroy(argument);
}

void stream_poll_end(struct stream_poll *poll)
{
    post(poll->home, &poll->letter, on_released, poll);
}

/* ---- whether it was read --------------------------------------------------------------------- */

static void on_acknowledged(void *argument)
{
    stream_desk_acknowledged(argument);
}

static void on_settled(void *argument)
{
    stream_desk_settled(argument);
}

static void note_acknowledged(struct stream_poll *poll)
{
    if (!poll->acknowledged) {
        poll->acknowledged = true;
        event_del(&poll->look_timer);
        post(poll->owner, &poll->acknowledged_letter, on_acknowledged, poll);
    }
}

/* False when that settled it. */
static bool look(struct stream_poll *poll)
{
    switch (connection_look(&poll->receipt)) {
    case CONNECTION_DELIVERY_OPEN: return true;
    case CONNECTION_DELIVERY_ACKNOWLEDGED: note_acknowledged(poll); return true;
    case CONNECTION_DELIVERY_READ: stream_poll_settle(poll, true); return false;
    case CONNECTION_DELIVERY_BROKEN: stream_poll_settle(poll, false); return false;
    }
    return true;
}

static void look_later(struct stream_poll *poll)
{
    struct timeval delay = {0, (suseconds_t)(poll->look_ms * 1000)};

    event_add(&poll->look_timer, &delay);
    poll->look_ms = poll->look_ms * 2 < LONGEST_LOOK_MS ? poll->look_ms * 2 : LONGEST_LOOK_MS;
}

static void on_look_timer(evutil_socket_t descriptor, short what, void *argument)
{
    struct stream_poll *poll = argument;

    (void)descriptor;
    (void)what;
    if (look(poll) && !poll->acknowledged) {
        look_later(poll);
    }
}

static void on_receipt(struct connection_receipt *receipt, bool read)
{
    stream_poll_settle(
        (struct stream_poll *)(void *)((char *)receipt - offsetof(struct stream_poll, receipt)),
        read);
}

void stream_poll_watch(struct stream_poll *poll, struct connection *connection)
{
    poll->watched = true;
    poll->receipt.on_settled = on_receipt;
    poll->look_ms = FIRST_LOOK_MS;
    connection_watch(connection, &poll->receipt);
    look_later(poll);
}

void stream_poll_settle(struct stream_poll *poll, bool read)
{
    if (!poll->moves_cursor && !poll->leaving) {
        stream_poll_destroy(poll); /* nobody but this worker knows it */
        return;
    }
    poll->settled = true;
    poll->read = read;
    event_del(&poll->look_timer);
    connection_unwatch(&poll->receipt);
    post(poll->owner, &poll->letter, on_settled, poll);
}

static void on_looked(void *argument)
{
    stream_desk_looked(argument);
}

static void on_look_wanted(void *argument)
{
    struct stream_poll *poll = argument;

    if (poll->settled) {
        return; /* that is on its way */
    }
    if (!poll->watched || look(poll)) {
        post(poll->owner, &poll->looked_letter, on_looked, poll);
    }
}

void stream_poll_look(struct stream_poll *poll)
{
    poll->looking = true;
    post(poll->home, &poll->look_letter, on_look_wanted, poll);
}
