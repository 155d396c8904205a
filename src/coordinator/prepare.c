/* Text threads: parse, check and tokenize before the loop sees a request.
 *
 *   HTTP thread ─► queue (bounded) ─► text thread ─► the loop's inbox
 *                                         └─► errors, /tokenize, /detokenize: answered from here
 *
 * Tokenizing four megabytes takes long enough to stall every open stream, so neither the loop nor an HTTP
 * thread does it. A text thread stops at one token over the context length, and looks at the beginning
 * of a very long text first: a prompt that is far too long costs little more than one that is just
 * too long. */
#include "coordinator/core.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/adjust.h"
#include "coordinator/fields.h"
#include "coordinator/params.h"

#include <stdio.h>
#include <string.h>

#define QUEUE_MAX      1024u
#define THREADS_MAX    16u
#define TOKENIZE_MAX   (1u << 22) /* ids that /tokenize gives */
#define BODY_BYTES_MAX (64u << 20)
#define PROBE_BYTES    8u          /* of text for each token that is allowed */
#define PROMPT_BYTES   (16u << 20) /* that a chat template may make of a body */
#define UNKNOWN_MAX    64u /* names of members that are told once each; further ones are not */
#define UNKNOWN_BYTES  48u

/* Names of members that mean nothing, as they were told in the log. */
struct unknown {
    pthread_mutex_t mutex; /* covers what follows */
    uint32_t n;
    char names[UNKNOWN_MAX][UNKNOWN_BYTES];
};

struct prepare {
    struct coordinator *coordinator;
    pthread_mutex_t mutex; /* covers the queue and stopping */
    pthread_cond_t more;
    struct http_exchange *queue[QUEUE_MAX]; /* ring */
    uint32_t first, n_queued;
    bool stopping;
    struct unknown unknown;
    uint32_t n_threads;
    struct sl_thread threads[THREADS_MAX];
};

void reply_error(struct http_exchange *exchange, const struct api_error *error)
{
    struct sl_buf body;
    sl_buf_init(&body, 8192);
    api_error_body(error, &body);
    http_reply(exchange, error->http_status, HTTP_JSON, body.data, body.bytes,
               error->retry_after_s);
    sl_buf_fini(&body);
}

void reply_refusal(struct coordinator *c, struct http_exchange *exchange,
                   const struct api_error *error)
{
    sl_metric_add(sl_metric_get(c->meters.rejected, error->code), 1);
    reply_error(exchange, error);
}

static void request_destroy(struct request *request)
{
    output_fini(&request->output);
    if (request->echo != NULL)
        output_fini(request->echo);
    sl_free(request->echo);
    text_ids_fini(&request->tokens);
    sl_free(request->hashes);
    sl_free(request);
}

void group_destroy(struct group *group)
{
    if (group == NULL)
        return;
    for (uint32_t i = 0; i < group->n_choices; i++)
        request_destroy(group->choices[i]);
    api_completion_fini(&group->params);
    http_exchange_release(group->exchange);
    sl_free(group);
}

/* Says once for each name that it is ignored: a misspelt field costs somebody an afternoon. */
static void note_unknown(void *arg, const char *member)
{
    struct unknown *unknown = arg;
    char name[UNKNOWN_BYTES];
    bool known = false;
    snprintf(name, sizeof(name), "%s", member);
    for (char *p = name; *p != '\0'; p++)
        if (*p < '!' || *p > '~' || *p == '"')
            *p = '?';
    pthread_mutex_lock(&unknown->mutex);
    for (uint32_t i = 0; i < unknown->n && !known; i++)
        known = strcmp(unknown->names[i], name) == 0;
    bool noted = !known && unknown->n < UNKNOWN_MAX;
    if (noted)
        memcpy(unknown->names[unknown->n++], name, sizeof(name));
    pthread_mutex_unlock(&unknown->mutex);
    if (noted)
        sl_warn("unknown_field", "field=\"%s\" ignored=yes", name);
}

static sl_status check_model(const struct coordinator *c, const char *model,
                             struct api_error *error)
{
    if (model == NULL || strcmp(model, c->model_name) == 0)
        return SL_OK;
    return api_fail_model(error, model, c->model_name);
}

