#include "build_config.h"

#include "format/http_conditional.h"

#include "format/http_head.h"

/* Takes what is in front of the first comma off `list`, without the white space around it. */
static struct view next_element(struct view *list)
{
    size_t at = view_find_byte(*list, ',');
    struct view element = view_trim(view_first(*list, at));

    *list = view_skip(*list, at + 1);
    return element;
}

/* ---- Accept-Encoding ------------------------------------------------------------------------- */

/* weight = "q=" ( 0[.ddd] / 1[.000] ), with 0 to 3 digits behind the point. */
static bool parse_quality(struct view text, uint16_t *quality)
{
    unsigned thousandths;
    unsigned unit = 100;

    if (text.length == 0 || text.length > 5 || (text.data[0] != '0' && text.data[0] != '1') ||
        (text.length > 1 && text.data[1] != '.')) {
        return false;
    }
    thousandths = text.data[0] == '1' ? 1000 : 0;
    for (size_t i = 2; i < text.length; i++, unit /= 10) {
        if (!http_byte_is(text.data[i], HTTP_BYTE_DIGIT)) {
            return false;
        }
        thousandths += (unsigned)(text.data[i] - '0') * unit;
    }
    *quality = (uint16_t)thousandths;
    return thousandths <= 1000;
}

/* Takes the weight off an element. False when what follows the name is no weight. */
static bool split_weight(struct view *element, uint16_t *quality)
{
    size_t at = view_find_byte(*element, ';');
    struct view weight = view_trim(view_skip(*element, at + 1));

    *quality = 1000;
    if (at == element->length) {
        return true;
    }
    *element = view_trim(view_first(*element, at));
    return view_starts_with_ignore_case(weight, VIEW("q=")) &&
           parse_quality(view_skip(weight, 2), quality);
}

static bool find_coding(struct view name, enum http_coding *coding)
{
    if (view_equal_ignore_case(name, VIEW("gzip")) ||
        view_equal_ignore_case(name, VIEW("x-gzip"))) {
        *coding = HTTP_CODING_GZIP;
    } else if (view_equal_ignore_case(name, VIEW("zstd"))) {
        *coding = HTTP_CODING_ZSTD;
    } else if (view_equal_ignore_case(name, VIEW("identity"))) {
        *coding = HTTP_CODING_IDENTITY;
    } else {
        return false;
    }
    return true;
}

void http_accept_begin(struct http_accept *accept)
{
    *accept = (struct http_accept){0};
}

void http_accept_add(struct http_accept *accept, struct view value)
{
    while (value.length > 0) {
        struct view element = next_element(&value);
        enum http_coding coding;
        uint16_t quality;

        if (!split_weight(&element, &quality)) {
            continue;
        }
        if (view_equal(element, VIEW("*"))) {
            accept->any_named = true;
            accept->any_quality = quality;
        } else if (find_coding(element, &coding)) {
            accept->named[coding] = true;
            accept->quality[coding] = quality;
        }
    }
}

/* Thousandths; 0: not acceptable. */
static uint16_t quality_of(const struct http_accept *accept, enum http_coding coding)
{
    if (accept->named[coding]) {
        return accept->quality[coding];
    }
    if (coding == HTTP_CODING_IDENTITY) {
        /* Acceptable unless "*;q=0" excludes it, but everything that is named is wanted more. */
        return accept->any_named && accept->any_quality == 0 ? 0 : 1;
    }
    return accept->any_named ? accept->any_quality : 0;
}

bool http_accept_allows(const struct http_accept *accept, enum http_coding coding)
{
    return quality_of(accept, coding) > 0;
}

enum http_coding http_accept_choose(const struct http_accept *accept)
{
    static const enum http_coding order[HTTP_CODINGS] = {HTTP_CODING_ZSTD, HTTP_CODING_GZIP,
                                                         HTTP_CODING_IDENTITY};
    enum http_coding chosen = HTTP_CODING_IDENTITY;
    uint16_t best = 0;

    for (unsigned i = 0; i < HTTP_CODINGS; i++) {
        uint16_t quality = quality_of(accept, order[i]);

        if (quality > best) {
            best = quality;
            chosen = order[i];
        }
    }
    return chosen;
}

/* ---- Range ----------------------------------------------------------------------------------- */

/* Digits only; a number that doesn't fit counts as the largest, since it lies behind every end. */
static bool parse_position(struct view text, uint64_t *position)
{
    if (text.length == 0 || !http_bytes_are(text, HTTP_BYTE_DIGIT)) {
        return false;
    }
    if (!view_parse_u64(text, UINT64_MAX, position)) {
        *position = UINT64_MAX;
    }
    return true;
}

/* "-N": the last N bytes. */
static enum http_range judge_suffix(uint64_t wanted, uint64_t length, uint64_t *first,
                                    uint64_t *count)
{
    if (wanted == 0 || length == 0) {
        return HTTP_RANGE_UNSATISFIABLE;
    }
    *count = wanted < length ? wanted : length;
    *first = length - *count;
    return HTTP_RANGE_PART;
}

static enum http_range judge_one(struct view range, uint64_t length, uint64_t *first,
                                 uint64_t *count)
{
    size_t dash = view_find_byte(range, '-');
    struct view last_text = view_skip(range, dash + 1);
    uint64_t begin;
    uint64_t last = UINT64_MAX;

    if (dash == range.length) {
        return HTTP_RANGE_WHOLE;
    }
    if (dash == 0) {
        return parse_position(last_text, &last) ? judge_suffix(last, length, first, count)
                                                : HTTP_RANGE_WHOLE;
    }
    if (!parse_position(view_first(range, dash), &begin) ||
        (last_text.length > 0 && !parse_position(last_text, &last)) || last < begin) {
        return HTTP_RANGE_WHOLE;
    }
    if (begin >= length) {
        return HTTP_RANGE_UNSATISFIABLE;
    }
    *first = begin;
    *count = (last < length ? last + 1 : length) - begin;
    return HTTP_RANGE_PART;
}

enum http_range http_range_parse(struct view value, uint64_t length, uint64_t *first,
                                 uint64_t *count)
{
    struct view only = {NULL, 0};

    if (!view_starts_with_ignore_case(value, VIEW("bytes="))) {
        return HTTP_RANGE_WHOLE;
    }
    value = view_skip(value, 6);
    while (value.length > 0) {
        struct view element = next_element(&value);

        if (element.length > 0 && only.length > 0) {
            return HTTP_RANGE_WHOLE;
        }
        if (element.length > 0) {
            only = element;
        }
    }
    return judge_one(only, length, first, count);
}

bool http_if_range_allows(struct view value, struct view etag)
{
    return view_equal(value, etag);
}

/* ---- If-None-Match --------------------------------------------------------------------------- */

bool http_next_etag(struct view *list, struct view *etag)
{
    size_t end;

    while (list->length > 0 &&
           (list->data[0] == ',' || list->data[0] == ' ' || list->data[0] == '\t')) {
        *list = view_skip(*list, 1);
    }
    if (view_starts_with(*list, VIEW("*"))) {
        *etag = view_first(*list, 1);
        *list = view_skip(*list, 1);
        return view_trim(*list).length == 0;
    }
    if (view_starts_with(*list, VIEW("W/"))) {
        *list = view_skip(*list, 2);
    }
    if (!view_starts_with(*list, VIEW("\""))) {
        return false;
    }
    end = 1 + view_find_byte(view_skip(*list, 1), '"');
    if (end >= list->length) {
        return false;
    }
    *etag = view_first(*list, end + 1);
    *list = view_trim(view_skip(*list, end + 1));
    return list->length == 0 || list->data[0] == ',';
}
