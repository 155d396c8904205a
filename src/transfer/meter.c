/* Metrics of the transfer layer.
 *
 * Each direction between this node and a peer is a link: a set of series, kept as pointers, and the
 * totals that heartbeats carry. Series are looked up when a peer is first seen, never per piece. Labels
 * are src, dst, transport and side; this node is src on the send side and dst on the receive side, so
 * both ends of one direction carry the same src and dst and differ in side. With more than
 * METER_PEERS_MAX peers the rest is one link named "other".
 *
 * Totals are updated by the transfer thread and read by any: one mutex, held for a few stores. The
 * limit of a link is the best of its probes (probe.c) and of its traffic over windows of at least
 * LIMIT_WINDOW_US busy time or LIMIT_WINDOW_BYTES; it only grows. What a probe carries counts nowhere
 * else. */
#include "transfer/meter.h"

#include "base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define LINKS_MAX          (2 * (METER_PEERS_MAX + 1))
#define LIMIT_WINDOW_BYTES ((uint64_t)8 << 20)
#define LIMIT_WINDOW_US    10000u
#define OTHER              "other"

void busy_begin(struct busy *busy, uint64_t now_us)
{
    if (busy->n++ == 0)
        busy->since_us = now_us;
}

void busy_end(struct busy *busy, uint64_t now_us)
{
    SL_ASSERT(busy->n > 0);
    if (--busy->n == 0)
        busy->total_us += now_us - busy->since_us;
}

uint64_t busy_total(const struct busy *busy, uint64_t now_us)
{
    return busy->total_us + (busy->n > 0 ? now_us - busy->since_us : 0);
}

struct meter_link {
    struct transfer_totals totals;
    char peer[16];
    struct busy busy;
    uint64_t busy_counted_us;
    uint64_t window_bytes, window_busy_us; /* for the limit */
    double limit;
    struct sl_metric *bytes, *pieces, *piece_seconds, *busy_seconds, *exposed_seconds;
    struct sl_metric *seconds, *throughput; /* of streams */
    struct sl_metric *limit_gauge, *handover, *lost_bytes, *wasted_bytes;
    struct sl_metric *credit_stall, *window_stall;
    struct sl_metric *failures[TRANSFER_REASON_COUNT];
    struct sl_metric *refusals[TRANSFER_REASON_COUNT];
    struct sl_metric *ends[METER_END_COUNT];
};

struct meter {
    /* Of every link's totals and of n_links. The transfer thread, the only one that writes them, holds
     * it to write; others hold it to read. */
    pthread_mutex_t lock;
    struct sl_metrics *metrics, *own_metrics;
    char node_id[16];
    char transport[16];
    uint32_t n_links;
    struct meter_link links[LINKS_MAX];
    struct sl_metric *counts[METER_COUNT];
    struct sl_metric *gauges[METER_GAUGE_COUNT];
};

/* ---- series ---- */

static const double seconds_buckets[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
                                         0.01,   0.025,   0.05,   0.1,   0.25,   0.5,
                                         1,      2.5,     5,      10,    30};
static const double throughput_buckets[] = {1e8,    2.5e8,  5e8,  1e9,  2e9,  4e9, 8e9,
                                            1.6e10, 3.2e10, 5e10, 1e11, 2e11, 4e11};
#define COUNT_OF(a) (uint32_t)(sizeof(a) / sizeof((a)[0]))
#define LINK_LABELS "src dst transport side"

static struct sl_metric *link_series(struct meter *meter, const struct meter_link *link,
                                     enum sl_metric_type type, const char *name, const char *help,
                                     const double *buckets, uint32_t n_buckets)
{
    struct sl_metric_family *family =
        sl_metrics_family(meter->metrics, type, name, help, LINK_LABELS, buckets, n_buckets);
    const char *values[] = {link->totals.src, link->totals.dst, meter->transport,
                            link->totals.send ? "send" : "recv"};
    return sl_metric_getv(family, values);
}

static struct sl_metric *labelled(struct meter *meter, const struct meter_link *link,
                                  const char *name, const char *help, const char *labels,
                                  const char *value)
{
    struct sl_metric_family *family =
        sl_metrics_family(meter->metrics, SL_METRIC_COUNTER, name, help, labels, NULL, 0);
    const char *values[] = {link->totals.src, link->totals.dst, meter->transport,
                            link->totals.send ? "send" : "recv", value};
    return sl_metric_getv(family, values);
}

