/* sluice-bench: load on an OpenAI-compatible endpoint, and what it felt like.
 *
 * In C with libcurl's multi interface and one thread, since it runs beside the processes that it
 * measures, on machines with few cores: an event costs it about 10 µs, where an asyncio client costs
 * 100 and would show its own queue as inter-token latency.
 *
 * Closed loop (--concurrency): a request starts when another ends. Open loop (--rate): requests are
 * due at Poisson arrivals drawn from the seed before the run, and their latency counts from when
 * they were due, so that a slow server cannot slow its own measurement down. With both, --concurrency
 * caps the open loop; what waits for a slot is waiting in the user's eyes too.
 *
 * Every request asks for exactly its output tokens (ignore_eos, min_tokens = max_tokens); one that
 * returns another number has failed. */
#include "load.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define CONCURRENCY_OPEN 4096u /* of an open loop without --concurrency */
#define POLL_MS_MAX      100

struct config {
    char *url, *model, *prompt_tokens, *output_tokens, *json;
    uint64_t requests, concurrency, seed, shared_prefix_tokens, warmup, vocab_min, vocab_max;
    double rate, slo_ttft_ms, slo_itl_ms, timeout_s, settle_s;
    bool text, token_ids;
};

#define ROW(option, kind, member, value, text, lo, hi, about)                                      \
    {                                                                                              \
        .name = (option), .type = (kind), .offset = offsetof(struct config, member),               \
        .value_name = (value), .default_text = (text), .min = (lo), .max = (hi), .help = (about),  \
        .group = "Load"                                                                            \
    }

static const struct sl_option options[] = {
    ROW("url", SL_OPTION_TEXT, url, "URL", "http://127.0.0.1:8000", 0, 0,
        "the endpoint, with or without /v1"),
    ROW("model", SL_OPTION_TEXT, model, "NAME", NULL, 0, 0, "model to ask for; left out if empty"),
    ROW("requests", SL_OPTION_UINT, requests, "N", "64", 1, LOAD_REQUESTS_MAX,
        "requests that count"),
    ROW("warmup", SL_OPTION_UINT, warmup, "N", "0", 0, LOAD_REQUESTS_MAX,
        "requests before them, one after the other, that do not"),
    ROW("concurrency", SL_OPTION_UINT, concurrency, "N", "0", 0, LOAD_CONCURRENCY_MAX,
        "requests at once; 0: 8, or no cap with --rate"),
    ROW("rate", SL_OPTION_NUMBER, rate, "R", "0", 0, 1e6,
        "requests a second, Poisson arrivals; 0: closed loop"),
    ROW("prompt-tokens", SL_OPTION_TEXT, prompt_tokens, "LENGTH", "512", 0, 0,
        "N, N..M or lognormal:MEDIAN:SIGMA"),
    ROW("output-tokens", SL_OPTION_TEXT, output_tokens, "LENGTH", "128", 0, 0, "as prompt-tokens"),
    ROW("shared-prefix-tokens", SL_OPTION_UINT, shared_prefix_tokens, "N", "0", 0, LOAD_TOKENS_MAX,
        "first tokens of every prompt that are the same"),
    ROW("token-ids", SL_OPTION_BOOL, token_ids, NULL, NULL, 0, 0,
        "prompts as token ids (what happens without --text too)"),
    ROW("text", SL_OPTION_BOOL, text, NULL, NULL, 0, 0,
        "prompts as text, of about the length; usage counts the real one"),
    ROW("vocab-min", SL_OPTION_UINT, vocab_min, "ID", "0", 0, 1 << 24, "lowest id drawn"),
    ROW("vocab", SL_OPTION_UINT, vocab_max, "ID", "256", 1, 1 << 24, "ids are drawn below this"),
    ROW("seed", SL_OPTION_UINT, seed, "N", "1", 0, 1e15, "of prompts, lengths and arrivals"),
    ROW("slo-ttft-ms", SL_OPTION_NUMBER, slo_ttft_ms, "MS", "0", 0, 1e9,
        "bound of the time to first token for goodput; 0: none"),
    ROW("slo-itl-ms", SL_OPTION_NUMBER, slo_itl_ms, "MS", "0", 0, 1e9,
        "bound of a request's mean inter-token latency for goodput; 0: none"),
    ROW("timeout", SL_OPTION_NUMBER, timeout_s, "S", "600", 0.1, 1e6, "longest time of a request"),
    ROW("settle", SL_OPTION_NUMBER, settle_s, "S", "1.5", 0, 60,
        "wait before the second scrape of /metrics: nodes report each second"),
    ROW("json", SL_OPTION_TEXT, json, "FILE", NULL, 0, 0, "write the figures there too"),
};

