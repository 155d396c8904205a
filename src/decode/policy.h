/* What a decode node computes next. */
#ifndef SL_DECODE_POLICY_H
#define SL_DECODE_POLICY_H

#include "worker/policy.h"

/* Every decoding sequence in every step, chunks of local prompts in what is left of the budget; takes
 * requests that land here, and local ones. */
extern const struct worker_policy decode_policy;

#endif
