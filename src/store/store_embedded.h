/* The embedded store: ledger and results in one SQLite file of one podgate. Private to the layer:
 * its files (store_embedded_*.c), the spool and the salvage include this.
 *
 * Threads, besides the clients' loops, which only queue questions:
 *
 *   writer  drains its queue, runs all that waits as one transaction, commits
 *   syncer  makes commits durable: one fdatasync() of the -wal file for all that wait. Apart from
 *           the writer, so that nothing that is written waits for the disk but who must
 *   reader  asks what changes nothing, on a connection of its own
 *   keeper  once a second: checkpoint, room on the disk, steps of the clock
 *
 * An operation is a function of a `struct embedded_work`. It never looks at SQLite's results: the
 * first error is kept in its connection, everything after it does nothing, and who called it rolls
 * back and finds the answer.
 */
#ifndef PODGATE_STORE_STORE_EMBEDDED_H
#define PODGATE_STORE_STORE_EMBEDDED_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "store/store_backend.h"

enum {
    EMBEDDED_STATEMENTS = 256, /* a power of two, well above the statements that there are */
    EMBEDDED_CLOCK_HOLD_MS = 10 * 60 * 1000, /* nothing expires so long after a step */
    EMBEDDED_BUSY_MS = 1000,                 /* how long another program may lock the file */
    EMBEDDED_WAL_MOST_PAGES = 4000, /* of the log; the keeper copies it back from a quarter of it */
    EMBEDDED_PAGE_BYTES = 4096,
};

/* ---- statements (store_embedded_sql.c) ------------------------------------------------------- */

/* One connection with its prepared statements, each found by the address of its text. */
struct embedded_connection {
    sqlite3 *database;
    int error; /* SQLITE_OK, or the first error of the work under way */
    struct embedded_statement {
        const char *sql;
        sqlite3_stmt *statement;
    } statements[EMBEDDED_STATEMENTS];
};

enum embedded_value_kind {
    EMBEDDED_VALUE_NULL,
    EMBEDDED_VALUE_NUMBER,
    EMBEDDED_VALUE_TEXT,
    EMBEDDED_VALUE_BLOB,
    EMBEDDED_VALUE_HEX, /* bytes, written as lower-case hexadecimal digits */
};

struct embedded_value {
    enum embedded_value_kind kind;
    uint64_t number;
    struct view bytes;
};

/* The value of ?1, ?2... NULL where the column has none. */
struct embedded_value embedded_number(uint64_t number);
struct embedded_value embedded_number_or_null(uint64_t number, uint64_t null_for);
struct embedded_value embedded_row_id(int64_t id);
struct embedded_value embedded_text(struct view text);
struct embedded_value embedded_text_or_null(struct view text); /* an empty one is NULL */
struct embedded_value embedded_word(const char *word);
struct embedded_value embedded_blob(struct view bytes);
struct embedded_value embedded_hex(const unsigned char *bytes, size_t count);
struct embedded_value embedded_null(void);

/* Runs a statement that gives no row. `sql` is a literal; its address names it. */
void embedded_run(struct embedded_connection *connection, const char *sql,
                  const struct embedded_value *values, size_t count);
#define EMBEDDED_RUN(connection, sql, ...)                                                         \
    embedded_run(connection, sql, (const struct embedded_value[]){__VA_ARGS__},                    \
                 sizeof((const struct embedded_value[]){__VA_ARGS__}) /                            \
                     sizeof(struct embedded_value))

/* Runs a statement up to its first row. NULL: none, or an error. Else embedded_next() or
 * embedded_done() has to follow; columns are valid until then. */
sqlite3_stmt *embedded_query(struct embedded_connection *connection, const char *sql,
                             const struct embedded_value *values, size_t count);
#define EMBEDDED_QUERY(connection, sql, ...)                                                       \
    embedded_query(connection, sql, (const struct embedded_value[]){__VA_ARGS__},                  \
                   sizeof((const struct embedded_value[]){__VA_ARGS__}) /                          \
                       sizeof(struct embedded_value))

