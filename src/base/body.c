#include "build_config.h"

#include "base/body.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct body {
    struct body_budget *budget;
    _Atomic unsigned references;
    size_t length;
    size_t capacity;
    size_t charged_bytes; /* `capacity`, and what was inlined before it grew */
    char *bytes;          /* `inlined` until it has to grow */
    char inlined[];
};

/* Nothing is taken that is not granted, even for a moment: a refused request for much must not make
 * others fail that ask for little. */
static bool charge(struct body_budget *budget, size_t bytes)
{
    size_t maximum = atomic_load_explicit(&budget->maximum_bytes, memory_order_relaxed);
    size_t used = atomic_load_explicit(&budget->used_bytes, memory_order_relaxed);

    do {
        if (used > maximum || bytes > maximum - used) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&budget->used_bytes, &used, used + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

static void release(struct body_budget *budget, size_t bytes)
{
    atomic_fetch_sub_explicit(&budget->used_bytes, bytes, memory_order_relaxed);
}

unsigned body_budget_percent(const struct body_budget *budget)
{
    size_t maximum = atomic_load_explicit(&budget->maximum_bytes, memory_order_relaxed);
    size_t used = atomic_load_explicit(&budget->used_bytes, memory_order_relaxed);

    return maximum > 0 ? (unsigned)((uint64_t)used * 100 / maximum) : 100;
}

struct body *body_create(struct body_budget *budget, size_t capacity)
{
    struct body *body;

    if (capacity > SIZE_MAX / 2 || !charge(budget, capacity)) {
        return NULL;
    }
    /* A large block is a mapping of its own: its pages cost nothing until bytes arrive. */
    body = malloc(sizeof *body + capacity);
    if (!body) {
        release(budget, capacity);
        return NULL;
    }
    body->budget = budget;
    atomic_init(&body->references, 1);
    body->length = 0;
    body->capacity = capacity;
    body->charged_bytes = capacity;
    body->bytes = body->inlined;
    return body;
}

static bool grow(struct body *body, size_t capacity)
{
    /* What was inlined can't be given back before the body is. */
    bool inlined = body->bytes == body->inlined;
    size_t more = inlined ? capacity : capacity - body->capacity;
    char *bytes;

    if (!charge(body->budget, more)) {
        return false;
    }
    bytes = realloc(inlined ? NULL : body->bytes, capacity);
    if (!bytes) {
        release(body->budget, more);
        return false;
    }
    if (inlined) {
        memcpy(bytes, body->inlined, body->length);
    }
    body->bytes = bytes;
    body->capacity = capacity;
    body->charged_bytes += more;
    return true;
}

char *body_room(struct body *body, size_t wanted, size_t *room_bytes)
{
    if (wanted > body->capacity - body->length) {
        size_t needed;

        if (__builtin_add_overflow(body->length, wanted, &needed)) {
            return NULL;
        }
        /* Twice as much saves copying later; when that can't be had, what is needed must do. */
        if (!(needed < body->capacity * 2 && grow(body, body->capacity * 2)) &&
            !grow(body, needed)) {
            return NULL;
        }
    }
    *room_bytes = body->capacity - body->length;
    return body->bytes + body->length;
}

void body_added(struct body *body, size_t count)
{
    body->length += count;
}

bool body_append(struct body *body, struct view bytes)
{
    size_t room_bytes;
    char *room = body_room(body, bytes.length, &room_bytes);

    if (!room) {
        return false;
    }
    if (bytes.length > 0) {
        memcpy(room, bytes.data, bytes.length);
    }
    body->length += bytes.length;
    return true;
}

struct view body_view(const struct body *body)
{
    return body ? (struct view){body->bytes, body->length} : (struct view){NULL, 0};
}

struct body *body_ref(struct body *body)
{
    atomic_fetch_add_explicit(&body->references, 1, memory_order_relaxed);
    return body;
}

void body_unref(struct body *body)
{
    if (!body || atomic_fetch_sub_explicit(&body->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    release(body->budget, body->charged_bytes);
    if (body->bytes != body->inlined) {
        free(body->bytes);
    }
    free(body);
}
