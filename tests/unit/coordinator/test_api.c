/* Bodies of the API: what is accepted, with which values; what is refused, naming which field. */
#include "coordinator/api.h"
#include "coordinator/fields.h"

#include "support/support.h"

#include "base/buf.h"

static const struct api_defaults neutral = API_DEFAULTS;

struct refusal {
    const char *body;
    int status;
    const char *param;
    const char *part; /* of the message */
};

static const struct refusal refusals[] = {
    {"", 400, "", "request body"},
    {"{", 400, "", "request body"},
    {"[]", 400, "", "not a JSON object"},
    {"{\"prompt\":\"a\",\"prompt\":\"b\"}", 400, "", "request body"},
    {"{\"prompt\":\"\xff\"}", 400, "", "request body"},
    {"{}", 400, "prompt", "missing"},
    {"{\"prompt\":null}", 400, "prompt", "missing"},
    {"{\"prompt\":7}", 400, "prompt", "is 7"},
    {"{\"prompt\":{}}", 400, "prompt", "an object"},
    {"{\"prompt\":[]}", 400, "prompt", "no tokens"},
    {"{\"prompt\":[[]]}", 400, "prompt", "no tokens"},
    {"{\"prompt\":[1,-1]}", 400, "prompt", "prompt[1]` is -1"},
    {"{\"prompt\":[1,4294967296]}", 400, "prompt", "4294967296"},
    {"{\"prompt\":[1,1.5]}", 400, "prompt", "1.5"},
    {"{\"prompt\":[1,\"a\"]}", 400, "prompt", "prompt[1]"},
    {"{\"prompt\":[\"a\",7]}", 400, "prompt[1]", "is 7"},
    {"{\"prompt\":[[1],[2,\"b\"]]}", 400, "prompt[1]", "prompt[1][1]` is a string"},
    {"{\"prompt\":[\"a\",[]]}", 400, "prompt[1]", "no tokens"},
    {"{\"prompt\":\"a\",\"model\":1}", 400, "model", "a string"},
    {"{\"prompt\":\"a\",\"max_tokens\":0}", 400, "max_tokens", "is 0; want an integer of 1"},
    {"{\"prompt\":\"a\",\"max_tokens\":-3}", 400, "max_tokens", "-3"},
    {"{\"prompt\":\"a\",\"max_tokens\":1.5}", 400, "max_tokens", "1.5"},
    {"{\"prompt\":\"a\",\"max_tokens\":\"9\"}", 400, "max_tokens", "a string"},
    {"{\"prompt\":\"a\",\"max_tokens\":99999999999999999999999}", 400, "max_tokens",
     "`max_tokens` is 1e+23; want an integer of 1 to 16777216"},
    {"{\"prompt\":\"a\",\"max_tokens\":-99999999999999999999}", 400, "max_tokens",
     "is -1e+20; want an integer of 1"},
    {"{\"prompt\":\"a\",\"max_tokens\":1e400}", 400, "max_tokens", "is 1e+308; want"},
    {"{\"prompt\":\"a\",\"max_tokens\":7.0000001}", 400, "max_tokens", "is 7.0000001; want"},
    {"{\"prompt\":\"a\",\"max_tokens\":0.1}", 400, "max_tokens", "is 0.1; want"},
    {"{\"prompt\":\"a\",\"max_tokens\":16777217.0}", 400, "max_tokens", "is 16777217; want"},
    {"{\"prompt\":\"a\",\"temperature\":99999999999999999999}", 400, "temperature",
     "is 1e+20; want a number of 0 to 2"},
    {"{\"prompt\":\"a\",\"seed\":9223372036854775808}", 400, "seed",
     "is 9.22337203685478e+18; want an integer of -9223372036854775808 to 9223372036854775807"},
    {"{\"prompt\":\"a\",\"seed\":1e19}", 400, "seed", "is 1e+19; want an integer"},
    {"{\"prompt\":[1,99999999999999999999]}", 400, "prompt",
     "`prompt[1]` is 1e+20; want a token id of 0 to 4294967295"},
    {"{\"prompt\":[1,4294967296.0]}", 400, "prompt", "`prompt[1]` is 4294967296; want"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"5\":99999999999999999999}}", 400, "logit_bias",
     "`logit_bias[5]` is 1e+20; want"},
    {"{\"prompt\":\"a\",\"length_penalty\":99999999999999999999}", 501, "length_penalty",
     "is 1e+20; only 1 is served"},
    {"{\"prompt\":\"a\",\"max_tokens\":true}", 400, "max_tokens", "true"},
    {"{\"prompt\":\"a\",\"max_tokens\":3,\"min_tokens\":4}", 400, "min_tokens", "is 4; at most"},
    {"{\"prompt\":\"a\",\"min_tokens\":-1}", 400, "min_tokens", "-1"},
    {"{\"prompt\":\"a\",\"temperature\":-0.1}", 400, "temperature", "-0.1"},
    {"{\"prompt\":\"a\",\"temperature\":2.1}", 400, "temperature", "0 to 2"},
    {"{\"prompt\":\"a\",\"temperature\":\"hot\"}", 400, "temperature", "a string"},
    {"{\"prompt\":\"a\",\"top_p\":1.01}", 400, "top_p", "0 to 1"},
    {"{\"prompt\":\"a\",\"min_p\":-1}", 400, "min_p", "0 to 1"},
    {"{\"prompt\":\"a\",\"top_k\":-2}", 400, "top_k", "-2"},
    {"{\"prompt\":\"a\",\"seed\":1.5}", 400, "seed", "1.5"},
    {"{\"prompt\":\"a\",\"logprobs\":6}", 400, "logprobs", "0 to 5"},
    {"{\"prompt\":\"a\",\"logprobs\":true}", 400, "logprobs", "true"},
    {"{\"prompt\":\"a\",\"stream\":1}", 400, "stream", "true or false"},
    {"{\"prompt\":\"a\",\"ignore_eos\":\"no\"}", 400, "ignore_eos", "true or false"},
    {"{\"prompt\":\"a\",\"stop\":[\"\"]}", 400, "stop", "0 bytes"},
    {"{\"prompt\":\"a\",\"stop\":[1]}", 400, "stop", "is 1"},
    {"{\"prompt\":\"a\",\"stop\":{}}", 400, "stop", "an object"},
    {"{\"prompt\":\"a\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\","
     "\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]}",
     400, "stop", "17 strings; at most 16"},
    {"{\"prompt\":\"a\",\"stop_token_ids\":[-1]}", 400, "stop_token_ids", "-1"},
    {"{\"prompt\":\"a\",\"model\":\"m\\u0000x\"}", 400, "model", "NUL"},
    {"{\"prompt\":\"a\",\"stop\":[\"x\",\"b\\u0000\"]}", 400, "stop", "NUL"},
    {"{\"prompt\":\"a\",\"unknown\":{\"of\":[{\"text\":\"\\u0000\",\"it\":\"\\u0000\"}]}}", 400,
     "it", "NUL"},
    {"{\"prompt\":\"a\",\"\\u0000\":1}", 400, "", "not valid JSON"},
    {"{\"prompt\":\"a\",\"stream_options\":{}}", 400, "stream_options", "stream"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":1}", 400, "stream_options", "is 1"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":3}}", 400,
     "stream_options.include_usage", "is 3"},
    {"{\"prompt\":\"a\",\"echo\":1}", 400, "echo", "true or false"},
    {"{\"prompt\":\"a\",\"echo\":false,\"max_tokens\":0}", 400, "max_tokens",
     "is 0; want an integer of 1"},
    {"{\"prompt\":\"a\",\"echo\":true,\"max_tokens\":-1}", 400, "max_tokens", "an integer of 0"},
    {"{\"prompt\":\"a\",\"echo\":true,\"max_tokens\":0,\"min_tokens\":1}", 400, "min_tokens",
     "at most"},
    {"{\"prompt\":\"a\",\"prompt_logprobs\":21}", 400, "prompt_logprobs", "0 to 20"},
    {"{\"prompt\":\"a\",\"prompt_logprobs\":-1}", 400, "prompt_logprobs", "0 to 20"},
    {"{\"prompt\":\"a\",\"prompt_logprobs\":0,\"stream\":true}", 400, "prompt_logprobs",
     "a stream"},
    {"{\"prompt\":\"a\",\"suffix\":\"x\"}", 501, "suffix", "1 bytes"},
    {"{\"prompt\":\"a\",\"n\":0}", 400, "n", "1 to 128"},
    {"{\"prompt\":\"a\",\"n\":129}", 400, "n", "1 to 128"},
    {"{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":43}", 400, "n", "is 43 for 3 prompts; at most 128"},
    {"{\"prompt\":\"a\",\"best_of\":3}", 501, "best_of", "is 3"},
    {"{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", 400, "best_of", "at least `n`, 3"},
    {"{\"prompt\":\"a\",\"presence_penalty\":2.1}", 400, "presence_penalty", "-2 to 2"},
    {"{\"prompt\":\"a\",\"presence_penalty\":\"x\"}", 400, "presence_penalty", "a string"},
    {"{\"prompt\":\"a\",\"frequency_penalty\":-2.5}", 400, "frequency_penalty", "-2 to 2"},
    {"{\"prompt\":\"a\",\"repetition_penalty\":0}", 400, "repetition_penalty", "0.01 to 100"},
    {"{\"prompt\":\"a\",\"repetition_penalty\":true}", 400, "repetition_penalty", "true"},
    {"{\"prompt\":\"a\",\"logit_bias\":[1]}", 400, "logit_bias", "an object of token ids"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"05\":1}}", 400, "logit_bias", "\"05\""},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"\":1}}", 400, "logit_bias", "a token id"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"5000000000\":1}}", 400, "logit_bias", "5000000000"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"-5\":1}}", 400, "logit_bias", "\"-5\""},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"5\":100.5}}", 400, "logit_bias", "-100 to 100"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"5\":\"1\"}}", 400, "logit_bias", "[5]` is a string"},
    {"{\"prompt\":\"a\",\"bad_words\":\"x\"}", 400, "bad_words", "a list of strings"},
    {"{\"prompt\":\"a\",\"bad_words\":[\"x\",\"\"]}", 400, "bad_words", "bad_words[1]"},
    {"{\"prompt\":\"a\",\"bad_words\":[5]}", 400, "bad_words", "[0]` is 5"},
    {"{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}", 501, "response_format",
     "is an object; only {\"type\": \"text\"} is served yet"},
    {"{\"prompt\":\"a\",\"length_penalty\":2}", 501, "length_penalty", "is 2; only 1 is served"},
    {"{\"prompt\":\"a\",\"suffix\":\"b\"}", 501, "suffix", "only an empty value is served"},
    {"{\"prompt\":\"a\",\"n\":\"one\"}", 400, "n", "a string"},
    {"{\"prompt\":\"a\",\"truncate_prompt_tokens\":0}", 400, "truncate_prompt_tokens", "is 0"},
    {"{\"prompt\":\"a\",\"truncate_prompt_tokens\":-2}", 400, "truncate_prompt_tokens", "-1 to"},
    {"{\"prompt\":\"a\",\"priority\":0.5}", 400, "priority", "0.5"},
    {"{\"prompt\":\"a\",\"priority\":2147483648}", 400, "priority", "to 2147483647"},
    {"{\"prompt\":\"a\",\"cache_salt\":7}", 400, "cache_salt", "is 7"},
    {"{\"prompt\":\"a\",\"request_id\":\"\"}", 400, "request_id", "0 bytes"},
    {"{\"prompt\":\"a\",\"request_id\":\"a b\"}", 400, "request_id", "letters, digits"},
    {"{\"prompt\":\"a\",\"request_id\":"
     "\"0123456789012345678901234567890123456789012345678901234567890123x\"}",
     400, "request_id", "65 bytes; want 1 to 64"},
    {"{\"prompt\":\"a\",\"user\":{}}", 400, "user", "an object"},
    {"{\"prompt\":\"a\",\"skip_special_tokens\":1}", 400, "skip_special_tokens", "true or false"},
    {"{\"prompt\":\"a\",\"include_stop_str_in_output\":\"x\"}", 400, "include_stop_str_in_output",
     "true or false"},
};

