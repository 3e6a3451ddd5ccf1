/* The request head's parser against a plain and slow one that looks at the whole head at once, and
 * against itself: any cut of the input gives the same verdict. */
#include "build_config.h"

#include <ctype.h>

#include "format/http_fields.h"
#include "format/http_head.h"
#include "fuzz.h"

/* ---- the reference --------------------------------------------------------------------------- */

enum verdict { VERDICT_OK, VERDICT_BAD, VERDICT_NO_END };

struct line {
    struct view name;
    struct view value;
};

struct reference {
    struct view method;
    struct view target;
    char minor;
    size_t length;
    size_t field_count;
    struct line fields[HTTP_FIELDS_MAXIMUM];
    bool has_length;
    bool has_chunked;
    bool keep_alive;
    uint64_t content_length;
};

static bool all(struct view text, const char *allowed)
{
    for (size_t i = 0; i < text.length; i++) {
        if (text.data[i] == '\0' || strchr(allowed, text.data[i]) == NULL) {
            return false;
        }
    }
    return true;
}

#define ALPHANUMERIC "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define TOKEN ALPHANUMERIC "!#$%&'*+-.^_`|~"

static size_t find(struct view text, struct view what)
{
    for (size_t i = 0; i + what.length <= text.length; i++) {
        if (memcmp(text.data + i, what.data, what.length) == 0) {
            return i;
        }
    }
    return text.length;
}

static bool named(struct view name, const char *lower_case)
{
    if (name.length != strlen(lower_case)) {
        return false;
    }
    for (size_t i = 0; i < name.length; i++) {
        if (tolower((unsigned char)name.data[i]) != lower_case[i]) {
            return false;
        }
    }
    return true;
}

static bool split_request_line(struct reference *reference, struct view line)
{
    size_t first = view_find_byte(line, ' ');
    reference->method = view_first(line, first);
    if (first == line.length) {
        return false;
    }
    line = view_skip(line, first + 1);
    size_t second = view_find_byte(line, ' ');
    reference->target = view_first(line, second);
    if (second == line.length) {
        return false;
    }
    struct view version = view_skip(line, second + 1);
    struct view method = reference->method;
    struct view target = reference->target;
    if (method.length < 1 || method.length > 32 || !all(method, TOKEN) || target.length < 1 ||
        target.length > 8192 || !all(target, ALPHANUMERIC "-._~:/?[]@!$&'()*+,;=%")) {
        return false;
    }
    bool right_form = target.data[0] == '/' || view_equal(method, VIEW("CONNECT")) ||
                      (view_equal(method, VIEW("OPTIONS")) && view_equal(target, VIEW("*"))) ||
                      view_starts_with_ignore_case(target, VIEW("http://")) ||
                      view_starts_with_ignore_case(target, VIEW("https://"));
    if (version.length != 8 || memcmp(version.data, "HTTP/1.", 7) != 0 ||
        !isdigit((unsigned char)version.data[7])) {
        return false;
    }
    reference->minor = version.data[7] == '0' ? 0 : 1;
    return right_form;
}

static bool split_field(struct reference *reference, struct view line)
{
    size_t colon = view_find_byte(line, ':');
    if (colon == line.length || colon == 0 || reference->field_count == HTTP_FIELDS_MAXIMUM) {
        return false;
    }
    struct line *field = &reference->fields[reference->field_count++];
    field->name = view_first(line, colon);
    field->value = view_skip(line, colon + 1);
    for (size_t i = 0; i < field->value.length; i++) {
        unsigned char byte = (unsigned char)field->value.data[i];
        if ((byte < ' ' && byte != '\t') || byte == 0x7f) {
            return false;
        }
    }
    field->value = view_trim(field->value);
    return all(field->name, TOKEN);
}

/* Every element of every field of that name, in order; the list is the caller's to walk. */
static bool next_option(const struct reference *reference, const char *name, size_t *field,
                        size_t *offset, struct view *option)
{
    for (; *field < reference->field_count; (*field)++, *offset = 0) {
        struct view value = reference->fields[*field].value;
        if (!named(reference->fields[*field].name, name) || *offset > value.length) {
            continue;
        }
        struct view rest = view_skip(value, *offset);
        *option = view_trim(view_first(rest, view_find_byte(rest, ',')));
        *offset += view_find_byte(rest, ',') + 1;
        return true;
    }
    return false;
}

