/* Phi-3 and Phi-4 (not those with longrope): Llama whose q, k, v and whose gate, up are stored as one
 * matrix each, which is how they are packed anyway. Source: Abdin et al. 2024; transformers'
 * Phi3ForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    return model_config_read_window(root, what, config);
}

static sl_status load_layer(struct model_loader *loader, uint32_t index, struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    uint32_t q = config->n_heads * config->head_dim, kv = config->n_kv_heads * config->head_dim;
    const struct model_part qkv = {"self_attn.qkv_proj.weight", q + 2 * kv};
    const struct model_part out = {"self_attn.o_proj.weight", config->hidden};
    const struct model_part gate_up = {"mlp.gate_up_proj.weight", 2 * config->mlp_hidden};
    const struct model_part down = {"mlp.down_proj.weight", config->hidden};
    (void)index;
    sl_status status =
        model_load_norm(loader, "input_layernorm.weight", config->hidden, &layer->attn_norm);
    if (status == SL_OK)
        status = model_load_matrix(loader, &qkv, 1, config->hidden, &layer->qkv);
    if (status == SL_OK)
        status = model_load_matrix(loader, &out, 1, q, &layer->out);
    if (status == SL_OK)
        status = model_load_norm(loader, "post_attention_layernorm.weight", config->hidden,
                                 &layer->mlp_norm);
    if (status == SL_OK)
        status = model_load_matrix(loader, &gate_up, 1, config->hidden, &layer->gate_up);
    if (status == SL_OK)
        status = model_load_matrix(loader, &down, 1, config->mlp_hidden, &layer->down);
    return status;
}

const struct model_family model_family_phi3 = {
    .name = "phi3", .configure = configure, .load_layer = load_layer};
