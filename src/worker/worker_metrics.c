/* The worker's metrics: names as operators know them. Series are looked up once, at creation; a step
 * only adds. Gauges are set when the snapshot is published. */
#include "worker/parts.h"

#include "proto/message.h"

static struct sl_metric *plain(struct worker *worker, enum sl_metric_type type, const char *name,
                               const char *help)
{
    return sl_metric_get(sl_metrics_family(worker->args.metrics, type, name, help, "", NULL, 0));
}

static struct sl_metric *counter(struct worker *worker, const char *name, const char *help)
{
    return plain(worker, SL_METRIC_COUNTER, name, help);
}

static struct sl_metric *gauge(struct worker *worker, const char *name, const char *help)
{
    return plain(worker, SL_METRIC_GAUGE, name, help);
}

static struct sl_metric *seconds(struct worker *worker, const char *name, const char *help)
{
    static const double buckets[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
                                     0.01,   0.025,   0.05,   0.1,   0.25,   0.5,
                                     1,      2.5,     5,      10,    30};
    return sl_metric_get(sl_metrics_family(worker->args.metrics, SL_METRIC_HISTOGRAM, name, help,
                                           "", buckets, sizeof(buckets) / sizeof(buckets[0])));
}

static void reasons(struct worker *worker, const char *name, const char *help,
                    struct sl_metric **metrics)
{
    struct sl_metric_family *family =
        sl_metrics_family(worker->args.metrics, SL_METRIC_COUNTER, name, help, "reason", NULL, 0);
    for (uint32_t i = 1; i < WORKER_REASONS; i++) /* none is no reason */
        metrics[i] = sl_metric_get(family, rpc_reason_name((Sluice__Reason)i));
    metrics[0] = metrics[WORKER_REASONS - 1];
}

static void steps(struct worker *worker)
{
    struct worker_metrics *m = &worker->metrics;
    m->steps = counter(worker, "engine_steps_total", "Batches computed");
    m->step_sequences = counter(worker, "engine_step_sequences_total",
                                "Sequences in the batches (over steps: the mean batch)");
    m->step_tokens = counter(worker, "engine_step_tokens_total", "New tokens in the batches");
    m->step_seconds = seconds(worker, "engine_step_seconds", "Compute time of a batch");
}

static void tokens(struct worker *worker)
{
    struct worker_metrics *m = &worker->metrics;
    struct sl_metric_family *sources =
        sl_metrics_family(worker->args.metrics, SL_METRIC_COUNTER, "prompt_tokens_by_source_total",
                          "Prompt tokens by where their KV came from", "source", NULL, 0);
    m->computed = sl_metric_get(sources, "computed");
    m->local_hit = sl_metric_get(sources, "local_hit");
    m->fetched = sl_metric_get(sources, "fetched");
    m->generated = counter(worker, "generation_tokens_total", "Tokens sampled");
    m->queries = counter(worker, "prefix_cache_queries_tokens_total",
                         "Prompt tokens looked up in the prefix cache");
    m->hits = counter(worker, "prefix_cache_hits_tokens_total",
                      "Prompt tokens found in the prefix cache");
}

static void blocks(struct worker *worker)
{
    /* Draining and quarantined blocks are landing ones: the states add up to the total. */
    static const char *const names[KV_BLOCK_QUARANTINED] = {"free", "cached", "used", "landing"};
    struct worker_metrics *m = &worker->metrics;
    struct sl_metric_family *states = sl_metrics_family(
        worker->args.metrics, SL_METRIC_GAUGE, "kv_blocks", "KV blocks by state", "state", NULL, 0);
    for (uint32_t i = 0; i < KV_BLOCK_QUARANTINED; i++)
        m->blocks[i] = sl_metric_get(states, names[i]);
    if (worker->n_classes > 1) {
        states = sl_metrics_family(
            worker->args.metrics, SL_METRIC_GAUGE, "kv_window_blocks",
            "KV blocks of layers with a window by state, where others have none", "state", NULL, 0);
        for (uint32_t i = 0; i < KV_BLOCK_QUARANTINED; i++)
            m->window_blocks[i] = sl_metric_get(states, names[i]);
    }
    m->usage = gauge(worker, "kv_cache_usage_ratio", "Share of the KV blocks that is in use");
    m->promised = gauge(worker, "kv_blocks_promised", "KV blocks promised and not yet taken");
}

void worker_metrics_init(struct worker *worker)
{
    struct worker_metrics *m = &worker->metrics;
    steps(worker);
    tokens(worker);
    blocks(worker);
    m->running = gauge(worker, "requests_running", "Requests that compute or decode");
    m->waiting = gauge(worker, "requests_waiting", "Requests that wait for blocks");
    m->preemptions = sl_metric_get(
        sl_metrics_family(worker->args.metrics, SL_METRIC_COUNTER, "preemptions_total",
                          "Sequences that gave their blocks back to be recomputed", "reason", NULL,
                          0),
        "blocks");
    m->overtakes = counter(worker, "admission_overtakes_total",
                           "Requests admitted while one before them found no room");
    m->queue_seconds = seconds(worker, "admission_wait_seconds", "Arrival to promise");
    m->lost_messages = counter(worker, "messages_lost_total",
                               "Messages to the coordinator that could not be sent");
    reasons(worker, "requests_rejected_total", "Requests refused", m->rejected);
    reasons(worker, "stream_failures_total", "Streams of blocks that failed", m->stream_failures);
}

static void set_states(struct sl_metric *const *states, const struct kv_pool_counts *counts)
{
    sl_metric_set(states[KV_BLOCK_FREE], counts->free);
    sl_metric_set(states[KV_BLOCK_CACHED], counts->cached);
    sl_metric_set(states[KV_BLOCK_USED], counts->used);
    sl_metric_set(states[KV_BLOCK_LANDING], counts->landing + counts->quarantined);
}

void worker_metrics_gauges(struct worker *worker)
{
    struct worker_metrics *m = &worker->metrics;
    const struct worker_snapshot *now = &worker->now;
    const struct kv_pool_counts *counts = &now->blocks;
    sl_metric_set(m->running, now->running);
    sl_metric_set(m->waiting, now->waiting);
    set_states(m->blocks, counts);
    if (worker->n_classes > 1)
        set_states(m->window_blocks, &now->window_blocks);
    sl_metric_set(m->usage,
                  (double)(counts->total - counts->free - counts->cached) / counts->total);
    sl_metric_set(m->promised, counts->promised);
}
