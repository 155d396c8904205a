/* The probe of a link, over the loop: once per session, while no stream sends, into the destination's
 * buffer or not at all; what either end refuses; and nothing is left of it when a node dies.
 *
 * How many messages a destination has taken is found out by sending it one more: it takes only the
 * number that comes next. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "rig.h"
#include "transfer/frame.h"
#include "transfer/loop.h"

#include "support/support.h"

#define SOURCE      1
#define DESTINATION 2
#define PROBE       4096u /* in all; four messages of a quarter, and one before them */
#define MESSAGE     (PROBE / 4)
#define MESSAGES    5
#define SHARE       17
#define GOLDEN      0x9E3779B97F4A7C15ull

static struct transfer_loop *loop;
static struct rig_node a, b;
static uint64_t seed = 3, delay_us = 50;

static void start(uint64_t land_us, uint64_t a_bytes, uint64_t b_bytes)
{
    const struct transfer_loop_args args = {.seed = seed, .delay_us = delay_us, .land_us = land_us};
    static struct transfer_limits limits;
    transfer_limits_default(&limits);
    limits.bytes_per_session = PROBE; /* what it sends is not in flight for ever */
    struct rig_options options = {
        .transport = "loop", .layer_bytes = 64, .canary = true, .limits = &limits};
    sl_clock_fake(1000000);
    assert_ok(transfer_loop_create(&args, &loop));
    options.loop = loop;
    options.name = "p0";
    options.incarnation = SOURCE;
    options.probe_bytes = a_bytes;
    rig_start(&a, &options);
    options.name = "d0";
    options.incarnation = DESTINATION;
    options.probe_bytes = b_bytes;
    rig_start(&b, &options);
}

static void stop(void)
{
    rig_check_canaries(&a);
    rig_check_canaries(&b);
    rig_stop(&a);
    rig_stop(&b);
    transfer_loop_destroy(loop);
    sl_clock_real();
}

static void run(uint32_t turns, uint64_t step_us)
{
    for (uint32_t i = 0; i < turns; i++) {
        (void)rig_turn(&a);
        (void)rig_turn(&b);
        sl_clock_advance(step_us);
    }
}

struct pair {
    struct rig_job *send, *recv;
};

static struct pair begin(uint64_t key)
{
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct pair pair = {.recv = rig_expect(&b, &from, key, 64)};
    pair.send = rig_send(&a, &to, key, 64);
    return pair;
}

static void end(const struct pair *pair)
{
    rig_ready_all(&a, pair->send);
    rig_token(&a, pair->send, 4);
    run(100, 1000);
    assert_true(pair->send->acked && pair->recv->sealed);
    rig_release(&b, pair->recv);
}

static void whole_stream(uint64_t key)
{
    struct pair pair = begin(key);
    rig_admit(&b, pair.recv, 0, 8);
    end(&pair);
}

static double limit(struct rig_node *node, const char *side)
{
    return rig_metric(node, "kv_link_limit_bytes_per_second", side);
}

static double misbehaved(struct rig_node *node)
{
    return rig_metric(node, "kv_transfer_misbehaviour_total", NULL);
}

static double refused(const char *reason)
{
    return rig_metric(&b, "kv_transfer_refusals_total", reason);
}

/* The number of the nth connection that the node has made, which is its first or second to the peer. */
static uint64_t connection_number(uint64_t incarnation, uint64_t n)
{
    return (incarnation + n * GOLDEN) << 16 | n;
}

static struct frame message(uint32_t number)
{
    return (struct frame){.type = FRAME_PROBE,
                          .key = connection_number(SOURCE, 1),
                          .incarnation = DESTINATION,
                          .probe = {.number = number, .count = SHARE + 1, .bytes = MESSAGE}};
}

static void inject(const struct frame *frame, uint64_t from, uint64_t to, bool offer, size_t n_data)
{
    uint8_t bytes[FRAME_BYTES_MAX];
    size_t n = frame_pack(frame, bytes);
    transfer_loop_inject(loop, from, to, offer, bytes, n, n_data);
    run(10, 100);
}

