#include "build_config.h"

#include "store/result_codec.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include "base/fault.h"

/* Whole bytes in, whole bytes out. What comes out is compressed into a scratch buffer first: its
 * size is known only then, and a body that is kept for long must not hold more than it needs. */

enum {
    ZSTD_LEVEL = 3,
    /* A step below zlib's own default: half again as fast for one per cent more bytes. */
    GZIP_LEVEL = 5,
    GZIP_WINDOW_BITS = 15 + 16, /* zlib: a gzip header and trailer around it */
    GZIP_MEMORY_LEVEL = 8,
    EXPAND_FIRST_BYTES = 64 * 1024,
    /* What podgate wrote says its size and is expanded in one piece, without a window of its own;
     * a foreign frame may not ask for more memory than this power of two. */
    FOREIGN_WINDOW_LOG = 23,
};

/* ---- the steps ------------------------------------------------------------------------------- */

/* 0: no bound. */
static bool is_within(size_t length, size_t maximum_bytes)
{
    return maximum_bytes == 0 || length <= maximum_bytes;
}

static struct body *body_of(const char *data, size_t length, size_t maximum_bytes,
                            struct body_budget *budget)
{
    struct body *body = is_within(length, maximum_bytes) ? body_create(budget, length) : NULL;

    if (body && !body_append(body, view_make(data, length))) {
        body_unref(body);
        body = NULL;
    }
    return body;
}

static size_t compress_zstd(char *room, size_t room_bytes, struct view bytes)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t length = 0;

    if (context &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, ZSTD_LEVEL)) &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1))) {
        length = ZSTD_compress2(context, room, room_bytes, bytes.data, bytes.length);
        if (ZSTD_isError(length)) {
            length = 0;
        }
    }
    ZSTD_freeCCtx(context);
    return length;
}

static size_t compress_gzip(z_stream *stream, char *room, size_t room_bytes, struct view bytes)
{
    /* zlib counts in `unsigned`; no result comes near (upstream's answers are 20 MB at most). */
    stream->next_in = (const Bytef *)bytes.data;
    stream->avail_in = (uInt)bytes.length;
    stream->next_out = (Bytef *)room;
    stream->avail_out = (uInt)room_bytes;
    return deflate(stream, Z_FINISH) == Z_STREAM_END ? room_bytes - stream->avail_out : 0;
}

static struct body *to_zstd(struct view bytes, size_t maximum_bytes, struct body_budget *budget)
{
    size_t room_bytes = ZSTD_compressBound(bytes.length);
    struct body *body = NULL;
    size_t length;
    char *room;

    if (FAULT_POINT("codec.zstd") || ZSTD_isError(room_bytes)) {
        return NULL;
    }
    room = malloc(room_bytes);
    length = room ? compress_zstd(room, room_bytes, bytes) : 0;
    if (length > 0) {
        body = body_of(room, length, maximum_bytes, budget);
    }
    free(room);
    return body;
}

static struct body *to_gzip(struct view bytes, size_t maximum_bytes, struct body_budget *budget)
{
    struct body *body = NULL;
    z_stream stream = {0};
    size_t room_bytes;
    size_t length = 0;
    char *room;

