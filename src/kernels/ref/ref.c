/* The reference backend: plain loops over f32, one row after the other, as the papers write them.
 *
 * It is the oracle of the other backends and runs wherever launched work runs on the host: devices
 * host and fake. So each op only enqueues; everything that belongs to the batch (tokens, tables,
 * activations, KV) is read inside the launched function, on the stream's thread.
 *
 * Numerics: every sum runs in one f32 accumulator from index 0 up, without FMA, whatever the batch.
 * Matrices are kept transposed, [k][n], so that the compiler can work on several outputs at once
 * without changing the order in which any one of them is summed. Embeddings and vectors are [n][k].
 *
 * Each acts object has one writer at a time: the stream it is used on. */
#include "kernels/element.h"

#include "base/mem.h"

#include <math.h>

struct kernel_context {
    struct device *device;
    struct kernel_shape shape;
};

struct kernel_weight {
    enum kernel_weight_use use;
    uint32_t n, k;
    float *values;
};

struct kernel_acts {
    struct device_memory memory; /* holds all that follows */
    struct kernel_shape shape;
    struct kernel_batch batch; /* set when embed has run */
    float *hidden;             /* [rows_max][hidden] */
    float *q;                  /* [rows_max][q heads * head_dim] */
    float *attention;          /* [rows_max][q heads * head_dim] */
    float *normed;             /* [hidden], one row at a time … */
    float *wide;   /* … [max((q + 2 kv heads) * head_dim, 2 * (mlp or expert)_hidden)] */
    float *narrow; /* … [hidden] */
    float *scores; /* … [n_experts] */
};

static sl_status ref_open(struct device *device, const struct kernel_shape *shape,
                          uint32_t n_threads, struct kernel_context **context_out)
{
    (void)n_threads;
    sl_status status = kernel_shape_check(shape);
    if (status != SL_OK)
        return status;
    if (device_kind(device) == DEVICE_CUDA)
        return sl_fail(SL_UNSUPPORTED, "kernels: ref runs on host and fake, not on %s",
                       device_name(device));
    struct kernel_context *context = sl_zalloc(1, sizeof(*context));
    context->device = device;
    context->shape = *shape;
    *context_out = context;
    return SL_OK;
}

static void ref_close(struct kernel_context *context)
{
    sl_free(context);
}

static const char *ref_numerics_id(const struct kernel_context *context)
{
    (void)context;
    return "ref-1";
}

static void ref_weight_free(struct kernel_weight *weight)
{
    if (weight == NULL)
        return;
    sl_free(weight->values);
    sl_free(weight);
}

static sl_status ref_weight_pack(struct kernel_context *context, enum kernel_weight_use use,
                                 const struct kernel_weight_source *sources, uint32_t n_sources,
                                 struct kernel_weight **weight_out)
{
    (void)context;
    uint32_t n, k = n_sources == 0 ? 0 : sources[0].k;
    sl_status status = kernel_sources_check(use, sources, n_sources, &n);
    if (status != SL_OK)
        return status;
    struct kernel_weight *weight = sl_zalloc(1, sizeof(*weight));
    *weight = (struct kernel_weight){.use = use, .n = n, .k = k};
    weight->values = sl_try_zalloc((size_t)n * k, sizeof(float));
    if (weight->values == NULL) {
        ref_weight_free(weight);
        return sl_fail(SL_NO_MEMORY, "weight of %u x %u f32", n, k);
    }
    uint32_t first = 0;
    for (uint32_t s = 0; s < n_sources; first += sources[s++].n)
        for (uint32_t i = 0; i < sources[s].n; i++)
            for (uint32_t j = 0; j < k; j++) {
                size_t row = first + i;
                size_t to = use == KERNEL_WEIGHT_MATRIX ? (size_t)j * n + row : row * k + j;
                weight->values[to] = kernel_source_at(&sources[s], (size_t)i * k + j);
            }
    *weight_out = weight;
    return SL_OK;
}

static void ref_acts_destroy(struct kernel_acts *acts)
{
    if (acts == NULL)
        return;
    device_free(&acts->memory);
    sl_free(acts);
}

