/* rope_parameters, rope_scaling -> struct model_rope -> frequencies.
 *
 * The frequencies are computed in f32, step by step as transformers computes them: at position 16,000
 * the last bit of a frequency is a thousandth of a radian.
 *
 * Keys are cached and shared by their tokens, so an angle must be a function of the position only. Two
 * types depend on the length of the sequence in transformers (docs/decisions/0005):
 *   dynamic   changes every frequency once a sequence is longer than max_position_embeddings. It is
 *             served up to that length, where it is the plain rope.
 *   longrope  takes the short list up to original_max_position_embeddings, the long one beyond. The
 *             length that is served decides for all sequences.
 *
 * Pure; any thread. Sources: Su et al. 2021; Peng et al. 2023 (YaRN); Ding et al. 2024 (LongRoPE);
 * transformers' modeling_rope_utils. */
#include "model/rope.h"

#include <math.h>
#include <string.h>

/* ---- reading ---- */

static sl_status read_factor(const json_t *object, const char *what, const char *type,
                             struct model_rope *rope)
{
    sl_status status = sl_json_number(object, what, "factor", 0, 1, 1e6, &rope->factor);
    if (status == SL_OK && !(rope->factor >= 1))
        return sl_fail(SL_INVALID, "%s: rope type %s wants a factor", what, type);
    return status;
}

/* Outside of the object it counts more, as in transformers. */
static sl_status read_original(const json_t *object, const char *what,
                               const struct model_rope_context *context, uint32_t fallback,
                               struct model_rope *rope)
{
    uint64_t original;
    sl_status status = sl_json_uint(object, what, "original_max_position_embeddings", fallback, 1,
                                    MODEL_ROPE_CONTEXT_MAX, &original);
    if (status == SL_OK)
        rope->original_context =
            context->original_context != 0 ? context->original_context : (uint32_t)original;
    return status;
}

static sl_status read_llama3(const json_t *object, const char *what,
                             const struct model_rope_context *context, struct model_rope *rope)
{
    sl_status status = read_factor(object, what, "llama3", rope);
    if (status == SL_OK)
        status = read_original(object, what, context, 0, rope);
    if (status == SL_OK)
        status =
            sl_json_number(object, what, "low_freq_factor", 0, 1e-3, 1e6, &rope->low_freq_factor);
    if (status == SL_OK)
        status =
            sl_json_number(object, what, "high_freq_factor", 0, 1e-3, 1e6, &rope->high_freq_factor);
    if (status != SL_OK)
        return status;
    if (rope->original_context == 0 || !(rope->low_freq_factor > 0) ||
        !(rope->high_freq_factor > rope->low_freq_factor))
        return sl_fail(SL_INVALID,
                       "%s: rope type llama3 wants original_max_position_embeddings, "
                       "low_freq_factor and a larger high_freq_factor",
                       what);
    return SL_OK;
}

/* 0.1 m ln(scale) + 1, Peng et al. 2023 */
static double yarn_scale(double scale, double m)
{
    return scale <= 1 ? 1 : 0.1 * m * log(scale) + 1;
}

/* A value that is absent or 0 is the default, as in transformers. */
static sl_status read_beta(const json_t *object, const char *what, const char *field,
                           double fallback, double *value_out)
{
    sl_status status = sl_json_number(object, what, field, fallback, 0, 1e6, value_out);
    if (status == SL_OK && !(*value_out > 0))
        *value_out = fallback;
    return status;
}

