/* The compute thread: takes tickets in order, one at a time, and runs each as ops on one stream.
 *
 *   ticket ─► tokens resolved ─► block copies ─► embed
 *          ─► per layer: attn_in ─► [end of a group: record its event] ─► attention, attn_out, mlp
 *          ─► logits in turns of logits_max rows ─► sample ─► RETIRED
 *
 * Where an op runs at once (host) an event is done when it is recorded, so LAYERS_READY leaves between
 * two layers. Where it runs later (fake, cuda) the thread looks at the events between layers without
 * waiting, and waits for them only once everything is enqueued. Tickets are sequential: a token that
 * the next one takes from a slot (MODEL_TOKEN_PREVIOUS) is there when it starts, and one set of
 * activations, events and logits is enough. On the CPU nothing is lost by that; a GPU will want the
 * next batch enqueued before this one's tokens are read.
 *
 * Nothing is allocated here. A device's failure ends the batch with its sentence; a sequence whose
 * logits are no numbers ends alone. The fault points: engine_step (the batch fails), engine_layer@n
 * (hold before layer n: what is ready by then is reported first). */
#include "model/engine_state.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/min.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define IDLE_WAIT_US  1000000
#define EVENT_WAIT_US 1000000

static void progress(struct model_engine *engine)
{
    atomic_store_explicit(&engine->progress_us, sl_now_us(), memory_order_relaxed);
}

static void push_event(struct model_engine *engine, enum model_event_type type, uint64_t ticket,
                       uint32_t layer_end)
{
    const struct engine_event event = {.type = type, .ticket = ticket, .layer_end = layer_end};
    SL_ASSERT(sl_ring_push(engine->events, &event)); /* has room for all that can be under way */
    progress(engine);
    if (engine->notify != NULL)
        engine->notify(engine->notify_arg);
}

/* ---- layers ---- */

/* How far the readiness of a ticket's layers has come. */
struct readiness {
    uint32_t n_recorded; /* groups */
    uint32_t n_reported;
};

static uint32_t group_end(const struct model_engine *engine, uint32_t group)
{
    uint32_t end = (group + 1) * engine->info.layers_per_group;
    return end < engine->info.n_layers ? end : engine->info.n_layers;
}

static sl_status wait_event(struct device_event *event)
{
    sl_status status;
    do
        status = device_event_wait(event, EVENT_WAIT_US);
    while (status == SL_DEADLINE);
    return status;
}

/* Reports the recorded groups that are done, in order; with `wait` all recorded ones. */
static sl_status report_ready(struct model_engine *engine, uint64_t ticket, struct readiness *ready,
                              bool wait)
{
    while (ready->n_reported < ready->n_recorded) {
        struct device_event *event = engine->group_ready[ready->n_reported];
        if (wait) {
            sl_status status = wait_event(event);
            if (status != SL_OK)
                return status;
        } else if (!device_event_done(event)) {
            return SL_OK;
        }
        push_event(engine, MODEL_EVENT_LAYERS_READY, ticket, group_end(engine, ready->n_reported));
        ready->n_reported++;
    }
    return SL_OK;
}

/* Fault point engine_layer. A hold must not keep back what is ready before it. */
static sl_status hold_layer(struct model_engine *engine, uint64_t ticket, struct readiness *ready,
                            uint32_t layer)
{
    if (!sl_fault_active)
        return SL_OK;
    sl_status status = report_ready(engine, ticket, ready, true);
    if (status != SL_OK)
        return status;
    if (sl_fault_hit("engine_layer", layer))
        return sl_fail(SL_DEVICE, "engine: layer %u failed (fault point)", layer);
    return SL_OK;
}

