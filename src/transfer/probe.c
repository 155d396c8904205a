/* The probe of a link.
 *
 *   source                                        destination
 *   probe(0 of n, bytes) ──── with the bytes ───► posted to the buffer, landed: small, not timed
 *   the next one ◄──────────── probe(0, timed) ── answered with all that was timed so far
 *   …
 *   probe(n-1) ─────────────────────────────────► landed: both ends note timed bytes over busy time
 *
 * A session comes up because a stream asks for it, so the probe has to give way: a message leaves only
 * while no stream of the peer is sending, one at a time, and the next one when the last has landed.
 * What a stream then waits for is one message at most, and if it is admitted at once the first, which is
 * small. A probe that finds no quiet moments enough within PROBE_US is given up, and the link's limit is
 * what its traffic shows (meter.c). It is timed by the destination, from post to landing, since a send
 * that completed has not landed; a message that had a stream's piece beside it is not timed. One at a
 * time does not fill a link over which a round trip is long: the limit is a lower bound of it.
 *
 * The destination has the last word, as with pieces: bytes land only in its buffer, which nobody
 * reads, or are refused by the callback's status. It takes PROBE_MESSAGES_MAX messages in a session, of
 * PROBE_MESSAGE_BYTES_MAX bytes, whatever the source has been told to send. Peers that do not take
 * probes, or do not know of them, do not say so in their hello, and are sent none. All peers share the
 * buffer: its bytes mean nothing. Runs on the transfer thread. */
#include "transfer/probe.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "transfer/internal.h"

#include <inttypes.h>
#include <string.h>

#define PARTS      4 /* timed messages, as long as they are not larger than the largest */
#define WARM_BYTES ((uint64_t)64 << 10)
#define PROBE_US   (10 * SL_SECOND_US)

_Static_assert(TRANSFER_PROBE_BYTES_MAX / PROBE_MESSAGE_BYTES_MAX + 1 == PROBE_MESSAGES_MAX,
               "a probe of the largest size is one that a destination takes");

sl_status probe_init(struct transfer *transfer)
{
    uint64_t bytes = transfer->args.probe_bytes;
    if (bytes > TRANSFER_PROBE_BYTES_MAX)
        return sl_fail(SL_INVALID, "transfer: probe of %" PRIu64 " bytes; at most %u", bytes,
                       TRANSFER_PROBE_BYTES_MAX);
    if (bytes == 0)
        return SL_OK;
    /* The first half is sent, the second takes what comes. */
    transfer->probe_buffer = sl_try_zalloc(2, PROBE_MESSAGE_BYTES_MAX);
    if (transfer->probe_buffer == NULL)
        return sl_fail(SL_NO_MEMORY, "transfer: buffer of the probe");
    memset(transfer->probe_buffer, 1, 2 * PROBE_MESSAGE_BYTES_MAX); /* no page fault is timed */
    return SL_OK;
}

void probe_fini(struct transfer *transfer)
{
    sl_free(transfer->probe_buffer);
}

/* ---- source ---- */

/* The first is small: it is the one that a stream that has just opened may have to wait for. */
static uint32_t message_bytes(const struct transfer *transfer, uint32_t number)
{
    uint64_t bytes = (transfer->args.probe_bytes + PARTS - 1) / PARTS;
    uint64_t most = number == 0 ? WARM_BYTES : PROBE_MESSAGE_BYTES_MAX;
    return (uint32_t)(bytes < most ? bytes : most);
}

static uint32_t message_count(const struct transfer *transfer)
{
    uint32_t bytes = message_bytes(transfer, 1);
    return 1 + (uint32_t)((transfer->args.probe_bytes + bytes - 1) / bytes);
}

static void finish(struct peer *peer, const char *end, uint64_t bytes, uint64_t busy_us)
{
    peer->probe.over = true;
    sl_info("transfer_probe", "peer=%s end=%s messages=%u timed_bytes=%" PRIu64 " busy_us=%" PRIu64,
            peer->node_id, end, peer->probe.n_sent, bytes, busy_us);
}

static bool is_due(const struct transfer *transfer, const struct peer *peer)
{
    const struct probe *probe = &peer->probe;
    bool going_to_send = peer->sends != NULL;
    return transfer->probe_buffer != NULL && peer->session == SESSION_UP && peer->takes_probes &&
           !probe->over && (probe->until_us != 0 || going_to_send);
}

/* Whether neither a stream nor a message before this one uses the link. */
static bool is_quiet(const struct peer *peer)
{
    for (const struct send_stream *stream = peer->sends; stream != NULL; stream = stream->next) {
        if (stream->source.state == SOURCE_SENDING)
            return false;
    }
    return peer->n_sends == 0 && !peer->suspect && !peer->mismatch;
}

