/* Causal attention over paged keys and values, compiled once per path.
 *
 * A unit is some rows of a sequence and the query heads that share a kv head; "query" i below is the
 * pair (row i / group, head i % group). Keys are taken in segments of CPU_SEGMENT and splits of
 * CPU_SPLIT tokens, both counted from position 0 of the sequence:
 *
 *     split 0                        split 1
 *     |seg|seg|seg|seg|seg|seg|seg|seg|seg|…      each split: own maximum m, sum l, values o
 *
 *   segment: K and V rows of the valid tokens are widened to f32 scratch, once for all queries;
 *            s = q·k (lanes over dim, fixed tree), p = exp(s - m), o = o * exp(m_old - m) + p V
 *   split:   folded into the total in order: total = fold(fold(split 0, split 1), split 2) …
 *
 * So what a query computes depends on its position and its own keys, not on the rows beside it, on
 * chunks, block size or threads: splits may also run on different threads and be folded later. A slot
 * that is not a key of the query takes no part in its arithmetic: scores of other slots are overwritten
 * with -inf before use (their exp is 0 in a sum whose lanes are fixed), and the product with V runs
 * over exactly the query's keys. Queries with the same keys share register tiles.
 *
 * Sources: Milakov and Gimelshein 2018 (running softmax), Dao et al. 2022 (tiles), Kwon et al. 2023
 * (paged). Rejected: transposing K (a score would be one chain over dim): costs a transposition for
 * each segment of a decode step, where K is read once.
 *
 * Where the time goes (decode at 8k, 4 query heads per kv head, AVX2): 40% widening and waiting for
 * memory, 60% arithmetic, at 0.4 to 0.5 of the read bandwidth. Next to try: scores and values
 * straight from bf16 for units of few queries, which saves the widened copy. */
#include "kernels/cpu/path.h"

#include <math.h>

#define SCORE_ROWS (CPU_ACC_MAX / 4) /* queries of a score tile over 4 keys */
#define VALUE_ROWS (CPU_ACC_MAX / 2) /* queries of a value tile over 2 vectors */

struct work {
    const struct cpu_attention_unit *unit;
    uint32_t n;          /* queries */
    uint32_t pad;        /* dim rounded up to vectors */
    float *q;            /* [n][pad] */
    float *k, *v;        /* [CPU_SEGMENT][pad] */
    float *s;            /* [n][CPU_SEGMENT]: scores, then weights */
    float *o;            /* [n][pad] */
    float *m, *l;        /* [n] */
    float *fix;          /* [n]: exp(m before - m now) */
    float *part, *total; /* [n][CPU_PARTIAL_FLOATS(dim)] */
};

static uint32_t padded(uint32_t dim)
{
    return (dim + CPU_VL - 1) / CPU_VL * CPU_VL;
}

size_t CPU_NAME(cpu_attend_floats)(uint32_t n, uint32_t dim)
{
    size_t pad = padded(dim);
    return 2 * n * pad + 2 * CPU_SEGMENT * pad + (size_t)n * (CPU_SEGMENT + 3) +
           2 * n * CPU_PARTIAL_FLOATS(dim);
}

static void work_init(struct work *work, const struct cpu_attention_unit *unit, float *scratch)
{
    uint32_t n = unit->n_rows * unit->group, dim = unit->dim, pad = padded(dim);
    *work = (struct work){.unit = unit, .n = n, .pad = pad};
    work->q = scratch;
    work->o = work->q + (size_t)n * pad;
    work->k = work->o + (size_t)n * pad;
    work->v = work->k + (size_t)CPU_SEGMENT * pad;
    work->s = work->v + (size_t)CPU_SEGMENT * pad;
    work->m = work->s + (size_t)n * CPU_SEGMENT;
    work->l = work->m + n;
    work->fix = work->l + n;
    work->part = work->fix + n;
    work->total = work->part + n * CPU_PARTIAL_FLOATS(dim);
    memset(work->q, 0, (size_t)n * pad * sizeof(float));
    for (uint32_t i = 0; i < n; i++)
        memcpy(work->q + (size_t)i * pad,
               unit->q + i / unit->group * unit->row_stride + (size_t)(i % unit->group) * dim,
               dim * sizeof(float));
}

