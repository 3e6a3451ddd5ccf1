#include "build_config.h"

#include "store/input_vault.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/secret.h"
#include "store/result_codec.h"

enum {
    MAGIC_BYTES = 8,
    FORMAT_AT = MAGIC_BYTES,
    FLAGS_AT = FORMAT_AT + 1,
    KEY_ID_AT = FLAGS_AT + 1,
    KEY_ID_BYTES = 4,
    NONCE_AT = KEY_ID_AT + KEY_ID_BYTES,
    NONCE_BYTES = 12,
    HEAD_BYTES = NONCE_AT + NONCE_BYTES,
    TAG_BYTES = 16,
    FORMAT = 1,
    FLAG_ZSTD = 1,
    HEX_LINE_BYTES = 2 * INPUT_VAULT_KEY_BYTES,
    FILE_BYTES = INPUT_VAULT_KEYS * (HEX_LINE_BYTES + 2),
    BLOCK_BYTES = 1 << 30, /* EVP's lengths are int */
};

/* No JSON text and no zstd frame begins with a NUL. */
static const char magic[MAGIC_BYTES] = {'\0', 'p', 'g', 'v', 'a', 'u', 'l', 't'};

struct vault_key {
    struct secret *secret;
    unsigned char id[KEY_ID_BYTES];
};

struct input_vault {
    struct vault_key keys[INPUT_VAULT_KEYS];
    size_t count;
};

const char *input_vault_result_text(enum input_vault_result result)
{
    switch (result) {
    case INPUT_VAULT_OK: return "ok";
    case INPUT_VAULT_NO_KEY: return "encrypted with a key that store.input_key_file doesn't hold";
    case INPUT_VAULT_BROKEN: return "damaged, or another job's";
    case INPUT_VAULT_NO_MEMORY: return "out of memory";
    }
    return "";
}

/* ---- keys ------------------------------------------------------------------------------------ */

static bool name_key(struct vault_key *key)
{
    static const char label[] = "podgate input key";
    unsigned char text[sizeof label - 1 + INPUT_VAULT_KEY_BYTES];
    unsigned char hash[SHA256_DIGEST_LENGTH];
    unsigned length = 0;
    bool good;

    memcpy(text, label, sizeof label - 1);
    memcpy(text + sizeof label - 1, secret_view(key->secret).data, INPUT_VAULT_KEY_BYTES);
    good = EVP_Digest(text, sizeof text, hash, &length, EVP_sha256(), NULL) == 1;
    memcpy(key->id, hash, KEY_ID_BYTES);
    secret_wipe(text, sizeof text);
    return good;
}

static bool add_key(struct input_vault *vault, const uint8_t *bytes)
{
    struct vault_key *key = &vault->keys[vault->count];

    key->secret = secret_create(view_make((const char *)bytes, INPUT_VAULT_KEY_BYTES));
    if (!key->secret) {
        return false;
    }
    vault->count++;
    return name_key(key);
}

/* NULL: all keys were taken up; else what is wrong. */
static const char *take_lines(struct input_vault *vault, struct view text)
{
    uint8_t bytes[INPUT_VAULT_KEY_BYTES];
    const char *wrong = NULL;

    while (text.length > 0 && !wrong) {
        size_t length = view_find_byte(text, '\n');
        struct view line = view_trim(view_first(text, length));

        text = view_skip(text, length + 1);
        if (line.length > 0 && line.data[line.length - 1] == '\r') {
            line.length--;
        }
        if (line.length == 0) {
            continue;
        }
        if (vault->count == INPUT_VAULT_KEYS) {
            wrong = "holds more than 8 keys";
        } else if (!view_parse_hex(line, bytes, sizeof bytes)) {
            wrong = "expected 32 bytes, or lines of 64 hexadecimal digits";
        } else if (!add_key(vault, bytes)) {
            wrong = "out of memory";
        }
    }
    secret_wipe(bytes, sizeof bytes);
    return !wrong && vault->count == 0 ? "is empty, expected 32 bytes or 64 hexadecimal digits"
                                       : wrong;
}

static const char *take_file(struct input_vault *vault, struct view text)
{
    if (text.length == INPUT_VAULT_KEY_BYTES) {
        return add_key(vault, (const uint8_t *)text.data) ? NULL : "out of memory";
    }
    if (text.length > FILE_BYTES) {
        return "is too long, expected 32 bytes or 1 to 8 lines of 64 hexadecimal digits";
    }
    return take_lines(vault, text);
}

/* Up to `size` bytes of the file; -1 with errno when it can't be read. */
static ssize_t read_file(const char *path, char *room, size_t size)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    size_t length = 0;
    ssize_t count = -1;

    if (descriptor < 0) {
        return -1;
    }
    while (length < size) {
        count = read(descriptor, room + length, size - length);
        if (count <= 0 && !(count < 0 && errno == EINTR)) {
            break;
        }
        length += count > 0 ? (size_t)count : 0;
    }
    close(descriptor);
    return count < 0 ? -1 : (ssize_t)length;
}

