/* The destination's side: messages, offers and commands become events of destination.c's table, and its
 * actions are carried out here.
 *
 * The one place where a peer's bytes get an address is recv_offer: it finds the stream by key, checks
 * that the offer comes in the session of the stream's peer, that it is a rendezvous, and that shape,
 * length, credit and bitmaps agree; only then a block is taken from the ring and its address inside the
 * pool is handed to the transport. Messages of the link's probe get one outside the pool (probe.c).
 * Whatever else comes is refused by the callback's status.
 *
 * A stream that is over leaves a tombstone (key, reason, whether it was sealed) for a while: a late open
 * or offer is refused with its reason, a repeated seal is acknowledged again. The table is a ring of
 * fixed size; when it is full the oldest is forgotten, and what is unknown is refused as well.
 * Quarantine is not needed here: both transports copy on this side (docs/transfer.md section 10), so a
 * block is reusable when its receive's callback has run. Runs on the transfer thread. */
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "transfer/digest.h"
#include "transfer/internal.h"

#include <inttypes.h>
#include <string.h>

struct recv_stream *recv_find(struct transfer *transfer, uint64_t key)
{
    struct recv_stream *stream = transfer->receives[stream_bucket(key)];
    while (stream != NULL && stream->key != key)
        stream = stream->hash_next;
    return stream;
}

/* ---- tombstones ---- */

static struct tombstone *tombstone_find(struct transfer *transfer, uint64_t key)
{
    uint32_t at = transfer->tombstone_heads[stream_bucket(key)];
    while (at != 0 && transfer->tombstones[at - 1].key != key)
        at = transfer->tombstones[at - 1].hash_next;
    return at == 0 ? NULL : &transfer->tombstones[at - 1];
}

static void tombstone_drop(struct transfer *transfer, struct tombstone *stone)
{
    uint32_t index = (uint32_t)(stone - transfer->tombstones) + 1;
    uint32_t *at = &transfer->tombstone_heads[stream_bucket(stone->key)];
    while (*at != index)
        at = &transfer->tombstones[*at - 1].hash_next;
    *at = stone->hash_next;
    stone->used = false;
}

static void tombstone_add(struct transfer *transfer, const struct recv_stream *stream)
{
    struct tombstone *stone = &transfer->tombstones[transfer->tombstone_next];
    transfer->tombstone_next = (transfer->tombstone_next + 1) % TOMBSTONES_MAX;
    if (stone->used) { /* full: the oldest is forgotten */
        tombstone_drop(transfer, stone);
        transfer->tombstone_oldest = transfer->tombstone_next;
    }
    uint32_t *head = &transfer->tombstone_heads[stream_bucket(stream->key)];
    *stone = (struct tombstone){
        .key = stream->key,
        .until_us = transfer->now_us + transfer->args.limits.tombstone_us,
        .used = true,
        .sealed = stream->destination.state == DESTINATION_RUNNING,
        .reason = stream->reason != 0 ? stream->reason : TRANSFER_UNKNOWN,
        .peer_incarnation = stream->peer->incarnation,
        .hash_next = *head,
    };
    *head = (uint32_t)(stone - transfer->tombstones) + 1;
}

void recv_sweep_tombstones(struct transfer *transfer)
{
    /* They all live equally long, so the ring is in the order of their ends. */
    while (transfer->tombstone_oldest != transfer->tombstone_next) {
        struct tombstone *stone = &transfer->tombstones[transfer->tombstone_oldest];
        if (stone->used && transfer->now_us < stone->until_us)
            return;
        if (stone->used)
            tombstone_drop(transfer, stone);
        transfer->tombstone_oldest = (transfer->tombstone_oldest + 1) % TOMBSTONES_MAX;
    }
}

/* ---- life and death of a stream ---- */

static void emit(struct transfer *transfer, const struct recv_stream *stream,
                 enum transfer_event_type type)
{
    struct transfer_event event = {.type = type,
                                   .key = stream->key,
                                   .attempt = stream->attempt,
                                   .reason = stream->reason,
                                   .stats = stream->stats};
    transfer_emit(transfer, &event);
}

static void emit_block(struct transfer *transfer, uint64_t key, uint32_t attempt,
                       enum transfer_event_type type, uint32_t block_index,
                       const struct transfer_block *block)
{
    struct transfer_event event = {.type = type,
                                   .key = key,
                                   .attempt = attempt,
                                   .class_index = block->class_index,
                                   .block_index = block_index,
                                   .block_id = block->id};
    transfer_emit(transfer, &event);
}

