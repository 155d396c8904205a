/* Shortest remaining first: the mean time to first token is least when short prompts overtake long
 * ones, and a chunk boundary is a point where they can. A long prompt would starve under a stream of
 * short ones, so what waits gains AGEING_TOKENS for each millisecond since it last computed: a prompt
 * of 8,192 tokens that waits has become as urgent as an empty one after about two seconds. Pure. */
#include "prefill/policy.h"

#define AGEING_TOKENS 4 /* per millisecond */

static int64_t key(const struct worker_candidate *candidate)
{
    int64_t waited_ms = (int64_t)(candidate->waited_us / 1000);
    return (int64_t)candidate->remaining - waited_ms * AGEING_TOKENS;
}

static void plan(const struct worker_candidate *candidates, uint32_t n, uint32_t chunk_tokens,
                 struct worker_plan *plan_out)
{
    plan_out->n_shares = 0;
    (void)worker_plan_decoding(candidates, n, plan_out);
    worker_plan_chunks(candidates, n, chunk_tokens, key, plan_out);
}

static bool takes(Sluice__Mode mode)
{
    return mode == SLUICE__MODE__MODE_PREFILL || mode == SLUICE__MODE__MODE_LOCAL;
}

const struct worker_policy prefill_policy = {
    .name = "prefill",
    .role = SLUICE__ROLE__ROLE_PREFILL,
    .plan = plan,
    .takes = takes,
};
