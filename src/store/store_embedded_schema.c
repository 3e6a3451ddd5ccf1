#include "build_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/fault.h"
#include "store/store_embedded.h"

/* The file of the embedded store. docs/store-schema.md says what the columns mean; in short:
 *
 *   jobs       one row a job, from its submit until it is forgotten; `due_ms` is NULL when it is
 * off the schedule, `ready` says that its due time was seen to have come results, inputs, chunks
 * the bytes, each under the job's row cursors    how far each key has read a job's stream submits
 * those whose outcome isn't in `jobs` yet, UNKNOWN ones, and those with an Idempotency-Key for as
 * long as it is replayed endpoints, totals   sums over `jobs`, kept with each change and counted
 * anew at each start meta       what concerns the file as a whole
 *
 * Times are ms since 1970 (UTC), states and fates are words, digests are hexadecimal digits, so
 * that a person can read it with sqlite3. The schedule is chosen from in two steps, so that no
 * claim looks at more rows than it needs: schedule_waiting finds what has come due since, which is
 * marked ready; schedule_ready gives the ready ones by deadline.
 */
static const char version_1[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY,value) WITHOUT ROWID;"
    "CREATE TABLE totals(id INTEGER PRIMARY KEY CHECK(id=1),jobs INTEGER NOT NULL DEFAULT 0,"
    "outstanding INTEGER NOT NULL DEFAULT 0,bytes INTEGER NOT NULL DEFAULT 0,"
    "unknown_submits INTEGER NOT NULL DEFAULT 0,lost INTEGER NOT NULL DEFAULT 0,"
    "ttl_expired INTEGER NOT NULL DEFAULT 0,fate_none INTEGER NOT NULL DEFAULT 0,"
    "fate_kept INTEGER NOT NULL DEFAULT 0,fate_too_large INTEGER NOT NULL DEFAULT 0,"
    "fate_expired INTEGER NOT NULL DEFAULT 0,fate_evicted INTEGER NOT NULL DEFAULT 0,"
    "fate_deleted INTEGER NOT NULL DEFAULT 0);"
    "INSERT INTO totals(id) VALUES(1);"
    "CREATE TABLE endpoints(endpoint TEXT PRIMARY KEY,outstanding INTEGER NOT NULL,"
    "runsync INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE jobs(id INTEGER PRIMARY KEY,endpoint TEXT NOT NULL,job TEXT NOT NULL,"
    "upstream_id TEXT NOT NULL,team TEXT NOT NULL,key TEXT NOT NULL,kind TEXT NOT NULL,"
    "state TEXT NOT NULL,fate TEXT NOT NULL DEFAULT 'NONE',generation INTEGER NOT NULL DEFAULT 1,"
    "submitted_ms INTEGER NOT NULL,ended_ms INTEGER,expires_ms INTEGER,forget_ms INTEGER,"
    "ttl_ms INTEGER NOT NULL DEFAULT 0,execution_ms INTEGER,delay_ms INTEGER,"
    "result_bytes INTEGER NOT NULL DEFAULT 0,stored_bytes INTEGER NOT NULL DEFAULT 0,"
    "encoding TEXT NOT NULL DEFAULT 'identity',digest TEXT,"
    "input_bytes INTEGER NOT NULL DEFAULT 0,input_stored_bytes INTEGER NOT NULL DEFAULT 0,"
    "input_encoding TEXT NOT NULL DEFAULT 'identity',purged INTEGER NOT NULL DEFAULT 0,"
    "cancel_due_ms INTEGER,due_ms INTEGER,ready INTEGER NOT NULL DEFAULT 0,lease_instance TEXT,"
    "deadline_ms INTEGER NOT NULL DEFAULT 0,fence INTEGER NOT NULL DEFAULT 0,"
    "missing_since_ms INTEGER,missing_count INTEGER NOT NULL DEFAULT 0,"
    "failure_count INTEGER NOT NULL DEFAULT 0,poll_until_ms INTEGER,"
    "chunk_count INTEGER NOT NULL DEFAULT 0,chunk_bytes INTEGER NOT NULL DEFAULT 0,"
    "submit_id TEXT,dedupe_digest TEXT);"
    "CREATE UNIQUE INDEX jobs_name ON jobs(endpoint,job);"
    "CREATE INDEX jobs_team ON jobs(team);"
    "CREATE INDEX jobs_gone ON jobs(state) WHERE state IN ('LOST','TTL_EXPIRED');"
    "CREATE INDEX schedule_waiting ON jobs(endpoint,due_ms) WHERE due_ms IS NOT NULL AND ready=0;"
    "CREATE INDEX schedule_ready ON jobs(endpoint,deadline_ms) WHERE ready=1;"
    "CREATE INDEX jobs_expiry ON jobs(expires_ms) WHERE expires_ms IS NOT NULL;"
    "CREATE INDEX jobs_forget ON jobs(forget_ms) WHERE forget_ms IS NOT NULL;"
    "CREATE INDEX jobs_oldest ON jobs(ended_ms) WHERE fate='KEPT';"
    "CREATE INDEX jobs_cancel ON jobs(cancel_due_ms) WHERE cancel_due_ms IS NOT NULL;"
    "CREATE INDEX jobs_dedupe ON jobs(team,endpoint,dedupe_digest)"
    " WHERE dedupe_digest IS NOT NULL;"
    "CREATE TABLE results(row INTEGER PRIMARY KEY,body BLOB NOT NULL);"
    "CREATE TABLE inputs(row INTEGER PRIMARY KEY,body BLOB NOT NULL);"
    "CREATE TABLE chunks(row INTEGER NOT NULL,number INTEGER NOT NULL,body BLOB NOT NULL,"
    "PRIMARY KEY(row,number)) WITHOUT ROWID;"
    "CREATE TABLE cursors(row INTEGER NOT NULL,consumer TEXT NOT NULL,position INTEGER NOT NULL,"
    "ended INTEGER NOT NULL,PRIMARY KEY(row,consumer)) WITHOUT ROWID;"
    "CREATE TABLE submits(row INTEGER PRIMARY KEY,id TEXT NOT NULL UNIQUE,team TEXT NOT NULL,"
    "key TEXT NOT NULL,endpoint TEXT NOT NULL,operation TEXT NOT NULL,job TEXT,"
    "idempotency_key TEXT,instance TEXT NOT NULL,state TEXT NOT NULL,digest TEXT NOT NULL,"
    "sent_ms INTEGER,changed_ms INTEGER NOT NULL,until_ms INTEGER,"
    "fence INTEGER NOT NULL DEFAULT 0,forget_ms INTEGER,note TEXT,"
    "answer_status INTEGER NOT NULL DEFAULT 0,answer BLOB);"
    "CREATE UNIQUE INDEX submits_key ON submits(team,endpoint,operation,idempotency_key)"
    " WHERE idempotency_key IS NOT NULL;"
    "CREATE INDEX submits_unknown ON submits(state) WHERE state='UNKNOWN';"
    "CREATE INDEX submits_sent ON submits(until_ms) WHERE state='SENT';"
    "CREATE INDEX submits_forget ON submits(forget_ms) WHERE forget_ms IS NOT NULL;";

