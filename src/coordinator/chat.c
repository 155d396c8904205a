/* From messages to a prompt.
 *
 *   body ─► chat_read: every member checked, tool arguments parsed ─► chat_render: in the template's
 *           form ─► text_template_render ─► text, encoded without further special tokens
 *
 * The form: content that is a list of text parts is given as such to a template that goes through
 * parts, and as one text, its parts on lines of their own, to any other. A template that never speaks
 * of "developer" gets those messages as "system". All else of a message reaches the template as the
 * client sent it, also members that nobody here knows: templates have such.
 *
 * Both may be called by any thread, each with a body of its own; the template is read-only. */
#include "coordinator/chat.h"

#include "base/log.h"
#include "coordinator/fields.h"
#include "text/template.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES   64
#define PROMPT_BYTES (16u << 20)

/* A member's place, as errors name it: "messages[3].content[0].type". */
struct path {
    char text[PATH_BYTES];
};

static SL_PRINTF(1, 2) struct path path_of(const char *fmt, ...)
{
    struct path path;
    va_list args;
    va_start(args, fmt);
    vsnprintf(path.text, sizeof(path.text), fmt, args);
    va_end(args);
    return path;
}

/* ---- messages ---- */

static sl_status check_string(const json_t *object, const char *field, const char *at, bool needed,
                              struct api_error *error)
{
    const json_t *value = field_get(object, field);
    struct path path = path_of("%s.%s", at, field);
    if (value == NULL && needed)
        return api_fail(error, 400, "missing_required_parameter", path.text,
                        "`%s` is missing; want a string", path.text);
    if (value != NULL && !json_is_string(value))
        return field_wrong(error, path.text, value, "a string");
    return SL_OK;
}

/* {"type": "text", "text": …}, or a bare string. */
static sl_status check_part(const json_t *part, const char *at, struct api_error *error)
{
    if (json_is_string(part))
        return SL_OK;
    if (!json_is_object(part))
        return field_wrong(error, at, part, "a text part");
    sl_status status = check_string(part, "type", at, true, error);
    if (status != SL_OK)
        return status;
    const char *type = json_string_value(field_get(part, "type"));
    if (strcmp(type, "text") != 0) {
        struct path path = path_of("%s.type", at);
        return api_fail(error, 501, "unsupported_parameter", path.text,
                        "`%s` is \"%.40s\"; only \"text\" is served", path.text, type);
    }
    return check_string(part, "text", at, true, error);
}

