/* What both ends of a stream share: its record, commands to the transfer layer, its events.
 *
 *   added ──flush──► opened ──event ENDED──► dead
 *     └────cancel before it was told──────────►┘
 *
 * The transfer layer's command ring is bounded: a command that does not fit is not kept there, it is
 * derived again from the record (what is true against what was told) at the next turn. So a flush may
 * be called at any time, does nothing twice, and the order of one stream's commands is the order of
 * the code in sender_flush and receiver_flush. Only block ids that were taken for a destination are
 * waiting in the record itself. */
#include "base/log.h"
#include "worker/parts.h"

#include <inttypes.h>
#include <string.h>

static bool copy_peer(struct worker_request *request, struct transfer_peer *to,
                      const Sluice__Peer *peer)
{
    const ProtobufCBinaryData *address = &peer->ranks[0]->address;
    void *bytes = sl_arena_try_alloc(&request->arena, 1, address->len);
    char *id = sl_arena_try_strndup(&request->arena, peer->node_id, strlen(peer->node_id));
    if (bytes == NULL || id == NULL)
        return false;
    memcpy(bytes, address->data, address->len);
    *to = (struct transfer_peer){
        .node_id = id,
        .incarnation = peer->incarnation,
        .address = bytes,
        .address_bytes = address->len,
    };
    return true;
}

static bool allocate_landing(const struct worker *worker, struct worker_request *request,
                             struct worker_stream *stream)
{
    uint32_t n = request->blocks_max;
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        struct worker_landing *landing = &stream->landing[c];
        landing->given = sl_arena_try_alloc(&request->arena, n, sizeof(*landing->given));
        landing->landed = sl_arena_try_alloc(&request->arena, n, sizeof(*landing->landed));
        if (landing->given == NULL || landing->landed == NULL)
            return false;
        for (uint32_t i = 0; i < n; i++)
            landing->landed[i] = KV_BLOCK_NONE;
    }
    return true;
}

sl_status stream_add(struct worker *worker, struct worker_request *request, uint64_t key,
                     uint32_t attempt, const Sluice__Peer *peer, bool source)
{
    const struct worker_stream *taken = worker_map_get(worker->by_key, key);
    if (taken != NULL)
        return sl_fail(SL_INVALID,
                       "stream_key %016" PRIx64 " is taken by request %" PRIu64 ", attempt %u", key,
                       taken->request->id, taken->attempt);
    if (request->n_streams == worker->args.limits.streams_per_request)
        return sl_fail(SL_EXHAUSTED, "a request of %u streams; at most %u", request->n_streams + 1,
                       worker->args.limits.streams_per_request);
    struct worker_stream *stream = sl_arena_try_alloc(&request->arena, 1, sizeof(*stream));
    if (stream == NULL || !copy_peer(request, &stream->peer, peer) ||
        (!source && !allocate_landing(worker, request, stream)) ||
        !worker_map_put(worker->by_key, key, stream))
        return sl_fail(SL_NO_MEMORY, "stream of %u blocks", request->blocks_max);
    stream->request = request;
    stream->key = key;
    stream->attempt = attempt;
    stream->source = source;
    stream->next = request->streams;
    request->streams = stream;
    request->n_streams++;
    return SL_OK;
}

void stream_dead(struct worker *worker, struct worker_stream *stream)
{
    SL_ASSERT(!stream->dead);
    stream->dead = true;
    if (!stream->source)
        receiver_return_pending(worker, stream);
    worker_map_remove(worker->by_key, stream->key);
}

void stream_cancel(struct worker *worker, struct worker_stream *stream, enum transfer_reason why)
{
    if (stream->dead || stream->cancelled)
        return;
    stream->cancelled = true;
    stream->cancel_reason = why;
    if (!stream->opened)
        stream_dead(worker, stream);
    else
        stream_flush(worker, stream);
}

static void flush_cancel(struct worker *worker, struct worker_stream *stream)
{
    struct transfer *transfer = worker->args.transfer;
    if (stream->cancel_told)
        return;
    sl_status status = stream->source
                           ? transfer_send_cancel(transfer, stream->key, stream->cancel_reason)
                           : transfer_recv_cancel(transfer, stream->key, stream->cancel_reason);
    if (status == SL_AGAIN)
        worker->commands_blocked = true;
    else
        stream->cancel_told = true;
}

void stream_flush(struct worker *worker, struct worker_stream *stream)
{
    if (stream->dead || stream->ended)
        return;
    if (stream->cancelled)
        flush_cancel(worker, stream);
    else if (stream->source)
        sender_flush(worker, stream);
    else
        receiver_flush(worker, stream);
}

void stream_flush_request(struct worker *worker, struct worker_request *request)
{
    struct worker_stream *older;
    for (struct worker_stream *stream = request->streams; stream != NULL; stream = older) {
        older = stream->next; /* a flush may end its stream; that of the last, the request */
        stream_flush(worker, stream);
    }
}

void stream_flush_all(struct worker *worker)
{
    worker->commands_blocked = false;
    for (uint32_t state = 0; state < REQUEST_STATE_COUNT; state++) {
        struct worker_request *next;
        for (struct worker_request *r = worker->lists[state].head; r != NULL; r = next) {
            next = r->next;
            stream_flush_request(worker, r);
        }
    }
}

bool stream_blocked(struct worker *worker, struct worker_stream *stream, sl_status status)
{
    if (status == SL_OK)
        return false;
    if (status == SL_AGAIN) {
        worker->commands_blocked = true;
        return true;
    }
    /* A call that is refused for good is a stream that failed: said once, by the same path. */
    sl_warn("stream_refused", "req=%" PRIu64 " attempt=%u key=%016" PRIx64 " error=\"%s\"",
            stream->request->id, stream->attempt, stream->key, sl_error());
    struct transfer_event event = {.type = TRANSFER_EVENT_FAILED,
                                   .key = stream->key,
                                   .attempt = stream->attempt,
                                   .reason = TRANSFER_LOST};
    if (!stream->opened)
        stream_dead(worker, stream);
    else
        stream_cancel(worker, stream, TRANSFER_LOST);
    if (stream->source)
        sender_event(worker, stream, &event);
    else
        receiver_event(worker, stream, &event);
    return true;
}

bool stream_poll(struct worker *worker)
{
    if (worker->args.transfer == NULL)
        return false;
    bool some = false;
    struct transfer_event event;
    while (transfer_poll(worker->args.transfer, &event)) {
        some = true;
        struct worker_stream *stream = worker_map_get(worker->by_key, event.key);
        if (stream == NULL)
            continue; /* an open of a stream that we do not expect yet, or not any more */
        sl_trace("stream_event", "req=%" PRIu64 " type=%d block=%u", stream->request->id,
                 (int)event.type, event.block_index);
        if (stream->source)
            sender_event(worker, stream, &event);
        else
            receiver_event(worker, stream, &event);
    }
    return some;
}
