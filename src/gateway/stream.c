#include "build_config.h"

#include "gateway/stream.h"

#include "gateway/relay.h"

enum {
    DEFAULT_WAIT_MS = 8000,
    MINIMUM_WAIT_MS = 1000,
    MAXIMUM_WAIT_MS = 300000,
    /* What an answer may come later than the wait says. */
    MARGIN_MS = 1000,
};

static const struct relay_plan plan = {.is_read = true, .resend = UPSTREAM_RESEND_READ};

void stream_start(struct request *request)
{
    struct route route = request->route;
    struct upstream_deadlines deadlines;

    if (!route.has_wait) {
        route.wait_ms = DEFAULT_WAIT_MS;
    } else if (route.wait_ms < MINIMUM_WAIT_MS) {
        route.wait_ms = MINIMUM_WAIT_MS;
    } else if (route.wait_ms > MAXIMUM_WAIT_MS) {
        route.wait_ms = MAXIMUM_WAIT_MS;
    }
    route.has_wait = true;
    deadlines = (struct upstream_deadlines){.total_ms = route.wait_ms + MARGIN_MS};
    body_unref(request->body);
    request->body = NULL;
    relay_start(request, &plan, VIEW("GET"), &route, &deadlines);
}
