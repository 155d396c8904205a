/* Peers and their sessions.
 *
 * A session pairs two one-way connections. Each side numbers every connection it makes (the header key
 * of its hello) and repeats in `answers` the number it last saw from the other side:
 *
 *   A: hello(a, answers 0) ─────────►  B: sees a, connects
 *   A is up: sees b answer a ◄─────── hello(b, answers a)
 *   A: hello(a, answers b) ─────────►  B is up; opens may follow at once
 *
 * Both may begin at the same time; the rules are the same. Numbers are never used again, so a hello
 * that was read late (of a connection that its maker has closed) answers a number that is no longer
 * ours, and does nothing but make us answer it. A hello with a new number on a session that is up says
 * that the peer has given that session up: so do we.
 *
 *   IDLE ──connect──► CONNECTING ──answered──► UP ──lost, dead, 3 misbehaviours, deadline──► CLOSING
 *     ▲                    └───────────────────────────────────────────────────────────────────►│
 *     └──────────────────────── every callback of the connection has run ◄──────────────────────┘
 *
 * A number's low bits count the connections that its maker has made to this peer: where the transport
 * pairs connections by count (ucx.c), the side that has made fewer catches up with the other.
 *
 * Streams are bound to the session they began in and are lost with it; those that come while it closes
 * wait for the next one. Connections are made only when a stream or a peer's hello asks for it, one at a
 * time per peer, with a back-off that doubles. A hello carries the sender's address, since an `open` may
 * come before the Submit that would name it (docs/decisions). Runs on the transfer thread only. */
#include "transfer/internal.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/min.h"

#include <inttypes.h>
#include <string.h>

#define COUNT_BITS   16 /* low bits of a connection's number: how many its maker has made so far */
#define COUNT_MASK   0xffffu
#define CATCH_UP_MAX 256

static struct peer *peer_by_incarnation(struct transfer *transfer, uint64_t incarnation)
{
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        if (peer->incarnation == incarnation)
            return peer;
    }
    return NULL;
}

struct peer *peer_by_route(struct transfer *transfer, uint64_t route)
{
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        bool open = peer->session == SESSION_CONNECTING || peer->session == SESSION_UP;
        if (open && peer->peer_number != 0 && peer->peer_route == route)
            return peer;
    }
    return NULL;
}

static bool peer_is_unused(const struct peer *peer)
{
    return peer->session == SESSION_IDLE && peer->sends == NULL && peer->receives == NULL &&
           !peer->answer_wanted;
}

static void peer_free(struct peer *peer)
{
    sl_free(peer->address);
    sl_free(peer);
}

/* Makes room in the table by dropping the first peer that nobody uses (old incarnations, mostly). */
static void forget_one(struct transfer *transfer)
{
    for (struct peer **at = &transfer->peers; *at != NULL; at = &(*at)->next) {
        struct peer *peer = *at;
        if (!peer_is_unused(peer))
            continue;
        *at = peer->next;
        transfer->n_peers--;
        peer_free(peer);
        return;
    }
}

struct peer *peer_get(struct transfer *transfer, const char *node_id, uint64_t incarnation,
                      const void *address, size_t address_bytes)
{
    struct peer *peer = peer_by_incarnation(transfer, incarnation);
    if (peer != NULL) {
        if (strcmp(peer->node_id, node_id) == 0)
            return peer;
        (void)sl_fail(SL_INVALID, "incarnation %" PRIx64 " is node %s, not %s", incarnation,
                      peer->node_id, node_id);
        return NULL;
    }
    if (transfer->n_peers == PEERS_MAX)
        forget_one(transfer);
    void *copy = sl_try_zalloc(1, address_bytes);
    if (transfer->n_peers == PEERS_MAX || copy == NULL) {
        sl_free(copy);
        (void)sl_fail(SL_EXHAUSTED, "no room for peer %s beside %u", node_id, transfer->n_peers);
        return NULL;
    }
    memcpy(copy, address, address_bytes);
    peer = sl_zalloc(1, sizeof(*peer));
    memcpy(peer->node_id, node_id, strnlen(node_id, sizeof(peer->node_id) - 1));
    peer->incarnation = incarnation;
    peer->address = copy;
    peer->address_bytes = address_bytes;
    peer->backoff_us = transfer->args.limits.reconnect_min_us;
    peer->send_link = meter_link(transfer->meter, peer->node_id, true);
    peer->recv_link = meter_link(transfer->meter, peer->node_id, false);
    peer->next = transfer->peers;
    transfer->peers = peer;
    transfer->n_peers++;
    return peer;
}

