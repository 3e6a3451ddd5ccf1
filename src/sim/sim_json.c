#include "build_config.h"

#include "sim/sim_json.h"

#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

enum { MAXIMUM_DEPTH = 1024 };

struct sim_text sim_text_of(const char *string)
{
    return (struct sim_text){string, strlen(string)};
}

bool sim_text_is(struct sim_text text, const char *string)
{
    return text.length == strlen(string) && memcmp(text.data, string, text.length) == 0;
}

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

struct sim_text sim_text_trim(struct sim_text text)
{
    const char *end = text.data + text.length;
    const char *at = skip_space(text.data, end);
    while (end > at && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\n' || end[-1] == '\r'))
        end--;
    return (struct sim_text){at, (size_t)(end - at)};
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_hex(char byte)
{
    return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

/* `at` is behind the opening quote; the result is behind the closing one. */
static const char *skip_string(const char *at, const char *end)
{
    while (at < end) {
        unsigned char byte = (unsigned char)*at++;
        if (byte == '"')
            return at;
        if (byte < 0x20)
            return NULL;
        if (byte != '\\')
            continue;
        if (at == end)
            return NULL;
        if (*at == 'u') {
            if (end - at < 5 || !is_hex(at[1]) || !is_hex(at[2]) || !is_hex(at[3]) ||
                !is_hex(at[4]))
                return NULL;
            at += 5;
        } else if (memchr("\"\\/bfnrt", *at, 8)) {
            at++;
        } else {
            return NULL;
        }
    }
    return NULL;
}

static const char *skip_digits(const char *at, const char *end)
{
    if (at == end || !is_digit(*at))
        return NULL;
    while (at < end && is_digit(*at))
        at++;
    return at;
}

static const char *skip_number(const char *at, const char *end)
{
    if (at < end && *at == '-')
        at++;
    if (at < end && *at == '0')
        at++;
    else if (!(at = skip_digits(at, end)))
        return NULL;
    if (at < end && *at == '.' && !(at = skip_digits(at + 1, end)))
        return NULL;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        at = skip_digits(at, end);
    }
    return at;
}

static const char *skip_scalar(const char *at, const char *end)
{
    static const char *const words[] = {"true", "false", "null", "NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(end - at) >= length && memcmp(at, words[i], length) == 0)
            return at + length;
    }
    return skip_number(at, end);
}

static const char *skip_key(const char *at, const char *end)
{
    at = skip_space(at, end);
    if (at == end || *at != '"' || !(at = skip_string(at + 1, end)))
        return NULL;
    at = skip_space(at, end);
    return at < end && *at == ':' ? at + 1 : NULL;
}

/* After a whole value inside `depth` containers: closes those that end here. NULL: malformed.
 * `*more` says whether a further value must follow. */
static const char *skip_after_value(const char *at, const char *end, const char *closers,
                                    size_t *depth, bool *more)
{
    *more = false;
    while (*depth > 0) {
        at = skip_space(at, end);
        if (at == end)
            return NULL;
        if (*at == ',') {
            *more = true;
            at++;
            return closers[*depth - 1] == '}' ? skip_key(at, end) : at;
        }
        if (*at != closers[*depth - 1])
            return NULL;
        at++;
        --*depth;
    }
    return at;
}

/* No recursion: the depth of the input must not become the depth of our stack. */
static const char *skip_value(const char *at, const char *end)
{
    char closers[MAXIMUM_DEPTH];
    size_t depth = 0;
    bool more = true;
    while (more) {
        at = skip_space(at, end);
        if (at == end)
            return NULL;
        if (*at == '{' || *at == '[') {
            if (depth == MAXIMUM_DEPTH)
                return NULL;
            closers[depth++] = *at == '{' ? '}' : ']';
            at = skip_space(at + 1, end);
            if (at == end || *at != closers[depth - 1]) {
                if (closers[depth - 1] == '}' && !(at = skip_key(at, end)))
                    return NULL;
                continue;
            }
            depth--;
            at++;
        } else {
            at = *at == '"' ? skip_string(at + 1, end) : skip_scalar(at, end);
        }
        if (!at || !(at = skip_after_value(at, end, closers, &depth, &more)))
            return NULL;
    }
    return at;
}

enum sim_json_type sim_json_type(struct sim_text text)
{
    text = sim_text_trim(text);
    if (text.length == 0)
        return SIM_JSON_NONE;
    switch (text.data[0]) {
    case '{': return SIM_JSON_OBJECT;
    case '[': return SIM_JSON_ARRAY;
    case '"': return SIM_JSON_STRING;
    case 't': return SIM_JSON_TRUE;
    case 'f': return SIM_JSON_FALSE;
    case 'n': return SIM_JSON_NULL;
    default: return SIM_JSON_NUMBER;
    }
}

bool sim_json_valid(struct sim_text text)
{
    const char *end = text.data + text.length;
    const char *at = text.length ? skip_value(text.data, end) : NULL;
    return at && skip_space(at, end) == end;
}

bool sim_json_next(struct sim_text container, size_t *cursor, struct sim_text *key,
                   struct sim_text *value)
{
    const char *end = container.data + container.length;
    const char *at = container.data + *cursor;
    enum sim_json_type type = sim_json_type(container);
    if (*cursor == 0) {
        if (type != SIM_JSON_OBJECT && type != SIM_JSON_ARRAY)
            return false;
        at = skip_space(at, end) + 1;
    }
    at = skip_space(at, end);
    if (at < end && *at == ',')
        at = skip_space(at + 1, end);
    if (at == end || *at == '}' || *at == ']')
        return false;
    if (type == SIM_JSON_OBJECT) {
        const char *name = at;
        const char *name_end = *at == '"' ? skip_string(at + 1, end) : NULL;
        if (!name_end || !(at = skip_key(name, end)))
            return false;
        if (key)
            *key = (struct sim_text){name, (size_t)(name_end - name)};
        at = skip_space(at, end);
    }
    const char *after = skip_value(at, end);
    if (!after)
        return false;
    *value = (struct sim_text){at, (size_t)(after - at)};
    *cursor = (size_t)(after - container.data);
    return true;
}

static bool key_matches(struct sim_text raw, const char *key)
{
    if (!memchr(raw.data, '\\', raw.length)) {
        size_t length = strlen(key);
        return raw.length == length + 2 && memcmp(raw.data + 1, key, length) == 0;
    }
    char *decoded = sim_json_string(raw);
    bool same = decoded && strcmp(decoded, key) == 0;
    free(decoded);
    return same;
}

bool sim_json_get(struct sim_text object, const char *key, struct sim_text *value)
{
    if (sim_json_type(object) != SIM_JSON_OBJECT)
        return false;
    bool found = false;
    size_t cursor = 0;
    struct sim_text name = {"", 0};
    struct sim_text one;
    while (sim_json_next(object, &cursor, &name, &one)) {
        if (key_matches(name, key)) {
            *value = one;
            found = true;
        }
    }
    return found;
}

bool sim_json_integer(struct sim_text value, int64_t *out)
{
    value = sim_text_trim(value);
    const char *at = value.data;
    const char *end = at + value.length;
    bool negative = at < end && *at == '-';
    if (negative)
        at++;
    if (at == end || !is_digit(*at))
        return false;
    int64_t number = 0;
    for (; at < end && is_digit(*at); at++) {
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, *at - '0', &number))
            return false;
    }
    if (at < end && (*at == 'e' || *at == 'E'))
        return false;
    *out = negative ? -number : number;
    return true;
}

