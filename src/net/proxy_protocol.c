#include "build_config.h"

#include "net/proxy_protocol.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

static const char v1_start[] = "PROXY ";
static const char v2_signature[] = "\r\n\r\n\0\r\nQUIT\n";

enum {
    V1_START_LENGTH = sizeof v1_start - 1,
    V2_SIGNATURE_LENGTH = sizeof v2_signature - 1,
    /* Lengths of the address blocks of version 2: both addresses, both ports (section 2.2). */
    BLOCK_IPV4 = 12,
    BLOCK_IPV6 = 36,
    BLOCK_UNIX = 216,
    TLV_HEAD = 3,
};

/* True when `bytes` and `start` are the same as far as both go. */
static bool agrees(struct view bytes, const char *start, size_t length)
{
    struct view wanted = {start, length};

    return view_equal(view_first(bytes, length), view_first(wanted, bytes.length));
}

/* ---- version 1 ------------------------------------------------------------------------------ */

/* Takes the next word and the single space behind it off `line`. */
static struct view take_word(struct view *line)
{
    size_t at = view_find_byte(*line, ' ');
    struct view word = view_first(*line, at);

    *line = view_skip(*line, at + 1);
    return word;
}

/* "Heading zeroes are not permitted" (section 2.1), so that nobody reads octal. */
static bool parse_port(struct view word, in_port_t *port)
{
    uint64_t number;

    if ((word.length > 1 && word.data[0] == '0') || !view_parse_u64(word, UINT16_MAX, &number)) {
        return false;
    }
    *port = htons((uint16_t)number);
    return true;
}

static bool parse_address(int family, struct view word, void *address)
{
    char text[INET6_ADDRSTRLEN];

    if (word.length == 0 || word.length >= sizeof text) {
        return false;
    }
    memcpy(text, word.data, word.length);
    text[word.length] = '\0';
    /* A NUL inside would end the text early and hide what follows. */
    return strlen(text) == word.length && inet_pton(family, text, address) == 1;
}

/* The destination is checked and not kept. */
static bool parse_v1_addresses(int family, struct view line, struct proxy_protocol_head *head)
{
    struct in6_addr destination;
    in_port_t destination_port;
    struct in6_addr source = {0};
    in_port_t source_port = 0;

    if (!parse_address(family, take_word(&line), &source) ||
        !parse_address(family, take_word(&line), &destination) ||
        !parse_port(take_word(&line), &source_port) || !parse_port(line, &destination_port)) {
        return false;
    }
    if (family == AF_INET) {
        struct sockaddr_in *address = (struct sockaddr_in *)&head->source;

        address->sin_family = AF_INET;
        address->sin_port = source_port;
        memcpy(&address->sin_addr, &source, sizeof address->sin_addr);
    } else {
        struct sockaddr_in6 *address = (struct sockaddr_in6 *)&head->source;

        address->sin6_family = AF_INET6;
        address->sin6_port = source_port;
        address->sin6_addr = source;
    }
    head->has_source = true;
    return true;
}

/* `line` is what stands between "PROXY " and CRLF. */
static bool parse_v1_line(struct view line, struct proxy_protocol_head *head)
{
    struct view rest = line;
    struct view protocol = take_word(&rest);

    if (view_equal(protocol, VIEW("TCP4"))) {
        return parse_v1_addresses(AF_INET, rest, head);
    }
    if (view_equal(protocol, VIEW("TCP6"))) {
        return parse_v1_addresses(AF_INET6, rest, head);
    }
    /* What stands behind UNKNOWN is ignored (section 2.1). */
    return view_equal(protocol, VIEW("UNKNOWN"));
}

static enum proxy_protocol_result parse_v1(struct view bytes, struct proxy_protocol_head *head)
{
    struct view window = view_first(bytes, PROXY_PROTOCOL_V1_BYTES);
    size_t end = view_find_byte(window, '\r');

    if (view_find_byte(window, '\n') < end) {
        return PROXY_PROTOCOL_FAULT;
    }
    if (end + 1 >= window.length) {
        return window.length < PROXY_PROTOCOL_V1_BYTES ? PROXY_PROTOCOL_INCOMPLETE
                                                       : PROXY_PROTOCOL_FAULT;
    }
    if (window.data[end + 1] != '\n' ||
        !parse_v1_line(view_skip(view_first(window, end), V1_START_LENGTH), head)) {
        return PROXY_PROTOCOL_FAULT;
    }
    head->used_bytes = end + 2;
    return PROXY_PROTOCOL_OK;
}

