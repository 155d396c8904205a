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
 * The weights that come next are prefetched while the tiles of this panel run, a line every few steps.
 *
 * Tried, as shares of the f32 peak before and after on a busy two-core Zen 3 (AVX2; CPU time of one
 * thread, so to be taken as a comparison only; bench/results has the record):
 *   - prefetching in a burst before each tile, and always all panels over one depth: 0.43 at 16 rows;
 *     spread over the steps, and few rows walking each panel to its end: 0.76. No change from 128 rows
 *     up (0.7 to 0.85).
 * Not measured: widening inside the tile instead of once per panel (two conversions more in every step,
 * on the ports of the products). */
#include "kernels/cpu/path.h"

#define LINE      64
#define FEW_TILES 4

/* One step of k for R rows. */
CPU_INLINE void step(const int R, const float *a, const float *b, vf acc[][2])
{
    vf b0 = v_load(b), b1 = v_load(b + CPU_VL);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        vf x = v_set1(a[r]);
        acc[r][0] = v_fma(x, b0, acc[r][0]);
        acc[r][1] = v_fma(x, b1, acc[r][1]);
    }
}

/* One tile: R rows, depth steps; a advances by tile_rows, b by a panel. Every fourth step prefetches
 * what the next panel needs: next, next + next_step, … */
CPU_INLINE void tile(const int R, const float *a, const float *b, uint32_t depth, float *c,
                     size_t c_stride, bool first, const char *next, size_t next_step)
{
    vf acc[CPU_TILE_ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++)
            acc[r][j] = first ? v_zero() : v_load(c + (size_t)r * c_stride + j * CPU_VL);
    uint32_t k = 0;
    for (; k + 4 <= depth; k += 4) {
        __builtin_prefetch(next, 0, 2);
        next += next_step;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            step(R, a + i * CPU_TILE_ROWS, b + i * CPU_PANEL, acc);
        a += 4 * CPU_TILE_ROWS;
        b += 4 * CPU_PANEL;
    }
    for (; k < depth; k++, a += CPU_TILE_ROWS, b += CPU_PANEL)
        step(R, a, b, acc);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++)
            v_store(c + (size_t)r * c_stride + j * CPU_VL, acc[r][j]);
}

static void tile_of(uint32_t n, const float *a, const float *b, uint32_t depth, float *c,
                    size_t c_stride, bool first, const char *next, size_t next_step)
{
    switch (n) {
#define CASE(R)                                                                                    \
    case R:                                                                                        \
        tile(R, a, b, depth, c, c_stride, first, next, next_step);                                 \
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

/* All tiles of the block over one depth of one panel; [next, next + next_bytes) is what follows. */
static void panel_depth(const struct cpu_rows *rows, uint32_t first_tile, uint32_t n_tiles,
                        uint32_t k0, uint32_t depth, const float *b, float *c, size_t c_stride,
                        const char *next, size_t next_bytes)
{
    /* Lines per prefetch point: 1, or more when few tiles must fetch all. */
    size_t points = (size_t)n_tiles * (depth / 4), lines = next_bytes / LINE;
    size_t stride = lines > points ? 2 * LINE : LINE; /* the adjacent line comes along */
    const char *end = next + next_bytes;
    for (uint32_t t = 0; t < n_tiles; t++) {
        uint32_t row = (first_tile + t) * rows->per_tile;
        uint32_t n = rows->n_rows - row < rows->per_tile ? rows->n_rows - row : rows->per_tile;
        const float *a = rows->packed + ((size_t)(first_tile + t) * rows->k + k0) * CPU_TILE_ROWS;
        bool fetch = next < end;
        tile_of(n, a, b, depth, c + (size_t)t * rows->per_tile * c_stride, c_stride, k0 == 0,
                fetch ? next : (const char *)a, fetch ? stride : 0);
        next += (depth / 4) * stride;
    }
}

struct place {
    uint32_t k0, panel;
};

/* The order of work. With few tiles the packed rows stay in cache whole, and a panel is walked to its
 * end, as it lies in memory; with many, all panels of the group go over one depth of the rows. */
static bool advance(struct place *at, uint32_t k, uint32_t n_panels, bool few)
{
    if (few) {
        at->k0 += CPU_DEPTH;
        if (at->k0 < k)
            return true;
        at->k0 = 0;
        return ++at->panel < n_panels;
    }
    if (++at->panel < n_panels)
        return true;
    at->panel = 0;
    at->k0 += CPU_DEPTH;
    return at->k0 < k;
}

void CPU_NAME(cpu_gemm)(const struct cpu_rows *rows, uint32_t first_tile, uint32_t n_tiles,
                        const struct kernel_weight *weight, uint32_t first_panel, uint32_t n_panels,
                        float *c, size_t c_stride, float *wide)
{
    const size_t bytes = weight->element == KERNEL_BF16 ? 2 : 4;
    const uint32_t k = weight->k;
    struct place at = {0, 0};
    bool more = n_panels > 0;
    while (more) {
        struct place now = at;
        uint32_t depth = k - now.k0 < CPU_DEPTH ? k - now.k0 : CPU_DEPTH;
        more = advance(&at, k, n_panels, n_tiles <= FEW_TILES);
        size_t from = ((size_t)(first_panel + now.panel) * k + now.k0) * CPU_PANEL;
        size_t next = ((size_t)(first_panel + at.panel) * k + at.k0) * CPU_PANEL;
        uint32_t next_depth = k - at.k0 < CPU_DEPTH ? k - at.k0 : CPU_DEPTH;
        const float *b = (const float *)weight->data + from;
        if (weight->element == KERNEL_BF16) {
            widen(weight, from, (size_t)depth * CPU_PANEL, wide);
            b = wide;
        }
        panel_depth(rows, first_tile, n_tiles, now.k0, depth, b, c + (size_t)now.panel * CPU_PANEL,
                    c_stride, (const char *)weight->data + (more ? next : from) * bytes,
                    more ? next_depth * CPU_PANEL * bytes : 0);
    }
}

void CPU_NAME(cpu_pack_tile)(const float *x, size_t stride, uint32_t n, uint32_t k, float *out)
{
    for (uint32_t i = 0; i < k; i++)
        for (uint32_t r = 0; r < n; r++)
            out[(size_t)i * CPU_TILE_ROWS + r] = x[r * stride + i];
}
