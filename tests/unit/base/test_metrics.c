/* Metrics: values, the text a Prometheus scraper reads, bounds, threads. */
#include "base/metrics.h"

#include "base/thread.h"
#include "support/support.h"

#include <math.h>

static char *render(struct sl_metrics *metrics)
{
    struct sl_buf buf;
    sl_buf_init(&buf, 10 << 20);
    sl_metrics_render(metrics, &buf);
    assert_ok(sl_buf_status(&buf, "metrics"));
    char *text = sl_strdup(buf.data == NULL ? "" : buf.data);
    sl_buf_fini(&buf);
    return text;
}

static void test_text(void **state)
{
    (void)state;
    static const double buckets[] = {0.001, 0.5, 2};
    struct sl_metrics *m = sl_metrics_create();
    struct sl_metric_family *unused =
        sl_metrics_family(m, SL_METRIC_COUNTER, "unused_total", "None.", "", NULL, 0);
    struct sl_metric_family *bytes =
        sl_metrics_family(m, SL_METRIC_COUNTER, "kv_transfer_bytes_total", "Bytes\\sent\nto peers",
                          "src dst", NULL, 0);
    sl_metric_add(sl_metric_get(bytes, "p0", "d\"0\\\n"), 12345678901);
    sl_metric_add(sl_metric_get(bytes, "p0", "d1"), 0.1);
    struct sl_metric_family *seconds =
        sl_metrics_family(m, SL_METRIC_HISTOGRAM, "ttft_seconds", "Time.", "model", buckets, 3);
    struct sl_metric *h = sl_metric_get(seconds, "m");
    sl_metric_observe(h, 0.5); /* an upper bound is inside */
    sl_metric_observe(h, 1);
    sl_metric_observe(h, 100);
    struct sl_metric *g =
        sl_metric_get(sl_metrics_family(m, SL_METRIC_GAUGE, "up", "Up.", "", NULL, 0));
    sl_metric_set(g, -2.5);
    char *text = render(m);
    assert_string_equal(
        text, "# HELP sluice_kv_transfer_bytes_total Bytes\\\\sent\\nto peers\n"
              "# TYPE sluice_kv_transfer_bytes_total counter\n"
              "sluice_kv_transfer_bytes_total{src=\"p0\",dst=\"d\\\"0\\\\\\n\"} 12345678901\n"
              "sluice_kv_transfer_bytes_total{src=\"p0\",dst=\"d1\"} 0.1\n"
              "# HELP sluice_ttft_seconds Time.\n"
              "# TYPE sluice_ttft_seconds histogram\n"
              "sluice_ttft_seconds_bucket{model=\"m\",le=\"0.001\"} 0\n"
              "sluice_ttft_seconds_bucket{model=\"m\",le=\"0.5\"} 1\n"
              "sluice_ttft_seconds_bucket{model=\"m\",le=\"2\"} 2\n"
              "sluice_ttft_seconds_bucket{model=\"m\",le=\"+Inf\"} 3\n"
              "sluice_ttft_seconds_sum{model=\"m\"} 101.5\n"
              "sluice_ttft_seconds_count{model=\"m\"} 3\n"
              "# HELP sluice_up Up.\n"
              "# TYPE sluice_up gauge\n"
              "sluice_up -2.5\n");
    assert_int_equal(sl_metric_count(h), 3);
    assert_true(sl_metric_value(h) == 101.5);
    assert_ptr_equal(sl_metrics_family(m, SL_METRIC_COUNTER, "unused_total", "", "", NULL, 0),
                     unused);
    sl_free(text);
    sl_metrics_destroy(m);
}

static void test_odd_values(void **state)
{
    (void)state;
    struct sl_metrics *m = sl_metrics_create();
    struct sl_metric_family *f =
        sl_metrics_family(m, SL_METRIC_GAUGE, "odd", "Odd.", "what", NULL, 0);
    sl_metric_set(sl_metric_get(f, "nan"), NAN);
    sl_metric_set(sl_metric_get(f, "inf"), INFINITY);
    sl_metric_set(sl_metric_get(f, "-inf"), -INFINITY);
    sl_metric_set(sl_metric_get(f, "sum"), 0.1 + 0.2);       /* takes all 17 digits */
    sl_metric_set(sl_metric_get(f, "a\xff\xc3\xa9\xc3"), 1); /* no UTF-8, no scrape */
    char longest[1000];
    memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    sl_metric_set(sl_metric_get(f, longest), 1);
    char *text = render(m);
    assert_non_null(strstr(text, "{what=\"nan\"} NaN\n"));
    assert_non_null(strstr(text, "{what=\"inf\"} +Inf\n"));
    assert_non_null(strstr(text, "{what=\"-inf\"} -Inf\n"));
    assert_non_null(strstr(text, "{what=\"sum\"} 0.30000000000000004\n"));
    assert_non_null(strstr(text, "{what=\"a?\xc3\xa9?\"} 1\n"));
    assert_true(strlen(text) < 750);
    sl_free(text);
    sl_metrics_destroy(m);
}

/* One value, rendered as the label of a series. */
static void assert_label(const char *value, const char *wanted)
{
    struct sl_metrics *m = sl_metrics_create();
    struct sl_metric_family *f =
        sl_metrics_family(m, SL_METRIC_GAUGE, "odd", "Odd.", "what", NULL, 0);
    sl_metric_set(sl_metric_get(f, value), 1);
    char *text = render(m), *line = sl_asprintf("\nsluice_odd{what=\"%s\"} 1\n", wanted);
    if (strstr(text, line) == NULL)
        fail_msg("want%s, got %s", line, text);
    sl_free(line);
    sl_free(text);
    sl_metrics_destroy(m);
}

