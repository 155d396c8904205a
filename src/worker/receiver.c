/* The destination side of a stream: gives blocks, learns what landed, starts the sequence.
 *
 *   expect (at Submit) ─► admit (promise) ─► one id for each id TAKEN ─► SEALED ─► ACTIVE
 *
 * A promised block is taken only when the transfer layer can use it: a ring of ids per stream, refilled
 * one for one, lowest block first and for each block its classes (transfer.h has the reason). A class
 * with a window receives what the token after the prompt reads; its table begins there. Until the seal
 * every block of the stream counts as landing. `given` are the ids that the transfer layer may still
 * write to; `landed` says which index an id became. A given id comes back by BLOCK_BACK, or all of them
 * by SEALED: nothing is released before, whatever happened to the request, because a posted receive
 * cannot be withdrawn. Ids that crossed the stream's end on their way come back after RECV_ENDED; the
 * record waits for them.
 *
 * The seal brings the first token. It is put out again from here, with its logprobs (note.h), so that
 * nothing the source said after the seal is needed, nor what it said before has to come first
 * (docs/transfer.md section 9, rule c). */
#include "base/clock.h"
#include "base/log.h"
#include "worker/note.h"
#include "worker/parts.h"

#include <inttypes.h>

static uint32_t blocks_of(const struct worker *worker, const struct worker_request *request)
{
    return kv_blocks_of(&worker->info->geometry, request->n_submitted);
}

static bool expect(struct worker *worker, struct worker_stream *stream)
{
    const struct worker_request *request = stream->request;
    struct transfer_recv_args args = {
        .key = stream->key,
        .attempt = stream->attempt,
        .peer = stream->peer,
        .n_blocks = blocks_of(worker, request),
        .n_tokens = request->n_submitted,
    };
    for (uint32_t c = 0; c < worker->n_classes; c++)
        args.first_block[c] = kv_window_first(&worker->info->geometry, c, request->n_submitted);
    request_prefix(worker, request, args.prefix_hash);
    if (stream_blocked(worker, stream, transfer_recv_expect(worker->args.transfer, &args)))
        return false;
    stream->opened = true;
    return true;
}

/* The class of the next block to be given; false when none is lacking any more. */
static bool next_lacking(const struct worker *worker, struct worker_stream *stream, uint32_t *c_out)
{
    uint32_t n_blocks = blocks_of(worker, stream->request);
    while (stream->next_block < n_blocks) {
        uint32_t block = stream->next_block, c = stream->next_class++;
        if (stream->next_class == worker->n_classes) {
            stream->next_class = 0;
            stream->next_block++;
        }
        if (block >= stream->landing[c].first_block) {
            *c_out = c;
            return true;
        }
    }
    return false;
}

/* Takes up to n promised blocks into `pending`. */
static void take(struct worker *worker, struct worker_stream *stream, uint32_t n)
{
    uint32_t c;
    for (; n > 0 && stream->n_pending < TRANSFER_RING_BLOCKS_MAX; n--) {
        if (!next_lacking(worker, stream, &c))
            return;
        struct worker_landing *landing = &stream->landing[c];
        kv_block_id block = blocks_take_promised(worker, stream->request, c);
        kv_pool_landing_begin(worker->pools[c], block);
        worker->landing_position[c][block] = landing->n_given;
        landing->given[landing->n_given++] = block;
        stream->pending[stream->n_pending++] =
            (struct transfer_block){.class_index = c, .id = block};
    }
}

void receiver_flush(struct worker *worker, struct worker_stream *stream)
{
    struct transfer *transfer = worker->args.transfer;
    if (stream->failed || stream->request->state == REQUEST_ASSEMBLING)
        return;
    if (!stream->opened && !expect(worker, stream))
        return;
    if (stream->request->state != REQUEST_LANDING)
        return;
    if (!stream->admit_told) {
        uint32_t first_blocks[KV_CLASSES_MAX];
        for (uint32_t c = 0; c < worker->n_classes; c++)
            first_blocks[c] = stream->landing[c].first_block;
        if (stream_blocked(worker, stream,
                           transfer_recv_admit(transfer, stream->key, first_blocks, stream->pending,
                                               stream->n_pending)))
            return;
        stream->admit_told = true;
        stream->n_pending = 0;
    }
    if (stream->n_pending > 0 &&
        !stream_blocked(
            worker, stream,
            transfer_recv_refill(transfer, stream->key, stream->pending, stream->n_pending)))
        stream->n_pending = 0;
}

