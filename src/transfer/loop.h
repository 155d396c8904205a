/* An in-process network for tests and simulation, with a seeded schedule of what can go wrong. Several
 * transfers share one; each names it in transfer_args.loop. Time is sl_now_us(), so a fake clock makes
 * every run repeatable. Thread-safe, so that threaded transfers can use it under TSan. */
#ifndef SL_TRANSFER_LOOP_H
#define SL_TRANSFER_LOOP_H

#include "transfer/transfer.h"

/* All zero: everything happens at once, in order, and sends complete when they have landed. */
struct transfer_loop_args {
    uint64_t seed;
    uint64_t delay_us;      /* a message takes 0..delay_us */
    uint64_t land_us;       /* a posted receive takes 0..land_us to land */
    uint64_t purge_us;      /* what a forced close ends calls back within 0..purge_us */
    uint32_t local_percent; /* of sends complete when posted, not when landed */
    uint32_t late_percent;  /* of messages of a closed connection are delivered all the same */
    uint32_t deaf_percent;  /* of peers are not told that a connection was closed */
};

sl_status transfer_loop_create(const struct transfer_loop_args *args,
                               struct transfer_loop **loop_out) SL_MUST_USE;
/* Every transfer that uses it is destroyed before. */
void transfer_loop_destroy(struct transfer_loop *loop);
/* Breaks every connection between two nodes (by incarnation), both ways: a link that failed. Messages
 * on their way may be lost. */
void transfer_loop_cut(struct transfer_loop *loop, uint64_t a, uint64_t b);
/* The process died: nothing reaches it or comes from it any more, and its peers learn of it. */
void transfer_loop_kill(struct transfer_loop *loop, uint64_t incarnation);
/* Microseconds until something is due at some node; UINT64_MAX: nothing is on its way. */
uint64_t transfer_loop_due_us(struct transfer_loop *loop);
/* For fuzzing: a control message, or an offer when `offer`, from one node to another on the latest
 * connection between them; nothing if there is none. The bytes need not be a frame. */
void transfer_loop_inject(struct transfer_loop *loop, uint64_t from, uint64_t to, bool offer,
                          const void *bytes, size_t n_bytes, size_t n_data);

#endif
