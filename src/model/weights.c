/* Tensors -> packed weights, one after the other.
 *
 * Every tensor's shape is checked against the config before its bytes are touched. Source matrices
 * that are used together (q, k, v; gate, up) are packed as one. A tensor's pages are given back
 * once it is packed, so that the mapped file does not count twice. Data that is not aligned to its
 * element (safetensors promises no alignment) is copied first.
 *
 * Runs on the thread that opens the engine. */
#include "model/weights.h"

#include "base/log.h"
#include "base/mem.h"
#include "model/family.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ELEMENT_BYTES(element) ((element) == KERNEL_F32 ? 4u : 2u)

/* Value i of a vector. */
static double element_at(const void *data, uint32_t element, size_t i)
{
    if (element == KERNEL_F32)
        return (double)((const float *)data)[i];
    uint32_t half = ((const uint16_t *)data)[i];
    if (element == KERNEL_BF16) {
        uint32_t bits = half << 16;
        float value;
        memcpy(&value, &bits, sizeof(value));
        return (double)value;
    }
    int exponent = (int)(half >> 10 & 31);
    double fraction = half & 0x3ff, sign = half & 0x8000 ? -1 : 1;
    if (exponent == 0)
        return sign * ldexp(fraction, -24);
    return exponent == 31 ? (fraction != 0 ? (double)NAN : sign * (double)INFINITY)
                          : sign * ldexp(1024 + fraction, exponent - 25);
}

/* "[2048][512]" */
static void shape_text(const struct model_tensor *tensor, char *out, size_t bytes)
{
    size_t at = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < tensor->n_dims && at < bytes; i++) {
        int n = snprintf(out + at, bytes - at, "[%" PRIu64 "]", tensor->dims[i]);
        at += n > 0 ? (size_t)n : 0;
    }
}

/* What is wanted of a tensor: [n]; [n][k]; or one of `count` [n][k] that it holds. */
struct want {
    const char *name;
    uint32_t n, k; /* k 0: a vector */
    uint32_t index, count;
};

static bool fits(const struct model_tensor *tensor, const struct want *want)
{
    const uint64_t *dims = tensor->dims;
    if (want->k == 0)
        return tensor->n_dims == 1 && dims[0] == want->n;
    if (want->count == 0)
        return tensor->n_dims == 2 && dims[0] == want->n && dims[1] == want->k;
    return tensor->n_dims == 3 && dims[0] == want->count && dims[1] == want->n &&
           dims[2] == want->k;
}

static sl_status find_tensor(const struct model_loader *loader, const struct want *want,
                             const struct model_tensor **tensor_out)
{
    const struct model_tensor *tensor = model_tensors_find(loader->tensors, want->name);
    const struct model_file *files;
    uint32_t n_files = model_tensors_files(loader->tensors, &files);
    if (tensor == NULL)
        return sl_fail(SL_NOT_FOUND, "%s%s: %s is missing", files[0].path,
                       n_files > 1 ? " and its like" : "", want->name);
    const char *path = files[tensor->file].path;
    if (tensor->element == MODEL_TENSOR_NO_ELEMENT)
        return sl_fail(SL_UNSUPPORTED, "%s: %s has dtype %s; want BF16, F16 or F32", path,
                       want->name, tensor->type);
    if (!fits(tensor, want)) {
        char is[256], shape[64];
        shape_text(tensor, is, sizeof(is));
        if (want->count > 0)
            snprintf(shape, sizeof(shape), "[%u][%u][%u]", want->count, want->n, want->k);
        else
            snprintf(shape, sizeof(shape), want->k == 0 ? "[%u]" : "[%u][%u]", want->n, want->k);
        return sl_fail(SL_INVALID, "%s: %s has shape %s; config.json wants %s", path, want->name,
                       is, shape);
    }
    *tensor_out = tensor;
    return SL_OK;
}

/* Part `index` of `count` of the tensor: its bytes at an address that suits its element; *copy_out is
 * to be freed. */
