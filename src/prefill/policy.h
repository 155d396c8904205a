/* What a prefill node computes next. */
#ifndef SL_PREFILL_POLICY_H
#define SL_PREFILL_POLICY_H

#include "worker/policy.h"

/* Shortest remaining prompt first, with ageing; takes prompts to be sent elsewhere, and local
 * requests (of which the coordinator gives it those of one token). */
extern const struct worker_policy prefill_policy;

#endif
