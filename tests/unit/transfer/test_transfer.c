/* The interface of transfer.h: what it refuses, what the scheduler may do at awkward moments, back-
 * pressure, and torture: every fault point of a stream's life fails in turn, and the blocks come back. */
#include "base/clock.h"
#include "base/log.h"
#include "rig.h"
#include "transfer/frame.h"
#include "transfer/loop.h"
#include "transfer/meter.h"

#include "support/support.h"
#include "support/torture.h"

static struct transfer_loop *loop;
static struct rig_node a, b;

static struct rig_options options_of(const char *name, uint64_t incarnation)
{
    return (struct rig_options){.transport = "loop",
                                .loop = loop,
                                .name = name,
                                .incarnation = incarnation,
                                .layer_bytes = 64,
                                .verify = true};
}

static int set_up(void **state)
{
    (void)state;
    static const struct transfer_loop_args args = {.seed = 3, .local_percent = 50};
    sl_clock_fake(1000000);
    assert_ok(transfer_loop_create(&args, &loop));
    struct rig_options options = options_of("p0", 1);
    rig_start(&a, &options);
    options = options_of("d0", 2);
    rig_start(&b, &options);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_stop(&a);
    rig_stop(&b);
    transfer_loop_destroy(loop);
    sl_clock_real();
    return 0;
}

static void run(uint32_t turns, uint64_t step_us)
{
    for (uint32_t i = 0; i < turns; i++) {
        (void)rig_turn(&a);
        (void)rig_turn(&b);
        sl_clock_advance(step_us);
    }
}

static void test_create_refuses(void **state)
{
    (void)state;
    struct transfer *transfer;
    struct transfer_args good = a.args;
    good.incarnation = 77;
#define REFUSED(field, value, code, part)                                                          \
    do {                                                                                           \
        struct transfer_args bad = good;                                                           \
        bad.field = (value);                                                                       \
        assert_fails(transfer_create(&bad, &transfer), code, part);                                \
    } while (0)
    REFUSED(transport, "pigeon", SL_UNSUPPORTED, "pigeon");
    REFUSED(node_id, "", SL_INVALID, "node id");
    REFUSED(node_id, "0123456789abcdef", SL_INVALID, "16 bytes");
    REFUSED(incarnation, 0, SL_INVALID, "incarnation");
    REFUSED(incarnation, 1, SL_INVALID, "incarnation"); /* there is one in this loop */
    REFUSED(block_tokens, 0, SL_INVALID, "block tokens");
    REFUSED(n_classes, 0, SL_INVALID, "0 KV classes");
    REFUSED(classes[0].n_blocks, 65, SL_INVALID, "do not fit");
    REFUSED(classes[0].pool, NULL, SL_INVALID, "do not fit");
    REFUSED(limits.offers_per_lane, 0, SL_INVALID, "limits");
    REFUSED(loop, NULL, SL_INVALID, "without a loop");
}

static void test_calls_refuse(void **state)
{
    (void)state;
    uint32_t blocks[64] = {0};
    struct transfer_send_args send = {
        .key = 5, .peer = rig_peer(&b), .n_blocks = 2, .n_tokens = 20, .blocks = {blocks}};
    struct transfer_recv_args recv = {
        .key = 5, .peer = rig_peer(&b), .n_blocks = 2, .n_tokens = 20};
    struct transfer_send_args bad = send;
    bad.key = 0;
    assert_fails(transfer_send_open(a.transfer, &bad), SL_INVALID, "key 0");
    bad = send;
    bad.n_blocks = 3;
    assert_fails(transfer_send_open(a.transfer, &bad), SL_INVALID, "3 blocks for 20 tokens");
    bad = send;
    bad.peer.incarnation = 0;
    assert_fails(transfer_send_open(a.transfer, &bad), SL_INVALID, "incarnation 0");
    bad = send;
    bad.peer.address_bytes = 0;
    assert_fails(transfer_send_open(a.transfer, &bad), SL_INVALID, "address of 0 bytes");
    bad = send;
    bad.peer.node_id = "0123456789abcdef";
    assert_fails(transfer_send_open(a.transfer, &bad), SL_INVALID, "16 bytes");
    bad = send;
    bad.first_block[0] = 3;
    assert_fails(transfer_send_open(a.transfer, &bad), SL_INVALID, "class 0 from block 3");
    recv.first_block[0] = 3;
    assert_fails(transfer_recv_expect(a.transfer, &recv), SL_INVALID, "class 0 from block 3");
    recv.n_tokens = 0;
    assert_fails(transfer_recv_expect(a.transfer, &recv), SL_INVALID, "0 tokens");
    struct transfer_block given[2] = {{0, 0}, {0, 64}};
    const uint32_t first[1] = {0};
    assert_fails(transfer_recv_admit(a.transfer, 5, first, given, 2), SL_INVALID, "64 of 64");
    assert_fails(transfer_recv_refill(a.transfer, 5, given, 33), SL_INVALID, "33 block ids");
    given[0].class_index = 1;
    assert_fails(transfer_recv_refill(a.transfer, 5, given, 1), SL_INVALID, "class 1 of 1");
    const struct transfer_token token = {.note = {.n_bytes = TRANSFER_NOTE_BYTES_MAX + 1}};
    assert_fails(transfer_send_token(a.transfer, 5, &token), SL_INVALID, "note of 193 bytes");
    assert_fails(transfer_recv_cancel(a.transfer, 5, 0), SL_INVALID, "reason 0");
    assert_fails(transfer_send_cancel(a.transfer, 5, TRANSFER_REASON_COUNT), SL_INVALID, "reason");
}

