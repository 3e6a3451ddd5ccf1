#include "build_config.h"

#include "format/http_chunked.h"

#include "format/http_head.h"

enum phase {
    PHASE_SIZE,
    PHASE_EXTENSION,
    PHASE_SIZE_LF,
    PHASE_DATA,
    PHASE_DATA_CR,
    PHASE_DATA_LF,
    PHASE_TRAILER_START,
    PHASE_TRAILER_NAME,
    PHASE_TRAILER_VALUE,
    PHASE_TRAILER_LF,
    PHASE_END_LF,
    PHASE_DONE,
    PHASE_FAULT,
};

void http_chunked_begin(struct http_chunked *decoder)
{
    *decoder = (struct http_chunked){.phase = PHASE_SIZE};
}

static void fail(struct http_chunked *decoder, enum http_chunked_fault fault)
{
    decoder->fault = (uint8_t)fault;
    decoder->phase = PHASE_FAULT;
}

static unsigned hex_value(char byte)
{
    return byte <= '9' ? (unsigned)(byte - '0') : (unsigned)((byte | 0x20) - 'a') + 10;
}

static void take_size_byte(struct http_chunked *decoder, char byte)
{
    if (http_byte_is(byte, HTTP_BYTE_HEX)) {
        if (decoder->counted == 16) {
            fail(decoder, HTTP_CHUNKED_SIZE_TOO_LARGE);
            return;
        }
        decoder->counted++;
        decoder->remaining = decoder->remaining << 4 | hex_value(byte);
        return;
    }
    if (decoder->counted == 0 || (byte != '\r' && byte != ';')) {
        fail(decoder,
             byte == '\n' && decoder->counted > 0 ? HTTP_CHUNKED_NO_CRLF : HTTP_CHUNKED_BAD_SIZE);
        return;
    }
    if (__builtin_add_overflow(decoder->total, decoder->remaining, &decoder->total) ||
        decoder->total > INT64_MAX) {
        fail(decoder, HTTP_CHUNKED_SIZE_TOO_LARGE);
        return;
    }
    /* The semicolon is the first byte of the extensions. */
    decoder->counted = 1;
    decoder->phase = byte == '\r' ? PHASE_SIZE_LF : PHASE_EXTENSION;
}

/* Extensions mean nothing to podgate. They are skipped, and bounded, since each could be a way to
 * send for ever (RFC 9112 section 7.1.1). */
static void take_extension_byte(struct http_chunked *decoder, char byte)
{
    if (byte == '\r') {
        decoder->phase = PHASE_SIZE_LF;
    } else if (!http_byte_is(byte, HTTP_BYTE_VALUE)) {
        fail(decoder, HTTP_CHUNKED_BAD_EXTENSION);
    } else if (decoder->counted == HTTP_CHUNK_EXTENSION_MAXIMUM) {
        fail(decoder, HTTP_CHUNKED_EXTENSION_TOO_LONG);
    } else {
        decoder->counted++;
    }
}

static void take_size_lf(struct http_chunked *decoder, char byte)
{
    if (byte != '\n') {
        fail(decoder, HTTP_CHUNKED_NO_CRLF);
    } else if (decoder->remaining > 0) {
        decoder->phase = PHASE_DATA;
    } else {
        decoder->counted = 0;
        decoder->phase = PHASE_TRAILER_START;
    }
}

static void take_trailer_byte(struct http_chunked *decoder, char byte)
{
    enum phase next = (enum phase)decoder->phase;
    bool right = true;
    switch (decoder->phase) {
    case PHASE_TRAILER_START:
        right = byte == '\r' || http_byte_is(byte, HTTP_BYTE_TOKEN);
        next = byte == '\r' ? PHASE_END_LF : PHASE_TRAILER_NAME;
        break;
    case PHASE_TRAILER_NAME:
        right = byte == ':' || http_byte_is(byte, HTTP_BYTE_TOKEN);
        next = byte == ':' ? PHASE_TRAILER_VALUE : PHASE_TRAILER_NAME;
        break;
    case PHASE_TRAILER_VALUE:
        right = byte == '\r' || http_byte_is(byte, HTTP_BYTE_VALUE);
        next = byte == '\r' ? PHASE_TRAILER_LF : PHASE_TRAILER_VALUE;
        break;
    case PHASE_TRAILER_LF:
        right = byte == '\n';
        next = PHASE_TRAILER_START;
        break;
    case PHASE_END_LF:
        right = byte == '\n';
        next = PHASE_DONE;
        break;
    default: break;
    }
    decoder->phase = (uint8_t)next;
    if (!right) {
        fail(decoder, HTTP_CHUNKED_BAD_TRAILER);
    } else if (++decoder->counted > HTTP_CHUNKED_TRAILER_MAXIMUM) {
        fail(decoder, HTTP_CHUNKED_TRAILER_TOO_LARGE);
    }
}

