/* Metrics of the coordinator. Series that every request touches are looked up once, at start; families
 * with labels that only arise (nodes, reasons) are asked for their series when something happens.
 *
 * Nodes report totals of their incarnation; what is added here is the growth since what the incarnation
 * said last, so that the sums never fall and keep what dead workers did. Its account outlives its
 * joining: one that comes back, in whatever slot, would else be counted a second time. There are twice
 * as many accounts as nodes; a new one takes that of the incarnation which was not heard for longest,
 * and is gone. Called by the coordinator's loop only. */
#include "coordinator/meters.h"

#include "base/clock.h"
#include "base/mem.h"
#include "coordinator/router.h"
#include "proto/message.h"

#include <stdio.h>
#include <string.h>

struct row {
    char src[16], dst[16], transport[16];
    bool send;
    uint64_t bytes, pieces, streams, busy_us, exposed_us;
    uint64_t failures[16];
};

#define ACCOUNTS_MAX (2 * REGISTRY_NODES_MAX)

struct meters_account {
    char id[16];
    uint64_t incarnation; /* 0: unused */
    uint64_t heard;       /* when, in heartbeats of all */
    uint64_t preemptions;
    uint32_t n_rows;
    struct row rows[REGISTRY_TRANSFERS_MAX];
};

static const double ttft_buckets[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25,
                                      0.35,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,  15,   20,
                                      30,    40,    80,   160,  320,  640,  1280, 2560};
static const double itl_buckets[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025,
                                     0.03,   0.04,  0.05,   0.075, 0.1,  0.15,  0.2,  0.3,
                                     0.4,    0.5,   0.75,   1,     2.5,  5,     10};
static const double e2e_buckets[] = {0.05, 0.1, 0.2, 0.3, 0.5,  0.8,  1,   1.5, 2,
                                     2.5,  5,   10,  15,  20,   30,   40,  50,  60,
                                     120,  240, 480, 960, 1920, 3840, 7680};
static const double stage_buckets[] = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3,
                                       1,      2.5,    5,     10,    30,   60,   300};
/* Those of the workers' pages, so that both can be read as one. */
static const double transfer_buckets[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
                                          0.01,   0.025,   0.05,   0.1,   0.25,   0.5,
                                          1,      2.5,     5,      10,    30};
static const double throughput_buckets[] = {1e8,    2.5e8,  5e8,  1e9,  2e9,  4e9, 8e9,
                                            1.6e10, 3.2e10, 5e10, 1e11, 2e11, 4e11};

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))

static struct sl_metric *counter(struct meters *m, const char *name, const char *help)
{
    return sl_metric_get(sl_metrics_family(m->metrics, SL_METRIC_COUNTER, name, help, "", NULL, 0));
}

static struct sl_metric *gauge(struct meters *m, const char *name, const char *help)
{
    return sl_metric_get(sl_metrics_family(m->metrics, SL_METRIC_GAUGE, name, help, "", NULL, 0));
}

static struct sl_metric_family *counters(struct meters *m, const char *name, const char *help,
                                         const char *labels)
{
    return sl_metrics_family(m->metrics, SL_METRIC_COUNTER, name, help, labels, NULL, 0);
}

/* Series that are there from the start: a rate over one that appears with its first event misses it. */
static void begin(struct sl_metric_family *family, const char *const *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        sl_metric_get(family, values[i]);
}

static void init_reasons(struct meters *m)
{
    static const char *const outcomes[] = {"stop", "length", "error", "rejected", "cancelled"};
    static const char *const rejected[] = {"draining",      "not_ready",  "too_large", "queue_full",
                                           "queue_timeout", "held_bytes", "forbidden"};
    static const char *const migrations[] = {"redirect", "refused", "stream_failed",
                                             "finished", "gap",     "node_lost"};
    m->requests = counters(m, "requests_total", "Requests by outcome", "outcome");
    m->decisions =
        counters(m, "routing_decisions_total", "Placements by the router's reason", "reason");
    m->rejected = counters(m, "requests_rejected_total", "Requests refused, by reason", "reason");
    m->migrations =
        counters(m, "request_migrations_total", "Requests placed again, by reason", "reason");
    m->preemptions =
        counters(m, "preemptions_total", "Sequences that gave their blocks back", "reason");
    begin(m->requests, outcomes, COUNT(outcomes));
    begin(m->rejected, rejected, COUNT(rejected));
    begin(m->migrations, migrations, COUNT(migrations));
    sl_metric_get(m->preemptions, "blocks");
    for (uint32_t i = 0; i < ROUTER_NONE; i++)
        sl_metric_get(m->decisions, router_reason_name((enum router_reason)i));
}

