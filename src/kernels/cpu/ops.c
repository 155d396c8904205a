/* The ops of the CPU backend: each is a few parallel regions of the team over row and column blocks;
 * products are product.c's, the mixture of experts is moe.c.
 *
 *   attn_in    prepare (norm, pack) │ product → qkv │ per row: head norms, rotate, store K, V
 *   attention  units (rows × kv head), or their splits and then the folds
 *   attn_out   pack │ product, added to hidden (or: kept │ per row: norm, added to hidden)
 *   mlp        prepare │ product gate and up → act(gate) * up │ pack │ product, as that of attn_out
 *   logits     prepare │ product → memory
 *
 * Everything runs inside the launched function; ops of two streams take turns (context->turn).
 *
 * Rows go through in chunks of CPU_CHUNK_ROWS, which bounds the buffers; a row's result is its own. */
#include "kernels/cpu/product.h"

#include "base/min.h"

#include <string.h>

/* ---- embed ---- */

struct embed_args {
    struct kernel_acts *acts;
    const struct kernel_batch *batch;
    const struct kernel_weight *embedding;
    float scale;
};

static void embed_row(void *arg, uint32_t row, uint32_t thread)
{
    (void)thread;
    const struct embed_args *args = arg;
    uint32_t token = args->batch->tokens[row];
    SL_ASSERT(token < args->embedding->n);
    cpu_weight_row(args->embedding, token, args->scale,
                   args->acts->hidden + (size_t)row * args->embedding->k);
}

static void embed_run(void *p)
{
    struct embed_args *args = p;
    struct kernel_acts *acts = args->acts;
    struct kernel_context *context = acts->context;
    const struct kernel_batch *batch = args->batch;
    SL_ASSERT(batch->n_rows <= context->shape.rows_max && batch->n_seqs <= batch->n_rows);
    SL_ASSERT(args->embedding->k == context->shape.hidden);
    pthread_mutex_lock(&context->turn);
    acts->batch = *batch;
    acts->rope.inv_freq = NULL;
    for (uint32_t s = 0; s < batch->n_seqs; s++) {
        const struct kernel_seq *seq = &batch->seqs[s];
        SL_ASSERT(seq->first_row + seq->n_rows <= batch->n_rows);
        for (uint32_t i = 0; i < seq->n_rows; i++)
            acts->row_seq[seq->first_row + i] = s;
    }
    cpu_region(context, embed_row, args, batch->n_rows,
               (uint64_t)batch->n_rows * args->embedding->k);
    pthread_mutex_unlock(&context->turn);
}

void cpu_embed(struct device_stream *stream, struct kernel_acts *acts,
               const struct kernel_batch *batch, const struct kernel_weight *embedding, float scale)
{
    struct embed_args args = {acts, batch, embedding, scale};
    device_launch(stream, embed_run, &args, sizeof(args));
}

/* ---- attn_in ---- */

static uint32_t row_position(const struct kernel_acts *acts, uint32_t row)
{
    const struct kernel_seq *seq = &acts->batch.seqs[acts->row_seq[row]];
    return seq->first_position + row - seq->first_row;
}

static void rope_row(void *arg, uint32_t row, uint32_t thread)
{
    (void)thread;
    const struct kernel_acts *acts = arg;
    size_t at = (size_t)row * (acts->context->shape.head_dim / 2);
    cpu_rope_row(&acts->rope, row_position(acts, row), acts->rope_cosine + at,
                 acts->rope_sine + at);
}

/* The angles of the batch: made by its first layer, kept while the layers use the same. */
static void rope_prepare(struct kernel_acts *acts, const struct kernel_rope *rope)
{
    if (rope->rotary_dim == 0 ||
        (acts->rope.inv_freq == rope->inv_freq && acts->rope.rotary_dim == rope->rotary_dim &&
         memcmp(&acts->rope.scale, &rope->scale, sizeof(rope->scale)) == 0))
        return;
    SL_ASSERT(rope->rotary_dim <= acts->context->shape.head_dim && rope->rotary_dim % 2 == 0);
    acts->rope = *rope;
    cpu_region(acts->context, rope_row, acts, acts->batch.n_rows,
               (uint64_t)acts->batch.n_rows * rope->rotary_dim * 16);
}

