/* Messages from a peer, as bytes, into a node that has a stream in each direction with that peer: over
 * the loop transport, so that sessions, both state tables and the offer path are all behind them. Of the
 * two KV classes the second has a window: its stream begins at block 2.
 *
 * The input is a list of messages, each behind two bytes: what to do (below) and a length. "Shaped"
 * messages get the version, the size and the addressee right, and so reach what lies behind the
 * checks of the frame. After each the node runs, and its real peer unless ALONE is set: what it would say
 * to a probe that it has not sent ends the session. The node's own probe is under way when the first
 * message comes. In the end every block must come back. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "device/device.h"
#include "transfer/frame.h"
#include "transfer/loop.h"
#include "transfer/process.h"
#include "transfer/transfer.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKS   16
#define TOKENS   (5 * 16)
#define KEY_IN   0x0101010101010101ull /* the node receives it */
#define KEY_OUT  0x0202020202020202ull /* the node sends it */
#define STEPS    64
#define NODE     100u
#define PEER     200u
#define DO_RAW   0
#define DO_PROBE 1 /* the rest: shaped control messages of that type */
#define ALONE    0x20
#define OUT      0x40 /* it is about what the node sends */
#define OFFERED  0x80 /* raw bytes: as an offer */
/* Of the first connection that a node makes. */
#define NUMBER(incarnation) (((incarnation) + 0x9E3779B97F4A7C15ull) << 16 | 1)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct side {
    struct transfer *transfer;
    struct device_memory pools[2];
};

struct world {
    struct device *device;
    struct transfer_loop *loop;
    struct side node, peer;
    uint32_t n_out; /* blocks that the node's destination half holds, of both classes */
    bool sealed;
};

static void start_side(struct world *world, struct side *side, const char *name,
                       uint64_t incarnation)
{
    for (uint32_t c = 0; c < 2; c++)
        SL_ASSERT(device_alloc(world->device, (size_t)BLOCKS * 4 * 64, &side->pools[c]) == SL_OK);
    struct transfer_args args = {
        .transport = "loop",
        .loop = world->loop,
        .node_id = name,
        .incarnation = incarnation,
        .block_tokens = 16,
        .n_classes = 2,
        .classes =
            {{.pool = &side->pools[0], .n_blocks = BLOCKS, .n_layers = 4, .layer_bytes = 64},
             {.pool = &side->pools[1], .n_blocks = BLOCKS, .n_layers = 2, .layer_bytes = 64}},
        .layers_per_piece = 2,
        .probe_bytes = 64,
        .manual = true,
    };
    transfer_limits_default(&args.limits);
    SL_ASSERT(transfer_create(&args, &side->transfer) == SL_OK);
}

static void poll_node(struct world *world)
{
    struct transfer_event event;
    while (transfer_poll(world->node.transfer, &event)) {
        if (event.type == TRANSFER_EVENT_BLOCK_BACK) {
            SL_ASSERT(world->n_out > 0 && !world->sealed);
            world->n_out--;
        }
        world->sealed |= event.type == TRANSFER_EVENT_SEALED;
    }
    while (transfer_poll(world->peer.transfer, &event))
        continue;
}

static void run(struct world *world, bool alone, uint32_t turns, uint64_t step_us)
{
    for (uint32_t i = 0; i < turns; i++) {
        (void)transfer_progress(world->node.transfer);
        if (!alone)
            (void)transfer_progress(world->peer.transfer);
        poll_node(world);
        sl_clock_advance(step_us);
    }
}

static struct transfer_peer peer_of(const struct side *side, const char *name, uint64_t incarnation)
{
    struct transfer_peer peer = {.node_id = name, .incarnation = incarnation};
    transfer_address(side->transfer, &peer.address, &peer.address_bytes);
    return peer;
}

