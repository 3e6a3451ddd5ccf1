#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "store_suite.h"

/* The chunk log of streams, and how far each consumer has read. */

TestSuite(store_streams, .init = suite_set_up, .fini = suite_tear_down);

#define ABOUT(job_name) .endpoint = ENDPOINT, .job = VIEW(job_name)

static const struct store_reply *append(enum store_result wanted, uint64_t from, struct view bytes,
                                        const uint32_t *lengths, uint32_t count)
{
    return EXPECT(wanted, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 1,
                  .from = from, .chunks = suite_body(bytes), .chunk_lengths = lengths,
                  .chunk_count = count);
}

static const struct store_reply *read_chunks(uint64_t from, uint32_t limit, uint64_t limit_bytes)
{
    return EXPECT(STORE_OK, .operation = STORE_READ_CHUNKS, ABOUT("job-1"), .from = from,
                  .limit = limit, .limit_bytes = limit_bytes);
}

static void add_stream(void)
{
    static const uint32_t first[] = {3, 0, 4};
    static const uint32_t second[] = {5};

    add_job(VIEW("job-1"));
    append(STORE_OK, 0, VIEW("onefour"), first, 3);
    append(STORE_OK, 3, VIEW("\0five"), second, 1);
}

Test(store_streams, chunks_are_read_back_in_order_and_byte_for_byte)
{
    static const uint32_t lengths[] = {3, 0, 4, 5};
    const struct store_reply *reply;

    add_stream();
    for (int i = 0; i < 2; i++) {
        reply = read_chunks(0, 100, 1000);
        cr_assert_eq(reply->chunk_count, 4);
        cr_assert_eq(memcmp(reply->chunk_lengths, lengths, sizeof lengths), 0);
        cr_assert_view(body_view(reply->body), VIEW("onefour\0five"));
        cr_assert_eq(reply->job.chunk_count, 4);
        cr_assert_eq(job_of(VIEW("job-1")).chunk_count, 4);
        suite_reopen();
    }
}

Test(store_streams, chunks_are_read_from_any_index)
{
    const struct store_reply *reply;

    add_stream();
    reply = read_chunks(2, 100, 1000);
    cr_assert_eq(reply->chunk_count, 2);
    cr_assert_view(body_view(reply->body), VIEW("four\0five"));
    for (uint64_t beyond = 4; beyond < 6; beyond++) {
        reply = read_chunks(beyond, 100, 1000);
        cr_assert_eq(reply->chunk_count, 0);
        cr_assert_eq(body_view(reply->body).length, 0);
        cr_assert_eq(reply->job.chunk_count, 4);
    }
    cr_assert_eq(read_chunks(UINT64_MAX / 2, 100, 1000)->chunk_count, 0);
}

Test(store_streams, no_more_chunks_than_asked_for_are_read)
{
    const struct store_reply *reply;

    add_stream();
    reply = read_chunks(0, 2, 1000);
    cr_assert_eq(reply->chunk_count, 2);
    cr_assert_view(body_view(reply->body), VIEW("one"));
    reply = read_chunks(0, 100, 8);
    cr_assert_eq(reply->chunk_count, 3);
    cr_assert_view(body_view(reply->body), VIEW("onefour"));
    /* Else a reader would never get beyond a chunk that is longer. */
    reply = read_chunks(3, 100, 2);
    cr_assert_eq(reply->chunk_count, 1);
    cr_assert_view(body_view(reply->body), VIEW("\0five"));
}

Test(store_streams, chunks_are_written_only_behind_those_that_are_there)
{
    static const uint32_t lengths[] = {1};

    add_stream();
    cr_assert_eq(append(STORE_CONFLICT, 3, VIEW("x"), lengths, 1)->job.chunk_count, 4);
    cr_assert_eq(append(STORE_CONFLICT, 5, VIEW("x"), lengths, 1)->job.chunk_count, 4);
    append(STORE_CONFLICT, 0, VIEW("x"), lengths, 1);
    cr_assert_eq(read_chunks(0, 100, 1000)->chunk_count, 4);
    append(STORE_OK, 4, VIEW("x"), lengths, 1);
    EXPECT(STORE_CONFLICT, .operation = STORE_APPEND_CHUNKS, ABOUT("job-1"), .generation = 2,
           .from = 5, .chunks = suite_body(VIEW("x")), .chunk_lengths = lengths, .chunk_count = 1);
    EXPECT(STORE_ABSENT, .operation = STORE_APPEND_CHUNKS, ABOUT("job-2"), .generation = 1,
           .chunks = suite_body(VIEW("x")), .chunk_lengths = lengths, .chunk_count = 1);
}

