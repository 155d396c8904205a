/* config.json -> struct model_config.
 *
 * Two spellings are in use: rope_theta, rope_scaling and torch_dtype at the top level; and since
 * transformers 5 rope_parameters {rope_theta, rope_type, …} and dtype. Where both are given
 * rope_scaling counts, as in transformers. Every number is checked against a bound before it is used
 * as a size. What would change the logits and is not known here is refused, not ignored: a wrong
 * answer is worse than none.
 *
 * The configuration of a checkpoint with images has the text model's under text_config: sizes come
 * from there, end tokens from both.
 *
 * Pure but for model_config_load; any thread. */
#include "model/config.h"

#include "base/mem.h"
#include "model/family.h"
#include "model/sha256.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define HIDDEN_MAX 65536u
#define HEADS_MAX  1024u
#define VOCAB_MAX  (1u << 22)

struct uint_field {
    const char *name;
    uint32_t *value_out;
    uint64_t fallback; /* 0: the field must be there */
    uint64_t max;
};

static sl_status read_uint(const json_t *root, const char *what, const struct uint_field *field)
{
    uint64_t value;
    sl_status status = sl_json_uint(root, what, field->name, 0, 1, field->max, &value);
    if (status != SL_OK)
        return status;
    if (value == 0)
        value = field->fallback;
    if (value == 0)
        return sl_fail(SL_INVALID, "%s: %s is missing", what, field->name);
    *field->value_out = (uint32_t)value;
    return SL_OK;
}