/* The next row; false: there is none or an error, and the statement is done. */
MUST_CHECK bool embedded_next(struct embedded_connection *connection, sqlite3_stmt *statement);

/* Ends a query; NULL is allowed. */
void embedded_done(sqlite3_stmt *statement);

/* Runs one or several statements without values ("COMMIT"); what they say is dropped. */
void embedded_script(struct embedded_connection *connection, const char *sql);

/* The number in the first column of the first row, or `otherwise`. */
uint64_t embedded_query_number(struct embedded_connection *connection, const char *sql,
                               const struct embedded_value *values, size_t count,
                               uint64_t otherwise);

/* Columns of the row. A negative number or NULL is `otherwise`. */
uint64_t embedded_column_number(sqlite3_stmt *statement, int column, uint64_t otherwise);
struct view embedded_column_bytes(sqlite3_stmt *statement, int column);

/* How many rows the last statement changed. */
uint64_t embedded_changed(const struct embedded_connection *connection);

/* Finalizes the statements and closes. */
void embedded_close_connection(struct embedded_connection *connection);

/* `left + right`, at most what SQLite can hold. */
uint64_t embedded_add(uint64_t left, uint64_t right);

/* ---- rows (store_embedded_rows.c) and replies (store_embedded_replies.c) ----------------------
 */

/* A row of `jobs`. */
struct embedded_row {
    int64_t id;
    struct store_job job; /* as it is written: KEPT though it has expired */
    struct view submit_id;
    struct view lease_instance; /* empty: not leased */
    enum store_encoding input_encoding;
    uint64_t input_stored_bytes;
    uint64_t chunk_bytes;
    uint64_t cancel_due_ms; /* 0: not to be cancelled */
    uint64_t poll_until_ms; /* a LOST one is looked for so long */
    uint64_t forget_ms;     /* when the row goes; 0: not known yet */
    bool scheduled;
    bool ready; /* its due time was seen to have come */
};

/* The columns in the order of embedded_read_row(). */
#define EMBEDDED_JOB_COLUMNS                                                                       \
    "id,endpoint,job,upstream_id,team,key,kind,state,fate,generation,submitted_ms,ended_ms,"       \
    "expires_ms,forget_ms,ttl_ms,execution_ms,delay_ms,result_bytes,stored_bytes,encoding,"        \
    "digest,input_bytes,input_stored_bytes,input_encoding,purged,cancel_due_ms,due_ms,ready,"      \
    "lease_instance,deadline_ms,fence,missing_since_ms,missing_count,failure_count,"               \
    "poll_until_ms,chunk_count,chunk_bytes,submit_id"

/* The columns in the order of embedded_read_submit(). */
#define EMBEDDED_SUBMIT_COLUMNS                                                                    \
    "row,id,team,key,endpoint,job,idempotency_key,instance,note,operation,state,digest,sent_ms,"   \
    "changed_ms,answer_status,fence,until_ms"

/* A row of `submits`. */
struct embedded_submit {
    int64_t row;
    struct store_submit submit;
    uint64_t fence;
    uint64_t until_ms;
};

/* What one question changes of the totals. */
enum embedded_total {
    EMBEDDED_TOTAL_JOBS,
    EMBEDDED_TOTAL_OUTSTANDING,
    EMBEDDED_TOTAL_BYTES,
    EMBEDDED_TOTAL_UNKNOWN,
    EMBEDDED_TOTAL_LOST,
    EMBEDDED_TOTAL_TTL_EXPIRED,
    EMBEDDED_TOTAL_FATE, /* and one for each further fate */
    EMBEDDED_TOTALS = EMBEDDED_TOTAL_FATE + STORE_FATES
};

struct embedded;

/* Whose work it is: one of the store's threads. */
enum embedded_hand { EMBEDDED_WRITER, EMBEDDED_SYNCER, EMBEDDED_READER, EMBEDDED_KEEPER };
enum { EMBEDDED_HANDS = 4 };

