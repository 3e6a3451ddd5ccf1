/* How results, inputs and chunks lie in the store: zstd above a threshold, else as they are; and
 * the forms in which a result is sent (identity, zstd, gzip). Small bytes are worked on at once;
 * large ones on the codec's own thread, so that no worker's loop waits for a compressor.
 *
 *     result_codec_start(codec, loop, body, RESULT_IDENTITY_TO_ZSTD, maximum, on_done, argument);
 */
#ifndef PODGATE_STORE_RESULT_CODEC_H
#define PODGATE_STORE_RESULT_CODEC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/body.h"
#include "base/compiler.h"
#include "base/loop.h"
#include "store/hot_result.h"

enum result_step {
    RESULT_IDENTITY_TO_ZSTD,
    RESULT_IDENTITY_TO_GZIP,
    RESULT_ZSTD_TO_IDENTITY,
    RESULT_ZSTD_TO_GZIP,
};

/* One step at once, on the calling thread. NULL: no memory or budget, more than maximum_bytes would
 * come out (0: no bound), or the input isn't what it should be. One reference, the caller's. */
MUST_CHECK struct body *result_codec_now(enum result_step step, struct view bytes,
                                         size_t maximum_bytes, struct body_budget *budget);

enum result_made {
    RESULT_MADE = 0,
    RESULT_NO_MEMORY, /* or no budget */
    RESULT_DAMAGED,   /* the stored bytes don't expand to what they should */
};

/* Makes a form of a result that isn't there, or that isn't hashed yet, out of those that are. For
 * small results; large ones: result_codec_start_form(). Any thread. */
MUST_CHECK enum result_made result_codec_make_form(struct hot_result *result, enum hot_form form,
                                                   struct body_budget *budget);

struct result_codec;

/* Starts the thread. NULL without memory. `budget` outlives it. */
struct result_codec *result_codec_create(struct body_budget *budget);

/* Ends the thread; what is queued is still done and told by mail. NULL is allowed. */
void result_codec_destroy(struct result_codec *codec);

/* `body` NULL: as result_codec_now(). The reference on it passes over. On `loop`, never from within
 * result_codec_start(). */
typedef void result_codec_done(void *argument, struct body *body);

/* One step on the codec's thread; takes a reference of its own on `bytes` until done. False without
 * memory. Any thread that owns `loop`. */
MUST_CHECK bool result_codec_start(struct result_codec *codec, struct loop *loop,
                                   struct body *bytes, enum result_step step, size_t maximum_bytes,
                                   result_codec_done *done, void *argument);

/* As result_codec_make_form() says. On `loop`, never from within result_codec_start_form(). */
typedef void result_codec_form_done(void *argument, enum result_made made);

/* result_codec_make_form() on the codec's thread; takes a reference of its own until done. False
 * without memory. Any thread that owns `loop`. */
MUST_CHECK bool result_codec_start_form(struct result_codec *codec, struct loop *loop,
                                        struct hot_result *result, enum hot_form form,
                                        result_codec_form_done *done, void *argument);

#endif
