/* Tokens to JSON: text, stops, logprobs with OpenAI's fields, streams and bodies that say the same.
 * The model has one token for each byte, so what text must come out is plain. */
#include "coordinator/output.h"

#include "support/support.h"
#include "unit/coordinator/fake_node.h"

static const uint32_t end_ids[] = {FAKE_EOS};

static void start(struct output *output, const char *body)
{
    struct api_completion completion;
    struct api_error error;
    static const struct api_defaults neutral = API_DEFAULTS;
    assert_ok(api_parse_completion(body, strlen(body), &neutral, &completion, &error));
    const struct output_args args = {
        .tokenizer = fake_tokenizer, .completion = &completion, .model = "m"};
    assert_ok(output_init(output, &args));
    api_completion_fini(&completion);
    output->end_ids = end_ids;
    output->n_end_ids = 1;
}

/* Pushes bytes until the end or the text's; -1 in place of a byte is the end token. */
static enum output_finish push(struct output *output, const char *text, bool end)
{
    enum output_finish finish = OUTPUT_OPEN;
    for (; *text != '\0' && finish == OUTPUT_OPEN; text++)
        finish = output_push(output, (uint8_t)*text, NULL);
    if (end && finish == OUTPUT_OPEN)
        finish = output_push(output, FAKE_EOS, NULL);
    return finish;
}

static struct output_usage cost(uint32_t prompt, uint32_t completion, uint32_t cached)
{
    return (struct output_usage){
        .prompt_tokens = prompt, .completion_tokens = completion, .cached_tokens = cached};
}

static json_t *body_of(struct output *output, struct output_usage usage, const uint32_t *ids)
{
    struct sl_buf out;
    sl_buf_init(&out, 1 << 20);
    output_body_begin(output, &out);
    output_body_choice(output, ids, usage.prompt_tokens, &out);
    output_body_end(output, &usage, ids, usage.prompt_tokens, &out);
    json_t *json = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL)
        fail_msg("not JSON: %s", out.data);
    sl_buf_fini(&out);
    return json;
}

static json_t *choice(json_t *json)
{
    return json_array_get(json_object_get(json, "choices"), 0);
}

static void expect_end(const char *body, const char *tokens, bool end, const char *text,
                       const char *reason, uint32_t n_tokens)
{
    struct output output;
    start(&output, body);
    push(&output, tokens, end);
    json_t *json = body_of(&output, cost(1, output.n_tokens, 0), NULL);
    const char *got = json_string_value(json_object_get(choice(json), "text"));
    const char *finish = json_string_value(json_object_get(choice(json), "finish_reason"));
    if (strcmp(got, text) != 0 || finish == NULL || strcmp(finish, reason) != 0 ||
        output.n_tokens != n_tokens)
        fail_msg("%s: \"%s\" %s %u", body, got, finish != NULL ? finish : "null", output.n_tokens);
    json_decref(json);
    output_fini(&output);
}

static void ends(void **state)
{
    (void)state;
    expect_end("{\"prompt\":\"p\",\"max_tokens\":3}", "abcdef", false, "abc", "length", 3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9}", "ab", true, "ab", "stop", 3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":3,\"ignore_eos\":true}", "ab", true, "ab",
               "length", 3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"stop\":\"cd\"}", "abcdef", false, "ab", "stop",
               4);
    /* What may begin a stop string comes out in the end. */
    expect_end("{\"prompt\":\"p\",\"max_tokens\":3,\"stop\":\"cd\"}", "abc", false, "abc", "length",
               3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"stop\":[\"bc\",\"abc\"]}", "xabc", false, "x",
               "stop", 4);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"stop_token_ids\":[99]}", "abcd", false, "ab",
               "stop", 3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"min_tokens\":4,\"stop\":\"b\"}", "abcbdb",
               false, "abcbd", "stop", 6);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"min_tokens\":3,\"stop\":\"b\"}", "abcdbe",
               false, "abcd", "stop", 5);
    /* What ended it belongs to the text when that is asked for. */
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"stop\":\"cd\",\"include_stop_str_in_output\":"
               "true}",
               "abcdef", false, "abcd", "stop", 4);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"stop_token_ids\":[99],"
               "\"include_stop_str_in_output\":true}",
               "abcd", false, "abc", "stop", 3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":9,\"include_stop_str_in_output\":true,"
               "\"skip_special_tokens\":false}",
               "ab", true, "ab<|end|>", "stop", 3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":3,\"ignore_eos\":true,\"skip_special_tokens\":"
               "false}",
               "ab", true, "ab<|end|>", "length", 3);
    /* An incomplete character at the end. */
    expect_end("{\"prompt\":\"p\",\"max_tokens\":3}", "a\xe2\x82", false, "a\xef\xbf\xbd", "length",
               3);
    expect_end("{\"prompt\":\"p\",\"max_tokens\":4}", "a\xe2\x82\xac", false, "a\xe2\x82\xac",
               "length", 4);
}