struct run {
    struct config config;
    struct load_config load;
    struct load_length prompt, output;
    struct load_random random;
    struct load_plan *plans;
    uint32_t n_plans;
    struct load_totals totals;
    CURLM *multi;
    uint32_t in_flight;
};

static void draw_plans(struct run *run)
{
    uint32_t n = (uint32_t)(run->config.requests + run->config.warmup);
    run->plans = sl_zalloc(n, sizeof(*run->plans));
    run->n_plans = n;
    double due = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        run->plans[i].prompt_tokens = load_length_draw(&run->prompt, &run->random);
        run->plans[i].output_tokens = load_length_draw(&run->output, &run->random);
        run->plans[i].seed = load_random_next(&run->random);
        if (run->config.rate > 0.0 && i > run->config.warmup)
            due += -log(load_random_unit(&run->random)) / run->config.rate;
        run->plans[i].due_s = due;
    }
}

static void start_request(struct run *run, const struct load_plan *plan, uint64_t start_us)
{
    struct load_request *request =
        load_request_create(&run->load, plan, start_us, &run->totals.itl);
    CURLMcode code = curl_multi_add_handle(run->multi, load_request_handle(request));
    SL_ASSERT(code == CURLM_OK);
    run->in_flight++;
}

/* Takes what has ended; counts it unless `warmup`. */
static void reap(struct run *run, bool warmup)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(run->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE)
            continue;
        CURL *handle = message->easy_handle;
        CURLcode code = message->data.result;
        void *private_data = NULL;
        curl_easy_getinfo(handle, CURLINFO_PRIVATE, &private_data);
        struct load_request *request = private_data;
        struct load_result result;
        load_request_finish(request, code, &result);
        curl_multi_remove_handle(run->multi, handle);
        load_request_destroy(request);
        run->in_flight--;
        if (!warmup)
            load_totals_add(&run->totals, &result);
        else if (!result.ok)
            fprintf(stderr, "sluice-bench: warm-up request failed: %s\n", result.error);
    }
}

static void step(struct run *run, uint64_t wait_us, bool warmup)
{
    int running;
    CURLMcode code = curl_multi_perform(run->multi, &running);
    SL_ASSERT(code == CURLM_OK);
    reap(run, warmup);
    int wait_ms = wait_us / SL_MS_US > POLL_MS_MAX ? POLL_MS_MAX : (int)(wait_us / SL_MS_US);
    if (run->in_flight > 0 || wait_ms > 0)
        curl_multi_poll(run->multi, NULL, 0, wait_ms, NULL);
}

static void warm_up(struct run *run)
{
    for (uint32_t i = 0; i < run->config.warmup; i++) {
        start_request(run, &run->plans[i], sl_real_us());
        while (run->in_flight > 0)
            step(run, POLL_MS_MAX * SL_MS_US, true);
    }
    load_samples_fini(&run->totals.itl);
}

static uint32_t concurrency_of(const struct config *config)
{
    if (config->concurrency > 0)
        return (uint32_t)config->concurrency;
    return config->rate > 0.0 ? CONCURRENCY_OPEN : 8u;
}

static void drive(struct run *run)
{
    bool open_loop = run->config.rate > 0.0;
    uint32_t cap = concurrency_of(&run->config);
    uint32_t next = (uint32_t)run->config.warmup;
    uint64_t origin = sl_real_us();
    while (next < run->n_plans || run->in_flight > 0) {
        uint64_t now = sl_real_us();
        uint64_t wait_us = POLL_MS_MAX * SL_MS_US;
        while (next < run->n_plans && run->in_flight < cap) {
            uint64_t due = origin + (uint64_t)(run->plans[next].due_s * 1e6);
            if (open_loop && due > now) {
                wait_us = due - now;
                break;
            }
            start_request(run, &run->plans[next], open_loop ? due : sl_real_us());
            next++;
            wait_us = 0;
        }
        step(run, wait_us, false);
    }
    run->totals.seconds = (double)(sl_real_us() - origin) / 1e6;
}

