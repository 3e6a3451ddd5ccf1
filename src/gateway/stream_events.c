#include "build_config.h"

#include <stdlib.h>

#include "base/clock.h"
#include "gateway/problem.h"
#include "gateway/stream_private.h"
#include "model/job.h"

/* A job's stream as Server-Sent Events (WHATWG HTML section 9.2). An event is a chunk:
 *
 *     id: 17                          its number, counted from 0
 *     data: {"output":"..."}          the element as upstream wrote it, on one line
 *
 * The end is `event: end` with {"status":S}; while nothing comes a comment every 15 s shows that
 * the connection lives. Who comes back with `Last-Event-ID: 17` gets number 18 and what follows: no
 * cursor is asked or moved. An error that comes once events have begun is `event: problem`, or just
 * the end of the connection where asking again helps.
 *
 * The next chunks are asked for when the caller has taken the last ones, so that a slow one holds
 * no more than one answer.
 */

enum {
    HEARTBEAT_MS = 15000,
    /* So long nothing at all is answered, in which a refusal can still have a status of its own. */
    FIRST_WAIT_MS = 1000,
    EVENTS_BYTES = 256 * 1024,
};

/* Owned by its request. */
struct stream_events {
    struct stream_facts facts;
    struct stream_poll *poll; /* under way; NULL while the caller takes what was sent */
    uint64_t next;            /* number of the next chunk */
};

static void deliver(struct stream_poll *poll, struct request *request);

/* ---- the text -------------------------------------------------------------------------------- */

/* JSON knows line ends as white space only, so a blank in their place says the same. */
static void append_line(struct builder *text, struct view element)
{
    while (element.length > 0) {
        size_t length = 0;

        while (length < element.length && element.data[length] != '\n' &&
               element.data[length] != '\r') {
            length++;
        }
        builder_append(text, view_first(element, length));
        if (length < element.length) {
            builder_append_byte(text, ' ');
            length++;
        }
        element = view_skip(element, length);
    }
}

static void append_events(struct builder *text, const struct stream_poll *poll)
{
    struct view bytes = body_view(poll->chunks.bytes);

    for (size_t i = 0; i < poll->chunks.count; i++) {
        builder_append(text, VIEW("id: "));
        builder_append_u64(text, poll->chunks.from + i);
        builder_append(text, VIEW("\ndata: "));
        append_line(text, view_first(bytes, poll->chunks.lengths[i]));
        builder_append(text, VIEW("\n\n"));
        bytes = view_skip(bytes, poll->chunks.lengths[i]);
    }
    if (poll->ends) {
        builder_append(text, VIEW("event: end\ndata: {\"status\":\""));
        builder_append(text, view_of_string(job_state_text(poll->state)));
        builder_append(text, VIEW("\"}\n\n"));
    } else if (poll->chunks.count == 0) {
        builder_append(text, VIEW(":\n\n"));
    }
}

/* ---- sending --------------------------------------------------------------------------------- */

static void begin_events(struct request *request)
{
    request->origin = "upstream";
    request_begin_reply(request, 200);
    builder_append(&request->reply, VIEW("Content-Type: text/event-stream\r\n"
                                         "Cache-Control: no-store\r\n"
                                         "X-Accel-Buffering: no\r\n"));
    request_begin_pieces(request, false);
}

static void ask(struct request *request, uint64_t wait_ms)
{
    struct stream_events *events = request->stream_events;
    struct stream_poll *poll = stream_poll_create(request);

    if (!poll) {
        request_break_off(request);
        request_move_work(request, WORK_DONE);
        return;
    }
    poll->facts = events->facts;
    poll->deliver = deliver;
    poll->from = events->next;
    poll->limit_bytes = EVENTS_BYTES;
    poll->wait_until_ms = clock_mono_ms() + wait_ms;
    events->facts.known = false; /* old by the next time; its reader knows better */
    events->poll = poll;
    stream_poll_ask(poll);
}

static void end(struct request *request)
{
    if (request_has_caller(request)) {
        if (!request->head_sent) {
            begin_events(request);
        }
        (void)!request_send_piece(request, VIEW(""), true);
    }
    request_move_work(request, WORK_DONE);
}

static bool is_draining(const struct request *request)
{
    return request->gateway->streams->draining;
}

/* Sends `text`; then asks for more, unless that was the end or the caller has enough for now. */
static void send_text(struct request *request, struct builder *text, bool last)
{
    bool taken;

    if (!request->head_sent) {
        begin_events(request);
    }
    if (builder_failed(text) || !request_has_caller(request)) {
        request_break_off(request);
        request_move_work(request, WORK_DONE);
        return;
    }
    taken = request_send_piece(request, builder_view(text), last);
    if (last || !request_has_caller(request)) {
        request_move_work(request, WORK_DONE);
    } else if (is_draining(request)) {
        end(request);
    } else if (taken) {
        ask(request, HEARTBEAT_MS);
    }
}

static void send_problem(struct request *request, enum problem problem, struct builder *text)
{
    if (problem == PROBLEM_STORE_UNAVAILABLE || problem == PROBLEM_OVERLOADED) {
        end(request); /* asking again will help */
        return;
    }
    builder_append(text, VIEW("event: problem\ndata: "));
    problem_append_body(text, problem, 0, VIEW(""));
    builder_append(text, VIEW("\n\n"));
    send_text(request, text, true);
}

static void deliver(struct stream_poll *poll, struct request *request)
{
    struct stream_events *events = request ? request->stream_events : NULL;
    enum stream_outcome outcome = poll->outcome;
    enum problem problem = poll->problem;
    char storage[2048];
    struct builder text;
    bool last;

    if (!events || request->work != WORK_IN_FLIGHT) {
        stream_poll_settle(poll, false);
        return;
    }
    events->poll = NULL;
    if (outcome == STREAM_PROBLEM && !request->head_sent) {
        stream_refuse(request, poll);
        stream_poll_settle(poll, false);
        return;
    }
    builder_init(&text, storage, sizeof storage);
    append_events(&text,
                  poll); /* an upstream that fails is waited for, like one that has nothing */
    last = poll->ends;
    if (poll->chunks.count > 0) {
        events->next = poll->chunks.from + poll->chunks.count;
    }
    stream_poll_settle(poll, true);
    if (outcome == STREAM_PROBLEM) {
        builder_reset(&text);
        send_problem(request, problem, &text);
    } else {
        send_text(request, &text, last);
    }
    builder_clear(&text);
}

/* ---- what happens to the request ------------------------------------------------------------- */

void stream_events_start(struct request *request, const struct stream_facts *facts, uint64_t from)
{
    struct stream_events *events = calloc(1, sizeof *events);

    if (!events) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    events->facts = *facts;
    events->next = from;
    request->stream_events = events;
    request_move_work(request, WORK_IN_FLIGHT);
    ask(request, FIRST_WAIT_MS);
}

static void leave(struct stream_events *events)
{
    if (events->poll) {
        stream_poll_leave(events->poll);
        events->poll = NULL;
    }
}

void stream_events_abandon(struct request *request)
{
    leave(request->stream_events);
}

void stream_events_resume(struct request *request)
{
    if (request->work != WORK_IN_FLIGHT || request->stream_events->poll) {
        return;
    }
    if (is_draining(request)) {
        end(request);
    } else {
        ask(request, HEARTBEAT_MS);
    }
}

void stream_events_drain(struct request *request)
{
    if (request->stream_events && request->work == WORK_IN_FLIGHT) {
        leave(request->stream_events);
        end(request);
    }
}

void stream_events_release(struct request *request)
{
    free(request->stream_events);
    request->stream_events = NULL;
}
