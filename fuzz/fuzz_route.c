/* Targets: what is accepted has no way around the grammar left in it, and what is sent upstream for
 * it is accepted as the same route again. */
#include "build_config.h"

#include "fuzz.h"
#include "model/route.h"

static void check_within(struct view part, struct view target)
{
    FUZZ_CHECK(part.length == 0 || (part.data >= target.data &&
                                    part.data + part.length <= target.data + target.length));
}

static void check_route(const struct route *route, struct view target)
{
    struct builder built;
    struct route again;
    check_within(route->endpoint, target);
    check_within(route->job, target);
    check_within(route->tail, target);
    check_within(route->query, target);
    FUZZ_CHECK(route_has_job(route->operation) == (route->job.length > 0));
    check_within(route->cursor, target);
    FUZZ_CHECK(route->limit <= ROUTE_LIMIT_MAXIMUM && route->cursor.length <= ROUTE_CURSOR_MAXIMUM);
    FUZZ_CHECK(route->since_ms <= INT64_MAX && route->from <= INT64_MAX);
    FUZZ_CHECK(!route->has_state || route->state < (enum job_state)JOB_UPSTREAM_STATES);
    if (route->operation == ROUTE_WHOAMI) {
        return;
    }
    FUZZ_CHECK(route_endpoint_valid(route->endpoint));
    FUZZ_CHECK(route->is_flash == view_equal(route->endpoint, VIEW("flash")));
    if (route_is_own(route->operation)) {
        return;
    }
    builder_init(&built, NULL, 0);
    route_append_target(&built, VIEW("/v2"), route);
    struct view text = builder_view(&built);
    struct view path = view_first(text, view_find_byte(text, '?'));
    for (size_t i = 0; i < path.length; i++) {
        char byte = path.data[i];
        FUZZ_CHECK(byte == '/' || http_byte_is(byte, HTTP_BYTE_TAIL));
        FUZZ_CHECK(byte != '/' || (i + 1 < path.length && path.data[i + 1] != '/'));
    }
    FUZZ_CHECK(http_bytes_are(text, HTTP_BYTE_TARGET));
    FUZZ_CHECK(route_parse(text, &again) == ROUTE_OK);
    FUZZ_CHECK(again.operation == route->operation);
    FUZZ_CHECK(view_equal(again.endpoint, route->endpoint));
    FUZZ_CHECK(view_equal(again.job, route->job));
    FUZZ_CHECK(view_equal(again.query, route->query));
    FUZZ_CHECK(again.has_wait == route->has_wait && again.wait_ms == route->wait_ms);
    FUZZ_CHECK(again.has_ttl == route->has_ttl && again.ttl_ms == route->ttl_ms);
    builder_clear(&built);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view target = view_make((const char *)data, size);
    struct route route;
    bool secure;
    struct view authority;
    struct view origin;
    enum route_result result = route_parse(target, &route);
    if (result == ROUTE_OK) {
        check_route(&route, target);
    }
    FUZZ_CHECK(route_detail(result).length > 0);
    if (http_target_split_absolute(target, &secure, &authority, &origin)) {
        check_within(authority, target);
        FUZZ_CHECK(http_authority_valid(authority));
        FUZZ_CHECK(origin.length > 0 && origin.data[0] == '/');
        if (route_parse(origin, &route) == ROUTE_OK) {
            check_route(&route, origin);
        }
    }
    return 0;
}
