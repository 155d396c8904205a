/* The choice of a backend, and the checks and decisions that all of them share. */
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
    if (shape->n_experts > KERNEL_EXPERTS_MAX)
        return sl_fail(SL_INVALID, "kernels: n_experts %u; want at most %d", shape->n_experts,
                       KERNEL_EXPERTS_MAX);
    if (shape->n_experts > 0) {
        uint32_t most = shape->n_experts < KERNEL_CHOSEN_MAX ? shape->n_experts : KERNEL_CHOSEN_MAX;
        sl_status status = check_range("n_chosen", shape->n_chosen, most);
        if (status == SL_OK)
            status = check_range("expert_hidden", shape->expert_hidden, 1u << 22);
        if (status != SL_OK)
            return status;
    }
    if (shape->head_dim % 2 != 0)
        return sl_fail(SL_INVALID, "kernels: head_dim %u; want an even number", shape->head_dim);
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

/* The n_chosen largest in descending order, of equal ones the first. Always as many: NaN among them
 * makes the row's weights NaN, whatever is chosen. */
static void find_largest(const struct kernel_choice *choice, const float *exps, uint32_t *largest)
{
    for (uint32_t e = 0; e < choice->n_experts; e++) {
        uint32_t at = e < choice->n_chosen ? e : choice->n_chosen;
        while (at > 0 && exps[e] > exps[largest[at - 1]]) {
            if (at < choice->n_chosen)
                largest[at] = largest[at - 1];
            at--;
        }
        if (at < choice->n_chosen)
            largest[at] = e;
    }
}

static void sort_ascending(uint32_t *values, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        uint32_t value = values[i], at = i;
        for (; at > 0 && values[at - 1] > value; at--)
            values[at] = values[at - 1];
        values[at] = value;
    }
}

void kernel_choose_experts(const struct kernel_choice *choice, const float *exps,
                           uint32_t *chosen_out, float *weights_out)
{
    float sum = 0, chosen_sum = 0;
    find_largest(choice, exps, chosen_out);
    sort_ascending(chosen_out, choice->n_chosen);
    for (uint32_t e = 0; e < choice->n_experts; e++)
        sum += exps[e];
    for (uint32_t i = 0; i < choice->n_chosen; i++)
        chosen_sum += weights_out[i] = exps[chosen_out[i]] / sum;
    for (uint32_t i = 0; i < choice->n_chosen && choice->renormalise; i++)
        weights_out[i] /= chosen_sum;
}
