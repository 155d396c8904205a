/* The step: what is computed next, and what comes of it. One batch is in the engine at a time.
 *
 *   start:   candidates (ACTIVE, oldest first) ─► policy ─► blocks for each ─► batch ─► engine
 *   layers:  sources tell their streams what is final
 *   retire:  tokens computed ─► prefix cache ─► what the window has passed goes ─► token sampled
 *            ─► outbox, or the end
 *
 * A sequence is one thing throughout: known tokens, of which the first n_computed have their KV. What
 * lacks is computed in chunks; the run that reaches the last known token samples the next one. So a
 * prompt, a prefix hit, a decoding sequence and one that was preempted take the same path, and the
 * policy only sees how much each lacks.
 *
 * Preemption. Blocks beyond the promise are taken when a sequence grows. When there is none, the
 * youngest of the least urgent active sequences gives all of its blocks back and goes to the head of
 * the queue, to be computed again from its tokens; what it has cached is probably found again. The
 * oldest of the most urgent can always go on, because alone it fits (checked at Submit), so this ends.
 * Sources are never preempted: they have all of their blocks from the start.
 *
 * A second batch in the engine while the first runs would hide this thread's work between steps, but
 * then a request could join only in the step after next, and stop ids would be seen one step late. */
#include "base/clock.h"
#include "base/log.h"
#include "base/min.h"
#include "worker/parts.h"

#include <inttypes.h>

Sluice__Finish step_finish_of(const struct worker_request *request, uint32_t token, uint32_t index)
{
    for (uint32_t i = 0; i < request->n_stops; i++)
        if (request->sampling.stop_ids[i] == token)
            return SLUICE__FINISH__FINISH_STOP;
    if (index + 1 >= request->max_tokens)
        return SLUICE__FINISH__FINISH_LENGTH;
    return SLUICE__FINISH__FINISH_NONE;
}

static uint32_t gather(struct worker *worker, struct worker_request **requests,
                       struct worker_candidate *candidates)
{
    uint64_t now = sl_now_us();
    uint32_t n = 0;
    for (struct worker_request *r = worker->lists[REQUEST_ACTIVE].head;
         r != NULL && n < worker->args.seqs_max; r = r->next) {
        uint32_t remaining = r->n_tokens - r->n_computed;
        SL_ASSERT(remaining > 0 && r->n_running == 0);
        requests[n] = r;
        candidates[n++] = (struct worker_candidate){
            .priority = r->priority,
            .order = r->order,
            .waited_us = now > r->stepped_us ? now - r->stepped_us : 0,
            .remaining = remaining,
            .decoding = r->decoding && remaining == 1,
        };
    }
    return n;
}

/* The one that gives way: the youngest of the least urgent. */
static struct worker_request *victim_of(struct worker *worker)
{
    struct worker_request *found = NULL;
    for (struct worker_request *r = worker->lists[REQUEST_ACTIVE].head; r != NULL; r = r->next) {
        if (r->mode == SLUICE__MODE__MODE_PREFILL)
            continue;
        if (found == NULL || r->priority > found->priority ||
            (r->priority == found->priority && r->order > found->order))
            found = r;
    }
    return found;
}

static void preempt(struct worker *worker, struct worker_request *request)
{
    sl_info("request_preempted", "req=%" PRIu64 " tokens=%u blocks=%u", request->id,
            request->n_tokens, kv_block_table_held(&request->classes[0].table));
    blocks_release(worker, request);
    request->restarted = true;
    request_requeue(worker, request);
    worker->now.preemptions++;
    sl_metric_add(worker->metrics.preemptions, 1);
}

/* Blocks for the first n_tokens; false when the request itself had to go back. */
static bool cover(struct worker *worker, struct worker_request *request, uint32_t n_tokens)
{
    while (!blocks_cover(worker, request, n_tokens)) {
        struct worker_request *victim = victim_of(worker);
        SL_ASSERT(victim != NULL);
        preempt(worker, victim);
        if (victim == request)
            return false;
    }
    return true;
}

