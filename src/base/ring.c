/* Bounded ring for one producer and one consumer.
 *
 *   slot = count & mask          head: items taken so far (the consumer's)
 *   [ . . x x x x . . ]          tail: items put so far (the producer's)
 *         ^head   ^tail          0 <= tail - head <= capacity, counts wrap at 2^32
 *
 * Each side writes its own count with release and reads the other's with acquire: what lies in a slot
 * is visible before its count is, and a slot is free before it is written again. Each side keeps the
 * last value it saw of the other's count on its own cache line and asks again only when that says
 * full or empty. Waking the other side is the user's affair. */
#include "base/ring.h"

#include "base/mem.h"

#include <stdatomic.h>
#include <string.h>

#define CACHE_LINE   64
#define CAPACITY_MAX (1u << 30)

struct sl_ring {
    unsigned char *items;
    size_t item_bytes;
    uint32_t capacity; /* power of two */
    _Alignas(CACHE_LINE) _Atomic uint32_t tail;
    uint32_t head_seen; /* the producer's */
    _Alignas(CACHE_LINE) _Atomic uint32_t head;
    uint32_t tail_seen; /* the consumer's */
};

sl_status sl_ring_create(uint32_t capacity, size_t item_bytes, struct sl_ring **ring_out)
{
    if (capacity == 0 || capacity > CAPACITY_MAX || item_bytes == 0)
        return sl_fail(SL_INVALID, "ring of %u items of %zu bytes; want 1..%u of at least one byte",
                       capacity, item_bytes, CAPACITY_MAX);
    uint32_t rounded = 1;
    while (rounded < capacity)
        rounded *= 2;
    size_t bytes = (sizeof(struct sl_ring) + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
    struct sl_ring *ring = sl_try_aligned(CACHE_LINE, bytes);
    unsigned char *items = sl_try_zalloc(rounded, item_bytes);
    if (ring == NULL || items == NULL) {
        sl_free(ring);
        sl_free(items);
        return sl_fail(SL_NO_MEMORY, "ring of %u items of %zu bytes", rounded, item_bytes);
    }
    ring->items = items;
    ring->item_bytes = item_bytes;
    ring->capacity = rounded;
    *ring_out = ring;
    return SL_OK;
}

void sl_ring_destroy(struct sl_ring *ring)
{
    if (ring == NULL)
        return;
    sl_free(ring->items);
    sl_free(ring);
}

static unsigned char *slot(const struct sl_ring *ring, uint32_t count)
{
    return ring->items + (size_t)(count & (ring->capacity - 1)) * ring->item_bytes;
}

bool sl_ring_push(struct sl_ring *ring, const void *item)
{
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (tail - ring->head_seen == ring->capacity) {
        ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire);
        if (tail - ring->head_seen == ring->capacity)
            return false;
    }
    memcpy(slot(ring, tail), item, ring->item_bytes);
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
    return true;
}

bool sl_ring_pop(struct sl_ring *ring, void *item_out)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (head == ring->tail_seen) {
        ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
        if (head == ring->tail_seen)
            return false;
    }
    memcpy(item_out, slot(ring, head), ring->item_bytes);
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    return true;
}

uint32_t sl_ring_count(const struct sl_ring *ring)
{
    /* Head first: tail only grows, so the difference is never negative; but both may move between
     * the loads, so it can pass the capacity. */
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    uint32_t count = tail - head;
    return count > ring->capacity ? ring->capacity : count;
}
