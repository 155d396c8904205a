/* Bias, forbidden words and penalties against what transformers' processors make of the same logits
 * (tools/make_sampling_goldens.py), and against dense counts over long sequences. */
#include "base/json.h"
#include "model/adjust.h"
#include "model/sampler.h"

#include "support/support.h"

#include <math.h>
#include <stdbool.h>

#define VOCAB_MAX  2000u
#define TOKENS_MAX 4000u
#define GOLDEN     "tests/golden/sampling/adjust.json"

/* A sequence with room of its own. */
struct sequence {
    struct model_adjust adjust;
    uint32_t tokens[TOKENS_MAX];
    struct model_count *counts;
    uint32_t *slots;
};

static void give_room(struct sequence *s, uint32_t tokens_max, uint32_t vocab)
{
    uint32_t n_counts, n_slots;
    model_adjust_room(&s->adjust, tokens_max, vocab, &n_counts, &n_slots);
    s->counts = sl_zalloc(n_counts + 1, sizeof(*s->counts));
    s->slots = sl_zalloc(n_slots + 1, sizeof(*s->slots));
    s->adjust.tokens = s->tokens;
    model_adjust_init(&s->adjust, s->counts, n_counts, s->slots, n_slots);
}

static void end(struct sequence *s)
{
    sl_free(s->counts);
    sl_free(s->slots);
    s->counts = NULL;
    s->slots = NULL;
}

static uint32_t read_ids(const json_t *list, uint32_t *ids)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)json_array_size(list);
}

static void read_bits(const json_t *list, float *values)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        uint32_t bits = (uint32_t)json_integer_value(json_array_get(list, i));
        memcpy(&values[i], &bits, sizeof(bits));
    }
}

static float number(const json_t *object, const char *field)
{
    return (float)json_number_value(json_object_get(object, field));
}

static void check_case(const json_t *row, uint32_t vocab, size_t index)
{
    static struct sequence s;
    uint32_t bias_ids[16], word_lengths[64], word_ids[256], n_ids = 0;
    float biases[16], logits[VOCAB_MAX], want[VOCAB_MAX];
    const json_t *list = json_object_get(row, "biases");
    memset(&s, 0, sizeof(s));
    s.adjust = (struct model_adjust){.repetition = number(row, "repetition"),
                                     .presence = number(row, "presence"),
                                     .frequency = number(row, "frequency"),
                                     .bias_ids = bias_ids,
                                     .biases = biases,
                                     .word_lengths = word_lengths,
                                     .word_ids = word_ids};
    for (; s.adjust.n_biases < json_array_size(list); s.adjust.n_biases++) {
        const json_t *pair = json_array_get(list, s.adjust.n_biases);
        bias_ids[s.adjust.n_biases] = (uint32_t)json_integer_value(json_array_get(pair, 0));
        biases[s.adjust.n_biases] = (float)json_number_value(json_array_get(pair, 1));
    }
    list = json_object_get(row, "words");
    for (; s.adjust.n_words < json_array_size(list); s.adjust.n_words++) {
        word_lengths[s.adjust.n_words] =
            read_ids(json_array_get(list, s.adjust.n_words), word_ids + n_ids);
        n_ids += word_lengths[s.adjust.n_words];
    }
    s.adjust.n_prompt = read_ids(json_object_get(row, "prompt"), s.tokens);
    uint32_t n =
        s.adjust.n_prompt + read_ids(json_object_get(row, "output"), s.tokens + s.adjust.n_prompt);
    assert_ok(model_adjust_check(&s.adjust, vocab));
    give_room(&s, n, vocab);
    /* As after a prompt, or as at another node: in any portions. */
    for (uint32_t at = 0; at < n; at += 1 + (uint32_t)index % 7)
        model_adjust_take(&s.adjust, at);
    model_adjust_take(&s.adjust, n);
    read_bits(json_object_get(row, "logits"), logits);
    read_bits(json_object_get(row, "expected"), want);
    model_adjust_apply(&s.adjust, logits, vocab);
    for (uint32_t i = 0; i < vocab; i++)
        if (memcmp(&logits[i], &want[i], sizeof(float)) != 0)
            fail_msg("case %zu, token %u: %.9g, want %.9g", index, i, (double)logits[i],
                     (double)want[i]);
    end(&s);
}

