#include "build_config.h"

#include "format/http_head_private.h"

void http_request_begin(struct http_request_head *request)
{
    memset(request, 0, offsetof(struct http_request_head, head));
    http_head_start(&request->head, PHASE_START);
}

/* RFC 9112 section 3.2. */
static bool settle_target_form(struct http_request_head *request, struct view target)
{
    if (request->method == HTTP_METHOD_CONNECT) {
        request->target_form = HTTP_TARGET_AUTHORITY;
        return true;
    }
    if (target.data[0] == '/') {
        request->target_form = HTTP_TARGET_ORIGIN;
        return true;
    }
    if (view_equal(target, VIEW("*"))) {
        request->target_form = HTTP_TARGET_ASTERISK;
        return request->method == HTTP_METHOD_OPTIONS;
    }
    request->target_form = HTTP_TARGET_ABSOLUTE;
    return view_starts_with_ignore_case(target, VIEW("http://")) ||
           view_starts_with_ignore_case(target, VIEW("https://"));
}

static enum http_head_result parse_method(struct http_request_head *request,
                                          const struct http_head_input *input)
{
    struct http_head *head = &request->head;
    size_t stop = head->mark + HTTP_METHOD_MAXIMUM + 1u;
    size_t position = http_head_skip_class(input->data, head->position,
                                           stop < input->end ? stop : input->end, HTTP_BYTE_TOKEN);
    if (position == stop) {
        return HTTP_HEAD_METHOD_TOO_LONG;
    }
    if (position >= input->end) {
        return http_head_starve(head, input, position);
    }
    if (input->data[position] != ' ' || position == head->mark) {
        return http_head_refuse(head, input, position, HTTP_HEAD_BAD_REQUEST_LINE);
    }
    request->method_offset = (uint16_t)head->mark;
    request->method_length = (uint16_t)(position - head->mark);
    request->method =
        (uint8_t)http_method_identify(view_make(input->data + head->mark, position - head->mark));
    if (request->method == HTTP_METHOD_UNKNOWN || request->method == HTTP_METHOD_CONNECT ||
        request->method == HTTP_METHOD_TRACE) {
        request->objection = HTTP_HEAD_METHOD_UNKNOWN;
    }
    head->position = head->mark = (uint32_t)position + 1;
    head->phase = PHASE_TARGET;
    return HTTP_HEAD_OK;
}

static enum http_head_result parse_target(struct http_request_head *request,
                                          const struct http_head_input *input)
{
    struct http_head *head = &request->head;
    size_t stop = head->mark + HTTP_TARGET_MAXIMUM + 1u;
    size_t position = http_head_skip_class(input->data, head->position,
                                           stop < input->end ? stop : input->end, HTTP_BYTE_TARGET);
    if (position == stop) {
        return HTTP_HEAD_TARGET_TOO_LONG;
    }
    if (position >= input->end) {
        return http_head_starve(head, input, position);
    }
    char byte = input->data[position];
    if (byte != ' ' || position == head->mark) {
        bool ends = byte == '\r' || byte == '\n' || byte == ' ';
        return http_head_refuse(head, input, position,
                                ends ? HTTP_HEAD_BAD_REQUEST_LINE : HTTP_HEAD_BAD_TARGET);
    }
    request->target_offset = (uint16_t)head->mark;
    request->target_length = (uint16_t)(position - head->mark);
    head->position = head->mark = (uint32_t)position + 1;
    head->phase = PHASE_VERSION;
    return HTTP_HEAD_OK;
}

static enum http_head_result parse_version(struct http_request_head *request,
                                           const struct http_head_input *input)
{
    struct http_head *head = &request->head;
    enum http_head_result result =
        http_head_match(head, input, VIEW("HTTP/0.0\r\n"), HTTP_HEAD_BAD_REQUEST_LINE);
    if (result != HTTP_HEAD_OK) {
        return result;
    }
    if (!http_head_settle_version(head, input->data)) {
        return HTTP_HEAD_VERSION;
    }
    if (!settle_target_form(request, http_request_target(request))) {
        return HTTP_HEAD_BAD_TARGET;
    }
    head->position = head->mark + 10;
    head->phase = PHASE_FIELD_START;
    return HTTP_HEAD_OK;
}

