/* The bytes of a request or a response body, held once and passed on by reference: to the upstream,
 * to every caller of a shared flight, between workers. What all bodies hold together is charged to
 * a budget.
 *
 *     struct body *body = body_create(budget, content_length);
 *     char *room = body_room(body, 4096, &room_bytes);    (read from the socket into it)
 *     body_added(body, count);
 *     body_unref(body);
 */
#ifndef PODGATE_BASE_BODY_H
#define PODGATE_BASE_BODY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"
#include "base/compiler.h"

/* What may be held in all bodies together. Part of the process; shared by all threads. */
struct body_budget {
    _Atomic size_t used_bytes;
    _Atomic size_t maximum_bytes;
};

/* Reference counted; written by one owner until it shares it, then constant. */
struct body;

/* How much of the budget is used, in percent. Any thread. */
unsigned body_budget_percent(const struct body_budget *budget);

/* An empty body with room for `capacity` bytes, with one reference. NULL when the budget is used up
 * or memory is short. `budget` outlives the body. */
struct body *body_create(struct body_budget *budget, size_t capacity);

/* Room for at least `wanted` bytes more, behind what is there; `*room_bytes` says how many fit.
 * NULL when the budget is used up or memory is short; the body stays as it was. */
MUST_CHECK char *body_room(struct body *body, size_t wanted, size_t *room_bytes);

/* Says that `count` bytes were written to the room. */
void body_added(struct body *body, size_t count);

/* Copies `bytes` behind what is there. False as body_room(). */
MUST_CHECK bool body_append(struct body *body, struct view bytes);

/* All bytes; valid while a reference is held and nothing is added. NULL gives an empty view. */
struct view body_view(const struct body *body);

/* One reference more. Any thread. */
struct body *body_ref(struct body *body);

/* Gives a reference back; the last one frees. Any thread. NULL is allowed. */
void body_unref(struct body *body);

#endif
