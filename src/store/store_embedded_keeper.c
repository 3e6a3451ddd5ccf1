#include "build_config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "model/metric_catalogue.h"
#include "store/store_embedded.h"

/* What keeps the embedded store able to work: its log is copied back, room on the disk is watched
 * and held in reserve, steps of the clock are noticed. */

enum {
    ROUND_MS = 1000,
    RESERVE_BYTES = 2 * EMBEDDED_WAL_MOST_PAGES * EMBEDDED_PAGE_BYTES,
    RESERVE_SHARE = 16, /* on a small file system no more than a sixteenth */
    STEP_MS = 1000,     /* a slewed clock doesn't move that far in a round */
    BOTH_CLOCKS_MS = 100,
};

/* ---- queues ---------------------------------------------------------------------------------- */

/* With the lock held. */
static void wake(struct embedded_queue *queue)
{
    static const uint64_t one = 1;
    ssize_t count;

    if (!queue->sleeping) {
        return;
    }
    queue->sleeping = false;
    if (!queue->is_timed) {
        pthread_cond_signal(&queue->filled);
        return;
    }
    do {
        count = write(queue->wake_descriptor, &one, sizeof one);
    } while (count < 0 && errno == EINTR);
}

void embedded_queue_put(struct embedded_queue *queue, struct store_call *first)
{
    struct store_call **last = &first->next;

    while (*last) {
        last = &(*last)->next;
    }
    pthread_mutex_lock(&queue->lock);
    *queue->last = first;
    queue->last = last;
    wake(queue);
    pthread_mutex_unlock(&queue->lock);
}

void embedded_queue_nudge(struct embedded_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->nudged = true;
    wake(queue);
    pthread_mutex_unlock(&queue->lock);
}

bool embedded_queue_is_empty(struct embedded_queue *queue)
{
    bool is_empty;

    pthread_mutex_lock(&queue->lock);
    is_empty = !queue->first;
    pthread_mutex_unlock(&queue->lock);
    return is_empty;
}

/* A time-out by poll() and not by a condition, whose time-out is a point of a clock that tests
 * stop. With the lock held. */
static void wait_a_while(struct embedded_queue *queue, int wait_ms)
{
    struct pollfd waiting = {.fd = queue->wake_descriptor, .events = POLLIN};
    uint64_t count;

    pthread_mutex_unlock(&queue->lock);
    if (poll(&waiting, 1, wait_ms) > 0 && read(queue->wake_descriptor, &count, sizeof count) < 0) {
        count = 0;
    }
    pthread_mutex_lock(&queue->lock);
}

bool embedded_queue_take(struct embedded_queue *queue, int wait_ms, struct store_call **first)
{
    bool waited = false;
    bool goes_on;

    pthread_mutex_lock(&queue->lock);
    queue->is_timed = wait_ms >= 0;
    while (!queue->first && !queue->stopping && !queue->nudged && !waited) {
        queue->sleeping = true;
        if (queue->is_timed) {
            wait_a_while(queue, wait_ms);
            waited = true;
        } else {
            pthread_cond_wait(&queue->filled, &queue->lock);
        }
    }
    queue->sleeping = false;
    queue->nudged = false;
    *first = queue->first;
    queue->first = NULL;
    queue->last = &queue->first;
    goes_on = *first || !queue->stopping;
    pthread_mutex_unlock(&queue->lock);
    return goes_on;
}

/* ---- troubles -------------------------------------------------------------------------------- */

enum store_result embedded_result_of_error(int error)
{
    switch (error & 0xff) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM: return STORE_FULL;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return STORE_AWAY;
    case SQLITE_NOMEM: return STORE_NO_MEMORY;
    default: return STORE_BROKEN;
    }
}

static char *reserve_path(const struct embedded *embedded)
{
    char *path;

    return asprintf(&path, "%s.reserve", embedded->path) < 0 ? NULL : path;
}

/* So that deleting and expiring, which write too, can still be done on a full disk. */
static void free_reserve(struct embedded *embedded)
{
    char *path = reserve_path(embedded);

    if (path) {
        (void)unlink(path);
        free(path);
    }
    atomic_store(&embedded->has_reserve, false);
}