/* ---- version 2 ------------------------------------------------------------------------------ */

static size_t read_u16(const char *at)
{
    return (size_t)(unsigned char)at[0] << 8 | (size_t)(unsigned char)at[1];
}

/* Type, length and value follow each other to the very end of the block (section 2.2). */
static bool skip_tlvs(struct view block)
{
    while (block.length >= TLV_HEAD) {
        size_t length = TLV_HEAD + read_u16(block.data + 1);

        if (length > block.length) {
            return false;
        }
        block = view_skip(block, length);
    }
    return block.length == 0;
}

/* Only streams are passed on to a stream socket: a datagram family is a fault, as are the families
 * that the specification reserves. */
static bool parse_v2_block(unsigned family, struct view block, struct proxy_protocol_head *head)
{
    struct sockaddr_in *ipv4 = (struct sockaddr_in *)&head->source;
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)&head->source;
    size_t length;

    switch (family) {
    case 0x00: /* AF_UNSPEC: the whole block is ignored */ return true;
    case 0x11: length = BLOCK_IPV4; break;
    case 0x21: length = BLOCK_IPV6; break;
    case 0x31: length = BLOCK_UNIX; break;
    default: return false;
    }
    if (block.length < length || !skip_tlvs(view_skip(block, length))) {
        return false;
    }
    if (length == BLOCK_IPV4) {
        ipv4->sin_family = AF_INET;
        memcpy(&ipv4->sin_addr, block.data, 4);
        memcpy(&ipv4->sin_port, block.data + 8, 2);
    } else if (length == BLOCK_IPV6) {
        ipv6->sin6_family = AF_INET6;
        memcpy(&ipv6->sin6_addr, block.data, 16);
        memcpy(&ipv6->sin6_port, block.data + 32, 2);
    } else {
        head->source.ss_family = AF_UNIX;
    }
    head->has_source = true;
    return true;
}

static enum proxy_protocol_result parse_v2(struct view bytes, struct proxy_protocol_head *head)
{
    unsigned command = bytes.length > 12 ? (unsigned char)bytes.data[12] : 0x20;
    size_t block_length;

    /* Version 2 in the upper half, LOCAL or PROXY in the lower one; anything else is a fault. */
    if (command != 0x20 && command != 0x21) {
        return PROXY_PROTOCOL_FAULT;
    }
    if (bytes.length < PROXY_PROTOCOL_V2_FIXED_BYTES) {
        return PROXY_PROTOCOL_INCOMPLETE;
    }
    block_length = read_u16(bytes.data + 14);
    if (block_length > PROXY_PROTOCOL_V2_BLOCK_BYTES) {
        return PROXY_PROTOCOL_FAULT;
    }
    if (bytes.length - PROXY_PROTOCOL_V2_FIXED_BYTES < block_length) {
        return PROXY_PROTOCOL_INCOMPLETE;
    }
    /* LOCAL: the balancer speaks for itself; family and block mean nothing. */
    if (command == 0x21 &&
        !parse_v2_block((unsigned char)bytes.data[13],
                        view_first(view_skip(bytes, PROXY_PROTOCOL_V2_FIXED_BYTES), block_length),
                        head)) {
        return PROXY_PROTOCOL_FAULT;
    }
    head->used_bytes = PROXY_PROTOCOL_V2_FIXED_BYTES + block_length;
    return PROXY_PROTOCOL_OK;
}

enum proxy_protocol_result proxy_protocol_parse(struct view bytes, struct proxy_protocol_head *head)
{
    *head = (struct proxy_protocol_head){0};
    if (bytes.length == 0) {
        return PROXY_PROTOCOL_INCOMPLETE;
    }
    if (agrees(bytes, v1_start, V1_START_LENGTH)) {
        return bytes.length < V1_START_LENGTH ? PROXY_PROTOCOL_INCOMPLETE : parse_v1(bytes, head);
    }
    if (agrees(bytes, v2_signature, V2_SIGNATURE_LENGTH)) {
        return parse_v2(bytes, head);
    }
    return PROXY_PROTOCOL_FAULT;
}
