/* Fault points: what a specification means, and what it refuses. */
#include "base/fault.h"

#include "base/clock.h"
#include "base/thread.h"
#include "support/support.h"
#include "support/torture.h"

static void test_inactive_never_fires(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        assert_false(sl_fault_hit("send", i));
}

static void test_fail_fires_once(void **state)
{
    (void)state;
    assert_ok(sl_fault_configure("send=fail:3"));
    assert_false(sl_fault_hit("send", -1));
    assert_false(sl_fault_hit("other", -1));
    assert_false(sl_fault_hit("send", 7));
    assert_true(sl_fault_hit("send", -1));
    assert_false(sl_fault_hit("send", -1));
    sl_fault_clear();
    assert_false(sl_fault_active);
}

static void test_index_selects(void **state)
{
    (void)state;
    assert_ok(sl_fault_configure("layer@3=always,seal=always"));
    assert_false(sl_fault_hit("layer", 2));
    assert_true(sl_fault_hit("layer", 3));
    assert_true(sl_fault_hit("layer", 3));
    assert_false(sl_fault_hit("layer", -1));
    assert_true(sl_fault_hit("seal", -1));
    sl_fault_clear();
}

static void test_delay(void **state)
{
    (void)state;
    assert_ok(sl_fault_configure("step=delay:2000"));
    uint64_t before = sl_real_us();
    assert_false(sl_fault_hit("step", -1));
    assert_true(sl_real_us() - before >= 2000);
    sl_fault_clear();
}

static void hit_hold(void *arg)
{
    (void)sl_fault_hit("layer", 1);
    *(_Atomic bool *)arg = true;
}

static void test_hold_until_file(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    char *path = test_path(dir, "go");
    char *specification = sl_asprintf("layer@1=hold:%s", path);
    assert_ok(sl_fault_configure(specification));
    _Atomic bool passed = false;
    struct sl_thread thread = {0};
    assert_ok(sl_thread_start(&thread, "held", hit_hold, &passed));
    sl_sleep_us(20000);
    assert_false(passed);
    test_write_text(dir, "go", "");
    sl_thread_join(&thread);
    assert_true(passed);

    (void)unlink(path); /* and clearing lets go as well */
    passed = false;
    assert_ok(sl_thread_start(&thread, "held", hit_hold, &passed));
    sl_sleep_us(5000);
    sl_fault_clear();
    sl_thread_join(&thread);
    sl_free(specification);
    sl_free(path);
    test_dir_remove(dir);
}

static void test_wrong_specifications(void **state)
{
    (void)state;
    const char *const wrong[] = {"send",
                                 "send=",
                                 "send=never",
                                 "send=fail",
                                 "send=fail:0",
                                 "send=fail:x",
                                 "send=fail:-1",
                                 "=always",
                                 "send@=always",
                                 "send@x=always",
                                 "send=always:1",
                                 "send=hold:",
                                 "send=delay:99999999999"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        char *two = sl_asprintf("good=always,%s", wrong[i]);
        assert_fails(sl_fault_configure(two), SL_INVALID, wrong[i]);
        sl_free(two);
        assert_false(sl_fault_active); /* all of it or nothing */
    }
    char many[33 * 9 + 1] = "";
    for (size_t i = 0; i < 33; i++)
        memcpy(many + 9 * i, "p=always,", 10);
    assert_fails(sl_fault_configure(many), SL_INVALID, "more than 32");
    sl_fault_clear();
}

static void test_torture_counts_every_point(void **state)
{
    (void)state;
    sl_fault_torture(3);
    assert_false(sl_fault_hit("a", -1));
    assert_false(sl_fault_hit("b", 4));
    assert_false(sl_fault_fired());
    assert_true(sl_fault_hit("c", -1));
    assert_true(sl_fault_fired());
    assert_false(sl_fault_hit("c", -1));
    sl_fault_torture(0);
    assert_true(sl_fault_fired()); /* can still be asked */
    assert_false(sl_fault_active);
    sl_fault_clear();
    assert_false(sl_fault_fired());
}

/* Three points, the second of which is survived. */
static sl_status three_steps(void *arg)
{
    int *survived = arg;
    if (sl_fault_hit("one", -1))
        return sl_fail(SL_DEVICE, "one");
    if (sl_fault_hit("two", -1))
        ++*survived;
    if (sl_fault_hit("three", -1))
        return sl_fail(SL_PEER, "three");
    return SL_OK;
}

static void test_torture_run(void **state)
{
    (void)state;
    int survived = 0;
    assert_int_equal(torture_run("three steps", three_steps, NULL, &survived, 100), 3);
    assert_int_equal(survived, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inactive_never_fires),
        cmocka_unit_test(test_fail_fires_once),
        cmocka_unit_test(test_index_selects),
        cmocka_unit_test(test_delay),
        cmocka_unit_test(test_hold_until_file),
        cmocka_unit_test(test_wrong_specifications),
        cmocka_unit_test(test_torture_counts_every_point),
        cmocka_unit_test(test_torture_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
