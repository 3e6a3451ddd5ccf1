/* The fields that ask for a coding, a part or nothing: whatever they say, a part lies within the
 * result, a coding that was excluded isn't chosen while another is allowed, and every entity-tag is
 * a piece of the list in its order. */
#include "build_config.h"

#include "format/http_conditional.h"
#include "fuzz.h"

static void check_accept(struct view text)
{
    struct http_accept accept;
    enum http_coding coding;
    bool allowed = false;

    http_accept_begin(&accept);
    http_accept_add(&accept, text);
    coding = http_accept_choose(&accept);
    for (unsigned i = 0; i < HTTP_CODINGS; i++) {
        allowed = allowed || http_accept_allows(&accept, (enum http_coding)i);
    }
    FUZZ_CHECK(http_accept_allows(&accept, coding) || !allowed);
    FUZZ_CHECK(allowed || coding == HTTP_CODING_IDENTITY);
}

static void check_range(struct view text, uint64_t length)
{
    uint64_t first = 0;
    uint64_t count = 0;

    if (http_range_parse(text, length, &first, &count) == HTTP_RANGE_PART) {
        FUZZ_CHECK(count > 0 && first < length && count <= length - first);
    }
}

static void check_etags(struct view text)
{
    struct view list = text;
    struct view etag;
    const char *end = text.data;

    while (http_next_etag(&list, &etag)) {
        FUZZ_CHECK(etag.length > 0 && etag.data >= end);
        end = etag.data + etag.length;
        FUZZ_CHECK(end <= text.data + text.length);
        FUZZ_CHECK(view_equal(etag, VIEW("*")) ||
                   (etag.length >= 2 && etag.data[0] == '"' && end[-1] == '"'));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = fuzz_copy((const char *)data, size);
    struct view text = view_make(copy, size);

    check_accept(text);
    check_range(text, 0);
    check_range(text, 1);
    check_range(text, 1000);
    check_range(text, UINT64_MAX);
    check_etags(text);
    free(copy);
    return 0;
}
