#include "build_config.h"

#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    LINE_BYTES = 2048,
    VALUE_BYTES = 256,
    WRITE_BYTES = 64 * 1024,
    /* While lines flow the writer sleeps between rounds: that batches lines into few writes and
     * saves the workers a wake-up call for each. */
    ROUND_MS = 20,
    /* A line that repeats is folded for this long before its count is written. */
    FOLD_MS = 5000,
    /* How long the end of the daemon waits for a reader that takes no more lines, and how often it
     * is asked whether there is an end. */
    FAREWELL_MS = 500,
    PATIENCE_MS = 100,
};

/* What wakes the writer: nothing, a ring that is half full, any line. */
enum writer_state { WRITER_AWAKE, WRITER_PAUSING, WRITER_ASLEEP };

struct log_line {
    struct log_ring *ring;
    size_t length;
    bool json;
    bool overflowed; /* by the field that is being added */
    char text[LINE_BYTES];
};

/* A queue of bytes between one producer (`written`) and the writer thread (`read`). A record is a
 * 32-bit length and the line; the counters only grow, their difference is what is inside. */
struct log_ring {
    struct log *log;
    struct log_ring *next;
    char *bytes;
    size_t capacity; /* a power of two */
    _Alignas(64) _Atomic size_t written;
    _Alignas(64) _Atomic size_t read;
    struct log_line line;
    uint64_t stamp_second;
    char stamp[CLOCK_RFC3339_LENGTH];
};

struct log {
    pthread_t thread;
    int descriptor;
    size_t write_bytes; /* how much is written at once */
    bool may_block;
    int wake_descriptor;
    enum log_format format;
    bool priorities;
    _Atomic int level;
    _Atomic bool stopping;
    _Atomic uint64_t farewell_ms; /* once stopping: when to give a reader up that takes nothing */
    _Atomic int writer_state;     /* enum writer_state */
    _Atomic uint64_t dropped;
    pthread_mutex_t lock; /* guards `rings` against log_ring_create */
    struct log_ring *rings;
    /* The writer's own: */
    char *line; /* as it came out of a ring */
    char *output;
    size_t output_length;
    uint64_t reported_dropped;
    char *folded; /* the last line, from its level on, for folding repeats */
    size_t folded_length;
    uint64_t folded_count;
    uint64_t folded_since_ms;
};

/* Waits until something can be written. False when the daemon ends and has waited enough. */
static bool wait_for_reader(struct log *log)
{
    struct pollfd wait = {.fd = log->descriptor, .events = POLLOUT};

    while (log->may_block && poll(&wait, 1, PATIENCE_MS) == 0) {
        if (atomic_load(&log->stopping) && clock_mono_ms() >= atomic_load(&log->farewell_ms)) {
            return false;
        }
    }
    return true;
}

/* A pipe or socket that says it is writable takes PIPE_BUF bytes without blocking: so the writer
 * hangs in no system call out of which log_destroy() couldn't get it. */
static void write_all(struct log *log)
{
    size_t done = 0;

    while (done < log->output_length && wait_for_reader(log)) {
        size_t left = log->output_length - done;
        ssize_t count = write(log->descriptor, log->output + done,
                              left < log->write_bytes ? left : log->write_bytes);

        if (count > 0) {
            done += (size_t)count;
        } else if (count < 0 && errno != EINTR && errno != EAGAIN) {
            break; /* nobody reads any more: the lines are lost, the daemon goes on */
        }
    }
    log->output_length = 0;
}

static void append_output(struct log *log, const char *data, size_t length)
{
    if (log->output_length + length > WRITE_BYTES) {
        write_all(log);
    }
    memcpy(log->output + log->output_length, data, length);
    log->output_length += length;
}

