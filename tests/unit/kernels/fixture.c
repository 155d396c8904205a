#include "fixture.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define EPS   1e-5f
#define SCALE 1.25f /* of the embedding */

static void must(sl_status status)
{
    if (status != SL_OK)
        fail_msg("%s: %s", sl_status_name(status), sl_error());
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

float fx_random(uint64_t seed, uint64_t index)
{
    return (float)(int32_t)(mix(mix(seed) + index) >> 32) * 0x1p-31f;
}

/* ---- model ---- */

/* f16 of a value within its normal range: enough for weights. */
static uint16_t to_f16(float x)
{
    uint32_t bits = kernel_to_bits(x), sign = bits >> 16 & 0x8000u;
    int32_t exponent = (int32_t)(bits >> 23 & 255u) - 112;
    if (exponent <= 0)
        return (uint16_t)sign;
    return (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ffu));
}

static void put(void *data, enum kernel_element element, size_t i, float x)
{
    if (element == KERNEL_F32)
        ((float *)data)[i] = x;
    else
        ((uint16_t *)data)[i] = element == KERNEL_BF16 ? kernel_to_bf16(x) : to_f16(x);
}

void fx_model_init(struct fx_model *model, const struct fx_shape *s)
{
    uint32_t q = s->n_q * s->dim, kv = s->n_kv * s->dim;
    uint32_t experts = s->experts > 0 ? s->experts : 1;
    uint32_t expert_mlp = s->experts > 0 ? s->expert_mlp : 1;
    const uint32_t sizes[FX_MATRICES][2] = {
        [FX_TABLE] = {s->vocab, s->hidden},
        [FX_NORM] = {s->hidden, 1},
        [FX_Q] = {q, s->hidden},
        [FX_K] = {kv, s->hidden},
        [FX_V] = {kv, s->hidden},
        [FX_Q_BIAS] = {q, 1},
        [FX_K_BIAS] = {kv, 1},
        [FX_V_BIAS] = {kv, 1},
        [FX_Q_NORM] = {s->whole_norms ? q : s->dim, 1},
        [FX_K_NORM] = {s->whole_norms ? kv : s->dim, 1},
        [FX_OUT] = {s->hidden, q},
        [FX_OUT_BIAS] = {s->hidden, 1},
        [FX_MLP_NORM] = {s->hidden, 1},
        [FX_GATE] = {s->mlp, s->hidden},
        [FX_UP] = {s->mlp, s->hidden},
        [FX_DOWN] = {s->hidden, s->mlp},
        [FX_POST_NORM] = {s->hidden, 1},
        [FX_MLP_POST_NORM] = {s->hidden, 1},
        [FX_LAST_NORM] = {s->hidden, 1},
        [FX_HEAD] = {s->vocab, s->hidden},
        [FX_ROUTER] = {experts, s->hidden},
        [FX_EXPERT_GATE] = {experts * expert_mlp, s->hidden},
        [FX_EXPERT_UP] = {experts * expert_mlp, s->hidden},
        [FX_EXPERT_DOWN] = {experts * s->hidden, expert_mlp},
    };
    model->shape = s;
    for (int m = 0; m < FX_MATRICES; m++) {
        uint32_t n = sizes[m][0], k = sizes[m][1];
        void *data = sl_zalloc((size_t)n * k, s->weights == KERNEL_F32 ? 4 : 2);
        float gain = k == 1 ? 0.3f : 1.7f / sqrtf((float)k);
        gain *= m == FX_Q && s->q_gain > 0 ? s->q_gain : 1.0f;
        bool is_bias = m == FX_Q_BIAS || m == FX_K_BIAS || m == FX_V_BIAS || m == FX_OUT_BIAS;
        float base = k == 1 && !is_bias ? 1.0f : 0.0f;
        if (m == FX_TABLE)
            gain = 1.0f;
        for (size_t i = 0; i < (size_t)n * k; i++)
            put(data, s->weights, i, base + gain * fx_random((uint64_t)m + 1, i));
        model->sources[m] = (struct kernel_weight_source){data, s->weights, n, k};
    }
    for (uint32_t i = 0; i < s->rotary / 2; i++)
        model->inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)s->rotary);
}

void fx_model_fini(struct fx_model *model)
{
    for (int m = 0; m < FX_MATRICES; m++)
        sl_free((void *)(uintptr_t)model->sources[m].data);
}

