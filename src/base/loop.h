/* One event loop for one thread: a lock-free libevent base, a mailbox through which other threads
 * hand it work, and a graveyard that frees dead objects once the current turn is over.
 *
 *     struct loop *loop = loop_create();
 *     loop_post(loop, adopt_configuration, config);      (from any thread)
 *     loop_run(loop);                                    (the loop's own thread, until loop_stop)
 */
#ifndef PODGATE_BASE_LOOP_H
#define PODGATE_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

struct event_base;
struct loop;

/* Work for a loop's own thread, and the end of an object. */
typedef void loop_function(void *argument);

/* A new loop, or NULL when the system has no descriptors or memory left. */
struct loop *loop_create(void);

/* Frees the loop, after burying what is still in the graveyard and dropping unread mail. Only when
 * its thread has left loop_run(). NULL is allowed. */
void loop_destroy(struct loop *loop);

/* The libevent base, owned by the loop; for its own thread only. */
struct event_base *loop_base(struct loop *loop);

/* Runs the loop on the calling thread until loop_stop(). False when libevent failed. */
MUST_CHECK bool loop_run(struct loop *loop);

/* Makes loop_run() return after the current turn. Any thread. */
void loop_stop(struct loop *loop);

/* Calls `function(argument)` once on the loop's thread, soon, in the order of posting per posting
 * thread, and never from within loop_post(). Any thread. False when memory is short: nothing will
 * be called and `argument` stays the caller's. */
MUST_CHECK bool loop_post(struct loop *loop, loop_function *function, void *argument);

/* A letter that lies inside the object that it is about, so that posting it can't fail. Unused
 * until it is posted, and again once its function is called. */
struct loop_letter {
    struct loop_letter *next;
    loop_function *function;
    void *argument;
    bool on_heap; /* the mailbox's own, made by loop_post() */
};

/* As loop_post(), with a letter of the caller's. Any thread. */
void loop_post_letter(struct loop *loop, struct loop_letter *letter, loop_function *function,
                      void *argument);

/* Calls what is still in the mailbox, on the calling thread. Only when the loop's thread has left
 * loop_run() and all that the letters name is still there, so that nothing they carry is lost. */
void loop_flush_mail(struct loop *loop);

/* Calls `destroy(object)` when the callbacks of this turn are done. libevent and OpenSSL may touch
 * an object once more after its end, so nothing is freed inside its own callback. Loop's thread
 * only; never fails. `node` is storage inside the object, unused until then. */
struct loop_grave {
    struct loop_grave *next;
    loop_function *destroy;
    void *object;
};
void loop_bury(struct loop *loop, struct loop_grave *node, loop_function *destroy, void *object);

/* Empties the graveyard now. Only when the loop's thread has left loop_run(), so that what a dead
 * object's end needs can be freed after it. */
void loop_flush_graves(struct loop *loop);

/* Milliseconds of clock_mono_ms() at which the loop last proved that it turns (twice a second while
 * it does). Any thread. */
uint64_t loop_heartbeat_ms(const struct loop *loop);

#endif