/* Ids as the client gave them. */
static sl_status copy_ids(const struct coordinator *c, const struct api_prompt *prompt,
                          const char *field, struct text_ids *ids, struct api_error *error)
{
    uint32_t vocab = atomic_load(&c->vocab);
    size_t i;
    json_t *value;
    json_array_foreach(prompt->ids, i, value)
    {
        uint32_t id = field_id(value);
        if (id >= vocab)
            return api_fail(error, 400, "invalid_value", field,
                            "`%s[%zu]` is %u; want a token id below %u", field, i, id, vocab);
        sl_status status = text_ids_add(ids, id);
        if (status == SL_EXHAUSTED)
            return api_fail(error, 400, "context_length_exceeded", field,
                            "`%s` has %zu token ids; at most %zu", field,
                            json_array_size(prompt->ids), ids->n_ids_max);
        if (status != SL_OK)
            return api_fail(error, 503, "no_memory", NULL, "no memory for %zu token ids",
                            json_array_size(prompt->ids));
    }
    return SL_OK;
}

/* Whether the beginning of a very long text has too many tokens already. Its last token may be another
 * one in the whole text, hence some more than the limit. */
static bool too_long(const struct coordinator *c, const struct api_prompt *prompt, size_t n_max)
{
    size_t bytes = n_max * PROBE_BYTES;
    if (prompt->text_bytes <= bytes)
        return false;
    while (bytes > 0 && ((unsigned char)prompt->text[bytes] & 0xc0) == 0x80)
        bytes--;
    struct text_ids ids;
    text_ids_init(&ids, n_max + 16);
    sl_status status = text_tokenizer_encode(c->tokenizer, prompt->text, bytes, false, &ids);
    text_ids_fini(&ids);
    return status == SL_EXHAUSTED;
}

/* field: what the text came from, for the sentences. */
static sl_status encode(const struct coordinator *c, const struct api_prompt *prompt,
                        const char *field, bool add_special_tokens, uint32_t len_max,
                        struct text_ids *ids, struct api_error *error)
{
    sl_status status = SL_EXHAUSTED;
    if (!too_long(c, prompt, ids->n_ids_max))
        status = text_tokenizer_encode(c->tokenizer, prompt->text, prompt->text_bytes,
                                       add_special_tokens, ids);
    if (status == SL_EXHAUSTED)
        return api_fail(
            error, 400, "context_length_exceeded", field,
            "`%s` has over %zu tokens; this model's maximum context length is %u tokens", field,
            ids->n_ids_max, len_max);
    if (status == SL_NO_MEMORY)
        return api_fail(error, 503, "no_memory", NULL, "no memory to tokenize");
    if (status != SL_OK)
        return api_fail(error, 400, "invalid_value", field, "`%s`: %s", field, sl_error());
    return SL_OK;
}

/* Keeps the last tokens of a prompt that may be cut. */
static sl_status truncate_prompt(const struct api_completion *params, uint32_t len_max,
                                 struct text_ids *ids, struct api_error *error)
{
    size_t keep = params->truncate_prompt_tokens;
    if (keep == API_TOKENS_MAX) /* as much as leaves room for an answer */
        keep = len_max - 1;
    if (keep >= len_max)
        return api_fail(
            error, 400, "invalid_value", "truncate_prompt_tokens",
            "`truncate_prompt_tokens` is %zu; this model's maximum context length is %u tokens",
            keep, len_max);
    if (ids->n_ids <= keep)
        return SL_OK;
    struct text_ids
        last; /* with no room for what was cut off, which may be a thousand times as much */
    text_ids_init(&last, keep);
    for (size_t i = ids->n_ids - keep; i < ids->n_ids; i++) {
        if (text_ids_add(&last, ids->ids[i]) != SL_OK) {
            text_ids_fini(&last);
            return api_fail(error, 503, "no_memory", NULL, "no memory for %zu token ids", keep);
        }
    }
    text_ids_fini(ids);
    *ids = last;
    return SL_OK;
}

