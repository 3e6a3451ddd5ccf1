#include "build_config.h"

#include "gateway/idempotency_key.h"

static bool is_visible(char byte)
{
    return byte > ' ' && byte <= '~';
}

bool idempotency_key_read(struct view field, char key[IDEMPOTENCY_KEY_MAXIMUM], size_t *length)
{
    bool quoted = field.length > 0 && field.data[0] == '"';
    size_t at = quoted ? 1 : 0;
    size_t end = field.length;
    size_t count = 0;

    if (quoted) {
        if (field.length < 2 || field.data[field.length - 1] != '"') {
            return false;
        }
        end--;
    }
    for (; at < end; at++) {
        char byte = field.data[at];

        if (quoted && byte == '\\') {
            at++;
            if (at == end || (field.data[at] != '"' && field.data[at] != '\\')) {
                return false;
            }
            byte = field.data[at];
        } else if (byte == '"' || !is_visible(byte)) {
            return false;
        }
        if (count == IDEMPOTENCY_KEY_MAXIMUM) {
            return false;
        }
        key[count++] = byte;
    }
    *length = count;
    return count > 0;
}

bool idempotency_accepts_duplicate(const struct http_head *head)
{
    for (unsigned i = 0; i < head->field_count; i++) {
        if (head->fields[i].id == HTTP_FIELD_ANY_PODGATE &&
            view_equal_ignore_case(http_head_field_name(head, i), VIEW("Podgate-Resubmit"))) {
            return view_equal_ignore_case(http_head_field_value(head, i), VIEW("accept-duplicate"));
        }
    }
    return false;
}
