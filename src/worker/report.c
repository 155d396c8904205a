/* Messages to the coordinator.
 *
 * Tokens of one turn gather in the outbox and leave as one message; what ended with them leaves after
 * it, since Finished must not overtake the last token. Everything else is sent at once. The arrays
 * are the worker's, sized at its creation: a step allocates nothing here (packing is the sender's).
 *
 * A message that cannot be sent is lost, and counted. That is the protocol's way: while the stream is
 * down the coordinator takes every request of this node as gone, and places it anew; a run of tokens
 * that is missing in front of another makes it do so too. */
#include "base/log.h"
#include "proto/message.h"
#include "worker/parts.h"

#include <inttypes.h>

static void send(struct worker *worker, enum rpc_class class, const Sluice__NodeMessage *message)
{
    sl_status status = worker->args.send(worker->args.send_arg, class, message);
    if (status == SL_OK)
        return;
    sl_metric_add(worker->metrics.lost_messages, 1);
    sl_debug("message_lost", "kind=%d status=%s", (int)message->body_case, sl_status_name(status));
}

static void flush_runs(struct worker *worker)
{
    if (worker->n_runs == 0)
        return;
    Sluice__TokenRuns runs = SLUICE__TOKEN_RUNS__INIT;
    runs.n_runs = worker->n_runs;
    runs.runs = worker->run_list;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_TOKENS;
    message.tokens = &runs;
    send(worker, RPC_URGENT, &message);
    worker->n_runs = 0;
}

void report_flush(struct worker *worker)
{
    flush_runs(worker);
    for (uint32_t i = 0; i < worker->n_finished; i++) {
        struct outbox_finished *finished = &worker->finished[i];
        finished->message.times = &finished->times;
        finished->message.destination = finished->destination;
        finished->message.message = finished->text;
        Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
        message.body_case = SLUICE__NODE_MESSAGE__BODY_FINISHED;
        message.finished = &finished->message;
        send(worker, RPC_URGENT, &message);
    }
    worker->n_finished = 0;
}

void report_scores(struct worker *worker, const struct worker_request *request,
                   uint32_t first_position, const struct model_token *scores, uint32_t n)
{
    for (uint32_t at = 0; at < n; at += WORKER_SCORES_PART) {
        uint32_t n_part = n - at < WORKER_SCORES_PART ? n - at : WORKER_SCORES_PART;
        for (uint32_t i = 0; i < n_part; i++) {
            const struct model_token *token = &scores[at + i];
            Sluice__Logprob *out = &worker->scores[i];
            sluice__logprob__init(out);
            out->sampled = token->logprob;
            out->rank = token->rank;
            out->n_top_ids = out->n_top = token->n_top;
            out->top_ids = (uint32_t *)(uintptr_t)token->top_ids;
            out->top = (float *)(uintptr_t)token->top_logprobs;
        }
        Sluice__PromptScores part = SLUICE__PROMPT_SCORES__INIT;
        part.request = request->id;
        part.attempt = request->attempt;
        part.first_position = first_position + at;
        part.n_scores = n_part;
        part.scores = worker->score_list;
        Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
        message.body_case = SLUICE__NODE_MESSAGE__BODY_PROMPT_SCORES;
        message.prompt_scores = &part;
        send(worker, RPC_URGENT, &message);
    }
}

static void set_logprob(struct outbox_run *out, const struct model_token *token)
{
    sluice__logprob__init(&out->logprob);
    out->logprob.sampled = token->logprob;
    out->logprob.n_top_ids = out->logprob.n_top = token->n_top;
    out->logprob.top_ids = out->top_ids;
    out->logprob.top = out->top;
    for (uint32_t i = 0; i < token->n_top; i++) {
        out->top_ids[i] = token->top_ids[i];
        out->top[i] = token->top_logprobs[i];
    }
    out->logprob_list[0] = &out->logprob;
    out->run.n_logprobs = 1;
    out->run.logprobs = out->logprob_list;
}

void report_token(struct worker *worker, const struct worker_request *request, uint32_t index,
                  const struct model_token *token)
{
    if (worker->n_runs == WORKER_OUTBOX_RUNS)
        report_flush(worker);
    struct outbox_run *out = &worker->runs[worker->n_runs];
    worker->run_list[worker->n_runs++] = &out->run;
    sluice__token_run__init(&out->run);
    out->token = token->id;
    out->run.request = request->id;
    out->run.attempt = request->attempt;
    out->run.first_index = index;
    out->run.n_tokens = 1;
    out->run.tokens = &out->token;
    if (request->sampling.n_logprobs >= 0)
        set_logprob(out, token);
}

void report_admitted(struct worker *worker, const struct worker_request *request)
{
    Sluice__Admitted admitted = SLUICE__ADMITTED__INIT;
    admitted.request = request->id;
    admitted.attempt = request->attempt;
    admitted.cached_tokens = request->cached_tokens;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_ADMITTED;
    message.admitted = &admitted;
    send(worker, RPC_URGENT, &message);
}

/* Sentences may quote what came from outside, and are cut: only plain characters leave, since a peer
 * refuses broken UTF-8. */
