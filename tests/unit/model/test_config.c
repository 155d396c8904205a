/* config.json: what is read, and the sentence of each refusal. */
#include "model/config.h"
#include "model/family.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LLAMA                                                                                      \
    "\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 128, "         \
    "\"vocab_size\": 100, \"max_position_embeddings\": 512"

static sl_status parse(const char *text, struct model_config *config)
{
    json_t *root;
    if (sl_json_parse("test", text, strlen(text), 1u << 20, &root) != SL_OK)
        fail_msg("%s", sl_error());
    sl_status status = model_config_parse(root, "config.json", config);
    json_decref(root);
    return status;
}

static struct model_config parse_good(const char *text)
{
    struct model_config config;
    if (parse(text, &config) != SL_OK)
        fail_msg("%s", sl_error());
    return config;
}

static void test_plain(void **state)
{
    (void)state;
    struct model_config config = parse_good("{" LLAMA ", \"eos_token_id\": 7}");
    assert_string_equal(config.family->name, "llama");
    assert_int_equal(config.hidden, 64);
    assert_int_equal(config.n_layers, 2);
    assert_int_equal(config.n_heads, 4);
    assert_int_equal(config.n_kv_heads, 2);
    assert_int_equal(config.head_dim, 16); /* hidden_size / heads */
    assert_int_equal(config.mlp_hidden, 128);
    assert_int_equal(config.vocab, 100);
    assert_int_equal(config.context_max, 512);
    assert_int_equal(config.n_eos_ids, 1);
    assert_int_equal(config.eos_ids[0], 7);
    assert_false(config.tied || config.attention_bias || config.out_bias || config.qk_norm);
    assert_true(config.ropes[0].theta == 10000 && config.ropes[0].type == MODEL_ROPE_DEFAULT);
    assert_true(config.attention_scale == 0.25 && config.logits_scale == 1);
}

/* The two spellings of transformers 4 and 5 mean the same. */
static void test_spellings(void **state)
{
    (void)state;
    const char *old = "{" LLAMA ", \"torch_dtype\": \"bfloat16\", \"rope_theta\": 500000.0, "
                      "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32.0, "
                      "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                      "\"original_max_position_embeddings\": 8192}}";
    const char *new = "{" LLAMA ", \"dtype\": \"bfloat16\", \"rope_parameters\": {\"rope_type\": "
                      "\"llama3\", \"rope_theta\": 500000.0, \"factor\": 32.0, "
                      "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                      "\"original_max_position_embeddings\": 8192}}";
    struct model_config a = parse_good(old), b = parse_good(new);
    uint8_t digest_a[32], digest_b[32];
    model_config_digest(&a, digest_a);
    model_config_digest(&b, digest_b);
    assert_memory_equal(digest_a, digest_b, 32);
    assert_true(a.ropes[0].type == MODEL_ROPE_LLAMA3 && a.ropes[0].theta == 500000);
    assert_true(a.ropes[0].factor == 32 && a.ropes[0].original_context == 8192);
    struct model_config c = parse_good("{" LLAMA "}");
    model_config_digest(&c, digest_b);
    assert_memory_not_equal(digest_a, digest_b, 32);
    /* "type" is older than "rope_type"; a theta as large as the recall model's; null is absent */
    c = parse_good("{" LLAMA ", \"rope_theta\": 1e24, \"rope_scaling\": {\"type\": \"linear\", "
                   "\"factor\": 2}}");
    assert_true(c.ropes[0].type == MODEL_ROPE_LINEAR && c.ropes[0].theta == 1e24 &&
                c.ropes[0].factor == 2);
    c = parse_good("{" LLAMA ", \"rope_scaling\": null, \"head_dim\": null}");
    assert_true(c.ropes[0].type == MODEL_ROPE_DEFAULT && c.head_dim == 16);
}

/* Known answers: transformers 5.24's inv_freq for Llama 3.2 (head 64, theta 500000, factor 32). */
static void test_inv_freq(void **state)
{
    (void)state;
    struct model_config config =
        parse_good("{" LLAMA ", \"head_dim\": 64, \"rope_theta\": 500000.0, \"rope_scaling\": "
                   "{\"rope_type\": \"llama3\", \"factor\": 32.0, \"low_freq_factor\": 1.0, "
                   "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}");
    float inv_freq[32];
    model_config_inv_freq(&config, 0, inv_freq);
    const struct {
        uint32_t index;
        float value;
    } known[] = {{0, 1.0f},
                 {1, 0.663601279f},
                 {7, 0.0566696189f},
                 {13, 0.00483942125f},
                 {14, 0.00321144611f},
                 {15, 0.00129054801f},
                 {16, 0.000429556705f},
                 {17, 9.70828623e-05f},
                 {18, 1.94616387e-05f},
                 {19, 1.29147675e-05f},
                 {25, 1.10288363e-06f},
                 {31, 9.41830649e-08f}};
    assert_int_equal(model_rope_dim(&config.ropes[0], config.head_dim), 64);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        assert_true(fabsf(inv_freq[known[i].index] / known[i].value - 1) < 2e-7f);
}

