#include "build_config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "net/proxy_protocol.h"

/* Parses a copy that ends where the input ends, so that a sanitizer sees a read behind it. */
static enum proxy_protocol_result parse(struct view bytes, struct proxy_protocol_head *head)
{
    char *copy = malloc(bytes.length > 0 ? bytes.length : 1);
    enum proxy_protocol_result result;

    cr_assert_not_null(copy);
    if (bytes.length > 0) {
        memcpy(copy, bytes.data, bytes.length);
    }
    result = proxy_protocol_parse((struct view){copy, bytes.length}, head);
    free(copy);
    return result;
}

/* Whatever the split, the verdict is INCOMPLETE until it is what the whole input gives. */
static void expect_any_split(struct view bytes, enum proxy_protocol_result wanted)
{
    struct proxy_protocol_head head;
    bool decided = false;

    for (size_t length = 0; length <= bytes.length; length++) {
        enum proxy_protocol_result result = parse(view_first(bytes, length), &head);

        if (result == PROXY_PROTOCOL_INCOMPLETE) {
            cr_expect_not(decided, "undecided again after %zu bytes", length);
        } else {
            decided = true;
            cr_expect_eq(result, wanted, "%d after %zu of %zu bytes", (int)result, length,
                         bytes.length);
        }
    }
    cr_expect_eq(decided, wanted != PROXY_PROTOCOL_INCOMPLETE);
}

static void expect_source(struct view bytes, const char *address, unsigned port)
{
    struct proxy_protocol_head head;
    char text[INET6_ADDRSTRLEN] = "";
    unsigned found_port = 0;

    expect_any_split(bytes, PROXY_PROTOCOL_OK);
    cr_assert_eq(parse(bytes, &head), PROXY_PROTOCOL_OK);
    cr_expect_eq(head.used_bytes, bytes.length);
    cr_expect(head.has_source);
    if (head.source.ss_family == AF_INET) {
        const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)&head.source;

        inet_ntop(AF_INET, &ipv4->sin_addr, text, sizeof text);
        found_port = ntohs(ipv4->sin_port);
    } else if (head.source.ss_family == AF_INET6) {
        const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)&head.source;

        inet_ntop(AF_INET6, &ipv6->sin6_addr, text, sizeof text);
        found_port = ntohs(ipv6->sin6_port);
    }
    cr_expect_str_eq(text, address);
    cr_expect_eq(found_port, port);
}

static void expect_no_source(struct view bytes)
{
    struct proxy_protocol_head head;

    expect_any_split(bytes, PROXY_PROTOCOL_OK);
    cr_assert_eq(parse(bytes, &head), PROXY_PROTOCOL_OK);
    cr_expect_eq(head.used_bytes, bytes.length);
    cr_expect_not(head.has_source);
}

