/* What flight.c (joining and leaving, from all workers), flight_poll.c (the life of one flight, on
 * its own worker), flight_ask.c (asking upstream), flight_job.c (the job's entry in the ledger),
 * flight_judge.c (what an answer means for the job), flight_store.c (what is written then) and
 * flight_errand.c (what others want done) share. */
#ifndef PODGATE_GATEWAY_FLIGHT_PRIVATE_H
#define PODGATE_GATEWAY_FLIGHT_PRIVATE_H

#include <event2/event_struct.h>

#include "base/table.h"
#include "gateway/flight.h"
#include "model/key.h"

enum {
    FLIGHT_NAME_BYTES = ROUTE_ENDPOINT_MAXIMUM + 1 + ROUTE_JOB_MAXIMUM + 1,
    FIRST_BODY_BYTES = 1024,
    HEAD_BYTES = 384,
    /* While an answer is on its way, deadlines of waiting callers are looked at this often. */
    WATCH_MS = 250,
    /* A caller whose time is up before anything is known yet gets so much more. */
    GRACE_MS = 750,
    KEY_BYTES = 64,
};

/* One caller on a flight. On the heap; owned by the flight's worker once it has joined. */
struct flight_caller {
    struct flight_caller *next;
    struct request_handle handle;
    flight_deliver *deliver;
    uint64_t fresh_ms;
    uint64_t stale_ms;
    uint64_t wait_until_ms;
    bool asked;   /* this caller's coming caused the request that is on its way */
    bool checked; /* the store was read after he came: what it says of owners holds for him */
    bool may_adopt;
    uint8_t team_length;
    uint8_t key_length;
    char team[FLIGHT_TEAM_BYTES];
    char key[KEY_BYTES];
    /* For the way back to another worker: the letter lies in the caller, so that telling him needs
     * no memory and can't fail. */
    struct loop_letter letter;
    struct gateway *gateway;
    struct flight_answer *answer;
    enum flight_delivery delivery;
};

/* What is known of the job's entry in the ledger. */
enum record_state { RECORD_NONE, RECORD_ABSENT, RECORD_HERE };

struct flight_record {
    enum record_state known;
    enum store_kind kind;
    enum job_state state;
    enum store_fate fate;
    bool purged;
    uint64_t generation;
    uint64_t submitted_ms;
    uint64_t ended_ms;
    uint64_t ttl_ms;
    uint64_t fence;
    uint64_t missing_since_ms; /* by the store's clock, as all times here */
    uint32_t missing_count;
    uint32_t failure_count;
    int64_t clock_offset_ms; /* the store's clock minus this machine's */
    size_t team_length;
    size_t upstream_id_length;
    char team[FLIGHT_TEAM_BYTES];
    char upstream_id[ROUTE_JOB_MAXIMUM];
};

/* A terminal answer on its way into the store. */
struct flight_ending {
    struct flight_answer *answer; /* what upstream said; one reference */
    struct body *exact;           /* the result's bytes; one reference */
    struct body *stored;          /* the same, encoded; one reference */
    enum store_encoding encoding;
    enum job_state state;
    enum store_fate fate;
    uint64_t generation; /* of the run that ended: a /retry may have begun another since */
    uint64_t poll_on_ms;
    uint64_t execution_ms;
    uint64_t delay_ms;
    uint64_t retry_at_ms; /* of clock_mono_ms(): the store failed, it is tried again then; 0: not */
    bool told;            /* callers have it although it isn't stored */
    unsigned char digest[STORE_DIGEST_BYTES];
};

/* Owned by its worker's table. Dead when nobody is on it, its answer is stale and nothing is under
 * way; freed after that turn of the loop. */
