#include "build_config.h"

#include "model/route.h"

#include "model/config.h"

/* What an operation's URL looks like behind its name. */
enum shape {
    SHAPE_ALONE,
    SHAPE_JOB,        /* "/" job */
    SHAPE_TAIL,       /* "/" tail */
    SHAPE_MAYBE_TAIL, /* nothing, or "/" tail */
};

/* Which parameters podgate reads, besides ttl. */
enum { TAKES_WAIT = 1, TAKES_FROM = 2, TAKES_LIST = 4, TAKES_TTL = 8 };

enum {
    METHOD_GET = 1 << HTTP_METHOD_GET,
    METHOD_HEAD = 1 << HTTP_METHOD_HEAD,
    METHOD_POST = 1 << HTTP_METHOD_POST,
    METHOD_PUT = 1 << HTTP_METHOD_PUT,
    METHOD_DELETE = 1 << HTTP_METHOD_DELETE
};

/* The whole surface on one page. GET and POST for reads: the Go SDK sends POST (contract 1.1). */
static const struct {
    struct view name;
    enum shape shape;
    unsigned takes;
    bool raw_query; /* the query goes up as it is */
    unsigned methods;
    struct view allow;
} operations[ROUTE_OPERATION_COUNT] = {
    [ROUTE_RUN] = {VIEW_INIT("run"), SHAPE_ALONE, 0, false, METHOD_POST, VIEW_INIT("POST")},
    [ROUTE_RUNSYNC] = {VIEW_INIT("runsync"), SHAPE_ALONE, TAKES_WAIT, false, METHOD_POST,
                       VIEW_INIT("POST")},
    [ROUTE_STATUS] = {VIEW_INIT("status"), SHAPE_JOB, 0, false,
                      METHOD_GET | METHOD_HEAD | METHOD_POST, VIEW_INIT("GET, HEAD, POST")},
    [ROUTE_STATUS_SYNC] = {VIEW_INIT("status-sync"), SHAPE_JOB, TAKES_WAIT, false,
                           METHOD_GET | METHOD_HEAD | METHOD_POST, VIEW_INIT("GET, HEAD, POST")},
    [ROUTE_STREAM] = {VIEW_INIT("stream"), SHAPE_JOB, TAKES_WAIT | TAKES_FROM, false,
                      METHOD_GET | METHOD_POST, VIEW_INIT("GET, POST")},
    [ROUTE_CANCEL] = {VIEW_INIT("cancel"), SHAPE_JOB, 0, false, METHOD_POST, VIEW_INIT("POST")},
    [ROUTE_RETRY] = {VIEW_INIT("retry"), SHAPE_JOB, 0, false, METHOD_POST, VIEW_INIT("POST")},
    [ROUTE_PURGE_QUEUE] = {VIEW_INIT("purge-queue"), SHAPE_ALONE, 0, false, METHOD_POST,
                           VIEW_INIT("POST")},
    [ROUTE_HEALTH] = {VIEW_INIT("health"), SHAPE_ALONE, 0, false, METHOD_GET, VIEW_INIT("GET")},
    [ROUTE_REQUESTS] = {VIEW_INIT("requests"), SHAPE_ALONE, 0, true, METHOD_GET, VIEW_INIT("GET")},
    [ROUTE_BATCH] = {VIEW_INIT("batch"), SHAPE_MAYBE_TAIL, 0, true,
                     METHOD_GET | METHOD_POST | METHOD_PUT | METHOD_DELETE,
                     VIEW_INIT("GET, POST, PUT, DELETE")},
    [ROUTE_OPENAI] = {VIEW_INIT("openai"), SHAPE_TAIL, 0, true, METHOD_GET | METHOD_POST,
                      VIEW_INIT("GET, POST")},
    [ROUTE_JOBS] = {VIEW_INIT("jobs"), SHAPE_ALONE, TAKES_LIST, false, METHOD_GET | METHOD_HEAD,
                    VIEW_INIT("GET, HEAD")},
    /* Not found by these two names. */
    [ROUTE_WHOAMI] = {VIEW_INIT("whoami"), SHAPE_ALONE, 0, false, METHOD_GET | METHOD_HEAD,
                      VIEW_INIT("GET, HEAD")},
    [ROUTE_JOB_DELETE] = {VIEW_INIT("job-delete"), SHAPE_JOB, 0, false, METHOD_DELETE,
                          VIEW_INIT("DELETE")},
};

