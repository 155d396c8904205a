/* Bounded ring, single producer and single consumer, items of one size, copied in and out.
 * Lock-free; capacity is rounded up to a power of two. Wake-ups are the users' affair
 * (sl_wake in thread.h). */
#ifndef SL_BASE_RING_H
#define SL_BASE_RING_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sl_ring;

sl_status sl_ring_create(uint32_t capacity, size_t item_bytes,
                         struct sl_ring **ring_out) SL_MUST_USE;
void sl_ring_destroy(struct sl_ring *ring);
/* False when full; nothing is written. Producer thread only. */
bool sl_ring_push(struct sl_ring *ring, const void *item);
/* False when empty. Consumer thread only. */
bool sl_ring_pop(struct sl_ring *ring, void *item_out);
/* Items now in it: exact on either of the two threads for its own side, else a snapshot. */
uint32_t sl_ring_count(const struct sl_ring *ring);

#endif
