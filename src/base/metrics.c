/* Metrics and their Prometheus text exposition (format 0.0.4).
 *
 *   registry ─► family (name, labels, buckets) ─► series (label values, atomics)
 *
 * Owns everything it hands out; families and series live until the registry goes, so callers keep
 * pointers. Updates are relaxed atomics: a scrape may see the sum of an observation without its
 * bucket, never a torn number. A histogram's count is the sum of its buckets, so a rendered one is
 * consistent in itself. The lock is recursive because refresh callbacks may ask for series.
 * Series are found by a hash table that is doubled at half load. */
#include "base/metrics.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFRESH_MAX     32
#define LABEL_BYTES_MAX 256 /* of one value; longer ones are cut */
#define TABLE_FIRST     16
#define PREFIX          "sluice_"

struct sl_metric {
    struct sl_metric_family *family;
    char **values;          /* [n_labels] */
    _Atomic uint64_t bits;  /* of a double: value, or sum */
    _Atomic uint64_t *hits; /* [n_buckets + 1], histograms only */
};

struct sl_metric_family {
    struct sl_metrics *metrics;
    struct sl_metric_family *next; /* in order of creation */
    enum sl_metric_type type;
    char *name;
    char *help;
    char *label_text; /* "src dst", split at NULs */
    const char *labels[SL_METRIC_LABELS_MAX];
    uint32_t n_labels;
    double buckets[SL_METRIC_BUCKETS_MAX];
    uint32_t n_buckets;
    struct sl_metric **series; /* [series_capacity], in order of creation */
    uint32_t n_series;
    uint32_t series_capacity;
    uint32_t *table; /* [table_size] index + 1 into series, 0 free */
    uint32_t table_size;
};

struct refresh {
    void (*run)(void *arg);
    void *arg;
};

struct sl_metrics {
    pthread_mutex_t lock;
    struct sl_metric_family *first, *last;
    struct refresh refreshes[REFRESH_MAX];
    uint32_t n_refreshes;
};

struct sl_metrics *sl_metrics_create(void)
{
    struct sl_metrics *metrics = sl_zalloc(1, sizeof(*metrics));
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&metrics->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return metrics;
}

static void series_destroy(struct sl_metric *metric)
{
    for (uint32_t i = 0; i < metric->family->n_labels; i++)
        sl_free(metric->values[i]);
    sl_free(metric->values);
    sl_free(metric->hits);
    sl_free(metric);
}

static void family_destroy(struct sl_metric_family *family)
{
    for (uint32_t i = 0; i < family->n_series; i++)
        series_destroy(family->series[i]);
    sl_free(family->series);
    sl_free(family->table);
    sl_free(family->name);
    sl_free(family->help);
    sl_free(family->label_text);
    sl_free(family);
}

void sl_metrics_destroy(struct sl_metrics *metrics)
{
    if (metrics == NULL)
        return;
    struct sl_metric_family *next;
    for (struct sl_metric_family *f = metrics->first; f != NULL; f = next) {
        next = f->next;
        family_destroy(f);
    }
    pthread_mutex_destroy(&metrics->lock);
    sl_free(metrics);
}

static void split_labels(struct sl_metric_family *family, const char *labels)
{
    family->label_text = sl_strdup(labels);
    for (char *p = family->label_text; *p != '\0';) {
        SL_ASSERT(family->n_labels < SL_METRIC_LABELS_MAX);
        family->labels[family->n_labels++] = p;
        p += strcspn(p, " ");
        if (*p == ' ')
            *p++ = '\0';
    }
}