static void open_streams(struct world *world, const uint32_t *blocks)
{
    struct transfer_send_args out = {.key = KEY_OUT,
                                     .attempt = 1,
                                     .peer = peer_of(&world->peer, "peer", PEER),
                                     .n_blocks = TOKENS / 16,
                                     .n_tokens = TOKENS,
                                     .first_block = {0, 2},
                                     .blocks = {blocks, blocks}};
    struct transfer_recv_args in = {.key = KEY_IN,
                                    .attempt = 1,
                                    .peer = out.peer,
                                    .n_blocks = 5,
                                    .n_tokens = TOKENS,
                                    .first_block = {0, 2}};
    static const uint32_t layers[2] = {4, 2}, lacking[2] = {1, 2};
    static const struct transfer_block given[7] = {{0, 8}, {0, 9},  {1, 8}, {0, 10},
                                                   {1, 9}, {0, 11}, {1, 10}};
    SL_ASSERT(transfer_recv_expect(world->node.transfer, &in) == SL_OK);
    SL_ASSERT(transfer_send_open(world->node.transfer, &out) == SL_OK);
    SL_ASSERT(transfer_send_ready(world->node.transfer, KEY_OUT, 0, 5, layers) == SL_OK);
    SL_ASSERT(transfer_recv_admit(world->node.transfer, KEY_IN, lacking, given, 7) == SL_OK);
    world->n_out = 7;
    run(world, false, 4, 10);
}

static void put64(uint8_t *at, uint64_t value)
{
    for (uint32_t i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* One message; returns how many bytes of the input it took. */
static size_t send_one(struct world *world, const uint8_t *data, size_t size)
{
    uint8_t bytes[FRAME_BYTES_MAX] = {0};
    uint32_t what = data[0] % FRAME_TYPE_COUNT;
    size_t n = data[1] % (FRAME_BYTES_MAX + 1);
    if (n > size - 2)
        n = size - 2;
    memcpy(bytes, data + 2, n);
    if (what == DO_RAW) {
        transfer_loop_inject(world->loop, PEER, NODE, (data[0] & OFFERED) != 0, bytes, n, data[1]);
        return n + 2;
    }
    unsigned type = what == DO_PROBE ? (unsigned)FRAME_PROBE : what - 1;
    bytes[0] = FRAME_VERSION;
    bytes[1] = (uint8_t)type;
    bool out = (data[0] & OUT) != 0;
    if (type == FRAME_PROBE)
        put64(bytes + 8, out ? NUMBER(NODE) : NUMBER(PEER));
    else
        put64(bytes + 8, out ? KEY_OUT : KEY_IN);
    put64(bytes + 16, NODE);
    memset(bytes + 24, 0, 8);
    bytes[24] = 1;
    bool offer = type == FRAME_OFFER || (type == FRAME_PROBE && !out);
    size_t n_data = offer ? 128 : type == FRAME_HELLO ? 8 : type == FRAME_SEAL ? data[1] : 0;
    transfer_loop_inject(world->loop, PEER, NODE, offer, bytes, frame_bytes(type), n_data);
    return n + 2;
}

/* The process in front of a UCX address: what is taken is packed as it came. */
static void try_process(const uint8_t *data, size_t size)
{
    struct process process;
    uint8_t again[PROCESS_BYTES];
    if (process_unpack(data, size, &process) != SL_OK)
        return;
    process_pack(&process, again);
    SL_ASSERT(memcmp(again, data, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_process(data, size);
    static const uint32_t blocks[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const struct transfer_loop_args loop_args = {.seed = 1};
    struct world world = {0};
    sl_log_set_level(SL_LOG_ERROR);
    sl_clock_fake(1000000);
    SL_ASSERT(device_create(DEVICE_HOST, 0, 1, &world.device) == SL_OK);
    SL_ASSERT(transfer_loop_create(&loop_args, &world.loop) == SL_OK);
    start_side(&world, &world.node, "node", NODE);
    start_side(&world, &world.peer, "peer", PEER);
    open_streams(&world, blocks);
    for (uint32_t i = 0; i < STEPS && size > 2; i++) {
        bool alone = (data[0] & ALONE) != 0;
        size_t used = send_one(&world, data, size);
        data += used;
        size -= used;
        run(&world, alone, 2, 50);
    }
    SL_ASSERT(transfer_recv_cancel(world.node.transfer, KEY_IN, TRANSFER_CANCELLED) == SL_OK);
    SL_ASSERT(transfer_send_cancel(world.node.transfer, KEY_OUT, TRANSFER_CANCELLED) == SL_OK);
    run(&world, false, 20, SL_SECOND_US);
    SL_ASSERT(world.sealed || world.n_out == 0);
    transfer_destroy(world.node.transfer);
    transfer_destroy(world.peer.transfer);
    for (uint32_t c = 0; c < 2; c++) {
        device_free(&world.node.pools[c]);
        device_free(&world.peer.pools[c]);
    }
    device_destroy(world.device);
    transfer_loop_destroy(world.loop);
    sl_clock_real();
    return 0;
}
