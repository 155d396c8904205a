/* Parameters that both kinds of completion have.
 *
 * A field that this version does not serve stands in a table with its neutral value: a client that
 * sends its library's defaults is served, one that asks for more is told what is missing. Names that
 * neither a reader nor a table knows are ignored, and can be asked for (params_unknown), so that
 * whoever misspells one finds it in the log. */
#include "coordinator/params.h"

#include "coordinator/adjust.h"
#include "coordinator/fields.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROWS(table) (sizeof(table) / sizeof((table)[0]))

/* Fields of later versions. Neutral: null, or the value here. */
enum neutral {
    NEUTRAL_INT,
    NEUTRAL_FALSE,
    NEUTRAL_TRUE,
    NEUTRAL_EMPTY,
    NEUTRAL_NONE, /* "none" */
    NEUTRAL_TEXT_LIST,
    NEUTRAL_TEXT_FORMAT
};

struct later {
    const char *field;
    enum neutral kind;
    int64_t number;
};

static const struct later shared_later[] = {
    {"spaces_between_special_tokens", NEUTRAL_TRUE, 0},
    {"allowed_token_ids", NEUTRAL_EMPTY, 0},
    {"use_beam_search", NEUTRAL_FALSE, 0},
    {"length_penalty", NEUTRAL_INT, 1},
    {"response_format", NEUTRAL_TEXT_FORMAT, 0},
    {"structured_outputs", NEUTRAL_EMPTY, 0},
    {"guided_json", NEUTRAL_EMPTY, 0},
    {"guided_regex", NEUTRAL_EMPTY, 0},
    {"guided_choice", NEUTRAL_EMPTY, 0},
    {"guided_grammar", NEUTRAL_EMPTY, 0},
};

static const struct later completion_later[] = {
    {"suffix", NEUTRAL_EMPTY, 0},
    {"prompt_embeds", NEUTRAL_EMPTY, 0},
};

static const struct later chat_later[] = {
    {"echo", NEUTRAL_FALSE, 0},
    {"prompt_logprobs", NEUTRAL_EMPTY, 0},
    {"functions", NEUTRAL_EMPTY, 0},
    {"function_call", NEUTRAL_NONE, 0},
    {"modalities", NEUTRAL_TEXT_LIST, 0},
    {"audio", NEUTRAL_EMPTY, 0},
    {"web_search_options", NEUTRAL_EMPTY, 0},
};

/* What readers know, here and in the files of the two bodies; and what changes nothing here, but is
 * no mistake. */
static const char *const shared_names[] = {
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "logprobs",
    "return_token_ids",
    "skip_special_tokens",
    "truncate_prompt_tokens",
    "add_special_tokens",
    "priority",
    "cache_salt",
    "request_id",
    "user",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "bad_words",
};
static const char *const completion_names[] = {"prompt", "best_of", "echo", "prompt_logprobs"};
static const char *const chat_names[] = {
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "chat_template_kwargs",
    "documents",
    "tools",
    "tool_choice",
    "include_reasoning",
    "reasoning_effort",
    "parallel_tool_calls",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "verbosity",
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
    case NEUTRAL_NONE:
        return json_is_string(value) && strcmp(json_string_value(value), "none") == 0;
    case NEUTRAL_TEXT_LIST: {
        const char *only = json_string_value(json_array_get(value, 0));
        return json_array_size(value) == 1 && only != NULL && strcmp(only, "text") == 0;
    }
    case NEUTRAL_TEXT_FORMAT: {
        const char *type = json_string_value(json_object_get(value, "type"));
        return type != NULL && strcmp(type, "text") == 0;
    }
    }
    return false;
}

/* The value of a row that is served, as a client would write it. */
static const char *show_neutral(const struct later *row, char text[FIELD_SHOW_BYTES])
{
    static const char *const values[] = {
        [NEUTRAL_FALSE] = "false",          [NEUTRAL_TRUE] = "true",
        [NEUTRAL_EMPTY] = "an empty value", [NEUTRAL_NONE] = "\"none\"",
        [NEUTRAL_TEXT_LIST] = "[\"text\"]", [NEUTRAL_TEXT_FORMAT] = "{\"type\": \"text\"}",
    };
    if (row->kind != NEUTRAL_INT)
        return values[row->kind];
    (void)snprintf(text, FIELD_SHOW_BYTES, "%" PRId64, row->number);
    return text;
}

