/* The cpu backend, every path this machine has, against ref over a grid of shapes and batches.
 *
 * Both keep f32 throughout and differ in the order of sums, in fused products, in exp and in the
 * angles' last bit, so an output differs by about sqrt(K) * 2^-24 of the size of its terms, K <= 600:
 * below 2e-6 for one op. An error of q or of the hidden state goes on into the next op. Allowed: 4e-5 of (1 + |x|);
 * with large scores (up to 1,000, known to 1,000 * 2^-24) 25 times that in what follows from them.
 * A KV element in bf16 may fall to the other side of a rounding boundary (2^-8 of itself): shapes
 * with bf16 KV are allowed as much from attention on; the same code is held to 4e-5 by those with f32. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOLERANCE 4e-5

static const struct fx_shape shapes[] = {
    {.name = "small f32",
     .hidden = 64,
     .n_q = 4,
     .n_kv = 2,
     .dim = 16,
     .mlp = 96,
     .vocab = 100,
     .block_tokens = 16,
     .rotary = 16},
    {.name = "odd sizes, dim 80, bf16",
     .hidden = 61,
     .n_q = 3,
     .n_kv = 1,
     .dim = 80,
     .mlp = 51,
     .vocab = 35,
     .block_tokens = 32,
     .kv = KERNEL_BF16,
     .weights = KERNEL_BF16,
     .rotary = 80,
     .bias = true},
    {.name = "deep K, bf16",
     .hidden = 300,
     .n_q = 4,
     .n_kv = 4,
     .dim = 64,
     .mlp = 600,
     .vocab = 257,
     .block_tokens = 64,
     .kv = KERNEL_BF16,
     .weights = KERNEL_BF16,
     .rotary = 64},
    {.name = "dim 128, group 7, norms, f16",
     .hidden = 48,
     .n_q = 14,
     .n_kv = 2,
     .dim = 128,
     .mlp = 64,
     .vocab = 40,
     .block_tokens = 128,
     .weights = KERNEL_F16,
     .rotary = 128,
     .head_norms = true},
    {.name = "dim 96, window, cap, gelu",
     .hidden = 40,
     .n_q = 8,
     .n_kv = 2,
     .dim = 96,
     .mlp = 72,
     .vocab = 48,
     .block_tokens = 16,
     .kv = KERNEL_BF16,
     .rotary = 48,
     .activation = KERNEL_GELU_TANH,
     .window = 70,
     .softcap = 5.0f,
     .table_is_matrix = true},
    {.name = "dim 256, matrix table bf16",
     .hidden = 32,
     .n_q = 2,
     .n_kv = 1,
     .dim = 256,
     .mlp = 16,
     .vocab = 20,
     .block_tokens = 64,
     .weights = KERNEL_BF16,
     .rotary = 256,
     .table_is_matrix = true},
    {.name = "dim 24, one kv head of 16, no rotation",
     .hidden = 24,
     .n_q = 16,
     .n_kv = 1,
     .dim = 24,
     .mlp = 8,
     .vocab = 9,
     .block_tokens = 16,
     .kv = KERNEL_BF16},
    {.name = "norms before and behind, cap of the logits, bf16",
     .hidden = 91,
     .n_q = 4,
     .n_kv = 2,
     .dim = 32,
     .mlp = 50,
     .vocab = 77,
     .block_tokens = 16,
     .weights = KERNEL_BF16,
     .rotary = 24,
     .head_norms = true,
     .post_norms = true,
     .activation = KERNEL_GELU_TANH,
     .softcap = 4,
     .logits_softcap = 3},
    {.name = "norms behind only, of all of q and k, bias",
     .hidden = 75,
     .n_q = 6,
     .n_kv = 3,
     .dim = 24,
     .mlp = 40,
     .vocab = 30,
     .block_tokens = 32,
     .rotary = 24,
     .bias = true,
     .whole_norms = true,
     .no_norms = true,
     .post_norms = true},
    {.name = "experts, bf16",
     .hidden = 70,
     .n_q = 2,
     .n_kv = 1,
     .dim = 16,
     .mlp = 24,
     .vocab = 20,
     .block_tokens = 16,
     .weights = KERNEL_BF16,
     .rotary = 16,
     .experts = 9,
     .chosen = 2,
     .expert_mlp = 130,
     .renormalise = true},
    {.name = "dim 20, odd heads, norms, bf16",
     .hidden = 37,
     .n_q = 9,
     .n_kv = 3,
     .dim = 20,
     .mlp = 29,
     .vocab = 41,
     .block_tokens = 16,
     .kv = KERNEL_BF16,
     .weights = KERNEL_F16,
     .rotary = 20,
     .head_norms = true},
    {.name = "dim 2, window",
     .hidden = 10,
     .n_q = 5,
     .n_kv = 5,
     .dim = 2,
     .mlp = 7,
     .vocab = 9,
     .block_tokens = 16,
     .rotary = 2,
     .window = 30},
    {.name = "dim 72, large scores",
     .hidden = 64,
     .n_q = 5,
     .n_kv = 5,
     .dim = 72,
     .mlp = 24,
     .vocab = 16,
     .block_tokens = 32,
     .rotary = 72,
     .q_gain = 400},
};

/* Batches: one row, decode rows, tiles with tails, more rows than a block, long contexts. */
static const struct {
    uint32_t n_seqs;
    struct fx_seq seqs[8];
} batches[] = {
    {1, {{0, 0, 1}}},
    {1, {{4, 530, 1}}},
    {5, {{0, 12, 1}, {1, 0, 1}, {2, 63, 1}, {3, 64, 1}, {4, 540, 1}}},
    {3, {{6, 31, 4}, {7, 0, 2}, {2, 100, 1}}},
    {2, {{1, 0, 30}, {3, 505, 9}}},
    {4, {{0, 0, 130}, {2, 61, 67}, {5, 9, 1}, {6, 0, 5}}},
};

