/* The source's side: commands and messages become events of source.c's table, and its actions are
 * carried out here.
 *
 * Window: at most offers_per_lane sends of one stream (it has one lane), offers_per_session sends and
 * bytes_per_session bytes of one peer. Streams of a peer take turns, one offer each. What waits is
 * counted where it waits: with a final piece but no credit the destination's decode is short of blocks,
 * with credit but no window the network is slow.
 *
 * A stream's `blocks` are the scheduler's and pinned by it until SEND_ENDED, which comes when no send is
 * outstanding: only then does nothing read them any more. Runs on the transfer thread. */
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "transfer/digest.h"
#include "transfer/internal.h"

#include <inttypes.h>
#include <string.h>

static void on_event(struct transfer *transfer, struct send_stream *stream, enum source_event event,
                     enum transfer_reason reason);

struct send_stream *send_find(struct transfer *transfer, uint64_t key)
{
    struct send_stream *stream = transfer->sends[stream_bucket(key)];
    while (stream != NULL && stream->key != key)
        stream = stream->hash_next;
    return stream;
}

static void emit(struct transfer *transfer, const struct send_stream *stream,
                 enum transfer_event_type type)
{
    struct transfer_event event = {.type = type,
                                   .key = stream->key,
                                   .attempt = stream->attempt,
                                   .reason = stream->reason,
                                   .stats = stream->stats};
    memcpy(event.first_block, stream->source.first_block, sizeof(event.first_block));
    transfer_emit(transfer, &event);
}

static void send_simple(struct transfer *transfer, struct send_stream *stream, enum frame_type type)
{
    struct frame frame = {.type = type, .key = stream->key, .attempt = stream->attempt};
    if (type == FRAME_CANCEL)
        frame.cancel_reason = (uint16_t)stream->reason;
    else if (type == FRAME_CANCELLED)
        frame.quiet = stream->source.n_outstanding == 0;
    (void)peer_send(transfer, stream->peer, &frame);
}

static void send_open(struct transfer *transfer, struct send_stream *stream)
{
    if (stream->peer->suspect || stream->peer->mismatch)
        return; /* suspect: when it is heard again, the sweep opens */
    struct frame frame = {
        .type = FRAME_OPEN,
        .flags = transfer->args.verify ? FRAME_FLAG_DIGEST : 0,
        .key = stream->key,
        .attempt = stream->attempt,
        .open = {.n_blocks = stream->source.n_blocks,
                 .n_tokens = stream->n_tokens,
                 .n_classes = (uint16_t)transfer->shape.n_classes,
                 .n_lanes = 1,
                 .layers_per_piece = (uint16_t)transfer->shape.layers_per_piece,
                 .transport = transfer->transport->ops->frame_bit},
    };
    memcpy(frame.open.prefix_hash, stream->prefix_hash, sizeof(stream->prefix_hash));
    memcpy(frame.open.first_block, stream->source.first_block, sizeof(frame.open.first_block));
    stream->open_sent = peer_send(transfer, stream->peer, &frame);
}

static void send_seal(struct transfer *transfer, struct send_stream *stream)
{
    struct frame frame = {
        .type = FRAME_SEAL,
        .flags = transfer->args.verify ? FRAME_FLAG_DIGEST : 0,
        .key = stream->key,
        .attempt = stream->attempt,
        .seal = {.n_tokens = stream->n_tokens,
                 .n_blocks = stream->source.n_blocks,
                 .n_pieces = stream->source.n_pieces,
                 .token = stream->token.id,
                 .token_index = stream->token.index,
                 .flags = stream->token.eos ? FRAME_SEAL_EOS : 0,
                 .digest = {stream->digest[0], stream->digest[1]}},
    };
    (void)peer_send_note(transfer, stream->peer, &frame, &stream->token.note);
}

/* ---- stalls ---- */

static void note_stall(struct transfer *transfer, struct send_stream *stream)
{
    struct source *source = &stream->source;
    uint64_t *stall = NULL;
    if (source->state == SOURCE_SENDING && source_can_offer(source))
        stall = &stream->stats.window_stall_us;
    else if (source->state == SOURCE_SENDING && source_lacks_credit(source))
        stall = &stream->stats.credit_stall_us;
    if (stall == stream->stall)
        return;
    if (stream->stall != NULL)
        *stream->stall += transfer->now_us - stream->stall_since_us;
    stream->stall = stall;
    stream->stall_since_us = transfer->now_us;
}