static void copy_text(char *to, const char *text)
{
    size_t n = 0;
    for (; text[n] != '\0' && n < WORKER_TEXT_BYTES - 1; n++)
        to[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
    to[n] = '\0';
}

void report_refused(struct worker *worker, uint64_t id, uint32_t attempt, Sluice__Reason reason,
                    const char *text)
{
    char copy[WORKER_TEXT_BYTES];
    copy_text(copy, text);
    sl_info("request_refused", "req=%" PRIu64 " attempt=%u reason=%s text=\"%s\"", id, attempt,
            rpc_reason_name(reason), copy);
    if ((uint32_t)reason < WORKER_REASONS)
        sl_metric_add(worker->metrics.rejected[reason], 1);
    Sluice__Refused refused = SLUICE__REFUSED__INIT;
    refused.request = id;
    refused.attempt = attempt;
    refused.reason = reason;
    refused.message = copy;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_REFUSED;
    message.refused = &refused;
    send(worker, RPC_URGENT, &message);
}

void report_stream_failed(struct worker *worker, uint64_t id, uint32_t attempt,
                          Sluice__Reason reason, bool held, bool source)
{
    report_flush(worker); /* a first token of this turn was before the failure */
    Sluice__StreamFailed failed = SLUICE__STREAM_FAILED__INIT;
    failed.request = id;
    failed.attempt = attempt;
    failed.reason = reason;
    failed.held = held;
    failed.source = source;
    Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
    message.body_case = SLUICE__NODE_MESSAGE__BODY_STREAM_FAILED;
    message.stream_failed = &failed;
    send(worker, RPC_URGENT, &message);
}

/* What is said of its streams: that of this attempt, and the bytes and time of all. */
static void set_times(const struct worker_request *request, struct outbox_finished *out)
{
    Sluice__StageTimes *times = &out->times;
    sluice__stage_times__init(times);
    out->destination[0] = '\0';
    for (const struct worker_stream *s = request->streams; s != NULL; s = s->next) {
        times->transfer_bytes += s->stats.bytes;
        times->transfer_busy_us += s->stats.busy_us;
        if (s->attempt == request->attempt) {
            times->handover_us = s->stats.handover_us;
            copy_text(out->destination, s->source ? s->peer.node_id : "");
        }
    }
}

void report_finished(struct worker *worker, const struct worker_request *request,
                     Sluice__Finish finish, Sluice__Reason reason, const char *text)
{
    if (worker->n_finished == WORKER_OUTBOX_RUNS)
        report_flush(worker);
    struct outbox_finished *out = &worker->finished[worker->n_finished++];
    sluice__finished__init(&out->message);
    out->message.request = request->id;
    out->message.attempt = request->attempt;
    out->message.finish = finish;
    out->message.reason = reason;
    out->message.computed_tokens = request->computed_tokens;
    out->message.cached_tokens = request->cached_tokens;
    copy_text(out->text, text);
    set_times(request, out);
    uint32_t generated =
        request->n_tokens > request->n_submitted ? request->n_tokens - request->n_submitted : 0;
    sl_info("request_finished",
            "req=%" PRIu64 " attempt=%u finish=%s reason=%s tokens=%u computed=%u cached=%u",
            request->id, request->attempt, rpc_finish_name(finish), rpc_reason_name(reason),
            generated, request->computed_tokens, request->cached_tokens);
}

void report_events(struct worker *worker)
{
    if (worker->lost_us != 0)
        return; /* kept while they fit; beyond that a snapshot is asked for */
    uint64_t first;
    uint32_t n;
    while ((n = kv_prefix_cache_events(worker->caches[0], worker->events, WORKER_REPLY_EVENTS,
                                       &first)) > 0) {
        for (uint32_t i = 0; i < n; i++) {
            Sluice__CacheEvent *event = &worker->event_messages[i];
            event->evicted = worker->events[i].evicted;
            event->hash.data = worker->events[i].hash.bytes;
            event->hash.len = KV_HASH_BYTES;
        }
        Sluice__CacheEvents events = SLUICE__CACHE_EVENTS__INIT;
        events.first_seq = first;
        events.n_events = n;
        events.events = worker->event_list;
        Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
        message.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_EVENTS;
        message.cache_events = &events;
        send(worker, RPC_BULK, &message);
        worker->now.events_seq = first + n - 1;
    }
}

void report_snapshot(struct worker *worker)
{
    uint32_t n = kv_prefix_cache_snapshot(worker->caches[0], worker->snapshot_hashes,
                                          worker->info->n_blocks[0]);
    uint32_t n_parts = n == 0 ? 1 : (n + WORKER_SNAPSHOT_PART - 1) / WORKER_SNAPSHOT_PART;
    worker->now.events_seq = kv_prefix_cache_seq(worker->caches[0]);
    for (uint32_t part = 0; part < n_parts; part++) {
        uint32_t first = part * WORKER_SNAPSHOT_PART;
        uint32_t count = n - first < WORKER_SNAPSHOT_PART ? n - first : WORKER_SNAPSHOT_PART;
        Sluice__CacheSnapshot snapshot = SLUICE__CACHE_SNAPSHOT__INIT;
        snapshot.seq = worker->now.events_seq;
        snapshot.part = part;
        snapshot.n_parts = n_parts;
        snapshot.hashes.data = worker->snapshot_hashes[first].bytes;
        snapshot.hashes.len = (size_t)count * KV_HASH_BYTES;
        Sluice__NodeMessage message = SLUICE__NODE_MESSAGE__INIT;
        message.body_case = SLUICE__NODE_MESSAGE__BODY_CACHE_SNAPSHOT;
        message.cache_snapshot = &snapshot;
        send(worker, RPC_BULK, &message);
    }
}