    if (FAULT_POINT("codec.gzip") || bytes.length > INT32_MAX ||
        deflateInit2(&stream, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW_BITS, GZIP_MEMORY_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK) {
        return NULL;
    }
    room_bytes = deflateBound(&stream, (uLong)bytes.length);
    room = malloc(room_bytes);
    if (room) {
        length = compress_gzip(&stream, room, room_bytes, bytes);
    }
    if (length > 0) {
        body = body_of(room, length, maximum_bytes, budget);
    }
    (void)deflateEnd(&stream);
    free(room);
    return body;
}

/* Expands one frame into `body`. What the frame says of its size is believed as far as the bound
 * and the budget allow. False: damaged, too large, or no memory. */
static bool expand(ZSTD_DStream *stream, struct body *body, struct view bytes, size_t maximum_bytes)
{
    ZSTD_inBuffer input = {.src = bytes.data, .size = bytes.length};
    size_t wanted = 1;

    while (wanted > 0) {
        size_t consumed = input.pos;
        ZSTD_outBuffer output = {0};

        output.dst = body_room(body, 1, &output.size);
        if (!output.dst) {
            return false;
        }
        wanted = ZSTD_decompressStream(stream, &output, &input);
        if (ZSTD_isError(wanted)) {
            return false;
        }
        body_added(body, output.pos);
        if (!is_within(body_view(body).length, maximum_bytes) ||
            (output.pos == 0 && input.pos == consumed)) {
            return false;
        }
    }
    /* Another frame behind the first, or anything else, was not written by podgate. */
    return input.pos == input.size;
}

static struct body *to_identity(struct view bytes, size_t maximum_bytes, struct body_budget *budget)
{
    unsigned long long announced = ZSTD_getFrameContentSize(bytes.data, bytes.length);
    struct body *body = NULL;
    ZSTD_DStream *stream = NULL;
    size_t first_bytes = EXPAND_FIRST_BYTES;

    if (FAULT_POINT("codec.expand") || announced == ZSTD_CONTENTSIZE_ERROR) {
        return NULL;
    }
    if (announced != ZSTD_CONTENTSIZE_UNKNOWN) {
        if (announced > SIZE_MAX / 4 || !is_within((size_t)announced, maximum_bytes)) {
            return NULL;
        }
        first_bytes = (size_t)announced;
    }
    stream = ZSTD_createDStream();
    /* A byte more, so that the decoder can come to its end without a larger buffer. */
    if (stream &&
        !ZSTD_isError(ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, FOREIGN_WINDOW_LOG))) {
        body = body_create(budget, first_bytes + 1);
    }
    if (body && !expand(stream, body, bytes, maximum_bytes)) {
        body_unref(body);
        body = NULL;
    }
    ZSTD_freeDStream(stream);
    return body;
}

static struct body *zstd_to_gzip(struct view bytes, size_t maximum_bytes,
                                 struct body_budget *budget)
{
    struct body *identity = to_identity(bytes, maximum_bytes, budget);
    struct body *body = NULL;

    if (identity) {
        body = to_gzip(body_view(identity), maximum_bytes, budget);
    }
    body_unref(identity);
    return body;
}

struct body *result_codec_now(enum result_step step, struct view bytes, size_t maximum_bytes,
                              struct body_budget *budget)
{
    switch (step) {
    case RESULT_IDENTITY_TO_ZSTD: return to_zstd(bytes, maximum_bytes, budget);
    case RESULT_IDENTITY_TO_GZIP: return to_gzip(bytes, maximum_bytes, budget);
    case RESULT_ZSTD_TO_IDENTITY: return to_identity(bytes, maximum_bytes, budget);
    case RESULT_ZSTD_TO_GZIP: return zstd_to_gzip(bytes, maximum_bytes, budget);
    }
    return NULL;
}

/* ---- forms of a hot result ------------------------------------------------------------------- */

/* What can't be compressed grows a little. */
static size_t form_maximum(const struct hot_result *result, enum hot_form form)
{
    size_t bytes = (size_t)result->result_bytes;

    return form == HOT_IDENTITY ? bytes : bytes + bytes / 64 + 1024;
}

static struct body *convert(struct hot_result *result, enum hot_form form, enum hot_form source,
                            enum result_step step, struct body_budget *budget)
{
    struct body *stored = hot_result_form(result, source);
    struct body *made = NULL;

    if (stored) {
        made = result_codec_now(step, body_view(stored), form_maximum(result, form), budget);
    }
    body_unref(stored);
    return made;
}

static struct body *convert_to(struct hot_result *result, enum hot_form form,
                               struct body_budget *budget)
{
    struct body *made = NULL;

