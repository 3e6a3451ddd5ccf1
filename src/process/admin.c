#include "build_config.h"

#include "process/admin.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEAD_BYTES = 8192, BODY_BYTES = 1024, TIMEOUT_S = 10, UNIX_MODE = 0660 };

struct admin {
    struct evhttp *http;
    struct metrics *metrics;
    const struct admin_view *view;
    void *owner;
    char *unix_path; /* taken away at the end */
};

static void send_text(struct evhttp_request *request, int status, const char *type,
                      struct view text)
{
    struct evbuffer *body = evbuffer_new();

    if (!body || evbuffer_add(body, text.data, text.length) != 0) {
        evhttp_send_error(request, HTTP_INTERNAL, NULL);
    } else {
        struct evkeyvalq *fields = evhttp_request_get_output_headers(request);

        evhttp_add_header(fields, "Content-Type", type);
        evhttp_add_header(fields, "Cache-Control", "no-store");
        evhttp_send_reply(request, status, NULL, body);
    }
    if (body) {
        evbuffer_free(body);
    }
}

static bool is_read(struct evhttp_request *request)
{
    enum evhttp_cmd_type method = evhttp_request_get_command(request);

    if (method == EVHTTP_REQ_GET || method == EVHTTP_REQ_HEAD) {
        return true;
    }
    evhttp_add_header(evhttp_request_get_output_headers(request), "Allow", "GET, HEAD");
    send_text(request, HTTP_BADMETHOD, "text/plain; charset=utf-8", VIEW("use GET\n"));
    return false;
}

static void on_livez(struct evhttp_request *request, void *argument)
{
    struct admin *admin = argument;

    if (is_read(request)) {
        bool alive = admin->view->is_alive(admin->owner);

        send_text(request, alive ? HTTP_OK : HTTP_SERVUNAVAIL, "text/plain; charset=utf-8",
                  alive ? VIEW("ok\n") : VIEW("a worker's loop is stuck\n"));
    }
}

static void on_readyz(struct evhttp_request *request, void *argument)
{
    struct admin *admin = argument;

    if (is_read(request)) {
        bool ready = admin->view->is_ready(admin->owner);

        send_text(request, ready ? HTTP_OK : HTTP_SERVUNAVAIL, "text/plain; charset=utf-8",
                  ready ? VIEW("ok\n") : VIEW("not serving\n"));
    }
}

static void on_metrics(struct evhttp_request *request, void *argument)
{
    struct admin *admin = argument;
    const char *accept = evhttp_find_header(evhttp_request_get_input_headers(request), "Accept");
    bool openmetrics = accept && strstr(accept, "application/openmetrics-text");
    struct builder text;

    if (!is_read(request)) {
        return;
    }
    builder_init(&text, NULL, 0);
    if (!openmetrics) {
        admin->view->append_metrics(admin->owner, &text);
    }
    metrics_render(admin->metrics, &text, openmetrics);
    if (builder_failed(&text)) {
        evhttp_send_error(request, HTTP_INTERNAL, NULL);
    } else {
        send_text(request, HTTP_OK,
                  openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                              : "text/plain; version=0.0.4; charset=utf-8",
                  builder_view(&text));
    }
    builder_clear(&text);
}

static void on_other(struct evhttp_request *request, void *argument)
{
    (void)argument;
    send_text(request, HTTP_NOTFOUND, "text/plain; charset=utf-8",
              VIEW("There are /metrics, /livez and /readyz.\n"));
}

static void explain(char **problem, const struct config_address *address, const char *what)
{
    if (asprintf(problem, "admin_listen \"%.*s\": %s", (int)address->text.length,
                 address->text.data, what) < 0) {
        *problem = NULL;
    }
}

/* A socket file that nobody answers on is what a killed podgate left behind. */
static bool remove_stale_socket(const struct sockaddr_un *name)
{
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool stale;

    if (probe < 0) {
        return false;
    }
    stale =
        connect(probe, (const struct sockaddr *)name, sizeof *name) != 0 && errno == ECONNREFUSED;
    close(probe);
    return stale && unlink(name->sun_path) == 0;
}

static int listen_unix(struct admin *admin, const struct config_address *address)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool bound;

    if (descriptor < 0 || address->unix_path.length >= sizeof name.sun_path) {
        errno = descriptor < 0 ? errno : ENAMETOOLONG;
        goto fail;
    }
    memcpy(name.sun_path, address->unix_path.data, address->unix_path.length);
    bound = bind(descriptor, (const struct sockaddr *)&name, sizeof name) == 0;
    if (!bound && errno == EADDRINUSE && remove_stale_socket(&name)) {
        bound = bind(descriptor, (const struct sockaddr *)&name, sizeof name) == 0;
    }
    if (!bound || chmod(name.sun_path, UNIX_MODE) != 0 || listen(descriptor, 64) != 0) {
        goto fail;
    }
    admin->unix_path = strdup(name.sun_path);
    return descriptor;
fail:
    if (descriptor >= 0) {
        int error = errno;

        close(descriptor);
        errno = error;
    }
    return -1;
}

static int listen_tcp(const struct config_address *address)
{
    int family = address->address.ss_family;
    int one = 1;
    int descriptor = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (descriptor < 0) {
        return -1;
    }
    if (setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(descriptor, (const struct sockaddr *)&address->address, address->address_length) !=
            0 ||
        listen(descriptor, 64) != 0) {
        int error = errno;

        close(descriptor);
        errno = error;
        return -1;
    }
    return descriptor;
}

static bool start(struct admin *admin, struct loop *loop, const struct config_address *address)
{
    int descriptor =
        address->unix_path.length > 0 ? listen_unix(admin, address) : listen_tcp(address);

    if (descriptor < 0) {
        return false;
    }
    admin->http = evhttp_new(loop_base(loop));
    if (!admin->http || evhttp_accept_socket(admin->http, descriptor) != 0) {
        close(descriptor);
        errno = ENOMEM;
        return false;
    }
    evhttp_set_max_headers_size(admin->http, HEAD_BYTES);
    evhttp_set_max_body_size(admin->http, BODY_BYTES);
    evhttp_set_timeout(admin->http, TIMEOUT_S);
    evhttp_set_gencb(admin->http, on_other, admin);
    return evhttp_set_cb(admin->http, "/metrics", on_metrics, admin) == 0 &&
           evhttp_set_cb(admin->http, "/livez", on_livez, admin) == 0 &&
           evhttp_set_cb(admin->http, "/readyz", on_readyz, admin) == 0;
}

struct admin *admin_create(struct loop *loop, const struct config *config, struct metrics *metrics,
                           const struct admin_view *view, void *owner, char **problem)
{
    const struct config_address *address = &config->admin_listen;
    struct admin *admin = calloc(1, sizeof *admin);

    *problem = NULL;
    if (!admin) {
        return NULL;
    }
    admin->metrics = metrics;
    admin->view = view;
    admin->owner = owner;
    if ((address->address_length > 0 || address->unix_path.length > 0) &&
        !start(admin, loop, address)) {
        explain(problem, address, strerror(errno));
        admin_destroy(admin);
        return NULL;
    }
    return admin;
}

void admin_destroy(struct admin *admin)
{
    if (!admin) {
        return;
    }
    if (admin->http) {
        evhttp_free(admin->http);
    }
    if (admin->unix_path) {
        unlink(admin->unix_path);
        free(admin->unix_path);
    }
    free(admin);
}
