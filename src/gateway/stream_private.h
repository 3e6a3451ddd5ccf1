/* What the parts of the streams share; who does what stands in stream.h.
 *
 * One request asks by `struct stream_poll`, which goes from its worker to the job's ("owner") and
 * back, by letters that lie in it, so that nothing on the way needs memory. It belongs to its own
 * worker's list from its making to its end; between the letters one side at a time touches it, but
 * for the members that are said to be the other's.
 *
 *     gateway                          owner
 *     stream_poll_ask()        ---->   desk: waits for chunks, the end, or its time
 *     on_answer()              <----   stream_poll_answer()
 *     (sends; watches)
 *     acknowledged             ---->   the cursor is written
 *     (looks)                  <----   the same key asks again: was that read?
 *     looked                   ---->
 *     settled, read or not     ---->   put back if not
 *     freed                    <----   released
 */
#ifndef PODGATE_GATEWAY_STREAM_PRIVATE_H
#define PODGATE_GATEWAY_STREAM_PRIVATE_H

#include <event2/event_struct.h>

#include "base/table.h"
#include "gateway/stream.h"

enum {
    STREAM_NAME_BYTES = ROUTE_ENDPOINT_MAXIMUM + 1 + ROUTE_JOB_MAXIMUM + 1,
    STREAM_WORD_BYTES = 64, /* a team's name or a key's id */
    /* What one answer holds at the most; one chunk that is longer is given alone. */
    STREAM_ANSWER_CHUNKS = 200,
    STREAM_ANSWER_BYTES = 1024 * 1024,
    /* So much that is in the store is kept in memory too, for those who wait. */
    STREAM_TAIL_BYTES = 64 * 1024,
    /* Above this, unwritten, the upstream keeps its chunks. */
    STREAM_UNSTORED_BYTES = 8 * 1024 * 1024,
    STREAM_RETRY_MS = 500,
    STREAM_IDLE_MS = 30000,
};

/* What the ledger says of a job, as far as its stream is concerned. */
struct stream_facts {
    bool known; /* false: the store could not be asked */
    enum job_state state;
    enum store_fate fate;
    enum store_kind kind;
    uint64_t generation;
    uint64_t chunk_count;
    uint64_t ended_for_ms; /* since its end, by the store's clock; 0: it runs */
    uint64_t age_ms;
    size_t upstream_id_length;
    char upstream_id[ROUTE_JOB_MAXIMUM];
};

struct stream_consumer;

/* Chunks, by reference. */
struct stream_chunks {
    struct body *bytes; /* one behind the other; one reference */
    uint32_t *lengths;  /* owned */
    size_t count;
    uint64_t from; /* number of the first */
};

enum stream_outcome {
    STREAM_CHUNKS,  /* `chunks` (perhaps none) and `state` */
    STREAM_PROBLEM, /* `problem` */
    STREAM_FAILED,  /* upstream failed all the time: `failure` */
    STREAM_REFUSED, /* the breaker forbids asking: `retry_after_s` */
    STREAM_BAD,     /* upstream answered with `upstream_status`, which says nothing of chunks */
};

/* How far an answer has come, as its owner knows. */
enum stream_delivery { STREAM_DELIVERY_OPEN, STREAM_DELIVERY_ACKNOWLEDGED };

struct stream_poll {
    /* Its own worker's. */
    struct streams *home;
    struct stream_poll *next;
    struct stream_poll *previous;
    struct request_handle handle;
    void (*deliver)(struct stream_poll *poll, struct request *request); /* NULL request: gone */
    struct connection_receipt receipt;
    struct event look_timer;
    uint64_t look_ms; /* the timer's span */
    bool leaving;     /* the request is gone */
    bool watched;
    bool acknowledged;
    bool settled;

    /* The question: constant on the way. */
    struct streams *owner;
    struct stream_facts facts;
    bool moves_cursor; /* by default; else a replay from `from` */
    bool faithful;     /* CANCELLED may be said again and again */
    uint64_t from;
    uint64_t wait_until_ms;
    uint32_t limit;
    uint64_t limit_bytes;
    size_t name_length;
    size_t team_length;
    size_t consumer_length;
    char name[STREAM_NAME_BYTES];
    char team[STREAM_WORD_BYTES];
    char consumer[STREAM_WORD_BYTES];