    switch (form) {
    case HOT_IDENTITY:
        made = convert(result, form, HOT_ZSTD, RESULT_ZSTD_TO_IDENTITY, budget);
        if (made && body_view(made).length != result->result_bytes) {
            body_unref(made);
            made = NULL;
        }
        break;
    case HOT_ZSTD:
        made = convert(result, form, HOT_IDENTITY, RESULT_IDENTITY_TO_ZSTD, budget);
        break;
    case HOT_GZIP:
        made = convert(result, form, HOT_IDENTITY, RESULT_IDENTITY_TO_GZIP, budget);
        if (!made) {
            made = convert(result, form, HOT_ZSTD, RESULT_ZSTD_TO_GZIP, budget);
        }
        break;
    }
    return made;
}

/* Whether stored bytes are what they should be, found out without memory for the whole. */
static bool expands_to(struct view bytes, uint64_t length)
{
    size_t room_bytes = ZSTD_DStreamOutSize();
    ZSTD_DStream *stream = ZSTD_createDStream();
    char *room = malloc(room_bytes);
    ZSTD_inBuffer input = {.src = bytes.data, .size = bytes.length};
    size_t wanted = 1;
    uint64_t expanded = 0;

    while (stream && room && wanted > 0 && expanded <= length) {
        ZSTD_outBuffer output = {.dst = room, .size = room_bytes};
        size_t consumed = input.pos;

        wanted = ZSTD_decompressStream(stream, &output, &input);
        if (ZSTD_isError(wanted) || (output.pos == 0 && input.pos == consumed)) {
            expanded = length + 1;
        } else {
            expanded += output.pos;
        }
    }
    /* Without memory even for that nothing can be said against them. */
    wanted = stream && room ? wanted : 0;
    expanded = stream && room ? expanded : length;
    ZSTD_freeDStream(stream);
    free(room);
    return wanted == 0 && expanded == length;
}

static enum result_made explain_failure(struct hot_result *result, enum hot_form form)
{
    struct body *stored = form == HOT_IDENTITY ? hot_result_form(result, HOT_ZSTD) : NULL;
    bool damaged = stored && !expands_to(body_view(stored), result->result_bytes);

    body_unref(stored);
    return damaged ? RESULT_DAMAGED : RESULT_NO_MEMORY;
}

enum result_made result_codec_make_form(struct hot_result *result, enum hot_form form,
                                        struct body_budget *budget)
{
    struct body *there = hot_result_form(result, form);

    if (!there) {
        struct body *made = convert_to(result, form, budget);

        if (!made) {
            return explain_failure(result, form);
        }
        hot_result_add_form(result, form, made);
        body_unref(made);
    }
    body_unref(there);
    return hot_result_describe_form(result, form) ? RESULT_MADE : RESULT_NO_MEMORY;
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* One step, or one form of a hot result. */
struct codec_task {
    struct codec_task *next;
    struct loop *loop;
    struct loop_letter letter;
    void *argument;
    /* A step. */
    struct body *source;
    enum result_step step;
    size_t maximum_bytes;
    result_codec_done *done;
    struct body *made;
    /* A form. */
    struct hot_result *result;
    enum hot_form form;
    result_codec_form_done *form_done;
    enum result_made form_made;
};

struct result_codec {
    struct body_budget *budget;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows; a leaf */
    pthread_cond_t changed;
    struct codec_task *first;
    struct codec_task **last;
    bool stopping;
};

static void on_step_done(void *argument)
{
    struct codec_task *task = argument;

    task->done(task->argument, task->made);
    free(task);
}

static void on_form_done(void *argument)
{
    struct codec_task *task = argument;

    task->form_done(task->argument, task->form_made);
    free(task);
}

static void work(struct result_codec *codec, struct codec_task *task)
{
    if (task->result) {
        task->form_made = result_codec_make_form(task->result, task->form, codec->budget);
        hot_result_unref(task->result);
        loop_post_letter(task->loop, &task->letter, on_form_done, task);
        return;
    }
    task->made =
        result_codec_now(task->step, body_view(task->source), task->maximum_bytes, codec->budget);
    body_unref(task->source);
    loop_post_letter(task->loop, &task->letter, on_step_done, task);
}

/* The next task, or NULL when the codec ends and all are done. */
static struct codec_task *take_task(struct result_codec *codec)
{
    struct codec_task *task;

