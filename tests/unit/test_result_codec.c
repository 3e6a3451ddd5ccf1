#include "build_config.h"

#include <criterion/criterion.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/loop.h"
#include "store/result_codec.h"

enum { LARGE_BYTES = 3 * 1000 * 1000 };

static struct body_budget budget;
static char *large;
static struct view large_text;

static void set_up(void)
{
    unsigned state = 1;

    atomic_store(&budget.maximum_bytes, 64 << 20);
    large = malloc(LARGE_BYTES);
    for (size_t i = 0; i < LARGE_BYTES; i++) {
        state = state * 1664525u + 1013904223u;
        large[i] = (char)("{}[]:,\"0123456789abcdef\n\\NaN"[(state >> 24) % 27]);
    }
    large_text = view_make(large, LARGE_BYTES);
}

static void tear_down(void)
{
    free(large);
    cr_expect_eq(atomic_load(&budget.used_bytes), 0, "a body is left over");
}

TestSuite(result_codec, .init = set_up, .fini = tear_down);

static void expect_expands_to(struct view zstd, struct view expected)
{
    struct body *body = result_codec_now(RESULT_ZSTD_TO_IDENTITY, zstd, expected.length, &budget);

    cr_assert_not_null(body);
    cr_expect(view_equal(body_view(body), expected));
    body_unref(body);
}

static void expect_gunzips_to(struct view gzip, struct view expected)
{
    char *room = malloc(expected.length + 1);
    z_stream stream = {0};

    cr_assert_eq(inflateInit2(&stream, 15 + 16), Z_OK);
    stream.next_in = (Bytef *)gzip.data;
    stream.avail_in = (uInt)gzip.length;
    stream.next_out = (Bytef *)room;
    stream.avail_out = (uInt)expected.length + 1;
    cr_expect_eq(inflate(&stream, Z_FINISH), Z_STREAM_END);
    cr_expect_eq(stream.avail_in, 0);
    cr_expect(view_equal(view_make(room, expected.length + 1 - stream.avail_out), expected));
    inflateEnd(&stream);
    free(room);
}

/* ---- on the calling thread ------------------------------------------------------------------- */

Test(result_codec, zstd_and_back_gives_the_same_bytes)
{
    static const size_t lengths[] = {0, 1, 100, 16384, 16385, 131072, LARGE_BYTES};

    for (size_t i = 0; i < ARRAY_LENGTH(lengths); i++) {
        struct view text = view_first(large_text, lengths[i]);
        struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, text, 0, &budget);

        cr_assert_not_null(zstd);
        expect_expands_to(body_view(zstd), text);
        body_unref(zstd);
    }
}

Test(result_codec, gzip_can_be_read_by_anybody)
{
    struct body *gzip = result_codec_now(RESULT_IDENTITY_TO_GZIP, large_text, 0, &budget);
    struct body *empty = result_codec_now(RESULT_IDENTITY_TO_GZIP, VIEW(""), 0, &budget);

    cr_assert_not_null(gzip);
    cr_assert_not_null(empty);
    cr_expect_lt(body_view(gzip).length, LARGE_BYTES);
    expect_gunzips_to(body_view(gzip), large_text);
    expect_gunzips_to(body_view(empty), VIEW(""));
    body_unref(gzip);
    body_unref(empty);
}

Test(result_codec, stored_zstd_becomes_gzip_of_the_exact_bytes)
{
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, large_text, 0, &budget);
    struct body *gzip;

    cr_assert_not_null(zstd);
    gzip = result_codec_now(RESULT_ZSTD_TO_GZIP, body_view(zstd), 0, &budget);
    cr_assert_not_null(gzip);
    expect_gunzips_to(body_view(gzip), large_text);
    body_unref(zstd);
    body_unref(gzip);
}

Test(result_codec, what_is_kept_holds_no_more_than_it_needs)
{
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, large_text, 0, &budget);

    cr_assert_not_null(zstd);
    cr_expect_eq(atomic_load(&budget.used_bytes), body_view(zstd).length);
    body_unref(zstd);
}

