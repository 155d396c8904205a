/* The registry: joining, replacement, suspicion and ejection by time, identities. */
#include "coordinator/registry.h"

#include "support/support.h"

#include "proto/message.h"
#include "proto/rpc.h"

#define SECOND 1000000ull

static struct registry *fresh(void)
{
    struct registry *registry = sl_zalloc(1, sizeof(*registry));
    struct registry_times times = {3 * SECOND, 5 * SECOND, 60 * SECOND, 10 * SECOND};
    registry_init(registry, &times, 100);
    return registry;
}

static void finish(struct registry *registry)
{
    registry_fini(registry);
    sl_free(registry);
}

/* As it comes off the wire. */
static Sluice__NodeMessage *hello(const char *id, bool prefill, uint64_t incarnation, bool ready,
                                  uint8_t identity)
{
    Sluice__Hello h = SLUICE__HELLO__INIT;
    uint8_t bytes[16], layout[16] = {1}, address[] = "a";
    char name[32], text[] = "x", admin[] = "h:1";
    Sluice__Rank rank = SLUICE__RANK__INIT, *ranks[] = {&rank};
    rank.address = (ProtobufCBinaryData){1, address};
    memset(bytes, identity, sizeof(bytes));
    snprintf(name, sizeof(name), "%s", id);
    h.protocol = 1;
    h.node_id = name;
    h.role = prefill ? SLUICE__ROLE__ROLE_PREFILL : SLUICE__ROLE__ROLE_DECODE;
    h.incarnation = incarnation;
    h.ready = ready;
    if (ready) {
        h.identity = (ProtobufCBinaryData){16, bytes};
        h.layout = (ProtobufCBinaryData){16, layout};
    }
    h.numerics_id = text;
    h.vocab = 100;
    h.context_max = 1000;
    h.block_tokens = 64;
    h.block_bytes = 1000;
    h.blocks_total = 10;
    h.ranks = ranks;
    h.n_ranks = 1;
    h.transport = text;
    h.admin = admin;
    h.pid = 5;
    h.version = text;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_HELLO;
    message.hello = &h;
    uint8_t wire[2048];
    size_t n = sluice__node_message__pack(&message, wire);
    Sluice__NodeMessage *out;
    assert_ok(rpc_node_message_unpack(wire, n, &out));
    return out;
}

static struct rpc_stream *stream(uintptr_t i)
{
    return (struct rpc_stream *)i; /* only compared */
}

static struct registry_node *join(struct registry *registry, uintptr_t s, const char *id,
                                  bool prefill, uint8_t identity, uint64_t now)
{
    struct registry_node *node = NULL, *replaced;
    assert_ok(registry_hello(registry, stream(s), hello(id, prefill, s, true, identity), now, &node,
                             &replaced));
    assert_null(replaced);
    registry_settle(registry, now);
    return node;
}

static void load_then_ready(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *node, *same, *replaced;
    assert_ok(registry_hello(r, stream(1), hello("d0", false, 9, false, 0), 0, &node, &replaced));
    assert_int_equal(registry_state(r, node), REGISTRY_LOADING);
    assert_false(registry_usable(r, node));
    assert_false(registry_settle(r, 0));
    assert_ok(registry_hello(r, stream(1), hello("d0", false, 9, true, 4), 5, &same, &replaced));
    assert_ptr_equal(node, same);
    assert_true(registry_settle(r, 5));
    assert_int_equal(registry_state(r, node), REGISTRY_READY);
    assert_true(registry_usable(r, node));
    assert_int_equal(registry_count(r, false), 1);
    assert_int_equal(registry_count(r, true), 0);
    assert_int_equal(node->load.blocks_free, 10);
    assert_int_equal(node->load.blocks_total, 10);
    finish(r);
}

