#include "build_config.h"

#include "sim/sim_submission.h"

static int64_t get_integer(struct sim_text object, const char *key)
{
    struct sim_text value;
    int64_t number;
    return sim_json_get(object, key, &value) && sim_json_integer(value, &number) ? number : 0;
}

static struct sim_text get_typed(struct sim_text object, const char *key, enum sim_json_type type)
{
    struct sim_text value;
    if (sim_json_get(object, key, &value) && sim_json_type(value) == type)
        return value;
    return sim_text_of("");
}

enum submission_result submission_read(struct submission *submission, struct sim_text body,
                                       enum job_kind kind)
{
    *submission = (struct submission){.kind = kind, .input = sim_text_of("")};
    if (!sim_json_valid(body) || sim_json_type(body) != SIM_JSON_OBJECT)
        return SUBMISSION_INVALID;
    /* Decoded into a map upstream: null and absent are an empty one, all else is refused. */
    struct sim_text input;
    if (sim_json_get(body, "input", &input) && sim_json_type(input) != SIM_JSON_NULL) {
        if (sim_json_type(input) != SIM_JSON_OBJECT)
            return SUBMISSION_INPUT_NO_OBJECT;
        submission->input = input;
        submission->release_after_ms = get_integer(input, "mock_queue_delay");
    }
    submission->webhook = get_typed(body, "webhook", SIM_JSON_STRING);
    submission->s3_config = get_typed(body, "s3Config", SIM_JSON_OBJECT);
    struct sim_text policy = get_typed(body, "policy", SIM_JSON_OBJECT);
    submission->execution_limit_ms = get_integer(policy, "executionTimeout");
    submission->ttl_ms = get_integer(policy, "ttl");
    submission->low_priority = get_typed(policy, "lowPriority", SIM_JSON_TRUE).length > 0;
    return SUBMISSION_OK;
}
