#include "build_config.h"

#include "virtual_clock.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "store/hot_cache.h"
#include "store/result_codec.h"

enum { ENDED_MS = 1000000, EXPIRES_MS = 2000000, SMALL_BYTES = 1000 };

static struct body_budget budget;
static struct hot_cache *cache;

static void set_up(void)
{
    atomic_store(&budget.maximum_bytes, 1 << 28);
}

static void tear_down(void)
{
    hot_cache_destroy(cache);
    cache = NULL;
    cr_expect_eq(atomic_load(&budget.used_bytes), 0, "a body is left over");
}

TestSuite(hot_cache, .init = set_up, .fini = tear_down);

/* ---- making results -------------------------------------------------------------------------- */

static struct body *body_of(struct view bytes)
{
    struct body *body = body_create(&budget, bytes.length);

    cr_assert_not_null(body);
    cr_assert(body_append(body, bytes));
    return body;
}

static struct store_job describe(const char *name, struct view bytes)
{
    struct store_job job = {.endpoint = VIEW("ep"),
                            .id = view_of_string(name),
                            .team = VIEW("vision"),
                            .generation = 1,
                            .state = JOB_COMPLETED,
                            .fate = STORE_FATE_KEPT,
                            .ended_ms = ENDED_MS,
                            .expires_ms = EXPIRES_MS,
                            .result_bytes = bytes.length};

    EVP_Digest(bytes.data, bytes.length, job.digest, NULL, EVP_sha256(), NULL);
    return job;
}

static struct hot_result *create(const struct store_job *job, struct view stored)
{
    struct body *body = body_of(stored);
    struct hot_result *result = hot_result_create(job, body);

    body_unref(body);
    cr_assert_not_null(result);
    return result;
}

static struct hot_result *make(const char *name, uint64_t generation)
{
    char bytes[SMALL_BYTES];
    struct store_job job;

    memset(bytes, ' ', sizeof bytes);
    memcpy(bytes, "{\"output\":1}", 12);
    job = describe(name, view_make(bytes, sizeof bytes));
    job.generation = generation;
    return create(&job, view_make(bytes, sizeof bytes));
}

static uint64_t bytes_of_one(void)
{
    struct hot_cache *other = hot_cache_create(1 << 20);
    struct hot_result *result = make("j00", 1);
    uint64_t bytes;

    hot_cache_put(other, result);
    bytes = hot_cache_counts(other).bytes;
    hot_result_unref(result);
    hot_cache_destroy(other);
    cr_assert_gt(bytes, SMALL_BYTES);
    return bytes;
}

static void put(const char *name)
{
    struct hot_result *result = make(name, 1);

    hot_cache_put(cache, result);
    hot_result_unref(result);
}

static bool has(const char *name)
{
    struct hot_result *result = hot_cache_find(cache, VIEW("ep"), view_of_string(name), ENDED_MS);

    hot_result_unref(result);
    return result != NULL;
}

static void put_numbered(unsigned number)
{
    char name[8];

    snprintf(name, sizeof name, "j%02u", number);
    put(name);
}

static bool has_numbered(unsigned number)
{
    char name[8];

    snprintf(name, sizeof name, "j%02u", number);
    return has(name);
}

/* ---- one result ------------------------------------------------------------------------------ */

Test(hot_cache, result_says_what_its_job_was)
{
    struct store_job job = describe("abc-u1", VIEW("{\"output\":[1,NaN]}"));
    struct hot_result *result = create(&job, VIEW("{\"output\":[1,NaN]}"));
    struct body *body = hot_result_form(result, HOT_IDENTITY);

    cr_expect(view_equal(result->endpoint, VIEW("ep")));
    cr_expect(view_equal(result->job, VIEW("abc-u1")));
    cr_expect(view_equal(result->team, VIEW("vision")));
    cr_expect_eq(result->state, JOB_COMPLETED);
    cr_expect_eq(result->ended_ms, ENDED_MS);
    cr_expect_eq(result->expires_ms, EXPIRES_MS);
    cr_expect_eq(result->result_bytes, 18);
    cr_expect_not(result->completed_without_output);
    cr_expect(view_equal(body_view(body), VIEW("{\"output\":[1,NaN]}")));
    cr_expect_null(hot_result_form(result, HOT_ZSTD));
    body_unref(body);
    hot_result_unref(result);
}

