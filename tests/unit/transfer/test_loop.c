/* Seeded simulations of two and three nodes over the loop transport, with a fake clock. The rig checks
 * the invariants as events come; here are the schedules, the faults, and what must hold at the end:
 * every stream is over at both sides, every block is back (I3), nothing wrote into a free block (I1),
 * sealed streams hold the source's bytes until they are released (I2), and without a fault nothing is
 * refused and no deadline fires (I8). */
#include "base/clock.h"
#include "base/log.h"
#include "rig.h"
#include "transfer/loop.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 17
#define SEEDS  15
#else
#define STRIDE 7
#define SEEDS  25
#endif
#define STREAMS_MAX 10
#define LAYERS      3
#define BLOCKS      24
#define END_US      (40 * SL_SECOND_US)
#define LIVELY_US   (2 * SL_SECOND_US) /* faults and cancels happen before */
/* What goes on when the streams are over, a probe: a node that is stopped waits for it, in vain with a
 * clock that stands still. */
#define SETTLE_US (200 * SL_MS_US)

enum fault {
    FAULT_CUT = 1,
    FAULT_CANCEL = 2,
    FAULT_STOP = 4,
    FAULT_KILL = 8,
    FAULT_DEAF = 16, /* closed connections are not reported, data comes late */
    FAULT_LATE = 32, /* some Submits come when the open has been parked for too long */
};

/* For test_every_step: one thing that happens at one step. */
enum blow {
    BLOW_CUT,
    BLOW_KILL_SOURCE,
    BLOW_KILL_DESTINATION,
    BLOW_STOP_SOURCE,
    BLOW_STOP_DESTINATION,
    BLOW_CANCEL_SOURCE,
    BLOW_CANCEL_DESTINATION,
    BLOW_COUNT
};

struct plan {
    uint64_t key, expect_us, send_us, token_us, cancel_us;
    uint32_t from, to, n_tokens, n_blocks, first;
    uint32_t sent_from; /* of the second class */
    bool cancel_source, cancel_destination, sent, expected;
    uint32_t chunk, chunk_end, layer; /* what is ready: layers [0, layer) of [chunk, chunk_end) */
    bool token_given;
    struct rig_job *source, *destination;
};

struct world {
    uint64_t random;
    unsigned faults;
    struct transfer_loop *loop;
    struct rig_node nodes[3];
    struct rig_node *all[3];
    uint32_t n_nodes;
    uint64_t stopped_from[3], stopped_to[3], kill_us[3], cut_us[2];
    struct plan plans[STREAMS_MAX];
    uint32_t n_plans;
    uint32_t step, blow_step; /* 0: none */
    enum blow blow;
};

static uint64_t draw(struct world *world, uint64_t below)
{
    uint64_t z = world->random += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (z ^ (z >> 31)) % below;
}

static void start_world(struct world *world, uint64_t seed, unsigned faults)
{
    memset(world, 0, sizeof(*world));
    world->random = seed;
    world->faults = faults;
    sl_clock_fake(1000000 + seed);
    struct transfer_loop_args args = {.seed = seed * 77 + 1,
                                      .delay_us = draw(world, 3) * 400,
                                      .land_us = draw(world, 3) * 900,
                                      .purge_us = draw(world, 3) * 20000,
                                      .local_percent = (uint32_t)draw(world, 3) * 50};
    if (faults & FAULT_DEAF) {
        args.late_percent = 60;
        args.deaf_percent = 70;
    }
    assert_int_equal(transfer_loop_create(&args, &world->loop), SL_OK);
    world->n_nodes = 2 + (uint32_t)draw(world, 2);
    for (uint32_t i = 0; i < world->n_nodes; i++) {
        char name[16];
        snprintf(name, sizeof(name), "n%u", i);
        struct rig_options options = {.transport = "loop",
                                      .loop = world->loop,
                                      .name = name,
                                      .incarnation = 100 + i,
                                      .n_blocks = BLOCKS,
                                      .n_layers = LAYERS,
                                      .layer_bytes = 32,
                                      .n_classes = 1 + (uint32_t)(seed & 1),
                                      .layers_per_piece = 1 + (uint32_t)(seed % 3),
                                      .canary = true,
                                      .verify = (seed & 2) != 0,
                                      .probe_bytes = (seed + i) % 4 == 0 ? 0 : 1024};
        rig_start(&world->nodes[i], &options);
        world->all[i] = &world->nodes[i];
    }
}