static sl_status ref_acts_create(struct kernel_context *context, struct kernel_acts **acts_out)
{
    const struct kernel_shape *shape = &context->shape;
    size_t q_width = (size_t)shape->n_q_heads * shape->head_dim;
    size_t wide = q_width + 2 * (size_t)shape->n_kv_heads * shape->head_dim;
    if (wide < 2 * (size_t)shape->mlp_hidden)
        wide = 2 * (size_t)shape->mlp_hidden;
    if (wide < 2 * (size_t)shape->expert_hidden)
        wide = 2 * (size_t)shape->expert_hidden;
    size_t rows = shape->rows_max, hidden = shape->hidden;

    struct kernel_acts *acts = sl_zalloc(1, sizeof(*acts));
    acts->shape = *shape;
    size_t n = rows * (hidden + 2 * q_width) + 2 * hidden + wide + shape->n_experts;
    sl_status status = device_alloc(context->device, n * sizeof(float), &acts->memory);
    if (status != SL_OK) {
        sl_free(acts);
        return status;
    }
    acts->hidden = acts->memory.address;
    acts->q = acts->hidden + rows * hidden;
    acts->attention = acts->q + rows * q_width;
    acts->normed = acts->attention + rows * q_width;
    acts->narrow = acts->normed + hidden;
    acts->wide = acts->narrow + hidden;
    acts->scores = acts->wide + wide;
    *acts_out = acts;
    return SL_OK;
}

/* ---- pieces of arithmetic ---- */

/* out = x / sqrt(mean(x²) + eps) * weight; out may be x. Zhang and Sennrich 2019. */
static void rms_norm(const float *x, const float *weight, uint32_t n, float eps, float *out)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    float inverse = 1.0f / sqrtf(sum / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * inverse * weight[i];
}

/* out[n] = W x (+ bias) */
static void matrix_vector(const struct kernel_weight *w, const float *x,
                          const struct kernel_weight *bias, float *out)
{
    SL_ASSERT(w->use == KERNEL_WEIGHT_MATRIX);
    memset(out, 0, w->n * sizeof(*out));
    for (size_t k = 0; k < w->k; k++)
        for (size_t n = 0; n < w->n; n++)
            out[n] += x[k] * w->values[k * w->n + n];
    for (size_t n = 0; bias != NULL && n < w->n; n++)
        out[n] += bias->values[n];
}

/* x, or its norm in `room`. */
static const float *maybe_normed(const float *x, const struct kernel_weight *norm, uint32_t n,
                                 float eps, float *room)
{
    if (norm == NULL)
        return x;
    rms_norm(x, norm->values, n, eps, room);
    return room;
}

/* hidden += y, or its norm; y is lost. */
static void add_normed(float *y, const struct kernel_weight *norm, uint32_t n, float eps,
                       float *hidden)
{
    if (norm != NULL)
        rms_norm(y, norm->values, n, eps, y);
    for (uint32_t i = 0; i < n; i++)
        hidden[i] += y[i];
}

static float capped(float x, float cap)
{
    return cap > 0 ? cap * tanhf(x / cap) : x;
}

/* Rotates the pairs (i, i + rotary_dim / 2) of one head. Su et al. 2021, Hugging Face's pairing. */
static void rotate(const struct kernel_rope *rope, uint32_t position, float *x)
{
    uint32_t half = rope->rotary_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)position * rope->inv_freq[i];
        float cosine = cosf(angle) * rope->scale, sine = sinf(angle) * rope->scale;
        float a = x[i], b = x[i + half];
        x[i] = a * cosine - b * sine;
        x[i + half] = b * cosine + a * sine;
    }
}

static float activate(enum kernel_activation activation, float x)
{
    if (activation == KERNEL_SILU)
        return x / (1.0f + expf(-x));
    const float c = 0.7978845608028654f; /* sqrt(2 / pi) */
    return 0.5f * x * (1.0f + tanhf(c * (x + 0.044715f * x * x * x)));
}

static unsigned char *slot(const struct kernel_kv *kv, const struct kernel_seq *seq, uint32_t head,
                           uint32_t position, uint32_t head_dim)
{
    size_t element_bytes = kv->element == KERNEL_BF16 ? 2 : 4;
    return kernel_kv_tile(kv, seq, position / kv->block_tokens, head) +
           (size_t)(position % kv->block_tokens) * head_dim * element_bytes;
}

static void slot_write(enum kernel_element element, unsigned char *to, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (element == KERNEL_BF16)
            ((uint16_t *)(void *)to)[i] = kernel_to_bf16(x[i]);
        else
            ((float *)(void *)to)[i] = x[i];
}

static float slot_at(enum kernel_element element, const unsigned char *from, uint32_t i)
{
    if (element == KERNEL_BF16)
        return kernel_from_bf16(((const uint16_t *)(const void *)from)[i]);
    return ((const float *)(const void *)from)[i];
}