struct attn_in_rows {
    const struct kernel_attn_in_args *args;
    uint32_t first; /* row of the batch that is row 0 of wide */
};

/* Norm of a projection of n heads at x: over all of it, or over each head. */
static void norm_heads(const struct cpu_path *path, const struct kernel_weight *norm, float eps,
                       uint32_t n, uint32_t dim, float *x)
{
    SL_ASSERT(norm->n == dim || norm->n == n * dim);
    for (uint32_t i = 0; i < n * dim; i += norm->n)
        path->rms_norm(x + i, norm->data, norm->n, eps, x + i);
}

/* One row of qkv: norms, rotation, q to the acts, k and v to their slots. */
static void attn_in_row(void *arg, uint32_t index, uint32_t thread)
{
    (void)thread;
    const struct attn_in_rows *in = arg;
    const struct kernel_attn_in_args *args = in->args;
    struct kernel_acts *acts = args->acts;
    const struct kernel_shape *shape = &acts->context->shape;
    const struct cpu_path *path = acts->context->path;
    const struct kernel_kv *kv = &args->kv;
    uint32_t dim = shape->head_dim, n_q = shape->n_q_heads, n_kv = shape->n_kv_heads;
    uint32_t row = in->first + index, half = args->rope.rotary_dim / 2;
    float *qkv = acts->wide + (size_t)index * (n_q + 2 * n_kv) * dim;

    const struct kernel_seq *seq = &acts->batch.seqs[acts->row_seq[row]];
    uint32_t position = row_position(acts, row), block = position / kv->block_tokens;
    size_t angles = (size_t)row * (dim / 2);
    if (args->q_norm != NULL) {
        norm_heads(path, args->q_norm, args->norm_eps, n_q, dim, qkv);
        norm_heads(path, args->k_norm, args->norm_eps, n_kv, dim, qkv + (size_t)n_q * dim);
    }
    for (uint32_t head = 0; head < n_q + n_kv && half > 0; head++)
        path->rotate(acts->rope_cosine + angles, acts->rope_sine + angles, half,
                     qkv + (size_t)head * dim);
    memcpy(acts->q + (size_t)row * n_q * dim, qkv, (size_t)n_q * dim * sizeof(float));
    size_t slot =
        (size_t)(position % kv->block_tokens) * dim * (kv->element == KERNEL_BF16 ? 2 : 4);
    for (uint32_t head = 0; head < n_kv; head++) {
        unsigned char *to = kernel_kv_tile(kv, seq, block, head) + slot;
        const float *k = qkv + (size_t)(n_q + head) * dim;
        path->to_kv(kv->element, k, dim, to);
        path->to_kv(kv->element, k + (size_t)n_kv * dim, dim, to + kv->v_offset);
    }
}

static void attn_in_run(void *p)
{
    const struct kernel_attn_in_args *args = p;
    struct kernel_acts *acts = args->acts;
    struct kernel_context *context = acts->context;
    size_t hidden = context->shape.hidden, width = args->qkv->n;
    pthread_mutex_lock(&context->turn);
    rope_prepare(acts, &args->rope);
    for (uint32_t first = 0; first < acts->batch.n_rows; first += CPU_CHUNK_ROWS) {
        uint32_t n = sl_min_u32(CPU_CHUNK_ROWS, acts->batch.n_rows - first);
        struct cpu_product product = {
            .context = context,
            .from = acts->hidden + first * hidden,
            .from_stride = hidden,
            .norm = args->norm,
            .norm_eps = args->norm_eps,
            .x = acts->x,
            .packed = acts->packed,
            .n_rows = n,
            .weight = args->qkv,
            .bias = args->qkv_bias,
            .finish = CPU_FINISH_STORE,
            .out = acts->wide,
            .out_stride = width,
        };
        cpu_product_run(&product);
        struct attn_in_rows rows = {args, first};
        cpu_region(context, attn_in_row, &rows, n, n * width * 4);
    }
    pthread_mutex_unlock(&context->turn);
}

void cpu_attn_in(struct device_stream *stream, const struct kernel_attn_in_args *args)
{
    device_launch(stream, attn_in_run, args, sizeof(*args));
}

/* ---- attention ---- */

