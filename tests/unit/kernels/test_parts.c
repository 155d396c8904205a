/* Parts of the backends: choice and checks, the team, exp, angles, packed rows, whole-block copies. */
#include "kernels/cpu/cpu.h"

#include "base/mem.h"
#include "support/torture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

static void test_backends_are_found_by_name(void **state)
{
    (void)state;
    const struct kernel_ops *ops;
    assert_int_equal(kernel_ops_find("ref", &ops), SL_OK);
    assert_string_equal(ops->name, "ref");
    assert_int_equal(kernel_ops_find("cpu", &ops), SL_OK);
    assert_string_equal(ops->name, "cpu");
    assert_int_equal(kernel_ops_find("tpu", &ops), SL_NOT_FOUND);
    assert_non_null(strstr(sl_error(), "ref, cpu or cuda"));
    assert_int_equal(kernel_ops_find("cuda", &ops), SL_UNSUPPORTED);
    assert_non_null(strstr(sl_error(), "SLUICE_CUDA"));
}

static void test_bad_shapes_are_named(void **state)
{
    (void)state;
    const struct kernel_shape good = {64, 4, 2, 16, 64, 10, 8, 8, 8, 0, 0, 0};
    struct device *device;
    assert_int_equal(device_create(DEVICE_HOST, 0, 0, &device), SL_OK);
    const struct kernel_ops *all[] = {&kernel_ref_ops, &kernel_cpu_ops};
    for (size_t i = 0; i < 2; i++) {
        struct kernel_context *context;
        struct kernel_shape shape = good;
        shape.head_dim = 13;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_INVALID);
        assert_non_null(strstr(sl_error(), "head_dim 13"));
        shape = good;
        shape.head_dim = 264;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_INVALID);
        shape = good;
        shape.n_kv_heads = 3;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_INVALID);
        shape = good;
        shape.rows_max = KERNEL_ROWS_MAX + 1;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_INVALID);
        shape.rows_max = 0;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_INVALID);
        shape = good;
        shape.n_experts = 4;
        shape.n_chosen = 5;
        shape.expert_hidden = 8;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_INVALID);
        assert_non_null(strstr(sl_error(), "n_chosen 5; want 1..4"));
        shape.n_experts = KERNEL_EXPERTS_MAX + 1;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_INVALID);
        assert_non_null(strstr(sl_error(), "n_experts 1025"));
    }
    device_destroy(device);
}

static void test_bad_weights_are_refused(void **state)
{
    (void)state;
    const struct kernel_shape shape = {64, 4, 2, 16, 64, 10, 8, 8, 8, 0, 0, 0};
    static const float data[64];
    struct device *device;
    assert_int_equal(device_create(DEVICE_HOST, 0, 0, &device), SL_OK);
    const struct kernel_ops *all[] = {&kernel_ref_ops, &kernel_cpu_ops};
    for (size_t i = 0; i < 2; i++) {
        struct kernel_context *context;
        struct kernel_weight *weight;
        assert_int_equal(all[i]->open(device, &shape, 1, &context), SL_OK);
        struct kernel_weight_source sources[] = {{data, KERNEL_F32, 4, 8},
                                                 {data, KERNEL_F32, 4, 7}};
        assert_int_equal(all[i]->weight_pack(context, KERNEL_WEIGHT_MATRIX, sources, 2, &weight),
                         SL_INVALID);
        assert_int_equal(all[i]->weight_pack(context, KERNEL_WEIGHT_MATRIX, sources, 0, &weight),
                         SL_INVALID);
        assert_int_equal(all[i]->weight_pack(context, KERNEL_WEIGHT_VECTOR, sources, 1, &weight),
                         SL_INVALID);
        all[i]->close(context);
    }
    device_destroy(device);
}

/* Ascending; the largest; of equal ones the first; shares of all or of the chosen. */
static void test_experts_are_chosen(void **state)
{
    (void)state;
    const float exps[] = {0.25f, 1, 0.5f, 1, 0.5f, 0.5f, 0.25f};
    struct kernel_choice choice = {7, 4, false};
    uint32_t chosen[4];
    float weights[4];
    kernel_choose_experts(&choice, exps, chosen, weights);
    const uint32_t want[] = {1, 2, 3, 4};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(chosen[i], want[i]);
        assert_true(weights[i] == exps[want[i]] / 4);
    }
    choice.renormalise = true;
    kernel_choose_experts(&choice, exps, chosen, weights);
    for (size_t i = 0; i < 4; i++)
        assert_true(weights[i] == (i % 2 == 0 ? 0.25f / 0.75f : 0.125f / 0.75f));
    const float bad[] = {NAN, 1, 0.5f, 0.25f, NAN, 1, 1};
    kernel_choose_experts(&choice, bad, chosen, weights);
    for (size_t i = 0; i < 4; i++)
        assert_true(chosen[i] < 7 && (i == 0 || chosen[i] > chosen[i - 1]) && isnan(weights[i]));
}

/* ---- team ---- */