/* ---- ops ---- */

struct embed_args {
    struct kernel_acts *acts;
    const struct kernel_batch *batch;
    const struct kernel_weight *embedding;
    float scale;
};

static void embed_run(void *p)
{
    struct embed_args *args = p;
    struct kernel_acts *acts = args->acts;
    const struct kernel_weight *table = args->embedding;
    acts->batch = *args->batch;
    SL_ASSERT(acts->batch.n_rows <= acts->shape.rows_max && table->k == acts->shape.hidden);
    for (size_t row = 0; row < acts->batch.n_rows; row++) {
        size_t token = acts->batch.tokens[row];
        SL_ASSERT(token < table->n);
        for (size_t i = 0; i < table->k; i++) {
            size_t at =
                table->use == KERNEL_WEIGHT_MATRIX ? i * table->n + token : token * table->k + i;
            acts->hidden[row * table->k + i] = table->values[at] * args->scale;
        }
    }
}

static void ref_embed(struct device_stream *stream, struct kernel_acts *acts,
                      const struct kernel_batch *batch, const struct kernel_weight *embedding,
                      float scale)
{
    struct embed_args args = {acts, batch, embedding, scale};
    device_launch(stream, embed_run, &args, sizeof(args));
}

/* Norm of a projection of n heads at x: over all of it, or over each head. */
static void norm_heads(const struct kernel_weight *norm, float eps, uint32_t n, uint32_t dim,
                       float *x)
{
    SL_ASSERT(norm->n == dim || norm->n == n * dim);
    for (uint32_t i = 0; i < n * dim; i += norm->n)
        rms_norm(x + i, norm->values, norm->n, eps, x + i);
}

/* One row: x = norm(hidden); q, k, v = W x; norm and rotate q and k; store. */
static void attn_in_row(const struct kernel_attn_in_args *args, const struct kernel_seq *seq,
                        uint32_t i)
{
    struct kernel_acts *acts = args->acts;
    const struct kernel_shape *shape = &acts->shape;
    uint32_t dim = shape->head_dim, n_q = shape->n_q_heads, n_kv = shape->n_kv_heads;
    size_t row = seq->first_row + i;
    uint32_t position = seq->first_position + i;

    const float *x = maybe_normed(acts->hidden + row * shape->hidden, args->norm, shape->hidden,
                                  args->norm_eps, acts->normed);
    matrix_vector(args->qkv, x, args->qkv_bias, acts->wide);
    if (args->q_norm != NULL) {
        norm_heads(args->q_norm, args->norm_eps, n_q, dim, acts->wide);
        norm_heads(args->k_norm, args->norm_eps, n_kv, dim, acts->wide + (size_t)n_q * dim);
    }
    for (uint32_t head = 0; head < n_q + n_kv; head++)
        rotate(&args->rope, position, acts->wide + (size_t)head * dim);
    memcpy(acts->q + row * n_q * dim, acts->wide, (size_t)n_q * dim * sizeof(float));
    for (uint32_t head = 0; head < n_kv; head++) {
        unsigned char *k_slot = slot(&args->kv, seq, head, position, dim);
        const float *k = acts->wide + (size_t)(n_q + head) * dim;
        slot_write(args->kv.element, k_slot, k, dim);
        slot_write(args->kv.element, k_slot + args->kv.v_offset, k + (size_t)n_kv * dim, dim);
    }
}

static void attn_in_run(void *p)
{
    struct kernel_attn_in_args *args = p;
    const struct kernel_batch *batch = &args->acts->batch;
    for (uint32_t s = 0; s < batch->n_seqs; s++)
        for (uint32_t i = 0; i < batch->seqs[s].n_rows; i++)
            attn_in_row(args, &batch->seqs[s], i);
}

static void ref_attn_in(struct device_stream *stream, const struct kernel_attn_in_args *args)
{
    device_launch(stream, attn_in_run, args, sizeof(*args));
}

/* q·k of one key, scaled and capped. */
static float score(const struct kernel_attention_args *args, const float *q,
                   const unsigned char *k_slot, uint32_t dim)
{
    float dot = 0;
    for (uint32_t i = 0; i < dim; i++)
        dot += q[i] * slot_at(args->kv.element, k_slot, i);
    return capped(dot * args->scale, args->softcap);
}

