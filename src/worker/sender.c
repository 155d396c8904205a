/* The source side of a stream: tells the transfer layer what is final, and holds the blocks.
 *
 * What is final. Blocks that the request found in the cache and those that retired chunks completed
 * are final in all layers: [0, final). The chunk that runs makes the blocks that it completes final
 * layer group by layer group (LAYERS_READY); a block that it leaves partial waits for the chunk that
 * completes it, except the prompt's last one. What a class's window will have passed at the prompt's
 * end is not part of the stream: it may be gone when the rest is final. Each stream of the request
 * remembers what it was told (told_blocks, told_layers), so a redirected stream simply starts from
 * nothing and is told all.
 *
 * Holding. Blocks stay from the first chunk until the stream is acknowledged, released or cancelled,
 * or the hold deadline passes (docs/transfer.md section 6). A failed stream is told to the coordinator,
 * compute goes on, and a Redirect opens another stream on the same blocks. The hold deadline begins
 * at the end of compute, and anew with a Redirect; attempts are bounded, so holding is. While a stream
 * goes on the blocks stay as long as a destination may take to land them: a slow link is no fault, and
 * a dead peer is found by its beats.
 *
 * The first token goes to the coordinator from here, again under the new attempt after a Redirect:
 * the first copy may have been dropped as stale. If that token ends the request, or no further one
 * is wanted, the stream is cancelled: nothing needs a destination. */
#include "base/clock.h"
#include "base/log.h"
#include "worker/note.h"
#include "worker/parts.h"

#include <inttypes.h>

/* Blocks [0, n) are final in every layer when n_tokens have been computed. */
static uint32_t blocks_final(const struct worker *worker, const struct worker_request *request,
                             uint32_t n_tokens)
{
    if (n_tokens >= request->n_submitted)
        return kv_blocks_of(&worker->info->geometry, request->n_submitted);
    return n_tokens / worker->block_tokens;
}

static bool open_stream(struct worker *worker, struct worker_stream *stream)
{
    const struct worker_request *request = stream->request;
    struct transfer_send_args args = {
        .key = stream->key,
        .attempt = stream->attempt,
        .peer = stream->peer,
        .n_blocks = kv_blocks_of(&worker->info->geometry, request->n_submitted),
        .n_tokens = request->n_submitted,
    };
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        args.first_block[c] = kv_window_first(&worker->info->geometry, c, request->n_submitted);
        args.blocks[c] = request->classes[c].table.blocks;
    }
    request_prefix(worker, request, args.prefix_hash);
    if (stream_blocked(worker, stream, transfer_send_open(worker->args.transfer, &args)))
        return false;
    stream->opened = true;
    return true;
}

/* False when it has to be told again. */
static bool tell_ready(struct worker *worker, struct worker_stream *stream, uint32_t first_block,
                       uint32_t end_block, uint32_t layer_end)
{
    uint32_t layer_ends[KV_CLASSES_MAX] = {0}; /* of each class among the model's first layers */
    for (uint32_t layer = 0; layer < layer_end; layer++)
        layer_ends[worker->info->class_of_layer[layer]]++;
    return !stream_blocked(worker, stream,
                           transfer_send_ready(worker->args.transfer, stream->key, first_block,
                                               end_block, layer_ends));
}

/* True when everything final has been told. */
static bool tell_final(struct worker *worker, struct worker_stream *stream)
{
    const struct worker_request *request = stream->request;
    uint32_t n_layers = worker->info->n_layers;
    uint32_t final = blocks_final(worker, request, request->n_computed);
    if (final > stream->told_blocks) {
        if (stream->told_layers < n_layers &&
            !tell_ready(worker, stream, stream->told_blocks, final, n_layers))
            return false;
        stream->told_blocks = final;
        stream->told_layers = 0;
    }
    uint32_t running = blocks_final(worker, request, request->n_computed + request->n_running);
    if (request->n_running == 0 || running == final || request->layers_ready <= stream->told_layers)
        return true;
    if (!tell_ready(worker, stream, final, running, request->layers_ready))
        return false;
    stream->told_layers = request->layers_ready;
    return true;
}

void sender_flush(struct worker *worker, struct worker_stream *stream)
{
    struct worker_request *request = stream->request;
    if (!request->admitted || stream->failed)
        return; /* its blocks are not there yet; or nobody wants them */
    if (!stream->opened && !open_stream(worker, stream))
        return;
    if (!tell_final(worker, stream) || !request->sampled || stream->token_told)
        return;
    struct transfer_token token = {.id = request->first.id,
                                   .index = request->first_index,
                                   .compute_end_us = request->computed_us};
    if (request->sampling.n_logprobs >= 0)
        worker_note_pack(&request->first, &token.note);
    sl_status status = transfer_send_token(worker->args.transfer, stream->key, &token);
    if (!stream_blocked(worker, stream, status))
        stream->token_told = true;
}

