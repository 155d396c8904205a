/* Metrics and their Prometheus text exposition. Updating is lock-free (C11 atomics) from any thread;
 * creating and rendering take the registry's lock. Names get the prefix "sluice_". */
#ifndef SL_BASE_METRICS_H
#define SL_BASE_METRICS_H

#include "base/buf.h"
#include "base/status.h"

#include <stdint.h>

#define SL_METRIC_LABELS_MAX  6
#define SL_METRIC_BUCKETS_MAX 32
#define SL_METRIC_SERIES_MAX  4096 /* per family; further label sets go into one with "other" */

struct sl_metrics;       /* registry */
struct sl_metric_family; /* name + label names */
struct sl_metric;        /* one series */

enum sl_metric_type { SL_METRIC_COUNTER, SL_METRIC_GAUGE, SL_METRIC_HISTOGRAM };

struct sl_metrics *sl_metrics_create(void);
void sl_metrics_destroy(struct sl_metrics *metrics);

/* labels: space-separated names, "" for none. buckets: ascending upper bounds for histograms (+Inf
 * is added), else NULL. Asking again with the same name gives the same family. Never NULL. */
struct sl_metric_family *sl_metrics_family(struct sl_metrics *metrics, enum sl_metric_type type,
                                           const char *name, const char *help, const char *labels,
                                           const double *buckets, uint32_t n_buckets);
/* The series with these label values (as many as names); created at first use; never NULL. Cheap
 * enough for each request, not for each token: keep the pointer. */
struct sl_metric *sl_metric_get(struct sl_metric_family *family, ...);
struct sl_metric *sl_metric_getv(struct sl_metric_family *family, const char *const *values);

void sl_metric_add(struct sl_metric *metric, double amount);    /* counter, gauge */
void sl_metric_set(struct sl_metric *metric, double value);     /* gauge; a counter mirrored */
void sl_metric_observe(struct sl_metric *metric, double value); /* histogram */
double sl_metric_value(const struct sl_metric *metric);         /* histogram: the sum */
uint64_t sl_metric_count(const struct sl_metric *metric);       /* histogram: observations */

/* Called under the lock before rendering, to refresh gauges. */
void sl_metrics_on_render(struct sl_metrics *metrics, void (*refresh)(void *arg), void *arg);
void sl_metrics_render(struct sl_metrics *metrics, struct sl_buf *out);

#endif