/* A line of the writer's own, in the form of all others. */
static void append_notice(struct log *log, const char *event, uint64_t count)
{
    bool json = log->format == LOG_FORMAT_JSON;
    char text[192];
    struct builder line;

    builder_init(&line, text, sizeof text);
    builder_append(&line, log->priorities ? VIEW("<4>") : VIEW(""));
    builder_append(&line, json ? VIEW("{") : VIEW(""));
    if (!log->priorities) {
        char stamp[CLOCK_RFC3339_LENGTH];

        clock_format_rfc3339(clock_wall_ms(), stamp);
        builder_append(&line, json ? VIEW("\"time\":\"") : VIEW("time="));
        builder_append(&line, (struct view){stamp, sizeof stamp});
        builder_append(&line, json ? VIEW("\",") : VIEW(" "));
    }
    builder_append(&line, json ? VIEW("\"level\":\"warning\",\"event\":\"")
                               : VIEW("level=warning event="));
    builder_append(&line, view_of_string(event));
    builder_append(&line, json ? VIEW("\",\"count\":") : VIEW(" count="));
    builder_append_u64(&line, count);
    builder_append(&line, json ? VIEW("}\n") : VIEW("\n"));
    append_output(log, builder_view(&line).data, builder_view(&line).length);
    builder_clear(&line);
}

static void flush_folded(struct log *log)
{
    if (log->folded_count > 0) {
        append_notice(log, "last_line_repeated", log->folded_count);
        log->folded_count = 0;
    }
}

/* What must be equal for two lines to be "the same": all after the time. Request lines carry an id
 * of their own and never are. */
static struct view without_time(struct view line)
{
    const char *level = memmem(line.data, line.length, "level", 5);

    return level ? (struct view){level, line.length - (size_t)(level - line.data)} : line;
}

static void take_line(struct log *log, const char *text, size_t length)
{
    struct view line = {text, length};
    struct view body = without_time(line);
    uint64_t now_ms = clock_mono_ms();

    if (body.length == log->folded_length && body.length <= LINE_BYTES &&
        memcmp(body.data, log->folded, body.length) == 0 &&
        now_ms - log->folded_since_ms < FOLD_MS) {
        log->folded_count++;
        return;
    }
    flush_folded(log);
    append_output(log, text, length);
    if (body.length <= LINE_BYTES) {
        memcpy(log->folded, body.data, body.length);
        log->folded_length = body.length;
    } else {
        log->folded_length = 0;
    }
    log->folded_since_ms = now_ms;
}

static void ring_copy(const struct log_ring *ring, size_t at, char *to, size_t length)
{
    size_t start = at & (ring->capacity - 1);
    size_t first = length < ring->capacity - start ? length : ring->capacity - start;

    memcpy(to, ring->bytes + start, first);
    memcpy(to + first, ring->bytes, length - first);
}

static bool drain_ring(struct log *log, struct log_ring *ring)
{
    size_t written = atomic_load_explicit(&ring->written, memory_order_acquire);
    size_t at = atomic_load_explicit(&ring->read, memory_order_relaxed);
    bool any = at != written;

    while (at != written) {
        uint32_t length;

        ring_copy(ring, at, (char *)&length, sizeof length);
        ring_copy(ring, at + sizeof length, log->line, length);
        at += sizeof length + length;
        atomic_store_explicit(&ring->read, at, memory_order_release);
        take_line(log, log->line, length);
    }
    return any;
}

static bool drain_rings(struct log *log)
{
    struct log_ring *ring;
    bool any = false;
    uint64_t dropped;

    pthread_mutex_lock(&log->lock);
    ring = log->rings;
    pthread_mutex_unlock(&log->lock);
    for (; ring; ring = ring->next) {
        any = drain_ring(log, ring) || any;
    }
    dropped = atomic_load_explicit(&log->dropped, memory_order_relaxed);
    if (dropped != log->reported_dropped) {
        append_notice(log, "log_lines_dropped", dropped - log->reported_dropped);
        log->reported_dropped = dropped;
    }
    if (log->folded_count > 0 && clock_mono_ms() - log->folded_since_ms >= FOLD_MS) {
        flush_folded(log);
        log->folded_length = 0;
    }
    write_all(log);
    return any;
}

