#include "build_config.h"

#include "format/http_fields.h"

#include "base/clock.h"
#include "format/json_text.h"

/* ---- allow-lists ----------------------------------------------------------------------------- */

enum { ALWAYS = HTTP_FORWARD_ALWAYS, OPENAI = HTTP_FORWARD_OPENAI, FLASH = HTTP_FORWARD_FLASH };

/* For each known name the scopes in which it goes up. What isn't here never does. */
static const uint8_t request_scopes[HTTP_FIELD_COUNT] = {
    [HTTP_FIELD_ACCEPT] = ALWAYS,
    [HTTP_FIELD_ACCEPT_LANGUAGE] = ALWAYS,
    [HTTP_FIELD_ANTHROPIC_BETA] = OPENAI,
    [HTTP_FIELD_ANTHROPIC_VERSION] = OPENAI,
    [HTTP_FIELD_BAGGAGE] = ALWAYS,
    [HTTP_FIELD_CONTENT_TYPE] = ALWAYS,
    [HTTP_FIELD_LAST_EVENT_ID] = ALWAYS,
    [HTTP_FIELD_TRACEPARENT] = ALWAYS,
    [HTTP_FIELD_TRACESTATE] = ALWAYS,
    [HTTP_FIELD_USER_AGENT] = ALWAYS,
    [HTTP_FIELD_X_FLASH_APP] = FLASH,
    [HTTP_FIELD_X_FLASH_ENDPOINT] = FLASH,
    [HTTP_FIELD_X_FLASH_ENVIRONMENT] = FLASH,
    [HTTP_FIELD_ANY_OPENAI] = OPENAI,
    [HTTP_FIELD_ANY_X_STAINLESS] = OPENAI,
};

/* And in which it comes back. */
static const uint8_t response_scopes[HTTP_FIELD_COUNT] = {
    [HTTP_FIELD_CACHE_CONTROL] = ALWAYS,
    [HTTP_FIELD_CONTENT_DISPOSITION] = ALWAYS,
    [HTTP_FIELD_CONTENT_LANGUAGE] = ALWAYS,
    [HTTP_FIELD_CONTENT_TYPE] = ALWAYS,
    [HTTP_FIELD_ETAG] = OPENAI,
    [HTTP_FIELD_EXPIRES] = OPENAI,
    [HTTP_FIELD_LAST_MODIFIED] = OPENAI,
    [HTTP_FIELD_RETRY_AFTER] = ALWAYS,
    [HTTP_FIELD_ANY_OPENAI] = OPENAI,
    [HTTP_FIELD_ANY_X_RATELIMIT] = OPENAI,
};

static void append_allowed(struct builder *builder, const struct http_head *head, unsigned scope,
                           const uint8_t *scopes)
{
    for (unsigned i = 0; i < head->field_count; i++) {
        const struct http_field *field = &head->fields[i];
        if ((scopes[field->id] & scope) == 0 || field->hop) {
            continue;
        }
        struct view name = field->id < HTTP_FIELD_ANY_OPENAI
                               ? http_field_spelling((enum http_field_id)field->id)
                               : http_head_field_name(head, i);
        struct view value = http_head_field_value(head, i);
        char *line = builder_reserve(builder, name.length + value.length + 4);
        if (line == NULL) {
            return;
        }
        memcpy(line, name.data, name.length);
        memcpy(line + name.length, ": ", 2);
        memcpy(line + name.length + 2, value.data, value.length);
        memcpy(line + name.length + 2 + value.length, "\r\n", 2);
        builder_commit(builder, name.length + value.length + 4);
    }
}

void http_fields_append_request(struct builder *builder, const struct http_head *head,
                                unsigned scope)
{
    append_allowed(builder, head, scope, request_scopes);
}

void http_fields_append_response(struct builder *builder, const struct http_head *head,
                                 unsigned scope)
{
    append_allowed(builder, head, scope, response_scopes);
}

bool http_fields_allow_request(enum http_field_id id, unsigned scope)
{
    return (request_scopes[id] & scope) != 0;
}

bool http_fields_allow_response(enum http_field_id id, unsigned scope)
{
    return (response_scopes[id] & scope) != 0;
}

/* ---- dates ----------------------------------------------------------------------------------- */

static void put_digits(char *text, uint64_t number, size_t count)
{
    while (count > 0) {
        text[--count] = (char)('0' + number % 10);
        number /= 10;
    }
}

void http_date_format(uint64_t wall_s, char *text)
{
    static const char days[] = "ThuFriSatSunMonTueWed"; /* 1970-01-01 was a Thursday */
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const uint64_t last_s = UINT64_C(253402300799); /* 9999-12-31T23:59:59Z */
    wall_s = wall_s < last_s ? wall_s : last_s;
    uint64_t day = wall_s / 86400;
    uint64_t second = wall_s % 86400;
    struct clock_date date = clock_date_of_day(day);

    memcpy(text, "Ddd, 00 Mmm 0000 00:00:00 GMT", HTTP_DATE_LENGTH);
    memcpy(text, days + 3 * (day % 7), 3);
    put_digits(text + 5, date.day, 2);
    memcpy(text + 8, months + 3 * (date.month - 1), 3);
    put_digits(text + 12, date.year, 4);
    put_digits(text + 17, second / 3600, 2);
    put_digits(text + 20, second / 60 % 60, 2);
    put_digits(text + 23, second % 60, 2);
}

struct view http_date_line(struct http_date_cache *cache, uint64_t wall_ms)
{
    uint64_t wall_s = wall_ms / 1000;
    if (!cache->valid || cache->wall_s != wall_s) {
        memcpy(cache->line, "Date: ", 6);
        http_date_format(wall_s, cache->line + 6);
        memcpy(cache->line + 6 + HTTP_DATE_LENGTH, "\r\n", 2);
        cache->wall_s = wall_s;
        cache->valid = true;
    }
    return view_make(cache->line, HTTP_DATE_LINE_LENGTH);
}

