#include "build_config.h"

#include "gateway_fixture.h"

#include <openssl/evp.h>
#include <zlib.h>
#include <zstd.h>

#include "base/fault.h"
#include "gateway/result_reply.h"

/* What is sent of a stored result. The operation "status" is the test's own here: it answers with
 * the result that the test made. */

enum { SMALL_BYTES = 300, MEDIUM_BYTES = 40000, LARGE_BYTES = 500000, TTL_S = 600, AGE_S = 7 };

static struct caller caller;
static struct operation operations[ROUTE_OPERATION_COUNT];
static struct hot_result *result;
static struct view detail;
static bool degraded;
static char text[LARGE_BYTES];
static struct view exact;
static char etag[64];

static void start_reply(struct request *request)
{
    body_unref(request->body);
    request->body = NULL;
    result_reply_send(request, result, detail, degraded);
}

static void set_up_reply(void)
{
    set_up_gateway();
    memcpy(operations, operation_table, sizeof operations);
    operations[ROUTE_STATUS].start = start_reply;
    operations[ROUTE_STATUS].abandon = NULL;
    GATEWAY->operations = operations;
    detail = VIEW("");
    caller_open(&caller, FRONT);
}

static void tear_down_reply(void)
{
    caller_close(&caller);
    hot_result_unref(result);
    result = NULL;
    tear_down_gateway();
}

TestSuite(result_reply, .init = set_up_reply, .fini = tear_down_reply, .timeout = 60);

/* A result whose every part is another one; NaN and an integer above 2^53 are in it. */
static void fill(size_t length)
{
    size_t at =
        (size_t)snprintf(text, sizeof text,
                         "{\"id\":\"j\",\"status\":\"COMPLETED\",\"output\":[NaN,9007199254740993");

    for (unsigned i = 0; at + 16 < length; i++) {
        at += (size_t)snprintf(text + at, sizeof text - at, ",%u", i * 2654435761u % 100000);
    }
    while (at < length - 2) {
        text[at++] = ' ';
    }
    memcpy(text + at, "]}", 2);
    exact = view_make(text, length);
}

static struct store_job describe(void)
{
    struct store_job job = {.endpoint = VIEW("abc"),
                            .id = VIEW("j"),
                            .team = VIEW("t"),
                            .generation = 1,
                            .state = JOB_COMPLETED,
                            .fate = STORE_FATE_KEPT,
                            .result_bytes = exact.length};

    EVP_Digest(exact.data, exact.length, job.digest, NULL, EVP_sha256(), NULL);
    job.ended_ms = clock_wall_ms() / 1000 * 1000 - AGE_S * 1000;
    job.expires_ms = clock_wall_ms() / 1000 * 1000 + TTL_S * 1000;
    return job;
}

static void make_result_of(const struct store_job *job, struct view stored)
{
    struct body *body = body_create(&budget, stored.length);
    struct hot_fields fields;

    cr_assert(body && body_append(body, stored));
    result = hot_result_create(job, body);
    body_unref(body);
    cr_assert(result && hot_result_fields(result, HOT_IDENTITY, &fields));
    snprintf(etag, sizeof etag, "%.*s", (int)fields.etag.length, fields.etag.data);
}

static void make_result(size_t length)
{
    struct store_job job;

    fill(length);
    job = describe();
    make_result_of(&job, exact);
}

/* As it lies in the store. */
static void make_stored_result(size_t length)
{
    struct store_job job;
    struct body *zstd;

    fill(length);
    job = describe();
    job.encoding = STORE_ENCODING_ZSTD;
    zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, exact, 0, &budget);
    cr_assert_not_null(zstd);
    make_result_of(&job, body_view(zstd));
    body_unref(zstd);
}

static bool head_is_there(void)
{
    caller_read(&caller);
    return memmem(caller.received, caller.length, "\r\n\r\n", 4) != NULL;
}

/* Asks; the whole answer is there when this returns. */
static void ask_result(const char *method, const char *fields, unsigned expected)
{
    char line[32];

    caller_clear(&caller);
    ask(&caller, method, "/v2/abc/status/j", fields, strcmp(method, "POST") == 0 ? "{}" : NULL);
    if (expected == 304 || strcmp(method, "HEAD") == 0) {
        RUN_UNTIL(head_is_there());
        step();
        caller_read(&caller);
        cr_assert_str_eq(answer_body(&caller), "", "a body came");
    } else {
        RUN_UNTIL(answer_status(&caller) != 0);
    }
    snprintf(line, sizeof line, "HTTP/1.1 %u ", expected);
    cr_assert_eq(strncmp(caller.received, line, strlen(line)), 0, "%.400s", caller.received);
}

