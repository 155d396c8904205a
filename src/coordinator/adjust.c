/* Penalties, logit_bias and bad_words, from JSON to the lists of a submit.
 *
 * A bad word becomes token ids twice, as it stands at the beginning of a text and after a space; the second
 * only where the first does not forbid it already. (vLLM takes the second only when it has as many tokens as
 * the first, and so lets a word through that is one token after a space and two without.) */
#include "coordinator/adjust.h"

#include "coordinator/fields.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Decimal digits without leading zeros, as a client's JSON library writes a number. */
static bool read_id(const char *text, uint32_t *id_out)
{
    uint64_t id = 0;
    size_t n = strlen(text);
    if (n == 0 || n > 10 || (text[0] == '0' && n > 1))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        id = id * 10 + (uint64_t)(text[i] - '0');
    }
    *id_out = (uint32_t)id;
    return id <= UINT32_MAX;
}

static sl_status read_bias(struct api_adjust *out, const char *name, const json_t *value,
                           struct api_error *error)
{
    char shown[FIELD_SHOW_BYTES];
    double bias = json_number_value(value);
    uint32_t id;
    if (!read_id(name, &id))
        return api_fail(error, 400, "invalid_value", "logit_bias",
                        "`logit_bias` has the name \"%.40s\"; want a token id", name);
    if (!json_is_number(value) || !(fabs(bias) <= API_BIAS_MAX))
        return api_fail(error, 400, "invalid_value", "logit_bias",
                        "`logit_bias[%u]` is %s; want a number of %g to %g", id,
                        field_show(value, shown), -API_BIAS_MAX, API_BIAS_MAX);
    out->bias_ids[out->n_biases] = id;
    out->biases[out->n_biases++] = (float)bias;
    return SL_OK;
}