static unsigned hex_value(const char *at)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        char byte = at[i];
        unsigned digit =
            is_digit(byte) ? (unsigned)(byte - '0') : (unsigned)((byte | 32) - 'a') + 10;
        value = value * 16 + digit;
    }
    return value;
}

static size_t put_utf8(char *out, unsigned point)
{
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xc0 | (point >> 6));
        out[1] = (char)(0x80 | (point & 63));
        return 2;
    }
    if (point < 0x10000) {
        out[0] = (char)(0xe0 | (point >> 12));
        out[1] = (char)(0x80 | ((point >> 6) & 63));
        out[2] = (char)(0x80 | (point & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | (point >> 18));
    out[1] = (char)(0x80 | ((point >> 12) & 63));
    out[2] = (char)(0x80 | ((point >> 6) & 63));
    out[3] = (char)(0x80 | (point & 63));
    return 4;
}

/* `at` is behind the backslash of a valid escape; returns behind the escape. */
static const char *decode_escape(const char *at, const char *end, char *out, size_t *length)
{
    static const char names[] = "\"\\/bfnrt";
    static const char bytes[] = "\"\\/\b\f\n\r\t";
    if (*at != 'u') {
        const char *name = strchr(names, *at);
        out[(*length)++] = name ? bytes[name - names] : *at;
        return at + 1;
    }
    unsigned point = hex_value(at + 1);
    at += 5;
    if (point >= 0xd800 && point < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
        unsigned low = hex_value(at + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
            at += 6;
        }
    }
    *length += put_utf8(out + *length, point);
    return at;
}

char *sim_json_string(struct sim_text value)
{
    value = sim_text_trim(value);
    if (value.length < 2 || value.data[0] != '"' ||
        skip_string(value.data + 1, value.data + value.length) != value.data + value.length)
        return NULL;
    char *out = malloc(value.length);
    if (!out)
        return NULL;
    size_t length = 0;
    const char *end = value.data + value.length - 1;
    for (const char *at = value.data + 1; at < end;) {
        if (*at == '\\')
            at = decode_escape(at + 1, end, out, &length);
        else
            out[length++] = *at++;
    }
    out[length] = '\0';
    return out;
}

/* The length of the UTF-8 sequence at `at`, 0 when it is none. */
static size_t utf8_length(const unsigned char *at, size_t left)
{
    size_t length = at[0] >= 0xf0 && at[0] < 0xf5 ? 4 : at[0] >= 0xe0 ? 3 : at[0] >= 0xc2 ? 2 : 0;
    if (at[0] >= 0xf5 || length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) ||
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90))
        return 0;
    return length;
}

void sim_json_quote(struct evbuffer *out, const char *bytes, size_t length)
{
    const unsigned char *at = (const unsigned char *)bytes;
    evbuffer_add(out, "\"", 1);
    for (size_t i = 0; i < length;) {
        size_t run = i;
        while (run < length && at[run] >= 0x20 && at[run] < 0x7f && at[run] != '"' &&
               at[run] != '\\')
            run++;
        if (run > i) {
            evbuffer_add(out, bytes + i, run - i);
            i = run;
            continue;
        }
        size_t sequence = at[i] >= 0x80 ? utf8_length(at + i, length - i) : 0;
        if (sequence) {
            evbuffer_add(out, bytes + i, sequence);
            i += sequence;
        } else if (at[i] == '"' || at[i] == '\\') {
            evbuffer_add_printf(out, "\\%c", at[i++]);
        } else {
            evbuffer_add_printf(out, "\\u%04x", at[i++]);
        }
    }
    evbuffer_add(out, "\"", 1);
}
