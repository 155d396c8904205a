/* Kernel speed against the machine's own limits, for the shape of Llama-3.2-1B.
 *
 *   bench-kernels [--threads N] [--path avx512|avx2|portable] [--element bf16|f32] [--seconds S]
 *                [--only decode|prefill|attention]
 *
 * For each op: the time, the share of its floor. The floor of an op is the larger of (its multiply-adds
 * at the measured f32 peak) and (the bytes it must read at the measured bandwidth); both limits
 * are measured before and after. Weights are random and more than the caches hold: an op goes over
 * LAYERS layers in turn. Times are medians over slices of one round each; `best` is the fastest. */
#include "limits.h"

#include "base/clock.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HIDDEN   2048
#define Q_HEADS  32
#define KV_HEADS 8
#define DIM      64
#define MLP      8192
#define VOCAB    128256
#define LAYERS   4
#define ROWS     2048
#define SEQS     16
#define CONTEXT  8192
#define BLOCK    64
#define SLICES   200

struct bench {
    struct device *device;
    struct device_stream *stream;
    struct kernel_context *context;
    struct kernel_acts *acts;
    const struct kernel_ops *ops;
    struct cpu_team *team;
    enum kernel_element element;
    double seconds;
    struct kernel_weight *norm, *head, *table;
    struct kernel_weight *qkv[LAYERS], *out[LAYERS], *gate_up[LAYERS], *down[LAYERS];
    struct device_memory pool, logits;
    struct kernel_kv kv;
    float inv_freq[DIM / 2];
    uint32_t tables[SEQS][CONTEXT / BLOCK];
    uint32_t tokens[ROWS], positions[ROWS], rows[SEQS];
    struct kernel_seq seqs[SEQS];
    struct kernel_batch batch;
    struct limits limits;
};

static void must(sl_status status)
{
    if (status != SL_OK) {
        fprintf(stderr, "bench-kernels: %s\n", sl_error());
        exit(1);
    }
}

/* ---- setting up ---- */

static uint32_t random_state = 1;

static uint32_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static struct kernel_weight *weight(struct bench *b, enum kernel_weight_use use, uint32_t n,
                                    uint32_t k)
{
    size_t count = (size_t)n * k;
    uint16_t *half = sl_try_zalloc(count, 2);
    float *full = b->element == KERNEL_F32 ? sl_try_zalloc(count, 4) : NULL;
    if (half == NULL || (b->element == KERNEL_F32 && full == NULL))
        must(sl_fail(SL_NO_MEMORY, "weight of %u x %u", n, k));
    for (size_t i = 0; i < count; i++) /* between 2^-7 and 2^-5, either sign */
        half[i] = (uint16_t)((random_next() & 0x807fu) | 0x3c00u | (random_next() & 0x80u));
    for (size_t i = 0; full != NULL && i < count; i++)
        full[i] = kernel_from_bf16(half[i]);
    struct kernel_weight_source source = {full != NULL ? (void *)full : (void *)half, b->element, n,
                                          k};
    struct kernel_weight *packed;
    must(b->ops->weight_pack(b->context, use, &source, 1, &packed));
    sl_free(half);
    sl_free(full);
    return packed;
}

static void fill_pool(struct bench *b)
{
    uint16_t *half = b->pool.address;
    for (size_t i = 0; i < b->pool.bytes / 2; i++)
        half[i] = (uint16_t)((random_next() & 0x80ffu) | 0x3e00u);
}

static void set_up(struct bench *b, const char *path, uint32_t threads)
{
    struct kernel_shape shape = {.hidden = HIDDEN,
                                 .n_q_heads = Q_HEADS,
                                 .n_kv_heads = KV_HEADS,
                                 .head_dim = DIM,
                                 .mlp_hidden = MLP,
                                 .vocab = VOCAB,
                                 .rows_max = ROWS,
                                 .seqs_max = SEQS,
                                 .logits_max = SEQS};
    must(device_create(DEVICE_HOST, 0, 0, &b->device));
    must(device_stream_create(b->device, "bench", &b->stream));
    must(kernel_cpu_open_path(b->device, &shape, threads, path, &b->context));
    b->ops = &kernel_cpu_ops;
    b->team = b->context->team;
    must(b->ops->acts_create(b->context, &b->acts));
    b->norm = weight(b, KERNEL_WEIGHT_VECTOR, HIDDEN, 1);
    b->table = weight(b, KERNEL_WEIGHT_EMBEDDING, 1024, HIDDEN);
    b->head = weight(b, KERNEL_WEIGHT_MATRIX, VOCAB, HIDDEN);
    for (int i = 0; i < LAYERS; i++) {
        b->qkv[i] = weight(b, KERNEL_WEIGHT_MATRIX, (Q_HEADS + 2 * KV_HEADS) * DIM, HIDDEN);
        b->out[i] = weight(b, KERNEL_WEIGHT_MATRIX, HIDDEN, Q_HEADS * DIM);
        b->gate_up[i] = weight(b, KERNEL_WEIGHT_MATRIX, 2 * MLP, HIDDEN);
        b->down[i] = weight(b, KERNEL_WEIGHT_MATRIX, HIDDEN, MLP);
    }
    size_t tile = BLOCK * DIM * 2, n_blocks = SEQS * CONTEXT / BLOCK;
    b->kv = (struct kernel_kv){.pool = &b->pool,
                               .block_bytes = LAYERS * KV_HEADS * 2 * tile,
                               .head_bytes = 2 * tile,
                               .v_offset = tile,
                               .block_tokens = BLOCK,
                               .element = KERNEL_BF16};
    must(device_alloc(b->device, n_blocks * b->kv.block_bytes, &b->pool));
    must(device_alloc(b->device, (size_t)SEQS * VOCAB * 4, &b->logits));
    fill_pool(b);
    for (uint32_t s = 0; s < SEQS; s++)
        for (uint32_t i = 0; i < CONTEXT / BLOCK; i++)
            b->tables[s][i] = i * SEQS + s;
    for (int i = 0; i < DIM / 2; i++)
        b->inv_freq[i] = powf(500000.0f, -2.0f * (float)i / DIM);
    for (uint32_t i = 0; i < ROWS; i++)
        b->tokens[i] = i * 37 % 1024;
}