static void bad_bodies_name_the_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const struct refusal *r = &refusals[i];
        struct api_completion completion;
        struct api_error error;
        sl_status status =
            api_parse_completion(r->body, strlen(r->body), &neutral, &completion, &error);
        if (status == SL_OK)
            fail_msg("accepted: %s", r->body);
        if (error.http_status != r->status || strcmp(error.param, r->param) != 0 ||
            strstr(error.message, r->part) == NULL)
            fail_msg("%s: %d param=%s %s", r->body, error.http_status, error.param, error.message);
        assert_null(completion.body);
    }
}

static void parse(const char *body, struct api_completion *out)
{
    struct api_error error;
    if (api_parse_completion(body, strlen(body), &neutral, out, &error) != SL_OK)
        fail_msg("%s: %s", body, error.message);
}

/* JSON allows it, and tokenizers encode it. */
static void a_prompt_with_nul(void **state)
{
    (void)state;
    struct api_completion c;
    struct api_tokenize t;
    struct api_error error;
    const char *body = "{\"prompt\":\"a\\u0000b\"}";
    parse(body, &c);
    assert_int_equal(c.prompts[0].text_bytes, 3);
    assert_memory_equal(c.prompts[0].text, "a\0b", 4);
    api_completion_fini(&c);
    assert_ok(api_parse_tokenize(body, strlen(body), &t, &error));
    assert_int_equal(t.prompt.text_bytes, 3);
    api_tokenize_fini(&t);
}

