/* Mistral 7B and its kin: Llama with, in v0.1, a window of tokens that a layer looks back. The window
 * limits what is attended to; blocks behind it are kept. Source: Jiang et al. 2023; transformers'
 * MistralForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    return model_config_read_window(root, what, config);
}

static sl_status load_layer(struct model_loader *loader, uint32_t index, struct model_layer *layer)
{
    (void)index;
    return model_load_standard_layer(loader, layer);
}

const struct model_family model_family_mistral = {
    .name = "mistral", .configure = configure, .load_layer = load_layer};
