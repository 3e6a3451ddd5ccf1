#include "build_config.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "model/key.h"

/* Bit by bit, as the standard defines it. */
static uint32_t slow_crc32(struct view text)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < text.length; i++) {
        crc ^= (unsigned char)text.data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
        }
    }
    return ~crc;
}

Test(key, crc32_is_the_one_of_the_standard)
{
    char text[300];
    uint32_t seed = 1;
    cr_assert_eq(key_crc32(VIEW("123456789")), 0xcbf43926u);
    for (size_t i = 0; i < sizeof text; i++) {
        seed = seed * 1664525 + 1013904223;
        text[i] = (char)(seed >> 24);
    }
    for (size_t length = 0; length <= sizeof text; length++) {
        cr_assert_eq(key_crc32(view_make(text, length)), slow_crc32(view_make(text, length)));
    }
}

Test(key, generated_keys_have_the_form_and_their_id)
{
    const struct view ids[] = {VIEW("a"), VIEW("ci-2"), VIEW("0123456789abcdefghijklmnopqrstu-")};
    for (size_t i = 0; i < ARRAY_LENGTH(ids); i++) {
        char text[KEY_LENGTH_MAXIMUM];
        size_t length;
        struct view id;
        cr_assert(key_generate(ids[i], text, &length));
        cr_assert_eq(length, 3 + ids[i].length + 1 + 43 + 6);
        cr_assert(key_parse(view_make(text, length), &id));
        cr_assert(view_equal(id, ids[i]));
        cr_assert(key_parse(view_make(text, length), NULL));
    }
    char text[KEY_LENGTH_MAXIMUM];
    size_t length;
    cr_assert_not(key_generate(VIEW(""), text, &length));
    cr_assert_not(key_generate(VIEW("A"), text, &length));
    cr_assert_not(key_generate(VIEW("a_b"), text, &length));
    cr_assert_not(key_generate(VIEW("0123456789abcdefghijklmnopqrstuvw"), text, &length));
}

Test(key, generated_keys_differ_and_use_the_whole_alphabet)
{
    char before[KEY_LENGTH_MAXIMUM] = "";
    size_t seen[128] = {0};
    for (int i = 0; i < 400; i++) {
        char text[KEY_LENGTH_MAXIMUM];
        size_t length;
        cr_assert(key_generate(VIEW("k"), text, &length));
        cr_assert_neq(memcmp(text, before, length), 0);
        memcpy(before, text, length);
        for (size_t j = 5; j < 5 + KEY_SECRET_LENGTH; j++) {
            seen[(unsigned char)text[j]]++;
        }
    }
    /* 17,200 draws, 277 expected of each; that one falls below 150 is a matter of 10^-16. */
    for (const char *letter = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
         *letter != '\0'; letter++) {
        cr_assert_gt(seen[(unsigned char)*letter], 150, "%c", *letter);
        cr_assert_lt(seen[(unsigned char)*letter], 450, "%c", *letter);
    }
}

/* A known key: "pg_ci_" and 43 times "0". */
Test(key, checksum_is_six_base_62_digits_of_the_crc)
{
    char text[] = "pg_ci_0000000000000000000000000000000000000000000------";
    size_t covered = 6 + 43;
    uint32_t crc = slow_crc32(view_make(text, covered));
    for (size_t i = 0; i < 6; i++) {
        text[covered + 5 - i] =
            "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[crc % 62];
        crc /= 62;
    }
    cr_assert(key_parse(view_make(text, covered + 6), NULL), "%s", text);
}

Test(key, one_wrong_character_anywhere_is_refused)
{
    char text[KEY_LENGTH_MAXIMUM];
    size_t length;
    cr_assert(key_generate(VIEW("ci"), text, &length));
    for (size_t i = 0; i < length; i++) {
        char right = text[i];
        for (int byte = 0; byte < 256; byte++) {
            text[i] = (char)byte;
            if (text[i] != right) {
                cr_assert_not(key_parse(view_make(text, length), NULL), "byte %d at %zu", byte, i);
            }
        }
        text[i] = right;
    }
    for (size_t cut = 0; cut < length; cut++) {
        cr_assert_not(key_parse(view_make(text, cut), NULL));
        cr_assert_not(key_parse(view_make(text + length - cut, cut), NULL));
    }
    cr_assert(key_parse(view_make(text, length), NULL));
}

Test(key, takes_the_credential_out_of_authorization)
{
    const struct {
        struct view value;
        struct view credential;
    } right[] = {
        {VIEW("Bearer pg_x"), VIEW("pg_x")},   {VIEW("bearer pg_x"), VIEW("pg_x")},
        {VIEW("BEARER \t pg_x "), VIEW("pg_x")}, {VIEW("pg_x"), VIEW("pg_x")},
        {VIEW(" pg_x\t"), VIEW("pg_x")},       {VIEW("bearerpg_x"), VIEW("bearerpg_x")},
        {VIEW("Bearer"), VIEW("Bearer")},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(right); i++) {
        struct view credential;
        cr_assert(key_from_authorization(right[i].value, &credential), "case %zu", i);
        cr_assert(view_equal(credential, right[i].credential), "case %zu", i);
    }
    const struct view wrong[] = {VIEW(""), VIEW(" \t"), VIEW("Basic abc"), VIEW("Bearer a b"),
                                 VIEW("Token pg_x"), VIEW("a\tb")};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        struct view credential;
        cr_assert_not(key_from_authorization(wrong[i], &credential), "case %zu", i);
    }
}

Test(key, hashes_are_sha256_and_the_hasher_can_be_used_again)
{
    uint8_t expected[KEY_HASH_LENGTH];
    uint8_t hash[KEY_HASH_LENGTH];
    struct key_hasher *hasher = key_hasher_create();
    cr_assert_not_null(hasher);
    for (int i = 0; i < 3; i++) {
        cr_assert(key_hash(hasher, VIEW("abc"), hash));
        cr_assert(view_parse_hex(
            VIEW("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), expected,
            sizeof expected));
        cr_assert_arr_eq(hash, expected, sizeof hash);
        cr_assert(key_hash(hasher, VIEW(""), hash));
        cr_assert(view_parse_hex(
            VIEW("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), expected,
            sizeof expected));
        cr_assert_arr_eq(hash, expected, sizeof hash);
    }
    key_hasher_destroy(hasher);
    key_hasher_destroy(NULL);
}
