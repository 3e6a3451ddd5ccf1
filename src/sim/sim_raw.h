/* Answers that evhttp would never send: a connection is taken away from it and written to byte by
 * byte, whole or up to a limit, at once or dripping, and then closed, reset or left hanging. */
#ifndef SIM_RAW_H
#define SIM_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct evbuffer;
struct exchange;
struct raw_connection;

enum raw_end {
    RAW_CLOSE, /* FIN once everything was taken */
    RAW_RESET, /* RST once everything was acknowledged */
    RAW_STALL  /* nothing more; closed when the peer closes */
};

struct raw_plan {
    int64_t delay_ms;   /* before the first byte, real milliseconds */
    size_t limit;     /* bytes of the answer, head included, that are sent at most */
    enum raw_end end; /* what happens at the limit, or after the last byte */
    int64_t drip_ms;  /* > 0: one piece of `drip_bytes` each so many real milliseconds */
    size_t drip_bytes;
    bool bad_chunk; /* chunked answers get a broken chunk size after their first chunk */
};

/* Takes the exchange's connection; streams write through it from now on. Ends with raw_finish() or
 * the connection, which abandons the exchange. NULL: out of memory, nothing was taken. */
struct raw_connection *raw_take(struct exchange *exchange, const struct raw_plan *plan);

/* Queues bytes; `bytes` is emptied. Never ends the connection before it returned. */
void raw_write(struct raw_connection *raw, struct evbuffer *bytes);

/* The same as one chunk of the chunked coding. */
void raw_write_chunk(struct raw_connection *raw, struct evbuffer *bytes);

/* Nothing more comes: releases the exchange; the connection ends by the plan after the queued
 * bytes. With `last_chunk`, the empty chunk goes out first. */
void raw_finish(struct raw_connection *raw, bool last_chunk);

#endif