Test(hot_cache, result_without_output_is_known_when_it_completed)
{
    struct store_job job = describe("a", VIEW("{\"status\":\"COMPLETED\"}"));
    struct hot_result *result = create(&job, VIEW("{\"status\":\"COMPLETED\"}"));

    cr_expect(result->completed_without_output);
    hot_result_unref(result);
    job.state = JOB_FAILED;
    result = create(&job, VIEW("{\"status\":\"COMPLETED\"}"));
    cr_expect_not(result->completed_without_output);
    hot_result_unref(result);
}

Test(hot_cache, fields_of_a_small_result_are_ready_made)
{
    struct store_job job = describe("a", VIEW("{\"output\":1}"));
    struct hot_result *result = create(&job, VIEW("{\"output\":1}"));
    struct hot_fields fields;

    cr_assert(hot_result_fields(result, HOT_IDENTITY, &fields));
    /* printf '{"output":1}' | openssl dgst -sha256 -binary | base64 */
    cr_expect(
        view_equal(fields.whole, VIEW("Content-Length: 12\r\nContent-Type: application/json\r\n"
                                      "Repr-Digest: sha-256=:"
                                      "xQUxGXbZqwo4bGOmuqukpx4xUmwPQozoZtgtCpoZ6/s=:\r\n"
                                      "ETag: \"c505311976d9ab0a386c63a6baaba4a7\"\r\n")),
        "%.*s", (int)fields.whole.length, fields.whole.data);
    cr_expect(view_starts_with(fields.partial, VIEW("Content-Type: ")));
    cr_expect(view_starts_with(fields.validators, VIEW("ETag: \"")));
    cr_expect_eq(fields.etag.length, 34);
    cr_expect_not(hot_result_fields(result, HOT_GZIP, &fields));
    hot_result_unref(result);
}

static struct view fill(char *bytes, size_t length)
{
    memset(bytes, 'x', length);
    memcpy(bytes, "{\"output\":\"", 11);
    memcpy(bytes + length - 2, "\"}", 2);
    return view_make(bytes, length);
}

static bool has_line(struct view fields, const char *line)
{
    return memmem(fields.data, fields.length, line, strlen(line)) != NULL;
}

Test(hot_cache, each_form_of_a_large_result_has_its_own_fields)
{
    static char bytes[40000];
    struct view text = fill(bytes, sizeof bytes);
    struct store_job job = describe("a", text);
    struct hot_result *result = create(&job, text);
    unsigned char expected[HOT_DIGEST_BYTES];
    unsigned char digest[HOT_DIGEST_BYTES];
    struct hot_fields identity;
    struct hot_fields gzip;
    struct body *body;

    cr_assert_eq(result_codec_make_form(result, HOT_GZIP, &budget), RESULT_MADE);
    cr_assert(hot_result_fields(result, HOT_IDENTITY, &identity));
    cr_assert(hot_result_fields(result, HOT_GZIP, &gzip));
    cr_expect(has_line(identity.whole, "Accept-Ranges: bytes\r\n"));
    cr_expect(has_line(identity.validators, "Vary: Accept-Encoding\r\n"));
    cr_expect_not(has_line(identity.whole, "Content-Encoding"));
    cr_expect(has_line(gzip.partial, "Content-Encoding: gzip\r\n"));
    cr_expect(has_line(gzip.validators, "-gzip\"\r\nVary: Accept-Encoding\r\n"));
    cr_expect_not(has_line(gzip.whole, "Accept-Ranges"));
    cr_expect_not(has_line(gzip.partial, "Content-Length"));
    cr_expect_not(view_equal(identity.etag, gzip.etag));
    body = hot_result_form(result, HOT_GZIP);
    EVP_Digest(body_view(body).data, body_view(body).length, expected, NULL, EVP_sha256(), NULL);
    cr_assert(hot_result_digest(result, HOT_GZIP, digest));
    cr_expect_eq(memcmp(digest, expected, sizeof digest), 0);
    body_unref(body);
    hot_result_unref(result);
}