struct flight {
    struct table_node node;
    struct flights *flights;
    struct loop_grave grave;
    struct event timer;
    struct flight_caller *callers;
    struct flight_answer *latest; /* the last answer, whatever it was */
    struct flight_answer *good;   /* the last 200 */
    struct upstream_exchange *exchange;
    struct flight_answer *building; /* of the exchange that is under way */
    bool discard; /* what is on its way was asked for before flight_forget(): it serves nobody */
    bool settled; /* `building` is complete already: told at the next turn, never from within ask()
                   */
    bool is_job;
    uint64_t asked_ms;
    uint64_t keep_ms; /* how long an answer may still be of use */

    /* The job's entry in the ledger, and what is under way about it. */
    struct flight_record record;
    struct flight_answer *final;  /* what its owner gets, when the job has ended in the ledger */
    struct flight_answer *nobody; /* what everybody else gets */
    struct store_call *load_call;
    struct store_call *lease_call;
    struct store_call *write_call; /* putting a result, or adopting the job */
    bool reload;                   /* what is being loaded is outdated already */
    bool encoding_result;          /* the codec has it */
    bool has_ending;
    struct flight_ending ending;
    bool polling;      /* the collector (or a part of podgate) wants this job polled */
    bool poll_claimed; /* under a lease of the collector's */
    bool leased;       /* for those who wait, until lease_until_ms of clock_mono_ms() */
    uint64_t lease_until_ms;
    uint64_t watch_every_ms;       /* it is polled so often until it ends; 0: it isn't watched */
    uint64_t not_before_ms;        /* of clock_mono_ms(): no poll for those who wait before then */
    bool adopting;                 /* upstream is asked for a job that the ledger doesn't know */
    struct flight_answer *adopted; /* what it said, while the job is being entered */
    size_t adopter_team_length;
    size_t adopter_key_length;
    char adopter_team[FLIGHT_TEAM_BYTES];
    char adopter_key[KEY_BYTES];

    struct route route;
    struct builder head;
    size_t trace_length; /* of who will make upstream be asked, once the ledger was looked into */
    char trace[FLIGHT_TRACE_BYTES];
    size_t name_length;
    char name[FLIGHT_NAME_BYTES];
    char head_storage[HEAD_BYTES];
};

struct errand;

struct flights {
    struct gateway *gateway;
    struct table *table;
    struct errand *errands; /* under way, of flight_errand.c */
    /* The store's clock minus this machine's, by its last reply; claims come without a time. */
    int64_t clock_offset_ms;
    /* Letters of flight_forget() that other workers sent, and those that were read. While they
     * differ no answer counts as fresh: a caller may have been told of a change that is still in
     * the mail. */
    _Atomic uint64_t forgets_sent;
    uint64_t forgets_read;
};

/* ---- flight.c */

/* Brings an answer (NULL: there was no memory for one) to one caller, by mail when he is another
 * worker's. Takes the caller, which is on no flight any more. */
void flight_deliver_to(struct flights *flights, struct flight_caller *caller,
                       struct flight_answer *answer, enum flight_delivery delivery);

/* The worker that owns the flights of this name. */
struct gateway *flight_owner_of(struct gateway_shared *shared, struct view name);

/* Writes endpoint, "/" and job; the length. */
size_t flight_build_name(struct view endpoint, struct view job, char name[FLIGHT_NAME_BYTES]);

/* The flight of this name, made if need be. NULL without memory. */
struct flight *flight_find_or_create(struct flights *flights, struct view name);

/* ---- flight_poll.c */

/* A new answer with one reference, NULL without memory; one more reference; whether it is a 200. */
struct flight_answer *flight_answer_create(void);
struct flight_answer *flight_answer_ref(struct flight_answer *answer);
bool flight_answer_is_good(const struct flight_answer *answer);

/* Upstream failed, rather than said something about the job. */
bool flight_answer_is_failure(const struct flight_answer *answer);

/* A flight under this name, not there yet. NULL without memory. */
struct flight *flight_create(struct flights *flights, struct view name);

