#include "build_config.h"

#include "store/hot_result.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "format/http_fields.h"
#include "format/json_scan.h"
#include "store/hot_result_private.h"

/* One result: what is known of it, its forms, and the field lines that go with each. What a form is
 * made of never changes once it is there, so that the request path reads it without a lock. */

enum {
    BODY_OVERHEAD_BYTES = 64, /* a body's own header, and the heap's */
    ETAG_DIGEST_BYTES = 16,   /* 128 bits tell any two results apart */
    LINES_MAXIMUM_BYTES = 512,
};

static const struct view suffixes[HOT_FORMS] = {
    [HOT_IDENTITY] = VIEW_INIT(""),
    [HOT_ZSTD] = VIEW_INIT("-zstd"),
    [HOT_GZIP] = VIEW_INIT("-gzip"),
};

static const struct view encodings[HOT_FORMS] = {
    [HOT_IDENTITY] = VIEW_INIT(""),
    [HOT_ZSTD] = VIEW_INIT("Content-Encoding: zstd\r\n"),
    [HOT_GZIP] = VIEW_INIT("Content-Encoding: gzip\r\n"),
};

/* ---- field lines ----------------------------------------------------------------------------- */

static void append_lines(struct builder *text, const struct hot_result *result, enum hot_form form,
                         uint64_t length, struct hot_lines *lines)
{
    unsigned char base64[EVP_ENCODE_LENGTH(HOT_DIGEST_BYTES)];
    bool is_large = result->result_bytes > RESULT_COMPRESS_ABOVE_BYTES;
    int base64_length = EVP_EncodeBlock(base64, lines->digest, HOT_DIGEST_BYTES);

    http_field_append_length(text, length);
    lines->partial_begin = builder_view(text).length;
    builder_append(text, VIEW("Content-Type: application/json\r\nRepr-Digest: sha-256=:"));
    builder_append(text, view_make((const char *)base64, (size_t)base64_length));
    builder_append(text, VIEW(":\r\n"));
    builder_append(text, encodings[form]);
    if (is_large && form == HOT_IDENTITY) {
        builder_append(text, VIEW("Accept-Ranges: bytes\r\n"));
    }
    lines->validators_begin = builder_view(text).length;
    builder_append(text, VIEW("ETag: "));
    lines->etag_begin = builder_view(text).length;
    builder_append_byte(text, '"');
    /* Of the exact bytes, whatever the form: compressors of two versions may differ. */
    builder_append_hex_bytes(text, result->digest, ETAG_DIGEST_BYTES);
    builder_append(text, suffixes[form]);
    builder_append_byte(text, '"');
    lines->etag_length = builder_view(text).length - lines->etag_begin;
    builder_append(text, VIEW("\r\n"));
    if (is_large) {
        builder_append(text, VIEW("Vary: Accept-Encoding\r\n"));
    }
}

/* NULL without memory. */
static struct hot_lines *make_lines(const struct hot_result *result, enum hot_form form,
                                    uint64_t length, const unsigned char digest[HOT_DIGEST_BYTES])
{
    char storage[LINES_MAXIMUM_BYTES];
    struct hot_lines parts = {0};
    struct hot_lines *lines = NULL;
    struct builder text;

    builder_init(&text, storage, sizeof storage);
    memcpy(parts.digest, digest, HOT_DIGEST_BYTES);
    append_lines(&text, result, form, length, &parts);
    if (!builder_failed(&text)) {
        lines = malloc(sizeof *lines + builder_view(&text).length);
    }
    if (lines) {
        *lines = parts;
        lines->length = builder_view(&text).length;
        memcpy(lines->text, builder_view(&text).data, lines->length);
    }
    builder_clear(&text);
    return lines;
}

static void tell_growth(struct hot_result *result)
{
    hot_result_grown *grown = atomic_load(&result->private->grown);

    if (grown) {
        grown(result);
    }
}

static void publish_lines(struct hot_result *result, enum hot_form form, struct hot_lines *lines)
{
    struct hot_private *private = result->private;
    struct hot_lines *none = NULL;

    if (!atomic_compare_exchange_strong(&private->forms[form].lines, &none, lines)) {
        free(lines);
        return;
    }
    atomic_fetch_add(&private->bytes, sizeof *lines + lines->length);
}

bool hot_result_describe_form(struct hot_result *result, enum hot_form form)
{
    const struct body *body = atomic_load(&result->private->forms[form].body);
    struct view bytes = body_view(body);
    unsigned char digest[HOT_DIGEST_BYTES];
    struct hot_lines *lines;

    if (atomic_load(&result->private->forms[form].lines)) {
        return true;
    }
    if (!body || FAULT_POINT("hot.digest") ||
        EVP_Digest(bytes.data, bytes.length, digest, NULL, EVP_sha256(), NULL) != 1) {
        return false;
    }
    lines = make_lines(result, form, bytes.length, digest);
    if (!lines) {
        return false;
    }
    publish_lines(result, form, lines);
    tell_growth(result);
    return true;
}

