/* Bytes: views of memory that somebody else owns, and builders that grow.
 *
 *     char storage[512];
 *     struct builder text;
 *     builder_init(&text, storage, sizeof storage);
 *     builder_append(&text, VIEW("Content-Length: "));
 *     builder_append_u64(&text, length);
 *     if (builder_failed(&text)) { ... out of memory: what was appended is not whole ... }
 *     send(builder_view(&text));
 *     builder_clear(&text);
 *
 * A builder begins in storage of its caller's, so that the common case allocates nothing. A failed
 * append is remembered, and asked for once at the end. Nothing here uses locale or printf.
 */
#ifndef PODGATE_BASE_BYTES_H
#define PODGATE_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"

/* Bytes owned by somebody else. `data` may be NULL only when `length` is 0; not NUL-terminated. */
struct view {
    const char *data;
    size_t length;
};

/* The view of a string literal. VIEW_INIT is its form for the initializers of static tables. */
#define VIEW(literal) ((struct view){"" literal, sizeof(literal) - 1})
#define VIEW_INIT(literal)                                                                         \
    {                                                                                              \
        "" literal, sizeof(literal) - 1                                                            \
    }

/* The view of `length` bytes at `data`. */
static inline struct view view_make(const char *data, size_t length)
{
    return (struct view){data, length};
}

/* The view of a NUL-terminated string, without its NUL; NULL gives an empty view. */
static inline struct view view_of_string(const char *string)
{
    return (struct view){string, string != NULL ? strlen(string) : 0};
}

/* True when both have the same bytes. Not constant-time: secrets are compared by secret_equal(). */
static inline bool view_equal(struct view left, struct view right)
{
    return left.length == right.length &&
           (left.length == 0 || memcmp(left.data, right.data, left.length) == 0);
}

/* The view without its first `count` bytes (all of them when it is shorter). */
static inline struct view view_skip(struct view view, size_t count)
{
    if (count >= view.length) {
        return (struct view){view.data, 0};
    }
    return (struct view){view.data + count, view.length - count};
}

/* The first `count` bytes of the view (all of them when it is shorter). */
static inline struct view view_first(struct view view, size_t count)
{
    return (struct view){view.data, count < view.length ? count : view.length};
}

/* True when `view` begins with `prefix`. */
static inline bool view_starts_with(struct view view, struct view prefix)
{
    return view.length >= prefix.length && view_equal(view_first(view, prefix.length), prefix);
}

/* True when both have the same bytes but for the case of the letters A to Z. */
bool view_equal_ignore_case(struct view left, struct view right);

/* True when `view` begins with `prefix`, but for the case of the letters A to Z. */
bool view_starts_with_ignore_case(struct view view, struct view prefix);

/* The view without spaces and tabs at both ends (OWS of RFC 9110 section 5.6.3). */
struct view view_trim(struct view view);

/* Index of the first `byte`, or `view.length` when there is none. */
size_t view_find_byte(struct view view, char byte);

/* Reads a number of 1 or more decimal digits and nothing else. False, with `out` untouched, for
 * anything else or for a number above `maximum`. Leading zeros are allowed. */
MUST_CHECK bool view_parse_u64(struct view view, uint64_t maximum, uint64_t *out);

/* Reads `2 * count` hexadecimal digits, of any case, into `count` bytes. False, with undefined
 * bytes in `out`, when the view has another length or another character. */
MUST_CHECK bool view_parse_hex(struct view view, uint8_t *out, size_t count);

/* A growing run of bytes. Owned by one thread; the members are for this header's functions. */
struct builder {
    char *data;
    size_t length;
    size_t capacity;
    char *storage; /* the caller's; `data` differs from it once the heap is used */
    size_t storage_capacity;
    bool failed;
};

/* An empty builder that begins in `storage`, which must outlive it (NULL with 0: heap at once). */
void builder_init(struct builder *builder, char *storage, size_t capacity);

/* Frees what the builder took from the heap and makes it an empty one on its storage. */
void builder_clear(struct builder *builder);

/* Makes the builder empty and forgets a failure, and keeps its memory for the next text. */
static inline void builder_reset(struct builder *builder)
{
    builder->length = 0;
    builder->failed = false;
}

/* Makes room for `count` more bytes and returns where they go, for a writer that knows its maximum;
 * builder_commit() then takes up what was written. NULL without memory (remembered). */
char *builder_reserve(struct builder *builder, size_t count);

/* Takes up `count` bytes written where builder_reserve() said; at most what was reserved. */
static inline void builder_commit(struct builder *builder, size_t count)
{
    builder->length += count;
}

/* Appends bytes, which may not lie in the builder itself. */
static inline void builder_append(struct builder *builder, struct view bytes)
{
    char *end = builder->capacity - builder->length >= bytes.length && builder->data != NULL
                    ? builder->data + builder->length
                    : builder_reserve(builder, bytes.length);
    if (end != NULL && bytes.length > 0) {
        memcpy(end, bytes.data, bytes.length);
        builder->length += bytes.length;
    }
}

/* Appends one byte. */
static inline void builder_append_byte(struct builder *builder, char byte)
{
    builder_append(builder, (struct view){&byte, 1});
}

/* Appends a number in decimal. */
void builder_append_u64(struct builder *builder, uint64_t number);

/* Appends a number in lower-case hexadecimal, without leading zeros. */
void builder_append_hex(struct builder *builder, uint64_t number);

/* Appends each byte as two lower-case hexadecimal digits. */
void builder_append_hex_bytes(struct builder *builder, const uint8_t *bytes, size_t count);

/* True when some append since the last init, reset or clear found no memory. */
static inline bool builder_failed(const struct builder *builder)
{
    return builder->failed;
}

/* What was appended so far. Valid until the next append, reset or clear. */
static inline struct view builder_view(const struct builder *builder)
{
    return (struct view){builder->data, builder->length};
}

/* Hands the text over as heap memory that the caller frees with free(), its length in `length`, and
 * leaves the builder empty. NULL when it had failed or there is no memory; never NULL for an empty
 * text. */
MUST_CHECK char *builder_detach(struct builder *builder, size_t *length);

#endif