/* Commands for keys that nobody knows: ids come back, the rest is nothing. */
static void test_unknown_keys(void **state)
{
    (void)state;
    const struct transfer_block blocks[3] = {{0, 4}, {0, 5}, {0, 6}};
    assert_ok(transfer_recv_admit(a.transfer, 99, RIG_LAYERS(0), blocks, 3));
    assert_ok(transfer_recv_refill(a.transfer, 99, blocks, 1));
    assert_ok(transfer_recv_cancel(a.transfer, 99, TRANSFER_CANCELLED));
    assert_ok(transfer_send_ready(a.transfer, 99, 0, 1, RIG_LAYERS(1)));
    assert_ok(transfer_send_token(a.transfer, 99, &(struct transfer_token){.id = 1, .index = 1}));
    assert_ok(transfer_send_cancel(a.transfer, 99, TRANSFER_CANCELLED));
    (void)transfer_progress(a.transfer);
    struct transfer_event event;
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(transfer_poll(a.transfer, &event));
        assert_int_equal(event.type, TRANSFER_EVENT_BLOCK_BACK);
        assert_int_equal(event.block_id, blocks[i % 3].id);
    }
    assert_false(transfer_poll(a.transfer, &event));
}

/* A key that is submitted again: said and counted, and the stream that has it is not touched. */
static void test_key_twice(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *recv = rig_expect(&b, &from, 61, 64), *send = rig_send(&a, &to, 61, 64);
    struct transfer_recv_args expected = {
        .key = 61, .attempt = 2, .peer = from, .n_blocks = 4, .n_tokens = 64};
    struct transfer_send_args opened = {.key = 61,
                                        .attempt = 2,
                                        .peer = to,
                                        .n_blocks = 4,
                                        .n_tokens = 64,
                                        .blocks = {send->blocks[0]}};
    for (uint32_t i = 0; i < 4; i++) { /* queued, opened, landing, held */
        assert_ok(transfer_recv_expect(b.transfer, &expected));
        assert_ok(transfer_send_open(a.transfer, &opened));
        run(20, 100);
        if (i == 1)
            rig_admit(&b, recv, 0, 8);
        if (i == 2)
            rig_ready_all(&a, send);
    }
    assert_true(rig_metric(&a, "kv_transfer_misbehaviour_total", NULL) == 4);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) == 4);
    rig_token(&a, send, 4);
    run(100, 1000);
    assert_true(send->acked && recv->sealed);
    rig_release(&b, recv);
}

/* More commands than the ring holds: SL_AGAIN, and nothing is lost or leaked. */
static void test_full_commands(void **state)
{
    (void)state;
    uint32_t n = 0;
    while (transfer_send_cancel(a.transfer, 1000 + n, TRANSFER_CANCELLED) == SL_OK)
        n++;
    assert_int_equal(n, TRANSFER_COMMANDS_MAX);
    assert_fails(transfer_send_ready(a.transfer, 1, 0, 1, RIG_LAYERS(1)), SL_AGAIN,
                 "4096 commands");
    uint32_t blocks[1] = {0};
    struct transfer_send_args send = {
        .key = 5, .peer = rig_peer(&b), .n_blocks = 1, .n_tokens = 1, .blocks = {blocks}};
    assert_fails(transfer_send_open(a.transfer, &send), SL_AGAIN, "4096 commands");
    run(20, 10);
    assert_ok(transfer_send_ready(a.transfer, 1, 0, 1, RIG_LAYERS(1)));
}

