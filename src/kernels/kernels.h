/* The op interface: one const table of layer-sized ops per backend, chosen once at engine open.
 *
 * Weights and activations are opaque: a backend packs weights as it likes (weight_pack) and keeps the
 * activations of a batch in its own layouts (acts). An op enqueues on `stream` and never synchronises.
 * What an op computes is defined by kernels/ref; tests read activations back with act_read.
 *
 * Numerics contract (ref and cpu): each output of each row depends on that row's own inputs and
 * position only; every reduction runs in an order fixed by position (K in every matrix product,
 * whether 1 or 4096 rows; keys of attention, with its splits), never by rows, threads or chunks.
 *
 * Rows: a batch is n_rows new tokens of n_seqs sequences, the rows of a sequence next to each other and
 * ascending by position. */
#ifndef SL_KERNELS_KERNELS_H
#define SL_KERNELS_KERNELS_H

#include "base/status.h"
#include "device/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KERNEL_HEAD_DIM_MAX 256
#define KERNEL_ROWS_MAX     8192
#define KERNEL_CLASSES_MAX  4 /* KV_CLASSES_MAX agrees */
#define KERNEL_EXPERTS_MAX  1024
#define KERNEL_CHOSEN_MAX   64 /* experts of one row */

enum kernel_element {
    KERNEL_F32 = 0,
    KERNEL_BF16 = 1,
    KERNEL_F16 = 2
}; /* values of KV_F32, KV_BF16 agree */

struct kernel_context; /* one engine's: backend, device, compute team */
struct kernel_weight;  /* one packed matrix or vector */
struct kernel_acts;    /* activations of one batch */

/* Sizes of a model that a backend needs for its buffers. */
struct kernel_shape {
    uint32_t hidden; /* residual width */
    uint32_t n_q_heads, n_kv_heads, head_dim;
    uint32_t mlp_hidden;
    uint32_t vocab;
    uint32_t rows_max; /* of one batch */
    uint32_t seqs_max;
    uint32_t logits_max;                         /* rows for which logits are wanted at once */
    uint32_t n_experts, n_chosen, expert_hidden; /* of moe; 0: none */
};

/* Where the KV bytes are. Element strides come from kv/geometry.h by the caller. */
struct kernel_kv {
    const struct device_memory *pool;
    uint32_t class_index; /* whose block table of a sequence names the blocks */
    size_t block_bytes;   /* from block to block */
    size_t layer_offset;  /* of this layer within a block */
    size_t head_bytes;    /* from kv head to kv head (K tile then V tile) */
    size_t v_offset;      /* of the V tile after the head's K tile */
    uint32_t block_tokens;
    enum kernel_element element;
};

/* One sequence of a batch. */
struct kernel_seq {
    uint32_t first_row; /* of its rows in the batch */
    uint32_t n_rows;
    uint32_t
        first_position; /* of its first row; context of row r = first_position + r + 1 tokens */
    /* Of each KV class that a layer names; host memory, borrowed until the batch retires. Entry i is
     * the block of tokens [i * block_tokens, …). Blocks that lie wholly in front of the window of every
     * row may be missing (any value): an op reads no entry and no block outside the window. */
    const uint32_t *block_tables[KERNEL_CLASSES_MAX];
    uint32_t n_blocks; /* of every table */
};

struct kernel_batch {
    uint32_t n_rows, n_seqs;
    const uint32_t *tokens;    /* [n_rows], host, borrowed until the batch retires */
    const uint32_t *positions; /* [n_rows] */
    const struct kernel_seq *seqs;
};

/* Rotary embedding: the angle of pair i at position p is p * inv_freq[i]; half-split pairing
 * (i, i + rotary_dim / 2) as in Hugging Face; cos and sin are multiplied by scale. Dimensions beyond
 * rotary_dim pass. */
struct kernel_rope {
    const float *inv_freq; /* [rotary_dim / 2], host, lives as long as the engine */
    uint32_t rotary_dim;   /* 0: none */
    float scale;
};

/* hidden -> normed (optional) -> q, k, v (+ bias) -> RMS norm of q and of k (optional) -> rope; q stays
 * in the acts, k and v go into their KV slots. The size of q_norm and k_norm says what they are over:
 * [head_dim] each head, [heads * head_dim] all of them together. */
struct kernel_attn_in_args {
    struct kernel_acts *acts;
    const struct kernel_weight *norm;     /* [hidden]; NULL: none */
    const struct kernel_weight *qkv;      /* [(q + 2 kv heads) * head_dim][hidden], q first */
    const struct kernel_weight *qkv_bias; /* NULL: none */
    const struct kernel_weight *q_norm, *k_norm; /* both or none: NULL */
    struct kernel_rope rope;
    float norm_eps;
    struct kernel_kv kv;
};

/* Causal attention of every row over its sequence's context, softmax in f32. */
struct kernel_attention_args {
    struct kernel_acts *acts;
    struct kernel_kv kv;
    float scale;     /* usually 1 / sqrt(head_dim) */
    uint32_t window; /* 0: all; else the last `window` tokens, itself included */
    float softcap;   /* 0: none */
};

/* hidden += attn · w_o^T (+ bias), or hidden += norm(attn · w_o^T (+ bias)) */
struct kernel_attn_out_args {
    struct kernel_acts *acts;
    const struct kernel_weight *out; /* [hidden][q heads * head_dim] */
    const struct kernel_weight *bias;
    const struct kernel_weight *post_norm; /* [hidden]; NULL: none */
    float norm_eps;                        /* of post_norm */
};