/* For the spool, which is a store like any other but remembers what Redis hasn't. */
static const char version_2[] =
    "ALTER TABLE jobs ADD COLUMN spool_order INTEGER;"
    "ALTER TABLE jobs ADD COLUMN drained_ms INTEGER;"
    "ALTER TABLE submits ADD COLUMN drained_ms INTEGER;"
    "CREATE INDEX jobs_spooled ON jobs(spool_order) WHERE spool_order IS NOT NULL;"
    "CREATE INDEX jobs_drained ON jobs(drained_ms) WHERE drained_ms IS NOT NULL;";

/* What makes version n + 1 of version n. A new file takes all of them, so that each start of a test
 * passes every step. */
static const char *const steps[] = {version_1, version_2};
_Static_assert(ARRAY_LENGTH(steps) == EMBEDDED_SCHEMA_VERSION, "a step for each version");

/* Files up to this size are checked whole at the start; of larger ones the tables of the ledger,
 * since reading 10 GiB would keep podgate away for minutes. */
enum { CHECK_WHOLE_BYTES = 256 * 1024 * 1024 };

/* ---- problems -------------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static bool fail(char **problem, int *exit_status, int status,
                                                       const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (vasprintf(problem, format, arguments) < 0) {
        *problem = NULL;
    }
    va_end(arguments);
    *exit_status = status;
    return false;
}

static bool fail_corrupt(const struct embedded *embedded, const char *why, char **problem,
                         int *exit_status)
{
    return fail(problem, exit_status, EX_DATAERR,
                "store: %s is damaged (%s). Nothing was changed. `podgatectl store salvage %s "
                "NEWFILE` copies what is readable; then put NEWFILE in its place, or restore a "
                "backup",
                embedded->path, why, embedded->path);
}

static bool fail_sqlite(const struct embedded *embedded, const struct embedded_connection *of,
                        char **problem, int *exit_status)
{
    int error = of->error != SQLITE_OK ? of->error : sqlite3_errcode(of->database);
    const char *why = sqlite3_errstr(error);

    switch (error & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return fail_corrupt(embedded, why, problem, exit_status);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return fail(problem, exit_status, EX_TEMPFAIL,
                    "store: another program holds %s (%s): end it and start podgate again",
                    embedded->path, why);
    case SQLITE_FULL:
        return fail(problem, exit_status, EX_OSERR,
                    "store: no room for %s: make room on its file system", embedded->path);
    default:
        return fail(problem, exit_status, EX_OSERR,
                    "store: %s can't be used: %s (%s): look at the permissions of the file and its "
                    "directory, and at the disk",
                    embedded->path, why, strerror(errno));
    }
}

/* ---- connections ----------------------------------------------------------------------------- */

