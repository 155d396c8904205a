/* Bias, forbidden words and penalties.
 *
 * The formulas are those of vLLM and transformers, in single precision as they compute them:
 *
 *   words       the last id of a word is at -inf when what was generated ends in the ids before it; the
 *               prompt is not looked at (vLLM)
 *   bias        logit + bias
 *   repetition  of tokens in the prompt or generated: logit / r above 0, logit * r below (CTRL, Keskar et al. 2019)
 *   frequency   logit - f * times generated;  presence  logit - p if generated (OpenAI)
 *
 * Counts are kept by token as the sequence grows: a list in order of appearance, which a step walks, and a
 * hash from id to its place there, which only a new token looks at. Open addressing, at most three quarters
 * full, sized once for the whole sequence. The prompt is counted only when the repetition penalty asks for
 * it. A dense array of counts would be smaller only for sequences longer than the vocabulary.
 *
 * The scheduler takes tokens between steps, the compute thread reads during them. */
#include "model/adjust.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>

static bool penalizes_repetition(const struct model_adjust *adjust)
{
    return adjust->repetition != 0 && adjust->repetition != 1;
}

static bool counts_output(const struct model_adjust *adjust)
{
    return penalizes_repetition(adjust) || adjust->presence != 0 || adjust->frequency != 0;
}

bool model_adjust_is_neutral(const struct model_adjust *adjust)
{
    return !counts_output(adjust) && adjust->n_biases == 0 && adjust->n_words == 0;
}

/* ---- check ---- */

static sl_status check_biases(const struct model_adjust *adjust, uint32_t vocab)
{
    if (adjust->n_biases > MODEL_BIASES_MAX)
        return sl_fail(SL_INVALID, "logit bias of %u tokens; at most %u", adjust->n_biases,
                       MODEL_BIASES_MAX);
    for (uint32_t i = 0; i < adjust->n_biases; i++) {
        if (adjust->bias_ids[i] >= vocab)
            return sl_fail(SL_INVALID, "logit bias of token %u; the vocabulary has %u",
                           adjust->bias_ids[i], vocab);
        if (!(fabsf(adjust->biases[i]) <= MODEL_BIAS_MAX))
            return sl_fail(SL_INVALID, "logit bias of token %u is %g; want -%g..%g",
                           adjust->bias_ids[i], (double)adjust->biases[i], (double)MODEL_BIAS_MAX,
                           (double)MODEL_BIAS_MAX);
    }
    return SL_OK;
}

static sl_status check_words(const struct model_adjust *adjust, uint32_t vocab)
{
    uint64_t n_ids = 0;
    if (adjust->n_words > MODEL_WORDS_MAX)
        return sl_fail(SL_INVALID, "%u forbidden words; at most %u", adjust->n_words,
                       MODEL_WORDS_MAX);
    for (uint32_t i = 0; i < adjust->n_words; i++) {
        if (adjust->word_lengths[i] == 0)
            return sl_fail(SL_INVALID, "forbidden word %u has no tokens", i);
        n_ids += adjust->word_lengths[i];
    }
    if (n_ids > MODEL_WORD_IDS_MAX)
        return sl_fail(SL_INVALID, "forbidden words of %" PRIu64 " tokens; at most %u", n_ids,
                       MODEL_WORD_IDS_MAX);
    for (uint32_t i = 0; i < n_ids; i++)
        if (adjust->word_ids[i] >= vocab)
            return sl_fail(SL_INVALID, "forbidden words have token %u; the vocabulary has %u",
                           adjust->word_ids[i], vocab);
    return SL_OK;
}

sl_status model_adjust_check(const struct model_adjust *adjust, uint32_t vocab)
{
    if (!(adjust->repetition >= 0 && adjust->repetition <= MODEL_REPETITION_MAX))
        return sl_fail(SL_INVALID, "repetition penalty %g; want above 0, up to %g",
                       (double)adjust->repetition, (double)MODEL_REPETITION_MAX);
    if (!(fabsf(adjust->presence) <= MODEL_PENALTY_MAX))
        return sl_fail(SL_INVALID, "presence penalty %g; want -%g..%g", (double)adjust->presence,
                       (double)MODEL_PENALTY_MAX, (double)MODEL_PENALTY_MAX);
    if (!(fabsf(adjust->frequency) <= MODEL_PENALTY_MAX))
        return sl_fail(SL_INVALID, "frequency penalty %g; want -%g..%g", (double)adjust->frequency,
                       (double)MODEL_PENALTY_MAX, (double)MODEL_PENALTY_MAX);
    sl_status status = check_biases(adjust, vocab);
    return status == SL_OK ? check_words(adjust, vocab) : status;
}

