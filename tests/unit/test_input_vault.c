#include "build_config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/body.h"
#include "store/input_vault.h"
#include "store/result_codec.h"

/* Kept inputs: there and back, and what happens to what was touched in between. */

#define KEY_ONE "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define KEY_TWO "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"
#define EP VIEW("abc123")
#define JOB VIEW("job-1")

static struct body_budget budget;
static char path[] = "/tmp/podgate-test-vault-XXXXXX";

static void set_up(void)
{
    int descriptor = mkstemp(path);

    cr_assert_geq(descriptor, 0);
    close(descriptor);
    atomic_init(&budget.used_bytes, 0);
    atomic_init(&budget.maximum_bytes, 64 * 1024 * 1024);
}

static void tear_down(void)
{
    unlink(path);
    cr_expect_eq(atomic_load(&budget.used_bytes), 0);
}

TestSuite(input_vault, .init = set_up, .fini = tear_down);

static void write_key(const void *bytes, size_t length)
{
    FILE *file = fopen(path, "w");

    cr_assert_eq(fwrite(bytes, 1, length, file), length);
    fclose(file);
}

static struct input_vault *try_vault(bool with_key, char **problem)
{
    char text[300];
    struct config_errors *errors = config_errors_create();
    struct config *config;
    struct input_vault *vault;

    snprintf(text, sizeof text,
             "upstream { api_key_env = \"A\" }\nstore { input_key_file = \"%s\" }",
             with_key ? path : "");
    config = config_load_text("t.conf", view_of_string(text), false, errors);
    cr_assert_not_null(config);
    vault = input_vault_create(config, problem);
    config_unref(config);
    config_errors_destroy(errors);
    return vault;
}

static struct input_vault *make_vault(const char *key)
{
    char *problem = NULL;
    struct input_vault *vault;

    if (key) {
        write_key(key, strlen(key));
    }
    vault = try_vault(key != NULL, &problem);
    cr_assert_not_null(vault, "%s", problem);
    cr_assert_eq(input_vault_encrypts(vault), key != NULL);
    return vault;
}

/* JSON that compresses. */
static char *make_text(size_t length)
{
    char *text = malloc(length + 1);

    for (size_t i = 0; i < length; i++) {
        text[i] = "{\"prompt\": \"a cat\"} "[i % 20];
    }
    text[length] = '\0';
    return text;
}

static struct body *encode(const struct input_vault *vault, struct view input,
                           enum store_encoding *encoding)
{
    struct body *stored = input_vault_encode(vault, EP, JOB, input, &budget, encoding);

    cr_assert_not_null(stored);
    return stored;
}

static void expect_back(const struct input_vault *vault, const struct body *stored,
                        enum store_encoding encoding, struct view input)
{
    struct body *back = NULL;

    cr_assert_eq(input_vault_decode(vault, EP, JOB, body_view(stored), encoding, input.length,
                                    &budget, &back),
                 INPUT_VAULT_OK);
    cr_assert(view_equal(body_view(back), input));
    body_unref(back);
}

Test(input_vault, inputs_of_all_sizes_come_back)
{
    static const size_t sizes[] = {0, 1, 20, 16 * 1024, 16 * 1024 + 1, 1024 * 1024};
    struct input_vault *vaults[] = {make_vault(NULL), make_vault(KEY_ONE "\n")};

    for (size_t v = 0; v < ARRAY_LENGTH(vaults); v++) {
        for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
            char *text = make_text(sizes[i]);
            struct view input = view_make(text, sizes[i]);
            enum store_encoding encoding;
            struct body *stored = encode(vaults[v], input, &encoding);

            expect_back(vaults[v], stored, encoding, input);
            if (sizes[i] > 16 * 1024) {
                cr_assert_lt(body_view(stored).length, sizes[i] / 2, "it isn't compressed");
            }
            if (v == 0 && sizes[i] <= 16 * 1024) {
                cr_assert(view_equal(body_view(stored), input), "plain ones can be read");
                cr_assert_eq(encoding, STORE_ENCODING_IDENTITY);
            }
            body_unref(stored);
            free(text);
        }
    }
    input_vault_destroy(vaults[0]);
    input_vault_destroy(vaults[1]);
    input_vault_destroy(NULL);
}