static void plan_streams(struct world *world)
{
    world->n_plans = 1 + (uint32_t)draw(world, STREAMS_MAX);
    for (uint32_t i = 0; i < world->n_plans; i++) {
        struct plan *plan = &world->plans[i];
        uint64_t begin = draw(world, LIVELY_US / 2);
        plan->key = world->random | 1;
        plan->from = (uint32_t)draw(world, world->n_nodes);
        plan->to = (plan->from + 1 + (uint32_t)draw(world, world->n_nodes - 1)) % world->n_nodes;
        plan->n_tokens = 1 + (uint32_t)draw(world, 16 * 9);
        plan->n_blocks = (plan->n_tokens + 15) / 16;
        plan->first = draw(world, 3) == 0 ? (uint32_t)draw(world, plan->n_blocks + 1) : 0;
        if (world->nodes[0].args.n_classes > 1) /* which has a window, as far as a stream knows */
            plan->sent_from = (uint32_t)draw(world, plan->n_blocks + 1);
        plan->expect_us = begin + draw(world, 200000);
        plan->send_us = begin + draw(world, 200000);
        if (world->faults & FAULT_LATE && draw(world, 2) == 0)
            plan->expect_us = plan->send_us + draw(world, 4 * SL_SECOND_US);
        plan->token_us = begin + draw(world, 400000);
        plan->cancel_us = begin + draw(world, 600000);
        if (world->faults & FAULT_CANCEL) {
            plan->cancel_source = draw(world, 3) == 0;
            plan->cancel_destination = draw(world, 3) == 0;
        }
    }
}

static void plan_faults(struct world *world)
{
    for (uint32_t i = 0; i < world->n_nodes; i++) {
        if (world->faults & FAULT_STOP && draw(world, 2) == 0) {
            world->stopped_from[i] = draw(world, LIVELY_US);
            world->stopped_to[i] = world->stopped_from[i] + draw(world, 12 * SL_SECOND_US);
        }
    }
    if (world->faults & FAULT_KILL)
        world->kill_us[draw(world, world->n_nodes)] = 1 + draw(world, LIVELY_US);
    if (world->faults & FAULT_CUT) {
        world->cut_us[0] = 1 + draw(world, LIVELY_US);
        world->cut_us[1] = 1 + draw(world, LIVELY_US);
    }
}

/* ---- a step ---- */

static void step_ready(struct world *world, struct plan *plan)
{
    struct rig_node *node = &world->nodes[plan->from];
    if (!plan->sent || plan->source->ended || plan->chunk == plan->n_blocks || draw(world, 3) != 0)
        return;
    if (plan->chunk_end == plan->chunk) {
        plan->chunk_end += 1 + (uint32_t)draw(world, plan->n_blocks - plan->chunk);
        plan->layer = 0;
    }
    plan->layer += 1 + (uint32_t)draw(world, LAYERS);
    assert_int_equal(transfer_send_ready(node->transfer, plan->key, plan->chunk, plan->chunk_end,
                                         RIG_LAYERS(plan->layer)),
                     SL_OK);
    if (plan->layer > LAYERS) /* the second class has one layer more */
        plan->chunk = plan->chunk_end;
}

static void step_source(struct world *world, struct plan *plan, uint64_t at)
{
    struct rig_node *node = &world->nodes[plan->from];
    if (node->dead)
        return;
    if (!plan->sent && at >= plan->send_us && rig_promised(node) + plan->n_blocks <= BLOCKS) {
        struct transfer_peer to = rig_peer(&world->nodes[plan->to]);
        node->sent_from[1] = plan->sent_from;
        plan->source = rig_send(node, &to, plan->key, plan->n_tokens);
        plan->sent = true;
    }
    step_ready(world, plan);
    bool live = plan->sent && !plan->source->ended;
    if (live && !plan->token_given && at >= plan->token_us && plan->chunk == plan->n_blocks) {
        rig_token(node, plan->source, (uint32_t)plan->key);
        plan->token_given = true;
    }
    if (live && plan->cancel_source && at >= plan->cancel_us) {
        plan->cancel_source = false;
        assert_int_equal(transfer_send_cancel(node->transfer, plan->key, TRANSFER_CANCELLED),
                         SL_OK);
    }
}