/* ---- sending ---- */

/* Whatever the state: hello and refuse leave before the session is up. */
static bool send_frame(struct transfer *transfer, struct peer *peer, struct frame *frame,
                       const void *data, size_t data_bytes)
{
    if (peer->connection == NULL || peer->session == SESSION_CLOSING)
        return false;
    uint8_t bytes[FRAME_BYTES_MAX];
    frame->incarnation = peer->incarnation;
    size_t n = frame_pack(frame, bytes);
    sl_trace("transfer_frame_out", "peer=%s type=%s key=%" PRIx64, peer->node_id,
             frame_type_name(frame->type), frame->key);
    return transfer->transport->ops->send_control(peer->connection, bytes, n, data, data_bytes) ==
           SL_OK;
}

bool peer_send(struct transfer *transfer, struct peer *peer, struct frame *frame)
{
    return peer->session == SESSION_UP && send_frame(transfer, peer, frame, NULL, 0);
}

bool peer_send_note(struct transfer *transfer, struct peer *peer, struct frame *frame,
                    const struct transfer_note *note)
{
    return peer->session == SESSION_UP &&
           send_frame(transfer, peer, frame, note->bytes, note->n_bytes);
}

void peer_refuse(struct transfer *transfer, struct peer *peer, uint64_t key, uint32_t attempt,
                 enum transfer_reason reason)
{
    struct frame frame = {.type = FRAME_REFUSE,
                          .key = key,
                          .attempt = attempt,
                          .refuse = {.reason = (uint16_t)reason, .piece = FRAME_PIECE_STREAM}};
    meter_refused(peer->recv_link, reason);
    (void)send_frame(transfer, peer, &frame, NULL, 0);
}

static void send_hello(struct transfer *transfer, struct peer *peer)
{
    const struct transfer_args *args = &transfer->args;
    struct frame frame = {.type = FRAME_HELLO, .key = peer->number};
    struct frame_hello *hello = &frame.hello;
    memcpy(hello->node_id, transfer->node_id, sizeof(hello->node_id));
    hello->incarnation = args->incarnation;
    memcpy(hello->identity, args->identity, sizeof(hello->identity));
    memcpy(hello->layout, args->layout, sizeof(hello->layout));
    hello->block_tokens = args->block_tokens;
    hello->n_classes = (uint16_t)args->n_classes;
    hello->block_bytes = shape_block_bytes(&transfer->shape);
    hello->classes_hash = shape_hash(&transfer->shape);
    hello->transports = transfer->transport->ops->frame_bit |
                        (transfer->probe_buffer != NULL ? FRAME_TAKES_PROBES : 0);
    hello->offers_per_lane = (uint16_t)args->limits.offers_per_lane;
    hello->offers_per_session = (uint16_t)args->limits.offers_per_session;
    hello->answers = peer->peer_number;
    const void *address;
    size_t address_bytes;
    transfer->transport->ops->address(transfer->transport, &address, &address_bytes);
    if (send_frame(transfer, peer, &frame, address, address_bytes) && peer->peer_number != 0) {
        peer->answered = true;
        peer->answer_wanted = false;
    }
}

/* ---- the session's life ---- */

/* How many connections the peer has made beyond what we have; 0: it is not ahead. */
static uint32_t peer_ahead(const struct peer *peer)
{
    uint16_t ahead = (uint16_t)((peer->peer_number & COUNT_MASK) - peer->made);
    return peer->peer_number != 0 && ahead <= CATCH_UP_MAX ? ahead : 0;
}