/* The keys [*from_out, *to_out) of a row, absolute. */
static void row_keys(const struct cpu_attention_unit *unit, uint32_t row, uint32_t *from_out,
                     uint32_t *to_out)
{
    uint32_t position = unit->seq->first_position + unit->first_row + row;
    *to_out = position + 1;
    *from_out = unit->window > 0 && position + 1 > unit->window ? position + 1 - unit->window : 0;
}

/* ---- keys and values of a segment ---- */

CPU_INLINE void widen_row(enum kernel_element element, const unsigned char *from, uint32_t dim,
                          uint32_t pad, float *to)
{
    uint32_t i = 0;
    if (element == KERNEL_BF16) {
        const uint16_t *half = (const uint16_t *)(const void *)from;
#pragma GCC unroll 4
        for (; i + CPU_VL <= dim; i += CPU_VL)
            v_store(to + i, v_load_bf16(half + i));
        for (; i < dim; i++)
            to[i] = kernel_from_bf16(half[i]);
    } else {
        memcpy(to, from, dim * sizeof(float));
        i = dim;
    }
    for (; i < pad; i++)
        to[i] = 0;
}

/* The K slot of a token of the unit; valid up to the end of its block. */
static const unsigned char *slot_of(const struct cpu_attention_unit *unit, uint32_t position,
                                    size_t row_bytes)
{
    const struct kernel_kv *kv = &unit->kv;
    return kernel_kv_tile(kv, unit->seq, position / kv->block_tokens, unit->kv_head) +
           position % kv->block_tokens * row_bytes;
}

static void prefetch_row(const unsigned char *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(row + i, 0, 2);
}

/* Tokens [from, to) of the segment at `base` into k and v; the rest of the 8-key groups that score
 * tiles read is zeroed in k. `ahead` is the segment's size when the same rows of the next one will be
 * wanted: they are prefetched row by row, since a tile is too short for the processor to learn. */
static void segment_load(struct work *work, uint32_t base, uint32_t from, uint32_t to,
                         uint32_t ahead)
{
    const struct cpu_attention_unit *unit = work->unit;
    const struct kernel_kv *kv = &unit->kv;
    size_t row_bytes = (size_t)unit->dim * (kv->element == KERNEL_BF16 ? 2 : 4);
    uint32_t pad = work->pad;
    memset(work->k + (size_t)(from & ~7u) * pad, 0, (from & 7u) * pad * sizeof(float));
    memset(work->k + (size_t)to * pad, 0, (-to & 7u) * pad * sizeof(float));
    for (uint32_t t = from; t < to;) {
        uint32_t left = kv->block_tokens - (base + t) % kv->block_tokens;
        uint32_t n = left < to - t ? left : to - t;
        const unsigned char *k = slot_of(unit, base + t, row_bytes), *next = NULL;
        if (ahead > 0)
            next = slot_of(unit, base + t + ahead, row_bytes);
        for (uint32_t i = 0; i < n; i++) {
            float *to_k = work->k + (size_t)(t + i) * pad, *to_v = work->v + (size_t)(t + i) * pad;
            if (next != NULL) {
                prefetch_row(next + i * row_bytes, row_bytes);
                prefetch_row(next + kv->v_offset + i * row_bytes, row_bytes);
            }
            widen_row(kv->element, k + i * row_bytes, unit->dim, pad, to_k);
            widen_row(kv->element, k + kv->v_offset + i * row_bytes, unit->dim, pad, to_v);
        }
        t += n;
    }
}

/* ---- scores ---- */

