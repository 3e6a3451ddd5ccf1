#include "build_config.h"

#include <event2/event.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/loop.h"
#include "base/metrics.h"
#include "ctl/ctl_doctor.h"
#include "model/metric_catalogue.h"
#include "model/route.h"
#include "net/upstream.h"

/* One GET /health at the upstream, the way podgate itself asks: same names, proxy, authorities and
 * key. Of an endpoint that the configuration names, where there is one; otherwise any answer at all
 * shows that the upstream can be reached. */

enum { TIMEOUT_MS = 15 * 1000, BODIES_BYTES = 1024 * 1024 };

struct visit {
    struct loop *loop;
    bool over;
    unsigned status;
    bool failed;
    enum upstream_failure failure;
};

static void on_head(void *owner, UNUSED struct upstream_exchange *exchange,
                    const struct http_response_head *head)
{
    struct visit *visit = owner;

    visit->status = head->status;
}

static void on_body(void *owner, UNUSED struct upstream_exchange *exchange, UNUSED struct view data,
                    bool last)
{
    struct visit *visit = owner;

    if (last) {
        visit->over = true;
        loop_stop(visit->loop);
    }
}

static void on_failure(void *owner, UNUSED struct upstream_exchange *exchange,
                       enum upstream_failure failure, UNUSED bool may_be_processed)
{
    struct visit *visit = owner;

    visit->over = true;
    visit->failed = true;
    visit->failure = failure;
    loop_stop(visit->loop);
}

static const struct upstream_handler handler = {
    .on_head = on_head,
    .on_body = on_body,
    .on_failure = on_failure,
};

static bool ask(struct visit *visit, struct upstream *upstream, const struct config *config,
                struct view endpoint)
{
    const struct route route = {.operation = ROUTE_HEALTH, .endpoint = endpoint};
    struct upstream_request request = {
        .resend = UPSTREAM_RESEND_READ,
        .deadlines = {.total_ms = TIMEOUT_MS},
    };
    struct builder head;
    bool asked = false;

    builder_init(&head, NULL, 0);
    builder_append(&head, VIEW("GET "));
    route_append_target(&head, config->upstream.url.path, &route);
    builder_append(&head, VIEW(" HTTP/1.1\r\nAccept: application/json\r\n"));
    request.head = builder_view(&head);
    if (!builder_failed(&head) && upstream_send(upstream, &request, &handler, visit)) {
        asked = loop_run(visit->loop) && visit->over;
    }
    builder_clear(&head);
    return asked;
}

static void judge(struct ctl_doctor *doctor, const struct visit *visit, bool has_endpoint)
{
    const char *url = doctor->config->upstream.url.text.data;

    if (visit->failed) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_UNAVAILABLE, "upstream", "%s can't be asked: %s", url,
                        upstream_failure_text(visit->failure));
    } else if (visit->status == 401 || visit->status == 403) {
        ctl_doctor_tell(doctor, has_endpoint ? CTL_BAD : CTL_WARNING, EX_NOPERM, "upstream",
                        "%s answers, and refuses podgate's key (HTTP %u)", url, visit->status);
    } else if (visit->status >= 500) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_UNAVAILABLE, "upstream", "%s answers HTTP %u", url,
                        visit->status);
    } else if (visit->status == 200) {
        ctl_doctor_tell(doctor, CTL_GOOD, EX_OK, "upstream", "%s answers, and takes podgate's key",
                        url);
    } else {
        ctl_doctor_tell(doctor, CTL_GOOD, EX_OK, "upstream", "%s answers (HTTP %u)", url,
                        visit->status);
    }
}

void ctl_doctor_upstream(struct ctl_doctor *doctor)
{
    const struct config *config = doctor->config;
    struct body_budget budget;
    struct visit visit = {.loop = loop_create()};
    struct metrics *metrics = metrics_create(metric_catalogue, METRIC_COUNT);
    struct metrics_block *block = metrics ? metrics_block_create(metrics) : NULL;
    char *problem = NULL;
    struct upstream_identity *identity = upstream_identity_create(config, &problem);
    struct upstream *upstream = NULL;
    bool has_endpoint = config->endpoint_count > 1;

    atomic_init(&budget.used_bytes, 0);
    atomic_init(&budget.maximum_bytes, BODIES_BYTES);
    if (visit.loop && block && identity) {
        upstream = upstream_create(visit.loop, config, identity, &budget, block, NULL);
    }
    if (!identity) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_CONFIG, "upstream", "%s",
                        problem ? problem : "out of memory");
    } else if (!upstream || !ask(&visit, upstream, config,
                                 has_endpoint ? config->endpoints[1].name : VIEW("doctor"))) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_OSERR, "upstream", "out of memory or descriptors");
    } else {
        judge(doctor, &visit, has_endpoint);
    }
    free(problem);
    upstream_destroy(upstream);
    upstream_identity_destroy(identity);
    metrics_destroy(metrics);
    loop_destroy(visit.loop);
}