/* y = (act(x g^T) * (x u^T)) · down^T, with x = norm(hidden); hidden += y, or hidden += norm(y) */
enum kernel_activation { KERNEL_SILU, KERNEL_GELU_TANH };
struct kernel_mlp_args {
    struct kernel_acts *acts;
    const struct kernel_weight *norm;      /* [hidden]; NULL: x is hidden */
    const struct kernel_weight *gate_up;   /* [2 * mlp_hidden][hidden], gate first */
    const struct kernel_weight *down;      /* [hidden][mlp_hidden] */
    const struct kernel_weight *post_norm; /* [hidden]; NULL: none */
    enum kernel_activation activation;
    float norm_eps; /* of both norms */
};

/* A mixture of experts in place of an MLP, with x = norm(hidden): p = softmax(x r^T) over the experts;
 * hidden += sum over the n_chosen experts of the largest p (of equal ones the first) of p_e y_e, in the
 * order of the experts, where y_e is expert e's (act(x g^T) * (x u^T)) · down^T. */
struct kernel_moe_args {
    struct kernel_acts *acts;
    const struct kernel_weight *norm;           /* [hidden] */
    const struct kernel_weight *router;         /* [n_experts][hidden] */
    const struct kernel_weight *const *gate_up; /* [n_experts]: [2 * expert_hidden][hidden] each */
    const struct kernel_weight *const *down;    /* [n_experts]: [hidden][expert_hidden] each */
    uint32_t n_chosen;
    bool renormalise; /* p is divided by the sum over the chosen ones */
    enum kernel_activation activation;
    float norm_eps;
};

/* logits of chosen rows: norm(hidden[row]) · head^T into device memory, f32 [n_logits][vocab] */
struct kernel_logits_args {
    struct kernel_acts *acts;
    const struct kernel_weight *norm;
    const struct kernel_weight *head; /* [vocab][hidden] */
    float norm_eps;
    float softcap; /* 0: none; else softcap * tanh(logit / softcap) */
    uint32_t n_logits;
    const uint32_t *rows; /* [n_logits], host, borrowed until the batch retires */
    struct device_memory *logits;
};

enum kernel_act { KERNEL_ACT_HIDDEN, KERNEL_ACT_Q, KERNEL_ACT_ATTENTION };

/* How a matrix is going to be used: lets a backend choose its layout. */
enum kernel_weight_use { KERNEL_WEIGHT_MATRIX, KERNEL_WEIGHT_EMBEDDING, KERNEL_WEIGHT_VECTOR };

/* One or more source matrices stacked along their rows (q, k, v; gate, up), row-major [n][k], any
 * element type; read during the call only. bf16 stays bf16; f16 and f32 are kept as f32. */
struct kernel_weight_source {
    const void *data;
    enum kernel_element element;
    uint32_t n, k; /* a vector: n values, k = 1 */
};

struct kernel_ops {
    const char *name; /* "ref", "cpu", "cuda" */

    sl_status (*open)(struct device *device, const struct kernel_shape *shape, uint32_t n_threads,
                      struct kernel_context **context_out) SL_MUST_USE;
    void (*close)(struct kernel_context *context);
    /* Backend, instruction path, version: "cpu-avx2-1". Two nodes with the same id compute the same
     * bits. */
    const char *(*numerics_id)(const struct kernel_context *context);

    sl_status (*weight_pack)(struct kernel_context *context, enum kernel_weight_use use,
                             const struct kernel_weight_source *sources, uint32_t n_sources,
                             struct kernel_weight **weight_out) SL_MUST_USE;
    void (*weight_free)(struct kernel_weight *weight);

    /* Buffers for one batch of at most shape.rows_max rows. */
    sl_status (*acts_create)(struct kernel_context *context,
                             struct kernel_acts **acts_out) SL_MUST_USE;
    void (*acts_destroy)(struct kernel_acts *acts);

    /* hidden = embedding rows of the batch's tokens (* scale). Also makes `batch` the acts' batch:
     * it and what it points to are borrowed until the work on the acts has run. */
    void (*embed)(struct device_stream *stream, struct kernel_acts *acts,
                  const struct kernel_batch *batch, const struct kernel_weight *embedding,
                  float scale);
    void (*attn_in)(struct device_stream *stream, const struct kernel_attn_in_args *args);
    void (*attention)(struct device_stream *stream, const struct kernel_attention_args *args);
    void (*attn_out)(struct device_stream *stream, const struct kernel_attn_out_args *args);
    void (*mlp)(struct device_stream *stream, const struct kernel_mlp_args *args);
    void (*moe)(struct device_stream *stream, const struct kernel_moe_args *args);
    void (*logits)(struct device_stream *stream, const struct kernel_logits_args *args);
    /* Copies whole KV blocks within a pool (copy on write of a partial block). */
    void (*kv_block_copy)(struct device_stream *stream, const struct kernel_kv *kv, uint32_t to,
                          uint32_t from);
    /* Sums [n_rows][hidden] over the ranks of a tensor-parallel group; NULL: one rank only. */
    void (*all_reduce)(struct device_stream *stream, struct kernel_acts *acts);
    /* f32 [n_rows][width] to host memory, after a device_stream_wait; for tests. */
    void (*act_read)(struct device_stream *stream, struct kernel_acts *acts, enum kernel_act which,
                     float *out);
};

/* "ref", "cpu", "cuda": SL_NOT_FOUND names the choices; SL_UNSUPPORTED not built in. */
sl_status kernel_ops_find(const char *name, const struct kernel_ops **ops_out) SL_MUST_USE;

#endif
