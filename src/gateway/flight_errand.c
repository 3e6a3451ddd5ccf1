#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gateway/collector.h"
#include "gateway/flight_private.h"
#include "gateway/relay.h"
#include "model/metric_catalogue.h"

/* What other parts of podgate want done for a job by the worker that owns its flight: a poll of the
 * collector's, the cancelling of a job that a purge marked, and a ?ttl= for the upstream. */

/* A job of a claim, on its way to the owner. */
struct errand {
    struct gateway *owner;
    struct store_job job; /* its views point into `text` */
    struct upstream_exchange *exchange;
    struct body *answer;
    struct builder head;
    unsigned status;
    uint64_t ttl_ms; /* of a ?ttl=; 0: a purge's */
    bool cancelling; /* its state was IN_QUEUE, and /cancel is on its way */
    struct loop_grave grave;
    struct errand *next; /* on its worker's list, while it is at work */
    struct errand **link;
    size_t name_length;
    char name[FLIGHT_NAME_BYTES];
    char head_storage[HEAD_BYTES];
    char text[]; /* endpoint, id, upstream id, team */
};

static void move_text(struct view *view, char **room)
{
    if (view->length > 0) {
        memcpy(*room, view->data, view->length);
    }
    view->data = *room;
    *room += view->length;
}

static struct errand *make_errand(struct gateway_shared *shared, const struct store_job *job)
{
    size_t bytes =
        job->endpoint.length + job->id.length + job->upstream_id.length + job->team.length;
    struct errand *errand;
    char *room;

    if (!route_endpoint_valid(job->endpoint) || !route_job_valid(job->id)) {
        return NULL; /* not podgate's */
    }
    errand = calloc(1, sizeof *errand + bytes);
    if (!errand) {
        return NULL;
    }
    errand->job = *job;
    room = errand->text;
    move_text(&errand->job.endpoint, &room);
    move_text(&errand->job.id, &room);
    move_text(&errand->job.upstream_id, &room);
    move_text(&errand->job.team, &room);
    errand->job.key = view_make(NULL, 0);
    errand->name_length = flight_build_name(job->endpoint, job->id, errand->name);
    errand->owner = flight_owner_of(shared, view_make(errand->name, errand->name_length));
    return errand;
}

static bool send_errand(struct errand *errand, loop_function *arrived)
{
    if (errand && loop_post(errand->owner->loop, arrived, errand)) {
        return true;
    }
    free(errand);
    return false;
}

/* ---- polls ----------------------------------------------------------------------------------- */

static uint64_t store_now_ms(const struct flights *flights)
{
    return (uint64_t)((int64_t)clock_wall_ms() + flights->clock_offset_ms);
}

static void on_poll_letter(void *argument)
{
    struct errand *errand = argument;
    struct flight *flight =
        flight_find_or_create(errand->owner->flights, view_make(errand->name, errand->name_length));
    bool claimed = errand->job.fence != 0;

    if (flight) {
        /* What the flight knows of an ended job is newer than any claim. */
        if (claimed && !flight->has_ending &&
            !(flight->record.known == RECORD_HERE &&
              flight->record.generation == errand->job.generation &&
              job_state_is_terminal(flight->record.state) && flight->record.state != JOB_LOST)) {
            flight_take_record(flight, &errand->job, store_now_ms(flight->flights));
        }
        flight->poll_claimed = claimed || (flight->polling && flight->poll_claimed);
        flight->polling = true;
        if (!claimed) {
            flight->record.known = RECORD_NONE;
            flight_answer_unref(flight->latest);
            flight->latest = NULL;
        }
        flight_proceed(flight, VIEW(""));
    }
    free(errand);
}

bool flight_post_poll(struct gateway_shared *shared, const struct store_job *job)
{
    return send_errand(make_errand(shared, job), on_poll_letter);
}

/* ---- cancelling what a purge marked ---------------------------------------------------------- */

static void destroy_errand(void *object)
{
    struct errand *errand = object;

    builder_clear(&errand->head);
    body_unref(errand->answer);
    free(errand);
}