/* What an open and a Submit must agree on. */
struct stream_size {
    uint32_t n_blocks, n_tokens;
    const uint32_t *first_block; /* [n_classes] */
    const uint8_t *prefix_hash;
};

static struct recv_stream *make_stream(struct transfer *transfer, struct peer *peer, uint64_t key,
                                       uint32_t attempt, const struct stream_size *size)
{
    struct recv_stream *stream = sl_zalloc(1, sizeof(*stream));
    destination_init(&stream->destination, size->n_blocks, size->n_tokens, transfer->args.n_classes,
                     size->first_block);
    stream->key = key;
    stream->attempt = attempt;
    memcpy(stream->prefix_hash, size->prefix_hash, sizeof(stream->prefix_hash));
    stream->peer = peer;
    stream->state_since_us = transfer->now_us;
    struct recv_stream **bucket = &transfer->receives[stream_bucket(key)];
    stream->hash_next = *bucket;
    *bucket = stream;
    stream->next = peer->receives;
    if (peer->receives != NULL)
        peer->receives->previous = stream;
    peer->receives = stream;
    transfer->n_receives++;
    return stream;
}

static void unlink_stream(struct transfer *transfer, struct recv_stream *stream)
{
    struct recv_stream **at = &transfer->receives[stream_bucket(stream->key)];
    while (*at != stream)
        at = &(*at)->hash_next;
    *at = stream->hash_next;
    if (stream->previous != NULL)
        stream->previous->next = stream->next;
    else
        stream->peer->receives = stream->next;
    if (stream->next != NULL)
        stream->next->previous = stream->previous;
    transfer->n_receives--;
}

/* RUNNING or FREED: no block of it is here. What has to be remembered goes into a tombstone. */
static void finish(struct transfer *transfer, struct recv_stream *stream)
{
    if (stream->over)
        return;
    stream->over = true;
    bool sealed = stream->destination.state == DESTINATION_RUNNING;
    stream->stats.busy_us = busy_total(&stream->busy, transfer->now_us);
    meter_stream(transfer->meter, stream->peer->recv_link, sealed ? 0 : stream->reason,
                 &stream->stats);
    sl_debug("transfer_recv_ended",
             "key=%" PRIx64 " peer=%s state=%s bytes=%" PRIu64 " pieces=%" PRIu64, stream->key,
             stream->peer->node_id, destination_state_name(stream->destination.state),
             stream->stats.bytes, stream->stats.pieces);
    if (stream->submitted)
        emit(transfer, stream, TRANSFER_EVENT_RECV_ENDED);
    tombstone_add(transfer, stream);
    unlink_stream(transfer, stream);
    stream->hash_next = transfer->dead_receives;
    transfer->dead_receives = stream;
}

void recv_reap(struct transfer *transfer)
{
    while (transfer->dead_receives != NULL) {
        struct recv_stream *stream = transfer->dead_receives;
        transfer->dead_receives = stream->hash_next;
        destination_fini(&stream->destination);
        sl_free(stream);
    }
}

/* ---- actions ---- */

static void reply(struct transfer *transfer, struct peer *peer, enum frame_type type, uint64_t key,
                  uint32_t attempt, enum transfer_reason reason)
{
    struct frame frame = {.type = type, .key = key, .attempt = attempt};
    if (type == FRAME_CANCEL)
        frame.cancel_reason = (uint16_t)reason;
    else if (type == FRAME_CANCELLED)
        frame.quiet = true; /* a destination has no send outstanding */
    (void)peer_send(transfer, peer, &frame);
}

static void send_want(struct transfer *transfer, struct recv_stream *stream)
{
    const struct destination *destination = &stream->destination;
    struct frame frame = {.type = FRAME_WANT,
                          .key = stream->key,
                          .attempt = stream->attempt,
                          .want = {.credit = destination->credit,
                                   .offers_max = transfer->args.limits.offers_per_lane}};
    for (uint32_t c = 0; c < destination->n_classes; c++)
        frame.want.first_block[c] = destination->classes[c].first_block;
    (void)peer_send(transfer, stream->peer, &frame);
}

static void send_grant(struct transfer *transfer, struct recv_stream *stream)
{
    struct frame frame = {.type = FRAME_GRANT,
                          .key = stream->key,
                          .attempt = stream->attempt,
                          .grant = {.credit = stream->destination.credit}};
    (void)peer_send(transfer, stream->peer, &frame);
}

static void give_back(struct transfer *transfer, struct recv_stream *stream)
{
    uint32_t cursor = 0, index;
    struct transfer_block block;
    while (destination_back(&stream->destination, &cursor, &block, &index))
        emit_block(transfer, stream->key, stream->attempt, TRANSFER_EVENT_BLOCK_BACK, index,
                   &block);
}

