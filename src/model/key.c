#include "build_config.h"

#include "model/key.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>

#include "base/secret.h"

static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* ---- CRC-32 ---------------------------------------------------------------------------------- */

/* The CRC of each byte, alone and with one, two and three zero bytes behind it ("slicing by 4": a
 * byte at a time costs 0.2 us a key). CRCs are linear, so that a table follows from its entries for
 * single bits, and the compiler can write it down; tests/unit/test_key.c computes CRCs bit by bit.
 */
#define BIT(n, bit, value) ((((n) >> (bit)) & 1u) * (value))
#define TABLE_0(n)                                                                                 \
    (BIT(n, 0, 0x77073096u) ^ BIT(n, 1, 0xee0e612cu) ^ BIT(n, 2, 0x076dc419u) ^                    \
     BIT(n, 3, 0x0edb8832u) ^ BIT(n, 4, 0x1db71064u) ^ BIT(n, 5, 0x3b6e20c8u) ^                    \
     BIT(n, 6, 0x76dc4190u) ^ BIT(n, 7, 0xedb88320u))
#define TABLE_1(n)                                                                                 \
    (BIT(n, 0, 0x191b3141u) ^ BIT(n, 1, 0x32366282u) ^ BIT(n, 2, 0x646cc504u) ^                    \
     BIT(n, 3, 0xc8d98a08u) ^ BIT(n, 4, 0x4ac21251u) ^ BIT(n, 5, 0x958424a2u) ^                    \
     BIT(n, 6, 0xf0794f05u) ^ BIT(n, 7, 0x3b83984bu))
#define TABLE_2(n)                                                                                 \
    (BIT(n, 0, 0x01c26a37u) ^ BIT(n, 1, 0x0384d46eu) ^ BIT(n, 2, 0x0709a8dcu) ^                    \
     BIT(n, 3, 0x0e1351b8u) ^ BIT(n, 4, 0x1c26a370u) ^ BIT(n, 5, 0x384d46e0u) ^                    \
     BIT(n, 6, 0x709a8dc0u) ^ BIT(n, 7, 0xe1351b80u))
#define TABLE_3(n)                                                                                 \
    (BIT(n, 0, 0xb8bc6765u) ^ BIT(n, 1, 0xaa09c88bu) ^ BIT(n, 2, 0x8f629757u) ^                    \
     BIT(n, 3, 0xc5b428efu) ^ BIT(n, 4, 0x5019579fu) ^ BIT(n, 5, 0xa032af3eu) ^                    \
     BIT(n, 6, 0x9b14583du) ^ BIT(n, 7, 0xed59b63bu))
#define FOUR(table, n) table(n), table((n) + 1u), table((n) + 2u), table((n) + 3u)
#define SIXTEEN(table, n)                                                                          \
    FOUR(table, n), FOUR(table, (n) + 4u), FOUR(table, (n) + 8u), FOUR(table, (n) + 12u)
#define SIXTY_FOUR(table, n)                                                                       \
    SIXTEEN(table, n), SIXTEEN(table, (n) + 16u), SIXTEEN(table, (n) + 32u),                       \
        SIXTEEN(table, (n) + 48u)
#define WHOLE(table)                                                                               \
    {                                                                                              \
        SIXTY_FOUR(table, 0u), SIXTY_FOUR(table, 64u), SIXTY_FOUR(table, 128u),                    \
            SIXTY_FOUR(table, 192u)                                                                \
    }

static const uint32_t crc_tables[4][256] = {WHOLE(TABLE_0), WHOLE(TABLE_1), WHOLE(TABLE_2),
                                            WHOLE(TABLE_3)};

