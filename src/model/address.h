/* Peer addresses and the networks that configuration names.
 *
 *     struct address_network network;
 *     if (address_parse_network(VIEW("10.0.0.0/8"), &network) != ADDRESS_OK) ...
 *     struct address peer;
 *     address_from_sockaddr(&peer, sockaddr, length);
 *     address_in_network(&peer, &network)
 */
#ifndef PODGATE_MODEL_ADDRESS_H
#define PODGATE_MODEL_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum address_family { ADDRESS_NONE, ADDRESS_IPV4, ADDRESS_IPV6, ADDRESS_UNIX };

/* One peer. Unused bytes are 0, so that address_view() is a key for tables. IPv4-mapped IPv6
 * addresses are kept as IPv4. */
struct address {
    uint8_t family; /* enum address_family */
    uint8_t bytes[16];
    uint16_t port; /* host byte order */
};

struct address_network {
    uint8_t family; /* ADDRESS_IPV4 or ADDRESS_IPV6 */
    uint8_t prefix; /* bits */
    uint8_t bytes[16];
};

enum address_result {
    ADDRESS_OK,
    ADDRESS_BAD,           /* not an IPv4 or IPv6 address */
    ADDRESS_PREFIX_BAD,    /* not digits, or above 32 or 128 */
    ADDRESS_HOST_BITS_SET, /* "10.0.0.1/8": probably not what was meant */
};

/* Enough for address_format(): "[" IPv6 "]:65535". */
enum { ADDRESS_TEXT_MAXIMUM = 64 };

/* Reads "127.0.0.0/8", "::1/128", or an address alone (all of its bits count). No zone ids. */
MUST_CHECK enum address_result address_parse_network(struct view text,
                                                     struct address_network *network);

/* Reads an IPv4 or IPv6 address without port or brackets; the port becomes 0. */
MUST_CHECK bool address_parse(struct view text, struct address *address);

/* Takes over a socket's address. Families other than IPv4, IPv6 and Unix, and addresses that are
 * too short, become ADDRESS_NONE. */
void address_from_sockaddr(struct address *address, const struct sockaddr *sockaddr,
                           socklen_t length);

/* True when the address lies in the network. Unix peers lie in none. */
bool address_in_network(const struct address *address, const struct address_network *network);

/* Writes "127.0.0.1:8080", "[::1]:8080", "unix" or "none" into `text` (room for
 * ADDRESS_TEXT_MAXIMUM bytes) and gives the view of it; no NUL. Without the port (and the brackets)
 * when `with_port` is false. */
struct view address_format(const struct address *address, bool with_port, char *text);

/* Writes a network as "10.0.0.0/8"; same room. */
struct view address_format_network(const struct address_network *network, char *text);

/* The bytes that name the peer without its port: family and address, for per-address limits. An
 * IPv6 peer counts by its /64, since one machine commonly owns a whole one. Valid until `key` goes,
 * an array of ADDRESS_KEY_LENGTH bytes that this fills. */
enum { ADDRESS_KEY_LENGTH = 17 };
struct view address_key(const struct address *address, uint8_t *key);

/* One phrase on the mistake, such as "the prefix must be 0 to 32 (IPv4) or 128 (IPv6)". */
struct view address_detail(enum address_result result);

#endif
