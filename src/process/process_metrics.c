#include "build_config.h"

#include "base/metrics.h"
#include "model/metric_catalogue.h"
#include "process/process_private.h"
#include "store/hot_cache.h"
#include "store/store.h"

/* What the parts count by themselves, brought into the metrics when somebody looks at them. */

/* Makes a counter or gauge of the main thread's block say `value`. */
static void show(struct process *process, size_t family, size_t first, uint64_t *told,
                 uint64_t value)
{
    metrics_add(process->metrics_block, family, first, 0, (int64_t)(value - *told));
    *told = value;
}

static void show_hot_cache(struct process *process)
{
    struct process_told *told = &process->told;
    struct hot_cache_counts counts = hot_cache_counts(process->shared.gateways.hot_cache);

    show(process, METRIC_HOT_RESULTS, METRIC_HOT_HIT, &told->hot_hits, counts.hits);
    show(process, METRIC_HOT_RESULTS, METRIC_HOT_MISS, &told->hot_misses, counts.misses);
    show(process, METRIC_HOT_RESULTS, METRIC_HOT_STORED, &told->hot_stored, counts.stored);
    show(process, METRIC_HOT_RESULTS, METRIC_HOT_EVICTED, &told->hot_evicted, counts.evicted);
    show(process, METRIC_HOT_BYTES, 0, &told->hot_bytes, counts.bytes);
}

void process_count_parts(struct process *process)
{
    const struct store *store = process->shared.gateways.store;

    show_hot_cache(process);
    show(process, METRIC_STORE_READY, 0, &process->told.store_ready,
         store_state(store) == STORE_STATE_READY ? 1 : 0);
    if (!store_is_shared(store)) {
        /* Redis's is told when it is found out, which is at each connect. */
        show(process, METRIC_STORE_DURABILITY, 0, &process->told.store_durability,
             store_durability(store) == STORE_DURABLE ? 2 : 0);
    }
}

static void on_counts(void *argument, const struct store_reply *reply)
{
    struct process *process = argument;

    process->counting = false;
    if (reply->result == STORE_OK) {
        show(process, METRIC_STORE_BYTES, 0, &process->told.store_bytes,
             reply->counts.result_bytes);
        show(process, METRIC_STORE_SPOOLED, 0, &process->told.store_spooled, reply->counts.spooled);
    }
}

void process_ask_counts(struct process *process)
{
    const struct store_question question = {.operation = STORE_COUNT};

    process->counting = process->counting ||
                        store_ask(process->store_client, &question, on_counts, process) != NULL;
}