static void test_eos(void **state)
{
    (void)state;
    struct model_config config = parse_good("{" LLAMA ", \"eos_token_id\": [5, 6, 5]}");
    assert_int_equal(config.n_eos_ids, 2);
    json_t *root = json_pack("{s:[i,i]}", "eos_token_id", 6, 9);
    assert_int_equal(model_config_add_eos(root, "generation_config.json", &config), SL_OK);
    json_decref(root);
    assert_int_equal(config.n_eos_ids, 3);
    assert_int_equal(config.eos_ids[2], 9);
    root = json_pack("{s:i}", "eos_token_id", 100);
    assert_int_equal(model_config_add_eos(root, "generation_config.json", &config), SL_INVALID);
    assert_non_null(strstr(sl_error(), "generation_config.json: eos_token_id"));
    json_decref(root);
}

static void test_multipliers(void **state)
{
    (void)state;
    const char *rest = "\"hidden_size\": 64, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "
                       "\"intermediate_size\": 128, \"vocab_size\": 100";
    char text[1024];
    snprintf(text, sizeof(text),
             "{\"model_type\": \"granite\", %s, \"embedding_multiplier\": 12, "
             "\"attention_multiplier\": 0.5, \"residual_multiplier\": 0.25, "
             "\"logits_scaling\": 8, \"rms_norm_eps\": 0.5}",
             rest);
    struct model_config config = parse_good(text);
    assert_true(config.embedding_scale == 48 && config.attention_scale == 0.5);
    assert_true(config.logits_scale == 0.125 && config.norm_eps == 8);
    snprintf(text, sizeof(text), "{\"model_type\": \"gemma\", %s, \"hidden_act\": \"gelu\"}", rest);
    config = parse_good(text);
    assert_true(config.tied && config.norm_offset == 1 && config.embedding_scale == 8);
    assert_int_equal(config.activation, KERNEL_GELU_TANH);
    snprintf(text, sizeof(text), "{\"model_type\": \"smollm3\", %s}", rest);
    config = parse_good(text);
    assert_true(config.rope_of[0] == 0 && config.rope_of[2] == 0);
    assert_int_equal(config.rope_of[3], MODEL_ROPE_NONE);
    snprintf(text, sizeof(text), "{\"model_type\": \"mistral\", %s, \"sliding_window\": 7}", rest);
    config = parse_good(text);
    assert_true(config.windows[0] == 7 && config.windows[3] == 7);
    snprintf(text, sizeof(text),
             "{\"model_type\": \"qwen2\", %s, \"use_sliding_window\": true, "
             "\"sliding_window\": 9, \"max_window_layers\": 2}",
             rest);
    config = parse_good(text);
    assert_true(config.windows[1] == 0 && config.windows[2] == 9 && config.windows[3] == 9);
}

static void test_families(void **state)
{
    (void)state;
    const char *rest = "\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                       "\"intermediate_size\": 128, \"vocab_size\": 100";
    char text[1024];
    snprintf(text, sizeof(text), "{\"model_type\": \"qwen2\", %s}", rest);
    struct model_config config = parse_good(text);
    assert_true(config.attention_bias && !config.out_bias && !config.qk_norm);
    assert_int_equal(config.n_kv_heads, 4); /* as many as heads */
    snprintf(text, sizeof(text), "{\"model_type\": \"qwen3\", %s, \"head_dim\": 32}", rest);
    config = parse_good(text);
    assert_true(config.qk_norm == MODEL_QK_NORM_HEAD && config.head_dim == 32);
    assert_false(config.attention_bias);
    snprintf(text, sizeof(text), "{\"model_type\": \"qwen3\", %s}", rest);
    config = parse_good(text);
    assert_true(config.head_dim == 128 && fabs(config.attention_scale - 1 / sqrt(128)) < 1e-15);
    snprintf(text, sizeof(text), "{\"model_type\": \"llama\", %s, \"attention_bias\": true}", rest);
    config = parse_good(text);
    assert_true(config.attention_bias && config.out_bias);
}

/* text with NULL parts left out of the good config: see main's table. */
struct refusal {
    const char *text;
    sl_status status;
    const char *sentence; /* part of it */
};