static sl_status check_later(const json_t *body, const struct later *rows, size_t n_rows,
                             struct api_error *error)
{
    for (size_t i = 0; i < n_rows; i++) {
        const json_t *value = field_get(body, rows[i].field);
        if (value == NULL || is_neutral(&rows[i], value))
            continue;
        char text[FIELD_SHOW_BYTES], neutral[FIELD_SHOW_BYTES];
        return api_fail(error, 501, "unsupported_parameter", rows[i].field,
                        "`%s` is %s; only %s is served yet", rows[i].field, field_show(value, text),
                        show_neutral(&rows[i], neutral));
    }
    return SL_OK;
}

static sl_status add_stop(struct api_completion *out, const json_t *value, struct api_error *error)
{
    if (!json_is_string(value))
        return field_wrong(error, "stop", value, "a string or a list of strings");
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
    const json_t *value = field_get(body, "stop");
    if (value == NULL)
        return SL_OK;
    /* "" is what some clients send for none. */
    if (json_is_string(value))
        return json_string_length(value) == 0 ? SL_OK : add_stop(out, value, error);
    if (!json_is_array(value))
        return field_wrong(error, "stop", value, "a string or a list of strings");
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
    const json_t *value = field_get(body, "stop_token_ids");
    if (value == NULL)
        return SL_OK;
    if (!json_is_array(value) || json_array_size(value) > API_STOP_IDS_MAX)
        return field_wrong(error, "stop_token_ids", value, "a list of at most 16 token ids");
    sl_status status = field_check_ids(value, "stop_token_ids", error);
    if (status != SL_OK)
        return status;
    size_t i;
    json_t *id;
    json_array_foreach(value, i, id) out->stop_ids[out->n_stop_ids++] = field_id(id);
    return SL_OK;
}

static sl_status read_stream_options(struct api_completion *out, struct api_error *error)
{
    const json_t *options = field_get(out->body, "stream_options");
    if (options == NULL)
        return SL_OK;
    if (!json_is_object(options))
        return field_wrong(error, "stream_options", options, "an object");
    if (!out->stream)
        return api_fail(error, 400, "invalid_value", "stream_options",
                        "`stream_options` is given but `stream` is not true");
    sl_status status = field_bool(options, "include_usage", &out->include_usage, error);
    if (status != SL_OK)
        snprintf(error->param, sizeof(error->param), "stream_options.include_usage");
    return status;
}

