#include "build_config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "model/address.h"

static struct address_network network(struct view text)
{
    struct address_network parsed;
    enum address_result result = address_parse_network(text, &parsed);
    cr_assert_eq(result, ADDRESS_OK, "%.*s: %d", (int)text.length, text.data, result);
    return parsed;
}

static bool lies_in(struct view host, struct view text)
{
    struct address address;
    struct address_network parsed = network(text);
    cr_assert(address_parse(host, &address), "%.*s", (int)host.length, host.data);
    return address_in_network(&address, &parsed);
}

Test(address, networks_match_by_their_prefix)
{
    cr_assert(lies_in(VIEW("127.0.0.1"), VIEW("127.0.0.0/8")));
    cr_assert(lies_in(VIEW("127.255.255.255"), VIEW("127.0.0.0/8")));
    cr_assert_not(lies_in(VIEW("128.0.0.0"), VIEW("127.0.0.0/8")));
    cr_assert(lies_in(VIEW("10.1.2.3"), VIEW("10.1.2.3")));
    cr_assert_not(lies_in(VIEW("10.1.2.4"), VIEW("10.1.2.3")));
    cr_assert(lies_in(VIEW("10.1.2.5"), VIEW("10.1.2.4/31")));
    cr_assert_not(lies_in(VIEW("10.1.2.6"), VIEW("10.1.2.4/31")));
    cr_assert(lies_in(VIEW("1.2.3.4"), VIEW("0.0.0.0/0")));
    cr_assert_not(lies_in(VIEW("::1"), VIEW("0.0.0.0/0")));
    cr_assert(lies_in(VIEW("::1"), VIEW("::1/128")));
    cr_assert(lies_in(VIEW("2001:db8:7fff::1"), VIEW("2001:db8::/33")));
    cr_assert_not(lies_in(VIEW("2001:db8:8000::1"), VIEW("2001:db8::/33")));
    cr_assert(lies_in(VIEW("fe80::1"), VIEW("::/0")));
    cr_assert_not(lies_in(VIEW("1.2.3.4"), VIEW("::/0")));
}

Test(address, mapped_ipv4_counts_as_ipv4)
{
    cr_assert(lies_in(VIEW("::ffff:10.0.0.1"), VIEW("10.0.0.0/8")));
    cr_assert(lies_in(VIEW("10.0.0.1"), VIEW("::ffff:10.0.0.0/104")));
    cr_assert(lies_in(VIEW("10.0.0.1"), VIEW("::ffff:10.0.0.1")));
    struct address_network parsed;
    cr_assert_eq(address_parse_network(VIEW("::ffff:0.0.0.0/95"), &parsed), ADDRESS_PREFIX_BAD);
}

Test(address, every_prefix_matches_exactly_its_bits)
{
    for (unsigned prefix = 0; prefix <= 128; prefix++) {
        struct address_network all_zero = {.family = ADDRESS_IPV6, .prefix = (uint8_t)prefix};
        for (unsigned bit = 0; bit < 128; bit++) {
            struct address address = {.family = ADDRESS_IPV6};
            address.bytes[bit / 8] = (uint8_t)(0x80 >> bit % 8);
            cr_assert_eq(address_in_network(&address, &all_zero), bit >= prefix, "%u/%u", bit,
                         prefix);
        }
    }
}

Test(address, refuses_what_is_no_network)
{
    const struct {
        struct view text;
        enum address_result result;
    } cases[] = {
        {VIEW(""), ADDRESS_BAD},
        {VIEW("localhost"), ADDRESS_BAD},
        {VIEW("1.2.3"), ADDRESS_BAD},
        {VIEW("1.2.3.256"), ADDRESS_BAD},
        {VIEW("1.2.3.4.5"), ADDRESS_BAD},
        {VIEW(" 1.2.3.4"), ADDRESS_BAD},
        {VIEW("1.2.3.4:80"), ADDRESS_BAD},
        {VIEW("[::1]"), ADDRESS_BAD},
        {VIEW("fe80::1%eth0"), ADDRESS_BAD},
        {VIEW("1.2.3.4\0"), ADDRESS_BAD},
        {VIEW("/8"), ADDRESS_BAD},
        {VIEW("1::2::3"), ADDRESS_BAD},
        {VIEW("0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000"), ADDRESS_BAD},
        {VIEW("10.0.0.0/"), ADDRESS_PREFIX_BAD},
        {VIEW("10.0.0.0/33"), ADDRESS_PREFIX_BAD},
        {VIEW("10.0.0.0/-1"), ADDRESS_PREFIX_BAD},
        {VIEW("10.0.0.0/8 "), ADDRESS_PREFIX_BAD},
        {VIEW("10.0.0.0/0008"), ADDRESS_PREFIX_BAD},
        {VIEW("10.0.0.0/255.0.0.0"), ADDRESS_PREFIX_BAD},
        {VIEW("::/129"), ADDRESS_PREFIX_BAD},
        {VIEW("10.0.0.0/8/8"), ADDRESS_PREFIX_BAD},
        {VIEW("10.0.0.1/8"), ADDRESS_HOST_BITS_SET},
        {VIEW("10.0.0.1/31"), ADDRESS_HOST_BITS_SET},
        {VIEW("::1/127"), ADDRESS_HOST_BITS_SET},
        {VIEW("1.0.0.0/0"), ADDRESS_HOST_BITS_SET},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct address_network parsed;
        enum address_result result = address_parse_network(cases[i].text, &parsed);
        cr_assert_eq(result, cases[i].result, "case %zu: %d", i, result);
        cr_assert_gt(address_detail(result).length, 0);
    }
}