static void defaults(void **state)
{
    (void)state;
    struct api_completion c;
    parse("{\"prompt\":\"abc\"}", &c);
    assert_int_equal(c.max_tokens, 16);
    assert_false(c.has_max_tokens);
    assert_int_equal(c.min_tokens, 0);
    assert_true(c.temperature == 1.0);
    assert_true(c.top_p == 1.0);
    assert_true(c.min_p == 0.0);
    assert_int_equal(c.top_k, 0);
    assert_int_equal(c.logprobs, -1);
    assert_false(c.has_seed);
    assert_false(c.stream);
    assert_true(c.add_special_tokens);
    assert_int_equal(c.n_stops, 0);
    assert_null(c.model);
    assert_int_equal(c.prompts[0].text_bytes, 3);
    api_completion_fini(&c);
}

static void every_field(void **state)
{
    (void)state;
    struct api_completion c;
    parse(
        "{\"model\":\"m\",\"prompt\":[1,2,3],\"stream\":true,\"stream_options\":{\"include_usage\":"
        "true,\"other\":1},\"stop\":[\"x\",\"yy\"],\"stop_token_ids\":[9],\"seed\":-5,"
        "\"temperature\":0.5,\"top_p\":0.25,\"top_k\":-1,\"min_p\":0.125,\"max_tokens\":7,"
        "\"min_tokens\":7,\"ignore_eos\":true,\"logprobs\":0,\"return_token_ids\":true,"
        "\"add_special_tokens\":false,\"unheard_of\":{\"a\":[1]},\"n\":3,\"best_of\":3,"
        "\"presence_penalty\":-2,\"frequency_penalty\":0.5,\"repetition_penalty\":1.5,"
        "\"logit_bias\":{\"0\":-100,\"4294967295\":2.5},\"bad_words\":[\"x\",\" y\"]}",
        &c);
    assert_string_equal(c.model, "m");
    assert_null(c.prompts[0].text);
    assert_int_equal(json_array_size(c.prompts[0].ids), 3);
    assert_true(c.stream && c.include_usage && c.ignore_eos && c.return_token_ids && c.has_seed);
    assert_false(c.add_special_tokens);
    assert_int_equal(c.n_stops, 2);
    assert_string_equal(c.stops[1], "yy");
    assert_int_equal(c.stop_bytes[1], 2);
    assert_int_equal(c.n_stop_ids, 1);
    assert_int_equal(c.stop_ids[0], 9);
    assert_true(c.seed == (uint64_t)-5);
    assert_true(c.temperature == 0.5 && c.top_p == 0.25 && c.min_p == 0.125);
    assert_int_equal(c.top_k, 0);
    assert_int_equal(c.max_tokens, 7);
    assert_int_equal(c.min_tokens, 7);
    assert_int_equal(c.logprobs, 0);
    assert_int_equal(c.n, 3);
    const struct api_adjust *a = &c.adjust;
    assert_true(a->presence == -2 && a->frequency == 0.5 && a->repetition == 1.5);
    assert_int_equal(a->n_biases, 2);
    uint32_t first = a->bias_ids[0] == 0 ? 0 : 1; /* members have no order */
    assert_true(a->bias_ids[first] == 0 && a->biases[first] == -100);
    assert_true(a->bias_ids[1 - first] == UINT32_MAX && a->biases[1 - first] == 2.5f);
    assert_int_equal(json_array_size(a->bad_words), 2);
    api_completion_fini(&c);
}