static void connect_peer(struct transfer *transfer, struct peer *peer)
{
    struct transport *transport = transfer->transport;
    peer->retry_us = transfer->now_us + peer->backoff_us;
    peer->backoff_us *= 2;
    if (peer->backoff_us > transfer->args.limits.reconnect_max_us)
        peer->backoff_us = transfer->args.limits.reconnect_max_us;
    for (struct send_stream *stream = peer->sends; stream != NULL; stream = stream->next)
        stream->bound = true;
    struct transport_target target = {
        .address = peer->address,
        .address_bytes = peer->address_bytes,
        .user = peer,
        .route = peer->peer_number != 0 ? peer->peer_route : 0,
        .tries = peer_ahead(peer),
    };
    uint32_t made;
    sl_status status = transport->ops->connect(transport, &target, &made, &peer->connection);
    peer->made += made;
    if (status != SL_OK) {
        sl_warn("transfer_connect_failed", "peer=%s error=\"%s\"", peer->node_id, sl_error());
        peer->session = SESSION_CONNECTING; /* so that the loss is one like any other */
        peer_lose(transfer, peer, TRANSFER_LOST, "connect");
        return;
    }
    /* Never used again: the incarnation is random and the count grows. */
    uint64_t unique = transfer->args.incarnation + ++transfer->connections * 0x9E3779B97F4A7C15ull;
    peer->number = unique << COUNT_BITS | (peer->made & COUNT_MASK);
    peer->session = SESSION_CONNECTING;
    peer->session_since_us = transfer->now_us;
    peer->heard_us = transfer->now_us;
    peer->misbehaviours = 0;
    peer->answered = false;
    peer->suspect = false;
    peer->probe = (struct probe){0};
    if (peer->peer_number != 0)
        transport->ops->bind(peer->connection, peer->peer_route);
    send_hello(transfer, peer);
}

static void session_up(struct transfer *transfer, struct peer *peer)
{
    peer->session = SESSION_UP;
    peer->backoff_us = transfer->args.limits.reconnect_min_us;
    peer->beat_us = transfer->now_us;
    meter_count(transfer->meter, METER_SESSIONS);
    sl_info("transfer_session_up", "peer=%s peer_incarnation=%" PRIx64 " transport=%s",
            peer->node_id, peer->incarnation, transfer->transport->ops->name);
    send_session_up(transfer, peer);
    probe_pump(transfer, peer);
}

void session_proven(struct transfer *transfer, struct peer *peer)
{
    /* It was up, so it has our answer: its own last hello was overtaken. */
    if (peer->session == SESSION_CONNECTING && peer->answered && !peer->mismatch)
        session_up(transfer, peer);
}

void peer_lose(struct transfer *transfer, struct peer *peer, enum transfer_reason reason,
               const char *why)
{
    if (peer->session == SESSION_IDLE || peer->session == SESSION_CLOSING)
        return;
    sl_info("transfer_session_lost", "peer=%s reason=%s why=\"%s\" sends=%u receives=%u",
            peer->node_id, transfer_reason_name(reason), why, peer->n_sends, peer->n_receives);
    meter_count(transfer->meter, METER_SESSIONS_LOST);
    peer->session = SESSION_CLOSING;
    peer->peer_number = 0;
    peer->mismatch = false;
    if (peer->connection != NULL)
        transfer->transport->ops->close(peer->connection);
    for (struct send_stream *stream = peer->sends, *next; stream != NULL; stream = next) {
        next = stream->next;
        if (stream->bound)
            send_lost(transfer, stream, reason);
    }
    for (struct recv_stream *stream = peer->receives, *next; stream != NULL; stream = next) {
        next = stream->next;
        recv_lost(transfer, stream, reason);
    }
    if (peer->connection == NULL)
        peer->session = SESSION_IDLE;
}

void session_closed(struct peer *peer)
{
    SL_ASSERT(peer->session == SESSION_CLOSING && peer->n_sends == 0 && peer->n_receives == 0);
    peer->connection = NULL;
    peer->session = SESSION_IDLE;
}

void peer_misbehaved(struct transfer *transfer, struct peer *peer, const char *what)
{
    meter_count(transfer->meter, METER_MISBEHAVED);
    if (peer == NULL)
        return;
    peer->misbehaviours++;
    sl_warn("transfer_misbehaviour", "peer=%s what=\"%s\" count=%u", peer->node_id, what,
            peer->misbehaviours);
    if (peer->misbehaviours >= MISBEHAVIOURS_MAX)
        peer_lose(transfer, peer, TRANSFER_MISBEHAVED, what);
}

