/* JSON strings: written, and read back. */
#ifndef PODGATE_FORMAT_JSON_TEXT_H
#define PODGATE_FORMAT_JSON_TEXT_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/compiler.h"

/* Appends `text` as a JSON string with its quotes. Control bytes are escaped; bytes that aren't
 * UTF-8 become U+FFFD, so that the result is always valid JSON (RFC 8259 section 8.1). */
void json_text_append_string(struct builder *builder, struct view text);

/* Appends what a JSON string says: `raw` is the string as json_scan() found it, with its quotes.
 * False when it isn't a well-formed string or names half a surrogate pair; the builder then holds a
 * part. Memory is asked for with builder_failed(). */
MUST_CHECK bool json_text_unescape(struct builder *builder, struct view raw);

/* True when `raw`, a JSON string with its quotes, says exactly `text`. Allocates nothing. */
MUST_CHECK bool json_text_says(struct view raw, struct view text);

/* Length of the UTF-8 sequence at `data`, 1 to 4; 0 when it isn't one (overlong, surrogate, above
 * U+10FFFF, cut off by `length`). `length` is at least 1. */
size_t json_text_utf8_length(const char *data, size_t length);

#endif