struct attention {
    const struct kernel_attention_args *args;
    struct kernel_context *context;
    struct kernel_acts *acts;
    uint32_t n_blocks;
    uint32_t n_units; /* blocks * kv heads */
    /* when contexts are split between threads: */
    uint32_t wave_first, wave; /* splits of this round */
    size_t slot_floats;        /* of one unit's partial results */
    bool last;
};

static void unit_init(const struct attention *a, uint32_t index, struct cpu_attention_unit *unit)
{
    const struct kernel_shape *shape = &a->context->shape;
    /* Late rows have the longest contexts: they come first, so that the end is even. */
    const struct cpu_row_block *block =
        &a->acts->blocks[a->n_blocks - 1 - index / shape->n_kv_heads];
    uint32_t group = shape->n_q_heads / shape->n_kv_heads, head = index % shape->n_kv_heads;
    size_t stride = (size_t)shape->n_q_heads * shape->head_dim;
    size_t at = (block->seq->first_row + block->first_row) * stride +
                (size_t)head * group * shape->head_dim;
    *unit = (struct cpu_attention_unit){
        .kv = a->args->kv,
        .seq = block->seq,
        .first_row = block->first_row,
        .n_rows = block->n_rows,
        .kv_head = head,
        .group = group,
        .dim = shape->head_dim,
        .q = a->acts->q + at,
        .out = a->acts->attention + at,
        .row_stride = stride,
        .scale = a->args->scale,
        .softcap = a->args->softcap,
        .window = a->args->window,
    };
}

/* Splits that hold keys of a block's rows. */
static void block_splits(const struct cpu_row_block *block, uint32_t window, uint32_t *first_out,
                         uint32_t *end_out)
{
    uint32_t position = block->seq->first_position + block->first_row;
    *first_out = window > 0 && position + 1 > window ? (position + 1 - window) / CPU_SPLIT : 0;
    *end_out = (position + block->n_rows - 1) / CPU_SPLIT + 1;
}

static void unit_splits(const struct cpu_attention_unit *unit, uint32_t *first_out,
                        uint32_t *end_out)
{
    struct cpu_row_block block = {unit->seq, unit->first_row, unit->n_rows};
    block_splits(&block, unit->window, first_out, end_out);
}

static void attend_whole(void *arg, uint32_t item, uint32_t thread)
{
    const struct attention *a = arg;
    struct cpu_attention_unit unit;
    uint32_t first, end;
    unit_init(a, item, &unit);
    unit_splits(&unit, &first, &end);
    a->context->path->attend(&unit, first, end, NULL, a->context->scratch[thread].attend);
}

/* Totals of the units, then partial results [split of the wave][unit]. */
static float *partial(const struct attention *a, uint32_t slot, uint32_t unit)
{
    return a->acts->partials + ((size_t)slot * a->n_units + unit) * a->slot_floats;
}

static void attend_split(void *arg, uint32_t item, uint32_t thread)
{
    const struct attention *a = arg;
    struct cpu_attention_unit unit;
    uint32_t first, end, index = item % a->n_units, split = a->wave_first + item / a->n_units;
    unit_init(a, index, &unit);
    unit_splits(&unit, &first, &end);
    if (split >= first && split < end)
        a->context->path->attend(&unit, split, split + 1, partial(a, 1 + item / a->n_units, index),
                                 a->context->scratch[thread].attend);
}

static void attend_fold(void *arg, uint32_t index, uint32_t thread)
{
    (void)thread;
    const struct attention *a = arg;
    const struct cpu_path *path = a->context->path;
    struct cpu_attention_unit unit;
    uint32_t first, end;
    unit_init(a, index, &unit);
    unit_splits(&unit, &first, &end);
    uint32_t n = unit.n_rows * unit.group;
    for (uint32_t i = 0; i < a->wave; i++)
        if (a->wave_first + i >= first && a->wave_first + i < end)
            path->attend_fold(partial(a, 0, index), partial(a, 1 + i, index), n, unit.dim);
    if (a->last)
        path->attend_finish(partial(a, 0, index), &unit);
}