static void init_latencies(struct meters *m, const char *model)
{
    struct sl_metric_family *family;
    family = sl_metrics_family(m->metrics, SL_METRIC_HISTOGRAM, "time_to_first_token_seconds",
                               "Request received to first token sent", "model", ttft_buckets,
                               COUNT(ttft_buckets));
    m->ttft = sl_metric_get(family, model);
    family = sl_metrics_family(m->metrics, SL_METRIC_HISTOGRAM, "inter_token_latency_seconds",
                               "Time between two tokens of a request", "model", itl_buckets,
                               COUNT(itl_buckets));
    m->itl = sl_metric_get(family, model);
    family = sl_metrics_family(m->metrics, SL_METRIC_HISTOGRAM, "e2e_request_latency_seconds",
                               "Request received to its last token", "model", e2e_buckets,
                               COUNT(e2e_buckets));
    m->e2e = sl_metric_get(family, model);
    family = sl_metrics_family(m->metrics, SL_METRIC_HISTOGRAM, "request_stage_seconds",
                               "Time of a request in one stage", "stage", stage_buckets,
                               COUNT(stage_buckets));
    for (uint32_t i = 0; i < STAGE_COUNT; i++)
        m->stages[i] = sl_metric_get(family, stage_name((enum stage)i));
    m->handover = sl_metric_get(
        sl_metrics_family(m->metrics, SL_METRIC_HISTOGRAM, "handover_seconds",
                          "End of prefill compute to the destination's acknowledgement", "",
                          transfer_buckets, COUNT(transfer_buckets)));
    m->second_token = sl_metric_get(sl_metrics_family(
        m->metrics, SL_METRIC_HISTOGRAM, "second_token_delay_seconds",
        "First token sent to second token sent, less a step of the node that gave it", "",
        itl_buckets, COUNT(itl_buckets)));
}

static void init_transfers(struct meters *m)
{
    static const char labels[] = "src dst transport side";
    m->transfer_bytes = counters(m, "kv_transfer_bytes_total",
                                 "Bytes of KV blocks transferred, counted at completion", labels);
    m->transfer_pieces =
        counters(m, "kv_transfer_pieces_total", "Pieces of KV blocks transferred", labels);
    m->transfer_streams =
        counters(m, "kv_transfer_streams_total",
                 "Streams of KV blocks that are over, however they ended", labels);
    m->transfer_busy = counters(m, "kv_transfer_busy_seconds_total",
                                "Time with at least one piece in flight", labels);
    m->transfer_exposed = counters(m, "kv_transfer_exposed_seconds_total",
                                   "Time of transfers that no compute hid", labels);
    m->transfer_failures =
        counters(m, "kv_transfer_failures_total", "Streams of KV blocks that failed",
                 "src dst transport side reason");
    m->transfer_seconds = sl_metrics_family(m->metrics, SL_METRIC_HISTOGRAM, "kv_transfer_seconds",
                                            "Busy time of one stream", "src dst transport",
                                            transfer_buckets, COUNT(transfer_buckets));
    m->transfer_throughput = sl_metrics_family(
        m->metrics, SL_METRIC_HISTOGRAM, "kv_transfer_throughput_bytes_per_second",
        "Bytes over busy time of one stream", "src dst transport", throughput_buckets,
        COUNT(throughput_buckets));
}

