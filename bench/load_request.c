/* One streaming request to /v1/completions: the prompt, the transfer, the server-sent events.
 *
 * The prompt is drawn when the request starts, from its own seed, so memory goes with concurrency and
 * not with the number of requests. Token ids come from [vocab_min, vocab_max); the first
 * shared_prefix_tokens of them from the run's seed, the same for all. Text prompts are words of a
 * short list, their number set by what /tokenize said of them.
 *
 * Events are cut out of the byte stream as they come and time-stamped once per event, in curl's write
 * callback. An event with several tokens is one gap: it is what a client sees. */
#include "load.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_BYTES_MAX  (32u << 20)
#define EVENT_BYTES_MAX (4u << 20)
#define PAGE_BYTES_MAX  (64u << 20)

uint64_t load_random_next(struct load_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

double load_random_unit(struct load_random *random)
{
    return ((double)(load_random_next(random) >> 11) + 0.5) * 0x1p-53;
}

static bool parse_number(const char *text, char end, double *value_out, const char **rest_out)
{
    char *rest;
    double value = strtod(text, &rest);
    if (rest == text || *rest != end || !isfinite(value) || value <= 0.0)
        return false;
    *value_out = value;
    *rest_out = rest;
    return true;
}

sl_status load_length_parse(const char *option, const char *text, struct load_length *length_out)
{
    struct load_length length = {.kind = LOAD_FIXED};
    static const char lognormal[] = "lognormal:";
    const char *rest = text;
    const char *dots = strstr(text, "..");
    bool fine;
    if (strncmp(text, lognormal, sizeof(lognormal) - 1) == 0) {
        length.kind = LOAD_LOGNORMAL;
        fine = parse_number(text + sizeof(lognormal) - 1, ':', &length.a, &rest) &&
               parse_number(rest + 1, '\0', &length.b, &rest) && length.b <= 5.0;
    } else if (dots != NULL) {
        /* strtod would take "1." of "1..2". */
        length.kind = LOAD_UNIFORM;
        char *end;
        length.a = (double)strtoul(text, &end, 10);
        fine = end == dots && parse_number(dots + 2, '\0', &length.b, &rest) && length.a >= 1.0 &&
               length.b >= length.a;
    } else {
        fine = parse_number(text, '\0', &length.a, &rest) && length.a == floor(length.a);
        length.b = length.a;
    }
    if (!fine || length.a > LOAD_TOKENS_MAX || length.b > LOAD_TOKENS_MAX)
        return sl_fail(SL_INVALID,
                       "--%s \"%s\"; want N, N..M or lognormal:MEDIAN:SIGMA, 1..%u tokens", option,
                       text, LOAD_TOKENS_MAX);
    *length_out = length;
    return SL_OK;
}

uint32_t load_length_draw(const struct load_length *length, struct load_random *random)
{
    double value = length->a;
    if (length->kind == LOAD_UNIFORM) {
        value += floor(load_random_unit(random) * (length->b - length->a + 1.0));
    } else if (length->kind == LOAD_LOGNORMAL) {
        double u = load_random_unit(random), v = load_random_unit(random);
        double normal = sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
        value = round(length->a * exp(length->b * normal));
    }
    if (value < 1.0)
        return 1;
    return value > LOAD_TOKENS_MAX ? LOAD_TOKENS_MAX : (uint32_t)value;
}

/* ---- prompts ---- */

static const char *const words[] = {
    "river",  "stone",   "window", "garden", "letter", "winter", "morning", "copper",
    "bridge", "silence", "market", "engine", "harbor", "forest", "candle",  "mirror",
    "answer", "number",  "butter", "circle", "planet", "button", "shadow",  "summer",
    "travel", "island",  "basket", "school", "dinner", "pocket", "turtle",  "violin"};
#define N_WORDS (sizeof(words) / sizeof(words[0]))

static void add_words(struct sl_buf *out, struct load_random *random, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (out->bytes > 0)
            sl_buf_add_text(out, " ");
        sl_buf_add_text(out, words[load_random_next(random) % N_WORDS]);
    }
}

