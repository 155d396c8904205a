/* The sampler: logits in, one token out.
 *
 * What a token is: stop ids that may not come yet are masked, then adjust.h has its way; logprobs stay
 * those of the raw logits. Greedy takes the largest logit. Else the weights are exp((logit - max) /
 * temperature). Tokens are ranked by logit, ties to the lower id. top_k keeps the first k; top_p
 * keeps, of what is left, the shortest prefix of the ranking whose weight reaches top_p of it; min_p
 * drops what weighs less than min_p of the first. A number in [0, 1) that depends on (seed, position)
 * only is then laid over the kept tokens' weights in the order of their ids.
 *
 * How it is found: nothing is sorted. A logit becomes a 32-bit key of the same order; a prefix of
 * the ranking is "key above a threshold, and the first n of those equal to it", and the threshold
 * is found by three passes of histograms over 11, 11 and 10 bits of the key, each bucket with its
 * count and its weight. That is linear in the vocabulary whatever k and p are: one to two milliseconds
 * for 150,000 tokens at worst. Sums are in f64 in the order of the ids, so that they repeat.
 *
 * exp is a polynomial that the compiler vectorises (2^n from the exponent bits; relative error under
 * 2e-7). A heap for small k was tried on paper: no faster than one histogram, and worse at large k.
 *
 * One sampler belongs to one thread. */
#include "model/sampler.h"

#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define BUCKETS_MAX 2048

struct model_sampler {
    uint32_t vocab;
    float *masked;  /* [vocab]: the logits as they are chosen from, where they differ */
    float *weights; /* [vocab] */
    uint32_t *keys; /* [vocab] */
    uint32_t counts[BUCKETS_MAX];
    double masses[BUCKETS_MAX];
};

/* A prefix of the ranking: tokens with a key above `threshold`, and the first n_equal of those at it. */
struct prefix {
    uint32_t threshold;
    uint32_t n_equal;
};

sl_status model_sampler_create(uint32_t vocab, struct model_sampler **sampler_out)
{
    struct model_sampler *sampler = sl_zalloc(1, sizeof(*sampler));
    sampler->vocab = vocab;
    sampler->masked = sl_try_zalloc(vocab, sizeof(float));
    sampler->weights = sl_try_zalloc(vocab, sizeof(float));
    sampler->keys = sl_try_zalloc(vocab, sizeof(uint32_t));
    if (sampler->masked == NULL || sampler->weights == NULL || sampler->keys == NULL) {
        model_sampler_destroy(sampler);
        return sl_fail(SL_NO_MEMORY, "sampler of %u tokens", vocab);
    }
    *sampler_out = sampler;
    return SL_OK;
}

void model_sampler_destroy(struct model_sampler *sampler)
{
    if (sampler == NULL)
        return;
    sl_free(sampler->masked);
    sl_free(sampler->weights);
    sl_free(sampler->keys);
    sl_free(sampler);
}

sl_status model_sampling_check(const struct model_sampling *sampling)
{
    if (!(sampling->temperature >= 0 && sampling->temperature <= MODEL_TEMPERATURE_MAX))
        return sl_fail(SL_INVALID, "temperature %g; want 0..%g", (double)sampling->temperature,
                       (double)MODEL_TEMPERATURE_MAX);
    if (!(sampling->top_p > 0 && sampling->top_p <= 1))
        return sl_fail(SL_INVALID, "top_p %g; want above 0, up to 1", (double)sampling->top_p);
    if (!(sampling->min_p >= 0 && sampling->min_p <= 1))
        return sl_fail(SL_INVALID, "min_p %g; want 0..1", (double)sampling->min_p);
    if (sampling->n_logprobs < -1 || sampling->n_logprobs > MODEL_LOGPROBS_MAX)
        return sl_fail(SL_INVALID, "logprobs %" PRId32 "; want -1..%d", sampling->n_logprobs,
                       MODEL_LOGPROBS_MAX);
    if (sampling->n_stop_ids > MODEL_STOP_IDS_MAX)
        return sl_fail(SL_INVALID, "%u stop ids; at most %d", sampling->n_stop_ids,
                       MODEL_STOP_IDS_MAX);
    return SL_OK;
}

/* ---- arithmetic ---- */

/* e^x for x <= 0; 0 below -87. Its comparisons are of the bits, which for negative floats order the
 * other way round: a comparison of floats becomes a branch, and the loop is not vectorised. */
