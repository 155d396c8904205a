/* Qwen3 with experts: Qwen3 whose layers have a router and num_experts small MLPs, of which each token
 * takes num_experts_per_tok, in place of the one; but for the layers of mlp_only_layers and those that
 * decoder_sparse_step passes over. Source: Yang et al. 2025; transformers' Qwen3MoeForCausalLM. */
#include "model/family.h"

/* Marks the layers that have experts. */
static sl_status read_layers(const json_t *root, const char *what, struct model_config *config)
{
    uint64_t step;
    const json_t *dense = json_object_get(root, "mlp_only_layers");
    sl_status status = sl_json_uint(root, what, "decoder_sparse_step", 1, 1, KV_LAYERS_MAX, &step);
    if (status != SL_OK)
        return status;
    for (uint32_t i = 0; i < config->n_layers; i++)
        config->has_experts[i] = (i + 1) % step == 0;
    if (dense == NULL || json_is_null(dense))
        return SL_OK;
    if (!json_is_array(dense))
        return sl_fail(SL_INVALID, "%s: mlp_only_layers must be a list of layers", what);
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *layer = json_array_get(dense, i);
        json_int_t index = json_integer_value(layer);
        if (!json_is_integer(layer) || index < 0 || index >= (json_int_t)config->n_layers)
            return sl_fail(SL_INVALID, "%s: mlp_only_layers[%zu] must be a layer below %u", what, i,
                           config->n_layers);
        config->has_experts[index] = 0;
    }
    return SL_OK;
}

static sl_status read_sizes(const json_t *root, const char *what, struct model_config *config)
{
    uint64_t n_experts, n_chosen, hidden;
    /* transformers 5 may write the one under the other's name */
    sl_status status =
        sl_json_uint(root, what, "num_local_experts", 128, 1, KERNEL_EXPERTS_MAX, &n_experts);
    if (status == SL_OK)
        status =
            sl_json_uint(root, what, "num_experts", n_experts, 1, KERNEL_EXPERTS_MAX, &n_experts);
    if (status == SL_OK)
        status =
            sl_json_uint(root, what, "num_experts_per_tok", 8, 1, KERNEL_CHOSEN_MAX, &n_chosen);
    if (status == SL_OK)
        status = sl_json_uint(root, what, "moe_intermediate_size", 768, 1, 1u << 20, &hidden);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "norm_topk_prob", false, &config->renormalise);
    if (status != SL_OK)
        return status;
    if (n_chosen > n_experts)
        return sl_fail(SL_INVALID, "%s: num_experts_per_tok is %u; want at most num_experts %u",
                       what, (uint32_t)n_chosen, (uint32_t)n_experts);
    config->n_experts = (uint32_t)n_experts;
    config->n_chosen = (uint32_t)n_chosen;
    config->expert_hidden = (uint32_t)hidden;
    return SL_OK;
}

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    bool window;
    const struct model_sliding sliding = {.fallback = 4096};
    sl_status status = read_sizes(root, what, config);
    if (status == SL_OK)
        status = read_layers(root, what, config);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "use_sliding_window", false, &window);
    if (status == SL_OK && window)
        status = model_config_read_windows(root, what, &sliding, config);
    config->out_bias = config->attention_bias;
    config->qk_norm = MODEL_QK_NORM_HEAD;
    return status;
}

const struct model_family model_family_qwen3_moe = {
    .name = "qwen3_moe", .configure = configure, .load_layer = model_load_standard_layer};