static uint32_t n_words(const struct load_config *config, uint32_t tokens)
{
    double n = round((double)tokens * config->words_per_token);
    return n < 1.0 ? 1 : (uint32_t)n;
}

static void add_ids(struct sl_buf *out, const struct load_config *config,
                    struct load_random *random, uint32_t n)
{
    uint32_t range = config->vocab_max - config->vocab_min;
    for (uint32_t i = 0; i < n; i++)
        sl_buf_add_format(out, "%s%u",
                          out->data != NULL && out->data[out->bytes - 1] != '[' ? "," : "",
                          config->vocab_min + (uint32_t)(load_random_next(random) % range));
}

static void add_prompt(struct sl_buf *body, const struct load_config *config,
                       const struct load_plan *plan)
{
    uint32_t shared = config->shared_prefix_tokens < plan->prompt_tokens
                          ? config->shared_prefix_tokens
                          : plan->prompt_tokens;
    struct load_random common = {config->seed}, own = {plan->seed};
    if (!config->text) {
        sl_buf_add_text(body, "[");
        add_ids(body, config, &common, shared);
        add_ids(body, config, &own, plan->prompt_tokens - shared);
        sl_buf_add_text(body, "]");
        return;
    }
    struct sl_buf text;
    sl_buf_init(&text, BODY_BYTES_MAX);
    if (shared > 0)
        add_words(&text, &common, n_words(config, shared));
    if (plan->prompt_tokens > shared)
        add_words(&text, &own, n_words(config, plan->prompt_tokens - shared));
    sl_buf_add_json_string(body, text.data, text.bytes);
    sl_buf_fini(&text);
}

static void add_body(struct sl_buf *body, const struct load_config *config,
                     const struct load_plan *plan)
{
    sl_buf_add_text(body, "{");
    if (config->model != NULL && config->model[0] != '\0') {
        sl_buf_add_text(body, "\"model\":");
        sl_buf_add_json_string(body, config->model, strlen(config->model));
        sl_buf_add_text(body, ",");
    }
    sl_buf_add_text(body, "\"prompt\":");
    add_prompt(body, config, plan);
    sl_buf_add_format(body,
                      ",\"max_tokens\":%u,\"min_tokens\":%u,\"ignore_eos\":true,\"temperature\":0,"
                      "\"stream\":true,\"return_token_ids\":true,"
                      "\"stream_options\":{\"include_usage\":true}}",
                      plan->output_tokens, plan->output_tokens);
}

/* ---- the request ---- */

struct load_request {
    const struct load_config *config;
    struct load_samples *gaps;
    CURL *handle;
    struct curl_slist *headers;
    char *url;
    uint32_t wanted;
    struct sl_buf body;
    struct sl_buf input; /* of the event stream, up to the last whole line */
    bool saw_done, saw_usage;
    struct load_result result;
};

static void set_error(struct load_result *result, const char *kind)
{
    if (result->error[0] == '\0')
        snprintf(result->error, sizeof(result->error), "%s", kind);
}

static void set_message(struct load_result *result, const char *text, size_t n)
{
    if (result->message[0] == '\0' && text != NULL)
        snprintf(result->message, sizeof(result->message), "%.*s", (int)n, text);
}

/* The sentence of an error object; of what is none, such as a proxy's page, the first line. */
static void take_message(struct load_result *result, const json_t *page, const struct sl_buf *raw)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(page, "error"), "message"));
    if (text != NULL)
        set_message(result, text, strlen(text));
    else if (raw != NULL && raw->bytes > 0)
        set_message(result, raw->data, strcspn(raw->data, "\r\n"));
}

static void take_tokens(struct load_request *request, uint32_t n, uint64_t now)
{
    struct load_result *result = &request->result;
    if (n == 0)
        return;
    if (result->events == 0)
        result->first_us = now;
    else
        load_samples_add(request->gaps, (double)(now - result->last_us) / 1e6);
    result->last_us = now;
    result->events++;
    result->output_tokens += n;
}