static void a_newer_stream_replaces(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *old = join(r, 1, "d0", false, 4, 0), *node = NULL, *replaced;
    flow_node old_join = old->join;
    Sluice__NodeMessage *message = hello("d0", false, 1, true, 4);
    assert_ok(registry_hello(r, stream(2), message, 1, &node, &replaced));
    assert_ptr_equal(replaced, old);
    assert_null(node);
    registry_remove(r, replaced);
    assert_ok(registry_hello(r, stream(2), message, 1, &node, &replaced));
    assert_null(replaced);
    assert_true(node->join != old_join);
    assert_null(registry_find(r, old_join));
    assert_null(registry_find(r, 0));
    assert_ptr_equal(registry_find(r, node->join), node);
    assert_ptr_equal(registry_find_id(r, "d0"), node);
    assert_null(registry_find_stream(r, stream(1)));
    assert_int_equal(r->n_nodes, 1);
    finish(r);
}

/* Another process of the same id, while the first lives. */
static void an_id_that_is_taken(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *old = join(r, 1, "d0", false, 4, 0), *node = NULL, *replaced;
    Sluice__NodeMessage *message = hello("d0", false, 2, true, 4);
    assert_fails(registry_hello(r, stream(2), message, 2999999, &node, &replaced), SL_INVALID,
                 "lives");
    assert_null(replaced);
    assert_ptr_equal(registry_find_stream(r, stream(1)), old);
    assert_ok(registry_hello(r, stream(2), message, 3 * SECOND, &node, &replaced)); /* silent */
    assert_ptr_equal(replaced, old);
    rpc_node_message_free(message);
    finish(r);
}

static void silence(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *a = join(r, 1, "d0", false, 4, 0);
    struct registry_node *b = join(r, 2, "p0", true, 4, 0);
    Sluice__Heartbeat beat = SLUICE__HEARTBEAT__INIT;
    uint32_t cursor = 0;
    registry_heartbeat(r, b, &beat, 2 * SECOND);
    assert_null(registry_sweep(r, 2999999, &cursor));
    assert_true(registry_usable(r, a));
    cursor = 0;
    assert_null(registry_sweep(r, 3 * SECOND, &cursor));
    assert_int_equal(registry_state(r, a), REGISTRY_SUSPECT);
    assert_false(registry_usable(r, a));
    assert_true(registry_usable(r, b));
    registry_heartbeat(r, a, &beat, 3500000); /* it answers again */
    assert_true(registry_usable(r, a));
    cursor = 0;
    assert_null(registry_sweep(r, 6999999, &cursor));
    cursor = 0;
    assert_ptr_equal(registry_sweep(r, 7 * SECOND, &cursor), b);
    assert_null(registry_sweep(r, 7 * SECOND, &cursor));
    registry_remove(r, b);
    cursor = 0;
    assert_null(registry_sweep(r, 8499999, &cursor));
    cursor = 0;
    assert_ptr_equal(registry_sweep(r, 8500000, &cursor), a);
    finish(r);
}

static void silence_behind_a_gap(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *a = join(r, 1, "d0", false, 4, 0);
    struct registry_node *b = join(r, 2, "d1", false, 4, 0);
    uint32_t cursor = 0;
    registry_remove(r, a);
    assert_ptr_equal(registry_sweep(r, 5 * SECOND, &cursor), b);
    assert_int_equal(cursor, b->slot + 1);
    assert_null(registry_sweep(r, 5 * SECOND, &cursor));
    finish(r);
}

static void its_own_pause(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *node = join(r, 1, "d0", false, 4, 0);
    uint32_t cursor = 0;
    uint64_t ready_us = r->ready_us = 1;
    registry_forgive(r, 8 * SECOND);
    assert_int_equal(r->ready_us, ready_us + 8 * SECOND);
    assert_null(registry_sweep(r, 8 * SECOND, &cursor));
    assert_true(registry_usable(r, node));
    cursor = 0;
    assert_ptr_equal(registry_sweep(r, 13 * SECOND, &cursor), node); /* silent after it */
    finish(r);
}