static void step_destination(struct world *world, struct plan *plan, uint64_t at)
{
    struct rig_node *node = &world->nodes[plan->to];
    if (node->dead)
        return;
    if (!plan->expected && at >= plan->expect_us) {
        struct transfer_peer from = rig_peer(&world->nodes[plan->from]);
        node->sent_from[1] = plan->sent_from;
        plan->destination = rig_expect(node, &from, plan->key, plan->n_tokens);
        plan->expected = true;
    }
    struct rig_job *job = plan->destination;
    bool live = plan->expected && !job->ended;
    if (live && !job->admitted && draw(world, 2) == 0 &&
        rig_promised(node) + plan->n_blocks - plan->first <= BLOCKS)
        rig_admit(node, job, plan->first, 1 + (uint32_t)draw(world, 32));
    if (live)
        rig_refill(node, job);
    if (plan->expected && job->sealed && !job->released && draw(world, 20) == 0)
        rig_release(node, job);
    if (live && plan->cancel_destination && at >= plan->cancel_us) {
        plan->cancel_destination = false;
        assert_int_equal(transfer_recv_cancel(node->transfer, plan->key, TRANSFER_CANCELLED),
                         SL_OK);
    }
}

static void kill_node(struct world *world, uint32_t i)
{
    world->nodes[i].dead = true;
    transfer_loop_kill(world->loop, 100 + i);
}

static void step_faults(struct world *world, uint64_t at)
{
    for (uint32_t i = 0; i < 2; i++) {
        if (world->cut_us[i] == 0 || at < world->cut_us[i])
            continue;
        world->cut_us[i] = 0;
        uint32_t a = (uint32_t)draw(world, world->n_nodes);
        uint32_t b = (a + 1) % world->n_nodes;
        transfer_loop_cut(world->loop, 100 + a, 100 + b);
    }
    for (uint32_t i = 0; i < world->n_nodes; i++) {
        if (world->kill_us[i] == 0 || at < world->kill_us[i])
            continue;
        world->kill_us[i] = 0;
        kill_node(world, i);
    }
}

static void stop_node(struct world *world, uint32_t i, uint64_t at)
{
    world->stopped_from[i] = at;
    world->stopped_to[i] = at + 8 * SL_SECOND_US;
}

static void strike(struct world *world, uint64_t at)
{
    struct plan *plan = &world->plans[0];
    switch (world->blow) {
    case BLOW_CUT:
        transfer_loop_cut(world->loop, 100 + plan->from, 100 + plan->to);
        break;
    case BLOW_KILL_SOURCE:
        kill_node(world, plan->from);
        break;
    case BLOW_KILL_DESTINATION:
        kill_node(world, plan->to);
        break;
    case BLOW_STOP_SOURCE:
        stop_node(world, plan->from, at);
        break;
    case BLOW_STOP_DESTINATION:
        stop_node(world, plan->to, at);
        break;
    case BLOW_CANCEL_SOURCE:
        plan->cancel_source = true;
        plan->cancel_us = 0;
        break;
    case BLOW_CANCEL_DESTINATION:
        plan->cancel_destination = true;
        plan->cancel_us = 0;
        break;
    case BLOW_COUNT:
        break;
    }
}

static bool is_over(struct world *world)
{
    for (uint32_t i = 0; i < world->n_plans; i++) {
        const struct plan *plan = &world->plans[i];
        bool source_dead = world->nodes[plan->from].dead, dead = world->nodes[plan->to].dead;
        if (!source_dead && (!plan->sent || !plan->source->ended))
            return false;
        const struct rig_job *job = plan->destination;
        if (!dead && (!plan->expected || !job->ended || (!job->sealed && job->n_out > 0)))
            return false;
    }
    return true;
}

/* What a scheduler does in the end: a destination whose source never comes is cancelled. */
static void cancel_orphans(struct world *world)
{
    for (uint32_t i = 0; i < world->n_plans; i++) {
        const struct plan *plan = &world->plans[i];
        struct rig_node *to = &world->nodes[plan->to], *from = &world->nodes[plan->from];
        if (!to->dead && plan->expected && !plan->destination->ended)
            assert_int_equal(transfer_recv_cancel(to->transfer, plan->key, TRANSFER_DEADLINE),
                             SL_OK);
        if (!from->dead && plan->sent && !plan->source->ended)
            assert_int_equal(transfer_send_cancel(from->transfer, plan->key, TRANSFER_DEADLINE),
                             SL_OK);
    }
}