/* Nobody polls: the event ring fills, progress stops, and when polled every event is there, in order. */
static void test_full_events(void **state)
{
    (void)state;
    const struct transfer_block block = {0, 3};
    uint32_t n_given = 0, n_back = 0;
    struct transfer_event event;
    for (uint32_t i = 0; i < 6000; i++) {
        if (transfer_recv_refill(a.transfer, i + 1, &block, 1) == SL_OK)
            n_given++;
        else
            (void)transfer_progress(a.transfer);
    }
    for (uint32_t i = 0; i < 100; i++)
        (void)transfer_progress(a.transfer);
    assert_true(n_given > TRANSFER_EVENTS_MAX);
    uint64_t last = 0;
    for (uint32_t i = 0; i < 100; i++) {
        while (transfer_poll(a.transfer, &event)) {
            assert_int_equal(event.type, TRANSFER_EVENT_BLOCK_BACK);
            assert_true(event.key > last);
            last = event.key;
            n_back++;
        }
        (void)transfer_progress(a.transfer);
    }
    assert_int_equal(n_back, n_given);
}

/* Without Submit an open is parked, and refused when its time is over; the Submit that comes after is
 * told at once. With more opens than may be parked the rest is refused as FULL. */
static void test_parked(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *job = rig_send(&a, &to, 11, 20);
    run(50, 1000);
    assert_true(rig_job(&b, 11)->opened);
    assert_true(rig_metric(&b, "kv_transfer_streams", "parked") == 1);
    run(100, 50000);
    assert_true(job->ended && job->reason == TRANSFER_UNKNOWN);
    struct rig_job *late = rig_expect(&b, &from, 11, 20);
    run(5, 1000);
    assert_true(late->failed && late->ended && late->reason == TRANSFER_UNKNOWN);
    assert_true(rig_metric(&b, "kv_transfer_refusals_total", "unknown") == 1);
}

/* The scheduler has no room in time: its cancel before the promise is said as a refusal. */
static void test_admission_full(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *recv = rig_expect(&b, &from, 12, 20), *send = rig_send(&a, &to, 12, 20);
    run(20, 1000);
    assert_true(recv->opened);
    assert_ok(transfer_recv_cancel(b.transfer, 12, TRANSFER_FULL));
    run(20, 1000);
    assert_true(send->ended && send->reason == TRANSFER_FULL);
    assert_true(recv->ended && !recv->failed);
    assert_true(rig_metric(&a, "kv_transfer_failures_total", "full") == 1);
}

/* What the Submit says and what the open says must agree. */
static void test_mismatched_open(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *recv = rig_expect(&b, &from, 13, 33), *send = rig_send(&a, &to, 13, 32);
    rig_admit(&b, recv, 0, 8);
    run(50, 1000);
    assert_true(send->ended && send->reason == TRANSFER_MISMATCH);
    assert_true(recv->ended && recv->reason == TRANSFER_MISMATCH);
    assert_int_equal(rig_free_blocks(&b), 64);
}

/* A source whose window reaches further back than the destination's: nothing of it may land. */
static void test_mismatched_window(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    b.sent_from[0] = 1;
    struct rig_job *recv = rig_expect(&b, &from, 13, 64), *send = rig_send(&a, &to, 13, 64);
    rig_admit(&b, recv, 0, 8);
    rig_ready_all(&a, send);
    run(50, 1000);
    assert_true(send->ended && send->reason == TRANSFER_MISMATCH);
    assert_true(recv->ended && recv->reason == TRANSFER_MISMATCH && recv->stats.bytes == 0);
    send = rig_send(&a, &to, 14, 64);
    run(20, 1000);
    recv = rig_expect(&b, &from, 14, 64);
    run(50, 1000);
    assert_true(send->ended && send->reason == TRANSFER_MISMATCH);
    assert_true(recv->ended && recv->reason == TRANSFER_MISMATCH);
    a.sent_from[0] = 1; /* the same at both ends */
    recv = rig_expect(&b, &from, 15, 64), send = rig_send(&a, &to, 15, 64);
    rig_admit(&b, recv, 0, 8);
    rig_ready_all(&a, send);
    rig_token(&a, send, 4);
    run(50, 1000);
    assert_true(send->acked && recv->sealed);
    const struct transfer_class *class = &b.args.classes[0];
    assert_int_equal(recv->stats.bytes, 3 * class->n_layers * class->layer_bytes); /* of four */
    rig_release(&b, recv);
}

