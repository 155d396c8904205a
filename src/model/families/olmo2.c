/* OLMo 2: Llama whose norms stand behind attention and MLP, not before them, and which norms all of q and
 * all of k before they are cut into heads. Source: OLMo Team 2025; transformers' Olmo2ForCausalLM. */
#include "model/family.h"

static const struct model_norms norms = {.attn_post = "post_attention_layernorm.weight",
                                         .mlp_post = "post_feedforward_layernorm.weight"};

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    sl_status status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    if (status == SL_OK) /* the class's default is 1e-5 */
        status = sl_json_number(root, what, "rms_norm_eps", 1e-5, 0, 1, &config->norm_eps);
    config->out_bias = config->attention_bias;
    config->qk_norm = MODEL_QK_NORM_WHOLE;
    return status;
}

const struct model_family model_family_olmo2 = {.name = "olmo2",
                                                .norms = &norms,
                                                .configure = configure,
                                                .load_layer = model_load_standard_layer};