static void test_refusals(void **state)
{
    (void)state;
    const struct refusal refusals[] = {
        {"[]", SL_INVALID, "config.json"},
        {"{}", SL_INVALID, "model_type is missing"},
        {"{\"model_type\": 3}", SL_INVALID, "model_type must be a string"},
        {"{\"model_type\": \"bert\"}", SL_UNSUPPORTED, "'bert'; want one of llama"},
        {"{\"model_type\": \"llama\"}", SL_INVALID, "hidden_size is missing"},
        {"{" LLAMA ", \"head_dim\": -4}", SL_INVALID, "head_dim is -4; want 1..256"},
        {"{" LLAMA ", \"head_dim\": 512}", SL_INVALID, "head_dim is 512"},
        {"{" LLAMA ", \"head_dim\": 12}", SL_UNSUPPORTED, "head_dim is 12; want a multiple of 8"},
        {"{" LLAMA ", \"head_dim\": \"64\"}", SL_INVALID, "head_dim must be an integer"},
        {"{" LLAMA ", \"rope_scaling\": 3}", SL_INVALID, "rope_scaling: an integer"},
        {"{" LLAMA ", \"rope_theta\": 0}", SL_INVALID, "rope_theta is 0"},
        {"{" LLAMA ", \"rope_scaling\": {\"rope_type\": \"axial\", \"factor\": 4}}", SL_UNSUPPORTED,
         "rope type is 'axial'"},
        {"{" LLAMA ", \"rope_scaling\": {\"rope_type\": \"linear\"}}", SL_INVALID,
         "wants a factor"},
        {"{" LLAMA ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}}", SL_INVALID,
         "original_max_position_embeddings"},
        {"{" LLAMA ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
         "\"low_freq_factor\": 4, \"high_freq_factor\": 1, "
         "\"original_max_position_embeddings\": 8192}}",
         SL_INVALID, "larger high_freq_factor"},
        {"{" LLAMA ", \"hidden_act\": \"relu\"}", SL_UNSUPPORTED, "hidden_act is 'relu'"},
        {"{" LLAMA ", \"rms_norm_eps\": \"x\"}", SL_INVALID, "rms_norm_eps must be a number"},
        {"{" LLAMA ", \"tie_word_embeddings\": 1}", SL_INVALID, "tie_word_embeddings must be"},
        {"{" LLAMA ", \"mlp_bias\": true}", SL_UNSUPPORTED, "mlp_bias is true"},
        {"{" LLAMA ", \"quantization_config\": {\"bits\": 4}}", SL_UNSUPPORTED,
         "quantization_config"},
        {"{" LLAMA ", \"eos_token_id\": 100}", SL_INVALID, "below vocab_size 100"},
        {"{" LLAMA ", \"eos_token_id\": [1, \"x\"]}", SL_INVALID, "eos_token_id"},
        {"{" LLAMA ", \"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", SL_INVALID,
         "more than 16 ids"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 1000, "
         "\"num_attention_heads\": 4}",
         SL_INVALID, "num_hidden_layers is 1000; want 1..256"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 4, \"num_key_value_heads\": 3, \"intermediate_size\": 128, "
         "\"vocab_size\": 100}",
         SL_INVALID, "num_attention_heads 4 is no multiple of num_key_value_heads 3"},
        {"{\"model_type\": \"qwen2\", \"hidden_size\": 64, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 4, \"intermediate_size\": 128, \"vocab_size\": 100, "
         "\"use_sliding_window\": true, \"sliding_window\": \"x\"}",
         SL_INVALID, "sliding_window must be an integer"},
    };
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        struct model_config config;
        sl_status status = parse(refusals[i].text, &config);
        if (status != refusals[i].status || strstr(sl_error(), refusals[i].sentence) == NULL ||
            strstr(sl_error(), "config.json") == NULL)
            fail_msg("%s: %s: %s", refusals[i].text, sl_status_name(status), sl_error());
    }
}

static void write_file(const char *directory, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_directory(void **state)
{
    (void)state;
    char directory[] = "/tmp/sluice-config-XXXXXX", path[256];
    struct model_config config;
    assert_non_null(mkdtemp(directory));
    assert_int_equal(model_config_load(directory, &config), SL_NOT_FOUND);
    assert_non_null(strstr(sl_error(), "config.json"));
    write_file(directory, "config.json", "{" LLAMA ", \"eos_token_id\": 3}");
    assert_int_equal(model_config_load(directory, &config), SL_OK);
    assert_int_equal(config.n_eos_ids, 1);
    write_file(directory, "generation_config.json", "{\"eos_token_id\": [4, 3]}");
    assert_int_equal(model_config_load(directory, &config), SL_OK);
    assert_int_equal(config.n_eos_ids, 2);
    write_file(directory, "generation_config.json", "{\"eos_token_id\": ");
    assert_int_equal(model_config_load(directory, &config), SL_INVALID);
    assert_non_null(strstr(sl_error(), "generation_config.json"));
    write_file(directory, "config.json", "{\"hidden_size\": 1, \"hidden_size\": 2}");
    assert_int_equal(model_config_load(directory, &config), SL_INVALID);
    assert_non_null(strstr(sl_error(), "duplicate"));
    const char *names[] = {"config.json", "generation_config.json"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),       cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_inv_freq),    cmocka_unit_test(test_eos),
        cmocka_unit_test(test_multipliers), cmocka_unit_test(test_families),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