/* Of a run of n_tokens: how many have a prompt token behind them that is to be scored. */
static uint32_t scored_tokens(const struct worker_request *request, uint32_t n_tokens)
{
    if (!request_scores(request) || request->n_computed + 1 >= request->prompt_tokens)
        return 0;
    uint32_t n = request->prompt_tokens - request->n_computed - 1;
    return n < n_tokens ? n : n_tokens;
}

static void add_run(struct worker *worker, struct worker_request *request, uint32_t n_tokens)
{
    struct worker_batch *batch = &worker->batch;
    bool last = request->n_computed + n_tokens == request->n_tokens;
    batch->runs[batch->n] = (struct model_run){
        .user = request->id,
        .slot = batch->n,
        .tokens = request->tokens + request->n_computed,
        .n_tokens = n_tokens,
        .first_position = request->n_computed,
        .n_blocks = kv_blocks_of(&worker->info->geometry, request->n_computed + n_tokens),
        .logits = last ? MODEL_LOGITS_LAST : MODEL_LOGITS_NONE,
        .sampling = request->sampling,
        .n_scored = scored_tokens(request, n_tokens),
        .scored = request->tokens + request->n_computed + 1,
        .n_scored_top = request->prompt_logprobs > 0 ? request->prompt_logprobs - 1 : 0,
    };
    for (uint32_t c = 0; c < worker->n_classes; c++)
        batch->runs[batch->n].block_tables[c] = request->classes[c].table.blocks;
    batch->requests[batch->n++] = request;
    batch->sample.tokens += n_tokens;
    batch->sample.context_tokens += request->n_computed + n_tokens;
    request->n_running = n_tokens;
    request->layers_ready = 0;
}

static void fail_request(struct worker *worker, struct worker_request *request, const char *text)
{
    report_finished(worker, request, SLUICE__FINISH__FINISH_ERROR, SLUICE__REASON__REASON_INTERNAL,
                    text);
    request_end(worker, request, TRANSFER_CANCELLED);
}

static void submit(struct worker *worker)
{
    struct worker_batch *batch = &worker->batch;
    struct model_batch what = {.runs = batch->runs, .n_runs = batch->n};
    sl_status status = model_engine_submit(worker->args.engine, &what, &batch->ticket);
    if (status == SL_OK) {
        batch->running = true;
        return;
    }
    sl_error_log("step_refused", "seqs=%u error=\"%s\"", batch->n, sl_error());
    for (uint32_t i = 0; i < batch->n; i++) {
        batch->requests[i]->n_running = 0;
        fail_request(worker, batch->requests[i], sl_error());
    }
}

bool step_start(struct worker *worker)
{
    if (worker->batch.running || worker->lists[REQUEST_ACTIVE].n == 0)
        return false;
    struct worker_request *requests[MODEL_SEQS_MAX];
    struct worker_candidate candidates[MODEL_SEQS_MAX];
    struct worker_plan plan = {0};
    uint32_t n = gather(worker, requests, candidates);
    worker->args.policy->plan(candidates, n, worker->args.chunk_tokens, &plan);

    for (uint32_t i = 0; i < plan.n_shares; i++) {
        struct worker_request *r = requests[plan.shares[i].candidate];
        if (r->state == REQUEST_ACTIVE) /* not preempted for one before it */
            (void)cover(worker, r, r->n_computed + plan.shares[i].n_tokens);
    }
    worker->batch.n = 0;
    worker->batch.sample = (struct worker_sample){0};
    for (uint32_t i = 0; i < plan.n_shares; i++) {
        struct worker_request *r = requests[plan.shares[i].candidate];
        if (r->state == REQUEST_ACTIVE)
            add_run(worker, r, plan.shares[i].n_tokens);
    }
    if (worker->batch.n > 0)
        submit(worker);
    return true;
}

static void layers_ready(struct worker *worker, const struct model_event *event)
{
    struct worker_batch *batch = &worker->batch;
    uint64_t now = sl_now_us();
    for (uint32_t i = 0; i < batch->n; i++) {
        struct worker_request *r = batch->requests[i];
        if (r->mode != SLUICE__MODE__MODE_PREFILL || r->state == REQUEST_ENDING)
            continue;
        r->layers_ready = event->layer_end;
        r->computed_us = now;
        stream_flush_request(worker, r);
    }
}