static void a_loop_that_hangs(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *a = join(r, 1, "d0", false, 4, 0);
    Sluice__Heartbeat beat = SLUICE__HEARTBEAT__INIT;
    uint32_t cursor = 0;
    beat.stalled_us = 31 * SECOND;
    registry_heartbeat(r, a, &beat, SECOND);
    assert_null(registry_sweep(r, SECOND, &cursor));
    assert_int_equal(registry_state(r, a), REGISTRY_SUSPECT);
    beat.stalled_us = 30 * SECOND; /* half the limit is not over it */
    registry_heartbeat(r, a, &beat, SECOND);
    cursor = 0;
    assert_null(registry_sweep(r, SECOND, &cursor));
    assert_int_equal(registry_state(r, a), REGISTRY_READY);
    beat.stalled_us = 60 * SECOND - 1;
    registry_heartbeat(r, a, &beat, 2 * SECOND);
    cursor = 0;
    assert_null(registry_sweep(r, 2 * SECOND, &cursor));
    beat.stalled_us = 60 * SECOND;
    registry_heartbeat(r, a, &beat, 2 * SECOND);
    cursor = 0;
    assert_ptr_equal(registry_sweep(r, 2 * SECOND, &cursor), a);
    finish(r);
}

static void identities(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *a = join(r, 1, "d0", false, 4, 0);
    struct registry_node *b = join(r, 2, "d1", false, 5, 1);
    struct registry_node *p = join(r, 3, "p0", true, 5, 1);
    assert_int_equal(registry_state(r, a), REGISTRY_READY);
    assert_int_equal(registry_state(r, b), REGISTRY_FOREIGN);
    assert_false(registry_usable(r, b) || registry_usable(r, p));
    Sluice__Heartbeat beat = SLUICE__HEARTBEAT__INIT;
    beat.draining = true;
    registry_heartbeat(r, a, &beat, 2);
    assert_int_equal(registry_state(r, a), REGISTRY_DRAINING);
    assert_true(registry_settle(r, 2)); /* the other one takes over */
    assert_true(registry_usable(r, b) && registry_usable(r, p));
    assert_false(registry_settle(r, 3));
    finish(r);
}

static void a_crash_is_no_roll_out(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *a = join(r, 1, "d0", false, 4, 0);
    struct registry_node *b = join(r, 2, "d1", false, 5, 1);
    assert_false(registry_settle(r, 3 * SECOND)); /* it was there until then */
    registry_remove(r, a);
    assert_false(registry_settle(r, 13 * SECOND - 1));
    assert_false(registry_usable(r, b));
    assert_true(registry_settle(r, 13 * SECOND));
    assert_true(registry_usable(r, b));
    assert_int_equal(r->ready_us, 13 * SECOND);
    finish(r);
}

/* Whose drain hands over, and to whom. */
static void who_takes_over(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *a = join(r, 1, "d0", false, 4, 0);
    struct registry_node *p = join(r, 2, "p0", true, 4, 0);
    struct registry_node *late = join(r, 3, "d1", false, 5, 9);
    struct registry_node *early = join(r, 4, "d2", false, 6, 7);
    struct registry_node *prefill = join(r, 5, "p1", true, 7, 1);
    assert_int_equal(registry_count(r, true), 1);
    assert_int_equal(registry_count(r, false), 1);
    Sluice__Heartbeat drains = SLUICE__HEARTBEAT__INIT;
    drains.draining = true;
    registry_heartbeat(r, p, &drains, 10); /* a prefill node: the decode node stays */
    registry_heartbeat(r, late, &drains, 10);
    assert_false(registry_settle(r, 10));
    assert_true(registry_usable(r, a));
    registry_remove(r, a); /* nor do drains of those two when it crashes */
    assert_false(registry_settle(r, 11));
    a = join(r, 1, "d0", false, 4, 12);
    drains.draining = false;
    registry_heartbeat(r, late, &drains, 13);
    drains.draining = true;
    registry_heartbeat(r, a, &drains, 13);
    assert_true(registry_settle(r, 13));
    assert_true(registry_usable(r, early)); /* the one that joined first */
    assert_false(registry_usable(r, late) || registry_usable(r, prefill));
    assert_int_equal(registry_count(r, false), 1);
    assert_int_equal(registry_count(r, true), 0);
    finish(r);
}