static void on_cleared(void *argument, const struct store_reply *reply)
{
    (void)argument;
    (void)reply; /* not cleared: it is claimed again, and found to be cancelled */
}

static void enlist(struct errand *errand)
{
    struct flights *flights = errand->owner->flights;

    errand->next = flights->errands;
    errand->link = &flights->errands;
    if (errand->next) {
        errand->next->link = &errand->next;
    }
    flights->errands = errand;
}

static void delist(struct errand *errand)
{
    *errand->link = errand->next;
    if (errand->next) {
        errand->next->link = errand->link;
    }
}

void flight_end_errands(struct flights *flights)
{
    while (flights->errands) {
        struct errand *errand = flights->errands;

        delist(errand);
        if (errand->exchange) {
            upstream_abort(errand->exchange);
        }
        loop_bury(flights->gateway->loop, &errand->grave, destroy_errand, errand);
    }
}

static void end_cancel(struct errand *errand, enum metric_cancel outcome)
{
    struct gateway *gateway = errand->owner;
    struct store_question clear = {
        .operation = STORE_CLEAR_CANCEL,
        .endpoint = errand->job.endpoint,
        .job = errand->job.id,
    };
    struct store_job poked = errand->job;

    poked.fence = 0;
    delist(errand);
    if (errand->ttl_ms > 0) {
        loop_bury(gateway->loop, &errand->grave, destroy_errand, errand);
        return;
    }
    if (outcome != METRIC_CANCEL_FAILED) {
        struct store_call *call = store_ask(gateway->store, &clear, on_cleared, NULL);

        (void)call; /* nobody waits for it */
        if (!flight_post_poll(gateway->shared, &poked)) {
            /* the collector's own poll of it comes in time */
        }
    }
    if (gateway->shared->collector) {
        collector_cancel_settled(gateway->shared->collector, errand->job.endpoint, outcome);
    }
    loop_bury(gateway->loop, &errand->grave, destroy_errand, errand);
}

static void ask_upstream(struct errand *errand, struct view method, enum route_operation operation);

static void on_errand_head(void *owner, struct upstream_exchange *exchange,
                           const struct http_response_head *head)
{
    struct errand *errand = owner;
    struct gateway *gateway = errand->owner;

    errand->status = head->status;
    relay_report_answer(gateway, errand->cancelling ? ROUTE_CANCEL : ROUTE_STATUS,
                        errand->job.endpoint, head->status);
    body_unref(errand->answer);
    errand->answer = body_create(gateway->shared->budget, FIRST_BODY_BYTES);
    if (errand->answer) {
        upstream_collect(exchange, errand->answer,
                         (size_t)gateway->config->retention.max_result_bytes);
    }
}

static bool is_queued(const struct errand *errand)
{
    struct relay_facts facts;

    return errand->status == 200 && relay_read_facts(body_view(errand->answer), &facts) &&
           view_equal(facts.status, VIEW("IN_QUEUE"));
}

static void on_errand_body(void *owner, struct upstream_exchange *exchange, struct view data,
                           bool last)
{
    struct errand *errand = owner;

    (void)data;
    errand->exchange = NULL;
    if (!last || !errand->answer) {
        if (!last) {
            upstream_abort(exchange);
        }
        end_cancel(errand, METRIC_CANCEL_SKIPPED); /* so long an answer is an ended job's */
        return;
    }
    if (errand->cancelling) {
        bool gone = errand->status == 404;

        end_cancel(errand,
                   errand->status == 200 || gone ? METRIC_CANCEL_DONE : METRIC_CANCEL_FAILED);
    } else if (is_queued(errand) && errand->ttl_ms == 0) {
        errand->cancelling = true;
        ask_upstream(errand, VIEW("POST"), ROUTE_CANCEL);
    } else if (errand->status == 200 || errand->status == 404) {
        end_cancel(errand, METRIC_CANCEL_SKIPPED);
    } else {
        end_cancel(errand, METRIC_CANCEL_FAILED);
    }
}