static bool takes(const struct frame *frame)
{
    double before = refused(NULL);
    inject(frame, SOURCE, DESTINATION, true, frame->probe.bytes);
    return refused(NULL) == before;
}

static bool takes_number(uint32_t number)
{
    const struct frame frame = message(number);
    return takes(&frame);
}

/* The link is measured while its first stream still waits for its admission, by both ends alike. What the
 * probe carries counts as no piece, a stream behind it is whole, and no other stream begins one. */
static void test_once(void **state)
{
    (void)state;
    start(200, PROBE, 1);
    struct pair pair = begin(1);
    run(100, 100);
    double measured = limit(&a, "side=\"send\"");
    assert_false(pair.send->wanted);
    /* Four messages that took up to 200 us, and the turn that saw it. */
    assert_true(measured >= PROBE / (4 * 300e-6) && measured <= PROBE / 100e-6);
    assert_true(limit(&b, "side=\"recv\"") == measured);
    assert_true(limit(&a, "side=\"recv\"") == 0 && limit(&b, "side=\"send\"") == 0);
    rig_admit(&b, pair.recv, 0, 8);
    end(&pair);
    whole_stream(2);
    assert_true(rig_metric(&a, "kv_transfer_bytes_total", NULL) == 2 * 4 * 4 * 64);
    assert_true(rig_metric(&b, "kv_transfer_bytes_total", NULL) == 2 * 4 * 4 * 64);
    assert_true(rig_metric(&b, "kv_transfer_pieces_total", NULL) == 2 * 4 * 4);
    assert_true(refused(NULL) == 0 && misbehaved(&a) == 0 && misbehaved(&b) == 0);
    assert_true(takes_number(MESSAGES));
    stop();
}

/* A stream that sends has the link for itself; what is left of the probe waits for its end, not for ever. */
static void test_gives_way(void **state)
{
    (void)state;
    for (uint32_t late = 0; late < 2; late++) {
        start(200, PROBE, PROBE);
        struct pair pair = begin(1);
        rig_admit(&b, pair.recv, 0, 8);
        run(5000, 1000);
        assert_true(pair.send->wanted);
        assert_true(limit(&a, NULL) == 0 && limit(&b, NULL) == 0);
        if (late)
            run(5100, 1000);
        end(&pair);
        assert_true((limit(&a, "side=\"send\"") > 0) == !late);
        assert_true((limit(&b, "side=\"recv\"") > 0) == !late);
        stop();
    }
}

/* Neither a node that is told not to, nor one whose peer does not say that it takes probes, sends any. */
static void test_off(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        start(200, i == 0 ? 0 : PROBE, i == 0 ? PROBE : 0);
        whole_stream(1);
        assert_true(limit(&a, NULL) == 0 && limit(&b, NULL) == 0);
        assert_true(refused(NULL) == 0);
        if (i == 1) {
            assert_false(takes_number(0));
            assert_true(refused("unknown") == 1);
        } else {
            inject(&(struct frame){.type = FRAME_PROBE, .key = 1, .incarnation = SOURCE},
                   DESTINATION, SOURCE, false, 0);
            assert_true(misbehaved(&a) == 1); /* an answer to nothing */
        }
        stop();
    }
}

/* A destination takes so many messages in a session, and none that is too large. */
static void test_share(void **state)
{
    (void)state;
    start(200, PROBE, PROBE);
    whole_stream(1);
    struct frame large = message(MESSAGES);
    large.probe.bytes = (1 << 20) + 1;
    assert_false(takes(&large));
    assert_true(refused("full") == 1);
    for (uint32_t number = MESSAGES; number < SHARE; number++)
        assert_true(takes_number(number));
    assert_true(refused(NULL) == 1);
    assert_false(takes_number(SHARE));
    assert_true(refused("full") == 2 && misbehaved(&b) == 0);
    whole_stream(2);
    stop();
}

