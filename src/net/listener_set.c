#include "build_config.h"

#include "net/listener_set.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "net/listen_socket.h"

/* Callers on a Unix socket show a key like all others; who may come near is for the directory's
 * rights to say. */
enum { CALLERS_SOCKET_MODE = 0666 };

/* One listen entry. With one socket per worker each is that worker's to close; a Unix socket is
 * closed by the last that leaves it, a passed one with the set. */
struct listening {
    const struct config_address *address;
    struct sockaddr_storage bound;
    socklen_t bound_length;
    struct listen_socket *sockets;
    size_t socket_count;
    bool shared;
    bool passed;          /* by systemd, which holds it too */
    _Atomic size_t users; /* workers that have not left a shared socket */
};

struct listener_set {
    const struct config *config;
    size_t count;
    struct listening entries[];
};

/* The address in the kernel's form, also for a Unix path. */
static socklen_t kernel_address(const struct config_address *address,
                                struct sockaddr_storage *storage)
{
    struct sockaddr_un *local = (struct sockaddr_un *)storage;

    if (address->unix_path.length == 0) {
        *storage = address->address;
        return address->address_length;
    }
    *storage = (struct sockaddr_storage){0};
    local->sun_family = AF_UNIX;
    memcpy(local->sun_path, address->unix_path.data,
           address->unix_path.length < sizeof local->sun_path ? address->unix_path.length
                                                              : sizeof local->sun_path - 1);
    return sizeof *local;
}

static int claim_passed(struct socket_passing *passed, const struct config_address *address)
{
    struct sockaddr_storage storage;
    socklen_t length = kernel_address(address, &storage);

    return passed ? socket_passing_claim_address(passed, (const struct sockaddr *)&storage, length)
                  : -1;
}

static void set_port(struct sockaddr_storage *address, const struct sockaddr_storage *from)
{
    if (address->ss_family == AF_INET) {
        ((struct sockaddr_in *)address)->sin_port = ((const struct sockaddr_in *)from)->sin_port;
    } else {
        ((struct sockaddr_in6 *)address)->sin6_port =
            ((const struct sockaddr_in6 *)from)->sin6_port;
    }
}

/* All sockets of one entry; those that were opened before a failure are closed with the set. */
static bool open_sockets(struct listening *entry, char **problem)
{
    struct config_address address = *entry->address;
    bool is_unix = address.unix_path.length > 0;
    struct listen_socket_how how = {"listen", !is_unix, CALLERS_SOCKET_MODE};

    if (!listen_socket_probe(&address, &how, problem)) {
        return false;
    }
    for (size_t i = 0; i < entry->socket_count; i++) {
        if (!listen_socket_open(&entry->sockets[i], &address, &how, problem)) {
            return false;
        }
        if (i == 0 && !is_unix) {
            /* Port 0: the others share the port that the first one was given. */
            set_port(&address.address, &entry->sockets[0].bound);
        }
    }
    entry->bound = entry->sockets[0].bound;
    entry->bound_length = entry->sockets[0].bound_length;
    return true;
}

static bool open_entry(struct listening *entry, size_t workers, struct socket_passing *passed,
                       char **problem)
{
    int given = claim_passed(passed, entry->address);
    bool shared = given >= 0 || entry->address->unix_path.length > 0;
    size_t count = shared ? 1 : workers;

    *problem = NULL;
    entry->sockets = calloc(count, sizeof *entry->sockets);
    if (!entry->sockets) {
        return false;
    }
    entry->socket_count = count;
    entry->shared = shared;
    entry->passed = given >= 0;
    atomic_init(&entry->users, workers);
    for (size_t i = 0; i < count; i++) {
        entry->sockets[i].descriptor = -1;
    }
    if (given < 0) {
        return open_sockets(entry, problem);
    }
    entry->sockets[0].descriptor = given;
    entry->bound_length = sizeof entry->bound;
    return getsockname(given, (struct sockaddr *)&entry->bound, &entry->bound_length) == 0;
}

struct listener_set *listener_set_create(const struct config *config, size_t workers,
                                         struct socket_passing *passed, char **problem)
{
    size_t count = config->listen_count;
    struct listener_set *set = calloc(1, sizeof *set + count * sizeof set->entries[0]);

    *problem = NULL;
    if (!set) {
        return NULL;
    }
    set->config = config_ref(config);
    set->count = count;
    for (size_t i = 0; i < count; i++) {
        set->entries[i].address = &config->listen[i];
        if (!open_entry(&set->entries[i], workers, passed, problem)) {
            listener_set_destroy(set);
            return NULL;
        }
    }
    return set;
}

void listener_set_destroy(struct listener_set *set)
{
    if (!set) {
        return;
    }
    for (size_t i = 0; i < set->count; i++) {
        for (size_t k = 0; k < set->entries[i].socket_count; k++) {
            listen_socket_close(&set->entries[i].sockets[k]);
        }
        free(set->entries[i].sockets);
    }
    config_unref(set->config);
    free(set);
}

size_t listener_set_count(const struct listener_set *set)
{
    return set->count;
}

const struct config_address *listener_set_entry(const struct listener_set *set, size_t index)
{
    return set->entries[index].address;
}

const struct sockaddr_storage *listener_set_address(const struct listener_set *set, size_t index,
                                                    socklen_t *length)
{
    *length = set->entries[index].bound_length;
    return &set->entries[index].bound;
}

int listener_set_descriptor(const struct listener_set *set, size_t index, size_t worker)
{
    const struct listening *entry = &set->entries[index];

    return entry->sockets[entry->shared ? 0 : worker].descriptor;
}

bool listener_set_is_own(const struct listener_set *set, size_t index)
{
    return !set->entries[index].shared;
}

void listener_set_leave(struct listener_set *set, size_t index, size_t worker)
{
    struct listening *entry = &set->entries[index];

    if (!entry->shared) {
        listen_socket_close(&entry->sockets[worker]);
    } else if (entry->passed) {
        /* To the end: libevent's changelist tells epoll of a removed event only at the next turn,
         * and a descriptor that is closed by then, while another process holds its socket, could
         * never be removed from the epoll set any more. The loop would spin on each caller that
         * comes. */
        return;
    } else if (atomic_fetch_sub(&entry->users, 1) == 1) {
        listen_socket_close(&entry->sockets[0]);
    }
}