static struct sl_metric_family *family_create(struct sl_metrics *metrics, enum sl_metric_type type,
                                              const char *name, const char *help,
                                              const char *labels, const double *buckets,
                                              uint32_t n_buckets)
{
    SL_ASSERT(n_buckets <= SL_METRIC_BUCKETS_MAX);
    SL_ASSERT((type == SL_METRIC_HISTOGRAM) == (n_buckets > 0));
    struct sl_metric_family *family = sl_zalloc(1, sizeof(*family));
    family->metrics = metrics;
    family->type = type;
    family->name = sl_asprintf(PREFIX "%s", name);
    family->help = sl_strdup(help);
    split_labels(family, labels);
    for (uint32_t i = 0; i < n_buckets; i++) {
        SL_ASSERT(i == 0 || buckets[i - 1] < buckets[i]);
        family->buckets[i] = buckets[i];
    }
    family->n_buckets = n_buckets;
    family->table_size = TABLE_FIRST;
    family->table = sl_zalloc(TABLE_FIRST, sizeof(family->table[0]));
    if (metrics->last == NULL)
        metrics->first = family;
    else
        metrics->last->next = family;
    metrics->last = family;
    return family;
}

struct sl_metric_family *sl_metrics_family(struct sl_metrics *metrics, enum sl_metric_type type,
                                           const char *name, const char *help, const char *labels,
                                           const double *buckets, uint32_t n_buckets)
{
    pthread_mutex_lock(&metrics->lock);
    struct sl_metric_family *family = metrics->first;
    while (family != NULL && strcmp(family->name + strlen(PREFIX), name) != 0)
        family = family->next;
    if (family == NULL)
        family = family_create(metrics, type, name, help, labels, buckets, n_buckets);
    SL_ASSERT(family->type == type);
    pthread_mutex_unlock(&metrics->lock);
    return family;
}

/* Copies a label value: cut at LABEL_BYTES_MAX, and what is no UTF-8 becomes '?', since one such
 * byte makes a scraper refuse the whole page. */
static void clean_label(const char *value, char out[LABEL_BYTES_MAX + 1])
{
    size_t used = 0;
    for (size_t left = strlen(value); left > 0;) {
        uint32_t code;
        int n = sl_utf8_next(value, left, &code);
        size_t bytes = n > 0 ? (size_t)n : 1;
        if (used + bytes > LABEL_BYTES_MAX)
            break;
        if (n > 0)
            memcpy(out + used, value, bytes);
        else
            out[used] = '?';
        used += bytes;
        value += bytes;
        left -= bytes;
    }
    out[used] = '\0';
}

typedef char label_value[LABEL_BYTES_MAX + 1];

static uint64_t hash_values(label_value *values, uint32_t n)
{
    uint64_t hash = 14695981039346656037ull; /* FNV-1a; the NUL ends each value */
    for (uint32_t i = 0; i < n; i++) {
        const char *p = values[i];
        do {
            hash = (hash ^ (unsigned char)*p) * 1099511628211ull;
        } while (*p++ != '\0');
    }
    return hash;
}

/* Index of the table's slot that holds these values, or of the free slot where they belong. */
static uint32_t find_slot(const struct sl_metric_family *family, label_value *values)
{
    uint32_t mask = family->table_size - 1;
    uint32_t slot = (uint32_t)hash_values(values, family->n_labels) & mask;
    for (; family->table[slot] != 0; slot = (slot + 1) & mask) {
        const struct sl_metric *metric = family->series[family->table[slot] - 1];
        uint32_t i = 0;
        while (i < family->n_labels && strcmp(metric->values[i], values[i]) == 0)
            i++;
        if (i == family->n_labels)
            break;
    }
    return slot;
}

static void grow_table(struct sl_metric_family *family)
{
    sl_free(family->table);
    family->table_size *= 2;
    family->table = sl_zalloc(family->table_size, sizeof(family->table[0]));
    for (uint32_t s = 0; s < family->n_series; s++) {
        label_value values[SL_METRIC_LABELS_MAX];
        for (uint32_t i = 0; i < family->n_labels; i++)
            snprintf(values[i], sizeof(values[i]), "%s", family->series[s]->values[i]);
        family->table[find_slot(family, values)] = s + 1;
    }
}

