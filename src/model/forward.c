/* One decoder layer, for all families: what a family lacks has no weight and is skipped by the op.
 *
 *   hidden ─► attn_in (norm, q k v, biases, q k norms, rope; writes KV)
 *          ─► attention ─► attn_out ─► mlp (or moe)
 *
 * A layer is cut behind attn_in, since that is where its KV is final: readiness is recorded there
 * and the pieces leave while the layer's attention still runs. Compute thread only. */
#include "model/forward.h"

struct kernel_kv model_forward_kv(const struct model_forward *forward, uint32_t layer)
{
    const struct kv_geometry *geometry = &forward->classes->geometry;
    uint32_t class_index = forward->classes->class_of[layer];
    uint32_t index = forward->classes->index_of[layer];
    const struct kv_class *class = &geometry->classes[class_index];
    size_t layer_offset = kv_k_offset(geometry, class_index, index, 0);
    size_t v_offset = kv_v_offset(geometry, class_index, index, 0) - layer_offset;
    size_t head_bytes =
        v_offset + (size_t)geometry->block_tokens * class->v_dim * kv_element_bytes(class->element);
    if (class->n_kv_heads > 1)
        head_bytes = kv_k_offset(geometry, class_index, index, 1) - layer_offset;
    return (struct kernel_kv){
        .pool = &forward->pools[class_index],
        .class_index = class_index,
        .block_bytes = kv_block_bytes(geometry, class_index),
        .layer_offset = layer_offset,
        .head_bytes = head_bytes,
        .v_offset = v_offset,
        .block_tokens = geometry->block_tokens,
        .element = class->element == KV_BF16 ? KERNEL_BF16 : KERNEL_F32,
    };
}

void model_forward_embed(const struct model_forward *forward, const struct kernel_batch *batch)
{
    forward->ops->embed(forward->stream, forward->acts, batch, forward->weights->embedding,
                        (float)forward->config->embedding_scale);
}

static struct kernel_rope rope_of(const struct model_forward *forward, uint32_t layer)
{
    const struct model_config *config = forward->config;
    uint32_t index = config->rope_of[layer];
    if (index == MODEL_ROPE_NONE)
        return (struct kernel_rope){.rotary_dim = 0};
    const struct model_rope *rope = &config->ropes[index];
    return (struct kernel_rope){
        .inv_freq = forward->inv_freq[index],
        .rotary_dim = model_rope_dim(rope, config->head_dim),
        .scale = (float)rope->attention_factor,
    };
}

void model_forward_layer_kv(const struct model_forward *forward, uint32_t layer)
{
    const struct model_config *config = forward->config;
    const struct model_layer *weights = &forward->weights->layers[layer];
    const struct kernel_attn_in_args args = {
        .acts = forward->acts,
        .norm = weights->attn_norm,
        .qkv = weights->qkv,
        .qkv_bias = weights->qkv_bias,
        .q_norm = weights->q_norm,
        .k_norm = weights->k_norm,
        .rope = rope_of(forward, layer),
        .norm_eps = (float)config->norm_eps,
        .kv = model_forward_kv(forward, layer),
    };
    forward->ops->attn_in(forward->stream, &args);
}

static void run_mlp(const struct model_forward *forward, const struct model_layer *weights)
{
    const struct model_config *config = forward->config;
    const struct kernel_mlp_args args = {
        .acts = forward->acts,
        .norm = weights->mlp_norm,
        .gate_up = weights->gate_up,
        .down = weights->down,
        .post_norm = weights->mlp_post_norm,
        .activation = config->activation,
        .norm_eps = (float)config->norm_eps,
    };
    forward->ops->mlp(forward->stream, &args);
}

static void run_experts(const struct model_forward *forward, const struct model_layer *weights)
{
    const struct model_config *config = forward->config;
    const struct kernel_moe_args args = {
        .acts = forward->acts,
        .norm = weights->mlp_norm,
        .router = weights->router,
        .gate_up = (const struct kernel_weight *const *)weights->expert_gate_up,
        .down = (const struct kernel_weight *const *)weights->expert_down,
        .n_chosen = config->n_chosen,
        .renormalise = config->renormalise,
        .activation = config->activation,
        .norm_eps = (float)config->norm_eps,
    };
    forward->ops->moe(forward->stream, &args);
}

void model_forward_layer_rest(const struct model_forward *forward, uint32_t layer)
{
    const struct model_config *config = forward->config;
    const struct model_layer *weights = &forward->weights->layers[layer];
    const struct kernel_attention_args attention = {
        .acts = forward->acts,
        .kv = model_forward_kv(forward, layer),
        .scale = (float)config->attention_scale,
        .window = config->windows[layer],
        .softcap = (float)config->attention_softcap,
    };
    const struct kernel_attn_out_args out = {
        .acts = forward->acts,
        .out = weights->out,
        .bias = weights->out_bias,
        .post_norm = weights->attn_post_norm,
        .norm_eps = (float)config->norm_eps,
    };
    forward->ops->attention(forward->stream, &attention);
    forward->ops->attn_out(forward->stream, &out);
    if (config->has_experts[layer])
        run_experts(forward, weights);
    else
        run_mlp(forward, weights);
}

void model_forward_logits(const struct model_forward *forward, const uint32_t *rows, uint32_t n,
                          struct device_memory *logits)
{
    const struct kernel_logits_args args = {
        .acts = forward->acts,
        .norm = forward->weights->norm,
        .head = forward->weights->head,
        .norm_eps = (float)forward->config->norm_eps,
        .softcap = (float)forward->config->logits_softcap,
        .n_logits = n,
        .rows = rows,
        .logits = logits,
    };
    forward->ops->logits(forward->stream, &args);
}
