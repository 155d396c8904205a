/* Figures of a run: latencies of the requests that succeeded, errors by kind, and what the
 * coordinator's counters say happened between two scrapes of /metrics.
 *
 * Quantiles are nearest-rank over all values, not estimates. A handover's quantiles come from the
 * server's histogram, hence are interpolated within a bucket and say so by their name. */
#include "load.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_NAME_MAX 128

/* ---- samples ---- */

void load_samples_add(struct load_samples *samples, double value)
{
    if (samples->n == samples->capacity) {
        size_t capacity = samples->capacity == 0 ? 1024 : 2 * samples->capacity;
        double *values = capacity > LOAD_SAMPLES_MAX
                             ? NULL
                             : sl_try_realloc(samples->values, capacity, sizeof(*values));
        if (values == NULL)
            return;
        samples->values = values;
        samples->capacity = capacity;
    }
    samples->values[samples->n++] = value;
    samples->sum += value;
    samples->sorted = false;
}

void load_samples_fini(struct load_samples *samples)
{
    sl_free(samples->values);
    *samples = (struct load_samples){0};
}

double load_samples_mean(const struct load_samples *samples)
{
    return samples->n == 0 ? 0.0 : samples->sum / (double)samples->n;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double load_samples_quantile(struct load_samples *samples, double q)
{
    if (samples->n == 0)
        return 0.0;
    if (!samples->sorted)
        qsort(samples->values, samples->n, sizeof(*samples->values), compare);
    samples->sorted = true;
    double rank = ceil(q * (double)samples->n);
    size_t index = rank < 1.0 ? 0 : (size_t)rank - 1;
    return samples->values[index < samples->n ? index : samples->n - 1];
}

/* ---- totals ---- */

static void count_error(struct load_totals *totals, const char *kind, const char *message)
{
    for (uint32_t i = 0; i < totals->n_errors; i++) {
        if (strcmp(totals->errors[i].kind, kind) == 0) {
            totals->errors[i].count++;
            return;
        }
    }
    uint32_t i = totals->n_errors < LOAD_KINDS_MAX ? totals->n_errors++ : LOAD_KINDS_MAX - 1;
    snprintf(totals->errors[i].kind, sizeof(totals->errors[i].kind), "%s",
             i == LOAD_KINDS_MAX - 1 ? "other" : kind);
    if (totals->errors[i].count++ == 0)
        snprintf(totals->errors[i].message, sizeof(totals->errors[i].message), "%s", message);
}

void load_totals_add(struct load_totals *totals, const struct load_result *result)
{
    totals->output_tokens += result->output_tokens;
    if (!result->ok) {
        totals->n_failed++;
        count_error(totals, result->error, result->message);
        return;
    }
    totals->n_ok++;
    totals->prompt_tokens += result->prompt_tokens;
    totals->cached_tokens += result->cached_tokens;
    double ttft = (double)(result->first_us - result->start_us) / 1e6;
    double tpot = result->output_tokens < 2 ? 0.0
                                            : (double)(result->last_us - result->first_us) / 1e6 /
                                                  (double)(result->output_tokens - 1);
    load_samples_add(&totals->ttft, ttft);
    load_samples_add(&totals->e2e, (double)(result->end_us - result->start_us) / 1e6);
    if (result->output_tokens >= 2)
        load_samples_add(&totals->tpot, tpot);
    totals->n_good += (totals->slo_ttft_s <= 0.0 || ttft <= totals->slo_ttft_s) &&
                      (totals->slo_itl_s <= 0.0 || tpot <= totals->slo_itl_s);
}

void load_totals_fini(struct load_totals *totals)
{
    load_samples_fini(&totals->ttft);
    load_samples_fini(&totals->tpot);
    load_samples_fini(&totals->itl);
    load_samples_fini(&totals->e2e);
}

/* ---- the coordinator's counters ---- */

/* Value of a line `name{labels} value` if it is of this name and its labels contain `label`. */
static bool line_value(const char *line, size_t n, const char *name, const char *label,
                       double *value_out)
{
    size_t length = strlen(name);
    if (n <= length || memcmp(line, name, length) != 0 ||
        (line[length] != ' ' && line[length] != '{'))
        return false;
    const char *space = memrchr(line, ' ', n);
    if (space == NULL)
        return false;
    const char *labels = line + length;
    if (label[0] != '\0' && memmem(labels, (size_t)(space - labels), label, strlen(label)) == NULL)
        return false;
    *value_out = strtod(space + 1, NULL);
    return true;
}

double load_metric_sum(const char *page, const char *name, const char *label)
{
    double sum = 0.0;
    for (const char *line = page; line != NULL && *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        double value;
        if (line_value(line, (size_t)(end - line), name, label, &value))
            sum += value;
        line = *end == '\0' ? NULL : end + 1;
    }
    return sum;
}

struct scrape {
    const char *before, *after;
};

static double delta(const struct scrape *scrape, const char *name, const char *label)
{
    return load_metric_sum(scrape->after, name, label) -
           load_metric_sum(scrape->before, name, label);
}

/* Quantile of what a histogram took in between; 0 when that is nothing. */
static double delta_quantile(const struct scrape *scrape, const char *name, double q)
{
    char bucket[LINE_NAME_MAX], count[LINE_NAME_MAX];
    snprintf(bucket, sizeof(bucket), "%s_bucket", name);
    snprintf(count, sizeof(count), "%s_count", name);
    double total = delta(scrape, count, "");
    double low = 0.0, below = 0.0;
    if (total <= 0.0)
        return 0.0;
    for (const char *line = scrape->after; line != NULL && *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        double value;
        const char *le = memmem(line, (size_t)(end - line), "le=\"", 4);
        if (le != NULL && line_value(line, (size_t)(end - line), bucket, "", &value)) {
            char label[64];
            snprintf(label, sizeof(label), "%.*s", (int)(strcspn(le + 4, "\"") + 5), le);
            double until = value - load_metric_sum(scrape->before, bucket, label);
            double bound = strtod(le + 4, NULL);
            if (until >= q * total)
                return isinf(bound) || until <= below
                           ? low
                           : low + (bound - low) * (q * total - below) / (until - below);
            low = bound;
            below = until;
        }
        line = *end == '\0' ? NULL : end + 1;
    }
    return low;
}

static json_t *server_report(const char *before, const char *after)
{
    if (before == NULL || after == NULL)
        return json_null();
    struct scrape scrape = {before, after};
    static const char send[] = "side=\"send\"", recv[] = "side=\"recv\"";
    double n = delta(&scrape, "sluice_handover_seconds_count", "");
    double handover = delta(&scrape, "sluice_handover_seconds_sum", "");
    double sent = delta(&scrape, "sluice_kv_transfer_bytes_total", send);
    double received = delta(&scrape, "sluice_kv_transfer_bytes_total", recv);
    double busy = delta(&scrape, "sluice_kv_transfer_busy_seconds_total", send);
    double exposed = delta(&scrape, "sluice_kv_transfer_exposed_seconds_total", send);
    json_t *report = json_object();
    json_object_set_new(report, "handovers", json_real(n));
    json_object_set_new(report, "handover_mean_ms", json_real(n > 0 ? 1e3 * handover / n : 0.0));
    json_object_set_new(report, "handover_p50_interpolated_ms",
                        json_real(1e3 * delta_quantile(&scrape, "sluice_handover_seconds", 0.5)));
    json_object_set_new(report, "handover_p99_interpolated_ms",
                        json_real(1e3 * delta_quantile(&scrape, "sluice_handover_seconds", 0.99)));
    json_object_set_new(report, "transfer_bytes_sent", json_real(sent));
    json_object_set_new(report, "transfer_bytes_received", json_real(received));
    json_object_set_new(report, "transfer_busy_s", json_real(busy));
    json_object_set_new(report, "transfer_exposed_s", json_real(exposed));
    json_object_set_new(report, "transfer_throughput_mb_s",
                        json_real(busy > 0 ? sent / busy / 1e6 : 0.0));
    json_object_set_new(report, "transfer_hidden_fraction",
                        busy > 0 ? json_real(1.0 - exposed / busy) : json_null());
    json_object_set_new(report, "transfer_failures",
                        json_real(delta(&scrape, "sluice_kv_transfer_failures_total", send)));
    json_object_set_new(report, "requests_rejected",
                        json_real(delta(&scrape, "sluice_requests_rejected_total", "")));
    return report;
}

/* ---- the report ---- */

static json_t *latency(struct load_samples *samples)
{
    json_t *object = json_object();
    json_object_set_new(object, "n", json_integer((json_int_t)samples->n));
    json_object_set_new(object, "mean", json_real(1e3 * load_samples_mean(samples)));
    json_object_set_new(object, "p50", json_real(1e3 * load_samples_quantile(samples, 0.50)));
    json_object_set_new(object, "p90", json_real(1e3 * load_samples_quantile(samples, 0.90)));
    json_object_set_new(object, "p99", json_real(1e3 * load_samples_quantile(samples, 0.99)));
    json_object_set_new(object, "max", json_real(1e3 * load_samples_quantile(samples, 1.0)));
    return object;
}

json_t *load_report(struct load_totals *totals, const char *before, const char *after)
{
    double s = totals->seconds > 0.0 ? totals->seconds : 1e-9;
    json_t *errors = json_object(), *messages = json_object();
    for (uint32_t i = 0; i < totals->n_errors; i++) {
        json_object_set_new(errors, totals->errors[i].kind, json_integer(totals->errors[i].count));
        json_t *message = json_string(totals->errors[i].message); /* NULL: cut inside a character */
        json_object_set_new(messages, totals->errors[i].kind,
                            message != NULL ? message : json_string(""));
    }
    json_t *report = json_object();
    json_object_set_new(report, "seconds", json_real(totals->seconds));
    json_object_set_new(report, "requests_ok", json_integer(totals->n_ok));
    json_object_set_new(report, "requests_failed", json_integer(totals->n_failed));
    json_object_set_new(report, "errors", errors);
    json_object_set_new(report, "first_messages", messages);
    json_object_set_new(report, "prompt_tokens", json_integer((json_int_t)totals->prompt_tokens));
    json_object_set_new(report, "cached_tokens", json_integer((json_int_t)totals->cached_tokens));
    json_object_set_new(report, "output_tokens", json_integer((json_int_t)totals->output_tokens));
    json_object_set_new(report, "requests_per_s", json_real((double)totals->n_ok / s));
    json_object_set_new(report, "prompt_tokens_per_s",
                        json_real((double)totals->prompt_tokens / s));
    json_object_set_new(report, "output_tokens_per_s",
                        json_real((double)totals->output_tokens / s));
    json_object_set_new(report, "goodput_requests_per_s", json_real((double)totals->n_good / s));
    json_object_set_new(
        report, "good_fraction",
        json_real(totals->n_ok + totals->n_failed == 0
                      ? 0.0
                      : (double)totals->n_good / (double)(totals->n_ok + totals->n_failed)));
    json_object_set_new(report, "ttft_ms", latency(&totals->ttft));
    json_object_set_new(report, "tpot_ms", latency(&totals->tpot));
    json_object_set_new(report, "itl_ms", latency(&totals->itl));
    json_object_set_new(report, "e2e_ms", latency(&totals->e2e));
    json_object_set_new(report, "server", server_report(before, after));
    return report;
}

static double number(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

static void print_latency(const json_t *report, const char *name, const char *label)
{
    const json_t *row = json_object_get(report, name);
    printf("%-28s %10.2f %10.2f %10.2f %10.2f %10.2f\n", label, number(row, "mean"),
           number(row, "p50"), number(row, "p90"), number(row, "p99"), number(row, "max"));
}

static void print_server(const json_t *server)
{
    if (!json_is_object(server)) {
        printf("no /metrics: no figures of handover and transfer\n");
        return;
    }
    printf("handover (%.0f)                mean %.2f ms, p50 ~%.2f, p99 ~%.2f\n",
           number(server, "handovers"), number(server, "handover_mean_ms"),
           number(server, "handover_p50_interpolated_ms"),
           number(server, "handover_p99_interpolated_ms"));
    printf("transfer                     %.2f MB sent, %.2f MB received, %.1f MB/s while busy\n",
           number(server, "transfer_bytes_sent") / 1e6,
           number(server, "transfer_bytes_received") / 1e6,
           number(server, "transfer_throughput_mb_s"));
    const json_t *hidden = json_object_get(server, "transfer_hidden_fraction");
    if (json_is_real(hidden))
        printf("hidden fraction              %.3f (busy %.3f s, exposed %.3f s)\n",
               json_number_value(hidden), number(server, "transfer_busy_s"),
               number(server, "transfer_exposed_s"));
}

void load_report_print(const json_t *report)
{
    printf("requests                     %.0f ok, %.0f failed in %.2f s\n",
           number(report, "requests_ok"), number(report, "requests_failed"),
           number(report, "seconds"));
    const char *kind;
    json_t *count;
    json_t *errors = json_object_get(report, "errors");
    const json_t *messages = json_object_get(report, "first_messages");
    json_object_foreach(errors, kind, count)
    {
        const char *first = json_string_value(json_object_get(messages, kind));
        printf("  failed: %-19s %lld\n", kind, (long long)json_integer_value(count));
        if (first != NULL && first[0] != '\0')
            printf("    the first: %s\n", first);
    }
    if (number(report, "requests_ok") < 1) {
        printf("no request succeeded: no figures of throughput and latency\n");
        return;
    }
    printf("throughput                   %.2f requests/s, %.1f output tokens/s, %.1f prompt "
           "tokens/s\n",
           number(report, "requests_per_s"), number(report, "output_tokens_per_s"),
           number(report, "prompt_tokens_per_s"));
    printf("cached                       %.0f of %.0f prompt tokens\n",
           number(report, "cached_tokens"), number(report, "prompt_tokens"));
    printf("goodput                      %.2f requests/s (%.1f%% within the bounds)\n",
           number(report, "goodput_requests_per_s"), 100.0 * number(report, "good_fraction"));
    printf("%-28s %10s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p99", "max");
    print_latency(report, "ttft_ms", "time to first token");
    print_latency(report, "tpot_ms", "time per output token");
    print_latency(report, "itl_ms", "inter-token latency");
    print_latency(report, "e2e_ms", "end to end");
    print_server(json_object_get(report, "server"));
}
