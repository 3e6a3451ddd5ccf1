/* Networks and addresses: what is accepted is written and read back as the same, and contains
 * itself. */
#include "build_config.h"

#include "fuzz.h"
#include "model/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view text = view_make((const char *)data, size);
    char written[ADDRESS_TEXT_MAXIMUM];
    struct address_network network;
    struct address_network network_again;
    struct address address;
    struct address address_again;
    enum address_result result = address_parse_network(text, &network);
    FUZZ_CHECK(address_detail(result).length > 0);
    if (result == ADDRESS_OK) {
        struct view as_text = address_format_network(&network, written);
        FUZZ_CHECK(as_text.length <= sizeof written);
        FUZZ_CHECK(address_parse_network(as_text, &network_again) == ADDRESS_OK);
        FUZZ_CHECK(network_again.family == network.family);
        FUZZ_CHECK(network_again.prefix == network.prefix);
        FUZZ_CHECK(memcmp(network_again.bytes, network.bytes, sizeof network.bytes) == 0);
        struct address first = {.family = network.family};
        memcpy(first.bytes, network.bytes, sizeof first.bytes);
        FUZZ_CHECK(address_in_network(&first, &network));
    }
    if (address_parse(text, &address)) {
        struct view as_text = address_format(&address, false, written);
        FUZZ_CHECK(address_parse(as_text, &address_again));
        FUZZ_CHECK(memcmp(&address, &address_again, sizeof address) == 0);
        FUZZ_CHECK(address_parse_network(text, &network) == ADDRESS_OK);
        FUZZ_CHECK(address_in_network(&address, &network));
    }
    /* Any bytes as a socket's address. */
    union {
        struct sockaddr sockaddr;
        struct sockaddr_storage storage;
    } socket_address = {0};
    size_t length = size < sizeof socket_address ? size : sizeof socket_address;
    if (length > 0) {
        memcpy(&socket_address, data, length);
    }
    address_from_sockaddr(&address, &socket_address.sockaddr, (socklen_t)length);
    struct view as_text = address_format(&address, true, written);
    FUZZ_CHECK(as_text.length > 0 && as_text.length <= sizeof written);
    return 0;
}
