/* Named fault points, for tests: a place in the code that can be made to fail, to wait or to be
 * counted. Inactive points cost one relaxed load.
 *
 *   SLUICE_FAULT (option --fault; tests only) = "name[@arg]=action[:value][,…]"
 *     fail:N     the Nth hit from now fails (sl_fault_hit returns true), later ones do not
 *     always     every hit fails
 *     delay:US   every hit sleeps so long, in real time
 *     hold:FILE  every hit waits until FILE exists (at most 60 s)
 *   arg selects one index of a point that has many, e.g. engine_layer@3=hold:/tmp/go
 *
 * Torture: sl_fault_torture(n) makes the nth hit of *any* point that can fail (sl_fault_hit) fail;
 * returns whether it fired. */
#ifndef SL_BASE_FAULT_H
#define SL_BASE_FAULT_H

#include "base/status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

extern _Atomic bool sl_fault_active;

bool sl_fault_hit_slow(const char *name, int64_t arg);

/* True if the point shall fail now. arg -1 where a point has no index. */
static inline bool sl_fault_hit(const char *name, int64_t arg)
{
    return __builtin_expect(atomic_load_explicit(&sl_fault_active, memory_order_relaxed), 0) &&
           sl_fault_hit_slow(name, arg);
}

/* Adds the points of a specification as above; SL_INVALID names the part that is wrong. */
sl_status sl_fault_configure(const char *specification) SL_MUST_USE;
void sl_fault_clear(void);
/* The nth hit (1-based) of any point fails; 0 ends the mode. */
void sl_fault_torture(uint64_t nth);
/* Whether the armed torture fault has fired since sl_fault_torture(). */
bool sl_fault_fired(void);

#endif