static void test_bad_messages(void **state)
{
    (void)state;
    for (uint32_t row = 0; row < 8; row++) {
        start(200, PROBE, PROBE);
        whole_stream(1);
        struct frame bad = message(MESSAGES);
        size_t n_data = MESSAGE;
        bad.probe.number += row == 0;                  /* one is left out */
        bad.probe.number -= row == 1;                  /* again */
        bad.probe.count = row == 2 ? MESSAGES : SHARE; /* the sixth of five */
        bad.probe.bytes += row == 3;                   /* than there are */
        n_data = row == 4 ? 0 : n_data;
        bad.probe.bytes = row == 4 ? 0 : bad.probe.bytes;
        bad.probe.timed_bytes = row == 5; /* which only an answer says */
        bad.probe.busy_us = row == 6;
        bad.key += row == 7; /* of another connection */
        inject(&bad, SOURCE, DESTINATION, true, n_data);
        if (misbehaved(&b) != 1 || refused("misbehaved") != 1)
            fail_msg("row %u is taken", row);
        assert_true(takes_number(MESSAGES));
        stop();
    }
    start(SL_SECOND_US, 0, PROBE);
    (void)begin(1);
    run(20, 100);
    assert_true(takes_number(0));
    assert_false(takes_number(1)); /* before that one has landed */
    assert_true(misbehaved(&b) == 1);
    stop();
}

/* An answer to another message than the one that waits, or that says more than was sent. */
static void test_bad_answers(void **state)
{
    (void)state;
    for (uint32_t row = 0; row < 6; row++) {
        start(2 * SL_SECOND_US, PROBE, PROBE);
        (void)begin(1);
        run(20, 100);
        struct frame bad = {.type = FRAME_PROBE,
                            .key = connection_number(SOURCE, 1),
                            .incarnation = SOURCE,
                            .probe = {.count = MESSAGES, .bytes = MESSAGE}};
        if (row == 5) /* twice */
            inject(&bad, DESTINATION, SOURCE, false, 0);
        assert_true(misbehaved(&a) == 0);
        bad.probe.number = row == 0;
        bad.key += row == 1;
        bad.probe.count += row == 2;
        bad.probe.bytes -= row == 3;
        bad.probe.timed_bytes = row == 4; /* the first is not timed */
        inject(&bad, DESTINATION, SOURCE, false, 0);
        if (misbehaved(&a) != 1)
            fail_msg("row %u is taken", row);
        stop(); /* with the real one still on its way */
    }
}

/* A node that dies with a message of the probe on its way leaves nothing behind at the other. */
static void test_death(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        start(2 * SL_SECOND_US, PROBE, PROBE);
        struct pair pair = begin(1);
        run(20, 100);
        transfer_loop_kill(loop, i == 0 ? SOURCE : DESTINATION);
        struct rig_node *dead = i == 0 ? &a : &b, *left = i == 0 ? &b : &a;
        dead->dead = true;
        for (uint32_t turn = 0; turn < 1000; turn++) {
            (void)rig_turn(left);
            sl_clock_advance(20000);
        }
        assert_true(rig_metric(left, "kv_transfer_sessions_lost_total", NULL) >= 1);
        assert_true(i == 0 || (pair.send->ended && pair.send->failed));
        assert_true(limit(left, NULL) == 0);
        stop();
    }
}

/* A session that is lost takes its probe with it; the next one has its own. */
static void test_next_session(void **state)
{
    (void)state;
    start(200, PROBE, PROBE);
    whole_stream(1);
    assert_true(takes_number(MESSAGES));
    transfer_loop_cut(loop, SOURCE, DESTINATION);
    run(100, 10000);
    assert_true(rig_metric(&a, "kv_transfer_sessions_lost_total", NULL) == 1);
    whole_stream(2);
    struct frame next = message(MESSAGES);
    assert_false(takes(&next)); /* of the first connection */
    next.key = connection_number(SOURCE, 2);
    assert_true(takes(&next));
    stop();
}

