#include "build_config.h"

#include "net/resolver.h"

#include <arpa/inet.h>
#include <event2/dns.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Each question gets an evdns base of its own: so it goes out from a new random port, and a changed
 * /etc/resolv.conf or /etc/hosts is seen without a restart. These two local files are the only ones
 * that a worker reads; that takes some 50 us every half minute. */

enum {
    PARTNER_WAIT_MS = 250, /* for the other family, once one has answered */
    HOSTS_BYTES_MAXIMUM = 256 * 1024,
    TEXT_BYTES = 32,
};

/* Addresses of one family. */
struct found {
    size_t count;
    unsigned char bytes[RESOLVER_ADDRESSES_MAXIMUM][16];
};

/* The half of a question that is for one family. */
struct half {
    struct question *question;
    struct evdns_request *request; /* NULL: not under way */
};

/* One question under way. Outlives its resolver when libevent still has to call back. */
struct question {
    struct resolver *resolver; /* NULL: nobody wants the answer any more */
    struct evdns_base *dns;
    struct half halves[2];
    struct found ipv4;
    struct found ipv6;
    int error; /* of evdns, the first one */
};

struct resolver {
    struct loop *loop;
    struct log_ring *log;
    resolver_changed *on_changed;
    void *argument;
    char *host;
    char *server;
    char *hosts_file;
    uint16_t port;
    uint64_t timeout_ms;
    struct event *refresh_event;
    struct event *partner_event;
    struct event *changed_event;
    struct question *question;
    bool is_address;
    bool is_failing; /* as last logged */
    size_t count;
    struct sockaddr_storage addresses[RESOLVER_ADDRESSES_MAXIMUM];
};

/* ---- what was found */

static void set_address(struct sockaddr_storage *storage, int family, const unsigned char *bytes,
                        uint16_t port)
{
    *storage = (struct sockaddr_storage){0};
    if (family == AF_INET) {
        struct sockaddr_in *address = (struct sockaddr_in *)storage;

        address->sin_family = AF_INET;
        address->sin_port = htons(port);
        memcpy(&address->sin_addr, bytes, sizeof address->sin_addr);
    } else {
        struct sockaddr_in6 *address = (struct sockaddr_in6 *)storage;

        address->sin6_family = AF_INET6;
        address->sin6_port = htons(port);
        memcpy(&address->sin6_addr, bytes, sizeof address->sin6_addr);
    }
}

static int compare_addresses(const void *left, const void *right)
{
    return memcmp(left, right, 16);
}

/* Takes up what was found, the families in turn. Sorted, so that the order doesn't change with
 * every answer of a server that rotates them: the pool remembers which place in it worked. */
static void publish(struct resolver *resolver, struct found *ipv4, struct found *ipv6)
{
    size_t count = 0;

    qsort(ipv4->bytes, ipv4->count, sizeof ipv4->bytes[0], compare_addresses);
    qsort(ipv6->bytes, ipv6->count, sizeof ipv6->bytes[0], compare_addresses);
    for (size_t i = 0; i < RESOLVER_ADDRESSES_MAXIMUM; i++) {
        if (i < ipv6->count && count < RESOLVER_ADDRESSES_MAXIMUM) {
            set_address(&resolver->addresses[count++], AF_INET6, ipv6->bytes[i], resolver->port);
        }
        if (i < ipv4->count && count < RESOLVER_ADDRESSES_MAXIMUM) {
            set_address(&resolver->addresses[count++], AF_INET, ipv4->bytes[i], resolver->port);
        }
    }
    resolver->count = count;
}

static void add_found(struct found *found, const void *bytes, size_t width)
{
    if (found->count < RESOLVER_ADDRESSES_MAXIMUM) {
        memset(found->bytes[found->count], 0, sizeof found->bytes[0]);
        memcpy(found->bytes[found->count++], bytes, width);
    }
}

