/* Sums over the fleet: each byte that a node counted is in them once, wherever and however often the node
 * joins, and what dead nodes did stays. */
#include "coordinator/meters.h"

#include "support/support.h"

#include "base/fault.h"
#include "proto/message.h"

struct fleet {
    struct meters meters;
    Sluice__Hello hellos[REGISTRY_NODES_MAX];
    struct registry_node nodes[REGISTRY_NODES_MAX]; /* by slot */
};

static struct fleet *start(void)
{
    struct fleet *fleet = sl_zalloc(1, sizeof(*fleet));
    meters_init(&fleet->meters, "m");
    return fleet;
}

static void finish(struct fleet *fleet)
{
    meters_fini(&fleet->meters);
    sl_free(fleet);
}

static void join(struct fleet *fleet, uint32_t slot, const char *id, uint64_t incarnation)
{
    sluice__hello__init(&fleet->hellos[slot]);
    fleet->hellos[slot].incarnation = incarnation;
    fleet->nodes[slot] = (struct registry_node){.slot = slot, .hello = &fleet->hellos[slot]};
    snprintf(fleet->nodes[slot].id, sizeof(fleet->nodes[slot].id), "%s", id);
    meters_node_joined(&fleet->meters, &fleet->nodes[slot]);
}

/* The node in the slot says that it has sent so many bytes since its start, and preempted so often. */
static void beat(struct fleet *fleet, uint32_t slot, uint64_t bytes, uint64_t preemptions)
{
    char dst[] = "d", transport[] = "ucx";
    Sluice__TransferTotals totals = SLUICE__TRANSFER_TOTALS__INIT, *list[] = {&totals};
    totals.src = fleet->nodes[slot].id;
    totals.dst = dst;
    totals.transport = transport;
    totals.send = true;
    totals.bytes = bytes;
    Sluice__Heartbeat heartbeat = SLUICE__HEARTBEAT__INIT;
    heartbeat.transfers = list;
    heartbeat.n_transfers = 1;
    heartbeat.preemptions = preemptions;
    meters_heartbeat(&fleet->meters, &fleet->nodes[slot], &heartbeat);
}

static void expect_bytes(struct fleet *fleet, const char *id, uint64_t want)
{
    struct sl_metric *sum = sl_metric_get(fleet->meters.transfer_bytes, id, "d", "ucx", "send", "");
    if ((uint64_t)sl_metric_value(sum) != want)
        fail_msg("%s: %d bytes; want %d", id, (int)sl_metric_value(sum), (int)want);
}

/* What the index left out is a counter, whenever the page is looked at. */
static void index_overflows_are_counted(void **state)
{
    (void)state;
    struct fleet *fleet = start();
    struct registry *registry = sl_zalloc(1, sizeof(*registry));
    struct prefix_index *index = prefix_index_create();
    assert_ok(sl_fault_configure("mem=always"));
    for (uint64_t i = 0; i < 1000; i++) {
        struct kv_hash hash = {{0}};
        memcpy(hash.bytes, &i, sizeof(i));
        prefix_index_insert(index, &hash, 0);
        if (i % 300 == 0)
            meters_fleet(&fleet->meters, registry, index, 0, 0);
    }
    sl_fault_clear();
    meters_fleet(&fleet->meters, registry, index, 0, 0);
    assert_int_equal(sl_metric_value(fleet->meters.index_entries), prefix_index_entries(index));
    assert_true(prefix_index_overflows(index) > 0);
    assert_int_equal(sl_metric_value(fleet->meters.index_overflows), prefix_index_overflows(index));
    prefix_index_destroy(index);
    sl_free(registry);
    finish(fleet);
}

static void a_restarted_worker_adds(void **state)
{
    (void)state;
    struct fleet *fleet = start();
    join(fleet, 0, "p0", 1);
    beat(fleet, 0, 100, 3);
    beat(fleet, 0, 150, 3);
    join(fleet, 0, "p0", 2);
    beat(fleet, 0, 0, 0);
    expect_bytes(fleet, "p0", 150);
    beat(fleet, 0, 7, 1);
    expect_bytes(fleet, "p0", 157);
    assert_int_equal(sl_metric_value(sl_metric_get(fleet->meters.preemptions, "blocks")), 4);
    finish(fleet);
}

/* All streams break at once; the nodes come back in another order, so each in another's slot, and a new
 * one has come between. */
static void nodes_that_swap_slots_count_once(void **state)
{
    (void)state;
    struct fleet *fleet = start();
    join(fleet, 0, "p0", 1);
    join(fleet, 1, "p1", 2);
    beat(fleet, 0, 1000, 1);
    beat(fleet, 1, 200, 2);
    join(fleet, 0, "p1", 2);
    beat(fleet, 0, 230, 2);
    join(fleet, 1, "p2", 3);
    beat(fleet, 1, 5, 0);
    join(fleet, 2, "p0", 1);
    beat(fleet, 2, 1001, 1);
    expect_bytes(fleet, "p0", 1001);
    expect_bytes(fleet, "p1", 230);
    expect_bytes(fleet, "p2", 5);
    assert_int_equal(sl_metric_value(sl_metric_get(fleet->meters.preemptions, "blocks")), 3);
    finish(fleet);
}

/* A slot that sees worker after worker start does not push out who is there all the time, nor one who has
 * just left. */
static void many_restarts_push_out_the_oldest(void **state)
{
    (void)state;
    struct fleet *fleet = start();
    join(fleet, 0, "p0", 1);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 4 * REGISTRY_NODES_MAX; i++) {
        beat(fleet, 0, 10 * i, 0);
        join(fleet, 1, "p1", 100 + i);
        beat(fleet, 1, i, 0);
        sum += i;
    }
    uint64_t last = 100 + 4 * REGISTRY_NODES_MAX - 1;
    join(fleet, 2, "p1", last);
    beat(fleet, 2, last - 100, 0);
    expect_bytes(fleet, "p0", 10 * (4 * REGISTRY_NODES_MAX - 1));
    expect_bytes(fleet, "p1", sum);
    finish(fleet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(index_overflows_are_counted),
        cmocka_unit_test(a_restarted_worker_adds),
        cmocka_unit_test(nodes_that_swap_slots_count_once),
        cmocka_unit_test(many_restarts_push_out_the_oldest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
