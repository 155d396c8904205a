/* Tensors -> packed weights, one after the other.
 *
 * Every tensor's shape is checked against the config before its bytes are touched. Source matrices
 * that are used together (q, k, v; gate, up) are packed as one. A tensor's pages are given back
 * once it is packed, so that the mapped file does not count twice. Data that is not aligned to its
 * element (safetensors promises no alignment) is copied first.
 *
 * Runs on the thread that opens the engine. */
#include "model/weights.h"

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

/* k 0: a vector of n. */
static sl_status find_tensor(const struct model_loader *loader, const char *name, uint32_t n,
                             uint32_t k, const struct model_tensor **tensor_out)
{
    const struct model_tensor *tensor = model_tensors_find(loader->tensors, name);
    const struct model_file *files;
    uint32_t n_files = model_tensors_files(loader->tensors, &files);
    if (tensor == NULL)
        return sl_fail(SL_NOT_FOUND, "%s%s: %s is missing", files[0].path,
                       n_files > 1 ? " and its like" : "", name);
    const char *path = files[tensor->file].path;
    if (tensor->element == MODEL_TENSOR_NO_ELEMENT)
        return sl_fail(SL_UNSUPPORTED, "%s: %s has dtype %s; want BF16, F16 or F32", path, name,
                       tensor->type);
    bool fits = k == 0 ? tensor->n_dims == 1 && tensor->dims[0] == n
                       : tensor->n_dims == 2 && tensor->dims[0] == n && tensor->dims[1] == k;
    if (!fits) {
        char is[256], want[64];
        shape_text(tensor, is, sizeof(is));
        snprintf(want, sizeof(want), k == 0 ? "[%u]" : "[%u][%u]", n, k);
        return sl_fail(SL_INVALID, "%s: %s has shape %s; config.json wants %s", path, name, is,
                       want);
    }
    *tensor_out = tensor;
    return SL_OK;
}

/* The source's bytes at an address that suits its element; *copy_out is to be freed. */
static sl_status align_source(const struct model_tensor *tensor, void **copy_out,
                              const void **data_out)
{
    *copy_out = NULL;
    *data_out = tensor->data;
    if ((uintptr_t)tensor->data % ELEMENT_BYTES(tensor->element) == 0)
        return SL_OK;
    *copy_out = sl_try_zalloc(1, tensor->bytes);
    if (*copy_out == NULL)
        return sl_fail(SL_NO_MEMORY, "weights: %s: %" PRIu64 " bytes", tensor->name, tensor->bytes);
    memcpy(*copy_out, tensor->data, tensor->bytes);
    *data_out = *copy_out;
    return SL_OK;
}

