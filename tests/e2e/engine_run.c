/* engine_run: one engine driven directly, as the reference for the end-to-end tests.
 *
 * Reads one JSON request a line, {"prompt": [ids], "max_tokens": n, "temperature", "top_k", "top_p",
 * "min_p", "seed"}, and prints {"tokens": [ids]} for each, in order. No scheduler, no prefix cache, no
 * transfer: prompt in chunks, then one token a step. End tokens do not end a request. */
#include "base/json.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/thread.h"
#include "model/engine.h"

#include <stdio.h>
#include <string.h>

#define LINE_BYTES_MAX (8u << 20)
#define STEP_US_MAX    (60u * 1000000u)

struct config {
    char *model;
    char *backend;
    char *kv_type;
    uint64_t threads;
    uint64_t chunk_tokens;
    uint64_t kv_blocks;
};

#define ROW(option, type_, field, value, text, low, high, words)                                   \
    {                                                                                              \
        .name = (option), .type = (type_), .offset = offsetof(struct config, field),               \
        .value_name = (value), .default_text = (text), .min = (low), .max = (high),                \
        .help = (words)                                                                            \
    }

static const struct sl_option table[] = {
    ROW("model", SL_OPTION_TEXT, model, "DIR", NULL, 0, 0, "model directory"),
    ROW("backend", SL_OPTION_TEXT, backend, "NAME", "cpu", 0, 0, "cpu, ref or fake"),
    ROW("kv-type", SL_OPTION_TEXT, kv_type, "NAME", "bf16", 0, 0, "bf16 or f32"),
    ROW("threads", SL_OPTION_UINT, threads, "N", "1", 1, 64, "compute threads"),
    ROW("chunk-tokens", SL_OPTION_UINT, chunk_tokens, "N", "512", 1, 4096, "tokens of a chunk"),
    ROW("kv-blocks", SL_OPTION_UINT, kv_blocks, "N", "512", 1, 1 << 20, "blocks of the pool"),
};

struct driver {
    struct model_engine *engine;
    struct sl_wake wake;
    const struct config *config;
    /* Of each class: block i of a sequence is block i of the pool, round and round where the pool is
     * smaller than the sequence: its window has passed what is written over. */
    kv_block_id *tables[KV_CLASSES_MAX];
};

static void notify(void *arg)
{
    sl_wake_signal(&((struct driver *)arg)->wake);
}

/* Submits one run and waits until it has retired. */
static sl_status step(struct driver *driver, const struct model_run *run, uint32_t *token_out)
{
    uint64_t ticket;
    const struct model_batch batch = {.runs = run, .n_runs = 1};
    sl_status status = model_engine_submit(driver->engine, &batch, &ticket);
    if (status != SL_OK)
        return status;
    for (;;) {
        struct model_event event;
        if (!model_engine_poll(driver->engine, &event)) {
            if (!sl_wake_wait(&driver->wake, STEP_US_MAX))
                return sl_fail(SL_DEADLINE, "a step took more than %u us", STEP_US_MAX);
            continue;
        }
        if (event.type != MODEL_EVENT_RETIRED)
            continue;
        if (event.status != SL_OK)
            return sl_fail(event.status, "step: %s", event.error);
        if (event.results[0].sampled)
            *token_out = event.results[0].token.id;
        return SL_OK;
    }
}

static sl_status read_sampling(const json_t *request, struct model_sampling *sampling)
{
    double temperature, top_p, min_p;
    uint64_t top_k, seed;
    sl_status status = sl_json_number(request, "request", "temperature", 0, 0, 2, &temperature);
    if (status == SL_OK)
        status = sl_json_number(request, "request", "top_p", 1, 0, 1, &top_p);
    if (status == SL_OK)
        status = sl_json_number(request, "request", "min_p", 0, 0, 1, &min_p);
    if (status == SL_OK)
        status = sl_json_uint(request, "request", "top_k", 0, 0, UINT32_MAX, &top_k);
    if (status == SL_OK)
        status = sl_json_uint(request, "request", "seed", 0, 0, INT64_MAX, &seed);
    if (status != SL_OK)
        return status;
    *sampling = (struct model_sampling){
        .temperature = (float)temperature,
        .top_k = (uint32_t)top_k,
        .top_p = (float)top_p,
        .min_p = (float)min_p,
        .seed = seed,
        .n_logprobs = -1,
    };
    return SL_OK;
}