static void on_errand_failure(void *owner, struct upstream_exchange *exchange,
                              enum upstream_failure failure, bool may_be_processed)
{
    struct errand *errand = owner;

    (void)exchange;
    (void)may_be_processed; /* cancelling twice does no harm */
    errand->exchange = NULL;
    metrics_add(errand->owner->metrics, METRIC_FAULTS, METRIC_PART_UPSTREAM, failure, 1);
    relay_report_failure(errand->owner, errand->job.endpoint, failure);
    end_cancel(errand, METRIC_CANCEL_FAILED);
}

static const struct upstream_handler errand_handler = {
    .on_head = on_errand_head,
    .on_body = on_errand_body,
    .on_failure = on_errand_failure,
};

static void ask_upstream(struct errand *errand, struct view method, enum route_operation operation)
{
    struct gateway *gateway = errand->owner;
    struct route route = {
        .operation = operation,
        .endpoint = errand->job.endpoint,
        .job = errand->job.upstream_id.length > 0 ? errand->job.upstream_id : errand->job.id,
        .ttl_ms = errand->ttl_ms,
        .has_ttl = errand->ttl_ms > 0,
    };
    struct upstream_request sent = {
        .resend = operation == ROUTE_STATUS ? UPSTREAM_RESEND_READ : UPSTREAM_RESEND_NEVER,
        .deadlines = {.total_ms = gateway->config->upstream.read_timeout_ms},
    };

    builder_reset(&errand->head);
    builder_append(&errand->head, method);
    builder_append_byte(&errand->head, ' ');
    route_append_target(&errand->head, gateway->config->upstream.url.path, &route);
    builder_append(&errand->head, VIEW(" HTTP/1.1\r\nAccept: application/json\r\n"
                                       "Via: 1.1 podgate\r\n"));
    if (operation == ROUTE_CANCEL) {
        builder_append(&errand->head, VIEW("Content-Length: 0\r\n"));
    }
    sent.head = builder_view(&errand->head);
    errand->exchange = builder_failed(&errand->head)
                           ? NULL
                           : upstream_send(gateway->upstream, &sent, &errand_handler, errand);
    if (!errand->exchange) {
        end_cancel(errand, METRIC_CANCEL_FAILED);
    }
}

static void on_errand_letter(void *argument)
{
    struct errand *errand = argument;

    builder_init(&errand->head, errand->head_storage, sizeof errand->head_storage);
    enlist(errand);
    ask_upstream(errand, VIEW("GET"), ROUTE_STATUS);
}

/* Upstream will drop the result soon after the job's end: it must be seen in time. */
static void on_watch_letter(void *argument)
{
    struct errand *errand = argument;
    struct flight *flight =
        flight_find_or_create(errand->owner->flights, view_make(errand->name, errand->name_length));
    uint64_t every_ms = errand->ttl_ms / 3;

    if (flight) {
        every_ms = every_ms > FLIGHT_POLL_MS ? every_ms : (uint64_t)FLIGHT_POLL_MS;
        if (flight->watch_every_ms == 0 || every_ms < flight->watch_every_ms) {
            flight->watch_every_ms = every_ms;
        }
        flight_proceed(flight, VIEW(""));
    }
    free(errand);
}

bool flight_post_watch(struct gateway_shared *shared, const struct store_job *job, uint64_t ttl_ms)
{
    struct errand *errand = make_errand(shared, job);

    if (errand) {
        errand->ttl_ms = ttl_ms;
    }
    return send_errand(errand, on_watch_letter);
}

bool flight_post_ttl(struct gateway_shared *shared, const struct store_job *job, uint64_t ttl_ms)
{
    struct errand *errand = make_errand(shared, job);

    if (errand) {
        errand->ttl_ms = ttl_ms > 0 ? ttl_ms : 1;
    }
    return send_errand(errand, on_errand_letter);
}

bool flight_post_cancel(struct gateway_shared *shared, const struct store_job *job)
{
    return send_errand(make_errand(shared, job), on_errand_letter);
}