#define N(a) (sizeof(a) / sizeof((a)[0]))

static void near(const char *what, const char *path, const char *name, size_t batch,
                 const float *got, const float *want, size_t n, double tolerance)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)(got[i] - want[i])) <= tolerance * (1 + fabs((double)want[i]))))
            fail_msg("%s, %s, batch %zu: %s [%zu] is %.9g, ref %.9g", path, name, batch, what, i,
                     (double)got[i], (double)want[i]);
}

static void open_one(struct fx *fx, const struct fx_model *model, const char *path,
                     enum device_kind device, uint32_t n_threads)
{
    fx_open(fx, &(struct fx_run_args){.model = model,
                                      .backend = path == NULL ? "ref" : "cpu",
                                      .path = path,
                                      .device = device,
                                      .n_threads = n_threads,
                                      .rows_max = 256,
                                      .context_max = 544,
                                      .ids = 8,
                                      .seed = 5});
}

static void fill_contexts(struct fx *fx, size_t batch)
{
    fx_clear(fx);
    for (uint32_t i = 0; i < batches[batch].n_seqs; i++)
        fx_context(fx, batches[batch].seqs[i].id, batches[batch].seqs[i].first_position);
    fx_pool_put(fx);
}

/* Slots of the batch's rows; the other layer's bytes must be as they were. */
static void near_pool(struct fx *fx, const struct fx *ref, size_t batch, const char *path)
{
    const struct fx_shape *s = fx->model->shape;
    double tolerance = s->kv == KERNEL_BF16 ? 0x1p-7 : TOLERANCE;
    fx_pool_get(fx);
    for (uint32_t n = 0; n < batches[batch].n_seqs; n++) {
        const struct fx_seq *seq = &batches[batch].seqs[n];
        for (uint32_t p = seq->first_position; p < seq->first_position + seq->n_rows; p++)
            for (uint32_t h = 0; h < s->n_kv; h++)
                for (uint32_t i = 0; i < 2 * s->dim; i++) {
                    double got = fx_slot(fx, seq->id, p, h, i >= s->dim, i % s->dim);
                    double want = fx_slot(ref, seq->id, p, h, i >= s->dim, i % s->dim);
                    if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
                        fail_msg("%s, %s: slot of position %u: %g, ref %g", path, s->name, p, got,
                                 want);
                }
    }
    for (size_t block = 0; block < fx->n_blocks; block++)
        assert_true(memcmp(fx->image + block * fx->kv.block_bytes,
                           ref->image + block * fx->kv.block_bytes, fx->kv.layer_offset) == 0);
}