/* ---- path ------------------------------------------------------------------------------------ */

/* Takes one or more "/" and the segment behind them off the path. False at the path's end; a path
 * that ends with "/" ends with an empty segment. */
static bool next_segment(struct view *path, struct view *segment)
{
    if (path->length == 0) {
        return false;
    }
    while (path->length > 0 && path->data[0] == '/') {
        *path = view_skip(*path, 1);
    }
    *segment = view_first(*path, view_find_byte(*path, '/'));
    *path = view_skip(*path, segment->length);
    return true;
}

static bool name_valid(struct view name, size_t maximum)
{
    return name.length >= 1 && name.length <= maximum && http_bytes_are(name, HTTP_BYTE_NAME);
}

bool route_job_valid(struct view job)
{
    return name_valid(job, ROUTE_JOB_MAXIMUM);
}

bool route_endpoint_valid(struct view endpoint)
{
    return name_valid(endpoint, ROUTE_ENDPOINT_MAXIMUM);
}

static bool find_operation(struct view name, enum route_operation *operation)
{
    for (unsigned i = 0; i < ROUTE_WHOAMI; i++) {
        if (view_equal(name, operations[i].name)) {
            *operation = (enum route_operation)i;
            return true;
        }
    }
    return false;
}

static bool tail_valid(struct view tail)
{
    struct view segment;
    while (next_segment(&tail, &segment)) {
        if (segment.length == 0 || !http_bytes_are(segment, HTTP_BYTE_TAIL) ||
            view_equal(segment, VIEW(".")) || view_equal(segment, VIEW(".."))) {
            return false;
        }
    }
    return true;
}

/* What follows the operation's name. */
static bool parse_rest(struct view path, struct route *route)
{
    struct view segment;
    switch (operations[route->operation].shape) {
    case SHAPE_ALONE: return path.length == 0;
    case SHAPE_JOB:
        if (!next_segment(&path, &segment) || !route_job_valid(segment) || path.length > 0) {
            return false;
        }
        route->job = segment;
        return true;
    case SHAPE_TAIL:
    case SHAPE_MAYBE_TAIL:
        if (path.length == 0) {
            return operations[route->operation].shape == SHAPE_MAYBE_TAIL;
        }
        while (path.length > 0 && path.data[0] == '/') {
            path = view_skip(path, 1);
        }
        route->tail = path;
        return path.length > 0 && tail_valid(path);
    }
    return false;
}

static bool parse_path(struct view path, struct route *route)
{
    struct view segment;
    if (path.length == 0 || path.data[0] != '/' || !next_segment(&path, &segment)) {
        return false;
    }
    if (view_equal(segment, VIEW("podgate"))) {
        route->operation = ROUTE_WHOAMI;
        return next_segment(&path, &segment) && view_equal(segment, VIEW("v1")) &&
               next_segment(&path, &segment) && view_equal(segment, VIEW("whoami")) &&
               path.length == 0;
    }
    if (!view_equal(segment, VIEW("v2")) || !next_segment(&path, &segment) ||
        !route_endpoint_valid(segment)) {
        return false;
    }
    route->endpoint = segment;
    route->is_flash = view_equal(segment, VIEW("flash"));
    if (!next_segment(&path, &segment) || !find_operation(segment, &route->operation)) {
        return false;
    }
    if (route->operation == ROUTE_JOBS && path.length > 0) {
        route->operation = ROUTE_JOB_DELETE;
    }
    return parse_rest(path, route);
}

/* ---- query ----------------------------------------------------------------------------------- */

/* RFC 3986 section 3.4, and the square brackets that many clients leave as they are. */
static bool query_valid(struct view query)
{
    for (size_t i = 0; i < query.length; i++) {
        if (!http_byte_is(query.data[i], HTTP_BYTE_TARGET) || query.data[i] == '#') {
            return false;
        }
        if (query.data[i] == '%' &&
            (query.length - i < 3 || !http_byte_is(query.data[i + 1], HTTP_BYTE_HEX) ||
             !http_byte_is(query.data[i + 2], HTTP_BYTE_HEX))) {
            return false;
        }
    }
    return true;
}

/* One or more digits; a number too large for 64 bits is as large as they can say, since the limits
 * of `wait` are another's to judge. */
static bool parse_number(struct view digits, uint64_t *number)
{
    if (digits.length == 0 || !http_bytes_are(digits, HTTP_BYTE_DIGIT)) {
        return false;
    }
    if (!view_parse_u64(digits, UINT64_MAX, number)) {
        *number = UINT64_MAX;
    }
    return true;
}

