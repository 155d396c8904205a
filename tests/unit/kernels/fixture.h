/* One decoder layer of random weights, run on any backend: what the kernel tests share.
 *
 * The KV pool has two layers, of which the second is used. Every byte of it begins as 0xff (NaN in both
 * element types), so a slot that nobody wrote cannot be read unnoticed; blocks are dealt to
 * sequences by a seeded permutation. A shape with a window is in the second KV class, and its tables
 * have holes where every row's window has passed: an op that touches one ends the test. Tokens and keys
 * of a context are functions of (sequence id, position), so that the same sequence means the same
 * whatever its blocks and batches are. */
#ifndef SL_TESTS_KERNELS_FIXTURE_H
#define SL_TESTS_KERNELS_FIXTURE_H

#include "kernels/cpu/cpu.h"
#include "kernels/kernels.h"

#define FX_SEQS_MAX    24
#define FX_EXPERTS_MAX 16

struct fx_shape {
    const char *name;
    uint32_t hidden, n_q, n_kv, dim, mlp, vocab;
    uint32_t block_tokens;
    enum kernel_element kv, weights;
    uint32_t rotary;
    bool bias, head_norms;
    bool whole_norms;          /* of all of q and all of k */
    bool no_norms, post_norms; /* none before, one behind attention and MLP */
    enum kernel_activation activation;
    uint32_t window;
    float softcap, logits_softcap;
    float q_gain; /* 0: 1; makes scores large */
    bool table_is_matrix;
    uint32_t experts, chosen, expert_mlp; /* 0: an MLP; else experts in its place */
    bool renormalise;
};

/* Source matrices, in the shape's element type. */
enum fx_matrix {
    FX_TABLE, /* embedding [vocab][hidden] */
    FX_NORM,
    FX_Q,
    FX_K,
    FX_V,
    FX_Q_BIAS,
    FX_K_BIAS,
    FX_V_BIAS,
    FX_Q_NORM,
    FX_K_NORM,
    FX_OUT,
    FX_OUT_BIAS,
    FX_MLP_NORM,
    FX_GATE,
    FX_UP,
    FX_DOWN,
    FX_POST_NORM,
    FX_MLP_POST_NORM,
    FX_LAST_NORM,
    FX_HEAD,
    FX_ROUTER,
    FX_EXPERT_GATE, /* of all experts, one after the other */
    FX_EXPERT_UP,
    FX_EXPERT_DOWN,
    FX_MATRICES
};

struct fx_model {
    const struct fx_shape *shape;
    struct kernel_weight_source sources[FX_MATRICES];
    float inv_freq[KERNEL_HEAD_DIM_MAX / 2];
};

void fx_model_init(struct fx_model *model, const struct fx_shape *shape);
void fx_model_fini(struct fx_model *model);
/* Element [n][k] of a source. */
double fx_at(const struct fx_model *model, enum fx_matrix matrix, size_t n, size_t k);

struct fx_run_args {
    const struct fx_model *model;
    const char *backend;
    const char *path; /* of cpu; NULL: the best */
    enum device_kind device;
    uint32_t n_threads;
    uint32_t rows_max;
    uint32_t context_max; /* tokens of a sequence */
    uint32_t ids;         /* sequences that have blocks; 0: FX_SEQS_MAX */
    uint64_t seed;        /* of the block permutation and the fake device */
};

struct fx {
    const struct fx_model *model;
    const struct kernel_ops *ops;
    struct device *device;
    struct device_stream *stream;
    struct kernel_context *context;
    struct kernel_acts *acts;
    struct kernel_weight *norm, *qkv, *qkv_bias, *q_norm, *k_norm, *out, *out_bias, *post_norm,
        *mlp_norm, *gate_up, *down, *mlp_post_norm, *last_norm, *head, *table, *router,
        *expert_gate_up[FX_EXPERTS_MAX], *expert_down[FX_EXPERTS_MAX];
    struct device_memory pool, logits;
    unsigned char *image; /* the pool's bytes on the host: fx_pool_put, fx_pool_get */
    uint32_t n_blocks, blocks_per_seq, rows_max, ids;
    uint32_t *tables; /* [ids][blocks_per_seq] */
    struct kernel_kv kv;
};

void fx_open(struct fx *fx, const struct fx_run_args *args);
void fx_close(struct fx *fx);
/* The image all 0xff; keys and values of positions [0, n) of a sequence into it; the image to the
 * pool and back. */
void fx_clear(struct fx *fx);
void fx_context(struct fx *fx, uint32_t id, uint32_t n);
void fx_pool_put(struct fx *fx);
void fx_pool_get(struct fx *fx);
/* Element of a sequence's slot in the image. */
double fx_slot(const struct fx *fx, uint32_t id, uint32_t position, uint32_t head, bool value,
               uint32_t i);

struct fx_seq {
    uint32_t id, first_position, n_rows;
};

/* What the batch's rows hold after each op. */
struct fx_result {
    uint32_t n_rows;
    float *q, *attention; /* [n_rows][n_q * dim] */
    float *start;         /* [n_rows][hidden], after embed */
    float *middle;        /* after attn_out */
    float *hidden;        /* after mlp or moe */
    float *logits;        /* [n_rows][vocab] */
};

uint32_t fx_token(const struct fx *fx, uint32_t id, uint32_t position);
void fx_layer(struct fx *fx, const struct fx_seq *seqs, uint32_t n_seqs, struct fx_result *result);
void fx_result_fini(struct fx_result *result);

/* Uniform in [-1, 1), a function of its arguments. */
float fx_random(uint64_t seed, uint64_t index);

#endif