/* Ends a flight; its callers are dropped without a word. */
void flight_end(struct flight *flight);

/* Sets its timer to the next moment at which something is due. */
void flight_arm(struct flight *flight);

/* Drops what is known, and what is being asked, which is asked anew. */
void flight_forget_known(struct flight *flight);

/* Tells everybody who is to be told now: with a new `answer`, or NULL when only time has passed or
 * more is known of the job. */
void flight_tell(struct flight *flight, struct flight_answer *answer);

/* `building` is complete: judged, told. */
void flight_complete(struct flight *flight);

/* Judges an answer of the upstream, tells it, and goes on. Takes the reference. */
void flight_take_answer(struct flight *flight, struct flight_answer *answer);

/* Does what is to be done next: tells, loads, asks, sets the timer. `trace` as in flight_ask(). The
 * flight may have ended afterwards. */
void flight_proceed(struct flight *flight, struct view trace);

/* ---- flight_ask.c */

/* Asks upstream for all callers, with these field lines of one of them. Never tells any of them
 * before it returns. */
void flight_ask(struct flight *flight, struct view trace);

/* ---- flight_job.c */

/* Parts of the job's name; views into the flight. */
struct view flight_endpoint(const struct flight *flight);
/* As above. */
struct view flight_job_id(const struct flight *flight);

/* The store's time of now. */
uint64_t flight_store_ms(const struct flight *flight);

/* Takes an entry of the ledger over, as it was at `now_ms` of the store. */
void flight_take_record(struct flight *flight, const struct store_job *job, uint64_t now_ms);

/* Reads the entry, and the result with it, unless that is under way. */
void flight_load(struct flight *flight);

/* What a caller gets for what the ledger says: VERDICT_OPEN when upstream is to be asked,
 * VERDICT_LOAD when the store must be read first. */
enum flight_verdict { VERDICT_FINAL, VERDICT_LOAD, VERDICT_OPEN };
enum flight_verdict flight_judge_caller(const struct flight *flight,
                                        const struct flight_caller *caller,
                                        struct flight_answer **answer);

/* For those who wait: true when upstream may be asked now; else the timer will come back to it. */
bool flight_may_poll(struct flight *flight);

/* Gives the lease for those who wait back, when nobody does any more. */
void flight_release_lease(struct flight *flight);

/* An answer of podgate's own on the job; NULL without memory. */
struct flight_answer *flight_problem_answer(enum problem problem);

/* Makes `final` from the record; `stored` are the result's bytes as they lie in the store. */
void flight_set_final(struct flight *flight, const struct store_job *job, struct body *stored);

/* ---- flight_judge.c */

/* What an answer of the upstream means for the job: stores, reschedules. The result is what callers
 * are told (perhaps another answer; the caller's reference moves on to it), or NULL: nothing yet.
 */
struct flight_answer *flight_judge_answer(struct flight *flight, struct flight_answer *answer);

/* ---- flight_store.c */

/* Begins to hold an end: `ending` is empty but for these two. */
void flight_begin_ending(struct flight *flight, enum job_state state, enum store_fate fate);

/* The ending is told though the store doesn't have it: what its owner gets until it does. */
void flight_enter_unstored(struct flight *flight);

/* Stores the end's result, compressed where that pays. Takes the reference on `exact`. */
void flight_store_result(struct flight *flight, struct body *exact);

/* Stores an end without a result. */
void flight_put_end(struct flight *flight);

/* Tries again to store what could not be stored. */
void flight_retry_store(struct flight *flight);

/* Frees what is held of an ending. */
void flight_clear_ending(struct flight *flight);

/* The poll is over: back on the schedule if it was the collector's, and told to the collector. */
void flight_settle_poll(struct flight *flight, const struct flight_answer *answer, bool ended,
                        bool failed);

/* ---- flight_errand.c */

/* Drops what is under way; nobody is told. */
void flight_end_errands(struct flights *flights);

#endif