/* Takes a numeric address; false when `text` is none. */
static bool add_numeric(const char *text, struct found *ipv4, struct found *ipv6)
{
    unsigned char bytes[16];

    if (inet_pton(AF_INET, text, bytes) == 1) {
        add_found(ipv4, bytes, 4);
        return true;
    }
    if (inet_pton(AF_INET6, text, bytes) == 1) {
        add_found(ipv6, bytes, 16);
        return true;
    }
    return false;
}

/* ---- /etc/hosts */

static char *read_file(const char *path, size_t *length)
{
    char *bytes = malloc(HOSTS_BYTES_MAXIMUM);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t count = -1;

    if (bytes && descriptor >= 0) {
        count = read(descriptor, bytes, HOSTS_BYTES_MAXIMUM);
    }
    if (descriptor >= 0) {
        (void)close(descriptor);
    }
    if (count < 0) {
        free(bytes);
        return NULL;
    }
    *length = (size_t)count;
    return bytes;
}

static struct view next_word(struct view *line)
{
    struct view word;
    size_t end = 0;

    *line = view_trim(*line);
    while (end < line->length && line->data[end] != ' ' && line->data[end] != '\t') {
        end++;
    }
    word = view_first(*line, end);
    *line = view_skip(*line, end);
    return word;
}

static void take_hosts_line(struct view line, struct view host, struct found *ipv4,
                            struct found *ipv6)
{
    char text[INET6_ADDRSTRLEN];
    struct view address;
    struct view name;

    line = view_first(line, view_find_byte(line, '#'));
    line = view_first(line, view_find_byte(line, '\r'));
    address = next_word(&line);
    if (address.length == 0 || address.length >= sizeof text) {
        return;
    }
    memcpy(text, address.data, address.length);
    text[address.length] = '\0';
    while ((name = next_word(&line)).length > 0) {
        if (view_equal_ignore_case(name, host)) {
            (void)add_numeric(text, ipv4, ipv6);
            return;
        }
    }
}

/* True when the hosts file has the name. */
static bool look_into_hosts(struct resolver *resolver)
{
    struct found ipv4 = {.count = 0};
    struct found ipv6 = {.count = 0};
    size_t length = 0;
    char *bytes = read_file(resolver->hosts_file ? resolver->hosts_file : "/etc/hosts", &length);
    struct view rest = {bytes, bytes ? length : 0};

    while (rest.length > 0) {
        size_t end = view_find_byte(rest, '\n');

        take_hosts_line(view_first(rest, end), view_of_string(resolver->host), &ipv4, &ipv6);
        rest = view_skip(rest, end + 1);
    }
    free(bytes);
    if (ipv4.count + ipv6.count == 0) {
        return false;
    }
    publish(resolver, &ipv4, &ipv6);
    return true;
}

/* ---- DNS */

static void log_outcome(struct resolver *resolver, bool failed, const char *why)
{
    struct log_line *line;

    if (failed == resolver->is_failing) {
        return; /* one line a change */
    }
    resolver->is_failing = failed;
    line = log_begin(resolver->log, failed ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
                     failed ? "dns_failed" : "dns_recovered");
    log_string(line, "name", resolver->host);
    log_string(line, "reason", why);
    log_number(line, "addresses_kept", failed ? resolver->count : 0);
    log_end(line);
}

static void free_question(struct question *question)
{
    evdns_base_free(question->dns, 0);
    free(question);
}

static bool is_outstanding(const struct question *question)
{
    return question->halves[0].request || question->halves[1].request;
}

static void end_question(struct resolver *resolver, struct question *question)
{
    if (question->ipv4.count + question->ipv6.count > 0) {
        publish(resolver, &question->ipv4, &question->ipv6);
        log_outcome(resolver, false, NULL);
    } else {
        /* What was found before stays: an address without DNS is better than none. */
        log_outcome(resolver, true, evdns_err_to_string(question->error));
    }
    resolver->question = NULL;
    event_del(resolver->partner_event);
    free_question(question);
    event_active(resolver->changed_event, EV_TIMEOUT, 1);
}

