#include "build_config.h"

#include <criterion/criterion.h>

#include "base/bytes.h"
#include "model/job.h"

Test(job, every_state_is_read_from_its_own_text)
{
    for (int i = 0; i < JOB_STATES; i++) {
        enum job_state state;
        const char *text = job_state_text((enum job_state)i);
        cr_assert(job_state_parse_ledger(view_of_string(text), &state), "%s", text);
        cr_assert_eq(state, (enum job_state)i, "%s", text);
    }
    cr_assert_str_eq(job_state_text(JOB_TIMED_OUT), "TIMED_OUT");
    cr_assert_str_eq(job_state_text(JOB_IN_QUEUE), "IN_QUEUE");
}

Test(job, what_only_the_ledger_says_is_no_state_of_the_upstream)
{
    for (int i = 0; i < JOB_STATES; i++) {
        enum job_state state;
        const char *text = job_state_text((enum job_state)i);
        cr_assert_eq(job_state_parse(view_of_string(text), &state), i < JOB_UPSTREAM_STATES, "%s",
                     text);
    }
}

Test(job, other_texts_are_no_state)
{
    enum job_state state;

    cr_assert_not(job_state_parse(VIEW("completed"), &state));
    cr_assert_not(job_state_parse(VIEW("COMPLETED "), &state));
    cr_assert_not(job_state_parse(VIEW("COMPLETE"), &state));
    cr_assert_not(job_state_parse(VIEW(""), &state));
}

Test(job, what_has_ended_is_terminal_and_two_ends_are_retryable)
{
    static const struct {
        bool terminal;
        bool retryable;
    } expected[JOB_STATES] = {
        [JOB_IN_QUEUE] = {false, false},   [JOB_IN_PROGRESS] = {false, false},
        [JOB_RUNNING] = {false, false},    [JOB_COMPLETED] = {true, false},
        [JOB_FAILED] = {true, true},       [JOB_CANCELLED] = {true, false},
        [JOB_TIMED_OUT] = {true, true},    [JOB_LOST] = {true, false},
        [JOB_TTL_EXPIRED] = {true, false},
    };
    for (int i = 0; i < JOB_STATES; i++) {
        cr_assert_eq(job_state_is_terminal((enum job_state)i), expected[i].terminal);
        cr_assert_eq(job_state_is_retryable((enum job_state)i), expected[i].retryable);
    }
}