/* R queries x N keys (4 or 8). */
CPU_INLINE void score_tile(const int R, const int N, const float *q, const float *k, uint32_t pad,
                           float *s)
{
    vf acc[SCORE_ROWS][8];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int j = 0; j < N; j++)
            acc[r][j] = v_zero();
    for (uint32_t d = 0; d < pad; d += CPU_VL) {
        vf x[SCORE_ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            x[r] = v_load(q + (size_t)r * pad + d);
#pragma GCC unroll 8
        for (int j = 0; j < N; j++) {
            vf y = v_load(k + (size_t)j * pad + d);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
                acc[r][j] = v_fma(x[r], y, acc[r][j]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j += 4)
            v_sum4(acc[r][j], acc[r][j + 1], acc[r][j + 2], acc[r][j + 3],
                   s + (size_t)r * CPU_SEGMENT + j);
}

#define SCORE_KEYS(R) (8 * (R) <= CPU_ACC_MAX ? 8 : 4)

CPU_INLINE void score_keys(const int R, const struct work *work, uint32_t query, uint32_t from,
                           uint32_t to)
{
    for (uint32_t j = from & ~7u; j < to; j += SCORE_KEYS(R))
        score_tile(R, SCORE_KEYS(R), work->q + (size_t)query * work->pad,
                   work->k + (size_t)j * work->pad, work->pad,
                   work->s + (size_t)query * CPU_SEGMENT + j);
}

static void scores(const struct work *work, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < work->n; i += SCORE_ROWS)
        switch (work->n - i) {
        case 1:
            score_keys(1, work, i, from, to);
            break;
        case 2:
            score_keys(2, work, i, from, to);
            break;
#if SCORE_ROWS > 3
        case 3:
            score_keys(3, work, i, from, to);
            break;
        case 4:
            score_keys(4, work, i, from, to);
            break;
        case 5:
            score_keys(5, work, i, from, to);
            break;
#endif
        default:
            score_keys(SCORE_ROWS, work, i, from, to);
        }
}

/* ---- softmax ---- */

CPU_INLINE float exp_1(float x)
{
    float lanes[CPU_VL];
    v_store(lanes, v_exp(v_set1(x)));
    return lanes[0];
}

/* Scores of one query, of which [from, to) are its keys: scaled, capped, the others -inf. Its new
 * maximum goes to fix, for the moment. */
static void softmax_begin(struct work *work, uint32_t query, uint32_t from, uint32_t to)
{
    float *s = work->s + (size_t)query * CPU_SEGMENT;
    const float cap = work->unit->softcap;
    const vf scale = v_set1(work->unit->scale);
    for (uint32_t j = 0; cap > 0 && j < CPU_SEGMENT; j += CPU_VL)
        v_store(s + j, v_softcap(v_mul(v_load(s + j), scale), cap));
    for (uint32_t j = 0; !(cap > 0) && j < CPU_SEGMENT; j += CPU_VL)
        v_store(s + j, v_mul(v_load(s + j), scale));
    for (uint32_t j = 0; j < from; j++)
        s[j] = -INFINITY;
    for (uint32_t j = to; j < CPU_SEGMENT; j++)
        s[j] = -INFINITY;
    vf max = v_load(s);
    for (uint32_t j = CPU_VL; j < CPU_SEGMENT; j += CPU_VL)
        max = v_max(max, v_load(s + j));
    float segment = v_maximum(max), before = work->m[query];
    work->fix[query] = segment > before ? segment : before;
}

/* The maximum of every query moves on; fix = exp(before - now), many queries at a time: alone, the
 * chain of one exp is longer than all else that a query does here. */
static void softmax_fix(struct work *work)
{
    for (uint32_t i = 0; i < work->n; i += CPU_VL) {
        uint32_t n = work->n - i < CPU_VL ? work->n - i : CPU_VL;
        vf before = v_load_some(work->m + i, n, 0.0f), now = v_load_some(work->fix + i, n, 0.0f);
        v_store_some(work->m + i, now, n);
        v_store_some(work->fix + i, v_exp(v_sub(before, now)), n);
    }
}

/* Scores into weights. */
static void softmax_end(struct work *work, uint32_t query)
{
    float *s = work->s + (size_t)query * CPU_SEGMENT;
    const vf shift = v_set1(work->m[query]);
    vf sum = v_zero();
#pragma GCC unroll 2
    for (uint32_t j = 0; j < CPU_SEGMENT; j += CPU_VL) {
        vf p = v_exp(v_sub(v_load(s + j), shift));
        v_store(s + j, p);
        sum = v_add(sum, p);
    }
    work->l[query] = work->l[query] * work->fix[query] + v_sum(sum);
}

/* ---- values ---- */

/* o = o * fix + p V for R queries and V vectors of dim, keys [from, to). */
CPU_INLINE void value_tile(const int R, const int V, const struct work *work, uint32_t query,
                           uint32_t d, uint32_t from, uint32_t to)
{
    const uint32_t pad = work->pad;
    float *o = work->o + (size_t)query * pad + d;
    const float *p = work->s + (size_t)query * CPU_SEGMENT;
    const float *v = work->v + (size_t)from * pad + d;
    vf acc[VALUE_ROWS][8];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++)
            acc[r][j] =
                v_mul(v_load(o + (size_t)r * pad + j * CPU_VL), v_set1(work->fix[query + r]));
    for (uint32_t key = from; key < to; key++) {
        vf x[8];
#pragma GCC unroll 8
        for (int j = 0; j < V; j++)
            x[j] = v_load(v + j * CPU_VL);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            vf weight = v_set1(p[(size_t)r * CPU_SEGMENT + key]);
#pragma GCC unroll 8
            for (int j = 0; j < V; j++)
                acc[r][j] = v_fma(weight, x[j], acc[r][j]);
        }
        v += pad;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++)
            v_store(o + (size_t)r * pad + j * CPU_VL, acc[r][j]);
}

