/* How kept inputs (endpoint.keep_input) lie in the store: compressed as results are, and encrypted
 * with AES-256-GCM when store.input_key_file names a key. What is encrypted is bound to its job, so
 * that whoever can write to the store can't give one job another's input.
 *
 *     struct body *kept = input_vault_encode(vault, endpoint, job, body_view(input), budget,
 *                                            &encoding);
 *     ... store_question.input = kept, .input_encoding = encoding ...
 *     input_vault_decode(vault, endpoint, job, body_view(reply->body), reply->input_encoding,
 *                        reply->job.input_bytes, budget, &input)
 *
 * An encrypted input, for which the store's encoding is IDENTITY:
 *
 *     8 bytes    NUL "pgvault"
 *     1          format, 1
 *     1          flags: 1 = what is inside is zstd
 *     4          which key: the first bytes of SHA-256("podgate input key" and the key)
 *     12         nonce, random: one key is good for 2^32 inputs
 *     n          ciphertext
 *     16         tag; the bytes before the ciphertext, endpoint, "/" and job are authenticated too
 */
#ifndef PODGATE_STORE_INPUT_VAULT_H
#define PODGATE_STORE_INPUT_VAULT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/body.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "model/config.h"
#include "store/store.h"

enum { INPUT_VAULT_KEYS = 8, INPUT_VAULT_KEY_BYTES = 32 };

enum input_vault_result {
    INPUT_VAULT_OK = 0,
    INPUT_VAULT_NO_KEY,    /* encrypted with a key that the file doesn't hold */
    INPUT_VAULT_BROKEN,    /* damaged, or another job's */
    INPUT_VAULT_NO_MEMORY, /* or no budget */
};

/* The keys. Never changes, so that any thread may use it. */
struct input_vault;

/* Reads store.input_key_file: 32 raw bytes, or 1 to 8 lines of 64 hexadecimal digits, of which the
 * first one encrypts and all decrypt (so that a key can be replaced while inputs last). No file: a
 * vault that encrypts nothing. NULL: `*problem` says what is wrong, on the heap (NULL without
 * memory). Main thread. */
struct input_vault *input_vault_create(const struct config *config, char **problem);

/* Wipes and frees. NULL is allowed. */
void input_vault_destroy(struct input_vault *vault);

/* True when inputs get encrypted. */
bool input_vault_encrypts(const struct input_vault *vault);

/* An input as it is to be stored, with one reference, and what to say to the store of its encoding.
 * NULL without memory, budget or randomness. Compresses what is large on the calling thread. */
MUST_CHECK struct body *input_vault_encode(const struct input_vault *vault, struct view endpoint,
                                           struct view job, struct view input,
                                           struct body_budget *budget,
                                           enum store_encoding *encoding);

/* The same for bytes that `*encoding` says are compressed already (or shall not be): on the way out
 * `*encoding` is what to say to the store. */
MUST_CHECK struct body *input_vault_seal(const struct input_vault *vault, struct view endpoint,
                                         struct view job, struct view bytes,
                                         struct body_budget *budget, enum store_encoding *encoding);

/* The way back: `*input` gets the exact bytes, with one reference, unless the result says why not.
 * `maximum_bytes` is how many there can be. */
MUST_CHECK enum input_vault_result
input_vault_decode(const struct input_vault *vault, struct view endpoint, struct view job,
                   struct view stored, enum store_encoding encoding, size_t maximum_bytes,
                   struct body_budget *budget, struct body **input);

/* One sentence for logs. */
const char *input_vault_result_text(enum input_vault_result result);

#endif