static void send_next(struct transfer *transfer, struct peer *peer)
{
    struct probe *probe = &peer->probe;
    struct frame frame = {
        .type = FRAME_PROBE,
        .key = peer->number,
        .incarnation = peer->incarnation,
        .probe = {.number = probe->n_sent,
                  .count = message_count(transfer),
                  .bytes = message_bytes(transfer, probe->n_sent)},
    };
    struct transfer_op *op = transfer_op_take(transfer);
    *op = (struct transfer_op){.peer = peer, .piece = {.bytes = frame.probe.bytes}};
    uint8_t header[FRAME_BYTES_MAX];
    size_t n = frame_pack(&frame, header);
    probe->n_sent++;
    probe->waiting = true;
    peer->n_sends++;
    peer->bytes_in_flight += frame.probe.bytes;
    sl_status status = SL_PEER;
    if (!sl_fault_hit("transfer_probe", frame.probe.number))
        status = transfer->transport->ops->send_data(peer->connection, header, n,
                                                     transfer->probe_buffer, frame.probe.bytes, op);
    if (status != SL_OK)
        probe_sent(transfer, op, TRANSFER_LOST);
}

void probe_pump(struct transfer *transfer, struct peer *peer)
{
    struct probe *probe = &peer->probe;
    if (!is_due(transfer, peer))
        return;
    if (probe->until_us == 0)
        probe->until_us = transfer->now_us + PROBE_US;
    if (transfer->now_us >= probe->until_us)
        finish(peer, transfer_reason_name(TRANSFER_DEADLINE), 0, 0);
    else if (!probe->waiting && is_quiet(peer))
        send_next(transfer, peer);
}

void probe_sent(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason)
{
    struct peer *peer = op->peer;
    peer->n_sends--;
    peer->bytes_in_flight -= op->piece.bytes;
    transfer_op_give(transfer, op);
    if (reason != 0 && !peer->probe.over)
        finish(peer, transfer_reason_name(reason), 0, 0);
    (void)send_pump(transfer, peer); /* the window of streams may have opened */
    probe_pump(transfer, peer);
}

void probe_answered(struct transfer *transfer, struct peer *peer, const struct frame *frame)
{
    struct probe *probe = &peer->probe;
    const struct frame_probe *answer = &frame->probe;
    uint64_t timed_max = (uint64_t)answer->number * answer->bytes; /* all but the first */
    if (probe->over)
        return; /* late */
    bool fits = probe->waiting && frame->key == peer->number &&
                answer->number == probe->n_sent - 1 && answer->count == message_count(transfer) &&
                answer->bytes == message_bytes(transfer, answer->number) &&
                answer->timed_bytes <= timed_max;
    if (!fits) {
        peer_misbehaved(transfer, peer, "answer to a probe");
        return;
    }
    probe->waiting = false;
    if (probe->n_sent < answer->count) {
        probe_pump(transfer, peer);
        return;
    }
    meter_probe(peer->send_link, answer->timed_bytes, answer->busy_us);
    finish(peer, "done", answer->timed_bytes, answer->busy_us);
}

/* ---- destination ---- */

enum transfer_reason probe_offered(struct transfer *transfer, struct peer *peer,
                                   const struct frame *frame, size_t length, bool rendezvous,
                                   void **to_out, void **op_out)
{
    struct probe *probe = &peer->probe;
    const struct frame_probe *message = &frame->probe;
    if (transfer->probe_buffer == NULL)
        return TRANSFER_UNKNOWN;
    if (probe->n_taken == PROBE_MESSAGES_MAX || length > PROBE_MESSAGE_BYTES_MAX)
        return TRANSFER_FULL;
    bool fits = rendezvous && frame->key == peer->peer_number && !probe->receiving && length > 0 &&
                message->bytes == length && message->number == probe->n_taken &&
                message->number < message->count && message->timed_bytes == 0 &&
                message->busy_us == 0;
    if (!fits) {
        peer_misbehaved(transfer, peer, "probe");
        return TRANSFER_MISBEHAVED;
    }
    struct transfer_op *op = transfer_op_take(transfer);
    *op = (struct transfer_op){.peer = peer, .piece = {.bytes = length}};
    transfer->now_us = sl_now_us(); /* the turn may have begun long before */
    probe->n_taken++;
    probe->receiving = true;
    probe->alone = peer->n_receives == 0;
    probe->message = *message;
    probe->begun_us = transfer->now_us;
    peer->n_receives++;
    *to_out = transfer->probe_buffer + PROBE_MESSAGE_BYTES_MAX;
    *op_out = op;
    return 0;
}

void probe_landed(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason)
{
    struct peer *peer = op->peer;
    struct probe *probe = &peer->probe;
    transfer_op_give(transfer, op);
    probe->receiving = false;
    peer->n_receives--;
    if (reason != 0)
        return;
    if (probe->alone && probe->message.number > 0) {
        probe->timed_bytes += probe->message.bytes;
        probe->busy_us += transfer->now_us - probe->begun_us;
    }
    if (probe->message.number + 1 == probe->message.count)
        meter_probe(peer->recv_link, probe->timed_bytes, probe->busy_us);
    struct frame frame = {.type = FRAME_PROBE, .key = peer->peer_number, .probe = probe->message};
    frame.probe.timed_bytes = probe->timed_bytes;
    frame.probe.busy_us = probe->busy_us;
    (void)peer_send(transfer, peer, &frame);
}
