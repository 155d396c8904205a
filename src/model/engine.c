/* The engine's outside: opening, submitting, polling.
 *
 *   scheduler thread                               compute thread (step.c)
 *   submit: check, copy into ticket ──submitted──► takes it, runs it
 *   poll: ring of events          ◄──events─────── LAYERS_READY …, RETIRED
 *
 * A ticket belongs to the scheduler thread until `submitted` counts it, then to the compute thread
 * until its RETIRED has been polled. Tickets retire in order, so ticket n lies in slot
 * (n - 1) % MODEL_TICKETS_MAX and submit only compares two counts. Results are copied out by poll, so
 * that a ticket's slot is free for the next submit at once.
 *
 * Everything is sized and allocated by open, with one exception: the host copy of logits ALL, which only
 * tests and prompt logprobs ask for, is allocated by the submit that needs it. */
#include "model/engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/min.h"
#include "model/digest.h"
#include "model/engine_state.h"
#include "model/family.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

_Static_assert(MODEL_ROWS_MAX <= KERNEL_ROWS_MAX, "rows of a batch are rows of the kernels");

/* ---- open ---- */

static sl_status check_args(const struct model_engine_args *args)
{
    if (args->rows_max == 0 || args->rows_max > MODEL_ROWS_MAX)
        return sl_fail(SL_INVALID, "engine: rows_max %u; want 1..%u", args->rows_max,
                       MODEL_ROWS_MAX);
    if (args->seqs_max == 0 || args->seqs_max > MODEL_SEQS_MAX)
        return sl_fail(SL_INVALID, "engine: seqs_max %u; want 1..%u", args->seqs_max,
                       MODEL_SEQS_MAX);
    if (args->n_blocks == 0 || args->n_blocks >= KV_BLOCK_NONE)
        return sl_fail(SL_INVALID, "engine: n_blocks %u; want at least 1", args->n_blocks);
    return SL_OK;
}

static sl_status find_element(const char *kv_type, uint32_t *element_out)
{
    if (strcmp(kv_type, "bf16") == 0)
        *element_out = KV_BF16;
    else if (strcmp(kv_type, "f32") == 0)
        *element_out = KV_F32;
    else
        return sl_fail(SL_INVALID, "engine: KV type '%s'; want bf16 or f32", kv_type);
    return SL_OK;
}

/* ref runs on two devices: on the host, and, under the name "fake", on the fake one. */
static sl_status open_backend(struct model_engine *engine, const struct model_engine_args *args)
{
    const struct model_config *config = &engine->config;
    const struct kernel_shape shape = {
        .hidden = config->hidden,
        .n_q_heads = config->n_heads,
        .n_kv_heads = config->n_kv_heads,
        .head_dim = config->head_dim,
        .mlp_hidden = config->mlp_hidden,
        .vocab = config->vocab,
        .rows_max = engine->rows_max,
        .seqs_max = engine->seqs_max,
        .logits_max = engine->logits_max,
        .n_experts = config->n_experts,
        .n_chosen = config->n_chosen,
        .expert_hidden = config->expert_hidden,
    };
    enum device_kind kind = DEVICE_HOST;
    const char *kernels = args->backend;
    if (strcmp(args->backend, "fake") == 0) {
        kind = DEVICE_FAKE;
        kernels = "ref";
    } else if (strcmp(args->backend, "cuda") == 0) {
        kind = DEVICE_CUDA;
    }
    sl_status status = kernel_ops_find(kernels, &engine->ops);
    if (status == SL_OK)
        status = device_create(kind, 0, args->seed, &engine->device);
    if (status == SL_OK)
        status = engine->ops->open(engine->device, &shape,
                                   args->n_threads == 0 ? sl_cpu_count() : args->n_threads,
                                   &engine->context);
    return status;
}