/* ---- life and death of a stream ---- */

static void link_stream(struct transfer *transfer, struct send_stream *stream)
{
    struct send_stream **bucket = &transfer->sends[stream_bucket(stream->key)];
    stream->hash_next = *bucket;
    *bucket = stream;
    struct peer *peer = stream->peer;
    stream->next = peer->sends;
    if (peer->sends != NULL)
        peer->sends->previous = stream;
    peer->sends = stream;
    transfer->n_sends++;
}

static void unlink_stream(struct transfer *transfer, struct send_stream *stream)
{
    struct send_stream **at = &transfer->sends[stream_bucket(stream->key)];
    while (*at != stream)
        at = &(*at)->hash_next;
    *at = stream->hash_next;
    struct peer *peer = stream->peer;
    if (peer->turn == stream)
        peer->turn = stream->next;
    if (stream->previous != NULL)
        stream->previous->next = stream->next;
    else
        peer->sends = stream->next;
    if (stream->next != NULL)
        stream->next->previous = stream->previous;
    transfer->n_sends--;
}

static void finish(struct transfer *transfer, struct send_stream *stream)
{
    if (stream->over)
        return;
    stream->over = true;
    note_stall(transfer, stream);
    bool done = stream->source.state == SOURCE_DONE;
    stream->stats.busy_us = busy_total(&stream->busy, transfer->now_us);
    meter_stream(transfer->meter, stream->peer->send_link, done ? 0 : stream->reason,
                 &stream->stats);
    sl_debug("transfer_send_ended",
             "key=%" PRIx64 " peer=%s state=%s bytes=%" PRIu64 " pieces=%" PRIu64, stream->key,
             stream->peer->node_id, source_state_name(stream->source.state), stream->stats.bytes,
             stream->stats.pieces);
    emit(transfer, stream, TRANSFER_EVENT_SEND_ENDED);
    unlink_stream(transfer, stream);
    stream->hash_next = transfer->dead_sends;
    transfer->dead_sends = stream;
}

void send_reap(struct transfer *transfer)
{
    while (transfer->dead_sends != NULL) {
        struct send_stream *stream = transfer->dead_sends;
        transfer->dead_sends = stream->hash_next;
        source_fini(&stream->source);
        sl_free(stream);
    }
}

/* ---- actions ---- */

static void acked(struct transfer *transfer, struct send_stream *stream)
{
    struct transfer_stats *stats = &stream->stats;
    uint64_t end = stream->token.compute_end_us;
    stats->busy_us = busy_total(&stream->busy, transfer->now_us);
    stats->exposed_us = stream->last_sent_us > end ? stream->last_sent_us - end : 0;
    stats->handover_us = transfer->now_us > end ? transfer->now_us - end : 0;
    emit(transfer, stream, TRANSFER_EVENT_ACKED);
}

static void act(struct transfer *transfer, struct send_stream *stream, uint32_t actions)
{
    SL_ASSERT((actions & SOURCE_DO_BUG) == 0);
    if (actions & SOURCE_DO_WANTED)
        emit(transfer, stream, TRANSFER_EVENT_WANTED);
    if (actions & SOURCE_DO_SEAL)
        send_seal(transfer, stream);
    if (actions & SOURCE_DO_ACKED)
        acked(transfer, stream);
    if (actions & SOURCE_DO_CANCEL && stream->open_sent)
        send_simple(transfer, stream, FRAME_CANCEL);
    if (actions & SOURCE_DO_CANCELLED)
        send_simple(transfer, stream, FRAME_CANCELLED);
    if (actions & SOURCE_DO_TELL)
        emit(transfer, stream, TRANSFER_EVENT_FAILED);
    if (actions & SOURCE_DO_MISBEHAVED)
        peer_misbehaved(transfer, stream->peer, "message out of order for the source");
    if (actions & SOURCE_DO_CLOSE)
        peer_lose(transfer, stream->peer, TRANSFER_LOST, "stream");
    if (actions & SOURCE_DO_OFFER)
        (void)send_pump(transfer, stream->peer);
}

