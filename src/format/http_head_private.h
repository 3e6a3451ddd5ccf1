/* What the parsers of request heads (http_head_request.c) and response heads (http_head_response.c)
 * share; http_head.c has the functions.
 *
 * Every phase starts again from `head->position`, and stops at the first byte that decides. No
 * phase looks behind that byte except for the LF after a CR, so that the verdict doesn't depend on
 * how the bytes arrived: that is why a fault of a line is reported at its byte and not at the
 * line's end. */
#ifndef PODGATE_FORMAT_HTTP_HEAD_PRIVATE_H
#define PODGATE_FORMAT_HTTP_HEAD_PRIVATE_H

#include "format/http_head.h"

enum http_head_phase {
    PHASE_START,
    PHASE_METHOD,
    PHASE_TARGET,
    PHASE_VERSION,
    PHASE_STATUS_LINE,
    PHASE_REASON,
    PHASE_FIELD_START,
    PHASE_FIELD_NAME,
    PHASE_FIELD_VALUE,
};

/* The input of one call: nothing behind `end` is looked at, which is the head's maximum at most. */
struct http_head_input {
    const char *data;
    size_t end;
    bool at_maximum;
};

/* The input of `length` bytes at `data` for a head of at most `maximum` bytes. */
struct http_head_input http_head_clamp(const char *data, size_t length, size_t maximum);

/* Sets all of a head but its field slots to zero, and its phase. */
void http_head_start(struct http_head *head, enum http_head_phase phase);

/* More bytes are needed, from `position` on: unless the head may not have more. */
MUST_CHECK enum http_head_result http_head_starve(struct http_head *head,
                                                  const struct http_head_input *input,
                                                  size_t position);

/* The byte at `position` can't stand there. Says whether that is because the line ended in a wrong
 * way (or the byte behind a CR is missing yet), or gives `otherwise`. */
MUST_CHECK enum http_head_result http_head_refuse(struct http_head *head,
                                                  const struct http_head_input *input,
                                                  size_t position,
                                                  enum http_head_result otherwise);

/* Compares the bytes from `head->mark` on with `pattern`, where '0' stands for any digit.
 * Everything before the first byte that doesn't fit was right; with HTTP_HEAD_OK all of it was. */
MUST_CHECK enum http_head_result http_head_match(struct http_head *head,
                                                 const struct http_head_input *input,
                                                 struct view pattern,
                                                 enum http_head_result otherwise);

/* Takes up the version at `head->mark`, which has the right form. False when its major number isn't
 * 1. */
MUST_CHECK bool http_head_settle_version(struct http_head *head, const char *data);

/* Index of the first byte from `position` on that isn't of the class, `stop` at most. */
static inline size_t http_head_skip_class(const char *data, size_t position, size_t stop,
                                          unsigned class)
{
    while (position < stop && http_byte_is(data[position], class)) {
        position++;
    }
    return position;
}

/* The same for HTTP_BYTE_VALUE, eight bytes at a time: values are most of a head. */
size_t http_head_skip_value(const char *data, size_t position, size_t stop);

/* Goes on within the field section. HTTP_HEAD_OK: `*added` is a field to be judged and kept, or
 * NULL when the section is over and `head->length` is set. */
MUST_CHECK enum http_head_result http_head_next_field(struct http_head *head,
                                                      const struct http_head_input *input,
                                                      struct http_field **added);

/* Judges a field that frames the message: Content-Length, Transfer-Encoding, Connection. */
MUST_CHECK enum http_head_result http_head_take_field(struct http_head *head,
                                                      const struct http_field *field,
                                                      struct view value);

/* Makes a judged field part of the head. */
void http_head_keep_field(struct http_head *head, const struct http_field *field);

/* True for a Content-Encoding that isn't identity. */
bool http_head_is_coded(struct view value);

/* Decides at the head's end what Content-Length, Transfer-Encoding and Connection say together (RFC
 * 9112 section 6.3). */
MUST_CHECK enum http_head_result http_head_settle_framing(struct http_head *head);

#endif
