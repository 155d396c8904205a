/* config.json and generation_config.json on any bytes. What is accepted must be usable: sizes in range,
 * rotary frequencies that are numbers, a digest. */
#include "model/config.h"

#include "model/family.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_rope(const struct model_config *config, uint32_t index)
{
    float inv_freq[MODEL_ROPE_PAIRS_MAX];
    uint32_t dim = model_rope_dim(&config->ropes[index], config->head_dim);
    SL_ASSERT(dim <= config->head_dim && isfinite(config->ropes[index].attention_factor));
    model_config_inv_freq(config, index, inv_freq);
    for (uint32_t i = 0; i < dim / 2; i++)
        SL_ASSERT(isfinite(inv_freq[i]) && inv_freq[i] >= 0);
}

static void use(const struct model_config *config)
{
    uint8_t digest[32];
    SL_ASSERT(config->head_dim <= KERNEL_HEAD_DIM_MAX && config->n_layers <= KV_LAYERS_MAX);
    SL_ASSERT(config->n_heads % config->n_kv_heads == 0);
    SL_ASSERT(config->n_ropes > 0 && config->n_ropes <= MODEL_ROPES_MAX);
    for (uint32_t i = 0; i < config->n_ropes; i++)
        use_rope(config, i);
    for (uint32_t i = 0; i < config->n_layers; i++) {
        SL_ASSERT(config->rope_of[i] < config->n_ropes || config->rope_of[i] == MODEL_ROPE_NONE);
        SL_ASSERT(config->windows[i] < config->context_max);
    }
    for (uint32_t i = 0; i < config->n_eos_ids; i++)
        SL_ASSERT(config->eos_ids[i] < config->vocab);
    model_config_digest(config, digest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *root;
    struct model_config config;
    if (sl_json_parse("file", (const char *)data, size, MODEL_CONFIG_BYTES_MAX, &root) != SL_OK)
        return 0;
    if (model_config_parse(root, "file", &config) != SL_OK) {
        SL_ASSERT(sl_error()[0] != '\0');
    } else {
        if (model_config_add_eos(root, "file", &config) != SL_OK)
            SL_ASSERT(sl_error()[0] != '\0');
        use(&config);
    }
    json_decref(root);
    return 0;
}