static sl_status write_json(const char *path, const json_t *report)
{
    if (path == NULL || path[0] == '\0')
        return SL_OK;
    if (json_dump_file(report, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0)
        return sl_fail(SL_DEVICE, "cannot write %s", path);
    return SL_OK;
}

static void add_settings(json_t *report, const struct run *run)
{
    const struct config *config = &run->config;
    json_t *settings = json_object();
    json_object_set_new(settings, "url", json_string(config->url));
    json_object_set_new(settings, "requests", json_integer((json_int_t)config->requests));
    json_object_set_new(settings, "concurrency", json_integer(concurrency_of(config)));
    json_object_set_new(settings, "rate", json_real(config->rate));
    json_object_set_new(settings, "prompt_tokens", json_string(config->prompt_tokens));
    json_object_set_new(settings, "output_tokens", json_string(config->output_tokens));
    json_object_set_new(settings, "shared_prefix_tokens",
                        json_integer((json_int_t)config->shared_prefix_tokens));
    json_object_set_new(settings, "text", json_boolean(config->text));
    json_object_set_new(settings, "seed", json_integer((json_int_t)config->seed));
    json_object_set_new(report, "settings", settings);
}

static sl_status measure(struct run *run)
{
    struct sl_buf before, after;
    sl_buf_init(&before, 0);
    sl_buf_init(&after, 0);
    warm_up(run);
    if (run->config.warmup > 0)
        sl_sleep_us((uint64_t)(run->config.settle_s * 1e6));
    bool scraped = load_fetch(run->config.url, "/metrics", NULL, &before) == SL_OK;
    drive(run);
    sl_sleep_us((uint64_t)(run->config.settle_s * 1e6));
    scraped = scraped && load_fetch(run->config.url, "/metrics", NULL, &after) == SL_OK;
    json_t *report =
        load_report(&run->totals, scraped ? before.data : NULL, scraped ? after.data : NULL);
    add_settings(report, run);
    load_report_print(report);
    sl_status status = write_json(run->config.json, report);
    json_decref(report);
    sl_buf_fini(&before);
    sl_buf_fini(&after);
    return status;
}

/* Before the load, not after an hour of it. */
static sl_status check_json(const char *path)
{
    if (path == NULL || path[0] == '\0')
        return SL_OK;
    FILE *file = fopen(path, "ae");
    if (file == NULL)
        return sl_fail(SL_INVALID, "--json %s: %s", path, strerror(errno));
    fclose(file);
    return SL_OK;
}

static sl_status prepare(struct run *run)
{
    struct config *config = &run->config;
    size_t n = strlen(config->url);
    while (n > 0 && config->url[n - 1] == '/')
        config->url[--n] = '\0';
    if (n >= 3 && strcmp(config->url + n - 3, "/v1") == 0)
        config->url[n - 3] = '\0';
    if (config->text && config->token_ids)
        return sl_fail(SL_INVALID, "--text and --token-ids exclude each other");
    if (config->vocab_min >= config->vocab_max)
        return sl_fail(SL_INVALID, "--vocab-min %" PRIu64 "; want below --vocab %" PRIu64,
                       config->vocab_min, config->vocab_max);
    sl_status status = load_length_parse("prompt-tokens", config->prompt_tokens, &run->prompt);
    if (status == SL_OK)
        status = load_length_parse("output-tokens", config->output_tokens, &run->output);
    if (status == SL_OK)
        status = check_json(config->json);
    if (status != SL_OK)
        return status;
    run->random.state = config->seed;
    run->load = (struct load_config){.url = config->url,
                                     .model = config->model,
                                     .text = config->text,
                                     .vocab_min = (uint32_t)config->vocab_min,
                                     .vocab_max = (uint32_t)config->vocab_max,
                                     .shared_prefix_tokens = (uint32_t)config->shared_prefix_tokens,
                                     .seed = config->seed,
                                     .timeout_s = config->timeout_s};
    run->totals.slo_ttft_s = config->slo_ttft_ms / 1e3;
    run->totals.slo_itl_s = config->slo_itl_ms / 1e3;
    draw_plans(run);
    run->multi = curl_multi_init();
    curl_multi_setopt(run->multi, CURLMOPT_MAXCONNECTS, (long)concurrency_of(config));
    return config->text ? load_calibrate_words(&run->load) : SL_OK;
}

int main(int argc, char **argv)
{
    struct run run = {.n_plans = 0};
    const struct sl_option *tables[] = {options, NULL};
    const size_t counts[] = {sizeof(options) / sizeof(options[0])};
    struct sl_options_args args = {.program = "sluice-bench",
                                   .summary = "Load on an endpoint, and its latencies.",
                                   .tables = tables,
                                   .table_counts = counts,
                                   .argc = argc,
                                   .argv = argv,
                                   .config = &run.config};
    struct sl_options *parsed = NULL;
    bool done = false;
    sl_status status = sl_options_parse(&args, &parsed, &done);
    if (status == SL_OK && !done) {
        curl_global_init(CURL_GLOBAL_DEFAULT);
        status = prepare(&run);
        if (status == SL_OK)
            status = measure(&run);
        curl_multi_cleanup(run.multi);
        curl_global_cleanup();
    }
    if (status != SL_OK)
        fprintf(stderr, "sluice-bench: %s\n", sl_error());
    bool failed = run.totals.n_failed > 0;
    load_totals_fini(&run.totals);
    sl_free(run.plans);
    sl_options_destroy(parsed);
    if (status == SL_INVALID || status == SL_NOT_FOUND)
        return 2;
    return status != SL_OK || failed ? 1 : 0;
}