/* Vectors side by side for R queries. */
#define VALUE_VECTORS(R) (8 * (R) <= CPU_ACC_MAX ? 8 : 4 * (R) <= CPU_ACC_MAX ? 4 : 2)

CPU_INLINE void value_rows(const int R, const struct work *work, uint32_t query, uint32_t from,
                           uint32_t to)
{
    uint32_t d = 0, pad = work->pad;
    if (VALUE_VECTORS(R) == 8)
        for (; d + 8 * CPU_VL <= pad; d += 8 * CPU_VL)
            value_tile(R, 8, work, query, d, from, to);
    if (VALUE_VECTORS(R) >= 4)
        for (; d + 4 * CPU_VL <= pad; d += 4 * CPU_VL)
            value_tile(R, 4, work, query, d, from, to);
    for (; d + 2 * CPU_VL <= pad; d += 2 * CPU_VL)
        value_tile(R, 2, work, query, d, from, to);
    if (d < pad)
        value_tile(R, 1, work, query, d, from, to);
}

#define DEFINE(R)                                                                                  \
    static void values_##R(const struct work *work, uint32_t query, uint32_t from, uint32_t to)    \
    {                                                                                              \
        value_rows(R, work, query, from, to);                                                      \
    }
DEFINE(1)
DEFINE(2)
DEFINE(3)
DEFINE(4)
DEFINE(5)
DEFINE(6)
#if VALUE_ROWS > 6
DEFINE(7)
DEFINE(8)
DEFINE(9)
DEFINE(10)
DEFINE(11)
DEFINE(12)
#endif

/* n queries from `query` on, all with the keys [from, to) of the segment. */
static void values(const struct work *work, uint32_t query, uint32_t n, uint32_t from, uint32_t to)
{
    static void (*const rows[])(const struct work *, uint32_t, uint32_t, uint32_t) = {
        NULL,
        values_1,
        values_2,
        values_3,
        values_4,
        values_5,
        values_6,
#if VALUE_ROWS > 6
        values_7,
        values_8,
        values_9,
        values_10,
        values_11,
        values_12,
#endif
    };
    for (uint32_t i = 0; i < n; i += VALUE_ROWS)
        rows[n - i < VALUE_ROWS ? n - i : VALUE_ROWS](work, query + i, from, to);
}

/* ---- segments, splits ---- */

static uint32_t clip(uint32_t key, uint32_t base)
{
    return key <= base ? 0 : key - base < CPU_SEGMENT ? key - base : CPU_SEGMENT;
}

/* The keys of a row within the segment at `base`. */
static void segment_keys(const struct cpu_attention_unit *unit, uint32_t row, uint32_t base,
                         uint32_t *from_out, uint32_t *to_out)
{
    uint32_t from, to;
    row_keys(unit, row, &from, &to);
    *from_out = clip(from, base);
    *to_out = clip(to, base);
}

/* Every query of the unit over the segment at `base`. */
static void segment(struct work *work, uint32_t base)
{
    const struct cpu_attention_unit *unit = work->unit;
    uint32_t first, end, unused;
    row_keys(unit, 0, &first, &unused);
    row_keys(unit, unit->n_rows - 1, &unused, &end);
    /* A block holds whole segments or a segment whole blocks, so rows that are contiguous here are
     * contiguous one segment on. */
    bool more = base + 2 * CPU_SEGMENT <= end;
    first = clip(first, base);
    end = clip(end, base);
    segment_load(work, base, first, end, more ? CPU_SEGMENT : 0);
    scores(work, first, end);

    /* A query without a key here keeps its maximum: its fix is not used. */
    memcpy(work->fix, work->m, work->n * sizeof(float));
    for (uint32_t i = 0; i < work->n; i++) {
        uint32_t from, to;
        segment_keys(unit, i / unit->group, base, &from, &to);
        if (from < to)
            softmax_begin(work, i, from, to);
    }
    softmax_fix(work);

    uint32_t run = 0, run_from = 0, run_to = 0; /* queries [run, now) share their keys */
    for (uint32_t row = 0; row < unit->n_rows; row++) {
        uint32_t from, to, query = row * unit->group;
        segment_keys(unit, row, base, &from, &to);
        for (uint32_t i = 0; from < to && i < unit->group; i++)
            softmax_end(work, query + i);
        if (from != run_from || to != run_to) {
            if (run_from < run_to)
                values(work, run, query - run, run_from, run_to);
            run = query;
            run_from = from;
            run_to = to;
        }
    }
    if (run_from < run_to)
        values(work, run, work->n - run, run_from, run_to);
}