static sl_status align_source(const struct model_tensor *tensor, uint32_t index, uint32_t count,
                              void **copy_out, const void **data_out)
{
    uint64_t bytes = tensor->bytes / (count == 0 ? 1 : count);
    const unsigned char *data = (const unsigned char *)tensor->data + index * bytes;
    *copy_out = NULL;
    *data_out = data;
    if ((uintptr_t)data % ELEMENT_BYTES(tensor->element) == 0)
        return SL_OK;
    *copy_out = sl_try_zalloc(1, bytes);
    if (*copy_out == NULL)
        return sl_fail(SL_NO_MEMORY, "weights: %s: %" PRIu64 " bytes", tensor->name, bytes);
    memcpy(*copy_out, data, bytes);
    *data_out = *copy_out;
    return SL_OK;
}

static void report(struct model_loader *loader, const struct model_tensor *tensor)
{
    uint64_t count = tensor->bytes / ELEMENT_BYTES(tensor->element);
    loader->bytes_done += tensor->bytes;
    loader->n_parameters += count;
    model_tensor_drop(tensor);
    if (loader->progress != NULL)
        loader->stopped |=
            !loader->progress(loader->progress_arg, loader->bytes_done, loader->bytes_total);
}

struct change {
    double offset, scale;
};

/* (value + offset) * scale in f32, for a vector; the result replaces the source's data. */
static sl_status transform(const struct model_tensor *tensor, double offset, double scale,
                           struct kernel_weight_source *source, void **copy)
{
    float *values = sl_try_zalloc(source->n, sizeof(*values));
    if (values == NULL)
        return sl_fail(SL_NO_MEMORY, "weights: %s: %u values", tensor->name, source->n);
    for (uint32_t i = 0; i < source->n; i++)
        values[i] = (float)((element_at(source->data, tensor->element, i) + offset) * scale);
    sl_free(*copy);
    *copy = values;
    source->data = values;
    source->element = KERNEL_F32;
    return SL_OK;
}

/* Several tensors, or parts of them, as one weight; vectors after `change`, if it is not NULL. */
static sl_status load(struct model_loader *loader, enum kernel_weight_use use,
                      const struct want *wants, uint32_t n_wants, const struct change *change,
                      struct kernel_weight **weight_out)
{
    struct kernel_weight_source sources[MODEL_STACK_MAX] = {{.data = NULL}};
    const struct model_tensor *tensors[MODEL_STACK_MAX] = {NULL};
    void *copies[MODEL_STACK_MAX] = {NULL};
    sl_status status = SL_OK;
    SL_ASSERT(n_wants <= MODEL_STACK_MAX);
    if (loader->stopped)
        return sl_fail(SL_CANCELLED, "loading was stopped at %" PRIu64 " of %" PRIu64 " bytes",
                       loader->bytes_done, loader->bytes_total);

    for (uint32_t i = 0; i < n_wants && status == SL_OK; i++) {
        const struct want *want = &wants[i];
        status = find_tensor(loader, want, &tensors[i]);
        if (status != SL_OK)
            break;
        sources[i] = (struct kernel_weight_source){
            .element = tensors[i]->element, .n = want->n, .k = want->k == 0 ? 1 : want->k};
        status = align_source(tensors[i], want->index, want->count, &copies[i], &sources[i].data);
        if (status == SL_OK && change != NULL)
            status = transform(tensors[i], change->offset, change->scale, &sources[i], &copies[i]);
    }
    if (status == SL_OK)
        status = loader->ops->weight_pack(loader->context, use, sources, n_wants, weight_out);
    for (uint32_t i = 0; i < n_wants; i++) {
        sl_free(copies[i]);
        if (status == SL_OK && wants[i].index + 1 >= wants[i].count)
            report(loader, tensors[i]);
    }
    return status;
}

static void layer_name(const struct model_loader *loader, const char *name,
                       char out[MODEL_TENSOR_NAME_MAX])
{
    snprintf(out, MODEL_TENSOR_NAME_MAX, "%slayers.%u.%s", loader->prefix, loader->layer, name);
}

static sl_status load_parts(struct model_loader *loader, enum kernel_weight_use use,
                            const struct model_part *parts, uint32_t n_parts, uint32_t k,
                            struct kernel_weight **weight_out)
{
    char names[MODEL_STACK_MAX][MODEL_TENSOR_NAME_MAX];
    struct want wants[MODEL_STACK_MAX];
    SL_ASSERT(n_parts <= MODEL_STACK_MAX);
    for (uint32_t i = 0; i < n_parts; i++) {
        layer_name(loader, parts[i].name, names[i]);
        wants[i] = (struct want){names[i], parts[i].n, k, parts[i].index, parts[i].count};
    }
    return load(loader, use, wants, n_parts, NULL, weight_out);
}

