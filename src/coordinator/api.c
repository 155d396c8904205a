/* Bodies of the HTTP API, field by field.
 *
 * One rule for every field: absent and null mean the default; a wrong type or a value outside its limits
 * is refused with a sentence that names the field, the value and the limit, and with `param`. Fields
 * that this version does not serve stand in one table with their neutral values: a client that sends
 * its library's defaults is served, one that asks for more is told what is missing. Names in neither
 * place are ignored.
 *
 * The caller has bounded the body; json.h bounds depth and rejects duplicate names. Nothing here keeps
 * state, so any thread may call. */
#include "coordinator/api.h"

#include "base/buf.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define VALUE_BYTES 64

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

/* Length of the character that begins here, 0 if it is none (RFC 3629: shortest form, no surrogates). */
static size_t character_bytes(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : p[0] >> 4 == 0xe ? 3 : p[0] >> 3 == 0x1e ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if (p[i] >> 6 != 2)
            return 0;
    bool wrong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
                 (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f) || p[0] > 0xf4;
    return wrong ? 0 : n;
}

/* A sentence may quote foreign bytes, or be cut inside a character: what is no UTF-8 becomes '?'. */
static void make_utf8(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p != '\0';) {
        size_t n = character_bytes(p);
        if (n == 0)
            *p = '?';
        p += n > 0 ? n : 1;
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

/* A value as an error shows it: numbers and literals as they are, of the rest only the kind. */
static const char *show(const json_t *value, char *text)
{
    switch (json_typeof(value)) {
    case JSON_INTEGER:
        snprintf(text, VALUE_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(text, VALUE_BYTES, "%g", json_real_value(value));
        break;
    case JSON_STRING:
        snprintf(text, VALUE_BYTES, "a string of %zu bytes", json_string_length(value));
        break;
    case JSON_ARRAY:
        snprintf(text, VALUE_BYTES, "a list of %zu", json_array_size(value));
        break;
    case JSON_OBJECT:
        snprintf(text, VALUE_BYTES, "an object");
        break;
    case JSON_TRUE:
        snprintf(text, VALUE_BYTES, "true");
        break;
    case JSON_FALSE:
        snprintf(text, VALUE_BYTES, "false");
        break;
    case JSON_NULL:
        snprintf(text, VALUE_BYTES, "null");
        break;
    }
    return text;
}

static sl_status wrong(struct api_error *error, const char *field, const json_t *value,
                       const char *want)
{
    char text[VALUE_BYTES];
    return api_fail(error, 400, "invalid_value", field, "`%s` is %s; want %s", field,
                    show(value, text), want);
}

/* NULL when absent or null. */
static const json_t *get(const json_t *body, const char *field)
{
    const json_t *value = json_object_get(body, field);
    return json_is_null(value) ? NULL : value;
}

static sl_status read_bool(const json_t *body, const char *field, bool *value_out,
                           struct api_error *error)
{
    const json_t *value = get(body, field);
    if (value == NULL)
        return SL_OK;
    if (!json_is_boolean(value))
        return wrong(error, field, value, "true or false");
    *value_out = json_is_true(value);
    return SL_OK;
}

static sl_status read_text(const json_t *body, const char *field, const char **value_out,
                           struct api_error *error)
{
    const json_t *value = get(body, field);
    if (value == NULL)
        return SL_OK;
    if (!json_is_string(value))
        return wrong(error, field, value, "a string");
    *value_out = json_string_value(value);
    return SL_OK;
}

static sl_status read_number(const json_t *body, const char *field, double min, double max,
                             double *value_out, struct api_error *error)
{
    const json_t *value = get(body, field);
    if (value == NULL)
        return SL_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !isfinite(number) || number < min || number > max) {
        char want[VALUE_BYTES];
        snprintf(want, sizeof(want), "a number of %g to %g", min, max);
        return wrong(error, field, value, want);
    }
    *value_out = number;
    return SL_OK;
}

/* Integers only: 3.0 is a number of another kind for most servers too. found_out may be NULL. */
static sl_status read_int(const json_t *body, const char *field, int64_t min, int64_t max,
                          int64_t *value_out, bool *found_out, struct api_error *error)
{
    const json_t *value = get(body, field);
    if (value == NULL)
        return SL_OK;
    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max) {
        char want[VALUE_BYTES];
        snprintf(want, sizeof(want), "an integer of %" PRId64 " to %" PRId64, min, max);
        return wrong(error, field, value, want);
    }
    *value_out = json_integer_value(value);
    if (found_out != NULL)
        *found_out = true;
    return SL_OK;
}

