/* Answers of a chat, in OpenAI's shapes: message and deltas, logprobs, reasoning, usage; and that a
 * stream and a body say the same. One token for each byte. */
#include "coordinator/output.h"

#include "support/support.h"
#include "unit/coordinator/fake_node.h"

static const uint32_t end_ids[] = {FAKE_EOS};
static const uint32_t prompt[] = {1, 2, 3};

/* An answer under way, and everything that was sent of it as a stream. */
struct run {
    struct output output;
    struct sl_buf out, content, thought, ids, tokens;
    uint32_t n_chunks;
    bool done;
    json_t *usage; /* the last event, if it has no choices */
    char finish[16];
};

static void start(struct run *run, const char *fields, bool marks, bool open)
{
    static const struct api_defaults neutral = API_DEFAULTS;
    struct api_chat chat;
    struct api_error error;
    memset(run, 0, sizeof(*run));
    sl_buf_init(&run->out, 1 << 20);
    sl_buf_init(&run->content, 1 << 20);
    sl_buf_init(&run->thought, 1 << 20);
    sl_buf_init(&run->ids, 1 << 20);
    sl_buf_init(&run->tokens, 1 << 20);
    char *body = sl_asprintf("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]%s}", fields);
    if (api_parse_chat(body, strlen(body), &neutral, &chat, &error) != SL_OK)
        fail_msg("%s: %s", body, error.message);
    const struct output_args args = {.tokenizer = fake_tokenizer,
                                     .completion = &chat.params,
                                     .model = "m",
                                     .marks = marks ? &text_reasoning_marks[0] : NULL,
                                     .reasoning_open = open};
    assert_ok(output_init(&run->output, &args));
    run->output.end_ids = end_ids;
    run->output.n_end_ids = 1;
    api_chat_fini(&chat);
    sl_free(body);
}

static void stop(struct run *run)
{
    output_fini(&run->output);
    json_decref(run->usage);
    sl_buf_fini(&run->out);
    sl_buf_fini(&run->content);
    sl_buf_fini(&run->thought);
    sl_buf_fini(&run->ids);
    sl_buf_fini(&run->tokens);
}

static const char *text_of(const struct sl_buf *buf)
{
    return buf->data != NULL ? buf->data : "";
}

static struct output_usage cost(const struct run *run)
{
    return (struct output_usage){.prompt_tokens = 3,
                                 .completion_tokens = run->output.n_tokens,
                                 .cached_tokens = 2,
                                 .reasoning_tokens = run->output.reasoning.n_tokens,
                                 .prefill = "p0",
                                 .decode = "d1",
                                 .attempts = 1};
}

/* Pushes the bytes and the end token; a chunk behind each `step` tokens when it is above 0. */
static void push(struct run *run, const char *text, uint32_t step)
{
    const uint32_t top_ids[] = {'a', 0xe2};
    const float top[] = {-0.25f, -1};
    struct output_logprob logprob = {.sampled = -0.5f, .n_top = 2, .top_ids = top_ids, .top = top};
    for (size_t i = 0; i <= strlen(text) && run->output.finish == OUTPUT_OPEN; i++) {
        uint32_t id = text[i] != '\0' ? (uint8_t)text[i] : FAKE_EOS;
        (void)output_push(&run->output, id, &logprob);
        if (step > 0 && ((i + 1) % step == 0 || run->output.finish != OUTPUT_OPEN))
            output_chunk(&run->output, prompt, 3, &run->out);
    }
    struct output_usage usage = cost(run);
    if (step > 0)
        output_done(&run->output, &usage, &run->out);
    assert_ok(output_status(&run->output));
}

static void add(struct sl_buf *to, const json_t *text)
{
    if (json_is_string(text))
        sl_buf_add_text(to, json_string_value(text));
}

static void add_list(struct sl_buf *to, const json_t *list, const char *member)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        char *text =
            json_dumps(member != NULL ? json_object_get(item, member) : item, JSON_ENCODE_ANY);
        sl_buf_add_format(to, "%s,", text);
        free(text);
    }
}