static const char *trouble_text(enum embedded_trouble trouble)
{
    switch (trouble) {
    case EMBEDDED_TROUBLE_WRITE: return "a write failed";
    case EMBEDDED_TROUBLE_SYNC: return "a sync failed";
    case EMBEDDED_TROUBLE_ROOM: return "little room is left on the file system";
    }
    return "";
}

void embedded_set_trouble(struct embedded *embedded, enum embedded_hand hand,
                          enum embedded_trouble trouble, bool is)
{
    struct log_line *line;
    unsigned before;
    unsigned after;

    if (((atomic_load(&embedded->troubles) & trouble) != 0) == is) {
        return;
    }
    pthread_mutex_lock(&embedded->trouble_lock);
    before = atomic_load(&embedded->troubles);
    after = is ? before | trouble : before & ~(unsigned)trouble;
    atomic_store(&embedded->troubles, after);
    pthread_mutex_unlock(&embedded->trouble_lock);
    if (before == after) {
        return;
    }
    line = log_begin(embedded->hands[hand].log, is ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO,
                     is ? "store_full" : "store_ready");
    log_string(line, "reason", trouble_text(trouble));
    log_string(line, "path", embedded->path);
    log_end(line);
}

static enum metric_store_fault fault_of_error(int error)
{
    switch (error & 0xff) {
    case SQLITE_FULL: return METRIC_STORE_FAULT_FULL;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return METRIC_STORE_FAULT_LOCKED;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return METRIC_STORE_FAULT_MALFORMED;
    default: return METRIC_STORE_FAULT_IO;
    }
}

void embedded_note_error(struct embedded *embedded, enum embedded_hand hand, int error)
{
    struct log_line *line;

    metrics_add(embedded->hands[hand].metrics, METRIC_FAULTS, METRIC_PART_STORE,
                fault_of_error(error), 1);
    if (hand != EMBEDDED_READER && embedded_result_of_error(error) == STORE_FULL) {
        if (!(atomic_load(&embedded->troubles) & EMBEDDED_TROUBLE_WRITE)) {
            free_reserve(embedded);
        }
        embedded_set_trouble(embedded, hand, EMBEDDED_TROUBLE_WRITE, true);
        return;
    }
    line = log_begin(embedded->hands[hand].log, LOG_LEVEL_ERROR, "store_error");
    log_string(line, "reason", sqlite3_errstr(error));
    log_string(line, "path", embedded->path);
    log_end(line);
}

/* ---- the log --------------------------------------------------------------------------------- */

bool embedded_checkpoint(struct embedded *embedded, enum embedded_hand hand, bool truncate)
{
    int mode = truncate ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;
    uint64_t committed = atomic_load(&embedded->committed);
    int in_log = -1;
    int copied = -1;
    int error;

    pthread_mutex_lock(&embedded->keeper_lock);
    error =
        FAULT_POINT("store.checkpoint")
            ? SQLITE_IOERR
            : sqlite3_wal_checkpoint_v2(embedded->keeper.database, NULL, mode, &in_log, &copied);
    if (error == SQLITE_OK && copied >= 0) {
        atomic_store(&embedded->copied_pages, (unsigned)copied);
    }
    pthread_mutex_unlock(&embedded->keeper_lock);
    if (error == SQLITE_OK) {
        /* One of the log, one of the file. */
        metrics_add(embedded->hands[hand].metrics, METRIC_STORE_SYNCS, 0, 0, 2);
    } else if (embedded_result_of_error(error) == STORE_FULL) {
        embedded_note_error(embedded, hand, error);
    }
    if (error == SQLITE_OK && truncate && in_log == copied) {
        atomic_store(&embedded->synced, committed);
        return true;
    }
    return error == SQLITE_OK && !truncate;
}

bool embedded_log_is_long(const struct embedded *embedded, unsigned pages)
{
    unsigned in_log = atomic_load(&embedded->wal_pages);
    unsigned copied = atomic_load(&embedded->copied_pages);

    /* Fewer than were copied: it was begun anew since. */
    return in_log >= copied ? in_log - copied >= pages : in_log >= pages;
}