static void make_counters(struct meter *meter, struct meter_link *link)
{
    const enum sl_metric_type counter = SL_METRIC_COUNTER;
    link->bytes = link_series(meter, link, counter, "kv_transfer_bytes_total",
                              "Bytes of KV pieces, at transport completion", NULL, 0);
    link->pieces = link_series(meter, link, counter, "kv_transfer_pieces_total",
                               "KV pieces, at transport completion", NULL, 0);
    link->busy_seconds = link_series(meter, link, counter, "kv_transfer_busy_seconds_total",
                                     "Time with at least one piece in flight", NULL, 0);
    link->exposed_seconds =
        link_series(meter, link, counter, "kv_transfer_exposed_seconds_total",
                    "Last send completion minus end of the last compute", NULL, 0);
    link->lost_bytes =
        link_series(meter, link, counter, "kv_transfer_lost_bytes_total",
                    "Bytes sent by streams that the destination never confirmed", NULL, 0);
    link->wasted_bytes = link_series(meter, link, counter, "kv_transfer_wasted_bytes_total",
                                     "Bytes landed for streams that were never sealed", NULL, 0);
    link->credit_stall =
        link_series(meter, link, counter, "kv_transfer_credit_stall_seconds_total",
                    "Time with a final piece and no credit (decode demand)", NULL, 0);
    link->window_stall = link_series(meter, link, counter, "kv_transfer_window_stall_seconds_total",
                                     "Time with credit and no window (network demand)", NULL, 0);
}

static void make_histograms(struct meter *meter, struct meter_link *link)
{
    link->piece_seconds = link_series(meter, link, SL_METRIC_HISTOGRAM, "kv_transfer_piece_seconds",
                                      "One piece from post to completion", seconds_buckets,
                                      COUNT_OF(seconds_buckets));
    link->seconds =
        link_series(meter, link, SL_METRIC_HISTOGRAM, "kv_transfer_seconds",
                    "Busy time of one stream", seconds_buckets, COUNT_OF(seconds_buckets));
    link->throughput = link_series(
        meter, link, SL_METRIC_HISTOGRAM, "kv_transfer_throughput_bytes_per_second",
        "Bytes of one stream over its busy time", throughput_buckets, COUNT_OF(throughput_buckets));
    link->handover = link_series(meter, link, SL_METRIC_HISTOGRAM, "handover_seconds",
                                 "End of the last compute to the destination's confirmation",
                                 seconds_buckets, COUNT_OF(seconds_buckets));
    link->limit_gauge =
        link_series(meter, link, SL_METRIC_GAUGE, "kv_link_limit_bytes_per_second",
                    "Best throughput of a probe or over a window of busy time", NULL, 0);
}

static void make_labelled(struct meter *meter, struct meter_link *link)
{
    static const char *const ends[METER_END_COUNT] = {"done", "failed", "cancelled"};
    for (uint32_t i = 1; i < TRANSFER_REASON_COUNT; i++) {
        const char *reason = transfer_reason_name((enum transfer_reason)i);
        link->failures[i] =
            labelled(meter, link, "kv_transfer_failures_total", "Streams that failed, by reason",
                     LINK_LABELS " reason", reason);
        link->refusals[i] = labelled(meter, link, "kv_transfer_refusals_total",
                                     "Messages and offers refused by this node, by reason",
                                     LINK_LABELS " reason", reason);
    }
    for (uint32_t i = 0; i < METER_END_COUNT; i++)
        link->ends[i] = labelled(meter, link, "kv_transfer_streams_total",
                                 "Streams that are over, by end", LINK_LABELS " end", ends[i]);
}

static struct sl_metric *single(struct meter *meter, enum sl_metric_type type, const char *name,
                                const char *help, const char *labels, const char *value)
{
    struct sl_metric_family *family =
        sl_metrics_family(meter->metrics, type, name, help, labels, NULL, 0);
    const char *values[] = {value};
    return sl_metric_getv(family, values);
}