static void test_golden(void **state)
{
    (void)state;
    json_t *golden;
    assert_ok(sl_json_load(GOLDEN, 1u << 20, &golden));
    uint32_t vocab = (uint32_t)json_integer_value(json_object_get(golden, "vocab"));
    const json_t *rows = json_object_get(golden, "cases");
    assert_true(vocab <= VOCAB_MAX && json_array_size(rows) >= 40);
    for (size_t i = 0; i < json_array_size(rows); i++)
        check_case(json_array_get(rows, i), vocab, i);
    json_decref(golden);
}

/* Thousands of tokens, the counts never more than there are tokens; against dense arrays. */
static void test_long_sequences(void **state)
{
    (void)state;
    static struct sequence s;
    static uint32_t n_output[VOCAB_MAX];
    static bool present[VOCAB_MAX];
    static float logits[VOCAB_MAX];
    uint64_t seed = 5;
    const uint32_t vocabs[] = {1, 3, 50, 777, VOCAB_MAX};
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t vocab = vocabs[round % 5], n = 1 + (uint32_t)(test_random(&seed) % TOKENS_MAX);
        memset(&s, 0, sizeof(s));
        memset(n_output, 0, sizeof(n_output));
        memset(present, 0, sizeof(present));
        s.adjust.n_prompt = (uint32_t)(test_random(&seed) % n);
        s.adjust.repetition = round % 2 ? 2 : 1;
        s.adjust.presence = 0.5f;
        s.adjust.frequency = 0.25f;
        give_room(&s, n, vocab);
        for (uint32_t i = 0; i < n; i++) {
            s.tokens[i] = (uint32_t)(test_random(&seed) % vocab);
            present[s.tokens[i]] = true;
            n_output[s.tokens[i]] += i >= s.adjust.n_prompt;
            model_adjust_take(&s.adjust, i + 1);
        }
        for (uint32_t i = 0; i < vocab; i++)
            logits[i] = i % 2 ? 8 : -8;
        model_adjust_apply(&s.adjust, logits, vocab);
        for (uint32_t i = 0; i < vocab; i++) {
            float want = i % 2 ? 8 : -8;
            if (round % 2 && present[i])
                want = i % 2 ? 4 : -16;
            if (n_output[i] > 0)
                want -= 0.5f + 0.25f * (float)n_output[i];
            assert_true(logits[i] == want);
        }
        end(&s);
    }
}

/* What needs no counts has no room for them, and takes tokens all the same. */
static void test_room(void **state)
{
    (void)state;
    uint32_t n_counts, n_slots;
    struct model_adjust adjust = {.n_prompt = 1000};
    model_adjust_room(&adjust, 1200, 50000, &n_counts, &n_slots);
    assert_int_equal(n_counts + n_slots, 0);
    adjust.presence = 1; /* the prompt does not count */
    model_adjust_room(&adjust, 1200, 50000, &n_counts, &n_slots);
    assert_int_equal(n_counts, 200);
    assert_int_equal(n_slots, 512);
    adjust.repetition = 1.5f;
    model_adjust_room(&adjust, 1200, 50000, &n_counts, &n_slots);
    assert_int_equal(n_counts, 1200);
    assert_int_equal(n_slots, 2048);
    model_adjust_room(&adjust, 1u << 24, 50000, &n_counts, &n_slots);
    assert_int_equal(n_counts, 50000); /* not more than there are ids */
    assert_int_equal(n_slots, 131072);
    adjust = (struct model_adjust){.presence = 1, .n_prompt = 9};
    model_adjust_room(&adjust, 9, 100, &n_counts, &n_slots);
    assert_int_equal(n_counts, 0);
}

static void test_neutral(void **state)
{
    (void)state;
    const uint32_t one = 1;
    const float zero = 0;
    assert_true(model_adjust_is_neutral(&(struct model_adjust){0}));
    assert_true(model_adjust_is_neutral(&(struct model_adjust){.repetition = 1, .n_prompt = 5}));
    assert_false(model_adjust_is_neutral(&(struct model_adjust){.repetition = 1.1f}));
    assert_false(model_adjust_is_neutral(&(struct model_adjust){.presence = -0.1f}));
    assert_false(model_adjust_is_neutral(&(struct model_adjust){.frequency = 0.1f}));
    assert_false(model_adjust_is_neutral(
        &(struct model_adjust){.n_biases = 1, .bias_ids = &one, .biases = &zero}));
    assert_false(model_adjust_is_neutral(
        &(struct model_adjust){.n_words = 1, .word_lengths = &one, .word_ids = &one}));
}

