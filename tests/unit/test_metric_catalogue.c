#include "build_config.h"

#include <criterion/criterion.h>
#include <string.h>

#include "model/metric_catalogue.h"
#include "model/route.h"
#include "net/upstream.h"

Test(metric_catalogue, names_follow_the_rules_of_prometheus)
{
    for (int i = 0; i < METRIC_COUNT; i++) {
        const struct metrics_family *family = &metric_catalogue[i];

        cr_assert_not_null(family->name, "metric %d has no row", i);
        cr_assert_eq(strncmp(family->name, "podgate_", 8), 0, "%s", family->name);
        cr_assert_eq(strspn(family->name, "abcdefghijklmnopqrstuvwxyz_"), strlen(family->name),
                     "%s", family->name);
        cr_assert_eq(family->type == METRICS_COUNTER,
                     strlen(family->name) > 6 &&
                         strcmp(family->name + strlen(family->name) - 6, "_total") == 0,
                     "%s: counters and only they end in _total", family->name);
        cr_assert_not_null(family->help, "%s", family->name);
        cr_assert_eq(family->help[strlen(family->help) - 1], '.', "%s: help is a sentence",
                     family->name);
        for (int j = 0; j < i; j++) {
            cr_assert_str_neq(family->name, metric_catalogue[j].name);
        }
    }
}

static void expect_values(const struct metrics_label *label, size_t count)
{
    cr_assert_eq(label->value_count, count, "%s", label->name);
    for (size_t i = 0; i < count; i++) {
        cr_assert_not_null(label->values[i], "%s: value %zu", label->name, i);
        for (size_t j = 0; j < i; j++) {
            cr_assert_str_neq(label->values[i], label->values[j]);
        }
    }
}

Test(metric_catalogue, each_value_of_an_enumeration_has_a_label_of_its_own)
{
    expect_values(&metric_catalogue[METRIC_REQUESTS].first, ROUTE_OPERATION_COUNT + 1);
    expect_values(&metric_catalogue[METRIC_REQUESTS].second, METRIC_STATUS_CLASS_COUNT);
    expect_values(&metric_catalogue[METRIC_REFUSALS].first, METRIC_REFUSAL_COUNT);
    expect_values(&metric_catalogue[METRIC_CONNECTIONS_REFUSED].first,
                  METRIC_CONNECTION_REFUSAL_COUNT);
    expect_values(&metric_catalogue[METRIC_WARNINGS].first, METRIC_WARNING_COUNT);
    expect_values(&metric_catalogue[METRIC_FAULTS].second, METRIC_STORE_FAULT_END);
}

Test(metric_catalogue, operations_are_called_as_in_urls)
{
    const struct metrics_label *label = &metric_catalogue[METRIC_REQUESTS].first;

    for (size_t i = 0; i < ROUTE_OPERATION_COUNT; i++) {
        cr_assert(view_equal(view_of_string(label->values[i]),
                             route_operation_name((enum route_operation)i)),
                  "%s", label->values[i]);
    }
    cr_assert_str_eq(label->values[ROUTE_OPERATION_COUNT], "none");
}

Test(metric_catalogue, faults_are_called_as_in_the_log)
{
    const struct metrics_label *label = &metric_catalogue[METRIC_FAULTS].second;

    for (size_t i = 0; i <= UPSTREAM_ENCODED; i++) {
        cr_assert_str_eq(label->values[i], upstream_failure_text((enum upstream_failure)i));
    }
}

Test(metric_catalogue, a_status_is_counted_in_its_class)
{
    static const struct {
        unsigned status;
        enum metric_status_class class;
    } rows[] = {{200, METRIC_STATUS_2XX}, {299, METRIC_STATUS_2XX},  {302, METRIC_STATUS_3XX},
                {404, METRIC_STATUS_4XX}, {500, METRIC_STATUS_5XX},  {599, METRIC_STATUS_5XX},
                {0, METRIC_STATUS_NONE},  {101, METRIC_STATUS_NONE}, {600, METRIC_STATUS_NONE}};

    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        cr_assert_eq(metric_status_class(rows[i].status), rows[i].class, "%u", rows[i].status);
    }
}

Test(metric_catalogue, a_refusal_has_a_word_for_the_log)
{
    cr_assert_str_eq(metric_refusal_text(METRIC_REFUSAL_KEY_UNKNOWN), "key_unknown");
    cr_assert_str_eq(metric_refusal_text(METRIC_REFUSAL_BREAKER), "breaker");
}
