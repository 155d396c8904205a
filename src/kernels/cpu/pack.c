/* Weights in the layouts of cpu.h: packed once at load, by the team, never changed.
 *
 * A panel holds two vectors of outputs side by side and runs along k, so a product walks it in order
 * with one broadcast activation per step, and a panel is one sequential stream for the prefetchers.
 * bf16 stays bf16 (half the bytes of a decode step, and exact); f16 is widened, since its range does
 * not fit bf16. Columns that pad the last panel are zero and their outputs are never stored. */
#include "kernels/cpu/cpu.h"

#include "base/mem.h"

#include <string.h>

#define PACK_DEPTH 64 /* k that is copied for all columns before the next */

struct pack {
    struct kernel_weight *weight;
    const struct kernel_weight_source *sources;
};

/* The source of stacked row n, and the row within it. */
static const struct kernel_weight_source *source_of(const struct pack *pack, uint32_t *n)
{
    uint32_t s = 0;
    while (*n >= pack->sources[s].n)
        *n -= pack->sources[s++].n;
    return &pack->sources[s];
}

static void pack_panel(void *arg, uint32_t panel, uint32_t thread)
{
    (void)thread;
    const struct pack *pack = arg;
    struct kernel_weight *weight = pack->weight;
    uint32_t width = weight->panel, k = weight->k;
    uint32_t columns = weight->n - panel * width < width ? weight->n - panel * width : width;
    size_t base = (size_t)panel * k * width;
    for (uint32_t k0 = 0; k0 < k; k0 += PACK_DEPTH) {
        uint32_t k1 = k - k0 < PACK_DEPTH ? k : k0 + PACK_DEPTH;
        for (uint32_t j = 0; j < columns; j++) {
            uint32_t row = panel * width + j;
            const struct kernel_weight_source *source = source_of(pack, &row);
            size_t from = (size_t)row * k, to = base + j;
            if (weight->element == KERNEL_BF16)
                for (uint32_t i = k0; i < k1; i++)
                    ((uint16_t *)weight->data)[to + (size_t)i * width] =
                        ((const uint16_t *)source->data)[from + i];
            else
                for (uint32_t i = k0; i < k1; i++)
                    ((float *)weight->data)[to + (size_t)i * width] =
                        kernel_source_at(source, from + i);
        }
    }
}

/* Row-major; one item is one source. */
static void copy_source(void *arg, uint32_t index, uint32_t thread)
{
    (void)thread;
    const struct pack *pack = arg;
    const struct kernel_weight_source *source = &pack->sources[index];
    size_t first = 0, n = (size_t)source->n * source->k;
    for (uint32_t s = 0; s < index; s++)
        first += (size_t)pack->sources[s].n * source->k;
    if (pack->weight->element == KERNEL_BF16)
        memcpy((uint16_t *)pack->weight->data + first, source->data, n * sizeof(uint16_t));
    else
        for (size_t i = 0; i < n; i++)
            ((float *)pack->weight->data)[first + i] = kernel_source_at(source, i);
}

sl_status cpu_weight_pack(struct cpu_team *team, uint32_t panel, enum kernel_weight_use use,
                          const struct kernel_weight_source *sources, uint32_t n_sources,
                          struct kernel_weight **weight_out)
{
    uint32_t n, k = n_sources == 0 ? 0 : sources[0].k;
    sl_status status = kernel_sources_check(use, sources, n_sources, &n);
    if (status != SL_OK)
        return status;
    bool bf16 = use != KERNEL_WEIGHT_VECTOR;
    for (uint32_t i = 0; i < n_sources; i++)
        bf16 = bf16 && sources[i].element == KERNEL_BF16;

    struct kernel_weight *weight = sl_zalloc(1, sizeof(*weight));
    *weight = (struct kernel_weight){.use = use,
                                     .element = bf16 ? KERNEL_BF16 : KERNEL_F32,
                                     .n = n,
                                     .k = k,
                                     .panel = panel,
                                     .n_panels = (n + panel - 1) / panel};
    size_t rows = use == KERNEL_WEIGHT_MATRIX ? (size_t)weight->n_panels * panel : n;
    size_t bytes = rows * k * (bf16 ? 2 : 4);
    weight->data = sl_try_aligned(64, bytes);
    if (weight->data == NULL) {
        cpu_weight_free(weight);
        return sl_fail(SL_NO_MEMORY, "weight of %u x %u, %zu bytes", n, k, bytes);
    }
    struct pack pack = {weight, sources};
    if (use == KERNEL_WEIGHT_MATRIX)
        cpu_team_run(team, pack_panel, &pack, weight->n_panels);
    else
        cpu_team_run(team, copy_source, &pack, n_sources);
    *weight_out = weight;
    return SL_OK;
}

void cpu_weight_free(struct kernel_weight *weight)
{
    if (weight == NULL)
        return;
    sl_free(weight->data);
    sl_free(weight);
}

void cpu_weight_row(const struct kernel_weight *weight, uint32_t index, float scale, float *out)
{
    bool matrix = weight->use == KERNEL_WEIGHT_MATRIX;
    size_t step = matrix ? weight->panel : 1;
    size_t at =
        matrix ? (size_t)(index / weight->panel) * weight->k * weight->panel + index % weight->panel
               : (size_t)index * weight->k;
    for (uint32_t i = 0; i < weight->k; i++, at += step)
        out[i] = scale * (weight->element == KERNEL_BF16
                              ? kernel_from_bf16(((const uint16_t *)weight->data)[at])
                              : ((const float *)weight->data)[at]);
}
