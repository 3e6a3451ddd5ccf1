#include "build_config.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/fault.h"
#include "store/store_salvage.h"
#include "store_suite.h"
#include "virtual_clock.h"

/* What the embedded store does with its file: modes, locks, versions, damage, a disk that is full
 * or fails. What all backends do is in store_suite_*.c. */

static void nothing(void)
{
}

static void options(size_t index, char *text, size_t capacity)
{
    (void)index;
    snprintf(text, capacity, "backend = \"embedded\" path = \"%s/podgate.db\"", suite_directory());
}

const struct suite_backend suite_backend = {
    .name = "embedded",
    .begin = nothing,
    .end = nothing,
    .options = options,
    .pass = clock_advance,
    .restart = nothing,
};

#define ABOUT(job_name) .endpoint = ENDPOINT, .job = VIEW(job_name)

static const char *path_of(const char *suffix)
{
    return suite_format("%s/podgate.db%s", suite_directory(), suffix).data;
}

/* Works on the file as a person with sqlite3 would. */
static void with_sqlite(const char *sql)
{
    sqlite3 *database = NULL;
    char *problem = NULL;

    cr_assert_eq(sqlite3_open(path_of(""), &database), SQLITE_OK);
    sqlite3_busy_timeout(database, 5000);
    cr_assert_eq(sqlite3_exec(database, sql, NULL, NULL, &problem), SQLITE_OK, "%s", problem);
    sqlite3_close(database);
}

/* The answer's first column of its first row, as text. */
static struct view asked_of_sqlite(const char *sql)
{
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    struct view answer = VIEW("");

    cr_assert_eq(sqlite3_open(path_of(""), &database), SQLITE_OK);
    sqlite3_busy_timeout(database, 5000);
    cr_assert_eq(sqlite3_prepare_v2(database, sql, -1, &statement, NULL), SQLITE_OK, "%s", sql);
    if (sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_text(statement, 0)) {
        answer = suite_copy(view_of_string((const char *)sqlite3_column_text(statement, 0)));
    }
    sqlite3_finalize(statement);
    sqlite3_close(database);
    return answer;
}

static void expect_no_open(int exit_status, const char *words)
{
    cr_assert_not(suite_try_open(0), "the store opens");
    cr_assert_eq(suite_exit_status, exit_status, "%d: %s", suite_exit_status, suite_problem);
    cr_assert_not_null(strstr(suite_problem, words), "\"%s\" isn't in: %s", words, suite_problem);
}

static uint64_t metric(size_t family, size_t first, size_t second)
{
    return metrics_sum(suite_instances[0].metrics, family, first, second);
}

TestSuite(store_file, .init = suite_set_up, .fini = suite_tear_down, .timeout = 60);

/* ---- the file itself ------------------------------------------------------------------------- */

Test(store_file, files_are_podgates_alone)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock", ".reserve"};

    add_job(VIEW("job-1"));
    for (size_t i = 0; i < ARRAY_LENGTH(suffixes); i++) {
        struct stat status;

        cr_assert_eq(stat(path_of(suffixes[i]), &status), 0, "%s", path_of(suffixes[i]));
        cr_assert_eq(status.st_mode & 07777, 0600, "%s has mode %o", path_of(suffixes[i]),
                     status.st_mode & 07777);
    }
}

Test(store_file, a_file_that_others_could_read_is_closed_to_them)
{
    struct stat status;

    suite_close(0);
    cr_assert_eq(chmod(path_of(""), 0644), 0);
    suite_open(0);
    cr_assert_eq(stat(path_of(""), &status), 0);
    cr_assert_eq(status.st_mode & 07777, 0600);
}

Test(store_file, a_second_podgate_is_refused)
{
    struct suite_instance first = suite_instances[0];

    cr_assert_not(suite_try_open(0));
    cr_assert_eq(suite_exit_status, EX_TEMPFAIL);
    cr_assert_not_null(strstr(suite_problem, "another podgate"));
    suite_instances[0] = first;
    add_job(VIEW("job-1"));
}

Test(store_file, a_person_can_read_it)
{
    add_result(VIEW("job-1"), VIEW("{\"ok\":true}"));
    cr_assert_view(asked_of_sqlite("SELECT state||' '||fate||' '||team FROM jobs"),
                   VIEW("COMPLETED KEPT vision"));
    cr_assert_view(asked_of_sqlite("SELECT cast(body AS TEXT) FROM results"),
                   VIEW("{\"ok\":true}"));
    cr_assert_view(asked_of_sqlite("SELECT length(digest) FROM jobs"), VIEW("64"));
    cr_assert_view(asked_of_sqlite("SELECT abs(ended_ms/1000-strftime('%s','now'))<5 FROM jobs"),
                   VIEW("1"));
}

