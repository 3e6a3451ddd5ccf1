/* What the fuzz targets share. */
#ifndef PODGATE_FUZZ_FUZZ_H
#define PODGATE_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"

/* libFuzzer's entry: one input, any bytes. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold for every input. */
#define FUZZ_CHECK(condition)                                                             \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

/* A copy in memory of exactly this length, so that a look behind its end is found by ASan. */
static inline char *fuzz_copy(const char *data, size_t length)
{
    char *copy = malloc(length > 0 ? length : 1);
    FUZZ_CHECK(copy != NULL);
    if (length > 0) {
        memcpy(copy, data, length);
    }
    return copy;
}

/* The next of a sequence of numbers, for cutting inputs into pieces of many sizes. */
static inline uint32_t fuzz_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

#endif