Test(proxy_protocol, reads_version_1)
{
    expect_source(VIEW("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"), "192.0.2.1", 56324);
    expect_source(VIEW("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
                  "255.255.255.255", 65535);
    expect_source(VIEW("PROXY TCP6 2001:db8::1 ::1 0 80\r\n"), "2001:db8::1", 0);
    expect_source(VIEW("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
                       "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
                  "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535);
}

Test(proxy_protocol, unknown_keeps_the_peer_and_ignores_the_rest_of_the_line)
{
    expect_no_source(VIEW("PROXY UNKNOWN\r\n"));
    expect_no_source(VIEW("PROXY UNKNOWN what ever it says 1 2 3\r\n"));
}

Test(proxy_protocol, leaves_what_follows_the_head)
{
    struct proxy_protocol_head head;
    struct view v1 = VIEW("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\nGET / HTTP/1.1\r\n");
    struct view v2 = VIEW("\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00GET / HTTP/1.1\r\n");

    cr_assert_eq(parse(v1, &head), PROXY_PROTOCOL_OK);
    cr_expect(view_starts_with(view_skip(v1, head.used_bytes), VIEW("GET / ")));
    cr_assert_eq(parse(v2, &head), PROXY_PROTOCOL_OK);
    cr_expect_eq(head.used_bytes, 16);
}

Test(proxy_protocol, refuses_what_version_1_forbids)
{
    static const struct view wrong[] = {
        VIEW_INIT("GET / HTTP/1.1\r\n"),
        VIEW_INIT("proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\rX"),
        VIEW_INIT("PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1\0 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 nowhere 1 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n"),
        VIEW_INIT("PROXY TCP4 192.0.2.1 198.51.100.2 1 \r\n"),
        VIEW_INIT("PROXY TCP4 ::1 ::1 1 2\r\n"),
        VIEW_INIT("PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"),
        VIEW_INIT("PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n"),
        VIEW_INIT("PROXY UNKNOWNS\r\n"),
        VIEW_INIT("PROXY \r\n"),
        VIEW_INIT("\r\n\r\n\0\r\nQUIT\r"),
    };

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        expect_any_split(wrong[i], PROXY_PROTOCOL_FAULT);
    }
}

Test(proxy_protocol, version_1_head_has_107_bytes_at_the_most)
{
    char text[PROXY_PROTOCOL_V1_BYTES + 1];
    struct proxy_protocol_head head;

    memset(text, 'x', sizeof text);
    memcpy(text, "PROXY UNKNOWN ", 14);
    text[105] = '\r';
    text[106] = '\n';
    cr_expect_eq(parse((struct view){text, 107}, &head), PROXY_PROTOCOL_OK);
    cr_expect_eq(head.used_bytes, 107);
    text[105] = 'x';
    cr_expect_eq(parse((struct view){text, 105}, &head), PROXY_PROTOCOL_INCOMPLETE);
    text[106] = '\r';
    text[107] = '\n';
    cr_expect_eq(parse((struct view){text, 106}, &head), PROXY_PROTOCOL_INCOMPLETE);
    cr_expect_eq(parse((struct view){text, 107}, &head), PROXY_PROTOCOL_FAULT);
    cr_expect_eq(parse((struct view){text, 108}, &head), PROXY_PROTOCOL_FAULT);
}

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define IPV4_BLOCK "\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb"

Test(proxy_protocol, reads_version_2)
{
    expect_source(VIEW(SIGNATURE "\x21\x11\x00\x0c" IPV4_BLOCK), "192.0.2.1", 56324);
    expect_source(VIEW(SIGNATURE "\x21\x21\x00\x24"
                                 "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
                                 "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02"
                                 "\x00\x50\x01\xbb"),
                  "2001:db8::1", 80);
}

Test(proxy_protocol, skips_tlvs_of_version_2)
{
    expect_source(VIEW(SIGNATURE "\x21\x11\x00\x13" IPV4_BLOCK "\x04\x00\x01x"
                                 "\xea\x00\x00"),
                  "192.0.2.1", 56324);
}

Test(proxy_protocol, local_and_unspecified_keep_the_peer)
{
    expect_no_source(VIEW(SIGNATURE "\x20\x00\x00\x00"));
    expect_no_source(VIEW(SIGNATURE "\x20\x11\x00\x0c" IPV4_BLOCK));
    expect_no_source(VIEW(SIGNATURE "\x20\xff\x00\x03"
                                    "abc"));
    expect_no_source(VIEW(SIGNATURE "\x21\x00\x00\x02"
                                    "ab"));
}

Test(proxy_protocol, unix_source_has_the_unix_family)
{
    char bytes[16 + 216] = SIGNATURE "\x21\x31\x00\xd8/run/client.sock";
    struct proxy_protocol_head head;

    expect_any_split((struct view){bytes, sizeof bytes}, PROXY_PROTOCOL_OK);
    cr_assert_eq(parse((struct view){bytes, sizeof bytes}, &head), PROXY_PROTOCOL_OK);
    cr_expect(head.has_source);
    cr_expect_eq(head.source.ss_family, AF_UNIX);
    cr_expect_eq(head.used_bytes, sizeof bytes);
}

Test(proxy_protocol, refuses_what_version_2_forbids)
{
    static const struct view wrong[] = {
        VIEW_INIT(SIGNATURE "\x11\x11\x00\x0c" IPV4_BLOCK), /* version 1 in binary */
        VIEW_INIT(SIGNATURE "\x22\x11\x00\x0c" IPV4_BLOCK), /* unknown command */
        VIEW_INIT(SIGNATURE "\x21\x12\x00\x0c" IPV4_BLOCK), /* datagrams */
        VIEW_INIT(SIGNATURE "\x21\x41\x00\x0c" IPV4_BLOCK), /* reserved family */
        VIEW_INIT(SIGNATURE "\x21\x13\x00\x0c" IPV4_BLOCK), /* reserved protocol */
        VIEW_INIT(SIGNATURE "\x21\x11\x00\x0b" IPV4_BLOCK), /* block too short for its family */
        VIEW_INIT(SIGNATURE "\x21\x21\x00\x0c" IPV4_BLOCK),
        VIEW_INIT(SIGNATURE "\x21\x31\x00\x0c" IPV4_BLOCK),
        VIEW_INIT(SIGNATURE "\x21\x11\x00\x0e" IPV4_BLOCK "\x04\x00"), /* half a TLV */
        VIEW_INIT(SIGNATURE "\x21\x11\x00\x10" IPV4_BLOCK "\x04\x00\x02x"), /* TLV too long */
        VIEW_INIT(SIGNATURE "\x21\x11\x02\x19" IPV4_BLOCK), /* 537 bytes announced */
        VIEW_INIT(SIGNATURE "\x20\x00\xff\xff"),
    };

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        expect_any_split(wrong[i], PROXY_PROTOCOL_FAULT);
    }
}

Test(proxy_protocol, is_decided_once_the_longest_head_is_there)
{
    char bytes[PROXY_PROTOCOL_HEAD_BYTES] = SIGNATURE "\x20\x00\x02\x18";

    expect_any_split((struct view){bytes, sizeof bytes}, PROXY_PROTOCOL_OK);
    expect_any_split((struct view){bytes, sizeof bytes - 1}, PROXY_PROTOCOL_INCOMPLETE);
}