static sl_status read_sizes(const json_t *root, const char *what, struct model_config *config)
{
    const struct model_defaults *defaults = &config->family->defaults;
    const struct uint_field first[] = {
        {.name = "hidden_size", .value_out = &config->hidden, .max = HIDDEN_MAX},
        {.name = "num_hidden_layers", .value_out = &config->n_layers, .max = KV_LAYERS_MAX},
        {.name = "num_attention_heads",
         .value_out = &config->n_heads,
         .fallback = defaults->n_heads,
         .max = HEADS_MAX},
        {.name = "intermediate_size", .value_out = &config->mlp_hidden, .max = 1u << 20},
        {.name = "vocab_size",
         .value_out = &config->vocab,
         .fallback = defaults->vocab,
         .max = VOCAB_MAX},
        {.name = "max_position_embeddings",
         .value_out = &config->context_max,
         .fallback = defaults->context_max == 0 ? 2048 : defaults->context_max,
         .max = MODEL_ROPE_CONTEXT_MAX},
    };
    for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
        sl_status status = read_uint(root, what, &first[i]);
        if (status != SL_OK)
            return status;
    }
    const struct uint_field second[] = {
        {.name = "num_key_value_heads",
         .value_out = &config->n_kv_heads,
         .fallback = defaults->n_kv_heads == 0 ? config->n_heads : defaults->n_kv_heads,
         .max = HEADS_MAX},
        {.name = "head_dim",
         .value_out = &config->head_dim,
         .fallback =
             defaults->head_dim == 0 ? config->hidden / config->n_heads : defaults->head_dim,
         .max = KERNEL_HEAD_DIM_MAX},
    };
    for (size_t i = 0; i < sizeof(second) / sizeof(second[0]); i++) {
        sl_status status = read_uint(root, what, &second[i]);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status check_heads(const char *what, const struct model_config *config)
{
    if (config->n_heads % config->n_kv_heads != 0)
        return sl_fail(SL_INVALID,
                       "%s: num_attention_heads %u is no multiple of num_key_value_heads %u", what,
                       config->n_heads, config->n_kv_heads);
    if (config->head_dim % 2 != 0 || config->head_dim > KERNEL_HEAD_DIM_MAX)
        return sl_fail(SL_UNSUPPORTED, "%s: head_dim is %u; want an even number up to %u", what,
                       config->head_dim, KERNEL_HEAD_DIM_MAX);
    return SL_OK;
}

/* ---- rope ---- */

static sl_status read_rope_object(const json_t *root, const char *what, const char *name,
                                  const char *part, const struct model_rope_context *context,
                                  struct model_rope *rope)
{
    char where[256];
    const json_t *object = json_object_get(root, name);
    snprintf(where, sizeof(where), "%.200s: %s", what, name);
    if (part != NULL) {
        object = json_object_get(object, part);
        snprintf(where, sizeof(where), "%.200s: %s: %s", what, name, part);
    }
    if (object == NULL || json_is_null(object))
        return SL_OK;
    return model_rope_read(object, where, context, rope);
}

sl_status model_config_read_rope(const json_t *root, const char *what, const char *part,
                                 const struct model_config *config, struct model_rope *rope)
{
    uint64_t original;
    sl_status status = sl_json_uint(root, what, "original_max_position_embeddings", 0, 1,
                                    MODEL_ROPE_CONTEXT_MAX, &original);
    if (status == SL_OK)
        status = sl_json_number(root, what, "partial_rotary_factor", rope->partial, 0.01, 1,
                                &rope->partial);
    if (status != SL_OK)
        return status;
    const struct model_rope_context context = {config->context_max, (uint32_t)original};
    /* Where both are given, as in transformers: an object with anything in it is rope_scaling. */
    const json_t *scaling = json_object_get(root, "rope_scaling");
    bool old = part == NULL && scaling != NULL && !json_is_null(scaling) &&
               !(json_is_object(scaling) && json_object_size(scaling) == 0);
    return read_rope_object(root, what, old ? "rope_scaling" : "rope_parameters", part, &context,
                            rope);
}

void model_config_inv_freq(const struct model_config *config, uint32_t index, float *inv_freq_out)
{
    SL_ASSERT(index < config->n_ropes);
    model_rope_inv_freq(&config->ropes[index], config->head_dim, config->context_max, inv_freq_out);
}

/* ---- the rest ---- */

/* layer_types[index] is sliding_attention. */
static sl_status is_sliding(const json_t *types, const char *what, uint32_t index,
                            bool *sliding_out)
{
    const char *type = json_string_value(json_array_get(types, index));
    if (type == NULL)
        return sl_fail(SL_INVALID, "%s: layer_types[%u] must be a string", what, index);
    *sliding_out = strcmp(type, "sliding_attention") == 0;
    if (*sliding_out || strcmp(type, "full_attention") == 0)
        return SL_OK;
    return sl_fail(SL_UNSUPPORTED,
                   "%s: layer_types[%u] is '%.64s'; want full_attention or sliding_attention", what,
                   index, type);
}

sl_status model_config_read_windows(const json_t *root, const char *what,
                                    const struct model_sliding *sliding,
                                    struct model_config *config)
{
    const json_t *types = json_object_get(root, "layer_types");
    bool absent = json_object_get(root, "sliding_window") == NULL, is_null = json_is_null(types);
    uint64_t window;
    sl_status status = sl_json_uint(root, what, "sliding_window", absent ? sliding->fallback : 0, 1,
                                    UINT32_MAX - 1, &window);
    if (status != SL_OK)
        return status;
    if (window >= config->context_max)
        window = 0;
    if (!sliding->has_layer_types || is_null)
        types = NULL;
    if (types != NULL && json_array_size(types) != config->n_layers)
        return sl_fail(SL_INVALID, "%s: layer_types must be a list of %u names", what,
                       config->n_layers);
    for (uint32_t i = 0; i < config->n_layers; i++) {
        bool slides = i >= sliding->first_layer &&
                      (sliding->full_every == 0 || (i + 1) % sliding->full_every != 0);
        status = types != NULL ? is_sliding(types, what, i, &slides) : SL_OK;
        if (status != SL_OK)
            return status;
        config->windows[i] = slides ? (uint32_t)window : 0;
        if (slides)
            config->rope_of[i] = sliding->rope;
    }
    return SL_OK;
}

sl_status model_config_refuse(const json_t *root, const char *what, const char *field)
{
    bool value;
    sl_status status = sl_json_bool(root, what, field, false, &value);
    if (status == SL_OK && value)
        return sl_fail(SL_UNSUPPORTED, "%s: %s is true; want false", what, field);
    return status;
}

static sl_status read_activation(const json_t *root, const char *what, struct model_config *config)
{
    const char *name;
    sl_status status = SL_OK;
    if (config->family->is_gelu)
        name = "gelu_pytorch_tanh";
    else
        status = sl_json_text(root, what, "hidden_act", "silu", &name);
    if (status == SL_OK)
        status = sl_json_text(root, what, "hidden_activation", name, &name);
    if (status != SL_OK)
        return status;
    if (strcmp(name, "silu") == 0)
        config->activation = KERNEL_SILU;
    else if (strcmp(name, "gelu_pytorch_tanh") == 0)
        config->activation = KERNEL_GELU_TANH;
    else
        return sl_fail(SL_UNSUPPORTED, "%s: hidden_act is '%s'; want silu or gelu_pytorch_tanh",
                       what, name);
    return SL_OK;
}

/* A checkpoint that was quantised is not what its tensors' types say. */
static sl_status check_plain(const json_t *root, const char *what)
{
    const json_t *quantization = json_object_get(root, "quantization_config");
    if (quantization != NULL && !json_is_null(quantization))
        return sl_fail(SL_UNSUPPORTED, "%s: quantization_config: quantised weights", what);
    return SL_OK;
}

static sl_status add_eos(const json_t *value, const char *what, struct model_config *config)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value))
        return sl_fail(SL_INVALID, "%s: eos_token_id must be an id or a list of ids", what);
    if (id < 0 || id >= (json_int_t)config->vocab)
        return sl_fail(SL_INVALID,
                       "%s: eos_token_id is %" JSON_INTEGER_FORMAT "; want ids below vocab_size %u",
                       what, id, config->vocab);
    for (uint32_t i = 0; i < config->n_eos_ids; i++)
        if (config->eos_ids[i] == (uint32_t)id)
            return SL_OK;
    if (config->n_eos_ids == MODEL_CONFIG_EOS_MAX)
        return sl_fail(SL_INVALID, "%s: eos_token_id: more than %d ids", what,
                       MODEL_CONFIG_EOS_MAX);
    config->eos_ids[config->n_eos_ids++] = (uint32_t)id;
    return SL_OK;
}