/* One question that is being worked on. */
struct embedded_work {
    struct embedded *embedded;
    struct embedded_connection *connection;
    struct store_call *call;
    const struct store_question *question;
    struct store_reply *reply;
    enum embedded_hand hand;
    uint64_t now_ms;
    int64_t totals[EMBEDDED_TOTALS];
    struct builder text;  /* what the reply's views point into, by offset */
    struct builder items; /* jobs, submits, endpoints or lengths of the reply */
    enum embedded_items {
        EMBEDDED_ITEMS_NONE,
        EMBEDDED_ITEMS_JOBS,
        EMBEDDED_ITEMS_SUBMITS,
        EMBEDDED_ITEMS_ENDPOINTS,
        EMBEDDED_ITEMS_LENGTHS,
        EMBEDDED_ITEMS_SPOOLED,
    } items_are;
    bool has_job;
    bool has_submit;
    bool broken; /* a row that isn't podgate's was met */
};

/* The words by which the file says these. */
const char *embedded_operation_word(enum store_submit_operation operation);
const char *embedded_submit_state_word(enum store_submit_state state);

/* Begins one question for one of the store's threads, which decides the connection; the end frees
 * what the reply didn't take. */
void embedded_begin_work(struct embedded_work *work, struct embedded *embedded,
                         enum embedded_hand hand, struct store_call *call);
/* The end of it. */
void embedded_clear_work(struct embedded_work *work);

/* Reads a row; views are valid until the statement is moved on. False: it isn't podgate's. */
MUST_CHECK bool embedded_read_row(sqlite3_stmt *statement, struct embedded_row *row);
MUST_CHECK bool embedded_read_submit(sqlite3_stmt *statement, struct embedded_submit *submit);

/* Looks a job up. STORE_OK: `*statement` holds the row and has to be given to embedded_done();
 * STORE_ABSENT; STORE_BROKEN. With an error in the connection: STORE_ABSENT. */
MUST_CHECK enum store_result embedded_find_job(struct embedded_work *work, struct view endpoint,
                                               struct view job, struct embedded_row *row,
                                               sqlite3_stmt **statement);

/* The job as callers see it goes into the reply, as reply.job or as one more of reply.jobs. */
void embedded_reply_job(struct embedded_work *work, const struct embedded_row *row);
void embedded_reply_add_job(struct embedded_work *work, const struct embedded_row *row);
void embedded_reply_submit(struct embedded_work *work, const struct store_submit *submit);
void embedded_reply_add_submit(struct embedded_work *work, const struct store_submit *submit);
void embedded_reply_add_endpoint(struct embedded_work *work,
                                 const struct store_endpoint_count *endpoint);
void embedded_reply_add_length(struct embedded_work *work, uint32_t length);
void embedded_reply_cursor(struct embedded_work *work, int64_t row);

/* Reads a cursor of embedded_reply_cursor(); an empty one is `otherwise`. */
MUST_CHECK bool embedded_read_cursor(struct view cursor, int64_t otherwise, int64_t *row);

/* Puts what was collected into the call's reply. False without memory. */
MUST_CHECK bool embedded_seal_reply(struct embedded_work *work);

/* reply.body out of one blob, copied once. Without memory or budget: STORE_NO_MEMORY. */
MUST_CHECK enum store_result embedded_reply_blob(struct embedded_work *work, const char *table,
                                                 const char *column, int64_t row);

/* Writes a row back, all of it that changes, and keeps the totals: `before` is the row as it was.
 */
void embedded_save_row(struct embedded_work *work, const struct embedded_row *before,
                       const struct embedded_row *row);

/* Inserts a row; row->id is set. */
void embedded_insert_row(struct embedded_work *work, struct embedded_row *row,
                         const unsigned char *dedupe_digest);
void embedded_delete_row(struct embedded_work *work, const struct embedded_row *row);

/* Takes result, input, chunks and cursors of a job away; `row` is changed accordingly. */
void embedded_drop_result(struct embedded_work *work, struct embedded_row *row);
void embedded_drop_input(struct embedded_work *work, struct embedded_row *row);
void embedded_drop_chunks(struct embedded_work *work, struct embedded_row *row);

