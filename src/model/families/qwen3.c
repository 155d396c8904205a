/* Qwen3 (dense): each head of q and k goes through an RMS norm of its own before it is rotated; the
 * head size is free of hidden_size. Source: Yang et al. 2025; transformers' Qwen3ForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    sl_status status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    if (status != SL_OK)
        return status;
    config->out_bias = config->attention_bias;
    config->qk_norm = MODEL_QK_NORM_HEAD;
    return model_qwen_read_windows(root, what, config);
}

const struct model_family model_family_qwen3 = {.name = "qwen3",
                                                .defaults = {.head_dim = 128},
                                                .configure = configure,
                                                .load_layer = model_load_standard_layer};