    /* The answer. */
    enum stream_outcome outcome;
    enum problem problem;
    enum upstream_failure failure;
    unsigned upstream_status;
    uint64_t retry_after_s;
    struct stream_chunks chunks;
    enum job_state state;
    bool ends; /* the state is the job's end: nothing follows */
    bool read; /* with the settled letter: the caller has read it all */
    enum connection_delivery looked;

    /* The owner's. */
    struct stream_poll *desk_next; /* in the reader's polls, or in the consumer's deliveries */
    struct stream_consumer *of;
    struct stream_reader *reader; /* while it waits there */
    struct stream_fetch *fetch;   /* its chunks are on their way from the store */
    uint64_t asked_ms;
    uint64_t generation;
    enum stream_delivery delivery;
    bool looking;
    bool hungry;    /* it has been given all that there is */
    bool was_ended; /* what the consumer was before this answer */
    bool looked_at_job;

    struct loop_letter letter; /* asks, answers, settles, releases: one at a time */
    struct loop_letter leave_letter;
    struct loop_letter acknowledged_letter;
    struct loop_letter look_letter;
    struct loop_letter looked_letter;
};

/* Chunks that a poll gets from the store. Owned by its reader. */
struct stream_fetch {
    struct stream_fetch *next;
    struct stream_reader *reader;
    struct stream_poll *poll; /* NULL: it has left */
    struct store_call *call;
    uint64_t from;
    uint64_t to;
    uint64_t generation;
};

/* A run of chunks that came back unread: [from, to). */
struct stream_gap {
    struct stream_gap *next;
    uint64_t from;
    uint64_t to;
};

/* One key at one job's stream. Owned by its reader. */
struct stream_consumer {
    struct stream_consumer *next;
    struct stream_reader *reader;
    struct stream_poll *deliveries; /* answers of which it isn't known yet whether they were read */
    struct stream_gap *gaps;        /* ascending, apart from each other */
    struct store_call *load_call;
    struct store_call *save_call;
    uint64_t position; /* of the next chunk that it was never given */
    uint64_t saved;    /* what the store has */
    uint64_t saving;
    uint64_t retry_at_ms; /* of a load or save that failed */
    bool loaded;
    bool load_failed;
    bool ended; /* the end was delivered */
    bool saved_ended;
    bool saving_ended;
    size_t length;
    char id[STREAM_WORD_BYTES];
};

/* The chunks of one answer of the upstream's. */
struct stream_batch {
    struct stream_batch *next;
    struct stream_chunks chunks;
    bool stored;
};

/* The stream of one job, on the job's worker. Dead when nobody wants it and all is written. */
struct stream_reader {
    struct table_node node;
    struct streams *streams;
    struct loop_grave grave;
    struct event timer;
    bool dead;

    struct stream_facts facts;
    uint64_t facts_at_ms; /* when they came */
    size_t team_length;
    char team[STREAM_WORD_BYTES];
    struct store_call *refresh_call;
    bool refresh_wanted;
    uint64_t refresh_at_ms; /* the lease is another podgate's: the store is read again then */

    /* The desk. */
    struct stream_poll *polls; /* first come, first served */
    struct stream_consumer *consumers;
    struct stream_fetch *fetches;
    uint64_t fetch_at_ms; /* not before: the store failed */
    bool fetch_failed;    /* the last one */
    uint64_t idle_since_ms;

    /* The log. */
    struct stream_batch *batches; /* ascending, without gaps, to the end */
    struct stream_batch *last_batch;
    uint64_t tail_from; /* number of the first in memory, or `count` */
    size_t tail_bytes;
    size_t unstored_bytes;
    uint64_t count;  /* chunks known */
    uint64_t stored; /* of these in the store */
    struct store_call *append_call;
    uint64_t append_at_ms;
    unsigned append_failures;
    bool append_unsure; /* the last try timed out: it may have been written */
    bool store_away;    /* chunks are handed out though they aren't stored */

