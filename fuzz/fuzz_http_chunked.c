/* The chunked decoder against one that looks at whole lines of a whole body, and against itself:
 * any cut of the input gives the same data and the same verdict. */
#include "build_config.h"

#include "format/http_chunked.h"
#include "format/http_head.h"
#include "fuzz.h"

struct outcome {
    enum http_chunked_step step;
    size_t used; /* with END */
    struct builder data;
};

/* ---- the reference --------------------------------------------------------------------------- */

static bool take_line(struct view *rest, struct view *line)
{
    for (size_t i = 0; i + 1 < rest->length; i++) {
        if (rest->data[i] == '\r' && rest->data[i + 1] == '\n') {
            *line = view_first(*rest, i);
            *rest = view_skip(*rest, i + 2);
            return true;
        }
    }
    return false;
}

/* Reads a size line; `*size` above INT64_MAX when it isn't one. */
static void read_size(struct view line, uint64_t *size)
{
    size_t digits = 0;
    *size = 0;
    while (digits < line.length && http_byte_is(line.data[digits], HTTP_BYTE_HEX)) {
        char byte = line.data[digits++];
        *size = *size * 16 +
                (byte <= '9' ? (unsigned)(byte - '0') : ((unsigned)byte | 0x20) - 'a' + 10);
    }
    struct view extensions = view_skip(line, digits);
    if (digits < 1 || digits > 16 || extensions.length > HTTP_CHUNK_EXTENSION_MAXIMUM ||
        (extensions.length > 0 && extensions.data[0] != ';') ||
        !http_bytes_are(extensions, HTTP_BYTE_VALUE)) {
        *size = UINT64_MAX;
    }
}

/* END with the data, FAULT, or MORE when the input is a mere beginning or faulty behind it. */
static void refer(struct outcome *outcome, struct view text)
{
    struct view rest = text;
    struct view line;
    uint64_t total = 0;
    outcome->step = HTTP_CHUNKED_FAULT;
    for (;;) {
        uint64_t size;
        if (!take_line(&rest, &line)) {
            outcome->step = HTTP_CHUNKED_MORE;
            return;
        }
        read_size(line, &size);
        if (size > INT64_MAX || (total += size) > INT64_MAX) {
            return;
        }
        if (size == 0) {
            break;
        }
        if (size > rest.length || rest.length - size < 2) {
            outcome->step = HTTP_CHUNKED_MORE;
            return;
        }
        builder_append(&outcome->data, view_first(rest, size));
        rest = view_skip(rest, size);
        if (!view_starts_with(rest, VIEW("\r\n"))) {
            return;
        }
        rest = view_skip(rest, 2);
    }
    size_t trailers_begin = text.length - rest.length;
    for (;;) {
        if (!take_line(&rest, &line)) {
            outcome->step = HTTP_CHUNKED_MORE;
            return;
        }
        outcome->used = text.length - rest.length;
        if (outcome->used - trailers_begin > HTTP_CHUNKED_TRAILER_MAXIMUM) {
            return;
        }
        if (line.length == 0) {
            outcome->step = HTTP_CHUNKED_END;
            return;
        }
        size_t colon = view_find_byte(line, ':');
        if (colon == 0 || colon == line.length ||
            !http_bytes_are(view_first(line, colon), HTTP_BYTE_TOKEN) ||
            !http_bytes_are(view_skip(line, colon), HTTP_BYTE_VALUE)) {
            return;
        }
    }
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void decode(struct outcome *outcome, struct view text, uint32_t round)
{
    struct http_chunked decoder;
    uint32_t seed = (uint32_t)text.length * 13 + round;
    size_t given = 0;
    http_chunked_begin(&decoder);
    outcome->step = HTTP_CHUNKED_MORE;
    while (outcome->step == HTTP_CHUNKED_MORE && given < text.length) {
        size_t step = 1 + fuzz_next(&seed) % (8 + text.length / 16);
        if (round == 0) {
            step = text.length;
        } else if (round == 1 && text.length <= 512) {
            step = 1;
        }
        size_t length = text.length - given < step ? text.length - given : step;
        char *copy = fuzz_copy(text.data + given, length);
        struct view part = view_make(copy, length);
        struct view data;
        while ((outcome->step = http_chunked_next(&decoder, &part, &data)) == HTTP_CHUNKED_DATA) {
            FUZZ_CHECK(data.length > 0);
            builder_append(&outcome->data, data);
        }
        FUZZ_CHECK(outcome->step != HTTP_CHUNKED_MORE || part.length == 0);
        given += length - part.length;
        free(copy);
    }
    outcome->used = given;
    FUZZ_CHECK((outcome->step == HTTP_CHUNKED_FAULT) == (decoder.fault != HTTP_CHUNKED_NO_FAULT));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view text = view_make((const char *)data, size);
    struct outcome reference = {0};
    struct outcome whole = {0};
    builder_init(&reference.data, NULL, 0);
    builder_init(&whole.data, NULL, 0);
    refer(&reference, text);
    decode(&whole, text, 0);
    FUZZ_CHECK((whole.step == HTTP_CHUNKED_END) == (reference.step == HTTP_CHUNKED_END));
    if (whole.step == HTTP_CHUNKED_END) {
        FUZZ_CHECK(whole.used == reference.used);
        FUZZ_CHECK(view_equal(builder_view(&whole.data), builder_view(&reference.data)));
    }
    if (whole.step == HTTP_CHUNKED_MORE) {
        FUZZ_CHECK(reference.step == HTTP_CHUNKED_MORE);
    }
    for (uint32_t round = 1; round < 3; round++) {
        struct outcome cut = {0};
        builder_init(&cut.data, NULL, 0);
        decode(&cut, text, round);
        FUZZ_CHECK(cut.step == whole.step);
        FUZZ_CHECK(cut.step == HTTP_CHUNKED_FAULT || cut.used == whole.used);
        FUZZ_CHECK(view_equal(builder_view(&cut.data), builder_view(&whole.data)));
        builder_clear(&cut.data);
    }
    builder_clear(&reference.data);
    builder_clear(&whole.data);
    return 0;
}
