/* Matrix product for few rows (a decode step): one pass over the weights, straight from memory,
 * compiled once per path.
 *
 * Up to tile_rows rows share the pass. Several panels go side by side when there are registers for it,
 * so that the chains of fused products are long enough to hide their latency: an output remains the
 * one chain of gemm.c. Weights are read once and in order within each panel; they are prefetched
 * PREFETCH bytes ahead, over the end of the panel into the one that follows in memory.
 *
 * Seen on a busy two-core Zen 3 (AVX2, bf16): 0.9 to 1.0 of the read bandwidth for 1 and 2 rows, 0.7 to
 * 0.9 for 4. One panel alone would be held to two chains of four cycles a step. With f32 products the
 * ridge lies near 5 rows there, so from tile_rows on gemm.c is as near its floor as this can be. */
#include "kernels/cpu/path.h"

#define PREFETCH 4096

/* R rows, P panels side by side. */
CPU_INLINE void pass(const int R, const int P, const bool bf16, const struct cpu_rows *rows,
                     const struct kernel_weight *weight, uint32_t panel, float *c, size_t c_stride)
{
    enum { VECTORS_MAX = 8 };
    vf acc[CPU_TILE_ROWS][VECTORS_MAX];
    const size_t bytes = bf16 ? 2 : 4;
    const char *w[VECTORS_MAX / 2];
    for (int p = 0; p < P; p++)
        w[p] = (const char *)weight->data + (size_t)(panel + p) * weight->k * CPU_PANEL * bytes;
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2 * P; j++)
            acc[r][j] = v_zero();
    const float *x = rows->x;
    const size_t stride = rows->stride;
    for (uint32_t k = 0; k < weight->k; k++) {
        vf v[VECTORS_MAX];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
            __builtin_prefetch(w[p] + PREFETCH, 0, 3);
            if (!bf16)
                __builtin_prefetch(w[p] + PREFETCH + CPU_VL * 4, 0, 3);
            for (int j = 0; j < 2; j++) {
                const char *from = w[p] + (size_t)j * CPU_VL * bytes;
                v[2 * p + j] = bf16 ? v_load_bf16((const uint16_t *)(const void *)from)
                                    : v_load((const float *)(const void *)from);
            }
            w[p] += CPU_PANEL * bytes;
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            vf xr = v_set1(x[(size_t)r * stride + k]);
#pragma GCC unroll 8
            for (int j = 0; j < 2 * P; j++)
                acc[r][j] = v_fma(xr, v[j], acc[r][j]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2 * P; j++)
            v_store(c + (size_t)r * c_stride + (size_t)j * CPU_VL, acc[r][j]);
}

/* Panels side by side for R rows. */
#define SIDE(R) (8 * (R) <= CPU_ACC_MAX ? 4 : 4 * (R) <= CPU_ACC_MAX ? 2 : 1)

CPU_INLINE void passes(const int R, const bool bf16, const struct cpu_rows *rows,
                       const struct kernel_weight *weight, uint32_t first_panel, uint32_t n_panels,
                       float *c, size_t c_stride)
{
    uint32_t p = 0;
    for (; p + SIDE(R) <= n_panels; p += SIDE(R))
        pass(R, SIDE(R), bf16, rows, weight, first_panel + p, c + (size_t)p * CPU_PANEL, c_stride);
    if (SIDE(R) > 1)
        for (; p < n_panels; p++)
            pass(R, 1, bf16, rows, weight, first_panel + p, c + (size_t)p * CPU_PANEL, c_stride);
}

#define EACH_ROWS_6(M) M(1) M(2) M(3) M(4) M(5) M(6)
#if CPU_TILE_ROWS > 6
#define EACH_ROWS(M) EACH_ROWS_6(M) M(7) M(8) M(9) M(10) M(11) M(12)
#else
#define EACH_ROWS(M) EACH_ROWS_6(M)
#endif

/* One function per number of rows and element, so that each has its own registers. */
#define DEFINE(R)                                                                                  \
    static void rows_##R(bool bf16, const struct cpu_rows *rows,                                   \
                         const struct kernel_weight *weight, uint32_t first_panel,                 \
                         uint32_t n_panels, float *c, size_t c_stride)                             \
    {                                                                                              \
        if (bf16)                                                                                  \
            passes(R, true, rows, weight, first_panel, n_panels, c, c_stride);                     \
        else                                                                                       \
            passes(R, false, rows, weight, first_panel, n_panels, c, c_stride);                    \
    }
EACH_ROWS(DEFINE)

void CPU_NAME(cpu_skinny)(const struct cpu_rows *rows, const struct kernel_weight *weight,
                          uint32_t first_panel, uint32_t n_panels, float *c, size_t c_stride)
{
    bool bf16 = weight->element == KERNEL_BF16;
    switch (rows->n_rows) {
#define CASE(R)                                                                                    \
    case R:                                                                                        \
        rows_##R(bf16, rows, weight, first_panel, n_panels, c, c_stride);                          \
        break;
        EACH_ROWS(CASE)
    default:
        SL_ASSERT(rows->n_rows == 0);
    }
}