    /* The reading. */
    struct upstream_exchange *exchange;
    struct body *answer;
    struct builder head;
    char head_storage[384];
    unsigned answer_status;
    uint64_t answer_retry_ms;
    uint64_t read_generation; /* when the exchange began */
    uint64_t read_began_ms;
    uint64_t read_at_ms;   /* not before */
    uint64_t read_good_ms; /* when an answer of use came last */
    unsigned failures;     /* in a row */
    enum stream_outcome failed_how;
    enum upstream_failure failure;
    unsigned failed_status;
    uint64_t failed_retry_s;
    bool capture;
    bool ending;  /* upstream said that the job has ended */
    bool drained; /* and that it has no chunks left, or that it has forgotten them */
    uint64_t ending_since_ms;
    enum job_state seen_state; /* upstream's last word */
    bool has_seen_state;
    struct store_call *lease_call;
    uint64_t lease_until_ms;
    uint64_t lease_at_ms; /* another podgate's: not before */

    size_t name_length;
    char name[STREAM_NAME_BYTES];
};

struct streams {
    struct gateway *gateway;
    struct table *readers;
    struct stream_poll *polls; /* of this worker's requests */
    size_t reading_count;
    bool draining;
    bool ended; /* the loops have stopped, and all mail was read */
};

/* ---- streams.c */

/* Writes endpoint, "/" and job; the length. */
size_t stream_build_name(struct view endpoint, struct view job, char name[STREAM_NAME_BYTES]);

/* The streams of the worker that reads the job of this name. */
struct streams *streams_owner_of(const struct gateway *gateway, struct view name);

/* Owner: a poll has arrived. */
void streams_take_poll(struct stream_poll *poll);

/* ---- stream_poll.c */

/* A poll of this request's worker, for the job that its route names. NULL without memory. */
MUST_CHECK struct stream_poll *stream_poll_create(struct request *request);

/* On its way to the job's worker. */
void stream_poll_ask(struct stream_poll *poll);

/* Its request is over or wants no answer any more: it ends by itself. */
void stream_poll_leave(struct stream_poll *poll);

/* The answer is sent next on this connection, and moves the cursor: watched from here on, to its
 * end. */
void stream_poll_watch(struct stream_poll *poll, struct connection *connection);

/* The answer is dealt with; `read`: nothing of it has to be given again. The poll must not be
 * touched any more. */
void stream_poll_settle(struct stream_poll *poll, bool read);

/* Owner: the answer stands in it, and goes to the request's worker. */
void stream_poll_answer(struct stream_poll *poll);

/* Owner: nothing is to be done about it any more. */
void stream_poll_end(struct stream_poll *poll);

/* Takes it off its worker's list and frees it, wherever it is. */
void stream_poll_destroy(struct stream_poll *poll);

/* Owner: asks how far the answer has come; stream_desk_looked() follows unless it is settled. */
void stream_poll_look(struct stream_poll *poll);

/* ---- streams.c */

/* Frees what the answer holds. */
void stream_chunks_clear(struct stream_chunks *chunks);

/* Facts of a job as the ledger has it. */
void stream_take_facts(struct stream_facts *facts, const struct store_job *job, uint64_t now_ms);

/* Does what is to be done next for a reader, and sets its timer. It may be dead afterwards. */
void stream_proceed(struct stream_reader *reader);

/* The job's two names, as callers say them. */
struct view stream_endpoint(const struct stream_reader *reader);

/* See stream_endpoint(). */
struct view stream_job_id(const struct stream_reader *reader);

/* What the ledger says now; a later generation starts the log anew. */
void stream_update(struct stream_reader *reader, const struct stream_facts *facts);

/* Reads the ledger's entry again. */
void stream_refresh(struct stream_reader *reader);

/* The state that callers are told while the job has not ended for them. */
enum job_state stream_running_state(const struct stream_reader *reader);

/* ---- stream_consumer.c */

/* The consumer that a poll is of, made if need be. NULL without memory. */
struct stream_consumer *stream_consumer_find(struct stream_reader *reader,
                                             const struct stream_poll *poll);

