/* Products of the CPU backend: rows in blocks, columns in groups of panels.
 *
 * An item is a block of rows by a group of panels; it computes all of K in its own scratch and finishes
 * its outputs (bias, residual, activation, cap) from there, so nothing depends on who takes it. A row is
 * computed the same among few and among many: skinny.c and gemm.c run the same chain. */
#include "kernels/cpu/product.h"

#include "base/min.h"

#include <string.h>

/* A region that takes less than this many multiply-adds is not worth waking anybody for. */
#define REGION_MIN 50000

void cpu_region(struct kernel_context *context,
                void (*fn)(void *arg, uint32_t item, uint32_t thread), void *arg, uint32_t n_items,
                uint64_t work)
{
    if (work >= REGION_MIN) {
        cpu_team_run(context->team, fn, arg, n_items);
        return;
    }
    for (uint32_t i = 0; i < n_items; i++)
        fn(arg, i, 0);
}

static void prepare_tile(void *arg, uint32_t tile, uint32_t thread)
{
    (void)thread;
    const struct cpu_product *p = arg;
    const struct cpu_path *path = p->context->path;
    uint32_t k = p->weight->k, first = tile * p->rows.per_tile;
    uint32_t n = sl_min_u32(p->rows.per_tile, p->n_rows - first);
    for (uint32_t row = first; p->rows.x == p->x && row < first + n; row++) {
        size_t source = p->from_rows != NULL ? p->from_rows[row] : row;
        const float *from = p->from + source * p->from_stride;
        if (p->norm != NULL)
            path->rms_norm(from, p->norm->data, k, p->norm_eps, p->x + (size_t)row * k);
        else
            memcpy(p->x + (size_t)row * k, from, k * sizeof(float));
    }
    if (!p->skinny)
        path->pack_tile(p->rows.x + first * p->rows.stride, p->rows.stride, n, k,
                        p->packed + (size_t)tile * k * path->tile_rows);
}

/* Columns [column, column + n) of the item's rows, from scratch c to where they belong. */
static void finish_block(const struct cpu_product *p, uint32_t first_row, uint32_t n_rows,
                         uint32_t column, uint32_t n, const float *c, const float *up,
                         size_t c_stride)
{
    const struct cpu_path *path = p->context->path;
    const float *bias = p->bias == NULL ? NULL : (const float *)p->bias->data + column;
    for (uint32_t i = 0; i < n_rows; i++, c += c_stride, up += c_stride) {
        size_t row = first_row + i, to = p->finish == CPU_FINISH_WEIGHTED ? p->out_rows[row] : row;
        float *out = p->out + to * p->out_stride + column;
        if (p->finish == CPU_FINISH_WEIGHTED)
            path->add_scaled(c, p->weights[row], n, out);
        else if (p->finish == CPU_FINISH_GATE)
            path->gate(p->activation, c, up, n, out);
        else if (p->finish == CPU_FINISH_ADD)
            path->add(c, bias, n, out);
        else
            path->store(c, bias, n, out);
        if (p->softcap > 0)
            path->softcap(out, n, p->softcap);
    }
}

static void multiply(const struct cpu_product *p, uint32_t first_tile, uint32_t n_tiles,
                     uint32_t first_panel, uint32_t n_panels, float *c, size_t c_stride,
                     float *wide)
{
    if (p->skinny)
        p->context->path->skinny(&p->rows, p->weight, first_panel, n_panels, c, c_stride);
    else
        p->context->path->gemm(&p->rows, first_tile, n_tiles, p->weight, first_panel, n_panels, c,
                               c_stride, wide);
}