static void on_answer(int result, char type, int count, UNUSED int ttl, void *addresses,
                      void *argument)
{
    static const struct timeval partner_wait = {0, PARTNER_WAIT_MS * 1000};
    struct half *half = argument;
    struct question *question = half->question;
    struct resolver *resolver = question->resolver;

    half->request = NULL; /* libevent frees it when this returns */
    if (!resolver) {
        if (!is_outstanding(question)) {
            free_question(question);
        }
        return;
    }
    if (result == DNS_ERR_NONE) {
        const unsigned char *bytes = addresses;
        size_t width = type == DNS_IPv6_AAAA ? 16 : 4;

        for (int i = 0; i < count; i++) {
            add_found(width == 16 ? &question->ipv6 : &question->ipv4, bytes + (size_t)i * width,
                      width);
        }
    } else if (question->error == 0) {
        question->error = result;
    }
    if (!is_outstanding(question)) {
        end_question(resolver, question);
    } else if (result == DNS_ERR_NONE && count > 0) {
        event_add(resolver->partner_event, &partner_wait);
    }
}

/* One family has answered and the other keeps silent: go on with what is there. */
static void on_partner_late(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct resolver *resolver = argument;
    struct question *question = resolver->question;

    if (question && question->ipv4.count + question->ipv6.count > 0) {
        publish(resolver, &question->ipv4, &question->ipv6);
        resolver->on_changed(resolver->argument);
    }
}

static struct evdns_base *create_dns(const struct resolver *resolver)
{
    struct event_base *base = loop_base(resolver->loop);
    struct evdns_base *dns =
        evdns_base_new(base, resolver->server ? EVDNS_BASE_NAMESERVERS_NO_DEFAULT : 0);
    char timeout[TEXT_BYTES];
    int length = snprintf(timeout, sizeof timeout, "%llu.%03u",
                          (unsigned long long)(resolver->timeout_ms / 1000),
                          (unsigned)(resolver->timeout_ms % 1000));

    if (!dns) {
        return NULL;
    }
    if (resolver->server) {
        if (evdns_base_nameserver_ip_add(dns, resolver->server) != 0) {
            evdns_base_free(dns, 0);
            return NULL;
        }
    } else {
        /* Without a usable file evdns asks the server on this machine. */
        (void)evdns_base_resolv_conf_parse(dns, DNS_OPTION_SEARCH | DNS_OPTION_NAMESERVERS,
                                           "/etc/resolv.conf");
    }
    if (length > 0 && (size_t)length < sizeof timeout) {
        (void)evdns_base_set_option(dns, "timeout:", timeout);
    }
    (void)evdns_base_set_option(dns, "attempts:", "2");
    return dns;
}

static void start_question(struct resolver *resolver)
{
    struct question *question = calloc(1, sizeof *question);

    if (!question) {
        return;
    }
    question->dns = create_dns(resolver);
    if (!question->dns) {
        free(question);
        return;
    }
    question->halves[0].question = question;
    question->halves[1].question = question;
    question->halves[0].request =
        evdns_base_resolve_ipv6(question->dns, resolver->host, 0, on_answer, &question->halves[0]);
    question->halves[1].request =
        evdns_base_resolve_ipv4(question->dns, resolver->host, 0, on_answer, &question->halves[1]);
    if (!is_outstanding(question)) {
        free_question(question);
        return;
    }
    question->resolver = resolver;
    resolver->question = question;
}

/* ---- the resolver */

/* What evdns would write to standard error; log_outcome() says what matters, in podgate's form. */
static void drop_words(UNUSED int is_warning, UNUSED const char *words)
{
}

static void on_changed(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    struct resolver *resolver = argument;

    resolver->on_changed(resolver->argument);
}

static void on_refresh(UNUSED evutil_socket_t descriptor, UNUSED short what, void *argument)
{
    resolver_ask(argument);
}