static sl_status read_tokens(const struct coordinator *c, struct request *request,
                             const struct api_prompt *prompt, const char *field,
                             struct api_error *error)
{
    const struct api_completion *params = &request->group->params;
    uint32_t len_max = atomic_load(&c->model_len_max);
    bool cut = params->truncate_prompt_tokens > 0;
    text_ids_init(&request->tokens, cut ? TOKENIZE_MAX : len_max);
    sl_status status = prompt->text != NULL ? encode(c, prompt, field, params->add_special_tokens,
                                                     len_max, &request->tokens, error)
                                            : copy_ids(c, prompt, field, &request->tokens, error);
    if (status == SL_OK && cut)
        status = truncate_prompt(params, len_max, &request->tokens, error);
    if (status == SL_OK && request->tokens.n_ids == 0)
        status = api_fail(error, 400, "invalid_value", field, "`%s` has no tokens; want at least 1",
                          field);
    if (status == SL_OK && request->tokens.n_ids >= len_max)
        status = api_fail(error, 400, "context_length_exceeded", field,
                          "`%s` has %zu tokens; this model's maximum context length is %u tokens",
                          field, request->tokens.n_ids, len_max);
    request->n_prompt = (uint32_t)request->tokens.n_ids;
    return status;
}

/* How long the answer may become, beside this prompt. */
static sl_status fit_length(const struct coordinator *c, struct request *request, const char *field,
                            struct api_error *error)
{
    const struct api_completion *params = &request->group->params;
    uint32_t room = atomic_load(&c->model_len_max) - request->n_prompt;
    if (params->has_max_tokens && params->max_tokens > room)
        return api_fail(error, 400, "context_length_exceeded", "max_tokens",
                        "`max_tokens` is %u and `%s` has %u tokens; this model's maximum context "
                        "length is %u tokens",
                        params->max_tokens, field, request->n_prompt, room + request->n_prompt);
    request->max_tokens = params->max_tokens < room ? params->max_tokens : room;
    if (request->max_tokens == 0)
        request->max_tokens = 1; /* nodes give one, and nobody is told of it */
    if (params->min_tokens > request->max_tokens)
        return api_fail(error, 400, "invalid_value", "min_tokens",
                        "`min_tokens` is %u; at most %u fit the context", params->min_tokens,
                        request->max_tokens);
    return SL_OK;
}

static sl_status check_stop_ids(const struct coordinator *c, const struct api_completion *params,
                                struct api_error *error)
{
    uint32_t vocab = atomic_load(&c->vocab);
    for (uint32_t i = 0; i < params->n_stop_ids; i++)
        if (params->stop_ids[i] >= vocab)
            return api_fail(error, 400, "invalid_value", "stop_token_ids",
                            "`stop_token_ids[%u]` is %u; want a token id below %u", i,
                            params->stop_ids[i], vocab);
    return SL_OK;
}

/* The salt of the prompt's blocks: who does not know it shares none of them. It comes of what the
 * client gave and is never that itself, so that no client reaches the blocks of those who gave none,
 * or another's by a salt that looks like a derived one. */
static void derive_salt(struct group *group)
{
    static const uint8_t label[16] = "sluice-salt-1";
    const char *given = group->params.cache_salt;
    group->has_salt = given != NULL && given[0] != '\0';
    if (group->has_salt)
        group->salt = kv_hash_root(label, given, (uint32_t)strlen(given));
}

/* leader NULL: the new one leads itself. */
static struct request *add_choice(struct group *group, struct request *leader)
{
    struct request *request = sl_zalloc(1, sizeof(*request));
    request->group = group;
    request->leader = leader != NULL ? leader : request;
    group->choices[group->n_choices++] = request;
    return request;
}

/* A further choice has the leader's prompt. */
static sl_status follow(struct request *request, struct api_error *error)
{
    const struct request *leader = request->leader;
    text_ids_init(&request->tokens, leader->tokens.n_ids_max);
    for (uint32_t i = 0; i < leader->n_prompt; i++)
        if (text_ids_add(&request->tokens, leader->tokens.ids[i]) != SL_OK)
            return api_fail(error, 503, "no_memory", NULL, "no memory for %u token ids",
                            leader->n_prompt);
    request->n_prompt = leader->n_prompt;
    request->max_tokens = leader->max_tokens;
    return SL_OK;
}

/* What a choice says, and room for what will be generated. */
static sl_status init_output(struct request *request, const struct output_args *args,
                             struct api_error *error)
{
    struct group *group = request->group;
    if (output_init(&request->output, args) != SL_OK)
        return api_fail(error, 400, "invalid_value", "stop", "`stop`: %s", sl_error());
    if (group->n_choices > 1)
        output_join(&request->output, &group->choices[0]->output, group->n_choices - 1);
    if (request->leader->echo != NULL)
        output_set_echo(&request->output, request->leader->echo, group->params.echo);
    request->output.max_tokens = request->max_tokens;
    request->tokens.n_ids_max = request->n_prompt + request->max_tokens;
    return SL_OK;
}

