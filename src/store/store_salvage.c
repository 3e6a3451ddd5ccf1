#include "build_config.h"

#include "store/store_salvage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store_embedded.h"

/* A damaged page takes the rows of one leaf, or of all leaves below it. Rows are copied one by one,
 * in order; where one can't be reached, a row further on is looked for in growing steps. The
 * damaged file has a connection of its own, read-only: attached to the new one's, its first error
 * would fail all writes from then on. */

enum {
    STEP_MOST = 1 << 16,
    BLIND_ROWS = 10 * 1000 * 1000, /* how far is looked when the last row can't be reached either */
    COMMIT_ROWS = 1000,
    LOOK_AGAIN_MS = 15 * 60 * 1000,
    COLUMNS_MOST = 48,
};

struct salvage {
    struct embedded_connection damaged;
    struct embedded_connection made;
    struct store_salvage *found;
};

/* One kind of rows that have a number of their own. */
struct rows {
    const char *next; /* the row behind ?1 */
    const char *last;
    void (*copy)(struct salvage *salvage, int64_t row);
};

__attribute__((format(printf, 2, 3))) static bool fail(char **problem, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (vasprintf(problem, format, arguments) < 0) {
        *problem = NULL;
    }
    va_end(arguments);
    return false;
}

/* Takes the damaged file's last error. True: there was none. */
static bool was_readable(struct salvage *salvage)
{
    int error = salvage->damaged.error;

    salvage->damaged.error = SQLITE_OK;
    return error == SQLITE_OK;
}

/* True: the row is in the new file. One that is there already, or breaks a rule there, is lost. */
static bool put_row(struct salvage *salvage, const char *insert, sqlite3_stmt *source)
{
    struct embedded_value values[COLUMNS_MOST];
    int columns = sqlite3_column_count(source);

    for (int i = 0; i < columns; i++) {
        switch (sqlite3_column_type(source, i)) {
        case SQLITE_INTEGER: values[i] = embedded_row_id(sqlite3_column_int64(source, i)); break;
        case SQLITE_TEXT: values[i] = embedded_text(embedded_column_bytes(source, i)); break;
        case SQLITE_BLOB: values[i] = embedded_blob(embedded_column_bytes(source, i)); break;
        default: values[i] = embedded_null(); break;
        }
    }
    embedded_run(&salvage->made, insert, values, (size_t)columns);
    if (salvage->made.error == SQLITE_CONSTRAINT ||
        (salvage->made.error & 0xff) == SQLITE_CONSTRAINT) {
        salvage->made.error = SQLITE_OK;
        return false;
    }
    return embedded_changed(&salvage->made) > 0;
}

/* How many rows of one job or submit were copied. */
static uint64_t copy(struct salvage *salvage, const char *select, const char *insert, int64_t row)
{
    sqlite3_stmt *source = EMBEDDED_QUERY(&salvage->damaged, select, embedded_row_id(row));
    uint64_t copied = 0;

    while (source) {
        if (put_row(salvage, insert, source)) {
            copied++;
        } else {
            salvage->found->lost_rows++;
        }
        if (!embedded_next(&salvage->damaged, source)) {
            break;
        }
    }
    if (!was_readable(salvage)) {
        salvage->found->lost_rows++;
    }
    return copied;
}

#define JOB_VALUES                                                                                 \
    "?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24,?25,"  \
    "?26,?27,?28,?29,?30,?31,?32,?33,?34,?35,?36,?37,?38,?39"
#define SUBMIT_VALUES "?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19"

static void copy_job(struct salvage *salvage, int64_t row)
{
    struct store_salvage *found = salvage->found;

    if (copy(salvage,
             "SELECT " EMBEDDED_JOB_COLUMNS ",dedupe_digest FROM jobs NOT INDEXED WHERE id=?1",
             "INSERT OR IGNORE INTO jobs(" EMBEDDED_JOB_COLUMNS ",dedupe_digest)"
             " VALUES(" JOB_VALUES ")",
             row) == 0) {
        return;
    }
    found->jobs++;
    found->results += copy(salvage, "SELECT row,body FROM results WHERE row=?1",
                           "INSERT OR IGNORE INTO results(row,body) VALUES(?1,?2)", row);
    (void)copy(salvage, "SELECT row,body FROM inputs WHERE row=?1",
               "INSERT OR IGNORE INTO inputs(row,body) VALUES(?1,?2)", row);
    found->chunks += copy(salvage, "SELECT row,number,body FROM chunks WHERE row=?1",
                          "INSERT OR IGNORE INTO chunks(row,number,body) VALUES(?1,?2,?3)", row);
    (void)copy(salvage, "SELECT row,consumer,position,ended FROM cursors WHERE row=?1",
               "INSERT OR IGNORE INTO cursors(row,consumer,position,ended) VALUES(?1,?2,?3,?4)",
               row);
}