/* Two prompts of the same length: whichever of Submit and open is first, the other is refused. */
static void test_mismatched_prompt(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    b.prompt = 1;
    struct rig_job *recv = rig_expect(&b, &from, 13, 32), *send = rig_send(&a, &to, 13, 32);
    rig_admit(&b, recv, 0, 8);
    rig_ready_all(&a, send);
    run(50, 1000);
    assert_true(send->ended && send->reason == TRANSFER_MISMATCH);
    assert_true(recv->ended && recv->reason == TRANSFER_MISMATCH && recv->stats.bytes == 0);
    send = rig_send(&a, &to, 14, 32);
    run(20, 1000);
    recv = rig_expect(&b, &from, 14, 32);
    run(50, 1000);
    assert_true(send->ended && send->reason == TRANSFER_MISMATCH);
    assert_true(recv->ended && recv->reason == TRANSFER_MISMATCH);
    b.prompt = 0;
    recv = rig_expect(&b, &from, 15, 32), send = rig_send(&a, &to, 15, 32);
    rig_admit(&b, recv, 0, 8);
    rig_ready_all(&a, send);
    rig_token(&a, send, 4);
    run(50, 1000);
    assert_true(send->acked && recv->sealed);
}

/* A destination that gives no credit is a credit stall; one whose network is slow is a window stall. */
static void test_stalls(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *recv = rig_expect(&b, &from, 14, 64), *send = rig_send(&a, &to, 14, 64);
    rig_admit(&b, recv, 0, 1);
    recv->hold_refill = true;
    rig_ready_all(&a, send);
    run(100, 10000);
    recv->hold_refill = false;
    rig_refill(&b, recv);
    rig_token(&a, send, 4);
    run(50, 100);
    assert_true(send->acked && recv->sealed);
    assert_true(send->stats.credit_stall_us > 900000);
    assert_true(send->stats.window_stall_us < 10000);
    assert_true(rig_metric(&a, "kv_transfer_credit_stall_seconds_total", NULL) > 0.9);
    rig_release(&b, recv);
}

/* exposed and handover on the source's clock; busy is the union of intervals. */
static void test_stats(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *recv = rig_expect(&b, &from, 15, 64), *send = rig_send(&a, &to, 15, 64);
    rig_admit(&b, recv, 0, 8);
    rig_ready_all(&a, send);
    run(50, 100);
    uint64_t end = sl_now_us();
    rig_token(&a, send, 4);
    run(50, 100);
    assert_true(send->acked);
    assert_int_equal(send->stats.exposed_us, 0); /* all sends had completed before */
    assert_true(send->stats.handover_us > 0 && send->stats.handover_us < sl_now_us() - end);
    assert_true(send->stats.busy_us > 0 && send->stats.busy_us <= 5000);
    assert_int_equal(send->stats.pieces, 16);
    assert_int_equal(send->stats.bytes, 16 * 64);
    struct busy busy = {0};
    busy_begin(&busy, 10);
    busy_begin(&busy, 15);
    busy_end(&busy, 20);
    assert_int_equal(busy_total(&busy, 25), 15);
    busy_end(&busy, 30);
    busy_begin(&busy, 50);
    busy_end(&busy, 60);
    assert_int_equal(busy_total(&busy, 100), 30);
    rig_release(&b, recv);
}

/* At most 32 peers have series of their own; totals add up all the same. */
static void test_many_peers(void **state)
{
    (void)state;
    struct meter *meter = meter_create(a.metrics, "p0", "loop");
    for (uint32_t i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof(name), "d%u", i);
        struct meter_link *link = meter_link(meter, name, true);
        meter_begin(link, 10);
        meter_end(meter, link, 20, 10, 1000, true);
        assert_ptr_equal(meter_link(meter, name, true), link);
    }
    struct transfer_totals totals[200];
    uint32_t n = meter_totals(meter, totals, 200);
    uint64_t bytes = 0, others = 0;
    for (uint32_t i = 0; i < n; i++) {
        bytes += totals[i].bytes;
        others += strcmp(totals[i].dst, "other") == 0 ? totals[i].bytes : 0;
    }
    assert_int_equal(n, METER_PEERS_MAX + 1);
    assert_int_equal(bytes, 100 * 1000);
    assert_int_equal(others, (100 - (n - 1)) * 1000);
    meter_destroy(meter);
}

