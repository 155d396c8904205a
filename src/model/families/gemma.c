/* Gemma 1: Llama with GELU, norms whose weights are stored less 1, an embedding that is multiplied by
 * sqrt(hidden) and is the head too. Source: Gemma Team 2024; transformers' GemmaForCausalLM. */
#include "model/family.h"

#include <math.h>

sl_status model_gemma_configure(const json_t *root, const char *what, struct model_config *config)
{
    /* The default is true, unlike other families'. */
    sl_status status = sl_json_bool(root, what, "tie_word_embeddings", true, &config->tied);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    if (status == SL_OK)
        status = model_config_refuse(root, what, "use_bidirectional_attention");
    if (status != SL_OK)
        return status;
    config->out_bias = config->attention_bias;
    config->embedding_scale = sqrt((double)config->hidden);
    config->norm_offset = 1;
    return SL_OK;
}

const struct model_family model_family_gemma = {.name = "gemma",
                                                .is_gelu = true,
                                                .configure = model_gemma_configure,
                                                .load_layer = model_load_standard_layer};