Test(result_codec, bomb_is_stopped_at_the_bound_and_at_the_budget)
{
    size_t bomb_bytes = 32 << 20;
    char *zeros = calloc(1, bomb_bytes);
    struct body *zstd =
        result_codec_now(RESULT_IDENTITY_TO_ZSTD, view_make(zeros, bomb_bytes), 0, &budget);

    cr_assert_not_null(zstd);
    cr_assert_lt(body_view(zstd).length, 10000);
    cr_expect_null(
        result_codec_now(RESULT_ZSTD_TO_IDENTITY, body_view(zstd), bomb_bytes - 1, &budget));
    cr_expect_null(result_codec_now(RESULT_ZSTD_TO_GZIP, body_view(zstd), 100000, &budget));
    atomic_store(&budget.maximum_bytes, bomb_bytes / 2);
    cr_expect_null(result_codec_now(RESULT_ZSTD_TO_IDENTITY, body_view(zstd), 0, &budget));
    body_unref(zstd);
    free(zeros);
}

/* As written by a streaming compressor, which doesn't say how much will come. */
static size_t make_frame_without_size(char *room, size_t room_bytes, struct view text)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t length;

    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    length = ZSTD_compress2(context, room, room_bytes, text.data, text.length);
    ZSTD_freeCCtx(context);
    return length;
}

Test(result_codec, frame_that_hides_its_size_is_bounded_too)
{
    size_t room_bytes = ZSTD_compressBound(LARGE_BYTES);
    char *room = malloc(room_bytes);
    struct view frame = view_make(room, make_frame_without_size(room, room_bytes, large_text));

    expect_expands_to(frame, large_text);
    cr_expect_null(result_codec_now(RESULT_ZSTD_TO_IDENTITY, frame, LARGE_BYTES - 1, &budget));
    free(room);
}

Test(result_codec, damage_is_noticed_wherever_it_is)
{
    struct view text = view_first(large_text, 20000);
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, text, 0, &budget);
    size_t length = body_view(zstd).length;
    char *bytes = malloc(length + 1);

    memcpy(bytes, body_view(zstd).data, length);
    bytes[length] = 'x';
    cr_expect_null(
        result_codec_now(RESULT_ZSTD_TO_IDENTITY, view_make(bytes, length + 1), 0, &budget));
    for (size_t cut = 0; cut < length; cut += 97) {
        cr_expect_null(
            result_codec_now(RESULT_ZSTD_TO_IDENTITY, view_make(bytes, cut), 0, &budget));
    }
    for (size_t at = 0; at < length; at += 31) {
        struct body *body;

        bytes[at] ^= 0x10;
        body = result_codec_now(RESULT_ZSTD_TO_IDENTITY, view_make(bytes, length), 0, &budget);
        /* A bit of the header that says nothing may be changed; the bytes may not. */
        cr_expect(body == NULL || view_equal(body_view(body), text), "byte %zu", at);
        body_unref(body);
        bytes[at] ^= 0x10;
    }
    cr_expect_null(result_codec_now(RESULT_ZSTD_TO_IDENTITY, VIEW("{\"id\":1}"), 0, &budget));
    cr_expect_null(result_codec_now(RESULT_ZSTD_TO_IDENTITY, VIEW(""), 0, &budget));
    free(bytes);
    body_unref(zstd);
}

Test(result_codec, two_frames_in_a_row_are_not_taken)
{
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, VIEW("first"), 0, &budget);
    struct body *twice = body_create(&budget, 2 * body_view(zstd).length);

    cr_assert(body_append(twice, body_view(zstd)));
    cr_assert(body_append(twice, body_view(zstd)));
    cr_expect_null(result_codec_now(RESULT_ZSTD_TO_IDENTITY, body_view(twice), 0, &budget));
    body_unref(zstd);
    body_unref(twice);
}

Test(result_codec, result_larger_than_the_budget_has_left_is_refused)
{
    atomic_store(&budget.maximum_bytes, 1000);
    cr_expect_null(result_codec_now(RESULT_IDENTITY_TO_ZSTD, large_text, 0, &budget));
    cr_expect_null(result_codec_now(RESULT_IDENTITY_TO_GZIP, large_text, 0, &budget));
}

/* ---- on the codec's thread ------------------------------------------------------------------- */

struct outcome {
    struct loop *loop;
    struct view expected;
    unsigned count;
    unsigned wanted;
    bool starting;
    bool told_too_early;
    bool same;
    pthread_t thread;
};

static void on_done(void *argument, struct body *body)
{
    struct outcome *outcome = argument;

    outcome->told_too_early |= outcome->starting;
    outcome->thread = pthread_self();
    outcome->same = body && view_equal(body_view(body), outcome->expected);
    body_unref(body);
    if (++outcome->count == outcome->wanted) {
        loop_stop(outcome->loop);
    }
}

