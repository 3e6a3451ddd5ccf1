#include "build_config.h"

#include "gateway/unfollowed.h"

#include "model/metric_catalogue.h"

bool unfollowed_allowed(struct request *request)
{
    if (!http_head_has(&request->inbound.head.head, HTTP_FIELD_IDEMPOTENCY_KEY)) {
        return true;
    }
    request_refuse_because(request, PROBLEM_IDEMPOTENCY_KEY,
                           VIEW("Idempotency-Key can't be used with the endpoint flash."), 0);
    return false;
}

static bool is_unknown(const struct request *request, enum relay_end end,
                       const struct relay_facts *facts)
{
    unsigned status = request->upstream_status;

    switch (end) {
    case RELAY_ANSWERED:
        return status >= 500 || status == 408 ||
               (status < 300 && facts->id.length == 0 && !facts->has_error);
    case RELAY_REFUSED: return status >= 500 || status == 408 || status < 300;
    case RELAY_FAILED: return true;
    case RELAY_CUT:
    case RELAY_LONG:
    case RELAY_UNSENT: break;
    }
    return false;
}

bool unfollowed_record(struct request *request, enum relay_end end, const struct relay_facts *facts)
{
    struct log_line *line;

    if (is_unknown(request, end, facts)) {
        line = log_begin(request->gateway->log, LOG_LEVEL_WARNING, "submit_unknown");
        log_text(line, "request_id", request->id);
        log_text(line, "team", request->ticket.key->team->name);
        log_text(line, "operation", route_operation_name(request->route.operation));
        log_text(line, "endpoint", request->route.endpoint);
        log_string(line, "reason", request->reason);
        log_end(line);
        metrics_add(request->gateway->metrics, METRIC_WARNINGS, METRIC_WARNING_SUBMIT_UNKNOWN, 0,
                    1);
    }
    return false;
}
