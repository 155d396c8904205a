/* What a link counts, worked out by hand, as a scraper and as a heartbeat see it. */
#include "transfer/meter.h"

#include "support/support.h"

#define MIB ((size_t)1 << 20)

struct fixture {
    struct sl_metrics *metrics;
    struct meter *meter;
};

static int setup(void **state)
{
    struct fixture *f = sl_zalloc(1, sizeof(*f));
    f->metrics = sl_metrics_create();
    f->meter = meter_create(f->metrics, "p0", "loop");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    meter_destroy(f->meter);
    sl_metrics_destroy(f->metrics);
    sl_free(f);
    return 0;
}

/* A series of the page; -1: there is none. `labels` as they stand there. */
static double value(struct fixture *f, const char *name, const char *labels)
{
    struct sl_buf page;
    sl_buf_init(&page, 4 << 20);
    sl_metrics_render(f->metrics, &page);
    assert_ok(sl_buf_status(&page, "page"));
    char *start = sl_asprintf("\nsluice_%s%s ", name, labels);
    const char *line = strstr(page.data, start);
    double number = line == NULL ? -1 : strtod(line + strlen(start), NULL);
    sl_free(start);
    sl_buf_fini(&page);
    return number;
}

#define SENT(more) "{src=\"p0\",dst=\"d1\",transport=\"loop\",side=\"send\"" more "}"
#define GOT(more)  "{src=\"d1\",dst=\"p0\",transport=\"loop\",side=\"recv\"" more "}"

static void assert_value(struct fixture *f, const char *name, const char *labels, double wanted)
{
    double got = value(f, name, labels), slack = wanted > 1 ? 1e-9 * wanted : 1e-9;
    if (!(got > wanted - slack && got < wanted + slack))
        fail_msg("%s%s is %.9g; want %.9g", name, labels, got, wanted);
}

static struct transfer_totals totals_of(struct fixture *f, uint32_t link)
{
    struct transfer_totals totals[4];
    assert_true(meter_totals(f->meter, totals, 4) > link);
    return totals[link];
}

static void test_busy_is_a_union(void **state)
{
    (void)state;
    struct busy busy = {0};
    busy_begin(&busy, 100);
    assert_int_equal(busy_total(&busy, 130), 30); /* the open part included */
    busy_begin(&busy, 150);
    busy_end(&busy, 200);
    assert_int_equal(busy_total(&busy, 220), 120);
    busy_end(&busy, 250);
    assert_int_equal(busy_total(&busy, 900), 150); /* 100 to 250, once */
    busy_begin(&busy, 1000);
    busy_end(&busy, 1010);
    assert_int_equal(busy_total(&busy, 2000), 160);
}

static void test_pieces(void **state)
{
    struct fixture *f = *state;
    struct meter_link *link = meter_link(f->meter, "d1", true);
    meter_begin(link, 1000);
    meter_begin(link, 2000);
    meter_end(f->meter, link, 4000, 1000, 700, true);
    assert_value(f, "kv_transfer_busy_seconds_total", SENT(""), 0); /* one is in flight still */
    meter_refresh(f->meter, 5000);
    assert_value(f, "kv_transfer_busy_seconds_total", SENT(""), 0.004);
    meter_end(f->meter, link, 6000, 2000, 9999, false); /* it failed: time, and no bytes */
    assert_value(f, "kv_transfer_busy_seconds_total", SENT(""), 0.005);
    meter_refresh(f->meter, 9000);
    assert_value(f, "kv_transfer_busy_seconds_total", SENT(""), 0.005);
    assert_value(f, "kv_transfer_bytes_total", SENT(""), 700);
    assert_value(f, "kv_transfer_pieces_total", SENT(""), 1);
    assert_value(f, "kv_transfer_piece_seconds_count", SENT(""), 1);
    assert_value(f, "kv_transfer_piece_seconds_sum", SENT(""), 0.003);
    assert_value(f, "kv_transfer_seconds_count", SENT(""), 0); /* of whole streams */
    struct transfer_totals totals = totals_of(f, 0);
    assert_string_equal(totals.src, "p0");
    assert_string_equal(totals.dst, "d1");
    assert_true(totals.send);
    assert_int_equal(totals.bytes, 700);
    assert_int_equal(totals.pieces, 1);
    assert_int_equal(totals.busy_us, 5000);
}

