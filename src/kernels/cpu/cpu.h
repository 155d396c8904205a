/* The CPU backend's inside, and how tests choose an instruction path. Private to kernels/cpu, its
 * tests and bench/.
 *
 * A path is a table of the functions that are compiled once per instruction set (gemm.c, skinny.c,
 * attention.c, elementwise.c); everything else is compiled once. Layouts that depend on the path's
 * width (weights, packed activations) are made and read by the same path. */
#ifndef SL_KERNELS_CPU_CPU_H
#define SL_KERNELS_CPU_CPU_H

#include "base/thread.h"
#include "kernels/element.h"

#include <pthread.h>

/* open() with a path by name ("avx512", "avx2", "portable"; NULL: the best one). SL_UNSUPPORTED when
 * the machine or the build lacks it. */
sl_status kernel_cpu_open_path(struct device *device, const struct kernel_shape *shape,
                               uint32_t n_threads, const char *path,
                               struct kernel_context **context_out) SL_MUST_USE;

/* ---- team.c ---- */

#define CPU_THREADS_MAX 256

struct cpu_team;

/* n_threads workers, the caller of cpu_team_run being the first of them; 1..CPU_THREADS_MAX. */
sl_status cpu_team_create(uint32_t n_threads, struct cpu_team **team_out) SL_MUST_USE;
void cpu_team_destroy(struct cpu_team *team);
uint32_t cpu_team_threads(const struct cpu_team *team);
/* Runs fn(arg, item, thread) for every item 0..n_items-1, in any order, on any thread (0..threads-1);
 * returns when all are done. One caller at a time. */
void cpu_team_run(struct cpu_team *team, void (*fn)(void *arg, uint32_t item, uint32_t thread),
                  void *arg, uint32_t n_items);

/* ---- weights ---- */

#define CPU_PANEL_MAX 32 /* columns of a panel: 32, 16 or 8 */

/* MATRIX: [n_panels][k][panel], columns (outputs) beyond n are zero. EMBEDDING: [n][k]. VECTOR: [n],
 * f32. The element is BF16 when every source was, else F32. */
struct kernel_weight {
    enum kernel_weight_use use;
    enum kernel_element element; /* KERNEL_F32 or KERNEL_BF16 */
    uint32_t n, k;
    uint32_t panel, n_panels;
    void *data;
};

sl_status cpu_weight_pack(struct cpu_team *team, uint32_t panel, enum kernel_weight_use use,
                          const struct kernel_weight_source *sources, uint32_t n_sources,
                          struct kernel_weight **weight_out) SL_MUST_USE;
void cpu_weight_free(struct kernel_weight *weight);
/* Row `index` of an embedding, or of a matrix, times scale: out[k]. */
void cpu_weight_row(const struct kernel_weight *weight, uint32_t index, float scale, float *out);

/* ---- products ---- */

#define CPU_TILE_ROWS_MAX 12 /* rows of a register tile: 12, 6, 6 */
#define CPU_BLOCK_ROWS                                                                             \
    192               /* rows of an item of a large product: packed, they live in the L2 cache */
#define CPU_DEPTH 256 /* k of one pass: a widened panel lives in the L1 cache */

/* Row-major rows for a product of few of them, packed tiles [tile][k][path's tile_rows] for more. */
struct cpu_rows {
    const float *x;
    size_t stride; /* between rows of x */
    const float *packed;
    uint32_t n_rows;
    uint32_t per_tile; /* rows in a tile, all but the last; <= path's tile_rows */
    uint32_t k;
};

/* ---- attention ---- */

#define CPU_SEGMENT 64  /* keys per pass of the running softmax, aligned to absolute positions */
#define CPU_SPLIT   512 /* keys per independent part, likewise */
#define CPU_QUERIES 96  /* (row, query head) pairs of one unit */

/* Some rows of one sequence, for the query heads that share one kv head. */
struct cpu_attention_unit {
    struct kernel_kv kv;
    const struct kernel_seq *seq;
    uint32_t first_row, n_rows; /* within the sequence */
    uint32_t kv_head, group;    /* query heads of the kv head: kv_head * group … */
    uint32_t dim;
    const float *q; /* first row, first head of the group; rows q_stride apart, heads dim apart */
    float *out;     /* likewise */
    size_t row_stride;
    float scale, softcap;
    uint32_t window;
};

/* The unfinished result of one query: softmax maximum and sum, weighted sum of values. */
#define CPU_PARTIAL_FLOATS(dim) ((size_t)(dim) + 2)

/* ---- the path table ---- */

struct cpu_path {
    const char *name;
    const char *numerics_id;
    uint32_t panel;     /* columns of a weight panel */
    uint32_t tile_rows; /* rows of a register tile */
    uint32_t lanes;

    /* c[i][j] = sum_k x[first_row + i][k] * w[k][first_panel * panel + j], for n_rows <= tile_rows
     * rows straight from x. c has row stride `c_stride` >= n_panels * panel. */
    void (*skinny)(const struct cpu_rows *rows, const struct kernel_weight *weight,
                   uint32_t first_panel, uint32_t n_panels, float *c, size_t c_stride);
    /* The same for tiles [first_tile, first_tile + n_tiles) of packed rows; `wide` holds one
     * widened panel of CPU_DEPTH. */
    void (*gemm)(const struct cpu_rows *rows, uint32_t first_tile, uint32_t n_tiles,
                 const struct kernel_weight *weight, uint32_t first_panel, uint32_t n_panels,
                 float *c, size_t c_stride, float *wide);
    /* One tile of n rows into packed form. */
    void (*pack_tile)(const float *x, size_t stride, uint32_t n, uint32_t k, float *out);

