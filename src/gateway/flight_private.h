/* What flight.c (joining and leaving, from all workers) and flight_poll.c (the life of one flight,
 * on its own worker) share. */
#ifndef PODGATE_GATEWAY_FLIGHT_PRIVATE_H
#define PODGATE_GATEWAY_FLIGHT_PRIVATE_H

#include <event2/event_struct.h>

#include "base/table.h"
#include "gateway/flight.h"

enum {
    FLIGHT_NAME_BYTES = ROUTE_ENDPOINT_MAXIMUM + 1 + ROUTE_JOB_MAXIMUM + 1,
    FIRST_BODY_BYTES = 1024,
    HEAD_BYTES = 384,
    /* While an answer is on its way, deadlines of waiting callers are looked at this often. */
    WATCH_MS = 250,
    /* A caller whose time is up before anything is known yet gets so much more. */
    GRACE_MS = 750,
};

/* One caller on a flight. On the heap; owned by the flight's worker once it has joined. */
struct flight_caller {
    struct flight_caller *next;
    struct request_handle handle;
    flight_deliver *deliver;
    uint64_t fresh_ms;
    uint64_t stale_ms;
    uint64_t wait_until_ms;
    bool asked; /* this caller's coming caused the request that is on its way */
    /* For the way back to another worker: the letter lies in the caller, so that telling him needs
     * no memory and can't fail. */
    struct loop_letter letter;
    struct gateway *gateway;
    struct flight_answer *answer;
    enum flight_delivery delivery;
};

/* Owned by its worker's table. Dead when nobody is on it and its answer is stale; freed after that
 * turn of the loop. */
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
    uint64_t asked_ms;
    uint64_t keep_ms; /* how long an answer may still be of use */
    struct route route;
    struct builder head;
    size_t name_length;
    char name[FLIGHT_NAME_BYTES];
    char head_storage[HEAD_BYTES];
};

struct flights {
    struct gateway *gateway;
    struct table *table;
    /* Letters of flight_forget() that other workers sent, and those that were read. While they
     * differ no answer counts as fresh: a caller may have been told of a change that is still in
     * the mail. */
    _Atomic uint64_t forgets_sent;
    uint64_t forgets_read;
};

/* A new answer with one reference, NULL without memory; one more reference; whether it is a 200. */
struct flight_answer *flight_answer_create(void);
struct flight_answer *flight_answer_ref(struct flight_answer *answer);
bool flight_answer_is_good(const struct flight_answer *answer);

/* Brings an answer (NULL: there was no memory for one) to one caller, by mail when he is another
 * worker's. Takes the caller, which is on no flight any more. */
void flight_deliver_to(struct flights *flights, struct flight_caller *caller,
                       struct flight_answer *answer, enum flight_delivery delivery);

/* A flight under this name, not there yet. NULL without memory. */
struct flight *flight_create(struct flights *flights, struct view name);

/* Ends a flight; its callers are dropped without a word. */
void flight_end(struct flight *flight);

/* Sets its timer to the next moment at which something is due. */
void flight_arm(struct flight *flight);

/* Asks upstream for all callers, with these field lines of one of them. Never tells any of them
 * before it returns. */
void flight_ask(struct flight *flight, struct view trace);

/* Drops what is known, and what is being asked, which is asked anew. */
void flight_forget_known(struct flight *flight);

#endif