/* Rows of each sequence in blocks of about CPU_QUERIES queries; the most queries of a block. */
static uint32_t make_blocks(struct attention *a)
{
    const struct kernel_shape *shape = &a->context->shape;
    const struct kernel_batch *batch = &a->acts->batch;
    uint32_t group = shape->n_q_heads / shape->n_kv_heads, queries = 0;
    uint32_t rows = group < CPU_QUERIES ? CPU_QUERIES / group : 1;
    for (uint32_t s = 0; s < batch->n_seqs; s++)
        for (uint32_t row = 0; row < batch->seqs[s].n_rows; row += rows) {
            uint32_t n = sl_min_u32(rows, batch->seqs[s].n_rows - row);
            a->acts->blocks[a->n_blocks++] = (struct cpu_row_block){&batch->seqs[s], row, n};
            queries = n * group > queries ? n * group : queries;
        }
    a->n_units = a->n_blocks * shape->n_kv_heads;
    return queries;
}

/* Fewer units than the team has hands: work on parts of contexts. False if there is nothing to gain. */
static bool run_split(struct attention *a, uint32_t queries)
{
    uint32_t begin = UINT32_MAX, end = 0, threads = cpu_team_threads(a->context->team);
    if (threads == 1 || a->n_units >= 2 * threads)
        return false;
    for (uint32_t i = 0; i < a->n_blocks; i++) {
        uint32_t first, last;
        block_splits(&a->acts->blocks[i], a->args->window, &first, &last);
        begin = sl_min_u32(begin, first);
        end = last > end ? last : end;
    }
    uint32_t dim = a->context->shape.head_dim;
    a->slot_floats = queries * CPU_PARTIAL_FLOATS(dim);
    size_t slots = a->acts->partial_floats / (a->slot_floats * a->n_units);
    if (end - begin < 2 || slots < 3)
        return false;
    for (uint32_t i = 0; i < a->n_units; i++)
        a->context->path->attend_start(partial(a, 0, i), queries, dim);
    uint32_t wave = sl_min_u32((uint32_t)(slots - 1), end - begin);
    for (a->wave_first = begin; a->wave_first < end; a->wave_first += wave) {
        a->wave = sl_min_u32(wave, end - a->wave_first);
        a->last = a->wave_first + a->wave == end;
        cpu_team_run(a->context->team, attend_split, a, a->wave * a->n_units);
        cpu_team_run(a->context->team, attend_fold, a, a->n_units);
    }
    return true;
}

static void attention_run(void *p)
{
    const struct kernel_attention_args *args = p;
    struct kernel_acts *acts = args->acts;
    struct attention a = {.args = args, .context = acts->context, .acts = acts};
    pthread_mutex_lock(&a.context->turn);
    uint32_t queries = make_blocks(&a);
    if (!run_split(&a, queries)) {
        uint64_t work = 0; /* a guess is enough: queries * contexts */
        for (uint32_t s = 0; s < acts->batch.n_seqs; s++)
            work += (uint64_t)acts->batch.seqs[s].n_rows *
                    (acts->batch.seqs[s].first_position + acts->batch.seqs[s].n_rows);
        cpu_region(a.context, attend_whole, &a, a.n_units,
                   work * a.context->shape.n_q_heads * a.context->shape.head_dim);
    }
    pthread_mutex_unlock(&a.context->turn);
}

void cpu_attention(struct device_stream *stream, const struct kernel_attention_args *args)
{
    device_launch(stream, attention_run, args, sizeof(*args));
}

/* ---- attn_out, mlp, logits ---- */

static void attn_out_run(void *p)
{
    const struct kernel_attn_out_args *args = p;
    struct kernel_acts *acts = args->acts;
    size_t hidden = acts->context->shape.hidden, width = args->out->k;
    pthread_mutex_lock(&acts->context->turn);
    for (uint32_t first = 0; first < acts->batch.n_rows; first += CPU_CHUNK_ROWS) {
        struct cpu_product product = {
            .context = acts->context,
            .from = acts->attention + first * width,
            .from_stride = width,
            .packed = acts->packed,
            .n_rows = sl_min_u32(CPU_CHUNK_ROWS, acts->batch.n_rows - first),
            .weight = args->out,
            .bias = args->bias,
        };
        cpu_residual_run(&(struct cpu_residual){.product = &product,
                                                .norm = args->post_norm,
                                                .norm_eps = args->norm_eps,
                                                .y = acts->x,
                                                .hidden = acts->hidden + first * hidden});
    }
    pthread_mutex_unlock(&acts->context->turn);
}