/* ---- hello ---- */

static const char *mismatch_of(const struct transfer *transfer, const struct frame_hello *hello)
{
    const struct transfer_args *args = &transfer->args;
    if (memcmp(hello->identity, args->identity, sizeof(args->identity)) != 0)
        return "identity";
    if (memcmp(hello->layout, args->layout, sizeof(args->layout)) != 0)
        return "layout";
    if (hello->block_tokens != args->block_tokens || hello->n_classes != args->n_classes ||
        hello->block_bytes != shape_block_bytes(&transfer->shape) ||
        hello->classes_hash != shape_hash(&transfer->shape))
        return "geometry";
    if ((hello->transports & transfer->transport->ops->frame_bit) == 0)
        return "transports";
    return NULL;
}

static void log_hellos(const struct transfer *transfer, const struct frame_hello *hello,
                       const char *what)
{
    const uint8_t *own = transfer->args.identity, *other = hello->identity;
    sl_warn(
        "transfer_mismatch",
        "peer=%s field=%s own_identity=%02x%02x%02x%02x peer_identity=%02x%02x%02x%02x "
        "own_block_tokens=%u peer_block_tokens=%u own_block_bytes=%zu peer_block_bytes=%" PRIu64,
        hello->node_id, what, own[0], own[1], own[2], own[3], other[0], other[1], other[2],
        other[3], transfer->args.block_tokens, hello->block_tokens,
        shape_block_bytes(&transfer->shape), hello->block_bytes);
}

static void note_hello(struct transfer *transfer, struct peer *peer, uint64_t route,
                       const struct frame *frame)
{
    const struct transfer_limits *limits = &transfer->args.limits;
    peer->peer_number = frame->key;
    peer->peer_route = route;
    peer->answered = false;
    peer->answer_wanted = true;
    peer->takes_probes = (frame->hello.transports & FRAME_TAKES_PROBES) != 0;
    peer->offers_per_lane = sl_min_u32(limits->offers_per_lane, frame->hello.offers_per_lane);
    peer->offers_per_session =
        sl_min_u32(limits->offers_per_session, frame->hello.offers_per_session);
    if (peer->connection != NULL && peer->session == SESSION_CONNECTING)
        transfer->transport->ops->bind(peer->connection, route);
}

/* The two cannot exchange blocks. The session stays as it is until its time is over, so that the peer
 * surely reads the refusal; streams of both sides fail now. */
static void hello_mismatch(struct transfer *transfer, struct peer *peer)
{
    if (peer->mismatch)
        return;
    peer->mismatch = true;
    peer_refuse(transfer, peer, 0, 0, TRANSFER_MISMATCH);
    for (struct send_stream *stream = peer->sends, *next; stream != NULL; stream = next) {
        next = stream->next;
        send_refused(transfer, stream, TRANSFER_MISMATCH);
    }
}

/* The transport could not pair our connection with the peer's, and the peer has made more: ours is given
 * up, with nothing lost (no stream has begun in it), and made again as the pair of the peer's. */
static void catch_up(struct transfer *transfer, struct peer *peer)
{
    for (struct send_stream *stream = peer->sends; stream != NULL; stream = stream->next)
        stream->bound = stream->open_sent;
    sl_debug("transfer_catch_up", "peer=%s made=%u ahead=%u", peer->node_id, peer->made,
             peer_ahead(peer));
    peer->session = SESSION_CLOSING;
    peer->answer_wanted = true;
    peer->retry_us = transfer->now_us;
    transfer->transport->ops->close(peer->connection);
}

