#include "build_config.h"

#include "process/operator.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "process/operator_private.h"

enum {
    HEAD_BYTES = 16 * 1024,
    BODY_BYTES = 64 * 1024,
    TIMEOUT_S = 60,
    SOCKET_MODE = 0660,
    GROUPS_MAXIMUM = 256,
    LIST_DEFAULT = 100,
    JSON_FLAGS = JSON_COMPACT,
};

static const char *const list_query[] = {"team", "endpoint", "cursor", "limit", NULL};
static const char *const jobs_query[] = {"team",  "endpoint", "cursor", "limit",
                                         "state", "since",    NULL};

static const struct operator_route routes[] = {
    {EVHTTP_REQ_GET, "/operator/v1/unknown", list_query, operator_list_unknown},
    {EVHTTP_REQ_POST, "/operator/v1/unknown/{}/settle", NULL, operator_settle},
    {EVHTTP_REQ_GET, "/operator/v1/unknown/{}/candidates", NULL, operator_candidates},
    {EVHTTP_REQ_GET, "/operator/v1/jobs", jobs_query, operator_list_jobs},
    {EVHTTP_REQ_GET, "/operator/v1/jobs/{}/{}", NULL, operator_get_job},
    {EVHTTP_REQ_POST, "/operator/v1/adopt", NULL, operator_adopt_job},
    {EVHTTP_REQ_GET, "/operator/v1/store", NULL, operator_show_store},
};

/* ---- the end of a request -------------------------------------------------------------------- */

/* Everything but the HTTP request, which goes with its answer. */
static void forget(struct operator_request *request)
{
    if (request->call) {
        store_cancel(request->call);
    }
    if (request->free_state) {
        request->free_state(request->state);
    }
    free(request->submit_memory);
    json_decref(request->body);
    evhttp_clear_headers(&request->query);
    *request->previous_link = request->next;
    if (request->next) {
        request->next->previous_link = request->previous_link;
    }
    free(request);
}

static void send_json(struct evhttp_request *http, int status, json_t *answer)
{
    char *text = answer ? json_dumps(answer, JSON_FLAGS) : NULL;
    struct evbuffer *body = evbuffer_new();
    struct evkeyvalq *fields = evhttp_request_get_output_headers(http);

    if (!text || !body || evbuffer_add_printf(body, "%s\n", text) < 0) {
        evhttp_send_error(http, HTTP_INTERNAL, NULL);
    } else {
        evhttp_add_header(fields, "Content-Type", "application/json");
        evhttp_add_header(fields, "Cache-Control", "no-store");
        evhttp_send_reply(http, status, NULL, body);
    }
    if (body) {
        evbuffer_free(body);
    }
    free(text);
    json_decref(answer);
}

void operator_reply(struct operator_request *request, json_t *answer)
{
    struct evhttp_request *http = request->http;

    forget(request);
    send_json(http, HTTP_OK, answer);
}

static json_t *problem_of(const char *code, const char *text)
{
    return json_pack("{s:s, s:s}", "code", code, "error", text);
}

void operator_refuse(struct operator_request *request, int status, const char *code,
                     const char *format, ...)
{
    struct evhttp_request *http = request->http;
    char text[512];
    va_list values;

    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    forget(request);
    send_json(http, status, problem_of(code, text));
}

/* ---- asking the store ------------------------------------------------------------------------ */

static void on_store(void *argument, const struct store_reply *reply)
{
    struct operator_request *request = argument;

    request->call = NULL;
    request->then(request, reply);
}

void operator_ask(struct operator_request *request, const struct store_question *question,
                  operator_then *then)
{
    request->then = then;
    request->call = store_ask(request->api->parts.client, question, on_store, request);
    if (!request->call) {
        operator_refuse(request, HTTP_INTERNAL, "no_memory", "out of memory");
    }
}

bool operator_refuse_failure(struct operator_request *request, const struct store_reply *reply)
{
    if (!store_failed(reply->result)) {
        return false;
    }
    operator_refuse(request, HTTP_SERVUNAVAIL, "store_failed",
                    "the store doesn't answer as it should: %s", store_result_text(reply->result));
    return true;
}

/* ---- what a request says --------------------------------------------------------------------- */

struct view operator_query(const struct operator_request *request, const char *name)
{
    return view_of_string(evhttp_find_header(&request->query, name));
}

bool operator_list_question(struct operator_request *request, struct store_question *question)
{
    struct view limit = operator_query(request, "limit");
    uint64_t number = LIST_DEFAULT;

    question->team = operator_query(request, "team");
    question->endpoint = operator_query(request, "endpoint");
    question->cursor = operator_query(request, "cursor");
    if (limit.length > 0 && (!view_parse_u64(limit, STORE_LIST_MAXIMUM, &number) || number == 0)) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_limit", "limit is a number from 1 to %d",
                        STORE_LIST_MAXIMUM);
        return false;
    }
    question->limit = (uint32_t)number;
    return true;
}