bool embedded_open_connection(struct embedded_connection *connection, const char *path, int flags)
{
    memset(connection, 0, sizeof *connection);
    errno = 0;
    connection->error = sqlite3_open_v2(path, &connection->database,
                                        flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (!connection->database || connection->error != SQLITE_OK) {
        return false;
    }
    (void)sqlite3_busy_timeout(connection->database, EMBEDDED_BUSY_MS);
    (void)sqlite3_db_config(connection->database, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    (void)sqlite3_db_config(connection->database, SQLITE_DBCONFIG_DQS_DML, 0, (int *)NULL);
    embedded_script(connection,
                    /* Commits are made durable by the syncer, see store_embedded.h. */
                    "PRAGMA synchronous=NORMAL;"
                    /* The keeper copies the log back, so that no commit waits for that. */
                    "PRAGMA wal_autocheckpoint=0;"
                    "PRAGMA journal_size_limit=16384000;"
                    /* What expired is overwritten. */
                    "PRAGMA secure_delete=ON;"
                    /* Somebody else may have edited the file. */
                    "PRAGMA trusted_schema=OFF;"
                    "PRAGMA cell_size_check=ON;"
                    "PRAGMA foreign_keys=OFF;"
                    "PRAGMA temp_store=MEMORY;"
                    /* An I/O error on a mapped page would be a SIGBUS. */
                    "PRAGMA mmap_size=0;"
                    "PRAGMA cache_size=-6000;");
    return connection->error == SQLITE_OK;
}

static uint64_t pragma_number(struct embedded_connection *connection, const char *sql)
{
    return embedded_query_number(connection, sql, NULL, 0, 0);
}

static void set_version(struct embedded_connection *connection, unsigned version)
{
    char sql[80];

    snprintf(sql, sizeof sql, "PRAGMA application_id=%d; PRAGMA user_version=%u",
             EMBEDDED_APPLICATION_ID, version);
    embedded_script(connection, sql);
}

bool embedded_make_schema(struct embedded_connection *connection)
{
    for (size_t i = 0; i < ARRAY_LENGTH(steps); i++) {
        embedded_script(connection, steps[i]);
    }
    set_version(connection, EMBEDDED_SCHEMA_VERSION);
    return connection->error == SQLITE_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool take_lock(struct embedded *embedded, char **problem, int *exit_status)
{
    char *path;

    if (asprintf(&path, "%s.lock", embedded->path) < 0) {
        return fail(problem, exit_status, EX_OSERR, "store: out of memory");
    }
    embedded->lock_descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (embedded->lock_descriptor < 0) {
        fail(problem, exit_status, EX_OSERR,
             "store: %s can't be made: %s: store.path has to be in a directory that podgate's user "
             "can write to",
             path, strerror(errno));
        free(path);
        return false;
    }
    free(path);
    if (flock(embedded->lock_descriptor, LOCK_EX | LOCK_NB) != 0) {
        return fail(problem, exit_status, EX_TEMPFAIL,
                    "store: another podgate uses %s: end it, or give this one a store.path of its "
                    "own",
                    embedded->path);
    }
    return true;
}

/* SQLite gives its -wal and -shm files the mode of the file itself. */
static bool make_file(struct embedded *embedded, struct stat *status, char **problem,
                      int *exit_status)
{
    int descriptor = open(embedded->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool made = descriptor >= 0 && fchmod(descriptor, 0600) == 0 && fstat(descriptor, status) == 0;

    if (!made) {
        fail(problem, exit_status, EX_OSERR, "store: %s can't be opened for writing: %s",
             embedded->path, strerror(errno));
    }
    /* Closed before SQLite opens it: closing would drop its locks. */
    if (descriptor >= 0) {
        close(descriptor);
    }
    return made;
}

static bool check_pages(struct embedded *embedded, const struct stat *status, char **problem,
                        int *exit_status)
{
    static const char *const whole[] = {"PRAGMA quick_check(1)"};
    static const char *const ledger[] = {"PRAGMA quick_check('meta')", "PRAGMA quick_check('jobs')",
                                         "PRAGMA quick_check('submits')"};
    bool is_small = status->st_size <= CHECK_WHOLE_BYTES;
    const char *const *checks = is_small ? whole : ledger;
    size_t count = is_small ? ARRAY_LENGTH(whole) : ARRAY_LENGTH(ledger);

    for (size_t i = 0; i < count; i++) {
        sqlite3_stmt *statement = embedded_query(&embedded->writer, checks[i], NULL, 0);
        struct view text;

        if (!statement) {
            return fail_sqlite(embedded, &embedded->writer, problem, exit_status);
        }
        text = embedded_column_bytes(statement, 0);
        if (!view_equal(text, VIEW("ok"))) {
            char *why = strndup(text.data ? text.data : "", text.length);

            embedded_done(statement);
            fail_corrupt(embedded, why ? why : "quick_check", problem, exit_status);
            free(why);
            return false;
        }
        embedded_done(statement);
    }
    return true;
}

/* What is it, and whose? */
static bool check_kind(struct embedded *embedded, char **problem, int *exit_status)
{
    struct embedded_connection *connection = &embedded->writer;
    uint64_t application = pragma_number(connection, "PRAGMA application_id");
    uint64_t version = pragma_number(connection, "PRAGMA user_version");
    uint64_t tables = pragma_number(connection, "SELECT count(*) FROM sqlite_schema");

    if (connection->error != SQLITE_OK) {
        return fail_sqlite(embedded, connection, problem, exit_status);
    }
    if (application == 0 && version == 0 && tables == 0) {
        return true;
    }
    if (application != EMBEDDED_APPLICATION_ID) {
        return fail(problem, exit_status, EX_DATAERR,
                    "store: %s is a database, but not podgate's: give another store.path",
                    embedded->path);
    }
    if (version > EMBEDDED_SCHEMA_VERSION) {
        return fail(problem, exit_status, EX_DATAERR,
                    "store: %s was written by a newer podgate (schema %u, this one knows up to "
                    "%d): install that one again, or give another store.path",
                    embedded->path, (unsigned)version, EMBEDDED_SCHEMA_VERSION);
    }
    return true;
}

static bool migrate(struct embedded *embedded, char **problem, int *exit_status)
{
    struct embedded_connection *connection = &embedded->writer;
    uint64_t version = pragma_number(connection, "PRAGMA user_version");

    while (connection->error == SQLITE_OK && version < EMBEDDED_SCHEMA_VERSION) {
        embedded_script(connection, "BEGIN IMMEDIATE");
        embedded_script(connection, steps[version]);
        version++;
        set_version(connection, (unsigned)version);
        embedded_script(connection, "COMMIT");
    }
    return connection->error == SQLITE_OK ||
           fail_sqlite(embedded, connection, problem, exit_status);
}

void embedded_recount(struct embedded_connection *connection)
{
    embedded_script(
        connection,
        "DELETE FROM endpoints;"
        "INSERT INTO endpoints SELECT endpoint,count(*),"
        "count(*) FILTER (WHERE kind='runsync') FROM jobs WHERE due_ms IS NOT NULL"
        " GROUP BY endpoint;"
        "INSERT OR REPLACE INTO totals SELECT 1,count(*),count(due_ms),"
        "coalesce(sum(stored_bytes+input_stored_bytes+chunk_bytes),0),"
        "(SELECT count(*) FROM submits WHERE state='UNKNOWN'),"
        "count(*) FILTER (WHERE state='LOST'),count(*) FILTER (WHERE state='TTL_EXPIRED'),"
        "count(*) FILTER (WHERE fate='NONE'),count(*) FILTER (WHERE fate='KEPT'),"
        "count(*) FILTER (WHERE fate='TOO_LARGE'),count(*) FILTER (WHERE fate='EXPIRED'),"
        "count(*) FILTER (WHERE fate='EVICTED'),count(*) FILTER (WHERE fate='DELETED') FROM jobs;");
}

/* No podgate has anything in flight: what its predecessor began is settled, as far as it can be. */
static bool take_over(struct embedded *embedded, char **problem, int *exit_status)
{
    struct embedded_connection *connection = &embedded->writer;
    uint64_t now_ms = clock_wall_ms();

    embedded_script(connection, "BEGIN IMMEDIATE");
    embedded_script(connection, "DELETE FROM submits WHERE state='INTENT'");
    EMBEDDED_RUN(connection,
                 "UPDATE submits SET state='UNKNOWN',changed_ms=?1,until_ms=NULL,"
                 "note='podgate ended before the answer came' WHERE state='SENT'",
                 embedded_number(now_ms));
    EMBEDDED_RUN(connection,
                 "UPDATE jobs SET due_ms=min(due_ms,?1),lease_instance=NULL"
                 " WHERE lease_instance IS NOT NULL",
                 embedded_number(now_ms));
    EMBEDDED_RUN(connection, "UPDATE jobs SET cancel_due_ms=?1 WHERE cancel_due_ms>?1",
                 embedded_number(now_ms));
    embedded_recount(connection);
    embedded_script(connection, "COMMIT");
    return connection->error == SQLITE_OK ||
           fail_sqlite(embedded, connection, problem, exit_status);
}

static bool use_log(struct embedded *embedded, char **problem, int *exit_status)
{
    struct embedded_connection *connection = &embedded->writer;
    sqlite3_stmt *statement = embedded_query(connection, "PRAGMA journal_mode=WAL", NULL, 0);
    bool is_wal = statement && view_equal(embedded_column_bytes(statement, 0), VIEW("wal"));

    if (statement) {
        embedded_done(statement);
    }
    if (!is_wal) {
        return fail_sqlite(embedded, connection, problem, exit_status);
    }
    return true;
}

/* The descriptor on the log, which stays one file as long as a connection is open. */
static bool open_log(struct embedded *embedded, char **problem, int *exit_status)
{
    char *path;

    if (asprintf(&path, "%s-wal", embedded->path) < 0) {
        return fail(problem, exit_status, EX_OSERR, "store: out of memory");
    }
    embedded->wal_descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (embedded->wal_descriptor < 0) {
        fail(problem, exit_status, EX_OSERR, "store: %s can't be opened: %s", path,
             strerror(errno));
    }
    free(path);
    return embedded->wal_descriptor >= 0;
}

static bool open_connection(struct embedded *embedded, struct embedded_connection *connection,
                            char **problem, int *exit_status)
{
    return embedded_open_connection(connection, embedded->path, SQLITE_OPEN_READWRITE) ||
           fail_sqlite(embedded, connection, problem, exit_status);
}

bool embedded_open_file(struct embedded *embedded, char **problem, int *exit_status)
{
    struct stat status;

    if (!take_lock(embedded, problem, exit_status) ||
        !make_file(embedded, &status, problem, exit_status) ||
        !open_connection(embedded, &embedded->writer, problem, exit_status) ||
        !check_kind(embedded, problem, exit_status) ||
        !check_pages(embedded, &status, problem, exit_status) ||
        !use_log(embedded, problem, exit_status) || !migrate(embedded, problem, exit_status) ||
        !take_over(embedded, problem, exit_status) ||
        !open_connection(embedded, &embedded->reader, problem, exit_status) ||
        !open_connection(embedded, &embedded->keeper, problem, exit_status) ||
        !open_log(embedded, problem, exit_status)) {
        return false;
    }
    return true;
}

void embedded_close_file(struct embedded *embedded)
{
    if (embedded->wal_descriptor >= 0) {
        close(embedded->wal_descriptor);
    }
    embedded_close_connection(&embedded->keeper);
    embedded_close_connection(&embedded->reader);
    embedded_close_connection(&embedded->writer);
    if (embedded->lock_descriptor >= 0) {
        close(embedded->lock_descriptor);
    }
}
