/* Llama 2 and 3.x, and what calls itself so (TinyLlama, SmolLM2, …). Source: Touvron et al. 2023;
 * transformers' LlamaForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    bool mlp_bias;
    sl_status status = sl_json_bool(root, what, "mlp_bias", false, &mlp_bias);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    if (status != SL_OK)
        return status;
    config->out_bias = config->attention_bias;
    if (mlp_bias)
        return sl_fail(SL_UNSUPPORTED, "%s: mlp_bias is true; want false", what);
    return SL_OK;
}

static sl_status load_layer(struct model_loader *loader, uint32_t index, struct model_layer *layer)
{
    (void)index;
    return model_load_standard_layer(loader, layer);
}

const struct model_family model_family_llama = {
    .name = "llama", .configure = configure, .load_layer = load_layer};
