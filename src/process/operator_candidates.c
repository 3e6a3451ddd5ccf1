#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "model/route.h"
#include "process/operator_private.h"

/* Which jobs upstream has at an endpoint and the ledger has not: one of them may be what an unknown
 * submit became. Upstream's documents name the route `/requests` and say nothing of its form; what
 * others read of it are `requests[].id` and `.status`. */

enum { LIST_MAXIMUM_BYTES = 16 * 1024 * 1024, TEXT_MAXIMUM = 128 };

struct search {
    struct operator_request *request;
    struct upstream_exchange *exchange;
    struct builder head;
    struct builder body;
    unsigned status;
    json_t *listed;   /* what upstream answered */
    json_t *requests; /* its list; borrowed */
    size_t position;  /* of the entry that the ledger is asked for */
    size_t known_count;
    json_t *candidates;
};

static void free_search(void *state)
{
    struct search *search = state;

    if (search->exchange) {
        upstream_abort(search->exchange);
    }
    builder_clear(&search->head);
    builder_clear(&search->body);
    json_decref(search->listed);
    json_decref(search->candidates);
    free(search);
}

/* ---- sifting --------------------------------------------------------------------------------- */

/* Inputs and outputs don't belong on an operator's screen: short values only. */
static json_t *brief(json_t *entry)
{
    json_t *result = json_object();
    const char *name;
    json_t *value;

    json_object_foreach(entry, name, value)
    {
        if (json_is_number(value) || json_is_boolean(value) ||
            (json_is_string(value) && json_string_length(value) <= TEXT_MAXIMUM)) {
            json_object_set(result, name, value);
        }
    }
    return result;
}

static void sift(struct search *search);

static void on_job(struct operator_request *request, const struct store_reply *reply)
{
    struct search *search = request->state;
    json_t *entry = json_array_get(search->requests, search->position);

    if (operator_refuse_failure(request, reply)) {
        return;
    }
    if (reply->result == STORE_OK) {
        search->known_count++;
    } else if (json_array_append_new(search->candidates, brief(entry)) != 0) {
        operator_refuse(request, HTTP_INTERNAL, "no_memory", "out of memory");
        return;
    }
    search->position++;
    sift(search);
}

static void finish(struct search *search)
{
    struct operator_request *request = search->request;
    json_t *candidates = json_incref(search->candidates);

    operator_reply(
        request, json_pack("{s:o, s:o, s:o, s:I, s:I}", "submit",
                           operator_json_submit(&request->submit), "candidates", candidates,
                           "endpoint", operator_json_text(request->submit.endpoint), "listed",
                           (json_int_t)search->position, "known", (json_int_t)search->known_count));
}

/* One question after the other: the list is short, and the store has better to do. */
static void sift(struct search *search)
{
    struct operator_request *request = search->request;

    for (; search->position < json_array_size(search->requests); search->position++) {
        json_t *entry = json_array_get(search->requests, search->position);
        json_t *id = json_object_get(entry, "id");
        struct view job = json_is_string(id)
                              ? view_make(json_string_value(id), json_string_length(id))
                              : VIEW("");
        const struct store_question question = {
            .operation = STORE_GET_JOB, .endpoint = request->submit.endpoint, .job = job};

        if (route_job_valid(job)) {
            operator_ask(request, &question, on_job);
            return;
        }
    }
    finish(search);
}

/* ---- upstream -------------------------------------------------------------------------------- */

static void judge(struct search *search)
{
    struct operator_request *request = search->request;
    struct view body = builder_view(&search->body);
    json_error_t error;

    if (search->status == 404 || search->status == 405 || search->status == 501) {
        operator_refuse(request, 502, "no_request_list",
                        "the upstream has no list of an endpoint's jobs (HTTP %u): look for the "
                        "job in its console",
                        search->status);
        return;
    }
    if (search->status == 401 || search->status == 403) {
        operator_refuse(request, 502, "upstream_credential",
                        "the upstream refuses podgate's key for its list of jobs (HTTP %u)",
                        search->status);
        return;
    }
    if (search->status != 200) {
        operator_refuse(request, 502, "upstream_error", "the upstream answered HTTP %u",
                        search->status);
        return;
    }
    search->listed = json_loadb(body.data ? body.data : "", body.length, 0, &error);
    search->requests = json_object_get(search->listed, "requests");
    search->candidates = json_array();
    if (!json_is_array(search->requests)) {
        operator_refuse(request, 502, "upstream_error",
                        "the upstream's list of jobs isn't one: expected {\"requests\": [...]}");
        return;
    }
    sift(search);
}

static void on_head(void *owner, UNUSED struct upstream_exchange *exchange,
                    const struct http_response_head *head)
{
    struct search *search = owner;

    search->status = head->status;
}

static void on_body(void *owner, struct upstream_exchange *exchange, struct view data, bool last)
{
    struct search *search = owner;

    builder_append(&search->body, data);
    if (search->body.length > LIST_MAXIMUM_BYTES || builder_failed(&search->body)) {
        search->exchange = NULL;
        if (!last) {
            upstream_abort(exchange);
        }
        operator_refuse(search->request, 502, "upstream_error",
                        "the upstream's list of jobs is above %d MiB", LIST_MAXIMUM_BYTES >> 20);
        return;
    }
    if (last) {
        search->exchange = NULL;
        judge(search);
    }
}

static void on_failure(void *owner, UNUSED struct upstream_exchange *exchange,
                       enum upstream_failure failure, UNUSED bool may_be_processed)
{
    struct search *search = owner;

    search->exchange = NULL;
    operator_refuse(search->request, 502, "upstream_failed", "the upstream can't be asked: %s",
                    upstream_failure_text(failure));
}

static const struct upstream_handler handler = {
    .on_head = on_head,
    .on_body = on_body,
    .on_failure = on_failure,
};

static void ask_upstream(struct operator_request *request)
{
    const struct config_upstream *upstream = &request->api->config->upstream;
    const struct route route = {.operation = ROUTE_REQUESTS, .endpoint = request->submit.endpoint};
    struct upstream_request question = {
        .resend = UPSTREAM_RESEND_READ,
        .deadlines = {.total_ms = upstream->read_timeout_ms},
    };
    struct search *search = calloc(1, sizeof *search);

    request->state = search;
    request->free_state = search ? free_search : NULL;
    if (search) {
        search->request = request;
        builder_init(&search->head, NULL, 0);
        builder_init(&search->body, NULL, 0);
        builder_append(&search->head, VIEW("GET "));
        route_append_target(&search->head, upstream->url.path, &route);
        builder_append(&search->head,
                       VIEW(" HTTP/1.1\r\nAccept: application/json\r\nVia: 1.1 podgate\r\n"));
        question.head = builder_view(&search->head);
    }
    if (search && !builder_failed(&search->head)) {
        search->exchange = upstream_send(request->api->upstream, &question, &handler, search);
    }
    if (!search || !search->exchange) {
        operator_refuse(request, HTTP_INTERNAL, "no_memory", "out of memory");
    }
}

void operator_candidates(struct operator_request *request)
{
    operator_find_submit(request, ask_upstream);
}
