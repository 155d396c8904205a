/* Qwen2 and Qwen2.5: Llama with a bias on q, k and v. Source: Yang et al. 2024; transformers'
 * Qwen2ForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    bool window;
    sl_status status = sl_json_bool(root, what, "use_sliding_window", false, &window);
    if (status != SL_OK)
        return status;
    if (window)
        return sl_fail(SL_UNSUPPORTED, "%s: use_sliding_window is true; want false", what);
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