/* n_seqs sequences of n rows each, the last of them at position `end` - 1. */
static void set_batch(struct bench *b, uint32_t n_seqs, uint32_t n, uint32_t end)
{
    for (uint32_t s = 0; s < n_seqs; s++) {
        b->seqs[s] = (struct kernel_seq){s * n, n, end - n, {b->tables[s]}, CONTEXT / BLOCK};
        b->rows[s] = s * n;
        for (uint32_t i = 0; i < n; i++)
            b->positions[s * n + i] = end - n + i;
    }
    b->batch = (struct kernel_batch){n_seqs * n, n_seqs, b->tokens, b->positions, b->seqs};
    b->ops->embed(b->stream, b->acts, &b->batch, b->table, 1.0f);
}

/* ---- ops ---- */

static void op_attn_in(struct bench *b, int layer)
{
    struct kernel_kv kv = b->kv;
    kv.layer_offset = (size_t)layer * KV_HEADS * kv.head_bytes;
    struct kernel_attn_in_args args = {.acts = b->acts,
                                       .norm = b->norm,
                                       .qkv = b->qkv[layer],
                                       .rope = {b->inv_freq, DIM, 1.0f},
                                       .norm_eps = 1e-5f,
                                       .kv = kv};
    b->ops->attn_in(b->stream, &args);
}

static void op_attention(struct bench *b, int layer)
{
    struct kernel_kv kv = b->kv;
    kv.layer_offset = (size_t)layer * KV_HEADS * kv.head_bytes;
    struct kernel_attention_args args = {.acts = b->acts, .kv = kv, .scale = 0.125f};
    b->ops->attention(b->stream, &args);
}

static void op_attn_out(struct bench *b, int layer)
{
    struct kernel_attn_out_args args = {.acts = b->acts, .out = b->out[layer]};
    b->ops->attn_out(b->stream, &args);
}

static void op_mlp(struct bench *b, int layer)
{
    struct kernel_mlp_args args = {.acts = b->acts,
                                   .norm = b->norm,
                                   .gate_up = b->gate_up[layer],
                                   .down = b->down[layer],
                                   .norm_eps = 1e-5f};
    b->ops->mlp(b->stream, &args);
}

static void op_logits(struct bench *b, int layer)
{
    (void)layer;
    struct kernel_logits_args args = {.acts = b->acts,
                                      .norm = b->norm,
                                      .head = b->head,
                                      .norm_eps = 1e-5f,
                                      .n_logits = b->batch.n_seqs,
                                      .rows = b->rows,
                                      .logits = &b->logits};
    b->ops->logits(b->stream, &args);
}

/* ---- measuring ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* flops and bytes: of one call of op. */
static void measure(struct bench *b, const char *name, void (*op)(struct bench *b, int layer),
                    int layers, double flops, double bytes)
{
    double times[SLICES], total = 0;
    int n = 0;
    op(b, 0);
    while (n < SLICES && (n < 3 || total < b->seconds)) {
        uint64_t start = sl_now_us();
        for (int layer = 0; layer < layers; layer++)
            op(b, layer);
        times[n] = (double)(sl_now_us() - start) / layers;
        total += times[n++] * layers / 1e6;
        if (!isfinite(*b->acts->hidden)) /* the residual grows with every call */
            must(sl_fail(SL_CORRUPT, "%s: not finite", name));
        set_batch(b, b->batch.n_seqs, b->batch.n_rows / b->batch.n_seqs,
                  b->positions[b->batch.n_rows - 1] + 1);
    }
    qsort(times, (size_t)n, sizeof(times[0]), compare);
    double us = times[n / 2], compute = flops / b->limits.fma_gflops / 1e3,
           read = bytes / b->limits.read_gbs / 1e3, floor = compute > read ? compute : read;
    printf("%-28s %10.1f us  %7.1f GFLOP/s %4.2f of peak  %6.2f GB/s %4.2f of read  floor %4.2f  "
           "(best %4.2f, n %d)\n",
           name, us, flops / us / 1e3, compute / us, bytes / us / 1e3, read / us, floor / us,
           floor / times[0], n);
    fflush(stdout);
}

