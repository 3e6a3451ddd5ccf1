#include "build_config.h"

#include "process/admin.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>

#include "net/listen_socket.h"

enum { HEAD_BYTES = 8192, BODY_BYTES = 1024, TIMEOUT_S = 10, SOCKET_MODE = 0660 };

struct admin {
    struct evhttp *http;
    struct metrics *metrics;
    const struct admin_view *view;
    void *owner;
    struct listen_socket socket;
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
    admin->view->count_parts(admin->owner);
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

static bool start(struct admin *admin, struct loop *loop, const struct config_address *address,
                  char **problem)
{
    const struct listen_socket_how how = {.option = "admin_listen", .mode = SOCKET_MODE};
    struct evconnlistener *listener;

    if (!listen_socket_open(&admin->socket, address, &how, problem)) {
        return false;
    }
    admin->http = evhttp_new(loop_base(loop));
    /* The descriptor stays the socket's, which also takes a Unix socket's file away. */
    listener = evconnlistener_new(loop_base(loop), NULL, NULL, LEV_OPT_CLOSE_ON_EXEC, 0,
                                  admin->socket.descriptor);
    if (!admin->http || !listener || !evhttp_bind_listener(admin->http, listener)) {
        if (listener) {
            evconnlistener_free(listener);
        }
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
    admin->socket.descriptor = -1;
    if ((address->address_length > 0 || address->unix_path.length > 0) &&
        !start(admin, loop, address, problem)) {
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
    listen_socket_close(&admin->socket);
    free(admin);
}