/* One split into part. */
static void split(struct work *work, uint32_t index, float *part)
{
    const struct cpu_attention_unit *unit = work->unit;
    uint32_t first, end, unused, begin = index * CPU_SPLIT;
    row_keys(unit, 0, &first, &unused);
    row_keys(unit, unit->n_rows - 1, &unused, &end);
    memset(work->o, 0, (size_t)work->n * work->pad * sizeof(float));
    for (uint32_t i = 0; i < work->n; i++) {
        work->m[i] = -INFINITY;
        work->l[i] = 0;
    }
    for (uint32_t base = begin; base < begin + CPU_SPLIT && base < end; base += CPU_SEGMENT)
        if (base + CPU_SEGMENT > first)
            segment(work, base);
    for (uint32_t i = 0; i < work->n; i++) {
        float *to = part + i * CPU_PARTIAL_FLOATS(unit->dim);
        memcpy(to, work->o + (size_t)i * work->pad, unit->dim * sizeof(float));
        to[unit->dim] = work->m[i];
        to[unit->dim + 1] = work->l[i];
    }
}

void CPU_NAME(cpu_attend_start)(float *total, uint32_t n, uint32_t dim)
{
    memset(total, 0, n * CPU_PARTIAL_FLOATS(dim) * sizeof(float));
    for (uint32_t i = 0; i < n; i++)
        total[i * CPU_PARTIAL_FLOATS(dim) + dim] = -INFINITY;
}

void CPU_NAME(cpu_attend_fold)(float *total, const float *part, uint32_t n, uint32_t dim)
{
    for (uint32_t i = 0; i < n;
         i++, total += CPU_PARTIAL_FLOATS(dim), part += CPU_PARTIAL_FLOATS(dim)) {
        float a = total[dim], b = part[dim];
        if (b == -INFINITY) /* no key of this query is in the split */
            continue;
        float max = a > b ? a : b;
        float fix_a = exp_1(a - max), fix_b = exp_1(b - max);
        for (uint32_t d = 0; d < dim; d++)
            total[d] = total[d] * fix_a + part[d] * fix_b;
        total[dim] = max;
        total[dim + 1] = total[dim + 1] * fix_a + part[dim + 1] * fix_b;
    }
}

void CPU_NAME(cpu_attend_finish)(const float *total, const struct cpu_attention_unit *unit)
{
    uint32_t n = unit->n_rows * unit->group, dim = unit->dim;
    for (uint32_t i = 0; i < n; i++, total += CPU_PARTIAL_FLOATS(dim)) {
        float *out =
            unit->out + i / unit->group * unit->row_stride + (size_t)(i % unit->group) * dim;
        for (uint32_t d = 0; d < dim; d++)
            out[d] = total[d] / total[dim + 1];
    }
}

void CPU_NAME(cpu_attend)(const struct cpu_attention_unit *unit, uint32_t first, uint32_t end,
                          float *partials, float *scratch)
{
    struct work work;
    work_init(&work, unit, scratch);
    if (partials != NULL) {
        for (uint32_t i = first; i < end; i++)
            split(&work, i, partials + (i - first) * work.n * CPU_PARTIAL_FLOATS(unit->dim));
        return;
    }
    CPU_NAME(cpu_attend_start)(work.total, work.n, unit->dim);
    for (uint32_t i = first; i < end; i++) {
        split(&work, i, work.part);
        CPU_NAME(cpu_attend_fold)(work.total, work.part, work.n, unit->dim);
    }
    CPU_NAME(cpu_attend_finish)(work.total, unit);
}