/* The same weights in another layout cannot be a pair. */
static void another_layout(void **state)
{
    (void)state;
    struct registry *r = fresh();
    join(r, 1, "d0", false, 4, 0);
    struct registry_node *node, *replaced;
    Sluice__NodeMessage *message = hello("p0", true, 2, true, 4);
    message->hello->layout.data[15] ^= 1;
    assert_ok(registry_hello(r, stream(2), message, 0, &node, &replaced));
    assert_int_equal(registry_state(r, node), REGISTRY_FOREIGN);
    assert_false(registry_usable(r, node));
    finish(r);
}

/* They do all while no decode node of the identity is left; a ready decode node knows better. */
static void prefill_nodes_alone(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *p = join(r, 1, "p0", true, 5, 0);
    assert_true(registry_usable(r, p) && registry_serves(r));
    struct registry_node *d = join(r, 2, "d0", false, 4, 1);
    assert_true(registry_usable(r, d) && !registry_usable(r, p)); /* at once: nothing was lost */
    struct registry_node *same = join(r, 3, "p1", true, 4, 2);
    registry_remove(r, d);
    assert_true(registry_serves(r) && registry_usable(r, same));
    assert_false(registry_settle(r, 30 * SECOND)); /* p0 is no reason to leave p1 */
    registry_remove(r, same);
    assert_false(registry_serves(r));
    assert_true(registry_settle(r, 31 * SECOND));
    assert_true(registry_usable(r, p));
    finish(r);
}

static void wrong_hellos(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *node, *replaced;
    Sluice__NodeMessage *other = hello("d0", false, 1, true, 4);
    other->hello->vocab = 101;
    assert_fails(registry_hello(r, stream(1), other, 0, &node, &replaced), SL_INVALID,
                 "another model");
    rpc_node_message_free(other);
    join(r, 1, "d0", false, 4, 0);
    Sluice__NodeMessage *second = hello("d1", false, 1, true, 4);
    assert_fails(registry_hello(r, stream(1), second, 0, &node, &replaced), SL_INVALID,
                 "second node");
    rpc_node_message_free(second);
    assert_int_equal(r->n_nodes, 1);
    finish(r);
}

/* What the check of messages lets pass in one that is not ready, a ready one must have. */
static void half_hellos(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *node = NULL, *replaced;
    for (int missing = 0; missing < 5; missing++) {
        Sluice__NodeMessage *message = hello("d0", false, 1, true, 4);
        message->hello->identity.len = missing == 0 ? 15 : 16;
        message->hello->layout.len = missing == 1 ? 0 : 16;
        message->hello->block_tokens = missing == 2 ? 0 : 64;
        message->hello->blocks_total = missing == 3 ? 0 : 10;
        if (missing == 4)
            message->hello->role = SLUICE__ROLE__ROLE_NONE;
        assert_fails(registry_hello(r, stream(1), message, 0, &node, &replaced), SL_INVALID,
                     missing == 4 ? "node d0 has no role" : "node d0 is ready without");
        rpc_node_message_free(message);
    }
    assert_null(node);
    assert_int_equal(r->n_nodes, 0);
    r->vocab = 0; /* not known: any will do */
    Sluice__NodeMessage *message = hello("d0", false, 1, true, 4);
    message->hello->vocab = 7;
    assert_ok(registry_hello(r, stream(1), message, 0, &node, &replaced));
    finish(r);
}