static size_t count(const struct reference *reference, const char *name, struct view *value)
{
    size_t found = 0;
    for (size_t i = 0; i < reference->field_count; i++) {
        if (named(reference->fields[i].name, name)) {
            *value = reference->fields[i].value;
            found++;
        }
    }
    return found;
}

static bool judge_framing(struct reference *reference)
{
    struct view value;
    size_t lengths = count(reference, "content-length", &value);
    if (lengths > 1 ||
        (lengths == 1 && !view_parse_u64(value, INT64_MAX, &reference->content_length))) {
        return false;
    }
    reference->has_length = lengths == 1;
    size_t codings = count(reference, "transfer-encoding", &value);
    reference->has_chunked = codings == 1 && named(value, "chunked");
    /* All that is ever taken is this one coding, said once. */
    return codings == 0 || (reference->has_chunked && lengths == 0 && reference->minor > 0);
}

static bool judge_host(const struct reference *reference)
{
    struct view host;
    size_t hosts = count(reference, "host", &host);
    if (hosts == 0) {
        return reference->minor == 0;
    }
    size_t host_length = host.length;
    if (hosts > 1 || host.length == 0) {
        return false;
    }
    if (host.data[0] == '[') {
        host_length = view_find_byte(host, ']') + 1;
        if (host_length > host.length || host_length < 4 ||
            !all(view_make(host.data + 1, host_length - 2), "0123456789abcdefABCDEF:.")) {
            return false;
        }
    } else {
        host_length = view_find_byte(host, ':');
        if (host_length == 0 || !all(view_first(host, host_length), ALPHANUMERIC "-._")) {
            return false;
        }
    }
    struct view port = view_skip(host, host_length);
    return port.length == 0 ||
           (port.data[0] == ':' && port.length <= 6 && all(view_skip(port, 1), "0123456789") &&
            (port.length == 1 || strtoul(port.data + 1, NULL, 10) <= 65535));
}

static void judge_keep_alive(struct reference *reference)
{
    bool close = false;
    bool keep = false;
    size_t field = 0;
    size_t offset = 0;
    struct view option;
    while (next_option(reference, "connection", &field, &offset, &option)) {
        close = close || named(option, "close");
        keep = keep || named(option, "keep-alive");
    }
    reference->keep_alive =
        !close && (reference->minor > 0 || keep) && !view_equal(reference->method, VIEW("CONNECT"));
}