/* The best of windows of eight MiB or ten busy milliseconds; idle time is in none. */
static void test_limit(void **state)
{
    struct fixture *f = *state;
    struct meter_link *link = meter_link(f->meter, "d1", true);
    uint64_t now = 0;
    for (int i = 0; i < 7; i++) { /* a MiB a millisecond, and pauses between */
        meter_begin(link, now);
        meter_end(f->meter, link, now + 1000, now, MIB, true);
        now += 50000;
    }
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), 0); /* too little to say */
    meter_begin(link, now);
    meter_end(f->meter, link, now + 1000, now, MIB, true);
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), MIB * 1000.0);
    now += 50000; /* ten milliseconds of something slower: it only grows */
    meter_begin(link, now);
    meter_end(f->meter, link, now + 10000, now, MIB, true);
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), MIB * 1000.0);
    now += 50000; /* and faster, in a window of its own */
    meter_begin(link, now);
    meter_end(f->meter, link, now + 2000, now, 8 * MIB, true);
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), MIB * 4000.0);
}

/* A probe says at once what the link can; less than is known, or nothing at all, changes nothing. It is
 * no traffic: not in the windows either. */
static void test_probe(void **state)
{
    struct fixture *f = *state;
    struct meter_link *link = meter_link(f->meter, "d1", true);
    meter_probe(link, 4 * MIB, 2000);
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), MIB * 2000.0);
    meter_probe(link, 4 * MIB, 4000);
    meter_probe(link, 0, 0);
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), MIB * 2000.0);
    meter_begin(link, 0);
    meter_end(f->meter, link, 1000, 0, 7 * MIB, true); /* a window is not full by it */
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), MIB * 2000.0);
    meter_begin(link, 1000);
    meter_end(f->meter, link, 2000, 1000, MIB, true);
    assert_value(f, "kv_link_limit_bytes_per_second", SENT(""), MIB * 4000.0);
    assert_value(f, "kv_transfer_bytes_total", SENT(""), 8 * MIB);
    assert_value(f, "kv_transfer_pieces_total", SENT(""), 2);
    assert_value(f, "kv_transfer_busy_seconds_total", SENT(""), 0.002);
    assert_int_equal(totals_of(f, 0).bytes, 8 * MIB);
}

