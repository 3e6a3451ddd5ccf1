#include "build_config.h"

#include "format/json_array.h"

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static struct view skip_space(struct view text)
{
    while (text.length > 0 && is_space(text.data[0])) {
        text = view_skip(text, 1);
    }
    return text;
}

/* Length of the string at the front, with its quotes; 0 when its end isn't there. */
static size_t string_length(struct view text)
{
    for (size_t i = 1; i < text.length; i++) {
        if (text.data[i] == '\\') {
            i++;
        } else if (text.data[i] == '"') {
            return i + 1;
        }
    }
    return 0;
}

/* Length of the object or array at the front; 0 when its end isn't there. Which bracket closes
 * which was json_scan()'s to check: here they are only counted. */
static size_t nested_length(struct view text)
{
    size_t depth = 0;

    for (size_t i = 0; i < text.length; i++) {
        char byte = text.data[i];

        if (byte == '"') {
            size_t length = string_length(view_skip(text, i));

            if (length == 0) {
                return 0;
            }
            i += length - 1;
        } else if (byte == '{' || byte == '[') {
            depth++;
        } else if (byte == '}' || byte == ']') {
            depth--;
            if (depth == 0) {
                return i + 1;
            }
        }
    }
    return 0;
}

/* Length of the number or word at the front; 0 when it reaches the text's end, where a cut may have
 * taken a part of it. */
static size_t word_length(struct view text)
{
    for (size_t i = 0; i < text.length; i++) {
        char byte = text.data[i];

        if (byte == ',' || byte == ']' || byte == '}' || is_space(byte)) {
            return i;
        }
        if (byte == '"' || byte == '[' || byte == '{' || byte == ':') {
            return 0;
        }
    }
    return 0;
}

static size_t value_length(struct view text)
{
    if (text.length == 0) {
        return 0;
    }
    switch (text.data[0]) {
    case '"': return string_length(text);
    case '{':
    case '[': return nested_length(text);
    default: return word_length(text);
    }
}

void json_array_begin(struct json_array *array, struct view text)
{
    *array = (struct json_array){.rest = skip_space(text)};
    if (array->rest.length == 0 || array->rest.data[0] != '[') {
        array->broken = true;
        return;
    }
    array->rest = skip_space(view_skip(array->rest, 1));
}

static bool end(struct json_array *array, bool broken)
{
    array->over = !broken;
    array->broken = broken;
    return false;
}

bool json_array_next(struct json_array *array, struct view *element)
{
    struct view rest = array->rest;
    size_t length;

    if (array->over || array->broken) {
        return false;
    }
    if (rest.length == 0) {
        return end(array, true);
    }
    if (rest.data[0] == ']') {
        array->rest = view_skip(rest, 1);
        return end(array, false);
    }
    if (array->begun) {
        if (rest.data[0] != ',') {
            return end(array, true);
        }
        rest = skip_space(view_skip(rest, 1));
    }
    length = value_length(rest);
    if (length == 0) {
        return end(array, true);
    }
    *element = view_first(rest, length);
    array->rest = skip_space(view_skip(rest, length));
    array->begun = true;
    return true;
}

bool json_array_begin_cut(struct json_array *array, struct view text, struct view name)
{
    text = skip_space(text);
    if (text.length == 0 || text.data[0] != '{') {
        return false;
    }
    text = skip_space(view_skip(text, 1));
    for (;;) {
        size_t length = text.length > 0 && text.data[0] == '"' ? string_length(text) : 0;
        bool is_it = length >= 2 && view_equal(view_make(text.data + 1, length - 2), name);

        if (length == 0) {
            return false;
        }
        text = skip_space(view_skip(text, length));
        if (text.length == 0 || text.data[0] != ':') {
            return false;
        }
        text = skip_space(view_skip(text, 1));
        if (is_it) {
            json_array_begin(array, text);
            return !array->broken;
        }
        length = value_length(text);
        text = skip_space(view_skip(text, length));
        if (length == 0 || text.length == 0 || text.data[0] != ',') {
            return false;
        }
        text = skip_space(view_skip(text, 1));
    }
}
