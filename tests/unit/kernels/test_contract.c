/* The numerics contract, bit for bit: what a row computes depends on its own tokens and position.
 *
 * A sequence is run once in the plainest way (alone, one batch, one thread); then in chunks, among
 * other sequences, over other blocks, by more threads, on the fake device, and every byte of every
 * row's q, attention, hidden state and logits must be the same. Slots and blocks that belong to nobody
 * hold NaN throughout. Every path that this machine has, and ref. */
#include "fixture.h"

#include "base/mem.h"
#include "support/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#define ROWS      (TEST_TSAN ? 77 : 205) /* of the sequence that is compared */
#define LONG_ROWS (TEST_TSAN ? 3 : 13)   /* of one that begins behind 1,150 tokens */
#define CONTEXT   1168
#define N(a)      (sizeof(a) / sizeof((a)[0]))

static const struct fx_shape plain = {.name = "gqa, bf16",
                                      .hidden = 40,
                                      .n_q = 4,
                                      .n_kv = 2,
                                      .dim = 24,
                                      .mlp = 50,
                                      .vocab = 37,
                                      .block_tokens = 16,
                                      .kv = KERNEL_BF16,
                                      .weights = KERNEL_BF16,
                                      .rotary = 24,
                                      .bias = true,
                                      .head_norms = true};
static const struct fx_shape windowed = {.name = "one head, window",
                                         .hidden = 264,
                                         .n_q = 1,
                                         .n_kv = 1,
                                         .dim = 16,
                                         .mlp = 270,
                                         .vocab = 18,
                                         .block_tokens = 64,
                                         .rotary = 16,
                                         .activation = KERNEL_GELU_TANH,
                                         .window = 40,
                                         .softcap = 3.0f};
static const struct fx_shape narrow = {.name = "heads of 6, bf16",
                                       .hidden = 33,
                                       .n_q = 6,
                                       .n_kv = 2,
                                       .dim = 6,
                                       .mlp = 19,
                                       .vocab = 23,
                                       .block_tokens = 16,
                                       .kv = KERNEL_BF16,
                                       .weights = KERNEL_BF16,
                                       .rotary = 6,
                                       .head_norms = true};
static const struct fx_shape normed = {.name = "norms behind, of all of q and k, caps",
                                       .hidden = 70,
                                       .n_q = 4,
                                       .n_kv = 2,
                                       .dim = 24,
                                       .mlp = 50,
                                       .vocab = 37,
                                       .block_tokens = 16,
                                       .kv = KERNEL_BF16,
                                       .weights = KERNEL_BF16,
                                       .rotary = 16,
                                       .whole_norms = true,
                                       .no_norms = true,
                                       .post_norms = true,
                                       .softcap = 3,
                                       .logits_softcap = 2};

static const struct fx_shape mixed = {.name = "experts",
                                      .hidden = 40,
                                      .n_q = 2,
                                      .n_kv = 1,
                                      .dim = 16,
                                      .mlp = 24,
                                      .vocab = 37,
                                      .block_tokens = 16,
                                      .weights = KERNEL_BF16,
                                      .rotary = 16,
                                      .experts = 6,
                                      .chosen = 3,
                                      .expert_mlp = 44,
                                      .renormalise = true};

struct way {
    const char *backend, *path;
    enum device_kind device;
    uint32_t n_threads;
    uint64_t seed;
};

static void open_way(struct fx *fx, const struct fx_model *model, const struct way *way)
{
    fx_open(fx, &(struct fx_run_args){.model = model,
                                      .backend = way->backend,
                                      .path = way->path,
                                      .device = way->device,
                                      .n_threads = way->n_threads,
                                      .rows_max = 288,
                                      .context_max = CONTEXT,
                                      .ids = 8,
                                      .seed = way->seed});
}

/* Rows [from, from + n) of `got` against rows [at, at + n) of `want`. */
static void same(const char *what, const struct fx_shape *s, const struct fx_result *got,
                 size_t from, const struct fx_result *want, size_t at, size_t n)
{
    const size_t q = (size_t)s->n_q * s->dim;
    const struct {
        const char *name;
        const float *got, *want;
        size_t width;
    } parts[] = {
        {"q", got->q, want->q, q},
        {"attention", got->attention, want->attention, q},
        {"middle", got->middle, want->middle, s->hidden},
        {"hidden", got->hidden, want->hidden, s->hidden},
        {"logits", got->logits, want->logits, s->vocab},
    };
    for (size_t p = 0; p < N(parts); p++)
        for (size_t row = 0; row < n; row++) {
            const float *a = parts[p].got + (from + row) * parts[p].width;
            const float *b = parts[p].want + (at + row) * parts[p].width;
            for (size_t i = 0; i < parts[p].width; i++)
                if (memcmp(a + i, b + i, sizeof(*a)) != 0 || isnan(a[i]))
                    fail_msg("%s, %s: %s of row %zu [%zu] is %a, want %a", s->name, what,
                             parts[p].name, at + row, i, (double)a[i], (double)b[i]);
        }
}

/* The sequence in chunks of `rows`, from position `first` on (its context before that is given). */
static void chunks(const char *what, const struct fx_model *model, const struct way *way,
                   uint32_t first, uint32_t n_rows, uint32_t rows, const struct fx_result *want)
{
    struct fx fx;
    open_way(&fx, model, way);
    fx_context(&fx, 2, first);
    fx_pool_put(&fx);
    for (uint32_t at = 0; at < n_rows; at += rows) {
        uint32_t n = n_rows - at < rows ? n_rows - at : rows;
        struct fx_result got;
        fx_layer(&fx, &(struct fx_seq){2, first + at, n}, 1, &got);
        same(what, model->shape, &got, 0, want, at, n);
        fx_result_fini(&got);
    }
    fx_close(&fx);
}