Test(hot_cache, compressed_result_is_expanded_to_its_exact_bytes_only)
{
    static char bytes[40000];
    struct view text = fill(bytes, sizeof bytes);
    struct store_job job = describe("a", text);
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, text, 0, &budget);
    struct hot_result *result;
    struct hot_fields fields;
    struct body *body;

    cr_assert_not_null(zstd);
    job.encoding = STORE_ENCODING_ZSTD;
    result = hot_result_create(&job, zstd);
    cr_assert_not_null(result);
    cr_expect_null(hot_result_form(result, HOT_IDENTITY));
    cr_assert(hot_result_fields(result, HOT_IDENTITY, &fields), "known before it is expanded");
    cr_expect(view_starts_with(fields.whole, VIEW("Content-Length: 40000\r\n")));
    cr_expect(hot_result_fields(result, HOT_ZSTD, &fields));
    cr_expect_eq(result_codec_make_form(result, HOT_IDENTITY, &budget), RESULT_MADE);
    body = hot_result_form(result, HOT_IDENTITY);
    cr_expect(view_equal(body_view(body), text));
    body_unref(body);
    hot_result_unref(result);
    job.result_bytes = 39999;
    result = hot_result_create(&job, zstd);
    cr_assert_not_null(result);
    cr_expect_eq(result_codec_make_form(result, HOT_IDENTITY, &budget), RESULT_DAMAGED, "too long");
    hot_result_unref(result);
    job.result_bytes = 40001;
    result = hot_result_create(&job, zstd);
    cr_assert_not_null(result);
    cr_expect_eq(result_codec_make_form(result, HOT_IDENTITY, &budget), RESULT_DAMAGED,
                 "too short");
    cr_expect_null(hot_result_form(result, HOT_IDENTITY));
    hot_result_unref(result);
    job.result_bytes = sizeof bytes;
    result = hot_result_create(&job, zstd);
    cr_assert_not_null(result);
    atomic_store(&budget.maximum_bytes, 30000);
    cr_expect_eq(result_codec_make_form(result, HOT_IDENTITY, &budget), RESULT_NO_MEMORY,
                 "nothing is wrong with it");
    hot_result_unref(result);
    body_unref(zstd);
}

/* ---- the cache ------------------------------------------------------------------------------- */

Test(hot_cache, finds_what_was_put_in_and_nothing_else)
{
    cache = hot_cache_create(1 << 20);
    put("one");
    struct hot_result *result = hot_cache_find(cache, VIEW("ep"), VIEW("one"), ENDED_MS);

    cr_assert_not_null(result);
    cr_expect(view_equal(result->job, VIEW("one")));
    hot_result_unref(result);
    cr_expect_not(has("two"));
    cr_expect_not(has(""));
    cr_expect_null(hot_cache_find(cache, VIEW("e"), VIEW("p/one"), ENDED_MS));
    cr_expect_null(hot_cache_find(cache, VIEW("other"), VIEW("one"), ENDED_MS));
    cr_expect_eq(hot_cache_counts(cache).results, 1);
    cr_expect_eq(hot_cache_counts(cache).hits, 1);
    cr_expect_eq(hot_cache_counts(cache).misses, 4);
    cr_expect_eq(hot_cache_counts(cache).stored, 1);
}

Test(hot_cache, names_longer_than_any_route_takes_are_never_in)
{
    static char name[300];

    cache = hot_cache_create(1 << 20);
    memset(name, 'n', sizeof name - 1);
    cr_expect_not(has(name));
    hot_cache_drop(cache, VIEW("ep"), view_of_string(name));
}

Test(hot_cache, expired_result_is_not_found_and_goes)
{
    cache = hot_cache_create(1 << 20);
    put("one");
    struct hot_result *result = hot_cache_find(cache, VIEW("ep"), VIEW("one"), EXPIRES_MS - 1);

    cr_expect_not_null(result);
    hot_result_unref(result);
    cr_expect_null(hot_cache_find(cache, VIEW("ep"), VIEW("one"), EXPIRES_MS));
    cr_expect_eq(hot_cache_counts(cache).results, 0);
    cr_expect_eq(hot_cache_counts(cache).bytes, 0);
}

Test(hot_cache, later_generation_replaces_an_earlier_one_and_never_the_other_way_round)
{
    struct hot_result *first = make("one", 1);
    struct hot_result *second = make("one", 2);

    cache = hot_cache_create(1 << 20);
    hot_cache_put(cache, first);
    hot_cache_put(cache, second);
    hot_cache_put(cache, first);
    struct hot_result *found = hot_cache_find(cache, VIEW("ep"), VIEW("one"), ENDED_MS);

    cr_expect_eq(found, second);
    cr_expect_eq(hot_cache_counts(cache).results, 1);
    hot_result_unref(found);
    hot_result_unref(first);
    hot_result_unref(second);
}

Test(hot_cache, what_was_read_before_a_drop_is_not_put_in_behind_it)
{
    struct hot_result *read_before = make("one", 1);

    cache = hot_cache_create(1 << 20);
    hot_cache_put(cache, read_before);
    hot_cache_drop(cache, VIEW("ep"), VIEW("one"));
    cr_expect_not(has("one"));
    hot_cache_put(cache, read_before);
    cr_expect_not(has("one"));
    struct hot_result *retried = make("one", 2);
    hot_cache_put(cache, retried);
    cr_expect(has("one"), "a later generation than the dropped one is known to be new");
    hot_cache_drop(cache, VIEW("ep"), VIEW("one"));
    clock_advance(HOT_DROP_GUARD_MS);
    hot_cache_put(cache, retried);
    cr_expect(has("one"), "nothing that was read before the drop is under way any more");
    hot_result_unref(read_before);
    hot_result_unref(retried);
}

