/* Golden files of models; see the header. */
#include "unit/model/golden.h"

#include "base/json.h"
#include "support/support.h"

#define GOLDEN_DIR "tests/golden/models"

void golden_tokens(const json_t *list, uint32_t *tokens, uint32_t n_max, uint32_t *n_out)
{
    size_t n = json_array_size(list);
    assert_true(n > 0 && n <= n_max);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    *n_out = (uint32_t)n;
}

static double number(const json_t *root, const char *name)
{
    double value = json_number_value(json_object_get(root, name));
    assert_true(value > 0);
    return value;
}

static void read_runs(const json_t *list, struct golden_model *golden)
{
    golden->n_runs = (uint32_t)json_array_size(list);
    assert_true(golden->n_runs > 0 && golden->n_runs <= GOLDEN_RUNS_MAX);
    for (uint32_t i = 0; i < golden->n_runs; i++) {
        const json_t *from = json_array_get(list, i);
        struct golden_run *run = &golden->runs[i];
        run->prompt_tokens = (uint32_t)number(from, "prompt_tokens");
        golden_tokens(json_object_get(from, "tokens"), run->tokens, GOLDEN_TOKENS_MAX,
                      &run->n_tokens);
        for (uint32_t j = 0; j < run->n_tokens; j++)
            run->margins[j] =
                json_number_value(json_array_get(json_object_get(from, "margins"), j));
    }
}

struct golden_model *golden_read(const char *name)
{
    struct golden_model *golden = sl_zalloc(1, sizeof(*golden));
    char path[256];
    json_t *root;
    golden->name = name;
    snprintf(path, sizeof(path), "%s/%s/golden.json", GOLDEN_DIR, name);
    if (sl_json_load(path, 1u << 20, &root) != SL_OK)
        fail_msg("%s", sl_error());
    snprintf(golden->model, sizeof(golden->model), "%s",
             json_string_value(json_object_get(root, "model")));
    golden->vocab = (uint32_t)number(root, "vocab");
    golden->f32_error = number(root, "f32_error");
    golden->kv_error_max = number(root, "kv_error_max");
    golden->kv_error_rms = number(root, "kv_error_rms");
    uint32_t n;
    golden_tokens(json_object_get(root, "prompt"), golden->prompt, GOLDEN_PROMPT_TOKENS, &n);
    assert_int_equal(n, GOLDEN_PROMPT_TOKENS);
    read_runs(json_object_get(root, "greedy"), golden);
    json_decref(root);

    snprintf(path, sizeof(path), "%s/%s/logits.f32", GOLDEN_DIR, name);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fread(golden->rows, sizeof(golden->rows[0]), GOLDEN_PROMPT_TOKENS, file),
                     GOLDEN_PROMPT_TOKENS);
    fclose(file);
    return golden;
}
