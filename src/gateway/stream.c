#include "build_config.h"

#include "gateway/stream.h"

#include "base/clock.h"
#include "gateway/flight.h"
#include "gateway/ledger.h"
#include "gateway/relay.h"
#include "gateway/stream_private.h"
#include "model/job.h"
#include "model/metric_catalogue.h"

/* One request for a job's stream: is it the caller's job, what does he want, and his answer. */

enum {
    /* The Python SDK gives up after 10 s, and asks again. */
    DEFAULT_WAIT_MS = 8000,
    MINIMUM_WAIT_MS = 1000,
    MAXIMUM_WAIT_MS = 300000,
    ALONE_MARGIN_MS = 1000,
};

static const struct relay_plan alone_plan = {.is_read = true, .resend = UPSTREAM_RESEND_READ};

static uint64_t wait_of(const struct route *route)
{
    if (!route->has_wait) {
        return DEFAULT_WAIT_MS;
    }
    return route->wait_ms < MINIMUM_WAIT_MS   ? MINIMUM_WAIT_MS
           : route->wait_ms > MAXIMUM_WAIT_MS ? MAXIMUM_WAIT_MS
                                              : route->wait_ms;
}

static bool wants_events(const struct request *request)
{
    struct view accept = http_head_value(&request->inbound.head.head, HTTP_FIELD_ACCEPT);
    struct view wanted = VIEW("text/event-stream");

    /* What else stands in the field is of no importance: nobody names this type by chance. */
    while (accept.length > 0) {
        size_t comma = view_find_byte(accept, ',');
        struct view type = view_first(accept, comma);

        type = view_trim(view_first(type, view_find_byte(type, ';')));
        if (view_equal_ignore_case(type, wanted)) {
            return true;
        }
        accept = view_skip(accept, comma + 1);
    }
    return false;
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* {"status":S,"stream":[...]} with the elements as upstream wrote them. NULL without memory. */
static struct body *build_answer(struct request *request, const struct stream_poll *poll)
{
    struct view bytes = body_view(poll->chunks.bytes);
    struct view state = view_of_string(job_state_text(poll->state));
    struct body *body = body_create(request->gateway->shared->budget,
                                    bytes.length + poll->chunks.count + state.length + 32);
    bool good = body && body_append(body, VIEW("{\"status\":\"")) && body_append(body, state) &&
                body_append(body, VIEW("\",\"stream\":["));

    for (size_t i = 0; good && i < poll->chunks.count; i++) {
        good = (i == 0 || body_append(body, VIEW(","))) &&
               body_append(body, view_first(bytes, poll->chunks.lengths[i]));
        bytes = view_skip(bytes, poll->chunks.lengths[i]);
    }
    good = good && body_append(body, VIEW("]}"));
    if (!good) {
        body_unref(body);
        return NULL;
    }
    return body;
}

static void answer_chunks(struct request *request, struct stream_poll *poll)
{
    struct body *body = build_answer(request, poll);

    if (!body) {
        stream_poll_settle(poll, false);
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    request->origin = "upstream";
    request_begin_reply(request, 200);
    builder_append(&request->reply, VIEW("Content-Type: application/json\r\n"));
    if (poll->moves_cursor && request_has_caller(request)) {
        stream_poll_watch(poll, request->inbound.connection);
    } else {
        stream_poll_settle(poll, false);
    }
    request_send_reply(request, body_view(body), body);
    body_unref(body);
    request_move_work(request, WORK_DONE);
}

static void deliver(struct stream_poll *poll, struct request *request)
{
    if (!request || request->work != WORK_IN_FLIGHT) {
        stream_poll_settle(poll, false);
        return;
    }
    request->stream_poll = NULL;
    if (poll->outcome == STREAM_CHUNKS) {
        answer_chunks(request, poll);
        return;
    }
    stream_refuse(request, poll);
    stream_poll_settle(poll, false);
}

void stream_refuse(struct request *request, const struct stream_poll *poll)
{
    switch (poll->outcome) {
    case STREAM_CHUNKS: break;
    case STREAM_PROBLEM:
        request_refuse(
            request, poll->problem,
            poll->problem == PROBLEM_STORE_UNAVAILABLE || poll->problem == PROBLEM_OVERLOADED ? 1
                                                                                              : 0);
        break;
    case STREAM_FAILED: request_refuse_failure(request, poll->failure); break;
    case STREAM_REFUSED:
        request_refuse(request, PROBLEM_UPSTREAM_UNAVAILABLE, poll->retry_after_s);
        break;
    case STREAM_BAD:
        request->upstream_status = poll->upstream_status;
        relay_refuse_answer(request, poll->upstream_status, 0);
        break;
    }
}

/* ---- the question ---------------------------------------------------------------------------- */

static void ask(struct request *request, const struct stream_facts *facts)
{
    const struct config_endpoint *endpoint =
        config_find_endpoint(request->config, request->route.endpoint);
    struct stream_poll *poll = stream_poll_create(request);

    if (!poll) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    poll->facts = *facts;
    poll->deliver = deliver;
    poll->moves_cursor = !request->route.has_from;
    poll->from = request->route.has_from ? request->route.from : 0;
    poll->faithful = endpoint->stream_cancelled == CONFIG_STREAM_CANCELLED_FAITHFUL;
    poll->wait_until_ms = clock_mono_ms() + wait_of(&request->route);
    request->stream_poll = poll;
    request_move_work(request, WORK_IN_FLIGHT);
    stream_poll_ask(poll);
}

/* Events begin at ?from=, or behind the last one that the caller saw. */
static bool read_first_event(struct request *request, uint64_t *from)
{
    struct view last = http_head_value(&request->inbound.head.head, HTTP_FIELD_LAST_EVENT_ID);

    *from = request->route.has_from ? request->route.from : 0;
    if (last.length == 0) {
        return true;
    }
    if (!view_parse_u64(last, UINT64_MAX - 1, from)) {
        return false;
    }
    ++*from;
    return true;
}

static void begin(struct request *request, const struct stream_facts *facts)
{
    uint64_t from;

    if (!wants_events(request)) {
        ask(request, facts);
    } else if (read_first_event(request, &from)) {
        stream_events_start(request, facts, from);
    } else {
        request_refuse_because(request, PROBLEM_BAD_FROM,
                               VIEW("Last-Event-ID is not the number of a chunk."), 0);
    }
}

/* The same for a job of another team's and one that never was: one question to the store, and the
 * same bytes. */
static void judge_job(struct request *request, const struct store_reply *reply)
{
    struct stream_facts facts = {.known = false};

    if (store_failed(reply->result)) {
        begin(request, &facts); /* what is in memory is served */
        return;
    }
    if (reply->result != STORE_OK ||
        !view_equal(reply->job.team, request->ticket.key->team->name)) {
        if (ledger_holds_own(request)) {
            request_refuse(request, PROBLEM_STORE_UNAVAILABLE, 1);
        } else {
            request_refuse(request, PROBLEM_JOB_NOT_FOUND, 0);
        }
        return;
    }
    stream_take_facts(&facts, &reply->job, reply->now_ms);
    begin(request, &facts);
}

static void ask_job(struct request *request, request_on_store *then)
{
    struct store_question question = {
        .operation = STORE_GET_JOB,
        .endpoint = request->route.endpoint,
        .job = request->route.job,
    };

    if (!request_ask_store(request, &question, then)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    }
}

static struct route status_route(const struct request *request)
{
    struct route route = request->route;

    route.operation = ROUTE_STATUS;
    return route;
}

static void take_status(struct request *request, struct flight_answer *answer)
{
    if (!answer) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
    } else if (answer->refused) {
        request_refuse(request, PROBLEM_UPSTREAM_UNAVAILABLE, answer->retry_after_s);
    } else if (answer->failed && answer->problem == PROBLEM_COUNT) {
        request_refuse_failure(request, answer->failure);
    } else {
        ask_job(request, judge_job);
    }
    flight_answer_unref(answer);
}

static void on_status(struct gateway *gateway, struct request_handle handle,
                      struct flight_answer *answer, enum flight_delivery delivery)
{
    struct request *request = request_find(gateway, handle);

    (void)delivery;
    if (request && request->work == WORK_IN_FLIGHT) {
        take_status(request, answer);
    } else {
        flight_answer_unref(answer);
    }
}

/* A job of before podgate, asked for with a key that may take it over: its flight enters it into
 * the ledger when upstream knows it. */
static void adopt(struct request *request)
{
    struct route route = status_route(request);
    struct flight_question question = {
        .handle = request->handle,
        .route = &route,
        .team = request->ticket.key->team->name,
        .key = request->ticket.key->id,
        .may_adopt = true,
        .deliver = on_status,
    };
    bool joined = false;
    struct flight_answer *answer = flight_join(request->gateway, &question, &joined);

    if (!answer && joined) {
        request_move_work(request, WORK_IN_FLIGHT);
    } else {
        take_status(request, answer);
    }
}

static void on_job(struct request *request, const struct store_reply *reply)
{
    bool may_adopt = (request->ticket.key->operations & CONFIG_OPERATION_ADOPT) != 0;

    if (reply->result == STORE_ABSENT && may_adopt) {
        adopt(request);
    } else {
        judge_job(request, reply);
    }
}

/* The endpoint `flash` is another one for each caller's fields: nothing of it is kept. */
static void start_alone(struct request *request)
{
    struct route route = request->route;
    struct upstream_deadlines deadlines;

    route.has_wait = true;
    route.wait_ms = wait_of(&request->route);
    deadlines = (struct upstream_deadlines){.total_ms = route.wait_ms + ALONE_MARGIN_MS};
    relay_start(request, &alone_plan, VIEW("GET"), &route, &deadlines);
}

void stream_start(struct request *request)
{
    body_unref(request->body);
    request->body = NULL;
    if (request->route.is_flash) {
        start_alone(request);
    } else {
        ask_job(request, on_job);
    }
}

void stream_abandon(struct request *request)
{
    if (request->stream_events) {
        stream_events_abandon(request);
    } else if (request->stream_poll) {
        stream_poll_leave(request->stream_poll);
        request->stream_poll = NULL;
    } else {
        struct route route = status_route(request);

        flight_leave(request->gateway, request->handle, &route);
    }
}

void stream_resume(struct request *request)
{
    if (request->stream_events) {
        stream_events_resume(request);
    }
}

void stream_release(struct request *request)
{
    if (request->stream_events) {
        stream_events_release(request);
    }
}