/* out = sum_j softmax_j(q·k_j) v_j over the keys first..position; two passes, nothing kept. */
static void attention_head(const struct kernel_attention_args *args, const struct kernel_seq *seq,
                           uint32_t head, uint32_t position, uint32_t dim, const float *q,
                           float *out)
{
    uint32_t first = 0;
    if (args->window > 0 && position + 1 > args->window)
        first = position + 1 - args->window;
    float max = -INFINITY, sum = 0;
    for (uint32_t j = first; j <= position; j++)
        max = fmaxf(max, score(args, q, slot(&args->kv, seq, head, j, dim), dim));
    memset(out, 0, dim * sizeof(*out));
    for (uint32_t j = first; j <= position; j++) {
        const unsigned char *k_slot = slot(&args->kv, seq, head, j, dim);
        const unsigned char *v_slot = k_slot + args->kv.v_offset;
        float weight = expf(score(args, q, k_slot, dim) - max);
        sum += weight;
        for (uint32_t i = 0; i < dim; i++)
            out[i] += weight * slot_at(args->kv.element, v_slot, i);
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] /= sum;
}

static void attention_run(void *p)
{
    struct kernel_attention_args *args = p;
    struct kernel_acts *acts = args->acts;
    uint32_t dim = acts->shape.head_dim, n_q = acts->shape.n_q_heads;
    uint32_t group = n_q / acts->shape.n_kv_heads;
    for (uint32_t s = 0; s < acts->batch.n_seqs; s++) {
        const struct kernel_seq *seq = &acts->batch.seqs[s];
        for (uint32_t i = 0; i < seq->n_rows; i++)
            for (uint32_t head = 0; head < n_q; head++) {
                size_t at = ((size_t)(seq->first_row + i) * n_q + head) * dim;
                attention_head(args, seq, head / group, seq->first_position + i, dim, acts->q + at,
                               acts->attention + at);
            }
    }
}

static void ref_attention(struct device_stream *stream, const struct kernel_attention_args *args)
{
    device_launch(stream, attention_run, args, sizeof(*args));
}

static void attn_out_run(void *p)
{
    struct kernel_attn_out_args *args = p;
    struct kernel_acts *acts = args->acts;
    size_t hidden = acts->shape.hidden, width = args->out->k;
    for (size_t row = 0; row < acts->batch.n_rows; row++) {
        matrix_vector(args->out, acts->attention + row * width, args->bias, acts->narrow);
        add_normed(acts->narrow, args->post_norm, (uint32_t)hidden, args->norm_eps,
                   acts->hidden + row * hidden);
    }
}

static void ref_attn_out(struct device_stream *stream, const struct kernel_attn_out_args *args)
{
    device_launch(stream, attn_out_run, args, sizeof(*args));
}

/* narrow = (act(x g^T) * (x u^T)) · down^T */
static void gated(struct kernel_acts *acts, enum kernel_activation activation,
                  const struct kernel_weight *gate_up, const struct kernel_weight *down,
                  const float *x)
{
    float *gate = acts->wide, *up = acts->wide + down->k;
    matrix_vector(gate_up, x, NULL, acts->wide);
    for (size_t i = 0; i < down->k; i++)
        gate[i] = activate(activation, gate[i]) * up[i];
    matrix_vector(down, gate, NULL, acts->narrow);
}

static void mlp_run(void *p)
{
    struct kernel_mlp_args *args = p;
    struct kernel_acts *acts = args->acts;
    uint32_t hidden = acts->shape.hidden;
    for (size_t row = 0; row < acts->batch.n_rows; row++) {
        float *at = acts->hidden + row * hidden;
        const float *x = maybe_normed(at, args->norm, hidden, args->norm_eps, acts->normed);
        gated(acts, args->activation, args->gate_up, args->down, x);
        add_normed(acts->narrow, args->post_norm, hidden, args->norm_eps, at);
    }
}

static void ref_mlp(struct device_stream *stream, const struct kernel_mlp_args *args)
{
    device_launch(stream, mlp_run, args, sizeof(*args));
}