struct count {
    _Atomic uint32_t *seen; /* [n] */
    _Atomic uint32_t bad_thread;
    uint32_t n_threads;
    volatile uint32_t sink[64];
};

static void count_item(void *arg, uint32_t item, uint32_t thread)
{
    struct count *count = arg;
    if (thread >= count->n_threads)
        atomic_fetch_add(&count->bad_thread, 1);
    for (uint32_t i = 0; i < item % 7 * 50; i++) /* items of uneven length */
        count->sink[thread] = i;
    atomic_fetch_add(&count->seen[item], 1);
}

static void test_every_item_runs_once(void **state)
{
    (void)state;
    const uint32_t threads[] = {1, 2, 3, 8};
    for (size_t t = 0; t < sizeof(threads) / sizeof(threads[0]); t++) {
        struct cpu_team *team;
        assert_int_equal(cpu_team_create(threads[t], &team), SL_OK);
        assert_int_equal(cpu_team_threads(team), threads[t]);
        struct count count = {.n_threads = threads[t]};
        count.seen = sl_zalloc(1000, sizeof(*count.seen));
        uint32_t total = 0;
        for (uint32_t round = 0; round < 300; round++) {
            uint32_t n = round * 7919 % 61;
            total += n;
            cpu_team_run(team, count_item, &count, n);
            for (uint32_t i = 0; i < n; i++) {
                assert_int_equal(atomic_load(&count.seen[i]), 1);
                atomic_store(&count.seen[i], 0);
            }
        }
        assert_true(total > 1000);
        assert_int_equal(atomic_load(&count.bad_thread), 0);
        sl_free((void *)(uintptr_t)count.seen);
        cpu_team_destroy(team);
    }
    struct cpu_team *team;
    assert_int_equal(cpu_team_create(0, &team), SL_INVALID);
    assert_int_equal(cpu_team_create(CPU_THREADS_MAX + 1, &team), SL_INVALID);
}

/* ---- arithmetic ---- */

static const struct cpu_path *paths(size_t i)
{
#if defined(__x86_64__)
    const struct cpu_path *const all[] = {&cpu_path_portable, &cpu_path_avx2, &cpu_path_avx512};
#else
    const struct cpu_path *const all[] = {&cpu_path_portable, NULL, NULL};
#endif
    if (all[i] == NULL)
        return NULL;
    struct kernel_shape shape = {8, 1, 1, 8, 8, 8, 1, 1, 1, 0, 0, 0};
    struct device *device;
    struct kernel_context *context;
    assert_int_equal(device_create(DEVICE_HOST, 0, 0, &device), SL_OK);
    sl_status status = kernel_cpu_open_path(device, &shape, 1, all[i]->name, &context);
    if (status == SL_OK)
        kernel_cpu_ops.close(context);
    device_destroy(device);
    return status == SL_OK ? all[i] : NULL;
}

/* simd.h states 2.5e-7 relative between -87.3 and 88. */
static void test_exp_keeps_its_stated_error(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++) {
        const struct cpu_path *path = paths(p);
        if (path == NULL)
            continue;
        double worst = 0;
        for (int base = -87300; base < 88000; base += 16) {
            float x[16], y[16];
            for (int i = 0; i < 16; i++)
                x[i] = (float)(base + i) * 1e-3f + (float)i * 1.7e-5f;
            path->exp(x, 16, y);
            for (int i = 0; i < 16; i++)
                if (x[i] >= -87.3f && x[i] <= 88.0f)
                    worst = fmax(worst, fabs((double)y[i] / exp((double)x[i]) - 1));
        }
        assert_true(worst < 2.5e-7);
        assert_true(worst > 1e-9);
        const float edges[] = {0, -INFINITY, -87.4f, -1000, INFINITY, 89, NAN, -0.0f};
        float y[8];
        path->exp(edges, 8, y);
        assert_true(y[0] == 1 && y[1] == 0 && y[2] == 0 && y[3] == 0);
        assert_true(y[4] > 1.6e38f && y[5] > 1.6e38f && isnan(y[6]) && y[7] == 1);
    }
}

static void test_angles_are_right_to_the_last_bit(void **state)
{
    (void)state;
    const float inv_freq[4] = {1.0f, 0.31622776f, 1e-2f, 1e-4f};
    const struct kernel_rope rope = {inv_freq, 8, 1.0f};
    uint32_t differ = 0;
    for (uint32_t position = 0; position < 200000; position += 41) {
        float cosine[4], sine[4];
        cpu_rope_row(&rope, position, cosine, sine);
        for (int i = 0; i < 4; i++) {
            double angle = (double)((float)position * inv_freq[i]);
            assert_true(fabs((double)cosine[i] - cos(angle)) < 6.1e-8);
            assert_true(fabs((double)sine[i] - sin(angle)) < 6.1e-8);
            differ += cosine[i] != (float)cos(angle);
            differ += sine[i] != (float)sin(angle);
        }
    }
    assert_true(differ < 10); /* of 39,000: where double itself is near the middle of two floats */
}