/* A word that began in the prompt is none: only what was generated is looked at. */
static void test_words_and_prompt(void **state)
{
    (void)state;
    const uint32_t length = 3, word[] = {1, 2, 3}, tokens[] = {0, 1, 2, 1, 2};
    struct model_adjust adjust = {
        .n_words = 1, .word_lengths = &length, .word_ids = word, .tokens = tokens};
    for (uint32_t n = 0; n <= 5; n++)
        for (adjust.n_prompt = 0; adjust.n_prompt <= n; adjust.n_prompt++) {
            float logits[4] = {0, 0, 0, 0};
            model_adjust_init(&adjust, NULL, 0, NULL, 0);
            model_adjust_take(&adjust, n);
            model_adjust_apply(&adjust, logits, 4);
            bool masked = (n == 3 && adjust.n_prompt <= 1) || (n == 5 && adjust.n_prompt <= 3);
            assert_true((logits[3] < -1) == masked && logits[2] == 0);
        }
}

static void refused(struct model_adjust adjust, const char *part)
{
    assert_fails(model_adjust_check(&adjust, 100), SL_INVALID, part);
}

static void test_check(void **state)
{
    (void)state;
    static uint32_t ids[MODEL_WORD_IDS_MAX + 1], lengths[MODEL_WORDS_MAX + 1];
    static float biases[MODEL_BIASES_MAX + 1];
    refused((struct model_adjust){.repetition = -0.5f}, "repetition penalty -0.5");
    refused((struct model_adjust){.repetition = NAN}, "repetition penalty");
    refused((struct model_adjust){.repetition = 101}, "up to 100");
    refused((struct model_adjust){.presence = 2.5f}, "presence penalty 2.5");
    refused((struct model_adjust){.frequency = -2.5f}, "frequency penalty -2.5");
    struct model_adjust good = {.n_biases = 1, .bias_ids = ids, .biases = biases};
    ids[0] = 99;
    biases[0] = -100;
    assert_ok(model_adjust_check(&good, 100));
    ids[0] = 100;
    refused(good, "token 100; the vocabulary has 100");
    ids[0] = 7;
    biases[0] = NAN;
    refused(good, "token 7 is");
    biases[0] = 100.5f;
    refused(good, "-100..100");
    biases[0] = 0;
    good.n_biases = MODEL_BIASES_MAX + 1;
    refused(good, "at most 1024");
    good = (struct model_adjust){.n_words = 2, .word_lengths = lengths, .word_ids = ids};
    lengths[0] = 2;
    refused(good, "word 1 has no tokens");
    lengths[1] = MODEL_WORD_IDS_MAX;
    refused(good, "at most 4096");
    lengths[1] = 1;
    ids[2] = 100;
    refused(good, "token 100");
    ids[2] = 0;
    assert_ok(model_adjust_check(&good, 100));
    good.n_words = MODEL_WORDS_MAX + 1;
    refused(good, "at most 512");
}

/* The sampler chooses from adjusted logits; logprobs are of the raw ones, which stay as they were. */
static void test_sampler(void **state)
{
    (void)state;
    const uint32_t bias_id = 3;
    const float bias = 6;
    float logits[6] = {0, 9, 5, 4, 1, 2}, before[6];
    struct model_sampler *sampler;
    struct model_token token;
    struct model_adjust adjust = {.n_biases = 1, .bias_ids = &bias_id, .biases = &bias};
    struct model_sampling greedy = {.top_p = 1, .n_logprobs = 2, .adjust = &adjust};
    memcpy(before, logits, sizeof(logits));
    assert_ok(model_sampler_create(6, &sampler));
    assert_ok(model_sample(sampler, logits, &greedy, 0, &token));
    assert_int_equal(token.id, 3);
    assert_int_equal(token.top_ids[0], 1);
    assert_true(token.logprob < -5);
    assert_memory_equal(before, logits, sizeof(logits));
    greedy.adjust = NULL;
    assert_ok(model_sample(sampler, logits, &greedy, 0, &token));
    assert_int_equal(token.id, 1);
    /* A stop id that may not come yet stays out, whatever its bias. */
    greedy = (struct model_sampling){.top_p = 1,
                                     .n_logprobs = -1,
                                     .min_position = 5,
                                     .n_stop_ids = 1,
                                     .stop_ids = {3},
                                     .adjust = &adjust};
    assert_ok(model_sample(sampler, logits, &greedy, 0, &token));
    assert_int_equal(token.id, 1);
    assert_ok(model_sample(sampler, logits, &greedy, 5, &token));
    assert_int_equal(token.id, 3);
    model_sampler_destroy(sampler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_long_sequences),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_neutral),
        cmocka_unit_test(test_words_and_prompt),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_sampler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