/* ---- room ------------------------------------------------------------------------------------ */

static bool look_at_disk(const struct embedded *embedded, uint64_t *free_bytes,
                         uint64_t *total_bytes)
{
    struct statvfs status;

    if (statvfs(embedded->path, &status) != 0) {
        return false;
    }
    *free_bytes = (uint64_t)status.f_bavail * status.f_frsize;
    *total_bytes = (uint64_t)status.f_blocks * status.f_frsize;
    return true;
}

static void make_reserve(struct embedded *embedded)
{
    char *path = reserve_path(embedded);
    int descriptor = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

    if (descriptor >= 0) {
        bool is_made = posix_fallocate(descriptor, 0, (off_t)embedded->reserve_bytes) == 0;

        close(descriptor);
        if (!is_made) {
            (void)unlink(path);
        }
        atomic_store(&embedded->has_reserve, is_made);
    }
    free(path);
}

/* The file never shrinks, but what comes next is written where results have gone. */
static uint64_t free_in_file(struct embedded *embedded)
{
    uint64_t pages;

    pthread_mutex_lock(&embedded->keeper_lock);
    pages = embedded_query_number(&embedded->keeper, "PRAGMA freelist_count", NULL, 0, 0);
    pthread_mutex_unlock(&embedded->keeper_lock);
    return pages * EMBEDDED_PAGE_BYTES;
}

static void watch_room(struct embedded *embedded)
{
    uint64_t free_bytes;
    uint64_t total_bytes;
    uint64_t low_bytes;

    if (!look_at_disk(embedded, &free_bytes, &total_bytes)) {
        return;
    }
    embedded->reserve_bytes =
        total_bytes / RESERVE_SHARE < RESERVE_BYTES ? total_bytes / RESERVE_SHARE : RESERVE_BYTES;
    atomic_store(&embedded->log_most_pages,
                 (unsigned)(embedded->reserve_bytes / 2 / EMBEDDED_PAGE_BYTES));
    if (!atomic_load(&embedded->has_reserve) && free_bytes > 3 * embedded->reserve_bytes &&
        !(atomic_load(&embedded->troubles) & EMBEDDED_TROUBLE_WRITE)) {
        make_reserve(embedded);
        free_bytes -= embedded->reserve_bytes;
    }
    if (free_bytes >= embedded->reserve_bytes / 2) { /* the log needs room outside of the file */
        free_bytes += free_in_file(embedded);
    }
    low_bytes = embedded->reserve_bytes * (atomic_load(&embedded->has_reserve) ? 1 : 2);
    /* Not at the same mark in and out, or each submit would change it. */
    if (free_bytes < low_bytes || free_bytes > low_bytes + embedded->reserve_bytes / 2) {
        embedded_set_trouble(embedded, EMBEDDED_KEEPER, EMBEDDED_TROUBLE_ROOM,
                             free_bytes < low_bytes);
    }
}

/* ---- the clock ------------------------------------------------------------------------------- */

/* Wall time minus boot time; both have to be of the same moment. */
static int64_t clock_offset(uint64_t *boot_ms)
{
    uint64_t wall_ms;

    do {
        *boot_ms = clock_boot_ms();
        wall_ms = clock_wall_ms();
    } while (clock_boot_ms() - *boot_ms > BOTH_CLOCKS_MS);
    return (int64_t)(wall_ms - *boot_ms);
}

static void note_step(struct embedded *embedded, enum embedded_hand hand, int64_t by_ms)
{
    struct log_line *line = log_begin(embedded->hands[hand].log, LOG_LEVEL_WARNING, "clock_step");

    log_string(line, "direction", by_ms > 0 ? "forwards" : "backwards");
    log_number(line, "by_ms", (uint64_t)(by_ms > 0 ? by_ms : -by_ms));
    log_end(line);
    metrics_add(embedded->hands[hand].metrics, METRIC_CLOCK_STEPS, 0, 0, 1);
}

static void hold_expiry(struct embedded *embedded, uint64_t until_boot_ms)
{
    atomic_store(&embedded->hold_until_boot_ms, until_boot_ms);
    atomic_store(&embedded->expiry_held, true);
}