Test(hot_cache, drop_of_what_is_not_in_guards_too_and_others_are_not_touched)
{
    cache = hot_cache_create(1 << 20);
    hot_cache_drop(cache, VIEW("ep"), VIEW("one"));
    put("one");
    cr_expect_not(has("one"));
    put("two");
    cr_expect(has("two"));
}

Test(hot_cache, more_drops_than_are_remembered_let_nothing_slip_in)
{
    char name[16];

    cache = hot_cache_create(1 << 20);
    hot_cache_drop(cache, VIEW("ep"), VIEW("first"));
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "d%u", i);
        hot_cache_drop(cache, VIEW("ep"), view_of_string(name));
    }
    put("first");
    cr_expect_not(has("first"));
    clock_advance(HOT_DROP_GUARD_MS);
    put("first");
    cr_expect(has("first"));
}

Test(hot_cache, clear_forgets_all_and_guards_all)
{
    cache = hot_cache_create(1 << 20);
    for (unsigned i = 0; i < 40; i++) {
        put_numbered(i);
    }
    cr_expect(has_numbered(1));
    cr_expect(has_numbered(1));
    hot_cache_clear(cache);
    cr_expect_eq(hot_cache_counts(cache).results, 0);
    cr_expect_eq(hot_cache_counts(cache).bytes, 0);
    put_numbered(1);
    cr_expect_not(has_numbered(1));
    clock_advance(HOT_DROP_GUARD_MS);
    put_numbered(1);
    cr_expect(has_numbered(1));
}

Test(hot_cache, accounts_for_every_byte_and_gives_all_back)
{
    static char bytes[40000];
    struct view text = fill(bytes, sizeof bytes);
    struct store_job job = describe("a", text);
    struct hot_result *result = create(&job, text);
    uint64_t before;

    cache = hot_cache_create(1 << 20);
    hot_cache_put(cache, result);
    before = hot_cache_counts(cache).bytes;
    cr_expect_gt(before, sizeof bytes);
    cr_expect_lt(before, sizeof bytes + 1024);
    cr_assert_eq(result_codec_make_form(result, HOT_GZIP, &budget), RESULT_MADE);
    struct body *gzip = hot_result_form(result, HOT_GZIP);
    cr_expect_gt(hot_cache_counts(cache).bytes, before + body_view(gzip).length);
    cr_expect_lt(hot_cache_counts(cache).bytes, before + body_view(gzip).length + 1024);
    body_unref(gzip);
    hot_cache_drop(cache, VIEW("ep"), VIEW("a"));
    cr_expect_eq(hot_cache_counts(cache).bytes, 0);
    hot_result_unref(result);
}

Test(hot_cache, never_holds_more_than_its_bound_and_lets_the_least_recently_used_go)
{
    uint64_t one = bytes_of_one();

    cache = hot_cache_create(10 * one + one / 2);
    for (unsigned i = 0; i < 10; i++) {
        put_numbered(i);
    }
    cr_expect_eq(hot_cache_counts(cache).results, 10);
    cr_expect(has_numbered(0));
    put_numbered(10);
    cr_expect_leq(hot_cache_counts(cache).bytes, 10 * one + one / 2);
    cr_expect_eq(hot_cache_counts(cache).results, 10);
    cr_expect_eq(hot_cache_counts(cache).evicted, 1);
    cr_expect(has_numbered(0), "it was used after the next one was");
    cr_expect_not(has_numbered(1));
}

Test(hot_cache, scan_of_what_is_asked_once_does_not_push_out_what_is_asked_again)
{
    uint64_t one = bytes_of_one();

    cache = hot_cache_create(20 * one + one / 2);
    for (unsigned i = 0; i < 16; i++) {
        put_numbered(i);
        cr_expect(has_numbered(i));
        cr_expect(has_numbered(i));
    }
    for (unsigned i = 20; i < 99; i++) {
        put_numbered(i);
        cr_expect(has_numbered(i), "the newest is always there");
    }
    for (unsigned i = 0; i < 16; i++) {
        cr_expect(has_numbered(i), "%u", i);
    }
    cr_expect_eq(hot_cache_counts(cache).results, 20);
}

