/* Authorization values and keys: what is accepted has the documented form and a right checksum by a
 * bitwise CRC, and no other checksum is accepted for the same key. */
#include "build_config.h"

#include "fuzz.h"
#include "model/key.h"

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static void put_checksum(struct view text, char *checksum)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < text.length; i++) {
        crc ^= (unsigned char)text.data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 1) != 0 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
        }
    }
    crc = ~crc;
    FUZZ_CHECK(crc == key_crc32(text));
    for (int i = 5; i >= 0; i--) {
        checksum[i] = digits[crc % 62];
        crc /= 62;
    }
}

static void check_parsed(struct view key, struct view id)
{
    char checksum[6];
    FUZZ_CHECK(key.length >= 54 && key.length <= KEY_LENGTH_MAXIMUM);
    FUZZ_CHECK(id.data == key.data + 3 && id.length == key.length - 53);
    FUZZ_CHECK(key_id_valid(id));
    put_checksum(view_first(key, key.length - 6), checksum);
    FUZZ_CHECK(memcmp(checksum, key.data + key.length - 6, 6) == 0);
}

/* A key made of the input's bytes, and one with one of its characters changed. */
static void check_made(const uint8_t *data, size_t size)
{
    static const char id_digits[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    char text[KEY_LENGTH_MAXIMUM] = "pg_";
    size_t id_length = 1 + data[0] % KEY_ID_MAXIMUM;
    size_t length = 3;
    for (size_t i = 0; i < id_length; i++) {
        text[length++] = id_digits[data[i % size] % 37];
    }
    text[length++] = '_';
    for (size_t i = 0; i < KEY_SECRET_LENGTH; i++) {
        text[length++] = digits[data[(i * 7 + 1) % size] % 62];
    }
    put_checksum(view_make(text, length), text + length);
    length += 6;
    struct view id;
    FUZZ_CHECK(key_parse(view_make(text, length), &id));
    FUZZ_CHECK(id.length == id_length);
    char *wrong = &text[data[size - 1] % length];
    *wrong = (char)(*wrong ^ (1 + data[0] % 255));
    FUZZ_CHECK(!key_parse(view_make(text, length), &id));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view value = view_make((const char *)data, size);
    struct view credential;
    struct view id;
    if (key_from_authorization(value, &credential)) {
        FUZZ_CHECK(credential.length > 0);
        FUZZ_CHECK(credential.data >= value.data &&
                   credential.data + credential.length <= value.data + value.length);
        if (key_parse(credential, &id)) {
            check_parsed(credential, id);
        }
    }
    if (key_parse(value, &id)) {
        check_parsed(value, id);
    }
    if (size > 0) {
        check_made(data, size);
    }
    return 0;
}
