/* Phi-3 and Phi-4 (mini): Llama whose q, k, v and whose gate, up are stored as one matrix each, which is
 * how they are packed anyway; Phi-4-mini rotates a part of each head. Source: Abdin et al. 2024; transformers'
 * Phi3ForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    const struct model_sliding sliding = {.fallback = 0};
    enum model_rope_type type = config->ropes[0].type;
    /* "yarn" of an early Phi-3 is longrope by another name, as transformers reads it. */
    if (type != MODEL_ROPE_DEFAULT && type != MODEL_ROPE_LONGROPE)
        return sl_fail(SL_UNSUPPORTED, "%s: rope type of phi3; want default or longrope", what);
    return model_config_read_windows(root, what, &sliding, config);
}

static sl_status load_layer(struct model_loader *loader, struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    uint32_t q = config->n_heads * config->head_dim, kv = config->n_kv_heads * config->head_dim;
    const struct model_part qkv = {.name = "self_attn.qkv_proj.weight", .n = q + 2 * kv};
    const struct model_part out = {.name = "self_attn.o_proj.weight", .n = config->hidden};
    const struct model_part gate_up = {.name = "mlp.gate_up_proj.weight",
                                       .n = 2 * config->mlp_hidden};
    const struct model_part down = {.name = "mlp.down_proj.weight", .n = config->hidden};
    sl_status status = model_load_norms(loader, layer);
    if (status == SL_OK)
        status = model_load_matrix(loader, &qkv, 1, config->hidden, &layer->qkv);
    if (status == SL_OK)
        status = model_load_matrix(loader, &out, 1, q, &layer->out);
    if (status == SL_OK)
        status = model_load_matrix(loader, &gate_up, 1, config->hidden, &layer->gate_up);
    if (status == SL_OK)
        status = model_load_matrix(loader, &down, 1, config->mlp_hidden, &layer->down);
    return status;
}

const struct model_family model_family_phi3 = {
    .name = "phi3", .configure = configure, .load_layer = load_layer};