void embedded_watch_clock(struct embedded *embedded, enum embedded_hand hand)
{
    uint64_t boot_ms;
    int64_t offset_ms = clock_offset(&boot_ms);
    int64_t before_ms = atomic_load(&embedded->clock_offset_ms);
    int64_t by_ms = offset_ms - before_ms;

    if (by_ms > STEP_MS || by_ms < -STEP_MS) {
        hold_expiry(embedded, boot_ms + EMBEDDED_CLOCK_HOLD_MS);
        if (atomic_compare_exchange_strong(&embedded->clock_offset_ms, &before_ms, offset_ms)) {
            note_step(embedded, hand, by_ms);
            atomic_store(&embedded->step_wall_ms, clock_wall_ms());
        }
        return;
    }
    if (hand == EMBEDDED_KEEPER) {
        /* Slewing is no step, however far it comes in a day. */
        atomic_store(&embedded->clock_offset_ms, offset_ms);
    }
    if (atomic_load(&embedded->expiry_held) &&
        boot_ms >= atomic_load(&embedded->hold_until_boot_ms)) {
        atomic_store(&embedded->expiry_held, false);
    }
}

static uint64_t read_meta(struct embedded *embedded, const char *name)
{
    const struct embedded_value value = embedded_word(name);

    return embedded_query_number(&embedded->writer, "SELECT value FROM meta WHERE name=?1", &value,
                                 1, 0);
}

/* Before the threads run: the writer's connection is still free. */
void embedded_begin_keeping(struct embedded *embedded)
{
    uint64_t boot_ms;
    uint64_t wall_ms = clock_wall_ms();
    uint64_t highest_ms = read_meta(embedded, "highest_wall_ms");
    uint64_t step_ms = read_meta(embedded, "clock_step_ms");

    atomic_store(&embedded->clock_offset_ms, clock_offset(&boot_ms));
    embedded->saved_wall_ms = highest_ms;
    if (highest_ms > wall_ms + STEP_MS) {
        note_step(embedded, EMBEDDED_KEEPER, -(int64_t)(highest_ms - wall_ms));
        atomic_store(&embedded->step_wall_ms, wall_ms);
        hold_expiry(embedded, boot_ms + EMBEDDED_CLOCK_HOLD_MS);
    } else if (step_ms > 0 && step_ms <= wall_ms && wall_ms - step_ms < EMBEDDED_CLOCK_HOLD_MS) {
        hold_expiry(embedded, boot_ms + EMBEDDED_CLOCK_HOLD_MS - (wall_ms - step_ms));
    }
    watch_room(embedded);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void keep(struct embedded *embedded)
{
    unsigned troubles = atomic_load(&embedded->troubles);

    embedded_watch_clock(embedded, EMBEDDED_KEEPER);
    if (troubles & EMBEDDED_TROUBLE_ROOM) {
        /* A long delete made the log long; it is given back, or there would be no room again. */
        bool is_copied = embedded_checkpoint(embedded, EMBEDDED_KEEPER, true);

        (void)is_copied; /* else it is tried again in a second */
    }
    watch_room(embedded);
    if (troubles & EMBEDDED_TROUBLE_SYNC && embedded_checkpoint(embedded, EMBEDDED_KEEPER, true)) {
        embedded_set_trouble(embedded, EMBEDDED_KEEPER, EMBEDDED_TROUBLE_SYNC, false);
    }
    if (troubles & EMBEDDED_TROUBLE_WRITE) {
        atomic_store(&embedded->must_probe, true);
        embedded_queue_nudge(&embedded->writes);
    }
}

void *embedded_keeper_main(void *argument)
{
    struct embedded *embedded = argument;
    struct store_call *none;

    while (embedded_queue_take(&embedded->chores, ROUND_MS, &none)) {
        if (embedded_log_is_long(embedded, atomic_load(&embedded->log_most_pages) / 4)) {
            /* What fails here is tried again in the next round. */
            (void)!embedded_checkpoint(embedded, EMBEDDED_KEEPER, false);
        }
        keep(embedded);
    }
    return NULL;
}