static inline float exp_negative(float x)
{
    const float magic = 12582912.0f;     /* 1.5 * 2^23: adding it rounds to an integer */
    const uint32_t lowest = 0xc2ae0000u; /* -87 */
    uint32_t x_bits, kept;
    float clamped;
    memcpy(&x_bits, &x, sizeof(x_bits));
    kept = x_bits < lowest ? x_bits : lowest;
    memcpy(&clamped, &kept, sizeof(clamped));
    float shifted = clamped * 1.44269504f + magic;
    float n = shifted - magic;
    float r = clamped - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 127u) << 23; /* the magic number's own bits are shifted out */
    bits = x_bits < lowest ? bits : 0;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

/* weights = exp((logit - max) * inverse), vectorised: nothing else may be in the loop. */
static void weigh(struct model_sampler *sampler, const float *logits, float max, float inverse)
{
    float *restrict weights = sampler->weights;
    const uint32_t n = sampler->vocab;
    for (uint32_t i = 0; i < n; i++)
        weights[i] = exp_negative((logits[i] - max) * inverse);
}

/* Keys order as floats do; -0 and +0 alike. */
static inline uint32_t key_of(float x)
{
    float y = x + 0.0f;
    uint32_t bits;
    memcpy(&bits, &y, sizeof(bits));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform in [0, 1), of (seed, position) alone: splitmix64 at a counter. */
static double uniform(uint64_t seed, uint32_t position)
{
    uint64_t state = mix(seed + 0x9e3779b97f4a7c15u);
    state = mix(state + (position + UINT64_C(1)) * 0x9e3779b97f4a7c15u);
    return (double)(state >> 11) * 0x1p-53;
}

/* The largest logit; SL_CORRUPT for NaN, +inf, or when all are -inf. */
static sl_status find_max(const float *logits, uint32_t n, float *max_out)
{
    float max = -INFINITY;
    uint32_t n_nan = 0;
    for (uint32_t i = 0; i < n; i++) {
        n_nan += logits[i] != logits[i];
        max = logits[i] > max ? logits[i] : max;
    }
    if (n_nan > 0)
        return sl_fail(SL_CORRUPT, "logits: %u of %u are not a number", n_nan, n);
    if (isinf(max))
        return sl_fail(SL_CORRUPT, "logits: the largest of %u is %sinfinite", n,
                       max > 0 ? "" : "minus ");
    *max_out = max;
    return SL_OK;
}

static uint32_t first_equal(const float *logits, uint32_t n, float value)
{
    for (uint32_t i = 0; i < n; i++)
        if (logits[i] == value)
            return i;
    SL_ASSERT(!"the largest logit is there");
    return 0;
}

/* ---- prefixes of the ranking ---- */

/* Where the prefix ends among the buckets of one pass. `left` is lowered by what lies above. */
static uint32_t walk_counts(const struct model_sampler *sampler, uint32_t n_buckets, uint64_t *left)
{
    for (uint32_t b = n_buckets; b-- > 1;) {
        if (sampler->counts[b] >= *left)
            return b;
        *left -= sampler->counts[b];
    }
    return 0;
}

/* An empty bucket is never the end: rounding must not choose a key that nobody has. */
static uint32_t walk_masses(const struct model_sampler *sampler, uint32_t n_buckets, double *left)
{
    uint32_t last = 0;
    for (uint32_t b = n_buckets; b-- > 0;) {
        if (sampler->counts[b] == 0)
            continue;
        if (sampler->masses[b] >= *left)
            return b;
        *left -= sampler->masses[b];
        last = b;
    }
    /* The sums of the buckets fell short of the whole by rounding: the last bucket is in. */
    *left = sampler->masses[last];
    return last;
}

/* Histogram of `bits` bits at `shift` over the tokens that share `high` above them. */
static void fill_buckets(struct model_sampler *sampler, const struct prefix *within, uint32_t high,
                         uint32_t shift, uint32_t bits, bool with_mass)
{
    uint32_t n_buckets = 1u << bits, above = shift + bits;
    memset(sampler->counts, 0, n_buckets * sizeof(sampler->counts[0]));
    memset(sampler->masses, 0, n_buckets * sizeof(sampler->masses[0]));
    uint32_t n_equal = 0;
    for (uint32_t i = 0; i < sampler->vocab; i++) {
        uint32_t key = sampler->keys[i];
        if (key < within->threshold || (above < 32 && key >> above != high))
            continue;
        if (key == within->threshold && n_equal++ >= within->n_equal)
            continue;
        uint32_t b = key >> shift & (n_buckets - 1);
        sampler->counts[b]++;
        if (with_mass)
            sampler->masses[b] += (double)sampler->weights[i];
    }
}

static const struct pass {
    uint32_t shift, bits;
} passes[] = {{21, 11}, {10, 11}, {0, 10}};

/* The first k tokens; k below the vocabulary. */
static struct prefix first_k(struct model_sampler *sampler, uint32_t k)
{
    const struct prefix all = {.threshold = 0, .n_equal = UINT32_MAX};
    uint64_t left = k;
    uint32_t high = 0;
    for (size_t i = 0; i < sizeof(passes) / sizeof(passes[0]); i++) {
        fill_buckets(sampler, &all, high, passes[i].shift, passes[i].bits, false);
        high = high << passes[i].bits | walk_counts(sampler, 1u << passes[i].bits, &left);
    }
    return (struct prefix){.threshold = high, .n_equal = (uint32_t)left};
}

/* The shortest prefix of `within` whose weight reaches `mass`. */
static struct prefix first_mass(struct model_sampler *sampler, const struct prefix *within,
                                double mass)
{
    double left = mass;
    uint32_t high = 0, b = 0;
    for (size_t i = 0; i < sizeof(passes) / sizeof(passes[0]); i++) {
        fill_buckets(sampler, within, high, passes[i].shift, passes[i].bits, true);
        b = walk_masses(sampler, 1u << passes[i].bits, &left);
        high = high << passes[i].bits | b;
    }
    /* All tokens of the last bucket weigh the same. */
    uint32_t n = sampler->counts[b];
    double each = sampler->masses[b] / (double)n;
    double wanted = each > 0 ? ceil(left / each) : 1;
    uint32_t n_equal = wanted < 1 ? 1 : wanted > (double)n ? n : (uint32_t)wanted;
    return (struct prefix){.threshold = high, .n_equal = n_equal};
}

/* Sum of the weights of a prefix, in the order of the ids. */
static double mass_of(const struct model_sampler *sampler, const struct prefix *prefix)
{
    double sum = 0;
    uint32_t n_equal = 0;
    for (uint32_t i = 0; i < sampler->vocab; i++) {
        uint32_t key = sampler->keys[i];
        if (key > prefix->threshold || (key == prefix->threshold && n_equal++ < prefix->n_equal))
            sum += (double)sampler->weights[i];
    }
    return sum;
}

/* The token under `mark` of the prefix's weight, in the order of the ids. */
static uint32_t token_at(const struct model_sampler *sampler, const struct prefix *prefix,
                         double mark)
{
    double sum = 0;
    uint32_t n_equal = 0, last = 0;
    for (uint32_t i = 0; i < sampler->vocab; i++) {
        uint32_t key = sampler->keys[i];
        if (key < prefix->threshold || (key == prefix->threshold && n_equal++ >= prefix->n_equal))
            continue;
        if (!(sampler->weights[i] > 0))
            continue;
        sum += (double)sampler->weights[i];
        last = i;
        if (sum > mark)
            return i;
    }
    return last;
}

static uint32_t draw(struct model_sampler *sampler, const float *logits, float max,
                     const struct model_sampling *sampling, uint32_t position)
{
    /* A temperature below 1e-20 is as good as 1e-20, and has an inverse. */
    float temperature = sampling->temperature > 1e-20f ? sampling->temperature : 1e-20f;
    float inverse = 1.0f / temperature;
    weigh(sampler, logits, max, inverse);
    for (uint32_t i = 0; i < sampler->vocab; i++)
        sampler->keys[i] = key_of(logits[i]);
    struct prefix kept = {.threshold = 0, .n_equal = UINT32_MAX};
    if (sampling->top_k > 0 && sampling->top_k < sampler->vocab)
        kept = first_k(sampler, sampling->top_k);
    if (sampling->top_p < 1)
        kept = first_mass(sampler, &kept, (double)sampling->top_p * mass_of(sampler, &kept));
    if (sampling->min_p > 0) {
        for (uint32_t i = 0; i < sampler->vocab; i++)
            sampler->weights[i] =
                sampler->weights[i] < sampling->min_p ? 0.0f : sampler->weights[i];
    }
    double mass = mass_of(sampler, &kept);
    return token_at(sampler, &kept, uniform(sampling->seed, position) * mass);
}

/* ---- logprobs ---- */

/* log of the sum of exp(logit - max). */
static double log_sum(struct model_sampler *sampler, const float *logits, float max)
{
    weigh(sampler, logits, max, 1.0f);
    double sum = 0;
    for (uint32_t i = 0; i < sampler->vocab; i++)
        sum += (double)sampler->weights[i];
    return log(sum);
}

/* Ids of the n_top largest, ties to the lower id, by insertion into a short list. */
static void find_top(const float *logits, uint32_t n, uint32_t n_top, struct model_token *token)
{
    uint32_t have = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (have == n_top && logits[i] <= logits[token->top_ids[have - 1]])
            continue;
        uint32_t at = have < n_top ? have++ : have - 1;
        while (at > 0 && logits[token->top_ids[at - 1]] < logits[i]) {
            token->top_ids[at] = token->top_ids[at - 1];
            at--;
        }
        token->top_ids[at] = i;
    }
    token->n_top = have;
}