static void test_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    const struct {
        uint32_t from;
        uint16_t to;
    } cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82},
                 {0x3f808001, 0x3f81}, {0x7f800000, 0x7f80}, {0x7f800001, 0x7fc0},
                 {0xffffffff, 0xffff}, {0x80000000, 0x8000}, {0x7f7fffff, 0x7f80},
                 {0x00008000, 0x0000}, {0x00018000, 0x0002}};
    for (size_t p = 0; p < 3; p++) {
        const struct cpu_path *path = paths(p);
        for (size_t i = 0; path != NULL && i < sizeof(cases) / sizeof(cases[0]); i++) {
            float x = kernel_from_bits(cases[i].from);
            uint16_t y;
            path->to_kv(KERNEL_BF16, &x, 1, &y);
            assert_int_equal(y, cases[i].to);
            assert_int_equal(kernel_to_bf16(x), cases[i].to);
        }
    }
    assert_true(kernel_from_f16(0x3c00) == 1.0f && kernel_from_f16(0xc000) == -2.0f);
    assert_true(kernel_from_f16(0x0001) == 0x1p-24f && kernel_from_f16(0x83ff) == -1023 * 0x1p-24f);
    assert_true(isinf(kernel_from_f16(0x7c00)) && isnan(kernel_from_f16(0x7e00)));
    assert_true(kernel_from_f16(0x7bff) == 65504.0f);
}

/* ---- copies ---- */

static void test_blocks_are_copied_whole(void **state)
{
    (void)state;
    enum { BYTES = 320, BLOCKS = 5 };
    const struct kernel_ops *all[] = {&kernel_ref_ops, &kernel_cpu_ops};
    for (size_t o = 0; o < 2; o++)
        for (int kind = 0; kind < 2; kind++) {
            struct device *device;
            struct device_stream *stream;
            struct device_memory pool;
            unsigned char image[BLOCKS * BYTES], got[BLOCKS * BYTES];
            for (size_t i = 0; i < sizeof(image); i++)
                image[i] = (unsigned char)(i * 7 + i / BYTES);
            assert_int_equal(device_create(kind == 0 ? DEVICE_HOST : DEVICE_FAKE, 0, 9, &device),
                             SL_OK);
            assert_int_equal(device_stream_create(device, "copies", &stream), SL_OK);
            assert_int_equal(device_alloc(device, sizeof(image), &pool), SL_OK);
            struct kernel_kv kv = {.pool = &pool, .block_bytes = BYTES};
            device_copy_in(stream, &pool, 0, image, sizeof(image));
            all[o]->kv_block_copy(stream, &kv, 3, 1);
            all[o]->kv_block_copy(stream, &kv, 0, 3);
            device_copy_out(stream, got, &pool, 0, sizeof(got));
            assert_int_equal(device_stream_wait(stream), SL_OK);
            memcpy(image + (size_t)3 * BYTES, image + BYTES, BYTES);
            memcpy(image, image + BYTES, BYTES);
            assert_memory_equal(got, image, sizeof(image));
            device_stream_destroy(stream);
            device_free(&pool);
            device_destroy(device);
        }
}

/* ---- torture ---- */

static sl_status open_pack_close(void *arg)
{
    const struct kernel_ops *ops = arg;
    const struct kernel_shape shape = {64, 4, 2, 16, 64, 10, 8, 8, 8, 0, 0, 0};
    static const uint16_t data[64 * 48];
    const struct kernel_weight_source sources[] = {{data, KERNEL_BF16, 32, 48},
                                                   {data, KERNEL_F16, 16, 48}};
    struct device *device = NULL;
    struct kernel_context *context = NULL;
    struct kernel_weight *weight = NULL;
    struct kernel_acts *acts = NULL;
    sl_status status = device_create(DEVICE_HOST, 0, 0, &device);
    if (status == SL_OK)
        status = ops->open(device, &shape, 2, &context);
    if (status == SL_OK)
        status = ops->weight_pack(context, KERNEL_WEIGHT_MATRIX, sources, 2, &weight);
    if (status == SL_OK)
        status = ops->acts_create(context, &acts);
    ops->acts_destroy(acts);
    ops->weight_free(weight);
    if (context != NULL)
        ops->close(context);
    if (device != NULL)
        device_destroy(device);
    return status;
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    const struct kernel_ops *all[] = {&kernel_ref_ops, &kernel_cpu_ops};
    for (size_t i = 0; i < 2; i++)
        torture_run(all[i]->name, open_pack_close, NULL, (void *)(uintptr_t)all[i], 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backends_are_found_by_name),
        cmocka_unit_test(test_bad_shapes_are_named),
        cmocka_unit_test(test_bad_weights_are_refused),
        cmocka_unit_test(test_experts_are_chosen),
        cmocka_unit_test(test_every_item_runs_once),
        cmocka_unit_test(test_exp_keeps_its_stated_error),
        cmocka_unit_test(test_angles_are_right_to_the_last_bit),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_blocks_are_copied_whole),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
