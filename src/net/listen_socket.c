#include "build_config.h"

#include "net/listen_socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* More than the kernel's default, which clamps it (net.core.somaxconn). */
enum { BACKLOG = 4096 };

static const char *advice(int error, const struct config_address *address)
{
    bool is_unix = address->unix_path.length > 0;

    switch (error) {
    case EADDRINUSE:
        return is_unix
                   ? "another process answers on this socket; stop it or choose another path"
                   : "another process listens there (`ss -ltnp` shows which); stop it or choose "
                     "another port";
    case EACCES:
    case EPERM:
        return is_unix
                   ? "podgate's user may not write to this directory"
                   : "ports below 1024 need systemd's socket unit, CAP_NET_BIND_SERVICE or root";
    case EADDRNOTAVAIL: return "no interface of this machine has this address";
    case EAFNOSUPPORT: return "this machine has no such addresses (is IPv6 switched off?)";
    case ENOENT: return "the directory must be there before podgate starts";
    case ENOTSOCK: return "a file that is not a socket is there; remove it or choose another path";
    case ENAMETOOLONG: return "the path of a Unix socket has 107 bytes at the most";
    case EMFILE:
    case ENFILE: return "too many descriptors are open; raise LimitNOFILE (ulimit -n)";
    default: return "the system refused";
    }
}

static bool fail(int error, const struct config_address *address,
                 const struct listen_socket_how *how, char **problem)
{
    const char *description = strerrordesc_np(error);

    if (asprintf(problem, "%s \"%.*s\": %s: %s", how->option, (int)address->text.length,
                 address->text.data, description ? description : "unknown error",
                 advice(error, address)) < 0) {
        *problem = NULL;
    }
    return false;
}

static void start_closed(struct listen_socket *self)
{
    *self = (struct listen_socket){.descriptor = -1};
}

static bool set_option(int descriptor, int level, int option)
{
    int on = 1;

    return setsockopt(descriptor, level, option, &on, sizeof on) == 0;
}

/* A bound TCP socket, or -1 with errno. */
static int bind_tcp(const struct config_address *address, bool share_port)
{
    const struct sockaddr *wanted = (const struct sockaddr *)&address->address;
    int descriptor = socket(wanted->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error;

    if (descriptor < 0) {
        return -1;
    }
    /* SO_REUSEADDR only lets the port be had while old connections linger in TIME_WAIT. */
    if (set_option(descriptor, SOL_SOCKET, SO_REUSEADDR) &&
        (!share_port || set_option(descriptor, SOL_SOCKET, SO_REUSEPORT)) &&
        (wanted->sa_family != AF_INET6 || set_option(descriptor, IPPROTO_IPV6, IPV6_V6ONLY)) &&
        bind(descriptor, wanted, address->address_length) == 0) {
        return descriptor;
    }
    error = errno;
    close(descriptor);
    errno = error;
    return -1;
}

static bool finish(struct listen_socket *self)
{
    self->bound_length = sizeof self->bound;
    /* The name first: a file that can't be listened on is taken away by it. */
    return getsockname(self->descriptor, (struct sockaddr *)&self->bound, &self->bound_length) ==
               0 &&
           listen(self->descriptor, BACKLOG) == 0;
}

/* ---- Unix sockets --------------------------------------------------------------------------- */

static bool make_unix_address(const struct config_address *address, struct sockaddr_un *made)
{
    *made = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (address->unix_path.length >= sizeof made->sun_path) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(made->sun_path, address->unix_path.data, address->unix_path.length);
    return true;
}

/* 0: nobody answers there; else the errno value that says why the path can't be had. */
static int ask_who_answers(const struct sockaddr_un *address)
{
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error = 0;

    if (descriptor < 0) {
        return errno;
    }
    if (connect(descriptor, (const struct sockaddr *)address, sizeof *address) == 0) {
        error = EADDRINUSE;
    } else if (errno == EAGAIN || errno == EINPROGRESS || errno == EPROTOTYPE) {
        error = EADDRINUSE; /* somebody listens, with a full queue or another type */
    } else if (errno != ECONNREFUSED && errno != ENOENT) {
        error = errno;
    }
    close(descriptor);
    return error;
}

/* Takes away the file of a process that ended without doing so. False with errno. */
static bool remove_stale_file(const struct sockaddr_un *address)
{
    struct stat status;

    if (lstat(address->sun_path, &status) != 0) {
        return errno == ENOENT;
    }
    if (!S_ISSOCK(status.st_mode)) {
        errno = ENOTSOCK;
        return false;
    }
    errno = ask_who_answers(address);
    return errno == 0 && (unlink(address->sun_path) == 0 || errno == ENOENT);
}

static bool open_unix(struct listen_socket *self, const struct config_address *address, mode_t mode)
{
    struct sockaddr_un wanted;
    struct stat status;
    mode_t before;
    int error;

    if (!make_unix_address(address, &wanted) || !remove_stale_file(&wanted)) {
        return false;
    }
    self->descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (self->descriptor < 0) {
        return false;
    }
    /* By the umask, so that there is no moment in which the file has wider rights. */
    before = umask((mode_t)(~mode & 0777));
    error =
        bind(self->descriptor, (const struct sockaddr *)&wanted, sizeof wanted) == 0 ? 0 : errno;
    umask(before);
    errno = error;
    if (error != 0 || lstat(wanted.sun_path, &status) != 0) {
        return false;
    }
    self->has_file = true;
    self->file_device = status.st_dev;
    self->file_inode = status.st_ino;
    return finish(self);
}

static void remove_own_file(const struct listen_socket *self)
{
    const struct sockaddr_un *bound = (const struct sockaddr_un *)&self->bound;
    struct stat status;

    if (self->has_file && self->bound.ss_family == AF_UNIX &&
        lstat(bound->sun_path, &status) == 0 && status.st_dev == self->file_device &&
        status.st_ino == self->file_inode) {
        unlink(bound->sun_path);
    }
}

/* ---- both ----------------------------------------------------------------------------------- */

bool listen_socket_open(struct listen_socket *self, const struct config_address *address,
                        const struct listen_socket_how *how, char **problem)
{
    bool opened;

    *problem = NULL;
    start_closed(self);
    if (address->unix_path.length > 0) {
        opened = open_unix(self, address, how->mode);
    } else {
        self->descriptor = bind_tcp(address, how->share_port);
        opened = self->descriptor >= 0 && finish(self);
    }
    if (!opened) {
        int error = errno;

        listen_socket_close(self);
        return fail(error, address, how, problem);
    }
    return true;
}

bool listen_socket_probe(const struct config_address *address, const struct listen_socket_how *how,
                         char **problem)
{
    int descriptor;

    *problem = NULL;
    if (address->unix_path.length > 0) {
        return true; /* a Unix path is never shared: opening it notices */
    }
    descriptor = bind_tcp(address, false);
    if (descriptor < 0) {
        return fail(errno, address, how, problem);
    }
    close(descriptor);
    return true;
}

void listen_socket_close(struct listen_socket *self)
{
    if (self->descriptor >= 0) {
        remove_own_file(self);
        close(self->descriptor);
    }
    start_closed(self);
}