static void sampled(struct worker *worker, struct worker_request *request,
                    const struct model_token *token)
{
    uint32_t index = request->n_tokens - request->prompt_tokens;
    request_take_token(request, token->id);
    report_token(worker, request, index, token);
    worker->now.generated_tokens++;
    sl_metric_add(worker->metrics.generated, 1);
    Sluice__Finish finish = step_finish_of(request, token->id, index);
    if (finish != SLUICE__FINISH__FINISH_NONE) {
        report_finished(worker, request, finish, SLUICE__REASON__REASON_NONE, "");
        request_end(worker, request, TRANSFER_CANCELLED);
        return;
    }
    request->decoding = true;
    if (request->mode != SLUICE__MODE__MODE_PREFILL)
        return;
    request->sampled = true;
    request->first = *token;
    request->hold_us = sl_now_us() + worker->args.limits.hold_us;
    request_move(worker, request, REQUEST_HELD);
    stream_flush_request(worker, request);
}

/* The request's run was computed. */
static void advance(struct worker *worker, struct worker_request *request, uint32_t n_tokens,
                    const struct model_result *result)
{
    uint32_t before = sl_min_u32(request->n_computed, request->n_submitted);
    if (result->n_scores > 0)
        report_scores(worker, request, request->n_computed + 1, result->scores, result->n_scores);
    request->n_computed += n_tokens;
    request->stepped_us = sl_now_us();
    uint32_t n_prompt = sl_min_u32(request->n_computed, request->n_submitted) - before;
    request->computed_tokens += n_prompt;
    sl_metric_add(worker->metrics.computed, n_prompt);
    blocks_insert(worker, request);
    blocks_slide(worker, request);
    if (result->sampled)
        sampled(worker, request, &result->token);
    else if (request->mode == SLUICE__MODE__MODE_PREFILL)
        stream_flush_request(worker, request);
}

static void count_step(struct worker *worker, const struct model_event *event)
{
    struct worker_batch *batch = &worker->batch;
    batch->sample.compute_us = event->compute_us;
    worker->now.steps++;
    worker->now.step_sequences += batch->n;
    sl_metric_add(worker->metrics.steps, 1);
    sl_metric_add(worker->metrics.step_sequences, batch->n);
    sl_metric_add(worker->metrics.step_tokens, batch->sample.tokens);
    sl_metric_observe(worker->metrics.step_seconds, (double)event->compute_us / 1e6);
    if (worker->args.transfer != NULL)
        transfer_set_step(worker->args.transfer, worker->now.steps);
    (void)sl_ring_push(worker->samples, &batch->sample); /* full: this one is left out */
}

static void retire(struct worker *worker, const struct model_event *event)
{
    struct worker_batch *batch = &worker->batch;
    batch->running = false;
    if (event->status == SL_OK) {
        SL_ASSERT(event->n_results == batch->n);
        count_step(worker, event);
    } else {
        sl_error_log("step_failed", "seqs=%u error=\"%s\"", batch->n, event->error);
    }
    for (uint32_t i = 0; i < batch->n; i++) {
        struct worker_request *r = batch->requests[i];
        uint32_t n_tokens = r->n_running;
        r->n_running = 0;
        if (r->state == REQUEST_ENDING)
            request_settle(worker, r);
        else if (event->status != SL_OK)
            fail_request(worker, r, event->error);
        else if (event->results[i].status != SL_OK)
            fail_request(worker, r, "the logits are not numbers");
        else
            advance(worker, r, n_tokens, &event->results[i]);
    }
    batch->n = 0;
}

bool step_poll(struct worker *worker)
{
    bool some = false;
    struct model_event event;
    while (model_engine_poll(worker->args.engine, &event)) {
        some = true;
        if (!worker->batch.running || event.ticket != worker->batch.ticket)
            continue;
        if (event.type == MODEL_EVENT_LAYERS_READY)
            layers_ready(worker, &event);
        else
            retire(worker, &event);
    }
    return some;
}