static sl_status read_yarn(const json_t *object, const char *what,
                           const struct model_rope_context *context, struct model_rope *rope)
{
    double mscale, mscale_all, factor;
    sl_status status = read_original(object, what, context, context->context_max, rope);
    if (status == SL_OK)
        status = sl_json_number(object, what, "factor",
                                (double)context->context_max / rope->original_context, 1, 1e6,
                                &rope->factor);
    if (status == SL_OK)
        status = read_beta(object, what, "beta_fast", 32, &rope->beta_fast);
    if (status == SL_OK)
        status = read_beta(object, what, "beta_slow", 1, &rope->beta_slow);
    if (status == SL_OK)
        status = sl_json_bool(object, what, "truncate", true, &rope->truncate);
    if (status == SL_OK)
        status = sl_json_number(object, what, "mscale", 0, 0, 1e3, &mscale);
    if (status == SL_OK)
        status = sl_json_number(object, what, "mscale_all_dim", 0, 0, 1e3, &mscale_all);
    if (status != SL_OK)
        return status;
    if (rope->theta <= 1)
        return sl_fail(SL_INVALID, "%s: rope_theta is %g; rope type yarn wants more than 1", what,
                       rope->theta);
    factor = mscale > 0 && mscale_all > 0
                 ? yarn_scale(rope->factor, mscale) / yarn_scale(rope->factor, mscale_all)
                 : yarn_scale(rope->factor, 1);
    return sl_json_number(object, what, "attention_factor", factor, 1e-3, 1e3,
                          &rope->attention_factor);
}

static sl_status read_factors(const json_t *object, const char *what, const char *field,
                              float *factors_out, uint32_t *n_out)
{
    const json_t *list = json_object_get(object, field);
    size_t n = json_array_size(list); /* 0 when it is none */
    if (n == 0 || n > MODEL_ROPE_PAIRS_MAX)
        return sl_fail(SL_INVALID, "%s: %s must be a list of 1..%d numbers", what, field,
                       MODEL_ROPE_PAIRS_MAX);
    for (size_t i = 0; i < n; i++) {
        double value = json_number_value(json_array_get(list, i));
        if (!(value >= 1e-3 && value <= 1e6))
            return sl_fail(SL_INVALID, "%s: %s[%zu] is %g; want 0.001..1e+06", what, field, i,
                           value);
        factors_out[i] = (float)value;
    }
    *n_out = (uint32_t)n;
    return SL_OK;
}

static sl_status read_longrope(const json_t *object, const char *what,
                               const struct model_rope_context *context, struct model_rope *rope)
{
    uint32_t n_long = 0;
    sl_status status = read_original(object, what, context, 0, rope);
    if (status == SL_OK && rope->original_context == 0)
        return sl_fail(SL_INVALID, "%s: rope type longrope wants original_max_position_embeddings",
                       what);
    if (status == SL_OK)
        status = sl_json_number(object, what, "factor",
                                (double)context->context_max / rope->original_context, 1e-3, 1e6,
                                &rope->factor);
    if (status == SL_OK)
        status = read_factors(object, what, "short_factor", rope->short_factors, &rope->n_factors);
    if (status == SL_OK)
        status = read_factors(object, what, "long_factor", rope->long_factors, &n_long);
    if (status != SL_OK)
        return status;
    if (n_long != rope->n_factors)
        return sl_fail(SL_INVALID, "%s: long_factor has %u numbers, short_factor %u", what, n_long,
                       rope->n_factors);
    double factor = 1;
    if (rope->factor > 1 && rope->original_context > 1)
        factor = sqrt(1 + log(rope->factor) / log((double)rope->original_context));
    return sl_json_number(object, what, "attention_factor", factor, 1e-3, 1e3,
                          &rope->attention_factor);
}

sl_status model_rope_read(const json_t *object, const char *what,
                          const struct model_rope_context *context, struct model_rope *rope)
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
    if (strcmp(type, "dynamic") == 0) /* the plain rope, within the length that is served */
        return read_factor(object, what, type, rope);
    if (strcmp(type, "linear") == 0) {
        rope->type = MODEL_ROPE_LINEAR;
        return read_factor(object, what, type, rope);
    }
    if (strcmp(type, "llama3") == 0) {
        rope->type = MODEL_ROPE_LLAMA3;
        return read_llama3(object, what, context, rope);
    }
    if (strcmp(type, "yarn") == 0) {
        rope->type = MODEL_ROPE_YARN;
        return read_yarn(object, what, context, rope);
    }
    if (strcmp(type, "longrope") == 0) {
        rope->type = MODEL_ROPE_LONGROPE;
        return read_longrope(object, what, context, rope);
    }
    return sl_fail(SL_UNSUPPORTED,
                   "%s: rope type is '%s'; want default, linear, dynamic, llama3, yarn or longrope",
                   what, type);
}