static bool is_live(enum source_state state)
{
    return state == SOURCE_OPEN || state == SOURCE_SENDING || state == SOURCE_SEALED;
}

static void on_event(struct transfer *transfer, struct send_stream *stream, enum source_event event,
                     enum transfer_reason reason)
{
    struct source *source = &stream->source;
    enum source_state before = source->state;
    struct source_step step = source_next(before, event, source_facts(source));
    if (is_live(before) && !is_live(step.next) && step.next != SOURCE_DONE) {
        stream->reason = reason;
        sl_debug("transfer_send_failing",
                 "key=%" PRIx64 " peer=%s state=%s reason=%s outstanding=%u", stream->key,
                 stream->peer->node_id, source_state_name(before), transfer_reason_name(reason),
                 source->n_outstanding);
    }
    source->state = step.next;
    if (step.next != before)
        stream->state_since_us = transfer->now_us;
    act(transfer, stream, step.actions);
    if (source->state == SOURCE_DONE || source->state == SOURCE_ENDED)
        finish(transfer, stream);
}

/* ---- offers ---- */

static bool window_open(const struct transfer *transfer, const struct peer *peer)
{
    return peer->session == SESSION_UP && peer->n_sends < peer->offers_per_session &&
           peer->bytes_in_flight < transfer->args.limits.bytes_per_session;
}

static bool offer_piece(struct transfer *transfer, struct send_stream *stream)
{
    struct peer *peer = stream->peer;
    struct piece piece;
    if (!source_take(&stream->source, &piece))
        return false;
    uint32_t block_id = stream->blocks[piece.class_index][piece.block];
    void *bytes = transfer_piece_address(transfer, &piece, block_id);
    struct frame frame = {
        .type = FRAME_OFFER,
        .key = stream->key,
        .incarnation = peer->incarnation,
        .attempt = stream->attempt,
        .offer = {.class_index = (uint16_t)piece.class_index,
                  .first_layer = (uint16_t)piece.first_layer,
                  .n_layers = (uint16_t)piece.n_layers,
                  .block = piece.block,
                  .piece = piece.number,
                  .bytes = (uint32_t)piece.bytes},
    };
    if (transfer->args.verify) {
        frame.offer.flags = FRAME_FLAG_DIGEST;
        frame.offer.digest = digest_bytes(bytes, piece.bytes, stream->key);
    }
    struct transfer_op *op = transfer_op_take(transfer);
    *op = (struct transfer_op){.send = stream,
                               .peer = peer,
                               .piece = piece,
                               .block_id = block_id,
                               .digest = frame.offer.digest,
                               .begun_us = transfer->now_us};
    uint8_t header[FRAME_BYTES_MAX];
    size_t n = frame_pack(&frame, header);
    peer->n_sends++;
    peer->bytes_in_flight += piece.bytes;
    busy_begin(&stream->busy, transfer->now_us);
    meter_begin(peer->send_link, transfer->now_us);
    sl_status status = SL_PEER;
    if (!sl_fault_hit("transfer_send", piece.block))
        status = transfer->transport->ops->send_data(peer->connection, header, n, bytes,
                                                     piece.bytes, op);
    if (status != SL_OK)
        send_completed(transfer, op, TRANSFER_LOST);
    return true;
}

/* The stream whose turn it is, if it may offer; the turn moves on. */
static struct send_stream *take_turn(struct transfer *transfer, struct peer *peer)
{
    for (uint32_t tries = 0; tries < transfer->n_sends + 1; tries++) {
        struct send_stream *stream = peer->turn != NULL ? peer->turn : peer->sends;
        if (stream == NULL)
            return NULL;
        peer->turn = stream->next;
        if (stream->source.state == SOURCE_SENDING &&
            stream->source.n_outstanding < peer->offers_per_lane &&
            source_can_offer(&stream->source))
            return stream;
    }
    return NULL;
}

bool send_pump(struct transfer *transfer, struct peer *peer)
{
    bool left = false;
    while (window_open(transfer, peer)) {
        struct send_stream *stream = take_turn(transfer, peer);
        if (stream == NULL)
            break;
        left |= offer_piece(transfer, stream);
    }
    for (struct send_stream *stream = peer->sends; stream != NULL; stream = stream->next)
        note_stall(transfer, stream);
    return left;
}

