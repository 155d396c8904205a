/* Bodies of the HTTP API, field by field: what is particular to each, and the error object. What the two
 * kinds of completion share is params.c, the messages of a chat are chat.c.
 *
 * One rule for every field: absent and null mean the default; a wrong type or a value outside its limits
 * is refused with a sentence that names the field, the value and the limit, and with `param`.
 *
 * The caller has bounded the body; json.h bounds depth and rejects duplicate names. Nothing here keeps
 * state, so any thread may call. */
#include "coordinator/api.h"

#include "base/buf.h"
#include "base/utf8.h"
#include "coordinator/adjust.h"
#include "coordinator/chat.h"
#include "coordinator/fields.h"
#include "coordinator/params.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *error_type(int http_status)
{
    switch (http_status) {
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 501:
        return "not_implemented_error";
    case 503:
        return "service_unavailable_error";
    default:
        return http_status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static sl_status error_status(int http_status)
{
    switch (http_status) {
    case 404:
        return SL_NOT_FOUND;
    case 413:
    case 429:
        return SL_EXHAUSTED;
    case 501:
        return SL_UNSUPPORTED;
    case 503:
        return SL_AGAIN;
    default:
        return http_status >= 500 ? SL_PEER : SL_INVALID;
    }
}

/* A sentence may quote foreign bytes, or be cut inside a character: what is no UTF-8 becomes '?'. */
static void make_utf8(char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        uint32_t code;
        int n = sl_utf8_next(text, left, &code);
        if (n <= 0)
            *text = '?';
        text += n > 0 ? n : 1;
        left -= n > 0 ? (size_t)n : 1;
    }
}

sl_status api_fail(struct api_error *error, int http_status, const char *code, const char *param,
                   const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(error->message, sizeof(error->message), fmt, args);
    va_end(args);
    error->http_status = http_status;
    error->type = error_type(http_status);
    error->code = code;
    error->retry_after_s = 0;
    snprintf(error->param, sizeof(error->param), "%s", param != NULL ? param : "");
    make_utf8(error->message);
    return sl_fail(error_status(http_status), "%s", error->message);
}

sl_status api_fail_model(struct api_error *error, const char *model, const char *served)
{
    return api_fail(error, 404, "model_not_found", "model",
                    "the model `%.120s` does not exist; this server has `%.120s`", model, served);
}

void api_error_body(const struct api_error *error, struct sl_buf *out)
{
    sl_buf_add_text(out, "{\"error\":{\"message\":");
    sl_buf_add_json_string(out, error->message, strlen(error->message));
    sl_buf_add_format(out, ",\"type\":\"%s\",\"param\":", error->type);
    if (error->param[0] != '\0')
        sl_buf_add_json_string(out, error->param, strlen(error->param));
    else
        sl_buf_add_text(out, "null");
    if (error->code != NULL)
        sl_buf_add_format(out, ",\"code\":\"%s\"}}", error->code);
    else
        sl_buf_add_text(out, ",\"code\":null}}");
}

/* A string or a list of ids. field names it: `prompt`, or one of a list of prompts. */
static sl_status read_prompt(const json_t *value, const char *field, struct api_prompt *prompt,
                             struct api_error *error)
{
    if (json_is_string(value)) {
        prompt->text = json_string_value(value);
        prompt->text_bytes = json_string_length(value);
        return SL_OK;
    }
    if (!json_is_array(value))
        return field_wrong(error, field, value, "a string or a list of token ids");
    prompt->ids = value;
    if (json_array_size(value) == 0)
        return api_fail(error, 400, "invalid_value", field, "`%s` has no tokens; want at least 1",
                        field);
    return field_check_ids(value, field, error);
}

/* One prompt, or a list of them. */
static sl_status read_prompts(struct api_completion *out, struct api_error *error)
{
    const json_t *value = field_get(out->body, "prompt");
    if (value == NULL)
        return api_fail(
            error, 400, "missing_required_parameter", "prompt",
            "`prompt` is missing; want a string, a list of token ids, or a list of these");
    const json_t *first = json_array_get(value, 0);
    out->n_prompts = 1;
    if (!json_is_string(first) && !json_is_array(first))
        return read_prompt(value, "prompt", &out->prompts[0], error);
    if (json_array_size(value) > API_CHOICES_MAX)
        return api_fail(error, 400, "invalid_value", "prompt",
                        "`prompt` is a list of %zu prompts; at most %u", json_array_size(value),
                        API_CHOICES_MAX);
    out->n_prompts = (uint32_t)json_array_size(value);
    for (uint32_t i = 0; i < out->n_prompts; i++) {
        char field[API_FIELD_BYTES];
        sl_status status = read_prompt(json_array_get(value, i), api_prompt_field(out, i, field),
                                       &out->prompts[i], error);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

const char *api_prompt_field(const struct api_completion *completion, uint32_t index,
                             char field[API_FIELD_BYTES])
{
    if (completion->chat)
        return "messages";
    if (completion->n_prompts == 1)
        return "prompt";
    snprintf(field, API_FIELD_BYTES, "prompt[%u]", index);
    return field;
}

sl_status api_check_shape(const char *text, size_t bytes, bool chat, uint32_t len_max,
                          struct api_error *error_out)
{
    bool in_string = false;
    size_t n_members = 0, n_lists = 0;
    size_t n_values = 1, longest = 1; /* in a row, without a list between */
    uint32_t members_max = chat ? API_CHAT_MEMBERS_MAX : API_MEMBERS_MAX;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string && c == '\\') {
            i++;
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && c == ':') {
            n_members++;
        } else if (!in_string && (c == '[' || c == ']')) {
            n_lists += c == '[';
            n_values = 1;
        } else if (!in_string && c == ',' && ++n_values > longest) {
            longest = n_values;
        }
    }
    if (n_members > members_max)
        return api_fail(error_out, 400, "too_many_fields", NULL,
                        "the request body has %zu members; at most %u", n_members, members_max);
    if (n_lists > members_max)
        return api_fail(error_out, 400, "too_many_fields", NULL,
                        "the request body has %zu lists; at most %u", n_lists, members_max);
    if (chat && longest - 1 > (size_t)len_max + members_max)
        return api_fail(error_out, 400, "too_many_fields", NULL,
                        "the request body lists %zu values; at most %zu", longest,
                        (size_t)len_max + members_max);
    if (longest - 1 > (size_t)len_max + members_max)
        return api_fail(
            error_out, 400, "context_length_exceeded", "prompt",
            "`prompt` lists %zu values; this model's maximum context length is %u tokens", longest,
            len_max);
    return SL_OK;
}

size_t api_count_values(const char *text, size_t bytes)
{
    bool in_string = false;
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (in_string && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            in_string = !in_string;
        else if (!in_string && (text[i] == ',' || text[i] == '[' || text[i] == '{'))
            n++;
    }
    return n;
}

static sl_status parse_object(const char *text, size_t bytes, json_t **body_out,
                              struct api_error *error)
{
    json_t *body;
    bool rounded;
    sl_status status = sl_json_parse_client("request body", text, bytes, bytes, &body, &rounded);
    if (status != SL_OK)
        return api_fail(error, 400, "invalid_json", NULL, "not valid JSON: %s", sl_error());
    if (!json_is_object(body))
        status =
            api_fail(error, 400, "invalid_json", NULL, "the request body is not a JSON object");
    else if (memmem(text, bytes, "\\u0000", 6) != NULL)
        status = field_check_nul(body, error);
    if (status == SL_OK && rounded)
        status = field_check_rounded(body, error);
    if (status == SL_OK)
        *body_out = body;
    else
        json_decref(body);
    return status;
}

sl_status api_parse_completion(const char *text, size_t bytes, const struct api_defaults *defaults,
                               struct api_completion *out, struct api_error *error_out)
{
    memset(out, 0, sizeof(*out));
    memset(error_out, 0, sizeof(*error_out));
    sl_status status = parse_object(text, bytes, &out->body, error_out);
    if (status != SL_OK)
        return status;
    status = read_prompts(out, error_out);
    if (status == SL_OK)
        status = params_read(out, defaults, error_out);
    if (status != SL_OK)
        api_completion_fini(out);
    return status;
}

void api_completion_fini(struct api_completion *completion)
{
    json_decref(completion->body);
    adjust_fini(&completion->adjust);
    memset(completion, 0, sizeof(*completion));
}

sl_status api_parse_chat(const char *text, size_t bytes, const struct api_defaults *defaults,
                         struct api_chat *out, struct api_error *error_out)
{
    memset(out, 0, sizeof(*out));
    memset(error_out, 0, sizeof(*error_out));
    out->params.chat = true;
    out->params.n_prompts = 1;
    out->params.include_reasoning = true;
    sl_status status = parse_object(text, bytes, &out->params.body, error_out);
    if (status != SL_OK)
        return status;
    status = chat_read(out->params.body, &out->input, error_out);
    if (status == SL_OK)
        status = chat_check_tools(out->params.body, &out->input, error_out);
    if (status == SL_OK)
        status = params_read(&out->params, defaults, error_out);
    if (status == SL_OK)
        status = field_bool(out->params.body, "include_reasoning", &out->params.include_reasoning,
                            error_out);
    if (status != SL_OK)
        api_chat_fini(out);
    return status;
}

void api_chat_fini(struct api_chat *chat)
{
    api_completion_fini(&chat->params);
    memset(chat, 0, sizeof(*chat));
}

static sl_status read_text_prompt(struct api_tokenize *out, struct api_error *error)
{
    const json_t *prompt = field_get(out->body, "prompt");
    if (prompt == NULL)
        return api_fail(error, 400, "missing_required_parameter", "prompt",
                        "`prompt` is missing; want a string, or `messages`");
    if (!json_is_string(prompt))
        return field_wrong(error, "prompt", prompt, "a string");
    out->prompt.text = json_string_value(prompt);
    out->prompt.text_bytes = json_string_length(prompt);
    return SL_OK;
}

sl_status api_parse_tokenize(const char *text, size_t bytes, struct api_tokenize *out,
                             struct api_error *error_out)
{
    memset(out, 0, sizeof(*out));
    memset(error_out, 0, sizeof(*error_out));
    sl_status status = parse_object(text, bytes, &out->body, error_out);
    if (status != SL_OK)
        return status;
    bool chat = field_get(out->body, "messages") != NULL;
    out->add_special_tokens = !chat;
    status = chat ? chat_read(out->body, &out->input, error_out) : read_text_prompt(out, error_out);
    if (status == SL_OK)
        status = field_text(out->body, "model", &out->model, error_out);
    if (status == SL_OK)
        status = field_bool(out->body, "add_special_tokens", &out->add_special_tokens, error_out);
    if (status != SL_OK)
        api_tokenize_fini(out);
    return status;
}

void api_tokenize_fini(struct api_tokenize *tokenize)
{
    json_decref(tokenize->body);
    memset(tokenize, 0, sizeof(*tokenize));
}

sl_status api_parse_detokenize(const char *text, size_t bytes, struct api_detokenize *out,
                               struct api_error *error_out)
{
    memset(out, 0, sizeof(*out));
    memset(error_out, 0, sizeof(*error_out));
    sl_status status = parse_object(text, bytes, &out->body, error_out);
    if (status != SL_OK)
        return status;
    const json_t *tokens = field_get(out->body, "tokens");
    if (tokens == NULL)
        status = api_fail(error_out, 400, "missing_required_parameter", "tokens",
                          "`tokens` is missing; want a list of token ids");
    else if (!json_is_array(tokens))
        status = field_wrong(error_out, "tokens", tokens, "a list of token ids");
    else
        status = field_check_ids(tokens, "tokens", error_out);
    if (status == SL_OK)
        status = field_text(out->body, "model", &out->model, error_out);
    if (status != SL_OK) {
        api_detokenize_fini(out);
        return status;
    }
    out->prompt.ids = tokens;
    return SL_OK;
}

void api_detokenize_fini(struct api_detokenize *detokenize)
{
    json_decref(detokenize->body);
    memset(detokenize, 0, sizeof(*detokenize));
}