/* Fields of later versions. Neutral: null, or the value here. */
enum neutral { NEUTRAL_INT, NEUTRAL_FALSE, NEUTRAL_TRUE, NEUTRAL_EMPTY, NEUTRAL_TEXT_FORMAT };

struct later {
    const char *field;
    enum neutral kind;
    int64_t number;
};

static const struct later completion_later[] = {
    {"n", NEUTRAL_INT, 1},
    {"best_of", NEUTRAL_INT, 1},
    {"echo", NEUTRAL_FALSE, 0},
    {"suffix", NEUTRAL_EMPTY, 0},
    {"presence_penalty", NEUTRAL_INT, 0},
    {"frequency_penalty", NEUTRAL_INT, 0},
    {"repetition_penalty", NEUTRAL_INT, 1},
    {"logit_bias", NEUTRAL_EMPTY, 0},
    {"prompt_logprobs", NEUTRAL_EMPTY, 0},
    {"prompt_embeds", NEUTRAL_EMPTY, 0},
    {"include_stop_str_in_output", NEUTRAL_FALSE, 0},
    {"skip_special_tokens", NEUTRAL_TRUE, 0},
    {"spaces_between_special_tokens", NEUTRAL_TRUE, 0},
    {"truncate_prompt_tokens", NEUTRAL_EMPTY, 0},
    {"allowed_token_ids", NEUTRAL_EMPTY, 0},
    {"bad_words", NEUTRAL_EMPTY, 0},
    {"use_beam_search", NEUTRAL_FALSE, 0},
    {"length_penalty", NEUTRAL_INT, 1},
    {"response_format", NEUTRAL_TEXT_FORMAT, 0},
    {"structured_outputs", NEUTRAL_EMPTY, 0},
    {"guided_json", NEUTRAL_EMPTY, 0},
    {"guided_regex", NEUTRAL_EMPTY, 0},
    {"guided_choice", NEUTRAL_EMPTY, 0},
    {"guided_grammar", NEUTRAL_EMPTY, 0},
    {"priority", NEUTRAL_INT, 0},
    {"cache_salt", NEUTRAL_EMPTY, 0},
};

static bool is_empty(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        return json_string_length(value) == 0;
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    case JSON_FALSE:
    case JSON_NULL:
        return true;
    case JSON_TRUE:
    case JSON_INTEGER:
    case JSON_REAL:
        return false;
    }
    return false;
}

static bool is_neutral(const struct later *later, const json_t *value)
{
    switch (later->kind) {
    case NEUTRAL_INT:
        return json_is_number(value) && fabs(json_number_value(value) - (double)later->number) == 0;
    case NEUTRAL_FALSE:
        return json_is_false(value);
    case NEUTRAL_TRUE:
        return json_is_true(value);
    case NEUTRAL_EMPTY:
        return is_empty(value);
    case NEUTRAL_TEXT_FORMAT: {
        const char *type = json_string_value(json_object_get(value, "type"));
        return type != NULL && strcmp(type, "text") == 0;
    }
    }
    return false;
}

static sl_status check_later(const json_t *body, const struct later *rows, size_t n_rows,
                             struct api_error *error)
{
    for (size_t i = 0; i < n_rows; i++) {
        const json_t *value = get(body, rows[i].field);
        if (value == NULL || is_neutral(&rows[i], value))
            continue;
        char text[VALUE_BYTES];
        return api_fail(error, 501, "unsupported_parameter", rows[i].field,
                        "`%s` is %s; only its neutral value is served yet", rows[i].field,
                        show(value, text));
    }
    return SL_OK;
}