/* ---- a peer that breaks the rules ---- */

static void inject(const struct frame *frame, bool offer, size_t n_data)
{
    uint8_t bytes[FRAME_BYTES_MAX];
    size_t n = frame_pack(frame, bytes);
    transfer_loop_inject(loop, 1, 2, offer, bytes, n, n_data);
    run(10, 100);
}

static struct rig_job *whole_stream(uint64_t key)
{
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *recv = rig_expect(&b, &from, key, 64), *send = rig_send(&a, &to, key, 64);
    rig_admit(&b, recv, 0, 8);
    rig_ready_all(&a, send);
    rig_token(&a, send, 4);
    run(100, 1000);
    assert_true(send->acked && recv->sealed);
    return recv;
}

/* A late offer and a repeated seal find the tombstone: one is refused, the other acknowledged again,
 * and neither writes a byte into what the scheduler now owns. */
static void test_after_the_end(void **state)
{
    (void)state;
    struct rig_job *job = whole_stream(21);
    struct frame offer = {.type = FRAME_OFFER,
                          .key = 21,
                          .incarnation = 2,
                          .attempt = 1,
                          .offer = {.n_layers = 1, .bytes = 64, .flags = FRAME_FLAG_DIGEST}};
    double refused = rig_metric(&b, "kv_transfer_refusals_total", NULL);
    inject(&offer, true, 64);
    assert_true(rig_metric(&b, "kv_transfer_refusals_total", NULL) == refused + 1);
    struct frame seal = {.type = FRAME_SEAL,
                         .key = 21,
                         .incarnation = 2,
                         .attempt = 1,
                         .seal = {.n_tokens = 64, .n_blocks = 4, .n_pieces = 16}};
    double unknown = rig_metric(&a, "kv_transfer_unknown_total", NULL);
    inject(&seal, false, 0);
    /* The source is done with the stream: it counts the second acknowledgement and ignores it. */
    assert_true(rig_metric(&a, "kv_transfer_unknown_total", NULL) == unknown + 1);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) == 0);
    rig_release(&b, job);   /* compares the bytes */
    run(100, SL_SECOND_US); /* the tombstone is forgotten: now it is refused */
    refused = rig_metric(&b, "kv_transfer_refusals_total", NULL);
    (void)whole_stream(22);
    inject(&seal, false, 0);
    assert_true(rig_metric(&b, "kv_transfer_refusals_total", NULL) == refused + 1);
}

/* Three messages that no honest peer sends end the session; the next stream makes a new one. */
static void test_misbehaviour(void **state)
{
    (void)state;
    rig_release(&b, whole_stream(31));
    struct frame open = {.type = FRAME_OPEN,
                         .key = 32,
                         .incarnation = 2,
                         .attempt = 1,
                         .lane = 1, /* there is no second lane */
                         .open = {.n_blocks = 4, .n_tokens = 64, .n_classes = 1, .n_lanes = 1}};
    for (uint32_t i = 0; i < 2; i++)
        inject(&open, false, 0);
    assert_true(rig_metric(&b, "kv_transfer_sessions_lost_total", NULL) == 0);
    inject(&open, false, 0);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) == 3);
    assert_true(rig_metric(&b, "kv_transfer_sessions_lost_total", NULL) == 1);
    run(100, 100000);
    rig_release(&b, whole_stream(33));
}

/* Bytes behind a frame: behind a seal at most a note, behind any other that is no offer none. */
static void test_bad_notes(void **state)
{
    (void)state;
    rig_release(&b, whole_stream(31));
    struct frame seal = {.type = FRAME_SEAL, .key = 32, .incarnation = 2, .attempt = 1};
    inject(&seal, false, TRANSFER_NOTE_BYTES_MAX);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) == 0);
    inject(&seal, false, TRANSFER_NOTE_BYTES_MAX + 1);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) == 1);
    struct frame cancel = {.type = FRAME_CANCEL,
                           .key = 32,
                           .incarnation = 2,
                           .attempt = 1,
                           .cancel_reason = TRANSFER_CANCELLED};
    inject(&cancel, false, 0);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) == 1);
    inject(&cancel, false, 1);
    assert_true(rig_metric(&b, "kv_transfer_misbehaviour_total", NULL) == 2);
}