static struct view received_body(void)
{
    const char *body = answer_body(&caller);

    return view_make(body, caller.length - (size_t)(body - caller.received));
}

static bool head_has(const char *line)
{
    const char *end = strstr(caller.received, "\r\n\r\n");

    return memmem(caller.received, (size_t)(end - caller.received) + 2, line, strlen(line)) != NULL;
}

#define EXPECT_HEAD(line) cr_expect(head_has(line), "no %s in %.600s", line, caller.received)
#define EXPECT_NO_HEAD(line) cr_expect_not(head_has(line), "%s in %.600s", line, caller.received)

static void expect_exact(void)
{
    cr_expect(view_equal(received_body(), exact), "%zu bytes", received_body().length);
    EXPECT_NO_HEAD("Content-Encoding");
}

static void expect_zstd(void)
{
    struct body *body;

    EXPECT_HEAD("Content-Encoding: zstd\r\n");
    body = result_codec_now(RESULT_ZSTD_TO_IDENTITY, received_body(), exact.length, &budget);
    cr_assert_not_null(body);
    cr_expect(view_equal(body_view(body), exact));
    body_unref(body);
}

static void expect_gzip(void)
{
    char *room = malloc(exact.length);
    struct view bytes = received_body();
    z_stream stream = {.next_in = (Bytef *)bytes.data,
                       .avail_in = (uInt)bytes.length,
                       .next_out = (Bytef *)room,
                       .avail_out = (uInt)exact.length};

    EXPECT_HEAD("Content-Encoding: gzip\r\n");
    cr_assert_eq(inflateInit2(&stream, 15 + 16), Z_OK);
    cr_expect_eq(inflate(&stream, Z_FINISH), Z_STREAM_END);
    cr_expect(view_equal(view_make(room, exact.length - stream.avail_out), exact));
    inflateEnd(&stream);
    free(room);
}

/* ---- the whole ------------------------------------------------------------------------------- */

Test(result_reply, hot_result_is_sent_byte_for_byte_with_its_fields)
{
    char line[128];

    make_result(SMALL_BYTES);
    ask_result("GET", "", 200);
    expect_exact();
    snprintf(line, sizeof line, "ETag: %s\r\n", etag);
    EXPECT_HEAD(line);
    EXPECT_HEAD("Content-Type: application/json\r\n");
    EXPECT_HEAD("Content-Length: 300\r\n");
    EXPECT_HEAD("Repr-Digest: sha-256=:");
    EXPECT_HEAD("Cache-Status: podgate; hit; ttl=600\r\n");
    EXPECT_HEAD("Age: 7\r\n");
    EXPECT_NO_HEAD("Vary");
    EXPECT_NO_HEAD("Podgate-");
    cr_assert_not_null(strstr(end_gateways(), "origin=store cache=hit"));
}

Test(result_reply, says_when_it_came_from_the_store_and_when_the_store_is_away)
{
    make_result(SMALL_BYTES);
    detail = VIEW("; detail=store");
    degraded = true;
    ask_result("GET", "", 200);
    degraded = false;
    EXPECT_HEAD("Cache-Status: podgate; hit; ttl=600; detail=store\r\n");
    EXPECT_HEAD("Podgate-Degraded: store\r\n");
}

Test(result_reply, grows_older_and_never_younger_than_its_end)
{
    make_result(SMALL_BYTES);
    result->ended_ms = clock_wall_ms() + 60000;
    result->expires_ms = clock_wall_ms() - 60000;
    ask_result("GET", "", 200);
    EXPECT_HEAD("Age: 0\r\n");
    EXPECT_HEAD("; ttl=0\r\n");
}

Test(result_reply, result_without_output_is_marked)
{
    make_result(SMALL_BYTES);
    result->completed_without_output = true;
    ask_result("GET", "", 200);
    EXPECT_HEAD("Podgate-Warning: completed-without-output\r\n");
}

