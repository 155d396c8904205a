/* config.json -> struct model_config.
 *
 * Two spellings are in use: rope_theta, rope_scaling and torch_dtype at the top level; and since
 * transformers 5 rope_parameters {rope_theta, rope_type, …} and dtype. Where both are given the
 * newer one counts, as in transformers. Every number is checked against a bound before it is used as
 * a size. What would change the logits and is not known here is refused, not ignored: a wrong answer
 * is worse than none.
 *
 * The rotary frequencies are computed in f32, step by step as transformers computes them: at
 * position 16,000 the last bit of a frequency is a thousandth of a radian.
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
    const struct uint_field first[] = {
        {.name = "hidden_size", .value_out = &config->hidden, .max = HIDDEN_MAX},
        {.name = "num_hidden_layers", .value_out = &config->n_layers, .max = KV_LAYERS_MAX},
        {.name = "num_attention_heads", .value_out = &config->n_heads, .max = HEADS_MAX},
        {.name = "intermediate_size", .value_out = &config->mlp_hidden, .max = 1u << 20},
        {.name = "vocab_size", .value_out = &config->vocab, .max = VOCAB_MAX},
        {.name = "max_position_embeddings",
         .value_out = &config->context_max,
         .fallback = 2048,
         .max = 1u << 26},
    };
    for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
        sl_status status = read_uint(root, what, &first[i]);
        if (status != SL_OK)
            return status;
    }
    const struct uint_field second[] = {
        {.name = "num_key_value_heads",
         .value_out = &config->n_kv_heads,
         .fallback = config->n_heads,
         .max = HEADS_MAX},
        {.name = "head_dim",
         .value_out = &config->head_dim,
         .fallback = config->hidden / config->n_heads,
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
    if (config->head_dim % 8 != 0 || config->head_dim > KERNEL_HEAD_DIM_MAX)
        return sl_fail(SL_UNSUPPORTED, "%s: head_dim is %u; want a multiple of 8 up to %u", what,
                       config->head_dim, KERNEL_HEAD_DIM_MAX);
    return SL_OK;
}

/* ---- rope ---- */

static sl_status read_llama3(const json_t *object, const char *what, struct model_rope *rope)
{
    uint64_t original;
    sl_status status =
        sl_json_uint(object, what, "original_max_position_embeddings", 0, 1, 1u << 26, &original);
    if (status == SL_OK)
        status =
            sl_json_number(object, what, "low_freq_factor", 0, 1e-3, 1e6, &rope->low_freq_factor);
    if (status == SL_OK)
        status =
            sl_json_number(object, what, "high_freq_factor", 0, 1e-3, 1e6, &rope->high_freq_factor);
    if (status != SL_OK)
        return status;
    if (original == 0 || !(rope->low_freq_factor > 0) ||
        !(rope->high_freq_factor > rope->low_freq_factor))
        return sl_fail(SL_INVALID,
                       "%s: rope type llama3 wants original_max_position_embeddings, "
                       "low_freq_factor and a larger high_freq_factor",
                       what);
    rope->original_context = (uint32_t)original;
    return SL_OK;
}

/* `object` is rope_parameters or rope_scaling. */
static sl_status read_rope_object(const json_t *object, const char *what, struct model_rope *rope)
{
    const char *type, *old_type;
    sl_status status = sl_json_text(object, what, "type", "default", &old_type);
    if (status == SL_OK)
        status = sl_json_text(object, what, "rope_type", old_type, &type);
    if (status == SL_OK)
        status = sl_json_number(object, what, "rope_theta", rope->theta, 1, 1e30, &rope->theta);
    if (status == SL_OK)
        status = sl_json_number(object, what, "partial_rotary_factor", rope->partial, 0.01, 1,
                                &rope->partial);
    if (status != SL_OK || strcmp(type, "default") == 0)
        return status;
    if (strcmp(type, "linear") == 0)
        rope->type = MODEL_ROPE_LINEAR;
    else if (strcmp(type, "llama3") == 0)
        rope->type = MODEL_ROPE_LLAMA3;
    else
        return sl_fail(SL_UNSUPPORTED, "%s: rope type is '%s'; want default, linear or llama3",
                       what, type);
    status = sl_json_number(object, what, "factor", 0, 1, 1e6, &rope->factor);
    if (status != SL_OK)
        return status;
    if (!(rope->factor >= 1))
        return sl_fail(SL_INVALID, "%s: rope type %s wants a factor", what, type);
    return rope->type == MODEL_ROPE_LLAMA3 ? read_llama3(object, what, rope) : SL_OK;
}

static sl_status read_rope(const json_t *root, const char *what, struct model_config *config)
{
    struct model_rope *rope = &config->rope;
    sl_status status = sl_json_number(root, what, "rope_theta", rope->theta, 1, 1e30, &rope->theta);
    if (status == SL_OK)
        status = sl_json_number(root, what, "partial_rotary_factor", rope->partial, 0.01, 1,
                                &rope->partial);
    if (status != SL_OK)
        return status;
    const char *names[] = {"rope_parameters", "rope_scaling"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *object = json_object_get(root, names[i]);
        if (object == NULL || json_is_null(object))
            continue;
        char where[256];
        snprintf(where, sizeof(where), "%.200s: %s", what, names[i]);
        return read_rope_object(object, where, rope);
    }
    return SL_OK;
}

