/* Two arrays that change places: producers fill one under a short lock, the consumer reads the other
 * without any. A lock-free queue of many producers was not worth its subtlety: the lock is held for
 * a copy of some ten bytes. */
#include "coordinator/inbox.h"

#include "base/mem.h"

#include <string.h>

sl_status inbox_init(struct inbox *inbox, uint32_t capacity, size_t item_bytes,
                     const struct sl_wake *wake)
{
    memset(inbox, 0, sizeof(*inbox));
    pthread_mutex_init(&inbox->mutex, NULL);
    inbox->capacity = capacity;
    inbox->item_bytes = item_bytes;
    inbox->wake = wake;
    inbox->items = sl_try_zalloc(capacity, item_bytes);
    inbox->taken = sl_try_zalloc(capacity, item_bytes);
    if (inbox->items == NULL || inbox->taken == NULL) {
        inbox_fini(inbox);
        return sl_fail(SL_NO_MEMORY, "inbox of %u items", capacity);
    }
    return SL_OK;
}

void inbox_fini(struct inbox *inbox)
{
    if (inbox->item_bytes == 0)
        return;
    pthread_mutex_destroy(&inbox->mutex);
    sl_free(inbox->items);
    sl_free(inbox->taken);
    memset(inbox, 0, sizeof(*inbox));
}

bool inbox_push(struct inbox *inbox, const void *item)
{
    pthread_mutex_lock(&inbox->mutex);
    bool fits = inbox->n_items < inbox->capacity;
    bool first = inbox->n_items == 0;
    if (fits)
        memcpy(inbox->items + inbox->n_items++ * inbox->item_bytes, item, inbox->item_bytes);
    pthread_mutex_unlock(&inbox->mutex);
    if (fits && first)
        sl_wake_signal(inbox->wake);
    return fits;
}

const void *inbox_take(struct inbox *inbox, uint32_t *n_items_out)
{
    pthread_mutex_lock(&inbox->mutex);
    uint8_t *full = inbox->items;
    inbox->items = inbox->taken;
    inbox->taken = full;
    *n_items_out = inbox->n_items;
    inbox->n_items = 0;
    pthread_mutex_unlock(&inbox->mutex);
    return full;
}
