/* Chat bodies: what is accepted and in which form the template gets it; what is refused, naming the
 * member. The prompts themselves are compared with transformers' in tests/e2e/test_chat.py. */
#include "coordinator/chat.h"

#include "support/support.h"
#include "support/torture.h"
#include "unit/coordinator/fake_node.h"

#include "base/log.h"
#include "coordinator/defaults.h"
#include "coordinator/params.h"

#define USER "{\"role\":\"user\",\"content\":\"hi\"}"

static const struct api_defaults neutral = API_DEFAULTS;

struct refusal {
    const char *messages; /* NULL: `more` is the whole inside of the body */
    const char *more;
    int status;
    const char *param;
    const char *part; /* of the message */
};

static const struct refusal refusals[] = {
    {NULL, "", 400, "messages", "missing"},
    {NULL, "\"messages\":null", 400, "messages", "missing"},
    {NULL, "\"messages\":\"hi\"", 400, "messages", "a string"},
    {"", "", 400, "messages", "0 messages; want 1 to 16384"},
    {"7", "", 400, "messages[0]", "is 7; want an object"},
    {"{}", "", 400, "messages[0].role", "missing"},
    {USER ",{\"role\":7}", "", 400, "messages[1].role", "is 7; want a string"},
    {USER ",{\"role\":\"narrator\",\"content\":\"x\"}", "", 400, "messages[1].role",
     "is \"narrator\"; want system, developer, user, assistant, tool or function"},
    {"{\"role\":\"user\"}", "", 400, "messages[0].content", "missing"},
    {"{\"role\":\"user\",\"content\":null}", "", 400, "messages[0].content", "missing"},
    {"{\"role\":\"tool\",\"content\":null}", "", 400, "messages[0].content", "missing"},
    {"{\"role\":\"user\",\"content\":7}", "", 400, "messages[0].content", "is 7"},
    {"{\"role\":\"user\",\"content\":{}}", "", 400, "messages[0].content", "an object"},
    {"{\"role\":\"user\",\"content\":[7]}", "", 400, "messages[0].content[0]", "is 7"},
    {"{\"role\":\"user\",\"content\":[{}]}", "", 400, "messages[0].content[0].type", "missing"},
    {"{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}", "", 400,
     "messages[0].content[0].text", "missing"},
    {"{\"role\":\"user\",\"content\":[\"a\",{\"type\":\"text\",\"text\":1}]}", "", 400,
     "messages[0].content[1].text", "is 1"},
    {"{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"u\"}}]}", "",
     501, "messages[0].content[0].type", "\"image_url\"; only \"text\""},
    {"{\"role\":\"user\",\"content\":\"x\",\"name\":1}", "", 400, "messages[0].name", "is 1"},
    {"{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":1}", "", 400,
     "messages[0].tool_call_id", "is 1"},
    {"{\"role\":\"assistant\",\"reasoning_content\":[]}", "", 400, "messages[0].reasoning_content",
     "a list of 0"},
    {"{\"role\":\"assistant\",\"tool_calls\":{}}", "", 400, "messages[0].tool_calls", "an object"},
    {"{\"role\":\"assistant\",\"tool_calls\":[1]}", "", 400, "messages[0].tool_calls[0]", "is 1"},
    {"{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"custom\"}]}", "", 400,
     "messages[0].tool_calls[0].type", "\"custom\""},
    {"{\"role\":\"assistant\",\"tool_calls\":[{\"id\":1}]}", "", 400,
     "messages[0].tool_calls[0].id", "is 1"},
    {"{\"role\":\"assistant\",\"tool_calls\":[{}]}", "", 400, "messages[0].tool_calls[0].function",
     "missing"},
    {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}", "", 400,
     "messages[0].tool_calls[0].function.name", "missing"},
    {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]"
     "}",
     "", 400, "messages[0].tool_calls[0].function.arguments", "not valid JSON"},
    {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}"
     "]}",
     "", 400, "messages[0].tool_calls[0].function.arguments", "a list of 1; want a JSON object"},
    {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":5}}]}",
     "", 400, "messages[0].tool_calls[0].function.arguments", "is 5"},
    {USER, "\"chat_template\":\"{{ 1 }}\"", 400, "chat_template", "cannot be given"},
    {USER, "\"chat_template_kwargs\":[]", 400, "chat_template_kwargs", "a list of 0"},
    {USER, "\"reasoning_effort\":3", 400, "reasoning_effort", "is 3"},
    {USER, "\"documents\":[1]", 400, "documents[0]", "is 1"},
    {USER, "\"documents\":{}", 400, "documents", "an object"},
    {USER, "\"add_generation_prompt\":1", 400, "add_generation_prompt", "is 1"},
    {USER, "\"continue_final_message\":\"x\"", 400, "continue_final_message", "a string"},
    {USER, "\"continue_final_message\":true,\"add_generation_prompt\":true", 400,
     "continue_final_message", "exclude"},
    {USER, "\"tools\":1", 400, "tools", "is 1"},
    {USER, "\"tools\":[{}]", 400, "tools[0].type", "missing"},
    {USER, "\"tools\":[{\"type\":\"function\"}]", 400, "tools[0].function", "missing"},
    {USER, "\"tools\":[{\"type\":\"function\",\"function\":{}}]", 400, "tools[0].function.name",
     "missing"},
    {USER, "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{}]", 400,
     "tools[1].type", "missing"},
    {USER, "\"tools\":[{\"type\":\"web_search\"}]", 501, "tools[0].type", "\"web_search\""},
    {USER, "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]", 501, "tools",
     "1 tools; tool calling is not served yet"},
    {USER, "\"tool_choice\":\"auto\"", 501, "tool_choice", "not served yet"},
    {USER, "\"tool_choice\":{\"type\":\"function\"}", 501, "tool_choice", "an object"},
    {USER, "\"parallel_tool_calls\":1", 400, "parallel_tool_calls", "is 1"},
    {USER, "\"functions\":[{}]", 501, "functions", "a list of 1"},
    {USER, "\"function_call\":\"auto\"", 501, "function_call", "a string"},
    {USER, "\"modalities\":[\"text\",\"audio\"]", 501, "modalities", "a list of 2"},
    {USER, "\"response_format\":{\"type\":\"json_schema\"}", 501, "response_format", "an object"},
    {USER, "\"max_completion_tokens\":0", 400, "max_completion_tokens", "want an integer of 1"},
    {USER, "\"max_tokens\":\"9\"", 400, "max_tokens", "a string"},
    {USER, "\"max_completion_tokens\":3,\"min_tokens\":4", 400, "min_tokens", "is 4; at most"},
    {USER, "\"logprobs\":3", 400, "logprobs", "is 3; want true or false"},
    {USER, "\"top_logprobs\":2", 400, "top_logprobs", "`logprobs` is not true"},
    {USER, "\"logprobs\":true,\"top_logprobs\":-1", 400, "top_logprobs", "-1"},
    {USER, "\"logprobs\":true,\"top_logprobs\":1000", 400, "top_logprobs", "1000; want an integer"},
    {USER, "\"include_reasoning\":\"no\"", 400, "include_reasoning", "a string"},
    {USER, "\"stream_options\":{}", 400, "stream_options", "stream"},
    {USER, "\"temperature\":2.5", 400, "temperature", "0 to 2"},
};

