#include "build_config.h"

#include "format/json_scan.h"
#include "gateway/relay.h"

/* What the top level of an answer says; the answer itself is never re-encoded. */

enum { FACT_ID, FACT_STATUS, FACT_OUTPUT, FACT_ERROR, FACT_EXECUTION, FACT_DELAY, FACTS };

static const struct view fact_names[FACTS] = {
    [FACT_ID] = VIEW_INIT("id"),
    [FACT_STATUS] = VIEW_INIT("status"),
    [FACT_OUTPUT] = VIEW_INIT("output"),
    [FACT_ERROR] = VIEW_INIT("error"),
    [FACT_EXECUTION] = VIEW_INIT("executionTime"),
    [FACT_DELAY] = VIEW_INIT("delayTime"),
};

static struct view plain_string(const struct json_member *member)
{
    struct view text;

    return member->type == JSON_STRING && json_member_plain_string(member, &text)
               ? text
               : view_make(NULL, 0);
}

/* A span in ms as workers measure it: digits, perhaps with a fraction that nobody needs. */
static uint64_t span_ms(const struct json_member *member)
{
    uint64_t ms;

    if (member->type != JSON_NUMBER ||
        !view_parse_u64(view_first(member->value, view_find_byte(member->value, '.')),
                        UINT64_MAX - 1, &ms)) {
        return UINT64_MAX;
    }
    return ms;
}

static enum json_scan_result read_facts(struct view answer, struct relay_facts *facts)
{
    struct json_member members[FACTS];
    enum json_scan_result result;

    for (size_t i = 0; i < FACTS; i++) {
        members[i] = (struct json_member){.name = fact_names[i]};
    }
    result = json_scan(answer, JSON_SCAN_NON_FINITE, members, FACTS, NULL);
    *facts = (struct relay_facts){
        .id = plain_string(&members[FACT_ID]),
        .status = plain_string(&members[FACT_STATUS]),
        .has_output = members[FACT_OUTPUT].type != JSON_ABSENT,
        .has_error = members[FACT_ERROR].type != JSON_ABSENT,
        .twice = members[FACT_ID].twice || members[FACT_STATUS].twice,
        .execution_ms = span_ms(&members[FACT_EXECUTION]),
        .delay_ms = span_ms(&members[FACT_DELAY]),
    };
    return result;
}

bool relay_read_facts(struct view answer, struct relay_facts *facts)
{
    return read_facts(answer, facts) == JSON_SCAN_OK;
}

bool relay_read_cut_facts(struct view answer, struct relay_facts *facts)
{
    return read_facts(answer, facts) == JSON_SCAN_CUT && route_job_valid(facts->id);
}