/* True when the result's time is over and time may be trusted. */
bool embedded_has_expired(const struct embedded_work *work, const struct store_job *job);

/* ---- operations ------------------------------------------------------------------------------ */

typedef enum store_result embedded_operation(struct embedded_work *work);

/* Operations of the spool alone (store_embedded_spool.c), behind those of enum store_operation. In
 * a spool's file `spool_order` of a job says since when, in order, it holds what Redis hasn't, and
 * `drained_ms` when Redis got it; an imported job has neither. */
enum embedded_private_operation {
    /* Enters what is known of a job of Redis: endpoint, job, upstream_id, team, key, kind, state,
     * generation, ttl_ms, since_ms (submitted, wall), due_ms and deadline_ms (spans), missing,
     * missing_since_ms, failures, from (chunks that Redis has). With `ended` it is news for Redis.
     */
    EMBEDDED_IMPORT_JOB = STORE_OPERATIONS,
    /* reply.count items in reply.own (struct embedded_spooled): at most `limit` that Redis hasn't,
     * oldest first; reply.counts.spooled: how many there are. */
    EMBEDDED_LIST_SPOOLED,
    /* reply.body: the answer that submit.id was given. */
    EMBEDDED_GET_ANSWER,
    /* The cursor of endpoint, job behind `consumer`: reply.submit.key, cursor_position,
     * cursor_ended; or STORE_ABSENT. */
    EMBEDDED_NEXT_CURSOR,
    /* Redis has endpoint, job as it was when `fence` (its order) was read, or (without job) the
     * UNKNOWN submit.id. STORE_CONFLICT: it has changed since. */
    EMBEDDED_MARK_DRAINED,
    /* Redis has lost what it had: all that it was given counts as news again. reply.count. */
    EMBEDDED_REASSERT,
    /* Drops what Redis was given EMBEDDED_KEEP_DRAINED_MS ago; with `ended` also what was only
     * imported, and empties the schedule. reply.count: jobs that are left. */
    EMBEDDED_CLEAN_SPOOL,
    EMBEDDED_OPERATIONS
};
enum { EMBEDDED_KEEP_DRAINED_MS = 24 * 3600 * 1000 };

/* One thing that Redis hasn't. */
struct embedded_spooled {
    struct store_job job;       /* without id: a submit alone */
    struct store_submit submit; /* without id: none */
    enum store_encoding input_encoding;
    uint64_t order;
};

/* Calls `visit` for each job that Redis hasn't, with views that live during the call; *count is how
 * many things it hasn't. Before any client is there. False: the file can't be read. */
MUST_CHECK bool embedded_visit_spooled(struct embedded *embedded,
                                       void (*visit)(void *argument, const struct store_job *job),
                                       void *argument, uint64_t *count);

/* True while the work is on a spool's file and changes what Redis has to know. */
bool embedded_is_news(const struct embedded_work *work);
/* Marks a job as news, if the work is. */
void embedded_note_news(struct embedded_work *work, int64_t row);
/* Adds one to the reply of EMBEDDED_LIST_SPOOLED. */
void embedded_reply_add_spooled(struct embedded_work *work, const struct embedded_row *row,
                                const struct store_submit *submit, uint64_t order);

embedded_operation embedded_import_job, embedded_list_spooled, embedded_get_answer,
    embedded_next_cursor, embedded_mark_drained, embedded_reassert, embedded_clean_spool;
/* store_embedded_submits.c */
embedded_operation embedded_claim_submit, embedded_mark_sent, embedded_settle_submit,
    embedded_list_unknown, embedded_resolve_submit;
/* store_embedded_jobs.c */
embedded_operation embedded_find_duplicate, embedded_get_job, embedded_adopt_job,
    embedded_put_result, embedded_retry_job, embedded_delete_result, embedded_shorten;