static void hello_accepted(struct transfer *transfer, struct peer *peer, uint64_t route,
                           const struct frame *frame)
{
    if (peer->session == SESSION_UP && peer->peer_number != frame->key)
        peer_lose(transfer, peer, TRANSFER_LOST, "the peer has made a new connection");
    if (peer->session == SESSION_UP)
        return; /* repeated */
    if (peer->peer_number != frame->key)
        note_hello(transfer, peer, route, frame);
    peer->heard_us = transfer->now_us;
    if (peer->session == SESSION_IDLE)
        transfer->swept_us = 0; /* the sweep connects, outside of the transport's callback */
    if (peer->session != SESSION_CONNECTING)
        return;
    if (!transfer->transport->ops->paired(peer->connection) && peer_ahead(peer) > 0) {
        catch_up(transfer, peer);
        return;
    }
    if (!peer->answered)
        send_hello(transfer, peer);
    const char *mismatch = mismatch_of(transfer, &frame->hello);
    if (mismatch != NULL) {
        log_hellos(transfer, &frame->hello, mismatch);
        hello_mismatch(transfer, peer);
    } else if (frame->hello.answers == peer->number) {
        session_up(transfer, peer);
    }
}

static void on_hello(struct transfer *transfer, uint64_t route, const struct frame *frame,
                     const void *data, size_t data_bytes)
{
    const struct frame_hello *hello = &frame->hello;
    bool valid = frame->key != 0 && data_bytes > 0 && data_bytes <= TRANSFER_ADDRESS_BYTES_MAX &&
                 hello->incarnation != 0 && hello->offers_per_lane > 0 &&
                 hello->offers_per_session > 0;
    if (!valid) {
        peer_misbehaved(transfer, peer_by_route(transfer, route), "hello");
        return;
    }
    if (frame->incarnation != transfer->args.incarnation) {
        meter_count(transfer->meter, METER_UNKNOWN); /* for a process that is gone */
        return;
    }
    struct peer *peer = peer_get(transfer, hello->node_id, hello->incarnation, data, data_bytes);
    if (peer == NULL) {
        sl_warn("transfer_hello_refused", "error=\"%s\"", sl_error());
        meter_count(transfer->meter, METER_UNKNOWN);
        return;
    }
    hello_accepted(transfer, peer, route, frame);
}

/* ---- what comes in ---- */

static void on_refuse_session(struct transfer *transfer, struct peer *peer,
                              enum transfer_reason reason)
{
    sl_warn("transfer_session_refused", "peer=%s reason=%s", peer->node_id,
            transfer_reason_name(reason));
    for (struct send_stream *stream = peer->sends, *next; stream != NULL; stream = next) {
        next = stream->next;
        send_refused(transfer, stream, reason);
    }
    peer->mismatch = peer->mismatch || reason == TRANSFER_MISMATCH;
}

/* A cancel is for whichever half knows the key; nobody: answered, so that the peer may forget. */
static void on_cancel(struct transfer *transfer, struct peer *peer, const struct frame *frame)
{
    if (send_find(transfer, frame->key) != NULL)
        send_message(transfer, peer, frame);
    else
        recv_message(transfer, peer, frame);
}

static void dispatch(struct transfer *transfer, struct peer *peer, const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_BEAT:
        if (frame->beat.incarnation != peer->incarnation)
            peer_misbehaved(transfer, peer, "beat of another incarnation");
        break;
    case FRAME_OPEN:
    case FRAME_SEAL:
        recv_message(transfer, peer, frame);
        break;
    case FRAME_REFUSE:
        if (frame->key == 0) {
            on_refuse_session(transfer, peer, (enum transfer_reason)frame->refuse.reason);
            break;
        }
        send_message(transfer, peer, frame);
        break;
    case FRAME_WANT:
    case FRAME_GRANT:
    case FRAME_SEAL_ACK:
        send_message(transfer, peer, frame);
        break;
    case FRAME_CANCEL:
        on_cancel(transfer, peer, frame);
        break;
    case FRAME_CANCELLED:
        break; /* only one-sided schemes wait for it: there it ends a quarantine */
    case FRAME_PROBE:
        probe_answered(transfer, peer, frame);
        break;
    case FRAME_HELLO:
    case FRAME_OFFER:
    case FRAME_TYPE_COUNT:
        peer_misbehaved(transfer, peer, "an offer without data");
        break;
    }
}

/* A beat of a session that is over here: its sender believes it alive, since nobody told it (it was
 * stopped, or its transport is silent about closes). A hello of ours tells it within one beat. */
