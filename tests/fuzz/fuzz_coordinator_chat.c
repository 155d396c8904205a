/* The body of /v1/chat/completions on any bytes, and what is accepted through a template that looks at
 * every part of it. What is accepted must be within its limits, in the form that templates expect;
 * what is refused must say why, as a well-formed error object. */
#include "api_error_check.h"
#include "coordinator/chat.h"
#include "coordinator/params.h"
#include "text/template.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char source[] =
    "{{ bos_token }}{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content or [] %}{{ p.type }}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}"
    "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}{% endfor %}"
    "{{ m.reasoning_content }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if documents %}{{ documents }}{% endif %}{% if add_generation_prompt %}<think>{% endif %}";

static void check_chat(const struct api_chat *chat)
{
    const struct api_completion *c = &chat->params;
    size_t n = json_array_size(chat->input.messages);
    SL_ASSERT(n >= 1 && n <= API_MESSAGES_MAX);
    SL_ASSERT(c->chat && c->max_tokens >= 1 && c->max_tokens <= API_TOKENS_MAX);
    SL_ASSERT(c->min_tokens <= c->max_tokens && c->truncate_prompt_tokens <= API_TOKENS_MAX);
    SL_ASSERT(c->temperature >= 0 && c->temperature <= API_TEMPERATURE_MAX);
    SL_ASSERT(c->logprobs >= -1 && c->logprobs <= API_TOP_LOGPROBS_MAX);
    SL_ASSERT(!(chat->input.add_generation_prompt && chat->input.continue_final_message));
    SL_ASSERT(chat->input.kwargs == NULL || json_is_object(chat->input.kwargs));
    SL_ASSERT(chat->input.tools == NULL || json_array_size(chat->input.tools) > 0);
    SL_ASSERT(c->request_id == NULL || strlen(c->request_id) <= API_REQUEST_ID_BYTES);
}

/* Every call's arguments are an object, every content text or parts with text. */
static void check_form(const struct api_messages *input, bool parts)
{
    size_t i, k;
    json_t *message, *item;
    json_array_foreach(input->messages, i, message)
    {
        json_t *content = json_object_get(message, "content");
        SL_ASSERT(content == NULL || json_is_null(content) || json_is_string(content) || parts);
        json_array_foreach(content, k, item)
        {
            SL_ASSERT(json_is_string(json_object_get(item, "text")));
        }
        json_array_foreach(json_object_get(message, "tool_calls"), k, item)
        {
            const json_t *function = json_object_get(item, "function");
            SL_ASSERT(json_is_object(json_object_get(function, "arguments")));
        }
    }
}

static void render(struct api_chat *chat, const struct chat_model *model)
{
    struct api_error error;
    struct sl_buf prompt;
    sl_buf_init(&prompt, 1 << 24);
    if (chat_render(model, &chat->input, &prompt, &error) == SL_OK)
        (void)chat_opens_reasoning(model, &chat->input, &prompt);
    else
        check_error(&error);
    check_form(&chat->input, model->takes_parts);
    sl_buf_fini(&prompt);
}

static void ignore(void *arg, const char *name)
{
    (void)arg;
    SL_ASSERT(name != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct api_defaults neutral = API_DEFAULTS;
    static struct chat_model model;
    const char *text = (const char *)data;
    struct api_error error;
    struct api_chat chat;
    if (model.template == NULL) {
        sl_status status = text_template_parse("fuzz", source, sizeof(source) - 1, &model.template);
        SL_ASSERT(status == SL_OK);
        model.marks = &text_reasoning_marks[0];
    }
    model.takes_parts = size % 2 == 0;
    if (api_check_shape(text, size, true, 100, &error) != SL_OK)
        check_error(&error);
    if (api_parse_chat(text, size, &neutral, &chat, &error) != SL_OK) {
        check_error(&error);
        return 0;
    }
    check_chat(&chat);
    params_unknown(&chat.params, ignore, NULL);
    render(&chat, &model);
    api_chat_fini(&chat);
    return 0;
}