double fx_at(const struct fx_model *model, enum fx_matrix matrix, size_t n, size_t k)
{
    const struct kernel_weight_source *source = &model->sources[matrix];
    return (double)kernel_source_at(source, n * source->k + k);
}

/* ---- a backend with the model packed ---- */

static struct kernel_weight *pack(struct fx *fx, enum kernel_weight_use use, int first, uint32_t n)
{
    struct kernel_weight *weight;
    must(fx->ops->weight_pack(fx->context, use, fx->model->sources + first, n, &weight));
    return weight;
}

/* Expert e's part of a matrix. */
static struct kernel_weight_source expert_part(const struct fx *fx, int matrix, uint32_t e)
{
    struct kernel_weight_source part = fx->model->sources[matrix];
    size_t bytes = part.element == KERNEL_F32 ? 4 : 2;
    part.n /= fx->model->shape->experts;
    part.data = (const unsigned char *)part.data + (size_t)e * part.n * part.k * bytes;
    return part;
}

static void pack_experts(struct fx *fx)
{
    fx->router = pack(fx, KERNEL_WEIGHT_MATRIX, FX_ROUTER, 1);
    assert_true(fx->model->shape->experts <= FX_EXPERTS_MAX);
    for (uint32_t e = 0; e < fx->model->shape->experts; e++) {
        const struct kernel_weight_source gate_up[] = {expert_part(fx, FX_EXPERT_GATE, e),
                                                       expert_part(fx, FX_EXPERT_UP, e)};
        const struct kernel_weight_source down = expert_part(fx, FX_EXPERT_DOWN, e);
        must(fx->ops->weight_pack(fx->context, KERNEL_WEIGHT_MATRIX, gate_up, 2,
                                  &fx->expert_gate_up[e]));
        must(
            fx->ops->weight_pack(fx->context, KERNEL_WEIGHT_MATRIX, &down, 1, &fx->expert_down[e]));
    }
}

static void pack_all(struct fx *fx)
{
    const struct fx_shape *s = fx->model->shape;
    bool qk_norms = s->head_norms || s->whole_norms;
    fx->norm = s->no_norms ? NULL : pack(fx, KERNEL_WEIGHT_VECTOR, FX_NORM, 1);
    fx->qkv = pack(fx, KERNEL_WEIGHT_MATRIX, FX_Q, 3);
    fx->qkv_bias = s->bias ? pack(fx, KERNEL_WEIGHT_VECTOR, FX_Q_BIAS, 3) : NULL;
    fx->q_norm = qk_norms ? pack(fx, KERNEL_WEIGHT_VECTOR, FX_Q_NORM, 1) : NULL;
    fx->k_norm = qk_norms ? pack(fx, KERNEL_WEIGHT_VECTOR, FX_K_NORM, 1) : NULL;
    fx->out = pack(fx, KERNEL_WEIGHT_MATRIX, FX_OUT, 1);
    fx->out_bias = s->bias ? pack(fx, KERNEL_WEIGHT_VECTOR, FX_OUT_BIAS, 1) : NULL;
    fx->post_norm = s->post_norms ? pack(fx, KERNEL_WEIGHT_VECTOR, FX_POST_NORM, 1) : NULL;
    fx->mlp_norm = s->no_norms ? NULL : pack(fx, KERNEL_WEIGHT_VECTOR, FX_MLP_NORM, 1);
    fx->mlp_post_norm = s->post_norms ? pack(fx, KERNEL_WEIGHT_VECTOR, FX_MLP_POST_NORM, 1) : NULL;
    fx->gate_up = pack(fx, KERNEL_WEIGHT_MATRIX, FX_GATE, 2);
    fx->down = pack(fx, KERNEL_WEIGHT_MATRIX, FX_DOWN, 1);
    fx->last_norm = pack(fx, KERNEL_WEIGHT_VECTOR, FX_LAST_NORM, 1);
    fx->head = pack(fx, KERNEL_WEIGHT_MATRIX, FX_HEAD, 1);
    fx->table =
        pack(fx, s->table_is_matrix ? KERNEL_WEIGHT_MATRIX : KERNEL_WEIGHT_EMBEDDING, FX_TABLE, 1);
    if (s->experts > 0)
        pack_experts(fx);
}

