#include "build_config.h"

#include "base/bytes.h"

#include <stdlib.h>

static unsigned char lower(unsigned char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (unsigned char)(byte + ('a' - 'A')) : byte;
}

bool view_equal_ignore_case(struct view left, struct view right)
{
    if (left.length != right.length) {
        return false;
    }
    for (size_t i = 0; i < left.length; i++) {
        if (lower((unsigned char)left.data[i]) != lower((unsigned char)right.data[i])) {
            return false;
        }
    }
    return true;
}

bool view_starts_with_ignore_case(struct view view, struct view prefix)
{
    return view.length >= prefix.length &&
           view_equal_ignore_case(view_first(view, prefix.length), prefix);
}

struct view view_trim(struct view view)
{
    while (view.length > 0 && (view.data[0] == ' ' || view.data[0] == '\t')) {
        view.data++;
        view.length--;
    }
    while (view.length > 0 &&
           (view.data[view.length - 1] == ' ' || view.data[view.length - 1] == '\t')) {
        view.length--;
    }
    return view;
}

size_t view_find_byte(struct view view, char byte)
{
    if (view.length == 0) {
        return 0;
    }
    const char *found = memchr(view.data, byte, view.length);
    return found != NULL ? (size_t)(found - view.data) : view.length;
}

bool view_parse_u64(struct view view, uint64_t maximum, uint64_t *out)
{
    uint64_t number = 0;
    if (view.length == 0) {
        return false;
    }
    for (size_t i = 0; i < view.length; i++) {
        unsigned digit = (unsigned)(unsigned char)view.data[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, digit, &number)) {
            return false;
        }
    }
    if (number > maximum) {
        return false;
    }
    *out = number;
    return true;
}

static int hex_digit(char byte)
{
    if (byte >= '0' && byte <= '9') {
        return byte - '0';
    }
    if (byte >= 'a' && byte <= 'f') {
        return byte - 'a' + 10;
    }
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

bool view_parse_hex(struct view view, uint8_t *out, size_t count)
{
    if (count > SIZE_MAX / 2 || view.length != 2 * count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        int high = hex_digit(view.data[2 * i]);
        int low = hex_digit(view.data[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

void builder_init(struct builder *builder, char *storage, size_t capacity)
{
    *builder = (struct builder){
        .data = storage,
        .capacity = storage != NULL ? capacity : 0,
        .storage = storage,
        .storage_capacity = storage != NULL ? capacity : 0,
    };
}

void builder_clear(struct builder *builder)
{
    if (builder->data != builder->storage) {
        free(builder->data);
    }
    builder_init(builder, builder->storage, builder->storage_capacity);
}

char *builder_reserve(struct builder *builder, size_t count)
{
    size_t needed;
    if (__builtin_add_overflow(builder->length, count, &needed)) {
        builder->failed = true;
        return NULL;
    }
    if (needed <= builder->capacity && builder->data != NULL) {
        return builder->data + builder->length;
    }
    size_t capacity = builder->capacity < 128 ? 128 : builder->capacity;
    while (capacity < needed) {
        if (__builtin_add_overflow(capacity, capacity / 2, &capacity)) {
            capacity = needed;
        }
    }
    bool on_storage = builder->data == builder->storage;
    char *grown = realloc(on_storage ? NULL : builder->data, capacity);
    if (grown == NULL) {
        builder->failed = true;
        return NULL;
    }
    if (on_storage && builder->storage != NULL && builder->length > 0) {
        memcpy(grown, builder->storage, builder->length);
    }
    builder->data = grown;
    builder->capacity = capacity;
    return grown + builder->length;
}

/* Two digits at a time: a division by 100 costs as much as one by 10. */
static const char decimal_pairs[] = "00010203040506070809101112131415161718192021222324"
                                    "25262728293031323334353637383940414243444546474849"
                                    "50515253545556575859606162636465666768697071727374"
                                    "75767778798081828384858687888990919293949596979899";

void builder_append_u64(struct builder *builder, uint64_t number)
{
    char digits[20];
    size_t start = sizeof digits;
    while (number >= 100) {
        start -= 2;
        memcpy(digits + start, decimal_pairs + 2 * (number % 100), 2);
        number /= 100;
    }
    if (number >= 10) {
        start -= 2;
        memcpy(digits + start, decimal_pairs + 2 * number, 2);
    } else {
        digits[--start] = (char)('0' + number);
    }
    builder_append(builder, view_make(digits + start, sizeof digits - start));
}

static const char hex_digits[] = "0123456789abcdef";

void builder_append_hex(struct builder *builder, uint64_t number)
{
    char digits[16];
    size_t start = sizeof digits;
    do {
        digits[--start] = hex_digits[number & 15];
        number >>= 4;
    } while (number > 0);
    builder_append(builder, view_make(digits + start, sizeof digits - start));
}

void builder_append_hex_bytes(struct builder *builder, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char digits[2] = {hex_digits[bytes[i] >> 4], hex_digits[bytes[i] & 15]};
        builder_append(builder, view_make(digits, 2));
    }
}

char *builder_detach(struct builder *builder, size_t *length)
{
    if (!builder->failed && (builder->data == builder->storage || builder->data == NULL)) {
        char *copy = malloc(builder->length > 0 ? builder->length : 1);
        if (copy != NULL && builder->data != NULL && builder->length > 0) {
            memcpy(copy, builder->data, builder->length);
        }
        *length = copy != NULL ? builder->length : 0;
        builder_reset(builder);
        return copy;
    }
    char *data = NULL;
    *length = 0;
    if (!builder->failed) {
        data = builder->data;
        *length = builder->length;
        builder->data = builder->storage;
    }
    builder_clear(builder);
    return data;
}