/* ---- status lines ---------------------------------------------------------------------------- */

/* The whole line is kept; the phrase is a part of it. */
#define LINE(status, phrase) [status] = VIEW_INIT("HTTP/1.1 " #status " " phrase "\r\n")
static const struct view status_lines[600] = {
    LINE(100, "Continue"),
    LINE(101, "Switching Protocols"),
    LINE(102, "Processing"),
    LINE(103, "Early Hints"),
    LINE(200, "OK"),
    LINE(201, "Created"),
    LINE(202, "Accepted"),
    LINE(203, "Non-Authoritative Information"),
    LINE(204, "No Content"),
    LINE(205, "Reset Content"),
    LINE(206, "Partial Content"),
    LINE(207, "Multi-Status"),
    LINE(300, "Multiple Choices"),
    LINE(301, "Moved Permanently"),
    LINE(302, "Found"),
    LINE(303, "See Other"),
    LINE(304, "Not Modified"),
    LINE(307, "Temporary Redirect"),
    LINE(308, "Permanent Redirect"),
    LINE(400, "Bad Request"),
    LINE(401, "Unauthorized"),
    LINE(402, "Payment Required"),
    LINE(403, "Forbidden"),
    LINE(404, "Not Found"),
    LINE(405, "Method Not Allowed"),
    LINE(406, "Not Acceptable"),
    LINE(407, "Proxy Authentication Required"),
    LINE(408, "Request Timeout"),
    LINE(409, "Conflict"),
    LINE(410, "Gone"),
    LINE(411, "Length Required"),
    LINE(412, "Precondition Failed"),
    LINE(413, "Content Too Large"),
    LINE(414, "URI Too Long"),
    LINE(415, "Unsupported Media Type"),
    LINE(416, "Range Not Satisfiable"),
    LINE(417, "Expectation Failed"),
    LINE(421, "Misdirected Request"),
    LINE(422, "Unprocessable Content"),
    LINE(423, "Locked"),
    LINE(424, "Failed Dependency"),
    LINE(425, "Too Early"),
    LINE(426, "Upgrade Required"),
    LINE(428, "Precondition Required"),
    LINE(429, "Too Many Requests"),
    LINE(431, "Request Header Fields Too Large"),
    LINE(451, "Unavailable For Legal Reasons"),
    LINE(500, "Internal Server Error"),
    LINE(501, "Not Implemented"),
    LINE(502, "Bad Gateway"),
    LINE(503, "Service Unavailable"),
    LINE(504, "Gateway Timeout"),
    LINE(505, "HTTP Version Not Supported"),
    LINE(507, "Insufficient Storage"),
    LINE(508, "Loop Detected"),
    LINE(511, "Network Authentication Required"),
};
#undef LINE

enum { PHRASE_OFFSET = 13 }; /* behind "HTTP/1.1 200 " */

static struct view status_line(unsigned status)
{
    return status < ARRAY_LENGTH(status_lines) ? status_lines[status] : view_make(NULL, 0);
}

struct view http_status_reason(unsigned status)
{
    struct view line = status_line(status);
    return line.length > 0 ? view_make(line.data + PHRASE_OFFSET, line.length - PHRASE_OFFSET - 2)
                           : VIEW("");
}

void http_status_append_line(struct builder *builder, unsigned status)
{
    struct view line = status_line(status);
    if (line.length > 0) {
        builder_append(builder, line);
        return;
    }
    char text[] = "HTTP/1.1 000 \r\n";
    put_digits(text + 9, status, 3);
    builder_append(builder, view_make(text, sizeof text - 1));
}

/* ---- single values --------------------------------------------------------------------------- */

void http_field_append_length(struct builder *builder, uint64_t length)
{
    builder_append(builder, VIEW("Content-Length: "));
    builder_append_u64(builder, length);
    builder_append(builder, VIEW("\r\n"));
}

bool http_request_id_valid(struct view id)
{
    if (id.length < 1 || id.length > 128) {
        return false;
    }
    for (size_t i = 0; i < id.length; i++) {
        if (!http_byte_is(id.data[i], HTTP_BYTE_HOST) && id.data[i] != ':') {
            return false;
        }
    }
    return true;
}

void http_structured_append_string(struct builder *builder, struct view text)
{
    builder_append_byte(builder, '"');
    for (size_t i = 0; i < text.length; i++) {
        char byte = text.data[i];
        if (byte == '"' || byte == '\\') {
            builder_append_byte(builder, '\\');
        }
        bool fits = byte >= 0x20 && byte < 0x7f;
        builder_append_byte(builder, (char)(fits ? byte : '?'));
    }
    builder_append_byte(builder, '"');
}

void http_problem_append(struct builder *builder, const struct http_problem *problem)
{
    struct view title =
        problem->title.length > 0 ? problem->title : http_status_reason(problem->status);
    if (title.length == 0) {
        title = VIEW("Error"); /* a status that nobody registered still needs a word */
    }
    builder_append(builder, VIEW("{\"type\":"));
    json_text_append_string(builder,
                            problem->type.length > 0 ? problem->type : VIEW("about:blank"));
    builder_append(builder, VIEW(",\"title\":"));
    json_text_append_string(builder, title);
    builder_append(builder, VIEW(",\"detail\":"));
    json_text_append_string(builder, problem->detail);
    builder_append(builder, VIEW(",\"code\":"));
    json_text_append_string(builder, problem->code);
    builder_append(builder, VIEW(",\"error\":"));
    json_text_append_string(builder, problem->detail);
    builder_append(builder, VIEW("}"));
}