static void measure_products(struct bench *b, uint32_t rows)
{
    double bytes = b->element == KERNEL_BF16 ? 2 : 4, m = rows;
    double qkv = (Q_HEADS + 2 * KV_HEADS) * DIM * (double)HIDDEN, out = Q_HEADS * DIM * HIDDEN,
           mlp = 3.0 * MLP * HIDDEN;
    char name[64];
    set_batch(b, rows <= SEQS ? rows : 1, rows <= SEQS ? 1 : rows, rows <= SEQS ? 64 : rows);
    snprintf(name, sizeof(name), "attn_in  M=%u", rows);
    measure(b, name, op_attn_in, LAYERS, 2 * m * qkv, bytes * qkv);
    snprintf(name, sizeof(name), "attn_out M=%u", rows);
    measure(b, name, op_attn_out, LAYERS, 2 * m * out, bytes * out);
    snprintf(name, sizeof(name), "mlp      M=%u", rows);
    measure(b, name, op_mlp, LAYERS, 2 * m * mlp, bytes * mlp);
    if (rows > SEQS)
        return;
    snprintf(name, sizeof(name), "logits   M=%u", rows);
    measure(b, name, op_logits, 1, 2 * m * VOCAB * HIDDEN, bytes * VOCAB * HIDDEN);
}

static void measure_attention(struct bench *b)
{
    const double pair = 4.0 * DIM * Q_HEADS, token = 2.0 * DIM * KV_HEADS * 2;
    set_batch(b, 1, ROWS, ROWS);
    measure(b, "attention prefill 0..2k", op_attention, 1, pair * ROWS * ROWS / 2, token * ROWS);
    set_batch(b, 1, ROWS, 2 * ROWS);
    measure(b, "attention prefill 2k..4k", op_attention, 1, pair * ROWS * ROWS * 1.5,
            token * 2 * ROWS);
    set_batch(b, 1, 1, CONTEXT);
    measure(b, "attention decode 8k, 1 seq", op_attention, LAYERS, pair * CONTEXT, token * CONTEXT);
    set_batch(b, 8, 1, CONTEXT);
    measure(b, "attention decode 8k, 8 seqs", op_attention, LAYERS, 8 * pair * CONTEXT,
            8 * token * CONTEXT);
}

static void print_limits(const struct bench *b)
{
    printf("limits: f32 multiply-add %.1f GFLOP/s, read %.2f GB/s\n", b->limits.fma_gflops,
           b->limits.read_gbs);
}

static void tear_down(struct bench *b)
{
    struct kernel_weight *all[] = {b->norm, b->head, b->table};
    for (size_t i = 0; i < 3; i++)
        b->ops->weight_free(all[i]);
    for (int i = 0; i < LAYERS; i++) {
        b->ops->weight_free(b->qkv[i]);
        b->ops->weight_free(b->out[i]);
        b->ops->weight_free(b->gate_up[i]);
        b->ops->weight_free(b->down[i]);
    }
    b->ops->acts_destroy(b->acts);
    device_free(&b->pool);
    device_free(&b->logits);
    device_stream_destroy(b->stream);
    b->ops->close(b->context);
    device_destroy(b->device);
}

static const char *flag(int argc, char **argv, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return otherwise;
}

int main(int argc, char **argv)
{
    static struct bench b;
    uint32_t threads = (uint32_t)strtoul(flag(argc, argv, "--threads", "0"), NULL, 10);
    b.element =
        strcmp(flag(argc, argv, "--element", "bf16"), "f32") == 0 ? KERNEL_F32 : KERNEL_BF16;
    b.seconds = strtod(flag(argc, argv, "--seconds", "2"), NULL);
    const char *only = flag(argc, argv, "--only", "all");
    set_up(&b, flag(argc, argv, "--path", NULL), threads);
    printf("%s, %u threads, weights %s, KV bf16\n", b.ops->numerics_id(b.context),
           cpu_team_threads(b.team), b.element == KERNEL_BF16 ? "bf16" : "f32");
    limits_measure(b.team, b.context->path->name, &b.limits);
    print_limits(&b);
    const uint32_t rows[] = {1, 2, 4, 8, 16, 128, 512, 2048};
    bool few = strcmp(only, "attention") != 0 && strcmp(only, "prefill") != 0;
    bool many = strcmp(only, "attention") != 0 && strcmp(only, "decode") != 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i] <= SEQS ? few : many)
            measure_products(&b, rows[i]);
    if (strcmp(only, "all") == 0 || strcmp(only, "attention") == 0)
        measure_attention(&b);
    limits_measure(b.team, b.context->path->name, &b.limits);
    print_limits(&b);
    tear_down(&b);
    return 0;
}
