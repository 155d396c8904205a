/* Which process of which machine a peer is, so that its end can be told for sure by those beside it. */
#ifndef SL_TRANSFER_PROCESS_H
#define SL_TRANSFER_PROCESS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROCESS_BYTES 40 /* packed: magic u32, pid u32, started u64, pids u64, boot 16 B */

struct process {
    uint32_t pid;
    uint64_t started; /* clock ticks after the boot: a pid that is used again differs in it */
    uint64_t pids;    /* the namespace in which the pid counts */
    uint8_t boot[16]; /* of the machine, since it was started; all zero: not known */
};

/* The calling process. What it cannot find out stays zero, and then nobody sees its end. */
void process_self(struct process *process_out);
void process_pack(const struct process *process, uint8_t bytes[PROCESS_BYTES]);
/* Foreign bytes. SL_INVALID names what is wrong; n may be more than PROCESS_BYTES. */
sl_status process_unpack(const void *bytes, size_t n, struct process *process_out) SL_MUST_USE;
/* Of one machine, and in one namespace of pids. */
bool process_is_beside(const struct process *self, const struct process *process);
/* True only if it is certain that the process will not execute anything more: one beside `self`, and
 * gone, a zombie, or replaced by another one of its pid. */
bool process_is_gone(const struct process *self, const struct process *process);

#endif