sl_status model_load_matrix(struct model_loader *loader, const struct model_part *parts,
                            uint32_t n_parts, uint32_t k, struct kernel_weight **weight_out)
{
    return load_parts(loader, KERNEL_WEIGHT_MATRIX, parts, n_parts, k, weight_out);
}

sl_status model_load_vector(struct model_loader *loader, const struct model_part *parts,
                            uint32_t n_parts, struct kernel_weight **weight_out)
{
    return load_parts(loader, KERNEL_WEIGHT_VECTOR, parts, n_parts, 0, weight_out);
}

/* A full name. */
static sl_status load_norm(struct model_loader *loader, const char *name, uint32_t n, double scale,
                           struct kernel_weight **weight_out)
{
    const struct change change = {.offset = loader->config->norm_offset, .scale = scale};
    bool plain = change.offset == 0 && change.scale == 1;
    const struct want want = {.name = name, .n = n};
    return load(loader, KERNEL_WEIGHT_VECTOR, &want, 1, plain ? NULL : &change, weight_out);
}

sl_status model_load_norm(struct model_loader *loader, const char *name, uint32_t n,
                          struct kernel_weight **weight_out)
{
    char full[MODEL_TENSOR_NAME_MAX];
    layer_name(loader, name, full);
    return load_norm(loader, full, n, 1, weight_out);
}

sl_status model_load_norms(struct model_loader *loader, struct model_layer *layer)
{
    static const struct model_norms llama = {.attn = "input_layernorm.weight",
                                             .mlp = "post_attention_layernorm.weight"};
    const struct model_config *config = loader->config;
    const struct model_norms *names = config->family->norms;
    if (names == NULL)
        names = &llama;
    const struct {
        const char *name;
        struct kernel_weight **weight_out;
    } all[] = {{names->attn, &layer->attn_norm},
               {names->attn_post, &layer->attn_post_norm},
               {names->mlp, &layer->mlp_norm},
               {names->mlp_post, &layer->mlp_post_norm}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i].name == NULL)
            continue;
        sl_status status = model_load_norm(loader, all[i].name, config->hidden, all[i].weight_out);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status load_attention(struct model_loader *loader, struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    uint32_t q = config->n_heads * config->head_dim, kv = config->n_kv_heads * config->head_dim;
    const struct model_part qkv[] = {{.name = "self_attn.q_proj.weight", .n = q},
                                     {.name = "self_attn.k_proj.weight", .n = kv},
                                     {.name = "self_attn.v_proj.weight", .n = kv}};
    const struct model_part biases[] = {{.name = "self_attn.q_proj.bias", .n = q},
                                        {.name = "self_attn.k_proj.bias", .n = kv},
                                        {.name = "self_attn.v_proj.bias", .n = kv}};
    const struct model_part out = {.name = "self_attn.o_proj.weight", .n = config->hidden};
    const struct model_part out_bias = {.name = "self_attn.o_proj.bias", .n = config->hidden};

    sl_status status = model_load_matrix(loader, qkv, 3, config->hidden, &layer->qkv);
    if (status == SL_OK && config->attention_bias)
        status = model_load_vector(loader, biases, 3, &layer->qkv_bias);
    bool whole = config->qk_norm == MODEL_QK_NORM_WHOLE;
    if (status == SL_OK && config->qk_norm != MODEL_QK_NORM_NONE)
        status = model_load_norm(loader, "self_attn.q_norm.weight", whole ? q : config->head_dim,
                                 &layer->q_norm);
    if (status == SL_OK && config->qk_norm != MODEL_QK_NORM_NONE)
        status = model_load_norm(loader, "self_attn.k_norm.weight", whole ? kv : config->head_dim,
                                 &layer->k_norm);
    if (status == SL_OK)
        status = model_load_matrix(loader, &out, 1, q, &layer->out);
    if (status == SL_OK && config->out_bias)
        status = model_load_vector(loader, &out_bias, 1, &layer->out_bias);
    return status;
}

