/* Expansion of what lies in the store: any bytes give the exact bytes or nothing, never more than
 * the bound, and all memory comes back. And the round trip of any bytes through both codings. */
#include "build_config.h"

#include <stdatomic.h>

#include "fuzz.h"
#include "store/result_codec.h"

enum { BOUND_BYTES = 100000, BUDGET_BYTES = 1 << 20 };

static struct body_budget budget;

static void expand(struct view bytes)
{
    struct body *body = result_codec_now(RESULT_ZSTD_TO_IDENTITY, bytes, BOUND_BYTES, &budget);

    FUZZ_CHECK(body_view(body).length <= BOUND_BYTES);
    body_unref(body);
}

static void round_trip(struct view bytes)
{
    struct body *zstd = result_codec_now(RESULT_IDENTITY_TO_ZSTD, bytes, 0, &budget);
    struct body *back =
        zstd ? result_codec_now(RESULT_ZSTD_TO_IDENTITY, body_view(zstd), bytes.length, &budget)
             : NULL;

    FUZZ_CHECK(bytes.length > BUDGET_BYTES / 4 || bytes.length == 0 || back != NULL);
    FUZZ_CHECK(back == NULL || view_equal(body_view(back), bytes));
    body_unref(zstd);
    body_unref(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view bytes = view_make((const char *)data, size);

    atomic_store(&budget.maximum_bytes, BUDGET_BYTES);
    expand(bytes);
    round_trip(bytes);
    FUZZ_CHECK(atomic_load(&budget.used_bytes) == 0);
    return 0;
}