Test(store_file, what_has_expired_is_overwritten)
{
    struct view stored = VIEW("");
    char command[400];

    add_result(VIEW("job-1"), VIEW("a secret that is long enough to be found again"));
    cr_assert_eq(result_of(VIEW("job-1"), &stored).fate, STORE_FATE_KEPT);
    clock_advance(KEEP_MS + SECOND_MS);
    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_EXPIRE, .limit = 10)->expired, 1);
    suite_close(0);
    snprintf(command, sizeof command, "! grep -q 'long enough to be found' '%s'", path_of(""));
    cr_assert_eq(system(command), 0, "the result is still in the file");
}

/* ---- versions -------------------------------------------------------------------------------- */

/* Version 1 as podgate first wrote it, with a job and an unknown submit. */
static const char version_1[] =
    "PRAGMA application_id=0x706f6467; PRAGMA user_version=1;"
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
    "CREATE INDEX submits_forget ON submits(forget_ms) WHERE forget_ms IS NOT NULL;"
    "INSERT INTO jobs(endpoint,job,upstream_id,team,key,kind,state,submitted_ms,due_ms,deadline_ms)"
    " VALUES('abc123','old-1','old-1','vision','ci','run','IN_QUEUE',1700000000000,1700000000000,"
    "1700000000000);"
    "INSERT INTO submits(id,team,key,endpoint,operation,instance,state,digest,changed_ms)"
    " VALUES('0123456789abcdef0123456789abcdef','vision','ci','abc123','run','i','UNKNOWN',"
    "'0000000000000000000000000000000000000000000000000000000000000000',1700000000000);";

static void make_anew(const char *sql)
{
    suite_close(0);
    cr_assert_eq(unlink(path_of("")), 0);
    with_sqlite(sql);
}

Test(store_file, an_older_version_is_brought_up_to_date_with_all_that_is_in_it)
{
    struct store_counts counts;

    make_anew(version_1);
    suite_open(0);
    cr_assert_eq(job_of(VIEW("old-1")).submitted_ms, 1700000000000);
    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_LIST_UNKNOWN, .limit = 10)->count, 1);
    counts = EXPECT(STORE_OK, .operation = STORE_COUNT)->counts;
    cr_assert_eq(counts.jobs, 1);
    cr_assert_eq(counts.outstanding, 1);
    cr_assert_eq(counts.unknown_submits, 1);
    add_result(VIEW("new-1"), VIEW("result"));
    cr_assert_view(asked_of_sqlite("PRAGMA user_version"), VIEW("2"));
}

Test(store_file, an_old_file_that_was_migrated_has_the_schema_of_a_new_one)
{
    static const char schema[] = "SELECT group_concat(sql,';') FROM (SELECT sql FROM sqlite_schema"
                                 " WHERE sql IS NOT NULL ORDER BY type,name)";
    struct view made = asked_of_sqlite(schema);

    make_anew(version_1);
    suite_open(0);
    cr_assert_view(asked_of_sqlite(schema), made);
}

Test(store_file, a_newer_version_is_left_alone)
{
    suite_close(0);
    with_sqlite("PRAGMA user_version=99");
    expect_no_open(EX_DATAERR, "newer podgate");
    cr_assert_view(asked_of_sqlite("PRAGMA user_version"), VIEW("99"));
}

