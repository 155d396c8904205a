/* Qwen2 and Qwen2.5: Llama with a bias on q, k and v. Source: Yang et al. 2024; transformers'
 * Qwen2ForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    bool window;
    sl_status status = sl_json_bool(root, what, "use_sliding_window", false, &window);
    if (status != SL_OK)
        return status;
    if (window) {
        uint64_t first;
        status = sl_json_uint(root, what, "max_window_layers", 28, 0, KV_LAYERS_MAX, &first);
        if (status == SL_OK)
            status = model_config_read_window(root, what, config);
        if (status != SL_OK)
            return status;
        config->window_first_layer = (uint32_t)first;
    }
    config->attention_bias = true;
    return SL_OK;
}

static sl_status load_layer(struct model_loader *loader, uint32_t index, struct model_layer *layer)
{
    (void)index;
    return model_load_standard_layer(loader, layer);
}

const struct model_family model_family_qwen2 = {
    .name = "qwen2", .configure = configure, .load_layer = load_layer};
