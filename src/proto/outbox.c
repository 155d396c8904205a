/* Queues and windows of one stream; see the header.
 *
 *   push ─► urgent ──┐
 *   push ─► submit ──┼─► pop ─► wire        counted: sent - consumed + bytes <= window
 *   push ─► bulk   ──┘
 *
 * Invariants: consumed <= sent; announced <= freed <= received <= announced + window;
 * a queue's bytes never pass the bound. The order within a class never changes: a counted item that
 * lacks window holds back what is behind it in its own class and every lower one, since a lower class
 * would eat the window that the higher one waits for. Announcing at a quarter of the window leaves a
 * sender three quarters at the worst, twelve messages of the largest size, so it never stalls on a
 * receiver that frees. */
#include "proto/outbox.h"

#include <inttypes.h>

#define ANNOUNCE_PART 4 /* of the window */

void outbox_init(struct outbox *outbox, uint64_t queue_bytes_max, uint64_t window_bytes)
{
    *outbox = (struct outbox){.queue_bytes_max = queue_bytes_max, .window_bytes = window_bytes};
}

sl_status outbox_push(struct outbox *outbox, enum rpc_class class, struct outbox_item *chain)
{
    struct outbox_queue *queue = &outbox->queues[class];
    struct outbox_item *last = chain;
    uint64_t bytes = 0;
    for (struct outbox_item *item = chain; item != NULL; item = item->next) {
        bytes += item->bytes + OUTBOX_ITEM_OVERHEAD;
        last = item;
    }
    if (bytes > outbox->queue_bytes_max - queue->bytes)
        return sl_fail(SL_EXHAUSTED,
                       "send queue %d holds %" PRIu64 " bytes; %" PRIu64 " more pass %" PRIu64,
                       (int)class, queue->bytes, bytes, outbox->queue_bytes_max);
    if (queue->head == NULL)
        queue->head = chain;
    else
        queue->tail->next = chain;
    queue->tail = last;
    queue->bytes += bytes;
    return SL_OK;
}

static struct outbox_item *take(struct outbox_queue *queue)
{
    struct outbox_item *item = queue->head;
    queue->head = item->next;
    if (queue->head == NULL)
        queue->tail = NULL;
    queue->bytes -= item->bytes + OUTBOX_ITEM_OVERHEAD;
    item->next = NULL;
    return item;
}

struct outbox_item *outbox_pop(struct outbox *outbox)
{
    for (int class = 0; class < RPC_CLASS_COUNT; class ++) {
        struct outbox_queue *queue = &outbox->queues[class];
        if (queue->head == NULL)
            continue;
        if (!queue->head->counted)
            return take(queue);
        if (outbox->sent - outbox->consumed + queue->head->bytes > outbox->window_bytes)
            return NULL;
        outbox->sent += queue->head->bytes;
        return take(queue);
    }
    return NULL;
}

struct outbox_item *outbox_discard(struct outbox *outbox)
{
    for (int class = 0; class < RPC_CLASS_COUNT; class ++) {
        if (outbox->queues[class].head != NULL)
            return take(&outbox->queues[class]);
    }
    return NULL;
}

bool outbox_empty(const struct outbox *outbox)
{
    for (int class = 0; class < RPC_CLASS_COUNT; class ++) {
        if (outbox->queues[class].head != NULL)
            return false;
    }
    return true;
}

sl_status outbox_peer_consumed(struct outbox *outbox, uint64_t consumed)
{
    if (consumed > outbox->sent)
        return sl_fail(SL_CORRUPT, "window.consumed_bytes %" PRIu64 "; only %" PRIu64 " were sent",
                       consumed, outbox->sent);
    if (consumed > outbox->consumed)
        outbox->consumed = consumed;
    return SL_OK;
}

sl_status outbox_received(struct outbox *outbox, uint32_t bytes)
{
    uint64_t open = outbox->received - outbox->announced + bytes;
    if (open > outbox->window_bytes)
        return sl_fail(SL_CORRUPT,
                       "%" PRIu64 " bytes of submits and events at once; the window is %" PRIu64,
                       open, outbox->window_bytes);
    outbox->received += bytes;
    return SL_OK;
}

void outbox_freed(struct outbox *outbox, uint32_t bytes)
{
    SL_ASSERT(bytes <= outbox->received - outbox->freed);
    outbox->freed += bytes;
}

bool outbox_announce(struct outbox *outbox, uint64_t *consumed_out)
{
    if (outbox->freed - outbox->announced < outbox->window_bytes / ANNOUNCE_PART)
        return false;
    outbox->announced = outbox->freed;
    *consumed_out = outbox->freed;
    return true;
}