static void deal_blocks(struct fx *fx, uint64_t seed)
{
    uint32_t n = fx->ids * fx->blocks_per_seq;
    uint32_t *all = sl_zalloc(fx->n_blocks, sizeof(*all));
    for (uint32_t i = 0; i < fx->n_blocks; i++)
        all[i] = i;
    for (uint32_t i = 0; i + 1 < fx->n_blocks; i++) {
        uint32_t j = i + (uint32_t)(mix(seed * 131 + i) % (fx->n_blocks - i));
        uint32_t swap = all[i];
        all[i] = all[j];
        all[j] = swap;
    }
    fx->tables = sl_zalloc(n, sizeof(*fx->tables));
    memcpy(fx->tables, all, n * sizeof(*all));
    sl_free(all);
}

void fx_open(struct fx *fx, const struct fx_run_args *args)
{
    const struct fx_shape *s = args->model->shape;
    *fx = (struct fx){.model = args->model, .rows_max = args->rows_max};
    fx->ids = args->ids > 0 ? args->ids : FX_SEQS_MAX;
    struct kernel_shape shape = {.hidden = s->hidden,
                                 .n_q_heads = s->n_q,
                                 .n_kv_heads = s->n_kv,
                                 .head_dim = s->dim,
                                 .mlp_hidden = s->mlp,
                                 .vocab = s->vocab,
                                 .rows_max = args->rows_max,
                                 .seqs_max = FX_SEQS_MAX,
                                 .logits_max = args->rows_max,
                                 .n_experts = s->experts,
                                 .n_chosen = s->chosen,
                                 .expert_hidden = s->expert_mlp};
    must(kernel_ops_find(args->backend, &fx->ops));
    must(device_create(args->device, 0, args->seed, &fx->device));
    must(device_stream_create(fx->device, "kernels", &fx->stream));
    if (args->path != NULL)
        must(kernel_cpu_open_path(fx->device, &shape, args->n_threads, args->path, &fx->context));
    else
        must(fx->ops->open(fx->device, &shape, args->n_threads, &fx->context));
    must(fx->ops->acts_create(fx->context, &fx->acts));
    pack_all(fx);

    size_t element = s->kv == KERNEL_BF16 ? 2 : 4;
    size_t tile = (size_t)s->block_tokens * s->dim * element;
    fx->blocks_per_seq = (args->context_max + s->block_tokens - 1) / s->block_tokens;
    fx->n_blocks = fx->ids * fx->blocks_per_seq + 3;
    fx->kv = (struct kernel_kv){.pool = &fx->pool,
                                .class_index = s->window > 0,
                                .block_bytes = 2 * s->n_kv * 2 * tile,
                                .layer_offset = s->n_kv * 2 * tile,
                                .head_bytes = 2 * tile,
                                .v_offset = tile,
                                .block_tokens = s->block_tokens,
                                .element = s->kv};
    size_t bytes = fx->n_blocks * fx->kv.block_bytes;
    must(device_alloc(fx->device, bytes, &fx->pool));
    must(device_alloc(fx->device, (size_t)args->rows_max * s->vocab * sizeof(float), &fx->logits));
    fx->image = sl_zalloc(bytes, 1);
    memset(fx->image, 0xff, bytes);
    deal_blocks(fx, args->seed);
}

void fx_close(struct fx *fx)
{
    struct kernel_weight *all[] = {fx->norm,      fx->qkv,     fx->qkv_bias, fx->q_norm,
                                   fx->k_norm,    fx->out,     fx->out_bias, fx->post_norm,
                                   fx->mlp_norm,  fx->gate_up, fx->down,     fx->mlp_post_norm,
                                   fx->last_norm, fx->head,    fx->table,    fx->router};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        fx->ops->weight_free(all[i]);
    for (uint32_t e = 0; e < FX_EXPERTS_MAX; e++) {
        fx->ops->weight_free(fx->expert_gate_up[e]);
        fx->ops->weight_free(fx->expert_down[e]);
    }
    fx->ops->acts_destroy(fx->acts);
    device_stream_destroy(fx->stream);
    fx->ops->close(fx->context);
    device_free(&fx->pool);
    device_free(&fx->logits);
    device_destroy(fx->device);
    sl_free(fx->image);
    sl_free(fx->tables);
}

/* ---- KV ---- */

static unsigned char *slot_at(const struct fx *fx, uint32_t id, uint32_t position, uint32_t head,
                              bool value, uint32_t i)
{
    const struct fx_shape *s = fx->model->shape;
    uint32_t index = position / s->block_tokens;
    assert_true(id < fx->ids && index < fx->blocks_per_seq);
    size_t block = fx->tables[id * fx->blocks_per_seq + index];
    size_t element = s->kv == KERNEL_BF16 ? 2 : 4;
    return fx->image + block * fx->kv.block_bytes + fx->kv.layer_offset + head * fx->kv.head_bytes +
           (value ? fx->kv.v_offset : 0) +
           ((size_t)(position % s->block_tokens) * s->dim + i) * element;
}