static enum http_head_result parse_request_line(struct http_request_head *request,
                                                const struct http_head_input *input)
{
    struct http_head *head = &request->head;
    enum http_head_result result = HTTP_HEAD_OK;
    if (head->phase == PHASE_START) {
        if (input->end == 0) {
            return http_head_starve(head, input, 0);
        }
        if (input->data[0] == '\r' || input->data[0] == '\n') {
            result = http_head_refuse(head, input, 0, HTTP_HEAD_OK);
            head->mark = 2;
        }
        if (result != HTTP_HEAD_OK) {
            return result;
        }
        head->position = head->mark;
        head->phase = PHASE_METHOD;
    }
    if (head->phase == PHASE_METHOD) {
        result = parse_method(request, input);
    }
    if (result == HTTP_HEAD_OK && head->phase == PHASE_TARGET) {
        result = parse_target(request, input);
    }
    if (result == HTTP_HEAD_OK && head->phase == PHASE_VERSION) {
        result = parse_version(request, input);
    }
    return result;
}

static enum http_head_result take_request_field(struct http_request_head *request,
                                                const struct http_field *field, struct view value)
{
    struct http_head *head = &request->head;
    bool again = head->first[field->id] != 0;
    switch (field->id) {
    case HTTP_FIELD_HOST:
        if (again) {
            return HTTP_HEAD_HOST_TWICE;
        }
        return http_authority_valid(value) ? HTTP_HEAD_OK : HTTP_HEAD_HOST_BAD;
    case HTTP_FIELD_AUTHORIZATION: return again ? HTTP_HEAD_AUTHORIZATION_TWICE : HTTP_HEAD_OK;
    case HTTP_FIELD_IDEMPOTENCY_KEY: return again ? HTTP_HEAD_IDEMPOTENCY_KEY_TWICE : HTTP_HEAD_OK;
    case HTTP_FIELD_EXPECT:
        /* Of a 1.0 client it is to be ignored (RFC 9110 section 10.1.1). */
        if (head->minor > 0 && view_equal_ignore_case(value, VIEW("100-continue"))) {
            request->expects_continue = true;
        } else if (head->minor > 0 && request->objection == HTTP_HEAD_OK) {
            request->objection = HTTP_HEAD_EXPECTATION;
        }
        break;
    case HTTP_FIELD_CONTENT_ENCODING:
        if (http_head_is_coded(value) && request->objection == HTTP_HEAD_OK) {
            request->objection = HTTP_HEAD_ENCODED;
        }
        break;
    default: return http_head_take_field(head, field, value);
    }
    return HTTP_HEAD_OK;
}

enum http_head_result http_request_parse(struct http_request_head *request, const char *data,
                                         size_t length)
{
    struct http_head *head = &request->head;
    struct http_head_input input = http_head_clamp(data, length, HTTP_REQUEST_HEAD_MAXIMUM);
    enum http_head_result result = HTTP_HEAD_OK;
    head->data = data;
    if (head->phase < PHASE_FIELD_START) {
        result = parse_request_line(request, &input);
    }
    while (result == HTTP_HEAD_OK) {
        struct http_field *field;
        result = http_head_next_field(head, &input, &field);
        if (result != HTTP_HEAD_OK) {
            break;
        }
        if (field == NULL) {
            if (head->minor > 0 && !http_head_has(head, HTTP_FIELD_HOST)) {
                return HTTP_HEAD_HOST_MISSING;
            }
            result = http_head_settle_framing(head);
            /* What follows a CONNECT may be meant for a tunnel. */
            head->keep_alive = head->keep_alive && request->method != HTTP_METHOD_CONNECT;
            return result;
        }
        result = take_request_field(request, field,
                                    view_make(data + field->value_offset, field->value_length));
        http_head_keep_field(head, field);
    }
    return result;
}