/* What is silent may be dead: nothing more is put on the way to it. */
static void test_suspect(void **state)
{
    (void)state;
    start(200, PROBE, PROBE);
    struct pair pair = begin(1);
    rig_admit(&b, pair.recv, 0, 8);
    run(20, 100);
    assert_true(pair.send->wanted && limit(&a, NULL) == 0);
    for (uint32_t i = 0; i < 350; i++) {
        (void)rig_turn(&a);
        sl_clock_advance(10000);
    }
    assert_ok(sl_fault_configure("transfer_probe=always"));
    assert_ok(transfer_send_cancel(a.transfer, 1, TRANSFER_CANCELLED));
    for (uint32_t i = 0; i < 20; i++)
        (void)rig_turn(&a);
    assert_true(pair.send->ended);
    sl_fault_clear();
    (void)begin(2);
    run(100, 1000);
    assert_true(rig_metric(&a, "kv_transfer_sessions_lost_total", NULL) == 0);
    assert_true(limit(&a, "side=\"send\"") > 0);
    stop();
}

/* In every order that the delays make of the messages. */
static void each_seed(void (*test)(void))
{
    for (seed = 1; seed <= 40; seed++)
        test();
    seed = 3;
}

static void overtake(void)
{
    start(200, PROBE, PROBE);
    (void)begin(1);
    run(100, 100);
    assert_true(limit(&a, "side=\"send\"") > 0);
    assert_true(refused(NULL) == 0 && misbehaved(&a) == 0 && misbehaved(&b) == 0);
    assert_true(rig_metric(&a, "kv_transfer_sessions_lost_total", NULL) == 0);
    stop();
}

/* The first message may come before the hello that it follows. */
static void test_overtakes_the_hello(void **state)
{
    (void)state;
    each_seed(overtake);
}

static void beside(bool pieces_first)
{
    delay_us = 0; /* what is sent in a turn is posted in the next, before any of it lands */
    start(200, 0, PROBE);
    struct pair pair = begin(1);
    rig_admit(&b, pair.recv, 0, 8);
    run(20, 100);
    assert_true(pair.send->wanted && takes_number(0));
    struct frame last = message(1);
    last.probe.count = 2;
    rig_ready_all(&a, pair.send);
    if (pieces_first)
        (void)rig_turn(&a);
    assert_true(takes(&last));
    assert_true(limit(&b, "side=\"recv\"") == 0);
    end(&pair);
    stop();
    delay_us = 50;
}

static void pieces_behind(void)
{
    beside(false);
}

static void pieces_before(void)
{
    beside(true);
}

/* A message with a piece beside it is not timed, whichever was posted first and lands last. */
static void test_beside_pieces(void **state)
{
    (void)state;
    each_seed(pieces_behind);
    each_seed(pieces_before);
    start(200, 0, PROBE);
    whole_stream(1);
    assert_true(takes_number(0) && limit(&b, "side=\"recv\"") == 0);
    struct frame last = message(1);
    last.probe.count = 2;
    assert_true(takes(&last) && limit(&b, "side=\"recv\"") > 0);
    stop();
}

static void test_too_large(void **state)
{
    (void)state;
    start(0, 0, 0);
    struct transfer_args args = a.args;
    struct transfer *transfer;
    args.incarnation = 3;
    args.probe_bytes = TRANSFER_PROBE_BYTES_MAX + 1;
    assert_fails(transfer_create(&args, &transfer), SL_INVALID, "probe of 16777217 bytes");
    stop();
}

int main(void)
{
    sl_log_set_level(SL_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once),          cmocka_unit_test(test_gives_way),
        cmocka_unit_test(test_off),           cmocka_unit_test(test_share),
        cmocka_unit_test(test_bad_messages),  cmocka_unit_test(test_bad_answers),
        cmocka_unit_test(test_death),         cmocka_unit_test(test_next_session),
        cmocka_unit_test(test_too_large),     cmocka_unit_test(test_overtakes_the_hello),
        cmocka_unit_test(test_beside_pieces), cmocka_unit_test(test_suspect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
