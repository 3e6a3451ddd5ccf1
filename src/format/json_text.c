#include "build_config.h"

#include "format/json_text.h"

size_t json_text_utf8_length(const char *data, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)data;
    if (bytes[0] < 0x80) {
        return 1;
    }
    size_t wanted = bytes[0] >= 0xf0 ? 4 : bytes[0] >= 0xe0 ? 3 : 2;
    /* Unicode 15, table 3-7: only the second byte has narrower ranges. */
    unsigned lowest = bytes[0] == 0xe0 ? 0xa0 : bytes[0] == 0xf0 ? 0x90 : 0x80;
    unsigned highest = bytes[0] == 0xed ? 0x9f : bytes[0] == 0xf4 ? 0x8f : 0xbf;
    if (bytes[0] < 0xc2 || bytes[0] > 0xf4 || length < wanted || bytes[1] < lowest ||
        bytes[1] > highest) {
        return 0;
    }
    for (size_t i = 2; i < wanted; i++) {
        if ((bytes[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return wanted;
}

static bool is_plain(unsigned char byte)
{
    return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
}

static void append_escaped(struct builder *builder, unsigned char byte)
{
    static const char hex[] = "0123456789abcdef";
    switch (byte) {
    case '"': builder_append(builder, VIEW("\\\"")); return;
    case '\\': builder_append(builder, VIEW("\\\\")); return;
    case '\n': builder_append(builder, VIEW("\\n")); return;
    case '\r': builder_append(builder, VIEW("\\r")); return;
    case '\t': builder_append(builder, VIEW("\\t")); return;
    default: {
        char text[6] = {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};
        builder_append(builder, view_make(text, sizeof text));
        return;
    }
    }
}

void json_text_append_string(struct builder *builder, struct view text)
{
    builder_append_byte(builder, '"');
    while (text.length > 0) {
        size_t plain = 0;
        while (plain < text.length && is_plain((unsigned char)text.data[plain])) {
            plain++;
        }
        builder_append(builder, view_first(text, plain));
        text = view_skip(text, plain);
        if (text.length == 0) {
            break;
        }
        size_t sequence = json_text_utf8_length(text.data, text.length);
        if (sequence == 0) {
            builder_append(builder, VIEW("\xef\xbf\xbd"));
            sequence = 1;
        } else if (sequence == 1) {
            append_escaped(builder, (unsigned char)text.data[0]);
        } else {
            builder_append(builder, view_first(text, sequence));
        }
        text = view_skip(text, sequence);
    }
    builder_append_byte(builder, '"');
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The UTF-16 code unit of the \uXXXX that `text` begins with, and its length 6; 0 when it doesn't.
 */
static size_t read_code_unit(struct view text, uint32_t *unit)
{
    uint8_t bytes[2];
    if (text.length < 6 || text.data[0] != '\\' || text.data[1] != 'u' ||
        !view_parse_hex(view_make(text.data + 2, 4), bytes, 2)) {
        return 0;
    }
    *unit = (uint32_t)bytes[0] << 8 | bytes[1];
    return 6;
}

static size_t encode_utf8(uint32_t point, char *out)
{
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xc0 | point >> 6);
        out[1] = (char)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        out[0] = (char)(0xe0 | point >> 12);
        out[1] = (char)(0x80 | (point >> 6 & 0x3f));
        out[2] = (char)(0x80 | (point & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | point >> 18);
    out[1] = (char)(0x80 | (point >> 12 & 0x3f));
    out[2] = (char)(0x80 | (point >> 6 & 0x3f));
    out[3] = (char)(0x80 | (point & 0x3f));
    return 4;
}

static size_t read_escape(struct view *text, char *out)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";
    uint32_t high;
    uint32_t low;
    if (text->length < 2) {
        return 0;
    }
    const char *letter = text->data[1] != '\0' ? strchr(letters, text->data[1]) : NULL;
    if (letter != NULL) {
        out[0] = meanings[letter - letters];
        *text = view_skip(*text, 2);
        return 1;
    }
    size_t used = read_code_unit(*text, &high);
    if (used == 0 || (high >= 0xdc00 && high <= 0xdfff)) {
        return 0;
    }
    *text = view_skip(*text, used);
    if (high < 0xd800 || high > 0xdbff) {
        return encode_utf8(high, out);
    }
    if (read_code_unit(*text, &low) == 0 || low < 0xdc00 || low > 0xdfff) {
        return 0;
    }
    *text = view_skip(*text, 6);
    return encode_utf8(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), out);
}

/* The next character of a string's inside into `out` (4 bytes), and how many bytes it has; 0 when
 * it is malformed. `text` isn't empty and moves behind it. */
static size_t read_character(struct view *text, char *out)
{
    unsigned char byte = (unsigned char)text->data[0];
    if (byte == '\\') {
        return read_escape(text, out);
    }
    if (byte < 0x20 || byte == '"') {
        return 0;
    }
    out[0] = text->data[0];
    *text = view_skip(*text, 1);
    return 1;
}

static bool take_quotes_off(struct view *raw)
{
    if (raw->length < 2 || raw->data[0] != '"' || raw->data[raw->length - 1] != '"') {
        return false;
    }
    *raw = view_make(raw->data + 1, raw->length - 2);
    return true;
}

bool json_text_unescape(struct builder *builder, struct view raw)
{
    if (!take_quotes_off(&raw)) {
        return false;
    }
    while (raw.length > 0) {
        char character[4];
        size_t length = read_character(&raw, character);
        if (length == 0) {
            return false;
        }
        builder_append(builder, view_make(character, length));
    }
    return true;
}

bool json_text_says(struct view raw, struct view text)
{
    if (!take_quotes_off(&raw)) {
        return false;
    }
    while (raw.length > 0) {
        char character[4];
        size_t length = read_character(&raw, character);
        if (length == 0 || !view_starts_with(text, view_make(character, length))) {
            return false;
        }
        text = view_skip(text, length);
    }
    return text.length == 0;
}