void receiver_admit(struct worker *worker, struct worker_request *request)
{
    struct worker_stream *stream = request->streams;
    SL_ASSERT(stream != NULL && !stream->dead);
    stream->next_block = blocks_of(worker, request);
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        stream->landing[c].first_block = request->classes[c].table.n;
        if (stream->landing[c].first_block < stream->next_block)
            stream->next_block = stream->landing[c].first_block;
    }
    take(worker, stream, TRANSFER_RING_BLOCKS_MAX);
    stream_flush(worker, stream);
}

/* The id is ours again; its place in `given` goes to the last one. */
static void given_remove(struct worker *worker, struct worker_stream *stream, uint32_t c,
                         kv_block_id block)
{
    struct worker_landing *landing = &stream->landing[c];
    uint32_t at = worker->landing_position[c][block];
    SL_ASSERT(at < landing->n_given && landing->given[at] == block);
    kv_block_id last = landing->given[--landing->n_given];
    landing->given[at] = last;
    worker->landing_position[c][last] = at;
    kv_pool_landing_end(worker->pools[c], block);
}

static bool is_given(const struct worker *worker, const struct worker_stream *stream, uint32_t c,
                     kv_block_id block)
{
    if (c >= worker->n_classes || block >= worker->info->n_blocks[c])
        return false;
    uint32_t at = worker->landing_position[c][block];
    return at < stream->landing[c].n_given && stream->landing[c].given[at] == block;
}

static void block_back(struct worker *worker, struct worker_stream *stream, uint32_t c,
                       kv_block_id block)
{
    if (!is_given(worker, stream, c, block))
        return;
    given_remove(worker, stream, c, block);
    blocks_give_back(worker, stream->request, c, block);
}

/* The transfer layer has given all of them back at once. */
static void release_given(struct worker *worker, struct worker_stream *stream)
{
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        struct worker_landing *landing = &stream->landing[c];
        while (landing->n_given > 0)
            block_back(worker, stream, c, landing->given[landing->n_given - 1]);
    }
}

static bool has_given(const struct worker *worker, const struct worker_stream *stream)
{
    bool some = false;
    for (uint32_t c = 0; c < worker->n_classes; c++)
        some |= stream->landing[c].n_given > 0;
    return some;
}

static void settle(struct worker *worker, struct worker_stream *stream)
{
    struct worker_request *request = stream->request;
    if (!stream->ended || has_given(worker, stream))
        return;
    if (!stream->dead)
        stream_dead(worker, stream);
    request_settle(worker, request);
}

void receiver_return_pending(struct worker *worker, struct worker_stream *stream)
{
    while (stream->n_pending > 0) {
        const struct transfer_block *block = &stream->pending[--stream->n_pending];
        block_back(worker, stream, block->class_index, block->id);
    }
}

static void failed(struct worker *worker, struct worker_stream *stream, enum transfer_reason reason)
{
    struct worker_request *request = stream->request;
    if (stream->failed)
        return;
    stream->failed = true;
    sl_metric_add(worker->metrics.stream_failures[reason], 1);
    if (request->state == REQUEST_ENDING || request->decoding)
        return;
    sl_info("stream_failed", "req=%" PRIu64 " attempt=%u side=recv reason=%s", request->id,
            stream->attempt, transfer_reason_name(reason));
    report_stream_failed(worker, request->id, stream->attempt, (Sluice__Reason)reason, false,
                         false);
    request_end(worker, request, reason);
}

/* Every block has landed: the table is complete. */
static void adopt(struct worker *worker, struct worker_stream *stream)
{
    struct worker_request *request = stream->request;
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        const struct worker_landing *landing = &stream->landing[c];
        for (uint32_t i = landing->first_block; i < blocks_of(worker, request); i++) {
            given_remove(worker, stream, c, landing->landed[i]);
            kv_block_table_append(&request->classes[c].table, landing->landed[i]);
        }
    }
    uint32_t held = request->n_computed;
    if (request->n_submitted > held)
        sl_metric_add(worker->metrics.fetched, request->n_submitted - held);
    request->n_computed = request->n_submitted;
    blocks_insert(worker, request);
}