static bool read_wait(struct view value, struct route *route)
{
    route->has_wait = true;
    return parse_number(value, &route->wait_ms);
}

static bool read_ttl(struct view value, struct route *route)
{
    route->has_ttl = true;
    return parse_number(value, &route->ttl_ms);
}

static bool read_from(struct view value, struct route *route)
{
    route->has_from = true;
    return view_parse_u64(value, INT64_MAX, &route->from);
}

static bool read_status(struct view value, struct route *route)
{
    route->has_state = true;
    return job_state_parse(value, &route->state);
}

/* Milliseconds, or a date, in which many clients encode the colons. */
static bool read_since(struct view value, struct route *route)
{
    char text[64];
    size_t length = 0;

    for (size_t i = 0; i < value.length && length < sizeof text; i++) {
        uint8_t byte = (uint8_t)value.data[i];

        if (byte == '%') { /* query_valid() has seen to it that two digits follow */
            if (!view_parse_hex(view_make(value.data + i + 1, 2), &byte, 1)) {
                return false;
            }
            i += 2;
        }
        text[length++] = (char)byte;
    }
    return view_parse_u64(view_make(text, length), INT64_MAX, &route->since_ms) ||
           config_parse_date(view_make(text, length), &route->since_ms);
}

static bool read_limit(struct view value, struct route *route)
{
    uint64_t limit;

    if (!view_parse_u64(value, ROUTE_LIMIT_MAXIMUM, &limit) || limit == 0) {
        return false;
    }
    route->limit = (uint32_t)limit;
    return true;
}

/* What the bytes mean is for the store to say. */
static bool read_cursor(struct view value, struct route *route)
{
    route->cursor = value;
    for (size_t i = 0; i < value.length; i++) {
        if (!http_byte_is(value.data[i], HTTP_BYTE_NAME) && value.data[i] != '.' &&
            value.data[i] != '~') {
            return false;
        }
    }
    return value.length > 0 && value.length <= ROUTE_CURSOR_MAXIMUM;
}

static const struct {
    struct view name;
    unsigned taken_as;
    enum route_result bad;
    enum route_result twice;
    bool (*read)(struct view value, struct route *route);
} parameters[] = {
    {VIEW_INIT("ttl"), TAKES_TTL, ROUTE_TTL_BAD, ROUTE_TTL_TWICE, read_ttl},
    {VIEW_INIT("wait"), TAKES_WAIT, ROUTE_WAIT_BAD, ROUTE_WAIT_TWICE, read_wait},
    {VIEW_INIT("from"), TAKES_FROM, ROUTE_FROM_BAD, ROUTE_FROM_BAD, read_from},
    {VIEW_INIT("status"), TAKES_LIST, ROUTE_STATE_BAD, ROUTE_STATE_BAD, read_status},
    {VIEW_INIT("since"), TAKES_LIST, ROUTE_SINCE_BAD, ROUTE_SINCE_BAD, read_since},
    {VIEW_INIT("limit"), TAKES_LIST, ROUTE_LIMIT_BAD, ROUTE_LIMIT_BAD, read_limit},
    {VIEW_INIT("cursor"), TAKES_LIST, ROUTE_CURSOR_BAD, ROUTE_CURSOR_BAD, read_cursor},
};

/* `seen`: a bit for each of the parameters that occurred. */
static enum route_result parse_parameter(struct view parameter, struct route *route,
                                         unsigned *seen)
{
    size_t equals = view_find_byte(parameter, '=');
    struct view name = view_first(parameter, equals);
    struct view value = view_skip(parameter, equals + 1);
    unsigned taken = operations[route->operation].takes | TAKES_TTL;
    for (size_t i = 0; i < ARRAY_LENGTH(parameters); i++) {
        if ((parameters[i].taken_as & taken) != 0 && view_equal(name, parameters[i].name)) {
            if (*seen & 1u << i) {
                return parameters[i].twice;
            }
            *seen |= 1u << i;
            return parameters[i].read(value, route) ? ROUTE_OK : parameters[i].bad;
        }
    }
    return ROUTE_OK;
}