static void sealed(struct transfer *transfer, struct recv_stream *stream)
{
    stream->stats.busy_us = busy_total(&stream->busy, transfer->now_us);
    struct transfer_event event = {
        .type = TRANSFER_EVENT_SEALED,
        .key = stream->key,
        .attempt = stream->attempt,
        .token = stream->seal.token,
        .token_index = stream->seal.token_index,
        .eos = (stream->seal.flags & FRAME_SEAL_EOS) != 0,
        .note = stream->note,
        .stats = stream->stats,
    };
    transfer_emit(transfer, &event);
}

static void act(struct transfer *transfer, struct recv_stream *stream, uint32_t actions,
                enum transfer_reason reason)
{
    SL_ASSERT((actions & DESTINATION_DO_BUG) == 0);
    struct peer *peer = stream->peer;
    if (actions & DESTINATION_DO_OPENED)
        emit(transfer, stream, TRANSFER_EVENT_OPENED);
    if (actions & DESTINATION_DO_WANT)
        send_want(transfer, stream);
    if (actions & DESTINATION_DO_GRANT)
        send_grant(transfer, stream);
    if (actions & DESTINATION_DO_REFUSE)
        peer_refuse(transfer, peer, stream->key, stream->attempt,
                    stream->reason != 0 ? stream->reason : reason);
    if (actions & DESTINATION_DO_SEALED)
        sealed(transfer, stream);
    if (actions & DESTINATION_DO_SEAL_ACK)
        reply(transfer, peer, FRAME_SEAL_ACK, stream->key, stream->attempt, 0);
    if (actions & DESTINATION_DO_CANCEL && stream->destination.opened)
        reply(transfer, peer, FRAME_CANCEL, stream->key, stream->attempt, stream->reason);
    if (actions & DESTINATION_DO_CANCELLED)
        reply(transfer, peer, FRAME_CANCELLED, stream->key, stream->attempt, 0);
    if (actions & DESTINATION_DO_TELL)
        emit(transfer, stream, TRANSFER_EVENT_FAILED);
    if (actions & DESTINATION_DO_BACK)
        give_back(transfer, stream);
    if (actions & DESTINATION_DO_MISBEHAVED)
        peer_misbehaved(transfer, peer, "message out of order for the destination");
    if (actions & DESTINATION_DO_CLOSE)
        peer_lose(transfer, peer, TRANSFER_LOST, "stream");
}

static bool is_over(enum destination_state state)
{
    return state == DESTINATION_RUNNING || state == DESTINATION_FREED;
}

static bool is_failed(enum destination_state state)
{
    return state == DESTINATION_DRAINING || state == DESTINATION_FREED;
}

/* The state moves before the actions run: what they lead back to sees the new one. An offer's POST and
 * REFUSE are the answer of the callback and are carried out by recv_offer. */
static uint32_t on_event(struct transfer *transfer, struct recv_stream *stream,
                         enum destination_event event, struct destination_facts facts,
                         enum transfer_reason reason)
{
    struct destination *destination = &stream->destination;
    enum destination_state before = destination->state;
    struct destination_step step = destination_next(before, event, facts);
    if (stream->reason == 0 && is_failed(step.next)) {
        stream->reason = reason;
        sl_debug("transfer_recv_failing",
                 "key=%" PRIx64 " peer=%s state=%s event=%u reason=%s posted=%u", stream->key,
                 stream->peer->node_id, destination_state_name(before), event,
                 transfer_reason_name(reason), destination->n_outstanding);
    }
    if (step.next != before)
        stream->state_since_us = transfer->now_us;
    if (before == DESTINATION_PARKED && step.next != DESTINATION_PARKED) {
        stream->peer->n_parked--;
        transfer->n_parked--;
    }
    destination->state = step.next;
    uint32_t actions = step.actions;
    bool is_offer = event == DESTINATION_ON_OFFER || event == DESTINATION_ON_OFFER_BAD;
    act(transfer, stream, is_offer ? actions & ~(uint32_t)DESTINATION_DO_REFUSE : actions, reason);
    if (is_over(destination->state))
        finish(transfer, stream);
    return actions;
}

static uint32_t on_simple(struct transfer *transfer, struct recv_stream *stream,
                          enum destination_event event, enum transfer_reason reason)
{
    return on_event(transfer, stream, event, destination_facts(&stream->destination), reason);
}

/* ---- open ---- */