static void lists_of_prompts(void **state)
{
    (void)state;
    struct api_completion c;
    struct api_error error;
    const char *body = "{\"prompt\":[\"a\",[7,8],\"bc\"],\"n\":42}";
    parse(body, &c);
    assert_int_equal(c.n_prompts, 3);
    assert_int_equal(c.prompts[0].text_bytes, 1);
    assert_int_equal(json_array_size(c.prompts[1].ids), 2);
    assert_int_equal(c.prompts[2].text_bytes, 2);
    api_completion_fini(&c);
    struct sl_buf many;
    sl_buf_init(&many, 1 << 20);
    sl_buf_add_text(&many, "{\"prompt\":[\"\"");
    for (uint32_t i = 1; i < API_CHOICES_MAX; i++)
        sl_buf_add_text(&many, ",\"\"");
    sl_buf_add_text(&many, "]}");
    parse(many.data, &c);
    assert_int_equal(c.n_prompts, API_CHOICES_MAX);
    api_completion_fini(&c);
    /* Many lists in one body may each be as long as the context, but none longer. */
    assert_ok(api_check_shape(body, strlen(body), false, 2, &error));
    sl_buf_reset(&many);
    sl_buf_add_text(&many, "{\"prompt\":[");
    for (int list = 0; list < 4; list++) {
        sl_buf_add_text(&many, list > 0 ? ",[1" : "[1");
        for (uint32_t i = 0; i <= API_MEMBERS_MAX; i++)
            sl_buf_add_text(&many, ",1");
        sl_buf_add_text(&many, "]");
    }
    sl_buf_add_text(&many, "]}");
    assert_ok(api_check_shape(many.data, many.bytes, false, 1, &error));
    assert_fails(api_check_shape(many.data, many.bytes, false, 0, &error), SL_INVALID,
                 "lists 4098 values");
    sl_buf_fini(&many);
}