uint32_t model_config_rotary_dim(const struct model_config *config)
{
    return (uint32_t)((double)config->head_dim * config->rope.partial) & ~1u;
}

/* Wavelengths over original_context / low are divided by factor, those under original_context / high
 * kept, between them it goes over smoothly. Source: transformers, llama3 rope. */
static float llama3_scaled(const struct model_rope *rope, float inv_freq)
{
    const float context = (float)rope->original_context, factor = (float)rope->factor;
    const float low = (float)rope->low_freq_factor, high = (float)rope->high_freq_factor;
    float wavelength = 6.2831853071795864769f / inv_freq;
    if (wavelength > context / low)
        return inv_freq / factor;
    if (wavelength < context / high)
        return inv_freq;
    float smooth = (context / wavelength - low) / (high - low);
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq;
}

void model_config_inv_freq(const struct model_config *config, float *inv_freq_out)
{
    const struct model_rope *rope = &config->rope;
    uint32_t dim = model_config_rotary_dim(config);
    for (uint32_t i = 0; i < dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)dim;
        float inv_freq = 1.0f / (float)pow((double)(float)rope->theta, (double)exponent);
        if (rope->type == MODEL_ROPE_LINEAR)
            inv_freq /= (float)rope->factor;
        else if (rope->type == MODEL_ROPE_LLAMA3)
            inv_freq = llama3_scaled(rope, inv_freq);
        inv_freq_out[i] = inv_freq;
    }
}

/* ---- the rest ---- */

sl_status model_config_read_window(const json_t *root, const char *what,
                                   struct model_config *config)
{
    uint64_t window;
    sl_status status = sl_json_uint(root, what, "sliding_window", 0, 1, UINT32_MAX - 1, &window);
    if (status == SL_OK)
        config->window = (uint32_t)window;
    return status;
}

static sl_status read_activation(const json_t *root, const char *what, struct model_config *config)
{
    const char *name;
    if (config->family->is_gelu) {
        config->activation = KERNEL_GELU_TANH;
        return SL_OK;
    }
    sl_status status = sl_json_text(root, what, "hidden_act", "silu", &name);
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
    if (!json_is_integer(value) || id < 0 || id >= (json_int_t)config->vocab)
        return sl_fail(SL_INVALID, "%s: eos_token_id must be ids below vocab_size %u", what,
                       config->vocab);
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

sl_status model_config_parse(const json_t *root, const char *what, struct model_config *config_out)
{
    struct model_config config = {.embedding_scale = 1,
                                  .logits_scale = 1,
                                  .rope = {.theta = 10000, .partial = 1, .factor = 1}};
    sl_status status = find_family(root, what, &config.family);
    if (status == SL_OK)
        status = check_plain(root, what);
    if (status == SL_OK)
        status = read_sizes(root, what, &config);
    if (status == SL_OK)
        status = check_heads(what, &config);
    if (status == SL_OK)
        status = read_rope(root, what, &config);
    if (status == SL_OK)
        status = read_activation(root, what, &config);
    if (status == SL_OK)
        status = sl_json_number(root, what, "rms_norm_eps", 1e-6, 0, 1, &config.norm_eps);
    if (status == SL_OK)
        status = sl_json_bool(root, what, "tie_word_embeddings", false, &config.tied);
    if (status != SL_OK)
        return status;
    config.attention_scale = 1 / sqrt((double)config.head_dim);
    status = config.family->configure(root, what, &config);
    if (status == SL_OK)
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

void model_config_digest(const struct model_config *config, uint8_t digest_out[32])
{
    const struct model_rope *rope = &config->rope;
    char text[1024];
    int n = snprintf(
        text, sizeof(text),
        "%s hidden %u layers %u heads %u/%u/%u mlp %u vocab %u tied %d bias %d/%d norm "
        "%d/%a eps %a "
        "scale %a/%a/%a window %u/%u activation %d rope %d %a %a %a %a %a %u",
        config->family->name, config->hidden, config->n_layers, config->n_heads, config->n_kv_heads,
        config->head_dim, config->mlp_hidden, config->vocab, config->tied, config->attention_bias,
        config->out_bias, config->qk_norm, config->norm_offset, config->norm_eps,
        config->embedding_scale, config->attention_scale, config->logits_scale, config->window,
        config->window_first_layer, (int)config->activation, (int)rope->type, rope->theta,
        rope->partial, rope->factor, rope->low_freq_factor, rope->high_freq_factor,
        rope->original_context);
    SL_ASSERT(n > 0 && (size_t)n < sizeof(text));
    struct model_sha256 *sha = model_sha256_create();
    model_sha256_add(sha, text, (size_t)n);
    model_sha256_add(sha, config->no_rope, sizeof(config->no_rope));
    model_sha256_finish(sha, digest_out);
}
