/* Inbox: a bounded queue into the coordinator's loop, many producers, one consumer that takes all at
 * once. Items of one size, copied. */
#ifndef SL_COORDINATOR_INBOX_H
#define SL_COORDINATOR_INBOX_H

#include "base/status.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct inbox {
    size_t item_bytes;
    uint32_t capacity;
    const struct sl_wake *wake;
    pthread_mutex_t mutex; /* covers items and n_items */
    uint8_t *items;        /* being filled: [capacity] */
    uint32_t n_items;
    uint8_t *taken; /* the consumer's: [capacity], being read */
};

/* wake: signalled by pushes onto an empty inbox; borrowed. SL_NO_MEMORY. */
sl_status inbox_init(struct inbox *inbox, uint32_t capacity, size_t item_bytes,
                     const struct sl_wake *wake) SL_MUST_USE;
void inbox_fini(struct inbox *inbox);
/* False when full. */
bool inbox_push(struct inbox *inbox, const void *item);
/* All there is, valid until the next call. */
const void *inbox_take(struct inbox *inbox, uint32_t *n_items_out);

#endif
