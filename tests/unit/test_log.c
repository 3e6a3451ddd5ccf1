#include "build_config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* The log writes into a file without a name; what it wrote is read when it has ended. */
static int file = -1;
static struct log *writer;
static struct log_ring *ring;
static char *text;

static void start(enum log_format format, enum log_level level, bool priorities)
{
    char path[] = "/tmp/podgate-test-XXXXXX";

    file = mkstemp(path);
    cr_assert_geq(file, 0);
    unlink(path);
    writer = log_create(file, format, level, priorities);
    cr_assert_not_null(writer);
    ring = log_ring_create(writer, 65536);
    cr_assert_not_null(ring);
}

/* Ends the log and gives what it wrote. */
static const char *written(void)
{
    off_t size;

    log_destroy(writer);
    writer = NULL;
    size = lseek(file, 0, SEEK_END);
    cr_assert_geq(size, 0);
    text = malloc((size_t)size + 1);
    cr_assert_not_null(text);
    cr_assert_eq(pread(file, text, (size_t)size, 0), size);
    text[size] = '\0';
    return text;
}

static void finish(void)
{
    log_destroy(writer);
    free(text);
    if (file >= 0) {
        close(file);
    }
}

TestSuite(log, .fini = finish, .timeout = 60);

static size_t count_of(const char *page, const char *word)
{
    size_t count = 0;

    for (const char *at = page; (at = strstr(at, word)) != NULL; at += strlen(word)) {
        count++;
    }
    return count;
}

static void say(enum log_level level, const char *event)
{
    log_end(log_begin(ring, level, event));
}

Test(log, writes_key_value_lines_with_time_level_and_event)
{
    start(LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, false);
    struct log_line *line = log_begin(ring, LOG_LEVEL_INFO, "request_done");
    log_text(line, "team", VIEW("vision"));
    log_string(line, "key", "ci");
    log_number(line, "status", 200);
    log_number(line, "nothing", 0);
    log_number(line, "most", UINT64_MAX);
    log_end(line);
    const char *page = written();

    cr_assert_eq(strncmp(page, "time=20", 7), 0, "%s", page);
    cr_expect_eq(page[5 + CLOCK_RFC3339_LENGTH - 1], 'Z');
    cr_expect_str_eq(page + 5 + CLOCK_RFC3339_LENGTH,
                     " level=info event=request_done team=vision key=ci status=200 nothing=0"
                     " most=18446744073709551615\n");
}

Test(log, writes_systemds_priorities_instead_of_the_time)
{
    start(LOG_FORMAT_KEY_VALUE, LOG_LEVEL_DEBUG, true);
    say(LOG_LEVEL_ERROR, "a");
    say(LOG_LEVEL_WARNING, "b");
    say(LOG_LEVEL_INFO, "c");
    say(LOG_LEVEL_DEBUG, "d");
    cr_expect_str_eq(written(), "<3>level=error event=a\n<4>level=warning event=b\n"
                                "<6>level=info event=c\n<7>level=debug event=d\n");
}

Test(log, leaves_out_levels_that_nobody_wants)
{
    start(LOG_FORMAT_KEY_VALUE, LOG_LEVEL_WARNING, true);
    cr_expect_null(log_begin(ring, LOG_LEVEL_INFO, "unwanted"));
    cr_expect_not(log_wants(ring, LOG_LEVEL_INFO));
    cr_expect(log_wants(ring, LOG_LEVEL_WARNING));
    say(LOG_LEVEL_INFO, "unwanted");
    log_text(NULL, "key", VIEW("value"));
    log_string(NULL, "key", "value");
    log_number(NULL, "key", 1);
    say(LOG_LEVEL_WARNING, "wanted");
    log_set_level(writer, LOG_LEVEL_DEBUG);
    say(LOG_LEVEL_DEBUG, "wanted_later");
    cr_expect_str_eq(written(),
                     "<4>level=warning event=wanted\n<7>level=debug event=wanted_later\n");
}

Test(log, takes_no_ring)
{
    cr_expect_null(log_begin(NULL, LOG_LEVEL_ERROR, "nobody"));
    cr_expect_not(log_wants(NULL, LOG_LEVEL_ERROR));
}