struct view operator_body_text(const struct operator_request *request, const char *name,
                               bool *wrong)
{
    const json_t *value = json_object_get(request->body, name);

    if (!value) {
        return VIEW("");
    }
    if (!json_is_string(value)) {
        *wrong = true;
        return VIEW("");
    }
    return view_make(json_string_value(value), json_string_length(value));
}

static bool is_among(const char *name, const char *const *names)
{
    for (size_t i = 0; names && names[i]; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

bool operator_body_only(struct operator_request *request, const char *const *names)
{
    const char *name;
    json_t *value;

    json_object_foreach(request->body, name, value)
    {
        if (!is_among(name, names)) {
            operator_refuse(request, HTTP_BADREQUEST, "bad_body", "unknown member \"%.64s\"", name);
            return false;
        }
    }
    return true;
}

struct log_line *operator_log(const struct operator_request *request, const char *event)
{
    struct log_line *line = log_begin(request->api->parts.log, LOG_LEVEL_INFO, event);

    log_number(line, "uid", request->peer_uid);
    return line;
}

/* ---- who may use it -------------------------------------------------------------------------- */

static bool is_in_group(int descriptor, gid_t first, gid_t wanted)
{
    gid_t groups[GROUPS_MAXIMUM];
    socklen_t length = sizeof groups;

    if (first == wanted) {
        return true;
    }
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERGROUPS, groups, &length) != 0) {
        return false;
    }
    for (size_t i = 0; i < length / sizeof groups[0]; i++) {
        if (groups[i] == wanted) {
            return true;
        }
    }
    return false;
}

/* The kernel let through whom the file's mode allows; this holds even when somebody opened the mode
 * to all. */
static bool may_use(const struct operator_api *api, struct evhttp_request *http, uid_t *uid)
{
    struct evhttp_connection *connection = evhttp_request_get_connection(http);
    int descriptor = bufferevent_getfd(evhttp_connection_get_bufferevent(connection));
    const struct sockaddr_un *name = (const void *)&api->socket.bound;
    struct ucred peer;
    socklen_t length = sizeof peer;
    struct stat file;

    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        return false;
    }
    *uid = peer.uid;
    if (peer.uid == 0 || peer.uid == geteuid()) {
        return true;
    }
    return stat(name->sun_path, &file) == 0 && is_in_group(descriptor, peer.gid, file.st_gid);
}

/* ---- routes ---------------------------------------------------------------------------------- */

/* Words are ids, so that one with anything to decode is none. */
static bool is_word(struct view word)
{
    for (size_t i = 0; i < word.length; i++) {
        char byte = word.data[i];

        if (!(byte >= '0' && byte <= '9') && !(byte >= 'a' && byte <= 'z') &&
            !(byte >= 'A' && byte <= 'Z') && byte != '-' && byte != '_') {
            return false;
        }
    }
    return word.length > 0;
}

static bool matches(const char *pattern, struct view path, struct view *words)
{
    size_t count = 0;

    for (; *pattern != '\0'; pattern++) {
        if (*pattern == '{') {
            struct view word = view_first(path, view_find_byte(path, '/'));

            if (!is_word(word) || count == OPERATOR_WORDS) {
                return false;
            }
            words[count++] = word;
            path = view_skip(path, word.length);
            pattern++; /* the other brace */
        } else if (path.length == 0 || path.data[0] != *pattern) {
            return false;
        } else {
            path = view_skip(path, 1);
        }
    }
    return path.length == 0;
}

static const struct operator_route *find_route(struct operator_request *request)
{
    struct view path =
        view_of_string(evhttp_uri_get_path(evhttp_request_get_evhttp_uri(request->http)));
    enum evhttp_cmd_type method = evhttp_request_get_command(request->http);
    const struct operator_route *other = NULL;

    for (size_t i = 0; i < ARRAY_LENGTH(routes); i++) {
        if (matches(routes[i].path, path, request->words)) {
            if (routes[i].method == method) {
                return &routes[i];
            }
            other = &routes[i];
        }
    }
    if (other) {
        const char *allowed = other->method == EVHTTP_REQ_GET ? "GET" : "POST";

        evhttp_add_header(evhttp_request_get_output_headers(request->http), "Allow", allowed);
        operator_refuse(request, HTTP_BADMETHOD, "method_not_allowed", "use %s", allowed);
    } else {
        operator_refuse(request, HTTP_NOTFOUND, "unknown_route", "there is no such route");
    }
    return NULL;
}

