#include "build_config.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/resolver.h"

/* A name server of the test's own, in the same loop. */

enum { TYPE_A = 1, TYPE_AAAA = 28 };

static struct loop *loop;
static int server;
static char server_text[32];
static struct event *server_event;
static unsigned questions;
static bool is_silent;      /* answers nothing */
static bool is_silent_ipv6; /* answers no question for IPv6 */
static unsigned rcode;      /* 3: no such name; 2: server failure */
static const char *ipv4[8];
static const char *ipv6[8];
static unsigned changes;
static struct resolver *resolver;
static char hosts_path[] = "/tmp/podgate-test-hosts-XXXXXX";

static void on_changed(void *argument)
{
    cr_assert_eq(argument, &changes);
    changes++;
}

static size_t put_answer(unsigned char *packet, size_t length, unsigned type, const char *text)
{
    unsigned char address[16];
    unsigned width = type == TYPE_A ? 4 : 16;
    const unsigned char head[] = {0xc0, 12, 0, (unsigned char)type, 0, 1, 0, 0, 0, 60, 0,
                                  (unsigned char)width};

    cr_assert_eq(inet_pton(type == TYPE_A ? AF_INET : AF_INET6, text, address), 1);
    memcpy(packet + length, head, sizeof head);
    memcpy(packet + length + sizeof head, address, width);
    return length + sizeof head + width;
}

/* Answers with the question repeated (evdns mixes letter cases and wants them back). */
static void on_question(evutil_socket_t descriptor, UNUSED short what, UNUSED void *argument)
{
    unsigned char packet[1500];
    struct sockaddr_storage from;
    socklen_t from_length = sizeof from;
    ssize_t received = recvfrom((int)descriptor, packet, 512, 0, (struct sockaddr *)&from,
                                &from_length);
    size_t length = 12;
    unsigned type;
    const char **addresses;
    unsigned count = 0;

    cr_assert_gt(received, 12);
    while (packet[length] != 0) {
        length += packet[length] + 1u;
    }
    type = (unsigned)packet[length + 1] << 8 | packet[length + 2];
    length += 5;
    questions++;
    if (is_silent || (is_silent_ipv6 && type == TYPE_AAAA)) {
        return;
    }
    addresses = type == TYPE_A ? ipv4 : ipv6;
    for (unsigned i = 0; i < 8 && addresses[i] && rcode == 0; i++) {
        length = put_answer(packet, length, type, addresses[i]);
        count++;
    }
    packet[2] = 0x81;
    packet[3] = (unsigned char)(0x80 | rcode);
    packet[6] = 0;
    packet[7] = (unsigned char)count;
    memset(packet + 8, 0, 4);
    sendto((int)descriptor, packet, length, 0, (struct sockaddr *)&from, from_length);
}

static void set_up(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;

    loop = loop_create();
    cr_assert_not_null(loop);
    server = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(server, (struct sockaddr *)&address, sizeof address), 0);
    getsockname(server, (struct sockaddr *)&address, &length);
    snprintf(server_text, sizeof server_text, "127.0.0.1:%u", ntohs(address.sin_port));
    server_event = event_new(loop_base(loop), server, EV_READ | EV_PERSIST, on_question, NULL);
    event_add(server_event, NULL);
    close(mkstemp(hosts_path));
}

static void tear_down(void)
{
    resolver_destroy(resolver);
    for (int i = 0; i < 10; i++) {
        event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
    }
    event_free(server_event);
    close(server);
    unlink(hosts_path);
    loop_destroy(loop);
}

TestSuite(resolver, .init = set_up, .fini = tear_down, .timeout = 60);

static void open_resolver(const char *host, uint64_t refresh_ms)
{
    struct resolver_settings settings = {
        .host = view_of_string(host),
        .port = 443,
        .refresh_ms = refresh_ms,
        .timeout_ms = 200,
        .server = view_of_string(server_text),
        .hosts_file = hosts_path,
    };

    resolver = resolver_create(loop, &settings, on_changed, &changes, NULL);
    cr_assert_not_null(resolver);
    cr_assert_eq(changes, 0, "told from within a call");
}

#define RUN_UNTIL(condition) \
    do { \
        uint64_t limit_ms = clock_mono_ms() + 30000; \
        while (!(condition)) { \
            cr_assert(clock_mono_ms() < limit_ms, "never came true: " #condition); \
            event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK); \
        } \
    } while (0)

static void expect_address(size_t index, const char *expected)
{
    char text[INET6_ADDRSTRLEN];
    socklen_t length;
    const struct sockaddr *address = resolver_address(resolver, index, &length);

    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;

        cr_assert_eq(length, sizeof *in);
        cr_assert_eq(ntohs(in->sin_port), 443);
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;

        cr_assert_eq(length, sizeof *in6);
        cr_assert_eq(ntohs(in6->sin6_port), 443);
        inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
    }
    cr_assert_str_eq(text, expected);
}