static struct sl_metric *series_create(struct sl_metric_family *family, label_value *values)
{
    struct sl_metric *metric = sl_zalloc(1, sizeof(*metric));
    metric->family = family;
    metric->values = sl_zalloc(family->n_labels, sizeof(metric->values[0]));
    for (uint32_t i = 0; i < family->n_labels; i++)
        metric->values[i] = sl_strdup(values[i]);
    if (family->type == SL_METRIC_HISTOGRAM)
        metric->hits = sl_zalloc(family->n_buckets + 1, sizeof(metric->hits[0]));
    if (family->n_series == family->series_capacity) {
        uint32_t capacity = family->series_capacity == 0 ? 8 : 2 * family->series_capacity;
        struct sl_metric **series = sl_zalloc(capacity, sizeof(struct sl_metric *));
        if (family->n_series > 0)
            memcpy(series, family->series, family->n_series * sizeof(struct sl_metric *));
        sl_free(family->series);
        family->series = series;
        family->series_capacity = capacity;
    }
    family->series[family->n_series++] = metric;
    return metric;
}

/* Under the lock. The last series of a full family is the one with "other" everywhere. */
static struct sl_metric *get_series(struct sl_metric_family *family, label_value *values)
{
    uint32_t slot = find_slot(family, values);
    if (family->table[slot] != 0)
        return family->series[family->table[slot] - 1];
    if (family->n_series >= SL_METRIC_SERIES_MAX - 1) {
        for (uint32_t i = 0; i < family->n_labels; i++)
            snprintf(values[i], sizeof(values[i]), "other");
        slot = find_slot(family, values);
        if (family->table[slot] != 0)
            return family->series[family->table[slot] - 1];
    }
    struct sl_metric *metric = series_create(family, values);
    family->table[slot] = family->n_series;
    if (family->n_series * 2 > family->table_size)
        grow_table(family);
    return metric;
}

struct sl_metric *sl_metric_getv(struct sl_metric_family *family, const char *const *values)
{
    label_value clean[SL_METRIC_LABELS_MAX];
    for (uint32_t i = 0; i < family->n_labels; i++)
        clean_label(values[i], clean[i]);
    pthread_mutex_lock(&family->metrics->lock);
    struct sl_metric *metric = get_series(family, clean);
    pthread_mutex_unlock(&family->metrics->lock);
    return metric;
}

struct sl_metric *sl_metric_get(struct sl_metric_family *family, ...)
{
    const char *values[SL_METRIC_LABELS_MAX];
    va_list args;
    va_start(args, family);
    for (uint32_t i = 0; i < family->n_labels; i++)
        values[i] = va_arg(args, const char *);
    va_end(args);
    return sl_metric_getv(family, values);
}

static double to_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint64_t to_bits(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static double load_value(const struct sl_metric *metric)
{
    return to_double(atomic_load_explicit(&metric->bits, memory_order_relaxed));
}

static void add_value(struct sl_metric *metric, double amount)
{
    uint64_t before = atomic_load_explicit(&metric->bits, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&metric->bits, &before,
                                                  to_bits(to_double(before) + amount),
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
}

void sl_metric_add(struct sl_metric *metric, double amount)
{
    SL_ASSERT(metric->family->type != SL_METRIC_HISTOGRAM);
    add_value(metric, amount);
}

void sl_metric_set(struct sl_metric *metric, double value)
{
    SL_ASSERT(metric->family->type != SL_METRIC_HISTOGRAM);
    atomic_store_explicit(&metric->bits, to_bits(value), memory_order_relaxed);
}

void sl_metric_observe(struct sl_metric *metric, double value)
{
    const struct sl_metric_family *family = metric->family;
    SL_ASSERT(family->type == SL_METRIC_HISTOGRAM);
    uint32_t bucket = 0;
    while (bucket < family->n_buckets && !(value <= family->buckets[bucket]))
        bucket++;
    atomic_fetch_add_explicit(&metric->hits[bucket], 1, memory_order_relaxed);
    add_value(metric, value);
}

double sl_metric_value(const struct sl_metric *metric)
{
    return load_value(metric);
}

uint64_t sl_metric_count(const struct sl_metric *metric)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i <= metric->family->n_buckets && metric->hits != NULL; i++)
        count += atomic_load_explicit(&metric->hits[i], memory_order_relaxed);
    return count;
}

void sl_metrics_on_render(struct sl_metrics *metrics, void (*refresh)(void *arg), void *arg)
{
    pthread_mutex_lock(&metrics->lock);
    SL_ASSERT(metrics->n_refreshes < REFRESH_MAX);
    metrics->refreshes[metrics->n_refreshes++] = (struct refresh){refresh, arg};
    pthread_mutex_unlock(&metrics->lock);
}

