/* A message to ourselves through shared memory, which shows whether our ring is still read. */
#ifndef SL_TRANSFER_CANARY_H
#define SL_TRANSFER_CANARY_H

#include <stdint.h>

struct canary;

/* address: UCX's, of the worker to which the ring belongs. NULL: no shared memory leads there, so there is no
 * ring that could break. */
struct canary *canary_create(const void *address);
/* Before the worker goes. NULL is fine. */
void canary_destroy(struct canary *canary);
/* An active message of this id, the number its header. One at a time: those that have not left wait. */
void canary_send(struct canary *canary, unsigned am_id, uint64_t number);
/* While one is out. */
void canary_progress(struct canary *canary);

#endif