    /* Floats of scratch that attend needs. */
    size_t (*attend_floats)(uint32_t n_queries, uint32_t dim);
    /* Splits [first, end) of the unit: with partials NULL folded and written to out (then the range
     * must be all of them), else [split - first][query][CPU_PARTIAL_FLOATS]. */
    void (*attend)(const struct cpu_attention_unit *unit, uint32_t first, uint32_t end,
                   float *partials, float *scratch);
    /* total = fold(total, part) for n queries, parts in order of splits; total starts at zeros with
     * maximum -inf (attend_start). */
    void (*attend_start)(float *total, uint32_t n, uint32_t dim);
    void (*attend_fold)(float *total, const float *part, uint32_t n, uint32_t dim);
    void (*attend_finish)(const float *total, const struct cpu_attention_unit *unit);

    void (*rms_norm)(const float *x, const float *weight, uint32_t n, float eps, float *out);
    void (*store)(const float *c, const float *bias, uint32_t n, float *out); /* out = c + bias */
    void (*add)(const float *c, const float *bias, uint32_t n, float *out);   /* out += c + bias */
    void (*add_scaled)(const float *c, float scale, uint32_t n, float *out);  /* out += scale * c */
    void (*softcap)(float *x, uint32_t n, float cap); /* x = cap * tanh(x / cap) */
    /* out = activation(gate) * up */
    void (*gate)(enum kernel_activation activation, const float *gate, const float *up, uint32_t n,
                 float *out);
    void (*rotate)(const float *cosine, const float *sine, uint32_t half, float *x);
    void (*to_kv)(enum kernel_element element, const float *x, uint32_t n, void *out);
    void (*exp)(const float *x, uint32_t n, float *out); /* out may be x */
};

extern const struct cpu_path cpu_path_portable, cpu_path_avx2, cpu_path_avx512;

/* ---- context ---- */

struct cpu_scratch {
    float *c;    /* a block of a product */
    float *wide; /* a widened panel */
    float *attend;
    size_t c_floats;
};

struct kernel_context {
    struct device *device;
    struct kernel_shape shape;
    const struct cpu_path *path;
    struct cpu_team *team;
    pthread_mutex_t turn; /* ops of two streams take turns: the team and scratch are one */
    void *scratch_memory;
    struct cpu_scratch *scratch; /* [threads] */
};

struct cpu_row_block {
    const struct kernel_seq *seq;
    uint32_t first_row, n_rows; /* within the sequence */
};

struct kernel_acts {
    struct kernel_context *context;
    struct device_memory memory; /* holds all that follows */
    struct kernel_batch batch;   /* set when embed has run */
    float *hidden;               /* [rows_max][hidden] */
    float *q, *attention;        /* [rows_max][q heads * head_dim] */
    float *x;                    /* [chunk][hidden]: normed */
    float *wide;                 /* [chunk][max(qkv width, (mlp or expert)_hidden)] */
    float *packed;               /* [chunk rounded up to tiles][largest k] */
    float *rope_cosine;          /* [rows_max][head_dim / 2], of the batch's positions … */
    float *rope_sine;
    struct kernel_rope rope;      /* … by this; inv_freq NULL: not made yet */
    uint32_t *row_seq;            /* [rows_max]: sequence of each row */
    struct cpu_row_block *blocks; /* [rows_max]: attention's units, without the kv head */
    float *partials;
    size_t partial_floats;
    /* with experts: */
    float *gathered;        /* [chunk][hidden]: an expert's rows of x */
    float *scores;          /* [chunk][n_experts] */
    uint32_t *chosen;       /* [chunk][n_chosen]: of each row, ascending … */
    float *weights;         /* … and what they count */
    uint32_t *expert_first; /* [n_experts + 1]: where an expert's part begins of … */
    uint32_t *expert_rows;  /* … [chunk * n_chosen]: rows, by expert … */
    float *expert_weights;  /* … and what the expert counts in them */
};

/* Rows that go through a projection at a time: bounds the buffers between two products. */
#define CPU_CHUNK_ROWS 1020
/* Panels of one item of a product, by rows: few rows stream weights, many keep a block in cache. */
#define CPU_GROUP_SKINNY 16
#define CPU_GROUP_BLOCK  4

/* Cosine and sine of position * inv_freq[i], times scale: [rotary_dim / 2] each. rope.c. */
void cpu_rope_row(const struct kernel_rope *rope, uint32_t position, float *cosine, float *sine);

/* ---- ops.c ---- */

void cpu_embed(struct device_stream *stream, struct kernel_acts *acts,
               const struct kernel_batch *batch, const struct kernel_weight *embedding,
               float scale);
void cpu_attn_in(struct device_stream *stream, const struct kernel_attn_in_args *args);
void cpu_attention(struct device_stream *stream, const struct kernel_attention_args *args);
void cpu_attn_out(struct device_stream *stream, const struct kernel_attn_out_args *args);
void cpu_mlp(struct device_stream *stream, const struct kernel_mlp_args *args);
void cpu_moe(struct device_stream *stream, const struct kernel_moe_args *args); /* moe.c */
void cpu_logits(struct device_stream *stream, const struct kernel_logits_args *args);
void cpu_kv_block_copy(struct device_stream *stream, const struct kernel_kv *kv, uint32_t to,
                       uint32_t from);
void cpu_act_read(struct device_stream *stream, struct kernel_acts *acts, enum kernel_act which,
                  float *out);

#endif