static void copy_submit(struct salvage *salvage, int64_t row)
{
    salvage->found->submits += copy(
        salvage,
        "SELECT " EMBEDDED_SUBMIT_COLUMNS ",forget_ms,answer FROM submits NOT INDEXED WHERE row=?1",
        "INSERT OR IGNORE INTO submits(" EMBEDDED_SUBMIT_COLUMNS ",forget_ms,answer)"
        " VALUES(" SUBMIT_VALUES ")",
        row);
}

/* Copies all rows of a kind that can be reached. */
static void copy_rows(struct salvage *salvage, const struct rows *rows)
{
    int64_t last =
        (int64_t)embedded_query_number(&salvage->damaged, rows->last, NULL, 0, INT64_MAX);
    int64_t row = 0;
    int64_t step = 1;
    unsigned count = 0;

    if (!was_readable(salvage)) {
        last = INT64_MAX;
    }
    while (salvage->made.error == SQLITE_OK && row < last) {
        const struct embedded_value after = embedded_row_id(row);
        int64_t next =
            (int64_t)embedded_query_number(&salvage->damaged, rows->next, &after, 1, INT64_MAX);

        if (was_readable(salvage)) {
            if (next == INT64_MAX) {
                return;
            }
            rows->copy(salvage, next);
            row = next;
            step = 1;
            if (++count % COMMIT_ROWS == 0) {
                embedded_script(&salvage->made, "COMMIT; BEGIN");
            }
            continue;
        }
        salvage->found->lost_rows++;
        if (last == INT64_MAX) {
            last = row + BLIND_ROWS;
        }
        row += step;
        step = step < STEP_MOST ? step * 2 : step;
    }
}

/* Rows that make no sense would only be STORE_BROKEN later. */
static void drop_nonsense(struct salvage *salvage)
{
    sqlite3_stmt *statement = embedded_query(
        &salvage->made, "SELECT " EMBEDDED_JOB_COLUMNS " FROM jobs ORDER BY id", NULL, 0);
    struct embedded_row row;

    while (statement) {
        if (!embedded_read_row(statement, &row)) {
            EMBEDDED_RUN(&salvage->made, "DELETE FROM jobs WHERE id=?1", embedded_row_id(row.id));
            salvage->found->lost_rows++;
            salvage->found->jobs--;
        }
        if (!embedded_next(&salvage->made, statement)) {
            break;
        }
    }
    embedded_script(&salvage->made, "DELETE FROM results WHERE row NOT IN (SELECT id FROM jobs);"
                                    "DELETE FROM inputs WHERE row NOT IN (SELECT id FROM jobs);"
                                    "DELETE FROM chunks WHERE row NOT IN (SELECT id FROM jobs);"
                                    "DELETE FROM cursors WHERE row NOT IN (SELECT id FROM jobs);");
}

/* What says that it has a result, an input or chunks, and hasn't. */
static void mend(struct salvage *salvage)
{
    uint64_t now_ms = clock_wall_ms();

    EMBEDDED_RUN(&salvage->made,
                 "UPDATE jobs SET state='LOST',fate='NONE',ended_ms=?1,expires_ms=NULL,"
                 "forget_ms=?2,due_ms=?1,poll_until_ms=?3,ready=0,result_bytes=0,stored_bytes=0,"
                 "encoding='identity',digest=NULL WHERE fate='KEPT' AND stored_bytes IS NOT"
                 " (SELECT length(body) FROM results WHERE row=id)",
                 embedded_number(now_ms), embedded_number(now_ms + STORE_TOMBSTONE_MS),
                 embedded_number(now_ms + LOOK_AGAIN_MS));
    embedded_script(&salvage->made,
                    "UPDATE jobs SET input_bytes=0,input_stored_bytes=0,input_encoding='identity'"
                    " WHERE input_bytes>0 AND NOT EXISTS (SELECT 1 FROM inputs WHERE row=id);"
                    /* A log with a hole can be read as far as that. */
                    "UPDATE jobs SET chunk_count=(SELECT count(*) FROM chunks WHERE row=id),"
                    "chunk_bytes=(SELECT coalesce(sum(length(body)),0) FROM chunks WHERE row=id)"
                    " WHERE chunk_count>0;");
    embedded_recount(&salvage->made);
}