/* An offer that does not fit ends its stream, and the blocks come back; the session goes on. */
static void test_bad_offer(void **state)
{
    (void)state;
    struct transfer_peer to = rig_peer(&b), from = rig_peer(&a);
    struct rig_job *recv = rig_expect(&b, &from, 41, 64), *send = rig_send(&a, &to, 41, 64);
    rig_admit(&b, recv, 0, 8);
    run(20, 1000);
    assert_true(send->wanted);
    struct frame offer = {.type = FRAME_OFFER,
                          .key = 41,
                          .incarnation = 2,
                          .attempt = 1,
                          .offer = {.n_layers = 1, .bytes = 64, .flags = FRAME_FLAG_DIGEST}};
    inject(&offer, true, 63); /* one byte less than it says */
    assert_true(recv->ended && recv->reason == TRANSFER_MISBEHAVED);
    assert_int_equal(rig_free_blocks(&b), 64);
    rig_ready_all(&a, send); /* the honest half of this peer now learns that it is refused */
    run(20, 1000);
    assert_true(send->ended && send->reason == TRANSFER_MISBEHAVED);
    rig_release(&b, whole_stream(42));
}

/* ---- torture ---- */

static bool both_over(const struct rig_job *send, const struct rig_job *recv)
{
    return send->ended && recv->ended && (recv->sealed || recv->n_out == 0);
}

/* One stream from its beginning to its end, whatever fails on the way. */
static sl_status run_stream(struct rig_node *from, struct rig_node *to)
{
    struct transfer_peer source = rig_peer(from), destination = rig_peer(to);
    struct rig_job *recv = rig_expect(to, &source, 7, 90);
    struct rig_job *send = rig_send(from, &destination, 7, 90);
    rig_admit(to, recv, 1, 3);
    rig_ready_all(from, send);
    rig_token(from, send, 9);
    for (uint32_t i = 0; i < 4000 && !both_over(send, recv); i++) {
        (void)rig_turn(from);
        (void)rig_turn(to);
        sl_clock_advance(i < 200 ? 100 : 20000);
        if (i == 3000) /* what the coordinator would do at the request's deadline */
            assert_ok(transfer_recv_cancel(to->transfer, 7, TRANSFER_DEADLINE));
    }
    assert_true(both_over(send, recv));
    if (recv->sealed)
        rig_release(to, recv);
    assert_int_equal(rig_free_blocks(from), 64);
    assert_int_equal(rig_free_blocks(to), 64);
    if (send->acked && !recv->sealed)
        fail_msg("acknowledged, but not sealed");
    if (!send->acked || !recv->sealed)
        return sl_fail(SL_PEER, "the stream failed: %s", transfer_reason_name(send->reason));
    return SL_OK;
}

static sl_status scenario(void *arg)
{
    (void)arg;
    static struct rig_node from, to;
    static const struct transfer_loop_args args = {.seed = 9, .delay_us = 50, .local_percent = 50};
    struct transfer_loop *own = NULL;
    memset(&to, 0, sizeof(to));
    sl_clock_fake(5000000);
    sl_status status = transfer_loop_create(&args, &own);
    if (status != SL_OK)
        return status;
    struct rig_options options = options_of("p0", 1);
    options.loop = own;
    options.canary = true;
    options.probe_bytes = 4096;
    status = rig_try_start(&from, &options);
    options.name = "d0";
    options.incarnation = 2;
    bool second = status == SL_OK;
    if (second)
        status = rig_try_start(&to, &options);
    if (status == SL_OK)
        status = run_stream(&from, &to);
    rig_stop(&from);
    if (second)
        rig_stop(&to);
    transfer_loop_destroy(own);
    sl_clock_real();
    return status;
}

static void test_torture(void **state)
{
    (void)state;
    (void)torture_run("a stream over the loop", scenario, NULL, NULL, 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create_refuses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_calls_refuse, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unknown_keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_key_twice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_commands, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_events, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_parked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_admission_full, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mismatched_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mismatched_window, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mismatched_prompt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stalls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stats, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_peers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_after_the_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_misbehaviour, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_notes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_offer, set_up, tear_down),
        cmocka_unit_test(test_torture),
    };
    sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
