/* The response head's parser: any cut gives the same verdict, and what is accepted has a framing
 * that can't be read in two ways. The first byte of the input says whether the request was HEAD. */
#include "build_config.h"

#include "format/http_fields.h"
#include "format/http_head.h"
#include "fuzz.h"

static void check_head(const struct http_response_head *response, struct view text)
{
    const struct http_head *head = &response->head;
    unsigned lengths = 0;
    unsigned codings = 0;
    FUZZ_CHECK(response->status >= 100 && response->status <= 599);
    FUZZ_CHECK(head->length <= text.length && head->length <= HTTP_RESPONSE_HEAD_MAXIMUM);
    FUZZ_CHECK(memcmp(text.data + head->length - 4, "\r\n\r\n", 4) == 0);
    for (unsigned i = 0; i < head->field_count; i++) {
        struct view name = http_head_field_name(head, i);
        struct view value = http_head_field_value(head, i);
        lengths += view_equal_ignore_case(name, VIEW("content-length"));
        codings += view_equal_ignore_case(name, VIEW("transfer-encoding"));
        FUZZ_CHECK(name.length > 0 && http_bytes_are(name, HTTP_BYTE_TOKEN));
        FUZZ_CHECK(http_bytes_are(value, HTTP_BYTE_VALUE));
        FUZZ_CHECK(view_equal(view_trim(value), value));
    }
    FUZZ_CHECK(lengths + codings <= 1);
    bool no_body = response->answers_head || response->status < 200 || response->status == 204 ||
                   response->status == 304;
    FUZZ_CHECK(no_body == (head->framing == HTTP_BODY_NONE));
    if (!no_body) {
        FUZZ_CHECK((head->framing == HTTP_BODY_LENGTH) == (lengths == 1));
        FUZZ_CHECK((head->framing == HTTP_BODY_CHUNKED) == (codings == 1));
        FUZZ_CHECK(head->framing != HTTP_BODY_CLOSE || !head->keep_alive);
    }
}

static void check_returned(const struct http_response_head *response)
{
    struct builder text;
    struct http_response_head again;
    builder_init(&text, NULL, 0);
    http_status_append_line(&text, response->status);
    http_fields_append_response(&text, &response->head, ~0u);
    builder_append(&text, VIEW("\r\n"));
    if (builder_view(&text).length <= HTTP_RESPONSE_HEAD_MAXIMUM) {
        http_response_begin(&again, HTTP_METHOD_GET);
        FUZZ_CHECK(http_response_parse(&again, builder_view(&text).data,
                                       builder_view(&text).length) == HTTP_HEAD_OK);
        FUZZ_CHECK(again.status == response->status);
        FUZZ_CHECK(!http_head_has(&again.head, HTTP_FIELD_SET_COOKIE));
        FUZZ_CHECK(!http_head_has(&again.head, HTTP_FIELD_LOCATION));
    }
    builder_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    enum http_method method = data[0] == 'H' ? HTTP_METHOD_HEAD : HTTP_METHOD_GET;
    struct view text = view_make((const char *)data + 1, size - 1);
    struct http_response_head whole;
    http_response_begin(&whole, method);
    enum http_head_result result = http_response_parse(&whole, text.data, text.length);
    if (result == HTTP_HEAD_OK) {
        check_head(&whole, text);
        check_returned(&whole);
    }
    for (uint32_t round = 0; round < 2; round++) {
        struct http_response_head response;
        uint32_t seed = (uint32_t)size * 17 + round;
        enum http_head_result cut = HTTP_HEAD_INCOMPLETE;
        size_t given = 0;
        http_response_begin(&response, method);
        while (cut == HTTP_HEAD_INCOMPLETE && given < text.length) {
            size_t step = round == 0 && text.length <= 512
                              ? 1
                              : 1 + fuzz_next(&seed) % (8 + text.length / 16);
            given = text.length - given < step ? text.length : given + step;
            char *copy = fuzz_copy(text.data, given);
            cut = http_response_parse(&response, copy, given);
            free(copy);
        }
        FUZZ_CHECK(cut == result);
        FUZZ_CHECK(cut != HTTP_HEAD_OK || (response.head.length == whole.head.length &&
                                           response.head.framing == whole.head.framing));
    }
    return 0;
}