Test(result_reply, post_is_answered_as_get)
{
    make_result(SMALL_BYTES);
    ask_result("POST", "If-None-Match: *\r\nRange: bytes=0-1\r\n", 200);
    expect_exact();
}

Test(result_reply, head_has_the_length_and_no_body)
{
    make_result(SMALL_BYTES);
    ask_result("HEAD", "", 200);
    EXPECT_HEAD("Content-Length: 300\r\n");
    EXPECT_HEAD("ETag: ");
}

Test(result_reply, head_of_a_compressed_result_expands_nothing)
{
    make_stored_result(LARGE_BYTES);
    ask_result("HEAD", "", 200);
    EXPECT_HEAD("Content-Length: 500000\r\n");
    EXPECT_HEAD("Accept-Ranges: bytes\r\n");
    cr_expect_null(hot_result_form(result, HOT_IDENTITY));
}

Test(result_reply, connection_goes_on_behind_each_kind_of_answer)
{
    make_result(SMALL_BYTES);
    ask_result("GET", "If-None-Match: *\r\n", 304);
    ask_result("GET", "Range: bytes=900-\r\n", 416);
    ask_result("HEAD", "", 200);
    ask_result("GET", "Range: bytes=0-9\r\n", 206);
    ask_result("GET", "", 200);
    expect_exact();
}

/* ---- not modified ---------------------------------------------------------------------------- */

static void expect_not_modified(const char *format, const char *wanted_etag)
{
    char fields[256];
    char line[128];

    snprintf(fields, sizeof fields, format, etag);
    ask_result("GET", fields, 304);
    snprintf(line, sizeof line, "ETag: %s\r\n", wanted_etag);
    EXPECT_HEAD(line);
    EXPECT_NO_HEAD("Content-Length");
    EXPECT_NO_HEAD("Content-Type");
    EXPECT_HEAD("Cache-Status: podgate; hit");
    EXPECT_HEAD("Date: ");
}

Test(result_reply, caller_that_has_the_bytes_gets_304)
{
    make_result(SMALL_BYTES);
    expect_not_modified("If-None-Match: %s\r\n", etag);
    expect_not_modified("If-None-Match: W/%s\r\n", etag);
    expect_not_modified("If-None-Match: \"other\", %s\r\n", etag);
    expect_not_modified("If-None-Match: \"other\"\r\nIf-None-Match: %s\r\n", etag);
    expect_not_modified("If-None-Match: *\r\n", etag);
    expect_not_modified("If-None-Match: %s\r\nRange: bytes=0-1\r\n", etag);
}

Test(result_reply, caller_that_has_other_bytes_gets_the_result)
{
    make_result(SMALL_BYTES);
    ask_result("GET", "If-None-Match: \"0123456789abcdef0123456789abcdef\"\r\n", 200);
    expect_exact();
    ask_result("GET", "If-None-Match: nonsense\r\n", 200);
    expect_exact();
}

Test(result_reply, caller_that_has_a_compressed_form_is_told_of_that_form)
{
    char gzip[64];
    char fields[128];

    make_result(MEDIUM_BYTES);
    snprintf(gzip, sizeof gzip, "%.*s-gzip\"", (int)strlen(etag) - 1, etag);
    snprintf(fields, sizeof fields, "If-None-Match: %s\r\n", gzip);
    expect_not_modified(fields, gzip);
    EXPECT_HEAD("Vary: Accept-Encoding\r\n");
    cr_expect_null(hot_result_form(result, HOT_GZIP), "nothing is compressed for that");
    snprintf(fields, sizeof fields, "If-None-Match: %.*s-br\"\r\n", (int)strlen(etag) - 1, etag);
    ask_result("GET", fields, 200);
}

/* ---- parts ----------------------------------------------------------------------------------- */

static void expect_part(const char *fields, size_t first, size_t count)
{
    char line[128];

    ask_result("GET", fields, 206);
    cr_expect(view_equal(received_body(), view_make(text + first, count)), "%s", fields);
    snprintf(line, sizeof line, "Content-Range: bytes %zu-%zu/%zu\r\n", first, first + count - 1,
             exact.length);
    EXPECT_HEAD(line);
    snprintf(line, sizeof line, "Content-Length: %zu\r\n", count);
    EXPECT_HEAD(line);
    EXPECT_HEAD("ETag: ");
    EXPECT_NO_HEAD("Content-Encoding");
}