static void add_logprobs(struct model_sampler *sampler, const float *logits, float max,
                         uint32_t n_top, struct model_token *token)
{
    uint32_t n = sampler->vocab;
    double sum = log_sum(sampler, logits, max);
    token->logprob = (float)((double)(logits[token->id] - max) - sum);
    if (n_top > n)
        n_top = n;
    if (n_top > 0)
        find_top(logits, n, n_top, token);
    for (uint32_t i = 0; i < token->n_top; i++)
        token->top_logprobs[i] = (float)((double)(logits[token->top_ids[i]] - max) - sum);
}

/* The logits that the token is chosen from: stop ids are at -inf while the position is below min_position. */
static const float *adjust_logits(struct model_sampler *sampler, const float *logits,
                                  const struct model_sampling *sampling, uint32_t position)
{
    uint32_t n_masked = position < sampling->min_position ? sampling->n_stop_ids : 0;
    if (n_masked == 0 && sampling->adjust == NULL)
        return logits;
    memcpy(sampler->masked, logits, sampler->vocab * sizeof(float));
    for (uint32_t i = 0; i < n_masked; i++)
        if (sampling->stop_ids[i] < sampler->vocab)
            sampler->masked[sampling->stop_ids[i]] = -INFINITY;
    if (sampling->adjust != NULL)
        model_adjust_apply(sampling->adjust, sampler->masked, sampler->vocab);
    return sampler->masked;
}