/* Whether one more open may wait for its Submit. */
static bool may_park(const struct transfer *transfer, const struct peer *peer)
{
    const struct transfer_limits *limits = &transfer->args.limits;
    return peer->n_parked < limits->parked_per_session &&
           transfer->n_parked < limits->parked_per_node &&
           transfer->n_sends + transfer->n_receives < limits->streams_max;
}

static bool open_fits(const struct transfer *transfer, const struct frame *frame,
                      struct shape *shape_out)
{
    bool digests = (frame->flags & FRAME_FLAG_DIGEST) != 0;
    return destination_open_fits(&transfer->shape, &frame->open, transfer->args.block_tokens,
                                 shape_out) &&
           frame->open.transport == transfer->transport->ops->frame_bit &&
           (digests || !transfer->args.verify);
}

static void open_unknown(struct transfer *transfer, struct peer *peer, const struct frame *frame)
{
    struct shape shape;
    if (!open_fits(transfer, frame, &shape)) {
        peer_refuse(transfer, peer, frame->key, frame->attempt, TRANSFER_MISMATCH);
        return;
    }
    if (!may_park(transfer, peer)) {
        peer_refuse(transfer, peer, frame->key, frame->attempt, TRANSFER_FULL);
        return;
    }
    const struct stream_size size = {frame->open.n_blocks, frame->open.n_tokens,
                                     frame->open.first_block, frame->open.prefix_hash};
    struct recv_stream *stream = make_stream(transfer, peer, frame->key, frame->attempt, &size);
    stream->digests = (frame->flags & FRAME_FLAG_DIGEST) != 0;
    if (destination_open(&stream->destination, &shape) != SL_OK)
        SL_ASSERT(false); /* allocates only once promised */
    peer->n_parked++;
    transfer->n_parked++;
    (void)on_simple(transfer, stream, DESTINATION_ON_OPEN, 0);
}

/* Whether the other of Submit and open says what the first one said. */
static bool size_agrees(const struct recv_stream *stream, const struct stream_size *size)
{
    const struct destination *destination = &stream->destination;
    bool agrees = destination->n_blocks == size->n_blocks &&
                  destination->n_tokens == size->n_tokens &&
                  memcmp(stream->prefix_hash, size->prefix_hash, sizeof(stream->prefix_hash)) == 0;
    for (uint32_t c = 0; c < destination->n_classes; c++)
        agrees = agrees && destination->classes[c].sent_from == size->first_block[c];
    return agrees;
}

static bool open_agrees(const struct recv_stream *stream, const struct frame *frame)
{
    const struct stream_size size = {frame->open.n_blocks, frame->open.n_tokens,
                                     frame->open.first_block, frame->open.prefix_hash};
    return stream->attempt == frame->attempt && size_agrees(stream, &size);
}

static void open_known(struct transfer *transfer, struct peer *peer, struct recv_stream *stream,
                       const struct frame *frame)
{
    struct shape shape;
    struct destination *destination = &stream->destination;
    struct destination_facts facts = destination_facts(destination);
    bool first = !destination->opened && !is_failed(destination->state);
    if (stream->peer != peer) { /* not this stream's source: nothing of it is touched */
        peer_refuse(transfer, peer, frame->key, frame->attempt, TRANSFER_MISMATCH);
        peer_misbehaved(transfer, peer, "open of another peer's stream");
        return;
    }
    if (!open_fits(transfer, frame, &shape) || !open_agrees(stream, frame)) {
        destination->opened = true; /* its source knows the key: it is told of the end */
        (void)on_event(transfer, stream, DESTINATION_ON_OPEN_BAD, facts, TRANSFER_MISMATCH);
        return;
    }
    if (first) {
        stream->digests = (frame->flags & FRAME_FLAG_DIGEST) != 0;
        if (destination_open(destination, &shape) != SL_OK) {
            (void)on_event(transfer, stream, DESTINATION_ON_OPEN_BAD, facts, TRANSFER_FULL);
            return;
        }
    }
    (void)on_event(transfer, stream, DESTINATION_ON_OPEN, facts, TRANSFER_UNKNOWN);
}

/* ---- seal ---- */

static bool seal_agrees(const struct recv_stream *stream, const struct frame *frame)
{
    const struct destination *destination = &stream->destination;
    return frame->seal.n_tokens == destination->n_tokens &&
           frame->seal.n_blocks == destination->n_blocks &&
           frame->seal.n_pieces == destination->n_pieces;
}

/* The digests of what landed against the seal's; pieces must all be there. */
static bool digest_agrees(const struct transfer *transfer, const struct recv_stream *stream)
{
    return !transfer->args.verify || !stream->digests ||
           memcmp(stream->digest, stream->seal.digest, sizeof(stream->digest)) == 0;
}