/* What is said of the prompt: its text, or what the tokens that were cut off it left of that. */
static sl_status init_echo(struct request *leader, const struct api_prompt *prompt,
                           const struct output_args *args, struct api_error *error)
{
    const struct api_completion *params = &leader->group->params;
    bool whole = prompt->text != NULL && params->truncate_prompt_tokens == 0;
    if (!params->echo && params->prompt_logprobs < 0)
        return SL_OK;
    leader->echo = sl_zalloc(1, sizeof(*leader->echo));
    sl_status status = output_init_echo(leader->echo, args, whole ? prompt->text : NULL,
                                        prompt->text_bytes, leader->tokens.ids, leader->n_prompt);
    if (status != SL_OK)
        return api_fail(error, 400, "invalid_value", "echo", "`echo`: %s", sl_error());
    output_push_prompt(leader->echo, leader->tokens.ids[0], NULL);
    return SL_OK;
}

/* All choices of one prompt. */
static sl_status add_prompt(const struct coordinator *c, struct group *group, uint32_t index,
                            const struct output_args *output, struct api_error *error)
{
    char text[API_FIELD_BYTES];
    const char *field = api_prompt_field(&group->params, index, text);
    struct request *leader = add_choice(group, NULL);
    sl_status status = read_tokens(c, leader, &group->params.prompts[index], field, error);
    if (status == SL_OK)
        status = fit_length(c, leader, field, error);
    if (status == SL_OK)
        status = init_echo(leader, &group->params.prompts[index], output, error);
    if (status == SL_OK)
        status = init_output(leader, output, error);
    for (uint32_t i = 1; i < group->params.n && status == SL_OK; i++) {
        struct request *request = add_choice(group, leader);
        status = follow(request, error);
        if (status == SL_OK)
            status = init_output(request, output, error);
    }
    return status;
}

/* The body is not needed any more, and nothing may point into it. */
static void drop_body(struct api_completion *params)
{
    json_decref(params->body);
    params->body = NULL;
    params->model = NULL;
    params->cache_salt = NULL;
    params->request_id = NULL;
    memset(params->prompts, 0, sizeof(params->prompts));
    memset(params->stops, 0, sizeof(params->stops));
}

/* The rest of making a group, once the parameters and the prompts are there. */
static sl_status finish_group(struct coordinator *c, struct group *group,
                              const struct output_args *output, struct api_error *error)
{
    struct api_completion *params = &group->params;
    sl_status status = check_stop_ids(c, params, error);
    if (status == SL_OK)
        status = adjust_prepare(c->tokenizer, atomic_load(&c->vocab), &params->adjust, error);
    for (uint32_t i = 0; i < params->n_prompts && status == SL_OK; i++)
        status = add_prompt(c, group, i, output, error);
    if (status != SL_OK)
        return status;
    derive_salt(group);
    params_unknown(params, note_unknown, &c->prepare->unknown);
    drop_body(params);
    return SL_OK;
}

static sl_status build_completion(struct coordinator *c, const char *body, size_t bytes,
                                  struct group *group, struct api_error *error)
{
    sl_status status = api_parse_completion(body, bytes, &c->defaults, &group->params, error);
    if (status == SL_OK)
        status = check_model(c, group->params.model, error);
    struct output_args output = {
        .tokenizer = c->tokenizer, .completion = &group->params, .model = c->model_name};
    return status == SL_OK ? finish_group(c, group, &output, error) : status;
}

static sl_status build_chat(struct coordinator *c, const char *body, size_t bytes,
                            struct group *group, struct api_error *error)
{
    struct api_chat chat;
    struct sl_buf prompt;
    sl_status status = api_parse_chat(body, bytes, &c->defaults, &chat, error);
    if (status != SL_OK)
        return status;
    sl_buf_init(&prompt, PROMPT_BYTES);
    group->params = chat.params; /* the body with it */
    status = check_model(c, group->params.model, error);
    if (status == SL_OK)
        status = chat_render(&c->chat, &chat.input, &prompt, error);
    if (status == SL_OK) {
        struct output_args output = {.tokenizer = c->tokenizer,
                                     .completion = &group->params,
                                     .model = c->model_name,
                                     .marks = c->chat.marks,
                                     .reasoning_open =
                                         chat_opens_reasoning(&c->chat, &chat.input, &prompt)};
        group->params.prompts[0].text = prompt.data != NULL ? prompt.data : "";
        group->params.prompts[0].text_bytes = prompt.bytes;
        status = finish_group(c, group, &output, error);
    }
    sl_buf_fini(&prompt);
    return status;
}

