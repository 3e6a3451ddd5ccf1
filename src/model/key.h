/* podgate keys: pg_<id>_<secret><checksum>. The id is [a-z0-9-]{1,32}, the secret 43 characters of
 * [0-9A-Za-z] (256 bits), the checksum the CRC-32 of all before it as six base-62 digits
 * (0-9A-Za-z), so that scanners recognise a leaked key and a typo is refused without a look-up.
 * Stored is the SHA-256 of the whole key only.
 */
#ifndef PODGATE_MODEL_KEY_H
#define PODGATE_MODEL_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum {
    KEY_ID_MAXIMUM = 32,
    KEY_SECRET_LENGTH = 43,
    KEY_CHECKSUM_LENGTH = 6,
    KEY_LENGTH_MAXIMUM = 3 + KEY_ID_MAXIMUM + 1 + KEY_SECRET_LENGTH + KEY_CHECKSUM_LENGTH,
    KEY_HASH_LENGTH = 32,
};

/* What an Authorization field's value carries: the credential behind an optional scheme "Bearer" in
 * any case, without white space around it. False when nothing is left, or when a space is left in
 * it (another scheme, or two credentials). The view is into `value`. */
MUST_CHECK bool key_from_authorization(struct view value, struct view *credential);

/* True when the text has the form of a key and its checksum is right; `id` is then the view of its
 * id (may be NULL). Says nothing about whether such a key exists. */
MUST_CHECK bool key_parse(struct view text, struct view *id);

/* True for an id that a key may have. */
MUST_CHECK bool key_id_valid(struct view id);

/* Computes hashes of keys on one thread. */
struct key_hasher;

/* A hasher, or NULL without memory or without SHA-256 in OpenSSL. */
struct key_hasher *key_hasher_create(void);

/* Frees it. NULL is allowed. */
void key_hasher_destroy(struct key_hasher *hasher);

/* SHA-256 of `text` into `hash` (KEY_HASH_LENGTH bytes). False when OpenSSL failed. About 0.3 us.
 * Compare hashes with secret_equal_views(). */
MUST_CHECK bool key_hash(struct key_hasher *hasher, struct view text, uint8_t *hash);

/* Makes a new key with this id: writes it to `text` (room for KEY_LENGTH_MAXIMUM bytes, no NUL; the
 * caller wipes it) and its length to `length`. False when the id isn't valid or there is no
 * randomness. Each character is drawn without bias. */
MUST_CHECK bool key_generate(struct view id, char *text, size_t *length);

/* CRC-32 as in IEEE 802.3 and zlib. */
uint32_t key_crc32(struct view text);

#endif