static sl_status check_content(const json_t *message, bool optional, const char *at,
                               struct api_error *error)
{
    static const char want[] = "a string or a list of text parts";
    const json_t *content = field_get(message, "content");
    struct path path = path_of("%s.content", at);
    if (content == NULL && optional)
        return SL_OK;
    if (content == NULL)
        return api_fail(error, 400, "missing_required_parameter", path.text,
                        "`%s` is missing; want %s", path.text, want);
    if (json_is_string(content))
        return SL_OK;
    if (!json_is_array(content))
        return field_wrong(error, path.text, content, want);
    if (json_array_size(content) > API_MESSAGES_MAX)
        return api_fail(error, 400, "invalid_value", path.text, "`%s` has %zu parts; at most %u",
                        path.text, json_array_size(content), API_MESSAGES_MAX);
    size_t i;
    json_t *part;
    json_array_foreach(content, i, part)
    {
        sl_status status = check_part(part, path_of("%s[%zu]", path.text, i).text, error);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

/* Templates expect the object that the text of the arguments stands for. *n_values: those of the body's
 * arguments so far. */
static sl_status parse_arguments(json_t *function, const char *at, size_t *n_values,
                                 struct api_error *error)
{
    const json_t *value = field_get(function, "arguments");
    struct path path = path_of("%s.arguments", at);
    json_t *parsed = NULL;
    if (json_is_object(value))
        return SL_OK;
    if (value != NULL && !json_is_string(value))
        return field_wrong(error, path.text, value, "a JSON object in a string");
    const char *text = json_string_value(value);
    *n_values += api_count_values(text, json_string_length(value));
    if (*n_values > API_CHAT_MEMBERS_MAX)
        return api_fail(error, 400, "too_many_fields", path.text,
                        "`%s` and the arguments before have %zu values; at most %u", path.text,
                        *n_values, API_CHAT_MEMBERS_MAX);
    if (json_string_length(value) == 0) {
        parsed = json_object();
    } else if (sl_json_parse("arguments", text, json_string_length(value),
                             json_string_length(value), &parsed) != SL_OK) {
        return api_fail(error, 400, "invalid_value", path.text, "`%s` is not valid JSON: %s",
                        path.text, sl_error());
    }
    if (!json_is_object(parsed)) {
        sl_status status = field_wrong(error, path.text, parsed, "a JSON object in a string");
        json_decref(parsed);
        return status;
    }
    if (json_object_set_new(function, "arguments", parsed) != 0)
        return api_fail(error, 503, "no_memory", NULL, "no memory for tool arguments");
    return SL_OK;
}

static sl_status check_call(json_t *call, const char *at, size_t *n_values, struct api_error *error)
{
    if (!json_is_object(call))
        return field_wrong(error, at, call, "an object");
    sl_status status = check_string(call, "id", at, false, error);
    if (status == SL_OK)
        status = check_string(call, "type", at, false, error);
    if (status != SL_OK)
        return status;
    const char *type = json_string_value(field_get(call, "type"));
    if (type != NULL && strcmp(type, "function") != 0) {
        struct path path = path_of("%s.type", at);
        return api_fail(error, 400, "invalid_value", path.text, "`%s` is \"%.40s\"; want function",
                        path.text, type);
    }
    json_t *function = json_object_get(call, "function");
    struct path path = path_of("%s.function", at);
    if (!json_is_object(function))
        return api_fail(error, 400, "invalid_value", path.text,
                        "`%s` is missing or no object; want a name and arguments", path.text);
    status = check_string(function, "name", path.text, true, error);
    return status == SL_OK ? parse_arguments(function, path.text, n_values, error) : status;
}

/* An empty list is as none. */
static sl_status check_calls(json_t *message, const char *at, size_t *n_values,
                             struct api_error *error)
{
    const json_t *calls = field_get(message, "tool_calls");
    struct path path = path_of("%s.tool_calls", at);
    if (calls == NULL)
        return SL_OK;
    if (!json_is_array(calls) || json_array_size(calls) > API_MESSAGES_MAX)
        return field_wrong(error, path.text, calls, "a list of at most 16384 calls");
    if (json_array_size(calls) == 0)
        json_object_del(message, "tool_calls");
    size_t i, n = json_array_size(field_get(message, "tool_calls"));
    for (i = 0; i < n; i++) {
        sl_status status = check_call(json_array_get(calls, i),
                                      path_of("%s[%zu]", path.text, i).text, n_values, error);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status check_role(const json_t *message, const char *at, struct api_error *error)
{
    static const char *const roles[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    sl_status status = check_string(message, "role", at, true, error);
    if (status != SL_OK)
        return status;
    const char *role = json_string_value(field_get(message, "role"));
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
        if (strcmp(role, roles[i]) == 0)
            return SL_OK;
    struct path path = path_of("%s.role", at);
    return api_fail(error, 400, "invalid_value", path.text,
                    "`%s` is \"%.40s\"; want system, developer, user, assistant, tool or function",
                    path.text, role);
}

static sl_status check_message(json_t *message, size_t i, size_t *n_values, struct api_error *error)
{
    static const char *const texts[] = {"name", "tool_call_id", "reasoning_content", "reasoning"};
    struct path at = path_of("messages[%zu]", i);
    if (!json_is_object(message))
        return field_wrong(error, at.text, message, "an object");
    sl_status status = check_role(message, at.text, error);
    if (status != SL_OK)
        return status;
    bool assistant = strcmp(json_string_value(field_get(message, "role")), "assistant") == 0;
    status = check_content(message, assistant, at.text, error);
    for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]) && status == SL_OK; k++)
        status = check_string(message, texts[k], at.text, false, error);
    return status == SL_OK ? check_calls(message, at.text, n_values, error) : status;
}

static sl_status read_messages(json_t *body, struct api_messages *out, struct api_error *error)
{
    json_t *messages = json_object_get(body, "messages");
    if (messages == NULL || json_is_null(messages))
        return api_fail(error, 400, "missing_required_parameter", "messages",
                        "`messages` is missing; want a list of messages");
    if (!json_is_array(messages))
        return field_wrong(error, "messages", messages, "a list of messages");
    size_t n = json_array_size(messages), n_values = 0;
    if (n == 0 || n > API_MESSAGES_MAX)
        return api_fail(error, 400, "invalid_value", "messages",
                        "`messages` has %zu messages; want 1 to %u", n, API_MESSAGES_MAX);
    for (size_t i = 0; i < n; i++) {
        sl_status status = check_message(json_array_get(messages, i), i, &n_values, error);
        if (status != SL_OK)
            return status;
    }
    out->messages = messages;
    return SL_OK;
}

/* ---- what else a template is given ---- */

/* A list of objects; NULL when it is empty or absent. */
static sl_status read_objects(const json_t *body, const char *field, const json_t **list_out,
                              struct api_error *error)
{
    const json_t *list = field_get(body, field);
    if (list == NULL)
        return SL_OK;
    if (!json_is_array(list) || json_array_size(list) > API_MESSAGES_MAX)
        return field_wrong(error, field, list, "a list of at most 16384 objects");
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        if (!json_is_object(item))
            return field_wrong(error, path_of("%s[%zu]", field, i).text, item, "an object");
    }
    *list_out = json_array_size(list) > 0 ? list : NULL;
    return SL_OK;
}

static sl_status check_tool(const json_t *tool, size_t i, struct api_error *error)
{
    struct path at = path_of("tools[%zu]", i);
    sl_status status = check_string(tool, "type", at.text, true, error);
    if (status != SL_OK)
        return status;
    const char *type = json_string_value(field_get(tool, "type"));
    if (strcmp(type, "function") != 0) {
        struct path path = path_of("%s.type", at.text);
        return api_fail(error, 501, "unsupported_parameter", path.text,
                        "`%s` is \"%.40s\"; only \"function\" is served", path.text, type);
    }
    struct path path = path_of("%s.function", at.text);
    const json_t *function = field_get(tool, "function");
    if (!json_is_object(function))
        return api_fail(error, 400, "invalid_value", path.text,
                        "`%s` is missing or no object; want a name and parameters", path.text);
    return check_string(function, "name", path.text, true, error);
}

static sl_status read_tools(const json_t *body, struct api_messages *out, struct api_error *error)
{
    sl_status status = read_objects(body, "tools", &out->tools, error);
    for (size_t i = 0; i < json_array_size(out->tools) && status == SL_OK; i++)
        status = check_tool(json_array_get(out->tools, i), i, error);
    return status;
}

/* reasoning_effort goes to the template under that name, unless the kwargs say it already. */
static sl_status read_kwargs(json_t *body, struct api_messages *out, struct api_error *error)
{
    const char *effort = NULL;
    sl_status status = field_text(body, "reasoning_effort", &effort, error);
    if (status != SL_OK)
        return status;
    json_t *kwargs = json_object_get(body, "chat_template_kwargs");
    if (kwargs != NULL && !json_is_null(kwargs) && !json_is_object(kwargs))
        return field_wrong(error, "chat_template_kwargs", kwargs, "an object");
    if (!json_is_object(kwargs))
        kwargs = NULL;
    if (kwargs == NULL && effort != NULL) {
        kwargs = json_object();
        if (json_object_set_new(body, "chat_template_kwargs", kwargs) != 0)
            return api_fail(error, 503, "no_memory", NULL, "no memory for template arguments");
    }
    if (effort != NULL && json_object_get(kwargs, "reasoning_effort") == NULL &&
        json_object_set_new(kwargs, "reasoning_effort", json_string(effort)) != 0)
        return api_fail(error, 503, "no_memory", NULL, "no memory for template arguments");
    out->kwargs = kwargs;
    return SL_OK;
}

/* To continue the last message takes the place of beginning a new one. */
static sl_status read_ending(const json_t *body, struct api_messages *out, struct api_error *error)
{
    sl_status status =
        field_bool(body, "continue_final_message", &out->continue_final_message, error);
    out->add_generation_prompt = !out->continue_final_message;
    if (status == SL_OK)
        status = field_bool(body, "add_generation_prompt", &out->add_generation_prompt, error);
    if (status == SL_OK && out->add_generation_prompt && out->continue_final_message)
        status = api_fail(error, 400, "invalid_value", "continue_final_message",
                          "`continue_final_message` is true and so is `add_generation_prompt`; "
                          "they exclude each other");
    return status;
}

sl_status chat_read(json_t *body, struct api_messages *out, struct api_error *error)
{
    if (field_get(body, "chat_template") != NULL)
        return api_fail(error, 400, "unsupported_parameter", "chat_template",
                        "`chat_template` cannot be given by a request; the model's own is used");
    sl_status status = read_messages(body, out, error);
    if (status == SL_OK)
        status = read_tools(body, out, error);
    if (status == SL_OK)
        status = read_objects(body, "documents", &out->documents, error);
    if (status == SL_OK)
        status = read_kwargs(body, out, error);
    if (status == SL_OK)
        status = read_ending(body, out, error);
    return status;
}

sl_status chat_check_tools(const json_t *body, const struct api_messages *input,
                           struct api_error *error)
{
    const json_t *choice = field_get(body, "tool_choice");
    bool parallel;
    sl_status status = field_bool(body, "parallel_tool_calls", &parallel, error);
    if (status != SL_OK)
        return status;
    if (json_is_string(choice) && strcmp(json_string_value(choice), "none") == 0)
        return SL_OK;
    if (choice != NULL) {
        char text[FIELD_SHOW_BYTES];
        return api_fail(error, 501, "unsupported_parameter", "tool_choice",
                        "`tool_choice` is %s; tool calling is not served yet, only \"none\"",
                        field_show(choice, text));
    }
    if (input->tools != NULL)
        return api_fail(error, 501, "unsupported_parameter", "tools",
                        "`tools` has %zu tools; tool calling is not served yet (with `tool_choice` "
                        "\"none\" the template is given them)",
                        json_array_size(input->tools));
    return SL_OK;
}

/* ---- the template ---- */

/* Text of a part, which has been checked. */
static const json_t *text_of(const json_t *part)
{
    return json_is_string(part) ? part : json_object_get(part, "text");
}

/* The parts as one text. */
static json_t *join_parts(const json_t *parts)
{
    struct sl_buf text;
    size_t i;
    json_t *part;
    sl_buf_init(&text, PROMPT_BYTES);
    json_array_foreach(parts, i, part)
    {
        if (i > 0)
            sl_buf_add_text(&text, "\n");
        sl_buf_add(&text, json_string_value(text_of(part)), json_string_length(text_of(part)));
    }
    json_t *joined =
        text.failed ? NULL : json_stringn(text.data != NULL ? text.data : "", text.bytes);
    sl_buf_fini(&text);
    return joined;
}

/* Bare strings among the parts become parts. False without memory. */
static bool complete_parts(json_t *parts)
{
    size_t i;
    json_t *part;
    json_array_foreach(parts, i, part)
    {
        if (!json_is_string(part))
            continue;
        json_t *whole = json_pack("{s:s,s:O}", "type", "text", "text", part);
        if (whole == NULL || json_array_set_new(parts, i, whole) != 0)
            return false;
    }
    return true;
}

/* In the form that the template expects. False without memory. */
static bool shape_message(const struct chat_model *model, json_t *message)
{
    json_t *content = json_object_get(message, "content");
    if (json_is_array(content) && model->takes_parts && !complete_parts(content))
        return false;
    if (json_is_array(content) && !model->takes_parts &&
        json_object_set_new(message, "content", join_parts(content)) != 0)
        return false;
    const char *role = json_string_value(json_object_get(message, "role"));
    if (strcmp(role, "developer") == 0 && !model->knows_developer)
        return json_object_set_new(message, "role", json_string("system")) == 0;
    return true;
}

static sl_status render(const struct chat_model *model, const struct api_messages *input,
                        struct sl_buf *prompt, struct api_error *error)
{
    struct text_template_args args = {.messages = input->messages,
                                      .tools = input->tools,
                                      .documents = input->documents,
                                      .kwargs = input->kwargs,
                                      .add_generation_prompt = input->add_generation_prompt,
                                      .continue_final_message = input->continue_final_message};
    sl_status status = text_template_render(model->template, &args, prompt);
    if (status == SL_OK)
        return SL_OK;
    if (status == SL_NO_MEMORY)
        return api_fail(error, 503, "no_memory", NULL, "no memory for the chat template");
    return api_fail(error, 400,
                    status == SL_EXHAUSTED ? "chat_template_limit" : "chat_template_error",
                    "messages", "`messages`: %s", sl_error());
}

sl_status chat_render(const struct chat_model *model, struct api_messages *input,
                      struct sl_buf *prompt, struct api_error *error)
{
    if (model->template == NULL)
        return api_fail(error, model->broken ? 501 : 400,
                        model->broken ? "chat_template_broken" : "no_chat_template", "messages",
                        "`messages` cannot be used: %s", model->why);
    size_t i;
    json_t *message;
    json_array_foreach(input->messages, i, message)
    {
        if (!shape_message(model, message))
            return api_fail(error, 503, "no_memory", NULL, "no memory for the messages");
    }
    return render(model, input, prompt, error);
}

/* ---- reasoning ---- */

/* Whether the last open mark in the text has no close mark behind it. */
static bool is_open(const struct text_reasoning_marks *marks, const char *text)
{
    const char *last = NULL;
    for (const char *at = text; (at = strstr(at, marks->open)) != NULL; at++)
        last = at;
    return last != NULL && strstr(last, marks->close) == NULL;
}

/* Text of the last message, whose form is the template's. */
static const char *final_text(const struct api_messages *input)
{
    const json_t *last = json_array_get(input->messages, json_array_size(input->messages) - 1);
    const json_t *content = json_object_get(last, "content");
    if (json_is_array(content))
        content = text_of(json_array_get(content, json_array_size(content) - 1));
    const char *text = json_string_value(content);
    return text != NULL ? text : "";
}

bool chat_opens_reasoning(const struct chat_model *model, const struct api_messages *input,
                          const struct sl_buf *prompt)
{
    if (model->marks == NULL)
        return false;
    if (input->continue_final_message)
        return is_open(model->marks, final_text(input));
    size_t n = prompt->bytes, mark = strlen(model->marks->open);
    while (n > 0 && (prompt->data[n - 1] == '\n' || prompt->data[n - 1] == ' '))
        n--;
    return input->add_generation_prompt && n >= mark &&
           memcmp(prompt->data + n - mark, model->marks->open, mark) == 0;
}

/* The marks that are tokens of this model, or that its template writes. */
static const struct text_reasoning_marks *find_marks(const struct text_template *template,
                                                     const struct text_tokenizer *tokenizer)
{
    for (uint32_t i = 0; i < TEXT_REASONING_MARKS; i++) {
        const struct text_reasoning_marks *marks = &text_reasoning_marks[i];
        uint32_t id;
        bool tokens = text_tokenizer_find(tokenizer, marks->open, strlen(marks->open), &id) &&
                      text_tokenizer_find(tokenizer, marks->close, strlen(marks->close), &id);
        if (tokens || text_template_mentions(template, marks->close))
            return marks;
    }
    return NULL;
}

void chat_open(const char *model_dir, const struct text_tokenizer *tokenizer, bool split_reasoning,
               struct chat_model *model)
{
    memset(model, 0, sizeof(*model));
    sl_status status = text_template_open(model_dir, &model->template);
    if (status == SL_NOT_FOUND) {
        snprintf(model->why, sizeof(model->why), "the model has no chat template");
        sl_info("chat_template", "found=no");
        return;
    }
    if (status != SL_OK) {
        const char *why = sl_error();
        size_t n = strlen(model_dir);
        model->broken = true;
        /* The directory is for the log, not for clients. */
        snprintf(model->why, sizeof(model->why), "the model's chat template is not usable%s",
                 strncmp(why, model_dir, n) == 0 ? why + n : "");
        sl_warn("chat_template_broken", "error=\"%s\"", sl_error());
        return;
    }
    model->takes_parts = text_template_takes_parts(model->template);
    model->knows_developer = text_template_mentions(model->template, "developer");
    if (split_reasoning)
        model->marks = find_marks(model->template, tokenizer);
    sl_info("chat_template", "found=yes parts=%d reasoning=%s", model->takes_parts,
            model->marks != NULL ? model->marks->open : "none");
}

void chat_close(struct chat_model *model)
{
    text_template_destroy(model->template);
    memset(model, 0, sizeof(*model));
}
