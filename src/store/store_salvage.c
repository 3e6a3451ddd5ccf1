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
 * damaged file is attached read-only to the new one's connection. */

enum {
    STEP_MOST = 1 << 16,
    BLIND_ROWS = 10 * 1000 * 1000, /* how far is looked when the last row can't be reached either */
    COMMIT_ROWS = 1000,
    LOOK_AGAIN_MS = 15 * 60 * 1000,
};

struct salvage {
    struct embedded_connection connection;
    struct store_salvage *found;
    int error; /* of the new file: then nothing goes on */
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

/* Takes the error of the last statement. True: it did what it should. */
static bool went_well(struct salvage *salvage)
{
    int error = salvage->connection.error;

    salvage->connection.error = SQLITE_OK;
    switch (error & 0xff) {
    case SQLITE_OK: return true;
    /* The new file can't take more, or there is no memory: not the damaged one's fault. */
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_READONLY: salvage->error = error; return false;
    default: return false;
    }
}

/* How many rows a statement for one row copied. */
static uint64_t copy(struct salvage *salvage, const char *sql, int64_t row)
{
    EMBEDDED_RUN(&salvage->connection, sql, embedded_row_id(row));
    if (!went_well(salvage)) {
        salvage->found->lost_rows++;
        return 0;
    }
    return embedded_changed(&salvage->connection);
}

static void copy_job(struct salvage *salvage, int64_t row)
{
    struct store_salvage *found = salvage->found;

    if (copy(salvage,
             "INSERT OR IGNORE INTO main.jobs(" EMBEDDED_JOB_COLUMNS ",dedupe_digest)"
             " SELECT " EMBEDDED_JOB_COLUMNS ",dedupe_digest FROM damaged.jobs WHERE id=?1",
             row) == 0) {
        return;
    }
    found->jobs++;
    found->results += copy(salvage,
                           "INSERT OR IGNORE INTO main.results(row,body)"
                           " SELECT row,body FROM damaged.results WHERE row=?1",
                           row);
    (void)copy(salvage,
               "INSERT OR IGNORE INTO main.inputs(row,body)"
               " SELECT row,body FROM damaged.inputs WHERE row=?1",
               row);
    found->chunks += copy(salvage,
                          "INSERT OR IGNORE INTO main.chunks(row,number,body)"
                          " SELECT row,number,body FROM damaged.chunks WHERE row=?1",
                          row);
    (void)copy(salvage,
               "INSERT OR IGNORE INTO main.cursors(row,consumer,position,ended)"
               " SELECT row,consumer,position,ended FROM damaged.cursors WHERE row=?1",
               row);
}

static void copy_submit(struct salvage *salvage, int64_t row)
{
    salvage->found->submits +=
        copy(salvage,
             "INSERT OR IGNORE INTO main.submits(" EMBEDDED_SUBMIT_COLUMNS ",forget_ms,answer)"
             " SELECT " EMBEDDED_SUBMIT_COLUMNS ",forget_ms,answer FROM damaged.submits"
             " WHERE row=?1",
             row);
}

/* Copies all rows of a kind that can be reached. */
static void copy_rows(struct salvage *salvage, const struct rows *rows)
{
    int64_t last =
        (int64_t)embedded_query_number(&salvage->connection, rows->last, NULL, 0, INT64_MAX);
    int64_t row = 0;
    int64_t step = 1;
    unsigned count = 0;

    if (!went_well(salvage)) {
        last = INT64_MAX;
    }
    while (salvage->error == SQLITE_OK && row < last) {
        const struct embedded_value after = embedded_row_id(row);
        int64_t next =
            (int64_t)embedded_query_number(&salvage->connection, rows->next, &after, 1, INT64_MAX);

        if (went_well(salvage)) {
            if (next == INT64_MAX) {
                return;
            }
            rows->copy(salvage, next);
            row = next;
            step = 1;
            if (++count % COMMIT_ROWS == 0) {
                embedded_script(&salvage->connection, "COMMIT; BEGIN");
                (void)went_well(salvage);
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
    sqlite3_stmt *statement =
        embedded_query(&salvage->connection,
                       "SELECT " EMBEDDED_JOB_COLUMNS " FROM main.jobs ORDER BY id", NULL, 0);
    struct embedded_row row;

    while (statement) {
        if (!embedded_read_row(statement, &row)) {
            EMBEDDED_RUN(&salvage->connection, "DELETE FROM main.jobs WHERE id=?1",
                         embedded_row_id(row.id));
            salvage->found->lost_rows++;
            salvage->found->jobs--;
        }
        if (!embedded_next(&salvage->connection, statement)) {
            break;
        }
    }
    embedded_script(&salvage->connection,
                    "DELETE FROM main.results WHERE row NOT IN (SELECT id FROM jobs);"
                    "DELETE FROM main.inputs WHERE row NOT IN (SELECT id FROM jobs);"
                    "DELETE FROM main.chunks WHERE row NOT IN (SELECT id FROM jobs);"
                    "DELETE FROM main.cursors WHERE row NOT IN (SELECT id FROM jobs);");
}

/* What says that it has a result, an input or chunks, and hasn't. */
static void mend(struct salvage *salvage)
{
    uint64_t now_ms = clock_wall_ms();

    EMBEDDED_RUN(&salvage->connection,
                 "UPDATE main.jobs SET state='LOST',fate='NONE',ended_ms=?1,expires_ms=NULL,"
                 "forget_ms=?2,due_ms=?1,poll_until_ms=?3,ready=0,result_bytes=0,stored_bytes=0,"
                 "encoding='identity',digest=NULL WHERE fate='KEPT' AND stored_bytes IS NOT"
                 " (SELECT length(body) FROM main.results WHERE row=id)",
                 embedded_number(now_ms), embedded_number(now_ms + STORE_TOMBSTONE_MS),
                 embedded_number(now_ms + LOOK_AGAIN_MS));
    embedded_script(
        &salvage->connection,
        "UPDATE main.jobs SET input_bytes=0,input_stored_bytes=0,input_encoding='identity'"
        " WHERE input_bytes>0 AND NOT EXISTS (SELECT 1 FROM main.inputs WHERE row=id);"
        /* A log with a hole can be read as far as that. */
        "UPDATE main.jobs SET chunk_count=(SELECT count(*) FROM main.chunks WHERE row=id),"
        "chunk_bytes=(SELECT coalesce(sum(length(body)),0) FROM main.chunks WHERE row=id)"
        " WHERE chunk_count>0;");
    embedded_recount(&salvage->connection);
}

static bool run(struct salvage *salvage, const char *from, char **problem)
{
    static const struct rows jobs = {
        "SELECT id FROM damaged.jobs NOT INDEXED WHERE id>?1 ORDER BY id LIMIT 1",
        "SELECT max(id) FROM damaged.jobs", copy_job};
    static const struct rows submits = {
        "SELECT row FROM damaged.submits NOT INDEXED WHERE row>?1 ORDER BY row LIMIT 1",
        "SELECT max(row) FROM damaged.submits", copy_submit};
    struct embedded_connection *connection = &salvage->connection;

    if (!embedded_make_schema(connection)) {
        return fail(problem, "the new file can't be written: %s",
                    sqlite3_errstr(connection->error));
    }
    EMBEDDED_RUN(connection, "ATTACH ?1 AS damaged", embedded_word(from));
    (void)embedded_query_number(connection, "SELECT count(*) FROM damaged.sqlite_schema", NULL, 0,
                                0);
    if (!went_well(salvage)) {
        return fail(problem, "not even the list of tables in %s can be read: restore a backup",
                    from);
    }
    embedded_script(connection, "BEGIN");
    copy_rows(salvage, &jobs);
    copy_rows(salvage, &submits);
    drop_nonsense(salvage);
    mend(salvage);
    embedded_script(connection, "COMMIT");
    if (!went_well(salvage) || salvage->error != SQLITE_OK) {
        return fail(problem, "the new file can't be written: %s",
                    sqlite3_errstr(salvage->error != SQLITE_OK ? salvage->error : SQLITE_IOERR));
    }
    return true;
}

/* "file:PATH?mode=ro", so that SQLite writes nothing into the damaged file. */
static char *read_only_name(const char *path)
{
    struct builder name;
    size_t length;

    builder_init(&name, NULL, 0);
    builder_append(&name, VIEW("file:"));
    for (const char *at = path; *at; at++) {
        if (*at == '?' || *at == '#' || *at == '%') {
            static const char hex[] = "0123456789abcdef";

            builder_append_byte(&name, '%');
            builder_append_byte(&name, hex[(unsigned char)*at >> 4]);
            builder_append_byte(&name, hex[(unsigned char)*at & 15]);
        } else {
            builder_append_byte(&name, *at);
        }
    }
    builder_append(&name, VIEW("?mode=ro"));
    builder_append_byte(&name, '\0');
    return builder_detach(&name, &length);
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
    char *name = read_only_name(from);
    int lock_descriptor = -1;
    bool is_made = false;
    bool is_done = false;

    memset(found, 0, sizeof *found);
    *problem = NULL;
    if (!name) {
        return fail(problem, "out of memory");
    }
    if (access(from, R_OK) != 0) {
        fail(problem, "%s can't be read: %s", from, strerror(errno));
        goto out;
    }
    lock_descriptor = take_lock(from, problem);
    is_made = lock_descriptor >= 0 && make_file(to, problem);
    if (!is_made) {
        goto out;
    }
    if (!embedded_open_connection(&salvage.connection, to,
                                  SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI)) {
        fail(problem, "%s can't be opened: %s", to, sqlite3_errstr(salvage.connection.error));
        goto out;
    }
    is_done = run(&salvage, name, problem);
out:
    embedded_close_connection(&salvage.connection);
    if (is_made && !is_done) {
        (void)unlink(to);
    }
    if (lock_descriptor >= 0) {
        close(lock_descriptor);
    }
    free(name);
    return is_done;
}