void send_completed(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason)
{
    struct send_stream *stream = op->send;
    struct peer *peer = op->peer;
    bool ok = reason == 0;
    source_sent(&stream->source, ok);
    peer->n_sends--;
    peer->bytes_in_flight -= op->piece.bytes;
    busy_end(&stream->busy, transfer->now_us);
    meter_end(transfer->meter, peer->send_link, transfer->now_us, op->begun_us, op->piece.bytes,
              ok);
    if (ok) {
        stream->stats.bytes += op->piece.bytes;
        stream->stats.pieces++;
        stream->last_sent_us = transfer->now_us;
        if (transfer->args.verify)
            digest_add(stream->digest, op->piece.number, op->digest);
    }
    transfer_op_give(transfer, op);
    on_event(transfer, stream, ok ? SOURCE_ON_SENT : SOURCE_ON_SEND_FAILED, reason);
    (void)send_pump(transfer, peer); /* the window of other streams may have opened */
}

/* ---- commands ---- */

static void fail_unborn(struct transfer *transfer, const struct command *command,
                        enum transfer_reason reason)
{
    sl_warn("transfer_send_refused", "key=%" PRIx64 " reason=%s error=\"%s\"", command->key,
            transfer_reason_name(reason), sl_error());
    struct transfer_event event = {.type = TRANSFER_EVENT_FAILED,
                                   .key = command->key,
                                   .attempt = command->open.attempt,
                                   .reason = reason};
    transfer_emit(transfer, &event);
    event.type = TRANSFER_EVENT_SEND_ENDED;
    transfer_emit(transfer, &event);
}

static void command_open(struct transfer *transfer, const struct command *command)
{
    const struct send_stream *known = send_find(transfer, command->key);
    if (known != NULL) {
        transfer_refuse_key(transfer, command, known->attempt);
        return;
    }
    const struct command_peer *to = &command->open.peer;
    struct peer *peer =
        peer_get(transfer, to->node_id, to->incarnation, to->address, to->address_bytes);
    if (peer == NULL ||
        transfer->n_sends + transfer->n_receives >= transfer->args.limits.streams_max) {
        fail_unborn(transfer, command, TRANSFER_FULL);
        return;
    }
    struct send_stream *stream = sl_zalloc(1, sizeof(*stream));
    if (source_init(&stream->source, &transfer->shape, command->open.n_blocks,
                    command->open.first_block) != SL_OK) {
        sl_free(stream);
        fail_unborn(transfer, command, TRANSFER_FULL);
        return;
    }
    stream->key = command->key;
    stream->attempt = command->open.attempt;
    stream->n_tokens = command->open.n_tokens;
    stream->peer = peer;
    memcpy(stream->blocks, command->open.blocks, sizeof(stream->blocks));
    memcpy(stream->prefix_hash, command->open.prefix_hash, sizeof(stream->prefix_hash));
    stream->state_since_us = transfer->now_us;
    stream->bound = peer->session == SESSION_CONNECTING || peer->session == SESSION_UP;
    link_stream(transfer, stream);
    if (peer->mismatch)
        on_event(transfer, stream, SOURCE_ON_PEER_REFUSE, TRANSFER_MISMATCH);
    else if (peer->session == SESSION_UP)
        send_open(transfer, stream);
}

void send_command(struct transfer *transfer, const struct command *command)
{
    if (command->type == COMMAND_SEND_OPEN) {
        command_open(transfer, command);
        return;
    }
    struct send_stream *stream = send_find(transfer, command->key);
    if (stream == NULL)
        return; /* it ended while the command was on its way */
    if (command->type == COMMAND_SEND_READY) {
        bool live = is_live(stream->source.state);
        if (live)
            source_final(&stream->source, command->ready.first_block, command->ready.end_block,
                         command->ready.layer_ends);
        if (stream->source.state == SOURCE_OPEN || stream->source.state == SOURCE_SENDING)
            on_event(transfer, stream, SOURCE_ON_FINAL, 0);
    } else if (command->type == COMMAND_SEND_TOKEN) {
        stream->token = command->token;
        stream->source.token_known = true;
        on_event(transfer, stream, SOURCE_ON_TOKEN, 0);
    } else {
        on_event(transfer, stream, SOURCE_ON_CANCEL, command->reason);
    }
}

