/* Callers in browsers (CORS): off unless `cors_origins` names their origins. */
#ifndef PODGATE_GATEWAY_CORS_H
#define PODGATE_GATEWAY_CORS_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "format/http_head.h"
#include "model/config.h"

/* Appends the fields that let a browser read the answer, when the request's Origin is one of the
 * configuration's; else only "Vary: Origin". */
void cors_append_fields(struct builder *reply, const struct config *config,
                        const struct http_head *head);

/* True when the request is a preflight (OPTIONS with Origin) of an allowed origin. */
MUST_CHECK bool cors_is_preflight(const struct config *config,
                                  const struct http_request_head *head);

/* Appends what a preflight's answer says besides cors_append_fields(). */
void cors_append_preflight(struct builder *reply, struct view allowed_methods);

#endif
