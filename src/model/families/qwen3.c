/* Qwen3 (dense): each head of q and k goes through an RMS norm of its own before it is rotated; the
 * head size is free of hidden_size. Source: Yang et al. 2025; transformers' Qwen3ForCausalLM. */
#include "model/family.h"

#include <math.h>

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    bool window;
    sl_status status = sl_json_bool(root, what, "use_sliding_window", false, &window);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
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
    const json_t *head_dim = json_object_get(root, "head_dim");
    if (head_dim == NULL || json_is_null(head_dim)) {
        config->head_dim = 128; /* transformers' default, not hidden_size / heads */
        config->attention_scale = 1 / sqrt(128.0);
    }
    config->out_bias = config->attention_bias;
    config->qk_norm = true;
    return SL_OK;
}

static sl_status load_layer(struct model_loader *loader, uint32_t index, struct model_layer *layer)
{
    (void)index;
    return model_load_standard_layer(loader, layer);
}

const struct model_family model_family_qwen3 = {
    .name = "qwen3", .configure = configure, .load_layer = load_layer};
