#include "build_config.h"

#include "gateway/forward.h"

#include "gateway/flight.h"
#include "gateway/relay.h"
#include "gateway/team_jobs.h"

/* The job is another one now than any status that was fetched before. */
static void observe_cancel(struct request *request, const struct relay_facts *facts)
{
    (void)facts;
    flight_forget(request->gateway, &request->route);
}

static const struct relay_plan cancel_plan = {.resend = UPSTREAM_RESEND_NEVER,
                                              .observe = observe_cancel};
static const struct relay_plan change_plan = {.resend = UPSTREAM_RESEND_NEVER};
static const struct relay_plan read_plan = {.is_read = true, .resend = UPSTREAM_RESEND_READ};
static const struct relay_plan stream_plan = {.streaming = true, .resend = UPSTREAM_RESEND_NEVER};
static const struct relay_plan stream_read_plan = {
    .streaming = true, .is_read = true, .resend = UPSTREAM_RESEND_READ};

static bool is_get(const struct request *request)
{
    return request->inbound.head.method == HTTP_METHOD_GET;
}

void forward_cancel(struct request *request)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};

    relay_start(request, &cancel_plan, VIEW("POST"), &request->route, &deadlines);
}

void forward_purge_queue(struct request *request)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};

    if ((request->ticket.key->operations & CONFIG_OPERATION_PURGE_ALL) == 0) {
        team_jobs_purge(request);
        return;
    }
    relay_start(request, &change_plan, VIEW("POST"), &request->route, &deadlines);
}

void forward_requests(struct request *request)
{
    struct upstream_deadlines deadlines = {.total_ms = request->config->upstream.read_timeout_ms};

    relay_start(request, &read_plan, VIEW("GET"), &request->route, &deadlines);
}

void forward_batch(struct request *request)
{
    struct upstream_deadlines deadlines = {
        .after_sent_ms = request->config->upstream.submit_timeout_ms,
    };

    relay_start(request, is_get(request) ? &stream_read_plan : &stream_plan,
                http_request_method(&request->inbound.head), &request->route, &deadlines);
}

void forward_openai(struct request *request)
{
    struct upstream_deadlines deadlines = {.idle_ms = request->config->upstream.idle_timeout_ms};

    relay_start(request, is_get(request) ? &stream_read_plan : &stream_plan,
                http_request_method(&request->inbound.head), &request->route, &deadlines);
}