Test(input_vault, an_encrypted_input_shows_nothing_and_no_two_are_the_same)
{
    struct input_vault *vault = make_vault(KEY_ONE);
    struct view input = VIEW("{\"input\": {\"s3Config\": \"AKIA...\"}}");
    enum store_encoding encoding;
    struct body *first = encode(vault, input, &encoding);
    struct body *second = encode(vault, input, &encoding);

    cr_assert_eq(encoding, STORE_ENCODING_IDENTITY);
    cr_assert_eq(body_view(first).length, input.length + 42);
    cr_assert_null(memmem(body_view(first).data, body_view(first).length, "AKIA", 4));
    cr_assert_not(view_equal(body_view(first), body_view(second)));
    body_unref(first);
    body_unref(second);
    input_vault_destroy(vault);
}

Test(input_vault, every_changed_byte_and_every_cut_is_noticed)
{
    struct input_vault *vault = make_vault(KEY_ONE);
    enum store_encoding encoding;
    struct body *stored = encode(vault, VIEW("{\"input\": 1}"), &encoding);
    struct view bytes = body_view(stored);
    char *copy = malloc(bytes.length);
    struct body *back;

    for (size_t i = 8; i < bytes.length; i++) {
        enum input_vault_result result;

        memcpy(copy, bytes.data, bytes.length);
        copy[i] = (char)(copy[i] ^ 1);
        result = input_vault_decode(vault, EP, JOB, view_make(copy, bytes.length), encoding, 100,
                                    &budget, &back);
        /* The bytes that name the key make it another key's. */
        cr_assert_eq(result, i >= 10 && i < 14 ? INPUT_VAULT_NO_KEY : INPUT_VAULT_BROKEN,
                     "byte %zu", i);
        cr_assert_null(back);
        cr_assert_eq(input_vault_decode(vault, EP, JOB, view_make(bytes.data, i), encoding, 100,
                                        &budget, &back),
                     INPUT_VAULT_BROKEN, "cut at %zu", i);
    }
    free(copy);
    body_unref(stored);
    input_vault_destroy(vault);
}

Test(input_vault, an_input_belongs_to_its_job)
{
    struct input_vault *vault = make_vault(KEY_ONE);
    enum store_encoding encoding;
    struct body *stored = encode(vault, VIEW("{}"), &encoding);
    struct body *back;

    cr_assert_eq(input_vault_decode(vault, EP, VIEW("job-2"), body_view(stored), encoding, 100,
                                    &budget, &back),
                 INPUT_VAULT_BROKEN);
    cr_assert_eq(input_vault_decode(vault, VIEW("abc124"), JOB, body_view(stored), encoding, 100,
                                    &budget, &back),
                 INPUT_VAULT_BROKEN);
    expect_back(vault, stored, encoding, VIEW("{}"));
    body_unref(stored);
    input_vault_destroy(vault);
}

Test(input_vault, a_key_can_be_replaced_while_inputs_last)
{
    struct input_vault *old = make_vault(KEY_ONE);
    struct input_vault *both = make_vault(KEY_TWO "\r\n\n" KEY_ONE "\n");
    struct input_vault *new = make_vault(KEY_TWO "\n");
    struct input_vault *none = make_vault(NULL);
    enum store_encoding encoding;
    struct body *first = encode(old, VIEW("{\"a\":1}"), &encoding);
    struct body *second = encode(both, VIEW("{\"b\":2}"), &encoding);
    struct body *back;

    expect_back(both, first, encoding, VIEW("{\"a\":1}"));
    expect_back(new, second, encoding, VIEW("{\"b\":2}"));
    cr_assert_eq(input_vault_decode(new, EP, JOB, body_view(first), encoding, 100, &budget, &back),
                 INPUT_VAULT_NO_KEY);
    cr_assert_eq(input_vault_decode(none, EP, JOB, body_view(first), encoding, 100, &budget, &back),
                 INPUT_VAULT_NO_KEY);
    body_unref(first);
    body_unref(second);
    input_vault_destroy(old);
    input_vault_destroy(both);
    input_vault_destroy(new);
    input_vault_destroy(none);
}

