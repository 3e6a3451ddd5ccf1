#include "build_config.h"

#include "format/http_head_private.h"

void http_response_begin(struct http_response_head *response, enum http_method request_method)
{
    memset(response, 0, offsetof(struct http_response_head, head));
    response->answers_head = request_method == HTTP_METHOD_HEAD;
    response->answers_connect = request_method == HTTP_METHOD_CONNECT;
    http_head_start(&response->head, PHASE_STATUS_LINE);
}

/* RFC 9112 section 4. The space before an empty reason phrase is often forgotten, and nothing is
 * ambiguous without it. */
static enum http_head_result parse_status_line(struct http_response_head *response,
                                               const struct http_head_input *input)
{
    struct http_head *head = &response->head;
    if (head->phase == PHASE_STATUS_LINE) {
        enum http_head_result result =
            http_head_match(head, input, VIEW("HTTP/0.0 000"), HTTP_HEAD_BAD_STATUS_LINE);
        if (result != HTTP_HEAD_OK) {
            return result;
        }
        const char *digits = input->data + head->mark + 9;
        unsigned status = (unsigned)(digits[0] - '0') * 100 + (unsigned)(digits[1] - '0') * 10 +
                          (unsigned)(digits[2] - '0');
        response->status = (uint16_t)status;
        if (!http_head_settle_version(head, input->data)) {
            return HTTP_HEAD_VERSION;
        }
        if (status < 100 || status > 599) {
            return HTTP_HEAD_BAD_STATUS_LINE;
        }
        head->position = head->mark + 12;
        head->phase = PHASE_REASON;
    }
    size_t position = head->position;
    if (position < input->end && position == head->mark + 12u && input->data[position] != ' ' &&
        input->data[position] != '\r') {
        return http_head_refuse(head, input, position, HTTP_HEAD_BAD_STATUS_LINE);
    }
    position = http_head_skip_value(input->data, position, input->end);
    if (position >= input->end) {
        return http_head_starve(head, input, position);
    }
    if (input->data[position] != '\r') {
        return http_head_refuse(head, input, position, HTTP_HEAD_CONTROL_BYTE);
    }
    enum http_head_result result = http_head_refuse(head, input, position, HTTP_HEAD_OK);
    if (result == HTTP_HEAD_OK) {
        head->position = (uint32_t)position + 2;
        head->phase = PHASE_FIELD_START;
    }
    return result;
}

static enum http_head_result take_response_field(struct http_response_head *response,
                                                 const struct http_field *field, struct view value)
{
    if (field->id == HTTP_FIELD_CONTENT_ENCODING && http_head_is_coded(value)) {
        response->objection = HTTP_HEAD_ENCODED;
    }
    return http_head_take_field(&response->head, field, value);
}

static enum http_head_result settle_response(struct http_response_head *response)
{
    struct http_head *head = &response->head;
    enum http_head_result result = http_head_settle_framing(head);
    if (result != HTTP_HEAD_OK) {
        return result;
    }
    bool never_has_body = response->status < 200 || response->status == 204;
    if (never_has_body && (head->transfer_seen || head->content_length > 0)) {
        return HTTP_HEAD_BODY_FORBIDDEN;
    }
    bool begins_tunnel =
        response->answers_connect && response->status >= 200 && response->status <= 299;
    if (never_has_body || response->status == 304 || response->answers_head || begins_tunnel) {
        head->framing = HTTP_BODY_NONE;
    } else if (head->framing == HTTP_BODY_NONE) {
        head->framing = HTTP_BODY_CLOSE;
        head->keep_alive = false;
    }
    return HTTP_HEAD_OK;
}

enum http_head_result http_response_parse(struct http_response_head *response, const char *data,
                                          size_t length)
{
    struct http_head *head = &response->head;
    struct http_head_input input = http_head_clamp(data, length, HTTP_RESPONSE_HEAD_MAXIMUM);
    enum http_head_result result = HTTP_HEAD_OK;
    head->data = data;
    if (head->phase < PHASE_FIELD_START) {
        result = parse_status_line(response, &input);
    }
    while (result == HTTP_HEAD_OK) {
        struct http_field *field;
        result = http_head_next_field(head, &input, &field);
        if (result != HTTP_HEAD_OK) {
            break;
        }
        if (field == NULL) {
            return settle_response(response);
        }
        result = take_response_field(response, field,
                                     view_make(data + field->value_offset, field->value_length));
        http_head_keep_field(head, field);
    }
    return result;
}