static void expect_text(const struct address *address, struct view with_port, struct view without)
{
    char text[ADDRESS_TEXT_MAXIMUM];
    cr_assert(view_equal(address_format(address, true, text), with_port));
    cr_assert(view_equal(address_format(address, false, text), without));
}

Test(address, takes_sockets_addresses_and_writes_them)
{
    struct address address;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(8080)};
    inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
    address_from_sockaddr(&address, (struct sockaddr *)&in, sizeof in);
    expect_text(&address, VIEW("127.0.0.1:8080"), VIEW("127.0.0.1"));
    address_from_sockaddr(&address, (struct sockaddr *)&in, sizeof in - 1);
    expect_text(&address, VIEW("none"), VIEW("none"));

    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(65535)};
    inet_pton(AF_INET6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &in6.sin6_addr);
    address_from_sockaddr(&address, (struct sockaddr *)&in6, sizeof in6);
    expect_text(&address, VIEW("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
                VIEW("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    inet_pton(AF_INET6, "::ffff:1.2.3.4", &in6.sin6_addr);
    in6.sin6_port = 0;
    address_from_sockaddr(&address, (struct sockaddr *)&in6, sizeof in6);
    expect_text(&address, VIEW("1.2.3.4:0"), VIEW("1.2.3.4"));

    struct sockaddr_un un = {.sun_family = AF_UNIX};
    address_from_sockaddr(&address, (struct sockaddr *)&un, sizeof(sa_family_t));
    expect_text(&address, VIEW("unix"), VIEW("unix"));
    address_from_sockaddr(&address, NULL, 0);
    expect_text(&address, VIEW("none"), VIEW("none"));
}

Test(address, writes_networks)
{
    char text[ADDRESS_TEXT_MAXIMUM];
    struct address_network parsed = network(VIEW("10.0.0.0/8"));
    cr_assert(view_equal(address_format_network(&parsed, text), VIEW("10.0.0.0/8")));
    parsed = network(VIEW("2001:db8::/32"));
    cr_assert(view_equal(address_format_network(&parsed, text), VIEW("2001:db8::/32")));
    parsed = network(VIEW("::1"));
    cr_assert(view_equal(address_format_network(&parsed, text), VIEW("::1/128")));
}

Test(address, keys_tell_peers_apart_but_not_ports_nor_one_64)
{
    struct address left;
    struct address right;
    uint8_t left_key[ADDRESS_KEY_LENGTH];
    uint8_t right_key[ADDRESS_KEY_LENGTH];
    const struct {
        struct view left;
        struct view right;
        bool same;
    } cases[] = {
        {VIEW("1.2.3.4"), VIEW("1.2.3.4"), true},
        {VIEW("1.2.3.4"), VIEW("1.2.3.5"), false},
        {VIEW("2001:db8::1"), VIEW("2001:db8::ffff:1"), true},
        {VIEW("2001:db8::1"), VIEW("2001:db8:0:1::1"), false},
        {VIEW("102:304::"), VIEW("1.2.3.4"), false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        cr_assert(address_parse(cases[i].left, &left));
        cr_assert(address_parse(cases[i].right, &right));
        right.port = 7;
        cr_assert_eq(view_equal(address_key(&left, left_key), address_key(&right, right_key)),
                     cases[i].same, "case %zu", i);
    }
}
