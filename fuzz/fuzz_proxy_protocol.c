/* The PROXY protocol's heads: whatever the bytes, the parser reads nothing behind them, says how much
 * it used, and gives the same verdict for any split of the input. */
#include "build_config.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/proxy_protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static enum proxy_protocol_result parse_prefix(const uint8_t *data, size_t size,
                                               struct proxy_protocol_head *head)
{
    char *copy = malloc(size > 0 ? size : 1);
    enum proxy_protocol_result result;

    require(copy != NULL);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    result = proxy_protocol_parse((struct view){copy, size}, head);
    free(copy);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_protocol_head whole;
    enum proxy_protocol_result wanted = parse_prefix(data, size, &whole);
    size_t most = size < PROXY_PROTOCOL_HEAD_BYTES ? size : PROXY_PROTOCOL_HEAD_BYTES;

    require(wanted != PROXY_PROTOCOL_INCOMPLETE || size < PROXY_PROTOCOL_HEAD_BYTES);
    require(wanted != PROXY_PROTOCOL_OK || (whole.used_bytes > 0 && whole.used_bytes <= most));
    for (size_t length = 0; length <= most; length++) {
        struct proxy_protocol_head head;
        enum proxy_protocol_result result = parse_prefix(data, length, &head);

        require(result == wanted || result == PROXY_PROTOCOL_INCOMPLETE);
        if (result == PROXY_PROTOCOL_OK) {
            require(length >= head.used_bytes && head.used_bytes == whole.used_bytes);
            require(head.has_source == whole.has_source);
            require(memcmp(&head.source, &whole.source, sizeof head.source) == 0);
        } else if (result == PROXY_PROTOCOL_INCOMPLETE && wanted == PROXY_PROTOCOL_OK) {
            require(length < whole.used_bytes);
        }
    }
    return 0;
}