static enum verdict refer(struct reference *reference, struct view text)
{
    size_t skipped = view_starts_with(text, VIEW("\r\n")) ? 2 : 0;
    struct view head = view_skip(text, skipped);
    size_t end = find(head, VIEW("\r\n\r\n"));
    struct view ignored;
    memset(reference, 0, sizeof *reference);
    if (end == head.length) {
        return VERDICT_NO_END;
    }
    reference->length = skipped + end + 4;
    head = view_first(head, end + 2);
    for (bool first = true; head.length > 0; first = false) {
        struct view line = view_first(head, find(head, VIEW("\r\n")));
        head = view_skip(head, line.length + 2);
        if (view_find_byte(line, '\r') < line.length || view_find_byte(line, '\n') < line.length ||
            !(first ? split_request_line(reference, line) : split_field(reference, line))) {
            return VERDICT_BAD;
        }
    }
    judge_keep_alive(reference);
    bool right = judge_framing(reference) && judge_host(reference) &&
                 count(reference, "authorization", &ignored) <= 1 &&
                 count(reference, "idempotency-key", &ignored) <= 1 &&
                 reference->length <= HTTP_REQUEST_HEAD_MAXIMUM;
    return right ? VERDICT_OK : VERDICT_BAD;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void compare(const struct http_request_head *request, const struct reference *reference)
{
    const struct http_head *head = &request->head;
    FUZZ_CHECK(view_equal(http_request_method(request), reference->method));
    FUZZ_CHECK(view_equal(http_request_target(request), reference->target));
    FUZZ_CHECK(head->minor == reference->minor);
    FUZZ_CHECK(head->length == reference->length);
    FUZZ_CHECK(head->field_count == reference->field_count);
    for (unsigned i = 0; i < head->field_count; i++) {
        FUZZ_CHECK(view_equal(http_head_field_name(head, i), reference->fields[i].name));
        FUZZ_CHECK(view_equal(http_head_field_value(head, i), reference->fields[i].value));
    }
    FUZZ_CHECK((head->framing == HTTP_BODY_LENGTH) == reference->has_length);
    FUZZ_CHECK((head->framing == HTTP_BODY_CHUNKED) == reference->has_chunked);
    FUZZ_CHECK(head->content_length == reference->content_length);
    FUZZ_CHECK(head->keep_alive == reference->keep_alive);
}

/* What goes up must be a head again, and may not have what never goes up. */
static void check_forwarded(const struct http_request_head *request)
{
    struct builder text;
    struct http_request_head again;
    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW("GET / HTTP/1.1\r\nHost: h\r\n"));
    http_fields_append_request(&text, &request->head, ~0u);
    builder_append(&text, VIEW("\r\n"));
    http_request_begin(&again);
    /* Spellings have the same length as what was sent, so that it can't grow. */
    if (builder_view(&text).length <= HTTP_REQUEST_HEAD_MAXIMUM) {
        enum http_head_result result =
            http_request_parse(&again, builder_view(&text).data, builder_view(&text).length);
        FUZZ_CHECK(result == HTTP_HEAD_OK || result == HTTP_HEAD_TOO_MANY_FIELDS);
        FUZZ_CHECK(again.head.framing == HTTP_BODY_NONE || result != HTTP_HEAD_OK);
        FUZZ_CHECK(!http_head_has(&again.head, HTTP_FIELD_AUTHORIZATION));
        FUZZ_CHECK(!http_head_has(&again.head, HTTP_FIELD_COOKIE));
    }
    builder_clear(&text);
}

static void check_cuts(struct view text, enum http_head_result whole,
                       const struct http_request_head *parsed)
{
    for (uint32_t round = 0; round < 2; round++) {
        struct http_request_head request;
        uint32_t seed = (uint32_t)text.length * 31 + round;
        enum http_head_result result = HTTP_HEAD_INCOMPLETE;
        size_t given = 0;
        http_request_begin(&request);
        while (result == HTTP_HEAD_INCOMPLETE && given < text.length) {
            size_t step = round == 0 && text.length <= 512
                              ? 1
                              : 1 + fuzz_next(&seed) % (8 + text.length / 16);
            given = text.length - given < step ? text.length : given + step;
            char *copy = fuzz_copy(text.data, given);
            result = http_request_parse(&request, copy, given);
            free(copy);
        }
        FUZZ_CHECK(result == whole);
        if (result == HTTP_HEAD_OK) {
            FUZZ_CHECK(request.head.length == parsed->head.length);
            FUZZ_CHECK(request.head.field_count == parsed->head.field_count);
            FUZZ_CHECK(request.objection == parsed->objection);
            FUZZ_CHECK(memcmp(request.head.first, parsed->head.first, sizeof request.head.first) ==
                       0);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view text = view_make((const char *)data, size);
    struct http_request_head request;
    struct reference reference;
    http_request_begin(&request);
    enum http_head_result result = http_request_parse(&request, text.data, text.length);
    enum verdict verdict = refer(&reference, text);
    FUZZ_CHECK((result == HTTP_HEAD_OK) == (verdict == VERDICT_OK));
    if (result == HTTP_HEAD_INCOMPLETE) {
        FUZZ_CHECK(verdict == VERDICT_NO_END);
        FUZZ_CHECK(size < HTTP_REQUEST_HEAD_MAXIMUM);
    } else if (result == HTTP_HEAD_OK) {
        compare(&request, &reference);
        check_forwarded(&request);
    } else {
        unsigned status = http_head_status(result);
        FUZZ_CHECK(status == 400 || status == 414 || status == 431 || status == 501 ||
                   status == 505);
    }
    check_cuts(text, result, &request);
    return 0;
}
