/* The queue's bounds and its advice; and the pure parts of the local actuator. */
#include "coordinator/actuator.h"
#include "coordinator/admission.h"

#include "support/support.h"

/* Several requests of one client: all or none. */
static void groups(void **state)
{
    (void)state;
    struct admission a = {.requests_max = 3, .tokens_max = 100};
    assert_false(admission_enter(&a, 4, 1));
    assert_int_equal(a.requests + a.tokens, 0);
    assert_true(admission_enter(&a, 2, 500)); /* an empty queue takes any tokens */
    assert_false(admission_enter(&a, 2, 1));
    assert_false(admission_enter(&a, 1, 1));
    admission_leave(&a, 250, true, 1);
    admission_leave(&a, 250, true, 2);
    assert_true(admission_enter(&a, 1, 10));
    assert_false(admission_enter(&a, 2, 91));
    assert_true(admission_enter(&a, 2, 90));
    assert_int_equal(a.requests, 3);
}

static void bounds(void **state)
{
    (void)state;
    struct admission a = {.requests_max = 3, .tokens_max = 100};
    assert_true(admission_enter(&a, 1, 60));
    assert_false(admission_enter(&a, 1, 41));
    assert_true(admission_enter(&a, 1, 40));
    assert_false(admission_enter(&a, 1, 1));
    admission_leave(&a, 60, true, 1000);
    assert_true(admission_enter(&a, 1, 1));
    assert_true(admission_enter(&a, 1, 1));
    assert_false(admission_enter(&a, 1, 1)); /* three requests */
    admission_leave(&a, 40, false, 2000);
    admission_leave(&a, 1, false, 2000);
    admission_leave(&a, 1, false, 2000);
    assert_int_equal(a.requests, 0);
    assert_int_equal(a.tokens, 0);
    /* An empty queue takes any one request. */
    assert_true(admission_enter(&a, 1, 1000000));
    assert_false(admission_enter(&a, 1, 1));
}

/* Those behind one that finds no place go on, until it has waited for a quarter of its time. */
static void passes(void **state)
{
    (void)state;
    struct admission_pass pass = {.place = true};
    assert_true(admission_missed(&pass, 249, 1000));
    assert_true(pass.place);
    assert_true(admission_missed(&pass, 250, 1000));
    assert_false(pass.place); /* for this turn */
    assert_true(admission_missed(&pass, 0, 1000));
    assert_false(pass.place);
    assert_int_equal(pass.n_passed, 3);
    pass = (struct admission_pass){.place = true};
    assert_true(admission_missed(&pass, 0, 0)); /* an open stream */
    assert_false(pass.place);
    pass = (struct admission_pass){.place = true};
    for (uint32_t i = 1; i < 64; i++)
        assert_true(admission_missed(&pass, 0, 1000));
    assert_false(admission_missed(&pass, 0, 1000));
}

static void retry_after(void **state)
{
    (void)state;
    struct admission a = {.requests_max = 10000, .tokens_max = 1000000};
    assert_int_equal(admission_retry_after_s(&a), 1);
    /* Ten a second for a minute, then 100 waiting: about ten seconds. */
    for (uint64_t i = 1; i <= 600; i++) {
        assert_true(admission_enter(&a, 1, 1));
        admission_leave(&a, 1, true, i * 100000);
    }
    for (uint64_t i = 0; i < 500; i++) { /* clients that give up make nobody's turn come sooner */
        assert_true(admission_enter(&a, 1, 1));
        admission_leave(&a, 1, false, 60000000 + i);
    }
    for (int i = 0; i < 100; i++)
        assert_true(admission_enter(&a, 1, 1));
    assert_in_range(admission_retry_after_s(&a), 9, 12);
    for (int i = 0; i < 5000; i++)
        assert_true(admission_enter(&a, 1, 1));
    assert_int_equal(admission_retry_after_s(&a), 60);
}

static void cpu_sets(void **state)
{
    (void)state;
    char lists[4][64];
    const uint16_t cpus[] = {0, 1, 2, 3, 8, 9, 12};
    assert_true(actuator_divide_cpus(cpus, 7, 2, 0, lists));
    assert_string_equal(lists[0], "0-2");
    assert_string_equal(lists[1], "3,8-9");
    assert_true(actuator_divide_cpus(cpus, 7, 3, 2, lists));
    assert_string_equal(lists[2], "8-9");
    assert_false(actuator_divide_cpus(cpus, 7, 4, 2, lists));
    assert_true(actuator_divide_cpus(cpus, 2, 2, 0, lists));
    assert_string_equal(lists[1], "1");
    assert_false(actuator_divide_cpus(cpus, 2, 3, 0, lists));
}

static void back_off(void **state)
{
    (void)state;
    assert_int_equal(actuator_backoff_us(1), 100000);
    assert_int_equal(actuator_backoff_us(2), 200000);
    assert_int_equal(actuator_backoff_us(6), 3200000);
    assert_int_equal(actuator_backoff_us(7), 5000000);
    assert_int_equal(actuator_backoff_us(4000000000u), 5000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups),      cmocka_unit_test(bounds),   cmocka_unit_test(passes),
        cmocka_unit_test(retry_after), cmocka_unit_test(cpu_sets), cmocka_unit_test(back_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