/* The chunks of a stream, put together. */
static void read_chunks(const struct sl_buf *out, struct sl_buf *text, uint32_t *n_ids,
                        uint32_t *n_chunks, bool *done, json_t **usage)
{
    *n_ids = *n_chunks = 0;
    *done = false;
    *usage = NULL;
    const char *p = out->data;
    while (*p != '\0') {
        assert_memory_equal(p, "data: ", 6);
        assert_false(*done);
        const char *end = strstr(p, "\n\n");
        assert_non_null(end);
        if (strncmp(p + 6, "[DONE]", 6) == 0) {
            *done = true;
        } else {
            json_t *json = json_loadb(p + 6, (size_t)(end - p - 6), JSON_REJECT_DUPLICATES, NULL);
            assert_non_null(json);
            if (json_array_size(json_object_get(json, "choices")) == 0) {
                *usage = json_incref(json_object_get(json, "usage"));
            } else {
                (*n_chunks)++;
                sl_buf_add_text(text, json_string_value(json_object_get(choice(json), "text")));
                *n_ids += (uint32_t)json_array_size(json_object_get(choice(json), "token_ids"));
            }
            json_decref(json);
        }
        p = end + 2;
    }
}

static void a_stream_says_the_same(void **state)
{
    (void)state;
    const uint32_t prompt[] = {1, 2};
    const char *tokens = "na\xc3\xafve \xe2\x82\xac and so on";
    struct output output;
    struct sl_buf out, text;
    sl_buf_init(&out, 1 << 20);
    sl_buf_init(&text, 1 << 20);
    start(&output, "{\"prompt\":\"p\",\"max_tokens\":99,\"stream\":true,\"stream_options\":{"
                   "\"include_usage\":true},\"return_token_ids\":true,\"stop\":\"so o\"}");
    for (const char *p = tokens; *p != '\0' && output.finish == OUTPUT_OPEN; p++) {
        output_push(&output, (uint8_t)*p, NULL);
        output_chunk(&output, prompt, 2, &out);
    }
    struct output_usage usage = cost(2, output.n_tokens, 1);
    output_done(&output, &usage, &out);
    uint32_t n_ids, n_chunks;
    bool done;
    json_t *last;
    read_chunks(&out, &text, &n_ids, &n_chunks, &done, &last);
    assert_string_equal(text.data, "na\xc3\xafve \xe2\x82\xac and ");
    assert_int_equal(n_ids, output.n_tokens);
    assert_int_equal(n_chunks, output.n_tokens);
    assert_true(done);
    assert_int_equal(json_integer_value(json_object_get(last, "completion_tokens")),
                     output.n_tokens);
    json_t *details = json_object_get(last, "prompt_tokens_details");
    assert_int_equal(json_integer_value(json_object_get(details, "cached_tokens")), 1);
    assert_non_null(strstr(out.data, "\"prompt_token_ids\":[1,2]"));
    assert_null(strstr(strstr(out.data, "prompt_token_ids") + 1, "prompt_token_ids"));
    assert_non_null(strstr(out.data, "\"stop_reason\":\"so o\""));
    json_decref(last);
    sl_buf_fini(&out);
    sl_buf_fini(&text);
    output_fini(&output);
}