static void on_seal(struct transfer *transfer, struct recv_stream *stream,
                    const struct frame *frame)
{
    struct destination_facts facts = destination_facts(&stream->destination);
    bool landing = stream->destination.state == DESTINATION_LANDING;
    if (landing && !seal_agrees(stream, frame)) {
        facts.all_posted = false; /* a seal of something else: as if pieces were missing */
        (void)on_event(transfer, stream, DESTINATION_ON_SEAL, facts, TRANSFER_MISBEHAVED);
        return;
    }
    if (landing) {
        stream->seal = frame->seal;
        stream->note.n_bytes = frame->data_bytes;
        if (frame->data_bytes > 0)
            memcpy(stream->note.bytes, frame->data, frame->data_bytes);
    }
    if (landing && facts.full && !digest_agrees(transfer, stream)) {
        (void)on_event(transfer, stream, DESTINATION_ON_RECEIVE_FAILED, facts, TRANSFER_CORRUPT);
        return;
    }
    (void)on_event(transfer, stream, DESTINATION_ON_SEAL, facts, TRANSFER_MISBEHAVED);
}

/* ---- messages ---- */

static void message_unknown(struct transfer *transfer, struct peer *peer, const struct frame *frame)
{
    const struct tombstone *stone = tombstone_find(transfer, frame->key);
    enum destination_state state = stone != NULL ? DESTINATION_FREED : DESTINATION_NONE;
    struct destination_facts facts = {.sealed = stone != NULL && stone->sealed &&
                                                stone->peer_incarnation == peer->incarnation};
    enum destination_event event = frame->type == FRAME_OPEN   ? DESTINATION_ON_OPEN
                                   : frame->type == FRAME_SEAL ? DESTINATION_ON_SEAL
                                                               : DESTINATION_ON_PEER_CANCEL;
    uint32_t actions = destination_next(state, event, facts).actions;
    if (frame->type == FRAME_OPEN && stone == NULL) {
        open_unknown(transfer, peer, frame);
        return;
    }
    if (actions & DESTINATION_DO_REFUSE)
        peer_refuse(transfer, peer, frame->key, frame->attempt,
                    stone != NULL ? stone->reason : TRANSFER_UNKNOWN);
    if (actions & DESTINATION_DO_SEAL_ACK)
        reply(transfer, peer, FRAME_SEAL_ACK, frame->key, frame->attempt, 0);
    if (actions & DESTINATION_DO_CANCELLED)
        reply(transfer, peer, FRAME_CANCELLED, frame->key, frame->attempt, 0);
    if (stone == NULL)
        meter_count(transfer->meter, METER_UNKNOWN);
}

void recv_message(struct transfer *transfer, struct peer *peer, const struct frame *frame)
{
    struct recv_stream *stream = recv_find(transfer, frame->key);
    if (frame->lane != 0) {
        peer_misbehaved(transfer, peer, "lane");
        return;
    }
    if (stream == NULL) {
        message_unknown(transfer, peer, frame);
        return;
    }
    if (frame->type == FRAME_OPEN) {
        open_known(transfer, peer, stream, frame);
        return;
    }
    if (stream->peer != peer || stream->attempt != frame->attempt) {
        peer_misbehaved(transfer, peer, "message for another peer's stream");
        return;
    }
    if (frame->type == FRAME_SEAL)
        on_seal(transfer, stream, frame);
    else
        (void)on_simple(transfer, stream, DESTINATION_ON_PEER_CANCEL,
                        (enum transfer_reason)frame->cancel_reason);
}

/* ---- offers ---- */

static enum transfer_reason refuse_offer(struct peer *peer, enum transfer_reason reason)
{
    if (reason == 0)
        reason = TRANSFER_UNKNOWN;
    if (peer != NULL)
        meter_refused(peer->recv_link, reason);
    return reason;
}

static enum transfer_reason offer_unknown(struct transfer *transfer, struct peer *peer,
                                          const struct frame *frame)
{
    const struct tombstone *stone = tombstone_find(transfer, frame->key);
    return refuse_offer(peer, stone != NULL ? stone->reason : TRANSFER_UNKNOWN);
}

