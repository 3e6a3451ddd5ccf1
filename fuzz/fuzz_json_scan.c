/* The JSON scanner against jansson: what jansson takes, the scanner takes and describes in the same
 * way; what jansson refuses, the scanner refuses too, but for the reasons in which they differ by
 * intent. And against itself: every beginning of a text is cut and not wrong. */
#include "build_config.h"

/* Both libraries call their types JSON_OBJECT and so on. */
#define JSON_OBJECT JANSSON_OBJECT
#define JSON_ARRAY JANSSON_ARRAY
#define JSON_STRING JANSSON_STRING
#define JSON_TRUE JANSSON_TRUE
#define JSON_FALSE JANSSON_FALSE
#define JSON_NULL JANSSON_NULL
#include <jansson.h>
#undef JSON_OBJECT
#undef JSON_ARRAY
#undef JSON_STRING
#undef JSON_TRUE
#undef JSON_FALSE
#undef JSON_NULL

#include "format/json_scan.h"
#include "format/json_text.h"
#include "fuzz.h"

static bool has(struct view text, const char *what)
{
    return text.length > 0 && memmem(text.data, text.length, what, strlen(what)) != NULL;
}

static enum json_type type_of(const json_t *value)
{
    if (value == NULL) {
        return JSON_ABSENT;
    }
    switch (json_typeof(value)) {
    case JANSSON_OBJECT: return JSON_OBJECT;
    case JANSSON_ARRAY: return JSON_ARRAY;
    case JANSSON_STRING: return JSON_STRING;
    case JSON_INTEGER:
    case JSON_REAL: return JSON_NUMBER;
    case JANSSON_TRUE: return JSON_TRUE;
    case JANSSON_FALSE: return JSON_FALSE;
    case JANSSON_NULL: return JSON_NULL;
    }
    return JSON_ABSENT;
}

/* Whether jansson's refusal is one that the scanner doesn't share. */
static bool refusal_is_theirs(struct view text, const json_error_t *error)
{
    enum json_error_code code = json_error_code(error);
    return code == json_error_numeric_overflow || code == json_error_null_character ||
           code == json_error_null_byte_in_key || code == json_error_stack_overflow ||
           /* Half a surrogate pair: syntax by RFC 8259, and Python writes it. */
           has(text, "\\u");
}

static void compare(struct view text, const json_t *value, const struct json_member *members,
                    size_t count, const struct json_report *report)
{
    FUZZ_CHECK(report->type == type_of(value));
    FUZZ_CHECK(report->offset == text.length);
    for (size_t i = 0; i < count; i++) {
        const json_t *theirs = json_object_get(value, members[i].name.data);
        FUZZ_CHECK(members[i].type == type_of(theirs));
        if (theirs == NULL) {
            continue;
        }
        /* The raw bytes say the same again. */
        json_t *again = json_loadb(members[i].value.data, members[i].value.length,
                                   JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        FUZZ_CHECK(again != NULL && json_equal(again, theirs));
        json_decref(again);
        if (members[i].type == JSON_STRING) {
            struct builder said;
            struct view plain;
            struct view expected = view_make(json_string_value(theirs), json_string_length(theirs));
            builder_init(&said, NULL, 0);
            FUZZ_CHECK(json_text_unescape(&said, members[i].value));
            FUZZ_CHECK(view_equal(builder_view(&said), expected));
            FUZZ_CHECK(json_text_says(members[i].value, expected));
            FUZZ_CHECK(!json_member_plain_string(&members[i], &plain) ||
                       view_equal(plain, expected));
            builder_clear(&said);
        }
    }
    FUZZ_CHECK(report->type != JSON_OBJECT || report->member_count >= json_object_size(value));
}

static void check_beginnings(struct view text)
{
    for (size_t length = 0; length < text.length && text.length <= 512; length++) {
        char *copy = fuzz_copy(text.data, length);
        enum json_scan_result result = json_scan(
            view_make(copy, length), JSON_SCAN_UTF8 | JSON_SCAN_NON_FINITE, NULL, 0, NULL);
        FUZZ_CHECK(result == JSON_SCAN_CUT || result == JSON_SCAN_EMPTY || result == JSON_SCAN_OK);
        free(copy);
    }
}

/* Whatever bytes are written as a string can be read, and valid ones come back the same. */
static void check_written(struct view text)
{
    struct builder written;
    struct builder said;
    struct json_report report;
    bool valid = true;
    for (size_t i = 0; valid && i < text.length;) {
        size_t length = json_text_utf8_length(text.data + i, text.length - i);
        valid = length > 0;
        i += length;
    }
    builder_init(&written, NULL, 0);
    builder_init(&said, NULL, 0);
    json_text_append_string(&written, text);
    FUZZ_CHECK(json_scan(builder_view(&written), JSON_SCAN_UTF8, NULL, 0, &report) == JSON_SCAN_OK);
    FUZZ_CHECK(report.type == JSON_STRING);
    FUZZ_CHECK(json_text_unescape(&said, builder_view(&written)));
    FUZZ_CHECK(view_equal(builder_view(&said), text) == valid);
    FUZZ_CHECK(!valid || json_text_says(builder_view(&written), text));
    builder_clear(&written);
    builder_clear(&said);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view text = view_make((const char *)data, size);
    struct json_member members[] = {{.name = VIEW("id")},
                                    {.name = VIEW("status")},
                                    {.name = VIEW("output")},
                                    {.name = VIEW("a")}};
    struct json_report report;
    json_error_t error;
    enum json_scan_result result =
        json_scan(text, JSON_SCAN_UTF8, members, ARRAY_LENGTH(members), &report);
    json_t *value = json_loadb((const char *)data, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    /* jansson takes a number with a NUL behind it, RFC 8259 doesn't. */
    bool has_nul = view_find_byte(text, '\0') < size;
    if (value != NULL) {
        FUZZ_CHECK(result == JSON_SCAN_OK || result == JSON_SCAN_TOO_DEEP || has_nul);
    } else if (result == JSON_SCAN_OK) {
        FUZZ_CHECK(refusal_is_theirs(text, &error));
    }
    if (value != NULL && result == JSON_SCAN_OK) {
        compare(text, value, members, ARRAY_LENGTH(members), &report);
    }
    json_decref(value);

    /* The laxer settings take all that the strict ones take. */
    enum json_scan_result lax =
        json_scan(text, JSON_SCAN_NON_FINITE, members, ARRAY_LENGTH(members), &report);
    FUZZ_CHECK(result != JSON_SCAN_OK || (lax == JSON_SCAN_OK && !report.non_finite));
    FUZZ_CHECK(report.offset <= size);
    for (size_t i = 0; i < ARRAY_LENGTH(members); i++) {
        FUZZ_CHECK((members[i].type == JSON_ABSENT) == (members[i].value.length == 0));
    }
    if (json_scan(text, JSON_SCAN_NON_FINITE | JSON_SCAN_UTF8, NULL, 0, NULL) == JSON_SCAN_OK) {
        check_beginnings(text);
    }
    check_written(text);
    return 0;
}