/* Weights and what is known only from them: digest, identity. */
static sl_status load_weights(struct model_engine *engine, const struct model_engine_args *args)
{
    struct model_tensors *tensors = NULL;
    uint8_t weights[MODEL_SHA256_BYTES];
    sl_status status = model_tensors_open(args->directory, &tensors);
    if (status != SL_OK)
        return status;
    struct model_loader loader = {
        .config = &engine->config,
        .tensors = tensors,
        .ops = engine->ops,
        .context = engine->context,
        .progress = args->progress,
        .progress_arg = args->progress_arg,
    };
    status = model_digest(tensors, args->directory, args->digest_cache, weights);
    if (status == SL_OK)
        status = model_weights_load(&loader, &engine->weights);
    model_tensors_close(tensors);
    if (status != SL_OK)
        return status;

    struct {
        uint8_t weights[MODEL_SHA256_BYTES], config[MODEL_SHA256_BYTES];
        uint32_t element, block_tokens;
    } parts = {.element = engine->info.geometry.classes[0].element,
               .block_tokens = engine->info.geometry.block_tokens};
    uint8_t identity[MODEL_SHA256_BYTES];
    memcpy(parts.weights, weights, sizeof(weights));
    model_config_digest(&engine->config, parts.config);
    model_sha256(&parts, sizeof(parts), identity);
    memcpy(engine->info.identity, identity, sizeof(engine->info.identity));
    return SL_OK;
}

static sl_status set_info(struct model_engine *engine, const struct model_engine_args *args)
{
    const struct model_config *config = &engine->config;
    struct model_info *info = &engine->info;
    uint32_t element = KV_BF16;
    sl_status status = find_element(args->kv_type, &element);
    if (status != SL_OK)
        return status;
    snprintf(info->family, sizeof(info->family), "%s", config->family->name);
    info->vocab = config->vocab;
    info->context_max = config->context_max;
    info->n_layers = config->n_layers;
    info->layers_per_group =
        args->layers_per_group == 0 ? (config->n_layers + 3) / 4 : args->layers_per_group;
    if (info->layers_per_group > info->n_layers)
        info->layers_per_group = info->n_layers;
    info->n_eos_ids = config->n_eos_ids;
    memcpy(info->eos_ids, config->eos_ids, sizeof(config->eos_ids));
    status = model_classes_make(config, args->block_tokens, element, &engine->classes);
    if (status != SL_OK)
        return status;
    info->geometry = engine->classes.geometry;
    memcpy(info->class_of_layer, engine->classes.class_of, sizeof(info->class_of_layer));
    model_classes_blocks(&engine->classes, args->n_blocks, args->seqs_max, args->rows_max,
                         info->n_blocks);
    return SL_OK;
}