static void post(struct transfer *transfer, struct recv_stream *stream, const struct piece *piece,
                 const struct frame_offer *offer, void **to_out, void **op_out)
{
    bool taken;
    uint32_t id = destination_post(&stream->destination, piece, &taken);
    struct transfer_op *op = transfer_op_take(transfer);
    *op = (struct transfer_op){.recv = stream,
                               .peer = stream->peer,
                               .piece = *piece,
                               .block_id = id,
                               .digest = offer->digest,
                               .begun_us = transfer->now_us};
    stream->peer->n_receives++;
    stream->peer->probe.alone = false;
    busy_begin(&stream->busy, transfer->now_us);
    meter_begin(stream->peer->recv_link, transfer->now_us);
    *to_out = transfer_piece_address(transfer, piece, id);
    *op_out = op;
    const struct transfer_block block = {piece->class_index, id};
    if (taken)
        emit_block(transfer, stream->key, stream->attempt, TRANSFER_EVENT_TAKEN, piece->block,
                   &block);
}

static enum transfer_reason offer_to(struct transfer *transfer, struct recv_stream *stream,
                                     const struct frame *frame, size_t length, bool rendezvous,
                                     void **to_out, void **op_out)
{
    struct peer *peer = stream->peer;
    const struct frame_offer *offer = &frame->offer;
    struct piece piece;
    bool digest_missing =
        transfer->args.verify && stream->digests && (offer->flags & FRAME_FLAG_DIGEST) == 0;
    bool fits = rendezvous && !digest_missing && frame->attempt == stream->attempt &&
                destination_offer_fits(&stream->destination, offer, length, &piece);
    uint32_t actions =
        on_simple(transfer, stream, fits ? DESTINATION_ON_OFFER : DESTINATION_ON_OFFER_BAD,
                  fits ? TRANSFER_UNKNOWN : TRANSFER_MISBEHAVED);
    if ((actions & DESTINATION_DO_POST) == 0)
        return refuse_offer(peer, fits ? stream->reason : TRANSFER_MISBEHAVED);
    post(transfer, stream, &piece, offer, to_out, op_out);
    return 0;
}

enum transfer_reason recv_offer(struct transfer *transfer, uint64_t route, const uint8_t *bytes,
                                size_t n_bytes, size_t length, bool rendezvous, void **to_out,
                                void **op_out)
{
    struct peer *peer = peer_by_route(transfer, route);
    struct frame frame;
    if (frame_unpack(bytes, n_bytes, &frame) != SL_OK || frame.lane != 0 ||
        (frame.type != FRAME_OFFER && frame.type != FRAME_PROBE)) {
        peer_misbehaved(transfer, peer, "offer");
        return refuse_offer(peer, TRANSFER_MISBEHAVED);
    }
    bool for_us = frame.incarnation == transfer->args.incarnation;
    if (peer != NULL && frame.type == FRAME_PROBE && for_us)
        session_proven(transfer, peer); /* it may follow our hello at once */
    if (peer == NULL || peer->session != SESSION_UP) {
        meter_count(transfer->meter, METER_UNKNOWN);
        return refuse_offer(peer, TRANSFER_LOST); /* of a session that is over */
    }
    if (!for_us)
        return refuse_offer(peer, TRANSFER_INCARNATION);
    peer->heard_us = transfer->now_us;
    if (frame.type == FRAME_PROBE) {
        enum transfer_reason no =
            probe_offered(transfer, peer, &frame, length, rendezvous, to_out, op_out);
        return no == 0 ? 0 : refuse_offer(peer, no);
    }
    struct recv_stream *stream = recv_find(transfer, frame.key);
    if (stream == NULL)
        return offer_unknown(transfer, peer, &frame);
    if (stream->peer != peer) {
        peer_misbehaved(transfer, peer, "offer for another peer's stream");
        return refuse_offer(peer, TRANSFER_MISBEHAVED);
    }
    enum transfer_reason reason =
        offer_to(transfer, stream, &frame, length, rendezvous, to_out, op_out);
    if (!rendezvous) /* no status reaches the sender of eager data */
        peer_refuse(transfer, peer, frame.key, frame.attempt, reason);
    return reason;
}

/* Tests spoil a block after its bytes landed and before anybody looks at them. */
static void maybe_spoil(uint8_t *bytes, size_t n, uint32_t block)
{
    if (!sl_fault_hit("transfer_spoil", block))
        return;
    for (size_t i = 0; i < n; i++)
        bytes[i] ^= 0x5a;
    sl_warn("transfer_spoilt", "block=%u bytes=%zu", block, n);
}

static enum transfer_reason check_bytes(struct transfer *transfer, struct recv_stream *stream,
                                        const struct transfer_op *op)
{
    void *bytes = transfer_piece_address(transfer, &op->piece, op->block_id);
    maybe_spoil(bytes, op->piece.bytes, op->piece.block);
    if (!transfer->args.verify || !stream->digests)
        return 0;
    uint64_t digest = digest_bytes(bytes, op->piece.bytes, stream->key);
    if (digest != op->digest)
        return TRANSFER_CORRUPT;
    digest_add(stream->digest, op->piece.number, digest);
    return 0;
}