static sl_status load_mlp(struct model_loader *loader, struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    const struct model_part gate_up[] = {{.name = "mlp.gate_proj.weight", .n = config->mlp_hidden},
                                         {.name = "mlp.up_proj.weight", .n = config->mlp_hidden}};
    const struct model_part down = {.name = "mlp.down_proj.weight", .n = config->hidden};
    sl_status status = model_load_matrix(loader, gate_up, 2, config->hidden, &layer->gate_up);
    if (status == SL_OK)
        status = model_load_matrix(loader, &down, 1, config->mlp_hidden, &layer->down);
    return status;
}

/* One expert out of tensors of its own. */
static sl_status load_expert(struct model_loader *loader, uint32_t expert,
                             struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    char gate[64], up[64], down[64];
    snprintf(gate, sizeof(gate), "mlp.experts.%u.gate_proj.weight", expert);
    snprintf(up, sizeof(up), "mlp.experts.%u.up_proj.weight", expert);
    snprintf(down, sizeof(down), "mlp.experts.%u.down_proj.weight", expert);
    const struct model_part gate_up[] = {{.name = gate, .n = config->expert_hidden},
                                         {.name = up, .n = config->expert_hidden}};
    const struct model_part last = {.name = down, .n = config->hidden};
    sl_status status =
        model_load_matrix(loader, gate_up, 2, config->hidden, &layer->expert_gate_up[expert]);
    if (status == SL_OK)
        status =
            model_load_matrix(loader, &last, 1, config->expert_hidden, &layer->expert_down[expert]);
    return status;
}

/* … or out of the tensors of all experts of the layer. */
static sl_status load_fused_expert(struct model_loader *loader, uint32_t expert,
                                   struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    const struct model_part gate_up = {"mlp.experts.gate_up_proj", 2 * config->expert_hidden,
                                       expert, config->n_experts};
    const struct model_part down = {"mlp.experts.down_proj", config->hidden, expert,
                                    config->n_experts};
    sl_status status =
        model_load_matrix(loader, &gate_up, 1, config->hidden, &layer->expert_gate_up[expert]);
    if (status == SL_OK)
        status =
            model_load_matrix(loader, &down, 1, config->expert_hidden, &layer->expert_down[expert]);
    return status;
}

static sl_status load_experts(struct model_loader *loader, struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    const struct model_part router = {.name = "mlp.gate.weight", .n = config->n_experts};
    char fused[MODEL_TENSOR_NAME_MAX];
    layer->n_experts = config->n_experts;
    layer->expert_gate_up = sl_zalloc(config->n_experts, sizeof(struct kernel_weight *));
    layer->expert_down = sl_zalloc(config->n_experts, sizeof(struct kernel_weight *));
    sl_status status = model_load_matrix(loader, &router, 1, config->hidden, &layer->router);
    layer_name(loader, "mlp.experts.gate_up_proj", fused);
    bool is_fused = model_tensors_find(loader->tensors, fused) != NULL;
    for (uint32_t i = 0; i < config->n_experts && status == SL_OK; i++)
        status = is_fused ? load_fused_expert(loader, i, layer) : load_expert(loader, i, layer);
    return status;
}

sl_status model_load_standard_layer(struct model_loader *loader, struct model_layer *layer)
{
    sl_status status = model_load_norms(loader, layer);
    if (status == SL_OK)
        status = load_attention(loader, layer);
    if (status == SL_OK)
        status = loader->config->has_experts[loader->layer] ? load_experts(loader, layer)
                                                            : load_mlp(loader, layer);
    return status;
}

/* Where the text model's tensors are: at the top, or where a model with images keeps them. */
static const char *find_prefix(const struct model_tensors *tensors)
{
    static const char *const prefixes[] = {"model.", "language_model.model.",
                                           "model.language_model."};
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        char name[MODEL_TENSOR_NAME_MAX];
        snprintf(name, sizeof(name), "%sembed_tokens.weight", prefixes[i]);
        if (model_tensors_find(tensors, name) != NULL)
            return prefixes[i];
    }
    return prefixes[0];
}

static const char *head_name(const struct model_tensors *tensors)
{
    static const char plain[] = "lm_head.weight", nested[] = "language_model.lm_head.weight";
    bool is_nested =
        model_tensors_find(tensors, plain) == NULL && model_tensors_find(tensors, nested) != NULL;
    return is_nested ? nested : plain;
}

