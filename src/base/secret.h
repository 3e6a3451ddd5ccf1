/* Secrets: bytes in pages of their own that are locked into memory, kept out of core dumps and
 * wiped when they go. For the upstream's key, the admin token and what is derived from them.
 *
 *     struct secret *key = secret_create(view);
 *     if (key != NULL && !secret_is_locked(key)) { log a warning: RLIMIT_MEMLOCK }
 *     ... secret_view(key) ...
 *     secret_destroy(key);
 */
#ifndef PODGATE_BASE_SECRET_H
#define PODGATE_BASE_SECRET_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/compiler.h"

/* Immutable once made, so that any thread may read it. One owner. */
struct secret;

/* A copy of `bytes` (which stay the caller's, to be wiped with secret_wipe()), or NULL without
 * memory. A kernel that refuses to lock the page is tolerated: see secret_is_locked(). */
MUST_CHECK struct secret *secret_create(struct view bytes);

/* Wipes and frees. NULL is allowed. */
void secret_destroy(struct secret *secret);

/* The bytes, valid until secret_destroy(). NULL gives an empty view. */
struct view secret_view(const struct secret *secret);

/* False when mlock() was refused, so that the secret may reach swap space. */
bool secret_is_locked(const struct secret *secret);

/* True when the secret has exactly these bytes. The time taken depends on the lengths only. A NULL
 * secret equals nothing. */
bool secret_equal(const struct secret *secret, struct view bytes);

/* The same comparison of two views, for hashes of secrets. */
bool secret_equal_views(struct view left, struct view right);

/* Overwrites memory in a way that the compiler doesn't drop. */
void secret_wipe(void *memory, size_t length);

#endif
