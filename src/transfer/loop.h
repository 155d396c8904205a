/* An in-process network for tests and simulation, with a seeded schedule of what can go wrong. Several
 * transfers share one; each names it in transfer_args.loop. Time is sl_now_us(), so a fake clock makes
 * every run repeatable. Thread-safe, so that threaded transfers can use it under TSan. */
#ifndef SL_TRANSFER_LOOP_H
#define SL_TRANSFER_LOOP_H

#include "transfer/transfer.h"

struct transfer_loop_args {
    uint64_t seed;
    uint64_t delay_us;      /* a message takes 0..delay_us */
    uint64_t land_us;       /* a posted receive takes 0..land_us to land */
    uint32_t local_percent; /* of sends complete when posted, not when landed */
    uint32_t late_percent;  /* of messages of a closed connection are still delivered */
    uint32_t deaf_percent;  /* of peers are not told that a connection was closed */
    uint64_t purge_us;      /* a forced close calls back its receives within this time */
};

/* SL_NO_MEMORY. */
sl_status transfer_loop_create(const struct transfer_loop_args *args,
                               struct transfer_loop **loop_out) SL_MUST_USE;
/* Every transfer that uses it is destroyed before. */
void transfer_loop_destroy(struct transfer_loop *loop);
/* Breaks every connection between two nodes (by incarnation), both ways: a link that failed. */
void transfer_loop_cut(struct transfer_loop *loop, uint64_t a, uint64_t b);
/* Nothing reaches the node any more and its peers learn of it: the process died. */
void transfer_loop_kill(struct transfer_loop *loop, uint64_t incarnation);
/* Microseconds until something is due anywhere; UINT64_MAX: nothing. */
uint64_t transfer_loop_due_us(struct transfer_loop *loop);

#endif