double fx_slot(const struct fx *fx, uint32_t id, uint32_t position, uint32_t head, bool value,
               uint32_t i)
{
    const unsigned char *at = slot_at(fx, id, position, head, value, i);
    if (fx->model->shape->kv == KERNEL_BF16) {
        uint16_t half;
        memcpy(&half, at, sizeof(half));
        return (double)kernel_from_bf16(half);
    }
    float x;
    memcpy(&x, at, sizeof(x));
    return (double)x;
}

void fx_clear(struct fx *fx)
{
    memset(fx->image, 0xff, fx->n_blocks * fx->kv.block_bytes);
}

void fx_context(struct fx *fx, uint32_t id, uint32_t n)
{
    const struct fx_shape *s = fx->model->shape;
    for (uint32_t p = 0; p < n; p++)
        for (uint32_t head = 0; head < s->n_kv; head++)
            for (uint32_t i = 0; i < 2 * s->dim; i++) {
                unsigned char *at = slot_at(fx, id, p, head, i >= s->dim, i % s->dim);
                float x = fx_random(1000 + id, ((uint64_t)p * s->n_kv + head) * 2 * s->dim + i);
                put(at, s->kv, 0, x);
            }
}

void fx_pool_put(struct fx *fx)
{
    device_copy_in(fx->stream, &fx->pool, 0, fx->image, fx->pool.bytes);
    must(device_stream_wait(fx->stream));
}

void fx_pool_get(struct fx *fx)
{
    device_copy_out(fx->stream, fx->image, &fx->pool, 0, fx->n_blocks * fx->kv.block_bytes);
    must(device_stream_wait(fx->stream));
}

/* ---- one layer ---- */

uint32_t fx_token(const struct fx *fx, uint32_t id, uint32_t position)
{
    return (uint32_t)(mix((uint64_t)id << 32 | position) % fx->model->shape->vocab);
}

static float *take(size_t n)
{
    return sl_zalloc(n, sizeof(float));
}

void fx_result_fini(struct fx_result *r)
{
    float *all[] = {r->q, r->attention, r->start, r->middle, r->hidden, r->logits};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        sl_free(all[i]);
}

static void enqueue(struct fx *fx, const struct kernel_batch *batch, const uint32_t *rows,
                    struct fx_result *r)
{
    const struct fx_shape *s = fx->model->shape;
    const struct kernel_ops *ops = fx->ops;
    struct kernel_attn_in_args in = {
        .acts = fx->acts,
        .norm = fx->norm,
        .qkv = fx->qkv,
        .qkv_bias = fx->qkv_bias,
        .q_norm = fx->q_norm,
        .k_norm = fx->k_norm,
        .rope = {.inv_freq = fx->model->inv_freq, .rotary_dim = s->rotary, .scale = 1.0f},
        .norm_eps = EPS,
        .kv = fx->kv};
    struct kernel_attention_args attention = {.acts = fx->acts,
                                              .kv = fx->kv,
                                              .scale = 1.0f / sqrtf((float)s->dim),
                                              .window = s->window,
                                              .softcap = s->softcap};
    struct kernel_attn_out_args out = {.acts = fx->acts,
                                       .out = fx->out,
                                       .bias = fx->out_bias,
                                       .post_norm = fx->post_norm,
                                       .norm_eps = EPS};
    struct kernel_mlp_args mlp = {.acts = fx->acts,
                                  .norm = fx->mlp_norm,
                                  .gate_up = fx->gate_up,
                                  .down = fx->down,
                                  .post_norm = fx->mlp_post_norm,
                                  .activation = s->activation,
                                  .norm_eps = EPS};
    struct kernel_moe_args moe = {.acts = fx->acts,
                                  .norm = fx->mlp_norm,
                                  .router = fx->router,
                                  .gate_up =
                                      (const struct kernel_weight *const *)fx->expert_gate_up,
                                  .down = (const struct kernel_weight *const *)fx->expert_down,
                                  .n_chosen = s->chosen,
                                  .renormalise = s->renormalise,
                                  .activation = s->activation,
                                  .norm_eps = EPS};
    struct kernel_logits_args logits = {.acts = fx->acts,
                                        .norm = fx->last_norm,
                                        .head = fx->head,
                                        .norm_eps = EPS,
                                        .softcap = s->logits_softcap,
                                        .n_logits = batch->n_rows,
                                        .rows = rows,
                                        .logits = &fx->logits};
    ops->embed(fx->stream, fx->acts, batch, fx->table, SCALE);
    ops->act_read(fx->stream, fx->acts, KERNEL_ACT_HIDDEN, r->start);
    ops->attn_in(fx->stream, &in);
    ops->act_read(fx->stream, fx->acts, KERNEL_ACT_Q, r->q);
    ops->attention(fx->stream, &attention);
    ops->act_read(fx->stream, fx->acts, KERNEL_ACT_ATTENTION, r->attention);
    ops->attn_out(fx->stream, &out);
    ops->act_read(fx->stream, fx->acts, KERNEL_ACT_HIDDEN, r->middle);
    if (s->experts > 0)
        ops->moe(fx->stream, &moe);
    else
        ops->mlp(fx->stream, &mlp);
    ops->act_read(fx->stream, fx->acts, KERNEL_ACT_HIDDEN, r->hidden);
    ops->logits(fx->stream, &logits);
    device_copy_out(fx->stream, r->logits, &fx->logits, 0,
                    (size_t)batch->n_rows * s->vocab * sizeof(float));
    /* The arguments' storage is ours until the wait: ops copy what they need of it. */
    memset(&in, 0xff, sizeof(in));
    memset(&attention, 0xff, sizeof(attention));
    memset(&out, 0xff, sizeof(out));
    memset(&mlp, 0xff, sizeof(mlp));
    memset(&moe, 0xff, sizeof(moe));
    memset(&logits, 0xff, sizeof(logits));
}