/* As in transformers: a table and a head that are both there and differ are two, whatever the config says. */
static bool is_tied(const struct model_loader *loader, const char *embedding, const char *head)
{
    const struct model_tensor *a = model_tensors_find(loader->tensors, embedding);
    const struct model_tensor *b = model_tensors_find(loader->tensors, head);
    if (!loader->config->tied || a == NULL || b == NULL)
        return loader->config->tied;
    bool same =
        a->element == b->element && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
    if (!same)
        sl_warn("head_not_tied", "embedding=%s head=%s why=\"both are there, and differ\"",
                embedding, head);
    return same;
}

static sl_status load_ends(struct model_loader *loader, struct model_weights *weights)
{
    const struct model_config *config = loader->config;
    const char *head = head_name(loader->tensors);
    char embedding[MODEL_TENSOR_NAME_MAX], norm[MODEL_TENSOR_NAME_MAX];
    snprintf(embedding, sizeof(embedding), "%sembed_tokens.weight", loader->prefix);
    snprintf(norm, sizeof(norm), "%snorm.weight", loader->prefix);
    bool tied = is_tied(loader, embedding, head);
    struct want want = {.name = embedding, .n = config->vocab, .k = config->hidden};
    if (tied && model_tensors_find(loader->tensors, embedding) == NULL &&
        model_tensors_find(loader->tensors, head) != NULL)
        want.name = head; /* of the two that are one this is the one that was written */
    /* A tied table is packed once, as the head wants it. */
    enum kernel_weight_use use = tied ? KERNEL_WEIGHT_MATRIX : KERNEL_WEIGHT_EMBEDDING;
    sl_status status = load(loader, use, &want, 1, NULL, &weights->embedding);
    if (status == SL_OK)
        status = load_norm(loader, norm, config->hidden, config->logits_scale, &weights->norm);
    if (status != SL_OK)
        return status;
    if (tied) {
        weights->head = weights->embedding;
        return SL_OK;
    }
    want.name = head;
    return load(loader, KERNEL_WEIGHT_MATRIX, &want, 1, NULL, &weights->head);
}

sl_status model_weights_load(struct model_loader *loader, struct model_weights *weights_out)
{
    const struct model_config *config = loader->config;
    struct model_weights weights = {.ops = loader->ops, .n_layers = config->n_layers};
    weights.layers = sl_zalloc(config->n_layers, sizeof(*weights.layers));
    loader->bytes_total = model_tensors_bytes(loader->tensors);
    loader->prefix = find_prefix(loader->tensors);

    sl_status status = load_ends(loader, &weights);
    for (uint32_t i = 0; i < config->n_layers && status == SL_OK; i++) {
        loader->layer = i;
        status = config->family->load_layer(loader, &weights.layers[i]);
    }
    if (status != SL_OK) {
        model_weights_fini(&weights);
        return status;
    }
    weights.bytes = loader->bytes_done;
    weights.n_parameters = loader->n_parameters;
    *weights_out = weights;
    return SL_OK;
}

static void free_layer(const struct kernel_ops *ops, struct model_layer *layer)
{
    struct kernel_weight *all[] = {
        layer->attn_norm, layer->qkv,     layer->qkv_bias, layer->q_norm,
        layer->k_norm,    layer->out,     layer->out_bias, layer->attn_post_norm,
        layer->mlp_norm,  layer->gate_up, layer->down,     layer->mlp_post_norm,
        layer->router,
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        ops->weight_free(all[i]);
    for (uint32_t i = 0; i < layer->n_experts; i++) {
        ops->weight_free(layer->expert_gate_up[i]);
        ops->weight_free(layer->expert_down[i]);
    }
    sl_free(layer->expert_gate_up);
    sl_free(layer->expert_down);
}

void model_weights_fini(struct model_weights *weights)
{
    if (weights->ops == NULL)
        return;
    for (uint32_t i = 0; i < weights->n_layers; i++)
        free_layer(weights->ops, &weights->layers[i]);
    if (weights->head != weights->embedding)
        weights->ops->weight_free(weights->head);
    weights->ops->weight_free(weights->embedding);
    weights->ops->weight_free(weights->norm);
    sl_free(weights->layers);
    *weights = (struct model_weights){0};
}
