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

#define SIZES                                                                                      \
    "\"hidden_size\": 64, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "                  \
    "\"intermediate_size\": 128, \"vocab_size\": 100"
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

/* factor[i] = 1 + i / step for 48 pairs, as a JSON list. */
static const char *factor_list(double step, char out[1024])
{
    size_t at = 0;
    for (int i = 0; i < 48; i++)
        at += (size_t)snprintf(out + at, 1024 - at, "%s%.9g", i == 0 ? "[" : ", ", 1 + i / step);
    snprintf(out + at, 1024 - at, "]");
    return out;
}

struct known_rope {
    const char *name, *config; /* after what all have */
    double attention_factor;
    struct {
        uint32_t index;
        float value;
    } inv_freq[8];
};

/* Known answers: transformers 5.24's for the same fields. */
static void test_rope_types(void **state)
{
    (void)state;
    static const struct known_rope known[] = {
        {"linear",
         "\"head_dim\": 64, \"rope_theta\": 1e6, \"rope_scaling\": {\"type\": \"linear\", "
         "\"factor\": 8.0}}",
         1,
         {{0, 0.125f},
          {1, 0.0811727047f},
          {8, 0.00395284733f},
          {10, 0.00166690187f},
          {16, 0.000125000006f},
          {21, 1.44347741e-05f},
          {30, 2.96421717e-07f},
          {31, 1.92490816e-07f}}},
        {"dynamic, within max_position_embeddings",
         "\"head_dim\": 64, \"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2.0}}",
         1,
         {{0, 1.0f},
          {1, 0.749894202f},
          {8, 0.100000001f},
          {10, 0.0562341288f},
          {16, 0.00999999978f},
          {24, 0.00100000005f},
          {30, 0.00017782794f},
          {31, 0.00013335215f}}},
        {"yarn, as Qwen2.5's",
         "\"max_position_embeddings\": 131072, \"head_dim\": 128, \"rope_theta\": 1e6, "
         "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, "
         "\"original_max_position_embeddings\": 32768}}",
         1.1386294361119891,
         {{0, 1.0f},
          {1, 0.805842221f},
          {16, 0.0316227786f},
          {21, 0.0107460786f},
          {32, 0.000602941145f},
          {42, 2.88695483e-05f},
          {62, 3.84981632e-07f},
          {63, 3.10234441e-07f}}},
        {"yarn, every field",
         "\"max_position_embeddings\": 4096, \"head_dim\": 64, \"rope_parameters\": {"
         "\"rope_type\": \"yarn\", \"factor\": 16, \"rope_theta\": 10000, "
         "\"original_max_position_embeddings\": 4096, \"beta_fast\": 20, \"beta_slow\": 2, "
         "\"truncate\": false, \"mscale\": 0.707, \"mscale_all_dim\": 1.0}}",
         0.93639750615302042,
         {{0, 1.0f},
          {1, 0.749894202f},
          {10, 0.0562341288f},
          {16, 0.00543578202f},
          {21, 0.000148210864f},
          {24, 6.2500003e-05f},
          {30, 1.11142463e-05f},
          {31, 8.3345094e-06f}}},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        char text[1024];
        float inv_freq[MODEL_ROPE_PAIRS_MAX];
        snprintf(text, sizeof(text), "{" SIZES ", \"model_type\": \"llama\", %s", known[i].config);
        struct model_config config = parse_good(text);
        model_config_inv_freq(&config, 0, inv_freq);
        assert_true(fabs(config.ropes[0].attention_factor - known[i].attention_factor) < 1e-15);
        for (size_t j = 0; j < 8; j++) {
            uint32_t index = known[i].inv_freq[j].index;
            if (!(fabsf(inv_freq[index] / known[i].inv_freq[j].value - 1) < 3e-7f))
                fail_msg("%s: [%u] is %.9g", known[i].name, index, (double)inv_freq[index]);
        }
    }
}

