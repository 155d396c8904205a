/* A model family: one file and one row of model_families. docs/how-to-add.md has the steps.
 *
 * A family says what its config.json means beyond the common fields, and which tensors make up a
 * layer. The layer itself is forward.c's: attn_in, attention, attn_out, mlp; its optional parts
 * (biases, q and k norms) are there when their weights are. */
#ifndef SL_MODEL_FAMILY_H
#define SL_MODEL_FAMILY_H

#include "model/config.h"
#include "model/weights.h"

/* What a configuration may leave out, as the family's class in transformers has it; 0: no default but
 * the common one. */
struct model_defaults {
    uint32_t n_heads, n_kv_heads, head_dim, vocab, context_max;
    double rope_theta;
};

struct model_family {
    const char *name; /* model_type of config.json */
    const char
        *outer_name; /* model_type of a configuration that has this one's under text_config */
    bool is_gelu;    /* the activation is GELU (tanh), whatever hidden_act says */
    struct model_defaults defaults;
    const struct model_norms *norms; /* NULL: as Llama */
    /* Sets what differs from the common defaults; SL_UNSUPPORTED names a variant that we lack. */
    sl_status (*configure)(const json_t *root, const char *what, struct model_config *config);
    /* Loads the weights of the loader's layer. */
    sl_status (*load_layer)(struct model_loader *loader, struct model_layer *layer);
};

extern const struct model_family model_family_gemma;
extern const struct model_family model_family_gemma2;
extern const struct model_family model_family_gemma3;
extern const struct model_family model_family_granite;
extern const struct model_family model_family_llama;
extern const struct model_family model_family_mistral;
extern const struct model_family model_family_olmo2;
extern const struct model_family model_family_phi3;
extern const struct model_family model_family_qwen2;
extern const struct model_family model_family_qwen3;
extern const struct model_family model_family_qwen3_moe;
extern const struct model_family model_family_smollm3;

/* What Gemma 1 has, and 2 and 3 as well; what Gemma 2 has, and 3 as well. */
sl_status model_gemma_configure(const json_t *root, const char *what,
                                struct model_config *config) SL_MUST_USE;
struct model_gemma2_defaults {
    double attention_softcap, logits_softcap;
    uint32_t full_every; /* layers, one of which has no window */
    uint8_t local_rope;  /* of layers with a window */
};
extern const struct model_norms model_gemma2_norms;
sl_status model_gemma2_configure(const json_t *root, const char *what,
                                 const struct model_gemma2_defaults *defaults,
                                 struct model_config *config) SL_MUST_USE;
/* Qwen's: sliding_window counts when use_sliding_window does, from max_window_layers on. */
sl_status model_qwen_read_windows(const json_t *root, const char *what,
                                  struct model_config *config) SL_MUST_USE;

/* By either name; NULL when unknown. */
const struct model_family *model_family_find(const char *name);
/* "llama, qwen2, …": for messages. */
const char *model_family_names(void);

#endif