static void test_streams_that_end_well(void **state)
{
    struct fixture *f = *state;
    struct meter_link *out = meter_link(f->meter, "d1", true),
                      *in = meter_link(f->meter, "d1", false);
    assert_ptr_not_equal(out, in);
    const struct transfer_stats stats = {.bytes = 3000000,
                                         .pieces = 3,
                                         .busy_us = 2000,
                                         .exposed_us = 1500,
                                         .handover_us = 2500,
                                         .credit_stall_us = 400,
                                         .window_stall_us = 300};
    meter_stream(f->meter, out, 0, &stats);
    meter_stream(f->meter, in, 0, &stats);
    assert_value(f, "kv_transfer_streams_total", SENT(",end=\"done\""), 1);
    assert_value(f, "kv_transfer_streams_total", GOT(",end=\"done\""), 1);
    assert_value(f, "kv_transfer_streams_total", SENT(",end=\"failed\""), 0);
    assert_value(f, "kv_transfer_seconds_sum", SENT(""), 0.002);
    assert_value(f, "kv_transfer_seconds_sum", GOT(""), 0.002);
    assert_value(f, "kv_transfer_throughput_bytes_per_second_sum", SENT(""), 1.5e9);
    assert_value(f, "kv_transfer_throughput_bytes_per_second_sum", GOT(""), 1.5e9);
    assert_value(f, "kv_transfer_exposed_seconds_total", SENT(""), 0.0015);
    assert_value(f, "kv_transfer_exposed_seconds_total", GOT(""),
                 0); /* on the source's clock only */
    assert_value(f, "handover_seconds_sum", SENT(""), 0.0025);
    assert_value(f, "handover_seconds_count", GOT(""), 0);
    assert_value(f, "kv_transfer_credit_stall_seconds_total", SENT(""), 0.0004);
    assert_value(f, "kv_transfer_window_stall_seconds_total", SENT(""), 0.0003);
    assert_value(f, "kv_transfer_lost_bytes_total", SENT(""), 0);
    const struct transfer_stats nothing = {.bytes = 0}; /* all of it was there: no throughput */
    meter_stream(f->meter, out, 0, &nothing);
    assert_value(f, "kv_transfer_throughput_bytes_per_second_count", SENT(""), 1);
    struct transfer_totals totals = totals_of(f, 0);
    assert_int_equal(totals.streams, 2);
    assert_int_equal(totals.exposed_us, 1500);
    assert_false(totals_of(f, 1).send);
    assert_string_equal(totals_of(f, 1).src, "d1");
}

static void test_streams_that_fail(void **state)
{
    struct fixture *f = *state;
    struct meter_link *out = meter_link(f->meter, "d1", true),
                      *in = meter_link(f->meter, "d1", false);
    const struct transfer_stats stats = {.bytes = 500, .exposed_us = 7, .credit_stall_us = 1000};
    meter_stream(f->meter, out, TRANSFER_FULL, &stats);
    meter_stream(f->meter, out, TRANSFER_CANCELLED, &stats);
    meter_stream(f->meter, in, TRANSFER_CORRUPT, &stats);
    assert_value(f, "kv_transfer_streams_total", SENT(",end=\"failed\""), 1);
    assert_value(f, "kv_transfer_streams_total", SENT(",end=\"cancelled\""), 1);
    assert_value(f, "kv_transfer_streams_total", SENT(",end=\"done\""), 0);
    assert_value(f, "kv_transfer_streams_total", GOT(",end=\"failed\""), 1);
    assert_value(f, "kv_transfer_failures_total", SENT(",reason=\"full\""), 1);
    assert_value(f, "kv_transfer_failures_total", SENT(",reason=\"cancelled\""), 1);
    assert_value(f, "kv_transfer_failures_total", GOT(",reason=\"corrupt\""), 1);
    assert_value(f, "kv_transfer_failures_total", GOT(",reason=\"full\""), 0);
    assert_value(f, "kv_transfer_lost_bytes_total", SENT(""), 1000);
    assert_value(f, "kv_transfer_wasted_bytes_total", GOT(""), 500);
    assert_value(f, "kv_transfer_wasted_bytes_total", SENT(""), 0);
    assert_value(f, "kv_transfer_credit_stall_seconds_total", SENT(""), 0.002);
    assert_value(f, "kv_transfer_exposed_seconds_total", SENT(""), 0);
    struct transfer_totals totals = totals_of(f, 0);
    assert_int_equal(totals.streams, 2);
    assert_int_equal(totals.exposed_us, 0); /* of those that ended well only */
    assert_int_equal(totals.failures[TRANSFER_FULL], 1);
    assert_int_equal(totals.failures[TRANSFER_CANCELLED], 1);
    assert_int_equal(totals.failures[TRANSFER_CORRUPT], 0);
    assert_int_equal(totals_of(f, 1).failures[TRANSFER_CORRUPT], 1);
    meter_refused(in, TRANSFER_FULL);
    meter_refused(in, TRANSFER_FULL);
    assert_value(f, "kv_transfer_refusals_total", GOT(",reason=\"full\""), 2);
    assert_value(f, "kv_transfer_refusals_total", SENT(",reason=\"full\""), 0);
}