static void make_singles(struct meter *meter)
{
    const enum sl_metric_type counter = SL_METRIC_COUNTER;
    meter->counts[METER_MISBEHAVED] = single(meter, counter, "kv_transfer_misbehaviour_total",
                                             "Messages that no honest peer sends", "", NULL);
    meter->counts[METER_UNKNOWN] =
        single(meter, counter, "kv_transfer_unknown_total",
               "Messages of streams or sessions that are not known (any more)", "", NULL);
    meter->counts[METER_FORCED_CLOSES] =
        single(meter, counter, "kv_transfer_forced_closes_total",
               "Sessions closed because a peer or a stream passed its deadline", "", NULL);
    meter->counts[METER_SESSIONS] =
        single(meter, counter, "kv_transfer_sessions_total", "Sessions that came up", "", NULL);
    meter->counts[METER_SESSIONS_LOST] = single(meter, counter, "kv_transfer_sessions_lost_total",
                                                "Sessions that were lost or closed", "", NULL);
    static const char *const states[METER_GAUGE_COUNT] = {"sending", "parked", "landing",
                                                          "draining"};
    for (uint32_t i = 0; i < METER_GAUGE_COUNT; i++)
        meter->gauges[i] = single(meter, SL_METRIC_GAUGE, "kv_transfer_streams",
                                  "Streams now, by state", "state", states[i]);
}

/* ---- life ---- */

struct meter *meter_create(struct sl_metrics *metrics, const char *node_id, const char *transport)
{
    struct meter *meter = sl_zalloc(1, sizeof(*meter));
    pthread_mutex_init(&meter->lock, NULL);
    if (metrics == NULL)
        metrics = meter->own_metrics = sl_metrics_create();
    meter->metrics = metrics;
    snprintf(meter->node_id, sizeof(meter->node_id), "%s", node_id);
    snprintf(meter->transport, sizeof(meter->transport), "%s", transport);
    make_singles(meter);
    return meter;
}

void meter_destroy(struct meter *meter)
{
    if (meter == NULL)
        return;
    if (meter->own_metrics != NULL)
        sl_metrics_destroy(meter->own_metrics);
    pthread_mutex_destroy(&meter->lock);
    sl_free(meter);
}

static struct meter_link *find_link(struct meter *meter, const char *peer_id, bool send)
{
    for (uint32_t i = 0; i < meter->n_links; i++) {
        struct meter_link *link = &meter->links[i];
        if (link->totals.send == send && strcmp(link->peer, peer_id) == 0)
            return link;
    }
    return NULL;
}

static uint32_t count_side(const struct meter *meter, bool send)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < meter->n_links; i++)
        n += meter->links[i].totals.send == send;
    return n;
}

struct meter_link *meter_link(struct meter *meter, const char *peer_id, bool send)
{
    struct meter_link *link = find_link(meter, peer_id, send);
    if (link != NULL)
        return link;
    if (count_side(meter, send) >= METER_PEERS_MAX) {
        peer_id = OTHER;
        link = find_link(meter, peer_id, send);
        if (link != NULL)
            return link;
    }
    link = &meter->links[meter->n_links];
    snprintf(link->peer, sizeof(link->peer), "%s", peer_id);
    link->totals.send = send;
    const char *src = send ? meter->node_id : peer_id, *dst = send ? peer_id : meter->node_id;
    snprintf(link->totals.src, sizeof(link->totals.src), "%s", src);
    snprintf(link->totals.dst, sizeof(link->totals.dst), "%s", dst);
    make_counters(meter, link);
    make_histograms(meter, link);
    make_labelled(meter, link);
    pthread_mutex_lock(&meter->lock);
    meter->n_links++;
    pthread_mutex_unlock(&meter->lock);
    return link;
}

/* ---- counting ---- */

static double seconds_of(uint64_t us)
{
    return (double)us / 1e6;
}

static void update_busy(struct meter *meter, struct meter_link *link, uint64_t now_us)
{
    uint64_t busy = busy_total(&link->busy, now_us);
    if (busy == link->busy_counted_us)
        return;
    sl_metric_add(link->busy_seconds, seconds_of(busy - link->busy_counted_us));
    link->busy_counted_us = busy;
    pthread_mutex_lock(&meter->lock);
    link->totals.busy_us = busy;
    pthread_mutex_unlock(&meter->lock);
}

static void raise_limit(struct meter_link *link, uint64_t bytes, uint64_t busy_us)
{
    double limit = (double)bytes / seconds_of(busy_us > 0 ? busy_us : 1);
    if (limit <= link->limit)
        return;
    link->limit = limit;
    sl_metric_set(link->limit_gauge, limit);
}