static void count_landed(struct transfer *transfer, struct recv_stream *stream,
                         const struct transfer_op *op, bool ok)
{
    busy_end(&stream->busy, transfer->now_us);
    meter_end(transfer->meter, op->peer->recv_link, transfer->now_us, op->begun_us, op->piece.bytes,
              ok);
    if (!ok)
        return;
    stream->stats.bytes += op->piece.bytes;
    stream->stats.pieces++;
}

void recv_completed(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason)
{
    struct recv_stream *stream = op->recv;
    struct transfer_op done = *op;
    transfer_op_give(transfer, op);
    (void)sl_fault_hit("transfer_land", done.piece.block); /* delay, hold */
    if (reason == 0)
        reason = check_bytes(transfer, stream, &done);
    done.peer->n_receives--;
    count_landed(transfer, stream, &done, reason == 0);
    bool complete;
    (void)destination_landed(&stream->destination, &done.piece, reason == 0, &complete);
    bool receiving = stream->destination.state == DESTINATION_LANDING ||
                     stream->destination.state == DESTINATION_HELD;
    const struct transfer_block block = {done.piece.class_index, done.block_id};
    if (complete && receiving)
        emit_block(transfer, stream->key, stream->attempt, TRANSFER_EVENT_LANDED, done.piece.block,
                   &block);
    struct destination_facts facts = destination_facts(&stream->destination);
    bool held_full = stream->destination.state == DESTINATION_HELD && facts.full;
    if (reason == 0 && held_full && !digest_agrees(transfer, stream))
        reason = TRANSFER_CORRUPT;
    (void)on_event(transfer, stream,
                   reason == 0 ? DESTINATION_ON_LANDED : DESTINATION_ON_RECEIVE_FAILED, facts,
                   reason);
}

/* ---- commands ---- */

static void tell_unborn(struct transfer *transfer, const struct command *command,
                        enum transfer_reason reason)
{
    struct transfer_event event = {.type = TRANSFER_EVENT_FAILED,
                                   .key = command->key,
                                   .attempt = command->open.attempt,
                                   .reason = reason};
    transfer_emit(transfer, &event);
    event.type = TRANSFER_EVENT_RECV_ENDED;
    transfer_emit(transfer, &event);
}

static void expect_known(struct transfer *transfer, struct recv_stream *stream,
                         const struct command *command)
{
    if (stream->submitted) {
        transfer_refuse_key(transfer, command, stream->attempt);
        return;
    }
    const struct stream_size size = {command->open.n_blocks, command->open.n_tokens,
                                     command->open.first_block, command->open.prefix_hash};
    bool agrees = stream->peer->incarnation == command->open.peer.incarnation &&
                  stream->attempt == command->open.attempt && size_agrees(stream, &size);
    stream->submitted = true;
    (void)on_simple(transfer, stream, agrees ? DESTINATION_ON_SUBMIT : DESTINATION_ON_SUBMIT_BAD,
                    TRANSFER_MISMATCH);
}

static void command_expect(struct transfer *transfer, const struct command *command)
{
    struct recv_stream *known = recv_find(transfer, command->key);
    if (known != NULL) {
        expect_known(transfer, known, command);
        return;
    }
    const struct tombstone *stone = tombstone_find(transfer, command->key);
    if (stone != NULL) {
        tell_unborn(transfer, command, stone->reason);
        return;
    }
    const struct command_peer *from = &command->open.peer;
    struct peer *peer =
        peer_get(transfer, from->node_id, from->incarnation, from->address, from->address_bytes);
    if (peer == NULL ||
        transfer->n_sends + transfer->n_receives >= transfer->args.limits.streams_max) {
        sl_warn("transfer_expect_refused", "key=%" PRIx64, command->key);
        tell_unborn(transfer, command, TRANSFER_FULL);
        return;
    }
    const struct stream_size size = {command->open.n_blocks, command->open.n_tokens,
                                     command->open.first_block, command->open.prefix_hash};
    struct recv_stream *stream =
        make_stream(transfer, peer, command->key, command->open.attempt, &size);
    stream->submitted = true;
    (void)on_simple(transfer, stream, DESTINATION_ON_SUBMIT, 0);
}

/* Ids into the ring; those beyond it, or beyond what the stream lacks, go back. */
static void give_ids(struct transfer *transfer, struct recv_stream *stream,
                     const struct command *command)
{
    for (uint32_t i = 0; i < command->blocks.n; i++) {
        if (!destination_give(&stream->destination, &command->blocks.list[i]))
            emit_block(transfer, stream->key, stream->attempt, TRANSFER_EVENT_BLOCK_BACK,
                       DESTINATION_NO_BLOCK, &command->blocks.list[i]);
    }
}

