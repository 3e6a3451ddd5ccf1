#include "build_config.h"

#include "format/http_head.h"

/* Every phase starts again from `position`, and stops at the first byte that decides. No phase
 * looks behind that byte except for the LF after a CR, so that the verdict doesn't depend on how
 * the bytes arrived: that is why a fault of a line is reported at its byte and not at the line's
 * end. */
enum phase {
    PHASE_START,
    PHASE_METHOD,
    PHASE_TARGET,
    PHASE_VERSION,
    PHASE_STATUS_LINE,
    PHASE_REASON,
    PHASE_FIELD_START,
    PHASE_FIELD_NAME,
    PHASE_FIELD_VALUE,
};

/* The input of one call: nothing behind `end` is looked at, which is the head's maximum at most. */
struct input {
    const char *data;
    size_t end;
    bool at_maximum;
};

static struct input clamp(const char *data, size_t length, size_t maximum)
{
    bool at_maximum = length >= maximum;
    return (struct input){data, at_maximum ? maximum : length, at_maximum};
}

/* More bytes are needed, from `position` on: unless the head may not have more. */
static enum http_head_result starve(struct http_head *head, const struct input *input,
                                    size_t position)
{
    head->position = (uint32_t)position;
    return input->at_maximum ? HTTP_HEAD_TOO_LARGE : HTTP_HEAD_INCOMPLETE;
}

/* The byte at `position` can't stand there. Says whether that is because the line ended in a wrong
 * way, or gives `otherwise`. */
static enum http_head_result refuse(struct http_head *head, const struct input *input,
                                    size_t position, enum http_head_result otherwise)
{
    if (input->data[position] == '\n') {
        return HTTP_HEAD_BARE_LF;
    }
    if (input->data[position] == '\r') {
        if (position + 1 >= input->end) {
            return starve(head, input, position);
        }
        if (input->data[position + 1] != '\n') {
            return HTTP_HEAD_BARE_CR;
        }
    }
    return otherwise;
}

/* Index of the first byte from `position` on that isn't of the class, `stop` at most. */
static size_t skip_class(const char *data, size_t position, size_t stop, unsigned class)
{
    while (position < stop && http_byte_is(data[position], class)) {
        position++;
    }
    return position;
}

/* The same for HTTP_BYTE_TOKEN in names, which are nearly all letters and hyphens: these are looked
 * for eight at a time, and only what is left goes through the table. */
static size_t skip_name(const char *data, size_t position, size_t stop)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t highs = UINT64_C(0x8080808080808080);
    while (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && stop - position >= 8) {
        uint64_t chunk;
        memcpy(&chunk, data + position, sizeof chunk);
        /* Each byte's sum or difference stays within the byte, so that no mark is wrong. */
        uint64_t folded = (chunk | ones * 0x20) & ~highs;
        uint64_t from_a = (folded | highs) - ones * 'a';
        uint64_t to_z = (ones * 'z' | highs) - folded;
        uint64_t not_hyphen = ((chunk ^ ones * '-') & ~highs) + ~highs;
        uint64_t others = ~((from_a & to_z) | ~not_hyphen) | chunk;
        if ((others & highs) != 0) {
            position += (size_t)__builtin_ctzll(others & highs) / 8;
            if (!http_byte_is(data[position], HTTP_BYTE_TOKEN)) {
                return position;
            }
            position++;
        } else {
            position += 8;
        }
    }
    return skip_class(data, position, stop, HTTP_BYTE_TOKEN);
}

/* The same for HTTP_BYTE_VALUE, eight bytes at a time: values are most of a head. */
static size_t skip_value(const char *data, size_t position, size_t stop)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t highs = UINT64_C(0x8080808080808080);
    while (stop - position >= 8) {
        uint64_t chunk;
        memcpy(&chunk, data + position, sizeof chunk);
        uint64_t below_space = (chunk - ones * 0x20) & ~chunk;
        uint64_t with_delete_as_zero = chunk ^ ones * 0x7f;
        uint64_t deletes = (with_delete_as_zero - ones) & ~with_delete_as_zero;
        if (((below_space | deletes) & highs) != 0) {
            /* Maybe a tab only, which is allowed. */
            size_t next = skip_class(data, position, position + 8, HTTP_BYTE_VALUE);
            if (next < position + 8) {
                return next;
            }
        }
        position += 8;
    }
    return skip_class(data, position, stop, HTTP_BYTE_VALUE);
}

