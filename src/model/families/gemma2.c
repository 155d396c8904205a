/* Gemma 2: Gemma 1 with norms behind attention and MLP too, caps on the scores and on the logits, a scale
 * of the scores that is given, and a window in every other layer. Source: Gemma Team 2024 (Gemma 2);
 * transformers' Gemma2ForCausalLM. */
#include "model/family.h"

#include <math.h>

#define DEFAULT_WINDOW 4096

const struct model_norms model_gemma2_norms = {.attn = "input_layernorm.weight",
                                               .attn_post = "post_attention_layernorm.weight",
                                               .mlp = "pre_feedforward_layernorm.weight",
                                               .mlp_post = "post_feedforward_layernorm.weight"};

/* Absent: the default; null: none. */
static sl_status read_cap(const json_t *root, const char *what, const char *field, double fallback,
                          double *cap_out)
{
    bool absent = json_object_get(root, field) == NULL;
    return sl_json_number(root, what, field, absent ? fallback : 0, 1e-3, 1e6, cap_out);
}

sl_status model_gemma2_configure(const json_t *root, const char *what,
                                 const struct model_gemma2_defaults *defaults,
                                 struct model_config *config)
{
    double scalar;
    const struct model_sliding sliding = {.fallback = DEFAULT_WINDOW,
                                          .has_layer_types = true,
                                          .full_every = defaults->full_every,
                                          .rope = defaults->local_rope};
    sl_status status = model_gemma_configure(root, what, config);
    if (status == SL_OK)
        status = sl_json_number(root, what, "query_pre_attn_scalar", 256, 1e-3, 1e6, &scalar);
    if (status == SL_OK)
        status = read_cap(root, what, "attn_logit_softcapping", defaults->attention_softcap,
                          &config->attention_softcap);
    if (status == SL_OK)
        status = read_cap(root, what, "final_logit_softcapping", defaults->logits_softcap,
                          &config->logits_softcap);
    if (status != SL_OK)
        return status;
    config->attention_scale = 1 / sqrt(scalar);
    return model_config_read_windows(root, what, &sliding, config);
}

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    const struct model_gemma2_defaults defaults = {
        .attention_softcap = 50, .logits_softcap = 30, .full_every = 2};
    return model_gemma2_configure(root, what, &defaults, config);
}

const struct model_family model_family_gemma2 = {
    .name = "gemma2",
    .is_gelu = true,
    .defaults =
        {.n_heads = 8, .n_kv_heads = 4, .head_dim = 256, .vocab = 256000, .context_max = 8192},
    .norms = &model_gemma2_norms,
    .configure = configure,
    .load_layer = model_load_standard_layer,
};
