/* The send queues and windows of one stream, against a naive model that keeps everything in arrays. */
#include "proto/outbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct outbox_item item(uint32_t bytes, bool counted)
{
    return (struct outbox_item){.bytes = bytes, .counted = counted};
}

static void test_urgent_overtakes_and_classes_keep_order(void **state)
{
    (void)state;
    struct outbox box;
    outbox_init(&box, 1 << 20, 1 << 20);
    struct outbox_item bulk[2] = {item(10, true), item(11, true)};
    struct outbox_item submit[2] = {item(20, true), item(21, true)};
    struct outbox_item urgent[2] = {item(30, false), item(31, false)};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(outbox_push(&box, RPC_BULK, &bulk[i]), SL_OK);
        assert_int_equal(outbox_push(&box, RPC_SUBMIT, &submit[i]), SL_OK);
        assert_int_equal(outbox_push(&box, RPC_URGENT, &urgent[i]), SL_OK);
    }
    struct outbox_item *wanted[6] = {&urgent[0], &urgent[1], &submit[0],
                                     &submit[1], &bulk[0],   &bulk[1]};
    for (int i = 0; i < 6; i++)
        assert_ptr_equal(outbox_pop(&box), wanted[i]);
    assert_null(outbox_pop(&box));
    assert_true(outbox_empty(&box));
}

static void test_bound_takes_a_chain_whole_or_not(void **state)
{
    (void)state;
    struct outbox box;
    outbox_init(&box, 3 * (100 + OUTBOX_ITEM_OVERHEAD), 1 << 20);
    struct outbox_item first = item(100, true), a = item(100, true), b = item(100, true),
                       c = item(100, true);
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &first), SL_OK);
    a.next = &b;
    b.next = &c;
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &a), SL_EXHAUSTED);
    assert_non_null(strstr(sl_error(), "pass 684"));
    b.next = NULL;
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &a), SL_OK);
    assert_int_equal(outbox_push(&box, RPC_BULK, &c), SL_OK); /* a bound of its own */
    assert_ptr_equal(outbox_pop(&box), &first);
    assert_ptr_equal(outbox_pop(&box), &a);
    assert_ptr_equal(outbox_pop(&box), &b);
    assert_ptr_equal(outbox_pop(&box), &c);
}

/* What leaves gives its bytes back, and a queue that was empty begins anew. */
static void test_bound_is_given_back(void **state)
{
    (void)state;
    struct outbox box;
    outbox_init(&box, 2 * (100 + OUTBOX_ITEM_OVERHEAD), 1 << 20);
    struct outbox_item items[6];
    for (int i = 0; i < 6; i++)
        items[i] = item(100, true);
    assert_true(outbox_empty(&box));
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &items[0]), SL_OK);
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &items[1]), SL_OK);
    assert_false(outbox_empty(&box));
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &items[2]), SL_EXHAUSTED);
    for (int i = 2; i < 6; i++) {
        assert_ptr_equal(outbox_pop(&box), &items[i - 2]);
        assert_null(items[i - 2].next);
        assert_int_equal(outbox_push(&box, RPC_SUBMIT, &items[i]), SL_OK);
    }
    assert_ptr_equal(outbox_pop(&box), &items[4]);
    assert_ptr_equal(outbox_pop(&box), &items[5]);
    assert_true(outbox_empty(&box));
    assert_int_equal(box.queues[RPC_SUBMIT].bytes, 0);
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &items[0]), SL_OK);
    assert_ptr_equal(outbox_pop(&box), &items[0]);
}

/* At a stream's end all comes out, whatever the window. */
static void test_discard_takes_everything(void **state)
{
    (void)state;
    struct outbox box;
    outbox_init(&box, 1 << 20, 10);
    struct outbox_item a = item(100, true), b = item(100, true), c = item(7, false);
    assert_null(outbox_discard(&box));
    assert_int_equal(outbox_push(&box, RPC_BULK, &a), SL_OK);
    assert_int_equal(outbox_push(&box, RPC_BULK, &b), SL_OK);
    assert_int_equal(outbox_push(&box, RPC_URGENT, &c), SL_OK);
    assert_ptr_equal(outbox_discard(&box), &c);
    assert_null(outbox_pop(&box)); /* no window for what is left */
    assert_ptr_equal(outbox_discard(&box), &a);
    assert_ptr_equal(outbox_discard(&box), &b);
    assert_null(outbox_discard(&box));
    assert_true(outbox_empty(&box));
    assert_int_equal(box.queues[RPC_BULK].bytes + box.queues[RPC_URGENT].bytes, 0);
}