static void on_form(void *argument, enum result_made made)
{
    struct outcome *outcome = argument;

    outcome->same = made == RESULT_MADE;
    outcome->thread = pthread_self();
    loop_stop(outcome->loop);
}

static struct body *body_of(struct view bytes)
{
    struct body *body = body_create(&budget, bytes.length);

    cr_assert(body_append(body, bytes));
    return body;
}

Test(result_codec, thread_tells_the_loop_that_asked)
{
    struct result_codec *codec = result_codec_create(&budget);
    struct loop *loop = loop_create();
    struct outcome outcome = {.loop = loop, .expected = large_text, .wanted = 1};
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, large_text, 0, &budget);

    cr_assert(codec && loop && zstd);
    outcome.starting = true;
    cr_assert(result_codec_start(codec, loop, zstd, RESULT_ZSTD_TO_IDENTITY, LARGE_BYTES, on_done,
                                 &outcome));
    outcome.starting = false;
    body_unref(zstd);
    cr_assert(loop_run(loop));
    cr_expect_eq(outcome.count, 1);
    cr_expect_not(outcome.told_too_early);
    cr_expect(pthread_equal(outcome.thread, pthread_self()));
    cr_expect(outcome.same);
    result_codec_destroy(codec);
    loop_destroy(loop);
}

Test(result_codec, failure_is_told_too)
{
    struct result_codec *codec = result_codec_create(&budget);
    struct loop *loop = loop_create();
    struct outcome outcome = {.loop = loop, .wanted = 1, .same = true};
    struct body *garbage = body_of(VIEW("no frame at all"));

    cr_assert(
        result_codec_start(codec, loop, garbage, RESULT_ZSTD_TO_IDENTITY, 0, on_done, &outcome));
    body_unref(garbage);
    cr_assert(loop_run(loop));
    cr_expect_eq(outcome.count, 1);
    cr_expect_not(outcome.same);
    result_codec_destroy(codec);
    loop_destroy(loop);
}

Test(result_codec, what_is_queued_at_the_end_is_still_done_and_told)
{
    enum { TASKS = 20 };
    struct result_codec *codec = result_codec_create(&budget);
    struct loop *loop = loop_create();
    struct outcome outcome = {.loop = loop, .expected = VIEW("{\"output\":1}"), .wanted = TASKS};
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, outcome.expected, 0, &budget);

    for (unsigned i = 0; i < TASKS; i++) {
        cr_assert(
            result_codec_start(codec, loop, zstd, RESULT_ZSTD_TO_IDENTITY, 100, on_done, &outcome));
    }
    body_unref(zstd);
    result_codec_destroy(codec);
    loop_flush_mail(loop);
    cr_expect_eq(outcome.count, TASKS);
    cr_expect(outcome.same);
    loop_destroy(loop);
}

Test(result_codec, form_of_a_hot_result_is_made_and_hashed_off_the_loop)
{
    struct result_codec *codec = result_codec_create(&budget);
    struct loop *loop = loop_create();
    struct outcome outcome = {.loop = loop};
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, large_text, 0, &budget);
    struct store_job job = {.endpoint = VIEW("ep"),
                            .id = VIEW("a"),
                            .state = JOB_COMPLETED,
                            .encoding = STORE_ENCODING_ZSTD,
                            .result_bytes = LARGE_BYTES};
    struct hot_result *result = hot_result_create(&job, zstd);
    struct hot_fields fields;

    cr_assert_not_null(result);
    body_unref(zstd);
    cr_expect_not(hot_result_fields(result, HOT_ZSTD, &fields), "not hashed on the caller's loop");
    for (unsigned form = 0; form < HOT_FORMS; form++) {
        cr_assert(
            result_codec_start_form(codec, loop, result, (enum hot_form)form, on_form, &outcome));
        cr_assert(loop_run(loop));
        cr_expect(outcome.same);
        cr_expect(hot_result_fields(result, (enum hot_form)form, &fields));
    }
    struct body *gzip = hot_result_form(result, HOT_GZIP);
    cr_assert_not_null(gzip);
    expect_gunzips_to(body_view(gzip), large_text);
    body_unref(gzip);
    hot_result_unref(result);
    result_codec_destroy(codec);
    loop_destroy(loop);
}

Test(result_codec, destroy_takes_null)
{
    result_codec_destroy(NULL);
}