/* A sequence's table, with holes where the window of its first row has passed. */
static void fill_table(const struct fx *fx, const struct fx_seq *seq, uint32_t *table)
{
    const struct fx_shape *s = fx->model->shape;
    uint32_t first = s->window > 0 && seq->first_position >= s->window
                         ? (seq->first_position + 1 - s->window) / s->block_tokens
                         : 0;
    for (uint32_t i = 0; i < fx->blocks_per_seq; i++)
        table[i] = i < first ? UINT32_MAX : fx->tables[seq->id * fx->blocks_per_seq + i];
}

void fx_layer(struct fx *fx, const struct fx_seq *seqs, uint32_t n_seqs, struct fx_result *r)
{
    const struct fx_shape *s = fx->model->shape;
    struct kernel_seq kernel_seqs[FX_SEQS_MAX];
    uint32_t n = 0, *words = sl_zalloc(3 * (size_t)fx->rows_max, sizeof(*words));
    uint32_t *tokens = words, *positions = words + fx->rows_max, *rows = positions + fx->rows_max;
    uint32_t *tables = sl_zalloc((size_t)n_seqs * fx->blocks_per_seq, sizeof(*tables));
    for (uint32_t i = 0; i < n_seqs; i++) {
        fill_table(fx, &seqs[i], tables + i * fx->blocks_per_seq);
        kernel_seqs[i] = (struct kernel_seq){
            .first_row = n,
            .n_rows = seqs[i].n_rows,
            .first_position = seqs[i].first_position,
            .n_blocks =
                (seqs[i].first_position + seqs[i].n_rows + s->block_tokens - 1) / s->block_tokens};
        kernel_seqs[i].block_tables[fx->kv.class_index] = tables + i * fx->blocks_per_seq;
        for (uint32_t row = 0; row < seqs[i].n_rows; row++, n++) {
            assert_true(n < fx->rows_max);
            positions[n] = seqs[i].first_position + row;
            tokens[n] = fx_token(fx, seqs[i].id, positions[n]);
            rows[n] = n;
        }
    }
    size_t q_width = (size_t)s->n_q * s->dim;
    *r = (struct fx_result){n,
                            take(n * q_width),
                            take(n * q_width),
                            take((size_t)n * s->hidden),
                            take((size_t)n * s->hidden),
                            take((size_t)n * s->hidden),
                            take((size_t)n * s->vocab)};
    struct kernel_batch batch = {n, n_seqs, tokens, positions, kernel_seqs};
    enqueue(fx, &batch, rows, r);
    must(device_stream_wait(fx->stream));
    sl_free(tables);
    sl_free(words);
}
