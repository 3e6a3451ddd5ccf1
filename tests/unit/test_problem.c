#include "build_config.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <string.h>

#include "gateway/problem.h"

static json_t *body_of(enum problem problem, unsigned status, struct view detail)
{
    char storage[512];
    struct builder text;
    json_error_t error;
    json_t *body;

    builder_init(&text, storage, sizeof storage);
    problem_append_body(&text, problem, status, detail);
    cr_assert_not(builder_failed(&text));
    cr_assert_eq(builder_view(&text).data, storage, "longer than what callers of it have room for");
    body = json_loadb(builder_view(&text).data, builder_view(&text).length, JSON_REJECT_DUPLICATES,
                      &error);
    cr_assert_not_null(body, "problem %d: %s", problem, error.text);
    builder_clear(&text);
    return body;
}

static const char *text_of(json_t *body, const char *name)
{
    const char *text = json_string_value(json_object_get(body, name));

    cr_assert_not_null(text, "no %s", name);
    return text;
}

Test(problem, each_has_a_status_of_failure_a_code_and_a_sentence)
{
    for (int problem = 0; problem < PROBLEM_COUNT; problem++) {
        const struct problem_text *text = problem_text((enum problem)problem);

        cr_assert(text->status >= 400 && text->status <= 599, "problem %d", problem);
        cr_assert_not_null(text->code, "problem %d", problem);
        cr_assert_gt(strlen(text->code), 3);
        cr_assert_eq(strspn(text->code, "abcdefghijklmnopqrstuvwxyz_"), strlen(text->code), "%s",
                     text->code);
        cr_assert_not_null(text->detail, "%s", text->code);
        cr_assert_gt(strlen(text->detail), 10, "%s", text->code);
        cr_assert_eq(text->detail[strlen(text->detail) - 1], '.', "%s: a sentence", text->code);
    }
}

/* SDKs take a `status` member for a job's state. */
Test(problem, no_body_has_a_member_named_status)
{
    for (int problem = 0; problem < PROBLEM_COUNT; problem++) {
        json_t *body = body_of((enum problem)problem, 0, VIEW(""));

        cr_assert_null(json_object_get(body, "status"), "%s",
                       problem_text((enum problem)problem)->code);
        json_decref(body);
    }
}

Test(problem, the_body_says_code_and_sentence_and_the_error_that_sdks_look_for)
{
    for (int problem = 0; problem < PROBLEM_COUNT; problem++) {
        json_t *body = body_of((enum problem)problem, 0, VIEW(""));
        const struct problem_text *text = problem_text((enum problem)problem);

        cr_assert_str_eq(text_of(body, "code"), text->code);
        cr_assert_str_eq(text_of(body, "detail"), text->detail);
        cr_assert_gt(strlen(text_of(body, "title")), 0, "%s", text->code);
        cr_assert_gt(strlen(text_of(body, "error")), 0, "%s", text->code);
        json_decref(body);
    }
}

Test(problem, a_sentence_of_ones_own_takes_the_place_of_the_problems)
{
    json_t *body = body_of(PROBLEM_BAD_REQUEST, 0, VIEW("It has a \"quote\"."));

    cr_assert_str_eq(text_of(body, "detail"), "It has a \"quote\".");
    cr_assert_str_eq(text_of(body, "code"), "bad_request");
    json_decref(body);
}

Test(problem, a_status_of_ones_own_takes_the_place_of_the_problems)
{
    json_t *own = body_of(PROBLEM_UPSTREAM_ERROR, 0, VIEW(""));
    json_t *given = body_of(PROBLEM_UPSTREAM_ERROR, 404, VIEW(""));

    cr_assert_str_eq(text_of(own, "title"), "Bad Gateway");
    cr_assert_str_eq(text_of(given, "title"), "Not Found");
    json_decref(own);
    json_decref(given);
}

Test(problem, each_status_that_the_front_decides_has_a_problem_of_that_status)
{
    static const unsigned statuses[] = {400, 408, 413, 414, 415, 417, 431, 501, 505};

    for (size_t i = 0; i < ARRAY_LENGTH(statuses); i++) {
        cr_assert_eq(problem_text(problem_of_status(statuses[i]))->status, statuses[i]);
    }
    cr_assert_eq(problem_text(problem_of_status(499))->status, 400);
}

Test(problem, a_submit_whose_fate_is_unknown_has_one_code_whatever_its_status)
{
    cr_assert_str_eq(problem_text(PROBLEM_SUBMIT_UNKNOWN)->code, "submit_unknown");
    cr_assert_str_eq(problem_text(PROBLEM_SUBMIT_TIMEOUT)->code, "submit_unknown");
    cr_assert_eq(problem_text(PROBLEM_SUBMIT_UNKNOWN)->status, 502);
    cr_assert_eq(problem_text(PROBLEM_SUBMIT_TIMEOUT)->status, 504);
}