static void failed(struct worker *worker, struct worker_stream *stream, enum transfer_reason reason)
{
    struct worker_request *request = stream->request;
    if (stream->failed)
        return;
    stream->failed = true;
    sl_metric_add(worker->metrics.stream_failures[reason], 1);
    if (request->state == REQUEST_ENDING || stream->attempt != request->attempt)
        return; /* nobody waits for it */
    sl_info("stream_failed", "req=%" PRIu64 " attempt=%u side=send reason=%s", request->id,
            stream->attempt, transfer_reason_name(reason));
    report_stream_failed(worker, request->id, stream->attempt, (Sluice__Reason)reason, true, true);
}

static void ended(struct worker *worker, struct worker_stream *stream,
                  const struct transfer_event *event)
{
    struct worker_request *request = stream->request;
    stream->stats = event->stats;
    stream_dead(worker, stream);
    if (request->state == REQUEST_ENDING) {
        request_settle(worker, request);
        return;
    }
    if (!stream->acked || stream->attempt != request->attempt)
        return; /* failed: a Redirect, a Release or the hold deadline follows */
    report_finished(worker, request, SLUICE__FINISH__FINISH_SENT, SLUICE__REASON__REASON_NONE, "");
    request_end(worker, request, TRANSFER_CANCELLED);
}

void sender_event(struct worker *worker, struct worker_stream *stream,
                  const struct transfer_event *event)
{
    switch (event->type) {
    case TRANSFER_EVENT_ACKED:
        stream->acked = true;
        break;
    case TRANSFER_EVENT_FAILED:
        failed(worker, stream, event->reason);
        break;
    case TRANSFER_EVENT_SEND_ENDED:
        ended(worker, stream, event);
        break;
    case TRANSFER_EVENT_WANTED:
    case TRANSFER_EVENT_SENT:
    case TRANSFER_EVENT_OPENED:
    case TRANSFER_EVENT_TAKEN:
    case TRANSFER_EVENT_LANDED:
    case TRANSFER_EVENT_SEALED:
    case TRANSFER_EVENT_BLOCK_BACK:
    case TRANSFER_EVENT_RECV_ENDED:
        break;
    }
}

/* The source no longer holds what the new attempt wants. */
static void not_held(struct worker *worker, const Sluice__Redirect *redirect, Sluice__Reason reason)
{
    report_stream_failed(worker, redirect->request, redirect->attempt, reason, false, true);
}

static sl_status add_redirected(struct worker *worker, struct worker_request *request,
                                const Sluice__Redirect *redirect)
{
    if (redirect->peer == NULL || redirect->peer->n_ranks == 0 || redirect->stream_key == 0)
        return sl_fail(SL_INVALID, "a redirect needs a key and a peer with an address");
    return stream_add(worker, request, redirect->stream_key, redirect->attempt, redirect->peer,
                      true);
}

void sender_redirect(struct worker *worker, const Sluice__Redirect *redirect)
{
    struct worker_request *request = worker_map_get(worker->by_id, redirect->request);
    if (request != NULL && redirect->attempt <= request->attempt)
        return; /* stale or repeated */
    if (request == NULL || request->mode != SLUICE__MODE__MODE_PREFILL) {
        not_held(worker, redirect, SLUICE__REASON__REASON_UNKNOWN);
        return;
    }
    for (struct worker_stream *old = request->streams; old != NULL; old = old->next)
        stream_cancel(worker, old, TRANSFER_CANCELLED);
    request->attempt = redirect->attempt;
    sl_status status = add_redirected(worker, request, redirect);
    if (status != SL_OK) {
        sl_warn("redirect_refused", "req=%" PRIu64 " attempt=%u error=\"%s\"", request->id,
                request->attempt, sl_error());
        not_held(worker, redirect,
                 status == SL_INVALID ? SLUICE__REASON__REASON_MISBEHAVED
                                      : SLUICE__REASON__REASON_FULL);
        request_end(worker, request, TRANSFER_CANCELLED);
        return;
    }
    if (request->state == REQUEST_HELD)
        request->hold_us = sl_now_us() + worker->args.limits.hold_us;
    if (request->sampled)
        report_token(worker, request, request->first_index, &request->first);
    stream_flush(worker, request->streams);
}
