/* One terminal result in memory with all that an answer needs, shared by whoever serves it: its
 * exact bytes, the same bytes compressed, and the field lines that go with each form.
 *
 *     struct hot_result *result = hot_result_create(&reply->job, reply->body);
 *     if (hot_result_fields(result, HOT_IDENTITY, &fields)) { ... }
 *     hot_result_unref(result);
 */
#ifndef PODGATE_STORE_HOT_RESULT_H
#define PODGATE_STORE_HOT_RESULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/body.h"
#include "base/bytes.h"
#include "base/compiler.h"
#include "model/job.h"
#include "store/store.h"

enum {
    RESULT_COMPRESS_ABOVE_BYTES = 16 * 1024, /* smaller results are stored and sent as they are */
    RESULT_INLINE_BYTES = 64 * 1024, /* what is hashed and compressed on the calling thread */
};

enum hot_form { HOT_IDENTITY, HOT_ZSTD, HOT_GZIP };
enum { HOT_FORMS = 3, HOT_DIGEST_BYTES = 32 };

/* One terminal result with all that an answer needs. Reference counted across threads; constant but
 * for the forms, to which hot_result_add_form() adds. */
struct hot_result {
    _Atomic unsigned references;
    struct view endpoint; /* these lie in the same allocation */
    struct view job;
    struct view team;
    uint64_t generation;
    enum job_state state;
    uint64_t ended_ms;                      /* wall */
    uint64_t expires_ms;                    /* wall */
    uint64_t result_bytes;                  /* of the exact bytes */
    unsigned char digest[HOT_DIGEST_BYTES]; /* SHA-256 of the exact bytes */
    bool completed_without_output; /* found out by hot_result_create() for what is small; whoever
                                    * knows better sets it before others see the result */
    struct hot_private *private;   /* forms, their digests, the cache's links */
};

/* The field lines, each with CRLF, that an answer with one form of a result has whoever asks:
 * Content-Length, Content-Type, Repr-Digest (RFC 9530), Content-Encoding unless identity,
 * Accept-Ranges for a large identity, ETag (strong; RFC 9110 section 8.8.3), Vary for large ones.
 */
struct hot_fields {
    struct view whole;      /* all of them: for 200 */
    struct view partial;    /* without Content-Length: for 206 */
    struct view validators; /* ETag and Vary: for 304 and 416 */
    struct view etag;       /* the ETag's value with its quotes */
};

/* A result made of a job with fate KEPT and its stored bytes, encoded as job->encoding says; takes
 * references of its own. NULL without memory. One reference, the caller's. Any thread. */
MUST_CHECK struct hot_result *hot_result_create(const struct store_job *job, struct body *stored);

/* The bytes in one form, or NULL when they aren't there in it; one reference, the caller's. Any
 * thread. */
MUST_CHECK struct body *hot_result_form(struct hot_result *result, enum hot_form form);

/* Adds another form of the same bytes (the first to come stays). Takes a reference of its own. Its
 * bytes are charged to the cache if the result is in one. Hashes the bytes of an encoded form, so
 * large ones belong on the codec's thread (result_codec_start_form()). Any thread. */
void hot_result_add_form(struct hot_result *result, enum hot_form form, struct body *body);

/* Hashes a form that is there and makes its field lines, if that wasn't done yet. False without
 * memory, or when the form isn't there. Takes time as hot_result_add_form(). Any thread. */
MUST_CHECK bool hot_result_describe_form(struct hot_result *result, enum hot_form form);

/* The field lines for a form, valid as long as the result; false when they aren't there: of an
 * encoded form that isn't there or isn't hashed yet. For identity they always are, even while the
 * bytes are there in another form only. Any thread. */
MUST_CHECK bool hot_result_fields(struct hot_result *result, enum hot_form form,
                                  struct hot_fields *fields);

/* SHA-256 of the bytes of a form, for Repr-Digest; false when hot_result_fields() is. Any thread.
 */
MUST_CHECK bool hot_result_digest(struct hot_result *result, enum hot_form form,
                                  unsigned char digest[HOT_DIGEST_BYTES]);

/* One reference more. Any thread. */
struct hot_result *hot_result_ref(struct hot_result *result);

/* Gives a reference back; the last one frees. Any thread. NULL is allowed. */
void hot_result_unref(struct hot_result *result);

#endif