sl_status model_config_add_eos(const json_t *root, const char *what, struct model_config *config)
{
    if (!json_is_object(root))
        return sl_fail(SL_INVALID, "%s: not an object", what);
    const json_t *value = json_object_get(root, "eos_token_id");
    if (value == NULL || json_is_null(value))
        return SL_OK;
    if (!json_is_array(value))
        return add_eos(value, what, config);
    for (size_t i = 0; i < json_array_size(value); i++) {
        sl_status status = add_eos(json_array_get(value, i), what, config);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status find_family(const json_t *root, const char *what,
                             const struct model_family **family_out)
{
    const char *type;
    sl_status status = sl_json_text(root, what, "model_type", NULL, &type);
    if (status != SL_OK)
        return status;
    if (type == NULL)
        return sl_fail(SL_INVALID, "%s: model_type is missing", what);
    *family_out = model_family_find(type);
    if (*family_out == NULL)
        return sl_fail(SL_UNSUPPORTED, "%s: model_type is '%.64s'; want one of %s", what, type,
                       model_family_names());
    return SL_OK;
}

/* The text model's part of the configuration. */
static sl_status find_text(const json_t *root, const char *what, const struct model_family *family,
                           const json_t **text_out)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    *text_out = root;
    if (strcmp(type, family->name) == 0)
        return SL_OK;
    *text_out = json_object_get(root, "text_config");
    if (!json_is_object(*text_out))
        return sl_fail(SL_INVALID, "%s: text_config must be an object, since model_type is '%s'",
                       what, type);
    return check_plain(*text_out, what);
}

static sl_status read_rope(const json_t *root, const char *what, struct model_config *config)
{
    struct model_rope *rope = &config->ropes[0];
    double theta = config->family->defaults.rope_theta;
    *rope = (struct model_rope){
        .theta = theta > 0 ? theta : 10000, .partial = 1, .factor = 1, .attention_factor = 1};
    config->ropes[1] = *rope;
    config->n_ropes = 1;
    sl_status status = sl_json_number(root, what, "rope_theta", rope->theta, 1, 1e30, &rope->theta);
    if (status == SL_OK)
        status = model_config_read_rope(root, what, NULL, config, rope);
    return status;
}

static sl_status read_text(const json_t *root, const char *what, struct model_config *config)
{
    sl_status status = read_sizes(root, what, config);
    if (status == SL_OK)
        status = check_heads(what, config);
    if (status == SL_OK)
        status = read_rope(root, what, config);
    if (status == SL_OK)
        status = read_activation(root, what, config);
    if (status == SL_OK)
        status = sl_json_number(root, what, "rms_norm_eps", 1e-6, 0, 1, &config->norm_eps);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "tie_word_embeddings", false, &config->tied);
    if (status != SL_OK)
        return status;
    config->attention_scale = 1 / sqrt((double)config->head_dim);
    status = config->family->configure(root, what, config);
    for (uint32_t i = 0; i < config->n_ropes && status == SL_OK; i++)
        status = model_rope_check(&config->ropes[i], what, config->head_dim);
    if (status == SL_OK)
        status = model_config_add_eos(root, what, config);
    return status;
}