void meters_init(struct meters *m, const char *model)
{
    memset(m, 0, sizeof(*m));
    m->metrics = sl_metrics_create();
    m->accounts = sl_zalloc(ACCOUNTS_MAX, sizeof(*m->accounts));
    init_latencies(m, model);
    init_transfers(m);
    m->prompt_tokens = counter(m, "prompt_tokens_total", "Prompt tokens of requests served");
    m->generation_tokens = counter(m, "generation_tokens_total", "Tokens generated");
    struct sl_metric_family *sources =
        counters(m, "prompt_tokens_by_source_total",
                 "Prompt tokens of requests served, by where their KV came from", "source");
    m->computed = sl_metric_get(sources, "computed");
    m->local_hit = sl_metric_get(sources, "local_hit");
    sl_metric_get(sources, "fetched");
    m->running = gauge(m, "requests_running", "Requests that nodes have admitted");
    m->waiting = gauge(m, "requests_waiting", "Requests not yet admitted");
    m->failing =
        gauge(m, "workers_failing", "Workers of local pools that ended and are not ready again");
    m->kv_usage = gauge(m, "kv_cache_usage_ratio", "Blocks in use over all, decode nodes");
    struct sl_metric_family *blocks = sl_metrics_family(m->metrics, SL_METRIC_GAUGE, "kv_blocks",
                                                        "KV blocks of the fleet", "state", NULL, 0);
    static const char *const states[BLOCKS_STATE_COUNT] = {"used", "cached", "free", "landing"};
    for (uint32_t i = 0; i < BLOCKS_STATE_COUNT; i++)
        m->blocks[i] = sl_metric_get(blocks, states[i]);
    m->prefix_queries =
        counter(m, "prefix_cache_queries_tokens_total", "Prompt tokens looked up in prefix caches");
    m->prefix_hits =
        counter(m, "prefix_cache_hits_tokens_total", "Prompt tokens found in prefix caches");
    m->index_entries = gauge(m, "prefix_index_entries", "Block hashes in the prefix index");
    m->index_overflows = counter(m, "prefix_index_overflows_total",
                                 "Block hashes for which the prefix index had no room");
    m->gaps = counter(m, "token_index_gaps_total", "Token runs that skipped an index");
    m->overtakes = counter(m, "placement_overtakes_total",
                           "Requests placed while one before them found no place");
    m->stale_tokens = counter(m, "stale_token_runs_total", "Token runs of attempts that were over");
    init_reasons(m);
    m->replicas = sl_metrics_family(m->metrics, SL_METRIC_GAUGE, "pool_replicas",
                                    "Nodes of a pool by state", "pool state", NULL, 0);
}

void meters_desired(struct meters *m, uint32_t n_prefill, uint32_t n_decode)
{
    sl_metric_set(sl_metric_get(m->replicas, "prefill", "desired"), n_prefill);
    sl_metric_set(sl_metric_get(m->replicas, "decode", "desired"), n_decode);
}

void meters_fini(struct meters *m)
{
    sl_metrics_destroy(m->metrics);
    sl_free(m->accounts);
    memset(m, 0, sizeof(*m));
}

/* Its own; else one that is unused, or has not been heard for longest. */
static struct meters_account *find_account(struct meters *m, const struct registry_node *node)
{
    struct meters_account *oldest = &m->accounts[0];
    for (uint32_t i = 0; i < ACCOUNTS_MAX; i++) {
        struct meters_account *account = &m->accounts[i];
        if (account->incarnation == node->hello->incarnation && strcmp(account->id, node->id) == 0)
            return account;
        if (account->heard < oldest->heard)
            oldest = account;
    }
    memset(oldest, 0, sizeof(*oldest));
    oldest->incarnation = node->hello->incarnation;
    snprintf(oldest->id, sizeof(oldest->id), "%s", node->id);
    return oldest;
}

void meters_node_joined(struct meters *m, const struct registry_node *node)
{
    struct meters_account *account = find_account(m, node);
    account->heard = ++m->heard;
    m->account_of[node->slot] = account;
}

static struct row *find_row(struct meters_account *mine, const Sluice__TransferTotals *totals)
{
    for (uint32_t i = 0; i < mine->n_rows; i++) {
        struct row *row = &mine->rows[i];
        if (row->send == totals->send && strcmp(row->src, totals->src) == 0 &&
            strcmp(row->dst, totals->dst) == 0 && strcmp(row->transport, totals->transport) == 0)
            return row;
    }
    if (mine->n_rows == REGISTRY_TRANSFERS_MAX)
        return NULL;
    struct row *row = &mine->rows[mine->n_rows++];
    memset(row, 0, sizeof(*row));
    row->send = totals->send;
    snprintf(row->src, sizeof(row->src), "%s", totals->src);
    snprintf(row->dst, sizeof(row->dst), "%s", totals->dst);
    snprintf(row->transport, sizeof(row->transport), "%s", totals->transport);
    return row;
}

static double grown(uint64_t *last, uint64_t now)
{
    double more = now > *last ? (double)(now - *last) : 0;
    *last = now > *last ? now : *last;
    return more;
}

static void add_transfer(struct meters *m, struct row *row, const Sluice__TransferTotals *totals)
{
    const char *labels[] = {row->src, row->dst, row->transport, row->send ? "send" : "recv", ""};
    sl_metric_add(sl_metric_getv(m->transfer_bytes, labels), grown(&row->bytes, totals->bytes));
    sl_metric_add(sl_metric_getv(m->transfer_pieces, labels), grown(&row->pieces, totals->pieces));
    sl_metric_add(sl_metric_getv(m->transfer_streams, labels),
                  grown(&row->streams, totals->streams));
    sl_metric_add(sl_metric_getv(m->transfer_busy, labels),
                  grown(&row->busy_us, totals->busy_us) / SL_SECOND_US);
    sl_metric_add(sl_metric_getv(m->transfer_exposed, labels),
                  grown(&row->exposed_us, totals->exposed_us) / SL_SECOND_US);
    for (size_t i = 0; i < totals->n_failures && i < COUNT(row->failures); i++) {
        double more = grown(&row->failures[i], totals->failures[i]);
        labels[4] = rpc_reason_name((Sluice__Reason)i);
        if (more > 0)
            sl_metric_add(sl_metric_getv(m->transfer_failures, labels), more);
    }
}