/* store_embedded_schedule.c */
embedded_operation embedded_claim_due, embedded_claim_job, embedded_reschedule,
    embedded_list_endpoints, embedded_mark_purged, embedded_claim_cancels, embedded_clear_cancel;
/* store_embedded_chunks.c */
embedded_operation embedded_append_chunks, embedded_read_chunks, embedded_get_cursor,
    embedded_set_cursor;
/* store_embedded_lists.c */
embedded_operation embedded_list_jobs, embedded_expire, embedded_count;

/* Submits whose time is over become UNKNOWN. */
void embedded_give_up_overdue(struct embedded_work *work);
/* What an end of a job writes, for PUT_RESULT and for a submit that came with its result. */
void embedded_end_job(struct embedded_work *work, struct embedded_row *row);
/* Stores question.result as the blob of an ended job. */
void embedded_store_result(struct embedded_work *work, const struct embedded_row *row);
/* What /retry does to a job; keeps the input. */
void embedded_begin_again(struct embedded_work *work, struct embedded_row *row);
/* The result and all that belongs to it goes; the row stays as a tombstone. */
void embedded_bury_result(struct embedded_work *work, struct embedded_row *row,
                          enum store_fate fate);
/* A new job made of a question; what is not in it is filled. */
void embedded_new_row(const struct embedded_work *work, struct embedded_row *row);

/* ---- the store (store_embedded.c) ------------------------------------------------------------ */

/* Calls that wait for one thread. */
struct embedded_queue {
    pthread_mutex_t lock;
    struct store_call *first;
    struct store_call **last;
    pthread_cond_t filled;
    int wake_descriptor; /* for whoever waits with a time-out */
    bool is_timed;
    bool sleeping;
    bool stopping;
    bool nudged; /* woken for another reason than a call */
};

/* Why the store may not take submits; bits. */
enum embedded_trouble {
    EMBEDDED_TROUBLE_WRITE = 1, /* a write failed: no room, I/O error, read-only */
    EMBEDDED_TROUBLE_SYNC = 2,  /* what was committed may not be on the disk */
    EMBEDDED_TROUBLE_ROOM = 4,  /* less than the reserve is left */
};

/* One store file. Owned by whoever called embedded_open(). */
struct embedded {
    struct store *store;
    char *path;
    bool is_spool;
    uint64_t last_order; /* the writer's: see spool_order */
    int lock_descriptor;
    int wal_descriptor;
    struct embedded_connection writer;
    struct embedded_connection reader;
    struct embedded_connection keeper; /* under `keeper_lock`: the syncer needs it after an error */
    pthread_mutex_t keeper_lock;
    struct embedded_queue writes;
    struct embedded_queue reads;
    struct embedded_queue syncs;
    struct embedded_queue chores; /* never a call in it; wakes the keeper */
    pthread_t threads[EMBEDDED_HANDS];
    size_t thread_count;
    struct embedded_hands { /* each thread's own counters and log */
        struct metrics_block *metrics;
        struct log_ring *log;
    } hands[EMBEDDED_HANDS];
    _Atomic uint64_t committed; /* transactions */
    _Atomic uint64_t synced;
    _Atomic bool syncer_works;
    _Atomic unsigned wal_pages;    /* in the log after the last commit */
    _Atomic unsigned copied_pages; /* of those, by the last checkpoint */
    _Atomic unsigned troubles;
    pthread_mutex_t trouble_lock;
    _Atomic bool expiry_held;
    _Atomic bool must_probe;
    _Atomic bool has_reserve;
    uint64_t reserve_bytes;          /* the keeper's */
    _Atomic unsigned log_most_pages; /* EMBEDDED_WAL_MOST_PAGES, on a small file system fewer */
    _Atomic int64_t clock_offset_ms; /* wall minus boot */
    _Atomic uint64_t hold_until_boot_ms;
    uint64_t saved_wall_ms;        /* the writer's: the highest that was stored */
    _Atomic uint64_t step_wall_ms; /* of a step that isn't stored yet; 0: none */
    /* Clients that are being destroyed wait here for their calls. */
    _Atomic unsigned closing;
    pthread_mutex_t ended_lock;
    pthread_cond_t ended;
    uint64_t ended_count;
};

