/* The table of model families. */
#include "model/family.h"

#include <stddef.h>
#include <string.h>

static const struct model_family *const families[] = {
    &model_family_llama, &model_family_qwen2,   &model_family_qwen3,   &model_family_mistral,
    &model_family_phi3,  &model_family_smollm3, &model_family_granite, &model_family_olmo2,
    &model_family_gemma, &model_family_gemma2,  &model_family_gemma3,  &model_family_qwen3_moe,
};

const struct model_family *model_family_find(const char *name)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (strcmp(families[i]->name, name) == 0 ||
            (families[i]->outer_name != NULL && strcmp(families[i]->outer_name, name) == 0))
            return families[i];
    return NULL;
}

const char *model_family_names(void)
{
    return "llama, qwen2, qwen3, mistral, phi3, smollm3, granite, olmo2, gemma, gemma2, gemma3, "
           "qwen3_moe";
}
