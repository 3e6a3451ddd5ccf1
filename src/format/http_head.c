#include "build_config.h"

#include "format/http_head_private.h"

struct http_head_input http_head_clamp(const char *data, size_t length, size_t maximum)
{
    bool at_maximum = length >= maximum;
    return (struct http_head_input){data, at_maximum ? maximum : length, at_maximum};
}

enum http_head_result http_head_starve(struct http_head *head, const struct http_head_input *input,
                                       size_t position)
{
    head->position = (uint32_t)position;
    return input->at_maximum ? HTTP_HEAD_TOO_LARGE : HTTP_HEAD_INCOMPLETE;
}

enum http_head_result http_head_refuse(struct http_head *head, const struct http_head_input *input,
                                       size_t position, enum http_head_result otherwise)
{
    if (input->data[position] == '\n') {
        return HTTP_HEAD_BARE_LF;
    }
    if (input->data[position] == '\r') {
        if (position + 1 >= input->end) {
            return http_head_starve(head, input, position);
        }
        if (input->data[position + 1] != '\n') {
            return HTTP_HEAD_BARE_CR;
        }
    }
    return otherwise;
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
    return http_head_skip_class(data, position, stop, HTTP_BYTE_TOKEN);
}

size_t http_head_skip_value(const char *data, size_t position, size_t stop)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t highs = UINT64_C(0x8080808080808080);
    while (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && stop - position >= 8) {
        uint64_t chunk;
        memcpy(&chunk, data + position, sizeof chunk);
        uint64_t controls = (chunk - ones * 0x20) & ~chunk;
        uint64_t delete_as_zero = chunk ^ ones * 0x7f;
        uint64_t deletes = (delete_as_zero - ones) & ~delete_as_zero;
        uint64_t marks = (controls | deletes) & highs;
        if (marks == 0) {
            position += 8;
            continue;
        }
        /* The lowest mark is exact; those above it may come from a borrow. */
        position += (size_t)__builtin_ctzll(marks) / 8;
        if (data[position] != '\t') {
            return position;
        }
        position++;
    }
    return http_head_skip_class(data, position, stop, HTTP_BYTE_VALUE);
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
        size_t name_length = http_head_skip_class(element.data, 0, element.length, HTTP_BYTE_TOKEN);
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

bool http_head_is_coded(struct view value)
{
    return value.length > 0 && !view_equal_ignore_case(value, VIEW("identity"));
}

enum http_head_result http_head_take_field(struct http_head *head, const struct http_field *field,
                                           struct view value)
{
    switch (field->id) {
    case HTTP_FIELD_CONTENT_LENGTH: return take_content_length(head, value);
    case HTTP_FIELD_TRANSFER_ENCODING: return take_transfer_encoding(head, value);
    case HTTP_FIELD_CONNECTION: take_connection(head, value); return HTTP_HEAD_OK;
    default: return HTTP_HEAD_OK;
    }
}

/* ---- field lines ----------------------------------------------------------------------------- */

/* Takes up the field line whose value ends at `end`. */
static struct http_field *add_field(struct http_head *head, const struct http_head_input *input,
                                    size_t end)
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

enum http_head_result http_head_next_field(struct http_head *head,
                                           const struct http_head_input *input,
                                           struct http_field **added)
{
    const char *data = input->data;
    size_t position = head->position;
    *added = NULL;
    if (head->phase == PHASE_FIELD_START) {
        if (position >= input->end) {
            return http_head_starve(head, input, position);
        }
        if (data[position] == '\r' || data[position] == '\n') {
            enum http_head_result result = http_head_refuse(head, input, position, HTTP_HEAD_OK);
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
            return http_head_starve(head, input, position);
        }
        if (data[position] != ':') {
            bool is_space = data[position] == ' ' || data[position] == '\t';
            bool ends = data[position] == '\r' || data[position] == '\n';
            return http_head_refuse(head, input, position,
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
    position = http_head_skip_value(data, position, input->end);
    if (position >= input->end) {
        return http_head_starve(head, input, position);
    }
    if (data[position] != '\r' || position + 1 >= input->end || data[position + 1] != '\n') {
        return http_head_refuse(head, input, position, HTTP_HEAD_CONTROL_BYTE);
    }
    head->position = (uint32_t)position + 2;
    head->phase = PHASE_FIELD_START;
    *added = add_field(head, input, position);
    return HTTP_HEAD_OK;
}

void http_head_keep_field(struct http_head *head, const struct http_field *field)
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

enum http_head_result http_head_settle_framing(struct http_head *head)
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

void http_head_start(struct http_head *head, enum http_head_phase phase)
{
    memset(head, 0, offsetof(struct http_head, fields));
    head->phase = (uint8_t)phase;
}

enum http_head_result http_head_match(struct http_head *head, const struct http_head_input *input,
                                      struct view pattern, enum http_head_result otherwise)
{
    for (size_t i = 0; i < pattern.length; i++) {
        size_t position = head->mark + i;
        if (position >= input->end) {
            return http_head_starve(head, input, head->mark);
        }
        char byte = input->data[position];
        bool fits =
            pattern.data[i] == '0' ? http_byte_is(byte, HTTP_BYTE_DIGIT) : byte == pattern.data[i];
        if (!fits) {
            bool behind_cr = i > 0 && pattern.data[i - 1] == '\r';
            return behind_cr ? HTTP_HEAD_BARE_CR
                             : http_head_refuse(head, input, position, otherwise);
        }
    }
    return HTTP_HEAD_OK;
}

bool http_head_settle_version(struct http_head *head, const char *data)
{
    head->minor = data[head->mark + 7] != '0';
    return data[head->mark + 5] == '1';
}
