/* A small scanner of the sim's own. Inputs and outputs are bytes: nothing is decoded and encoded
 * again, so integers above 2^53, 1E400 and raw Unicode survive. Python's NaN and Infinity count as
 * values, because real workers emit them. Deliberately shares nothing with the gateway. */
#ifndef SIM_JSON_H
#define SIM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef MUST_CHECK
#define MUST_CHECK __attribute__((warn_unused_result))
#endif

struct evbuffer;

/* Bytes that belong to somebody else; not terminated. */
struct sim_text {
    const char *data;
    size_t length;
};

enum sim_json_type {
    SIM_JSON_NONE,
    SIM_JSON_OBJECT,
    SIM_JSON_ARRAY,
    SIM_JSON_STRING,
    SIM_JSON_NUMBER,
    SIM_JSON_TRUE,
    SIM_JSON_FALSE,
    SIM_JSON_NULL
};

/* The type of the value that `text` begins with, SIM_JSON_NONE for none. */
enum sim_json_type sim_json_type(struct sim_text text);

/* True when `text` is exactly one JSON value (RFC 8259, plus NaN and Infinity), nested at most
 * 1024 deep, with white space around it. */
MUST_CHECK bool sim_json_valid(struct sim_text text);

/* Finds `key` at the top level of the valid object `object`; the last one counts, as in the
 * platform's decoder. `value` is the raw text of its value. False: absent, or not an object. */
MUST_CHECK bool sim_json_get(struct sim_text object, const char *key, struct sim_text *value);

/* Steps through the members of a valid object, or the elements of a valid array (then `key` is
 * left alone and may be NULL). `cursor` starts at 0. `key` is the raw text with its quotes. */
MUST_CHECK bool sim_json_next(struct sim_text container, size_t *cursor, struct sim_text *key,
                              struct sim_text *value);

/* Reads a number as an integer (a fraction is cut off). False: no number or out of range. */
MUST_CHECK bool sim_json_integer(struct sim_text value, int64_t *out);

/* Decodes a JSON string into UTF-8; malloc'd and terminated, the caller frees it. NULL: not a
 * string or out of memory. */
MUST_CHECK char *sim_json_string(struct sim_text value);

/* Appends `bytes` as a JSON string. Bytes that are no UTF-8 become the code point of the same
 * number, so that the result is valid whatever was received. */
void sim_json_quote(struct evbuffer *out, const char *bytes, size_t length);

/* A terminated string as a view. */
struct sim_text sim_text_of(const char *string);

/* The bytes without white space around them. */
struct sim_text sim_text_trim(struct sim_text text);

/* Whether a view holds just `string`. */
bool sim_text_is(struct sim_text text, const char *string);

#endif