/* What clients send by default must not be refused. */
static void neutral_values(void **state)
{
    (void)state;
    const char *bodies[] = {
        "{\"prompt\":\"a\",\"n\":1,\"best_of\":1,\"echo\":false,\"suffix\":null,"
        "\"presence_penalty\":0,\"frequency_penalty\":0.0,\"repetition_penalty\":1.0,"
        "\"logit_bias\":{},\"stop\":null,\"seed\":null,\"logprobs\":null,\"user\":\"u\"}",
        "{\"prompt\":\"a\",\"suffix\":\"\",\"logit_bias\":null,\"stop\":\"\",\"stop_token_ids\":[],"
        "\"response_format\":{\"type\":\"text\"},\"guided_json\":null,\"stream_options\":null,"
        "\"skip_special_tokens\":true,\"use_beam_search\":false,\"top_k\":0,\"top_p\":0}",
        "{\"prompt\":[\"a\"]}",
        "{\"prompt\":[[1,2]]}",
        "{\"prompt\":[1,2.0],\"metadata\":{\"id\":99999999999999999999}}",
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct api_completion c;
        parse(bodies[i], &c);
        assert_true(c.prompts[0].text != NULL || json_array_size(c.prompts[0].ids) == 2);
        api_completion_fini(&c);
    }
}