/* ---- counts ---- */

void model_adjust_room(const struct model_adjust *adjust, uint32_t tokens_max, uint32_t vocab,
                       uint32_t *n_counts_out, uint32_t *n_slots_out)
{
    *n_counts_out = *n_slots_out = 0;
    if (!counts_output(adjust))
        return;
    uint32_t n = tokens_max;
    if (!penalizes_repetition(adjust))
        n = tokens_max > adjust->n_prompt ? tokens_max - adjust->n_prompt : 0;
    n = n < vocab ? n : vocab;
    if (n == 0)
        return;
    uint64_t n_slots = 4;
    while (n_slots * 3 < (uint64_t)n * 4)
        n_slots *= 2;
    *n_counts_out = n;
    *n_slots_out = (uint32_t)n_slots;
}

void model_adjust_init(struct model_adjust *adjust, struct model_count *counts, uint32_t n_counts,
                       uint32_t *slots, uint32_t n_slots)
{
    adjust->n_taken = adjust->n_counts = 0;
    adjust->n_counts_max = n_counts;
    adjust->counts = counts;
    adjust->slots = slots;
    adjust->slots_mask = n_slots > 0 ? n_slots - 1 : 0;
}

/* The slot of an id, or the empty one where it belongs: Fibonacci hashing (Knuth), then linear. */
static uint32_t *find_slot(const struct model_adjust *adjust, uint32_t id)
{
    uint32_t at = (uint32_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & adjust->slots_mask;
    while (adjust->slots[at] != 0 && adjust->counts[adjust->slots[at] - 1].id != id)
        at = (at + 1) & adjust->slots_mask;
    return &adjust->slots[at];
}

static void count(struct model_adjust *adjust, uint32_t id, bool output)
{
    uint32_t *slot = find_slot(adjust, id);
    if (*slot == 0) {
        SL_ASSERT(adjust->n_counts < adjust->n_counts_max);
        adjust->counts[adjust->n_counts++] = (struct model_count){.id = id};
        *slot = adjust->n_counts;
    }
    adjust->counts[*slot - 1].n_output += output;
}

void model_adjust_take(struct model_adjust *adjust, uint32_t n)
{
    bool prompt_counts = penalizes_repetition(adjust);
    for (; adjust->n_taken < n; adjust->n_taken++) {
        bool output = adjust->n_taken >= adjust->n_prompt;
        if (adjust->n_counts_max > 0 && (output || prompt_counts))
            count(adjust, adjust->tokens[adjust->n_taken], output);
    }
}

/* ---- logits ---- */

static bool ends_in(const struct model_adjust *adjust, const uint32_t *ids, uint32_t n)
{
    if (adjust->n_taken < adjust->n_prompt || adjust->n_taken - adjust->n_prompt < n)
        return false;
    const uint32_t *end = adjust->tokens + adjust->n_taken;
    for (uint32_t i = 0; i < n; i++)
        if (end[(ptrdiff_t)i - (ptrdiff_t)n] != ids[i])
            return false;
    return true;
}

static void mask_words(const struct model_adjust *adjust, float *logits)
{
    const uint32_t *ids = adjust->word_ids;
    for (uint32_t i = 0; i < adjust->n_words; i++) {
        uint32_t n_before = adjust->word_lengths[i] - 1;
        if (n_before == 0 || ends_in(adjust, ids, n_before))
            logits[ids[n_before]] = -INFINITY;
        ids += n_before + 1;
    }
}

void model_adjust_apply(const struct model_adjust *adjust, float *logits, uint32_t vocab)
{
    SL_ASSERT(adjust->n_counts <= vocab);
    mask_words(adjust, logits);
    for (uint32_t i = 0; i < adjust->n_biases; i++)
        logits[adjust->bias_ids[i]] += adjust->biases[i];
    float repetition = adjust->repetition != 0 ? adjust->repetition : 1;
    for (uint32_t i = 0; i < adjust->n_counts; i++) {
        const struct model_count *present = &adjust->counts[i];
        float logit = logits[present->id];
        logit = logit > 0 ? logit / repetition : logit * repetition;
        if (present->n_output > 0) {
            logit -= adjust->frequency * (float)present->n_output;
            logit -= adjust->presence;
        }
        logits[present->id] = logit;
    }
}