/* Its copies and events. False without memory. */
static bool equip(struct resolver *resolver, const struct resolver_settings *settings)
{
    struct event_base *base = loop_base(resolver->loop);

    resolver->host = strndup(settings->host.data, settings->host.length);
    if (!resolver->host) {
        return false;
    }
    if (settings->server.length > 0) {
        resolver->server = strndup(settings->server.data, settings->server.length);
        if (!resolver->server) {
            return false;
        }
    }
    if (settings->hosts_file) {
        resolver->hosts_file = strdup(settings->hosts_file);
        if (!resolver->hosts_file) {
            return false;
        }
    }
    resolver->refresh_event = event_new(base, -1, EV_PERSIST, on_refresh, resolver);
    resolver->partner_event = event_new(base, -1, 0, on_partner_late, resolver);
    resolver->changed_event = event_new(base, -1, 0, on_changed, resolver);
    return resolver->refresh_event && resolver->partner_event && resolver->changed_event;
}

struct resolver *resolver_create(struct loop *loop, const struct resolver_settings *settings,
                                 resolver_changed *on_changed_function, void *argument,
                                 struct log_ring *log)
{
    struct resolver *resolver = calloc(1, sizeof *resolver);
    const struct timeval refresh = {
        .tv_sec = (time_t)(settings->refresh_ms / 1000),
        .tv_usec = (suseconds_t)(settings->refresh_ms % 1000 * 1000),
    };
    struct found ipv4 = {.count = 0};
    struct found ipv6 = {.count = 0};

    if (!resolver) {
        return NULL;
    }
    evdns_set_log_fn(drop_words); /* process-wide; the same each time */
    resolver->loop = loop;
    resolver->log = log;
    resolver->on_changed = on_changed_function;
    resolver->argument = argument;
    resolver->port = settings->port;
    resolver->timeout_ms = settings->timeout_ms > 0 ? settings->timeout_ms : 1;
    if (!equip(resolver, settings)) {
        resolver_destroy(resolver);
        return NULL;
    }
    if (add_numeric(resolver->host, &ipv4, &ipv6)) {
        resolver->is_address = true;
        publish(resolver, &ipv4, &ipv6);
        return resolver;
    }
    if (event_add(resolver->refresh_event, &refresh) != 0) {
        resolver_destroy(resolver);
        return NULL;
    }
    resolver_ask(resolver);
    return resolver;
}

/* Leaves the question to libevent, which calls back once for each request that it still has. */
static void abandon_question(struct question *question)
{
    question->resolver = NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(question->halves); i++) {
        if (question->halves[i].request) {
            evdns_cancel_request(question->dns, question->halves[i].request);
        }
    }
}

static void free_event(struct event *event)
{
    if (event) {
        event_free(event);
    }
}

void resolver_destroy(struct resolver *resolver)
{
    if (!resolver) {
        return;
    }
    if (resolver->question) {
        abandon_question(resolver->question);
    }
    free_event(resolver->refresh_event);
    free_event(resolver->partner_event);
    free_event(resolver->changed_event);
    free(resolver->host);
    free(resolver->server);
    free(resolver->hosts_file);
    free(resolver);
}

size_t resolver_count(const struct resolver *resolver)
{
    return resolver->count;
}

const struct sockaddr *resolver_address(const struct resolver *resolver, size_t index,
                                        socklen_t *length)
{
    const struct sockaddr_storage *address = &resolver->addresses[index];

    *length =
        address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    return (const struct sockaddr *)address;
}

bool resolver_is_asking(const struct resolver *resolver)
{
    return resolver->question != NULL;
}

void resolver_ask(struct resolver *resolver)
{
    if (resolver->is_address || resolver->question) {
        return;
    }
    if (look_into_hosts(resolver)) {
        log_outcome(resolver, false, NULL);
        return;
    }
    start_question(resolver);
}