static sl_status read_biases(const json_t *body, struct api_adjust *out, struct api_error *error)
{
    const json_t *value = field_get(body, "logit_bias");
    const char *name;
    json_t *bias;
    if (value == NULL)
        return SL_OK;
    if (!json_is_object(value))
        return field_wrong(error, "logit_bias", value, "an object of token ids");
    if (json_object_size(value) > API_BIASES_MAX)
        return api_fail(error, 400, "invalid_value", "logit_bias",
                        "`logit_bias` has %zu token ids; at most %u", json_object_size(value),
                        API_BIASES_MAX);
    json_object_foreach((json_t *)(uintptr_t)value, name, bias)
    {
        sl_status status = read_bias(out, name, bias, error);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status read_words(const json_t *body, struct api_adjust *out, struct api_error *error)
{
    const json_t *value = field_get(body, "bad_words");
    size_t i;
    json_t *word;
    if (value == NULL)
        return SL_OK;
    if (!json_is_array(value))
        return field_wrong(error, "bad_words", value, "a list of strings");
    if (json_array_size(value) > API_BAD_WORDS_MAX)
        return api_fail(error, 400, "invalid_value", "bad_words",
                        "`bad_words` has %zu strings; at most %u", json_array_size(value),
                        API_BAD_WORDS_MAX);
    json_array_foreach(value, i, word)
    {
        char shown[FIELD_SHOW_BYTES];
        size_t bytes = json_string_length(word);
        if (!json_is_string(word) || bytes == 0 || bytes > API_BAD_WORD_BYTES)
            return api_fail(error, 400, "invalid_value", "bad_words",
                            "`bad_words[%zu]` is %s; want a string of 1 to %u bytes", i,
                            field_show(word, shown), API_BAD_WORD_BYTES);
    }
    out->bad_words = value;
    return SL_OK;
}

sl_status adjust_read(const json_t *body, const struct api_defaults *defaults,
                      struct api_adjust *out, struct api_error *error)
{
    out->repetition = defaults->repetition_penalty;
    sl_status status = field_number(body, "presence_penalty", -API_PENALTY_MAX, API_PENALTY_MAX,
                                    &out->presence, error);
    if (status == SL_OK)
        status = field_number(body, "frequency_penalty", -API_PENALTY_MAX, API_PENALTY_MAX,
                              &out->frequency, error);
    if (status == SL_OK)
        status = field_number(body, "repetition_penalty", API_REPETITION_MIN, API_REPETITION_MAX,
                              &out->repetition, error);
    if (status == SL_OK)
        status = read_biases(body, out, error);
    return status == SL_OK ? read_words(body, out, error) : status;
}

/* ---- words to token ids ---- */

static sl_status too_long(struct api_error *error)
{
    return api_fail(
        error, 400, "invalid_value", "bad_words",
        "`bad_words` have over %u tokens, each counted with and without a space before it",
        API_BAD_WORD_IDS);
}

/* Appends the tokens of a text, which become the next word. */
static sl_status add_word(const struct text_tokenizer *tokenizer, const char *text, size_t bytes,
                          struct api_adjust *adjust, struct api_error *error)
{
    size_t before = adjust->word_ids.n_ids;
    sl_status status = text_tokenizer_encode(tokenizer, text, bytes, false, &adjust->word_ids);
    if (status == SL_EXHAUSTED)
        return too_long(error);
    if (status != SL_OK)
        return api_fail(error, status == SL_NO_MEMORY ? 503 : 400, "invalid_value", "bad_words",
                        "`bad_words`: %s", sl_error());
    adjust->word_lengths[adjust->n_words++] = (uint32_t)(adjust->word_ids.n_ids - before);
    return SL_OK;
}

static sl_status add_both(const struct text_tokenizer *tokenizer, const char *word,
                          struct api_adjust *adjust, struct api_error *error)
{
    char spaced[API_BAD_WORD_BYTES + 2];
    word += strspn(word, " \t\n\r\f\v");
    int bytes = snprintf(spaced, sizeof(spaced), " %s", word);
    uint32_t first = adjust->n_words;
    sl_status status = add_word(tokenizer, word, strlen(word), adjust, error);
    if (status == SL_OK)
        status = add_word(tokenizer, spaced, (size_t)bytes, adjust, error);
    if (status != SL_OK)
        return status;
    uint32_t n_plain = adjust->word_lengths[first], n_spaced = adjust->word_lengths[first + 1];
    if (n_plain == 0)
        return api_fail(error, 400, "invalid_value", "bad_words",
                        "`bad_words` has a string without a token of its own: \"%.40s\"", word);
    const uint32_t *end = adjust->word_ids.ids + adjust->word_ids.n_ids;
    if (n_plain <= n_spaced &&
        memcmp(end - n_plain, end - n_spaced - n_plain, n_plain * sizeof(*end)) == 0)
        adjust->word_ids.n_ids -= adjust->word_lengths[--adjust->n_words];
    return SL_OK;
}

sl_status adjust_prepare(const struct text_tokenizer *tokenizer, uint32_t vocab,
                         struct api_adjust *adjust, struct api_error *error)
{
    for (uint32_t i = 0; i < adjust->n_biases; i++)
        if (adjust->bias_ids[i] >= vocab)
            return api_fail(error, 400, "invalid_value", "logit_bias",
                            "`logit_bias` has token id %u; want one below %u", adjust->bias_ids[i],
                            vocab);
    size_t i;
    json_t *word;
    text_ids_init(&adjust->word_ids, API_BAD_WORD_IDS);
    json_array_foreach(adjust->bad_words, i, word)
    {
        sl_status status = add_both(tokenizer, json_string_value(word), adjust, error);
        if (status != SL_OK)
            return status;
    }
    adjust->bad_words = NULL; /* the body goes */
    return SL_OK;
}

void adjust_fill(const struct api_adjust *adjust, Sluice__Sampling *sampling)
{
    sampling->repetition_penalty = (float)adjust->repetition;
    sampling->presence_penalty = (float)adjust->presence;
    sampling->frequency_penalty = (float)adjust->frequency;
    sampling->n_bias_ids = sampling->n_biases = adjust->n_biases;
    sampling->bias_ids = (uint32_t *)(uintptr_t)adjust->bias_ids;
    sampling->biases = (float *)(uintptr_t)adjust->biases;
    sampling->n_word_lengths = adjust->n_words;
    sampling->word_lengths = (uint32_t *)(uintptr_t)adjust->word_lengths;
    sampling->n_word_ids = adjust->word_ids.n_ids;
    sampling->word_ids = adjust->word_ids.ids;
}

void adjust_fini(struct api_adjust *adjust)
{
    text_ids_fini(&adjust->word_ids);
}