static void report(struct model_loader *loader, const struct model_tensor *tensor)
{
    uint64_t count = tensor->bytes / ELEMENT_BYTES(tensor->element);
    loader->bytes_done += tensor->bytes;
    loader->n_parameters += count;
    model_tensors_drop(loader->tensors, tensor);
    if (loader->progress != NULL)
        loader->progress(loader->progress_arg, loader->bytes_done, loader->bytes_total);
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

/* Full names; k 0: vectors, which `change` alters if it is not NULL. */
static sl_status load(struct model_loader *loader, enum kernel_weight_use use,
                      const char *const *names, const uint32_t *ns, uint32_t n_parts, uint32_t k,
                      const struct change *change, struct kernel_weight **weight_out)
{
    struct kernel_weight_source sources[MODEL_STACK_MAX] = {{.data = NULL}};
    const struct model_tensor *tensors[MODEL_STACK_MAX] = {NULL};
    void *copies[MODEL_STACK_MAX] = {NULL};
    sl_status status = SL_OK;
    SL_ASSERT(n_parts <= MODEL_STACK_MAX);

    for (uint32_t i = 0; i < n_parts && status == SL_OK; i++) {
        status = find_tensor(loader, names[i], ns[i], k, &tensors[i]);
        if (status != SL_OK)
            break;
        sources[i] = (struct kernel_weight_source){
            .element = tensors[i]->element, .n = ns[i], .k = k == 0 ? 1 : k};
        status = align_source(tensors[i], &copies[i], &sources[i].data);
        if (status == SL_OK && change != NULL)
            status = transform(tensors[i], change->offset, change->scale, &sources[i], &copies[i]);
    }
    if (status == SL_OK)
        status = loader->ops->weight_pack(loader->context, use, sources, n_parts, weight_out);
    for (uint32_t i = 0; i < n_parts; i++) {
        sl_free(copies[i]);
        if (status == SL_OK)
            report(loader, tensors[i]);
    }
    return status;
}

static sl_status load_parts(struct model_loader *loader, enum kernel_weight_use use,
                            const struct model_part *parts, uint32_t n_parts, uint32_t k,
                            struct kernel_weight **weight_out)
{
    char names[MODEL_STACK_MAX][MODEL_TENSOR_NAME_MAX];
    const char *pointers[MODEL_STACK_MAX];
    uint32_t ns[MODEL_STACK_MAX];
    SL_ASSERT(n_parts <= MODEL_STACK_MAX);
    for (uint32_t i = 0; i < n_parts; i++) {
        snprintf(names[i], sizeof(names[i]), "model.layers.%u.%s", loader->layer, parts[i].name);
        pointers[i] = names[i];
        ns[i] = parts[i].n;
    }
    return load(loader, use, pointers, ns, n_parts, k, NULL, weight_out);
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
    return load(loader, KERNEL_WEIGHT_VECTOR, &name, &n, 1, 0, plain ? NULL : &change, weight_out);
}

sl_status model_load_norm(struct model_loader *loader, const char *name, uint32_t n,
                          struct kernel_weight **weight_out)
{
    char full[MODEL_TENSOR_NAME_MAX];
    snprintf(full, sizeof(full), "model.layers.%u.%s", loader->layer, name);
    return load_norm(loader, full, n, 1, weight_out);
}

static sl_status load_attention(struct model_loader *loader, struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    uint32_t q = config->n_heads * config->head_dim, kv = config->n_kv_heads * config->head_dim;
    const struct model_part qkv[] = {{"self_attn.q_proj.weight", q},
                                     {"self_attn.k_proj.weight", kv},
                                     {"self_attn.v_proj.weight", kv}};
    const struct model_part biases[] = {
        {"self_attn.q_proj.bias", q}, {"self_attn.k_proj.bias", kv}, {"self_attn.v_proj.bias", kv}};
    const struct model_part out = {"self_attn.o_proj.weight", config->hidden};
    const struct model_part out_bias = {"self_attn.o_proj.bias", config->hidden};

    sl_status status = model_load_matrix(loader, qkv, 3, config->hidden, &layer->qkv);
    if (status == SL_OK && config->attention_bias)
        status = model_load_vector(loader, biases, 3, &layer->qkv_bias);
    if (status == SL_OK && config->qk_norm)
        status =
            model_load_norm(loader, "self_attn.q_norm.weight", config->head_dim, &layer->q_norm);
    if (status == SL_OK && config->qk_norm)
        status =
            model_load_norm(loader, "self_attn.k_norm.weight", config->head_dim, &layer->k_norm);
    if (status == SL_OK)
        status = model_load_matrix(loader, &out, 1, q, &layer->out);
    if (status == SL_OK && config->out_bias)
        status = model_load_vector(loader, &out_bias, 1, &layer->out_bias);
    return status;
}

sl_status model_load_standard_layer(struct model_loader *loader, struct model_layer *layer)
{
    const struct model_config *config = loader->config;
    const struct model_part gate_up[] = {{"mlp.gate_proj.weight", config->mlp_hidden},
                                         {"mlp.up_proj.weight", config->mlp_hidden}};
    const struct model_part down = {"mlp.down_proj.weight", config->hidden};

    sl_status status =
        model_load_norm(loader, "input_layernorm.weight", config->hidden, &layer->attn_norm);
    if (status == SL_OK)
        status = load_attention(loader, layer);
    if (status == SL_OK)
        status = model_load_norm(loader, "post_attention_layernorm.weight", config->hidden,
                                 &layer->mlp_norm);
    if (status == SL_OK)
        status = model_load_matrix(loader, gate_up, 2, config->hidden, &layer->gate_up);
    if (status == SL_OK)
        status = model_load_matrix(loader, &down, 1, config->mlp_hidden, &layer->down);
    return status;
}

static sl_status load_ends(struct model_loader *loader, struct model_weights *weights)
{
    const struct model_config *config = loader->config;
    const char *embedding = "model.embed_tokens.weight", *head = "lm_head.weight",
               *norm = "model.norm.weight";
    /* A tied table is packed once, as the head wants it. */
    enum kernel_weight_use use = config->tied ? KERNEL_WEIGHT_MATRIX : KERNEL_WEIGHT_EMBEDDING;
    sl_status status =
        load(loader, use, &embedding, &config->vocab, 1, config->hidden, NULL, &weights->embedding);
    if (status == SL_OK)
        status = load_norm(loader, norm, config->hidden, config->logits_scale, &weights->norm);
    if (status != SL_OK)
        return status;
    if (config->tied) {
        weights->head = weights->embedding;
        return SL_OK;
    }
    return load(loader, KERNEL_WEIGHT_MATRIX, &head, &config->vocab, 1, config->hidden, NULL,
                &weights->head);
}

sl_status model_weights_load(struct model_loader *loader, struct model_weights *weights_out)
{
    const struct model_config *config = loader->config;
    struct model_weights weights = {.ops = loader->ops, .n_layers = config->n_layers};
    weights.layers = sl_zalloc(config->n_layers, sizeof(*weights.layers));
    loader->bytes_total = model_tensors_bytes(loader->tensors);

    sl_status status = load_ends(loader, &weights);
    for (uint32_t i = 0; i < config->n_layers && status == SL_OK; i++) {
        loader->layer = i;
        status = config->family->load_layer(loader, i, &weights.layers[i]);
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

void model_weights_fini(struct model_weights *weights)
{
    if (weights->ops == NULL)
        return;
    void (*weight_free)(struct kernel_weight *) = weights->ops->weight_free;
    for (uint32_t i = 0; i < weights->n_layers; i++) {
        struct model_layer *layer = &weights->layers[i];
        struct kernel_weight *all[] = {
            layer->attn_norm, layer->qkv,      layer->qkv_bias, layer->q_norm,  layer->k_norm,
            layer->out,       layer->out_bias, layer->mlp_norm, layer->gate_up, layer->down};
        for (size_t j = 0; j < sizeof(all) / sizeof(all[0]); j++)
            weight_free(all[j]);
    }
    if (weights->head != weights->embedding)
        weight_free(weights->head);
    weight_free(weights->embedding);
    weight_free(weights->norm);
    sl_free(weights->layers);
    *weights = (struct model_weights){0};
}