static void run_world(struct world *world)
{
    uint64_t begin = sl_now_us(), orphans_us = 15 * SL_SECOND_US, over_us = 0;
    for (;;) {
        uint64_t at = sl_now_us() - begin;
        if (over_us == 0 && at > 700000 && is_over(world))
            over_us = at;
        if (at > END_US || (over_us > 0 && at > over_us + SETTLE_US))
            return;
        step_faults(world, at);
        if (++world->step == world->blow_step)
            strike(world, at);
        for (uint32_t i = 0; i < world->n_plans; i++) {
            step_source(world, &world->plans[i], at);
            step_destination(world, &world->plans[i], at);
        }
        for (uint32_t i = 0; i < world->n_nodes; i++) {
            if (at < world->stopped_from[i] || at >= world->stopped_to[i])
                (void)rig_turn(&world->nodes[i]);
        }
        if (at > orphans_us) {
            cancel_orphans(world);
            orphans_us = UINT64_MAX;
        }
        uint64_t due = transfer_loop_due_us(world->loop);
        uint64_t most = at < LIVELY_US ? 5000 : 100000;
        /* 0: something lies before a node that is stopped */
        sl_clock_advance(1 + (due > 0 && due < most ? due : draw(world, most)));
    }
}

static void check_plan(struct world *world, const struct plan *plan, uint64_t seed)
{
    struct rig_node *from = &world->nodes[plan->from], *to = &world->nodes[plan->to];
    if (!from->dead && !plan->source->ended)
        fail_msg("seed %" PRIu64 ": stream %" PRIx64 " lives on at its source", seed, plan->key);
    if (!to->dead && !plan->destination->ended)
        fail_msg("seed %" PRIu64 ": stream %" PRIx64 " lives on at its destination", seed,
                 plan->key);
    if (plan->sent && plan->source->acked && plan->expected)
        assert_true(plan->destination->sealed);
    if (plan->expected && plan->destination->sealed) {
        assert_true(plan->token_given);
        assert_int_equal(plan->destination->token, (uint32_t)plan->key);
        if (!plan->destination->released)
            rig_release(to, plan->destination);
    }
    if (world->faults == 0)
        assert_true(plan->source->acked && plan->destination->sealed);
}

/* What the runs of one test came to: a simulation in which nothing happens proves nothing. */
static struct {
    uint32_t sealed, source_failed, destination_failed, forced;
    uint32_t reasons[TRANSFER_REASON_COUNT];
} tally;

static void count(struct world *world)
{
    for (uint32_t i = 0; i < world->n_plans; i++) {
        const struct plan *plan = &world->plans[i];
        tally.sealed += plan->expected && plan->destination->sealed;
        tally.source_failed += plan->sent && plan->source->failed;
        if (plan->sent && plan->source->failed)
            tally.reasons[plan->source->reason]++;
        tally.destination_failed += plan->expected && plan->destination->failed;
        if (plan->expected && plan->destination->failed)
            tally.reasons[plan->destination->reason]++;
    }
    for (uint32_t i = 0; i < world->n_nodes; i++)
        tally.forced +=
            (uint32_t)rig_metric(&world->nodes[i], "kv_transfer_forced_closes_total", NULL);
}

static void check_end(struct world *world, uint64_t seed)
{
    for (uint32_t i = 0; i < world->n_plans; i++)
        check_plan(world, &world->plans[i], seed);
    for (uint32_t i = 0; i < world->n_nodes; i++) {
        struct rig_node *node = &world->nodes[i];
        if (node->dead)
            continue;
        if (rig_free_blocks(node) != BLOCKS)
            fail_msg("seed %" PRIu64 ": node %u has %u of %u blocks", seed, i,
                     rig_free_blocks(node), BLOCKS);
        rig_check_canaries(node);
        if (world->faults != 0)
            continue;
        assert_true(rig_metric(node, "kv_transfer_refusals_total", NULL) == 0);
        assert_true(rig_metric(node, "kv_transfer_failures_total", NULL) == 0);
        assert_true(rig_metric(node, "kv_transfer_misbehaviour_total", NULL) == 0);
        assert_true(rig_metric(node, "kv_transfer_sessions_lost_total", NULL) == 0);
    }
}