/* Chat knows two names for the bound, of which the newer wins; and has none by default. */
static sl_status read_lengths(struct api_completion *out, const struct api_defaults *defaults,
                              struct api_error *error)
{
    int64_t max_tokens = 16, min_tokens = 0;
    if (out->chat)
        max_tokens = defaults->max_tokens > 0 ? defaults->max_tokens : API_TOKENS_MAX;
    /* With an echo there is something to say without any token. */
    sl_status status = field_int(out->body, "max_tokens", out->echo ? 0 : 1, API_TOKENS_MAX,
                                 &max_tokens, &out->has_max_tokens, error);
    if (status == SL_OK && out->chat)
        status = field_int(out->body, "max_completion_tokens", 1, API_TOKENS_MAX, &max_tokens,
                           &out->has_max_tokens, error);
    if (status == SL_OK)
        status = field_int(out->body, "min_tokens", 0, API_TOKENS_MAX, &min_tokens, NULL, error);
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

/* -1 is the model's whole context, as elsewhere. */
static sl_status read_truncation(struct api_completion *out, struct api_error *error)
{
    int64_t n = 0;
    bool found = false;
    sl_status status =
        field_int(out->body, "truncate_prompt_tokens", -1, API_TOKENS_MAX, &n, &found, error);
    if (status == SL_OK && found && n == 0)
        return field_wrong(error, "truncate_prompt_tokens",
                           field_get(out->body, "truncate_prompt_tokens"),
                           "-1 or a number of tokens from 1 on");
    out->truncate_prompt_tokens = n < 0 ? API_TOKENS_MAX : (uint32_t)n;
    return status;
}

static sl_status read_sampling(struct api_completion *out, const struct api_defaults *defaults,
                               struct api_error *error)
{
    const json_t *body = out->body;
    int64_t top_k = defaults->top_k, seed = 0;
    out->temperature = defaults->temperature;
    out->top_p = defaults->top_p;
    out->min_p = defaults->min_p;
    sl_status status =
        field_number(body, "temperature", 0, API_TEMPERATURE_MAX, &out->temperature, error);
    if (status == SL_OK)
        status = field_number(body, "top_p", 0, 1, &out->top_p, error);
    if (status == SL_OK)
        status = field_number(body, "min_p", 0, 1, &out->min_p, error);
    if (status == SL_OK)
        status = field_int(body, "top_k", -1, INT32_MAX, &top_k, NULL, error);
    if (status == SL_OK)
        status = field_int(body, "seed", INT64_MIN, INT64_MAX, &seed, &out->has_seed, error);
    out->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    out->seed = (uint64_t)seed;
    return status;
}

/* Completions: how many of the likeliest. Chat: whether at all, and beside it how many. */
static sl_status read_logprobs(struct api_completion *out, struct api_error *error)
{
    int64_t n = -1;
    bool wanted = false, counted = false;
    out->logprobs = -1;
    if (!out->chat) {
        sl_status status = field_int(out->body, "logprobs", 0, API_LOGPROBS_MAX, &n, NULL, error);
        out->logprobs = (int32_t)n;
        return status;
    }
    sl_status status = field_bool(out->body, "logprobs", &wanted, error);
    if (status == SL_OK)
        status = field_int(out->body, "top_logprobs", 0, API_TOP_LOGPROBS_MAX, &n, &counted, error);
    if (status != SL_OK)
        return status;
    if (counted && n > 0 && !wanted)
        return api_fail(error, 400, "invalid_value", "top_logprobs",
                        "`top_logprobs` is %" PRId64 " but `logprobs` is not true", n);
    if (wanted)
        out->logprobs = counted ? (int32_t)n : 0;
    return SL_OK;
}

/* vLLM's list. Its events have no place for it. */
static sl_status read_prompt_logprobs(struct api_completion *out, struct api_error *error)
{
    int64_t n = -1;
    sl_status status = SL_OK;
    if (!out->chat)
        status = field_int(out->body, "prompt_logprobs", 0, API_TOP_LOGPROBS_MAX, &n, NULL, error);
    if (status == SL_OK && n >= 0 && out->stream)
        return api_fail(error, 400, "invalid_value", "prompt_logprobs",
                        "`prompt_logprobs` is %" PRId64 "; a stream has none", n);
    out->prompt_logprobs = (int32_t)n;
    return status;
}

/* Choices: n of each prompt. best_of, the number to choose them from, is served where that is no choice. */
static sl_status read_choices(struct api_completion *out, struct api_error *error)
{
    int64_t n = 1, best_of = 0;
    sl_status status = field_int(out->body, "n", 1, API_CHOICES_MAX, &n, NULL, error);
    if (status == SL_OK && !out->chat)
        status = field_int(out->body, "best_of", 1, API_CHOICES_MAX, &best_of, NULL, error);
    if (status != SL_OK)
        return status;
    if (best_of != 0 && best_of < n)
        return api_fail(error, 400, "invalid_value", "best_of",
                        "`best_of` is %" PRId64 "; want at least `n`, %" PRId64, best_of, n);
    if (best_of > n)
        return api_fail(error, 501, "unsupported_parameter", "best_of",
                        "`best_of` is %" PRId64 "; only as many as `n`, %" PRId64 ", are served",
                        best_of, n);
    if (n * out->n_prompts > API_CHOICES_MAX)
        return api_fail(error, 400, "invalid_value", "n",
                        "`n` is %" PRId64 " for %u prompts; at most %u choices in one request", n,
                        out->n_prompts, API_CHOICES_MAX);
    out->n = (uint32_t)n;
    return SL_OK;
}

static bool is_id(const char *text)
{
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:");
    return n > 0 && n <= API_REQUEST_ID_BYTES && text[n] == '\0';
}

/* Who asks, and how it is to be treated. */
static sl_status read_handling(struct api_completion *out, struct api_error *error)
{
    const json_t *body = out->body;
    const char *user = NULL;
    int64_t priority = 0;
    sl_status status = field_text(body, "cache_salt", &out->cache_salt, error);
    if (status == SL_OK)
        status = field_text(body, "request_id", &out->request_id, error);
    if (status == SL_OK)
        status = field_text(body, "user", &user, error);
    if (status == SL_OK)
        status = field_int(body, "priority", INT32_MIN, INT32_MAX, &priority, NULL, error);
    if (status != SL_OK)
        return status;
    out->priority = (int32_t)priority;
    if (out->cache_salt != NULL && strlen(out->cache_salt) > API_SALT_BYTES_MAX)
        return api_fail(error, 400, "invalid_value", "cache_salt",
                        "`cache_salt` has %zu bytes; at most %u", strlen(out->cache_salt),
                        API_SALT_BYTES_MAX);
    if (out->request_id != NULL && !is_id(out->request_id))
        return api_fail(error, 400, "invalid_value", "request_id",
                        "`request_id` is a string of %zu bytes; want 1 to %u letters, digits and "
                        "-_.:",
                        strlen(out->request_id), API_REQUEST_ID_BYTES);
    return SL_OK;
}

static sl_status read_switches(struct api_completion *out, struct api_error *error)
{
    const struct {
        const char *field;
        bool *value;
    } switches[] = {
        {"stream", &out->stream},
        {"add_special_tokens", &out->add_special_tokens},
        {"ignore_eos", &out->ignore_eos},
        {"return_token_ids", &out->return_token_ids},
        {"skip_special_tokens", &out->skip_special_tokens},
        {"include_stop_str_in_output", &out->include_stop_str},
        {"echo", &out->echo}, /* the last: a chat has none */
    };
    out->add_special_tokens = !out->chat; /* a chat template has written them */
    out->skip_special_tokens = true;
    for (size_t i = 0; i < ROWS(switches) - out->chat; i++) {
        sl_status status = field_bool(out->body, switches[i].field, switches[i].value, error);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

sl_status params_read(struct api_completion *out, const struct api_defaults *defaults,
                      struct api_error *error)
{
    const json_t *body = out->body;
    sl_status status = field_text(body, "model", &out->model, error);
    if (status == SL_OK)
        status = read_switches(out, error);
    if (status == SL_OK)
        status = read_stream_options(out, error);
    if (status == SL_OK)
        status = read_lengths(out, defaults, error);
    if (status == SL_OK)
        status = read_truncation(out, error);
    if (status == SL_OK)
        status = read_sampling(out, defaults, error);
    if (status == SL_OK)
        status = read_logprobs(out, error);
    if (status == SL_OK)
        status = read_prompt_logprobs(out, error);
    if (status == SL_OK)
        status = read_choices(out, error);
    if (status == SL_OK)
        status = adjust_read(body, defaults, &out->adjust, error);
    if (status == SL_OK)
        status = read_stops(body, out, error);
    if (status == SL_OK)
        status = read_stop_ids(body, out, error);
    if (status == SL_OK)
        status = read_handling(out, error);
    if (status == SL_OK)
        status = check_later(body, shared_later, ROWS(shared_later), error);
    if (status == SL_OK && out->chat)
        status = check_later(body, chat_later, ROWS(chat_later), error);
    if (status == SL_OK && !out->chat)
        status = check_later(body, completion_later, ROWS(completion_later), error);
    return status;
}

static bool is_named(const char *name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static bool is_later(const char *name, const struct later *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i].field, name) == 0)
            return true;
    return false;
}

static bool is_known(const char *name, bool chat)
{
    if (is_named(name, shared_names, ROWS(shared_names)) ||
        is_later(name, shared_later, ROWS(shared_later)))
        return true;
    return chat ? is_named(name, chat_names, ROWS(chat_names)) ||
                      is_later(name, chat_later, ROWS(chat_later))
                : is_named(name, completion_names, ROWS(completion_names)) ||
                      is_later(name, completion_later, ROWS(completion_later));
}

void params_unknown(const struct api_completion *params, void (*found)(void *arg, const char *name),
                    void *arg)
{
    const char *name;
    json_t *value;
    json_object_foreach(params->body, name, value)
    {
        if (!is_known(name, params->chat))
            found(arg, name);
    }
}