static void take_chunk(struct run *run, const json_t *json)
{
    json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    json_t *delta = json_object_get(choice, "delta");
    assert_string_equal(json_string_value(json_object_get(json, "object")),
                        "chat.completion.chunk");
    assert_string_equal(json_string_value(json_object_get(json, "id")), run->output.id);
    /* role, and the prompt's ids, once and first */
    const char *role = json_string_value(json_object_get(delta, "role"));
    assert_int_equal(role != NULL && strcmp(role, "assistant") == 0, run->n_chunks == 0);
    assert_int_equal(json_array_size(json_object_get(json, "prompt_token_ids")),
                     run->n_chunks == 0 && run->output.return_token_ids ? 3 : 0);
    assert_int_equal(json_is_null(json_object_get(json, "usage")), run->output.include_usage);
    /* content: in the first, and in whatever has no reasoning */
    bool thinks = json_object_get(delta, "reasoning_content") != NULL;
    assert_true(json_object_get(delta, "content") != NULL || (thinks && run->n_chunks > 0));
    add(&run->content, json_object_get(delta, "content"));
    add(&run->thought, json_object_get(delta, "reasoning_content"));
    add_list(&run->ids, json_object_get(choice, "token_ids"), NULL);
    add_list(&run->tokens, json_object_get(json_object_get(choice, "logprobs"), "content"),
             "token");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    assert_int_equal(run->finish[0], '\0'); /* nothing behind the end */
    if (finish != NULL)
        snprintf(run->finish, sizeof(run->finish), "%s", finish);
    run->n_chunks++;
}

static void read_stream(struct run *run)
{
    for (const char *p = run->out.data, *end; *p != '\0'; p = end + 2) {
        end = strstr(p, "\n\n");
        assert_non_null(end);
        assert_memory_equal(p, "data: ", 6);
        assert_false(run->done || run->usage != NULL ? strncmp(p + 6, "[DONE]", 6) != 0 : false);
        if (strncmp(p + 6, "[DONE]", 6) == 0) {
            run->done = true;
            continue;
        }
        json_t *json = json_loadb(p + 6, (size_t)(end - p - 6), JSON_REJECT_DUPLICATES, NULL);
        if (json == NULL)
            fail_msg("not JSON: %.*s", (int)(end - p), p);
        if (json_array_size(json_object_get(json, "choices")) == 0)
            run->usage = json_incref(json);
        else
            take_chunk(run, json);
        json_decref(json);
    }
    assert_true(run->done);
}

static json_t *body_of(struct run *run)
{
    struct output_usage usage = cost(run);
    sl_buf_reset(&run->out);
    output_body_begin(&run->output, &run->out);
    output_body_choice(&run->output, prompt, usage.prompt_tokens, &run->out);
    output_body_end(&run->output, &usage, prompt, usage.prompt_tokens, &run->out);
    json_t *json = json_loads(run->out.data, JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL)
        fail_msg("not JSON: %s", run->out.data);
    return json;
}

static const json_t *message_of(const json_t *json)
{
    return json_object_get(json_array_get(json_object_get(json, "choices"), 0), "message");
}

static void a_body(void **state)
{
    (void)state;
    struct run run;
    start(&run, ",\"return_token_ids\":true,\"request_id\":\"abc\"", false, false);
    push(&run, "hi <think>", 0);
    json_t *json = body_of(&run);
    const json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    assert_string_equal(json_string_value(json_object_get(json, "object")), "chat.completion");
    assert_string_equal(json_string_value(json_object_get(json, "id")), "chatcmpl-abc");
    assert_string_equal(json_string_value(json_object_get(message_of(json), "role")), "assistant");
    assert_string_equal(json_string_value(json_object_get(message_of(json), "content")),
                        "hi <think>");
    assert_null(json_object_get(message_of(json), "reasoning_content"));
    assert_true(json_is_null(json_object_get(choice, "logprobs")));
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "stop");
    assert_int_equal(json_array_size(json_object_get(choice, "token_ids")), 11);
    assert_int_equal(json_array_size(json_object_get(json, "prompt_token_ids")), 3);
    const json_t *usage = json_object_get(json, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")), 14);
    assert_null(json_object_get(usage, "completion_tokens_details"));
    const json_t *served = json_object_get(json, "sluice");
    assert_string_equal(json_string_value(json_object_get(served, "prefill")), "p0");
    assert_string_equal(json_string_value(json_object_get(served, "decode")), "d1");
    json_decref(json);
    stop(&run);
}

static void entry_is(const json_t *entry, const char *token, double logprob, size_t n_bytes)
{
    assert_string_equal(json_string_value(json_object_get(entry, "token")), token);
    assert_true(json_number_value(json_object_get(entry, "logprob")) == logprob);
    assert_int_equal(json_array_size(json_object_get(entry, "bytes")), n_bytes);
}