sl_status model_rope_check(const struct model_rope *rope, const char *what, uint32_t head_dim)
{
    uint32_t n_pairs = model_rope_dim(rope, head_dim) / 2;
    if (rope->type == MODEL_ROPE_LONGROPE && rope->n_factors != n_pairs)
        return sl_fail(SL_INVALID,
                       "%s: short_factor and long_factor have %u numbers; want %u, the pairs of a "
                       "head that turn",
                       what, rope->n_factors, n_pairs);
    return SL_OK;
}

/* ---- frequencies ---- */

uint32_t model_rope_dim(const struct model_rope *rope, uint32_t head_dim)
{
    return (uint32_t)((double)head_dim * rope->partial) & ~1u;
}

/* Wavelengths over original_context / low are divided by factor, those under original_context / high
 * kept, between them it goes over smoothly. */
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

/* The pair that turns `turns` times within original_context, as a fraction. */
static double yarn_pair(const struct model_rope *rope, uint32_t dim, double turns)
{
    const double tau = 6.283185307179586476925;
    return dim * log(rope->original_context / (turns * tau)) / (2 * log(rope->theta));
}

struct yarn_ramp {
    float low, width; /* pairs up to low are kept; from low + width on divided by factor */
};

static struct yarn_ramp yarn_ramp_of(const struct model_rope *rope, uint32_t dim)
{
    double low = yarn_pair(rope, dim, rope->beta_fast);
    double high = yarn_pair(rope, dim, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)dim - 1);
    if (low == high)
        high += 0.001;
    return (struct yarn_ramp){(float)low, (float)(high - low)};
}

static float yarn_scaled(const struct model_rope *rope, const struct yarn_ramp *ramp, uint32_t pair,
                         float wave)
{
    float at = ((float)pair - ramp->low) / ramp->width;
    float kept = 1 - fminf(fmaxf(at, 0), 1);
    return 1.0f / ((float)rope->factor * wave) * (1 - kept) + 1.0f / wave * kept;
}

const float *model_rope_factors(const struct model_rope *rope, uint32_t context_max)
{
    return context_max > rope->original_context ? rope->long_factors : rope->short_factors;
}

void model_rope_inv_freq(const struct model_rope *rope, uint32_t head_dim, uint32_t context_max,
                         float *inv_freq_out)
{
    uint32_t dim = model_rope_dim(rope, head_dim);
    const float *factors = model_rope_factors(rope, context_max);
    struct yarn_ramp ramp = {0, 1};
    if (rope->type == MODEL_ROPE_YARN)
        ramp = yarn_ramp_of(rope, dim);
    for (uint32_t i = 0; i < dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)dim;
        float wave = (float)pow((double)(float)rope->theta, (double)exponent);
        float inv_freq = 1.0f / wave;
        switch (rope->type) {
        case MODEL_ROPE_DEFAULT:
            break;
        case MODEL_ROPE_LINEAR:
            inv_freq /= (float)rope->factor;
            break;
        case MODEL_ROPE_LLAMA3:
            inv_freq = llama3_scaled(rope, inv_freq);
            break;
        case MODEL_ROPE_YARN:
            inv_freq = yarn_scaled(rope, &ramp, i, wave);
            break;
        case MODEL_ROPE_LONGROPE:
            SL_ASSERT(i < rope->n_factors);
            inv_freq = 1.0f / (factors[i] * wave);
            break;
        }
        inv_freq_out[i] = inv_freq;
    }
}
