/* Bytes with a reference count, so that a result of 20 MB is answered many times without copies. */
#ifndef SIM_BLOB_H
#define SIM_BLOB_H

#include <stddef.h>

#include "sim/sim_json.h"

struct evbuffer;

struct blob {
    size_t references;
    size_t length;
    char data[];
};

/* A copy of `text` with one reference; NULL when out of memory. */
struct blob *blob_copy(struct sim_text text);

/* `length` bytes to be filled in, with one reference; NULL when out of memory. */
struct blob *blob_create(size_t length);

/* Drops a reference; NULL is fine. */
void blob_unref(struct blob *blob);

/* Appends the bytes, by reference when they are many. */
void blob_append(struct evbuffer *out, struct blob *blob);

/* The bytes as a view. */
struct sim_text blob_text(const struct blob *blob);

#endif