static void product_item(void *arg, uint32_t item, uint32_t thread)
{
    const struct cpu_product *p = arg;
    struct cpu_scratch *scratch = &p->context->scratch[thread];
    uint32_t panel = p->weight->panel;
    uint32_t first_tile = item / p->n_groups * p->tiles_per_block;
    uint32_t n_tiles = sl_min_u32(p->tiles_per_block, p->n_tiles - first_tile);
    uint32_t first_row = first_tile * p->rows.per_tile;
    uint32_t n_rows = sl_min_u32(n_tiles * p->rows.per_tile, p->n_rows - first_row);
    uint32_t first = item % p->n_groups * p->group, n = sl_min_u32(p->group, p->n_panels - first);
    uint32_t width = p->finish == CPU_FINISH_GATE ? p->weight->n / 2 : p->weight->n;
    uint32_t column = first * panel, n_columns = sl_min_u32(n * panel, width - column);

    /* gate's columns are whole panels, up's the same columns further on: perhaps one panel more */
    uint32_t up_first = 0, up_n = 0, up_skip = 0;
    if (p->finish == CPU_FINISH_GATE) {
        up_first = (width + column) / panel;
        up_skip = (width + column) % panel;
        up_n = (up_skip + n_columns + panel - 1) / panel;
    }
    size_t c_stride = (size_t)(n + up_n) * panel;
    SL_ASSERT(n_rows * c_stride <= scratch->c_floats);
    float *up = scratch->c + (size_t)n * panel;
    multiply(p, first_tile, n_tiles, first, n, scratch->c, c_stride, scratch->wide);
    if (up_n > 0)
        multiply(p, first_tile, n_tiles, up_first, up_n, up, c_stride, scratch->wide);
    finish_block(p, first_row, n_rows, column, n_columns, scratch->c, up + up_skip, c_stride);
}

/* Rows in tiles of even height, tiles in blocks of even size, panels in groups. */
void cpu_product_run(struct cpu_product *p)
{
    struct kernel_context *context = p->context;
    const struct cpu_path *path = context->path;
    const struct kernel_weight *w = p->weight;
    if (p->n_rows == 0)
        return;
    p->skinny = p->n_rows <= path->tile_rows;
    p->n_tiles = (p->n_rows + path->tile_rows - 1) / path->tile_rows;
    uint32_t per_tile = (p->n_rows + p->n_tiles - 1) / p->n_tiles;
    p->n_tiles = (p->n_rows + per_tile - 1) / per_tile;
    bool own = p->norm != NULL || p->from_rows != NULL;
    p->rows = (struct cpu_rows){.x = own ? p->x : p->from,
                                .stride = own ? w->k : p->from_stride,
                                .packed = p->packed,
                                .n_rows = p->n_rows,
                                .per_tile = per_tile,
                                .k = w->k};
    uint32_t block_tiles = CPU_BLOCK_ROWS / per_tile;
    uint32_t n_blocks = (p->n_tiles + block_tiles - 1) / block_tiles;
    p->tiles_per_block = (p->n_tiles + n_blocks - 1) / n_blocks;
    n_blocks = (p->n_tiles + p->tiles_per_block - 1) / p->tiles_per_block;

    uint32_t columns = p->finish == CPU_FINISH_GATE ? w->n / 2 : w->n;
    p->n_panels = (columns + w->panel - 1) / w->panel;
    p->group = p->finish == CPU_FINISH_GATE ? CPU_GROUP_BLOCK / 2 : CPU_GROUP_BLOCK;
    if (p->skinny) { /* about 4 items per thread, when that leaves 4 panels each */
        uint32_t even = p->n_panels / (4 * cpu_team_threads(context->team));
        p->group = even < 4 ? 4 : even > CPU_GROUP_SKINNY ? CPU_GROUP_SKINNY : even / 4 * 4;
    }
    p->n_groups = (p->n_panels + p->group - 1) / p->group;

    if (own || !p->skinny)
        cpu_region(context, prepare_tile, p, p->n_tiles, (uint64_t)p->n_rows * w->k);
    cpu_region(context, product_item, p, n_blocks * p->n_groups, (uint64_t)p->n_rows * w->k * w->n);
}

static void residual_row(void *arg, uint32_t row, uint32_t thread)
{
    (void)thread;
    const struct cpu_residual *r = arg;
    const struct cpu_path *path = r->product->context->path;
    uint32_t n = r->product->weight->n;
    float *y = r->y + (size_t)row * n;
    path->rms_norm(y, r->norm->data, n, r->norm_eps, y);
    path->add(y, NULL, n, r->hidden + (size_t)row * n);
}

void cpu_residual_run(struct cpu_residual *r)
{
    struct cpu_product *p = r->product;
    p->finish = r->norm == NULL ? CPU_FINISH_ADD : CPU_FINISH_STORE;
    p->out = r->norm == NULL ? r->hidden : r->y;
    p->out_stride = p->weight->n;
    cpu_product_run(p);
    if (r->norm != NULL)
        cpu_region(p->context, residual_row, r, p->n_rows, (uint64_t)p->n_rows * p->weight->n * 4);
}