Test(result_reply, one_range_is_sent_as_a_part)
{
    make_result(LARGE_BYTES);
    expect_part("Range: bytes=0-0\r\n", 0, 1);
    expect_part("Range: bytes=250000-\r\n", 250000, 250000);
    expect_part("Range: bytes=-300\r\n", LARGE_BYTES - 300, 300);
    expect_part("Range: bytes=499999-600000\r\n", 499999, 1);
    expect_part("Range: bytes=0-\r\n", 0, LARGE_BYTES);
}

Test(result_reply, part_is_of_the_exact_bytes_whatever_coding_is_accepted)
{
    make_stored_result(LARGE_BYTES);
    expect_part("Range: bytes=100-299999\r\nAccept-Encoding: gzip, zstd\r\n", 100, 299900);
}

Test(result_reply, range_of_one_who_excludes_identity_is_ignored)
{
    make_result(MEDIUM_BYTES);
    ask_result("GET", "Range: bytes=0-1\r\nAccept-Encoding: gzip, identity;q=0\r\n", 200);
    expect_gzip();
}

Test(result_reply, several_ranges_or_a_malformed_one_get_the_whole)
{
    make_result(MEDIUM_BYTES);
    ask_result("GET", "Range: bytes=0-1,5-6\r\n", 200);
    expect_exact();
    ask_result("GET", "Range: lines=0-1\r\n", 200);
    expect_exact();
    ask_result("GET", "Range: bytes=0-1\r\nRange: bytes=5-6\r\n", 200);
    expect_exact();
    ask_result("HEAD", "Range: bytes=0-1\r\n", 200);
}

Test(result_reply, range_behind_the_end_is_refused_with_the_length)
{
    make_result(SMALL_BYTES);
    ask_result("GET", "Range: bytes=300-\r\n", 416);
    EXPECT_HEAD("Content-Range: bytes */300\r\n");
    cr_expect(caller_has(&caller, "\"code\":\"bad_range\""));
    cr_assert_not_null(strstr(end_gateways(), "reason=bad_range"));
}

Test(result_reply, if_range_gets_a_part_of_the_same_bytes_only)
{
    char fields[256];

    make_result(MEDIUM_BYTES);
    snprintf(fields, sizeof fields, "Range: bytes=5-9\r\nIf-Range: %s\r\n", etag);
    expect_part(fields, 5, 5);
    snprintf(fields, sizeof fields, "Range: bytes=5-9\r\nIf-Range: W/%s\r\n", etag);
    ask_result("GET", fields, 200);
    expect_exact();
    ask_result("GET", "Range: bytes=5-9\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 200);
    ask_result("GET", "Range: bytes=900000-\r\nIf-Range: \"other\"\r\n", 200);
    expect_exact();
}

/* ---- codings --------------------------------------------------------------------------------- */

Test(result_reply, small_result_is_sent_as_it_is)
{
    make_result(SMALL_BYTES);
    ask_result("GET", "Accept-Encoding: gzip, zstd\r\n", 200);
    expect_exact();
    ask_result("GET", "Accept-Encoding: gzip, identity;q=0\r\n", 200);
    expect_exact();
}

Test(result_reply, large_result_is_compressed_as_the_caller_wants_it)
{
    static const size_t sizes[] = {MEDIUM_BYTES, LARGE_BYTES};

    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        make_result(sizes[i]);
        ask_result("GET", "Accept-Encoding: gzip\r\n", 200);
        expect_gzip();
        EXPECT_HEAD("-gzip\"\r\n");
        EXPECT_HEAD("Vary: Accept-Encoding\r\n");
        ask_result("GET", "Accept-Encoding: gzip;q=0.5\r\nAccept-Encoding: zstd\r\n", 200);
        expect_zstd();
        ask_result("GET", "", 200);
        expect_exact();
        EXPECT_HEAD("Vary: Accept-Encoding\r\n");
        EXPECT_HEAD("Accept-Ranges: bytes\r\n");
        ask_result("HEAD", "Accept-Encoding: gzip\r\n", 200);
        EXPECT_HEAD("Content-Encoding: gzip\r\n");
        hot_result_unref(result);
        result = NULL;
    }
}

