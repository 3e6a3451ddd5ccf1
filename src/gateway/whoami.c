#include "build_config.h"

#include "gateway/whoami.h"

#include <stdatomic.h>

#include "base/clock.h"
#include "format/json_text.h"
#include "model/key_state.h"
#include "model/limit.h"

static void append_names(struct builder *text, const struct config_texts *names)
{
    builder_append_byte(text, '[');
    for (size_t i = 0; i < names->count; i++) {
        if (i > 0) {
            builder_append_byte(text, ',');
        }
        json_text_append_string(text, names->items[i]);
    }
    builder_append_byte(text, ']');
}

static void append_operations(struct builder *text, uint32_t operations)
{
    bool first = true;

    builder_append_byte(text, '[');
    for (unsigned bit = 0; bit < CONFIG_OPERATIONS; bit++) {
        if (operations & (1u << bit)) {
            builder_append(text, first ? VIEW("\"") : VIEW(",\""));
            builder_append(
                text, view_of_string(config_operation_text((enum config_operation)(1u << bit))));
            builder_append_byte(text, '"');
            first = false;
        }
    }
    builder_append_byte(text, ']');
}

static void append_rates(struct builder *text, const struct config_key *key, uint64_t now_ns)
{
    builder_append_byte(text, '[');
    for (size_t i = 0; i < key->rate_count; i++) {
        uint64_t state =
            atomic_load_explicit(&key->state->limits[i].arrival_ns, memory_order_relaxed);

        builder_append(text, i > 0 ? VIEW(",{\"burst\":") : VIEW("{\"burst\":"));
        builder_append_u64(text, key->rates[i].burst);
        builder_append(text, VIEW(",\"interval_ns\":"));
        builder_append_u64(text, key->rates[i].interval_ns);
        builder_append(text, VIEW(",\"remaining\":"));
        builder_append_u64(text, limit_remaining(&key->rates[i], state, now_ns));
        builder_append_byte(text, '}');
    }
    builder_append_byte(text, ']');
}

static void append_expiry(struct builder *text, const struct config_key *key)
{
    char time[CLOCK_RFC3339_LENGTH];

    if (key->expires_wall_ms == 0) {
        builder_append(text, VIEW("null"));
        return;
    }
    clock_format_rfc3339(key->expires_wall_ms, time);
    builder_append_byte(text, '"');
    builder_append(text, view_make(time, sizeof time));
    builder_append_byte(text, '"');
}

void whoami_start(struct request *request)
{
    const struct config_key *key = request->ticket.key;
    struct builder *text = &request->sent_head; /* unused, since nothing goes up */

    builder_append(text, VIEW("{\"team\":"));
    json_text_append_string(text, key->team->name);
    builder_append(text, VIEW(",\"key\":"));
    json_text_append_string(text, key->id);
    builder_append(text, VIEW(",\"operations\":"));
    append_operations(text, key->operations);
    builder_append(text, VIEW(",\"endpoints\":"));
    append_names(text, key->endpoints ? key->endpoints : &key->team->endpoints);
    builder_append(text, VIEW(",\"expires\":"));
    append_expiry(text, key);
    builder_append(text, VIEW(",\"rates\":"));
    append_rates(text, key, request->started_us * 1000);
    builder_append(text, VIEW(",\"concurrency\":{\"limit\":"));
    builder_append_u64(text, key->concurrency);
    builder_append(text, VIEW(",\"in_flight\":"));
    builder_append_u64(text, atomic_load_explicit(&key->state->in_flight, memory_order_relaxed));
    builder_append(text, VIEW("}}"));
    if (builder_failed(text)) {
        request_refuse(request, PROBLEM_OVERLOADED, 1);
        return;
    }
    request_begin_reply(request, 200);
    builder_append(&request->reply, VIEW("Content-Type: application/json\r\n"
                                         "Podgate-Origin: gateway\r\n"
                                         "Cache-Control: no-store\r\n"));
    request_send_reply(request, builder_view(text), NULL);
    request_move_work(request, WORK_DONE);
}