static bool rings_are_empty(struct log *log)
{
    bool empty = true;

    pthread_mutex_lock(&log->lock);
    for (struct log_ring *ring = log->rings; ring && empty; ring = ring->next) {
        empty = atomic_load(&ring->written) == atomic_load(&ring->read);
    }
    pthread_mutex_unlock(&log->lock);
    return empty;
}

static void wait_in_state(struct log *log, enum writer_state state, int timeout_ms)
{
    struct pollfd wait = {.fd = log->wake_descriptor, .events = POLLIN};
    uint64_t count;

    atomic_store(&log->writer_state, state);
    if ((state == WRITER_PAUSING || rings_are_empty(log)) && !atomic_load(&log->stopping)) {
        poll(&wait, 1, timeout_ms);
    }
    atomic_store(&log->writer_state, WRITER_AWAKE);
    if (read(log->wake_descriptor, &count, sizeof count) < 0) {
        count = 0; /* nobody had woken us */
    }
}

static void *run_writer(void *argument)
{
    struct log *log = argument;

    while (!atomic_load(&log->stopping)) {
        if (drain_rings(log)) {
            wait_in_state(log, WRITER_PAUSING, ROUND_MS);
        } else {
            wait_in_state(log, WRITER_ASLEEP, log->folded_count > 0 ? FOLD_MS : -1);
        }
    }
    drain_rings(log);
    flush_folded(log);
    write_all(log);
    return NULL;
}