uint32_t key_crc32(struct view text)
{
    const unsigned char *at = (const unsigned char *)text.data;
    size_t left = text.length;
    uint32_t crc = UINT32_MAX;
    for (; left >= 4; left -= 4, at += 4) {
        crc ^=
            (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        crc = crc_tables[3][crc & 255] ^ crc_tables[2][crc >> 8 & 255] ^
              crc_tables[1][crc >> 16 & 255] ^ crc_tables[0][crc >> 24];
    }
    for (; left > 0; left--, at++) {
        crc = crc >> 8 ^ crc_tables[0][(crc ^ *at) & 255];
    }
    return ~crc;
}

/* ---- form ------------------------------------------------------------------------------------ */

static void put_checksum(struct view text, char *checksum)
{
    uint32_t crc = key_crc32(text);
    for (size_t i = KEY_CHECKSUM_LENGTH; i > 0; i--) {
        checksum[i - 1] = base62[crc % 62];
        crc /= 62;
    }
}

static bool is_white(char byte)
{
    return byte == ' ' || byte == '\t';
}

bool key_from_authorization(struct view value, struct view *credential)
{
    struct view scheme = VIEW("Bearer");
    value = view_trim(value);
    if (view_starts_with_ignore_case(value, scheme) && value.length > scheme.length &&
        is_white(value.data[scheme.length])) {
        value = view_trim(view_skip(value, scheme.length));
    }
    *credential = value;
    return value.length > 0 && view_find_byte(value, ' ') == value.length &&
           view_find_byte(value, '\t') == value.length;
}

bool key_id_valid(struct view id)
{
    if (id.length < 1 || id.length > KEY_ID_MAXIMUM) {
        return false;
    }
    for (size_t i = 0; i < id.length; i++) {
        char byte = id.data[i];
        if ((byte < 'a' || byte > 'z') && (byte < '0' || byte > '9') && byte != '-') {
            return false;
        }
    }
    return true;
}

static bool is_alphanumeric(char byte)
{
    char letter = (char)(byte | 0x20);
    return (byte >= '0' && byte <= '9') || (letter >= 'a' && letter <= 'z');
}

bool key_parse(struct view text, struct view *id)
{
    const size_t fixed = 3 + 1 + KEY_SECRET_LENGTH + KEY_CHECKSUM_LENGTH;
    if (text.length <= fixed || text.length > KEY_LENGTH_MAXIMUM ||
        !view_starts_with(text, VIEW("pg_"))) {
        return false;
    }
    struct view name = view_make(text.data + 3, text.length - fixed);
    struct view rest = view_skip(text, 3 + name.length);
    if (!key_id_valid(name) || rest.data[0] != '_') {
        return false;
    }
    for (size_t i = 1; i < rest.length; i++) {
        if (!is_alphanumeric(rest.data[i])) {
            return false;
        }
    }
    char checksum[KEY_CHECKSUM_LENGTH];
    struct view covered = view_first(text, text.length - KEY_CHECKSUM_LENGTH);
    put_checksum(covered, checksum);
    if (!secret_equal_views(view_make(checksum, sizeof checksum),
                            view_skip(text, covered.length))) {
        return false;
    }
    if (id != NULL) {
        *id = name;
    }
    return true;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

/* The algorithm is fetched once: to look it up by name at each hash costs more than the hash. */
struct key_hasher {
    EVP_MD *algorithm;
    EVP_MD_CTX *context;
};

struct key_hasher *key_hasher_create(void)
{
    struct key_hasher *hasher = calloc(1, sizeof *hasher);
    if (hasher == NULL) {
        return NULL;
    }
    hasher->algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
    hasher->context = EVP_MD_CTX_new();
    if (hasher->algorithm == NULL || hasher->context == NULL ||
        EVP_MD_get_size(hasher->algorithm) != KEY_HASH_LENGTH) {
        key_hasher_destroy(hasher);
        return NULL;
    }
    return hasher;
}

void key_hasher_destroy(struct key_hasher *hasher)
{
    if (hasher == NULL) {
        return;
    }
    EVP_MD_CTX_free(hasher->context);
    EVP_MD_free(hasher->algorithm);
    free(hasher);
}

bool key_hash(struct key_hasher *hasher, struct view text, uint8_t *hash)
{
    return EVP_DigestInit_ex2(hasher->context, hasher->algorithm, NULL) == 1 &&
           EVP_DigestUpdate(hasher->context, text.data, text.length) == 1 &&
           EVP_DigestFinal_ex(hasher->context, hash, NULL) == 1;
}

/* ---- new keys -------------------------------------------------------------------------------- */

/* Draws `count` characters. Bytes from 248 on are drawn again: 256 is no multiple of 62. */
static bool draw(char *text, size_t count)
{
    unsigned char bytes[64];
    size_t used = sizeof bytes;
    bool drawn = true;
    for (size_t i = 0; i < count;) {
        if (used == sizeof bytes) {
            if (RAND_priv_bytes(bytes, sizeof bytes) != 1) {
                drawn = false;
                break;
            }
            used = 0;
        }
        unsigned char byte = bytes[used++];
        if (byte < 4 * 62) {
            text[i++] = base62[byte % 62];
        }
    }
    secret_wipe(bytes, sizeof bytes);
    return drawn;
}

bool key_generate(struct view id, char *text, size_t *length)
{
    if (!key_id_valid(id)) {
        return false;
    }
    char *end = text;
    memcpy(end, "pg_", 3);
    end += 3;
    memcpy(end, id.data, id.length);
    end += id.length;
    *end++ = '_';
    if (!draw(end, KEY_SECRET_LENGTH)) {
        return false;
    }
    end += KEY_SECRET_LENGTH;
    put_checksum(view_make(text, (size_t)(end - text)), end);
    *length = (size_t)(end - text) + KEY_CHECKSUM_LENGTH;
    return true;
}
