/* config.json and generation_config.json on any bytes. What is accepted must be usable: sizes in range,
 * rotary frequencies that are numbers, a digest. */
#include "model/config.h"

#include "model/family.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct model_config *config)
{
    float inv_freq[KERNEL_HEAD_DIM_MAX / 2];
    uint8_t digest[32];
    uint32_t rotary_dim = model_config_rotary_dim(config);
    SL_ASSERT(rotary_dim <= config->head_dim && config->head_dim <= KERNEL_HEAD_DIM_MAX);
    SL_ASSERT(config->n_heads % config->n_kv_heads == 0 && config->n_layers <= KV_LAYERS_MAX);
    model_config_inv_freq(config, inv_freq);
    for (uint32_t i = 0; i < rotary_dim / 2; i++)
        SL_ASSERT(isfinite(inv_freq[i]) && inv_freq[i] >= 0);
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