    pthread_mutex_lock(&codec->lock);
    while (!codec->first && !codec->stopping) {
        pthread_cond_wait(&codec->changed, &codec->lock);
    }
    task = codec->first;
    if (task) {
        codec->first = task->next;
        if (!codec->first) {
            codec->last = &codec->first;
        }
    }
    pthread_mutex_unlock(&codec->lock);
    return task;
}

static void *run(void *argument)
{
    struct result_codec *codec = argument;
    struct codec_task *task;

    while ((task = take_task(codec)) != NULL) {
        work(codec, task);
    }
    return NULL;
}

struct result_codec *result_codec_create(struct body_budget *budget)
{
    struct result_codec *codec = calloc(1, sizeof *codec);

    if (!codec) {
        return NULL;
    }
    codec->budget = budget;
    codec->last = &codec->first;
    if (pthread_mutex_init(&codec->lock, NULL) != 0) {
        goto no_lock;
    }
    if (pthread_cond_init(&codec->changed, NULL) != 0) {
        goto no_condition;
    }
    if (FAULT_POINT("codec.thread") || pthread_create(&codec->thread, NULL, run, codec) != 0) {
        goto no_thread;
    }
    (void)pthread_setname_np(codec->thread, "codec");
    return codec;

no_thread:
    pthread_cond_destroy(&codec->changed);
no_condition:
    pthread_mutex_destroy(&codec->lock);
no_lock:
    free(codec);
    return NULL;
}

void result_codec_destroy(struct result_codec *codec)
{
    if (!codec) {
        return;
    }
    pthread_mutex_lock(&codec->lock);
    codec->stopping = true;
    pthread_cond_signal(&codec->changed);
    pthread_mutex_unlock(&codec->lock);
    pthread_join(codec->thread, NULL);
    pthread_cond_destroy(&codec->changed);
    pthread_mutex_destroy(&codec->lock);
    free(codec);
}

static void queue_task(struct result_codec *codec, struct codec_task *task)
{
    pthread_mutex_lock(&codec->lock);
    *codec->last = task;
    codec->last = &task->next;
    pthread_cond_signal(&codec->changed);
    pthread_mutex_unlock(&codec->lock);
}

static struct codec_task *create_task(struct loop *loop, void *argument)
{
    struct codec_task *task = FAULT_POINT("codec.start") ? NULL : calloc(1, sizeof *task);

    if (task) {
        task->loop = loop;
        task->argument = argument;
    }
    return task;
}

bool result_codec_start(struct result_codec *codec, struct loop *loop, struct body *bytes,
                        enum result_step step, size_t maximum_bytes, result_codec_done *done,
                        void *argument)
{
    struct codec_task *task = create_task(loop, argument);

    if (!task) {
        return false;
    }
    task->source = body_ref(bytes);
    task->step = step;
    task->maximum_bytes = maximum_bytes;
    task->done = done;
    queue_task(codec, task);
    return true;
}

bool result_codec_start_form(struct result_codec *codec, struct loop *loop,
                             struct hot_result *result, enum hot_form form,
                             result_codec_form_done *done, void *argument)
{
    struct codec_task *task = create_task(loop, argument);

    if (!task) {
        return false;
    }
    task->result = hot_result_ref(result);
    task->form = form;
    task->form_done = done;
    queue_task(codec, task);
    return true;
}