static sl_status create_pools(struct model_engine *engine)
{
    for (uint32_t i = 0; i < engine->info.geometry.n_classes; i++) {
        uint32_t n_blocks = engine->info.n_blocks[i];
        size_t bytes, block_bytes = kv_block_bytes(&engine->info.geometry, i);
        if (__builtin_mul_overflow(block_bytes, (size_t)n_blocks, &bytes))
            return sl_fail(SL_INVALID, "engine: %u KV blocks of %zu bytes", n_blocks, block_bytes);
        sl_status status = device_alloc(engine->device, bytes, &engine->pools[i]);
        if (status == SL_NO_MEMORY)
            return sl_fail(SL_NO_MEMORY,
                           "engine: no memory for %u KV blocks of %zu bytes (%zu in all)", n_blocks,
                           block_bytes, bytes);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

static sl_status create_ticket(const struct model_engine *engine, struct engine_ticket *ticket)
{
    size_t rows = engine->rows_max, seqs = engine->seqs_max;
    ticket->tokens = sl_try_zalloc(rows, sizeof(*ticket->tokens));
    ticket->positions = sl_try_zalloc(rows, sizeof(*ticket->positions));
    ticket->seqs = sl_try_zalloc(seqs, sizeof(*ticket->seqs));
    ticket->runs = sl_try_zalloc(seqs, sizeof(*ticket->runs));
    ticket->tables = sl_try_zalloc(seqs * engine->info.geometry.n_classes * engine->table_max,
                                   sizeof(*ticket->tables));
    ticket->logit_rows = sl_try_zalloc(seqs + rows, sizeof(*ticket->logit_rows));
    ticket->logit_runs = sl_try_zalloc(seqs, sizeof(*ticket->logit_runs));
    ticket->results = sl_try_zalloc(seqs, sizeof(*ticket->results));
    ticket->scored = sl_try_zalloc(rows, sizeof(*ticket->scored));
    ticket->scores = sl_try_zalloc(rows, sizeof(*ticket->scores));
    if (ticket->tokens == NULL || ticket->positions == NULL || ticket->seqs == NULL ||
        ticket->runs == NULL || ticket->tables == NULL || ticket->logit_rows == NULL ||
        ticket->logit_runs == NULL || ticket->results == NULL || ticket->scored == NULL ||
        ticket->scores == NULL)
        return sl_fail(SL_NO_MEMORY, "engine: batches of %zu rows and %zu sequences", rows, seqs);
    return SL_OK;
}

static void destroy_ticket(struct engine_ticket *ticket)
{
    void *all[] = {ticket->tokens,     ticket->positions,  ticket->seqs,       ticket->runs,
                   ticket->tables,     ticket->logit_rows, ticket->logit_runs, ticket->results,
                   ticket->all_logits, ticket->scored,     ticket->scores};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        sl_free(all[i]);
}

static sl_status create_host_buffers(struct model_engine *engine)
{
    size_t vocab = engine->info.vocab;
    if (device_kind(engine->device) != DEVICE_HOST) {
        engine->host_logits = sl_try_zalloc(engine->logits_max * vocab, sizeof(float));
        if (engine->host_logits == NULL)
            return sl_fail(SL_NO_MEMORY, "engine: %u rows of %zu logits", engine->logits_max,
                           vocab);
    }
    engine->slot_used = sl_zalloc(engine->seqs_max, sizeof(bool));
    engine->results = sl_zalloc(engine->seqs_max, sizeof(*engine->results));
    engine->last_tokens = sl_zalloc(engine->seqs_max, sizeof(uint32_t));
    for (uint32_t i = 0; i < engine->seqs_max; i++)
        engine->last_tokens[i] = MODEL_TOKEN_PREVIOUS;
    for (uint32_t i = 0; i < MODEL_TICKETS_MAX; i++) {
        sl_status status = create_ticket(engine, &engine->tickets[i]);
        if (status != SL_OK)
            return status;
    }
    return model_sampler_create(engine->info.vocab, &engine->sampler);
}

static sl_status create_device_side(struct model_engine *engine)
{
    size_t bytes = (size_t)engine->logits_max * engine->info.vocab * sizeof(float);
    sl_status status = device_alloc(engine->device, bytes, &engine->logits);
    if (status == SL_OK)
        status = engine->ops->acts_create(engine->context, &engine->acts);
    if (status == SL_OK)
        status = device_stream_create(engine->device, "compute", &engine->stream);
    engine->n_groups =
        (engine->info.n_layers + engine->info.layers_per_group - 1) / engine->info.layers_per_group;
    engine->group_ready = sl_zalloc(engine->n_groups, sizeof(struct device_event *));
    for (uint32_t i = 0; i < engine->n_groups && status == SL_OK; i++)
        status = device_event_create(engine->device, &engine->group_ready[i]);
    engine->forward = (struct model_forward){
        .config = &engine->config,
        .weights = &engine->weights,
        .ops = engine->ops,
        .acts = engine->acts,
        .stream = engine->stream,
        .classes = &engine->classes,
        .pools = engine->pools,
    };
    for (uint32_t i = 0; i < engine->config.n_ropes; i++) {
        model_config_inv_freq(&engine->config, i, engine->inv_freq[i]);
        engine->forward.inv_freq[i] = engine->inv_freq[i];
    }
    return status;
}

static sl_status start(struct model_engine *engine)
{
    sl_status status = sl_ring_create(MODEL_TICKETS_MAX * (engine->n_groups + 1),
                                      sizeof(struct engine_event), &engine->events);
    if (status == SL_OK)
        status = sl_wake_init(&engine->wake);
    if (status != SL_OK)
        return status;
    engine->wake_made = true;
    return sl_thread_start(&engine->thread, "compute", engine_compute, engine);
}

static sl_status open_engine(struct model_engine *engine, const struct model_engine_args *args)
{
    sl_status status = check_args(args);
    if (status == SL_OK)
        status = model_config_load(args->directory, &engine->config);
    if (status == SL_OK && args->context_max > 0)
        status = model_config_limit(&engine->config, args->context_max);
    if (status == SL_OK)
        status = set_info(engine, args);
    if (status != SL_OK)
        return status;
    engine->rows_max = args->rows_max;
    engine->seqs_max = args->seqs_max;
    engine->table_max = kv_blocks_of(&engine->info.geometry, engine->info.context_max);
    if (engine->info.geometry.classes[0].window == 0) /* all blocks of a sequence are in the pool */
        engine->table_max = sl_min_u32(engine->table_max, args->n_blocks);
    engine->logits_max = sl_min_u32(ENGINE_LOGITS_MAX, args->rows_max);
    engine->notify = args->notify;
    engine->notify_arg = args->notify_arg;

    status = open_backend(engine, args);
    if (status == SL_OK)
        status = create_pools(engine);
    if (status == SL_OK)
        status = load_weights(engine, args);
    if (status == SL_OK)
        status = create_host_buffers(engine);
    if (status == SL_OK)
        status = create_device_side(engine);
    if (status != SL_OK)
        return status;
    engine->info.weight_bytes = engine->weights.bytes;
    engine->info.n_parameters = engine->weights.n_parameters;
    snprintf(engine->info.numerics_id, sizeof(engine->info.numerics_id), "%s",
             engine->ops->numerics_id(engine->context));
    return start(engine);
}

sl_status model_engine_open(const struct model_engine_args *args, struct model_engine **engine_out)
{
    struct model_engine *engine = sl_zalloc(1, sizeof(*engine));
    uint64_t start_us = sl_now_us();
    sl_status status = open_engine(engine, args);
    if (status != SL_OK) {
        model_engine_close(engine);
        return status;
    }
    sl_debug("engine_open",
             "family=%s layers=%u parameters=%" PRIu64 " bytes=%" PRIu64
             " numerics=%s blocks=%u block_bytes=%zu us=%" PRIu64,
             engine->info.family, engine->info.n_layers, engine->info.n_parameters,
             engine->info.weight_bytes, engine->info.numerics_id, engine->info.n_blocks[0],
             kv_block_bytes(&engine->info.geometry, 0), sl_now_us() - start_us);
    *engine_out = engine;
    return SL_OK;
}

static void close_device_side(struct model_engine *engine)
{
    for (uint32_t i = 0; engine->group_ready != NULL && i < engine->n_groups; i++)
        if (engine->group_ready[i] != NULL)
            device_event_destroy(engine->group_ready[i]);
    if (engine->stream != NULL)
        device_stream_destroy(engine->stream);
    if (engine->acts != NULL)
        engine->ops->acts_destroy(engine->acts);
    model_weights_fini(&engine->weights);
    if (engine->context != NULL)
        engine->ops->close(engine->context);
    device_free(&engine->logits);
    for (uint32_t i = 0; i < KV_CLASSES_MAX; i++)
        device_free(&engine->pools[i]);
    device_destroy(engine->device);
}

void model_engine_close(struct model_engine *engine)
{
    if (engine == NULL)
        return;
    atomic_store_explicit(&engine->stop, true, memory_order_release);
    if (engine->thread.started)
        sl_wake_signal(&engine->wake);
    sl_thread_join(&engine->thread);
    if (engine->wake_made)
        sl_wake_fini(&engine->wake);
    sl_ring_destroy(engine->events);
    close_device_side(engine);
    for (uint32_t i = 0; i < MODEL_TICKETS_MAX; i++)
        destroy_ticket(&engine->tickets[i]);
    model_sampler_destroy(engine->sampler);
    sl_free(engine->group_ready);
    sl_free(engine->slot_used);
    sl_free(engine->results);
    sl_free(engine->host_logits);
    sl_free(engine->last_tokens);
    sl_free(engine);
}

/* ---- submit ---- */

/* Entries that are read must name blocks of their class. */
static sl_status check_tables(const struct model_engine *engine, const struct model_run *run,
                              uint32_t index, uint32_t n_blocks)
{
    const struct kv_geometry *geometry = &engine->info.geometry;
    for (uint32_t c = 0; c < geometry->n_classes; c++) {
        if (run->block_tables[c] == NULL)
            return sl_fail(SL_INVALID, "batch run %u: no block table of class %u", index, c);
        for (uint32_t i = kv_window_first(geometry, c, run->first_position); i < n_blocks; i++)
            if (run->block_tables[c][i] >= engine->info.n_blocks[c])
                return sl_fail(SL_INVALID, "batch run %u: block %u of a pool of %u", index,
                               run->block_tables[c][i], engine->info.n_blocks[c]);
    }
    return SL_OK;
}

static sl_status check_scored(const struct model_engine *engine, const struct model_run *run,
                              uint32_t index)
{
    if (run->n_scored > run->n_tokens || run->logits == MODEL_LOGITS_ALL ||
        run->n_scored_top > MODEL_LOGPROBS_MAX)
        return sl_fail(
            SL_INVALID,
            "batch run %u: %u of %u tokens scored with %u likeliest; want at most %d of these, "
            "and not all logits besides",
            index, run->n_scored, run->n_tokens, run->n_scored_top, MODEL_LOGPROBS_MAX);
    for (uint32_t i = 0; i < run->n_scored; i++)
        if (run->scored[i] >= engine->info.vocab)
            return sl_fail(SL_INVALID, "batch run %u: scored token %u; the vocabulary has %u",
                           index, run->scored[i], engine->info.vocab);
    return SL_OK;
}

static sl_status check_run(const struct model_engine *engine, const struct model_run *run,
                           uint32_t index)
{
    if (run->slot >= engine->seqs_max)
        return sl_fail(SL_INVALID, "batch run %u: slot %u; want below %u", index, run->slot,
                       engine->seqs_max);
    if (run->n_tokens == 0)
        return sl_fail(SL_INVALID, "batch run %u: no tokens", index);
    uint64_t end = (uint64_t)run->first_position + run->n_tokens;
    if (end > engine->info.context_max)
        return sl_fail(SL_INVALID, "batch run %u: ends at position %" PRIu64 "; the context is %u",
                       index, end, engine->info.context_max);
    uint32_t n_blocks = kv_blocks_of(&engine->info.geometry, (uint32_t)end);
    if (run->n_blocks < n_blocks || n_blocks > engine->table_max)
        return sl_fail(SL_INVALID, "batch run %u: %u blocks for %" PRIu64 " tokens; want %u", index,
                       run->n_blocks, end, n_blocks);
    sl_status status = check_tables(engine, run, index, n_blocks);
    if (status != SL_OK)
        return status;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        if (run->tokens[i] >= engine->info.vocab && run->tokens[i] != MODEL_TOKEN_PREVIOUS)
            return sl_fail(SL_INVALID, "batch run %u: token %u; the vocabulary has %u", index,
                           run->tokens[i], engine->info.vocab);
    if (run->n_scored > 0)
        status = check_scored(engine, run, index);
    if (status != SL_OK || run->logits != MODEL_LOGITS_LAST)
        return status;
    const struct model_adjust *adjust = run->sampling.adjust;
    if (adjust != NULL && adjust->n_taken != end)
        return sl_fail(SL_INVALID,
                       "batch run %u: ends at position %" PRIu64 "; its adjustments know %u tokens",
                       index, end, adjust->n_taken);
    return model_sampling_check(&run->sampling);
}

/* Sizes and slots over the whole batch. */
static sl_status check_batch(const struct model_engine *engine, const struct model_batch *batch)
{
    uint64_t n_rows = 0;
    uint32_t n_all = 0;
    if (batch->n_runs == 0 || batch->n_runs > engine->seqs_max)
        return sl_fail(SL_INVALID, "batch of %u runs; want 1..%u", batch->n_runs, engine->seqs_max);
    memset(engine->slot_used, 0, engine->seqs_max * sizeof(bool));
    for (uint32_t i = 0; i < batch->n_runs; i++) {
        const struct model_run *run = &batch->runs[i];
        sl_status status = check_run(engine, run, i);
        if (status != SL_OK)
            return status;
        if (engine->slot_used[run->slot])
            return sl_fail(SL_INVALID, "batch run %u: slot %u is in the batch twice", i, run->slot);
        engine->slot_used[run->slot] = true;
        n_rows += run->n_tokens;
        n_all += run->logits == MODEL_LOGITS_ALL;
    }
    if (n_rows > engine->rows_max)
        return sl_fail(SL_INVALID, "batch of %" PRIu64 " rows; at most %u", n_rows,
                       engine->rows_max);
    if (n_all > 1)
        return sl_fail(SL_INVALID, "batch with %u runs that want all logits; at most 1", n_all);
    return SL_OK;
}

static sl_status reserve_all_logits(const struct model_engine *engine,
                                    const struct model_batch *batch, struct engine_ticket *ticket)
{
    size_t wanted = 0;
    for (uint32_t i = 0; i < batch->n_runs; i++)
        if (batch->runs[i].logits == MODEL_LOGITS_ALL)
            wanted = (size_t)batch->runs[i].n_tokens * engine->info.vocab;
    if (wanted <= ticket->all_capacity)
        return SL_OK;
    float *logits = sl_try_realloc(ticket->all_logits, wanted, sizeof(float));
    if (logits == NULL)
        return sl_fail(SL_NO_MEMORY, "batch: %zu logits", wanted);
    ticket->all_logits = logits;
    ticket->all_capacity = wanted;
    return SL_OK;
}

/* Copies a run's table of class c; what is not read is made a hole. */
static const uint32_t *add_table(const struct model_engine *engine, struct engine_ticket *ticket,
                                 const struct model_run *run, uint32_t index, uint32_t c,
                                 uint32_t n_blocks)
{
    const struct kv_geometry *geometry = &engine->info.geometry;
    size_t at = ((size_t)index * geometry->n_classes + c) * engine->table_max;
    uint32_t first = kv_window_first(geometry, c, run->first_position);
    uint32_t *table = ticket->tables + at;
    for (uint32_t i = 0; i < first; i++)
        table[i] = KV_BLOCK_NONE;
    memcpy(table + first, run->block_tables[c] + first, (n_blocks - first) * sizeof(*table));
    return table;
}

/* Appends a checked run to the ticket. */
static void add_run(const struct model_engine *engine, struct engine_ticket *ticket,
                    const struct model_run *run, uint32_t index)
{
    uint32_t first_row = ticket->batch.n_rows;
    uint32_t n_blocks = kv_blocks_of(&engine->info.geometry, run->first_position + run->n_tokens);
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        ticket->tokens[first_row + i] = run->tokens[i];
        ticket->positions[first_row + i] = run->first_position + i;
    }
    ticket->seqs[index] = (struct kernel_seq){
        .first_row = first_row,
        .n_rows = run->n_tokens,
        .first_position = run->first_position,
        .n_blocks = n_blocks,
    };
    for (uint32_t c = 0; c < engine->info.geometry.n_classes; c++)
        ticket->seqs[index].block_tables[c] = add_table(engine, ticket, run, index, c, n_blocks);
    ticket->runs[index] = (struct engine_run){
        .slot = run->slot,
        .logits = run->logits,
        .first_row = first_row,
        .n_rows = run->n_tokens,
        .sample_position = run->first_position + run->n_tokens,
        .n_scored_top = run->n_scored_top,
    };
    if (run->logits == MODEL_LOGITS_LAST) {
        ticket->runs[index].sampling = run->sampling;
        ticket->logit_rows[ticket->n_last] = first_row + run->n_tokens - 1;
        ticket->logit_runs[ticket->n_last++] = index;
    }
    ticket->results[index] = (struct model_result){
        .user = run->user, .n_scores = run->n_scored, .scores = ticket->scores + ticket->n_scored};
    for (uint32_t i = 0; i < run->n_scored; i++)
        ticket->scored[ticket->n_scored++] =
            (struct engine_scored){.row = first_row + i, .run = index, .id = run->scored[i]};
    ticket->batch.n_rows += run->n_tokens;
    ticket->batch.n_seqs++;
}

static void add_all_rows(struct engine_ticket *ticket)
{
    for (uint32_t i = 0; i < ticket->batch.n_seqs; i++) {
        const struct engine_run *run = &ticket->runs[i];
        if (run->logits != MODEL_LOGITS_ALL)
            continue;
        for (uint32_t row = 0; row < run->n_rows; row++)
            ticket->logit_rows[ticket->n_last + ticket->n_all++] = run->first_row + row;
    }
}

sl_status model_engine_submit(struct model_engine *engine, const struct model_batch *batch,
                              uint64_t *ticket_out)
{
    uint64_t submitted = atomic_load_explicit(&engine->submitted, memory_order_relaxed);
    if (submitted - engine->polled >= MODEL_TICKETS_MAX)
        return sl_fail(SL_AGAIN, "engine: %d batches are in it", MODEL_TICKETS_MAX);
    struct engine_ticket *ticket = &engine->tickets[submitted % MODEL_TICKETS_MAX];
    sl_status status = check_batch(engine, batch);
    if (status == SL_OK)
        status = reserve_all_logits(engine, batch, ticket);
    if (status != SL_OK)
        return status;

    ticket->number = submitted + 1;
    ticket->batch = (struct kernel_batch){
        .tokens = ticket->tokens, .positions = ticket->positions, .seqs = ticket->seqs};
    ticket->n_last = 0;
    ticket->n_all = 0;
    ticket->n_scored = 0;
    for (uint32_t i = 0; i < batch->n_runs; i++)
        add_run(engine, ticket, &batch->runs[i], i);
    add_all_rows(ticket);
    ticket->n_copies = engine->n_copies;
    memcpy(ticket->copies, engine->copies, engine->n_copies * sizeof(engine->copies[0]));
    engine->n_copies = 0;
    engine->last_logits = NULL;
    engine->n_last_logits = 0;

    if (submitted == atomic_load_explicit(&engine->retired, memory_order_acquire))
        atomic_store_explicit(&engine->progress_us, sl_now_us(), memory_order_relaxed);
    atomic_store_explicit(&engine->submitted, submitted + 1, memory_order_release);
    sl_wake_signal(&engine->wake);
    *ticket_out = submitted + 1;
    return SL_OK;
}

sl_status model_engine_copy_block(struct model_engine *engine, uint32_t class_index, kv_block_id to,
                                  kv_block_id from)
{
    if (class_index >= engine->info.geometry.n_classes)
        return sl_fail(SL_INVALID, "block copy in class %u of %u", class_index,
                       engine->info.geometry.n_classes);
    uint32_t n_blocks = engine->info.n_blocks[class_index];
    if (to >= n_blocks || from >= n_blocks || to == from)
        return sl_fail(SL_INVALID, "block copy from %u to %u in a pool of %u", from, to, n_blocks);
    if (engine->n_copies == ENGINE_COPIES_MAX)
        return sl_fail(SL_EXHAUSTED, "%d block copies wait for the next batch", ENGINE_COPIES_MAX);
    engine->copies[engine->n_copies++] =
        (struct engine_copy){.class_index = class_index, .to = to, .from = from};
    return SL_OK;
}

/* ---- poll ---- */

static void fill_retired(struct model_engine *engine, const struct engine_ticket *ticket,
                         struct model_event *event)
{
    uint32_t n = ticket->batch.n_seqs;
    memcpy(engine->results, ticket->results, n * sizeof(*ticket->results));
    event->status = ticket->status;
    memcpy(event->error, ticket->error, sizeof(event->error));
    event->n_results = n;
    event->results = engine->results;
    event->compute_us = ticket->compute_us;
    engine->polled = ticket->number;
    if (ticket->n_all > 0 && ticket->status == SL_OK) {
        engine->last_logits = ticket->all_logits;
        engine->n_last_logits = ticket->n_all;
    }
}

bool model_engine_poll(struct model_engine *engine, struct model_event *event_out)
{
    struct engine_event event;
    if (!sl_ring_pop(engine->events, &event))
        return false;
    *event_out = (struct model_event){
        .type = event.type, .ticket = event.ticket, .layer_end = event.layer_end};
    if (event.type == MODEL_EVENT_RETIRED)
        fill_retired(engine, &engine->tickets[(event.ticket - 1) % MODEL_TICKETS_MAX], event_out);
    return true;
}

const float *model_engine_logits(const struct model_engine *engine, uint32_t *n_rows_out)
{
    *n_rows_out = engine->n_last_logits;
    return engine->last_logits;
}

const struct model_info *model_engine_info(const struct model_engine *engine)
{
    return &engine->info;
}

const struct device_memory *model_engine_kv(const struct model_engine *engine, uint32_t class_index)
{
    SL_ASSERT(class_index < engine->info.geometry.n_classes);
    return &engine->pools[class_index];
}

uint64_t model_engine_steps(const struct model_engine *engine)
{
    return atomic_load_explicit(&engine->retired, memory_order_relaxed);
}

uint64_t model_engine_stalled_us(const struct model_engine *engine)
{
    uint64_t retired = atomic_load_explicit(&engine->retired, memory_order_relaxed);
    if (atomic_load_explicit(&engine->submitted, memory_order_relaxed) == retired)
        return 0;
    uint64_t now = sl_now_us();
    uint64_t progress = atomic_load_explicit(&engine->progress_us, memory_order_relaxed);
    return now > progress ? now - progress : 0;
}
