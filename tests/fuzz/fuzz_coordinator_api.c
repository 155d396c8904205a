/* The bodies of /v1/completions, /tokenize and /detokenize on any bytes. What is accepted must be within
 * its limits; what is refused must say why, as a well-formed error object. */
#include "api_error_check.h"
#include "coordinator/api.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_prompt(const struct api_prompt *prompt)
{
    SL_ASSERT((prompt->text == NULL) != (prompt->ids == NULL));
    SL_ASSERT(prompt->text == NULL || prompt->text[prompt->text_bytes] == '\0');
}

static void check_completion(const struct api_completion *c)
{
    SL_ASSERT(c->n >= 1 && c->n_prompts >= 1 && c->n * c->n_prompts <= API_CHOICES_MAX);
    for (uint32_t i = 0; i < c->n_prompts; i++)
        check_prompt(&c->prompts[i]);
    SL_ASSERT(c->adjust.n_biases <= API_BIASES_MAX);
    SL_ASSERT(json_array_size(c->adjust.bad_words) <= API_BAD_WORDS_MAX);
    SL_ASSERT((c->max_tokens >= 1 || c->echo) && c->max_tokens <= API_TOKENS_MAX);
    SL_ASSERT(c->min_tokens <= c->max_tokens);
    SL_ASSERT(c->temperature >= 0 && c->temperature <= API_TEMPERATURE_MAX);
    SL_ASSERT(c->top_p >= 0 && c->top_p <= 1 && c->min_p >= 0 && c->min_p <= 1);
    SL_ASSERT(c->logprobs >= -1 && c->logprobs <= API_LOGPROBS_MAX);
    SL_ASSERT(c->n_stops <= TEXT_STOPS_MAX && c->n_stop_ids <= API_STOP_IDS_MAX);
    for (uint32_t i = 0; i < c->n_stops; i++)
        SL_ASSERT(c->stop_bytes[i] >= 1 && c->stop_bytes[i] <= TEXT_STOP_BYTES_MAX &&
                  strlen(c->stops[i]) == c->stop_bytes[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct api_defaults neutral = API_DEFAULTS;
    const char *text = (const char *)data;
    struct api_error error;
    struct api_completion completion;
    struct api_tokenize tokenize;
    struct api_detokenize detokenize;
    if (api_check_shape(text, size, false, 100, &error) != SL_OK)
        check_error(&error);
    if (api_parse_completion(text, size, &neutral, &completion, &error) == SL_OK) {
        check_completion(&completion);
        api_completion_fini(&completion);
    } else {
        check_error(&error);
    }
    if (api_parse_tokenize(text, size, &tokenize, &error) == SL_OK) {
        if (tokenize.input.messages == NULL)
            check_prompt(&tokenize.prompt);
        api_tokenize_fini(&tokenize);
    } else {
        check_error(&error);
    }
    if (api_parse_detokenize(text, size, &detokenize, &error) == SL_OK) {
        check_prompt(&detokenize.prompt);
        api_detokenize_fini(&detokenize);
    } else {
        check_error(&error);
    }
    return 0;
}