/* ---- messages ---- */

static void on_want(struct transfer *transfer, struct send_stream *stream,
                    const struct frame *frame)
{
    if (stream->source.state == SOURCE_OPEN &&
        !source_want(&stream->source, frame->want.first_block, frame->want.credit)) {
        peer_misbehaved(transfer, stream->peer, "want outside the stream");
        return;
    }
    on_event(transfer, stream, SOURCE_ON_WANT, 0);
}

static void on_grant(struct transfer *transfer, struct send_stream *stream,
                     const struct frame *frame)
{
    if (stream->source.state == SOURCE_SENDING &&
        !source_grant(&stream->source, frame->grant.credit)) {
        peer_misbehaved(transfer, stream->peer, "credit beyond the stream");
        return;
    }
    on_event(transfer, stream, SOURCE_ON_GRANT, 0);
}

void send_message(struct transfer *transfer, struct peer *peer, const struct frame *frame)
{
    struct send_stream *stream = send_find(transfer, frame->key);
    if (stream == NULL) {
        transfer_count_unknown(transfer, peer, frame);
        return;
    }
    if (stream->peer != peer || frame->lane != 0 || frame->attempt != stream->attempt) {
        peer_misbehaved(transfer, peer, "message for another peer's stream");
        return;
    }
    switch ((int)frame->type) {
    case FRAME_WANT:
        on_want(transfer, stream, frame);
        break;
    case FRAME_GRANT:
        on_grant(transfer, stream, frame);
        break;
    case FRAME_SEAL_ACK:
        on_event(transfer, stream, SOURCE_ON_SEAL_ACK, 0);
        break;
    case FRAME_REFUSE:
        on_event(transfer, stream, SOURCE_ON_PEER_REFUSE,
                 (enum transfer_reason)frame->refuse.reason);
        break;
    default:
        SL_ASSERT(frame->type == FRAME_CANCEL);
        on_event(transfer, stream, SOURCE_ON_PEER_CANCEL,
                 (enum transfer_reason)frame->cancel_reason);
        break;
    }
}

void send_lost(struct transfer *transfer, struct send_stream *stream, enum transfer_reason reason)
{
    on_event(transfer, stream, SOURCE_ON_LOST, reason);
}

void send_refused(struct transfer *transfer, struct send_stream *stream,
                  enum transfer_reason reason)
{
    on_event(transfer, stream, SOURCE_ON_PEER_REFUSE, reason);
}

void send_session_up(struct transfer *transfer, struct peer *peer)
{
    for (struct send_stream *stream = peer->sends; stream != NULL; stream = stream->next) {
        if (stream->source.state == SOURCE_OPEN && !stream->open_sent)
            send_open(transfer, stream);
    }
}

/* ---- time ---- */

static uint64_t patience_us(const struct transfer_limits *limits, const struct send_stream *stream)
{
    switch ((int)stream->source.state) {
    case SOURCE_OPEN:
        return limits->open_us;
    case SOURCE_SEALED:
        return limits->seal_us;
    case SOURCE_FAILING:
        return limits->drain_us;
    default:
        return UINT64_MAX; /* SENDING: the request's own deadline, which the scheduler keeps */
    }
}

void send_sweep(struct transfer *transfer, struct send_stream *stream)
{
    if (stream->over)
        return;
    if (stream->source.state == SOURCE_OPEN && !stream->open_sent &&
        stream->peer->session == SESSION_UP)
        send_open(transfer, stream);
    uint64_t patience = patience_us(&transfer->args.limits, stream);
    if (transfer->now_us - stream->state_since_us < patience)
        return;
    if (stream->source.state == SOURCE_FAILING) {
        meter_count(transfer->meter, METER_FORCED_CLOSES);
        sl_warn("transfer_forced_close", "peer=%s key=%" PRIx64 " outstanding=%u",
                stream->peer->node_id, stream->key, stream->source.n_outstanding);
        stream->state_since_us = transfer->now_us;
    }
    on_event(transfer, stream, SOURCE_ON_DEADLINE, TRANSFER_DEADLINE);
}