/* Phi-4-mini's kind: the length that is served decides between the lists, and nothing else. */
static void test_longrope(void **state)
{
    (void)state;
    static const struct {
        uint32_t index;
        float values[2];
    } known[] = {{0, {1.0f, 1.0f}},
                 {1, {0.812705636f, 0.660323322f}},
                 {12, {0.0842105299f, 0.0250000004f}},
                 {24, {0.00727272732f, 0.00142857141f}},
                 {36, {0.000639999984f, 9.99999975e-05f}},
                 {47, {6.98538424e-05f, 9.50217691e-06f}}};
    char text[4096], short_list[1024], long_list[1024];
    uint8_t digests[2][32];
    for (int is_long = 0; is_long < 2; is_long++) {
        snprintf(text, sizeof(text),
                 "{" SIZES ", \"model_type\": \"phi3\", \"head_dim\": 128, "
                 "\"max_position_embeddings\": %d, \"original_max_position_embeddings\": 4096, "
                 "\"partial_rotary_factor\": 0.75, \"rope_scaling\": {\"type\": \"longrope\", "
                 "\"factor\": 32, \"short_factor\": %s, \"long_factor\": %s}}",
                 is_long ? 131072 : 4096, factor_list(64, short_list), factor_list(4, long_list));
        struct model_config config = parse_good(text);
        float inv_freq[MODEL_ROPE_PAIRS_MAX];
        assert_int_equal(model_rope_dim(&config.ropes[0], config.head_dim), 96);
        assert_true(fabs(config.ropes[0].attention_factor - 1.1902380714238083) < 1e-15);
        model_config_inv_freq(&config, 0, inv_freq);
        model_config_digest(&config, digests[is_long]);
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            assert_true(fabsf(inv_freq[known[i].index] / known[i].values[is_long] - 1) < 3e-7f);
    }
    assert_memory_not_equal(digests[0], digests[1], 32);

    /* A node that serves no more than the original context of a long model is like the short one. */
    struct model_config config = parse_good(text);
    assert_int_equal(model_config_limit(&config, 131073), SL_INVALID);
    assert_non_null(strstr(sl_error(), "131073 tokens; the model has 1..131072"));
    assert_int_equal(model_config_limit(&config, 4097), SL_OK);
    model_config_digest(&config, digests[0]);
    assert_memory_equal(digests[0], digests[1], 32);
    assert_int_equal(model_config_limit(&config, 4096), SL_OK);
    float inv_freq[MODEL_ROPE_PAIRS_MAX];
    model_config_inv_freq(&config, 0, inv_freq);
    assert_true(fabsf(inv_freq[1] / known[1].values[0] - 1) < 3e-7f);
    model_config_digest(&config, digests[0]);
    assert_memory_not_equal(digests[0], digests[1], 32);
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

static void test_gemma2(void **state)
{
    (void)state;
    struct model_config config = parse_good(
        "{" SIZES ", \"model_type\": \"gemma2\", \"head_dim\": 32, \"query_pre_attn_scalar\": 64, "
        "\"sliding_window\": 100, \"attn_logit_softcapping\": null}");
    assert_true(config.attention_scale == 0.125 && config.embedding_scale == 8 && config.tied);
    assert_true(config.attention_softcap == 0 && config.logits_softcap == 30);
    assert_true(config.windows[0] == 100 && config.windows[1] == 0 && config.windows[2] == 100);
    assert_int_equal(config.n_kv_heads, 4);
    config = parse_good("{" SIZES ", \"model_type\": \"gemma2\", \"layer_types\": "
                        "[\"full_attention\", \"full_attention\", \"sliding_attention\", "
                        "\"full_attention\"]}");
    assert_true(config.windows[0] == 0 && config.windows[1] == 0 && config.windows[3] == 0);
    assert_int_equal(config.windows[2], 4096); /* the class's default */
    assert_true(config.attention_softcap == 50 && config.head_dim == 256);
}

static void test_gemma3(void **state)
{
    (void)state;
    const char *text = SIZES ", \"model_type\": \"gemma3_text\", \"head_dim\": 32, "
                             "\"sliding_window\": 12, \"sliding_window_pattern\": 2, "
                             "\"query_pre_attn_scalar\": 16, ";
    char whole[2048];
    snprintf(whole, sizeof(whole),
             "{%s\"rope_theta\": 1e6, \"rope_local_base_freq\": 20000, \"rope_scaling\": "
             "{\"rope_type\": \"linear\", \"factor\": 8}}",
             text);
    struct model_config old = parse_good(whole), new;
    assert_true(old.qk_norm == MODEL_QK_NORM_HEAD && old.logits_softcap == 0);
    assert_true(old.windows[0] == 12 && old.windows[1] == 0 && old.windows[2] == 12);
    assert_true(old.rope_of[0] == 1 && old.rope_of[1] == 0 && old.n_ropes == 2);
    assert_true(old.ropes[0].type == MODEL_ROPE_LINEAR && old.ropes[0].theta == 1e6);
    assert_true(old.ropes[1].type == MODEL_ROPE_DEFAULT && old.ropes[1].theta == 20000);
    snprintf(whole, sizeof(whole),
             "{%s\"rope_parameters\": {\"sliding_attention\": {\"rope_type\": \"default\", "
             "\"rope_theta\": 20000}, \"full_attention\": {\"rope_type\": \"linear\", "
             "\"factor\": 8.0, \"rope_theta\": 1000000.0}}}",
             text);
    new = parse_good(whole);
    uint8_t digests[2][32];
    model_config_digest(&old, digests[0]);
    model_config_digest(&new, digests[1]);
    assert_memory_equal(digests[0], digests[1], 32);
    /* A window beyond the context is none, but its layers still turn by the local rope. */
    snprintf(whole, sizeof(whole), "{%s\"max_position_embeddings\": 12}", text);
    new = parse_good(whole);
    assert_true(new.windows[0] == 0 && new.rope_of[0] == 1 && new.rope_of[1] == 0);
    assert_true(new.ropes[0].theta == 1e6 && new.ropes[1].theta == 10000);
}

/* As the published checkpoints with images have it: few sizes, end tokens outside. */
static void test_text_config(void **state)
{
    (void)state;
    struct model_config config = parse_good(
        "{\"model_type\": \"gemma3\", \"eos_token_id\": [1, 106], \"text_config\": "
        "{\"hidden_size\": 2560, \"intermediate_size\": 10240, \"model_type\": \"gemma3_text\", "
        "\"num_hidden_layers\": 34, \"rope_scaling\": {\"factor\": 8.0, \"rope_type\": "
        "\"linear\"}, \"sliding_window\": 1024}, \"vision_config\": {\"hidden_size\": 1152}}");
    assert_true(config.hidden == 2560 && config.n_heads == 8 && config.n_kv_heads == 4);
    assert_true(config.head_dim == 256 && config.vocab == 262208 && config.context_max == 131072);
    assert_true(config.n_eos_ids == 2 && config.eos_ids[1] == 106 && config.tied);
    assert_true(config.windows[4] == 1024 && config.windows[5] == 0 && config.ropes[0].factor == 8);
}

static void test_experts(void **state)
{
    (void)state;
    struct model_config config = parse_good(
        "{" SIZES
        ", \"model_type\": \"qwen3_moe\", \"num_experts\": 6, \"num_experts_per_tok\": 2, "
        "\"moe_intermediate_size\": 48, \"norm_topk_prob\": true, \"mlp_only_layers\": [2]}");
    assert_true(config.n_experts == 6 && config.n_chosen == 2 && config.expert_hidden == 48);
    assert_true(config.renormalise && config.qk_norm == MODEL_QK_NORM_HEAD);
    assert_true(config.has_experts[0] && config.has_experts[1] && !config.has_experts[2]);
    config = parse_good("{" SIZES ", \"model_type\": \"qwen3_moe\", \"num_local_experts\": 9, "
                        "\"decoder_sparse_step\": 2}");
    assert_true(config.n_experts == 9 && config.n_chosen == 8 && !config.renormalise);
    assert_true(!config.has_experts[0] && config.has_experts[1] && config.has_experts[3]);
}

static void test_olmo2(void **state)
{
    (void)state;
    struct model_config config = parse_good("{" SIZES ", \"model_type\": \"olmo2\"}");
    assert_true(config.qk_norm == MODEL_QK_NORM_WHOLE && config.norm_eps == 1e-5);
    assert_true(config.family->norms->attn == NULL && config.family->norms->mlp_post != NULL);
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
        {"{" LLAMA ", \"head_dim\": 13}", SL_UNSUPPORTED, "head_dim is 13; want an even number"},
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
        {"{" LLAMA ", \"eos_token_id\": 100}", SL_INVALID,
         "eos_token_id is 100; want ids below vocab_size 100"},
        {"{" LLAMA ", \"eos_token_id\": [1, \"x\"]}", SL_INVALID,
         "eos_token_id must be an id or a list"},
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
        {"{" LLAMA ", \"rope_scaling\": {\"type\": \"dynamic\"}}", SL_INVALID,
         "rope type dynamic wants a factor"},
        {"{" LLAMA ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0.5}}", SL_INVALID,
         "factor is 0.5"},
        {"{" LLAMA ", \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1]}}",
         SL_INVALID, "original_max_position_embeddings"},
        {"{" LLAMA ", \"original_max_position_embeddings\": 8, \"rope_scaling\": {\"type\": "
         "\"longrope\", \"short_factor\": [1, 2], \"long_factor\": 3}}",
         SL_INVALID, "long_factor must be a list"},
        {"{" LLAMA ", \"original_max_position_embeddings\": 8, \"rope_scaling\": {\"type\": "
         "\"longrope\", \"short_factor\": [1, 0], \"long_factor\": [1, 2]}}",
         SL_INVALID, "short_factor[1] is 0"},
        {"{" LLAMA ", \"original_max_position_embeddings\": 8, \"rope_scaling\": {\"type\": "
         "\"longrope\", \"short_factor\": [1, 1], \"long_factor\": [1, 2]}}",
         SL_INVALID, "have 2 numbers; want 8"},
        {"{" SIZES ", \"model_type\": \"phi3\", \"rope_scaling\": {\"type\": \"yarn\", "
         "\"factor\": 2}}",
         SL_UNSUPPORTED, "rope type of phi3"},
        {"{" SIZES ", \"model_type\": \"gemma2\", \"layer_types\": [\"full_attention\"]}",
         SL_INVALID, "layer_types must be a list of 4"},
        {"{" SIZES ", \"model_type\": \"gemma2\", \"layer_types\": [\"chunked_attention\", 1, 1, "
         "1]}",
         SL_UNSUPPORTED, "layer_types[0] is 'chunked_attention'"},
        {"{" SIZES ", \"model_type\": \"gemma2\", \"use_bidirectional_attention\": true}",
         SL_UNSUPPORTED, "use_bidirectional_attention is true"},
        {"{" SIZES ", \"model_type\": \"gemma2\", \"hidden_activation\": \"gelu\"}", SL_UNSUPPORTED,
         "'gelu'"},
        {"{\"model_type\": \"gemma3\"}", SL_INVALID, "text_config must be an object"},
        {"{\"model_type\": \"gemma3\", \"text_config\": {\"quantization_config\": {}}}",
         SL_UNSUPPORTED, "quantization_config"},
        {"{" SIZES ", \"model_type\": \"qwen3_moe\", \"num_experts\": 4}", SL_INVALID,
         "num_experts_per_tok is 8; want at most num_experts 4"},
        {"{" SIZES ", \"model_type\": \"qwen3_moe\", \"mlp_only_layers\": [4]}", SL_INVALID,
         "mlp_only_layers[0] must be a layer below 4"},
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
        cmocka_unit_test(test_inv_freq),    cmocka_unit_test(test_rope_types),
        cmocka_unit_test(test_longrope),    cmocka_unit_test(test_eos),
        cmocka_unit_test(test_multipliers), cmocka_unit_test(test_families),
        cmocka_unit_test(test_gemma2),      cmocka_unit_test(test_gemma3),
        cmocka_unit_test(test_text_config), cmocka_unit_test(test_experts),
        cmocka_unit_test(test_olmo2),       cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