static bool read_query(struct operator_request *request)
{
    const char *text = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(request->http));
    const struct evkeyval *pair;

    if (!text || *text == '\0') {
        return true;
    }
    if (evhttp_parse_query_str(text, &request->query) != 0) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_query", "the query can't be read");
        return false;
    }
    for (pair = request->query.tqh_first; pair; pair = pair->next.tqe_next) {
        if (!is_among(pair->key, request->route->query)) {
            operator_refuse(request, HTTP_BADREQUEST, "bad_query", "unknown parameter \"%.64s\"",
                            pair->key);
            return false;
        }
    }
    return true;
}

static bool read_body(struct operator_request *request)
{
    struct evbuffer *input = evhttp_request_get_input_buffer(request->http);
    size_t length = evbuffer_get_length(input);
    const char *bytes = (const char *)evbuffer_pullup(input, -1);
    json_error_t error;

    if (request->route->method != EVHTTP_REQ_POST) {
        return true;
    }
    request->body = json_loadb(bytes ? bytes : "", length, JSON_REJECT_DUPLICATES, &error);
    if (!request->body || !json_is_object(request->body)) {
        operator_refuse(request, HTTP_BADREQUEST, "bad_body", "the body isn't a JSON object%s%s",
                        request->body ? "" : ": ", request->body ? "" : error.text);
        return false;
    }
    return true;
}

static void on_request(struct evhttp_request *http, void *argument)
{
    struct operator_api *api = argument;
    struct operator_request *request = calloc(1, sizeof *request);
    const struct operator_route *route;

    if (!request) {
        evhttp_send_error(http, HTTP_INTERNAL, NULL);
        return;
    }
    request->api = api;
    request->http = http;
    request->query.tqh_last = &request->query.tqh_first;
    request->next = api->requests;
    request->previous_link = &api->requests;
    if (request->next) {
        request->next->previous_link = &request->next;
    }
    api->requests = request;
    if (!may_use(api, http, &request->peer_uid)) {
        operator_refuse(request, 403, "forbidden",
                        "only root, podgate's user and the group of the socket may do that");
        return;
    }
    route = find_route(request);
    if (!route) {
        return; /* refused, and gone */
    }
    request->route = route;
    if (read_query(request) && read_body(request)) {
        route->handle(request);
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool start(struct operator_api *api, char **problem)
{
    const struct operator_parts *parts = &api->parts;
    const struct config_address address = {.text = api->config->admin_socket,
                                           .unix_path = api->config->admin_socket};
    const struct listen_socket_how how = {.option = "admin_socket", .mode = SOCKET_MODE};
    struct evconnlistener *listener;

    if (!listen_socket_open(&api->socket, &address, &how, problem)) {
        return false;
    }
    api->upstream = upstream_create(parts->loop, api->config, parts->identity, parts->budget,
                                    parts->metrics, parts->log);
    api->http = evhttp_new(loop_base(parts->loop));
    /* The descriptor stays the socket's, which also takes the file away. */
    listener = evconnlistener_new(loop_base(parts->loop), NULL, NULL, LEV_OPT_CLOSE_ON_EXEC, 0,
                                  api->socket.descriptor);
    if (!api->upstream || !api->http || !listener || !evhttp_bind_listener(api->http, listener)) {
        if (listener) {
            evconnlistener_free(listener);
        }
        return false;
    }
    evhttp_set_allowed_methods(api->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST |
                                              EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                              EVHTTP_REQ_PATCH);
    evhttp_set_max_headers_size(api->http, HEAD_BYTES);
    evhttp_set_max_body_size(api->http, BODY_BYTES);
    evhttp_set_timeout(api->http, TIMEOUT_S);
    evhttp_set_gencb(api->http, on_request, api);
    return true;
}

struct operator_api *operator_create(const struct operator_parts *parts,
                                     const struct config *config, char **problem)
{
    struct operator_api *api = calloc(1, sizeof *api);

    *problem = NULL;
    if (!api) {
        return NULL;
    }
    api->parts = *parts;
    api->config = config_ref(config);
    api->socket.descriptor = -1;
    if (config->admin_socket.length > 0 && !start(api, problem)) {
        operator_destroy(api);
        return NULL;
    }
    return api;
}

void operator_adopt(struct operator_api *api, const struct config *config)
{
    if (api->upstream) {
        upstream_adopt(api->upstream, config);
    }
    config_unref(api->config);
    api->config = config_ref(config);
}

void operator_destroy(struct operator_api *api)
{
    if (!api) {
        return;
    }
    while (api->requests) {
        struct evhttp_request *http = api->requests->http;

        forget(api->requests);
        /* One whose connection broke meanwhile is nobody's any more. */
        if (!evhttp_request_get_connection(http)) {
            evhttp_request_free(http);
        }
    }
    if (api->http) {
        evhttp_free(api->http);
    }
    upstream_destroy(api->upstream);
    listen_socket_close(&api->socket);
    config_unref(api->config);
    free(api);
}
