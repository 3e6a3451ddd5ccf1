#include "build_config.h"

#include "gateway/breaker.h"

#include <stdlib.h>
#include <string.h>

#include "base/table.h"
#include "model/metric_catalogue.h"

enum { ENDPOINT_BYTES = 64 };

enum circuit_state { CIRCUIT_CLOSED, CIRCUIT_OPEN, CIRCUIT_PROBING };

struct circuit {
    enum circuit_state state;
    uint64_t until_ms; /* open: no probe before; probing: the probe is forgotten then */
    uint64_t pause_ms;
    uint64_t half_start_ms; /* counts are kept in two halves of the window */
    uint32_t failures[2];
    uint32_t successes[2];
};

/* One failing endpoint; made at its first failure, dropped when its circuit is closed and quiet. */
struct endpoint_circuit {
    struct table_node node;
    struct circuit circuit;
    size_t name_length;
    char name[ENDPOINT_BYTES];
};

struct breaker {
    struct metrics_block *metrics;
    struct log_ring *log;
    struct circuit upstream;
    struct table *endpoints;
};

struct breaker *breaker_create(struct metrics_block *metrics, struct log_ring *log)
{
    struct breaker *breaker = calloc(1, sizeof *breaker);

    if (!breaker) {
        return NULL;
    }
    breaker->metrics = metrics;
    breaker->log = log;
    breaker->endpoints = table_create();
    if (!breaker->endpoints) {
        free(breaker);
        return NULL;
    }
    return breaker;
}

static void drop(struct table_node *node, void *argument)
{
    table_remove(argument, node);
    free(node); /* the node is the first member */
}

void breaker_destroy(struct breaker *breaker)
{
    if (breaker) {
        table_for_each(breaker->endpoints, drop, breaker->endpoints);
        table_destroy(breaker->endpoints);
        free(breaker);
    }
}

static void log_change(struct breaker *breaker, struct view endpoint, const char *event)
{
    struct log_line *line = log_begin(breaker->log, LOG_LEVEL_WARNING, event);

    log_text(line, "endpoint", endpoint.length > 0 ? endpoint : VIEW("*"));
    log_end(line);
}

static void turn_window(struct circuit *circuit, uint64_t now_ms)
{
    uint64_t age_ms = now_ms - circuit->half_start_ms;

    if (age_ms < BREAKER_HALF_WINDOW_MS) {
        return;
    }
    circuit->failures[1] = age_ms < 2 * BREAKER_HALF_WINDOW_MS ? circuit->failures[0] : 0;
    circuit->successes[1] = age_ms < 2 * BREAKER_HALF_WINDOW_MS ? circuit->successes[0] : 0;
    circuit->failures[0] = 0;
    circuit->successes[0] = 0;
    circuit->half_start_ms = now_ms;
}

static bool should_open(const struct circuit *circuit)
{
    uint64_t failures = (uint64_t)circuit->failures[0] + circuit->failures[1];
    uint64_t successes = (uint64_t)circuit->successes[0] + circuit->successes[1];

    return failures >= BREAKER_FAILURES && failures >= successes;
}

static void open_circuit(struct breaker *breaker, struct circuit *circuit, struct view endpoint,
                         uint64_t now_ms)
{
    bool was_probing = circuit->state == CIRCUIT_PROBING;

    circuit->pause_ms = was_probing ? circuit->pause_ms * 2 : BREAKER_FIRST_PAUSE_MS;
    if (circuit->pause_ms > BREAKER_LONGEST_PAUSE_MS) {
        circuit->pause_ms = BREAKER_LONGEST_PAUSE_MS;
    }
    circuit->state = CIRCUIT_OPEN;
    circuit->until_ms = now_ms + circuit->pause_ms;
    if (!was_probing) {
        log_change(breaker, endpoint, "breaker_opened");
        if (breaker->metrics) {
            metrics_add(breaker->metrics, METRIC_BREAKER_OPENED, 0, 0, 1);
        }
    }
}

static void close_circuit(struct breaker *breaker, struct circuit *circuit, struct view endpoint)
{
    *circuit = (struct circuit){.state = CIRCUIT_CLOSED};
    log_change(breaker, endpoint, "breaker_closed");
}

/* Says whether the circuit would let a request through now; nothing changes. */
static bool would_allow(const struct circuit *circuit, uint64_t now_ms, uint64_t *retry_after_s)
{
    uint64_t left_ms;

    if (circuit->state == CIRCUIT_CLOSED || now_ms >= circuit->until_ms) {
        return true;
    }
    left_ms =
        circuit->state == CIRCUIT_PROBING ? BREAKER_FIRST_PAUSE_MS : circuit->until_ms - now_ms;
    if (*retry_after_s < (left_ms + 999) / 1000) {
        *retry_after_s = (left_ms + 999) / 1000;
    }
    return false;
}