/* ---- single fields --------------------------------------------------------------------------- */

/* The next element of a comma-separated list, trimmed; false at the end. */
static bool next_element(struct view *list, struct view *element)
{
    if (list->data == NULL) {
        return false;
    }
    size_t comma = view_find_byte(*list, ',');
    *element = view_trim(view_first(*list, comma));
    *list = comma < list->length ? view_skip(*list, comma + 1) : view_make(NULL, 0);
    return true;
}

/* RFC 9112 section 6.1. Several lines count as one list. */
static enum http_head_result take_transfer_encoding(struct http_head *head, struct view list)
{
    struct view element;
    head->transfer_seen = true;
    while (next_element(&list, &element)) {
        size_t name_length = skip_class(element.data, 0, element.length, HTTP_BYTE_TOKEN);
        struct view parameters = view_trim(view_skip(element, name_length));
        bool is_chunked = view_equal_ignore_case(view_first(element, name_length), VIEW("chunked"));
        if (name_length == 0 || head->transfer_chunked ||
            (parameters.length > 0 && (is_chunked || parameters.data[0] != ';'))) {
            return HTTP_HEAD_TRANSFER_BAD;
        }
        head->transfer_chunked = is_chunked;
        head->transfer_other = head->transfer_other || !is_chunked;
    }
    return HTTP_HEAD_OK;
}

static enum http_head_result take_content_length(struct http_head *head, struct view value)
{
    if (head->length_seen) {
        return HTTP_HEAD_LENGTH_TWICE;
    }
    head->length_seen = true;
    return view_parse_u64(value, INT64_MAX, &head->content_length) ? HTTP_HEAD_OK
                                                                   : HTTP_HEAD_LENGTH_BAD;
}

static void take_connection(struct http_head *head, struct view list)
{
    struct view option;
    while (next_element(&list, &option)) {
        if (view_equal_ignore_case(option, VIEW("keep-alive"))) {
            head->keep_alive_seen = true;
        } else if (view_equal_ignore_case(option, VIEW("close"))) {
            head->close_seen = true;
        } else {
            head->names_hops = true;
        }
    }
}

static bool is_coded(struct view value)
{
    return value.length > 0 && !view_equal_ignore_case(value, VIEW("identity"));
}

static enum http_head_result take_request_field(struct http_request_head *request,
                                                const struct http_field *field, struct view value)
{
    struct http_head *head = &request->head;
    bool again = head->first[field->id] != 0;
    switch (field->id) {
    case HTTP_FIELD_CONTENT_LENGTH: return take_content_length(head, value);
    case HTTP_FIELD_TRANSFER_ENCODING: return take_transfer_encoding(head, value);
    case HTTP_FIELD_CONNECTION: take_connection(head, value); break;
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
        if (is_coded(value) && request->objection == HTTP_HEAD_OK) {
            request->objection = HTTP_HEAD_ENCODED;
        }
        break;
    default: break;
    }
    return HTTP_HEAD_OK;
}

static enum http_head_result take_response_field(struct http_response_head *response,
                                                 const struct http_field *field, struct view value)
{
    switch (field->id) {
    case HTTP_FIELD_CONTENT_LENGTH: return take_content_length(&response->head, value);
    case HTTP_FIELD_TRANSFER_ENCODING: return take_transfer_encoding(&response->head, value);
    case HTTP_FIELD_CONNECTION: take_connection(&response->head, value); break;
    case HTTP_FIELD_CONTENT_ENCODING:
        if (is_coded(value)) {
            response->objection = HTTP_HEAD_ENCODED;
        }
        break;
    default: break;
    }
    return HTTP_HEAD_OK;
}

/* ---- field lines ----------------------------------------------------------------------------- */

/* Takes up the field line whose value ends at `end`. */
static struct http_field *add_field(struct http_head *head, const struct input *input, size_t end)
{
    size_t start = head->colon + 1u;
    while (start < end && (input->data[start] == ' ' || input->data[start] == '\t')) {
        start++;
    }
    while (end > start && (input->data[end - 1] == ' ' || input->data[end - 1] == '\t')) {
        end--;
    }
    struct http_field *field = &head->fields[head->field_count];
    field->name_offset = (uint16_t)head->mark;
    field->name_length = (uint16_t)(head->colon - head->mark);
    field->value_offset = (uint16_t)start;
    field->value_length = (uint16_t)(end - start);
    field->id = head->name_id;
    field->hop = false;
    return field;
}