static sl_status build_group(struct coordinator *c, struct http_exchange *exchange,
                             struct group *group, struct api_error *error)
{
    size_t bytes;
    bool chat = http_exchange_route(exchange) == ROUTE_CHAT;
    const char *body = http_exchange_body(exchange, &bytes);
    sl_status status = api_check_shape(body, bytes, chat, atomic_load(&c->model_len_max), error);
    if (status != SL_OK)
        return status;
    return chat ? build_chat(c, body, bytes, group, error)
                : build_completion(c, body, bytes, group, error);
}

static void prepare_completion(struct coordinator *c, struct http_exchange *exchange)
{
    struct api_error error = {0};
    struct group *group = sl_zalloc(1, sizeof(*group));
    group->exchange = http_exchange_acquire(exchange);
    group->arrival_us = http_exchange_start_us(exchange);
    sl_status status = build_group(c, exchange, group, &error);
    http_exchange_drop_body(exchange);
    if (status != SL_OK) {
        reply_refusal(c, exchange, &error);
        group_destroy(group);
        return;
    }
    group->tokenized_us = sl_now_us();
    struct http_event event = {.kind = HTTP_EVENT_COMPLETION, .group = group};
    if (!inbox_push(&c->http_inbox, &event)) {
        api_fail(&error, 503, "overloaded", NULL, "the server's inbox is full");
        error.retry_after_s = 1;
        reply_refusal(c, exchange, &error);
        group_destroy(group);
    }
}

static void reply_ids(struct coordinator *c, struct http_exchange *exchange,
                      const struct text_ids *ids)
{
    struct sl_buf body;
    sl_buf_init(&body, BODY_BYTES_MAX);
    sl_buf_add_format(&body, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", ids->n_ids,
                      atomic_load(&c->model_len_max));
    for (size_t i = 0; i < ids->n_ids; i++)
        sl_buf_add_format(&body, i > 0 ? ",%u" : "%u", ids->ids[i]);
    sl_buf_add_text(&body, "]}");
    http_reply(exchange, 200, HTTP_JSON, body.data, body.bytes, 0);
    sl_buf_fini(&body);
}

/* The ids of a text, or of what the chat template makes of messages. */
static sl_status tokenize(struct coordinator *c, struct api_tokenize *params, struct text_ids *ids,
                          struct api_error *error)
{
    struct sl_buf prompt;
    const char *field = params->input.messages != NULL ? "messages" : "prompt";
    sl_buf_init(&prompt, PROMPT_BYTES);
    sl_status status = check_model(c, params->model, error);
    if (status == SL_OK && params->input.messages != NULL) {
        status = chat_render(&c->chat, &params->input, &prompt, error);
        params->prompt.text = prompt.data != NULL ? prompt.data : "";
        params->prompt.text_bytes = prompt.bytes;
    }
    if (status == SL_OK)
        status =
            encode(c, &params->prompt, field, params->add_special_tokens, TOKENIZE_MAX, ids, error);
    sl_buf_fini(&prompt);
    return status;
}

static void answer_tokenize(struct coordinator *c, struct http_exchange *exchange)
{
    struct api_tokenize params;
    struct api_error error;
    struct text_ids ids;
    size_t bytes;
    const char *body = http_exchange_body(exchange, &bytes);
    sl_status status = api_check_shape(body, bytes, true, TOKENIZE_MAX, &error);
    if (status == SL_OK)
        status = api_parse_tokenize(body, bytes, &params, &error);
    if (status != SL_OK) {
        reply_refusal(c, exchange, &error);
        return;
    }
    text_ids_init(&ids, TOKENIZE_MAX);
    status = tokenize(c, &params, &ids, &error);
    if (status == SL_OK)
        reply_ids(c, exchange, &ids);
    else
        reply_refusal(c, exchange, &error);
    text_ids_fini(&ids);
    api_tokenize_fini(&params);
}