static bool start_writer(struct log *log)
{
    sigset_t all;
    sigset_t before;
    bool started;

    /* Signals belong to the main thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&log->thread, NULL, run_writer, log) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started) {
        pthread_setname_np(log->thread, "log");
    }
    return started;
}

/* Frees what was allocated; no thread runs any more. */
static void free_log(struct log *log)
{
    if (log->wake_descriptor >= 0) {
        close(log->wake_descriptor);
    }
    free(log->line);
    free(log->output);
    free(log->folded);
    pthread_mutex_destroy(&log->lock);
    free(log);
}

static void look_at_descriptor(struct log *log)
{
    struct stat status;

    log->may_block = fstat(log->descriptor, &status) != 0 || !S_ISREG(status.st_mode);
    log->write_bytes = log->may_block ? PIPE_BUF : WRITE_BYTES;
}

struct log *log_create(int descriptor, enum log_format format, enum log_level level,
                       bool priorities)
{
    struct log *log = calloc(1, sizeof *log);

    if (!log) {
        return NULL;
    }
    log->descriptor = descriptor;
    look_at_descriptor(log);
    log->format = format;
    log->priorities = priorities;
    atomic_init(&log->level, (int)level);
    pthread_mutex_init(&log->lock, NULL);
    log->wake_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    log->line = malloc(LINE_BYTES);
    log->output = malloc(WRITE_BYTES);
    log->folded = malloc(LINE_BYTES);
    if (log->wake_descriptor < 0 || !log->line || !log->output || !log->folded ||
        !start_writer(log)) {
        free_log(log);
        return NULL;
    }
    return log;
}

static void wake_writer(struct log *log)
{
    uint64_t one = 1;

    if (write(log->wake_descriptor, &one, sizeof one) < 0) {
        return; /* the counter is full: the writer is awake already */
    }
}

void log_destroy(struct log *log)
{
    if (!log) {
        return;
    }
    atomic_store(&log->farewell_ms, clock_mono_ms() + FAREWELL_MS);
    atomic_store(&log->stopping, true);
    wake_writer(log);
    pthread_join(log->thread, NULL);
    while (log->rings) {
        struct log_ring *ring = log->rings;

        log->rings = ring->next;
        free(ring->bytes);
        free(ring);
    }
    free_log(log);
}

struct log_ring *log_ring_create(struct log *log, size_t bytes)
{
    struct log_ring *ring = aligned_alloc(64, (sizeof *ring + 63) / 64 * 64);
    size_t capacity = 4096;

    if (!ring) {
        return NULL;
    }
    memset(ring, 0, sizeof *ring);
    while (capacity < bytes) {
        capacity *= 2;
    }
    ring->bytes = malloc(capacity);
    if (!ring->bytes) {
        free(ring);
        return NULL;
    }
    ring->capacity = capacity;
    ring->log = log;
    ring->line.ring = ring;
    ring->line.json = log->format == LOG_FORMAT_JSON;
    pthread_mutex_lock(&log->lock);
    ring->next = log->rings;
    log->rings = ring;
    pthread_mutex_unlock(&log->lock);
    return ring;
}

void log_set_level(struct log *log, enum log_level level)
{
    atomic_store_explicit(&log->level, (int)level, memory_order_relaxed);
}

struct log *log_of_ring(struct log_ring *ring)
{
    return ring->log;
}

bool log_wants(const struct log_ring *ring, enum log_level level)
{
    return ring && (int)level <= atomic_load_explicit(&ring->log->level, memory_order_relaxed);
}

/* Room is kept for the end of the line. What doesn't fit is remembered, see end_field(). */
static void put(struct log_line *line, const char *data, size_t length)
{
    if (length > LINE_BYTES - 8 - line->length) {
        line->overflowed = true;
        return;
    }
    memcpy(line->text + line->length, data, length);
    line->length += length;
}

/* A field that does not fit is left out as a whole: half a string would make the line unreadable,
 * and with it the fields that do fit. */
static void end_field(struct log_line *line, size_t start)
{
    if (line->overflowed) {
        line->length = start;
        line->overflowed = false;
    }
}

static void put_string(struct log_line *line, const char *text)
{
    put(line, text, strlen(text));
}

/* The time of day is formatted once a second; in between only the milliseconds change. */
static void put_time(struct log_line *line, struct log_ring *ring)
{
    uint64_t now_ms = clock_wall_ms();
    uint64_t millisecond = now_ms % 1000;

    if (ring->stamp_second != now_ms / 1000) {
        ring->stamp_second = now_ms / 1000;
        clock_format_rfc3339(now_ms, ring->stamp);
    }
    ring->stamp[20] = (char)('0' + millisecond / 100);
    ring->stamp[21] = (char)('0' + millisecond / 10 % 10);
    ring->stamp[22] = (char)('0' + millisecond % 10);
    put_string(line, line->json ? "\"time\":\"" : "time=");
    put(line, ring->stamp, CLOCK_RFC3339_LENGTH);
    put_string(line, line->json ? "\"," : " ");
}

struct log_line *log_begin(struct log_ring *ring, enum log_level level, const char *event)
{
    static const char *const priorities[] = {"<3>", "<4>", "<6>", "<7>"};
    static const char *const names[] = {"error", "warning", "info", "debug"};
    struct log_line *line;

    if (!log_wants(ring, level)) {
        return NULL;
    }
    line = &ring->line;
    line->length = 0;
    line->overflowed = false;
    if (ring->log->priorities) {
        put_string(line, priorities[level]);
    }
    if (line->json) {
        put(line, "{", 1);
    }
    if (!ring->log->priorities) {
        put_time(line, ring);
    }
    put_string(line, line->json ? "\"level\":\"" : "level=");
    put_string(line, names[level]);
    put_string(line, line->json ? "\",\"event\":\"" : " event=");
    put_string(line, event);
    if (line->json) {
        put(line, "\"", 1);
    }
    return line;
}

static void put_key(struct log_line *line, const char *key)
{
    put_string(line, line->json ? ",\"" : " ");
    put_string(line, key);
    put_string(line, line->json ? "\":" : "=");
}

static bool is_plain(unsigned char byte)
{
    return byte > 0x20 && byte < 0x7f && byte != '"' && byte != '\\' && byte != '=';
}

static void put_escaped(struct log_line *line, struct view value)
{
    static const char hex[] = "0123456789abcdef";

    for (size_t i = 0; i < value.length; i++) {
        unsigned char byte = (unsigned char)value.data[i];

        if (byte == '"' || byte == '\\') {
            char escape[2] = {'\\', (char)byte};

            put(line, escape, sizeof escape);
        } else if (byte >= 0x20 && byte < 0x7f) {
            put(line, value.data + i, 1);
        } else {
            char escape[6] = {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};

            put(line, escape, sizeof escape);
        }
    }
}

static void put_value(struct log_line *line, struct view value)
{
    bool plain = true;

    for (size_t i = 0; i < value.length && plain; i++) {
        plain = is_plain((unsigned char)value.data[i]);
    }
    if (plain && !line->json) {
        put(line, value.data, value.length);
        return;
    }
    put(line, "\"", 1);
    if (plain) {
        put(line, value.data, value.length);
    } else {
        put_escaped(line, value);
    }
    put(line, "\"", 1);
}

void log_text(struct log_line *line, const char *key, struct view value)
{
    size_t start;

    if (!line || value.length == 0) {
        return;
    }
    start = line->length;
    put_key(line, key);
    put_value(line, view_first(value, VALUE_BYTES));
    end_field(line, start);
}

void log_word(struct log_line *line, const char *key, struct view value)
{
    if (!line || value.length == 0) {
        return;
    }
    put_key(line, key);
    if (line->json) {
        put(line, "\"", 1);
    }
    put(line, value.data, value.length < VALUE_BYTES ? value.length : VALUE_BYTES);
    if (line->json) {
        put(line, "\"", 1);
    }
}

void log_string(struct log_line *line, const char *key, const char *value)
{
    if (line && value) {
        log_text(line, key, view_of_string(value));
    }
}

void log_number(struct log_line *line, const char *key, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    size_t start;

    if (!line) {
        return;
    }
    start = line->length;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put_key(line, key);
    put(line, digits + at, sizeof digits - at);
    end_field(line, start);
}

static void ring_put(struct log_ring *ring, size_t at, const char *from, size_t length)
{
    size_t start = at & (ring->capacity - 1);
    size_t first = length < ring->capacity - start ? length : ring->capacity - start;

    memcpy(ring->bytes + start, from, first);
    memcpy(ring->bytes, from + first, length - first);
}

static void wake_writer_if_due(struct log *log, bool half_full)
{
    int state = atomic_load(&log->writer_state);

    if ((state == WRITER_ASLEEP || (state == WRITER_PAUSING && half_full)) &&
        atomic_compare_exchange_strong(&log->writer_state, &state, WRITER_AWAKE)) {
        wake_writer(log);
    }
}

void log_end(struct log_line *line)
{
    struct log_ring *ring;
    uint32_t length;
    size_t written;
    size_t used;

    if (!line) {
        return;
    }
    ring = line->ring;
    if (line->json) {
        line->text[line->length++] = '}';
    }
    line->text[line->length++] = '\n';
    length = (uint32_t)line->length;
    written = atomic_load_explicit(&ring->written, memory_order_relaxed);
    used = written - atomic_load_explicit(&ring->read, memory_order_acquire);
    if (ring->capacity - used < sizeof length + length) {
        atomic_fetch_add_explicit(&ring->log->dropped, 1, memory_order_relaxed);
        return;
    }
    ring_put(ring, written, (const char *)&length, sizeof length);
    ring_put(ring, written + sizeof length, line->text, length);
    /* Sequentially consistent with `writer_state`, so that either the writer sees the line before
     * it sleeps or this thread sees it asleep. */
    atomic_store(&ring->written, written + sizeof length + length);
    wake_writer_if_due(ring->log, used + length > ring->capacity / 2);
}

uint64_t log_dropped(const struct log *log)
{
    return atomic_load_explicit(&log->dropped, memory_order_relaxed);
}
