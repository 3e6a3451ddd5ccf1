#include "build_config.h"

#include "sim/sim_blob.h"

#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

enum { COPY_UP_TO_BYTES = 4096 };

struct blob *blob_create(size_t length)
{
    struct blob *blob = malloc(sizeof *blob + length);
    if (!blob)
        return NULL;
    blob->references = 1;
    blob->length = length;
    return blob;
}

struct blob *blob_copy(struct sim_text text)
{
    struct blob *blob = blob_create(text.length);
    if (blob && text.length)
        memcpy(blob->data, text.data, text.length);
    return blob;
}

void blob_unref(struct blob *blob)
{
    if (blob && --blob->references == 0)
        free(blob);
}

static void on_reference_done(const void *data, size_t length, void *argument)
{
    (void)data;
    (void)length;
    blob_unref(argument);
}

void blob_append(struct evbuffer *out, struct blob *blob)
{
    if (blob->length <= COPY_UP_TO_BYTES) {
        evbuffer_add(out, blob->data, blob->length);
        return;
    }
    blob->references++;
    if (evbuffer_add_reference(out, blob->data, blob->length, on_reference_done, blob))
        blob->references--;
}

struct sim_text blob_text(const struct blob *blob)
{
    return blob ? (struct sim_text){blob->data, blob->length} : (struct sim_text){"", 0};
}