static void logprobs(void **state)
{
    (void)state;
    struct output output;
    start(&output, "{\"prompt\":\"p\",\"max_tokens\":5,\"logprobs\":3}");
    /* 0xc3 and 0xaf are no characters on their own; 0xe2 twice collides in name. */
    const uint32_t top_ids[] = {'a', 0xe2, 0xe3, 'd'};
    const float top[] = {-0.25f, -1, -2, -3};
    struct output_logprob logprob = {.sampled = -0.25f, .n_top = 4, .top_ids = top_ids, .top = top};
    output_push(&output, 'a', &logprob);
    output_push(&output, 0xc3, &logprob);
    output_push(&output, 0xaf, &logprob);
    output_push(&output, 'b', &logprob);
    output_push(&output, FAKE_EOS, &logprob);
    json_t *json = body_of(&output, cost(1, 5, 0), NULL);
    json_t *l = json_object_get(choice(json), "logprobs");
    const char *const fields[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    for (int i = 0; i < 4; i++)
        assert_int_equal(json_array_size(json_object_get(l, fields[i])), 5);
    json_t *tokens = json_object_get(l, "tokens");
    assert_string_equal(json_string_value(json_array_get(tokens, 0)), "a");
    assert_string_equal(json_string_value(json_array_get(tokens, 1)), "bytes:\\xc3");
    assert_string_equal(json_string_value(json_array_get(tokens, 4)), "<|end|>");
    json_t *first = json_array_get(json_object_get(l, "top_logprobs"), 0);
    assert_int_equal(json_object_size(first), 3);
    assert_true(json_number_value(json_object_get(first, "a")) == -0.25);
    assert_true(json_number_value(json_object_get(first, "bytes:\\xe2")) == -1);
    const json_int_t want[] = {0, 1, 1, 2, 3};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(json_integer_value(json_array_get(json_object_get(l, "text_offset"), i)),
                         want[i]);
    assert_string_equal(json_string_value(json_object_get(choice(json), "text")), "a\xc3\xaf"
                                                                                  "b");
    json_decref(json);
    output_fini(&output);
}

/* As many keys as there are likeliest, whatever their names. */
static void names_that_collide(void **state)
{
    (void)state;
    static const struct {
        uint32_t ids[5];
        const char *keys[5];
    } rows[] = {
        {{'a', 300, 301, 'b', 302}, {"a", "token_id:300", "token_id:301", "b", "token_id:302"}},
        {{'a', 'a', 'a', 0xe2, 0xe2},
         {"a", "bytes:\\x61", "token_id:97", "bytes:\\xe2", "token_id:226"}},
    };
    const float top[] = {-1, -2, -3, -4, -5};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct output output;
        start(&output, "{\"prompt\":\"p\",\"max_tokens\":5,\"logprobs\":5}");
        struct output_logprob logprob = {
            .sampled = -1, .n_top = 5, .top_ids = rows[i].ids, .top = top};
        output_push(&output, 300, &logprob);
        output_push(&output, FAKE_EOS, &logprob);
        json_t *json = body_of(&output, cost(1, 2, 0), NULL);
        json_t *l = json_object_get(choice(json), "logprobs");
        json_t *first = json_array_get(json_object_get(l, "top_logprobs"), 0);
        assert_int_equal(json_object_size(first), 5);
        for (size_t k = 0; k < 5; k++)
            assert_true(json_number_value(json_object_get(first, rows[i].keys[k])) ==
                        (double)top[k]);
        assert_string_equal(json_string_value(json_array_get(json_object_get(l, "tokens"), 0)),
                            "token_id:300");
        assert_string_equal(json_string_value(json_object_get(choice(json), "text")), "");
        json_decref(json);
        output_fini(&output);
    }
}

static void without_logprobs_they_are_null(void **state)
{
    (void)state;
    struct output output;
    start(&output, "{\"prompt\":\"p\",\"max_tokens\":1}");
    push(&output, "a", false);
    json_t *json = body_of(&output, cost(1, 1, 0), NULL);
    assert_true(json_is_null(json_object_get(choice(json), "logprobs")));
    assert_null(json_object_get(choice(json), "token_ids"));
    assert_string_equal(json_string_value(json_object_get(json, "object")), "text_completion");
    assert_string_equal(json_string_value(json_object_get(json, "model")), "m");
    json_decref(json);
    output_fini(&output);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends),
        cmocka_unit_test(a_stream_says_the_same),
        cmocka_unit_test(logprobs),
        cmocka_unit_test(names_that_collide),
        cmocka_unit_test(without_logprobs_they_are_null),
    };
    return cmocka_run_group_tests(tests, fake_tokenizer_open, fake_tokenizer_close);
}