struct input_vault *input_vault_create(const struct config *config, char **problem)
{
    struct input_vault *vault = calloc(1, sizeof *vault);
    char room[FILE_BYTES + 1];
    const char *wrong = NULL;
    ssize_t length;

    *problem = NULL;
    if (!vault || config->store.input_key_file.length == 0) {
        return vault;
    }
    length = read_file(config->store.input_key_file.data, room, sizeof room);
    wrong = length < 0 ? strerror(errno) : take_file(vault, view_make(room, (size_t)length));
    secret_wipe(room, sizeof room);
    if (wrong) {
        if (asprintf(problem, "store.input_key_file \"%s\": %s", config->store.input_key_file.data,
                     wrong) < 0) {
            *problem = NULL;
        }
        input_vault_destroy(vault);
        return NULL;
    }
    return vault;
}

void input_vault_destroy(struct input_vault *vault)
{
    if (vault) {
        for (size_t i = 0; i < vault->count; i++) {
            secret_destroy(vault->keys[i].secret);
        }
        free(vault);
    }
}

bool input_vault_encrypts(const struct input_vault *vault)
{
    return vault->count > 0;
}

/* ---- AES-256-GCM ----------------------------------------------------------------------------- */

/* Begins to encrypt (or to decrypt) and authenticates what isn't secret: head, endpoint and job. */
static bool begin(EVP_CIPHER_CTX *cipher, const struct vault_key *key, const unsigned char *head,
                  struct view endpoint, struct view job, int encrypt)
{
    const struct view parts[] = {view_make((const char *)head, HEAD_BYTES), endpoint, VIEW("/"),
                                 job};
    bool good = EVP_CipherInit_ex(cipher, EVP_aes_256_gcm(), NULL,
                                  (const unsigned char *)secret_view(key->secret).data,
                                  head + NONCE_AT, encrypt) == 1;
    int length;

    for (size_t i = 0; good && i < ARRAY_LENGTH(parts); i++) {
        good = parts[i].length <= BLOCK_BYTES &&
               EVP_CipherUpdate(cipher, NULL, &length, (const unsigned char *)parts[i].data,
                                (int)parts[i].length) == 1;
    }
    return good;
}

static bool run(EVP_CIPHER_CTX *cipher, struct view from, unsigned char *to)
{
    while (from.length > 0) {
        size_t count = from.length < BLOCK_BYTES ? from.length : BLOCK_BYTES;
        int length;

        if (EVP_CipherUpdate(cipher, to, &length, (const unsigned char *)from.data, (int)count) !=
            1) {
            return false;
        }
        to += count;
        from = view_skip(from, count);
    }
    return true;
}

static bool seal_into(const struct vault_key *key, struct view endpoint, struct view job,
                      struct view bytes, bool is_zstd, unsigned char *out)
{
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    unsigned char *tag = out + HEAD_BYTES + bytes.length;
    int length;
    bool good;

    memcpy(out, magic, MAGIC_BYTES);
    out[FORMAT_AT] = FORMAT;
    out[FLAGS_AT] = is_zstd ? FLAG_ZSTD : 0;
    memcpy(out + KEY_ID_AT, key->id, KEY_ID_BYTES);
    good = cipher && getrandom(out + NONCE_AT, NONCE_BYTES, 0) == NONCE_BYTES &&
           begin(cipher, key, out, endpoint, job, 1) && run(cipher, bytes, out + HEAD_BYTES) &&
           EVP_CipherFinal_ex(cipher, tag, &length) == 1 &&
           EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, tag) == 1;
    EVP_CIPHER_CTX_free(cipher);
    return good;
}

/* `out` has room for all between head and tag. False: the tag doesn't fit, and `out` is nothing. */
static bool open_into(const struct vault_key *key, struct view endpoint, struct view job,
                      struct view sealed, unsigned char *out)
{
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    struct view secret =
        view_first(view_skip(sealed, HEAD_BYTES), sealed.length - HEAD_BYTES - TAG_BYTES);
    unsigned char tag[TAG_BYTES];
    unsigned char nothing[EVP_MAX_BLOCK_LENGTH];
    int length;
    bool good;

    memcpy(tag, sealed.data + sealed.length - TAG_BYTES, TAG_BYTES);
    good = cipher && begin(cipher, key, (const unsigned char *)sealed.data, endpoint, job, 0) &&
           run(cipher, secret, out) &&
           EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) == 1 &&
           EVP_CipherFinal_ex(cipher, nothing, &length) == 1;
    EVP_CIPHER_CTX_free(cipher);
    return good;
}

/* ---- there and back -------------------------------------------------------------------------- */

static struct body *body_of(struct view bytes, struct body_budget *budget)
{
    struct body *body = body_create(budget, bytes.length);

    if (body && !body_append(body, bytes)) {
        body_unref(body);
        return NULL;
    }
    return body;
}

/* Room for exactly so many bytes. */
static char *room_for(struct body *body, size_t wanted)
{
    size_t room;

    return wanted > 0 ? body_room(body, wanted, &room) : NULL;
}

