/* /stream: the upstream hands out each chunk of a job's output once, to whoever asks. podgate is
 * its only reader and keeps what it read in the store, so that callers may come late, drop a
 * connection, or be several:
 *
 * - by default each key gets each chunk once, in order, and the last ones together with the job's
 *   end. What a caller didn't read to its end, as far as TCP tells (net/connection_receipt.c), the
 *   key gets again at its next poll;
 * - `?from=N` gives the chunks from number N on, and moves nothing;
 * - `Accept: text/event-stream` gives them as events that are numbered alike (stream_events.c).
 *
 *   stream.c           a request: whose job it is, what it asks, its answer
 *   stream_events.c    the same as Server-Sent Events
 *   stream_poll.c      the way of a request's question to the job's worker and back; was it read?
 *   stream_desk.c      where the polls for one job wait, who gets what (the job's worker)
 *   stream_consumer.c  how far a key has come
 *   stream_log.c       the job's chunks: those in memory, writing to and reading from the store
 *   stream_reader.c    reading the upstream
 *   streams.c          all of one worker, what is known of a job
 *
 * A job's hash names the worker that reads its stream, as for flights. With a store that several
 * podgates share the job's lease decides which of them reads; the others read the store.
 */
#ifndef PODGATE_GATEWAY_STREAM_H
#define PODGATE_GATEWAY_STREAM_H

#include <stdbool.h>

#include "base/bytes.h"
#include "gateway/request.h"
#include "store/store.h"

/* One worker's streams. */
struct streams;

/* None yet; `gateway` outlives it, and its store client is used; its `capture_stream` is set. NULL
 * without memory. */
struct streams *streams_create(struct gateway *gateway);

/* Drops all; nobody is told. When the loops and fronts of all workers have ended, before anything
 * else of a worker does: the first call reads the mail of all. NULL is allowed. */
void streams_destroy(struct streams *streams);

/* From now on: callers who wait get what is there, nothing is read any more but what is being read
 * already, and event streams end behind a whole event. */
void streams_drain(struct streams *streams);

/* True while upstream may be handing out chunks: a process that ends now would lose them. */
bool streams_are_reading(const struct streams *streams);

/* A job of an endpoint with capture_stream runs: its stream is read to the end, whoever asks for
 * it. Cheap when that is known already. On the worker that owns the job. */
void streams_capture(struct gateway *gateway, const struct store_job *job);

/* The job changed otherwise than by its stream (/retry, DELETE): its entry is read again. Any
 * worker's thread; `gateway` is that worker's. */
void streams_forget(struct gateway *gateway, struct view endpoint, struct view job);

/* What store_watch() told this worker: another podgate changed the job, or (empty `job`) something
 * was missed. */
void streams_note_change(struct gateway *gateway, struct view endpoint, struct view job);

/* The operation: of struct operation. */
void stream_start(struct request *request);
void stream_abandon(struct request *request);
void stream_resume(struct request *request); /* a slow caller takes more */
void stream_release(struct request *request);

#endif