Test(hot_cache, protected_results_give_way_to_others_that_are_asked_again)
{
    uint64_t one = bytes_of_one();
    unsigned left = 0;

    cache = hot_cache_create(20 * one + one / 2);
    for (unsigned i = 0; i < 40; i++) {
        put_numbered(i);
        cr_expect(has_numbered(i));
        cr_expect(has_numbered(i));
    }
    for (unsigned i = 0; i < 20; i++) {
        left += has_numbered(i);
    }
    cr_expect_eq(left, 0, "%u of the older ones are left", left);
    cr_expect(has_numbered(39));
}

Test(hot_cache, smaller_bound_shrinks_it_at_once)
{
    uint64_t one = bytes_of_one();

    cache = hot_cache_create(20 * one);
    for (unsigned i = 0; i < 20; i++) {
        put_numbered(i);
    }
    hot_cache_set_maximum(cache, 5 * one);
    cr_expect_eq(hot_cache_counts(cache).results, 5);
    cr_expect(has_numbered(19));
    hot_cache_set_maximum(cache, 0);
    cr_expect_eq(hot_cache_counts(cache).results, 0);
    put_numbered(1);
    cr_expect_not(has_numbered(1));
}

Test(hot_cache, gives_way_to_what_is_asked_for_now)
{
    uint64_t one = bytes_of_one();

    cache = hot_cache_create(20 * one);
    for (unsigned i = 0; i < 10; i++) {
        put_numbered(i);
    }
    hot_cache_give_way(cache, 3 * one - 1);
    cr_expect_eq(hot_cache_counts(cache).results, 7);
    cr_expect_not(has_numbered(2));
    cr_expect(has_numbered(3));
    hot_cache_give_way(cache, UINT64_MAX);
    cr_expect_eq(hot_cache_counts(cache).results, 0);
}

Test(hot_cache, result_of_half_the_room_is_not_kept_and_nor_is_the_older_one_of_its_name)
{
    uint64_t one = bytes_of_one();

    cache = hot_cache_create(one * 2 + 2);
    put_numbered(1);
    cr_expect(has_numbered(1));
    hot_cache_set_maximum(cache, one * 2 - 2);
    put_numbered(1);
    cr_expect_not(has_numbered(1));
}

/* ---- threads --------------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 4000, NAMES = 40 };

static _Atomic bool wrong;

static void *use(void *argument)
{
    unsigned state = (unsigned)(uintptr_t)argument * 2654435761u + 1;

    for (unsigned i = 0; i < ROUNDS; i++) {
        char name[8];
        struct hot_result *result;

        state = state * 1664525u + 1013904223u;
        snprintf(name, sizeof name, "j%02u", (state >> 16) % NAMES);
        result = hot_cache_find(cache, VIEW("ep"), view_of_string(name), ENDED_MS);
        if (!result) {
            result = make(name, 1);
            hot_cache_put(cache, result);
        } else if (!view_equal(result->job, view_of_string(name))) {
            atomic_store(&wrong, true);
        }
        if (i % 16 == 0) {
            struct body *form;

            if (result_codec_make_form(result, HOT_GZIP, &budget) != RESULT_MADE) {
                atomic_store(&wrong, true);
            }
            form = hot_result_form(result, HOT_GZIP);
            body_unref(form);
        }
        if (i % 512 == 0) {
            hot_cache_drop(cache, VIEW("ep"), view_of_string(name));
        }
        hot_result_unref(result);
    }
    return NULL;
}

Test(hot_cache, serves_several_threads_and_keeps_its_account)
{
    uint64_t one = bytes_of_one();
    pthread_t threads[THREADS];
    struct hot_cache_counts counts;

    cache = hot_cache_create(30 * one);
    clock_advance(1);
    for (uintptr_t i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_create(&threads[i], NULL, use, (void *)i), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        clock_advance(HOT_DROP_GUARD_MS);
    }
    cr_expect_not(atomic_load(&wrong));
    counts = hot_cache_counts(cache);
    cr_expect_leq(counts.bytes, 30 * one);
    cr_expect_eq(counts.hits + counts.misses, THREADS * ROUNDS);
    for (unsigned i = 0; i < NAMES; i++) {
        char name[8];

        snprintf(name, sizeof name, "j%02u", i);
        hot_cache_drop(cache, VIEW("ep"), view_of_string(name));
    }
    cr_expect_eq(hot_cache_counts(cache).results, 0);
    cr_expect_eq(hot_cache_counts(cache).bytes, 0);
}