void meters_heartbeat(struct meters *m, const struct registry_node *node,
                      const Sluice__Heartbeat *heartbeat)
{
    struct meters_account *mine = m->account_of[node->slot];
    mine->heard = ++m->heard;
    for (size_t i = 0; i < heartbeat->n_transfers; i++) {
        struct row *row = find_row(mine, heartbeat->transfers[i]);
        if (row != NULL)
            add_transfer(m, row, heartbeat->transfers[i]);
    }
    double preempted = grown(&mine->preemptions, heartbeat->preemptions);
    if (preempted > 0)
        sl_metric_add(sl_metric_get(m->preemptions, "blocks"), preempted);
}

static void observe(struct sl_metric *metric, uint64_t us)
{
    if (us > 0)
        sl_metric_observe(metric, (double)us / SL_SECOND_US);
}

void meters_request(struct meters *m, const struct stages *stages, uint64_t whole_us)
{
    sl_metric_observe(m->e2e, (double)whole_us / SL_SECOND_US);
    for (uint32_t i = 0; i < STAGE_COUNT; i++)
        if (stages->passed & 1u << i)
            sl_metric_observe(m->stages[i], (double)stages->spent_us[i] / SL_SECOND_US);
}

void meters_finished(struct meters *m, const struct registry_node *node,
                     const Sluice__Finished *finished)
{
    const Sluice__StageTimes *times = finished->times;
    if (times == NULL || finished->finish != SLUICE__FINISH__FINISH_SENT)
        return;
    observe(m->handover, times->handover_us);
    const char *d = finished->destination;
    if (d[0] == '\0' || times->transfer_busy_us == 0)
        return;
    double seconds = (double)times->transfer_busy_us / SL_SECOND_US;
    const char *transport = node->hello->transport;
    sl_metric_observe(sl_metric_get(m->transfer_seconds, node->id, d, transport), seconds);
    sl_metric_observe(sl_metric_get(m->transfer_throughput, node->id, d, transport),
                      (double)times->transfer_bytes / seconds);
}

static void set_replicas(struct meters *m, const char *pool, const uint32_t *counts)
{
    sl_metric_set(sl_metric_get(m->replicas, pool, "ready"), counts[REGISTRY_READY]);
    sl_metric_set(sl_metric_get(m->replicas, pool, "draining"), counts[REGISTRY_DRAINING]);
    sl_metric_set(sl_metric_get(m->replicas, pool, "pending"), counts[REGISTRY_LOADING]);
}

void meters_fleet(struct meters *m, const struct registry *registry,
                  const struct prefix_index *index, uint32_t running, uint32_t waiting)
{
    uint64_t blocks[BLOCKS_STATE_COUNT] = {0};
    uint64_t decode_used = 0, decode_total = 0;
    uint32_t states[2][REGISTRY_FOREIGN + 1] = {{0}};
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        const struct registry_node *node = &registry->nodes[i];
        if (!node->used)
            continue;
        states[node->prefill][registry_state(registry, node)]++;
        blocks[BLOCKS_USED] += node->load.blocks_used;
        blocks[BLOCKS_CACHED] += node->load.blocks_cached;
        blocks[BLOCKS_FREE] += node->load.blocks_free;
        blocks[BLOCKS_LANDING] += node->load.blocks_landing;
        if (!node->prefill) {
            decode_used += node->load.blocks_used + node->load.blocks_landing;
            decode_total += node->load.blocks_total;
        }
    }
    for (uint32_t i = 0; i < BLOCKS_STATE_COUNT; i++)
        sl_metric_set(m->blocks[i], (double)blocks[i]);
    sl_metric_set(m->kv_usage, decode_total > 0 ? (double)decode_used / (double)decode_total : 0);
    set_replicas(m, "prefill", states[1]);
    set_replicas(m, "decode", states[0]);
    sl_metric_set(m->running, running);
    sl_metric_set(m->waiting, waiting);
    sl_metric_set(m->index_entries, prefix_index_entries(index));
    sl_metric_add(m->index_overflows, grown(&m->overflows, prefix_index_overflows(index)));
}
