#include "build_config.h"

#include "net/socket_passing.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* Takes the name in front of the next colon off `names`. False when it is too long. */
static bool take_name(struct view *names, struct socket_passing_entry *entry)
{
    size_t end = view_find_byte(*names, ':');

    if (end > sizeof entry->name) {
        return false;
    }
    if (end > 0) {
        memcpy(entry->name, names->data, end);
    }
    entry->name_length = end;
    *names = view_skip(*names, end + 1);
    return true;
}

bool socket_passing_parse(const char *pid_text, const char *count_text, const char *names_text,
                          pid_t pid, struct socket_passing *passed, const char **problem)
{
    struct view names = view_of_string(names_text);
    uint64_t wanted_pid;
    uint64_t count;

    passed->count = 0;
    *problem = NULL;
    if (!pid_text || !count_text) {
        return true;
    }
    if (!view_parse_u64(view_of_string(pid_text), INT32_MAX, &wanted_pid)) {
        *problem = "LISTEN_PID is not a process id";
        return false;
    }
    if (wanted_pid != (uint64_t)pid) {
        return true; /* meant for a parent, inherited by mistake */
    }
    if (!view_parse_u64(view_of_string(count_text), SOCKET_PASSING_MAXIMUM, &count)) {
        *problem = "LISTEN_FDS is not a number from 0 to 64";
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        struct socket_passing_entry *entry = &passed->entries[i];

        *entry = (struct socket_passing_entry){.descriptor = SOCKET_PASSING_FIRST + (int)i};
        if (names_text && names.length == 0 && i > 0 && count > 1) {
            *problem = "LISTEN_FDNAMES has fewer names than LISTEN_FDS says";
            return false;
        }
        if (!take_name(&names, entry)) {
            *problem = "LISTEN_FDNAMES has a name of more than 64 bytes";
            return false;
        }
    }
    if (names.length > 0) {
        *problem = "LISTEN_FDNAMES has more names than LISTEN_FDS says";
        return false;
    }
    passed->count = count;
    return true;
}

static bool is_listening_stream(int descriptor)
{
    int type = 0;
    int listening = 0;
    socklen_t type_length = sizeof type;
    socklen_t listening_length = sizeof listening;

    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &type_length) == 0 &&
           type == SOCK_STREAM &&
           getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &listening_length) == 0 &&
           listening != 0;
}

static bool add_flags(int descriptor)
{
    int flags = fcntl(descriptor, F_GETFL);

    return flags >= 0 && fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 &&
           fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0;
}

bool socket_passing_take(struct socket_passing *passed, const char **problem)
{
    if (!socket_passing_parse(getenv("LISTEN_PID"), getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"),
                              getpid(), passed, problem)) {
        return false;
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    for (size_t i = 0; i < passed->count; i++) {
        int descriptor = passed->entries[i].descriptor;

        if (!is_listening_stream(descriptor) || !add_flags(descriptor)) {
            *problem = "a descriptor that LISTEN_FDS counts is not a listening stream socket";
            return false;
        }
    }
    return true;
}

int socket_passing_claim_name(struct socket_passing *passed, struct view name)
{
    for (size_t i = 0; i < passed->count; i++) {
        struct socket_passing_entry *entry = &passed->entries[i];

        if (!entry->claimed && view_equal((struct view){entry->name, entry->name_length}, name)) {
            entry->claimed = true;
            return entry->descriptor;
        }
    }
    return -1;
}

enum match { MATCH_NONE, MATCH_WILDCARD, MATCH_EXACT };

static enum match match_ipv4(const struct sockaddr *bound, const struct sockaddr *wanted)
{
    struct sockaddr_in left;
    struct sockaddr_in right;

    memcpy(&left, bound, sizeof left);
    memcpy(&right, wanted, sizeof right);
    if (left.sin_port != right.sin_port) {
        return MATCH_NONE;
    }
    if (left.sin_addr.s_addr == right.sin_addr.s_addr) {
        return MATCH_EXACT;
    }
    return left.sin_addr.s_addr == htonl(INADDR_ANY) ? MATCH_WILDCARD : MATCH_NONE;
}

/* systemd's "ListenStream=8080" is the IPv6 wildcard, and takes IPv4 callers too. */
static enum match match_ipv6(const struct sockaddr *bound, const struct sockaddr *wanted)
{
    struct sockaddr_in6 left;
    struct sockaddr_in6 right;
    struct sockaddr_in right_ipv4;
    bool wildcard;

    memcpy(&left, bound, sizeof left);
    wildcard = IN6_IS_ADDR_UNSPECIFIED(&left.sin6_addr);
    if (wanted->sa_family == AF_INET) {
        memcpy(&right_ipv4, wanted, sizeof right_ipv4);
        return wildcard && left.sin6_port == right_ipv4.sin_port ? MATCH_WILDCARD : MATCH_NONE;
    }
    memcpy(&right, wanted, sizeof right);
    if (left.sin6_port != right.sin6_port) {
        return MATCH_NONE;
    }
    if (memcmp(&left.sin6_addr, &right.sin6_addr, sizeof left.sin6_addr) == 0) {
        return MATCH_EXACT;
    }
    return wildcard ? MATCH_WILDCARD : MATCH_NONE;
}

static enum match match_unix(const struct sockaddr *bound, socklen_t bound_length,
                             const struct sockaddr *wanted, socklen_t wanted_length)
{
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    struct sockaddr_un left = {0};
    struct sockaddr_un right = {0};

    if (bound_length > sizeof left || wanted_length > sizeof right || bound_length <= offset) {
        return MATCH_NONE;
    }
    memcpy(&left, bound, bound_length);
    memcpy(&right, wanted, wanted_length);
    return strncmp(left.sun_path, right.sun_path, sizeof left.sun_path) == 0 ? MATCH_EXACT
                                                                             : MATCH_NONE;
}

static enum match match_address(int descriptor, const struct sockaddr *wanted, socklen_t length)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr *bound = (struct sockaddr *)&storage;
    socklen_t bound_length = sizeof storage;

    if (getsockname(descriptor, bound, &bound_length) != 0) {
        return MATCH_NONE;
    }
    if (bound->sa_family == AF_INET && wanted->sa_family == AF_INET) {
        return match_ipv4(bound, wanted);
    }
    if (bound->sa_family == AF_INET6 &&
        (wanted->sa_family == AF_INET || wanted->sa_family == AF_INET6)) {
        return match_ipv6(bound, wanted);
    }
    if (bound->sa_family == AF_UNIX && wanted->sa_family == AF_UNIX) {
        return match_unix(bound, bound_length, wanted, length);
    }
    return MATCH_NONE;
}

int socket_passing_claim_address(struct socket_passing *passed, const struct sockaddr *address,
                                 socklen_t length)
{
    struct socket_passing_entry *best = NULL;
    enum match best_match = MATCH_NONE;

    for (size_t i = 0; i < passed->count; i++) {
        struct socket_passing_entry *entry = &passed->entries[i];
        enum match found =
            entry->claimed ? MATCH_NONE : match_address(entry->descriptor, address, length);

        if (found > best_match) {
            best = entry;
            best_match = found;
        }
    }
    if (!best) {
        return -1;
    }
    best->claimed = true;
    return best->descriptor;
}

const struct socket_passing_entry *socket_passing_unclaimed(const struct socket_passing *passed)
{
    for (size_t i = 0; i < passed->count; i++) {
        if (!passed->entries[i].claimed) {
            return &passed->entries[i];
        }
    }
    return NULL;
}