static bool all_landed(const struct worker *worker, const struct worker_stream *stream)
{
    uint32_t n_blocks = blocks_of(worker, stream->request);
    for (uint32_t c = 0; c < worker->n_classes; c++)
        for (uint32_t i = stream->landing[c].first_block; i < n_blocks; i++)
            if (stream->landing[c].landed[i] == KV_BLOCK_NONE)
                return false;
    return true;
}

/* The token that the seal brings, with what the source said of it where that is wanted. */
static sl_status token_of(const struct worker *worker, const struct worker_request *request,
                          const struct transfer_event *event, struct model_token *token)
{
    uint32_t vocab = worker->info->vocab;
    *token = (struct model_token){.id = event->token};
    if (event->token_index != request->first_index || event->token >= vocab)
        return sl_fail(SL_INVALID, "token %u of index %u; want one below %u, of index %u",
                       event->token, event->token_index, vocab, request->first_index);
    int32_t n_top = request->sampling.n_logprobs;
    return n_top < 0 ? SL_OK : worker_note_unpack(&event->note, (uint32_t)n_top, vocab, token);
}

static void sealed(struct worker *worker, struct worker_stream *stream,
                   const struct transfer_event *event)
{
    struct worker_request *request = stream->request;
    struct model_token token;
    if (request->state != REQUEST_LANDING) { /* cancelled meanwhile */
        release_given(worker, stream);
        return;
    }
    if (token_of(worker, request, event, &token) != SL_OK) {
        sl_warn("seal_refused", "req=%" PRIu64 " error=\"%s\"", request->id, sl_error());
        release_given(worker, stream);
        failed(worker, stream, TRANSFER_MISBEHAVED);
        return;
    }
    if (!all_landed(worker, stream)) {
        release_given(worker, stream);
        failed(worker, stream, TRANSFER_MISBEHAVED);
        return;
    }
    adopt(worker, stream);
    request_take_token(request, event->token);
    request->decoding = true;
    request->stepped_us = sl_now_us();
    report_token(worker, request, request->first_index, &token);
    Sluice__Finish finish = step_finish_of(request, event->token, request->first_index);
    if (finish == SLUICE__FINISH__FINISH_NONE) {
        request_move(worker, request, REQUEST_ACTIVE);
        return;
    }
    report_finished(worker, request, finish, SLUICE__REASON__REASON_NONE, "");
    request_end(worker, request, TRANSFER_CANCELLED);
}

static void landed(struct worker *worker, struct worker_stream *stream,
                   const struct transfer_event *event)
{
    if (event->block_index < blocks_of(worker, stream->request) &&
        is_given(worker, stream, event->class_index, event->block_id))
        stream->landing[event->class_index].landed[event->block_index] = event->block_id;
}

static void ended(struct worker *worker, struct worker_stream *stream,
                  const struct transfer_event *event)
{
    stream->stats = event->stats;
    stream->ended = true;
    receiver_return_pending(worker, stream);
    settle(worker, stream);
}

void receiver_event(struct worker *worker, struct worker_stream *stream,
                    const struct transfer_event *event)
{
    switch (event->type) {
    case TRANSFER_EVENT_TAKEN:
        if (stream->request->state == REQUEST_LANDING) {
            take(worker, stream, 1);
            stream_flush(worker, stream);
        }
        break;
    case TRANSFER_EVENT_LANDED:
        landed(worker, stream, event);
        break;
    case TRANSFER_EVENT_SEALED:
        sealed(worker, stream, event);
        break;
    case TRANSFER_EVENT_BLOCK_BACK:
        block_back(worker, stream, event->class_index, event->block_id);
        settle(worker, stream);
        break;
    case TRANSFER_EVENT_RECV_ENDED:
        ended(worker, stream, event);
        break;
    case TRANSFER_EVENT_FAILED:
        failed(worker, stream, event->reason);
        break;
    case TRANSFER_EVENT_OPENED: /* the transfer layer answers by itself once it was admitted */
    case TRANSFER_EVENT_WANTED:
    case TRANSFER_EVENT_SENT:
    case TRANSFER_EVENT_ACKED:
    case TRANSFER_EVENT_SEND_ENDED:
        break;
    }
}