static uint32_t json_u32(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));
    return value < 0 || value > UINT32_MAX ? 0 : (uint32_t)value;
}

static void take_usage(struct load_request *request, const json_t *usage)
{
    request->saw_usage = true;
    request->result.prompt_tokens = json_u32(usage, "prompt_tokens");
    request->result.cached_tokens =
        json_u32(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
}

static void take_event(struct load_request *request, const char *text, size_t n, uint64_t now)
{
    if (n == 6 && memcmp(text, "[DONE]", 6) == 0) {
        request->saw_done = true;
        return;
    }
    /* Not sl_json_parse: generated text may hold U+0000, which is refused in what a client sends. */
    json_t *event = json_loadb(text, n, JSON_ALLOW_NUL, NULL);
    if (event == NULL) {
        set_error(&request->result, "bad_event");
        return;
    }
    if (json_object_get(event, "error") != NULL) {
        set_error(&request->result, "stream_error");
        take_message(&request->result, event, NULL);
    }
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    take_tokens(request, (uint32_t)json_array_size(json_object_get(choice, "token_ids")), now);
    const json_t *usage = json_object_get(event, "usage");
    if (json_is_object(usage))
        take_usage(request, usage);
    json_decref(event);
}

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg)
{
    (void)one;
    struct load_request *request = arg;
    uint64_t now = sl_real_us();
    sl_buf_add(&request->input, bytes, n);
    long http = 0;
    size_t used = 0;
    curl_easy_getinfo(request->handle, CURLINFO_RESPONSE_CODE, &http);
    while (http == 200 && !request->input.failed) {
        char *line = request->input.data + used;
        char *end = memchr(line, '\n', request->input.bytes - used);
        if (end == NULL)
            break;
        size_t length = (size_t)(end - line);
        used += length + 1;
        if (length > 0 && line[length - 1] == '\r')
            length--;
        if (length >= 6 && memcmp(line, "data: ", 6) == 0)
            take_event(request, line + 6, length - 6, now);
    }
    sl_buf_consume(&request->input, used);
    return request->input.failed ? 0 : n;
}

struct load_request *load_request_create(const struct load_config *config,
                                         const struct load_plan *plan, uint64_t start_us,
                                         struct load_samples *gaps)
{
    struct load_request *request = sl_zalloc(1, sizeof(*request));
    request->config = config;
    request->gaps = gaps;
    request->wanted = plan->output_tokens;
    request->result.start_us = start_us;
    sl_buf_init(&request->body, BODY_BYTES_MAX);
    sl_buf_init(&request->input, EVENT_BYTES_MAX);
    add_body(&request->body, config, plan);
    request->url = sl_asprintf("%s/v1/completions", config->url);
    request->headers = curl_slist_append(NULL, "Content-Type: application/json");
    request->headers = curl_slist_append(request->headers, "Expect:");
    CURL *handle = request->handle = curl_easy_init();
    SL_ASSERT(handle != NULL && !request->body.failed);
    curl_easy_setopt(handle, CURLOPT_URL, request->url);
    curl_easy_setopt(handle, CURLOPT_PRIVATE, request);
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, request->headers);
    curl_easy_setopt(handle, CURLOPT_POSTFIELDS, request->body.data);
    curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.bytes);
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, request);
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, (long)(config->timeout_s * 1e3));
    return request;
}

CURL *load_request_handle(struct load_request *request)
{
    return request->handle;
}

static const char *kind_of(CURLcode code)
{
    switch ((int)code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
        return "connect";
    case CURLE_OPERATION_TIMEDOUT:
        return "timeout";
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
        return "reset";
    case CURLE_WRITE_ERROR:
        return "bad_event";
    default:
        return "curl";
    }
}