/* True while it isn't known how far an answer has come: the next one waits. */
bool stream_consumer_has_open_delivery(const struct stream_consumer *consumer);

/* Takes the next chunks, up to number `next`, as given. */
void stream_consumer_advance(struct stream_consumer *consumer, uint64_t next);

/* [from, to) came back unread. */
void stream_consumer_put_back(struct stream_consumer *consumer, uint64_t from, uint64_t to);

/* Reads its cursor, unless that is under way. */
void stream_consumer_load(struct stream_consumer *consumer, uint64_t now_ms);

/* True while the store has another cursor. */
bool stream_consumer_is_unsaved(const struct stream_consumer *consumer);

/* Forgets all, as a new one. */
void stream_consumer_restart(struct stream_consumer *consumer);

/* Writes cursors that moved. */
void stream_desk_save(struct stream_reader *reader);

/* ---- stream_desk.c */

/* A poll comes to the desk; leaves unanswered; its answer was acknowledged, looked at, settled. */
void stream_desk_take(struct stream_reader *reader, struct stream_poll *poll);
void stream_desk_drop(struct stream_poll *poll);
void stream_desk_acknowledged(struct stream_poll *poll);
void stream_desk_looked(struct stream_poll *poll);
void stream_desk_settled(struct stream_poll *poll);

/* Serves whoever can be served now. */
void stream_desk_serve(struct stream_reader *reader);

/* True when somebody waits for chunks that only upstream can have. */
bool stream_desk_is_hungry(const struct stream_reader *reader);

/* The log began anew: so do all who read it. */
void stream_desk_restart(struct stream_reader *reader);

/* The chunks from number `from` on have got other numbers, from `to` on. */
void stream_desk_renumber(struct stream_reader *reader, uint64_t from, uint64_t to);

/* True when a consumer has something to be done about yet. */
bool stream_desk_is_busy(const struct stream_reader *reader);

/* When the next poll's time is up or a cursor is to be tried again, of clock_mono_ms(). */
uint64_t stream_desk_next_ms(const struct stream_reader *reader);

/* Frees consumers. The polls are their own workers'. */
void stream_desk_clear(struct stream_reader *reader);

/* ---- stream_log.c */

/* Puts chunks behind the others; takes them. False without memory. */
MUST_CHECK bool chunk_log_add(struct stream_reader *reader, struct stream_chunks *chunks);

/* How far chunks may be handed out: those that are in the store, and all while the store is away.
 */
uint64_t chunk_log_available(const struct stream_reader *reader);

/* Takes chunks from memory, from number `from` on, up to number `to`. False when they aren't in
 * memory, or without memory. */
MUST_CHECK bool chunk_log_take(struct stream_reader *reader, uint64_t from, uint64_t to,
                               uint32_t limit, uint64_t limit_bytes, struct stream_chunks *chunks);

/* Copies chunks out of a reply of the store's. False without memory. */
MUST_CHECK bool chunk_log_copy_reply(const struct store_reply *reply, uint64_t from, size_t count,
                                     struct stream_chunks *chunks);

/* Writes what isn't written. */
void chunk_log_store(struct stream_reader *reader);

/* Drops everything in memory. What was not written is lost, and counted. */
void chunk_log_clear(struct stream_reader *reader);

/* ---- stream_reader.c */

/* Asks upstream when somebody wants it and it may be. */
void stream_reader_read(struct stream_reader *reader);

/* When it is to be tried again. */
uint64_t stream_reader_next_ms(const struct stream_reader *reader);

/* Stops. */
void stream_reader_stop(struct stream_reader *reader);

/* ---- stream.c */

/* Refuses as an answer without chunks says. */
void stream_refuse(struct request *request, const struct stream_poll *poll);

/* ---- stream_events.c */

/* An admitted request for events, its job found: from number `from` on. */
void stream_events_start(struct request *request, const struct stream_facts *facts, uint64_t from);

/* The caller left, takes more, the request is over; the process drains. */
void stream_events_abandon(struct request *request);
void stream_events_resume(struct request *request);
void stream_events_release(struct request *request);
void stream_events_drain(struct request *request);

#endif