static void take_byte(struct http_chunked *decoder, char byte)
{
    switch (decoder->phase) {
    case PHASE_SIZE: take_size_byte(decoder, byte); break;
    case PHASE_EXTENSION: take_extension_byte(decoder, byte); break;
    case PHASE_SIZE_LF: take_size_lf(decoder, byte); break;
    case PHASE_DATA_CR:
        decoder->phase = PHASE_DATA_LF;
        if (byte != '\r') {
            fail(decoder, HTTP_CHUNKED_NO_CRLF);
        }
        break;
    case PHASE_DATA_LF:
        decoder->phase = PHASE_SIZE;
        decoder->counted = 0;
        if (byte != '\n') {
            fail(decoder, HTTP_CHUNKED_NO_CRLF);
        }
        break;
    default: take_trailer_byte(decoder, byte); break;
    }
}

enum http_chunked_step http_chunked_next(struct http_chunked *decoder, struct view *input,
                                         struct view *data)
{
    *data = view_make(NULL, 0);
    while (decoder->phase != PHASE_DONE && decoder->phase != PHASE_FAULT) {
        if (input->length == 0) {
            return HTTP_CHUNKED_MORE;
        }
        if (decoder->phase != PHASE_DATA) {
            take_byte(decoder, input->data[0]);
            *input = view_skip(*input, 1);
            continue;
        }
        *data = view_first(*input, decoder->remaining < input->length ? (size_t)decoder->remaining
                                                                      : input->length);
        *input = view_skip(*input, data->length);
        decoder->remaining -= data->length;
        if (decoder->remaining == 0) {
            decoder->phase = PHASE_DATA_CR;
        }
        return HTTP_CHUNKED_DATA;
    }
    return decoder->phase == PHASE_DONE ? HTTP_CHUNKED_END : HTTP_CHUNKED_FAULT;
}

static const struct {
    struct view name;
    struct view detail;
} faults[HTTP_CHUNKED_FAULT_COUNT] = {
    [HTTP_CHUNKED_NO_FAULT] = {VIEW_INIT("ok"), VIEW_INIT("The chunked coding is right.")},
    [HTTP_CHUNKED_BAD_SIZE] = {VIEW_INIT("chunk_size"),
                               VIEW_INIT("A chunk size is not a hexadecimal number.")},
    [HTTP_CHUNKED_SIZE_TOO_LARGE] = {VIEW_INIT("chunk_too_large"),
                                     VIEW_INIT("A chunk size is too large.")},
    [HTTP_CHUNKED_BAD_EXTENSION] = {VIEW_INIT("chunk_extension"),
                                    VIEW_INIT("A chunk extension has a control character.")},
    [HTTP_CHUNKED_EXTENSION_TOO_LONG] = {VIEW_INIT("chunk_extension_too_long"),
                                         VIEW_INIT("A chunk's extensions are too long; 256 bytes "
                                                   "are allowed.")},
    [HTTP_CHUNKED_NO_CRLF] = {VIEW_INIT("chunk_crlf"),
                              VIEW_INIT("No CR LF follows a chunk size or a chunk's data.")},
    [HTTP_CHUNKED_BAD_TRAILER] = {VIEW_INIT("trailer"), VIEW_INIT("A trailer field is malformed.")},
    [HTTP_CHUNKED_TRAILER_TOO_LARGE] = {VIEW_INIT("trailer_too_large"),
                                        VIEW_INIT("The trailer fields are too large; 8 KiB are "
                                                  "allowed.")},
};

struct view http_chunked_detail(const struct http_chunked *decoder)
{
    return faults[decoder->fault].detail;
}

struct view http_chunked_name(const struct http_chunked *decoder)
{
    return faults[decoder->fault].name;
}

size_t http_chunk_format_header(char *text, uint64_t size)
{
    char digits[16];
    size_t start = sizeof digits;
    do {
        digits[--start] = "0123456789abcdef"[size & 15];
        size >>= 4;
    } while (size > 0);
    size_t length = sizeof digits - start;
    memcpy(text, digits + start, length);
    memcpy(text + length, "\r\n", 2);
    return length + 2;
}

struct view http_chunked_last(void)
{
    return VIEW("0\r\n\r\n");
}