static void answer_detokenize(struct coordinator *c, struct http_exchange *exchange)
{
    struct api_detokenize params;
    struct api_error error;
    struct text_ids ids;
    size_t bytes;
    const char *body = http_exchange_body(exchange, &bytes);
    sl_status status = api_check_shape(body, bytes, false, TOKENIZE_MAX, &error);
    if (status == SL_OK)
        status = api_parse_detokenize(body, bytes, &params, &error);
    if (status != SL_OK) {
        reply_refusal(c, exchange, &error);
        return;
    }
    text_ids_init(&ids, TOKENIZE_MAX);
    struct sl_buf text, out;
    sl_buf_init(&text, BODY_BYTES_MAX);
    sl_buf_init(&out, BODY_BYTES_MAX);
    status = check_model(c, params.model, &error);
    if (status == SL_OK)
        status = copy_ids(c, &params.prompt, "tokens", &ids, &error);
    if (status == SL_OK) {
        text_tokenizer_decode(c->tokenizer, ids.ids, ids.n_ids, false, &text);
        sl_buf_add_text(&out, "{\"prompt\":");
        sl_buf_add_json_string(&out, text.data != NULL ? text.data : "", text.bytes);
        sl_buf_add_text(&out, "}");
        if (text.failed || out.failed)
            status = api_fail(&error, 400, "invalid_value", "tokens", "`tokens` is too long");
    }
    if (status == SL_OK)
        http_reply(exchange, 200, HTTP_JSON, out.data, out.bytes, 0);
    else
        reply_refusal(c, exchange, &error);
    sl_buf_fini(&text);
    sl_buf_fini(&out);
    text_ids_fini(&ids);
    api_detokenize_fini(&params);
}

static void prepare_one(struct coordinator *c, struct http_exchange *exchange)
{
    if (http_exchange_is_gone(exchange))
        return;
    switch (http_exchange_route(exchange)) {
    case ROUTE_COMPLETIONS:
    case ROUTE_CHAT:
        prepare_completion(c, exchange);
        break;
    case ROUTE_TOKENIZE:
        answer_tokenize(c, exchange);
        break;
    default:
        answer_detokenize(c, exchange);
        break;
    }
}

static void prepare_run(void *arg)
{
    struct prepare *p = arg;
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        while (p->n_queued == 0 && !p->stopping)
            pthread_cond_wait(&p->more, &p->mutex);
        if (p->stopping)
            break;
        struct http_exchange *exchange = p->queue[p->first];
        p->first = (p->first + 1) % QUEUE_MAX;
        p->n_queued--;
        pthread_mutex_unlock(&p->mutex);
        prepare_one(p->coordinator, exchange);
        http_exchange_release(exchange);
        pthread_mutex_lock(&p->mutex);
    }
    pthread_mutex_unlock(&p->mutex);
}

bool prepare_push(struct prepare *p, struct http_exchange *exchange)
{
    pthread_mutex_lock(&p->mutex);
    bool fits = p->n_queued < QUEUE_MAX && !p->stopping;
    if (fits) {
        p->queue[(p->first + p->n_queued++) % QUEUE_MAX] = http_exchange_acquire(exchange);
        pthread_cond_signal(&p->more);
    }
    pthread_mutex_unlock(&p->mutex);
    return fits;
}

sl_status prepare_start(struct coordinator *c, struct prepare **prepare_out)
{
    struct prepare *p = sl_zalloc(1, sizeof(*p));
    p->coordinator = c;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_mutex_init(&p->unknown.mutex, NULL);
    pthread_cond_init(&p->more, NULL);
    uint32_t n = c->config.text_threads;
    n = n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
    for (; p->n_threads < n; p->n_threads++) {
        char name[16];
        snprintf(name, sizeof(name), "text-%u", p->n_threads);
        sl_status status = sl_thread_start(&p->threads[p->n_threads], name, prepare_run, p);
        if (status != SL_OK) {
            prepare_stop(p);
            return status;
        }
    }
    *prepare_out = p;
    return SL_OK;
}

void prepare_stop(struct prepare *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->mutex);
    p->stopping = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->mutex);
    for (uint32_t i = 0; i < p->n_threads; i++)
        sl_thread_join(&p->threads[i]);
    for (; p->n_queued > 0; p->n_queued--) {
        http_exchange_release(p->queue[p->first]);
        p->first = (p->first + 1) % QUEUE_MAX;
    }
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->unknown.mutex);
    pthread_mutex_destroy(&p->mutex);
    sl_free(p);
}