/* The shortest text that reads back as the same number. */
static void add_number(struct sl_buf *out, double value)
{
    if (isnan(value)) {
        sl_buf_add_text(out, "NaN");
    } else if (isinf(value)) {
        sl_buf_add_text(out, value > 0 ? "+Inf" : "-Inf");
    } else {
        char text[40];
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(text, sizeof(text), "%.*g", digits, value);
            if (strtod(text, NULL) == value)
                break;
        }
        sl_buf_add_text(out, text);
    }
}

static void add_escaped(struct sl_buf *out, const char *text, bool quotes)
{
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\\')
            sl_buf_add_text(out, "\\\\");
        else if (*p == '\n')
            sl_buf_add_text(out, "\\n");
        else if (*p == '"' && quotes)
            sl_buf_add_text(out, "\\\"");
        else
            sl_buf_add(out, p, 1);
    }
}

/* {a="x",b="y"}; with `le`, that label last. Nothing if there is no label. */
static void add_labels(struct sl_buf *out, const struct sl_metric *metric, const double *le)
{
    const struct sl_metric_family *family = metric->family;
    if (family->n_labels == 0 && le == NULL)
        return;
    for (uint32_t i = 0; i < family->n_labels; i++) {
        sl_buf_add_format(out, "%c%s=\"", i == 0 ? '{' : ',', family->labels[i]);
        add_escaped(out, metric->values[i], true);
        sl_buf_add_text(out, "\"");
    }
    if (le != NULL) {
        sl_buf_add_text(out, family->n_labels == 0 ? "{le=\"" : ",le=\"");
        add_number(out, *le);
        sl_buf_add_text(out, "\"");
    }
    sl_buf_add_text(out, "}");
}

static void render_histogram(struct sl_buf *out, const struct sl_metric *metric)
{
    const struct sl_metric_family *family = metric->family;
    uint64_t count = 0;
    for (uint32_t i = 0; i <= family->n_buckets; i++) {
        double le = i < family->n_buckets ? family->buckets[i] : (double)INFINITY;
        count += atomic_load_explicit(&metric->hits[i], memory_order_relaxed);
        sl_buf_add_format(out, "%s_bucket", family->name);
        add_labels(out, metric, &le);
        sl_buf_add_format(out, " %" PRIu64 "\n", count);
    }
    sl_buf_add_format(out, "%s_sum", family->name);
    add_labels(out, metric, NULL);
    sl_buf_add_text(out, " ");
    add_number(out, load_value(metric));
    sl_buf_add_format(out, "\n%s_count", family->name);
    add_labels(out, metric, NULL);
    sl_buf_add_format(out, " %" PRIu64 "\n", count);
}

static void render_series(struct sl_buf *out, const struct sl_metric *metric)
{
    if (metric->family->type == SL_METRIC_HISTOGRAM) {
        render_histogram(out, metric);
        return;
    }
    sl_buf_add_text(out, metric->family->name);
    add_labels(out, metric, NULL);
    sl_buf_add_text(out, " ");
    add_number(out, load_value(metric));
    sl_buf_add_text(out, "\n");
}

static void render_family(struct sl_buf *out, const struct sl_metric_family *family)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    if (family->n_series == 0)
        return;
    sl_buf_add_format(out, "# HELP %s ", family->name);
    add_escaped(out, family->help, false);
    sl_buf_add_format(out, "\n# TYPE %s %s\n", family->name, types[family->type]);
    for (uint32_t i = 0; i < family->n_series; i++)
        render_series(out, family->series[i]);
}

void sl_metrics_render(struct sl_metrics *metrics, struct sl_buf *out)
{
    pthread_mutex_lock(&metrics->lock);
    for (uint32_t i = 0; i < metrics->n_refreshes; i++)
        metrics->refreshes[i].run(metrics->refreshes[i].arg);
    for (const struct sl_metric_family *f = metrics->first; f != NULL; f = f->next)
        render_family(out, f);
    pthread_mutex_unlock(&metrics->lock);
}