struct body *input_vault_seal(const struct input_vault *vault, struct view endpoint,
                              struct view job, struct view bytes, struct body_budget *budget,
                              enum store_encoding *encoding)
{
    size_t length = HEAD_BYTES + bytes.length + TAG_BYTES;
    struct body *body;
    char *room;

    if (vault->count == 0) {
        return body_of(bytes, budget);
    }
    body = body_create(budget, length);
    room = body ? room_for(body, length) : NULL;
    if (!room || FAULT_POINT("vault.seal") ||
        !seal_into(&vault->keys[0], endpoint, job, bytes, *encoding == STORE_ENCODING_ZSTD,
                   (unsigned char *)room)) {
        body_unref(body);
        return NULL;
    }
    body_added(body, length);
    *encoding = STORE_ENCODING_IDENTITY;
    return body;
}

struct body *input_vault_encode(const struct input_vault *vault, struct view endpoint,
                                struct view job, struct view input, struct body_budget *budget,
                                enum store_encoding *encoding)
{
    /* What looks as if it were encrypted is compressed, and then doesn't any more. */
    bool odd = vault->count == 0 && input.length > 0 && input.data[0] == magic[0];
    struct body *packed = NULL;
    struct body *sealed;

    *encoding = STORE_ENCODING_IDENTITY;
    if (input.length > RESULT_COMPRESS_ABOVE_BYTES || odd) {
        packed = result_codec_now(RESULT_IDENTITY_TO_ZSTD, input, 0, budget);
        if (!packed) {
            return NULL;
        }
        if (odd || body_view(packed).length < input.length) {
            input = body_view(packed);
            *encoding = STORE_ENCODING_ZSTD;
        }
    }
    if (packed && vault->count == 0 && *encoding == STORE_ENCODING_ZSTD) {
        return packed;
    }
    sealed = input_vault_seal(vault, endpoint, job, input, budget, encoding);
    body_unref(packed);
    return sealed;
}

static const struct vault_key *find_key(const struct input_vault *vault, const char *id)
{
    for (size_t i = 0; i < vault->count; i++) {
        if (memcmp(vault->keys[i].id, id, KEY_ID_BYTES) == 0) {
            return &vault->keys[i];
        }
    }
    return NULL;
}

static enum input_vault_result unseal(const struct input_vault *vault, struct view endpoint,
                                      struct view job, struct view sealed,
                                      struct body_budget *budget, struct body **opened)
{
    const struct vault_key *key;
    size_t length;
    char *room;

    if (sealed.length < HEAD_BYTES + TAG_BYTES || sealed.data[FORMAT_AT] != FORMAT) {
        return INPUT_VAULT_BROKEN;
    }
    key = find_key(vault, sealed.data + KEY_ID_AT);
    if (!key) {
        return INPUT_VAULT_NO_KEY;
    }
    length = sealed.length - HEAD_BYTES - TAG_BYTES;
    *opened = body_create(budget, length + 1);
    room = *opened ? room_for(*opened, length + 1) : NULL;
    if (!room) {
        body_unref(*opened);
        *opened = NULL;
        return INPUT_VAULT_NO_MEMORY;
    }
    if (!open_into(key, endpoint, job, sealed, (unsigned char *)room)) {
        body_unref(*opened);
        *opened = NULL;
        return INPUT_VAULT_BROKEN;
    }
    body_added(*opened, length);
    return INPUT_VAULT_OK;
}

static enum input_vault_result expand(struct view packed, size_t maximum_bytes,
                                      struct body_budget *budget, struct body **input)
{
    *input = result_codec_now(RESULT_ZSTD_TO_IDENTITY, packed, maximum_bytes, budget);
    if (*input) {
        return INPUT_VAULT_OK;
    }
    return body_budget_percent(budget) >= 95 ? INPUT_VAULT_NO_MEMORY : INPUT_VAULT_BROKEN;
}

enum input_vault_result input_vault_decode(const struct input_vault *vault, struct view endpoint,
                                           struct view job, struct view stored,
                                           enum store_encoding encoding, size_t maximum_bytes,
                                           struct body_budget *budget, struct body **input)
{
    struct body *opened = NULL;
    enum input_vault_result result;

    *input = NULL;
    if (encoding == STORE_ENCODING_ZSTD) {
        return expand(stored, maximum_bytes, budget, input);
    }
    if (!view_starts_with(stored, view_make(magic, MAGIC_BYTES))) {
        *input = body_of(stored, budget);
        return *input ? INPUT_VAULT_OK : INPUT_VAULT_NO_MEMORY;
    }
    result = unseal(vault, endpoint, job, stored, budget, &opened);
    if (result == INPUT_VAULT_OK && (stored.data[FLAGS_AT] & FLAG_ZSTD) != 0) {
        result = expand(body_view(opened), maximum_bytes, budget, input);
        body_unref(opened);
    } else if (result == INPUT_VAULT_OK) {
        *input = opened;
    }
    return result;
}
