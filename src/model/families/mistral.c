/* Mistral 7B and its kin: Llama with, in v0.1, a window of tokens that a layer looks back. Source: Jiang
 * et al. 2023; transformers' MistralForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    const struct model_sliding sliding = {.fallback = 4096};
    return model_config_read_windows(root, what, &sliding, config);
}

const struct model_family model_family_mistral = {
    .name = "mistral", .configure = configure, .load_layer = model_load_standard_layer};
