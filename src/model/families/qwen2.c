/* Qwen2 and Qwen2.5: Llama with a bias on q, k and v. Source: Yang et al. 2024; transformers'
 * Qwen2ForCausalLM. */
#include "model/family.h"

sl_status model_qwen_read_windows(const json_t *root, const char *what, struct model_config *config)
{
    bool window;
    uint64_t first;
    sl_status status = sl_json_bool(root, what, "use_sliding_window", false, &window);
    if (status == SL_OK)
        status = sl_json_uint(root, what, "max_window_layers", 28, 0, KV_LAYERS_MAX, &first);
    if (status != SL_OK || !window)
        return status;
    const struct model_sliding sliding = {
        .fallback = 4096, .has_layer_types = true, .first_layer = (uint32_t)first};
    return model_config_read_windows(root, what, &sliding, config);
}

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    config->attention_bias = true;
    return model_qwen_read_windows(root, what, config);
}

const struct model_family model_family_qwen2 = {
    .name = "qwen2", .configure = configure, .load_layer = model_load_standard_layer};
