#include "build_config.h"

#include "gateway/submit.h"

#include <string.h>

#include "gateway/flight.h"
#include "gateway/job_facts.h"
#include "gateway/relay.h"
#include "model/metric_catalogue.h"

/* Without ?wait= the upstream holds a /runsync for so long (contract of the API). */
enum { RUNSYNC_DEFAULT_WAIT_MS = 90000, RUNSYNC_MAXIMUM_WAIT_MS = 300000 };

static void observe(struct request *request, const struct relay_facts *facts)
{
    if (request->upstream_status == 200 && facts->id.length == 0) {
        /* The upstream can say 200 and mean an error. No id is invented. */
        metrics_add(request->gateway->metrics, METRIC_WARNINGS, METRIC_WARNING_SUBMIT_WITHOUT_ID, 0,
                    1);
        request->reason = "submit_without_id";
        return;
    }
    if (request->upstream_status >= 500 || request->upstream_status == 408) {
        metrics_add(request->gateway->metrics, METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN, 0,
                    1);
    }
    job_facts_note(request, facts);
}

/* The job runs again: what was known of its end is over. */
static void observe_retry(struct request *request, const struct relay_facts *facts)
{
    flight_forget(request->gateway, &request->route);
    observe(request, facts);
}

static const struct relay_plan retry_plan = {
    .is_submit = true,
    .resend = UPSTREAM_RESEND_SUBMIT,
    .observe = observe_retry,
};

static const struct relay_plan plan = {
    .is_submit = true,
    .resend = UPSTREAM_RESEND_SUBMIT,
    .observe = observe,
};

static void start(struct request *request, const struct relay_plan *how, uint64_t after_sent_ms)
{
    struct upstream_deadlines deadlines = {.after_sent_ms = after_sent_ms};

    relay_start(request, how, VIEW("POST"), &request->route, &deadlines);
}

void submit_run(struct request *request)
{
    start(request, &plan, request->config->upstream.submit_timeout_ms);
}

void submit_runsync(struct request *request)
{
    uint64_t wait_ms = request->route.has_wait ? request->route.wait_ms : RUNSYNC_DEFAULT_WAIT_MS;

    /* A wait out of range goes up as it is, for the upstream's own words on it. */
    if (wait_ms > RUNSYNC_MAXIMUM_WAIT_MS) {
        wait_ms = RUNSYNC_MAXIMUM_WAIT_MS;
    }
    start(request, &plan, wait_ms + request->config->upstream.runsync_margin_ms);
}

void submit_retry(struct request *request)
{
    start(request, &retry_plan, request->config->upstream.submit_timeout_ms);
}