static void update_limit(struct meter_link *link, uint64_t now_us, size_t bytes)
{
    link->window_bytes += bytes;
    uint64_t busy = busy_total(&link->busy, now_us) - link->window_busy_us;
    if (link->window_bytes < LIMIT_WINDOW_BYTES && busy < LIMIT_WINDOW_US)
        return;
    raise_limit(link, link->window_bytes, busy);
    link->window_bytes = 0;
    link->window_busy_us += busy;
}

void meter_begin(struct meter_link *link, uint64_t now_us)
{
    busy_begin(&link->busy, now_us);
}

void meter_end(struct meter *meter, struct meter_link *link, uint64_t now_us, uint64_t begun_us,
               size_t bytes, bool ok)
{
    busy_end(&link->busy, now_us);
    if (link->busy.n == 0)
        update_busy(meter, link, now_us);
    if (!ok)
        return;
    sl_metric_add(link->bytes, (double)bytes);
    sl_metric_add(link->pieces, 1);
    sl_metric_observe(link->piece_seconds, seconds_of(now_us - begun_us));
    update_limit(link, now_us, bytes);
    pthread_mutex_lock(&meter->lock);
    link->totals.bytes += bytes;
    link->totals.pieces++;
    pthread_mutex_unlock(&meter->lock);
}

static void stream_done(struct meter_link *link, const struct transfer_stats *stats)
{
    sl_metric_add(link->ends[METER_DONE], 1);
    if (stats->busy_us > 0 && stats->bytes > 0) {
        sl_metric_observe(link->seconds, seconds_of(stats->busy_us));
        sl_metric_observe(link->throughput, (double)stats->bytes / seconds_of(stats->busy_us));
    }
    if (!link->totals.send)
        return;
    sl_metric_add(link->exposed_seconds, seconds_of(stats->exposed_us));
    sl_metric_observe(link->handover, seconds_of(stats->handover_us));
}

static void stream_failed(struct meter_link *link, enum transfer_reason reason,
                          const struct transfer_stats *stats)
{
    sl_metric_add(link->ends[reason == TRANSFER_CANCELLED ? METER_CANCELLED : METER_FAILED], 1);
    sl_metric_add(link->failures[reason], 1);
    sl_metric_add(link->totals.send ? link->lost_bytes : link->wasted_bytes, (double)stats->bytes);
}

void meter_stream(struct meter *meter, struct meter_link *link, enum transfer_reason reason,
                  const struct transfer_stats *stats)
{
    if (reason == 0)
        stream_done(link, stats);
    else
        stream_failed(link, reason, stats);
    sl_metric_add(link->credit_stall, seconds_of(stats->credit_stall_us));
    sl_metric_add(link->window_stall, seconds_of(stats->window_stall_us));
    pthread_mutex_lock(&meter->lock);
    link->totals.streams++;
    link->totals.exposed_us += reason == 0 ? stats->exposed_us : 0;
    link->totals.failures[reason] += reason != 0;
    pthread_mutex_unlock(&meter->lock);
}

void meter_probe(struct meter_link *link, uint64_t bytes, uint64_t busy_us)
{
    raise_limit(link, bytes, busy_us);
}

void meter_refused(struct meter_link *link, enum transfer_reason reason)
{
    sl_metric_add(link->refusals[reason], 1);
}

void meter_count(struct meter *meter, enum meter_count what)
{
    sl_metric_add(meter->counts[what], 1);
}

void meter_gauge(struct meter *meter, enum meter_gauge what, uint32_t value)
{
    sl_metric_set(meter->gauges[what], value);
}

void meter_refresh(struct meter *meter, uint64_t now_us)
{
    for (uint32_t i = 0; i < meter->n_links; i++)
        update_busy(meter, &meter->links[i], now_us);
}

uint32_t meter_totals(struct meter *meter, struct transfer_totals *totals_out, uint32_t max)
{
    pthread_mutex_lock(&meter->lock);
    uint32_t n = meter->n_links < max ? meter->n_links : max;
    for (uint32_t i = 0; i < n; i++)
        totals_out[i] = meter->links[i].totals;
    pthread_mutex_unlock(&meter->lock);
    return n;
}