bool hot_result_fields(struct hot_result *result, enum hot_form form, struct hot_fields *fields)
{
    const struct hot_lines *lines =
        atomic_load_explicit(&result->private->forms[form].lines, memory_order_acquire);

    if (!lines) {
        return false;
    }
    fields->whole = view_make(lines->text, lines->length);
    fields->partial = view_skip(fields->whole, lines->partial_begin);
    fields->validators = view_skip(fields->whole, lines->validators_begin);
    fields->etag = view_make(lines->text + lines->etag_begin, lines->etag_length);
    return true;
}

bool hot_result_digest(struct hot_result *result, enum hot_form form,
                       unsigned char digest[HOT_DIGEST_BYTES])
{
    const struct hot_lines *lines =
        atomic_load_explicit(&result->private->forms[form].lines, memory_order_acquire);

    if (lines) {
        memcpy(digest, lines->digest, HOT_DIGEST_BYTES);
    }
    return lines != NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Upstream says COMPLETED without `output` when it refused the worker's result. */
static bool lacks_output(const struct store_job *job, struct view bytes)
{
    struct json_member output = {.name = VIEW("output")};

    return job->state == JOB_COMPLETED && job->encoding == STORE_ENCODING_IDENTITY &&
           bytes.length <= RESULT_COMPRESS_ABOVE_BYTES &&
           json_scan(bytes, JSON_SCAN_NON_FINITE, &output, 1, NULL) == JSON_SCAN_OK &&
           output.type == JSON_ABSENT;
}

static struct view take_text(char **room, struct view text)
{
    struct view copy = view_make(*room, text.length);

    if (text.length > 0) {
        memcpy(*room, text.data, text.length);
    }
    *room += text.length;
    return copy;
}

/* "ENDPOINT/JOB" and the team lie behind the two structs. */
static struct hot_result *allocate(const struct store_job *job)
{
    size_t bytes = sizeof(struct hot_result) + sizeof(struct hot_private) + job->endpoint.length +
                   1 + job->id.length + job->team.length;
    struct hot_result *result = FAULT_POINT("hot.create") ? NULL : calloc(1, bytes);
    char *room;

    if (!result) {
        return NULL;
    }
    result->private = (struct hot_private *)(result + 1);
    room = (char *)(result->private + 1);
    result->endpoint = take_text(&room, job->endpoint);
    *room++ = '/';
    result->job = take_text(&room, job->id);
    result->team = take_text(&room, job->team);
    atomic_init(&result->references, 1);
    atomic_init(&result->private->bytes, bytes);
    result->private->segment = HOT_OUTSIDE;
    return result;
}

struct hot_result *hot_result_create(const struct store_job *job, struct body *stored)
{
    enum hot_form form = job->encoding == STORE_ENCODING_ZSTD ? HOT_ZSTD : HOT_IDENTITY;
    struct view bytes = body_view(stored);
    struct hot_result *result = allocate(job);
    struct hot_lines *lines;

    if (!result) {
        return NULL;
    }
    result->generation = job->generation;
    result->state = job->state;
    result->ended_ms = job->ended_ms;
    result->expires_ms = job->expires_ms;
    result->result_bytes = form == HOT_IDENTITY ? bytes.length : job->result_bytes;
    memcpy(result->digest, job->digest, HOT_DIGEST_BYTES);
    result->completed_without_output = lacks_output(job, bytes);
    lines = make_lines(result, HOT_IDENTITY, result->result_bytes, result->digest);
    if (!lines) {
        hot_result_unref(result);
        return NULL;
    }
    publish_lines(result, HOT_IDENTITY, lines);
    atomic_store(&result->private->forms[form].body, body_ref(stored));
    atomic_fetch_add(&result->private->bytes, bytes.length + BODY_OVERHEAD_BYTES);
    if (form != HOT_IDENTITY && bytes.length <= RESULT_INLINE_BYTES) {
        /* Without memory for it now, it is made when it is wanted. */
        (void)!hot_result_describe_form(result, form);
    }
    return result;
}

struct hot_result *hot_result_ref(struct hot_result *result)
{
    atomic_fetch_add_explicit(&result->references, 1, memory_order_relaxed);
    return result;
}

void hot_result_unref(struct hot_result *result)
{
    if (!result || atomic_fetch_sub_explicit(&result->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    for (unsigned form = 0; form < HOT_FORMS; form++) {
        body_unref(atomic_load(&result->private->forms[form].body));
        free(atomic_load(&result->private->forms[form].lines));
    }
    free(result);
}

struct view hot_result_name(const struct hot_result *result)
{
    return view_make(result->endpoint.data, result->endpoint.length + 1 + result->job.length);
}

/* ---- forms ----------------------------------------------------------------------------------- */

struct body *hot_result_form(struct hot_result *result, enum hot_form form)
{
    struct body *body =
        atomic_load_explicit(&result->private->forms[form].body, memory_order_acquire);

    return body ? body_ref(body) : NULL;
}

void hot_result_add_form(struct hot_result *result, enum hot_form form, struct body *body)
{
    struct hot_private *private = result->private;
    struct body *none = NULL;

    if (atomic_compare_exchange_strong(&private->forms[form].body, &none, body)) {
        body_ref(body);
        atomic_fetch_add(&private->bytes, body_view(body).length + BODY_OVERHEAD_BYTES);
    }
    (void)!hot_result_describe_form(result, form);
    tell_growth(result);
}