/* n rows of the sequence among others: decode rows, prompts, long contexts. */
static void among(const char *what, const struct fx_model *model, const struct way *way,
                  uint32_t first, uint32_t n, const struct fx_result *want, size_t at)
{
    struct fx fx;
    open_way(&fx, model, way);
    const struct fx_seq seqs[] = {{0, 1060, 1}, {1, 0, 3}, {2, first, n}, {3, 63, 1},
                                  {4, 0, 61},   {5, 5, 1}, {6, 300, 2},   {7, 64, 1}};
    for (size_t i = 0; i < N(seqs); i++)
        fx_context(&fx, seqs[i].id, seqs[i].first_position);
    fx_pool_put(&fx);
    struct fx_result got;
    fx_layer(&fx, seqs, N(seqs), &got);
    same(what, model->shape, &got, 4, want, at, n);
    fx_result_fini(&got);
    fx_close(&fx);
}

static void reference(const struct fx_model *model, const struct way *way, uint32_t first,
                      uint32_t n, struct fx_result *result)
{
    struct fx fx;
    open_way(&fx, model, way);
    fx_context(&fx, 2, first);
    fx_pool_put(&fx);
    fx_layer(&fx, &(struct fx_seq){2, first, n}, 1, result);
    fx_close(&fx);
}

static void check(const struct fx_shape *shape, const struct way *base)
{
    struct fx_model model;
    struct fx_result want;
    fx_model_init(&model, shape);
    reference(&model, base, 0, ROWS, &want);
    struct way way = *base;
    way.seed = 11;
    chunks("other blocks", &model, &way, 0, ROWS, ROWS, &want);
    chunks("chunks of 128", &model, &way, 0, ROWS, 128, &want);
    chunks("chunks of 37", &model, &way, 0, ROWS, 37, &want);
    chunks("chunks of 1", &model, &way, 0, ROWS, 1, &want);
    way.n_threads = 2;
    chunks("2 threads", &model, &way, 0, ROWS, ROWS, &want);
    chunks("2 threads, chunks of 7", &model, &way, 0, ROWS, 7, &want);
    way.n_threads = 5; /* more than this machine has */
    among("all rows among others, 5 threads", &model, &way, 0, ROWS, &want, 0);
    way.device = DEVICE_FAKE;
    chunks("fake device, chunks of 64", &model, &way, 0, ROWS, 64, &want);
    fx_result_fini(&want);

    /* Beyond two splits (the order of folding shows from three on), where few rows are shared out by splits. */
    reference(&model, base, 1150, LONG_ROWS, &want);
    way = *base;
    way.n_threads = 3;
    chunks("long context, chunks of 1", &model, &way, 1150, LONG_ROWS, 1, &want);
    chunks("long context, 3 threads", &model, &way, 1150, LONG_ROWS, LONG_ROWS, &want);
    among("long context among others", &model, &way, 1150, LONG_ROWS, &want, 0);
    among("one row among others", &model, &way, 1150, 1, &want, 0);
    fx_result_fini(&want);
    fx_model_fini(&model);
}

/* Rows in blocks of another size compute the same: a block is where bytes lie, nothing else. */
static void check_block_size(const struct way *base)
{
    struct fx_shape shape = plain;
    struct fx_model small, large;
    struct fx_result want;
    shape.block_tokens = 128;
    fx_model_init(&small, &plain);
    fx_model_init(&large, &shape);
    reference(&small, base, 0, ROWS, &want);
    chunks("blocks of 128", &large, base, 0, ROWS, 100, &want);
    fx_result_fini(&want);
    fx_model_fini(&small);
    fx_model_fini(&large);
}

static void check_path(const char *backend, const char *path)
{
    const struct way base = {backend, path, DEVICE_HOST, 1, 3};
    if (path != NULL) {
        struct kernel_shape shape = {8, 1, 1, 8, 8, 8, 1, 1, 1, 0, 0, 0};
        struct device *device;
        struct kernel_context *context;
        assert_int_equal(device_create(DEVICE_HOST, 0, 0, &device), SL_OK);
        sl_status status = kernel_cpu_open_path(device, &shape, 1, path, &context);
        if (status == SL_OK)
            kernel_cpu_ops.close(context);
        device_destroy(device);
        if (status == SL_UNSUPPORTED) {
            print_message("skipped: this machine has no %s\n", path);
            skip();
        }
    }
    check(&plain, &base);
    check(&windowed, &base);
    check(&narrow, &base);
    check(&normed, &base);
    check(&mixed, &base);
    check_block_size(&base);
}

static void test_ref(void **state)
{
    (void)state;
    check_path("ref", NULL);
}

static void test_portable(void **state)
{
    (void)state;
    check_path("cpu", "portable");
}

static void test_avx2(void **state)
{
    (void)state;
    check_path("cpu", "avx2");
}

static void test_avx512(void **state)
{
    (void)state;
    check_path("cpu", "avx512");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref),
        cmocka_unit_test(test_portable),
        cmocka_unit_test(test_avx2),
        cmocka_unit_test(test_avx512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