Test(store_streams, chunks_and_their_job_end_in_any_order)
{
    static const uint32_t lengths[] = {4};
    struct store_question ended = result_question(VIEW("job-1"), VIEW("result"));
    struct view stored;

    add_stream();
    EXPECT_THAT(STORE_OK, ended);
    append(STORE_OK, 4, VIEW("last"), lengths, 1);
    cr_assert_eq(read_chunks(0, 100, 1000)->chunk_count, 5);
    result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, VIEW("result"));
}

Test(store_streams, many_and_large_chunks_are_kept)
{
    enum { CHUNKS = 1000, LARGE = 1024 * 1024 };
    uint32_t lengths[CHUNKS];
    char *bytes = malloc(LARGE);
    const struct store_reply *reply;
    uint64_t at = 0;

    cr_assert_not_null(bytes);
    for (size_t i = 0; i < LARGE; i++) {
        bytes[i] = (char)(i * 31 >> 3);
    }
    for (size_t i = 0; i < CHUNKS; i++) {
        lengths[i] = (uint32_t)(i % 7);
    }
    add_job(VIEW("job-1"));
    append(STORE_OK, 0, view_make(bytes, 7 * 6 / 2 * (CHUNKS / 7) + 15), lengths, CHUNKS);
    append(STORE_OK, CHUNKS, view_make(bytes, LARGE), (const uint32_t[]){LARGE}, 1);
    while (at < CHUNKS) {
        reply = read_chunks(at, 100, LARGE);
        cr_assert_gt(reply->chunk_count, 0);
        for (size_t i = 0; i < reply->chunk_count; i++) {
            cr_assert_eq(reply->chunk_lengths[i], at + i < CHUNKS ? (at + i) % 7 : LARGE);
        }
        at += reply->chunk_count;
    }
    reply = read_chunks(CHUNKS, 1, LARGE);
    cr_assert_eq(reply->chunk_count, 1);
    cr_assert(view_equal(body_view(reply->body), view_make(bytes, LARGE)));
    free(bytes);
}

/* ---- cursors --------------------------------------------------------------------------------- */

static const struct store_reply *cursor_of(const char *consumer)
{
    return EXPECT(STORE_OK, .operation = STORE_GET_CURSOR, ABOUT("job-1"),
                  .consumer = view_of_string(consumer));
}

Test(store_streams, each_consumer_has_a_cursor_of_its_own)
{
    add_stream();
    cr_assert_eq(cursor_of("a")->cursor_position, 0);
    cr_assert_not(cursor_of("a")->cursor_ended);
    cr_assert_eq(cursor_of("a")->job.chunk_count, 4);
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = VIEW("a"),
           .from = 3);
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = VIEW("a:b"),
           .from = 1, .ended = true);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(cursor_of("a")->cursor_position, 3);
        cr_assert_not(cursor_of("a")->cursor_ended);
        cr_assert_eq(cursor_of("a:b")->cursor_position, 1);
        cr_assert(cursor_of("a:b")->cursor_ended);
        cr_assert_eq(cursor_of("b")->cursor_position, 0);
        suite_reopen();
    }
}

Test(store_streams, a_cursor_of_another_generation_is_not_taken)
{
    add_stream();
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = VIEW("a"),
           .from = 1, .generation = 1);
    EXPECT(STORE_CONFLICT, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = VIEW("a"),
           .from = 3, .generation = 2);
    cr_assert_eq(cursor_of("a")->cursor_position, 1);
}

Test(store_streams, a_cursor_is_put_back)
{
    add_stream();
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = VIEW("a"),
           .from = 4, .ended = true);
    EXPECT(STORE_OK, .operation = STORE_SET_CURSOR, ABOUT("job-1"), .consumer = VIEW("a"),
           .from = 2);
    cr_assert_eq(cursor_of("a")->cursor_position, 2);
    cr_assert_not(cursor_of("a")->cursor_ended);
}
