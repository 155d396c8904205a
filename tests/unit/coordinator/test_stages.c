/* Stages: each way that a request takes, to the microsecond, and that the sum is the whole on any. */
#include "coordinator/stages.h"

#include "support/support.h"

static void expect(const struct stages *s, const uint64_t *want)
{
    for (uint32_t i = 0; i < STAGE_COUNT; i++)
        if (s->spent_us[i] != want[i])
            fail_msg("%s: %d us; want %d", stage_name((enum stage)i), (int)s->spent_us[i],
                     (int)want[i]);
}

static void a_pair(void **state)
{
    (void)state;
    struct stages s;
    stages_begin(&s, 1000);
    stages_route(&s, 1010);
    stages_placed(&s, 1030);
    stages_admitted(&s, false, 1035); /* the destination: nobody waits for it yet */
    stages_admitted(&s, true, 1070);
    stages_first_token(&s, true, 1150);
    stages_decodes(&s, 1310);
    stages_decodes(&s, 1400);
    assert_int_equal(stages_end(&s, 1630), 630);
    expect(&s, (const uint64_t[]){10, 20, 40, 80, 160, 0, 320});
    char text[256];
    stages_text(&s, text, sizeof(text));
    assert_string_equal(text, "tokenize_ms=0.0 route_ms=0.0 prefill_queue_ms=0.0 prefill_ms=0.1 "
                              "transfer_ms=0.2 decode_queue_ms=0.0 decode_ms=0.3");
}

/* The destination has no room yet when the prompt is done; then it is another one. */
static void a_late_destination(void **state)
{
    (void)state;
    struct stages s;
    stages_begin(&s, 0);
    stages_route(&s, 1);
    stages_placed(&s, 2);
    stages_admitted(&s, true, 4);
    stages_first_token(&s, false, 8);
    stages_admitted(&s, true, 9); /* a repeated one means nothing */
    stages_admitted(&s, false, 16);
    stages_redirected(&s, 32);
    stages_first_token(&s, false, 40); /* the source says it again */
    stages_admitted(&s, false, 64);
    stages_decodes(&s, 128);
    assert_int_equal(stages_end(&s, 256), 256);
    expect(&s, (const uint64_t[]){1, 1, 2, 4, 16 + 64, 8 + 32, 128});
}

static void local_and_single(void **state)
{
    (void)state;
    struct stages s;
    stages_begin(&s, 0);
    stages_route(&s, 1);
    stages_placed(&s, 3);
    stages_admitted(&s, true, 7);
    stages_decodes(&s, 15);
    assert_int_equal(stages_end(&s, 31), 31);
    expect(&s, (const uint64_t[]){1, 2, 4, 8, 0, 0, 16});
    stages_begin(&s, 0);
    stages_route(&s, 1);
    stages_placed(&s, 3);
    stages_admitted(&s, true, 7);
    stages_decodes(&s, 15);
    assert_int_equal(stages_end(&s, 15), 15);
    expect(&s, (const uint64_t[]){1, 2, 4, 8, 0, 0, 0});
    assert_int_equal(s.passed, 1u << STAGE_TOKENIZE | 1u << STAGE_ROUTE |
                                   1u << STAGE_PREFILL_QUEUE | 1u << STAGE_PREFILL |
                                   1u << STAGE_DECODE);
}

/* A resume computes again; what the old node still says is not of the new placement. */
static void resumed(void **state)
{
    (void)state;
    struct stages s;
    stages_begin(&s, 0);
    stages_route(&s, 1);
    stages_placed(&s, 2);
    stages_admitted(&s, true, 3);
    stages_first_token(&s, true, 4);
    stages_decodes(&s, 5);
    stages_route(&s, 100);
    stages_decodes(&s, 150);
    stages_placed(&s, 200);
    stages_admitted(&s, true, 300);
    stages_decodes(&s, 400);
    assert_int_equal(stages_end(&s, 500), 500);
    expect(&s, (const uint64_t[]){1, 1 + 100, 1 + 100, 1 + 100, 1, 0, 95 + 100});
}

static void any_order(void **state)
{
    (void)state;
    uint64_t random = 11;
    for (int run = 0; run < 2000; run++) {
        struct stages s;
        uint64_t start = test_random(&random) % 1000000, now = start;
        stages_begin(&s, start);
        for (uint64_t n = test_random(&random) % 20; n > 0; n--) {
            now += test_random(&random) % 1000;
            bool flag = test_random(&random) % 2 == 0;
            switch (test_random(&random) % 6) {
            case 0:
                stages_route(&s, now);
                break;
            case 1:
                stages_placed(&s, now);
                break;
            case 2:
                stages_admitted(&s, flag, now);
                break;
            case 3:
                stages_redirected(&s, now);
                break;
            case 4:
                stages_first_token(&s, flag, now);
                break;
            default:
                stages_decodes(&s, now);
                break;
            }
        }
        now += test_random(&random) % 1000;
        assert_int_equal(stages_end(&s, now), now - start);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pair),           cmocka_unit_test(a_late_destination),
        cmocka_unit_test(local_and_single), cmocka_unit_test(resumed),
        cmocka_unit_test(any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
