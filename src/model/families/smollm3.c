/* SmolLM3: Llama, some of whose layers (no_rope_layers[i] == 0; else every fourth) do not rotate q and
 * k. Source: transformers' SmolLM3ForCausalLM; Yang et al. 2025 (NoPE). */
#include "model/family.h"

/* no_rope_layers: 1 where a layer rotates, one number per layer. */
static sl_status read_list(const json_t *list, const char *what, struct model_config *config)
{
    if (!json_is_array(list) || json_array_size(list) != config->n_layers)
        return sl_fail(SL_INVALID, "%s: no_rope_layers must be a list of %u numbers", what,
                       config->n_layers);
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (json_integer_value(json_array_get(list, i)) == 0)
            config->rope_of[i] = MODEL_ROPE_NONE;
    return SL_OK;
}

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    uint64_t interval;
    sl_status status =
        sl_json_uint(root, what, "no_rope_layer_interval", 4, 1, KV_LAYERS_MAX, &interval);
    if (status == SL_OK)
        status = model_config_refuse(root, what, "use_sliding_window");
    if (status == SL_OK)
        status = model_config_refuse(root, what, "mlp_bias");
    if (status == SL_OK)
        status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    if (status != SL_OK)
        return status;
    config->out_bias = config->attention_bias;
    const json_t *list = json_object_get(root, "no_rope_layers");
    if (list != NULL && !json_is_null(list))
        return read_list(list, what, config);
    for (uint32_t i = 0; i < config->n_layers; i++)
        if ((i + 1) % interval == 0)
            config->rope_of[i] = MODEL_ROPE_NONE;
    return SL_OK;
}

const struct model_family model_family_smollm3 = {
    .name = "smollm3", .configure = configure, .load_layer = model_load_standard_layer};
