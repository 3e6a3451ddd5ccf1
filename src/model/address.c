#include "build_config.h"

#include "model/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* Sets an address from the 16 bytes of an IPv6 one. */
static void set_ipv6(struct address *address, const uint8_t *bytes)
{
    if (memcmp(bytes, mapped_prefix, sizeof mapped_prefix) == 0) {
        address->family = ADDRESS_IPV4;
        memcpy(address->bytes, bytes + sizeof mapped_prefix, 4);
    } else {
        address->family = ADDRESS_IPV6;
        memcpy(address->bytes, bytes, 16);
    }
}

bool address_parse(struct view text, struct address *address)
{
    char string[INET6_ADDRSTRLEN];
    uint8_t bytes[16];
    memset(address, 0, sizeof *address);
    /* inet_pton() takes a string, and would stop at a NUL within the text. */
    if (text.length == 0 || text.length >= sizeof string ||
        view_find_byte(text, '\0') < text.length) {
        return false;
    }
    memcpy(string, text.data, text.length);
    string[text.length] = '\0';
    if (inet_pton(AF_INET, string, address->bytes) == 1) {
        address->family = ADDRESS_IPV4;
        return true;
    }
    if (inet_pton(AF_INET6, string, bytes) != 1) {
        return false;
    }
    set_ipv6(address, bytes);
    return true;
}

/* True when the first `prefix` bits of both are the same. */
static bool bits_equal(const uint8_t *left, const uint8_t *right, unsigned prefix)
{
    unsigned whole = prefix / 8;
    unsigned mask = 0xff00u >> prefix % 8;
    return memcmp(left, right, whole) == 0 &&
           (prefix % 8 == 0 || ((left[whole] ^ right[whole]) & mask & 0xff) == 0);
}

enum address_result address_parse_network(struct view text, struct address_network *network)
{
    struct address address;
    size_t slash = view_find_byte(text, '/');
    struct view host = view_first(text, slash);
    if (!address_parse(host, &address)) {
        return ADDRESS_BAD;
    }
    uint64_t bits = address.family == ADDRESS_IPV4 ? 32 : 128;
    uint64_t prefix = bits;
    /* "::ffff:10.0.0.0/104" is written in IPv6's bits and kept in IPv4's. */
    uint64_t offset =
        address.family == ADDRESS_IPV4 && view_find_byte(host, ':') < host.length ? 96 : 0;
    if (slash < text.length) {
        struct view digits = view_skip(text, slash + 1);
        if (digits.length > 3 || !view_parse_u64(digits, bits + offset, &prefix) ||
            prefix < offset) {
            return ADDRESS_PREFIX_BAD;
        }
        prefix -= offset;
    }
    network->family = address.family;
    network->prefix = (uint8_t)prefix;
    memcpy(network->bytes, address.bytes, sizeof network->bytes);
    for (unsigned bit = (unsigned)prefix; bit < bits; bit++) {
        if ((network->bytes[bit / 8] & 0x80 >> bit % 8) != 0) {
            return ADDRESS_HOST_BITS_SET;
        }
    }
    return ADDRESS_OK;
}

void address_from_sockaddr(struct address *address, const struct sockaddr *sockaddr,
                           socklen_t length)
{
    memset(address, 0, sizeof *address);
    if (sockaddr == NULL || length < sizeof sockaddr->sa_family) {
        return;
    }
    if (sockaddr->sa_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, sockaddr, sizeof in);
        address->family = ADDRESS_IPV4;
        memcpy(address->bytes, &in.sin_addr, 4);
        address->port = ntohs(in.sin_port);
    } else if (sockaddr->sa_family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sockaddr, sizeof in6);
        set_ipv6(address, in6.sin6_addr.s6_addr);
        address->port = ntohs(in6.sin6_port);
    } else if (sockaddr->sa_family == AF_UNIX) {
        address->family = ADDRESS_UNIX;
    }
}

bool address_in_network(const struct address *address, const struct address_network *network)
{
    return address->family == network->family &&
           (address->family == ADDRESS_IPV4 || address->family == ADDRESS_IPV6) &&
           bits_equal(address->bytes, network->bytes, network->prefix);
}

/* ---- text ------------------------------------------------------------------------------------ */

/* The digits of a number below 100,000. */
static size_t put_number(char *text, unsigned number)
{
    char digits[5];
    size_t start = sizeof digits;
    do {
        digits[--start] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0 && start > 0);
    memcpy(text, digits + start, sizeof digits - start);
    return sizeof digits - start;
}

/* By hand, since every log line has a peer and inet_ntop() goes through printf. */
static size_t put_ipv4(char *text, const uint8_t *bytes)
{
    size_t length = 0;

    for (size_t i = 0; i < 4; i++) {
        unsigned byte = bytes[i];

        if (i > 0) {
            text[length++] = '.';
        }
        if (byte >= 100) {
            text[length++] = (char)('0' + byte / 100);
        }
        if (byte >= 10) {
            text[length++] = (char)('0' + byte / 10 % 10);
        }
        text[length++] = (char)('0' + byte % 10);
    }
    return length;
}

static size_t put_host(char *text, unsigned family, const uint8_t *bytes)
{
    if (family == ADDRESS_IPV4) {
        return put_ipv4(text, bytes);
    }
    char string[INET6_ADDRSTRLEN];
    if (inet_ntop(AF_INET6, bytes, string, sizeof string) == NULL) {
        return 0;
    }
    size_t length = strlen(string);
    memcpy(text, string, length);
    return length;
}

struct view address_format(const struct address *address, bool with_port, char *text)
{
    size_t length = 0;
    if (address->family == ADDRESS_UNIX) {
        return VIEW("unix");
    }
    if (address->family != ADDRESS_IPV4 && address->family != ADDRESS_IPV6) {
        return VIEW("none");
    }
    bool brackets = with_port && address->family == ADDRESS_IPV6;
    if (brackets) {
        text[length++] = '[';
    }
    length += put_host(text + length, address->family, address->bytes);
    if (brackets) {
        text[length++] = ']';
    }
    if (with_port) {
        text[length++] = ':';
        length += put_number(text + length, address->port);
    }
    return view_make(text, length);
}

struct view address_format_network(const struct address_network *network, char *text)
{
    size_t length = put_host(text, network->family, network->bytes);
    text[length++] = '/';
    length += put_number(text + length, network->prefix);
    return view_make(text, length);
}

struct view address_key(const struct address *address, uint8_t *key)
{
    memset(key, 0, ADDRESS_KEY_LENGTH);
    key[0] = address->family;
    memcpy(key + 1, address->bytes, address->family == ADDRESS_IPV6 ? 8 : 16);
    return view_make((const char *)key, ADDRESS_KEY_LENGTH);
}

struct view address_detail(enum address_result result)
{
    switch (result) {
    case ADDRESS_OK: return VIEW("the network is well-formed");
    case ADDRESS_BAD: return VIEW("not an IPv4 or IPv6 address");
    case ADDRESS_PREFIX_BAD: return VIEW("the prefix must be 0 to 32 (IPv4) or 0 to 128 (IPv6)");
    case ADDRESS_HOST_BITS_SET:
        return VIEW("bits behind the prefix are set; write the network's first address");
    }
    return VIEW("");
}