/* Goes on within the field section. HTTP_HEAD_OK: `*added` is a field to be judged, or NULL when
 * the section is over and `head->length` is set. */
static enum http_head_result next_field(struct http_head *head, const struct input *input,
                                        struct http_field **added)
{
    const char *data = input->data;
    size_t position = head->position;
    *added = NULL;
    if (head->phase == PHASE_FIELD_START) {
        if (position >= input->end) {
            return starve(head, input, position);
        }
        if (data[position] == '\r' || data[position] == '\n') {
            enum http_head_result result = refuse(head, input, position, HTTP_HEAD_OK);
            head->length = (uint32_t)position + 2;
            return result;
        }
        if (data[position] == ' ' || data[position] == '\t') {
            return HTTP_HEAD_OBS_FOLD;
        }
        if (head->field_count == HTTP_FIELDS_MAXIMUM) {
            return HTTP_HEAD_TOO_MANY_FIELDS;
        }
        head->mark = (uint32_t)position;
        head->phase = PHASE_FIELD_NAME;
    }
    if (head->phase == PHASE_FIELD_NAME) {
        position = skip_name(data, position, input->end);
        if (position >= input->end) {
            return starve(head, input, position);
        }
        if (data[position] != ':') {
            bool is_space = data[position] == ' ' || data[position] == '\t';
            bool ends = data[position] == '\r' || data[position] == '\n';
            return refuse(head, input, position,
                          is_space ? HTTP_HEAD_SPACE_BEFORE_COLON
                          : ends   ? HTTP_HEAD_NO_COLON
                                   : HTTP_HEAD_BAD_NAME);
        }
        if (position == head->mark) {
            return HTTP_HEAD_BAD_NAME;
        }
        head->colon = (uint32_t)position;
        head->name_id =
            (uint8_t)http_field_identify(view_make(data + head->mark, position - head->mark));
        head->phase = PHASE_FIELD_VALUE;
        position++;
    }
    position = skip_value(data, position, input->end);
    if (position >= input->end) {
        return starve(head, input, position);
    }
    if (data[position] != '\r' || position + 1 >= input->end || data[position + 1] != '\n') {
        return refuse(head, input, position, HTTP_HEAD_CONTROL_BYTE);
    }
    head->position = (uint32_t)position + 2;
    head->phase = PHASE_FIELD_START;
    *added = add_field(head, input, position);
    return HTTP_HEAD_OK;
}

/* Makes a judged field part of the head. */
static void keep_field(struct http_head *head, const struct http_field *field)
{
    head->field_count++;
    if (head->first[field->id] == 0) {
        head->first[field->id] = head->field_count;
    }
}

/* Marks the fields that Connection names, besides those that are hop-by-hop by nature. By id, so
 * that a list of 16,000 options costs no more than its bytes: a name that podgate doesn't know
 * isn't forwarded anyway. */
static void mark_hop_fields(struct http_head *head)
{
    bool named[HTTP_FIELD_COUNT] = {false};
    for (unsigned i = head->first[HTTP_FIELD_CONNECTION] - 1u; i < head->field_count; i++) {
        struct view list = http_head_field_value(head, i);
        struct view option;
        while (head->fields[i].id == HTTP_FIELD_CONNECTION && next_element(&list, &option)) {
            if (option.length > 0 && http_bytes_are(option, HTTP_BYTE_TOKEN)) {
                named[http_field_identify(option)] = true;
            }
        }
    }
    for (unsigned i = 0; i < head->field_count; i++) {
        head->fields[i].hop = named[head->fields[i].id];
    }
}