static bool run(struct salvage *salvage, const char *from, char **problem)
{
    static const struct rows jobs = {
        "SELECT id FROM jobs NOT INDEXED WHERE id>?1 ORDER BY id LIMIT 1",
        "SELECT max(id) FROM jobs", copy_job};
    static const struct rows submits = {
        "SELECT row FROM submits NOT INDEXED WHERE row>?1 ORDER BY row LIMIT 1",
        "SELECT max(row) FROM submits", copy_submit};
    struct embedded_connection *made = &salvage->made;

    (void)embedded_query_number(&salvage->damaged, "SELECT count(*) FROM sqlite_schema", NULL, 0,
                                0);
    if (!was_readable(salvage)) {
        return fail(problem, "not even the list of tables in %s can be read: restore a backup",
                    from);
    }
    if (embedded_make_schema(made)) {
        embedded_script(made, "BEGIN");
        copy_rows(salvage, &jobs);
        copy_rows(salvage, &submits);
        drop_nonsense(salvage);
        mend(salvage);
        embedded_script(made, "COMMIT");
    }
    return made->error == SQLITE_OK ||
           fail(problem, "the new file can't be written: %s", sqlite3_errstr(made->error));
}

/* The lock that podgate holds as long as it runs. -1: it is held, or can't be made. */
static int take_lock(const char *from, char **problem)
{
    char *path;
    int descriptor;

    if (asprintf(&path, "%s.lock", from) < 0) {
        fail(problem, "out of memory");
        return -1;
    }
    descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (descriptor < 0) {
        fail(problem, "%s can't be made: %s", path, strerror(errno));
    } else if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
        fail(problem, "podgate uses %s: end it first", from);
        close(descriptor);
        descriptor = -1;
    }
    free(path);
    return descriptor;
}

static bool make_file(const char *to, char **problem)
{
    int descriptor = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (descriptor < 0) {
        return fail(problem, "%s can't be made: %s", to, strerror(errno));
    }
    close(descriptor);
    return true;
}

bool store_embedded_salvage(const char *from, const char *to, struct store_salvage *found,
                            char **problem)
{
    struct salvage salvage = {.found = found};
    int lock_descriptor = -1;
    bool is_made = false;
    bool is_done = false;

    memset(found, 0, sizeof *found);
    *problem = NULL;
    if (access(from, R_OK) != 0) {
        fail(problem, "%s can't be read: %s", from, strerror(errno));
        goto out;
    }
    lock_descriptor = take_lock(from, problem);
    is_made = lock_descriptor >= 0 && make_file(to, problem);
    if (!is_made) {
        goto out;
    }
    if (!embedded_open_connection(&salvage.made, to, SQLITE_OPEN_READWRITE)) {
        fail(problem, "%s can't be opened: %s", to, sqlite3_errstr(salvage.made.error));
        goto out;
    }
    /* What this already stumbles over is looked at again in a moment. */
    (void)!embedded_open_connection(&salvage.damaged, from, SQLITE_OPEN_READONLY);
    salvage.damaged.error = SQLITE_OK;
    if (!salvage.damaged.database) {
        fail(problem, "out of memory");
        goto out;
    }
    is_done = run(&salvage, from, problem);
out:
    embedded_close_connection(&salvage.damaged);
    embedded_close_connection(&salvage.made);
    if (is_made && !is_done) {
        (void)unlink(to);
    }
    if (lock_descriptor >= 0) {
        close(lock_descriptor);
    }
    return is_done;
}