/* What Pydantic takes as an integer where it is not strict, and so vLLM. */
static void numbers_without_a_fraction(void **state)
{
    (void)state;
    struct api_completion c;
    struct api_error error;
    const char *body = "{\"prompt\":[1.0,4294967295.0],\"max_tokens\":7.0,\"seed\":-1e18,"
                       "\"n\":2.0,\"top_k\":-1.0,\"logprobs\":0.0,\"stop_token_ids\":[9.0]}";
    assert_ok(api_parse_completion(body, strlen(body), &neutral, &c, &error));
    assert_int_equal(field_id(json_array_get(c.prompts[0].ids, 1)), UINT32_MAX);
    assert_int_equal(c.max_tokens, 7);
    assert_int_equal((int64_t)c.seed, -1000000000000000000);
    assert_int_equal(c.n, 2);
    assert_int_equal(c.logprobs, 0);
    assert_int_equal(c.stop_ids[0], 9);
    api_completion_fini(&c);
}

/* It would stand in the prompt as another number than in transformers'. */
static void numbers_that_a_template_would_write(void **state)
{
    (void)state;
    static const char chat[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                               "\"documents\":[{\"id\":%s}],\"user_id\":99999999999999999999}";
    struct api_chat parsed;
    struct api_error error;
    char body[200];
    (void)snprintf(body, sizeof(body), chat, "-99999999999999999999");
    assert_int_equal(api_parse_chat(body, strlen(body), &neutral, &parsed, &error), SL_INVALID);
    assert_int_equal(error.http_status, 400);
    assert_string_equal(error.param, "documents");
    assert_non_null(strstr(error.message, "`documents` has a number beyond 64 bits"));
    (void)snprintf(body, sizeof(body), chat, "7");
    assert_ok(api_parse_chat(body, strlen(body), &neutral, &parsed, &error));
    api_chat_fini(&parsed);
}

static void tokenize_and_detokenize(void **state)
{
    (void)state;
    struct api_tokenize t;
    struct api_detokenize d;
    struct api_error error;
    const char *body = "{\"prompt\":\"ab\",\"add_special_tokens\":false}";
    assert_ok(api_parse_tokenize(body, strlen(body), &t, &error));
    assert_int_equal(t.prompt.text_bytes, 2);
    assert_false(t.add_special_tokens);
    api_tokenize_fini(&t);
    body = "{\"messages\":[]}";
    assert_int_equal(api_parse_tokenize(body, strlen(body), &t, &error), SL_INVALID);
    assert_string_equal(error.param, "messages");
    body = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"add_generation_prompt\":false}";
    assert_ok(api_parse_tokenize(body, strlen(body), &t, &error));
    assert_int_equal(json_array_size(t.input.messages), 1);
    assert_false(t.input.add_generation_prompt || t.add_special_tokens);
    api_tokenize_fini(&t);
    body = "{\"tokens\":[1,2]}";
    assert_ok(api_parse_detokenize(body, strlen(body), &d, &error));
    assert_int_equal(json_array_size(d.prompt.ids), 2);
    api_detokenize_fini(&d);
    body = "{\"tokens\":[]}";
    assert_ok(api_parse_detokenize(body, strlen(body), &d, &error));
    api_detokenize_fini(&d);
    body = "{\"tokens\":[1,null]}";
    assert_int_equal(api_parse_detokenize(body, strlen(body), &d, &error), SL_INVALID);
    assert_string_equal(error.param, "tokens");
}

static sl_status check_repeated(const char *item, uint32_t n, bool chat, struct api_error *error)
{
    struct sl_buf body;
    sl_buf_init(&body, 1 << 20);
    sl_buf_add_text(&body, "{\"prompt\":[0");
    for (uint32_t i = 0; i < n; i++)
        sl_buf_add_text(&body, item);
    sl_buf_add_text(&body, "]}");
    sl_status status = api_check_shape(body.data, body.bytes, chat, 100, error);
    sl_buf_fini(&body);
    return status;
}

/* What is far too much is refused by its shape; what stands in strings does not count. */
static void shapes(void **state)
{
    (void)state;
    struct api_error error;
    assert_ok(check_repeated(",1", 100 + API_MEMBERS_MAX, false, &error));
    assert_int_equal(check_repeated(",1", 101 + API_MEMBERS_MAX, false, &error), SL_INVALID);
    assert_string_equal(error.code, "context_length_exceeded");
    assert_ok(check_repeated(",1", 100 + API_CHAT_MEMBERS_MAX, true, &error));
    assert_int_equal(check_repeated(",1", 101 + API_CHAT_MEMBERS_MAX, true, &error), SL_INVALID);
    assert_string_equal(error.code, "too_many_fields");
    assert_ok(check_repeated(" :", API_MEMBERS_MAX - 1, false, &error));
    assert_int_equal(check_repeated(" :", API_MEMBERS_MAX, false, &error), SL_INVALID);
    assert_string_equal(error.code, "too_many_fields");
    assert_ok(check_repeated(",[]", API_MEMBERS_MAX - 1, false, &error));
    assert_int_equal(check_repeated(",[]", API_MEMBERS_MAX, false, &error), SL_INVALID);
    assert_string_equal(error.code, "too_many_fields");
    assert_ok(check_repeated(" \",:,\\\\\"", 3000, false, &error));
    assert_int_equal(check_repeated(" \"\\\"\",:", 5000, false, &error), SL_INVALID);
    assert_int_equal(api_count_values("[\"\\\"[,{\",1]", 10), 2);
    const char *ends[] = {"", "\"", "\"\\", "{\"a\":\"\\"};
    for (size_t i = 0; i < 4; i++)
        assert_ok(api_check_shape(ends[i], strlen(ends[i]), false, 1, &error));
}

static void error_object(void **state)
{
    (void)state;
    struct api_error error;
    struct sl_buf out;
    sl_buf_init(&out, 4096);
    (void)!api_fail(&error, 400, "invalid_value", "stop", "a \"quoted\" %d", 5);
    api_error_body(&error, &out);
    assert_string_equal(
        out.data, "{\"error\":{\"message\":\"a \\\"quoted\\\" 5\",\"type\":"
                  "\"invalid_request_error\",\"param\":\"stop\",\"code\":\"invalid_value\"}}");
    sl_buf_reset(&out);
    (void)!api_fail(&error, 503, NULL, NULL, "x");
    api_error_body(&error, &out);
    assert_string_equal(out.data, "{\"error\":{\"message\":\"x\",\"type\":"
                                  "\"service_unavailable_error\",\"param\":null,\"code\":null}}");
    sl_buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_bodies_name_the_field),
        cmocka_unit_test(defaults),
        cmocka_unit_test(a_prompt_with_nul),
        cmocka_unit_test(every_field),
        cmocka_unit_test(lists_of_prompts),
        cmocka_unit_test(neutral_values),
        cmocka_unit_test(numbers_without_a_fraction),
        cmocka_unit_test(numbers_that_a_template_would_write),
        cmocka_unit_test(tokenize_and_detokenize),
        cmocka_unit_test(shapes),
        cmocka_unit_test(error_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