void cpu_attn_out(struct device_stream *stream, const struct kernel_attn_out_args *args)
{
    device_launch(stream, attn_out_run, args, sizeof(*args));
}

static void mlp_run(void *p)
{
    const struct kernel_mlp_args *args = p;
    struct kernel_acts *acts = args->acts;
    size_t hidden = acts->context->shape.hidden, width = args->down->k;
    pthread_mutex_lock(&acts->context->turn);
    for (uint32_t first = 0; first < acts->batch.n_rows; first += CPU_CHUNK_ROWS) {
        float *rows = acts->hidden + first * hidden;
        struct cpu_product gate_up = {
            .context = acts->context,
            .from = rows,
            .from_stride = hidden,
            .norm = args->norm,
            .norm_eps = args->norm_eps,
            .x = acts->x,
            .packed = acts->packed,
            .n_rows = sl_min_u32(CPU_CHUNK_ROWS, acts->batch.n_rows - first),
            .weight = args->gate_up,
            .finish = CPU_FINISH_GATE,
            .activation = args->activation,
            .out = acts->wide,
            .out_stride = width,
        };
        cpu_product_run(&gate_up);
        struct cpu_product down = {
            .context = acts->context,
            .from = acts->wide,
            .from_stride = width,
            .packed = acts->packed,
            .n_rows = gate_up.n_rows,
            .weight = args->down,
        };
        cpu_residual_run(&(struct cpu_residual){.product = &down,
                                                .norm = args->post_norm,
                                                .norm_eps = args->norm_eps,
                                                .y = acts->x,
                                                .hidden = rows});
    }
    pthread_mutex_unlock(&acts->context->turn);
}

void cpu_mlp(struct device_stream *stream, const struct kernel_mlp_args *args)
{
    device_launch(stream, mlp_run, args, sizeof(*args));
}

static void logits_run(void *p)
{
    const struct kernel_logits_args *args = p;
    struct kernel_acts *acts = args->acts;
    size_t hidden = acts->context->shape.hidden, vocab = args->head->n;
    float *out = args->logits->address;
    SL_ASSERT(args->n_logits * vocab * sizeof(*out) <= args->logits->bytes);
    SL_ASSERT(args->n_logits <= acts->context->shape.logits_max);
    for (uint32_t i = 0; i < args->n_logits; i++)
        SL_ASSERT(args->rows[i] < acts->batch.n_rows);
    pthread_mutex_lock(&acts->context->turn);
    for (uint32_t first = 0; first < args->n_logits; first += CPU_CHUNK_ROWS) {
        struct cpu_product product = {
            .context = acts->context,
            .from = acts->hidden,
            .from_stride = hidden,
            .from_rows = args->rows + first,
            .norm = args->norm,
            .norm_eps = args->norm_eps,
            .x = acts->x,
            .packed = acts->packed,
            .n_rows = sl_min_u32(CPU_CHUNK_ROWS, args->n_logits - first),
            .weight = args->head,
            .finish = CPU_FINISH_STORE,
            .softcap = args->softcap,
            .out = out + first * vocab,
            .out_stride = vocab,
        };
        cpu_product_run(&product);
    }
    pthread_mutex_unlock(&acts->context->turn);
}

void cpu_logits(struct device_stream *stream, const struct kernel_logits_args *args)
{
    device_launch(stream, logits_run, args, sizeof(*args));
}

/* ---- copies ---- */

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

void cpu_kv_block_copy(struct device_stream *stream, const struct kernel_kv *kv, uint32_t to,
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
    const struct kernel_acts *acts = args->acts;
    const struct kernel_shape *shape = &acts->context->shape;
    size_t width = args->which == KERNEL_ACT_HIDDEN ? shape->hidden
                                                    : (size_t)shape->n_q_heads * shape->head_dim;
    const float *from = args->which == KERNEL_ACT_HIDDEN ? acts->hidden
                        : args->which == KERNEL_ACT_Q    ? acts->q
                                                         : acts->attention;
    memcpy(args->out, from, acts->batch.n_rows * width * sizeof(float));
}

void cpu_act_read(struct device_stream *stream, struct kernel_acts *acts, enum kernel_act which,
                  float *out)
{
    struct act_read_args args = {acts, which, out};
    device_launch(stream, act_read_run, &args, sizeof(args));
}