static bool is_token_id(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0 &&
           json_integer_value(value) <= UINT32_MAX;
}

static sl_status check_ids(const json_t *ids, const char *field, struct api_error *error)
{
    size_t i;
    json_t *id;
    if (json_array_size(ids) > API_TOKENS_MAX)
        return api_fail(error, 400, "invalid_value", field, "`%s` has %zu token ids; at most %u",
                        field, json_array_size(ids), API_TOKENS_MAX);
    json_array_foreach(ids, i, id)
    {
        char text[VALUE_BYTES];
        if (!is_token_id(id))
            return api_fail(error, 400, "invalid_value", field,
                            "`%s[%zu]` is %s; want a token id of 0 to %u", field, i, show(id, text),
                            UINT32_MAX);
    }
    return SL_OK;
}

/* A string, a list of ids, or a list with one of these. */
static sl_status read_prompt(const json_t *body, struct api_prompt *prompt, struct api_error *error)
{
    static const char want[] = "a string or a list of token ids";
    const json_t *value = get(body, "prompt");
    if (value == NULL)
        return api_fail(error, 400, "missing_required_parameter", "prompt",
                        "`prompt` is missing; want %s", want);
    const json_t *first = json_array_get(value, 0);
    if (json_is_string(first) || json_is_array(first)) {
        if (json_array_size(value) > 1)
            return api_fail(error, 501, "unsupported_parameter", "prompt",
                            "`prompt` is a list of %zu prompts; one is served yet",
                            json_array_size(value));
        value = first;
    }
    if (json_is_string(value)) {
        prompt->text = json_string_value(value);
        prompt->text_bytes = json_string_length(value);
        return SL_OK;
    }
    if (!json_is_array(value))
        return wrong(error, "prompt", value, want);
    prompt->ids = value;
    if (json_array_size(value) == 0)
        return api_fail(error, 400, "invalid_value", "prompt",
                        "`prompt` has no tokens; want at least 1");
    return check_ids(value, "prompt", error);
}

static sl_status add_stop(struct api_completion *out, const json_t *value, struct api_error *error)
{
    if (!json_is_string(value))
        return wrong(error, "stop", value, "a string or a list of strings");
    size_t bytes = json_string_length(value);
    if (bytes == 0 || bytes > TEXT_STOP_BYTES_MAX)
        return api_fail(error, 400, "invalid_value", "stop",
                        "`stop` has a string of %zu bytes; want 1 to %u", bytes,
                        TEXT_STOP_BYTES_MAX);
    out->stops[out->n_stops] = json_string_value(value);
    out->stop_bytes[out->n_stops++] = bytes;
    return SL_OK;
}