/* What Content-Length and Transfer-Encoding say together (RFC 9112 section 6.3). */
static enum http_head_result settle_framing(struct http_head *head)
{
    if (head->transfer_seen && head->length_seen) {
        return HTTP_HEAD_TRANSFER_AND_LENGTH;
    }
    if (head->transfer_seen && head->minor == 0) {
        return HTTP_HEAD_TRANSFER_IN_1_0;
    }
    if (head->transfer_other) {
        return HTTP_HEAD_TRANSFER_UNKNOWN;
    }
    head->framing = head->transfer_seen ? HTTP_BODY_CHUNKED
                    : head->length_seen ? HTTP_BODY_LENGTH
                                        : HTTP_BODY_NONE;
    head->keep_alive = !head->close_seen && (head->minor > 0 || head->keep_alive_seen);
    if (head->names_hops) {
        mark_hop_fields(head);
    }
    return HTTP_HEAD_OK;
}

static void begin_head(struct http_head *head, enum phase phase)
{
    memset(head, 0, offsetof(struct http_head, fields));
    head->phase = (uint8_t)phase;
}

/* ---- requests -------------------------------------------------------------------------------- */

void http_request_begin(struct http_request_head *request)
{
    memset(request, 0, offsetof(struct http_request_head, head));
    begin_head(&request->head, PHASE_START);
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
                                          const struct input *input)
{
    struct http_head *head = &request->head;
    size_t stop = head->mark + HTTP_METHOD_MAXIMUM + 1u;
    size_t position = skip_class(input->data, head->position, stop < input->end ? stop : input->end,
                                 HTTP_BYTE_TOKEN);
    if (position == stop) {
        return HTTP_HEAD_METHOD_TOO_LONG;
    }
    if (position >= input->end) {
        return starve(head, input, position);
    }
    if (input->data[position] != ' ' || position == head->mark) {
        return refuse(head, input, position, HTTP_HEAD_BAD_REQUEST_LINE);
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
                                          const struct input *input)
{
    struct http_head *head = &request->head;
    size_t stop = head->mark + HTTP_TARGET_MAXIMUM + 1u;
    size_t position = skip_class(input->data, head->position, stop < input->end ? stop : input->end,
                                 HTTP_BYTE_TARGET);
    if (position == stop) {
        return HTTP_HEAD_TARGET_TOO_LONG;
    }
    if (position >= input->end) {
        return starve(head, input, position);
    }
    char byte = input->data[position];
    if (byte != ' ' || position == head->mark) {
        bool ends = byte == '\r' || byte == '\n' || byte == ' ';
        return refuse(head, input, position,
                      ends ? HTTP_HEAD_BAD_REQUEST_LINE : HTTP_HEAD_BAD_TARGET);
    }
    request->target_offset = (uint16_t)head->mark;
    request->target_length = (uint16_t)(position - head->mark);
    head->position = head->mark = (uint32_t)position + 1;
    head->phase = PHASE_VERSION;
    return HTTP_HEAD_OK;
}

/* Compares with `pattern`, where '0' stands for any digit. Everything before the first byte that
 * doesn't fit was right; with HTTP_HEAD_OK all of it was. */
static enum http_head_result match(struct http_head *head, const struct input *input,
                                   struct view pattern, enum http_head_result otherwise)
{
    for (size_t i = 0; i < pattern.length; i++) {
        size_t position = head->mark + i;
        if (position >= input->end) {
            return starve(head, input, head->mark);
        }
        char byte = input->data[position];
        bool fits =
            pattern.data[i] == '0' ? http_byte_is(byte, HTTP_BYTE_DIGIT) : byte == pattern.data[i];
        if (!fits) {
            bool behind_cr = i > 0 && pattern.data[i - 1] == '\r';
            return behind_cr ? HTTP_HEAD_BARE_CR : refuse(head, input, position, otherwise);
        }
    }
    return HTTP_HEAD_OK;
}

/* The version at `mark`, which has the right form: its major number has to be 1. */
static bool settle_version(struct http_head *head, const char *data)
{
    head->minor = data[head->mark + 7] != '0';
    return data[head->mark + 5] == '1';
}

static enum http_head_result parse_version(struct http_request_head *request,
                                           const struct input *input)
{
    struct http_head *head = &request->head;
    enum http_head_result result =
        match(head, input, VIEW("HTTP/0.0\r\n"), HTTP_HEAD_BAD_REQUEST_LINE);
    if (result != HTTP_HEAD_OK) {
        return result;
    }
    if (!settle_version(head, input->data)) {
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
                                                const struct input *input)
{
    struct http_head *head = &request->head;
    enum http_head_result result = HTTP_HEAD_OK;
    if (head->phase == PHASE_START) {
        if (input->end == 0) {
            return starve(head, input, 0);
        }
        if (input->data[0] == '\r' || input->data[0] == '\n') {
            result = refuse(head, input, 0, HTTP_HEAD_OK);
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

enum http_head_result http_request_parse(struct http_request_head *request, const char *data,
                                         size_t length)
{
    struct http_head *head = &request->head;
    struct input input = clamp(data, length, HTTP_REQUEST_HEAD_MAXIMUM);
    enum http_head_result result = HTTP_HEAD_OK;
    head->data = data;
    if (head->phase < PHASE_FIELD_START) {
        result = parse_request_line(request, &input);
    }
    while (result == HTTP_HEAD_OK) {
        struct http_field *field;
        result = next_field(head, &input, &field);
        if (result != HTTP_HEAD_OK) {
            break;
        }
        if (field == NULL) {
            if (head->minor > 0 && !http_head_has(head, HTTP_FIELD_HOST)) {
                return HTTP_HEAD_HOST_MISSING;
            }
            result = settle_framing(head);
            /* What follows a CONNECT may be meant for a tunnel. */
            head->keep_alive = head->keep_alive && request->method != HTTP_METHOD_CONNECT;
            return result;
        }
        result = take_request_field(request, field,
                                    view_make(data + field->value_offset, field->value_length));
        keep_field(head, field);
    }
    return result;
}

/* ---- responses ------------------------------------------------------------------------------- */

void http_response_begin(struct http_response_head *response, enum http_method request_method)
{
    memset(response, 0, offsetof(struct http_response_head, head));
    response->answers_head = request_method == HTTP_METHOD_HEAD;
    begin_head(&response->head, PHASE_STATUS_LINE);
}

/* RFC 9112 section 4. The space before an empty reason phrase is often forgotten, and nothing is
 * ambiguous without it. */
static enum http_head_result parse_status_line(struct http_response_head *response,
                                               const struct input *input)
{
    struct http_head *head = &response->head;
    if (head->phase == PHASE_STATUS_LINE) {
        enum http_head_result result =
            match(head, input, VIEW("HTTP/0.0 000"), HTTP_HEAD_BAD_STATUS_LINE);
        if (result != HTTP_HEAD_OK) {
            return result;
        }
        const char *digits = input->data + head->mark + 9;
        unsigned status = (unsigned)(digits[0] - '0') * 100 + (unsigned)(digits[1] - '0') * 10 +
                          (unsigned)(digits[2] - '0');
        response->status = (uint16_t)status;
        if (!settle_version(head, input->data)) {
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
        return refuse(head, input, position, HTTP_HEAD_BAD_STATUS_LINE);
    }
    position = skip_value(input->data, position, input->end);
    if (position >= input->end) {
        return starve(head, input, position);
    }
    if (input->data[position] != '\r') {
        return refuse(head, input, position, HTTP_HEAD_CONTROL_BYTE);
    }
    enum http_head_result result = refuse(head, input, position, HTTP_HEAD_OK);
    if (result == HTTP_HEAD_OK) {
        head->position = (uint32_t)position + 2;
        head->phase = PHASE_FIELD_START;
    }
    return result;
}

static enum http_head_result settle_response(struct http_response_head *response)
{
    struct http_head *head = &response->head;
    enum http_head_result result = settle_framing(head);
    if (result != HTTP_HEAD_OK) {
        return result;
    }
    bool never_has_body = response->status < 200 || response->status == 204;
    if (never_has_body && (head->transfer_seen || head->content_length > 0)) {
        return HTTP_HEAD_BODY_FORBIDDEN;
    }
    if (never_has_body || response->status == 304 || response->answers_head) {
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
    struct input input = clamp(data, length, HTTP_RESPONSE_HEAD_MAXIMUM);
    enum http_head_result result = HTTP_HEAD_OK;
    head->data = data;
    if (head->phase < PHASE_FIELD_START) {
        result = parse_status_line(response, &input);
    }
    while (result == HTTP_HEAD_OK) {
        struct http_field *field;
        result = next_field(head, &input, &field);
        if (result != HTTP_HEAD_OK) {
            break;
        }
        if (field == NULL) {
            return settle_response(response);
        }
        result = take_response_field(response, field,
                                     view_make(data + field->value_offset, field->value_length));
        keep_field(head, field);
    }
    return result;
}
