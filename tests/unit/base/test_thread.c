/* Rings, wake-ups, threads, processor sets, the clock: with two threads, so that TSan has its say. */
#include "base/thread.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/ring.h"
#include "support/support.h"
#include "support/torture.h"

#include <signal.h>

static void test_ring_bounds(void **state)
{
    (void)state;
    struct sl_ring *ring;
    assert_ok(sl_ring_create(5, sizeof(int), &ring)); /* 8 */
    int value = -1;
    assert_false(sl_ring_pop(ring, &value));
    for (int i = 0; i < 8; i++)
        assert_true(sl_ring_push(ring, &i));
    assert_false(sl_ring_push(ring, &value));
    assert_int_equal(sl_ring_count(ring), 8);
    for (int i = 0; i < 8; i++) {
        assert_true(sl_ring_pop(ring, &value));
        assert_int_equal(value, i);
    }
    assert_false(sl_ring_pop(ring, &value));
    assert_int_equal(sl_ring_count(ring), 0);
    sl_ring_destroy(ring);
    sl_ring_destroy(NULL);
    assert_fails(sl_ring_create(0, 4, &ring), SL_INVALID, "ring of 0 items");
    assert_fails(sl_ring_create(4, 0, &ring), SL_INVALID, "of 0 bytes");
    assert_fails(sl_ring_create(UINT32_MAX, 1, &ring), SL_INVALID, "ring of");
}

#define N_ITEMS 50000

struct exchange {
    struct sl_ring *ring;
    struct sl_wake wake;
};

struct item {
    uint64_t number;
    uint64_t square;
};

static void produce(void *arg)
{
    struct exchange *exchange = arg;
    for (uint64_t i = 0; i < N_ITEMS;) {
        struct item item = {i, i * i};
        if (sl_ring_push(exchange->ring, &item)) {
            i++;
            if (i % 16 == 0 || i == N_ITEMS)
                sl_wake_signal(&exchange->wake);
        } else {
            sl_wake_signal(&exchange->wake);
            sl_sleep_us(10);
        }
    }
}

static void test_ring_between_threads(void **state)
{
    (void)state;
    struct exchange exchange;
    struct sl_thread thread = {0};
    assert_ok(sl_ring_create(64, sizeof(struct item), &exchange.ring));
    assert_ok(sl_wake_init(&exchange.wake));
    assert_ok(sl_thread_start(&thread, "producer", produce, &exchange));
    uint64_t expected = 0;
    while (expected < N_ITEMS) {
        struct item item;
        assert_true(sl_wake_wait(&exchange.wake, 10 * SL_SECOND_US));
        while (sl_ring_pop(exchange.ring, &item)) {
            assert_int_equal(item.number, expected);
            assert_int_equal(item.square, expected * expected);
            expected++;
        }
    }
    sl_thread_join(&thread);
    sl_wake_fini(&exchange.wake);
    sl_ring_destroy(exchange.ring);
}

static void test_wake_times_out_and_clears(void **state)
{
    (void)state;
    struct sl_wake wake;
    assert_ok(sl_wake_init(&wake));
    uint64_t before = sl_real_us();
    assert_false(sl_wake_wait(&wake, 3000));
    assert_true(sl_real_us() - before >= 3000);
    sl_wake_signal(&wake);
    sl_wake_signal(&wake);
    assert_true(sl_wake_wait(&wake, UINT64_MAX));
    assert_false(sl_wake_wait(&wake, 0));
    sl_wake_signal(&wake);
    sl_wake_clear(&wake);
    assert_false(sl_wake_wait(&wake, 0));
    sl_wake_fini(&wake);
}

struct seen {
    char name[32];
    bool blocked;
};

static void look_around(void *arg)
{
    struct seen *seen = arg;
    sigset_t set;
    pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    seen->blocked = sigismember(&set, SIGTERM) == 1 && sigismember(&set, SIGINT) == 1;
}

static void test_thread_has_name_and_no_signals(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct sl_thread thread = {0};
    sl_thread_join(&thread); /* never started: nothing */
    assert_ok(sl_thread_start(&thread, "a-name-that-is-too-long", look_around, &seen));
    sl_thread_join(&thread);
    sl_thread_join(&thread);
    assert_string_equal(seen.name, "a-name-that-is-");
    assert_true(seen.blocked);
    sigset_t set;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    assert_false(sigismember(&set, SIGTERM));
}

static void bind_to_first(void *arg)
{
    *(sl_status *)arg = sl_cpu_bind("0");
    if (*(sl_status *)arg == SL_OK && sl_cpu_count() != 1)
        *(sl_status *)arg = SL_CORRUPT;
}

static void test_cpus(void **state)
{
    (void)state;
    assert_true(sl_cpu_count() >= 1);
    const char *const wrong[] = {"", "a", "1,", "-1", "2-1", "0-", "0 1", "99999", "0,,1", "1024"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_fails(sl_cpu_bind(wrong[i]), SL_INVALID, "CPU list");
    sl_status status = SL_DEADLINE;
    struct sl_thread thread = {0}; /* it, and not this one, is bound */
    assert_ok(sl_thread_start(&thread, "bound", bind_to_first, &status));
    sl_thread_join(&thread);
    if (status == SL_DEVICE) { /* CPU 0 is not ours in this container */
        print_message("skip: this process may not run on CPU 0\n");
        skip();
    }
    assert_int_equal(status, SL_OK);
}

static void test_clock(void **state)
{
    (void)state;
    uint64_t a = sl_now_us();
    sl_sleep_us(1500);
    assert_true(sl_now_us() - a >= 1500);
    sl_clock_fake(5000);
    assert_int_equal(sl_now_us(), 5000);
    sl_clock_advance(70);
    assert_int_equal(sl_now_us(), 5070);
    assert_true(sl_real_us() >= a);
    sl_clock_real();
    assert_true(sl_now_us() >= a);
    assert_true(sl_wall_seconds() > 1.7e9);
}

static sl_status make_rings(void *arg)
{
    (void)arg;
    struct sl_ring *a = NULL, *b = NULL;
    sl_status status = sl_ring_create(10, 8, &a);
    if (status == SL_OK)
        status = sl_ring_create(10, 8, &b);
    sl_ring_destroy(a);
    sl_ring_destroy(b);
    return status;
}

static void test_torture(void **state)
{
    (void)state;
    assert_int_equal(torture_run("rings", make_rings, NULL, NULL, 100), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_bounds),
        cmocka_unit_test(test_ring_between_threads),
        cmocka_unit_test(test_wake_times_out_and_clears),
        cmocka_unit_test(test_thread_has_name_and_no_signals),
        cmocka_unit_test(test_cpus),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
