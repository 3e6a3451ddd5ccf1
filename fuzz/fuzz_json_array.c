/* Any text: the elements lie in it, in order, and nothing else does but brackets, commas and white
 * space. An array that json_scan() takes is told to its end, and each of its elements is JSON again;
 * a cut through it gives a front part of the same elements. */
#include "build_config.h"

#include "format/json_array.h"
#include "format/json_scan.h"
#include "fuzz.h"

static bool is_filler(struct view text)
{
    for (size_t i = 0; i < text.length; i++) {
        if (strchr(" \t\r\n,[]", text.data[i]) == NULL || text.data[i] == '\0') {
            return false;
        }
    }
    return true;
}

static size_t check_elements(struct view text, bool is_valid)
{
    struct json_array array;
    struct view element;
    const char *before = text.data;
    size_t count = 0;

    json_array_begin(&array, text);
    while (json_array_next(&array, &element)) {
        FUZZ_CHECK(element.length > 0 && element.data >= before &&
                   element.data + element.length <= text.data + text.length);
        FUZZ_CHECK(is_filler(view_make(before, (size_t)(element.data - before))));
        before = element.data + element.length;
        count++;
        FUZZ_CHECK(!is_valid ||
                   json_scan(element, JSON_SCAN_NON_FINITE, NULL, 0, NULL) == JSON_SCAN_OK);
    }
    FUZZ_CHECK(array.over != array.broken);
    FUZZ_CHECK(!is_valid || array.over);
    FUZZ_CHECK(!json_array_next(&array, &element));
    if (is_valid) {
        FUZZ_CHECK(is_filler(view_make(before, (size_t)(text.data + text.length - before))));
    }
    return count;
}

/* The elements of the cut text are the first ones of the whole. */
static void check_cut(struct view text, size_t length)
{
    char *copy = fuzz_copy(text.data, length);
    struct json_array whole;
    struct json_array cut;
    struct view expected;
    struct view element;

    json_array_begin(&whole, text);
    json_array_begin(&cut, view_make(copy, length));
    while (json_array_next(&cut, &element)) {
        FUZZ_CHECK(json_array_next(&whole, &expected));
        FUZZ_CHECK(view_equal(element, expected));
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = fuzz_copy((const char *)data, size);
    struct view text = view_make(copy, size);
    struct json_report report;
    bool is_valid = json_scan(text, JSON_SCAN_NON_FINITE, NULL, 0, &report) == JSON_SCAN_OK &&
                    report.type == JSON_ARRAY;
    struct json_array array;
    struct view element;
    uint32_t seed = (uint32_t)size;

    check_elements(text, is_valid);
    for (unsigned i = 0; is_valid && i < 8; i++) {
        check_cut(text, fuzz_next(&seed) % (size + 1));
    }
    if (json_array_begin_cut(&array, text, VIEW("stream"))) {
        while (json_array_next(&array, &element)) {
            FUZZ_CHECK(element.data >= text.data &&
                       element.data + element.length <= text.data + text.length);
        }
    }
    free(copy);
    return 0;
}