/* On its own stream a node may not turn into another: it is lost, and joins anew. */
static void another_self(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *old = join(r, 1, "d0", false, 4, 0), *node = NULL, *replaced = NULL;
    Sluice__NodeMessage *restarted = hello("d0", false, 2, true, 4);
    assert_ok(registry_hello(r, stream(1), restarted, 1, &node, &replaced));
    assert_ptr_equal(replaced, old);
    rpc_node_message_free(restarted);
    Sluice__NodeMessage *turned = hello("d0", true, 1, true, 4);
    assert_ok(registry_hello(r, stream(1), turned, 1, &node, &replaced));
    assert_ptr_equal(replaced, old);
    assert_null(node);
    rpc_node_message_free(turned);
    assert_int_equal(r->n_nodes, 1);
    assert_false(old->prefill);
    finish(r);
}

static void heartbeats_are_kept(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *node = join(r, 1, "d0", false, 4, 0);
    Sluice__Load load = SLUICE__LOAD__INIT;
    Sluice__StepSample samples[2] = {SLUICE__STEP_SAMPLE__INIT, SLUICE__STEP_SAMPLE__INIT};
    Sluice__StepSample *list[] = {&samples[0], &samples[1]};
    Sluice__Heartbeat beat = SLUICE__HEARTBEAT__INIT;
    beat.load = &load;
    beat.step = 11;
    registry_heartbeat(r, node, &beat, 100); /* a load that knows no blocks yet says nothing */
    assert_int_equal(node->load.blocks_free, 10);
    assert_int_equal(node->step, 11);
    assert_int_equal(node->beat_us, 100);
    assert_true(node->cost.weight == 0);
    load.blocks_total = 10;
    load.blocks_free = 3;
    samples[0].tokens = 10;
    samples[0].compute_us = 2000;
    samples[1].tokens = 30;
    samples[1].compute_us = 4000;
    beat.samples = list;
    beat.n_samples = 2;
    registry_heartbeat(r, node, &beat, 200);
    assert_int_equal(node->load.blocks_free, 3);
    assert_true(node->cost.weight > 1.9 && node->cost.sum_x > 39); /* faded a little */
    assert_true(node->cost.sum_y > 5.9 && node->cost.sum_y <= 6);  /* milliseconds */
    struct registry_node *same, *replaced;
    assert_ok(registry_hello(r, stream(1), hello("d0", false, 1, true, 4), 300, &same, &replaced));
    assert_int_equal(node->load.blocks_free, 3); /* a later hello does not undo it */
    finish(r);
}

static void full(void **state)
{
    (void)state;
    struct registry *r = fresh();
    struct registry_node *node, *replaced;
    char id[16];
    for (uint32_t i = 0; i < REGISTRY_NODES_MAX; i++) {
        snprintf(id, sizeof(id), "d%u", i);
        join(r, i + 1, id, false, 4, 0);
    }
    Sluice__NodeMessage *more = hello("more", false, 1, true, 4);
    assert_fails(registry_hello(r, stream(1000), more, 0, &node, &replaced), SL_EXHAUSTED, "256");
    registry_remove(r, registry_find_id(r, "d7"));
    assert_ok(registry_hello(r, stream(1000), more, 0, &node, &replaced));
    assert_int_equal(node->slot, 7);
    finish(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(load_then_ready),      cmocka_unit_test(a_newer_stream_replaces),
        cmocka_unit_test(an_id_that_is_taken),  cmocka_unit_test(silence),
        cmocka_unit_test(its_own_pause),        cmocka_unit_test(a_loop_that_hangs),
        cmocka_unit_test(identities),           cmocka_unit_test(prefill_nodes_alone),
        cmocka_unit_test(wrong_hellos),         cmocka_unit_test(a_crash_is_no_roll_out),
        cmocka_unit_test(half_hellos),          cmocka_unit_test(another_self),
        cmocka_unit_test(heartbeats_are_kept),  cmocka_unit_test(who_takes_over),
        cmocka_unit_test(another_layout),       cmocka_unit_test(full),
        cmocka_unit_test(silence_behind_a_gap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
