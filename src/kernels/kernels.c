/* The choice of a backend, and the checks that all of them share. */
#include "kernels/kernels.h"

#include "kernels/element.h"

#include <string.h>

sl_status kernel_ops_find(const char *name, const struct kernel_ops **ops_out)
{
    static const struct kernel_ops *const all[] = {&kernel_ref_ops, &kernel_cpu_ops};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (strcmp(all[i]->name, name) == 0) {
            *ops_out = all[i];
            return SL_OK;
        }
    if (strcmp(name, "cuda") == 0)
        return sl_fail(SL_UNSUPPORTED, "kernels: cuda is not in this build (-DSLUICE_CUDA=ON)");
    return sl_fail(SL_NOT_FOUND, "kernels: no backend '%s'; want ref, cpu or cuda", name);
}

static sl_status check_range(const char *field, uint32_t value, uint32_t max)
{
    if (value == 0 || value > max)
        return sl_fail(SL_INVALID, "kernels: %s %u; want 1..%u", field, value, max);
    return SL_OK;
}

sl_status kernel_shape_check(const struct kernel_shape *shape)
{
    const struct {
        const char *name;
        uint32_t value, max;
    } fields[] = {
        {"hidden", shape->hidden, 1u << 20},
        {"n_kv_heads", shape->n_kv_heads, 1u << 12},
        {"n_q_heads", shape->n_q_heads, 1u << 12},
        {"head_dim", shape->head_dim, KERNEL_HEAD_DIM_MAX},
        {"mlp_hidden", shape->mlp_hidden, 1u << 22},
        {"vocab", shape->vocab, 1u << 24},
        {"rows_max", shape->rows_max, KERNEL_ROWS_MAX},
        {"seqs_max", shape->seqs_max, KERNEL_ROWS_MAX},
        {"logits_max", shape->logits_max, KERNEL_ROWS_MAX},
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        sl_status status = check_range(fields[i].name, fields[i].value, fields[i].max);
        if (status != SL_OK)
            return status;
    }
    if (shape->head_dim % 8 != 0)
        return sl_fail(SL_INVALID, "kernels: head_dim %u; want a multiple of 8", shape->head_dim);
    if (shape->n_q_heads % shape->n_kv_heads != 0)
        return sl_fail(SL_INVALID, "kernels: n_q_heads %u; want a multiple of n_kv_heads %u",
                       shape->n_q_heads, shape->n_kv_heads);
    return SL_OK;
}

sl_status kernel_sources_check(enum kernel_weight_use use,
                               const struct kernel_weight_source *sources, uint32_t n_sources,
                               uint32_t *n_out)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < n_sources; i++) {
        if (sources[i].n == 0 || sources[i].k == 0 || sources[i].k != sources[0].k)
            return sl_fail(SL_INVALID, "weight source %u is %u x %u; want k %u", i, sources[i].n,
                           sources[i].k, sources[0].k);
        if ((unsigned)sources[i].element > KERNEL_F16)
            return sl_fail(SL_INVALID, "weight source %u: element type %d", i,
                           (int)sources[i].element);
        n += sources[i].n;
    }
    if (n == 0 || n > UINT32_MAX / 2)
        return sl_fail(SL_INVALID, "weight of %u sources has %llu rows", n_sources,
                       (unsigned long long)n);
    if (use == KERNEL_WEIGHT_VECTOR && sources[0].k != 1)
        return sl_fail(SL_INVALID, "vector weight with k %u; want 1", sources[0].k);
    *n_out = (uint32_t)n;
    return SL_OK;
}