Test(resolver, families_take_turns)
{
    ipv4[0] = "192.0.2.2";
    ipv4[1] = "192.0.2.1";
    ipv4[2] = "192.0.2.3";
    ipv6[0] = "2001:db8::1";
    open_resolver("api.example", 60000);
    cr_assert(resolver_is_asking(resolver));
    RUN_UNTIL(!resolver_is_asking(resolver) && changes > 0);
    cr_assert_eq(resolver_count(resolver), 4);
    expect_address(0, "2001:db8::1");
    expect_address(1, "192.0.2.1");
    expect_address(2, "192.0.2.2");
    expect_address(3, "192.0.2.3");
    cr_assert_eq(questions, 2);
}

Test(resolver, an_address_needs_no_question)
{
    open_resolver("127.0.0.1", 60000);
    cr_assert_eq(resolver_count(resolver), 1);
    expect_address(0, "127.0.0.1");
    cr_assert_not(resolver_is_asking(resolver));
    resolver_ask(resolver);
    cr_assert_not(resolver_is_asking(resolver));
    resolver_destroy(resolver);
    open_resolver("2001:db8::7", 60000);
    expect_address(0, "2001:db8::7");
    cr_assert_eq(questions, 0);
}

Test(resolver, the_hosts_file_goes_before_dns)
{
    FILE *file = fopen(hosts_path, "we");

    fputs("# comment\n192.0.2.9 other.example\n\n"
          "192.0.2.7\tfirst.example API.example # api.example\r\n2001:db8::9 api.example\n"
          "garbage api.example\n",
          file);
    fclose(file);
    open_resolver("api.example", 60000);
    cr_assert_eq(resolver_count(resolver), 2);
    expect_address(0, "2001:db8::9");
    expect_address(1, "192.0.2.7");
    cr_assert_eq(questions, 0);
}

Test(resolver, addresses_are_asked_for_again)
{
    ipv4[0] = "192.0.2.1";
    open_resolver("api.example", 100);
    RUN_UNTIL(resolver_count(resolver) == 1);
    expect_address(0, "192.0.2.1");
    ipv4[0] = "192.0.2.2";
    ipv4[1] = "192.0.2.3";
    RUN_UNTIL(resolver_count(resolver) == 2);
    expect_address(0, "192.0.2.2");
    expect_address(1, "192.0.2.3");
}

static void expect_kept(void)
{
    unsigned asked = questions;
    unsigned told = changes;

    RUN_UNTIL(questions >= asked + 4 && changes >= told + 2);
    cr_assert_eq(resolver_count(resolver), 1);
    expect_address(0, "192.0.2.1");
}

Test(resolver, old_addresses_are_kept_while_dns_is_silent)
{
    ipv4[0] = "192.0.2.1";
    open_resolver("api.example", 100);
    RUN_UNTIL(resolver_count(resolver) == 1 && !resolver_is_asking(resolver));
    is_silent = true;
    expect_kept();
}

Test(resolver, old_addresses_are_kept_when_dns_denies_the_name_or_fails)
{
    ipv4[0] = "192.0.2.1";
    open_resolver("api.example", 100);
    RUN_UNTIL(resolver_count(resolver) == 1 && !resolver_is_asking(resolver));
    rcode = 3;
    expect_kept();
    rcode = 2;
    expect_kept();
}

Test(resolver, an_unknown_name_is_told_as_such)
{
    rcode = 3;
    open_resolver("nowhere.example", 60000);
    RUN_UNTIL(changes == 1);
    cr_assert_eq(resolver_count(resolver), 0);
    cr_assert_not(resolver_is_asking(resolver));
    rcode = 0;
    ipv4[0] = "192.0.2.1";
    resolver_ask(resolver);
    RUN_UNTIL(resolver_count(resolver) == 1);
}

Test(resolver, a_silent_server_ends_in_a_time_out)
{
    is_silent = true;
    open_resolver("api.example", 60000);
    RUN_UNTIL(changes == 1);
    cr_assert_eq(resolver_count(resolver), 0);
}

Test(resolver, one_silent_family_does_not_hold_up_the_other)
{
    is_silent_ipv6 = true;
    ipv4[0] = "192.0.2.1";
    open_resolver("api.example", 60000);
    RUN_UNTIL(resolver_count(resolver) == 1);
    expect_address(0, "192.0.2.1");
}

Test(resolver, ending_it_while_it_asks_calls_nobody)
{
    is_silent = true;
    open_resolver("api.example", 60000);
    RUN_UNTIL(questions > 0);
    resolver_destroy(resolver);
    resolver = NULL;
    for (int i = 0; i < 50; i++) {
        event_base_loop(loop_base(loop), EVLOOP_ONCE | EVLOOP_NONBLOCK);
    }
    cr_assert_eq(changes, 0);
}