Test(store_file, somebody_elses_database_is_left_alone)
{
    make_anew("CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1);");
    expect_no_open(EX_DATAERR, "not podgate's");
    cr_assert_view(asked_of_sqlite("SELECT x FROM theirs"), VIEW("1"));
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* Overwrites a page of the closed file, counted from 0. */
static void damage_page(unsigned page)
{
    static const char garbage[4096] = {[0 ... 4095] = 'g'};
    int descriptor = open(path_of(""), O_WRONLY | O_CLOEXEC);

    cr_assert_geq(descriptor, 0);
    cr_assert_eq(pwrite(descriptor, garbage, sizeof garbage, (off_t)page * 4096),
                 (ssize_t)sizeof garbage);
    close(descriptor);
}

static off_t file_bytes(void)
{
    struct stat status;

    cr_assert_eq(stat(path_of(""), &status), 0);
    return status.st_size;
}

Test(store_file, a_damaged_file_is_never_made_anew)
{
    off_t bytes;

    for (unsigned i = 0; i < 200; i++) {
        add_job(suite_format("job-%03u", i));
    }
    suite_close(0);
    bytes = file_bytes();
    damage_page((unsigned)(bytes / 4096 / 2));
    expect_no_open(EX_DATAERR, "podgatectl store salvage");
    cr_assert_eq(file_bytes(), bytes);
    damage_page(0);
    expect_no_open(EX_DATAERR, "podgatectl store salvage");
}

Test(store_file, what_is_readable_of_a_damaged_file_is_salvaged)
{
    const char *saved = suite_format("%s/saved.db", suite_directory()).data;
    struct store_salvage found;
    char *problem = NULL;
    unsigned root;
    unsigned there = 0;

    for (unsigned i = 0; i < 300; i++) {
        add_result(suite_format("job-%03u", i), suite_format("result of %03u", i));
    }
    suite_close(0);
    /* A leaf of the table of results, and the whole index by name. */
    root = (unsigned)atoi(
        asked_of_sqlite("SELECT pageno-1 FROM dbstat WHERE name='results' AND pagetype='leaf'"
                        " ORDER BY pageno LIMIT 1")
            .data);
    cr_assert_gt(root, 0);
    damage_page(root);
    expect_no_open(EX_DATAERR, "salvage");
    cr_assert(store_embedded_salvage(path_of(""), saved, &found, &problem), "%s", problem);
    cr_assert_eq(found.jobs, 300, "%zu jobs, %zu results, %zu rows lost", (size_t)found.jobs,
                 (size_t)found.results, (size_t)found.lost_rows);
    cr_assert_gt(found.lost_rows, 0);
    cr_assert_gt(found.results, 0);
    cr_assert_lt(found.results, 300);
    cr_assert_eq(rename(saved, path_of("")), 0);
    suite_open(0);
    for (unsigned i = 0; i < 300; i++) {
        struct view stored;
        struct store_job job = result_of(suite_format("job-%03u", i), &stored);

        if (job.fate == STORE_FATE_KEPT) {
            cr_assert_view(stored, suite_format("result of %03u", i));
            there++;
        } else {
            cr_assert_eq(job.state, JOB_LOST, "it is looked for again");
        }
    }
    cr_assert_eq(there, found.results);
}

Test(store_file, a_salvage_never_overwrites_and_never_disturbs)
{
    const char *saved = suite_format("%s/saved.db", suite_directory()).data;
    struct store_salvage found;
    char *problem = NULL;

    cr_assert_not(store_embedded_salvage(path_of(""), saved, &found, &problem));
    cr_assert_not_null(strstr(problem, "podgate uses"));
    free(problem);
    suite_close(0);
    cr_assert_not(store_embedded_salvage(path_of(""), path_of(""), &found, &problem));
    free(problem);
    suite_open(0);
}

/* Edits that make no sense hurt the edited job alone. */
Test(store_file, a_row_that_makes_no_sense_is_broken_and_no_other)
{
    static const char *const edits[] = {
        "UPDATE jobs SET state='WHATEVER' WHERE job='job-1'",
        "UPDATE jobs SET digest='abc' WHERE job='job-1'",
        "UPDATE jobs SET generation=-5 WHERE job='job-1'",
        "UPDATE jobs SET fate='x' WHERE job='job-1'",
        "UPDATE jobs SET due_ms='soon' WHERE job='job-1'",
        "DELETE FROM results WHERE row=(SELECT id FROM jobs WHERE job='job-1')",
        "UPDATE results SET body=x'00' WHERE row=(SELECT id FROM jobs WHERE job='job-1')",
    };
    struct view stored;

    for (size_t i = 0; i < ARRAY_LENGTH(edits); i++) {
        add_result(VIEW("job-1"), VIEW("broken"));
        add_result(VIEW("job-2"), VIEW("sound"));
        with_sqlite(edits[i]);
        EXPECT(STORE_BROKEN, .operation = STORE_GET_JOB, ABOUT("job-1"), .with_result = true);
        result_of(VIEW("job-2"), &stored);
        cr_assert_view(stored, VIEW("sound"));
        EXPECT(STORE_OK, .operation = STORE_LIST_JOBS, .team = TEAM, .limit = 10);
        EXPECT(STORE_OK, .operation = STORE_EXPIRE, .limit = 10, .max_total_bytes = 1 << 20);
        cr_assert_gt(metric(METRIC_FAULTS, METRIC_PART_STORE, METRIC_STORE_FAULT_MALFORMED), 0);
        with_sqlite("DELETE FROM jobs; DELETE FROM results;");
    }
}

Test(store_file, a_broken_row_leaves_the_schedule_so_that_others_are_polled)
{
    const struct store_reply *reply;
    struct store_question due = due_question(10);

    add_job(VIEW("job-1"));
    add_job(VIEW("job-2"));
    with_sqlite("UPDATE jobs SET state='WHATEVER' WHERE job='job-1'");
    reply = EXPECT_THAT(STORE_OK, due);
    cr_assert_eq(reply->count, 1);
    cr_assert_view(reply->jobs[0].id, VIEW("job-2"));
    cr_assert_view(asked_of_sqlite("SELECT count(*) FROM jobs WHERE ready=1"), VIEW("0"));
}

/* ---- a disk that fails ----------------------------------------------------------------------- */

#ifdef PODGATE_FAULTS

static void wait_for(enum store_state state)
{
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    while (store_state(suite_instances[0].store) != state) {
        cr_assert_lt(suite_real_ms(), until_ms, "the state stays %d",
                     store_state(suite_instances[0].store));
        suite_step();
    }
}

static void set_faults(const char *rules)
{
    const char *problem;

    cr_assert(fault_load(rules, &problem), "%s", problem);
}

static struct store_question adopt_question(const char *job)
{
    return (struct store_question){.operation = STORE_ADOPT_JOB,
                                   .endpoint = ENDPOINT,
                                   .job = view_of_string(job),
                                   .team = TEAM,
                                   .key = KEY,
                                   .deadline_ms = RETENTION_MS};
}

Test(store_file, a_full_disk_refuses_writes_serves_reads_and_recovers)
{
    struct store_question adopt = adopt_question("job-2");
    struct view stored;

    add_result(VIEW("job-1"), VIEW("result"));
    set_faults("store.commit=ENOSPC");
    EXPECT_THAT(STORE_FULL, adopt);
    cr_assert_eq(store_state(suite_instances[0].store), STORE_STATE_FULL);
    result_of(VIEW("job-1"), &stored);
    cr_assert_view(stored, VIEW("result"));
    cr_assert_gt(metric(METRIC_FAULTS, METRIC_PART_STORE, METRIC_STORE_FAULT_FULL), 0);
    EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, ABOUT("job-2"));
    set_faults(NULL);
    wait_for(STORE_STATE_READY);
    EXPECT_THAT(STORE_OK, adopt);
}