Test(input_vault, what_was_kept_before_there_was_a_key_can_be_read)
{
    struct input_vault *none = make_vault(NULL);
    struct input_vault *vault = make_vault(KEY_ONE);
    enum store_encoding encoding;
    struct body *stored = encode(none, VIEW("{\"a\":1}"), &encoding);

    expect_back(vault, stored, encoding, VIEW("{\"a\":1}"));
    body_unref(stored);
    input_vault_destroy(none);
    input_vault_destroy(vault);
}

Test(input_vault, an_input_that_looks_encrypted_comes_back_as_it_was)
{
    struct input_vault *vault = make_vault(NULL);
    struct view input = view_make("\0pgvault\1\0abcdefghijklmnopqrstuvwxyz0123456789", 46);
    enum store_encoding encoding;
    struct body *stored = encode(vault, input, &encoding);

    expect_back(vault, stored, encoding, input);
    body_unref(stored);
    input_vault_destroy(vault);
}

Test(input_vault, an_input_that_grows_beyond_what_it_was_is_refused)
{
    struct input_vault *vault = make_vault(KEY_ONE);
    char *text = make_text(100000);
    enum store_encoding encoding;
    struct body *stored = encode(vault, view_make(text, 100000), &encoding);
    struct body *back;

    cr_assert_eq(
        input_vault_decode(vault, EP, JOB, body_view(stored), encoding, 99999, &budget, &back),
        INPUT_VAULT_BROKEN);
    cr_assert_null(back);
    body_unref(stored);
    free(text);
    input_vault_destroy(vault);
}

Test(input_vault, without_memory_nothing_is_kept)
{
    struct input_vault *vault = make_vault(KEY_ONE);
    enum store_encoding encoding;

    atomic_store(&budget.maximum_bytes, 8);
    cr_assert_null(input_vault_encode(vault, EP, JOB, VIEW("{\"a\":1}"), &budget, &encoding));
    input_vault_destroy(vault);
}

Test(input_vault, a_raw_key_is_the_same_as_its_digits)
{
    char raw[32];
    char *problem = NULL;
    enum store_encoding encoding;

    for (size_t i = 0; i < sizeof raw; i++) {
        raw[i] = (char)i;
    }
    write_key(raw, sizeof raw);
    struct input_vault *one = try_vault(true, &problem);
    struct input_vault *other = make_vault(KEY_ONE);
    struct body *stored = encode(one, VIEW("{}"), &encoding);
    expect_back(other, stored, encoding, VIEW("{}"));
    body_unref(stored);
    input_vault_destroy(one);
    input_vault_destroy(other);
}

Test(input_vault, bad_key_files_are_told)
{
    static const struct {
        const char *text;
        const char *problem;
    } cases[] = {
        {"", "is empty"},
        {"\n\n", "is empty"},
        {"hello", "expected 32 bytes"},
        {KEY_ONE "0\n", "expected 32 bytes"},
        {KEY_ONE "\nx\n", "expected 32 bytes"},
        {KEY_ONE "\n" KEY_ONE "\n" KEY_ONE "\n" KEY_ONE "\n" KEY_ONE "\n" KEY_ONE "\n" KEY_ONE
                 "\n" KEY_ONE "\n" KEY_ONE "\n",
         "is too long"},
    };
    char *problem;

    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_key(cases[i].text, strlen(cases[i].text));
        problem = NULL;
        cr_assert_null(try_vault(true, &problem), "%zu", i);
        cr_assert_not_null(strstr(problem, cases[i].problem), "%zu: %s", i, problem);
        cr_assert_not_null(strstr(problem, path));
        free(problem);
    }
    unlink(path);
    problem = NULL;
    cr_assert_null(try_vault(true, &problem));
    cr_assert_not_null(strstr(problem, "No such file"), "%s", problem);
    free(problem);
}