static sl_status run_layers(struct model_engine *engine, const struct engine_ticket *ticket)
{
    const struct model_forward *forward = &engine->forward;
    struct readiness ready = {0, 0};
    for (uint32_t layer = 0; layer < engine->info.n_layers; layer++) {
        sl_status status = hold_layer(engine, ticket->number, &ready, layer);
        if (status != SL_OK)
            return status;
        model_forward_layer_kv(forward, layer);
        if (layer + 1 == group_end(engine, ready.n_recorded))
            device_event_record(engine->group_ready[ready.n_recorded++], engine->stream);
        status = report_ready(engine, ticket->number, &ready, false);
        if (status != SL_OK)
            return status;
        model_forward_layer_rest(forward, layer);
        progress(engine);
    }
    return report_ready(engine, ticket->number, &ready, true);
}

/* ---- logits ---- */

/* Logits of rows[n] on the host, until the next call. */
static sl_status fetch_logits(struct model_engine *engine, const uint32_t *rows, uint32_t n,
                              const float **logits_out)
{
    model_forward_logits(&engine->forward, rows, n, &engine->logits);
    if (engine->host_logits != NULL)
        device_copy_out(engine->stream, engine->host_logits, &engine->logits, 0,
                        (size_t)n * engine->info.vocab * sizeof(float));
    sl_status status = device_stream_wait(engine->stream);
    progress(engine);
    *logits_out = engine->host_logits != NULL ? engine->host_logits : engine->logits.address;
    return status;
}

static void sample_run(struct model_engine *engine, struct engine_ticket *ticket, uint32_t index,
                       const float *logits)
{
    const struct engine_run *run = &ticket->runs[index];
    struct model_result *result = &ticket->results[index];
    if (result->status != SL_OK)
        return;
    result->status =
        model_sample(engine->sampler, logits, &run->sampling, run->sample_position, &result->token);
    result->sampled = result->status == SL_OK;
    if (result->sampled)
        engine->last_tokens[run->slot] = result->token.id;
    else
        sl_error_log("engine_logits_bad", "ticket=%" PRIu64 " slot=%u error=\"%s\"", ticket->number,
                     run->slot, sl_error());
}

static void score_row(struct model_engine *engine, struct engine_ticket *ticket, uint32_t index,
                      const float *logits)
{
    const struct engine_scored *scored = &ticket->scored[index];
    struct model_result *result = &ticket->results[scored->run];
    if (result->status == SL_OK)
        result->status =
            model_score(engine->sampler, logits, scored->id, ticket->runs[scored->run].n_scored_top,
                        &ticket->scores[index]);
    if (result->status != SL_OK)
        result->sampled = false;
}

/* Scored rows; their logits are not kept. */
static sl_status run_scores(struct model_engine *engine, struct engine_ticket *ticket)
{
    const size_t vocab = engine->info.vocab;
    uint32_t rows[ENGINE_LOGITS_MAX];
    const float *logits;
    for (uint32_t at = 0; at < ticket->n_scored; at += engine->logits_max) {
        uint32_t n = sl_min_u32(ticket->n_scored - at, engine->logits_max);
        for (uint32_t i = 0; i < n; i++)
            rows[i] = ticket->scored[at + i].row;
        sl_status status = fetch_logits(engine, rows, n, &logits);
        if (status != SL_OK)
            return status;
        for (uint32_t i = 0; i < n; i++)
            score_row(engine, ticket, at + i, logits + i * vocab);
    }
    return SL_OK;
}

static sl_status run_logits(struct model_engine *engine, struct engine_ticket *ticket)
{
    const size_t vocab = engine->info.vocab;
    const float *logits;
    for (uint32_t at = 0; at < ticket->n_last; at += engine->logits_max) {
        uint32_t n = sl_min_u32(ticket->n_last - at, engine->logits_max);
        sl_status status = fetch_logits(engine, ticket->logit_rows + at, n, &logits);
        if (status != SL_OK)
            return status;
        for (uint32_t i = 0; i < n; i++)
            sample_run(engine, ticket, ticket->logit_runs[at + i], logits + i * vocab);
    }
    const uint32_t *all_rows = ticket->logit_rows + ticket->n_last;
    for (uint32_t at = 0; at < ticket->n_all; at += engine->logits_max) {
        uint32_t n = sl_min_u32(ticket->n_all - at, engine->logits_max);
        sl_status status = fetch_logits(engine, all_rows + at, n, &logits);
        if (status != SL_OK)
            return status;
        memcpy(ticket->all_logits + at * vocab, logits, n * vocab * sizeof(float));
    }
    return run_scores(engine, ticket);
}

