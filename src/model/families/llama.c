/* Llama 2 and 3.x, and what calls itself so (TinyLlama, SmolLM2, …). Source: Touvron et al. 2023;
 * transformers' LlamaForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    sl_status status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    config->out_bias = config->attention_bias;
    return status == SL_OK ? model_config_refuse(root, what, "mlp_bias") : status;
}

const struct model_family model_family_llama = {
    .name = "llama", .configure = configure, .load_layer = model_load_standard_layer};
