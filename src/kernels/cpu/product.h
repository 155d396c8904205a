/* Products of the CPU backend, as its ops use them. Private to kernels/cpu. */
#ifndef SL_KERNELS_CPU_PRODUCT_H
#define SL_KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/cpu.h"

/* fn for items 0..n_items-1 by the team, or, if it is too little work (multiply-adds) to wake anybody
 * for, by the caller. */
void cpu_region(struct kernel_context *context,
                void (*fn)(void *arg, uint32_t item, uint32_t thread), void *arg, uint32_t n_items,
                uint64_t work);

/* GATE: activation(first half of the columns) * second half. WEIGHTED: added to rows out_rows, times
 * weights. */
enum cpu_finish { CPU_FINISH_STORE, CPU_FINISH_ADD, CPU_FINISH_GATE, CPU_FINISH_WEIGHTED };

struct cpu_product {
    struct kernel_context *context;
    /* input: rows of `from`; in x when they are normed or chosen */
    const float *from;
    size_t from_stride;
    const uint32_t *from_rows; /* NULL: 0, 1, 2 …; else which */
    const struct kernel_weight *norm;
    float norm_eps;
    float *x;      /* [n_rows][k] */
    float *packed; /* tiles */
    uint32_t n_rows;
    /* what it computes */
    const struct kernel_weight *weight;
    const struct kernel_weight *bias;
    enum cpu_finish finish;
    enum kernel_activation activation; /* CPU_FINISH_GATE */
    float softcap;                     /* CPU_FINISH_STORE; 0: none */
    float *out;
    size_t out_stride;
    const uint32_t *out_rows; /* WEIGHTED, with their weights: [n_rows], no row twice */
    const float *weights;
    /* how: set by product_run */
    struct cpu_rows rows;
    bool skinny;
    uint32_t n_tiles, tiles_per_block;
    uint32_t n_panels, group, n_groups; /* of outputs: for GATE those of gate alone */
};

/* out = finish(x · weightᵀ) */
void cpu_product_run(struct cpu_product *product);

/* The product that ends a half of the layer: added to hidden as it is, or by way of a norm. */
struct cpu_residual {
    struct cpu_product *product;
    const struct kernel_weight *norm; /* NULL: none */
    float norm_eps;
    float *y;      /* [n_rows][hidden], room for what is to be normed */
    float *hidden; /* first row */
};

void cpu_residual_run(struct cpu_residual *residual);

#endif