/* ---- a ticket ---- */

/* Puts in the tokens that slots sampled; a slot without one fails its run alone. */
static void resolve_tokens(struct model_engine *engine, struct engine_ticket *ticket)
{
    for (uint32_t i = 0; i < ticket->batch.n_seqs; i++) {
        const struct engine_run *run = &ticket->runs[i];
        for (uint32_t row = run->first_row; row < run->first_row + run->n_rows; row++) {
            if (ticket->tokens[row] != MODEL_TOKEN_PREVIOUS)
                continue;
            ticket->tokens[row] = engine->last_tokens[run->slot];
            if (ticket->tokens[row] == MODEL_TOKEN_PREVIOUS) {
                ticket->tokens[row] = 0;
                ticket->results[i].status = SL_CANCELLED;
            }
        }
    }
    /* What a run does not sample, nobody may take from its slot. */
    for (uint32_t i = 0; i < ticket->batch.n_seqs; i++)
        engine->last_tokens[ticket->runs[i].slot] = MODEL_TOKEN_PREVIOUS;
}

static void run_copies(struct model_engine *engine, const struct engine_ticket *ticket)
{
    for (uint32_t i = 0; i < ticket->n_copies; i++) {
        const struct engine_copy *copy = &ticket->copies[i];
        const struct kernel_kv kv = {
            .pool = &engine->pools[copy->class_index],
            .block_bytes = kv_block_bytes(&engine->info.geometry, copy->class_index),
            .block_tokens = engine->info.geometry.block_tokens,
        };
        engine->ops->kv_block_copy(engine->stream, &kv, copy->to, copy->from);
    }
}

static sl_status run_ticket(struct model_engine *engine, struct engine_ticket *ticket)
{
    resolve_tokens(engine, ticket);
    if (sl_fault_hit("engine_step", -1))
        return sl_fail(SL_DEVICE, "engine: step failed (fault point)");
    run_copies(engine, ticket);
    model_forward_embed(&engine->forward, &ticket->batch);
    sl_status status = run_layers(engine, ticket);
    if (status == SL_OK)
        status = run_logits(engine, ticket);
    return status;
}

static void retire(struct model_engine *engine, struct engine_ticket *ticket, sl_status status)
{
    ticket->status = status;
    if (status != SL_OK) {
        snprintf(ticket->error, sizeof(ticket->error), "%s", sl_error());
        sl_error_log("engine_step_failed", "ticket=%" PRIu64 " error=\"%s\"", ticket->number,
                     ticket->error);
        for (uint32_t i = 0; i < ticket->batch.n_seqs; i++)
            engine->last_tokens[ticket->runs[i].slot] = MODEL_TOKEN_PREVIOUS;
    }
    atomic_store_explicit(&engine->retired, ticket->number, memory_order_release);
    push_event(engine, MODEL_EVENT_RETIRED, ticket->number, 0);
}

void engine_compute(void *arg)
{
    struct model_engine *engine = arg;
    uint64_t done = 0;
    while (!atomic_load_explicit(&engine->stop, memory_order_acquire)) {
        if (done == atomic_load_explicit(&engine->submitted, memory_order_acquire)) {
            (void)sl_wake_wait(&engine->wake, IDLE_WAIT_US);
            continue;
        }
        struct engine_ticket *ticket = &engine->tickets[done % MODEL_TICKETS_MAX];
        uint64_t start_us = sl_now_us();
        progress(engine);
        sl_status status = run_ticket(engine, ticket);
        /* Whatever happened: no op may touch the batch any more once it has retired. */
        sl_status drained = device_stream_wait(engine->stream);
        ticket->compute_us = sl_now_us() - start_us;
        retire(engine, ticket, status != SL_OK ? status : drained);
        done++;
    }
}
