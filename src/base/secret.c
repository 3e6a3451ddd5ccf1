#include "build_config.h"

#include "base/secret.h"

#include <openssl/crypto.h>
#include <sys/mman.h>
#include <unistd.h>

/* The struct lies in the page itself, before its bytes, so that one mapping is all there is. */
struct secret {
    size_t mapped_bytes;
    size_t length;
    bool locked;
    char bytes[];
};

struct secret *secret_create(struct view bytes)
{
    long page = sysconf(_SC_PAGESIZE);
    size_t page_bytes = page > 0 ? (size_t)page : 4096;
    size_t needed;
    if (__builtin_add_overflow(sizeof(struct secret) + page_bytes - 1, bytes.length, &needed)) {
        return NULL;
    }
    size_t mapped_bytes = needed - needed % page_bytes;
    void *memory =
        mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    struct secret *secret = memory;
    secret->mapped_bytes = mapped_bytes;
    secret->length = bytes.length;
    secret->locked = mlock(memory, mapped_bytes) == 0;
    /* Fails on kernels built without core dumps only, where it isn't needed. */
    (void)madvise(memory, mapped_bytes, MADV_DONTDUMP);
    if (bytes.length > 0) {
        memcpy(secret->bytes, bytes.data, bytes.length);
    }
    /* From here on a stray write to it is a crash and not a silent change of the key. */
    (void)mprotect(memory, mapped_bytes, PROT_READ);
    return secret;
}

void secret_destroy(struct secret *secret)
{
    if (secret == NULL) {
        return;
    }
    size_t mapped_bytes = secret->mapped_bytes;
    if (mprotect(secret, mapped_bytes, PROT_READ | PROT_WRITE) == 0) {
        OPENSSL_cleanse(secret, mapped_bytes);
    }
    (void)munmap(secret, mapped_bytes);
}

struct view secret_view(const struct secret *secret)
{
    return secret != NULL ? view_make(secret->bytes, secret->length) : view_make(NULL, 0);
}

bool secret_is_locked(const struct secret *secret)
{
    return secret != NULL && secret->locked;
}

bool secret_equal(const struct secret *secret, struct view bytes)
{
    return secret != NULL && secret_equal_views(secret_view(secret), bytes);
}

bool secret_equal_views(struct view left, struct view right)
{
    return left.length == right.length &&
           (left.length == 0 || CRYPTO_memcmp(left.data, right.data, left.length) == 0);
}

void secret_wipe(void *memory, size_t length)
{
    if (length > 0) {
        OPENSSL_cleanse(memory, length);
    }
}