static void return_ids(struct transfer *transfer, const struct command *command)
{
    for (uint32_t i = 0; i < command->blocks.n; i++)
        emit_block(transfer, command->key, 0, TRANSFER_EVENT_BLOCK_BACK, DESTINATION_NO_BLOCK,
                   &command->blocks.list[i]);
}

static void command_admit(struct transfer *transfer, struct recv_stream *stream,
                          const struct command *command)
{
    if (stream->destination.state == DESTINATION_DRAINING) {
        return_ids(transfer, command);
        return;
    }
    SL_ASSERT(stream->destination.state == DESTINATION_QUEUED);
    if (destination_promise(&stream->destination, command->blocks.first_blocks) != SL_OK) {
        sl_warn("transfer_admit_failed", "key=%" PRIx64 " error=\"%s\"", stream->key, sl_error());
        return_ids(transfer, command);
        (void)on_simple(transfer, stream, DESTINATION_ON_DEADLINE, TRANSFER_FULL);
        return;
    }
    give_ids(transfer, stream, command);
    stream->landing_since_us = transfer->now_us;
    (void)on_simple(transfer, stream, DESTINATION_ON_PROMISE, 0);
}

static void command_refill(struct transfer *transfer, struct recv_stream *stream,
                           const struct command *command)
{
    if (stream->destination.state != DESTINATION_LANDING) {
        return_ids(transfer, command);
        return;
    }
    give_ids(transfer, stream, command);
    (void)on_simple(transfer, stream, DESTINATION_ON_REFILL, 0);
}

static void command_cancel(struct transfer *transfer, struct recv_stream *stream,
                           enum transfer_reason reason)
{
    struct destination_facts facts = destination_facts(&stream->destination);
    facts.refusing = reason != TRANSFER_CANCELLED;
    (void)on_event(transfer, stream, DESTINATION_ON_CANCEL, facts, reason);
}

void recv_command(struct transfer *transfer, const struct command *command)
{
    if (command->type == COMMAND_RECV_EXPECT) {
        command_expect(transfer, command);
        return;
    }
    struct recv_stream *stream = recv_find(transfer, command->key);
    bool has_ids = command->type == COMMAND_RECV_ADMIT || command->type == COMMAND_RECV_REFILL;
    if (stream == NULL) {
        if (has_ids)
            return_ids(transfer, command); /* the stream ended while they were on their way */
        return;
    }
    if (command->type == COMMAND_RECV_ADMIT)
        command_admit(transfer, stream, command);
    else if (command->type == COMMAND_RECV_REFILL)
        command_refill(transfer, stream, command);
    else
        command_cancel(transfer, stream, command->reason);
}

void recv_lost(struct transfer *transfer, struct recv_stream *stream, enum transfer_reason reason)
{
    /* Not opened: it never was part of the session; its source may come with the next one. */
    if (!stream->over && stream->destination.opened)
        (void)on_simple(transfer, stream, DESTINATION_ON_LOST, reason);
}

/* ---- time ---- */

void recv_sweep(struct transfer *transfer, struct recv_stream *stream)
{
    const struct transfer_limits *limits = &transfer->args.limits;
    if (stream->over)
        return;
    uint64_t since = stream->state_since_us, patience = UINT64_MAX;
    enum transfer_reason reason = TRANSFER_DEADLINE;
    switch ((int)stream->destination.state) {
    case DESTINATION_PARKED:
        patience = limits->parked_us;
        reason = TRANSFER_UNKNOWN;
        break;
    case DESTINATION_LANDING:
        since = stream->landing_since_us;
        patience = limits->landing_us;
        break;
    case DESTINATION_HELD:
        patience = limits->seal_us;
        break;
    case DESTINATION_DRAINING:
        patience = limits->drain_us;
        break;
    default:
        break; /* QUEUED: the scheduler's */
    }
    if (transfer->now_us - since < patience)
        return;
    if (stream->destination.state == DESTINATION_DRAINING) {
        meter_count(transfer->meter, METER_FORCED_CLOSES);
        sl_warn("transfer_forced_close", "peer=%s key=%" PRIx64 " posted=%u", stream->peer->node_id,
                stream->key, stream->destination.n_outstanding);
        stream->state_since_us = transfer->now_us;
    }
    (void)on_simple(transfer, stream, DESTINATION_ON_DEADLINE, reason);
}