static void simulate(uint64_t seed, unsigned faults)
{
    static struct world world;
    start_world(&world, seed, faults);
    plan_streams(&world);
    plan_faults(&world);
    run_world(&world);
    check_end(&world, seed);
    count(&world);
    for (uint32_t i = 0; i < world.n_nodes; i++)
        rig_stop(&world.nodes[i]);
    transfer_loop_destroy(world.loop);
    sl_clock_real();
}

/* One stream of some blocks, and one blow at each step of its life in turn. Returns whether the stream
 * was over before the blow. */
static bool simulate_blow(enum blow blow, uint32_t step, uint64_t seed)
{
    static struct world world;
    start_world(&world, seed, FAULT_CANCEL | (seed & 1 ? FAULT_DEAF : 0));
    world.blow = blow;
    world.blow_step = step;
    plan_streams(&world);
    world.n_plans = 1;
    world.plans[0].cancel_source = world.plans[0].cancel_destination = false;
    world.plans[0].n_tokens = 16 * 5;
    world.plans[0].n_blocks = 5;
    world.plans[0].first = 0;
    run_world(&world);
    check_end(&world, seed);
    count(&world);
    bool early = world.step < step;
    for (uint32_t i = 0; i < world.n_nodes; i++)
        rig_stop(&world.nodes[i]);
    transfer_loop_destroy(world.loop);
    sl_clock_real();
    return early;
}

static void test_every_step(void **state)
{
    (void)state;
    uint32_t runs = 0;
    for (enum blow blow = 0; blow < BLOW_COUNT; blow++) {
        /* Most steps lie before the first message: after 30 in a row only some. */
        for (uint32_t step = 1; step < 2000; step += step < 30 ? 1 : STRIDE) {
            runs++;
            if (simulate_blow(blow, step, 1 + step % 4))
                break;
        }
    }
    printf("%u runs: sealed %u, failed %u at sources, %u at destinations\n", runs, tally.sealed,
           tally.source_failed, tally.destination_failed);
    assert_true(tally.sealed > 0 && tally.source_failed > 0 && tally.destination_failed > 0);
    memset(&tally, 0, sizeof(tally));
}

static uint64_t seeds = SEEDS;

static void run_seeds(unsigned faults)
{
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        if (seeds > 1000 && seed % 500 == 0)
            printf("faults %u seed %" PRIu64 "\n", faults, seed);
        simulate(seed, faults);
    }
    printf("faults %2u: sealed %u, failed %u at sources, %u at destinations, forced closes %u;",
           faults, tally.sealed, tally.source_failed, tally.destination_failed, tally.forced);
    for (uint32_t i = 1; i < TRANSFER_REASON_COUNT; i++)
        printf(" %s %u", transfer_reason_name(i), tally.reasons[i]);
    printf("\n");
    assert_true(tally.sealed > 0);
    assert_true(faults == 0 || seeds < SEEDS || tally.source_failed > 0 ||
                tally.destination_failed > 0);
    memset(&tally, 0, sizeof(tally));
}

static void test_calm(void **state)
{
    (void)state;
    run_seeds(0);
}

static void test_cancels(void **state)
{
    (void)state;
    run_seeds(FAULT_CANCEL);
}

static void test_cuts(void **state)
{
    (void)state;
    run_seeds(FAULT_CUT);
    run_seeds(FAULT_CUT | FAULT_DEAF | FAULT_CANCEL);
}

static void test_stops(void **state)
{
    (void)state;
    run_seeds(FAULT_STOP);
    run_seeds(FAULT_STOP | FAULT_DEAF);
}

static void test_deaths(void **state)
{
    (void)state;
    run_seeds(FAULT_KILL);
    run_seeds(FAULT_KILL | FAULT_DEAF | FAULT_CUT);
}

static void test_late_submits(void **state)
{
    (void)state;
    run_seeds(FAULT_LATE);
}

static void test_everything(void **state)
{
    (void)state;
    run_seeds(31);
    run_seeds(63);
}

/* ---- with real threads: what the thread sanitizer looks at ---- */

struct crowd {
    struct rig_node *nodes[2];
    struct rig_job *jobs[2][12];
    uint32_t n;
};