/* The peers beyond the bound share one link a side, and each side has its own bound. */
static void test_peers_are_bounded(void **state)
{
    struct fixture *f = *state;
    struct meter_link *links[METER_PEERS_MAX];
    char id[16];
    for (uint32_t i = 0; i < METER_PEERS_MAX; i++) {
        snprintf(id, sizeof(id), "d%u", i);
        links[i] = meter_link(f->meter, id, true);
        assert_true(i == 0 || links[i] != links[i - 1]);
    }
    struct meter_link *other = meter_link(f->meter, "one-more", true);
    assert_ptr_equal(meter_link(f->meter, "and-another", true), other);
    for (uint32_t i = 0; i < METER_PEERS_MAX; i++) {
        snprintf(id, sizeof(id), "d%u", i);
        assert_ptr_equal(meter_link(f->meter, id, true), links[i]);
        assert_ptr_not_equal(links[i], other);
    }
    struct meter_link *in = meter_link(f->meter, "one-more", false);
    assert_ptr_not_equal(in, other);
    struct transfer_totals totals[METER_PEERS_MAX + 10];
    assert_int_equal(meter_totals(f->meter, totals, METER_PEERS_MAX + 10), METER_PEERS_MAX + 2);
    assert_string_equal(totals[METER_PEERS_MAX].dst, "other");
    assert_string_equal(totals[METER_PEERS_MAX + 1].src, "one-more");
    assert_int_equal(meter_totals(f->meter, totals, 3), 3);
}

static void test_counts_and_gauges(void **state)
{
    struct fixture *f = *state;
    static const char *const counts[METER_COUNT] = {
        [METER_MISBEHAVED] = "kv_transfer_misbehaviour_total",
        [METER_UNKNOWN] = "kv_transfer_unknown_total",
        [METER_FORCED_CLOSES] = "kv_transfer_forced_closes_total",
        [METER_SESSIONS] = "kv_transfer_sessions_total",
        [METER_SESSIONS_LOST] = "kv_transfer_sessions_lost_total"};
    for (uint32_t i = 0; i < METER_COUNT; i++)
        for (uint32_t k = 0; k <= i; k++)
            meter_count(f->meter, (enum meter_count)i);
    for (uint32_t i = 0; i < METER_COUNT; i++)
        assert_value(f, counts[i], "", i + 1);
    meter_gauge(f->meter, METER_SENDING, 4);
    meter_gauge(f->meter, METER_PARKED, 3);
    meter_gauge(f->meter, METER_LANDING, 2);
    meter_gauge(f->meter, METER_DRAINING, 1);
    meter_gauge(f->meter, METER_SENDING, 5); /* the present number, not a sum */
    assert_value(f, "kv_transfer_streams", "{state=\"sending\"}", 5);
    assert_value(f, "kv_transfer_streams", "{state=\"parked\"}", 3);
    assert_value(f, "kv_transfer_streams", "{state=\"landing\"}", 2);
    assert_value(f, "kv_transfer_streams", "{state=\"draining\"}", 1);
}

static void test_without_a_registry(void **state)
{
    (void)state;
    struct meter *meter = meter_create(NULL, "p0", "loop");
    meter_count(meter, METER_SESSIONS);
    meter_stream(meter, meter_link(meter, "d1", true), 0, &(struct transfer_stats){.bytes = 1});
    meter_destroy(meter);
    meter_destroy(NULL);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_busy_is_a_union),
        WITH(test_pieces),
        WITH(test_limit),
        WITH(test_probe),
        WITH(test_streams_that_end_well),
        WITH(test_streams_that_fail),
        WITH(test_peers_are_bounded),
        WITH(test_counts_and_gauges),
        cmocka_unit_test(test_without_a_registry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