static enum route_result parse_query(struct view query, struct route *route)
{
    unsigned seen = 0;
    if (!query_valid(query)) {
        return ROUTE_QUERY_BAD;
    }
    if (operations[route->operation].raw_query) {
        route->query = query;
        return ROUTE_OK;
    }
    while (query.length > 0) {
        struct view parameter = view_first(query, view_find_byte(query, '&'));
        enum route_result result = parse_parameter(parameter, route, &seen);
        if (result != ROUTE_OK) {
            return result;
        }
        query = view_skip(query, parameter.length + 1);
    }
    return ROUTE_OK;
}

enum route_result route_parse(struct view target, struct route *route)
{
    *route = (struct route){.operation = ROUTE_RUN};
    size_t path_length = view_find_byte(target, '?');
    if (!parse_path(view_first(target, path_length), route)) {
        return ROUTE_NOT_FOUND;
    }
    return parse_query(view_skip(target, path_length + 1), route);
}

/* ---- about operations ------------------------------------------------------------------------ */

bool route_allows(enum route_operation operation, enum http_method method)
{
    return method != HTTP_METHOD_UNKNOWN && (operations[operation].methods & 1u << method) != 0;
}

struct view route_allow_text(enum route_operation operation)
{
    return operations[operation].allow;
}

struct view route_operation_name(enum route_operation operation)
{
    return operations[operation].name;
}

bool route_is_own(enum route_operation operation)
{
    return operation == ROUTE_JOBS || operation == ROUTE_WHOAMI || operation == ROUTE_JOB_DELETE;
}

bool route_has_job(enum route_operation operation)
{
    return operations[operation].shape == SHAPE_JOB;
}

struct view route_detail(enum route_result result)
{
    switch (result) {
    case ROUTE_OK: return VIEW("The route is known.");
    case ROUTE_NOT_FOUND: return VIEW("There is nothing at this path.");
    case ROUTE_WAIT_BAD:
        return VIEW("wait is invalid; it must be a number of milliseconds in digits.");
    case ROUTE_WAIT_TWICE: return VIEW("wait occurs more than once.");
    case ROUTE_TTL_BAD:
        return VIEW("ttl is invalid; it must be a number of milliseconds in digits.");
    case ROUTE_TTL_TWICE: return VIEW("ttl occurs more than once.");
    case ROUTE_STATE_BAD:
        return VIEW("status is invalid, or occurs more than once; it must be one of IN_QUEUE, "
                    "IN_PROGRESS, COMPLETED, FAILED, CANCELLED and TIMED_OUT.");
    case ROUTE_SINCE_BAD:
        return VIEW("since is invalid, or occurs more than once; it must be a time of RFC 3339 or "
                    "milliseconds since 1970.");
    case ROUTE_LIMIT_BAD:
        return VIEW("limit is invalid, or occurs more than once; it must be a number from 1 to "
                    "1000.");
    case ROUTE_CURSOR_BAD:
        return VIEW("cursor is invalid, or occurs more than once; it must be as an answer gave it.");
    case ROUTE_FROM_BAD:
        return VIEW("from is invalid, or occurs more than once; it must be the number of a chunk, "
                    "counted from 0.");
    case ROUTE_QUERY_BAD:
        return VIEW("The query has a forbidden character or a broken percent-encoding.");
    }
    return VIEW("");
}

static void append_number(struct builder *builder, struct view name, uint64_t number,
                          char *separator)
{
    builder_append_byte(builder, *separator);
    builder_append(builder, name);
    builder_append_byte(builder, '=');
    builder_append_u64(builder, number);
    *separator = '&';
}

void route_append_target(struct builder *builder, struct view base_path, const struct route *route)
{
    struct view tail = route->tail;
    struct view segment;
    builder_append(builder, base_path);
    builder_append_byte(builder, '/');
    builder_append(builder, route->endpoint);
    builder_append_byte(builder, '/');
    builder_append(builder, operations[route->operation].name);
    if (route_has_job(route->operation)) {
        builder_append_byte(builder, '/');
        builder_append(builder, route->job);
    }
    while (next_segment(&tail, &segment)) {
        builder_append_byte(builder, '/');
        builder_append(builder, segment);
    }
    char separator = '?';
    if (route->query.length > 0) {
        builder_append_byte(builder, separator);
        builder_append(builder, route->query);
        return;
    }
    if (route->has_wait && (operations[route->operation].takes & TAKES_WAIT) != 0) {
        append_number(builder, VIEW("wait"), route->wait_ms, &separator);
    }
    if (route->has_ttl) {
        append_number(builder, VIEW("ttl"), route->ttl_ms, &separator);
    }
}