static void test_labels_are_utf8(void **state)
{
    (void)state;
    static const char *const whole[] = {"\xc2\x80",         "\xdf\xbf",        "\xe0\xa0\x80",
                                        "\xed\x9f\xbf",     "\xef\xbf\xbf",    "\xf0\x90\x80\x80",
                                        "\xf1\x80\x80\x80", "\xf4\x8f\xbf\xbf"};
    for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++)
        assert_label(whole[i], whole[i]);
    static const char *const broken[] = {
        "\xc1\x80",         "\xe0\x9f\x80",     "\xed\xa0\x80", "\xf0\x8f\x80\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\x80",         "\xe0\xa0"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
        assert_label(broken[i], &"????"[4 - strlen(broken[i])]);
    char text[300], cut[300];
    memset(text, 'x', sizeof(text));
    text[256] = '\0'; /* the longest one there is */
    assert_label(text, text);
    memcpy(cut, text, sizeof(cut));
    text[256] = 'x';
    text[257] = '\0';
    assert_label(text, cut);
    memcpy(text + 255, "\xc3\xa9", 3); /* half a character is none */
    cut[255] = '\0';
    assert_label(text, cut);
}

static void test_series_are_bounded(void **state)
{
    (void)state;
    struct sl_metrics *m = sl_metrics_create();
    struct sl_metric_family *f =
        sl_metrics_family(m, SL_METRIC_COUNTER, "many_total", "Many.", "id", NULL, 0);
    struct sl_metric *first = NULL, *other = NULL;
    for (int i = 0; i < SL_METRIC_SERIES_MAX + 100; i++) {
        char id[16];
        snprintf(id, sizeof(id), "%d", i);
        struct sl_metric *metric = sl_metric_get(f, id);
        sl_metric_add(metric, 1);
        first = i == 0 ? metric : first;
        other = metric;
    }
    assert_ptr_equal(sl_metric_get(f, "0"), first);
    assert_ptr_equal(sl_metric_get(f, "other"), other);
    assert_true(sl_metric_value(other) == 101);
    char *text = render(m);
    size_t lines = 0;
    for (char *p = text; (p = strchr(p, '\n')) != NULL; p++)
        lines++;
    assert_int_equal(lines, SL_METRIC_SERIES_MAX + 2);
    sl_free(text);
    sl_metrics_destroy(m);
}

struct refresh {
    struct sl_metric_family *family;
    int calls;
};

static void refresh(void *arg)
{
    struct refresh *r = arg;
    sl_metric_set(sl_metric_get(r->family, "x"), ++r->calls);
}

static void render_elsewhere(void *arg)
{
    sl_free(render(arg));
}

static void test_refresh(void **state)
{
    (void)state;
    struct sl_metrics *m = sl_metrics_create();
    struct refresh r = {sl_metrics_family(m, SL_METRIC_GAUGE, "fresh", "F.", "l", NULL, 0), 0};
    sl_metrics_on_render(m, refresh, &r);
    sl_free(render(m));
    char *text = render(m);
    assert_non_null(strstr(text, "sluice_fresh{l=\"x\"} 2\n"));
    struct sl_thread thread = {0}; /* none of the calls above has kept the lock */
    assert_ok(sl_thread_start(&thread, "scrape", render_elsewhere, m));
    sl_thread_join(&thread);
    assert_int_equal(r.calls, 3);
    sl_free(text);
    sl_metrics_destroy(m);
}

#define N_THREADS 4
#define N_ADDS    2000
#define N_TIGHT   50000

static void add_many(void *arg)
{
    static const double buckets[] = {1, 2};
    struct sl_metrics *m = arg;
    struct sl_metric_family *c =
        sl_metrics_family(m, SL_METRIC_COUNTER, "adds_total", "Adds.", "who", NULL, 0);
    struct sl_metric_family *h =
        sl_metrics_family(m, SL_METRIC_HISTOGRAM, "seen", "Seen.", "", buckets, 2);
    struct sl_metric *tight = sl_metric_get(c, "tight"); /* no lock between the adds */
    for (int i = 0; i < N_TIGHT; i++)
        sl_metric_add(tight, 1);
    for (int i = 0; i < N_ADDS; i++) {
        sl_metric_add(sl_metric_get(c, "all"), 1);
        sl_metric_observe(sl_metric_get(h), i % 3 + 0.5);
    }
}

static void test_threads(void **state)
{
    (void)state;
    struct sl_metrics *m = sl_metrics_create();
    struct sl_thread threads[N_THREADS] = {0};
    for (int i = 0; i < N_THREADS; i++)
        assert_ok(sl_thread_start(&threads[i], "adder", add_many, m));
    sl_free(render(m));
    for (int i = 0; i < N_THREADS; i++)
        sl_thread_join(&threads[i]);
    char *text = render(m);
    assert_non_null(strstr(text, "sluice_adds_total{who=\"all\"} 8000\n"));
    assert_non_null(strstr(text, "sluice_adds_total{who=\"tight\"} 200000\n"));
    assert_non_null(strstr(text, "sluice_seen_count 8000\n"));
    sl_free(text);
    sl_metrics_destroy(m);
    sl_metrics_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_labels_are_utf8),
        cmocka_unit_test(test_refresh),
        cmocka_unit_test(test_series_are_bounded),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