Test(result_reply, stored_result_is_sent_in_any_form)
{
    static const size_t sizes[] = {MEDIUM_BYTES, LARGE_BYTES};

    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        make_stored_result(sizes[i]);
        ask_result("GET", "Accept-Encoding: zstd\r\n", 200);
        expect_zstd();
        cr_expect_null(hot_result_form(result, HOT_IDENTITY), "sent as it lies in the store");
        ask_result("GET", "Accept-Encoding: gzip\r\n", 200);
        expect_gzip();
        ask_result("GET", "", 200);
        expect_exact();
        hot_result_unref(result);
        result = NULL;
    }
}

Test(result_reply, caller_that_leaves_while_a_form_is_made_harms_nothing)
{
    struct caller other;
    struct body *body = NULL;

    make_stored_result(LARGE_BYTES);
    caller_open(&other, FRONT);
    ask(&other, "GET", "/v2/abc/status/j", "", NULL);
    settle();
    caller_close(&other);
    RUN_UNTIL((body = hot_result_form(result, HOT_IDENTITY)) != NULL);
    body_unref(body);
    RUN_UNTIL(request_pool_running(GATEWAY->requests) == 0);
    ask_result("GET", "", 200);
    expect_exact();
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

Test(result_reply, damaged_result_is_refused_told_and_counted)
{
    struct store_job job;

    fill(LARGE_BYTES);
    job = describe();
    job.encoding = STORE_ENCODING_ZSTD;
    make_result_of(&job, VIEW("this was never compressed"));
    ask_result("GET", "", 503);
    cr_expect(caller_has(&caller, "\"code\":\"store_unavailable\""));
    cr_expect_eq(
        metrics_sum(metrics, METRIC_FAULTS, METRIC_PART_STORE, METRIC_STORE_FAULT_MALFORMED), 1);
    cr_assert_not_null(strstr(end_gateways(), "event=stored_result_damaged"));
}

Test(result_reply, other_results_make_room_for_the_one_that_is_asked_for)
{
    struct hot_result *wanted;
    size_t used;

    make_stored_result(LARGE_BYTES);
    wanted = result;
    fill(400000);
    text[20] = 'x';
    struct store_job job = describe();
    job.id = VIEW("other");
    make_result_of(&job, exact);
    hot_cache_put(shared.hot_cache, result);
    hot_result_unref(result);
    result = wanted;
    fill(LARGE_BYTES);
    used = atomic_load(&budget.used_bytes);
    atomic_store(&budget.maximum_bytes, used + 300000);
    ask_result("GET", "", 200);
    expect_exact();
    cr_expect_eq(hot_cache_counts(shared.hot_cache).results, 0);
    atomic_store(&budget.maximum_bytes, used - 300000);
}

Test(result_reply, without_memory_the_caller_is_told_to_come_again)
{
    make_stored_result(LARGE_BYTES);
    atomic_store(&budget.maximum_bytes, atomic_load(&budget.used_bytes) + 1000);
    ask_result("GET", "", 503);
    cr_expect(caller_has(&caller, "\"code\":\"overloaded\""));
    cr_expect(caller_has(&caller, "Retry-After: 1\r\n"));
    cr_assert_null(strstr(end_gateways(), "damaged"));
}

#ifdef PODGATE_FAULTS

static void expect_in_spite_of(const char *rules, size_t length)
{
    const char *problem = NULL;

    make_result(length);
    cr_assert(fault_load(rules, &problem), "%s", problem);
    ask_result("GET", "Accept-Encoding: gzip\r\n", 200);
    expect_exact();
    cr_assert(fault_load(NULL, &problem));
    hot_result_unref(result);
    result = NULL;
}

Test(result_reply, exact_bytes_are_sent_when_the_compressor_fails)
{
    expect_in_spite_of("codec.gzip=ENOMEM", MEDIUM_BYTES);
    expect_in_spite_of("codec.gzip=ENOMEM", LARGE_BYTES);
    expect_in_spite_of("hot.digest=ENOMEM", LARGE_BYTES);
    expect_in_spite_of("codec.start=ENOMEM", LARGE_BYTES);
    expect_in_spite_of("result.wait=ENOMEM", LARGE_BYTES);
}

#endif