/* Opens, checks, migrates and starts the threads. NULL: as store_create() says. */
struct embedded *embedded_open(struct store *store, struct view path, bool is_spool, char **problem,
                               int *exit_status);

/* Works off what is queued, checkpoints, closes. */
void embedded_close(struct embedded *embedded);

/* The threads (store_embedded_threads.c), their argument is the store; and what the writer does by
 * itself: it writes something small, to see whether it can. */
void *embedded_writer_main(void *argument);
void *embedded_syncer_main(void *argument);
void *embedded_reader_main(void *argument);
void embedded_probe(struct embedded *embedded);

/* SQLite's hook: how long the log is after a commit. */
int embedded_on_commit(void *argument, sqlite3 *database, const char *name, int pages);

/* Queues a call; any thread. */
void embedded_start_call(struct embedded *embedded, struct store_call *call);

/* Waits until no call of the client is with the store any more; they end unheard. */
void embedded_drain_client(struct embedded *embedded, struct store_client *client);

enum store_state embedded_state(const struct embedded *embedded);

/* ---- the file (store_embedded_schema.c) ------------------------------------------------------ */

enum { EMBEDDED_SCHEMA_VERSION = 2, EMBEDDED_APPLICATION_ID = 0x706f6467 /* "podg" */ };

/* Takes the lock, makes or checks the file, brings its schema up to date and opens the three
 * connections. False: `*problem` and `*exit_status` as store_create(). */
MUST_CHECK bool embedded_open_file(struct embedded *embedded, char **problem, int *exit_status);
void embedded_close_file(struct embedded *embedded);

/* Sets the PRAGMAs of a connection to a file that need not be podgate's yet. */
MUST_CHECK bool embedded_open_connection(struct embedded_connection *connection, const char *path,
                                         int flags);

/* Makes the tables of the newest schema in an empty database; for the salvage. */
MUST_CHECK bool embedded_make_schema(struct embedded_connection *connection);

/* Counts jobs, bytes and so on anew, into `totals` and `endpoints`. */
void embedded_recount(struct embedded_connection *connection);

/* ---- disk and clock (store_embedded_keeper.c) ------------------------------------------------ */

/* What happened to a call of SQLite or the kernel: counts, logs a change, and frees the reserve
 * when the disk is full. `hand` is the calling thread's. Any of the store's threads. */
void embedded_note_error(struct embedded *embedded, enum embedded_hand hand, int error);
void embedded_set_trouble(struct embedded *embedded, enum embedded_hand hand,
                          enum embedded_trouble trouble, bool is);

/* The result of a question that met `error`, an SQLite code. */
enum store_result embedded_result_of_error(int error);

/* Copies the log back into the file. With `truncate` all of it, waiting for the writer; true only
 * when that is on the disk. Any of the store's threads. */
MUST_CHECK bool embedded_checkpoint(struct embedded *embedded, enum embedded_hand hand,
                                    bool truncate);

/* True when the log holds so many pages that aren't in the file yet. Any of the store's threads. */
bool embedded_log_is_long(const struct embedded *embedded, unsigned pages);

/* Notices a step of the wall clock; before anything that may expire. Any of the store's threads. */
void embedded_watch_clock(struct embedded *embedded, enum embedded_hand hand);

/* The keeper's thread and what it does at the start. */
void *embedded_keeper_main(void *argument);
void embedded_begin_keeping(struct embedded *embedded);

/* Waits for calls, at most wait_ms (-1: for ever), and takes all. False: it is to stop and nothing
 * is left. `*first` may be NULL when it was nudged or the time is over. */
MUST_CHECK bool embedded_queue_take(struct embedded_queue *queue, int wait_ms,
                                    struct store_call **first);
void embedded_queue_put(struct embedded_queue *queue, struct store_call *first);
bool embedded_queue_is_empty(struct embedded_queue *queue);
void embedded_queue_nudge(struct embedded_queue *queue);

#endif