static bool crowd_over(void *arg)
{
    struct crowd *crowd = arg;
    bool over = true;
    for (uint32_t i = 0; i < crowd->n; i++) {
        for (uint32_t side = 0; side < 2; side++) {
            struct rig_job *job = crowd->jobs[side][i];
            struct rig_node *node = crowd->nodes[job->side == RIG_SOURCE ? i % 2 : 1 - i % 2];
            if (job->side == RIG_DESTINATION && job->sealed && !job->released)
                rig_release(node, job);
            if (job->side == RIG_DESTINATION)
                rig_refill(node, job);
            bool back = job->side == RIG_SOURCE || job->sealed || job->n_out == 0;
            over &= job->ended && back;
        }
    }
    return over;
}

static _Atomic uint32_t n_notified;

static void notified(void *arg)
{
    (void)arg;
    n_notified++;
}

static void run_crowd(enum device_kind kind, bool disturbed)
{
    static struct rig_node nodes[2];
    struct transfer_loop *loop;
    struct transfer_loop_args args = {.seed = 5, .delay_us = 200, .land_us = 300, .purge_us = 500};
    args.local_percent = 50;
    assert_int_equal(transfer_loop_create(&args, &loop), SL_OK);
    struct crowd crowd = {.nodes = {&nodes[0], &nodes[1]}, .n = 12};
    for (uint32_t i = 0; i < 2; i++) {
        struct rig_options options = {.transport = "loop",
                                      .loop = loop,
                                      .name = i == 0 ? "n0" : "n1",
                                      .incarnation = 100 + i,
                                      .kind = kind,
                                      .n_blocks = 200,
                                      .layer_bytes = 256,
                                      .threaded = true,
                                      .verify = true,
                                      .notify = notified};
        rig_start(&nodes[i], &options);
    }
    n_notified = 0;
    for (uint32_t i = 0; i < crowd.n; i++) {
        struct rig_node *from = &nodes[i % 2], *to = &nodes[1 - i % 2];
        struct transfer_peer source = rig_peer(from), destination = rig_peer(to);
        crowd.jobs[0][i] = rig_expect(to, &source, 1000 + i, 16 * (1 + i));
        rig_admit(to, crowd.jobs[0][i], 0, 4);
        crowd.jobs[1][i] = rig_send(from, &destination, 1000 + i, 16 * (1 + i));
        rig_ready_all(from, crowd.jobs[1][i]);
        if (disturbed && i % 4 == 1) { /* as the coordinator does: to both */
            assert_int_equal(transfer_send_cancel(from->transfer, 1000 + i, TRANSFER_CANCELLED),
                             SL_OK);
            assert_int_equal(transfer_recv_cancel(to->transfer, 1000 + i, TRANSFER_CANCELLED),
                             SL_OK);
        } else {
            rig_token(from, crowd.jobs[1][i], 3);
        }
        struct transfer_totals totals[8];
        (void)transfer_totals_read(to->transfer, totals, 8);
    }
    assert_true(rig_run(crowd.nodes, 2, crowd_over, &crowd, 20 * SL_SECOND_US));
    for (uint32_t i = 0; i < crowd.n; i++)
        assert_int_equal(crowd.jobs[0][i]->sealed, !(disturbed && i % 4 == 1));
    assert_true(n_notified > 0);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(rig_free_blocks(&nodes[i]), 200);
        rig_stop(&nodes[i]);
    }
    transfer_loop_destroy(loop);
}

static void test_threads(void **state)
{
    (void)state;
    run_crowd(DEVICE_HOST, false);
    run_crowd(DEVICE_HOST, true);
    run_crowd(DEVICE_FAKE, false);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm),       cmocka_unit_test(test_cancels),
        cmocka_unit_test(test_cuts),       cmocka_unit_test(test_stops),
        cmocka_unit_test(test_deaths),     cmocka_unit_test(test_late_submits),
        cmocka_unit_test(test_everything), cmocka_unit_test(test_every_step),
        cmocka_unit_test(test_threads),
    };
    sl_log_set_level(SL_LOG_ERROR);
    if (argc == 3) { /* one seed again: SEED FAULTS, with the log */
        sl_log_set_level(SL_LOG_TRACE);
        simulate(strtoull(argv[1], NULL, 10), (unsigned)strtoul(argv[2], NULL, 10));
        return 0;
    }
    if (argc == 2 && argv[1][0] == 't') /* one test by its name */
        cmocka_set_test_filter(argv[1]);
    else if (argc == 2)
        seeds = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