static void moe_run(void *p)
{
    struct kernel_moe_args *args = p;
    struct kernel_acts *acts = args->acts;
    uint32_t hidden = acts->shape.hidden, n_experts = args->router->n;
    uint32_t chosen[KERNEL_CHOSEN_MAX];
    float weights[KERNEL_CHOSEN_MAX], *scores = acts->scores;
    const struct kernel_choice choice = {n_experts, args->n_chosen, args->renormalise};
    SL_ASSERT(n_experts == acts->shape.n_experts && args->n_chosen <= acts->shape.n_chosen);
    for (size_t row = 0; row < acts->batch.n_rows; row++) {
        float *at = acts->hidden + row * hidden, max = -INFINITY;
        rms_norm(at, args->norm->values, hidden, args->norm_eps, acts->normed);
        matrix_vector(args->router, acts->normed, NULL, scores);
        for (uint32_t e = 0; e < n_experts; e++)
            max = fmaxf(max, scores[e]);
        for (uint32_t e = 0; e < n_experts; e++)
            scores[e] = expf(scores[e] - max);
        kernel_choose_experts(&choice, scores, chosen, weights);
        for (uint32_t i = 0; i < args->n_chosen; i++) {
            gated(acts, args->activation, args->gate_up[chosen[i]], args->down[chosen[i]],
                  acts->normed);
            for (uint32_t j = 0; j < hidden; j++)
                at[j] += weights[i] * acts->narrow[j];
        }
    }
}

static void ref_moe(struct device_stream *stream, const struct kernel_moe_args *args)
{
    device_launch(stream, moe_run, args, sizeof(*args));
}

static void logits_run(void *p)
{
    struct kernel_logits_args *args = p;
    struct kernel_acts *acts = args->acts;
    uint32_t hidden = acts->shape.hidden;
    size_t vocab = args->head->n;
    float *out = args->logits->address;
    SL_ASSERT(args->n_logits * vocab * sizeof(*out) <= args->logits->bytes);
    for (uint32_t i = 0; i < args->n_logits; i++) {
        size_t row = args->rows[i];
        SL_ASSERT(row < acts->batch.n_rows);
        rms_norm(acts->hidden + row * hidden, args->norm->values, hidden, args->norm_eps,
                 acts->normed);
        matrix_vector(args->head, acts->normed, NULL, out + i * vocab);
        for (size_t n = 0; n < vocab; n++)
            out[i * vocab + n] = capped(out[i * vocab + n], args->softcap);
    }
}

static void ref_logits(struct device_stream *stream, const struct kernel_logits_args *args)
{
    device_launch(stream, logits_run, args, sizeof(*args));
}

struct block_copy_args {
    struct kernel_kv kv;
    uint32_t to, from;
};

static void block_copy_run(void *p)
{
    struct block_copy_args *args = p;
    unsigned char *base = args->kv.pool->address;
    size_t bytes = args->kv.block_bytes;
    SL_ASSERT((args->to + 1) * bytes <= args->kv.pool->bytes);
    SL_ASSERT((args->from + 1) * bytes <= args->kv.pool->bytes && args->to != args->from);
    memcpy(base + args->to * bytes, base + args->from * bytes, bytes);
}

static void ref_kv_block_copy(struct device_stream *stream, const struct kernel_kv *kv, uint32_t to,
                              uint32_t from)
{
    struct block_copy_args args = {*kv, to, from};
    device_launch(stream, block_copy_run, &args, sizeof(args));
}

struct act_read_args {
    struct kernel_acts *acts;
    enum kernel_act which;
    float *out;
};

static void act_read_run(void *p)
{
    struct act_read_args *args = p;
    struct kernel_acts *acts = args->acts;
    size_t q_width = (size_t)acts->shape.n_q_heads * acts->shape.head_dim;
    size_t width = args->which == KERNEL_ACT_HIDDEN ? acts->shape.hidden : q_width;
    const float *from = args->which == KERNEL_ACT_HIDDEN ? acts->hidden
                        : args->which == KERNEL_ACT_Q    ? acts->q
                                                         : acts->attention;
    memcpy(args->out, from, acts->batch.n_rows * width * sizeof(float));
}

static void ref_act_read(struct device_stream *stream, struct kernel_acts *acts,
                         enum kernel_act which, float *out)
{
    struct act_read_args args = {acts, which, out};
    device_launch(stream, act_read_run, &args, sizeof(args));
}

const struct kernel_ops kernel_ref_ops = {
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .numerics_id = ref_numerics_id,
    .weight_pack = ref_weight_pack,
    .weight_free = ref_weight_free,
    .acts_create = ref_acts_create,
    .acts_destroy = ref_acts_destroy,
    .embed = ref_embed,
    .attn_in = ref_attn_in,
    .attention = ref_attention,
    .attn_out = ref_attn_out,
    .mlp = ref_mlp,
    .moe = ref_moe,
    .logits = ref_logits,
    .kv_block_copy = ref_kv_block_copy,
    .all_reduce = NULL,
    .act_read = ref_act_read,
};