static sl_status read_stops(const json_t *body, struct api_completion *out, struct api_error *error)
{
    const json_t *value = get(body, "stop");
    if (value == NULL)
        return SL_OK;
    /* "" is what some clients send for none. */
    if (json_is_string(value))
        return json_string_length(value) == 0 ? SL_OK : add_stop(out, value, error);
    if (!json_is_array(value))
        return wrong(error, "stop", value, "a string or a list of strings");
    if (json_array_size(value) > TEXT_STOPS_MAX)
        return api_fail(error, 400, "invalid_value", "stop", "`stop` has %zu strings; at most %u",
                        json_array_size(value), TEXT_STOPS_MAX);
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item)
    {
        sl_status status = add_stop(out, item, error);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status read_stop_ids(const json_t *body, struct api_completion *out,
                               struct api_error *error)
{
    const json_t *value = get(body, "stop_token_ids");
    if (value == NULL)
        return SL_OK;
    if (!json_is_array(value) || json_array_size(value) > API_STOP_IDS_MAX)
        return wrong(error, "stop_token_ids", value, "a list of at most 16 token ids");
    sl_status status = check_ids(value, "stop_token_ids", error);
    if (status != SL_OK)
        return status;
    size_t i;
    json_t *id;
    json_array_foreach(value, i, id) out->stop_ids[out->n_stop_ids++] =
        (uint32_t)json_integer_value(id);
    return SL_OK;
}

static sl_status read_stream_options(const json_t *body, struct api_completion *out,
                                     struct api_error *error)
{
    const json_t *options = get(body, "stream_options");
    if (options == NULL)
        return SL_OK;
    if (!json_is_object(options))
        return wrong(error, "stream_options", options, "an object");
    if (!out->stream)
        return api_fail(error, 400, "invalid_value", "stream_options",
                        "`stream_options` is given but `stream` is not true");
    sl_status status = read_bool(options, "include_usage", &out->include_usage, error);
    if (status != SL_OK)
        snprintf(error->param, sizeof(error->param), "stream_options.include_usage");
    return status;
}

static sl_status read_lengths(const json_t *body, struct api_completion *out,
                              struct api_error *error)
{
    int64_t max_tokens = 16, min_tokens = 0;
    sl_status status =
        read_int(body, "max_tokens", 1, API_TOKENS_MAX, &max_tokens, &out->has_max_tokens, error);
    if (status != SL_OK)
        return status;
    status = read_int(body, "min_tokens", 0, API_TOKENS_MAX, &min_tokens, NULL, error);
    if (status != SL_OK)
        return status;
    if (min_tokens > max_tokens)
        return api_fail(error, 400, "invalid_value", "min_tokens",
                        "`min_tokens` is %" PRId64 "; at most max_tokens, %" PRId64, min_tokens,
                        max_tokens);
    out->max_tokens = (uint32_t)max_tokens;
    out->min_tokens = (uint32_t)min_tokens;
    return SL_OK;
}

static sl_status read_sampling(const json_t *body, struct api_completion *out,
                               struct api_error *error)
{
    int64_t top_k = 0, logprobs = -1, seed = 0;
    out->temperature = 1;
    out->top_p = 1;
    sl_status status =
        read_number(body, "temperature", 0, API_TEMPERATURE_MAX, &out->temperature, error);
    if (status == SL_OK)
        status = read_number(body, "top_p", 0, 1, &out->top_p, error);
    if (status == SL_OK)
        status = read_number(body, "min_p", 0, 1, &out->min_p, error);
    if (status == SL_OK)
        status = read_int(body, "top_k", -1, INT32_MAX, &top_k, NULL, error);
    if (status == SL_OK)
        status = read_int(body, "seed", INT64_MIN, INT64_MAX, &seed, &out->has_seed, error);
    if (status == SL_OK)
        status = read_int(body, "logprobs", 0, API_LOGPROBS_MAX, &logprobs, NULL, error);
    out->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    out->seed = (uint64_t)seed;
    out->logprobs = (int32_t)logprobs;
    return status;
}

static sl_status read_completion(struct api_completion *out, struct api_error *error)
{
    const json_t *body = out->body;
    sl_status status = read_text(body, "model", &out->model, error);
    if (status == SL_OK)
        status = read_prompt(body, &out->prompt, error);
    if (status == SL_OK)
        status = read_bool(body, "stream", &out->stream, error);
    if (status == SL_OK)
        status = read_stream_options(body, out, error);
    if (status == SL_OK)
        status = read_bool(body, "add_special_tokens", &out->add_special_tokens, error);
    if (status == SL_OK)
        status = read_bool(body, "ignore_eos", &out->ignore_eos, error);
    if (status == SL_OK)
        status = read_bool(body, "return_token_ids", &out->return_token_ids, error);
    if (status == SL_OK)
        status = read_lengths(body, out, error);
    if (status == SL_OK)
        status = read_sampling(body, out, error);
    if (status == SL_OK)
        status = read_stops(body, out, error);
    if (status == SL_OK)
        status = read_stop_ids(body, out, error);
    if (status == SL_OK)
        status = check_later(body, completion_later,
                             sizeof(completion_later) / sizeof(completion_later[0]), error);
    return status;
}

sl_status api_check_shape(const char *text, size_t bytes, uint32_t len_max,
                          struct api_error *error_out)
{
    bool in_string = false;
    size_t n_members = 0, n_commas = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && c == ':')
            n_members++;
        else if (!in_string && c == ',')
            n_commas++;
    }
    if (n_members > API_MEMBERS_MAX)
        return api_fail(error_out, 400, "too_many_fields", NULL,
                        "the request body has %zu members; at most %u", n_members, API_MEMBERS_MAX);
    if (n_commas > (size_t)len_max + API_MEMBERS_MAX) {
        /* Exact when the prompt is the only list of a flat body: n members have n - 1 commas. */
        size_t n_values = n_commas + 2 - (n_members > 0 ? n_members : 1);
        return api_fail(error_out, 400, "context_length_exceeded", "prompt",
                        "`prompt` lists %zu values; the context length is %u tokens", n_values,
                        len_max);
    }
    return SL_OK;
}

