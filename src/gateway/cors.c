#include "build_config.h"

#include "gateway/cors.h"

#include "format/http_fields.h"

static bool origin_allowed(const struct config *config, struct view origin)
{
    for (size_t i = 0; i < config->cors_origins.count; i++) {
        if (view_equal(config->cors_origins.items[i], VIEW("*")) ||
            view_equal(config->cors_origins.items[i], origin)) {
            return true;
        }
    }
    return false;
}

void cors_append_fields(struct builder *reply, const struct config *config,
                        const struct http_head *head)
{
    struct view origin = http_head_value(head, HTTP_FIELD_ORIGIN);

    builder_append(reply, VIEW("Vary: Origin\r\n"));
    if (origin.length > 0 && origin_allowed(config, origin)) {
        http_field_append(reply, VIEW("Access-Control-Allow-Origin"), origin);
        builder_append(reply, VIEW("Access-Control-Expose-Headers: Accept-Ranges, Age, "
                                   "Cache-Status, Content-Range, ETag, Podgate-Origin, "
                                   "Podgate-Warning, Repr-Digest, Retry-After, X-Request-Id\r\n"));
    }
}

bool cors_is_preflight(const struct config *config, const struct http_request_head *head)
{
    struct view origin = http_head_value(&head->head, HTTP_FIELD_ORIGIN);

    return config->cors_origins.count > 0 && head->method == HTTP_METHOD_OPTIONS &&
           origin.length > 0 && origin_allowed(config, origin);
}

void cors_append_preflight(struct builder *reply, struct view allowed_methods)
{
    http_field_append(reply, VIEW("Access-Control-Allow-Methods"), allowed_methods);
    builder_append(reply, VIEW("Access-Control-Allow-Headers: Authorization, Content-Type, "
                               "If-None-Match, If-Range, Range, X-Request-Id, traceparent, tracestate\r\n"
                               "Access-Control-Max-Age: 600\r\n"));
}