void load_request_finish(struct load_request *request, CURLcode code, struct load_result *out)
{
    struct load_result *result = &request->result;
    result->end_us = sl_real_us();
    long http = 0;
    curl_easy_getinfo(request->handle, CURLINFO_RESPONSE_CODE, &http);
    char kind[32];
    snprintf(kind, sizeof(kind), "http_%ld", http);
    if (code != CURLE_OK) {
        const char *text = curl_easy_strerror(code);
        set_error(result, kind_of(code));
        set_message(result, text, strlen(text));
    } else if (http != 200) {
        json_t *page = json_loadb(request->input.data, request->input.bytes, JSON_ALLOW_NUL, NULL);
        set_error(result, kind);
        take_message(result, page, &request->input);
        json_decref(page);
    } else if (!request->saw_done) {
        set_error(result, "cut_off");
    } else if (result->output_tokens != request->wanted) {
        set_error(result, "token_count");
    } else if (!request->saw_usage) {
        set_error(result, "no_usage");
    }
    result->ok = result->error[0] == '\0';
    *out = *result;
}

void load_request_destroy(struct load_request *request)
{
    if (request == NULL)
        return;
    curl_easy_cleanup(request->handle);
    curl_slist_free_all(request->headers);
    sl_buf_fini(&request->body);
    sl_buf_fini(&request->input);
    sl_free(request->url);
    sl_free(request);
}

/* ---- small pages ---- */

static size_t on_page(char *bytes, size_t one, size_t n, void *arg)
{
    (void)one;
    struct sl_buf *out = arg;
    sl_buf_add(out, bytes, n);
    return out->failed ? 0 : n;
}

sl_status load_fetch(const char *base, const char *path, const char *body, struct sl_buf *out)
{
    CURL *handle = curl_easy_init();
    SL_ASSERT(handle != NULL);
    char *url = sl_asprintf("%s%s", base, path);
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    sl_buf_init(out, PAGE_BYTES_MAX);
    curl_easy_setopt(handle, CURLOPT_URL, url);
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, 30000L);
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, on_page);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, out);
    if (body != NULL) {
        curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(handle, CURLOPT_POSTFIELDS, body);
    }
    CURLcode code = curl_easy_perform(handle);
    long http = 0;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &http);
    sl_status status = SL_OK;
    if (code != CURLE_OK)
        status = sl_fail(SL_PEER, "%s: %s", url, curl_easy_strerror(code));
    else if (http != 200)
        status =
            sl_fail(SL_PEER, "%s: HTTP %ld %.200s", url, http, out->data == NULL ? "" : out->data);
    if (status != SL_OK)
        sl_buf_fini(out);
    curl_slist_free_all(headers);
    curl_easy_cleanup(handle);
    sl_free(url);
    return status;
}

sl_status load_calibrate_words(struct load_config *config)
{
    enum { SAMPLE = 1000 };
    struct load_random random = {config->seed ^ 0x77};
    struct sl_buf text, body, page;
    sl_buf_init(&text, BODY_BYTES_MAX);
    sl_buf_init(&body, BODY_BYTES_MAX);
    add_words(&text, &random, SAMPLE);
    sl_buf_add_text(&body, "{\"add_special_tokens\":false,\"prompt\":");
    sl_buf_add_json_string(&body, text.data, text.bytes);
    sl_buf_add_text(&body, "}");
    sl_status status = load_fetch(config->url, "/tokenize", body.data, &page);
    sl_buf_fini(&text);
    sl_buf_fini(&body);
    if (status != SL_OK)
        return status;
    json_t *reply = NULL;
    status = sl_json_parse("/tokenize", page.data, page.bytes, PAGE_BYTES_MAX, &reply);
    sl_buf_fini(&page);
    if (status != SL_OK)
        return status;
    uint32_t count = json_u32(reply, "count");
    json_decref(reply);
    if (count == 0)
        return sl_fail(SL_PEER, "/tokenize of %s gave no count", config->url);
    config->words_per_token = (double)SAMPLE / (double)count;
    return SL_OK;
}