sl_status model_sample(struct model_sampler *sampler, const float *logits,
                       const struct model_sampling *sampling, uint32_t position,
                       struct model_token *token_out)
{
    float raw_max = 0, max;
    sl_status status = find_max(logits, sampler->vocab, &raw_max);
    if (status != SL_OK)
        return status;
    max = raw_max;
    const float *allowed = adjust_logits(sampler, logits, sampling, position);
    if (allowed != logits)
        status = find_max(allowed, sampler->vocab, &max);
    if (status != SL_OK)
        return status;
    struct model_token token = {0};
    if (sampling->temperature > 0)
        token.id = draw(sampler, allowed, max, sampling, position);
    else
        token.id = first_equal(allowed, sampler->vocab, max);
    if (sampling->n_logprobs >= 0)
        add_logprobs(sampler, logits, raw_max, (uint32_t)sampling->n_logprobs, &token);
    *token_out = token;
    return SL_OK;
}

static uint32_t rank_of(const float *logits, uint32_t n, uint32_t id)
{
    uint32_t n_before = 0;
    for (uint32_t i = 0; i < n; i++)
        n_before += logits[i] > logits[id] || (logits[i] == logits[id] && i < id);
    return n_before + 1;
}

sl_status model_score(struct model_sampler *sampler, const float *logits, uint32_t id,
                      uint32_t n_top, struct model_token *token_out)
{
    float max = 0;
    sl_status status = find_max(logits, sampler->vocab, &max);
    if (status != SL_OK)
        return status;
    struct model_token token = {.id = id, .rank = rank_of(logits, sampler->vocab, id)};
    add_logprobs(sampler, logits, max, n_top, &token);
    *token_out = token;
    return SL_OK;
}