sl_status model_config_parse(const json_t *root, const char *what, struct model_config *config_out)
{
    struct model_config config = {.embedding_scale = 1, .logits_scale = 1};
    const json_t *text = NULL;
    sl_status status = find_family(root, what, &config.family);
    if (status == SL_OK)
        status = check_plain(root, what);
    if (status == SL_OK)
        status = find_text(root, what, config.family, &text);
    if (status == SL_OK)
        status = read_text(text, what, &config);
    if (status == SL_OK && text != root)
        status = model_config_add_eos(root, what, &config);
    if (status == SL_OK)
        *config_out = config;
    return status;
}

sl_status model_config_load(const char *directory, struct model_config *config_out)
{
    char *path = sl_asprintf("%s/config.json", directory);
    char *generation_path = sl_asprintf("%s/generation_config.json", directory);
    json_t *root = NULL, *generation = NULL;
    struct model_config config = {0};

    sl_status status = sl_json_load(path, MODEL_CONFIG_BYTES_MAX, &root);
    if (status == SL_OK)
        status = model_config_parse(root, path, &config);
    if (status != SL_OK)
        goto end;
    status = sl_json_load(generation_path, MODEL_CONFIG_BYTES_MAX, &generation);
    if (status == SL_OK)
        status = model_config_add_eos(generation, generation_path, &config);
    else if (status == SL_NOT_FOUND)
        status = SL_OK;
    if (status == SL_OK)
        *config_out = config;
end:
    json_decref(root);
    json_decref(generation);
    sl_free(path);
    sl_free(generation_path);
    return status;
}

sl_status model_config_limit(struct model_config *config, uint32_t context_max)
{
    if (context_max == 0 || context_max > config->context_max)
        return sl_fail(SL_INVALID, "a context of %u tokens; the model has 1..%u", context_max,
                       config->context_max);
    config->context_max = context_max;
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->windows[i] >= context_max)
            config->windows[i] = 0;
    return SL_OK;
}

static void digest_rope(const struct model_config *config, const struct model_rope *rope,
                        struct model_sha256 *sha)
{
    char text[512];
    int n = snprintf(text, sizeof(text), "rope %d %a %a %a %u llama3 %a %a yarn %a %a %d scale %a",
                     (int)rope->type, rope->theta, rope->partial, rope->factor,
                     rope->original_context, rope->low_freq_factor, rope->high_freq_factor,
                     rope->beta_fast, rope->beta_slow, rope->truncate, rope->attention_factor);
    SL_ASSERT(n > 0 && (size_t)n < sizeof(text));
    model_sha256_add(sha, text, (size_t)n);
    const float *factors = model_rope_factors(rope, config->context_max);
    model_sha256_add(sha, factors, rope->n_factors * sizeof(float));
}

void model_config_digest(const struct model_config *config, uint8_t digest_out[32])
{
    char text[1024];
    int n = snprintf(
        text, sizeof(text),
        "%s hidden %u layers %u heads %u/%u/%u mlp %u vocab %u tied %d bias %d/%d norm "
        "%d/%a eps %a scale %a/%a/%a cap %a/%a activation %d experts %u/%u/%u/%d",
        config->family->name, config->hidden, config->n_layers, config->n_heads, config->n_kv_heads,
        config->head_dim, config->mlp_hidden, config->vocab, config->tied, config->attention_bias,
        config->out_bias, (int)config->qk_norm, config->norm_offset, config->norm_eps,
        config->embedding_scale, config->attention_scale, config->logits_scale,
        config->attention_softcap, config->logits_softcap, (int)config->activation,
        config->n_experts, config->n_chosen, config->expert_hidden, config->renormalise);
    SL_ASSERT(n > 0 && (size_t)n < sizeof(text));
    struct model_sha256 *sha = model_sha256_create();
    model_sha256_add(sha, text, (size_t)n);
    model_sha256_add(sha, config->windows, sizeof(config->windows));
    model_sha256_add(sha, config->rope_of, sizeof(config->rope_of));
    model_sha256_add(sha, config->has_experts, sizeof(config->has_experts));
    for (uint32_t i = 0; i < config->n_ropes; i++)
        digest_rope(config, &config->ropes[i], sha);
    model_sha256_finish(sha, digest_out);
}
