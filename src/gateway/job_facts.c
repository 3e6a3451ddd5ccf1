#include "build_config.h"

#include "gateway/job_facts.h"

#include <string.h>

#include "model/metric_catalogue.h"

void job_facts_note(struct request *request, const struct relay_facts *facts)
{
    if (facts->id.length > 0 && facts->id.length <= sizeof request->job_text) {
        memcpy(request->job_text, facts->id.data, facts->id.length);
        request->job_length = facts->id.length;
    }
    if (request->upstream_status == 200 && view_equal(facts->status, VIEW("COMPLETED")) &&
        !facts->has_output) {
        metrics_add(request->gateway->metrics, METRIC_WARNINGS,
                    METRIC_WARNING_COMPLETED_WITHOUT_OUTPUT, 0, 1);
        if (request_has_caller(request)) {
            builder_append(&request->reply, VIEW("Podgate-Warning: completed-without-output\r\n"));
        }
    }
}
