/* Matrix product for many rows: c = x · Wᵀ, compiled once per path.
 *
 * Rows lie packed in tiles [tile][k][tile_rows], weights in panels [panel][k][2 vectors]. For every
 * CPU_DEPTH of k, a panel is widened to f32 once into a scratch that stays in the L1 cache, and each
 * tile of the block goes over it with its accumulators in registers: 6 x 16 (AVX2), 12 x 32 (AVX-512),
 * 6 x 8 (portable). Between depths the accumulators live in c, in f32, so an output is the same chain
 *
 *     c = 0;  for k = 0..K-1:  c = fma(x[k], w[k], c)
 *
 * whatever the tile, the block and the number of rows; skinny.c computes the same chain.
 *
 * The next panel's weights are prefetched while the tiles of this one run. */
#include "kernels/cpu/path.h"

#define LINE 64

/* One tile: R rows, depth steps; a advances by tile_rows, b by a panel. */
CPU_INLINE void tile(const int R, const float *a, const float *b, uint32_t depth, float *c,
                     size_t c_stride, bool first)
{
    vf acc[CPU_TILE_ROWS][2];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++)
            acc[r][j] = first ? v_zero() : v_load(c + (size_t)r * c_stride + j * CPU_VL);
    for (uint32_t k = 0; k < depth; k++) {
        vf b0 = v_load(b), b1 = v_load(b + CPU_VL);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            vf x = v_set1(a[r]);
            acc[r][0] = v_fma(x, b0, acc[r][0]);
            acc[r][1] = v_fma(x, b1, acc[r][1]);
        }
        a += CPU_TILE_ROWS;
        b += CPU_PANEL;
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++)
            v_store(c + (size_t)r * c_stride + j * CPU_VL, acc[r][j]);
}

static void tile_of(uint32_t n, const float *a, const float *b, uint32_t depth, float *c,
                    size_t c_stride, bool first)
{
    switch (n) {
#define CASE(R)                                                                                    \
    case R:                                                                                        \
        tile(R, a, b, depth, c, c_stride, first);                                                  \
        break
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
#if CPU_TILE_ROWS > 6
        CASE(7);
        CASE(8);
        CASE(9);
        CASE(10);
        CASE(11);
        CASE(12);
#endif
#undef CASE
    default:
        SL_ASSERT(n <= CPU_TILE_ROWS);
    }
}

static void widen(const struct kernel_weight *weight, size_t at, size_t n, float *wide)
{
    const uint16_t *from = (const uint16_t *)weight->data + at;
    for (size_t i = 0; i < n; i += CPU_VL)
        v_store(wide + i, v_load_bf16(from + i));
}

/* All tiles of the block over one depth of one panel. */
static void panel_depth(const struct cpu_rows *rows, uint32_t first_tile, uint32_t n_tiles,
                        uint32_t k0, uint32_t depth, const float *b, float *c, size_t c_stride,
                        const char *next, size_t next_bytes)
{
    size_t lines = (next_bytes / LINE + n_tiles - 1) / n_tiles;
    for (uint32_t t = 0; t < n_tiles; t++) {
        uint32_t row = (first_tile + t) * rows->per_tile;
        uint32_t n = rows->n_rows - row < rows->per_tile ? rows->n_rows - row : rows->per_tile;
        const float *a = rows->packed + ((size_t)(first_tile + t) * rows->k + k0) * CPU_TILE_ROWS;
        for (size_t l = t * lines; l < (t + 1) * lines && l * LINE < next_bytes; l++)
            __builtin_prefetch(next + l * LINE, 0, 2);
        tile_of(n, a, b, depth, c + (size_t)t * rows->per_tile * c_stride, c_stride, k0 == 0);
    }
}

void CPU_NAME(cpu_gemm)(const struct cpu_rows *rows, uint32_t first_tile, uint32_t n_tiles,
                        const struct kernel_weight *weight, uint32_t first_panel, uint32_t n_panels,
                        float *c, size_t c_stride, float *wide)
{
    size_t bytes = weight->element == KERNEL_BF16 ? 2 : 4;
    for (uint32_t k0 = 0; k0 < weight->k; k0 += CPU_DEPTH) {
        uint32_t depth = weight->k - k0 < CPU_DEPTH ? weight->k - k0 : CPU_DEPTH;
        for (uint32_t p = 0; p < n_panels; p++) {
            size_t at = ((size_t)(first_panel + p) * weight->k + k0) * CPU_PANEL;
            const float *b = (const float *)weight->data + at;
            if (weight->element == KERNEL_BF16) {
                widen(weight, at, (size_t)depth * CPU_PANEL, wide);
                b = wide;
            }
            bool more = p + 1 < n_panels;
            const char *next =
                (const char *)weight->data + (at + (size_t)weight->k * CPU_PANEL) * bytes;
            panel_depth(rows, first_tile, n_tiles, k0, depth, b, c + (size_t)p * CPU_PANEL,
                        c_stride, next, more ? depth * CPU_PANEL * bytes : 0);
        }
    }
}

void CPU_NAME(cpu_pack_tile)(const float *x, size_t stride, uint32_t n, uint32_t k, float *out)
{
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t r = 0; r < n; r++)
            out[(size_t)i * CPU_TILE_ROWS + r] = x[r * stride + i];
}