static void logprobs(void **state)
{
    (void)state;
    struct run run;
    start(&run, ",\"logprobs\":true,\"top_logprobs\":2", false, false);
    push(&run, "a\xc3\xaf", 0);
    json_t *json = body_of(&run);
    const json_t *l =
        json_object_get(json_array_get(json_object_get(json, "choices"), 0), "logprobs");
    const json_t *content = json_object_get(l, "content");
    assert_true(json_is_null(json_object_get(l, "refusal")));
    assert_int_equal(json_array_size(content), 4); /* the end token too */
    entry_is(json_array_get(content, 0), "a", -0.5, 1);
    entry_is(json_array_get(content, 1), "bytes:\\xc3", -0.5, 1);
    entry_is(json_array_get(content, 3), "<|end|>", -0.5, 7);
    const json_t *top = json_object_get(json_array_get(content, 2), "top_logprobs");
    assert_int_equal(json_array_size(top), 2);
    entry_is(json_array_get(top, 0), "a", -0.25, 1);
    entry_is(json_array_get(top, 1), "bytes:\\xe2", -1, 1);
    assert_int_equal(
        json_integer_value(json_array_get(json_object_get(json_array_get(top, 1), "bytes"), 0)),
        0xe2);
    json_decref(json);
    stop(&run);
    /* Without top_logprobs: an empty list, not all there are. */
    start(&run, ",\"logprobs\":true", false, false);
    push(&run, "a", 0);
    assert_non_null(strstr(run.output.entries.data, "\"top_logprobs\":[]}"));
    stop(&run);
    /* From a node that sent none. */
    start(&run, ",\"logprobs\":true", false, false);
    (void)output_push(&run.output, 'a', NULL);
    assert_non_null(strstr(run.output.entries.data, "\"logprob\":-9999"));
    stop(&run);
}

/* The same answer as a stream, cut at every place, and as a body. */
static void expect_split(const char *fields, bool open, const char *tokens, const char *thought,
                         const char *content, uint32_t n_reasoning)
{
    for (uint32_t step = 0; step < 9; step++) {
        struct run run;
        char *more = sl_asprintf(
            "%s%s", fields,
            step > 0 ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
        start(&run, more, true, open);
        push(&run, tokens, step);
        json_t *json = step == 0 ? body_of(&run) : NULL;
        if (step == 0) {
            add(&run.content, json_object_get(message_of(json), "content"));
            add(&run.thought, json_object_get(message_of(json), "reasoning_content"));
        } else {
            read_stream(&run);
        }
        if (strcmp(text_of(&run.content), content) != 0 ||
            strcmp(text_of(&run.thought), thought) != 0)
            fail_msg("%s in steps of %u: \"%s\" and \"%s\"", tokens, step, text_of(&run.thought),
                     text_of(&run.content));
        const json_t *usage = json_object_get(step == 0 ? json : run.usage, "usage");
        const json_t *details = json_object_get(usage, "completion_tokens_details");
        assert_int_equal(json_integer_value(json_object_get(details, "reasoning_tokens")),
                         n_reasoning);
        json_decref(json);
        sl_free(more);
        stop(&run);
    }
}

static void reasoning(void **state)
{
    (void)state;
    expect_split("", false, "<think>\nso</think>\n4", "\nso", "\n4", 18);
    expect_split("", true, "so</think>4", "so", "4", 10);
    expect_split("", false, "just 4", "", "just 4", 0);
    expect_split("", true, "never ends", "never ends", "", 11); /* the end token was in it */
    expect_split(",\"include_reasoning\":false", true, "so</think>4", "", "4", 10);
    /* Stop strings look at all of the text, and end what they hit. */
    expect_split(",\"stop\":\"o<\"", true, "so</think>4", "s", "", 3);
    expect_split(",\"stop\":\"5\"", true, "so</think>456", "so", "4", 10);
    expect_split(",\"stop\":\"</thi\"", true, "so</think>4", "so", "", 7);
    expect_split(",\"max_tokens\":5", true, "so</think>4", "so</t", "", 5);
}

static void a_stream(void **state)
{
    (void)state;
    struct run run;
    start(&run,
          ",\"stream\":true,\"return_token_ids\":true,\"logprobs\":true,\"top_logprobs\":1,"
          "\"max_tokens\":4",
          false, false);
    push(&run, "abcdef", 2);
    read_stream(&run);
    assert_int_equal(run.n_chunks, 2);
    assert_string_equal(run.finish, "length");
    assert_string_equal(text_of(&run.content), "abcd");
    assert_string_equal(text_of(&run.ids), "97,98,99,100,");
    assert_string_equal(text_of(&run.tokens), "\"a\",\"b\",\"c\",\"d\",");
    assert_null(run.usage); /* only when it is asked for */
    stop(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body),
        cmocka_unit_test(logprobs),
        cmocka_unit_test(reasoning),
        cmocka_unit_test(a_stream),
    };
    return cmocka_run_group_tests(tests, fake_tokenizer_open, fake_tokenizer_close);
}