Test(store_file, after_a_failed_sync_nothing_is_confirmed_before_all_was_copied)
{
    struct store_question adopt = adopt_question("job-1");
    struct store_question again = adopt_question("job-2");

    set_faults("store.sync=EIO@1,store.checkpoint=EIO");
    EXPECT_THAT(STORE_FULL, adopt);
    cr_assert_eq(store_state(suite_instances[0].store), STORE_STATE_FULL);
    EXPECT_THAT(STORE_FULL, again);
    cr_assert_eq(fault_passes("store.sync"), 1, "a later sync proves nothing");
    set_faults(NULL);
    wait_for(STORE_STATE_READY);
    EXPECT_THAT(STORE_OWNED, adopt);
    cr_assert_gt(metric(METRIC_FAULTS, METRIC_PART_STORE, METRIC_STORE_FAULT_IO), 0);
}

static unsigned ended_ok;
static unsigned ended;

static void count_ends(void *argument, const struct store_reply *reply)
{
    (void)argument;
    ended++;
    ended_ok += reply->result == STORE_OK;
}

Test(store_file, a_question_that_fails_doesnt_fail_those_that_share_its_commit)
{
    enum { TOGETHER = 20 };
    char names[TOGETHER][16];
    uint64_t until_ms = suite_real_ms() + SUITE_FOREVER_MS;

    add_job(VIEW("job-x"));
    /* Somewhere in the middle of the first transaction; the repetition passes. */
    set_faults("store.step=EIO@23");
    for (unsigned i = 0; i < TOGETHER; i++) {
        struct store_question adopt;

        snprintf(names[i], sizeof names[i], "job-%u", i);
        adopt = adopt_question(names[i]);
        cr_assert_not_null(store_ask(suite_instances[0].client, &adopt, count_ends, NULL));
    }
    while (ended < TOGETHER) {
        cr_assert_lt(suite_real_ms(), until_ms);
        suite_step();
    }
    cr_assert_geq(ended_ok, TOGETHER - 1);
    set_faults(NULL);
    wait_for(STORE_STATE_READY);
    cr_assert_eq(EXPECT(STORE_OK, .operation = STORE_COUNT)->counts.jobs, ended_ok + 1);
}

Test(store_file, a_read_that_fails_hurts_that_read_only)
{
    add_job(VIEW("job-1"));
    set_faults("store.read=EIO@1");
    EXPECT(STORE_BROKEN, .operation = STORE_GET_JOB, ABOUT("job-1"));
    EXPECT(STORE_OK, .operation = STORE_GET_JOB, ABOUT("job-1"));
    cr_assert_eq(store_state(suite_instances[0].store), STORE_STATE_READY);
    set_faults(NULL);
}

Test(store_file, a_file_that_somebody_locks_is_away_and_not_full)
{
    struct store_question adopt = adopt_question("job-1");
    sqlite3 *database = NULL;

    cr_assert_eq(sqlite3_open(path_of(""), &database), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(database, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    EXPECT_THAT(STORE_AWAY, adopt);
    cr_assert_eq(store_state(suite_instances[0].store), STORE_STATE_READY);
    cr_assert_gt(metric(METRIC_FAULTS, METRIC_PART_STORE, METRIC_STORE_FAULT_LOCKED), 0);
    sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(database);
    EXPECT_THAT(STORE_OK, adopt);
}

#endif