static char *body_of(const char *messages, const char *more)
{
    if (messages == NULL)
        return sl_asprintf("{%s}", more);
    return sl_asprintf("{\"messages\":[%s]%s%s}", messages, more[0] != '\0' ? "," : "", more);
}

static void bad_bodies_name_the_member(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const struct refusal *r = &refusals[i];
        struct api_chat chat;
        struct api_error error;
        char *body = body_of(r->messages, r->more);
        if (api_parse_chat(body, strlen(body), &neutral, &chat, &error) == SL_OK)
            fail_msg("accepted: %s", body);
        if (error.http_status != r->status || strcmp(error.param, r->param) != 0 ||
            strstr(error.message, r->part) == NULL)
            fail_msg("%s: %d param=%s %s", body, error.http_status, error.param, error.message);
        assert_null(chat.params.body);
        sl_free(body);
    }
}

/* Lists in the text of arguments are parsed as those of the body are, so they are as bounded, all together. */
static void many_values_in_arguments(void **state)
{
    (void)state;
    struct api_error error;
    struct api_chat chat;
    for (uint32_t more = 0; more < 2; more++) {
        struct sl_buf body;
        sl_buf_init(&body, 1 << 20);
        sl_buf_add_text(&body, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[");
        for (uint32_t call = 0; call < 2; call++) {
            sl_buf_add_text(&body, call > 0 ? "," : "");
            sl_buf_add_text(&body, "{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"[,\\\":[");
            for (uint32_t i = 1; i < API_CHAT_MEMBERS_MAX / 4; i++)
                sl_buf_add_text(&body, i > 1 ? ",[]" : "[]");
            for (uint32_t i = 0; call > 0 && i < 2 + more; i++) /* the limit, or one more */
                sl_buf_add_text(&body, ",1");
            sl_buf_add_text(&body, "]}\"}}");
        }
        sl_buf_add_text(&body, "]}]}");
        sl_status status = api_parse_chat(body.data, body.bytes, &neutral, &chat, &error);
        sl_buf_fini(&body);
        if (more == 0) {
            assert_ok(status);
            api_chat_fini(&chat);
        } else {
            assert_int_equal(status, SL_INVALID);
            assert_string_equal(error.code, "too_many_fields");
            assert_string_equal(error.param, "messages[0].tool_calls[1].function.arguments");
        }
    }
}

static void parse(const char *messages, const char *more, struct api_chat *chat)
{
    struct api_error error;
    char *body = body_of(messages, more);
    if (api_parse_chat(body, strlen(body), &neutral, chat, &error) != SL_OK)
        fail_msg("%s: %s", body, error.message);
    sl_free(body);
}

static void defaults(void **state)
{
    (void)state;
    struct api_chat chat;
    parse(USER, "", &chat);
    assert_true(chat.params.chat && chat.params.include_reasoning);
    assert_true(chat.params.skip_special_tokens && !chat.params.add_special_tokens);
    assert_false(chat.params.has_max_tokens);
    assert_int_equal(chat.params.max_tokens, API_TOKENS_MAX);
    assert_int_equal(chat.params.logprobs, -1);
    assert_true(chat.input.add_generation_prompt && !chat.input.continue_final_message);
    assert_null(chat.input.tools);
    assert_null(chat.input.documents);
    assert_null(chat.input.kwargs);
    api_chat_fini(&chat);
}

static void every_field(void **state)
{
    (void)state;
    struct api_chat chat;
    parse(USER,
          "\"max_tokens\":3,\"max_completion_tokens\":5,\"logprobs\":true,\"top_logprobs\":2,"
          "\"continue_final_message\":true,\"chat_template_kwargs\":{\"a\":1},\"documents\":[{}],"
          "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":"
          "\"none\","
          "\"reasoning_effort\":\"low\",\"include_reasoning\":false,\"priority\":-3,"
          "\"cache_salt\":\"s\",\"request_id\":\"a-1_b.c:d\",\"truncate_prompt_tokens\":-1,"
          "\"add_special_tokens\":true,\"skip_special_tokens\":false,"
          "\"include_stop_str_in_output\":true,\"temperature\":0.5",
          &chat);
    assert_true(chat.params.has_max_tokens);
    assert_int_equal(chat.params.max_tokens, 5);
    assert_int_equal(chat.params.logprobs, 2);
    assert_true(chat.input.continue_final_message && !chat.input.add_generation_prompt);
    assert_int_equal(json_array_size(chat.input.tools), 1);
    assert_int_equal(json_array_size(chat.input.documents), 1);
    assert_int_equal(json_integer_value(json_object_get(chat.input.kwargs, "a")), 1);
    assert_string_equal(json_string_value(json_object_get(chat.input.kwargs, "reasoning_effort")),
                        "low");
    assert_false(chat.params.include_reasoning || chat.params.skip_special_tokens);
    assert_true(chat.params.include_stop_str && chat.params.add_special_tokens);
    assert_int_equal(chat.params.priority, -3);
    assert_string_equal(chat.params.cache_salt, "s");
    assert_string_equal(chat.params.request_id, "a-1_b.c:d");
    assert_int_equal(chat.params.truncate_prompt_tokens, API_TOKENS_MAX);
    assert_true(chat.params.temperature == 0.5);
    api_chat_fini(&chat);
}

/* What clients send by default must not be refused. */
static void neutral_values(void **state)
{
    (void)state;
    struct api_chat chat;
    parse(USER,
          "\"tools\":[],\"tool_choice\":\"none\",\"functions\":null,\"function_call\":\"none\","
          "\"modalities\":[\"text\"],\"response_format\":{\"type\":\"text\"},\"logprobs\":false,"
          "\"top_logprobs\":0,\"parallel_tool_calls\":true,\"chat_template\":null,\"n\":1,"
          "\"chat_template_kwargs\":null,\"documents\":null,\"max_tokens\":null,\"stop\":null,"
          "\"max_completion_tokens\":null,\"truncate_prompt_tokens\":null,\"cache_salt\":null,"
          "\"user\":\"u\",\"store\":false,\"metadata\":{},\"audio\":null,\"unheard_of\":1",
          &chat);
    assert_false(chat.params.has_max_tokens);
    assert_null(chat.input.tools);
    api_chat_fini(&chat);
    const char *messages[] = {
        "{\"role\":\"assistant\"}",
        "{\"role\":\"assistant\",\"content\":null,\"name\":null,\"tool_calls\":null}",
        "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[],\"reasoning_content\":\"r\"}",
        "{\"role\":\"user\",\"content\":[],\"custom\":{\"a\":[1]}}",
        "{\"role\":\"function\",\"name\":\"f\",\"content\":\"x\"}",
    };
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        parse(messages[i], "", &chat);
        const json_t *message = json_array_get(chat.input.messages, 0);
        assert_false(json_is_array(json_object_get(message, "tool_calls")));
        api_chat_fini(&chat);
    }
}

static void note_name(void *arg, const char *name)
{
    sl_buf_add_format(arg, "%s,", name);
}

static void unknown_names(void **state)
{
    (void)state;
    struct api_chat chat;
    struct api_completion completion;
    struct api_error error;
    struct sl_buf names;
    sl_buf_init(&names, 4096);
    parse(USER, "\"temprature\":1,\"n\":1,\"prompt\":\"x\",\"top_logprobs\":0,\"x\":null", &chat);
    params_unknown(&chat.params, note_name, &names);
    assert_non_null(strstr(names.data, "temprature,"));
    assert_non_null(strstr(names.data, "prompt,"));
    assert_non_null(strstr(names.data, "x,"));
    assert_int_equal(strlen(names.data), strlen("temprature,prompt,x,"));
    api_chat_fini(&chat);
    sl_buf_reset(&names);
    const char *body = "{\"prompt\":\"x\",\"messages\":[],\"suffix\":\"\",\"best_of\":1}";
    assert_ok(api_parse_completion(body, strlen(body), &neutral, &completion, &error));
    params_unknown(&completion, note_name, &names);
    assert_string_equal(names.data, "messages,");
    api_completion_fini(&completion);
    sl_buf_fini(&names);
}

/* ---- templates ---- */

static void open_model(const char *source, bool split, struct chat_model *model)
{
    char *dir = fake_model_create();
    struct text_tokenizer *tokenizer;
    assert_ok(text_tokenizer_open(dir, &tokenizer));
    if (source != NULL)
        test_write_text(dir, "chat_template.jinja", source);
    chat_open(dir, tokenizer, split, model);
    text_tokenizer_destroy(tokenizer);
    fake_model_remove(dir);
}

/* Messages through a template. */
struct rendering {
    struct chat_model model;
    struct api_chat chat;
    struct api_error error;
    struct sl_buf out;
};

static sl_status render(struct rendering *r, const char *source, bool split, const char *messages,
                        const char *more)
{
    memset(&r->error, 0, sizeof(r->error));
    sl_buf_init(&r->out, 1 << 16);
    open_model(source, split, &r->model);
    parse(messages, more, &r->chat);
    return chat_render(&r->model, &r->chat.input, &r->out, &r->error);
}

static void render_fini(struct rendering *r)
{
    sl_buf_fini(&r->out);
    api_chat_fini(&r->chat);
    chat_close(&r->model);
}

static void expect_prompt(const char *source, const char *messages, const char *more,
                          const char *prompt)
{
    struct rendering r;
    if (render(&r, source, true, messages, more) != SL_OK)
        fail_msg("%s: %s", messages, r.error.message);
    assert_string_equal(r.out.data != NULL ? r.out.data : "", prompt);
    render_fini(&r);
}

#define PLAIN "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
#define BYPART                                                                                     \
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"                 \
    "{% for p in m['content'] %}[{{ p.type }}:{{ p.text }}]{% endfor %}{% endif %}"                \
    "{% endfor %}"
#define PARTS "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},\"b\"]}"

static void the_form_that_the_template_expects(void **state)
{
    (void)state;
    expect_prompt(PLAIN, PARTS, "", "<user>a\nb");
    expect_prompt(PLAIN, "{\"role\":\"user\",\"content\":[]}", "", "<user>");
    expect_prompt(BYPART, PARTS, "", "[text:a][text:b]");
    expect_prompt(BYPART, USER, "", "hi");
    expect_prompt("{% set content = messages[0].content %}{% for p in content | reverse | list %}"
                  "{{ p.text }}{% endfor %}",
                  PARTS, "", "ba");
    /* A role that the template does not speak of. */
    expect_prompt(PLAIN, "{\"role\":\"developer\",\"content\":\"x\"}", "", "<system>x");
    expect_prompt(PLAIN "{# developer #}", "{\"role\":\"developer\",\"content\":\"x\"}", "",
                  "<developer>x");
    /* Arguments are objects. */
    const char *calls = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments "
                        "| tojson }}{% endfor %}{% endfor %}";
    expect_prompt(calls,
                  "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"i\",\"type\":\"function\","
                  "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": [1, 2.50]}\"}},"
                  "{\"function\":{\"name\":\"g\",\"arguments\":\"\"}},"
                  "{\"function\":{\"name\":\"h\",\"arguments\":{\"b\":null}}}]}",
                  "", "{\"a\": [1, 2.5]}{}{\"b\": null}");
    expect_prompt(
        "{{ tools | length }}{{ x }}{{ reasoning_effort }}{{ documents[0].title }}", USER,
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":"
        "\"none\",\"chat_template_kwargs\":{\"x\":7},\"reasoning_effort\":\"low\","
        "\"documents\":[{\"title\":\"t\"}]",
        "17lowt");
    expect_prompt("{{ reasoning_effort }}", USER,
                  "\"reasoning_effort\":\"low\",\"chat_template_kwargs\":{\"reasoning_effort\":"
                  "\"high\"}",
                  "high");
    expect_prompt(PLAIN "{% if add_generation_prompt %}>{% endif %}", USER, "", "<user>hi>");
    expect_prompt(PLAIN "{% if add_generation_prompt %}>{% endif %}", USER,
                  "\"add_generation_prompt\":false", "<user>hi");
    expect_prompt(PLAIN "<end>", "{\"role\":\"assistant\",\"content\":\"so far\"}",
                  "\"continue_final_message\":true", "<assistant>so far");
}

static void expect_refusal(const char *source, const char *more, int status, const char *code,
                           const char *part)
{
    struct rendering r;
    assert_true(render(&r, source, true, USER, more) != SL_OK);
    if (r.error.http_status != status || strcmp(r.error.code, code) != 0 ||
        strstr(r.error.message, part) == NULL)
        fail_msg("%d %s %s", r.error.http_status, r.error.code, r.error.message);
    assert_null(strstr(r.error.message, "/sluice-test")); /* no path of this machine */
    render_fini(&r);
}

static void templates_that_refuse(void **state)
{
    (void)state;
    sl_log_set_level(SL_LOG_ERROR);
    expect_refusal(NULL, "", 400, "no_chat_template", "no chat template");
    expect_refusal("{% if %}", "", 501, "chat_template_broken", "line 1");
    expect_refusal("{{ raise_exception('Roles must alternate') }}", "", 400, "chat_template_error",
                   "`messages`: Roles must alternate");
    expect_refusal("\n{{ messages[7].role }}", "", 400, "chat_template_error",
                   "chat template, line 2");
    expect_refusal("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor "
                   "%}",
                   "", 400, "chat_template_limit", "more than");
    expect_refusal(PLAIN, "\"chat_template_kwargs\":{\"messages\":[]}", 400, "chat_template_error",
                   "cannot set messages");
    sl_log_set_level(SL_LOG_INFO);
}

/* ---- reasoning ---- */

static void expect_opening(const char *source, const char *messages, const char *more, bool split,
                           bool marks, bool opens)
{
    struct rendering r;
    assert_ok(render(&r, source, split, messages, more));
    if ((r.model.marks != NULL) != marks ||
        chat_opens_reasoning(&r.model, &r.chat.input, &r.out) != opens)
        fail_msg("%s on %s", source, messages);
    render_fini(&r);
}

static void where_reasoning_begins(void **state)
{
    (void)state;
    const char *r1 = PLAIN "{% if add_generation_prompt %}<bot><think>\n{% endif %}{# </think> #}";
    const char *qwen =
        PLAIN "{% if add_generation_prompt %}<bot>{% if off %}<think>\n\n</think>\n\n"
              "{% endif %}{% endif %}";
    const char *said = "{\"role\":\"user\",\"content\":\"what is <think>\"}";
    const char *half = "{\"role\":\"assistant\",\"content\":\"<think>so \"}";
    const char *whole = "{\"role\":\"assistant\",\"content\":\"<think>so</think> 4\"}";
    const char *again = "{\"role\":\"assistant\",\"content\":\"<think>so</think> 4 <think>or\"}";
    const char *last = USER ",{\"role\":\"assistant\",\"content\":\"<think>so \"}";
    const char *parts = "{\"role\":\"assistant\",\"content\":[\"a\",\"<think>so \"]}";
    expect_opening(PLAIN, USER, "", true, false, false);
    expect_opening(r1, USER, "", true, true, true);
    expect_opening(r1, USER, "", false, false, false);
    expect_opening("<think> {# </think> #}", USER, "", true, true, true);
    expect_opening(r1, said, "\"add_generation_prompt\":false", true, true, false);
    expect_opening(r1, half, "\"continue_final_message\":true", true, true, true);
    expect_opening(r1, whole, "\"continue_final_message\":true", true, true, false);
    expect_opening(r1, again, "\"continue_final_message\":true", true, true, true);
    expect_opening(r1, last, "\"continue_final_message\":true", true, true, true);
    expect_opening(BYPART "{# </think> #}", parts, "\"continue_final_message\":true", true, true,
                   true);
    expect_opening(r1, said, "", true, true, true);
    expect_opening(qwen, USER, "", true, true, false);
    expect_opening(qwen, USER, "\"chat_template_kwargs\":{\"off\":true}", true, true, false);
}

/* ---- torture ---- */

static sl_status scenario(void *arg)
{
    const struct chat_model *model = arg;
    struct api_chat chat;
    struct api_error error;
    struct sl_buf out;
    const char *body =
        "{\"messages\":[" PARTS ",{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":"
        "\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}}]}],\"reasoning_effort\":\"low\"}";
    sl_status status = api_parse_chat(body, strlen(body), &neutral, &chat, &error);
    if (status != SL_OK)
        return status;
    sl_buf_init(&out, 1 << 16);
    struct chat_model copy = *model;
    status = chat_render(&copy, &chat.input, &out, &error);
    sl_buf_fini(&out);
    api_chat_fini(&chat);
    return status;
}

static void without_memory(void **state)
{
    (void)state;
    struct chat_model model;
    open_model(PLAIN, true, &model);
    torture_run("chat", scenario, NULL, &model, 10000);
    chat_close(&model);
}

/* ---- defaults of the model ---- */

static void defaults_of_the_model(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    struct api_defaults d;
    struct api_chat chat;
    struct api_completion completion;
    struct api_error error;
    sl_log_set_level(SL_LOG_ERROR);
    assert_ok(defaults_read(dir, &d));
    assert_true(d.temperature == 1 && d.top_p == 1 && d.min_p == 0 && d.repetition_penalty == 1);
    assert_int_equal(d.top_k, 0);
    assert_int_equal(d.max_tokens, 0);
    test_write_text(dir, "generation_config.json",
                    "{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.95,\"top_k\":20,"
                    "\"min_p\":0.01,\"repetition_penalty\":1.05,\"max_new_tokens\":99,"
                    "\"eos_token_id\":[1,2]}");
    assert_ok(defaults_read(dir, &d));
    const char *body = "{\"messages\":[" USER "],\"prompt\":\"x\"}";
    assert_ok(api_parse_chat(body, strlen(body), &d, &chat, &error));
    assert_true(chat.params.temperature == 0.6 && chat.params.top_p == 0.95);
    assert_true(chat.params.min_p == 0.01 && chat.params.adjust.repetition == 1.05);
    assert_int_equal(chat.params.top_k, 20);
    assert_int_equal(chat.params.max_tokens, 99);
    assert_false(chat.params.has_max_tokens);
    api_chat_fini(&chat);
    assert_ok(api_parse_completion(body, strlen(body), &d, &completion, &error));
    assert_int_equal(completion.max_tokens, 16);
    assert_true(completion.temperature == 0.6);
    api_completion_fini(&completion);
    body =
        "{\"messages\":[" USER "],\"temperature\":0,\"top_k\":-1,\"top_p\":1,\"max_tokens\":200}";
    assert_ok(api_parse_chat(body, strlen(body), &d, &chat, &error));
    assert_true(chat.params.temperature == 0 && chat.params.top_p == 1);
    assert_int_equal(chat.params.top_k, 0);
    assert_int_equal(chat.params.max_tokens, 200);
    api_chat_fini(&chat);
    test_write_text(dir, "generation_config.json", "{\"top_k\":-1,\"top_p\":null}");
    assert_ok(defaults_read(dir, &d));
    assert_int_equal(d.top_k, 0);
    assert_true(d.top_p == 1);
    test_write_text(dir, "generation_config.json", "{\"temperature\":\"warm\"}");
    assert_fails(defaults_read(dir, &d), SL_INVALID, "temperature");
    test_write_text(dir, "generation_config.json", "{\"top_p\":1.5}");
    assert_fails(defaults_read(dir, &d), SL_INVALID, "top_p");
    test_write_text(dir, "generation_config.json", "{");
    assert_fails(defaults_read(dir, &d), SL_INVALID, "generation_config.json");
    sl_log_set_level(SL_LOG_INFO);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_bodies_name_the_member),
        cmocka_unit_test(many_values_in_arguments),
        cmocka_unit_test(defaults),
        cmocka_unit_test(every_field),
        cmocka_unit_test(neutral_values),
        cmocka_unit_test(unknown_names),
        cmocka_unit_test(the_form_that_the_template_expects),
        cmocka_unit_test(templates_that_refuse),
        cmocka_unit_test(where_reasoning_begins),
        cmocka_unit_test(without_memory),
        cmocka_unit_test(defaults_of_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