static void note_stranger(struct transfer *transfer, const struct frame *frame)
{
    if (frame->type != FRAME_BEAT || frame->incarnation != transfer->args.incarnation)
        return;
    struct peer *peer = peer_by_incarnation(transfer, frame->beat.incarnation);
    if (peer != NULL && peer->session == SESSION_IDLE)
        peer->answer_wanted = true;
}

void session_control(struct transfer *transfer, uint64_t route, const uint8_t *bytes,
                     size_t n_bytes, const void *data, size_t data_bytes)
{
    struct frame frame;
    if (frame_unpack(bytes, n_bytes, &frame) != SL_OK) {
        sl_warn("transfer_bad_frame", "error=\"%s\"", sl_error());
        peer_misbehaved(transfer, peer_by_route(transfer, route), "frame");
        return;
    }
    if (frame.type == FRAME_HELLO) {
        on_hello(transfer, route, &frame, data, data_bytes);
        return;
    }
    struct peer *peer = peer_by_route(transfer, route);
    if (peer == NULL || frame.incarnation != transfer->args.incarnation) {
        meter_count(transfer->meter, METER_UNKNOWN); /* of a session that is over */
        note_stranger(transfer, &frame);
        return;
    }
    if (data_bytes > (frame.type == FRAME_SEAL ? TRANSFER_NOTE_BYTES_MAX : 0)) {
        peer_misbehaved(transfer, peer, "data with a control message");
        return;
    }
    frame.data = data;
    frame.data_bytes = (uint32_t)data_bytes;
    peer->heard_us = transfer->now_us;
    if (frame.type != FRAME_REFUSE)
        session_proven(transfer, peer);
    dispatch(transfer, peer, &frame);
}

/* ---- time ---- */

static void send_beat(struct transfer *transfer, struct peer *peer)
{
    struct frame frame = {
        .type = FRAME_BEAT,
        .beat = {.incarnation = transfer->args.incarnation, .step = atomic_load(&transfer->step)}};
    peer->beat_us = transfer->now_us;
    if (!sl_fault_hit("transfer_beat", -1))
        (void)peer_send(transfer, peer, &frame);
}

static bool wants_session(const struct peer *peer)
{
    if (peer->answer_wanted)
        return true;
    for (const struct send_stream *stream = peer->sends; stream != NULL; stream = stream->next) {
        if (stream->source.state == SOURCE_OPEN && !stream->bound)
            return true;
    }
    return false;
}

static void sweep_peer(struct transfer *transfer, struct peer *peer)
{
    const struct transfer_limits *limits = &transfer->args.limits;
    uint64_t now = transfer->now_us;
    switch (peer->session) {
    case SESSION_IDLE:
        if (now >= peer->retry_us && wants_session(peer))
            connect_peer(transfer, peer);
        break;
    case SESSION_CONNECTING:
        if (now - peer->session_since_us >= limits->dead_us)
            peer_lose(transfer, peer, TRANSFER_LOST, "no answer to hello");
        break;
    case SESSION_UP:
        peer->suspect = now - peer->heard_us >= limits->suspect_us;
        if (now - peer->heard_us >= limits->dead_us) {
            peer_lose(transfer, peer, TRANSFER_LOST, "silent");
            meter_count(transfer->meter, METER_FORCED_CLOSES);
        } else if (now - peer->beat_us >= limits->beat_us) {
            send_beat(transfer, peer);
        }
        probe_pump(transfer, peer);
        break;
    case SESSION_CLOSING:
        break;
    }
}

void session_sweep(struct transfer *transfer)
{
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        for (struct send_stream *stream = peer->sends, *next; stream != NULL; stream = next) {
            next = stream->next;
            send_sweep(transfer, stream);
        }
        for (struct recv_stream *stream = peer->receives, *next; stream != NULL; stream = next) {
            next = stream->next;
            recv_sweep(transfer, stream);
        }
        sweep_peer(transfer, peer);
    }
}

void session_destroy_all(struct transfer *transfer)
{
    while (transfer->peers != NULL) {
        struct peer *peer = transfer->peers;
        transfer->peers = peer->next;
        peer_free(peer);
    }
}
