/* A model family: one file and one row of model_families. docs/how-to-add.md has the steps.
 *
 * A family says what its config.json means beyond the common fields, and which tensors make up a
 * layer. The layer itself is forward.c's: attn_in, attention, attn_out, mlp; its optional parts
 * (biases, q and k norms) are there when their weights are. */
#ifndef SL_MODEL_FAMILY_H
#define SL_MODEL_FAMILY_H

#include "model/config.h"
#include "model/weights.h"

struct model_family {
    const char *name; /* model_type of config.json */
    bool is_gelu;     /* the activation is GELU (tanh), whatever hidden_act says */
    /* Sets what differs from the common defaults; SL_UNSUPPORTED names a variant that we lack. */
    sl_status (*configure)(const json_t *root, const char *what, struct model_config *config);
    /* Loads the weights of layer `index`. */
    sl_status (*load_layer)(struct model_loader *loader, uint32_t index, struct model_layer *layer);
};

extern const struct model_family model_family_gemma;
extern const struct model_family model_family_granite;
extern const struct model_family model_family_llama;
extern const struct model_family model_family_mistral;
extern const struct model_family model_family_phi3;
extern const struct model_family model_family_qwen2;
extern const struct model_family model_family_qwen3;
extern const struct model_family model_family_smollm3;

/* NULL when unknown. */
const struct model_family *model_family_find(const char *name);
/* "llama, qwen2, …": for messages. */
const char *model_family_names(void);

#endif