static void take_probe(struct circuit *circuit, uint64_t now_ms)
{
    if (circuit->state != CIRCUIT_CLOSED) {
        circuit->state = CIRCUIT_PROBING;
        circuit->until_ms = now_ms + BREAKER_PROBE_MS;
    }
}

static struct endpoint_circuit *find(const struct breaker *breaker, struct view endpoint)
{
    if (table_count(breaker->endpoints) == 0) {
        return NULL;
    }
    return (struct endpoint_circuit *)(void *)table_find(breaker->endpoints, endpoint);
}

bool breaker_allows(struct breaker *breaker, struct view endpoint, uint64_t now_ms,
                    uint64_t *retry_after_s)
{
    struct endpoint_circuit *own = find(breaker, endpoint);

    *retry_after_s = 0;
    if (!would_allow(&breaker->upstream, now_ms, retry_after_s) ||
        (own && !would_allow(&own->circuit, now_ms, retry_after_s))) {
        return false;
    }
    take_probe(&breaker->upstream, now_ms);
    if (own) {
        take_probe(&own->circuit, now_ms);
    }
    return true;
}

static void count(struct breaker *breaker, struct circuit *circuit, struct view endpoint,
                  bool failed, uint64_t now_ms)
{
    turn_window(circuit, now_ms);
    if (circuit->state == CIRCUIT_OPEN) {
        return; /* a straggler from before */
    }
    if (circuit->state == CIRCUIT_PROBING) {
        if (failed) {
            open_circuit(breaker, circuit, endpoint, now_ms);
        } else {
            close_circuit(breaker, circuit, endpoint);
        }
        return;
    }
    if (failed) {
        circuit->failures[0]++;
    } else {
        circuit->successes[0]++;
    }
    if (failed && should_open(circuit)) {
        open_circuit(breaker, circuit, endpoint, now_ms);
    }
}

struct sweep {
    struct table *endpoints;
    uint64_t now_ms;
};

static void drop_old(struct table_node *node, void *argument)
{
    struct sweep *sweep = argument;
    const struct circuit *circuit = &((struct endpoint_circuit *)(void *)node)->circuit;

    if (sweep->now_ms - circuit->half_start_ms >= 2 * BREAKER_HALF_WINDOW_MS &&
        (circuit->state == CIRCUIT_CLOSED ||
         sweep->now_ms >= circuit->until_ms + BREAKER_LONGEST_PAUSE_MS)) {
        drop(node, sweep->endpoints);
    }
}

static struct endpoint_circuit *create(struct breaker *breaker, struct view endpoint,
                                       uint64_t now_ms)
{
    struct endpoint_circuit *own;

    if (table_count(breaker->endpoints) >= BREAKER_ENDPOINTS) {
        struct sweep sweep = {breaker->endpoints, now_ms};

        table_for_each(breaker->endpoints, drop_old, &sweep);
    }
    if (table_count(breaker->endpoints) >= BREAKER_ENDPOINTS || endpoint.length == 0 ||
        endpoint.length > ENDPOINT_BYTES) {
        return NULL;
    }
    own = calloc(1, sizeof *own);
    if (!own) {
        return NULL;
    }
    memcpy(own->name, endpoint.data, endpoint.length);
    own->name_length = endpoint.length;
    own->circuit.half_start_ms = now_ms;
    if (!table_insert(breaker->endpoints, &own->node, view_make(own->name, own->name_length))) {
        free(own);
        return NULL;
    }
    return own;
}

static bool is_quiet(const struct circuit *circuit)
{
    return circuit->state == CIRCUIT_CLOSED && circuit->failures[0] == 0 &&
           circuit->failures[1] == 0;
}

void breaker_report(struct breaker *breaker, struct view endpoint, enum breaker_outcome outcome,
                    uint64_t now_ms)
{
    struct endpoint_circuit *own = find(breaker, endpoint);

    if (outcome != BREAKER_ENDPOINT_FAILED) {
        count(breaker, &breaker->upstream, VIEW(""), outcome == BREAKER_UPSTREAM_FAILED, now_ms);
    } else if (breaker->upstream.state == CIRCUIT_PROBING) {
        count(breaker, &breaker->upstream, VIEW(""), false, now_ms); /* it was reached */
    }
    if (outcome != BREAKER_OK && !own) {
        own = create(breaker, endpoint, now_ms);
    }
    if (!own) {
        return;
    }
    count(breaker, &own->circuit, endpoint, outcome != BREAKER_OK, now_ms);
    if (is_quiet(&own->circuit)) {
        drop(&own->node, breaker->endpoints);
    }
}
