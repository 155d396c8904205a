/* Gemma 3, the text model, by itself or within a checkpoint with images: Gemma 2 without the caps, with
 * a norm of each head of q and k, and two ropes. Layers with a window turn by rope_local_base_freq, the
 * others (every sixth) by rope_theta and its scaling. Source: Gemma Team 2025; transformers'
 * Gemma3ForCausalLM and Gemma3ForConditionalGeneration. */
#include "model/family.h"

#define LOCAL 1 /* of config->ropes */

/* Where there is no list of layer_types, every sliding_window_pattern-th layer sees all. */
static sl_status read_layers(const json_t *root, const char *what, struct model_config *config)
{
    uint64_t pattern;
    struct model_gemma2_defaults defaults = {.local_rope = LOCAL};
    sl_status status =
        sl_json_uint(root, what, "sliding_window_pattern", 6, 1, KV_LAYERS_MAX, &pattern);
    if (status != SL_OK)
        return status;
    defaults.full_every = (uint32_t)pattern;
    return model_gemma2_configure(root, what, &defaults, config);
}

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    struct model_rope *local = &config->ropes[LOCAL];
    config->n_ropes = 2;
    config->qk_norm = MODEL_QK_NORM_HEAD;
    local->theta = 10000;
    sl_status status = read_layers(root, what, config);
    if (status == SL_OK)
        status = model_config_read_rope(root, what, "full_attention", config, &config->ropes[0]);
    if (status == SL_OK)
        status = sl_json_number(root, what, "rope_local_base_freq", local->theta, 1, 1e30,
                                &local->theta);
    if (status == SL_OK)
        status = model_config_read_rope(root, what, "sliding_attention", config, local);
    return status;
}

const struct model_family model_family_gemma3 = {
    .name = "gemma3_text",
    .outer_name = "gemma3",
    .is_gelu = true,
    .defaults = {.n_heads = 8,
                 .n_kv_heads = 4,
                 .head_dim = 256,
                 .vocab = 262208,
                 .context_max = 131072,
                 .rope_theta = 1e6},
    .norms = &model_gemma2_norms,
    .configure = configure,
    .load_layer = model_load_standard_layer,
};