/* Computes one request; prints its tokens. */
static sl_status run_request(struct driver *driver, const uint32_t *prompt, uint32_t n_prompt,
                             uint32_t max_tokens, const struct model_sampling *sampling)
{
    const struct model_info *info = model_engine_info(driver->engine);
    uint32_t n_blocks = kv_blocks_of(&info->geometry, n_prompt + max_tokens);
    if (n_blocks > driver->config->kv_blocks)
        return sl_fail(SL_INVALID, "request of %u blocks; --kv-blocks is %u", n_blocks,
                       (unsigned)driver->config->kv_blocks);
    struct model_run run = {.n_blocks = n_blocks, .sampling = *sampling};
    for (uint32_t c = 0; c < info->geometry.n_classes; c++)
        run.block_tables[c] = driver->tables[c];
    uint32_t token = 0;
    for (uint32_t done = 0; done < n_prompt; done += run.n_tokens) {
        run.tokens = prompt + done;
        run.first_position = done;
        run.n_tokens = n_prompt - done;
        if (run.n_tokens > driver->config->chunk_tokens)
            run.n_tokens = (uint32_t)driver->config->chunk_tokens;
        run.logits = done + run.n_tokens == n_prompt ? MODEL_LOGITS_LAST : MODEL_LOGITS_NONE;
        sl_status status = step(driver, &run, &token);
        if (status != SL_OK)
            return status;
    }
    printf("{\"tokens\": [%u", token);
    for (uint32_t i = 1; i < max_tokens; i++) {
        uint32_t last = token;
        run.tokens = &last;
        run.n_tokens = 1;
        run.first_position = n_prompt + i - 1;
        sl_status status = step(driver, &run, &token);
        if (status != SL_OK)
            return status;
        printf(", %u", token);
    }
    printf("]}\n");
    return SL_OK;
}

static sl_status run_line(struct driver *driver, const char *line)
{
    json_t *request;
    sl_status status = sl_json_parse("request", line, strlen(line), LINE_BYTES_MAX, &request);
    if (status != SL_OK)
        return status;
    uint32_t *prompt = NULL;
    uint64_t max_tokens;
    struct model_sampling sampling;
    const json_t *ids = json_object_get(request, "prompt");
    size_t n_prompt = json_array_size(ids);
    status = sl_json_uint(request, "request", "max_tokens", 16, 1, 1u << 20, &max_tokens);
    if (status == SL_OK)
        status = read_sampling(request, &sampling);
    if (status == SL_OK && n_prompt == 0)
        status = sl_fail(SL_INVALID, "request: prompt has no ids");
    if (status != SL_OK)
        goto fail;
    prompt = sl_zalloc(n_prompt, sizeof(*prompt));
    for (size_t i = 0; i < n_prompt; i++)
        prompt[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    status = run_request(driver, prompt, (uint32_t)n_prompt, (uint32_t)max_tokens, &sampling);
fail:
    sl_free(prompt);
    json_decref(request);
    return status;
}

static sl_status run_all(const struct config *config)
{
    struct driver driver = {.config = config};
    char *line = NULL;
    sl_status status = sl_wake_init(&driver.wake);
    if (status != SL_OK)
        return status;
    const struct model_engine_args args = {
        .directory = config->model,
        .backend = config->backend,
        .kv_type = config->kv_type,
        .n_threads = (uint32_t)config->threads,
        .n_blocks = (uint32_t)config->kv_blocks,
        .block_tokens = 64,
        .rows_max = (uint32_t)config->chunk_tokens,
        .seqs_max = 1,
        .notify = notify,
        .notify_arg = &driver,
    };
    status = model_engine_open(&args, &driver.engine);
    if (status != SL_OK)
        goto fail;
    const struct model_info *info = model_engine_info(driver.engine);
    for (uint32_t c = 0; c < info->geometry.n_classes; c++) {
        driver.tables[c] = sl_zalloc(config->kv_blocks, sizeof(*driver.tables[c]));
        for (uint32_t i = 0; i < config->kv_blocks; i++)
            driver.tables[c][i] = i % info->n_blocks[c];
    }
    line = sl_zalloc(1, LINE_BYTES_MAX);
    while (status == SL_OK && fgets(line, LINE_BYTES_MAX, stdin) != NULL)
        status = run_line(&driver, line);
fail:
    sl_free(line);
    for (uint32_t c = 0; c < KV_CLASSES_MAX; c++)
        sl_free(driver.tables[c]);
    if (driver.engine != NULL)
        model_engine_close(driver.engine);
    sl_wake_fini(&driver.wake);
    return status;
}

int main(int argc, char **argv)
{
    struct config config = {0};
    const struct sl_option *tables[] = {table, NULL};
    const size_t counts[] = {sizeof(table) / sizeof(table[0])};
    struct sl_options *options = NULL;
    bool done = false;
    const struct sl_options_args args = {
        .program = "engine_run",
        .summary = "Runs requests from standard input through one engine.",
        .tables = tables,
        .table_counts = counts,
        .argc = argc,
        .argv = argv,
        .config = &config,
    };
    sl_status status = sl_options_parse(&args, &options, &done);
    if (status == SL_OK && !done)
        status = run_all(&config);
    if (status != SL_OK)
        fprintf(stderr, "engine_run: %s\n", sl_error());
    sl_options_destroy(options);
    return status == SL_OK ? 0 : 1;
}
