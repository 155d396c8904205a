/* Granite 3 (dense): Llama with four multipliers.
 *
 * Residuals are added with a factor m. Since a norm does not see the scale of its input,
 *   h' = h + m f(norm(h; eps))   is, with g = h / m,   g' = g + f(norm(g; eps / m^2)):
 * so the embedding's scale is divided by m, eps by m^2, and the layers are Llama's. The logits' divisor
 * goes into the last norm's weights. Source: transformers' GraniteForCausalLM. */
#include "model/family.h"

static sl_status configure(const json_t *root, const char *what, struct model_config *config)
{
    double residual, logits;
    sl_status status =
        sl_json_number(root, what, "embedding_multiplier", 1, 1e-6, 1e6, &config->embedding_scale);
    if (status == SL_OK)
        status = sl_json_number(root, what, "attention_multiplier", 1, 1e-6, 1e6,
                                &config->attention_scale);
    if (status == SL_OK)
        status = sl_json_number(root, what, "residual_multiplier", 1, 1e-6, 1e6, &residual);
    if (status == SL_OK)
        status = sl_json_number(root, what, "logits_scaling", 1, 1e-6, 1e6, &logits);
    if (status == SL_OK)
        status = model_config_refuse(root, what, "mlp_bias");
    if (status == SL_OK)
        status = sl_json_bool(root, what, "attention_bias", false, &config->attention_bias);
    if (status != SL_OK)
        return status;
    config->out_bias = config->attention_bias;
    config->embedding_scale /= residual;
    config->norm_eps /= residual * residual;
    config->logits_scale = 1 / logits;
    return SL_OK;
}

const struct model_family model_family_granite = {
    .name = "granite", .configure = configure, .load_layer = model_load_standard_layer};