static sl_status parse_object(const char *text, size_t bytes, json_t **body_out,
                              struct api_error *error)
{
    json_t *body;
    sl_status status = sl_json_parse("request body", text, bytes, bytes, &body);
    if (status != SL_OK)
        return api_fail(error, 400, "invalid_json", NULL, "not valid JSON: %s", sl_error());
    if (!json_is_object(body)) {
        json_decref(body);
        return api_fail(error, 400, "invalid_json", NULL, "the request body is not a JSON object");
    }
    *body_out = body;
    return SL_OK;
}

sl_status api_parse_completion(const char *text, size_t bytes, struct api_completion *out,
                               struct api_error *error_out)
{
    memset(out, 0, sizeof(*out));
    memset(error_out, 0, sizeof(*error_out));
    out->add_special_tokens = true;
    sl_status status = parse_object(text, bytes, &out->body, error_out);
    if (status != SL_OK)
        return status;
    status = read_completion(out, error_out);
    if (status != SL_OK)
        api_completion_fini(out);
    return status;
}

void api_completion_fini(struct api_completion *completion)
{
    json_decref(completion->body);
    memset(completion, 0, sizeof(*completion));
}

sl_status api_parse_tokenize(const char *text, size_t bytes, struct api_tokenize *out,
                             struct api_error *error_out)
{
    memset(out, 0, sizeof(*out));
    memset(error_out, 0, sizeof(*error_out));
    out->add_special_tokens = true;
    sl_status status = parse_object(text, bytes, &out->body, error_out);
    if (status != SL_OK)
        return status;
    const json_t *prompt = get(out->body, "prompt");
    if (prompt == NULL && get(out->body, "messages") != NULL)
        status = api_fail(error_out, 501, "unsupported_parameter", "messages",
                          "`messages` is not served yet; want `prompt`");
    else if (prompt == NULL)
        status = api_fail(error_out, 400, "missing_required_parameter", "prompt",
                          "`prompt` is missing; want a string");
    else if (!json_is_string(prompt))
        status = wrong(error_out, "prompt", prompt, "a string");
    else
        status = read_text(out->body, "model", &out->model, error_out);
    if (status == SL_OK)
        status = read_bool(out->body, "add_special_tokens", &out->add_special_tokens, error_out);
    if (status != SL_OK) {
        api_tokenize_fini(out);
        return status;
    }
    out->prompt.text = json_string_value(prompt);
    out->prompt.text_bytes = json_string_length(prompt);
    return SL_OK;
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
    const json_t *tokens = get(out->body, "tokens");
    if (tokens == NULL)
        status = api_fail(error_out, 400, "missing_required_parameter", "tokens",
                          "`tokens` is missing; want a list of token ids");
    else if (!json_is_array(tokens))
        status = wrong(error_out, "tokens", tokens, "a list of token ids");
    else
        status = check_ids(tokens, "tokens", error_out);
    if (status == SL_OK)
        status = read_text(out->body, "model", &out->model, error_out);
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