/* One batch of a shape on a path against what ref made of it. */
static void check_batch(struct fx *fx, const char *path, const struct fx *ref, size_t batch,
                        const struct fx_result *want)
{
    const struct fx_shape *s = fx->model->shape;
    struct fx_result got;
    fill_contexts(fx, batch);
    fx_layer(fx, batches[batch].seqs, batches[batch].n_seqs, &got);
    near_pool(fx, ref, batch, path);
    double large = s->q_gain > 0 ? (double)s->q_gain : 1, after = large > 1 ? 25 : 1;
    /* One bf16 ulp of a key moves a score by 2^-9 of one term, of a value by 2^-9 of itself. */
    double rest = TOLERANCE * after + (s->kv == KERNEL_BF16 ? 0x1p-8 : 0);
    size_t rows = got.n_rows, q = rows * s->n_q * s->dim, hidden = rows * s->hidden;
    near("embed", path, s->name, batch, got.start, want->start, hidden, 0);
    near("q", path, s->name, batch, got.q, want->q, q, TOLERANCE * large);
    near("attention", path, s->name, batch, got.attention, want->attention, q, rest);
    near("middle", path, s->name, batch, got.middle, want->middle, hidden, rest);
    near("hidden", path, s->name, batch, got.hidden, want->hidden, hidden, rest);
    near("logits", path, s->name, batch, got.logits, want->logits, rows * s->vocab, rest);
    fx_result_fini(&got);
}

static bool has_path(const char *path)
{
    struct kernel_shape shape = {8, 1, 1, 8, 8, 8, 1, 1, 1, 0, 0, 0};
    struct device *device;
    struct kernel_context *context;
    assert_int_equal(device_create(DEVICE_HOST, 0, 0, &device), SL_OK);
    sl_status status = kernel_cpu_open_path(device, &shape, 1, path, &context);
    if (status == SL_OK)
        kernel_cpu_ops.close(context);
    else
        assert_int_equal(status, SL_UNSUPPORTED);
    device_destroy(device);
    return status == SL_OK;
}

/* Every batch of a shape on every path; device and threads vary with the shape. */
static void check_shape(size_t index)
{
    static const char *const paths[] = {"portable", "avx2", "avx512"};
    struct fx_model model;
    struct fx ref, fx[N(paths)];
    bool has[N(paths)];
    fx_model_init(&model, &shapes[index]);
    open_one(&ref, &model, NULL, DEVICE_HOST, 1);
    for (size_t i = 0; i < N(paths); i++) {
        has[i] = has_path(paths[i]);
        if (has[i])
            open_one(&fx[i], &model, paths[i], index % 2 == 0 ? DEVICE_HOST : DEVICE_FAKE,
                     index % 4 < 2 ? 2 : 1);
        else if (index == 0)
            print_message("skipped: this machine has no %s\n", paths[i]);
    }
    assert_true(has[0]);
    /* The last batch is about rows of products, which the first shapes have in every kind. */
    for (size_t b = 0; b < (index < 3 ? N(batches) : N(batches) - 1); b++) {
        struct fx_result want;
        fill_contexts(&ref, b);
        fx_layer(&ref, batches[b].seqs, batches[b].n_seqs, &want);
        fx_pool_get(&ref);
        for (size_t i = 0; i < N(paths); i++)
            if (has[i])
                check_batch(&fx[i], paths[i], &ref, b, &want);
        fx_result_fini(&want);
    }
    for (size_t i = 0; i < N(paths); i++)
        if (has[i])
            fx_close(&fx[i]);
    fx_close(&ref);
    fx_model_fini(&model);
}

static void test_every_path_computes_what_ref_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < N(shapes); i++)
        check_shape(i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_path_computes_what_ref_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
