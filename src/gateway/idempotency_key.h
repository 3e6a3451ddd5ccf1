/* The Idempotency-Key that a caller gives a submit, so that it can be sent again without a second
 * job (draft-ietf-httpapi-idempotency-key-header). */
#ifndef PODGATE_GATEWAY_IDEMPOTENCY_KEY_H
#define PODGATE_GATEWAY_IDEMPOTENCY_KEY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "format/http_head.h"

enum { IDEMPOTENCY_KEY_MAXIMUM = 255 };

/* Reads the field's value: a structured string (RFC 8941 section 3.3.3) or the bare text, so that
 * `"abc"` and `abc` are the same key. 1 to 255 visible ASCII characters go to `key`, its length to
 * `*length`; false for anything else. */
MUST_CHECK bool idempotency_key_read(struct view field, char key[IDEMPOTENCY_KEY_MAXIMUM],
                                     size_t *length);

/* True when the caller says "Podgate-Resubmit: accept-duplicate": a submit whose outcome nobody
 * knows may be sent a second time under its key. */
bool idempotency_accepts_duplicate(const struct http_head *head);

#endif
