/* The suite of tests that every backend of the store passes: store_suite_*.c, linked into one
 * program per backend (test_store_on_embedded.c, test_store_on_redis.c). The program says in
 * `suite_backend` how its store is set up and how time passes for it; this fixture opens the store,
 * asks, turns the loop until the reply came, and keeps a copy of the reply to the end of the test.
 *
 *     EXPECT(STORE_OK, .operation = STORE_DELETE_RESULT, .endpoint = ENDPOINT, .job = VIEW("j"));
 *     reply = EXPECT(STORE_ABSENT, .operation = STORE_GET_JOB, ...);
 */
#ifndef PODGATE_TESTS_STORE_SUITE_H
#define PODGATE_TESTS_STORE_SUITE_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/body.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "model/config.h"
#include "model/metric_catalogue.h"
#include "store/store.h"

/* What a program of the suite provides. */
struct suite_backend {
    const char *name;
    /* Before the first store is opened, and after the last one is closed. */
    void (*begin)(void);
    void (*end)(void);
    /* The options of the `store` section for instance `index`, into `text`. */
    void (*options)(size_t index, char *text, size_t capacity);
    /* Lets so much time pass for the store. */
    void (*pass)(uint64_t ms);
    /* Kills what lies behind the store (if anything does), without warning, and starts it again. */
    void (*restart)(void);
};
extern const struct suite_backend suite_backend;

enum { SUITE_INSTANCES = 2, SUITE_FOREVER_MS = 30000 };

/* One podgate with one loop. */
struct suite_instance {
    struct store *store;
    struct store_client *client;
    struct loop *loop;
    struct metrics *metrics;
    struct metrics_block *block;
    struct log *log;
    struct log_ring *ring;
    const struct config *config;
    struct body_budget budget;
    unsigned changes; /* calls of the watch */
    char changed_endpoint[128];
    char changed_job[256];
};
extern struct suite_instance suite_instances[SUITE_INSTANCES];

/* For .init and .fini of the suites: one podgate, open. */
void suite_set_up(void);
void suite_tear_down(void);

/* Opens instance `index`; false, with the words and status in suite_problem and suite_exit_status,
 * when the store doesn't open. */
bool suite_try_open(size_t index);
void suite_open(size_t index);
void suite_close(size_t index);
/* Closes instance 0 and opens it again. */
void suite_reopen(void);
extern char *suite_problem;
extern int suite_exit_status;

/* The folder of this test, gone at its end. Made by the first call. */
const char *suite_directory(void);

/* Real time that no test moves, in ms. */
uint64_t suite_real_ms(void);

/* Turns the loops of all open instances once, and waits a moment. */
void suite_step(void);

/* Asks instance `index`, and waits for the reply. The copy lives to the end of the test. */
const struct store_reply *suite_ask(size_t index, const struct store_question *question);

/* The same with the result that must come; `line` stands in the message. */
const struct store_reply *suite_expect(size_t index, enum store_result wanted, int line,
                                       const struct store_question *question);

#define ASK(...) suite_ask(0, &(struct store_question){__VA_ARGS__})
#define EXPECT(wanted, ...) suite_expect(0, wanted, __LINE__, &(struct store_question){__VA_ARGS__})
#define EXPECT_OF(index, wanted, ...)                                                              \
    suite_expect(index, wanted, __LINE__, &(struct store_question){__VA_ARGS__})
#define EXPECT_THAT(wanted, question) suite_expect(0, wanted, __LINE__, &(question))

/* Bytes as a body, and as a view, kept to the end of the test. */
struct body *suite_body(struct view bytes);
struct view suite_copy(struct view bytes);
struct view suite_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define cr_assert_view(actual, wanted)                                                             \
    do {                                                                                           \
        struct view actual_view = (actual);                                                        \
        struct view wanted_view = (wanted);                                                        \
        cr_assert(view_equal(actual_view, wanted_view), "%s is \"%.*s\", not \"%.*s\"", #actual,   \
                  (int)(actual_view.length < 200 ? actual_view.length : 200), actual_view.data,    \
                  (int)(wanted_view.length < 200 ? wanted_view.length : 200), wanted_view.data);   \
    } while (0)

/* ---- what most tests need */

#define TEAM VIEW("vision")
#define OTHER_TEAM VIEW("speech")
#define KEY VIEW("ci")
#define ENDPOINT VIEW("abc123")
#define OTHER_ENDPOINT VIEW("xyz789")

enum {
    SECOND_MS = 1000,
    MINUTE_MS = 60 * 1000,
    HOUR_MS = 60 * MINUTE_MS,
    FAR_MS = 10 * SECOND_MS, /* due, but not now */
    POLL_MS = 20 * SECOND_MS,
    RETENTION_MS = 30 * MINUTE_MS,
    KEEP_MS = HOUR_MS,
};

/* A submit's name, from a number. */
struct view submit_id(unsigned number);

/* The question that claims, sends or settles submit `number` of TEAM under `idempotency_key`. */
struct store_question submit_question(enum store_operation operation, unsigned number,
                                      struct view idempotency_key);
/* Its outcome: KNOWN as `job`, due in FAR_MS. */
struct store_question known_question(unsigned number, struct view idempotency_key, struct view job);
/* The end of a job of ENDPOINT in its first generation: COMPLETED, kept, with these bytes. */
struct store_question result_question(struct view job, struct view result);
/* The poll of a job: the schedule. */
struct store_question due_question(uint32_t limit);

/* Enters a job of TEAM, due now, or in `due_ms`, with `deadline_ms`. */
void add_job(struct view job);
void add_job_due(struct view job, uint64_t due_ms, uint64_t deadline_ms);
void add_job_of(struct view endpoint, struct view team, struct view job);
/* Enters a job and ends it. */
void add_result(struct view job, struct view result);

/* The job of ENDPOINT, which must be there. */
struct store_job job_of(struct view job);
/* The same with its result's bytes in `*result`, empty when there are none. */
struct store_job result_of(struct view job, struct view *result);

#endif