static void test_window_holds_counted_items_only(void **state)
{
    (void)state;
    struct outbox box;
    outbox_init(&box, 1 << 20, 100);
    struct outbox_item a = item(60, true), b = item(60, true), u = item(500, false),
                       bulk = item(10, true);
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &a), SL_OK);
    assert_int_equal(outbox_push(&box, RPC_SUBMIT, &b), SL_OK);
    assert_int_equal(outbox_push(&box, RPC_BULK, &bulk), SL_OK);
    assert_ptr_equal(outbox_pop(&box), &a);
    assert_null(outbox_pop(&box)); /* bulk must not eat b's window */
    assert_int_equal(outbox_push(&box, RPC_URGENT, &u), SL_OK);
    assert_ptr_equal(outbox_pop(&box), &u);
    assert_int_equal(outbox_peer_consumed(&box, 19), SL_OK);
    assert_null(outbox_pop(&box));
    assert_int_equal(outbox_peer_consumed(&box, 20), SL_OK);
    assert_ptr_equal(outbox_pop(&box), &b);
    assert_int_equal(outbox_peer_consumed(&box, 5), SL_OK); /* old news */
    assert_int_equal(box.consumed, 20);
    assert_int_equal(outbox_peer_consumed(&box, 121), SL_CORRUPT);
    assert_int_equal(outbox_peer_consumed(&box, 120), SL_OK);
    assert_ptr_equal(outbox_pop(&box), &bulk);
}

static void test_receiver_grants_a_window_and_announces(void **state)
{
    (void)state;
    struct outbox box;
    outbox_init(&box, 1 << 20, 400);
    uint64_t consumed = 7;
    assert_int_equal(outbox_received(&box, 150), SL_OK);
    assert_int_equal(outbox_received(&box, 250), SL_OK);
    assert_int_equal(outbox_received(&box, 1), SL_CORRUPT);
    outbox_freed(&box, 99);
    assert_false(outbox_announce(&box, &consumed));
    assert_int_equal(consumed, 7);
    outbox_freed(&box, 51);
    assert_true(outbox_announce(&box, &consumed));
    assert_int_equal(consumed, 150);
    assert_false(outbox_announce(&box, &consumed));
    assert_int_equal(outbox_received(&box, 151), SL_CORRUPT);
    assert_int_equal(outbox_received(&box, 150), SL_OK);
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}

/* A sender and a receiver over a wire that keeps order: nothing is lost or reordered within a class,
 * the window is never passed, and everything arrives in the end. */
static void test_two_ends_never_stall(void **state)
{
    (void)state;
    enum { N = 3000, WINDOW = 4096, LARGEST = 1024 };
    static struct outbox_item items[N];
    static enum rpc_class classes[N];
    static uint32_t held[N];
    for (uint64_t seed = 1; seed <= 5; seed++) {
        uint64_t random = seed;
        struct outbox sender, receiver;
        outbox_init(&sender, 1 << 16, WINDOW);
        outbox_init(&receiver, 1 << 16, WINDOW);
        uint32_t pushed = 0, arrived = 0, n_held = 0;
        const struct outbox_item *last[RPC_CLASS_COUNT] = {NULL};
        for (uint32_t turn = 0; arrived < N || n_held > 0; turn++) {
            assert_true(turn < 100 * N);
            if (pushed < N && next_random(&random) % 2 == 0) {
                classes[pushed] = (enum rpc_class)(next_random(&random) % RPC_CLASS_COUNT);
                items[pushed] =
                    item(1 + next_random(&random) % LARGEST, classes[pushed] != RPC_URGENT);
                if (outbox_push(&sender, classes[pushed], &items[pushed]) == SL_OK)
                    pushed++;
            }
            struct outbox_item *sent = next_random(&random) % 3 != 0 ? outbox_pop(&sender) : NULL;
            if (sent != NULL) {
                enum rpc_class class = classes[sent - items];
                assert_true(last[class] == NULL || last[class] < sent);
                last[class] = sent;
                arrived++;
                if (sent->counted) {
                    assert_int_equal(outbox_received(&receiver, sent->bytes), SL_OK);
                    held[n_held++] = sent->bytes;
                }
            }
            if (n_held > 0 && next_random(&random) % 4 == 0)
                outbox_freed(&receiver, held[--n_held]); /* any order */
            uint64_t consumed;
            if (outbox_announce(&receiver, &consumed))
                assert_int_equal(outbox_peer_consumed(&sender, consumed), SL_OK);
            assert_true(sender.sent - sender.consumed <= WINDOW);
        }
        assert_int_equal(sender.sent, receiver.received);
        assert_int_equal(receiver.freed, receiver.received);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urgent_overtakes_and_classes_keep_order),
        cmocka_unit_test(test_bound_takes_a_chain_whole_or_not),
        cmocka_unit_test(test_bound_is_given_back),
        cmocka_unit_test(test_discard_takes_everything),
        cmocka_unit_test(test_window_holds_counted_items_only),
        cmocka_unit_test(test_receiver_grants_a_window_and_announces),
        cmocka_unit_test(test_two_ends_never_stall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