Test(log, escapes_what_could_be_taken_for_another_field_or_line)
{
    start(LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    struct log_line *line = log_begin(ring, LOG_LEVEL_INFO, "e");
    log_text(line, "space", VIEW("a b"));
    log_text(line, "quote", VIEW("a\"b\\c"));
    log_text(line, "equals", VIEW("a=b"));
    log_text(line, "lines", VIEW("a\r\nlevel=error\t\0\x7f\xc3\xa9"));
    log_text(line, "empty", VIEW(""));
    log_string(line, "null", NULL);
    log_end(line);
    cr_expect_str_eq(written(),
                     "<6>level=info event=e space=\"a b\" quote=\"a\\\"b\\\\c\" equals=\"a=b\" "
                     "lines=\"a\\u000d\\u000alevel=error\\u0009\\u0000\\u007f\\u00c3\\u00a9\"\n");
}

Test(log, clips_long_values)
{
    char value[1000];
    char expected[400];

    memset(value, 'v', sizeof value);
    start(LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    struct log_line *line = log_begin(ring, LOG_LEVEL_INFO, "e");
    log_text(line, "long", (struct view){value, sizeof value});
    log_number(line, "after", 1);
    log_end(line);
    snprintf(expected, sizeof expected, "<6>level=info event=e long=%.256s after=1\n", value);
    cr_expect_str_eq(written(), expected);
}

static json_t *parse_line(const char *line)
{
    const char *end = strchr(line, '\n');
    json_error_t error;
    json_t *object;

    cr_assert_not_null(end);
    object = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    cr_assert_not_null(object, "%s in %.*s", error.text, (int)(end - line), line);
    cr_assert(json_is_object(object));
    return object;
}

Test(log, writes_json_that_a_parser_takes)
{
    start(LOG_FORMAT_JSON, LOG_LEVEL_INFO, false);
    struct log_line *line = log_begin(ring, LOG_LEVEL_INFO, "request_done");
    log_text(line, "plain", VIEW("vision"));
    log_text(line, "odd", VIEW("a \"b\" \\ = \n\x01\x7f"));
    log_number(line, "status", 200);
    log_end(line);
    json_t *object = parse_line(written());

    cr_expect_str_eq(json_string_value(json_object_get(object, "level")), "info");
    cr_expect_str_eq(json_string_value(json_object_get(object, "event")), "request_done");
    cr_expect_eq(json_string_length(json_object_get(object, "time")), CLOCK_RFC3339_LENGTH);
    cr_expect_str_eq(json_string_value(json_object_get(object, "plain")), "vision");
    cr_expect_str_eq(json_string_value(json_object_get(object, "odd")), "a \"b\" \\ = \n\x01\x7f");
    cr_expect_eq(json_integer_value(json_object_get(object, "status")), 200);
    json_decref(object);
}

/* Fields of every length up to far more than a line holds: wherever the room ends, the line is
 * valid and what follows in shorter fields is still there. */
static void expect_valid_when_full(enum log_format format, const char *bytes, size_t length)
{
    char keys[64][8];

    for (size_t i = 0; i < 64; i++) {
        snprintf(keys[i], sizeof keys[i], "k%zu", i);
    }
    for (size_t first = 1; first < 256; first += 7) {
        struct log_line *line = log_begin(ring, LOG_LEVEL_INFO, "full");

        log_text(line, "first", (struct view){bytes, first < length ? first : length});
        for (size_t i = 0; i < 64; i++) {
            log_text(line, keys[i], (struct view){bytes, length});
        }
        log_number(line, "z", first);
        log_end(line);
    }
    if (format != LOG_FORMAT_JSON) {
        return;
    }
    const char *at = written();
    size_t lines = 0;
    for (; *at; at = strchr(at, '\n') + 1, lines++) {
        json_t *object = parse_line(at);

        cr_expect_not_null(json_object_get(object, "first"));
        json_decref(object);
    }
    cr_expect_eq(lines, 37);
}

Test(log, line_that_overflows_stays_valid_json)
{
    char bytes[200];

    memset(bytes, 'x', sizeof bytes);
    start(LOG_FORMAT_JSON, LOG_LEVEL_INFO, false);
    ring = log_ring_create(writer, 1 << 20);
    expect_valid_when_full(LOG_FORMAT_JSON, bytes, sizeof bytes);
}

Test(log, line_of_escapes_that_overflows_stays_valid_json)
{
    char bytes[101];

    memset(bytes, '\x02', sizeof bytes);
    start(LOG_FORMAT_JSON, LOG_LEVEL_INFO, false);
    ring = log_ring_create(writer, 1 << 20);
    expect_valid_when_full(LOG_FORMAT_JSON, bytes, sizeof bytes);
}

Test(log, folds_repeats_and_says_how_many)
{
    start(LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    for (int i = 0; i < 10; i++) {
        say(LOG_LEVEL_WARNING, "again");
    }
    say(LOG_LEVEL_WARNING, "other");
    for (int i = 0; i < 3; i++) {
        say(LOG_LEVEL_WARNING, "again");
    }
    cr_expect_str_eq(written(), "<4>level=warning event=again\n"
                                "<4>level=warning event=last_line_repeated count=9\n"
                                "<4>level=warning event=other\n"
                                "<4>level=warning event=again\n"
                                "<4>level=warning event=last_line_repeated count=2\n");
}

Test(log, folds_lines_that_differ_in_their_time_only)
{
    start(LOG_FORMAT_JSON, LOG_LEVEL_INFO, false);
    uint64_t before_ms = clock_wall_ms();
    say(LOG_LEVEL_WARNING, "again");
    while (clock_wall_ms() < before_ms + 3) {
        continue;
    }
    say(LOG_LEVEL_WARNING, "again");
    const char *page = written();
    cr_expect_eq(count_of(page, "\"again\""), 1, "%s", page);
    cr_expect_eq(count_of(page, "\"last_line_repeated\",\"count\":1}"), 1, "%s", page);
    json_decref(parse_line(page));
    json_t *notice = parse_line(strchr(page, '\n') + 1);
    cr_expect_not_null(json_object_get(notice, "time"));
    json_decref(notice);
}

/* ---- full rings ---- */

Test(log, full_ring_drops_lines_counts_them_and_says_so)
{
    int pipe_ends[2];
    struct log *blocked;
    struct log_ring *small;
    char bytes[65536];
    size_t length = 0;
    ssize_t count;

    cr_assert_eq(pipe2(pipe_ends, O_CLOEXEC), 0);
    /* A full pipe blocks the writer at its first line. */
    cr_assert_eq(fcntl(pipe_ends[1], F_SETFL, O_NONBLOCK), 0);
    memset(bytes, '\n', sizeof bytes);
    while (write(pipe_ends[1], bytes, sizeof bytes) > 0) {
        length += sizeof bytes;
    }
    cr_assert_eq(fcntl(pipe_ends[1], F_SETFL, 0), 0);
    blocked = log_create(pipe_ends[1], LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    small = log_ring_create(blocked, 4096);
    cr_assert(blocked && small);
    size_t said = 0;
    while (log_dropped(blocked) < 10) {
        struct log_line *line = log_begin(small, LOG_LEVEL_INFO, "line");

        log_number(line, "number", said++);
        log_end(line);
    }
    uint64_t dropped = log_dropped(blocked);

    /* The reader wakes up: all but the dropped lines come, and a line that says how many. */
    char *page = malloc(1 << 20);
    size_t page_length = 0;
    char wanted[80];
    cr_assert_not_null(page);
    snprintf(wanted, sizeof wanted, "event=log_lines_dropped count=%llu\n",
             (unsigned long long)dropped);
    page[0] = '\0';
    while (!strstr(page, wanted)) {
        count = read(pipe_ends[0], page + page_length, (1 << 20) - 1 - page_length);
        cr_assert_gt(count, 0);
        /* The filling is skipped, to keep the text short. */
        page_length += (size_t)count;
        if (page_length > 0 && page[page_length - 1] == '\n' && strspn(page, "\n") == page_length) {
            page_length = 0;
        }
        page[page_length] = '\0';
    }
    cr_expect_eq(count_of(page, "event=line "), said - dropped);
    free(page);
    log_destroy(blocked);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

Test(log, ends_though_nobody_reads)
{
    int pipe_ends[2];
    char bytes[4096];

    cr_assert_eq(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
    memset(bytes, '\n', sizeof bytes);
    while (write(pipe_ends[1], bytes, sizeof bytes) > 0) {
        continue;
    }
    cr_assert_eq(fcntl(pipe_ends[1], F_SETFL, 0), 0);
    struct log *blocked = log_create(pipe_ends[1], LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    struct log_ring *small = log_ring_create(blocked, 4096);
    cr_assert(blocked && small);
    log_end(log_begin(small, LOG_LEVEL_INFO, "unread"));
    log_destroy(blocked);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

Test(log, goes_on_when_the_reader_is_gone)
{
    int pipe_ends[2];

    cr_assert_eq(pipe2(pipe_ends, O_CLOEXEC), 0);
    close(pipe_ends[0]);
    struct log *orphan = log_create(pipe_ends[1], LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    struct log_ring *own = log_ring_create(orphan, 4096);
    cr_assert(orphan && own);
    log_end(log_begin(own, LOG_LEVEL_INFO, "unheard"));
    log_destroy(orphan); /* SIGPIPE would have ended this process */
    close(pipe_ends[1]);
}

/* ---- several threads ---- */

enum { THREADS = 4, LINES = 20000 };

static void *log_a_lot(void *argument)
{
    struct log_ring *own = argument;

    for (uint64_t i = 0; i < LINES; i++) {
        struct log_line *line = log_begin(own, LOG_LEVEL_INFO, "line");

        log_number(line, "ring", (uint64_t)(uintptr_t)own);
        log_number(line, "number", i);
        log_end(line);
    }
    return NULL;
}

Test(log, loses_no_line_of_four_threads_and_keeps_the_order_of_each)
{
    pthread_t threads[THREADS];
    struct log_ring *rings[THREADS];
    uint64_t next[THREADS] = {0};

    start(LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    for (size_t i = 0; i < THREADS; i++) {
        rings[i] = log_ring_create(writer, 4 << 20); /* room for all, whatever the writer does */
        cr_assert_not_null(rings[i]);
        cr_assert_eq(pthread_create(&threads[i], NULL, log_a_lot, rings[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    cr_expect_eq(log_dropped(writer), 0);
    for (char *at = (char *)(uintptr_t)written(), *end; *at; at = end + 1) {
        unsigned long long ring_number;
        unsigned long long number;
        size_t i = 0;

        end = strchr(at, '\n');
        cr_assert_not_null(end);
        *end = '\0';
        cr_assert_eq(sscanf(at, "<6>level=info event=line ring=%llu number=%llu", &ring_number,
                            &number),
                     2, "%s", at);
        while (i < THREADS && (unsigned long long)(uintptr_t)rings[i] != ring_number) {
            i++;
        }
        cr_assert_lt(i, (size_t)THREADS);
        cr_assert_eq(number, next[i]);
        next[i]++;
    }
    for (size_t i = 0; i < THREADS; i++) {
        cr_expect_eq(next[i], (uint64_t)LINES);
    }
}

/* The writer sleeps between lines that come seldom: each must wake it. */
Test(log, wakes_the_writer_for_each_line)
{
    int pipe_ends[2];

    cr_assert_eq(pipe2(pipe_ends, O_CLOEXEC), 0);
    struct log *piped = log_create(pipe_ends[1], LOG_FORMAT_KEY_VALUE, LOG_LEVEL_INFO, true);
    struct log_ring *own = log_ring_create(piped, 4096);
    cr_assert(piped && own);
    for (uint64_t i = 0; i < 20; i++) {
        struct log_line *line = log_begin(own, LOG_LEVEL_INFO, "line");
        struct pollfd wait = {.fd = pipe_ends[0], .events = POLLIN};
        char bytes[256];

        log_number(line, "number", i);
        log_end(line);
        cr_assert_eq(poll(&wait, 1, 10000), 1, "line %d was not written", (int)i);
        cr_assert_gt(read(pipe_ends[0], bytes, sizeof bytes), 0);
    }
    log_destroy(piped);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}
